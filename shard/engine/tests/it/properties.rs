//! Random definitions, driven at random, with crashes anywhere: whatever happens, every run can
//! be brought to its end, and the door's own checks hold after each command (no gap, a replay is
//! the run, the views show what the run shows, every move is legal).

use std::hash::{DefaultHasher, Hash, Hasher};

use opcode_engine::Code;
use opcode_engine::command::{Command, SignalType};
use opcode_engine::fsm::WorkflowStatus;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::script::{World, because};

/// What may be in a generated definition.
#[derive(Clone, Copy)]
struct Kinds {
    /// What depends on the order in which things end: races, timeouts.
    order_matters: bool,
}

/// A step whose id is given later.
fn step(kinds: Kinds, depth: u32) -> BoxedStrategy<Value> {
    let leaf = prop_oneof![
        4 => action(kinds),
        1 => Just(json!({"type": "wait", "config": {"duration": "3s"}})),
        1 => Just(json!({"type": "wait", "config": {"signal": "go"}})),
        1 => any::<bool>().prop_map(|has_fallback| {
            let mut config = json!({"prompt_context": "?", "options": [{"id": "y"}], "timeout": "1m"});
            if has_fallback {
                config["fallback"] = json!("y");
            }
            json!({"type": "reasoning", "config": config})
        }),
    ];
    if depth == 0 {
        return leaf.boxed();
    }
    let body = move || steps(kinds, depth - 1, 1..3);
    let branches = move || prop::collection::vec(steps(kinds, depth - 1, 0..3), 1..3);
    let modes = if kinds.order_matters { vec!["all", "race"] } else { vec!["all"] };
    prop_oneof![
        3 => leaf,
        1 => (0..4_u32, body()).prop_map(|(count, body)| {
            let over: Vec<u32> = (0..count).collect();
            json!({"type": "loop", "config": {"mode": "for_each", "over": format!("{over:?}"), "body": body}})
        }),
        1 => (1..3_u32, body()).prop_map(|(count, body)| {
            let condition = format!("iter.index + 1 >= {count}");
            json!({"type": "loop", "config": {"mode": "until", "condition": condition, "body": body}})
        }),
        1 => (any::<bool>(), body(), body()).prop_map(|(side, yes, default)| {
            let expression = format!("'{}'", if side { "yes" } else { "other" });
            let config = json!({"expression": expression, "branches": {"yes": yes}, "default": default});
            json!({"type": "condition", "config": config})
        }),
        1 => (prop::sample::select(modes), branches()).prop_map(|(mode, branches)| {
            json!({"type": "parallel", "config": {"mode": mode, "branches": branches}})
        }),
        1 => (1..3_u32, body()).prop_map(|(most, body)| {
            let config = json!({"mode": "map", "over": "[1, 2, 3]", "max_concurrency": most, "body": body});
            json!({"type": "parallel", "config": config})
        }),
    ]
    .prop_flat_map(move |step| extras(step, kinds))
    .boxed()
}

fn action(kinds: Kinds) -> BoxedStrategy<Value> {
    let name = prop::sample::select(vec!["http.get", "workflow.log"]);
    let interrupt = if kinds.order_matters { vec!["retry", "suspend", "fail"] } else { vec!["retry"] };
    (name, prop::sample::select(interrupt), any::<bool>())
        .prop_map(|(name, on_interrupt, compensate)| {
            let params =
                if name == "http.get" { json!({"url": "http://x"}) } else { json!({"message": "x"}) };
            let mut step = json!({"action": name, "params": params, "on_interrupt": on_interrupt});
            if compensate {
                step["compensate"] =
                    json!({"id": "u", "action": "http.get", "params": {"url": "http://undo"}});
            }
            step
        })
        .boxed()
}

