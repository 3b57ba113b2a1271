//! Machines: enrolled, given certificates and attribute keys, drained, revoked.
//!
//! The road: [`Machines::token`] makes an operator's one-time token; [`Machines::enrol`] takes it with a signing request
//! and gives a certificate; over that certificate's TLS a machine calls [`Machines::renew`], [`Machines::keys`] and
//! [`Machines::report`]. `issue`, `revoke`, `drain` and `view` decide, over records alone; here it is done.
//! Law: an identity comes from the token or the certificate, attributes from the inventory, nothing from the machine's
//! claim. The audit log has a line, and the store the `machine/` record, before a key leaves.

pub mod drain;
pub mod issue;
pub mod revoke;
#[cfg(test)]
mod tests;
pub mod view;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;
use cinnabar_abe::{Attributes, SecretBytes};
use cinnabar_authority_api::client::{Certificate, MachineKey};
use cinnabar_authority_api::limits::REASON_BYTES_MAX;
use cinnabar_authority_api::records::{MachineState, Revoked, Token, TokenScope};
use cinnabar_authority_api::report::Report;
use cinnabar_authority_api::{CertId, DataCenterId, MachineId, RecordKey, ZoneId};
use cinnabar_daemon::id::{ClusterId, Identity, Role};
use cinnabar_daemon::pki::{CertificateAuthority, CertificateRequest, Validity};
use cinnabar_daemon::random::generator;
use cinnabar_daemon::{Env, Rng};
use parking_lot::RwLockReadGuard;
use serde::Serialize;
use tokio::sync::Semaphore;

use self::drain::{Effect, effects, pieces};
use self::issue::{Issue, World, make_key};
pub use self::revoke::{BlastRadius, Selection};
use self::revoke::{REVOKED_AT_ONCE_MAX, blast_radius, select};
pub use self::view::MachineView;
use crate::acts::tell;
use crate::audit::Audit;
use crate::custody::{Custody, CustodyError};
use crate::digest::sha256;
use crate::directory::Directory;
use crate::inventory::Inventory;
use crate::problem::{Code, Problem};
use crate::publisher::{Plan, Publisher};
use crate::reports::Reports;
use crate::tokens::{ENROLMENT_MS, Pins, Presented, TokenText, mint};
use crate::uploads::{ActiveOn, internal};

/// How long a machine's certificate holds; it is renewed daily.
pub const CERTIFICATE_DAYS: u32 = 7;
/// Machines named in one line of the audit log.
const TOLD_AT_ONCE: usize = 100;
/// Enrolment tokens that are past their end and go with the next one that is made.
const SWEPT_MAX: usize = 64;
/// What one write of a drain takes: under the store's bounds, with room for what frames it.
const DRAIN_OPS_MAX: usize = 500;
const DRAIN_BYTES_MAX: usize = 900 * 1024;
const _: () = assert!(DRAIN_OPS_MAX <= cinnabar_kv_api::limits::BATCH_OPS_MAX);
const _: () = assert!(DRAIN_BYTES_MAX < cinnabar_kv_api::limits::BATCH_BYTES_MAX);

/// What the service is made of.
pub struct Parts {
    /// Writes and reads.
    pub publisher: Arc<Publisher>,
    /// The operator's inventory.
    pub inventory: Arc<ArcSwap<Inventory>>,
    /// Has the system secret keys, while they are unsealed.
    pub custody: Arc<Custody>,
    /// Issues certificates.
    pub ca: Arc<CertificateAuthority>,
    /// Told before anything is done.
    pub audit: Arc<Audit>,
    /// What machines report.
    pub reports: Arc<Reports>,
    /// Clocks and randomness.
    pub env: Env,
    /// One permit for each piece of work that keeps a core busy.
    pub cores: Arc<Semaphore>,
}

/// See the module.
pub struct Machines {
    parts: Parts,
    pins: Pins,
    /// One drain at a time: each counts the holders that the others leave.
    draining: tokio::sync::Mutex<()>,
}

