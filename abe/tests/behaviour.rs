//! What users of the API lean on: caches that change nothing, honest errors, limits of the format, shared keys.

mod common;

use cinnabar_abe::limits::{CACHED_LABELS_MAX, Limits};
use cinnabar_abe::{
    AttributeKey, Attributes, Ciphertext, Error, Framing, Policy, PublicKey, SecretBytes, SystemSecretKey, danger,
    setup,
};
use common::{Fixed, Shake};

fn authority() -> (PublicKey, SystemSecretKey) {
    setup(&mut Shake::new("authority")).unwrap()
}

fn attributes(pairs: &[(&str, &str)]) -> Attributes {
    Attributes::new(pairs.iter().copied()).unwrap()
}

fn wide() -> Limits {
    Limits { policy_text_bytes: 1 << 20, policy_wires: 1_300, ciphertext_bytes: 1 << 24, ..Limits::FORMAT }
}

// === Caches ===

#[test]
fn the_first_the_second_and_the_third_use_of_a_label_give_the_same_bytes() {
    let (public, secret) = authority();
    let policy = Policy::parse("country: FR and not region: US or country: DE").unwrap();
    let own = attributes(&[("country", "FR"), ("region", "EU")]);
    let (public_bytes, secret_bytes) = (public.to_bytes(), secret.to_bytes());
    let first = public.encrypt(&mut Shake::new("ct"), &policy, b"x").unwrap();
    let first_key = secret.keygen(&mut Shake::new("key"), &own).unwrap();
    for _ in 0..3 {
        let again = public.encrypt(&mut Shake::new("ct"), &policy, b"x").unwrap();
        assert_eq!(again.as_bytes(), first.as_bytes());
        assert!(secret.keygen(&mut Shake::new("key"), &own).unwrap() == first_key);
    }
    // A key that was just read has empty caches and agrees.
    let read = PublicKey::from_bytes(&public_bytes).unwrap();
    assert_eq!(read.encrypt(&mut Shake::new("ct"), &policy, b"x").unwrap().as_bytes(), first.as_bytes());
    let read = SystemSecretKey::from_bytes(secret_bytes.expose()).unwrap();
    assert!(read.keygen(&mut Shake::new("key"), &own).unwrap() == first_key);
}

#[test]
fn more_labels_than_the_cache_holds_are_no_trouble() {
    let (public, secret) = authority();
    // Negated conditions take the label's points alone, which is what is bounded here.
    let labels: Vec<String> = (0..CACHED_LABELS_MAX / 4 + 8).map(|i| format!("l{i}")).collect();
    for round in 0..5 {
        let text: Vec<String> = labels.iter().map(|label| format!("not {label}x{round}: 1")).collect();
        let policy = Policy::parse_with(&text.join(" or "), &wide()).unwrap();
        let ciphertext = public.encrypt_with(&mut Shake::new("ct"), &policy, b"x", &wide()).unwrap();
        let own = [(format!("l0x{round}"), "2")];
        let key = secret.keygen(&mut Shake::new("key"), &Attributes::new(own).unwrap()).unwrap();
        assert_eq!(key.decrypt(&ciphertext).unwrap().expose(), b"x");
    }
}

#[test]
fn keys_are_shared_between_threads() {
    let (public, secret) = authority();
    let key = secret.keygen(&mut Shake::new("key"), &attributes(&[("a", "1"), ("b", "2")])).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (public, key) = (public.clone(), &key);
            scope.spawn(move || {
                let policy = Policy::parse("a: 1 and b: 2").unwrap();
                for n in 0..4 {
                    let ciphertext = public.encrypt(&mut Shake::new(&format!("{thread} {n}")), &policy, &[n]).unwrap();
                    assert_eq!(key.decrypt(&ciphertext).unwrap().expose(), [n]);
                }
            });
        }
    });
}

// === Wires ===

