//! What the fuzzers begin with: one sound input of each kind at least, made by the code that reads them. The example
//! `seed_corpus` writes them down; the regression test gives them to the bodies.

use std::sync::Arc;

use bytes::Bytes;
use cinnabar_kv::local::{Local, LocalOptions};
use cinnabar_kv::log::{LogEntry, LogPoint};
use cinnabar_kv_api::{ClientId, Command, Condition, Entry, Frame, Key, Op, SignedCheckpoint, StoreId, Write};

use crate::bodies;

const CONFIG: &str = r#"cluster = "demo"
listen = "127.0.0.1:7410"
data_dir = "data"
socket = "run/kv.sock"
admin_listen = "127.0.0.1:7411"
cache_bytes = "512MiB"
[tls]
ca = "ca.pem"
cert = "node.pem"
key = "node.key"
[log]
format = "json"
filter = "info,sled=warn"
"#;

const COMMANDS: &str = "*2\r\n$3\r\nGET\r\n$3\r\nkey\r\nPING\r\n*2\r\n$12\r\nCINNABAR.GET\r\n$1\r\nk\r\n*4\r\n$4\r\nSCAN\r\n$1\r\n0\r\n\
    $5\r\nMATCH\r\n$2\r\n**\r\n*2\r\n$4\r\nMGET\r\n$0\r\n\r\nGET a b\r\n";

fn payloads() -> Vec<Bytes> {
    let key = |name: &str| Key::new(name.as_bytes().to_vec()).expect("a short name");
    let write = |sequence, conditions, ops| {
        Command::Write(Write { client: ClientId([7; 16]), sequence, answered_below: 1, conditions, ops }).to_payload()
    };
    let put = |name, length| Op::Put { key: key(name), value: vec![b'v'; length].into() };
    vec![
        Bytes::from_static(&[Entry::BLANK]),
        Command::Genesis { cluster: "demo".parse().expect("a name"), store_id: StoreId([9; 16]) }.to_payload(),
        write(1, vec![], vec![put("operator/a", 10), put("operator/b", 9_000)]),
        write(2, vec![Condition { key: key("operator/a"), mod_index: 3 }], vec![Op::Delete { key: key("operator/a") }]),
        write(2, vec![], vec![put("operator/c", 1)]),
        Command::AllocateNode.to_payload(),
    ]
}

fn log_file() -> Vec<u8> {
    let mut out = vec![0];
    let mut last = LogPoint::default();
    for payload in payloads() {
        last = bodies::record(&mut out, &last, 1, last.index, &payload);
    }
    out
}

fn log_entry() -> Vec<u8> {
    let sized = |payload: &Bytes| {
        let length = u16::try_from(payload.len()).expect("seeds are short");
        [&length.to_le_bytes()[..], payload].concat()
    };
    payloads().iter().flat_map(sized).collect()
}

fn frame() -> Vec<u8> {
    let entries = payloads().into_iter().map(|payload| Entry { term: 1, payload }).collect();
    let part = Bytes::from_static(b"of another kind");
    let checkpoint =
        SignedCheckpoint { body: part.clone(), certificate: part.clone(), scheme: 0x0807, signature: part };
    Frame { after_index: 0, entries, checkpoint }.encode().to_vec()
}

fn snapshot_file() -> Vec<u8> {
    let local: Arc<Local> = Local::open(LocalOptions { cache_bytes: 0, ..LocalOptions::default() }).expect("in memory");
    let mut last = LogPoint::default();
    for payload in payloads() {
        let index = last.index + 1;
        last = LogPoint { index, term: 1, head: last.head.next(index, 1, &payload) };
        local.apply(&[LogEntry { point: last, payload }]).expect("in memory");
    }
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("seed.snap");
    let (dump, ()) = local.open_dump(|_| ()).expect("no scan is open");
    dump.write(&path, None).expect("a file");
    [vec![0], std::fs::read(path).expect("it was just written")].concat()
}

/// A target, its body, which says whether an input is sound, and its first input, which is.
pub type Seed = (&'static str, fn(&[u8]) -> bool, Vec<u8>);

/// Every target.
pub fn all() -> Vec<Seed> {
    vec![
        ("log_file", bodies::log_file, log_file()),
        ("log_entry", bodies::log_entry, log_entry()),
        ("frame", bodies::frame, frame()),
        ("snapshot_file", bodies::snapshot_file, snapshot_file()),
        ("resp", bodies::resp, COMMANDS.into()),
        ("config", bodies::config, CONFIG.into()),
    ]
}
