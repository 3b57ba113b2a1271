//! One child process: started, asked, paused, stopped, killed, and never left behind.
//!
//! Law: a child ends with its guard, by its own process id and no other. Its output goes to a file of the test; when the
//! test panics, the file's end is printed.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::deadline::{Deadline, poll};

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_cinnabar");
/// Lines of a log that are printed when a test panics.
const TAIL_LINES: usize = 40;
/// Longest that the kernel may take to stop or to collect a process.
const KERNEL_MAX: Duration = Duration::from_secs(10);

/// What to start, so that it can be started again.
#[derive(Debug, Clone)]
pub struct Program {
    /// For messages and the name of the log file.
    pub name: String,
    /// Program and arguments.
    pub command: Vec<PathBuf>,
    /// Variables on top of the test's own.
    pub env: Vec<(String, String)>,
    /// Where standard output and standard error go; a second start appends.
    pub log: PathBuf,
}

impl Program {
    /// The binary under test with these arguments; its log lies in `folder`.
    pub fn cinnabar<A: AsRef<OsStr>>(name: &str, args: impl IntoIterator<Item = A>, folder: &Path) -> Self {
        let command = [PathBuf::from(BINARY)];
        let command = command.into_iter().chain(args.into_iter().map(|arg| PathBuf::from(arg.as_ref()))).collect();
        Self { name: name.to_owned(), command, env: Vec::new(), log: folder.join(format!("{name}.log")) }
    }

    /// Starts it.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(&self) -> Child {
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let offset = log.metadata().unwrap().len();
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let child = command.spawn().unwrap_or_else(|error| panic!("{} does not start: {error}", self.name));
        Child { name: self.name.clone(), log: self.log.clone(), offset, child, ended: None }
    }
}

/// A running process.
#[derive(Debug)]
pub struct Child {
    name: String,
    log: PathBuf,
    /// Where this life of the process begins in the log.
    offset: u64,
    child: std::process::Child,
    ended: Option<ExitStatus>,
}

impl Child {
    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended; `None` while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("our own child can be waited for");
        }
        self.ended
    }

    /// Waits until it ends by itself; `None` when it still runs at the bound.
    pub fn wait(&mut self, bound: Duration) -> Option<ExitStatus> {
        poll(bound, || self.ended())
    }

    /// Ends it with SIGKILL and waits until it is gone. A paused process goes too.
    pub fn kill_9(&mut self) {
        self.signal(Signal::KILL);
        assert!(self.wait(KERNEL_MAX).is_some(), "{} survived SIGKILL", self.name);
    }

    /// Asks it to end with SIGTERM and waits.
    ///
    /// Returns its exit code; `None` when a signal ended it.
    ///
    /// # Panics
    /// When it still runs at the bound.
    pub fn terminate(&mut self, bound: Duration) -> Option<i32> {
        self.signal(Signal::TERM);
        let ended = self.wait(bound);
        ended.unwrap_or_else(|| panic!("{} does not end within {bound:?} of SIGTERM", self.name)).code()
    }

    /// Stops it in its tracks until [`Child::resume`]; its sockets stay open.
    pub fn pause(&mut self) {
        self.signal(Signal::STOP);
        assert!(poll(KERNEL_MAX, || (self.state()? == 'T').then_some(())).is_some(), "{} runs on", self.name);
    }

    /// Lets it go on.
    pub fn resume(&mut self) {
        self.signal(Signal::CONT);
    }

    /// Sends a signal; does nothing once it has ended, since its id may be another's by then.
    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            let id = i32::try_from(self.id()).ok().and_then(Pid::from_raw).expect("a process id is a positive number");
            kill_process(id, signal).expect("our own child can be signalled");
        }
    }

    /// The kernel's letter for what it does: R, S, D, T, Z.
    fn state(&self) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id())).ok()?;
        // The name before it may hold anything, so the last parenthesis counts.
        stat.rsplit_once(") ")?.1.chars().next()
    }

    /// What this life of it wrote so far.
    pub fn output(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        let from = usize::try_from(self.offset).expect("a log fits into memory").min(bytes.len());
        String::from_utf8_lossy(&bytes[from..]).into_owned()
    }

    /// Waits until it wrote a line that holds this text, and returns the line.
    ///
    /// # Panics
    /// When it ends or the bound is reached before.
    pub fn await_line(&mut self, text: &str, bound: Duration) -> String {
        self.await_that(&format!("a line with {text:?}"), bound, |child| {
            child.output().lines().find(|line| line.contains(text)).map(ToOwned::to_owned)
        })
    }

    /// Waits until there is an answer.
    ///
    /// # Panics
    /// When it ends or the bound is reached before.
    pub fn await_that<T>(&mut self, what: &str, bound: Duration, mut ask: impl FnMut(&Self) -> Option<T>) -> T {
        let deadline = Deadline::after(bound);
        loop {
            let ended = self.ended();
            if let Some(answer) = poll(deadline.left().min(Duration::from_millis(200)), || ask(self)) {
                return answer;
            }
            assert!(ended.is_none(), "{} ended with {ended:?} before {what}\n{}", self.name, self.tail());
            assert!(!deadline.passed(), "{}: {what}: not within {bound:?}\n{}", self.name, self.tail());
        }
    }

    /// The last lines of its log.
    pub fn tail(&self) -> String {
        let text = self.output();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            // Neither can fail but for a child that is gone, which is what is wanted.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if thread::panicking() {
            eprintln!("=== the end of {}'s log ===\n{}", self.name, self.tail());
        }
    }
}

