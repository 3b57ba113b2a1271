//! Customers' certificates and other secrets: in, replaced, out.
//!
//! The road: the request is parsed, chain and key are checked, the zone must own every name, the policy is decided; the
//! key is wrapped to the policy's key; certificate, `sni/` records and, for a new policy, its key go into the store as one
//! log entry. Law: nothing is stored before every check passed, and then all or nothing; the clear key lives only while
//! it is wrapped. What machines could open once they can open: narrowing and deleting take nothing back, and say so.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use cinnabar_abe::SecretBytes;
use cinnabar_abe::envelope::{PolicyPublicKey, wrap};
use cinnabar_authority_api::records::{Cert, Content, KeyKind, PolicyIdField, PolicyRef, Secret, Sni, SniCert, Zone};
use cinnabar_authority_api::{CertId, DataCenterId, Hostname, PolicyKeyVersion, RecordKey, SecretName, ZoneId};
use cinnabar_daemon::id::ClusterId;
use cinnabar_daemon::{Env, Rng};
use serde::Serialize;
use tokio::sync::Semaphore;

use crate::acts;
use crate::audit::Audit;
use crate::certificate::{self, Checked};
use crate::digest::sha256;
use crate::directory::{CertInfo, Directory};
use crate::fields::SecretText;
use crate::hostname::first_outside;
use crate::policies::{Decision, Policies, PolicyKey, Warning, shown};
use crate::preview::{Holders, Latency, Survives};
use crate::problem::{Code, Problem};
use crate::publisher::{Plan, PublishError, Publisher};
use cinnabar_daemon::random::generator;

/// Name of the acknowledgement that few data centres will hold a key.
pub const FEW_HOLDERS: &str = "few-holders";

/// What a customer sends; what is absent stays as it is when a certificate is replaced.
#[derive(Debug, Default)]
pub struct Upload {
    /// PEM chain.
    pub certificate: Option<String>,
    /// PEM key.
    pub private_key: Option<SecretText>,
    /// The policy's text; an empty one means everywhere.
    pub policy: Option<String>,
    /// The field that the policy came in.
    pub policy_pointer: &'static str,
    /// Who may ask for signatures.
    pub served_by: Option<String>,
    /// Warnings that the customer has seen.
    pub acknowledge: Vec<String>,
    /// Check everything, store nothing.
    pub dry_run: bool,
}

/// A certificate as its owner sees it.
#[derive(Debug, Clone, Serialize)]
pub struct CertView {
    /// Its id.
    pub id: CertId,
    /// Its zone.
    pub zone: ZoneId,
    /// Its names.
    pub hostnames: Vec<Hostname>,
    /// Kind of its key.
    pub key_type: String,
    /// SHA-256 of its SubjectPublicKeyInfo, hexadecimal.
    pub key_fingerprint: String,
    /// Who issued it.
    pub issuer: String,
    /// How it is signed.
    pub signature: String,
    /// First second that it holds, since 1970.
    pub not_before: u64,
    /// Last second that it holds, since 1970.
    pub not_after: u64,
    /// First upload and last change, in milliseconds since 1970.
    pub created_ms: u64,
    /// See there.
    pub modified_ms: u64,
    /// Version of its record.
    pub version: u64,
    /// The policy as the customer wrote it; `everywhere` when it was left out.
    pub policy: String,
    /// Where it has arrived; told of one certificate that is asked for, where machines are served.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub active_on: Option<ActiveOn>,
}

/// How far a record has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ActiveOn {
    /// Live machines that hold the key and have reported that they applied the record.
    pub machines: usize,
    /// Live machines that hold the key.
    pub of: usize,
}

