//! Writes the fuzzers' first corpus from the vectors: `seed_corpus FOLDER` fills `FOLDER/<target>/`.

use std::fs;
use std::path::Path;

use serde_json::Value;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("usage: seed_corpus FOLDER")?;
    let folder = Path::new(&folder);
    let testdata = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    for name in ["basic", "dsl", "large", "legacy", "malformed"] {
        let file: Value = serde_json::from_slice(&fs::read(testdata.join(name).with_extension("json"))?)?;
        for (target, field) in [("public_key", "public_key"), ("system_secret_key", "system_secret_key")] {
            save(folder, target, name, hex(&file[field]))?;
        }
        for key in entries(&file["attribute_keys"]) {
            save(folder, "attribute_key", &format!("{name}-{}", key["id"]), hex(&key["attribute_key"]))?;
        }
        for case in entries(&file["cases"]).iter().chain(entries(&file["malformed"])) {
            save(folder, "ciphertext", &format!("{name}-{}", case["id"]), hex(&case["ciphertext"]))?;
            save(folder, "policy", &format!("{name}-{}", case["id"]), text(&case["policy"]))?;
        }
        for list in ["valid", "accepted_by_circl_with_trailing_tokens_ignored", "invalid"] {
            for (n, case) in entries(&file[list]).iter().enumerate() {
                save(folder, "policy", &format!("{name}-{list}-{n}"), text(&case["input"]))?;
            }
        }
    }
    // Format byte, encapsulated key, tag; with and without a secret between them.
    for (name, length) in [("shortest", 49), ("longer", 300)] {
        let mut wrapped = vec![9; length];
        wrapped[0] = 1;
        save(folder, "wrapped_key", name, Some(wrapped))?;
    }
    save(folder, "sealed_file", "both-kinds", Some(sealed_file()))?;
    Ok(())
}

/// A sound structure with a passphrase and an operator's key for recipients; nothing opens it.
fn sealed_file() -> Vec<u8> {
    let passphrase = [&[1][..], &(64_u32 * 1024).to_le_bytes(), &3_u32.to_le_bytes(), &[9; 104]].concat();
    let operator = [&[2][..], &[9; 112]].concat();
    let mut file = b"CINNASEL\x01\x07\0purpose\x04\0fuzz\x02".to_vec();
    for stanza in [passphrase, operator] {
        file.extend_from_slice(&u16::try_from(stanza.len()).expect("stanzas are short").to_le_bytes());
        file.extend_from_slice(&stanza);
    }
    file.extend_from_slice(&[9; 24]);
    file.extend_from_slice(&20_u32.to_le_bytes());
    file.extend_from_slice(&[9; 20]);
    file
}

fn entries(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn hex(value: &Value) -> Option<Vec<u8>> {
    hex::decode(value.as_str()?).ok()
}

fn text(value: &Value) -> Option<Vec<u8>> {
    Some(value.as_str()?.as_bytes().to_vec())
}

fn save(folder: &Path, target: &str, name: &str, bytes: Option<Vec<u8>>) -> std::io::Result<()> {
    let Some(bytes) = bytes else { return Ok(()) };
    let folder = folder.join(target);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join(name.replace('"', "")), bytes)
}
