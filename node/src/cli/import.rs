//! `opcode import`: workflows that have ended, and templates, from a file of JSON lines, from an
//! archive, or from a database of the original OPCODE.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};

use clap::Args;
use flate2::bufread::MultiGzDecoder;
use opcode_shard::definitions::Definitions;
use opcode_shard::history::{LINE_BYTES_MAX, Line};
use serde_json::{Value, json};

use super::Context;
use super::client::with_query;
use super::failure::Failure;
use super::opcode_db;
use super::output::{facts, shown};

/// Lines, and bytes of them, that one request takes.
const GROUP_LINES_MAX: usize = 200;
const GROUP_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Lines that are told one by one when they are refused.
const TOLD_MAX: u64 = 50;

/// Flags of `opcode import`.
#[derive(Args)]
#[command(after_help = "Examples:
  opcode import all.jsonl --ended-only
  opcode import opcode-data/archive/default/default/runs-….jsonl.gz
  opcode import all.jsonl --dry-run                      judge every line here, without a node
  opcode import --opcode-db opcode.db --dry-run          see what there is in an original OPCODE
  opcode import --opcode-db opcode.db --secrets-passphrase-file pass --restart-running

A workflow comes as history: same id, same events, same times; nothing of it is done again. The same
file again changes nothing. What has an id that another workflow has is refused, and the rest goes on.")]
pub(crate) struct Import {
    /// The file, compressed or not; - for stdin
    #[arg(required_unless_present = "opcode_db", conflicts_with = "opcode_db")]
    file: Option<String>,
    /// Pass over workflows that have not ended, which are refused else
    #[arg(long)]
    ended_only: bool,
    /// Judge everything, and import nothing
    #[arg(long)]
    dry_run: bool,
    /// Database file of an original OPCODE; it is only read
    #[arg(long, value_name = "FILE")]
    opcode_db: Option<String>,
    /// Start its workflows that have not ended anew, from their beginning, under their ids
    #[arg(long)]
    restart_running: bool,
    /// File of its vault's passphrase (OPCODE_VAULT_KEY), to take its secrets along
    #[arg(long, value_name = "FILE")]
    secrets_passphrase_file: Option<std::path::PathBuf>,
}

pub(crate) async fn run(args: Import, context: &Context) -> Result<(), Failure> {
    if let Some(file) = &args.opcode_db {
        let wanted = opcode_db::Wanted {
            dry_run: args.dry_run,
            restart_running: args.restart_running,
            passphrase_file: args.secrets_passphrase_file.clone(),
        };
        return opcode_db::run(file, &wanted, context).await;
    }
    if args.restart_running || args.secrets_passphrase_file.is_some() {
        let message = "--restart-running and --secrets-passphrase-file are of --opcode-db";
        return Err(Failure::Usage(message.into()));
    }
    let file = args.file.as_deref().unwrap_or("-");
    let mut lines = Lines::open(file)?;
    let mut sender = Sender::new(context, args.ended_only, args.dry_run);
    while let Some((number, line)) =
        lines.next().map_err(|error| Failure::local(format!("{file}: {error}")))?
    {
        match line {
            Some(line) => sender.add(number, line).await?,
            None => sender.refused(number, &format!("longer than {LINE_BYTES_MAX} bytes")),
        }
    }
    sender.finish().await
}

/// The lines of a file that are not empty, by their numbers; none of one that is too long.
struct Lines {
    reader: Box<dyn BufRead>,
    number: u64,
}

impl Lines {
    fn open(file: &str) -> Result<Self, Failure> {
        let raw: Box<dyn Read> = match file {
            "-" => Box::new(std::io::stdin()),
            file => Box::new(File::open(file).map_err(|error| Failure::local(format!("{file}: {error}")))?),
        };
        let mut raw = BufReader::new(raw);
        let start = raw.fill_buf().map_err(|error| Failure::local(format!("{file}: {error}")))?;
        // Unpacked as it is read: however much it comes to, no more is held than a line.
        let reader: Box<dyn BufRead> = match start.starts_with(&[0x1f, 0x8b]) {
            true => Box::new(BufReader::new(MultiGzDecoder::new(raw))),
            false => Box::new(raw),
        };
        Ok(Self { reader, number: 0 })
    }