/// What every step may have.
fn extras(step: Value, kinds: Kinds) -> BoxedStrategy<Value> {
    let timeout = if kinds.order_matters { 0..6_u32 } else { 1..2 };
    (0..6_u32, 0..4_u32, timeout, 0..6_u32)
        .prop_map(move |(retry, on_error, timeout, guard)| {
            let mut step = step.clone();
            if retry == 0 {
                step["retry"] = json!({"max": 1});
            } else if retry == 1 {
                step["retry"] = json!({"max": 2, "backoff": "linear", "delay": "1s"});
            }
            if on_error == 0 {
                step["on_error"] = json!({"strategy": "ignore"});
            } else if on_error == 1 {
                step["on_error"] = json!({"strategy": "fallback_step", "fallback_step": "fb"});
            }
            if timeout == 0 {
                step["timeout"] = json!("5s");
            }
            if guard == 0 {
                step["condition"] = json!("false");
            }
            step
        })
        .boxed()
}

/// Steps of one scope, with ids, and the fallback that some of them name.
fn steps(kinds: Kinds, depth: u32, count: std::ops::Range<usize>) -> BoxedStrategy<Vec<Value>> {
    prop::collection::vec(step(kinds, depth), count)
        .prop_map(|mut steps| {
            for (n, step) in steps.iter_mut().enumerate() {
                step["id"] = json!(format!("s{n}"));
            }
            if steps.iter().any(|step| step.get("on_error").is_some_and(|e| e["fallback_step"].is_string())) {
                steps.push(json!({"id": "fb", "action": "http.get", "params": {"url": "http://fb"}}));
            }
            steps
        })
        .boxed()
}

/// A definition that a failure shows as its text.
#[derive(Clone)]
struct Source(Value);

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

fn source(kinds: Kinds) -> BoxedStrategy<Source> {
    (steps(kinds, 2, 1..5), prop::collection::vec(any::<u8>(), 5), any::<[bool; 2]>())
        .prop_map(|(mut steps, edges, hooks)| {
            for n in 1..steps.len() {
                let is_fallback = steps[n]["id"] == "fb";
                let edge = usize::from(edges[n % edges.len()]);
                if !is_fallback && edge % 3 > 0 {
                    steps[n]["depends_on"] = json!([format!("s{}", edge % n)]);
                }
            }
            let mut source = json!({"steps": steps});
            let hook = |id: &str| json!({"id": id, "action": "http.get", "params": {"url": "http://hook"}});
            if hooks[0] {
                source["on_complete"] = hook("hc");
            }
            if hooks[1] {
                source["on_error"] = hook("he");
            }
            Source(source)
        })
        .boxed()
}

fn waiting(world: &World, kind: &str) -> Option<String> {
    let why = world.run.why(world.now);
    let wait = why.iter().find(|wait| wait["kind"] == kind && wait["step_id"].is_string())?;
    wait["step_id"].as_str().map(str::to_owned)
}

/// What a step's action comes to: the same for every attempt.
fn result_of(step: &str, seed: u64) -> Result<Value, Code> {
    let mut hasher = DefaultHasher::new();
    (step, seed).hash(&mut hasher);
    match hasher.finish() % 7 {
        0 => Err(Code::ExecutionError),
        1 => Err(Code::NonRetryable),
        _ => Ok(json!({"of": step})),
    }
}

/// An output without how long waits took, which a crash makes longer.
fn timeless(output: Value) -> Value {
    match output {
        Value::Array(items) => items.into_iter().map(timeless).collect(),
        Value::Object(map) => {
            map.into_iter().filter(|(key, _)| key != "waited").map(|(k, v)| (k, timeless(v))).collect()
        }
        other => other,
    }
}

/// Lets one thing happen that moves the run on; whether there was one.
fn move_on(world: &mut World, seed: u64, pick: usize) -> bool {
    if world.status().is_terminal() {
        return false;
    }
    if !world.doing.is_empty() {
        let step = world.doing.keys().nth(pick % world.doing.len()).unwrap().clone();
        match result_of(&step, seed) {
            Ok(output) => world.finish(&step, output),
            Err(code) => world.fail(&step, code),
        }
    } else if let Some(step) = waiting(world, "decision") {
        world.signal(SignalType::Decision, &step, json!("y")).unwrap();
    } else if let Some(step) = waiting(world, "signal") {
        world.signal(SignalType::Data, &step, json!({"n": 1})).unwrap();
    } else if let Some(due) = world.run.next_due() {
        world.pass(due.since_ms(world.now));
    } else {
        world.command(Command::Resume(because("go on")));
    }
    true
}

