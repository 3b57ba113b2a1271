//! Time, numbers, silence and garbage.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::edge::Kind;
use crate::world::{PATIENCE, TLS12, TLS13, World, echo};

async fn ends(stream: &mut TcpStream) -> Vec<u8> {
    let mut read = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut read)).await.expect("it is cut");
    read
}

#[tokio::test]
async fn the_silent_and_the_slow_are_cut() {
    let world = World::new();
    let held = Arc::new(world.ca.issue(1, 1, Kind::P256, &["a.example"]));
    world.edge.serve("a.example", &[&held]);
    let more = format!("{}\n[limits]\nhandshake_time = \"400ms\"\nidle_time = \"400ms\"", echo().await);
    let terminator = world.terminate(&more).await;
    let mut silent = TcpStream::connect(terminator.address).await.unwrap();
    assert!(ends(&mut silent).await.is_empty());
    // One byte of a good client hello at a time is no progress that would prolong it.
    let mut slow = TcpStream::connect(terminator.address).await.unwrap();
    let begun = Instant::now();
    let mut hello = [22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3].into_iter().chain(std::iter::repeat(0));
    while begun.elapsed() < PATIENCE && slow.write_all(&[hello.next().unwrap()]).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(begun.elapsed() < PATIENCE);
    // A signature that does not come is the handshake's end too.
    world.edge.delay_ms.store(120_000, Ordering::SeqCst);
    terminator.connect(&world.client(TLS13), "a.example").await.unwrap_err();
    world.edge.delay_ms.store(0, Ordering::SeqCst);
    terminator.until("cinnabar_terminator_handshakes_total", &["timeout"], 3.0).await;
    // And an open connection on which nothing happens.
    let mut idle = terminator.connect(&world.client(TLS13), "a.example").await.unwrap();
    let mut read = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, idle.read_to_end(&mut read)).await.expect("it is cut");
    assert_eq!(terminator.metric("cinnabar_terminator_connections_open", &[]).await, 0.0);
}

#[tokio::test]
async fn suspicious_errors_wait_in_a_bounded_number_of_places() {
    let world = World::new();
    let held = Arc::new(world.ca.issue(1, 1, Kind::P256, &["a.example"]));
    world.edge.serve("a.example", &[&held]);
    let bounds = "[limits]\nhandshakes = 2\nblinded = 1\nblinding_time = \"30s\"\nhandshake_time = \"1s\"";
    let terminator = world.terminate(&format!("{}\n{bounds}", echo().await)).await;
    let garbage = async || {
        let mut stream = terminator.connect(&world.client(TLS13), "a.example").await.unwrap();
        // An encrypted record that does not verify.
        stream.get_mut().0.write_all(&[&[23, 3, 3, 0, 64][..], &[7; 64]].concat()).await.unwrap();
        stream.into_inner().0
    };
    let mut first = garbage().await;
    terminator.until("cinnabar_terminator_blinded_open", &[], 1.0).await;
    for n in 1..=3 {
        let begun = Instant::now();
        ends(&mut garbage().await).await;
        assert!(begun.elapsed() < Duration::from_secs(10), "no place: cut at once");
        terminator.until("cinnabar_terminator_blinded_total", &["cut"], f64::from(n)).await;
    }
    // More than the handshake's time later the first one waits still, and takes no handshake's place.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(terminator.metric("cinnabar_terminator_blinded_open", &[]).await, 1.0);
    for version in [TLS12, TLS13] {
        terminator.visit(&world.client(version), "a.example").await;
    }
    let waiting = tokio::time::timeout(Duration::from_millis(100), first.read_to_end(&mut Vec::new())).await;
    assert!(waiting.is_err(), "it is not answered before its time: {waiting:?}");
}

#[tokio::test]
async fn no_bytes_end_the_process() {
    let world = World::new();
    let held = Arc::new(world.ca.issue(1, 1, Kind::P256, &["a.example"]));
    world.edge.serve("a.example", &[&held]);
    let terminator = world.terminate(&format!("{}\n[limits]\nblinded = 1", echo().await)).await;
    let mut seed = 7u64;
    for n in 0..200 {
        let mut bytes = Vec::new();
        for _ in 0..n * 3 {
            // xorshift: the same bytes at every run.
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            bytes.push(seed.to_le_bytes()[0]);
        }
        if n % 2 == 0 {
            bytes.splice(0..0, [22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3]);
        }
        let mut stream = TcpStream::connect(terminator.address).await.unwrap();
        let _ = stream.write_all(&bytes).await;
    }
    terminator.visit(&world.client(TLS13), "a.example").await;
    assert_eq!(terminator.stop().await, Some(0));
}

fn threads(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_handshakes_wait_without_a_thread() {
    let world = World::new();
    for (n, (name, kind)) in [("a.example", Kind::P256), ("r.example", Kind::Rsa)].into_iter().enumerate() {
        let held = Arc::new(world.ca.issue(u8::try_from(n).unwrap(), 1, kind, &[name]));
        world.edge.serve(name, &[&held]);
    }
    let terminator = Arc::new(world.terminate(&echo().await).await);
    terminator.visit(&world.client(TLS13), "a.example").await;
    // Long enough that all of them are waiting at once; the 50 ms of a remote key are a bench's to measure.
    world.edge.delay_ms.store(3000, Ordering::SeqCst);
    let before = threads(terminator.pid());
    let mut visits = tokio::task::JoinSet::new();
    for n in 0..200 {
        let client = world.client(if n % 2 == 0 { TLS12 } else { TLS13 });
        let terminator = terminator.clone();
        visits.spawn(async move { terminator.visit(&client, if n % 4 < 2 { "a.example" } else { "r.example" }).await });
    }
    let (mut at_once, mut during) = (0, 0);
    while at_once < 200 && !visits.is_empty() {
        at_once = at_once.max(world.edge.in_flight.load(Ordering::SeqCst));
        during = during.max(threads(terminator.pid()));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(at_once, 200, "all wait for their signature at once");
    let names = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", terminator.pid())).unwrap();
        let name =
            |task: std::io::Result<std::fs::DirEntry>| std::fs::read_to_string(task.unwrap().path().join("comm"));
        tasks.map(|task| name(task).unwrap_or_default().trim().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(during, before, "{:?}", names());
    world.edge.delay_ms.store(50, Ordering::SeqCst);
    while let Some(visited) = visits.join_next().await {
        visited.unwrap();
    }
    assert_eq!(threads(terminator.pid()), before);
    // Last, for a page of metrics is made in a thread.
    terminator.until("cinnabar_terminator_handshakes_total", &["done"], 201.0).await;
    println!("200 handshakes at once, {before} threads before, {during} during");
}
