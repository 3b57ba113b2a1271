//! The audit: was a ciphertext made by an encryptor with the AND-share defect?
//!
//! Before v1.6.4 the reference gave one input of an AND gate the whole share and the other nothing. Since every policy is
//! and-ed with the Boneh-Katz wire, which every key holds wild, that one wire opens every such ciphertext whose policy
//! has a gate: for *any* key of the authority. Formats did not change, so only trying tells. A policy of one condition is
//! and-ed the other way round: there the condition alone carries everything, which a satisfying key can find out; access
//! control holds then, but the id is not bound.

use crate::ciphertext::Ciphertext;
use crate::error::Error;
use crate::tkn20::decapsulate::PointChecks;
use crate::tkn20::keys::AttributeKey;

/// What an audit found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Made by a defective encryptor: consider it readable by every key of its authority, and encrypt it anew.
    Defective,
    /// Not made by a defective encryptor. When the key does not satisfy the policy this rests on the caller's word that
    /// key and ciphertext are of one authority; when it does, the ciphertext was opened and it is certain.
    Sound,
    /// This key cannot find out: the policy has one condition that the key does not satisfy, or key and ciphertext are
    /// not of one authority, or the ciphertext is damaged.
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
        let opens = |result: Result<_, Error>| match result {
            Ok(_) => Ok(true),
            Err(Error::Rejected | Error::NotSatisfied) => Ok(false),
            Err(error) => Err(error),
        };
        let conditions = ciphertext.policy().conditions();
        let satisfies = self.could_decrypt(ciphertext);
        if conditions == 1 && !satisfies {
            return Ok(Verdict::CannotTell);
        }
        // The wire that a defective encryptor gives everything to.
        let heir = if conditions == 1 { 0 } else { conditions };
        if opens(self.open_with_wires(ciphertext, &[heir], PointChecks::Sums))? {
            return Ok(Verdict::Defective);
        }
        if satisfies && !opens(self.decrypt(ciphertext))? {
            return Ok(Verdict::CannotTell);
        }
        Ok(Verdict::Sound)
    }
}
