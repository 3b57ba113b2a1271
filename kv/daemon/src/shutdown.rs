//! The order of an end: somebody asks, everybody hears, work is finished within a bound, the process leaves.
//!
//! The road: `main` makes a [`Shutdown`], services wait on it and spawn their tasks through it, `main` calls
//! [`Shutdown::drain`] last. Law: the first signal asks, the second one ends the process at once; no drain outlasts
//! [`DRAIN_TIMEOUT`].

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Longest wait for tasks to end once a shutdown has begun.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(20);
/// Exit code after a second SIGINT: 128 + 2, as shells report it.
pub const EXIT_SIGINT: i32 = 130;
/// Exit code after a second SIGTERM: 128 + 15.
pub const EXIT_SIGTERM: i32 = 143;

/// One shutdown, seen from everywhere; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
    tasks: TaskTracker,
}

/// What [`Shutdown::drain`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Every task ended.
    Complete,
    /// Time ran out.
    TimedOut {
        /// How many tasks were still running.
        left: usize,
    },
}

impl Shutdown {
    /// A shutdown that only [`Shutdown::trigger`] begins.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A shutdown that SIGTERM and SIGINT begin as well. A second of these signals ends the process at once with
    /// [`EXIT_SIGTERM`] or [`EXIT_SIGINT`]. Call it once, inside a tokio runtime.
    ///
    /// # Errors
    /// When the operating system does not let us handle signals.
    pub fn from_signals() -> io::Result<Self> {
        let shutdown = Self::new();
        let signals = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        // Not tracked: it must live on through the drain, for the second signal.
        tokio::spawn(listen(shutdown.token.clone(), signals));
        Ok(shutdown)
    }

    /// Returns once a shutdown has begun, at once if it already has.
    pub async fn wait(&self) {
        self.token.cancelled().await;
    }

    /// Whether a shutdown has begun.
    #[must_use]
    pub fn is_triggered(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Begins the shutdown; later calls change nothing.
    pub fn trigger(&self) {
        self.token.cancel();
    }

    /// Spawns a task that [`Shutdown::drain`] waits for. The task itself watches [`Shutdown::wait`].
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tasks.spawn(task)
    }

    /// How many spawned tasks have not ended.
    #[must_use]
    pub fn running(&self) -> usize {
        self.tasks.len()
    }

    /// Begins the shutdown if nobody has, and waits for the spawned tasks, at most [`DRAIN_TIMEOUT`].
    pub async fn drain(&self) -> Drained {
        self.trigger();
        self.tasks.close();
        match timeout(DRAIN_TIMEOUT, self.tasks.wait()).await {
            Ok(()) => Drained::Complete,
            Err(_) => Drained::TimedOut { left: self.tasks.len() },
        }
    }
}

async fn listen(token: CancellationToken, (mut terminate, mut interrupt): (Signal, Signal)) {
    loop {
        let (name, code) = tokio::select! {
            _ = terminate.recv() => ("SIGTERM", EXIT_SIGTERM),
            _ = interrupt.recv() => ("SIGINT", EXIT_SIGINT),
        };
        if token.is_cancelled() {
            tracing::warn!(signal = name, "second signal: leaving without draining");
            std::process::exit(code);
        }
        tracing::info!(signal = name, "shutting down");
        token.cancel();
    }
}

/// SIGHUP, the signal to read certificates anew: each `recv` returns once per signal (several may count as one).
#[derive(Debug)]
pub struct Hangup(Signal);

impl Hangup {
    /// Takes the signal over; until then it would end the process.
    ///
    /// # Errors
    /// When the operating system does not let us handle signals.
    pub fn new() -> io::Result<Self> {
        signal(SignalKind::hangup()).map(Self)
    }

    /// Waits for the next signal.
    pub async fn recv(&mut self) {
        self.0.recv().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_drain_waits_for_tasks_that_end() {
        let shutdown = Shutdown::new();
        assert!(!shutdown.is_triggered());
        let seen = shutdown.clone();
        let task = shutdown.spawn(async move {
            seen.wait().await;
            tokio::time::sleep(DRAIN_TIMEOUT / 2).await;
            7
        });
        assert_eq!(shutdown.drain().await, Drained::Complete);
        assert!(shutdown.is_triggered());
        assert_eq!(task.await.unwrap(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_gives_up_on_a_task_that_does_not_end() {
        let shutdown = Shutdown::new();
        shutdown.spawn(std::future::pending::<()>());
        let before = tokio::time::Instant::now();
        assert_eq!(shutdown.drain().await, Drained::TimedOut { left: 1 });
        assert_eq!(before.elapsed().as_secs(), DRAIN_TIMEOUT.as_secs());
    }

    #[tokio::test]
    async fn every_clone_hears_the_trigger_and_so_do_late_comers() {
        let shutdown = Shutdown::new();
        let other = shutdown.clone();
        let waiting = tokio::spawn(async move { other.wait().await });
        shutdown.trigger();
        waiting.await.unwrap();
        shutdown.clone().wait().await;
    }

    /// The process that `signals_end_a_process_in_two_steps` sends signals to; does nothing when run with the others.
    #[tokio::test]
    async fn child_that_drains_for_ever() {
        if std::env::var_os("DAEMON_TEST_CHILD").is_none() {
            return;
        }
        let (shutdown, mut hangup) = (Shutdown::from_signals().unwrap(), Hangup::new().unwrap());
        println!("listening");
        hangup.recv().await;
        println!("hung up");
        shutdown.wait().await;
        println!("draining");
        // Bounded, so that a failed test leaves no process behind; ending here is not the exit code that is expected.
        tokio::time::sleep(DRAIN_TIMEOUT).await;
    }

    #[test]
    fn signals_end_a_process_in_two_steps() {
        use std::io::{BufRead, BufReader};
        use std::process::{Command, Stdio};

        for (name, code) in [("TERM", EXIT_SIGTERM), ("INT", EXIT_SIGINT)] {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "shutdown::tests::child_that_drains_for_ever", "--nocapture"])
                .env("DAEMON_TEST_CHILD", "1")
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
            let id = child.id().to_string();
            let send = |name: &str| assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
            let mut until = |word: &str| assert!(lines.any(|line| line.ends_with(word)), "{name}: no {word}");
            until("listening");
            send("HUP");
            until("hung up");
            send(name);
            until("draining");
            send(name);
            assert_eq!(child.wait().unwrap().code(), Some(code));
        }
    }
}
