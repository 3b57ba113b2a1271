//! What a refused request is answered with: problem details (RFC 9457) with a stable code, the field, the place in the
//! policy, and what to do.
//!
//! Law: every code stands in [`Code`] once, with its status and its title, and in `docs/errors.md`; a code never changes
//! its meaning. A problem never repeats a secret: details are written by the authority and quote names, never values of
//! secret fields.

use std::borrow::Cow;

use cinnabar_abe::Span;
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use crate::limits::ECHO_CHARS_MAX;

/// The media type of a problem.
pub const CONTENT_TYPE: &str = "application/problem+json";

/// What `type` begins with, relative to the authority's own address; the code follows.
const TYPE_PREFIX: &str = "/errors/";

/// Declares the codes in one table: name, code, status, title.
macro_rules! codes {
    ($($name:ident $code:literal $status:literal $title:literal,)*) => {
        /// Why a request is refused. `docs/errors.md` says more about each.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Code {
            $(#[doc = $title] $name,)*
        }

        impl Code {
            /// Every code, in the order of the page.
            pub const ALL: &[Code] = &[$(Code::$name,)*];

            /// The stable name, for programs: lower-case words joined by hyphens.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$name => $code,)* }
            }

            /// The status of the answer.
            #[must_use]
            pub fn status(self) -> u16 {
                match self { $(Code::$name => $status,)* }
            }

            /// One line that is the same for every problem of this code.
            #[must_use]
            pub fn title(self) -> &'static str {
                match self { $(Code::$name => $title,)* }
            }
        }
    };
}

codes! {
    // The request as such.
    MalformedJson "malformed-json" 400 "The body is not one JSON object",
    UnknownField "unknown-field" 400 "The body has a field that this call does not know",
    MissingField "missing-field" 400 "A field is missing",
    InvalidField "invalid-field" 400 "A field or parameter has a value it cannot have",
    ExclusiveFields "exclusive-fields" 400 "Fields that exclude each other were sent together",
    RequestTooLarge "request-too-large" 413 "The request or a field of it is too large",
    RequestTimeout "request-timeout" 408 "The body did not arrive in time",
    UnsupportedMediaType "unsupported-media-type" 415 "The body is not marked as JSON",
    Unauthenticated "unauthenticated" 401 "The request carries no valid credentials",
    Forbidden "forbidden" 403 "The credentials do not allow this",
    NotFound "not-found" 404 "There is no such thing, or it is not yours",
    MethodNotAllowed "method-not-allowed" 405 "This address does not take this method",
    Conflict "conflict" 409 "Somebody else changed this meanwhile",
    RateLimited "rate-limited" 429 "Too many requests",
    Quota "quota" 403 "The zone holds as much as it may",
    // The certificate.
    CertificateMalformed "certificate-malformed" 422 "The certificate cannot be read",
    CertificateExpired "certificate-expired" 422 "A certificate of the chain has expired",
    CertificateNotYetValid "certificate-not-yet-valid" 422 "A certificate of the chain is not valid yet",
    CertificateIsCa "certificate-is-ca" 422 "The first certificate is an authority's",
    CertificatePurpose "certificate-purpose" 422 "The certificate is not for a TLS server",
    CertificateStored "certificate-stored" 409 "This certificate is stored already",
    ChainTooLong "chain-too-long" 422 "The chain is too long",
    ChainOrder "chain-order" 422 "The certificates of the chain do not follow each other",
    ChainSignature "chain-signature" 422 "A certificate is not signed by the next one",
    UnsupportedSignature "unsupported-signature" 422 "A certificate is signed in a way that clients refuse",
    NoHostnames "no-hostnames" 422 "The certificate names no hostname",
    TooManyHostnames "too-many-hostnames" 422 "The certificate names too many hostnames",
    HostnameMalformed "hostname-malformed" 422 "A hostname cannot be used",
    HostnameOutsideZone "hostname-outside-zone" 422 "A hostname does not belong to the zone",
    // The key.
    KeyMalformed "key-malformed" 422 "The private key cannot be read",
    KeyEncrypted "key-encrypted" 422 "The private key is encrypted",
    KeyMismatch "key-mismatch" 422 "The private key does not belong to the certificate",
    KeyTooSmall "key-too-small" 422 "The key is too small",
    UnsupportedKey "unsupported-key" 422 "Keys of this kind are not taken",
    KeyRequired "key-required" 422 "This change needs the private key again",
    // Policies.
    PolicySyntax "policy-syntax" 422 "The policy cannot be read",
    UnknownLabel "unknown-label" 422 "The policy names a label that no machine has",
    UnknownValue "unknown-value" 422 "The policy names a value that its label cannot have",
    ReservedLabel "reserved-label" 422 "The policy names a label that is not for policies",
    NotIssuedYet "not-issued-yet" 422 "Not every machine holds what the policy names yet",
    NoDataCentre "no-data-centre" 422 "No data centre satisfies this policy",
    FewHolders "few-holders" 422 "Fewer data centres than advised would hold this key",
    // Zones.
    ZoneOverlap "zone-overlap" 409 "The domain overlaps with another zone's",
    DomainMalformed "domain-malformed" 422 "A zone cannot own this domain",
    ZoneInUse "zone-in-use" 409 "Keys of the zone stand in the way",
    // Machines.
    RequestUnusable "certificate-request" 422 "The certificate signing request cannot be used",
    MachineUnknown "machine-unknown" 404 "The inventory has no such machine, or it is not enrolled",
    MachineRevoked "machine-revoked" 403 "The machine was revoked",
    RotationNeeded "rotation-needed" 409 "The machine's keys say something else, which only a rotation changes",
    TooMany "too-many" 422 "One change cannot do this to so many",
    LastHolders "last-holders" 409 "A key would be held by no data centre",
    Sealed "sealed" 503 "The system secret keys are sealed",
    // Ours.
    Unavailable "unavailable" 503 "The authority cannot do this at the moment",
    Internal "internal" 500 "The authority failed",
}

