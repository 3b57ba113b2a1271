//! Sealed files: one secret at rest, closed to passphrases and operators' keys.
//!
//! The road: [`seal`] draws a file key, encrypts the secret with it and closes the file key to each recipient;
//! [`SealedFile::from_bytes`] reads the structure, [`SealedFile::open_with_passphrase`] and
//! [`SealedFile::open_with_key`] open it. Any one recipient opens the whole.
//!
//! Law: a sealed file opens only as what it was sealed as (purpose and cluster), and only whole: the secret's associated
//! data are all bytes before it, so that no stanza can be changed, added, moved or left out. Whatever fails from the
//! first key on is one error, [`Error::Rejected`]. A file says who can open it, and does *not* say who made it: anybody
//! can seal to a public key.
//!
//! Layout: `docs/formats.md#sealed-file`. Source: XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03), RFC 9106 (Argon2id),
//! RFC 9180 (HPKE) as in [`crate::envelope`].

mod operator;
mod passphrase;

use std::fmt;

use chacha20poly1305::aead::{Aead, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305, XNonce};
use rand_core::CryptoRng;
use zeroize::Zeroizing;

pub use self::operator::{
    FINGERPRINT_BYTES, Fingerprint, OperatorPublicKey, OperatorSecretKey, PUBLIC_TEXT_BYTES, SECRET_TEXT_BYTES,
};
use self::passphrase::SALT_BYTES;
pub use self::passphrase::{PassphraseCost, check_passphrase};
use crate::codec::{Reader, Writer};
use crate::envelope::{X25519_BYTES, hpke_open, hpke_seal, length_prefixed};
use crate::error::Error;
use crate::limits::{
    ARGON2_WORK_MAX, NAME_BYTES_MAX, SEALED_PURPOSE_BYTES_MAX, SEALED_RECIPIENTS_MAX, SEALED_SECRET_BYTES_MAX,
};
use crate::secret::SecretBytes;

const MAGIC: &[u8; 8] = b"CINNASEL";
const FORMAT: u8 = 1;
const KEY_BYTES: usize = 32;
const NONCE_BYTES: usize = 24;
const TAG_BYTES: usize = 16;
/// Bytes of the file key as a stanza carries it.
const CLOSED_KEY_BYTES: usize = KEY_BYTES + TAG_BYTES;
const PASSPHRASE_KIND: u8 = 1;
const OPERATOR_KIND: u8 = 2;
const STANZA_BYTES_MAX: usize = 1 + 4 + 4 + SALT_BYTES + NONCE_BYTES + CLOSED_KEY_BYTES;
/// Most bytes of a sealed file.
pub const SEALED_FILE_BYTES_MAX: usize = MAGIC.len()
    + 1
    + (2 + SEALED_PURPOSE_BYTES_MAX)
    + (2 + NAME_BYTES_MAX)
    + 1
    + SEALED_RECIPIENTS_MAX * (2 + STANZA_BYTES_MAX)
    + NONCE_BYTES
    + (4 + SEALED_SECRET_BYTES_MAX + TAG_BYTES);
const _: () = assert!(SEALED_RECIPIENTS_MAX <= u8::MAX as usize);

const PASSPHRASE_DOMAIN: &[u8] = b"cinnabar sealed file v1 passphrase";
const OPERATOR_INFO_DOMAIN: &[u8] = b"cinnabar sealed file v1 operator info";
const OPERATOR_AAD_DOMAIN: &[u8] = b"cinnabar sealed file v1 operator aad";

/// To whom a new file is sealed.
#[derive(Debug, Clone, Copy)]
pub enum Recipient<'a> {
    /// Whoever knows the passphrase: [`PASSPHRASE_BYTES_MIN`](crate::limits::PASSPHRASE_BYTES_MIN) to
    /// [`PASSPHRASE_BYTES_MAX`](crate::limits::PASSPHRASE_BYTES_MAX) bytes.
    Passphrase {
        /// The passphrase, as bytes: nothing is normalised.
        passphrase: &'a SecretBytes,
        /// What a guess costs.
        cost: PassphraseCost,
    },
    /// Whoever holds the operator's secret key.
    Operator(OperatorPublicKey),
}

