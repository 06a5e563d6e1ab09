//! The checkers: what was promised, against what the tables of all replicas and the world outside
//! have when all is over; and, while it goes on, that nothing committed ever changes.

use std::collections::{BTreeMap, BTreeSet};

use opcode_engine::event::EventType;
use opcode_engine::fsm::WorkflowStatus;
use opcode_engine::ids::{RunNo, ShardId};
use opcode_shard::record::EventRecord;
use opcode_shard::simulation::{RunLook, SimulatedRun, look, tables};
use serde_json::Value;

use crate::history::{History, Kind, Known};
use crate::node::{Node, shard_ids};
use crate::relay::shard_of;
use crate::sink::{CANARY, Post, Sink};

/// What any replica has ever shown as committed: for each event of a run the hash of all up to it.
#[derive(Default)]
pub struct Committed {
    seen: BTreeMap<(ShardId, RunNo), Vec<u64>>,
}

impl Committed {
    /// Looks at every replica: what was committed once is the same everywhere and for ever.
    pub fn look(&mut self, nodes: &[Node], shards: u32, history: &History) {
        for node in nodes {
            for shard in shard_ids(shards) {
                let id = node.plan.id;
                look(&node.tables(shard), |runs| runs.for_each(|run| self.look_at(id, shard, run, history)));
            }
        }
    }

    fn look_at(&mut self, node: u64, shard: ShardId, run: RunLook<'_>, history: &History) {
        let seen = self.seen.entry((shard, run.no)).or_default();
        let known = seen.len().min(run.hashes.len());
        // Each hash is of all events before it, so the last one that both have tells of all.
        if seen[..known].last() != run.hashes[..known].last() {
            let (id, first) = (run.id, seen.iter().zip(run.hashes).position(|(seen, now)| seen != now));
            let number = first.unwrap_or_default() + 1;
            history.violated(format!("{id}: node {node} has another event {number} than was committed"));
            return;
        }
        seen.extend_from_slice(&run.hashes[known..]);
    }
}

/// Whether every run on the first node has ended.
pub fn have_ended(nodes: &[Node], shards: u32) -> Result<(), String> {
    for shard in shard_ids(shards) {
        look(&nodes[0].tables(shard), |runs| {
            let mut open = runs.filter(|run| !run.status.is_terminal());
            match open.next() {
                Some(run) => Err(format!("{} is {} still", run.id, run.status.as_str())),
                None => Ok(()),
            }
        })?;
    }
    Ok(())
}

/// Whether all replicas hold the same.
pub fn are_equal(nodes: &[Node], shards: u32) -> Result<(), String> {
    for shard in shard_ids(shards) {
        let mut all = nodes.iter().map(|node| {
            look(&node.tables(shard), |runs| {
                runs.map(|run| (run.no, run.hashes.last().copied())).collect::<Vec<_>>()
            })
        });
        let first = all.next().unwrap_or_default();
        if all.any(|other| other != first) {
            return Err(format!("the replicas of shard {shard} hold different runs"));
        }
    }
    Ok(())
}

/// Everything at the end.
pub fn check(nodes: &[Node], shards: u32, history: &History, sink: &Sink) {
    let mut runs: BTreeMap<String, SimulatedRun> = BTreeMap::new();
    for shard in shard_ids(shards) {
        for run in tables(&nodes[0].tables(shard)) {
            let id = run.id.to_string();
            if shard_of(&run.id, shards) != shard {
                history.violated(format!("{id} is in shard {shard}"));
            }
            if runs.insert(id.clone(), run).is_some() {
                history.violated(format!("{id} exists twice"));
            }
        }
    }
    for (id, known) in history.runs() {
        match runs.get(&id) {
            None if known.is_acknowledged => {
                history.violated(format!("{id}: it was acknowledged and is lost"));
            }
            None => {}
            Some(_) if !known.may_exist => {
                history.violated(format!("{id}: it was never submitted and exists"))
            }
            Some(run) => check_run(&id, &known, run, history),
        }
    }
    for (id, run) in &runs {
        check_log(id, run, history);
    }
    check_children(&runs, history);
    check_posts(&runs, history, sink);
}

fn count(run: &SimulatedRun, of: EventType) -> usize {
    run.events.iter().filter(|event| event.event_type == of).count()
}

/// What holds of every run's log, a child's too.
fn check_log(id: &str, run: &SimulatedRun, history: &History) {
    let mut completed: BTreeSet<&str> = BTreeSet::new();
    let ends = [EventType::WorkflowCompleted, EventType::WorkflowFailed, EventType::WorkflowCancelled];
    let ends: usize = ends.iter().map(|end| count(run, *end)).sum();
    if ends != 1 {
        history.violated(format!("{id}: it ended {ends} times ({})", run.status.as_str()));
    }
    if run.events.first().is_none_or(|event| event.event_type != EventType::WorkflowStarted) {
        history.violated(format!("{id}: its log does not begin with its start"));
    }
    for event in &run.events {
        if String::from_utf8_lossy(&event.data).contains(CANARY) {
            history.violated(format!("{id}: a secret's value is in its event {}", event.sequence.0));
        }
        if event.event_type == EventType::StepCompleted {
            let step = event.step_id.as_deref().unwrap_or_default();
            if !completed.insert(step) {
                history.violated(format!("{id}/{step} was recorded twice"));
            }
        }
    }
}

