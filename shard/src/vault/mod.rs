//! The vault: named secrets, sealed wherever they are kept, and opened in a worker alone.
//!
//! A secret's value is a text that params name as `${{secrets.KEY}}`. It is sealed on the node that
//! is told it ([`Vault::set`]) by AES-256-GCM under a key that nodes are given and never store, and
//! what a [`SecretStore`] keeps and replicates is the sealed form alone. Just before an action runs
//! its worker asks for the secrets that its params name ([`Vault::resolve`]); when it has run, a
//! [`mask::Mask`] takes their values out of whatever comes back, before any of it becomes an event.
//! Nothing is cached: each attempt opens what is kept then.
//!
//! A name is that of a namespace's secret (`NAMESPACE/KEY`, or `KEY` of `default`): a run is given those of
//! its own namespace, and one that was sealed in another does not open in it.
//!
//! A node without a key answers whatever needs one with `VAULT_ERROR`, and does all else. Times are
//! the wall's; no rule of a workflow rests on them.

mod keys;
pub mod mask;
mod sealed;
mod store;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use opcode_engine::expr::interpolate::is_secret_key;
use opcode_engine::ids::Timestamp;
use opcode_engine::namespace::{Namespace, local, split};
use opcode_engine::{Code, Fault};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::batch::Position;
use crate::clock::Clock;
use crate::error::CallError;
pub use keys::Keys;
use keys::{Found, Ring};
use mask::Mask;
use sealed::Sealed;
pub use store::{Answer, MemoryStore, SecretStore, StoreError, Stored};

/// Shortest value: what is shorter stands in too many texts by chance to be taken out of them.
pub const VALUE_BYTES_MIN: usize = 6;
/// Longest value.
pub const VALUE_BYTES_MAX: usize = 16 * 1024;
/// Secrets that are kept at most.
const SECRETS_MAX: usize = 10_000;
/// Bytes of all values that one attempt may take.
const RESOLVED_BYTES_MAX: usize = 64 * 1024;
/// Longest time that a worker waits for the secrets of an attempt.
const RESOLVE_MAX: Duration = Duration::from_secs(15);
/// Tries to put a secret where somebody else has just put one.
const TRIES_MAX: usize = 5;

/// Why the vault did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// The node has no key.
    #[error(
        "this node has no key for secrets: give it one with secrets_key_file, or a passphrase with \
         secrets_passphrase_file or OPCODE_SECRETS_PASSPHRASE"
    )]
    NoKey,
    /// There is none of this name.
    #[error("there is no secret `{key}`: `opcode secret set {key}` makes one", key = local(.0))]
    Missing(String),
    /// None of the node's keys opens it.
    #[error(
        "secret `{}` is sealed with key {key}, which this node does not have: give it the same \
         secrets_key_file or passphrase as the node that sealed it, or remove the secret and set it anew",
        local(.name)
    )]
    WrongKey {
        /// Which secret.
        name: String,
        /// The id of the key that it takes.
        key: String,
    },
    /// What is kept is not what was sealed.
    #[error("secret `{}` cannot be opened: {why}", local(.name))]
    Damaged {
        /// Which secret.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The caller's: a name or a value that cannot be.
    #[error("{message}")]
    Refused {
        /// `key` or `value`.
        field: &'static str,
        /// What it must be.
        message: String,
    },
    /// Others kept changing it.
    #[error("secret `{}` is being changed by others: try again", local(.0))]
    Contended(String),
    /// The store gave no answer.
    #[error(transparent)]
    Store(CallError),
    /// Too long for one attempt.
    #[error("the secrets of one step are over {max} bytes together", max = RESOLVED_BYTES_MAX)]
    TooLong,
}

impl From<VaultError> for Fault {
    fn from(error: VaultError) -> Self {
        Self::new(Code::VaultError, error.to_string())
    }
}

/// A secret as it is shown: never with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub key: String,
    /// When it was first set.
    pub created_at: Timestamp,
    /// When its value was last set.
    pub updated_at: Timestamp,
}

/// What a rotation came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rotated {
    /// Secrets that are sealed with the new key now.
    pub resealed: usize,
    /// Secrets that were before.
    pub unchanged: usize,
    /// Secrets that could not be opened, or that others kept changing.
    pub failed: Vec<String>,
}