/// An enrolment token for an operator to carry to its machine.
#[derive(Debug)]
pub struct Grant {
    /// The token's public part.
    pub id: CertId,
    /// The machine.
    pub machine: MachineId,
    /// The text, shown once.
    pub text: TokenText,
    /// Its last moment, in milliseconds since 1970.
    pub expires_ms: u64,
}

/// What a revocation did, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Revocation {
    /// Machines that it revokes.
    pub machines: BTreeSet<MachineId>,
    /// Machines that were meant and were revoked before.
    pub already: BTreeSet<MachineId>,
    /// What all of them could open.
    pub blast_radius: BlastRadius,
    /// The log entry; 0 for a dry run, and when there was nothing to do.
    pub index: u64,
}

/// What a drain did, or would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Drained {
    /// Machines whose state it changes.
    pub machines: usize,
    /// Policies that gain or lose the data centre.
    pub effects: Vec<Effect>,
    /// The last log entry; 0 for a dry run, and when there was nothing to do.
    pub index: u64,
}

impl Machines {
    /// Works for the cluster of the CA.
    ///
    /// # Errors
    /// `internal` when the CA's certificate is none.
    pub fn new(parts: Parts) -> Result<Self, Problem> {
        let (_, block) = x509_parser::pem::parse_x509_pem(parts.ca.certificate_pem().as_bytes())
            .map_err(|error| internal("the CA's certificate", &error))?;
        let pins = Pins {
            cluster: parts.ca.cluster().clone(),
            ca_sha256: sha256(&block.contents),
            record_key: *parts.custody.record_verifying_key(),
        };
        Ok(Self { parts, pins, draining: tokio::sync::Mutex::default() })
    }

    /// The cluster.
    pub fn cluster(&self) -> &ClusterId {
        &self.pins.cluster
    }

