//! Duplicate keys: JSON that says one thing twice is refused, since readers disagree on which
//! one counts. A scan of text that is known to be valid JSON; it never recurses and builds nothing.

use std::borrow::Cow;
use std::collections::HashSet;

use opcode_engine::Problem;

/// Objects with at most this many keys are searched in line; larger ones get a set.
const INLINE_KEYS_MAX: usize = 16;
/// Duplicates reported at most.
const PROBLEMS_MAX: usize = 100;

/// Keys seen in one object.
#[derive(Default)]
struct Keys<'a> {
    few: Vec<Cow<'a, str>>,
    many: HashSet<Cow<'a, str>>,
}

impl<'a> Keys<'a> {
    /// False when the key was there already.
    fn insert(&mut self, key: Cow<'a, str>) -> bool {
        if self.many.is_empty() {
            if self.few.contains(&key) {
                return false;
            }
            if self.few.len() < INLINE_KEYS_MAX {
                self.few.push(key);
                return true;
            }
            self.many.extend(self.few.iter().cloned());
        }
        self.many.insert(key)
    }
}

enum Level<'a> {
    Object { keys: Keys<'a>, current: Cow<'a, str> },
    Array { index: usize },
}

/// Every duplicate key in `text`, which must be valid JSON, with a pointer to it.
pub fn duplicate_keys(text: &str) -> Vec<Problem> {
    let bytes = text.as_bytes();
    let mut levels: Vec<Level<'_>> = Vec::new();
    let mut problems = Vec::new();
    let mut expects_key = false;
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'{' => {
                levels.push(Level::Object { keys: Keys::default(), current: Cow::Borrowed("") });
                expects_key = true;
            }
            b'[' => levels.push(Level::Array { index: 0 }),
            b'}' | b']' => {
                levels.pop();
                expects_key = false;
            }
            b',' => match levels.last_mut() {
                Some(Level::Object { .. }) => expects_key = true,
                Some(Level::Array { index }) => *index += 1,
                None => return problems,
            },
            b'"' => {
                let end = string_end(bytes, at);
                if expects_key && let Some(Level::Object { keys, current }) = levels.last_mut() {
                    expects_key = false;
                    *current = unescaped(&text[at..end]);
                    let is_new = keys.insert(current.clone());
                    if !is_new && problems.len() < PROBLEMS_MAX {
                        problems.push(Problem::at(pointer(&levels), "is given more than once"));
                    }
                }
                at = end;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    problems
}

/// The place after the string that starts at `start`.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The content of a quoted string.
fn unescaped(quoted: &str) -> Cow<'_, str> {
    if quoted.contains('\\')
        && let Ok(text) = serde_json::from_str::<String>(quoted)
    {
        return Cow::Owned(text);
    }
    Cow::Borrowed(quoted.trim_matches('"'))
}

fn pointer(levels: &[Level<'_>]) -> String {
    let mut pointer = String::new();
    for level in levels {
        pointer.push('/');
        match level {
            Level::Object { current, .. } => pointer.push_str(&escaped(current)),
            Level::Array { index } => pointer.push_str(&index.to_string()),
        }
    }
    pointer
}

/// One token of a JSON pointer (RFC 6901).
pub(crate) fn escaped(token: &str) -> Cow<'_, str> {
    if token.contains(['~', '/']) {
        Cow::Owned(token.replace('~', "~0").replace('/', "~1"))
    } else {
        Cow::Borrowed(token)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expect: &[&str]) {
        let pointers: Vec<_> = duplicate_keys(text).into_iter().map(|p| p.pointer).collect();
        assert_eq!(pointers, expect, "{text}");
    }

    #[test]
    fn finds_every_duplicate_and_only_those() {
        check(r#"{"a":1,"b":{"a":1},"c":[{"a":1},{"a":2}]}"#, &[]);
        check(r#"{"a":1,"a":2}"#, &["/a"]);
        check(r#"{"a":[1,{"x":{"y":0,"y":1}}]}"#, &["/a/1/x/y"]);
        check(r#"{"a":"\"a\":1,\"a\":2","b":"{\\"}"#, &[]);
        check(r#"{"a":1,"\u0061":2}"#, &["/a"]);
        check(r#"{"x/y":1,"x/y":2}"#, &["/x~1y"]);
        check("[]", &[]);
        check("\"text\"", &[]);
    }

    #[test]
    fn wide_and_deep_texts_are_no_trouble() {
        let keys: Vec<_> = (0..5_000).map(|n| format!("\"k{n}\":0")).collect();
        check(&format!("{{{},\"k17\":1}}", keys.join(",")), &["/k17"]);
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        check(&deep, &[]);
    }
}
