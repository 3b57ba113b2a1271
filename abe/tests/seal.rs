//! Sealed files: they open for their recipients, as what they were sealed as, and not otherwise.

mod common;

use cinnabar_abe::limits::{
    ARGON2_MEMORY_KIB_MAX, ARGON2_MEMORY_KIB_MIN, ARGON2_PASSES_MAX, ARGON2_PASSES_MIN, PASSPHRASE_BYTES_MAX,
    PASSPHRASE_BYTES_MIN, SEALED_RECIPIENTS_MAX, SEALED_SECRET_BYTES_MAX,
};
use cinnabar_abe::seal::{
    OperatorPublicKey, OperatorSecretKey, PUBLIC_TEXT_BYTES, PassphraseCost, Recipient, RecipientInfo,
    SEALED_FILE_BYTES_MAX, SECRET_TEXT_BYTES, SealedFile, seal,
};
use cinnabar_abe::{Error, SecretBytes};
use common::Shake;
use proptest::prelude::*;

const PURPOSE: &str = "system secret key";
const CLUSTER: &[u8] = b"prod";
/// `magic (8) | format (1) | L16(purpose) | L16(cluster)`, where the number of recipients stands.
const COUNT_AT: usize = 9 + 2 + PURPOSE.len() + 2 + CLUSTER.len();
/// `u16 length | kind (1) | key (32) | encapsulated (32) | file key (48)`.
const OPERATOR_STANZA_BYTES: usize = 2 + 1 + 32 + 32 + 48;

fn secret(text: &str) -> SecretBytes {
    SecretBytes::new(text.as_bytes().to_vec())
}

fn operators<const N: usize>(rng: &mut Shake) -> [OperatorSecretKey; N] {
    std::array::from_fn(|_| OperatorSecretKey::generate(rng))
}

fn sealed_to(rng: &mut Shake, keys: &[OperatorSecretKey]) -> Vec<u8> {
    let recipients: Vec<_> = keys.iter().map(|key| Recipient::Operator(key.public_key())).collect();
    seal(rng, PURPOSE, CLUSTER, &secret("a secret"), &recipients).unwrap()
}

fn open(bytes: &[u8], key: &OperatorSecretKey) -> Result<SecretBytes, Error> {
    SealedFile::from_bytes(bytes)?.open_with_key(PURPOSE, CLUSTER, key)
}

#[test]
fn any_recipient_opens_the_whole_and_nobody_else() {
    let rng = &mut Shake::new("any recipient");
    let [one, two, other] = operators(rng);
    let (passphrase, wrong) = (secret("correct horse battery"), secret("correct horse batterz"));
    let recipients = [
        Recipient::Operator(one.public_key()),
        Recipient::Passphrase { passphrase: &passphrase, cost: PassphraseCost::LEAST },
        Recipient::Operator(two.public_key()),
    ];
    let bytes = seal(rng, PURPOSE, CLUSTER, &secret("a secret"), &recipients).unwrap();
    let file = SealedFile::from_bytes(&bytes).unwrap();
    assert_eq!((file.purpose(), file.cluster()), (PURPOSE, CLUSTER));
    let infos: Vec<_> = file.recipients().collect();
    assert_eq!(infos[0], RecipientInfo::Operator(one.public_key()));
    assert_eq!(infos[1].to_string(), "passphrase (argon2id, 65536 KiB, 3 passes)");
    assert_eq!(infos[2].to_string(), format!("operator key {}", two.public_key().fingerprint()));

    for key in [&one, &two] {
        assert_eq!(file.open_with_key(PURPOSE, CLUSTER, key).unwrap().expose(), b"a secret");
    }
    assert_eq!(file.open_with_passphrase(PURPOSE, CLUSTER, &passphrase).unwrap().expose(), b"a secret");
    assert_eq!(file.open_with_passphrase(PURPOSE, CLUSTER, &wrong).unwrap_err(), Error::Rejected);
    assert_eq!(file.open_with_key(PURPOSE, CLUSTER, &other).unwrap_err(), Error::Rejected);

    // The passphrase opens nothing of a file whose byte changed behind its own stanza.
    let mut changed = bytes;
    *changed.last_mut().unwrap() ^= 1;
    let changed = SealedFile::from_bytes(&changed).unwrap();
    assert_eq!(changed.open_with_passphrase(PURPOSE, CLUSTER, &passphrase).unwrap_err(), Error::Rejected);
}

