//! From a server name to what the library needs to serve it.
//!
//! The road: the client-hello callback reads the name, the edge node says which certificates serve it now, and the
//! configuration that was built of exactly these is taken from the cache, or built. The edge node looks wildcards up.
//! Law: the edge node is asked at every handshake, so that a certificate which was deleted or replaced is not used
//! again, nor are its tickets: a configuration belongs to one name and one set of certificate ids and versions.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use base64ct::{Base64, Encoding};
use bytes::Bytes;
use cinnabar_daemon::Env;
use cinnabar_edge_api::client::EdgeClient;
use cinnabar_edge_api::proto::Certificate;
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use s2n_tls::callbacks::{ClientHelloCallback, ConnectionFuture, WallClock};
use s2n_tls::cert_chain;
use s2n_tls::config::{Builder, Config};
use s2n_tls::connection::Connection;
use s2n_tls::error::Error;
use s2n_tls::security::Policy;

use crate::acceptor::{Refused, Watch};
use crate::config::TerminatorConfig;
use crate::limits::{CERTIFICATES_MAX, CHAIN_MAX, NAME_BYTES_MAX};
use crate::metrics::Metrics;
use crate::private_key::{Chosen, RemoteKey};
use crate::tickets::TicketKeys;

/// The library's security policy: TLS 1.2 and 1.3, ECDHE with AES-GCM or ChaCha20 alone, X25519, P-256 and hybrids with
/// ML-KEM. The newest dated one of this version of the library with forward secrecy that common clients meet without a
/// second round trip: later ones bring RSA key exchange or CBC back, or leave X25519 out.
pub const POLICY: &str = "20251014";
/// The same where the certificate's key is on P-384. TLS 1.2 does not tie the hash to the curve (RFC 8446 section
/// 4.2.3 does), and a P-384 key is asked for SHA-384 signatures only: this policy prefers them, [`POLICY`] SHA-256.
pub const POLICY_P384: &str = "20251113";

/// AlgorithmIdentifier of a key on P-384: id-ecPublicKey, secp384r1; RFC 5480 section 2.1.1.
const P384: &[u8] =
    &[0x30, 0x10, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];

/// Characters of a line of PEM, RFC 7468 section 2.
const PEM_LINE: usize = 64;

/// A certificate's zone, id and version, and the SHA-256 of its public key.
type Version = (String, String, u64, Bytes);

/// A name's configuration.
struct Served {
    versions: Vec<Version>,
    config: Config,
    keys: TicketKeys,
}

/// Server names and what serves them.
pub struct Resolver {
    edge: EdgeClient,
    env: Env,
    metrics: Metrics,
    alpn: Vec<String>,
    blinding_seconds: u32,
    ticket_key_life: Duration,
    served: Cache<String, Arc<Served>>,
    /// Two handshakes that build for one name would have different ticket keys.
    building: Mutex<()>,
}

impl Resolver {
    /// The configuration of a connection whose name is not known yet.
    ///
    /// # Errors
    /// The library's.
    pub fn base(conf: &TerminatorConfig, edge: EdgeClient, env: Env, metrics: Metrics) -> Result<Config, Error> {
        let resolver = Arc::new(Self {
            edge,
            env,
            metrics,
            alpn: conf.alpn.clone(),
            blinding_seconds: conf.limits.blinding_seconds(),
            ticket_key_life: conf.limits.ticket_key_life.as_duration(),
            served: Cache::new(conf.limits.names),
            building: Mutex::new(()),
        });
        let mut config = resolver.builder(POLICY)?;
        config.set_client_hello_callback(ByName(resolver))?;
        config.build()
    }

    fn builder(&self, policy: &str) -> Result<Builder, Error> {
        let mut config = Builder::new();
        config
            .with_system_certs(false)?
            .set_security_policy(&Policy::from_version(policy)?)?
            .set_max_blinding_delay(self.blinding_seconds)?
            .set_wall_clock(Wall(self.env.clone()))?;
        Ok(config)
    }

    async fn resolve(&self, name: String) -> Result<Config, Refused> {
        let found = self.edge.certificates(&name).await.map_err(|status| Refused::Edge(status.message().to_owned()))?;
        if found.is_empty() {
            self.served.remove(&name);
            self.metrics.names_kept.set(self.served.len() as f64);
            self.metrics.unknown_names.increment(1);
            return Err(Refused::UnknownName(name));
        }
        let mut versions: Vec<Version> = found
            .iter()
            .map(|found| (found.zone.clone(), found.id.clone(), found.version, found.spki_sha256.clone()))
            .collect();
        versions.sort_unstable();
        if let Some(config) = self.kept(&name, &versions) {
            return Ok(config);
        }
        let _building = self.building.lock();
        if let Some(config) = self.kept(&name, &versions) {
            return Ok(config);
        }
        let internal = |error: &dyn std::fmt::Display| Refused::Internal(error.to_string());
        let last = self.served.get(&name).filter(|served| served.versions == versions);
        let keys = match last {
            Some(served) => served.keys.rotated(&self.env, self.ticket_key_life),
            None => TicketKeys::new(&self.env),
        };
        let keys = keys.map_err(|error| internal(&error))?;
        let config = self.build(&found, &keys)?;
        self.served.insert(name, Arc::new(Served { versions, config: config.clone(), keys }));
        self.metrics.names_kept.set(self.served.len() as f64);
        Ok(config)
    }

