//! Hostnames and the domains that zones own.
//!
//! The road: a zone is made with domains; a certificate's names become [`Hostname`]s; each must be inside the zone's
//! domains before it is written under `sni/`. Law: a name has one stored form, lower-case A-labels without a dot at the
//! end; a wildcard is one whole label in front of at least two others; an IP address is no hostname.
//! Source: RFC 1035 section 2.3 and RFC 1123 section 2.1 (letters, digits, hyphens), RFC 5890 (A-labels), UTS 46 without
//! transitional processing, RFC 6125 section 6.4.3 (wildcards).
//!
//! There is no list of public suffixes here: that a domain has at least two labels keeps out `com`, not `co.uk`. Who may
//! own a domain is the operator's decision when it makes the zone.

use cinnabar_authority_api::Hostname;
use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};

use crate::limits::{HOSTNAME_BYTES_MAX, HOSTNAME_INPUT_BYTES_MAX, HOSTNAME_LABEL_BYTES_MAX};

/// What a wildcard begins with.
const WILDCARD: &str = "*.";

/// Why a text is no hostname or no domain. The sender's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HostnameError {
    /// Nothing, or nothing between two dots.
    #[error("an empty label")]
    Empty,
    /// Longer than names may be.
    #[error("a name has at most {HOSTNAME_BYTES_MAX} bytes, a label {HOSTNAME_LABEL_BYTES_MAX}")]
    TooLong,
    /// Something else than letters, digits and hyphens, or a hyphen at an end of a label.
    #[error("labels are letters, digits and hyphens, with no hyphen at their ends")]
    Character,
    /// Not a valid internationalised name, or an `xn--` label that stands for none.
    #[error("not a valid internationalised name")]
    Idna,
    /// A certificate writes internationalised names as `xn--` labels.
    #[error("in a certificate, a name is written in ASCII")]
    NotAscii,
    /// A `*` that is not the whole first label, or with fewer than two labels behind it.
    #[error("`*` can only be the whole first label, with at least two labels behind it")]
    Wildcard,
    /// An IP address.
    #[error("an IP address is no hostname")]
    IpAddress,
    /// A dot at the end, where only the stored form is taken.
    #[error("a dot at the end")]
    TrailingDot,
    /// A zone cannot own a wildcard: its domain covers everything below it already.
    #[error("a domain is written without `*`: it covers every name below it")]
    DomainWildcard,
    /// One label alone: no zone could own it.
    #[error("a name has at least two labels")]
    TooShort,
}

/// Reads a name as a person writes it: any case, any script, with or without the root's dot.
///
/// # Errors
/// [`HostnameError`] says what is wrong.
pub fn from_user(text: &str) -> Result<Hostname, HostnameError> {
    if text.len() > HOSTNAME_INPUT_BYTES_MAX {
        return Err(HostnameError::TooLong);
    }
    let (wildcard, rest) = match text.strip_prefix(WILDCARD) {
        Some(rest) => (WILDCARD, rest),
        None => ("", text),
    };
    if rest.contains('*') {
        return Err(HostnameError::Wildcard);
    }
    let name = to_a_labels(rest)?;
    if !name.contains('.') {
        return Err(if wildcard.is_empty() { HostnameError::TooShort } else { HostnameError::Wildcard });
    }
    if wildcard.len() + name.len() > HOSTNAME_BYTES_MAX {
        return Err(HostnameError::TooLong);
    }
    // The stored form's own rules are those above: what they let pass, it takes.
    format!("{wildcard}{name}").parse().map_err(|_| HostnameError::Character)
}

/// Reads a name out of a certificate: ASCII already, in any case, without a dot at the end.
///
/// # Errors
/// [`HostnameError`] says what is wrong.
pub fn from_certificate(name: &str) -> Result<Hostname, HostnameError> {
    if !name.is_ascii() {
        return Err(HostnameError::NotAscii);
    }
    if name.ends_with('.') {
        return Err(HostnameError::TrailingDot);
    }
    from_user(name)
}

