//! The report: medians of all repetitions with their extremes, for people and as JSON.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::figures::{Figure, Figures};
use crate::machine;

/// What a benchmark came to.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// The command line, without the program.
    pub(crate) command: String,
    pub(crate) machine: String,
    pub(crate) kernel: String,
    /// Of the source, or `unknown`.
    pub(crate) commit: String,
    pub(crate) repeats: usize,
    pub(crate) figures: Vec<Summary>,
}

/// One figure over all repetitions.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Summary {
    /// Which variant it is of; empty when there is only one.
    pub(crate) series: String,
    pub(crate) name: String,
    pub(crate) unit: String,
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    /// In order of the repetitions.
    pub(crate) values: Vec<f64>,
}

impl Report {
    /// Puts the repetitions together. `binary` is the server's, if one was started.
    pub(crate) fn new(command: String, binary: Option<&Path>, repetitions: Vec<Figures>) -> Self {
        let repeats = repetitions.len();
        let mut figures: Vec<Summary> = Vec::new();
        for figure in repetitions.into_iter().flat_map(Figures::into_all) {
            match figures.iter_mut().find(|summary| summary.is_of(&figure)) {
                Some(summary) => summary.values.push(figure.value),
                None => figures.push(Summary::first(figure)),
            }
        }
        figures.iter_mut().for_each(Summary::settle);
        Self {
            command,
            machine: machine::describe(),
            kernel: machine::kernel(),
            commit: machine::commit(binary),
            repeats,
            figures,
        }
    }

    pub(crate) fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))?;
        serde_json::from_slice(&bytes).with_context(|| format!("{}: no report", path.display()))
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        std::fs::write(path, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("{}: cannot be written", path.display()))
    }
}

impl Summary {
    fn first(figure: Figure) -> Self {
        let Figure { series, name, unit, value } = figure;
        Self {
            series,
            name,
            unit: unit.to_owned(),
            median: value,
            min: value,
            max: value,
            values: vec![value],
        }
    }

    /// Whether both are of the same variant, name and unit.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        (&self.series, &self.name, &self.unit) == (&other.series, &other.name, &other.unit)
    }

    /// With the variant it is of.
    pub(crate) fn full_name(&self) -> String {
        if self.series.is_empty() { self.name.clone() } else { format!("{}: {}", self.series, self.name) }
    }

    fn is_of(&self, figure: &Figure) -> bool {
        self.series == figure.series && self.name == figure.name && self.unit == figure.unit
    }

    fn settle(&mut self) {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let (middle, count) = (sorted.len() / 2, sorted.len());
        self.median = if count.is_multiple_of(2) {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        } else {
            sorted[middle]
        };
        (self.min, self.max) = (sorted[0], sorted[count - 1]);
    }
}

/// A number with as many digits as it deserves.
pub(crate) fn shown(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 || v == 0.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { command, machine, kernel, commit, repeats, figures } = self;
        writeln!(f, "{command}")?;
        write!(f, "on {machine}, Linux {kernel}, commit {commit}; {repeats} repetitions, median [min max]")?;
        let mut series = "";
        for figure in figures {
            if figure.series != series {
                series = &figure.series;
                write!(f, "\n {series}")?;
            }
            let range = match figure.values.len() {
                1 => String::new(),
                _ => format!("[{} {}]", shown(figure.min), shown(figure.max)),
            };
            let line =
                format!("{:<50} {:>10} {:<12} {range}", figure.name, shown(figure.median), figure.unit);
            write!(f, "\n  {}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repetition(series: &str, value: f64) -> Figures {
        let mut figures = Figures::default();
        figures.series(series);
        figures.put("steps", "/s", value);
        figures
    }

    #[test]
    fn repetitions_of_a_figure_are_one_with_its_median_and_extremes() {
        let repetitions = [("a", 3.0), ("b", 7.0), ("a", 1.0), ("a", 10.0), ("a", 4.0)];
        let repetitions = repetitions.map(|(series, value)| repetition(series, value)).into();
        let report = Report::new("test".into(), None, repetitions);
        let told: Vec<_> =
            report.figures.iter().map(|f| (f.series.as_str(), f.median, f.min, f.max)).collect();
        assert_eq!(told, [("a", 3.5, 1.0, 10.0), ("b", 7.0, 7.0, 7.0)]);
        assert_eq!(report.figures[0].values, [3.0, 1.0, 10.0, 4.0]);
    }
}
