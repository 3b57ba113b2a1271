//! The plain side: a TCP or Unix connection to the upstream, the PROXY protocol's header before it when asked for, and
//! bytes both ways.
//!
//! The header is version 2 of the PROXY protocol (haproxy, doc/proxy-protocol.txt, section 2.2): who speaks to whom,
//! and as TLVs the protocol, the server name, and what TLS was negotiated.
//! Law: one direction's end is passed on and the other goes on; silence in both ends the connection.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use cinnabar_daemon::env::{BoxIo, DIAL_TIMEOUT};
use cinnabar_daemon::{Clock, Env, Shutdown};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep_until, timeout};

use crate::acceptor::Session;
use crate::config::Upstream;
use crate::limits::{ALPN_BYTES_MAX, COPY_BYTES, NAME_BYTES_MAX, PROXY_BYTES_MAX, SHUTDOWN_IDLE};

/// The signature of version 2.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, command PROXY.
const PROXY: u8 = 0x21;
/// TCP over IPv4.
const TCP4: u8 = 0x11;
/// TCP over IPv6.
const TCP6: u8 = 0x21;
const TLV_ALPN: u8 = 0x01;
const TLV_AUTHORITY: u8 = 0x02;
const TLV_SSL: u8 = 0x20;
const TLV_SSL_VERSION: u8 = 0x21;
const TLV_SSL_CIPHER: u8 = 0x23;
/// The client connected over TLS.
const CLIENT_SSL: u8 = 0x01;
/// No certificate of the client was verified.
const NOT_VERIFIED: u32 = 1;
/// Bytes of a cipher suite's name.
const CIPHER_BYTES_MAX: usize = 64;

// Signature, command, family, length, IPv6 addresses, and every TLV at its largest.
const _: () = assert!(
    12 + 4 + 36 + (3 + ALPN_BYTES_MAX) + (3 + NAME_BYTES_MAX) + (3 + 5 + 3 + 7 + 3 + CIPHER_BYTES_MAX)
        <= PROXY_BYTES_MAX
);

fn tlv(out: &mut Vec<u8>, kind: u8, value: &[u8]) {
    out.push(kind);
    out.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend(&value[..value.len().min(u16::MAX.into())]);
}

/// The header of a connection from `client` to our address `local`.
pub fn proxy_header(client: SocketAddr, local: SocketAddr, session: &Session) -> Vec<u8> {
    let mut body = Vec::with_capacity(PROXY_BYTES_MAX);
    let family = match (client.ip().to_canonical(), local.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            body.extend(from.octets());
            body.extend(to.octets());
            TCP4
        }
        (from, to) => {
            let wide = |ip: IpAddr| match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            body.extend(wide(from).octets());
            body.extend(wide(to).octets());
            TCP6
        }
    };
    body.extend(client.port().to_be_bytes());
    body.extend(local.port().to_be_bytes());
    if let Some(alpn) = &session.alpn {
        tlv(&mut body, TLV_ALPN, alpn);
    }
    tlv(&mut body, TLV_AUTHORITY, session.server_name.as_bytes());
    let mut ssl = vec![CLIENT_SSL];
    ssl.extend(NOT_VERIFIED.to_be_bytes());
    tlv(&mut ssl, TLV_SSL_VERSION, format!("TLSv{}", session.version).as_bytes());
    let cipher = session.cipher.as_bytes();
    tlv(&mut ssl, TLV_SSL_CIPHER, &cipher[..cipher.len().min(CIPHER_BYTES_MAX)]);
    tlv(&mut body, TLV_SSL, &ssl);

    let mut header = SIGNATURE.to_vec();
    header.extend([PROXY, family]);
    header.extend(u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes());
    header.extend(body);
    header
}

/// Connects, and writes the header when there is one.
///
/// # Errors
/// Of the system; [`io::ErrorKind::TimedOut`] after [`DIAL_TIMEOUT`].
pub async fn connect(upstream: &Upstream, env: &Env, header: Option<&[u8]>) -> io::Result<BoxIo> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no answer from {upstream}"));
    let mut stream: BoxIo = match upstream {
        Upstream::Tcp(address) => env.net.dial(address).await?,
        Upstream::Unix(path) => Box::new(timeout(DIAL_TIMEOUT, UnixStream::connect(path)).await.map_err(|_| late())??),
    };
    if let Some(header) = header {
        timeout(DIAL_TIMEOUT, stream.write_all(header)).await.map_err(|_| late())??;
    }
    Ok(stream)
}

// === Relay ===

/// When something last went through.
struct Activity {
    clock: Arc<dyn Clock>,
    last: Mutex<Instant>,
}

impl Activity {
    fn seen(&self) {
        *self.last.lock() = self.clock.now();
    }