    fn directory(&self) -> RwLockReadGuard<'_, Directory> {
        self.parts.publisher.directory().read()
    }

    fn rng(&self) -> &dyn Rng {
        &*self.parts.env.rng
    }

    fn now_ms(&self) -> u64 {
        self.parts.env.clock.unix_ms()
    }

    // === Enrolment ===

    /// Makes an enrolment token for a machine of the inventory. Earlier ones of the same machine end.
    ///
    /// # Errors
    /// `machine-unknown`, `machine-revoked`, `unavailable`.
    pub async fn token(&self, actor: &str, machine: &MachineId) -> Result<Grant, Problem> {
        let inventory = self.parts.inventory.load_full();
        World { cluster: self.cluster(), directory: &self.directory(), inventory: &inventory }.facts(machine)?;
        let now_ms = self.now_ms();
        let expires_ms = now_ms + ENROLMENT_MS;
        let scope = TokenScope::Machine(machine.clone());
        let (secret, token) = mint(self.rng(), scope.clone(), machine.as_str(), expires_ms)
            .map_err(|error| internal("no randomness", &error))?;
        let subject = RecordKey::Machine(machine.clone());
        let details = [("token", token.id.as_str())];
        tell(&self.parts.audit, actor, "create enrolment token", &subject, &details).await?;
        let written = self.parts.publisher.transact(|directory| {
            World { cluster: self.cluster(), directory, inventory: &inventory }.facts(machine)?;
            let mut plan = Plan::new();
            plan.rest_on(RecordKey::Revoked(machine.clone()));
            for old in replaced(directory, &scope, now_ms) {
                plan.end::<Token>(RecordKey::Token(old));
            }
            plan.put(token.clone());
            Ok::<_, Problem>((plan, ()))
        });
        written.await?;
        let text = self.pins.enrolment_text(machine, &secret);
        Ok(Grant { id: token.id, machine: machine.clone(), text, expires_ms })
    }

    /// Enrols the machine that a token is for: gives it a certificate, once. `token` is the secret of the enrolment token,
    /// `request` a signing request, PEM or DER, of which only the key is used.
    ///
    /// # Errors
    /// `unauthenticated`, `forbidden`, `certificate-request`, `machine-unknown`, `machine-revoked`, `unavailable`.
    pub async fn enrol(&self, token: &str, request: &[u8]) -> Result<Certificate, Problem> {
        let refused = |_| Problem::new(Code::Unauthenticated, "This is no token.").at("/token");
        let presented = Presented::parse(token.trim()).map_err(refused)?;
        let inventory = self.parts.inventory.load_full();
        let now_ms = self.now_ms();
        let admit = |directory: &Directory| {
            let machine = presented.machine(directory, now_ms)?;
            World { cluster: self.cluster(), directory, inventory: &inventory }.newcomer(&machine)
        };
        let machine = admit(&self.directory())?.id;
        let request = read_request(request)?;
        // Made before the token ends, so that a fault of ours costs no token; it leaves after.
        let (certificate, identity) = self.certify(&machine, &request)?;
        let key = hex::encode(sha256(&request.public_key_der()));
        let subject = RecordKey::Machine(machine.clone());
        let details = [("token", presented.id().as_str()), ("key", key.as_str())];
        tell(&self.parts.audit, &identity.to_string(), "enrol machine", &subject, &details).await?;
        let written = self.parts.publisher.transact(|directory| {
            let record = admit(directory)?;
            let mut plan = Plan::new();
            plan.rest_on(RecordKey::Revoked(machine.clone()));
            plan.end::<Token>(RecordKey::Token(presented.id().clone()));
            plan.put(record);
            Ok::<_, Problem>((plan, ()))
        });
        written.await?;
        Ok(certificate)
    }

    /// Gives a machine another certificate. The caller has proved by mutual TLS that it is the machine.
    ///
    /// # Errors
    /// `certificate-request`, `machine-unknown`, `machine-revoked`, `rate-limited`, `unavailable`.
    pub async fn renew(&self, machine: &MachineId, request: &[u8]) -> Result<Certificate, Problem> {
        let inventory = self.parts.inventory.load_full();
        let check = |directory: &Directory| {
            World { cluster: self.cluster(), directory, inventory: &inventory }.enrolled(machine).map(drop)
        };
        check(&self.directory())?;
        let request = read_request(request)?;
        self.parts.reports.count_issue(machine)?;
        let (certificate, identity) = self.certify(machine, &request)?;
        let key = hex::encode(sha256(&request.public_key_der()));
        let subject = RecordKey::Machine(machine.clone());
        tell(&self.parts.audit, &identity.to_string(), "renew certificate", &subject, &[("key", &key)]).await?;
        // Once more: it may have been revoked meanwhile.
        check(&self.directory())?;
        Ok(certificate)
    }

    fn certify(&self, machine: &MachineId, request: &CertificateRequest) -> Result<(Certificate, Identity), Problem> {
        let name = machine.as_str().parse().map_err(|error| internal("a machine's name", &error))?;
        let identity = Identity { cluster: self.cluster().clone(), role: Role::Edge, name };
        let ca = &self.parts.ca;
        let mut validity = Validity::days(CERTIFICATE_DAYS, self.now_ms());
        validity.not_after_s = validity.not_after_s.min(ca.not_after_s());
        let certificate_pem = ca
            .issue_for(request, &identity, &[], validity, self.rng())
            .map_err(|error| internal("a certificate was not issued", &error))?;
        let ca_pem = ca.certificate_pem().to_owned();
        Ok((Certificate { certificate_pem, ca_pem, not_after_s: validity.not_after_s }, identity))
    }

    // === Attribute keys ===

    /// Issues a machine's attribute keys, one for each generation in use that it may have one of. The caller has proved by
    /// mutual TLS that it is the machine.
    ///
    /// # Errors
    /// `machine-unknown`, `machine-revoked`, `rotation-needed`, `sealed`, `rate-limited`, `conflict`, `unavailable`.
    pub async fn keys(self: &Arc<Self>, machine: &MachineId) -> Result<Vec<MachineKey>, Problem> {
        let inventory = self.parts.inventory.load_full();
        let decide =
            |directory: &Directory| World { cluster: self.cluster(), directory, inventory: &inventory }.issue(machine);
        let issue = decide(&self.directory())?;
        for (generation, _) in &issue.keys {
            self.parts.custody.with_system_key(*generation, |_| ()).map_err(|error| of_custody(&error))?;
        }
        self.parts.reports.count_issue(machine)?;
        let details = [("generations", issue.generations())];
        let details = details.each_ref().map(|(name, text)| (*name, text.as_str()));
        tell(&self.parts.audit, &format!("machine {machine}"), "issue machine keys", &issue.key(), &details).await?;
        let keys = self.make(issue.clone()).await?;
        let written = self.parts.publisher.transact(|directory| {
            let again = decide(directory)?;
            if again.keys != issue.keys {
                return Err(Problem::new(Code::Conflict, "What the machine may hold changed meanwhile; ask again."));
            }
            let mut plan = Plan::new();
            if again.changed {
                for key in again.rests_on {
                    plan.rest_on(key);
                }
                plan.put(again.record);
            }
            Ok((plan, ()))
        });
        written.await?;
        Ok(keys)
    }

    /// Makes the keys beside the asynchronous threads; they are wiped if they do not leave.
    async fn make(self: &Arc<Self>, issue: Issue) -> Result<Vec<MachineKey>, Problem> {
        let permit = self.parts.cores.clone().acquire_owned().await.map_err(|error| internal("no core", &error))?;
        let this = self.clone();
        let made = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let key = |(generation, pairs): &(_, issue::Pairs)| {
                let key = make_key(pairs, |attributes| {
                    let mut random = generator(this.rng()).map_err(|error| internal("no randomness", &error))?;
                    let made = this
                        .parts
                        .custody
                        .with_system_key(*generation, |system| system.keygen(&mut random, attributes));
                    made.map_err(|error| of_custody(&error))?.map_err(|error| internal("a machine's key", &error))
                })?;
                let key: SecretBytes = key.to_bytes();
                Ok(MachineKey { generation: *generation, key })
            };
            issue.keys.iter().map(key).collect()
        });
        made.await.map_err(|error| internal("issuing keys ended early", &error))?
    }

    /// Takes a machine's report. The caller has proved by mutual TLS that it is the machine.
    ///
    /// # Errors
    /// `machine-unknown`, `machine-revoked`, `rate-limited`, `unavailable`.
    pub async fn report(&self, machine: &MachineId, report: Report) -> Result<(), Problem> {
        let inventory = self.parts.inventory.load_full();
        let read = |directory: &Directory| {
            let world = World { cluster: self.cluster(), directory, inventory: &inventory };
            world.enrolled(machine).map(|info| info.record(machine))
        };
        let known = read(&self.directory())?;
        let address = report.address().to_owned();
        self.parts
            .reports
            .take(machine, &known.data_center, report, |other| inventory.data_centers.contains_key(other))?;
        if address.is_empty() || address == known.address || !self.parts.reports.may_move(machine) {
            return Ok(());
        }
        let written = self.parts.publisher.transact(|directory| {
            let mut record = read(directory)?;
            record.address.clone_from(&address);
            let mut plan = Plan::new();
            plan.rest_on(RecordKey::Revoked(machine.clone()));
            plan.put(record);
            Ok::<_, Problem>((plan, ()))
        });
        written.await.map(drop)
    }

    // === Operators ===

    /// Revokes machines for good and says what they could open. A dry run only says so.
    ///
    /// # Errors
    /// `machine-unknown`, `invalid-field`, `too-many`, `unavailable`; the codes of policies for a filter.
    pub async fn revoke(
        &self,
        actor: &str,
        selection: &Selection,
        reason: &str,
        dry_run: bool,
    ) -> Result<Revocation, Problem> {
        if reason.is_empty() || reason.len() > REASON_BYTES_MAX {
            let detail = format!("A reason has 1 to {REASON_BYTES_MAX} bytes.");
            return Err(Problem::new(Code::InvalidField, detail).at("/reason"));
        }
        let inventory = self.parts.inventory.load_full();
        let mut revocation = {
            let directory = self.directory();
            plan_revocation(World { cluster: self.cluster(), directory: &directory, inventory: &inventory }, selection)?
        };
        if dry_run || revocation.machines.is_empty() {
            return Ok(revocation);
        }
        let machines: Vec<&MachineId> = revocation.machines.iter().collect();
        let filter = match selection {
            Selection::Ids(_) => "",
            Selection::Where(text) => text,
        };
        for (n, told) in machines.chunks(TOLD_AT_ONCE).enumerate() {
            let first = n * TOLD_AT_ONCE;
            let subject = format!("machines {} to {} of {}", first + 1, first + told.len(), machines.len());
            let names = told.iter().map(|id| id.as_str()).collect::<Vec<_>>().join(" ");
            let filter = &filter[..filter.floor_char_boundary(1_024)];
            let details = [("machines", names.as_str()), ("reason", reason), ("where", filter)];
            tell(&self.parts.audit, actor, "revoke machines", &subject, &details).await?;
        }
        let at_ms = self.now_ms();
        let written = self.parts.publisher.transact(|directory| {
            let mut plan = Plan::new();
            let left = revocation.machines.iter().filter(|id| !directory.revoked().contains_key(*id));
            for id in left {
                plan.put(Revoked { id: id.clone(), at_ms, reason: reason.to_owned() });
            }
            Ok::<_, Problem>((plan, ()))
        });
        revocation.index = written.await?.1;
        revocation.machines.iter().for_each(|id| self.parts.reports.forget(id));
        Ok(revocation)
    }

    /// Takes a data centre out of the holders of every policy: its machines are asked for nothing new.
    ///
    /// # Errors
    /// `not-found`; `last-holders` when a key in use would be left without a holder and `force` is not set;
    /// `unavailable`.
    pub async fn drain(
        &self,
        actor: &str,
        data_center: &DataCenterId,
        force: bool,
        dry_run: bool,
    ) -> Result<Drained, Problem> {
        self.set_state(actor, data_center, MachineState::Draining, force, dry_run).await
    }

    /// Puts a data centre back among the holders.
    ///
    /// # Errors
    /// `not-found`, `unavailable`.
    pub async fn undrain(&self, actor: &str, data_center: &DataCenterId, dry_run: bool) -> Result<Drained, Problem> {
        self.set_state(actor, data_center, MachineState::Live, true, dry_run).await
    }

    async fn set_state(
        &self,
        actor: &str,
        data_center: &DataCenterId,
        to: MachineState,
        force: bool,
        dry_run: bool,
    ) -> Result<Drained, Problem> {
        let _one_at_a_time = self.draining.lock().await;
        let (effects, pieces) = {
            let directory = self.directory();
            let known = directory.machines().values().any(|machine| machine.data_center == *data_center);
            if !known && !self.parts.inventory.load().data_centers.contains_key(data_center) {
                return Err(Problem::new(Code::NotFound, format!("There is no data centre {data_center}.")));
            }
            let pieces = pieces(&directory, data_center, to, DRAIN_OPS_MAX, DRAIN_BYTES_MAX);
            (effects(&directory, data_center, to), pieces)
        };
        let machines = pieces.iter().map(Vec::len).sum();
        if dry_run {
            return Ok(Drained { machines, effects, index: 0 });
        }
        if let (false, Some(effect)) = (force, effects.iter().find(|effect| effect.is_fatal())) {
            return Err(last_holders(data_center, effect));
        }
        let act = if to == MachineState::Draining { "drain data centre" } else { "undrain data centre" };
        let (count, forced) = (machines.to_string(), force.to_string());
        let details = [("machines", count.as_str()), ("forced", forced.as_str())];
        tell(&self.parts.audit, actor, act, data_center, &details).await?;
        let mut index = 0;
        for piece in &pieces {
            let written = self.parts.publisher.transact(|directory| {
                let mut plan = Plan::new();
                for id in piece {
                    if let Some(info) = directory.machines().get(id).filter(|info| info.state != to) {
                        let mut record = info.record(id);
                        record.state = to;
                        plan.put(record);
                    }
                }
                Ok::<_, Problem>((plan, ()))
            });
            index = written.await?.1.max(index);
        }
        Ok(Drained { machines, effects, index })
    }

    /// Where a certificate has arrived, by what machines reported; none when there is no such certificate.
    pub fn active_on(&self, zone: &ZoneId, id: &CertId) -> Option<ActiveOn> {
        let directory = self.directory();
        let cert = directory.certs().get(&(zone.clone(), id.clone()))?;
        let policy = directory.policy(&cert.policy)?.record.policy().ok()?;
        let index = directory.standing(&RecordKey::Cert(zone.clone(), id.clone())).mod_index;
        // Machines share their attributes: each set is held against the policy once.
        let mut known: HashMap<*const Attributes, bool> = HashMap::new();
        let mut holds = |attributes: &Arc<Attributes>| {
            *known.entry(Arc::as_ptr(attributes)).or_insert_with(|| policy.is_satisfied_by(attributes))
        };
        let holders: Vec<&MachineId> = directory
            .live()
            .filter(|(_, machine)| machine.issued.iter().any(|(_, attributes)| holds(attributes)))
            .map(|(id, _)| id)
            .collect();
        let of = holders.len();
        Some(ActiveOn { machines: self.parts.reports.count_at(holders, index), of })
    }

    /// One page of machines in order of their ids, after one.
    pub fn list(&self, after: Option<&MachineId>, len: usize) -> Vec<MachineView> {
        let (directory, inventory) = (self.directory(), self.parts.inventory.load());
        let world = World { cluster: self.cluster(), directory: &directory, inventory: &inventory };
        view::page(world, &self.parts.reports, after, len)
    }

    /// One machine.
    ///
    /// # Errors
    /// `machine-unknown`.
    pub fn status(&self, machine: &MachineId) -> Result<MachineView, Problem> {
        let (directory, inventory) = (self.directory(), self.parts.inventory.load());
        let world = World { cluster: self.cluster(), directory: &directory, inventory: &inventory };
        let unknown = || Problem::new(Code::MachineUnknown, format!("There is no machine {machine}."));
        view::view(world, &self.parts.reports, machine).ok_or_else(unknown)
    }
}

