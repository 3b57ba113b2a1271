//! Versions, keys, names, and what the policy refuses.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use cinnabar_edge_api::Scheme;
use rustls::HandshakeKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::edge::Kind;
use crate::world::{PATIENCE, TLS12, TLS13, World, echo};

#[tokio::test]
async fn both_versions_with_every_kind_of_key() {
    let world = World::new();
    for (n, (name, kind)) in
        [("p256.example", Kind::P256), ("p384.example", Kind::P384), ("rsa.example", Kind::Rsa)].into_iter().enumerate()
    {
        let held = Arc::new(world.ca.issue(u8::try_from(n).unwrap(), 1, kind, &[name]));
        world.edge.serve(name, &[&held]);
    }
    let terminator = world.terminate(&echo().await).await;
    for (version, label, schemes) in [
        (TLS12, "1.2", [Scheme::EcdsaSecp256r1Sha256, Scheme::EcdsaSecp384r1Sha384, Scheme::RsaPssRsaeSha256]),
        (TLS13, "1.3", [Scheme::EcdsaSecp256r1Sha256, Scheme::EcdsaSecp384r1Sha384, Scheme::RsaPssRsaeSha256]),
    ] {
        world.edge.schemes.lock().unwrap().clear();
        for name in ["p256.example", "p384.example", "rsa.example"] {
            // The client verifies chain, name and signature.
            let kind = terminator.visit(&world.client(version), name).await;
            assert_eq!(kind, HandshakeKind::Full, "{name}");
        }
        assert_eq!(*world.edge.schemes.lock().unwrap(), schemes);
        terminator.until("cinnabar_terminator_handshakes_total", &["done", label], 3.0).await;
    }
    terminator.until("cinnabar_terminator_sign_wait_duration_seconds_count", &[], 6.0).await;
    assert!(!terminator.page("/metrics").await.contains("example"), "no name is a label");
    assert!(terminator.page("/readyz").await.starts_with("HTTP/1.1 200"));
    assert_eq!(terminator.stop().await, Some(0));
}

#[tokio::test]
async fn one_name_with_both_kinds_of_key_serves_what_the_client_can_verify() {
    let world = World::new();
    let held = [Kind::P256, Kind::Rsa].map(|kind| Arc::new(world.ca.issue(kind as u8, 1, kind, &["*.shop.example"])));
    world.edge.serve("both.shop.example", &[&held[0], &held[1]]);
    let terminator = world.terminate(&echo().await).await;
    for version in [TLS12, TLS13] {
        terminator.visit(&world.client(version), "both.shop.example").await;
        assert_eq!(world.edge.schemes.lock().unwrap().pop(), Some(Scheme::EcdsaSecp256r1Sha256));
        // In TLS 1.2 the key's kind is in the cipher suite, in TLS 1.3 in the signature algorithms.
        let suites = |suite| !format!("{suite:?}").contains("ECDSA");
        let mut client = (*world.client_with(version, suites)).clone();
        client.dangerous().set_certificate_verifier(Arc::new(verifier::RsaOnly));
        terminator.visit(&Arc::new(client), "both.shop.example").await;
        assert_eq!(world.edge.schemes.lock().unwrap().pop(), Some(Scheme::RsaPssRsaeSha256));
    }
}

mod verifier {
    //! A client that knows RSA alone. It looks at nothing else: what is asked is which key the server takes.

    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{DigitallySignedStruct, Error, SignatureScheme};

    #[derive(Debug)]
    pub struct RsaOnly;

    impl ServerCertVerifier for RsaOnly {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let known = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
            rustls::crypto::verify_tls12_signature(message, certificate, signed, &known)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let known = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
            rustls::crypto::verify_tls13_signature(message, certificate, signed, &known)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            vec![SignatureScheme::RSA_PSS_SHA256, SignatureScheme::RSA_PKCS1_SHA256]
        }
    }
}

#[tokio::test]
async fn an_unknown_name_is_a_fatal_alert() {
    let world = World::new();
    let terminator = world.terminate(&echo().await).await;
    for version in [TLS12, TLS13] {
        let error = terminator.connect(&world.client(version), "nobody.example").await.unwrap_err();
        assert!(error.to_string().contains("UnrecognisedName"), "{error}");
    }
    terminator.until("cinnabar_terminator_unknown_names_total", &[], 2.0).await;
    terminator.until("cinnabar_terminator_handshakes_total", &["unknown_name"], 2.0).await;
}

