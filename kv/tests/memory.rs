//! Memory and disk that the store takes, each measured in a process of its own: what the engine leaves to be freed is
//! kept for the whole process, and so is what an allocator keeps.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use cinnabar_daemon::Allocator;
use cinnabar_kv::limits::INSTALL_MEMORY_BYTES_MAX;
use cinnabar_kv::local::{Local, LocalOptions};
use cinnabar_kv::log::{LogEntry, LogPoint};
use cinnabar_kv::store::{Engine, SledEngine};
use cinnabar_kv_api::{ClientId, Command as Entry, Key, Op, StoreId, Write};

/// As the processes that run the store.
#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

const CHILD: &str = "CINNABAR_TEST_MEMORY_CHILD";
const MIB: u64 = 1024 * 1024;

/// In the child: what the parent handed on. In the parent: runs the test again in a process of its own.
fn child(test: &str, hand_on: impl FnOnce() -> PathBuf) -> Option<PathBuf> {
    if let Some(handed) = std::env::var_os(CHILD) {
        return Some(handed.into());
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    let output = child.args(["--exact", "--nocapture", test]).env(CHILD, hand_on()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    println!("{text}");
    None
}

/// A line of this process's status, in bytes: `VmRSS` now, `VmHWM` at its highest.
fn memory(name: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Makes the highest what it is now, and gives it.
fn begin() -> u64 {
    fs::write("/proc/self/clear_refs", "5").unwrap();
    memory("VmHWM")
}

/// Bytes that look random and are the same in every run.
fn scrambled(n: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

const VALUE_BYTES: usize = 1024;

/// Records of the state that is installed: STATE_MIB MiB of values, 224 unless told.
fn records() -> u64 {
    let mib = std::env::var("STATE_MIB").map_or(224, |mib| mib.parse::<u64>().expect("STATE_MIB is a number of MiB"));
    mib * MIB / VALUE_BYTES as u64
}

/// A snapshot file of some 3 % more than its values.
fn snapshot_file(path: &Path) {
    let options = LocalOptions { cache_bytes: 0, ..LocalOptions::default() };
    let local = Local::open(options).unwrap();
    let mut last = LogPoint::default();
    let mut apply = |command: Entry| {
        let (payload, index) = (command.to_payload(), last.index + 1);
        last = LogPoint { index, term: 1, head: last.head.next(index, 1, &payload) };
        local.apply(&[LogEntry { point: last, payload }]).unwrap();
    };
    apply(Entry::Genesis { cluster: "acme".parse().unwrap(), store_id: StoreId([7; 16]) });
    let keys: Vec<u64> = (0..records()).collect();
    for (n, keys) in (1..).zip(keys.chunks(512)) {
        let put = |n: &u64| Op::Put {
            key: Key::new(format!("operator/{n:024}").into_bytes()).unwrap(),
            value: scrambled(*n, VALUE_BYTES).into(),
        };
        apply(Entry::Write(Write {
            client: ClientId([1; 16]),
            sequence: n,
            answered_below: n,
            conditions: Vec::new(),
            ops: keys.iter().map(put).collect(),
        }));
    }
    local.open_dump(|_| ()).unwrap().0.write(path, None).unwrap();
}

#[test]
fn installing_a_snapshot_takes_little_memory() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("state.snap");
    let made = || {
        snapshot_file(&file);
        file.clone()
    };
    let Some(file) = child("installing_a_snapshot_takes_little_memory", made) else { return };
    let local = Local::open(LocalOptions { dir: Some(dir.path().to_owned()), ..LocalOptions::default() }).unwrap();
    let idle = begin();
    let header = local.install(&file).unwrap();
    let more = memory("VmHWM") - idle;
    let bytes = fs::metadata(&file).unwrap().len();
    println!("{} MiB installed: {} MiB above {} MiB", bytes / MIB, more / MIB, idle / MIB);
    let records = records();
    assert_eq!((local.point().records, header.records), (records, records));
    let read = local.get(format!("operator/{:024}", records / 2).as_bytes()).unwrap().record.unwrap();
    assert_eq!(read.value, scrambled(records / 2, VALUE_BYTES));
    assert!(more <= INSTALL_MEMORY_BYTES_MAX, "{} MiB above {} MiB", more / MIB, idle / MIB);
}

/// Items of one batch and batches that write each key once: 24 MiB.
const ITEMS: u64 = 3072;
const BATCHES: u64 = 26;
const ITEM_BYTES: usize = 300;
const OVERWRITES: u64 = 6;
/// What the engine may take while it writes them all again; with nothing freed it took 967 and 261 MiB.
const OVERWRITE_MEMORY_BYTES_MAX: u64 = 160 * MIB;
const OVERWRITE_DISK_BYTES_MAX: u64 = 140 * MIB;

#[test]
fn what_is_written_again_and_again_neither_stays_in_memory_nor_on_disk() {
    let test = "what_is_written_again_and_again_neither_stays_in_memory_nor_on_disk";
    let Some(_) = child(test, PathBuf::new) else { return };
    let dir = tempfile::tempdir().unwrap();
    let engine: Arc<dyn Engine> = Arc::new(SledEngine::open(&dir.path().join("engine"), 16 * MIB).unwrap());
    let idle = begin();
    for round in 0..=OVERWRITES {
        for batch in 0..BATCHES {
            let item = |n: u64| {
                let key = (batch * ITEMS + n).to_be_bytes().to_vec();
                (key, Some(scrambled(round * ITEMS * BATCHES + batch * ITEMS + n, ITEM_BYTES)))
            };
            engine.commit((0..ITEMS).map(item).collect()).unwrap();
            if batch % 8 == 7 {
                engine.make_durable().unwrap();
            }
        }
    }
    let (more, disk) = (memory("VmHWM") - idle, engine.disk_bytes());
    println!("{} MiB above {} MiB, {} MiB on disk", more / MIB, idle / MIB, disk / MIB);
    assert!(more <= OVERWRITE_MEMORY_BYTES_MAX && disk <= OVERWRITE_DISK_BYTES_MAX, "{more} {disk}");
}
