//! The catalogue: what the cluster keeps beside templates and runs, as documents by kind and key in
//! the system shard. A document is JSON text that nobody here reads.
//!
//! A change is a compare-and-set on the revision of the entry, so that of two who change the same
//! one neither undoes what the other did unseen.

use std::sync::Arc;

use opcode_engine::ids::Timestamp;
use opcode_engine::{Code, Rejected};
use serde::{Deserialize, Serialize};

/// Most entries of one kind.
pub const ENTRIES_MAX: usize = 10_000;
/// Most bytes of all entries of one kind: they are held in memory.
pub const KIND_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 256;
/// Largest document, in bytes.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// Bytes from which on a page of entries is full.
pub const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// What an entry of the catalogue is. Codes and names are frozen: they stand in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum EntryKind {
    Schedule = 1,
    Agent = 2,
    Token = 3,
    Secret = 4,
    Plugin = 5,
    Webhook = 6,
    Namespace = 7,
    /// A template that is paused, by its name: while there is one, no run of it starts.
    Pause = 8,
    /// How long runs that have ended are kept, by namespace and template.
    Retention = 9,
    /// A delivery of a webhook that failed.
    WebhookFailure = 10,
}

impl EntryKind {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Schedule,
        Self::Agent,
        Self::Token,
        Self::Secret,
        Self::Plugin,
        Self::Webhook,
        Self::Namespace,
        Self::Pause,
        Self::Retention,
        Self::WebhookFailure,
    ];

    /// Its code in the log.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The kind with this code.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// Its name in the tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Schedule => "schedule",
            Self::Agent => "agent",
            Self::Token => "token",
            Self::Secret => "secret",
            Self::Plugin => "plugin",
            Self::Webhook => "webhook",
            Self::Namespace => "namespace",
            Self::Pause => "pause",
            Self::Retention => "retention",
            Self::WebhookFailure => "webhook_failure",
        }
    }

    /// The kind with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// An entry of the catalogue: a document by kind and key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogueEntry {
    /// What it is.
    pub kind: EntryKind,
    /// Its name among those of its kind.
    pub key: Arc<str>,
    /// The number of the change that made it so. Changes of the whole catalogue are counted
    /// together, so that an entry which was deleted and made anew never has an old number.
    pub revision: u64,
    /// JSON text, opaque here; none when the entry is deleted.
    pub body: Option<Arc<str>>,
    /// When it was changed.
    pub at: Timestamp,
}

impl CatalogueEntry {
    /// About how many bytes it is in the log.
    pub fn size_bytes(&self) -> usize {
        32 + self.key.len() + self.body.as_ref().map_or(0, |body| body.len())
    }
}

/// A change that is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryChange {
    /// Of which kind.
    pub kind: EntryKind,
    /// Of which entry.
    pub key: Arc<str>,
    /// The revision that it has until then; none when there shall be no entry yet.
    pub after: Option<u64>,
    /// JSON text; none deletes it.
    pub body: Option<Arc<str>>,
}

impl EntryChange {
    /// Refuses what is over a limit by itself.
    pub fn check(&self) -> Result<(), Rejected> {
        let refused = |message: String| Err(Rejected::new(Code::ValidationError, message));
        if self.key.is_empty() || self.key.len() > KEY_BYTES_MAX {
            return refused(format!("the key of an entry is 1 to {KEY_BYTES_MAX} bytes long"));
        }
        match &self.body {
            Some(body) if body.len() > BODY_BYTES_MAX => refused(format!(
                "the {} is {} bytes large with all that it keeps; at most {BODY_BYTES_MAX} are taken",
                self.kind.as_str(),
                body.len()
            )),
            Some(_) | None => Ok(()),
        }
    }
}

/// What came of a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Changed {
    /// It is so now.
    Made(CatalogueEntry),
    /// It was so already: asking twice does what asking once does. None when there is no entry.
    Already(Option<CatalogueEntry>),
    /// The entry has another revision, or there is none: as it is.
    Stale(Option<CatalogueEntry>),
}

/// Some entries of a kind, ordered by key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryPage {
    /// The entries.
    pub entries: Vec<CatalogueEntry>,
    /// Whether there are more after them.
    pub has_more: bool,
}
