//! No bytes and no address make the interface fail.

use axum::body::Body;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::world::{Who, World, request};
use crate::server::routes::ROUTES;

fn segment() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("shop".to_owned()),
        Just("00112233445566778899aabbccddeeff".to_owned()),
        "[a-zA-Z0-9._~:-]{0,12}",
        "(%[0-9a-f]{2}){1,6}",
    ]
}

fn path() -> impl Strategy<Value = String> {
    let known = (0..ROUTES.len(), segment(), segment()).prop_map(|(n, zone, name)| {
        ROUTES[n].path.replace("{zone}", &zone).replace("{id}", &name).replace("{name}", &name)
    });
    let any = prop::collection::vec(segment(), 0..6).prop_map(|segments| format!("/{}", segments.join("/")));
    let query = prop_oneof![Just(String::new()), "\\?[a-z_]{1,8}=[a-z0-9%]{0,8}", Just("?dry_run=true".to_owned())];
    (prop_oneof![known, any], query).prop_map(|(path, query)| format!("{path}{query}"))
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    let field = prop_oneof![
        Just("certificate"),
        Just("private_key"),
        Just("policy"),
        Just("acknowledge"),
        Just("secret"),
        Just("domains"),
        Just("limits"),
        Just("geo_restrictions"),
    ];
    let value = prop_oneof![
        ".{0,40}".prop_map(|text| serde_json::Value::from(text).to_string()),
        Just("null".to_owned()),
        Just("[\"few-holders\"]".to_owned()),
        Just("{\"label\":\"eu\"}".to_owned()),
        any::<i64>().prop_map(|number| number.to_string()),
    ];
    let object = prop::collection::vec((field, value), 0..4).prop_map(|fields| {
        let fields: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}", fields.join(",")).into_bytes()
    });
    prop_oneof![object, prop::collection::vec(any::<u8>(), 0..200)]
}

#[test]
fn no_bytes_and_no_address_make_it_fail() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let world = runtime.block_on(World::new());
    let method = prop_oneof![
        Just("GET"),
        Just("HEAD"),
        Just("POST"),
        Just("PUT"),
        Just("PATCH"),
        Just("DELETE"),
        "[A-Z]{1,9}".prop_map(|_| "BREW")
    ];
    let cases = (method, path(), body(), 0..3_u8);
    let mut runner = TestRunner::new(Config { cases: 1_500, failure_persistence: None, ..Config::default() });
    let ran = runner.run(&cases, |(method, path, body, who)| {
        let who = match who {
            0 => Who::Nobody,
            1 => Who::Token(&world.shop),
            _ => Who::Operator,
        };
        // The zones themselves stay, so that there is something to meet.
        prop_assume!(!(matches!(who, Who::Operator) && method == "DELETE" && path.ends_with("/zones/shop")));
        let answer = runtime.block_on(world.send(request(method, &path, who, Body::from(body))));
        // No machines are served in this world.
        let fails = answer.status >= 500 && !answer.text.contains("not served here");
        prop_assert!(!fails, "{} {}: {:?}", method, path, answer);
        prop_assert_eq!(answer.headers.contains_key("x-request-id"), true);
        if answer.status >= 400 && method != "HEAD" {
            let said = answer.json();
            prop_assert!(said["code"].is_string() || said["errors"][0]["code"].is_u64(), "{:?}", answer);
        }
        Ok(())
    });
    ran.unwrap_or_else(|error| panic!("{error}"));
}
