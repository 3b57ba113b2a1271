//! Custody: what is on disk, who opens what, and when it closes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU64, Ordering};

use cinnabar_abe::Attributes;
use cinnabar_abe::seal::PassphraseCost;
use cinnabar_daemon::env::{SystemClock, SystemRng};

use super::*;

/// A clock that can be put ahead of the runtime's, in milliseconds.
#[derive(Default)]
struct Ahead(AtomicU64);

impl Clock for Ahead {
    fn now(&self) -> tokio::time::Instant {
        SystemClock.now() + Duration::from_millis(self.0.load(Ordering::Relaxed))
    }

    fn unix_ms(&self) -> u64 {
        SystemClock.unix_ms()
    }
}

const DAY_MS: u64 = 24 * 3600 * 1000;

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

fn operator() -> OperatorSecretKey {
    OperatorSecretKey::generate(&mut generator(&SystemRng).unwrap())
}

fn to(keys: &[&OperatorSecretKey]) -> Vec<Recipient<'static>> {
    keys.iter().map(|key| Recipient::Operator(key.public_key())).collect()
}

/// Makes a system; one operator each for CA, records and system keys.
fn init(folder: &Path, keys: &[OperatorSecretKey; 3]) -> Result<Fresh, CustodyError> {
    let [ca, records, system] = keys.each_ref().map(|key| to(&[key]));
    let new = NewSystem {
        cluster: &"prod".parse().unwrap(),
        mode: Mode::Production,
        ca_source: CaSource::New(Validity::days(10, 20_000 * DAY_MS)),
        ca: &ca,
        records: &records,
        system: &system,
    };
    Custody::init(folder, &new, &SystemRng, clock())
}

/// A folder with a system of three operators, and where it is.
fn made() -> (tempfile::TempDir, PathBuf, [OperatorSecretKey; 3], Fresh) {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("custody");
    let keys = std::array::from_fn(|_| operator());
    let fresh = init(&folder, &keys).unwrap();
    (outer, folder, keys, fresh)
}

fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

#[test]
fn each_secret_opens_for_its_own_recipients_only() {
    let (_outer, folder, [ca, records, system], fresh) = made();
    let custody = Custody::open(&folder, clock()).unwrap();
    assert_eq!((custody.cluster().as_str(), custody.mode()), ("prod", Mode::Production));
    assert_eq!(*custody.record_verifying_key(), fresh.records.verifying_key());
    assert_eq!(custody.ca_certificate_pem().unwrap(), fresh.ca.certificate_pem());
    assert_eq!(custody.system_public(Generation::FIRST).unwrap().to_bytes(), fresh.system_public.to_bytes());
    assert_eq!(custody.records(Opener::Operator(&records)).unwrap(), fresh.records);
    let opened = custody.ca(Opener::Operator(&ca)).unwrap();
    let identity = "spiffe://prod/edge/e1".parse().unwrap();
    opened.issue(&identity, &[], Validity::hours(1, 20_000 * DAY_MS), &SystemRng).unwrap();
    for wrong in [&records, &system, &operator()] {
        assert!(matches!(custody.ca(Opener::Operator(wrong)), Err(CustodyError::Rejected { .. })));
    }
    for wrong in [&ca, &system] {
        assert!(matches!(custody.records(Opener::Operator(wrong)), Err(CustodyError::Rejected { .. })));
    }
    let info = custody.recipients(Secret::System(Generation::FIRST)).unwrap();
    assert_eq!(info, [RecipientInfo::Operator(system.public_key())]);
}

#[test]
fn the_folder_is_private_and_holds_no_secret_in_clear() {
    let (_outer, folder, [ca, ..], fresh) = made();
    let expected = ["ca.pem", "ca.sealed", "public.json", "records.sealed", "system.1.public", "system.1.sealed"]
        .map(str::to_owned);
    assert_eq!(names(&folder), expected);
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    let key_pem = fresh.custody.ca(Opener::Operator(&ca)).unwrap().key_pem();
    let seed = fresh.records.to_bytes();
    for name in expected {
        let path = folder.join(&name);
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, if name.ends_with(".sealed") { 0o600 } else { 0o644 }, "{name}");
        let bytes = fs::read(&path).unwrap();
        for secret in [&seed.expose()[..16], &key_pem.as_bytes()[60..90], b"PRIVATE KEY"] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret), "{name}");
        }
    }
}