/// One refused request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem(Box<Parts>);

/// What a problem says; boxed, since it travels in the `Err` of everything.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Parts {
    code: Code,
    /// The policy error's own code.
    spoken: Option<&'static str>,
    detail: String,
    pointer: Option<Cow<'static, str>>,
    span: Option<Span>,
    hint: Option<Cow<'static, str>>,
    request_id: Option<String>,
}

impl Problem {
    /// A problem with one or two sentences about this very request.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self(Box::new(Parts { code, spoken: None, detail, pointer: None, span: None, hint: None, request_id: None }))
    }

    /// Passes a policy error's own code on; the type stays.
    #[must_use]
    pub fn spoken_as(mut self, code: &'static str) -> Self {
        self.0.spoken = Some(code);
        self
    }

    /// Names the field: a JSON pointer (RFC 6901) into the body.
    #[must_use]
    pub fn at(mut self, pointer: impl Into<Cow<'static, str>>) -> Self {
        self.0.pointer = Some(pointer.into());
        self
    }

    /// Names the place: bytes of the policy text, counted as UTF-8.
    #[must_use]
    pub fn span(mut self, span: Span) -> Self {
        self.0.span = Some(span);
        self
    }

    /// Says what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Names the request, as the log does.
    #[must_use]
    pub fn request_id(mut self, id: impl Into<String>) -> Self {
        self.0.request_id = Some(id.into());
        self
    }

    /// Why the request is refused.
    #[must_use]
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// The code that the answer carries: the policy error's own one where there is one.
    #[must_use]
    pub fn code_str(&self) -> &'static str {
        self.0.spoken.unwrap_or(self.0.code.as_str())
    }

    /// The status of the answer.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.0.code.status()
    }

    /// The sentences about this request.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// The JSON pointer of the field, if one is at fault.
    #[must_use]
    pub fn pointer(&self) -> Option<&str> {
        self.0.pointer.as_deref()
    }

    /// What to do, if that is known.
    #[must_use]
    pub fn advice(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }
}

impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Place {
            start: usize,
            end: usize,
        }
        let mut out = serializer.serialize_struct("Problem", 9)?;
        out.serialize_field("type", &format!("{TYPE_PREFIX}{}", self.0.code.as_str()))?;
        out.serialize_field("title", self.0.code.title())?;
        out.serialize_field("status", &self.status())?;
        out.serialize_field("code", self.code_str())?;
        out.serialize_field("detail", &self.0.detail)?;
        if let Some(pointer) = &self.0.pointer {
            out.serialize_field("pointer", pointer)?;
        }
        if let Some(Span { start, end }) = self.0.span {
            out.serialize_field("span", &Place { start, end })?;
        }
        if let Some(hint) = &self.0.hint {
            out.serialize_field("hint", hint)?;
        }
        if let Some(id) = &self.0.request_id {
            out.serialize_field("request_id", id)?;
        }
        out.end()
    }
}

