//! What the signer and the router ask of the records and the keys.

use std::sync::Arc;

use cinnabar_authority_api::{CertId, MachineId, ZoneId};
use cinnabar_edge_api::Refusal;
use cinnabar_edge_api::refusal::RefusalCode;
use futures::future::BoxFuture;

use crate::directory::{CertRef, CertView, Directory, Holders, MachineView, Staleness};
use crate::keyring::Keyring;
use crate::router::Peers;
use crate::server::sign::{Keys, Records};
use crate::signer::SigningKey;

/// The directory and the keyring, as the signer's and the router's own traits want them.
#[derive(Debug)]
pub struct Glue {
    directory: Directory,
    keyring: Keyring,
    staleness: Staleness,
}

impl Glue {
    /// Signatures for others end after `staleness`.
    pub fn new(directory: Directory, keyring: Keyring, staleness: Staleness) -> Self {
        Self { directory, keyring, staleness }
    }

    fn stale(&self) -> Refusal {
        let alarms = self.directory.trust().alarms(&self.staleness);
        let why = alarms.into_iter().next_back().unwrap_or_else(|| "this node's copy is too old".to_owned());
        Refusal::new(RefusalCode::Stale, why)
    }
}

impl Records for Glue {
    fn cert(&self, zone: &ZoneId, id: &CertId) -> Result<CertRef, Refusal> {
        Ok(self.directory.cert(zone, id)?)
    }

    fn machine(&self, id: &MachineId) -> Option<Arc<MachineView>> {
        self.directory.machine(id)
    }

    fn is_revoked(&self, id: &MachineId) -> bool {
        self.directory.is_revoked(id)
    }

    fn holders(&self, cert: &CertView) -> Arc<Holders> {
        self.directory.holders(cert)
    }

    fn may_sign_local(&self) -> Result<(), Refusal> {
        if self.directory.trust().may_sign_local() { Ok(()) } else { Err(self.stale()) }
    }

    fn may_sign_for_others(&self) -> Result<(), Refusal> {
        if self.directory.trust().may_sign_for_others(&self.staleness) { Ok(()) } else { Err(self.stale()) }
    }
}

impl Keys for Glue {
    fn key<'a>(&'a self, cert: &'a CertRef) -> BoxFuture<'a, Result<Arc<SigningKey>, Refusal>> {
        Box::pin(async move { Ok(self.keyring.key(cert).await?) })
    }
}

impl Peers for Glue {
    fn all_peers(&self) -> Arc<Holders> {
        self.directory.all_peers()
    }
}
