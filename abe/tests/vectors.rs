//! Interoperability vectors: every case of every file in `testdata/`, and of every file in the folder that the
//! environment variable `CINNABAR_VECTORS` names.
//!
//! The formats are told apart by each file's `format` field; see `testdata/README.md` for where the files come from.

mod common;
#[path = "vectors/malformed_keys.rs"]
mod malformed_keys;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use cinnabar_abe::danger::{self, primitives};
use cinnabar_abe::limits::{Limits, POLICY_DEPTH_MAX};
use cinnabar_abe::{AttributeKey, Ciphertext, Error, Framing, PointChecks, Policy, PublicKey, SystemSecretKey, setup};
use common::{Shake, hex};
use serde::Deserialize;
use serde_json::Value;

// === The files ===

fn files() -> Vec<PathBuf> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata")];
    folders.extend(std::env::var_os("CINNABAR_VECTORS").map(PathBuf::from));
    let mut files = Vec::new();
    for folder in folders {
        let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let before = files.len();
        files.extend(entries.map(|entry| entry.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "json")));
        assert!(files.len() > before, "{}: no vectors in this folder", folder.display());
    }
    files.sort();
    files
}

/// Runs `check` on every file of a format and returns how many cases they held.
fn run(format: &str, check: impl Fn(&Value) -> usize) -> usize {
    let mut cases = 0;
    for path in files() {
        let file: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        if file["format"] == format {
            let count = check(&file);
            println!("{}: {count} cases", path.file_name().unwrap().display());
            cases += count;
        }
    }
    cases
}

#[test]
fn every_file_has_a_known_format() {
    for path in files() {
        let file: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let known = ["tkn20-interop-1", "tkn20-dsl-1", "tkn20-malformed-1", "tkn20-primitives-1"];
        assert!(known.iter().any(|format| file["format"] == *format), "{}: unknown format", path.display());
    }
}

// === tkn20-interop-1 ===

#[derive(Deserialize)]
struct Interop {
    setup_prng_seed: Option<String>,
    public_key: String,
    system_secret_key: String,
    attribute_keys: Vec<KeyCase>,
    cases: Vec<CiphertextCase>,
}

#[derive(Deserialize)]
struct KeyCase {
    id: String,
    attributes: BTreeMap<String, String>,
    #[serde(default)]
    wildcard_labels: Vec<String>,
    keygen_prng_seed: String,
    attribute_key: String,
}

#[derive(Deserialize)]
struct CiphertextCase {
    id: String,
    policy: String,
    extracted_policy: String,
    attribute_value_pairs: BTreeMap<String, Vec<String>>,
    encrypt_prng_seed: String,
    ciphertext_format: String,
    #[serde(default)]
    pre_v1_6_4_and_share_bug: bool,
    plaintext: String,
    ciphertext: String,
    keys_that_decrypt: Vec<String>,
    keys_that_must_fail: Vec<String>,
}

struct Keys {
    public: PublicKey,
    by_id: BTreeMap<String, AttributeKey>,
}

/// Parses every key of a file, makes it again from its seed, and compares bytes.
fn keys(file: &Interop) -> Keys {
    let public = PublicKey::from_bytes(&hex(&file.public_key)).unwrap();
    let secret = SystemSecretKey::from_bytes(&hex(&file.system_secret_key)).unwrap();
    assert_eq!(public.to_bytes(), hex(&file.public_key), "public key bytes");
    assert_eq!(secret.to_bytes().expose(), hex(&file.system_secret_key), "system secret key bytes");
    if let Some(seed) = &file.setup_prng_seed {
        let (made_public, made_secret) = setup(&mut Shake::new(seed)).unwrap();
        assert_eq!(made_public.to_bytes(), public.to_bytes(), "setup: public key");
        assert!(made_secret == secret, "setup: system secret key");
    }
    let mut by_id = BTreeMap::new();
    for case in &file.attribute_keys {
        let bytes = hex(&case.attribute_key);
        let key = AttributeKey::from_bytes(&bytes).unwrap_or_else(|error| panic!("key {}: {error}", case.id));
        assert_eq!(key.to_bytes().expose(), bytes, "key {}: bytes", case.id);
        let attributes = danger::attributes(
            case.attributes.iter().map(|(label, value)| (label.as_bytes(), value.as_bytes())),
            case.wildcard_labels.iter().map(String::as_bytes),
        );
        assert!(*key.attributes() == attributes, "key {}: attributes", case.id);
        let made = danger::keygen(&secret, &mut Shake::new(&case.keygen_prng_seed), &attributes).unwrap();
        assert!(made == key, "key {}: keygen", case.id);
        by_id.insert(case.id.clone(), key);
    }
    Keys { public, by_id }
}

