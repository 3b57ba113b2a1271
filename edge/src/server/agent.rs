//! What services of this machine ask: certificates, secrets, why a key is not here, how the node is.
//!
//! Law: certificates are public; a secret goes only to processes of users that the configuration names, as the kernel
//! names them; a certificate's key goes to nobody.

use std::sync::Arc;

use cinnabar_authority_api::records::KeyKind;
use cinnabar_authority_api::{Hostname, SecretName, ZoneId};
use cinnabar_edge_api::Refusal;
use cinnabar_edge_api::limits::MESSAGE_BYTES_MAX;
use cinnabar_edge_api::proto;
use cinnabar_edge_api::proto::agent_server::{Agent, AgentServer};
use cinnabar_edge_api::refusal::RefusalCode;
use cinnabar_kv::replica::Replica;
use tonic::{Request, Response, Status};

use super::local::check_user;
use super::sign::{SignService, micros};
use crate::directory::{CertRef, CertView, Directory, Staleness};
use crate::distance::Distances;
use crate::keyring::Keyring;
use crate::router::Router;

/// What an [`AgentService`] is made of.
#[allow(missing_docs, reason = "the names are the types'")]
pub struct AgentParts {
    pub directory: Directory,
    pub keyring: Keyring,
    pub router: Arc<Router>,
    pub sign: Arc<SignService>,
    /// The simulated distances, where they are.
    pub distances: Option<Arc<Distances>>,
    /// Tells who feeds this node.
    pub replica: Arc<Replica>,
    /// Users of this machine who may read secrets, by number.
    pub secret_uids: Vec<u32>,
    pub staleness: Staleness,
    /// Do the attribute keys lie in a plain file?
    pub insecure: bool,
    pub version: String,
}

/// See the module.
pub struct AgentService {
    parts: AgentParts,
}

impl AgentService {
    /// The service with its bounds.
    pub fn server(parts: AgentParts) -> AgentServer<Self> {
        AgentServer::new(Self { parts })
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Who holds a certificate's key, in the order in which this node would ask; last those that it would not.
    fn holders(&self, cert: &CertView) -> Vec<proto::ExplainedHolder> {
        let count = |machines: usize| u32::try_from(machines).unwrap_or(u32::MAX);
        let holders = self.parts.directory.holders(cert);
        let order = self.parts.router.order(&holders);
        let shown = holders.data_centers.iter().map(|(center, machines)| {
            let rank = order.iter().position(|ranked| ranked.data_center == *center);
            let asked = rank.map(|rank| &order[rank]);
            proto::ExplainedHolder {
                data_center: center.to_string(),
                machines: count(machines.len()),
                healthy: asked.map_or(0, |asked| count(asked.healthy)),
                round_trip_us: asked.and_then(|asked| asked.round_trip).map_or(0, micros),
                rank: rank.map_or(0, |rank| count(rank + 1)),
            }
        });
        let mut shown: Vec<_> = shown.collect();
        shown.sort_by_key(|holder| (holder.rank == 0, holder.rank));
        shown
    }

    fn explained(&self, cert: &CertRef) -> proto::ExplainedCertificate {
        let could = self.parts.keyring.could_open(&cert.cert.policy);
        proto::ExplainedCertificate {
            zone: cert.cert.zone.to_string(),
            id: cert.cert.id.to_string(),
            version: cert.cert.version(),
            key_type: cert.cert.key_type.to_string(),
            policy: cert.cert.policy_text.clone(),
            compiled: cert.policy.to_string(),
            here: could.is_ok(),
            why: could.err().map(|error| error.to_string()).unwrap_or_default(),
            holders: self.holders(cert),
        }
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
        let certificates = match self.parts.directory.serving(&hostname) {
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
        check_user(&request, &self.parts.secret_uids)?;
        let proto::SecretRequest { zone, name } = request.into_inner();
        let zone: ZoneId = zone.parse().map_err(|error| Status::invalid_argument(format!("zone: {error}")))?;
        let name: SecretName = name.parse().map_err(|error| Status::invalid_argument(format!("name: {error}")))?;
        let secret =
            self.parts.keyring.secret(&zone, &name).await.map_err(|error| Status::from(Refusal::from(error)))?;
        Ok(Response::new(proto::SecretResponse { secret: secret.expose().to_vec().into() }))
    }

    async fn explain(
        &self,
        request: Request<proto::ExplainRequest>,
    ) -> Result<Response<proto::ExplainResponse>, Status> {
        let hostname = hostname(&request.into_inner().hostname)?;
        let (certificates, problem) = match self.parts.directory.serving(&hostname) {
            Ok(found) => (found.iter().map(|(_, view)| self.explained(view)).collect(), String::new()),
            Err(error) => (Vec::new(), error.to_string()),
        };
        let trust = self.parts.directory.trust();
        Ok(Response::new(proto::ExplainResponse {
            certificates,
            problem,
            head_age_ms: trust.head_age_ms,
            checkpoint_age_ms: trust.checkpoint_age_ms,
            applied_index: self.parts.directory.local().applied_index(),
        }))
    }

    async fn status(&self, _: Request<proto::StatusRequest>) -> Result<Response<proto::StatusResponse>, Status> {
        let trust = self.parts.directory.trust();
        let mut alarms = trust.alarms(&self.parts.staleness);
        let generation = self.parts.keyring.generation();
        if self.parts.insecure {
            alarms.push("this machine's attribute keys lie in a plain file".to_owned());
        }
        if generation == 0 {
            alarms.push("this machine has no attribute key: it signs nothing itself".to_owned());
        }
        let refused = self.parts.directory.refused();
        if refused > 0 {
            alarms.push(format!("{refused} records are refused: their names are not served"));
        }
        let counts = self.parts.sign.counts();
        let fed_by = self.parts.replica.path().last().cloned();
        Ok(Response::new(proto::StatusResponse {
            machine: self.parts.directory.me().to_string(),
            data_center: self.parts.directory.data_center().map(|center| center.to_string()).unwrap_or_default(),
            country: self.parts.directory.country().unwrap_or_default(),
            health: trust.word().to_owned(),
            alarms,
            applied_index: self.parts.directory.local().applied_index(),
            behind_ms: trust.checkpoint_age_ms,
            head_age_ms: trust.head_age_ms,
            generation,
            version: self.parts.version.clone(),
            fed_by: fed_by.unwrap_or_default(),
            demo: trust.demo,
            insecure_machine_key: self.parts.insecure,
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
        check_user(&request, &self.parts.secret_uids)?;
        if !self.parts.directory.trust().demo {
            return Err(Status::failed_precondition("distances are simulated in a demonstration only"));
        }
        let proto::SetDistanceRequest { data_center, round_trip_us } = request.into_inner();
        let center = data_center.parse().map_err(|error| Status::invalid_argument(format!("data_center: {error}")))?;
        let distances = self.parts.distances.as_ref();
        let distances = distances.ok_or_else(|| Status::failed_precondition("this node has no distances to set"))?;
        distances.set(center, round_trip_us).map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Response::new(proto::SetDistanceResponse {}))
    }
}
