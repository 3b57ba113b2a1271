//! Another user than root: what listens below port 1024 needs root to begin with, and nothing of it afterwards.
//!
//! Law: the calls change one thread, so they are made while there is one; threads that start later inherit from it.
//! Afterwards root cannot be had back, which is tried.

use std::path::Path;

use cinnabar_daemon::file::read_bounded;
use rustix::process::{geteuid, getuid};
use rustix::thread::{Gid, Uid, set_thread_groups, set_thread_res_gid, set_thread_res_uid, set_thread_uid};

/// Bytes of `/etc/passwd` and `/etc/group`.
const ACCOUNTS_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Groups of a user.
const GROUPS_MAX: usize = 64;

/// Why the user was not changed. The operator's to repair.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UserError {
    /// No such account.
    #[error("user: {0:?} is neither a user of this machine nor a number")]
    Unknown(String),
    /// The account is root's.
    #[error("user: {0:?} is root; name another user")]
    Root(String),
    /// The accounts cannot be read.
    #[error("user: {path}: {source}")]
    Accounts {
        /// The file.
        path: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The process has more than one thread already.
    #[error("user: the process has {0} threads, it can be changed while it has one")]
    Threads(usize),
    /// The system refused.
    #[error("user: {0}")]
    System(std::io::Error),
    /// Root could be had back.
    #[error("user: root could be had back")]
    Kept,
}

/// Who to be.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Account {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

/// The account of a name or number in the text of `/etc/passwd` and `/etc/group`; passwd(5), group(5).
fn account(user: &str, passwd: &str, group: &str) -> Option<Account> {
    let number: Option<u32> = user.parse().ok();
    let found = passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let (name, uid, gid) = (fields.first()?, fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?);
        (*name == user || number == Some(uid)).then(|| ((*name).to_owned(), uid, gid))
    });
    let Some((name, uid, gid)) = found else {
        return number.map(|uid| Account { uid, gid: uid, groups: vec![uid] });
    };
    let mut groups = vec![gid];
    for line in group.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        if let (Some(id), Some(members)) = (fields.get(2).and_then(|id| id.parse().ok()), fields.get(3))
            && members.split(',').any(|member| member == name)
            && !groups.contains(&id)
            && groups.len() < GROUPS_MAX
        {
            groups.push(id);
        }
    }
    Some(Account { uid, gid, groups })
}

fn read(path: &'static str) -> Result<String, UserError> {
    let bytes =
        read_bounded(Path::new(path), ACCOUNTS_BYTES_MAX).map_err(|source| UserError::Accounts { path, source })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn threads() -> Result<usize, UserError> {
    Ok(std::fs::read_dir("/proc/self/task").map_err(UserError::System)?.count())
}

/// Becomes that user when the process is root's; otherwise nothing is done. Says whether it was.
///
/// # Errors
/// [`UserError`]; the process must then end.
pub fn become_user(user: &str) -> Result<bool, UserError> {
    if !geteuid().is_root() && !getuid().is_root() {
        return Ok(false);
    }
    let unknown = || UserError::Unknown(user.to_owned());
    let account = account(user, &read("/etc/passwd")?, &read("/etc/group")?).ok_or_else(unknown)?;
    // The largest number means "leave it" to the system.
    if account.uid == u32::MAX || account.gid == u32::MAX {
        return Err(unknown());
    }
    if account.uid == 0 {
        return Err(UserError::Root(user.to_owned()));
    }
    match threads()? {
        1 => {}
        several => return Err(UserError::Threads(several)),
    }
    let system = |error: rustix::io::Errno| UserError::System(error.into());
    let groups: Vec<Gid> = account.groups.iter().map(|id| Gid::from_raw(*id)).collect();
    let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
    set_thread_groups(&groups).map_err(system)?;
    set_thread_res_gid(gid, gid, gid).map_err(system)?;
    set_thread_res_uid(uid, uid, uid).map_err(system)?;
    if set_thread_uid(Uid::ROOT).is_ok() || geteuid().is_root() || getuid().is_root() {
        return Err(UserError::Kept);
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\nedge:x:120:121::/:/bin/false\n";
    const GROUP: &str = "root:x:0:\nedge:x:121:\nsockets:x:130:other,edge\nother:x:131:edges\n";

    #[test]
    fn an_account_has_its_groups() {
        let expected = Account { uid: 120, gid: 121, groups: vec![121, 130] };
        assert_eq!(account("edge", PASSWD, GROUP), Some(expected.clone()));
        assert_eq!(account("120", PASSWD, GROUP), Some(expected));
        assert_eq!(account("4000", PASSWD, GROUP), Some(Account { uid: 4000, gid: 4000, groups: vec![4000] }));
        assert_eq!(account("nobody-here", PASSWD, GROUP), None);
        assert_eq!(account("root", PASSWD, GROUP).unwrap().uid, 0);
    }

    #[test]
    fn several_threads_are_too_many() {
        if !geteuid().is_root() {
            return;
        }
        // The test's own thread beside the runner's.
        assert!(matches!(become_user("65534"), Err(UserError::Threads(_))));
        assert!(matches!(become_user("0"), Err(UserError::Root(_))));
    }
}
