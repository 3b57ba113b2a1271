//! What services of this machine ask: certificates, secrets, why a key is not here, how the node is.
//!
//! Law: certificates are public; a secret goes only to processes of users that the configuration names, as the kernel
//! names them; a certificate's key goes to nobody.

use std::collections::BTreeMap;
use std::sync::Arc;

use cinnabar_authority_api::records::KeyKind;
use cinnabar_authority_api::{DataCenterId, Hostname, SecretName, ZoneId};
use cinnabar_edge_api::Refusal;
use cinnabar_edge_api::limits::MESSAGE_BYTES_MAX;
use cinnabar_edge_api::proto;
use cinnabar_edge_api::proto::agent_server::{Agent, AgentServer};
use cinnabar_edge_api::refusal::RefusalCode;
use cinnabar_kv::replica::Replica;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status};

use crate::config::EdgeConfig;
use crate::directory::{CertRef, CertView, Directory, Staleness};
use crate::keyring::Keyring;

/// Signatures since the start, by who made them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Here, for services of this machine.
    pub here: u64,
    /// By peers, for services of this machine.
    pub elsewhere: u64,
    /// Here, for peers.
    pub for_others: u64,
}

/// What the router knows.
pub trait Routes: Send + Sync + 'static {
    /// Who holds a certificate's key, in the order in which this node would ask.
    fn holders(&self, cert: &CertView) -> Vec<proto::ExplainedHolder>;
    /// Round trips to other data centres, in microseconds.
    fn round_trips(&self) -> BTreeMap<DataCenterId, u32>;
    /// Signatures since the start.
    fn counts(&self) -> Counts;
    /// Sets the simulated distance to a data centre.
    ///
    /// # Errors
    /// When there is no simulation, or no such data centre.
    fn set_distance(&self, data_center: &DataCenterId, round_trip_us: u32) -> Result<(), Status>;
}

/// What the records say of holders, where nothing is routed.
#[derive(Debug, Clone)]
pub struct Unrouted(pub Directory);

impl Routes for Unrouted {
    fn holders(&self, cert: &CertView) -> Vec<proto::ExplainedHolder> {
        let holders = self.0.holders(cert);
        let shown = holders.data_centers.iter().map(|(center, machines)| proto::ExplainedHolder {
            data_center: center.to_string(),
            machines: u32::try_from(machines.len()).unwrap_or(u32::MAX),
            ..proto::ExplainedHolder::default()
        });
        shown.collect()
    }

    fn round_trips(&self) -> BTreeMap<DataCenterId, u32> {
        BTreeMap::new()
    }

    fn counts(&self) -> Counts {
        Counts::default()
    }

    fn set_distance(&self, _: &DataCenterId, _: u32) -> Result<(), Status> {
        Err(Status::failed_precondition("this node has no distances to set"))
    }
}

/// See the module.
pub struct AgentService {
    directory: Directory,
    keyring: Keyring,
    routes: Arc<dyn Routes>,
    replica: Option<Arc<Replica>>,
    secret_uids: Vec<u32>,
    staleness: Staleness,
    insecure: bool,
    version: String,
}

impl AgentService {
    /// The service with its bounds. `replica` tells who feeds this node.
    pub fn server(
        conf: &EdgeConfig,
        directory: Directory,
        keyring: Keyring,
        routes: Arc<dyn Routes>,
        replica: Option<Arc<Replica>>,
        version: &str,
    ) -> AgentServer<Self> {
        let service = Self {
            directory,
            keyring,
            routes,
            replica,
            secret_uids: uids(&conf.local.secret_uids),
            staleness: conf.staleness(),
            insecure: conf.machine.insecure_machine_key,
            version: version.to_owned(),
        };
        AgentServer::new(service)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn explained(&self, cert: &CertRef) -> proto::ExplainedCertificate {
        let could = self.keyring.could_open(&cert.cert.policy);
        proto::ExplainedCertificate {
            zone: cert.cert.zone.to_string(),
            id: cert.cert.id.to_string(),
            version: cert.cert.version(),
            key_type: cert.cert.key_type.to_string(),
            policy: cert.cert.policy_text.clone(),
            compiled: cert.policy.to_string(),
            here: could.is_ok(),
            why: could.err().map(|error| error.to_string()).unwrap_or_default(),
            holders: self.routes.holders(cert),
        }
    }
}

/// The users of a list; this process's own when it is empty.
pub fn uids(listed: &[u32]) -> Vec<u32> {
    if listed.is_empty() { vec![rustix::process::getuid().as_raw()] } else { listed.to_vec() }
}

/// Refuses a caller over a Unix socket whose user is not listed. The kernel says who that is.
///
/// # Errors
/// `PERMISSION_DENIED`, also when the kernel does not say.
pub fn check_uid<T>(request: &Request<T>, allowed: &[u32]) -> Result<(), Status> {
    let peer = request.extensions().get::<UdsConnectInfo>().and_then(|info| info.peer_cred);
    match peer.map(|peer| peer.uid()) {
        Some(uid) if allowed.contains(&uid) => Ok(()),
        Some(uid) => Err(Status::permission_denied(format!("user {uid} is not among those that may ask"))),
        None => Err(Status::permission_denied("who asks is not known")),
    }
}

/// A hostname as TLS clients write it: in any case, perhaps with a last dot.
fn hostname(text: &str) -> Result<Hostname, Status> {
    let lower = text.trim_end_matches('.').to_ascii_lowercase();
    lower.parse().map_err(|error| Status::invalid_argument(format!("hostname: {error}")))
}

fn certificate(serves: &Hostname, view: &CertRef) -> proto::Certificate {
    let record = &view.cert;
    let kind = match record.key_type.kind() {
        KeyKind::Ecdsa => proto::KeyKind::Ecdsa,
        KeyKind::Rsa => proto::KeyKind::Rsa,
    };
    proto::Certificate {
        zone: record.zone.to_string(),
        id: record.id.to_string(),
        version: record.version(),
        kind: kind.into(),
        chain: record.chain.clone(),
        spki_sha256: record.spki_sha256.to_vec().into(),
        serves: serves.to_string(),
    }
}

#[tonic::async_trait]
impl Agent for AgentService {
    async fn certificates(
        &self,
        request: Request<proto::CertificatesRequest>,
    ) -> Result<Response<proto::CertificatesResponse>, Status> {
        let hostname = hostname(&request.into_inner().hostname)?;
        let certificates = match self.directory.serving(&hostname) {
            Ok(found) => found.iter().map(|(serves, view)| certificate(serves, view)).collect(),
            Err(error) => {
                let refusal = Refusal::from(error.clone());
                // What is not there is an answer; what must not be used is a refusal.
                if refusal.code == RefusalCode::Stale || error.is_refusal() {
                    return Err(refusal.into());
                }
                Vec::new()
            }
        };
        Ok(Response::new(proto::CertificatesResponse { certificates }))
    }

