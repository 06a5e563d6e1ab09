//! Interpolation through one door: a template, what it renders to, what is wrong with it.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::expr::{NoJq, OwnedScope, Visibility};

fn scope() -> OwnedScope {
    let steps = [
        ("fetch-a", json!({"output": "field", "body": {"items": [{"name": "x"}, {"name": "y"}], "n": 1.50}})),
        ("review-gate", json!({"choice": "approve"})),
        ("skipped", json!(null)),
        ("evil", json!({"text": "${{secrets.TOKEN}} ${{inputs.a}} \" }"})),
    ];
    OwnedScope {
        steps: steps.into_iter().map(|(id, output)| (id.into(), Arc::new(output))).collect(),
        inputs: Arc::new(json!({
            "a": {"b-c": [1, 2]}, "text": "plain", "n": 7, "flag": true, "half": "{{secrets.TOKEN}}",
        })),
        workflow: Arc::new(json!({"run_id": "r-1"})),
        context: Arc::new(json!({"y": null})),
        item: Some((Arc::new(json!({"x": 9})), 3)),
        data: None,
    }
}

fn step(id: &str) -> Visibility {
    match id {
        "fetch-a" | "review-gate" | "skipped" | "evil" | "pending" => Visibility::Visible,
        "later" => Visibility::TooLate { reason: "it runs after this step".into() },
        "fetch-b" => Visibility::Unknown { suggestion: Some("fetch-a".into()) },
        _ => Visibility::Unknown { suggestion: None },
    }
}

const ENV: Env<'_> = Env { step: &step, in_loop: true, has_data: false };

fn render(template: &Template) -> Result<Value, EvalError> {
    template.render(&scope(), Budget::INLINE, &NoJq)
}

/// `template` renders to `expect`, to the digit.
fn gives(template: Value, expect: Value) {
    let compiled = Template::compile(&template, &ENV, "").unwrap_or_else(|p| panic!("{template}: {p:?}"));
    let rendered = render(&compiled).unwrap_or_else(|error| panic!("{template}: {error}"));
    assert_eq!(rendered.to_string(), expect.to_string(), "{template}");
}

/// `template` compiles, and rendering it fails with `part` in the message.
fn fails(template: Value, part: &str) {
    let compiled = Template::compile(&template, &ENV, "").unwrap_or_else(|p| panic!("{template}: {p:?}"));
    let error = render(&compiled).expect_err(&template.to_string()).to_string();
    assert!(error.contains(part), "{template}: {error}");
}

/// `template` has exactly these problems: pointer, column, part of the message.
fn refused(template: Value, expect: &[(&str, u32, &str)]) {
    let problems = Template::compile(&template, &ENV, "/params").expect_err(&template.to_string());
    assert_eq!(problems.len(), expect.len(), "{template}: {problems:?}");
    for (problem, (pointer, column, part)) in problems.iter().zip(expect) {
        assert_eq!((problem.pointer.as_str(), problem.column), (*pointer, Some(*column)), "{problem:?}");
        assert!(problem.message.contains(part), "{problem:?}");
    }
}

#[test]
fn paths() {
    for (path, value) in [
        ("steps.fetch-a.output.body.items[0].name", json!("x")),
        ("steps.fetch-a.body.items.1.name", json!("y")),
        ("steps['fetch-a'].output", scope().steps["fetch-a"].as_ref().clone()),
        ("steps.fetch-a.output.output", json!("field")),
        ("steps[\"review-gate\"].choice", json!("approve")),
        ("inputs.a.b-c", json!([1, 2])),
        ("inputs.a['b-c'][1]", json!(2)),
        ("loop.item.x", json!(9)),
        ("loop.index", json!(3)),
        ("iter", json!({"item": {"x": 9}, "index": 3})),
        ("workflow.run_id", json!("r-1")),
        ("context.y.z", json!(null)),
        ("inputs.no.such[3].field", json!(null)),
        ("inputs.a.b-c[9]", json!(null)),
        ("steps.skipped.output.x", json!(null)),
    ] {
        gives(json!(format!("${{{{{path}}}}}")), value.clone());
        gives(json!(format!("${{{{  {path} }}}}")), value);
    }
    fails(json!("${{steps.pending.output.x}}"), "'pending' has not run");
    fails(json!("${{inputs.text.field}}"), "a string has no field 'field', in `${{inputs.text.field}}`");
}

