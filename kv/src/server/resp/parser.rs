//! Requests from bytes: an array of bulk strings, or one line of words.
//!
//! The parser keeps its place, so a command that comes byte by byte costs as much as one that comes at once, and it
//! gives positions in the caller's buffer, so nothing is copied and, once warm, nothing is allocated.
//! Law: no length that a peer names makes memory be taken; it is compared with a bound first.
//!
//! Why not the crate redis-protocol 6: it decodes any frame, where a request is only one kind. Its decoder calls itself
//! for every nested array, so 20 KiB of `*1\r\n` overflow a worker's stack and end the process; it starts from the
//! first byte at every call, so 40 KiB of arguments that come byte by byte took it 1.4 s, and this one 0.2 ms; it waits
//! for `$9999999999` to arrive, having no bounds on lengths and counts; and it reads no inline commands.
//!
//! Source: <https://redis.io/docs/latest/develop/reference/protocol-spec>, "Sending commands to a Redis server".

use super::limits::{ARG_BYTES_MAX, ARGS_MAX, COMMAND_BYTES_MAX, DIGITS_MAX, INLINE_BYTES_MAX};

/// Bytes that no honest client sends. The connection cannot go on, because the next command's begin is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    /// The number of arguments is no number, or over [`ARGS_MAX`].
    #[error("invalid multibulk length: at most {ARGS_MAX} arguments")]
    Count,
    /// The length of an argument is no number, or over [`ARG_BYTES_MAX`].
    #[error("invalid bulk length: at most {ARG_BYTES_MAX} bytes")]
    Length,
    /// An argument is not a bulk string.
    #[error("expected '$', got '{}'", .0.escape_ascii())]
    NotBulk(u8),
    /// An argument is longer than it said.
    #[error("expected CRLF after an argument")]
    NoEnd,
    /// All arguments together are over [`COMMAND_BYTES_MAX`].
    #[error("too big command: at most {COMMAND_BYTES_MAX} bytes")]
    LongCommand,
    /// An inline command is over [`INLINE_BYTES_MAX`].
    #[error("too big inline request: at most {INLINE_BYTES_MAX} bytes")]
    LongInline,
    /// An inline command has quotes. Read as plain bytes they would name another key than the caller means.
    #[error("quotes are not read in inline commands; send an array")]
    Quotes,
}

/// Where an argument lies, from the command's first byte on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    from: u32,
    to: u32,
}

fn span(from: usize, to: usize) -> Span {
    let small = |at| u32::try_from(at).expect("a command is bounded by COMMAND_BYTES_MAX");
    Span { from: small(from), to: small(to) }
}

/// The arguments of one command, its name first.
#[derive(Debug, Clone, Copy)]
pub struct Args<'a> {
    bytes: &'a [u8],
    spans: &'a [Span],
}

impl<'a> Args<'a> {
    /// How many; at most [`ARGS_MAX`].
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// An empty line, or an array of nothing.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// One of them; at most [`ARG_BYTES_MAX`] bytes, of any value.
    pub fn get(&self, n: usize) -> Option<&'a [u8]> {
        let span = self.spans.get(n)?;
        Some(&self.bytes[span.from as usize..span.to as usize])
    }

    /// Those from the `n`th on.
    pub fn rest(self, n: usize) -> impl ExactSizeIterator<Item = &'a [u8]> {
        let spans = self.spans.get(n..).unwrap_or_default();
        spans.iter().map(move |span| &self.bytes[span.from as usize..span.to as usize])
    }
}

/// Finds commands in a buffer, one after the other.
#[derive(Debug, Default)]
pub struct Parser {
    spans: Vec<Span>,
    /// Next byte to look at, from the command's first on.
    at: usize,
    /// Arguments that are still to come; none before the array's header was read.
    missing: Option<usize>,
    /// Length of the argument whose header was read.
    length: Option<usize>,
    whole: bool,
}

