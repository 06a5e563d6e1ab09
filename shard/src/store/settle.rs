//! What a restored cluster's shards have to say to each other. Their tables are copies of different
//! moments, so a message may be known at one end and not at the other.
//!
//! | one end knows | the other | so |
//! |---|---|---|
//! | the parent: the child was started | there is no child | the parent is taken back to before that |
//! | the child has ended, and its parent was told | the parent waits | the child's end is owed again |
//! | the parent has called the child off, and it was told | the child goes on | the call-off is owed again |
//!
//! A start that the parent does not know to have been taken is sent again by itself, as after a crash.
//! A child that is not there was started after the backup of its shard had begun, and so was all that
//! its parent did from there on: what is taken back was acknowledged after that, and is done again.
//! Messages that are owed twice find at their other end that they have been taken.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use opcode_engine::child::{self, CurrentChild, Owed, Parent};
use opcode_engine::definition::Definition;
use opcode_engine::event::EventType;
use opcode_engine::ids::{DefinitionHash, RunNo, Sequence, ShardId, WorkflowId};
use opcode_engine::run::Run;
use serde::Serialize;

use super::apply::FoldedStatements;
use super::check::definition_of;
use super::codec::{integer, no_bind};
use super::connection::{Access, Bind, CheckpointMode, Connection};
use super::fold::RunFold;
use super::mend::remake;

use super::{reader, schema};
use crate::error::ShardError;
use crate::record::EventRecord;

/// What had to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Settled {
    /// Runs that were taken back to before the start of a child that is not there.
    pub taken_back: u64,
    /// Messages that are owed again.
    pub owed_again: u64,
}

/// Settles what the shards whose tables are these files have to say to each other; `owner` tells which
/// of them has a run. Nobody has them open.
pub fn settle(
    tables: &BTreeMap<ShardId, PathBuf>,
    owner: &dyn Fn(&WorkflowId) -> ShardId,
) -> Result<Settled, ShardError> {
    let shards = tables.iter().map(|(shard, path)| {
        let mut connection = Connection::open(path, Access::Write)?;
        schema::set_up(&mut connection)?;
        let statements = FoldedStatements::prepare(&mut connection)?;
        Ok((*shard, Tables { connection, statements, definitions: HashMap::new() }))
    });
    let shards = shards.collect::<Result<_, ShardError>>()?;
    let mut settling = Settling { shards, owner, settled: Settled::default() };
    let live = settling.live_runs()?;
    // First all that are taken back: what was owed after that is not owed any more.
    for (shard, no) in &live {
        settling.take_back(*shard, *no)?;
    }
    for (shard, no) in &live {
        settling.owe(*shard, *no)?;
    }
    for tables in settling.shards.values_mut() {
        if !tables.connection.checkpoint(CheckpointMode::Truncate)?.is_whole() {
            return Err(ShardError::Refused("the tables are in use by another process".into()));
        }
    }
    Ok(settling.settled)
}

struct Settling<'a> {
    shards: BTreeMap<ShardId, Tables>,
    owner: &'a dyn Fn(&WorkflowId) -> ShardId,
    settled: Settled,
}

/// The tables of one shard.
struct Tables {
    connection: Connection,
    statements: FoldedStatements,
    definitions: HashMap<DefinitionHash, Option<Arc<Definition>>>,
}

