//! The queues with real keys; a clock that lets a worker go on only when the test says so makes every order certain.

use std::time::Duration;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeyPair as RsaKey, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, RSA_PSS_2048_8192_SHA256, UnparsedPublicKey,
};
use bytes::Bytes;
use cinnabar_authority_api::records::KeyType;
use cinnabar_daemon::env::SystemClock;
use futures::FutureExt;
use futures::future::join_all;

use super::*;

/// Reads the system's time; on a worker's thread, only with a permit.
#[derive(Default)]
struct Gate {
    permits: Mutex<usize>,
    more: Condvar,
}

impl Gate {
    fn open(&self, permits: usize) {
        *self.permits.lock() += permits;
        self.more.notify_all();
    }
}

impl Clock for Gate {
    fn now(&self) -> Instant {
        if thread::current().name().is_some_and(|name| name.starts_with("sign-")) {
            let mut permits = self.permits.lock();
            while *permits == 0 {
                self.more.wait(&mut permits);
            }
            *permits -= 1;
        }
        SystemClock.now()
    }

    fn unix_ms(&self) -> u64 {
        SystemClock.unix_ms()
    }
}

struct Bench {
    gate: Arc<Gate>,
    signer: Signer,
    rsa: Arc<SigningKey>,
    p256: Arc<SigningKey>,
}

const MESSAGE: &[u8] = b"what is signed";
const PATIENCE: Duration = Duration::from_secs(30);

impl Bench {
    fn new() -> Self {
        let gate = Arc::new(Gate::default());
        let signer = Signer::start(1, gate.clone(), &SignMetrics::new()).unwrap();
        let rsa =
            AsDer::<aws_lc_rs::encoding::Pkcs8V1Der<'_>>::as_der(&RsaKey::generate(KeySize::Rsa2048).unwrap()).unwrap();
        let p256 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &aws_lc_rs::rand::SystemRandom::new());
        Self {
            gate,
            signer,
            rsa: Arc::new(SigningKey::from_pkcs8(rsa.as_ref(), KeyType::Rsa(2048)).unwrap()),
            p256: Arc::new(SigningKey::from_pkcs8(p256.unwrap().as_ref(), KeyType::P256).unwrap()),
        }
    }

    fn work(&self, key: &Arc<SigningKey>, lane: Lane) -> Work {
        let scheme = if key.is_rsa() { Scheme::RsaPssRsaeSha256 } else { Scheme::EcdsaSecp256r1Sha256 };
        let input = Input::Message(Bytes::from_static(MESSAGE));
        Work { key: key.clone(), scheme, input, deadline: SystemClock.now() + PATIENCE, lane }
    }

    fn rsa(&self, lane: Lane) -> impl Future<Output = Result<Vec<u8>, Refusal>> {
        self.signer.sign(self.work(&self.rsa, lane))
    }

    /// Has the only worker take a job that it cannot finish yet.
    async fn occupied(&self) -> impl Future<Output = Result<Vec<u8>, Refusal>> {
        let mut first = Box::pin(self.rsa(Lane::Forwarded));
        assert!((&mut first).now_or_never().is_none());
        while self.signer.rsa.waiting() > 0 {
            tokio::task::yield_now().await;
        }
        first
    }
}

#[tokio::test]
async fn a_full_lane_refuses_at_once_and_the_other_lane_and_kind_go_on() {
    let bench = Bench::new();
    let first = bench.occupied().await;
    let mut waiting: Vec<_> = (0..RSA_QUEUE_PER_CORE).map(|_| Box::pin(bench.rsa(Lane::Forwarded))).collect();
    assert!(waiting.iter_mut().all(|work| work.now_or_never().is_none()));
    let refused = bench.rsa(Lane::Forwarded).now_or_never().expect("it is refused without a wait").unwrap_err();
    assert_eq!(refused.code, RefusalCode::Overloaded);
    let mut local = Box::pin(bench.rsa(Lane::Local));
    assert!((&mut local).now_or_never().is_none(), "its lane has room");

    // No worker may go on, and yet this machine's own P-256 is signed.
    let signature = bench.signer.sign(bench.work(&bench.p256, Lane::Local)).now_or_never().unwrap().unwrap();
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, bench.p256.public_key()).verify(MESSAGE, &signature).unwrap();

    bench.gate.open(usize::MAX / 2);
    let public = UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, bench.rsa.public_key());
    for signature in [first.await, local.await].into_iter().chain(join_all(waiting).await) {
        public.verify(MESSAGE, &signature.unwrap()).unwrap();
    }
}