#[test]
fn large_circuits_of_every_shape_open() {
    let (public, secret) = authority();
    let key = secret.keygen(&mut Shake::new("key"), &attributes(&[("a", "1"), ("b", "2")])).unwrap();
    let repeated = |n: usize| (0..n).map(|i| format!("a: x{i}")).collect::<Vec<_>>().join(" or ");
    let negated = |n: usize| (0..n).map(|i| format!("not a: x{i}")).collect::<Vec<_>>().join(" and ");
    let nested = (0..200).fold("a: 1".to_owned(), |inner, i| {
        if i % 2 == 0 { format!("(b: 2 and {inner})") } else { format!("(a: 9 or {inner})") }
    });
    // Seventy repeats are more than the bits that the choice of wires counts indexes with.
    for text in [format!("{} or a: 1", repeated(70)), negated(70), nested, format!("b: 2 and ({})", negated(9))] {
        let policy = Policy::parse_with(&text, &wide()).unwrap();
        let bytes = public.encrypt_with(&mut Shake::new("ct"), &policy, b"open", &wide()).unwrap();
        let ciphertext = Ciphertext::from_bytes(bytes.as_bytes()).unwrap();
        assert_eq!(key.decrypt(&ciphertext).unwrap().expose(), b"open", "{text}");
        assert_eq!(ciphertext.policy(), &policy);
    }
}

#[test]
fn any_attributes_work_below_the_shipped_api() {
    // The format allows labels and values that no policy text can name; keys of others may hold them.
    let (_, secret) = authority();
    let odd = danger::attributes([(b"caf\xc3\xa9 \0".as_slice(), b"".as_slice()), (b"", b"x")], []);
    let key = danger::keygen(&secret, &mut Shake::new("key"), &odd).unwrap();
    let read = AttributeKey::from_bytes(key.to_bytes().expose()).unwrap();
    assert!(read == key && *read.attributes() == odd);
    assert_eq!(read.attributes().labels().collect::<Vec<_>>(), ["", "caf\\xc3\\xa9 \\x00"]);
}

// === Plaintexts and framings ===

#[test]
fn plaintexts_of_every_length_come_back() {
    let (public, secret) = authority();
    let key = secret.keygen(&mut Shake::new("key"), &attributes(&[("a", "1")])).unwrap();
    let policy = Policy::parse("a: 1").unwrap();
    for length in [0, 1, 55, 56, 57, 63, 64, 65, 10_000] {
        let plaintext: Vec<u8> = (0..length).map(|i| i as u8).collect();
        let ciphertext = public.encrypt(&mut Shake::new("ct"), &policy, &plaintext).unwrap();
        assert_eq!(ciphertext.plaintext_bytes(), length);
        assert_eq!(policy.ciphertext_bytes(length), Some(ciphertext.as_bytes().len()));
        assert_eq!(key.decrypt(&ciphertext).unwrap().expose(), plaintext);
    }
}

#[test]
fn the_old_framing_is_read_and_ends_at_its_lengths() {
    let (public, secret) = authority();
    let key = secret.keygen(&mut Shake::new("key"), &attributes(&[("a", "1")])).unwrap();
    let policy = Policy::parse("a: 1").unwrap();
    let legacy = |length| danger::encrypt(&public, &mut Shake::new("ct"), &policy, &vec![7; length], Framing::Legacy);
    let bytes = legacy(100).unwrap();
    let ciphertext = Ciphertext::from_bytes(&bytes).unwrap();
    assert_eq!((ciphertext.framing(), bytes.len() + 12), (Framing::Legacy, policy.ciphertext_bytes(100).unwrap()));
    assert_eq!(key.decrypt(&ciphertext).unwrap().expose(), [7; 100]);
    assert!(matches!(legacy(70_000), Err(Error::TooLong { .. })));
}

#[test]
fn two_encryptions_share_nothing_but_the_policy() {
    let (public, _) = authority();
    let policy = Policy::parse("a: 1").unwrap();
    let mut rng = Shake::new("one generator");
    let (one, two) =
        (public.encrypt(&mut rng, &policy, b"x").unwrap(), public.encrypt(&mut rng, &policy, b"x").unwrap());
    assert_ne!(one.as_bytes()[8..40], two.as_bytes()[8..40], "ids");
    let tail = one.as_bytes().len() - 110;
    assert_ne!(one.as_bytes()[tail..], two.as_bytes()[tail..], "envelopes");
}

