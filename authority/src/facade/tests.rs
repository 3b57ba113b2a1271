//! The shapes as scripts and SDKs send and expect them.

use std::collections::HashSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::timestamp::rfc3339;

fn create(body: &Value) -> Result<CreateRequest, Problem> {
    CreateRequest::parse(body.to_string().as_bytes())
}

/// A body with the two fields that must be there, and others.
fn body(others: Value) -> Value {
    let mut body = json!({"certificate": "CERT", "private_key": "KEY"});
    body.as_object_mut().unwrap().extend(others.as_object().unwrap().clone());
    body
}

#[track_caller]
fn refused(others: Value, code: Code, pointer: &str) -> Problem {
    let problem = create(&body(others)).map(|_| "taken").unwrap_err();
    assert_eq!((problem.code(), problem.pointer()), (code, Some(pointer)), "{problem:?}");
    assert_eq!(problem.status(), 400);
    problem
}

#[track_caller]
fn policy_of(others: Value) -> Option<PolicyText> {
    create(&body(others)).unwrap_or_else(|problem| panic!("{problem:?}")).policy
}

#[test]
fn a_published_call_is_taken_as_it_is() {
    let request = create(&body(json!({"policy": "(country: US) or (region: EU)", "type": "sni_custom"}))).unwrap();
    assert_eq!(request.certificate, "CERT");
    assert_eq!(request.private_key.expose(), "KEY");
    let policy = PolicyText { text: "(country: US) or (region: EU)".to_owned(), pointer: "/policy" };
    assert_eq!(request.policy, Some(policy));
    assert_eq!(request.bundle_method, BundleMethod::Ubiquitous);
    assert!(!format!("{request:?}").contains("KEY"));
}

#[test]
fn a_policy_has_two_names_and_three_presets() {
    let text = |others: Value| policy_of(others).map(|policy| (policy.text, policy.pointer));
    assert_eq!(text(json!({})), None);
    assert_eq!(text(json!({"policy": null, "geo_restrictions": null})), None);
    let policy = Some(("country: IN".to_owned(), "/policy_restrictions"));
    assert_eq!(text(json!({"policy_restrictions": "country: IN"})), policy);
    let both = json!({"policy": "country: IN", "policy_restrictions": "country: IN"});
    assert_eq!(text(both).unwrap().1, "/policy");
    for (label, policy) in [("us", "country: US"), ("eu", "region: EU"), ("highest_security", "tier: highest")] {
        let preset = Some((policy.to_owned(), "/geo_restrictions/label"));
        assert_eq!(text(json!({"geo_restrictions": {"label": label}})), preset);
        assert_eq!(GeoRestrictions::of_policy(policy), Some(GeoRestrictions { label }));
        cinnabar_abe::Policy::parse(policy).unwrap();
    }
    assert_eq!(GeoRestrictions::of_policy("country: DE"), None);
}

#[test]
fn fields_that_contradict_each_other_are_refused() {
    let differ = json!({"policy": "country: IN", "policy_restrictions": "country: US"});
    refused(differ, Code::ExclusiveFields, "/policy_restrictions");
    for name in ["policy", "policy_restrictions"] {
        let both = json!({name: "country: IN", "geo_restrictions": {"label": "eu"}});
        let problem = refused(both, Code::ExclusiveFields, "/geo_restrictions");
        assert!(problem.detail().contains(&format!("`{name}`")));
        assert!(problem.advice().unwrap().contains("region: EU"));
    }
}

#[test]
fn an_empty_or_unknown_word_is_named_with_those_that_would_do() {
    let empty = refused(json!({"geo_restrictions": {"label": ""}}), Code::InvalidField, "/geo_restrictions/label");
    assert_eq!(empty.detail(), "`label` is empty.");
    assert!(empty.advice().unwrap().contains("us, eu, highest_security"));
    refused(json!({"geo_restrictions": {"label": "EU"}}), Code::InvalidField, "/geo_restrictions/label");
    refused(json!({"geo_restrictions": {}}), Code::MissingField, "/geo_restrictions/label");
    refused(json!({"geo_restrictions": "eu"}), Code::InvalidField, "/geo_restrictions");
    refused(json!({"geo_restrictions": {"label": "eu", "x": 1}}), Code::UnknownField, "/geo_restrictions/x");
    refused(json!({"type": "sni"}), Code::InvalidField, "/type");
    refused(json!({"bundle_method": "best"}), Code::InvalidField, "/bundle_method");
    refused(json!({"deploy": "staging"}), Code::InvalidField, "/deploy");
    refused(json!({"policy": 1}), Code::InvalidField, "/policy");
}

#[test]
fn a_field_that_is_not_known_is_never_dropped() {
    refused(json!({"polciy": "region: EU"}), Code::UnknownField, "/polciy");
    refused(json!({"custom_csr_id": "7b163417"}), Code::InvalidField, "/custom_csr_id");
    let sdk = json!({"bundle_method": "force", "type": "legacy_custom", "deploy": "production", "custom_csr_id": null});
    assert_eq!(create(&body(sdk)).unwrap().bundle_method, BundleMethod::Force);
}

