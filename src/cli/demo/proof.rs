//! Step 4: the excluded data centre is attacked from within.
//!
//! What it has is taken: its own attribute key and the policy's ciphertext out of its own copy of the store. The check
//! whether the key satisfies is left out, and the algebra is run with every choice of the policy's wires.

use cinnabar_abe::{AttributeKey, Ciphertext, danger};
use cinnabar_authority_api::records::PolicyCiphertext;
use cinnabar_authority_api::{PolicyKeyVersion, RecordKey, Verifier};
use cinnabar_daemon::Env;
use cinnabar_edge::identity::{KeyFile, Pins, Sealing};

use super::customer::{self, POLICY};
use super::world::{World, run};
use super::{mark, say};
use crate::cli::error::CliError;

/// The data centre that the policy excludes, and one that it does not: what fails there must work here.
const ATTACKED: &str = "cdg";
const CONTROL: &str = "fra";
/// Most conditions of which every choice is tried.
const CONDITIONS_MAX: usize = 12;

fn failed(problem: impl std::fmt::Display) -> CliError {
    CliError::Failed(problem.to_string())
}

/// What an intruder finds on a machine: its key, and the ciphertext.
fn loot(world: &World, id: &str, policy: &str) -> Result<(AttributeKey, Ciphertext), CliError> {
    let data = world.path(&format!("{id}/data"));
    let pins = Pins::load(&data.join("trust.toml")).map_err(failed)?;
    let verifier = Verifier::new(pins.cluster.clone(), pins.record_key().map_err(failed)?);
    let keys = KeyFile::new(&data, Sealing::Plain, Env::system().rng).load(&pins.cluster).map_err(failed)?;
    let (generation, key) = keys.into_iter().next_back().ok_or_else(|| failed("no attribute key"))?;
    let policy = RecordKey::parse(format!("policy/{policy}/{:010}", PolicyKeyVersion::FIRST.get()).as_bytes());
    let RecordKey::Policy(policy, version) = policy.map_err(failed)? else {
        return Err(failed("the answer has no policy's id"));
    };
    let name = RecordKey::PolicyCiphertext(policy, version, generation).to_string();
    let socket = world.path(&format!("{id}/kv.sock")).display().to_string();
    let got = run(&mut world.command(&["kv", "get", &name, "--socket", &socket, "-o", "json"]))?;
    let got: serde_json::Value = serde_json::from_str(&got).map_err(failed)?;
    let bytes = hex::decode(got["value_hex"].as_str().unwrap_or_default()).map_err(failed)?;
    let record = verifier.read::<PolicyCiphertext>(name.as_bytes(), &bytes).map_err(failed)?;
    let record = record.into_content().ok_or_else(|| failed("the ciphertext was ended"))?;
    Ok((key, Ciphertext::from_bytes(&record.ciphertext).map_err(failed)?))
}

/// Runs the algebra with every choice of wires, the transform's own among them; says how many open, of how many.
fn attack(key: &AttributeKey, ciphertext: &Ciphertext) -> Result<(u32, u32), CliError> {
    let wires = ciphertext.policy().conditions();
    if wires > CONDITIONS_MAX {
        return Err(failed("the policy has too many conditions to try every choice"));
    }
    let (mut opened, mut tried) = (0, 0);
    for choice in 0_u32..1 << (wires + 1) {
        let chosen: Vec<usize> = (0..=wires).filter(|wire| choice >> wire & 1 == 1).collect();
        tried += 1;
        opened += u32::from(danger::open_with_wires(key, ciphertext, &chosen).is_ok());
    }
    Ok((opened, tried))
}

/// Attacks.
pub fn cannot_open(world: &World) -> Result<(), CliError> {
    say(format!("4  Could {ATTACKED} open the key in spite of the policy?"))?;
    let checked = customer::customer(world, &["policy", "check", POLICY])?;
    let policy = checked["policy_id"].as_str().ok_or_else(|| failed("the check names no policy id"))?;
    let (key, ciphertext) = loot(world, ATTACKED, policy)?;
    if ciphertext.could_be_decrypted_with(key.attributes()) {
        return Err(failed(format!("{ATTACKED} satisfies the policy")));
    }
    let (opened, tried) = attack(&key, &ciphertext)?;
    say(format!(
        "   {} with its own attribute key, the ciphertext from its own store, and no check before: {opened} of {tried} ways open it",
        mark(opened == 0)
    ))?;
    let (control, _) = attack(&loot(world, CONTROL, policy)?.0, &ciphertext)?;
    say(format!(
        "   {} the same attack with the key of {CONTROL}, which satisfies: {control} of {tried} ways open it\n",
        mark(control > 0)
    ))?;
    if opened == 0 && control > 0 { Ok(()) } else { Err(failed("the attack did not end as it must")) }
}
