//! The machines' calls over gRPC: thin, decode, call, map the refusal.
//!
//! Law: which machine calls is in its certificate, never in a message.

use std::sync::Arc;

use cinnabar_authority_api::client::{CODE_METADATA, MESSAGE_BYTES_MAX};
use cinnabar_authority_api::proto;
use cinnabar_authority_api::proto::machine_server::{Machine, MachineServer};
use cinnabar_daemon::pki::REQUEST_BYTES_MAX;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status};

use crate::access::machine;
use crate::machines::Machines;
use crate::problem::Problem;

/// Largest message that is taken, in bytes: a signing request with room, or a full report.
pub const REQUEST_MESSAGE_BYTES_MAX: usize = 16 * 1024;
const _: () = assert!(REQUEST_BYTES_MAX < REQUEST_MESSAGE_BYTES_MAX);

/// See the module.
pub struct MachineService {
    machines: Arc<Machines>,
}

impl MachineService {
    /// The service with its bounds; put [`crate::access::guard`] before it.
    pub fn server(machines: Arc<Machines>) -> MachineServer<Self> {
        MachineServer::new(Self { machines })
            .max_decoding_message_size(REQUEST_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }
}

/// A refusal as gRPC tells it: the stable code stands in the metadata.
pub fn status(problem: &Problem) -> Status {
    let code = match problem.status() {
        401 => tonic::Code::Unauthenticated,
        403 => tonic::Code::PermissionDenied,
        404 => tonic::Code::NotFound,
        409 => tonic::Code::FailedPrecondition,
        429 => tonic::Code::ResourceExhausted,
        503 => tonic::Code::Unavailable,
        500 => tonic::Code::Internal,
        _ => tonic::Code::InvalidArgument,
    };
    let message = match problem.advice() {
        Some(hint) => format!("{} {hint}", problem.detail()),
        None => problem.detail().to_owned(),
    };
    let mut status = Status::new(code, message);
    if let Ok(word) = MetadataValue::try_from(problem.code_str()) {
        status.metadata_mut().insert(CODE_METADATA, word);
    }
    status
}

#[tonic::async_trait]
impl Machine for MachineService {
    async fn renew(&self, request: Request<proto::RenewRequest>) -> Result<Response<proto::RenewResponse>, Status> {
        let id = machine(&request)?;
        let renewed = self.machines.renew(&id, &request.into_inner().certificate_request).await;
        let certificate = renewed.map_err(|problem| status(&problem))?;
        let (certificate_pem, ca_pem) = (certificate.certificate_pem, certificate.ca_pem);
        Ok(Response::new(proto::RenewResponse { certificate_pem, ca_pem, not_after_s: certificate.not_after_s }))
    }

    async fn keys(&self, request: Request<proto::KeysRequest>) -> Result<Response<proto::KeysResponse>, Status> {
        let id = machine(&request)?;
        let keys = self.machines.keys(&id).await.map_err(|problem| status(&problem))?;
        let keys = keys
            .iter()
            .map(|key| proto::MachineKey { generation: key.generation.get(), key: key.key.expose().to_vec() });
        Ok(Response::new(proto::KeysResponse { keys: keys.collect() }))
    }

    async fn report(&self, request: Request<proto::ReportRequest>) -> Result<Response<proto::ReportResponse>, Status> {
        let id = machine(&request)?;
        let report = request.into_inner().try_into();
        let report =
            report.map_err(|error: cinnabar_daemon::codec::CodecError| Status::invalid_argument(error.to_string()))?;
        self.machines.report(&id, report).await.map_err(|problem| status(&problem))?;
        Ok(Response::new(proto::ReportResponse {}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Code;

    #[test]
    fn every_refusal_keeps_its_code() {
        for code in Code::ALL {
            let told = status(&Problem::new(*code, "No."));
            assert_eq!(told.metadata().get(CODE_METADATA).unwrap(), code.as_str());
            assert_ne!(told.code(), tonic::Code::Ok);
        }
        let sealed = status(&Problem::new(Code::Sealed, "Sealed.").hint("Unseal."));
        assert_eq!((sealed.code(), sealed.message()), (tonic::Code::Unavailable, "Sealed. Unseal."));
    }
}
