//! Requests over real connections: a Unix socket, and mutual TLS between machines of one authority.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, RSA_PSS_2048_8192_SHA256, UnparsedPublicKey};
use bytes::Bytes;
use cinnabar_edge_api::Input;
use cinnabar_edge_api::proto::peer_client::PeerClient;
use cinnabar_edge_api::proto::signer_client::SignerClient;

use super::super::rates::SignRates;
use super::*;
use crate::testing::{Cluster, DIGEST, EC, RSA, verify_ec};

fn code<T: fmt::Debug>(answer: Result<T, Refusal>) -> RefusalCode {
    answer.unwrap_err().code
}

#[tokio::test]
async fn a_local_service_has_both_kinds_signed_by_call_and_by_stream() {
    let cluster = Cluster::new();
    let node = cluster.node("fra-1", "fra").start().await;
    let client = node.local();
    for (certificate, scheme) in [(EC, Scheme::EcdsaSecp256r1Sha256), (RSA, Scheme::RsaPssRsaeSha256)] {
        let request = cluster.request(certificate, scheme);
        for answer in [client.sign(request.clone()).await, client.sign_once(request.clone()).await] {
            let signature = answer.unwrap();
            assert_eq!((signature.machine.as_str(), signature.data_center.as_str()), ("fra-1", "fra"));
            assert!(!signature.remote && signature.elapsed_us > 0);
            let public = cluster.key(certificate).public_key().to_vec();
            match certificate {
                EC => UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, public)
                    .verify_digest(&crate::testing::digest(), &signature.signature)
                    .unwrap(),
                _ => UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, public)
                    .verify_digest(&crate::testing::digest(), &signature.signature)
                    .unwrap(),
            }
        }
    }
    assert_eq!(node.service.counts(), SignCounts { here: 4, elsewhere: 0, for_others: 0 });
}

#[tokio::test]
async fn every_wrong_request_of_a_local_service_is_refused_for_its_reason() {
    let cluster = Cluster::new();
    let node = cluster.node("fra-1", "fra").start().await;
    let client = node.local();
    let good = cluster.request(EC, Scheme::EcdsaSecp256r1Sha256);
    client.sign(good.clone()).await.unwrap();
    let refused = |request: SignRequest| async {
        (code(client.sign(request.clone()).await), code(client.sign_once(request).await))
    };
    let both = |code| (code, code);

    let other_key = SignRequest { spki_sha256: [9; 32], ..good.clone() };
    assert_eq!(refused(other_key).await, both(RefusalCode::UnknownCertificate));
    let unknown = SignRequest { certificate: "f".repeat(32), ..good.clone() };
    assert_eq!(refused(unknown).await, both(RefusalCode::UnknownCertificate));
    for name in ["UPPER", "a/b", "-"] {
        let named = SignRequest { zone: name.to_owned(), ..good.clone() };
        assert_eq!(refused(named).await, both(RefusalCode::Malformed), "{name}");
    }
    for digest in [&DIGEST[..31], &[&DIGEST[..], &[0]].concat()] {
        let cut = SignRequest { input: Input::Digest(Bytes::copy_from_slice(digest)), ..good.clone() };
        assert_eq!(refused(cut).await, both(RefusalCode::BadScheme));
    }
    // A scheme of the other kind of key, and of another curve: nobody is asked for a key.
    let opened = node.keys_opened();
    for (certificate, scheme) in [
        (EC, Scheme::RsaPssRsaeSha256),
        (EC, Scheme::EcdsaSecp384r1Sha384),
        (RSA, Scheme::EcdsaSecp256r1Sha256),
        (RSA, Scheme::Ed25519),
    ] {
        let mut other = cluster.request(certificate, scheme);
        other.input = Input::Message(Bytes::from_static(b"m"));
        assert_eq!(refused(other).await, both(RefusalCode::BadScheme), "{scheme}");
    }
    assert_eq!(node.keys_opened(), opened);
    node.records.stale.store(true, Ordering::SeqCst);
    assert_eq!(refused(good.clone()).await, both(RefusalCode::Stale));
    assert_eq!(node.service.counts().here, 1);
}

#[test]
fn a_scheme_fits_one_kind_of_key() {
    let kinds = [KeyType::Rsa(2048), KeyType::P256, KeyType::P384];
    for scheme in Scheme::ALL {
        let fitting = kinds.into_iter().filter(|kind| fits(*kind, scheme)).count();
        assert_eq!(fitting, usize::from(scheme != Scheme::Ed25519), "{scheme}");
    }
}

