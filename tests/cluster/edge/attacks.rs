//! A store that lies, a machine that left, a folder that was stolen, a user who may not.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cinnabar_daemon::Env;
use cinnabar_edge::identity::{KeyFile, Sealing};

use super::rig::{Edge, EdgeRig, READY_MAX, ZONE};
use super::visits::POLICY;
use crate::harness::cluster::Credentials;
use crate::harness::deadline::eventually;
use crate::harness::process::{BINARY, run};

/// A name that nobody touches.
pub const SOUND: &str = "sound.shop.example";
/// Names whose records are replayed, deleted, moved.
const REPLAYED: &str = "replayed.shop.example";
const DROPPED: &str = "dropped.shop.example";
const MOVED: &str = "moved.shop.example";
/// A name that the authority ended, whose end is taken out of the store.
const ENDED: &str = "ended.shop.example";
/// The count of refused records.
const REJECTED: &str = "cinnabar_record_rejected_total";
/// Nobody.
const OTHER_USER: &str = "65534";
/// Exit code of a process whose configuration is wrong.
const CONFIGURATION: i32 = 64;

/// Whoever holds a voter can do this: writes and deletes without the authority's word.
pub struct Forger {
    us: Credentials,
    at: String,
    file: PathBuf,
}

impl Forger {
    /// One of this name, who writes at these voters.
    pub fn new(rig: &EdgeRig, name: &str, at: &[SocketAddr]) -> Self {
        let us = rig.rig.cluster.credentials("authority", name);
        let at: Vec<String> = at.iter().map(ToString::to_string).collect();
        Self { us, at: at.join(","), file: rig.rig.folder.join("forged") }
    }

    fn write(&self, args: &[&str], record: Option<&[u8]>) {
        fs::write(&self.file, record.unwrap_or_default()).unwrap();
        let mut command = Command::new(BINARY);
        command.arg("kv").args(args).args(["--server", &self.at, "--ca"]).arg(&self.us.ca);
        command.arg("--cert").arg(&self.us.cert).arg("--key").arg(&self.us.key);
        let output = command.stdin(File::open(&self.file).unwrap()).stderr(Stdio::piped()).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Writes a record as it is.
    pub fn put(&self, key: &str, record: &[u8]) {
        self.write(&["put", key, "-"], Some(record));
    }

    fn delete(&self, key: &str) {
        self.write(&["del", key], None);
    }
}

fn fails_closed(rig: &EdgeRig, host: &str) {
    for edge in &rig.edges {
        let refused = eventually(READY_MAX, &format!("{} refuses {host}", edge.id), || {
            rig.visitor().visit(host, edge.visitors).err()
        });
        assert!(refused.contains("alert"), "{host} at {}: {refused}", edge.id);
        rig.visitor().visit(SOUND, edge.visitors).unwrap();
    }
}

/// Records that are old, gone or another name's: that name ends, the others go on, and a restart forgets nothing.
pub fn on_records(rig: &mut EdgeRig) {
    let names = [SOUND, REPLAYED, DROPPED, MOVED, ENDED];
    let ids = names.map(|name| rig.upload(name, &[name], false, POLICY));
    names.iter().for_each(|name| rig.await_served(name));
    let key = |n: usize| format!("cert/{ZONE}/{}", ids[n]);
    let record = |key: &str| rig.rig.record(key).unwrap_or_else(|| panic!("{key} is not in the store"));
    let (old, ended) = (record(&key(1)), [key(4), format!("sni/{ENDED}")]);
    let live = ended.clone().map(|key| record(&key));
    let (certificate, private) = rig.certificate("second", &[REPLAYED], false);
    let replace = ["cert", "replace", ZONE, &ids[1], "--certificate", &certificate, "--key-file", &private];
    rig.customer(&[&replace[..], &["--acknowledge", "few-holders"]].concat()).unwrap();
    rig.customer(&["cert", "rm", ZONE, &ids[4]]).unwrap();
    fails_closed(rig, ENDED);
    let counts = || rig.edges.iter().map(|edge| edge.metric(REJECTED)).collect::<Vec<_>>();
    let before = counts();

    let forger = Forger::new(rig, "mallory", &rig.rig.cluster.voter_addresses());
    forger.put(&key(1), &old);
    forger.delete(&format!("sni/{DROPPED}"));
    forger.put(&format!("sni/{MOVED}"), &record(&format!("sni/{SOUND}")));
    ended.iter().for_each(|key| forger.delete(key));
    for (key, record) in ended.iter().zip(&live) {
        forger.put(key, record);
    }
    let attacked = [REPLAYED, DROPPED, MOVED, ENDED];
    attacked.iter().for_each(|name| fails_closed(rig, name));
    for ((edge, before), now) in rig.edges.iter().zip(&before).zip(counts()) {
        assert!(now >= before + 4.0, "{}: {before} records refused before, {now} after", edge.id);
        assert!(edge.status().records_refused >= 4, "{}: {:?}", edge.id, edge.status().alarms);
    }
    for edge in &mut rig.edges {
        edge.kill_9();
        edge.launch();
    }
    rig.edges.iter().for_each(Edge::await_ready);
    rig.await_served(SOUND);
    attacked.iter().for_each(|name| fails_closed(rig, name));
}

/// A process of another user gets no signature.
pub fn by_another_user(rig: &EdgeRig) {
    let edge = rig.edge("fra");
    let message = rig.rig.folder.join("message");
    fs::write(&message, "message").unwrap();
    for path in [rig.rig.folder.path(), &edge.dir] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o711)).unwrap();
    }
    fs::set_permissions(&message, fs::Permissions::from_mode(0o644)).unwrap();
    let sign = |command: &mut Command| {
        command.args(["sign", SOUND, "--scheme", "ecdsa_secp256r1_sha256", "--in"]).arg(&message);
        run(command.arg("--edge-socket").arg(edge.socket()), READY_MAX)
    };
    sign(&mut Command::new(BINARY)).unwrap();
    let mut other = Command::new("setpriv");
    other.args(["--reuid", OTHER_USER, "--regid", OTHER_USER, "--clear-groups", BINARY]);
    let reaches = Command::new("setpriv")
        .args(["--reuid", OTHER_USER, "--regid", OTHER_USER, "--clear-groups", BINARY, "--version"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !reaches {
        eprintln!("SKIPPED: no command can be run as another user here");
        return;
    }
    let refused = sign(&mut other).unwrap_err();
    assert_eq!(refused.code, Some(4), "{refused:?}");
    assert!(refused.told.contains(&format!("user {OTHER_USER}")), "{refused:?}");
}

/// A machine that must ask is revoked: nobody signs for it any more.
pub fn by_a_revoked_machine(rig: &EdgeRig) {
    let edge = rig.edge("cdg");
    let message = rig.rig.folder.join("message");
    let sign = ["sign", SOUND, "--scheme", "ecdsa_secp256r1_sha256", "--in", message.to_str().unwrap()];
    edge.ask(&sign).unwrap();
    rig.rig.operate(&["machine", "revoke", "cdg-1", "--reason", "left the network"]).unwrap();
    let refused = eventually(READY_MAX, "cdg is refused", || edge.ask(&sign).err());
    assert!(refused.told.contains("not_permitted: cdg-1 is revoked"), "{refused:?}");
    assert!(rig.visitor().visit(SOUND, edge.visitors).unwrap_err().contains("alert"));
    rig.visitor().visit(SOUND, rig.edge("fra").visitors).unwrap();
}

/// Copies a folder's files and folders.
pub fn copied(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let (path, copy) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copied(&path, &copy);
        } else if path.is_file() {
            fs::copy(&path, &copy).unwrap();
        }
    }
}

