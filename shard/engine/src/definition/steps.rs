//! Compiles what every step has: guard, timeout, retry, error strategy. Its type's own part is
//! compiled in `kinds`.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use serde_json::Value;

use super::fields::{Object, Report, shown};
use super::outline::{Namespace, Outline, Type};
use super::sight::{Sight, View};
use super::{Backoff, OnError, OnInterrupt, RetryPolicy, SpecIx, StepSpec};
use crate::catalogue::Action;
use crate::error::Problem;
use crate::expr::ExprProblem;
use crate::expr::cel::Cel;
use crate::expr::interpolate::Template;
use crate::expr::jq::Jq;

/// Most different jq filters of one definition.
const JQ_FILTERS_MAX: usize = 200;
/// Most different secrets that the params of one step may name.
const SECRETS_MAX: usize = 32;
/// Most tries after the first.
const RETRIES_MAX: u64 = 10_000;

/// Compiles the steps of an outline.
pub(super) struct Compiler<'a> {
    pub(super) outline: &'a Outline<'a>,
    pub(super) sight: &'a Sight<'a>,
    pub(super) report: &'a Report,
    pub(super) depends_on: &'a [Vec<SpecIx>],
    pub(super) filters: Filters,
}

/// The jq filters of a definition: each takes a millisecond to compile, so the same one is
/// compiled once, and there is a limit to their number.
#[derive(Default)]
pub(super) struct Filters {
    /// By text, whether `data` is there, and whether a loop is around.
    compiled: RefCell<HashMap<(String, bool, bool), Jq>>,
    count: Cell<usize>,
}

