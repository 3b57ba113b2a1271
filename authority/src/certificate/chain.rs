//! The certificates of an upload: what each says, their order, and whether each was signed by the next.
//!
//! Law: each certificate's issuer is the next one's subject, byte for byte, and the next one's key verifies its signature
//! with an algorithm that TLS clients take. The last one's own issuer is not here, so nothing is said about its signature.

use std::collections::HashSet;

use webpki::ALL_VERIFICATION_ALGS;
use x509_parser::asn1_rs::{Any, FromDer as _};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::x509::X509Version;

use super::error::{CertificateError, OrderFault};
use crate::hostname;
use crate::limits::{HOSTNAMES_MAX, ISSUER_BYTES_MAX, NOT_BEFORE_SKEW_S};
use crate::problem::echo;
use cinnabar_authority_api::Hostname;

/// The extension that makes a precertificate useless on purpose (RFC 6962 section 3.1).
const CT_POISON: &str = "1.3.6.1.4.1.11129.2.4.3";

/// Reads every block; at least one.
pub(super) fn parse(blocks: &[Vec<u8>]) -> Result<Vec<X509Certificate<'_>>, CertificateError> {
    blocks.iter().enumerate().map(|(n, der)| parse_one(der).map_err(|problem| malformed(n, problem))).collect()
}

fn parse_one(der: &[u8]) -> Result<X509Certificate<'_>, &'static str> {
    let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| "its DER cannot be read")?;
    if !rest.is_empty() {
        return Err("bytes follow its end");
    }
    if certificate.tbs_certificate.signature != certificate.signature_algorithm {
        return Err("it names two signature algorithms");
    }
    if certificate.signature_value.unused_bits != 0 || certificate.public_key().subject_public_key.unused_bits != 0 {
        return Err("a string of bits that is not whole bytes");
    }
    if certificate.extensions_map().is_err() {
        return Err("it has an extension twice");
    }
    // Whether it is an authority is asked often; here once whether that can be known.
    if certificate.basic_constraints().is_err() {
        return Err("its basic constraints cannot be read");
    }
    Ok(certificate)
}

fn malformed(n: usize, problem: &'static str) -> CertificateError {
    CertificateError::Malformed { block: n + 1, problem }
}

// === Order ===

