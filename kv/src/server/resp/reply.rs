//! Answers as bytes, in RESP2 or RESP3, gathered until the connection sends them.
//!
//! Law: an error line holds no control characters, whatever a client wrote: nobody can forge an answer through it.
//! Source: <https://redis.io/docs/latest/develop/reference/protocol-spec>.

use std::fmt;
use std::fmt::Write as _;

use super::limits::KEEP_BYTES_MAX;

/// Which answers a connection has asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Version {
    /// What a connection begins with.
    #[default]
    Resp2,
    /// After `HELLO 3`.
    Resp3,
}

/// The answers of a connection that were not sent yet.
#[derive(Debug, Default)]
pub struct Reply {
    bytes: Vec<u8>,
    sent: usize,
    /// How the answers that follow are written.
    pub version: Version,
}

/// Writes text without control characters.
struct Line<'a>(&'a mut Vec<u8>);

impl fmt::Write for Line<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend(text.bytes().map(|byte| if byte.is_ascii_control() { b' ' } else { byte }));
        Ok(())
    }
}

impl Reply {
    /// `+text`; the text is ours.
    pub fn simple(&mut self, text: &'static str) {
        self.bytes.push(b'+');
        self.bytes.extend_from_slice(text.as_bytes());
        self.end();
    }

    /// `-text`; begins with a word in capitals, by which clients know the kind.
    pub fn error(&mut self, error: &dyn fmt::Display) {
        self.bytes.push(b'-');
        write!(Line(&mut self.bytes), "{error}").expect("a vector takes every text");
        self.end();
    }

    /// `:number`.
    pub fn integer(&mut self, number: u64) {
        self.head(b':', number);
    }

    /// `:-number`.
    pub fn negative(&mut self, number: u64) {
        self.bytes.extend_from_slice(b":-");
        self.digits(number);
        self.end();
    }

    /// `$length`, and the bytes.
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.head(b'$', bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
        self.end();
    }

    /// Nothing.
    pub fn nil(&mut self) {
        self.bytes.extend_from_slice(match self.version {
            Version::Resp2 => b"$-1\r\n",
            Version::Resp3 => b"_\r\n",
        });
    }

    /// A bulk string, or nothing.
    pub fn bulk_or_nil(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bulk(bytes),
            None => self.nil(),
        }
    }

    /// Text to be shown as it is.
    pub fn verbatim(&mut self, text: &str) {
        match self.version {
            Version::Resp2 => self.bulk(text.as_bytes()),
            Version::Resp3 => {
                self.head(b'=', text.len() as u64 + 4);
                self.bytes.extend_from_slice(b"txt:");
                self.bytes.extend_from_slice(text.as_bytes());
                self.end();
            }
        }
    }

    /// The head of an array; `length` answers follow.
    pub fn array(&mut self, length: usize) {
        self.head(b'*', length as u64);
    }

    /// The head of a map; `length` pairs of answers follow.
    pub fn map(&mut self, length: usize) {
        match self.version {
            Version::Resp2 => self.array(2 * length),
            Version::Resp3 => self.head(b'%', length as u64),
        }
    }

    /// The head of a set; `length` answers follow.
    pub fn set(&mut self, length: usize) {
        match self.version {
            Version::Resp2 => self.array(length),
            Version::Resp3 => self.head(b'~', length as u64),
        }
    }

    /// What was not sent yet.
    pub fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// Notes that the first `count` unsent bytes left. Once all have, the buffer is reused, unless it grew large.
    pub fn sent(&mut self, count: usize) {
        self.sent += count;
        assert!(self.sent <= self.bytes.len(), "no more was sent than there is");
        if self.sent == self.bytes.len() {
            self.sent = 0;
            if self.bytes.capacity() > KEEP_BYTES_MAX { self.bytes = Vec::new() } else { self.bytes.clear() }
        }
    }

    fn head(&mut self, kind: u8, number: u64) {
        self.bytes.push(kind);
        self.digits(number);
        self.end();
    }

    fn digits(&mut self, mut number: u64) {
        let mut digits = [0; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.bytes.extend_from_slice(&digits[at..]);
    }

    fn end(&mut self) {
        self.bytes.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(version: Version, write: impl FnOnce(&mut Reply)) -> String {
        let mut reply = Reply { version, ..Reply::default() };
        write(&mut reply);
        String::from_utf8(reply.unsent().to_vec()).unwrap()
    }

    #[test]
    fn both_versions_are_written_as_specified() {
        type Case = (fn(&mut Reply), &'static str, &'static str);
        let both: [Case; 10] = [
            (|r| r.simple("OK"), "+OK\r\n", "+OK\r\n"),
            (|r| r.integer(0), ":0\r\n", ":0\r\n"),
            (|r| r.integer(u64::MAX), ":18446744073709551615\r\n", ":18446744073709551615\r\n"),
            (|r| r.negative(2), ":-2\r\n", ":-2\r\n"),
            (|r| r.bulk(b"a\r\nb"), "$4\r\na\r\nb\r\n", "$4\r\na\r\nb\r\n"),
            (|r| r.nil(), "$-1\r\n", "_\r\n"),
            (|r| r.array(3), "*3\r\n", "*3\r\n"),
            (|r| r.map(3), "*6\r\n", "%3\r\n"),
            (|r| r.set(3), "*3\r\n", "~3\r\n"),
            (|r| r.verbatim("x\r\n"), "$3\r\nx\r\n\r\n", "=7\r\ntxt:x\r\n\r\n"),
        ];
        for (write, two, three) in both {
            assert_eq!(written(Version::Resp2, write), two);
            assert_eq!(written(Version::Resp3, write), three);
        }
    }

    #[test]
    fn an_error_cannot_hold_a_second_answer() {
        assert_eq!(written(Version::Resp2, |r| r.error(&"ERR a\r\n+OK\0")), "-ERR a  +OK \r\n");
    }

    #[test]
    fn a_buffer_that_grew_large_is_given_back() {
        let mut reply = Reply::default();
        reply.bulk(&vec![0; 2 * KEEP_BYTES_MAX]);
        let all = reply.unsent().len();
        reply.sent(10);
        assert_eq!(reply.unsent().len(), all - 10);
        reply.sent(all - 10);
        assert!(reply.unsent().is_empty() && reply.bytes.capacity() == 0);
    }
}
