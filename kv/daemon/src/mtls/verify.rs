//! Who a certificate says its holder is, and whether we believe it.
//!
//! The road: rustls (or a signed message) brings a chain, [`Roots::verify`] walks it to our authority for one purpose
//! at one moment, [`read_identity`] takes the one SPIFFE name out of the leaf, [`Accept`] says whom this side wants.
//! Law: an identity leaves this file only after chain, time, purpose and cluster were checked; role and name come next.
//! DNS names are never looked at. Source: RFC 5280 section 6; X509-SVID section 5 (exactly one URI SAN).

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, PeerMisbehaved, SignatureScheme};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::id::{ClusterId, IdError, Identity, NodeName, Role};

/// Certificates a peer may send after its own; longer chains are refused unread.
pub const INTERMEDIATES_MAX: usize = 3;
/// Largest leaf certificate in bytes; ours stay well under 1 KiB.
pub const CERTIFICATE_BYTES_MAX: usize = 8 * 1024;

/// id-kp-serverAuth, 1.3.6.1.5.5.7.3.1, as the content bytes of its OID (RFC 5280 section 4.2.1.12).
const SERVER_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
/// id-kp-clientAuth, 1.3.6.1.5.5.7.3.2.
const CLIENT_AUTH: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 2];

/// Why a peer's certificate or signature was refused. Everything here is the peer's fault or our trust file's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The transport carries no identity: a Unix socket, or no certificate where one is needed.
    #[error("the peer presented no certificate")]
    NoCertificate,
    /// The certificate is not what an honest authority makes.
    #[error("malformed certificate: {0}")]
    Malformed(&'static str),
    /// The chain ends at no authority we trust.
    #[error("the certificate was issued by no authority we trust")]
    UnknownIssuer,
    /// The certificate or one above it is past its end.
    #[error("the certificate expired")]
    Expired,
    /// The certificate or one above it is not valid yet; on a new certificate: clocks differ.
    #[error("the certificate is not valid yet")]
    NotYetValid,
    /// The extended key usage does not name this use.
    #[error("the certificate is not for this use")]
    Purpose,
    /// Another fault in the chain.
    #[error("the certificate chain does not verify: {0}")]
    Chain(webpki::Error),
    /// None or several URI names; which one would count is not for us to guess.
    #[error("the certificate carries {actual} URI names, expected exactly one")]
    UriCount {
        /// How many it carries.
        actual: usize,
    },
    /// The URI name is not an identity of ours.
    #[error("the certificate's URI name: {0}")]
    Identity(#[from] IdError),
    /// An authority we trust vouches for a foreign cluster.
    #[error("the peer belongs to cluster `{actual}`, expected `{expected}`")]
    Cluster {
        /// Ours.
        expected: ClusterId,
        /// The peer's.
        actual: ClusterId,
    },
    /// A member of the cluster, in a role that is not wanted here.
    #[error("the peer is {actual}, expected a role of {expected:?}")]
    Role {
        /// The roles that were accepted.
        expected: &'static [Role],
        /// Who it is.
        actual: Identity,
    },
    /// The right role, another member.
    #[error("the peer is {actual}, expected the name `{expected}`")]
    Name {
        /// The name that was dialled.
        expected: NodeName,
        /// Who answered.
        actual: Identity,
    },
    /// A signature scheme we do not take.
    #[error("signature scheme {0:#06x} is not accepted")]
    Scheme(u16),
    /// The signature is not by this certificate's key over this message.
    #[error("the signature does not verify")]
    Signature,
}

impl VerifyError {
    /// A short label for metrics; one of a fixed set.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::Malformed(_) => "malformed",
            Self::UnknownIssuer => "unknown_issuer",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Purpose => "purpose",
            Self::Chain(_) => "chain",
            Self::UriCount { .. } | Self::Identity(_) => "identity",
            Self::Cluster { .. } => "cluster",
            Self::Role { .. } => "role",
            Self::Name { .. } => "name",
            Self::Scheme(_) | Self::Signature => "signature",
        }
    }

    fn from_webpki(error: webpki::Error) -> Self {
        use webpki::Error as E;
        match error {
            E::CertExpired { .. } => Self::Expired,
            E::CertNotValidYet { .. } => Self::NotYetValid,
            E::UnknownIssuer | E::InvalidSignatureForPublicKey => Self::UnknownIssuer,
            E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => Self::Purpose,
            E::BadDer | E::BadDerTime | E::TrailingData(_) => Self::Malformed("not a DER certificate"),
            other => Self::Chain(other),
        }
    }
}

impl From<VerifyError> for rustls::Error {
    // The alert that rustls derives from this tells the peer what to repair without telling it whom we would accept.
    fn from(error: VerifyError) -> Self {
        Self::InvalidCertificate(match error {
            VerifyError::Malformed(_) => CertificateError::BadEncoding,
            VerifyError::UnknownIssuer => CertificateError::UnknownIssuer,
            VerifyError::Expired => CertificateError::Expired,
            VerifyError::NotYetValid => CertificateError::NotValidYet,
            VerifyError::Purpose => CertificateError::InvalidPurpose,
            other => CertificateError::Other(OtherError(Arc::new(other))),
        })
    }
}

