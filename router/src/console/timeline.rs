//! Steps in time: for each a bar, of the stretches in which it waited for its turn, worked, rested before
//! another attempt, or waited for the outside. Stretches differ in height and pattern, not in colour alone.

use std::collections::BTreeMap;
use std::fmt::Write;

use opcode_engine::ids::Timestamp;

use super::contract::Items;
use super::markup::{Markup, badge, cut, now, number, short, span};
use super::run::{Event, Run, Step, step_url};
use super::visit::encoded;

/// Rows of a page.
const ROWS: usize = 250;
/// Width of a bar's field, in its own units.
const WIDTH: f64 = 1_000.0;
/// Longest result in a row, in characters.
const RESULT_CHARS: usize = 100;

/// The steps of a run, as they are shown.
pub(super) struct Steps {
    pub(super) diagram: Markup,
    pub(super) rows: Vec<Row>,
    pub(super) scale: String,
    pub(super) left_out: Option<String>,
    pub(super) next: Option<String>,
    pub(super) legend: [(&'static str, &'static str); 5],
}

pub(super) struct Row {
    pub(super) id: String,
    pub(super) url: String,
    pub(super) status: Markup,
    pub(super) bar: Markup,
    pub(super) attempts: String,
    pub(super) took: String,
    pub(super) child: Option<String>,
    pub(super) result: String,
}

/// What a stretch is: the class of its bar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Queue,
    Work,
    Failed,
    Rest,
    Outside,
}

impl Kind {
    /// Class, name, and height and top of 14.
    fn shape(self) -> (&'static str, &'static str, u8, u8) {
        match self {
            Self::Queue => ("t-queue", "waits for its turn", 3, 6),
            Self::Work => ("t-work", "works", 12, 1),
            Self::Failed => ("t-failed", "an attempt that failed", 12, 1),
            Self::Rest => ("t-rest", "rests before another attempt", 5, 5),
            Self::Outside => ("t-outside", "waits for the outside", 8, 3),
        }
    }
}

const LEGEND: [(&str, &str); 5] = [
    ("t-queue", "waits for its turn"),
    ("t-work", "works"),
    ("t-failed", "an attempt that failed"),
    ("t-rest", "rests before another attempt"),
    ("t-outside", "waits for a decision, a signal or an operator"),
];

/// A stretch of time, in ms since the epoch.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stretch {
    kind: Kind,
    from: i64,
    to: i64,
}

/// The rows from the one at `from` on.
pub(super) fn steps(run: &Run, events: &Items<Event>, diagram: Markup, from: usize) -> Steps {
    let end = time(run.completed_at.as_deref()).unwrap_or_else(|| now().0);
    let begin = time(run.started_at.as_deref().or(Some(&run.created_at))).unwrap_or(end);
    let all = stretches(&events.items, end);
    let total = run.steps.0.len();
    let scale = (begin, (end - begin).max(1) as f64);
    let shown = run.steps.0.iter().skip(from).take(ROWS);
    let rows = shown.map(|(id, step)| row(run, id, step, all.get(id.as_str()), scale, end)).collect();
    let upto = (from + ROWS).min(total);
    let events_left = events.next_cursor.is_some();
    let left_out = match (total > ROWS, events_left) {
        (false, false) => None,
        (true, _) => Some(format!("Steps {} to {upto} of {}.", from + 1, number(total as u64))),
        (false, true) => Some("The bars show the first 1000 events; the states are those of now.".to_owned()),
    };
    let next =
        (upto < total).then(|| format!("/console/workflows/{}?from={upto}", encoded(&run.workflow_id)));
    let scale = format!(
        "{} from begin to {}",
        span((end - begin).max(0).unsigned_abs()),
        if run.completed_at.is_some() { "end" } else { "now" }
    );
    Steps { diagram, rows, scale, left_out, next, legend: LEGEND }
}

fn time(time: Option<&str>) -> Option<i64> {
    Some(Timestamp::parse_rfc3339(time?).ok()?.0)
}

fn row(run: &Run, id: &str, step: &Step, known: Option<&Vec<Stretch>>, scale: (i64, f64), end: i64) -> Row {
    // Of a step whose events are not here, what its document says.
    let told: Vec<Stretch> = time(step.started_at.as_deref())
        .map(|from| Stretch { kind: Kind::Work, from, to: time(step.completed_at.as_deref()).unwrap_or(end) })
        .into_iter()
        .collect();
    let result = match (&step.error, &step.output) {
        (Some(error), _) if !error.is_null() => error
            .get("message")
            .map_or_else(|| short(error, RESULT_CHARS), |message| short(message, RESULT_CHARS)),
        (_, Some(output)) => short(output, RESULT_CHARS),
        (_, None) => String::new(),
    };
    Row {
        id: id.to_owned(),
        url: step_url(&run.workflow_id, id),
        status: badge(&step.status),
        bar: bar(known.unwrap_or(&told), scale),
        attempts: if step.attempts > 0 { step.attempts.to_string() } else { String::new() },
        took: step.duration_ms.map(span).unwrap_or_default(),
        child: step.child.clone(),
        result: cut(&result, RESULT_CHARS),
    }
}

