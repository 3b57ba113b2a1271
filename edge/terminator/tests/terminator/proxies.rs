//! The PROXY protocol's header, read by those that others made: haproxy and nginx, where they are.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use crate::edge::Kind;
use crate::world::{PATIENCE, TLS12, TLS13, Terminator, World};

/// The name that clients send.
const NAME: &str = "a.example";

/// A server that expects the header and answers with what it read there.
struct Reader {
    program: &'static str,
    /// Its arguments before the configuration's path.
    args: &'static [&'static str],
    /// What its answer says after the client's address and port; older nginx does not tell the name.
    more: &'static str,
    config: fn(at: SocketAddr, folder: &Path) -> String,
}

const READERS: [Reader; 2] = [
    Reader { program: "haproxy", args: &["-db", "-f"], more: " a.example", config: haproxy },
    Reader { program: "nginx", args: &["-e", "stderr", "-c"], more: "", config: nginx },
];

fn haproxy(at: SocketAddr, _: &Path) -> String {
    format!(
        "global\n  maxconn 16\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n\
         frontend all\n  bind {at} accept-proxy\n  http-request return status 200 content-type text/plain \
         lf-string \"%[src] %[src_port] %[fc_pp_authority]\"\n"
    )
}

fn nginx(at: SocketAddr, folder: &Path) -> String {
    let dir = folder.display();
    let kept = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let kept: String = kept.iter().map(|kind| format!("{kind}_temp_path {dir}/{kind};\n")).collect();
    format!(
        "daemon off;\nmaster_process off;\npid {dir}/nginx.pid;\nevents {{}}\nhttp {{\naccess_log off;\n{kept}\
         server {{ listen {at} proxy_protocol; default_type text/plain;\n\
         location / {{ return 200 \"$proxy_protocol_addr $proxy_protocol_port\"; }} }}\n}}\n"
    )
}

/// Starts it, and waits until it listens; none where it is not installed. It ends with what is returned.
async fn start(reader: &Reader, folder: &Path) -> Option<(Child, SocketAddr)> {
    let at = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let file = folder.join(format!("{}.conf", reader.program));
    std::fs::write(&file, (reader.config)(at, folder)).unwrap();
    // Who is not root may have no place for such programs in PATH.
    let places = [reader.program.to_owned(), format!("/usr/sbin/{}", reader.program)];
    let mut child = places.iter().find_map(|program| {
        let mut command = Command::new(program);
        command.args(reader.args).arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
        command.spawn().ok()
    })?;
    let listening = async {
        while TcpStream::connect(at).await.is_err() {
            assert!(child.try_wait().unwrap().is_none(), "{} ends at once", reader.program);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, listening).await.expect("it listens");
    Some((child, at))
}

/// One request; the client's own address, and the answer's body.
async fn ask(terminator: &Terminator, tls: &Arc<rustls::ClientConfig>) -> (SocketAddr, String) {
    let mut stream = terminator.connect(tls, NAME).await.unwrap();
    let us = stream.get_ref().0.local_addr().unwrap();
    let request = format!("GET / HTTP/1.1\r\nhost: {NAME}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_string(&mut answer)).await;
    read.expect("it answers").expect("close_notify");
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    (us, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

#[tokio::test]
async fn servers_that_others_made_read_who_speaks() {
    let world = World::new();
    let held = Arc::new(world.ca.issue(1, 1, Kind::P256, &[NAME]));
    world.edge.serve(NAME, &[&held]);
    let mut asked = Vec::new();
    for reader in &READERS {
        let Some((_running, at)) = start(reader, world.folder.path()).await else { continue };
        let terminator = world.terminate(&format!("upstream = \"{at}\"\nproxy_protocol = true")).await;
        for version in [TLS12, TLS13] {
            let (us, body) = ask(&terminator, &world.client(version)).await;
            assert_eq!(body, format!("{} {}{}", us.ip(), us.port(), reader.more), "{}", reader.program);
        }
        asked.push(reader.program);
    }
    if asked.is_empty() {
        println!("SKIPPED: neither nginx nor haproxy is here");
    } else {
        println!("read by {}", asked.join(" and "));
    }
}
