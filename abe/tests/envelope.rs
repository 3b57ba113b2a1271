//! Policy keys, wrapped secrets and record signatures.

mod common;

use std::num::NonZeroU32;

use cinnabar_abe::danger::primitives;
use cinnabar_abe::envelope::{
    Context, Kind, PolicyPublicKey, PolicySecretKey, WRAP_OVERHEAD_BYTES, WrappedSecret, wrap,
};
use cinnabar_abe::limits::{NAME_BYTES_MAX, RECORD_BYTES_MAX, SECRET_BYTES_MAX};
use cinnabar_abe::signature::{RecordSigningKey, RecordVerifyingKey, SIGNATURE_BYTES};
use cinnabar_abe::{Attributes, Error, Policy, setup};
use common::{Fixed, Shake, hex};

const ONE: NonZeroU32 = NonZeroU32::MIN;
const TWO: NonZeroU32 = NonZeroU32::MIN.saturating_add(1);

fn array<const N: usize>(text: &str) -> [u8; N] {
    hex(text).try_into().unwrap()
}

// === HPKE ===

#[test]
fn hpke_reproduces_rfc_9180_appendix_a_2_1() {
    let info = hex("4f6465206f6e2061204772656369616e2055726e");
    let ikm_e = hex("909a9b35d3dc4713a5e72a4da274b55d3d3821a37e5d099e74a647db583a904b");
    let public = array("4310ee97d88cc1f088a5576c77ab0cf5c3ac797f3d95139c6c84b5429c59662a");
    let secret = array("8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb");
    let encapsulated = array("1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a");
    let plaintext = hex("4265617574792069732074727574682c20747275746820626561757479");
    let aad = hex("436f756e742d30");
    let sealed = hex("1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28");

    let made = primitives::hpke_seal(&mut Fixed(ikm_e), &public, &info, &aad, &plaintext).unwrap();
    assert_eq!(made, (encapsulated, sealed.clone()));
    let opened = primitives::hpke_open(&secret, &encapsulated, &info, &aad, &sealed).unwrap();
    assert_eq!(opened.expose(), plaintext);
}

/// u-coordinates of low order (RFC 7748 §6, and the list that libraries refuse), the last two not canonical.
const LOW_ORDER: [&str; 7] = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
];

#[test]
fn all_zero_shared_secrets_are_refused() {
    let mut rng = Shake::new("low order");
    let secret = PolicySecretKey::generate(&mut rng);
    for point in LOW_ORDER {
        assert!(matches!(PolicyPublicKey::from_bytes(array(point)), Err(Error::Malformed { .. })), "{point}");
        assert_eq!(primitives::hpke_seal(&mut rng, &array(point), b"", b"", b""), Err(Error::Rejected), "{point}");
        let mut bytes = vec![1];
        bytes.extend(hex(point));
        bytes.extend([0; 40]);
        let wrapped = WrappedSecret::from_bytes(&bytes).unwrap();
        assert_eq!(secret.unwrap(&context(), &wrapped), Err(Error::Rejected), "{point}");
    }
    let high_bit = array("4310ee97d88cc1f088a5576c77ab0cf5c3ac797f3d95139c6c84b5429c5966aa");
    assert!(PolicyPublicKey::from_bytes(high_bit).is_err(), "bit 255 is not part of the number");
    assert_eq!(PolicyPublicKey::from_bytes(*secret.public_key().as_bytes()), Ok(secret.public_key()));
}

// === Wrapping ===

fn context() -> Context<'static> {
    Context {
        cluster: b"cluster-1",
        kind: Kind::Certificate,
        zone: "example.com",
        name: "crt_01",
        spki_sha256: Some([7; 32]),
        policy: Policy::parse("region: EU").unwrap().id(b"cluster-1"),
        policy_key_version: ONE,
    }
}

