//! A store for tests: a real copy, written entry by entry with records that a test's authority signed.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use cinnabar_abe::envelope::{self, PolicySecretKey};
use cinnabar_abe::signature::RecordSigningKey;
use cinnabar_abe::{Attributes, Policy, PublicKey, SystemSecretKey};
use cinnabar_authority_api::records::{
    Cert, Content, Head, Issued, KeyKind, KeyType, Machine, MachineState, Mode, PolicyCiphertext, PolicyIdField,
    PolicyRecord, PolicyRef, Revoked, Signer, Sni, SniCert, State, System,
};
use cinnabar_authority_api::{Generation, Hostname, PolicyKeyVersion, RecordKey, SchemaVersion, Verifier};
use cinnabar_daemon::{Clock, ClusterId, random};
use cinnabar_kv::local::{Local, LocalOptions};
use cinnabar_kv::log::{LogEntry, LogPoint};
use cinnabar_kv_api::{ChainHead, ClientId, Command, Key, Op, StoreId, Write};
use parking_lot::Mutex;
use rcgen::PublicKeyData;

use crate::directory::{Directory, Parts};

pub const NOW_MS: u64 = 1_800_000_000_000;

/// A clock that stands until it is moved.
pub struct TestClock(pub AtomicU64);

impl Clock for TestClock {
    fn now(&self) -> tokio::time::Instant {
        tokio::time::Instant::now()
    }

    fn unix_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The system's randomness for the schemes.
pub fn rng() -> impl rand_core::CryptoRng {
    random::generator(&cinnabar_daemon::env::SystemRng).unwrap()
}

pub fn generation(number: u32) -> Generation {
    Generation(NonZeroU32::new(number).unwrap())
}

pub fn policy_version(number: u32) -> PolicyKeyVersion {
    PolicyKeyVersion(NonZeroU32::new(number).unwrap())
}

/// See the module.
pub struct Store {
    pub local: Arc<Local>,
    pub clock: Arc<TestClock>,
    pub chain: Arc<Mutex<BTreeMap<u64, ChainHead>>>,
    authority: RecordSigningKey,
    tip: LogPoint,
    sequence: u64,
    versions: BTreeMap<Vec<u8>, u64>,
}

impl Store {
    pub fn new() -> Self {
        let local = Local::open(LocalOptions { dir: None, ..LocalOptions::default() }).unwrap();
        let authority = RecordSigningKey::from_bytes(&[7; 32]);
        let mut store = Self {
            local,
            clock: Arc::new(TestClock(AtomicU64::new(NOW_MS))),
            chain: Arc::default(),
            authority,
            tip: LogPoint::default(),
            sequence: 0,
            versions: BTreeMap::new(),
        };
        store.apply(&Command::Genesis { cluster: store.cluster(), store_id: StoreId([1; 16]) });
        store
    }

    pub fn cluster(&self) -> ClusterId {
        "acme".parse().unwrap()
    }

    fn apply(&mut self, command: &Command) {
        let payload = command.to_payload();
        let index = self.tip.index + 1;
        self.tip = LogPoint { index, term: 1, head: self.tip.head.next(index, 1, &payload) };
        self.chain.lock().insert(index, self.tip.head);
        self.local.apply(&[LogEntry { point: self.tip, payload }]).unwrap();
    }

    /// Writes one operation as an entry of its own.
    pub fn write(&mut self, op: Op) {
        self.sequence += 1;
        let (client, sequence) = (ClientId([2; 16]), self.sequence);
        self.apply(&Command::Write(Write {
            client,
            sequence,
            answered_below: sequence,
            conditions: vec![],
            ops: vec![op],
        }));
    }

    pub fn put_raw(&mut self, key: &[u8], value: impl Into<Bytes>) {
        self.write(Op::Put { key: Key::new(key.to_vec()).unwrap(), value: value.into() });
    }

    pub fn delete_raw(&mut self, key: &RecordKey) {
        self.write(Op::Delete { key: Key::new(key.to_bytes()).unwrap() });
    }

    pub fn sign_as<T: Content>(&self, content: T, previous: u64) -> Bytes {
        Signer { cluster: &self.cluster(), key: &self.authority }.sign(content, previous, self.clock.unix_ms()).unwrap()
    }

    /// Signs what follows the last record of its key, and writes it; gives the record.
    pub fn put<T: Content>(&mut self, content: T) -> Bytes {
        let key = content.key().to_bytes();
        let previous = self.versions.get(&key[..]).copied().unwrap_or(0);
        let record = self.sign_as(content, previous);
        self.versions.insert(key.to_vec(), previous + 1);
        self.put_raw(&key, record.clone());
        record
    }

    /// Ends a record.
    pub fn end<T: Content>(&mut self, key: RecordKey) {
        let raw = key.to_bytes();
        let version = self.versions.get_mut(&raw[..]).unwrap();
        let signer = Signer { cluster: &"acme".parse().unwrap(), key: &self.authority };
        let record = signer.sign_end::<T>(key, *version, self.clock.unix_ms()).unwrap();
        *version += 1;
        self.put_raw(&raw, record);
    }

    pub fn head(&self) -> Head {
        let point = self.local.point();
        let (index, chain_head) = (self.tip.index, self.tip.head.0);
        Head { index, chain_head, state_hash: point.state_hash.0, time_ms: self.clock.unix_ms() }
    }

    /// The authority's head over everything so far, a moment later than the last.
    pub fn cover(&mut self) -> Bytes {
        self.clock.0.fetch_add(1, Ordering::Relaxed);
        self.put(self.head())
    }

