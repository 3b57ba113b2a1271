//! The endpoint over a node's real copy, while it is written.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use cinnabar_daemon::Clock;
use cinnabar_daemon::env::SystemClock;
use cinnabar_kv_api::{ClientId, Command, Key, Op, StoreId, Write};

use super::talk;
use crate::local::{Local, LocalOptions};
use crate::log::{LogEntry, LogPoint};
use crate::server::resp::{LocalSource, Source};

/// A copy, and a pen for it.
pub(super) struct Written {
    pub(super) source: LocalSource,
    tip: LogPoint,
    sequence: u64,
}

impl Written {
    pub(super) fn new() -> Self {
        let local = Local::open(LocalOptions { dir: None, cache_bytes: 1 << 20, engine_cache_bytes: 1 << 20 }).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let behind_ms = {
            let (local, clock) = (local.clone(), clock.clone());
            Arc::new(move || local.behind_ms(clock.unix_ms()))
        };
        let source = LocalSource { local, clock, behind_ms };
        Self { source, tip: LogPoint::default(), sequence: 0 }
    }

    /// Begins its history; nothing is served before.
    pub(super) fn begin(&mut self) {
        self.apply(&Command::Genesis { cluster: "test".parse().unwrap(), store_id: StoreId([1; 16]) });
    }

    fn apply(&mut self, command: &Command) {
        let payload = command.to_payload();
        let index = self.tip.index + 1;
        self.tip = LogPoint { index, term: 1, head: self.tip.head.next(index, 1, &payload) };
        self.source.local.apply(&[LogEntry { point: self.tip, payload }]).unwrap();
    }

    pub(super) fn write(&mut self, ops: Vec<Op>) {
        self.sequence += 1;
        let (client, sequence) = (ClientId([2; 16]), self.sequence);
        self.apply(&Command::Write(Write { client, sequence, answered_below: sequence, conditions: vec![], ops }));
    }

    pub(super) fn put(&mut self, key: &str, value: &[u8]) {
        self.write(vec![Op::Put { key: Key::new(key.to_owned()).unwrap(), value: Bytes::copy_from_slice(value) }]);
    }

    fn delete(&mut self, key: &str) {
        self.write(vec![Op::Delete { key: Key::new(key.to_owned()).unwrap() }]);
    }
}

async fn say(source: &LocalSource, lines: &str) -> String {
    String::from_utf8(talk(source, format!("{lines}\r\n").as_bytes()).await).unwrap()
}

#[tokio::test]
async fn an_empty_node_is_loading_and_a_written_one_answers() {
    let mut node = Written::new();
    assert!(say(&node.source, "GET a").await.starts_with("-LOADING this node has no verified state yet"));
    node.begin();
    node.put("a", b"one");
    assert_eq!(say(&node.source, "GET a\r\nGET b").await, "$3\r\none\r\n$-1\r\n");
    assert_eq!(say(&node.source, "CINNABAR.GET a ATLEAST 2").await, "*3\r\n$3\r\none\r\n:2\r\n:2\r\n");
    assert_eq!(say(&node.source, "DBSIZE\r\nSCAN 0").await, ":1\r\n*2\r\n$1\r\n0\r\n*1\r\n$1\r\na\r\n");
    let info = say(&node.source, "INFO").await;
    assert!(
        info.contains("applied_index:2\r\n") && info.contains("behind_ms:-1\r\n") && info.contains("records:1\r\n")
    );
    node.source.local.found_wrong();
    assert!(say(&node.source, "GET a").await.starts_with("-LOADING this node's state does not agree"));
}

#[tokio::test]
async fn an_index_is_waited_for() {
    let mut node = Written::new();
    node.begin();
    let source = node.source.clone();
    let read = tokio::spawn(async move { say(&source, "CINNABAR.GET a ATLEAST 2").await });
    tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    node.put("a", b"new");
    assert_eq!(read.await.unwrap(), "*3\r\n$3\r\nnew\r\n:2\r\n:2\r\n");
}

/// The law of `SCAN`, attacked with writes between its pages: behind the cursor, before it, and on it.
#[test]
fn a_key_that_stays_is_given_once_whatever_is_written_meanwhile() {
    let mut node = Written::new();
    node.begin();
    let name = |n: usize| format!("key/{n:04}");
    for n in 0..400 {
        node.put(&name(n), b"v");
    }
    node.put("aaa", b"outside");
    let (mut after, mut seen) = (Bytes::new(), Vec::new());
    for round in 0.. {
        let page = node.source.page(b"key/", &after, 7).unwrap();
        assert!(page.keys.len() <= 7);
        seen.extend(page.keys.clone());
        // Keys that are a multiple of four come and go; the cursor's own key is among them now and then.
        for n in (0..400).filter(|n| n % 4 == 0 && (n / 4 + round) % 3 == 0) {
            if round % 2 == 0 { node.delete(&name(n)) } else { node.put(&name(n), b"again") }
        }
        node.put(&format!("key/{round:04}/new"), b"x");
        match page.next {
            Some(next) => after = next,
            None => break,
        }
    }
    let set: BTreeSet<Bytes> = seen.iter().cloned().collect();
    assert_eq!(set.len(), seen.len(), "each key once");
    assert!((0..400).filter(|n| n % 4 != 0).all(|n| set.contains(name(n).as_bytes())));
    assert!(set.iter().all(|key| key.starts_with(b"key/")));
}

#[test]
fn a_place_before_the_prefix_or_behind_it_is_no_hole() {
    let mut node = Written::new();
    node.begin();
    for key in ["a", "m/1", "m/2", "z"] {
        node.put(key, b"v");
    }
    let page = |after: &'static str| node.source.page(b"m/", &Bytes::from_static(after.as_bytes()), 10).unwrap();
    assert_eq!(page("a").keys.len(), 2);
    assert_eq!(page("m/1").keys, [&b"m/2"[..]]);
    assert_eq!(page("z").keys.len(), 0);
}
