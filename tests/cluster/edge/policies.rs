//! Every policy at every data centre: preview, issued attributes and real decryption agree.

use std::collections::BTreeSet;
use std::fs;

use cinnabar_abe::{Attributes, Policy};
use cinnabar_authority_api::records::Machine;
use serde_json::json;

use super::rig::{EdgeRig, READY_MAX, ZONE, names};
use crate::harness::cluster::CLUSTER;
use crate::harness::deadline::eventually;

/// Policies, and how many of the six data centres are to hold a secret under each.
const POLICIES: [(&str, usize); 11] = [
    ("country: US or region: EU", 5),
    ("not (country: RU or country: US)", 5),
    ("country: US and security: high", 1),
    ("organization: executive or (organization: weapons and clearance: top_secret)", 2),
    ("dc: fra", 1),
    ("region: EU and (not country: FR)", 3),
    ("not dc: ams", 5),
    ("region: WEUR and not tier: highest", 3),
    ("(country: JP or country: DE) and not organization: executive", 2),
    ("region: APAC or (region: EU and organization: weapons)", 2),
    ("", 6),
];

/// What the older field's labels stand for, and how many hold a key under each.
const PRESETS: [(&str, &str, usize); 3] =
    [("us", "country: US", 1), ("eu", "region: EU", 4), ("highest_security", "tier: highest", 1)];

/// Fewer holders must be acknowledged.
const HOLDERS_ADVISED: usize = 3;

/// What was issued to every machine, by its signed record.
fn issued(rig: &EdgeRig) -> Vec<(String, Attributes)> {
    let read = |edge: &super::rig::Edge| {
        let key = format!("machine/{}-1", edge.id);
        let record = rig.rig.record(&key).unwrap();
        let record = edge.verifier().read::<Machine>(key.as_bytes(), &record).unwrap().into_content().unwrap();
        (edge.id.to_owned(), record.issued[0].attributes().unwrap())
    };
    rig.edges.iter().map(read).collect()
}

/// Data centres that the preview names, which must be those whose issued attributes satisfy.
fn previewed(rig: &EdgeRig, issued: &[(String, Attributes)], policy: &str) -> BTreeSet<String> {
    let all = format!("cluster: {CLUSTER}");
    let (preview, compiled) = match policy {
        "" => (issued.iter().map(|(id, _)| id.clone()).collect(), all),
        _ => {
            let checked = rig.customer(&["policy", "check", policy]).unwrap();
            (names(&checked["holders"]["data_centers"]), checked["compiled"].as_str().unwrap().to_owned())
        }
    };
    let compiled = Policy::parse(&compiled).unwrap();
    let satisfied = issued.iter().filter(|(_, attributes)| compiled.is_satisfied_by(attributes));
    let satisfied: BTreeSet<String> = satisfied.map(|(id, _)| id.clone()).collect();
    assert_eq!(preview, satisfied, "{policy}: preview, and who satisfies by what was issued");
    preview
}

/// See the module.
pub fn agree(rig: &EdgeRig) {
    let issued = issued(rig);
    let file = rig.rig.folder.join("secret");
    for (n, (policy, holders)) in POLICIES.into_iter().enumerate() {
        let preview = previewed(rig, &issued, policy);
        assert_eq!(preview.len(), holders, "{policy}: {preview:?}");
        fs::write(&file, format!("secret under {policy}")).unwrap();
        let name = format!("secret-{n}");
        let put = ["secret", "put", ZONE, &name, "--file", file.to_str().unwrap(), "--acknowledge", "few-holders"];
        let with = if policy.is_empty() { vec![] } else { vec!["--policy", policy] };
        let stored = rig.customer(&[&put[..], &with].concat()).unwrap();
        assert_eq!(names(&stored["holders"]["data_centers"]), preview, "{policy}");
        for edge in &rig.edges {
            let holds = preview.contains(edge.id);
            let what = format!("{}: {policy}: {holds}", edge.id);
            eventually(READY_MAX, &what, || match edge.ask(&["secret", "get", ZONE, &name]) {
                Ok(secret) => {
                    assert!(holds, "{what}: it opened");
                    assert_eq!(secret, format!("secret under {policy}"));
                    Some(())
                }
                Err(refused) => (!holds && refused.code == Some(4)).then_some(()),
            });
        }
    }
    presets(rig, &issued);
}

/// The facade's labels: whoever holds the key signs itself, anybody else has it signed elsewhere.
fn presets(rig: &EdgeRig, issued: &[(String, Attributes)]) {
    let token = fs::read_to_string(&rig.token).unwrap();
    for (label, policy, holders) in PRESETS {
        let preview = previewed(rig, issued, policy);
        assert_eq!(preview.len(), holders, "{policy}: {preview:?}");
        let host = format!("{}.shop.example", label.replace('_', "-"));
        let (certificate, key) = rig.certificate(label, &[&host], false);
        let body = json!({
            "certificate": fs::read_to_string(&certificate).unwrap(),
            "private_key": fs::read_to_string(&key).unwrap(),
            "geo_restrictions": { "label": label }, "type": "sni_custom",
        });
        match rig.rig.facade(&format!("zones/{ZONE}/custom_certificates"), &token, &body) {
            Ok(answer) => assert!(holders >= HOLDERS_ADVISED && answer["result"]["geo_restrictions"]["label"] == label),
            // The facade has no field to acknowledge with.
            Err(refused) => {
                assert!(holders < HOLDERS_ADVISED && refused.told.contains("422"), "{label}: {refused:?}");
                let add = ["cert", "add", ZONE, "--certificate", &certificate, "--key-file", &key, "--policy", policy];
                rig.customer(&[&add[..], &["--acknowledge", "few-holders"]].concat()).unwrap();
            }
        }
        rig.await_served(&host);
        for edge in &rig.edges {
            let visit = rig.visitor().visit(&host, edge.visitors).unwrap();
            let here = visit.signed_by == format!("{}/{}-1", edge.id, edge.id);
            assert_eq!(here, preview.contains(edge.id), "{label} at {}: signed by {}", edge.id, visit.signed_by);
            assert!(preview.contains(visit.center()), "{label} at {}: signed by {}", edge.id, visit.signed_by);
        }
    }
}
