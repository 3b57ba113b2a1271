//! What is done, from request to record and back.

use serde_json::{Value, json};

use super::world::{Answered, Who, World, certificate, upload};

#[track_caller]
fn ok(answer: &Answered, status: u16) -> Value {
    assert_eq!(answer.status, status, "{answer:?}");
    answer.json()
}

#[tokio::test]
async fn a_certificate_is_stored_shown_changed_and_deleted() {
    let world = World::new().await;
    let mut body = upload(&["www.shop.example", "*.shop.example"]);
    body["policy"] = "(region: EU) and (not country: FR)".into();
    let dry = ok(&world.shop("POST", "certificates?dry_run=true", &body).await, 200);
    assert_eq!((dry["index"].as_u64(), dry["holders"]["count"].as_u64()), (Some(0), Some(3)));
    assert_eq!(ok(&world.shop("GET", "certificates", &json!({})).await, 200)["total"], 0);
    let answer = world.shop("POST", "certificates", &body).await;
    let made = ok(&answer, 201);
    let id = made["id"].as_str().unwrap().to_owned();
    assert_eq!(answer.header("location"), format!("/v1/zones/shop/certificates/{id}"));
    assert_eq!(made["holders"]["countries"], json!(["DE", "NL", "PL"]));
    let one = format!("certificates/{id}");
    let shown = ok(&world.shop("GET", &one, &json!({})).await, 200);
    assert_eq!((&shown["policy"], &shown["version"]), (&body["policy"], &json!(1)));
    let list = ok(&world.shop("GET", "certificates?page=1&per_page=1", &json!({})).await, 200);
    assert_eq!((&list["total"], &list["certificates"][0]["id"]), (&json!(1), &json!(id)));
    assert_eq!(world.shop("POST", "certificates", &body).await.code(), "certificate-stored");
    // Another policy needs the key again; then it says who could open it before.
    assert_eq!(world.shop("PUT", &one, &json!({ "policy": "region: EU" })).await.code(), "key-required");
    let change = json!({ "policy": "region: EU", "private_key": body["private_key"] });
    let changed = ok(&world.shop("PUT", &one, &change).await, 200);
    assert_eq!((&changed["id"], &changed["version"]), (&json!(id), &json!(2)));
    assert_eq!(changed["before"]["could_open"], json!(["ams", "fra", "waw"]));
    // The same policy in other words does not.
    ok(&world.shop("PUT", &one, &json!({ "policy": "(region: EU)" })).await, 200);
    // An operator sees it too; another zone never.
    let path = format!("/v1/zones/shop/{one}");
    ok(&world.call("GET", &path, Who::Operator, "").await, 200);
    assert_eq!(world.call("GET", &path, Who::Token(&world.other), "").await.status, 404);
    let theirs = format!("/v1/zones/other/{one}");
    assert_eq!(world.call("GET", &theirs, Who::Token(&world.other), "").await.status, 404);
    let gone = ok(&world.shop("DELETE", &one, &json!({})).await, 200);
    assert_eq!(gone["before"]["could_open"].as_array().unwrap().len(), 4);
    assert_eq!(world.shop("GET", &one, &json!({})).await.code(), "not-found");
}

#[tokio::test]
async fn the_facade_stores_shows_edits_and_deletes() {
    let world = World::new().await;
    let path = "/client/v4/zones/shop/custom_certificates";
    let as_shop = Who::Token(&world.shop);
    for policy in ["(country: US) or (region: EU)", "region: EU and (not country: FR)"] {
        let (certificate, key) = certificate(&["www.shop.example"], |_| ());
        let body = json!({ "certificate": certificate, "private_key": key, "policy": policy, "type": "sni_custom" });
        let made = ok(&world.call("POST", path, as_shop, body.to_string()).await, 200);
        let (id, result) = (made["result"]["id"].as_str().unwrap(), &made["result"]);
        assert_eq!((made["success"].as_bool(), &result["policy_restrictions"]), (Some(true), &json!(policy)));
        assert_eq!((&result["status"], &result["hosts"]), (&json!("active"), &json!(["www.shop.example"])));
        assert_eq!(result["uploaded_on"], "2027-01-15T08:00:00Z");
        let one = format!("{path}/{id}");
        let list = ok(&world.call("GET", path, as_shop, "").await, 200);
        assert_eq!((&list["result"][0]["id"], &list["result_info"]["total_count"]), (&json!(id), &json!(1)));
        let edit = json!({ "geo_restrictions": { "label": "eu" }, "private_key": key });
        let edited = ok(&world.call("PATCH", &one, as_shop, edit.to_string()).await, 200);
        assert_eq!(edited["result"]["id"], id);
        assert_eq!(edited["result"]["geo_restrictions"]["label"], "eu");
        assert!(edited["messages"].as_array().unwrap().iter().any(|message| message["code"] == 80_101));
        let shown = ok(&world.call("GET", &one, as_shop, "").await, 200);
        assert_eq!(shown["result"]["policy_restrictions"], "region: EU");
        let gone = ok(&world.call("DELETE", &one, as_shop, "").await, 200);
        assert_eq!(gone["result"], json!({ "id": id }));
        assert_eq!(world.call("GET", &one, as_shop, "").await.status, 404);
    }
    let verified = ok(&world.call("GET", "/client/v4/user/tokens/verify", as_shop, "").await, 200);
    assert_eq!(verified["result"]["status"], "active");
}

