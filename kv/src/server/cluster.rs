//! Membership. Every change is made by the leader, one at a time; another voter passes the call on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cinnabar_daemon::{ClusterId, Role};
use cinnabar_kv_api::limits::{ADDRESS_BYTES_MAX, VOTERS_MAX};
use cinnabar_kv_api::proto;
use cinnabar_kv_api::proto::cluster_client::ClusterClient;
use cinnabar_kv_api::proto::cluster_server::Cluster;
use cinnabar_kv_api::{Command, NodeId, StoreId};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::kv::{propose, unassigned};
use super::raft::leader_channel;
use crate::limits::WRITE_WAIT_MS_MAX;
use crate::node::{Assignment, Node, NodeError};
use crate::raft::{self, RaftProblem, Voter};
use crate::state::Outcome;

/// Longest wait for a new leader after a transfer.
const TRANSFER_WAIT: Duration = Duration::from_secs(5);

/// Numbers of voters that a cluster may begin with: an even one more can fail no more often.
const FIRST_VOTERS: [usize; 3] = [1, 3, 5];

/// See the module.
pub struct ClusterService {
    node: Arc<Node>,
}

impl From<NodeError> for Status {
    fn from(error: NodeError) -> Self {
        let message = error.to_string();
        match error {
            NodeError::Assigned(_) => Self::failed_precondition(message),
            _ => Self::internal(message),
        }
    }
}

fn check_address(address: &str) -> Result<(), Status> {
    let port = address.rsplit_once(':').and_then(|(host, port)| (!host.is_empty()).then_some(port));
    let valid = address.len() <= ADDRESS_BYTES_MAX && port.is_some_and(|port| port.parse::<u16>().is_ok_and(|p| p > 0));
    if valid { Ok(()) } else { Err(Status::invalid_argument(format!("address {address:?} is not host:port"))) }
}

impl ClusterService {
    /// Serves this node.
    pub fn new(node: Arc<Node>) -> Self {
        Self { node }
    }

    fn voter(&self) -> Result<Arc<Voter>, Status> {
        let core = self.node.core().ok_or_else(unassigned)?;
        core.voter.clone().ok_or_else(|| Status::failed_precondition("this is a replica; ask a voter"))
    }

    /// The leader, when it is another voter.
    fn elsewhere(&self, voter: &Arc<Voter>) -> Result<Option<ClusterClient<Channel>>, Status> {
        if voter.leads() { Ok(None) } else { leader_channel(&self.node, voter).map(ClusterClient::new).map(Some) }
    }

    /// Gives a voter its id; gives its name.
    async fn assign_to(&self, address: &str, assignment: &Assignment) -> Result<String, Status> {
        let channel = self.node.tls.channel(address, &[Role::Voter], None, self.node.env.net.clone());
        let request = proto::AssignRequest {
            cluster: assignment.cluster.to_string(),
            store_id: assignment.store_id.to_bytes(),
            node_id: assignment.node_id,
            address: address.to_owned(),
        };
        let answer = ClusterClient::new(channel).assign(request).await;
        let prefix = |status: Status| Status::new(status.code(), format!("voter at {address}: {}", status.message()));
        Ok(answer.map_err(prefix)?.into_inner().name)
    }

    /// Allocates an id, gives it to the voter at this address, and has it catch up as a learner. One that is a learner
    /// already, from a call that was cut, goes on being one.
    async fn join(&self, voter: &Arc<Voter>, address: &str) -> Result<NodeId, Status> {
        check_address(address)?;
        match voter.members().into_iter().find(|(_, (node, _))| node.address == address) {
            Some((_, (_, true))) => return Err(Status::already_exists(format!("{address} is a voter already"))),
            Some((node_id, (node, false))) => {
                voter.add_learner(node_id, node).await?;
                return Ok(node_id);
            }
            None => {}
        }
        let store_id = self.node.assignment()?.ok_or_else(unassigned)?.store_id;
        let allocated = propose(&self.node, voter, Command::AllocateNode.to_payload()).await?;
        let Outcome::Done { index: node_id } = allocated else {
            return Err(Status::unavailable("the store has no name yet: `cinnabar cluster init`"));
        };
        let assignment = Assignment { cluster: self.node.cluster().clone(), store_id, node_id };
        let name = self.assign_to(address, &assignment).await?;
        voter.add_learner(node_id, raft::Node { name, address: address.to_owned() }).await?;
        Ok(node_id)
    }