    fn kept(&self, name: &str, versions: &[Version]) -> Option<Config> {
        let served = self.served.get(name)?;
        let current = served.versions == versions && !served.keys.is_old(self.env.clock.now(), self.ticket_key_life);
        current.then(|| served.config.clone())
    }

    fn build(&self, certificates: &[Certificate], keys: &TicketKeys) -> Result<Config, Refused> {
        let internal = |error: Error| Refused::Internal(error.to_string());
        let p384 = certificates.iter().filter_map(|found| found.chain.first()).any(|leaf| contains(leaf, P384));
        let mut config = self.builder(if p384 { POLICY_P384 } else { POLICY }).map_err(internal)?;
        if certificates.len() > CERTIFICATES_MAX {
            return Err(Refused::Edge(format!("{} certificates for one name", certificates.len())));
        }
        for certificate in certificates {
            let bad = |problem: String| Refused::Certificate { id: certificate.id.clone(), problem };
            let chain = chain(certificate).map_err(bad)?;
            config.load_chain(chain).map_err(|error| bad(error.to_string()))?;
        }
        let key = RemoteKey::new(self.edge.clone(), self.env.clone(), self.metrics.clone());
        config.set_private_key_callback(key).map_err(internal)?;
        config.set_application_protocol_preference(&self.alpn).map_err(internal)?;
        keys.install(&mut config, self.ticket_key_life).map_err(internal)?;
        config.build().map_err(internal)
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// The library's chain, without a key.
fn chain(certificate: &Certificate) -> Result<cert_chain::CertificateChain<'static>, String> {
    if certificate.chain.is_empty() || certificate.chain.len() > CHAIN_MAX {
        return Err(format!("a chain of {} certificates", certificate.chain.len()));
    }
    let spki_sha256 = certificate.spki_sha256.as_ref().try_into().map_err(|_| "SPKI: not 32 bytes".to_owned())?;
    let chosen = Chosen { zone: certificate.zone.clone(), id: certificate.id.clone(), spki_sha256 };
    let mut pem = String::new();
    for der in &certificate.chain {
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        let text = Base64::encode_string(der);
        for line in text.as_bytes().chunks(PEM_LINE) {
            pem.extend(line.iter().map(|byte| char::from(*byte)));
            pem.push('\n');
        }
        pem.push_str("-----END CERTIFICATE-----\n");
    }
    let build = || {
        let mut chain = cert_chain::Builder::new()?;
        chain.load_public_pem(pem.as_bytes())?;
        chain.set_application_context(chosen)?;
        chain.build()
    };
    build().map_err(|error: Error| error.to_string())
}

/// The client-hello callback.
struct ByName(Arc<Resolver>);

impl ClientHelloCallback for ByName {
    fn on_client_hello(&self, connection: &mut Connection) -> Result<Option<Pin<Box<dyn ConnectionFuture>>>, Error> {
        let watch = Watch::of(connection)?;
        // Without the extension the library has an error, not an empty name.
        let sent = connection.client_hello().and_then(|hello| hello.server_name()).unwrap_or_default();
        if sent.is_empty() {
            return Err(watch.refuse(Refused::NoName));
        }
        let Some(name) = server_name(&sent) else {
            self.0.metrics.unknown_names.increment(1);
            return Err(watch.refuse(Refused::UnknownName(String::from_utf8_lossy(&sent).into_owned())));
        };
        let _ = watch.server_name.set(name.clone());
        let resolver = self.0.clone();
        let config = Mutex::new(Box::pin(async move { resolver.resolve(name).await }) as Resolution);
        Ok(Some(Box::pin(Resolving { config, watch })))
    }
}

/// A host name of RFC 6066 section 3 in lower case; none when it can be no name of ours.
fn server_name(sent: &[u8]) -> Option<String> {
    let valid = sent.len() <= NAME_BYTES_MAX
        && sent.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
    valid.then(|| sent.iter().map(|byte| char::from(byte.to_ascii_lowercase())).collect())
}

type Resolution = Pin<Box<dyn Future<Output = Result<Config, Refused>> + Send>>;

/// A configuration that is on its way. The lock is never taken: it makes the future what the library wants, `Sync`.
struct Resolving {
    config: Mutex<Resolution>,
    watch: Arc<Watch>,
}

impl ConnectionFuture for Resolving {
    fn poll(mut self: Pin<&mut Self>, connection: &mut Connection, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let Poll::Ready(resolved) = self.config.get_mut().as_mut().poll(cx) else { return Poll::Pending };
        Poll::Ready(match resolved {
            Ok(config) => connection.set_config(config).map(Connection::server_name_extension_used),
            Err(refused) => Err(self.watch.refuse(refused)),
        })
    }
}

/// Wall time for tickets.
struct Wall(Env);

impl WallClock for Wall {
    fn get_time_since_epoch(&self) -> Duration {
        Duration::from_millis(self.0.clock.unix_ms())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_lower_case_or_none() {
        assert_eq!(server_name(b"Shop.Example").as_deref(), Some("shop.example"));
        for bad in [&b"a/b"[..], b"a b", b"\xff", b"a\0", &[b'a'; NAME_BYTES_MAX + 1]] {
            assert_eq!(server_name(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_policies_are_the_librarys() {
        for policy in [POLICY, POLICY_P384] {
            Builder::new().set_security_policy(&Policy::from_version(policy).unwrap()).unwrap();
        }
        let none = Policy::from_version("20991231").unwrap();
        assert!(Builder::new().set_security_policy(&none).is_err(), "an unknown one is an error");
    }
}
