//! The router over real connections between machines that stand at simulated distances.

use std::time::Duration;

use cinnabar_daemon::Clock;
use cinnabar_daemon::env::{SystemClock, SystemNet};
use cinnabar_edge_api::Scheme;
use futures::future::join_all;

use super::*;
use crate::distance::{Distances, DistantNet};
use crate::limits::EJECT_AFTER;
use crate::testing::{Cluster, EC, Node, RSA, holders, verify_ec};

const PATIENCE: Duration = Duration::from_secs(20);

/// A node without keys at distances from holders in three data centres.
struct World {
    cluster: Cluster,
    distances: Arc<Distances>,
    asking: Node,
    fra: Node,
    iad: Node,
    gru: Node,
}

impl World {
    async fn new(config: RouterConfig) -> Self {
        let cluster = Cluster::new();
        let (fra, iad, gru) = (
            cluster.node("fra-1", "fra").start().await,
            cluster.node("iad-1", "iad").start().await,
            cluster.node("gru-1", "gru").start().await,
        );
        let distances = Arc::new(Distances::default());
        for (node, micros) in [(&fra, 5_000), (&iad, 30_000), (&gru, 60_000)] {
            distances.place(&node.address, node.data_center.clone()).unwrap();
            distances.set(node.data_center.clone(), micros).unwrap();
            node.records.add(&cluster, "ams-1", "ams", &[("country", "NL")]);
        }
        let mut asking = cluster.node("ams-1", "ams");
        asking.holds = false;
        asking.config = config;
        asking.net = Arc::new(DistantNet::new(Arc::new(SystemNet), distances.clone(), Arc::new(SystemClock)));
        let asking = asking.start().await;
        asking.records.set_holders(&[&fra, &iad, &gru]);
        Self { cluster, distances, asking, fra, iad, gru }
    }

    fn order(&self) -> Vec<String> {
        let order = self.asking.router.order(&holders(&[&self.fra, &self.iad, &self.gru]));
        order.into_iter().map(|ranked| ranked.data_center.to_string()).collect()
    }

    async fn until(&self, what: &str, reached: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !reached(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "{what}: {:?}", self.order());
    }

    async fn measured(&self) {
        self.asking.probe();
        self.until("the order of distance", |world| {
            world.asking.router.round_trips().len() == 3 && world.order() == ["fra", "iad", "gru"]
        })
        .await;
    }

    async fn sign(&self) -> Result<Signature, Refusal> {
        self.asking.local().sign(self.cluster.request(EC, Scheme::EcdsaSecp256r1Sha256)).await
    }
}