#[test]
fn a_file_opens_only_as_what_it_was_sealed_as() {
    let rng = &mut Shake::new("purpose");
    let [key] = operators(rng);
    let bytes = sealed_to(rng, std::slice::from_ref(&key));
    let file = SealedFile::from_bytes(&bytes).unwrap();
    for (purpose, cluster) in [("record signing key", CLUSTER), (PURPOSE, b"test"), ("system secret ke", b"yprod")] {
        assert_eq!(file.open_with_key(purpose, cluster, &key).unwrap_err(), Error::Rejected, "{purpose}");
    }
    // The same written into the file: structure sound, purpose as asked for, and still refused.
    let mut moved = bytes;
    moved[COUNT_AT - 4..COUNT_AT].copy_from_slice(b"test");
    let moved = SealedFile::from_bytes(&moved).unwrap();
    assert_eq!(moved.open_with_key(PURPOSE, b"test", &key).unwrap_err(), Error::Rejected);
}

#[test]
fn every_changed_bit_and_every_truncation_is_refused() {
    let rng = &mut Shake::new("bits");
    let [one, two] = operators(rng);
    let keys = [one, two];
    let bytes = sealed_to(rng, &keys);
    for at in 0..bytes.len() {
        for bit in [0, 3, 7] {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << bit;
            for key in &keys {
                assert!(open(&changed, key).is_err(), "byte {at}, bit {bit}");
            }
        }
        let short = SealedFile::from_bytes(&bytes[..at]).unwrap_err();
        assert!(matches!(short, Error::Malformed { .. }), "{at} bytes: {short}");
    }
    let longer = [&bytes[..], &[0]].concat();
    assert!(matches!(SealedFile::from_bytes(&longer), Err(Error::Malformed { .. })));
}

#[test]
fn stanzas_cannot_be_moved_dropped_added_or_taken_from_another_file() {
    let rng = &mut Shake::new("stanzas");
    let [one, two, three] = operators(rng);
    let two_keys = [one, two];
    let bytes = sealed_to(rng, &two_keys);
    let other = sealed_to(rng, &two_keys);
    let third = sealed_to(rng, std::slice::from_ref(&three));
    let start = COUNT_AT + 1;
    let (first, second) = (start..start + OPERATOR_STANZA_BYTES, start + OPERATOR_STANZA_BYTES);
    let second = second..second + OPERATOR_STANZA_BYTES;
    let rebuilt =
        |count: u8, stanzas: &[&[u8]]| [&bytes[..COUNT_AT], &[count], &stanzas.concat(), &bytes[second.end..]].concat();
    let (a, b) = (&bytes[first.clone()], &bytes[second.clone()]);
    assert_eq!(rebuilt(2, &[a, b]), bytes, "the test knows the layout");
    let attacks = [
        ("swapped", rebuilt(2, &[b, a])),
        ("dropped", rebuilt(1, &[a])),
        ("dropped the other", rebuilt(1, &[b])),
        ("added", rebuilt(3, &[a, b, &third[first.clone()]])),
        ("from another file", rebuilt(2, &[a, &other[second.clone()]])),
    ];
    for (what, attack) in attacks {
        for key in &two_keys {
            assert_eq!(open(&attack, key).err(), Some(Error::Rejected), "{what}");
        }
    }
    let twice = rebuilt(2, &[a, a]);
    assert!(matches!(SealedFile::from_bytes(&twice), Err(Error::Malformed { .. })));
}

