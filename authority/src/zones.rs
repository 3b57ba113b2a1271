//! Zones and their tokens: who owns which names, and whose program may act for them.
//!
//! The road: an operator adds a zone with its domains and has tokens made for it; a customer's program shows one with
//! each request and [`Zones::authenticate`] says which zone it is of. Law: a name has one owner, so no two zones overlap,
//! also when two processes add them at once;
//! a domain does not leave a zone while a certificate stands on it; a zone ends only when it holds nothing, and its tokens
//! end with it. A token's text is given once and never kept.

mod tokens;

use std::sync::Arc;

use cinnabar_authority_api::limits::ZONE_DOMAINS_MAX;
use cinnabar_authority_api::records::{Content, Token, TokenScope, Zone, ZoneLimits};
use cinnabar_authority_api::{CertId, Hostname, RecordKey, ZoneId};
use cinnabar_daemon::Env;
use serde::Serialize;

use crate::acts::tell;
use crate::audit::Audit;
use crate::directory::Directory;
use crate::hostname::domain_from_user;
use crate::limits::{DATA_CENTERS_MIN_DEFAULT, ZONE_CHANGES_DEFAULT, ZONE_KEYS_DEFAULT};
use crate::problem::{Code, Problem, echo};
use crate::publisher::{Plan, Publisher};
use crate::tokens::{Presented, TokenText};
use crate::uploads::not_found;

/// What of a zone's limits changes; what is absent stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LimitsChange {
    /// Fewest data centres that a key should be held by.
    pub data_centers_min: Option<u16>,
    /// Most certificates and secrets.
    pub keys_max: Option<u32>,
    /// Changes a minute.
    pub changes_per_minute: Option<u32>,
}

impl LimitsChange {
    /// These limits with the change over them.
    #[must_use]
    pub fn over(self, old: ZoneLimits) -> ZoneLimits {
        ZoneLimits {
            data_centers_min: self.data_centers_min.unwrap_or(old.data_centers_min),
            keys_max: self.keys_max.unwrap_or(old.keys_max),
            changes_per_minute: self.changes_per_minute.unwrap_or(old.changes_per_minute),
        }
    }
}

/// A zone's limits where nobody says otherwise.
pub const LIMITS_DEFAULT: ZoneLimits = ZoneLimits {
    data_centers_min: DATA_CENTERS_MIN_DEFAULT,
    keys_max: ZONE_KEYS_DEFAULT,
    changes_per_minute: ZONE_CHANGES_DEFAULT,
};

/// A zone as operators, and its own customers, see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ZoneView {
    /// Its id.
    pub id: ZoneId,
    /// Its domains, each with everything below it.
    pub domains: Vec<Hostname>,
    /// What it may do.
    pub limits: ZoneLimits,
    /// Certificates and secrets that it holds.
    pub keys: usize,
}

/// A token as it is listed: without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TokenView {
    /// Its public part.
    pub id: CertId,
    /// What its owner calls it.
    pub name: String,
    /// Last moment, in milliseconds since 1970; 0 when it does not end.
    pub expires_ms: u64,
}

/// A token that was just made.
#[derive(Debug)]
pub struct NewToken {
    /// What will be listed.
    pub view: TokenView,
    /// What to send with requests: shown this once.
    pub text: TokenText,
}

/// Who shows a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The zone that it acts for.
    pub zone: ZoneId,
    /// The token's public part.
    pub token: CertId,
    /// Last moment of the token, in milliseconds since 1970; 0 when it does not end.
    pub expires_ms: u64,
}

/// What a token says of who shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// A zone's program.
    Zone(Holder),
    /// An operator: the token's name and public part.
    Operator(String),
}

/// See the module.
pub struct Zones {
    /// Writes, and has the directory.
    pub publisher: Arc<Publisher>,
    /// Told before anything is stored.
    pub audit: Arc<Audit>,
    /// Clocks and randomness.
    pub env: Env,
}

