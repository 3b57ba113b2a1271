//! Keys that no honest writer makes, of our own making: each is one change to a key of `basic.json`, and each must be
//! refused with an error that says where.

use cinnabar_abe::{AttributeKey, Ciphertext, Error, PointChecks, PublicKey, SystemSecretKey};
use serde_json::Value;

use super::common::hex;

/// A change to a key's bytes.
type Change = Box<dyn Fn(&mut Vec<u8>)>;

fn testdata(name: &str) -> Value {
    let path = format!("{}/testdata/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn set(at: usize, bytes: Vec<u8>) -> Change {
    Box::new(move |key| key[at..at + bytes.len()].copy_from_slice(&bytes))
}

fn flip(at: usize, bits: u8) -> Change {
    Box::new(move |key| key[at] ^= bits)
}

fn cut(length: usize) -> Change {
    Box::new(move |key| key.truncate(length))
}

fn append(bytes: &'static [u8]) -> Change {
    Box::new(move |key| key.extend_from_slice(bytes))
}

fn replace(from: Vec<u8>, to: Vec<u8>) -> Change {
    Box::new(move |key| {
        let at = key.windows(from.len()).position(|window| window == from).expect("the bytes are there");
        key.splice(at..at + from.len(), to.iter().copied());
    })
}

/// A point of the curve outside the subgroup: what a strict decryption stumbles over in the malformed ciphertext that
/// `what` begins to describe.
fn point_outside_subgroup(what: &str, length: usize) -> Vec<u8> {
    let file = testdata("malformed.json");
    let mut cases = file["malformed"].as_array().unwrap().iter();
    let case = cases.find(|case| case["what"].as_str().unwrap().starts_with(what)).expect(what);
    let bytes = hex(case["ciphertext"].as_str().unwrap());
    let key = AttributeKey::from_bytes(&hex(file["attribute_keys"][0]["attribute_key"].as_str().unwrap())).unwrap();
    match key.decrypt_with(&Ciphertext::from_bytes(&bytes).unwrap(), PointChecks::Every) {
        Err(Error::Malformed { at, .. }) => bytes[at..at + length].to_vec(),
        other => panic!("{what}: {other:?}"),
    }
}

const P: &str = "1a0111ea397fe69a4b1ba7b6434bacd764774b84f38512bf6730d2a0f6b0f6241eabfffeb153ffffb9feffffffffaaab";
const R: &str = "73eda753299d7d483339d80809a1d80553bda402fffe5bfeffffffff00000001";

fn identity_with_body(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    (bytes[0], bytes[length - 1]) = (0x40, 1);
    bytes
}

fn check(what: &str, valid: &[u8], changes: Vec<(&str, Change)>, parse: impl Fn(&[u8]) -> Result<(), Error>) -> usize {
    parse(valid).unwrap();
    for (name, change) in &changes {
        let mut bytes = valid.to_vec();
        change(&mut bytes);
        assert_ne!(bytes, valid, "{what}, {name}: the change changes nothing");
        match parse(&bytes) {
            Err(Error::Malformed { at, .. }) => assert!(at <= bytes.len(), "{what}, {name}: place {at}"),
            other => panic!("{what}, {name}: {other:?}"),
        }
    }
    changes.len()
}

fn public_keys() -> usize {
    let valid = hex(testdata("basic.json")["public_key"].as_str().unwrap());
    // L16(b2): 2 + 4 + 8 * 192; L16(wb1): 2 + 4 + 6 * 96; L16(btk): 2 + 4 + 2 * 576.
    let (b2, wb1, btk) = (6, 6 + 1536 + 6, 6 + 1536 + 6 + 576 + 6);
    let one = {
        let mut bytes = vec![0; 576];
        bytes[575] = 1;
        bytes
    };
    let changes: Vec<(&str, Change)> = vec![
        ("empty", cut(0)),
        ("one byte", cut(1)),
        ("last byte missing", cut(3281)),
        ("cut behind b2", cut(b2 + 1536)),
        ("one byte more", append(&[0])),
        ("b2 declared 2x4", set(2, vec![2, 0, 4, 0])),
        ("b2 declared 0x0", set(2, vec![0, 0, 0, 0])),
        ("b2 length one more", flip(0, 1)),
        ("b2 point off the curve", flip(b2 + 191, 1)),
        ("b2 point outside the subgroup", set(b2, point_outside_subgroup("c1[0] := point on", 192))),
        ("b2 point with the compression bit", flip(b2, 0x80)),
        ("b2 point with the sign bit", flip(b2, 0x20)),
        ("b2 identity with a body", set(b2, identity_with_body(192))),
        ("b2 coordinate is p", set(b2, hex(P))),
        ("wb1 declared 2x3", set(wb1 - 4, vec![2, 0, 3, 0])),
        ("wb1 point off the curve", flip(wb1 + 95, 1)),
        ("wb1 point outside the subgroup", set(wb1, point_outside_subgroup("c3[0][0] := point on", 96))),
        ("wb1 point with the compression bit", flip(wb1 + 96, 0x80)),
        ("wb1 identity with a body", set(wb1, identity_with_body(96))),
        ("btk declared 1x2", set(btk - 4, vec![1, 0, 2, 0])),
        ("btk coefficient is p", set(btk, hex(P))),
        ("btk not in the group", flip(btk + 575, 1)),
        ("btk zero", set(btk, vec![0; 576])),
        ("btk one", set(btk + 576, one)),
    ];
    check("public key", &valid, changes, |bytes| PublicKey::from_bytes(bytes).map(|_| ()))
}

fn system_secret_keys() -> usize {
    let valid = hex(testdata("basic.json")["system_secret_key"].as_str().unwrap());
    // L16(A): 2 + 4 + 6 * 32, and so on.
    let (a, wt_a, k, prf) = (6, 6 + 192 + 6, 1136 - 18 - 128, 1136 - 16);
    let changes: Vec<(&str, Change)> = vec![
        ("empty", cut(0)),
        ("last byte missing", cut(1135)),
        ("one byte more", append(&[7])),
        ("A declared 2x3", set(2, vec![2, 0, 3, 0])),
        ("A00 is r", set(a, hex(R))),
        ("A00 is zero", set(a, vec![0; 32])),
        ("A01 is not zero", flip(a + 63, 1)),
        ("A10 is not zero", flip(a + 95, 1)),
        ("A11 is zero", set(a + 96, vec![0; 32])),
        ("A20 is not one", flip(a + 159, 2)),
        ("A21 is not one", flip(a + 191, 1)),
        ("W^T A declared 2x4", set(wt_a - 4, vec![2, 0, 4, 0])),
        ("W^T A entry above r", set(wt_a + 32, vec![0xff; 32])),
        ("k declared 1x4", set(k - 4, vec![1, 0, 4, 0])),
        ("k entry is r", set(k + 96, hex(R))),
        (
            "PRF key one byte shorter",
            Box::new(move |key| {
                key[prf - 2] = 15;
                key.pop();
            }),
        ),
        (
            "PRF key one byte longer",
            Box::new(move |key| {
                key[prf - 2] = 17;
                key.push(0);
            }),
        ),
    ];
    check("system secret key", &valid, changes, |bytes| SystemSecretKey::from_bytes(bytes).map(|_| ()))
}

const OWN_LABEL: &[u8] = b"internal-boneh-katz-transform-attribute";
/// Bytes of a part with the transform's own label: label, column.
const OWN_PART_BYTES: usize = 2 + OWN_LABEL.len() + 2 + 4 + 4 * 96;

/// Country and department, and the transform's own label.
fn attribute_key() -> Vec<u8> {
    hex(testdata("basic.json")["attribute_keys"][0]["attribute_key"].as_str().unwrap())
}

/// Where the transform's own label ends in the attribute list.
fn own_label_end(key: &[u8]) -> usize {
    key.windows(OWN_LABEL.len()).position(|window| window == OWN_LABEL).unwrap() + OWN_LABEL.len()
}

fn attribute_lists() -> usize {
    let valid = attribute_key();
    // The list's length and count, then the first label's length and the label.
    let wild = 4 + 2 + 7;
    let changes: Vec<(&str, Change)> = vec![
        ("empty", cut(0)),
        ("three bytes", cut(3)),
        ("last byte missing", cut(valid.len() - 1)),
        ("one byte more", append(&[0])),
        ("list count one more", flip(2, 7)),
        ("list count one less", flip(2, 1)),
        ("labels not ascending", replace(b"country\0".to_vec(), b"xountry\0".to_vec())),
        ("a label twice", replace([b"\x04\0dept".as_slice()].concat(), b"\x04\0coun".to_vec())),
        ("own label misspelt", replace(OWN_LABEL[..10].to_vec(), b"internaL-b".to_vec())),
        ("wild byte is 2", set(wild, vec![2])),
        ("wild byte set on a value", set(wild, vec![1])),
        ("value is r", set(wild + 1, hex(R))),
        (
            "own attribute not wild",
            Box::new(|key| {
                let at = own_label_end(key);
                key[at] = 0;
            }),
        ),
        (
            "own attribute with a value",
            Box::new(|key| {
                let at = own_label_end(key);
                key[at + 32] = 1;
            }),
        ),
    ];
    check("attribute list", &valid, changes, |bytes| AttributeKey::from_bytes(bytes).map(|_| ()))
}

fn attribute_key_parts() -> usize {
    let valid = attribute_key();
    let k1 = 2 + usize::from(u16::from_le_bytes([valid[0], valid[1]])) + 6;
    let (k2, count) = (k1 + 3 * 192 + 6, k1 + 3 * 192 + 6 + 4 * 96);
    let changes: Vec<(&str, Change)> = vec![
        ("k1 declared 1x3", set(k1 - 4, vec![1, 0, 3, 0])),
        ("k1 point off the curve", flip(k1 + 191, 1)),
        ("k1 point outside the subgroup", set(k1, point_outside_subgroup("c1[0] := point on", 192))),
        ("k2 declared 0x0", set(k2 - 4, vec![0, 0, 0, 0])),
        ("k2 point off the curve", flip(k2 + 95, 1)),
        ("k2 point outside the subgroup", set(k2, point_outside_subgroup("c3[0][0] := point on", 96))),
        ("k3 count one less", set(count, vec![2])),
        ("k3 count one more", set(count, vec![4])),
        ("k3 label of another", set(count + 4, b"kountry".to_vec())),
        ("k3 declared 3x1", set(count + 2 + 2 + 7 + 2, vec![3, 0, 1, 0])),
        (
            "k3 point of order three",
            set(count + 2 + 2 + 7 + 6, {
                let mut bytes = vec![0; 96];
                bytes[95] = 2;
                bytes
            }),
        ),
        ("k3 point with the compression bit", flip(count + 2 + 2 + 7 + 6, 0x80)),
        (
            "k3wild missing",
            Box::new(|key| {
                let at = key.len() - OWN_PART_BYTES - 2;
                key.truncate(at);
                key.extend_from_slice(&[0, 0]);
            }),
        ),
        (
            "k3wild twice",
            Box::new(|key| {
                let at = key.len() - OWN_PART_BYTES;
                let copy = key[at..].to_vec();
                key[at - 2] = 2;
                key.extend(copy);
            }),
        ),
        (
            "k3wild of another label",
            Box::new(|key| {
                let at = key.len() - (OWN_PART_BYTES - 2);
                key[at] = b'x';
            }),
        ),
        (
            "k3wild point outside the subgroup",
            Box::new(|key| {
                let at = key.len() - 96;
                key[at..].copy_from_slice(&point_outside_subgroup("c3[0][0] := point on", 96));
            }),
        ),
    ];
    check("attribute key", &valid, changes, |bytes| AttributeKey::from_bytes(bytes).map(|_| ()))
}

#[test]
fn malformed_keys_are_refused_with_a_place() {
    let cases = public_keys() + system_secret_keys() + attribute_lists() + attribute_key_parts();
    println!("malformed keys: {cases} cases");
    assert!(cases >= 40);
}

#[test]
fn every_prefix_of_every_key_is_refused() {
    let file = testdata("basic.json");
    let bytes = |value: &Value| hex(value.as_str().unwrap());
    let public = bytes(&file["public_key"]);
    let secret = bytes(&file["system_secret_key"]);
    let attribute = bytes(&file["attribute_keys"][0]["attribute_key"]);
    // Parsing checks points as it goes: steps keep this short.
    for length in (0..public.len()).step_by(97) {
        assert!(PublicKey::from_bytes(&public[..length]).is_err(), "public key, {length} bytes");
    }
    for length in 0..secret.len() {
        assert!(SystemSecretKey::from_bytes(&secret[..length]).is_err(), "system secret key, {length} bytes");
    }
    for length in (0..attribute.len()).step_by(31) {
        assert!(AttributeKey::from_bytes(&attribute[..length]).is_err(), "attribute key, {length} bytes");
    }
}
