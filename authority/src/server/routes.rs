//! The table of calls: method, address, who may, what it costs. What is not in it does not exist.
//!
//! Law: default deny. A row names every kind of caller that it lets in; a test goes through all cells.

use axum::http::Method;
use percent_encoding::percent_decode_str;

/// Kinds of callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Nobody we know.
    Anonymous,
    /// Who holds a zone's token.
    Zone,
    /// Who has an operator's certificate or token.
    Operator,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Anonymous, Self::Zone, Self::Operator];
}

/// What a call takes from its zone's minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cost {
    /// Nothing.
    Read,
    /// One policy check.
    Check,
    /// One change.
    Change,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the table says what each is")]
pub enum Call {
    OpenApi,
    CheckPolicy,
    AddZone,
    ListZones,
    GetZone,
    ChangeZone,
    RemoveZone,
    CreateToken,
    ListTokens,
    RevokeToken,
    CreateOperatorToken,
    ListOperatorTokens,
    RevokeOperatorToken,
    CreateCertificate,
    ListCertificates,
    GetCertificate,
    ReplaceCertificate,
    DeleteCertificate,
    PutSecret,
    ListSecrets,
    GetSecret,
    DeleteSecret,
    FacadeCreate,
    FacadeList,
    FacadeGet,
    FacadeEdit,
    FacadeDelete,
    FacadeVerifyToken,
    Enrol,
    MachineToken,
    ListMachines,
    RevokeMachines,
    ListDataCenters,
    Drain,
    Undrain,
    GetSchema,
    CheckSchema,
}

/// A row.
#[derive(Debug)]
pub struct Route {
    /// The method, in capitals.
    pub method: &'static str,
    /// The address; `{zone}` and a last `{id}` or `{name}` stand for one segment each.
    pub path: &'static str,
    /// What it does.
    pub call: Call,
    /// Who may.
    pub who: &'static [Kind],
    /// What it costs.
    pub cost: Cost,
    /// Does it read a body?
    pub body: bool,
}

impl Route {
    /// May such a caller?
    pub fn allows(&self, kind: Kind) -> bool {
        self.who.contains(&kind)
    }
}

const EVERYBODY: &[Kind] = &Kind::ALL;
const CALLERS: &[Kind] = &[Kind::Zone, Kind::Operator];
const CUSTOMERS: &[Kind] = &[Kind::Zone];
const OPERATORS: &[Kind] = &[Kind::Operator];

const fn read(path: &'static str, call: Call, who: &'static [Kind]) -> Route {
    Route { method: "GET", path, call, who, cost: Cost::Read, body: false }
}

const fn send(method: &'static str, path: &'static str, call: Call, who: &'static [Kind]) -> Route {
    Route { method, path, call, who, cost: Cost::Change, body: true }
}

const fn remove(path: &'static str, call: Call, who: &'static [Kind]) -> Route {
    Route { method: "DELETE", path, call, who, cost: Cost::Change, body: false }
}

const fn check(path: &'static str, call: Call, who: &'static [Kind]) -> Route {
    Route { method: "POST", path, call, who, cost: Cost::Check, body: true }
}

const ZONES: &str = "/v1/zones";
const ZONE: &str = "/v1/zones/{zone}";
const TOKENS: &str = "/v1/zones/{zone}/tokens";
const TOKEN: &str = "/v1/zones/{zone}/tokens/{id}";
const OPERATOR_TOKENS: &str = "/v1/operator_tokens";
const OPERATOR_TOKEN: &str = "/v1/operator_tokens/{id}";
const CERTIFICATES: &str = "/v1/zones/{zone}/certificates";
const CERTIFICATE: &str = "/v1/zones/{zone}/certificates/{id}";
const SECRETS: &str = "/v1/zones/{zone}/secrets";
const SECRET: &str = "/v1/zones/{zone}/secrets/{name}";
const FACADE: &str = "/client/v4/zones/{zone}/custom_certificates";
const FACADE_ONE: &str = "/client/v4/zones/{zone}/custom_certificates/{id}";

