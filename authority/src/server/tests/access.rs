//! Who may what: every row against every kind of caller.

use super::world::{Who, World, request};
use crate::server::routes::{Kind, ROUTES};

/// The rows as they are meant, with the callers that get in: `a`nybody, a `z`one's token, an `o`perator.
const MEANT: &[(&str, &str)] = &[
    ("GET /v1/openapi.json", "azo"),
    ("POST /v1/policies:check", "zo"),
    ("POST /v1/zones", "o"),
    ("GET /v1/zones", "o"),
    ("GET /v1/zones/{zone}", "zo"),
    ("PATCH /v1/zones/{zone}", "o"),
    ("DELETE /v1/zones/{zone}", "o"),
    ("POST /v1/zones/{zone}/tokens", "o"),
    ("GET /v1/zones/{zone}/tokens", "o"),
    ("DELETE /v1/zones/{zone}/tokens/{id}", "o"),
    ("POST /v1/operator_tokens", "o"),
    ("GET /v1/operator_tokens", "o"),
    ("DELETE /v1/operator_tokens/{id}", "o"),
    ("POST /v1/zones/{zone}/certificates", "zo"),
    ("GET /v1/zones/{zone}/certificates", "zo"),
    ("GET /v1/zones/{zone}/certificates/{id}", "zo"),
    ("PUT /v1/zones/{zone}/certificates/{id}", "zo"),
    ("DELETE /v1/zones/{zone}/certificates/{id}", "zo"),
    ("GET /v1/zones/{zone}/secrets", "zo"),
    ("PUT /v1/zones/{zone}/secrets/{name}", "zo"),
    ("GET /v1/zones/{zone}/secrets/{name}", "zo"),
    ("DELETE /v1/zones/{zone}/secrets/{name}", "zo"),
    ("POST /client/v4/zones/{zone}/custom_certificates", "z"),
    ("GET /client/v4/zones/{zone}/custom_certificates", "z"),
    ("GET /client/v4/zones/{zone}/custom_certificates/{id}", "z"),
    ("PATCH /client/v4/zones/{zone}/custom_certificates/{id}", "z"),
    ("DELETE /client/v4/zones/{zone}/custom_certificates/{id}", "z"),
    ("GET /client/v4/user/tokens/verify", "z"),
    // A machine that enrols has its token in the body.
    ("POST /v1/enrol", "azo"),
    ("POST /v1/machine_tokens", "o"),
    ("GET /v1/machines", "o"),
    ("POST /v1/machines:revoke", "o"),
    ("GET /v1/data_centers", "o"),
    ("POST /v1/data_centers:drain", "o"),
    ("POST /v1/data_centers:undrain", "o"),
    ("GET /v1/schema", "zo"),
    ("POST /v1/schema:check", "o"),
];

#[test]
fn the_table_lets_in_whom_it_is_meant_to() {
    assert_eq!(ROUTES.len(), MEANT.len());
    for (route, (address, who)) in ROUTES.iter().zip(MEANT) {
        assert_eq!(format!("{} {}", route.method, route.path), *address);
        for (kind, letter) in Kind::ALL.into_iter().zip(['a', 'z', 'o']) {
            assert_eq!(route.allows(kind), who.contains(letter), "{address} {kind:?}");
        }
    }
}

#[tokio::test]
async fn every_cell_of_the_table_is_kept() {
    let world = World::new().await;
    for (address, who) in MEANT {
        let (method, path) = address.split_once(' ').unwrap();
        let path = |zone: &str| {
            let id = "00112233445566778899aabbccddeeff";
            path.replace("{zone}", zone).replace("{id}", id).replace("{name}", "missing")
        };
        let before = world.touched();
        for (letter, caller, refused) in [
            ('a', Who::Nobody, 401),
            ('a', Who::Edge, 401),
            ('z', Who::Token(&world.shop), 403),
            ('o', Who::Operator, 403),
            ('o', Who::Token(&world.robot), 403),
        ] {
            // Operators name a zone that is not there, so that nothing is done.
            let zone = if letter == 'o' { "nothing" } else { "shop" };
            let answer = world.call(method, &path(zone), caller, "{}").await;
            let let_in = ![401, 403].contains(&answer.status);
            assert_eq!(let_in, who.contains(letter), "{address} {letter}: {answer:?}");
            assert!(let_in || answer.status == refused, "{address} {letter}: {answer:?}");
            // No machines are served in this world.
            assert!(answer.status < 500 || answer.text.contains("not served here"), "{address} {letter}: {answer:?}");
        }
        assert_eq!(world.touched(), before, "{address}");
    }
}