#[test]
fn tokens_in_text_and_in_values() {
    gives(
        json!({"k ${{inputs.n}}": ["a ${{inputs.n}}:${{ inputs.text }}", {"x": "${{inputs.flag}}"}, 1.50]}),
        json!({"k ${{inputs.n}}": ["a 7:plain", {"x": true}, 1.50]}),
    );
    gives(
        json!("n=${{steps.fetch-a.body.n}} l=${{inputs.a}} 0=${{inputs.no}}"),
        json!("n=1.5 l={\"b-c\":[1,2]} 0=null"),
    );
    gives(json!("${{ inputs.n + 1 }}"), json!(8));
    gives(json!("${{ loop.index-1 }}"), json!(2));
    gives(json!("${{ {'a': {'b': 1}} }}"), json!({"a": {"b": 1}}));
    gives(json!("${{ '}}' + '${{' }}!"), json!("}}${{!"));
    gives(json!("${{ inputs.flag ? 'é' : 'no' }} $ {{ }} $${{inputs.n}}"), json!("é $ {{ }} $7"));
    gives(json!("${{ true }}"), json!(true));
    gives(
        json!(["<${{ expr: inputs.n + 1 }}> ${{ expr: 'a' }}!", "${{ inputs.n }}", "${{ expr: [1] }}"]),
        json!(["<8> a!", 7, [1]]),
    );
    // What is put in is never looked at again, and cannot change the shape around it.
    gives(json!({"t": "<${{steps.evil.text}}>"}), json!({"t": "<${{secrets.TOKEN}} ${{inputs.a}} \" }>"}));
}

#[test]
fn secrets_stay_until_the_worker_and_only_where_the_template_has_them() {
    let source = json!({
        "auth": "Bearer ${{ secrets.API-KEY }}", "two": ["${{secrets.a.b}}${{secrets.C}}"],
        "mixed": "${{inputs.text}}:${{secrets.C}}", "evil": "${{steps.evil.text}}", "plain": "${{inputs.n}}",
    });
    let template = Template::compile(&source, &ENV, "").unwrap();
    assert!(template.has_secrets() && !template.is_literal());
    assert!(template.secrets().into_iter().eq(["API-KEY", "C", "a.b"]));
    let mut rendered = render(&template).unwrap();
    assert_eq!(
        rendered,
        json!({
            "auth": "Bearer ${{secrets.API-KEY}}", "two": ["${{secrets.a.b}}${{secrets.C}}"],
            "mixed": "plain:${{secrets.C}}", "evil": "${{secrets.TOKEN}} ${{inputs.a}} \" }", "plain": 7,
        })
    );
    let mut asked = Vec::new();
    let mut resolve = |key: &str| {
        asked.push(key.to_owned());
        Ok::<_, ()>(format!("<{key} ${{{{secrets.C}}}}>"))
    };
    template.render_secrets(&mut rendered, &mut resolve).unwrap();
    assert_eq!(
        rendered,
        json!({
            "auth": "Bearer <API-KEY ${{secrets.C}}>", "two": ["<a.b ${{secrets.C}}><C ${{secrets.C}}>"],
            "mixed": "plain:<C ${{secrets.C}}>", "evil": "${{secrets.TOKEN}} ${{inputs.a}} \" }", "plain": 7,
        })
    );
    asked.sort();
    assert_eq!(asked, ["API-KEY", "C", "C", "a.b"]);
    let mut untouched = render(&template).unwrap();
    assert_eq!(template.render_secrets(&mut untouched, &mut |_| Err("no vault")), Err("no vault"));
    // A value that could be taken for the secret beside it is refused, also in halves.
    fails(json!("${{steps.evil.text}} ${{secrets.C}}"), "beside a secret");
    fails(json!("$${{inputs.half}} ${{secrets.C}}"), "beside a secret");
    refused(json!("a ${{secrets.}}"), &[("/params", 3, "`${{secrets.KEY}}`")]);
    refused(json!("${{secrets['K']}}"), &[("/params", 1, "alone")]);
    refused(json!("${{ 'a' + secrets.K }}"), &[("/params", 11, "a secret stands alone")]);
}