    /// Has the leader name the store, once there is one: the first election may still be going on.
    async fn name_store(&self, voter: &Arc<Voter>, genesis: &Command) -> Result<(), Status> {
        let named = async {
            loop {
                match propose(&self.node, voter, genesis.to_payload()).await {
                    Err(status) if status.code() == tonic::Code::Unavailable => {}
                    done => return done.map(|_| ()),
                }
            }
        };
        let late = |_| Status::unavailable("no voter leads yet: ask again");
        tokio::time::timeout(Duration::from_millis(WRITE_WAIT_MS_MAX), named).await.map_err(late)?
    }

    fn find(voter: &Voter, wanted: &proto::RemoveVoterRequest) -> Result<NodeId, Status> {
        let members = voter.members();
        let found = members.iter().find(|(id, (node, _))| {
            **id == wanted.node_id || wanted.node_id == 0 && !wanted.name.is_empty() && node.name == wanted.name
        });
        found.map(|(id, _)| *id).ok_or_else(|| {
            let names: Vec<_> = members.values().map(|(node, _)| node.name.clone()).collect();
            Status::not_found(format!("no such member; the members are {}", names.join(", ")))
        })
    }
}

fn voters(voter: &Voter) -> Vec<NodeId> {
    voter.members().into_iter().filter(|(_, (_, voter))| *voter).map(|(id, _)| id).collect()
}

fn membership(voter: &Voter, node_id: NodeId) -> Response<proto::MembershipResponse> {
    Response::new(proto::MembershipResponse { node_id, voters: voters(voter) })
}

