//! Real TLS at every data centre: who signs, who need not, and what changes when a certificate does.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::HOLDERS;
use super::rig::{EdgeRig, READY_MAX, ZONE};
use crate::harness::deadline::{Deadline, eventually};
use crate::harness::process::run;

/// The policy of the customer's certificates.
pub const POLICY: &str = "region: EU and (not country: FR)";
/// The name that both kinds of key serve.
pub const HOST: &str = "shop.example";
/// A name that the RSA key alone serves.
pub const RSA_HOST: &str = "rsa.shop.example";
/// Longest from the end of an upload to a handshake at every data centre, on a busy machine; how fast it is, the
/// benchmark tells.
const SERVED_MAX: Duration = Duration::from_secs(30);
/// Longest that one step of a visit may take.
const STEP_MAX: Duration = Duration::from_secs(10);
/// Bytes of an answer.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// A TLS client.
#[derive(Clone)]
pub struct Visitor(Arc<ClientConfig>);

/// What a visitor saw.
#[derive(Debug, Clone)]
pub struct Visit {
    /// Data centre and machine that signed; `resumed` when nobody had to.
    pub signed_by: String,
    /// The certificate, DER.
    pub leaf: Vec<u8>,
}

impl Visit {
    /// The data centre that signed.
    pub fn center(&self) -> &str {
        self.signed_by.split('/').next().unwrap_or_default()
    }

    /// Was the session resumed?
    pub fn is_resumed(&self) -> bool {
        self.signed_by == "resumed"
    }
}

fn signed_by(answer: &str) -> Result<String, String> {
    let line = answer.lines().find_map(|line| line.strip_prefix("x-cinnabar-signed-by: "));
    line.map(|by| by.trim().to_owned()).ok_or_else(|| format!("no x-cinnabar-signed-by in {answer:?}"))
}

impl Visitor {
    /// Trusts this CA, given as DER, and resumes sessions among its clones.
    pub fn new(ca: &[u8]) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(ca.to_vec())).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]);
        Self(Arc::new(config.unwrap().with_root_certificates(roots).with_no_client_auth()))
    }

    /// One like this that remembers nothing.
    pub fn forgetful(&self) -> Self {
        let mut config = (*self.0).clone();
        config.resumption = Resumption::disabled();
        Self(Arc::new(config))
    }

    /// One handshake and one request.
    pub fn visit(&self, host: &str, at: SocketAddr) -> Result<Visit, String> {
        let said = |error: std::io::Error| error.to_string();
        let socket = TcpStream::connect_timeout(&at, STEP_MAX).map_err(said)?;
        socket.set_read_timeout(Some(STEP_MAX)).map_err(said)?;
        let name = ServerName::try_from(host.to_owned()).unwrap();
        let connection = ClientConnection::new(self.0.clone(), name).map_err(|error| error.to_string())?;
        let mut tls = StreamOwned::new(connection, socket);
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        tls.write_all(request.as_bytes()).map_err(said)?;
        let mut answer = Vec::new();
        (&mut tls).take(ANSWER_BYTES_MAX).read_to_end(&mut answer).map_err(said)?;
        let leaf = tls.conn.peer_certificates().and_then(|chain| chain.first()).ok_or("no certificate")?.to_vec();
        Ok(Visit { signed_by: signed_by(&String::from_utf8_lossy(&answer))?, leaf })
    }
}

/// A name that no data centre serves is served by every one of them after its upload.
fn appear(rig: &EdgeRig) {
    for edge in &rig.edges {
        let refused = rig.visitor().visit(HOST, edge.visitors).unwrap_err();
        assert!(refused.contains("alert"), "before the upload, at {}: {refused}", edge.id);
    }
    rig.upload("ecdsa", &[HOST], false, POLICY);
    let everywhere = Deadline::after(SERVED_MAX);
    for edge in &rig.edges {
        eventually(everywhere.left(), &format!("{} serves {HOST}, {SERVED_MAX:?} after its upload", edge.id), || {
            rig.visitor().visit(HOST, edge.visitors).ok()
        });
    }
}

/// A handshake completes at every data centre, signed where the policy allows it and at home where that is possible.
pub fn complete(rig: &EdgeRig) {
    appear(rig);
    rig.upload("rsa", &[HOST, RSA_HOST], true, POLICY);
    for host in [HOST, RSA_HOST] {
        rig.await_served(host);
        for edge in &rig.edges {
            let visit = rig.visitor().visit(host, edge.visitors).unwrap();
            assert!(HOLDERS.contains(&visit.center()), "{host} at {}: signed by {}", edge.id, visit.signed_by);
            let home = HOLDERS.contains(&edge.id);
            assert!(!home || visit.center() == edge.id, "{host} at {}: signed by {}", edge.id, visit.signed_by);
        }
    }
    let refused = rig.visitor().visit("other.shop.example", rig.edges[0].visitors).unwrap_err();
    assert!(refused.contains("alert"), "a name that nothing serves: {refused}");
    openssl(rig);
}