/// A recipient as a sealed file names it. All of it is public.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecipientInfo {
    /// A passphrase, and what a guess costs.
    Passphrase(PassphraseCost),
    /// An operator's key.
    Operator(OperatorPublicKey),
}

impl fmt::Display for RecipientInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passphrase(cost) => {
                write!(f, "passphrase (argon2id, {} KiB, {} passes)", cost.memory_kib(), cost.passes())
            }
            Self::Operator(key) => write!(f, "operator key {}", key.fingerprint()),
        }
    }
}

/// Seals a secret of at most [`SEALED_SECRET_BYTES_MAX`] bytes as `purpose` of `cluster`, to 1 to
/// [`SEALED_RECIPIENTS_MAX`] recipients; returns the file's bytes.
///
/// `purpose` says what the secret is, for people and as a bound: 1 to [`SEALED_PURPOSE_BYTES_MAX`] printable ASCII
/// characters. Constant time in the secret's bytes, not in its length, which the file shows.
///
/// # Errors
/// [`Error::Sealing`] for a purpose that does not print, no or too many recipients, an operator key that is there
/// twice, passphrases that together cost more than [`ARGON2_WORK_MAX`]; [`Error::TooShort`] and [`Error::TooLong`] for
/// secret, cluster or passphrase; [`Error::NoMemory`].
pub fn seal(
    rng: &mut impl CryptoRng,
    purpose: &str,
    cluster: &[u8],
    secret: &SecretBytes,
    recipients: &[Recipient<'_>],
) -> Result<Vec<u8>, Error> {
    let refused = |what| move |problem| Error::Sealing { what, problem };
    check_purpose(purpose.as_bytes()).map_err(refused("purpose"))?;
    for (what, actual, max) in
        [("cluster id", cluster.len(), NAME_BYTES_MAX), ("secret", secret.len(), SEALED_SECRET_BYTES_MAX)]
    {
        if actual > max {
            return Err(Error::TooLong { what, actual, max });
        }
    }
    let infos: Vec<_> = recipients.iter().map(Recipient::info).collect();
    check_recipients(&infos).map_err(refused("recipients"))?;

    let mut file_key = Zeroizing::new([0; KEY_BYTES]);
    rng.fill_bytes(&mut *file_key);
    let mut out = Writer::default();
    out.bytes(MAGIC);
    out.bytes(&[FORMAT]);
    out.field16(purpose.as_bytes(), "purpose")?;
    out.field16(cluster, "cluster id")?;
    out.bytes(&[u8::try_from(recipients.len()).expect("check_recipients bounds their number")]);
    for recipient in recipients {
        let stanza = Stanza::close(rng, purpose, cluster, recipient, &file_key)?;
        out.field16(&stanza.encode(), "stanza")?;
    }
    let mut nonce = [0; NONCE_BYTES];
    rng.fill_bytes(&mut nonce);
    out.bytes(&nonce);
    let sealed = encrypt(&file_key, &nonce, secret.expose(), &out.0);
    out.field32(&sealed, "sealed secret")?;
    assert!(out.0.len() <= SEALED_FILE_BYTES_MAX, "the parts are bounded");
    Ok(out.0)
}

impl Recipient<'_> {
    fn info(&self) -> RecipientInfo {
        match *self {
            Self::Passphrase { cost, .. } => RecipientInfo::Passphrase(cost),
            Self::Operator(key) => RecipientInfo::Operator(key),
        }
    }
}

// === SealedFile ===

/// A sealed file whose structure was read. Nothing of it is believed before it opens.
#[derive(Debug, Clone)]
pub struct SealedFile {
    purpose: String,
    cluster: Vec<u8>,
    stanzas: Vec<Stanza>,
    nonce: [u8; NONCE_BYTES],
    /// All bytes before the sealed secret, as they were read.
    header: Vec<u8>,
    sealed: Vec<u8>,
}

