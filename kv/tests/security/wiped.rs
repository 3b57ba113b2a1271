//! A call that reaches another node than the one meant, or one that lost its folder, is not answered in its place.

use bytes::Bytes;
use cinnabar_daemon::Role;
use cinnabar_kv::raft::proto::raft_client::RaftClient;
use cinnabar_kv::raft::proto::{Body, InstallSnapshotRequest};
use cinnabar_kv::raft::{STORE_METADATA, TO_METADATA};
use cinnabar_kv_api::StoreId;
use cinnabar_kv_api::proto::cluster_client::ClusterClient;
use cinnabar_kv_api::proto::{
    AssignRequest, GetRequest, ScanRequest, SnapshotRequest, StatusRequest, TailRequest, WatchRequest, WriteRequest,
};
use futures::stream;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::fixture::{CLUSTER, Keeps, Pki, TestNode, TestReplica, soon, until, voter, write};

/// Whom a call names.
type Named = (Option<String>, Option<String>);

fn addressed<T>(message: T, named: &Named) -> Request<T> {
    let mut request = Request::new(message);
    for (name, value) in [(TO_METADATA, &named.0), (STORE_METADATA, &named.1)] {
        if let Some(value) = value {
            request.metadata_mut().insert(name, value.parse().unwrap());
        }
    }
    request
}

/// Makes every call between voters with bytes that mean nothing; gives what each was answered.
async fn every_raft_call(pki: &Pki, address: &str, named: &Named) -> Vec<(&'static str, Status)> {
    let client = RaftClient::new(pki.channel(Role::Voter, address));
    let body = || Body { data: Bytes::from_static(b"nonsense") };
    let mut answers = Vec::new();
    macro_rules! unary {
        ($method:ident, $message:expr) => {
            let answer = soon("an answer", client.clone().$method(addressed($message, named))).await;
            answers.push((stringify!($method), answer.expect_err("it means nothing")));
        };
    }
    unary!(vote, body());
    unary!(pre_vote, body());
    unary!(transfer_leader, body());
    unary!(propose, body());
    unary!(install_snapshot, InstallSnapshotRequest { vote: body().data, from: "127.0.0.1:1".to_owned() });
    let appending = async {
        let bodies = stream::iter([body()]);
        client.clone().append(addressed(bodies, named)).await?.into_inner().message().await
    };
    answers.push(("append", soon("an answer", appending).await.expect_err("it means nothing")));
    answers
}

fn misdirected(status: &Status) -> bool {
    status.code() == Code::FailedPrecondition && status.message().contains("not the one that was asked")
}

#[tokio::test]
async fn a_voter_answers_only_calls_that_name_its_id_and_its_store() {
    let pki = Pki::new();
    let node = voter(&pki, "v1").await;
    let before = node.point();
    let (id, store) = (Some("1".to_owned()), Some(node.store_id().to_string()));
    let other_store = Some(StoreId([7; 16]).to_string());
    let wrong: [Named; 8] = [
        (None, None),
        (id.clone(), None),
        (None, store.clone()),
        (Some("2".to_owned()), store.clone()),
        (Some("01".to_owned()), store.clone()),
        (Some(String::new()), store.clone()),
        (id.clone(), other_store),
        (id.clone(), Some(node.store_id().to_string().to_uppercase() + "0")),
    ];
    for named in &wrong {
        for (method, status) in every_raft_call(&pki, &node.address, named).await {
            assert!(misdirected(&status), "{method} to {named:?}: {status:?}");
        }
    }
    // The right names get past that: what is refused then is the nonsense.
    for (method, status) in every_raft_call(&pki, &node.address, &(id, store)).await {
        assert_eq!(status.code(), Code::InvalidArgument, "{method}: {status:?}");
    }
    assert_eq!(node.point(), before);
    write(&pki.client(Role::Authority, &node.address), "a", "still leads").await;
}

async fn assign(pki: &Pki, address: &str, cluster: &str, store_id: StoreId, node_id: u64) -> Result<String, Status> {
    let mut client = ClusterClient::new(pki.channel(Role::Voter, address));
    let store_id = Bytes::copy_from_slice(&store_id.0);
    let request = AssignRequest { cluster: cluster.to_owned(), store_id, node_id, address: address.to_owned() };
    Ok(soon("an answer", client.assign(request)).await?.into_inner().name)
}

