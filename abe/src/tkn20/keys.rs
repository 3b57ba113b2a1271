//! The three keys and their bytes.
//!
//! Law: a key that exists is whole. Parsing checks dimensions, canonical numbers, every point's curve and subgroup,
//! GT membership, order and agreement of an attribute key's parts with its attribute list; nothing is left over. (The
//! reference checks neither dimensions nor agreement, and panics later.) Writing gives back the bytes that were read.
//!
//! Layout: `docs/formats.md#keys`.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use zeroize::Zeroize;

use super::oracle::Oracle;
use crate::attributes::{Attributes, BONEH_KATZ_LABEL, Value};
use crate::codec::{Reader, Writer};
use crate::curve::msm::Comb;
use crate::curve::{G1_BYTES, G1Affine, G2_BYTES, G2Affine, GT_BYTES, Gt, SCALAR_BYTES, Scalar};
use crate::error::Error;
use crate::secret::{SecretBytes, constant_time_eq, redacted_debug};

/// Bytes of an encoded public key.
pub const PUBLIC_KEY_BYTES: usize = 3282;
/// Bytes of an encoded system secret key.
pub const SYSTEM_SECRET_KEY_BYTES: usize = 1136;

// === PublicKey ===

/// An authority's public key: what anybody encrypts with.
///
/// Cheap to clone: clones share the key's prepared tables and its bounded cache of label points (at most
/// [`crate::limits::CACHED_LABELS_MAX`] labels and [`crate::limits::CACHED_VALUES_MAX`] values).
#[derive(Clone)]
pub struct PublicKey(Arc<PublicParts>);

pub(crate) struct PublicParts {
    /// \[B\]2.
    pub b2: [[G2Affine; 2]; 4],
    /// \[WB\]1.
    pub wb1: [[G1Affine; 2]; 3],
    /// gT^(B^T k).
    pub btk: [Gt; 2],
    pub oracle: Oracle,
    combs: OnceLock<[[Comb; 2]; 3]>,
}

impl PublicParts {
    /// Combs of \[WB\]1, built by the first encryption: 240 KiB.
    pub fn wb1_combs(&self) -> &[[Comb; 2]; 3] {
        self.combs.get_or_init(|| self.wb1.each_ref().map(|row| row.each_ref().map(Comb::new)))
    }
}

impl PublicKey {
    pub(crate) fn from_parts(b2: [[G2Affine; 2]; 4], wb1: [[G1Affine; 2]; 3], btk: [Gt; 2]) -> Self {
        Self(Arc::new(PublicParts { b2, wb1, btk, oracle: Oracle::new(), combs: OnceLock::new() }))
    }

    pub(crate) fn parts(&self) -> &PublicParts {
        &self.0
    }

    /// Reads a public key of exactly [`PUBLIC_KEY_BYTES`].
    ///
    /// Checks every point's curve and subgroup and that both GT elements are members of GT and not one.
    ///
    /// # Errors
    /// [`Error::Malformed`] with the offset of what is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(bytes, "public key");
        let mut b2 = reader.field16("public key b2")?.matrix(4, 2, G2_BYTES)?;
        let b2 = try_matrix(|| read_g2(&mut b2))?;
        let mut wb1 = reader.field16("public key wb1")?.matrix(3, 2, G1_BYTES)?;
        let wb1 = try_matrix(|| read_g1(&mut wb1))?;
        let mut btk = reader.field16("public key btk")?.matrix(2, 1, GT_BYTES)?;
        let btk = [read_gt(&mut btk)?, read_gt(&mut btk)?];
        reader.finish()?;
        Ok(Self::from_parts(b2, wb1, btk))
    }

    /// The encoded key: `L16(b2 4x2 of G2) || L16(wb1 3x2 of G1) || L16(btk 2x1 of GT)`.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.matrix(4, 2, self.0.b2.as_flattened().iter().map(|point| point.to_bytes()));
        out.matrix(3, 2, self.0.wb1.as_flattened().iter().map(|point| point.to_bytes()));
        out.matrix(2, 1, self.0.btk.iter().map(|element| element.to_bytes()));
        out.0
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        (self.0.b2, self.0.wb1, self.0.btk) == (other.0.b2, other.0.wb1, other.0.btk)
    }
}

