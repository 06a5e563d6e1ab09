//! The shard's side: a run's whole log out, and what was found good in.

use std::collections::HashSet;
use std::sync::Arc;

use opcode_engine::ids::{DefinitionHash, Sequence, WorkflowId};
use opcode_engine::{Code, Rejected};

use super::{Imported, LINE_BYTES_MAX, Line, PastRun, pinned};
use crate::error::{CallError, ShardError};
use crate::queue::{Door, Message};
use crate::record::EventRecord;
use crate::simulation;

/// Events read at a time; each may have data of 1 MiB.
const PAGE: usize = 100;

fn failed(error: &ShardError) -> CallError {
    CallError::Unavailable { applied_unknown: false, message: error.to_string() }
}

fn damaged(id: &WorkflowId, why: impl std::fmt::Display) -> CallError {
    failed(&ShardError::Damaged(format!("workflow {id}: {why}")))
}

impl Door {
    /// A run with all its events, as committed before the call, and the definitions that they name.
    /// Refused when it is larger than a line may be.
    pub(crate) async fn history(&self, id: &WorkflowId) -> Result<PastRun, CallError> {
        let no = self.run_no(id).await?;
        self.caught_up().await?;
        let (mut events, mut bytes): (Vec<EventRecord>, usize) = (Vec::new(), 0);
        loop {
            let after = events.last().map_or(Sequence(0), |event| event.sequence);
            let page = self.store.events(no, after, PAGE).await.map_err(|error| failed(&error))?;
            let is_last = page.len() < PAGE;
            bytes += page.iter().map(EventRecord::size_bytes).sum::<usize>();
            if bytes > LINE_BYTES_MAX {
                let message = format!("workflow {id} is larger than a line may be: {LINE_BYTES_MAX} bytes");
                return Err(CallError::Rejected(Rejected::new(Code::ValidationError, message)));
            }
            events.extend(page);
            if is_last {
                break;
            }
        }
        let definitions = self.definitions_of(id, &events).await?;
        // Had it been deleted meanwhile, what was read might be a part of it.
        if self.run_no(id).await? != no {
            return Err(CallError::NotFound(id.to_string()));
        }
        PastRun::new(id.clone(), &definitions, events).map_err(|why| damaged(id, why))
    }

    async fn definitions_of(
        &self,
        id: &WorkflowId,
        events: &[EventRecord],
    ) -> Result<Vec<Arc<str>>, CallError> {
        let (mut seen, mut definitions): (HashSet<DefinitionHash>, Vec<Arc<str>>) = Default::default();
        for event in events {
            let Some(hash) = pinned(event).map_err(|why| damaged(id, why))? else { continue };
            if !seen.insert(hash) {
                continue;
            }
            let text = self.store.definition(hash).await.map_err(|error| failed(&error))?;
            definitions.push(text.ok_or_else(|| damaged(id, format!("definition {hash} is missing")))?);
        }
        Ok(definitions)
    }

    /// Takes in lines: one answer each, in order, once all are committed. A refused one harms no other.
    pub(crate) async fn import(
        &self,
        lines: Vec<Line>,
    ) -> Result<Vec<Result<Imported, Rejected>>, CallError> {
        if !self.serves() {
            return Err(CallError::NotLeader { shard: self.id(), leader: self.leader() });
        }
        let known = self.definitions.clone();
        let judged = simulation::blocking(move || {
            let judge = |line: Line| line.check(&known);
            lines.into_iter().map(judge).collect::<Vec<_>>()
        });
        let judged = judged.await.map_err(|error| failed(&ShardError::Stopped(error.to_string())))?;
        let (mut good, mut answers) = (Vec::new(), Vec::with_capacity(judged.len()));
        for one in judged {
            answers.push(one.map(|checked| good.push(checked)));
        }
        let taken = match good.is_empty() {
            true => Vec::new(),
            false => self.ask(|reply| Message::Import { items: good, reply }).await?,
        };
        let mut taken = taken.into_iter();
        let answer = |one: Result<(), Rejected>| {
            one.and_then(|()| taken.next().expect("the loop answers for every item"))
        };
        Ok(answers.into_iter().map(answer).collect())
    }
}
