//! The authority's HTTP interface: customers and operators, in JSON.
//!
//! The road of a request: [`routes`] finds the one row of the table that it means; [`callers`] says who calls, and the row
//! whether such a caller may; [`rates`] whether now; the body is read, bounded; a handler answers; [`answers`] makes the
//! answer, as problem details natively and in the envelope under `/client/v4`. [`https`] brings connections here.
//! Law: what no row allows is refused, and before that nothing is looked up that the answer could tell. A request that
//! reached its handler is worked to its end, also when its sender hangs up.

pub mod answers;
pub mod callers;
mod certificates;
mod facade;
pub mod https;
mod machines;
pub mod metrics;
pub mod openapi;
mod policies;
pub mod query;
pub mod rates;
pub mod routes;
mod secrets;
#[cfg(test)]
mod tests;
mod zones;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Version, header};
use axum::response::Response;
use bytes::Bytes;
use cinnabar_authority_api::ZoneId;
use cinnabar_daemon::{Env, PeerInfo};
use http_body_util::BodyExt;
use tokio::sync::Semaphore;
use tracing::Instrument;
use zeroize::{Zeroize, Zeroizing};

use self::answers::{Answer, Refusal, Style};
use self::callers::{Caller, Failure};
use self::query::Query;
use self::rates::Rates;
use self::routes::{Call, Cost, Found, Kind, Named, Route};
use crate::limits::{
    BODIES_MAX, BODY_BYTES_MAX, BODY_DISCARD_TIMEOUT_S, BODY_DISCARDED_BYTES_MAX, BODY_TIMEOUT_S, STRANGERS_MAX,
    TARGET_BYTES_MAX,
};
use crate::machines::Machines;
use crate::policies::Policies;
use crate::problem::{Code, Problem};
use crate::uploads::{Uploads, internal, not_found};
use crate::zones::Zones;

/// What answers are made with.
pub struct Api {
    /// Customers' certificates and secrets.
    pub uploads: Arc<Uploads>,
    /// Zones and their tokens.
    pub zones: Arc<Zones>,
    /// Machines, where they are served.
    pub machines: Option<Arc<Machines>>,
    env: Env,
    rates: Rates,
    bodies: Semaphore,
    /// Apart, so that nobody whom we do not know keeps customers waiting.
    strangers: Semaphore,
}

/// A request that may be answered: who asks, for what, with which words.
struct Ask {
    api: Arc<Api>,
    caller: Caller,
    named: Named,
    query: Query,
    body: Zeroizing<Vec<u8>>,
}

impl Api {
    /// An interface over these services. Describes its metrics.
    pub fn new(uploads: Arc<Uploads>, zones: Arc<Zones>, machines: Option<Arc<Machines>>) -> Arc<Self> {
        metrics::describe();
        let env = uploads.env.clone();
        let rates = Rates::new(env.clock.clone());
        let (bodies, strangers) = (Semaphore::new(BODIES_MAX), Semaphore::new(STRANGERS_MAX));
        Arc::new(Self { uploads, zones, machines, env, rates, bodies, strangers })
    }

    fn policies(&self) -> &Arc<Policies> {
        &self.uploads.policies
    }

    /// A name for a request, unlike all others.
    fn request_id(&self) -> String {
        let mut id = [0; 8];
        match self.env.rng.fill(&mut id) {
            Ok(()) => hex::encode(id),
            // The handler will say so, if it needs randomness; a name is not worth refusing for.
            Err(_) => "unnamed".to_owned(),
        }
    }
}

/// The whole interface. Every request passes one table; there is no other way in.
pub fn router(api: Arc<Api>) -> Router {
    Router::new().fallback(move |request: Request| answer(api.clone(), request))
}