#[test]
fn a_wrapped_secret_opens_under_its_own_context_only() {
    let mut rng = Shake::new("contexts");
    let key = PolicySecretKey::generate(&mut rng);
    let secret = b"-----BEGIN PRIVATE KEY-----";
    let wrapped = wrap(&mut rng, &key.public_key(), &context(), secret).unwrap();
    assert_eq!(wrapped.as_bytes().len(), secret.len() + WRAP_OVERHEAD_BYTES);
    let wrapped = WrappedSecret::from_bytes(wrapped.as_bytes()).unwrap();
    assert_eq!(key.unwrap(&context(), &wrapped).unwrap().expose(), secret);

    let other_policy = Policy::parse("region: US").unwrap().id(b"cluster-1");
    for (what, other) in [
        ("cluster", Context { cluster: b"cluster-2", ..context() }),
        ("kind", Context { kind: Kind::Secret, ..context() }),
        ("zone", Context { zone: "example.org", ..context() }),
        ("name", Context { name: "crt_02", ..context() }),
        ("spki", Context { spki_sha256: Some([8; 32]), ..context() }),
        ("no spki", Context { spki_sha256: None, ..context() }),
        ("policy", Context { policy: other_policy, ..context() }),
        ("version", Context { policy_key_version: TWO, ..context() }),
        // The boundary between two names is part of what is bound.
        ("boundary", Context { zone: "example.comcrt", name: "_01", ..context() }),
        ("boundary", Context { cluster: b"cluster-1\0", ..context() }),
    ] {
        assert_eq!(key.unwrap(&other, &wrapped), Err(Error::Rejected), "{what}");
    }
    let stranger = PolicySecretKey::generate(&mut rng);
    assert_eq!(stranger.unwrap(&context(), &wrapped), Err(Error::Rejected));
}

#[test]
fn no_changed_byte_of_a_wrapped_secret_is_accepted() {
    let mut rng = Shake::new("flips");
    let key = PolicySecretKey::generate(&mut rng);
    let wrapped = wrap(&mut rng, &key.public_key(), &context(), b"secret").unwrap();
    for at in 0..wrapped.as_bytes().len() {
        // The highest bit of the encapsulated key is ignored by X25519 but bound by the KEM.
        for bit in [1, 0x80] {
            let mut bytes = wrapped.as_bytes().to_vec();
            bytes[at] ^= bit;
            let result = WrappedSecret::from_bytes(&bytes).and_then(|changed| key.unwrap(&context(), &changed));
            assert!(result.is_err(), "byte {at}, bit {bit}");
        }
    }
    for length in 0..WRAP_OVERHEAD_BYTES {
        assert!(matches!(
            WrappedSecret::from_bytes(&wrapped.as_bytes()[..length]),
            Err(Error::Malformed { what: "wrapped secret", .. })
        ));
    }
}

#[test]
fn sizes_are_bounded_at_the_limit_and_not_before() {
    let mut rng = Shake::new("sizes");
    let key = PolicySecretKey::generate(&mut rng);
    let largest = vec![1; SECRET_BYTES_MAX];
    let wrapped = wrap(&mut rng, &key.public_key(), &context(), &largest).unwrap();
    assert_eq!(key.unwrap(&context(), &wrapped).unwrap().expose(), largest);
    let too_long = wrap(&mut rng, &key.public_key(), &context(), &vec![1; SECRET_BYTES_MAX + 1]);
    assert!(matches!(too_long, Err(Error::TooLong { what: "secret", .. })));
    let mut bytes = wrapped.as_bytes().to_vec();
    bytes.push(0);
    assert!(matches!(WrappedSecret::from_bytes(&bytes), Err(Error::TooLong { .. })));
    let name = "n".repeat(NAME_BYTES_MAX + 1);
    let long_name = Context { name: &name, ..context() };
    assert!(matches!(wrap(&mut rng, &key.public_key(), &long_name, b""), Err(Error::TooLong { what: "name", .. })));
    let name = &name[1..];
    assert!(wrap(&mut rng, &key.public_key(), &Context { name, ..context() }, b"").is_ok());
}

// === Policy keys ===

#[test]
fn a_policy_key_opens_only_as_itself() {
    let mut rng = Shake::new("policy keys");
    let (public, secret) = setup(&mut rng).unwrap();
    let attributes = |country| Attributes::new([("region", "EU"), ("country", country)]).unwrap();
    let german = secret.keygen(&mut rng, &attributes("DE")).unwrap();
    let french = secret.keygen(&mut rng, &attributes("FR")).unwrap();
    let policy = Policy::parse("region: EU and not country: FR").unwrap();
    let id = policy.id(b"cluster-1");

    let key = PolicySecretKey::generate(&mut rng);
    let ciphertext = key.encrypt(&public, &mut rng, &policy, b"cluster-1", ONE).unwrap();
    let open =
        |machine, cluster: &[u8], id, version| PolicySecretKey::decrypt(machine, &ciphertext, cluster, id, version);
    assert!(open(&german, b"cluster-1", &id, ONE).unwrap() == key);
    assert_eq!(open(&french, b"cluster-1", &id, ONE).err(), Some(Error::NotSatisfied));
    let elsewhere = policy.id(b"cluster-2");
    let other_id = Policy::parse("region: EU").unwrap().id(b"cluster-1");
    assert_eq!(open(&german, b"cluster-2", &elsewhere, ONE).err(), Some(Error::Rejected), "cluster");
    assert_eq!(open(&german, b"cluster-1", &other_id, ONE).err(), Some(Error::Rejected), "policy");
    assert_eq!(open(&german, b"cluster-1", &id, TWO).err(), Some(Error::Rejected), "version");
    // A plaintext that is no policy key is refused, not misread.
    for plaintext in [&b""[..], &[1; 64], &[1; 65], &[1; 66]] {
        let other = public.encrypt(&mut rng, &policy, plaintext).unwrap();
        let opened = PolicySecretKey::decrypt(&german, &other, b"cluster-1", &id, ONE);
        assert_eq!(opened.err(), Some(Error::Rejected));
    }
    // The road of a customer key: wrap to the policy key, open on a machine that satisfies.
    let wrapped = wrap(&mut rng, &key.public_key(), &Context { policy: id, ..context() }, b"customer key").unwrap();
    let opened = open(&german, b"cluster-1", &id, ONE).unwrap();
    assert_eq!(opened.unwrap(&Context { policy: id, ..context() }, &wrapped).unwrap().expose(), b"customer key");
}

