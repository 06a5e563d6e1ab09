//! Configuration: flags beat environment beats file beats default, and every value knows where
//! it came from. An unknown key is an error.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use figment::Figment;
use figment::providers::{Env, Format, Json, Serialized, Toml};
use serde::{Deserialize, Deserializer, Serialize};

use crate::replicas::Wanted;

/// Least size of a segment of the audit log: a few entries.
const AUDIT_SEGMENT_BYTES_MIN: u64 = 4_096;

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
    /// File of the certificate that clients are shown over HTTPS, and of its chain, in PEM.
    pub(crate) tls_cert: Option<PathBuf>,
    /// File of its private key.
    pub(crate) tls_key: Option<PathBuf>,
    /// File of the CAs that this node takes other nodes' certificates for HTTPS by; default the CA of
    /// `peer_tls_dir`, else the system's.
    pub(crate) ca_file: Option<PathBuf>,
    /// Requests a second of a token, or of an address where there are no tokens.
    pub(crate) rate_limit: Option<u32>,
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
    /// Pauses before each further try of a webhook's delivery: `5s,30s,2m`; after the last it is dead.
    pub(crate) webhook_retry_delays: Option<String>,
    /// How long the log keeps what was committed, for those who follow events; within bounds of space.
    pub(crate) events_kept: Option<String>,
    /// Folders that `fs.*` may touch.
    pub(crate) fs_roots: Vec<PathBuf>,
    /// Folder beneath which the node writes backups that it is asked for; without, it writes none.
    pub(crate) backup_dir: Option<PathBuf>,
    /// Hours between two readings of all that is stored, for damage; 0 is never.
    pub(crate) scrub_every_hours: u32,
    /// Whether plugins are run, which are programs.
    pub(crate) allow_plugins: bool,
    /// Folder of what programs write: temporary files, plugins' homes; default one of the node's own
    /// where the host has temporary files.
    pub(crate) scratch_dir: Option<PathBuf>,
    /// What a command or plugin may use, see `opcode_shard::isolation::Limits`.
    pub(crate) step_memory_bytes: u64,
    pub(crate) step_address_space_bytes: u64,
    pub(crate) step_file_bytes: u64,
    pub(crate) step_processes: u64,
    pub(crate) step_open_files: u64,
    pub(crate) step_cpu_s: u64,
    /// Least severe log level, or a filter as of `tracing`.
    pub(crate) log_level: String,
    /// Where spans go: an OTLP collector's HTTP address; without it none are made.
    pub(crate) otlp_endpoint: Option<String>,
    /// Bytes of one log segment file.
    pub(crate) log_segment_bytes: u64,
    /// Folder of archives of runs that are kept no longer; default `DATA_DIR/archive`.
    pub(crate) archive_dir: Option<PathBuf>,
    /// Seconds between two looks for such runs.
    pub(crate) retention_every_s: u64,
    /// Bytes of one segment file of the audit log.
    pub(crate) audit_segment_bytes: u64,
    /// Bytes of the node's audit log, of which the oldest goes.
    pub(crate) audit_bytes_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        let step = opcode_shard::isolation::Limits::default();
        Self {
            data_dir: "opcode-data".into(),
            log_dir: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 4100)),
            peer_listen: None,
            advertise: None,
            peer_advertise: None,
            peer_tls_dir: None,
            token_file: None,
            tls_cert: None,
            tls_key: None,
            ca_file: None,
            rate_limit: None,
            secrets_key_file: None,
            secrets_passphrase_file: None,
            join: Vec::new(),
            replication_factor: opcode_router::shard_map::REPLICATION_FACTOR_DEFAULT,
            shards: None,
            replicas: String::new(),
            pool_size: 10,
            allow_shell: false,
            allow_private_network: false,
            webhook_retry_delays: None,
            events_kept: None,
            fs_roots: Vec::new(),
            backup_dir: None,
            scrub_every_hours: 24,
            allow_plugins: false,
            scratch_dir: None,
            step_memory_bytes: step.memory_bytes,
            step_address_space_bytes: step.address_space_bytes,
            step_file_bytes: step.file_bytes,
            step_processes: step.processes,
            step_open_files: step.open_files,
            step_cpu_s: step.cpu_s,
            log_level: "info".into(),
            otlp_endpoint: None,
            log_segment_bytes: 64 * 1024 * 1024,
            archive_dir: None,
            retention_every_s: 60,
            audit_segment_bytes: 8 * 1024 * 1024,
            audit_bytes_max: 512 * 1024 * 1024,
        }
    }
}

