//! One client: reads what came, answers all of it, sends the answers together.
//!
//! The road: [`Connection::run`] reads into one buffer, [`Connection::answer`] has each whole command in it answered
//! into another, and one write sends them. Asking one thing at a time costs one read and one write for each.
//! Law: no more than a command's bound is held for reading; beyond [`OUTPUT_BYTES_MAX`] of answers that a client
//! does not take, nothing more is read from it; after [`STALL_MS_MAX`] of that it is cut.

use std::io;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::UnixStream;

use super::Source;
use super::failure::Failure;
use super::limits::{KEEP_BYTES_MAX, KEYS_PER_TURN, OUTPUT_BYTES_MAX, READ_BYTES, STALL_MS_MAX};
use super::parser::{Args, Parser};
use super::reply::Reply;
use super::session::{Flow, Session};

/// A client's connection.
pub struct Connection<S> {
    stream: UnixStream,
    input: BytesMut,
    parser: Parser,
    reply: Reply,
    session: Session<S>,
}

/// Why answering stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// No whole command is left.
    Input,
    /// Too many answers wait.
    Output,
    /// The client is done, or said something that cannot be followed.
    End,
}

impl<S: Source> Connection<S> {
    /// A new one.
    pub(super) fn new(stream: UnixStream, session: Session<S>) -> Self {
        Self { stream, input: BytesMut::new(), parser: Parser::new(), reply: Reply::default(), session }
    }

    /// Serves it until it ends.
    ///
    /// # Errors
    /// The system's; [`io::ErrorKind::TimedOut`] for a client that does not take its answers.
    pub(super) async fn run(mut self) -> io::Result<()> {
        loop {
            match self.answer().await? {
                Stop::End => return drain(&self.stream, &mut self.reply, 0).await,
                Stop::Output => drain(&self.stream, &mut self.reply, OUTPUT_BYTES_MAX / 2).await?,
                Stop::Input => {
                    send(&self.stream, &mut self.reply)?;
                    if self.read().await? == 0 {
                        return drain(&self.stream, &mut self.reply, 0).await;
                    }
                }
            }
        }
    }

    /// Reads, and goes on sending meanwhile; 0 at the end. A client may write a long pipeline before it reads: both
    /// directions must move, or each side would wait for the other.
    async fn read(&mut self) -> io::Result<usize> {
        if self.input.is_empty() && self.input.capacity() > KEEP_BYTES_MAX {
            self.input = BytesMut::new();
        }
        self.input.reserve(READ_BYTES);
        while !self.reply.unsent().is_empty() {
            let ready = within_bound(self.stream.ready(Interest::READABLE | Interest::WRITABLE)).await?;
            if ready.is_writable() {
                send(&self.stream, &mut self.reply)?;
            }
            if ready.is_readable() {
                match self.stream.try_read_buf(&mut self.input) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    read => return read,
                }
            }
        }
        self.stream.read_buf(&mut self.input).await
    }

    /// Answers the whole commands that were read.
    async fn answer(&mut self) -> io::Result<Stop> {
        let Self { stream, input, parser, reply, session } = self;
        let mut at = 0;
        let stop = loop {
            if reply.unsent().len() > OUTPUT_BYTES_MAX {
                break Stop::Output;
            }
            let rest = &input[at..];
            match parser.next(rest) {
                Ok(None) => break Stop::Input,
                Ok(Some(used)) => at += used,
                Err(error) => {
                    reply.error(&format_args!("ERR Protocol error: {error}"));
                    break Stop::End;
                }
            }
            let args = parser.args(rest);
            let answered = match session.execute(args, reply) {
                Flow::Next => continue,
                Flow::End => break Stop::End,
                Flow::Values => values(stream, session, args, reply).await?,
                Flow::Page(page) => session.page(page, reply).await,
                Flow::AtLeast(index) => at_least(stream, session, args, index, reply).await?,
            };
            if let Err(failure) = answered {
                reply.error(&failure);
            }
        };
        input.advance(at);
        session.count_reads();
        Ok(stop)
    }
}

/// `MGET`: values as far as the client takes them. Each is read at its own index, and none is held.
async fn values<S: Source>(
    stream: &UnixStream,
    session: &mut Session<S>,
    args: Args<'_>,
    reply: &mut Reply,
) -> io::Result<Result<(), Failure>> {
    let keys = args.rest(1);
    for (n, key) in keys.enumerate() {
        let read = match session.read(key) {
            Ok(read) => read,
            Err(error) if n == 0 => return Ok(Err(error.into())),
            // Part of the array is written, perhaps sent: a torn answer must not look like a whole one.
            Err(error) => return Err(io::Error::other(error)),
        };
        if n == 0 {
            reply.array(args.len() - 1);
        }
        reply.bulk_or_nil(read.record.as_ref().map(|record| &record.value[..]));
        if reply.unsent().len() > OUTPUT_BYTES_MAX {
            drain(stream, reply, OUTPUT_BYTES_MAX / 2).await?;
        }
        if n % KEYS_PER_TURN == KEYS_PER_TURN - 1 {
            tokio::task::yield_now().await;
        }
    }
    Ok(Ok(()))
}

/// `CINNABAR.GET`: answers before it do not wait with it.
async fn at_least<S: Source>(
    stream: &UnixStream,
    session: &mut Session<S>,
    args: Args<'_>,
    index: u64,
    reply: &mut Reply,
) -> io::Result<Result<(), Failure>> {
    if index > 0 {
        send(stream, reply)?;
        if let Err(failure) = session.wait(index).await {
            return Ok(Err(failure));
        }
    }
    Ok(session.record(args.get(1).unwrap_or_default(), reply))
}

/// Sends what the system takes without waiting.
fn send(stream: &UnixStream, reply: &mut Reply) -> io::Result<()> {
    while !reply.unsent().is_empty() {
        match stream.try_write(reply.unsent()) {
            Ok(count) => reply.sent(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Sends until at most `left` bytes are unsent.
async fn drain(stream: &UnixStream, reply: &mut Reply, left: usize) -> io::Result<()> {
    while reply.unsent().len() > left {
        within_bound(stream.writable()).await?;
        send(stream, reply)?;
    }
    Ok(())
}

async fn within_bound<T>(ready: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let stalled = |_| io::Error::new(io::ErrorKind::TimedOut, "the client does not take its answers");
    tokio::time::timeout(Duration::from_millis(STALL_MS_MAX), ready).await.map_err(stalled)?
}