#[test]
fn init_writes_over_nothing_and_leaves_nothing_behind() {
    let (outer, folder, keys, _) = made();
    let before: Vec<_> = names(&folder).iter().map(|name| fs::read(folder.join(name)).unwrap()).collect();
    assert!(matches!(init(&folder, &keys), Err(CustodyError::AlreadyThere { .. })));
    let file = outer.path().join("file");
    fs::write(&file, "x").unwrap();
    assert!(matches!(init(&file, &keys), Err(CustodyError::AlreadyThere { .. })));
    // Somebody else was quicker, after the first look: the last step sees it.
    let public = custody_public(&folder);
    let late = Folder::create(&folder, &public, "", (Generation::FIRST, &[]), &[]).unwrap_err();
    assert!(matches!(late, CustodyError::AlreadyThere { .. }), "{late}");
    let no_recipients = NewSystem {
        cluster: &"prod".parse().unwrap(),
        mode: Mode::Demo,
        ca_source: CaSource::New(Validity::days(10, 20_000 * DAY_MS)),
        ca: &to(&[&keys[0]]),
        records: &to(&[&keys[1]]),
        system: &[],
    };
    let refused = Custody::init(&outer.path().join("new"), &no_recipients, &SystemRng, clock()).unwrap_err();
    assert!(matches!(refused, CustodyError::Crypto(_)), "{refused}");
    assert!(matches!(init(&outer.path().join("no/where"), &keys), Err(CustodyError::File { .. })));
    assert_eq!(names(outer.path()), ["custody", "file"]);
    let after: Vec<_> = names(&folder).iter().map(|name| fs::read(folder.join(name)).unwrap()).collect();
    assert_eq!(before, after);
    let empty = outer.path().join("empty");
    fs::create_dir(&empty).unwrap();
    init(&empty, &keys).unwrap();
    assert_eq!(fs::metadata(&empty).unwrap().permissions().mode() & 0o777, 0o700);
}

fn custody_public(folder: &Path) -> Public {
    Folder::at(folder).read_public().unwrap()
}

#[test]
fn files_that_are_exchanged_or_changed_are_refused() {
    let (_outer, folder, keys, fresh) = made();
    let (_other_outer, other, _, _) = made();
    let path = |name: &str| folder.join(name);
    let open = || Custody::open(&folder, clock());
    let with = |name: &str, bytes: &[u8], check: &dyn Fn()| {
        let before = fs::read(path(name)).unwrap();
        fs::write(path(name), bytes).unwrap();
        check();
        fs::write(path(name), before).unwrap();
    };
    let damaged = |result: Result<(), CustodyError>| {
        assert!(matches!(result, Err(CustodyError::Damaged { .. })), "{result:?}");
    };
    let [ca, records, _] = keys.each_ref().map(Opener::Operator);

    // One secret in another one's place, also where the same person opens both.
    with("records.sealed", &fs::read(path("ca.sealed")).unwrap(), &|| {
        damaged(open().unwrap().records(ca).map(drop));
    });
    with("records.sealed", b"CINNASEL", &|| damaged(open().unwrap().records(records).map(drop)));
    // What is public, changed or another system's.
    let text = fs::read_to_string(path("public.json")).unwrap();
    for (from, to) in [("production", "demo"), ("\"prod\"", "\"test\""), ("\"format\": 1", "\"format\": 2")] {
        assert!(text.contains(from));
        with("public.json", text.replace(from, to).as_bytes(), &|| damaged(open().map(drop)));
    }
    with("public.json", &fs::read(other.join("public.json")).unwrap(), &|| {
        damaged(open().unwrap().records(records).map(drop));
        damaged(open().unwrap().system_public(Generation::FIRST).map(drop));
        damaged(open().unwrap().add_generation(&fresh.records, &[], &SystemRng).map(drop));
    });
    with("system.1.public", &fs::read(other.join("system.1.public")).unwrap(), &|| {
        damaged(open().unwrap().system_public(Generation::FIRST).map(drop));
    });
    with("ca.pem", &fs::read(other.join("ca.pem")).unwrap(), &|| {
        assert!(matches!(open().unwrap().ca(ca), Err(CustodyError::Pki(_))));
    });
    open().unwrap().records(records).unwrap();
}

