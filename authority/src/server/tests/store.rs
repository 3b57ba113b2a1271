//! A store that keeps its word on conditions and nothing else.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use cinnabar_kv_api::proto::kv_server::{Kv, KvServer};
use cinnabar_kv_api::proto::*;
use parking_lot::Mutex;
use tokio::net::UnixListener;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status};

#[derive(Default)]
pub struct Inner {
    pub records: HashMap<Bytes, (Bytes, u64)>,
    pub index: u64,
    /// Calls of any kind.
    pub asked: u64,
}

#[derive(Clone, Default)]
pub struct Store(pub Arc<Mutex<Inner>>);

impl Store {
    pub fn serve(&self, path: &Path) {
        let incoming = UnixListenerStream::new(UnixListener::bind(path).unwrap());
        let server = tonic::transport::Server::builder().add_service(KvServer::new(self.clone()));
        tokio::spawn(server.serve_with_incoming(incoming));
    }

    /// How often it was asked, and how much it holds.
    pub fn touched(&self) -> (u64, u64, usize) {
        let inner = self.0.lock();
        (inner.asked, inner.index, inner.records.len())
    }
}

#[tonic::async_trait]
impl Kv for Store {
    type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let mut inner = self.0.lock();
        inner.asked += 1;
        let found = inner.records.get(&request.into_inner().key).cloned();
        let (value, mod_index) = found.clone().unwrap_or_default();
        Ok(Response::new(GetResponse { stamp: None, found: found.is_some(), value, mod_index }))
    }

    async fn write(&self, request: Request<WriteRequest>) -> Result<Response<WriteResponse>, Status> {
        let request = request.into_inner();
        let mut inner = self.0.lock();
        inner.asked += 1;
        inner.index += 1;
        let index = inner.index;
        for (n, condition) in request.conditions.iter().enumerate() {
            let actual = inner.records.get(&condition.key).map_or(0, |(_, mod_index)| *mod_index);
            if actual != condition.mod_index {
                let failed_condition = u32::try_from(n).unwrap();
                let unmet = WriteResponse { index, succeeded: false, failed_condition, actual_mod_index: actual };
                return Ok(Response::new(unmet));
            }
        }
        for op in request.ops {
            inner.records.insert(op.key, (op.value, index));
        }
        Ok(Response::new(WriteResponse { index, succeeded: true, ..Default::default() }))
    }

    async fn scan(&self, _: Request<ScanRequest>) -> Result<Response<ScanResponse>, Status> {
        Err(Status::unimplemented("no scan here"))
    }

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("no watch here"))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Err(Status::unimplemented("no status here"))
    }
}