// === Errors ===

#[test]
fn every_prefix_of_a_ciphertext_is_malformed() {
    let (public, _) = authority();
    for policy in ["a: 1", "not a: 1"] {
        let ciphertext = public.encrypt(&mut Shake::new("ct"), &Policy::parse(policy).unwrap(), b"x").unwrap();
        let bytes = ciphertext.as_bytes();
        for length in 0..bytes.len() {
            match Ciphertext::from_bytes(&bytes[..length]) {
                Err(Error::Malformed { at, .. }) => assert!(at <= length, "{policy}, {length} bytes"),
                other => panic!("{policy}, {length} bytes: {other:?}"),
            }
        }
    }
}

#[test]
fn a_broken_generator_is_reported() {
    let (public, secret) = authority();
    let stuck = || Fixed(vec![0xff; 1 << 16]);
    let broken = |error: Option<Error>| matches!(error, Some(Error::BrokenRng { .. }));
    assert!(broken(setup(&mut stuck()).err()));
    assert!(broken(secret.keygen(&mut stuck(), &attributes(&[])).err()));
    assert!(broken(public.encrypt(&mut stuck(), &Policy::parse("a: 1").unwrap(), b"").err()));
    // All zeros are usable scalars and an unusable matrix.
    assert!(broken(setup(&mut Fixed(vec![0; 1 << 18])).err()));
}

#[test]
fn attribute_errors_name_the_label() {
    for (pairs, label) in [
        (vec![("a", "1"), ("a", "2")], "a"),
        (vec![("", "1")], ""),
        (vec![("and", "1")], "and"),
        (vec![("a", "not")], "a"),
        (vec![("a", "")], "a"),
        (vec![("a b", "1")], "a b"),
        (vec![("\u{e9}", "1")], "\\xc3\\xa9"),
    ] {
        match Attributes::new(pairs.iter().copied()) {
            Err(Error::Attribute { label: named, .. }) => assert_eq!(named, label, "{pairs:?}"),
            other => panic!("{pairs:?}: {other:?}"),
        }
    }
    let own = attributes(&[("b", "2"), ("a", "1")]);
    assert_eq!((own.labels().collect::<Vec<_>>(), own.len(), own.is_empty()), (vec!["a".into(), "b".into()], 2, false));
    assert!(own.has("a", "1") && !own.has("a", "2") && !own.has("c", "1"));
    assert_eq!(own.wildcard_labels().count(), 0);
}

#[test]
fn wire_numbers_beyond_the_policy_are_an_error() {
    let (public, secret) = authority();
    let key = secret.keygen(&mut Shake::new("key"), &attributes(&[("a", "1")])).unwrap();
    let ciphertext = public.encrypt(&mut Shake::new("ct"), &Policy::parse("a: 1").unwrap(), b"x").unwrap();
    assert!(matches!(danger::open_with_wires(&key, &ciphertext, &[2]), Err(Error::Malformed { .. })));
    assert!(matches!(danger::open_mixed(&key, &ciphertext, &[(9, &key)]), Err(Error::Malformed { .. })));
}

#[test]
fn keys_and_secrets_are_equal_by_what_they_hold() {
    let (public, secret) = authority();
    let key = |seed: &str| secret.keygen(&mut Shake::new(seed), &attributes(&[("a", "1")])).unwrap();
    assert!(key("one") == key("one") && key("one") != key("two"));
    assert!(SystemSecretKey::from_bytes(secret.to_bytes().expose()).unwrap() == secret);
    assert!(setup(&mut Shake::new("other")).unwrap().1 != secret);
    assert_eq!(PublicKey::from_bytes(&public.to_bytes()).unwrap(), public);
    let bytes = |bytes: &[u8]| SecretBytes::new(bytes.to_vec());
    assert!(bytes(b"ab") == bytes(b"ab") && bytes(b"ab") != bytes(b"ac") && bytes(b"ab") != bytes(b"abc"));
    assert_eq!((bytes(b"").is_empty(), bytes(b"ab").len()), (true, 2));
}
