//! From a customer's policy text to the policy that keys are encrypted under, and what is wrong with a text.
//!
//! The road: [`compile`] parses, looks every condition up in the [`Vocabulary`], and replaces it by what machines carry
//! (`region: EU` becomes `region_EU: 1`). [`Compiled::unsatisfied`] says why no data centre holds it.
//! Law: what a word means is never guessed. What is unknown is an error with a caret under the word; only the case of
//! what is known is put right, and the canonical text shows it.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;

use cinnabar_abe::limits::Limits;
use cinnabar_abe::{Attributes, Part, Places, Policy, PolicyError, PolicyId, Span, caret};
use cinnabar_daemon::id::ClusterId;

use crate::names::DataCenterId;
use crate::schema::{CLUSTER, Label, MEMBER, REGION, Schema, cluster_word, compiled_label, is_country, listed};

/// The canonical text of the policy that every machine of the cluster satisfies.
pub const EVERYWHERE: &str = "everywhere";

/// What conditions may say.
pub struct Vocabulary<'a> {
    /// The cluster's schema.
    pub schema: &'a Schema,
    /// Data centres of the inventory.
    pub data_centers: &'a BTreeSet<DataCenterId>,
    /// Does every live machine hold this compiled label? One that some miss would be false there, even under `not`.
    pub held: &'a dyn Fn(&str) -> bool,
}

/// What is wrong with a policy text. `Display` prints code and message, the line with a caret, and the hint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyProblem {
    /// Stable name, for programs.
    pub code: &'static str,
    /// One sentence.
    pub message: String,
    /// Bytes of the text.
    pub span: Span,
    /// What to write instead.
    pub hint: String,
    /// The text.
    pub text: String,
}

impl fmt::Display for PolicyProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: {}\n{}", self.code, self.message, caret(&self.text, self.span, &self.hint))
    }
}

impl std::error::Error for PolicyProblem {}

/// A policy text that stood every check.
#[derive(Debug, Clone)]
pub struct Compiled {
    /// What is encrypted under.
    pub policy: Policy,
    /// The customer's text.
    pub text: String,
    /// The same for all texts that differ in order, parentheses, double negation or repetition only.
    pub canonical: String,
    places: Places,
    labels: Vec<String>,
}

/// Parses and compiles a policy text; an empty one means everywhere.
///
/// # Errors
/// [`PolicyProblem`]: the codes of [`cinnabar_abe::PolicyErrorKind`], and `unknown-label`, `unknown-value`,
/// `reserved-label`, `not-issued-yet`.
pub fn compile(text: &str, cluster: &ClusterId, words: &Vocabulary<'_>) -> Result<Compiled, PolicyProblem> {
    if text.trim().is_empty() {
        return Ok(everywhere(cluster));
    }
    let problem = |error: &PolicyError| PolicyProblem {
        code: error.kind().code(),
        message: error.message().to_owned(),
        span: error.span(),
        hint: error.hint().to_owned(),
        text: text.to_owned(),
    };
    let limits = Limits::default();
    let (source, places) = Policy::parse_with_places(text, &limits).map_err(|error| problem(&error))?;
    let mut labels = Vec::with_capacity(source.conditions());
    let mut shown = Vec::with_capacity(source.conditions());
    let policy = source.try_map_conditions(|n, label, value| {
        let place = places.conditions[n];
        let known = words.look_up(label, value).map_err(|fault| {
            let span = if fault.at_label { place.label } else { place.value };
            let Fault { code, message, hint, .. } = fault;
            Refused(PolicyProblem { code, message, span, hint, text: text.to_owned() })
        })?;
        labels.push(known.label.clone());
        shown.push(format!("{}: {}", known.label, known.value));
        Ok::<_, Refused>((known.compiled_label, known.compiled_value))
    });
    let policy = policy.map_err(|Refused(problem)| problem)?;
    policy.check_size(&limits, text).map_err(|error| problem(&error))?;
    let canonical = canonical(&policy, &shown);
    Ok(Compiled { policy, text: text.to_owned(), canonical, places, labels })
}

/// The policy that every machine of the cluster satisfies.
fn everywhere(cluster: &ClusterId) -> Compiled {
    let policy = Policy::parse(&format!("{CLUSTER}: {}", cluster_word(cluster))).expect("a word under a word");
    let place = Span { start: 0, end: 0 };
    let places =
        Places { conditions: vec![cinnabar_abe::ConditionPlace { label: place, value: place }], operators: Vec::new() };
    let labels = vec![CLUSTER.to_owned()];
    Compiled { policy, text: String::new(), canonical: EVERYWHERE.to_owned(), places, labels }
}

/// Lets a problem pass through [`Policy::try_map_conditions`].
struct Refused(PolicyProblem);

impl From<cinnabar_abe::Error> for Refused {
    fn from(error: cinnabar_abe::Error) -> Self {
        // What the schema knows are words; this cannot come.
        let span = Span { start: 0, end: 0 };
        let (message, hint) = (error.to_string(), String::new());
        Self(PolicyProblem { code: "unknown-label", message, span, hint, text: String::new() })
    }
}

