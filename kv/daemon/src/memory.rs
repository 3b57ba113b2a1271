//! The process's own memory: kept out of core dumps, from debuggers and from swap.
//!
//! The road: every process and command that opens a secret calls [`protect`] before it does.
//! Law: what cannot be done is said, never passed over: [`MemoryReport`] has a line for each protection. Locking is all
//! or nothing: under a limit that holds today, a later allocation would end the process, so it is only done without one.

use std::fmt;

use rustix::io::Errno;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{CapabilitySet, capabilities};

/// What came of each protection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryReport {
    /// RLIMIT_CORE is 0: the kernel writes no core file.
    pub no_core_file: Outcome,
    /// Not dumpable: no core goes to a handler either, and processes of the same user cannot attach.
    pub not_dumpable: Outcome,
    /// All pages, present and future, stay out of swap once they are touched.
    pub locked: Outcome,
}

/// What came of one protection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It holds.
    Done,
    /// The kernel refused.
    Refused(Errno),
    /// The limit on locked memory, in bytes, would end the process later, so nothing was locked.
    Limited(u64),
}

impl MemoryReport {
    /// Whether every protection holds.
    pub fn is_complete(&self) -> bool {
        [self.no_core_file, self.not_dumpable, self.locked].iter().all(|outcome| *outcome == Outcome::Done)
    }
}

impl fmt::Display for MemoryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "no core file: {}; not dumpable: {}; locked in memory: {}",
            self.no_core_file, self.not_dumpable, self.locked
        )
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("yes"),
            Self::Refused(errno) => write!(f, "NO ({errno})"),
            Self::Limited(bytes) => write!(
                f,
                "NO (the limit on locked memory is {bytes} bytes; give CAP_IPC_LOCK or LimitMEMLOCK=infinity, \
                 or encrypt the swap)"
            ),
        }
    }
}

impl From<Result<(), Errno>> for Outcome {
    fn from(result: Result<(), Errno>) -> Self {
        result.map_or_else(Self::Refused, |()| Self::Done)
    }
}

/// Protects this process's memory as far as the system lets it. Once is enough, before the first secret; children do not
/// inherit the lock.
pub fn protect() -> MemoryReport {
    MemoryReport {
        no_core_file: setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).into(),
        not_dumpable: set_dumpable_behavior(DumpableBehavior::NotDumpable).into(),
        locked: lock(),
    }
}

fn lock() -> Outcome {
    let limit = getrlimit(Resource::Memlock);
    // What an administrator allows as most is ours to take.
    let raised = limit.maximum.is_none()
        && (limit.current.is_none() || setrlimit(Resource::Memlock, Rlimit { current: None, ..limit }).is_ok());
    let capable = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK));
    if !raised && !capable {
        return Outcome::Limited(limit.current.unwrap_or(0));
    }
    // ONFAULT: address space that an allocator or a thread's stack only reserves must not become memory.
    mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT).into()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use rustix::thread::set_capabilities;

    use super::*;

    const CHILD: &str = "CINNABAR_TEST_MEMORY_CHILD";

    /// Whether this is the child: runs the test again in a process of its own, since what it does holds for the whole
    /// process.
    fn is_child(test: &str) -> bool {
        if std::env::var_os(CHILD).is_some() {
            return true;
        }
        let mut child = Command::new(std::env::current_exe().unwrap());
        let output = child.args(["--exact", "--nocapture", test]).env(CHILD, "1").output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        false
    }

    fn line(file: &str, name: &str) -> String {
        let text = std::fs::read_to_string(file).unwrap();
        text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {text}")).to_owned()
    }

    #[test]
    fn a_protected_process_leaves_no_core_and_the_report_is_true() {
        if !is_child("memory::tests::a_protected_process_leaves_no_core_and_the_report_is_true") {
            return;
        }
        let core = getrlimit(Resource::Core);
        setrlimit(Resource::Core, Rlimit { current: core.maximum, ..core }).unwrap();
        let report = protect();
        let limit = line("/proc/self/limits", "Max core file size");
        assert_eq!(limit.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"]);
        assert_eq!((report.no_core_file, report.not_dumpable), (Outcome::Done, Outcome::Done));
        assert_eq!(rustix::process::dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        let locked = line("/proc/self/status", "VmLck:");
        assert_eq!(report.locked == Outcome::Done, !locked.contains(" 0 kB"), "{report}: {locked}");
        assert_eq!(report.is_complete(), !report.to_string().contains("NO"));
        // Memory that is asked for later is still given.
        let later = vec![1_u8; 256 << 20];
        assert_eq!(later.iter().step_by(4096).map(|byte| u32::from(*byte)).sum::<u32>(), 1 << 16);
    }

    #[test]
    fn under_a_limit_nothing_is_locked_and_the_report_says_so() {
        if !is_child("memory::tests::under_a_limit_nothing_is_locked_and_the_report_says_so") {
            return;
        }
        let mut sets = capabilities(None).unwrap();
        for set in [&mut sets.effective, &mut sets.permitted] {
            set.remove(CapabilitySet::IPC_LOCK | CapabilitySet::SYS_RESOURCE);
        }
        setrlimit(Resource::Memlock, Rlimit { current: Some(64 << 10), maximum: Some(1 << 20) }).unwrap();
        set_capabilities(None, sets).unwrap();
        let report = protect();
        assert_eq!(report.locked, Outcome::Limited(64 << 10));
        assert!(!report.is_complete() && report.to_string().contains("65536 bytes"), "{report}");
        assert!(line("/proc/self/status", "VmLck:").contains(" 0 kB"));
    }
}
