//! The log on standard error and the metrics behind `/metrics`.
//!
//! The road: `main` calls [`init_log`] first and [`install_metrics`] once its runtime is there; `health` renders the
//! handle. Law: one event is one line. What a peer sends can neither start a line nor move a terminal's cursor: in text
//! form every control character is written as an escape, in JSON the format does so.

use std::io::{self, Write};
use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use serde::{Deserialize, Serialize};
use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;

use crate::shutdown::Shutdown;

/// What is logged where nothing else was asked for.
pub const LOG_FILTER_DEFAULT: &str = "info";
/// The variable that operators set the filter with.
pub const LOG_VARIABLE: &str = "CINNABAR_LOG";
/// Upper bounds of the buckets of every metric named `*_seconds`: 50 us, doubling, 3.2768 s.
pub const SECONDS_BUCKETS: [f64; 17] = {
    let mut buckets = [50e-6; 17];
    let mut at = 1;
    while at < buckets.len() {
        buckets[at] = buckets[at - 1] * 2.0;
        at += 1;
    }
    buckets
};
/// How often histograms are drained into their buckets. Without it they grow until somebody asks for `/metrics`.
pub const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// How the log looks, where a process has no wish of its own for the default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// `text` or `json`.
    pub format: LogFormat,
    /// A level, or `target=level` pairs.
    pub filter: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::default(), filter: LOG_FILTER_DEFAULT.to_owned() }
    }
}

/// Why logging or metrics could not start. The operator's fault for a filter, ours for a second start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// The level filter does not parse.
    #[error("log filter `{filter}`: {source}; write a level like `info` or `warn,cinnabar_kv=debug`")]
    Filter {
        /// The filter as it was given.
        filter: String,
        /// Why.
        source: ParseError,
    },
    /// Logging was started before.
    #[error("the log was started twice")]
    LogTwice,
    /// Metrics were installed before, or cannot be.
    #[error("metrics: {0}")]
    Metrics(#[from] BuildError),
}

/// Starts the log of this process on standard error. `filter` is a level or `target=level` pairs
/// ([`LOG_FILTER_DEFAULT`]).
///
/// # Errors
/// [`TelemetryError::Filter`], [`TelemetryError::LogTwice`].
pub fn init_log(format: LogFormat, filter: &str) -> Result<(), TelemetryError> {
    let subscriber = subscriber(format, filter, io::stderr)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| TelemetryError::LogTwice)
}

/// Installs the process's metrics recorder and keeps it up until the shutdown. Call it inside a tokio runtime and
/// before anything takes metric handles: what was taken earlier counts into nothing.
///
/// # Errors
/// [`TelemetryError::Metrics`].
pub fn install_metrics(shutdown: &Shutdown) -> Result<PrometheusHandle, TelemetryError> {
    let handle = prometheus()?.install_recorder()?;
    let (upkeep, shutdown_of_task) = (handle.clone(), shutdown.clone());
    shutdown.spawn(async move {
        loop {
            tokio::select! {
                biased;
                () = shutdown_of_task.wait() => return,
                () = tokio::time::sleep(UPKEEP_INTERVAL) => upkeep.run_upkeep(),
            }
        }
    });
    Ok(handle)
}

fn prometheus() -> Result<PrometheusBuilder, BuildError> {
    PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)
}

fn subscriber<W>(
    format: LogFormat,
    filter: &str,
    writer: W,
) -> Result<Box<dyn Subscriber + Send + Sync>, TelemetryError>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::builder()
        .parse(filter)
        .map_err(|source| TelemetryError::Filter { filter: filter.to_owned(), source })?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false);
    Ok(match format {
        LogFormat::Text => Box::new(builder.with_writer(OneLine(writer)).finish()),
        LogFormat::Json => Box::new(builder.json().flatten_event(true).with_writer(writer).finish()),
    })
}

/// Escapes control characters. The formatter hands over one whole event per write, so only the last newline is its own.
struct OneLine<W>(W);

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for OneLine<W> {
    type Writer = OneLineWriter<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        OneLineWriter(self.0.make_writer())
    }

    fn make_writer_for(&'a self, meta: &tracing::Metadata<'_>) -> Self::Writer {
        OneLineWriter(self.0.make_writer_for(meta))
    }
}

struct OneLineWriter<W>(W);

impl<W: Write> Write for OneLineWriter<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let (line, end) = text.strip_suffix('\n').map_or((&*text, ""), |line| (line, "\n"));
        if line.contains(char::is_control) {
            let mut escaped = String::with_capacity(event.len() + 16);
            for character in line.chars() {
                if character.is_control() {
                    escaped.extend(character.escape_default());
                } else {
                    escaped.push(character);
                }
            }
            escaped.push_str(end);
            self.0.write_all(escaped.as_bytes())?;
        } else {
            self.0.write_all(text.as_bytes())?;
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, filter: &str, events: impl FnOnce()) -> String {
        let kept = Kept::default();
        let writer = kept.clone();
        let subscriber = subscriber(format, filter, move || writer.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, events);
        let bytes = kept.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    const EVIL: &str = "x\n2026-01-01T00:00:00Z ERROR forged\r\u{1b}[2J\u{7f}\u{9b}31m\t\u{7}é";

    #[test]
    fn a_peers_text_cannot_forge_a_line_or_move_the_cursor() {
        for format in [LogFormat::Text, LogFormat::Json] {
            let log = logged(format, "info", || tracing::info!(peer = EVIL, shown = %EVIL, debug = ?EVIL, "{EVIL}"));
            assert_eq!(log.matches('\n').count(), 1, "{format:?}: {log:?}");
            assert!(log.ends_with('\n'));
            let line = log.trim_end();
            assert!(
                !line
                    .chars()
                    .any(|c| c.is_control() && (format == LogFormat::Text || c.is_ascii_control() && c != '\u{7f}')),
                "{line:?}"
            );
            assert!(line.contains("forged") && line.contains('é'), "nothing is lost: {line}");
        }
    }

    #[test]
    fn the_filter_holds_and_a_bad_one_is_refused() {
        let events = || {
            tracing::debug!("quiet");
            tracing::warn!(log_index = 7, "loud");
        };
        let text = logged(LogFormat::Text, "info", events);
        assert!(text.contains("WARN") && text.contains("loud") && text.contains("log_index=7"), "{text}");
        assert!(!text.contains("quiet"));
        let json = logged(LogFormat::Json, "debug", events);
        assert_eq!(json.lines().count(), 2);
        assert!(json.contains("\"log_index\":7") && json.contains("\"message\":\"loud\""), "{json}");
        assert!(matches!(subscriber(LogFormat::Text, "loud=x=y", io::sink), Err(TelemetryError::Filter { .. })));
    }

    #[test]
    fn seconds_have_buckets_from_50_us_to_3_2_s() {
        assert_eq!(SECONDS_BUCKETS[0], 50e-6);
        assert!((SECONDS_BUCKETS[16] - 3.2768).abs() < 1e-9);
        let recorder = prometheus().unwrap().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            metrics::histogram!("test_seconds").record(0.0001);
            metrics::histogram!("test_bytes").record(1.0);
        });
        let page = recorder.handle().render();
        assert!(page.contains("test_seconds_bucket{le=\"0.0001\"} 1"), "{page}");
        assert_eq!(page.matches("test_seconds_bucket").count(), 18, "17 and +Inf: {page}");
        assert!(!page.contains("test_bytes_bucket"));
    }
}
