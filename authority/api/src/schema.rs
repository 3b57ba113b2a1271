//! The attribute schema: which labels there are, what each may say, and what a machine's facts become in its keys.
//!
//! The scheme of `abe` gives each label one value. Users want sets: a data centre lies in several regions and meets several
//! standards. So a set `region` with known members becomes one label for each member, `region_EU`, that says `1` or `0`,
//! and every machine carries all of them, so that `not region: EU` works too. Names of sets hold no `_`, so no two
//! compiled labels meet by accident; where they do meet, the schema is refused.
//! Law: a schema only grows. What an issued key carries is changed by a rotation, never by a reload.

use std::collections::{BTreeMap, BTreeSet};

use cinnabar_daemon::id::ClusterId;
use serde::{Deserialize, Serialize};

use crate::limits::{ATTRIBUTES_MAX, SCHEMA_LABELS_MAX, SCHEMA_MEMBERS_MAX, WORD_BYTES_MAX};
use crate::names::DataCenterId;

/// The label of the country, ISO 3166-1 alpha-2.
pub const COUNTRY: &str = "country";
/// The label of the data centre.
pub const DATA_CENTER: &str = "dc";
/// The set of regions.
pub const REGION: &str = "region";
/// The label that every machine of a cluster carries: the policy "everywhere". Reserved.
pub const CLUSTER: &str = "cluster";
/// The member of [`REGION`] that follows from the country.
pub const EU: &str = "EU";
/// The 27 members of the European Union, ISO 3166-1 alpha-2.
pub const EU_COUNTRIES: [&str; 27] = [
    "AT", "BE", "BG", "CY", "CZ", "DE", "DK", "EE", "ES", "FI", "FR", "GR", "HR", "HU", "IE", "IT", "LT", "LU", "LV",
    "MT", "NL", "PL", "PT", "RO", "SE", "SI", "SK",
];
/// Regions of a schema that names none.
pub const REGIONS: [&str; 10] = ["AFR", "APAC", "EEUR", "ENAM", EU, "ME", "OC", "SAM", "WEUR", "WNAM"];
/// Tiers of a schema that names none; the last is the default.
pub const TIERS: [&str; 2] = ["highest", "standard"];

/// The value of a compiled label on a machine that is a member.
pub const MEMBER: &str = "1";
/// The value on a machine that is not.
pub const NO_MEMBER: &str = "0";

/// What a label may say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Label {
    /// A country of ISO 3166-1.
    Country,
    /// A data centre of the inventory.
    DataCenter,
    /// One of these values; machines of which nothing is said have the default.
    Listed {
        /// The values.
        values: BTreeSet<String>,
        /// The default; without one every machine's facts must name a value.
        default: Option<String>,
    },
    /// Any of these members.
    Set(BTreeSet<String>),
}

/// The labels of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schema {
    labels: BTreeMap<String, Label>,
}

/// Why a schema, or a machine's facts under it, are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// The file is not what it should be.
    #[error("schema: {0}")]
    Syntax(String),
    /// A label, value or member is none.
    #[error("schema: label `{label}`: {problem}")]
    Label {
        /// The label.
        label: String,
        /// What is wrong, and what to write instead.
        problem: String,
    },
    /// Two labels become the same one.
    #[error("schema: `{first}` and `{second}` both become the label `{compiled}`; rename one")]
    Collision {
        /// One of them.
        first: String,
        /// The other.
        second: String,
        /// The label.
        compiled: String,
    },
    /// Something that issued keys carry is changed or gone.
    #[error("schema: {what} cannot be {change} by a reload: machines hold keys with it; run a rotation for that")]
    Shrinks {
        /// Label, value or member.
        what: String,
        /// `changed` or `removed`.
        change: &'static str,
    },
    /// Facts about a machine that the schema does not know, or that are missing.
    #[error("{0}")]
    Facts(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    labels: BTreeMap<String, FileLabel>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileLabel {
    values: Option<BTreeSet<String>>,
    default: Option<String>,
    members: Option<BTreeSet<String>>,
}

/// What the inventory says about a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// ISO 3166-1 alpha-2.
    pub country: String,
    /// Where it stands.
    pub data_center: DataCenterId,
    /// Values of listed labels.
    pub values: BTreeMap<String, String>,
    /// Members of sets.
    pub sets: BTreeMap<String, BTreeSet<String>>,
}

