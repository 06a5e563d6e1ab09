//! Configuration: flags beat environment beats file beats default, and every value knows where
//! it came from. An unknown key is an error.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use figment::Figment;
use figment::providers::{Env, Format, Json, Serialized, Toml};
use serde::{Deserialize, Deserializer, Serialize};

use crate::replicas::Wanted;

/// Everything a node can be told.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Folder of all data; made when missing.
    pub(crate) data_dir: PathBuf,
    /// Folder of the log, for a device of its own; default `DATA_DIR/log`.
    pub(crate) log_dir: Option<PathBuf>,
    /// Address of the HTTP API.
    pub(crate) listen: SocketAddr,
    /// Address for other nodes; default the HTTP address with its port and 1 000.
    pub(crate) peer_listen: Option<SocketAddr>,
    /// Where clients and nodes are told that this node's HTTP API is: `HOST[:PORT]`; default `listen`.
    pub(crate) advertise: Option<String>,
    /// Where other nodes are told that it is: `HOST[:PORT]`; default `peer_listen`.
    pub(crate) peer_advertise: Option<String>,
    /// Folder of the node's certificate, its key, and the cluster's CA; needed beyond loopback.
    pub(crate) peer_tls_dir: Option<PathBuf>,
    /// File of bearer tokens, of which HTTP calls must show one; needed beyond loopback.
    pub(crate) token_file: Option<PathBuf>,
    /// File of keys for secrets, 32 bytes in hex or base64 a line: the first seals, all open.
    pub(crate) secrets_key_file: Option<PathBuf>,
    /// File of passphrases for secrets, one a line, likewise; after the keys.
    pub(crate) secrets_passphrase_file: Option<PathBuf>,
    /// HTTP addresses of nodes of a cluster that a new node joins.
    pub(crate) join: Vec<String>,
    /// Replicas of a shard in a new cluster, when it has nodes enough.
    pub(crate) replication_factor: u32,
    /// Shards of a new data folder; default 2 × cores, at least 4.
    pub(crate) shards: Option<u32>,
    /// Shards that this node keeps embedded replicas of when it is no member of them, for reads:
    /// `all`, or numbers with commas between.
    #[serde(deserialize_with = "words")]
    pub(crate) replicas: String,
    /// Steps with side effects that run at a time.
    pub(crate) pool_size: usize,
    /// Whether `shell.exec` is on.
    pub(crate) allow_shell: bool,
    /// Whether `http.*` may reach private and loopback addresses.
    pub(crate) allow_private_network: bool,
    /// Folders that `fs.*` may touch.
    pub(crate) fs_roots: Vec<PathBuf>,
    /// Hours between two readings of all that is stored, for damage; 0 is never.
    pub(crate) scrub_every_hours: u32,
    /// Least severe log level, or a filter as of `tracing`.
    pub(crate) log_level: String,
    /// Bytes of one log segment file.
    pub(crate) log_segment_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: "opcode-data".into(),
            log_dir: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 4100)),
            peer_listen: None,
            advertise: None,
            peer_advertise: None,
            peer_tls_dir: None,
            token_file: None,
            secrets_key_file: None,
            secrets_passphrase_file: None,
            join: Vec::new(),
            replication_factor: opcode_router::shard_map::REPLICATION_FACTOR_DEFAULT,
            shards: None,
            replicas: String::new(),
            pool_size: 10,
            allow_shell: false,
            allow_private_network: false,
            fs_roots: Vec::new(),
            scrub_every_hours: 24,
            log_level: "info".into(),
            log_segment_bytes: 64 * 1024 * 1024,
        }
    }
}

/// Keys that the environment may set, as `OPCODE_KEY`.
const KEYS: &[&str] = &[
    "data_dir",
    "log_dir",
    "listen",
    "peer_listen",
    "advertise",
    "peer_advertise",
    "peer_tls_dir",
    "token_file",
    "secrets_key_file",
    "secrets_passphrase_file",
    "join",
    "replication_factor",
    "shards",
    "replicas",
    "pool_size",
    "allow_shell",
    "allow_private_network",
    "fs_roots",
    "scrub_every_hours",
    "log_level",
    "log_segment_bytes",
];

