//! The demo's responder: one answer to one request, and headers that say who signed the handshake.
//!
//! Law: it answers only where the edge node says that the system's mode is demo; see [`crate::app`].

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::acceptor::Session;
use crate::limits::{DEMO_HEAD_BYTES_MAX, FAREWELL};

/// Where this terminator is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// The edge node's data centre.
    pub data_center: String,
    /// Its machine.
    pub machine: String,
}

/// What a header may carry: names come from another process.
fn plain(text: &str) -> String {
    text.chars().filter(|letter| letter.is_ascii_graphic()).take(128).collect()
}

fn answer(request: &str, place: &Place, session: &Session) -> String {
    let (status, text) = match request.lines().next().map(|line| line.split(' ').collect::<Vec<_>>()).as_deref() {
        Some(["GET", "/", version]) if version.starts_with("HTTP/1.") => {
            ("200 OK", format!("{} answers from {}\n", plain(&session.server_name), plain(&place.data_center)))
        }
        Some(["GET", _, version]) if version.starts_with("HTTP/1.") => ("404 Not Found", "not here\n".to_owned()),
        Some([_, _, version]) if version.starts_with("HTTP/1.") => ("405 Method Not Allowed", "GET alone\n".to_owned()),
        _ => ("400 Bad Request", "HTTP/1.1 alone\n".to_owned()),
    };
    let signed = session.signed.as_ref().filter(|_| !session.resumed);
    let by = signed
        .map_or("resumed".to_owned(), |signed| format!("{}/{}", plain(&signed.data_center), plain(&signed.machine)));
    let us = signed.map_or(0, |signed| signed.waited.as_micros());
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\
         x-cinnabar-data-center: {}\r\nx-cinnabar-signed-by: {by}\r\nx-cinnabar-signature-us: {us}\r\n\r\n{text}",
        text.len(),
        plain(&place.data_center),
    )
}

/// Answers one request, then waits a moment for the client to have read it.
///
/// # Errors
/// Of the stream; [`io::ErrorKind::TimedOut`] when no request comes within `idle`.
pub async fn respond(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    place: &Place,
    session: &Session,
    idle: Duration,
) -> io::Result<()> {
    let mut head = Vec::new();
    let mut buffer = [0; 1024];
    let complete = async {
        while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < DEMO_HEAD_BYTES_MAX {
            match stream.read(&mut buffer).await? {
                0 => break,
                read => head.extend(&buffer[..read]),
            }
        }
        io::Result::Ok(())
    };
    timeout(idle, complete).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    if head.is_empty() {
        return Ok(());
    }
    let answer = answer(&String::from_utf8_lossy(&head), place, session);
    let farewell = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        // Closing over unread bytes would take the answer away from the client.
        while stream.read(&mut buffer).await? > 0 {}
        io::Result::Ok(())
    };
    timeout(FAREWELL, farewell).await.unwrap_or(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::private_key::SignedBy;

    fn session(signed: Option<SignedBy>) -> Session {
        Session {
            server_name: "shop.example".to_owned(),
            version: "1.3",
            alpn: None,
            cipher: String::new(),
            resumed: signed.is_none(),
            signed,
        }
    }

    #[test]
    fn headers_say_who_signed() {
        let place = Place { data_center: "us-1\r\nx: y".to_owned(), machine: "us-1-a".to_owned() };
        let signed = SignedBy {
            machine: "de-1-a".to_owned(),
            data_center: "de-1".to_owned(),
            remote: true,
            waited: Duration::from_micros(9876),
        };
        let full = answer("GET / HTTP/1.1\r\nhost: x\r\n\r\n", &place, &session(Some(signed)));
        assert!(full.starts_with("HTTP/1.1 200 OK\r\n"), "{full}");
        assert!(full.contains("\r\nx-cinnabar-data-center: us-1x:y\r\n"), "no header is smuggled in: {full}");
        assert!(full.contains("\r\nx-cinnabar-signed-by: de-1/de-1-a\r\nx-cinnabar-signature-us: 9876\r\n"), "{full}");
        let resumed = answer("GET / HTTP/1.1\r\n\r\n", &place, &session(None));
        assert!(resumed.contains("\r\nx-cinnabar-signed-by: resumed\r\nx-cinnabar-signature-us: 0\r\n"), "{resumed}");
    }

    #[test]
    fn anything_else_is_refused() {
        for (request, status) in [
            ("GET /x HTTP/1.1\r\n\r\n", "404"),
            ("POST / HTTP/1.1\r\n\r\n", "405"),
            ("PRI * HTTP/2.0\r\n\r\n", "400"),
            ("\u{0}", "400"),
        ] {
            let answer = answer(request, &Place::default(), &session(None));
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer}");
        }
    }
}
