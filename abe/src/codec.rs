//! Reading and writing the format's bytes: little-endian lengths, length-prefixed fields, matrices with dimensions.
//!
//! Law: a reader knows where it stands in the caller's bytes and says so in its errors; a field is used up exactly or
//! refused ([`Reader::finish`]); nothing is allocated from a length that the bytes themselves do not back.
//!
//! Layout: `docs/formats.md`. `L16(x)` is `u16 length || x`, `L32(x)` is `u32 length || x`; a matrix is
//! `u16 rows || u16 columns || entries`, row by row.

use crate::error::Error;
use crate::limits::FIELD_BYTES_MAX;

/// A cursor over bytes that remembers their place in the outermost object.
#[derive(Clone)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    /// Offset of `bytes[0]` in what the caller passed in.
    at: usize,
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// `what` names the object in errors.
    pub fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { bytes, at: 0, what }
    }

    /// Offset of the next byte in what the caller passed in.
    pub fn at(&self) -> usize {
        self.at
    }

    /// An error at this place.
    pub fn malformed(&self, problem: &'static str) -> Error {
        Error::Malformed { what: self.what, at: self.at, problem }
    }

    /// The same place under another name.
    pub fn named(mut self, what: &'static str) -> Self {
        self.what = what;
        self
    }

    /// The next `n` bytes.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8], Error> {
        let (head, tail) = self.bytes.split_at_checked(n).ok_or_else(|| self.malformed("the bytes end too early"))?;
        self.bytes = tail;
        self.at += n;
        Ok(head)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], Error> {
        let bytes = self.take(N)?;
        Ok(bytes.try_into().expect("take returned N bytes"))
    }

    /// The next byte.
    pub fn u8(&mut self) -> Result<u8, Error> {
        Ok(self.array::<1>()?[0])
    }

    /// A 16-bit number, little-endian.
    pub fn u16(&mut self) -> Result<u16, Error> {
        Ok(u16::from_le_bytes(*self.array()?))
    }

    /// A 32-bit number, little-endian.
    pub fn u32(&mut self) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(*self.array()?))
    }

    /// A field behind a 16-bit length, as a reader of its own.
    pub fn field16(&mut self, what: &'static str) -> Result<Self, Error> {
        let length = usize::from(self.u16()?);
        self.field(length, what)
    }

    /// A field behind a 32-bit length, as a reader of its own.
    pub fn field32(&mut self, what: &'static str) -> Result<Self, Error> {
        let length =
            usize::try_from(self.u32()?).map_err(|_| self.malformed("the length does not fit this machine"))?;
        self.field(length, what)
    }

    fn field(&mut self, length: usize, what: &'static str) -> Result<Self, Error> {
        let at = self.at;
        let bytes = self.take(length)?;
        Ok(Self { bytes, at, what })
    }

    /// What is left, all of it.
    pub fn rest(&mut self) -> &'a [u8] {
        self.at += self.bytes.len();
        std::mem::take(&mut self.bytes)
    }

    /// Refuses left-over bytes.
    pub fn finish(self) -> Result<(), Error> {
        if self.bytes.is_empty() { Ok(()) } else { Err(self.malformed("bytes are left over")) }
    }

    /// A matrix of exactly `rows x columns` entries of `entry_bytes`, which uses up this reader; returns the entries.
    pub fn matrix(mut self, rows: u16, columns: u16, entry_bytes: usize) -> Result<Self, Error> {
        let start = self.clone();
        if (self.u16()?, self.u16()?) != (rows, columns) {
            return Err(start.malformed("the matrix has other dimensions than the format says"));
        }
        let entries = self.field(usize::from(rows) * usize::from(columns) * entry_bytes, self.what)?;
        self.finish()?;
        Ok(entries)
    }
}

/// Appends the format's fields to a buffer.
#[derive(Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    /// A 16-bit number, little-endian.
    pub fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// A count that the format keeps in 16 bits.
    pub fn count(&mut self, value: usize, what: &'static str) -> Result<(), Error> {
        let count = u16::try_from(value).map_err(|_| Error::TooLong { what, actual: value, max: FIELD_BYTES_MAX })?;
        self.u16(count);
        Ok(())
    }

    /// The bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// `L16(bytes)`.
    pub fn field16(&mut self, bytes: &[u8], what: &'static str) -> Result<(), Error> {
        self.count(bytes.len(), what)?;
        self.bytes(bytes);
        Ok(())
    }

    /// `L32(bytes)`.
    pub fn field32(&mut self, bytes: &[u8], what: &'static str) -> Result<(), Error> {
        let max = u32::MAX as usize;
        let length = u32::try_from(bytes.len()).map_err(|_| Error::TooLong { what, actual: bytes.len(), max })?;
        self.bytes(&length.to_le_bytes());
        self.bytes(bytes);
        Ok(())
    }

    /// `L16(u16 rows || u16 columns || entries)` for a matrix whose size the format fixes.
    pub fn matrix<const N: usize>(&mut self, rows: u16, columns: u16, entries: impl IntoIterator<Item = [u8; N]>) {
        let count = usize::from(rows) * usize::from(columns);
        let length = u16::try_from(4 + count * N).expect("the format's matrices are all far below 64 KiB");
        self.u16(length);
        self.u16(rows);
        self.u16(columns);
        let start = self.0.len();
        for entry in entries {
            self.bytes(&entry);
        }
        assert_eq!(self.0.len() - start, count * N, "a matrix is written whole");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_place_in_the_outermost_object() {
        let mut outer = Reader::new(&[1, 0, 9, 2, 0, 7], "outer");
        let mut first = outer.field16("first").unwrap();
        assert_eq!(first.u8().unwrap(), 9);
        first.finish().unwrap();
        let error = outer.field16("second").err().unwrap();
        assert_eq!(error, Error::Malformed { what: "outer", at: 5, problem: "the bytes end too early" });
    }

    #[test]
    fn a_field_must_be_used_up() {
        let mut outer = Reader::new(&[2, 0, 9, 9], "outer");
        let mut field = outer.field16("field").unwrap();
        field.u8().unwrap();
        assert_eq!(field.finish(), Err(Error::Malformed { what: "field", at: 3, problem: "bytes are left over" }));
    }

    #[test]
    fn a_matrix_has_its_dimensions_and_nothing_more() {
        let matrix = |bytes: &[u8]| Reader::new(bytes, "m").matrix(1, 2, 1).map(|mut m| m.rest().to_vec());
        assert_eq!(matrix(&[1, 0, 2, 0, 5, 6]).unwrap(), vec![5, 6]);
        for bad in [&[2, 0, 1, 0, 5, 6][..], &[1, 0, 2, 0, 5], &[1, 0, 2, 0, 5, 6, 7], &[0, 0, 0, 0], &[1], &[]] {
            assert!(matrix(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_count_that_does_not_fit_is_an_error_not_a_truncation() {
        let mut writer = Writer::default();
        assert!(writer.count(65_536, "labels").is_err());
        assert!(writer.field16(&[0; 65_536], "field").is_err());
        assert!(writer.0.is_empty());
    }
}
