//! What an expression may refer to from where it stands: the rule that no reference is to a step
//! that cannot have finished by then.

use std::cell::OnceCell;

use super::fields::Report;
use super::outline::{Namespace, Outline, ROOT};
use crate::dag::{Dag, Order, Reach};
use crate::expr::{Env, Visibility};

/// Where an expression stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum View {
    /// Before anything: the definition's `inputs`.
    Start,
    /// After everything: the definition's `output`.
    End,
    /// In this step.
    Step(u32),
    /// In the condition of this loop, which sees the last round of its body.
    Rounds(u32),
}

/// Answers what is visible from where.
pub(super) struct Sight<'a> {
    outline: &'a Outline<'a>,
    report: &'a Report,
    /// The top level's order; `None` when it has a cycle, and then order is not judged.
    order: Option<(Dag, Order)>,
    reach: OnceCell<Reach>,
}

impl<'a> Sight<'a> {
    pub(super) fn new(outline: &'a Outline<'a>, report: &'a Report, dag: Dag) -> Self {
        let order = dag.order().map(|order| (dag, order));
        Self { outline, report, order, reach: OnceCell::new() }
    }

    /// Levels of the top level, as positions; none when there is a cycle.
    pub(super) fn levels(&self) -> &[Vec<usize>] {
        self.order.as_ref().map_or(&[], |(_, order)| &order.levels)
    }

