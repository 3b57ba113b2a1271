//! The description of the interface, OpenAPI 3.1: made from the table of calls, kept as `authority/openapi.json`.
//!
//! Law: the table decides what exists; a test holds the file to it, and every code of a problem is in it.

mod schemas;

use serde_json::{Map, Value, json};

use super::Ask;
use super::answers::{Answer, Style};
use super::routes::{Call, Kind, ROUTES, Route};
use crate::problem::{CONTENT_TYPE, Code, Problem};

/// What is told of a call beside what the table says.
struct Told {
    summary: &'static str,
    /// The schema of the body it reads.
    request: Option<&'static str>,
    /// The schema of its answer.
    answer: &'static str,
    /// Does it answer 201?
    creates: bool,
    /// Parameters of the query.
    query: &'static [&'static str],
}

const fn told(summary: &'static str, answer: &'static str) -> Told {
    Told { summary, request: None, answer, creates: false, query: &[] }
}

impl Told {
    const fn reads(mut self, schema: &'static str) -> Self {
        self.request = Some(schema);
        self
    }

    const fn creates(mut self) -> Self {
        self.creates = true;
        self
    }

    const fn query(mut self, names: &'static [&'static str]) -> Self {
        self.query = names;
        self
    }
}

const PAGE: &[&str] = &["page", "per_page"];
const DRY_RUN: &[&str] = &["dry_run"];

fn tell(call: Call) -> Told {
    match call {
        Call::OpenApi => told("This description", "Any"),
        Call::CheckPolicy => told("What a policy would mean; stores nothing", "PolicyCheck").reads("PolicyQuestion"),
        Call::AddZone => told("Adds a zone", "Zone").reads("NewZone").creates(),
        Call::ListZones => told("Lists zones", "ZonePage").query(PAGE),
        Call::GetZone => told("Shows a zone", "Zone"),
        Call::ChangeZone => told("Changes a zone's domains or limits", "Zone").reads("ZoneChange"),
        Call::RemoveZone => told("Removes an empty zone and its tokens", "Gone"),
        Call::CreateToken => told("Makes a token; its text is shown once", "NewToken").reads("TokenRequest").creates(),
        Call::ListTokens => told("Lists a zone's tokens", "TokenList"),
        Call::RevokeToken => told("Revokes a token", "Gone"),
        Call::CreateOperatorToken => told("Makes an operator's token; its text is shown once", "NewToken")
            .reads("OperatorTokenRequest")
            .creates(),
        Call::ListOperatorTokens => told("Lists operators' tokens", "TokenList"),
        Call::RevokeOperatorToken => told("Revokes an operator's token", "Gone"),
        Call::CreateCertificate => {
            told("Stores a certificate and its key", "Uploaded").reads("Upload").creates().query(DRY_RUN)
        }
        Call::ListCertificates => told("Lists certificates", "CertificatePage").query(PAGE),
        Call::GetCertificate => told("Shows a certificate", "Certificate"),
        Call::ReplaceCertificate => {
            told("Replaces a certificate under its id; what is absent stays", "Uploaded").reads("Change").query(DRY_RUN)
        }
        Call::DeleteCertificate => told("Deletes a certificate", "Deleted"),
        Call::PutSecret => told("Stores or replaces a secret", "SecretPut").reads("SecretUpload"),
        Call::ListSecrets => told("Lists secrets, without what they hold", "SecretPage").query(PAGE),
        Call::GetSecret => told("Shows a secret, without what it holds", "Secret"),
        Call::DeleteSecret => told("Deletes a secret", "Deleted"),
        Call::FacadeCreate => told("Stores a certificate and its key", "FacadeOne").reads("FacadeUpload"),
        Call::FacadeList => told("Lists certificates", "FacadeList").query(PAGE),
        Call::FacadeGet => told("Shows a certificate", "FacadeOne"),
        Call::FacadeEdit => told("Changes a certificate; its id stays", "FacadeOne").reads("FacadeChange"),
        Call::FacadeDelete => told("Deletes a certificate", "FacadeGone"),
        Call::FacadeVerifyToken => told("Says whether the token is good", "FacadeToken"),
        Call::Enrol => told("Gives a machine its first certificate, for its token", "Enrolled").reads("Enrolment"),
        Call::MachineToken => told("Makes a machine's enrolment token; its text is shown once", "MachineToken")
            .reads("MachineTokenRequest"),
        Call::ListMachines => told("Lists machines", "MachinePage").query(&["after"]),
        Call::RevokeMachines => {
            told("Revokes machines, and says which keys they could open", "Revocation").reads("RevocationRequest")
        }
        Call::ListDataCenters => told("Lists data centres", "DataCenterList"),
        Call::Drain => told("Asks a data centre for nothing new", "Drained").reads("DrainRequest"),
        Call::Undrain => told("Takes a data centre back", "Drained").reads("UndrainRequest"),
        Call::GetSchema => told("Shows the attribute schema", "AttributeSchema"),
        Call::CheckSchema => told("Checks a schema file, without a change", "SchemaChecked").reads("SchemaFile"),
    }
}