/// Flags of the commands that run a node.
#[derive(Args, Clone, Debug, Default, Serialize)]
pub(crate) struct NodeFlags {
    /// Folder of all data [default: opcode-data]
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    data_dir: Option<PathBuf>,
    /// Folder of the log, for a device of its own [default: DATA_DIR/log]
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    log_dir: Option<PathBuf>,
    /// Address of the HTTP API [default: 127.0.0.1:4100]
    #[arg(long, value_name = "ADDR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    listen: Option<SocketAddr>,
    /// Address for other nodes [default: the HTTP address, its port and 1000]
    #[arg(long, value_name = "ADDR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_listen: Option<SocketAddr>,
    /// Where clients and nodes are told that the HTTP API is [default: as --listen]
    #[arg(long, value_name = "HOST[:PORT]")]
    #[serde(skip_serializing_if = "Option::is_none")]
    advertise: Option<String>,
    /// Where other nodes are told that this one is [default: as --peer-listen, or --advertise]
    #[arg(long, value_name = "HOST[:PORT]")]
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_advertise: Option<String>,
    /// Folder of ca.pem, node.pem and node.key, as `opcode cluster certs` makes it
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    peer_tls_dir: Option<PathBuf>,
    /// Set by the flag of all commands.
    #[arg(skip)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_file: Option<PathBuf>,
    /// File of keys for secrets, 32 bytes in hex or base64 a line: the first seals, all open. A
    /// passphrase may stand in OPCODE_SECRETS_PASSPHRASE instead
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    secrets_key_file: Option<PathBuf>,
    /// File of passphrases for secrets, one a line: the first seals, all open
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    secrets_passphrase_file: Option<PathBuf>,
    /// HTTP address of a node of the cluster that this new node joins; repeat for more
    #[arg(long, value_name = "HTTP_ADDR")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    join: Vec<String>,
    /// Replicas of a shard in a new cluster, when it has nodes enough [default: 3]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=7))]
    #[serde(skip_serializing_if = "Option::is_none")]
    replication_factor: Option<u32>,
    /// Shards of a new data folder [default: 2 × cores, at least 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    #[serde(skip_serializing_if = "Option::is_none")]
    shards: Option<u32>,
    /// Shards to keep read-only replicas of on a node that is no member of them: all, or numbers
    /// with commas between [default: none]
    #[arg(long, value_name = "SHARDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    replicas: Option<String>,
    /// Steps with side effects that run at a time [default: 10]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pool_size: Option<usize>,
    /// Turn shell.exec on
    #[arg(long)]
    #[serde(skip_serializing_if = "is_false")]
    allow_shell: bool,
    /// Let http.* reach private and loopback addresses
    #[arg(long)]
    #[serde(skip_serializing_if = "is_false")]
    allow_private_network: bool,
    /// A folder that fs.* may touch; repeat for more
    #[arg(long = "fs-root", value_name = "DIR")]
    #[serde(rename = "fs_roots", skip_serializing_if = "Vec::is_empty")]
    fs_roots: Vec<PathBuf>,
    /// Hours between two readings of all that is stored, for damage; 0 is never [default: 24]
    #[arg(long, value_name = "HOURS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    scrub_every_hours: Option<u32>,
    /// Least severe log level: error, warn, info, debug, trace, or a filter [default: info]
    #[arg(long, value_name = "LEVEL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    log_level: Option<String>,
    /// Configuration file: TOML, or OPCODE's settings.json [default: opcode.toml, when there is one]
    #[arg(long, value_name = "FILE", env = "OPCODE_CONFIG")]
    #[serde(skip)]
    config: Option<PathBuf>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// What `opcode dev` turns on where nothing else is said.
#[derive(Serialize)]
struct DevDefaults {
    allow_shell: bool,
    allow_private_network: bool,
    fs_roots: Vec<PathBuf>,
}

/// A configuration and where its values came from.
pub(crate) struct Loaded {
    pub(crate) config: Config,
    figment: Figment,
}

impl Loaded {
    /// Each key with its value and origin, for `opcode config`, and that there is a passphrase, if
    /// there is one: never which.
    pub(crate) fn origins(&self) -> Result<Vec<(String, serde_json::Value, String)>> {
        let values = serde_json::to_value(&self.config)?;
        let mut rows = Vec::new();
        for (key, value) in values.as_object().context("a configuration is an object")? {
            let origin = self.figment.find_metadata(key).map_or_else(
                || "default".to_owned(),
                |metadata| match &metadata.source {
                    Some(figment::Source::File(path)) => format!("file {}", path.display()),
                    Some(_) | None => metadata.name.to_string(),
                },
            );
            rows.push((key.clone(), value.clone(), origin));
        }
        if crate::vault::has_passphrase() {
            let origin = format!("environment variable {}", crate::vault::PASSPHRASE);
            rows.push(("secrets_passphrase".to_owned(), "(not shown)".into(), origin));
        }
        Ok(rows)
    }
}

/// Puts a configuration together. `dev` turns on what a laptop needs.
pub(crate) fn load(flags: &NodeFlags, dev: bool) -> Result<Loaded> {
    let mut figment = Figment::from(Layer("default", &Config::default()));
    if dev {
        let here = std::env::current_dir().context("the current folder cannot be read")?;
        let defaults = DevDefaults { allow_shell: true, allow_private_network: true, fs_roots: vec![here] };
        figment = figment.merge(Layer("opcode dev", &defaults));
    }
    if let Some(path) = config_file(flags)? {
        figment = if path.extension().is_some_and(|e| e == "json") {
            figment.merge(Json::file_exact(&path))
        } else {
            figment.merge(Toml::file_exact(&path))
        };
    }
    figment = figment.merge(Env::prefixed("OPCODE_").only(KEYS)).merge(Layer("flag", flags));
    let config: Config = figment.extract().map_err(describe)?;
    if config.pool_size == 0 {
        bail!("pool_size must be at least 1");
    }
    Wanted::parse(&config.replicas)?;
    Ok(Loaded { config, figment })
}

/// Words with commas between, however a file or a variable writes them: one alone may look like a
/// number, and several may be a list.
fn words<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Word {
        Text(String),
        Number(u64),
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Words {
        One(Word),
        Several(Vec<Word>),
    }
    let words = match Words::deserialize(from)? {
        Words::One(word) => vec![word],
        Words::Several(words) => words,
    };
    let words = words.into_iter().map(|word| match word {
        Word::Text(text) => text,
        Word::Number(number) => number.to_string(),
    });
    Ok(words.collect::<Vec<_>>().join(","))
}

/// One sentence for each thing wrong, with the place it came from.
fn describe(error: figment::Error) -> anyhow::Error {
    let lines: Vec<String> = error.into_iter().map(|e| format!("configuration: {e}")).collect();
    anyhow::anyhow!(lines.join("\n"))
}

/// A layer of values under the name that `opcode config` shows as their origin.
struct Layer<'a, T>(&'static str, &'a T);

impl<T: Serialize> figment::Provider for Layer<'_, T> {
    fn metadata(&self) -> figment::Metadata {
        figment::Metadata::named(self.0)
    }
    fn data(&self) -> Result<figment::value::Map<figment::Profile, figment::value::Dict>, figment::Error> {
        Serialized::defaults(self.1).data()
    }
}

fn config_file(flags: &NodeFlags) -> Result<Option<PathBuf>> {
    if let Some(path) = &flags.config {
        if !path.is_file() {
            bail!("{}: no such configuration file", path.display());
        }
        return Ok(Some(path.clone()));
    }
    Ok(["opcode.toml", "settings.json"].iter().map(Path::new).find(|p| p.is_file()).map(Path::to_path_buf))
}
