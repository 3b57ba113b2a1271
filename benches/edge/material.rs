//! What is measured with: an authority of certificates and records, and customers' certificates with real keys; in a
//! folder, so that every process of the benchmark has the same.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use cinnabar_abe::Policy;
use cinnabar_abe::signature::RecordSigningKey;
use cinnabar_authority_api::keyspace::RecordKey;
use cinnabar_authority_api::records::{
    Cert, Content, Issued, KeyType, Machine, MachineState, PolicyIdField, PolicyRef, Signer as RecordSigner,
};
use cinnabar_authority_api::{CertId, Checked, Generation, MachineId, PolicyKeyVersion, Verifier};
use cinnabar_daemon::env::{SystemClock, SystemRng};
use cinnabar_daemon::pki::{CertificateAuthority, Validity};
use cinnabar_daemon::{Clock, ClusterId, Env, Tls, TlsFiles};
use cinnabar_edge::directory::{CertRef, CertView, MachineView};
use cinnabar_edge::signer::SigningKey;
use cinnabar_edge_api::limits::BUDGET_DEFAULT;
use cinnabar_edge_api::proto::{Certificate, KeyKind};
use cinnabar_edge_api::{Input, Scheme, SignRequest};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_RSA_SHA256, PublicKeyData, RsaKeySize,
};

use crate::Fallible;

/// The cluster's name.
const CLUSTER: &str = "bench";
/// The zone of all certificates.
const ZONE: &str = "shop";
/// The node that services ask, in the data centre `near`.
pub const NEAR: &str = "near";
/// The one that it asks, in the data centre `far`.
pub const FAR: &str = "far";
/// Customers' certificates: its number, its name, and who holds its key. Both kinds of keys.
pub const CUSTOMERS: [(u8, &str, bool, &str); 4] = [
    (1, "local-p256.example", false, NEAR),
    (2, "local-rsa.example", true, NEAR),
    (3, "far-p256.example", false, FAR),
    (4, "far-rsa.example", true, FAR),
];

/// A customer's certificate.
pub struct Customer {
    /// Its name.
    pub hostname: &'static str,
    /// Who holds its key.
    pub held_by: &'static str,
    /// What the terminator is told.
    pub shown: Certificate,
    /// The key.
    pub key: Arc<SigningKey>,
    view: CertRef,
    scheme: Scheme,
}

/// See the module.
pub struct Material {
    /// Where it lies.
    pub folder: PathBuf,
    /// The certificate that visitors trust.
    pub root: Vec<u8>,
    /// In the order of [`CUSTOMERS`].
    pub customers: Vec<Customer>,
    cluster: ClusterId,
    pki: CertificateAuthority,
    records: RecordSigningKey,
}

