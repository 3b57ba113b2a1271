//! Policies: from a customer's text to a decision, and to the policy key that a secret is wrapped to.
//!
//! The road: [`Policies::decide`] compiles a text and previews who holds; [`Decision::redundancy`] refuses what too few
//! hold; [`Policies::key`] finds the policy's key or mints one. Law: equal policies share one key, different ones never;
//! the private half of a key exists only while it is encrypted for those who satisfy the policy, and is then wiped.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use cinnabar_abe::envelope::PolicySecretKey;
use cinnabar_abe::{Attributes, PolicyId};
use cinnabar_authority_api::compile::{Compiled, EVERYWHERE, PolicyProblem, Vocabulary, compile};
use cinnabar_authority_api::records::{PolicyCiphertext, PolicyIdField, PolicyRecord, State};
use cinnabar_authority_api::schema::{CLUSTER, DATA_CENTER, Schema};
use cinnabar_authority_api::{DataCenterId, Generation, PolicyKeyVersion, SchemaVersion};
use cinnabar_daemon::Rng;
use cinnabar_daemon::id::ClusterId;
use parking_lot::{Mutex, RwLock};
use serde::Serialize;

use crate::directory::Directory;
use crate::inventory::Inventory;
use crate::preview::{Preview, Regions, RoundTrips, live_sets, preview_in, regions};
use crate::problem::{Code, Problem};
use crate::publisher::Plan;
use cinnabar_daemon::random::generator;

/// Added wait above which a region is named in a warning, in ms.
const SLOW_REGION_MS: f64 = 100.0;

/// A value that no schema and no data centre has: words of both are in lower case or of two capitals.
const OF_NO_POLICY: &str = "OF_NO_POLICY";

/// What a customer should know about a policy that is taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// Stable name: `few-holders`, `single-country`, `slow-region`.
    pub code: &'static str,
    /// `warning` or `info`.
    pub severity: &'static str,
    /// One sentence.
    pub message: String,
    /// The regions that it is about.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub regions: Vec<String>,
}

/// A policy that stood every check, and what it means today.
#[derive(Debug, Clone)]
pub struct Decision {
    /// The compiled policy and its texts.
    pub compiled: Compiled,
    /// The policy's id.
    pub id: PolicyId,
    /// The schema that it was compiled under.
    pub schema: SchemaVersion,
    /// Who holds it, and what that means.
    pub preview: Preview,
}

/// A policy's key as it will be in the store.
pub struct PolicyKey {
    record: PolicyRecord,
    /// None when the store has it.
    minted: Option<Vec<PolicyCiphertext>>,
}

/// See the module.
pub struct Policies {
    cluster: ClusterId,
    directory: Arc<RwLock<Directory>>,
    inventory: Arc<ArcSwap<Inventory>>,
    measured: Arc<ArcSwap<RoundTrips>>,
    rng: Arc<dyn Rng>,
    /// Of the newest directory that was asked; gathering it goes through all machines.
    newest: Mutex<Option<Arc<Moment>>>,
}

/// What every decision of one moment rests on.
struct Moment {
    /// [`Directory::changes`] then.
    changes: u64,
    schema: (SchemaVersion, Schema),
    sets: Vec<(Arc<Attributes>, BTreeSet<DataCenterId>)>,
    regions: Regions,
    /// Compiled labels that every live machine holds.
    held: HashSet<String>,
}

impl Moment {
    fn of(directory: &Directory) -> Result<Self, Problem> {
        let unready = || Problem::new(Code::Unavailable, "The store has no schema and no active generation yet.");
        let (version, schema) = directory.schema().ok_or_else(unready)?;
        let sets = live_sets(directory, directory.active_system().ok_or_else(unready)?.generation);
        let labels = |set: &Attributes| set.labels().collect::<HashSet<String>>();
        let mut held: HashSet<String> = schema.compiled_labels().into_iter().chain([CLUSTER.to_owned()]).collect();
        for (set, _) in &sets {
            let labels = labels(set);
            held.retain(|label| labels.contains(label));
        }
        let regions = regions(&sets);
        Ok(Self { changes: directory.changes(), schema: (version, schema.clone()), sets, regions, held })
    }
}

impl Policies {
    /// Decides over this directory and inventory.
    pub fn new(
        cluster: ClusterId,
        directory: Arc<RwLock<Directory>>,
        inventory: Arc<ArcSwap<Inventory>>,
        measured: Arc<ArcSwap<RoundTrips>>,
        rng: Arc<dyn Rng>,
    ) -> Self {
        Self { cluster, directory, inventory, measured, rng, newest: Mutex::default() }
    }

