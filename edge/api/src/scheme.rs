//! Signature schemes as TLS numbers them.
//!
//! Law: only what a TLS server's signature needs. There is no raw RSA and no decryption, ever.

use std::fmt;

/// A TLS SignatureScheme that this system makes, RFC 8446 section 4.2.3. PKCS #1 is for TLS 1.2 alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are the RFC's")]
pub enum Scheme {
    RsaPkcs1Sha256,
    RsaPkcs1Sha384,
    RsaPkcs1Sha512,
    EcdsaSecp256r1Sha256,
    EcdsaSecp384r1Sha384,
    RsaPssRsaeSha256,
    RsaPssRsaeSha384,
    RsaPssRsaeSha512,
    Ed25519,
}

/// What a scheme hashes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are FIPS 180-4's")]
pub enum Hash {
    Sha256,
    Sha384,
    Sha512,
    /// The scheme signs the message itself.
    None,
}

impl Hash {
    /// Bytes of a digest; none when the scheme takes no digest.
    pub const fn bytes(self) -> Option<usize> {
        match self {
            Self::Sha256 => Some(32),
            Self::Sha384 => Some(48),
            Self::Sha512 => Some(64),
            Self::None => None,
        }
    }
}

impl Scheme {
    /// Every scheme.
    pub const ALL: [Self; 9] = [
        Self::RsaPkcs1Sha256,
        Self::RsaPkcs1Sha384,
        Self::RsaPkcs1Sha512,
        Self::EcdsaSecp256r1Sha256,
        Self::EcdsaSecp384r1Sha384,
        Self::RsaPssRsaeSha256,
        Self::RsaPssRsaeSha384,
        Self::RsaPssRsaeSha512,
        Self::Ed25519,
    ];

    /// The number.
    pub const fn code(self) -> u16 {
        match self {
            Self::RsaPkcs1Sha256 => 0x0401,
            Self::RsaPkcs1Sha384 => 0x0501,
            Self::RsaPkcs1Sha512 => 0x0601,
            Self::EcdsaSecp256r1Sha256 => 0x0403,
            Self::EcdsaSecp384r1Sha384 => 0x0503,
            Self::RsaPssRsaeSha256 => 0x0804,
            Self::RsaPssRsaeSha384 => 0x0805,
            Self::RsaPssRsaeSha512 => 0x0806,
            Self::Ed25519 => 0x0807,
        }
    }

    /// The scheme of a number.
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|scheme| u32::from(scheme.code()) == code)
    }

    /// What it hashes with.
    pub const fn hash(self) -> Hash {
        match self {
            Self::RsaPkcs1Sha256 | Self::EcdsaSecp256r1Sha256 | Self::RsaPssRsaeSha256 => Hash::Sha256,
            Self::RsaPkcs1Sha384 | Self::EcdsaSecp384r1Sha384 | Self::RsaPssRsaeSha384 => Hash::Sha384,
            Self::RsaPkcs1Sha512 | Self::RsaPssRsaeSha512 => Hash::Sha512,
            Self::Ed25519 => Hash::None,
        }
    }

    /// The word of metrics and logs, the RFC's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RsaPkcs1Sha256 => "rsa_pkcs1_sha256",
            Self::RsaPkcs1Sha384 => "rsa_pkcs1_sha384",
            Self::RsaPkcs1Sha512 => "rsa_pkcs1_sha512",
            Self::EcdsaSecp256r1Sha256 => "ecdsa_secp256r1_sha256",
            Self::EcdsaSecp384r1Sha384 => "ecdsa_secp384r1_sha384",
            Self::RsaPssRsaeSha256 => "rsa_pss_rsae_sha256",
            Self::RsaPssRsaeSha384 => "rsa_pss_rsae_sha384",
            Self::RsaPssRsaeSha512 => "rsa_pss_rsae_sha512",
            Self::Ed25519 => "ed25519",
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_rfcs_and_read_back() {
        for scheme in Scheme::ALL {
            assert_eq!(Scheme::from_code(scheme.code().into()), Some(scheme));
        }
        assert_eq!(Scheme::from_code(0x0804), Some(Scheme::RsaPssRsaeSha256));
        // SHA-1, DSA and what is not assigned.
        for code in [0, 0x0201, 0x0203, 0x0402, 0x0808, 0x1_0804] {
            assert_eq!(Scheme::from_code(code), None, "{code:#x}");
        }
    }
}