    fn next(&mut self) -> std::io::Result<Option<(u64, Option<Vec<u8>>)>> {
        loop {
            let mut line = Vec::new();
            let limit = LINE_BYTES_MAX as u64 + 1;
            self.reader.by_ref().take(limit).read_until(b'\n', &mut line)?;
            if line.is_empty() {
                return Ok(None);
            }
            self.number += 1;
            if line.pop_if(|last| *last == b'\n').is_none() && line.len() as u64 == limit {
                self.skip_line()?;
                return Ok(Some((self.number, None)));
            }
            if !line.iter().all(u8::is_ascii_whitespace) {
                return Ok(Some((self.number, Some(line))));
            }
        }
    }

    fn skip_line(&mut self) -> std::io::Result<()> {
        loop {
            let buffer = self.reader.fill_buf()?;
            if buffer.is_empty() {
                return Ok(());
            }
            let (used, is_end) = match buffer.iter().position(|byte| *byte == b'\n') {
                Some(end) => (end + 1, true),
                None => (buffer.len(), false),
            };
            self.reader.consume(used);
            if is_end {
                return Ok(());
            }
        }
    }
}

/// Sends lines, some at a time, and counts what comes of them. On a dry run it judges them instead.
pub(crate) struct Sender<'c> {
    context: &'c Context,
    path: String,
    dry_run: bool,
    ended_only: bool,
    known: Definitions,
    /// Numbers of the lines in the body.
    numbers: Vec<u64>,
    body: Vec<u8>,
    pub(crate) imported: u64,
    pub(crate) unchanged: u64,
    pub(crate) skipped: u64,
    pub(crate) failed: u64,
    /// Lines that a shard gave no answer for.
    unavailable: u64,
}

impl<'c> Sender<'c> {
    pub(crate) fn new(context: &'c Context, ended_only: bool, dry_run: bool) -> Self {
        let path = with_query("/v1/import", &[("ended_only", ended_only.then(|| "true".to_owned()))]);
        Self {
            context,
            path,
            dry_run,
            ended_only,
            known: Definitions::default(),
            numbers: Vec::new(),
            body: Vec::new(),
            imported: 0,
            unchanged: 0,
            skipped: 0,
            failed: 0,
            unavailable: 0,
        }
    }

    pub(crate) async fn add(&mut self, number: u64, line: Vec<u8>) -> Result<(), Failure> {
        if self.dry_run {
            self.judge(number, &line);
            return Ok(());
        }
        if !self.numbers.is_empty()
            && (self.numbers.len() >= GROUP_LINES_MAX || self.body.len() + line.len() > GROUP_BYTES_MAX)
        {
            self.send().await?;
        }
        self.numbers.push(number);
        self.body.extend(line);
        self.body.push(b'\n');
        Ok(())
    }

    fn judge(&mut self, number: u64, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        let judged = match Line::parse(&text) {
            Ok(None) => return,
            Ok(Some(line)) => line.check(&self.known).map(drop).map_err(|mut rejected| {
                rejected.message.insert_str(0, &format!("{}: ", line.key()));
                rejected
            }),
            Err(why) => return self.refused(number, &why),
        };
        match judged {
            Ok(()) => self.imported += 1,
            Err(rejected) if self.ended_only && rejected.code == opcode_engine::Code::InvalidTransition => {
                self.skipped += 1;
            }
            Err(rejected) => self.refused(number, &rejected.message),
        }
    }