/// A word of the request as an error may repeat it: cut, and with a mark for what is not plainly visible, so that it
/// cannot rearrange a terminal or a log.
#[must_use]
pub fn echo(word: &str) -> String {
    let mut shown: String = word
        .chars()
        .take(ECHO_CHARS_MAX)
        .map(|c| if c.is_ascii_graphic() || c == ' ' || c.is_alphanumeric() { c } else { '\u{fffd}' })
        .collect();
    if word.chars().nth(ECHO_CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

/// A field's name as a JSON pointer to it at the top of the body (RFC 6901 section 3).
#[must_use]
pub fn pointer(field: &str) -> String {
    format!("/{}", echo(field).replace('~', "~0").replace('/', "~1"))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use cinnabar_authority_api::compile::{Vocabulary, compile};
    use serde_json::json;

    use super::*;

    const PAGE: &str = include_str!("../../docs/errors.md");

    #[test]
    fn a_problem_says_what_where_and_what_to_do() {
        let problem = Problem::new(Code::KeyMismatch, "It is another one's.")
            .at("/private_key")
            .hint("Send the key that the request for the certificate was made with.")
            .request_id("r-1");
        let expected = json!({
            "type": "/errors/key-mismatch",
            "title": "The private key does not belong to the certificate",
            "status": 422,
            "code": "key-mismatch",
            "detail": "It is another one's.",
            "pointer": "/private_key",
            "hint": "Send the key that the request for the certificate was made with.",
            "request_id": "r-1",
        });
        assert_eq!(serde_json::to_value(&problem).unwrap(), expected);
    }

    #[test]
    fn a_policy_error_keeps_its_own_code_and_place() {
        let text = "(region: EU) (not country: FR)";
        let schema = cinnabar_authority_api::Schema::default();
        let words = Vocabulary { schema: &schema, data_centers: &Default::default(), held: &|_| true };
        let error = compile(text, &"acme".parse().unwrap(), &words).unwrap_err();
        let problem = serde_json::to_value(Problem::of_policy(&error, "/policy")).unwrap();
        assert_eq!(problem["type"], "/errors/policy-syntax");
        assert_eq!(problem["code"], "left-over");
        assert_eq!(problem["pointer"], "/policy");
        assert_eq!(problem["span"]["start"], 13);
        assert_eq!(problem["hint"], "join the two parts with `and` or `or`");
    }

    #[test]
    fn no_two_codes_share_a_name_and_every_status_is_an_error() {
        let names: HashSet<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(names.len(), Code::ALL.len());
        for code in Code::ALL {
            assert!((400..600).contains(&code.status()), "{code:?}");
            assert!(code.as_str().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{code:?}");
        }
    }

    #[test]
    fn no_code_is_also_the_code_of_a_policy_error() {
        let policy_page = include_str!("../../docs/policy.md");
        for code in Code::ALL {
            assert!(!policy_page.contains(&format!("\n| `{}` |", code.as_str())), "{code:?}");
        }
    }

    #[test]
    fn the_page_of_errors_lists_every_code_with_its_status_number_and_title() {
        // Refusals of signatures are the edge node's; their table is held to its code elsewhere.
        let (page, _) = PAGE.split_once("\n## Refusals of signatures\n").unwrap();
        let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
        let expected: Vec<String> = Code::ALL
            .iter()
            .map(|code| {
                let (name, status, number) = (code.as_str(), code.status(), crate::facade::number(*code));
                format!("| `{name}` | {status} | {number} | {} |", code.title())
            })
            .collect();
        for (row, expected) in rows.iter().zip(&expected) {
            assert!(row.starts_with(expected.as_str()), "page: {row}\ncode: {expected}");
            assert!(row.len() > expected.len() + 10, "nothing to do: {row}");
        }
        assert_eq!(rows.len(), expected.len());
    }

    #[test]
    fn an_echo_is_short_and_plain() {
        assert_eq!(echo("ab\u{1b}[2J\u{202e}c"), "ab\u{fffd}[2J\u{fffd}c");
        assert_eq!(echo(&"é".repeat(100)).chars().count(), ECHO_CHARS_MAX + 1);
        assert_eq!(pointer("a/b~c"), "/a~1b~0c");
    }
}
