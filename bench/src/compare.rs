//! `compare`: the figures of two reports side by side, as ratios.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;

use crate::report::{Report, Summary, shown};

#[derive(Args, Clone, Debug)]
pub(crate) struct Compare {
    /// The report to compare with
    #[arg(value_name = "A.json")]
    before: PathBuf,
    /// The report to compare
    #[arg(value_name = "B.json")]
    after: PathBuf,
}

impl Compare {
    pub(crate) fn run(&self) -> Result<()> {
        let (before, after) = (Report::read(&self.before)?, Report::read(&self.after)?);
        for (name, report) in [("A", &before), ("B", &after)] {
            let Report { command, machine, kernel, commit, repeats, .. } = report;
            println!(
                "{name}: {command}\n   on {machine}, Linux {kernel}, commit {commit}; {repeats} repetitions"
            );
        }
        println!("{:<58} {:>10} {:>10} {:>8}", "", "A", "B", "B / A");
        let mut compared = 0;
        for figure in &after.figures {
            let Some(other) = before.figures.iter().find(|other| other.is_same(figure)) else { continue };
            println!("{}", line(other, figure));
            compared += 1;
        }
        let (only_a, only_b) = (before.figures.len() - compared, after.figures.len() - compared);
        if only_a + only_b > 0 {
            println!("{only_a} figures are in A alone, {only_b} in B alone");
        }
        println!("~ marks figures whose ranges overlap: no difference was shown");
        Ok(())
    }
}

fn line(before: &Summary, after: &Summary) -> String {
    let name = format!("{} [{}]", after.full_name(), after.unit);
    let ratio =
        if before.median == 0.0 { "–".to_owned() } else { format!("{:.3}", after.median / before.median) };
    let overlap = before.min <= after.max && after.min <= before.max;
    let mark = if overlap { "~" } else { "" };
    let (before, after) = (shown(before.median), shown(after.median));
    format!("{name:<58} {before:>10} {after:>10} {ratio:>8} {mark}").trim_end().to_owned()
}