#[tokio::test]
async fn a_user_who_is_not_on_the_list_is_refused() {
    let cluster = Cluster::new();
    let mut node = cluster.node("fra-1", "fra");
    node.uids = vec![rustix::process::getuid().as_raw() + 1];
    let node = node.start().await;
    let request = cluster.request(EC, Scheme::EcdsaSecp256r1Sha256);
    assert_eq!(code(node.local().sign(request.clone()).await), RefusalCode::NotPermitted);
    assert_eq!(code(node.local().sign_once(request).await), RefusalCode::NotPermitted);
    assert_eq!(node.keys_opened(), 0);
}

#[tokio::test]
async fn a_peer_has_signatures_and_every_other_caller_is_refused() {
    let cluster = Cluster::new();
    let node = cluster.node("fra-1", "fra").start().await;
    node.records.add(&cluster, "ams-1", "ams", &[("country", "NL")]);
    node.records.add(&cluster, "waw-1", "waw", &[("country", "PL")]);
    let request = cluster.request(EC, Scheme::EcdsaSecp256r1Sha256);
    let peer = cluster.peer("spiffe://acme/edge/ams-1", &node);
    let signature = peer.sign(request.clone()).await.unwrap();
    verify_ec(&cluster, &signature);
    assert_eq!(node.service.counts().for_others, 1);

    for identity in ["voter/v1", "replica/r1", "operator/o1", "authority/a1"] {
        let other = cluster.peer(&format!("spiffe://acme/{identity}"), &node);
        assert_eq!(code(other.sign(request.clone()).await), RefusalCode::NotPermitted, "{identity}");
        assert_eq!(code(other.sign_once(request.clone()).await), RefusalCode::NotPermitted, "{identity}");
    }
    let stranger = cluster.peer("spiffe://acme/edge/xxx-1", &node);
    assert_eq!(code(stranger.sign(request.clone()).await), RefusalCode::NotPermitted);

    // Its shape is looked at as a local one's.
    let other_key = SignRequest { spki_sha256: [9; 32], ..request.clone() };
    assert_eq!(code(peer.sign(other_key).await), RefusalCode::UnknownCertificate);
    let cut = SignRequest { input: Input::Digest(Bytes::from_static(&[0; 31])), ..request.clone() };
    assert_eq!(code(peer.sign(cut).await), RefusalCode::BadScheme);
    let opened = node.keys_opened();
    assert_eq!(code(peer.sign(cluster.request(EC, Scheme::RsaPkcs1Sha256)).await), RefusalCode::BadScheme);
    assert_eq!(node.keys_opened(), opened);

    // Revoked inside the open stream: the next request is refused.
    node.records.revoke("ams-1");
    assert_eq!(code(peer.sign(request.clone()).await), RefusalCode::NotPermitted);
    assert_eq!(code(peer.sign_once(request.clone()).await), RefusalCode::NotPermitted);
    let waw = cluster.peer("spiffe://acme/edge/waw-1", &node);
    waw.sign(request.clone()).await.unwrap();
    node.records.stale.store(true, Ordering::SeqCst);
    assert_eq!(code(waw.sign(request).await), RefusalCode::Stale);
}

#[tokio::test]
async fn served_by_says_which_peers_may_ask() {
    let cluster = Cluster::new();
    let mut node = cluster.node("fra-1", "fra");
    node.served_by = Some("country: NL".to_owned());
    let node = node.start().await;
    node.records.add(&cluster, "ams-1", "ams", &[("country", "NL")]);
    node.records.add(&cluster, "waw-1", "waw", &[("country", "PL")]);
    let request = cluster.request(EC, Scheme::EcdsaSecp256r1Sha256);
    for _ in 0..2 {
        cluster.peer("spiffe://acme/edge/ams-1", &node).sign(request.clone()).await.unwrap();
        let waw = cluster.peer("spiffe://acme/edge/waw-1", &node);
        assert_eq!(code(waw.sign(request.clone()).await), RefusalCode::NotPermitted);
    }
    // Not for what it was, but for what it is now.
    node.records.add(&cluster, "ams-1", "ams", &[("country", "DE")]);
    let moved = cluster.peer("spiffe://acme/edge/ams-1", &node);
    assert_eq!(code(moved.sign(request).await), RefusalCode::NotPermitted);
}

#[tokio::test]
async fn what_a_peer_asks_is_never_passed_on() {
    let cluster = Cluster::new();
    let holder = cluster.node("iad-1", "iad").start().await;
    let mut middle = cluster.node("fra-1", "fra");
    middle.holds = false;
    let middle = middle.start().await;
    for node in [&holder, &middle] {
        for (machine, dc) in [("fra-1", "fra"), ("iad-1", "iad"), ("ams-1", "ams")] {
            node.records.add(&cluster, machine, dc, &[("country", "DE")]);
        }
    }
    middle.records.set_holders(&[&holder]);
    let request = cluster.request(EC, Scheme::EcdsaSecp256r1Sha256);
    // Its own service's request goes to the holder; a peer's does not.
    let signature = middle.local().sign(request.clone()).await.unwrap();
    assert!(signature.remote && signature.machine == "iad-1" && signature.data_center == "iad");
    verify_ec(&cluster, &signature);
    let peer = cluster.peer("spiffe://acme/edge/ams-1", &middle);
    assert_eq!(code(peer.sign(request).await), RefusalCode::NotPermitted);
    assert_eq!(holder.service.counts().for_others, 1);
    assert_eq!(middle.service.counts(), SignCounts { here: 0, elsewhere: 1, for_others: 0 });
}

