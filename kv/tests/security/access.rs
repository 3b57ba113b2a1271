//! Every call by every caller: who is refused leaves nothing behind, who is allowed gets an answer.

use std::collections::BTreeSet;
use std::path::Path;

use bytes::Bytes;
use cinnabar_daemon::Role;
use cinnabar_kv::server::access::{ACCESS, Rule, allowed};
use cinnabar_kv_api::proto::WriteRequest;
use cinnabar_kv_api::{Condition, Key, Op};
use tonic::transport::Channel;
use tonic::{Code, Request};

use crate::fixture::{Counted, Keeps, Pki, TestNode, TestReplica, cluster, put, voter, write};
use crate::forge::issue_foreign;
use crate::outsider::{self, call, is_admitted, is_refused, is_transport};

/// Every path of every service, as the schemas say.
fn described() -> BTreeSet<String> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = BTreeSet::new();
    for dir in ["api/proto", "proto"] {
        let dir = manifest.join(dir);
        let files: Vec<_> = std::fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "proto"))
            .collect();
        for file in protox::compile(files, [dir]).unwrap().file {
            for service in &file.service {
                let methods = service.method.iter();
                paths.extend(methods.map(|m| format!("/{}.{}/{}", file.package(), service.name(), m.name())));
            }
        }
    }
    paths
}

#[test]
fn the_table_names_every_call_of_every_service_and_nothing_else() {
    let described = described();
    for service in ["kv.v1.Kv/", "kv.v1.Replication/", "kv.v1.Cluster/", "raft.v1.Raft/"] {
        let prefix = format!("/cinnabar.{service}");
        assert!(described.iter().any(|path| path.starts_with(&prefix)), "{prefix} is in no schema");
    }
    let tabled: BTreeSet<_> = ACCESS.iter().map(|rule| rule.path.to_owned()).collect();
    assert_eq!(tabled, described);
    assert_eq!(tabled.len(), ACCESS.len(), "a call has two rows, and the first one counts");
}

#[test]
fn the_table_is_the_one_that_was_decided() {
    use Role::{Authority, Edge, Operator, Replica, Voter};
    let all = [Voter, Replica, Edge, Authority, Operator];
    let decided = |path: &str| -> (&[Role], bool) {
        match path.rsplit_once('/').expect("a path has a method") {
            ("/cinnabar.kv.v1.Kv", "Write") => (&[Voter, Authority, Operator], false),
            ("/cinnabar.kv.v1.Kv", _) => (&[Voter, Replica, Edge, Authority, Operator], true),
            ("/cinnabar.kv.v1.Replication", "Tail") => (&[Voter, Replica, Edge, Authority], false),
            ("/cinnabar.kv.v1.Replication", "Snapshot") => (&[Voter, Replica, Edge, Operator], false),
            ("/cinnabar.kv.v1.Cluster", "Init") => (&[Operator], false),
            ("/cinnabar.kv.v1.Cluster", "Assign") | ("/cinnabar.raft.v1.Raft", _) => (&[Voter], false),
            ("/cinnabar.kv.v1.Cluster", _) => (&[Voter, Operator], false),
            _ => panic!("{path}: decide who may call it"),
        }
    };
    for path in described() {
        let (roles, local) = decided(&path);
        for role in all {
            assert_eq!(allowed(&path, Some(role)), roles.contains(&role), "{path} by {role}");
        }
        assert_eq!(allowed(&path, None), local, "{path} locally");
    }
}

/// Who calls, and the role that the node should see: none for one that must not get through the handshake.
struct Caller {
    name: String,
    channel: Channel,
    sees: Sees,
}

#[derive(Clone, Copy, PartialEq)]
enum Sees {
    Nobody,
    Role(Role),
    Local,
}

impl Sees {
    /// What the table says of such a caller.
    fn may(&self, rule: &Rule) -> bool {
        match self {
            Self::Nobody => false,
            Self::Role(role) => rule.roles.contains(role),
            Self::Local => rule.local,
        }
    }
}

