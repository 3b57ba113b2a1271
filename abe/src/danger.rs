//! What the shipped commands never do: wildcards, the old framing, and the algebra without the access check.
//!
//! For tests, attacks and interoperability vectors. Nothing here weakens a key or a ciphertext that exists; but an
//! authority that issued a wildcard would hand out every value of a label at once, and a writer of the old framing
//! would make ciphertexts that newer readers may drop.

pub mod units;

use std::collections::BTreeMap;

use rand_core::CryptoRng;

use crate::attributes::{Attributes, Value};
use crate::ciphertext::{Ciphertext, Framing};
use crate::curve::Scalar;
use crate::error::Error;
use crate::hash::{hash_value, random_scalar};
use crate::policy::Policy;
use crate::policy::formula::GateClass;
use crate::secret::SecretBytes;
use crate::tkn20::boneh_katz::open;
use crate::tkn20::decapsulate::{PointChecks, decapsulate, term};
use crate::tkn20::keys::{AttributeKey, PublicKey, SystemSecretKey};

/// Attributes without any check: labels and values are arbitrary bytes, `wild` labels get every value, later pairs
/// overwrite earlier ones.
pub fn attributes<'a>(
    pairs: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    wild: impl IntoIterator<Item = &'a [u8]>,
) -> Attributes {
    let mut values = BTreeMap::new();
    for (label, value) in pairs {
        values.insert(label.to_vec(), Value::Is(hash_value(value)));
    }
    for label in wild {
        values.insert(label.to_vec(), Value::Wild);
    }
    Attributes::from_values(values)
}

/// Issues a key for whatever `attributes` says, wildcards included.
///
/// # Errors
/// [`Error::TooLong`] past the format's bound; [`Error::BrokenRng`].
pub fn keygen(
    secret: &SystemSecretKey,
    rng: &mut impl CryptoRng,
    attributes: &Attributes,
) -> Result<AttributeKey, Error> {
    secret.keygen_any(rng, attributes)
}

/// Encrypts without any limit but the format's, in the framing asked for.
///
/// # Errors
/// [`Error::TooLong`] past the framing's lengths; [`Error::BrokenRng`].
pub fn encrypt(
    public: &PublicKey,
    rng: &mut impl CryptoRng,
    policy: &Policy,
    plaintext: &[u8],
    framing: Framing,
) -> Result<Vec<u8>, Error> {
    public.encrypt_bytes(rng, policy, plaintext, framing)
}

/// Opens with exactly these wires of the policy and no access check; the number of conditions stands for the
/// transform's own wire. Wires whose label the key lacks are left out.
///
/// # Errors
/// [`Error::Malformed`] or [`Error::Rejected`].
pub fn open_with_wires(key: &AttributeKey, ciphertext: &Ciphertext, wires: &[usize]) -> Result<SecretBytes, Error> {
    check_wires(ciphertext, wires.iter().copied())?;
    key.open_with_wires(ciphertext, wires, PointChecks::Sums)
}

/// Opens with parts of several keys and no access check: k1 and k2 from `base`, and each wire's part from the key
/// beside it. Wires are numbered as in [`open_with_wires`].
///
/// # Errors
/// [`Error::Malformed`] or [`Error::Rejected`].
pub fn open_mixed(
    base: &AttributeKey,
    ciphertext: &Ciphertext,
    wires: &[(usize, &AttributeKey)],
) -> Result<SecretBytes, Error> {
    check_wires(ciphertext, wires.iter().map(|(wire, _)| *wire))?;
    let id = Scalar::from_be_bytes_reduced(ciphertext.id());
    let terms: Vec<_> = wires.iter().filter_map(|(wire, key)| term(key, ciphertext, *wire, id)).collect();
    open(ciphertext, &*decapsulate(base, ciphertext, &terms, PointChecks::Sums)?)
}

fn check_wires(ciphertext: &Ciphertext, mut wires: impl Iterator<Item = usize>) -> Result<(), Error> {
    if wires.any(|wire| wire > ciphertext.policy().conditions()) {
        return Err(Error::Malformed { what: "wire number", at: 0, problem: "the policy has fewer conditions" });
    }
    Ok(())
}

/// What one AND gate made of its parent's share; each share is two big-endian scalars.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AndShares {
    /// The share at the gate's output.
    pub parent: [[u8; 32]; 2],
    /// The share of its first input.
    pub first: [[u8; 32]; 2],
    /// The share of its second input.
    pub second: [[u8; 32]; 2],
}

/// Shares a random secret over the policy's augmented circuit and returns what every AND gate did.
///
/// # Errors
/// [`Error::BrokenRng`].
pub fn and_shares(policy: &Policy, rng: &mut impl CryptoRng) -> Result<Vec<AndShares>, Error> {
    let formula = policy.formula.augmented();
    let secret = [random_scalar(rng)?, random_scalar(rng)?];
    let shares =
        formula.share_all(&secret, || Ok(zeroize::Zeroizing::new([random_scalar(rng)?, random_scalar(rng)?])))?;
    let of = |wire: u16| shares[usize::from(wire)].map(Scalar::to_be_bytes);
    let ands = formula.gates().iter().filter(|gate| gate.class == GateClass::And);
    Ok(ands.map(|gate| AndShares { parent: of(gate.out), first: of(gate.in0), second: of(gate.in1) }).collect())
}