/// What an upload did.
#[derive(Debug, Clone, Serialize)]
pub struct Uploaded {
    /// The certificate.
    #[serde(flatten)]
    pub certificate: CertView,
    /// The policy in its one form.
    pub canonical: String,
    /// Its id, hexadecimal.
    pub policy_id: String,
    /// Who holds the key.
    pub holders: Holders,
    /// What that survives.
    pub survives: Survives,
    /// What it costs new connections.
    pub latency: Latency,
    /// What the customer should know.
    pub warnings: Vec<Warning>,
    /// The log entry; 0 for a dry run.
    pub index: u64,
    /// Data centres that could open the key under the policy before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Before>,
}

/// What was possible before a change.
#[derive(Debug, Clone, Serialize)]
pub struct Before {
    /// Data centres with a machine that could open the key.
    pub could_open: Vec<DataCenterId>,
    /// What that means.
    pub note: &'static str,
}

const NOTE: &str = "These data centres may have read the key already; this change takes nothing back. Replace the key \
                    at its issuer if one of them must not have it.";

/// What a deletion did.
#[derive(Debug, Clone, Serialize)]
pub struct Deleted {
    /// The certificate or secret.
    pub id: String,
    /// Always true.
    pub deleted: bool,
    /// The log entry.
    pub index: u64,
    /// Who could open the key.
    pub before: Before,
}

/// See the module.
pub struct Uploads {
    /// The cluster.
    pub cluster: ClusterId,
    /// Writes and reads.
    pub publisher: Arc<Publisher>,
    /// Decides.
    pub policies: Arc<Policies>,
    /// Told before anything is stored.
    pub audit: Arc<Audit>,
    /// Clocks and randomness.
    pub env: Env,
    /// One permit for each piece of work that keeps a core busy.
    pub cores: Arc<Semaphore>,
}

/// What stood every check and waits to be stored.
struct Ready {
    checked: Checked,
    decision: Decision,
    key: PolicyKey,
    served_by: Option<String>,
}

impl From<PublishError> for Problem {
    fn from(error: PublishError) -> Self {
        match &error {
            PublishError::Store(cinnabar_kv_api::ClientError::Unreachable { .. }) => {
                tracing::warn!(%error, "the store does not answer");
                Self::new(Code::Unavailable, "The store does not answer; the change may still come to be, whole.")
                    .hint("Look with GET before you send it again.")
            }
            PublishError::Store(_) => {
                tracing::error!(%error, "the store refused a change");
                Self::new(Code::Unavailable, "The store refused the change.")
            }
            PublishError::Contended => Self::new(Code::Conflict, error.to_string()),
            _ => {
                tracing::error!(%error, "a record could not be published");
                Self::new(Code::Internal, "The record could not be made.")
            }
        }
    }
}

/// An internal problem, logged.
pub fn internal(what: &'static str, error: &dyn std::fmt::Display) -> Problem {
    tracing::error!(%error, "{what}");
    Problem::new(Code::Internal, "The authority failed; its log says more under the request's id.")
}

/// `not-found`, the same for what is not there and for what is somebody else's.
pub fn not_found(what: &str) -> Problem {
    Problem::new(Code::NotFound, format!("There is no {what}, or it is not yours."))
}

