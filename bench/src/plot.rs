//! `plot`: reports as SVG, a panel for each figure, in it a bar for each report and variant: its
//! length the median, the line on it from the least to the most.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::report::{Report, Summary, shown};

/// Pixels of a bar with the space around it, of a panel's head, and across.
const BAR: usize = 22;
const HEAD: usize = 34;
const LABELS: usize = 330;
const BARS: usize = 460;
const VALUES: usize = 110;
/// Colours of the reports, in turn.
const COLOURS: [&str; 6] = ["#4878a8", "#d8803c", "#5a9a5a", "#b05070", "#8070b0", "#909090"];

#[derive(Args, Clone, Debug)]
pub(crate) struct Plot {
    /// Reports to draw
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Where to write the drawing
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Only figures whose name has this in it; repeat for more
    #[arg(long, value_name = "TEXT")]
    figure: Vec<String>,
}

/// A bar: of which report, its label, and its figure.
struct Bar<'a> {
    report: usize,
    label: String,
    figure: &'a Summary,
}

impl Plot {
    pub(crate) fn run(&self) -> Result<()> {
        let reports = self.files.iter().map(|path| Report::read(path)).collect::<Result<Vec<_>>>()?;
        let mut panels: BTreeMap<(String, String), Vec<Bar<'_>>> = BTreeMap::new();
        for (number, (report, path)) in reports.iter().zip(&self.files).enumerate() {
            let file = path.file_stem().context("a report has a name")?.to_string_lossy();
            for figure in report.figures.iter().filter(|figure| self.wants(&figure.name)) {
                let label = [file.as_ref(), &figure.series]
                    .into_iter()
                    .filter(|part| !part.is_empty())
                    .collect::<Vec<_>>();
                let bar = Bar { report: number, label: label.join(", "), figure };
                panels.entry((figure.name.clone(), figure.unit.clone())).or_default().push(bar);
            }
        }
        if panels.is_empty() {
            bail!("no figure of these reports has such a name");
        }
        std::fs::write(&self.out, drawing(&panels)?)
            .with_context(|| format!("{}: cannot be written", self.out.display()))
    }

    fn wants(&self, name: &str) -> bool {
        self.figure.is_empty() || self.figure.iter().any(|text| name.contains(text.as_str()))
    }
}

fn drawing(panels: &BTreeMap<(String, String), Vec<Bar<'_>>>) -> Result<String> {
    let height: usize = panels.values().map(|bars| HEAD + bars.len() * BAR).sum::<usize>() + HEAD / 2;
    let width = LABELS + BARS + VALUES;
    let mut svg = String::new();
    writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>"
    )?;
    let mut top = 0;
    for ((name, unit), bars) in panels {
        writeln!(
            svg,
            "<text x=\"8\" y=\"{}\" font-weight=\"bold\">{}</text>",
            top + 24,
            escaped(&format!("{name} [{unit}]"))
        )?;
        top += HEAD;
        let most = bars.iter().map(|bar| bar.figure.max).fold(f64::MIN_POSITIVE, f64::max);
        for bar in bars {
            draw(&mut svg, bar, top, most)?;
            top += BAR;
        }
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}

fn draw(svg: &mut String, bar: &Bar<'_>, top: usize, most: f64) -> Result<()> {
    let Bar { report, label, figure } = bar;
    // What is below nothing, such as a saving, is drawn as nothing, and its number beside it.
    let length = |value: f64| BARS as f64 * value.max(0.0) / most;
    let (middle, colour) = (top + BAR / 2, COLOURS[report % COLOURS.len()]);
    let end = LABELS as f64 + length(figure.median);
    writeln!(
        svg,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
        LABELS - 8,
        middle + 4,
        escaped(label)
    )?;
    writeln!(
        svg,
        "<rect x=\"{LABELS}\" y=\"{}\" width=\"{:.1}\" height=\"{}\" fill=\"{colour}\"/>",
        top + 3,
        length(figure.median),
        BAR - 6
    )?;
    let (from, to) = (LABELS as f64 + length(figure.min), LABELS as f64 + length(figure.max));
    writeln!(svg, "<path d=\"M{from:.1} {middle}H{to:.1}\" stroke=\"black\" stroke-width=\"1.5\"/>")?;
    let text = end.max(to) + 6.0;
    writeln!(svg, "<text x=\"{text:.1}\" y=\"{}\">{}</text>", middle + 4, shown(figure.median))?;
    Ok(())
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
