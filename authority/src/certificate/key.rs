//! The private key of an upload: which kind it is, whether it is the leaf's, and its one stored form.
//!
//! Law: a key is taken only if a signature made with it verifies under the leaf's public key; nothing else is believed
//! about it. Whatever held it is wiped.

use aws_lc_rs::encoding::{AsBigEndian, AsDer, EcPrivateKeyBin, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA384_ASN1_SIGNING,
    EcdsaKeyPair, KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256, UnparsedPublicKey,
};
use cinnabar_abe::SecretBytes;
use x509_parser::asn1_rs::{Any, FromDer as _, Oid, Tag};
use x509_parser::certificate::X509Certificate;
use x509_parser::public_key::RSAPublicKey;
use x509_parser::x509::AlgorithmIdentifier;

use super::error::{CertificateError, Field};
use super::pem::{self, KeyFormat};
use crate::limits::{RSA_BITS_MAX, RSA_BITS_MIN, RSA_EXPONENT_BITS_MAX, RSA_EXPONENT_MIN};
use cinnabar_authority_api::records::KeyType;

/// What is signed to see whether key and certificate belong together. No protocol signs this.
const PROOF: &[u8] = b"cinnabar: does this key belong to this certificate?";

/// The length of an uncompressed point, by its first byte and two coordinates.
const P256_POINT_BYTES: usize = 65;
const P384_POINT_BYTES: usize = 97;

const CANNOT_READ: CertificateError = CertificateError::KeyMalformed("its DER is damaged or its parts do not fit");

// === The certificate's side ===

/// Which kind of key the leaf is for.
pub(super) fn of_certificate(leaf: &X509Certificate<'_>) -> Result<KeyType, CertificateError> {
    let field = Field::Certificate;
    let malformed = |problem| CertificateError::Malformed { block: 1, problem };
    let spki = leaf.public_key();
    let key_type = of_algorithm(&spki.algorithm, field)?;
    let key = spki.subject_public_key.data.as_ref();
    let Some(curve) = key_type else {
        let (rest, rsa) = RSAPublicKey::from_der(key).map_err(|_| malformed("its RSA key cannot be read"))?;
        if !rest.is_empty() {
            return Err(malformed("bytes follow its RSA key"));
        }
        let bits = check_rsa(rsa.modulus, rsa.exponent, field)?;
        return Ok(KeyType::Rsa(u16::try_from(bits).expect("below the bound that was checked")));
    };
    let point_bytes = if curve == KeyType::P256 { P256_POINT_BYTES } else { P384_POINT_BYTES };
    if key.len() != point_bytes || key[0] != 4 {
        return Err(malformed("its key is not an uncompressed point of its curve"));
    }
    Ok(curve)
}

/// The curve, or nothing for RSA.
fn of_algorithm(algorithm: &AlgorithmIdentifier<'_>, field: Field) -> Result<Option<KeyType>, CertificateError> {
    let unsupported = |kind: &str| Err(CertificateError::UnsupportedKey { field, kind: kind.to_owned() });
    match algorithm.algorithm.to_id_string().as_str() {
        "1.2.840.113549.1.1.1" => Ok(None),
        "1.2.840.10045.2.1" => {
            let curve = algorithm.parameters().and_then(|any| any.as_oid().ok());
            curve.map_or_else(|| unsupported("a curve without a name"), |oid| of_curve(&oid, field).map(Some))
        }
        "1.2.840.113549.1.1.10" => unsupported("RSA for PSS only"),
        "1.2.840.10040.4.1" => unsupported("DSA"),
        "1.3.101.112" => unsupported("Ed25519"),
        "1.3.101.113" => unsupported("Ed448"),
        number => unsupported(&crate::problem::echo(number)),
    }
}

