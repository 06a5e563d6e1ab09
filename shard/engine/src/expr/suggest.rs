//! "did you mean": the nearest of some names, if one is near.

/// The candidate nearest to `name`, at most a third of it away.
pub(crate) fn nearest<'c>(name: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let length = name.chars().count();
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= (length / 3).clamp(1, 3))
        .min()
        .map(|(_, candidate)| candidate)
}

/// `; did you mean …?` for a message, or nothing.
pub(crate) fn clause<'c>(name: &str, candidates: impl IntoIterator<Item = &'c str>) -> String {
    // Distance takes time by the product of the lengths, and no name of ours is this long.
    if name.len() > 128 {
        return String::new();
    }
    nearest(name, candidates).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default()
}
