//! The audit: was a ciphertext made by an encryptor with the AND-share defect?
//!
//! Before v1.6.4 the reference gave one input of an AND gate the whole share and the other nothing. Since every policy is
//! and-ed with the Boneh-Katz wire, which every key holds wild, that one wire opens every such ciphertext whose policy
//! has a gate: for *any* key of the authority. Formats did not change, so only trying tells. A policy of one condition is
//! and-ed the other way round: there the condition alone carries everything, which a satisfying key can find out; access
//! control holds then, but the id is not bound.

use crate::ciphertext::Ciphertext;
use crate::error::Error;
use crate::tkn20::boneh_katz::finds_seed;
use crate::tkn20::decapsulate::PointChecks;
use crate::tkn20::keys::AttributeKey;

/// What an audit found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Made by a defective encryptor: consider it readable by every key of its authority, and encrypt it anew. Holds for
    /// a ciphertext whose tag or plaintext was changed since, too: who attacks does not mind.
    Defective,
    /// Not made by a defective encryptor. When the key satisfies the policy, the ciphertext was opened and this is
    /// certain; when it does not, it rests on the caller's word that the ciphertext is of the key's authority and its
    /// header unchanged, because a key of another authority finds nothing in any ciphertext.
    Sound,
    /// This key cannot find out: the policy has one condition that the key does not satisfy, or the key satisfies the
    /// policy and does not open the ciphertext (another authority's, or damaged).
    CannotTell,
}

impl Verdict {
    /// The stable name, for programs and people: `defective`, `sound` or `cannot tell`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Defective => "defective",
            Self::Sound => "sound",
            Self::CannotTell => "cannot tell",
        }
    }
}

impl AttributeKey {
    /// Finds out whether a ciphertext of this key's authority was made by a defective encryptor.
    ///
    /// Costs at most two decryptions.
    ///
    /// # Errors
    /// [`Error::Malformed`] when a point of the ciphertext is not what it must be.
    pub fn audit(&self, ciphertext: &Ciphertext) -> Result<Verdict, Error> {
        let conditions = ciphertext.policy().conditions();
        let satisfies = self.could_decrypt(ciphertext);
        if conditions == 1 && !satisfies {
            return Ok(Verdict::CannotTell);
        }
        // The wire that a defective encryptor gives everything to.
        let heir = if conditions == 1 { 0 } else { conditions };
        let key = self.decapsulate_with_wires(ciphertext, &[heir], PointChecks::Sums)?;
        if finds_seed(ciphertext, &key) {
            return Ok(Verdict::Defective);
        }
        if satisfies && self.decrypt(ciphertext).is_err() {
            return Ok(Verdict::CannotTell);
        }
        Ok(Verdict::Sound)
    }
}