impl SealedFile {
    /// Reads a file's structure: no key, no passphrase, no work that the bytes could choose.
    ///
    /// # Errors
    /// [`Error::Malformed`] for another format, for parameters outside their bounds and for left-over bytes;
    /// [`Error::TooLong`] past a bound.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(bytes, "sealed file");
        let at = reader.clone();
        if reader.array()? != MAGIC {
            return Err(at.malformed("it does not begin as a sealed file"));
        }
        let at = reader.clone();
        if reader.u8()? != FORMAT {
            return Err(at.malformed("the format byte is not 1"));
        }
        let mut field = reader.field16("purpose")?;
        let at = field.clone();
        let purpose = field.rest();
        check_purpose(purpose).map_err(|problem| at.malformed(problem))?;
        let purpose = String::from_utf8(purpose.to_vec()).expect("a purpose is ASCII");
        let cluster = bounded(reader.field16("cluster id")?.rest(), "cluster id", NAME_BYTES_MAX)?;
        let at = reader.clone().named("recipients");
        let count = reader.u8()?;
        let stanzas: Vec<_> =
            (0..count).map(|_| Stanza::read(reader.field16("stanza")?)).collect::<Result<_, Error>>()?;
        let infos: Vec<_> = stanzas.iter().map(Stanza::info).collect();
        check_recipients(&infos).map_err(|problem| at.malformed(problem))?;
        let nonce = *reader.array()?;
        let header = bytes[..reader.at()].to_vec();
        let mut field = reader.field32("sealed secret")?;
        let at = field.clone();
        let sealed = bounded(field.rest(), "sealed secret", SEALED_SECRET_BYTES_MAX + TAG_BYTES)?;
        if sealed.len() < TAG_BYTES {
            return Err(at.malformed("the bytes end too early"));
        }
        reader.finish()?;
        Ok(Self { purpose, cluster, stanzas, nonce, header, sealed })
    }

    /// What the file says that its secret is.
    pub fn purpose(&self) -> &str {
        &self.purpose
    }

    /// The cluster that the file says it belongs to.
    pub fn cluster(&self) -> &[u8] {
        &self.cluster
    }

    /// Who can open the file, in its order.
    pub fn recipients(&self) -> impl ExactSizeIterator<Item = RecipientInfo> + '_ {
        self.stanzas.iter().map(Stanza::info)
    }

    /// Opens the file as `purpose` of `cluster` with a passphrase. Each passphrase stanza takes the time and memory
    /// that it names, together at most [`ARGON2_WORK_MAX`] KiB passes.
    ///
    /// # Errors
    /// [`Error::Rejected`] for another passphrase, purpose or cluster, a changed byte, and where there is no passphrase
    /// among the recipients; [`Error::TooShort`], [`Error::TooLong`], [`Error::NoMemory`] before it was tried.
    pub fn open_with_passphrase(
        &self,
        purpose: &str,
        cluster: &[u8],
        passphrase: &SecretBytes,
    ) -> Result<SecretBytes, Error> {
        check_passphrase(passphrase)?;
        self.open(purpose, cluster, |stanza| stanza.open_with_passphrase(purpose, cluster, passphrase))
    }

    /// Opens the file as `purpose` of `cluster` with an operator's key.
    ///
    /// # Errors
    /// [`Error::Rejected`] for another key, purpose or cluster and for a changed byte.
    pub fn open_with_key(&self, purpose: &str, cluster: &[u8], key: &OperatorSecretKey) -> Result<SecretBytes, Error> {
        let public = key.public_key();
        self.open(purpose, cluster, |stanza| stanza.open_with_key(purpose, cluster, key, &public))
    }

    fn open(
        &self,
        purpose: &str,
        cluster: &[u8],
        open_stanza: impl Fn(&Stanza) -> Result<Zeroizing<[u8; KEY_BYTES]>, Error>,
    ) -> Result<SecretBytes, Error> {
        if self.purpose != purpose || self.cluster != cluster {
            return Err(Error::Rejected);
        }
        for stanza in &self.stanzas {
            match open_stanza(stanza) {
                Ok(file_key) => return decrypt(&file_key, &self.nonce, &self.sealed, &self.header),
                Err(Error::Rejected) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Rejected)
    }
}

