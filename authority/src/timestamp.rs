//! Times as people and programs outside read them.
//!
//! Law: inside, a time is a number of seconds since 1970; it becomes text only where it leaves.

use time::OffsetDateTime;

/// 9999-12-31T23:59:59Z, the last second that RFC 3339 can write.
const LAST_SECOND: i64 = 253_402_300_799;

/// A time as RFC 3339, in UTC and whole seconds, `2027-01-15T08:00:00Z`. `at_s` is in seconds since 1970; what is later
/// than the year 9999 is its end.
#[must_use]
pub fn rfc3339(at_s: u64) -> String {
    let seconds = i64::try_from(at_s).unwrap_or(LAST_SECOND).min(LAST_SECOND);
    let time = OffsetDateTime::from_unix_timestamp(seconds).expect("between 1970 and 9999");
    let (date, (hour, minute, second)) = (time.date(), time.to_hms());
    let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_as_rfc_3339() {
        for (at_s, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_827_696, "2000-02-29T12:34:56Z"),
            (1_800_000_000, "2027-01-15T08:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
            (u64::MAX, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(at_s), text);
        }
    }
}
