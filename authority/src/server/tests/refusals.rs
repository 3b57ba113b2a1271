//! Uploads that are refused, each with its code, and nothing of them left anywhere.

use axum::body::Body;
use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyPair, PKCS_ECDSA_P521_SHA512, PKCS_ED25519};
use serde_json::{Value, json};
use time::Duration;

use super::world::{Answered, Who, World, certificate, certificate_for, new_key, request, upload};
use crate::limits::{BODY_BYTES_MAX, FAILURES_PER_MINUTE};

macro_rules! fixture {
    ($name:literal) => {
        include_str!(concat!("../../../testdata/", $name))
    };
}

fn pair((certificate, key): (impl Into<String>, impl Into<String>)) -> Value {
    json!({ "certificate": certificate.into(), "private_key": key.into() })
}

/// A good upload with one thing more, or another.
fn with(field: &str, value: impl Into<Value>) -> Value {
    let mut body = upload(&["www.shop.example"]);
    body[field] = value.into();
    body
}

fn of_key(key: &KeyPair) -> Value {
    pair((certificate_for(&["www.shop.example"], key, |_| ()), key.serialize_pem()))
}

fn bad_certificates() -> Vec<(&'static str, Value)> {
    let good = || certificate(&["www.shop.example"], |_| ());
    let changed = |change: fn(&mut rcgen::CertificateParams)| pair(certificate(&["www.shop.example"], change));
    let named = |names: &[&str]| pair(certificate(names, |_| ()));
    let many: Vec<String> = (0..101).map(|n| format!("n{n}.shop.example")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let (one, two) = (good(), good());
    vec![
        ("certificate-malformed", pair(("nonsense", one.1.clone()))),
        ("certificate-malformed", pair(("", one.1.clone()))),
        ("certificate-malformed", pair((one.1.clone(), one.1.clone()))),
        ("chain-order", pair((format!("{}{}", one.0, two.0), one.1.clone()))),
        ("key-malformed", pair((one.0.clone(), "nonsense"))),
        ("key-malformed", pair((one.0.clone(), one.0.clone()))),
        ("key-encrypted", pair((one.0.clone(), fixture!("rsa2048-encrypted.key")))),
        ("key-mismatch", pair((one.0.clone(), two.1.clone()))),
        ("key-too-small", pair((fixture!("rsa1024.pem"), fixture!("rsa1024.key")))),
        ("key-too-small", pair((fixture!("rsa2047.pem"), fixture!("rsa2047.key")))),
        ("unsupported-key", of_key(&KeyPair::generate_for(&PKCS_ED25519).unwrap())),
        ("unsupported-key", of_key(&KeyPair::generate_for(&PKCS_ECDSA_P521_SHA512).unwrap())),
        ("unsupported-key", pair((fixture!("secp256k1.pem"), fixture!("secp256k1.key")))),
        ("certificate-expired", changed(|params| params.not_after = params.not_before + Duration::hours(1))),
        ("certificate-not-yet-valid", changed(|params| params.not_before += Duration::days(3))),
        ("certificate-is-ca", changed(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))),
        (
            "certificate-purpose",
            changed(|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
        ),
        ("no-hostnames", named(&[])),
        ("too-many-hostnames", named(&many)),
        ("hostname-malformed", named(&["a_b.shop.example"])),
        ("hostname-malformed", named(&["*.*.shop.example"])),
        ("hostname-outside-zone", named(&["www.elsewhere.example"])),
        ("hostname-outside-zone", named(&["www.shop.example", "www.other.example"])),
        ("hostname-outside-zone", named(&["notshop.example"])),
        ("hostname-outside-zone", named(&["shop.example.evil.example"])),
    ]
}

fn bad_policies() -> Vec<(&'static str, Value)> {
    vec![
        ("policy-syntax", with("policy", "(region: EU) (not country: FR)")),
        ("policy-syntax", with("policy", "region:")),
        ("policy-syntax", with("policy", "(".repeat(3_000))),
        ("policy-syntax", with("policy", "country: US or ".repeat(1_000))),
        ("unknown-label", with("policy", "colour: red")),
        ("unknown-value", with("policy", "country: XX")),
        ("unknown-value", with("policy", "dc: atlantis")),
        ("reserved-label", with("policy", "cluster: acme")),
        ("no-data-centre", with("policy", "(country: US) and (region: EU)")),
        ("few-holders", with("policy", "country: DE")),
        ("few-holders", with("policy", "country: DE or country: IN")),
        ("policy-syntax", with("served_by", "and and")),
        ("unknown-label", with("served_by", "colour: red")),
    ]
}

fn bad_bodies() -> Vec<(&'static str, String)> {
    let fields = |field: &str, value: Value| with(field, value).to_string();
    let without = |field: &str| {
        let mut body = upload(&["www.shop.example"]);
        body.as_object_mut().unwrap().remove(field);
        body.to_string()
    };
    vec![
        ("malformed-json", String::new()),
        ("malformed-json", "[]".to_owned()),
        ("malformed-json", "{".to_owned()),
        ("malformed-json", "{}{}".to_owned()),
        ("malformed-json", r#"{"policy":"a","policy":"b"}"#.to_owned()),
        ("malformed-json", format!("{{\"a\":{}", "[".repeat(10_000))),
        ("missing-field", "{}".to_owned()),
        ("missing-field", without("private_key")),
        ("missing-field", without("certificate")),
        ("missing-field", fields("private_key", Value::Null)),
        ("unknown-field", fields("polciy", "region: EU".into())),
        ("unknown-field", fields("type", "sni_custom".into())),
        ("invalid-field", fields("certificate", 1.into())),
        ("invalid-field", fields("policy", json!({ "country": "DE" }))),
        ("invalid-field", fields("acknowledge", "few-holders".into())),
        ("invalid-field", fields("acknowledge", json!(["everything"]))),
        ("request-too-large", fields("policy", "x".repeat(BODY_BYTES_MAX).into())),
    ]
}

#[track_caller]
fn check(answer: &Answered, code: &str, what: &str) {
    assert_eq!(answer.code(), code, "{what:.200}: {answer:?}");
    assert!((400..500).contains(&answer.status), "{what:.200}: {answer:?}");
    assert_eq!(answer.header("content-type"), "application/problem+json");
    let problem = answer.json();
    assert_eq!(problem["status"], answer.status);
    assert_eq!(problem["request_id"], answer.header("x-request-id"));
}

/// Does an answer have a line of the request's key in it?
fn repeats_key(body: &str, answer: &str) -> bool {
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    let key = body["private_key"].as_str().unwrap_or_default();
    key.lines().any(|line| line.len() > 20 && !line.starts_with('-') && answer.contains(line))
}

#[tokio::test]
async fn an_upload_that_is_refused_leaves_nothing_behind() {
    let world = World::new().await;
    let before = world.touched();
    let bodies = bad_certificates().into_iter().chain(bad_policies()).map(|(code, body)| (code, body.to_string()));
    let bodies: Vec<_> = bodies.chain(bad_bodies()).collect();
    assert!(bodies.len() >= 40);
    for (code, body) in bodies {
        for path in ["/v1/zones/shop/certificates", "/v1/zones/shop/certificates?dry_run=true"] {
            let answer = world.call("POST", path, Who::Token(&world.shop), body.clone()).await;
            check(&answer, code, &body);
            assert!(!repeats_key(&body, &answer.text), "{answer:?}");
        }
        assert_eq!(world.touched(), before, "{code}");
    }
}

#[tokio::test]
async fn a_request_that_is_no_upload_is_refused_before_its_body_counts() {
    let world = World::new().await;
    let (before, path) = (world.touched(), "/v1/zones/shop/certificates");
    let good = upload(&["www.shop.example"]).to_string();
    let asked = |path: &str| request("POST", path, Who::Token(&world.shop), good.clone());
    for said in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""] {
        let mut typed = asked(path);
        typed.headers_mut().insert("content-type", said.parse().unwrap());
        check(&world.send(typed).await, "unsupported-media-type", said);
    }
    let mut untyped = asked(path);
    untyped.headers_mut().remove("content-type");
    check(&world.send(untyped).await, "unsupported-media-type", "none");
    let mut large = asked(path);
    large.headers_mut().insert("content-length", (BODY_BYTES_MAX + 1).into());
    check(&world.send(large).await, "request-too-large", "announced");
    for (code, rest) in [
        ("invalid-field", "?dryrun=true"),
        ("invalid-field", "?dry_run=yes"),
        ("invalid-field", "?dry_run=true&dry_run=false"),
        ("invalid-field", "?x=%ff"),
        ("not-found", "x"),
        ("not-found", "/"),
        ("method-not-allowed", "/00112233445566778899aabbccddeeff"),
        ("request-too-large", &format!("?{}", "a".repeat(2_000))),
    ] {
        check(&world.send(asked(&format!("{path}{rest}"))).await, code, rest);
    }
    for id in ["00112233445566778899aabbccddeeff", "x", "..", "%2e%2e%2f"] {
        for method in ["PUT", "DELETE", "GET"] {
            let answer = world.shop(method, &format!("certificates/{id}"), &json!({})).await;
            check(&answer, "not-found", id);
        }
    }
    assert_eq!(world.touched(), before);
}

#[tokio::test]
async fn a_secret_that_is_refused_leaves_nothing_behind() {
    let world = World::new().await;
    let before = world.touched();
    let long = "A".repeat(16 * 1024 * 4 / 3 + 8);
    for (code, name, body) in [
        ("not-found", "Upper", json!({ "secret": "AAAA" })),
        ("missing-field", "a", json!({})),
        ("missing-field", "a", json!({ "secret": null })),
        ("invalid-field", "a", json!({ "secret": "not base64!" })),
        ("invalid-field", "a", json!({ "secret": "" })),
        ("invalid-field", "a", json!({ "secret": 7 })),
        ("request-too-large", "a", json!({ "secret": long })),
        ("unknown-field", "a", json!({ "secret": "AAAA", "polciy": "region: EU" })),
        ("no-data-centre", "a", json!({ "secret": "AAAA", "policy": "country: JP" })),
        ("few-holders", "a", json!({ "secret": "AAAA", "policy": "country: US" })),
    ] {
        check(&world.shop("PUT", &format!("secrets/{name}"), &body).await, code, name);
    }
    check(&world.shop("GET", "secrets/a", &json!({})).await, "not-found", "get");
    check(&world.shop("DELETE", "secrets/a", &json!({})).await, "not-found", "delete");
    assert_eq!(world.touched(), before);
}

#[tokio::test]
async fn the_facade_refuses_in_its_own_words() {
    let world = World::new().await;
    let (before, path) = (world.touched(), "/client/v4/zones/shop/custom_certificates");
    let geo = |label: Value| json!({ "label": label });
    for (number, body) in [
        (80_001, json!([])),
        (80_002, with("acknowledge", json!(["few-holders"]))),
        (80_004, with("type", "other")),
        (80_004, with("custom_csr_id", "x")),
        (80_004, with("geo_restrictions", geo("moon".into()))),
        (80_004, with("geo_restrictions", geo("".into()))),
        (80_005, {
            let mut body = with("geo_restrictions", geo("eu".into()));
            body["policy"] = "region: EU".into();
            body
        }),
        (80_030, with("policy", "(region: EU) (not country: FR)")),
        (80_033, with("policy", "(country: US) and (region: EU)")),
        (80_034, with("policy", "country: DE")),
        (2103, pair(certificate(&["www.other.example"], |_| ()))),
        (2106, pair((certificate(&["www.shop.example"], |_| ()).0, new_key().serialize_pem()))),
        (1002, pair(("nonsense", new_key().serialize_pem()))),
    ] {
        let answer = world.call("POST", path, Who::Token(&world.shop), body.to_string()).await;
        let said = answer.json();
        assert_eq!(said["errors"][0]["code"], number, "{answer:?}");
        assert_eq!((said["success"].as_bool(), said["result"].is_null()), (Some(false), true));
        assert!((400..500).contains(&answer.status) && answer.header("content-type") == "application/json");
        assert!(number != 80_034 || !answer.text.contains("acknowledge\\\""), "{answer:?}");
    }
    for (method, rest, number) in
        [("GET", "/x/y", 80_010), ("PUT", "", 80_011), ("GET", "?page=0", 80_004), ("GET", "?match=all", 80_004)]
    {
        let answer = world.call(method, &format!("{path}{rest}"), Who::Token(&world.shop), "").await;
        assert_eq!(answer.json()["errors"][0]["code"], number, "{answer:?}");
    }
    let answer = world.call("GET", path, Who::Token("nonsense"), "").await;
    assert_eq!((answer.status, answer.json()["errors"][0]["code"].as_u64()), (401, Some(80_008)));
    assert_eq!(world.touched(), before);
}

#[tokio::test]
async fn failures_of_one_source_are_told_to_wait_and_its_good_tokens_are_not() {
    let world = World::new().await;
    let path = "/v1/zones/shop/certificates";
    let mut last = 401;
    for _ in 0..=FAILURES_PER_MINUTE {
        let answer = world.call("GET", path, Who::Token("nonsense"), "").await;
        last = answer.status;
        if last == 429 {
            check(&answer, "rate-limited", "failures");
            assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
        }
    }
    assert_eq!(last, 429);
    assert_eq!(world.call("GET", path, Who::Token(&world.shop), "").await.status, 200);
}

#[tokio::test]
async fn an_answer_has_its_head_whatever_it_is() {
    let world = World::new().await;
    for (method, path) in
        [("GET", "/v1/openapi.json"), ("GET", "/"), ("POST", "/v1/openapi.json"), ("GET", "/client/v4")]
    {
        let answer = world.call(method, path, Who::Nobody, Body::empty()).await;
        assert_eq!(answer.header("cache-control"), "no-store");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("x-request-id").len(), 16, "{answer:?}");
        assert_eq!(answer.header("allow").is_empty(), answer.status != 405, "{answer:?}");
    }
    let head = world.call("HEAD", "/v1/openapi.json", Who::Nobody, Body::empty()).await;
    assert_eq!((head.status, head.text.as_str()), (200, ""));
}

#[tokio::test]
async fn a_panic_ends_one_request_and_is_answered_in_its_style() {
    let world = World::new().await;
    let made = world.api.zones.create_token("test", &"shop".parse().unwrap(), "short", Some(60)).await.unwrap();
    let token = made.text.expose();
    world.clock.broken.store(true, std::sync::atomic::Ordering::Relaxed);
    let native = world.call("GET", "/v1/zones/shop/certificates", Who::Token(token), "").await;
    assert_eq!((native.status, native.code().as_str()), (500, "internal"));
    let path = "/client/v4/zones/shop/custom_certificates";
    let facade = world.call("GET", path, Who::Token(token), "").await;
    assert_eq!((facade.status, facade.json()["errors"][0]["code"].as_u64()), (500, Some(80_091)));
    world.clock.broken.store(false, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(world.call("GET", path, Who::Token(token), "").await.status, 200);
}
