//! A customer's key, parsed and ready to sign. Only aws-lc sees its numbers.
//!
//! Law: a key signs by the schemes of its kind and no others; `Debug` shows its kind alone. aws-lc wipes what it holds
//! when it is freed.

use std::fmt;

use aws_lc_rs::digest::{self, Digest};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, KeyPair, RsaEncoding,
};
use cinnabar_authority_api::records::KeyType;
use cinnabar_edge_api::{Hash, Input, Scheme};

/// Why there is no signature, or no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not PKCS #8, or not of the kind that the certificate says.
    #[error("the key is not of its certificate's kind")]
    Malformed,
    /// The scheme is not for this kind of key, or the input not for the scheme.
    #[error("the scheme does not fit the key")]
    Scheme,
    /// The library failed.
    #[error("the library did not sign")]
    Library,
}

/// See the module.
pub enum SigningKey {
    /// RSA of 2048 to 8192 bits.
    Rsa(rsa::KeyPair),
    /// ECDSA on P-256.
    P256(EcdsaKeyPair),
    /// ECDSA on P-384.
    P384(EcdsaKeyPair),
}

impl SigningKey {
    /// Parses PKCS #8 (RFC 5208), DER.
    ///
    /// # Errors
    /// [`KeyError::Malformed`].
    pub fn from_pkcs8(pkcs8: &[u8], kind: KeyType) -> Result<Self, KeyError> {
        let ecdsa = |algorithm| EcdsaKeyPair::from_pkcs8(algorithm, pkcs8).map_err(|_| KeyError::Malformed);
        match kind {
            KeyType::Rsa(bits) => {
                let key = rsa::KeyPair::from_pkcs8(pkcs8).map_err(|_| KeyError::Malformed)?;
                if key.public_modulus_len() * 8 == usize::from(bits) {
                    Ok(Self::Rsa(key))
                } else {
                    Err(KeyError::Malformed)
                }
            }
            KeyType::P256 => ecdsa(&ECDSA_P256_SHA256_ASN1_SIGNING).map(Self::P256),
            KeyType::P384 => ecdsa(&ECDSA_P384_SHA384_ASN1_SIGNING).map(Self::P384),
        }
    }

    /// Is it the costly kind?
    pub fn is_rsa(&self) -> bool {
        matches!(self, Self::Rsa(_))
    }

    /// The public half as the library encodes it: RSAPublicKey in DER (RFC 8017 appendix A.1.1), or an uncompressed point
    /// (SEC 1 section 2.3.3).
    pub fn public_key(&self) -> &[u8] {
        match self {
            Self::Rsa(key) => key.public_key().as_ref(),
            Self::P256(key) | Self::P384(key) => key.public_key().as_ref(),
        }
    }

    /// The DER SubjectPublicKeyInfo of the public half (RFC 5280 section 4.1.2.7).
    ///
    /// # Errors
    /// [`KeyError::Library`].
    pub fn public_key_der(&self) -> Result<Vec<u8>, KeyError> {
        let der: Result<PublicKeyX509Der<'_>, _> = match self {
            Self::Rsa(key) => key.public_key().as_der(),
            Self::P256(key) | Self::P384(key) => key.public_key().as_der(),
        };
        Ok(der.map_err(|_| KeyError::Library)?.as_ref().to_vec())
    }

    /// Signs; ECDSA signatures are ASN.1, as TLS has them (RFC 8446 section 4.2.3). Takes a processor for 20 to 400 us.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn sign(&self, scheme: Scheme, input: &Input) -> Result<Vec<u8>, KeyError> {
        let random = SystemRandom::new();
        let library = |_| KeyError::Library;
        match (self, scheme) {
            (Self::Rsa(key), _) => {
                let encoding = rsa_encoding(scheme).ok_or(KeyError::Scheme)?;
                let mut signature = vec![0; key.public_modulus_len()];
                match input {
                    Input::Digest(bytes) => {
                        let digest = imported(scheme, bytes)?;
                        key.sign_digest(encoding, &digest, &mut signature).map_err(library)?;
                    }
                    Input::Message(message) => {
                        key.sign(encoding, &random, message, &mut signature).map_err(library)?;
                    }
                }
                Ok(signature)
            }
            (Self::P256(key), Scheme::EcdsaSecp256r1Sha256) | (Self::P384(key), Scheme::EcdsaSecp384r1Sha384) => {
                let signature = match input {
                    Input::Digest(bytes) => key.sign_digest(&imported(scheme, bytes)?),
                    Input::Message(message) => key.sign(&random, message),
                };
                Ok(signature.map_err(library)?.as_ref().to_vec())
            }
            _ => Err(KeyError::Scheme),
        }
    }
}

fn imported(scheme: Scheme, bytes: &[u8]) -> Result<Digest, KeyError> {
    let algorithm = match scheme.hash() {
        Hash::Sha256 => &digest::SHA256,
        Hash::Sha384 => &digest::SHA384,
        Hash::Sha512 => &digest::SHA512,
        Hash::None => return Err(KeyError::Scheme),
    };
    Digest::import_less_safe(bytes, algorithm).map_err(|_| KeyError::Scheme)
}

fn rsa_encoding(scheme: Scheme) -> Option<&'static dyn RsaEncoding> {
    Some(match scheme {
        Scheme::RsaPkcs1Sha256 => &signature::RSA_PKCS1_SHA256,
        Scheme::RsaPkcs1Sha384 => &signature::RSA_PKCS1_SHA384,
        Scheme::RsaPkcs1Sha512 => &signature::RSA_PKCS1_SHA512,
        Scheme::RsaPssRsaeSha256 => &signature::RSA_PSS_SHA256,
        Scheme::RsaPssRsaeSha384 => &signature::RSA_PSS_SHA384,
        Scheme::RsaPssRsaeSha512 => &signature::RSA_PSS_SHA512,
        _ => return None,
    })
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rsa(_) => "SigningKey(RSA)",
            Self::P256(_) => "SigningKey(P-256)",
            Self::P384(_) => "SigningKey(P-384)",
        })
    }
}