impl Eq for PublicKey {}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PublicKey(..)")
    }
}

// === SystemSecretKey ===

/// An authority's secret: it issues attribute keys, and whoever has it reads everything. Zeroised on drop.
///
/// Not `Clone`; equality is constant time; `Debug` prints nothing of it.
pub struct SystemSecretKey {
    /// A00 and A11; the rest of A is constant.
    pub(crate) a: [Scalar; 2],
    /// W^T A.
    pub(crate) wt_a: [[Scalar; 2]; 4],
    /// B*.
    pub(crate) b_star: [[Scalar; 2]; 4],
    /// B*12.
    pub(crate) b_star12: [[Scalar; 2]; 4],
    pub(crate) k: [Scalar; 4],
    pub(crate) prf_key: [u8; 16],
    pub(crate) oracle: Oracle,
}

impl SystemSecretKey {
    pub(crate) fn from_parts(
        a: [Scalar; 2],
        wt_a: [[Scalar; 2]; 4],
        b_star: [[Scalar; 2]; 4],
        b_star12: [[Scalar; 2]; 4],
        k: [Scalar; 4],
        prf_key: [u8; 16],
    ) -> Self {
        Self { a, wt_a, b_star, b_star12, k, prf_key, oracle: Oracle::new() }
    }

    /// Reads a system secret key of exactly [`SYSTEM_SECRET_KEY_BYTES`].
    ///
    /// Checks that every number is below the group order and that A has its constant entries. Constant time but for
    /// telling which number was wrong.
    ///
    /// # Errors
    /// [`Error::Malformed`] with the offset of what is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(bytes, "system secret key");
        let field = reader.field16("system secret key A")?;
        let at = field.clone();
        let mut field = field.matrix(3, 2, SCALAR_BYTES)?;
        let a: [[Scalar; 2]; 3] = try_matrix(|| read_scalar(&mut field))?;
        let one = Scalar::from_u64(1);
        let constant = a[0][1].is_zero() & a[1][0].is_zero() & (a[2][0] == one) & (a[2][1] == one);
        if !constant || a[0][0].is_zero() || a[1][1].is_zero() {
            return Err(at.malformed("not of the form [[a, 0], [0, b], [1, 1]] with a and b not zero"));
        }
        let mut columns = |what| -> Result<[[Scalar; 2]; 4], Error> {
            let mut field = reader.field16(what)?.matrix(4, 2, SCALAR_BYTES)?;
            try_matrix(|| read_scalar(&mut field))
        };
        let wt_a = columns("system secret key W^T A")?;
        let b_star = columns("system secret key B*")?;
        let b_star12 = columns("system secret key B*12")?;
        let mut field = reader.field16("system secret key k")?.matrix(4, 1, SCALAR_BYTES)?;
        let k: [[Scalar; 1]; 4] = try_matrix(|| read_scalar(&mut field))?;
        let mut field = reader.field16("system secret key PRF key")?;
        let prf_key = *field.array()?;
        field.finish()?;
        reader.finish()?;
        Ok(Self::from_parts([a[0][0], a[1][1]], wt_a, b_star, b_star12, k.map(|[entry]| entry), prf_key))
    }

    /// The encoded key: `L16(A 3x2) || L16(W^T A 4x2) || L16(B* 4x2) || L16(B*12 4x2) || L16(k 4x1) || L16(PRF key 16)`.
    pub fn to_bytes(&self) -> SecretBytes {
        // Reserved whole, so that no part is left behind in a buffer that was outgrown.
        let mut out = Writer(Vec::with_capacity(SYSTEM_SECRET_KEY_BYTES));
        let (zero, one) = (Scalar::ZERO, Scalar::from_u64(1));
        out.matrix(3, 2, [self.a[0], zero, zero, self.a[1], one, one].map(Scalar::to_be_bytes));
        for matrix in [&self.wt_a, &self.b_star, &self.b_star12] {
            out.matrix(4, 2, matrix.as_flattened().iter().map(|scalar| scalar.to_be_bytes()));
        }
        out.matrix(4, 1, self.k.map(Scalar::to_be_bytes));
        out.field16(&self.prf_key, "PRF key").expect("16 bytes fit behind a 16-bit length");
        SecretBytes::new(out.0)
    }
}

