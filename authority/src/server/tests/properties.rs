//! No bytes and no address make the interface fail, and what it answers is what its description says: requests are drawn from
//! that, so that a call which is added there is asked too.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;

use axum::body::Body;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Map, Value, json};
use tokio::runtime::Runtime;

use super::world::{Answered, Who, World, request, upload};

/// Requests to each call of the description, and to addresses and with bodies that it does not know.
const CASES_PER_CALL: u32 = 200;
const CASES_OF_NOTHING: u32 = 1_000;
/// How deep values go that no schema asks for.
const DEPTH_MAX: u32 = 2;

/// A request: method, address, body, and which of the callers.
type Asked = (String, String, Vec<u8>, u8);

/// The description as it is kept, and words that get further than random ones do.
struct Description {
    document: Value,
    words: BTreeMap<&'static str, Vec<String>>,
}

impl Description {
    fn read() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json");
        let document = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let good = upload(&["www.shop.example"]);
        let text = |name: &str| vec![good[name].as_str().unwrap().to_owned()];
        let some = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let words = BTreeMap::from([
            ("certificate", text("certificate")),
            ("private_key", text("private_key")),
            ("policy", some(&["", "region: EU", "country: US", "(country: US) and (region: EU)", "region: EU x"])),
            ("served_by", some(&["", "country: DE", "nonsense: x"])),
            ("secret", some(&["", "c2VjcmV0", "!"])),
            ("domains", some(&["new.example", "shop.example", "*.example", "-"])),
            ("id", some(&["new", "shop", "A"])),
            ("machine", some(&["fra-2", "fra-1", "nobody-1"])),
            ("machines", some(&["bom-1", "nobody-1"])),
            ("data_center", some(&["iad", "xxx"])),
            ("reason", some(&["", "lost"])),
            ("schema", some(&["", "[labels.new]\nvalues = [\"a\"]\n", "["])),
        ]);
        Self { document, words }
    }

    /// Method and address of every call.
    fn calls(&self) -> Vec<(String, String)> {
        let paths = self.document["paths"].as_object().unwrap();
        let calls = paths.iter().flat_map(|(path, calls)| {
            calls.as_object().unwrap().keys().map(move |method| (method.to_uppercase(), path.clone()))
        });
        calls.collect()
    }

    fn call(&self, method: &str, path: &str) -> Option<&Value> {
        self.document["paths"].get(path)?.get(method.to_lowercase())
    }

    /// What a reference leads to.
    fn follow<'a>(&'a self, value: &'a Value) -> &'a Value {
        let Some(reference) = value["$ref"].as_str() else { return value };
        self.document.pointer(reference.trim_start_matches('#')).unwrap_or_else(|| panic!("{reference}"))
    }

    /// Values of a schema, or something near to them; `name` is the field's.
    fn values(&self, name: &str, schema: &Value) -> BoxedStrategy<Value> {
        let schema = self.follow(schema);
        if let Some(values) = schema["enum"].as_array() {
            return prop_oneof![4 => select(values.clone()), 1 => anything()].boxed();
        }
        let kind = schema["type"].as_str().or_else(|| schema["type"][0].as_str()).unwrap_or_default();
        let meant = match kind {
            "object" => self.objects(schema),
            "array" => prop::collection::vec(self.values(name, &schema["items"]), 0..3).prop_map(Value::from).boxed(),
            "boolean" => any::<bool>().prop_map(Value::from).boxed(),
            "integer" | "number" => {
                let bounds = [schema["minimum"].as_u64().unwrap_or(0), schema["maximum"].as_u64().unwrap_or(u64::MAX)];
                prop_oneof![select(bounds.to_vec()).prop_map(Value::from), any::<i64>().prop_map(Value::from)].boxed()
            }
            _ => {
                let known = self.words.get(name).cloned().unwrap_or_else(|| vec![name.to_owned()]);
                prop_oneof![3 => select(known), 1 => ".{0,40}"].prop_map(Value::from).boxed()
            }
        };
        prop_oneof![8 => meant, 1 => anything()].boxed()
    }

    /// Objects with the fields that must be there and some of the others, rarely without one or with one more.
    fn objects(&self, schema: &Value) -> BoxedStrategy<Value> {
        let none = Map::new();
        let fields = schema["properties"].as_object().unwrap_or(&none).iter();
        let fields: Vec<BoxedStrategy<(String, Option<Value>)>> = fields
            .map(|(name, field)| {
                let needed = schema["required"].as_array().is_some_and(|needed| needed.contains(&json!(name)));
                let here = prop::bool::weighted(if needed { 0.95 } else { 0.3 });
                let (name, value) = (name.clone(), self.values(name, field));
                (here, value).prop_map(move |(here, value)| (name.clone(), here.then_some(value))).boxed()
            })
            .collect();
        let more = prop::option::weighted(0.1, ("[a-z_]{0,8}", anything()));
        (fields, more)
            .prop_map(|(fields, more)| {
                let fields = fields.into_iter().filter_map(|(name, value)| Some((name, value?)));
                Value::Object(fields.chain(more).collect())
            })
            .boxed()
    }

    /// Requests to a call; some by another method.
    fn requests(&self, method: &str, path: &str) -> BoxedStrategy<Asked> {
        let call = self.call(method, path).unwrap();
        let (none, method) = (Vec::new(), method.to_owned());
        let parameters = call["parameters"].as_array().unwrap_or(&none).iter();
        let query: Vec<BoxedStrategy<Option<String>>> = parameters
            .filter(|parameter| parameter["in"] == "query")
            .map(|parameter| {
                let (name, value) = (parameter["name"].as_str().unwrap(), &parameter["schema"]);
                let value = prop_oneof![2 => self.values(name, value).prop_map(plain), 1 => "[a-z0-9%]{0,8}"];
                let name = name.to_owned();
                prop::option::of(value.prop_map(move |value| format!("{name}={value}"))).boxed()
            })
            .chain([prop::option::weighted(0.1, "[a-z_]{1,8}=[a-z0-9%]{0,8}").boxed()])
            .collect();
        let body = match call.get("requestBody") {
            Some(body) => {
                let schema = &body["content"]["application/json"]["schema"];
                let meant = self.values("", schema).prop_map(|body| body.to_string().into_bytes());
                prop_oneof![6 => meant, 1 => bodies()].boxed()
            }
            None => prop_oneof![4 => Just(Vec::new()), 1 => bodies()].boxed(),
        };
        let path = path.to_owned();
        let path = (segment(), segment(), query).prop_map(move |(zone, name, query)| {
            let path = path.replace("{zone}", &zone).replace("{id}", &name).replace("{name}", &name);
            let query: Vec<String> = query.into_iter().flatten().collect();
            if query.is_empty() { path } else { format!("{path}?{}", query.join("&")) }
        });
        (prop_oneof![8 => Just(method), 1 => methods()], path, body, 0..4_u8).boxed()
    }

    /// Is this an answer that the description knows? `path` is the address in its terms.
    fn knows(&self, method: &str, path: &str, answer: &Answered) -> Result<(), TestCaseError> {
        let method = if method == "HEAD" { "GET" } else { method };
        let Some(call) = self.call(method, path) else {
            prop_assert!([404, 405].contains(&answer.status), "{} {}: {:?}", method, path, answer);
            return Ok(());
        };
        let known = &call["responses"][answer.status.to_string()];
        prop_assert!(known.is_object(), "{} {} does not tell of this answer: {:?}", method, path, answer);
        let media_type = answer.header("content-type");
        let known = self.follow(known)["content"].get(media_type);
        prop_assert!(known.is_some(), "{} {} does not tell of {:?}: {:?}", method, path, media_type, answer);
        Ok(())
    }
}