#[tokio::test]
async fn a_secret_goes_in_and_never_comes_out() {
    let world = World::new().await;
    let body = json!({ "secret": "c2Vzc2lvbiB0aWNrZXQga2V5", "policy": "region: EU" });
    let put = world.shop("PUT", "secrets/ticket-key", &body).await;
    assert_eq!(ok(&put, 200)["holders"]["count"], 4);
    let shown = world.shop("GET", "secrets/ticket-key", &json!({})).await;
    assert_eq!(ok(&shown, 200)["version"], 1);
    let list = world.shop("GET", "secrets", &json!({})).await;
    assert_eq!(ok(&list, 200)["secrets"][0]["name"], "ticket-key");
    ok(&world.shop("PUT", "secrets/ticket-key", &body).await, 200);
    let gone = world.shop("DELETE", "secrets/ticket-key", &json!({})).await;
    assert_eq!(ok(&gone, 200)["deleted"], true);
    for answer in [put, shown, list, gone] {
        assert!(!answer.text.contains("c2Vzc2lvb") && !answer.text.contains("ticket key"), "{answer:?}");
    }
    assert_eq!(world.shop("GET", "secrets/ticket-key", &json!({})).await.code(), "not-found");
}

#[tokio::test]
async fn a_policy_is_explained_before_anything_is_stored() {
    let world = World::new().await;
    let before = world.touched();
    let check =
        async |body: Value| world.call("POST", "/v1/policies:check", Who::Token(&world.shop), body.to_string()).await;
    let few = ok(&check(json!({ "policy": "country: IN" })).await, 200);
    assert_eq!((&few["verdict"], &few["equivalent_today"]), (&json!("needs_acknowledgement"), &json!("bom")));
    assert_eq!((&few["survives"]["any_one_country"], &few["advised"]), (&json!(false), &json!(3)));
    assert_eq!(few["matches_new_data_centers"], true);
    let known = ok(&check(json!({ "policy": "country: IN", "acknowledge": ["few-holders"] })).await, 200);
    assert_eq!(known["verdict"], "accepted_with_warnings");
    let everywhere = ok(&check(json!({})).await, 200);
    assert_eq!((&everywhere["policy"], &everywhere["verdict"]), (&json!("everywhere"), &json!("accepted")));
    assert_eq!(everywhere["holders"]["count"], 6);
    let named = ok(&check(json!({ "policy": "dc: fra or dc: ams or dc: waw" })).await, 200);
    assert_eq!(named["matches_new_data_centers"], false);
    let not_named = ok(&check(json!({ "policy": "not dc: fra" })).await, 200);
    assert_eq!(not_named["matches_new_data_centers"], true);
    let broken = check(json!({ "policy": "(region: EU) (not country: FR)" })).await;
    let problem = broken.json();
    assert_eq!((broken.status, &problem["code"], &problem["span"]["start"]), (422, &json!("left-over"), &json!(13)));
    assert_eq!(check(json!({ "policy": "(country: US) and (region: EU)" })).await.code(), "no-data-centre");
    ok(&world.call("POST", "/v1/policies:check", Who::Operator, "{}").await, 200);
    assert_eq!(world.touched(), before);
}

