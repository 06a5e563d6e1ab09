//! Definitions: any text is refused with places in it, or it is a definition whose ids resolve, whose
//! bounds hold, and whose canonical text is that same definition again.

use std::collections::BTreeSet;

use opcode_engine::definition::{
    DEFINITION_BYTES_MAX, Definition, NESTING_MAX, PROBLEMS_MAX, Plugins, STEPS_MAX, SpecIx,
};
use opcode_engine::{Code, Invalid};
use serde_json::Value;

/// Runs one text.
pub fn definition(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Definition::parse(text) {
        Ok(definition) => {
            assert!(text.len() <= DEFINITION_BYTES_MAX);
            assert_sound(&definition);
            assert_stable(text, &definition);
        }
        Err(invalid) => {
            assert_told(text, &invalid);
            assert_wants(text);
        }
    }
}

/// What is accepted where plugins bring anything is where they bring what it says that it wants.
fn assert_wants(text: &str) {
    let Ok(definition) = Definition::parse_with(text, Plugins::Any) else { return };
    let wanted = definition.plugin_namespaces();
    assert!(!wanted.is_empty(), "{text} is refused without plugins, and wants none");
    let same = Definition::parse_with(text, Plugins::Of(&wanted));
    assert!(same.is_ok_and(|same| same.hash == definition.hash), "{text} wants {wanted:?}");
    assert_sound(&definition);
}

/// Places resolve both ways, and the order is one.
fn assert_sound(definition: &Definition) {
    assert!((1..=STEPS_MAX).contains(&definition.steps.len()));
    let Ok(source) = serde_json::from_str::<Value>(&definition.source) else {
        panic!("the canonical text is no JSON: {}", definition.source)
    };
    for (at, step) in definition.steps.iter().enumerate() {
        assert_eq!(step.ix.0 as usize, at);
        assert!(step.parent.is_none_or(|parent| parent.0 < step.ix.0), "a parent comes first");
        let Some(written) = source.pointer(place(&step.pointer)) else {
            panic!("{} is nowhere in {source}", step.pointer)
        };
        assert!(written["id"].is_null() || written["id"] == *step.id, "{written} is {}", step.id);
        for dependency in &step.depends_on {
            assert!(definition.step(*dependency).dependents.contains(&step.ix));
        }
        assert!(nesting(definition, step.ix) <= NESTING_MAX + 1);
    }
    let mut before = BTreeSet::new();
    for level in &definition.levels {
        for ix in level {
            assert!(
                definition.step(*ix).depends_on.iter().all(|on| before.contains(&on.0)),
                "levels are in order"
            );
        }
        before.extend(level.iter().map(|ix| ix.0));
    }
    assert!(before.iter().eq(&definition.root.iter().map(|ix| ix.0).collect::<BTreeSet<_>>()));
}

/// A step's place in the definition, wherever in a template file that stands.
fn place(pointer: &str) -> &str {
    pointer.strip_prefix("/definition").unwrap_or(pointer)
}

fn nesting(definition: &Definition, ix: SpecIx) -> usize {
    std::iter::successors(definition.step(ix).parent, |ix| definition.step(*ix).parent).count()
}

/// Parsing the canonical text again changes nothing.
fn assert_stable(text: &str, definition: &Definition) {
    let again = match Definition::parse(&definition.source) {
        Ok(again) => again,
        Err(invalid) => panic!("{text} was accepted, and its canonical text is not: {invalid:?}"),
    };
    assert_eq!(again.source, definition.source, "{text}");
    assert_eq!(again.hash, definition.hash);
    assert_eq!(again.levels, definition.levels);
    let outline = |definition: &Definition| {
        let steps = definition.steps.iter();
        let steps = steps.map(|step| {
            (step.id.clone(), step.parent, place(&step.pointer).to_owned(), step.depends_on.clone())
        });
        steps.collect::<Vec<_>>()
    };
    assert_eq!(outline(&again), outline(definition), "{text}");
}

/// Every problem points at something that is there.
fn assert_told(text: &str, invalid: &Invalid) {
    let Invalid { code, problems } = invalid;
    assert!(matches!(code, Code::ValidationError | Code::CycleDetected));
    assert!((1..=PROBLEMS_MAX + 1).contains(&problems.len()), "{} problems", problems.len());
    let value: Option<Value> = serde_json::from_str(text).ok();
    for problem in problems {
        assert!(!problem.message.is_empty());
        if let Some(line) = problem.line {
            let lines = text.split('\n').count();
            assert!((1..=lines).contains(&(line as usize)), "{problem:?} in {text:?}");
            continue;
        }
        let Some(value) = &value else { continue };
        let Some(place) = value.pointer(&problem.pointer) else {
            panic!("{problem:?} points nowhere in {text}")
        };
        if let (Some(column), Some(source)) = (problem.column, place.as_str()) {
            assert!(
                (1..=source.chars().count() + 1).contains(&(column as usize)),
                "{problem:?} in {source:?}"
            );
        }
    }
}