impl Drop for SystemSecretKey {
    fn drop(&mut self) {
        self.a.zeroize();
        self.wt_a.zeroize();
        self.b_star.zeroize();
        self.b_star12.zeroize();
        self.k.zeroize();
        self.prf_key.zeroize();
    }
}

constant_time_eq!(SystemSecretKey, key => key.to_bytes().0);
redacted_debug!(SystemSecretKey);

// === AttributeKey ===

/// A machine's key: opens the ciphertexts whose policy its attributes satisfy. Zeroised on drop.
///
/// Not `Clone`; equality is constant time; `Debug` prints the labels and nothing of the key.
pub struct AttributeKey {
    pub(crate) k1: [G2Affine; 3],
    pub(crate) k2: [G1Affine; 4],
    /// By label, the transform's own included.
    pub(crate) parts: BTreeMap<Vec<u8>, KeyPart>,
    attributes: Attributes,
    boneh_katz_combs: OnceLock<Box<[Comb; 4]>>,
}

/// What a key holds for one label.
pub(crate) struct KeyPart {
    pub value: Value,
    pub k3: SecretColumn,
    /// There for wild labels and only for them.
    pub k3wild: Option<SecretColumn>,
}

/// A secret 4x1 matrix over G1, wiped on drop. Boxed, so that moving it leaves no copy behind.
pub(crate) struct SecretColumn(Box<[G1Affine; 4]>);

impl SecretColumn {
    /// Takes the points and wipes the caller's copy that was moved here.
    pub fn new(mut points: [G1Affine; 4]) -> Self {
        let column = Self(Box::new(points));
        points.zeroize();
        column
    }
}

impl std::ops::Deref for SecretColumn {
    type Target = [G1Affine; 4];

    fn deref(&self) -> &[G1Affine; 4] {
        &self.0
    }
}

impl Drop for SecretColumn {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl AttributeKey {
    /// `parts` holds the transform's own label, wild.
    pub(crate) fn from_parts(k1: [G2Affine; 3], k2: [G1Affine; 4], parts: BTreeMap<Vec<u8>, KeyPart>) -> Self {
        let own = parts.iter().filter(|(label, _)| label.as_slice() != BONEH_KATZ_LABEL);
        let attributes = Attributes::from_values(own.map(|(label, part)| (label.clone(), part.value)).collect());
        Self { k1, k2, parts, attributes, boneh_katz_combs: OnceLock::new() }
    }

    /// The key's attributes without the transform's own.
    pub fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    pub(crate) fn boneh_katz_part(&self) -> &KeyPart {
        &self.parts[BONEH_KATZ_LABEL]
    }

    /// Combs of the transform's k3, built by the first decryption: 160 KiB. Every decryption multiplies these four.
    pub(crate) fn boneh_katz_combs(&self) -> &[Comb; 4] {
        self.boneh_katz_combs.get_or_init(|| Box::new(self.boneh_katz_part().k3.each_ref().map(Comb::new)))
    }

