//! Precedence, types and refusals of configuration.

use std::net::SocketAddr;

use serde::Deserialize;

use super::*;
use crate::id::{ClusterId, Role};

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    listen: SocketAddr,
    cluster: ClusterId,
    #[serde(default)]
    name: String,
    #[serde(default)]
    role: Option<Role>,
    #[serde(default)]
    cache: Cache,
    #[serde(default)]
    upstreams: Vec<String>,
    #[serde(default)]
    peers: Vec<Peer>,
    #[serde(default)]
    format: Format,
}

#[derive(Debug, PartialEq, Default, Deserialize)]
#[serde(default)] // and no deny_unknown_fields: it is refused all the same
struct Cache {
    bytes: Bytes,
    retention: DurationMs,
    entries: u16,
    ratio: f64,
    enabled: bool,
}

#[derive(Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Peer {
    id: u64,
}

#[derive(Debug, PartialEq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Text,
    Json,
}

const FILE: &str = "listen = \"127.0.0.1:1\"\ncluster = \"prod\"\nname = \"from file\"\n\n[cache]\nbytes = \"64KiB\"\n";

fn load_text(text: &str, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config, String> {
    let file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    std::fs::write(file.path(), text).unwrap();
    let environment = environment.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let flags: Vec<_> = flags.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
    load_with(Some(file.path()), ENV_PREFIX, environment, &flags).map_err(|error| {
        assert_eq!(error.exit_code(), 64);
        error.to_string().replace(&file.path().display().to_string(), "FILE")
    })
}

#[test]
fn a_flag_beats_the_environment_and_that_beats_the_file() {
    let all = load_text(FILE, &[], &[]).unwrap();
    assert_eq!((all.name.as_str(), all.cache.bytes), ("from file", Bytes(65536)));
    let environment = [("CINNABAR_NAME", "from env"), ("CINNABAR_CACHE__BYTES", "1MiB")];
    let some = load_text(FILE, &environment, &[]).unwrap();
    assert_eq!((some.name.as_str(), some.cache.bytes), ("from env", Bytes(1 << 20)));
    let flags = [("name", "from flag"), ("cache.bytes", "2MiB")];
    let flagged = load_text(FILE, &environment, &flags).unwrap();
    assert_eq!((flagged.name.as_str(), flagged.cache.bytes), ("from flag", Bytes(2 << 20)));
    assert_eq!(flagged.cluster, all.cluster);
}

#[test]
fn a_value_from_outside_is_what_its_field_wants() {
    let environment = [
        ("CINNABAR_NAME", "123"),
        ("CINNABAR_CLUSTER", "42"),
        ("CINNABAR_ROLE", "edge"),
        ("CINNABAR_FORMAT", "json"),
        ("CINNABAR_LISTEN", "[::1]:7"),
        ("CINNABAR_UPSTREAMS", "a:1, 2"),
        ("CINNABAR_PEERS", "[{ id = 7 }]"),
        ("CINNABAR_CACHE__BYTES", "123"),
        ("CINNABAR_CACHE__RETENTION", "3d"),
        ("CINNABAR_CACHE__ENTRIES", "0x10"),
        ("CINNABAR_CACHE__RATIO", "2"),
        ("CINNABAR_CACHE__ENABLED", "true"),
    ];
    let config = load_text("", &environment, &[]).unwrap();
    let cache = Cache { bytes: Bytes(123), retention: DurationMs(259_200_000), entries: 16, ratio: 2.0, enabled: true };
    let expected = Config {
        listen: "[::1]:7".parse().unwrap(),
        cluster: "42".parse().unwrap(),
        name: "123".to_owned(),
        role: Some(Role::Edge),
        cache,
        upstreams: vec!["a:1".to_owned(), "2".to_owned()],
        peers: vec![Peer { id: 7 }],
        format: Format::Json,
    };
    assert_eq!(config, expected);
    let list = load_text(FILE, &[("CINNABAR_UPSTREAMS", "[\"a,b\", \"c\"]")], &[]).unwrap();
    assert_eq!(list.upstreams, ["a,b", "c"]);
    for odd in ["true", "1.5", "\"quoted\"", "", "a = b", "2026-01-01"] {
        assert_eq!(load_text(FILE, &[("CINNABAR_NAME", odd)], &[]).unwrap().name, odd);
    }
}

#[test]
fn no_key_is_ignored_wherever_it_stands() {
    let unknown = |text: &str, environment: &[_], flags: &[_]| load_text(text, environment, flags).unwrap_err();
    assert_eq!(
        unknown(&format!("{FILE}\n[[peers]]\nid = 1\nidd = 2\n"), &[], &[]),
        "FILE:10:1: unknown key `peers.0.idd`; did you mean `peers.0.id`?"
    );
    assert_eq!(
        unknown(&format!("lisen = 1\n{FILE}"), &[], &[]),
        "FILE:1:1: unknown key `lisen`; did you mean `listen`?"
    );
    assert_eq!(unknown(&format!("{FILE}bites = 1\n"), &[], &[]), "FILE:7:1: unknown key `cache.bites`");
    assert_eq!(
        unknown(FILE, &[("CINNABAR_CLUSTR", "x")], &[]),
        "environment variable CINNABAR_CLUSTR: unknown key `clustr`; did you mean `cluster`?"
    );
    assert_eq!(
        unknown(FILE, &[("CINNABAR_CACHE__ZZZ", "x")], &[]),
        "environment variable CINNABAR_CACHE__ZZZ: unknown key `cache.zzz`"
    );
    assert_eq!(unknown(FILE, &[], &[("zzz", "x")]), "flag for `zzz`: unknown key `zzz`");
    for name in ["CINNABAR_", "CINNABAR___NAME", "CINNABAR_CACHE__", "CINNABAR_A__B__C__D__E__F__G__H__I"] {
        assert!(unknown(FILE, &[(name, "x")], &[]).contains("unknown key"), "{name}");
    }
    let others = [("CINNABAR_LOG", "debug"), ("CINNABAR_VECTORS", "1"), ("CINNABAR_COMMIT", "x"), ("PATH", "/bin")];
    assert!(load_text(FILE, &others, &[]).is_ok());
}

#[test]
fn an_error_names_the_place_the_field_and_the_fault() {
    let refused = |text: &str, environment: &[_]| load_text(text, environment, &[]).unwrap_err();
    let cases = [
        ("listen = \n", "FILE:1:10: "),
        ("listen = \"x\"\ncluster = \"prod\"\n", "FILE:1:1: `listen`: invalid socket address syntax"),
        ("listen = \"127.0.0.1:1\"\ncluster = \"Prod\"\n", "FILE:2:1: `cluster`: cluster at byte 0: only lower-case"),
        ("listen = \"127.0.0.1:1\"\n", "FILE: `cluster` is missing; set it in the file, as CINNABAR_CLUSTER or"),
        (&format!("{FILE}entries = 65536\n"), "FILE:7:1: `cache.entries`: invalid value: integer `65536`"),
        (
            &format!("{FILE}retention = 5\n"),
            "FILE:7:1: `cache.retention`: invalid type: integer `5`, expected a duration",
        ),
        (&format!("{FILE}enabled = 1\n"), "FILE:7:1: `cache.enabled`: invalid type"),
        (&format!("{FILE}[[peers]]\nid = -1\n"), "FILE:8:1: `peers.0.id`: invalid value"),
        (&format!("{FILE}[[peers]]\n"), "`peers.0.id` is missing"),
        (&format!("{FILE}entries = 99999999999999999999\n"), "FILE:7:11: "),
        (&format!("{FILE}bytes = 1\n"), "FILE:7:1: duplicate key"),
    ];
    for (text, expected) in cases {
        let error = refused(text, &[]);
        assert!(error.contains(expected), "expected: {expected}\n     got: {error}");
    }
    assert_eq!(
        refused(FILE, &[("CINNABAR_CACHE__ENTRIES", "many")]),
        "environment variable CINNABAR_CACHE__ENTRIES: `cache.entries`: invalid type: string \"many\", expected u16"
    );
    assert_eq!(
        refused(FILE, &[("CINNABAR_FORMAT", "xml")]),
        "environment variable CINNABAR_FORMAT: `format`: unknown variant `xml`, expected `text` or `json`"
    );
    assert_eq!(
        refused(FILE, &[("CINNABAR_NAME__FIRST", "x")]),
        "environment variable CINNABAR_NAME__FIRST: `name`: is a single value, not a table"
    );
}

#[test]
fn a_file_that_is_not_there_too_large_or_not_text_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kv.toml");
    let load = || load_with::<Config>(Some(&path), ENV_PREFIX, [], &[]).unwrap_err();
    assert!(matches!(load(), ConfigError::Read { .. }));
    std::fs::write(&path, vec![b'#'; CONFIG_BYTES_MAX + 1]).unwrap();
    assert!(matches!(load(), ConfigError::Read { .. }));
    std::fs::write(&path, b"name = \"\xff\"").unwrap();
    assert!(matches!(load(), ConfigError::Read { .. }));
    std::fs::write(&path, "[".repeat(100_000)).unwrap();
    assert!(matches!(load(), ConfigError::Syntax { .. }));
    std::fs::write(&path, format!("name = {}", "[".repeat(100_000))).unwrap();
    assert!(matches!(load(), ConfigError::Syntax { .. }));
    let none = load_with::<Config>(None, ENV_PREFIX, [], &[]).unwrap_err();
    assert!(none.to_string().starts_with("configuration: `"), "{none}");
}