    pub fn verifier(&self) -> Verifier {
        Verifier::new(self.cluster(), self.authority.verifying_key())
    }

    /// A directory over the copy as it is.
    pub fn directory(&self, dir: Option<&Path>) -> Directory {
        let chain = self.chain.clone();
        Directory::open(Parts {
            verifier: self.verifier(),
            local: self.local.clone(),
            chain: Box::new(move |index| chain.lock().get(&index).copied()),
            clock: self.clock.clone(),
            me: "fra-1".parse().unwrap(),
            dir: dir.map(Path::to_owned),
        })
        .unwrap()
    }
}

/// A system with one generation, its machines and its policies.
pub struct World {
    pub store: Store,
    pub public: PublicKey,
    pub secret: SystemSecretKey,
}

impl World {
    /// `fra-1` in DE, `iad-1` in US; nothing covered yet.
    pub fn new(mode: Mode) -> Self {
        let mut store = Store::new();
        let (public, secret) = cinnabar_abe::setup(&mut rng()).unwrap();
        let key = public.to_bytes().into();
        store.put(System { generation: generation(1), public_key: key, state: State::Active, mode });
        let mut world = Self { store, public, secret };
        world.machine("fra-1", "fra", "DE");
        world.machine("iad-1", "iad", "US");
        world
    }

    pub fn machine(&mut self, id: &str, data_center: &str, country: &str) {
        let attributes = vec![("country".to_owned(), country.to_owned())];
        self.store.put(Machine {
            id: id.parse().unwrap(),
            data_center: data_center.parse().unwrap(),
            issued: vec![Issued { generation: generation(1), attributes }],
            address: format!("{id}.example:7000"),
            state: MachineState::Live,
        });
    }

    pub fn revoke(&mut self, id: &str) {
        self.store.put(Revoked { id: id.parse().unwrap(), at_ms: NOW_MS, reason: "lost".to_owned() });
    }

    /// A machine's key.
    pub fn key(&self, country: &str) -> cinnabar_abe::AttributeKey {
        self.secret.keygen(&mut rng(), &Attributes::new([("country", country)]).unwrap()).unwrap()
    }

    /// A policy, its key, and its ciphertext.
    pub fn policy(&mut self, text: &str) -> (PolicyRef, PolicySecretKey) {
        let cluster = self.store.cluster();
        let policy = Policy::parse(text).unwrap();
        let id = policy.id(cluster.as_str().as_bytes());
        let version = policy_version(1);
        let key = PolicySecretKey::generate(&mut rng());
        let name = cluster.as_str().as_bytes();
        let ciphertext = key.encrypt(&self.public, &mut rng(), &policy, name, version.0).unwrap();
        self.store.put(PolicyRecord {
            id: PolicyIdField(id),
            version,
            text: text.to_owned(),
            canonical: text.to_owned(),
            schema: SchemaVersion(NonZeroU32::MIN),
            compiled: policy.to_string(),
            public_key: *key.public_key().as_bytes(),
            state: State::Active,
        });
        self.store.put(PolicyCiphertext {
            id: PolicyIdField(id),
            version,
            generation: generation(1),
            ciphertext: Bytes::copy_from_slice(ciphertext.as_bytes()),
        });
        (PolicyRef { id: PolicyIdField(id), version }, key)
    }

    /// A certificate's record for a name, under a policy; its id is the number.
    pub fn cert(&self, hostname: &str, number: u8, policy: &(PolicyRef, PolicySecretKey)) -> Cert {
        let key = rcgen::KeyPair::generate().unwrap();
        self.cert_with(hostname, number, policy, &key, &key)
    }

    /// The same with a chain for one key and another wrapped.
    pub fn cert_with(
        &self,
        hostname: &str,
        number: u8,
        (policy, secret): &(PolicyRef, PolicySecretKey),
        shown: &rcgen::KeyPair,
        wrapped: &rcgen::KeyPair,
    ) -> Cert {
        let params = rcgen::CertificateParams::new(vec![hostname.to_owned()]).unwrap();
        let leaf = params.self_signed(shown).unwrap();
        let spki = shown.subject_public_key_info();
        let spki_sha256: [u8; 32] =
            aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &spki).as_ref().try_into().unwrap();
        let mut cert = Cert {
            zone: "shop".parse().unwrap(),
            id: format!("{number:032x}").parse().unwrap(),
            chain: vec![leaf.der().to_vec().into()],
            hostnames: vec![hostname.parse().unwrap()],
            key_type: KeyType::P256,
            spki_sha256,
            policy: *policy,
            policy_text: String::new(),
            wrapped_key: Bytes::new(),
            served_by: None,
            created_ms: NOW_MS,
        };
        let pkcs8 = cinnabar_abe::SecretBytes::new(wrapped.serialize_der());
        let cluster = self.store.cluster();
        let sealed = envelope::wrap(&mut rng(), &secret.public_key(), &cert.context(&cluster), pkcs8.expose()).unwrap();
        cert.wrapped_key = sealed.as_bytes().to_vec().into();
        cert
    }

    /// Has a name served by a certificate.
    pub fn serve(&mut self, cert: &Cert) {
        let hostname: Hostname = cert.hostnames[0].clone();
        let named = SniCert { kind: KeyKind::Ecdsa, zone: cert.zone.clone(), id: cert.id.clone() };
        self.store.put(cert.clone());
        self.store.put(Sni { hostname, certs: vec![named] });
    }
}
