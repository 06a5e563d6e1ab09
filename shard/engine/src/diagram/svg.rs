//! SVG: every step a box, with what is inside it in it. Its state is a colour, an icon and a word, and
//! a pattern where it asks for somebody, so that no reader has to tell colours apart.
//!
//! The colours are classes, and stand in one `<style>` at the top: a page that has the picture in it
//! may take that out and give its own.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::layout::{Layout, Line, Node, layered};
use super::{Scope, hooks, label, scopes};
use crate::definition::{Definition, OnError, StepSpec};

/// Size of a box without anything inside, in pixels.
const BOX_WIDTH: f64 = 208.0;
const BOX_HEIGHT: f64 = 50.0;
/// Space around what is inside a box, between lanes, and between the steps of a lane.
const PADDING: f64 = 12.0;
const GAP: f64 = 22.0;
/// Height of a lane's name.
const LANE_NAME: f64 = 20.0;
/// Lanes stand side by side up to about this width.
const LANES_WIDTH: f64 = 1_400.0;
/// Space around the picture.
const MARGIN: f64 = 16.0;
/// Longest id and note in a box, in characters; the whole of them is in the tooltip.
const ID_CHARS_MAX: usize = 23;
const NOTE_CHARS_MAX: usize = 30;
/// Most boxes of one picture.
const BOXES_MAX: usize = 2_000;

/// The states of a step, the most telling first, each with its icon on a field of 16 by 16.
const STATES: &[(&str, &str)] = &[
    ("failed", "M4 4l8 8M12 4l-8 8"),
    ("suspended", "M5.5 3.5v9M10.5 3.5v9"),
    ("retrying", "M12.5 8a4.5 4.5 0 1 1-1.6-3.4M13 2v3.4H9.6"),
    ("running", "M5 3.2v9.6L12.6 8z"),
    ("scheduled", "M8 4.6V8l2.4 1.6M8 2.2a5.8 5.8 0 1 0 .01 0z"),
    ("pending", "M8 2.2a5.8 5.8 0 1 0 .01 0z"),
    ("completed", "M3 8.6l3.4 3.4L13 4.6"),
    ("skipped", "M3.5 4l4 4-4 4M8.5 4l4 4-4 4"),
];

const STYLE: &str = "\
text{font-family:Roboto,\"Helvetica Neue\",Arial,sans-serif;font-size:12px;fill:#57606a}\
.id{font-size:13px;font-weight:600;fill:#1f2328}\
.box{fill:#ffffff;stroke:#8c959f;stroke-width:1.2}\
.lane{fill:#818b98;fill-opacity:.07;stroke:#818b98;stroke-opacity:.4;stroke-dasharray:4 3}\
.line{fill:none;stroke:#8c959f;stroke-width:1.3}\
.head{fill:#8c959f}\
.icon{fill:none;stroke:#57606a;stroke-width:1.8;stroke-linecap:round;stroke-linejoin:round}\
.completed>.box{fill:#ebf8ee;stroke:#1a7f37}.completed>.icon{stroke:#1a7f37}\
.failed>.box{fill:#ffebe9;stroke:#cf222e;stroke-width:2}.failed>.icon{stroke:#cf222e}\
.running>.box{fill:#e5f2ff;stroke:#0969da;stroke-width:2}.running>.icon{stroke:#0969da}\
.retrying>.box{fill:#fff5dc;stroke:#9a6700;stroke-dasharray:5 3}.retrying>.icon{stroke:#9a6700}\
.suspended>.box{fill:#f7efff;stroke:#8250df;stroke-width:2}.suspended>.icon{stroke:#8250df}\
.scheduled>.box{stroke:#0969da;stroke-dasharray:5 3}.scheduled>.icon{stroke:#0969da}\
.skipped>.box{fill:#f6f8fa;stroke-dasharray:2 3}\
.hatch{stroke:#cf222e;stroke-opacity:.22;stroke-width:3}\
.dots{fill:#8250df;fill-opacity:.3}";

