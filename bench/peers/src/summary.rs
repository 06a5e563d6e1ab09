//! What the trials came to: medians with the least and the most, and ratios within rounds.

use std::collections::BTreeSet;
use std::fmt;

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use opcode_peers::load::Measured;
use serde::Serialize;

/// One engine under one load in one round.
#[derive(Serialize)]
pub(crate) struct Trial {
    pub(crate) round: u32,
    pub(crate) open: usize,
    pub(crate) engine: String,
    pub(crate) is_ours: bool,
    #[serde(flatten)]
    pub(crate) outcome: Outcome,
}

#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    Measured(Measured),
    /// The engine, or one of its runs, failed: why
    Failed(String),
}

impl Trial {
    fn measured(&self) -> Option<&Measured> {
        match &self.outcome {
            Outcome::Measured(measured) => Some(measured),
            Outcome::Failed(_) => None,
        }
    }
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "round {}, {} open, {}: ", self.round, self.open, self.engine)?;
        match &self.outcome {
            Outcome::Measured(one) => write!(
                f,
                "{} runs completed, {:.0} steps/s, p50 {:.2} ms",
                one.runs, one.steps_per_s, one.p50_ms
            ),
            Outcome::Failed(why) => write!(f, "FAILED: {why}"),
        }
    }
}

/// A figure of a trial.
struct Figure {
    name: &'static str,
    of: fn(&Measured) -> Option<f64>,
    /// Whether engines are compared by it.
    is_compared: bool,
}

const FIGURES: &[Figure] = &[
    Figure { name: "steps/s", of: |one| Some(one.steps_per_s), is_compared: true },
    Figure { name: "p50 ms", of: |one| Some(one.p50_ms), is_compared: true },
    Figure { name: "p99 ms", of: |one| Some(one.p99_ms), is_compared: true },
    Figure { name: "CPU µs/step, server", of: |one| Some(one.server.cpu_us_per_step), is_compared: true },
    Figure {
        name: "CPU µs/step, service", of: |one| Some(one.service?.cpu_us_per_step), is_compared: false
    },
    Figure {
        name: "CPU µs/step, both",
        of: |one| Some(one.server.cpu_us_per_step + one.service.map_or(0.0, |s| s.cpu_us_per_step)),
        is_compared: true,
    },
    Figure { name: "peak MB, server", of: |one| Some(one.server.peak_mb), is_compared: true },
    Figure { name: "peak MB, service", of: |one| Some(one.service?.peak_mb), is_compared: false },
    Figure { name: "syncs/run", of: |one| one.syncs_per_run, is_compared: true },
];

/// Figures of several rounds.
#[derive(Serialize)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
    rounds: usize,
}

impl Spread {
    fn of(mut all: Vec<f64>) -> Option<Self> {
        all.sort_by(f64::total_cmp);
        let (&min, &max) = (all.first()?, all.last()?);
        let middle = all.len() / 2;
        let median =
            if all.len() % 2 == 1 { all[middle] } else { f64::midpoint(all[middle - 1], all[middle]) };
        Some(Self { median, min, max, rounds: all.len() })
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}–{})", short(self.median), short(self.min), short(self.max))
    }
}

/// A number to three digits, or to its unit.
fn short(number: f64) -> String {
    match number.abs() {
        size if size >= 100.0 => format!("{number:.0}"),
        size if size >= 10.0 => format!("{number:.1}"),
        size if size >= 1.0 => format!("{number:.2}"),
        _ => format!("{number:.3}"),
    }
}

/// One engine at one load, over all rounds; or one of ours by one of theirs.
#[derive(Serialize)]
pub(crate) struct Row {
    open: usize,
    engine: String,
    /// What it is divided by.
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    figures: Vec<Value>,
}

#[derive(Serialize)]
struct Value {
    figure: &'static str,
    /// `None` where there is no such figure.
    spread: Option<Spread>,
}

