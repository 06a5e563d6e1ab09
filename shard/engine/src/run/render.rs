//! A run as it is shown: the document of `GET /v1/workflows/{id}`, and the fingerprint by which
//! tests tell two runs apart.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::instance::{Instance, InstanceIx, Place};
use super::state::State;
use crate::child::{self, child_id};
use crate::definition::StepKind;
use crate::error::Fault;
use crate::fsm::{StepStatus, WorkflowStatus};
use crate::ids::Timestamp;
use crate::namespace::local;

/// The whole document. It is written straight as text, since a chain of steps is asked for as often
/// as it is run.
#[derive(Serialize)]
struct Document<'a> {
    workflow_id: &'a str,
    status: WorkflowStatus,
    template: Option<&'a str>,
    version: Option<&'a str>,
    agent_id: Option<&'a str>,
    params: &'a Value,
    output: Option<&'a Value>,
    error: Option<&'a Fault>,
    labels: &'a BTreeMap<String, String>,
    steps: Steps<'a>,
    pending_decisions: Vec<Value>,
    context: &'a Value,
    attempt: u32,
    created_at: String,
    started_at: Option<String>,
    completed_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<Value>,
}

/// What came of a run: these fields of its document.
#[derive(Serialize)]
struct Outcome<'a> {
    output: Option<&'a Value>,
    error: Option<&'a Fault>,
}

/// Every step by full id. Hooks are shown from when they begin; a step of an earlier round of its
/// composite is shown as that round left it until it begins again, and one that another definition
/// has done away with as it was then.
struct Steps<'a>(&'a State);

impl Serialize for Steps<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut steps = serializer.serialize_map(None)?;
        for (ix, instance) in (0..).zip(&self.0.instances) {
            if self.0.is_shown(ix, instance) {
                steps.serialize_entry(&*instance.id, &self.0.render_step(instance))?;
            }
        }
        steps.end()
    }
}

#[derive(Serialize)]
struct Step<'a> {
    status: StepStatus,
    output: Option<&'a Value>,
    error: Option<&'a Fault>,
    attempts: u32,
    started_at: Option<String>,
    completed_at: Option<String>,
    duration_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    child: Option<String>,
}

impl State {
    /// The document of `GET /v1/workflows/{id}`.
    pub(crate) fn document(&self) -> impl Serialize {
        let parent = |parent: &crate::child::Parent| {
            json!({
                "workflow_id": parent.workflow_id.local(), "step_id": &*parent.step_id, "attempt": parent.attempt,
            })
        };
        Document {
            workflow_id: self.id.local(),
            status: self.status,
            template: self.template.as_deref().map(local),
            version: self.version.as_deref(),
            agent_id: self.agent_id.as_deref(),
            params: &self.params,
            output: self.output.as_deref(),
            error: self.error.as_deref(),
            labels: &self.labels,
            steps: Steps(self),
            pending_decisions: self.render_decisions(),
            context: &self.context,
            attempt: self.attempt,
            created_at: self.created_at.to_rfc3339(),
            started_at: self.started_at.map(Timestamp::to_rfc3339),
            completed_at: self.completed_at.map(Timestamp::to_rfc3339),
            parent: self.parent.as_deref().map(parent),
        }
    }

    /// What of the document says what came of the run.
    pub(crate) fn outcome(&self) -> impl Serialize {
        Outcome { output: self.output.as_deref(), error: self.error.as_deref() }
    }

    pub(crate) fn step_statuses(&self) -> BTreeMap<String, String> {
        let shown = (0..).zip(&self.instances).filter(|(ix, instance)| self.is_shown(*ix, instance));
        shown.map(|(_, instance)| (instance.id.to_string(), instance.status.as_str().to_owned())).collect()
    }

    fn is_shown(&self, ix: InstanceIx, instance: &Instance) -> bool {
        let is_idle = instance.status == StepStatus::Pending && instance.attempt == 0;
        match instance.flags.gone {
            true => !is_idle && self.by_id.get(&instance.id) == Some(&ix),
            false => !is_idle || !matches!(instance.place, Place::Hook(_)),
        }
    }

    fn render_step<'a>(&self, instance: &'a Instance) -> Step<'a> {
        let is_done = instance.status == StepStatus::Completed;
        let times = instance.started_at.zip(instance.completed_at);
        let has_child = instance.attempt > 0 && self.runs_child(instance);
        Step {
            status: instance.status,
            output: instance.output.as_deref().filter(|_| is_done),
            error: instance.error.as_deref(),
            attempts: instance.attempt,
            started_at: instance.started_at.map(Timestamp::to_rfc3339),
            completed_at: instance.completed_at.map(Timestamp::to_rfc3339),
            duration_ms: times.map(|(started, completed)| completed.since_ms(started)),
            child: has_child.then(|| child_id(&self.id, &instance.id, instance.attempt).local().to_owned()),
        }
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
                    "workflow_id": self.id.local(),
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
        let mut text = format!("{}\n", json!(self.document()));
        let run = (
            (
                &self.no,
                &self.definition.hash,
                self.held,
                self.sequence,
                self.last_at,
                self.due,
                (self.body_hash, self.request),
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
