//! The smallest HTTP client that can ask `/readyz` and read `/metrics`: one GET, one answer, one connection.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest a single step of a request may take.
const STEP_MAX: Duration = Duration::from_secs(2);
/// Longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 4 << 20;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// As in `200`.
    pub status: u16,
    /// What follows the header.
    pub body: String,
}

/// Asks for a path.
///
/// # Errors
/// When nobody listens, the answer takes too long, or is no HTTP.
pub fn get(address: SocketAddr, path: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, STEP_MAX)?;
    stream.set_read_timeout(Some(STEP_MAX))?;
    stream.set_write_timeout(Some(STEP_MAX))?;
    // In one piece: a server that answers after the first piece resets the connection for the rest.
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    Ok(Answer { status, body: unchunked(head, body) })
}

/// Takes the chunk sizes out of a chunked body.
fn unchunked(head: &str, body: &str) -> String {
    if !head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return body.to_owned();
    }
    let (mut rest, mut whole) = (body, String::new());
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        let Some(chunk) = after.get(..size).filter(|_| size > 0) else { break };
        whole.push_str(chunk);
        rest = after[size..].trim_start_matches("\r\n");
    }
    whole
}

/// The value of a metric in the Prometheus text form; with labels, `name` is the whole of `name{label="value"}`.
pub fn metric(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// Answers once, with these bytes, whatever is asked.
    fn answering(bytes: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 1024];
            let _ = stream.read(&mut asked).unwrap();
            stream.write_all(bytes.as_bytes()).unwrap();
        });
        address
    }

    #[test]
    fn an_answer_is_read_plain_and_chunked() {
        let answer = get(answering("HTTP/1.1 503 No\r\nA: b\r\n\r\nnot yet"), "/readyz").unwrap();
        assert_eq!(answer, Answer { status: 503, body: "not yet".to_owned() });
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
        assert_eq!(get(answering(chunked), "/").unwrap(), Answer { status: 200, body: "abcde".to_owned() });
        assert!(get(answering("nonsense"), "/").is_err());
    }

    #[test]
    fn a_metric_is_found_by_its_whole_name() {
        let text = "# TYPE kv_a counter\nkv_a_total 3\nkv_a{x=\"y\"} 2.5\nkv_a 7\n";
        assert_eq!(metric(text, "kv_a"), Some(7.0));
        assert_eq!(metric(text, "kv_a{x=\"y\"}"), Some(2.5));
        assert_eq!(metric(text, "kv_b"), None);
    }
}