#[tokio::test]
async fn a_peer_that_asks_too_often_is_refused_and_this_machine_is_not() {
    let cluster = Cluster::new();
    let mut node = cluster.node("fra-1", "fra");
    node.rates = SignRates { peer_per_second: 2, ..SignRates::default() };
    let node = node.start().await;
    node.records.add(&cluster, "ams-1", "ams", &[("country", "NL")]);
    let peer = cluster.peer("spiffe://acme/edge/ams-1", &node);
    let request = cluster.request(EC, Scheme::EcdsaSecp256r1Sha256);
    let mut refused = 0;
    for _ in 0..20 {
        match peer.sign(request.clone()).await {
            Ok(_) => {}
            Err(refusal) => {
                assert_eq!(refusal.code, RefusalCode::Overloaded);
                refused += 1;
            }
        }
        node.local().sign(request.clone()).await.unwrap();
    }
    assert!(refused > 0);
}

#[tokio::test]
async fn answers_of_a_stream_come_as_they_are_ready() {
    let cluster = Cluster::new();
    let node = cluster.node("fra-1", "fra").start().await;
    let (sender, requests) = mpsc::channel(8);
    let channel = cinnabar_daemon::mtls::uds_channel(&node.socket);
    let mut answers = SignerClient::new(channel).sign_stream(ReceiverStream::new(requests)).await.unwrap().into_inner();
    node.keys.park(RSA);
    let first = SignRequest { id: 1, ..cluster.request(RSA, Scheme::RsaPssRsaeSha256) };
    let second = SignRequest { id: 2, ..cluster.request(EC, Scheme::EcdsaSecp256r1Sha256) };
    sender.send(first.into()).await.unwrap();
    sender.send(second.into()).await.unwrap();
    assert_eq!(answers.message().await.unwrap().unwrap().id, 2);
    node.keys.release();
    let answer = answers.message().await.unwrap().unwrap();
    assert_eq!(answer.id, 1);
    assert!(matches!(answer.outcome, Some(Outcome::Signature(_))));
    // The end of the node is the stream's, although its client holds it open.
    node.shutdown.trigger();
    assert!(answers.message().await.unwrap().is_none());
}

#[tokio::test]
async fn a_stream_with_too_many_open_requests_refuses_the_next_one_at_once() {
    let cluster = Cluster::new();
    let node = cluster.node("fra-1", "fra").start().await;
    let (sender, requests) = mpsc::channel(STREAM_OPEN_MAX + 1);
    let channel = cinnabar_daemon::mtls::uds_channel(&node.socket);
    let mut answers = SignerClient::new(channel).sign_stream(ReceiverStream::new(requests)).await.unwrap().into_inner();
    node.keys.park(RSA);
    let request = cluster.request(RSA, Scheme::RsaPssRsaeSha256);
    for id in 0..=STREAM_OPEN_MAX as u64 {
        sender.send(SignRequest { id, ..request.clone() }.into()).await.unwrap();
    }
    let answer = answers.message().await.unwrap().unwrap();
    assert_eq!(answer.id, STREAM_OPEN_MAX as u64);
    let Some(Outcome::Refusal(refusal)) = answer.outcome else { panic!("a signature") };
    assert_eq!(refusal.code(), RefusalCode::Overloaded);
}

#[tokio::test]
async fn probes_are_for_peers_and_say_whether_it_signs() {
    let cluster = Cluster::new();
    let node = cluster.node("fra-1", "fra").start().await;
    node.records.add(&cluster, "ams-1", "ams", &[("country", "NL")]);
    let mut peer = PeerClient::new(cluster.channel("spiffe://acme/edge/ams-1", &node));
    let answer = peer.probe(proto::ProbeRequest {}).await.unwrap().into_inner();
    assert!(answer.signs);
    node.records.stale.store(true, Ordering::SeqCst);
    assert!(!peer.probe(proto::ProbeRequest {}).await.unwrap().into_inner().signs);
    let mut voter = PeerClient::new(cluster.channel("spiffe://acme/voter/v1", &node));
    assert_eq!(voter.probe(proto::ProbeRequest {}).await.unwrap_err().code(), tonic::Code::PermissionDenied);
}
