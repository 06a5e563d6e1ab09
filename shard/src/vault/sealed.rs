//! A secret's sealed form: JSON that is safe to keep, to replicate and to show.
//!
//! `{v, key, derivation?, nonce, sealed}`: AES-256-GCM under the key with the id `key`, with a
//! random nonce. The secret's name and the key's id are authenticated with it, so that what was
//! sealed as one secret never opens as another. Bytes are in base64.

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::keys::{Derivation, Key};

/// The version that is written; a newer one is refused.
const VERSION: u32 = 1;
/// Bytes of a nonce.
const NONCE_BYTES: usize = 12;

/// A sealed value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sealed {
    v: u32,
    /// The id of the key.
    pub(super) key: String,
    /// How the key was made, when it was made of a passphrase.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) derivation: Option<Derivation>,
    nonce: String,
    sealed: String,
}

impl Sealed {
    /// Seals a value as the secret of this name.
    pub(super) fn seal(
        key: &Key,
        derivation: Option<Derivation>,
        name: &str,
        value: &str,
        nonce: [u8; NONCE_BYTES],
    ) -> Self {
        let about = about(key.id(), name);
        let payload = Payload { msg: value.as_bytes(), aad: about.as_bytes() };
        let sealed =
            cipher(key).encrypt(&Nonce::from(nonce), payload).expect("a secret is shorter than 64 GiB");
        Self {
            v: VERSION,
            key: key.id().to_owned(),
            derivation,
            nonce: STANDARD.encode(nonce),
            sealed: STANDARD.encode(sealed),
        }
    }

    /// Whether it can be opened at all, whatever the key.
    pub(super) fn check(&self) -> Result<(), &'static str> {
        if self.v != VERSION {
            return Err("it is sealed in a way that this version of the program does not know");
        }
        if self.derivation.as_ref().is_some_and(|how| !how.is_bounded()) {
            return Err("its key asks for more work than any key of this program does");
        }
        Ok(())
    }

    /// The value; `key` is the one whose id it names.
    pub(super) fn open(&self, key: &Key, name: &str) -> Result<SecretString, &'static str> {
        const DAMAGED: &str = "it was altered since it was sealed";
        let nonce = STANDARD.decode(&self.nonce).map_err(|_| DAMAGED)?;
        let sealed = STANDARD.decode(&self.sealed).map_err(|_| DAMAGED)?;
        let nonce: [u8; NONCE_BYTES] = nonce.try_into().map_err(|_| DAMAGED)?;
        let about = about(&self.key, name);
        let payload = Payload { msg: &sealed, aad: about.as_bytes() };
        let opened =
            cipher(key).decrypt(&Nonce::from(nonce), payload).map(Zeroizing::new).map_err(|_| DAMAGED)?;
        let value = std::str::from_utf8(&opened).map_err(|_| DAMAGED)?;
        Ok(SecretString::from(value))
    }
}

fn cipher(key: &Key) -> Aes256Gcm {
    Aes256Gcm::new_from_slice(key.bytes()).expect("a key has 32 bytes")
}

/// What is authenticated beside the value. Neither part can hold a line end.
fn about(key: &str, name: &str) -> String {
    format!("opcode secret {VERSION}\n{key}\n{name}")
}
