//! Child runs: `workflow.run`, and what a parent and its child have to say to each other.
//!
//! The two may live in different shards, so each says what it has to say by an event of its own,
//! and a message is owed as long as that event stands unanswered:
//!
//! | owed | since | until |
//! |---|---|---|
//! | start this child | `step_started` or `step_retry_attempt` of the parent's step | the step's `wait_started` (it waits for the child), or its end |
//! | call this child off | an event that ends the attempt and names its `child` | the child's shard has taken it |
//! | the child has ended | the child's last event, which names its `parent` | the parent's shard has taken it |
//!
//! So the message is durable with the event, in the same entry of the log, and no more is written
//! for it: an outbox beside the events would repeat what they say. The child's id is a function of
//! the parent's id, the step and the attempt, and its first event names them: a start that comes
//! twice finds the run that the first one made, whatever has become of it since, and a result
//! that comes twice finds the attempt over. That is the inbox, on both sides.
//!
//! An attempt that does not succeed takes its child with it: the call-off is owed also when it is
//! not known whether the start has arrived, and a child that is called off before it was started
//! is recorded as cancelled, so that the start, should it still come, finds it so.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::error::{Code, Fault};
use crate::event::{Body, Event};
use crate::ids::{ID_BYTES_MAX, WorkflowId};

/// The action that runs a child.
pub const ACTION: &str = "workflow.run";
/// How deep children may nest: a run that nobody started has depth 0.
pub const DEPTH_MAX: u32 = 32;

/// Who started a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// The parent's id.
    pub workflow_id: WorkflowId,
    /// Full id of the step that runs the child.
    pub step_id: Arc<str>,
    /// The attempt of that step.
    pub attempt: u32,
    /// How many runs are above this one.
    pub depth: u32,
    /// Whether the step waits for the child's end.
    pub waits: bool,
}

impl Parent {
    /// Whether it is the same attempt of the same step.
    pub fn is_same(&self, other: &Self) -> bool {
        self.workflow_id == other.workflow_id
            && self.step_id == other.step_id
            && self.attempt == other.attempt
    }
}

/// A child that an attempt which is under way runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CurrentChild {
    /// Its id.
    pub workflow_id: WorkflowId,
    /// Full id of the step that runs it.
    pub step_id: Arc<str>,
    /// Whether it has been started, as far as the events say: its end is waited for.
    pub is_started: bool,
}

/// A child, as the event that gives it up names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildRef {
    /// Its id.
    pub workflow_id: WorkflowId,
    /// The attempt of the step that runs it.
    pub attempt: u32,
}

/// How a child has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Well, with this output.
    Completed(Arc<Value>),
    /// Badly.
    Failed(Fault),
    /// It was called off, for this reason.
    Cancelled(Option<String>),
}

/// A message that an event leaves owed.
#[derive(Clone, Debug, PartialEq)]
pub enum Owed {
    /// To the child: the parent no longer wants it.
    CallOff {
        /// The child.
        child: WorkflowId,
        /// The step whose attempt is over.
        step_id: Arc<str>,
        /// That attempt.
        attempt: u32,
    },
    /// To the parent: its child has ended.
    Ended {
        /// The parent, with the step that waits.
        parent: Parent,
        /// How.
        outcome: Outcome,
    },
}

/// The id of the child that an attempt of a step runs: readable where that is a valid id, and in the
/// namespace of its parent.
pub fn child_id(parent: &WorkflowId, step_id: &str, attempt: u32) -> WorkflowId {
    // Only a step id without a colon can be told from what stands around it.
    if !step_id.contains(':')
        && let Ok(id) = WorkflowId::parse(&format!("{}:{step_id}:{attempt}", parent.local()))
    {
        return id.in_namespace(&parent.namespace());
    }
    let mut digest = Sha256::new();
    digest.update(b"opcode child run\0");
    for part in [parent.as_str(), step_id] {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part.as_bytes());
    }
    digest.update(attempt.to_le_bytes());
    let mut text = String::with_capacity(ID_BYTES_MAX);
    text.push_str("child:");
    for byte in digest.finalize() {
        text.push_str(&format!("{byte:02x}"));
    }
    WorkflowId::parse(&text).expect("letters, a colon and digits").in_namespace(&parent.namespace())
}

