//! Keys that a node is given: 32 random bytes from a file, or what Argon2id makes of a passphrase.
//!
//! A node may have several, newest first: the first seals, every one opens. That is how a key is
//! rotated without a moment at which a secret cannot be read. A passphrase makes one key for each
//! salt; the salt stands in what was sealed with it, so every node that has the passphrase makes
//! the same key. Keys and passphrases are wiped from memory when they are dropped, and never shown.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::sealed::Sealed;
use crate::simulation;

/// Bytes of a key.
pub(super) const KEY_BYTES: usize = 32;
/// Keys and passphrases of one node.
const KEYS_MAX: usize = 8;
/// Shortest passphrase, in characters: what a machine can try against what is sealed has to be long.
const PASSPHRASE_CHARS_MIN: usize = 12;
/// Keys made of passphrases that are held.
const DERIVED_MAX: usize = 64;
/// Argon2id as RFC 9106 recommends where memory is scarce, with one lane.
const MEMORY_KIB: u32 = 64 * 1024;
const PASSES: u32 = 3;
const LANES: u32 = 1;
/// Most that what is sealed may ask for.
const MEMORY_KIB_MAX: u32 = 256 * 1024;
const PASSES_MAX: u32 = 16;

/// A key, and what it goes by.
pub(super) struct Key {
    id: String,
    bytes: Zeroizing<[u8; KEY_BYTES]>,
}

impl Key {
    pub(super) fn of(bytes: Zeroizing<[u8; KEY_BYTES]>) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"opcode key id\0");
        hash.update(bytes.as_slice());
        Self { id: hex::encode(&hash.finalize()[..8]), bytes }
    }

    /// The first 8 bytes of a hash of it, in hex.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.bytes
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id)
    }
}

/// How a key was made of a passphrase.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Derivation {
    /// 16 random bytes, in base64.
    salt: String,
    memory_kib: u32,
    passes: u32,
}

impl Derivation {
    fn random() -> Self {
        let salt = STANDARD.encode(rand::random::<[u8; 16]>());
        Self { salt, memory_kib: MEMORY_KIB, passes: PASSES }
    }

    /// Whether it asks for no more than a node gives.
    pub(super) fn is_bounded(&self) -> bool {
        (8..=MEMORY_KIB_MAX).contains(&self.memory_kib)
            && (1..=PASSES_MAX).contains(&self.passes)
            && STANDARD.decode(&self.salt).is_ok_and(|salt| (8..=64).contains(&salt.len()))
    }

    fn key(&self, passphrase: &SecretString) -> Option<Key> {
        let params = Params::new(self.memory_kib, self.passes, LANES, Some(KEY_BYTES)).ok()?;
        let salt = STANDARD.decode(&self.salt).ok()?;
        let mut bytes = Zeroizing::new([0; KEY_BYTES]);
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(passphrase.expose_secret().as_bytes(), &salt, bytes.as_mut_slice())
            .ok()?;
        Some(Key::of(bytes))
    }
}

enum Source {
    Key(Arc<Key>),
    Passphrase(Arc<SecretString>),
}

/// The keys that a node is given, the one that seals first.
#[derive(Default)]
pub struct Keys {
    sources: Vec<Source>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.sources.len())
    }
}

