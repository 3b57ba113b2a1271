//! The plain side: header and bytes to the upstream, the demo's responder, and clients that others made.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustls::HandshakeKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::process::Command;

use crate::edge::Kind;
use crate::world::{PATIENCE, TLS12, TLS13, World, kind};

#[tokio::test]
async fn the_upstream_learns_who_speaks() {
    let world = World::new();
    let held = Arc::new(world.ca.issue(1, 1, Kind::P256, &["a.example"]));
    world.edge.serve("a.example", &[&held]);
    let socket = world.folder.path().join("upstream.sock");
    let upstream = UnixListener::bind(&socket).unwrap();
    let terminator = world.terminate(&format!("upstream = \"unix:{}\"\nproxy_protocol = true", socket.display())).await;
    for (version, label) in [(TLS12, "TLSv1.2"), (TLS13, "TLSv1.3")] {
        let tls = world.client(version);
        let (connected, accepted) = tokio::join!(terminator.connect(&tls, "A.example"), upstream.accept());
        let (mut client, (mut far, _)) = (connected.unwrap(), accepted.unwrap());
        let mut fixed = [0; 16];
        far.read_exact(&mut fixed).await.unwrap();
        assert_eq!(&fixed[..14], b"\r\n\r\n\0\r\nQUIT\n\x21\x11");
        let mut rest = vec![0; u16::from_be_bytes([fixed[14], fixed[15]]).into()];
        far.read_exact(&mut rest).await.unwrap();
        let from = client.get_ref().0.local_addr().unwrap().port().to_be_bytes();
        let to = terminator.address.port().to_be_bytes();
        assert_eq!(rest[..12], [&[127, 0, 0, 1, 127, 0, 0, 1][..], &from, &to].concat());
        let has = |part: &[u8]| rest.windows(part.len()).any(|window| window == part);
        assert!(has(b"\x01\x00\x08http/1.1") && has(b"\x02\x00\x09a.example") && has(label.as_bytes()), "{rest:?}");

        // A large body one way, then the other way. In TLS 1.3 the first has ended by then: RFC 8446 section 6.1;
        // before, a close_notify ended both directions (RFC 5246 section 7.2.1).
        let body = vec![b'x'; 3_000_000];
        let sent = async {
            client.write_all(&body).await.unwrap();
            client.flush().await.unwrap();
            if label == "TLSv1.3" {
                client.shutdown().await.unwrap();
            }
        };
        let mut read = vec![0; body.len()];
        let (_, received) = tokio::join!(sent, far.read_exact(&mut read));
        received.unwrap();
        assert!(read == body);
        if label == "TLSv1.3" {
            assert_eq!(far.read(&mut read).await.unwrap(), 0, "the end is passed on");
        }
        let answered = async {
            far.write_all(&body).await.unwrap();
            drop(far);
        };
        read.clear();
        let (_, received) = tokio::join!(answered, client.read_to_end(&mut read));
        received.expect("close_notify");
        assert!(read == body);
    }
}

async fn get(terminator: &crate::world::Terminator, client: &Arc<rustls::ClientConfig>) -> (String, HandshakeKind) {
    let mut stream = terminator.connect(client, "a.example").await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a.example\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("close_notify");
    (answer, kind(&stream))
}

#[tokio::test]
async fn the_demo_says_who_signed() {
    let world = World::new();
    world.edge.demo.store(true, Ordering::SeqCst);
    let held = Arc::new(world.ca.issue(1, 1, Kind::P256, &["a.example"]));
    world.edge.serve("a.example", &[&held]);
    let terminator = world.terminate("demo_responder = true").await;
    let ready = async {
        while !terminator.page("/readyz").await.starts_with("HTTP/1.1 200") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ready).await.unwrap();
    for version in [TLS12, TLS13] {
        let client = world.client(version);
        let (full, kind) = get(&terminator, &client).await;
        assert!(full.starts_with("HTTP/1.1 200 OK\r\n") && kind == HandshakeKind::Full, "{full}");
        assert!(full.contains("\r\nx-cinnabar-data-center: us-1\r\nx-cinnabar-signed-by: de-1/de-1-a\r\n"), "{full}");
        let (resumed, kind) = get(&terminator, &client).await;
        assert!(
            resumed.contains("\r\nx-cinnabar-signed-by: resumed\r\n") && kind == HandshakeKind::Resumed,
            "{resumed}"
        );
    }
    others(&world, &terminator).await;
}

async fn run(command: &mut Command) -> Option<std::process::Output> {
    match tokio::time::timeout(PATIENCE, command.stdin(Stdio::null()).kill_on_drop(true).output())
        .await
        .expect("it ends")
    {
        Ok(output) => Some(output),
        Err(error) => {
            println!("skipped: {:?}: {error}", command.as_std().get_program());
            None
        }
    }
}

/// curl and openssl, where they are, end cleanly.
async fn others(world: &World, terminator: &crate::world::Terminator) {
    let ca = world.folder.path().join("ca.pem");
    std::fs::write(&ca, &world.ca.pem).unwrap();
    let port = terminator.address.port();
    for version in ["1.2", "1.3"] {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-i", "--noproxy", "*", &format!("--tlsv{version}"), "--tls-max", version, "--cacert"]);
        curl.arg(&ca).args([
            "--resolve",
            &format!("a.example:{port}:127.0.0.1"),
            &format!("https://a.example:{port}/"),
        ]);
        if let Some(output) = run(&mut curl).await {
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && text.contains("x-cinnabar-signed-by"), "{text} {:?}", output.stderr);
        }
        let mut openssl = Command::new("openssl");
        openssl.args(["s_client", "-brief", "-verify_return_error", "-servername", "a.example", "-CAfile"]).arg(&ca);
        openssl.args(["-connect", &terminator.address.to_string(), &format!("-tls{}", version.replace('.', "_"))]);
        if let Some(output) = run(&mut openssl).await {
            let text = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && text.contains("Verification: OK"), "{text}");
        }
    }
}

#[tokio::test]
async fn the_demo_is_refused_where_the_mode_is_another() {
    let world = World::new();
    let mut terminator = world.terminate("demo_responder = true").await;
    assert_eq!(terminator.wait().await, Some(64));
}