/// The whole description, as the file keeps it.
///
/// # Panics
/// Never: it is JSON already.
pub fn text() -> String {
    let mut text = serde_json::to_string_pretty(&document()).expect("a value of JSON is JSON");
    text.push('\n');
    text
}

/// The whole description.
pub fn document() -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        let entry = paths.entry(route.path).or_insert_with(|| json!({}));
        entry[route.method.to_lowercase()] = operation(route);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Cinnabar authority",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Certificates and secrets of zones, each under a policy that says which machines may open \
                            it. Refusals are problem details (RFC 9457); under /client/v4 they come in that \
                            interface's envelope. docs/errors.md lists every code.",
        },
        "paths": paths,
        "components": {
            "securitySchemes": {
                "zoneToken": { "type": "http", "scheme": "bearer", "description": "a token of a zone" },
                "authKey": { "type": "apiKey", "in": "header", "name": "X-Auth-Key", "description": "the same token" },
                "authEmail": { "type": "apiKey", "in": "header", "name": "X-Auth-Email", "description": "any address" },
                "operatorToken": { "type": "http", "scheme": "bearer", "description": "an operator's token" },
                "operator": { "type": "mutualTLS", "description": "a certificate with the role operator" },
            },
            "schemas": schemas::all(),
            "responses": { "Problem": refusal(Style::Native), "FacadeProblem": refusal(Style::Facade) },
        },
    })
}

fn operation(route: &Route) -> Value {
    let Told { summary, request, answer, creates, query } = tell(route.call);
    let style = Style::of(route.path);
    let mut parameters: Vec<Value> = ["zone", "id", "name"]
        .iter()
        .filter(|name| route.path.contains(&format!("{{{name}}}")))
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
        .collect();
    parameters.extend(query.iter().map(|name| {
        let schema = match *name {
            "dry_run" => json!({ "type": "boolean" }),
            "after" => json!({ "type": "string" }),
            _ => schemas::number(1, None),
        };
        json!({ "name": name, "in": "query", "required": false, "schema": schema })
    }));
    let answered = json!({
        "description": summary,
        "headers": { "x-request-id": { "schema": { "type": "string" } } },
        "content": { "application/json": { "schema": schemas::reference(answer) } },
    });
    let mut responses = Map::new();
    if creates {
        responses.insert("201".to_owned(), answered.clone());
    }
    if !creates || query.contains(&"dry_run") {
        responses.insert("200".to_owned(), answered);
    }
    let refused = if style == Style::Native { "Problem" } else { "FacadeProblem" };
    for status in statuses(route) {
        responses.insert(status.to_string(), json!({ "$ref": format!("#/components/responses/{refused}") }));
    }
    let mut operation = json!({
        "operationId": name(route.call),
        "summary": summary,
        "tags": [if style == Style::Native { "native" } else { "facade" }],
        "security": security(route),
        "parameters": parameters,
    });
    if let Some(schema) = request {
        operation["requestBody"] =
            json!({ "required": true, "content": { "application/json": { "schema": schemas::reference(schema) } } });
    }
    operation["responses"] = responses.into();
    operation
}

