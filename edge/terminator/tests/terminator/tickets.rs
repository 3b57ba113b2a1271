//! A ticket resumes its own name and certificates, and nothing else.

use std::sync::Arc;

use rustls::HandshakeKind;

use crate::edge::Kind;
use crate::world::{TLS12, TLS13, World, echo};

#[tokio::test]
async fn a_ticket_resumes_without_a_signature() {
    let world = World::new();
    let held = Arc::new(world.ca.issue(1, 1, Kind::P256, &["a.example"]));
    world.edge.serve("a.example", &[&held]);
    let terminator = world.terminate(&echo().await).await;
    for (version, label) in [(TLS12, "1.2"), (TLS13, "1.3")] {
        let client = world.client(version);
        assert_eq!(terminator.visit(&client, "a.example").await, HandshakeKind::Full);
        let signed = world.edge.signed();
        for _ in 0..3 {
            assert_eq!(terminator.visit(&client, "a.example").await, HandshakeKind::Resumed, "{label}");
        }
        assert_eq!(world.edge.signed(), signed, "{label}: the sign counter is unmoved");
        terminator.until("cinnabar_terminator_handshakes_total", &[label, "resumed=\"yes\""], 3.0).await;
    }
}

#[tokio::test]
async fn what_was_replaced_or_deleted_or_is_anothers_never_resumes() {
    let world = World::new();
    let terminator = world.terminate(&echo().await).await;
    for version in [TLS12, TLS13] {
        // One certificate for both names, so that nothing but the ticket keeps them apart.
        let first = Arc::new(world.ca.issue(1, 1, Kind::P256, &["a.example", "b.example"]));
        world.edge.serve("a.example", &[&first]);
        world.edge.serve("b.example", &[&first]);
        let client = world.client(version);
        assert_eq!(terminator.visit(&client, "a.example").await, HandshakeKind::Full);
        assert_eq!(terminator.visit(&client, "a.example").await, HandshakeKind::Resumed);
        let signed = world.edge.signed();
        assert_eq!(terminator.visit(&client, "b.example").await, HandshakeKind::Full, "another name");
        assert_eq!(world.edge.signed(), signed + 1);
        assert_eq!(terminator.visit(&client, "b.example").await, HandshakeKind::Resumed);

        // The same id, a newer version, another key.
        let second = Arc::new(world.ca.issue(1, 2, Kind::P256, &["b.example"]));
        world.edge.serve("b.example", &[&second]);
        assert_eq!(terminator.visit(&client, "b.example").await, HandshakeKind::Full, "replaced");
        assert_eq!(world.edge.signed(), signed + 2);
        assert_eq!(terminator.visit(&client, "b.example").await, HandshakeKind::Resumed);

        world.edge.serve("b.example", &[]);
        let error = terminator.connect(&client, "b.example").await.unwrap_err();
        assert!(error.to_string().contains("UnrecognisedName"), "deleted: {error}");
        // Even when the same comes back, what was deleted does not resume.
        world.edge.serve("b.example", &[&second]);
        assert_eq!(terminator.visit(&client, "b.example").await, HandshakeKind::Full, "back again");
    }
}
