//! Attacks on the decoders: random, mutated and over-long bytes; and the bytes of each format, so that a change is seen.

use std::fmt::Debug;

use bytes::Bytes;
use cinnabar_daemon::id::ClusterId;
use proptest::prelude::*;

use crate::limits::{
    BATCH_BYTES_MAX, BATCH_CONDITIONS_MAX, BATCH_OPS_MAX, CERTIFICATE_BYTES_MAX, COMMAND_BYTES_MAX, FRAME_BYTES_MAX,
    FRAME_BYTES_TARGET, FRAME_ENTRIES_MAX, KEY_BYTES_MAX, PAYLOAD_BYTES_MAX, RECORD_BYTES_MAX, SIGNATURE_BYTES_MAX,
};
use crate::*;

fn key(bytes: impl AsRef<[u8]>) -> Key {
    Key::new(bytes.as_ref().to_vec()).unwrap()
}

fn put(name: impl AsRef<[u8]>, value: impl Into<Bytes>) -> Op {
    Op::Put { key: key(name), value: value.into() }
}

fn write(ops: Vec<Op>) -> Write {
    Write { client: ClientId([9; 16]), sequence: 1, answered_below: 0, conditions: Vec::new(), ops }
}

fn checkpoint() -> Checkpoint {
    Checkpoint {
        cluster: "acme".parse().unwrap(),
        store_id: StoreId([1; 16]),
        term: 2,
        index: 3,
        committed: 4,
        chain_head: ChainHead([5; 32]),
        state_hash: StateHash([6; 32]),
        unix_ms: 7,
    }
}

fn signed() -> SignedCheckpoint {
    SignedCheckpoint {
        body: checkpoint().encode(),
        certificate: Bytes::from_static(b"certificate"),
        scheme: 0x0403,
        signature: Bytes::from_static(b"signature"),
    }
}

fn frame(entries: Vec<Entry>) -> Frame {
    Frame { after_index: 41, entries, checkpoint: signed() }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

// === Values ===

fn any_bytes(max: usize) -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..max).prop_map(Bytes::from)
}

fn any_key() -> impl Strategy<Value = Key> {
    proptest::collection::vec(any::<u8>(), 1..40).prop_map(key)
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (any_key(), any_bytes(60)).prop_map(|(key, value)| Op::Put { key, value }),
        any_key().prop_map(|key| Op::Delete { key })
    ]
}

fn any_write() -> impl Strategy<Value = Write> {
    let conditions = proptest::collection::vec(
        (any_key(), any::<u64>()).prop_map(|(key, mod_index)| Condition { key, mod_index }),
        0..4,
    );
    (any::<[u8; 16]>(), 1..=u64::MAX, any::<u64>(), conditions, proptest::collection::vec(any_op(), 1..6)).prop_map(
        |(client, sequence, answered_below, conditions, ops)| Write {
            client: ClientId(client),
            sequence,
            answered_below,
            conditions,
            ops,
        },
    )
}

fn any_command() -> impl Strategy<Value = Command> {
    prop_oneof![
        4 => any_write().prop_map(Command::Write),
        1 => ("[a-z]([a-z0-9-]{0,20}[a-z0-9])?", any::<[u8; 16]>()).prop_map(|(cluster, id)| Command::Genesis {
            cluster: cluster.parse().unwrap(),
            store_id: StoreId(id),
        }),
        1 => Just(Command::AllocateNode),
    ]
}

