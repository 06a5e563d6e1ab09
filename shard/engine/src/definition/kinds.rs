//! Compiles what each type of step has of its own: an action's params, the others' `config`.

use std::sync::Arc;

use serde_json::Value;

use super::duration::parse_duration_ms;
use super::fields::{Object, shown, under};
use super::outline::{Namespace, Type, is_map};
use super::sight::View;
use super::steps::{Compiler, unwrap_token};
use super::{BRANCH_NAME_BYTES_MAX, DecisionOption, LoopMode, Over, Reasoning, SpecIx, StepKind, WaitFor};
use crate::expr::interpolate::Template;
use crate::ids::{ID_BYTES_MAX, Timestamp};

/// Rounds of a loop that does not say how many.
const ITERATIONS_DEFAULT: u64 = 10_000;
/// Most rounds that a loop may ask for; a run has no more events than that.
const ITERATIONS_MAX: u64 = 1_000_000;
/// Items of a map under way at a time, when it does not say how many.
const CONCURRENCY_DEFAULT: u32 = 10;
/// Most items of a map under way at a time.
const CONCURRENCY_MAX: u64 = 10_000;

impl Compiler<'_> {
    /// The part of step `ix` that its type decides.
    pub(super) fn kind(&self, ix: u32, kind: Type) -> Option<StepKind> {
        let object = &self.outline.node(ix).object;
        if kind == Type::Action {
            if let Some(config) = object.object("config") {
                config.only(&[]);
            }
            return self.action(ix);
        }
        let Some(value) = object.get("config") else {
            object.missing("config", "");
            return None;
        };
        let config = Object::of(value, object.at("config"), self.report)?;
        match kind {
            Type::Action => None,
            Type::Condition => self.condition(ix, &config),
            Type::Loop => self.repeat(ix, &config),
            Type::Parallel if is_map(config.map) => self.map(ix, &config),
            Type::Parallel => self.parallel(ix, &config),
            Type::Wait => self.wait(ix, &config).map(StepKind::Wait),
            Type::Reasoning => self.reasoning(ix, &config).map(StepKind::Reasoning),
        }
    }

    fn condition(&self, ix: u32, config: &Object<'_>) -> Option<StepKind> {
        config.only(&["expression", "branches", "default"]);
        let expression = config.required_text("expression", "");
        let expression = expression.and_then(|e| self.cel(e, config.at("expression"), ix));
        if config.get("branches").is_none() {
            config.missing("branches", "");
        }
        if let Some(branches) = config.object("branches") {
            for name in branches.map.keys() {
                branches.list(name);
                if name.len() > BRANCH_NAME_BYTES_MAX {
                    let message = format!("a branch's name may have {BRANCH_NAME_BYTES_MAX} bytes, not more");
                    self.report.at(branches.at(name), message);
                }
            }
            if config.list("default").is_some() && branches.get("default").is_some() {
                let message = "a branch called \"default\" and \"default\" itself cannot both be there";
                self.report.at(config.at("default"), message);
            }
        }
        let has_default = config.list("default").is_some();
        let mut branches = Vec::new();
        for &scope in &self.outline.node(ix).inner {
            if let Namespace::Branch(name) = &self.outline.scopes[scope].namespace {
                branches.push((name.clone(), self.steps_of(scope)));
            }
        }
        // The default branch is drawn last.
        let default = if has_default { branches.pop().map(|(_, steps)| steps) } else { None };
        Some(StepKind::Condition { expression: expression?, branches, default })
    }

    fn repeat(&self, ix: u32, config: &Object<'_>) -> Option<StepKind> {
        config.only(&["mode", "over", "condition", "body", "max_iter"]);
        config.required_text("mode", ": for_each, while or until");
        let mode = config.text("mode").and_then(|_| {
            config.choice("mode", &[("for_each", None), ("while", Some(true)), ("until", Some(false))])
        });
        let mode = match mode? {
            None => self.over(ix, config).map(LoopMode::ForEach),
            Some(is_while) => {
                let source = config.required_text("condition", ", which this mode needs")?;
                let cel = self.cel_from(View::Rounds(ix), source, config.at("condition"));
                cel.map(if is_while { LoopMode::While } else { LoopMode::Until })
            }
        };
        let iterations_max = match config.whole("max_iter", 0, ITERATIONS_MAX) {
            None | Some(0) => ITERATIONS_DEFAULT,
            Some(given) => given,
        };
        Some(StepKind::Loop { mode: mode?, body: self.body(ix, config)?, iterations_max })
    }

    fn map(&self, ix: u32, config: &Object<'_>) -> Option<StepKind> {
        config.only(&["mode", "over", "body", "max_concurrency"]);
        let given = config.whole("max_concurrency", 1, CONCURRENCY_MAX);
        let over = self.over(ix, config);
        let body = self.body(ix, config)?;
        let concurrency_max = given.and_then(|n| u32::try_from(n).ok()).unwrap_or(CONCURRENCY_DEFAULT);
        Some(StepKind::Map { over: over?, body, concurrency_max })
    }

    fn parallel(&self, ix: u32, config: &Object<'_>) -> Option<StepKind> {
        config.only(&["mode", "branches"]);
        let is_race = match config.text("mode") {
            None => false,
            Some(_) => config.choice("mode", &[("all", false), ("race", true), ("map", false)])?,
        };
        if config.get("branches").is_none() {
            config.missing("branches", "");
        }
        let lists = config.list("branches")?;
        for (index, branch) in lists.iter().enumerate().filter(|(_, b)| !b.is_array()) {
            let pointer = under(&config.at("branches"), &index.to_string());
            let found = super::fields::type_of(branch);
            self.report.at(pointer, format!("a list of steps is expected, this is {found}"));
        }
        if is_race && lists.is_empty() {
            self.report.at(config.at("branches"), "a race needs at least one branch");
        }
        let lanes = self.outline.node(ix).inner.iter();
        let lanes = lanes.filter(|s| matches!(self.outline.scopes[**s].namespace, Namespace::Lane(_)));
        let branches = lanes.map(|scope| self.steps_of(*scope)).collect();
        Some(if is_race { StepKind::Race { branches } } else { StepKind::All { branches } })
    }

    fn body(&self, ix: u32, config: &Object<'_>) -> Option<Vec<SpecIx>> {
        if config.get("body").is_none() {
            config.missing("body", "");
        }
        if config.list("body")?.is_empty() {
            self.report.at(config.at("body"), "at least one step is expected");
        }
        let scope = *self.outline.node(ix).inner.first()?;
        Some(self.steps_of(scope))
    }

    fn steps_of(&self, scope: usize) -> Vec<SpecIx> {
        self.outline.scopes[scope].steps.iter().map(|n| SpecIx(*n)).collect()
    }

    /// The list that a loop or map goes over: a JSON list, or text in one of four languages.
    fn over(&self, ix: u32, config: &Object<'_>) -> Option<Over> {
        let pointer = config.at("over");
        let source = match config.get("over") {
            Some(Value::Array(list)) => {
                let list = Value::Array(list.clone());
                let template = self.template(&list, &pointer, ix)?;
                return Some(match list {
                    Value::Array(list) if template.is_literal() => Over::Literal(Arc::new(list)),
                    _ => Over::Template(template),
                });
            }
            Some(Value::String(text)) if !text.trim().is_empty() => text.as_str(),
            Some(other) => {
                config.wrong("over", "a list or an expression", other);
                return None;
            }
            None => {
                config.missing("over", "");
                return None;
            }
        };
        let trimmed = source.trim();
        if trimmed.starts_with('[')
            && let Ok(Value::Array(list)) = serde_json::from_str(trimmed)
        {
            return Some(Over::Literal(Arc::new(list)));
        }
        if source.contains("${{") {
            if unwrap_token(source).1 == 0 {
                self.report.at(pointer, "a list cannot be made of text with tokens in it; write one token");
                return None;
            }
            return self.template(&Value::String(source.into()), &pointer, ix).map(Over::Template);
        }
        let is_jq =
            trimmed.starts_with('.') || trimmed.starts_with("[.") || trimmed.replace("||", "").contains('|');
        if is_jq {
            return self.jq(source, &pointer, false, ix).map(Over::Jq);
        }
        self.cel(source, pointer, ix).map(Over::Cel)
    }

    fn wait(&self, ix: u32, config: &Object<'_>) -> Option<WaitFor> {
        config.only(&["duration", "signal", "until"]);
        let given = ["duration", "signal", "until"].map(|name| config.text(name).map(|text| (name, text)));
        let mut given = given.into_iter().flatten();
        let Some((name, text)) = given.next() else {
            config.missing("duration", " (or \"signal\", or \"until\")");
            return None;
        };
        if let Some((second, _)) = given.next() {
            self.report.at(config.at(second), format!("there is {name:?} already; a wait has one of them"));
        }
        let pointer = config.at(name);
        let has_token = text.contains("${{");
        match name {
            "signal" if has_token || text.len() > ID_BYTES_MAX => {
                let message = format!("a signal's name is plain text of up to {ID_BYTES_MAX} bytes");
                self.report.at(pointer, message);
                None
            }
            "signal" => Some(WaitFor::Signal(text.into())),
            "duration" if has_token => self.text_template(text, &pointer, ix).map(WaitFor::Duration),
            "duration" => match parse_duration_ms(text) {
                Ok(duration_ms) => Some(WaitFor::DurationMs(duration_ms)),
                Err(why) => {
                    self.report.at(pointer, format!("{} is not a duration: {why}", shown(text)));
                    None
                }
            },
            _ if has_token => self.text_template(text, &pointer, ix).map(WaitFor::UntilTemplate),
            _ => Timestamp::parse_rfc3339(text)
                .map(WaitFor::Until)
                .map_err(|why| self.report.at(pointer, format!("{} is {why}", shown(text))))
                .ok(),
        }
    }

    fn text_template(&self, text: &str, pointer: &str, ix: u32) -> Option<Template> {
        self.template(&Value::String(text.into()), pointer, ix)
    }

    fn reasoning(&self, ix: u32, config: &Object<'_>) -> Option<Reasoning> {
        config.only(&["prompt_context", "data_inject", "options", "timeout", "fallback", "target_agent"]);
        let prompt = config.required_text("prompt_context", "");
        let prompt = prompt.and_then(|p| self.text_template(p, &config.at("prompt_context"), ix));
        let mut inject = Vec::new();
        if let Some(paths) = config.object("data_inject") {
            for (name, value) in paths.map {
                let template = match value {
                    Value::String(source) => self.expression(source, &paths.at(name), ix),
                    other => self.template(other, &paths.at(name), ix),
                };
                inject.extend(template.map(|t| (Arc::from(name.as_str()), t)));
            }
        }
        let options = self.options(config);
        // A free-form decision may fall back on an empty answer; elsewhere empty is none.
        let fallback = match config.get("fallback") {
            Some(Value::String(text)) if text.is_empty() && options.is_empty() => Some(""),
            _ => config.text("fallback"),
        };
        if let Some(fallback) = fallback
            && !options.is_empty()
            && !options.iter().any(|o| o.id == fallback)
        {
            let hint = self.report.did_you_mean(fallback, options.iter().map(|o| o.id.as_str()));
            let message = format!("{} is none of the options{hint}", shown(fallback));
            self.report.at(config.at("fallback"), message);
        }
        let timeout_ms = config.duration("timeout", false);
        let target_agent = config.text("target_agent").map(Arc::from);
        Some(Reasoning {
            prompt: prompt?,
            inject,
            options,
            timeout_ms,
            fallback: fallback.map(Arc::from),
            target_agent,
        })
    }

    fn options(&self, config: &Object<'_>) -> Vec<DecisionOption> {
        let mut options: Vec<DecisionOption> = Vec::new();
        let mut ids = std::collections::BTreeSet::new();
        for (index, value) in config.list("options").unwrap_or_default().iter().enumerate() {
            let pointer = under(&config.at("options"), &index.to_string());
            let Some(option) = Object::of(value, pointer, self.report) else { continue };
            option.only(&["id", "description"]);
            let description = option.text("description").unwrap_or_default().to_owned();
            let Some(id) = option.required_text("id", "") else { continue };
            if id.len() > ID_BYTES_MAX {
                let message = format!("an option's id may have {ID_BYTES_MAX} bytes, not more");
                self.report.at(option.at("id"), message);
            }
            if !ids.insert(id) {
                self.report.at(option.at("id"), format!("there are two options {}", shown(id)));
            }
            options.push(DecisionOption { id: id.to_owned(), description });
        }
        options
    }
}