/// Numbers of open runs, and engines, ours or theirs.
fn loads(trials: &[Trial]) -> BTreeSet<usize> {
    trials.iter().map(|trial| trial.open).collect()
}

fn engines(trials: &[Trial], wanted: impl Fn(&Trial) -> bool) -> BTreeSet<&str> {
    trials.iter().filter(|trial| wanted(trial)).map(|trial| trial.engine.as_str()).collect()
}

/// A figure of an engine at a load, with its round.
fn each<'a>(
    trials: &'a [Trial],
    open: usize,
    engine: &'a str,
    figure: &'a Figure,
) -> impl Iterator<Item = (u32, f64)> + 'a {
    let of_it = trials.iter().filter(move |trial| trial.open == open && trial.engine == engine);
    of_it.filter_map(|trial| Some((trial.round, (figure.of)(trial.measured()?)?)))
}

/// Each engine at each load.
pub(crate) fn medians(trials: &[Trial]) -> Vec<Row> {
    let mut rows = Vec::new();
    for open in loads(trials) {
        for engine in engines(trials, |_| true) {
            let spread =
                |figure| Spread::of(each(trials, open, engine, figure).map(|(_, number)| number).collect());
            let figures = FIGURES.iter().map(|figure| Value { figure: figure.name, spread: spread(figure) });
            rows.push(Row { open, engine: engine.to_owned(), by: None, figures: figures.collect() });
        }
    }
    rows
}

/// Each of ours by each of theirs, round by round.
pub(crate) fn ratios(trials: &[Trial]) -> Vec<Row> {
    let mut rows = Vec::new();
    for open in loads(trials) {
        for engine in engines(trials, |trial| trial.is_ours) {
            for by in engines(trials, |trial| !trial.is_ours) {
                let spread = |figure| {
                    let ratio = |(round, ours): (u32, f64)| {
                        let (_, theirs) = each(trials, open, by, figure).find(|(of, _)| *of == round)?;
                        (theirs > 0.0).then_some(ours / theirs)
                    };
                    Spread::of(each(trials, open, engine, figure).filter_map(ratio).collect())
                };
                let compared = FIGURES.iter().filter(|figure| figure.is_compared);
                let figures = compared.map(|figure| Value { figure: figure.name, spread: spread(figure) });
                let (engine, by) = (engine.to_owned(), Some(by.to_owned()));
                rows.push(Row { open, engine, by, figures: figures.collect() });
            }
        }
    }
    rows
}

/// Everything, for people.
pub(crate) fn text(trials: &[Trial]) -> String {
    let mut text = String::from("Medians (least–most):\n");
    text += &table(&medians(trials));
    text += "\nOurs divided by theirs, within each round; medians (least–most):\n";
    text += &table(&ratios(trials));
    text.push('\n');
    for trial in trials.iter().filter(|trial| trial.measured().is_none()) {
        text += &format!("{trial}\n");
    }
    text
}

fn table(rows: &[Row]) -> String {
    let Some(first) = rows.first() else { return "none".to_owned() };
    let mut table = Table::new();
    table.load_style(NOTHING);
    let names = first.figures.iter().map(|value| value.figure.to_owned());
    table.set_header(["open".to_owned(), "engine".to_owned()].into_iter().chain(names));
    for row in rows {
        let name = row.by.as_ref().map_or(row.engine.clone(), |by| format!("{} / {by}", row.engine));
        let cells =
            row.figures.iter().map(|value| value.spread.as_ref().map_or("–".to_owned(), Spread::to_string));
        table.add_row([row.open.to_string(), name].into_iter().chain(cells));
    }
    for column in table.column_iter_mut() {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_lies_in_the_middle() {
        let of = |all: &[f64]| Spread::of(all.to_vec()).unwrap().to_string();
        assert_eq!(of(&[3.0, 1.0, 200.0]), "3.00 (1.00–200)");
        assert_eq!(of(&[1.0, 2.0]), "1.50 (1.00–2.00)");
        assert!(Spread::of(Vec::new()).is_none());
    }
}
