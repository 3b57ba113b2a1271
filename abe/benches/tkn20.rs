//! Criterion's view of the scheme: distributions and comparisons between commits. `cinnabar abe bench` prints the figures
//! that are quoted.
#![allow(missing_docs)]

use std::num::NonZeroU32;

use cinnabar_abe::envelope::{Context, Kind, PolicySecretKey, wrap};
use cinnabar_abe::{Attributes, Ciphertext, Policy, PolicyId, PublicKey, SystemSecretKey, setup};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use getrandom::SysRng;
use rand_core::UnwrapErr;

fn tkn20(criterion: &mut Criterion) {
    let mut rng = UnwrapErr(SysRng);
    let (public, secret) = setup(&mut rng).unwrap();
    let mut group = criterion.benchmark_group("tkn20");
    group.sample_size(20);
    for conditions in [1, 10, 50] {
        let text: Vec<String> = (0..conditions).map(|i| format!("k{i}: v{i}")).collect();
        let policy = Policy::parse(&text.join(" and ")).unwrap();
        let attributes = Attributes::new((0..conditions).map(|i| (format!("k{i}"), format!("v{i}")))).unwrap();
        let key = secret.keygen(&mut rng, &attributes).unwrap();
        let ciphertext = public.encrypt(&mut rng, &policy, &[7; 32]).unwrap();
        let bytes = ciphertext.as_bytes();
        println!("and{conditions}: ciphertext {} bytes, key {} bytes", bytes.len(), key.to_bytes().len());

        let id = |name| BenchmarkId::new(name, conditions);
        group.bench_function(id("keygen warm"), |b| b.iter(|| secret.keygen(&mut UnwrapErr(SysRng), &attributes)));
        group.bench_function(id("keygen cold"), |b| {
            let bytes = secret.to_bytes();
            b.iter_batched(
                || SystemSecretKey::from_bytes(bytes.expose()).unwrap(),
                |secret| secret.keygen(&mut UnwrapErr(SysRng), &attributes),
                criterion::BatchSize::LargeInput,
            );
        });
        group.bench_function(id("encrypt warm"), |b| {
            b.iter(|| public.encrypt(&mut UnwrapErr(SysRng), &policy, &[7; 32]))
        });
        group.bench_function(id("encrypt cold"), |b| {
            let bytes = public.to_bytes();
            b.iter_batched(
                || PublicKey::from_bytes(&bytes).unwrap(),
                |public| public.encrypt(&mut UnwrapErr(SysRng), &policy, &[7; 32]),
                criterion::BatchSize::LargeInput,
            );
        });
        group.bench_function(id("decrypt"), |b| b.iter(|| key.decrypt(&Ciphertext::from_bytes(bytes).unwrap())));
        group.bench_function(id("could decrypt"), |b| b.iter(|| key.attributes().could_decrypt(bytes)));
        group.bench_function(id("extract policy"), |b| b.iter(|| Policy::extract(bytes)));
    }
    group.finish();
}

/// A customer key unwrapped with an opened policy key.
fn unwrap(criterion: &mut Criterion) {
    let mut rng = UnwrapErr(SysRng);
    let key = PolicySecretKey::generate(&mut rng);
    let context = Context {
        cluster: b"bench",
        kind: Kind::Certificate,
        zone: "example.com",
        name: "crt",
        spki_sha256: Some([7; 32]),
        policy: PolicyId::from_bytes([1; 32]),
        policy_key_version: NonZeroU32::MIN,
    };
    let wrapped = wrap(&mut rng, &key.public_key(), &context, &[7; 121]).unwrap();
    criterion.bench_function("envelope/unwrap", |b| b.iter(|| key.unwrap(&context, &wrapped)));
}

criterion_group!(benches, tkn20, unwrap);
criterion_main!(benches);
