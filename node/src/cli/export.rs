//! `opcode export`: templates, and the workflows that match, into a file of JSON lines.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures::StreamExt;
use serde::Deserialize;
use serde_json::json;

use super::client::with_query;
use super::failure::Failure;
use super::output::facts;
use super::{Context, input};

/// Longest line that may say something of the export itself, in bytes.
const NOTE_BYTES_MAX: usize = 8 * 1024;

/// Flags of `opcode export`.
#[derive(Args)]
#[command(after_help = "Examples:
  opcode export all.jsonl
  opcode export ended.jsonl.gz --status completed --status failed --status cancelled
  opcode export --template nightly --since 24h | jq -c 'select(.kind == \"run\")'

A line is a version of a template, or a workflow with its definitions and all its events. Secrets and
schedules are not among them. What is running is written as it is then, and not imported.")]
pub(crate) struct Export {
    /// The file: compressed when it ends in .gz; - for stdout
    #[arg(default_value = "-")]
    file: String,
    /// A status, may be repeated: pending, active, suspended, completed, failed, cancelled
    #[arg(long)]
    status: Vec<String>,
    /// Only this agent's
    #[arg(long, value_name = "AGENT")]
    agent_id: Option<String>,
    /// Only of this template, and of templates only this
    #[arg(long)]
    template: Option<String>,
    /// Only with this label, may be repeated
    #[arg(long = "label", value_name = "NAME=VALUE", value_parser = input::label)]
    labels: Vec<(String, String)>,
    /// Created since: RFC 3339, or how long ago (`2h`)
    #[arg(long, value_name = "TIME", value_parser = input::time)]
    since: Option<String>,
    /// Created before
    #[arg(long, value_name = "TIME", value_parser = input::time)]
    until: Option<String>,
}

impl Export {
    fn path(&self) -> String {
        let status = (!self.status.is_empty()).then(|| self.status.join(","));
        let mut query = vec![
            ("status", status),
            ("agent_id", self.agent_id.clone()),
            ("template", self.template.clone()),
            ("since", self.since.clone()),
            ("until", self.until.clone()),
        ];
        query.extend(self.labels.iter().map(|(name, value)| ("label", Some(format!("{name}:{value}")))));
        with_query("/v1/export", &query)
    }
}

/// What a line says of the export.
#[derive(Deserialize)]
struct Note {
    kind: String,
    #[serde(default)]
    templates: u64,
    #[serde(default)]
    runs: u64,
    #[serde(default)]
    workflow_id: String,
    #[serde(default)]
    detail: String,
}

/// What has been seen of an export that goes by.
#[derive(Default)]
struct Watch {
    /// The line that is coming, as far as it may be a note.
    line: Vec<u8>,
    is_long: bool,
    end: Option<(u64, u64)>,
    omitted: Vec<String>,
    error: Option<String>,
}

impl Watch {
    fn see(&mut self, chunk: &[u8]) {
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            self.is_long |= self.line.len() + piece.len() > NOTE_BYTES_MAX;
            if !self.is_long {
                self.line.extend_from_slice(piece);
            }
            if piece.ends_with(b"\n") {
                self.note();
                self.line.clear();
                self.is_long = false;
            }
        }
    }

    fn note(&mut self) {
        let Ok(note) = serde_json::from_slice::<Note>(&self.line) else { return };
        match note.kind.as_str() {
            "end" => self.end = Some((note.templates, note.runs)),
            "omitted" => self.omitted.push(format!("workflow {}: {}", note.workflow_id, note.detail)),
            "error" => self.error = Some(note.detail),
            _ => {}
        }
    }
}

/// Where it goes: a file appears under its name once it is whole.
enum Sink {
    Stdout(std::io::Stdout),
    Plain(BufWriter<File>, PathBuf),
    Packed(GzEncoder<BufWriter<File>>, PathBuf),
}

impl Sink {
    fn open(name: &str) -> std::io::Result<Self> {
        if name == "-" {
            return Ok(Self::Stdout(std::io::stdout()));
        }
        let file = BufWriter::new(File::create(unfinished(Path::new(name)))?);
        Ok(match name.ends_with(".gz") {
            true => Self::Packed(GzEncoder::new(file, Compression::default()), name.into()),
            false => Self::Plain(file, name.into()),
        })
    }

    fn write(&mut self, chunk: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Stdout(stdout) => stdout.write_all(chunk),
            Self::Plain(file, _) => file.write_all(chunk),
            Self::Packed(file, _) => file.write_all(chunk),
        }
    }

    fn finish(self) -> std::io::Result<()> {
        let (file, path) = match self {
            Self::Stdout(mut stdout) => return stdout.flush(),
            Self::Plain(file, path) => (file, path),
            Self::Packed(file, path) => (file.finish()?, path),
        };
        file.into_inner().map_err(std::io::IntoInnerError::into_error)?.sync_all()?;
        std::fs::rename(unfinished(&path), &path)
    }
}

fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

pub(crate) async fn run(args: Export, context: &Context) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::local(format!("{}: {error}", args.file));
    let response = context.client.lines(&args.path()).await?;
    let mut sink = Sink::open(&args.file).map_err(failed)?;
    let mut watch = Watch::default();
    let mut chunks = response.bytes_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| context.client.failure(&error))?;
        watch.see(&chunk);
        sink.write(&chunk).map_err(failed)?;
    }
    if let Some(error) = watch.error {
        return Err(Failure::Partial(format!("the export was cut off: {error}")));
    }
    let Some((templates, runs)) = watch.end else {
        return Err(Failure::Partial("the export was cut off: ask again".into()));
    };
    sink.finish().map_err(failed)?;
    watch.omitted.iter().for_each(|omitted| eprintln!("opcode: left out: {omitted}"));
    if args.file != "-" {
        let done = json!({"templates": templates, "runs": runs, "left_out": watch.omitted.len()});
        context.output.document(&done, |done| facts(done, &["templates", "runs", "left_out"]));
    }
    match watch.omitted.len() {
        0 => Ok(()),
        n => Err(Failure::local(format!("{n} workflows were left out"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_seen_however_it_is_cut() {
        let text = format!(
            "{}\n{}\n{}\n",
            json!({"kind": "run", "events": "x".repeat(3 * NOTE_BYTES_MAX)}),
            json!({"kind": "omitted", "workflow_id": "w", "detail": "too large"}),
            json!({"kind": "end", "templates": 2, "runs": 3})
        );
        for size in [1, 7, 1_000, text.len()] {
            let mut watch = Watch::default();
            text.as_bytes().chunks(size).for_each(|chunk| watch.see(chunk));
            assert_eq!((watch.end, watch.omitted.len()), (Some((2, 3)), 1), "{size}");
        }
        let mut cut = Watch::default();
        cut.see(&text.as_bytes()[..text.len() - 1]);
        assert_eq!(cut.end, None);
    }
}
