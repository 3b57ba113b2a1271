//! A relay between a voter and a replica that passes frames on for a while and then tampers, over real connections: the
//! replica leaves it, says why, and goes on with the honest upstream.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use cinnabar_daemon::Role;
use cinnabar_kv::log::LogPoint;
use cinnabar_kv_api::proto::replication_client::ReplicationClient;
use cinnabar_kv_api::proto::{TailRequest, TailResponse};
use cinnabar_kv_api::{Client, Frame};
use futures::{SinkExt, StreamExt};
use tonic::Status;
use tonic::transport::Channel;

use crate::fixture::{Counted, Keeps, Pki, TestNode, TestReplica, soon, until, voter, write, write_many};
use crate::forge::{Forger, Kind, Seen, SharedForger, chained, join};
use crate::hostile::{Hostile, Script, message};

/// Entries, at least, that the relay keeps back, and a frame that follows them, before it sends what it made of them.
const KEPT_BACK: usize = 3;

type Sent = futures::channel::mpsc::Sender<Result<TailResponse, Status>>;

/// Passes on what an honest node sends; tampers once it is armed.
struct Relay {
    honest: ReplicationClient<Channel>,
    forger: SharedForger,
    kind: Kind,
    armed: Arc<AtomicBool>,
}

impl Relay {
    async fn run(mut self, request: TailRequest, mut sent: Sent) -> Option<()> {
        let mut from = LogPoint { index: request.after_index, ..LogPoint::default() };
        if let Ok(head) = request.chain_head[..].try_into() {
            from.head = cinnabar_kv_api::ChainHead(head);
        }
        let mut frames = self.honest.tail(request).await.ok()?.into_inner();
        let (mut older, mut heartbeats, mut kept) = (Vec::new(), Vec::new(), Vec::new());
        while let Ok(Some(genuine)) = frames.message().await {
            let frame = Frame::decode(&genuine.frame).expect("a voter sent it");
            if frame.entries.is_empty() {
                heartbeats.push(frame);
            } else if self.armed.load(Ordering::Acquire) {
                kept.push(frame);
            } else {
                from = chained(from, &frame.entries).last().expect("it has entries").point;
                older.push(frame);
            }
            if let Some((next, before)) = kept.split_last() {
                if before.iter().map(|frame| frame.entries.len()).sum::<usize>() < KEPT_BACK {
                    continue;
                }
                let genuine = join(before);
                let seen = Seen { from, genuine: &genuine, older: &older, heartbeats: &heartbeats, next };
                let attack = self.forger.attacks(&seen, 11).into_iter().find(|attack| attack.kind == self.kind)?;
                sent.send(Ok(message(attack.bytes))).await.ok()?;
                continue;
            }
            sent.send(Ok(genuine)).await.ok()?;
        }
        Some(())
    }
}

fn start(pki: &Pki, node: &TestNode, forger: &SharedForger, kind: Kind, armed: &Arc<AtomicBool>) -> Hostile {
    let (honest, forger, armed) = (pki.replication(&node.address), forger.clone(), armed.clone());
    let script = Script::tail(move |request| {
        let (send, receive) = futures::channel::mpsc::channel(1);
        let relay = Relay { honest: honest.clone(), forger: forger.clone(), kind, armed: armed.clone() };
        tokio::spawn(relay.run(request, send));
        Ok(Box::pin(receive))
    });
    Hostile::start(pki, script)
}

/// Writes until the replica has left its first upstream: how many entries a voter joins to a frame is not known.
async fn write_until_left(client: &Client, replica: &TestReplica) {
    let writing = async {
        while replica.upstreams()[0].1.is_empty() {
            write_many(client, "key", KEPT_BACK + 1).await;
        }
    };
    soon("the replica leaves the relay", writing).await;
}