/// A condition whose words are known.
struct Known {
    label: String,
    value: String,
    compiled_label: String,
    compiled_value: String,
}

/// One whose words are not.
struct Fault {
    code: &'static str,
    at_label: bool,
    message: String,
    hint: String,
}

impl Vocabulary<'_> {
    fn look_up(&self, label: &str, value: &str) -> Result<Known, Fault> {
        if label.eq_ignore_ascii_case(CLUSTER) {
            let hint = "leave the policy out to have a key everywhere".to_owned();
            return Err(Fault {
                code: "reserved-label",
                at_label: true,
                message: format!("`{label}` is reserved"),
                hint,
            });
        }
        let names: BTreeSet<String> = self.schema.labels().keys().cloned().collect();
        let Some(name) = respelled(label, &names) else {
            let hint = nearest(label, &names).unwrap_or_else(|| format!("labels are {}", listed(&names)));
            let message = format!("there is no label `{label}`");
            return Err(Fault { code: "unknown-label", at_label: true, message, hint });
        };
        let unknown = |message: String, hint: String| Fault { code: "unknown-value", at_label: false, message, hint };
        let (value, member) = match &self.schema.labels()[&name] {
            Label::Country => (self.country(value).map_err(|hint| unknown(no_country(value), hint))?, None),
            Label::DataCenter => {
                let names = self.data_centers.iter().map(ToString::to_string).collect();
                let message = format!("there is no data centre `{value}`");
                (respelled(value, &names).ok_or_else(|| unknown(message, suggestion(value, &names)))?, None)
            }
            Label::Listed { values, .. } => {
                let message = format!("`{name}` is never `{value}`");
                (respelled(value, values).ok_or_else(|| unknown(message, suggestion(value, values)))?, None)
            }
            Label::Set(members) => {
                let message = format!("`{name}` has no member `{value}`");
                let hint = if name == REGION && is_country(&value.to_ascii_uppercase()) {
                    format!("did you mean `country: {}`?", value.to_ascii_uppercase())
                } else {
                    suggestion(value, members)
                };
                let member = respelled(value, members).ok_or_else(|| unknown(message, hint))?;
                (member.clone(), Some(compiled_label(&name, &member)))
            }
        };
        let (compiled_label, compiled_value) = match member {
            Some(compiled) => (compiled, MEMBER.to_owned()),
            None => (name.clone(), value.clone()),
        };
        if !(self.held)(&compiled_label) {
            let message = format!("not every machine's key holds `{name}: {value}` yet");
            let hint = "wait until `cinnabar schema show` does not list it any more".to_owned();
            return Err(Fault { code: "not-issued-yet", at_label: false, message, hint });
        }
        Ok(Known { label: name, value, compiled_label, compiled_value })
    }

    fn country(&self, value: &str) -> Result<String, String> {
        let code = value.to_ascii_uppercase();
        if is_country(&code) {
            return Ok(code);
        }
        let Some(Label::Set(regions)) = self.schema.labels().get(REGION) else { return Err(COUNTRY_HINT.to_owned()) };
        Err(match (code.as_str(), regions.contains(&code)) {
            ("UK", _) => "did you mean `country: GB`?".to_owned(),
            (_, true) => format!("did you mean `region: {code}`?"),
            _ => COUNTRY_HINT.to_owned(),
        })
    }
}

const COUNTRY_HINT: &str = "write two letters of ISO 3166-1, such as `DE`";

fn no_country(value: &str) -> String {
    format!("there is no country `{value}`")
}

/// The word of the list that this is but for its case.
fn respelled(word: &str, words: &BTreeSet<String>) -> Option<String> {
    if words.contains(word) {
        return Some(word.to_owned());
    }
    let mut alike = words.iter().filter(|known| known.eq_ignore_ascii_case(word));
    match (alike.next(), alike.next()) {
        (Some(one), None) => Some(one.clone()),
        _ => None,
    }
}

/// Edits between a word and the one that was meant.
const EDITS_MAX: usize = 2;

fn nearest(word: &str, words: &BTreeSet<String>) -> Option<String> {
    let edits = |known: &String| strsim::levenshtein(&known.to_lowercase(), &word.to_lowercase());
    let found = words.iter().map(|known| (edits(known), known)).min()?;
    (found.0 <= EDITS_MAX && found.0 < word.len()).then(|| format!("did you mean `{}`?", found.1))
}

fn suggestion(word: &str, words: &BTreeSet<String>) -> String {
    nearest(word, words).unwrap_or_else(|| match words.len() {
        0 => "there is none yet".to_owned(),
        1..=16 => format!("one of {}", listed(words)),
        many => format!("{many} are known; see `cinnabar schema show`"),
    })
}

/// The one text of a policy: operators of one kind joined, their parts in order and each only once.
fn canonical(policy: &Policy, conditions: &[String]) -> String {
    let whole = match conditions.len() {
        0 | 1 => Part::Condition(0),
        many => Part::Operator(many - 2),
    };
    phrase(policy, conditions, whole).1
}