/// What a picture's style ends with: its colours on a dark ground, for who reads it on one.
pub const SVG_DARK: &str = "\
@media(prefers-color-scheme:dark){svg{background:#0d1117}text{fill:#9198a1}.id{fill:#f0f6fc}\
.box{fill:#151b23;stroke:#656c76}.icon{stroke:#9198a1}\
.completed>.box{fill:#12261e;stroke:#3fb950}.completed>.icon{stroke:#3fb950}\
.failed>.box{fill:#2c1618;stroke:#f85149}.failed>.icon{stroke:#f85149}\
.running>.box{fill:#121d2f;stroke:#4493f8}.running>.icon{stroke:#4493f8}\
.retrying>.box{fill:#272215;stroke:#d29922}.retrying>.icon{stroke:#d29922}\
.suspended>.box{fill:#211a33;stroke:#ab7df8}.suspended>.icon{stroke:#ab7df8}\
.scheduled>.box{stroke:#4493f8}.scheduled>.icon{stroke:#4493f8}.skipped>.box{fill:#10151c}}";

/// Draws a definition: its top level in layers, hooks below them. At most 2 000 boxes are drawn;
/// of more, the picture says how many are left out.
pub fn svg(definition: &Definition, states: &BTreeMap<String, String>) -> String {
    let mut planner = Planner { definition, states, tally: tally(states), left: BOXES_MAX };
    let (blocks, rows) = planner.levels();
    let layout = place(definition, &blocks, &rows);
    let hooks: Vec<(&str, Block)> = hooks(definition)
        .filter_map(|(name, ix)| {
            let step = definition.step(ix);
            Some((name, planner.block(step, &step.id)?))
        })
        .collect();
    let total = definition.steps.len();
    let left_out = total - (BOXES_MAX - planner.left);
    Pen::default().picture(&blocks, &hooks, &layout, left_out, total)
}

/// How many instances of a step are in which state; the number of a round or an item is a `*`.
type Tally = BTreeMap<String, BTreeMap<&'static str, u64>>;

fn tally(states: &BTreeMap<String, String>) -> Tally {
    let mut tally = Tally::new();
    for (id, word) in states {
        // Only words that are known: they become classes.
        if let Some((known, _)) = STATES.iter().find(|(known, _)| known == word) {
            *tally.entry(pattern(id)).or_default().entry(*known).or_default() += 1;
        }
    }
    tally
}

/// `each.iter_12.z` as `each.iter_*.z`.
fn pattern(id: &str) -> String {
    let any = |part: &str| {
        let round = ["iter_", "item_"].into_iter().find(|word| {
            part.strip_prefix(word)
                .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit()))
        });
        round.map_or_else(|| part.to_owned(), |word| format!("{word}*"))
    };
    id.split('.').map(any).collect::<Vec<_>>().join(".")
}

/// A step's box, with its size and what is in it.
struct Block<'d> {
    step: &'d StepSpec,
    full: String,
    counts: BTreeMap<&'static str, u64>,
    /// Steps inside that are not drawn.
    hidden: usize,
    lanes: Vec<Lane<'d>>,
    note: Option<String>,
    width: f64,
    height: f64,
}

/// Steps that follow one another inside a box, and where in it they stand.
struct Lane<'d> {
    name: String,
    blocks: Vec<Block<'d>>,
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

/// Decides what is drawn, and how large it is.
struct Planner<'d> {
    definition: &'d Definition,
    states: &'d BTreeMap<String, String>,
    tally: Tally,
    /// Boxes that may still be drawn.
    left: usize,
}

impl<'d> Planner<'d> {
    /// The boxes of the top level, and which of them are in which level.
    fn levels(&mut self) -> (Vec<Block<'d>>, Vec<Vec<usize>>) {
        let (mut blocks, mut rows) = (Vec::new(), Vec::new());
        for level in &self.definition.levels {
            let mut row = Vec::new();
            for ix in level {
                let step = self.definition.step(*ix);
                if let Some(block) = self.block(step, &step.id) {
                    row.push(blocks.len());
                    blocks.push(block);
                }
            }
            rows.push(row);
        }
        rows.retain(|row| !row.is_empty());
        (blocks, rows)
    }

