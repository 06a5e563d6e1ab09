//! The first page: how things stand, what waits for somebody, what failed.

use std::fmt::Write;

use askama::Template;
use axum::http::StatusCode;
use serde::Deserialize;

use super::contract::{Items, Shown};
use super::decisions::Decision;
use super::markup::{Markup, badge, cut, number, span, when};
use super::page::{Chrome, Nav, html};
use super::pulse::Beat;
use super::visit::{Visit, encoded};
use super::workflows::Line;

/// Rows of each list.
const ROWS: usize = 6;
/// Decisions that are counted at most.
const COUNTED_MAX: usize = 100;
/// How often the page is brought up to date, in seconds.
const EVERY_S: u32 = 5;

#[derive(Template)]
#[template(path = "overview.html")]
struct Page {
    chrome: Chrome,
    is_empty: bool,
    example: String,
    figures: Vec<Figure>,
    span: String,
    decisions: Vec<Waiting>,
    failed: Vec<Row>,
    active: Vec<Row>,
    health: Vec<Fact>,
}

/// A number with its last half hour.
struct Figure {
    name: &'static str,
    value: String,
    unit: &'static str,
    url: &'static str,
    line: Markup,
    is_bad: bool,
}

struct Waiting {
    workflow: String,
    step: String,
    who: String,
    since: Markup,
    url: String,
}

struct Row {
    id: String,
    url: String,
    template: String,
    error: String,
    created: Markup,
}

struct Fact {
    sign: Markup,
    text: String,
}