impl Parser {
    /// At the begin of a command.
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks for a command at the begin of `input`, and tells its bytes; none while some of them are missing.
    ///
    /// After `None` the next call wants the same bytes and more; after `Some(n)` it wants what follows the first `n`.
    ///
    /// # Errors
    /// [`ProtocolError`]; the parser is not to be used again then.
    pub fn next(&mut self, input: &[u8]) -> Result<Option<usize>, ProtocolError> {
        if self.whole {
            self.spans.clear();
            (self.at, self.missing, self.length, self.whole) = (0, None, None, false);
        }
        let end = match input.first() {
            None => return Ok(None),
            Some(b'*') => self.array(input)?,
            Some(_) => self.line(input)?,
        };
        self.whole = end.is_some();
        Ok(end)
    }

    /// The arguments of the command that was found, out of the bytes that it was found in.
    pub fn args<'a>(&'a self, input: &'a [u8]) -> Args<'a> {
        assert!(self.whole, "a command was found");
        Args { bytes: input, spans: &self.spans }
    }

    fn array(&mut self, input: &[u8]) -> Result<Option<usize>, ProtocolError> {
        let mut missing = match self.missing {
            Some(missing) => missing,
            None => {
                let Some((count, next)) = number(input, 1, ProtocolError::Count)? else { return Ok(None) };
                if count > ARGS_MAX {
                    return Err(ProtocolError::Count);
                }
                self.at = next;
                count
            }
        };
        while missing > 0 {
            self.missing = Some(missing);
            if !self.bulk(input)? {
                return Ok(None);
            }
            missing -= 1;
        }
        Ok(Some(self.at))
    }

    /// Reads one argument; false while bytes of it are missing.
    fn bulk(&mut self, input: &[u8]) -> Result<bool, ProtocolError> {
        let length = match self.length {
            Some(length) => length,
            None => {
                match input.get(self.at) {
                    None => return Ok(false),
                    Some(b'$') => {}
                    Some(byte) => return Err(ProtocolError::NotBulk(*byte)),
                }
                let Some((length, next)) = number(input, self.at + 1, ProtocolError::Length)? else { return Ok(false) };
                if length > ARG_BYTES_MAX {
                    return Err(ProtocolError::Length);
                }
                if next + length + 2 > COMMAND_BYTES_MAX {
                    return Err(ProtocolError::LongCommand);
                }
                (self.length, self.at) = (Some(length), next);
                length
            }
        };
        let end = self.at + length;
        let Some(tail) = input.get(end..end + 2) else { return Ok(false) };
        if tail != b"\r\n" {
            return Err(ProtocolError::NoEnd);
        }
        self.spans.push(span(self.at, end));
        (self.length, self.at) = (None, end + 2);
        Ok(true)
    }

    fn line(&mut self, input: &[u8]) -> Result<Option<usize>, ProtocolError> {
        let found = input[self.at..].iter().position(|byte| *byte == b'\n');
        let end = found.map_or(input.len(), |n| self.at + n);
        if end > INLINE_BYTES_MAX {
            return Err(ProtocolError::LongInline);
        }
        self.at = end;
        if found.is_none() {
            return Ok(None);
        }
        let mut from = 0;
        for (at, byte) in input[..=end].iter().enumerate() {
            match byte {
                b'"' | b'\'' => return Err(ProtocolError::Quotes),
                b' ' | b'\t' | b'\r' | b'\n' => {
                    if from < at {
                        self.spans.push(span(from, at));
                    }
                    from = at + 1;
                }
                _ => {}
            }
            if self.spans.len() > ARGS_MAX {
                return Err(ProtocolError::Count);
            }
        }
        Ok(Some(end + 1))
    }
}

/// A decimal number, and the place after the CRLF that ends it; none while bytes are missing.
fn number(input: &[u8], from: usize, wrong: ProtocolError) -> Result<Option<(usize, usize)>, ProtocolError> {
    let mut value = 0;
    for (n, byte) in input[from..].iter().enumerate() {
        match byte {
            b'0'..=b'9' if n < DIGITS_MAX => value = value * 10 + usize::from(byte - b'0'),
            b'\r' if n > 0 => {
                return match input.get(from + n + 1) {
                    None => Ok(None),
                    Some(b'\n') => Ok(Some((value, from + n + 2))),
                    Some(_) => Err(wrong),
                };
            }
            _ => return Err(wrong),
        }
    }
    Ok(None)
}
