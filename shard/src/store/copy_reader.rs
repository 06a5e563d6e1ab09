//! Reads of a copy of a shard's tables that somebody else writes: the same functions that read the
//! tables, over a file that is not this process's own. It never writes, and tells a damaged file.

use std::path::PathBuf;
use std::sync::Arc;

use super::apply::load_standing;
use super::connection::Datum;
use super::reader::Readers;
use super::schema::check_identity;
use super::{DecisionFilter, DecisionRow, RunFilter, RunSummary, StoreOptions, lists, tell_damage};
use crate::batch::Position;
use crate::error::ShardError;

/// The door to a copy.
pub(crate) struct CopyReader {
    options: StoreOptions,
    readers: Arc<Readers>,
}

impl CopyReader {
    /// A reader of a file that need not be there yet.
    pub(crate) fn new(options: StoreOptions) -> Self {
        let readers = Arc::new(Readers::new(options.path.clone()));
        Self { options, readers }
    }

    /// An error when the file is not sound, or not a copy of this shard's tables.
    pub(crate) async fn check(&self) -> Result<(), ShardError> {
        let options = self.options.clone();
        let check = move |mut connection: super::connection::Connection| {
            check_identity(&mut connection, &options)?;
            let mut rows = connection.select_once("PRAGMA quick_check(1)", &[])?;
            let row = rows.next()?;
            match row.as_ref().map(|row| row.get(0)) {
                Some(Datum::Text(b"ok")) => Ok(()),
                _ => Err(ShardError::Damaged(format!("{} is not sound", options.path.display()))),
            }
        };
        self.readers.read_apart(check).await
    }

    /// How far the tables had come that it is a copy of.
    pub(crate) async fn applied(&self) -> Result<Position, ShardError> {
        let applied = self.readers.read(load_standing).await?;
        Ok(applied.map(|standing| standing.position).unwrap_or_default())
    }

    pub(crate) async fn list_runs(&self, filter: RunFilter) -> Result<Vec<RunSummary>, ShardError> {
        self.told(self.readers.read(move |connection| lists::runs(connection, &filter)).await)
    }

    pub(crate) async fn list_decisions(
        &self,
        filter: DecisionFilter,
    ) -> Result<Vec<DecisionRow>, ShardError> {
        self.told(self.readers.read(move |connection| lists::decisions(connection, &filter)).await)
    }

    /// A damaged row of a copy is told of; nobody but who writes the tables can mend it.
    fn told<T>(&self, answer: Result<T, ShardError>) -> Result<T, ShardError> {
        answer.inspect_err(|error| tell_damage(self.options.shard, Some(error)))
    }

    /// The folder of the file.
    pub(crate) fn folder(&self) -> PathBuf {
        self.options.path.parent().map(PathBuf::from).unwrap_or_default()
    }
}
