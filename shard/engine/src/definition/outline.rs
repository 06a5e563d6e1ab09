//! The outline of a definition: which steps there are, in which scopes, under which ids.
//!
//! It is drawn before anything is compiled, so that every reference can be judged, and it is
//! where the limits on steps and nesting stop hostile text.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

use super::fields::{Object, Report, shown, under};
use super::{NESTING_MAX, STEPS_MAX};
use crate::ids::ID_BYTES_MAX;

/// The fields of a step.
const STEP_FIELDS: &[&str] = &[
    "id",
    "type",
    "action",
    "params",
    "depends_on",
    "condition",
    "timeout",
    "retry",
    "on_error",
    "compensate",
    "on_interrupt",
    "config",
];

/// The `type` of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Action,
    Condition,
    Loop,
    Parallel,
    Wait,
    Reasoning,
}

const TYPES: &[(&str, Type)] = &[
    ("action", Type::Action),
    ("condition", Type::Condition),
    ("loop", Type::Loop),
    ("parallel", Type::Parallel),
    ("wait", Type::Wait),
    ("reasoning", Type::Reasoning),
];

/// What a scope is to the step that owns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Namespace {
    /// The top level, a DAG.
    Root,
    /// `on_complete` or `on_error`, after everything.
    Hook,
    /// `compensate`, after everything.
    Compensation,
    /// A branch of a condition, by name.
    Branch(Arc<str>),
    /// The body of a loop, `iter_N`.
    Body,
    /// The body of a map, `item_N`.
    Items,
    /// A branch of a parallel step, `branch_N`.
    Lane(usize),
}

/// Steps that see each other by short id.
pub(super) struct ScopeNode {
    pub(super) owner: Option<u32>,
    pub(super) namespace: Namespace,
    pub(super) steps: Vec<u32>,
    pub(super) by_id: HashMap<Arc<str>, u32>,
}

/// A step, not compiled yet.
pub(super) struct Node<'a> {
    pub(super) id: Arc<str>,
    pub(super) object: Object<'a>,
    /// `None` when it is none there is.
    pub(super) kind: Option<Type>,
    /// The scope it is in and its place there.
    pub(super) scope: usize,
    pub(super) position: usize,
    /// Scopes it owns, in the order of the text's meaning.
    pub(super) inner: Vec<usize>,
    /// Inside a loop's or map's body.
    pub(super) in_loop: bool,
}

/// Every step and scope.
pub(super) struct Outline<'a> {
    pub(super) nodes: Vec<Node<'a>>,
    /// The first is the top level.
    pub(super) scopes: Vec<ScopeNode>,
    pub(super) on_complete: Option<u32>,
    pub(super) on_error: Option<u32>,
    /// Scopes by owner and the namespace as a full id spells it (branches and lanes).
    pub(super) named: HashMap<(u32, Arc<str>), usize>,
    /// Some step of each short id, to tell where a step is that is out of sight.
    pub(super) somewhere: HashMap<Arc<str>, u32>,
    report: &'a Report,
    is_over_limit: bool,
}

/// Index of the top level in [`Outline::scopes`].
pub(super) const ROOT: usize = 0;

impl<'a> Outline<'a> {
    /// Draws the outline of `definition`; `None` when it has too many steps to go on with.
    pub(super) fn draw(definition: &Object<'a>) -> Option<Self> {
        let mut outline = Self {
            nodes: Vec::new(),
            scopes: Vec::new(),
            on_complete: None,
            on_error: None,
            named: HashMap::new(),
            somewhere: HashMap::new(),
            report: definition.report,
            is_over_limit: false,
        };
        let root = outline.scope(None, Namespace::Root);
        if definition.get("steps").is_none() {
            definition.missing("steps", "");
        }
        if let Some(steps) = definition.list("steps") {
            if steps.is_empty() {
                definition.report.at(definition.at("steps"), "at least one step is expected");
            }
            outline.list(steps, &definition.at("steps"), root, 0);
        }
        for name in ["on_complete", "on_error"] {
            let hook = outline.single(definition, name, None, Namespace::Hook, 0);
            if name == "on_complete" {
                outline.on_complete = hook;
            } else {
                outline.on_error = hook;
            }
        }
        outline.ambiguous_ids();
        (!outline.is_over_limit).then_some(outline)
    }

