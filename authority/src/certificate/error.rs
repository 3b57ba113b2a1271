//! Why an upload is refused, and how that is said to the sender.
//!
//! Law: no message repeats anything of a private key; what it repeats of a certificate is short and printable. Blocks and
//! lines are counted from 1, as people count.

use crate::hostname::HostnameError;
use crate::limits::{
    CHAIN_BYTES_MAX, CHAIN_CERTIFICATES_MAX, HOSTNAMES_MAX, PEM_BYTES_MAX, RSA_BITS_MAX, RSA_BITS_MIN, RSA_EXPONENT_MIN,
};
use crate::problem::{Code, Problem, pointer};
use crate::timestamp::rfc3339;

/// A field of the upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// The chain.
    Certificate,
    /// The private key.
    PrivateKey,
}

impl Field {
    /// Its name in the request.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::PrivateKey => "private_key",
        }
    }
}

impl std::fmt::Display for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "`{}`", self.as_str())
    }
}

/// What is wrong with the order of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum OrderFault {
    /// A block stands in another place than its own.
    Misplaced {
        /// The block.
        block: usize,
        /// Where it must stand.
        place: usize,
    },
    /// No block issued this one, though others follow it.
    NoIssuer {
        /// The block whose issuer is missing.
        block: usize,
    },
    /// A block that is there already.
    Repeated {
        /// The block.
        block: usize,
        /// The one that it repeats.
        first: usize,
    },
    /// A block stands where an issuer must, and may issue nothing.
    NotAuthority {
        /// The block.
        block: usize,
    },
}

impl std::fmt::Display for OrderFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Misplaced { block, place } => write!(f, "block {block} must stand in place {place}"),
            Self::NoIssuer { block } => {
                write!(f, "block {} did not issue block {block}, and no other block did", block + 1)
            }
            Self::Repeated { block, first } => write!(f, "block {block} is block {first} again"),
            Self::NotAuthority { block } => {
                write!(
                    f,
                    "block {block} is not an authority's certificate, so it cannot have issued block {}",
                    block - 1
                )
            }
        }
    }
}

