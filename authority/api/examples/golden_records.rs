//! Writes the golden records under `testdata/records`: one of each kind, and bad ones named after their reason.
//!
//! `cargo run -p cinnabar-authority-api --example golden_records`. Run it for a new format only: old files stay readable.

use std::fs;
use std::num::NonZeroU32;
use std::path::Path;

use bytes::Bytes;
use cinnabar_abe::envelope::{PolicySecretKey, wrap};
use cinnabar_abe::signature::{RecordSigningKey, SIGNATURE_BYTES};
use cinnabar_abe::{Policy, setup};
use cinnabar_authority_api::records::*;
use cinnabar_authority_api::{Generation, PolicyKeyVersion, RecordKey, Schema, SchemaVersion};
use cinnabar_daemon::id::ClusterId;
use getrandom::SysRng;
use getrandom::rand_core::UnwrapErr;

const TIME_MS: u64 = 1_800_000_000_000;

struct Golden {
    cluster: ClusterId,
    key: RecordSigningKey,
}

impl Golden {
    fn write(&self, name: &str, key: &RecordKey, record: &[u8]) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/records");
        let text = format!("{key}\n{}\n", hex::encode(record));
        fs::write(folder.join(format!("{name}.record")), text).expect("the folder is there");
    }

    fn good<T: Content>(&self, content: T) -> Bytes {
        let signer = Signer { cluster: &self.cluster, key: &self.key };
        let (key, name) = (content.key(), T::KIND.as_str());
        let record = signer.sign(content, 2, TIME_MS).expect("it is within its bounds");
        self.write(name, &key, &record);
        record
    }

    /// Signs any body.
    fn forge(&self, body: &[u8]) -> Vec<u8> {
        [body, &self.key.sign(DOMAIN, body).expect("it is short")].concat()
    }
}

fn keys(golden: &Golden) -> (PolicyRef, PolicySecretKey) {
    let mut rng = UnwrapErr(SysRng);
    let (public, _) = setup(&mut rng).expect("randomness");
    let policy = Policy::parse("region_EU: 1 and not country: FR").expect("a policy");
    let id = PolicyIdField(policy.id(golden.cluster.as_str().as_bytes()));
    let secret = PolicySecretKey::generate(&mut rng);
    let version = PolicyKeyVersion::FIRST;
    let cluster = golden.cluster.as_str().as_bytes();
    let ciphertext = secret.encrypt(&public, &mut rng, &policy, cluster, version.0).expect("it fits");
    let (mode, state, generation) = (Mode::Production, State::Active, Generation::FIRST);
    golden.good(System { generation, public_key: public.to_bytes().into(), state, mode });
    golden.good(PolicyRecord {
        id,
        version,
        text: "(region: EU) and (not country: FR)".to_owned(),
        canonical: "region: EU and not country: FR".to_owned(),
        schema: SchemaVersion::FIRST,
        compiled: policy.to_string(),
        public_key: *secret.public_key().as_bytes(),
        state,
    });
    golden.good(PolicyCiphertext {
        id,
        version,
        generation,
        ciphertext: Bytes::copy_from_slice(ciphertext.as_bytes()),
    });
    (PolicyRef { id, version }, secret)
}

fn secrets(golden: &Golden) {
    let mut rng = UnwrapErr(SysRng);
    let (policy, secret) = keys(golden);
    let public = secret.public_key();
    let mut cert = Cert {
        zone: "acme".parse().expect("a zone"),
        id: "00112233445566778899aabbccddeeff".parse().expect("an id"),
        chain: vec![Bytes::from_static(b"the leaf"), Bytes::from_static(b"its issuer")],
        hostnames: vec!["shop.example".parse().expect("a name"), "*.shop.example".parse().expect("a name")],
        key_type: KeyType::P256,
        spki_sha256: [3; 32],
        policy,
        policy_text: "(region: EU) and (not country: FR)".to_owned(),
        wrapped_key: Bytes::new(),
        served_by: Some("region_EU: 1".to_owned()),
        created_ms: TIME_MS,
    };
    let key = b"a private key";
    let wrapped = wrap(&mut rng, &public, &cert.context(&golden.cluster), key).expect("it is short");
    cert.wrapped_key = Bytes::copy_from_slice(wrapped.as_bytes());
    golden.good(cert.clone());
    let mut other = Secret {
        zone: cert.zone.clone(),
        name: "ticket-key".parse().expect("a name"),
        policy,
        policy_text: String::new(),
        wrapped: Bytes::new(),
        created_ms: TIME_MS,
    };
    let wrapped = wrap(&mut rng, &public, &other.context(&golden.cluster), key).expect("it is short");
    other.wrapped = Bytes::copy_from_slice(wrapped.as_bytes());
    golden.good(other);
    let serving = SniCert { kind: KeyKind::Ecdsa, zone: cert.zone.clone(), id: cert.id.clone() };
    golden.good(Sni { hostname: cert.hostnames[0].clone(), certs: vec![serving] });
    let signer = Signer { cluster: &golden.cluster, key: &golden.key };
    let end = signer.sign_end::<Cert>(cert.key(), 3, TIME_MS).expect("a certificate ends");
    golden.write("cert-end", &cert.key(), &end);
}

