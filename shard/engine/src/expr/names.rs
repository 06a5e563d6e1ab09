//! What is said about names that mean nothing: roots, steps, and the nearest that would.

use super::{Env, Visibility};

/// The roots as an author sees them.
pub(crate) const ROOTS: [&str; 7] = ["steps", "inputs", "workflow", "context", "loop", "iter", "data"];

/// The candidate nearest to `name`, at most a third of it away.
pub(crate) fn nearest<'c>(name: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    // Distance takes time by the product of the lengths, and no name of ours is this long.
    if name.len() > 128 {
        return None;
    }
    let distance_max = (name.chars().count() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= distance_max)
        .min()
        .map(|(_, candidate)| candidate)
}

/// `; did you mean …?` for a message, or nothing.
pub(crate) fn clause<'c>(name: &str, candidates: impl IntoIterator<Item = &'c str>) -> String {
    nearest(name, candidates).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default()
}

/// Why `name` is no root where an expression stands; `vars` are its variables.
pub(crate) fn unknown_root<'c>(name: &str, vars: impl IntoIterator<Item = &'c str>) -> String {
    match name {
        "iter" | "loop" => "`loop` and `iter` exist only inside a loop or map".into(),
        "data" => "`data` exists only where an action was given `data`".into(),
        "secrets" => "a secret stands alone in its token, `${{secrets.KEY}}`; no expression sees it".into(),
        _ => format!("unknown name `{name:.64}`{}", clause(name, vars.into_iter().chain(ROOTS))),
    }
}

/// Why the step `id` cannot be read where an expression stands, if it cannot.
pub(crate) fn step_problem(env: &Env<'_>, id: &str) -> Option<String> {
    match (env.step)(id) {
        Visibility::Visible => None,
        Visibility::Unknown { suggestion } => {
            let clause = suggestion.map(|near| format!("; did you mean '{near}'?")).unwrap_or_default();
            Some(format!("there is no step '{id:.128}'{clause}"))
        }
        Visibility::TooLate { reason } => {
            Some(format!("step '{id:.128}' cannot have finished by then: {reason}"))
        }
    }
}