#[tokio::test]
async fn zones_do_not_overlap_and_end_only_when_empty() {
    let world = World::new().await;
    let zones = async |method: &str, rest: &str, body: Value| {
        world.call(method, &format!("/v1/zones{rest}"), Who::Operator, body.to_string()).await
    };
    let added = ok(&zones("POST", "", json!({ "id": "new", "domains": ["Bücher.example"] })).await, 201);
    assert_eq!(added["domains"], json!(["xn--bcher-kva.example"]));
    assert_eq!(added["limits"]["data_centers_min"], 3);
    for (code, domains) in [
        ("zone-overlap", json!(["a.example", "shop.example"])),
        ("zone-overlap", json!(["deep.below.shop.example"])),
        ("zone-overlap", json!(["xn--bcher-kva.example."])),
        ("domain-malformed", json!(["*.a.example"])),
        ("domain-malformed", json!(["example"])),
        ("domain-malformed", json!(["a.example", "b.a.example"])),
        ("invalid-field", json!([])),
        ("invalid-field", json!("a.example")),
    ] {
        let answer = zones("POST", "", json!({ "id": "another", "domains": domains })).await;
        assert_eq!(answer.code(), code, "{answer:?}");
        assert!(code != "zone-overlap" || answer.text.contains("zone "), "{answer:?}");
    }
    assert_eq!(zones("POST", "", json!({ "id": "new", "domains": ["b.example"] })).await.code(), "conflict");
    assert_eq!(zones("POST", "", json!({ "id": "NEW", "domains": ["b.example"] })).await.code(), "invalid-field");
    // A domain stays while a certificate stands on it; what covers it may take its place.
    let id = ok(&world.shop("POST", "certificates", &upload(&["www.shop.example"])).await, 201)["id"].clone();
    assert_eq!(zones("PATCH", "/shop", json!({ "domains": ["b.example"] })).await.code(), "zone-in-use");
    ok(&zones("PATCH", "/shop", json!({ "domains": ["www.shop.example", "b.example"] })).await, 200);
    // Its own domain lies below; another zone's does too.
    ok(&zones("POST", "", json!({ "id": "beside", "domains": ["zz.shop.example"] })).await, 201);
    assert_eq!(zones("PATCH", "/shop", json!({ "domains": ["shop.example"] })).await.code(), "zone-overlap");
    let limited = ok(&zones("PATCH", "/shop", json!({ "limits": { "keys_max": 1 } })).await, 200);
    assert_eq!((&limited["limits"]["keys_max"], &limited["keys"]), (&json!(1), &json!(1)));
    assert_eq!(world.shop("POST", "certificates", &upload(&["b.example"])).await.code(), "quota");
    assert_eq!(zones("DELETE", "/shop", json!({})).await.code(), "zone-in-use");
    ok(&world.shop("DELETE", &format!("certificates/{}", id.as_str().unwrap()), &json!({})).await, 200);
    ok(&zones("DELETE", "/shop", json!({})).await, 200);
    // Its tokens ended with it, also when a zone of its name comes back.
    assert_eq!(world.shop("GET", "certificates", &json!({})).await.status, 401);
    ok(&zones("POST", "", json!({ "id": "shop", "domains": ["b.example"] })).await, 201);
    assert_eq!(world.shop("GET", "certificates", &json!({})).await.status, 401);
    assert_eq!(ok(&zones("GET", "?per_page=2", json!({})).await, 200)["total"], 4);
}

#[tokio::test]
async fn a_token_opens_its_zone_until_it_is_revoked() {
    let world = World::new().await;
    let tokens = async |method: &str, rest: &str, body: Value| {
        world.call(method, &format!("/v1/zones/shop/tokens{rest}"), Who::Operator, body.to_string()).await
    };
    let made = ok(&tokens("POST", "", json!({ "name": "ci", "expires_in_s": 3600 })).await, 201);
    let (text, id) = (made["token"].as_str().unwrap(), made["id"].as_str().unwrap());
    assert_eq!(made["expires_on"], "2027-01-15T09:00:00Z");
    let list = tokens("GET", "", json!({})).await;
    assert!(!list.text.contains(&text[37..]) && list.text.contains(id), "{list:?}");
    let path = "/v1/zones/shop";
    ok(&world.call("GET", path, Who::Token(text), "").await, 200);
    let theirs = format!("/v1/zones/other/tokens/{id}");
    assert_eq!(world.call("DELETE", &theirs, Who::Operator, "").await.code(), "not-found");
    ok(&world.call("GET", path, Who::Token(text), "").await, 200);
    ok(&tokens("DELETE", &format!("/{id}"), json!({})).await, 200);
    assert_eq!(world.call("GET", path, Who::Token(text), "").await.status, 401);
    assert_eq!(tokens("DELETE", &format!("/{id}"), json!({})).await.code(), "not-found");
    assert_eq!(tokens("POST", "", json!({ "expires_in_s": 0 })).await.code(), "invalid-field");
    assert_eq!(tokens("POST", "", json!({ "name": "x".repeat(64) })).await.code(), "invalid-field");
}

#[tokio::test]
async fn a_zone_changes_as_much_a_minute_as_it_may() {
    let world = World::new().await;
    let limit = json!({ "limits": { "changes_per_minute": 2 } });
    ok(&world.call("PATCH", "/v1/zones/shop", Who::Operator, limit.to_string()).await, 200);
    let body = upload(&["www.shop.example"]);
    for _ in 0..2 {
        ok(&world.shop("POST", "certificates?dry_run=true", &body).await, 200);
    }
    let refused = world.shop("POST", "certificates?dry_run=true", &body).await;
    assert_eq!((refused.status, refused.code().as_str()), (429, "rate-limited"));
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=31).contains(&wait), "{wait}");
    // Looking costs nothing, and other zones are not in it.
    ok(&world.shop("GET", "certificates", &json!({})).await, 200);
    let path = "/client/v4/zones/other/custom_certificates";
    let theirs = upload(&["www.other.example"]);
    ok(&world.call("POST", path, Who::Token(&world.other), theirs.to_string()).await, 200);
}
