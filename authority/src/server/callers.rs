//! Who calls: an operator by the certificate of its connection or a token, a zone by a token, or nobody.
//!
//! Law: credentials that are sent and are not valid are a failure, never "nobody"; those in the request speak louder than
//! those of the connection. Of two places for a token, `Authorization` counts.

use axum::http::{HeaderMap, header};
use cinnabar_daemon::{PeerInfo, Role};

use super::routes::Kind;
use crate::zones::{Holder, Shown, Zones};

/// A caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// Nobody we know.
    Anonymous,
    /// A zone's program.
    Zone(Holder),
    /// An operator, by name.
    Operator(String),
}

/// Credentials that are not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure;

impl Caller {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Anonymous => Kind::Anonymous,
            Self::Zone(_) => Kind::Zone,
            Self::Operator(_) => Kind::Operator,
        }
    }

    /// As the audit log names it.
    pub fn actor(&self) -> String {
        match self {
            Self::Anonymous => "nobody".to_owned(),
            Self::Zone(holder) => format!("zone {} by token {}", holder.zone, holder.token),
            Self::Operator(name) => format!("operator {name}"),
        }
    }
}

/// Says who calls.
///
/// # Errors
/// [`Failure`] for credentials that are not valid.
pub fn identify(headers: &HeaderMap, peer: Option<&PeerInfo>, zones: &Zones) -> Result<Caller, Failure> {
    if let Some(token) = token(headers)? {
        return match zones.authenticate(token).ok_or(Failure)? {
            Shown::Zone(holder) => Ok(Caller::Zone(holder)),
            Shown::Operator(name) => Ok(Caller::Operator(name)),
        };
    }
    match peer.and_then(|peer| peer.require(&[Role::Operator]).ok()) {
        Some(operator) => Ok(Caller::Operator(operator.name.to_string())),
        None => Ok(Caller::Anonymous),
    }
}

/// The token of a request, from `Authorization: Bearer`, or from `X-Auth-Key` with `X-Auth-Email` beside it.
fn token(headers: &HeaderMap) -> Result<Option<&str>, Failure> {
    if let Some(value) = one(headers, header::AUTHORIZATION.as_str())? {
        let (scheme, token) = value.split_once(' ').ok_or(Failure)?;
        return if scheme.eq_ignore_ascii_case("bearer") { Ok(Some(token.trim())) } else { Err(Failure) };
    }
    let (email, key) = (one(headers, "x-auth-email")?, one(headers, "x-auth-key")?);
    match (email, key) {
        (None, None) => Ok(None),
        (Some(_), Some(key)) => Ok(Some(key)),
        _ => Err(Failure),
    }
}

/// A header that stands there once at most, as text.
fn one<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Failure> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().map(|value| value.to_str().map_err(|_| Failure)).transpose()?;
    if values.next().is_some() { Err(Failure) } else { Ok(value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&'static str, &'static str)]) -> Result<Option<String>, Failure> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        token(&headers).map(|token| token.map(str::to_owned))
    }

    #[test]
    fn a_token_stands_in_one_of_two_places() {
        assert_eq!(read(&[]), Ok(None));
        for pairs in [
            &[("authorization", "Bearer t")][..],
            &[("authorization", "bearer  t ")],
            &[("x-auth-email", "a@b.example"), ("x-auth-key", "t")],
            &[("authorization", "Bearer t"), ("x-auth-email", "a@b.example"), ("x-auth-key", "u")],
        ] {
            assert_eq!(read(pairs), Ok(Some("t".to_owned())), "{pairs:?}");
        }
    }

    #[test]
    fn half_a_credential_or_two_are_a_failure() {
        for pairs in [
            &[("authorization", "t")][..],
            &[("authorization", "Basic dDp0")],
            &[("authorization", "Bearer t"), ("authorization", "Bearer t")],
            &[("x-auth-key", "t")],
            &[("x-auth-email", "a@b.example")],
            &[("x-auth-email", "a@b.example"), ("x-auth-key", "t"), ("x-auth-key", "u")],
        ] {
            assert_eq!(read(pairs), Err(Failure), "{pairs:?}");
        }
    }
}
