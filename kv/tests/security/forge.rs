//! What a relay can make of genuine frames: it holds valid certificates of every role but a voter's (and here those of
//! voters that are not this cluster's), and recomputes every hash that is not signed.

use std::sync::Arc;

use bytes::Bytes;
use cinnabar_daemon::Role;
use cinnabar_daemon::mtls::CONTEXT;
use cinnabar_kv::limits::SNAPSHOT_HEADER_BYTES_MAX;
use cinnabar_kv::log::{LogEntry, LogPoint};
use cinnabar_kv::snapshot::Header;
use cinnabar_kv_api::proto::SnapshotChunk;
use cinnabar_kv_api::{Checkpoint, Entry, Frame, SignedCheckpoint, StateHash, StoreId, codec};
use rcgen::{CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType};
use rcgen::{KeyUsagePurpose, PKCS_ECDSA_P256_SHA256};
use rustls::SignatureScheme;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::fixture::{Credentials, Pki};

/// Has the cluster's own authority vouch for any name: what it would never issue.
pub fn issue_foreign(pki: &Pki, uri: &str) -> Credentials {
    let key = std::fs::read_to_string(pki.folder.path().join("ca.key")).unwrap();
    let key = KeyPair::from_pem_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256).unwrap();
    let issuer = Issuer::from_ca_cert_pem(pki.authority.certificate_pem(), key).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    Credentials { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() }
}

/// Signs checkpoints with any certificate's key.
pub struct Signer(CertifiedKey);

impl Signer {
    pub fn new(credentials: &Credentials) -> Self {
        let pem = credentials.certificate_pem.as_bytes();
        let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(credentials.key_pem.as_bytes()).unwrap();
        Self(CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).unwrap())
    }

    pub fn sign_body(&self, body: Bytes) -> SignedCheckpoint {
        let scheme = SignatureScheme::ECDSA_NISTP256_SHA256;
        let signer = self.0.key.choose_scheme(&[scheme]).expect("keys are ECDSA P-256");
        let signature = signer.sign(&[CONTEXT, &SignedCheckpoint::message(&body)].concat()).unwrap();
        let certificate = Bytes::copy_from_slice(&self.0.cert[0]);
        SignedCheckpoint { body, certificate, scheme: scheme.into(), signature: signature.into() }
    }

    pub fn sign(&self, checkpoint: &Checkpoint) -> SignedCheckpoint {
        self.sign_body(checkpoint.encode())
    }
}

/// The points of a frame's entries, from the point before them.
pub fn chained(from: LogPoint, entries: &[Entry]) -> Vec<LogEntry> {
    let mut last = from;
    let next = |entry: &Entry| {
        let index = last.index + 1;
        last = LogPoint { index, term: entry.term, head: last.head.next(index, entry.term, &entry.payload) };
        LogEntry { point: last, payload: entry.payload.clone() }
    };
    entries.iter().map(next).collect()
}

/// Makes one frame of consecutive ones, as any relay may: the last checkpoint covers all of them.
pub fn join(frames: &[Frame]) -> Frame {
    let entries = frames.iter().flat_map(|frame| frame.entries.clone()).collect();
    let last = frames.last().expect("at least one");
    Frame { after_index: frames[0].after_index, entries, checkpoint: last.checkpoint.clone() }
}

/// Joins consecutive frames into ones of at least `entries` entries.
pub fn join_all(frames: &[Frame], entries: usize) -> Vec<Frame> {
    let (mut joined, mut open): (Vec<Frame>, Vec<Frame>) = (Vec::new(), Vec::new());
    for frame in frames.iter().filter(|frame| !frame.entries.is_empty()) {
        open.push(frame.clone());
        if open.iter().map(|frame| frame.entries.len()).sum::<usize>() >= entries {
            joined.push(join(&open));
            open.clear();
        }
    }
    joined
}

/// The kinds of attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Flip,
    Drop,
    Repeat,
    Reorder,
    Replay,
    Fork,
    Truncate,
}

impl Kind {
    pub const ALL: [Self; 7] =
        [Self::Flip, Self::Drop, Self::Repeat, Self::Reorder, Self::Replay, Self::Fork, Self::Truncate];
}