    /// Calls `compile` with what is visible from `view`.
    pub(super) fn from<T>(&self, view: View, has_data: bool, compile: impl FnOnce(&Env<'_>) -> T) -> T {
        let in_loop = match view {
            View::Start | View::End => false,
            View::Step(node) => self.outline.node(node).in_loop,
            View::Rounds(_) => true,
        };
        compile(&Env { step: &|id| self.look(view, id), in_loop, has_data })
    }

    fn look(&self, view: View, id: &str) -> Visibility {
        let found = if id.contains('.') { self.look_along(view, id) } else { self.look_up(view, id) };
        found.unwrap_or_else(|| self.unknown(view, id))
    }

    /// Looks for a short id in the scope of `view` and the scopes around it.
    fn look_up(&self, view: View, id: &str) -> Option<Visibility> {
        let (mut scope, mut via, from) = match view {
            View::Start | View::End => (ROOT, None, None),
            View::Step(node) => (self.outline.node(node).scope, Some(node), Some(node)),
            View::Rounds(node) => {
                let body = *self.outline.node(node).inner.first()?;
                (body, None, Some(node))
            }
        };
        loop {
            let here = &self.outline.scopes[scope];
            if let Some(&target) = here.by_id.get(id) {
                return Some(match (view, via) {
                    (View::Start, _) => too_late("inputs are set before any step runs"),
                    (_, None) => Visibility::Visible,
                    (_, Some(via)) => self.relation(scope, via, target, from),
                });
            }
            let is_late = matches!(here.namespace, Namespace::Hook | Namespace::Compensation);
            (scope, via) = match here.owner {
                Some(owner) if is_late => (self.outline.node(owner).scope, None),
                Some(owner) if view == View::Rounds(owner) => (self.outline.node(owner).scope, Some(owner)),
                Some(owner) => (self.outline.node(owner).scope, via.map(|_| owner)),
                None if is_late => (ROOT, None),
                None => return None,
            };
        }
    }

    /// Looks for a full id from the top level down.
    fn look_along(&self, view: View, id: &str) -> Option<Visibility> {
        let (first, rest) = id.split_once('.')?;
        let start = *self.outline.scopes[ROOT].by_id.get(first)?;
        let mut path = vec![start];
        if !self.follow(start, rest, &mut path) {
            return None;
        }
        let from = match view {
            View::Start => return Some(too_late("inputs are set before any step runs")),
            View::End => return Some(Visibility::Visible),
            View::Step(node) | View::Rounds(node) => node,
        };
        let Some(around) = self.around(from) else { return Some(Visibility::Visible) };
        for (depth, &target) in path.iter().enumerate() {
            let scope = self.outline.node(target).scope;
            let via = around[depth];
            if target != via {
                return Some(self.relation(scope, via, target, Some(from)));
            }
            let (Some(&next), Some(&inside)) = (path.get(depth + 1), around.get(depth + 1)) else {
                let is_own_round = view == View::Rounds(from) && depth + 1 < path.len();
                return Some(if is_own_round {
                    Visibility::Visible
                } else if path.len() > depth + 1 {
                    too_late("it is inside this step")
                } else {
                    self.relation(scope, via, target, Some(from))
                });
            };
            let (next, inside) = (self.outline.node(next).scope, self.outline.node(inside).scope);
            match &self.outline.scopes[next].namespace {
                // Another round or item of the same body may have finished.
                Namespace::Body | Namespace::Items => return Some(Visibility::Visible),
                Namespace::Branch(_) if next != inside => {
                    return Some(too_late("it is in another branch of the same condition"));
                }
                Namespace::Lane(_) if next != inside => return Some(Visibility::Visible),
                Namespace::Branch(_)
                | Namespace::Lane(_)
                | Namespace::Root
                | Namespace::Hook
                | Namespace::Compensation => {}
            }
        }
        Some(Visibility::Visible)
    }

    /// The steps around `node`, from the top level down to itself; `None` when a hook or a
    /// compensation is among them, which run after everything.
    fn around(&self, node: u32) -> Option<Vec<u32>> {
        let mut around = vec![node];
        let mut scope = &self.outline.scopes[self.outline.node(node).scope];
        loop {
            match scope.namespace {
                Namespace::Hook | Namespace::Compensation => return None,
                Namespace::Root
                | Namespace::Branch(_)
                | Namespace::Body
                | Namespace::Items
                | Namespace::Lane(_) => {}
            }
            let Some(owner) = scope.owner else { break };
            around.push(owner);
            scope = &self.outline.scopes[self.outline.node(owner).scope];
        }
        around.reverse();
        Some(around)
    }

    /// Follows `NAMESPACE.child.NAMESPACE.child…` down from `node`. A branch's name may hold dots.
    fn follow(&self, node: u32, rest: &str, path: &mut Vec<u32>) -> bool {
        let dots = rest.char_indices().filter(|(_, c)| *c == '.').map(|(i, _)| i);
        for dot in dots.take_while(|i| *i <= super::BRANCH_NAME_BYTES_MAX) {
            let Some(scope) = self.inner_scope(node, &rest[..dot]) else { continue };
            let below = &rest[dot + 1..];
            let (id, deeper) = below.split_once('.').map_or((below, None), |(id, d)| (id, Some(d)));
            let Some(&child) = self.outline.scopes[scope].by_id.get(id) else { continue };
            path.push(child);
            if deeper.is_none_or(|deeper| self.follow(child, deeper, path)) {
                return true;
            }
            path.pop();
        }
        false
    }

    fn inner_scope(&self, node: u32, namespace: &str) -> Option<usize> {
        if let Some(scope) = self.outline.named.get(&(node, namespace.into())) {
            return Some(*scope);
        }
        let (word, number) = namespace.split_once('_')?;
        if number.is_empty() || number.len() > 7 || !number.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let scope = *self.outline.node(node).inner.first()?;
        let fits = match self.outline.scopes[scope].namespace {
            Namespace::Body => word == "iter",
            Namespace::Items => word == "item",
            Namespace::Root
            | Namespace::Hook
            | Namespace::Compensation
            | Namespace::Branch(_)
            | Namespace::Lane(_) => false,
        };
        fits.then_some(scope)
    }

    /// How `target` looks from `via`, both in `scope`; `via` is `from` or a step around it.
    fn relation(&self, scope: usize, via: u32, target: u32, from: Option<u32>) -> Visibility {
        if target == via {
            let is_self = from == Some(via);
            return too_late(if is_self { "it is this very step" } else { "this step is a part of it" });
        }
        let (via, target) = (self.outline.node(via).position, self.outline.node(target).position);
        let runs_after = match &self.outline.scopes[scope].namespace {
            Namespace::Root => self.depends(via, target),
            Namespace::Branch(_)
            | Namespace::Body
            | Namespace::Items
            | Namespace::Lane(_)
            | Namespace::Hook
            | Namespace::Compensation => target > via,
        };
        if runs_after { too_late("it runs after this step") } else { Visibility::Visible }
    }

    /// Whether the top-level step at `later` depends on the one at `earlier`.
    fn depends(&self, earlier: usize, later: usize) -> bool {
        let Some((dag, order)) = &self.order else { return false };
        // Who depends on another stands on a higher level, which settles most questions.
        order.level_of[earlier] < order.level_of[later]
            && self.reach.get_or_init(|| dag.reach(order)).is_before(earlier, later)
    }

    fn unknown(&self, view: View, id: &str) -> Visibility {
        if let Some(&elsewhere) = self.outline.somewhere.get(id) {
            return Visibility::Unknown { suggestion: Some(self.outline.full_id(elsewhere)) };
        }
        let mut scopes = vec![&self.outline.scopes[ROOT]];
        if let View::Step(node) | View::Rounds(node) = view {
            let mut scope = &self.outline.scopes[self.outline.node(node).scope];
            while let Some(owner) = scope.owner {
                scopes.push(scope);
                scope = &self.outline.scopes[self.outline.node(owner).scope];
            }
        }
        let ids = scopes.iter().flat_map(|s| s.steps.iter()).map(|n| self.outline.node(*n).id.as_ref());
        Visibility::Unknown { suggestion: self.report.nearest(id, ids).map(str::to_owned) }
    }
}

fn too_late(reason: &str) -> Visibility {
    Visibility::TooLate { reason: reason.to_owned() }
}