/// How a command failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// Its exit code; `None` when a signal ended it, as one does when the bound is reached.
    pub code: Option<i32>,
    /// What it wrote to standard error.
    pub told: String,
}

/// Runs a command to its end and returns what it wrote to standard output.
///
/// # Errors
/// When it fails, or does not end within the bound and is killed.
pub fn run(command: &mut Command, bound: Duration) -> Result<String, Failed> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    // Read while it runs: a pipe that is full would stop it.
    let (out, err) = (drain(child.stdout.take().unwrap()), drain(child.stderr.take().unwrap()));
    let ended = poll(bound, || child.try_wait().unwrap());
    if ended.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let (out, told) = (out.join().unwrap(), err.join().unwrap());
    match ended {
        Some(status) if status.success() => Ok(out),
        Some(status) => Err(Failed { code: status.code(), told }),
        None => Err(Failed { code: None, told: format!("not within {bound:?}\n{told}") }),
    }
}

/// Reads a pipe to its end on a thread of its own.
fn drain(mut pipe: impl Read + Send + 'static) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes).expect("a pipe can be read");
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::super::ports::Folder;
    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    /// A shell script in place of the binary: these tests are about the guard.
    fn script(folder: &Folder, text: &str) -> Program {
        let command = ["sh", "-c", text].map(PathBuf::from).to_vec();
        Program { name: "script".to_owned(), command, env: Vec::new(), log: folder.join("script.log") }
    }

    fn exists(id: u32) -> bool {
        Path::new(&format!("/proc/{id}")).exists()
    }

    #[test]
    fn a_child_does_not_outlive_its_guard() {
        let folder = Folder::new();
        let child = script(&folder, "echo here; exec sleep 600").start();
        let id = child.id();
        assert!(exists(id));
        drop(child);
        assert!(!exists(id));
    }

    #[test]
    fn a_termination_gives_the_exit_code_and_a_kill_does_not() {
        let folder = Folder::new();
        let program = script(&folder, "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.05; done");
        let mut child = program.start();
        child.await_line("up", SOON);
        assert_eq!(child.terminate(SOON), Some(7));
        assert!(child.output().contains("bye"));
        let mut again = program.start();
        again.await_line("up", SOON);
        assert!(!again.output().contains("bye"), "the log of the life before is not this one's");
        again.kill_9();
        assert_eq!(again.ended().unwrap().signal(), Some(9));
        // Its id is free for others now, so no signal goes there.
        again.signal(Signal::KILL);
    }

    #[test]
    fn a_paused_child_does_nothing_until_it_is_resumed() {
        let folder = Folder::new();
        let mut child = script(&folder, "while :; do echo beat; sleep 0.01; done").start();
        child.await_line("beat", SOON);
        child.pause();
        let paused = child.output().len();
        thread::sleep(Duration::from_millis(100));
        assert_eq!(child.output().len(), paused);
        child.resume();
        assert!(poll(SOON, || (child.output().len() > paused).then_some(())).is_some());
        child.pause();
        child.kill_9();
    }

    /// The words with which something panics, on a thread of its own: the folder of this test is not kept for it.
    fn last_words(panics: impl FnOnce() + Send + 'static) -> String {
        *thread::spawn(panics).join().unwrap_err().downcast().unwrap()
    }

    #[test]
    fn waiting_for_a_child_that_ended_fails_with_its_last_words() {
        let folder = Folder::new();
        let mut child = script(&folder, "echo last words").start();
        let told = last_words(move || drop(child.await_line("never", SOON)));
        assert!(told.contains("before a line with \"never\"\nlast words"), "{told}");
    }

    #[test]
    fn waiting_for_an_answer_has_an_end() {
        let folder = Folder::new();
        let mut child = script(&folder, "exec sleep 600").start();
        let told = last_words(move || child.await_that("an answer", Duration::from_millis(50), |_| None));
        assert!(told.contains("script: an answer: not within 50ms"), "{told}");
    }

    #[test]
    fn the_binary_under_test_runs_and_fails_with_its_code() {
        let version = run(Command::new(BINARY).arg("--version"), SOON).unwrap();
        assert!(version.starts_with("cinnabar "), "{version}");
        let failed = run(Command::new(BINARY).arg("--no-such-option"), SOON).unwrap_err();
        assert!(failed.code == Some(2) && failed.told.contains("no-such-option"), "{failed:?}");
        let endless = run(Command::new("sleep").arg("600"), Duration::from_millis(50)).unwrap_err();
        assert!(endless.code.is_none() && endless.told.contains("not within"), "{endless:?}");
    }
}
