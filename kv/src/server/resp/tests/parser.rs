//! Attacks on the parser.

use proptest::collection::vec;
use proptest::prelude::*;

use super::encode;
use crate::server::resp::limits::{ARG_BYTES_MAX, ARGS_MAX, COMMAND_BYTES_MAX, INLINE_BYTES_MAX};
use crate::server::resp::{Parser, ProtocolError};

type Commands = Vec<Vec<Vec<u8>>>;

/// Feeds `bytes` in pieces as a connection does; gives the commands, and the error if there was one.
fn feed<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Commands, Option<ProtocolError>) {
    let (mut parser, mut buffer, mut commands) = (Parser::new(), Vec::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        let mut at = 0;
        loop {
            match parser.next(&buffer[at..]) {
                Ok(None) => break,
                Ok(Some(used)) => {
                    assert!(used > 0 && used <= buffer.len() - at && used <= COMMAND_BYTES_MAX);
                    let args = parser.args(&buffer[at..]);
                    assert!(args.len() <= ARGS_MAX && args.rest(0).all(|arg| arg.len() <= ARG_BYTES_MAX));
                    commands.push(args.rest(0).map(<[u8]>::to_vec).collect());
                    at += used;
                }
                Err(error) => return (commands, Some(error)),
            }
        }
        buffer.drain(..at);
        // What stays is less than a command, or the parser would have refused it.
        assert!(buffer.len() <= COMMAND_BYTES_MAX.max(INLINE_BYTES_MAX));
    }
    (commands, None)
}

fn whole(bytes: &[u8]) -> (Commands, Option<ProtocolError>) {
    feed([bytes])
}

fn words(line: &[&str]) -> Vec<Vec<u8>> {
    line.iter().map(|word| word.as_bytes().to_vec()).collect()
}

#[test]
fn arrays_and_lines_are_read() {
    let bytes = b"*2\r\n$3\r\nGET\r\n$1\r\na\r\nPING\r\n\r\n*0\r\n  get \t b  \n*1\r\n$0\r\n\r\n";
    let expected = vec![words(&["GET", "a"]), words(&["PING"]), vec![], vec![], words(&["get", "b"]), words(&[""])];
    assert_eq!(whole(bytes), (expected, None));
}

#[test]
fn a_length_takes_no_memory_before_it_is_checked() {
    for (bytes, error) in [
        (&b"*1000000000\r\n"[..], ProtocolError::Count),
        (b"*1025\r\n", ProtocolError::Count),
        (b"*99999999999", ProtocolError::Count),
        (b"*-1\r\n", ProtocolError::Count),
        (b"*\r\n", ProtocolError::Count),
        (b"*+1\r\n", ProtocolError::Count),
        (b"*1\n", ProtocolError::Count),
        (b"*1\rx", ProtocolError::Count),
        (b"*1\r\n$9999999999\r\n", ProtocolError::Length),
        (b"*1\r\n$65537\r\n", ProtocolError::Length),
        (b"*1\r\n$-1\r\n", ProtocolError::Length),
        (b"*1\r\n$18446744073709551616", ProtocolError::Length),
        (b"*1\r\n:1\r\n", ProtocolError::NotBulk(b':')),
        (b"*1\r\n$1\r\nabc", ProtocolError::NoEnd),
        (b"GET 'a b'\r\n", ProtocolError::Quotes),
    ] {
        assert_eq!(whole(bytes), (vec![], Some(error)), "{}", bytes.escape_ascii());
    }
}

#[test]
fn nesting_is_refused_at_its_first_step() {
    let deep = b"*1\r\n".repeat(250_000);
    assert_eq!(whole(&deep), (vec![], Some(ProtocolError::NotBulk(b'*'))));
}

#[test]
fn the_bounds_are_reached_and_not_passed() {
    let key = vec![b'k'; ARG_BYTES_MAX];
    assert_eq!(whole(&encode(&[b"GET", &key])).0.len(), 1);
    let many = vec![&b"k"[..]; ARGS_MAX];
    assert_eq!(whole(&encode(&many)).0[0].len(), ARGS_MAX);
    let fit = (COMMAND_BYTES_MAX - 100) / (ARG_BYTES_MAX + 10);
    assert_eq!(whole(&encode(&vec![&key[..]; fit])).0.len(), 1);
    assert_eq!(whole(&encode(&vec![&key[..]; fit + 1])), (vec![], Some(ProtocolError::LongCommand)));
    let line = [&vec![b'x'; INLINE_BYTES_MAX][..], b"\n"].concat();
    assert_eq!(whole(&line).0.len(), 1);
    assert_eq!(whole(&vec![b'x'; INLINE_BYTES_MAX + 1]), (vec![], Some(ProtocolError::LongInline)));
    assert_eq!(whole("x ".repeat(ARGS_MAX + 1).as_bytes()), (vec![], None));
    let many = format!("{}\n", "x ".repeat(ARGS_MAX + 1));
    assert_eq!(whole(many.as_bytes()), (vec![], Some(ProtocolError::Count)));
}

#[test]
fn a_command_that_comes_byte_by_byte_is_looked_at_once() {
    // A megabyte in single bytes: looking at all of it each time would take half a trillion steps.
    let key = vec![b'k'; ARG_BYTES_MAX - 1];
    let bytes = encode(&vec![&key[..]; 15]);
    let (mut parser, last) = (Parser::new(), bytes.len());
    for end in 1..last {
        assert_eq!(parser.next(&bytes[..end]), Ok(None));
    }
    assert_eq!(parser.next(&bytes), Ok(Some(last)));
    assert_eq!(parser.args(&bytes).len(), 15);
}

/// Bytes that look like the protocol more often than chance makes them.
fn likely() -> impl Strategy<Value = Vec<u8>> {
    let token = prop_oneof![
        Just(b"*1\r\n".to_vec()),
        Just(b"*2\r\n".to_vec()),
        Just(b"*99999\r\n".to_vec()),
        Just(b"$3\r\nGET\r\n".to_vec()),
        Just(b"$4\r\n".to_vec()),
        Just(b"$0\r\n\r\n".to_vec()),
        Just(b"PING\r\n".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"*".to_vec()),
        vec(any::<u8>(), 0..6),
    ];
    vec(token, 0..20).prop_map(|tokens| tokens.concat())
}

proptest! {
    #[test]
    fn any_bytes_end_within_the_bounds_however_they_are_cut(bytes in likely(), cuts in vec(1usize..9, 1..200)) {
        let mut pieces = Vec::new();
        let (mut rest, mut cuts) = (&bytes[..], cuts.iter().cycle());
        while !rest.is_empty() {
            let (piece, after) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
            pieces.push(piece);
            rest = after;
        }
        prop_assert_eq!(feed(pieces), whole(&bytes));
    }

    #[test]
    fn what_a_client_encodes_comes_back(
            commands in vec(vec(vec(any::<u8>(), 0..40), 1..6), 0..6),
            cut in any::<prop::sample::Index>(),
        ) {
        let bytes: Vec<u8> =
            commands.iter().flat_map(|args| encode(&args.iter().map(|arg| &arg[..]).collect::<Vec<_>>())).collect();
        prop_assert_eq!(whole(&bytes), (commands.clone(), None));
        let (head, _) = bytes.split_at(cut.index(bytes.len() + 1));
        let (some, error) = whole(head);
        prop_assert!(error.is_none() && commands.starts_with(&some));
    }
}