/// Enrolment tokens that a new one takes the place of, and some that are past their end.
fn replaced(directory: &Directory, scope: &TokenScope, now_ms: u64) -> Vec<CertId> {
    let machines = directory.tokens().filter(|token| matches!(token.scope, TokenScope::Machine(_)));
    let (same, others): (Vec<&Token>, Vec<&Token>) = machines.partition(|token| token.scope == *scope);
    let lapsed = others.into_iter().filter(|token| token.expires_ms != 0 && token.expires_ms < now_ms);
    same.into_iter().chain(lapsed.take(SWEPT_MAX)).map(|token| token.id.clone()).collect()
}

fn plan_revocation(world: World<'_>, selection: &Selection) -> Result<Revocation, Problem> {
    let meant = select(world, selection)?;
    let blast_radius = blast_radius(world.directory, &meant);
    let (already, machines): (BTreeSet<_>, BTreeSet<_>) =
        meant.into_iter().partition(|id| world.directory.revoked().contains_key(id));
    if machines.len() > REVOKED_AT_ONCE_MAX {
        let detail = format!("{} machines are meant, one change revokes {REVOKED_AT_ONCE_MAX}.", machines.len());
        return Err(
            Problem::new(Code::TooMany, detail).hint("Revoke them in parts, such as `country: RU and dc: led`.")
        );
    }
    Ok(Revocation { machines, already, blast_radius, index: 0 })
}

fn last_holders(data_center: &DataCenterId, effect: &Effect) -> Problem {
    let Effect { canonical, keys, .. } = effect;
    let detail = format!("{data_center} is the last data centre that holds `{canonical}`, with {keys} keys under it.");
    Problem::new(Code::LastHolders, detail).hint("Widen the policy first, or force it.")
}

fn read_request(bytes: &[u8]) -> Result<CertificateRequest, Problem> {
    CertificateRequest::from_bytes(bytes)
        .map_err(|error| Problem::new(Code::RequestUnusable, format!("{error}.")).at("/certificate_request"))
}

/// What stands between a machine and its keys.
fn of_custody(error: &CustodyError) -> Problem {
    match error {
        CustodyError::Sealed | CustodyError::NoGeneration(_) => {
            Problem::new(Code::Sealed, format!("No key can be issued: {error}."))
                .hint("An operator runs `cinnabar-authority unseal --for 15m`; then ask again.")
        }
        other => internal("a system secret key", other),
    }
}