/// A secret as a [`SecretStore`] keeps it: JSON that may be read by anybody.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    secret: Sealed,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl Record {
    fn read(name: &str, body: &str) -> Result<Self, VaultError> {
        serde_json::from_str(body).map_err(|_| VaultError::Damaged {
            name: name.to_owned(),
            why: "what is kept is not a sealed secret, or of a newer version than this node's",
        })
    }

    fn written(&self) -> String {
        serde_json::to_string(self).expect("a record is JSON")
    }

    fn listed(&self, key: &str) -> Listed {
        Listed { key: key.to_owned(), created_at: self.created_at, updated_at: self.updated_at }
    }
}

/// A node's way to the secrets of its cluster.
pub struct Vault {
    ring: Ring,
    store: Arc<dyn SecretStore>,
    clock: Clock,
}

impl Vault {
    /// The vault of a node with these keys, over what the cluster keeps.
    pub fn new(keys: Keys, store: Arc<dyn SecretStore>) -> Arc<Self> {
        Arc::new(Self { ring: Ring::new(keys), store, clock: Clock::default() })
    }

    /// One with no key and nothing in it.
    pub fn closed() -> Arc<Self> {
        Self::new(Keys::default(), Arc::new(MemoryStore::default()))
    }

    /// Sets a secret, new or not; says whether it is new.
    ///
    /// # Errors
    /// A name or a value that cannot be, no key, a key that opens nothing of what is kept (so that
    /// no node with the wrong passphrase seals what the others cannot open), or the store's.
    pub async fn set(
        &self,
        name: &str,
        value: &SecretString,
    ) -> Result<(Listed, bool, Position), VaultError> {
        check_name(name)?;
        check_value(value.expose_secret())?;
        if self.ring.is_empty() {
            return Err(VaultError::NoKey);
        }
        let (all, _) = self.store.list().await.map_err(|error| store_error(name, error))?;
        if all.len() >= SECRETS_MAX && !all.iter().any(|(key, _)| key == name) {
            let message = format!("there are {SECRETS_MAX} secrets already, and there can be no more");
            return Err(VaultError::Refused { field: "key", message });
        }
        let sealing = self.sealing(&all).await?;
        for _ in 0..TRIES_MAX {
            let (stored, _) = self.store.get(name).await.map_err(|error| store_error(name, error))?;
            let (revision, before) = match &stored {
                Some(stored) => (Some(stored.revision), Record::read(name, &stored.body).ok()),
                None => (None, None),
            };
            let now = self.clock.now();
            let record = Record {
                secret: sealing.seal(name, value),
                created_at: before.map_or(now, |before| before.created_at),
                updated_at: now,
            };
            match self.store.put(name, record.written(), revision).await {
                Ok(((), position)) => return Ok((record.listed(name), stored.is_none(), position)),
                Err(StoreError::Conflict) => {}
                Err(error) => return Err(store_error(name, error)),
            }
        }
        Err(VaultError::Contended(name.to_owned()))
    }

    /// Removes a secret; false when there was none.
    ///
    /// # Errors
    /// The store's.
    pub async fn remove(&self, name: &str) -> Result<(bool, Position), VaultError> {
        check_name(name)?;
        for _ in 0..TRIES_MAX {
            let (stored, position) = self.store.get(name).await.map_err(|error| store_error(name, error))?;
            let Some(stored) = stored else { return Ok((false, position)) };
            match self.store.remove(name, stored.revision).await {
                Ok(((), position)) => return Ok((true, position)),
                Err(StoreError::Conflict) => {}
                Err(error) => return Err(store_error(name, error)),
            }
        }
        Err(VaultError::Contended(name.to_owned()))
    }

    /// Every secret by name, in their order. It takes no key.
    ///
    /// # Errors
    /// The store's.
    pub async fn list(&self) -> Result<(Vec<Listed>, Position), VaultError> {
        let (all, position) = self.store.list().await.map_err(|error| store_error("", error))?;
        let unreadable = |name: &str| Listed {
            key: name.to_owned(),
            created_at: Timestamp::default(),
            updated_at: Timestamp::default(),
        };
        let listed = all.iter().map(|(name, stored)| {
            // One that is damaged is shown too, so that it can be set anew or removed.
            Record::read(name, &stored.body).map_or_else(|_| unreadable(name), |record| record.listed(name))
        });
        let mut listed: Vec<_> = listed.collect();
        listed.sort_by(|a, b| a.key.cmp(&b.key));
        Ok((listed, position))
    }

