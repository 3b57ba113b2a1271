//! Keys of session tickets: each server name with its certificates has its own, so that what is replaced, deleted or
//! another's never resumes.
//!
//! Law: a key is random, lives in memory alone, makes tickets for one life and reads them for one more. The
//! configuration that holds it belongs to one server name and one set of certificate versions; another configuration
//! cannot read its tickets, and a client that offers one has a full handshake (RFC 8446 section 4.2.11, RFC 5077
//! section 3.4).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cinnabar_daemon::Env;
use cinnabar_daemon::env::RngError;
use s2n_tls::config::Builder;
use tokio::time::Instant;
use zeroize::Zeroizing;

/// Bytes of a key's name; it stands in the ticket in clear.
const NAME_BYTES: usize = 16;
/// Bytes of a key.
const KEY_BYTES: usize = 32;
/// How much longer than its life a key may make tickets: a handshake that has the configuration may still be under way.
const OVERLAP: Duration = Duration::from_secs(60);

struct TicketKey {
    name: [u8; NAME_BYTES],
    key: Zeroizing<[u8; KEY_BYTES]>,
    made: SystemTime,
}

impl TicketKey {
    fn new(env: &Env) -> Result<Self, RngError> {
        let (mut name, mut key) = ([0; NAME_BYTES], Zeroizing::new([0; KEY_BYTES]));
        env.rng.fill(&mut name)?;
        env.rng.fill(&mut *key)?;
        Ok(Self { name, key, made: UNIX_EPOCH + Duration::from_millis(env.clock.unix_ms()) })
    }
}

/// The keys of one configuration.
pub struct TicketKeys {
    current: TicketKey,
    previous: Option<TicketKey>,
    since: Instant,
}

impl TicketKeys {
    /// A first key.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn new(env: &Env) -> Result<Self, RngError> {
        Ok(Self { current: TicketKey::new(env)?, previous: None, since: env.clock.now() })
    }

    /// Has the current key had its life?
    pub fn is_old(&self, now: Instant, life: Duration) -> bool {
        now.saturating_duration_since(self.since) >= life
    }

    /// A new key, beside the one that was current, which goes on reading. An older one is left behind.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn rotated(&self, env: &Env, life: Duration) -> Result<Self, RngError> {
        let mut next = Self::new(env)?;
        // A key that nobody rotated in time is over: its tickets are too old.
        if !self.is_old(next.since, life * 2) {
            let previous = &self.current;
            let key = TicketKey { name: previous.name, key: previous.key.clone(), made: previous.made };
            next.previous = Some(key);
        }
        Ok(next)
    }

    /// Gives the keys to a configuration.
    ///
    /// # Errors
    /// The library's.
    pub fn install(&self, config: &mut Builder, life: Duration) -> Result<(), s2n_tls::error::Error> {
        config.set_ticket_key_encrypt_decrypt_lifetime(life + OVERLAP)?;
        config.set_ticket_key_decrypt_lifetime(life)?;
        for key in self.previous.iter().chain([&self.current]) {
            config.add_session_ticket_key(&key.name, &*key.key, key.made)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_makes_tickets_for_one_life_and_reads_for_one_more() {
        let (env, life) = (Env::system(), Duration::from_secs(100));
        let first = TicketKeys::new(&env).unwrap();
        assert!(!first.is_old(env.clock.now(), life));
        tokio::time::advance(life).await;
        assert!(first.is_old(env.clock.now(), life));
        let second = first.rotated(&env, life).unwrap();
        assert_ne!(second.current.name, first.current.name);
        assert_ne!(*second.current.key, *first.current.key);
        assert_eq!(second.previous.as_ref().unwrap().name, first.current.name);
        tokio::time::advance(life * 2).await;
        let third = second.rotated(&env, life).unwrap();
        assert!(third.previous.is_none(), "nobody came for two lives");
    }
}
