//! What opens and what does not, with real keys under real policies.

use std::collections::BTreeMap;

use cinnabar_authority_api::records::{Cert, Machine, Mode};
use cinnabar_edge_api::{Input, Scheme};

use super::*;
use crate::fixture::{World, generation, rng};

fn keys(world: &World, country: &str) -> MachineKeys {
    let keys = MachineKeys::default();
    keys.replace(BTreeMap::from([(generation(1), world.key(country))]));
    keys
}

fn view(directory: &Directory, cert: &Cert) -> CertRef {
    directory.cert(&cert.zone, &cert.id).unwrap()
}

#[tokio::test]
async fn a_satisfied_policy_opens_once_and_its_key_signs() {
    let mut world = World::new(Mode::Production);
    let policy = world.policy("country: DE");
    let certs = [world.cert("a.example", 1, &policy), world.cert("b.example", 2, &policy)];
    certs.iter().for_each(|cert| world.serve(cert));
    world.store.cover();
    let directory = world.store.directory(None);
    let keyring = Keyring::new(directory.clone(), keys(&world, "DE"));
    let first = view(&directory, &certs[0]);
    let key = keyring.key(&first).await.unwrap();
    key.sign(Scheme::EcdsaSecp256r1Sha256, &Input::Digest(vec![7; 32].into())).unwrap();
    assert!(Arc::ptr_eq(&key, &keyring.key(&first).await.unwrap()), "parsed once");
    keyring.key(&view(&directory, &certs[1])).await.unwrap();
    assert_eq!((keyring.decryptions(), keyring.generation()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_at_once_cost_one_decryption() {
    let mut world = World::new(Mode::Production);
    let policy = world.policy("country: DE");
    let certs: Vec<_> = (1..=8).map(|n| world.cert(&format!("a{n}.example"), n, &policy)).collect();
    certs.iter().for_each(|cert| world.serve(cert));
    world.store.cover();
    let directory = world.store.directory(None);
    let keyring = Keyring::new(directory.clone(), keys(&world, "DE"));
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..64 {
        let (keyring, cert) = (keyring.clone(), view(&directory, &certs[n % certs.len()]));
        callers.spawn(async move { keyring.key(&cert).await.map(drop) });
    }
    while let Some(called) = callers.join_next().await {
        called.unwrap().unwrap();
    }
    assert_eq!(keyring.decryptions(), 1);
}

#[tokio::test]
async fn a_policy_that_is_not_satisfied_costs_nothing_and_opens_nothing() {
    let mut world = World::new(Mode::Production);
    let policy = world.policy("country: US");
    let cert = world.cert("a.example", 1, &policy);
    world.serve(&cert);
    world.store.cover();
    let directory = world.store.directory(None);
    let keyring = Keyring::new(directory.clone(), keys(&world, "DE"));
    let cert = view(&directory, &cert);
    assert_eq!(keyring.key(&cert).await.unwrap_err(), NotHere::NotSatisfied);
    assert_eq!(keyring.could_open(&cert.cert.policy), Err(NotHere::NotSatisfied));
    keyring.open_all().await;
    assert_eq!((keyring.decryptions(), keyring.open_policies()), (0, 0));
}

#[tokio::test]
async fn what_arrives_is_opened_before_anybody_asks_and_leaves_when_this_machine_is_revoked() {
    let mut world = World::new(Mode::Production);
    let policies = [world.policy("country: DE"), world.policy("country: US"), world.policy("not country: US")];
    let cert = world.cert("a.example", 1, &policies[2]);
    world.serve(&cert);
    world.store.cover();
    let directory = world.store.directory(None);
    let keyring = Keyring::new(directory.clone(), keys(&world, "DE"));
    keyring.open_all().await;
    assert_eq!((keyring.open_policies(), keyring.decryptions()), (2, 2));
    let cert = view(&directory, &cert);
    keyring.key(&cert).await.unwrap();
    assert_eq!(keyring.decryptions(), 2);
    world.revoke("fra-1");
    directory.catch_up();
    assert_eq!(keyring.key(&cert).await.unwrap_err(), NotHere::NoKey, "also what was open");
    keyring.open_all().await;
    assert_eq!(keyring.open_policies(), 0);
}

#[tokio::test]
async fn it_has_looked_once_the_keys_of_the_start_opened_what_they_open() {
    let mut world = World::new(Mode::Production);
    let policy = world.policy("country: DE");
    world.serve(&world.cert("a.example", 1, &policy));
    world.store.cover();
    let machine = MachineKeys::default();
    let keyring = Keyring::new(world.store.directory(None), machine.clone());
    let shutdown = Shutdown::new();
    tokio::spawn(keyring.clone().run(shutdown.clone()));
    tokio::time::sleep(5 * FIRST_LOOK_EVERY).await;
    assert!(!keyring.has_looked(), "what an earlier process kept is not here yet");
    machine.replace(BTreeMap::from([(generation(1), world.key("DE"))]));
    machine.settle();
    while !keyring.has_looked() {
        tokio::time::sleep(FIRST_LOOK_EVERY).await;
    }
    assert_eq!(keyring.open_policies(), 1);
    let _ = shutdown.drain().await;
}

#[tokio::test]
async fn another_key_than_the_certificate_shows_is_never_used() {
    let mut world = World::new(Mode::Production);
    let policy = world.policy("country: DE");
    let [shown, other] = [(), ()].map(|()| rcgen::KeyPair::generate().unwrap());
    let cert = world.cert_with("a.example", 1, &policy, &shown, &other);
    world.serve(&cert);
    // The key of one certificate under the name of another.
    let moved = Cert { wrapped_key: cert.wrapped_key.clone(), ..world.cert("b.example", 2, &policy) };
    world.serve(&moved);
    world.store.cover();
    let directory = world.store.directory(None);
    let keyring = Keyring::new(directory.clone(), keys(&world, "DE"));
    for cert in [cert, moved] {
        let refused = keyring.key(&view(&directory, &cert)).await.unwrap_err();
        assert!(matches!(refused, NotHere::Rejected(_)), "{refused}");
    }
}

#[tokio::test]
async fn a_key_that_is_not_what_was_issued_is_not_used() {
    let mut world = World::new(Mode::Production);
    let policy = world.policy("country: US");
    let cert = world.cert("a.example", 1, &policy);
    world.serve(&cert);
    world.store.cover();
    let directory = world.store.directory(None);
    // It would open the policy; its machine's record says DE.
    let stolen = keys(&world, "US");
    let me = directory.machine(directory.me()).unwrap();
    assert_eq!(stolen.usable(generation(1), &me).unwrap_err(), KeyRefused::Differs);
    assert_eq!(stolen.usable(generation(2), &me).unwrap_err(), KeyRefused::Missing);
    let keyring = Keyring::new(directory.clone(), stolen);
    assert_eq!(keyring.key(&view(&directory, &cert)).await.unwrap_err(), NotHere::NoKey);
    assert_eq!((keyring.decryptions(), keyring.generation()), (0, 0));
    // The record says so later: then it is.
    world.machine("fra-1", "fra", "US");
    directory.catch_up();
    keyring.key(&view(&directory, &cert)).await.unwrap();
    world.store.end::<Machine>(cinnabar_authority_api::RecordKey::Machine("fra-1".parse().unwrap()));
    directory.catch_up();
    assert_eq!(keyring.key(&view(&directory, &cert)).await.unwrap_err(), NotHere::NoKey);
}

#[test]
fn a_key_with_a_wildcard_is_not_used() {
    let mut world = World::new(Mode::Production);
    world.store.cover();
    let directory = world.store.directory(None);
    let attributes = cinnabar_abe::danger::attributes([], [&b"country"[..]]);
    let wild = cinnabar_abe::danger::keygen(&world.secret, &mut rng(), &attributes).unwrap();
    let keys = MachineKeys::default();
    keys.replace(BTreeMap::from([(generation(1), wild)]));
    let me = directory.machine(directory.me()).unwrap();
    assert_eq!(keys.usable(generation(1), &me).unwrap_err(), KeyRefused::Wildcard);
}
