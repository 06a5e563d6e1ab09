//! Interpolation: a template, as JSON or as one text, compiles or is refused with a place in it; what
//! it renders to is JSON of the template's shape; no value becomes a token, and none a secret.

use opcode_engine::Problem;
use opcode_engine::expr::NoJq;
use opcode_engine::expr::interpolate::Template;
use serde_json::Value;

use crate::{cel, world};

/// Runs one template.
pub fn interpolation(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    bare(text);
    let value = serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()));
    let template = match Template::compile(&value, &world::ENV, "/params") {
        Ok(template) => template,
        Err(problems) => return assert_places(&value, &problems),
    };
    assert_eq!(template.source(), &value);
    let again = Template::compile(template.source(), &world::ENV, "");
    assert_eq!(again.as_ref().map(Template::references), Ok(template.references()), "{text:?}");
    let rendered = cel::agreed(text, &|budget| template.render(world::scope(), budget, &NoJq));
    if template.is_literal() {
        assert_eq!(rendered.as_ref(), Ok(&value), "a literal stays as it is");
    }
    let Ok(rendered) = rendered else { return };
    assert_shape(&value, &rendered);
    assert!(!template.needs_worker(), "{text:?} runs jq without a runner");
    secrets(text, &template, &rendered);
}

/// One expression without `${{ }}`.
fn bare(text: &str) {
    match Template::compile_expression(text, &world::ENV, "/x") {
        Ok(template) => drop(template.render(world::scope(), cel::MORE, &NoJq)),
        Err(problems) => {
            let end = text.chars().count() + 1;
            let is_inside =
                |p: &Problem| p.column.is_none_or(|column| (1..=end).contains(&(column as usize)));
            assert!(!problems.is_empty() && problems.iter().all(is_inside), "{text:?}: {problems:?}");
        }
    }
}

/// Every problem points at a string of the template, or at the whole, and into that string.
fn assert_places(value: &Value, problems: &[Problem]) {
    assert!(!problems.is_empty(), "{value} is refused without a reason");
    for problem in problems {
        let place = problem.pointer.strip_prefix("/params").and_then(|rest| value.pointer(rest));
        let Some(place) = place else { panic!("{problem:?} points nowhere in {value}") };
        let Some(column) = problem.column else { continue };
        let Some(text) = place.as_str() else { panic!("{problem:?} is at no string of {value}") };
        assert!((1..=text.chars().count() + 1).contains(&(column as usize)), "{problem:?} in {text:?}");
    }
}

/// Lists and maps of the template stay what they are, with as many elements and the same names.
fn assert_shape(template: &Value, rendered: &Value) {
    match (template, rendered) {
        (Value::String(_), _) => {}
        (Value::Array(from), Value::Array(to)) => {
            assert_eq!(from.len(), to.len(), "{rendered}");
            from.iter().zip(to).for_each(|(from, to)| assert_shape(from, to));
        }
        (Value::Object(from), Value::Object(to)) => {
            assert!(from.keys().eq(to.keys()), "{rendered}");
            from.iter().for_each(|(name, field)| assert_shape(field, &to[name]));
        }
        (from, to) => assert_eq!(from, to, "only strings are interpolated"),
    }
}

/// Secrets are asked for if and only if the template has some, and each leaves exactly one mark.
fn secrets(text: &str, template: &Template, rendered: &Value) {
    const MARK: &str = "\u{1}hush\u{1}";
    let mut asked = 0;
    let mut whole = rendered.clone();
    let put = template.render_secrets(&mut whole, &mut |_| {
        asked += 1;
        Ok::<_, ()>(MARK.to_owned())
    });
    assert_eq!(put, Ok(()));
    assert_eq!(asked > 0, template.has_secrets(), "{text:?}");
    let marks = |value: &Value| value.to_string().matches("\\u0001hush\\u0001").count();
    assert_eq!(marks(&whole), marks(rendered) + asked, "{text:?} gives {whole}");
    if asked == 0 {
        assert_eq!(&whole, rendered, "without secrets nothing changes");
    }
}
