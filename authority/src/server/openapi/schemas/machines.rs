//! The schemas of the calls for machines, data centres and the attribute schema.

use serde_json::{Value, json};

use super::{answer, flag, list, maybe, number, object, reference, request, text};

/// Bodies of requests.
pub(super) fn requests() -> Vec<(&'static str, Value)> {
    let dry_run = || ("dry_run", flag());
    let reason = ("reason", text("why; kept in the record"));
    vec![
        (
            "Enrolment",
            request(
                &[
                    ("token", json!({ "type": "string", "writeOnly": true, "description": "the secret of its token" })),
                    ("csr", text("a certificate signing request, PEM")),
                ],
                &[],
            ),
        ),
        ("MachineTokenRequest", request(&[("machine", text("its id in the inventory"))], &[])),
        (
            "RevocationRequest",
            request(
                &[reason],
                &[
                    ("machines", list(text("a machine's id"))),
                    ("policy", text("in place of `machines`: those that satisfy it")),
                    dry_run(),
                ],
            ),
        ),
        (
            "DrainRequest",
            request(
                &[("data_center", text("its id"))],
                &[
                    ("force", json!({ "type": "boolean", "description": "also when a key loses its last holder" })),
                    dry_run(),
                ],
            ),
        ),
        ("UndrainRequest", request(&[("data_center", text("its id"))], &[dry_run()])),
        ("SchemaFile", request(&[("schema", text("the file, TOML"))], &[])),
    ]
}

fn machine() -> Value {
    let state = json!({ "enum": ["revoked", "not-enrolled", "live", "draining"] });
    let revoked = [("at_ms", number(0, None)), ("reason", text("the operator's words"))];
    let report = [
        ("applied_index", number(0, None)),
        ("generation", number(0, None)),
        ("schema", number(0, None)),
        ("version", text("of its program")),
        ("at_ms", number(0, None)),
    ];
    let fields = [
        ("id", text("")),
        ("data_center", maybe(text("where it stands"))),
        ("state", state),
        ("revoked", maybe(answer(&revoked, &[]))),
        ("issued", list(number(1, None))),
        ("reissue", flag()),
        ("address", text("of its signer; empty when none is known")),
        ("report", maybe(answer(&report, &[]))),
    ];
    answer(&fields, &[])
}

fn blast_radius() -> Value {
    let policy = [
        ("id", text("hexadecimal")),
        ("canonical", text("the policy in its one form")),
        ("versions", list(number(1, None))),
        ("machines", number(0, None)),
    ];
    let certificate = [("zone", text("")), ("id", text("")), ("hostnames", list(text("a hostname")))];
    let secret = [("zone", text("")), ("name", text(""))];
    let fields = [
        ("policies", list(answer(&policy, &[]))),
        ("certificates", list(answer(&certificate, &[]))),
        ("secrets", list(answer(&secret, &[]))),
    ];
    answer(&fields, &[])
}

fn effect() -> Value {
    let fields = [
        ("policy", text("its id, hexadecimal")),
        ("canonical", text("the policy in its one form")),
        ("before", number(0, None)),
        ("after", number(0, None)),
        ("least", number(0, None)),
        ("keys", number(0, None)),
        ("zones", list(text("a zone"))),
    ];
    answer(&fields, &[])
}

/// Answers.
pub(super) fn answers() -> Vec<(&'static str, Value)> {
    let token =
        [("id", text("")), ("machine", text("")), ("token", text("shown this once")), ("expires_on", text("RFC 3339"))];
    let machines = || list(text("a machine's id"));
    let revocation = [
        ("machines", machines()),
        ("already", machines()),
        ("blast_radius", blast_radius()),
        ("index", number(0, None)),
    ];
    let drained = [("machines", number(0, None)), ("effects", list(effect())), ("index", number(0, None))];
    let center =
        [("id", text("")), ("country", text("ISO 3166-1")), ("machines", number(0, None)), ("live", number(0, None))];
    let label = object(
        &[("kind", json!({ "enum": ["country", "data_center", "values", "set"] }))],
        &[("values", list(text("a value"))), ("default", maybe(text("a value"))), ("members", list(text("a member")))],
        false,
    );
    let labels = || json!({ "type": "object", "additionalProperties": label });
    let schema = [("version", number(1, None)), ("labels", labels()), ("not_issued_everywhere", list(text("a label")))];
    vec![
        ("Enrolled", answer(&[("certificate", text("PEM")), ("ca", text("PEM"))], &[])),
        ("MachineToken", answer(&token, &[])),
        ("Machine", machine()),
        (
            "MachinePage",
            answer(&[("machines", list(reference("Machine"))), ("next", maybe(text("`after` of the next page")))], &[]),
        ),
        ("Revocation", answer(&revocation, &[])),
        ("DataCenterList", answer(&[("data_centers", list(answer(&center, &[])))], &[])),
        ("Drained", answer(&drained, &[])),
        ("AttributeSchema", answer(&schema, &[])),
        ("SchemaChecked", answer(&[("labels", labels()), ("changes", flag())], &[])),
    ]
}