fn check_ciphertext(keys: &Keys, case: &CiphertextCase) {
    let id = &case.id;
    let bytes = hex(&case.ciphertext);
    let plaintext = hex(&case.plaintext);
    let ciphertext = Ciphertext::from_bytes(&bytes).unwrap_or_else(|error| panic!("case {id}: {error}"));
    assert_eq!(ciphertext.as_bytes(), bytes, "case {id}: bytes");
    let policy = Policy::parse_with(&case.policy, &Limits::FORMAT).unwrap();
    assert_eq!(*ciphertext.policy(), policy, "case {id}: policy");
    assert_eq!(Policy::extract(&bytes).unwrap().to_string(), case.extracted_policy, "case {id}: extracted");
    let pairs: BTreeMap<_, _> =
        case.attribute_value_pairs.iter().map(|(l, v)| (l.as_str(), v.iter().map(String::as_str).collect())).collect();
    assert_eq!(policy.attribute_value_pairs(), pairs, "case {id}: pairs");

    let framing = if case.ciphertext_format == "v1.3.8" { Framing::V138 } else { Framing::Legacy };
    assert_eq!(ciphertext.framing(), framing, "case {id}: framing");
    // A ciphertext of a defective encryptor can be read; it must not be possible to make one.
    let made =
        danger::encrypt(&keys.public, &mut Shake::new(&case.encrypt_prng_seed), &policy, &plaintext, framing).unwrap();
    assert_eq!(made == bytes, !case.pre_v1_6_4_and_share_bug, "case {id}: encrypt");
    let short = if framing == Framing::Legacy { 12 } else { 0 };
    assert_eq!(policy.ciphertext_bytes(plaintext.len()), Some(bytes.len() + short), "case {id}: size");

    for key_id in &case.keys_that_decrypt {
        let key = &keys.by_id[key_id];
        assert!(key.could_decrypt(&ciphertext), "case {id}, key {key_id}: could decrypt");
        assert!(key.attributes().could_decrypt(&bytes), "case {id}, key {key_id}: could decrypt from bytes");
        for checks in [PointChecks::Sums, PointChecks::Every] {
            assert_eq!(key.decrypt_with(&ciphertext, checks).unwrap().expose(), plaintext, "case {id}, key {key_id}");
        }
    }
    for key_id in &case.keys_that_must_fail {
        let key = &keys.by_id[key_id];
        assert!(!key.could_decrypt(&ciphertext), "case {id}, key {key_id}: could decrypt");
        assert_eq!(key.decrypt(&ciphertext), Err(Error::NotSatisfied), "case {id}, key {key_id}");
    }
}

#[test]
fn interoperability_cases_are_reproduced_bit_for_bit() {
    let cases = run("tkn20-interop-1", |file| {
        let file: Interop = Deserialize::deserialize(file).unwrap();
        let keys = keys(&file);
        file.cases.iter().for_each(|case| check_ciphertext(&keys, case));
        file.cases.len()
    });
    assert!(cases >= 37, "{cases} cases");
}

// === tkn20-malformed-1 ===

#[derive(Deserialize)]
struct MalformedCase {
    id: String,
    what: String,
    ciphertext: String,
    required_of_implementation: String,
}

