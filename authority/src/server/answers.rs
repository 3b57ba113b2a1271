//! Answers as they leave: JSON, never stored on the way, with the request's id; refusals in the style of their address.
//!
//! Law: whatever goes wrong, the answer is of its style: problem details natively, the envelope under `/client/v4`.

use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::Serialize;

use crate::facade::Envelope;
use crate::problem::{self, Code, Problem};
use crate::uploads::internal;

/// Seconds after which it is worth asking again when we could not.
const UNAVAILABLE_RETRY_S: u64 = 5;
/// The request's id, on every answer.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// In whose words refusals are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Ours.
    Native,
    /// The facade's.
    Facade,
}

impl Style {
    /// The style of an address.
    pub fn of(path: &str) -> Self {
        let facade = path.strip_prefix("/client/v4").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if facade { Self::Facade } else { Self::Native }
    }
}

/// What was asked for.
#[derive(Debug)]
pub struct Answer {
    status: StatusCode,
    body: Vec<u8>,
    location: Option<String>,
}

impl Answer {
    /// It is there, or was done.
    ///
    /// # Errors
    /// `internal` for what has no JSON.
    pub fn ok(value: &impl Serialize) -> Result<Self, Problem> {
        let body = serde_json::to_vec(value).map_err(|error| internal("an answer", &error))?;
        Ok(Self { status: StatusCode::OK, body, location: None })
    }

    /// It was made, and stands there from now on.
    ///
    /// # Errors
    /// `internal` for what has no JSON.
    pub fn created(value: &impl Serialize, location: String) -> Result<Self, Problem> {
        Ok(Self { status: StatusCode::CREATED, location: Some(location), ..Self::ok(value)? })
    }
}

/// Why not, and what the answer's head says about it.
#[derive(Debug, Clone)]
pub struct Refusal {
    problem: Problem,
    retry_after_s: Option<u64>,
    allow: Option<String>,
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        let retry_after_s = (problem.code() == Code::Unavailable).then_some(UNAVAILABLE_RETRY_S);
        Self { problem, retry_after_s, allow: None }
    }
}

impl Refusal {
    /// Says when to come back, in seconds.
    #[must_use]
    pub fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// Says which methods the address takes.
    #[must_use]
    pub fn allow(mut self, methods: String) -> Self {
        self.allow = Some(methods);
        self
    }

    /// Why.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    fn body(&self, style: Style, id: &str) -> Vec<u8> {
        let problem = self.problem.clone().request_id(id);
        let said = match style {
            Style::Native => serde_json::to_vec(&problem),
            Style::Facade if problem.code() == Code::FewHolders => {
                // The facade has no field to acknowledge with.
                let hint = "Widen the policy, or upload natively, where it can be acknowledged.";
                serde_json::to_vec(&Envelope::refused(&problem.hint(hint)))
            }
            Style::Facade => serde_json::to_vec(&Envelope::refused(&problem)),
        };
        said.unwrap_or_default()
    }
}

/// The answer's bytes and head. `head`: its body is left out.
pub fn response(outcome: Result<Answer, Refusal>, style: Style, id: &str, head: bool) -> Response {
    let (status, media_type, body, extra) = match outcome {
        Ok(answer) => {
            let location = answer.location.map(|location| (header::LOCATION, location));
            (answer.status, "application/json", answer.body, [location, None, None])
        }
        Err(refusal) => {
            let status = StatusCode::from_u16(refusal.problem.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let media_type = if style == Style::Native { problem::CONTENT_TYPE } else { "application/json" };
            let body = refusal.body(style, id);
            let challenge = (status == StatusCode::UNAUTHORIZED).then(|| "Bearer".to_owned());
            let extra = [
                refusal.allow.map(|methods| (header::ALLOW, methods)),
                refusal.retry_after_s.map(|seconds| (header::RETRY_AFTER, seconds.to_string())),
                challenge.map(|scheme| (header::WWW_AUTHENTICATE, scheme)),
            ];
            (status, media_type, body, extra)
        }
    };
    let mut response = Response::new(if head { Body::empty() } else { Body::from(body) });
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, media_type),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let named = [Some((REQUEST_ID, id.to_owned()))];
    for (name, value) in extra.into_iter().chain(named).flatten() {
        // What is no header value is left out; all of these are words, numbers and addresses of ours.
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    }
    response
}
