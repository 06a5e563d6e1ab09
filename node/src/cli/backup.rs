//! `opcode backup`: a cluster's shards, fetched from any node of it while it works, into a folder here.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use futures::StreamExt;
use futures::stream::BoxStream;
use opcode_engine::ids::ShardId;
use opcode_shard::ShardError;
use opcode_shard::backup::manifest::{MANIFEST, Manifest};
use opcode_shard::backup::{self, About, Incoming, Progress, Source};
use opcode_shard::batch::Position;
use opcode_shard::log::Archived;
use reqwest::Response;
use serde_json::{Value, json};

use super::Context;
use super::client::Client;
use super::failure::Failure;
use super::output::{rows, shown};

/// Longest wait for a copy to be made, before its first byte comes.
const MADE_MAX: Duration = Duration::from_secs(1_800);
/// Longest wait for the next bytes.
const BYTES_MAX: Duration = Duration::from_secs(60);

/// Flags of `opcode backup`.
#[derive(Args)]
#[command(long_about = "Take a backup of a cluster while it works.

Each shard's tables are copied by the node that leads it, with all that was acknowledged before the \
backup began, and come through the node that is asked. A leader that dies is followed by the next one. \
The folder is a backup once its manifest.json is there, which is written last; secrets in it stay sealed. \
Copies of different shards are of different moments: what their runs have to say to each other is \
settled by `opcode restore`.")]
#[command(after_help = "Examples:
  opcode backup /backups/monday
  opcode backup /backups/monday --server http://10.0.0.1:4100 --token-file token
  opcode backup /backups/monday --extend            add what was committed since
  opcode backup /backups/monday --every 10s         take it, and add to it until Ctrl-C")]
pub(crate) struct Backup {
    /// A folder that is not there yet, or empty
    dir: PathBuf,
    /// Add to the backup in the folder, from the cluster's log
    #[arg(long)]
    extend: bool,
    /// Go on adding to it, so often, until Ctrl-C
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    every: Option<Duration>,
}

/// A cluster over the HTTP API of one of its nodes.
struct Remote<'a> {
    client: &'a Client,
}

impl From<ShardError> for Failure {
    fn from(error: ShardError) -> Self {
        Self::local(error.to_string())
    }
}

pub(crate) async fn run(args: Backup, context: &Context) -> Result<(), Failure> {
    let has_one = args.dir.join(MANIFEST).exists();
    let extends = args.extend || (args.every.is_some() && has_one);
    take(&args.dir, extends, context).await?;
    let Some(every) = args.every else { return Ok(()) };
    loop {
        tokio::select! {
            ended = tokio::signal::ctrl_c() => {
                return ended.map_err(|error| Failure::local(format!("Ctrl-C cannot be waited for: {error}")));
            }
            () = tokio::time::sleep(every) => {}
        }
        take(&args.dir, true, context).await?;
    }
}

/// Takes a backup, or adds to one.
async fn take(dir: &Path, extends: bool, context: &Context) -> Result<(), Failure> {
    let begun = Instant::now();
    let source = Remote { client: &context.client };
    let about = source.about().await?;
    let output = context.output;
    let told = &mut move |progress: Progress| {
        let Progress { shard, bytes, shards_done, shards } = progress;
        output.note(&format!("shard {shard}: {bytes} bytes ({shards_done} of {shards} shards)"));
    };
    let manifest = match extends {
        true => backup::extend(dir, &about, &source, false, told).await?,
        false => backup::write(dir, about, &source, false, told).await?,
    };
    let mut told = summary(dir, &manifest);
    told["duration_ms"] = json!(u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX));
    context.output.document(&told, table);
    Ok(())
}

/// What a backup holds, as it is shown.
pub(super) fn summary(dir: &Path, manifest: &Manifest) -> Value {
    let shards = manifest.copies.iter().map(|copy| {
        let last = manifest.last(copy.shard);
        let log: u64 = manifest.log_of(copy.shard).map(|file| file.bytes).sum();
        json!({
            "shard": copy.shard.to_string(), "bytes": copy.bytes + log,
            "from": copy.position.index, "to": last.index, "term": last.term,
        })
    });
    json!({
        "path": dir.display().to_string(), "cluster_id": manifest.cluster_id, "version": manifest.version,
        "began_at": manifest.began_at, "ended_at": manifest.ended_at, "bytes": manifest.bytes(),
        "shards": shards.collect::<Vec<_>>(),
    })
}