/// One attack, and what the replica must say: `Disbelief::reason`.
pub struct Attack {
    pub kind: Kind,
    pub what: &'static str,
    pub bytes: Bytes,
    pub reasons: &'static [&'static str],
}

/// What the relay has seen so far of the stream that it tampers with.
pub struct Seen<'a> {
    /// Where the victim is: before the genuine frame.
    pub from: LogPoint,
    /// What the victim should get, at least two entries.
    pub genuine: &'a Frame,
    /// Every frame with entries before it.
    pub older: &'a [Frame],
    /// Heartbeats before it.
    pub heartbeats: &'a [Frame],
    /// The frame after it.
    pub next: &'a Frame,
}

/// The relay's keys.
pub struct Forger {
    relay: Signer,
    voter: Signer,
    /// Certificates that are not a voter's of this cluster, and what each is.
    strangers: Vec<(&'static str, Signer)>,
}

const CHAIN: &[&str] = &["chain"];
const SIGNATURE: &[&str] = &["signature"];
const UNREADABLE: &[&str] = &["signature", "malformed"];
const MALFORMED: &[&str] = &["malformed"];
const FOREIGN: &[&str] = &["foreign"];

impl Forger {
    pub fn new(pki: &Pki) -> Self {
        let own = |what, role| (what, Signer::new(&pki.issue(role, "x")));
        let strangers = vec![
            own("signed by a replica", Role::Replica),
            own("signed by an edge node", Role::Edge),
            own("signed by the authority", Role::Authority),
            own("signed by an operator", Role::Operator),
            ("signed by a voter whose certificate is over", Signer::new(&pki.issue_expired(Role::Voter, "v1"))),
            ("signed by another authority's voter", Signer::new(&Pki::new().issue(Role::Voter, "v1"))),
            ("signed by another cluster's voter", Signer::new(&issue_foreign(pki, "spiffe://test/voter/v1"))),
        ];
        let voter = Signer::new(&pki.issue(Role::Voter, "v7"));
        Self { relay: Signer::new(&pki.issue(Role::Replica, "relay")), voter, strangers }
    }

    /// Every attack on one frame; `n` varies where the bytes are changed.
    pub fn attacks(&self, seen: &Seen<'_>, n: usize) -> Vec<Attack> {
        let mut attacks = self.flips(seen, n);
        attacks.extend(drops(seen));
        attacks.extend(repeats(seen));
        attacks.extend(reorders(seen));
        attacks.extend(replays(seen));
        attacks.extend(self.forks(seen));
        attacks.extend(truncations(seen, n));
        attacks
    }

    /// A checkpoint over other entries: everything recomputed that they would lead to.
    fn recomputed(seen: &Seen<'_>, entries: &[Entry]) -> Checkpoint {
        let last = chained(seen.from, entries).last().expect("entries").point;
        let genuine = seen.genuine.checkpoint.decode_body().unwrap();
        Checkpoint { index: last.index, term: last.term, chain_head: last.head, ..genuine }
    }

    fn flips(&self, seen: &Seen<'_>, n: usize) -> Vec<Attack> {
        let flip = |what, frame: Frame, reasons| attack(Kind::Flip, what, &frame, reasons);
        let genuine = seen.genuine;
        let mut altered = genuine.clone();
        let chosen = n % altered.entries.len();
        altered.entries[chosen].payload = flipped(&altered.entries[chosen].payload, n * 7);
        let body = Self::recomputed(seen, &altered.entries).encode();
        let with = |checkpoint| Frame { checkpoint, ..altered.clone() };
        let signed = &genuine.checkpoint;
        let unsigned = SignedCheckpoint { body: body.clone(), ..signed.clone() };
        let on_genuine = |checkpoint| Frame { checkpoint, ..genuine.clone() };
        let mut term = genuine.clone();
        term.entries[chosen].term ^= 1;
        let mut place = genuine.clone();
        place.after_index ^= 1 << (n % 8);
        vec![
            flip("a byte of a payload", altered.clone(), CHAIN),
            flip("a byte of a payload, heads recomputed, the old signature", with(unsigned), SIGNATURE),
            flip(
                "a byte of a payload, heads recomputed, the relay's own signature",
                with(self.relay.sign_body(body)),
                SIGNATURE,
            ),
            flip("an entry's term", term, CHAIN),
            flip("the frame's place", place, CHAIN),
            flip(
                "a bit of the checkpoint",
                on_genuine(SignedCheckpoint { body: flipped(&signed.body, n), ..signed.clone() }),
                UNREADABLE,
            ),
            flip(
                "a bit of the signature",
                on_genuine(SignedCheckpoint { signature: flipped(&signed.signature, n), ..signed.clone() }),
                SIGNATURE,
            ),
            flip(
                "a bit of the certificate",
                on_genuine(SignedCheckpoint { certificate: flipped(&signed.certificate, n), ..signed.clone() }),
                SIGNATURE,
            ),
            flip(
                "the signature's scheme",
                on_genuine(SignedCheckpoint { scheme: signed.scheme ^ 0x0100, ..signed.clone() }),
                SIGNATURE,
            ),
        ]
    }

