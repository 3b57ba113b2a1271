//! What a machine tells the authority every ten seconds.
//!
//! Law: a report is its machine's own word. It changes what is shown and estimated, and where peers look for the
//! machine; never what the machine may open. Bounds are checked where the message comes in.

use std::collections::BTreeMap;

use cinnabar_daemon::codec::CodecError;

use crate::limits::ADDRESS_BYTES_MAX;
use crate::names::DataCenterId;
use crate::proto;

/// Most bytes of a program's version.
pub const VERSION_BYTES_MAX: usize = 64;
/// Most round trips of one report; a machine with more peers tells of others next time.
pub const ROUND_TRIPS_MAX: usize = 64;
/// Longest round trip, in microseconds.
pub const ROUND_TRIP_US_MAX: u32 = 60_000_000;

/// A report within its bounds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    applied_index: u64,
    generation: u32,
    schema: u32,
    version: String,
    address: String,
    round_trips: BTreeMap<DataCenterId, u32>,
}

impl Report {
    /// Log index that the machine has applied.
    pub fn applied_index(&self) -> u64 {
        self.applied_index
    }

    /// Newest generation that it has a key of; 0 for none.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Newest attribute schema that it has seen; 0 for none.
    pub fn schema(&self) -> u32 {
        self.schema
    }

    /// Version of its program.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// `host:port` of its signer; empty when it says none.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Round trips to other data centres, in microseconds.
    pub fn round_trips(&self) -> &BTreeMap<DataCenterId, u32> {
        &self.round_trips
    }
}

/// `host:port` with a port other than 0; the host in visible ASCII.
fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let visible = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_graphic());
    text.len() <= ADDRESS_BYTES_MAX && visible && digits && port.parse::<u16>().is_ok_and(|port| port > 0)
}

impl TryFrom<proto::ReportRequest> for Report {
    type Error = CodecError;

    fn try_from(message: proto::ReportRequest) -> Result<Self, CodecError> {
        const WHAT: &str = "report";
        let malformed = |problem: &str| CodecError::Malformed { what: WHAT, problem: problem.to_owned() };
        let proto::ReportRequest { applied_index, generation, schema, version, address, round_trips: list } = message;
        if version.len() > VERSION_BYTES_MAX || version.bytes().any(|byte| !byte.is_ascii_graphic() && byte != b' ') {
            return Err(malformed("version: at most 64 visible characters"));
        }
        if !address.is_empty() && !is_address(&address) {
            return Err(malformed("address: not `host:port`"));
        }
        if list.len() > ROUND_TRIPS_MAX {
            return Err(malformed("round trips: more than 64"));
        }
        let mut round_trips = BTreeMap::new();
        for proto::RoundTrip { data_center, micros } in list {
            let data_center =
                data_center.parse().map_err(|_| malformed("round trips: a data centre's name is none"))?;
            if !(1..=ROUND_TRIP_US_MAX).contains(&micros) {
                return Err(malformed("round trips: outside 1 us to 60 s"));
            }
            if round_trips.insert(data_center, micros).is_some() {
                return Err(malformed("round trips: one data centre twice"));
            }
        }
        Ok(Self { applied_index, generation, schema, version, address, round_trips })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> proto::ReportRequest {
        proto::ReportRequest {
            applied_index: 7,
            generation: 1,
            schema: 2,
            version: "0.1.0 (abc)".to_owned(),
            address: "[::1]:7000".to_owned(),
            round_trips: vec![proto::RoundTrip { data_center: "ams".to_owned(), micros: 6_500 }],
        }
    }

    #[test]
    fn a_report_within_its_bounds_is_read_whole() {
        let report = Report::try_from(message()).unwrap();
        assert_eq!((report.applied_index(), report.generation(), report.schema()), (7, 1, 2));
        assert_eq!((report.version(), report.address()), ("0.1.0 (abc)", "[::1]:7000"));
        assert_eq!(report.round_trips()[&"ams".parse().unwrap()], 6_500);
        assert!(Report::try_from(proto::ReportRequest::default()).unwrap().address().is_empty());
    }

    #[test]
    fn what_is_past_a_bound_is_refused() {
        let trip = |name: &str, micros| proto::RoundTrip { data_center: name.to_owned(), micros };
        let with = |change: &dyn Fn(&mut proto::ReportRequest)| {
            let mut changed = message();
            change(&mut changed);
            Report::try_from(changed)
        };
        for address in
            ["host", ":1", "host:", "host:0", "host:70000", "host:+1", "a b:1", &format!("{}:1", "a".repeat(256))]
        {
            assert!(with(&|message| message.address = address.to_owned()).is_err(), "{address}");
        }
        assert!(with(&|message| message.version = "a".repeat(65)).is_err());
        assert!(with(&|message| message.version = "a\nb".to_owned()).is_err());
        assert!(with(&|message| message.round_trips = vec![trip("ams", 0)]).is_err());
        assert!(with(&|message| message.round_trips = vec![trip("ams", ROUND_TRIP_US_MAX + 1)]).is_err());
        assert!(with(&|message| message.round_trips = vec![trip("AMS", 1)]).is_err());
        assert!(with(&|message| message.round_trips = vec![trip("ams", 1), trip("ams", 2)]).is_err());
        let many = (0..65).map(|n| trip(&format!("dc{n}"), 1)).collect::<Vec<_>>();
        assert!(with(&|message| message.round_trips.clone_from(&many)).is_err());
    }
}
