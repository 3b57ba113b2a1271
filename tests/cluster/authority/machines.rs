//! Machines of a real authority: let in by a token, given their keys over their own connection.

use std::fs;
use std::path::PathBuf;

use cinnabar_abe::AttributeKey;
use cinnabar_authority_api::Verifier;
use cinnabar_authority_api::client::{MachineClient, MachineKey};
use cinnabar_authority_api::enrolment::EnrolmentToken;
use cinnabar_daemon::{Env, Role, Tls, TlsFiles};
use rcgen::{CertificateParams, KeyPair};

use super::rig::Rig;

/// A machine that was let in.
pub struct Machine {
    files: TlsFiles,
    /// Who it trusts, from its token.
    pub verifier: Verifier,
}

impl Machine {
    /// Enrols a machine of the inventory.
    pub fn enrol(rig: &Rig, id: &str) -> Self {
        let grant = rig.operate(&["machine", "token", id]).unwrap();
        let token = EnrolmentToken::parse(grant["token"].as_str().unwrap()).unwrap();
        assert_eq!(token.machine.as_str(), id);
        let key = KeyPair::generate().unwrap();
        // What a request says of itself is not believed.
        let mut params = CertificateParams::new(vec!["evil.example".to_owned()]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, "voter1");
        let csr = params.serialize_request(&key).unwrap().pem().unwrap();
        let body = serde_json::json!({ "token": token.secret.as_str(), "csr": csr });
        let answer = rig.post("/v1/enrol", &body).unwrap();
        assert!(rig.post("/v1/enrol", &body).is_err(), "a token lets one machine in, once");
        let write = |name: String, text: &str| -> PathBuf {
            let path = rig.folder.join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let files = TlsFiles {
            ca: write(format!("{id}.ca.pem"), answer["ca"].as_str().unwrap()),
            cert: write(format!("{id}.pem"), answer["certificate"].as_str().unwrap()),
            key: write(format!("{id}.key"), &key.serialize_pem()),
        };
        Self { files, verifier: Verifier::new(token.cluster.clone(), token.record_key) }
    }

    /// Its client of the authority.
    pub fn client(&self, rig: &Rig) -> MachineClient {
        let env = Env::system();
        let tls = Tls::load_client(&self.files, env.clock.clone()).unwrap();
        MachineClient::new(tls.channel(&rig.listen.to_string(), &[Role::Authority], None, env.net))
    }

    /// Fetches its keys.
    pub fn keys(&self, rig: &Rig) -> Result<Vec<MachineKey>, String> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async { self.client(rig).keys().await.map_err(|error| error.to_string()) })
    }

    /// Its key of generation 1.
    pub fn key(&self, rig: &Rig) -> AttributeKey {
        AttributeKey::from_bytes(self.keys(rig).unwrap()[0].key.expose()).unwrap()
    }
}

#[test]
fn a_machine_gets_the_attributes_of_the_inventory_and_only_while_the_keys_are_open() {
    let mut rig = Rig::running(51);
    let machine = Machine::enrol(&rig, "fra-1");
    let sealed = machine.keys(&rig).unwrap_err();
    assert!(sealed.contains("[sealed]"), "{sealed}");
    rig.unseal();
    let key = machine.key(&rig);
    let attributes = key.attributes();
    for (label, value) in
        [("country", "DE"), ("dc", "fra"), ("region_EU", "1"), ("region_ENAM", "0"), ("cluster", "test")]
    {
        assert!(attributes.has(label, value), "{label}: {value}");
    }
    assert_eq!(attributes.wildcard_labels().count(), 0);
    let record = rig.record("machine/fra-1").unwrap();
    let read = machine.verifier.read::<cinnabar_authority_api::records::Machine>(b"machine/fra-1", &record).unwrap();
    let issued = read.as_ref().unwrap().issued[0].attributes().unwrap();
    assert_eq!(issued, *attributes);

    super::operators::tokens(&rig);
    super::operators::lists(&rig);
    super::operators::reload(&mut rig, &machine);
    assert!(rig.operate(&["machine", "token", "nobody-1"]).is_err(), "not in the inventory");
    let revoked = rig.operate(&["machine", "revoke", "fra-1", "--reason", "stolen"]).unwrap();
    assert_eq!(revoked["machines"][0], "fra-1");
    let refused = machine.keys(&rig).unwrap_err();
    assert!(refused.contains("[machine-revoked]"), "{refused}");
    assert!(rig.operate(&["machine", "token", "fra-1"]).is_err(), "there is no way back");
    assert_eq!(rig.stop(), Some(0));
    rig.command(&["audit-verify"]).unwrap();
}
