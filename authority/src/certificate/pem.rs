//! PEM blocks as customers send them (RFC 7468), and nothing that is not one.
//!
//! Law: text between blocks is ignored, as tools write names and dates there; a block of another kind, a damaged border or
//! a header inside a block is refused, never skipped. Buffers have their full size from the start and are wiped, since a
//! private key passes through them; decoding takes no time that depends on the bytes.

use base64ct::{Base64, Encoding};
use zeroize::Zeroizing;

use super::error::{CertificateError, Field};
use crate::limits::{
    CHAIN_BYTES_MAX, CHAIN_CERTIFICATES_MAX, PEM_BYTES_MAX, PEM_LABEL_BYTES_MAX, PRIVATE_KEY_BYTES_MAX,
};
use crate::problem::echo;

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const BORDER: &str = "-----";

/// Blocks of one private key: the key, and the parameters that OpenSSL writes before one on a curve.
const KEY_BLOCKS_MAX: usize = 2;

const ESCAPED: &str = "the line breaks arrived as the two characters `\\` and `n`: escape the text once, not twice";
const ONE_LINE: &str = "keep the line breaks of the PEM text";

/// How a private key is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyFormat {
    /// RFC 5958, any kind of key.
    Pkcs8,
    /// RFC 8017, RSA.
    Pkcs1,
    /// RFC 5915, elliptic curves.
    Sec1,
}

/// One block, decoded.
struct Block<'a> {
    label: &'a str,
    line: usize,
    encrypted: bool,
    der: Zeroizing<Vec<u8>>,
}

/// The certificates of a chain as DER, in the order of the text.
pub(super) fn certificates(text: &str) -> Result<Vec<Vec<u8>>, CertificateError> {
    let field = Field::Certificate;
    let expected = "CERTIFICATE";
    let blocks = blocks(text, field, CHAIN_CERTIFICATES_MAX)?;
    if blocks.is_empty() {
        return Err(CertificateError::NoBlock { field, expected, hint: whole_text_hint(text) });
    }
    let mut ders = Vec::with_capacity(blocks.len());
    for Block { label, line, der, encrypted } in blocks {
        if label != expected || encrypted {
            let hint = match label {
                _ if label.ends_with("PRIVATE KEY") => Some("the private key belongs in `private_key`"),
                "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => {
                    Some("this is the request; send the certificate that was issued for it")
                }
                "TRUSTED CERTIFICATE" | "X509 CERTIFICATE" => Some("convert it: openssl x509 -in old.pem -out new.pem"),
                "PKCS7" => Some("convert it: openssl pkcs7 -print_certs -in old.pem -out new.pem"),
                _ => None,
            };
            return Err(CertificateError::ForeignBlock { field, line, label: echo(label), expected, hint });
        }
        // A certificate is public: it leaves the wiped buffer.
        ders.push(der.to_vec());
    }
    if ders.iter().map(Vec::len).sum::<usize>() > CHAIN_BYTES_MAX {
        return Err(CertificateError::ChainTooLong);
    }
    Ok(ders)
}

/// The one private key of a text, as DER in its own format.
pub(super) fn private_key(text: &str) -> Result<(KeyFormat, Zeroizing<Vec<u8>>), CertificateError> {
    let field = Field::PrivateKey;
    let expected = "one private key";
    let mut key = None;
    for Block { label, line, der, encrypted } in blocks(text, field, KEY_BLOCKS_MAX)? {
        let format = match label {
            _ if encrypted || label == "ENCRYPTED PRIVATE KEY" => return Err(CertificateError::KeyEncrypted),
            "PRIVATE KEY" => KeyFormat::Pkcs8,
            "RSA PRIVATE KEY" => KeyFormat::Pkcs1,
            "EC PRIVATE KEY" => KeyFormat::Sec1,
            // What `openssl ecparam -genkey` writes before the key, which says the same itself.
            "EC PARAMETERS" if key.is_none() => continue,
            "DSA PRIVATE KEY" => return Err(CertificateError::UnsupportedKey { field, kind: "DSA".to_owned() }),
            _ => {
                let hint = match label {
                    "OPENSSH PRIVATE KEY" => Some("convert it: ssh-keygen -p -m PKCS8 -f key"),
                    "CERTIFICATE" => Some("the chain belongs in `certificate`"),
                    "PUBLIC KEY" | "RSA PUBLIC KEY" => Some("this is the public half; send the private key"),
                    _ => None,
                };
                return Err(CertificateError::ForeignBlock { field, line, label: echo(label), expected, hint });
            }
        };
        if key.is_some() {
            return Err(CertificateError::KeyMalformed("more than one private key"));
        }
        if der.len() > PRIVATE_KEY_BYTES_MAX {
            return Err(CertificateError::KeyMalformed("larger than any key that is taken"));
        }
        key = Some((format, der));
    }
    key.ok_or(CertificateError::NoBlock { field, expected, hint: whole_text_hint(text) })
}

