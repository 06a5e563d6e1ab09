//! Checks an action and its params against the catalogue, and compiles them.

use std::sync::Arc;

use serde_json::Value;

use super::StepKind;
use super::duration::parse_duration_ms;
use super::fields::{Object, shown, type_of};
use super::sight::View;
use super::steps::Compiler;
use crate::catalogue::{ACTIONS, Action, PLUGIN_TOOL, Param, find, plugin_action};
use crate::expr::expr::Expr;
use crate::expr::interpolate::Template;

impl Compiler<'_> {
    pub(super) fn action(&self, ix: u32) -> Option<StepKind> {
        let object = &self.outline.node(ix).object;
        let action = object.required_text("action", "").and_then(|name| {
            let found = find(name).or_else(|| self.is_of_plugin(name).then_some(&PLUGIN_TOOL));
            if found.is_none() {
                self.report.at(object.at("action"), self.no_action(name));
            }
            found
        });
        let params = object.object("params");
        if let Some(action) = action {
            self.check(action, object, params.as_ref());
        }
        let template = match object.get("params") {
            Some(value) => self.params_template(action, value, &object.at("params"), ix),
            None => Some(Template::literal(Value::Object(serde_json::Map::new()))),
        };
        let program = match (action, &params) {
            (Some(action), Some(params)) => self.program(action, params, ix),
            _ => None,
        };
        let action = match action? {
            action if action.name == PLUGIN_TOOL.name => object.text("action")?.into(),
            action => action.name.into(),
        };
        Some(StepKind::Action { action, params: Arc::new(template?), program })
    }

    /// Whether a plugin brings this action, as far as its namespace tells.
    fn is_of_plugin(&self, name: &str) -> bool {
        let Some((namespace, _)) = plugin_action(name) else { return false };
        let plugins = self.report.plugins.as_ref();
        plugins.is_none_or(|plugins| plugins.iter().any(|plugin| **plugin == *namespace))
    }

    /// Why an action is none, with what may have been meant.
    fn no_action(&self, name: &str) -> String {
        let names = ACTIONS.iter().flat_map(|a| a.aliases.iter().chain([&a.name])).copied();
        let hint = self.report.did_you_mean(name, names);
        let Some((namespace, _)) = plugin_action(name).filter(|_| hint.is_empty()) else {
            return format!("there is no action {}{hint}", shown(name));
        };
        let plugins = self.report.plugins.iter().flatten().map(|plugin| &**plugin);
        let hint = self.report.did_you_mean(namespace, plugins);
        let namespace = shown(namespace);
        format!("there is no action {}: no plugin brings the namespace {namespace}{hint}", shown(name))
    }

    fn check(&self, action: &Action, object: &Object<'_>, params: Option<&Object<'_>>) {
        let given = |param: &Param| {
            let names = std::iter::once(&param.name).chain(param.aliases);
            // Where anything may stand, null may too.
            let is_given = |params: &Object<'_>, name: &str| {
                params.get(name).is_some() || (params.map.contains_key(name) && param.types.contains(&"any"))
            };
            names.copied().filter(|name| params.is_some_and(|p| is_given(p, name))).collect::<Vec<_>>()
        };
        for param in action.params {
            let names = given(param);
            if names.is_empty() && param.required {
                let place = params.map_or_else(|| object.pointer.clone(), |p| p.pointer.clone());
                let message = format!("{} needs the param {:?}: {}", action.name, param.name, param.about);
                self.report.at(place, message);
            }
            let Some(params) = params else { continue };
            for name in &names {
                self.check_type(param, params, name);
            }
            if let [first, second, ..] = names.as_slice() {
                self.report.at(params.at(second), format!("{second:?} and {first:?} are the same param"));
            }
        }
        let Some(params) = params.filter(|_| !action.takes_more) else { return };
        for name in params.map.keys().filter(|n| !action.params.iter().any(|p| p.is_called(n))) {
            let known = action.params.iter().map(|p| p.name);
            let hint = self.report.did_you_mean(name, known);
            self.report.at(params.at(name), format!("{} has no param {}{hint}", action.name, shown(name)));
        }
    }

    /// The type of a literal. A string with a token may become anything.
    fn check_type(&self, param: &Param, params: &Object<'_>, name: &str) {
        let Some(value) = params.get(name) else { return };
        let found = match value {
            Value::String(text) if text.contains("${{") => return,
            Value::Null => return,
            Value::String(_) => "string",
            Value::Number(_) => "number",
            Value::Bool(_) => "boolean",
            Value::Object(_) => "object",
            Value::Array(_) => "array",
        };
        if !param.types.contains(&found) && !param.types.contains(&"any") {
            let message = format!("{name:?} is {}, this is {}", in_words(param.types), type_of(value));
            return self.report.at(params.at(name), message);
        }
        if name == "timeout"
            && let Value::String(text) = value
            && let Err(why) = parse_duration_ms(text)
        {
            self.report.at(params.at(name), format!("{} is not a duration: {why}", shown(text)));
        }
        if found == "string" && value == "" && param.required && matches!(name, "expression" | "filter") {
            self.report.at(params.at(name), "it is empty");
        }
    }

    /// The program of an `expr.eval`; the filter of a `jq` is only checked.
    fn program(&self, action: &Action, params: &Object<'_>, ix: u32) -> Option<Arc<Expr>> {
        let field = match action.name {
            "expr.eval" => "expression",
            "jq" => "filter",
            _ => return None,
        };
        let Some(Value::String(source)) = params.get(field) else { return None };
        if source.is_empty() || source.contains("${{") {
            return None;
        }
        let (pointer, has_data) = (params.at(field), params.map.contains_key("data"));
        if field == "filter" {
            self.jq(source, &pointer, has_data, ix);
            return None;
        }
        let compiled = self.sight.from(View::Step(ix), has_data, |env| Expr::compile(source, env));
        self.checked(compiled, &pointer, 0).map(Arc::new)
    }
}

fn in_words(types: &[&str]) -> String {
    let words = types.iter().map(|name| match *name {
        "array" => "a list".to_owned(),
        "object" => "an object".to_owned(),
        other => format!("a {other}"),
    });
    words.collect::<Vec<_>>().join(" or ")
}