#[tokio::test]
async fn a_refused_signature_ends_the_handshake_and_the_next_one_may_succeed() {
    let world = World::new();
    let held = Arc::new(world.ca.issue(1, 1, Kind::P256, &["a.example"]));
    world.edge.serve("a.example", &[&held]);
    let terminator = world.terminate(&echo().await).await;
    for version in [TLS12, TLS13] {
        world.edge.refuse.store(true, Ordering::SeqCst);
        terminator.connect(&world.client(version), "a.example").await.unwrap_err();
        world.edge.refuse.store(false, Ordering::SeqCst);
        terminator.visit(&world.client(version), "a.example").await;
    }
    terminator.until("cinnabar_terminator_handshakes_total", &["refused"], 2.0).await;
    // A certificate that does not parse is the edge node's fault and ends its own name alone.
    let mut damaged = world.ca.issue(2, 1, Kind::P256, &["b.example"]);
    damaged.record.chain[0] = bytes::Bytes::from_static(b"no certificate");
    world.edge.serve("b.example", &[&Arc::new(damaged)]);
    let error = terminator.connect(&world.client(TLS13), "b.example").await.unwrap_err();
    assert!(error.to_string().contains("InternalError"), "{error}");
    terminator.visit(&world.client(TLS13), "a.example").await;
}

/// A ClientHello of TLS 1.2's form: RFC 5246 section 7.4.1.2.
fn client_hello(version: u8, suites: &[u16], name: Option<&str>) -> Vec<u8> {
    let sized = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat();
    let mut body = vec![3, version];
    body.extend([7; 32]);
    body.push(0);
    body.extend(sized(&suites.iter().flat_map(|suite| suite.to_be_bytes()).collect::<Vec<_>>()));
    body.extend([1, 0]);
    let mut extensions = Vec::new();
    let mut extension = |kind: u16, content: &[u8]| {
        extensions.extend(kind.to_be_bytes());
        extensions.extend(sized(content));
    };
    if let Some(name) = name {
        extension(0, &sized(&[&[0][..], &sized(name.as_bytes())].concat()));
    }
    extension(10, &sized(&[0, 23]));
    extension(11, &[1, 0]);
    extension(13, &sized(&[4, 1, 8, 4, 4, 3]));
    body.extend(sized(&extensions));
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let message = [&[1][..], &length[1..], &body].concat();
    [&[22, 3, 1][..], &sized(&message)].concat()
}

#[tokio::test]
async fn no_rsa_key_exchange_no_tls_1_1_and_no_name_no_service() {
    let world = World::new();
    let held = Arc::new(world.ca.issue(1, 1, Kind::Rsa, &["a.example"]));
    world.edge.serve("a.example", &[&held]);
    let terminator = world.terminate(&echo().await).await;
    let ask = async |hello: Vec<u8>| {
        let mut stream = TcpStream::connect(terminator.address).await.unwrap();
        stream.write_all(&hello).await.unwrap();
        let mut answer = [0; 7];
        let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut answer)).await.unwrap();
        read.unwrap_or_else(|error| panic!("no answer: {error}"));
        answer
    };
    let good = [0xc02f];
    assert_eq!(ask(client_hello(3, &good, Some("a.example"))).await[0], 22, "the hello itself is well: a ServerHello");
    // TLS_RSA_WITH_ of AES-128 and AES-256, GCM and CBC.
    let rsa = [0x009c, 0x009d, 0x002f, 0x0035, 0x003c, 0x003d];
    let refused = ask(client_hello(3, &rsa, Some("a.example"))).await;
    // The library takes leave without saying why; what matters is that no ServerHello comes.
    assert_eq!(refused[0], 21, "an alert: {refused:?}");
    let old = ask(client_hello(2, &[0xc013, 0x002f], Some("a.example"))).await;
    assert_eq!(old[0], 21, "an alert: {old:?}");
    terminator.until("cinnabar_terminator_handshakes_total", &["protocol"], 2.0).await;
    let nameless = ask(client_hello(3, &good, None)).await;
    assert_eq!((nameless[0], nameless[5], nameless[6]), (21, 2, 112), "unrecognized_name: {nameless:?}");
    terminator.until("cinnabar_terminator_handshakes_total", &["no_name"], 1.0).await;
    assert_eq!(terminator.metric("cinnabar_terminator_decrypt_refused_total", &[]).await, 0.0, "it never came to that");
}
