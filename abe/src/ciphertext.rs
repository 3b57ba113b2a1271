//! Ciphertexts: the framing, the header with its policy, and where every point lies.
//!
//! Reading is structural only: lengths, dimensions, counts and the policy are checked, and nothing of the curve, so that
//! finding out who could open a ciphertext costs microseconds. The points stay bytes until a decryption reads them
//! (`tkn20::decapsulate`).
//!
//! Law: the bytes are kept as they were received, and those are what the tag is computed over; nothing is re-encoded.
//! Layout: `docs/formats.md#ciphertext`; two framings are read (v1.3.8 and the one before it), the first is written.

use std::fmt;
use std::ops::Range;

use crate::attributes::Attributes;
use crate::codec::{Reader, Writer};
use crate::curve::{G1_BYTES, G2_BYTES};
use crate::error::Error;
use crate::hash::{HASH_BYTES, SEED_BYTES};
use crate::limits::FORMAT_CIPHERTEXT_BYTES_MAX;
use crate::policy::Policy;

/// What a ciphertext of the current framing starts with.
pub(crate) const MAGIC: &[u8; 6] = b"v1.3.8";

/// How lengths are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Behind `v1.3.8`, with 32-bit lengths.
    V138,
    /// Before v1.3.8: no version, 16-bit lengths. Read, never written.
    Legacy,
}

impl fmt::Display for Framing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V138 => "v1.3.8",
            Self::Legacy => "legacy",
        })
    }
}

/// A ciphertext whose structure is right. Its policy and its contents are **not authenticated** until it is decrypted.
#[derive(Clone)]
pub struct Ciphertext {
    bytes: Vec<u8>,
    framing: Framing,
    policy: Policy,
    id: usize,
    mac_data: Range<usize>,
    envelope: Range<usize>,
    tag: usize,
    points: Points,
}

/// Offsets of the first point of every column, and how many there are.
#[derive(Clone)]
struct Points {
    c1: usize,
    c2: Vec<usize>,
    c3: Vec<usize>,
    c3neg: Vec<Option<usize>>,
}

impl Ciphertext {
    /// Reads a ciphertext of either framing and uses up all bytes.
    ///
    /// Checks the structure and the policy (see `docs/formats.md#strictness`), no point and no tag. Work is linear in
    /// the bytes: microseconds, not milliseconds.
    ///
    /// # Errors
    /// [`Error::Malformed`] with the offset of what is wrong; [`Error::TooLong`] past
    /// [`FORMAT_CIPHERTEXT_BYTES_MAX`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > FORMAT_CIPHERTEXT_BYTES_MAX {
            let max = FORMAT_CIPHERTEXT_BYTES_MAX;
            return Err(Error::TooLong { what: "ciphertext", actual: bytes.len(), max });
        }
        let mut reader = Reader::new(bytes, "ciphertext");
        let framing = if bytes.starts_with(MAGIC) { Framing::V138 } else { Framing::Legacy };
        if framing == Framing::V138 {
            reader.take(MAGIC.len())?;
        }
        let id = fixed::<HASH_BYTES>(reader.field16("ciphertext id")?)?;
        let mut mac_data = long(&mut reader, framing, "ciphertext body")?;
        let tag = fixed::<HASH_BYTES>(reader.field16("ciphertext tag")?)?;
        reader.finish()?;

        let mac_start = mac_data.at();
        let header = long(&mut mac_data, framing, "ciphertext header")?;
        let mut envelope = long(&mut mac_data, framing, "ciphertext envelope")?;
        let envelope_start = envelope.at();
        if envelope.clone().rest().len() < SEED_BYTES {
            return Err(envelope.malformed("shorter than the seed it must hold"));
        }
        envelope.rest();
        let mac_end = mac_data.at();
        mac_data.finish()?;

        let (policy, points) = decode_header(header)?;
        Ok(Self {
            bytes: bytes.to_vec(),
            framing,
            policy,
            id,
            mac_data: mac_start..mac_end,
            envelope: envelope_start..envelope.at(),
            tag,
            points,
        })
    }

    /// The bytes, exactly as read or written.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The policy in the header, unauthenticated.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The policy in the header, unauthenticated.
    pub fn into_policy(self) -> Policy {
        self.policy
    }

    /// The framing it was read in.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Length in bytes of the plaintext.
    pub fn plaintext_bytes(&self) -> usize {
        self.envelope.len() - SEED_BYTES
    }

    /// Whether a key with these attributes satisfies the policy. No group operation; not the security boundary.
    pub fn could_be_decrypted_with(&self, attributes: &Attributes) -> bool {
        self.policy.is_satisfied_by(attributes)
    }

    pub(crate) fn id(&self) -> &[u8; HASH_BYTES] {
        self.array(self.id)
    }

    pub(crate) fn tag(&self) -> &[u8; HASH_BYTES] {
        self.array(self.tag)
    }

    pub(crate) fn mac_data(&self) -> &[u8] {
        &self.bytes[self.mac_data.clone()]
    }

    pub(crate) fn envelope(&self) -> &[u8] {
        &self.bytes[self.envelope.clone()]
    }

    /// Number of columns c2: one more than the highest repetition index.
    pub(crate) fn repetitions(&self) -> usize {
        self.points.c2.len()
    }

    pub(crate) fn c1(&self, row: usize) -> (usize, &[u8; G2_BYTES]) {
        self.point(self.points.c1, row)
    }

    pub(crate) fn c2(&self, index: usize, row: usize) -> (usize, &[u8; G2_BYTES]) {
        self.point(self.points.c2[index], row)
    }

    pub(crate) fn c3(&self, wire: usize, row: usize) -> (usize, &[u8; G1_BYTES]) {
        self.point(self.points.c3[wire], row)
    }

    pub(crate) fn c3neg(&self, wire: usize, row: usize) -> Option<(usize, &[u8; G1_BYTES])> {
        self.points.c3neg[wire].map(|start| self.point(start, row))
    }

    /// A point of a column and its offset.
    fn point<const N: usize>(&self, column: usize, row: usize) -> (usize, &[u8; N]) {
        let at = column + row * N;
        (at, self.array(at))
    }

    fn array<const N: usize>(&self, at: usize) -> &[u8; N] {
        self.bytes[at..at + N].try_into().expect("offsets were found by reading these bytes")
    }
}

