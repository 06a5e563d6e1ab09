//! What it costs to parse and check a definition: a published example, a long chain, many tokens.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use opcode_engine::definition::Definition;

/// `steps` steps in a row, each reading the one before.
fn chain(steps: usize) -> String {
    let step = |n: usize| {
        let (message, dependency) = match n.checked_sub(1) {
            None => ("first".to_owned(), String::new()),
            Some(before) => (format!("${{{{steps.s{before}.output}}}}"), format!("\"s{before}\"")),
        };
        format!(
            r#"{{"id":"s{n}","action":"jq","params":{{"filter":".","data":"{message}"}},"depends_on":[{dependency}]}}"#
        )
    };
    format!(r#"{{"steps":[{}]}}"#, (0..steps).map(step).collect::<Vec<_>>().join(","))
}

/// One step whose message is `count` tokens.
fn tokens(token: &str, count: usize) -> String {
    let message = token.repeat(count);
    format!(r#"{{"steps":[{{"id":"a","action":"workflow.log","params":{{"message":"{message}"}}}}]}}"#)
}

fn benches(c: &mut Criterion) {
    let mut group = c.benchmark_group("validate");
    group.sample_size(20);
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../node/tests/examples");
    let example = std::fs::read_to_string(format!("{folder}/order-processing.json")).expect("an example");
    let cases = [
        ("order-processing example", example),
        ("chain of 1000 steps", chain(1_000)),
        ("chain of 9000 steps", chain(9_000)),
        ("1000 path tokens", tokens("${{inputs.a}}", 1_000)),
        ("1000 CEL tokens", tokens("${{1 + 1}}", 1_000)),
        ("200 Expr tokens", tokens("${{expr: 1 + 1}}", 200)),
        ("100 jq tokens", tokens("${{jq: .inputs}}", 100)),
    ];
    for (name, text) in cases {
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(name, |b| b.iter(|| Definition::parse(black_box(&text)).expect("it is valid")));
    }
    group.finish();
}

criterion_group!(validate, benches);
criterion_main!(validate);
