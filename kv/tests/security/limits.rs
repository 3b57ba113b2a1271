//! Callers that ask for too much: every bound of the contract refuses one more than it allows, and takes what it
//! allows.

use bytes::Bytes;
use cinnabar_daemon::Role;
use cinnabar_kv::limits::{DOWNSTREAMS_MAX, RAFT_MESSAGE_BYTES_MAX, WATCHES_MAX};
use cinnabar_kv_api::limits::{
    BATCH_BYTES_MAX, BATCH_CONDITIONS_MAX, BATCH_OPS_MAX, KEY_BYTES_MAX, MESSAGE_BYTES_MAX, RECORD_BYTES_MAX,
};
use cinnabar_kv_api::proto::kv_client::KvClient;
use cinnabar_kv_api::proto::{
    Condition, GetRequest, Op, ScanRequest, TailRequest, TailResponse, WatchRequest, WriteRequest, op::Kind,
};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Request, Status};

use crate::fixture::{Keeps, Pki, TestNode, TestReplica, soon, until, voter};
use crate::hostile::{Hostile, Script, open};
use crate::outsider::{self, call};

fn bytes(count: usize) -> Bytes {
    Bytes::from(vec![b'x'; count])
}

/// A put of a key and a value of this many bytes, its key unlike that of any other `n`.
fn put(n: usize, key: usize, value: usize) -> Op {
    let mut name = vec![b'x'; key];
    let number = n.to_be_bytes();
    let numbered = key.min(number.len());
    name[..numbered].copy_from_slice(&number[number.len() - numbered..]);
    Op { kind: Kind::Put.into(), key: name.into(), value: bytes(value) }
}

fn write(sequence: u64, ops: Vec<Op>) -> WriteRequest {
    WriteRequest { client_id: Bytes::from_static(&[7; 16]), sequence, answered_below: 1, conditions: Vec::new(), ops }
}

fn condition(key: usize) -> Condition {
    Condition { key: bytes(key), mod_index: 0 }
}

/// A write of a thousand records that is as large as one may be, and so many bytes more.
fn full_batch(sequence: u64, more: usize) -> WriteRequest {
    let mut ops: Vec<_> = (0..16).map(|n| put(n, 16, RECORD_BYTES_MAX - 16)).collect();
    let left = BATCH_BYTES_MAX - 16 * RECORD_BYTES_MAX;
    ops.push(put(16, 8, left - 8 + more));
    write(sequence, ops)
}

#[tokio::test]
async fn a_write_over_any_bound_is_an_invalid_argument_and_one_at_it_is_taken() {
    let pki = Pki::new();
    let node = voter(&pki, "v1").await;
    let mut kv = pki.kv(Role::Authority, &node.address).max_encoding_message_size(2 * MESSAGE_BYTES_MAX);
    let fine = write(1, vec![put(0, 8, 8)]);
    let one = |op: Op| write(1, vec![op]);
    let over: Vec<(&str, WriteRequest)> = vec![
        ("nothing", WriteRequest::default()),
        ("a key of 513 bytes", one(put(0, KEY_BYTES_MAX + 1, 1))),
        ("an empty key", one(put(0, 0, 1))),
        ("an empty key to delete", one(Op { kind: Kind::Delete.into(), ..put(0, 0, 0) })),
        ("a long key to delete", one(Op { kind: Kind::Delete.into(), ..put(0, KEY_BYTES_MAX + 1, 0) })),
        ("a record of 64 KiB", one(put(0, 16, RECORD_BYTES_MAX - 16 + 1))),
        ("a batch of 1 MiB and one byte", full_batch(1, 1)),
        ("1,025 operations", write(1, (0..=BATCH_OPS_MAX).map(|n| put(n, 8, 1)).collect())),
        ("no operation", write(1, Vec::new())),
        ("1,025 conditions", WriteRequest { conditions: vec![condition(8); BATCH_CONDITIONS_MAX + 1], ..fine.clone() }),
        ("a condition on a long key", WriteRequest { conditions: vec![condition(KEY_BYTES_MAX + 1)], ..fine.clone() }),
        ("a condition on no key", WriteRequest { conditions: vec![condition(0)], ..fine.clone() }),
        ("sequence 0", write(0, fine.ops.clone())),
        ("a client id of 15 bytes", WriteRequest { client_id: bytes(15), ..fine.clone() }),
        ("a client id of 17 bytes", WriteRequest { client_id: bytes(17), ..fine.clone() }),
        ("an operation of no kind", one(Op { kind: 0, ..put(0, 8, 8) })),
        ("an operation of another kind", one(Op { kind: 77, ..put(0, 8, 8) })),
    ];
    let before = node.point();
    for (what, request) in over {
        let answer = kv.write(request).await;
        assert_eq!(answer.expect_err(what).code(), Code::InvalidArgument, "{what}");
    }
    assert_eq!(node.point(), before, "a write over a bound was proposed");
    let at: Vec<(&str, WriteRequest)> = vec![
        ("a key of 512 bytes", write(1, vec![put(0, KEY_BYTES_MAX, 1)])),
        ("a record of 64 KiB less one", write(2, vec![put(1, 16, RECORD_BYTES_MAX - 16)])),
        ("a batch of 1 MiB", full_batch(3, 0)),
        ("1,024 operations", write(4, (0..BATCH_OPS_MAX).map(|n| put(n, 8, 1)).collect())),
        (
            "1,024 conditions",
            WriteRequest { conditions: vec![condition(KEY_BYTES_MAX); BATCH_CONDITIONS_MAX], ..write(5, fine.ops) },
        ),
    ];
    for (what, request) in at {
        assert!(kv.write(request).await.expect(what).into_inner().succeeded, "{what}");
    }
}