fn of_curve(curve: &Oid<'_>, field: Field) -> Result<KeyType, CertificateError> {
    let kind = match curve.to_id_string().as_str() {
        "1.2.840.10045.3.1.7" => return Ok(KeyType::P256),
        "1.3.132.0.34" => return Ok(KeyType::P384),
        "1.3.132.0.35" => "ECDSA on P-521".to_owned(),
        "1.3.132.0.10" => "ECDSA on secp256k1".to_owned(),
        number => format!("a key on the curve {}", crate::problem::echo(number)),
    };
    Err(CertificateError::UnsupportedKey { field, kind })
}

/// Checks an RSA key's size and exponent, both as the contents of a DER integer; gives its bits.
fn check_rsa(modulus: &[u8], exponent: &[u8], field: Field) -> Result<usize, CertificateError> {
    let significant = |bytes: &[u8]| {
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        (bytes.len() - zeros) * 8 - bytes.get(zeros).map_or(0, |byte| byte.leading_zeros() as usize)
    };
    let bits = significant(modulus);
    if bits < RSA_BITS_MIN {
        return Err(CertificateError::KeyTooSmall { field, bits });
    }
    if bits > RSA_BITS_MAX {
        return Err(CertificateError::rsa_too_large(field, bits));
    }
    if significant(exponent) > RSA_EXPONENT_BITS_MAX as usize {
        return Err(CertificateError::rsa_exponent(field));
    }
    let exponent = exponent.iter().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    if exponent < RSA_EXPONENT_MIN || exponent % 2 == 0 {
        return Err(CertificateError::rsa_exponent(field));
    }
    Ok(bits)
}

// === The key's side ===

/// Reads a private key that belongs to the leaf; gives it as PKCS #8.
pub(super) fn matching(
    text: &str,
    leaf: &X509Certificate<'_>,
    key_type: KeyType,
) -> Result<SecretBytes, CertificateError> {
    let (format, der) = pem::private_key(text)?;
    let key = PrivateKey::read(format, &der)?;
    if !key.proves(leaf, key_type) {
        return Err(CertificateError::KeyMismatch);
    }
    key.to_pkcs8()
}

/// A key that the signing library took.
enum PrivateKey {
    Rsa(Box<rsa::KeyPair>),
    Ec(KeyType, Box<EcdsaKeyPair>),
}

impl PrivateKey {
    fn read(format: KeyFormat, der: &[u8]) -> Result<Self, CertificateError> {
        let field = Field::PrivateKey;
        let curve = match format {
            KeyFormat::Pkcs1 => None,
            KeyFormat::Sec1 => Some(sec1_curve(der)?),
            KeyFormat::Pkcs8 => of_algorithm(&pkcs8_algorithm(der).ok_or(CANNOT_READ)?, field)?,
        };
        let Some(curve) = curve else {
            return Self::read_rsa(format, der);
        };
        let algorithm =
            if curve == KeyType::P256 { &ECDSA_P256_SHA256_ASN1_SIGNING } else { &ECDSA_P384_SHA384_ASN1_SIGNING };
        let pair = match format {
            KeyFormat::Pkcs8 => EcdsaKeyPair::from_pkcs8(algorithm, der),
            _ => EcdsaKeyPair::from_private_key_der(algorithm, der),
        };
        let pair = pair.map_err(|_| CANNOT_READ)?;
        // Made anew from its two halves: the library writes a key with or without its public half as it read it, and what
        // is stored has one form.
        let private: EcPrivateKeyBin<'_> = pair.private_key().as_be_bytes().map_err(|_| CANNOT_READ)?;
        let whole =
            EcdsaKeyPair::from_private_key_and_public_key(algorithm, private.as_ref(), pair.public_key().as_ref());
        Ok(Self::Ec(curve, Box::new(whole.map_err(|_| CANNOT_READ)?)))
    }