#[tokio::test]
async fn another_zone_looks_like_none_and_nothing_is_looked_up() {
    let world = World::new().await;
    let (id, asked) = ("00112233445566778899aabbccddeeff", world.store.touched());
    let rows = MEANT.iter().filter(|(address, who)| address.contains("{zone}") && who.contains('z'));
    for (address, _) in rows {
        let (method, path) = address.split_once(' ').unwrap();
        let mut answers = Vec::new();
        for zone in ["other", "nothing", "%00", "OTHER"] {
            let path = path.replace("{zone}", zone).replace("{id}", id).replace("{name}", "missing");
            let answer = world.call(method, &path, Who::Token(&world.shop), "{}").await;
            assert_eq!(answer.status, 404, "{address}: {answer:?}");
            answers.push(answer.text.replace(answer.header("x-request-id"), ""));
        }
        answers.dedup();
        assert_eq!(answers.len(), 1, "{address} tells zones apart: {answers:?}");
    }
    assert_eq!(world.store.touched(), asked);
}

#[tokio::test]
async fn tokens_of_every_spelling_but_the_right_one_are_refused() {
    let world = World::new().await;
    let good = &world.shop;
    let path = "/v1/zones/shop/certificates";
    let cut = &good[..good.len() - 1];
    for bad in ["", "x", cut, &format!("{good}A"), &good.to_uppercase(), &good.replace("cin_", "cim_"), &"A".repeat(80)]
    {
        let answer = world.call("GET", path, Who::Token(bad), "").await;
        assert_eq!((answer.status, answer.code().as_str()), (401, "unauthenticated"), "{bad}: {answer:?}");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
        assert!(bad.len() < 4 || !answer.text.contains(bad), "an answer repeats a token");
    }
    assert_eq!(world.call("GET", path, Who::Token(good), "").await.status, 200);
    // The key pair of headers means the same.
    let mut asked = request("GET", path, Who::Nobody, "");
    asked.headers_mut().insert("x-auth-key", good.parse().unwrap());
    assert_eq!(world.send(asked).await.status, 401);
    let mut asked = request("GET", path, Who::Nobody, "");
    asked.headers_mut().insert("x-auth-key", good.parse().unwrap());
    asked.headers_mut().insert("x-auth-email", "a@b.example".parse().unwrap());
    assert_eq!(world.send(asked).await.status, 200);
    // Bad credentials count, whatever the connection proved.
    let mut asked = request("GET", path, Who::Operator, "");
    asked.headers_mut().insert("authorization", "Bearer nonsense".parse().unwrap());
    assert_eq!(world.send(asked).await.status, 401);
}

#[tokio::test]
async fn an_operators_token_acts_under_its_name_until_it_is_revoked() {
    let world = World::new().await;
    let made = world.call("POST", "/v1/operator_tokens", Who::Operator, r#"{"name":"nightly"}"#).await;
    assert_eq!(made.status, 201, "{made:?}");
    let made: serde_json::Value = serde_json::from_str(&made.text).unwrap();
    let (token, id) = (made["token"].as_str().unwrap(), made["id"].as_str().unwrap());
    assert_eq!(world.call("GET", "/v1/zones", Who::Token(token), "").await.status, 200);
    let zone = r#"{"id":"night","domains":["night.example"]}"#;
    assert_eq!(world.call("POST", "/v1/zones", Who::Token(token), zone).await.status, 201);
    let audit = std::fs::read_to_string(world.audit_file()).unwrap();
    assert!(audit.contains(&format!("operator nightly by token {id}")) && !audit.contains(token), "{audit}");
    let listed = world.call("GET", "/v1/operator_tokens", Who::Operator, "").await;
    assert!(listed.text.contains(id) && !listed.text.contains(token), "{listed:?}");
    // A zone's token is none of these, nor is an operator's one of a zone's.
    let shop = &world.shop[4..36];
    assert_eq!(world.call("DELETE", &format!("/v1/operator_tokens/{shop}"), Who::Operator, "").await.status, 404);
    assert_eq!(world.call("DELETE", &format!("/v1/zones/shop/tokens/{id}"), Who::Operator, "").await.status, 404);
    assert_eq!(world.call("DELETE", &format!("/v1/operator_tokens/{id}"), Who::Token(token), "").await.status, 200);
    assert_eq!(world.call("GET", "/v1/zones", Who::Token(token), "").await.status, 401);
    for name in [r#"{"name":" "}"#, r#"{"name":"a\u0000"}"#, "{}"] {
        let refused = world.call("POST", "/v1/operator_tokens", Who::Operator, name).await;
        assert!((400..500).contains(&refused.status), "{name}: {refused:?}");
    }
}
