//! The documentation against the code: every metric of the authority and every key of its configuration has its row in
//! `docs/metrics.md` and `docs/configuration.md`, and nothing has that is not there. Its sample loads.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use cinnabar_authority::config::AuthorityConfig;
use metrics_exporter_prometheus::PrometheusBuilder;

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The rows of a page's section on the authority: the quoted word of the first cell, and the other cells.
fn rows(page: &str) -> BTreeMap<String, Vec<String>> {
    let text = fs::read_to_string(folder().join("../docs").join(page)).unwrap();
    let (_, section) = text.split_once("\n## Authority\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let row = |line: &str| {
        let mut cells = line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned());
        (cells.next().unwrap().trim_matches('`').to_owned(), cells.collect())
    };
    section.lines().filter(|line| line.starts_with("| `")).map(row).collect()
}

/// Names of metrics that the sources spell out.
fn spelled_out() -> BTreeSet<String> {
    let (mut found, mut folders) = (BTreeSet::new(), vec![folder().join("src")]);
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            for word in text
                .split('"')
                .filter(|word| word.starts_with("cinnabar_authority_") || word.starts_with("cinnabar_record_"))
            {
                // Names of crates and filters of the log look alike; a metric's name says what it counts.
                if word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') {
                    found.insert(word.to_owned());
                }
            }
        }
    }
    found
}

#[test]
fn every_metric_has_its_row_and_every_row_its_metric() {
    let (rows, names) = (rows("metrics.md"), spelled_out());
    assert_eq!(rows.keys().collect::<BTreeSet<_>>(), names.iter().collect::<BTreeSet<_>>());
    let recorder = PrometheusBuilder::new().build_recorder();
    let page = metrics::with_local_recorder(&recorder, || {
        cinnabar_authority::metrics::describe();
        cinnabar_authority::server::metrics::describe();
        recorder.handle().render()
    });
    for (name, cells) in rows {
        let kind = match &name {
            _ if name.ends_with("_total") => "counter",
            _ if name.ends_with("_duration_seconds") => "histogram",
            _ => "gauge",
        };
        assert_eq!(cells[0], kind, "type of {name}");
        assert!(cells[2].len() > 5, "{name} has no meaning");
        let said: Vec<&str> = cells[1].split('`').skip(1).step_by(2).collect();
        let mut labels = BTreeSet::new();
        for line in page.lines().filter(|line| line.starts_with(&format!("{name}{{"))) {
            let pairs = line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}')).unwrap().0;
            for (label, value) in pairs.split("\",").filter_map(|pair| pair.split_once("=\"")) {
                labels.insert(label.to_owned());
                // Labels whose values are many are named alone: addresses, methods, kinds of records.
                let value = value.trim_end_matches('"');
                let many = ["route", "method", "kind"].contains(&label);
                assert!(many || said.contains(&value), "{name}: {label} `{value}` is not on the page");
            }
        }
        assert!(labels.iter().all(|label| said.contains(&label.as_str())), "labels of {name}: {labels:?}");
        assert_eq!(labels.is_empty(), said.is_empty(), "labels of {name}");
    }
}

fn keys(value: &toml::Value, before: &str, found: &mut BTreeSet<String>) {
    let toml::Value::Table(table) = value else {
        found.insert(before.trim_end_matches('.').to_owned());
        return;
    };
    for (key, value) in table {
        keys(value, &format!("{before}{key}."), found);
    }
}

#[test]
fn every_key_has_its_row_and_the_sample_names_them_all() {
    let page = fs::read_to_string(folder().join("../docs/authority.md")).unwrap();
    let block = page.split("\n\n").skip_while(|part| !part.starts_with("    cluster = "));
    let block: Vec<&str> = block.take_while(|part| part.starts_with("    ")).collect();
    let sample: String = block.join("\n").lines().map(|line| format!("{}\n", line.trim_start())).collect();
    let config: AuthorityConfig = toml::from_str(&sample).unwrap();
    assert_eq!(config.data_dir, PathBuf::from("authority"));
    let mut named = BTreeSet::new();
    keys(&toml::Value::try_from(&config).unwrap(), "", &mut named);
    let rows = rows("configuration.md");
    assert_eq!(rows.keys().collect::<BTreeSet<_>>(), named.iter().collect::<BTreeSet<_>>());
    assert!(rows.values().all(|cells| cells.len() == 3 && cells[2].len() > 5));
    // A key that is not in the table is refused.
    let refused = toml::from_str::<AuthorityConfig>(&format!("colour = 1\n{sample}")).unwrap_err();
    assert!(refused.to_string().contains("colour"));
}
