//! The plots of a report, as SVG within the page. All share the axis of time.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use super::escape;
use crate::history::{Harm, Operation, Outcome};

/// The picture, in units of its own, and where the plot begins and ends in it.
const WIDTH: f64 = 1_000.0;
const LEFT: f64 = 50.0;
const RIGHT: f64 = 990.0;
const HEIGHT: f64 = 220.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 195.0;
/// A row of the timeline, and how many there are at most; what finds none is drawn in the last.
const ROW: f64 = 16.0;
const ROWS_MAX: usize = 12;
/// A fault is at least as wide as this, so that it can be seen.
const WIDTH_MIN: f64 = 2.0;
/// Letters that fit into a unit of width, roughly.
const LETTERS_A_UNIT: f64 = 0.18;
/// Requests that are drawn one by one; of more, as many, and every unknown one.
const DOTS_MAX: usize = 6_000;
/// What times are drawn between, in ms; shorter and longer ones stand at the edge.
const LATENCY_MS: (f64, f64) = (0.5, 20_000.0);
const COLOURS: [&str; 6] = ["#1565c0", "#c62828", "#2e7d32", "#b26a00", "#6a1b9a", "#00838f"];

/// The axis of time.
struct Axis {
    seconds: f64,
}

impl Axis {
    fn new(length: Duration) -> Self {
        Self { seconds: length.as_secs_f64().max(1.0) }
    }

    fn x(&self, at: Duration) -> f64 {
        LEFT + (RIGHT - LEFT) * (at.as_secs_f64() / self.seconds).min(1.0)
    }

    /// Lines at whole seconds, with their numbers.
    fn grid(&self, bottom: f64) -> String {
        let mut step = 1_u32;
        while self.seconds / f64::from(step) > 20.0 {
            step *= if step.to_string().starts_with('2') { 5 } else { 2 };
        }
        let mut svg = String::new();
        let mut at = 0_u32;
        while f64::from(at) <= self.seconds {
            let x = self.x(Duration::from_secs(at.into()));
            let _ = write!(
                svg,
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>\
                 <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{at}</text>",
                bottom + 13.0
            );
            at += step;
        }
        svg
    }

    /// Where something was wrong.
    fn shade(&self, harms: &[Harm], length: Duration) -> String {
        let mut svg = String::new();
        for harm in harms {
            let (from, to) = (self.x(harm.from), self.x(harm.to.unwrap_or(length)));
            let (width, height) = ((to - from).max(WIDTH_MIN), BOTTOM - TOP);
            let _ = write!(
                svg,
                "<rect x=\"{from:.1}\" y=\"{TOP}\" width=\"{width:.1}\" height=\"{height}\" fill=\"#c62828\" fill-opacity=\".07\"/>"
            );
        }
        svg
    }
}

fn picture(height: f64, label: &str, inside: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">{inside}</svg>\n",
        escape(label)
    )
}

/// Numbers at the left, of values that become heights.
fn scale(values: &[f64], y: impl Fn(f64) -> f64) -> String {
    let mut svg = String::new();
    for value in values {
        let y = y(*value);
        let _ = write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
            LEFT - 4.0,
            y + 3.0
        );
    }
    svg
}

/// Every fault, from when to when; those at the same time below each other.
pub(super) fn timeline(harms: &[Harm], length: Duration) -> String {
    let axis = Axis::new(length);
    let mut ends: Vec<f64> = Vec::new();
    let mut bars = String::new();
    for harm in harms {
        let from = axis.x(harm.from);
        let width = (axis.x(harm.to.unwrap_or(length)) - from).max(WIDTH_MIN);
        let letters = harm.what.chars().take(24).count();
        let end = from + width.max(letters as f64 / LETTERS_A_UNIT);
        let free = ends.iter().position(|end| *end <= from);
        let row = free.unwrap_or_else(|| {
            if ends.len() < ROWS_MAX {
                ends.push(0.0);
            }
            ends.len() - 1
        });
        ends[row] = end;
        let (y, short) = (TOP + row as f64 * ROW, harm.what.chars().take(24).collect::<String>());
        let _ = write!(
            bars,
            "<g><title>{}</title><rect class=\"harm\" x=\"{from:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text></g>",
            escape(&harm.what),
            ROW - 4.0,
            from + 3.0,
            y + 10.0,
            escape(&short)
        );
    }
    let bottom = TOP + ROW * ends.len().max(1) as f64;
    picture(bottom + 20.0, "Faults over time", &(axis.grid(bottom) + &bars))
}

