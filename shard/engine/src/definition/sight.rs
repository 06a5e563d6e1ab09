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

    /// The scopes around `view`, innermost first, each with the step in it that `view` is in;
    /// without a step where all in the scope is over by then.
    fn outward(&self, view: View) -> Vec<(usize, Option<u32>)> {
        let (mut scopes, mut at) = match view {
            View::Start | View::End => return vec![(ROOT, None)],
            View::Step(node) => (Vec::new(), Some(node)),
            View::Rounds(node) => {
                let body = self.outline.node(node).inner.first();
                (body.map(|body| (*body, None)).into_iter().collect(), Some(node))
            }
        };
        let mut scope = at.map_or(ROOT, |node| self.outline.node(node).scope);
        loop {
            scopes.push((scope, at));
            let here = &self.outline.scopes[scope];
            let is_late = matches!(here.namespace, Namespace::Hook | Namespace::Compensation);
            at = if is_late { None } else { at.and(here.owner) };
            scope = match here.owner {
                Some(owner) => self.outline.node(owner).scope,
                None if is_late => ROOT,
                None => return scopes,
            };
        }
    }

    /// Looks for a short id, or a path from a step in sight, from the innermost scope outward.
    fn look(&self, view: View, id: &str) -> Visibility {
        let (first, rest) = id.split_once('.').map_or((id, None), |(first, rest)| (first, Some(rest)));
        let scopes = self.outward(view);
        for (depth, (scope, at)) in scopes.iter().enumerate() {
            let Some(&start) = self.outline.scopes[*scope].by_id.get(first) else { continue };
            let mut path = vec![start];
            if rest.is_some_and(|rest| !self.follow(start, rest, &mut path)) {
                continue;
            }
            if view == View::Start {
                return too_late("inputs are set before any step runs");
            }
            if at.is_none() {
                return Visibility::Visible;
            }
            let around: Vec<u32> = scopes[..=depth].iter().rev().filter_map(|(_, at)| *at).collect();
            return self.judge(view, &path, &around);
        }
        self.unknown(view, id)
    }

    /// How the end of `path` looks from the end of `around`; both start in the same scope.
    fn judge(&self, view: View, path: &[u32], around: &[u32]) -> Visibility {
        for (depth, (&target, &at)) in path.iter().zip(around).enumerate() {
            let (next, inside) = match (path.get(depth + 1), around.get(depth + 1)) {
                _ if target != at => return self.relation(target, at),
                (None, None) => return too_late("it is this very step"),
                (None, Some(_)) => return too_late("this step is a part of it"),
                (Some(_), None) if matches!(view, View::Rounds(_)) => return Visibility::Visible,
                (Some(_), None) => return too_late("it is inside this step"),
                (Some(next), Some(inside)) => {
                    (self.outline.node(*next).scope, self.outline.node(*inside).scope)
                }
            };
            match &self.outline.scopes[next].namespace {
                // Another round or item of the same body may have finished.
                Namespace::Body | Namespace::Items => return Visibility::Visible,
                Namespace::Branch(_) if next != inside => {
                    return too_late("it is in another branch of the same condition");
                }
                Namespace::Lane(_) if next != inside => return Visibility::Visible,
                Namespace::Branch(_)
                | Namespace::Lane(_)
                | Namespace::Root
                | Namespace::Hook
                | Namespace::Compensation => {}
            }
        }
        Visibility::Visible
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

    /// How `target` looks from `at`, another step of the same scope.
    fn relation(&self, target: u32, at: u32) -> Visibility {
        let scope = self.outline.node(at).scope;
        let (at, target) = (self.outline.node(at).position, self.outline.node(target).position);
        let runs_after = match &self.outline.scopes[scope].namespace {
            Namespace::Root => self.depends(at, target),
            Namespace::Branch(_)
            | Namespace::Body
            | Namespace::Items
            | Namespace::Lane(_)
            | Namespace::Hook
            | Namespace::Compensation => target > at,
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