// === Signatures ===

#[test]
fn ed25519_reproduces_rfc_8032_keys() {
    let key = RecordSigningKey::from_bytes(&array("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"));
    let expected = hex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
    assert_eq!(key.verifying_key().to_bytes().to_vec(), expected);
}

#[test]
fn a_signature_holds_for_its_record_domain_and_key_only() {
    let mut rng = Shake::new("signatures");
    let key = RecordSigningKey::generate(&mut rng);
    let verifier = RecordVerifyingKey::from_bytes(&key.verifying_key().to_bytes()).unwrap();
    let signature = key.sign("policy", b"record").unwrap();
    assert_eq!((signature.len(), signature[0]), (SIGNATURE_BYTES, 1));
    assert_eq!(verifier.verify("policy", b"record", &signature), Ok(()));
    for (domain, record) in
        [("policy", &b"recorc"[..]), ("cert", b"record"), ("policyr", b"ecord"), ("polic", b"yrecord")]
    {
        assert_eq!(verifier.verify(domain, record, &signature), Err(Error::BadSignature), "{domain}");
    }
    for at in 0..SIGNATURE_BYTES {
        let mut changed = signature;
        changed[at] ^= 4;
        assert!(verifier.verify("policy", b"record", &changed).is_err(), "byte {at}");
    }
    assert!(matches!(verifier.verify("policy", b"record", &signature[..64]), Err(Error::Malformed { .. })));
    let mut longer = signature.to_vec();
    longer.push(0);
    assert!(matches!(verifier.verify("policy", b"record", &longer), Err(Error::Malformed { .. })));
    let stranger = RecordSigningKey::generate(&mut rng).verifying_key();
    assert_eq!(stranger.verify("policy", b"record", &signature), Err(Error::BadSignature));
    assert!(matches!(key.sign("policy", &vec![0; RECORD_BYTES_MAX + 1]), Err(Error::TooLong { .. })));
}

#[test]
fn weak_and_misspelt_verifying_keys_are_refused() {
    // y = p + 3: the point exists, under another spelling.
    let mut bytes = [0xff; 32];
    (bytes[0], bytes[31]) = (0xf0, 0x7f);
    assert!(RecordVerifyingKey::from_bytes(&bytes).is_err());
    for (byte, rest) in [(0, 0), (1, 0), (0xec, 0xff)] {
        let mut bytes = [rest; 32];
        bytes[0] = byte;
        bytes[31] &= 0x7f;
        assert!(RecordVerifyingKey::from_bytes(&bytes).is_err(), "{bytes:?}");
    }
}

// === Secrets as types ===

#[test]
fn nothing_secret_is_printed() {
    let mut rng = Shake::new("debug");
    let (_, system) = setup(&mut rng).unwrap();
    let machine = system.keygen(&mut rng, &Attributes::new([("country", "FR")]).unwrap()).unwrap();
    let policy_key = PolicySecretKey::generate(&mut rng);
    let signing = RecordSigningKey::generate(&mut rng);
    let printed = [
        format!("{system:?}"),
        format!("{machine:?}"),
        format!("{policy_key:?}"),
        format!("{signing:?}"),
        format!("{:?}", system.to_bytes()),
    ];
    let expected = [
        "SystemSecretKey(redacted)",
        "AttributeKey({\"country\"}, redacted)",
        "PolicySecretKey(redacted)",
        "RecordSigningKey(redacted)",
        "SecretBytes(1136 bytes, redacted)",
    ];
    assert_eq!(printed, expected);
}