/// Calls everything that needs a copy.
async fn every_read_and_write(channel: Channel) -> Vec<(&'static str, Status)> {
    let kv = cinnabar_kv_api::proto::kv_client::KvClient::new(channel.clone());
    let replication = cinnabar_kv_api::proto::replication_client::ReplicationClient::new(channel);
    let key = Bytes::from_static(b"a");
    let linearizable = GetRequest { key: key.clone(), linearizable: true, ..GetRequest::default() };
    let get = GetRequest { key, ..GetRequest::default() };
    vec![
        ("get", kv.clone().get(get).await.map(drop).unwrap_err()),
        ("linearizable get", kv.clone().get(linearizable).await.map(drop).unwrap_err()),
        ("scan", kv.clone().scan(ScanRequest::default()).await.map(drop).unwrap_err()),
        ("watch", kv.clone().watch(WatchRequest::default()).await.map(drop).unwrap_err()),
        ("write", kv.clone().write(WriteRequest::default()).await.map(drop).unwrap_err()),
        ("tail", replication.clone().tail(TailRequest::default()).await.map(drop).unwrap_err()),
        ("snapshot", replication.clone().snapshot(SnapshotRequest::default()).await.map(drop).unwrap_err()),
    ]
}

#[tokio::test]
async fn a_voter_with_a_fresh_folder_answers_for_nobody_until_it_is_assigned() {
    let pki = Pki::new();
    let store = StoreId([7; 16]);
    let node = TestNode::start(&pki, Role::Voter, "v1");
    // It has the name and the certificate of the voter that it was, and nothing else.
    let was: Named = (Some("1".to_owned()), Some(store.to_string()));
    for (method, status) in every_raft_call(&pki, &node.address, &was).await {
        assert_eq!(status.code(), Code::Unavailable, "{method}: {status:?}");
    }
    for (method, status) in every_read_and_write(pki.channel(Role::Voter, &node.address)).await {
        assert_eq!(status.code(), Code::Unavailable, "{method}: {status:?}");
        assert!(status.message().contains("belongs to no cluster"), "{method}: {status:?}");
    }
    let status = pki.kv(Role::Edge, &node.address).status(StatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.role.as_str(), status.node_id), ("unassigned", 0));

    assert_eq!(assign(&pki, &node.address, CLUSTER, store, 1).await.unwrap(), "v1");
    for (method, status) in every_raft_call(&pki, &node.address, &was).await {
        assert_eq!(status.code(), Code::InvalidArgument, "{method}: {status:?}");
    }
}

#[tokio::test]
async fn an_assigned_voter_refuses_every_other_assignment() {
    let pki = Pki::new();
    let node = voter(&pki, "v1").await;
    let kept = node.node.assignment().unwrap();
    let store = node.store_id();
    let refused = [
        (CLUSTER, store, 2, Code::FailedPrecondition),
        (CLUSTER, StoreId([7; 16]), 1, Code::FailedPrecondition),
        (CLUSTER, StoreId([7; 16]), 9, Code::FailedPrecondition),
        ("test", store, 1, Code::InvalidArgument),
        ("", store, 1, Code::InvalidArgument),
        (CLUSTER, store, 0, Code::InvalidArgument),
    ];
    for (cluster, store, id, code) in refused {
        let answer = assign(&pki, &node.address, cluster, store, id).await;
        assert_eq!(answer.unwrap_err().code(), code, "{cluster} {store} {id}");
        assert_eq!(node.node.assignment().unwrap(), kept);
    }
    // The same one again changes nothing: an init that was cut is repeated.
    assert_eq!(assign(&pki, &node.address, CLUSTER, store, 1).await.unwrap(), "v1");
    assert_eq!(node.node.assignment().unwrap(), kept);
}

#[tokio::test]
async fn only_a_voter_assigns_and_a_replica_is_never_assigned() {
    let pki = Pki::new();
    let node = TestNode::start(&pki, Role::Voter, "v1");
    for role in Role::ALL.into_iter().filter(|role| *role != Role::Voter) {
        let mut client = ClusterClient::new(pki.channel(role, &node.address));
        let request = AssignRequest {
            cluster: CLUSTER.to_owned(),
            store_id: Bytes::from_static(&[7; 16]),
            node_id: 1,
            address: node.address.clone(),
        };
        assert_eq!(client.assign(request).await.unwrap_err().code(), Code::PermissionDenied, "{role}");
        assert_eq!(node.node.assignment().unwrap(), None);
    }
    let honest = voter(&pki, "v2").await;
    let dir = tempfile::tempdir().unwrap();
    let mut replica = TestReplica::open(&pki, "r1", dir.path(), Keeps::InMemory, &[&honest.address], None);
    replica.run();
    until("the replica follows", || replica.index() > 0).await;
    let served = replica.serve(&pki).await;
    let refused = assign(&pki, &served.address, CLUSTER, honest.store_id(), 2).await;
    assert_eq!(refused.unwrap_err().code(), Code::FailedPrecondition);
    let named: Named = (Some("1".to_owned()), Some(honest.store_id().to_string()));
    for (method, status) in every_raft_call(&pki, &served.address, &named).await {
        assert_eq!(status.code(), Code::FailedPrecondition, "{method}: {status:?}");
    }
}