/// The message that an event leaves owed, if it does.
pub fn owed(event: &Event) -> Option<Owed> {
    let ended = |parent: &Option<Box<Parent>>, outcome: Outcome| {
        parent.as_deref().map(|parent| Owed::Ended { parent: parent.clone(), outcome })
    };
    let call_off = |child: &Option<ChildRef>| {
        let (ChildRef { workflow_id, attempt }, step_id) = (child.clone()?, event.step_id.clone()?);
        Some(Owed::CallOff { child: workflow_id, step_id, attempt })
    };
    match &event.body {
        Body::WorkflowCompleted(e) => ended(&e.parent, Outcome::Completed(e.output.clone())),
        Body::WorkflowFailed(e) => ended(&e.parent, Outcome::Failed(e.error.clone())),
        Body::WorkflowCancelled(e) => ended(&e.parent, Outcome::Cancelled(e.reason.clone())),
        Body::StepFailed(e) => call_off(&e.child),
        Body::StepSkipped(e) => call_off(&e.child),
        Body::StepRetrying(e) => call_off(&e.child),
        Body::StepIgnored(e) => call_off(&e.child),
        _ => None,
    }
}

/// What a child's end is to the step that waited for it: the child's output, or a fault of the
/// same code. What a run's failure has more than a step's becomes `STEP_FAILED`, which is retried.
pub fn result_of(child: &WorkflowId, outcome: Outcome) -> Result<Value, Fault> {
    let child = child.local();
    let (code, message, error) = match outcome {
        Outcome::Completed(output) => return Ok(Arc::unwrap_or_clone(output)),
        Outcome::Failed(error) => {
            let code = if error.code == Code::RetryExhausted { Code::StepFailed } else { error.code };
            (code, format!("child {child} failed: {}", error.message), json!(error))
        }
        Outcome::Cancelled(reason) => {
            let why = reason.map_or_else(String::new, |reason| format!(": {reason}"));
            (Code::Cancelled, format!("child {child} was cancelled{why}"), Value::Null)
        }
    };
    Err(Fault::new(code, message).with_details(json!({ "workflow_id": child, "error": error })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::Namespace;

    fn id(text: &str) -> WorkflowId {
        WorkflowId::parse(text).unwrap()
    }

    #[test]
    fn ids_of_children_are_readable_where_they_can_be_and_always_valid() {
        assert_eq!(child_id(&id("order-1"), "each.item_3.ship", 2).as_str(), "order-1:each.item_3.ship:2");
        let long = id(&"x".repeat(128));
        for (parent, step) in [(&long, "s"), (&id("p"), "if.a b.s"), (&id("p"), "if.a:b.s")] {
            let first = child_id(parent, step, 1);
            assert!(first.as_str().starts_with("child:") && first.as_str().len() == 70, "{first}");
            assert_eq!(first, child_id(parent, step, 1));
            assert_ne!(first, child_id(parent, step, 2));
        }
    }

    #[test]
    fn a_child_is_in_the_namespace_of_its_parent() {
        let team = Namespace::parse("team").unwrap();
        for parent in ["p", &"x".repeat(128)] {
            let parent = id(parent).in_namespace(&team);
            assert_eq!(child_id(&parent, "s", 1).namespace(), team);
        }
        let child = child_id(&id("p").in_namespace(&team), "s", 1);
        assert_eq!(child, child_id(&id("p"), "s", 1).in_namespace(&team));
        let fault = result_of(&child, Outcome::Cancelled(None)).unwrap_err();
        assert_eq!(
            (&*fault.message, &fault.details["workflow_id"]),
            ("child p:s:1 was cancelled", &json!("p:s:1"))
        );
    }

    #[test]
    fn a_failure_keeps_its_code_where_a_step_can_have_it() {
        let failed = |code| {
            let outcome = Outcome::Failed(Fault::new(code, "it broke"));
            result_of(&id("c"), outcome).unwrap_err()
        };
        assert_eq!(failed(Code::ExecutionError).code, Code::ExecutionError);
        assert_eq!(failed(Code::NonRetryable).code, Code::NonRetryable);
        assert_eq!(failed(Code::RetryExhausted).code, Code::StepFailed);
        assert_eq!(failed(Code::TimeoutError).details["workflow_id"], "c");
        let cancelled = result_of(&id("c"), Outcome::Cancelled(Some("enough".into()))).unwrap_err();
        assert_eq!((cancelled.code, cancelled.code.is_retryable()), (Code::Cancelled, false));
    }
}