/// Versions, what makes the server choose a kind of key, and what the client says of it.
const OPENSSL: [(&str, &str, &str); 4] = [
    ("-tls1_3", "-sigalgs ecdsa_secp256r1_sha256", "signature type: ECDSA"),
    ("-tls1_3", "-sigalgs rsa_pss_rsae_sha256", "signature type: RSA-PSS"),
    ("-tls1_2", "-cipher ECDHE-ECDSA-AES128-GCM-SHA256", "signature type: ECDSA"),
    ("-tls1_2", "-cipher ECDHE-RSA-AES128-GCM-SHA256", "signature type: RSA"),
];

fn s_client(rig: &EdgeRig, at: SocketAddr, more: &str) -> String {
    let script = format!(
        "printf 'GET / HTTP/1.1\\r\\nHost: {HOST}\\r\\n\\r\\n' | timeout 15 openssl s_client -connect {at} \
         -servername {HOST} -verify_hostname {HOST} -verify_return_error -CAfile {} -ign_eof {more}",
        rig.shop_ca().display()
    );
    run(Command::new("sh").args(["-c", &script]), READY_MAX).unwrap_or_else(|failed| panic!("{more}: {failed:?}"))
}

fn openssl(rig: &EdgeRig) {
    if !Command::new("openssl").arg("version").output().is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: openssl is not here");
        return;
    }
    // One that signs itself, one that must ask.
    for id in ["fra", "cdg"] {
        let edge = rig.edge(id);
        for (version, choice, kind) in OPENSSL {
            let told = s_client(rig, edge.visitors, &format!("{version} {choice}"));
            let by = signed_by(&told).unwrap();
            let center = by.split('/').next().unwrap();
            assert!(told.contains(kind) && told.contains("Verification: OK"), "{version} {choice}: {told}");
            assert!(HOLDERS.contains(&center) && (id == "cdg" || center == id), "{version} at {id}: {by}");
        }
        let session = rig.rig.folder.join(format!("{id}.session")).display().to_string();
        let tls12 = "-tls1_2 -cipher ECDHE-ECDSA-AES128-GCM-SHA256";
        s_client(rig, edge.visitors, &format!("{tls12} -sess_out {session}"));
        let before = edge.signed();
        let told = s_client(rig, edge.visitors, &format!("{tls12} -sess_in {session}"));
        assert!(told.contains("Reused, TLSv1.2") && signed_by(&told).unwrap() == "resumed", "{told}");
        assert_eq!(edge.signed(), before, "{id}: a ticket of TLS 1.2 needs no signature");
    }
}

/// A session is resumed without a signature.
pub fn resume(rig: &EdgeRig) {
    for edge in &rig.edges {
        let visitor = rig.visitor();
        assert!(!visitor.visit(HOST, edge.visitors).unwrap().is_resumed());
        let before = edge.signed();
        let again = visitor.visit(HOST, edge.visitors).unwrap();
        assert!(again.is_resumed(), "{}: signed by {}", edge.id, again.signed_by);
        assert_eq!(edge.signed(), before, "{}: resumed with a signature", edge.id);
    }
}

/// A replaced certificate is shown and its tickets end; a deleted one is served no more.
pub fn follow_changes(rig: &EdgeRig) {
    let host = "changing.shop.example";
    let id = rig.upload("changing", &[host], false, POLICY);
    rig.await_served(host);
    let visitors: Vec<Visitor> = rig.edges.iter().map(|_| rig.visitor()).collect();
    let sees = || rig.edges.iter().zip(&visitors);
    let first = sees().map(|(edge, visitor)| visitor.visit(host, edge.visitors).unwrap().leaf).next().unwrap();
    let (certificate, key) = rig.certificate("changed", &[host], false);
    let args = ["cert", "replace", ZONE, &id, "--certificate", &certificate, "--key-file", &key];
    rig.customer(&args).unwrap();
    for (edge, visitor) in sees() {
        let shown = eventually(READY_MAX, &format!("{} shows the new certificate", edge.id), || {
            let visit = visitor.forgetful().visit(host, edge.visitors).unwrap();
            (visit.leaf != first).then_some(visit.leaf)
        });
        let visit = visitor.visit(host, edge.visitors).unwrap();
        assert!(!visit.is_resumed() && visit.leaf == shown, "{}: a ticket outlived its certificate", edge.id);
        assert!(visitor.visit(host, edge.visitors).unwrap().is_resumed());
    }
    rig.customer(&["cert", "rm", ZONE, &id]).unwrap();
    for (edge, visitor) in sees() {
        let refused = eventually(READY_MAX, &format!("{} serves it no more", edge.id), || {
            visitor.forgetful().visit(host, edge.visitors).err()
        });
        assert!(refused.contains("alert"), "{}: {refused}", edge.id);
        let refused = visitor.visit(host, edge.visitors).unwrap_err();
        assert!(refused.contains("alert"), "{}: a ticket outlived its certificate: {refused}", edge.id);
    }
}
