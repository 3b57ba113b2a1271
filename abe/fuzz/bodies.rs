//! What the fuzzers do with their bytes: decode, and hold what decodes to the laws that every value keeps. The fuzz
//! targets and the regression test (`tests/properties.rs`) share these functions.

use std::convert::Infallible;
use std::num::NonZeroU32;
use std::sync::OnceLock;

use cinnabar_abe::envelope::{Context, Kind, PolicySecretKey, WrappedSecret};
use cinnabar_abe::limits::Limits;
use cinnabar_abe::seal::{OperatorSecretKey, SealedFile};
use cinnabar_abe::{
    AttributeKey, Attributes, Ciphertext, PointChecks, Policy, PolicyId, PublicKey, SystemSecretKey, danger, setup,
};
use rand_core::{TryCryptoRng, TryRng};

/// A generator with a known seed (SplitMix64), so that a finding is found again. Never for keys that are used.
struct Seeded(u64);

impl TryRng for Seeded {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.try_next_u64()? as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        Ok(mixed ^ mixed >> 31)
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        for chunk in out.chunks_mut(8) {
            chunk.copy_from_slice(&self.try_next_u64()?.to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

impl TryCryptoRng for Seeded {}

/// A key that holds the labels of the seed corpus, wild: so that decryption goes on to the curve.
fn wild_key() -> &'static AttributeKey {
    static CELL: OnceLock<AttributeKey> = OnceLock::new();
    CELL.get_or_init(|| {
        let mut rng = Seeded(1);
        let (_, secret) = setup(&mut rng).unwrap();
        let labels: Vec<String> = ["country", "dept", "level", "a", "b", "c"].map(str::to_owned).to_vec();
        let attributes = danger::attributes([], labels.iter().map(String::as_bytes));
        danger::keygen(&secret, &mut rng, &attributes).unwrap()
    })
}

/// Texts: what parses prints to a text that parses to the same; what does not points into the text.
pub fn policy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Policy::parse(text) {
        Ok(policy) => {
            assert_eq!(Policy::parse_with(&policy.to_string(), &Limits::FORMAT).unwrap(), policy);
            assert_eq!(policy.id(b"").as_bytes().len(), 32);
            let none = Attributes::new::<&str, &str>([]).unwrap();
            assert!(!policy.is_satisfied_by(&none), "a missing label satisfies nothing");
        }
        Err(error) => {
            assert!(error.span().start <= error.span().end && error.span().end <= text.len());
            assert!(!error.to_string().is_empty());
        }
    }
}

/// What decodes encodes to the same bytes.
pub fn public_key(data: &[u8]) {
    if let Ok(key) = PublicKey::from_bytes(data) {
        assert_eq!(key.to_bytes(), data);
    }
}

/// What decodes encodes to the same bytes.
pub fn system_secret_key(data: &[u8]) {
    if let Ok(key) = SystemSecretKey::from_bytes(data) {
        assert_eq!(key.to_bytes().expose(), data);
    }
}

/// What decodes encodes to the same bytes.
pub fn attribute_key(data: &[u8]) {
    if let Ok(key) = AttributeKey::from_bytes(data) {
        assert_eq!(key.to_bytes().expose(), data);
    }
}

/// Structure, policy, satisfaction, and a decryption by a key of another authority, which must fail.
pub fn ciphertext(data: &[u8]) {
    let Ok(ciphertext) = Ciphertext::from_bytes(data) else { return };
    assert_eq!(ciphertext.as_bytes(), data);
    let policy = ciphertext.policy();
    assert_eq!(&Policy::parse_with(&policy.to_string(), &Limits::FORMAT).unwrap().to_string(), &policy.to_string());
    let key = wild_key();
    assert_eq!(key.could_decrypt(&ciphertext), key.attributes().could_decrypt(data));
    for checks in [PointChecks::Sums, PointChecks::Every] {
        assert!(key.decrypt_with(&ciphertext, checks).is_err(), "a ciphertext of another authority opened");
    }
    let _ = key.audit(&ciphertext);
}

/// What decodes keeps its bytes and opens with no key that it was not wrapped to.
pub fn wrapped_key(data: &[u8]) {
    let Ok(wrapped) = WrappedSecret::from_bytes(data) else { return };
    assert_eq!(wrapped.as_bytes(), data);
    let context = Context {
        cluster: b"fuzz",
        kind: Kind::Secret,
        zone: "zone",
        name: "name",
        spki_sha256: None,
        policy: PolicyId::from_bytes([0; 32]),
        policy_key_version: NonZeroU32::MIN,
    };
    assert!(PolicySecretKey::generate(&mut Seeded(2)).unwrap(&context, &wrapped).is_err());
}

/// What decodes names its recipients within bounds and opens with no key that it was not sealed to. No passphrase is
/// tried: each would take as long as the bytes ask for.
pub fn sealed_file(data: &[u8]) {
    let Ok(file) = SealedFile::from_bytes(data) else { return };
    assert!((1..=16).contains(&file.recipients().len()));
    assert!(file.recipients().all(|recipient| !recipient.to_string().is_empty()));
    let key = OperatorSecretKey::generate(&mut Seeded(3));
    assert!(file.open_with_key(file.purpose(), file.cluster(), &key).is_err());
}
