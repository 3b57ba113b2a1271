//! What peers measure the way by.

use std::sync::Arc;

use cinnabar_edge_api::proto::peer_server::Peer;
use cinnabar_edge_api::proto::{ProbeRequest, ProbeResponse};
use tonic::{Request, Response, Status};

use super::sign::SignService;

/// Answers probes.
#[derive(Debug, Clone)]
pub struct PeerService {
    sign: Arc<SignService>,
}

impl PeerService {
    /// Says of itself what the signer knows.
    pub fn new(sign: Arc<SignService>) -> Self {
        Self { sign }
    }
}

#[tonic::async_trait]
impl Peer for PeerService {
    async fn probe(&self, request: Request<ProbeRequest>) -> Result<Response<ProbeResponse>, Status> {
        Ok(Response::new(self.sign.probe(&request)?))
    }
}
