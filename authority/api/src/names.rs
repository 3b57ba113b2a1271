//! Names and numbers of the records: correct from the moment they exist, one spelling each.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::limits::{CERT_ID_BYTES, DATA_CENTER_BYTES_MAX, HOST_LABEL_BYTES_MAX, HOSTNAME_BYTES_MAX, ID_BYTES_MAX};

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} `{}`: {problem}", text.escape_debug())]
pub struct NameError {
    /// The kind of name.
    pub what: &'static str,
    /// What was given, cut after 64 characters.
    pub text: String,
    /// The rule that is broken.
    pub problem: &'static str,
}

fn refused(what: &'static str, text: &str, problem: &'static str) -> NameError {
    NameError { what, text: text.chars().take(64).collect(), problem }
}

/// Lower-case letters, digits and inner `-` and `.`: what ids are made of.
fn check_id(what: &'static str, text: &str) -> Result<(), NameError> {
    if text.is_empty() || text.len() > ID_BYTES_MAX {
        return Err(refused(what, text, "1 to 63 characters"));
    }
    let inner = |byte: u8| matches!(byte, b'-' | b'.');
    if text.bytes().any(|byte| !(byte.is_ascii_lowercase() || byte.is_ascii_digit() || inner(byte))) {
        return Err(refused(what, text, "only a-z, 0-9, `-` and `.` are allowed"));
    }
    let bytes = text.as_bytes();
    if inner(bytes[0]) || inner(bytes[bytes.len() - 1]) || text.contains("..") {
        return Err(refused(what, text, "`-` and `.` may not come first or last, nor `.` twice in a row"));
    }
    Ok(())
}

fn check_cert(what: &'static str, text: &str) -> Result<(), NameError> {
    let hexadecimal = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if text.len() == CERT_ID_BYTES && hexadecimal {
        Ok(())
    } else {
        Err(refused(what, text, "32 lower-case hexadecimal digits"))
    }
}

fn check_data_center(what: &'static str, text: &str) -> Result<(), NameError> {
    if text.is_empty() || text.len() > DATA_CENTER_BYTES_MAX {
        return Err(refused(what, text, "1 to 32 characters"));
    }
    if !text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_') {
        return Err(refused(what, text, "only a-z, 0-9 and `_` are allowed: it is a word of policies"));
    }
    if matches!(text, "and" | "or" | "not") {
        return Err(refused(what, text, "a word of the policy language's own"));
    }
    Ok(())
}

/// A-labels in lower case, at least two; the first may be `*`. RFC 5890 section 2.3.1, RFC 6125 section 6.4.3.
fn check_hostname(what: &'static str, text: &str) -> Result<(), NameError> {
    if text.is_empty() || text.len() > HOSTNAME_BYTES_MAX {
        return Err(refused(what, text, "1 to 253 characters"));
    }
    let name = text.strip_prefix("*.").unwrap_or(text);
    let mut labels = 0;
    for label in name.split('.') {
        labels += 1;
        if label.is_empty() || label.len() > HOST_LABEL_BYTES_MAX {
            return Err(refused(what, text, "each label has 1 to 63 characters"));
        }
        if !label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-') {
            return Err(refused(what, text, "labels are a-z, 0-9 and `-`; `*` is a whole first label"));
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err(refused(what, text, "a label may not begin or end with `-`"));
        }
    }
    let last = name.rsplit('.').next().unwrap_or_default();
    if last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(refused(what, text, "an address is no name"));
    }
    if labels < 2 {
        return Err(refused(what, text, "at least two labels, such as `shop.example`"));
    }
    Ok(())
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident, $what:literal, $check:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                $check($what, text)?;
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }
    )*};
}

