//! A run as one page of HTML that needs nothing else: verdicts, what was done to the nodes and when,
//! what clients saw meanwhile, and the command that does it again.

mod plot;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

use crate::checkers::bounds::Usage;
use crate::history::{Harm, Operation, Outcome};

/// One number of what a node takes.
type Measure = fn(&Usage) -> f64;

/// All that a report tells.
pub(crate) struct Report {
    pub(crate) title: String,
    /// Does the same again.
    pub(crate) command: String,
    /// What was looked for, whether it held, and what is to be said of it.
    pub(crate) verdicts: Vec<(String, bool, String)>,
    pub(crate) harms: Vec<Harm>,
    pub(crate) operations: Vec<Operation>,
    pub(crate) operations_left_out: usize,
    /// Answers other than success, and how often each came.
    pub(crate) answers: BTreeMap<String, usize>,
    pub(crate) usages: Vec<Usage>,
    /// How long clients worked.
    pub(crate) length: Duration,
}

const STYLE: &str = "
:root { color-scheme: light dark; --good: #2e7d32; --bad: #c62828; --odd: #b26a00; --line: #8888; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
pre { overflow-x: auto; padding: .7rem; border: 1px solid var(--line); border-radius: 4px; white-space: pre-wrap; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; padding: .2rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; overflow-wrap: anywhere; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.good { color: var(--good); } .bad { color: var(--bad); font-weight: bold; }
svg { width: 100%; height: auto; font: 10px system-ui, sans-serif; } svg text { fill: currentColor; }
.grid { stroke: var(--line); stroke-width: .5; } .harm { fill: var(--bad); fill-opacity: .35; stroke: var(--bad); }
.acknowledged { fill: var(--good); } .unknown { fill: var(--bad); } .refused { fill: var(--odd); }
.key { font-size: .85rem; }
";

/// Text as it may stand anywhere in the page, in attributes too.
pub(crate) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            // What would turn the direction of the text around, or is no character of a page.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => safe.push('\u{fffd}'),
            c if c.is_control() && c != '\n' && c != '\t' => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}

impl Report {
    /// The page.
    pub(crate) fn html(&self) -> String {
        let broken = self.verdicts.iter().filter(|(_, held, _)| !held).count();
        let verdict = match broken {
            0 => "<p class=\"good\">Every promise was kept.</p>".to_owned(),
            n => format!("<p class=\"bad\">{n} of {} promises were broken.</p>", self.verdicts.len()),
        };
        let title = escape(&self.title);
        let mut page = format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
             <title>{title}</title><style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n{verdict}\n\
             <h2>Again</h2>\n<pre>{}</pre>\n",
            escape(&self.command)
        );
        page.push_str(&self.verdicts_table());
        page.push_str(
            "<h2>What happened when</h2>\n<p class=\"key\">Requests: <span class=\"good\">\
            acknowledged</span>, refused, <span class=\"bad\">unknown</span>; time in seconds.</p>\n",
        );
        page.push_str(&plot::timeline(&self.harms, self.length));
        page.push_str("<h3>Requests in a second</h3>\n");
        page.push_str(&plot::throughput(&self.operations, &self.harms, self.length));
        page.push_str("<h3>Time until the answer</h3>\n");
        page.push_str(&plot::latency(&self.operations, &self.harms, self.length));
        page.push_str(&self.latency_table());
        page.push_str(&self.answers_table());
        page.push_str(&self.harms_table());
        page.push_str(&self.usage_plots());
        page.push_str("</body></html>\n");
        page
    }

    fn verdicts_table(&self) -> String {
        let mut table = String::from("<h2>Promises</h2>\n<table>\n");
        for (what, held, told) in &self.verdicts {
            let (class, word) = if *held { ("good", "kept") } else { ("bad", "broken") };
            let (what, told) = (escape(what), escape(told).replace('\n', "<br>"));
            table.push_str(&format!(
                "<tr><td class=\"{class}\">{word}</td><td>{what}</td><td>{told}</td></tr>\n"
            ));
        }
        table + "</table>\n"
    }

    fn latency_table(&self) -> String {
        let mut table = String::from(
            "<table>\n<tr><th>request</th><th class=\"n\">acknowledged</th><th class=\"n\">refused</th>\
             <th class=\"n\">unknown</th><th class=\"n\">p50 ms</th><th class=\"n\">p90</th><th class=\"n\">p99</th>\
             <th class=\"n\">longest</th></tr>\n",
        );
        let names: BTreeSet<&str> = self.operations.iter().map(|one| one.name).collect();
        for name in names {
            let of_name = || self.operations.iter().filter(|one| one.name == name);
            let count = |outcome| of_name().filter(|one| one.outcome == outcome).count();
            let mut times: Vec<Duration> =
                of_name().filter(|one| one.outcome == Outcome::Acknowledged).map(|one| one.took).collect();
            times.sort_unstable();
            let _ = write!(table, "<tr><td>{}</td>", escape(name));
            for outcome in [Outcome::Acknowledged, Outcome::Refused, Outcome::Unknown] {
                let _ = write!(table, "<td class=\"n\">{}</td>", count(outcome));
            }
            for percent in [50, 90, 99, 100] {
                let _ = write!(table, "<td class=\"n\">{}</td>", percentile(&times, percent));
            }
            table.push_str("</tr>\n");
        }
        table.push_str("</table>\n");
        if self.operations_left_out > 0 {
            let _ = writeln!(table, "<p>{} requests more are not shown.</p>", self.operations_left_out);
        }
        table
    }

    fn answers_table(&self) -> String {
        let mut table = String::from("<h2>Answers other than success</h2>\n<table>\n");
        for (answer, times) in &self.answers {
            let _ = writeln!(table, "<tr><td>{}</td><td class=\"n\">{times}</td></tr>", escape(answer));
        }
        table + "</table>\n"
    }

    fn harms_table(&self) -> String {
        let mut table = String::from(
            "<h2>Faults</h2>\n<table>\n<tr><th class=\"n\">from s</th><th class=\"n\">to</th><th>what</th></tr>\n",
        );
        for harm in &self.harms {
            let to = harm.to.map_or("never".to_owned(), |to| format!("{:.2}", to.as_secs_f64()));
            let (from, what) = (harm.from.as_secs_f64(), escape(&harm.what));
            let _ = writeln!(
                table,
                "<tr><td class=\"n\">{from:.2}</td><td class=\"n\">{to}</td><td>{what}</td></tr>"
            );
        }
        table + "</table>\n"
    }

    fn usage_plots(&self) -> String {
        let mut plots = String::from("<h2>What the nodes took</h2>\n");
        let kinds: [(&str, Measure); 3] = [
            ("Memory, MB", |one| (one.memory_bytes >> 20) as f64),
            ("Open files", |one| one.files as f64),
            ("Disk, MB", |one| (one.disk_bytes >> 20) as f64),
        ];
        for (title, of) in kinds {
            let mut lines: BTreeMap<&str, Vec<(Duration, f64)>> = BTreeMap::new();
            for one in &self.usages {
                lines.entry(&one.node).or_default().push((one.at, of(one)));
            }
            let _ = writeln!(plots, "<h3>{title}</h3>\n{}", plot::lines(&lines, self.length));
        }
        plots
    }
}