    async fn secret(&self, request: Request<proto::SecretRequest>) -> Result<Response<proto::SecretResponse>, Status> {
        check_uid(&request, &self.secret_uids)?;
        let proto::SecretRequest { zone, name } = request.into_inner();
        let zone: ZoneId = zone.parse().map_err(|error| Status::invalid_argument(format!("zone: {error}")))?;
        let name: SecretName = name.parse().map_err(|error| Status::invalid_argument(format!("name: {error}")))?;
        let secret = self.keyring.secret(&zone, &name).await.map_err(|error| Status::from(Refusal::from(error)))?;
        Ok(Response::new(proto::SecretResponse { secret: secret.expose().to_vec().into() }))
    }

    async fn explain(
        &self,
        request: Request<proto::ExplainRequest>,
    ) -> Result<Response<proto::ExplainResponse>, Status> {
        let hostname = hostname(&request.into_inner().hostname)?;
        let (certificates, problem) = match self.directory.serving(&hostname) {
            Ok(found) => (found.iter().map(|(_, view)| self.explained(view)).collect(), String::new()),
            Err(error) => (Vec::new(), error.to_string()),
        };
        let trust = self.directory.trust();
        Ok(Response::new(proto::ExplainResponse {
            certificates,
            problem,
            head_age_ms: trust.head_age_ms,
            checkpoint_age_ms: trust.checkpoint_age_ms,
            applied_index: self.directory.local().applied_index(),
        }))
    }

    async fn status(&self, _: Request<proto::StatusRequest>) -> Result<Response<proto::StatusResponse>, Status> {
        let trust = self.directory.trust();
        let mut alarms = trust.alarms(&self.staleness);
        let generation = self.keyring.generation();
        if self.insecure {
            alarms.push("this machine's attribute keys lie in a plain file".to_owned());
        }
        if generation == 0 {
            alarms.push("this machine has no attribute key: it signs nothing itself".to_owned());
        }
        let refused = self.directory.refused();
        if refused > 0 {
            alarms.push(format!("{refused} records are refused: their names are not served"));
        }
        let counts = self.routes.counts();
        let fed_by = self.replica.as_ref().and_then(|replica| replica.path().last().cloned());
        Ok(Response::new(proto::StatusResponse {
            machine: self.directory.me().to_string(),
            data_center: self.directory.data_center().map(|center| center.to_string()).unwrap_or_default(),
            country: self.directory.country().unwrap_or_default(),
            health: trust.word().to_owned(),
            alarms,
            applied_index: self.directory.local().applied_index(),
            behind_ms: trust.checkpoint_age_ms,
            head_age_ms: trust.head_age_ms,
            generation,
            version: self.version.clone(),
            fed_by: fed_by.unwrap_or_default(),
            demo: trust.demo,
            insecure_machine_key: self.insecure,
            signed_here: counts.here,
            signed_elsewhere: counts.elsewhere,
            signed_for_others: counts.for_others,
            records_refused: u64::try_from(refused).unwrap_or(u64::MAX),
        }))
    }

    async fn set_distance(
        &self,
        request: Request<proto::SetDistanceRequest>,
    ) -> Result<Response<proto::SetDistanceResponse>, Status> {
        check_uid(&request, &self.secret_uids)?;
        if !self.directory.trust().demo {
            return Err(Status::failed_precondition("distances are simulated in a demonstration only"));
        }
        let proto::SetDistanceRequest { data_center, round_trip_us } = request.into_inner();
        let center = data_center.parse().map_err(|error| Status::invalid_argument(format!("data_center: {error}")))?;
        self.routes.set_distance(&center, round_trip_us)?;
        Ok(Response::new(proto::SetDistanceResponse {}))
    }
}
