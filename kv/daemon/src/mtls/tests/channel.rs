//! tonic on top: identities reach the service, a reload reaches the next connection, a Unix socket works without TLS.

use axum::Router;
use axum::routing::get;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Extensions, Request};
use tonic::service::Routes;
use tonic::transport::{Channel, Server as Tonic};

use super::*;

/// Answers with the caller's identity, as the request's extensions carry it.
fn whoami() -> Routes {
    let answer = |extensions: Extensions| async move {
        let peer = extensions.get::<PeerInfo>().cloned().unwrap_or_default();
        peer.identity.map_or_else(|| "nobody".to_owned(), |identity| identity.to_string())
    };
    Routes::from(Router::new().route("/whoami", get(answer)))
}

async fn ask(channel: &Channel) -> Result<String, String> {
    let mut channel = channel.clone();
    let exchange = async {
        std::future::poll_fn(|cx| channel.poll_ready(cx)).await.map_err(|error| format!("{error:?}"))?;
        let request = Request::get("/whoami").body(Body::empty()).unwrap();
        let answer = channel.call(request).await.map_err(|error| format!("{error:?}"))?;
        let body = axum::body::to_bytes(axum::body::Body::new(answer.into_body()), 1024).await.unwrap();
        Ok(String::from_utf8(body.to_vec()).unwrap())
    };
    timeout(PATIENCE, exchange).await.unwrap()
}

fn serve(tls: &Arc<Tls>, address: &str, stop: Shutdown) -> (String, tokio::task::JoinHandle<()>) {
    let listener = crate::env::Net::listen(&SystemNet, address.parse().unwrap()).unwrap();
    let acceptor = Acceptor::new(listener, Arc::clone(tls), AcceptorLimits::default());
    let address = acceptor.local_addr().unwrap().to_string();
    let serving = async move {
        let server = Tonic::builder().add_routes(whoami());
        server.serve_with_incoming_shutdown(acceptor, async move { stop.wait().await }).await.unwrap();
    };
    (address, tokio::spawn(serving))
}

#[tokio::test]
async fn a_request_carries_its_callers_identity_and_a_channel_reconnects_with_new_certificates() {
    let pki = Pki::new();
    let (tls, client) = (pki.tls("spiffe://prod/voter/v1"), pki.tls("spiffe://prod/edge/e1"));
    let stop = Shutdown::new();
    let (address, serving) = serve(&tls, "127.0.0.1:0", stop.clone());
    let channel = client.channel(&address, VOTERS, Some("v1".parse().unwrap()), Arc::new(SystemNet));
    for _ in 0..2 {
        assert_eq!(ask(&channel).await.as_deref(), Ok("spiffe://prod/edge/e1"));
    }
    let elsewhere = client.channel(&address, &[Role::Replica], None, Arc::new(SystemNet));
    let refused = ask(&elsewhere).await.unwrap_err();
    assert!(refused.contains("Role"), "{refused}");

    stop.trigger();
    serving.await.unwrap();
    assert!(ask(&channel).await.is_err(), "nobody listens");

    // Both sides move to another authority; the same channel follows.
    let next = Pki::new();
    for (identity, stem) in [("spiffe://prod/voter/v1", "v1"), ("spiffe://prod/edge/e1", "e1")] {
        let files = next.files(identity, Validity::days(1, now()));
        std::fs::copy(files.ca, pki.folder.path().join("ca.pem")).unwrap();
        std::fs::copy(files.cert, pki.folder.path().join(format!("{stem}.pem"))).unwrap();
        std::fs::copy(files.key, pki.folder.path().join(format!("{stem}.key"))).unwrap();
    }
    tls.reload().unwrap();
    let (_, _serving) = serve(&tls, &address, Shutdown::new());
    let stale = ask(&channel).await.unwrap_err();
    assert!(stale.contains("UnknownIssuer"), "{stale}");
    client.reload().unwrap();
    assert_eq!(ask(&channel).await.as_deref(), Ok("spiffe://prod/edge/e1"));
}

#[tokio::test]
async fn a_unix_socket_carries_requests_without_an_identity() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    let incoming = UnixListenerStream::new(tokio::net::UnixListener::bind(&path).unwrap());
    tokio::spawn(Tonic::builder().add_routes(whoami()).serve_with_incoming(incoming));
    assert_eq!(ask(&uds_channel(&path)).await.as_deref(), Ok("nobody"));
}