/// A folder without the sealing key: nothing starts from it, and no other key opens what is in it.
pub fn on_a_stolen_folder(rig: &mut EdgeRig) {
    rig.edge_mut("ams").kill_9();
    let (edge, stolen) = (rig.edge("ams"), rig.rig.folder.join("stolen"));
    copied(&edge.dir, &stolen);
    let own = rig.sealing_key("ams");
    let (here, there) = (edge.dir.display().to_string(), stolen.display().to_string());
    let missing = rig.rig.folder.join("not-there.sealing").display().to_string();
    let config = fs::read_to_string(edge.dir.join("edge.toml")).unwrap();
    let config = config.replace(&own.display().to_string(), &missing).replace(&here, &there);
    fs::write(stolen.join("edge.toml"), config).unwrap();
    let mut start = Command::new(BINARY);
    let refused = run(start.args(["edge", "--config"]).arg(stolen.join("edge.toml")), READY_MAX).unwrap_err();
    assert_eq!(refused.code, Some(CONFIGURATION), "{refused:?}");
    assert!(refused.told.contains(&missing), "{refused:?}");

    let cluster = edge.verifier().cluster().clone();
    let open = |sealing: Sealing| KeyFile::new(&stolen.join("data"), sealing, Env::system().rng).load(&cluster);
    assert_eq!(open(Sealing::load(&own).unwrap()).unwrap().len(), 1, "the machine's own key opens it");
    let refused = open(Sealing::load(&rig.sealing_key("fra")).unwrap()).unwrap_err().to_string();
    assert!(refused.contains("does not open with this sealing key"), "{refused}");
    assert!(open(Sealing::Plain).is_err(), "it does not lie in clear");
}