#[tokio::test]
async fn what_this_machine_asks_goes_before_what_its_peers_ask() {
    let bench = Bench::new();
    let first = bench.occupied().await;
    let mut forwarded: Vec<_> = (0..3).map(|_| Box::pin(bench.rsa(Lane::Forwarded))).collect();
    assert!(forwarded.iter_mut().all(|work| work.now_or_never().is_none()));
    let mut local: Vec<_> = (0..3).map(|_| Box::pin(bench.rsa(Lane::Local))).collect();
    assert!(local.iter_mut().all(|work| work.now_or_never().is_none()));
    bench.gate.open(4);
    first.await.unwrap();
    assert!(join_all(local).await.iter().all(Result::is_ok));
    assert!(forwarded.iter_mut().all(|work| work.now_or_never().is_none()), "they came first and are still waiting");
    bench.gate.open(3);
    assert!(join_all(forwarded).await.iter().all(Result::is_ok));
}

#[tokio::test]
async fn what_is_past_its_deadline_is_not_signed() {
    let bench = Bench::new();
    let first = bench.occupied().await;
    let deadline = SystemClock.now() + Duration::from_millis(5);
    let late = |lane| bench.signer.sign(Work { deadline, ..bench.work(&bench.rsa, lane) });
    let mut queued = Box::pin(late(Lane::Local));
    assert!((&mut queued).now_or_never().is_none());
    tokio::time::sleep_until(deadline).await;
    bench.gate.open(2);
    first.await.unwrap();
    assert_eq!(queued.await.unwrap_err().code, RefusalCode::Deadline);
    let refused = late(Lane::Local).now_or_never().expect("it is not even queued").unwrap_err();
    assert_eq!(refused.code, RefusalCode::Deadline);
}

#[tokio::test]
async fn what_nobody_waits_for_costs_no_signature_and_an_end_is_an_answer() {
    let bench = Bench::new();
    let first = bench.occupied().await;
    let mut left = Box::pin(bench.rsa(Lane::Local));
    assert!((&mut left).now_or_never().is_none());
    drop(left);
    let mut kept = Box::pin(bench.rsa(Lane::Local));
    assert!((&mut kept).now_or_never().is_none());
    // Two permits are enough for three: what was dropped took none.
    bench.gate.open(2);
    first.await.unwrap();
    kept.await.unwrap();

    let other = Work { scheme: Scheme::EcdsaSecp384r1Sha384, ..bench.work(&bench.p256, Lane::Local) };
    assert_eq!(bench.signer.sign(other).await.unwrap_err().code, RefusalCode::BadScheme);

    let first = bench.occupied().await;
    let (answer, answered) = oneshot::channel();
    let job = Job { work: bench.work(&bench.rsa, Lane::Local), queued: SystemClock.now(), answer };
    bench.signer.rsa.push(job).unwrap();
    bench.signer.rsa.close();
    assert!(answered.await.is_err(), "the signer's end is the waiting one's");
    bench.gate.open(1);
    first.await.unwrap();
}

#[tokio::test]
async fn who_signs_for_a_peer_also_signs_what_waits_and_not_before_it() {
    let bench = Bench::new();
    let push = |lane| {
        let (answer, answered) = oneshot::channel();
        let work = bench.work(&bench.p256, lane);
        bench.signer.ec.push(Job { work, queued: SystemClock.now(), answer }).unwrap();
        answered
    };
    // The only worker takes this and may not go on.
    let first = push(Lane::Forwarded);
    while bench.signer.ec.waiting() > 0 {
        tokio::task::yield_now().await;
    }
    let mut waiting = [push(Lane::Forwarded), push(Lane::Local)];
    let own = bench.signer.sign(bench.work(&bench.p256, Lane::Forwarded)).now_or_never();
    own.expect("it is signed without the worker").unwrap();
    for answered in &mut waiting {
        answered.try_recv().expect("what came before it is signed, too").unwrap();
    }
    let left = push(Lane::Forwarded);
    bench.gate.open(2);
    for answered in [first, left] {
        answered.await.unwrap().unwrap();
    }
}