/// Twenty times as fast as a node's own.
fn fast() -> RouterConfig {
    RouterConfig {
        deadline: Duration::from_millis(900),
        attempt_timeout: Duration::from_millis(250),
        probe_every: Duration::from_millis(100),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nearest_signs_then_the_second_then_the_third_then_none() {
    let world = World::new(fast()).await;
    world.measured().await;
    for (data_center, gone) in [("fra", &world.fra), ("iad", &world.iad), ("gru", &world.gru)] {
        let signature = world.sign().await.unwrap();
        verify_ec(&world.cluster, &signature);
        assert!(signature.remote && signature.data_center == data_center, "{signature:?}");
        gone.stop().await;
    }
    let refusal = world.sign().await.unwrap_err();
    assert_eq!(refusal.code, RefusalCode::NoHolder, "{refusal:?}");
    let mut tried: Vec<&str> = refusal.tried.iter().map(|attempt| attempt.data_center.as_str()).collect();
    tried.sort_unstable();
    assert_eq!(tried, ["fra", "gru", "iad"]);
    // After probes, nobody is thought to be well.
    world
        .until("nobody is well", |world| {
            ["fra", "iad", "gru"].iter().all(|name| world.asking.router.health(&name.parse().unwrap()).healthy == 0)
        })
        .await;
    world.asking.records.set_holders(&[]);
    assert_eq!(world.sign().await.unwrap_err().tried, []);
    world
        .until("who left is not connected", |world| world.asking.router.health(&"fra".parse().unwrap()).connected == 0)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_peer_may_be_behind_with_is_asked_of_the_next() {
    let world = World::new(fast()).await;
    world.measured().await;
    world.fra.records.revoke("ams-1");
    world.iad.records.stale.store(true, Ordering::SeqCst);
    let signature = world.sign().await.unwrap();
    assert_eq!(signature.data_center, "gru");
    // A scheme that does not fit fits nowhere.
    let wrong = world.cluster.request(EC, Scheme::EcdsaSecp256r1Sha256);
    let wrong = SignRequest { zone: "other".to_owned(), ..wrong };
    let deadline = SystemClock.now() + PATIENCE;
    let all = holders(&[&world.fra, &world.iad, &world.gru]);
    let refusal = world.asking.router.sign(&wrong, &all, deadline).await.unwrap_err();
    let codes: Vec<RefusalCode> = refusal.tried.iter().map(|attempt| attempt.code()).collect();
    assert_eq!(refusal.code, RefusalCode::NoHolder);
    assert!(
        codes.contains(&RefusalCode::NotPermitted) && codes.contains(&RefusalCode::UnknownCertificate),
        "{codes:?}"
    );
    world.fra.records.add(&world.cluster, "ams-1", "ams", &[("country", "NL")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_distance_changes_the_order() {
    let world = World::new(fast()).await;
    world.measured().await;
    // At a probe every 2 s, ten seconds are five probes; here they come every 0.1 s, and 0.5 s is the bound but for
    // what the machine's load adds: the number of probes is proved beside the latency map.
    world.distances.set("fra".parse().unwrap(), 175_000).unwrap();
    world.until("fra is last", |world| world.order() == ["iad", "gru", "fra"]).await;
    assert_eq!(world.sign().await.unwrap().data_center, "iad");
    world.distances.set("fra".parse().unwrap(), 1_000).unwrap();
    world.until("fra is first", |world| world.order() == ["fra", "iad", "gru"]).await;
    let trips = world.asking.router.round_trips();
    assert!((25_000..60_000).contains(&trips[&"iad".parse().unwrap()]), "{trips:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn parked_remote_requests_delay_no_local_one() {
    let config = RouterConfig { attempt_timeout: PATIENCE, deadline: PATIENCE, ..fast() };
    let cluster = Cluster::new();
    let parked = cluster.node("iad-1", "iad").start().await;
    parked.records.add(&cluster, "ams-1", "ams", &[("country", "NL")]);
    let mut asking = cluster.node("ams-1", "ams");
    asking.config = config;
    let asking = Arc::new(asking.start().await);
    asking.records.set_holders(&[&parked]);
    asking.keys.forget(RSA);
    parked.keys.park(RSA);
    let remote = cluster.request(RSA, Scheme::RsaPssRsaeSha256);
    let waiting: Vec<_> = (0..2000)
        .map(|_| {
            let (asking, remote) = (asking.clone(), remote.clone());
            tokio::spawn(async move { asking.local().sign(remote).await })
        })
        .collect();
    while parked.keys_opened() < 2000 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let signature = asking.local().sign(cluster.request(EC, Scheme::EcdsaSecp256r1Sha256)).await.unwrap();
    assert!(!signature.remote);
    verify_ec(&cluster, &signature);
    assert!(waiting.iter().all(|task| !task.is_finished()), "they are parked still");
    parked.keys.release();
    let signatures = join_all(waiting).await;
    let refused = signatures.iter().filter(|answer| !matches!(answer, Ok(Ok(signature)) if signature.remote)).count();
    // The signer's lane holds 512; what is above it is refused at once, and there is no other holder.
    assert!(refused <= 2000 - 512, "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_never_answers_is_left_alone_and_looked_at_again() {
    let world = World::new(RouterConfig { attempt_timeout: Duration::from_millis(100), ..fast() }).await;
    world.measured().await;
    world.fra.keys.park(EC);
    for n in 1..=EJECT_AFTER {
        // Its distance counts what requests saw: without it the next ones would go to it all the same.
        world.asking.router.latency.retain(|_| false);
        world.until("fra is measured and first", |world| world.order() == ["fra", "iad", "gru"]).await;
        let signature = world.sign().await.unwrap();
        assert_eq!(signature.data_center, "iad", "{n}");
    }
    assert_eq!(world.asking.router.health(&"fra".parse().unwrap()).healthy, 0);
    let opened = world.fra.keys_opened();
    assert_eq!(world.sign().await.unwrap().data_center, "iad");
    assert_eq!(world.fra.keys_opened(), opened, "it is left alone");
    world.fra.keys.release();
    world
        .until("it is looked at again", |world| {
            world.asking.router.health(&"fra".parse().unwrap()).healthy == 1 && world.order()[0] == "fra"
        })
        .await;
    assert_eq!(world.sign().await.unwrap().data_center, "fra");
    assert_eq!(world.sign().await.unwrap().data_center, "fra");
}

/// Dials; of the first connection nothing moves any more once it is told so.
struct Stalling {
    dialled: std::sync::atomic::AtomicUsize,
    stalled: tokio::sync::watch::Sender<bool>,
}

impl cinnabar_daemon::Net for Stalling {
    fn dial<'a>(
        &'a self,
        address: &'a str,
    ) -> futures::future::BoxFuture<'a, std::io::Result<cinnabar_daemon::env::BoxIo>> {
        Box::pin(async move {
            let mut stream = SystemNet.dial(address).await?;
            if self.dialled.fetch_add(1, Ordering::SeqCst) > 0 {
                return Ok(stream);
            }
            let (near, mut far) = tokio::io::duplex(64 * 1024);
            let mut stalled = self.stalled.subscribe();
            tokio::spawn(async move {
                let told = async { drop(stalled.wait_for(|stalled| *stalled).await) };
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut far, &mut stream) => return,
                    () = told => {}
                }
                // Both ends stay open, and nothing moves.
                std::future::pending::<()>().await;
            });
            Ok(Box::new(near) as cinnabar_daemon::env::BoxIo)
        })
    }

    fn listen(&self, address: std::net::SocketAddr) -> std::io::Result<tokio::net::TcpListener> {
        SystemNet.listen(address)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_stalls_is_left_for_the_other() {
    let cluster = Cluster::new();
    let holder = cluster.node("fra-1", "fra").start().await;
    holder.records.add(&cluster, "ams-1", "ams", &[("country", "NL")]);
    let net = Arc::new(Stalling { dialled: 0.into(), stalled: tokio::sync::watch::Sender::new(false) });
    let mut asking = cluster.node("ams-1", "ams");
    (asking.holds, asking.net) = (false, net.clone());
    asking.config = RouterConfig { probe_every: PATIENCE, ..fast() };
    let asking = asking.start().await;
    asking.records.set_holders(&[&holder]);
    let sign = || asking.local().sign(cluster.request(EC, Scheme::EcdsaSecp256r1Sha256));
    // Nothing probes: the first request makes the first connection, and only the first one is used.
    sign().await.unwrap();
    sign().await.unwrap();
    assert_eq!(net.dialled.load(Ordering::SeqCst), 1);
    net.stalled.send_replace(true);
    let refusal = sign().await.unwrap_err();
    assert_eq!(refusal.tried.len(), 1, "one machine, one attempt: {refusal:?}");
    for _ in 0..3 {
        assert_eq!(sign().await.unwrap().machine, "fra-1");
    }
    assert_eq!(net.dialled.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_trace_crosses_with_a_span_of_its_own() {
    let cluster = Cluster::new();
    let node = cluster.node("ams-1", "ams").start().await;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let next = node.router.next_span(parent);
    assert_eq!((next.len(), &next[..36], &next[52..]), (parent.len(), &parent[..36], &parent[52..]));
    assert_ne!(next, parent);
    assert_eq!(node.router.next_span(""), "");
}