/// Longest duration here, and how many tries of a delivery there may be.
const DELAY_MAX: Duration = Duration::from_secs(7 * 86_400);
const DELAYS_MAX: usize = 20;

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
    "tls_cert",
    "tls_key",
    "ca_file",
    "rate_limit",
    "secrets_key_file",
    "secrets_passphrase_file",
    "join",
    "replication_factor",
    "shards",
    "replicas",
    "pool_size",
    "allow_shell",
    "allow_private_network",
    "webhook_retry_delays",
    "events_kept",
    "fs_roots",
    "backup_dir",
    "scrub_every_hours",
    "allow_plugins",
    "scratch_dir",
    "step_memory_bytes",
    "step_address_space_bytes",
    "step_file_bytes",
    "step_processes",
    "step_open_files",
    "step_cpu_s",
    "log_level",
    "otlp_endpoint",
    "log_segment_bytes",
    "archive_dir",
    "retention_every_s",
    "audit_segment_bytes",
    "audit_bytes_max",
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
    /// Set by the flag of all commands.
    #[arg(skip)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Serve HTTPS with this certificate and its chain, in PEM; read again when it changes, or on
    /// SIGHUP
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_cert: Option<PathBuf>,
    /// Its private key, in PEM, readable by its owner alone
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    tls_key: Option<PathBuf>,
    /// Requests a second that a token may make, or an address where there are no tokens; each node
    /// counts for itself [default: any number]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_limit: Option<u32>,
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
    /// Pauses before each further try of a webhook's delivery, with commas between; after the last it
    /// is dead [default: 5s,30s,2m,10m,1h,4h,8h,10h]
    #[arg(long, value_name = "DURATIONS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    webhook_retry_delays: Option<String>,
    /// How long the log keeps what was committed, so that who follows all events can go on where he was
    /// cut off; 32 MiB of each shard at most [default: 2m]
    #[arg(long, value_name = "DURATION")]
    #[serde(skip_serializing_if = "Option::is_none")]
    events_kept: Option<String>,
    /// A folder that fs.* may touch; repeat for more
    #[arg(long = "fs-root", value_name = "DIR")]
    #[serde(rename = "fs_roots", skip_serializing_if = "Vec::is_empty")]
    fs_roots: Vec<PathBuf>,
    /// Folder beneath which backups may be written that clients ask for [default: none is written]
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    backup_dir: Option<PathBuf>,
    /// Hours between two readings of all that is stored, for damage; 0 is never [default: 24]
    #[arg(long, value_name = "HOURS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    scrub_every_hours: Option<u32>,
    /// Run plugins: MCP servers, which are programs
    #[arg(long)]
    #[serde(skip_serializing_if = "is_false")]
    allow_plugins: bool,
    /// Folder of what commands and plugins write [default: the node's own, in TMPDIR]
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    scratch_dir: Option<PathBuf>,
    /// Least severe log level: error, warn, info, debug, trace, or a filter [default: info]
    #[arg(long, value_name = "LEVEL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    log_level: Option<String>,
    /// Folder of archives of runs that are kept no longer [default: DATA_DIR/archive]
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    archive_dir: Option<PathBuf>,
    /// Seconds between two looks for runs that are kept no longer [default: 60]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    #[serde(skip_serializing_if = "Option::is_none")]
    retention_every_s: Option<u64>,
    /// OTLP collector, by HTTP, for a span of each request and of each attempt of a step [default: none]
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    otlp_endpoint: Option<String>,
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
    allow_plugins: bool,
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
        let defaults = DevDefaults {
            allow_shell: true,
            allow_plugins: true,
            allow_private_network: true,
            fs_roots: vec![here],
        };
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
    config.webhook_retry_delays.as_deref().map(delays).transpose()?;
    config.events_kept.as_deref().map(kept).transpose()?;
    check_access(&config)?;
    Ok(Loaded { config, figment })
}

/// Durations with commas between, at most twenty, each of at most a week.
pub(crate) fn delays(text: &str) -> Result<Vec<Duration>> {
    let read = |word: &str| humantime::parse_duration(word.trim()).ok().filter(|delay| *delay <= DELAY_MAX);
    let delays: Option<Vec<Duration>> = text.split(',').map(read).collect();
    match delays {
        Some(delays) if delays.len() <= DELAYS_MAX => Ok(delays),
        Some(_) | None => bail!(
            "webhook_retry_delays must be at most {DELAYS_MAX} durations of at most a week, such as 5s,30s,2m"
        ),
    }
}

/// How long events are kept, at most a week.
pub(crate) fn kept(text: &str) -> Result<Duration> {
    let read = humantime::parse_duration(text).ok().filter(|kept| *kept <= DELAY_MAX);
    read.context("events_kept must be a duration of at most a week, such as 2m or 1h")
}

/// Refuses what does not go together.
fn check_access(config: &Config) -> Result<()> {
    if config.tls_cert.is_some() != config.tls_key.is_some() {
        bail!("tls_cert and tls_key go together: a certificate is of no use without its key");
    }
    if config.rate_limit.is_some_and(|rate| !(1..=1_000_000).contains(&rate)) {
        bail!("rate_limit must be from 1 to 1000000 requests a second");
    }
    if config.audit_segment_bytes < AUDIT_SEGMENT_BYTES_MIN
        || config.audit_bytes_max < config.audit_segment_bytes
    {
        bail!(
            "audit_segment_bytes must be at least {AUDIT_SEGMENT_BYTES_MIN}, and audit_bytes_max no less than it"
        );
    }
    Ok(())
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