/// The statuses of refusals that a call may give, ascending.
fn statuses(route: &Route) -> Vec<u16> {
    let mut statuses = vec![400, 404, 405, 413, 500, 503];
    // Who enrols has its credentials in the body.
    if !route.allows(Kind::Anonymous) || route.body {
        statuses.extend([401, 403, 429]);
    }
    if route.body {
        statuses.extend([408, 415, 422]);
    }
    if route.method != "GET" {
        statuses.push(409);
    }
    statuses.sort_unstable();
    statuses
}

fn security(route: &Route) -> Value {
    let mut security = Vec::new();
    if route.allows(Kind::Anonymous) {
        security.push(json!({}));
    }
    if route.allows(Kind::Zone) {
        security.push(json!({ "zoneToken": [] }));
        security.push(json!({ "authKey": [], "authEmail": [] }));
    }
    if route.allows(Kind::Operator) {
        security.push(json!({ "operator": [] }));
        security.push(json!({ "operatorToken": [] }));
    }
    security.into()
}

fn refusal(style: Style) -> Value {
    let (media_type, schema) = match style {
        Style::Native => (CONTENT_TYPE, "Problem"),
        Style::Facade => ("application/json", "FacadeRefusal"),
    };
    json!({
        "description": "Refused; nothing was changed unless the code is `unavailable`",
        "headers": {
            "x-request-id": { "schema": { "type": "string" } },
            "retry-after": { "description": "seconds; with 429 and 503", "schema": { "type": "integer" } },
            "allow": { "description": "with 405", "schema": { "type": "string" } },
        },
        "content": { media_type: { "schema": schemas::reference(schema) } },
    })
}

/// `checkPolicy` for [`Call::CheckPolicy`].
fn name(call: Call) -> String {
    let name = format!("{call:?}");
    let (first, rest) = name.split_at(1);
    format!("{}{rest}", first.to_lowercase())
}

pub(super) fn serve(ask: Ask) -> Result<Answer, Problem> {
    ask.query.finish()?;
    Answer::ok(&document())
}

/// The types of all problems, in the order of the page.
fn problem_types() -> Vec<String> {
    Code::ALL.iter().map(|code| format!("/errors/{}", code.as_str())).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn the_file_is_what_the_table_says() {
        let kept = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi.json")).unwrap();
        assert!(kept == text(), "cargo run -p cinnabar-authority --example openapi writes it anew");
    }

    #[test]
    fn every_route_and_every_code_is_described() {
        let document = document();
        let paths = document["paths"].as_object().unwrap();
        let described: usize = paths.values().map(|path| path.as_object().unwrap().len()).sum();
        assert_eq!(described, ROUTES.len());
        for route in ROUTES {
            let operation = &paths[route.path][route.method.to_lowercase()];
            assert_eq!(operation["requestBody"].is_object(), route.body, "{route:?}");
            assert!(operation["responses"].as_object().unwrap().len() > 5, "{route:?}");
        }
        let types = document["components"]["schemas"]["Problem"]["properties"]["type"]["enum"].as_array().unwrap();
        assert_eq!(types.len(), Code::ALL.len());
        let statuses: BTreeSet<u16> = ROUTES.iter().flat_map(statuses).collect();
        assert!(Code::ALL.iter().all(|code| statuses.contains(&code.status())));
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document();
        let text = text();
        for part in text.split("\"$ref\": \"#").skip(1) {
            let pointer = part.split('"').next().unwrap();
            assert!(document.pointer(pointer).is_some(), "{pointer}");
        }
    }
}
