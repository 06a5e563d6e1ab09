//! From a JSON pointer to its place in the text, for source excerpts. Looks at text that is known
//! to be valid JSON; it never recurses.

/// A place in a text: line and column from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
}

/// Where the value at `pointer` begins, or the nearest value around it that exists.
pub fn place(text: &str, pointer: &str) -> Place {
    let mut at = skip_space(text.as_bytes(), 0);
    for token in pointer.split('/').skip(1) {
        let token = token.replace("~1", "/").replace("~0", "~");
        let Some(next) = child(text, at, &token) else { break };
        at = next;
    }
    place_of(text, at)
}

/// The place of a problem in the text that it is of: where it says, or where its pointer leads, and
/// there at a column of an expression, if it has one.
pub fn of_problem(text: &str, pointer: &str, line: Option<u32>, column: Option<u32>) -> Place {
    match (line, column) {
        (Some(line), Some(column)) => Place { line: line as usize, column: column as usize },
        (None, Some(column)) => within_string(text, place(text, pointer), column as usize),
        (Some(_) | None, None) => place(text, pointer),
    }
}

/// A column of the string at a place: past its quote, as far as nothing before it is escaped.
fn within_string(text: &str, at: Place, column: usize) -> Place {
    let line = text.lines().nth(at.line - 1).unwrap_or_default();
    let quoted: String = line.chars().skip(at.column - 1).take(column + 1).collect();
    let is_plain = quoted.starts_with('"') && !quoted.contains('\\');
    Place { line: at.line, column: at.column + if is_plain { column } else { 0 } }
}

/// The place of a byte.
pub fn place_of(text: &str, at: usize) -> Place {
    let before = &text[..at.min(text.len())];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Place { line: before.matches('\n').count() + 1, column: before[line_start..].chars().count() + 1 }
}

/// Where the member `token` of the object or array at `at` begins.
fn child(text: &str, at: usize, token: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let is_object = match bytes.get(at)? {
        b'{' => true,
        b'[' => false,
        _ => return None,
    };
    let mut at = skip_space(bytes, at + 1);
    let mut index = 0usize;
    while !matches!(bytes.get(at)?, b'}' | b']') {
        let is_wanted = if is_object {
            let end = string_end(bytes, at);
            let key: String = serde_json::from_str(&text[at..end]).ok()?;
            // Past the colon.
            at = skip_space(bytes, skip_space(bytes, end) + 1);
            key == token
        } else {
            token.parse() == Ok(index)
        };
        if is_wanted {
            return Some(at);
        }
        index += 1;
        at = skip_space(bytes, value_end(bytes, at));
        if bytes.get(at) == Some(&b',') {
            at = skip_space(bytes, at + 1);
        }
    }
    None
}

fn skip_space(bytes: &[u8], mut at: usize) -> usize {
    while bytes.get(at).is_some_and(u8::is_ascii_whitespace) {
        at += 1;
    }
    at
}

fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

fn value_end(bytes: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0usize);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                at = string_end(bytes, at);
                if depth == 0 {
                    return at;
                }
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 0 => return at,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            b',' if depth == 0 => return at,
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

/// The line at a place with a mark under the column, two lines.
pub fn excerpt(text: &str, place: Place) -> Option<String> {
    /// Longest part of a line that is shown, in characters.
    const WIDTH_MAX: usize = 100;
    let line = text.lines().nth(place.line.checked_sub(1)?)?;
    let start = place.column.saturating_sub(WIDTH_MAX / 2);
    let start = if line.chars().count() <= WIDTH_MAX { 0 } else { start };
    let shown: String = line.chars().skip(start).take(WIDTH_MAX).collect();
    let shown = shown.replace('\t', " ");
    let mark = " ".repeat(place.column.saturating_sub(start + 1));
    Some(format!("{:>6} | {shown}\n{:>6} | {mark}^", place.line, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "{\n  \"steps\": [\n    {\"id\": \"a,]\", \"x/y\": 1},\n    {\"id\": \"b\"}\n  ]\n}";

    #[test]
    fn pointers_lead_to_their_values() {
        let at = |pointer| {
            let place = place(TEXT, pointer);
            (place.line, place.column)
        };
        assert_eq!(at(""), (1, 1));
        assert_eq!(at("/steps"), (2, 12));
        assert_eq!(at("/steps/0/id"), (3, 12));
        assert_eq!(at("/steps/0/x~1y"), (3, 26));
        assert_eq!(at("/steps/1/id"), (4, 12));
        // What is missing is shown where it is missing from.
        assert_eq!(at("/steps/1/action"), (4, 5));
        assert_eq!(at("/steps/9/action"), (2, 12));
    }

    #[test]
    fn excerpts_mark_the_column() {
        let shown = excerpt(TEXT, place(TEXT, "/steps/1/id")).unwrap();
        assert_eq!(shown, "     4 |     {\"id\": \"b\"}\n       |            ^");
    }
}
