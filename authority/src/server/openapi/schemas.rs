//! The schemas of bodies and answers.

mod machines;

use serde_json::{Map, Value, json};

use super::problem_types;
use crate::limits::{BODY_BYTES_MAX, JSON_FIELDS_MAX, PAGE_LEN_MAX, TOKEN_LIFE_S_MAX, ZONE_CHANGES_MAX, ZONE_KEYS_MAX};
use crate::zones::LIMITS_DEFAULT;

/// Points at a schema.
pub fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// A whole number within bounds.
pub fn number(least: u64, most: Option<u64>) -> Value {
    let mut schema = json!({ "type": "integer", "minimum": least });
    if let Some(most) = most {
        schema["maximum"] = most.into();
    }
    schema
}

fn text(description: &str) -> Value {
    json!({ "type": "string", "description": description })
}

fn flag() -> Value {
    json!({ "type": "boolean" })
}

fn list(of: Value) -> Value {
    json!({ "type": "array", "items": of })
}

fn maybe(mut schema: Value) -> Value {
    if let Some(kind) = schema.get("type").cloned() {
        schema["type"] = json!([kind, "null"]);
    }
    schema
}

/// An object: fields that are always there, fields that may be, and nothing else when it is a request's.
fn object(required: &[(&str, Value)], optional: &[(&str, Value)], closed: bool) -> Value {
    let fields = required.iter().chain(optional);
    let properties: Map<String, Value> = fields.map(|(name, schema)| ((*name).to_owned(), schema.clone())).collect();
    let mut schema = json!({ "type": "object", "properties": properties });
    if !required.is_empty() {
        schema["required"] = required.iter().map(|(name, _)| *name).collect::<Vec<_>>().into();
    }
    if closed {
        schema["additionalProperties"] = false.into();
        schema["maxProperties"] = JSON_FIELDS_MAX.into();
    }
    schema
}

fn answer(fields: &[(&str, Value)], optional: &[(&str, Value)]) -> Value {
    object(fields, optional, false)
}

fn request(fields: &[(&str, Value)], optional: &[(&str, Value)]) -> Value {
    object(fields, optional, true)
}

/// Every schema by its name.
pub fn all() -> Value {
    let mut all = Map::new();
    for (name, schema) in requests()
        .into_iter()
        .chain(policies())
        .chain(certificates())
        .chain(zones())
        .chain(facade())
        .chain(refusals())
        .chain(machines::requests())
        .chain(machines::answers())
    {
        all.insert(name.to_owned(), schema);
    }
    all.into()
}

fn acknowledge() -> Value {
    list(json!({ "type": "string", "enum": ["few-holders"] }))
}

fn requests() -> Vec<(&'static str, Value)> {
    let policy = || text("such as `(region: EU) and (not country: FR)`; empty or absent for everywhere");
    let chain = || json!({ "type": "string", "maxLength": BODY_BYTES_MAX, "description": "PEM chain, the leaf first" });
    let key = || json!({ "type": "string", "writeOnly": true, "description": "PEM key" });
    let shared = [
        ("policy", policy()),
        ("served_by", text("a policy over the machines that may ask for signatures")),
        ("acknowledge", acknowledge()),
    ];
    let both = [("certificate", chain()), ("private_key", key())];
    let whole = [&both[..], &shared].concat();
    let facade = [
        ("policy", policy()),
        ("policy_restrictions", text("the same as `policy`")),
        ("geo_restrictions", request(&[("label", json!({ "enum": ["us", "eu", "highest_security"] }))], &[])),
        ("bundle_method", json!({ "enum": ["ubiquitous", "optimal", "force"] })),
        ("type", json!({ "enum": ["sni_custom", "legacy_custom"] })),
        ("deploy", json!({ "enum": ["production"] })),
    ];
    let limits = limits();
    let domains = || list(text("a domain, which covers every name below it"));
    let secret = json!({ "type": "string", "writeOnly": true, "contentEncoding": "base64" });
    vec![
        ("Upload", request(&both, &shared)),
        ("Change", request(&[], &whole)),
        ("SecretUpload", request(&[("secret", secret)], &[("policy", policy()), ("acknowledge", acknowledge())])),
        ("PolicyQuestion", request(&[], &[("policy", policy()), ("acknowledge", acknowledge())])),
        (
            "NewZone",
            request(&[("id", text("a-z, 0-9, `-` and `.`")), ("domains", domains())], &[("limits", limits.clone())]),
        ),
        ("ZoneChange", request(&[], &[("domains", domains()), ("limits", limits)])),
        (
            "TokenRequest",
            request(
                &[],
                &[("name", text("what its owner calls it")), ("expires_in_s", number(1, Some(TOKEN_LIFE_S_MAX)))],
            ),
        ),
        (
            "OperatorTokenRequest",
            request(&[("name", text("under which it acts"))], &[("expires_in_s", number(1, Some(TOKEN_LIFE_S_MAX)))]),
        ),
        ("FacadeUpload", request(&both, &facade)),
        ("FacadeChange", request(&[], &[&both[..], &facade].concat())),
    ]
}

