//! Operators' tokens: for programs that cannot show a certificate. Law: only an operator makes one, its text is given once
//! and kept as a digest, it has a name under which it acts, and it opens nothing once it is revoked or past its end.

use cinnabar_authority_api::limits::ID_BYTES_MAX;
use cinnabar_authority_api::records::{Content, Token, TokenScope};
use cinnabar_authority_api::{CertId, RecordKey};

use super::{NewToken, TokenView, Zones};
use crate::acts::tell;
use crate::directory::Directory;
use crate::limits::{OPERATOR_TOKENS_MAX, TOKEN_LIFE_S_MAX};
use crate::problem::{Code, Problem};
use crate::publisher::Plan;
use crate::tokens;
use crate::uploads::{internal, not_found};

fn operators(directory: &Directory) -> impl Iterator<Item = &Token> {
    directory.tokens().filter(|token| token.scope == TokenScope::Operator)
}

impl Zones {
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
        if name.trim().is_empty() || name.len() > ID_BYTES_MAX || name.chars().any(char::is_control) {
            let detail = format!("`name` has 1 to {ID_BYTES_MAX} bytes, none of them a control character.");
            return Err(Problem::new(Code::InvalidField, detail).at("/name"));
        }
        let life_ms = life_s.map(|life_s| life_s.min(TOKEN_LIFE_S_MAX) * 1_000);
        let expires_ms = life_ms.map_or(0, |life_ms| self.env.clock.unix_ms().saturating_add(life_ms));
        let check = |directory: &Directory| {
            if operators(directory).count() < OPERATOR_TOKENS_MAX {
                return Ok(());
            }
            let detail = format!("There are {OPERATOR_TOKENS_MAX} operators' tokens, as many as there may be.");
            Err(Problem::new(Code::Quota, detail).hint("Revoke those that nobody uses."))
        };
        check(&self.publisher.directory().read())?;
        let minted = tokens::mint(&*self.env.rng, TokenScope::Operator, name, expires_ms);
        let (text, token) = minted.map_err(|error| internal("no randomness", &error))?;
        tell(&self.audit, actor, "create operator token", &token.key(), &[("name", name)]).await?;
        let written = self.publisher.transact(|directory| {
            check(directory)?;
            let mut plan = Plan::new();
            plan.put(token.clone());
            Ok::<_, Problem>((plan, ()))
        });
        written.await?;
        Ok(NewToken { view: TokenView { id: token.id, name: token.name, expires_ms }, text })
    }

    /// Operators' tokens, in the order of their ids.
    pub fn operator_tokens(&self) -> Vec<TokenView> {
        let directory = self.publisher.directory().read();
        let view =
            |token: &Token| TokenView { id: token.id.clone(), name: token.name.clone(), expires_ms: token.expires_ms };
        let mut views: Vec<TokenView> = operators(&directory).map(view).collect();
        views.sort_by(|a, b| a.id.cmp(&b.id));
        views
    }

    /// Revokes an operator's token: from the answer on it opens nothing.
    ///
    /// # Errors
    /// `not-found`, also for a zone's or machine's token; `unavailable`.
    pub async fn revoke_operator_token(&self, actor: &str, id: &CertId) -> Result<(), Problem> {
        let check = |directory: &Directory| {
            let found = directory.token(id).is_some_and(|token| token.scope == TokenScope::Operator);
            if found { Ok(()) } else { Err(not_found("token")) }
        };
        check(&self.publisher.directory().read())?;
        let key = RecordKey::Token(id.clone());
        tell(&self.audit, actor, "revoke operator token", &key, &[]).await?;
        let written = self.publisher.transact(|directory| {
            check(directory)?;
            let mut plan = Plan::new();
            plan.end::<Token>(key.clone());
            Ok::<_, Problem>((plan, ()))
        });
        written.await.map(drop)
    }
}
