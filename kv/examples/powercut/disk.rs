//! A disk that can lose its power: an ext4 image on a loop device, cut by the shutdown ioctl or by copying the image.
//!
//! Law: after a cut nothing reaches the image that the file system had not written to it before. The ioctl
//! (`EXT4_IOC_SHUTDOWN` without flushing the journal) stops all of it at one moment; a copy takes what the loop device
//! had been given while its writers stand still.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use crate::{Rng, Step, problem};

/// Times that a busy file system is asked to go.
const UNMOUNT_TRIES: usize = 250;
/// `EXT4_IOC_SHUTDOWN` with `EXT4_GOING_FLAGS_NOLOGFLUSH`, for each folder that is named on a line.
const SHUTDOWN: &str = "
import fcntl, os, struct, sys
for line in sys.stdin:
    try:
        folder = os.open(line.rstrip('\\n'), os.O_RDONLY)
        try:
            fcntl.ioctl(folder, 0x8004587d, struct.pack('I', 2))
        finally:
            os.close(folder)
        print('cut', flush=True)
    except OSError as error:
        print(error, flush=True)
";

/// How the power goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The ioctl.
    Shutdown,
    /// A copy of the image while the writers are stopped.
    Copy,
}

/// The disk.
pub struct Disk {
    image: PathBuf,
    folder: PathBuf,
    mounted: bool,
    helper: Child,
    ask: ChildStdin,
    answer: BufReader<ChildStdout>,
}

/// Runs a command that must succeed.
pub fn must(command: &mut Command) -> Step<String> {
    let out = command.output().map_err(|error| problem(format!("{command:?}: {error}")))?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    Err(problem(format!("{command:?}: {}", String::from_utf8_lossy(&out.stderr).trim())))
}

impl Disk {
    /// Makes an empty one, `mib` MiB at most.
    pub fn new(dir: &Path, name: &str, mib: u64) -> Step<Self> {
        let (image, folder) = (dir.join(format!("{name}.img")), dir.join(name));
        fs::create_dir_all(&folder)?;
        fs::File::create(&image)?.set_len(mib * 1024 * 1024)?;
        must(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image))?;
        let mut helper = Command::new("python3")
            .args(["-c", SHUTDOWN])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| problem(format!("python3: {error}")))?;
        let ask = helper.stdin.take().ok_or_else(|| problem("python3 has no standard input"))?;
        let answer = helper.stdout.take().ok_or_else(|| problem("python3 has no standard output"))?;
        Ok(Self { image, folder, mounted: false, helper, ask, answer: BufReader::new(answer) })
    }

    /// Where it is mounted.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Options for the next mount: mostly ext4's own; some without its help for programs that forget to sync, or with
    /// old blocks showing up in files that were not synced.
    pub fn options(rng: &mut Rng) -> &'static str {
        match rng.below(4) {
            0 => "noauto_da_alloc,commit=60",
            1 => "noauto_da_alloc,data=writeback",
            _ => "defaults",
        }
    }

    /// Power on: mounts, which replays the journal.
    pub fn mount(&mut self, options: &str) -> Step<()> {
        must(Command::new("mount").args(["-o", &format!("loop,{options}")]).arg(&self.image).arg(&self.folder))?;
        self.mounted = true;
        Ok(())
    }

    /// The moment of the cut. The writers are killed after it, then comes [`Disk::settle`].
    pub fn cut(&mut self, how: Cut) -> Step<()> {
        match how {
            Cut::Shutdown => {
                writeln!(self.ask, "{}", self.folder.display())?;
                let mut line = String::new();
                self.answer.read_line(&mut line)?;
                if line.trim() == "cut" { Ok(()) } else { Err(problem(format!("the shutdown ioctl: {}", line.trim()))) }
            }
            Cut::Copy => copy(&self.image, &self.image.with_extension("cut")),
        }
    }

    /// Lets go of what the kernel still held of the old run.
    pub fn settle(&mut self, how: Cut) -> Step<()> {
        self.unmount()?;
        if how == Cut::Copy {
            fs::rename(self.image.with_extension("cut"), &self.image)?;
        }
        Ok(())
    }

    /// Keeps a copy for whoever looks into a failure.
    pub fn keep(&self, to: &Path) -> Step<()> {
        copy(&self.image, to)
    }

    fn unmount(&mut self) -> Step<()> {
        if !self.mounted {
            return Ok(());
        }
        let mut last = Ok(String::new());
        for _ in 0..UNMOUNT_TRIES {
            last = must(Command::new("umount").arg(&self.folder));
            if last.is_ok() {
                self.mounted = false;
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        last.map(|_| ())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = self.unmount() {
            eprintln!("powercut: {error}");
        }
        let _ = self.helper.kill();
        let _ = self.helper.wait();
    }
}

fn copy(from: &Path, to: &Path) -> Step<()> {
    must(Command::new("cp").args(["--sparse=always", "--reflink=never"]).arg(from).arg(to)).map(|_| ())
}
