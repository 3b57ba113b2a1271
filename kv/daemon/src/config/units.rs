//! Sizes and durations as people write them: `512MiB`, `250ms`.
//!
//! Law: one meaning per spelling. Units are binary and written out, a duration always carries its unit, and what does
//! not fit 64 bits is refused.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why a text is not a size or duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnitError {
    /// No whole number, or one of an unknown unit.
    #[error("expected a whole number with one of {0}")]
    Form(&'static str),
    /// More than 64 bits hold.
    #[error("too large")]
    Overflow,
}

const SIZES: &[(&str, u64)] = &[("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
const SIZE_UNITS: &str = "B, KiB, MiB, GiB, TiB, or no unit for bytes";
const DURATIONS: &[(&str, u64)] = &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
const DURATION_UNITS: &str = "ms, s, m, h, d";

/// A size in bytes: `4096`, `64KiB`, `512MiB`. Displays in the largest unit that is exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bytes(pub u64);

impl Bytes {
    /// The size as a `usize`; saturates on machines with smaller ones.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// A duration in milliseconds: `250ms`, `5s`, `3d`. Displays in the largest unit that is exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct DurationMs(pub u64);

impl DurationMs {
    /// As the standard library's type.
    #[must_use]
    pub const fn as_duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl From<DurationMs> for Duration {
    fn from(duration: DurationMs) -> Self {
        duration.as_duration()
    }
}

fn parse(text: &str, units: &[(&str, u64)], expected: &'static str, bare: Option<u64>) -> Result<u64, UnitError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(UnitError::Form(expected));
    }
    let unit = unit.strip_prefix(' ').filter(|unit| !unit.is_empty()).unwrap_or(unit);
    let scale =
        if unit.is_empty() { bare } else { units.iter().find(|(name, _)| *name == unit).map(|(_, scale)| *scale) };
    let scale = scale.ok_or(UnitError::Form(expected))?;
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(scale)).ok_or(UnitError::Overflow)
}

fn show(f: &mut fmt::Formatter<'_>, value: u64, units: &[(&str, u64)], zero: &str) -> fmt::Result {
    match units.iter().find(|(_, scale)| value != 0 && value.is_multiple_of(*scale)) {
        Some((unit, scale)) => write!(f, "{}{unit}", value / scale),
        None => f.write_str(zero),
    }
}

impl FromStr for Bytes {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        parse(text, SIZES, SIZE_UNITS, Some(1)).map(Self)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, self.0, SIZES, "0B")
    }
}

impl FromStr for DurationMs {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        parse(text, DURATIONS, DURATION_UNITS, None).map(Self)
    }
}

impl fmt::Display for DurationMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, self.0, DURATIONS, "0ms")
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for DurationMs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a size: a whole number with one of {SIZE_UNITS}")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Bytes, E> {
                u64::try_from(number).map(Bytes).map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Bytes, E> {
                Ok(Bytes(number))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Bytes, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl<'de> Deserialize<'de> for DurationMs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = DurationMs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a duration in quotes: a whole number with one of {DURATION_UNITS}")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<DurationMs, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_displayed_parses_to_the_same() {
        for bytes in [0, 1, 1023, 1024, 1536, 512 << 20, 3 << 40, u64::MAX] {
            assert_eq!(Bytes(bytes).to_string().parse(), Ok(Bytes(bytes)));
        }
        for ms in [0, 1, 250, 5000, 90_000, 3_600_000, 3 * 86_400_000, u64::MAX] {
            assert_eq!(DurationMs(ms).to_string().parse(), Ok(DurationMs(ms)));
        }
        assert_eq!((Bytes(512 << 20).to_string(), DurationMs(90_000).to_string()), ("512MiB".into(), "90s".into()));
        assert_eq!("4096".parse(), Ok(Bytes(4096)));
        assert_eq!("64 KiB".parse(), Ok(Bytes(65536)));
        assert_eq!("2m".parse::<DurationMs>().unwrap().as_duration(), Duration::from_secs(120));
    }

    #[test]
    fn any_other_spelling_is_refused() {
        for text in ["", "MiB", "-1", "+1", "1.5MiB", "1MB", "1kb", "1mib", "1  B", "1 ", " 1", "0x10", "1_000", "1B "]
        {
            assert!(text.parse::<Bytes>().is_err(), "{text:?}");
        }
        for text in ["", "5", "0", "s", "-5s", "1.5s", "5S", "5sec", "1h30m", "5 s ", "5us"] {
            assert!(text.parse::<DurationMs>().is_err(), "{text:?}");
        }
        assert_eq!("18446744073709551616".parse::<Bytes>(), Err(UnitError::Overflow));
        assert_eq!("16777216TiB".parse::<Bytes>(), Err(UnitError::Overflow));
        assert_eq!("213503982335d".parse::<DurationMs>(), Err(UnitError::Overflow));
    }
}
