//! A run as it is shown: the document of `GET /v1/workflows/{id}`, and the fingerprint by which
//! tests tell two runs apart.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use super::instance::{Instance, Place};
use super::state::State;
use crate::child::{self, child_id};
use crate::definition::StepKind;
use crate::fsm::StepStatus;
use crate::ids::Timestamp;

impl State {
    pub(crate) fn render(&self) -> Value {
        let mut document = json!({
            "workflow_id": self.id.as_str(),
            "status": self.status,
            "template": self.template,
            "version": self.version,
            "agent_id": self.agent_id,
            "params": &*self.params,
            "output": self.output.as_deref(),
            "error": self.error.as_deref(),
            "labels": self.labels,
            "steps": self.render_steps(),
            "pending_decisions": self.render_decisions(),
            "context": &*self.context,
            "attempt": self.attempt,
            "created_at": self.created_at.to_rfc3339(),
            "started_at": self.started_at.map(Timestamp::to_rfc3339),
            "completed_at": self.completed_at.map(Timestamp::to_rfc3339),
        });
        if let Some(parent) = &self.parent {
            document["parent"] = json!({
                "workflow_id": parent.workflow_id, "step_id": &*parent.step_id, "attempt": parent.attempt,
            });
        }
        document
    }

    /// Every step by full id. Hooks are shown from when they begin; a step of an earlier round
    /// of its composite is shown as that round left it until it begins again, and one that another
    /// definition has done away with as it was then.
    fn render_steps(&self) -> Map<String, Value> {
        let mut steps = Map::new();
        for (ix, instance) in (0_u32..).zip(&self.instances) {
            let is_idle = instance.status == StepStatus::Pending && instance.attempt == 0;
            let is_hidden = match instance.flags.gone {
                true => is_idle || self.by_id.get(&instance.id) != Some(&ix),
                false => is_idle && matches!(instance.place, Place::Hook(_)),
            };
            if !is_hidden {
                let mut step = render_step(instance);
                if instance.attempt > 0 && self.runs_child(instance) {
                    step["child"] = json!(child_id(&self.id, &instance.id, instance.attempt));
                }
                steps.insert(instance.id.to_string(), step);
            }
        }
        steps
    }

    /// Whether a step runs a child, whose id is then shown with it.
    pub(super) fn runs_child(&self, instance: &Instance) -> bool {
        let kind = &self.definition.step(instance.spec).kind;
        !instance.flags.gone && matches!(kind, StepKind::Action { action, .. } if &**action == child::ACTION)
    }

    /// The pending decisions, as they stand in the API.
    pub(crate) fn render_decisions(&self) -> Vec<Value> {
        let mut shown = Vec::new();
        for &ix in &self.suspended {
            let instance = self.get(ix);
            if let Some(decision) = instance.pending_decision() {
                shown.push(json!({
                    "decision_id": &*decision.decision_id,
                    "workflow_id": self.id.as_str(),
                    "step_id": &*instance.id,
                    "context": decision.context,
                    "options": decision.options,
                    "target_agent": decision.target_agent,
                    "fallback": decision.fallback,
                    "timeout_at": decision.timeout_at.map(Timestamp::to_rfc3339),
                    "created_at": decision.created_at.to_rfc3339(),
                }));
            }
        }
        shown
    }

    /// Everything that the events have said, as text.
    pub(crate) fn fingerprint(&self) -> String {
        let mut text = format!("{}\n", self.render());
        let run = (
            (
                &self.no,
                &self.definition.hash,
                self.held,
                self.sequence,
                self.last_at,
                self.due,
                self.body_hash,
            ),
            (&self.ending, self.forced, &self.compensable, &self.mailbox, &self.delivered),
            (self.root_open, self.moving, &self.suspended, &self.hooks, &self.workflow),
        );
        let _ = writeln!(text, "{run:?}");
        for (ix, instance) in self.instances.iter().enumerate() {
            let _ = writeln!(text, "{ix} {instance:?} {:?}", self.by_id.get(&instance.id));
        }
        text
    }
}

fn render_step(instance: &Instance) -> Value {
    let is_done = instance.status == StepStatus::Completed;
    let duration_ms = match (instance.started_at, instance.completed_at) {
        (Some(started), Some(completed)) => Some(completed.since_ms(started)),
        _ => None,
    };
    json!({
        "status": instance.status,
        "output": instance.output.as_deref().filter(|_| is_done),
        "error": instance.error.as_deref(),
        "attempts": instance.attempt,
        "started_at": instance.started_at.map(Timestamp::to_rfc3339),
        "completed_at": instance.completed_at.map(Timestamp::to_rfc3339),
        "duration_ms": duration_ms,
    })
}
