//! Every way an upload is refused, and the ones in which it is taken.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use base64ct::{Base64, Encoding};
use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_ED25519, SanType,
};
use time::OffsetDateTime;

use super::*;
use crate::limits::{CHAIN_CERTIFICATES_MAX, HOSTNAMES_MAX, PEM_BYTES_MAX};
use crate::problem::Code;

/// 2027-01-15T08:00:00Z.
const NOW_S: u64 = 1_800_000_000;
const DAY_S: u64 = 24 * 3600;

macro_rules! fixture {
    ($name:literal) => {
        include_str!(concat!("../../testdata/", $name))
    };
}

// === Making certificates ===

fn at(second: u64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(i64::try_from(second).unwrap()).unwrap()
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    (params.not_before, params.not_after) = (at(NOW_S - DAY_S), at(NOW_S + 90 * DAY_S));
    params
}

fn leaf_params(names: &[&str]) -> CertificateParams {
    let mut params = params("leaf");
    params.subject_alt_names =
        names.iter().map(|name| SanType::DnsName((*name).to_owned().try_into().unwrap())).collect();
    params
}

fn new_key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()
}

/// An authority, and its own certificate.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn from(mut params: CertificateParams, key: KeyPair, by: Option<&Authority>) -> Self {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = match by {
            Some(by) => params.signed_by(&key, &by.issuer).unwrap(),
            None => params.self_signed(&key).unwrap(),
        };
        Self { issuer: Issuer::new(params, key), pem: certificate.pem() }
    }

    fn new(name: &str, by: Option<&Authority>) -> Self {
        Self::from(params(name), new_key(), by)
    }

    fn issue(&self, params: &CertificateParams, key: &KeyPair) -> String {
        params.signed_by(key, &self.issuer).unwrap().pem()
    }
}

/// Root, intermediate, leaf and the leaf's key.
struct World {
    root: Authority,
    middle: Authority,
    leaf: String,
    key: String,
}

fn world() -> World {
    let root = Authority::new("root", None);
    let middle = Authority::new("middle", Some(&root));
    let key = new_key();
    let leaf = middle.issue(&leaf_params(&["www.example.com"]), &key);
    World { root, middle, leaf, key: key.serialize_pem() }
}

/// A leaf that signed itself, changed by `change`, and its key.
fn alone(change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
    let mut params = leaf_params(&["www.example.com"]);
    change(&mut params);
    let key = new_key();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

// === Asking ===

#[track_caller]
fn refused(certificate: &str, key: &str, code: Code) -> CertificateError {
    let error = check(certificate, Some(key), NOW_S).map(|_| "taken").unwrap_err();
    assert_eq!(error.code(), code, "{error}");
    let problem = error.problem();
    assert_eq!(problem.code(), code);
    assert_eq!(problem.pointer(), Some(format!("/{}", error.field().as_str()).as_str()));
    error
}

#[track_caller]
fn order_fault(certificate: &str, key: &str) -> OrderFault {
    match refused(certificate, key, Code::ChainOrder) {
        CertificateError::Order(fault) => fault,
        other => panic!("{other}"),
    }
}

#[track_caller]
fn taken(certificate: &str, key: &str) -> Checked {
    check(certificate, Some(key), NOW_S).unwrap_or_else(|error| panic!("{error}"))
}

// === What is taken ===

#[test]
fn a_chain_with_its_key_is_taken_and_says_what_it_is() {
    let world = world();
    let text = format!("# comment\n{}{}\n{}", world.leaf, world.middle.pem, world.root.pem);
    let checked = taken(&text, &world.key);
    assert_eq!(checked.chain.len(), 3);
    let names: Vec<&str> = checked.hostnames.iter().map(Hostname::as_str).collect();
    assert_eq!(names, ["www.example.com"]);
    assert_eq!(checked.key_type, KeyType::P256);
    assert_eq!((checked.not_before_s, checked.not_after_s), (NOW_S - DAY_S, NOW_S + 90 * DAY_S));
    assert_eq!((checked.issuer.as_str(), checked.signature_algorithm), ("middle", "ECDSAWithSHA256"));
    assert!(
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, checked.private_key_pkcs8.as_ref().unwrap().expose())
            .is_ok()
    );
    let spki = KeyPair::from_pem(&world.key).unwrap();
    let digest =
        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &rcgen::PublicKeyData::subject_public_key_info(&spki));
    assert_eq!(checked.spki_sha256, digest.as_ref());
    assert!(!format!("{checked:?}").contains("PRIVATE"));
}