fn texts(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

impl Default for Schema {
    fn default() -> Self {
        let tier = Label::Listed { values: texts(&TIERS), default: Some(TIERS[1].to_owned()) };
        let labels = [
            (COUNTRY, Label::Country),
            (DATA_CENTER, Label::DataCenter),
            ("tier", tier),
            (REGION, Label::Set(texts(&REGIONS))),
        ];
        Self { labels: labels.into_iter().map(|(name, label)| (name.to_owned(), label)).collect() }
    }
}

/// Is it the code of a country of ISO 3166-1, in capitals?
pub fn is_country(code: &str) -> bool {
    code.len() == 2
        && code.bytes().all(|byte| byte.is_ascii_uppercase())
        && celes::Country::from_alpha2(code.to_ascii_lowercase()).is_ok()
}

fn is_word(text: &str) -> bool {
    text.len() <= WORD_BYTES_MAX && cinnabar_abe::is_word(text.as_bytes())
}

impl Schema {
    /// Reads a schema file: the labels that it names beside `country` and `dc`; `region` and `tier` have defaults.
    ///
    /// ```toml
    /// [labels.security]
    /// values = ["high", "normal"]
    /// default = "normal"
    /// [labels.standard]
    /// members = ["pci", "fedramp_moderate"]
    /// ```
    ///
    /// # Errors
    /// [`SchemaError`].
    pub fn from_toml(text: &str) -> Result<Self, SchemaError> {
        let file: File = toml::from_str(text).map_err(|error| SchemaError::Syntax(error.to_string()))?;
        let mut schema = Self::default();
        for (name, label) in file.labels {
            let refused = |problem: &str| SchemaError::Label { label: name.clone(), problem: problem.to_owned() };
            if matches!(schema.labels.get(&name), Some(Label::Country | Label::DataCenter)) {
                return Err(refused("is always there and has no list"));
            }
            let label = match (label.values, label.members, label.default) {
                (Some(values), None, default) => Label::Listed { values, default },
                (None, Some(members), None) => Label::Set(members),
                (None, Some(_), Some(_)) => return Err(refused("a set has no `default`: a machine is in it or not")),
                _ => return Err(refused("needs either `values` (one of them) or `members` (any of them)")),
            };
            schema.labels.insert(name, label);
        }
        schema.check()?;
        Ok(schema)
    }

    /// The labels.
    pub fn labels(&self) -> &BTreeMap<String, Label> {
        &self.labels
    }

    /// The labels that every machine's key carries, compiled, without the reserved one.
    pub fn compiled_labels(&self) -> Vec<String> {
        let compiled = |(name, label): (&String, &Label)| match label {
            Label::Set(members) => members.iter().map(|member| compiled_label(name, member)).collect(),
            _ => vec![name.clone()],
        };
        self.labels.iter().flat_map(compiled).collect()
    }

    /// Checks words, bounds and collisions.
    ///
    /// # Errors
    /// [`SchemaError`].
    pub fn check(&self) -> Result<(), SchemaError> {
        let refused = |label: &str, problem: String| SchemaError::Label { label: label.to_owned(), problem };
        if self.labels.len() > SCHEMA_LABELS_MAX {
            return Err(SchemaError::Syntax(format!("{} labels, at most {SCHEMA_LABELS_MAX}", self.labels.len())));
        }
        for (name, label) in &self.labels {
            if !is_word(name) {
                return Err(refused(name, "a label is letters, digits and `_`, and no operator".to_owned()));
            }
            let (words, kind) = match label {
                Label::Country | Label::DataCenter => continue,
                Label::Listed { values, .. } => (values, "value"),
                Label::Set(members) => (members, "member"),
            };
            if words.is_empty() || words.len() > SCHEMA_MEMBERS_MAX {
                return Err(refused(name, format!("{} {kind}s, allowed are 1 to {SCHEMA_MEMBERS_MAX}", words.len())));
            }
            if let Some(word) = words.iter().find(|word| !is_word(word)) {
                let word = word.escape_debug();
                return Err(refused(name, format!("{kind} `{word}`: letters, digits and `_`, and no operator")));
            }
            match label {
                Label::Listed { values, default: Some(default) } if !values.contains(default) => {
                    return Err(refused(name, format!("default `{default}` is none of its values")));
                }
                Label::Set(_) if name.contains('_') => {
                    return Err(refused(
                        name,
                        "the name of a set holds no `_`: its members are joined to it".to_owned(),
                    ));
                }
                _ => {}
            }
        }
        self.check_compiled()
    }

    fn check_compiled(&self) -> Result<(), SchemaError> {
        let mut seen = BTreeMap::from([(CLUSTER.to_owned(), CLUSTER.to_owned())]);
        for (name, label) in &self.labels {
            let compiled = match label {
                Label::Set(members) => members.iter().map(|member| compiled_label(name, member)).collect(),
                _ => vec![name.clone()],
            };
            for compiled in compiled {
                if let Some(first) = seen.insert(compiled.clone(), name.clone()) {
                    return Err(SchemaError::Collision { first, second: name.clone(), compiled });
                }
            }
        }
        if seen.len() > ATTRIBUTES_MAX {
            let problem = format!("every machine would carry {} labels, at most {ATTRIBUTES_MAX}", seen.len());
            return Err(SchemaError::Syntax(problem));
        }
        Ok(())
    }

    /// Checks that nothing of `old` is changed or gone.
    ///
    /// # Errors
    /// [`SchemaError::Shrinks`] naming it.
    pub fn extends(&self, old: &Self) -> Result<(), SchemaError> {
        let shrinks = |what: String, change| Err(SchemaError::Shrinks { what, change });
        for (name, label) in &old.labels {
            let (before, after) = match (label, self.labels.get(name)) {
                (_, None) => return shrinks(format!("label `{name}`"), "removed"),
                (Label::Country, Some(Label::Country)) | (Label::DataCenter, Some(Label::DataCenter)) => continue,
                (Label::Listed { values, default }, Some(Label::Listed { values: after, default: new })) => {
                    if default.is_some() && default != new {
                        return shrinks(format!("the default of `{name}`"), "changed");
                    }
                    (values, after)
                }
                (Label::Set(before), Some(Label::Set(after))) => (before, after),
                _ => return shrinks(format!("the kind of label `{name}`"), "changed"),
            };
            if let Some(word) = before.difference(after).next() {
                return shrinks(format!("`{name}: {word}`"), "removed");
            }
        }
        Ok(())
    }

    /// What a machine's keys carry: labels and values, compiled, in ascending order of the labels, `cluster` among them.
    ///
    /// # Errors
    /// [`SchemaError::Facts`] for what the schema does not know, and for a listed label without a value.
    pub fn attributes(&self, cluster: &ClusterId, facts: &Facts) -> Result<Vec<(String, String)>, SchemaError> {
        let refused = |problem: String| Err(SchemaError::Facts(problem));
        if !is_country(&facts.country) {
            return refused(format!("country `{}` is not in ISO 3166-1 (two capitals)", facts.country.escape_debug()));
        }
        for name in facts.values.keys().chain(facts.sets.keys()) {
            if !self.labels.contains_key(name) {
                return refused(format!("label `{}` is not in the schema", name.escape_debug()));
            }
        }
        let mut attributes = BTreeMap::from([(CLUSTER.to_owned(), cluster_word(cluster))]);
        for (name, label) in &self.labels {
            match label {
                Label::Country => drop(attributes.insert(name.clone(), facts.country.clone())),
                Label::DataCenter => drop(attributes.insert(name.clone(), facts.data_center.to_string())),
                Label::Listed { values, default } => {
                    let value = facts.values.get(name).or(default.as_ref());
                    match value.filter(|value| values.contains(*value)) {
                        Some(value) => drop(attributes.insert(name.clone(), value.clone())),
                        None => return refused(format!("`{name}` must be one of {}", listed(values))),
                    }
                }
                Label::Set(members) => {
                    let held = members_of(name, members, facts)?;
                    for member in members {
                        let value = if held.contains(member.as_str()) { MEMBER } else { NO_MEMBER };
                        attributes.insert(compiled_label(name, member), value.to_owned());
                    }
                }
            }
        }
        Ok(attributes.into_iter().collect())
    }
}

/// The members of a set that a machine's facts name; of regions, `EU` follows from the country.
fn members_of<'a>(name: &str, members: &BTreeSet<String>, facts: &'a Facts) -> Result<BTreeSet<&'a str>, SchemaError> {
    let mut held: BTreeSet<&str> = facts.sets.get(name).into_iter().flatten().map(String::as_str).collect();
    if let Some(unknown) = held.iter().find(|member| !members.contains(**member)) {
        let unknown = unknown.escape_debug();
        return Err(SchemaError::Facts(format!("`{name}` has no member `{unknown}`, only {}", listed(members))));
    }
    if name == REGION && members.contains(EU) {
        let in_union = EU_COUNTRIES.contains(&facts.country.as_str());
        if held.contains(EU) && !in_union {
            return Err(SchemaError::Facts(format!("`region: EU`: {} is no member of the union", facts.country)));
        }
        if in_union {
            held.insert(EU);
        }
    }
    Ok(held)
}

