//! Requests and answers in the shapes of Cloudflare's custom certificates, so that scripts and SDKs written for those work
//! with another address.
//!
//! The road: a body becomes a [`CreateRequest`] or an [`EditRequest`], which say the same things as the native calls; a
//! certificate becomes a [`CertificateResult`] in an [`Envelope`]; a [`Problem`] an envelope with one error.
//! Law: nothing is promised here that the native calls do not keep, and no field is silently dropped.
//!
//! Where this differs from the original, on purpose:
//! - A field that is not known is refused. The SDKs send only what their caller set, and a mistyped `policy` would store a
//!   key everywhere. The newer `deploy` is accepted as `production`; `custom_csr_id` names a key that was made at the
//!   other service, so it is refused.
//! - `bundle_method` and `type` are checked and repeated, and change nothing: a chain is served as it was sent.
//! - An edit keeps the certificate's id.
//! - `null` is the same as absence, so an edit cannot take a policy away with it; the policy that means everywhere is said
//!   natively.

use serde::Serialize;

use crate::fields::{Fields, SecretText};
use crate::limits::{PAGE_LEN_DEFAULT, PAGE_LEN_MAX};
use crate::problem::{Code, Problem, echo};
use cinnabar_authority_api::Hostname;

// === Requests ===

/// A policy's text, and the field that it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyText {
    /// The policy.
    pub text: String,
    /// JSON pointer of the field, for errors.
    pub pointer: &'static str,
}

/// Where a key may be used, in the words of the older field `geo_restrictions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GeoLabel {
    /// Data centres in the United States.
    Us,
    /// Data centres in the European Union.
    Eu,
    /// Data centres of the highest tier.
    HighestSecurity,
}

impl GeoLabel {
    const ALL: [Self; 3] = [Self::Us, Self::Eu, Self::HighestSecurity];

    /// The word in the field.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Us => "us",
            Self::Eu => "eu",
            Self::HighestSecurity => "highest_security",
        }
    }

    /// The policy that it stands for.
    #[must_use]
    pub fn policy(self) -> &'static str {
        match self {
            Self::Us => "country: US",
            Self::Eu => "region: EU",
            Self::HighestSecurity => "tier: highest",
        }
    }

    /// The label whose policy this very text is.
    #[must_use]
    pub fn of_policy(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|label| label.policy() == text)
    }
}

/// How a chain is completed at the other service; here it changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BundleMethod {
    /// The chain that most clients know.
    #[default]
    Ubiquitous,
    /// The shortest chain.
    Optimal,
    /// The chain as it was sent: what is done here, whatever was asked for.
    Force,
}

/// What `POST` asks for.
#[derive(Debug)]
pub struct CreateRequest {
    /// PEM chain.
    pub certificate: String,
    /// PEM key.
    pub private_key: SecretText,
    /// The policy, if there is one; none means everywhere.
    pub policy: Option<PolicyText>,
    /// Repeated in the answer.
    pub bundle_method: BundleMethod,
}

impl CreateRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// `malformed-json`, `missing-field`, `invalid-field`, `unknown-field`, `exclusive-fields`.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        let mut fields = Fields::parse(body)?;
        let shared = Shared::take(&mut fields)?;
        let certificate = shared.certificate.ok_or_else(|| fields.missing("certificate"))?;
        let private_key = shared.private_key.ok_or_else(|| fields.missing("private_key"))?;
        fields.finish()?;
        let bundle_method = shared.bundle_method.unwrap_or_default();
        Ok(Self { certificate, private_key, policy: shared.policy, bundle_method })
    }
}

/// What `PATCH` asks for; what is absent stays as it is.
#[derive(Debug)]
pub struct EditRequest {
    /// PEM chain.
    pub certificate: Option<String>,
    /// PEM key.
    pub private_key: Option<SecretText>,
    /// The policy.
    pub policy: Option<PolicyText>,
    /// Repeated in the answer.
    pub bundle_method: Option<BundleMethod>,
}

