//! Taking in what comes as history: an id that is free gets the run, whole, in one batch; one that
//! has the same run is left as it is; one that has another is refused.

use opcode_engine::ids::{RunNo, WorkflowId};
use opcode_engine::run::Run;
use opcode_engine::{Code, Rejected};

use super::commit::PortionNo;
use super::{Inbox, Loop};
use crate::error::{CallError, ShardError};
use crate::history::{Checked, CheckedRun, Imported};
use crate::queue::Reply;
use crate::record::Record;

type Answer = Reply<Vec<Result<Imported, Rejected>>>;

/// Items whose ids have been looked up in the tables.
pub(super) struct LookedUp {
    items: Vec<Checked>,
    /// What is kept in memory until then.
    ids: Vec<WorkflowId>,
    found: Result<Vec<Run>, ShardError>,
    reply: Answer,
}

impl LookedUp {
    pub(super) fn refuse(self, error: CallError) {
        // A caller that has gone away wants no answer.
        let _ = self.reply.send(Err(error));
    }
}

impl Loop {
    /// Looks the ids up in the tables first: whatever has one of them must be known.
    pub(super) fn on_import(&mut self, items: Vec<Checked>, reply: Answer) {
        let id_of = |item: &Checked| match item {
            Checked::Run(run) => Some(run.run.id().clone()),
            Checked::Template(_) => None,
        };
        let ids: Vec<_> = items.iter().filter_map(id_of).collect();
        let is_unknown = |id: &&WorkflowId| !self.runs.ids.contains_key(*id);
        let unknown: Vec<_> = ids.iter().filter(is_unknown).cloned().collect();
        if unknown.is_empty() {
            return self.import_all(items, reply);
        }
        // Those in memory too: one that went meanwhile would be taken in again.
        self.runs.pin(&ids);
        let (store, definitions) = (self.store.clone(), self.definitions.clone());
        let (inbox, epoch) = (self.inbox_in.clone(), self.epoch);
        tokio::spawn(async move {
            let found = async {
                let mut found = Vec::new();
                for stored in store.load_runs(unknown).await? {
                    found.push(definitions.replay(&store, stored).await?);
                }
                Ok(found)
            }
            .await;
            // A loop that is gone has dropped every reply with it.
            let _ = inbox
                .send(Inbox::LookedUp { looked_up: Box::new(LookedUp { items, ids, found, reply }), epoch });
        });
    }

    pub(super) fn on_looked_up(&mut self, looked_up: LookedUp) {
        self.runs.unpin(&looked_up.ids);
        match looked_up.found {
            Ok(found) => {
                for run in found {
                    self.take_in(run);
                }
                self.import_all(looked_up.items, looked_up.reply);
            }
            Err(error) => {
                let message = format!("the ids could not be looked up: {error}");
                let _ = looked_up.reply.send(Err(CallError::Unavailable { applied_unknown: false, message }));
            }
        }
    }

    fn import_all(&mut self, items: Vec<Checked>, reply: Answer) {
        let mut after = PortionNo::default();
        let mut results = Vec::with_capacity(items.len());
        for item in items {
            let (result, portion) = match item {
                Checked::Template(record) => {
                    let result = self.templates.import(record.clone());
                    if result.as_ref().is_ok_and(|is_new| *is_new) {
                        self.committer.push(Record::Template(record));
                        self.templates_portion = self.committer.open_no();
                    }
                    (result, self.templates_portion)
                }
                Checked::Run(run) => self.import_run(*run),
            };
            after = after.max(portion);
            results.push(result);
        }
        self.answer_after(after, reply, move |position| {
            let imported = |is_new| Imported { is_new, position };
            results.into_iter().map(|result| result.map(imported)).collect()
        });
    }

    /// Whether it is new, and the portion that this rests on.
    fn import_run(&mut self, checked: CheckedRun) -> (Result<bool, Rejected>, PortionNo) {
        let id = checked.run.id().clone();
        if let Some(no) = self.runs.ids.get(&id) {
            let slot = &self.runs.slots[no];
            let result = if slot.is_purged {
                let message = format!("workflow {id} is being deleted: send it again");
                Err(Rejected::new(Code::Conflict, message))
            } else if slot.run.fingerprint() == checked.run.numbered(*no).fingerprint() {
                Ok(false)
            } else {
                let message = format!("workflow {id} exists already, and is another run or went on");
                Err(Rejected::new(Code::Conflict, message))
            };
            return (result, slot.last_portion);
        }
        let no = RunNo(self.runs.last_no + 1);
        self.runs.last_no = no.0;
        self.committer.between_decisions();
        for definition in checked.definitions {
            if !self.runs.recorded.contains(&definition.hash) {
                self.record_definition(&definition);
            }
        }
        for event in checked.events {
            self.committer.push(Record::History(crate::record::EventRecord { no, ..event }));
        }
        let portion = self.committer.open_no();
        self.runs.insert(checked.run.numbered(no), portion, self.now);
        self.runs.consider(no, portion);
        (Ok(true), portion)
    }
}