fn check_count(count: usize) -> Result<(), Status> {
    if (1..=VOTERS_MAX).contains(&count) {
        return Ok(());
    }
    Err(Status::failed_precondition(format!("a cluster has 1 to {VOTERS_MAX} voters, this would make {count}")))
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn init(&self, request: Request<proto::InitRequest>) -> Result<Response<proto::InitResponse>, Status> {
        let addresses = request.into_inner().addresses;
        if !FIRST_VOTERS.contains(&addresses.len()) {
            let count = addresses.len();
            return Err(Status::invalid_argument(format!(
                "addresses: a cluster begins with 1, 3 or 5 voters, not {count}"
            )));
        }
        addresses.iter().try_for_each(|address| check_address(address))?;
        let mut store_id = StoreId::default();
        self.node.env.rng.fill(&mut store_id.0).map_err(|error| Status::internal(error.to_string()))?;
        // An init that was cut goes on with the store that it began.
        if let Some(ours) = self.node.assignment()? {
            if self.node.core().is_some_and(|core| core.local.point().store.is_some()) {
                return Err(Status::already_exists(format!(
                    "this voter is node {} of store {}",
                    ours.node_id, ours.store_id
                )));
            }
            store_id = ours.store_id;
        }
        let cluster = self.node.cluster().clone();
        let mut members = BTreeMap::new();
        for (node_id, address) in (1..).zip(&addresses) {
            let assignment = Assignment { cluster: cluster.clone(), store_id, node_id };
            let name = self.assign_to(address, &assignment).await?;
            members.insert(node_id, raft::Node { name, address: address.clone() });
        }
        let voter = self.voter().map_err(|_| {
            Status::invalid_argument("init is asked of one of the voters that it names, under its advertised address")
        })?;
        let node_ids = members.keys().copied().collect();
        let genesis = Command::Genesis { cluster, store_id };
        match voter.initialize(members, &genesis).await {
            Ok(()) => {}
            Err(RaftProblem::NotLeader(_)) => self.name_store(&voter, &genesis).await?,
            Err(problem) => return Err(problem.into()),
        }
        tracing::info!(%store_id, "cluster made");
        Ok(Response::new(proto::InitResponse { store_id: store_id.to_bytes(), node_ids }))
    }

    async fn assign(&self, request: Request<proto::AssignRequest>) -> Result<Response<proto::AssignResponse>, Status> {
        let request = request.into_inner();
        let invalid = |error: &dyn std::fmt::Display| Status::invalid_argument(error.to_string());
        let cluster: ClusterId = request.cluster.parse().map_err(|error| invalid(&error))?;
        if cluster != *self.node.cluster() || request.node_id == 0 {
            return Err(Status::invalid_argument("another cluster, or node id 0"));
        }
        if self.node.core().is_some_and(|core| core.replica.is_some()) {
            return Err(Status::failed_precondition("this is a replica, not a voter"));
        }
        let store_id = StoreId::try_from(&request.store_id[..]).map_err(|error| invalid(&error))?;
        self.node.assign(Assignment { cluster, store_id, node_id: request.node_id }).await?;
        tracing::info!(node_id = request.node_id, %store_id, "this voter has its id");
        Ok(Response::new(proto::AssignResponse { name: self.node.name().to_string() }))
    }

    async fn add_voter(
        &self,
        request: Request<proto::AddVoterRequest>,
    ) -> Result<Response<proto::MembershipResponse>, Status> {
        let voter = self.voter()?;
        if let Some(mut leader) = self.elsewhere(&voter)? {
            return leader.add_voter(request.into_inner()).await;
        }
        let _one = self.node.membership.lock().await;
        let mut after = voters(&voter);
        check_count(after.len() + 1)?;
        let node_id = self.join(&voter, &request.into_inner().address).await?;
        after.push(node_id);
        voter.change_voters(after).await?;
        Ok(membership(&voter, node_id))
    }

    async fn remove_voter(
        &self,
        request: Request<proto::RemoveVoterRequest>,
    ) -> Result<Response<proto::MembershipResponse>, Status> {
        let voter = self.voter()?;
        if let Some(mut leader) = self.elsewhere(&voter)? {
            return leader.remove_voter(request.into_inner()).await;
        }
        let _one = self.node.membership.lock().await;
        let gone = Self::find(&voter, request.get_ref())?;
        let before = voters(&voter);
        if !before.contains(&gone) {
            voter.remove_learner(gone).await?;
            return Ok(membership(&voter, 0));
        }
        let after: Vec<_> = before.into_iter().filter(|id| *id != gone).collect();
        check_count(after.len())?;
        voter.change_voters(after).await?;
        Ok(membership(&voter, 0))
    }

    async fn replace_voter(
        &self,
        request: Request<proto::ReplaceVoterRequest>,
    ) -> Result<Response<proto::MembershipResponse>, Status> {
        let voter = self.voter()?;
        if let Some(mut leader) = self.elsewhere(&voter)? {
            return leader.replace_voter(request.into_inner()).await;
        }
        let _one = self.node.membership.lock().await;
        let request = request.into_inner();
        let missing = |field: &str| Status::invalid_argument(format!("{field} is missing"));
        let gone = Self::find(&voter, &request.remove.ok_or_else(|| missing("remove"))?)?;
        let node_id = self.join(&voter, &request.add.ok_or_else(|| missing("add"))?.address).await?;
        let mut after: Vec<_> = voters(&voter).into_iter().filter(|id| *id != gone).collect();
        after.push(node_id);
        voter.change_voters(after).await?;
        Ok(membership(&voter, node_id))
    }

    async fn transfer_leader(
        &self,
        request: Request<proto::TransferLeaderRequest>,
    ) -> Result<Response<proto::TransferLeaderResponse>, Status> {
        let voter = self.voter()?;
        if let Some(mut leader) = self.elsewhere(&voter)? {
            return leader.transfer_leader(request.into_inner()).await;
        }
        let request = request.into_inner();
        let to = if request.node_id == 0 && request.name.is_empty() {
            None
        } else {
            Some(Self::find(&voter, &proto::RemoveVoterRequest { node_id: request.node_id, name: request.name })?)
        };
        voter.transfer_leader(to, TRANSFER_WAIT).await?;
        let leader = voter.leader().map(|(_, node)| node.name).unwrap_or_default();
        Ok(Response::new(proto::TransferLeaderResponse { leader }))
    }
}