fn limits() -> Value {
    let with = |mut schema: Value, default: u64| {
        schema["default"] = default.into();
        schema
    };
    let most = (u64::from(u16::MAX), u64::from(ZONE_KEYS_MAX), u64::from(ZONE_CHANGES_MAX));
    request(
        &[],
        &[
            ("data_centers_min", with(number(1, Some(most.0)), LIMITS_DEFAULT.data_centers_min.into())),
            ("keys_max", with(number(0, Some(most.1)), LIMITS_DEFAULT.keys_max.into())),
            ("changes_per_minute", with(number(0, Some(most.2)), LIMITS_DEFAULT.changes_per_minute.into())),
        ],
    )
}

fn preview() -> Vec<(&'static str, Value)> {
    ["holders", "survives", "latency"]
        .into_iter()
        .zip(["Holders", "Survives", "Latency"].map(reference))
        .chain([("warnings", list(reference("Warning")))])
        .collect()
}

fn policies() -> Vec<(&'static str, Value)> {
    let wait = answer(&[("p50", json!({ "type": "number" })), ("p95", json!({ "type": "number" }))], &[]);
    let region = answer(
        &[
            ("region", text("the region")),
            ("local", number(0, None)),
            ("of", number(0, None)),
            ("extra_ms", reference("Wait")),
        ],
        &[],
    );
    let own = [
        ("compiled", text("what keys are asked for")),
        ("policy", text("as it was written; `everywhere` for none")),
        ("canonical", text("in its one form")),
        ("policy_id", text("hexadecimal")),
        ("verdict", json!({ "enum": ["accepted", "accepted_with_warnings", "needs_acknowledgement"] })),
        ("advised", number(0, None)),
        ("equivalent_today", text("names of data centres")),
        ("matches_new_data_centers", flag()),
    ];
    let names = || list(text("a name"));
    vec![
        ("Wait", wait),
        (
            "Holders",
            answer(
                &[
                    ("count", number(0, None)),
                    ("of", number(0, None)),
                    ("countries", names()),
                    ("data_centers", names()),
                ],
                &[],
            ),
        ),
        ("Survives", answer(&[("any_one_data_center", flag()), ("any_one_country", flag())], &[])),
        (
            "Latency",
            answer(
                &[
                    ("basis", json!({ "enum": ["measured", "estimated"] })),
                    ("regions", list(region)),
                    ("global", json!({ "oneOf": [reference("Wait"), { "type": "null" }] })),
                    ("unknown", number(0, None)),
                ],
                &[],
            ),
        ),
        (
            "Warning",
            answer(
                &[
                    ("code", text("stable")),
                    ("severity", json!({ "enum": ["warning", "info"] })),
                    ("message", text("")),
                ],
                &[("regions", names())],
            ),
        ),
        ("PolicyCheck", answer(&[&own[..], &preview()].concat(), &[])),
    ]
}

fn certificates() -> Vec<(&'static str, Value)> {
    let certificate = [
        ("id", text("32 hexadecimal digits")),
        ("zone", text("its zone")),
        ("hostnames", list(text("a hostname"))),
        ("key_type", text("kind of its key")),
        ("key_fingerprint", text("SHA-256 of its SubjectPublicKeyInfo")),
        ("issuer", text("who issued it")),
        ("signature", text("how it is signed")),
        ("not_before", number(0, None)),
        ("not_after", number(0, None)),
        ("created_ms", number(0, None)),
        ("modified_ms", number(0, None)),
        ("version", number(1, None)),
        ("policy", text("as it was written; `everywhere` for none")),
    ];
    let told = [("canonical", text("the policy in its one form")), ("policy_id", text("hexadecimal"))];
    let index = [("index", number(0, None))];
    let before = [("before", reference("Before"))];
    let name = ("name", text("its name"));
    let zone = ("zone", text("its zone"));
    let policy = ("policy", text("the policy"));
    let put = [name.clone(), zone.clone(), policy.clone()];
    let id = ("policy_id", text("hexadecimal"));
    vec![
        ("Certificate", answer(&certificate, &[("active_on", reference("ActiveOn"))])),
        ("ActiveOn", answer(&[("machines", number(0, None)), ("of", number(0, None))], &[])),
        ("CertificatePage", page("certificates", "Certificate")),
        ("Uploaded", answer(&[&certificate[..], &told, &preview(), &index].concat(), &before)),
        ("Before", answer(&[("could_open", list(text("a data centre"))), ("note", text("what that means"))], &[])),
        ("Deleted", answer(&[("id", text("")), ("deleted", flag()), index[0].clone(), before[0].clone()], &[])),
        ("Secret", answer(&[name, zone, policy, id, ("version", number(1, None))], &[])),
        ("SecretPage", page("secrets", "Secret")),
        ("SecretPut", answer(&[&put[..], &told, &preview(), &index].concat(), &[])),
    ]
}