#[test]
fn no_file_asks_for_less_or_more_work_than_the_bounds_allow() {
    let rng = &mut Shake::new("argon2");
    let passphrase = secret("correct horse battery");
    let recipient = Recipient::Passphrase { passphrase: &passphrase, cost: PassphraseCost::LEAST };
    let bytes = seal(rng, PURPOSE, CLUSTER, &secret("a secret"), &[recipient]).unwrap();
    let with = |memory_kib: u32, passes: u32| {
        let mut changed = bytes.clone();
        let at = COUNT_AT + 1 + 2 + 1;
        changed[at..at + 4].copy_from_slice(&memory_kib.to_le_bytes());
        changed[at + 4..at + 8].copy_from_slice(&passes.to_le_bytes());
        SealedFile::from_bytes(&changed)
    };
    for (memory_kib, passes) in [
        (ARGON2_MEMORY_KIB_MIN - 1, ARGON2_PASSES_MIN),
        (ARGON2_MEMORY_KIB_MIN, ARGON2_PASSES_MIN - 1),
        (8, 1),
        (0, 0),
        (ARGON2_MEMORY_KIB_MAX + 1, ARGON2_PASSES_MIN),
        (ARGON2_MEMORY_KIB_MIN, ARGON2_PASSES_MAX + 1),
        (u32::MAX, u32::MAX),
    ] {
        let refused = with(memory_kib, passes).unwrap_err();
        assert!(matches!(refused, Error::Malformed { .. }), "{memory_kib} {passes}: {refused}");
    }
    // Within the bounds, but not what it was sealed with.
    let dearer = with(ARGON2_MEMORY_KIB_MIN, ARGON2_PASSES_MIN + 1).unwrap();
    assert_eq!(dearer.open_with_passphrase(PURPOSE, CLUSTER, &passphrase).unwrap_err(), Error::Rejected);
    assert_eq!(with(ARGON2_MEMORY_KIB_MIN, ARGON2_PASSES_MIN).unwrap().recipients().len(), 1);
}

#[test]
fn what_is_not_worth_sealing_with_is_refused_before_any_work() {
    let rng = &mut Shake::new("refused");
    let [key] = operators(rng);
    let operator = Recipient::Operator(key.public_key());
    let fits = secret("correct horse battery");
    let mut try_seal = |purpose: &str, cluster: &[u8], secret_bytes: usize, recipients: &[Recipient<'_>]| {
        seal(rng, purpose, cluster, &SecretBytes::new(vec![7; secret_bytes]), recipients).unwrap_err()
    };
    let sealing = |error: Error| assert!(matches!(error, Error::Sealing { .. }), "{error}");
    let long = "p".repeat(65);
    for purpose in ["", "a\nb", "ü", long.as_str()] {
        sealing(try_seal(purpose, CLUSTER, 1, &[operator]));
    }
    sealing(try_seal(PURPOSE, CLUSTER, 1, &[]));
    sealing(try_seal(PURPOSE, CLUSTER, 1, &[operator, operator]));
    sealing(try_seal(PURPOSE, CLUSTER, 1, &[operator; SEALED_RECIPIENTS_MAX + 1]));
    let dearest = PassphraseCost::new(ARGON2_MEMORY_KIB_MAX, ARGON2_PASSES_MAX).unwrap();
    sealing(try_seal(PURPOSE, CLUSTER, 1, &[Recipient::Passphrase { passphrase: &fits, cost: dearest }; 2]));
    let too_long = |error: Error| assert!(matches!(error, Error::TooLong { .. }), "{error}");
    too_long(try_seal(PURPOSE, CLUSTER, SEALED_SECRET_BYTES_MAX + 1, &[operator]));
    too_long(try_seal(PURPOSE, &[0; 256], 1, &[operator]));
    let (short, long) = (vec![7; PASSPHRASE_BYTES_MIN - 1], vec![7; PASSPHRASE_BYTES_MAX + 1]);
    let [short, long] = [short, long].map(SecretBytes::new);
    let cost = PassphraseCost::LEAST;
    let error = try_seal(PURPOSE, CLUSTER, 1, &[Recipient::Passphrase { passphrase: &short, cost }]);
    assert!(matches!(error, Error::TooShort { .. }), "{error}");
    too_long(try_seal(PURPOSE, CLUSTER, 1, &[Recipient::Passphrase { passphrase: &long, cost }]));
    let file = SealedFile::from_bytes(&sealed_to(rng, &[key])).unwrap();
    assert!(matches!(file.open_with_passphrase(PURPOSE, CLUSTER, &short), Err(Error::TooShort { .. })));
}

#[test]
fn a_full_file_stays_within_its_bound_and_an_empty_secret_is_one() {
    let rng = &mut Shake::new("full");
    let keys: [OperatorSecretKey; SEALED_RECIPIENTS_MAX] = operators(rng);
    let recipients = keys.each_ref().map(|key| Recipient::Operator(key.public_key()));
    for length in [0, SEALED_SECRET_BYTES_MAX] {
        let bytes = seal(rng, PURPOSE, CLUSTER, &SecretBytes::new(vec![7; length]), &recipients).unwrap();
        assert!(bytes.len() <= SEALED_FILE_BYTES_MAX);
        assert_eq!(open(&bytes, &keys[SEALED_RECIPIENTS_MAX - 1]).unwrap().len(), length);
    }
}

