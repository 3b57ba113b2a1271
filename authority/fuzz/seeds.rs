//! What the fuzzers begin with: sound inputs of each kind, made by the code that reads them or kept beside it. The example
//! `seed_corpus` writes them down; the regression test gives them to the bodies.

use std::fs;
use std::path::{Path, PathBuf};

use cinnabar_abe::signature::SIGNATURE_BYTES;
use cinnabar_authority::tokens::mint;
use cinnabar_authority_api::enrolment::EnrolmentToken;
use cinnabar_authority_api::records::TokenScope;
use cinnabar_daemon::Env;

use crate::bodies;

const SCHEMA: &str = "[labels.security]\nvalues = [\"high\", \"normal\"]\ndefault = \"normal\"\n\
    [labels.standard]\nmembers = [\"pci\", \"fedramp_moderate\"]\n";

const POLICIES: [&str; 4] = [
    "",
    "(country: US) or (region: EU)",
    "region: EU and (not country: FR)",
    "not (dc: fra or dc: ams) and tier: highest or not not Country: de",
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// The golden records, without their signatures.
fn records() -> Vec<Vec<u8>> {
    let files = fs::read_dir(folder().join("api/testdata/records")).expect("the golden records");
    let mut seeds = Vec::new();
    for file in files {
        let path = file.expect("a file").path();
        if path.extension().is_none_or(|extension| extension != "record") {
            continue;
        }
        let text = fs::read_to_string(path).expect("text");
        let (key, record) = text.split_once('\n').expect("two lines");
        let record = hex::decode(record.trim_end()).expect("hexadecimal digits");
        seeds.push([key.as_bytes(), b"\n", &record[..record.len() - SIGNATURE_BYTES]].concat());
    }
    seeds
}

fn keys() -> Vec<Vec<u8>> {
    let key = |record: Vec<u8>| record.split(|byte| *byte == b'\n').next().map(<[u8]>::to_vec);
    records().into_iter().filter_map(key).collect()
}

fn uploads() -> Vec<Vec<u8>> {
    let read = |name: &str| fs::read(folder().join("testdata").join(name)).expect("a test certificate");
    let pair =
        |name: &str| [read(&format!("{name}.pem")), vec![bodies::BETWEEN], read(&format!("{name}.key"))].concat();
    vec![pair("rsa2048"), pair("p256"), pair("p384")]
}

fn tokens() -> Vec<Vec<u8>> {
    let rng = Env::system().rng;
    let scope = TokenScope::Zone("acme".parse().expect("a zone"));
    let (text, _) = mint(&*rng, scope, "", 0).expect("randomness");
    let enrolment = EnrolmentToken {
        cluster: bodies::CLUSTER.parse().expect("a name"),
        machine: "fra-1".parse().expect("an id"),
        secret: text.expose().to_owned().into(),
        ca_sha256: [9; 32],
        record_key: bodies::authority().verifying_key(),
    };
    vec![text.expose().into(), enrolment.to_text().as_bytes().to_vec()]
}

/// A target, its body, which says whether an input is sound, and its first inputs, which are.
pub type Seeds = (&'static str, fn(&[u8]) -> bool, Vec<Vec<u8>>);

/// Every target.
pub fn all() -> Vec<Seeds> {
    vec![
        ("record", bodies::record, records()),
        ("record_key", bodies::record_key, keys()),
        ("upload_pem", bodies::upload_pem, uploads()),
        ("schema", bodies::schema, vec![SCHEMA.into(), Vec::new()]),
        ("policy_text", bodies::policy_text, POLICIES.map(Vec::from).to_vec()),
        ("token", bodies::token, tokens()),
    ]
}