    fn read_rsa(format: KeyFormat, der: &[u8]) -> Result<Self, CertificateError> {
        let pkcs1 = if format == KeyFormat::Pkcs8 { pkcs8_contents(der).ok_or(CANNOT_READ)? } else { der };
        // Before the library, which would refuse a size without saying so.
        let [_, modulus, exponent] = children(pkcs1).ok_or(CANNOT_READ)?;
        check_rsa(modulus.data, exponent.data, Field::PrivateKey)?;
        let pair = rsa::KeyPair::from_der(pkcs1).map_err(|_| CANNOT_READ)?;
        Ok(Self::Rsa(Box::new(pair)))
    }

    /// Whether the leaf's public key verifies what this key signs.
    fn proves(&self, leaf: &X509Certificate<'_>, key_type: KeyType) -> bool {
        let public = leaf.public_key().subject_public_key.data.as_ref();
        let rng = SystemRandom::new();
        match (self, key_type) {
            (Self::Rsa(pair), KeyType::Rsa(_)) if pair.public_key().as_ref() == public => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &rng, PROOF, &mut signature).is_ok()
                    && UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public).verify(PROOF, &signature).is_ok()
            }
            (Self::Ec(own, pair), other) if *own == other && pair.public_key().as_ref() == public => {
                let verifier = if other == KeyType::P256 { &ECDSA_P256_SHA256_ASN1 } else { &ECDSA_P384_SHA384_ASN1 };
                pair.sign(&rng, PROOF).is_ok_and(|signature| {
                    UnparsedPublicKey::new(verifier, public).verify(PROOF, signature.as_ref()).is_ok()
                })
            }
            _ => false,
        }
    }

    fn to_pkcs8(&self) -> Result<SecretBytes, CertificateError> {
        // Both wipe their own buffer when they are dropped.
        match self {
            Self::Rsa(pair) => {
                let der: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| CANNOT_READ)?;
                Ok(SecretBytes::new(der.as_ref().to_vec()))
            }
            Self::Ec(_, pair) => {
                let der = pair.to_pkcs8v1().map_err(|_| CANNOT_READ)?;
                Ok(SecretBytes::new(der.as_ref().to_vec()))
            }
        }
    }
}

// === DER ===

/// The first elements of a sequence that fills its bytes.
fn children<const N: usize>(der: &[u8]) -> Option<[Any<'_>; N]> {
    let (rest, whole) = Any::from_der(der).ok()?;
    if !rest.is_empty() || whole.tag() != Tag::Sequence {
        return None;
    }
    let mut left = whole.data;
    let mut found = Vec::with_capacity(N);
    for _ in 0..N {
        let (rest, element) = Any::from_der(left).ok()?;
        found.push(element);
        left = rest;
    }
    found.try_into().ok()
}

/// The algorithm of a PKCS #8 key: `SEQUENCE { version, AlgorithmIdentifier, OCTET STRING, .. }`.
fn pkcs8_algorithm(der: &[u8]) -> Option<AlgorithmIdentifier<'_>> {
    pkcs8_contents(der)?;
    let (_, whole) = Any::from_der(der).ok()?;
    let (behind_version, _) = Any::from_der(whole.data).ok()?;
    Some(AlgorithmIdentifier::from_der(behind_version).ok()?.1)
}

/// The key inside a PKCS #8 key, in its algorithm's own format.
fn pkcs8_contents(der: &[u8]) -> Option<&[u8]> {
    let [_, _, contents] = children(der)?;
    (contents.tag() == Tag::OctetString).then_some(contents.data)
}

/// The curve of an RFC 5915 key: `SEQUENCE { version, OCTET STRING, [0] curve, .. }`.
fn sec1_curve(der: &[u8]) -> Result<KeyType, CertificateError> {
    let unnamed = || CertificateError::KeyMalformed("it does not name its curve; send it as PKCS #8");
    let [_, _, parameters] = children(der).ok_or(CANNOT_READ)?;
    if parameters.tag() != Tag(0) {
        return Err(unnamed());
    }
    let (_, curve) = Oid::from_der(parameters.data).map_err(|_| unnamed())?;
    of_curve(&curve, Field::PrivateKey)
}
