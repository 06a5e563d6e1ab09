//! `extend`: a live run's DAG changed where nothing has started, or a variable set.
//!
//! A mutation is an object with one of these keys (and `steps` or `step` beside it):
//! `{"insert_after": ID, "steps": [Step]}`, `{"insert_before": ID, "steps": [Step]}`,
//! `{"replace": ID, "step": Step}`, `{"remove": ID}`, `{"set_variable": {"name": …, "value": …}}`.
//!
//! At the top level an inserted step without `depends_on` goes into the chain: after the step it
//! is inserted behind, before that one's dependents. The result is parsed like a new definition.

use std::sync::Arc;

use serde_json::{Value, json};

use super::steps::check_size;
use crate::command::Reason;
use crate::definition::{Definition, Plugins, SpecIx, StepSpec};
use crate::error::{Code, Problem, Rejected};
use crate::event::Body;
use crate::event::payload::{DagMutated, SkipReason, VariableSet};
use crate::fsm::StepStatus;
use crate::run::Run;
use crate::run::instance::{InstanceIx, RUN_ITSELF};

/// A change as sent, read.
enum Mutation<'a> {
    Insert { target: &'a str, steps: &'a [Value], after: bool },
    Replace { target: &'a str, step: &'a Value },
    Remove { target: &'a str },
    Set { name: &'a str, value: &'a Value },
}

impl Run {
    pub(super) fn extend(&mut self, mutation: &Value, reason: &Reason) -> Result<(), Rejected> {
        self.refuse_if_ended("changed")?;
        if self.state.ending.is_some() {
            return Err(Rejected::new(Code::InvalidTransition, "the run is ending"));
        }
        check_size(mutation, "the mutation").map_err(|fault| invalid("", &fault.message))?;
        let body = match read(mutation)? {
            Mutation::Set { name, value } => {
                self.check_variable(name, value).map_err(|fault| invalid("/set_variable", &fault.message))?;
                Body::VariableSet(Box::new(VariableSet { name: name.to_owned(), value: value.clone() }))
            }
            other => {
                let definition = Arc::new(self.mutate(&other)?);
                self.skip_what_goes(&definition);
                let mutated = DagMutated { mutation: mutation.clone(), definition: definition.hash };
                self.work.definitions.push(definition.clone());
                self.work.definition = Some(definition);
                Body::DagMutated(Box::new(mutated))
            }
        };
        self.emit_by(None, body, reason.agent_id.clone());
        self.state.look_everywhere();
        Ok(())
    }

    /// Top-level steps that were ready and that the new definition lacks are skipped, so that no
    /// row says they wait.
    fn skip_what_goes(&mut self, definition: &Definition) {
        let stays = |id: &str| definition.root.iter().any(|&spec| *definition.step(spec).id == *id);
        let goes: Vec<InstanceIx> = self
            .state
            .root_of
            .iter()
            .copied()
            .filter(|&ix| ix != RUN_ITSELF)
            .filter(|&ix| self.state.get(ix).current() == StepStatus::Scheduled)
            .filter(|&ix| !stays(&self.state.get(ix).id))
            .collect();
        for ix in goes {
            self.skip(ix, SkipReason::Signal);
        }
    }

    /// The definition with the change, parsed.
    fn mutate(&self, mutation: &Mutation<'_>) -> Result<Definition, Rejected> {
        let definition = &self.state.definition;
        let mut source: Value = serde_json::from_str(&definition.source)
            .map_err(|e| Rejected::new(Code::ValidationError, format!("the definition is broken: {e}")))?;
        let (Mutation::Insert { target, .. }
        | Mutation::Replace { target, .. }
        | Mutation::Remove { target }) = mutation
        else {
            unreachable!("a variable changes no definition");
        };
        let spec = find(definition, target)?;
        let is_top = definition.root.contains(&spec.ix);
        let (list, index) = spec
            .pointer
            .rsplit_once('/')
            .and_then(|(list, index)| Some((list, index.parse::<usize>().ok()?)))
            .ok_or_else(|| invalid("", "hooks and compensations cannot be changed"))?;
        self.refuse_if_started(spec, mutation)?;
        let steps = source
            .pointer_mut(list)
            .and_then(Value::as_array_mut)
            .ok_or_else(|| invalid("", "hooks and compensations cannot be changed"))?;
        match mutation {
            Mutation::Insert { target, steps: new, after } => {
                insert(steps, index, target, new, *after, is_top);
            }
            Mutation::Replace { target, step } => {
                let mut step = (*step).clone();
                if let Some(map) = step.as_object_mut()
                    && !map.contains_key("depends_on")
                    && let Some(depends_on) = steps[index].get("depends_on")
                {
                    map.insert("depends_on".into(), depends_on.clone());
                }
                if let Some(id) = step.get("id").and_then(Value::as_str).map(str::to_owned) {
                    rewire(steps, target, &[json!(id)]);
                }
                steps[index] = step;
            }
            Mutation::Remove { target } => {
                let removed = steps.remove(index);
                let depends_on = removed.get("depends_on").and_then(Value::as_array).cloned();
                rewire(steps, target, &depends_on.unwrap_or_default());
            }
            Mutation::Set { .. } => unreachable!("as above"),
        }
        // Which plugins there are, who sends the mutation has looked.
        Definition::parse_with(&source.to_string(), Plugins::Any).map_err(Rejected::from)
    }