impl Uploads {
    /// Runs work that keeps a core busy for milliseconds, beside the asynchronous threads.
    ///
    /// # Errors
    /// What the work gives; `internal`.
    pub async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let permit = self.cores.clone().acquire_owned().await.map_err(|error| internal("no core", &error))?;
        let this = self.clone();
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work(&this)
        });
        done.await.map_err(|error| internal("a check ended early", &error))?
    }

    fn zone(&self, id: &ZoneId) -> Result<Zone, Problem> {
        let directory = self.publisher.directory().read();
        directory.zones().get(id).cloned().ok_or_else(|| not_found("zone"))
    }

    fn check_names(&self, zone: &Zone, names: &[Hostname]) -> Result<(), Problem> {
        match first_outside(names, &zone.domains) {
            None => Ok(()),
            Some(name) => {
                let domains = zone.domains.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                let detail = format!("`{name}` is not inside zone {} ({domains}).", zone.id);
                Err(Problem::new(Code::HostnameOutsideZone, detail).at("/certificate"))
            }
        }
    }

    /// Checks all that can be checked before the store is asked.
    fn ready(&self, zone: &Zone, upload: &Upload, policy: &str) -> Result<Ready, Problem> {
        let certificate = upload.certificate.as_deref();
        let certificate = certificate
            .ok_or_else(|| Problem::new(Code::MissingField, "`certificate` is missing.").at("/certificate"))?;
        let key = upload.private_key.as_ref().map(SecretText::expose);
        let now_s = self.env.clock.unix_ms() / 1_000;
        let checked = certificate::check(certificate, key, now_s).map_err(|error| error.problem())?;
        self.check_names(zone, &checked.hostnames)?;
        let decision = self.decide(zone, upload, policy)?;
        let served_by = upload.served_by.as_deref().filter(|text| !text.trim().is_empty());
        let served_by = served_by.map(|text| self.policies.served_by(text)).transpose()?;
        let key = self.policies.key(&decision)?;
        Ok(Ready { checked, decision, key, served_by })
    }

    fn decide(&self, zone: &Zone, upload: &Upload, policy: &str) -> Result<Decision, Problem> {
        if let Some(n) = upload.acknowledge.iter().position(|word| word != FEW_HOLDERS) {
            let detail = format!("Only \"{FEW_HOLDERS}\" can be acknowledged.");
            return Err(Problem::new(Code::InvalidField, detail).at(format!("/acknowledge/{n}")));
        }
        let decision = self.policies.decide(policy, upload.policy_pointer)?;
        decision.redundancy(zone.limits.data_centers_min, !upload.acknowledge.is_empty(), upload.policy_pointer)?;
        Ok(decision)
    }

    /// Stores a new certificate of a zone. `actor` is who asks.
    ///
    /// # Errors
    /// Every code of uploads, policies and zones.
    pub async fn create(self: &Arc<Self>, actor: &str, zone: &ZoneId, upload: Upload) -> Result<Uploaded, Problem> {
        let zone = self.zone(zone)?;
        if upload.private_key.is_none() {
            return Err(Problem::new(Code::MissingField, "`private_key` is missing.").at("/private_key"));
        }
        let dry_run = upload.dry_run;
        let owner = zone.clone();
        let ready = self.blocking(move |this| {
            let policy = upload.policy.clone().unwrap_or_default();
            this.ready(&owner, &upload, &policy)
        });
        let ready = ready.await?;
        let mut id = [0; 16];
        self.env.rng.fill(&mut id).map_err(|error| internal("no randomness", &error))?;
        let id = hex::encode(id).parse::<CertId>().map_err(|error| internal("an id", &error))?;
        self.store(actor, &zone, id, ready, None, dry_run).await
    }

    /// Replaces a certificate under its id.
    ///
    /// # Errors
    /// As [`Uploads::create`]; `not-found`; `key-required` for another policy, or another key pair, without the key.
    pub async fn replace(
        self: &Arc<Self>,
        actor: &str,
        zone: &ZoneId,
        id: &CertId,
        mut upload: Upload,
    ) -> Result<Uploaded, Problem> {
        let zone = self.zone(zone)?;
        let old = self.cert(&zone.id, id).await?;
        if upload.certificate.is_none() {
            upload.certificate = Some(to_pem(&old.content.chain));
        }
        if upload.served_by.is_none() {
            upload.served_by.clone_from(&old.content.served_by);
        }
        let policy = upload.policy.clone().unwrap_or_else(|| old.content.policy_text.clone());
        let (owner, dry_run) = (zone.clone(), upload.dry_run);
        let kept = old.content.clone();
        let ready = self.blocking(move |this| {
            let ready = this.ready(&owner, &upload, &policy)?;
            let same = ready.checked.spki_sha256 == kept.spki_sha256 && ready.decision.id == kept.policy.id.0;
            if ready.checked.private_key_pkcs8.is_none() && !same {
                let detail = "The key is closed to its policy: another policy or another key pair needs it again.";
                return Err(Problem::new(Code::KeyRequired, detail)
                    .at("/private_key")
                    .hint("Send `private_key` with this change."));
            }
            Ok(ready)
        });
        let ready = ready.await?;
        self.store(actor, &zone, id.clone(), ready, Some(old), dry_run).await
    }

    async fn store(
        self: &Arc<Self>,
        actor: &str,
        zone: &Zone,
        id: CertId,
        ready: Ready,
        old: Option<Stored>,
        dry_run: bool,
    ) -> Result<Uploaded, Problem> {
        let Ready { checked, decision, key, served_by } = ready;
        let now_ms = self.env.clock.unix_ms();
        let old_policy = old.as_ref().map(|old| old.content.policy);
        let mut view = view_of(&zone.id, &id, &checked, &decision, now_ms);
        if let Some(old) = &old {
            (view.created_ms, view.version) = (old.content.created_ms, old.version + 1);
        }
        let before = old_policy.filter(|policy| policy.id.0 != decision.id).map(|policy| self.before(&policy));
        let mut index = 0;
        if !dry_run {
            let chain: Vec<Bytes> = checked.chain.iter().cloned().map(Bytes::from).collect();
            let policy_text = decision.compiled.text.clone();
            let fresh = Cert {
                zone: zone.id.clone(),
                id: id.clone(),
                hostnames: checked.hostnames.clone(),
                key_type: checked.key_type,
                spki_sha256: checked.spki_sha256,
                // Settled inside the change, with the wrapped key.
                policy: PolicyRef { id: PolicyIdField(decision.id), version: PolicyKeyVersion::FIRST },
                policy_text,
                wrapped_key: old.as_ref().map(|old| old.content.wrapped_key.clone()).unwrap_or_default(),
                served_by,
                created_ms: view.created_ms,
                chain,
            };
            self.tell(
                actor,
                if old.is_some() { "replace certificate" } else { "store certificate" },
                &fresh.key(),
                &[("policy", &decision.compiled.canonical), ("key", &view.key_fingerprint)],
            )
            .await?;
            index = self.publish(zone, fresh, &key, checked.private_key_pkcs8.as_ref(), old.as_ref()).await?;
        }
        Ok(Uploaded {
            certificate: view,
            canonical: decision.compiled.canonical.clone(),
            policy_id: decision.id.to_string(),
            warnings: decision.warnings(zone.limits.data_centers_min),
            holders: decision.preview.holders,
            survives: decision.preview.survives,
            latency: decision.preview.latency,
            index,
            before,
        })
    }

    async fn publish(
        &self,
        zone: &Zone,
        fresh: Cert,
        key: &PolicyKey,
        secret: Option<&SecretBytes>,
        old: Option<&Stored>,
    ) -> Result<u64, Problem> {
        let (zone_key, cert_key) = (zone.key(), fresh.key());
        let written = self.publisher.transact(|directory| {
            let mut plan = Plan::new();
            plan.rest_on(zone_key.clone());
            let owner = directory.zones().get(&zone.id).ok_or_else(|| not_found("zone"))?;
            self.check_names(owner, &fresh.hostnames)?;
            let standing = directory.standing(&cert_key);
            if standing.version != old.map_or(0, |old| old.version) {
                return Err(Problem::new(Code::Conflict, "The certificate was changed meanwhile; look at it again."));
            }
            if old.is_none() {
                check_new(directory, owner, &fresh)?;
            }
            let policy = key.settle(directory, &mut plan);
            let mut cert = fresh.clone();
            cert.policy = PolicyRef { id: policy.id, version: policy.version };
            if let Some(secret) = secret {
                cert.wrapped_key = wrapped(&*self.env.rng, policy.public_key, &cert.context(&self.cluster), secret)?;
            } else if old.is_none_or(|old| old.content.policy != cert.policy) {
                // The policy has another key by now: what is wrapped to the old one cannot go on under it.
                let detail = "The policy has a new key; the certificate's key must be wrapped to it.";
                return Err(Problem::new(Code::KeyRequired, detail).at("/private_key"));
            }
            plan_names(
                directory,
                &mut plan,
                &cert,
                old.map(|old| old.content.hostnames.as_slice()).unwrap_or_default(),
            );
            plan.put(cert);
            Ok((plan, ()))
        });
        Ok(written.await?.1)
    }

    /// Deletes a certificate; its names go to what else the zone has for them.
    ///
    /// # Errors
    /// `not-found`, `unavailable`.
    pub async fn delete(self: &Arc<Self>, actor: &str, zone: &ZoneId, id: &CertId) -> Result<Deleted, Problem> {
        let key = RecordKey::Cert(zone.clone(), id.clone());
        let info = |directory: &Directory| {
            let found = directory.certs().get(&(zone.clone(), id.clone())).cloned();
            found.ok_or_else(|| not_found("certificate"))
        };
        let found: CertInfo = info(&self.publisher.directory().read())?;
        let before = self.before(&found.policy);
        self.tell(actor, "delete certificate", &key, &[]).await?;
        let written = self.publisher.transact(|directory| {
            let found = info(directory)?;
            let mut plan = Plan::new();
            for hostname in &found.hostnames {
                plan_without(directory, &mut plan, zone, id, found.key_type.kind(), hostname);
            }
            plan.end::<Cert>(key.clone());
            Ok::<_, Problem>((plan, ()))
        });
        let (_, index) = written.await?;
        Ok(Deleted { id: id.to_string(), deleted: true, index, before })
    }

    /// Stores another secret of a zone, or replaces it.
    ///
    /// # Errors
    /// The codes of policies and zones.
    pub async fn put_secret(
        self: &Arc<Self>,
        actor: &str,
        zone: &ZoneId,
        name: SecretName,
        secret: SecretBytes,
        upload: Upload,
    ) -> Result<(Decision, u64), Problem> {
        let zone = self.zone(zone)?;
        let owner = zone.clone();
        let ready = self.blocking(move |this| {
            let policy = upload.policy.clone().unwrap_or_default();
            let decision = this.decide(&owner, &upload, &policy)?;
            let key = this.policies.key(&decision)?;
            Ok((decision, key))
        });
        let (decision, key) = ready.await?;
        let mut fresh = Secret {
            zone: zone.id.clone(),
            name,
            policy: PolicyRef { id: PolicyIdField(decision.id), version: PolicyKeyVersion::FIRST },
            policy_text: decision.compiled.text.clone(),
            wrapped: Bytes::new(),
            created_ms: self.env.clock.unix_ms(),
        };
        self.tell(actor, "put secret", &fresh.key(), &[("policy", &decision.compiled.canonical)]).await?;
        let written = self.publisher.transact(|directory| {
            let mut plan = Plan::new();
            plan.rest_on(zone.key());
            let owner = directory.zones().get(&zone.id).ok_or_else(|| not_found("zone"))?;
            if !directory.standing(&fresh.key()).live {
                check_quota(directory, owner)?;
            }
            let policy = key.settle(directory, &mut plan);
            fresh.policy = PolicyRef { id: policy.id, version: policy.version };
            fresh.wrapped = wrapped(&*self.env.rng, policy.public_key, &fresh.context(&self.cluster), &secret)?;
            plan.put(fresh.clone());
            Ok::<_, Problem>((plan, ()))
        });
        let (_, index) = written.await?;
        Ok((decision, index))
    }

    /// Deletes another secret.
    ///
    /// # Errors
    /// `not-found`, `unavailable`.
    pub async fn delete_secret(&self, actor: &str, zone: &ZoneId, name: &SecretName) -> Result<Deleted, Problem> {
        let key = RecordKey::Secret(zone.clone(), name.clone());
        let policy = self.publisher.directory().read().secrets().get(&(zone.clone(), name.clone())).copied();
        let before = self.before(&policy.ok_or_else(|| not_found("secret"))?);
        self.tell(actor, "delete secret", &key, &[]).await?;
        let written = self.publisher.transact(|directory| {
            let mut plan = Plan::new();
            if !directory.standing(&key).live {
                return Err(not_found("secret"));
            }
            plan.end::<Secret>(key.clone());
            Ok((plan, ()))
        });
        let (_, index) = written.await?;
        Ok(Deleted { id: name.to_string(), deleted: true, index, before })
    }

    /// Reads a certificate.
    ///
    /// # Errors
    /// `not-found`, `unavailable`.
    pub async fn get(&self, zone: &ZoneId, id: &CertId) -> Result<CertView, Problem> {
        let Stored { content, version, time_ms } = self.cert(zone, id).await?;
        let described = certificate::describe(&content.chain[0]).map_err(|error| error.problem())?;
        Ok(CertView {
            id: content.id.clone(),
            zone: content.zone.clone(),
            hostnames: content.hostnames.clone(),
            key_type: content.key_type.to_string(),
            key_fingerprint: hex::encode(content.spki_sha256),
            issuer: described.issuer,
            signature: described.signature_algorithm.to_owned(),
            not_before: described.not_before_s,
            not_after: described.not_after_s,
            created_ms: content.created_ms,
            modified_ms: time_ms,
            version,
            policy: shown(&content.policy_text).to_owned(),
            active_on: None,
        })
    }

    async fn cert(&self, zone: &ZoneId, id: &CertId) -> Result<Stored, Problem> {
        let key = RecordKey::Cert(zone.clone(), id.clone());
        // The store's nodes may be a moment behind; what the directory does not have was never answered.
        if !self.publisher.directory().read().standing(&key).live {
            return Err(not_found("certificate"));
        }
        let found = self.publisher.read::<Cert>(&key).await?.ok_or_else(|| not_found("certificate"))?;
        let (version, time_ms) = (found.version(), found.time_ms());
        let content = found.into_content().ok_or_else(|| not_found("certificate"))?;
        Ok(Stored { content, version, time_ms })
    }

    fn before(&self, policy: &PolicyRef) -> Before {
        let info = self.publisher.directory().read().policy(policy).cloned();
        let compiled = info.and_then(|info| info.record.policy().ok());
        let could_open = compiled.map(|compiled| self.policies.could_open(&compiled)).unwrap_or_default();
        Before { could_open, note: NOTE }
    }

    async fn tell(
        &self,
        actor: &str,
        act: &'static str,
        key: &RecordKey,
        details: &[(&'static str, &str)],
    ) -> Result<(), Problem> {
        acts::tell(&self.audit, actor, act, key, details).await
    }
}

/// A certificate as the store has it.
struct Stored {
    content: Cert,
    version: u64,
    time_ms: u64,
}

fn check_quota(directory: &Directory, zone: &Zone) -> Result<(), Problem> {
    let held = directory.keys_of(&zone.id);
    if held < zone.limits.keys_max as usize {
        return Ok(());
    }
    Err(Problem::new(Code::Quota, format!("Zone {} holds {held} keys, as many as it may.", zone.id)))
}

fn check_new(directory: &Directory, zone: &Zone, fresh: &Cert) -> Result<(), Problem> {
    let leaf = sha256(&fresh.chain[0]);
    if let Some(id) = directory.cert_with_leaf(&zone.id, &leaf) {
        return Err(Problem::new(Code::CertificateStored, format!("It is stored as {id}."))
            .at("/certificate")
            .hint("PUT to that id changes it."));
    }
    check_quota(directory, zone)
}

/// Names that a certificate serves from now on, and those that it no longer does.
fn plan_names(directory: &Directory, plan: &mut Plan, cert: &Cert, before: &[Hostname]) {
    let kind = cert.key_type.kind();
    let names: BTreeSet<&Hostname> = cert.hostnames.iter().collect();
    for hostname in &names {
        let mut certs = directory.sni(hostname).map(|sni| sni.certs.clone()).unwrap_or_default();
        certs.retain(|other| other.kind != kind && other.id != cert.id);
        certs.push(SniCert { kind, zone: cert.zone.clone(), id: cert.id.clone() });
        certs.sort_by_key(|entry| entry.kind);
        let unchanged = directory.sni(hostname).is_some_and(|sni| sni.certs == certs);
        if !unchanged {
            plan.put(Sni { hostname: (*hostname).clone(), certs });
        }
    }
    for hostname in before.iter().filter(|hostname| !names.contains(hostname)) {
        for kind in [KeyKind::Ecdsa, KeyKind::Rsa] {
            plan_without(directory, plan, &cert.zone, &cert.id, kind, hostname);
        }
    }
}

/// Takes a certificate from a name; the newest other one of the zone with that name and kind of key takes its place.
fn plan_without(
    directory: &Directory,
    plan: &mut Plan,
    zone: &ZoneId,
    id: &CertId,
    kind: KeyKind,
    hostname: &Hostname,
) {
    let Some(sni) = directory.sni(hostname) else { return };
    if !sni.certs.iter().any(|entry| entry.id == *id && entry.kind == kind) {
        return;
    }
    let mut certs: Vec<SniCert> = sni.certs.iter().filter(|entry| entry.id != *id).cloned().collect();
    let others = directory
        .certs_of(zone)
        .filter(|(other, info)| *other != id && info.key_type.kind() == kind && info.hostnames.contains(hostname));
    if let Some((other, _)) = others.max_by_key(|(_, info)| info.created_ms) {
        certs.push(SniCert { kind, zone: zone.clone(), id: other.clone() });
        certs.sort_by_key(|entry| entry.kind);
    }
    if certs.is_empty() {
        plan.end::<Sni>(RecordKey::Sni(hostname.clone()));
    } else {
        plan.put(Sni { hostname: hostname.clone(), certs });
    }
}

fn wrapped(
    rng: &dyn Rng,
    public_key: [u8; 32],
    context: &cinnabar_abe::envelope::Context<'_>,
    secret: &SecretBytes,
) -> Result<Bytes, Problem> {
    let public = PolicyPublicKey::from_bytes(public_key).map_err(|error| internal("a policy's key", &error))?;
    let mut random = generator(rng).map_err(|error| internal("no randomness", &error))?;
    let wrapped = wrap(&mut random, &public, context, secret.expose());
    let wrapped = wrapped.map_err(|error| internal("a secret was not wrapped", &error))?;
    Ok(Bytes::copy_from_slice(wrapped.as_bytes()))
}

fn view_of(zone: &ZoneId, id: &CertId, checked: &Checked, decision: &Decision, now_ms: u64) -> CertView {
    CertView {
        id: id.clone(),
        zone: zone.clone(),
        hostnames: checked.hostnames.clone(),
        key_type: checked.key_type.to_string(),
        key_fingerprint: hex::encode(checked.spki_sha256),
        issuer: checked.issuer.clone(),
        signature: checked.signature_algorithm.to_owned(),
        not_before: checked.not_before_s,
        not_after: checked.not_after_s,
        created_ms: now_ms,
        modified_ms: now_ms,
        version: 1,
        policy: decision.shown_text().to_owned(),
        active_on: None,
    }
}

/// A chain as PEM.
fn to_pem(chain: &[Bytes]) -> String {
    use base64ct::{Base64, Encoding};
    let block = |der: &Bytes| {
        let text = Base64::encode_string(der);
        let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
    };
    chain.iter().map(block).collect()
}