/// The same for people.
pub(super) fn table(told: &Value) -> String {
    let shards = told["shards"].as_array().map_or(&[][..], Vec::as_slice);
    let names = ["shard", "from", "to", "bytes"];
    let lines: Vec<Vec<String>> =
        shards.iter().map(|shard| names.iter().map(|name| shown(&shard[*name])).collect()).collect();
    let head = format!("{}: {} bytes, of {}", shown(&told["path"]), told["bytes"], shown(&told["began_at"]));
    format!("{head}\n\n{}", rows(&["SHARD", "FROM ENTRY", "TO ENTRY", "BYTES"], &lines))
}

impl Remote<'_> {
    async fn about(&self) -> Result<About, Failure> {
        let cluster = self.client.get("/v1/cluster").await?;
        let text = |name: &str| cluster[name].as_str().unwrap_or_default().to_owned();
        let count = |name: &str| cluster[name].as_array().map_or(0, Vec::len);
        let shards = count("shards") + count("unreachable_shards");
        let shards = u32::try_from(shards).map_err(|_| Failure::local("the cluster has too many shards"))?;
        Ok(About { cluster_id: text("cluster_id"), version: text("version"), shards })
    }
}

/// A header's text.
fn header<'r>(response: &'r Response, name: &str) -> Result<&'r str, Failure> {
    let value = response.headers().get(name).and_then(|value| value.to_str().ok());
    value.ok_or_else(|| Failure::local(format!("{} answered without the header {name}", response.url())))
}

/// The position that an answer holds.
fn position(response: &Response) -> Result<Position, Failure> {
    let text = header(response, "opcode-position")?;
    let numbers =
        text.split_once(':').and_then(|(term, index)| Some((term.parse().ok()?, index.parse().ok()?)));
    let (term, index) = numbers.ok_or_else(|| Failure::local(format!("{text:.40} is no position")))?;
    Ok(Position { term, index })
}

/// An answer's body, piece by piece.
fn pieces(client: &Client, response: Response) -> BoxStream<'static, Result<Bytes, Failure>> {
    let client = client.clone();
    let unfolded = futures::stream::try_unfold((client, response), |(client, mut response)| async move {
        match tokio::time::timeout(BYTES_MAX, response.chunk()).await {
            Ok(Ok(Some(bytes))) => Ok(Some((bytes, (client, response)))),
            Ok(Ok(None)) => Ok(None),
            Ok(Err(error)) => Err(client.failure(&error)),
            Err(_) => Err(Failure::TimedOut(format!("{} sends nothing any more", client.server()))),
        }
    });
    unfolded.boxed()
}

impl Source for Remote<'_> {
    type Error = Failure;

    fn may_pass(error: &Failure) -> bool {
        match error {
            Failure::Problem { status, document } => {
                matches!(status, 429 | 503) && document["code"] != "STORAGE_FULL"
            }
            Failure::Unreachable { .. } | Failure::TimedOut(_) => true,
            Failure::Workflow(_)
            | Failure::Local(_)
            | Failure::Usage(_)
            | Failure::Partial(_)
            | Failure::Shown => false,
        }
    }

    async fn copy(&self, shard: ShardId) -> Result<Incoming<Failure>, Failure> {
        let path = format!("/v1/backup/shards/{shard}");
        let response = match tokio::time::timeout(MADE_MAX, self.client.bytes(&path)).await {
            Ok(response) => response?,
            Err(_) => return Err(Failure::TimedOut(format!("no copy of shard {shard} was made in time"))),
        };
        let bytes = header(&response, "content-length")?.parse();
        let checksum = u64::from_str_radix(header(&response, "opcode-checksum")?, 16);
        let (Ok(bytes), Ok(checksum)) = (bytes, checksum) else {
            return Err(Failure::local(format!("{path} was answered with headers that cannot be read")));
        };
        let position = position(&response)?;
        Ok(Incoming { position, bytes, checksum, pieces: pieces(self.client, response) })
    }

    async fn log(&self, shard: ShardId, after: Position) -> Result<Option<Archived>, Failure> {
        let path = format!("/v1/backup/shards/{shard}/log?after={}:{}", after.term, after.index);
        let response = match tokio::time::timeout(BYTES_MAX, self.client.bytes(&path)).await {
            Ok(Err(Failure::Problem { status: 410, .. })) => return Ok(None),
            Ok(response) => response?,
            Err(_) => {
                return Err(Failure::TimedOut(format!("the log of shard {shard} was not read in time")));
            }
        };
        let last = position(&response)?;
        let mut bytes = Vec::new();
        let mut pieces = pieces(self.client, response);
        while let Some(piece) = pieces.next().await {
            bytes.extend(piece?);
        }
        Ok(Some(Archived { bytes: bytes.into(), last }))
    }
}
