//! This machine's attribute keys, one for each generation, and whether they may be used.
//!
//! Law: a key is used only if it has no wildcard and exactly the attributes that the machine's own signed record says
//! were issued in its generation. A key that says more would open what nobody knows this machine opens; one that says
//! less, or otherwise, is not the one that was issued last.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use cinnabar_abe::AttributeKey;
use cinnabar_authority_api::Generation;
use tokio::sync::watch;

use crate::directory::MachineView;

/// Why an attribute key is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyRefused {
    /// There is none of that generation.
    #[error("there is no attribute key of this generation")]
    Missing,
    /// It opens more than any issued key may.
    #[error("the attribute key has a wildcard, which is never issued")]
    Wildcard,
    /// The machine's record says that something else was issued, or nothing.
    #[error("the attribute key differs from what this machine's signed record says was issued")]
    Differs,
}

/// See the module. Clones share the keys.
#[derive(Clone)]
pub struct MachineKeys {
    keys: Arc<ArcSwap<BTreeMap<Generation, Arc<AttributeKey>>>>,
    changed: Arc<watch::Sender<u64>>,
    settled: Arc<AtomicBool>,
}

impl Default for MachineKeys {
    fn default() -> Self {
        Self { keys: Arc::default(), changed: Arc::new(watch::Sender::new(0)), settled: Arc::default() }
    }
}

impl std::fmt::Debug for MachineKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("MachineKeys").field(&self.keys.load().keys().map(|key| key.get()).collect::<Vec<_>>()).finish()
    }
}

impl MachineKeys {
    /// Takes these in place of all that were there.
    pub fn replace(&self, keys: BTreeMap<Generation, AttributeKey>) {
        self.keys.store(Arc::new(keys.into_iter().map(|(generation, key)| (generation, Arc::new(key))).collect()));
        self.changed.send_modify(|count| *count += 1);
    }

    /// The key of a generation, if it may be used.
    ///
    /// # Errors
    /// [`KeyRefused`].
    pub fn usable(&self, generation: Generation, me: &MachineView) -> Result<Arc<AttributeKey>, KeyRefused> {
        let keys = self.keys.load();
        let key = keys.get(&generation).ok_or(KeyRefused::Missing)?;
        if key.attributes().wildcard_labels().next().is_some() {
            return Err(KeyRefused::Wildcard);
        }
        match me.attributes(generation) {
            Some(issued) if issued == key.attributes() => Ok(key.clone()),
            _ => Err(KeyRefused::Differs),
        }
    }

    /// Says that whatever an earlier process kept is here, or that nothing of it may be used.
    pub fn settle(&self) {
        if !self.settled.swap(true, Ordering::AcqRel) {
            self.changed.send_modify(|count| *count += 1);
        }
    }

    /// Was that said?
    pub fn is_settled(&self) -> bool {
        self.settled.load(Ordering::Acquire)
    }

    /// Counts replacements.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}