impl fmt::Debug for Ciphertext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ciphertext({} bytes under {})", self.bytes.len(), self.policy)
    }
}

fn long<'a>(reader: &mut Reader<'a>, framing: Framing, what: &'static str) -> Result<Reader<'a>, Error> {
    match framing {
        Framing::V138 => reader.field32(what),
        Framing::Legacy => reader.field16(what),
    }
}

/// The offset of a field of exactly `N` bytes.
fn fixed<const N: usize>(mut field: Reader<'_>) -> Result<usize, Error> {
    let at = field.at();
    field.array::<N>()?;
    field.finish()?;
    Ok(at)
}

fn decode_header(mut header: Reader<'_>) -> Result<(Policy, Points), Error> {
    let policy = Policy::decode(header.field16("policy")?)?;
    let c1 = header.field16("c1")?.matrix(4, 1, G2_BYTES)?.at();

    let at = header.clone();
    let repetitions = usize::from(header.u16()?);
    if repetitions != policy.indexes.depth {
        return Err(at.named("c2").malformed("their number is not the policy's highest repetition of a label"));
    }
    let c2 = (0..repetitions)
        .map(|_| Ok(header.field16("c2")?.matrix(4, 1, G2_BYTES)?.at()))
        .collect::<Result<_, Error>>()?;

    let at = header.clone();
    let wires = usize::from(header.u16()?);
    if wires != policy.wires.len() + 1 {
        return Err(at.named("c3").malformed("their number is not one more than the policy's wires"));
    }
    let c3 =
        (0..wires).map(|_| Ok(header.field16("c3")?.matrix(3, 1, G1_BYTES)?.at())).collect::<Result<_, Error>>()?;
    let c3neg = (0..wires)
        .map(|wire| decode_c3neg(header.field16("c3neg")?, policy.wires.get(wire).is_some_and(|wire| !wire.positive)))
        .collect::<Result<_, Error>>()?;
    header.finish()?;
    Ok((policy, Points { c1, c2, c3, c3neg }))
}

/// There for negative wires and only for them.
fn decode_c3neg(field: Reader<'_>, negative: bool) -> Result<Option<usize>, Error> {
    if negative {
        return Ok(Some(field.matrix(3, 1, G1_BYTES)?.at()));
    }
    field.finish()?;
    Ok(None)
}

/// What encapsulation made, ready to be written.
pub(crate) struct Columns {
    pub c1: [[u8; G2_BYTES]; 4],
    pub c2: Vec<[[u8; G2_BYTES]; 4]>,
    pub c3: Vec<[[u8; G1_BYTES]; 3]>,
    pub c3neg: Vec<Option<[[u8; G1_BYTES]; 3]>>,
}

/// The header C1 of a ciphertext under `policy`.
pub(crate) fn encode_header(policy: &Policy, columns: &Columns) -> Result<Vec<u8>, Error> {
    let mut out = Writer::default();
    out.field16(&policy.encode()?, "policy")?;
    out.matrix(4, 1, columns.c1);
    out.count(columns.c2.len(), "c2 columns")?;
    for column in &columns.c2 {
        out.matrix(4, 1, *column);
    }
    out.count(columns.c3.len(), "c3 columns")?;
    for column in &columns.c3 {
        out.matrix(3, 1, *column);
    }
    for column in &columns.c3neg {
        match column {
            Some(column) => out.matrix(3, 1, *column),
            None => out.u16(0),
        }
    }
    Ok(out.0)
}

/// The part of a ciphertext that the tag covers: header and envelope behind their lengths.
pub(crate) fn encode_mac_data(header: &[u8], envelope: &[u8], framing: Framing) -> Result<Vec<u8>, Error> {
    let mut out = Writer::default();
    for (field, what) in [(header, "ciphertext header"), (envelope, "ciphertext envelope")] {
        match framing {
            Framing::V138 => out.field32(field, what)?,
            Framing::Legacy => out.field16(field, what)?,
        }
    }
    Ok(out.0)
}

/// The whole ciphertext.
pub(crate) fn encode(id: &[u8], mac_data: &[u8], tag: &[u8], framing: Framing) -> Result<Vec<u8>, Error> {
    let mut out = Writer::default();
    if framing == Framing::V138 {
        out.bytes(MAGIC);
    }
    out.field16(id, "ciphertext id")?;
    match framing {
        Framing::V138 => out.field32(mac_data, "ciphertext body")?,
        Framing::Legacy => out.field16(mac_data, "ciphertext body")?,
    }
    out.field16(tag, "ciphertext tag")?;
    Ok(out.0)
}