    /// Reads an attribute key and uses up all bytes.
    ///
    /// Checks every point's curve and subgroup (four per label: parse once, keep the key), strictly ascending
    /// labels, and that the parts are there for exactly the labels of the attribute list, k3wild for exactly the wild
    /// ones, the transform's own among them. Keys with other wildcards are read ([`Attributes::wildcard_labels`] tells).
    ///
    /// # Errors
    /// [`Error::Malformed`] with the offset of what is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(bytes, "attribute key");
        let values = read_attribute_list(reader.field16("attribute list")?)?;
        let mut k1 = reader.field16("attribute key k1")?.matrix(3, 1, G2_BYTES)?;
        let k1 = [read_g2(&mut k1)?, read_g2(&mut k1)?, read_g2(&mut k1)?];
        let k2 = read_column(reader.field16("attribute key k2")?)?;
        let is_wild = |value: &Value| *value == Value::Wild;
        let mut k3 = read_parts(&mut reader, "attribute key k3", values.keys())?;
        let wild_labels = values.iter().filter(|(_, value)| is_wild(value)).map(|(label, _)| label);
        let mut k3wild = read_parts(&mut reader, "attribute key k3wild", wild_labels)?;
        reader.finish()?;
        let parts = values
            .into_iter()
            .map(|(label, value)| {
                let k3 = k3.remove(&label).expect("read_parts returns exactly the labels it is given");
                let part = KeyPart { value, k3, k3wild: k3wild.remove(&label) };
                (label, part)
            })
            .collect();
        Ok(Self::from_parts(k1, k2, parts))
    }

    /// The encoded key:
    /// `L16(attributes) || L16(k1 3x1 of G2) || L16(k2 4x1 of G1) || u16 n || n x (L16(label) || L16(k3 4x1 of G1)) ||
    /// u16 w || w x (L16(label) || L16(k3wild 4x1 of G1))`, labels ascending;
    /// `1916 + sum(427 + 2 |label|)` bytes without wildcards.
    pub fn to_bytes(&self) -> SecretBytes {
        const FITS: &str = "labels and their number were checked when the key was made or read";
        // Enough for all of it, so that no part is left behind in a buffer that was outgrown.
        let room: usize = self.parts.keys().map(|label| 900 + 3 * label.len()).sum();
        let mut out = Writer(Vec::with_capacity(2048 + room));
        let mut list = Writer::default();
        list.count(self.parts.len(), "attributes").expect(FITS);
        for (label, part) in &self.parts {
            list.field16(label, "label").expect(FITS);
            let (wild, scalar) = match part.value {
                Value::Wild => (1, Scalar::ZERO),
                Value::Is(scalar) => (0, scalar),
            };
            list.bytes(&[wild]);
            list.bytes(&scalar.to_be_bytes());
        }
        out.field16(&list.0, "attribute list").expect(FITS);
        out.matrix(3, 1, self.k1.map(G2Affine::to_bytes));
        out.matrix(4, 1, self.k2.map(G1Affine::to_bytes));
        out.count(self.parts.len(), "attributes").expect(FITS);
        for (label, part) in &self.parts {
            out.field16(label, "label").expect(FITS);
            out.matrix(4, 1, part.k3.iter().map(|point| point.to_bytes()));
        }
        let wild: Vec<_> = self.parts.iter().filter_map(|(label, part)| Some((label, part.k3wild.as_ref()?))).collect();
        out.count(wild.len(), "wildcards").expect(FITS);
        for (label, column) in wild {
            out.field16(label, "label").expect(FITS);
            out.matrix(4, 1, column.iter().map(|point| point.to_bytes()));
        }
        SecretBytes::new(out.0)
    }
}

impl Drop for AttributeKey {
    fn drop(&mut self) {
        self.k1.iter_mut().for_each(Zeroize::zeroize);
        self.k2.iter_mut().for_each(Zeroize::zeroize);
    }
}

constant_time_eq!(AttributeKey, key => key.to_bytes().0);

impl fmt::Debug for AttributeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AttributeKey({:?}, redacted)", self.attributes)
    }
}

// === Reading ===