/// A policy's circuit as numbers, for comparison with vectors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Circuit {
    /// Label, value, big-endian scalar, polarity of every wire.
    pub wires: Vec<(String, String, [u8; 32], bool)>,
    /// Class (0 and, 1 or), first input, second input, output of every gate.
    pub gates: Vec<[u16; 4]>,
    /// The policy as it stands in a ciphertext's header.
    pub encoded: Vec<u8>,
}

/// The circuit of `policy`.
///
/// # Errors
/// [`Error::TooLong`] when the policy does not fit its encoding.
pub fn circuit(policy: &Policy) -> Result<Circuit, Error> {
    let wire =
        |wire: &crate::policy::Wire| (wire.label.clone(), wire.value.clone(), wire.scalar.to_be_bytes(), wire.positive);
    let gates = policy.formula.gates().iter();
    Ok(Circuit {
        wires: policy.wires.iter().map(wire).collect(),
        gates: gates.map(|gate| [gate.class as u16, gate.in0, gate.in1, gate.out]).collect(),
        encoded: policy.encode()?,
    })
}

/// The scheme's building blocks as bytes, for vectors. Scalars are 32 bytes big-endian, GT elements 576 bytes.
pub mod primitives {
    use rand_core::CryptoRng;

    use crate::curve::{G1, G2, Gt, Scalar, final_exponentiation, miller_loop};
    use crate::envelope;
    use crate::error::Error;
    use crate::hash;
    use crate::secret::SecretBytes;

    /// `H(value)`.
    pub fn hash_value(value: &[u8]) -> [u8; 32] {
        hash::hash_value(value).to_be_bytes()
    }

    /// U0 and U1 of a label, uncompressed, row by row.
    pub fn label_oracle(label: &[u8]) -> [[[u8; 96]; 6]; 2] {
        hash::label_oracle(label).map(|matrix| {
            let mut points = matrix.as_flattened().iter().map(|point| point.to_bytes());
            std::array::from_fn(|_| points.next().expect("a 3x2 matrix has six entries"))
        })
    }

    /// V0 and V1 of a label under a PRF key, row by row.
    pub fn label_prf(key: &[u8; 16], label: &[u8]) -> [[[u8; 32]; 6]; 2] {
        hash::label_prf(key, label).map(|matrix| {
            let mut scalars = matrix.as_flattened().iter().map(|scalar| scalar.to_be_bytes());
            std::array::from_fn(|_| scalars.next().expect("a 3x2 matrix has six entries"))
        })
    }

    /// The first `n` bytes of the stream cipher's key stream.
    pub fn stream(key: &[u8; 32], n: usize) -> Vec<u8> {
        let mut out = vec![0; n];
        hash::stream_cipher(key, &mut out);
        out
    }

    /// `MAC(key, data)`.
    pub fn mac(key: &[u8; 32], data: &[u8]) -> [u8; 32] {
        *hash::mac(key, data)
    }

    /// The id, the id as a scalar, and the tag key of a seed.
    pub fn expand_seed(seed: &[u8; 72]) -> ([u8; 32], [u8; 32], [u8; 32]) {
        let expanded = hash::expand_seed(seed);
        (*expanded.id, Scalar::from_be_bytes_reduced(&*expanded.id).to_be_bytes(), *expanded.mac_key)
    }

    /// A scalar drawn from a generator.
    ///
    /// # Errors
    /// [`Error::BrokenRng`].
    pub fn random_scalar(rng: &mut impl CryptoRng) -> Result<[u8; 32], Error> {
        Ok(hash::random_scalar(rng)?.to_be_bytes())
    }

    /// HPKE base mode with any `info` and associated data: encapsulated key, ciphertext with tag.
    ///
    /// # Errors
    /// [`Error::Rejected`] for a public key with which the shared secret is zero.
    pub fn hpke_seal(
        rng: &mut impl CryptoRng,
        public: &[u8; 32],
        info: &[u8],
        aad: &[u8],
        plaintext: &[u8],
    ) -> Result<([u8; 32], Vec<u8>), Error> {
        envelope::hpke_seal(rng, public, info, aad, plaintext)
    }

    /// Opens what [`hpke_seal`] made.
    ///
    /// # Errors
    /// [`Error::Rejected`] for every failure.
    pub fn hpke_open(
        secret: &[u8; 32],
        encapsulated: &[u8; 32],
        info: &[u8],
        aad: &[u8],
        sealed: &[u8],
    ) -> Result<SecretBytes, Error> {
        envelope::hpke_open(secret, encapsulated, info, aad, sealed)
    }

    /// `e(g1, g2) ^ exponent`.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the exponent is not below the group order.
    pub fn gt_exp(exponent: &[u8; 32]) -> Result<[u8; 576], Error> {
        let problem = "the number is not below the group order";
        let exponent = Scalar::from_be_bytes(exponent).ok_or(Error::Malformed { what: "exponent", at: 0, problem })?;
        let base = final_exponentiation(&miller_loop(&[(G1::generator().to_affine(), G2::generator().to_affine())]));
        Ok(Gt::multi_exp(&[(&base, &exponent)]).to_bytes())
    }
}
