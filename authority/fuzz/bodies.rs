//! What the fuzzers do with their bytes: read them as the authority would, and hold what can be read to the laws that
//! every value keeps. The fuzz targets and the regression test (`authority/tests/fuzzed.rs`) share these functions.
//!
//! Each says whether its input was sound, so that a test can see that the seeds are. A signature would keep a fuzzer at
//! the door, so records are signed before they are read.

use std::collections::BTreeSet;

use cinnabar_abe::signature::RecordSigningKey;
use cinnabar_authority::certificate;
use cinnabar_authority::tokens::Presented;
use cinnabar_authority_api::compile::{Vocabulary, compile};
use cinnabar_authority_api::enrolment::EnrolmentToken;
use cinnabar_authority_api::limits::{ATTRIBUTES_MAX, POLICY_TEXT_BYTES_MAX};
use cinnabar_authority_api::records::{Content, DOMAIN, SignError, Signer};
use cinnabar_authority_api::verify::AnyContent;
use cinnabar_authority_api::{DataCenterId, RecordKey, Schema, Verifier};
use cinnabar_daemon::ClusterId;

/// The cluster of the golden records.
pub const CLUSTER: &str = "acme";
/// The time of uploads, in seconds since 1970: when the test certificates hold.
pub const NOW_S: u64 = 1_800_000_000;
/// What stands between the two texts of an upload.
pub const BETWEEN: u8 = 0;

/// The key that signed the golden records.
pub fn authority() -> RecordSigningKey {
    RecordSigningKey::from_bytes(&[7; 32])
}

fn cluster() -> ClusterId {
    CLUSTER.parse().expect("a name")
}

fn signed_again<T: Content>(
    content: Option<T>,
    key: &RecordKey,
    previous: u64,
    time_ms: u64,
) -> Result<Vec<u8>, SignError> {
    let (cluster, authority) = (cluster(), authority());
    let signer = Signer { cluster: &cluster, key: &authority };
    let made = match content {
        Some(content) => signer.sign(content, previous, time_ms),
        None => signer.sign_end::<T>(key.clone(), previous, time_ms),
    };
    made.map(|record| record.to_vec())
}

/// A store's key, a line end, and a record's bytes without their signature: what is read is what would be written.
pub fn record(data: &[u8]) -> bool {
    let Some(at) = data.iter().position(|byte| *byte == b'\n') else { return false };
    let (key, body) = (&data[..at], &data[at + 1..]);
    let Ok(signature) = authority().sign(DOMAIN, body) else { return false };
    let record = [body, &signature].concat();
    let verifier = Verifier::new(cluster(), authority().verifying_key());
    let Ok(found) = verifier.read_any(key, &record) else { return false };
    let (key, previous, time_ms) = (found.key().clone(), found.previous(), found.time_ms());
    assert_eq!(key.to_bytes(), data[..at], "one key, one spelling");
    macro_rules! again {
        ($($kind:ident),*) => {
            match found.into_content() {
                $(Some(AnyContent::$kind(content)) => signed_again(Some(content), &key, previous, time_ms),)*
                // A tombstone holds nothing that could be written otherwise.
                None => return true,
            }
        };
    }
    let again =
        again!(System, Schema, Zone, Policy, PolicyCiphertext, Cert, Secret, Sni, Machine, Revoked, Token, Head);
    assert_eq!(again.expect("what is read can be written"), record, "one record, one encoding");
    true
}

/// A store's key.
pub fn record_key(data: &[u8]) -> bool {
    let Ok(key) = RecordKey::parse(data) else { return false };
    assert_eq!(key.to_bytes(), data, "one key, one spelling");
    assert!(key.to_string().starts_with(key.kind().prefix()));
    true
}

/// The two texts of an upload: a chain, and behind [`BETWEEN`] a key.
pub fn upload_pem(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let (chain, key) = match text.split_once(char::from(BETWEEN)) {
        Some((chain, key)) => (chain, Some(key)),
        None => (text, None),
    };
    let whole = match certificate::check(chain, key, NOW_S) {
        Ok(whole) => whole,
        Err(error) => {
            let problem = error.problem();
            assert!(!problem.detail().is_empty());
            return false;
        }
    };
    assert!(!whole.chain.is_empty() && !whole.hostnames.is_empty());
    assert_eq!(whole.private_key_pkcs8.is_some(), key.is_some());
    let alone = certificate::check(chain, None, NOW_S).expect("it was good with its key");
    assert_eq!((alone.chain, alone.spki_sha256), (whole.chain.clone(), whole.spki_sha256));
    let shown = certificate::describe(&whole.chain[0]).expect("it was checked");
    assert_eq!((shown.not_before_s, shown.not_after_s), (whole.not_before_s, whole.not_after_s));
    true
}

/// A schema file.
pub fn schema(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let Ok(schema) = Schema::from_toml(text) else { return false };
    schema.check().expect("what was read is sound");
    schema.extends(&schema).expect("nothing is gone");
    let labels = schema.compiled_labels();
    let distinct: BTreeSet<&String> = labels.iter().collect();
    assert_eq!(distinct.len(), labels.len(), "no two compiled labels meet");
    assert!(labels.len() < ATTRIBUTES_MAX);
    true
}

/// A policy's text: refused at a place within it, or compiled, and then its canonical text means the same.
pub fn policy_text(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let schema = Schema::default();
    let data_centers: BTreeSet<DataCenterId> =
        ["fra", "ams", "iad"].map(|id| id.parse().expect("a name")).into_iter().collect();
    let words = Vocabulary { schema: &schema, data_centers: &data_centers, held: &|label| label != "region_ME" };
    let cluster = cluster();
    let compiled = match compile(text, &cluster, &words) {
        Ok(compiled) => compiled,
        Err(problem) => {
            let span = problem.span;
            assert!(span.start <= span.end && text.get(span.start..span.end).is_some(), "{problem:?}");
            assert!(!problem.to_string().is_empty());
            return false;
        }
    };
    assert_eq!(compiled.policy.id(cluster.as_str().as_bytes()), compiled.id(&cluster));
    let unsatisfied = compiled.unsatisfied([]).expect("nobody satisfies");
    assert!(text.get(unsatisfied.span.start..unsatisfied.span.end).is_some(), "{unsatisfied:?}");
    if !text.trim().is_empty() {
        let again = compile(&compiled.canonical, &cluster, &words);
        match again {
            Ok(again) => {
                assert_eq!(again.id(&cluster), compiled.id(&cluster));
                assert_eq!(again.canonical, compiled.canonical);
            }
            // The canonical text of a long policy may be longer than a customer's may be.
            Err(problem) => assert!(compiled.canonical.len() > POLICY_TEXT_BYTES_MAX, "{problem:?}"),
        }
    }
    true
}

/// A token of a request, or one that a machine enrols with.
pub fn token(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let presented = Presented::parse(text);
    let enrolment = EnrolmentToken::parse(text);
    if let Ok(enrolment) = &enrolment {
        assert_eq!(enrolment.to_text().as_str(), text.trim(), "one token, one text");
    }
    assert!(presented.is_err() || enrolment.is_err(), "no text is both");
    presented.is_ok() || enrolment.is_ok()
}