    /// Names of branches may hold dots, so that the full ids of two steps may be spelt alike:
    /// `p.a.b.c.d` is `d` in branch `a.b.c` of `p`, or `d` in branch `c` of `b` in branch `a`.
    fn ambiguous_ids(&self) {
        let may_confuse = |s: &ScopeNode| match &s.namespace {
            Namespace::Branch(name) => name.contains('.') || &**name == "compensate",
            Namespace::Root
            | Namespace::Hook
            | Namespace::Compensation
            | Namespace::Body
            | Namespace::Items
            | Namespace::Lane(_) => false,
        };
        if self.is_over_limit || !self.scopes.iter().any(may_confuse) {
            return;
        }
        let mut seen = HashMap::new();
        for (ix, node) in (0_u32..).zip(&self.nodes).filter(|(_, node)| !node.id.is_empty()) {
            let Some(other) = seen.insert(self.full_id(ix), ix) else { continue };
            // The same short id in the same scope has been told.
            if self.node(other).scope != node.scope {
                let other = &self.node(other).object.pointer;
                let message =
                    format!("its full id is spelt like that of the step at {other}; rename a branch");
                self.report.at(node.object.pointer.clone(), message);
            }
        }
    }

    /// The step that the scope of `node` belongs to.
    pub(super) fn owner(&self, node: u32) -> Option<u32> {
        self.scopes[self.node(node).scope].owner
    }

