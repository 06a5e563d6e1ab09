//! The vault of an original OPCODE: AES-256-GCM, the nonce before the sealed value, under a key that
//! PBKDF2 (HMAC-SHA-256) makes of the passphrase with a salt that is the same everywhere.

use aes_gcm::aead::Aead;
use aes_gcm::{Aes256Gcm, KeyInit, Nonce};
use sha2::Sha256;
use zeroize::Zeroizing;

/// The salt that OPCODE has built in.
const SALT: &[u8] = b"opcode-vault-salt";
const ITERATIONS: u32 = 100_000;
const NONCE_BYTES: usize = 12;

/// Opens sealed values.
pub(super) struct Opener(Aes256Gcm);

impl Opener {
    /// Takes a moment.
    pub(super) fn new(passphrase: &str) -> Self {
        let mut key = Zeroizing::new([0_u8; 32]);
        pbkdf2::pbkdf2_hmac::<Sha256>(passphrase.as_bytes(), SALT, ITERATIONS, &mut *key);
        Self(Aes256Gcm::new((&*key).into()))
    }

    /// A value; the error says why it is not to be had, and nothing of it.
    pub(super) fn open(&self, sealed: &[u8]) -> Result<Zeroizing<String>, &'static str> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_BYTES).ok_or("it is too short")?;
        let opened = self
            .0
            .decrypt(Nonce::from_slice(nonce), sealed)
            .map_err(|_| "the passphrase does not open it")?;
        String::from_utf8(opened).map(Zeroizing::new).map_err(|_| "it is no text")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_opcode_has_sealed_is_opened() {
        let seal = |passphrase: &str, value: &[u8]| {
            let mut key = [0_u8; 32];
            pbkdf2::pbkdf2_hmac::<Sha256>(passphrase.as_bytes(), SALT, ITERATIONS, &mut key);
            let nonce = [7_u8; NONCE_BYTES];
            let sealed = Aes256Gcm::new((&key).into()).encrypt(Nonce::from_slice(&nonce), value).unwrap();
            [&nonce[..], &sealed].concat()
        };
        let opener = Opener::new("open sesame");
        assert_eq!(opener.open(&seal("open sesame", b"s3cret")).unwrap().as_str(), "s3cret");
        assert!(opener.open(&seal("another", b"s3cret")).unwrap_err().contains("passphrase"));
        assert!(opener.open(&seal("open sesame", &[0xff])).unwrap_err().contains("no text"));
        for length in 0..28 {
            assert!(opener.open(&vec![0; length]).is_err(), "{length}");
        }
    }
}