impl Keys {
    /// Adds the keys of a file's text: one a line, 32 bytes in hex or base64; what follows a `#` and
    /// empty lines count for nothing.
    ///
    /// # Errors
    /// Says which line is wrong and why, and never what stands in it.
    pub fn add_key_file(&mut self, text: &str) -> Result<(), String> {
        let before = self.sources.len();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let key = key_of(line).ok_or_else(|| {
                format!(
                    "line {number}: not a key of 32 bytes in hex or base64: `openssl rand -hex 32` makes one"
                )
            })?;
            self.add(Source::Key(Arc::new(key)))?;
        }
        if self.sources.len() == before {
            return Err("there is no key in it: one a line, as `openssl rand -hex 32` makes them".into());
        }
        Ok(())
    }

    /// Adds the passphrases of a text, one a line.
    ///
    /// # Errors
    /// Says which line is wrong and why, and never what stands in it.
    pub fn add_passphrases(&mut self, text: &str) -> Result<(), String> {
        let before = self.sources.len();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() {
                continue;
            }
            let chars = line.chars().count();
            if chars < PASSPHRASE_CHARS_MIN {
                return Err(format!(
                    "line {number}: a passphrase of {chars} characters; it takes {PASSPHRASE_CHARS_MIN}"
                ));
            }
            self.add(Source::Passphrase(Arc::new(SecretString::from(line.to_owned()))))?;
        }
        if self.sources.len() == before {
            return Err("there is no passphrase in it".into());
        }
        Ok(())
    }

    fn add(&mut self, source: Source) -> Result<(), String> {
        if self.sources.len() >= KEYS_MAX {
            return Err(format!("more than {KEYS_MAX} keys and passphrases"));
        }
        self.sources.push(source);
        Ok(())
    }
}

/// 64 digits of hex, or base64 of 32 bytes.
fn key_of(line: &str) -> Option<Key> {
    let decoded = Zeroizing::new(match line.len() {
        64 => hex::decode(line).ok()?,
        _ => STANDARD.decode(line).ok()?,
    });
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    if decoded.len() != KEY_BYTES {
        return None;
    }
    bytes.copy_from_slice(&decoded);
    Some(Key::of(bytes))
}

/// A key that was found, and how it was made.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) key: Arc<Key>,
    pub(super) derivation: Option<Derivation>,
    /// It is the one that seals.
    pub(super) is_first: bool,
}

impl Found {
    pub(super) fn seal(&self, name: &str, value: &SecretString) -> Sealed {
        Sealed::seal(&self.key, self.derivation.clone(), name, value.expose_secret(), rand::random())
    }
}

/// The keys of a node, and those that have been made of its passphrases.
pub(super) struct Ring {
    sources: Vec<Source>,
    /// By passphrase and how. Held while one is made, so that many who need it make it once.
    derived: tokio::sync::Mutex<BTreeMap<(usize, Derivation), Arc<Key>>>,
}

impl Ring {
    pub(super) fn new(keys: Keys) -> Self {
        Self { sources: keys.sources, derived: tokio::sync::Mutex::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// The key that something was sealed with, if it is one of these.
    pub(super) async fn find(&self, sealed: &Sealed) -> Option<Found> {
        for (index, source) in self.sources.iter().enumerate() {
            let key = match (source, &sealed.derivation) {
                (Source::Key(key), None) => Some(key.clone()),
                (Source::Passphrase(passphrase), Some(how)) => self.derive(index, passphrase, how).await,
                (Source::Key(_), Some(_)) | (Source::Passphrase(_), None) => None,
            };
            if let Some(key) = key.filter(|key| key.id() == sealed.key) {
                return Some(Found { key, derivation: sealed.derivation.clone(), is_first: index == 0 });
            }
        }
        None
    }

    /// The key that seals where nothing has been sealed with it yet.
    pub(super) async fn first(&self) -> Option<Found> {
        let (key, derivation) = match self.sources.first()? {
            Source::Key(key) => (key.clone(), None),
            Source::Passphrase(passphrase) => {
                let how = Derivation::random();
                (self.derive(0, passphrase, &how).await?, Some(how))
            }
        };
        Some(Found { key, derivation, is_first: true })
    }

    async fn derive(
        &self,
        index: usize,
        passphrase: &Arc<SecretString>,
        how: &Derivation,
    ) -> Option<Arc<Key>> {
        let mut derived = self.derived.lock().await;
        let at = (index, how.clone());
        if let Some(key) = derived.get(&at) {
            return Some(key.clone());
        }
        let (passphrase, how) = (passphrase.clone(), how.clone());
        let key = simulation::blocking(move || how.key(&passphrase)).await.ok()??;
        if derived.len() >= DERIVED_MAX {
            derived.clear();
        }
        let key = Arc::new(key);
        derived.insert(at, key.clone());
        Some(key)
    }
}
