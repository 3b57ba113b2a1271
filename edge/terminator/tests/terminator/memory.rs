//! What lies in the terminator's memory: certificates, and no key.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::edge::Kind;
use crate::world::{TLS12, TLS13, World, echo};

/// How often each of `wanted` stands in a process's readable memory.
fn scan(pid: u32, wanted: &[Vec<u8>]) -> Vec<usize> {
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut found = vec![0; wanted.len()];
    for line in maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|flags| flags.starts_with('r'))) {
        if line.ends_with("[vvar]") || line.ends_with("[vsyscall]") || line.ends_with("[vvar_vclock]") {
            continue;
        }
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let (from, to) = (u64::from_str_radix(from, 16).unwrap(), u64::from_str_radix(to, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
        let Ok(read) = memory.read_at(&mut bytes, from) else { continue };
        for (part, count) in wanted.iter().zip(&mut found) {
            let first = part[0];
            let mut at = 0;
            while let Some(next) = bytes[at..read].iter().position(|byte| *byte == first) {
                at += next + 1;
                *count += usize::from(bytes[at - 1..read].starts_with(part));
            }
        }
    }
    found
}

/// The private scalar of a P-256 key in PKCS #8: ECPrivateKey's OCTET STRING of 32 bytes, RFC 5915 section 3.
fn scalar(pkcs8: &[u8]) -> Vec<u8> {
    let at = pkcs8.windows(5).position(|window| window == [2, 1, 1, 4, 32]).unwrap() + 5;
    pkcs8[at..at + 32].to_vec()
}

/// The first prime of an RSA key in PKCS #8: RFC 8017 appendix A.1.2; 128 bytes of a 2048-bit key.
fn prime(pkcs8: &[u8]) -> Vec<u8> {
    // INTEGER, 129 bytes, of which the first keeps it positive.
    let at = pkcs8.windows(4).position(|window| window == [2, 0x81, 0x81, 0]).unwrap() + 4;
    pkcs8[at..at + 128].to_vec()
}

fn reversed(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().rev().copied().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_thousand_handshakes_no_key_is_in_memory() {
    let world = World::new();
    let ecdsa = Arc::new(world.ca.issue(1, 1, Kind::P256, &["a.example"]));
    let rsa = Arc::new(world.ca.issue(2, 1, Kind::Rsa, &["r.example"]));
    world.edge.serve("a.example", &[&ecdsa]);
    world.edge.serve("r.example", &[&rsa]);
    let terminator = Arc::new(world.terminate(&echo().await).await);
    let mut visits = tokio::task::JoinSet::new();
    for n in 0..1000 {
        if visits.len() >= 32 {
            visits.join_next().await.unwrap().unwrap();
        }
        let client = world.client(if n % 2 == 0 { TLS12 } else { TLS13 });
        let terminator = terminator.clone();
        visits.spawn(async move { terminator.visit(&client, if n % 4 < 2 { "a.example" } else { "r.example" }).await });
    }
    while let Some(visited) = visits.join_next().await {
        visited.unwrap();
    }
    assert_eq!(world.edge.signed(), 1000);
    let (d, p) = (scalar(&ecdsa.pkcs8), prime(&rsa.pkcs8));
    // As bytes, and as the words of a little-endian machine's numbers.
    let keys = [reversed(&d), reversed(&p), d, p];
    let public = [ecdsa.record.chain[0][..64].to_vec(), rsa.record.chain[0][..64].to_vec()];
    let there = scan(terminator.pid(), &public);
    assert!(there.iter().all(|count| *count > 0), "the scan finds certificates: {there:?}");
    let here = scan(std::process::id(), &keys);
    assert!(here[2] > 0 && here[3] > 0, "the scan finds keys where there are any: {here:?}");
    assert_eq!(scan(terminator.pid(), &keys), [0; 4]);
    let status = std::fs::read_to_string(format!("/proc/{}/status", terminator.pid())).unwrap();
    let locked = status.lines().find(|line| line.starts_with("VmLck:")).unwrap();
    assert_eq!(locked.split_whitespace().nth(1), Some("0"), "nothing is locked, so that no limit of it is met");
}
