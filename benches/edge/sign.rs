//! Signatures for each second of processor, with every core at work: aws-lc-rs alone, and through the signer's queues.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKey, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use bytes::Bytes;
use cinnabar_authority_api::records::KeyType;
use cinnabar_daemon::Clock;
use cinnabar_daemon::env::SystemClock;
use cinnabar_edge::signer::{Lane, SignMetrics, Signer, SigningKey, Work};
use cinnabar_edge_api::{Input, Refusal, Scheme};
use serde_json::{Value, json};

use crate::machine::cpus;
use crate::tables::at_least;
use crate::{Fallible, Plan};

/// Least share of what the library does alone.
pub const SHARE: f64 = 0.9;
const CALLERS: usize = 64;

/// Seconds of processor that this process used: what others do on the machine does not change it.
fn used() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn rate(signed: u64, since: f64) -> f64 {
    signed as f64 / (used() - since)
}

/// The library alone, on every core: signatures for each second of processor.
pub fn raw(span: Duration, key: &Arc<SigningKey>, scheme: Scheme, input: &Input) -> f64 {
    let (stop, signed, start) = (AtomicBool::new(false), AtomicU64::new(0), used());
    std::thread::scope(|scope| {
        for _ in 0..cpus() {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    key.sign(scheme, input).expect("the key is of the scheme's kind");
                    signed.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        std::thread::sleep(span);
        stop.store(true, Ordering::Relaxed);
    });
    rate(signed.into_inner(), start)
}

fn queued(span: Duration, signer: &Arc<Signer>, work: impl Fn() -> Work + Clone + Send + 'static) -> Fallible<f64> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(cpus()).enable_time().build()?;
    runtime.block_on(async {
        let (start, before, mut callers) = (SystemClock.now(), used(), Vec::new());
        for _ in 0..CALLERS {
            let (signer, work) = (signer.clone(), work.clone());
            callers.push(tokio::spawn(async move {
                let mut signed = 0u64;
                while SystemClock.now() - start < span {
                    signer.sign(work()).await?;
                    signed += 1;
                    tokio::task::yield_now().await;
                }
                Ok::<u64, Refusal>(signed)
            }));
        }
        let mut signed = 0;
        for caller in callers {
            signed += caller.await??;
        }
        Ok(rate(signed, before))
    })
}

/// The middle one.
pub fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Keys that are measured with: RSA-2048 and P-256, made now.
pub fn keys() -> Fallible<[(&'static str, Scheme, Arc<SigningKey>); 2]> {
    let rsa = RsaKey::generate(KeySize::Rsa2048)?;
    let rsa = AsDer::<Pkcs8V1Der<'_>>::as_der(&rsa)?;
    let p256 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())?;
    Ok([
        ("RSA-2048", Scheme::RsaPssRsaeSha256, Arc::new(SigningKey::from_pkcs8(rsa.as_ref(), KeyType::Rsa(2048))?)),
        ("P-256", Scheme::EcdsaSecp256r1Sha256, Arc::new(SigningKey::from_pkcs8(p256.as_ref(), KeyType::P256)?)),
    ])
}

/// The rows of the part.
pub fn run(plan: &Plan) -> Fallible<Vec<Value>> {
    let (span, rounds) = (plan.length / 8, plan.repeats + 2);
    let signer = Arc::new(Signer::start(cpus(), Arc::new(SystemClock), &SignMetrics::new())?);
    let mut rows = Vec::new();
    for (name, scheme, key) in keys()? {
        let input = Input::Digest(Bytes::from_static(&[7; 32]));
        let mut figures: [Vec<f64>; 3] = Default::default();
        for _ in 0..rounds {
            figures[0].push(raw(span, &key, scheme, &input));
            for (n, lane) in [(1, Lane::Local), (2, Lane::Forwarded)] {
                let (key, input) = (key.clone(), input.clone());
                let deadline = SystemClock.now() + Duration::from_secs(60);
                let work = move || Work { key: key.clone(), scheme, input: input.clone(), deadline, lane };
                figures[n].push(queued(span, &signer, work)?);
            }
        }
        let [alone, local, forwarded] = figures.map(median);
        for (lane, figure) in [("local", local), ("forwarded", forwarded)] {
            let mut row = json!({ "key": name, "lane": lane, "raw_per_cpu_s": alone.round(),
                "per_cpu_s": figure.round(), "share": (1000.0 * figure / alone).round() / 1000.0 });
            at_least(&mut row, "share", SHARE);
            rows.push(row);
        }
    }
    Ok(rows)
}
