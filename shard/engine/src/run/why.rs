//! Why a run is not moving: one entry for each thing that it waits for, with the repair where
//! somebody can do something.
//!
//! Only what the run knows is said here; open breakers, a full pool and a lost quorum are the
//! shard's to add.

use serde_json::{Value, json};

use super::instance::{Detail, Instance};
use super::state::{Ending, State};
use crate::child::child_id;
use crate::decide::INTERRUPTIONS_MAX;
use crate::definition::StepKind;
use crate::fsm::{StepStatus, WorkflowStatus};
use crate::ids::Timestamp;

/// Most entries of one answer.
const ENTRIES_MAX: usize = 100;

impl State {
    pub(crate) fn why(&self, now: Timestamp) -> Vec<Value> {
        let mut waits = Vec::new();
        match self.status {
            WorkflowStatus::Completed | WorkflowStatus::Failed | WorkflowStatus::Cancelled => {
                return vec![json!({
                    "kind": "nothing",
                    "step_id": null,
                    "since": self.completed_at.map(Timestamp::to_rfc3339),
                    "detail": format!("the run is {}", self.status.as_str()),
                    "repair": (self.status == WorkflowStatus::Failed)
                        .then(|| format!("POST /v1/workflows/{}/retry", self.id.local())),
                })];
            }
            WorkflowStatus::Pending => waits.push(json!({
                "kind": "timer",
                "step_id": null,
                "since": self.created_at.to_rfc3339(),
                "until": self.due.map(Timestamp::to_rfc3339),
                "detail": "the run starts at its start_at",
            })),
            WorkflowStatus::Active | WorkflowStatus::Suspended => {}
        }
        if self.held {
            waits.push(json!({
                "kind": "operator",
                "step_id": null,
                "since": self.last_at.to_rfc3339(),
                "detail": "the run is suspended: no further step starts",
                "repair": format!("POST /v1/workflows/{}/resume", self.id.local()),
            }));
        }
        for instance in self.instances.iter().filter(|i| i.is_active() && !i.flags.gone) {
            if waits.len() >= ENTRIES_MAX {
                break;
            }
            waits.extend(self.why_step(instance, now));
        }
        if waits.is_empty() {
            let detail = match &self.ending {
                Some(Ending::Failed(error)) => format!("the run is ending: {error}"),
                Some(Ending::Completed | Ending::Cancelled { .. }) => "the run is ending".to_owned(),
                None => "nothing: the run is moving".to_owned(),
            };
            let since = self.last_at.to_rfc3339();
            waits.push(json!({ "kind": "nothing", "step_id": null, "since": since, "detail": detail }));
        }
        waits
    }

    fn why_step(&self, instance: &Instance, now: Timestamp) -> Option<Value> {
        let signals = format!("POST /v1/workflows/{}/signals", self.id.local());
        let spec = self.definition.step(instance.spec);
        let mut until = instance.timer;
        let mut who = None;
        let mut child = None;
        let (kind, detail, repair) = match (instance.current(), &spec.kind, &instance.detail) {
            (StepStatus::Suspended, _, Detail::Decision(decision)) => {
                who.clone_from(&decision.target_agent);
                let detail = format!("decision {} is pending", decision.decision_id);
                let body =
                    json!({ "type": "decision", "step_id": &*instance.id, "payload": { "choice": "…" } });
                ("decision", detail, Some(format!("{signals} {body}")))
            }
            (StepStatus::Suspended, _, Detail::Wait(wait)) => {
                let name = wait.signal.as_deref().unwrap_or_default();
                let body = json!({ "type": "data", "step_id": &*instance.id });
                ("signal", format!("signal {name:?} has not come"), Some(format!("{signals} {body}")))
            }
            (StepStatus::Suspended, _, Detail::None | Detail::Composite(_)) => {
                let body = json!({ "type": "retry", "step_id": &*instance.id });
                let detail = match instance.interruptions {
                    INTERRUPTIONS_MAX.. => format!(
                        "the step is a dead letter: it was interrupted {} times in a row",
                        instance.interruptions
                    ),
                    _ => "the step was interrupted".to_owned(),
                };
                ("operator", detail, Some(format!("{signals} {body}")))
            }
            (StepStatus::Retrying, _, _) => {
                let error = instance.error.as_deref().map_or_else(String::new, |e| format!(" after {e}"));
                ("retry", format!("attempt {} follows{error}", instance.attempt + 1), None)
            }
            (StepStatus::Running, StepKind::Wait(_), _) => ("timer", "the wait is not over".to_owned(), None),
            (StepStatus::Running, StepKind::Action { .. }, _) if self.runs_child(instance) => {
                until = instance.deadline;
                let id = child_id(&self.id, &instance.id, instance.attempt);
                let id = id.local();
                let detail = match instance.flags.waits_for_child {
                    true => format!("child {id} has not ended"),
                    false => format!("child {id} is being started"),
                };
                child = Some(id.to_owned());
                ("child", detail, Some(format!("GET /v1/workflows/{id}/why")))
            }
            (StepStatus::Running, StepKind::Action { action, .. }, _) => {
                until = instance.deadline;
                ("action", format!("{action} has run for {} ms", now.since_ms(instance.since)), None)
            }
            _ => return None,
        };
        let mut waits = json!({
            "kind": kind,
            "step_id": &*instance.id,
            "since": instance.since.to_rfc3339(),
            "until": until.map(Timestamp::to_rfc3339),
            "who": who,
            "detail": detail,
            "repair": repair,
        });
        if let Some(child) = child {
            waits["child"] = json!(child);
        }
        Some(waits)
    }
}
