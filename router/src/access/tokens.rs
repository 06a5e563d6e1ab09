//! Tokens that the cluster keeps: each in the catalogue of the system shard, by an id that stands in
//! the token, with the hash of the rest, what it lets its bearer do and whom it speaks for.
//!
//! A node asks for a token's entry when it is first shown, and again when what it knows is older than
//! [`FRESH`]: for so long a token that was deleted may still be taken. When the system shard cannot
//! be asked, what is known counts for [`STALE_MAX`], and then nobody is let in on a guess.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use opcode_engine::ids::Timestamp;
use opcode_engine::namespace::Namespace;
use opcode_shard::catalogue::EntryKind;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

use super::limit::RateLimit;
use super::scope::Scope;
use crate::error::{ApiError, Applied};
use crate::state::RouterState;

/// What a token of the cluster begins with.
pub(crate) const PREFIX: &str = "opc_";
/// Hexadecimal digits of its id, and random bytes behind it.
const ID_CHARS: usize = 16;
const SECRET_BYTES: usize = 32;
/// How long what a node knows of a token counts without being asked for again.
pub(crate) const FRESH: Duration = Duration::from_secs(5);
/// The same while the system shard does not answer.
const STALE_MAX: Duration = Duration::from_secs(60);
/// Longest wait for an entry, and entries asked for at a time: guesses are held up, and hold nobody up
/// but each other.
const ASK_MAX: Duration = Duration::from_secs(3);
const ASKED_MAX: usize = 32;
/// Ids that a node remembers, of tokens and of guesses.
const KNOWN_MAX: usize = 10_000;

/// A token as the catalogue keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) name: Option<String>,
    /// SHA-256 of what is behind the id, hexadecimal.
    hash: String,
    pub(crate) scopes: Vec<Scope>,
    /// The agent that its bearer is.
    pub(crate) agent_id: Option<Arc<str>>,
    /// The namespace that it is confined to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) namespace: Option<Namespace>,
    pub(crate) created_at: Timestamp,
    pub(crate) expires_at: Option<Timestamp>,
    /// How much it may ask for, where that is not what every token may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) rate_limit: Option<RateLimit>,
}

impl Kept {
    /// The same with a limit of its own, or none.
    pub(crate) fn with_rate_limit(self, rate_limit: Option<RateLimit>) -> Self {
        Self { rate_limit, ..self }
    }
}

/// A new token, shown once.
pub(crate) struct New {
    pub(crate) id: String,
    pub(crate) token: String,
    hash: String,
}

impl New {
    pub(crate) fn random() -> Self {
        let id = format!("{:016x}", rand::random::<u64>());
        let secret = URL_SAFE_NO_PAD.encode(rand::random::<[u8; SECRET_BYTES]>());
        Self { token: format!("{PREFIX}{id}_{secret}"), hash: hash(&secret), id }
    }

    /// What is kept of it.
    pub(crate) fn kept(
        &self,
        name: Option<String>,
        scopes: Vec<Scope>,
        agent_id: Option<Arc<str>>,
        namespace: Option<Namespace>,
        created_at: Timestamp,
        expires_at: Option<Timestamp>,
    ) -> Kept {
        let hash = self.hash.clone();
        Kept { name, hash, scopes, agent_id, namespace, created_at, expires_at, rate_limit: None }
    }
}

fn hash(secret: &str) -> String {
    hex::encode(Sha256::digest(secret))
}

/// The id and the rest of what looks like a token of the cluster.
pub(crate) fn parts(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.strip_prefix(PREFIX)?.split_at_checked(ID_CHARS)?;
    let is_id = id.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    is_id.then_some((id, secret.strip_prefix('_')?))
}

/// What a node knows of tokens.
pub(crate) struct KnownTokens {
    known: Mutex<HashMap<Box<str>, Known>>,
    asked: Semaphore,
}

#[derive(Clone)]
struct Known {
    since: Instant,
    /// None when there is no such token.
    kept: Option<Arc<Kept>>,
}

impl Default for KnownTokens {
    fn default() -> Self {
        Self { known: Mutex::default(), asked: Semaphore::new(ASKED_MAX) }
    }
}

impl KnownTokens {
    /// The token of this id, if the rest is right and it has not expired. One that this node does not
    /// know of is asked for while `may_ask` says so.
    pub(super) async fn check(
        &self,
        state: &RouterState,
        (id, secret): (&str, &str),
        now: Timestamp,
        may_ask: impl Fn() -> bool,
    ) -> Result<Option<Arc<Kept>>, ApiError> {
        let known = self.known.lock().get(id).cloned();
        let kept = match known {
            Some(known) if known.since.elapsed() < FRESH => known.kept,
            known if known.as_ref().is_none_or(|known| known.kept.is_none()) && !may_ask() => {
                return Ok(None);
            }
            known => match self.ask(state, id).await {
                Some(kept) => kept,
                None => match known.filter(|known| known.since.elapsed() < STALE_MAX) {
                    Some(known) => known.kept,
                    None => return Err(unknowable()),
                },
            },
        };
        let shown = hash(secret);
        let is_right = |kept: &Arc<Kept>| {
            bool::from(kept.hash.as_bytes().ct_eq(shown.as_bytes()))
                && kept.expires_at.is_none_or(|expires| now < expires)
        };
        Ok(kept.filter(is_right))
    }

    /// What the catalogue has; none when it cannot be asked in time.
    async fn ask(&self, state: &RouterState, id: &str) -> Option<Option<Arc<Kept>>> {
        let asked = async {
            let _place = self.asked.acquire().await.ok()?;
            state.system().entry(EntryKind::Token, id.into()).await.ok()
        };
        let entry = tokio::time::timeout(ASK_MAX, asked).await.ok()??.value;
        let kept = entry.and_then(|entry| serde_json::from_str::<Kept>(&entry.body?).ok()).map(Arc::new);
        let mut known = self.known.lock();
        if known.len() >= KNOWN_MAX {
            known.retain(|_, known| known.kept.is_some() && known.since.elapsed() < STALE_MAX);
        }
        if known.len() < KNOWN_MAX {
            known.insert(id.into(), Known { since: Instant::now(), kept: kept.clone() });
        }
        Some(kept)
    }

    /// Forgets a token that was deleted through this node.
    pub(crate) fn forget(&self, id: &str) {
        self.known.lock().remove(id);
    }
}

fn unknowable() -> ApiError {
    ApiError::unavailable(Applied::No, "tokens cannot be checked now: the system shard does not answer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_token_has_an_id_and_a_secret_and_only_its_hash_is_kept() {
        let new = New::random();
        let (id, secret) = parts(&new.token).expect("its own form");
        assert_eq!(id, new.id);
        assert_eq!(secret.len(), 43);
        let kept = new.kept(None, vec![Scope::Read], None, None, Timestamp(1), None);
        let body = serde_json::to_string(&kept).unwrap();
        assert!(!body.contains(secret) && body.contains(&hash(secret)), "{body}");
        assert_ne!(New::random().token, new.token);
    }

    #[test]
    fn what_has_another_form_is_no_token_of_the_cluster() {
        for other in
            ["", "opc_", "opc_0123456789abcdef", "opc_0123456789ABCDEF_x", "0123456789abcdef_x", "opc_01é"]
        {
            assert_eq!(parts(other), None, "{other}");
        }
        assert_eq!(parts("opc_0123456789abcdef_"), Some(("0123456789abcdef", "")));
    }
}