    /// Seals with the first of the node's keys whatever is sealed with another. It may be asked for
    /// again whenever it was not done for all.
    ///
    /// # Errors
    /// No key, a key that opens nothing of what is kept, or the store's.
    pub async fn rotate(&self) -> Result<Rotated, VaultError> {
        if self.ring.is_empty() {
            return Err(VaultError::NoKey);
        }
        let (all, _) = self.store.list().await.map_err(|error| store_error("", error))?;
        let sealing = self.sealing(&all).await?;
        let mut rotated = Rotated::default();
        for (name, _) in &all {
            match self.reseal(name, &sealing).await {
                Ok(true) => rotated.resealed += 1,
                Ok(false) => rotated.unchanged += 1,
                Err(VaultError::Store(error)) => return Err(VaultError::Store(error)),
                Err(error) => {
                    tracing::warn!(secret = name.as_str(), %error, "a secret was left as it is sealed");
                    rotated.failed.push(name.clone());
                }
            }
        }
        Ok(rotated)
    }

    /// Whether it had to be sealed anew. Its value stays, and so do its times.
    async fn reseal(&self, name: &str, sealing: &Found) -> Result<bool, VaultError> {
        for _ in 0..TRIES_MAX {
            let (stored, _) = self.store.get(name).await.map_err(|error| store_error(name, error))?;
            let Some(stored) = stored else { return Ok(false) };
            let record = Record::read(name, &stored.body)?;
            if record.secret.key == sealing.key.id() {
                return Ok(false);
            }
            let value = self.open(name, &record.secret).await?;
            let record = Record { secret: sealing.seal(name, &value), ..record };
            match self.store.put(name, record.written(), Some(stored.revision)).await {
                Ok(_) => return Ok(true),
                Err(StoreError::Conflict) => {}
                Err(error) => return Err(store_error(name, error)),
            }
        }
        Err(VaultError::Contended(name.to_owned()))
    }

    /// Seals what is kept elsewhere than among the secrets, under a name of its own there, which may
    /// hold no line end.
    ///
    /// # Errors
    /// No key, a key that opens nothing of what is kept, or the store's.
    pub async fn seal(&self, name: &str, value: &SecretString) -> Result<String, VaultError> {
        assert!(!name.contains('\n'), "a name is one line");
        if self.ring.is_empty() {
            return Err(VaultError::NoKey);
        }
        let (all, _) = self.store.list().await.map_err(|error| store_error(name, error))?;
        let sealed = self.sealing(&all).await?.seal(name, value);
        Ok(serde_json::to_string(&sealed).expect("what is sealed is JSON"))
    }

    /// Opens it again.
    ///
    /// # Errors
    /// No key, another key, or damage.
    pub async fn unseal(&self, name: &str, sealed: &str) -> Result<SecretString, VaultError> {
        if self.ring.is_empty() {
            return Err(VaultError::NoKey);
        }
        let damaged = |why| VaultError::Damaged { name: name.to_owned(), why };
        let sealed = serde_json::from_str(sealed).map_err(|_| damaged("it is not what is sealed here"))?;
        self.open(name, &sealed).await
    }

    /// The same sealed with the first of the node's keys, when it is sealed with another.
    ///
    /// # Errors
    /// Those of [`Vault::seal`] and [`Vault::unseal`].
    pub async fn resealed(&self, name: &str, sealed: &str) -> Result<Option<String>, VaultError> {
        let value = self.unseal(name, sealed).await?;
        let anew = self.seal(name, &value).await?;
        let key = |text: &str| serde_json::from_str::<Sealed>(text).ok().map(|sealed| sealed.key);
        Ok(Some(anew).filter(|anew| key(anew) != key(sealed)))
    }