impl Settling<'_> {
    fn tables(&mut self, shard: ShardId) -> Result<&mut Tables, ShardError> {
        let missing = || ShardError::Damaged(format!("there are no tables of shard {shard}"));
        self.shards.get_mut(&shard).ok_or_else(missing)
    }

    fn live_runs(&mut self) -> Result<Vec<(ShardId, RunNo)>, ShardError> {
        let mut live = Vec::new();
        for (shard, tables) in &mut self.shards {
            let sql =
                "SELECT no FROM workflows WHERE status IN ('pending', 'active', 'suspended') ORDER BY no";
            let mut rows = tables.connection.select(sql, &[])?;
            while let Some(row) = rows.next()? {
                live.push((*shard, RunNo(row.unsigned(0)?)));
            }
        }
        Ok(live)
    }

    /// A run of any shard: its shard, its number and its events.
    fn find(&mut self, id: &WorkflowId) -> Result<Option<(ShardId, RunNo, Vec<EventRecord>)>, ShardError> {
        let shard = (self.owner)(id);
        let connection = &mut self.tables(shard)?.connection;
        Ok(reader::load_run(connection, id)?.map(|stored| (shard, stored.no, stored.events)))
    }

    /// Takes a run back while it waits for a child that is not there. Taken back, it may wait for
    /// another one that it had done with.
    fn take_back(&mut self, shard: ShardId, no: RunNo) -> Result<(), ShardError> {
        let mut is_taken_back = false;
        loop {
            let (run, events) = self.tables(shard)?.replay(no)?;
            let mut to: Option<Sequence> = None;
            for waited in run.children().into_iter().filter(|child| child.is_started) {
                if self.find(&waited.workflow_id)?.is_none() {
                    let started = wait_of(&events, &waited).ok_or_else(|| {
                        ShardError::Damaged(format!("run {} waits for a child since no event", no.0))
                    })?;
                    to = Some(to.map_or(started, |to| to.min(started)));
                }
            }
            let Some(to) = to else { break };
            self.tables(shard)?.cut(no, to)?;
            is_taken_back = true;
        }
        self.settled.taken_back += u64::from(is_taken_back);
        Ok(())
    }

    /// Has owed again what a run, or its parent or child, does not know.
    fn owe(&mut self, shard: ShardId, no: RunNo) -> Result<(), ShardError> {
        let (run, _) = self.tables(shard)?.replay(no)?;
        for current in run.children() {
            if let Some((shard, no, events)) = self.find(&current.workflow_id)?
                && let Some(sequence) = end_owed(&events)?
            {
                self.owe_again(shard, no, sequence)?;
            }
        }
        let Some(parent) = run.parent().cloned() else { return Ok(()) };
        if let Some((shard, no, events)) = self.find(&parent.workflow_id)?
            && let Some(sequence) = call_off(&events, run.id(), &parent)?
        {
            self.owe_again(shard, no, sequence)?;
        }
        Ok(())
    }

    fn owe_again(&mut self, shard: ShardId, no: RunNo, sequence: Sequence) -> Result<(), ShardError> {
        let connection = &mut self.tables(shard)?.connection;
        let insert = connection
            .cached("INSERT INTO outbox(workflow_no, sequence) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?;
        connection.run(insert, &[no_bind(no), Bind::Int(integer(sequence.0))])?;
        self.settled.owed_again += connection.changes();
        Ok(())
    }
}

impl Tables {
    fn replay(&mut self, no: RunNo) -> Result<(Run, Vec<EventRecord>), ShardError> {
        let damaged = |why: String| ShardError::Damaged(format!("run {}: {why}", no.0));
        let stored = reader::load_run_no(&mut self.connection, no)?;
        let stored = stored.ok_or_else(|| damaged("it is not there".into()))?;
        let events = stored.events.iter().map(EventRecord::decode).collect::<Result<Vec<_>, _>>();
        let (connection, definitions) = (&mut self.connection, &mut self.definitions);
        let mut failed = None;
        let run = Run::replay(no, stored.id, events.map_err(damaged)?, &mut |hash| {
            definition_of(connection, definitions, hash).unwrap_or_else(|error| {
                failed = Some(error);
                None
            })
        });
        match (run, failed) {
            (_, Some(error)) => Err(error),
            (run, None) => Ok((run.map_err(damaged)?, stored.events)),
        }
    }

    /// Removes a run's events from `from` on, and writes its views anew.
    fn cut(&mut self, no: RunNo, from: Sequence) -> Result<(), ShardError> {
        let connection = &mut self.connection;
        connection.execute("BEGIN IMMEDIATE")?;
        for sql in [
            "DELETE FROM event_rows WHERE workflow_no = ?1 AND sequence >= ?2",
            "DELETE FROM outbox WHERE workflow_no = ?1 AND sequence >= ?2",
        ] {
            let delete = connection.cached(sql)?;
            connection.run(delete, &[no_bind(no), Bind::Int(integer(from.0))])?;
        }
        remake(connection, &self.statements, no)?;
        connection.execute("COMMIT")
    }
}

/// The event since which a run waits for a child.
fn wait_of(events: &[EventRecord], child: &CurrentChild) -> Option<Sequence> {
    let is_wait = |event: &&EventRecord| {
        event.event_type == EventType::WaitStarted && event.step_id.as_ref() == Some(&child.step_id)
    };
    events.iter().rev().find(is_wait).map(|event| event.sequence)
}

/// The event by which a run that has ended owes its parent to be told.
fn end_owed(events: &[EventRecord]) -> Result<Option<Sequence>, ShardError> {
    let mut fold = RunFold::default();
    events.iter().try_for_each(|event| fold.fold(event))?;
    Ok(fold.owed.last().copied().filter(|_| fold.has_ended()))
}

/// The event by which a run has called a child off.
fn call_off(
    events: &[EventRecord],
    called_off: &WorkflowId,
    parent: &Parent,
) -> Result<Option<Sequence>, ShardError> {
    for event in events.iter().filter(|event| event.step_id.as_ref() == Some(&parent.step_id)) {
        let decoded = event.decode().map_err(ShardError::Damaged)?;
        if let Some(Owed::CallOff { child, attempt, .. }) = child::owed(&decoded)
            && child == *called_off
            && attempt == parent.attempt
        {
            return Ok(Some(event.sequence));
        }
    }
    Ok(None)
}
