//! Runs as the engine decides them, in memory: a chain of ten steps each, whole.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use opcode_engine::command::Start;
use opcode_engine::definition::Definition;
use opcode_engine::event::Event;
use opcode_engine::fsm::WorkflowStatus;
use opcode_engine::ids::{RunNo, Timestamp, WorkflowId};
use opcode_engine::run::run_through;
use opcode_shard::record::{EventRecord, Record};
use serde_json::json;

use crate::work::Work;

/// When all of it happens.
const NOW: Timestamp = Timestamp(1_700_000_000_000);

/// The definition of every run here.
pub(crate) fn definition() -> Result<Arc<Definition>> {
    let text = Work::Chain10.definition().to_string();
    Definition::parse(&text).map(Arc::new).map_err(|invalid| anyhow::anyhow!("{invalid:?}"))
}

/// The id of a run by its number, as long as those that a node makes.
pub(crate) fn id(no: u64) -> WorkflowId {
    WorkflowId::parse(&format!("0190d5a2-7c1e-7000-8000-{no:012x}")).expect("an id of hexadecimal digits")
}

/// All events of a run, from its start to its end.
pub(crate) fn events(no: u64, definition: &Arc<Definition>) -> Result<Vec<Event>> {
    let start = Start::new(RunNo(no), id(no), Arc::clone(definition));
    let output = json!({"logged": true, "level": "debug", "message": "x".repeat(64)});
    let (run, events) =
        run_through(start, &output, NOW).map_err(|rejected| anyhow::anyhow!("{}", rejected.message))?;
    if run.status() != WorkflowStatus::Completed {
        bail!("a run of the engine alone is {:?}", run.status());
    }
    Ok(events)
}

/// The records of `runs` runs, in batches as a busy shard commits them: some of each of
/// `side_by_side` runs in turn. The definition stands before all of them.
pub(crate) fn batches(runs: u64, side_by_side: u64, batch: usize) -> Result<Vec<Vec<Record>>> {
    let definition = definition()?;
    let source = Arc::from(definition.source.to_string());
    let mut batches = vec![vec![Record::Definition { hash: definition.hash, source }]];
    let mut last = Vec::with_capacity(batch);
    for first in (1..=runs).step_by(usize::try_from(side_by_side)?) {
        let runs = (first..=runs.min(first + side_by_side - 1))
            .map(|no| Ok(events(no, &definition)?.into_iter().map(move |event| (no, event))));
        let mut runs = runs.collect::<Result<Vec<_>>>()?;
        while !runs.is_empty() {
            runs.retain_mut(|run| {
                let Some((no, event)) = run.next() else { return false };
                last.push(Record::Event(EventRecord::encode(RunNo(no), &event)));
                if last.len() == batch {
                    batches.push(std::mem::replace(&mut last, Vec::with_capacity(batch)));
                }
                true
            });
        }
    }
    batches.push(last);
    batches.retain(|batch| !batch.is_empty());
    batches.first().context("there are no runs")?;
    Ok(batches)
}

/// Events in batches.
pub(crate) fn count(batches: &[Vec<Record>]) -> usize {
    batches.iter().flatten().filter(|record| record.as_event().is_some()).count()
}