/// What may have happened to a text without any block.
fn whole_text_hint(text: &str) -> Option<&'static str> {
    if text.contains("\\n") {
        return Some(ESCAPED);
    }
    Some("send PEM text, which begins with -----BEGIN, not DER and not a file's name")
}

/// Every block of a text, at most `max`.
fn blocks(text: &str, field: Field, max: usize) -> Result<Vec<Block<'_>>, CertificateError> {
    if text.len() > PEM_BYTES_MAX {
        return Err(CertificateError::TooLarge { field, actual: text.len() });
    }
    let fault = |line, problem, hint| CertificateError::Pem { field, line, problem, hint };
    let mut blocks = Vec::new();
    let mut lines = (1..).zip(text.trim_start_matches('\u{feff}').lines().map(str::trim));
    while let Some((line, border)) = lines.next() {
        let Some(label) = begin(border) else {
            if border.contains("\\n") && border.contains(BORDER) {
                return Err(fault(line, "a block without line breaks", Some(ESCAPED)));
            }
            if border.contains("-----BEGIN") || border.contains("-----END") {
                return Err(fault(line, "a border of a block that is not a line of its own", Some(ONE_LINE)));
            }
            continue;
        };
        if blocks.len() == max {
            return Err(match field {
                Field::Certificate => CertificateError::ChainTooLong,
                Field::PrivateKey => CertificateError::KeyMalformed("more than one private key"),
            });
        }
        let body = body(&mut lines, label, text.len())
            .map_err(|at| fault(at.unwrap_or(line), "a block that is not closed by its own END line", None))?;
        let encrypted = body.encrypted;
        if body.headers && !encrypted {
            return Err(fault(line, "a block with headers inside", None));
        }
        // What is encrypted is refused by its label's reader; its bytes mean nothing here.
        let der = if encrypted { Zeroizing::default() } else { decode(&body.base64) };
        if der.is_empty() && !encrypted {
            return Err(fault(line, "a block that is not base64", None));
        }
        blocks.push(Block { label, line, encrypted, der });
    }
    Ok(blocks)
}

/// The label of a BEGIN line.
fn begin(line: &str) -> Option<&str> {
    let label = line.strip_prefix(BEGIN)?.strip_suffix(BORDER)?;
    let plain = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b' ');
    (plain && !label.is_empty() && label.len() <= PEM_LABEL_BYTES_MAX).then_some(label)
}

/// What stands between the two borders.
struct Body {
    base64: Zeroizing<Vec<u8>>,
    headers: bool,
    encrypted: bool,
}

/// Reads up to the END line; the error is the line of a border that does not belong there, or none at the end.
fn body<'a>(
    lines: &mut impl Iterator<Item = (usize, &'a str)>,
    label: &str,
    capacity: usize,
) -> Result<Body, Option<usize>> {
    let mut body = Body { base64: Zeroizing::new(Vec::with_capacity(capacity)), headers: false, encrypted: false };
    for (at, line) in lines {
        if line.strip_prefix(END).and_then(|rest| rest.strip_suffix(BORDER)) == Some(label) {
            return Ok(body);
        }
        if line.starts_with(BORDER) {
            return Err(Some(at));
        }
        // RFC 1421's headers, as OpenSSL's old format for encrypted keys has them. Base64 has no colon.
        if line.contains(':') {
            body.headers = true;
            body.encrypted |= line.starts_with("Proc-Type:") && line.ends_with("ENCRYPTED");
        } else {
            body.base64.extend(line.bytes().filter(|byte| !byte.is_ascii_whitespace()));
        }
    }
    Err(None)
}

/// Decoded base64; empty if it is none.
fn decode(base64: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut out = Zeroizing::new(vec![0; base64.len() / 4 * 3]);
    let len = Base64::decode(base64, &mut out).map_or(0, <[u8]>::len);
    out.truncate(len);
    out
}