    pub(super) fn node(&self, node: u32) -> &Node<'a> {
        &self.nodes[node as usize]
    }

    /// A full id of `node`, loops and maps at their first round.
    pub(super) fn full_id(&self, node: u32) -> String {
        let mut parts: Vec<String> = vec![self.node(node).id.to_string()];
        let mut scope = &self.scopes[self.node(node).scope];
        while let Some(owner) = scope.owner {
            parts.push(match &scope.namespace {
                Namespace::Root | Namespace::Hook => String::new(),
                Namespace::Compensation => "compensate".into(),
                Namespace::Branch(name) => name.to_string(),
                Namespace::Body => "iter_0".into(),
                Namespace::Items => "item_0".into(),
                Namespace::Lane(lane) => format!("branch_{lane}"),
            });
            parts.push(self.node(owner).id.to_string());
            scope = &self.scopes[self.node(owner).scope];
        }
        parts.reverse();
        parts.join(".")
    }

    fn scope(&mut self, owner: Option<u32>, namespace: Namespace) -> usize {
        let spelled: Option<Arc<str>> = match &namespace {
            Namespace::Branch(name) => Some(name.clone()),
            Namespace::Lane(lane) => Some(format!("branch_{lane}").into()),
            Namespace::Root
            | Namespace::Hook
            | Namespace::Compensation
            | Namespace::Body
            | Namespace::Items => None,
        };
        let scope = self.scopes.len();
        if let (Some(owner), Some(spelled)) = (owner, spelled) {
            self.named.insert((owner, spelled), scope);
        }
        if let Some(owner) = owner {
            self.nodes[owner as usize].inner.push(scope);
        }
        self.scopes.push(ScopeNode { owner, namespace, steps: Vec::new(), by_id: HashMap::new() });
        scope
    }

    fn list(&mut self, steps: &'a [Value], pointer: &str, scope: usize, depth: usize) {
        if depth > NESTING_MAX && !steps.is_empty() {
            let message = format!("steps may nest {NESTING_MAX} deep, not deeper");
            return self.report.at(pointer, message);
        }
        for (index, step) in steps.iter().enumerate() {
            self.step(step, under(pointer, &index.to_string()), scope, depth, None);
        }
    }

    /// A field that holds one step: a hook or a compensation. Its id may be left out.
    fn single(
        &mut self,
        object: &Object<'a>,
        field: &str,
        owner: Option<u32>,
        namespace: Namespace,
        depth: usize,
    ) -> Option<u32> {
        let value = object.get(field)?;
        let pointer = object.at(field);
        if depth > NESTING_MAX {
            self.report.at(pointer, format!("steps may nest {NESTING_MAX} deep, not deeper"));
            return None;
        }
        let scope = self.scope(owner, namespace);
        self.step(value, pointer, scope, depth, Some(field))
    }

    fn step(
        &mut self,
        value: &'a Value,
        pointer: String,
        scope: usize,
        depth: usize,
        default_id: Option<&str>,
    ) -> Option<u32> {
        if self.nodes.len() == STEPS_MAX {
            if !self.is_over_limit {
                self.report.insist(pointer, format!("a definition may have {STEPS_MAX} steps, not more"));
            }
            self.is_over_limit = true;
            return None;
        }
        let object = Object::of(value, pointer, self.report)?;
        object.only(STEP_FIELDS);
        let id: Arc<str> = self.id(&object, scope, default_id).into();
        let kind = match object.get("type") {
            Some(kind) if kind != "" => object.choice("type", TYPES),
            Some(_) | None => Some(Type::Action),
        };
        let ix = u32::try_from(self.nodes.len()).expect("STEPS_MAX fits");
        let owner = self.scopes[scope].owner;
        let in_loop = matches!(self.scopes[scope].namespace, Namespace::Body | Namespace::Items)
            || owner.is_some_and(|o| self.node(o).in_loop);
        let position = self.scopes[scope].steps.len();
        self.scopes[scope].steps.push(ix);
        if !id.is_empty() {
            self.scopes[scope].by_id.entry(id.clone()).or_insert(ix);
            self.somewhere.entry(id.clone()).or_insert(ix);
        }
        let node = Object { map: object.map, pointer: object.pointer.clone(), report: self.report };
        self.nodes.push(Node { id, object: node, kind, scope, position, inner: Vec::new(), in_loop });
        self.inner_scopes(&object, ix, kind, depth + 1);
        self.single(&object, "compensate", Some(ix), Namespace::Compensation, depth + 1);
        Some(ix)
    }

    /// The scopes of a step's `config`. Wrong types are told when the config is compiled.
    fn inner_scopes(&mut self, step: &Object<'a>, ix: u32, kind: Option<Type>, depth: usize) {
        let Some(Value::Object(config)) = step.get("config") else { return };
        let pointer = step.at("config");
        let list_of = |name: &str| match config.get(name) {
            Some(Value::Array(steps)) => Some((steps.as_slice(), under(&pointer, name))),
            _ => None,
        };
        match kind {
            Some(Type::Condition) => {
                if let Some(Value::Object(branches)) = config.get("branches") {
                    let pointer = under(&pointer, "branches");
                    for (name, branch) in branches {
                        let scope = self.scope(Some(ix), Namespace::Branch(name.as_str().into()));
                        if let Value::Array(steps) = branch {
                            self.list(steps, &under(&pointer, name), scope, depth);
                        }
                    }
                }
                if let Some((steps, pointer)) = list_of("default") {
                    let scope = self.scope(Some(ix), Namespace::Branch("default".into()));
                    self.list(steps, &pointer, scope, depth);
                }
            }
            Some(Type::Loop) => self.body(list_of("body"), ix, Namespace::Body, depth),
            Some(Type::Parallel) if is_map(config) => {
                self.body(list_of("body"), ix, Namespace::Items, depth);
            }
            Some(Type::Parallel) => {
                let Some((lanes, pointer)) = list_of("branches") else { return };
                for (lane, steps) in lanes.iter().enumerate() {
                    let scope = self.scope(Some(ix), Namespace::Lane(lane));
                    if let Value::Array(steps) = steps {
                        self.list(steps, &under(&pointer, &lane.to_string()), scope, depth);
                    }
                }
            }
            Some(Type::Action | Type::Wait | Type::Reasoning) | None => {}
        }
    }

    fn body(&mut self, body: Option<(&'a [Value], String)>, ix: u32, namespace: Namespace, depth: usize) {
        let scope = self.scope(Some(ix), namespace);
        if let Some((steps, pointer)) = body {
            self.list(steps, &pointer, scope, depth);
        }
    }

    /// The id of a step, checked; empty when it has none that can be used.
    fn id(&self, object: &Object<'a>, scope: usize, default_id: Option<&str>) -> String {
        if let (None, Some(default)) = (object.get("id"), default_id) {
            return self.unique(object, scope, default);
        }
        let Some(id) = object.required_text("id", "") else { return String::new() };
        let is_allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
        if id.len() > ID_BYTES_MAX || !id.bytes().all(is_allowed) {
            let message =
                format!("{} is not an id: 1 to {ID_BYTES_MAX} characters of A-Z a-z 0-9 _ -", shown(id));
            self.report.at(object.at("id"), message);
            return String::new();
        }
        self.unique(object, scope, id)
    }

    fn unique(&self, object: &Object<'a>, scope: usize, id: &str) -> String {
        // Hooks have scopes of their own, but their full ids are beside those of the top level.
        let is_hook = self.scopes[scope].namespace == Namespace::Hook;
        let hooks = self.scopes.iter().skip(1).filter(|s| is_hook && s.namespace == Namespace::Hook);
        let rivals = hooks.chain([&self.scopes[if is_hook { ROOT } else { scope }]]);
        if let Some(other) = rivals.filter_map(|s| s.by_id.get(id)).next() {
            let other = &self.node(*other).object.pointer;
            let pointer = if object.get("id").is_some() { object.at("id") } else { object.pointer.clone() };
            self.report.at(pointer, format!("the id {id:?} is taken by the step at {other}"));
        }
        id.to_owned()
    }
}

/// Whether a parallel step's config is that of a map.
pub(super) fn is_map(config: &serde_json::Map<String, Value>) -> bool {
    config.get("mode").and_then(Value::as_str) == Some("map")
}