/// Reads what a zone owns: a name of at least two labels, and every name below it.
///
/// # Errors
/// [`HostnameError`] says what is wrong.
pub fn domain_from_user(text: &str) -> Result<Hostname, HostnameError> {
    let name = from_user(text)?;
    if name.is_wildcard() { Err(HostnameError::DomainWildcard) } else { Ok(name) }
}

/// The first name that is inside none of the domains; none if a zone that owns them may have a certificate for all.
#[must_use]
pub fn first_outside<'a>(names: &'a [Hostname], domains: &[Hostname]) -> Option<&'a Hostname> {
    names.iter().find(|name| !domains.iter().any(|domain| name.is_inside(domain)))
}

// === Helpers ===

/// The stored form of a name without a wildcard.
fn to_a_labels(text: &str) -> Result<String, HostnameError> {
    if text.parse::<std::net::IpAddr>().is_ok() || text.starts_with('[') {
        return Err(HostnameError::IpAddress);
    }
    // Lengths are judged below, where the error can say which; here a name that is too long would only be "invalid".
    let ascii = Uts46::new()
        .to_ascii(text.as_bytes(), AsciiDenyList::STD3, Hyphens::Allow, DnsLength::Ignore)
        .map_err(|_| if text.bytes().any(is_foreign) { HostnameError::Character } else { HostnameError::Idna })?;
    let name = ascii.strip_suffix('.').unwrap_or(&ascii);
    if name.len() > HOSTNAME_BYTES_MAX {
        return Err(HostnameError::TooLong);
    }
    for label in name.split('.') {
        check_label(label)?;
    }
    // Also after the mapping: it makes digits and dots of other scripts ASCII. What browsers read as an IPv4 address is
    // one here: any name whose last label is a number.
    if is_number(name.rsplit('.').next().unwrap_or(name)) {
        return Err(HostnameError::IpAddress);
    }
    Ok(name.to_owned())
}

/// An ASCII character that no name has, in any case.
fn is_foreign(byte: u8) -> bool {
    byte.is_ascii() && !byte.is_ascii_alphanumeric() && byte != b'-' && byte != b'.'
}

fn check_label(label: &str) -> Result<(), HostnameError> {
    if label.is_empty() {
        return Err(HostnameError::Empty);
    }
    if label.len() > HOSTNAME_LABEL_BYTES_MAX {
        return Err(HostnameError::TooLong);
    }
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !label.bytes().all(allowed) || label.starts_with('-') || label.ends_with('-') {
        return Err(HostnameError::Character);
    }
    Ok(())
}

