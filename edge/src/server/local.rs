//! Callers over the Unix socket: the kernel says which user one is.

use cinnabar_edge_api::Refusal;
use cinnabar_edge_api::refusal::RefusalCode;
use tonic::Request;
use tonic::transport::server::UdsConnectInfo;

/// The users of a list, by number; this process's own when it is empty.
pub fn users(listed: &[u32]) -> Vec<u32> {
    if listed.is_empty() { vec![rustix::process::getuid().as_raw()] } else { listed.to_vec() }
}

/// Refuses a caller whose user is not listed.
///
/// # Errors
/// `NOT_PERMITTED`, also when the kernel does not say who asks.
pub fn check_user<T>(request: &Request<T>, allowed: &[u32]) -> Result<(), Refusal> {
    let peer = request.extensions().get::<UdsConnectInfo>().and_then(|info| info.peer_cred);
    match peer.map(|peer| peer.uid()) {
        Some(uid) if allowed.contains(&uid) => Ok(()),
        Some(uid) => {
            tracing::warn!(uid, "a user who may not ask asked");
            let message = format!("user {uid} may not ask: list it in the edge node's configuration, [local]");
            Err(Refusal::new(RefusalCode::NotPermitted, message))
        }
        None => Err(Refusal::new(RefusalCode::NotPermitted, "nobody knows who asks")),
    }
}
