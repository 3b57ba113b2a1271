//! The endpoint over a real socket: order, pipelines, bounds on clients, and its end.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cinnabar_daemon::Shutdown;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

use super::{MapSource, encode};
use crate::metrics::Metrics;
use crate::server::resp::limits::{CONNECTIONS_MAX, OUTPUT_BYTES_MAX};
use crate::server::resp::{Source, serve};

/// A served endpoint in a folder of its own.
pub(super) struct Served {
    dir: TempDir,
    shutdown: Shutdown,
    task: JoinHandle<()>,
}

impl Served {
    pub(super) fn new(source: impl Source) -> Self {
        let dir = TempDir::new().unwrap();
        let listener = UnixListener::bind(dir.path().join("resp.sock")).unwrap();
        let shutdown = Shutdown::new();
        let task = shutdown.spawn(serve(listener, source, Metrics::new(), shutdown.clone()));
        Self { dir, shutdown, task }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.dir.path().join("resp.sock")
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.path()).await.unwrap()
    }

    pub(super) async fn end(mut self) {
        self.shutdown.trigger();
        tokio::time::timeout(Duration::from_secs(20), &mut self.task).await.unwrap().unwrap();
        // A child that another test starts holds a copy of the listener for a moment, between fork and exec.
        for _ in 0..250 {
            if !connects(&self.path()).await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the listener outlives the endpoint");
    }
}

async fn connects(path: &Path) -> bool {
    UnixStream::connect(path).await.is_ok()
}

async fn expect(stream: &mut UnixStream, answer: &[u8]) {
    let mut got = vec![0; answer.len()];
    tokio::time::timeout(Duration::from_secs(20), stream.read_exact(&mut got)).await.expect("an answer").unwrap();
    assert_eq!(got, answer, "{}", got.escape_ascii());
}

#[tokio::test]
async fn a_pipeline_is_answered_in_its_order_however_it_is_cut() {
    let served = Served::new(MapSource::new([("a", "one")]));
    let mut stream = served.connect().await;
    let commands = [encode(&[b"GET", b"a"]), b"PING\r\n".to_vec(), encode(&[b"GET", b"none"])].concat();
    for piece in [1, 2, 5, 100] {
        for bytes in commands.chunks(piece) {
            stream.write_all(bytes).await.unwrap();
            stream.flush().await.unwrap();
            tokio::task::yield_now().await;
        }
        expect(&mut stream, b"$3\r\none\r\n+PONG\r\n$-1\r\n").await;
    }
    served.end().await;
}

#[tokio::test]
async fn a_client_may_write_its_whole_pipeline_before_it_reads() {
    let served = Served::new(MapSource::new([("a", "one")]));
    let mut stream = served.connect().await;
    let command = encode(&[b"GET", b"a"]);
    // More than both sockets' buffers, and under the bound of unsent answers.
    let count = OUTPUT_BYTES_MAX / 10;
    tokio::time::timeout(Duration::from_secs(20), stream.write_all(&command.repeat(count))).await.unwrap().unwrap();
    expect(&mut stream, &b"$3\r\none\r\n".repeat(count)).await;
    served.end().await;
}

#[tokio::test]
async fn a_client_that_takes_no_answers_is_not_read_from() {
    let source = MapSource::default();
    source.put("big", &[b'v'; 60_000]);
    let served = Served::new(source);
    let mut stream = served.connect().await;
    let keys = [&b"MGET"[..]].into_iter().chain([&b"big"[..]; 1000]).collect::<Vec<_>>();
    let command = encode(&keys);
    // Sixty megabytes of answers for each command: a few of them would show in memory if they were held.
    let mut sent = 0;
    while let Ok(written) = tokio::time::timeout(Duration::from_millis(300), stream.write(&command)).await {
        sent += written.unwrap();
        assert!(sent < 8 << 20, "the endpoint reads on");
    }
    let mut answer = b"*1000\r\n".to_vec();
    answer.extend([&b"$60000\r\n"[..], &[b'v'; 60_000], b"\r\n"].concat().repeat(1000));
    expect(&mut stream, &answer).await;
    served.end().await;
}

#[tokio::test]
async fn what_cannot_be_followed_is_answered_and_ends_the_connection() {
    let served = Served::new(MapSource::new([("a", "one")]));
    let mut stream = served.connect().await;
    stream.write_all(b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*1000000000\r\n").await.unwrap();
    expect(&mut stream, b"$3\r\none\r\n-ERR Protocol error: invalid multibulk length: at most 1024 arguments\r\n")
        .await;
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
    served.end().await;
}

#[tokio::test]
async fn answers_before_a_wait_do_not_wait() {
    let source = MapSource::new([("a", "one")]);
    let served = Served::new(source.clone());
    let mut stream = served.connect().await;
    stream.write_all(b"GET a\r\nCINNABAR.GET a ATLEAST 2\r\nPING\r\n").await.unwrap();
    expect(&mut stream, b"$3\r\none\r\n").await;
    // Had the first answer waited with the second command, this would come too late for it.
    source.put("b", b"two");
    expect(&mut stream, b"*3\r\n$3\r\none\r\n:1\r\n:2\r\n+PONG\r\n").await;
    served.end().await;
}

#[tokio::test]
async fn a_scan_goes_on_over_another_connection_and_ends() {
    let keys: Vec<String> = (0..250).map(|n| format!("k{n:03}")).collect();
    let served = Served::new(MapSource::new(keys.iter().map(|key| (&key[..], "v"))));
    let (mut cursor, mut pages, mut seen) = ("0".to_owned(), 0, 0);
    loop {
        let mut stream = served.connect().await;
        stream.write_all(format!("SCAN {cursor}\r\n").as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        cursor = answer.split("\r\n").nth(2).unwrap().to_owned();
        seen += answer.matches("\r\nk").count();
        pages += 1;
        if cursor == "0" {
            break;
        }
    }
    assert_eq!((pages, seen), (3, 250));
    served.end().await;
}

#[tokio::test]
async fn one_client_too_many_is_told_so_and_room_is_used_again() {
    let served = Served::new(MapSource::default());
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        clients.push(served.connect().await);
    }
    // The last one's answer says that all of them were accepted.
    clients.last_mut().unwrap().write_all(b"PING\r\n").await.unwrap();
    expect(clients.last_mut().unwrap(), b"+PONG\r\n").await;
    let mut extra = served.connect().await;
    let mut answer = String::new();
    extra.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "-ERR max number of clients reached\r\n");
    drop(clients.split_off(CONNECTIONS_MAX / 2));
    for tries in 0.. {
        let mut again = served.connect().await;
        let mut answer = [0; 7];
        let _ = again.write_all(b"PING\r\n").await;
        if again.read_exact(&mut answer).await.is_ok() && answer == *b"+PONG\r\n" {
            break;
        }
        assert!(tries < 250, "no room after half of the clients left");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    served.end().await;
}

#[tokio::test]
async fn the_shutdown_ends_idle_clients() {
    let served = Served::new(MapSource::default());
    let mut stream = served.connect().await;
    stream.write_all(b"PING\r\n").await.unwrap();
    expect(&mut stream, b"+PONG\r\n").await;
    served.end().await;
    assert_eq!(stream.read(&mut [0; 8]).await.unwrap(), 0);
}