/// In milliseconds, of what is sorted; a dash for nothing.
fn percentile(sorted: &[Duration], percent: usize) -> String {
    let place = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(place).map_or("–".to_owned(), |time| format!("{:.1}", time.as_secs_f64() * 1_000.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let harm = |what: &str, from, to: Option<u64>| Harm {
            what: what.into(),
            from: Duration::from_secs(from),
            to: to.map(Duration::from_secs),
        };
        let operation = |ms: u64, outcome| Operation {
            name: "submit",
            begun: Duration::from_millis(ms * 10),
            took: Duration::from_millis(ms),
            outcome,
        };
        let mut operations: Vec<_> = (1..=100).map(|ms| operation(ms, Outcome::Acknowledged)).collect();
        operations.push(operation(800, Outcome::Unknown));
        Report {
            title: "<script>alert(1)</script>".into(),
            command: "jepsen-lite --seed 7 'a b'".into(),
            verdicts: vec![("a <b> promise".into(), false, "broken by \"x\" & 'y'\u{202e}".into())],
            harms: vec![harm("Kill <of> [0]", 1, Some(2)), harm("Pause", 3, None)],
            operations,
            operations_left_out: 3,
            answers: BTreeMap::from([("503 <UNAVAILABLE>".into(), 2)]),
            usages: vec![Usage {
                at: Duration::from_secs(1),
                node: "127.0.0.1:1\"<".into(),
                memory_bytes: 5 << 20,
                files: 7,
                disk_bytes: 9 << 20,
            }],
            length: Duration::from_secs(10),
        }
    }

    #[test]
    fn nothing_that_was_told_becomes_markup() {
        let page = report().html();
        for wrong in ["<script", "<of>", "<UNAVAILABLE", "<b>", "\u{202e}", "1\"<"] {
            assert!(!page.contains(wrong), "{wrong}");
        }
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
        assert!(page.contains("jepsen-lite --seed 7 &#39;a b&#39;"));
    }

    #[test]
    fn a_page_tells_all_and_needs_nothing_else() {
        let page = report().html();
        let wanted =
            ["1 of 1 promises were broken", ">50.0<", ">99.0<", ">100.0<", "3 requests more", "never"];
        for wanted in wanted {
            assert!(page.contains(wanted), "{wanted}: {page}");
        }
        for wrong in ["http://", "https://", "src=", "href=", "NaN", "inf"] {
            let is_name = wrong == "http://" && page.contains("xmlns");
            assert!(is_name || !page.contains(wrong), "{wrong}");
        }
        assert_eq!(page.matches("<svg").count(), 6);
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    }

    #[test]
    fn percentiles_are_of_what_there_is() {
        let times: Vec<Duration> = (1..=4).map(Duration::from_millis).collect();
        assert_eq!(percentile(&times, 50), "2.0");
        assert_eq!(percentile(&times, 99), "4.0");
        assert_eq!(percentile(&[], 50), "–");
    }
}