/// Every caller that there is, each on a connection of its own.
fn callers(pki: &Pki, node: &TestNode) -> Vec<Caller> {
    let other_authority = Pki::new();
    let other_cluster = Pki::of("test");
    let mut callers = Vec::new();
    let mut nobody = |name: &str, channel| {
        callers.push(Caller { name: name.to_owned(), channel, sees: Sees::Nobody });
    };
    nobody("no certificate", outsider::channel(&node.address, None));
    for role in Role::ALL {
        let mut present = |what: &str, credentials| {
            nobody(&format!("{role} {what}"), outsider::channel(&node.address, Some(&credentials)));
        };
        present("of another authority", other_authority.issue(role, "x"));
        present("that is over", pki.issue_expired(role, "x"));
        present("of another cluster and authority", other_cluster.issue(role, "x"));
        present("of another cluster, by this authority", issue_foreign(pki, &format!("spiffe://test/{role}/x")));
        present("of a role that there is not", issue_foreign(pki, "spiffe://prod/admin/x"));
    }
    for role in Role::ALL {
        let channel = outsider::channel(&node.address, Some(&pki.issue(role, "x")));
        callers.push(Caller { name: role.to_string(), channel, sees: Sees::Role(role) });
    }
    callers.push(Caller { name: "local".to_owned(), channel: outsider::local(&node.socket), sees: Sees::Local });
    callers
}

/// Tries every cell; gives the number of those that were refused and of those that were admitted.
async fn try_every_cell(pki: &Pki, node: &TestNode) -> (usize, usize) {
    let (mut refused, mut admitted) = (0, 0);
    let before = node.point();
    for caller in callers(pki, node) {
        for rule in ACCESS {
            let answer = call(caller.channel.clone(), rule.path, Request::new(Bytes::new())).await;
            let may = caller.sees.may(rule);
            let what = format!("{} by {}: {answer:?}", rule.path, caller.name);
            if may {
                assert!(is_admitted(&answer), "{what}");
                admitted += 1;
            } else {
                assert!(is_refused(&answer), "{what}");
                let by_handshake = answer.as_ref().is_err_and(is_transport);
                assert_eq!(by_handshake, caller.sees == Sees::Nobody, "{what}");
                refused += 1;
            }
        }
    }
    assert_eq!(node.point(), before, "an empty request changed the store");
    (refused, admitted)
}

#[tokio::test]
async fn every_cell_of_calls_and_callers_holds_on_a_voter() {
    let counted = Counted::here();
    let pki = Pki::new();
    let node = voter(&pki, "v1").await;
    let (refused, admitted) = try_every_cell(&pki, &node).await;
    let rows = ACCESS.len();
    let allowed_cells: usize = ACCESS.iter().map(|rule| rule.roles.len() + usize::from(rule.local)).sum();
    assert_eq!((refused, admitted), (rows * 32 - allowed_cells, allowed_cells));
    for role in Role::ALL {
        let denied = ACCESS.iter().filter(|rule| !rule.roles.contains(&role)).count();
        let metric = format!("cinnabar_kv_denied_total{{role=\"{role}\"}}");
        assert_eq!(counted.value(&metric) as usize, denied, "{metric}");
    }
}

#[tokio::test]
async fn every_cell_of_calls_and_callers_holds_on_a_replica_and_on_a_voter_without_an_id() {
    let pki = Pki::new();
    let honest = voter(&pki, "v1").await;
    let dir = tempfile::tempdir().unwrap();
    let mut replica = TestReplica::open(&pki, "r1", dir.path(), Keeps::InMemory, &[&honest.address], None);
    replica.run();
    replica.reaches(&honest).await;
    let served = replica.serve(&pki).await;
    let on_replica = try_every_cell(&pki, &served).await;
    assert!(on_replica.0 > 0 && on_replica.1 > 0);

    let fresh = TestNode::start(&pki, Role::Voter, "v9");
    for caller in callers(&pki, &fresh) {
        for rule in ACCESS {
            let answer = call(caller.channel.clone(), rule.path, Request::new(Bytes::new())).await;
            let may = caller.sees.may(rule);
            assert_eq!(is_admitted(&answer), may, "{} by {}: {answer:?}", rule.path, caller.name);
            assert_eq!(is_refused(&answer), !may, "{} by {}: {answer:?}", rule.path, caller.name);
        }
    }
    assert!(fresh.node.core().is_none() && fresh.node.assignment().unwrap().is_none());
}

