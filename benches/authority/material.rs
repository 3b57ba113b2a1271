//! What is measured with: an inventory of the size of a network, policies, and certificates that wait to be uploaded.

use std::fmt::Write as _;

use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use serde_json::json;

use crate::Fallible;
use crate::load::scatter;

/// Data centres of the inventory.
pub const DATA_CENTERS: usize = 300;
/// Domain of the zone that is measured with.
pub const DOMAIN: &str = "measured.example";
/// RSA keys; making one takes a tenth of a second, so certificates share them.
const KEYS: usize = 32;

/// Countries of the data centres, each with a region and the middle of its data centres' places.
const COUNTRIES: [(&str, &str, f64, f64); 24] = [
    ("US", "ENAM", 39.0, -77.5),
    ("US", "WNAM", 37.4, -122.0),
    ("CA", "ENAM", 43.7, -79.4),
    ("DE", "WEUR", 50.1, 8.7),
    ("FR", "WEUR", 48.9, 2.4),
    ("NL", "WEUR", 52.4, 4.9),
    ("GB", "WEUR", 51.5, -0.1),
    ("ES", "WEUR", 40.4, -3.7),
    ("IT", "WEUR", 45.5, 9.2),
    ("PL", "EEUR", 52.2, 21.0),
    ("RO", "EEUR", 44.4, 26.1),
    ("SE", "WEUR", 59.3, 18.1),
    ("TR", "ME", 41.0, 29.0),
    ("AE", "ME", 25.2, 55.3),
    ("IN", "APAC", 19.1, 72.9),
    ("SG", "APAC", 1.3, 103.8),
    ("JP", "APAC", 35.7, 139.7),
    ("KR", "APAC", 37.6, 127.0),
    ("AU", "OC", -33.9, 151.2),
    ("NZ", "OC", -36.8, 174.8),
    ("BR", "SAM", -23.5, -46.6),
    ("CL", "SAM", -33.4, -70.7),
    ("ZA", "AFR", -26.2, 28.0),
    ("KE", "AFR", -1.3, 36.8),
];

/// The inventory: as many machines, spread evenly over [`DATA_CENTERS`] data centres.
pub fn inventory(machines: usize) -> Fallible<String> {
    let mut text = String::new();
    for n in 0..DATA_CENTERS {
        let (country, region, latitude, longitude) = COUNTRIES[n % COUNTRIES.len()];
        let apart = (n / COUNTRIES.len()) as f64 / 4.0;
        let tier = if n % 5 == 0 { "highest" } else { "standard" };
        writeln!(text, "[[data_center]]\nid = \"dc{n}\"\ncountry = \"{country}\"")?;
        writeln!(text, "place = {{ latitude = {:.1}, longitude = {:.1} }}", latitude + apart, longitude + apart)?;
        writeln!(text, "attributes = {{ region = [\"{region}\"], tier = \"{tier}\" }}")?;
    }
    for n in 0..machines {
        writeln!(text, "[[machine]]\nid = \"m{n}\"\ndata_center = \"dc{}\"", n % DATA_CENTERS)?;
    }
    Ok(text)
}

/// Policies that have their key before anything is measured: the customer's of the first upload.
pub const KNOWN: [&str; 4] = ["", "region: EU", "(country: US) or (region: EU)", "region: EU and (not country: FR)"];

/// A policy that differs from all of another number, with four to eight conditions; data centres in the US hold it.
pub fn policy(n: usize) -> String {
    // Which countries are named, as bits: each set of them is a policy of its own.
    let chosen = 1 + scatter(n as u64) % ((1 << 5) - 1);
    let others = ["DE", "FR", "JP", "BR", "AU"].iter().enumerate().filter(|(bit, _)| chosen >> bit & 1 == 1);
    let others: String = others.map(|(_, country)| format!(" or country: {country}")).collect();
    // Two negated data centres tell the numbers apart: 300 x 299 of them.
    let (first, second) = (n % DATA_CENTERS, (n / DATA_CENTERS + n + 1) % DATA_CENTERS);
    format!("(country: US{others}) and not dc: dc{first} and not dc: dc{second}")
}

/// Bodies of uploads: each a leaf with an RSA-2048 key of a name of its own, its intermediate, and its key. The policy is
/// to be put in.
pub struct Body {
    certificate: String,
    private_key: String,
}

impl Body {
    /// The request under a policy.
    pub fn under(&self, policy: &str) -> Bytes {
        let body = json!({ "certificate": self.certificate, "private_key": self.private_key, "policy": policy });
        body.to_string().into()
    }
}

/// Makes bodies, half of them on each of two threads.
pub fn uploads(count: usize) -> Fallible<Vec<Body>> {
    let rsa = || KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048);
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "measured");
    let issuer = CertifiedIssuer::self_signed(params, rsa()?)?;
    let keys = (0..KEYS).map(|_| rsa()).collect::<Result<Vec<_>, _>>()?;
    let one = |n: usize| -> Fallible<Body> {
        let key = &keys[n % KEYS];
        let leaf = CertificateParams::new(vec![format!("w{n}.{DOMAIN}")])?.signed_by(key, &issuer)?;
        Ok(Body { certificate: leaf.pem() + &issuer.pem(), private_key: key.serialize_pem() })
    };
    std::thread::scope(|scope| {
        let half = |from, to| scope.spawn(move || (from..to).map(one).collect::<Fallible<Vec<Body>>>());
        let halves = [half(0, count / 2), half(count / 2, count)];
        let mut bodies = Vec::with_capacity(count);
        for half in halves {
            bodies.extend(half.join().map_err(|_| "a thread panicked")??);
        }
        Ok(bodies)
    })
}