fn check_malformed(key: &AttributeKey, plaintext: &[u8], case: &MalformedCase) {
    let name = format!("{}: {}", case.id, case.what);
    let bytes = hex(&case.ciphertext);
    // These two must only not panic.
    let _ = Policy::extract(&bytes);
    let _ = key.attributes().could_decrypt(&bytes);
    let decrypt = |checks| Ciphertext::from_bytes(&bytes).and_then(|ct| key.decrypt_with(&ct, checks));
    let (sums, every) = (decrypt(PointChecks::Sums), decrypt(PointChecks::Every));
    let opens = |result: &Result<cinnabar_abe::SecretBytes, Error>| {
        result.as_ref().is_ok_and(|opened| opened.expose() == plaintext)
    };
    match case.required_of_implementation.as_str() {
        "must decrypt to the plaintext" => assert!(opens(&sums) && opens(&every), "{name}: {sums:?} {every:?}"),
        "default mode: must decrypt to the plaintext; strict mode: must return an error" => {
            assert!(opens(&sums), "{name}: {sums:?}");
            assert!(every.is_err(), "{name}");
        }
        required if required.starts_with("decrypt must return an error and must not panic") => {
            assert!(sums.is_err() && every.is_err(), "{name}");
        }
        other => panic!("{name}: unknown requirement `{other}`"),
    }
}

#[test]
fn malformed_ciphertexts_are_treated_as_required() {
    let cases = run("tkn20-malformed-1", |file| {
        let malformed: Vec<MalformedCase> = Deserialize::deserialize(&file["malformed"]).unwrap();
        let file: Interop = Deserialize::deserialize(file).unwrap();
        let keys = keys(&file);
        file.cases.iter().for_each(|case| check_ciphertext(&keys, case));
        let key = &keys.by_id[&file.attribute_keys[0].id];
        let plaintext = hex(&file.cases[0].plaintext);
        malformed.iter().for_each(|case| check_malformed(key, &plaintext, case));
        malformed.len()
    });
    assert!(cases >= 80, "{cases} cases");
}

// === tkn20-dsl-1 ===

#[derive(Deserialize)]
struct Dsl {
    valid: Vec<DslCase>,
    accepted_by_circl_with_trailing_tokens_ignored: Vec<DslCase>,
    invalid: Vec<InvalidCase>,
}

#[derive(Deserialize)]
struct DslCase {
    input: String,
    canonical: String,
    wires: Vec<WireCase>,
    gates_class_in0_in1_out: Vec<[u16; 4]>,
    policy_marshal: String,
}

#[derive(Deserialize)]
struct WireCase {
    label: String,
    value: String,
    scalar: String,
    positive: bool,
}

#[derive(Deserialize)]
struct InvalidCase {
    input: String,
}

#[test]
fn policy_texts_compile_to_the_same_circuits() {
    let cases = run("tkn20-dsl-1", |file| {
        let file: Dsl = Deserialize::deserialize(file).unwrap();
        for case in &file.valid {
            let input = &case.input;
            // Our bounds on writing are not the reference's; its depth is.
            let limits = Limits { policy_depth: POLICY_DEPTH_MAX, ..Limits::FORMAT };
            let policy = Policy::parse_with(input, &limits).unwrap_or_else(|error| panic!("{input}\n{error}"));
            assert_eq!(policy.to_string(), case.canonical, "{input}");
            let circuit = danger::circuit(&policy).unwrap();
            let wires: Vec<_> = case
                .wires
                .iter()
                .map(|w| (w.label.clone(), w.value.clone(), hex(&w.scalar).try_into().unwrap(), w.positive))
                .collect();
            assert_eq!(circuit.wires, wires, "{input}");
            assert_eq!(circuit.gates, case.gates_class_in0_in1_out, "{input}");
            assert_eq!(circuit.encoded, hex(&case.policy_marshal), "{input}");
            // The printed form means the same thing.
            assert_eq!(Policy::parse_with(&case.canonical, &Limits::FORMAT).unwrap(), policy, "{input}");
        }
        for case in &file.accepted_by_circl_with_trailing_tokens_ignored {
            let error = Policy::parse(&case.input).expect_err(&case.input);
            // A keyword in capitals where an operator stands gets an error that says so.
            assert!(["left-over", "keyword-case"].contains(&error.kind().code()), "{}\n{error}", case.input);
        }
        for case in &file.invalid {
            assert!(Policy::parse(&case.input).is_err(), "{}", case.input);
        }
        file.valid.len() + file.accepted_by_circl_with_trailing_tokens_ignored.len() + file.invalid.len()
    });
    assert!(cases >= 103, "{cases} cases");
}