impl Material {
    /// Makes it.
    pub fn create(folder: &Path) -> Fallible<Self> {
        let validity = Validity::days(9, SystemClock.unix_ms());
        let pki = CertificateAuthority::create(&CLUSTER.parse()?, validity, &SystemRng)?;
        pki.write(&folder.join("ca.pem"), &folder.join("ca.key"), false)?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "measured");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        std::fs::write(folder.join("root.der"), issuer.der())?;
        for (_, hostname, rsa, _) in CUSTOMERS {
            let key = match rsa {
                true => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?,
                false => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?,
            };
            let leaf = CertificateParams::new(vec![hostname.to_owned()])?.signed_by(&key, &issuer)?;
            std::fs::write(folder.join(format!("{hostname}.der")), leaf.der())?;
            std::fs::write(folder.join(format!("{hostname}.spki")), key.subject_public_key_info())?;
            std::fs::write(folder.join(format!("{hostname}.pk8")), key.serialized_der())?;
        }
        Self::load(folder)
    }

    /// Reads what another process made.
    pub fn load(folder: &Path) -> Fallible<Self> {
        let mut material = Self {
            pki: CertificateAuthority::load(&folder.join("ca.pem"), &folder.join("ca.key"))?,
            root: std::fs::read(folder.join("root.der"))?,
            folder: folder.to_owned(),
            customers: Vec::new(),
            cluster: CLUSTER.parse()?,
            records: RecordSigningKey::from_bytes(&[7; 32]),
        };
        for customer in CUSTOMERS {
            material.customers.push(material.customer(customer)?);
        }
        Ok(material)
    }

    fn customer(&self, (n, hostname, rsa, held_by): (u8, &'static str, bool, &'static str)) -> Fallible<Customer> {
        let file = |ending: &str| std::fs::read(self.folder.join(format!("{hostname}.{ending}")));
        let policy = Policy::parse("country: DE")?;
        let key_type = if rsa { KeyType::Rsa(2048) } else { KeyType::P256 };
        let spki = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &file("spki")?);
        let cert = Cert {
            zone: ZONE.parse()?,
            id: format!("{n:032x}").parse()?,
            chain: vec![file("der")?.into(), self.root.clone().into()],
            hostnames: vec![hostname.parse()?],
            key_type,
            spki_sha256: spki.as_ref().try_into()?,
            policy: PolicyRef { id: PolicyIdField(policy.id(CLUSTER.as_bytes())), version: PolicyKeyVersion::FIRST },
            policy_text: String::new(),
            // Of the right form: nodes of the benchmark are given the keys, and measure what comes after that.
            wrapped_key: [&[1][..], &[9; 96]].concat().into(),
            served_by: None,
            created_ms: 1,
        };
        let shown = Certificate {
            zone: ZONE.to_owned(),
            id: cert.id.to_string(),
            version: 1,
            kind: if rsa { KeyKind::Rsa } else { KeyKind::Ecdsa }.into(),
            chain: cert.chain.clone(),
            spki_sha256: Bytes::copy_from_slice(&cert.spki_sha256),
            serves: hostname.to_owned(),
        };
        let view = Arc::new(CertView { cert: self.checked(cert, 1)?, policy, served_by: None });
        let key = Arc::new(SigningKey::from_pkcs8(&file("pk8")?, key_type)?);
        let scheme = if rsa { Scheme::RsaPssRsaeSha256 } else { Scheme::EcdsaSecp256r1Sha256 };
        Ok(Customer { hostname, held_by, shown, key, view, scheme })
    }

    /// Signs a record and verifies it, as it comes out of a store.
    fn checked<T: Content>(&self, content: T, version: u64) -> Fallible<Checked<T>> {
        let key: RecordKey = content.key();
        let signer = RecordSigner { cluster: &self.cluster, key: &self.records };
        let bytes = signer.sign(content, version, SystemClock.unix_ms())?;
        let verifier = Verifier::new(self.cluster.clone(), self.records.verifying_key());
        verifier.read::<T>(&key.to_bytes(), &bytes)?.live().ok_or_else(|| "a record that was just made is gone".into())
    }

    /// The certificates' records.
    pub fn certs(&self) -> Fallible<HashMap<CertId, CertRef>> {
        let one = |customer: &Customer| Ok((customer.shown.id.parse()?, customer.view.clone()));
        self.customers.iter().map(one).collect()
    }

    /// The machines' records.
    pub fn machines(&self) -> Fallible<HashMap<MachineId, Arc<MachineView>>> {
        let mut machines = HashMap::new();
        for (n, name) in [NEAR, FAR].into_iter().enumerate() {
            let machine = Machine {
                id: name.parse()?,
                data_center: name.parse()?,
                issued: vec![Issued {
                    generation: Generation::FIRST,
                    attributes: vec![("country".to_owned(), "DE".to_owned())],
                }],
                address: String::new(),
                state: MachineState::Live,
            };
            let id = machine.id.clone();
            machines.insert(id, Arc::new(MachineView::new(self.checked(machine, 100 + n as u64)?)?));
        }
        Ok(machines)
    }

    /// A node's certificate.
    pub fn tls(&self, name: &str) -> Fallible<Arc<Tls>> {
        let validity = Validity::days(1, SystemClock.unix_ms());
        let identity = format!("spiffe://{CLUSTER}/edge/{name}");
        let issued = self.pki.issue(&identity.parse()?, &[], validity, &SystemRng)?;
        let path = |end: &str| self.folder.join(format!("{name}.{end}"));
        issued.write(&path("pem"), &path("key"), true)?;
        let files = TlsFiles { ca: self.folder.join("ca.pem"), cert: path("pem"), key: path("key") };
        Ok(Tls::load(&files, &self.cluster, Env::system().clock)?)
    }
}

impl Customer {
    /// A request for a signature by its key.
    pub fn request(&self) -> SignRequest {
        SignRequest {
            id: 0,
            zone: ZONE.to_owned(),
            certificate: self.shown.id.clone(),
            spki_sha256: self.view.cert.spki_sha256,
            scheme: self.scheme,
            input: Input::Digest(Bytes::from_static(&[7; 32])),
            budget: BUDGET_DEFAULT,
            traceparent: String::new(),
        }
    }
}
