//! What can be known of a parsed expression before it runs: names, steps, patterns.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::super::{Env, ExprProblem, References, names};
use super::ast::{Kind, Program, Root};
use super::lexer::problem;
use super::pattern::Pattern;

/// Collects the references, compiles literal patterns, adds what is wrong to `problems`.
pub(super) fn check(program: &mut Program, env: &Env<'_>, problems: &mut Vec<ExprProblem>) -> References {
    let mut steps = BTreeSet::<Arc<str>>::new();
    let mut all_steps = false;
    for node in &program.nodes {
        match &node.kind {
            Kind::Step(id) => {
                if let Some(message) = names::step_problem(env, id) {
                    problems.push(problem(node.column, message));
                }
                steps.insert(id.clone());
            }
            Kind::StepAt(_) => all_steps = true,
            Kind::Unknown(name) if !node.lenient => {
                problems.push(problem(node.column, unknown_name(name, env)));
            }
            Kind::Member { base, name, .. } => {
                let of_loop = matches!(program.node(*base).kind, Kind::Root(Root::Loop));
                if of_loop && !matches!(&**name, "item" | "index") {
                    problems
                        .push(problem(node.column, format!("`loop` has `item` and `index`, not `{name}`")));
                }
            }
            _ => {}
        }
    }
    all_steps |= reads_steps_as_a_whole(program);
    compile_patterns(program, problems);
    References { steps: steps.into_iter().collect(), all_steps }
}

/// The root `steps` stays in the arena under every `steps.x`, where nothing evaluates it; it is
/// read as a whole only where some other node, or the result, is it.
fn reads_steps_as_a_whole(program: &Program) -> bool {
    let roots = program.nodes.iter().filter(|node| matches!(node.kind, Kind::Root(Root::Steps))).count();
    let resolved = program.nodes.iter().filter(|n| matches!(n.kind, Kind::Step(_) | Kind::StepAt(_))).count();
    roots > resolved
}

fn unknown_name(name: &str, env: &Env<'_>) -> String {
    match name {
        "iter" if env.in_loop => "unknown name `iter`; it is called `loop` here".to_owned(),
        _ => names::unknown_root(name, []),
    }
}

fn compile_patterns(program: &mut Program, problems: &mut Vec<ExprProblem>) {
    for at in 0..program.nodes.len() {
        let Kind::Matches { right, .. } = program.nodes[at].kind else { continue };
        let Kind::Str(source) = &program.node(right).kind else { continue };
        match Pattern::compile(source) {
            Ok(pattern) => {
                if let Kind::Matches { compiled, .. } = &mut program.nodes[at].kind {
                    *compiled = Some(pattern);
                }
            }
            Err(message) => problems.push(problem(program.node(right).column, message)),
        }
    }
}
