//! What this node's programs may not see, where they may write, and what is in force for them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use opcode_router::PluginHost;
use opcode_shard::actions::Actions;
use opcode_shard::isolation::{Isolation, IsolationOptions, Limits, own_folder};
use opcode_shard::vault::Vault;
use xxhash_rust::xxh3::xxh3_64;

use crate::config::Config;

/// The argument that makes a process of this program a launcher.
pub(crate) const LAUNCH: &str = "launch-confined";

/// How the node confines programs; makes the folder that they may write to, if it runs any.
pub(crate) fn options(config: &Config) -> Result<IsolationOptions> {
    let scratch = scratch(config);
    let runs_programs = config.allow_shell || config.allow_plugins;
    if runs_programs {
        make(&scratch).with_context(|| format!("scratch folder {} (scratch_dir)", scratch.display()))?;
    }
    // By this process's own file, so that a new version on disk does not come in between.
    let launcher = vec!["/proc/self/exe".to_owned(), LAUNCH.to_owned()];
    Ok(IsolationOptions {
        launcher,
        limits: limits(config),
        closed: closed(config),
        writable: config.fs_roots.iter().filter_map(|root| root.canonicalize().ok()).collect(),
        scratch: Some(scratch),
        groups: runs_programs,
    })
}

/// Makes the folder of what programs write, without what those before have left in its temporary one.
fn make(scratch: &Path) -> std::io::Result<()> {
    own_folder(scratch)?;
    let temporary = scratch.join("tmp");
    match std::fs::remove_dir_all(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    own_folder(&temporary).map(drop)
}

/// Where commands start unless they say where: here, but not among the node's own files.
pub(crate) fn working_dir(here: PathBuf, options: &IsolationOptions) -> PathBuf {
    let is_own = options.closed.iter().any(|closed| here.starts_with(closed));
    match &options.scratch {
        Some(scratch) if is_own => scratch.join("tmp"),
        Some(_) | None => here,
    }
}

fn limits(config: &Config) -> Limits {
    Limits {
        memory_bytes: config.step_memory_bytes,
        address_space_bytes: config.step_address_space_bytes,
        file_bytes: config.step_file_bytes,
        processes: config.step_processes,
        open_files: config.step_open_files,
        cpu_s: config.step_cpu_s,
    }
}

/// The plugins of the node, which it may not run unless it is told to.
pub(crate) fn plugins(config: &Config, actions: &Actions, vault: Arc<Vault>) -> Arc<PluginHost> {
    PluginHost::new(actions.isolation().clone(), vault, scratch(config), config.allow_plugins)
}

/// The node's own files: its data, where else it keeps some of that, and whatever holds a key.
fn closed(config: &Config) -> Vec<PathBuf> {
    let files = [
        Some(&config.data_dir),
        config.log_dir.as_ref(),
        config.archive_dir.as_ref(),
        config.backup_dir.as_ref(),
        config.peer_tls_dir.as_ref(),
        config.tls_key.as_ref(),
        config.token_file.as_ref(),
        config.secrets_key_file.as_ref(),
        config.secrets_passphrase_file.as_ref(),
    ];
    let mut closed: Vec<PathBuf> = files.into_iter().flatten().map(|path| resolved(path)).collect();
    closed.sort();
    closed.dedup_by(|path, before| path.starts_with(before));
    closed
}

/// A path with its links resolved, as far as it is there.
fn resolved(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut missing = Vec::new();
    for there in absolute.ancestors() {
        if let Ok(real) = there.canonicalize() {
            return missing.iter().rev().fold(real, |path, name| path.join(name));
        }
        missing.extend(there.file_name());
    }
    absolute
}

/// The folder of what programs write: named by the user and the data folder, unless it is told.
fn scratch(config: &Config) -> PathBuf {
    if let Some(scratch) = &config.scratch_dir {
        return resolved(scratch);
    }
    let user = nix::unistd::geteuid();
    let data = xxh3_64(resolved(&config.data_dir).as_os_str().as_encoded_bytes());
    resolved(&std::env::temp_dir()).join(format!("opcode-{user}-{data:016x}"))
}

/// What would be in force for programs of a node with this configuration: name and what it is.
pub(crate) async fn report(config: &Config) -> Result<Vec<(String, String)>> {
    let mut options = options(&Config { allow_shell: false, allow_plugins: false, ..config.clone() })?;
    // Nothing is written here, and the configuration tells the limits.
    (options.scratch, options.groups) = (None, true);
    let report = Isolation::new(options).report().await;
    let rows = report.as_object().context("a report is an object")?;
    let shown = rows.iter().filter(|(name, _)| *name != "limits").map(|(name, value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        (name.clone(), text)
    });
    Ok(shown.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_a_key_is_closed_wherever_it_lies() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("real")).unwrap();
        std::os::unix::fs::symlink(root.join("real"), root.join("link")).unwrap();
        let config = Config {
            data_dir: root.join("link/data"),
            log_dir: Some(root.join("link/data/log")),
            token_file: Some(root.join("tokens")),
            ..Config::default()
        };
        assert_eq!(closed(&config), [root.join("real/data"), root.join("tokens")]);
    }
}