/// How tightly a phrase holds together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Binding {
    Condition,
    Negated,
    And,
    Or,
}

fn phrase(policy: &Policy, conditions: &[String], part: Part) -> (Binding, String) {
    // Each operator's parts, with those of the same kind taken in; built from the inside, so that no text nests the stack.
    let mut joined: Vec<(Binding, BTreeSet<(Binding, String)>)> = Vec::new();
    let leaf = |n: usize| {
        let text = conditions.get(n).cloned().unwrap_or_default();
        if policy.is_negated(n) { (Binding::Negated, format!("not {text}")) } else { (Binding::Condition, text) }
    };
    let settle = |(binding, parts): &(Binding, BTreeSet<(Binding, String)>)| join(*binding, parts);
    while let Some((both, sides)) = policy.sides(joined.len()) {
        let binding = if both { Binding::And } else { Binding::Or };
        let mut parts = BTreeSet::new();
        for side in sides {
            match side {
                Part::Condition(n) => drop(parts.insert(leaf(n))),
                Part::Operator(n) if joined[n].0 == binding => parts.extend(joined[n].1.clone()),
                Part::Operator(n) => match settle(&joined[n]) {
                    // Repetition left one part, which may be of this kind itself.
                    (inner, _) if inner == binding => parts.extend(joined[n].1.clone()),
                    settled => drop(parts.insert(settled)),
                },
            }
        }
        joined.push((binding, parts));
    }
    match part {
        Part::Condition(n) => leaf(n),
        Part::Operator(n) => settle(&joined[n]),
    }
}

fn join(binding: Binding, parts: &BTreeSet<(Binding, String)>) -> (Binding, String) {
    if let (1, Some(only)) = (parts.len(), parts.first()) {
        return only.clone();
    }
    let word = if binding == Binding::And { " and " } else { " or " };
    let shown =
        parts.iter().map(|(inner, text)| if *inner > Binding::Negated { format!("({text})") } else { text.clone() });
    (binding, shown.collect::<Vec<_>>().join(word))
}

impl Compiled {
    /// The policy's id in the cluster.
    pub fn id(&self, cluster: &ClusterId) -> PolicyId {
        self.policy.id(cluster.as_str().as_bytes())
    }

    /// Why none of these machines satisfies the policy; `None` when one does.
    pub fn unsatisfied<'a>(&self, machines: impl IntoIterator<Item = &'a Attributes>) -> Option<PolicyProblem> {
        let nothing = Attributes::new::<&str, &str>([]).expect("no attribute is no bad attribute");
        let mut met = self.policy.truth(&nothing);
        for attributes in machines {
            met.join(&self.policy.truth(attributes));
            if met.whole {
                return None;
            }
        }
        let met = |part: Part| met.of(part);
        let (span, hint) = self.fault(met);
        let message = "no data centre satisfies this policy".to_owned();
        Some(PolicyProblem { code: "no-data-centre", message, span, hint, text: self.text.clone() })
    }

    /// The innermost operator whose sides are each met somewhere but nowhere together, else a condition met nowhere.
    fn fault(&self, met: impl Fn(Part) -> bool) -> (Span, String) {
        for (n, span) in self.places.operators.iter().enumerate() {
            let Some((true, sides)) = self.policy.sides(n) else { continue };
            if sides.into_iter().all(&met) && !met(Part::Operator(n)) {
                return (*span, self.both_hint(n));
            }
        }
        for (n, place) in self.places.conditions.iter().enumerate() {
            if !met(Part::Condition(n)) {
                let hint = "no data centre that is up meets this".to_owned();
                return (Span { start: place.label.start, end: place.value.end }, hint);
            }
        }
        (Span { start: 0, end: self.text.len() }, "no data centre is up".to_owned())
    }

    fn both_hint(&self, operator: usize) -> String {
        let place = |n: usize| self.labels.get(n).is_some_and(|label| label == "country" || label == REGION);
        let places = self.conditions_under(operator).into_iter().filter(|n| place(*n) && !self.policy.is_negated(*n));
        let written_and =
            self.places.operators.get(operator).is_some_and(|span| &self.text[span.start..span.end] == "and");
        match (places.count() > 1, written_and) {
            (true, true) => "a data centre cannot be in two countries: did you mean `or`?".to_owned(),
            (_, true) => "no data centre meets both sides: did you mean `or`?".to_owned(),
            _ => "no data centre meets both sides".to_owned(),
        }
    }

    fn conditions_under(&self, operator: usize) -> Vec<usize> {
        let mut conditions = Vec::new();
        let mut waiting = vec![Part::Operator(operator)];
        while let Some(part) = waiting.pop() {
            match part {
                Part::Condition(n) => conditions.push(n),
                Part::Operator(n) => waiting.extend(self.policy.sides(n).into_iter().flat_map(|(_, sides)| sides)),
            }
        }
        conditions
    }
}