/// `u16 count || count x (L16(label) || u8 wild || scalar)`, labels strictly ascending.
fn read_attribute_list(mut list: Reader<'_>) -> Result<BTreeMap<Vec<u8>, Value>, Error> {
    let start = list.clone();
    let count = usize::from(list.u16()?);
    let mut values: BTreeMap<Vec<u8>, Value> = BTreeMap::new();
    for _ in 0..count {
        let at = list.clone();
        let label = list.field16("attribute label")?.rest();
        if values.last_key_value().is_some_and(|(last, _)| last.as_slice() >= label) {
            return Err(at.malformed("the labels are not in strictly ascending byte order"));
        }
        let at = list.clone();
        let wild = list.u8()?;
        let at_value = list.clone();
        let scalar = read_scalar(&mut list)?;
        let value = match wild {
            0 => Value::Is(scalar),
            1 if scalar.is_zero() => Value::Wild,
            1 => return Err(at_value.malformed("a wild attribute's value is not zero")),
            _ => return Err(at.malformed("the wild byte is neither 0 nor 1")),
        };
        values.insert(label.to_vec(), value);
    }
    list.finish()?;
    if values.get(BONEH_KATZ_LABEL) != Some(&Value::Wild) {
        return Err(start.malformed("the transform's own wild attribute is missing"));
    }
    Ok(values)
}

/// `u16 n || n x (L16(label) || L16(4x1 of G1))` with exactly these labels in this order.
fn read_parts<'l>(
    reader: &mut Reader<'_>,
    what: &'static str,
    labels: impl Iterator<Item = &'l Vec<u8>>,
) -> Result<BTreeMap<Vec<u8>, SecretColumn>, Error> {
    let at = reader.clone().named(what);
    let count = usize::from(reader.u16()?);
    let mut parts = BTreeMap::new();
    for label in labels {
        let at = reader.clone().named(what);
        if parts.len() == count || reader.field16(what)?.rest() != label.as_slice() {
            return Err(at.malformed("the labels are not those of the attribute list, in its order"));
        }
        parts.insert(label.clone(), SecretColumn::new(read_column(reader.field16(what)?)?));
    }
    if parts.len() != count {
        return Err(at.malformed("more parts than the attribute list has labels for them"));
    }
    Ok(parts)
}

/// A 4x1 matrix over G1.
fn read_column(field: Reader<'_>) -> Result<[G1Affine; 4], Error> {
    let mut field = field.matrix(4, 1, G1_BYTES)?;
    Ok([read_g1(&mut field)?, read_g1(&mut field)?, read_g1(&mut field)?, read_g1(&mut field)?])
}

fn try_matrix<T: Default + Copy, const R: usize, const C: usize>(
    mut read: impl FnMut() -> Result<T, Error>,
) -> Result<[[T; C]; R], Error> {
    let mut out = [[T::default(); C]; R];
    for entry in out.as_flattened_mut() {
        *entry = read()?;
    }
    Ok(out)
}

fn read_scalar(reader: &mut Reader<'_>) -> Result<Scalar, Error> {
    let at = reader.clone();
    Scalar::from_be_bytes(reader.array()?).ok_or_else(|| at.malformed("the number is not below the group order"))
}

fn read_g1(reader: &mut Reader<'_>) -> Result<G1Affine, Error> {
    let at = reader.clone();
    G1Affine::from_bytes_unchecked_subgroup(reader.array()?)
        .filter(G1Affine::in_subgroup)
        .ok_or_else(|| at.malformed("not an uncompressed point of G1"))
}

fn read_g2(reader: &mut Reader<'_>) -> Result<G2Affine, Error> {
    let at = reader.clone();
    G2Affine::from_bytes(reader.array()?).ok_or_else(|| at.malformed("not an uncompressed point of G2"))
}

fn read_gt(reader: &mut Reader<'_>) -> Result<Gt, Error> {
    let at = reader.clone();
    Gt::from_bytes(reader.array()?)
        .filter(|element| element.in_group() && !element.is_one())
        .ok_or_else(|| at.malformed("not a member of GT other than one"))
}
