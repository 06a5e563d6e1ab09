//! The tables of published behaviour: `tables/cel.txt` and `tables/jq.txt`. Each says what the
//! language gives, and where the engine differs by design, what it gives and why.

use std::fs;

/// One case of a table.
pub(crate) struct Case {
    pub(crate) line: usize,
    /// What is run, and on what; the fields before the value.
    pub(crate) given: Vec<String>,
    /// What the language gives.
    pub(crate) expected: String,
    /// What the engine gives instead, and why.
    pub(crate) ours: Option<(String, String)>,
    /// What an older release of the other implementation gives.
    pub(crate) older: Option<String>,
}

impl Case {
    /// What the engine is to give.
    pub(crate) fn engine(&self) -> &str {
        self.ours.as_ref().map_or(&self.expected, |(ours, _)| ours)
    }

    /// What the older release is to give.
    pub(crate) fn older_release(&self) -> &str {
        self.older.as_ref().unwrap_or(&self.expected)
    }
}

const BETWEEN: &str = " ⇒ ";

/// The cases of `tables/NAME`, each with `given` fields before its value.
pub(crate) fn cases(name: &str, given: usize) -> Vec<Case> {
    let text = fs::read_to_string(crate::home().join("tables").join(name)).unwrap();
    let (_, table) = text.split_once("\n\n").unwrap();
    let skipped = text.lines().count() - table.lines().count();
    let lines = (skipped + 1..).zip(table.lines()).filter(|(_, line)| line.contains(BETWEEN));
    lines.map(|(at, line)| case(at, line, given)).collect()
}

fn case(line: usize, text: &str, given: usize) -> Case {
    let mut fields = text.split(BETWEEN).map(str::to_owned);
    let given: Vec<String> = fields.by_ref().take(given).collect();
    let expected = fields.next().unwrap_or_else(|| panic!("line {line} has no value: {text}"));
    let mut case = Case { line, given, expected, ours: None, older: None };
    while let Some(field) = fields.next() {
        if let Some(older) = field.strip_prefix("1.6 ") {
            case.older = Some(older.to_owned());
        } else if let Some(ours) = field.strip_prefix("ours ") {
            let reason = fields.next().unwrap_or_else(|| panic!("line {line} differs without a reason"));
            assert_ne!(ours, case.expected, "line {line} differs in nothing");
            case.ours = Some((ours.to_owned(), reason));
        } else {
            panic!("line {line}: {field:?} is neither `ours` nor an older release")
        }
    }
    case
}