    /// Refuses to touch what has started: the step itself, or (for an insertion behind it) the
    /// steps that would have to wait anew. A nested step may be touched until its top-level step
    /// starts.
    fn refuse_if_started(&self, spec: &StepSpec, mutation: &Mutation<'_>) -> Result<(), Rejected> {
        let definition = &self.state.definition;
        let is_top = definition.root.contains(&spec.ix);
        let touched: Vec<SpecIx> = match mutation {
            Mutation::Insert { after: true, .. } if is_top => spec.dependents.clone(),
            Mutation::Insert { .. }
            | Mutation::Replace { .. }
            | Mutation::Remove { .. }
            | Mutation::Set { .. } => {
                vec![spec.ix]
            }
        };
        for spec in touched {
            let mut top = spec;
            while let Some(parent) = definition.step(top).parent {
                top = parent;
            }
            let ix = self.state.root_of[top.0 as usize];
            let may = ix != RUN_ITSELF
                && matches!(self.state.get(ix).current(), StepStatus::Pending | StepStatus::Scheduled);
            if !may {
                let id = &definition.step(spec).id;
                let message = format!("step {id} has started, or is a part of one that has");
                return Err(Rejected {
                    step_id: Some(id.to_string()),
                    ..Rejected::new(Code::Conflict, message)
                });
            }
        }
        Ok(())
    }
}

/// Puts `new` before or behind the step at `index`, and at the top level into its chain.
fn insert(steps: &mut Vec<Value>, index: usize, target: &str, new: &[Value], after: bool, is_top: bool) {
    let mut new = new.to_vec();
    if is_top {
        let mut behind = if after {
            json!([target])
        } else {
            steps[index].get("depends_on").cloned().unwrap_or_else(|| json!([]))
        };
        for step in &mut new {
            if let Some(map) = step.as_object_mut() {
                map.entry("depends_on").or_insert_with(|| behind.clone());
            }
            if let Some(id) = step.get("id") {
                behind = json!([id]);
            }
        }
        if after {
            rewire(steps, target, behind.as_array().map_or(&[], Vec::as_slice));
        } else if let Some(map) = steps[index].as_object_mut() {
            map.insert("depends_on".into(), behind);
        }
    }
    let at = if after { index + 1 } else { index };
    steps.splice(at..at, new);
}

/// Replaces `old` by `new` in every `depends_on`.
fn rewire(steps: &mut [Value], old: &str, new: &[Value]) {
    for step in steps {
        let Some(depends_on) = step.get_mut("depends_on").and_then(Value::as_array_mut) else { continue };
        let Some(at) = depends_on.iter().position(|id| id.as_str() == Some(old)) else { continue };
        depends_on.remove(at);
        for id in new {
            if !depends_on.contains(id) {
                depends_on.push(id.clone());
            }
        }
    }
}

/// The step that a mutation names: a top-level one first, else the only one of this id.
fn find<'a>(definition: &'a Definition, id: &str) -> Result<&'a StepSpec, Rejected> {
    if let Some(&top) = definition.root.iter().find(|&&ix| *definition.step(ix).id == *id) {
        return Ok(definition.step(top));
    }
    let mut named = definition.steps.iter().filter(|step| *step.id == *id);
    match (named.next(), named.next()) {
        (Some(step), None) => Ok(step),
        (None, _) => Err(Rejected {
            step_id: Some(id.to_owned()),
            ..Rejected::new(Code::NotFound, format!("the definition has no step {id}"))
        }),
        (Some(_), Some(_)) => {
            Err(Rejected::new(Code::Conflict, format!("several steps of the definition are called {id}")))
        }
    }
}

fn read(mutation: &Value) -> Result<Mutation<'_>, Rejected> {
    let Some(map) = mutation.as_object() else { return Err(invalid("", "a mutation is an object")) };
    const OPERATIONS: [&str; 5] = ["insert_after", "insert_before", "replace", "remove", "set_variable"];
    let mut found = OPERATIONS.iter().filter(|name| map.contains_key(**name));
    let (Some(&operation), None) = (found.next(), found.next()) else {
        return Err(invalid("", &format!("a mutation has one of {}", OPERATIONS.join(", "))));
    };
    let beside = match operation {
        "insert_after" | "insert_before" => "steps",
        "replace" => "step",
        _ => operation,
    };
    if let Some(unknown) = map.keys().find(|key| *key != operation && *key != beside) {
        return Err(invalid(&format!("/{unknown}"), "is not known here"));
    }
    if operation == "set_variable" {
        return read_variable(&map[operation]);
    }
    let target =
        map[operation].as_str().ok_or_else(|| invalid(&format!("/{operation}"), "is not a step id"))?;
    match operation {
        "insert_after" | "insert_before" => match map.get("steps").and_then(Value::as_array) {
            Some(steps) if !steps.is_empty() => {
                Ok(Mutation::Insert { target, steps, after: operation == "insert_after" })
            }
            _ => Err(invalid("/steps", "is not a list of one step or more")),
        },
        "replace" => match map.get("step") {
            Some(step) if step.is_object() => Ok(Mutation::Replace { target, step }),
            _ => Err(invalid("/step", "is not a step")),
        },
        _ => Ok(Mutation::Remove { target }),
    }
}

fn read_variable(set: &Value) -> Result<Mutation<'_>, Rejected> {
    let map = set.as_object().filter(|map| map.len() == 2);
    let name = map.and_then(|map| map.get("name")).and_then(Value::as_str);
    let value = map.and_then(|map| map.get("value"));
    match (name, value) {
        (Some(name), Some(value)) => Ok(Mutation::Set { name, value }),
        _ => Err(invalid("/set_variable", "is not {name, value}")),
    }
}

fn invalid(pointer: &str, message: &str) -> Rejected {
    Rejected {
        problems: vec![Problem::at(pointer, message)],
        ..Rejected::new(Code::ValidationError, format!("{pointer}: {message}"))
    }
}