#[tokio::test(start_paused = true)]
async fn system_keys_are_open_until_their_deadline_and_not_longer() {
    let (_outer, folder, [ca, _, system], fresh) = made();
    let custody = Custody::open(&folder, clock()).unwrap();
    let issue = |custody: &Custody| {
        let attributes = Attributes::new([("country", "NL")]).unwrap();
        custody.with_system_key(Generation::FIRST, |key| {
            key.keygen(&mut generator(&SystemRng).unwrap(), &attributes).unwrap();
        })
    };
    assert_eq!(custody.status(), Status::Sealed);
    assert!(matches!(issue(&custody), Err(CustodyError::Sealed)));
    for time in [Duration::ZERO, Duration::from_millis(999), UNSEAL_MAX + Duration::from_secs(1), Duration::MAX] {
        let refused = custody.unseal(Opener::Operator(&system), time);
        assert!(matches!(refused, Err(CustodyError::Window { .. })), "{time:?}");
    }
    let wrong = custody.unseal(Opener::Operator(&ca), UNSEAL_USUAL);
    assert!(matches!(wrong, Err(CustodyError::Rejected { .. })) && !custody.window.holds_keys());

    let status = custody.unseal(Opener::Operator(&system), UNSEAL_USUAL).unwrap();
    let Status::Unsealed { remaining, generations, .. } = &status else { panic!("{status:?}") };
    assert_eq!((*remaining, generations.as_slice()), (UNSEAL_USUAL, &[Generation::FIRST][..]));
    issue(&custody).unwrap();
    let second = Generation::FIRST.next().unwrap();
    assert!(matches!(custody.with_system_key(second, |_| ()), Err(CustodyError::NoGeneration(_))));
    tokio::time::sleep(UNSEAL_USUAL - Duration::from_millis(1)).await;
    issue(&custody).unwrap();
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert!(!custody.window.holds_keys(), "wiped without anybody asking");
    assert!(matches!(issue(&custody), Err(CustodyError::Sealed)));

    custody.unseal(Opener::Operator(&system), UNSEAL_MAX).unwrap();
    custody.reseal();
    assert!(!custody.window.holds_keys());
    assert_eq!(custody.status(), Status::Sealed);
    drop(fresh);
}

#[tokio::test(start_paused = true)]
async fn the_newest_deadline_counts() {
    let (_outer, _, [.., system], fresh) = made();
    let custody = fresh.custody;
    let unseal = |s| custody.unseal(Opener::Operator(&system), Duration::from_secs(s)).unwrap();
    unseal(10);
    unseal(100);
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert!(custody.window.holds_keys(), "the timer of the first does not close the second");
    unseal(10);
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert!(!custody.window.holds_keys());
}

#[tokio::test(start_paused = true)]
async fn the_clock_closes_also_where_the_timer_does_not_come() {
    let (_outer, folder, [.., system], _) = made();
    let clock = Arc::new(Ahead::default());
    let custody = Custody::open(&folder, clock.clone()).unwrap();
    custody.unseal(Opener::Operator(&system), Duration::from_secs(5)).unwrap();
    clock.0.store(4_999, Ordering::Relaxed);
    custody.with_system_key(Generation::FIRST, |_| ()).unwrap();
    clock.0.store(5_000, Ordering::Relaxed);
    assert!(matches!(custody.with_system_key(Generation::FIRST, |_| ()), Err(CustodyError::Sealed)));
    assert!(!custody.window.holds_keys());
}