fn bar(stretches: &[Stretch], (begin, length): (i64, f64)) -> Markup {
    // Of a step that has not begun there is nothing to draw, and nothing to say of it.
    if stretches.is_empty() {
        return Markup::default();
    }
    let mut text = format!(
        "<svg class=\"bar\" viewBox=\"0 0 {WIDTH} 14\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\""
    );
    let told: Vec<String> = stretches
        .iter()
        .map(|stretch| {
            format!("{} {}", stretch.kind.shape().1, span((stretch.to - stretch.from).max(0).unsigned_abs()))
        })
        .collect();
    let _ = write!(text, "{}\">", told.join(", "));
    for stretch in stretches {
        let (class, name, height, top) = stretch.kind.shape();
        let at = |time: i64| ((time - begin) as f64 / length * WIDTH).clamp(0.0, WIDTH);
        let (x, to) = (at(stretch.from), at(stretch.to));
        // What is too short to be seen is shown all the same.
        let width = (to - x).max(3.0);
        let x = x.min(WIDTH - width);
        let _ = write!(
            text,
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{top}\" width=\"{width:.1}\" height=\"{height}\"><title>{name}: {}</title></rect>",
            span((stretch.to - stretch.from).max(0).unsigned_abs()),
        );
    }
    text.push_str("</svg>");
    Markup(text)
}

/// The stretches of every step, by what the events say; one that is not over goes on until `end`.
fn stretches(events: &[Event], end: i64) -> BTreeMap<&str, Vec<Stretch>> {
    let mut steps = BTreeMap::<&str, (Vec<Stretch>, Option<_>)>::new();
    for event in events {
        let (Some(step), Some(at)) = (event.step_id.as_deref(), time(Some(&event.timestamp))) else {
            continue;
        };
        let (done, open) = steps.entry(step).or_default();
        let (closes_as, opens) = match event.r#type.as_str() {
            "step_scheduled" => (None, Some(Kind::Queue)),
            "step_started" | "step_retry_attempt" => (None, Some(Kind::Work)),
            "step_retrying" => (Some(Kind::Failed), Some(Kind::Rest)),
            "step_suspended" => (None, Some(Kind::Outside)),
            "step_failed" => (Some(Kind::Failed), None),
            "step_completed" | "step_skipped" | "step_ignored" => (None, None),
            _ => continue,
        };
        if let Some((kind, from)) = open.take() {
            let kind = closes_as.filter(|_| kind == Kind::Work).unwrap_or(kind);
            done.push(Stretch { kind, from, to: at });
        }
        *open = opens.map(|kind| (kind, at));
    }
    let whole = steps.into_iter().map(|(step, (mut done, open))| {
        done.extend(open.map(|(kind, from)| Stretch { kind, from, to: end }));
        (step, done)
    });
    whole.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, ms: i64) -> Event {
        let timestamp = Timestamp(ms).to_rfc3339();
        serde_json::from_value(serde_json::json!({
            "sequence": 1, "type": kind, "step_id": "a", "agent_id": null, "timestamp": timestamp
        }))
        .unwrap()
    }

    #[test]
    fn attempts_and_rests_are_told_apart() {
        let events = [
            event("step_scheduled", 0),
            event("step_started", 10),
            event("step_retrying", 30),
            event("step_retry_attempt", 50),
            event("step_completed", 90),
            event("step_scheduled", 95),
        ];
        let told: Vec<(Kind, i64, i64)> =
            stretches(&events, 100)["a"].iter().map(|s| (s.kind, s.from, s.to)).collect();
        let expected = [
            (Kind::Queue, 0, 10),
            (Kind::Failed, 10, 30),
            (Kind::Rest, 30, 50),
            (Kind::Work, 50, 90),
            (Kind::Queue, 95, 100),
        ];
        assert_eq!(told, expected);
        let drawn = bar(&stretches(&events, 100)["a"], (0, 100.0)).0;
        assert!(drawn.contains("x=\"100.0\" y=\"1\" width=\"200.0\""), "{drawn}");
    }
}