    /// A step's box; none when there is no room for one more.
    fn block(&mut self, step: &'d StepSpec, full: &str) -> Option<Block<'d>> {
        self.left = self.left.checked_sub(1)?;
        let mut block = Block {
            step,
            full: full.to_owned(),
            counts: self.counts(full),
            hidden: 0,
            lanes: Vec::new(),
            note: None,
            width: BOX_WIDTH,
            height: BOX_HEIGHT,
        };
        if let OnError::Fallback(other) = step.on_error {
            block.note = Some(format!("on error: {}", self.definition.step(other).id));
        }
        let mut inner = scopes(step, full, self.states);
        if let Some(undo) = &step.compensate {
            let full = format!("{full}.compensate");
            inner.push(Scope { name: "compensate".to_owned(), full, steps: std::slice::from_ref(undo) });
        }
        for scope in inner {
            self.lane(&mut block, &scope);
        }
        block.arrange();
        Some(block)
    }

    fn lane(&mut self, block: &mut Block<'d>, scope: &Scope<'d>) {
        let mut blocks = Vec::new();
        for ix in scope.steps {
            let step = self.definition.step(*ix);
            match self.block(step, &format!("{}.{}", scope.full, step.id)) {
                Some(child) => blocks.push(child),
                None => block.hidden += 1,
            }
        }
        if blocks.is_empty() && !scope.steps.is_empty() {
            return;
        }
        let rounds = blocks.iter().map(|child| child.counts.values().sum::<u64>()).max().unwrap_or(0);
        let name = if rounds > 1 { format!("{} ×{rounds}", scope.name) } else { scope.name.clone() };
        let width = blocks.iter().map(|child| child.width).fold(BOX_WIDTH / 2.0, f64::max);
        let gaps = GAP * blocks.len().saturating_sub(1) as f64;
        let inside = blocks.iter().map(|child| child.height).sum::<f64>() + gaps;
        let (width, height) = (width + 2.0 * PADDING, LANE_NAME + inside + PADDING);
        block.lanes.push(Lane { name, blocks, x: 0.0, y: 0.0, width, height });
    }

    fn counts(&self, full: &str) -> BTreeMap<&'static str, u64> {
        self.tally.get(&pattern(full)).cloned().unwrap_or_default()
    }
}

impl Block<'_> {
    /// Puts lanes side by side, and below one another when they are many.
    fn arrange(&mut self) {
        let (mut x, mut y, mut tallest) = (PADDING, BOX_HEIGHT, 0.0_f64);
        for lane in &mut self.lanes {
            if x > PADDING && x + lane.width > LANES_WIDTH {
                (x, y, tallest) = (PADDING, y + tallest + PADDING, 0.0);
            }
            (lane.x, lane.y) = (x, y);
            x += lane.width + PADDING;
            tallest = tallest.max(lane.height);
            self.width = self.width.max(x);
        }
        if !self.lanes.is_empty() {
            self.height = y + tallest + PADDING;
        }
    }

    /// The state of most concern that an instance of it has.
    fn state(&self) -> Option<(&'static str, &'static str)> {
        STATES.iter().find(|(word, _)| self.counts.contains_key(word)).copied()
    }

    /// What stands under its id: what it is, and how far.
    fn about(&self) -> String {
        let total: u64 = self.counts.values().sum();
        let mut text = label(self.step).to_owned();
        match (total, self.state()) {
            (0, _) | (_, None) => {}
            (1, Some((state, _))) => text = format!("{state} · {text}"),
            (_, Some(_)) => {
                let told = STATES
                    .iter()
                    .filter_map(|(word, _)| self.counts.get(word).map(|count| format!("{count} {word}")));
                text = told.collect::<Vec<_>>().join(", ");
            }
        }
        if self.hidden > 0 {
            let _ = write!(text, " · {} inside", self.hidden);
        }
        if let Some(note) = &self.note {
            let _ = write!(text, " · {note}");
        }
        text
    }
}

