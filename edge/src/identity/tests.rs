//! What a thief of the data folder has, and what an answer must be for a machine to enrol.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use cinnabar_abe::SecretBytes;
use cinnabar_abe::signature::RecordSigningKey;
use cinnabar_authority_api::enrolment::EnrolmentToken;
use cinnabar_authority_api::records::Mode;
use cinnabar_daemon::env::{SystemClock, SystemRng};
use cinnabar_daemon::pki::{CertificateAuthority, CertificateRequest, Validity};
use cinnabar_daemon::{Clock, Role};
use serde_json::json;

use super::enrol::{EnrolError, Enrolment};
use super::*;
use crate::config::EdgeConfig;
use crate::config::tests::LEAST;
use crate::fixture::{World, generation};

fn issued(world: &World) -> Vec<MachineKey> {
    vec![MachineKey { generation: generation(1), key: world.key("DE").to_bytes() }]
}

#[test]
fn a_stolen_data_folder_opens_nothing_without_the_sealing_key() {
    let (data, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let world = World::new(Mode::Production);
    let cluster = world.store.cluster();
    let path = elsewhere.path().join("sealing.key");
    let sealing = Sealing::load_or_make(&path, &SystemRng).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let file = KeyFile::new(data.path(), sealing, Arc::new(SystemRng));
    assert!(file.load(&cluster).unwrap().is_empty(), "nothing there is no fault");
    let keys = issued(&world);
    file.store(&cluster, &keys).unwrap();
    let again = KeyFile::new(data.path(), Sealing::load(&path).unwrap(), Arc::new(SystemRng));
    let read = again.load(&cluster).unwrap();
    assert_eq!(read[&generation(1)].to_bytes().expose(), keys[0].key.expose());
    // The thief: another sealing key, none, another cluster; and no run of the key's bytes in the folder.
    let other = Sealing::load_or_make(&elsewhere.path().join("other.key"), &SystemRng).unwrap();
    for thief in [other, Sealing::Plain] {
        assert!(KeyFile::new(data.path(), thief, Arc::new(SystemRng)).load(&cluster).is_err());
    }
    assert!(again.load(&"other".parse().unwrap()).is_err());
    let bytes = std::fs::read(data.path().join("attribute-keys")).unwrap();
    let canary = &keys[0].key.expose()[300..332];
    assert!(!bytes.windows(canary.len()).any(|window| window == canary));
}

#[test]
fn a_plain_file_is_what_it_says_and_a_damaged_one_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let world = World::new(Mode::Demo);
    let file = KeyFile::new(data.path(), Sealing::Plain, Arc::new(SystemRng));
    assert!(file.is_plain());
    file.store(&world.store.cluster(), &issued(&world)).unwrap();
    assert_eq!(file.load(&world.store.cluster()).unwrap().len(), 1);
    let path = data.path().join("attribute-keys");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.push(0);
    std::fs::write(&path, &bytes).unwrap();
    assert!(file.load(&world.store.cluster()).is_err());
}

#[test]
fn a_wildcard_key_is_refused_as_it_comes() {
    let world = World::new(Mode::Production);
    let attributes = cinnabar_abe::danger::attributes([], [&b"country"[..]]);
    let wild = cinnabar_abe::danger::keygen(&world.secret, &mut crate::fixture::rng(), &attributes).unwrap();
    let error = parse(&[MachineKey { generation: generation(1), key: wild.to_bytes() }]).unwrap_err();
    assert!(error.contains("wildcard"), "{error}");
    assert!(parse(&[MachineKey { generation: generation(1), key: SecretBytes::new(vec![0; 40]) }]).is_err());
}

/// An authority, a folder for a machine, and a token for it.
struct Desk {
    folder: tempfile::TempDir,
    ca: CertificateAuthority,
    conf: EdgeConfig,
    token: String,
}

fn validity(days: u32) -> Validity {
    Validity::days(days, SystemClock.unix_ms())
}