    /// Returns once nothing went through for that long, which a shutdown shortens.
    async fn wait_for_silence(&self, idle: Duration, shutdown: &Shutdown) {
        let mut allowed = idle;
        loop {
            let end = *self.last.lock() + allowed;
            if self.clock.now() >= end {
                return;
            }
            tokio::select! {
                () = sleep_until(end) => {}
                () = shutdown.wait(), if allowed > SHUTDOWN_IDLE => allowed = SHUTDOWN_IDLE,
            }
        }
    }
}

async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    activity: &Activity,
) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let read = from.read(&mut buffer).await?;
        activity.seen();
        if read == 0 {
            return to.shutdown().await;
        }
        let mut left = &buffer[..read];
        while !left.is_empty() {
            let written = to.write(left).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            activity.seen();
            left = &left[written..];
        }
        to.flush().await?;
    }
}

/// Copies both ways until both have ended, one fails, or nothing went through for `idle`.
///
/// # Errors
/// The first of either side; [`io::ErrorKind::TimedOut`] after the silence.
pub async fn relay(
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
    upstream: BoxIo,
    idle: Duration,
    env: &Env,
    shutdown: &Shutdown,
) -> io::Result<()> {
    let activity = Activity { clock: env.clock.clone(), last: Mutex::new(env.clock.now()) };
    let (from_client, to_client) = tokio::io::split(client);
    let (from_upstream, to_upstream) = tokio::io::split(upstream);
    let both = async {
        tokio::try_join!(copy(from_client, to_upstream, &activity), copy(from_upstream, to_client, &activity))
    };
    tokio::select! {
        biased;
        done = both => done.map(|_| ()),
        () = activity.wait_for_silence(idle, shutdown) => Err(io::ErrorKind::TimedOut.into()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    fn session(alpn: Option<&[u8]>) -> Session {
        Session {
            server_name: "a.example".to_owned(),
            version: "1.3",
            alpn: alpn.map(<[u8]>::to_vec),
            cipher: "TLS_AES_128_GCM_SHA256".to_owned(),
            resumed: false,
            signed: None,
        }
    }

    #[test]
    fn the_header_is_as_its_specification_has_it() {
        let header = proxy_header(
            "192.0.2.1:56324".parse().unwrap(),
            "198.51.100.7:443".parse().unwrap(),
            &session(Some(b"h2")),
        );
        let mut expected = vec![0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a, 0x21, 0x11];
        // 12 of addresses, 5 of ALPN, 12 of AUTHORITY, 3 + 5 + 10 + 25 of SSL.
        expected.extend([0, 72]);
        expected.extend([192, 0, 2, 1, 198, 51, 100, 7, 0xdc, 0x04, 0x01, 0xbb]);
        expected.extend(b"\x01\x00\x02h2");
        expected.extend(b"\x02\x00\x09a.example");
        expected.extend(b"\x20\x00\x28\x01\x00\x00\x00\x01\x21\x00\x07TLSv1.3\x23\x00\x16TLS_AES_128_GCM_SHA256");
        assert_eq!(header, expected);
    }

    #[test]
    fn addresses_of_ipv6_and_mapped_ones() {
        let header =
            proxy_header("[2001:db8::1]:1".parse().unwrap(), "[2001:db8::2]:443".parse().unwrap(), &session(None));
        assert_eq!(header[13], TCP6);
        assert_eq!(header[16..32], [0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(header[48..52], [0, 1, 1, 0xbb]);
        assert_eq!(header[52], TLV_AUTHORITY, "no ALPN where none was negotiated");
        let mapped = proxy_header(
            "[::ffff:192.0.2.1]:1".parse().unwrap(),
            "[::ffff:192.0.2.2]:2".parse().unwrap(),
            &session(None),
        );
        assert_eq!((mapped[13], &mapped[16..20]), (TCP4, &[192, 0, 2, 1][..]));
    }

    #[tokio::test]
    async fn one_directions_end_leaves_the_other_open() {
        let ((mut client, mut near), (far, mut upstream)) = (duplex(64), duplex(64));
        let relayed = tokio::spawn(async move {
            relay(&mut near, Box::new(far), Duration::from_secs(60), &Env::system(), &Shutdown::new()).await
        });
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut read = String::new();
        upstream.read_to_string(&mut read).await.unwrap();
        assert_eq!(read, "question");
        upstream.write_all(b"answer").await.unwrap();
        drop(upstream);
        read.clear();
        client.read_to_string(&mut read).await.unwrap();
        assert_eq!(read, "answer");
        relayed.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_it_and_a_shutdown_hastens_that() {
        let idle = Duration::from_secs(60);
        for asked in [false, true] {
            let ((_client, mut near), (far, _upstream)) = (duplex(64), duplex(64));
            let (shutdown, begun) = (Shutdown::new(), Instant::now());
            if asked {
                shutdown.trigger();
            }
            let ended = relay(&mut near, Box::new(far), idle, &Env::system(), &shutdown).await.unwrap_err();
            assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
            let expected = if asked { SHUTDOWN_IDLE } else { idle };
            assert!(begun.elapsed() >= expected && begun.elapsed() < expected + Duration::from_secs(1));
        }
    }
}
