//! Tokens by their scope: zones' for customers, operators' for programs that cannot show a certificate.
//!
//! Law: a token's text is given once and kept as a digest; it opens nothing once it is revoked or past its end. Only an
//! operator makes an operator's, and it has a name under which it acts.

use cinnabar_authority_api::limits::ID_BYTES_MAX;
use cinnabar_authority_api::records::{Content, Token, TokenScope};
use cinnabar_authority_api::{CertId, RecordKey, ZoneId};

use super::{NewToken, TokenView, Zones};
use crate::acts::tell;
use crate::directory::Directory;
use crate::limits::{OPERATOR_TOKENS_MAX, TOKEN_LIFE_S_MAX, ZONE_TOKENS_MAX};
use crate::problem::{Code, Problem};
use crate::publisher::Plan;
use crate::tokens;
use crate::uploads::{internal, not_found};

pub(super) fn of_scope<'a>(directory: &'a Directory, scope: &'a TokenScope) -> impl Iterator<Item = &'a Token> {
    directory.tokens().filter(move |token| token.scope == *scope)
}

fn check_zone(directory: &Directory, scope: &TokenScope) -> Result<(), Problem> {
    match scope {
        TokenScope::Zone(zone) if !directory.zones().contains_key(zone) => Err(not_found("zone")),
        _ => Ok(()),
    }
}

/// Is there room for another?
fn check_quota(directory: &Directory, scope: &TokenScope) -> Result<(), Problem> {
    check_zone(directory, scope)?;
    let (most, detail) = match scope {
        TokenScope::Zone(zone) => {
            (ZONE_TOKENS_MAX, format!("Zone {zone} has {ZONE_TOKENS_MAX} tokens, as many as it may."))
        }
        _ => (
            OPERATOR_TOKENS_MAX,
            format!("There are {OPERATOR_TOKENS_MAX} operators' tokens, as many as there may be."),
        ),
    };
    if of_scope(directory, scope).count() < most {
        return Ok(());
    }
    Err(Problem::new(Code::Quota, detail).hint("Revoke those that nobody uses."))
}

fn check_name(name: &str, least: usize) -> Result<(), Problem> {
    let says = if least > 0 { name.trim().len() } else { name.len() };
    if says >= least && name.len() <= ID_BYTES_MAX && !name.chars().any(char::is_control) {
        return Ok(());
    }
    let range = if least > 0 { format!("{least} to") } else { "at most".to_owned() };
    let detail = format!("`name` has {range} {ID_BYTES_MAX} bytes, none of them a control character.");
    Err(Problem::new(Code::InvalidField, detail).at("/name"))
}

/// What the audit log says of making and of revoking one.
fn acts(scope: &TokenScope) -> [&'static str; 2] {
    match scope {
        TokenScope::Zone(_) => ["create token", "revoke token"],
        _ => ["create operator token", "revoke operator token"],
    }
}

/// With which zone.
fn zone(scope: &TokenScope) -> Option<&ZoneId> {
    if let TokenScope::Zone(zone) = scope { Some(zone) } else { None }
}

impl Zones {
    async fn create_in(
        &self,
        actor: &str,
        scope: TokenScope,
        name: &str,
        life_s: Option<u64>,
    ) -> Result<NewToken, Problem> {
        let life_ms = life_s.map(|life_s| life_s.min(TOKEN_LIFE_S_MAX) * 1_000);
        let expires_ms = life_ms.map_or(0, |life_ms| self.env.clock.unix_ms().saturating_add(life_ms));
        check_quota(&self.publisher.directory().read(), &scope)?;
        let minted = tokens::mint(&*self.env.rng, scope.clone(), name, expires_ms);
        let (text, token) = minted.map_err(|error| internal("no randomness", &error))?;
        let mut details: Vec<_> = zone(&scope).map(|zone| ("zone", zone.as_str())).into_iter().collect();
        details.push(("name", name));
        tell(&self.audit, actor, acts(&scope)[0], &token.key(), &details).await?;
        let written = self.publisher.transact(|directory| {
            check_quota(directory, &scope)?;
            let mut plan = Plan::new();
            if let Some(zone) = zone(&scope) {
                plan.rest_on(RecordKey::Zone(zone.clone()));
            }
            plan.put(token.clone());
            Ok::<_, Problem>((plan, ()))
        });
        written.await?;
        Ok(NewToken { view: TokenView { id: token.id, name: token.name, expires_ms }, text })
    }

