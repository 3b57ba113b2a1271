//! Addresses and folders that belong to one test.
//!
//! Law: two tests of one process never get the same port, and a port stays free while its node is down. The kernel picks
//! ports of outgoing connections from `ip_local_port_range`, so ours lie below it: a restarted node finds its own again.

use std::collections::HashSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;

use tempfile::TempDir;

/// Lowest port that is given out; above what services use.
const PORT_MIN: u16 = 10_000;
/// First port of the kernel's own when the system does not tell.
const KERNEL_PORT_DEFAULT: u16 = 32_768;

static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);

/// A loopback address that nobody listens on and that is given out once.
///
/// # Panics
/// When there is none left.
pub fn free_address() -> SocketAddr {
    let end = kernel_ports_begin();
    let count = usize::from(end - PORT_MIN);
    // Test processes that run side by side start at different places.
    let start = usize::try_from(std::process::id()).expect("32 bits fit") * 97 % count;
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    for step in 0..count {
        let offset = u16::try_from((start + step) % count).expect("it is below the number of ports");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT_MIN + offset));
        if !given.contains(&address.port()) && TcpListener::bind(address).is_ok() {
            given.insert(address.port());
            return address;
        }
    }
    panic!("no free port between {PORT_MIN} and {end}");
}

fn kernel_ports_begin() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let begin = range.split_whitespace().next().and_then(|port| port.parse().ok()).unwrap_or(KERNEL_PORT_DEFAULT);
    if begin > PORT_MIN { begin } else { KERNEL_PORT_DEFAULT }
}

/// A folder that goes when the test succeeds and stays, named on standard error, when it panics.
///
/// Its path is short: the path of a Unix socket has 107 bytes at most.
#[derive(Debug)]
pub struct Folder(Option<TempDir>);

impl Folder {
    /// An empty folder.
    ///
    /// # Panics
    /// When the disk refuses.
    pub fn new() -> Self {
        let made = tempfile::Builder::new().prefix("cn").tempdir();
        Self(Some(made.unwrap_or_else(|error| panic!("no folder for the test: {error}"))))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        self.0.as_ref().expect("it is taken out when this is dropped only").path()
    }

    /// The path of something in it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Some(folder) = self.0.take().filter(|_| thread::panicking()) {
            eprintln!("files of the failed test are kept in {}", folder.keep().display());
        }
    }
}

#[test]
fn no_port_is_given_twice_and_each_can_be_bound_again() {
    let givers: Vec<_> =
        (0..4).map(|_| thread::spawn(|| (0..20).map(|_| free_address()).collect::<Vec<_>>())).collect();
    let all: Vec<SocketAddr> = givers.into_iter().flat_map(|giver| giver.join().unwrap()).collect();
    assert_eq!(all.iter().collect::<HashSet<_>>().len(), 80);
    for address in all {
        assert!(address.port() < kernel_ports_begin() && address.ip().is_loopback(), "{address}");
        let (first, again) = (TcpListener::bind(address).map(drop), TcpListener::bind(address).map(drop));
        assert!(first.is_ok() && again.is_ok(), "{address}: {first:?}, {again:?}");
    }
}

#[test]
fn the_folder_of_a_failed_test_is_kept_and_any_other_goes() {
    let folder = Folder::new();
    let gone = folder.path().to_owned();
    drop(folder);
    assert!(!gone.exists());
    let failed = thread::spawn(|| {
        let folder = Folder::new();
        fs::write(folder.join("log"), "last words").unwrap();
        std::panic::panic_any(folder.path().to_owned());
    });
    let kept = *failed.join().unwrap_err().downcast::<PathBuf>().unwrap();
    assert_eq!(fs::read_to_string(kept.join("log")).unwrap(), "last words");
    fs::remove_dir_all(kept).unwrap();
}
