//! What a backup's folder holds: written last, and sealed by a checksum over itself, so that a folder
//! with one is whole as far as it says.
//!
//! `manifest.json` is `{"sha256": …, "backup": {…}}`; the checksum is of the bytes of `backup`. Every
//! file's name follows from what it is, so that no name leads anywhere else.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use opcode_engine::ids::ShardId;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::reading::{failed, open_plain};
use crate::batch::Position;
use crate::error::ShardError;

/// Its name.
pub const MANIFEST: &str = "manifest.json";
/// The format that is written; a newer one is refused.
const FORMAT: u32 = 1;
/// Most bytes of it that are read.
const BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Most shards of a cluster.
const SHARDS_MAX: u32 = 1024;

/// What a backup holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct Manifest {
    format: u32,
    pub cluster_id: String,
    /// The release that wrote it.
    pub version: String,
    /// Workflow shards; the system shard comes on top.
    pub shards: u32,
    /// RFC 3339. What was acknowledged before is in it.
    pub began_at: String,
    /// RFC 3339: when it was whole, or added to last.
    pub ended_at: String,
    /// One of each shard.
    pub copies: Vec<CopyFile>,
    /// The log behind the copies: of each shard in order, without a gap.
    pub log: Vec<LogFile>,
}

/// A copy of a shard's tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct CopyFile {
    #[serde(with = "shard_name")]
    pub shard: ShardId,
    pub file: String,
    pub bytes: u64,
    pub sha256: String,
    /// The last entry of the log that it holds.
    pub position: Position,
}

/// A piece of a shard's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct LogFile {
    #[serde(with = "shard_name")]
    pub shard: ShardId,
    pub file: String,
    pub bytes: u64,
    pub sha256: String,
    /// The entry before its first.
    pub after: Position,
    /// Its last.
    pub upto: Position,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    sha256: String,
    backup: Box<RawValue>,
}

/// A shard as people know it: its number, or `system`.
mod shard_name {
    use opcode_engine::ids::ShardId;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(shard: &ShardId, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(shard)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<ShardId, D::Error> {
        let name = String::deserialize(from)?;
        super::shard_of(&name).ok_or_else(|| D::Error::custom(format!("there is no shard {name:.40}")))
    }
}

/// The shard of a name, as it is written.
pub fn shard_of(name: &str) -> Option<ShardId> {
    let shard = match name {
        "system" => ShardId::SYSTEM,
        number => ShardId(number.parse().ok().filter(|number| *number < SHARDS_MAX)?),
    };
    (shard.to_string() == name).then_some(shard)
}

/// Every shard, the system shard first.
pub fn all_shards(count: u32) -> Vec<ShardId> {
    std::iter::once(ShardId::SYSTEM).chain((0..count).map(ShardId)).collect()
}

/// The name of a copy's file.
pub(super) fn copy_name(shard: ShardId) -> String {
    format!("shard-{shard}.db")
}

/// The name of a file of the log, numbered from 1.
pub(super) fn log_name(shard: ShardId, number: usize) -> String {
    format!("shard-{shard}.log.{number}")
}

impl Manifest {
    pub(super) fn new(
        cluster_id: String,
        version: String,
        shards: u32,
        (began_at, ended_at): (String, String),
        copies: Vec<CopyFile>,
    ) -> Self {
        Self { format: FORMAT, cluster_id, version, shards, began_at, ended_at, copies, log: Vec::new() }
    }

    /// Reads the manifest of a backup's folder.
    pub fn read(dir: &Path) -> Result<Self, ShardError> {
        let path = dir.join(MANIFEST);
        let file = match open_plain(&path) {
            Err(ShardError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                let why = format!(
                    "{}: there is no {MANIFEST}, so this is no backup, or not a whole one",
                    dir.display()
                );
                return Err(ShardError::Refused(why));
            }
            opened => opened?,
        };
        let mut bytes = Vec::new();
        file.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed("reading", &path))?;
        Self::decode(&bytes).map_err(|why| ShardError::Damaged(format!("{}: {why}", path.display())))
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let backup = serde_json::to_string_pretty(self).expect("a manifest is JSON");
        let sha256 = hex::encode(Sha256::digest(&backup));
        let backup = RawValue::from_string(backup).expect("it was just written");
        serde_json::to_vec(&Sealed { sha256, backup }).expect("a manifest is JSON")
    }