impl EditRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// `malformed-json`, `invalid-field`, `unknown-field`, `exclusive-fields`.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        let mut fields = Fields::parse(body)?;
        let Shared { certificate, private_key, policy, bundle_method } = Shared::take(&mut fields)?;
        fields.finish()?;
        Ok(Self { certificate, private_key, policy, bundle_method })
    }
}

/// What both requests may carry.
struct Shared {
    certificate: Option<String>,
    private_key: Option<SecretText>,
    policy: Option<PolicyText>,
    bundle_method: Option<BundleMethod>,
}

impl Shared {
    fn take(fields: &mut Fields) -> Result<Self, Problem> {
        // The key first: from here on it is wiped whatever happens.
        let private_key = fields.secret("private_key")?;
        let certificate = fields.text("certificate")?;
        let policy = policy(fields)?;
        let methods = [
            ("ubiquitous", BundleMethod::Ubiquitous),
            ("optimal", BundleMethod::Optimal),
            ("force", BundleMethod::Force),
        ];
        let bundle_method = word(fields, "bundle_method", &methods)?;
        word(fields, "type", &[("sni_custom", ()), ("legacy_custom", ())])?;
        word(fields, "deploy", &[("production", ())])?;
        if fields.ignore("custom_csr_id") {
            let detail = "`custom_csr_id` names a key that this service does not have.";
            return Err(Problem::new(Code::InvalidField, detail).at("/custom_csr_id").hint("send `private_key`"));
        }
        Ok(Self { certificate, private_key, policy, bundle_method })
    }
}

/// Takes a field that holds one of a few words.
fn word<T: Copy>(fields: &mut Fields, name: &str, words: &[(&str, T)]) -> Result<Option<T>, Problem> {
    let Some(text) = fields.text(name)? else { return Ok(None) };
    if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == text) {
        return Ok(Some(*meaning));
    }
    Err(unknown_word(&fields.pointer_to(name), name, &text, words.iter().map(|(word, _)| *word)))
}

fn unknown_word<'a>(pointer: &str, name: &str, text: &str, words: impl Iterator<Item = &'a str>) -> Problem {
    let words: Vec<&str> = words.collect();
    let detail = match text {
        "" => format!("`{name}` is empty."),
        _ => format!("`{name}` cannot be `{}`.", echo(text)),
    };
    Problem::new(Code::InvalidField, detail)
        .at(pointer.to_owned())
        .hint(format!("leave it out or send one of: {}", words.join(", ")))
}

/// Takes the three fields that can hold a policy.
fn policy(fields: &mut Fields) -> Result<Option<PolicyText>, Problem> {
    let new = fields.text("policy")?.map(|text| PolicyText { text, pointer: "/policy" });
    let old = fields.text("policy_restrictions")?.map(|text| PolicyText { text, pointer: "/policy_restrictions" });
    if let (Some(new), Some(old)) = (&new, &old)
        && new.text != old.text
    {
        let detail = "`policy` and `policy_restrictions` are two names of one field, and they differ.";
        return Err(Problem::new(Code::ExclusiveFields, detail).at(old.pointer).hint("send `policy` alone"));
    }
    let policy = new.or(old);
    let Some(label) = geo_label(fields)? else { return Ok(policy) };
    if let Some(policy) = policy {
        let detail = format!("`{}` and `geo_restrictions` exclude each other.", &policy.pointer[1..]);
        let hint = format!("send `policy` alone; the label `{}` is the policy `{}`", label.as_str(), label.policy());
        return Err(Problem::new(Code::ExclusiveFields, detail).at("/geo_restrictions").hint(hint));
    }
    Ok(Some(PolicyText { text: label.policy().to_owned(), pointer: "/geo_restrictions/label" }))
}