#[test]
fn without_a_runtime_nothing_is_opened() {
    let (_outer, _, [.., system], fresh) = made();
    let refused = fresh.custody.unseal(Opener::Operator(&system), UNSEAL_USUAL);
    assert!(matches!(refused, Err(CustodyError::NoRuntime)));
}

#[tokio::test(start_paused = true)]
async fn generations_come_and_go_and_numbers_are_not_used_again() {
    let (_outer, folder, [ca, _, system], fresh) = made();
    let custody = fresh.custody;
    let opener = Opener::Operator(&system);
    let (second, public) = custody.add_generation(&fresh.records, &to(&[&system]), &SystemRng).unwrap();
    assert_eq!(custody.system_public(second).unwrap().to_bytes(), public.to_bytes());
    assert_eq!(custody.generations().unwrap(), [Generation::FIRST, second]);
    custody.unseal(opener, UNSEAL_USUAL).unwrap();
    let bytes = |generation| custody.with_system_key(generation, |key| key.to_bytes().expose().to_vec());
    assert_ne!(bytes(Generation::FIRST).unwrap(), bytes(second).unwrap());
    // The file of one generation in the place of another.
    let (first_path, second_path) = (folder.join("system.1.sealed"), folder.join("system.2.sealed"));
    let good = fs::read(&second_path).unwrap();
    fs::copy(&first_path, &second_path).unwrap();
    assert!(matches!(custody.unseal(opener, UNSEAL_USUAL), Err(CustodyError::Damaged { .. })));
    assert!(bytes(second).is_ok(), "what was open before stays so");
    fs::write(&second_path, good).unwrap();

    custody.destroy_generation(second).unwrap();
    assert!(bytes(second).is_err() && bytes(Generation::FIRST).is_ok());
    assert!(matches!(custody.destroy_generation(second), Err(CustodyError::NoGeneration(_))));
    let (third, _) = custody.add_generation(&fresh.records, &to(&[&system]), &SystemRng).unwrap();
    assert_eq!(third.get(), 3);
    assert!(matches!(
        custody.add_generation(&RecordSigningKey::from_bytes(&[7; 32]), &to(&[&system]), &SystemRng),
        Err(CustodyError::Damaged { .. })
    ));

    custody.change_recipients(Secret::System(third), opener, &to(&[&ca]), &SystemRng).unwrap();
    let info = custody.recipients(Secret::System(third)).unwrap();
    assert_eq!(info, [RecipientInfo::Operator(ca.public_key())]);
    assert!(matches!(custody.unseal(opener, UNSEAL_USUAL), Err(CustodyError::Rejected { .. })));
}

#[test]
fn a_passphrase_opens_what_it_closed() {
    let outer = tempfile::tempdir().unwrap();
    let [right, wrong] = ["correct horse battery", "correct house battery"].map(|text| SecretBytes::new(text.into()));
    let keys = [operator(), operator()];
    let new = NewSystem {
        cluster: &"prod".parse().unwrap(),
        mode: Mode::Demo,
        ca_source: CaSource::New(Validity::days(10, 20_000 * DAY_MS)),
        ca: &to(&[&keys[0]]),
        records: &[Recipient::Passphrase { passphrase: &right, cost: PassphraseCost::LEAST }],
        system: &to(&[&keys[1]]),
    };
    let fresh = Custody::init(&outer.path().join("custody"), &new, &SystemRng, clock()).unwrap();
    assert_eq!(fresh.custody.records(Opener::Passphrase(&right)).unwrap(), fresh.records);
    let refused = fresh.custody.records(Opener::Passphrase(&wrong));
    assert!(matches!(refused, Err(CustodyError::Rejected { .. })));
    let refused = fresh.custody.ca(Opener::Passphrase(&right));
    assert!(matches!(refused, Err(CustodyError::Rejected { .. })), "no passphrase closes that one");
}