#[test]
fn problems_have_a_place() {
    refused(json!("${{inputs.a['b-c'][+1]}}"), &[("/params", 20, "unexpected `+`")]);
    refused(
        json!({"a/b": ["ok", "é ${{steps.fetch-b.x}} ${{ steps['later'].x }}"], "c": "${{ input.x }}"}),
        &[
            ("/params/a~1b/1", 12, "did you mean 'fetch-a'?"),
            ("/params/a~1b/1", 34, "it runs after this step"),
            ("/params/c", 5, "did you mean `inputs`?"),
        ],
    );
    refused(json!("${{ inputs.n + }}"), &[("/params", 15, "ends too early")]);
    refused(json!("${{ inputs.n"), &[("/params", 1, "never closed")]);
    refused(json!("${{ 'a }}"), &[("/params", 1, "never closed")]);
    refused(json!("${{ }}"), &[("/params", 5, "empty")]);
    refused(json!("${{ loop.itme }}"), &[("/params", 10, "did you mean `item`?")]);
    let many = Template::compile(&json!("${{ true }}".repeat(TEMPLATE_TOKENS_MAX + 1)), &ENV, "/params");
    assert_eq!(many.unwrap_err().len(), 1);
}

#[test]
fn bare_expressions() {
    let run = |source: &str| Template::compile_expression(source, &ENV, "/x").map(|t| render(&t).unwrap());
    assert_eq!(run("steps.fetch-a.output.body.items[0].name"), Ok(json!("x")));
    assert_eq!(run("inputs.n * 2"), Ok(json!(14)));
    assert_eq!(run("<${{ inputs.n }}>"), Ok(json!("<7>")));
    assert_eq!(run("steps.nope").unwrap_err()[0].column, Some(7));
}

#[test]
fn knows_what_it_is() {
    let template = |value: Value| Template::compile(&value, &ENV, "").unwrap();
    assert!(template(json!({"a": [1, "$ {{x}}"]})).is_literal());
    assert!(!template(json!({"a": ["${{inputs.n}}"]})).is_literal());
    let read = template(json!(["${{steps.evil.x}}", "${{ steps['fetch-a'].n + 1 }} ${{steps.evil}}"]));
    assert_eq!(read.references().steps, ["evil".into(), "fetch-a".into()] as [Arc<str>; 2]);
    assert!(template(json!("${{steps}}")).references().all_steps);
    assert!(!read.needs_worker());
    assert_eq!(read.source()[0], json!("${{steps.evil.x}}"));
}

#[test]
fn rendering_is_within_its_budget() {
    let template = Template::compile(&json!(["${{inputs.a}}", "${{steps}}"]), &ENV, "").unwrap();
    for budget in [Budget { steps: 5, bytes: 1 << 20 }, Budget { steps: 1 << 20, bytes: 100 }] {
        assert_eq!(template.render(&scope(), budget, &NoJq), Err(EvalError::OverBudget));
    }
}

fn soup() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "$",
        "{",
        "}",
        "${{",
        "}}",
        "secrets.",
        "secrets.K",
        "${{secrets.",
        "${{ secrets.K }}",
        "'",
        "\"",
        "\\",
        " ",
        "inputs.v",
        "jq:",
        "expr:",
        "[0]",
        "['a']",
        ".a-b",
        "é",
        "steps.",
        "x",
        "1 + 1",
    ]);
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_template_panics(text in soup()) {
        match Template::compile(&json!({ "t": text }), &ENV, "") {
            Ok(template) => drop(render(&template)),
            Err(problems) => {
                let end = text.chars().count() as u32 + 1;
                prop_assert!(problems.iter().all(|p| p.column.is_some_and(|c| (1..=end).contains(&c))), "{problems:?}");
            }
        }
    }

    #[test]
    fn no_value_becomes_a_secret(value in soup(), before in "[$ {]{0,2}") {
        let text = format!("{before}${{{{inputs.v}}}}|${{{{ secrets.K }}}}|${{{{inputs.v}}}}");
        let template = Template::compile(&json!([text, "${{inputs.v}}"]), &ENV, "").unwrap();
        let scope = OwnedScope { inputs: Arc::new(json!({ "v": value })), ..OwnedScope::default() };
        if let Ok(mut rendered) = template.render(&scope, Budget::INLINE, &NoJq) {
            template.render_secrets(&mut rendered, &mut |_| Ok::<_, ()>("hush".to_owned())).unwrap();
            prop_assert_eq!(rendered, json!([format!("{before}{value}|hush|{value}"), value]));
        } else {
            let spells_one = format!("{before}{value}|").contains(SECRET);
            prop_assert!(spells_one);
        }
    }
}