/// The table.
pub const ROUTES: &[Route] = &[
    read("/v1/openapi.json", Call::OpenApi, EVERYBODY),
    check("/v1/policies:check", Call::CheckPolicy, CALLERS),
    send("POST", ZONES, Call::AddZone, OPERATORS),
    read(ZONES, Call::ListZones, OPERATORS),
    read(ZONE, Call::GetZone, CALLERS),
    send("PATCH", ZONE, Call::ChangeZone, OPERATORS),
    remove(ZONE, Call::RemoveZone, OPERATORS),
    send("POST", TOKENS, Call::CreateToken, OPERATORS),
    read(TOKENS, Call::ListTokens, OPERATORS),
    remove(TOKEN, Call::RevokeToken, OPERATORS),
    send("POST", OPERATOR_TOKENS, Call::CreateOperatorToken, OPERATORS),
    read(OPERATOR_TOKENS, Call::ListOperatorTokens, OPERATORS),
    remove(OPERATOR_TOKEN, Call::RevokeOperatorToken, OPERATORS),
    send("POST", CERTIFICATES, Call::CreateCertificate, CALLERS),
    read(CERTIFICATES, Call::ListCertificates, CALLERS),
    read(CERTIFICATE, Call::GetCertificate, CALLERS),
    send("PUT", CERTIFICATE, Call::ReplaceCertificate, CALLERS),
    remove(CERTIFICATE, Call::DeleteCertificate, CALLERS),
    read(SECRETS, Call::ListSecrets, CALLERS),
    send("PUT", SECRET, Call::PutSecret, CALLERS),
    read(SECRET, Call::GetSecret, CALLERS),
    remove(SECRET, Call::DeleteSecret, CALLERS),
    send("POST", FACADE, Call::FacadeCreate, CUSTOMERS),
    read(FACADE, Call::FacadeList, CUSTOMERS),
    read(FACADE_ONE, Call::FacadeGet, CUSTOMERS),
    send("PATCH", FACADE_ONE, Call::FacadeEdit, CUSTOMERS),
    remove(FACADE_ONE, Call::FacadeDelete, CUSTOMERS),
    read("/client/v4/user/tokens/verify", Call::FacadeVerifyToken, CUSTOMERS),
    send("POST", "/v1/enrol", Call::Enrol, EVERYBODY),
    send("POST", "/v1/machine_tokens", Call::MachineToken, OPERATORS),
    read("/v1/machines", Call::ListMachines, OPERATORS),
    send("POST", "/v1/machines:revoke", Call::RevokeMachines, OPERATORS),
    read("/v1/data_centers", Call::ListDataCenters, OPERATORS),
    send("POST", "/v1/data_centers:drain", Call::Drain, OPERATORS),
    send("POST", "/v1/data_centers:undrain", Call::Undrain, OPERATORS),
    read("/v1/schema", Call::GetSchema, CALLERS),
    send("POST", "/v1/schema:check", Call::CheckSchema, OPERATORS),
];

/// What a path names; decoded, not yet believed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Named {
    /// The zone.
    pub zone: Option<String>,
    /// The thing in it.
    pub name: Option<String>,
}

/// What a request means.
#[derive(Debug)]
pub enum Found {
    /// This row.
    Route(&'static Route, Named),
    /// An address of ours with another method; these it takes.
    WrongMethod(String),
    /// No address of ours.
    Nothing,
}

/// Looks a request up. `HEAD` is `GET` whose body is not sent.
pub fn find(method: &Method, path: &str) -> Found {
    let method = if method == Method::HEAD { "GET" } else { method.as_str() };
    let mut allow = Vec::new();
    for route in ROUTES {
        let Some(named) = fits(route.path, path) else { continue };
        if route.method == method {
            return Found::Route(route, named);
        }
        allow.push(route.method);
    }
    if allow.contains(&"GET") {
        allow.push("HEAD");
    }
    if allow.is_empty() { Found::Nothing } else { Found::WrongMethod(allow.join(", ")) }
}

fn fits(pattern: &str, path: &str) -> Option<Named> {
    let mut named = Named::default();
    let mut segments = path.split('/');
    for expected in pattern.split('/') {
        let segment = percent_decode_str(segments.next()?).decode_utf8().ok()?;
        match expected {
            "{zone}" if !segment.is_empty() => named.zone = Some(segment.into_owned()),
            "{id}" | "{name}" if !segment.is_empty() => named.name = Some(segment.into_owned()),
            _ if segment == expected && !expected.starts_with('{') => {}
            _ => return None,
        }
    }
    segments.next().is_none().then_some(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(method: &str, path: &str) -> Found {
        find(&Method::from_bytes(method.as_bytes()).unwrap(), path)
    }

    #[test]
    fn a_request_means_one_row_or_none() {
        for (n, route) in ROUTES.iter().enumerate() {
            assert!(ROUTES[..n].iter().all(|other| (other.method, other.path) != (route.method, route.path)));
            assert!(ROUTES[..n].iter().all(|other| other.call != route.call), "{route:?}");
            let path = route.path.replace("{zone}", "z").replace("{id}", "i").replace("{name}", "i");
            let Found::Route(row, named) = found(route.method, &path) else { panic!("{route:?}") };
            assert_eq!(row.call, route.call);
            assert_eq!(named.zone.is_some(), route.path.contains("{zone}"));
            assert_eq!(named.name.is_some(), route.path.ends_with('}') && !route.path.ends_with("{zone}"));
        }
        for nothing in ["/", "", "/v1", "/v1/zones/", "/v1//z", "/V1/zones", "/v1/zones/z/keys", "/v1/zones/{zone}x/y"]
        {
            assert!(matches!(found("GET", nothing), Found::Nothing), "{nothing}");
        }
    }

    #[test]
    fn an_address_says_which_methods_it_takes() {
        let Found::WrongMethod(allow) = found("POST", "/v1/zones/z/certificates/i") else { panic!() };
        assert_eq!(allow, "GET, PUT, DELETE, HEAD");
        assert!(matches!(found("HEAD", "/v1/zones"), Found::Route(route, _) if route.call == Call::ListZones));
        assert!(matches!(found("BREW", "/v1/zones"), Found::WrongMethod(_)));
    }

    #[test]
    fn escapes_mean_the_characters_that_they_stand_for() {
        assert!(matches!(found("POST", "/v1/policies%3Acheck"), Found::Route(..)));
        let Found::Route(_, named) = found("GET", "/v1/zones/a%2Fb") else { panic!() };
        assert_eq!(named.zone.as_deref(), Some("a/b"));
        assert!(matches!(found("GET", "/v1/zones/%ff"), Found::Nothing));
    }
}