/// Why an upload is refused. Always the sender's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// A text is larger than any that means anything.
    #[error("{field} has {actual} bytes, and at most {PEM_BYTES_MAX} are read")]
    TooLarge {
        /// Which text.
        field: Field,
        /// Its bytes.
        actual: usize,
    },
    /// A text is not PEM.
    #[error("{field}, line {line}: {problem}")]
    Pem {
        /// Which text.
        field: Field,
        /// Its line, from 1.
        line: usize,
        /// What is wrong there.
        problem: &'static str,
        /// What to do, if that is known.
        hint: Option<&'static str>,
    },
    /// A text holds no block of the kind that belongs in it.
    #[error("{field} holds no {expected}")]
    NoBlock {
        /// Which text.
        field: Field,
        /// What belongs in it.
        expected: &'static str,
        /// What to do, if that is known.
        hint: Option<&'static str>,
    },
    /// A text holds a block that does not belong in it.
    #[error("{field}, line {line}: a block `{label}`, where only {expected} belongs")]
    ForeignBlock {
        /// Which text.
        field: Field,
        /// Its line, from 1.
        line: usize,
        /// The block's label, shortened.
        label: String,
        /// What belongs in it.
        expected: &'static str,
        /// What to do, if that is known.
        hint: Option<&'static str>,
    },
    /// More certificates, or larger ones, than a chain may have.
    #[error("a chain has at most {CHAIN_CERTIFICATES_MAX} certificates and {CHAIN_BYTES_MAX} bytes of DER")]
    ChainTooLong,
    /// A block is no certificate.
    #[error("block {block} of `certificate` is no X.509 certificate: {problem}")]
    Malformed {
        /// The block, from 1.
        block: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The leaf is an authority's certificate.
    #[error("the first certificate is an authority's, and no certificate of a server is there")]
    LeafIsAuthority,
    /// The blocks are not in order.
    #[error("`certificate` is not in order: {0}")]
    Order(OrderFault),
    /// A certificate was not signed by the key behind it, though the names fit.
    #[error("block {block} of `certificate` is not signed by the key of block {}", block + 1)]
    Signature {
        /// The block, from 1.
        block: usize,
    },
    /// A certificate is signed in a way that clients refuse.
    #[error("block {block} of `certificate` is signed with {algorithm}, which clients refuse")]
    SignatureAlgorithm {
        /// The block, from 1.
        block: usize,
        /// The algorithm's name or its number.
        algorithm: String,
    },
    /// A certificate's time is over.
    #[error("block {block} of `certificate` expired at {}", rfc3339(*not_after_s))]
    Expired {
        /// The block, from 1.
        block: usize,
        /// Its last second, since 1970.
        not_after_s: u64,
    },
    /// A certificate's time has not come.
    #[error("block {block} of `certificate` is valid from {}", rfc3339(*not_before_s))]
    NotYetValid {
        /// The block, from 1.
        block: usize,
        /// Its first second, since 1970.
        not_before_s: u64,
    },
    /// The leaf says that it is for something else.
    #[error("the first certificate is not for a TLS server: {0}")]
    Purpose(&'static str),
    /// The leaf names no DNS name.
    #[error("the first certificate has no DNS name among its subject alternative names")]
    NoHostnames,
    /// The leaf names too many.
    #[error("the first certificate is for {actual} hostnames, and at most {HOSTNAMES_MAX} are taken")]
    TooManyHostnames {
        /// How many it names.
        actual: usize,
    },
    /// A name of the leaf is no hostname.
    #[error("the first certificate is for `{name}`: {source}")]
    Hostname {
        /// The name, shortened.
        name: String,
        /// What is wrong with it.
        source: HostnameError,
    },
    /// The private key is encrypted with a passphrase.
    #[error("the private key is encrypted with a passphrase")]
    KeyEncrypted,
    /// The private key cannot be read.
    #[error("the private key cannot be read: {0}")]
    KeyMalformed(&'static str),
    /// A key of a kind that no edge can use.
    #[error("{field} is for a key that is not taken: {kind}")]
    UnsupportedKey {
        /// Where.
        field: Field,
        /// What it is.
        kind: String,
    },
    /// An RSA key that can be broken.
    #[error("{field}: an RSA key of {bits} bits, and at least {RSA_BITS_MIN} are needed")]
    KeyTooSmall {
        /// Where.
        field: Field,
        /// Bits of its modulus.
        bits: usize,
    },
    /// The private key is another one's.
    #[error("the private key does not belong to the first certificate")]
    KeyMismatch,
}

impl CertificateError {
    /// The code that the sender's program compares.
    #[must_use]
    pub fn code(&self) -> Code {
        use Field::{Certificate, PrivateKey};
        match self {
            Self::TooLarge { .. } => Code::RequestTooLarge,
            Self::Pem { field: Certificate, .. }
            | Self::NoBlock { field: Certificate, .. }
            | Self::ForeignBlock { field: Certificate, .. }
            | Self::Malformed { .. } => Code::CertificateMalformed,
            Self::Pem { field: PrivateKey, .. }
            | Self::NoBlock { field: PrivateKey, .. }
            | Self::ForeignBlock { field: PrivateKey, .. }
            | Self::KeyMalformed(_) => Code::KeyMalformed,
            Self::ChainTooLong => Code::ChainTooLong,
            Self::LeafIsAuthority => Code::CertificateIsCa,
            Self::Order(_) => Code::ChainOrder,
            Self::Signature { .. } => Code::ChainSignature,
            Self::SignatureAlgorithm { .. } => Code::UnsupportedSignature,
            Self::Expired { .. } => Code::CertificateExpired,
            Self::NotYetValid { .. } => Code::CertificateNotYetValid,
            Self::Purpose(_) => Code::CertificatePurpose,
            Self::NoHostnames => Code::NoHostnames,
            Self::TooManyHostnames { .. } => Code::TooManyHostnames,
            Self::Hostname { .. } => Code::HostnameMalformed,
            Self::KeyEncrypted => Code::KeyEncrypted,
            Self::UnsupportedKey { .. } => Code::UnsupportedKey,
            Self::KeyTooSmall { .. } => Code::KeyTooSmall,
            Self::KeyMismatch => Code::KeyMismatch,
        }
    }

    /// The field at fault.
    #[must_use]
    pub fn field(&self) -> Field {
        match self {
            Self::TooLarge { field, .. }
            | Self::Pem { field, .. }
            | Self::NoBlock { field, .. }
            | Self::ForeignBlock { field, .. }
            | Self::UnsupportedKey { field, .. }
            | Self::KeyTooSmall { field, .. } => *field,
            Self::KeyEncrypted | Self::KeyMalformed(_) | Self::KeyMismatch => Field::PrivateKey,
            _ => Field::Certificate,
        }
    }

    /// What to do, if that is known.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Pem { hint, .. } | Self::NoBlock { hint, .. } | Self::ForeignBlock { hint, .. } => return *hint,
            Self::LeafIsAuthority => "put the server's own certificate first, then those that issued it",
            Self::Order(OrderFault::Misplaced { .. }) => {
                "the server's certificate comes first, and each is followed by the one that issued it"
            }
            Self::Order(OrderFault::NoIssuer { .. }) => "add the missing certificate, or leave out what follows",
            Self::Order(OrderFault::Repeated { .. }) => "leave the second one out",
            Self::Order(OrderFault::NotAuthority { .. }) | Self::Signature { .. } => {
                "take the chain as the issuer of the certificate offers it"
            }
            Self::SignatureAlgorithm { .. } => "have it issued again with SHA-256",
            Self::Expired { block: 1, .. } => "have the certificate renewed",
            Self::Expired { .. } => "take the issuer's present chain, or leave an expired root out",
            Self::NoHostnames => {
                "have it issued with its names as subject alternative names; a common name counts for nothing"
            }
            Self::KeyEncrypted => "remove the passphrase: openssl pkey -in encrypted.pem -out key.pem",
            Self::KeyMismatch => "send the key that the request for this certificate was made with",
            Self::UnsupportedKey { .. } => "use ECDSA on P-256 or P-384, or RSA of 2048 to 8192 bits",
            Self::KeyTooSmall { .. } => "use RSA of 2048 bits or more, or ECDSA on P-256",
            _ => return None,
        })
    }

    /// The answer to the sender.
    #[must_use]
    pub fn problem(&self) -> Problem {
        let problem = Problem::new(self.code(), self.to_string()).at(pointer(self.field().as_str()));
        match self.hint() {
            Some(hint) => problem.hint(hint),
            None => problem,
        }
    }

    pub(super) fn rsa_too_large(field: Field, bits: usize) -> Self {
        Self::UnsupportedKey { field, kind: format!("RSA of {bits} bits, and at most {RSA_BITS_MAX} are taken") }
    }

    pub(super) fn rsa_exponent(field: Field) -> Self {
        Self::UnsupportedKey {
            field,
            kind: format!("RSA with a public exponent that is even, below {RSA_EXPONENT_MIN} or very large"),
        }
    }
}