/// As a query says it.
fn plain(value: Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    percent_encoding::utf8_percent_encode(&text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn anything() -> BoxedStrategy<Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,40}".prop_map(Value::from),
        Just(json!("\0")),
        Just(json!({ "label": "eu" })),
        Just(json!(["few-holders"])),
    ];
    leaf.prop_recursive(DEPTH_MAX, 8, 3, |inner| prop::collection::vec(inner, 0..3).prop_map(Value::from)).boxed()
}

fn methods() -> impl Strategy<Value = String> {
    select(vec!["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "BREW"]).prop_map(str::to_owned)
}

fn segment() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => Just("shop".to_owned()),
        1 => Just("other".to_owned()),
        1 => Just("00112233445566778899aabbccddeeff".to_owned()),
        1 => "[a-zA-Z0-9._~:-]{0,12}",
        1 => "(%[0-9a-f]{2}){1,6}",
    ]
}

/// What no schema asks for.
fn bodies() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        anything().prop_map(|value| value.to_string().into_bytes()),
        prop::collection::vec(any::<u8>(), 0..200),
        // Deep, twice the same, numbers that nothing holds, halves of characters.
        Just(b"[".repeat(10_000)),
        Just(b"{\"policy\":\"region: EU\",\"policy\":\"\"}".to_vec()),
        Just(b"{\"policy\":1e999,\"limits\":{\"keys_max\":-0.0}}".to_vec()),
        Just(b"{\"policy\":\"\\ud800\",\"id\":\"\\u0000\"}".to_vec()),
    ]
}