fn geo_label(fields: &mut Fields) -> Result<Option<GeoLabel>, Problem> {
    let Some(mut geo) = fields.object("geo_restrictions")? else { return Ok(None) };
    let text = geo.required_text("label")?;
    geo.finish()?;
    let label = GeoLabel::ALL.into_iter().find(|label| label.as_str() == text);
    let words = GeoLabel::ALL.map(GeoLabel::as_str).into_iter();
    label.map(Some).ok_or_else(|| unknown_word("/geo_restrictions/label", "label", &text, words))
}

/// Which part of a list is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paging {
    /// From 1.
    pub page: u32,
    /// Entries on a page, 1 to [`PAGE_LEN_MAX`].
    pub per_page: u32,
}

impl Paging {
    /// Reads the two parameters of the query.
    ///
    /// # Errors
    /// `invalid-field`.
    pub fn parse(page: Option<&str>, per_page: Option<&str>) -> Result<Self, Problem> {
        let number = |name: &str, text: Option<&str>, default: u32, max: u32| match text.map(str::parse::<u32>) {
            None => Ok(default),
            Some(Ok(number)) if (1..=max).contains(&number) => Ok(number),
            Some(_) => {
                let detail = format!("The parameter `{name}` must be a number from 1 to {max}.");
                Err(Problem::new(Code::InvalidField, detail))
            }
        };
        Ok(Self {
            page: number("page", page, 1, u32::MAX)?,
            per_page: number("per_page", per_page, PAGE_LEN_DEFAULT, PAGE_LEN_MAX)?,
        })
    }

    /// The entries of this page among `total`; empty behind the last page.
    #[must_use]
    pub fn range(self, total: usize) -> std::ops::Range<usize> {
        let start = (self.page as usize - 1).saturating_mul(self.per_page as usize).min(total);
        start..start.saturating_add(self.per_page as usize).min(total)
    }
}

// === Answers ===

/// What every answer is wrapped in.
#[derive(Debug, Serialize)]
pub struct Envelope<T> {
    /// Whether it was done.
    pub success: bool,
    /// Why not.
    pub errors: Vec<Message>,
    /// What else there is to say, such as warnings.
    pub messages: Vec<Message>,
    /// What was asked for; `null` if it was not done.
    pub result: Option<T>,
    /// For lists: which part of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result_info: Option<ResultInfo>,
}

/// An error or a remark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// The number, see [`number`].
    pub code: u32,
    /// The text.
    pub message: String,
}

/// Which part of a list an answer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ResultInfo {
    /// From 1.
    pub page: u32,
    /// Entries on a full page.
    pub per_page: u32,
    /// Entries on this page.
    pub count: usize,
    /// Entries of the list.
    pub total_count: usize,
    /// Pages of the list.
    pub total_pages: usize,
}

impl<T> Envelope<T> {
    /// It was done.
    #[must_use]
    pub fn done(result: T) -> Self {
        Self { success: true, errors: Vec::new(), messages: Vec::new(), result: Some(result), result_info: None }
    }
}

impl<T> Envelope<Vec<T>> {
    /// One page of a list.
    #[must_use]
    pub fn page(entries: Vec<T>, paging: Paging, total_count: usize) -> Self {
        let Paging { page, per_page } = paging;
        let total_pages = total_count.div_ceil(per_page as usize);
        let info = ResultInfo { page, per_page, count: entries.len(), total_count, total_pages };
        Self { result_info: Some(info), ..Self::done(entries) }
    }
}

impl Envelope<()> {
    /// It was refused; the answer's status is the problem's.
    #[must_use]
    pub fn refused(problem: &Problem) -> Self {
        let mut message = format!("[{}] {}", problem.code_str(), problem.detail());
        for (name, value) in [("field", problem.pointer()), ("hint", problem.advice())] {
            if let Some(value) = value {
                message.push_str(&format!(" ({name}: {value})"));
            }
        }
        let error = Message { code: number(problem.code()), message };
        Self { success: false, errors: vec![error], messages: Vec::new(), result: None, result_info: None }
    }
}

/// The state of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// In use.
    Active,
    /// Its time is over.
    Expired,
    /// Taken away.
    Deleted,
    /// Stored, and not on every machine yet.
    Pending,
}