impl Compiler<'_> {
    /// Every step; some are missing when there was a problem.
    pub(super) fn steps(&self) -> Vec<StepSpec> {
        let count = u32::try_from(self.outline.nodes.len()).expect("STEPS_MAX fits");
        let steps: Vec<StepSpec> = (0..count).filter_map(|ix| self.step(ix)).collect();
        self.fallback_cycles(&steps);
        assert!(
            steps.len() == self.outline.nodes.len() || !self.report.is_empty(),
            "a step is left out for a reason"
        );
        steps
    }

    fn step(&self, ix: u32) -> Option<StepSpec> {
        let node = self.outline.node(ix);
        let object = &node.object;
        let guard = object.text("condition").map(|source| self.cel(source, object.at("condition"), ix));
        let timeout_ms = object.duration("timeout", false);
        let retry = object.object("retry").map(|retry| retry_policy(&retry));
        let on_error = self.on_error(ix);
        let on_interrupt = object.choice(
            "on_interrupt",
            &[("retry", OnInterrupt::Retry), ("suspend", OnInterrupt::Suspend), ("fail", OnInterrupt::Fail)],
        );
        if node.kind != Some(Type::Action) {
            for field in ["action", "params"] {
                if object.get(field).is_some_and(|v| v != "" && !is_empty_object(v)) && node.kind.is_some() {
                    let message = format!("only a step of type \"action\" has {field:?}");
                    self.report.at(object.at(field), message);
                }
            }
        }
        let kind = self.kind(ix, node.kind?);
        let compensate = node.inner.iter().map(|scope| &self.outline.scopes[*scope]);
        let compensate =
            compensate.filter(|s| s.namespace == Namespace::Compensation).find_map(|s| s.steps.first());
        Some(StepSpec {
            ix: SpecIx(ix),
            id: node.id.clone(),
            parent: self.outline.owner(ix).map(SpecIx),
            pointer: object.pointer.clone(),
            kind: kind?,
            depends_on: self.depends_on[ix as usize].clone(),
            dependents: Vec::new(),
            guard: guard.flatten(),
            timeout_ms,
            retry,
            on_error,
            compensate: compensate.map(|c| SpecIx(*c)),
            on_interrupt: on_interrupt.unwrap_or_default(),
            is_fallback_only: false,
        })
    }

    fn on_error(&self, ix: u32) -> OnError {
        let node = self.outline.node(ix);
        let Some(handler) = node.object.object("on_error") else { return OnError::default() };
        handler.only(&["strategy", "fallback_step"]);
        let fallback = handler.text("fallback_step");
        handler.required_text("strategy", ": ignore, fail_workflow, fallback_step or retry");
        let strategies = [("ignore", 0_u8), ("fail_workflow", 1), ("retry", 2), ("fallback_step", 3)];
        match (handler.text("strategy").and_then(|_| handler.choice("strategy", &strategies)), fallback) {
            (Some(0), _) => OnError::Ignore,
            (Some(2), _) => OnError::Retry,
            (Some(3), Some(name)) => self.fallback(ix, &handler, name),
            (Some(3), None) => {
                handler.missing("fallback_step", ", which the strategy \"fallback_step\" needs");
                OnError::default()
            }
            (_, _) => OnError::default(),
        }
    }

    fn fallback(&self, ix: u32, handler: &Object<'_>, name: &str) -> OnError {
        let scope = &self.outline.scopes[self.outline.node(ix).scope];
        match scope.by_id.get(name) {
            Some(other) if *other != ix => OnError::Fallback(SpecIx(*other)),
            Some(_) => {
                handler.report.at(handler.at("fallback_step"), "a step cannot be its own fallback");
                OnError::default()
            }
            None => {
                let siblings = scope.steps.iter().filter(|s| **s != ix);
                let hint = self.report.did_you_mean(name, siblings.map(|s| &*self.outline.node(*s).id));
                let message = format!("there is no step {} beside this one{hint}", shown(name));
                handler.report.at(handler.at("fallback_step"), message);
                OnError::default()
            }
        }
    }

    /// Fallbacks that lead back to a step that failed would never end.
    fn fallback_cycles(&self, steps: &[StepSpec]) {
        let mut next = vec![None; self.outline.nodes.len()];
        for step in steps {
            if let OnError::Fallback(fallback) = step.on_error {
                next[step.ix.0 as usize] = Some(fallback.0);
            }
        }
        let mut seen_in_walk = vec![u32::MAX; next.len()];
        for start in 0..u32::try_from(next.len()).expect("STEPS_MAX fits") {
            let mut at = start;
            while seen_in_walk[at as usize] == u32::MAX {
                seen_in_walk[at as usize] = start;
                let Some(fallback) = next[at as usize] else { break };
                if seen_in_walk[fallback as usize] == start {
                    let handler =
                        super::fields::under(&self.outline.node(at).object.at("on_error"), "fallback_step");
                    let name = &self.outline.node(fallback).id;
                    self.report.at(handler, format!("the fallbacks lead in a circle back to {name:?}"));
                    break;
                }
                at = fallback;
            }
        }
    }

    /// A CEL expression, bare or as one `${{ … }}` token.
    pub(super) fn cel(&self, source: &str, pointer: String, ix: u32) -> Option<Cel> {
        self.cel_from(View::Step(ix), source, pointer)
    }

    pub(super) fn cel_from(&self, view: View, source: &str, pointer: String) -> Option<Cel> {
        let (inner, offset) = unwrap_token(source);
        let compiled = self.sight.from(view, false, |env| Cel::compile(inner, env));
        self.checked(compiled, &pointer, offset)
    }

    /// What was compiled, or its problems told at `pointer`, `offset` columns further on.
    pub(super) fn checked<T>(
        &self,
        compiled: Result<T, Vec<ExprProblem>>,
        pointer: &str,
        offset: u32,
    ) -> Option<T> {
        let problem =
            |p: ExprProblem| Problem::at(pointer, p.message).column(p.column.saturating_add(offset));
        compiled.map_err(|problems| self.report.all(problems.into_iter().map(problem))).ok()
    }

    /// A jq filter.
    pub(super) fn jq(&self, source: &str, pointer: &str, has_data: bool, ix: u32) -> Option<Jq> {
        let key = (source.to_owned(), has_data, self.outline.node(ix).in_loop);
        if let Some(known) = self.filters.compiled.borrow().get(&key) {
            return Some(known.clone());
        }
        if !self.has_room_for_filters(1, pointer) {
            return None;
        }
        let compiled = self.sight.from(View::Step(ix), has_data, |env| Jq::compile(source, env));
        let compiled = self.checked(compiled, pointer, 0)?;
        self.filters.compiled.borrow_mut().insert(key, compiled.clone());
        Some(compiled)
    }

    /// Whether `more` jq filters may be compiled; the first that may not is told.
    fn has_room_for_filters(&self, more: usize, pointer: &str) -> bool {
        let before = self.filters.count.get();
        self.filters.count.set(before.saturating_add(more));
        let has_room = before + more <= JQ_FILTERS_MAX;
        if !has_room && before <= JQ_FILTERS_MAX {
            let message = format!("a definition may have {JQ_FILTERS_MAX} different jq filters, not more");
            self.report.insist(pointer, message);
        }
        has_room
    }

    /// A value with tokens in its strings, none of them a secret's.
    pub(super) fn template(&self, value: &Value, pointer: &str, ix: u32) -> Option<Template> {
        self.template_from(View::Step(ix), value, pointer)
    }

    pub(super) fn template_from(&self, view: View, value: &Value, pointer: &str) -> Option<Template> {
        let template = self.any_template(view, value, pointer)?;
        if !self.report.is_stored
            && let Some(key) = template.secrets().first()
        {
            // What is rendered here is recorded, and no worker stands between.
            let message = format!("`${{{{secrets.{key}}}}}` can only stand in the params of an action");
            self.report.at(pointer, message);
        }
        Some(template)
    }

    /// The params of an action, which may name secrets if the action takes any; at most so many
    /// that a worker asks for them in no time.
    pub(super) fn params_template(
        &self,
        action: Option<&Action>,
        value: &Value,
        pointer: &str,
        ix: u32,
    ) -> Option<Template> {
        let template = self.any_template(View::Step(ix), value, pointer)?;
        let secrets = if self.report.is_stored { 0 } else { template.secrets().len() };
        if secrets > SECRETS_MAX {
            let message = format!("{secrets} secrets are named; one step takes at most {SECRETS_MAX}");
            self.report.at(pointer, message);
        }
        if let Some(action) = action.filter(|action| secrets > 0 && !action.takes_secrets) {
            self.report.at(pointer, action.no_secret());
        }
        Some(template)
    }

    fn any_template(&self, view: View, value: &Value, pointer: &str) -> Option<Template> {
        let filters = jq_tokens(value);
        if filters > 0 && !self.has_room_for_filters(filters, pointer) {
            return None;
        }
        let compiled = self.sight.from(view, false, |env| Template::compile(value, env, pointer));
        compiled.map_err(|problems| self.report.all(problems)).ok()
    }

    /// A bare expression; a string with tokens is a template instead.
    pub(super) fn expression(&self, source: &str, pointer: &str, ix: u32) -> Option<Template> {
        if source.contains("${{") {
            return self.template(&Value::String(source.into()), pointer, ix);
        }
        if source.trim_start().starts_with("jq:") && !self.has_room_for_filters(1, pointer) {
            return None;
        }
        let view = View::Step(ix);
        let compiled = self.sight.from(view, false, |env| Template::compile_expression(source, env, pointer));
        compiled.map_err(|problems| self.report.all(problems)).ok()
    }
}

