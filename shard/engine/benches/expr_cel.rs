//! What CEL and interpolation cost: compiling a guard, evaluating it, rendering params.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use opcode_engine::expr::cel::Cel;
use opcode_engine::expr::interpolate::Template;
use opcode_engine::expr::{Budget, Env, NoJq, OwnedScope, Visibility};
use serde_json::json;

const GUARD: &str =
    "steps['check-backup'].stdout.age_hours <= inputs.max_age_hours && inputs.notification_url != ''";

/// A run with outputs of `items` elements, to show that nothing of it is copied.
fn scope(items: usize) -> OwnedScope {
    let list: Vec<_> =
        (0..items).map(|n| json!({"id": n, "name": format!("item {n}"), "score": 0.5})).collect();
    let steps = [
        ("check-backup", json!({"stdout": {"age_hours": 3, "exists": true}, "exit_code": 0})),
        ("fetch", json!({"status_code": 200, "body": {"items": list}})),
    ];
    OwnedScope {
        steps: steps.into_iter().map(|(id, output)| (id.into(), Arc::new(output))).collect(),
        inputs: Arc::new(json!({"max_age_hours": 24, "url": "https://example.org/v1", "title": "a title"})),
        workflow: Arc::new(json!({"run_id": "r-1"})),
        ..OwnedScope::default()
    }
}

fn benches(c: &mut Criterion) {
    let visible = |_: &str| Visibility::Visible;
    let env = Env { step: &visible, in_loop: false, has_data: false };
    let scope = scope(1_000);

    c.bench_function("cel/compile guard", |b| b.iter(|| Cel::compile(black_box(GUARD), &env)));
    let guard = Cel::compile(GUARD, &env).expect("the guard compiles");
    c.bench_function("cel/eval guard", |b| b.iter(|| guard.eval_bool(black_box(&scope), Budget::INLINE)));
    let filter = Cel::compile("steps.fetch.body.items.filter(i, i.score > 0.7).size()", &env);
    let filter = filter.expect("the filter compiles");
    c.bench_function("cel/filter 1000 items", |b| b.iter(|| filter.eval(black_box(&scope), Budget::WORKER)));

    let params = json!({
        "url": "${{inputs.url}}/items/${{steps.fetch.output.body.items[7].id}}",
        "headers": {"Authorization": "Bearer ${{secrets.TOKEN}}", "Accept": "application/json"},
        "body": {"title": "${{inputs.title}}", "age": "${{steps.check-backup.output.stdout.age_hours}}"},
    });
    c.bench_function("template/compile", |b| b.iter(|| Template::compile(black_box(&params), &env, "")));
    let template = Template::compile(&params, &env, "").expect("the params compile");
    c.bench_function("template/render", |b| {
        b.iter(|| template.render(black_box(&scope), Budget::INLINE, &NoJq));
    });
}

criterion_group!(group, benches);
criterion_main!(group);
