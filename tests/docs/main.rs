//! The documentation against the code: `docs/metrics.md` lists every metric and `docs/configuration.md` every key, with
//! their types, labels and defaults, and nothing that is not there; its samples load; `docs/errors.md` has every refusal.
//!
//! Law: a page is read as an operator reads it, by its tables. What a page must say comes from the code's own types and
//! constants, never from a second list here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use cinnabar_daemon::TlsFiles;
use cinnabar_daemon::config::{self, ENV_PREFIX};
use cinnabar_daemon::mtls::metrics as tls;
use cinnabar_edge::config::{
    AuthorityConfig, EdgeConfig, LocalConfig, MachineConfig, RouterConfig, SignerConfig, StalenessConfig,
};
use cinnabar_edge_api::refusal;
use cinnabar_kv::config::{LogConfig, RaftConfig, ReplicaConfig, VoterConfig};
use cinnabar_kv::metrics::METRICS;
use cinnabar_terminator::TerminatorConfig;
use cinnabar_terminator::config::LimitsConfig;
use serde::Serialize;
use serde::de::{DeserializeOwned, Deserializer, Error as _, Visitor};
use toml::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page(name: &str) -> String {
    fs::read_to_string(root().join("docs").join(name)).unwrap()
}

/// The part of a page under one heading.
fn section<'a>(page: &'a str, title: &str) -> &'a str {
    let heading = format!("\n## {title}\n");
    let (_, rest) = page.split_once(&heading).unwrap_or_else(|| panic!("no section {title:?}"));
    rest.split("\n## ").next().unwrap_or(rest)
}

/// What stands between backticks.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// Rows of tables whose first cell is one quoted word: that word and the other cells.
fn rows(text: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut found = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let name = quoted(cells[0])[0];
        assert!(found.insert(name, cells[1..].to_vec()).is_none(), "{name} has two rows");
    }
    found
}

// === metrics ===

/// The type that a metric's name says.
fn kind(name: &str) -> &'static str {
    match name {
        _ if name.ends_with("_total") => "counter",
        _ if name.ends_with("_duration_seconds") => "histogram",
        _ => "gauge",
    }
}

/// Every metric with the words of its labels cell: name of the label, then its values.
fn metrics() -> BTreeMap<&'static str, Vec<&'static str>> {
    let mut all = BTreeMap::new();
    for (name, labels, _) in METRICS.iter().chain(cinnabar_terminator::metrics::METRICS) {
        all.insert(*name, labels.iter().flat_map(|(label, values)| [&[*label], *values].concat()).collect());
    }
    all.insert(tls::HANDSHAKES, [&["result"], tls::RESULTS].concat());
    all.insert(tls::RELOADS, vec!["result", "loaded", "unchanged", "refused"]);
    for name in [tls::CONNECTIONS_OPEN, tls::ACCEPT_ERRORS, tls::CERTIFICATE_END] {
        all.insert(name, Vec::new());
    }
    all
}

/// Names of metrics that the sources of the store, the process kit and the terminator spell out.
fn spelled_out() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders: Vec<PathBuf> =
        ["kv/src", "kv/api/src", "kv/daemon/src", "edge/terminator/src"].map(|dir| root().join(dir)).into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            for word in text.split("\"cinnabar_").skip(1).filter_map(|rest| rest.split('"').next()) {
                let groups = ["raft_", "kv_", "store_", "log_", "disk_", "feed_", "replica_", "tls_", "terminator_"];
                let plain = word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
                if plain && groups.iter().any(|group| word.starts_with(group)) {
                    found.insert(format!("cinnabar_{word}"));
                }
            }
        }
    }
    found
}

#[test]
fn every_metric_has_its_row_and_every_row_its_metric() {
    let page = page("metrics.md");
    // The authority's are held to its code by its own tests, which see it.
    let (page, _) = page.split_once("\n## Authority\n").expect("the last section");
    let (rows, metrics) = (rows(page), metrics());
    assert_eq!(rows.keys().collect::<Vec<_>>(), metrics.keys().collect::<Vec<_>>());
    for (name, cells) in rows {
        assert_eq!(cells[0], kind(name), "type of {name}");
        assert_eq!(quoted(cells[1]), metrics[name], "labels of {name}");
        assert!(cells[2].len() > 5, "{name} has no meaning");
    }
}