// === Stanza ===

/// The file key, closed to one recipient.
#[derive(Debug, Clone)]
enum Stanza {
    Passphrase {
        cost: PassphraseCost,
        salt: [u8; SALT_BYTES],
        nonce: [u8; NONCE_BYTES],
        file_key: [u8; CLOSED_KEY_BYTES],
    },
    Operator {
        key: OperatorPublicKey,
        encapsulated: [u8; X25519_BYTES],
        file_key: [u8; CLOSED_KEY_BYTES],
    },
}

impl Stanza {
    fn close(
        rng: &mut impl CryptoRng,
        purpose: &str,
        cluster: &[u8],
        recipient: &Recipient<'_>,
        file_key: &[u8; KEY_BYTES],
    ) -> Result<Self, Error> {
        let whole = |closed: Vec<u8>| closed.try_into().expect("32 bytes and a tag");
        match *recipient {
            Recipient::Passphrase { passphrase, cost } => {
                let (mut salt, mut nonce) = ([0; SALT_BYTES], [0; NONCE_BYTES]);
                rng.fill_bytes(&mut salt);
                rng.fill_bytes(&mut nonce);
                let key = cost.derive(passphrase, &salt)?;
                let aad = binding(PASSPHRASE_DOMAIN, purpose, cluster, &passphrase_parts(cost, &salt));
                Ok(Self::Passphrase { cost, salt, nonce, file_key: whole(encrypt(&key, &nonce, file_key, &aad)) })
            }
            Recipient::Operator(key) => {
                let info = binding(OPERATOR_INFO_DOMAIN, purpose, cluster, key.as_bytes());
                let aad = binding(OPERATOR_AAD_DOMAIN, purpose, cluster, key.as_bytes());
                let (encapsulated, closed) = hpke_seal(rng, key.as_bytes(), &info, &aad, file_key)?;
                Ok(Self::Operator { key, encapsulated, file_key: whole(closed) })
            }
        }
    }

    fn info(&self) -> RecipientInfo {
        match *self {
            Self::Passphrase { cost, .. } => RecipientInfo::Passphrase(cost),
            Self::Operator { key, .. } => RecipientInfo::Operator(key),
        }
    }

    fn open_with_passphrase(
        &self,
        purpose: &str,
        cluster: &[u8],
        passphrase: &SecretBytes,
    ) -> Result<Zeroizing<[u8; KEY_BYTES]>, Error> {
        let Self::Passphrase { cost, salt, nonce, file_key } = self else { return Err(Error::Rejected) };
        let key = cost.derive(passphrase, salt)?;
        let aad = binding(PASSPHRASE_DOMAIN, purpose, cluster, &passphrase_parts(*cost, salt));
        as_file_key(&decrypt(&key, nonce, file_key, &aad)?)
    }

    fn open_with_key(
        &self,
        purpose: &str,
        cluster: &[u8],
        key: &OperatorSecretKey,
        public: &OperatorPublicKey,
    ) -> Result<Zeroizing<[u8; KEY_BYTES]>, Error> {
        let Self::Operator { key: own, encapsulated, file_key } = self else { return Err(Error::Rejected) };
        if own != public {
            return Err(Error::Rejected);
        }
        let info = binding(OPERATOR_INFO_DOMAIN, purpose, cluster, public.as_bytes());
        let aad = binding(OPERATOR_AAD_DOMAIN, purpose, cluster, public.as_bytes());
        as_file_key(&hpke_open(key.expose(), encapsulated, &info, &aad, file_key)?)
    }

    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Passphrase { cost, salt, nonce, file_key } => {
                [&[PASSPHRASE_KIND][..], &passphrase_parts(*cost, salt), nonce, file_key].concat()
            }
            Self::Operator { key, encapsulated, file_key } => {
                [&[OPERATOR_KIND][..], key.as_bytes(), encapsulated, file_key].concat()
            }
        }
    }

    fn read(mut reader: Reader<'_>) -> Result<Self, Error> {
        let at = reader.clone();
        let stanza = match reader.u8()? {
            PASSPHRASE_KIND => {
                let at = reader.clone();
                let cost = PassphraseCost::read(reader.u32()?, reader.u32()?).map_err(|p| at.malformed(p))?;
                Self::Passphrase { cost, salt: *reader.array()?, nonce: *reader.array()?, file_key: *reader.array()? }
            }
            OPERATOR_KIND => {
                let at = reader.clone();
                let key = OperatorPublicKey::from_bytes(*reader.array()?)
                    .map_err(|_| at.malformed("an operator's key that nobody can hold"))?;
                Self::Operator { key, encapsulated: *reader.array()?, file_key: *reader.array()? }
            }
            _ => return Err(at.malformed("a kind of recipient that does not exist")),
        };
        reader.finish()?;
        Ok(stanza)
    }
}