fn page(name: &'static str, of: &str) -> Value {
    let fields = [
        (name, list(reference(of))),
        ("page", number(1, None)),
        ("per_page", number(1, Some(PAGE_LEN_MAX.into()))),
        ("total", number(0, None)),
    ];
    answer(&fields, &[])
}

fn zones() -> Vec<(&'static str, Value)> {
    let token = [("id", text("")), ("name", text("")), ("expires_on", maybe(text("RFC 3339; null for never")))];
    let zone = [("id", text("")), ("domains", list(text("a domain"))), ("limits", limits()), ("keys", number(0, None))];
    vec![
        ("Any", json!({ "type": "object" })),
        ("Zone", answer(&zone, &[])),
        ("ZonePage", page("zones", "Zone")),
        ("Token", answer(&token, &[])),
        ("TokenList", answer(&[("tokens", list(reference("Token")))], &[])),
        ("NewToken", answer(&[&token[..], &[("token", text("shown this once"))]].concat(), &[])),
        ("Gone", answer(&[("id", text("")), ("deleted", flag())], &[])),
    ]
}

fn envelope(result: Value, info: bool) -> Value {
    let page = ["page", "per_page", "count", "total_count", "total_pages"].map(|name| (name, number(0, None)));
    let fields = [
        ("success", flag()),
        ("errors", list(reference("FacadeMessage"))),
        ("messages", list(reference("FacadeMessage"))),
        ("result", result),
    ];
    let info = if info { vec![("result_info", answer(&page, &[]))] } else { Vec::new() };
    answer(&[&fields[..], &info].concat(), &[])
}

fn facade() -> Vec<(&'static str, Value)> {
    let certificate = [
        ("id", text("")),
        ("zone_id", text("")),
        ("hosts", list(text("a hostname"))),
        ("issuer", text("")),
        ("signature", text("")),
        ("status", json!({ "enum": ["active", "expired", "deleted", "pending"] })),
        ("bundle_method", json!({ "enum": ["ubiquitous", "optimal", "force"] })),
        ("priority", number(0, None)),
        ("uploaded_on", text("RFC 3339")),
        ("modified_on", text("RFC 3339")),
        ("expires_on", text("RFC 3339")),
    ];
    let policy = [
        ("geo_restrictions", answer(&[("label", text("us, eu or highest_security"))], &[])),
        ("policy_restrictions", text("the policy, if there is one")),
    ];
    let token = [
        ("id", text("")),
        ("status", json!({ "enum": ["active"] })),
        ("expires_on", maybe(text("RFC 3339; null for never"))),
    ];
    vec![
        ("FacadeMessage", answer(&[("code", number(0, None)), ("message", text(""))], &[])),
        ("FacadeCertificate", answer(&certificate, &policy)),
        ("FacadeOne", envelope(reference("FacadeCertificate"), false)),
        ("FacadeList", envelope(list(reference("FacadeCertificate")), true)),
        ("FacadeGone", envelope(answer(&[("id", text(""))], &[]), false)),
        ("FacadeToken", envelope(answer(&token, &[]), false)),
        ("FacadeRefusal", envelope(json!({ "type": "null" }), false)),
    ]
}

fn refusals() -> Vec<(&'static str, Value)> {
    let place = answer(&[("start", number(0, None)), ("end", number(0, None))], &[]);
    let problem = answer(
        &[
            ("type", json!({ "type": "string", "enum": problem_types() })),
            ("title", text("the same for every problem of a type")),
            ("status", number(400, Some(599))),
            ("code", text("the type's last word; for `policy-syntax` the parser's own code")),
            ("detail", text("what is wrong with this request")),
            ("request_id", text("as in x-request-id and in the log")),
        ],
        &[("pointer", text("JSON pointer of the field")), ("span", place), ("hint", text("what to do"))],
    );
    vec![("Problem", problem)]
}