#[test]
fn every_metric_of_the_edge_node_has_its_row() {
    use cinnabar_edge::{metrics as agent, signer::metrics as signer};
    let page = page("metrics.md");
    let rows = rows(section(&page, "Edge node"));
    let names = BTreeSet::from([
        signer::SIGN,
        signer::SIGN_SECONDS,
        signer::QUEUE_SECONDS,
        signer::FORWARD_SECONDS,
        signer::ATTEMPTS,
        signer::EJECTIONS,
        signer::PROBES,
        signer::DENIED,
        agent::REJECTED,
        agent::POLICIES_OPENED,
        agent::HEAD_AGE,
        agent::TRUSTED,
        agent::REFUSED,
        agent::POLICIES_OPEN,
        agent::INSECURE,
        agent::REPORTS,
    ]);
    assert_eq!(rows.keys().copied().collect::<BTreeSet<_>>(), names);
}

#[test]
fn no_metric_is_counted_that_is_not_listed() {
    let listed = metrics();
    let unlisted: Vec<String> = spelled_out().into_iter().filter(|name| !listed.contains_key(name.as_str())).collect();
    assert!(unlisted.is_empty(), "{unlisted:?}");
    assert!(spelled_out().len() >= METRICS.len());
}

// === configuration ===

/// Asked for a struct, tells its fields.
struct Fields<'a>(&'a mut Vec<&'static str>);

