//! What the HTTP interface counts. Law: labels come from fixed sets; none carries a zone, a name or an address.

use std::time::Duration;

use ::metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use super::routes::{Call, ROUTES, Route};

/// Requests by `route` (the table's address, or `none`), `method` (or `other`) and `status` class.
pub const REQUESTS: &str = "cinnabar_authority_requests_total";
/// Time of an upload of a certificate, natively or not, from its head to its answer.
pub const UPLOAD_DURATION: &str = "cinnabar_authority_upload_duration_seconds";
/// Requests with credentials that are not valid.
pub const FAILURES: &str = "cinnabar_authority_failed_authentications_total";
/// Requests told to wait, by `limit`: see [`LIMITS`].
pub const LIMITED: &str = "cinnabar_authority_rate_limited_total";
/// Customers' connections that are open.
pub const CONNECTIONS_OPEN: &str = "cinnabar_authority_connections_open";
/// Customers' TLS handshakes by `result`: see [`RESULTS`].
pub const HANDSHAKES: &str = "cinnabar_authority_handshakes_total";

/// Every value of the label `status` of [`REQUESTS`].
pub const STATUSES: &[&str] = &["2xx", "4xx", "5xx"];
/// Every value of the label `limit` of [`LIMITED`].
pub const LIMITS: &[&str] = &["changes", "checks", "failures"];
/// Every value of the label `result` of [`HANDSHAKES`].
pub const RESULTS: &[&str] = &["accepted", "failed", "timeout"];

/// Describes every metric and starts every label value at zero.
pub fn describe() {
    describe_counter!(REQUESTS, Unit::Count, "Requests by route, method and class of status");
    describe_histogram!(UPLOAD_DURATION, Unit::Seconds, "Time of an upload of a certificate");
    describe_counter!(FAILURES, Unit::Count, "Requests with credentials that are not valid");
    describe_counter!(LIMITED, Unit::Count, "Requests told to wait, by limit");
    describe_gauge!(CONNECTIONS_OPEN, Unit::Count, "Customers' connections that are open");
    describe_counter!(HANDSHAKES, Unit::Count, "Customers' TLS handshakes by result");
    let rows = ROUTES.iter().map(|route| (route.path, route.method)).chain([("none", "other")]);
    for (route, method) in rows {
        for status in STATUSES {
            counter!(REQUESTS, "route" => route, "method" => method, "status" => *status).increment(0);
        }
    }
    counter!(FAILURES).increment(0);
    for limit in LIMITS {
        counter!(LIMITED, "limit" => *limit).increment(0);
    }
    for result in RESULTS {
        counter!(HANDSHAKES, "result" => *result).increment(0);
    }
    gauge!(CONNECTIONS_OPEN).increment(0.0);
}

/// Counts an answered request.
pub(super) fn count(route: Option<&'static Route>, status: u16, took: Duration) {
    let (path, method) = route.map_or(("none", "other"), |route| (route.path, route.method));
    let class = match status {
        200..400 => STATUSES[0],
        400..500 => STATUSES[1],
        _ => STATUSES[2],
    };
    counter!(REQUESTS, "route" => path, "method" => method, "status" => class).increment(1);
    let upload = [Call::CreateCertificate, Call::ReplaceCertificate, Call::FacadeCreate, Call::FacadeEdit];
    if route.is_some_and(|route| upload.contains(&route.call)) {
        histogram!(UPLOAD_DURATION).record(took.as_secs_f64());
    }
}

/// Counts credentials that are not valid.
pub(super) fn count_failure() {
    counter!(FAILURES).increment(1);
}

/// Counts a request that is told to wait.
pub(super) fn count_limited(limit: &'static str) {
    counter!(LIMITED, "limit" => limit).increment(1);
}

/// Counts a customer's handshake.
pub(crate) fn count_handshake(result: &'static str) {
    counter!(HANDSHAKES, "result" => result).increment(1);
}

/// Counts a customer's connection while it lives.
pub(crate) struct OpenConnection;

impl OpenConnection {
    /// It is open.
    pub(crate) fn new() -> Self {
        gauge!(CONNECTIONS_OPEN).increment(1.0);
        Self
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        gauge!(CONNECTIONS_OPEN).decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    #[test]
    fn every_label_value_is_there_from_the_start_and_counts() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let page = ::metrics::with_local_recorder(&recorder, || {
            describe();
            count(Some(&ROUTES[0]), 304, Duration::ZERO);
            count(None, 404, Duration::ZERO);
            recorder.handle().render()
        });
        let rows = page.lines().filter(|line| line.starts_with(REQUESTS)).count();
        assert_eq!(rows, (ROUTES.len() + 1) * STATUSES.len());
        assert!(page.contains("{route=\"none\",method=\"other\",status=\"4xx\"} 1"), "{page}");
        for (name, values) in [(LIMITED, LIMITS), (HANDSHAKES, RESULTS)] {
            assert_eq!(page.lines().filter(|line| line.starts_with(&format!("{name}{{"))).count(), values.len());
        }
        assert!(page.contains(&format!("{FAILURES} 0")) && page.contains(&format!("{CONNECTIONS_OPEN} 0")));
    }
}