/// Checks that the leaf is first and each certificate is followed by its issuer.
pub(super) fn check_order(chain: &[X509Certificate<'_>]) -> Result<(), CertificateError> {
    let fault = |fault| Err(CertificateError::Order(fault));
    for (n, certificate) in chain.iter().enumerate() {
        if let Some(first) = chain[..n].iter().position(|earlier| earlier.as_raw() == certificate.as_raw()) {
            return fault(OrderFault::Repeated { block: n + 1, first: first + 1 });
        }
    }
    if chain[0].is_ca() {
        return match chain.iter().position(|certificate| !certificate.is_ca()) {
            Some(leaf) if chain[leaf].version() == X509Version::V3 => {
                fault(OrderFault::Misplaced { block: leaf + 1, place: 1 })
            }
            _ => Err(CertificateError::LeafIsAuthority),
        };
    }
    for (n, pair) in chain.windows(2).enumerate() {
        let wanted = pair[0].issuer().as_raw();
        if pair[1].subject().as_raw() != wanted {
            return fault(match chain.iter().position(|other| other.subject().as_raw() == wanted) {
                Some(other) if other > n => OrderFault::Misplaced { block: other + 1, place: n + 2 },
                _ => OrderFault::NoIssuer { block: n + 1 },
            });
        }
        if !may_issue(&pair[1], n + 2 == chain.len()) {
            return fault(OrderFault::NotAuthority { block: n + 2 });
        }
    }
    Ok(())
}

/// Roots from before version 3 have no way to say that they are authorities; nobody asks them, since they are roots.
fn may_issue(certificate: &X509Certificate<'_>, last: bool) -> bool {
    certificate.is_ca() || (last && certificate.version() == X509Version::V1)
}

// === Signatures ===

/// Checks every signature whose key is here, and says how the leaf is signed.
pub(super) fn check_signatures(chain: &[X509Certificate<'_>]) -> Result<&'static str, CertificateError> {
    let algorithm = signature_algorithm(&chain[0], 1)?;
    for (n, pair) in chain.windows(2).enumerate() {
        let block = n + 1;
        signature_algorithm(&pair[0], block)?;
        if !is_signed_by(&pair[0], &pair[1]) {
            return Err(CertificateError::Signature { block });
        }
    }
    Ok(algorithm)
}

/// The name of the algorithm that signed a certificate, if clients take it.
fn signature_algorithm(certificate: &X509Certificate<'_>, block: usize) -> Result<&'static str, CertificateError> {
    let number = certificate.signature_algorithm.algorithm.to_id_string();
    let (name, taken) = match number.as_str() {
        "1.2.840.113549.1.1.11" => ("SHA256WithRSA", true),
        "1.2.840.113549.1.1.12" => ("SHA384WithRSA", true),
        "1.2.840.113549.1.1.13" => ("SHA512WithRSA", true),
        "1.2.840.113549.1.1.10" => ("RSASSA-PSS", true),
        "1.2.840.10045.4.3.2" => ("ECDSAWithSHA256", true),
        "1.2.840.10045.4.3.3" => ("ECDSAWithSHA384", true),
        "1.2.840.10045.4.3.4" => ("ECDSAWithSHA512", true),
        "1.3.101.112" => ("Ed25519", true),
        "1.2.840.113549.1.1.2" | "1.2.840.113549.1.1.4" => ("MD5WithRSA", false),
        "1.2.840.113549.1.1.5" | "1.3.14.3.2.29" => ("SHA1WithRSA", false),
        "1.2.840.10045.4.1" => ("ECDSAWithSHA1", false),
        _ => ("", false),
    };
    // The parameters too: those of RSASSA-PSS name the hash.
    let identifier = outer_algorithm(certificate);
    let known = ALL_VERIFICATION_ALGS.iter().any(|known| Some(known.signature_alg_id().as_ref()) == identifier);
    if taken && known {
        return Ok(name);
    }
    let algorithm = if name.is_empty() { echo(&number) } else { name.to_owned() };
    Err(CertificateError::SignatureAlgorithm { block, algorithm })
}

fn is_signed_by(certificate: &X509Certificate<'_>, issuer: &X509Certificate<'_>) -> bool {
    let key = issuer.public_key();
    let (Some(signature_id), Some(key_id)) = (outer_algorithm(certificate), first_inside(key.raw)) else {
        return false;
    };
    let fits = ALL_VERIFICATION_ALGS.iter().filter(|algorithm| {
        algorithm.signature_alg_id().as_ref() == signature_id && algorithm.public_key_alg_id().as_ref() == key_id
    });
    let (key, message) = (key.subject_public_key.data.as_ref(), certificate.tbs_certificate.as_ref());
    let signature = certificate.signature_value.data.as_ref();
    // One pair of identifiers may have several algorithms, by the size of the key.
    fits.into_iter().any(|algorithm| algorithm.verify_signature(key, message, signature).is_ok())
}

/// The contents of the AlgorithmIdentifier behind the part that is signed, as DER.
fn outer_algorithm<'a>(certificate: &X509Certificate<'a>) -> Option<&'a [u8]> {
    let (_, whole) = Any::from_der(certificate.as_raw()).ok()?;
    let behind = whole.data.get(certificate.tbs_certificate.as_ref().len()..)?;
    Some(Any::from_der(behind).ok()?.1.data)
}

/// The contents of the first element inside a DER sequence.
fn first_inside(der: &[u8]) -> Option<&[u8]> {
    let (_, whole) = Any::from_der(der).ok()?;
    Some(Any::from_der(whole.data).ok()?.1.data)
}

// === What the leaf says ===

/// A certificate's first and last second.
fn seconds(certificate: &X509Certificate<'_>) -> [u64; 2] {
    let validity = certificate.validity();
    [validity.not_before, validity.not_after].map(|time| u64::try_from(time.timestamp()).unwrap_or(0))
}

/// What is shown of a leaf that was checked once.
pub(super) fn describe(leaf: &X509Certificate<'_>) -> Result<super::Described, CertificateError> {
    let [not_before_s, not_after_s] = seconds(leaf);
    let signature_algorithm = signature_algorithm(leaf, 1)?;
    Ok(super::Described { issuer: issuer(leaf), signature_algorithm, not_before_s, not_after_s })
}

/// Checks that every certificate is valid now; gives the leaf's first and last second.
pub(super) fn check_validity(chain: &[X509Certificate<'_>], now_s: u64) -> Result<(u64, u64), CertificateError> {
    for (n, certificate) in chain.iter().enumerate() {
        let (block, [not_before_s, not_after_s]) = (n + 1, seconds(certificate));
        if not_after_s < now_s {
            return Err(CertificateError::Expired { block, not_after_s });
        }
        if not_before_s > now_s.saturating_add(NOT_BEFORE_SKEW_S) {
            return Err(CertificateError::NotYetValid { block, not_before_s });
        }
    }
    let [from, to] = seconds(&chain[0]);
    Ok((from, to))
}

/// Checks that the leaf may be a TLS server's (RFC 5280 sections 4.2.1.3 and 4.2.1.12).
pub(super) fn check_purpose(leaf: &X509Certificate<'_>) -> Result<(), CertificateError> {
    if leaf.extensions().iter().any(|extension| extension.oid.to_id_string() == CT_POISON) {
        return Err(CertificateError::Purpose("it is a precertificate, made for transparency logs only"));
    }
    let extended = leaf.extended_key_usage().map_err(|_| malformed(0, "its extended key usage cannot be read"))?;
    if extended.is_some_and(|usage| !usage.value.server_auth && !usage.value.any) {
        return Err(CertificateError::Purpose("its extended key usage lacks serverAuth"));
    }
    let usage = leaf.key_usage().map_err(|_| malformed(0, "its key usage cannot be read"))?;
    if usage.is_some_and(|usage| !usage.value.digital_signature()) {
        return Err(CertificateError::Purpose("its key usage lacks digitalSignature, which every handshake needs"));
    }
    Ok(())
}

/// The DNS names of the leaf, in its order, without repeats.
pub(super) fn hostnames(leaf: &X509Certificate<'_>) -> Result<Vec<Hostname>, CertificateError> {
    let names =
        leaf.subject_alternative_name().map_err(|_| malformed(0, "its subject alternative names cannot be read"))?;
    let names = names.map_or(&[][..], |names| names.value.general_names.as_slice());
    let (mut seen, mut hostnames) = (HashSet::new(), Vec::new());
    for name in names {
        match name {
            GeneralName::DNSName(name) => {
                let hostname = hostname::from_certificate(name)
                    .map_err(|source| CertificateError::Hostname { name: echo(name), source })?;
                if seen.insert(hostname.clone()) {
                    hostnames.push(hostname);
                }
            }
            GeneralName::Invalid(..) => return Err(malformed(0, "its subject alternative names cannot be read")),
            _ => {}
        }
    }
    match hostnames.len() {
        0 => Err(CertificateError::NoHostnames),
        actual if actual > HOSTNAMES_MAX => Err(CertificateError::TooManyHostnames { actual }),
        _ => Ok(hostnames),
    }
}

/// Who issued the leaf, in a few printable words.
pub(super) fn issuer(leaf: &X509Certificate<'_>) -> String {
    let issuer = leaf.issuer();
    let mut short = issuer.iter_organization().chain(issuer.iter_common_name()).filter_map(|name| name.as_str().ok());
    let name = short.next().map_or_else(|| issuer.to_string(), str::to_owned);
    let mut shown: String = name.chars().filter(|c| !c.is_control()).collect();
    shown.truncate(shown.floor_char_boundary(ISSUER_BYTES_MAX));
    shown
}