/// What a certificate is presented for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Server,
    Client,
}

/// The authorities we trust and the cluster they vouch for.
#[derive(Clone)]
pub(super) struct Roots {
    anchors: Arc<[TrustAnchor<'static>]>,
    cluster: ClusterId,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Roots {
    pub(super) fn new(
        authorities: &[CertificateDer<'static>],
        cluster: ClusterId,
        algorithms: WebPkiSupportedAlgorithms,
    ) -> Result<Self, VerifyError> {
        let anchors = authorities
            .iter()
            .map(|der| webpki::anchor_from_trusted_cert(der).map(|anchor| anchor.to_owned()))
            .collect::<Result<_, _>>()
            .map_err(VerifyError::from_webpki)?;
        Ok(Self { anchors, cluster, algorithms })
    }

    /// Chain, time, purpose, then name and cluster.
    pub(super) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        purpose: Purpose,
        now: UnixTime,
    ) -> Result<Identity, VerifyError> {
        if leaf.len() > CERTIFICATE_BYTES_MAX || intermediates.len() > INTERMEDIATES_MAX {
            return Err(VerifyError::Malformed("too long a certificate or chain"));
        }
        let parsed = EndEntityCert::try_from(leaf).map_err(VerifyError::from_webpki)?;
        let usage = KeyUsage::required(match purpose {
            Purpose::Server => SERVER_AUTH,
            Purpose::Client => CLIENT_AUTH,
        });
        parsed
            .verify_for_usage(self.algorithms.all, &self.anchors, intermediates, now, usage, None, None)
            .map_err(VerifyError::from_webpki)?;
        let identity = read_identity(leaf)?;
        if identity.cluster != self.cluster {
            return Err(VerifyError::Cluster { expected: self.cluster.clone(), actual: identity.cluster });
        }
        Ok(identity)
    }

    pub(super) fn algorithms(&self) -> &WebPkiSupportedAlgorithms {
        &self.algorithms
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Roots({} of cluster {})", self.anchors.len(), self.cluster)
    }
}

/// Takes the identity out of a leaf that was already verified.
///
/// # Errors
/// [`VerifyError::UriCount`] unless there is exactly one URI name, [`VerifyError::Identity`] when it is not ours.
pub(super) fn read_identity(leaf: &CertificateDer<'_>) -> Result<Identity, VerifyError> {
    let certificate = parse(leaf)?;
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| VerifyError::Malformed("unreadable or repeated subjectAltName"))?
        .ok_or(VerifyError::UriCount { actual: 0 })?;
    let mut uri = None;
    let mut actual = 0;
    for name in &names.value.general_names {
        match name {
            GeneralName::URI(text) => {
                actual += 1;
                uri = Some(*text);
            }
            // What does not parse could be a second URI in a spelling that this parser does not read.
            GeneralName::Invalid(..) => return Err(VerifyError::Malformed("an unreadable subjectAltName entry")),
            _ => {}
        }
    }
    match uri {
        Some(text) if actual == 1 => Ok(text.parse()?),
        _ => Err(VerifyError::UriCount { actual }),
    }
}

/// First and last second in which a certificate is valid, in seconds since 1970; a time before 1970 reads as 0.
pub(super) fn read_validity(leaf: &CertificateDer<'_>) -> Result<(u64, u64), VerifyError> {
    let certificate = parse(leaf)?;
    let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).unwrap_or(0);
    Ok((seconds(certificate.validity().not_before), seconds(certificate.validity().not_after)))
}

fn parse<'a>(leaf: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, VerifyError> {
    match X509Certificate::from_der(leaf) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) => Err(VerifyError::Malformed("bytes after the certificate")),
        Err(_) => Err(VerifyError::Malformed("not a DER certificate")),
    }
}

/// Whom this side wants to talk to.
#[derive(Debug, Clone)]
pub(super) struct Accept {
    pub(super) roles: &'static [Role],
    pub(super) name: Option<NodeName>,
}

impl Accept {
    pub(super) fn check(&self, identity: &Identity) -> Result<(), VerifyError> {
        if !self.roles.contains(&identity.role) {
            return Err(VerifyError::Role { expected: self.roles, actual: identity.clone() });
        }
        match &self.name {
            Some(expected) if *expected != identity.name => {
                Err(VerifyError::Name { expected: expected.clone(), actual: identity.clone() })
            }
            _ => Ok(()),
        }
    }
}

/// Both sides' verifier for rustls: a server checks its client's chain, a client also whom it reached.
#[derive(Debug)]
pub(super) struct PeerVerifier {
    pub(super) roots: Roots,
    pub(super) accept: Accept,
}

impl PeerVerifier {
    fn peer(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        purpose: Purpose,
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let identity = self.roots.verify(leaf, intermediates, purpose, now)?;
        Ok(self.accept.check(&identity)?)
    }

    fn signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, self.roots.algorithms())
    }
}

/// TLS 1.2 is never offered, so rustls never asks; if it did, the answer is no.
fn no_tls12() -> Result<HandshakeSignatureValid, rustls::Error> {
    Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into())
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.peer(end_entity, intermediates, Purpose::Server, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.roots.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.peer(end_entity, intermediates, Purpose::Client, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.roots.algorithms.supported_schemes()
    }
}