    fn forks(&self, seen: &Seen<'_>) -> Vec<Attack> {
        let fork = |what, checkpoint, reasons| {
            attack(Kind::Fork, what, &Frame { checkpoint, ..seen.genuine.clone() }, reasons)
        };
        let genuine = seen.genuine.checkpoint.decode_body().unwrap();
        let now = genuine.clone();
        let store = Checkpoint { store_id: StoreId([9; 16]), ..now.clone() };
        let cluster = Checkpoint { cluster: "test".parse().unwrap(), ..now.clone() };
        let ahead = Checkpoint { unix_ms: now.unix_ms + 120_000, ..now.clone() };
        let mut entries = seen.genuine.entries.clone();
        entries[0].payload = flipped(&entries[0].payload, 3);
        let other = Self::recomputed(seen, &entries);
        let mut attacks = vec![
            fork("another store, signed by a voter", self.voter.sign(&store), FOREIGN),
            fork("another cluster, signed by a voter", self.voter.sign(&cluster), FOREIGN),
            fork("a time that is not yet, signed by a voter", self.voter.sign(&ahead), SIGNATURE),
            fork("another history's checkpoint, signed by a voter", self.voter.sign(&other), CHAIN),
        ];
        let own =
            SignedCheckpoint { certificate: self.voter.sign(&now).certificate, ..seen.genuine.checkpoint.clone() };
        attacks.push(fork("another voter's certificate", own, SIGNATURE));
        // Two voters that swear differently about the entry where the victim is.
        if let Some(last) = seen.older.last() {
            let last = last.checkpoint.decode_body().unwrap();
            let other = Checkpoint { state_hash: StateHash([7; 32]), ..last };
            let heartbeat =
                Frame { after_index: other.index, entries: Vec::new(), checkpoint: self.voter.sign(&other) };
            attacks.push(attack(Kind::Fork, "another state at the newest entry, signed by a voter", &heartbeat, CHAIN));
        }
        for (what, signer) in &self.strangers {
            attacks.push(fork(what, signer.sign(&genuine), SIGNATURE));
        }
        attacks
    }
}

fn attack(kind: Kind, what: &'static str, frame: &Frame, reasons: &'static [&'static str]) -> Attack {
    Attack { kind, what, bytes: frame.encode(), reasons }
}

/// The same bytes but for one bit.
pub fn flipped(bytes: &Bytes, at: usize) -> Bytes {
    let mut bytes = bytes.to_vec();
    let at = at % bytes.len();
    bytes[at] ^= 1 << (at % 8);
    bytes.into()
}

fn with_entries(genuine: &Frame, entries: Vec<Entry>) -> Frame {
    Frame { entries, ..genuine.clone() }
}

fn drops(seen: &Seen<'_>) -> Vec<Attack> {
    let genuine = seen.genuine;
    let without = |n: usize| {
        let mut entries = genuine.entries.clone();
        entries.remove(n);
        with_entries(genuine, entries)
    };
    let shifted = Frame { after_index: genuine.after_index + 1, ..without(0) };
    vec![
        attack(Kind::Drop, "the first entry", &without(0), CHAIN),
        attack(Kind::Drop, "a middle entry", &without(genuine.entries.len() / 2), CHAIN),
        attack(Kind::Drop, "the last entry", &without(genuine.entries.len() - 1), CHAIN),
        attack(Kind::Drop, "the first entry, as if it had been sent", &shifted, CHAIN),
        attack(Kind::Drop, "the whole frame", seen.next, CHAIN),
    ]
}

fn repeats(seen: &Seen<'_>) -> Vec<Attack> {
    let genuine = seen.genuine;
    let mut entries = genuine.entries.clone();
    entries.insert(0, entries[0].clone());
    let mut last = genuine.entries.clone();
    last.push(last[last.len() - 1].clone());
    let twice = [genuine.entries.clone(), genuine.entries.clone()].concat();
    let mut attacks = vec![
        attack(Kind::Repeat, "the first entry", &with_entries(genuine, entries), CHAIN),
        attack(Kind::Repeat, "the last entry", &with_entries(genuine, last), CHAIN),
        attack(Kind::Repeat, "all entries", &with_entries(genuine, twice), CHAIN),
    ];
    if let Some(before) = seen.older.last() {
        let entries = [before.entries.clone(), genuine.entries.clone()].concat();
        attacks.push(attack(Kind::Repeat, "the frame before it, joined", &with_entries(genuine, entries), CHAIN));
    }
    attacks
}

fn reorders(seen: &Seen<'_>) -> Vec<Attack> {
    let genuine = seen.genuine;
    let mut swapped = genuine.entries.clone();
    swapped.swap(0, 1);
    let reversed = genuine.entries.iter().rev().cloned().collect();
    let ahead = [seen.next.entries.clone(), genuine.entries.clone()].concat();
    let ahead = Frame { checkpoint: seen.next.checkpoint.clone(), ..with_entries(genuine, ahead) };
    vec![
        attack(Kind::Reorder, "two entries", &with_entries(genuine, swapped), CHAIN),
        attack(Kind::Reorder, "all entries", &with_entries(genuine, reversed), CHAIN),
        attack(Kind::Reorder, "two frames, joined", &ahead, CHAIN),
    ]
}

fn replays(seen: &Seen<'_>) -> Vec<Attack> {
    let genuine = seen.genuine;
    let mut attacks = Vec::new();
    for (what, relabelled, old) in [
        ("the frame before it", "the frame before it, as the next", seen.older.last()),
        ("the first frame", "the first frame, as the next", seen.older.first()),
        ("an old heartbeat", "an old heartbeat, as the newest", seen.heartbeats.first()),
    ] {
        let Some(old) = old else { continue };
        attacks.push(attack(Kind::Replay, what, old, CHAIN));
        let here = Frame { after_index: genuine.after_index, ..old.clone() };
        attacks.push(attack(Kind::Replay, relabelled, &here, CHAIN));
        let covered = Frame { checkpoint: old.checkpoint.clone(), ..genuine.clone() };
        attacks.push(attack(Kind::Replay, "an old checkpoint over new entries", &covered, CHAIN));
    }
    attacks
}

fn truncations(seen: &Seen<'_>, n: usize) -> Vec<Attack> {
    let genuine = seen.genuine;
    let bytes = genuine.encode();
    let cut = |what, entries: &[Entry]| attack(Kind::Truncate, what, &with_entries(genuine, entries.to_vec()), CHAIN);
    let raw = |what, bytes| Attack { kind: Kind::Truncate, what, bytes, reasons: MALFORMED };
    let ahead = Frame { after_index: genuine.last_index(), ..with_entries(genuine, Vec::new()) };
    vec![
        cut("all but the first entry", &genuine.entries[..1]),
        cut("the last entry", &genuine.entries[..genuine.entries.len() - 1]),
        cut("all entries", &[]),
        attack(Kind::Truncate, "all entries, as a heartbeat", &ahead, CHAIN),
        raw("the last byte", bytes.slice(..bytes.len() - 1)),
        raw("somewhere", bytes.slice(..n * 13 % bytes.len())),
        raw("nothing, a byte more", [&bytes[..], &[0]].concat().into()),
    ]
}

/// A history of its own: the genuine entries with one value changed, and everything recomputed that follows from it.
pub fn other_history(genuine: &[Frame], key: &str) -> Vec<LogEntry> {
    let mut entries: Vec<Entry> = genuine.iter().flat_map(|frame| frame.entries.clone()).collect();
    let touched = |entry: &&mut Entry| entry.payload.windows(key.len()).any(|window| window == key.as_bytes());
    let entry = entries.iter_mut().filter(touched).last().expect("an entry writes the key");
    let mut payload = entry.payload.to_vec();
    let at = payload.windows(key.len()).rposition(|window| window == key.as_bytes()).expect("just found") + key.len();
    // The value stands behind its key and its own length.
    payload[at + 8] ^= 1;
    entry.payload = payload.into();
    chained(LogPoint::default(), &entries)
}

/// Shares a forger among the connections of a hostile relay.
pub type SharedForger = Arc<Forger>;

/// A snapshot file in pieces, to be put together otherwise. Layout: `snapshot.rs`.
#[derive(Debug, Clone)]
pub struct SnapshotFile {
    pub header: Header,
    /// Space, key, mod index, value: sessions, then records, each by key.
    pub records: Vec<(u8, Bytes, u64, Bytes)>,
}

/// Bytes of a snapshot file before its header, and of a record before its key.
const START_BYTES: usize = 13;
const RECORD_START_BYTES: usize = 15;

impl SnapshotFile {
    pub fn read(file: &Bytes) -> Self {
        let length = u32::from_le_bytes(file[9..START_BYTES].try_into().unwrap()) as usize;
        let mut rest = file.slice(START_BYTES..);
        let header = codec::decode::<Header, SNAPSHOT_HEADER_BYTES_MAX>("header", file[8], &rest.split_to(length));
        let mut records = Vec::new();
        while rest[0] != 0xff {
            let start = rest.split_to(RECORD_START_BYTES);
            let key = rest.split_to(u16::from_le_bytes(start[1..3].try_into().unwrap()).into());
            let mod_index = u64::from_le_bytes(start[3..11].try_into().unwrap());
            let value = rest.split_to(u32::from_le_bytes(start[11..].try_into().unwrap()) as usize);
            records.push((start[0], key, mod_index, value));
        }
        Self { header: header.unwrap(), records }
    }

    /// With its own hash recomputed.
    pub fn write(&self) -> Bytes {
        let header = codec::encode(1, &self.header);
        let mut out = b"CINNASNP\x01".to_vec();
        out.extend_from_slice(&u32::try_from(header.len()).unwrap().to_le_bytes());
        out.extend_from_slice(&header);
        for (space, key, mod_index, value) in &self.records {
            out.push(*space);
            out.extend_from_slice(&u16::try_from(key.len()).unwrap().to_le_bytes());
            out.extend_from_slice(&mod_index.to_le_bytes());
            out.extend_from_slice(&u32::try_from(value.len()).unwrap().to_le_bytes());
            out.extend_from_slice(key);
            out.extend_from_slice(value);
        }
        out.push(0xff);
        sealed(out)
    }

    /// Counts in the header what is there.
    pub fn recount(&mut self) {
        let records = self.records.iter().filter(|record| record.0 == b'k');
        self.header.record_bytes = records.clone().map(|(_, key, _, value)| (key.len() + value.len()) as u64).sum();
        self.header.records = records.count() as u64;
        self.header.sessions = self.records.len() as u64 - self.header.records;
    }
}

/// Puts a file's hash behind it.
pub fn sealed(mut file: Vec<u8>) -> Bytes {
    let hash = blake3::hash(&file);
    file.extend_from_slice(hash.as_bytes());
    file.into()
}

/// The chunks of a file, as an honest node sends them but for their size.
pub fn chunks(index: u64, file: &Bytes, size: usize) -> Vec<SnapshotChunk> {
    let mut hasher = blake3::Hasher::new();
    let mut offset = 0;
    let chunk = |data: &[u8]| {
        hasher.update(data);
        let running_hash = Bytes::copy_from_slice(hasher.finalize().as_bytes());
        let data = Bytes::copy_from_slice(data);
        let chunk = SnapshotChunk { index, offset, total_bytes: file.len() as u64, running_hash, data };
        offset += chunk.data.len() as u64;
        chunk
    };
    file.chunks(size).map(chunk).collect()
}