async fn answer(api: Arc<Api>, request: Request) -> Response {
    let (clock, started) = (api.env.clock.clone(), api.env.clock.now());
    let id = api.request_id();
    let (parts, body) = request.into_parts();
    let style = Style::of(parts.uri.path());
    let head = parts.method == Method::HEAD;
    let found = routes::find(&parts.method, parts.uri.path());
    let route = if let Found::Route(route, _) = &found { Some(*route) } else { None };
    let span = tracing::info_span!("request", id = %id, call = route.map_or("none", |route| route.path));
    // A task of its own: a change that was begun comes to its end, and a panic ends nothing but this request.
    let work = tokio::spawn(serve(api, parts, body, found).instrument(span.clone()));
    let outcome = match work.await {
        Ok(outcome) => outcome,
        Err(error) => Err(Refusal::from(span.in_scope(|| internal("a handler ended early", &error)))),
    };
    let response = answers::response(outcome, style, &id, head);
    let status = response.status().as_u16();
    let took = clock.now().duration_since(started);
    metrics::count(route, status, took);
    span.in_scope(|| tracing::info!(status, took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX), "answered"));
    response
}

/// Does what is asked for. What is left of the body is taken in before the answer leaves.
async fn serve(api: Arc<Api>, parts: Parts, mut body: Body, found: Found) -> Result<Answer, Refusal> {
    let waits = parts.version >= Version::HTTP_2 || parts.headers.contains_key(header::EXPECT);
    let announced = announced(&parts.headers);
    let outcome = decide(api, parts, &mut body, found).await;
    if !waits && !body.is_end_stream() {
        discard(announced, body).await;
    }
    outcome
}

async fn decide(api: Arc<Api>, parts: Parts, body: &mut Body, found: Found) -> Result<Answer, Refusal> {
    let (route, named) = match found {
        Found::Route(route, named) => (route, named),
        Found::WrongMethod(allow) => {
            let detail = format!("This address takes {allow}.");
            return Err(Refusal::from(Problem::new(Code::MethodNotAllowed, detail)).allow(allow));
        }
        Found::Nothing => return Err(Problem::new(Code::NotFound, "There is no such address.").into()),
    };
    if parts.uri.path_and_query().is_some_and(|target| target.as_str().len() > TARGET_BYTES_MAX) {
        let detail = format!("Path and query have at most {TARGET_BYTES_MAX} bytes.");
        return Err(Problem::new(Code::RequestTooLarge, detail).into());
    }
    let peer = parts.extensions.get::<PeerInfo>();
    let source = peer.and_then(|peer| peer.peer_addr).map(|address| address.ip());
    let caller = admit(&api, route, &named, &parts.headers, peer)?;
    spend(&api, route, &caller)?;
    let query = Query::parse(parts.uri.query().unwrap_or_default())?;
    let _place = if route.body { Some(place(&api, &caller).await?) } else { None };
    let body = match route.body {
        true => {
            check_media_type(&parts.headers)?;
            read_body(&parts.headers, body).await?
        }
        false => Zeroizing::default(),
    };
    let answered = dispatch(route.call, Ask { api: api.clone(), caller, named, query, body }).await;
    match &answered {
        // A token in the body that is not valid is a failure like one in the head.
        Err(refusal) if refusal.problem().code() == Code::Unauthenticated => {
            metrics::count_failure();
            api.rates.failed(source)?;
            answered
        }
        _ => answered,
    }
}

