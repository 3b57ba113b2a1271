//! etcd as a peer: three of its processes on loopback, without TLS, and the three messages of its API that are needed.
//!
//! Its clients run on the same gRPC library as ours, so that both servers meet the same load.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use crate::Fallible;
use crate::child::{Child, free_ports, run};

/// Longest wait for a cluster to have a leader.
const START_MAX: Duration = Duration::from_secs(20);
/// etcd stops taking writes at 2 GiB unless told otherwise; 60 KiB values get there.
const QUOTA_BYTES: u64 = 8 << 30;

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Header {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

/// A client on one connection; clones share it.
#[derive(Clone)]
pub struct Client(Channel);

impl Client {
    /// Connects when it is first used.
    pub fn new(port: u16) -> Fallible<Self> {
        Ok(Self(Endpoint::from_shared(format!("http://127.0.0.1:{port}"))?.tcp_nodelay(true).connect_lazy()))
    }

    async fn call<Q, A>(&self, path: &'static str, request: Q) -> Result<A, Status>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let mut grpc = Grpc::new(self.0.clone());
        grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let codec = ProstCodec::<Q, A>::default();
        Ok(grpc.unary(Request::new(request), PathAndQuery::from_static(path), codec).await?.into_inner())
    }

    /// Puts a value.
    pub async fn put(&self, key: Bytes, value: Bytes) -> Result<(), String> {
        let put = self.call::<_, PutResponse>("/etcdserverpb.KV/Put", PutRequest { key, value });
        put.await.map(|_| ()).map_err(|status| status.message().to_owned())
    }

    async fn leads(&self) -> bool {
        let status = self.call::<_, StatusResponse>("/etcdserverpb.Maintenance/Status", StatusRequest {}).await;
        status.is_ok_and(|status| status.leader != 0 && status.header.is_some_and(|own| own.member_id == status.leader))
    }
}

/// Three running nodes.
pub struct Etcd {
    ports: Vec<u16>,
    nodes: Vec<Child>,
}

impl Etcd {
    /// Its version, as it prints it.
    pub fn version(program: &Path) -> Fallible<String> {
        let text = run(program, &["--version"])?;
        Ok(text.lines().next().unwrap_or_default().replace("etcd Version: ", ""))
    }

    /// Starts three nodes in a folder.
    pub async fn start(program: &Path, folder: &Path) -> Fallible<Self> {
        std::fs::create_dir_all(folder)?;
        let all = free_ports(6)?;
        let (ports, peers) = all.split_at(3);
        let members: Vec<String> = (0..3).map(|n| format!("e{n}=http://127.0.0.1:{}", peers[n])).collect();
        let mut nodes = Vec::new();
        for n in 0..3 {
            let data: PathBuf = folder.join(format!("e{n}"));
            let (clients, peer) = (format!("http://127.0.0.1:{}", ports[n]), format!("http://127.0.0.1:{}", peers[n]));
            let args = [
                ("--name", format!("e{n}")),
                ("--data-dir", data.display().to_string()),
                ("--listen-client-urls", clients.clone()),
                ("--advertise-client-urls", clients),
                ("--listen-peer-urls", peer.clone()),
                ("--initial-advertise-peer-urls", peer),
                ("--initial-cluster", members.join(",")),
                ("--quota-backend-bytes", QUOTA_BYTES.to_string()),
            ];
            let args: Vec<String> = args.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect();
            nodes.push(Child::start(program, &args, folder.join(format!("e{n}.log")))?);
        }
        let etcd = Self { ports: ports.to_vec(), nodes };
        etcd.leader().await?;
        Ok(etcd)
    }

    /// The node that leads, as its position.
    pub async fn leader(&self) -> Fallible<usize> {
        let until = Instant::now() + START_MAX;
        while Instant::now() < until {
            for (n, port) in self.ports.iter().enumerate() {
                if Client::new(*port)?.leads().await {
                    return Ok(n);
                }
            }
            sleep(Duration::from_millis(100)).await;
        }
        Err(format!("etcd found no leader: {}", self.nodes[0].log.display()).into())
    }

    /// Where a node serves clients.
    pub fn port(&self, node: usize) -> u16 {
        self.ports[node]
    }

    /// The processes' ids.
    pub fn pids(&self) -> Vec<u32> {
        self.nodes.iter().map(Child::id).collect()
    }
}
