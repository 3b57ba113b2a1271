//! Fills a store with machines and certificates for the benchmark: real records, signed by the authority's own key, made
//! by the code that makes them one by one; only the way in is short, many in one write.
//!
//! `bulk --dir DATA --passphrase-file FILE --inventory FILE --tls FOLDER/NAME --voters HOST:PORT,... --certificates N
//! --per-zone N`; the authority has been started once, so that system and schema are there, and does not run.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cinnabar_abe::envelope::{PolicyPublicKey, PolicySecretKey, wrap};
use cinnabar_authority::custody::{Custody, Opener};
use cinnabar_authority::digest::sha256;
use cinnabar_authority::inventory::Inventory;
use cinnabar_authority::passphrase::Source;
use cinnabar_authority::zones::LIMITS_DEFAULT;
use cinnabar_authority_api::compile::{Vocabulary, compile};
use cinnabar_authority_api::records::{
    Cert, Content, Issued, KeyType, Machine, MachineState, PolicyCiphertext, PolicyIdField, PolicyRecord, PolicyRef,
    Signer, Sni, SniCert, State, Zone, ZoneLimits,
};
use cinnabar_authority_api::{Generation, Hostname, PolicyKeyVersion, Schema, SchemaVersion, ZoneId};
use cinnabar_daemon::random::generator;
use cinnabar_daemon::{ClusterId, Env, Tls, TlsFiles};
use cinnabar_kv_api::{Client, ClientConfig, Key, Op, Target, WriteOutcome};
use clap::Parser;
use futures::{StreamExt, TryStreamExt};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, PKCS_RSA_SHA256, RsaKeySize};

type Fallible<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// RSA keys; making one takes a tenth of a second, so certificates share them.
const KEYS: usize = 32;
/// Records of one write: below the store's bounds, with certificates of 3 KiB.
const MACHINES_PER_WRITE: usize = 500;
const CERTIFICATES_PER_WRITE: usize = 200;
/// Writes under way.
const WRITES: usize = 4;
/// Longest that one write may take.
const WRITE_MAX: Duration = Duration::from_secs(60);
/// The policies that certificates are under, in turn.
const POLICIES: [&str; 5] =
    ["", "region: EU", "(country: US) or (region: EU)", "region: EU and (not country: FR)", "region: WEUR"];

#[derive(Parser)]
struct Args {
    /// The authority's data folder.
    #[arg(long)]
    dir: PathBuf,
    /// Opens its keys.
    #[arg(long)]
    passphrase_file: PathBuf,
    /// Data centres and machines.
    #[arg(long)]
    inventory: PathBuf,
    /// Path of the authority's certificate and key without their endings; `ca.pem` lies beside them.
    #[arg(long)]
    tls: PathBuf,
    /// The store.
    #[arg(long, value_delimiter = ',')]
    voters: Vec<String>,
    /// Certificates to make.
    #[arg(long)]
    certificates: usize,
    /// Of them in one zone.
    #[arg(long, default_value_t = 1000)]
    per_zone: usize,
}

/// What signs.
struct Maker {
    cluster: ClusterId,
    custody: Custody,
    key: cinnabar_abe::signature::RecordSigningKey,
    inventory: Inventory,
    schema: Schema,
    env: Env,
}

impl Maker {
    fn op<T: Content>(&self, content: T) -> Fallible<Op> {
        let key = Key::new(content.key().to_bytes())?;
        let signer = Signer { cluster: &self.cluster, key: &self.key };
        Ok(Op::Put { key, value: signer.sign(content, 0, self.env.clock.unix_ms())? })
    }

    fn machines(&self) -> Fallible<Vec<Vec<Op>>> {
        let mut ops = Vec::new();
        for (id, facts) in self.inventory.machines() {
            let attributes = self.schema.attributes(&self.cluster, facts)?;
            ops.push(self.op(Machine {
                id: id.clone(),
                data_center: facts.data_center.clone(),
                issued: vec![Issued { generation: Generation::FIRST, attributes }],
                address: String::new(),
                state: MachineState::Live,
            })?);
        }
        Ok(ops.chunks(MACHINES_PER_WRITE).map(<[Op]>::to_vec).collect())
    }

    /// The policies' keys, and the records of them.
    fn policies(&self) -> Fallible<(Vec<PolicyRecord>, Vec<Op>)> {
        let data_centers: BTreeSet<_> = self.inventory.names();
        let words = Vocabulary { schema: &self.schema, data_centers: &data_centers, held: &|_| true };
        let public = self.custody.system_public(Generation::FIRST)?;
        let (mut records, mut ops) = (Vec::new(), Vec::new());
        for text in POLICIES {
            let compiled = compile(text, &self.cluster, &words)?;
            let mut random = generator(&*self.env.rng)?;
            let secret = PolicySecretKey::generate(&mut random);
            let (id, version) = (PolicyIdField(compiled.id(&self.cluster)), PolicyKeyVersion::FIRST);
            let cluster = self.cluster.as_str().as_bytes();
            let ciphertext = secret.encrypt(&public, &mut random, &compiled.policy, cluster, version.0)?;
            let ciphertext = Bytes::copy_from_slice(ciphertext.as_bytes());
            ops.push(self.op(PolicyCiphertext { id, version, generation: Generation::FIRST, ciphertext })?);
            let record = PolicyRecord {
                id,
                version,
                text: compiled.text.clone(),
                canonical: compiled.canonical.clone(),
                schema: SchemaVersion::FIRST,
                compiled: compiled.policy.to_string(),
                public_key: *secret.public_key().as_bytes(),
                state: State::Active,
            };
            ops.push(self.op(record.clone())?);
            records.push(record);
        }
        Ok((records, ops))
    }
}