/// Who calls, if the row lets such a caller in. Nothing is looked up but the token.
fn admit(
    api: &Api,
    route: &Route,
    named: &Named,
    headers: &HeaderMap,
    peer: Option<&PeerInfo>,
) -> Result<Caller, Refusal> {
    if route.allows(Kind::Anonymous) {
        return Ok(Caller::Anonymous);
    }
    let caller = match callers::identify(headers, peer, &api.zones) {
        Ok(caller) => caller,
        Err(Failure) => {
            metrics::count_failure();
            api.rates.failed(peer.and_then(|peer| peer.peer_addr).map(|address| address.ip()))?;
            let detail = "The token is not one of ours, was revoked, or has expired.";
            return Err(Problem::new(Code::Unauthenticated, detail).into());
        }
    };
    match &caller {
        Caller::Anonymous => Err(Problem::new(Code::Unauthenticated, "This address is not for everybody.").into()),
        _ if !route.allows(caller.kind()) => {
            Err(Problem::new(Code::Forbidden, "Callers of this kind may not do this.").into())
        }
        // Another's zone looks like none.
        Caller::Zone(holder) if named.zone.as_ref().is_some_and(|zone| *zone != holder.zone.as_str()) => {
            Err(not_found("zone").into())
        }
        _ => Ok(caller),
    }
}

/// Takes what the call costs from what its zone may do in a minute.
fn spend(api: &Api, route: &Route, caller: &Caller) -> Result<(), Refusal> {
    let Caller::Zone(holder) = caller else { return Ok(()) };
    match route.cost {
        Cost::Read => Ok(()),
        Cost::Check => api.rates.check(&holder.zone),
        Cost::Change => {
            let per_minute = {
                let directory = api.uploads.publisher.directory().read();
                directory.zones().get(&holder.zone).map_or(0, |zone| zone.limits.changes_per_minute)
            };
            api.rates.change(&holder.zone, per_minute)
        }
    }
}

async fn place<'a>(api: &'a Api, caller: &Caller) -> Result<tokio::sync::SemaphorePermit<'a>, Refusal> {
    let places = if *caller == Caller::Anonymous { &api.strangers } else { &api.bodies };
    match tokio::time::timeout(Duration::from_secs(BODY_TIMEOUT_S), places.acquire()).await {
        Ok(Ok(place)) => Ok(place),
        _ => Err(Problem::new(Code::Unavailable, "Too much is under way; nothing was done.").into()),
    }
}

fn check_media_type(headers: &HeaderMap) -> Result<(), Problem> {
    let said = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = said.split(';').next().unwrap_or_default().trim();
    if media_type.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Problem::new(Code::UnsupportedMediaType, "The body must be JSON.")
        .hint("send `Content-Type: application/json`"))
}

/// How many bytes the head announces.
fn announced(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok())
}

/// Wipes a piece of a body, which may hold a key, where nothing else has it.
fn wipe(piece: Bytes) {
    if let Ok(mut piece) = piece.try_into_mut() {
        piece.as_mut().zeroize();
    }
}

/// Takes in a body that nobody reads, or its rest. Over HTTP/1.1 most clients send all of it before they look for the answer,
/// and a connection that is closed with bytes unread takes the answer with it: they would see a broken connection.
async fn discard(announced: Option<u64>, mut body: Body) {
    if announced.is_some_and(|bytes| bytes > BODY_DISCARDED_BYTES_MAX) {
        return;
    }
    let taking = async {
        let mut left = BODY_DISCARDED_BYTES_MAX;
        while let Some(Ok(frame)) = body.frame().await {
            let Ok(piece) = frame.into_data() else { continue };
            let Some(rest) = left.checked_sub(piece.len() as u64) else { return };
            left = rest;
            wipe(piece);
        }
    };
    // Late or not, the answer leaves.
    let _ = tokio::time::timeout(Duration::from_secs(BODY_DISCARD_TIMEOUT_S), taking).await;
}