fn machine() -> Machine {
    let attributes = [("cluster", "acme"), ("country", "DE"), ("dc", "fra"), ("region_EU", "1")];
    let attributes = attributes.map(|(label, value)| (label.to_owned(), value.to_owned())).to_vec();
    Machine {
        id: "fra-1".parse().expect("an id"),
        data_center: "fra".parse().expect("a name"),
        issued: vec![Issued { generation: Generation(NonZeroU32::MIN), attributes }],
        address: "192.0.2.1:8443".to_owned(),
        state: MachineState::Live,
    }
}

fn bad(golden: &Golden, record: &[u8], key: &RecordKey) {
    let body = &record[..record.len() - SIGNATURE_BYTES];
    let write = |name: &str, record: &[u8]| golden.write(&format!("bad/{name}"), key, record);
    let mut flipped = record.to_vec();
    flipped[20] ^= 1;
    write("flipped.signature", &flipped);
    write("no_signature.signature", &[body, &[0; SIGNATURE_BYTES]].concat());
    write("left_over.malformed", &golden.forge(&[body, &[0]].concat()));
    write("cut.malformed", &golden.forge(&body[..body.len() - 1]));
    write("other_format.malformed", &golden.forge(&[&[2], &body[1..]].concat()));
    write("empty.malformed", &[]);
    let signer =
        |cluster: &ClusterId| Signer { cluster, key: &golden.key }.sign(machine(), 2, TIME_MS).expect("a record");
    write("other_cluster.cluster", &signer(&"other".parse().expect("a cluster")));
    golden.write("bad/other_key.moved", &RecordKey::Machine("fra-2".parse().expect("an id")), record);
    // `version` stands behind format, cluster and key, each text behind its length of eight bytes.
    let at = 1 + 8 + golden.cluster.as_str().len() + 8 + key.to_string().len();
    let mut version = body.to_vec();
    version[at] = 9;
    write("jump.version", &golden.forge(&version));
    // Without content what is left is the head of the body and a zero.
    let revoked = Revoked { id: machine().id, at_ms: TIME_MS, reason: "lost".to_owned() };
    let record =
        Signer { cluster: &golden.cluster, key: &golden.key }.sign(revoked.clone(), 2, TIME_MS).expect("a record");
    let at = 1 + 8 + golden.cluster.as_str().len() + 8 + revoked.key().to_string().len() + 24;
    let end = [&record[..at], &[0]].concat();
    golden.write("bad/revoked_end.ended", &revoked.key(), &golden.forge(&end));
}

fn main() {
    let golden = Golden { cluster: "acme".parse().expect("a name"), key: RecordSigningKey::from_bytes(&[7; 32]) };
    secrets(&golden);
    golden.good(SchemaRecord { version: SchemaVersion::FIRST, schema: Schema::default() });
    let limits = ZoneLimits { data_centers_min: 3, keys_max: 10_000, changes_per_minute: 600 };
    let domains = vec!["shop.example".parse().expect("a name")];
    golden.good(Zone { id: "acme".parse().expect("a zone"), domains, limits });
    golden.good(Revoked { id: "fra-2".parse().expect("an id"), at_ms: TIME_MS, reason: "stolen".to_owned() });
    golden.good(Token {
        id: "ffeeddccbbaa99887766554433221100".parse().expect("an id"),
        digest: [5; 32],
        scope: TokenScope::Zone("acme".parse().expect("a zone")),
        name: "ci".to_owned(),
        expires_ms: 0,
    });
    golden.good(Head { index: 12, chain_head: [1; 32], state_hash: [2; 32], time_ms: TIME_MS });
    let record = golden.good(machine());
    bad(&golden, &record, &machine().key());
}