fn any_signed() -> impl Strategy<Value = SignedCheckpoint> {
    let body = (any::<[u64; 4]>(), any::<[u8; 32]>(), any::<[u8; 32]>(), any::<[u8; 16]>()).prop_map(
        |([term, index, committed, unix_ms], head, hash, store)| Checkpoint {
            term,
            index,
            committed,
            unix_ms,
            chain_head: ChainHead(head),
            state_hash: StateHash(hash),
            store_id: StoreId(store),
            ..checkpoint()
        },
    );
    let bytes = || proptest::collection::vec(any::<u8>(), 1..90).prop_map(Bytes::from);
    (body, bytes(), any::<u16>(), bytes()).prop_map(|(body, certificate, scheme, signature)| SignedCheckpoint {
        body: body.encode(),
        certificate,
        scheme,
        signature,
    })
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let payload = proptest::collection::vec(any::<u8>(), 1..90).prop_map(Bytes::from);
    let entry = (any::<u64>(), payload).prop_map(|(term, payload)| Entry { term, payload });
    (0..u64::MAX - 10, proptest::collection::vec(entry, 0..8), any_signed())
        .prop_map(|(after_index, entries, checkpoint)| Frame { after_index, entries, checkpoint })
}

/// Whatever is decoded from changed bytes is what those bytes say, all of them: its encoding is the bytes again.
fn attack<T: Debug + PartialEq>(
    bytes: &[u8],
    at: prop::sample::Index,
    byte: u8,
    decode: impl Fn(&[u8]) -> Result<T, Error>,
    encode: impl Fn(&T) -> Vec<u8>,
) {
    let value = decode(bytes).unwrap();
    assert_eq!(encode(&value), bytes);
    let at = at.index(bytes.len());
    let mut changed = bytes.to_vec();
    changed[at] = byte;
    if let Ok(other) = decode(&changed) {
        assert_eq!(encode(&other), changed);
    }
    assert!(decode(&bytes[..at]).is_err(), "a part was taken for the whole");
    let more = [bytes, &[byte]].concat();
    assert!(matches!(decode(&more), Err(Error::LeftOver { bytes: 1, .. } | Error::OutOfBounds { .. })));
    let other = [&[bytes[0].wrapping_add(1)], &bytes[1..]].concat();
    assert!(matches!(decode(&other), Err(Error::UnknownFormat { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_are_refused_or_are_an_encoding(bytes in proptest::collection::vec(any::<u8>(), 0..300), with_format: bool) {
        let bytes = if with_format { [&[1], &bytes[..]].concat() } else { bytes };
        if let Ok(value) = Command::decode(&bytes) {
            prop_assert_eq!(value.encode(), bytes.clone());
        }
        if let Ok(value) = Frame::decode(&bytes) {
            prop_assert_eq!(&value.encode()[..], &bytes[..]);
        }
        if let Ok(value) = SignedCheckpoint::decode(&bytes) {
            prop_assert_eq!(value.encode(), bytes.clone());
        }
        let signed = SignedCheckpoint { body: bytes.clone().into(), ..signed() };
        if let Ok(value) = signed.decode_body() {
            prop_assert_eq!(value.encode(), signed.body);
        }
    }

    #[test]
    fn a_command_comes_back_and_nothing_near_it_does(command in any_command(), at: prop::sample::Index, byte: u8) {
        prop_assert_eq!(&Command::decode(&command.encode()).unwrap(), &command);
        attack(&command.encode(), at, byte, Command::decode, Command::encode);
    }

    #[test]
    fn a_frame_comes_back_and_nothing_near_it_does(frame in any_frame(), at: prop::sample::Index, byte: u8) {
        prop_assert_eq!(&Frame::decode(&frame.encode()).unwrap(), &frame);
        attack(&frame.encode(), at, byte, Frame::decode, |frame| frame.encode().to_vec());
    }

    #[test]
    fn a_signed_checkpoint_comes_back_and_nothing_near_it_does(signed in any_signed(), at: prop::sample::Index, byte: u8) {
        prop_assert_eq!(&SignedCheckpoint::decode(&signed.encode()).unwrap(), &signed);
        attack(&signed.encode(), at, byte, SignedCheckpoint::decode, SignedCheckpoint::encode);
        let body = |bytes: &[u8]| SignedCheckpoint { body: bytes.to_vec().into(), ..signed.clone() }.decode_body();
        attack(&signed.body, at, byte, body, |checkpoint| checkpoint.encode().to_vec());
    }

    #[test]
    fn a_write_comes_back_from_its_message(write in any_write()) {
        let message = proto::WriteRequest::from(write.clone());
        prop_assert_eq!(Write::try_from(message).unwrap(), write);
    }
}

#[test]
fn the_formats_are_these_bytes() {
    let command = Command::Write(Write {
        conditions: vec![Condition { key: key("c"), mod_index: 0x0102 }],
        ops: vec![put("k", "value"), Op::Delete { key: key("d") }],
        sequence: 3,
        answered_below: 2,
        ..write(Vec::new())
    });
    assert_eq!(hex(&command.encode()), COMMAND_HEX);
    assert_eq!(hex(&command.to_payload()), format!("01{COMMAND_HEX}"));
    assert_eq!(hex(&checkpoint().encode()), CHECKPOINT_HEX);
    let entries = vec![
        Entry { term: 1, payload: Bytes::from_static(&[Entry::BLANK]) },
        Entry { term: 2, payload: Bytes::from_static(&[Entry::MEMBERSHIP, 0xaa, 0xbb]) },
    ];
    assert_eq!(hex(&frame(entries).encode()), FRAME_HEX);
    assert_eq!(hex(&Command::AllocateNode.encode()), "0102000000");
    assert_eq!(
        ChainHead::GENESIS.next(1, 2, b"payload").to_string(),
        CHAIN_HEX,
        "the chain is in every log and every signed checkpoint"
    );
}

const COMMAND_HEX: &str = "010000000009090909090909090909090909090909030000000000000002000000000000000100000000000000010000\
    000000000063020100000000000002000000000000000000000001000000000000006b050000000000000076616c7565\
    01000000010000000000000064";
const CHECKPOINT_HEX: &str = "01040000000000000061636d650101010101010101010101010101010102000000000000000300000000000000040000\
    000000000005050505050505050505050505050505050505050505050505050505050505050606060606060606060606\
    0606060606060606060606060606060606060606060700000000000000";
const FRAME_HEX: &str = "012900000000000000020000000000000001000000000000000100000000000000000200000000000000030000000000\
    000002aabb7d0000000000000001040000000000000061636d6501010101010101010101010101010101020000000000\
    000003000000000000000400000000000000050505050505050505050505050505050505050505050505050505050505\
    0505060606060606060606060606060606060606060606060606060606060606060607000000000000000b0000000000\
    00006365727469666963617465030409000000000000007369676e6174757265";
const CHAIN_HEX: &str = "c48f643e36984824e07edc63cc2dc1dcf6570ce7053e5271e74a9ddaa25526ad";

#[test]
fn every_part_of_an_entry_is_in_the_chain() {
    let head = ChainHead::GENESIS.next(1, 2, b"payload");
    assert_ne!(head, ChainHead([1; 32]).next(1, 2, b"payload"));
    assert_ne!(head, ChainHead::GENESIS.next(2, 2, b"payload"));
    assert_ne!(head, ChainHead::GENESIS.next(1, 1, b"payload"));
    assert_ne!(head, ChainHead::GENESIS.next(1, 2, b"payloae"));
    assert_ne!(head, ChainHead::GENESIS.next(1, 2, b"payload\0"));
}

/// The command of this write decodes exactly when `fits`; so does its message.
fn bound(write: Write, fits: bool) {
    assert_eq!(write.check().is_ok(), fits);
    assert_eq!(Write::try_from(proto::WriteRequest::from(write.clone())).is_ok(), fits);
    let bytes = Command::Write(write).encode();
    assert_eq!(Command::decode(&bytes).is_ok(), fits);
    assert!(!fits || bytes.len() < COMMAND_BYTES_MAX);
}

#[test]
fn writes_hold_their_bounds_at_the_limit_and_not_beyond() {
    assert!(Key::new(vec![0; KEY_BYTES_MAX]).is_ok() && Key::new(vec![0; 1]).is_ok());
    assert!(Key::new(vec![0; KEY_BYTES_MAX + 1]).is_err() && Key::new(Vec::new()).is_err());
    let ops = |count: usize| vec![put("k", "v"); count];
    bound(write(ops(0)), false);
    bound(write(ops(1)), true);
    bound(Write { sequence: 0, ..write(ops(1)) }, false);
    bound(Write { sequence: u64::MAX, answered_below: u64::MAX, ..write(ops(1)) }, true);
    bound(write(ops(BATCH_OPS_MAX)), true);
    bound(write(ops(BATCH_OPS_MAX + 1)), false);
    let longest = key(vec![7; KEY_BYTES_MAX]);
    let conditions = |count: usize| vec![Condition { key: longest.clone(), mod_index: 1 }; count];
    bound(Write { conditions: conditions(BATCH_CONDITIONS_MAX), ..write(ops(1)) }, true);
    bound(Write { conditions: conditions(BATCH_CONDITIONS_MAX + 1), ..write(ops(1)) }, false);
    bound(write(vec![put("k", vec![0; RECORD_BYTES_MAX - 1])]), true);
    bound(write(vec![put("k", vec![0; RECORD_BYTES_MAX])]), false);
    // The largest write there is: as many operations and conditions as there may be, and as many bytes.
    let each = BATCH_BYTES_MAX / BATCH_OPS_MAX;
    let mut largest = vec![put([7; KEY_BYTES_MAX], vec![0; each - KEY_BYTES_MAX]); BATCH_OPS_MAX];
    bound(Write { conditions: conditions(BATCH_CONDITIONS_MAX), ..write(largest.clone()) }, true);
    largest[0] = put([7; KEY_BYTES_MAX], vec![0; each - KEY_BYTES_MAX + 1]);
    bound(write(largest), false);
}

#[test]
fn frames_hold_their_bounds_at_the_limit_and_not_beyond() {
    let entries = |count: usize, length: usize| vec![Entry { term: 1, payload: vec![0; length].into() }; count];
    let fits = |frame: Frame| Frame::decode(&frame.encode()).is_ok();
    assert!(fits(frame(entries(FRAME_ENTRIES_MAX, 1))));
    assert!(!fits(frame(entries(FRAME_ENTRIES_MAX + 1, 1))));
    assert!(!fits(frame(entries(1, 0))));
    assert!(fits(frame(entries(1, PAYLOAD_BYTES_MAX))));
    assert!(!fits(frame(entries(1, PAYLOAD_BYTES_MAX + 1))));
    assert!(fits(Frame { after_index: u64::MAX - 2, ..frame(entries(2, 1)) }));
    assert!(!fits(Frame { after_index: u64::MAX - 1, ..frame(entries(2, 1)) }));
    // The largest frame: entries up to the target, then the largest entry, and the largest checkpoint.
    let checkpoint = |certificate: usize, signature: usize| SignedCheckpoint {
        certificate: vec![1; certificate].into(),
        signature: vec![1; signature].into(),
        ..signed()
    };
    let mut all = entries(FRAME_ENTRIES_MAX - 1, FRAME_BYTES_TARGET / FRAME_ENTRIES_MAX);
    all.extend(entries(1, PAYLOAD_BYTES_MAX));
    let largest = Frame { checkpoint: checkpoint(CERTIFICATE_BYTES_MAX, SIGNATURE_BYTES_MAX), ..frame(all) };
    assert!(largest.encode().len() <= FRAME_BYTES_MAX && fits(largest));
    for (certificate, signature, expected) in [
        (CERTIFICATE_BYTES_MAX, SIGNATURE_BYTES_MAX, true),
        (CERTIFICATE_BYTES_MAX + 1, 1, false),
        (1, SIGNATURE_BYTES_MAX + 1, false),
        (0, 1, false),
        (1, 0, false),
    ] {
        let checkpoint = checkpoint(certificate, signature);
        assert_eq!(SignedCheckpoint::decode(&checkpoint.encode()).is_ok(), expected);
        assert_eq!(fits(Frame { checkpoint, ..frame(Vec::new()) }), expected);
    }
    for body in [Bytes::new(), vec![0; 513].into()] {
        let checkpoint = SignedCheckpoint { body, ..signed() };
        assert!(SignedCheckpoint::decode(&checkpoint.encode()).is_err());
        assert!(!fits(Frame { checkpoint, ..frame(Vec::new()) }));
    }
}

#[test]
fn a_length_that_promises_more_than_there_is_costs_no_memory() {
    // Operations: as many as eight bytes can say.
    let mut bytes = Command::Write(write(vec![put("k", "v")])).encode();
    let at = 1 + 4 + 16 + 8 + 8 + 8;
    bytes[at..at + 8].fill(0xff);
    assert!(matches!(Command::decode(&bytes), Err(Error::Malformed { .. })));
    // The first key: the same.
    let mut bytes = Command::Write(write(vec![put("k", "v")])).encode();
    bytes[at + 12..at + 20].fill(0xff);
    assert!(matches!(Command::decode(&bytes), Err(Error::Malformed { .. })));
    let mut bytes = frame(Vec::new()).encode().to_vec();
    bytes[9..17].fill(0xff);
    assert!(matches!(Frame::decode(&bytes), Err(Error::Malformed { .. })));
}

#[test]
fn messages_that_no_client_of_ours_sends_are_refused() {
    let good = proto::WriteRequest::from(write(vec![put("k", "v")]));
    assert!(Write::try_from(good.clone()).is_ok());
    for client in [&[][..], &[0; 15], &[0; 17]] {
        assert!(Write::try_from(proto::WriteRequest { client_id: client.to_vec().into(), ..good.clone() }).is_err());
    }
    let op = |kind: i32, name: &'static [u8], value: &'static [u8]| proto::Op {
        kind,
        key: name.into(),
        value: value.into(),
    };
    let kinds = [proto::op::Kind::Put, proto::op::Kind::Delete].map(i32::from);
    for (op, fits) in [
        (op(kinds[0], b"k", b""), true),
        (op(kinds[1], b"k", b""), true),
        (op(kinds[1], b"k", b"v"), false),
        (op(0, b"k", b""), false),
        (op(3, b"k", b""), false),
        (op(-1, b"k", b""), false),
        (op(kinds[0], b"", b"v"), false),
    ] {
        assert_eq!(Write::try_from(proto::WriteRequest { ops: vec![op], ..good.clone() }).is_ok(), fits);
    }
    let condition = proto::Condition { key: Bytes::new(), mod_index: 0 };
    assert!(Write::try_from(proto::WriteRequest { conditions: vec![condition], ..good }).is_err());
}

#[test]
fn a_store_id_is_read_as_it_is_written() {
    let id = StoreId(*b"\x00\x01\xfe\xff\x10 and a few ");
    assert_eq!(id.to_string().parse::<StoreId>().unwrap(), id);
    for text in ["", "00", &"0".repeat(31), &"0".repeat(33), &"g0".repeat(16), &"+0".repeat(16), &"é".repeat(16)] {
        assert!(text.parse::<StoreId>().is_err(), "{text}");
    }
    assert!(StoreId::try_from(&[0; 15][..]).is_err() && ChainHead::try_from(&[0; 33][..]).is_err());
    assert_eq!(StateHash::try_from(&[3; 32][..]).unwrap(), StateHash([3; 32]));
}

#[test]
fn a_cluster_name_that_is_none_is_refused() {
    let cluster: ClusterId = "acme".parse().unwrap();
    let good = Command::Genesis { cluster, store_id: StoreId([0; 16]) }.encode();
    let mut bad = good.clone();
    let at = good.windows(4).position(|four| four == b"acme").unwrap();
    bad[at] = b'/';
    assert!(Command::decode(&good).is_ok() && Command::decode(&bad).is_err());
}