    fn moment(&self) -> Result<Arc<Moment>, Problem> {
        let directory = self.directory.read();
        let mut newest = self.newest.lock();
        if let Some(moment) = newest.as_ref().filter(|moment| moment.changes == directory.changes()) {
            return Ok(moment.clone());
        }
        let moment = Arc::new(Moment::of(&directory)?);
        *newest = Some(moment.clone());
        Ok(moment)
    }

    fn compile(&self, text: &str, moment: &Moment, pointer: &'static str) -> Result<Compiled, Problem> {
        let data_centers = self.inventory.load().names();
        let held = |label: &str| moment.held.contains(label);
        let words = Vocabulary { schema: &moment.schema.1, data_centers: &data_centers, held: &held };
        compile(text, &self.cluster, &words).map_err(|problem| Problem::of_policy(&problem, pointer))
    }

    /// The inventory in use.
    pub fn inventory(&self) -> Arc<Inventory> {
        self.inventory.load_full()
    }

    /// The schema in use, and the compiled labels that not every live machine holds yet.
    ///
    /// # Errors
    /// `unavailable` before the store has one.
    pub fn schema(&self) -> Result<(SchemaVersion, Schema, Vec<String>), Problem> {
        let moment = self.moment()?;
        let (version, schema) = &moment.schema;
        let missing = schema.compiled_labels().into_iter().filter(|label| !moment.held.contains(label));
        Ok((*version, schema.clone(), missing.collect()))
    }

    /// Compiles a text and says who holds it today. `pointer` names the request's field with the text. Some milliseconds of
    /// work.
    ///
    /// # Errors
    /// The codes of policies, and `no-data-centre`.
    pub fn decide(&self, text: &str, pointer: &'static str) -> Result<Decision, Problem> {
        let moment = self.moment()?;
        let compiled = self.compile(text, &moment, pointer)?;
        if let Some(problem) = compiled.unsatisfied(moment.sets.iter().map(|(set, _)| &**set)) {
            return Err(Problem::of_policy(&problem, pointer));
        }
        let preview =
            preview_in(&compiled.policy, &moment.sets, &moment.regions, &self.inventory.load(), &self.measured.load());
        Ok(Decision { id: compiled.id(&self.cluster), compiled, schema: moment.schema.0, preview })
    }

