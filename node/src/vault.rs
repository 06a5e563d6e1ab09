//! The keys of the vault, as a node is given them: a file of keys, a file of passphrases, or a
//! passphrase in the environment, in this order; the first of them all seals, every one opens.
//!
//! A passphrase is read from the environment alone and never from a configuration file, which others
//! may read; so it is no key of the configuration.

use std::sync::Arc;

use anyhow::{Context, Result};
use opcode_shard::vault::{Keys, SecretStore, Vault};
use zeroize::Zeroizing;

use crate::config::Config;
use crate::secret_file;

/// The variable that may hold a passphrase.
pub(crate) const PASSPHRASE: &str = "OPCODE_SECRETS_PASSPHRASE";

/// Whether the environment gives a passphrase.
pub(crate) fn has_passphrase() -> bool {
    std::env::var_os(PASSPHRASE).is_some()
}

/// The vault of a node: closed, when it is given no key.
pub(crate) fn open(config: &Config, store: Arc<dyn SecretStore>) -> Result<Arc<Vault>> {
    let passphrase = std::env::var_os(PASSPHRASE).map(std::ffi::OsString::into_string);
    let passphrase = passphrase.transpose().map_err(|_| anyhow::anyhow!("{PASSPHRASE} is not UTF-8"))?;
    keys(config, passphrase.map(Zeroizing::new)).map(|keys| Vault::new(keys, store))
}

fn keys(config: &Config, passphrase: Option<Zeroizing<String>>) -> Result<Keys> {
    let mut keys = Keys::default();
    let shown = |file: &std::path::Path| file.display().to_string();
    if let Some(file) = &config.secrets_key_file {
        let text = Zeroizing::new(secret_file::read(file)?);
        keys.add_key_file(&text).map_err(anyhow::Error::msg).with_context(|| shown(file))?;
    }
    if let Some(file) = &config.secrets_passphrase_file {
        let text = Zeroizing::new(secret_file::read(file)?);
        keys.add_passphrases(&text).map_err(anyhow::Error::msg).with_context(|| shown(file))?;
    }
    if let Some(text) = passphrase {
        keys.add_passphrases(&text).map_err(anyhow::Error::msg).context(PASSPHRASE)?;
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_from_files_of_their_owner_and_from_the_environment() {
        let home = tempfile::tempdir().unwrap();
        let (key_file, passphrases) = (home.path().join("key"), home.path().join("passphrases"));
        secret_file::create(&key_file, format!("# newest\n{}\n", "ab".repeat(32)).as_bytes()).unwrap();
        secret_file::create(&passphrases, b"one that is long enough\nan older one of these\n").unwrap();
        let config = Config {
            secrets_key_file: Some(key_file.clone()),
            secrets_passphrase_file: Some(passphrases.clone()),
            ..Config::default()
        };
        let found = keys(&config, Some(Zeroizing::new("of the environment".to_owned()))).unwrap();
        assert_eq!(format!("{found:?}"), "Keys(4)");
        let short = keys(&Config::default(), Some(Zeroizing::new("hunter2".to_owned()))).unwrap_err();
        let short = format!("{short:#}");
        assert!(short.contains(PASSPHRASE) && !short.contains("hunter2"), "{short}");
        let broken = home.path().join("broken");
        secret_file::create(&broken, b"not-a-key-canary\n").unwrap();
        let config = Config { secrets_key_file: Some(broken), ..Config::default() };
        let refused = format!("{:#}", keys(&config, None).unwrap_err());
        assert!(refused.contains("line 1") && !refused.contains("canary"), "{refused}");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        std::fs::set_permissions(&key_file, open).unwrap();
        let config = Config { secrets_key_file: Some(key_file), ..Config::default() };
        assert!(format!("{:#}", keys(&config, None).unwrap_err()).contains("chmod 600"));
    }
}