#[tokio::test]
async fn what_is_not_in_the_table_is_refused_to_everybody() {
    let pki = Pki::new();
    let node = voter(&pki, "v1").await;
    let unknown = [
        "/",
        "/cinnabar.kv.v1.Kv",
        "/cinnabar.kv.v1.Kv/",
        "/cinnabar.kv.v1.Kv/Purge",
        "/cinnabar.kv.v1.Kv/get",
        "/cinnabar.kv.v1.Kv/Get/",
        "//cinnabar.kv.v1.Kv/Get",
        "/cinnabar.kv.v1.Kv//Get",
        "/cinnabar.kv.v1.Kv/%47et",
        "/x/../cinnabar.kv.v1.Kv/Get",
        "/cinnabar.kv.v2.Kv/Get",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.health.v1.Health/Check",
    ];
    for role in Role::ALL {
        let channel = outsider::channel(&node.address, Some(&pki.issue(role, "x")));
        for path in unknown {
            let answer = call(channel.clone(), path, Request::new(Bytes::new())).await;
            assert_eq!(answer.as_ref().unwrap_err().code(), Code::PermissionDenied, "{path} by {role}: {answer:?}");
        }
        // A query is no part of a path, and opens nothing that the path does not.
        let query = "/cinnabar.raft.v1.Raft/Vote?/cinnabar.kv.v1.Kv/Get";
        let answer = call(channel.clone(), query, Request::new(Bytes::new())).await;
        assert_eq!(is_refused(&answer), role != Role::Voter, "{query} by {role}: {answer:?}");
    }
    for path in unknown {
        let answer = call(outsider::local(&node.socket), path, Request::new(Bytes::new())).await;
        assert_eq!(answer.unwrap_err().code(), Code::PermissionDenied, "{path} locally");
    }
}

fn key(text: &str) -> Key {
    Key::new(text.as_bytes().to_vec()).unwrap()
}

fn batch(sequence: u64, conditions: Vec<Condition>, ops: Vec<Op>) -> WriteRequest {
    let client = cinnabar_kv_api::ClientId([7; 16]);
    cinnabar_kv_api::Write { client, sequence, answered_below: 1, conditions, ops }.into()
}

#[tokio::test]
async fn an_operators_batch_with_one_foreign_key_is_refused_whole() {
    let pki = Pki::new();
    let node = voter(&pki, "v1").await;
    let authority = pki.client(Role::Authority, &node.address);
    let kept = write(&authority, "zone/a", "theirs").await;
    let mut operator = pki.kv(Role::Operator, &node.address);
    let delete = |text: &str| Op::Delete { key: key(text) };
    let foreign = [
        vec![put("operator/a", "1"), put("zone/a", "mine")],
        vec![put("zone/a", "mine"), put("operator/a", "1")],
        vec![put("operator/a", "1"), delete("zone/a")],
        vec![delete("zone/a")],
        vec![put("operator", "1")],
        vec![put("Operator/a", "1")],
        vec![put("xoperator/a", "1")],
    ];
    let before = node.point();
    for (n, ops) in (1..).zip(foreign) {
        let request = batch(n, Vec::new(), ops.clone());
        assert_eq!(operator.write(request).await.unwrap_err().code(), Code::PermissionDenied, "{ops:?}");
    }
    assert_eq!(node.point(), before, "a refused batch was proposed");
    // What an operator may read anyway, its write may depend on.
    let held = Condition { key: key("zone/a"), mod_index: kept };
    let answer = operator.write(batch(20, vec![held.clone()], vec![put("operator/a", "1")])).await.unwrap();
    assert!(answer.into_inner().succeeded);
    let gone = Condition { mod_index: kept + 1, ..held };
    let answer = operator.write(batch(21, vec![gone], vec![put("operator/a", "2")])).await.unwrap().into_inner();
    assert_eq!((answer.succeeded, answer.actual_mod_index), (false, kept));
    // The authority and a voter that passes a write on may write anywhere.
    write(&authority, "operator/a", "3").await;
    write(&pki.client(Role::Voter, &node.address), "zone/b", "4").await;
}

#[tokio::test]
async fn a_follower_refuses_an_operators_foreign_key_before_it_passes_the_write_on() {
    let pki = Pki::new();
    let nodes = cluster(&pki, &["v1", "v2", "v3"]).await;
    for (n, node) in (1..).zip(&nodes) {
        let mut operator = pki.kv(Role::Operator, &node.address);
        let refused = operator.write(batch(n, Vec::new(), vec![put("operator/a", "1"), put("zone/a", "1")])).await;
        assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
        write(&pki.client(Role::Operator, &node.address), "operator/a", "1").await;
        write(&pki.client(Role::Authority, &node.address), "zone/b", "1").await;
    }
    let asked = nodes[0].local().get(b"zone/a").unwrap();
    assert_eq!(asked.record, None);
}