/// Requests that ended in each second, by outcome.
pub(super) fn throughput(operations: &[Operation], harms: &[Harm], length: Duration) -> String {
    let axis = Axis::new(length);
    let seconds = length.as_secs() + 1;
    let mut counts: BTreeMap<u64, [f64; 3]> = BTreeMap::new();
    for one in operations {
        let second = (one.begun + one.took).as_secs().min(seconds);
        let outcome = match one.outcome {
            Outcome::Acknowledged => 0,
            Outcome::Refused => 1,
            Outcome::Unknown => 2,
        };
        counts.entry(second).or_default()[outcome] += 1.0;
    }
    let most = counts.values().map(|of| of.iter().sum::<f64>()).fold(1.0, f64::max);
    let y = |value: f64| BOTTOM - (BOTTOM - TOP) * value / most;
    let mut bars = axis.shade(harms, length);
    for (second, of) in &counts {
        let (from, to) = (axis.x(Duration::from_secs(*second)), axis.x(Duration::from_secs(second + 1)));
        let (mut below, width) = (0.0, (to - from - 0.5).max(0.5));
        for (class, count) in
            ["acknowledged", "refused", "unknown"].iter().zip(of).filter(|(_, count)| **count > 0.0)
        {
            let (top, height) = (y(below + count), (BOTTOM - TOP) * count / most);
            let _ = write!(
                bars,
                "<rect class=\"{class}\" x=\"{from:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\">\
                 <title>second {second}: {count} {class}</title></rect>"
            );
            below += count;
        }
    }
    let svg = axis.grid(BOTTOM) + &scale(&[0.0, (most / 2.0).round(), most], y) + &bars;
    picture(HEIGHT, "Requests in a second", &svg)
}

/// Every request by when it began and how long it took, on a logarithmic scale.
pub(super) fn latency(operations: &[Operation], harms: &[Harm], length: Duration) -> String {
    let axis = Axis::new(length);
    let (least, most) = LATENCY_MS;
    let y = |ms: f64| {
        let part = (ms.clamp(least, most) / least).ln() / (most / least).ln();
        BOTTOM - (BOTTOM - TOP) * part
    };
    let every = operations.len().div_ceil(DOTS_MAX).max(1);
    let mut dots = axis.shade(harms, length);
    for (number, one) in operations.iter().enumerate() {
        let (class, radius) = match one.outcome {
            Outcome::Acknowledged => ("acknowledged", 1.2),
            Outcome::Refused => ("refused", 1.5),
            Outcome::Unknown => ("unknown", 2.0),
        };
        if number % every == 0 || one.outcome == Outcome::Unknown {
            let (x, y) = (axis.x(one.begun), y(one.took.as_secs_f64() * 1_000.0));
            let _ = write!(
                dots,
                "<circle class=\"{class}\" fill-opacity=\".6\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\"/>"
            );
        }
    }
    let svg = axis.grid(BOTTOM) + &scale(&[1.0, 10.0, 100.0, 1_000.0, 10_000.0], y) + &dots;
    picture(HEIGHT, "Time until the answer in ms", &svg)
}

/// One line for each name.
pub(super) fn lines(all: &BTreeMap<&str, Vec<(Duration, f64)>>, length: Duration) -> String {
    let axis = Axis::new(length);
    let most = all.values().flatten().map(|(_, value)| *value).fold(1.0, f64::max);
    let y = |value: f64| BOTTOM - (BOTTOM - TOP) * value / most;
    let mut svg = axis.grid(BOTTOM) + &scale(&[0.0, (most / 2.0).round(), most], y);
    for ((name, points), colour) in all.iter().zip(COLOURS.iter().cycle()) {
        let mut path = String::new();
        for (at, value) in points {
            let _ = write!(path, "{:.1},{:.1} ", axis.x(*at), y(*value));
        }
        let _ = write!(
            svg,
            "<polyline fill=\"none\" stroke=\"{colour}\" points=\"{}\"><title>{}</title></polyline>",
            path.trim_end(),
            escape(name)
        );
    }
    picture(HEIGHT, "Over time", &svg)
}