#[test]
fn a_chain_may_end_anywhere_after_the_leaf() {
    let world = world();
    taken(&world.leaf, &world.key);
    taken(&format!("{}{}", world.leaf, world.middle.pem), &world.key);
    let key = new_key();
    let leaf = world.root.issue(&leaf_params(&["a.example"]), &key);
    taken(&format!("{leaf}{}", world.root.pem), &key.serialize_pem());
    let (own, key) = alone(|_| ());
    taken(&own, &key);
}

#[test]
fn every_format_of_one_key_gives_the_same_stored_key() {
    let rsa = [fixture!("rsa2048.key"), fixture!("rsa2048-pkcs8.key")].map(|key| taken(fixture!("rsa2048.pem"), key));
    assert_eq!(rsa[0].private_key_pkcs8, rsa[1].private_key_pkcs8);
    assert_eq!((rsa[0].key_type, rsa[0].signature_algorithm), (KeyType::Rsa(2048), "SHA256WithRSA"));
    // With OpenSSL's parameters before the key, without the public half, and with that as a compressed point.
    let sec1 = [fixture!("p256.key"), fixture!("p256-no-public.key"), fixture!("p256-compressed.key")]
        .map(|key| taken(fixture!("p256.pem"), key));
    assert!(fixture!("p256.key").contains("EC PARAMETERS"));
    assert!(sec1[1..].iter().all(|other| other.private_key_pkcs8 == sec1[0].private_key_pkcs8));
    assert_eq!(taken(fixture!("p384.pem"), fixture!("p384.key")).key_type, KeyType::P384);
    assert_eq!(taken(fixture!("rsa4096.pem"), fixture!("rsa4096.key")).key_type, KeyType::Rsa(4096));
    let largest = taken(fixture!("rsa8192.pem"), fixture!("rsa8192.key"));
    assert_eq!(largest.key_type, KeyType::Rsa(8192));
    assert!(largest.private_key_pkcs8.unwrap().len() < crate::limits::PRIVATE_KEY_BYTES_MAX);
}

#[test]
fn keys_of_any_kind_that_clients_verify_may_have_signed() {
    for algorithm in [&PKCS_ED25519, &PKCS_ECDSA_P521_SHA512, &PKCS_ECDSA_P384_SHA384] {
        let authority = Authority::from(params("root"), KeyPair::generate_for(algorithm).unwrap(), None);
        let key = new_key();
        let leaf = authority.issue(&leaf_params(&["www.example.com"]), &key);
        taken(&format!("{leaf}{}", authority.pem), &key.serialize_pem());
    }
    let pss = taken(fixture!("rsa2048-pss-signed.pem"), fixture!("rsa2048.key"));
    assert_eq!(pss.signature_algorithm, "RSASSA-PSS");
    taken(concat!(fixture!("v1-leaf.pem"), fixture!("v1-root.pem")), fixture!("p384.key"));
}

#[test]
fn line_endings_indentation_and_a_byte_order_mark_do_not_matter() {
    let world = world();
    let windows = world.leaf.replace('\n', "\r\n");
    let indented: String = world.leaf.lines().map(|line| format!("    {line}\n")).collect();
    for certificate in [windows, indented, format!("\u{feff}{}", world.leaf), world.leaf.trim_end().to_owned()] {
        taken(&certificate, &world.key.replace('\n', "\r\n"));
    }
}

// === Texts ===

