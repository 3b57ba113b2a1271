//! The demonstration's processes: started apart from the command that starts them, written down, and ended by what was
//! written down.
//!
//! Law: a process is known by its id and the moment it started, so that another one that got its id is never ended.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cinnabar_daemon::config::ENV_PREFIX;
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use crate::cli::error::CliError;

/// Longest that a process may take to end once asked.
const END_MAX: Duration = Duration::from_secs(15);
/// How often is looked.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Field of `/proc/<pid>/stat` after the name: when the process started, in clock ticks since boot; proc(5).
const START_FIELD: usize = 19;

/// A process as it is written down.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Process {
    /// Which one.
    pub name: String,
    /// What it does.
    pub role: String,
    /// Its id.
    pub pid: i32,
    /// When it started, in clock ticks since boot.
    pub started: u64,
    /// What it wrote.
    pub log: PathBuf,
}

/// One that this command started: its child, reaped when it ends.
pub struct Started {
    /// As it is written down.
    pub process: Process,
    child: Child,
}

fn started_at(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.rsplit_once(')')?.1;
    // A process that ended and was not waited for yet is no more.
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    if fields.first() == Some(&"Z") {
        return None;
    }
    fields.get(START_FIELD)?.parse().ok()
}

impl Process {
    /// Does it run still?
    pub fn runs(&self) -> bool {
        started_at(self.pid) == Some(self.started)
    }

    /// Sends a signal, if it still runs.
    pub fn signal(&self, signal: Signal) {
        if self.runs()
            && let Some(pid) = Pid::from_raw(self.pid)
        {
            // It may have ended a moment ago.
            let _ = kill_process(pid, signal);
        }
    }

    /// The last lines that it wrote.
    pub fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }
}

/// Takes out of a command's environment what would be configuration to our programs.
pub fn free_of_ours(command: &mut Command) {
    for (variable, _) in std::env::vars_os() {
        if variable.to_string_lossy().starts_with(ENV_PREFIX) {
            command.env_remove(variable);
        }
    }
}

/// Starts a program in a folder; what it writes goes to `log`. It outlives this command.
pub fn start(
    name: &str,
    role: &str,
    program: &Path,
    args: &[&str],
    (dir, log): (&Path, PathBuf),
) -> Result<Started, CliError> {
    let out = File::create(&log).map_err(|error| CliError::file(&log, error))?;
    let error = out.try_clone().map_err(|error| CliError::file(&log, error))?;
    let mut command = Command::new(program);
    command.args(args).current_dir(dir).stdin(Stdio::null()).stdout(out).stderr(error).process_group(0);
    free_of_ours(&mut command);
    let child = command.spawn().map_err(|error| CliError::file(program, error))?;
    let pid = i32::try_from(child.id()).map_err(|_| CliError::Failed("a process id past 2^31".to_owned()))?;
    let started = started_at(pid).ok_or_else(|| CliError::Failed(format!("{name} ended at once")))?;
    let process = Process { name: name.to_owned(), role: role.to_owned(), pid, started, log };
    Ok(Started { process, child })
}

impl Started {
    /// Says why, when it has ended.
    pub fn check(&mut self) -> Result<(), CliError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            _ => Err(CliError::Failed(format!("{} ended:\n{}", self.process.name, self.process.last_words()))),
        }
    }

    /// Kills it without a word, and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks all of them to end, waits, and kills what is left.
pub fn end(processes: &[Process]) {
    for process in processes.iter().rev() {
        process.signal(Signal::TERM);
    }
    let mut waited = Duration::ZERO;
    while waited < END_MAX && processes.iter().any(Process::runs) {
        std::thread::sleep(LOOK_EVERY);
        waited += LOOK_EVERY;
    }
    for process in processes {
        process.signal(Signal::KILL);
    }
}