#[test]
fn a_file_of_format_1_still_opens() {
    let rng = &mut Shake::new("format 1");
    let [key] = operators(rng);
    let bytes = sealed_to(rng, std::slice::from_ref(&key));
    let golden = common::hex(include_str!("../testdata/sealed-file-1.hex").trim());
    assert_eq!(bytes, golden, "the same draws give the same bytes");
    assert_eq!(open(&golden, &key).unwrap().expose(), b"a secret");
}

#[test]
fn an_operators_key_has_one_spelling() {
    let rng = &mut Shake::new("text");
    let [key] = operators(rng);
    let (secret_text, public_text) = (key.to_text(), key.public_key().to_string());
    assert_eq!((secret_text.len(), public_text.len()), (SECRET_TEXT_BYTES, PUBLIC_TEXT_BYTES));
    assert_eq!(OperatorSecretKey::from_text(&secret_text).unwrap(), key);
    assert_eq!(public_text.parse::<OperatorPublicKey>().unwrap(), key.public_key());
    let bytes: [u8; 32] = key.to_bytes().expose().try_into().unwrap();
    assert_eq!(OperatorSecretKey::from_bytes(&bytes), key);
    assert!(!format!("{key:?}").contains(&hex::encode(bytes)[..8]));

    for text in [secret_text.expose(), public_text.as_bytes()] {
        let refused = |bytes: Vec<u8>| {
            let as_public = String::from_utf8(bytes.clone()).is_ok_and(|t| t.parse::<OperatorPublicKey>().is_ok());
            assert!(!as_public && OperatorSecretKey::from_text(&SecretBytes::new(bytes)).is_err());
        };
        refused(text.to_ascii_uppercase());
        refused([text, b"\n"].concat());
        refused([b" ", text].concat());
        for at in 0..text.len() {
            refused(text[..at].to_vec());
            let mut changed = text.to_vec();
            changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
            refused(changed);
        }
    }
    assert!(OperatorSecretKey::from_text(&SecretBytes::new(public_text.into_bytes())).is_err());
    assert!(std::str::from_utf8(secret_text.expose()).unwrap().parse::<OperatorPublicKey>().is_err());
}

#[test]
fn keys_with_which_nothing_is_secret_are_refused() {
    let mut order_eight = [0; 32];
    order_eight.copy_from_slice(&common::hex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"));
    for bytes in [[0; 32], order_eight, [0xff; 32]] {
        assert!(matches!(OperatorPublicKey::from_bytes(bytes), Err(Error::Malformed { .. })));
    }
}

/// Bytes that look like a sealed file for a while.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let stanza = prop_oneof![
        (any::<[u8; 32]>(), prop::collection::vec(any::<u8>(), 78..82))
            .prop_map(|(key, rest)| [&[2][..], &key, &rest].concat()),
        (prop_oneof![Just(65_536_u32), any::<u32>()], 0..20_u32).prop_map(|(memory, passes)| {
            [&[1][..], &memory.to_le_bytes(), &passes.to_le_bytes(), &[9; 104]].concat()
        }),
        prop::collection::vec(any::<u8>(), 0..40),
    ];
    (prop::collection::vec(stanza, 0..4), 0..5_u8, prop::collection::vec(any::<u8>(), 0..80)).prop_map(
        |(stanzas, count, rest)| {
            let mut bytes = b"CINNASEL\x01\x01\0p\x01\0c".to_vec();
            bytes.push(count);
            for stanza in stanzas {
                bytes.extend_from_slice(&u16::try_from(stanza.len()).unwrap().to_le_bytes());
                bytes.extend_from_slice(&stanza);
            }
            [&bytes[..], &rest].concat()
        },
    )
}

proptest! {
    #[test]
    fn no_bytes_stop_the_reader(bytes in prop_oneof![nearly(), prop::collection::vec(any::<u8>(), 0..300)]) {
        if let Ok(file) = SealedFile::from_bytes(&bytes) {
            prop_assert!((1..=SEALED_RECIPIENTS_MAX).contains(&file.recipients().len()));
            let key = OperatorSecretKey::from_bytes(&[5; 32]);
            prop_assert!(file.open_with_key(file.purpose(), file.cluster(), &key).is_err());
        }
    }
}