    /// Tells of a line that was not taken.
    pub(crate) fn refused(&mut self, number: u64, why: &str) {
        self.failed += 1;
        if self.failed <= TOLD_MAX {
            // What comes from no file of lines has no number.
            let place = if number > 0 { format!("line {number}: ") } else { String::new() };
            eprintln!("opcode: {place}{why}");
        }
    }

    pub(crate) async fn send(&mut self) -> Result<(), Failure> {
        if self.numbers.is_empty() {
            return Ok(());
        }
        let (numbers, body) = (std::mem::take(&mut self.numbers), std::mem::take(&mut self.body));
        let answer = self.context.client.post_lines(&self.path, body).await?;
        let count = |name: &str| answer[name].as_u64().unwrap_or_default();
        self.imported += count("imported");
        self.unchanged += count("unchanged");
        self.skipped += count("skipped");
        for result in answer["results"].as_array().map_or(&[][..], Vec::as_slice) {
            let status = result["status"].as_u64().unwrap_or_default();
            if status < 300 {
                continue;
            }
            self.unavailable += u64::from(matches!(status, 429 | 503));
            let place = result["line"].as_u64().and_then(|line| usize::try_from(line).ok()?.checked_sub(1));
            let number = place.and_then(|place| numbers.get(place)).copied().unwrap_or_default();
            let about = result["id"].as_str().map(|id| format!("{id}: ")).unwrap_or_default();
            self.refused(number, &format!("{about}{}", shown(&result["detail"])));
        }
        Ok(())
    }

    /// What has come of all lines.
    pub(crate) fn counts(&self) -> Value {
        json!({"imported": self.imported, "unchanged": self.unchanged, "skipped": self.skipped,
            "failed": self.failed})
    }

    async fn finish(mut self) -> Result<(), Failure> {
        self.send().await?;
        let fields: &[&str] = match self.dry_run {
            true => &["good", "skipped", "failed"],
            false => &["imported", "unchanged", "skipped", "failed"],
        };
        let mut done = self.counts();
        if self.dry_run {
            done = json!({"good": self.imported, "skipped": self.skipped, "failed": self.failed});
        }
        self.context.output.document(&done, |done| facts(done, fields));
        self.outcome()
    }

    /// An error when a line was not taken.
    pub(crate) fn outcome(&self) -> Result<(), Failure> {
        match (self.failed, self.unavailable) {
            (0, _) => Ok(()),
            (failed, 0) => Err(Failure::local(format!("{failed} lines were refused"))),
            (failed, late) => Err(Failure::Partial(format!(
                "{failed} lines were not taken, {late} of them for now: the same again does the rest"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Vec<(u64, Option<usize>)> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        let mut lines = Lines::open(file.path().to_str().unwrap()).unwrap();
        std::iter::from_fn(|| lines.next().unwrap())
            .map(|(number, line)| (number, line.map(|line| line.len())))
            .collect()
    }

    fn packed(bytes: &[u8]) -> Vec<u8> {
        use std::io::Write;
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap()
    }

    #[test]
    fn lines_keep_their_numbers_and_long_ones_are_passed_over() {
        assert_eq!(read(b"a\n\n  \nbcd"), [(1, Some(1)), (4, Some(3))]);
        let long = [&vec![b'x'; LINE_BYTES_MAX + 5][..], b"\nab\n"].concat();
        assert_eq!(read(&long), [(1, None), (2, Some(2))]);
        let longest = [&vec![b'x'; LINE_BYTES_MAX][..], b"\nab"].concat();
        assert_eq!(read(&longest), [(1, Some(LINE_BYTES_MAX)), (2, Some(2))]);
        // What swells when it is unpacked, and two archives in one file.
        let bomb = packed(&vec![b'0'; 4 * LINE_BYTES_MAX]);
        assert!(bomb.len() < 1024 * 1024);
        assert_eq!(read(&bomb), [(1, None)]);
        assert_eq!(read(&[packed(b"a\n"), packed(b"bc\n")].concat()), [(1, Some(1)), (2, Some(2))]);
    }
}