impl Zones {
    /// Adds a zone. `domains` as people write them.
    ///
    /// # Errors
    /// `domain-malformed`, `zone-overlap`, `conflict` when there is a zone of that id, `unavailable`.
    pub async fn add(
        &self,
        actor: &str,
        id: ZoneId,
        domains: &[String],
        limits: LimitsChange,
    ) -> Result<ZoneView, Problem> {
        let zone = Zone { id, domains: read_domains(domains)?, limits: limits.over(LIMITS_DEFAULT) };
        let check = |directory: &Directory| {
            if directory.standing(&zone.key()).live {
                return Err(Problem::new(Code::Conflict, format!("There is a zone {} already.", zone.id)).at("/id"));
            }
            check_overlap(directory, &zone)
        };
        check(&self.publisher.directory().read())?;
        tell(&self.audit, actor, "add zone", &zone.key(), &[("domains", &listed(&zone.domains))]).await?;
        let written = self.publisher.transact(|directory| {
            check(directory)?;
            let mut plan = Plan::new();
            meet_others(directory, &mut plan)?;
            plan.put(zone.clone());
            Ok::<_, Problem>((plan, ()))
        });
        written.await?;
        Ok(ZoneView { id: zone.id, domains: zone.domains, limits: zone.limits, keys: 0 })
    }

    /// Changes a zone's domains, limits or both.
    ///
    /// # Errors
    /// `not-found`, `domain-malformed`, `zone-overlap`, `zone-in-use` for a domain with a certificate on it,
    /// `unavailable`.
    pub async fn change(
        &self,
        actor: &str,
        id: &ZoneId,
        domains: Option<&[String]>,
        limits: LimitsChange,
    ) -> Result<ZoneView, Problem> {
        let domains = domains.map(read_domains).transpose()?;
        let change = |directory: &Directory| {
            let mut zone = directory.zones().get(id).cloned().ok_or_else(|| not_found("zone"))?;
            zone.limits = limits.over(zone.limits);
            if let Some(domains) = &domains {
                zone.domains.clone_from(domains);
                check_overlap(directory, &zone)?;
                check_stays(directory, &zone)?;
            }
            Ok::<_, Problem>(zone)
        };
        let planned = change(&self.publisher.directory().read())?;
        let limits_text = format!("{:?}", planned.limits);
        let details = [("domains", listed(&planned.domains)), ("limits", limits_text)];
        let details = details.each_ref().map(|(name, text)| (*name, text.as_str()));
        tell(&self.audit, actor, "change zone", &planned.key(), &details).await?;
        let written = self.publisher.transact(|directory| {
            let zone = change(directory)?;
            let mut plan = Plan::new();
            if domains.is_some() {
                meet_others(directory, &mut plan)?;
            }
            plan.put(zone.clone());
            Ok::<_, Problem>((plan, view(directory, &zone)))
        });
        Ok(written.await?.0)
    }

    /// Removes a zone that holds nothing, and its tokens.
    ///
    /// # Errors
    /// `not-found`, `zone-in-use`, `unavailable`.
    pub async fn remove(&self, actor: &str, id: &ZoneId) -> Result<(), Problem> {
        let check = |directory: &Directory| {
            let zone = directory.zones().get(id).ok_or_else(|| not_found("zone"))?;
            match view(directory, zone).keys {
                0 => Ok(()),
                keys => Err(Problem::new(Code::ZoneInUse, format!("Zone {id} still holds {keys} keys."))),
            }
        };
        check(&self.publisher.directory().read())?;
        tell(&self.audit, actor, "remove zone", &RecordKey::Zone(id.clone()), &[]).await?;
        let written = self.publisher.transact(|directory| {
            check(directory)?;
            let mut plan = Plan::new();
            plan.end::<Zone>(RecordKey::Zone(id.clone()));
            // A zone of the same name may come back, with another owner: no token of this one may act for it.
            for token in tokens::of_scope(directory, &TokenScope::Zone(id.clone())) {
                plan.end::<Token>(token.key());
            }
            Ok::<_, Problem>((plan, ()))
        });
        written.await.map(drop)
    }

    /// All zones, in the order of their ids.
    pub fn list(&self) -> Vec<ZoneView> {
        let directory = self.publisher.directory().read();
        directory.zones().values().map(|zone| view(&directory, zone)).collect()
    }

