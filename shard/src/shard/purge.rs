//! Purging a run that has ended: a record by which every member's tables drop all of it.
//!
//! No event of it may be decided afterwards, so it stays in the loop's memory, as one that is there
//! no more, until the tables have applied the record; then it is let go like any other.

use opcode_engine::ids::{RunNo, Sequence};
use opcode_engine::{Code, Rejected};

use super::Loop;
use super::turn::Ask;
use crate::error::CallError;
use crate::handle::CommandReply;
use crate::queue::Reply;
use crate::record::Record;

impl Loop {
    /// `at`: the last event that whoever asks has seen; a run that went on since stays.
    pub(super) fn purge(&mut self, no: RunNo, at: Option<Sequence>, reply: Reply<CommandReply>) {
        let last_portion = self.runs.slots[&no].last_portion;
        if let Some(why) = self.keeps(no, at) {
            let rejected = Rejected::new(Code::InvalidTransition, why);
            return self.refuse_after(last_portion, reply, CallError::Rejected(rejected));
        }
        self.committer.between_decisions();
        self.committer.push(Record::Purged { no });
        let after = self.committer.open_no();
        let slot = self.runs.slots.get_mut(&no).expect("asked of a run in memory");
        slot.is_purged = true;
        slot.last_portion = after;
        let sequence = slot.run.sequence();
        let is_sure = self.committer.is_to_commit(after);
        self.answer_after(after, reply, move |position| CommandReply { sequence, position, is_sure });
        self.runs.consider(no, after);
    }

    /// Why a run cannot be purged now.
    fn keeps(&self, no: RunNo, at: Option<Sequence>) -> Option<String> {
        let slot = &self.runs.slots[&no];
        if at.is_some_and(|at| at != slot.run.sequence()) {
            return Some("the run went on since it was read".into());
        }
        let status = slot.run.status();
        if !status.is_terminal() {
            let status = status.as_str();
            return Some(format!("the run is {status}: cancel it first, only one that has ended is deleted"));
        }
        // What an event owes is known once it is committed.
        let is_settled = !self.committer.is_to_commit(slot.last_portion) && slot.steps_out == 0;
        if !is_settled || self.outbox.owes(no) {
            return Some("the run has just ended, and not everybody is told yet: try again".into());
        }
        None
    }

    /// Answers what is asked of a run that is there no more.
    pub(super) fn refuse_purged(&mut self, no: RunNo, ask: Ask) {
        let slot = &self.runs.slots[&no];
        let (after, error) = (slot.last_portion, CallError::NotFound(slot.run.id().to_string()));
        match ask {
            Ask::Command(_, reply) | Ask::Purge(_, reply) => self.refuse_after(after, reply, error),
            Ask::Query(query) => self.refuse_query_after(after, query, error),
        }
    }
}
