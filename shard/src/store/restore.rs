//! Tables that come from a backup: checked as a copy is, brought forward by entries of the log, and
//! made those of another cluster.

use std::path::Path;

use opcode_engine::ids::ShardId;

use super::apply::Applier;
use super::connection::{Bind, CheckpointMode};
use super::{StoreOptions, copy, schema};
use crate::batch::Position;
use crate::error::ShardError;
use crate::log::{Applied, CommittedEntry};

/// How far a copy of a shard's tables goes; an error when it is none, or not sound. Reads all of it
/// and changes nothing.
pub fn check_copy(path: &Path, shard: ShardId, cluster_id: &str) -> Result<Position, ShardError> {
    let options = StoreOptions { path: path.to_owned(), shard, cluster_id: cluster_id.to_owned() };
    copy::check(path, &options).map(|standing| standing.position)
}

/// Brings tables that nobody has open forward by `entries`, which are given piece by piece and follow
/// on what is applied, and makes them those of the cluster `to`. What is applied then is returned. After
/// an error the file is of no use.
pub fn adopt(
    options: &StoreOptions,
    to: &str,
    entries: &mut dyn FnMut() -> Result<Option<Vec<CommittedEntry>>, ShardError>,
) -> Result<Applied, ShardError> {
    let mut applier = Applier::new(schema::open_for_writing(options)?)?;
    while let Some(some) = entries()? {
        applier.apply(&some)?;
    }
    let applied = applier
        .standing()
        .map(|standing| standing.applied.clone())
        .ok_or_else(|| ShardError::Damaged(format!("{} holds nothing applied", options.path.display())))?;
    let connection = applier.connection();
    let update = connection.cached("UPDATE meta SET value = ?1 WHERE key = 'cluster_id'")?;
    connection.run(update, &[Bind::Text(to)])?;
    match connection.checkpoint(CheckpointMode::Truncate)?.is_whole() {
        true => Ok(applied),
        false => Err(ShardError::Refused("the tables are in use by another process".into())),
    }
}