/// Addresses that are nobody's.
fn nowhere() -> impl Strategy<Value = Asked> {
    let path = (select(vec!["nothing", "v1/nothing", "client/v4/nothing"]), prop::collection::vec(segment(), 0..6))
        .prop_map(|(above, segments)| format!("/{above}/{}?dry_run=true", segments.join("/")));
    (methods(), path, bodies(), 0..4_u8)
}

fn ask(runtime: &Runtime, world: &World, (method, path, body, who): Asked) -> Result<Option<Answered>, TestCaseError> {
    let who = match who {
        0 => Who::Nobody,
        1 => Who::Token(&world.shop),
        2 => Who::Token(&world.robot),
        _ => Who::Operator,
    };
    // The zone itself stays as it is, so that there is something to meet.
    if ["DELETE", "PATCH"].contains(&method.as_str()) && path.split('?').next() == Some("/v1/zones/shop") {
        return Ok(None);
    }
    let answer = runtime.block_on(world.send(request(&method, &path, who, Body::from(body))));
    prop_assert!(answer.status < 500, "{} {}: {:?}", method, path, answer);
    prop_assert!(answer.headers.contains_key("x-request-id"));
    if answer.status >= 400 && method != "HEAD" {
        let said = answer.json();
        prop_assert!(said["code"].is_string() || said["errors"][0]["code"].is_u64(), "{:?}", answer);
    }
    Ok(Some(answer))
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() })
}

#[test]
fn no_bytes_and_no_address_make_it_fail() {
    let runtime = Runtime::new().unwrap();
    let (mut world, description) = (runtime.block_on(World::new()), Description::read());
    runtime.block_on(async { world.serve_machines() });
    let mut done = 0;
    for (method, path) in description.calls() {
        let done_here = Cell::new(0);
        let ran = runner(CASES_PER_CALL).run(&description.requests(&method, &path), |asked| {
            let method = asked.0.clone();
            let Some(answer) = ask(&runtime, &world, asked)? else { return Ok(()) };
            done_here.set(done_here.get() + u32::from(answer.status < 300));
            description.knows(&method, &path, &answer)
        });
        ran.unwrap_or_else(|error| panic!("{method} {path}: {error}"));
        done += u32::from(done_here.get() > 0);
    }
    assert!(done > 8, "only {done} calls did anything: the requests do not get far");
    let nothing = runner(CASES_OF_NOTHING).run(&nowhere(), |asked| {
        let answer = ask(&runtime, &world, asked)?;
        prop_assert!(answer.is_none_or(|answer| answer.status == 404));
        Ok(())
    });
    nothing.unwrap_or_else(|error| panic!("{error}"));
}