    /// Would a data centre that joins, and is in all but its name like one that is there, hold what is under this policy?
    ///
    /// # Errors
    /// `unavailable` without schema or generation; `internal`.
    pub fn matches_new_data_centers(&self, decision: &Decision) -> Result<bool, Problem> {
        let moment = self.moment()?;
        let named = decision.compiled.policy.attribute_value_pairs();
        for (set, _) in &moment.sets {
            // Of other labels, only the values that the policy names make a difference.
            let value = |label: &str| {
                let values = named.get(label).filter(|_| label != DATA_CENTER);
                values.and_then(|values| values.iter().find(|value| set.has(label, value))).copied()
            };
            let pairs = set.labels().map(|label| (value(&label).unwrap_or(OF_NO_POLICY), label));
            let like = Attributes::new(pairs.map(|(value, label)| (label, value)))
                .map_err(|error| crate::uploads::internal("attributes like a machine's", &error))?;
            if decision.compiled.policy.is_satisfied_by(&like) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Compiles a text over machines that says who may ask for signatures.
    ///
    /// # Errors
    /// The codes of policies.
    pub fn served_by(&self, text: &str) -> Result<String, Problem> {
        let moment = self.moment()?;
        Ok(self.compile(text, &moment, "/served_by")?.policy.to_string())
    }

    /// Data centres with a machine that could open what is under a policy already: trusted ones, draining or not.
    pub fn could_open(&self, compiled: &cinnabar_abe::Policy) -> Vec<DataCenterId> {
        let directory = self.directory.read();
        let opens = directory
            .trusted()
            .filter(|(_, machine)| machine.issued.iter().any(|(_, attributes)| compiled.is_satisfied_by(attributes)));
        opens.map(|(_, machine)| machine.data_center.clone()).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The key of a decision's policy: the one in the store, or a new one. Encrypting takes milliseconds per condition and
    /// generation.
    ///
    /// # Errors
    /// `unavailable` without a live generation; `internal` when the cryptography fails.
    pub fn key(&self, decision: &Decision) -> Result<PolicyKey, Problem> {
        let generations: Vec<(Generation, _)> = {
            let directory = self.directory.read();
            if let Some(info) = directory.active_policy(&decision.id) {
                return Ok(PolicyKey { record: info.record.clone(), minted: None });
            }
            directory.live_generations().map(|system| (system.generation, system.public_key.clone())).collect()
        };
        if generations.is_empty() {
            return Err(Problem::new(Code::Unavailable, "The system has no generation that encrypts."));
        }
        let broken = |error: &dyn std::fmt::Display| {
            tracing::error!(%error, policy = %decision.id, "a policy key was not made");
            Problem::new(Code::Internal, "The policy's key could not be made.")
        };
        let mut random = generator(&*self.rng).map_err(|error| broken(&error))?;
        let secret = PolicySecretKey::generate(&mut random);
        let (id, version) = (PolicyIdField(decision.id), PolicyKeyVersion::FIRST);
        let mut minted = Vec::with_capacity(generations.len());
        for (generation, public) in generations {
            let public = cinnabar_abe::PublicKey::from_bytes(&public).map_err(|error| broken(&error))?;
            let cluster = self.cluster.as_str().as_bytes();
            let ciphertext = secret
                .encrypt(&public, &mut random, &decision.compiled.policy, cluster, version.0)
                .map_err(|error| broken(&error))?;
            let ciphertext = bytes::Bytes::copy_from_slice(ciphertext.as_bytes());
            minted.push(PolicyCiphertext { id, version, generation, ciphertext });
        }
        let record = PolicyRecord {
            id,
            version,
            text: decision.compiled.text.clone(),
            canonical: decision.compiled.canonical.clone(),
            schema: decision.schema,
            compiled: decision.compiled.policy.to_string(),
            public_key: *secret.public_key().as_bytes(),
            state: State::Active,
        };
        Ok(PolicyKey { record, minted: Some(minted) })
    }
}

impl PolicyKey {
    /// The record to wrap to: what the store has when it has one by now, else this one, which the plan then puts.
    pub fn settle(&self, directory: &Directory, plan: &mut Plan) -> PolicyRecord {
        if let Some(info) = directory.active_policy(&self.record.id.0) {
            plan.rest_on(cinnabar_authority_api::records::Content::key(&info.record));
            return info.record.clone();
        }
        for ciphertext in self.minted.iter().flatten() {
            plan.put(ciphertext.clone());
        }
        plan.put(self.record.clone());
        self.record.clone()
    }
}

impl Decision {
    /// Refuses what fewer data centres hold than `least`, unless that was acknowledged.
    ///
    /// # Errors
    /// `few-holders`.
    pub fn redundancy(&self, least: u16, acknowledged: bool, pointer: &'static str) -> Result<(), Problem> {
        let count = self.preview.holders.count;
        if acknowledged || count >= usize::from(least) {
            return Ok(());
        }
        let detail = format!("{} {least} or more are advised.", self.few());
        Err(Problem::new(Code::FewHolders, detail)
            .at(pointer)
            .hint("Widen the policy, or send \"acknowledge\": [\"few-holders\"]."))
    }

    fn few(&self) -> String {
        match self.preview.holders.count {
            1 => "Only 1 data centre would hold this key.".to_owned(),
            count => format!("Only {count} data centres would hold this key."),
        }
    }

    /// What the customer should know, for a zone that wants `least` data centres.
    pub fn warnings(&self, least: u16) -> Vec<Warning> {
        let mut warnings = Vec::new();
        if self.preview.holders.count < usize::from(least) {
            let message = format!("{} {least} or more are advised.", self.few());
            warnings.push(Warning { code: "few-holders", severity: "warning", message, regions: Vec::new() });
        }
        if let [country] = self.preview.holders.countries.as_slice() {
            let message = format!("All of them are in one country, {country}.");
            warnings.push(Warning { code: "single-country", severity: "info", message, regions: Vec::new() });
        }
        let slow = self.preview.latency.regions.iter().filter(|region| region.extra_ms.p95 >= SLOW_REGION_MS);
        let regions: Vec<String> = slow.map(|region| region.region.clone()).collect();
        if !regions.is_empty() {
            let message = format!("New connections in {} wait {SLOW_REGION_MS} ms or more.", regions.join(", "));
            warnings.push(Warning { code: "slow-region", severity: "info", message, regions });
        }
        warnings
    }

    /// The text as the customer will see it again.
    pub fn shown_text(&self) -> &str {
        shown(&self.compiled.text)
    }
}

/// A customer's text as it is shown: an empty one has a word.
pub fn shown(text: &str) -> &str {
    if text.is_empty() { EVERYWHERE } else { text }
}

impl Problem {
    /// A policy text that is refused: `pointer` names the field with it.
    #[must_use]
    pub fn of_policy(problem: &PolicyProblem, pointer: &'static str) -> Self {
        let known = Code::ALL.iter().find(|code| code.as_str() == problem.code);
        let refused = match known {
            Some(code) => Self::new(*code, problem.message.clone()),
            None => Self::new(Code::PolicySyntax, problem.message.clone()).spoken_as(problem.code),
        };
        refused.at(pointer).span(problem.span).hint(problem.hint.clone())
    }
}
