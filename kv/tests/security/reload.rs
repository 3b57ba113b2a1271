//! Certificates are replaced while a voter runs: new connections and new checkpoints are the new key's, old ones go on
//! being believed, and nothing that is open is cut.

use cinnabar_daemon::Role;
use cinnabar_daemon::mtls::Reload;
use cinnabar_kv_api::proto::StatusRequest;

use crate::fixture::{Keeps, Pki, Recording, TestReplica, until, voter, write, write_many};
use crate::outsider::server_certificate;

#[tokio::test]
async fn a_voter_with_new_certificates_is_believed_by_both_of_its_keys() {
    let pki = Pki::new();
    let node = voter(&pki, "v1").await;
    let client = pki.client(Role::Authority, &node.address);
    let recording = Recording::start(&pki, &node.address).await;
    let mut open = pki.kv(Role::Edge, &node.address);
    open.status(StatusRequest {}).await.unwrap();
    let caller = pki.issue(Role::Edge, "e1");
    let index = write_many(&client, "before", 3).await;
    let before = recording.up_to(index).await;
    let old = node.tls.certificate();
    assert_eq!(server_certificate(&node.address, &caller).await, old);

    pki.place(Role::Voter, "v1");
    assert_eq!(server_certificate(&node.address, &caller).await, old, "files alone change nothing");
    assert_eq!(node.tls.reload().unwrap(), Reload::Loaded);
    let new = node.tls.certificate();
    assert_ne!(new, old);
    assert_eq!(server_certificate(&node.address, &caller).await, new);
    open.status(StatusRequest {}).await.unwrap();
    let index = write_many(&client, "after", 3).await;
    let all = recording.up_to(index).await;
    let signed_by: Vec<_> = all.iter().map(|frame| frame.checkpoint.certificate.to_vec()).collect();
    let (earlier, later) = signed_by.split_at(before.len());
    assert!(earlier.iter().all(|certificate| *certificate == old));
    assert!(later.iter().all(|certificate| *certificate == new));

    // One that gets everything from the relay's memory believes the key that was, as long as its certificate holds.
    let dir = tempfile::tempdir().unwrap();
    let replica = TestReplica::open(&pki, "r1", dir.path(), Keeps::InMemory, &[], None);
    for frame in &all {
        assert!(replica.replica.take_frame(&frame.encode()).unwrap());
    }
    assert_eq!(replica.local.point().state_hash, node.point().state_hash);
}

#[tokio::test]
async fn a_replica_that_follows_goes_on_over_a_change_of_both_sides_certificates() {
    let pki = Pki::new();
    let node = voter(&pki, "v1").await;
    let client = pki.client(Role::Authority, &node.address);
    let dir = tempfile::tempdir().unwrap();
    let mut replica = TestReplica::open(&pki, "r1", dir.path(), Keeps::OnDisk, &[&node.address], None);
    replica.run();
    let index = write(&client, "a", "1").await;
    until("the first record", || replica.index() >= index).await;
    pki.place(Role::Voter, "v1");
    assert_eq!(node.tls.reload().unwrap(), Reload::Loaded);
    let index = write(&client, "a", "2").await;
    until("the next record, over the open stream", || replica.index() >= index).await;
    assert_eq!(replica.upstreams(), [(true, String::new())]);
    replica.stop().await;
    let mut replica = TestReplica::open(&pki, "r1", dir.path(), Keeps::OnDisk, &[&node.address], None);
    replica.run();
    let index = write(&client, "a", "3").await;
    until("the next record, over a new one", || replica.index() >= index).await;
}

#[tokio::test]
async fn certificates_of_somebody_else_are_not_loaded_and_the_old_ones_stay() {
    let pki = Pki::new();
    let node = voter(&pki, "v1").await;
    let old = node.tls.certificate();
    let files = pki.place(Role::Voter, "v1");
    let other_name = pki.place(Role::Voter, "v2");
    let other_role = pki.place(Role::Operator, "v1");
    for (what, from) in
        [("another authority's", None), ("another node's", Some(other_name)), ("another role's", Some(other_role))]
    {
        match from {
            Some(from) => {
                std::fs::copy(from.cert, &files.cert).unwrap();
                std::fs::copy(from.key, &files.key).unwrap();
            }
            None => {
                let other = Pki::new();
                let issued = other.issue(Role::Voter, "v1");
                std::fs::write(&files.cert, issued.certificate_pem).unwrap();
                std::fs::write(&files.key, issued.key_pem).unwrap();
            }
        }
        assert!(node.tls.reload().is_err(), "{what}");
        assert_eq!(node.tls.certificate(), old, "{what}");
    }
    write(&pki.client(Role::Authority, &node.address), "a", "still signs and serves").await;
}