#[tokio::test]
async fn a_read_over_any_bound_is_an_invalid_argument() {
    let pki = Pki::new();
    let node = voter(&pki, "v1").await;
    let mut kv = pki.kv(Role::Edge, &node.address);
    let invalid = |what: &str, code: Code| assert_eq!(code, Code::InvalidArgument, "{what}");
    for key in [0, KEY_BYTES_MAX + 1] {
        let request = GetRequest { key: bytes(key), ..GetRequest::default() };
        invalid("get", kv.get(request).await.unwrap_err().code());
    }
    let long = bytes(KEY_BYTES_MAX + 1);
    let request = ScanRequest { prefix: long.clone(), ..ScanRequest::default() };
    invalid("scan", kv.scan(request).await.unwrap_err().code());
    let request = ScanRequest { token: bytes(4096), ..ScanRequest::default() };
    invalid("a scan's token", kv.scan(request).await.unwrap_err().code());
    // What a watch holds on to, thousands of watches hold on to.
    let request = WatchRequest { prefix: long, from_now: true, ..WatchRequest::default() };
    invalid("watch", kv.watch(request).await.unwrap_err().code());
    let mut replication = pki.replication(&node.address);
    for request in [
        TailRequest { store_id: bytes(15), ..TailRequest::default() },
        TailRequest { chain_head: bytes(31), after_index: 1, ..TailRequest::default() },
    ] {
        invalid("tail", replication.tail(request).await.unwrap_err().code());
    }
}

#[tokio::test]
async fn a_message_of_more_than_four_mebibytes_is_refused_unread() {
    let pki = Pki::new();
    let node = voter(&pki, "v1").await;
    let channel = outsider::channel(&node.address, Some(&pki.issue(Role::Voter, "v7")));
    let kv = "/cinnabar.kv.v1.Kv/Write";
    let cases = [
        (kv, MESSAGE_BYTES_MAX, false),
        (kv, MESSAGE_BYTES_MAX + 1, true),
        ("/cinnabar.kv.v1.Kv/Get", MESSAGE_BYTES_MAX + 1, true),
        ("/cinnabar.kv.v1.Replication/Tail", MESSAGE_BYTES_MAX + 1, true),
        ("/cinnabar.kv.v1.Cluster/AddVoter", MESSAGE_BYTES_MAX + 1, true),
        ("/cinnabar.raft.v1.Raft/Vote", RAFT_MESSAGE_BYTES_MAX, false),
        ("/cinnabar.raft.v1.Raft/Vote", RAFT_MESSAGE_BYTES_MAX + 1, true),
        ("/cinnabar.raft.v1.Raft/Append", MESSAGE_BYTES_MAX + 1, true),
    ];
    for (path, size, over) in cases {
        let mut request = Request::new(bytes(size));
        request.metadata_mut().insert("cinnabar-to", "1".parse().unwrap());
        request.metadata_mut().insert("cinnabar-store", node.store_id().to_string().parse().unwrap());
        let status = call(channel.clone(), path, request).await.expect_err("it means nothing");
        let too_large = status.code() == Code::OutOfRange && status.message().contains("too large");
        // A stream's message is read after the call was taken: its fault is the stream's end.
        let cut = status.message().contains("too large");
        assert_eq!(too_large || over && cut, over, "{path} of {size}: {status:?}");
    }
}