    /// The values of a namespace's secrets of these keys, as they are now.
    pub async fn resolve(
        &self,
        namespace: &Namespace,
        keys: &BTreeSet<&str>,
    ) -> Result<Resolved, VaultError> {
        let resolved = async {
            let mut values = BTreeMap::new();
            let mut bytes = 0;
            for key in keys {
                let name = namespace.qualify(*key).ok_or_else(|| VaultError::Missing((*key).to_owned()))?;
                let value = self.value(&name).await?;
                bytes += value.expose_secret().len();
                if bytes > RESOLVED_BYTES_MAX {
                    return Err(VaultError::TooLong);
                }
                values.insert((*key).to_owned(), value);
            }
            Ok(Resolved { values })
        };
        let late = || {
            let message = "the secrets could not be read in time".to_owned();
            VaultError::Store(CallError::Unavailable { applied_unknown: false, message })
        };
        tokio::time::timeout(RESOLVE_MAX, resolved).await.unwrap_or_else(|_| Err(late()))
    }

    async fn value(&self, name: &str) -> Result<SecretString, VaultError> {
        if self.ring.is_empty() {
            return Err(VaultError::NoKey);
        }
        let (stored, _) = self.store.get(name).await.map_err(|error| store_error(name, error))?;
        let stored = stored.ok_or_else(|| VaultError::Missing(name.to_owned()))?;
        self.open(name, &Record::read(name, &stored.body)?.secret).await
    }

    async fn open(&self, name: &str, sealed: &Sealed) -> Result<SecretString, VaultError> {
        let damaged = |why| VaultError::Damaged { name: name.to_owned(), why };
        sealed.check().map_err(damaged)?;
        let found = self.ring.find(sealed).await.ok_or_else(|| wrong_key(name, sealed))?;
        sealed.open(&found.key, name).map_err(damaged)
    }

    /// The key to seal with. A passphrase goes on with the salt that it has been used with, so that
    /// a vault has one key and not one for each secret.
    async fn sealing(&self, all: &[(String, Stored)]) -> Result<Found, VaultError> {
        let mut foreign = None;
        let mut opens_any = false;
        for (name, stored) in all {
            let Ok(record) = Record::read(name, &stored.body) else { continue };
            if record.secret.check().is_err() {
                continue;
            }
            match self.ring.find(&record.secret).await {
                Some(found) if found.is_first => return Ok(found),
                Some(_) => opens_any = true,
                None => foreign = foreign.or_else(|| Some(wrong_key(name, &record.secret))),
            }
        }
        match foreign {
            Some(error) if !opens_any => Err(error),
            Some(_) | None => self.ring.first().await.ok_or(VaultError::NoKey),
        }
    }
}

/// Secrets opened for one attempt, by what the run calls them; wiped from memory when it is over.
pub struct Resolved {
    values: BTreeMap<String, SecretString>,
}

impl Resolved {
    /// The value of one of those that were asked for.
    pub fn value(&self, name: &str) -> &str {
        self.values.get(name).map_or("", |value| value.expose_secret())
    }

    /// What takes their values out of what an action gives back.
    pub fn mask(&self) -> Mask {
        Mask::of(self.values.iter().map(|(name, value)| (name.as_str(), value.expose_secret())))
    }
}

/// Refuses what can be no secret's key.
///
/// # Errors
/// [`VaultError::Refused`].
pub fn check_key(key: &str) -> Result<(), VaultError> {
    if is_secret_key(key) {
        return Ok(());
    }
    let message = "a secret's key is 1 to 128 characters of A-Z a-z 0-9 . _ -".to_owned();
    Err(VaultError::Refused { field: "key", message })
}

/// The same of a name that is kept.
fn check_name(name: &str) -> Result<(), VaultError> {
    check_key(split(name).map_or(name, |(_, key)| key))
}

fn check_value(value: &str) -> Result<(), VaultError> {
    let refused = |message| Err(VaultError::Refused { field: "value", message });
    if value.len() > VALUE_BYTES_MAX {
        return refused(format!("is {} bytes long; a secret has at most {VALUE_BYTES_MAX}", value.len()));
    }
    if value.trim().len() < VALUE_BYTES_MIN {
        return refused(format!(
            "is shorter than {VALUE_BYTES_MIN} bytes: so short a text stands elsewhere by chance, and could \
             not be taken out of outputs and errors"
        ));
    }
    Ok(())
}

fn wrong_key(name: &str, sealed: &Sealed) -> VaultError {
    VaultError::WrongKey { name: name.to_owned(), key: sealed.key.chars().take(32).collect() }
}

fn store_error(name: &str, error: StoreError) -> VaultError {
    match error {
        StoreError::Conflict => VaultError::Contended(name.to_owned()),
        StoreError::Call(error) => VaultError::Store(error),
    }
}
