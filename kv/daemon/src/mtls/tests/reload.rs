//! Reloading: what is valid replaces, what is not leaves everything as it was.

use super::*;

/// The certificate a client sees on a new connection.
async fn presented(server: &Server, client: &Tls) -> Vec<u8> {
    let mut connection = server.connect(client, VOTERS, None).await.unwrap();
    assert!(echoes(&mut connection).await);
    connection.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

#[tokio::test]
async fn a_reload_changes_new_connections_on_both_sides_and_no_open_one() {
    let pki = Pki::new();
    let (tls, client) = (pki.tls("spiffe://prod/voter/v1"), pki.tls("spiffe://prod/edge/e1"));
    let server = Server::start(&tls, AcceptorLimits::default());
    let mut open = server.connect(&client, VOTERS, None).await.unwrap();
    let before = presented(&server, &client).await;
    assert_eq!(tls.reload().unwrap(), Reload::Unchanged);

    let server_files = pki.files("spiffe://prod/voter/v1", Validity::days(3, now()));
    assert_eq!(tls.reload().unwrap(), Reload::Loaded);
    let after = presented(&server, &client).await;
    assert_ne!(before, after);
    assert_eq!(after, tls.certificate());
    assert!(tls.not_after_s() > now() / 1000 + 2 * 24 * 3600);
    assert!(echoes(&mut open).await, "an open connection lives on");

    // The authority changes: a client that reloads trusts the new one only, and is known by its new certificate.
    let next = Pki::new();
    let files = next.files("spiffe://prod/edge/e1", Validity::days(1, now()));
    for (new, old) in [(&files.ca, "ca.pem"), (&files.cert, "e1.pem"), (&files.key, "e1.key")] {
        std::fs::copy(new, pki.folder.path().join(old)).unwrap();
    }
    assert_eq!(client.reload().unwrap(), Reload::Loaded);
    let refused = server.connect(&client, VOTERS, None).await.err().unwrap();
    assert_eq!(handshake_result(&refused), "unknown_issuer");
    assert!(matches!(tls.reload(), Err(TlsError::Certificate { .. })), "our old certificate under the new authority");
    std::fs::copy(next.files("spiffe://prod/voter/v1", Validity::days(1, now())).cert, server_files.cert).unwrap();
    std::fs::copy(next.folder.path().join("v1.key"), server_files.key).unwrap();
    assert_eq!(tls.reload().unwrap(), Reload::Loaded);
    presented(&server, &client).await;
}

#[tokio::test]
async fn a_bad_reload_is_refused_and_the_old_certificate_stays() {
    let pki = Pki::new();
    let (tls, client) = (pki.tls("spiffe://prod/voter/v1"), pki.tls("spiffe://prod/edge/e1"));
    let server = Server::start(&tls, AcceptorLimits::default());
    let before = presented(&server, &client).await;
    let path = |name: &str| pki.folder.path().join(name);
    let (cert, key) = (std::fs::read(path("v1.pem")).unwrap(), std::fs::read(path("v1.key")).unwrap());
    let restore = || {
        write(&path("v1.pem"), &cert);
        write(&path("v1.key"), &key);
    };
    let refused = |expected: fn(&TlsError) -> bool| {
        let error = tls.reload().unwrap_err();
        assert!(expected(&error), "{error}");
        restore();
    };

    pki.files("spiffe://prod/voter/v1", Validity::days(2, now()));
    write(&path("v1.key"), &key); // the new certificate with the old key, as between two steps of a deployment
    refused(|error| matches!(error, TlsError::Key { .. }));
    pki.place(&pki.issue("spiffe://prod/voter/v2", Validity::days(2, now())), "v1");
    refused(|error| matches!(error, TlsError::IdentityChanged { .. }));
    pki.place(&pki.forge(&["spiffe://test/voter/v1"], &[ServerAuth, ClientAuth]), "v1");
    refused(|error| matches!(error, TlsError::Certificate { source: VerifyError::Cluster { .. }, .. }));
    pki.place(&pki.forge(&["spiffe://prod/voter/v1"], &[ClientAuth]), "v1");
    refused(|error| matches!(error, TlsError::Certificate { source: VerifyError::Purpose, .. }));
    let past = Validity { not_before_s: 1_000_000_000, not_after_s: now() / 1000 - 60 };
    pki.place(&pki.issue("spiffe://prod/voter/v1", past), "v1");
    refused(|error| matches!(error, TlsError::Certificate { source: VerifyError::Expired, .. }));
    write(&path("v1.pem"), b"");
    refused(|error| matches!(error, TlsError::Content { .. }));
    write(&path("v1.pem"), &cert.repeat(INTERMEDIATES_MAX + 2));
    refused(|error| matches!(error, TlsError::Content { .. }));
    write(&path("v1.key"), &cert);
    refused(|error| matches!(error, TlsError::Content { .. }));
    write(&path("v1.key"), &vec![b'x'; FILE_BYTES_MAX + 1]);
    refused(|error| matches!(error, TlsError::Read { .. }));
    std::fs::remove_file(path("v1.key")).unwrap();
    refused(|error| matches!(error, TlsError::Read { .. }));

    assert_eq!(presented(&server, &client).await, before);
    assert_eq!(tls.reload().unwrap(), Reload::Unchanged);
}

#[tokio::test(start_paused = true)]
async fn a_watch_loads_new_files_by_itself_until_the_shutdown() {
    let pki = Pki::new();
    let tls = pki.tls("spiffe://prod/voter/v1");
    let shutdown = Shutdown::new();
    let watch = tokio::spawn(Arc::clone(&tls).watch(shutdown.clone()));
    let before = tls.certificate();
    sleep(WATCH_INTERVAL * 2).await;
    assert_eq!(tls.certificate(), before);

    write(&pki.folder.path().join("v1.pem"), b"half a cert");
    sleep(WATCH_INTERVAL * 2).await;
    assert_eq!(tls.certificate(), before);

    pki.files("spiffe://prod/voter/v1", Validity::days(2, now()));
    for _ in 0..100 {
        sleep(WATCH_INTERVAL).await;
    }
    assert_ne!(tls.certificate(), before);
    shutdown.trigger();
    watch.await.unwrap();
}

#[test]
fn a_process_does_not_start_with_what_peers_would_refuse() {
    let pki = Pki::new();
    let files = pki.files("spiffe://prod/voter/v1", Validity::days(1, now()));
    assert!(load(&files, 0).is_ok());
    let expired = load(&files, 2).unwrap_err();
    assert!(matches!(expired, TlsError::Certificate { source: VerifyError::Expired, .. }));
    let foreign = Tls::load(&files, &"test".parse().unwrap(), Arc::new(SystemClock)).unwrap_err();
    assert!(matches!(foreign, TlsError::Certificate { source: VerifyError::Cluster { .. }, .. }));
    assert!(foreign.to_string().contains("v1.pem"), "{foreign}");
}