    /// One zone.
    ///
    /// # Errors
    /// `not-found`.
    pub fn get(&self, id: &ZoneId) -> Result<ZoneView, Problem> {
        let directory = self.publisher.directory().read();
        directory.zones().get(id).map(|zone| view(&directory, zone)).ok_or_else(|| not_found("zone"))
    }

    /// Who shows this text; nobody when it is no token, a machine's, revoked or expired.
    pub fn authenticate(&self, text: &str) -> Option<Shown> {
        let presented = Presented::parse(text).ok()?;
        let directory = self.publisher.directory().read();
        let token = presented.record(&directory, self.env.clock.unix_ms()).ok()?;
        match &token.scope {
            TokenScope::Machine(_) => None,
            TokenScope::Operator => Some(Shown::Operator(format!("{} by token {}", token.name, token.id))),
            TokenScope::Zone(zone) => directory.zones().contains_key(zone).then(|| {
                Shown::Zone(Holder { zone: zone.clone(), token: token.id.clone(), expires_ms: token.expires_ms })
            }),
        }
    }
}

fn view(directory: &Directory, zone: &Zone) -> ZoneView {
    let keys = directory.keys_of(&zone.id);
    ZoneView { id: zone.id.clone(), domains: zone.domains.clone(), limits: zone.limits, keys }
}

fn listed(domains: &[Hostname]) -> String {
    domains.iter().map(Hostname::as_str).collect::<Vec<_>>().join(" ")
}

/// Domains as people write them.
fn read_domains(texts: &[String]) -> Result<Vec<Hostname>, Problem> {
    if texts.is_empty() || texts.len() > ZONE_DOMAINS_MAX {
        let detail = format!("A zone has 1 to {ZONE_DOMAINS_MAX} domains.");
        return Err(Problem::new(Code::InvalidField, detail).at("/domains"));
    }
    let mut domains: Vec<Hostname> = Vec::with_capacity(texts.len());
    for (n, text) in texts.iter().enumerate() {
        let refused = |detail| Problem::new(Code::DomainMalformed, detail).at(format!("/domains/{n}"));
        let domain = domain_from_user(text).map_err(|error| refused(format!("`{}`: {error}.", echo(text))))?;
        if let Some(other) = domains.iter().find(|other| overlap(other, &domain)) {
            return Err(refused(format!("`{domain}` and `{other}` overlap; the shorter one is enough.")));
        }
        domains.push(domain);
    }
    Ok(domains)
}

fn overlap(a: &Hostname, b: &Hostname) -> bool {
    a.is_inside(b) || b.is_inside(a)
}

/// Puts the head again, as it stands, beside a change of who owns which names. Two zones have no record in common, and so
/// two processes could add overlapping ones at once, each seeing none: they meet in the head, where one of them finds that
/// it was changed, and begins anew over what the other did.
fn meet_others(directory: &Directory, plan: &mut Plan) -> Result<(), Problem> {
    let head = directory.head().cloned().ok_or_else(|| {
        Problem::new(Code::Unavailable, "The authority has signed no head yet.").hint("Try again in a few seconds.")
    })?;
    plan.put(head);
    Ok(())
}

/// Every domain against every other zone's: what lies below a domain may be another's, too.
fn check_overlap(directory: &Directory, zone: &Zone) -> Result<(), Problem> {
    for other in directory.zones().values().filter(|other| other.id != zone.id) {
        for theirs in &other.domains {
            if let Some(n) = zone.domains.iter().position(|ours| overlap(ours, theirs)) {
                let detail = format!("`{}` overlaps with `{theirs}` of zone {}.", zone.domains[n], other.id);
                return Err(Problem::new(Code::ZoneOverlap, detail).at(format!("/domains/{n}")));
            }
        }
    }
    Ok(())
}

/// Every name of the zone's certificates stays inside it.
fn check_stays(directory: &Directory, zone: &Zone) -> Result<(), Problem> {
    for (id, info) in directory.certs_of(&zone.id) {
        if let Some(name) = crate::hostname::first_outside(&info.hostnames, &zone.domains) {
            let detail = format!("`{name}` of certificate {id} would be outside the zone.");
            return Err(Problem::new(Code::ZoneInUse, detail).at("/domains"));
        }
    }
    Ok(())
}
