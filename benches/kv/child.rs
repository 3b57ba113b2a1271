//! Child processes: each ends with its guard, by its own id and no other.
//!
//! A [`Helper`] is this program once more, as a process of its own: it is asked one JSON object a line, and answers so.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{self, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::Fallible;

/// A running server.
pub struct Child {
    child: process::Child,
    /// Where its output goes.
    pub log: PathBuf,
}

impl Child {
    /// Starts a program whose output goes to `log`.
    pub fn start<A: AsRef<OsStr>>(program: &Path, args: &[A], log: PathBuf) -> Fallible<Self> {
        let out = File::options().create(true).append(true).open(&log)?;
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        Ok(Self { child: command.spawn()?, log })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Has it not ended by itself?
    pub fn runs(&mut self) -> Fallible<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Ends it, politely or not, and waits until it is gone.
    pub fn end(&mut self, signal: Signal) -> Fallible<()> {
        let pid = i32::try_from(self.id()).ok().and_then(Pid::from_raw).ok_or("no process id")?;
        kill_process(pid, signal)?;
        self.child.wait()?;
        Ok(())
    }
}

/// This program once more, with `--helper`.
#[derive(Clone)]
pub struct Helper {
    pid: u32,
    pipes: Arc<Mutex<Pipes>>,
}

struct Pipes {
    child: process::Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Helper {
    /// Starts it. Its errors go where ours go.
    pub fn start() -> Fallible<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut child = command.arg("--helper").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (stdin, stdout) = child.stdin.take().zip(child.stdout.take()).ok_or("pipes were asked for")?;
        let pid = child.id();
        Ok(Self { pid, pipes: Arc::new(Mutex::new(Pipes { child, stdin, stdout: BufReader::new(stdout) })) })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.pid
    }

    /// Has it do something; gives its answer.
    pub async fn ask(&self, question: Value) -> Fallible<Value> {
        let pipes = self.pipes.clone();
        let answer = tokio::task::spawn_blocking(move || -> Fallible<Value> {
            let mut pipes = pipes.lock().map_err(|_| "an earlier question failed")?;
            writeln!(pipes.stdin, "{question}")?;
            let mut line = String::new();
            pipes.stdout.read_line(&mut line)?;
            Ok(serde_json::from_str(&line)?)
        });
        let answer = answer.await??;
        match &answer["error"] {
            Value::Null => Ok(answer),
            error => Err(error.to_string().into()),
        }
    }
}

impl Drop for Pipes {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Measured processes are thrown away with their folders: nothing is lost by killing them.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a program to its end; gives what it printed.
pub fn run<A: AsRef<OsStr>>(program: &Path, args: &[A]) -> Fallible<String> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let args: Vec<_> = args.iter().map(|arg| arg.as_ref().to_string_lossy()).collect();
    Err(format!("{} {}: {}", program.display(), args.join(" "), String::from_utf8_lossy(&output.stderr)).into())
}

/// Where a program is, if it is installed.
pub fn installed(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// Loopback ports that were free a moment ago, all different.
pub fn free_ports(count: usize) -> Fallible<Vec<u16>> {
    let listeners = (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<Result<Vec<_>, _>>()?;
    Ok(listeners.iter().map(|listener| listener.local_addr().map(|at| at.port())).collect::<Result<_, _>>()?)
}