names! {
    /// A zone: a customer's name space. 1 to 63 of `a-z 0-9 - .`.
    ZoneId, "zone", check_id;
    /// A machine; the name in its certificate. 1 to 63 of `a-z 0-9 - .`.
    MachineId, "machine", check_id;
    /// A secret of a zone that is no certificate's key. 1 to 63 of `a-z 0-9 - .`.
    SecretName, "secret", check_id;
    /// A certificate: 32 lower-case hexadecimal digits.
    CertId, "certificate id", check_cert;
    /// A data centre: 1 to 32 of `a-z 0-9 _`, a value of the label `dc`.
    DataCenterId, "data centre", check_data_center;
    /// A hostname in lower-case A-labels, exact or `*.` and at least two labels.
    Hostname, "hostname", check_hostname;
}

impl Hostname {
    /// The name without `*.`.
    pub fn base(&self) -> &str {
        self.0.strip_prefix("*.").unwrap_or(&self.0)
    }

    /// Does the name stand for every name of one label more?
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with("*.")
    }

    /// Is it a zone's domain, or below it? `*.shop.example` is inside `shop.example`.
    pub fn is_inside(&self, domain: &Hostname) -> bool {
        let (name, domain) = (self.base(), domain.base());
        name == domain || name.strip_suffix(domain).is_some_and(|above| above.ends_with('.'))
    }
}

/// Generation of the system key pair, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Generation(pub NonZeroU32);

/// Version of a policy's key, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PolicyKeyVersion(pub NonZeroU32);

/// Version of the attribute schema, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SchemaVersion(pub NonZeroU32);

macro_rules! numbers {
    ($($name:ident),*) => {$(
        impl $name {
            /// The first.
            pub const FIRST: Self = Self(NonZeroU32::MIN);

            /// The one after this; none after the last of 32 bits.
            pub fn next(self) -> Option<Self> {
                self.0.checked_add(1).map(Self)
            }

            /// The number.
            pub fn get(self) -> u32 {
                self.0.get()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

numbers!(Generation, PolicyKeyVersion, SchemaVersion);

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Hostname {
        text.parse().unwrap()
    }

    #[test]
    fn hostnames_have_one_spelling() {
        for good in ["shop.example", "*.shop.example", "a.b-c.d1", "xn--bcher-kva.example", "1.2.3.x4"] {
            assert_eq!(host(good).as_str(), good);
        }
        let long = format!("{}.example", "a".repeat(64));
        let whole = format!("{}example", "abcdefg.".repeat(31));
        for bad in [
            "",
            ".",
            "shop",
            "*.example",
            "*",
            "*.*.example",
            "a.*.example",
            "w*.example.org",
            "Shop.example",
            "shop.example.",
            ".shop.example",
            "shop..example",
            "-a.example",
            "a-.example",
            "b\u{fc}cher.example",
            "a_b.example",
            "10.0.0.1",
            "a b.example",
            "a/b.example",
            "a.example\0",
            &long,
            &whole,
        ] {
            assert!(bad.parse::<Hostname>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_name_is_inside_its_domain_and_nothing_else() {
        let domain = host("shop.example");
        for inside in ["shop.example", "www.shop.example", "*.shop.example", "a.b.shop.example"] {
            assert!(host(inside).is_inside(&domain), "{inside}");
        }
        for outside in ["myshop.example", "shop.example.org", "example.shop", "*.ashop.example"] {
            assert!(!host(outside).is_inside(&domain), "{outside}");
        }
    }

    #[test]
    fn ids_and_data_centres_have_their_alphabets() {
        for good in ["a", "fra-1.rack7", "0"] {
            good.parse::<MachineId>().unwrap();
        }
        for bad in ["", "A", "-a", "a.", "a..b", "a/b", "a_b", &"a".repeat(64)] {
            assert!(bad.parse::<MachineId>().is_err(), "{bad:?} was taken");
        }
        for bad in ["", "fra-1", "FRA", "not", &"a".repeat(33)] {
            assert!(bad.parse::<DataCenterId>().is_err(), "{bad:?} was taken");
        }
        "fra_1".parse::<DataCenterId>().unwrap();
        "0123456789abcdef0123456789abcdef".parse::<CertId>().unwrap();
        for bad in ["", "0123456789ABCDEF0123456789abcdef", "0123456789abcdef0123456789abcde"] {
            assert!(bad.parse::<CertId>().is_err(), "{bad:?} was taken");
        }
    }
}