impl Desk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ca = CertificateAuthority::create(&"acme".parse().unwrap(), validity(10), &SystemRng).unwrap();
        let mut conf: EdgeConfig = toml::from_str(LEAST).unwrap();
        conf.replica.data_dir = folder.path().join("data");
        let at = |name: &str| folder.path().join("data").join(name);
        conf.replica.tls = TlsFiles { ca: at("ca.pem"), cert: at("tls.crt"), key: at("tls.key") };
        use rustls::pki_types::pem::PemObject;
        let der = rustls::pki_types::CertificateDer::from_pem_slice(ca.certificate_pem().as_bytes()).unwrap();
        let sha = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der);
        let token = EnrolmentToken {
            cluster: "acme".parse().unwrap(),
            machine: "fra-1".parse().unwrap(),
            ca_sha256: sha.as_ref().try_into().unwrap(),
            record_key: RecordSigningKey::from_bytes(&[7; 32]).verifying_key(),
            secret: zeroize::Zeroizing::new("cin_secret".to_owned()),
        };
        let token = token.to_text().to_string();
        Self { folder, ca, conf, token }
    }

    fn sealing(&self, name: &str) -> Sealing {
        Sealing::load_or_make(&self.folder.path().join(name), &SystemRng).unwrap()
    }

    fn issue(&self, enrolment: &Enrolment, name: &str) -> String {
        let body: serde_json::Value = serde_json::from_str(&enrolment.body()).unwrap();
        assert_eq!(body["token"], "cin_secret");
        let request = CertificateRequest::from_bytes(body["csr"].as_str().unwrap().as_bytes()).unwrap();
        self.ca.issue_for(&request, &name.parse().unwrap(), &[], validity(7), &SystemRng).unwrap()
    }

    fn finish(&self, certificate: &str, ca: &str, enrolment: Enrolment) -> Result<Pins, EnrolError> {
        let answer = json!({ "certificate": certificate, "ca": ca });
        enrolment.finish(&answer, &self.conf, &self.sealing("sealing.key"), &Env::system())
    }
}

#[test]
fn a_machine_enrols_once_and_pins_what_its_token_says() {
    let desk = Desk::new();
    let enrolment = Enrolment::begin(&desk.token, &desk.conf).unwrap();
    let certificate = desk.issue(&enrolment, "spiffe://acme/edge/fra-1");
    let pins = desk.finish(&certificate, desk.ca.certificate_pem(), enrolment).unwrap();
    assert_eq!(Pins::load(&desk.conf.trust()).unwrap(), pins);
    assert_eq!(pins.record_key().unwrap(), RecordSigningKey::from_bytes(&[7; 32]).verifying_key());
    // On disk the key is sealed; who has the sealing key has it in memory, under a path of this process alone.
    let path = &desk.conf.replica.tls.key;
    let clear = |path: &Path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).contains("PRIVATE KEY");
    assert!(!clear(path) && Tls::load(&desk.conf.replica.tls, &pins.cluster, Arc::new(SystemClock)).is_err());
    assert!(open_tls_key(path, &desk.sealing("other.key"), &pins.cluster).is_err());
    let key = open_tls_key(path, &desk.sealing("sealing.key"), &pins.cluster).unwrap();
    assert!(clear(&key.path()));
    let files = TlsFiles { key: key.path(), ..desk.conf.replica.tls.clone() };
    let tls = Tls::load(&files, &pins.cluster, Arc::new(SystemClock)).unwrap();
    assert_eq!(tls.reload().unwrap(), cinnabar_daemon::mtls::Reload::Unchanged);
    assert_eq!((tls.identity().role, tls.identity().name.as_str()), (Role::Edge, "fra-1"));
    for path in [&desk.conf.replica.tls.key, &desk.conf.trust()] {
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert!(matches!(Enrolment::begin(&desk.token, &desk.conf), Err(EnrolError::Config(_))), "once");
    let now = i64::try_from(SystemClock.unix_ms() / 1000).unwrap();
    assert!(!is_due(&tls.certificate(), now) && is_due(&tls.certificate(), now + 86_400 + 3_600));
}

#[test]
fn an_answer_that_is_not_of_the_pinned_ca_for_this_machine_and_key_leaves_nothing() {
    let desk = Desk::new();
    let other = Desk::new();
    let begin = || Enrolment::begin(&desk.token, &desk.conf).unwrap();
    let refused = |certificate: &str, ca: &str, enrolment| {
        let error = desk.finish(certificate, ca, enrolment).unwrap_err();
        assert!(matches!(error, EnrolError::Answer(_)), "{error}");
        assert!(!desk.conf.replica.tls.key.exists() && !desk.conf.trust().exists());
    };
    let ours = desk.ca.certificate_pem().to_string();
    let (first, second) = (begin(), begin());
    let for_first = desk.issue(&first, "spiffe://acme/edge/fra-1");
    refused(&for_first, &ours, second);
    refused(&for_first, other.ca.certificate_pem(), first);
    for name in ["spiffe://acme/edge/fra-2", "spiffe://acme/operator/fra-1"] {
        let enrolment = begin();
        refused(&desk.issue(&enrolment, name), &ours, enrolment);
    }
    let enrolment = begin();
    refused(&other.issue(&enrolment, "spiffe://acme/edge/fra-1"), &ours, enrolment);
    refused("nonsense", &ours, begin());
    let mut conf = desk.conf.clone();
    conf.replica.cluster = "other".parse().unwrap();
    assert!(matches!(Enrolment::begin(&desk.token, &conf), Err(EnrolError::Config(_))));
    assert!(desk.folder.path().exists());
}