/// What the page needs of `GET /v1/cluster`.
#[derive(Deserialize)]
struct Cluster {
    members: Vec<Member>,
    shards: Vec<Shard>,
    #[serde(default)]
    unreachable_shards: Vec<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Member {
    node_id: String,
    alive: bool,
}

#[derive(Deserialize)]
struct Shard {
    shard: u32,
    primary: Option<String>,
    replicas: Vec<Replica>,
    workflows: u64,
}

#[derive(Deserialize)]
struct Replica {
    in_sync: bool,
}

pub(super) async fn show(visit: Visit) -> Shown {
    let list = |status: &str| format!("/v1/workflows?limit={ROWS}&status={status}");
    let (failed_list, active_list) = (list("failed"), list("active"));
    let pending = format!("/v1/decisions?limit={COUNTED_MAX}");
    let (cluster, decisions, failed, active) = tokio::join!(
        visit.get::<Cluster>("/v1/cluster"),
        visit.get::<Items<Decision>>(&pending),
        visit.get::<Items<Line>>(&failed_list),
        visit.get::<Items<Line>>(&active_list),
    );
    let (cluster, decisions, failed, active) = (cluster?, decisions?, failed?, active?);
    let beats = visit.console.pulse.beats();
    let workflows: u64 = cluster.shards.iter().map(|shard| shard.workflows).sum();
    let more = if decisions.next_cursor.is_some() { "+" } else { "" };
    let pending = format!("{}{more}", decisions.items.len());
    let watched: f64 = beats.iter().map(|beat| beat.seconds).sum();
    let page = Page {
        chrome: visit.chrome(Nav::Overview, "Overview").every(EVERY_S),
        is_empty: workflows == 0,
        example: format!(
            "opcode run node/tests/examples/approval-chain.json --id first --params '{{\"request_id\": \"r-1\", \
             \"request_summary\": \"a new kettle\"}}'\nopcode --server {} wf why first",
            visit.origin()
        ),
        figures: figures(&beats, workflows, pending),
        span: format!(
            "Workflows, queue and memory are the cluster's; requests, commits and errors are this node's. The lines \
             show the last {}.",
            span((watched * 1_000.0) as u64)
        ),
        decisions: decisions.items.iter().take(ROWS).map(waiting).collect(),
        failed: failed.items.iter().map(row).collect(),
        active: active.items.iter().map(row).collect(),
        health: health(&cluster),
    };
    Ok(html(StatusCode::OK, &page))
}

fn waiting(decision: &Decision) -> Waiting {
    Waiting {
        workflow: decision.workflow_id.clone(),
        step: decision.step_id.clone(),
        who: decision.target_agent.clone().unwrap_or_else(|| "anybody".into()),
        since: when(&decision.created_at),
        url: decision.url(),
    }
}

fn row(line: &Line) -> Row {
    Row {
        url: format!("/console/workflows/{}", encoded(&line.workflow_id)),
        id: line.workflow_id.clone(),
        template: line.template.clone().unwrap_or_default(),
        error: line.error.as_ref().map(|error| cut(&error.message, 80)).unwrap_or_default(),
        created: when(&line.created_at),
    }
}

fn figures(beats: &[Beat], workflows: u64, pending: String) -> Vec<Figure> {
    let last = beats.last().cloned().unwrap_or_default();
    // Of the last three looks, so that a rate does not flicker.
    let recent = &beats[beats.len().saturating_sub(3)..];
    let mean = |of: fn(&Beat) -> f64| recent.iter().map(of).sum::<f64>() / recent.len().max(1) as f64;
    let line = |of: fn(&Beat) -> f64| spark(&beats.iter().map(of).collect::<Vec<_>>());
    let latency = beats.iter().rev().find_map(|beat| beat.commit_ms);
    let figure =
        |name, value: String, unit, url, line| Figure { name, value, unit, url, line, is_bad: false };
    let errors = mean(|beat| beat.errors);
    vec![
        figure("Workflows", number(workflows), "in all", "/console/workflows", Markup::default()),
        figure(
            "Started",
            rate(mean(|beat| beat.started)),
            "a second",
            "/console/workflows",
            line(|beat| beat.started),
        ),
        Figure {
            is_bad: pending != "0",
            ..figure("Waiting for a decision", pending, "decisions", "/console/decisions", Markup::default())
        },
        figure(
            "Requests",
            rate(mean(|beat| beat.requests)),
            "a second",
            "/console/events",
            line(|beat| beat.requests),
        ),
        Figure {
            is_bad: errors > 0.0,
            ..figure("Failed requests", rate(errors), "a second", "/console/events", line(|beat| beat.errors))
        },
        figure(
            "Commit, 99 of 100",
            latency.map_or_else(|| "–".into(), |ms| format!("≤ {ms}")),
            "ms",
            "/console/cluster",
            line(|beat| beat.commit_ms.unwrap_or(0.0)),
        ),
        figure(
            "Commits",
            rate(mean(|beat| beat.commits)),
            "a second",
            "/console/cluster",
            line(|beat| beat.commits),
        ),
        figure("Queue", number(last.queued), "waiting", "/console/cluster", line(|beat| beat.queued as f64)),
        figure(
            "In memory",
            number(last.in_memory),
            "workflows",
            "/console/workflows?status=active",
            line(|beat| beat.in_memory as f64),
        ),
    ]
}

fn rate(rate: f64) -> String {
    match rate {
        0.0 => "0".to_owned(),
        ..10.0 => format!("{rate:.1}"),
        _ => number(rate.round() as u64),
    }
}

/// A line of numbers, scaled to the largest; what it says stands beside it in digits.
fn spark(values: &[f64]) -> Markup {
    const WIDTH: f64 = 120.0;
    const HEIGHT: f64 = 28.0;
    let largest = values.iter().copied().fold(0.0, f64::max);
    if values.len() < 2 {
        return Markup::default();
    }
    let step = WIDTH / (values.len() - 1) as f64;
    let mut points = String::new();
    for (index, value) in values.iter().enumerate() {
        let share = if largest > 0.0 { value / largest } else { 0.0 };
        let _ = write!(points, "{:.1},{:.1} ", index as f64 * step, HEIGHT - 2.0 - share * (HEIGHT - 4.0));
    }
    Markup(format!(
        "<svg class=\"spark\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" preserveAspectRatio=\"none\" aria-hidden=\"true\">\
         <polyline points=\"{points}\"/></svg>"
    ))
}

fn health(cluster: &Cluster) -> Vec<Fact> {
    let mut facts = Vec::new();
    let (here, gone): (Vec<_>, Vec<_>) = cluster.members.iter().partition(|member| member.alive);
    facts.push(Fact {
        sign: badge("alive"),
        text: format!("{} of {} nodes", here.len(), cluster.members.len()),
    });
    for member in gone {
        facts.push(Fact { sign: badge("gone"), text: format!("node {}", member.node_id) });
    }
    let led = cluster.shards.iter().filter(|shard| shard.primary.is_some()).count();
    let all = cluster.shards.len() + cluster.unreachable_shards.len();
    let sign = if led == all { badge("in sync") } else { badge("failed") };
    facts.push(Fact { sign, text: format!("{led} of {all} shards have a leader") });
    for shard in cluster.shards.iter().filter(|shard| shard.replicas.iter().any(|replica| !replica.in_sync)) {
        facts.push(Fact {
            sign: badge("retrying"),
            text: format!("shard {}: a replica is behind", shard.shard),
        });
    }
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_fits_its_box_whatever_the_numbers() {
        assert_eq!(spark(&[1.0]).0, "");
        let line = spark(&[0.0, 5.0, 10.0]).0;
        assert!(line.contains("points=\"0.0,26.0 60.0,14.0 120.0,2.0 \""), "{line}");
        assert!(spark(&[0.0, 0.0]).0.contains("120.0,26.0"));
    }
}
