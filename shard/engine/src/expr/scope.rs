//! What expressions read: the five roots, looked up lazily, never copied as a whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

/// The values an expression may read, as seen from one place of one run.
///
/// `steps['x'].field` reads a field of x's output, `steps['x'].output` is the whole output;
/// engines implement that rule with [`Scope::step`].
pub trait Scope {
    /// The whole output of a step that is done; `null` for a skipped one; `None` when it is not
    /// done or not known. `id` is a short id of a sibling or of an enclosing scope, or a full id.
    fn step(&self, id: &str) -> Option<&Value>;
    /// Ids under which done steps can be read from here, sorted; for `steps` as a whole.
    fn step_ids(&self) -> Vec<&str>;
    /// Params of the run merged over the definition's defaults.
    fn inputs(&self) -> &Value;
    /// `{run_id, id, template, version, started_at, attempt}`.
    fn workflow(&self) -> &Value;
    /// `{intent, agent_id, …}` and what `workflow.context` and `set_variable` added.
    fn context(&self) -> &Value;
    /// Item and index of the innermost loop or map around.
    fn item(&self) -> Option<(&Value, u64)>;
    /// The `data` param of `expr.eval` and `jq`.
    fn data(&self) -> Option<&Value>;
}

/// Which steps an expression reads, known from its text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// Ids as written, sorted, each once.
    pub steps: Vec<Arc<str>>,
    /// It reads `steps` as a whole or by a computed id, so any step.
    pub all_steps: bool,
}

impl References {
    /// Adds what `other` reads.
    pub fn merge(&mut self, other: &Self) {
        self.all_steps |= other.all_steps;
        self.steps.extend(other.steps.iter().cloned());
        self.steps.sort();
        self.steps.dedup();
    }
}

/// A scope that owns what it shows, to be sent to a worker.
#[derive(Clone, Debug, Default)]
pub struct OwnedScope {
    /// Outputs by the id under which the expression reads them.
    pub steps: BTreeMap<Arc<str>, Arc<Value>>,
    /// As [`Scope::inputs`].
    pub inputs: Arc<Value>,
    /// As [`Scope::workflow`].
    pub workflow: Arc<Value>,
    /// As [`Scope::context`].
    pub context: Arc<Value>,
    /// As [`Scope::item`].
    pub item: Option<(Arc<Value>, u64)>,
    /// As [`Scope::data`].
    pub data: Option<Arc<Value>>,
}

impl Scope for OwnedScope {
    fn step(&self, id: &str) -> Option<&Value> {
        self.steps.get(id).map(AsRef::as_ref)
    }
    fn step_ids(&self) -> Vec<&str> {
        self.steps.keys().map(AsRef::as_ref).collect()
    }
    fn inputs(&self) -> &Value {
        &self.inputs
    }
    fn workflow(&self) -> &Value {
        &self.workflow
    }
    fn context(&self) -> &Value {
        &self.context
    }
    fn item(&self) -> Option<(&Value, u64)> {
        self.item.as_ref().map(|(v, i)| (v.as_ref(), *i))
    }
    fn data(&self) -> Option<&Value> {
        self.data.as_deref()
    }
}
