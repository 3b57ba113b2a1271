//! Readers that do not read: nothing piles up for them, nobody waits for them, and they are told what they missed.

use bytes::Bytes;
use cinnabar_daemon::Role;
use cinnabar_kv::limits::{CHANGES_BYTES_MAX, FEED_BYTES_MAX};
use cinnabar_kv_api::limits::{MESSAGE_BYTES_MAX, RECORD_BYTES_MAX};
use cinnabar_kv_api::proto::kv_client::KvClient;
use cinnabar_kv_api::proto::replication_client::ReplicationClient;
use cinnabar_kv_api::proto::watch_response::Message;
use cinnabar_kv_api::proto::{TailRequest, TailResponse, WatchRequest};
use cinnabar_kv_api::{Client, Op, WriteOutcome};
use tonic::{Code, Streaming};

use crate::fixture::{Counted, Keeps, Pki, TestNode, TestReplica, put, soon, until, voter};
use crate::outsider;
use crate::snapshots::purge;

/// Bytes of one write here, about.
const WRITE_BYTES: usize = 16 * VALUE_BYTES;
const VALUE_BYTES: usize = RECORD_BYTES_MAX - 64;

/// Writes about this many bytes; gives the last index.
async fn write_bytes(client: &Client, bytes: usize) -> u64 {
    let mut last = 0;
    for n in 0..bytes.div_ceil(WRITE_BYTES) {
        let value = |k: usize| Bytes::from(vec![(n * 16 + k) as u8; VALUE_BYTES]);
        let ops: Vec<Op> = (0..16).map(|k| put(&format!("bulk/{k:02}"), value(k))).collect();
        let WriteOutcome::Written { index } = client.write(Vec::new(), ops).await.unwrap() else { panic!("unmet") };
        last = index;
    }
    last
}

async fn tail(pki: &Pki, node: &TestNode) -> Streaming<TailResponse> {
    let channel = outsider::channel(&node.address, Some(&pki.issue(Role::Replica, "slow")));
    let mut client = ReplicationClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    soon("a tail", client.tail(TailRequest::default())).await.unwrap().into_inner()
}

/// Pages of this process that are in memory, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[tokio::test]
async fn tails_that_do_not_read_cost_nothing_and_get_every_frame_from_the_log_later() {
    const READERS: usize = 64;
    let pki = Pki::new();
    let node = voter(&pki, "v1").await;
    let client = pki.client(Role::Authority, &node.address);
    let mut tails = Vec::new();
    for _ in 0..READERS {
        tails.push(tail(&pki, &node).await);
    }
    assert_eq!(node.node.core().unwrap().feed.downstreams(), READERS);
    let before = resident();
    let backlog = FEED_BYTES_MAX + FEED_BYTES_MAX / 2;
    write_bytes(&client, backlog).await;
    // Held back for each reader, this would be three times as much as what is allowed here for everything.
    let grown = resident().saturating_sub(before);
    assert!(grown < READERS * backlog / 3, "{} MiB more in memory", grown >> 20);

    let dir = tempfile::tempdir().unwrap();
    let replica = TestReplica::open(&pki, "slow", dir.path(), Keeps::InMemory, &[], None);
    let mut late = tails.pop().expect("there are some");
    while replica.index() < node.point().applied.index {
        let message = soon("a frame", late.message()).await.unwrap().expect("the stream goes on");
        replica.replica.take_frame(&message.frame).unwrap();
    }
    assert_eq!(replica.local.point().state_hash, node.point().state_hash);
    drop((late, tails));
    until("their places are free", || node.node.core().unwrap().feed.downstreams() == 0).await;
}

#[tokio::test]
async fn a_tail_that_did_not_read_while_the_log_went_is_told_to_take_a_snapshot() {
    let counted = Counted::here();
    let pki = Pki::new();
    let node = voter(&pki, "v1").await;
    let client = pki.client(Role::Authority, &node.address);
    let mut slow = tail(&pki, &node).await;
    write_bytes(&client, FEED_BYTES_MAX + FEED_BYTES_MAX / 2).await;
    purge(&node).await;
    let end = loop {
        match soon("the end of the stream", slow.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it ended without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(end.code(), Code::OutOfRange, "{end:?}");
    assert_eq!(counted.value("cinnabar_feed_cut_total"), 1.0);
}

#[tokio::test]
async fn a_watch_that_does_not_read_is_told_that_it_missed_changes() {
    let counted = Counted::here();
    let pki = Pki::new();
    let node = voter(&pki, "v1").await;
    let client = pki.client(Role::Authority, &node.address);
    let channel = outsider::channel(&node.address, Some(&pki.issue(Role::Edge, "slow")));
    let mut kv = KvClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let request = WatchRequest { from_now: true, ..WatchRequest::default() };
    let mut slow = kv.watch(request.clone()).await.unwrap().into_inner();
    // One that reads hears of everything meanwhile.
    let mut quick = pki.kv(Role::Edge, &node.address).watch(request).await.unwrap().into_inner();
    let from = node.point().applied.index;
    let heard = tokio::spawn(async move {
        let mut indexes = Vec::new();
        loop {
            match quick.message().await.unwrap().expect("it goes on").message {
                Some(Message::Changes(changes)) => indexes.push(changes.index),
                Some(Message::Progress(progress))
                    if indexes.last().is_some_and(|last| *last <= progress.applied_index) =>
                {
                    return indexes;
                }
                Some(Message::Progress(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    });
    let last = write_bytes(&client, CHANGES_BYTES_MAX + CHANGES_BYTES_MAX / 2).await;
    let mut indexes = Vec::new();
    let resync = loop {
        match soon("a word", slow.message()).await.unwrap().expect("not before it was told").message {
            Some(Message::Changes(changes)) => indexes.push(changes.index),
            Some(Message::Resync(resync)) => break resync,
            Some(Message::Progress(_)) => {}
            None => panic!("an empty message"),
        }
    };
    let expected: Vec<u64> = (from + 1..).take(indexes.len()).collect();
    assert_eq!(indexes, expected, "what it got before is without a gap");
    assert!(resync.oldest_index > expected.last().copied().unwrap_or(from) && resync.oldest_index < last, "{resync:?}");
    assert!(soon("the end", slow.message()).await.unwrap().is_none(), "the stream ends with it");
    assert_eq!(counted.value("cinnabar_kv_watch_resyncs_total{reason=\"slow\"}"), 1.0);
    let heard = soon("the quick one", heard).await.unwrap();
    assert_eq!(heard, (from + 1..=last).collect::<Vec<_>>());
}
