//! What Expr and jq cost: compiling, evaluating, and the worst that a worker's budget lets through.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use opcode_engine::expr::expr::Expr;
use opcode_engine::expr::jq::{Jq, run_unbounded};
use opcode_engine::expr::{Budget, Env, OwnedScope, Visibility};
use serde_json::json;

const ENV: Env<'static> = Env { step: &|_| Visibility::Visible, in_loop: false, has_data: false };

/// The one `expr.eval` of the examples.
const EXAMPLE: &str = "filter(steps['fetch-data'].body.items, {.score >= inputs.threshold})";
const FILTER: &str = "[.steps[\"fetch-data\"].body.items[] | select(.score >= 50)]";

/// Expressions that end only because their budget does.
const COSTLY: [(&str, &str); 6] = [
    ("nested_maps", "map(1..1000, map(1..1000, map(1..1000, #)))"),
    ("growing_text", r#"reduce(1..100000, #acc + "aaaaaaaaaa", "")"#),
    ("long_regex", r#"let s = repeat("ab", 400000); map(1..100, s matches "(a|b|ab)*[ab]{30}(c|d)$")"#),
    ("sort", "sort(map(1..200000, -#))"),
    ("upper", r#"let s = repeat("a", 500000); map(1..100, upper(s))"#),
    ("from_json", r#"map(1..100, fromJSON("[" + repeat("[],", 200000) + "1]"))"#),
];

fn scope() -> OwnedScope {
    let items: Vec<_> = (0..100).map(|n| json!({"score": n, "name": format!("item {n}")})).collect();
    let output = json!({"body": {"items": items}});
    OwnedScope {
        steps: BTreeMap::from([(Arc::from("fetch-data"), Arc::new(output))]),
        inputs: Arc::new(json!({"threshold": 50})),
        ..OwnedScope::default()
    }
}

fn expr(c: &mut Criterion) {
    let scope = scope();
    c.bench_function("expr/compile", |b| b.iter(|| Expr::compile(black_box(EXAMPLE), &ENV)));
    let example = Expr::compile(EXAMPLE, &ENV).expect("the example compiles");
    c.bench_function("expr/eval_filter_100", |b| b.iter(|| example.eval(black_box(&scope), Budget::WORKER)));
    let sum = Expr::compile("inputs.threshold * 2 + 1", &ENV).expect("it compiles");
    c.bench_function("expr/eval_arithmetic", |b| b.iter(|| sum.eval(black_box(&scope), Budget::INLINE)));
    let mut worst = c.benchmark_group("expr/whole_worker_budget");
    worst.sample_size(10);
    for (name, source) in COSTLY {
        let costly = Expr::compile(source, &ENV).expect("it compiles");
        worst.bench_function(name, |b| b.iter(|| costly.eval(black_box(&scope), Budget::WORKER)));
    }
}

fn jq(c: &mut Criterion) {
    let scope = scope();
    c.bench_function("jq/compile", |b| b.iter(|| Jq::compile(black_box(FILTER), &ENV)));
    let input = json!({"steps": {"fetch-data": scope.steps["fetch-data"].as_ref()}});
    c.bench_function("jq/run_filter_100", |b| b.iter(|| run_unbounded(black_box(FILTER), &input)));
    let long = "1".to_owned() + &"|1".repeat(990);
    c.bench_function("jq/compile_longest_chain", |b| b.iter(|| Jq::compile(black_box(&long), &ENV)));
}

criterion_group!(benches, expr, jq);
criterion_main!(benches);