fn is_number(label: &str) -> bool {
    let hex = label.strip_prefix("0x").is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_hexdigit()));
    hex || label.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> Hostname {
        from_user(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn domain(text: &str) -> Hostname {
        domain_from_user(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn a_name_has_one_stored_form() {
        for (text, stored) in [
            ("example.com", "example.com"),
            ("WWW.Example.COM.", "www.example.com"),
            ("*.Example.com", "*.example.com"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
            ("*.bücher.example", "*.xn--bcher-kva.example"),
            ("faß.example", "xn--fa-hia.example"),
            ("ｅｘａｍｐｌｅ。com", "example.com"),
            ("a--b.example", "a--b.example"),
            ("1.2.3.com", "1.2.3.com"),
            ("10.in-addr.arpa", "10.in-addr.arpa"),
        ] {
            assert_eq!(name(text).as_str(), stored, "{text}");
            assert_eq!(name(stored), name(text));
        }
    }

    #[test]
    fn what_is_no_hostname_is_refused_with_the_reason() {
        use HostnameError::*;
        let label = "a".repeat(64);
        let long = format!("{}.example", ["a".repeat(49).as_str(); 5].join("."));
        let cases: &[(&str, HostnameError)] = &[
            ("", Empty),
            ("localhost", TooShort),
            (".", Empty),
            ("a..b", Empty),
            (".example.com", Empty),
            ("example.com..", Empty),
            ("a b.example", Character),
            ("_dmarc.example.com", Character),
            ("-a.example", Character),
            ("a-.example", Character),
            ("a/b.example", Character),
            ("ex\u{0}ample.com", Character),
            ("example.com:443", Character),
            ("xn--a.example", Idna),
            ("xn--zzzzzzzzz999.example", Idna),
            ("a\u{202e}b.example", Idna),
            ("*", Wildcard),
            ("*.", Empty),
            ("*.com", Wildcard),
            ("*.com.", Wildcard),
            ("a.*.example.com", Wildcard),
            ("*a.example.com", Wildcard),
            ("*.*.example.com", Wildcard),
            ("＊.example.com", Idna),
            ("127.0.0.1", IpAddress),
            ("１２７.0.0.1", IpAddress),
            ("1.2.3", IpAddress),
            ("2130706433", IpAddress),
            ("0x7f.1", IpAddress),
            ("a.0x7f", IpAddress),
            ("::1", IpAddress),
            ("[::1]", IpAddress),
            ("*.1.2", IpAddress),
            (&label, TooLong),
            (&long, TooLong),
        ];
        for (text, expected) in cases {
            assert_eq!(from_user(text), Err(*expected), "{text}");
        }
        let largest = format!("{}.example", ["a".repeat(48).as_str(); 5].join("."));
        assert_eq!(name(&largest).as_str().len(), 252);
        assert_eq!(from_user(&format!("*.{largest}")), Err(TooLong), "a wildcard counts too");
    }

    #[test]
    fn a_certificate_writes_names_in_ascii() {
        assert_eq!(from_certificate("WWW.example.com").unwrap().as_str(), "www.example.com");
        assert_eq!(from_certificate("xn--bcher-kva.example").unwrap(), name("bücher.example"));
        assert_eq!(from_certificate("bücher.example"), Err(HostnameError::NotAscii));
        assert_eq!(from_certificate("example.com."), Err(HostnameError::TrailingDot));
    }

    #[test]
    fn a_name_is_inside_its_domain_and_those_above() {
        for inside in ["example.com", "www.example.com", "a.b.example.com", "*.example.com", "*.a.example.com"] {
            assert!(name(inside).is_inside(&domain("example.com")), "{inside}");
        }
        for outside in ["example.org", "badexample.com", "*.badexample.com", "example.com.evil.net"] {
            assert!(!name(outside).is_inside(&domain("example.com")), "{outside}");
        }
        // A wildcard stands for names outside of a domain one label longer than its own.
        assert!(!name("*.example.com").is_inside(&domain("www.example.com")));
    }

    #[test]
    fn one_name_outside_every_domain_is_found_among_many() {
        let domains = [domain("example.com"), domain("example.net")];
        let names = ["a.example.com", "*.example.net", "example.org", "example.edu"].map(name);
        assert_eq!(first_outside(&names, &domains), Some(&names[2]));
        assert_eq!(first_outside(&names[..2], &domains), None);
        assert_eq!(first_outside(&names[..1], &[]), Some(&names[0]));
    }

    #[test]
    fn a_domain_has_two_labels_and_no_wildcard() {
        assert_eq!(domain_from_user("com"), Err(HostnameError::TooShort));
        assert_eq!(domain_from_user("com."), Err(HostnameError::TooShort));
        assert_eq!(domain_from_user("*.example.com"), Err(HostnameError::DomainWildcard));
        assert_eq!(domain("Example.COM.").as_str(), "example.com");
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_read_is_its_own_stored_form(text in "\\PC{0,80}|[*a-z0-9.xn-]{0,80}") {
            if let Ok(read) = from_user(&text) {
                prop_assert_eq!(&name(read.as_str()), &read);
                prop_assert!(read.as_str().len() <= HOSTNAME_BYTES_MAX);
                prop_assert_eq!(&from_certificate(read.as_str()).unwrap(), &read);
            }
        }
    }
}