/// Reads a body into memory that is wiped. The pieces in which it came are wiped too, where nothing else holds them; TLS
/// and HTTP had them in buffers of their own before.
async fn read_body(headers: &HeaderMap, body: &mut Body) -> Result<Zeroizing<Vec<u8>>, Problem> {
    let too_large = || Problem::new(Code::RequestTooLarge, format!("A body has at most {BODY_BYTES_MAX} bytes."));
    let announced = announced(headers);
    if announced.is_some_and(|bytes| bytes > BODY_BYTES_MAX as u64) {
        return Err(too_large());
    }
    let reading = async {
        // The whole room from the start: growing would leave copies behind.
        let announced = announced.and_then(|bytes| usize::try_from(bytes).ok());
        let mut whole = Zeroizing::new(Vec::with_capacity(announced.unwrap_or(BODY_BYTES_MAX)));
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Problem::new(Code::MalformedJson, "The body did not come whole."))?;
            let Ok(piece) = frame.into_data() else { continue };
            if whole.len() + piece.len() > announced.unwrap_or(BODY_BYTES_MAX).min(BODY_BYTES_MAX) {
                return Err(too_large());
            }
            whole.extend_from_slice(&piece);
            wipe(piece);
        }
        Ok(whole)
    };
    let late = |_| Problem::new(Code::RequestTimeout, format!("A body has {BODY_TIMEOUT_S} s to arrive."));
    tokio::time::timeout(Duration::from_secs(BODY_TIMEOUT_S), reading).await.map_err(late)?
}

async fn dispatch(call: Call, ask: Ask) -> Result<Answer, Refusal> {
    let answered = match call {
        Call::OpenApi => openapi::serve(ask),
        Call::CheckPolicy => policies::check(ask).await,
        Call::AddZone => zones::add(ask).await,
        Call::ListZones => zones::list(ask),
        Call::GetZone => zones::get(ask),
        Call::ChangeZone => zones::change(ask).await,
        Call::RemoveZone => zones::remove(ask).await,
        Call::CreateToken => zones::create_token(ask).await,
        Call::ListTokens => zones::list_tokens(ask),
        Call::RevokeToken => zones::revoke_token(ask).await,
        Call::CreateOperatorToken => zones::create_operator_token(ask).await,
        Call::ListOperatorTokens => zones::list_operator_tokens(ask),
        Call::RevokeOperatorToken => zones::revoke_operator_token(ask).await,
        Call::CreateCertificate => certificates::create(ask).await,
        Call::ListCertificates => certificates::list(ask).await,
        Call::GetCertificate => certificates::get(ask).await,
        Call::ReplaceCertificate => certificates::replace(ask).await,
        Call::DeleteCertificate => certificates::delete(ask).await,
        Call::PutSecret => secrets::put(ask).await,
        Call::ListSecrets => secrets::list(ask),
        Call::GetSecret => secrets::get(ask),
        Call::DeleteSecret => secrets::delete(ask).await,
        Call::FacadeCreate => facade::create(ask).await,
        Call::FacadeList => facade::list(ask).await,
        Call::FacadeGet => facade::get(ask).await,
        Call::FacadeEdit => facade::edit(ask).await,
        Call::FacadeDelete => facade::delete(ask).await,
        Call::FacadeVerifyToken => facade::verify_token(ask),
        Call::Enrol => machines::enrol(ask).await,
        Call::MachineToken => machines::token(ask).await,
        Call::ListMachines => machines::list(ask),
        Call::RevokeMachines => machines::revoke(ask).await,
        Call::ListDataCenters => machines::data_centers(ask),
        Call::Drain => machines::drain(ask).await,
        Call::Undrain => machines::undrain(ask).await,
        Call::GetSchema => machines::schema(ask),
        Call::CheckSchema => machines::check_schema(ask),
    };
    answered.map_err(Refusal::from)
}

impl Ask {
    /// The zone of the path. One that cannot be is one that is not there.
    fn zone(&self) -> Result<ZoneId, Problem> {
        let zone = self.named.zone.as_deref().unwrap_or_default();
        zone.parse().map_err(|_| not_found("zone"))
    }

    /// The last name of the path.
    fn name<T: std::str::FromStr>(&self, what: &'static str) -> Result<T, Problem> {
        self.named.name.as_deref().unwrap_or_default().parse().map_err(|_| not_found(what))
    }

    fn actor(&self) -> String {
        self.caller.actor()
    }
}
