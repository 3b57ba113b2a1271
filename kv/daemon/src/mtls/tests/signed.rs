//! Signatures: what verifies, and every change that must not.

use super::*;

struct Signed {
    pki: Pki,
    verifier: Arc<Tls>,
    signer: Arc<Tls>,
    signature: Signature,
}

const MESSAGE: &[u8] = b"frame 7 of the log";

fn signed() -> Signed {
    let pki = Pki::new();
    let (verifier, signer) = (pki.tls("spiffe://prod/edge/e1"), pki.tls("spiffe://prod/voter/v1"));
    let signature = signer.sign(MESSAGE).unwrap();
    Signed { pki, verifier, signer, signature }
}

impl Signed {
    fn verify(&self, message: &[u8], now_ms: u64) -> Result<Identity, VerifyError> {
        let Signature { certificate, scheme, signature } = &self.signature;
        self.verifier.verify_signed(certificate, *scheme, message, signature, VOTERS, now_ms)
    }

    fn remembered(&self) -> usize {
        self.verifier.current.load().verified.len()
    }
}

#[test]
fn a_members_signature_verifies_and_its_certificate_is_remembered() {
    let signed = signed();
    for _ in 0..2 {
        assert_eq!(signed.verify(MESSAGE, now()).as_ref(), Ok(signed.signer.identity()));
        assert_eq!(signed.remembered(), 1);
    }
    assert_eq!(signed.signature.scheme, 0x0403, "ECDSA P-256 with SHA-256");
    assert!(signed.signature.certificate.len() < 1024);
}

#[test]
fn a_remembered_certificate_is_not_walked_again() {
    let signed = signed();
    signed.verify(MESSAGE, now()).unwrap();
    // Under a stranger's authorities a walk would fail: an answer can only come from memory.
    let stranger = Pki::new().tls("spiffe://prod/voter/v1");
    let (ours, theirs) = (signed.verifier.current.load(), stranger.current.load());
    let certificate = CertificateDer::from(signed.signature.certificate.clone());
    let now = UnixTime::since_unix_epoch(Duration::from_millis(now()));
    assert!(ours.verified.identify(&theirs.roots, &certificate, now).is_ok());
    assert_eq!(theirs.verified.identify(&theirs.roots, &certificate, now), Err(VerifyError::UnknownIssuer));
}

#[test]
fn a_changed_message_or_signature_is_refused() {
    let mut signed = signed();
    assert_eq!(signed.verify(b"frame 8 of the log", now()), Err(VerifyError::Signature));
    assert_eq!(signed.verify(&[CONTEXT, MESSAGE].concat(), now()), Err(VerifyError::Signature));
    assert_eq!(signed.verify(b"", now()), Err(VerifyError::Signature));
    let good = signed.signature.clone();
    for at in 0..good.signature.len() {
        signed.signature.signature[at] ^= 1;
        assert_eq!(signed.verify(MESSAGE, now()), Err(VerifyError::Signature), "byte {at}");
        signed.signature = good.clone();
    }
    for length in [0, SIGNATURE_BYTES_MAX + 1] {
        signed.signature.signature.resize(length, 0);
        assert_eq!(signed.verify(MESSAGE, now()), Err(VerifyError::Signature));
    }
    signed.signature = good.clone();
    for scheme in [0, 0x0203, 0x0503, 0x0807, 0x0401, 0x0804] {
        signed.signature.scheme = scheme;
        assert!(signed.verify(MESSAGE, now()).is_err(), "{scheme:#06x}");
    }
    signed.signature = good;
    assert!(signed.verify(MESSAGE, now()).is_ok());
}

#[test]
fn the_key_alone_without_our_context_signs_nothing() {
    let mut signed = signed();
    let loaded = signed.signer.current.load();
    let signer = loaded.certified.key.choose_scheme(super::super::signed::SCHEMES).unwrap();
    signed.signature.signature = signer.sign(MESSAGE).unwrap();
    drop(loaded);
    assert_eq!(signed.verify(MESSAGE, now()), Err(VerifyError::Signature));
}

#[test]
fn a_signer_we_do_not_accept_is_refused() {
    let mut signed = signed();
    let edge = signed.pki.tls("spiffe://prod/edge/e2").sign(MESSAGE).unwrap();
    signed.signature = edge;
    for _ in 0..2 {
        // The second time from memory: the role is asked every time.
        assert!(matches!(signed.verify(MESSAGE, now()), Err(VerifyError::Role { .. })));
    }
    signed.signature = Pki::new().tls("spiffe://prod/voter/v1").sign(MESSAGE).unwrap();
    assert_eq!(signed.verify(MESSAGE, now()), Err(VerifyError::UnknownIssuer));
    signed.signature.certificate = vec![0x30; 100];
    assert!(matches!(signed.verify(MESSAGE, now()), Err(VerifyError::Malformed(_))));
    signed.signature.certificate = vec![0; CERTIFICATE_BYTES_MAX + 1];
    assert!(matches!(signed.verify(MESSAGE, now()), Err(VerifyError::Malformed(_))));
    assert_eq!(signed.remembered(), 1, "only verified certificates are remembered");
}

#[test]
fn another_members_certificate_does_not_cover_a_signature() {
    let mut signed = signed();
    signed.signature.certificate = signed.pki.tls("spiffe://prod/voter/v2").certificate();
    assert_eq!(signed.verify(MESSAGE, now()), Err(VerifyError::Signature));
}

#[test]
fn a_remembered_certificate_still_expires() {
    let signed = signed();
    assert_eq!(signed.verify(MESSAGE, now() + 2 * DAY_MS), Err(VerifyError::Expired));
    assert_eq!(signed.verify(MESSAGE, now() - DAY_MS), Err(VerifyError::NotYetValid));
    assert_eq!(signed.remembered(), 0);
    let end = signed.signer.not_after_s() * 1000;
    for _ in 0..2 {
        assert!(signed.verify(MESSAGE, end).is_ok());
        assert_eq!(signed.verify(MESSAGE, end + 1000), Err(VerifyError::Expired));
        assert_eq!(signed.verify(MESSAGE, now() - DAY_MS), Err(VerifyError::NotYetValid));
        assert_eq!(signed.remembered(), 1);
    }
}

#[test]
fn the_memory_of_certificates_is_bounded() {
    let signed = signed();
    for _ in 0..VERIFIED_CERTIFICATES_MAX + 10 {
        let issued = signed.pki.issue("spiffe://prod/voter/v3", Validity::days(1, now()));
        let key = certified(&issued);
        let loaded = signed.verifier.current.load();
        let now = UnixTime::since_unix_epoch(Duration::from_millis(now()));
        loaded.verified.identify(&loaded.roots, key.end_entity_cert().unwrap(), now).unwrap();
    }
    assert_eq!(signed.remembered(), VERIFIED_CERTIFICATES_MAX);
    assert!(signed.verify(MESSAGE, now()).is_ok());
}