#[tokio::test]
async fn a_compressed_message_is_refused_before_it_is_unpacked() {
    let pki = Pki::new();
    let node = voter(&pki, "v1").await;
    let channel = outsider::channel(&node.address, Some(&pki.issue(Role::Voter, "v7")));
    for encoding in ["gzip", "deflate", "zstd"] {
        let mut request = Request::new(bytes(64));
        request.metadata_mut().insert("grpc-encoding", encoding.parse().unwrap());
        let answer = call(channel.clone(), "/cinnabar.kv.v1.Kv/Get", request).await;
        assert_eq!(answer.unwrap_err().code(), Code::Unimplemented, "{encoding}");
    }
}

#[tokio::test]
async fn one_downstream_more_than_the_bound_is_refused_until_another_goes() {
    let pki = Pki::new();
    let node = voter(&pki, "v1").await;
    let feed = node.node.core().unwrap().feed.clone();
    let mut places: Vec<_> = (0..DOWNSTREAMS_MAX).map(|_| feed.subscribe(None, 0, None).unwrap()).collect();
    let mut client = pki.replication(&node.address);
    for _ in 0..3 {
        let refused = client.tail(TailRequest::default()).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert_eq!(feed.downstreams(), DOWNSTREAMS_MAX, "a refused one keeps its place");
    }
    places.pop();
    let mut taken = client.tail(TailRequest::default()).await.unwrap().into_inner();
    assert!(taken.message().await.unwrap().is_some());
    drop(taken);
    until("its place is free again", || feed.downstreams() == DOWNSTREAMS_MAX - 1).await;
}

/// Opens watches on connections of their own, each with fewer streams than one may have, and reads all of them.
async fn watches(pki: &Pki, node: &TestNode, count: usize) -> Vec<AbortOnDropHandle<()>> {
    let credentials = pki.issue(Role::Edge, "e1");
    let mut reading = Vec::new();
    let mut kv = KvClient::new(outsider::channel(&node.address, Some(&credentials)));
    for n in 0..count {
        if n % 500 == 0 {
            kv = KvClient::new(outsider::channel(&node.address, Some(&credentials)));
        }
        let request = WatchRequest { from_now: true, ..WatchRequest::default() };
        let mut stream = kv.watch(request).await.unwrap().into_inner();
        let task = tokio::spawn(async move { while let Ok(Some(_)) = stream.message().await {} });
        reading.push(AbortOnDropHandle::new(task));
    }
    reading
}

#[tokio::test]
async fn one_watch_more_than_the_bound_is_refused_until_another_goes() {
    let pki = Pki::new();
    let node = voter(&pki, "v1").await;
    let mut open = watches(&pki, &node, WATCHES_MAX).await;
    let mut kv = pki.kv(Role::Edge, &node.address);
    let request = WatchRequest { from_now: true, ..WatchRequest::default() };
    assert_eq!(kv.watch(request.clone()).await.unwrap_err().code(), Code::ResourceExhausted);
    open.pop();
    let again = async {
        while kv.watch(request.clone()).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    soon("the place of a watch that went is given back", again).await;
}

#[tokio::test]
async fn the_path_that_an_upstream_names_is_bounded_and_made_of_names() {
    let pki = Pki::new();
    let node = voter(&pki, "v1").await;
    let recording = crate::fixture::Recording::start(&pki, &node.address).await;
    let index = node.point().applied.index;
    let frame = crate::forge::join(&recording.up_to(index).await).encode();
    let heartbeat = recording.heartbeat(index).await.encode();
    let long: Vec<String> = (0..10_000).map(|n| format!("node-{n}")).collect();
    let wide = vec!["w".repeat(1 << 20), "not a name\n\u{1b}[31m".to_owned(), "r7".to_owned()];
    for (what, path, expected) in [("long", long, 16), ("wide", wide, 1)] {
        let answers =
            [frame.clone(), heartbeat.clone()].map(|frame| Ok::<_, Status>(TailResponse { frame, path: path.clone() }));
        let hostile = Hostile::start(&pki, Script::tail(move |_| Ok(open(answers.to_vec()))));
        let dir = tempfile::tempdir().unwrap();
        let mut replica = TestReplica::open(&pki, "r1", dir.path(), Keeps::InMemory, &[&hostile.address], None);
        replica.run();
        until("the path is taken", || !replica.replica.path().is_empty()).await;
        let path = replica.replica.path();
        assert_eq!(path.len(), expected, "{what}");
        assert!(path.iter().all(|name| name.parse::<cinnabar_daemon::NodeName>().is_ok()), "{what}");
        // What it passes on fits a message, whatever it was told.
        let served = replica.serve(&pki).await;
        let mut below = pki.replication(&served.address).tail(TailRequest::default()).await.unwrap().into_inner();
        assert!(below.message().await.unwrap().is_some(), "{what}");
    }
}