    /// In the order of their ids.
    fn list_scope(&self, scope: &TokenScope) -> Result<Vec<TokenView>, Problem> {
        let directory = self.publisher.directory().read();
        check_zone(&directory, scope)?;
        let view =
            |token: &Token| TokenView { id: token.id.clone(), name: token.name.clone(), expires_ms: token.expires_ms };
        let mut views: Vec<TokenView> = of_scope(&directory, scope).map(view).collect();
        views.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(views)
    }

    async fn revoke_in(&self, actor: &str, scope: &TokenScope, id: &CertId) -> Result<(), Problem> {
        let check = |directory: &Directory| {
            let found = directory.token(id).is_some_and(|token| token.scope == *scope);
            if found { Ok(()) } else { Err(not_found("token")) }
        };
        check(&self.publisher.directory().read())?;
        let key = RecordKey::Token(id.clone());
        let details: Vec<_> = zone(scope).map(|zone| ("zone", zone.as_str())).into_iter().collect();
        tell(&self.audit, actor, acts(scope)[1], &key, &details).await?;
        let written = self.publisher.transact(|directory| {
            check(directory)?;
            let mut plan = Plan::new();
            plan.end::<Token>(key.clone());
            Ok::<_, Problem>((plan, ()))
        });
        written.await.map(drop)
    }

    /// Makes a token of a zone. `life_s` is how long it holds, in seconds; none is for ever.
    ///
    /// # Errors
    /// `not-found`, `invalid-field`, `quota`, `unavailable`.
    pub async fn create_token(
        &self,
        actor: &str,
        zone: &ZoneId,
        name: &str,
        life_s: Option<u64>,
    ) -> Result<NewToken, Problem> {
        check_name(name, 0)?;
        self.create_in(actor, TokenScope::Zone(zone.clone()), name, life_s).await
    }

    /// The tokens of a zone, in the order of their ids.
    ///
    /// # Errors
    /// `not-found`.
    pub fn tokens(&self, zone: &ZoneId) -> Result<Vec<TokenView>, Problem> {
        self.list_scope(&TokenScope::Zone(zone.clone()))
    }

    /// Revokes a token of a zone: from the answer on it opens nothing.
    ///
    /// # Errors
    /// `not-found`, also for another zone's token; `unavailable`.
    pub async fn revoke_token(&self, actor: &str, zone: &ZoneId, id: &CertId) -> Result<(), Problem> {
        self.revoke_in(actor, &TokenScope::Zone(zone.clone()), id).await
    }

    /// Makes an operator's token. `life_s` is how long it holds, in seconds; none is for ever.
    ///
    /// # Errors
    /// `invalid-field` for a name that says nothing, `quota`, `unavailable`.
    pub async fn create_operator_token(
        &self,
        actor: &str,
        name: &str,
        life_s: Option<u64>,
    ) -> Result<NewToken, Problem> {
        check_name(name, 1)?;
        self.create_in(actor, TokenScope::Operator, name, life_s).await
    }

    /// Operators' tokens, in the order of their ids.
    ///
    /// # Errors
    /// None: alike to [`Zones::tokens`].
    pub fn operator_tokens(&self) -> Result<Vec<TokenView>, Problem> {
        self.list_scope(&TokenScope::Operator)
    }

    /// Revokes an operator's token: from the answer on it opens nothing.
    ///
    /// # Errors
    /// `not-found`, also for a zone's or machine's token; `unavailable`.
    pub async fn revoke_operator_token(&self, actor: &str, id: &CertId) -> Result<(), Problem> {
        self.revoke_in(actor, &TokenScope::Operator, id).await
    }
}
