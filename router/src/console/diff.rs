//! Two texts, line by line: what stayed, what went, what came.

/// Most lines of which differences are looked for, once what is the same before and after them is left
/// aside; of more, all of the old went and all of the new came.
const LINES_MAX: usize = 3_000;
/// Lines that are shown around a difference.
const AROUND: usize = 3;

/// A line of the comparison.
pub(super) struct Line {
    pub(super) sign: &'static str,
    pub(super) class: &'static str,
    pub(super) text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Same,
    Gone,
    New,
}

/// The differences, each with a few lines around it; none when the texts are the same.
pub(super) fn lines(before: &str, after: &str) -> Vec<Line> {
    let all = compared(&before.lines().collect::<Vec<_>>(), &after.lines().collect::<Vec<_>>());
    let is_near = |index: usize| {
        let near = index.saturating_sub(AROUND)..(index + AROUND + 1).min(all.len());
        all[near].iter().any(|(kind, _)| *kind != Kind::Same)
    };
    let mut shown = Vec::new();
    let mut is_apart = false;
    for (index, (kind, text)) in all.iter().enumerate() {
        if !is_near(index) {
            is_apart = true;
            continue;
        }
        if std::mem::take(&mut is_apart) {
            shown.push(Line { sign: "", class: "apart", text: "⋯".to_owned() });
        }
        let (sign, class) = match kind {
            Kind::Same => ("", "same"),
            Kind::Gone => ("−", "gone"),
            Kind::New => ("+", "new"),
        };
        shown.push(Line { sign, class, text: (*text).to_owned() });
    }
    shown
}

fn compared<'t>(before: &[&'t str], after: &[&'t str]) -> Vec<(Kind, &'t str)> {
    let same_head = before.iter().zip(after).take_while(|(a, b)| a == b).count();
    let (head, before, after) = (&before[..same_head], &before[same_head..], &after[same_head..]);
    let same_tail = before.iter().rev().zip(after.iter().rev()).take_while(|(a, b)| a == b).count();
    let (before, tail) = before.split_at(before.len() - same_tail);
    let after = &after[..after.len() - same_tail];
    let mut all: Vec<(Kind, &str)> = head.iter().map(|line| (Kind::Same, *line)).collect();
    if before.len().max(after.len()) > LINES_MAX {
        all.extend(before.iter().map(|line| (Kind::Gone, *line)));
        all.extend(after.iter().map(|line| (Kind::New, *line)));
    } else {
        all.extend(middle(before, after));
    }
    all.extend(tail.iter().map(|line| (Kind::Same, *line)));
    all
}

/// By the longest common subsequence, the textbook's way.
fn middle<'t>(before: &[&'t str], after: &[&'t str]) -> Vec<(Kind, &'t str)> {
    let width = after.len() + 1;
    // The longest from (i, j) on.
    let mut longest = vec![0_u16; (before.len() + 1) * width];
    for i in (0..before.len()).rev() {
        for j in (0..after.len()).rev() {
            longest[i * width + j] = if before[i] == after[j] {
                longest[(i + 1) * width + j + 1] + 1
            } else {
                longest[(i + 1) * width + j].max(longest[i * width + j + 1])
            };
        }
    }
    let (mut i, mut j, mut told) = (0, 0, Vec::new());
    while i < before.len() || j < after.len() {
        let is_same = i < before.len() && j < after.len() && before[i] == after[j];
        let goes = j == after.len()
            || (i < before.len() && longest[(i + 1) * width + j] >= longest[i * width + j + 1]);
        if is_same {
            told.push((Kind::Same, before[i]));
            (i, j) = (i + 1, j + 1);
        } else if goes {
            told.push((Kind::Gone, before[i]));
            i += 1;
        } else {
            told.push((Kind::New, after[j]));
            j += 1;
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(before: &str, after: &str) -> String {
        lines(before, after).iter().map(|line| format!("{}{}\n", line.sign, line.text)).collect()
    }

    #[test]
    fn differences_stand_in_their_place() {
        assert_eq!(told("a\nb\nc", "a\nx\nc"), "a\n−b\n+x\nc\n");
        assert_eq!(told("a\nb", "a\nb"), "");
        assert_eq!(told("", "a"), "+a\n");
        assert_eq!(told("a\nb\nc\nd", "b\nd\ne"), "−a\nb\n−c\nd\n+e\n");
        assert_eq!(told("1\n2\n3\n4\n5\n6\nz", "1\n2\n3\n4\n5\n6\ny"), "⋯\n4\n5\n6\n−z\n+y\n");
    }

    #[test]
    fn texts_beyond_the_bound_are_told_whole() {
        let (a, b) = ("a\n".repeat(LINES_MAX + 1), "b\n".repeat(LINES_MAX + 1));
        assert_eq!(lines(&a, &b).len(), 2 * LINES_MAX + 2);
    }
}