impl<'de> Deserializer<'de> for Fields<'_> {
    type Error = serde::de::value::Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
        Err(Self::Error::custom("not a struct"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Self::Error> {
        self.0.extend(fields);
        Err(Self::Error::custom("only asked"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

fn fields<T: DeserializeOwned>() -> Vec<&'static str> {
    let mut found = Vec::new();
    let _ = T::deserialize(Fields(&mut found));
    assert!(!found.is_empty());
    found
}

/// The table of an edge node that holds a replica's keys, which have their own sections.
const EMBEDDED: &str = "replica";

/// Every key of a configuration, with dots; tables are those that a loaded sample has.
fn keys<T: DeserializeOwned + Serialize>(sample: &T) -> BTreeSet<String> {
    let tables = [
        ("tls", fields::<TlsFiles>()),
        ("log", fields::<LogConfig>()),
        ("raft", fields::<RaftConfig>()),
        ("limits", fields::<LimitsConfig>()),
        ("signer", fields::<SignerConfig>()),
        ("local", fields::<LocalConfig>()),
        ("machine", fields::<MachineConfig>()),
        ("authority", fields::<AuthorityConfig>()),
        ("staleness", fields::<StalenessConfig>()),
        ("router", fields::<RouterConfig>()),
    ];
    let loaded = Value::try_from(sample).unwrap();
    let mut found = BTreeSet::new();
    for field in fields::<T>().into_iter().filter(|field| *field != EMBEDDED) {
        match tables.iter().find(|(table, _)| *table == field) {
            Some((table, inner)) => found.extend(inner.iter().map(|key| format!("{table}.{key}"))),
            None => {
                assert!(loaded.get(field).is_none_or(|value| !value.is_table()), "the table {field} is not known here");
                found.insert(field.to_owned());
            }
        }
    }
    found
}

/// The samples of the page: a voter's, a replica's, a terminator's.
fn samples(page: &str) -> [String; 3] {
    let blocks = section(page, "Samples").split("```toml\n").skip(1);
    let samples: Vec<String> = blocks.filter_map(|block| block.split("```").next()).map(str::to_owned).collect();
    samples.try_into().expect("three samples")
}

/// The sample of an edge node, on its own page.
fn edge_sample() -> String {
    let page = page("edge.md");
    let block = section(&page, "Configuration").split("```toml\n").nth(1).and_then(|rest| rest.split("```").next());
    block.expect("a sample").to_owned()
}

/// A sample with the keys that it has commented out.
fn uncommented(sample: &str) -> String {
    sample.lines().map(|line| line.strip_prefix("# ").unwrap_or(line)).flat_map(|line| [line, "\n"]).collect()
}

fn load<T: DeserializeOwned>(text: &str, environment: &[(&str, &str)], set: &[(&str, &str)]) -> T {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.toml");
    fs::write(&path, text).unwrap();
    let environment = environment.iter().map(|(name, value)| (name.into(), value.into()));
    let set: Vec<_> = set.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    config::load_with(Some(&path), ENV_PREFIX, environment, &set).unwrap_or_else(|error| panic!("{error}"))
}

/// Every key that a loaded configuration has a value for, with that value as it is written.
fn values<T: Serialize>(config: &T) -> BTreeMap<String, String> {
    let shown = |value: &Value| value.as_str().map_or(value.to_string(), str::to_owned);
    let mut found = BTreeMap::new();
    for (key, value) in Value::try_from(config).unwrap().as_table().unwrap().iter().filter(|(key, _)| *key != EMBEDDED)
    {
        match value.as_table() {
            Some(table) => found.extend(table.iter().map(|(inner, value)| (format!("{key}.{inner}"), shown(value)))),
            None => drop(found.insert(key.clone(), shown(value))),
        }
    }
    found
}

/// The page has exactly the configuration's keys; the sample shows them all; the defaults are the code's. `below` is what a
/// file must have besides.
fn check<T: DeserializeOwned + Serialize>(page: &str, titles: &[&str], sample: &str, below: &str) {
    let tables: Vec<_> = titles.iter().map(|title| rows(section(page, title))).collect();
    let listed: BTreeSet<String> = tables.iter().flatten().map(|(key, _)| (*key).to_owned()).collect();
    let title = titles.join(", ");
    let config: T = load(sample, &[], &[]);
    let known = keys(&config);
    assert_eq!(listed, known, "{title}");
    let full = values::<T>(&load(&uncommented(sample), &[], &[]));
    assert_eq!(full.keys().cloned().collect::<BTreeSet<_>>(), known, "the sample of {title} lacks a key");

    let cells = |key: &str| tables.iter().find_map(|table| table.get(key)).expect("listed");
    let required = known.iter().filter(|key| cells(key)[1].is_empty());
    let minimal: Vec<(&str, &str)> = required.map(|key| (key.as_str(), full[key].as_str())).collect();
    let defaults = values::<T>(&load(below, &[], &minimal));
    for key in known.iter().filter(|key| !minimal.iter().any(|(required, _)| required == key)) {
        match (defaults.get(key), cells(key)[1]) {
            (Some(value), cell) => assert_eq!(quoted(cell), [value.as_str()], "default of {key}"),
            (None, cell) => assert!(cell.starts_with("may be left out"), "{key} has no default, the page says {cell}"),
        }
    }
}

#[test]
fn every_key_has_its_row_and_every_row_its_key() {
    let page = page("configuration.md");
    let [voter, replica, terminator] = samples(&page);
    check::<VoterConfig>(&page, &["Keys of both", "Voter"], &voter, "");
    check::<ReplicaConfig>(&page, &["Keys of both", "Replica"], &replica, "");
    check::<TerminatorConfig>(&page, &["Terminator"], &terminator, "");
    let edge = edge_sample();
    let (replica, _) = edge.split_once("\n[signer]\n").unwrap();
    check::<EdgeConfig>(&page, &["Edge node"], &edge, replica);
}

#[test]
fn the_samples_hold_together() {
    let page = page("configuration.md");
    let [voter, replica, terminator] = samples(&page);
    load::<TerminatorConfig>(&terminator, &[], &[]).check().unwrap();
    load::<TerminatorConfig>(&uncommented(&terminator), &[], &[]).check().unwrap();
    load::<EdgeConfig>(&edge_sample(), &[], &[]).check().unwrap();
    load::<EdgeConfig>(&uncommented(&edge_sample()), &[], &[]).check().unwrap();
    load::<VoterConfig>(&voter, &[], &[]).timing().unwrap();
    assert!(load::<ReplicaConfig>(&replica, &[], &[]).follow().unwrap().is_none());
    assert!(load::<ReplicaConfig>(&uncommented(&replica), &[], &[]).follow().unwrap().is_some());
}

#[test]
fn environment_and_flags_work_as_the_page_says() {
    let page = page("configuration.md");
    let [voter, _, _] = samples(&page);
    for words in ["`CINNABAR_CACHE_BYTES=1GiB`", "`CINNABAR_TLS__CERT=node.pem`"] {
        assert!(page.contains(words), "{words}");
    }
    let set = [("CINNABAR_CACHE_BYTES", "1GiB"), ("CINNABAR_TLS__CERT", "node.pem")];
    let config: VoterConfig = load(&voter, &set, &[("cache_bytes", "2GiB")]);
    assert_eq!((config.cache_bytes.0, config.tls.cert), (2 << 30, PathBuf::from("node.pem")));
}

// === refusals ===

#[test]
fn every_refusal_of_a_signature_has_its_row_with_its_status() {
    let page = page("errors.md");
    let rows = rows(section(&page, "Refusals of signatures"));
    let words: BTreeSet<&str> = refusal::CODES.iter().map(|code| refusal::word(*code)).collect();
    assert_eq!(rows.keys().copied().collect::<BTreeSet<_>>(), words);
    for code in refusal::CODES {
        let status = tonic::Status::from(refusal::Refusal::new(code, ""));
        let cell = quoted(rows[refusal::word(code)][0])[0].replace('_', "").to_lowercase();
        assert_eq!(cell, format!("{:?}", status.code()).to_lowercase(), "{}", refusal::word(code));
    }
}