    /// Reads them back; the error says what is wrong.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        if bytes.len() as u64 > BYTES_MAX {
            return Err(format!("it is larger than {BYTES_MAX} bytes"));
        }
        let sealed: Sealed = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if hex::encode(Sha256::digest(sealed.backup.get())) != sealed.sha256 {
            return Err("it is not what was written: its checksum is another".into());
        }
        // Not even what says nothing may be other.
        if serde_json::to_vec(&sealed).is_ok_and(|written| written != bytes) {
            return Err("it is not written as it was".into());
        }
        // Of another format all the rest may be other too.
        #[derive(Deserialize)]
        struct Format {
            format: u32,
        }
        let Format { format } =
            serde_json::from_str(sealed.backup.get()).map_err(|error| error.to_string())?;
        if format != FORMAT {
            return Err(format!(
                "the backup is of format {format}, this release knows {FORMAT}: use the one that wrote it"
            ));
        }
        let manifest: Self = serde_json::from_str(sealed.backup.get()).map_err(|error| error.to_string())?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        if !(1..=SHARDS_MAX).contains(&self.shards) {
            return Err(format!("{} shards", self.shards));
        }
        let copies: Vec<ShardId> = self.copies.iter().map(|copy| copy.shard).collect();
        if copies != all_shards(self.shards) {
            return Err("it has not one copy of each shard".into());
        }
        if let Some(copy) = self.copies.iter().find(|copy| copy.file != copy_name(copy.shard)) {
            return Err(format!("the copy of shard {} has another name than it must", copy.shard));
        }
        let mut last: BTreeMap<ShardId, (Position, usize)> =
            self.copies.iter().map(|copy| (copy.shard, (copy.position, 0))).collect();
        for file in &self.log {
            let wrong = |what: &str| Err(format!("a file of the log of shard {}: {what}", file.shard));
            let Some((before, number)) = last.get_mut(&file.shard) else {
                return wrong("there is no such shard");
            };
            *number += 1;
            if file.file != log_name(file.shard, *number) {
                return wrong("it has another name than it must");
            }
            if file.after != *before || file.upto.index <= before.index || file.upto.term < before.term {
                return wrong("it does not follow on what comes before");
            }
            *before = file.upto;
        }
        Ok(())
    }

    /// The files of the log of one shard, in order.
    pub fn log_of(&self, shard: ShardId) -> impl Iterator<Item = &LogFile> {
        self.log.iter().filter(move |file| file.shard == shard)
    }

    /// The last entry of a shard's log that the backup has.
    pub fn last(&self, shard: ShardId) -> Position {
        let copied = || self.copies.iter().find(|copy| copy.shard == shard).map(|copy| copy.position);
        self.log_of(shard).last().map(|file| file.upto).or_else(copied).unwrap_or_default()
    }

    /// Every file, with how long it is and its checksum.
    pub fn files(&self) -> impl Iterator<Item = (&str, u64, &str)> {
        let copies = self.copies.iter().map(|copy| (copy.file.as_str(), copy.bytes, copy.sha256.as_str()));
        copies.chain(self.log.iter().map(|file| (file.file.as_str(), file.bytes, file.sha256.as_str())))
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files().fold(0, |sum, (_, bytes, _)| sum.saturating_add(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(term: u64, index: u64) -> Position {
        Position { term, index }
    }

    fn manifest() -> Manifest {
        let copy = |shard| CopyFile {
            shard,
            file: copy_name(shard),
            bytes: 4096,
            sha256: "00".repeat(32),
            position: at(1, 10),
        };
        let log = |number, after, upto| LogFile {
            shard: ShardId(0),
            file: log_name(ShardId(0), number),
            bytes: 9,
            sha256: "11".repeat(32),
            after,
            upto,
        };
        let copies = all_shards(2).into_iter().map(copy).collect();
        let times = ("a".to_owned(), "b".to_owned());
        let mut manifest = Manifest::new("c-1".into(), "0.1.0".into(), 2, times, copies);
        manifest.log = vec![log(1, at(1, 10), at(2, 12)), log(2, at(2, 12), at(2, 13))];
        manifest
    }

    #[test]
    fn it_is_read_back_and_no_byte_of_it_may_change() {
        let manifest = manifest();
        let bytes = manifest.encode();
        assert_eq!(Manifest::decode(&bytes), Ok(manifest.clone()));
        assert_eq!(manifest.last(ShardId(0)), at(2, 13));
        assert_eq!(manifest.last(ShardId::SYSTEM), at(1, 10));
        for place in 0..bytes.len() {
            let mut other = bytes.clone();
            other[place] ^= 1;
            assert!(Manifest::decode(&other).is_err(), "byte {place}");
            assert!(Manifest::decode(&bytes[..place]).is_err(), "cut at {place}");
        }
        assert!(Manifest::decode(&[&bytes[..], b"\n"].concat()).is_err(), "longer");
    }

    #[test]
    fn what_it_says_must_fit_together() {
        let changes: [fn(&mut Manifest); 10] = [
            |m| m.format = 2,
            |m| m.shards = 0,
            |m| m.shards = 3,
            |m| drop(m.copies.pop()),
            |m| m.copies[1].file = "../shard-0.db".into(),
            |m| m.copies.swap(0, 1),
            |m| m.log[0].file = "/etc/passwd".into(),
            |m| m.log.swap(0, 1),
            |m| m.log[1].after = at(2, 11),
            |m| m.log[1].shard = ShardId(7),
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut wrong = manifest();
            change(&mut wrong);
            assert!(Manifest::decode(&wrong.encode()).is_err(), "change {number}");
        }
        assert_eq!(
            ["system", "0", "17"].map(shard_of).map(|s| s.map(|s| s.0)),
            [Some(u32::MAX), Some(0), Some(17)]
        );
        assert_eq!(["", "-1", "01", "4294967295", "System", "1024"].map(shard_of), [None; 6]);
    }
}