/// A run that a client knows of.
fn check_run(id: &str, known: &Known, run: &SimulatedRun, history: &History) {
    let status = run.status;
    let wanted = match known.kind {
        Kind::Cancels => WorkflowStatus::Cancelled,
        _ => WorkflowStatus::Completed,
    };
    if status != wanted {
        history.violated(format!("{id} ({:?}): it is {} at the end", known.kind, status.as_str()));
    }
    if let Some(end) = known.end.as_deref().filter(|end| *end != status.as_str()) {
        history.violated(format!("{id}: it had ended as {end} and is {}", status.as_str()));
    }
    match known.kind {
        Kind::Asks => check_decision(id, known, run, history),
        Kind::Waits => {
            let signals = count(run, EventType::SignalReceived);
            if signals != 1 {
                history.violated(format!("{id}: one signal was recorded {signals} times"));
            }
            check_wait(id, run, history);
        }
        Kind::Delays => check_wait(id, run, history),
        Kind::Posts | Kind::Computes | Kind::Parent | Kind::Cancels => {}
    }
}

fn check_wait(id: &str, run: &SimulatedRun, history: &History) {
    let waits = count(run, EventType::WaitCompleted);
    if waits != 1 {
        history.violated(format!("{id}: its wait ended {waits} times"));
    }
}

fn check_decision(id: &str, known: &Known, run: &SimulatedRun, history: &History) {
    let resolved: Vec<_> =
        run.events.iter().filter(|event| event.event_type == EventType::DecisionResolved).collect();
    if resolved.len() != 1 {
        history.violated(format!("{id}: its question was answered {} times", resolved.len()));
    }
    let data = resolved.first().and_then(|event| serde_json::from_slice::<Value>(&event.data).ok());
    let kept = data.as_ref().and_then(|data| data["resolution"]["choice"].as_str());
    if let (Some(choice), kept) = (&known.choice, kept)
        && kept != Some(choice)
    {
        history.violated(format!("{id}: {choice} was acknowledged and {kept:?} is kept"));
    }
}

/// Each child that a parent has is there, and each that is there has a parent that knows it.
fn check_children(runs: &BTreeMap<String, SimulatedRun>, history: &History) {
    for (id, run) in runs {
        let data = run.events.first().map(|event| serde_json::from_slice::<Value>(&event.data));
        let Some(Ok(data)) = data else { continue };
        let Some(parent) = data["parent"]["workflow_id"].as_str() else { continue };
        if !runs.contains_key(parent) {
            history.violated(format!("{id}: its parent {parent} is not there"));
        }
    }
}

/// The world outside saw every recorded step, under its own key, and nothing that was not begun.
fn check_posts(runs: &BTreeMap<String, SimulatedRun>, history: &History, sink: &Sink) {
    let mut attempts: BTreeMap<String, usize> = BTreeMap::new();
    let mut recorded: BTreeSet<String> = BTreeSet::new();
    for (id, run) in runs {
        for event in &run.events {
            let key = || format!("{id}/{}", event.step_id.as_deref().unwrap_or_default());
            match event.event_type {
                EventType::StepStarted | EventType::StepRetryAttempt => {
                    *attempts.entry(key()).or_default() += 1
                }
                EventType::StepCompleted if is_post(event) => drop(recorded.insert(key())),
                _ => {}
            }
        }
    }
    let mut latest: BTreeMap<&str, &Post> = BTreeMap::new();
    let posts = sink.posts();
    for post in &posts {
        if post.key != format!("{}/{}", post.run, post.step) {
            history.violated(format!("{} is not the key of {}/{}", post.key, post.run, post.step));
        }
        // Each attempt that was committed is made once.
        match attempts.get_mut(&post.key) {
            None => history.violated(format!("{} was posted without a committed start", post.key)),
            Some(0) => history.violated(format!("{} was posted more often than it was begun", post.key)),
            Some(left) => *left -= 1,
        }
        // A leader that has just been deposed may start what it may while its lease lasts, since its
        // successor waits for longer than that; but nothing that its successor has begun.
        let last = latest.insert(&post.key, post);
        if let Some(last) = last.filter(|last| post.term < last.term)
            && !(post.term.is_none() && post.has_lease && post.node == last.node)
        {
            history.violated(format!(
                "{} was posted in term {:?} and then by node {} in {:?}",
                post.key, last.term, post.node, post.term
            ));
        }
    }
    let seen: BTreeSet<&str> = posts.iter().map(|post| post.key.as_str()).collect();
    for key in &recorded {
        if !seen.contains(key.as_str()) {
            history.violated(format!("{key} is recorded and was never posted"));
        }
    }
}

/// Posts have an output that only the world outside makes.
fn is_post(event: &EventRecord) -> bool {
    event.step_id.as_deref().is_some_and(|step| step.starts_with(['s', 'c']))
        && String::from_utf8_lossy(&event.data).contains(r#""ok":true"#)
}