/// Tokens in the strings of `value` that may be jq.
fn jq_tokens(value: &Value) -> usize {
    match value {
        Value::String(text) if text.contains("${{") => text.matches("jq:").count(),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::Array(items) => items.iter().map(jq_tokens).sum(),
        Value::Object(fields) => fields.values().map(jq_tokens).sum(),
    }
}

fn is_empty_object(value: &Value) -> bool {
    value.as_object().is_some_and(serde_json::Map::is_empty)
}

/// `${{ x }}` is `x`, and how many characters stood before it.
pub(super) fn unwrap_token(source: &str) -> (&str, u32) {
    let trimmed = source.trim();
    let inner = trimmed.strip_prefix("${{").and_then(|s| s.strip_suffix("}}"));
    match inner {
        Some(inner) if !inner.contains("${{") && !inner.contains("}}") => {
            let before = source[..source.len() - source.trim_start().len()].chars().count() + 3;
            (inner, u32::try_from(before).unwrap_or(u32::MAX))
        }
        _ => (source, 0),
    }
}

fn retry_policy(retry: &Object<'_>) -> RetryPolicy {
    retry.only(&["max", "backoff", "delay", "max_delay", "jitter"]);
    let backoff = retry.choice(
        "backoff",
        &[
            ("none", Backoff::None),
            ("linear", Backoff::Linear),
            ("constant", Backoff::Constant),
            ("exponential", Backoff::Exponential),
        ],
    );
    let max = retry.whole("max", 0, RETRIES_MAX).unwrap_or(0);
    let jitter = retry.get("jitter").map(|value| (value, value.as_f64()));
    let jitter = match jitter {
        None => 0.0,
        Some((_, Some(share))) if (0.0..=1.0).contains(&share) => share,
        Some((value, _)) => {
            retry.report.at(retry.at("jitter"), format!("a number from 0 to 1 is expected, not {value}"));
            0.0
        }
    };
    RetryPolicy {
        max: u32::try_from(max).unwrap_or(u32::MAX),
        backoff: backoff.unwrap_or_default(),
        delay_ms: retry.duration("delay", true).unwrap_or(0),
        delay_ms_max: retry.duration("max_delay", true),
        jitter,
    }
}