fn place(definition: &Definition, blocks: &[Block<'_>], rows: &[Vec<usize>]) -> Layout {
    let at: BTreeMap<_, _> = blocks.iter().enumerate().map(|(n, block)| (block.step.ix, n)).collect();
    let node = |block: &Block<'_>| {
        let before = &definition.step(block.step.ix).depends_on;
        let depends_on = before.iter().filter_map(|ix| at.get(ix).copied()).collect();
        Node { width: block.width, height: block.height, depends_on }
    };
    layered(&blocks.iter().map(node).collect::<Vec<_>>(), rows)
}

/// Writes the picture.
#[derive(Default)]
struct Pen {
    text: String,
}

impl Pen {
    fn picture(
        &mut self,
        blocks: &[Block<'_>],
        hooks: &[(&str, Block<'_>)],
        layout: &Layout,
        left_out: usize,
        total: usize,
    ) -> String {
        let hooks_width: f64 = hooks.iter().map(|(_, block)| block.width + GAP).sum();
        let hooks_height = hooks.iter().map(|(_, block)| block.height + LANE_NAME + GAP).fold(0.0, f64::max);
        let note = if left_out > 0 { GAP } else { 0.0 };
        let width = layout.width.max(hooks_width).max(BOX_WIDTH * 1.6) + 2.0 * MARGIN;
        let height = layout.height + hooks_height + note + 2.0 * MARGIN;
        let _ = write!(
            self.text,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
             viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\" aria-label=\"{}\">\n\
             <style>{STYLE}{SVG_DARK}</style>\n<defs>\
             <marker id=\"opcode-head\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"7\" \
             markerHeight=\"7\" orient=\"auto\"><path class=\"head\" d=\"M0 0l8 4-8 4z\"/></marker>\
             <pattern id=\"opcode-hatch\" width=\"9\" height=\"9\" patternUnits=\"userSpaceOnUse\">\
             <path class=\"hatch\" d=\"M-2 11L11 -2\"/></pattern>\
             <pattern id=\"opcode-dots\" width=\"8\" height=\"8\" patternUnits=\"userSpaceOnUse\">\
             <circle class=\"dots\" cx=\"2\" cy=\"2\" r=\"1.3\"/></pattern></defs>\n",
            summary(blocks, total),
        );
        for line in &layout.lines {
            self.line(line);
        }
        for (block, (x, y)) in blocks.iter().zip(&layout.corners) {
            self.block(block, x + MARGIN, y + MARGIN);
        }
        let (mut x, y) = (MARGIN, layout.height + MARGIN + GAP);
        for (name, block) in hooks {
            self.words("note", x, y + 12.0, name);
            self.block(block, x, y + LANE_NAME);
            x += block.width + GAP;
        }
        if left_out > 0 {
            let told = format!("{left_out} of {total} steps are left out here; format=ascii shows them all");
            self.words("id", MARGIN, height - MARGIN, &told);
        }
        self.text.push_str("</svg>\n");
        std::mem::take(&mut self.text)
    }

    fn line(&mut self, line: &Line) {
        let Line { from: (x, y), straight_to, to: (to_x, to_y), arrives } = *line;
        let [x, y, straight_to, to_x, to_y] = [x, y, straight_to, to_x, to_y].map(|at| at + MARGIN);
        let middle = f64::midpoint(straight_to, to_y);
        let head = if arrives { " marker-end=\"url(#opcode-head)\"" } else { "" };
        let curve = if (x - to_x).abs() < 0.5 {
            format!("V{to_y:.0}")
        } else {
            format!("V{straight_to:.0}C{x:.0} {middle:.0} {to_x:.0} {middle:.0} {to_x:.0} {to_y:.0}")
        };
        let _ = writeln!(self.text, "<path class=\"line\" d=\"M{x:.0} {y:.0}{curve}\"{head}/>");
    }

    fn block(&mut self, block: &Block<'_>, x: f64, y: f64) {
        let state = block.state();
        let (class, about) = (state.map_or("none", |(word, _)| word), block.about());
        let _ = writeln!(
            self.text,
            "<g class=\"step {class}\" data-step=\"{full}\"><title>{full}: {title}</title>\
             <rect class=\"box\" x=\"{x:.0}\" y=\"{y:.0}\" width=\"{width:.0}\" height=\"{height:.0}\" rx=\"6\"/>",
            full = escaped(&block.full),
            title = escaped(&about),
            width = block.width,
            height = block.height,
        );
        let pattern = match class {
            "failed" => Some("opcode-hatch"),
            "suspended" => Some("opcode-dots"),
            _ => None,
        };
        if let Some(pattern) = pattern {
            let _ = writeln!(
                self.text,
                "<rect x=\"{x:.0}\" y=\"{y:.0}\" width=\"{:.0}\" height=\"{BOX_HEIGHT:.0}\" rx=\"6\" \
                 fill=\"url(#{pattern})\"/>",
                block.width,
            );
        }
        let mut text_x = x + 12.0;
        if let Some((_, icon)) = state {
            let (icon_x, icon_y) = (x + 10.0, y + 8.0);
            let _ = writeln!(
                self.text,
                "<path class=\"icon\" transform=\"translate({icon_x:.0} {icon_y:.0})\" d=\"{icon}\"/>"
            );
            text_x += 20.0;
        }
        self.words("id", text_x, y + 20.0, &shortened(&block.step.id, ID_CHARS_MAX));
        self.words("note", x + 12.0, y + 39.0, &shortened(&about, NOTE_CHARS_MAX));
        for lane in &block.lanes {
            self.lane(lane, x + lane.x, y + lane.y);
        }
        self.text.push_str("</g>\n");
    }

    fn lane(&mut self, lane: &Lane<'_>, x: f64, y: f64) {
        let _ = writeln!(
            self.text,
            "<rect class=\"lane\" x=\"{x:.0}\" y=\"{y:.0}\" width=\"{:.0}\" height=\"{:.0}\" rx=\"5\"/>",
            lane.width, lane.height,
        );
        self.words("note", x + PADDING, y + 14.0, &shortened(&lane.name, NOTE_CHARS_MAX));
        let (middle, mut top) = (x + lane.width / 2.0, y + LANE_NAME);
        for (index, block) in lane.blocks.iter().enumerate() {
            if index > 0 {
                let from = (middle - MARGIN, top - GAP - MARGIN);
                let to = (middle - MARGIN, top - MARGIN);
                self.line(&Line { from, straight_to: to.1, to, arrives: true });
            }
            self.block(block, middle - block.width / 2.0, top);
            top += block.height + GAP;
        }
    }

    fn words(&mut self, class: &str, x: f64, y: f64, text: &str) {
        let _ =
            writeln!(self.text, "<text class=\"{class}\" x=\"{x:.0}\" y=\"{y:.0}\">{}</text>", escaped(text));
    }
}

/// The picture in a sentence, for those who cannot see it.
fn summary(blocks: &[Block<'_>], total: usize) -> String {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for (state, _) in blocks.iter().filter_map(Block::state) {
        *counts.entry(state).or_default() += 1;
    }
    let told: Vec<String> = counts.into_iter().map(|(state, count)| format!("{count} {state}")).collect();
    let steps = format!("{total} steps, {} on the top level", blocks.len());
    if told.is_empty() { steps } else { format!("{steps}: {}", told.join(", ")) }
}

/// Text for XML; what XML cannot hold at all is a `?`.
fn escaped(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut safe, c| {
        match c {
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '&' => safe.push_str("&amp;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => safe.push('?'),
            c => safe.push(c),
        }
        safe
    })
}

fn shortened(text: &str, chars_max: usize) -> String {
    if text.chars().count() <= chars_max {
        return text.to_owned();
    }
    text.chars().take(chars_max - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{BOXES_MAX, svg};
    use crate::definition::Definition;

    fn log(id: &str, after: &str) -> String {
        format!(
            r#"{{"id": "{id}", "action": "workflow.log", "params": {{"message": "secret text"}}, "depends_on": [{after}]}}"#
        )
    }

    fn parsed(text: &str) -> Definition {
        Definition::parse(text).unwrap_or_else(|e| panic!("{e:?}"))
    }

    fn nested() -> Definition {
        let (a, x, y, z, undo) = (log("a", ""), log("x", ""), log("y", ""), log("z", ""), log("undo", ""));
        parsed(&format!(
            r#"{{"steps": [{a},
                {{"id": "pick", "type": "condition", "depends_on": ["a"], "config": {{"expression": "true",
                  "branches": {{"<b>\"\n": [{x}, {y}]}}, "default": []}}}},
                {{"id": "each", "type": "loop", "depends_on": ["a"], "config": {{"mode": "for_each", "over": [1],
                  "body": [{z}]}}, "compensate": {undo}}}],
               "on_error": {{"action": "workflow.log", "params": {{"message": "m"}}}}}}"#
        ))
    }

    fn states(states: &[(&str, &str)]) -> BTreeMap<String, String> {
        states.iter().map(|(id, state)| ((*id).to_owned(), (*state).to_owned())).collect()
    }

    #[test]
    fn every_step_has_a_box_and_a_loop_counts_its_rounds() {
        let rounds = [
            ("a", "completed"),
            ("each.iter_2.z", "failed"),
            ("each.iter_11.z", "completed"),
            ("each.iter_12.z", "completed"),
            ("pick", "<script>"),
        ];
        let text = svg(&nested(), &states(&rounds));
        assert_eq!(text.matches("class=\"box\"").count(), 8, "{text}");
        assert!(text.contains("each iter ×3") && text.contains("1 failed, 2 completed"), "{text}");
        assert!(text.contains("class=\"step failed\" data-step=\"each.iter_12.z\""), "{text}");
        assert!(text.contains("url(#opcode-hatch)") && text.contains("&lt;b&gt;&quot;?"), "{text}");
        assert!(!text.contains("script") && !text.contains("secret") && !text.contains("<b>"));
    }

    #[test]
    fn a_state_is_a_class_an_icon_and_a_word() {
        for (state, icon) in super::STATES {
            let text = svg(&parsed(&format!(r#"{{"steps": [{}]}}"#, log("a", ""))), &states(&[("a", state)]));
            assert!(text.contains(&format!("class=\"step {state}\"")) && text.contains(icon), "{text}");
            assert!(text.contains(&format!("{state} · workflow.log")), "{text}");
        }
    }

    #[test]
    fn ten_thousand_steps_are_bounded_and_what_is_left_out_is_told() {
        let steps: Vec<String> = (0..10_000)
            .map(|n| format!(r#"{{"id":"s{n}","action":"workflow.log","params":{{"message":""}}}}"#))
            .collect();
        let text = svg(&parsed(&format!(r#"{{"steps": [{}]}}"#, steps.join(","))), &BTreeMap::new());
        assert_eq!(text.matches("class=\"box\"").count(), BOXES_MAX);
        assert!(text.contains("8000 of 10000 steps are left out"), "{}", &text[text.len() - 300..]);
        assert!(text.len() < 2 * 1024 * 1024, "{} bytes", text.len());
    }

    #[test]
    fn the_same_definition_is_the_same_picture() {
        let steps: Vec<String> = (0..500)
            .map(|n: usize| {
                let after = n.checked_sub(7).map(|n| format!("\"s{n}\"")).unwrap_or_default();
                log(&format!("s{n}"), &after)
            })
            .collect();
        let definition = parsed(&format!(r#"{{"steps": [{}]}}"#, steps.join(",")));
        let text = svg(&definition, &BTreeMap::new());
        assert_eq!(text.matches("class=\"box\"").count(), 500);
        assert_eq!(text, svg(&definition, &BTreeMap::new()));
    }
}