/// The words of a list, for an error.
pub(crate) fn listed(words: &BTreeSet<String>) -> String {
    words.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// The label of one member of a set.
pub fn compiled_label(set: &str, member: &str) -> String {
    format!("{set}_{member}")
}

/// A cluster's name as a word of policies.
pub fn cluster_word(cluster: &ClusterId) -> String {
    cluster.as_str().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(country: &str, regions: &[&str]) -> Facts {
        let sets = BTreeMap::from([(REGION.to_owned(), texts(regions))]);
        Facts { country: country.to_owned(), data_center: "fra".parse().unwrap(), values: BTreeMap::new(), sets }
    }

    fn cluster() -> ClusterId {
        "acme-prod".parse().unwrap()
    }

    #[test]
    fn every_machine_carries_every_member_and_the_union_follows_from_the_country() {
        let attributes = Schema::default().attributes(&cluster(), &facts("DE", &["WEUR"])).unwrap();
        let found: BTreeMap<_, _> = attributes.iter().map(|(label, value)| (label.as_str(), value.as_str())).collect();
        assert_eq!(attributes.len(), 4 + REGIONS.len());
        assert_eq!(
            (found["country"], found["dc"], found["tier"], found["cluster"]),
            ("DE", "fra", "standard", "acme_prod")
        );
        assert_eq!((found["region_EU"], found["region_WEUR"], found["region_ME"]), ("1", "1", "0"));
        assert!(attributes.windows(2).all(|pair| pair[0].0 < pair[1].0));
        let outside = Schema::default().attributes(&cluster(), &facts("CH", &["WEUR"])).unwrap();
        assert!(outside.contains(&("region_EU".to_owned(), "0".to_owned())));
        for wrong in [facts("CH", &["EU"]), facts("ZZ", &[]), facts("de", &[]), facts("DE", &["WEU"])] {
            assert!(
                matches!(Schema::default().attributes(&cluster(), &wrong), Err(SchemaError::Facts(_))),
                "{wrong:?}"
            );
        }
    }

    #[test]
    fn a_listed_label_without_a_default_must_be_stated() {
        let schema = Schema::from_toml("[labels.security]\nvalues = [\"high\", \"low\"]\n").unwrap();
        let mut facts = facts("DE", &[]);
        assert!(schema.attributes(&cluster(), &facts).is_err());
        facts.values.insert("security".to_owned(), "high".to_owned());
        assert!(schema.attributes(&cluster(), &facts).unwrap().contains(&("security".to_owned(), "high".to_owned())));
        facts.values.insert("security".to_owned(), "top".to_owned());
        assert!(schema.attributes(&cluster(), &facts).is_err());
        facts.values.remove("security");
        facts.values.insert("colour".to_owned(), "red".to_owned());
        assert!(
            schema.attributes(&cluster(), &facts).unwrap_err().to_string().contains("`colour` is not in the schema")
        );
    }

    #[test]
    fn bad_schemas_are_refused_with_their_label() {
        for (text, problem) in [
            ("[labels.cluster]\nvalues = [\"a\"]", "`cluster`"),
            ("[labels.country]\nvalues = [\"a\"]", "is always there"),
            ("[labels.my_set]\nmembers = [\"a\"]", "holds no `_`"),
            ("[labels.a]\nmembers = [\"b\"]\n[labels.a_b]\nvalues = [\"c\"]", "both become the label `a_b`"),
            ("[labels.region_EU]\nvalues = [\"c\"]", "both become the label `region_EU`"),
            ("[labels.a]\nvalues = [\"b c\"]", "value `b c`"),
            ("[labels.not]\nvalues = [\"b\"]", "no operator"),
            ("[labels.a]\nvalues = []", "0 values"),
            ("[labels.a]", "either `values`"),
            ("[labels.a]\nvalues = [\"b\"]\nmembers = [\"b\"]", "either `values`"),
            ("[labels.a]\nvalues = [\"b\"]\ndefault = \"c\"", "none of its values"),
            ("[labels.a]\nmembers = [\"b\"]\ndefault = \"b\"", "a set has no `default`"),
            ("[labels.a]\nvalue = [\"b\"]", "unknown field"),
            ("labels = 1", "schema:"),
        ] {
            let refused = Schema::from_toml(text).unwrap_err().to_string();
            assert!(refused.contains(problem), "{text}: {refused}");
        }
    }

    #[test]
    fn a_schema_only_grows() {
        let old = Schema::from_toml("[labels.standard]\nmembers = [\"pci\"]\n").unwrap();
        let more = Schema::from_toml("[labels.standard]\nmembers = [\"pci\", \"iso\"]\n[labels.a]\nvalues = [\"b\"]\n");
        more.unwrap().extends(&old).unwrap();
        for (text, problem) in [
            ("", "label `standard` cannot be removed"),
            ("[labels.standard]\nmembers = [\"iso\"]", "`standard: pci` cannot be removed"),
            ("[labels.standard]\nvalues = [\"pci\"]", "the kind of label `standard` cannot be changed"),
            ("[labels.standard]\nmembers = [\"pci\"]\n[labels.region]\nmembers = [\"EU\"]", "`region: AFR` cannot"),
            (
                "[labels.standard]\nmembers = [\"pci\"]\n[labels.tier]\nvalues = [\"highest\", \"standard\"]",
                "the default of `tier`",
            ),
        ] {
            let refused = Schema::from_toml(text).unwrap().extends(&old).unwrap_err().to_string();
            assert!(refused.contains(problem), "{text}: {refused}");
        }
    }

    #[test]
    fn countries_are_those_of_the_standard() {
        assert!(EU_COUNTRIES.iter().all(|code| is_country(code)) && is_country("US") && is_country("TW"));
        for wrong in ["us", "ZZ", "EU", "UK", "", "USA", "\u{130}S"] {
            assert!(!is_country(wrong), "{wrong}");
        }
    }
}