#[test]
fn a_new_certificate_needs_both_halves_and_an_edit_neither() {
    for missing in ["certificate", "private_key"] {
        let mut incomplete = body(json!({}));
        incomplete.as_object_mut().unwrap().remove(missing);
        let problem = create(&incomplete).map(|_| "taken").unwrap_err();
        assert_eq!(problem.code(), Code::MissingField);
        assert_eq!(problem.pointer(), Some(format!("/{missing}").as_str()));
    }
    let edit = EditRequest::parse(br#"{"policy":"country: IN"}"#).unwrap();
    assert!(edit.certificate.is_none() && edit.private_key.is_none() && edit.bundle_method.is_none());
    assert_eq!(edit.policy.unwrap().text, "country: IN");
    assert!(EditRequest::parse(b"{}").unwrap().policy.is_none());
    assert_eq!(EditRequest::parse(br#"{"x":1}"#).map(|_| "taken").unwrap_err().code(), Code::UnknownField);
}

#[test]
fn an_answer_has_the_original_shape() {
    let result = CertificateResult {
        id: "c1".to_owned(),
        zone_id: "z1".to_owned(),
        hosts: vec!["example.com".parse().unwrap()],
        issuer: "Example CA".to_owned(),
        signature: "SHA256WithRSA".to_owned(),
        status: Status::Active,
        bundle_method: BundleMethod::Ubiquitous,
        priority: 0,
        uploaded_on: rfc3339(0),
        modified_on: rfc3339(951_827_696),
        expires_on: rfc3339(1_800_000_000),
        geo_restrictions: GeoRestrictions::of_policy("region: EU"),
        policy_restrictions: Some("region: EU".to_owned()),
    };
    let expected = json!({
        "success": true, "errors": [], "messages": [],
        "result": {
            "id": "c1", "zone_id": "z1", "hosts": ["example.com"], "issuer": "Example CA",
            "signature": "SHA256WithRSA", "status": "active", "bundle_method": "ubiquitous", "priority": 0,
            "uploaded_on": "1970-01-01T00:00:00Z", "modified_on": "2000-02-29T12:34:56Z",
            "expires_on": "2027-01-15T08:00:00Z",
            "geo_restrictions": {"label": "eu"}, "policy_restrictions": "region: EU",
        },
    });
    assert_eq!(serde_json::to_value(Envelope::done(result)).unwrap(), expected);
}

#[test]
fn a_list_is_cut_into_pages_and_ends_with_an_empty_one() {
    let paging = Paging::parse(Some("2"), Some("5")).unwrap();
    assert_eq!(paging.range(12), 5..10);
    let page = serde_json::to_value(Envelope::page(vec![1, 2, 3, 4, 5], paging, 12)).unwrap();
    let info = json!({"page": 2, "per_page": 5, "count": 5, "total_count": 12, "total_pages": 3});
    assert_eq!(page["result_info"], info);
    assert_eq!(Paging { page: 3, ..paging }.range(12), 10..12);
    for page in [4, u32::MAX] {
        assert_eq!(Paging { page, ..paging }.range(12), 12..12);
    }
    assert_eq!(Paging::parse(None, None).unwrap(), Paging { page: 1, per_page: PAGE_LEN_DEFAULT });
    for (page, per_page) in
        [(Some("0"), None), (Some("-1"), None), (None, Some("0")), (None, Some("51")), (Some("x"), None)]
    {
        assert_eq!(Paging::parse(page, per_page).unwrap_err().code(), Code::InvalidField);
    }
}

#[test]
fn an_error_carries_number_code_field_and_hint() {
    let problem =
        Problem::new(Code::HostnameOutsideZone, "`a.example` is not in zone z1.").at("/certificate").hint("h");
    let expected = json!({
        "success": false,
        "errors": [{
            "code": 2103,
            "message": "[hostname-outside-zone] `a.example` is not in zone z1. (field: /certificate) (hint: h)",
        }],
        "messages": [],
        "result": null,
    });
    assert_eq!(serde_json::to_value(Envelope::refused(&problem)).unwrap(), expected);
    let syntax = Problem::new(Code::PolicySyntax, "This part would be ignored.").spoken_as("left-over");
    let refused = Envelope::refused(&syntax);
    assert_eq!(refused.errors[0].code, 80_030);
    assert!(refused.errors[0].message.starts_with("[left-over] "), "{:?}", refused.errors);
}

#[test]
fn no_two_codes_share_one_of_our_own_numbers() {
    let own: Vec<u32> = Code::ALL.iter().map(|code| number(*code)).filter(|number| *number >= 80_000).collect();
    assert_eq!(own.iter().collect::<HashSet<_>>().len(), own.len());
    let theirs: HashSet<u32> = Code::ALL.iter().map(|code| number(*code)).filter(|number| *number < 80_000).collect();
    assert_eq!(theirs, HashSet::from([1002, 1212, 1220, 2100, 2101, 2103, 2106]));
}

proptest! {
    #[test]
    fn no_body_panics(text in "\\PC*", bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let _ = create(&json!({"certificate": text, "private_key": text, "policy": text, "geo_restrictions": {"label": text}}));
        let _ = EditRequest::parse(text.as_bytes());
        let _ = CreateRequest::parse(&bytes);
    }
}