#[tokio::test]
async fn a_tampering_relay_is_left_for_the_honest_upstream() {
    let pki = Pki::new();
    let node = voter(&pki, "v1").await;
    let client = pki.client(Role::Authority, &node.address);
    let forger = Arc::new(Forger::new(&pki));
    for (kind, keeps) in Kind::ALL.into_iter().zip([Keeps::InMemory, Keeps::OnDisk].into_iter().cycle()) {
        let counted = Counted::here();
        let armed = Arc::<AtomicBool>::default();
        let hostile = start(&pki, &node, &forger, kind, &armed);
        let dir = tempfile::tempdir().unwrap();
        let upstreams = [&hostile.address[..], &node.address];
        let mut replica = TestReplica::open(&pki, "r1", dir.path(), keeps, &upstreams, None);
        replica.run();
        replica.reaches(&node).await;
        assert!(replica.upstreams()[0].0, "{kind:?}: it follows the relay at first");
        assert_eq!(counted.value("cinnabar_replica_alarm"), 0.0);

        armed.store(true, Ordering::Release);
        write_until_left(&client, &replica).await;
        replica.reaches(&node).await;
        let upstreams = replica.upstreams();
        assert!(upstreams[0].1.starts_with("not believed"), "{kind:?}: {upstreams:?}");
        assert!(!upstreams[0].0 && upstreams[1].0, "{kind:?}: {upstreams:?}");
        assert_eq!(replica.replica.path(), ["v1"], "{kind:?}");
        let disbelieved = ["malformed", "signature", "foreign", "chain", "old"].map(|result| counted.frames(result));
        assert_eq!(disbelieved.iter().sum::<f64>(), 1.0, "{kind:?}: {disbelieved:?}");
        assert_eq!(counted.frames("state"), 0.0, "{kind:?}");
        assert_eq!(counted.value("cinnabar_replica_alarm"), 1.0, "{kind:?}");
        replica.stop().await;
    }
}

#[tokio::test]
async fn what_a_poisoned_replica_feeds_is_what_the_voters_signed() {
    let pki = Pki::new();
    let node = voter(&pki, "v1").await;
    let client = pki.client(Role::Authority, &node.address);
    let armed = Arc::<AtomicBool>::default();
    let hostile = start(&pki, &node, &Arc::new(Forger::new(&pki)), Kind::Flip, &armed);
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let upstreams = [&hostile.address[..], &node.address];
    let mut middle = TestReplica::open(&pki, "r1", dirs[0].path(), Keeps::InMemory, &upstreams, None);
    middle.run();
    let served = middle.serve(&pki).await;
    middle.reaches(&node).await;
    let mut below = TestReplica::open(&pki, "r2", dirs[1].path(), Keeps::InMemory, &[&served.address], None);
    below.run();
    below.reaches(&node).await;
    armed.store(true, Ordering::Release);
    write_until_left(&client, &middle).await;
    below.reaches(&node).await;
    assert_eq!(below.replica.path(), ["v1", "r1"]);
    assert_eq!(below.value("key/0003").unwrap(), Bytes::from_static(b"value 3 of key"));
}

#[tokio::test]
async fn a_relay_that_is_silent_or_sends_only_old_heartbeats_is_left() {
    let pki = Pki::new();
    let node = voter(&pki, "v1").await;
    let client = pki.client(Role::Authority, &node.address);
    let early = write(&client, "a", "1").await;
    let silent = Hostile::start(&pki, Script::tail(|_| Ok(futures::stream::pending().boxed())));
    let ending = Hostile::start(&pki, Script::tail(|_| Ok(futures::stream::empty().boxed())));
    let dir = tempfile::tempdir().unwrap();
    let upstreams = [&silent.address[..], &ending.address, &node.address];
    let mut replica = TestReplica::open(&pki, "r1", dir.path(), Keeps::InMemory, &upstreams, None);
    replica.run();
    until("the replica finds the honest one", || replica.index() >= early).await;
    let upstreams = replica.upstreams();
    assert!(upstreams[0].1.starts_with("no frame and no heartbeat"), "{upstreams:?}");
    assert!(upstreams[1].1.contains("ended the stream"), "{upstreams:?}");
}
