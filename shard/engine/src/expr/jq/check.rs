//! What a filter's first path says about the roots it reads.
//!
//! Only there is it certain that a path starts at the input: `.steps.x` after a `|` may be a field
//! of anything.

use super::super::{Env, ExprProblem, names};
use super::scan::Token;

/// What is wrong with the roots and steps that the filter starts from.
pub(super) fn check(tokens: &[Token<'_>], env: &Env<'_>) -> Vec<ExprProblem> {
    if env.has_data {
        return Vec::new();
    }
    // `[.steps.x]` starts there too.
    let skipped = tokens.iter().take_while(|token| matches!(token.text, "[" | "(")).count();
    let tokens = &tokens[skipped..];
    let Some(first) = tokens.first() else { return Vec::new() };
    let Some(root) = first.text.strip_prefix('.').filter(|root| !root.is_empty() && *root != ".") else {
        return Vec::new();
    };
    let problem = |token: &Token<'_>, message: String| vec![ExprProblem { column: token.column, message }];
    match root {
        "inputs" | "workflow" | "context" => Vec::new(),
        "loop" if env.in_loop => Vec::new(),
        "loop" | "data" => problem(first, names::unknown_root(root, [])),
        "steps" => match step(&tokens[1..]) {
            Some((token, id)) => {
                names::step_problem(env, id).map_or_else(Vec::new, |message| problem(token, message))
            }
            None => Vec::new(),
        },
        other => {
            let loop_root = if env.in_loop { ", loop" } else { "" };
            let roots = format!("steps, inputs, workflow, context{loop_root}");
            problem(first, format!("unknown name `{other}`; the input has {roots}"))
        }
    }
}

/// The id in `.id`, `["id"]` or `."id"` right after `.steps`.
fn step<'t, 's>(after: &'t [Token<'s>]) -> Option<(&'t Token<'s>, &'s str)> {
    let plain = |token: &'t Token<'s>| {
        let id = token.text.strip_prefix('"')?.strip_suffix('"')?;
        (!id.contains('\\')).then_some((token, id))
    };
    match after {
        [bracket, id, close, ..] if bracket.text == "[" && close.text == "]" => plain(id),
        [dot, id, ..] if dot.text == "." && id.text.starts_with('"') => plain(id),
        [dot, bracket, id, close, ..] if dot.text == "." && bracket.text == "[" && close.text == "]" => {
            plain(id)
        }
        [id, ..] if id.text.len() > 1 && id.text.starts_with('.') && id.text != ".." => {
            Some((id, &id.text[1..]))
        }
        _ => None,
    }
}
