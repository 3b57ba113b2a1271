//! Which process dialled: the kernel's table of sockets gives the number of a connection's socket, and a process's open
//! files tell whether it is its own. So one proxy in front of a node can treat every caller differently, although all of
//! them come from one loopback address.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The processes whose connections are told apart. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Owners(Arc<Mutex<BTreeMap<u32, String>>>);

impl Owners {
    /// Nobody but the test itself, as `test`.
    pub fn new() -> Self {
        let owners = Self::default();
        owners.add(std::process::id(), "test");
        owners
    }

    /// Names a process.
    pub fn add(&self, id: u32, name: &str) {
        self.names().insert(id, name.to_owned());
    }

    /// Forgets a process that ended.
    pub fn remove(&self, id: u32) {
        self.names().remove(&id);
    }

    /// The process at the `from` end of the connection to `to`; `None` when it is none of ours, or is gone.
    pub fn who_dialled(&self, from: SocketAddr, to: SocketAddr) -> Option<String> {
        let table = fs::read_to_string("/proc/net/tcp").ok()?;
        let socket = format!("socket:[{}]", socket_number(&table, from, to)?);
        let names = self.names().clone();
        names.into_iter().find(|(id, _)| holds(*id, &socket)).map(|(_, name)| name)
    }

    fn names(&self) -> MutexGuard<'_, BTreeMap<u32, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads `sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode ...`.
fn socket_number(table: &str, from: SocketAddr, to: SocketAddr) -> Option<&str> {
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let ends = (address(fields.next()?)?, address(fields.next()?)?);
        (ends == (from, to)).then(|| fields.nth(6)).flatten()
    })
}

/// Reads an address as the kernel writes it: the IPv4 address as a number in its own byte order, the port as it is.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let ip = u32::from_str_radix(ip, 16).ok()?.to_ne_bytes();
    Some(SocketAddr::from((Ipv4Addr::from(ip), u16::from_str_radix(port, 16).ok()?)))
}

fn holds(id: u32, socket: &str) -> bool {
    let files = fs::read_dir(format!("/proc/{id}/fd")).into_iter().flatten().flatten();
    files.into_iter().any(|file| fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == socket))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_connection_is_traced_to_the_process_that_dialled() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).unwrap();
        let from = stream.local_addr().unwrap();
        let owners = Owners::new();
        assert_eq!(owners.who_dialled(from, to).as_deref(), Some("test"));
        assert_eq!(owners.who_dialled(to, to), None);
        owners.remove(std::process::id());
        assert_eq!(owners.who_dialled(from, to), None);
    }

    #[test]
    fn another_process_is_told_from_the_test() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let dial = format!("exec 3<>/dev/tcp/127.0.0.1/{}; exec sleep 600", to.port());
        let mut caller = std::process::Command::new("bash").args(["-c", &dial]).spawn().unwrap();
        let (_stream, from) = listener.accept().unwrap();
        let owners = Owners::new();
        let stranger = owners.who_dialled(from, to);
        owners.add(caller.id(), "caller");
        let known = owners.who_dialled(from, to);
        caller.kill().unwrap();
        caller.wait().unwrap();
        assert_eq!((stranger, known.as_deref()), (None, Some("caller")));
    }
}
