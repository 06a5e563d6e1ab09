//! What can be known of a parsed expression before it runs: names, steps, patterns.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::super::{Env, ExprProblem, References, Visibility};
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
                if let Some(message) = step_problem(id, env) {
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

fn step_problem(id: &str, env: &Env<'_>) -> Option<String> {
    match (env.step)(id) {
        Visibility::Visible => None,
        Visibility::Unknown { suggestion: Some(near) } => {
            Some(format!("there is no step `{id}`; did you mean `{near}`?"))
        }
        Visibility::Unknown { suggestion: None } => Some(format!("there is no step `{id}`")),
        Visibility::TooLate { reason } => {
            Some(format!("step `{id}` cannot have finished before this is evaluated: {reason}"))
        }
    }
}

fn unknown_name(name: &str, env: &Env<'_>) -> String {
    match name {
        "loop" | "iter" if !env.in_loop => "`loop` exists inside a loop or a map only".to_owned(),
        "iter" => "unknown name `iter`; it is called `loop` here".to_owned(),
        "data" => "`data` exists only where the step has a `data` param".to_owned(),
        _ => {
            let roots = Root::ALL.iter().map(|(root, _)| *root).filter(|root| match *root {
                "loop" => env.in_loop,
                "data" => env.has_data,
                _ => true,
            });
            let roots: Vec<&str> = roots.collect();
            let hint = did_you_mean(name, roots.iter().copied());
            if hint.is_empty() {
                format!("unknown name `{name}`; there are {}", roots.join(", "))
            } else {
                format!("unknown name `{name}`{hint}")
            }
        }
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

/// `; did you mean …?` when one of `names` is near to `name`, otherwise nothing.
pub(super) fn did_you_mean<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> String {
    let lower = name.to_lowercase();
    let near = names
        .map(|candidate| (strsim::damerau_levenshtein(&lower, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= 1.max(name.len().min(candidate.len()) / 3))
        .min();
    near.map(|(_, candidate)| format!("; did you mean `{candidate}`?")).unwrap_or_default()
}