fn to_the_end(world: &mut World, seed: u64) {
    for _ in 0..2_000 {
        if !move_on(world, seed, 0) {
            return;
        }
    }
    panic!("the run does not end: {:#}", world.shown());
}

/// Lets anything happen, wanted or not.
fn disturb(world: &mut World, choice: u8, pick: usize, seed: u64) {
    let steps: Vec<String> = world.shown()["steps"].as_object().unwrap().keys().cloned().collect();
    let some_step = steps[pick % steps.len()].clone();
    match choice {
        0 => world.crash(),
        1 => world.crash_at(1 + pick % world.log.len()),
        2 => drop(world.try_command(Command::Suspend(because("hold")))),
        3 => drop(world.try_command(Command::Resume(because("go")))),
        4 => drop(world.signal(SignalType::Skip, &some_step, json!(null))),
        5 => drop(world.signal(SignalType::Retry, &some_step, json!(null))),
        6 => drop(world.signal(SignalType::Data, "go", json!("early"))),
        7 => world.pass(2_500),
        8 if pick.is_multiple_of(4) => drop(world.try_command(Command::Cancel(because("no")))),
        9 => {
            let from_step = pick.is_multiple_of(2).then_some(some_step);
            let reason = because("again");
            drop(world.try_command(Command::Retry { from_step, params: None, definition: None, reason }));
        }
        10 => {
            let new = json!({"id": format!("n{}", world.log.len()), "action": "http.get", "params": {"url": "http://n"}});
            let mutation = if pick.is_multiple_of(2) {
                json!({"insert_after": some_step, "steps": [new]})
            } else {
                json!({"insert_before": some_step, "steps": [new]})
            };
            drop(world.try_command(Command::Extend { mutation, reason: because("more") }));
        }
        11 => drop(world.command(Command::Recover)),
        _ => drop(move_on(world, seed, pick)),
    }
}

/// Few, so that they are quick; `PROPTEST_CASES` asks for more.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(100)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        max_shrink_iters: 500,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_happens_a_run_can_be_brought_to_its_end(
        source in source(Kinds { order_matters: true }),
        seed: u64,
        disturbances in prop::collection::vec((0..24_u8, any::<u16>()), 0..40),
    ) {
        let mut world = World::of(source.0);
        for (choice, pick) in disturbances {
            disturb(&mut world, choice, usize::from(pick), seed);
        }
        to_the_end(&mut world, seed);
        prop_assert!(world.status().is_terminal());
        prop_assert_eq!(world.run.next_due(), None);
    }

    #[test]
    fn crashes_do_not_change_the_outcome(
        source in source(Kinds { order_matters: false }),
        seed: u64,
        crashes in prop::collection::vec((1..20_usize, any::<u16>()), 1..6),
    ) {
        let mut calm = World::of(source.0.clone());
        to_the_end(&mut calm, seed);
        let mut shaken = World::of(source.0);
        for (moves, cut) in crashes {
            for _ in 0..moves {
                move_on(&mut shaken, seed, usize::from(cut));
            }
            if !shaken.status().is_terminal() {
                let least = shaken.log.len().saturating_sub(12).max(1);
                let count = least + usize::from(cut) % (shaken.log.len() - least + 1);
                shaken.crash_at(count);
            }
        }
        to_the_end(&mut shaken, seed);
        prop_assert_eq!(calm.status(), shaken.status(), "{}\n----\n{}", calm.trace(), shaken.trace());
        if calm.status() == WorkflowStatus::Completed {
            prop_assert_eq!(timeless(calm.output()), timeless(shaken.output()), "{}\n----\n{}", calm.trace(), shaken.trace());
        }
    }
}