// === Parts ===

/// What a passphrase's stanza says of its cost and salt; the same bytes are bound by the closed file key.
fn passphrase_parts(cost: PassphraseCost, salt: &[u8; SALT_BYTES]) -> Vec<u8> {
    [&cost.memory_kib().to_le_bytes()[..], &cost.passes().to_le_bytes(), salt].concat()
}

fn binding(domain: &[u8], purpose: &str, cluster: &[u8], recipient: &[u8]) -> Vec<u8> {
    length_prefixed(&[domain, &[FORMAT], purpose.as_bytes(), cluster, recipient])
}

fn check_purpose(purpose: &[u8]) -> Result<(), &'static str> {
    if purpose.is_empty() || purpose.len() > SEALED_PURPOSE_BYTES_MAX {
        return Err("a purpose has 1 to 64 characters");
    }
    if !purpose.iter().all(|byte| matches!(byte, b' '..=b'~')) {
        return Err("a purpose is printable ASCII");
    }
    Ok(())
}

fn check_recipients(recipients: &[RecipientInfo]) -> Result<(), &'static str> {
    if recipients.is_empty() || recipients.len() > SEALED_RECIPIENTS_MAX {
        return Err("there must be 1 to 16");
    }
    let mut work = 0_u64;
    for (n, recipient) in recipients.iter().enumerate() {
        match recipient {
            RecipientInfo::Passphrase(cost) => work = work.saturating_add(cost.work()),
            RecipientInfo::Operator(_) if recipients[..n].contains(recipient) => {
                return Err("one key stands there twice");
            }
            RecipientInfo::Operator(_) => {}
        }
    }
    if work > ARGON2_WORK_MAX {
        return Err("the passphrases cost too much together");
    }
    Ok(())
}

fn bounded(bytes: &[u8], what: &'static str, max: usize) -> Result<Vec<u8>, Error> {
    if bytes.len() > max {
        return Err(Error::TooLong { what, actual: bytes.len(), max });
    }
    Ok(bytes.to_vec())
}

fn encrypt(key: &[u8; KEY_BYTES], nonce: &[u8; NONCE_BYTES], plaintext: &[u8], aad: &[u8]) -> Vec<u8> {
    XChaCha20Poly1305::new(key.into())
        .encrypt(&XNonce::from(*nonce), Payload { msg: plaintext, aad })
        .expect("plaintexts are bounded far below the cipher's 256 GiB")
}

fn decrypt(key: &[u8; KEY_BYTES], nonce: &[u8; NONCE_BYTES], sealed: &[u8], aad: &[u8]) -> Result<SecretBytes, Error> {
    XChaCha20Poly1305::new(key.into())
        .decrypt(&XNonce::from(*nonce), Payload { msg: sealed, aad })
        .map(SecretBytes::new)
        .map_err(|_| Error::Rejected)
}

fn as_file_key(bytes: &SecretBytes) -> Result<Zeroizing<[u8; KEY_BYTES]>, Error> {
    let bytes: &[u8; KEY_BYTES] = bytes.expose().try_into().map_err(|_| Error::Rejected)?;
    Ok(Zeroizing::new(*bytes))
}