#[test]
fn a_text_that_is_not_pem_is_refused_with_its_line() {
    let world = world();
    let (leaf, key) = (&world.leaf, &world.key);
    let halves = leaf.split_at(leaf.len() / 2);
    let lines: Vec<&str> = leaf.lines().collect();
    for (broken, line) in [
        (halves.0.to_owned(), 1),
        (halves.1.to_owned(), 1 + halves.1.lines().position(|line| line.contains("END")).unwrap()),
        (leaf.replace('\n', ""), 1),
        (leaf.replace('\n', "\\n"), 1),
        (leaf.replace("END CERTIFICATE", "END CERTIFICATES"), lines.len()),
        (format!("{}\n{leaf}", lines[0]), 2),
        (leaf.replace(lines[1], "not base64 at all!"), 1),
        (leaf.replace(lines[1], "Header: value"), 1),
        ("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n".to_owned(), 1),
        (format!("{leaf}x-----BEGIN CERTIFICATE-----"), lines.len() + 1),
    ] {
        match refused(&broken, key, Code::CertificateMalformed) {
            CertificateError::Pem { line: actual, .. } => assert_eq!(actual, line, "{broken}"),
            other => panic!("{other}"),
        }
    }
    for nothing in ["", "hello", "/etc/ssl/cert.pem"] {
        let error = refused(nothing, key, Code::CertificateMalformed);
        assert!(matches!(error, CertificateError::NoBlock { .. }));
        let error = refused(leaf, nothing, Code::KeyMalformed);
        assert!(error.hint().unwrap().contains("-----BEGIN"));
    }
    let twice = refused(&leaf.replace('\n', "\\n"), key, Code::CertificateMalformed);
    assert!(twice.hint().unwrap().contains("twice"));
}

#[test]
fn blocks_in_the_wrong_field_are_refused() {
    let world = world();
    let error = refused(&format!("{}{}", world.leaf, world.key), &world.key, Code::CertificateMalformed);
    assert!(error.hint().unwrap().contains("`private_key`"));
    let error = refused(&world.leaf, &world.leaf, Code::KeyMalformed);
    assert!(error.hint().unwrap().contains("`certificate`"));
    for (label, code) in [
        ("CERTIFICATE REQUEST", Code::CertificateMalformed),
        ("TRUSTED CERTIFICATE", Code::CertificateMalformed),
        ("PKCS7", Code::CertificateMalformed),
        ("X509 CRL", Code::CertificateMalformed),
    ] {
        refused(&world.leaf.replace("CERTIFICATE", label), &world.key, code);
    }
    refused(&world.leaf, fixture!("rsa2048.pub"), Code::KeyMalformed);
    refused(&world.leaf, fixture!("openssh.key"), Code::KeyMalformed);
    refused(&world.leaf, &format!("{0}{0}", world.key), Code::KeyMalformed);
    refused(&world.leaf, &format!("{0}{0}{0}", world.key), Code::KeyMalformed);
}

#[test]
fn what_is_too_large_is_refused_before_it_is_read() {
    let world = world();
    let filler = "x\n".repeat(PEM_BYTES_MAX / 2);
    refused(&format!("{filler}{}", world.leaf), &world.key, Code::RequestTooLarge);
    refused(&world.leaf, &format!("{filler}{}", world.key), Code::RequestTooLarge);
    let many = format!("{}{}", world.leaf, world.root.pem.repeat(CHAIN_CERTIFICATES_MAX));
    refused(&many, &world.key, Code::ChainTooLong);
    let (large, key) = alone(|params| {
        let content = vec![0; 30 * 1024];
        params.custom_extensions.push(rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], content));
    });
    refused(&large, &key, Code::ChainTooLong);
}