/// Makes certificates of zones `bulk-0`, `bulk-1` and so on.
struct Certificates {
    maker: Arc<Maker>,
    issuer: CertifiedIssuer<'static, KeyPair>,
    keys: Vec<KeyPair>,
    policies: Vec<PolicyRecord>,
    per_zone: usize,
}

impl Certificates {
    fn new(maker: Arc<Maker>, policies: Vec<PolicyRecord>, per_zone: usize) -> Fallible<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "bulk");
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let rsa = || KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048);
        let keys = (0..KEYS).map(|_| rsa()).collect::<Result<_, _>>()?;
        Ok(Self { maker, issuer, keys, policies, per_zone })
    }

    fn zone(&self, n: usize) -> Fallible<ZoneId> {
        Ok(format!("bulk-{}", n / self.per_zone).parse()?)
    }

    fn of(&self, n: usize) -> Fallible<Vec<Op>> {
        let (zone, key, policy) = (self.zone(n)?, &self.keys[n % KEYS], &self.policies[n % self.policies.len()]);
        let mut ops = Vec::new();
        if n.is_multiple_of(self.per_zone) {
            let domains = vec![format!("{zone}.example").parse()?];
            let limits = ZoneLimits { keys_max: u32::try_from(self.per_zone)?, ..LIMITS_DEFAULT };
            ops.push(self.maker.op(Zone { id: zone.clone(), domains, limits })?);
        }
        let hostname: Hostname = format!("w{n}.{zone}.example").parse()?;
        let leaf = CertificateParams::new(vec![hostname.to_string()])?.signed_by(key, &self.issuer)?;
        let mut random = generator(&*self.maker.env.rng)?;
        let mut id = [0; 16];
        self.maker.env.rng.fill(&mut id)?;
        let mut cert = Cert {
            zone: zone.clone(),
            id: hex::encode(id).parse()?,
            chain: vec![leaf.der().to_vec().into(), self.issuer.der().to_vec().into()],
            hostnames: vec![hostname.clone()],
            key_type: KeyType::Rsa(2048),
            spki_sha256: sha256(&rcgen::PublicKeyData::subject_public_key_info(key)),
            policy: PolicyRef { id: policy.id, version: policy.version },
            policy_text: policy.text.clone(),
            wrapped_key: Bytes::new(),
            served_by: None,
            created_ms: self.maker.env.clock.unix_ms(),
        };
        let public = PolicyPublicKey::from_bytes(policy.public_key)?;
        let wrapped = wrap(&mut random, &public, &cert.context(&self.maker.cluster), &key.serialize_der())?;
        cert.wrapped_key = Bytes::copy_from_slice(wrapped.as_bytes());
        let certs = vec![SniCert { kind: cert.key_type.kind(), zone, id: cert.id.clone() }];
        ops.extend([self.maker.op(cert)?, self.maker.op(Sni { hostname, certs })?]);
        Ok(ops)
    }
}

async fn write(client: Client, ops: Vec<Op>) -> Fallible<()> {
    match client.write(Vec::new(), ops).await? {
        WriteOutcome::Written { .. } => Ok(()),
        WriteOutcome::Unmet { .. } => Err("a write without conditions was not done".into()),
    }
}

async fn fill(args: Args) -> Fallible<()> {
    let env = Env::system();
    let custody = Custody::open(&args.dir, env.clock.clone())?;
    let passphrase = Source::File(args.passphrase_file).read("passphrase")?;
    let key = custody.records(Opener::Passphrase(&passphrase))?;
    let (cluster, schema) = (custody.cluster().clone(), Schema::default());
    let inventory = Inventory::from_toml(&std::fs::read_to_string(&args.inventory)?, &schema, &cluster)?;
    let file = |ending: &str| PathBuf::from(format!("{}{ending}", args.tls.display()));
    let ca = args.tls.parent().unwrap_or(Path::new(".")).join("ca.pem");
    let tls = Tls::load_client(&TlsFiles { ca, cert: file(".pem"), key: file(".key") }, env.clock.clone())?;
    let target = Target::Tcp { addresses: args.voters, tls };
    let client = Client::new(ClientConfig { target, env: env.clone(), deadline: WRITE_MAX })?;
    let maker = Arc::new(Maker { cluster, custody, key, inventory, schema, env });
    let writes = futures::stream::iter(maker.machines()?).map(|ops| Ok(write(client.clone(), ops)));
    writes.try_buffer_unordered(WRITES).try_collect::<()>().await?;
    if args.certificates == 0 {
        return Ok(());
    }
    let (policies, ops) = maker.policies()?;
    write(client.clone(), ops).await?;
    let certificates = Arc::new(Certificates::new(maker, policies, args.per_zone)?);
    let parts = (0..args.certificates).step_by(CERTIFICATES_PER_WRITE);
    let writes = parts.map(|first| {
        let (certificates, client) = (certificates.clone(), client.clone());
        let last = (first + CERTIFICATES_PER_WRITE).min(args.certificates);
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(async move {
            let made = tokio::task::spawn_blocking(move || -> Fallible<Vec<Op>> {
                let mut ops = Vec::new();
                for n in first..last {
                    ops.extend(certificates.of(n)?);
                }
                Ok(ops)
            });
            write(client, made.await??).await
        })
    });
    futures::stream::iter(writes).try_buffer_unordered(WRITES).try_collect::<()>().await
}

fn main() -> Fallible<()> {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(fill(args))
}