/// One certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CertificateResult {
    /// Its id.
    pub id: String,
    /// The zone it belongs to.
    pub zone_id: String,
    /// What it is for.
    pub hosts: Vec<Hostname>,
    /// Who issued it.
    pub issuer: String,
    /// How it is signed.
    pub signature: String,
    /// Its state.
    pub status: Status,
    /// As it was asked for.
    pub bundle_method: BundleMethod,
    /// Always 0: which of two certificates is served depends on the client's algorithms.
    pub priority: u32,
    /// When it was stored, RFC 3339.
    pub uploaded_on: String,
    /// When it was last changed, RFC 3339.
    pub modified_on: String,
    /// When its time is over, RFC 3339.
    pub expires_on: String,
    /// The label, if the policy is that of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub geo_restrictions: Option<GeoRestrictions>,
    /// The customer's policy; absent for everywhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy_restrictions: Option<String>,
}

/// The older way to say a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct GeoRestrictions {
    /// One of `us`, `eu`, `highest_security`.
    pub label: &'static str,
}

impl GeoRestrictions {
    /// The label whose policy this very text is.
    #[must_use]
    pub fn of_policy(text: &str) -> Option<Self> {
        GeoLabel::of_policy(text).map(|label| Self { label: label.as_str() })
    }
}

/// What `DELETE` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeleteResult {
    /// The id that is gone.
    pub id: String,
}

/// The number of a code: the original's where it has one for this, else one of ours, from 80,001. Numbers stay for good.
///
/// The original's 2005, a quota for one kind of certificate, has no use here: a zone has one quota, 1212.
#[must_use]
pub fn number(code: Code) -> u32 {
    match code {
        Code::CertificateMalformed
        | Code::CertificateExpired
        | Code::CertificateNotYetValid
        | Code::CertificatePurpose
        | Code::UnsupportedSignature => 1002,
        Code::Quota => 1212,
        Code::CertificateStored => 1220,
        Code::ChainTooLong | Code::ChainOrder | Code::ChainSignature => 2100,
        Code::CertificateIsCa => 2101,
        Code::NoHostnames | Code::HostnameOutsideZone => 2103,
        Code::KeyMalformed | Code::KeyEncrypted | Code::KeyMismatch | Code::KeyTooSmall | Code::UnsupportedKey => 2106,
        Code::MalformedJson => 80_001,
        Code::UnknownField => 80_002,
        Code::MissingField => 80_003,
        Code::InvalidField => 80_004,
        Code::ExclusiveFields => 80_005,
        Code::RequestTooLarge => 80_006,
        Code::UnsupportedMediaType => 80_007,
        Code::Unauthenticated => 80_008,
        Code::Forbidden => 80_009,
        Code::NotFound => 80_010,
        Code::MethodNotAllowed => 80_011,
        Code::Conflict => 80_012,
        Code::RateLimited => 80_013,
        Code::RequestTimeout => 80_014,
        Code::TooManyHostnames => 80_020,
        Code::HostnameMalformed => 80_021,
        Code::KeyRequired => 80_022,
        Code::PolicySyntax => 80_030,
        Code::UnknownLabel => 80_031,
        Code::UnknownValue => 80_032,
        Code::NoDataCentre => 80_033,
        Code::FewHolders => 80_034,
        Code::ReservedLabel => 80_035,
        Code::NotIssuedYet => 80_036,
        Code::ZoneOverlap => 80_040,
        Code::DomainMalformed => 80_041,
        Code::ZoneInUse => 80_042,
        Code::RequestUnusable => 80_050,
        Code::MachineUnknown => 80_051,
        Code::MachineRevoked => 80_052,
        Code::RotationNeeded => 80_053,
        Code::TooMany => 80_054,
        Code::LastHolders => 80_055,
        Code::Sealed => 80_056,
        Code::Unavailable => 80_090,
        Code::Internal => 80_091,
    }
}

#[cfg(test)]
mod tests;