// === tkn20-primitives-1 ===

fn text<'a>(case: &'a Value, field: &str) -> &'a str {
    case[field].as_str().unwrap_or_else(|| panic!("{case}: no text `{field}`"))
}

fn array<const N: usize>(case: &Value, field: &str) -> [u8; N] {
    hex(text(case, field)).try_into().unwrap()
}

fn list(case: &Value, field: &str) -> Vec<Vec<u8>> {
    case[field].as_array().unwrap().iter().map(|entry| hex(entry.as_str().unwrap())).collect()
}

/// The ZCash compressed form of an uncompressed point.
fn compress(point: &[u8; 96]) -> Vec<u8> {
    let mut p_minus_y =
        hex("1a0111ea397fe69a4b1ba7b6434bacd764774b84f38512bf6730d2a0f6b0f6241eabfffeb153ffffb9feffffffffaaab");
    let mut borrow = 0;
    for (digit, y) in p_minus_y.iter_mut().zip(&point[48..]).rev() {
        let difference = i16::from(*digit) - i16::from(*y) - borrow;
        borrow = i16::from(difference < 0);
        *digit = difference.rem_euclid(256) as u8;
    }
    let mut out = point[..48].to_vec();
    out[0] |= 0x80 | if point[48..] > p_minus_y[..] { 0x20 } else { 0 };
    out
}

fn check_primitive(case: &Value) {
    match text(case, "op") {
        "hash_attribute_value" => {
            assert_eq!(primitives::hash_value(text(case, "value").as_bytes()), array(case, "scalar"));
        }
        "label_oracle" => {
            let made = primitives::label_oracle(text(case, "label").as_bytes());
            let made = made.map(|matrix| matrix.map(|point| compress(&point)).to_vec());
            assert_eq!(made, ["U0", "U1"].map(|m| list(case, &format!("{m}_rowmajor_3x2_compressed"))), "{case}");
        }
        "label_prf" => {
            let made = primitives::label_prf(&array(case, "key"), text(case, "label").as_bytes());
            let made = made.map(|matrix| matrix.map(|scalar| scalar.to_vec()).to_vec());
            assert_eq!(made, ["V0", "V1"].map(|m| list(case, &format!("{m}_rowmajor_3x2"))), "{case}");
        }
        "stream" => {
            let stream = hex(text(case, "keystream"));
            assert_eq!(primitives::stream(&array(case, "key"), stream.len()), stream);
        }
        "mac" => assert_eq!(primitives::mac(&array(case, "key"), &hex(text(case, "msg"))), array(case, "tag")),
        "expand_seed" => {
            let made = primitives::expand_seed(&array(case, "seed"));
            assert_eq!(made, (array(case, "id"), array(case, "id_scalar"), array(case, "mac_key")));
        }
        "random_scalar_from_shake128" => {
            let mut rng = Shake::new(text(case, "seed"));
            let index = case["draw_index"].as_u64().unwrap();
            let drawn = (0..=index).map(|_| primitives::random_scalar(&mut rng).unwrap()).last().unwrap();
            assert_eq!(drawn, array(case, "scalar"));
        }
        "gt_base" => {
            let mut one = [0; 32];
            one[31] = 1;
            assert_eq!(primitives::gt_exp(&one).unwrap(), array(case, "gt"));
        }
        "gt_exp" => assert_eq!(primitives::gt_exp(&array(case, "scalar")).unwrap(), array(case, "gt")),
        other => panic!("unknown primitive `{other}`"),
    }
}

#[test]
fn primitives_agree() {
    let cases = run("tkn20-primitives-1", |file| {
        let cases = file["vectors"].as_array().unwrap();
        cases.iter().for_each(check_primitive);
        cases.len()
    });
    assert!(cases >= 39, "{cases} cases");
}
