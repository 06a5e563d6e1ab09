//! Compiles what every step has: guard, timeout, retry, error strategy. Its type's own part is
//! compiled in `kinds`.

use serde_json::Value;

use super::fields::{Object, Report, shown};
use super::outline::{Namespace, Outline, Type};
use super::sight::{Sight, View};
use super::{Backoff, OnError, OnInterrupt, RetryPolicy, SpecIx, StepSpec};
use crate::error::Problem;
use crate::expr::cel::Cel;
use crate::expr::interpolate::Template;
use crate::expr::{Env, ExprProblem};

/// Most tries after the first.
const RETRIES_MAX: u64 = 10_000;

/// Compiles the steps of an outline.
pub(super) struct Compiler<'a> {
    pub(super) outline: &'a Outline<'a>,
    pub(super) sight: &'a Sight<'a>,
    pub(super) report: &'a Report,
    pub(super) depends_on: &'a [Vec<SpecIx>],
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

    /// A value with tokens in its strings.
    pub(super) fn template(&self, value: &Value, pointer: &str, ix: u32) -> Option<Template> {
        self.compiled(ix, |env| Template::compile(value, env, pointer))
    }

    /// A bare expression; a string with tokens is a template instead.
    pub(super) fn expression(&self, source: &str, pointer: &str, ix: u32) -> Option<Template> {
        self.compiled(ix, |env| {
            if source.contains("${{") {
                Template::compile(&Value::String(source.into()), env, pointer)
            } else {
                Template::compile_expression(source, env, pointer)
            }
        })
    }

    fn compiled(
        &self,
        ix: u32,
        compile: impl FnOnce(&Env<'_>) -> Result<Template, Vec<Problem>>,
    ) -> Option<Template> {
        self.sight.from(View::Step(ix), false, compile).map_err(|p| self.report.all(p)).ok()
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