#[test]
fn der_that_is_no_certificate_is_refused() {
    let world = world();
    let block = |der: &[u8]| {
        let base64 = Base64::encode_string(der);
        format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n")
    };
    let der = taken(&world.leaf, &world.key).chain[0].clone();
    taken(&block(&der), &world.key);
    // The algorithm behind the signed part, which the signature does not protect, says another one than the part inside.
    let mut two = der.clone();
    let sha256 = [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
    let outer = two.windows(sha256.len()).rposition(|bytes| bytes == sha256).unwrap();
    two[outer + sha256.len() - 1] = 3;
    refused(&block(&two), &world.key, Code::CertificateMalformed);
    refused(fixture!("p256-compressed.pem"), fixture!("p256.key"), Code::CertificateMalformed);
    for broken in [&der[..der.len() - 1], &[der.as_slice(), &[0]].concat(), b"not DER", &[0x30, 0x80]] {
        refused(&block(broken), &world.key, Code::CertificateMalformed);
    }
    let error = refused(&format!("{}{}", world.leaf, block(b"x")), &world.key, Code::CertificateMalformed);
    assert!(error.to_string().contains("block 2"));
}

// === Chains ===

#[test]
fn a_chain_out_of_order_is_told_which_block_stands_where() {
    let World { root, middle, leaf, key } = world();
    let (root, middle) = (root.pem, middle.pem);
    let fault = |blocks: &[&str]| order_fault(&blocks.concat(), &key);
    assert_eq!(fault(&[&middle, &leaf]), OrderFault::Misplaced { block: 2, place: 1 });
    assert_eq!(fault(&[&root, &middle, &leaf]), OrderFault::Misplaced { block: 3, place: 1 });
    assert_eq!(fault(&[&leaf, &root, &middle]), OrderFault::Misplaced { block: 3, place: 2 });
    assert_eq!(fault(&[&leaf, &root]), OrderFault::NoIssuer { block: 1 });
    assert_eq!(fault(&[&leaf, &middle, &middle]), OrderFault::Repeated { block: 3, first: 2 });
    assert_eq!(fault(&[&leaf, &leaf]), OrderFault::Repeated { block: 2, first: 1 });
    let error = refused(&format!("{leaf}{root}{middle}"), &key, Code::ChainOrder);
    assert_eq!(error.to_string(), "`certificate` is not in order: block 3 must stand in place 2");
    let foreign = Authority::new("somebody", None).pem;
    assert_eq!(fault(&[&leaf, &middle, &foreign]), OrderFault::NoIssuer { block: 2 });
}

#[test]
fn a_chain_of_authorities_has_no_leaf() {
    let World { root, middle, key, .. } = world();
    refused(&root.pem, &key, Code::CertificateIsCa);
    refused(&format!("{}{}", middle.pem, root.pem), &key, Code::CertificateIsCa);
    let error = refused(&format!("{}{}", root.pem, fixture!("v1-root.pem")), &key, Code::CertificateIsCa);
    assert!(error.hint().is_some());
}

#[test]
fn a_certificate_that_may_not_issue_cannot_have_issued() {
    let world = world();
    let mut params = leaf_params(&["middle.example"]);
    params.distinguished_name.push(DnType::CommonName, "no authority");
    let middle_key = new_key();
    let middle = world.root.issue(&params, &middle_key);
    let key = new_key();
    let issuer = Issuer::new(params, middle_key);
    let leaf = leaf_params(&["www.example.com"]).signed_by(&key, &issuer).unwrap().pem();
    let fault = order_fault(&format!("{leaf}{middle}"), &key.serialize_pem());
    assert_eq!(fault, OrderFault::NotAuthority { block: 2 });
}

#[test]
fn names_alone_do_not_make_a_chain() {
    let world = world();
    // An authority of the same name with another key.
    let impostor = Authority::new("middle", Some(&world.root));
    let error = refused(&format!("{}{}", world.leaf, impostor.pem), &world.key, Code::ChainSignature);
    assert_eq!(error, CertificateError::Signature { block: 1 });
    let root = Authority::new("root", None);
    let text = format!("{}{}{}", world.leaf, world.middle.pem, root.pem);
    assert_eq!(refused(&text, &world.key, Code::ChainSignature), CertificateError::Signature { block: 2 });
    // With a key of another kind, so that no algorithm fits.
    let ed25519 = Authority::from(params("middle"), KeyPair::generate_for(&PKCS_ED25519).unwrap(), None);
    refused(&format!("{}{}", world.leaf, ed25519.pem), &world.key, Code::ChainSignature);
}

#[test]
fn signatures_that_clients_refuse_are_refused() {
    for (certificate, key, algorithm) in [
        (fixture!("rsa2048-sha1.pem"), fixture!("rsa2048.key"), "SHA1WithRSA"),
        (fixture!("rsa2048-md5.pem"), fixture!("rsa2048.key"), "MD5WithRSA"),
        (fixture!("rsa2048-sha224.pem"), fixture!("rsa2048.key"), "1.2.840.113549.1.1.14"),
        (fixture!("p256-sha1.pem"), fixture!("p256.key"), "ECDSAWithSHA1"),
    ] {
        let error = refused(certificate, key, Code::UnsupportedSignature);
        assert!(error.to_string().contains(algorithm), "{error}");
    }
}

#[test]
fn every_certificate_of_the_chain_is_valid_now() {
    let valid = |from: u64, to: u64| alone(|params| (params.not_before, params.not_after) = (at(from), at(to)));
    let (expired, key) = valid(NOW_S - 2 * DAY_S, NOW_S - 1);
    assert_eq!(
        refused(&expired, &key, Code::CertificateExpired),
        CertificateError::Expired { block: 1, not_after_s: NOW_S - 1 }
    );
    let (last_second, key) = valid(NOW_S - 2 * DAY_S, NOW_S);
    taken(&last_second, &key);
    let (soon, key) = valid(NOW_S + 300, NOW_S + DAY_S);
    taken(&soon, &key);
    let (later, key) = valid(NOW_S + 301, NOW_S + DAY_S);
    assert_eq!(
        refused(&later, &key, Code::CertificateNotYetValid),
        CertificateError::NotYetValid { block: 1, not_before_s: NOW_S + 301 }
    );
    let mut old = params("old");
    old.not_after = at(NOW_S - 1);
    let old = Authority::from(old, new_key(), None);
    let key = new_key();
    let leaf = old.issue(&leaf_params(&["www.example.com"]), &key);
    let error = refused(&format!("{leaf}{}", old.pem), &key.serialize_pem(), Code::CertificateExpired);
    assert_eq!(error, CertificateError::Expired { block: 2, not_after_s: NOW_S - 1 });
}

// === Leaves ===

#[test]
fn a_leaf_is_for_a_tls_server() {
    let extended =
        |purposes: &[ExtendedKeyUsagePurpose]| alone(|params| params.extended_key_usages = purposes.to_vec());
    let usage = |usages: &[KeyUsagePurpose]| alone(|params| params.key_usages = usages.to_vec());
    for (certificate, key) in [
        extended(&[ExtendedKeyUsagePurpose::ServerAuth]),
        extended(&[ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth]),
        extended(&[ExtendedKeyUsagePurpose::Any]),
        usage(&[KeyUsagePurpose::DigitalSignature]),
    ] {
        taken(&certificate, &key);
    }
    for (certificate, key) in [
        extended(&[ExtendedKeyUsagePurpose::ClientAuth]),
        extended(&[ExtendedKeyUsagePurpose::CodeSigning]),
        usage(&[KeyUsagePurpose::KeyEncipherment]),
        (fixture!("precertificate.pem").to_owned(), fixture!("rsa2048.key").to_owned()),
    ] {
        refused(&certificate, &key, Code::CertificatePurpose);
    }
}

#[test]
fn hostnames_are_the_dns_names_of_the_leaf() {
    let (certificate, key) = alone(|params| {
        *params = leaf_params(&["WWW.example.com", "*.example.com", "www.example.com", "xn--bcher-kva.example"]);
        params.distinguished_name.push(DnType::CommonName, "cn.example.com");
        params.subject_alt_names.push(SanType::IpAddress([192, 0, 2, 1].into()));
        params.subject_alt_names.push(SanType::Rfc822Name("a@example.com".to_owned().try_into().unwrap()));
    });
    let names: Vec<String> = taken(&certificate, &key).hostnames.into_iter().map(String::from).collect();
    assert_eq!(names, ["www.example.com", "*.example.com", "xn--bcher-kva.example"]);
}

#[test]
fn a_leaf_without_hostnames_or_with_bad_ones_is_refused() {
    let (nameless, key) = alone(|params| params.subject_alt_names.clear());
    refused(&nameless, &key, Code::NoHostnames);
    let (only_ip, key) = alone(|params| params.subject_alt_names = vec![SanType::IpAddress([192, 0, 2, 1].into())]);
    refused(&only_ip, &key, Code::NoHostnames);
    for bad in ["_sip.example.com", "*.com", "a..b", "192.0.2.1", "www.*.com", "example.com.", "", "a b.example"] {
        let (certificate, key) = alone(|params| *params = leaf_params(&["good.example.com", bad]));
        refused(&certificate, &key, Code::HostnameMalformed);
    }
    let names: Vec<String> = (0..=HOSTNAMES_MAX).map(|n| format!("n{n}.example.com")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (many, key) = alone(|params| *params = leaf_params(&names));
    let error = refused(&many, &key, Code::TooManyHostnames);
    assert_eq!(error, CertificateError::TooManyHostnames { actual: HOSTNAMES_MAX + 1 });
    let (most, key) = alone(|params| *params = leaf_params(&names[1..]));
    assert_eq!(taken(&most, &key).hostnames.len(), HOSTNAMES_MAX);
}

// === Keys ===

#[test]
fn a_key_of_another_certificate_is_refused() {
    let world = world();
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap().serialize_pem();
    for key in [&new_key().serialize_pem(), &p384, fixture!("rsa2048.key"), fixture!("p256.key")] {
        refused(&world.leaf, key, Code::KeyMismatch);
    }
    refused(fixture!("rsa2048.pem"), fixture!("rsa4096.key"), Code::KeyMismatch);
    refused(fixture!("rsa2048.pem"), fixture!("p256.key"), Code::KeyMismatch);
}

#[test]
fn a_private_half_with_the_certificates_public_half_beside_it_is_not_its_key() {
    let (certificate, key) = alone(|_| ());
    let mut honest = pem_der(&key);
    let mut other = pem_der(&new_key().serialize_pem());
    let private = |der: &[u8]| der.windows(3).position(|bytes| bytes == [2, 1, 1]).unwrap() + 5;
    let (at, from) = (private(&honest), private(&other));
    honest[at..at + 32].swap_with_slice(&mut other[from..from + 32]);
    let base64 = Base64::encode_string(&honest);
    let forged = format!("-----BEGIN PRIVATE KEY-----\n{base64}\n-----END PRIVATE KEY-----\n");
    refused(&certificate, &forged, Code::KeyMalformed);
}

fn pem_der(pem: &str) -> Vec<u8> {
    let base64: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    Base64::decode_vec(&base64).unwrap()
}

#[test]
fn a_damaged_key_is_refused_whichever_byte_is_damaged() {
    let world = world();
    for (certificate, key, label) in [
        (world.leaf.as_str(), world.key.as_str(), "PRIVATE KEY"),
        (fixture!("rsa2048.pem"), fixture!("rsa2048.key"), "RSA PRIVATE KEY"),
        (fixture!("p384.pem"), fixture!("p384.key"), "EC PRIVATE KEY"),
    ] {
        let der = pem_der(key);
        for at in (0..der.len()).step_by(der.len() / 60) {
            let mut broken = der.clone();
            broken[at] ^= 0x40;
            let base64 = Base64::encode_string(&broken);
            let text = format!("-----BEGIN {label}-----\n{base64}\n-----END {label}-----\n");
            // A few bytes say nothing about the key, such as tags that readers skip: then the key is the same.
            if let Ok(checked) = check(certificate, Some(&text), NOW_S) {
                assert_eq!(checked.private_key_pkcs8, taken(certificate, key).private_key_pkcs8, "byte {at}");
            }
        }
        for trailing in [vec![0], vec![5, 0]] {
            let longer = Base64::encode_string(&[der.as_slice(), &trailing].concat());
            let text = format!("-----BEGIN {label}-----\n{longer}\n-----END {label}-----\n");
            refused(certificate, &text, Code::KeyMalformed);
        }
        let cut = Base64::encode_string(&der[..der.len() - 1]);
        refused(certificate, &format!("-----BEGIN {label}-----\n{cut}\n-----END {label}-----\n"), Code::KeyMalformed);
    }
}

#[test]
fn an_encrypted_key_is_refused_with_the_command_that_opens_it() {
    for key in [fixture!("rsa2048-encrypted.key"), fixture!("rsa2048-old-encrypted.key")] {
        let error = refused(fixture!("rsa2048.pem"), key, Code::KeyEncrypted);
        assert!(error.hint().unwrap().contains("openssl pkey"));
    }
}

#[test]
fn weak_and_foreign_keys_are_refused_on_either_side() {
    for (certificate, key, code) in [
        (fixture!("rsa1024.pem"), fixture!("rsa1024.key"), Code::KeyTooSmall),
        (fixture!("rsa2047.pem"), fixture!("rsa2047.key"), Code::KeyTooSmall),
        (fixture!("rsa-exponent3.pem"), fixture!("rsa-exponent3.key"), Code::UnsupportedKey),
        (fixture!("rsa-pss.pem"), fixture!("rsa-pss.key"), Code::UnsupportedKey),
        (fixture!("secp256k1.pem"), fixture!("secp256k1.key"), Code::UnsupportedKey),
    ] {
        assert_eq!(refused(certificate, key, code).field(), Field::Certificate);
        assert_eq!(refused(fixture!("rsa2048.pem"), key, code).field(), Field::PrivateKey);
    }
    for algorithm in [&PKCS_ED25519, &PKCS_ECDSA_P521_SHA512] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let certificate = leaf_params(&["www.example.com"]).self_signed(&key).unwrap().pem();
        let key = key.serialize_pem();
        assert_eq!(refused(&certificate, &key, Code::UnsupportedKey).field(), Field::Certificate);
        assert_eq!(refused(fixture!("rsa2048.pem"), &key, Code::UnsupportedKey).field(), Field::PrivateKey);
    }
    refused(fixture!("p256.pem"), fixture!("dsa.key"), Code::UnsupportedKey);
    refused(fixture!("p256.pem"), fixture!("p256-explicit.key"), Code::KeyMalformed);
}

#[test]
fn no_message_repeats_a_private_key() {
    let world = world();
    let secret = world.key.lines().nth(1).unwrap();
    for (certificate, key) in [
        (world.leaf.as_str(), world.key.replace("-----END", "----END")),
        (&world.leaf, world.key.replace('\n', "")),
        (&world.leaf, world.key.replace('\n', "\\n")),
        (&world.leaf, format!("-----BEGIN {}-----\n-----END {0}-----", &secret[..30])),
        (world.key.as_str(), world.key.clone()),
        (fixture!("p256.pem"), world.key.clone()),
    ] {
        let error = check(certificate, Some(&key), NOW_S).map(|_| ()).unwrap_err();
        let said = format!("{error} {error:?} {:?}", serde_json::to_string(&error.problem()));
        assert!(!said.contains(&secret[..16]), "{said}");
    }
}

// === Anything at all ===

proptest! {
    #[test]
    fn no_text_panics(certificate in "\\PC*", key in "\\PC*") {
        let _ = check(&certificate, Some(&key), NOW_S);
    }

    #[test]
    fn no_bytes_in_a_block_panic(der in proptest::collection::vec(any::<u8>(), 0..400), label in 0_usize..4) {
        let labels = ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "CERTIFICATE"];
        let base64 = Base64::encode_string(&der);
        let block = |label: &str| format!("-----BEGIN {label}-----\n{base64}\n-----END {label}-----\n");
        let _ = check(&block("CERTIFICATE"), Some(fixture!("p256.key")), NOW_S);
        prop_assert!(check(fixture!("p256.pem"), Some(&block(labels[label])), NOW_S).is_err());
    }

    #[test]
    fn no_damage_to_a_certificate_panics_or_changes_whose_key_fits(at in any::<prop::sample::Index>(), to in any::<u8>()) {
        let mut der = pem_der(fixture!("p384.pem"));
        let at = at.index(der.len());
        der[at] = to;
        let base64 = Base64::encode_string(&der);
        let block = format!("-----BEGIN CERTIFICATE-----\n{base64}\n-----END CERTIFICATE-----\n");
        let _ = check(&block, Some(fixture!("p384.key")), NOW_S);
        prop_assert!(check(&block, Some(fixture!("p256.key")), NOW_S).is_err());
    }
}
