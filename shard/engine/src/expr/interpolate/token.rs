//! Where a token ends: at the first `}}` that stands in no string and no comment of its language
//! and closes no brace of the token.
//!
//! It knows strings, comments and braces, and nothing else: what is between them is for the
//! language itself to judge.

use super::CLOSE;

#[derive(Clone, Copy, PartialEq)]
enum Language {
    Cel,
    Expr,
    Jq,
}

/// Length of a token up to its `}}`, if it has one.
pub(super) fn token_length(text: &str) -> Option<usize> {
    let language = match text.trim_start() {
        jq if jq.starts_with("jq:") => Language::Jq,
        expr if expr.starts_with("expr:") => Language::Expr,
        _ => Language::Cel,
    };
    Scanner { bytes: text.as_bytes(), language, at: 0, open: Vec::new() }.run()
}

/// A walk over bytes: whatever counts here is ASCII, and so is no part of another character.
struct Scanner<'t> {
    bytes: &'t [u8],
    language: Language,
    at: usize,
    /// Open braces, and in jq `"` for each string that a `\(` has left, with the `(` inside.
    open: Vec<u8>,
}

impl Scanner<'_> {
    fn starts(&self, with: &str) -> bool {
        self.bytes[self.at..].starts_with(with.as_bytes())
    }

    fn run(mut self) -> Option<usize> {
        while let Some(byte) = self.bytes.get(self.at).copied() {
            let in_text = self.open.contains(&b'"');
            match (byte, self.open.last()) {
                (b'{', _) => self.open.push(b'{'),
                (b'}', Some(b'{')) => drop(self.open.pop()),
                (b'}', None) if self.starts(CLOSE) => return Some(self.at),
                (b'(', _) if in_text => self.open.push(b'('),
                (b')', Some(b'(')) => drop(self.open.pop()),
                (b')', Some(b'"')) => {
                    self.open.pop();
                    self.at += 1;
                    self.string(b'"', false, false)?;
                    continue;
                }
                (b'"', _) => {
                    self.quoted(b'"')?;
                    continue;
                }
                (b'\'', _) if self.language != Language::Jq => {
                    self.quoted(b'\'')?;
                    continue;
                }
                (b'`', _) if self.language != Language::Jq => {
                    self.at += 1;
                    self.string(b'`', true, false)?;
                    continue;
                }
                _ if self.is_comment() => {
                    self.comment();
                    continue;
                }
                _ => {}
            }
            self.at += 1;
        }
        None
    }

    /// A string that begins here; in CEL it may be raw, or have three quotes.
    fn quoted(&mut self, quote: u8) -> Option<()> {
        let is_cel = self.language == Language::Cel;
        let before = &self.bytes[..self.at];
        let prefix = before.iter().rev().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_');
        let prefix: Vec<u8> = prefix.take(3).map(u8::to_ascii_lowercase).collect();
        let is_raw = is_cel && matches!(prefix.as_slice(), [b'r'] | [b'r', b'b'] | [b'b', b'r']);
        let is_triple = is_cel && self.bytes[self.at..].starts_with(&[quote; 3]);
        self.at += if is_triple { 3 } else { 1 };
        self.string(quote, is_raw, is_triple)
    }

    /// To the end of a string, or to its `\(` in jq; `None` when it has no end.
    fn string(&mut self, quote: u8, is_raw: bool, is_triple: bool) -> Option<()> {
        loop {
            match self.bytes.get(self.at)? {
                b'\\' if !is_raw => {
                    self.at += 2;
                    if self.language == Language::Jq && self.bytes.get(self.at - 1) == Some(&b'(') {
                        self.open.push(b'"');
                        return Some(());
                    }
                }
                byte if *byte == quote => {
                    let is_end = !is_triple || self.bytes[self.at..].starts_with(&[quote; 3]);
                    self.at += if is_triple && is_end { 3 } else { 1 };
                    if is_end {
                        return Some(());
                    }
                }
                _ => self.at += 1,
            }
        }
    }

    fn is_comment(&self) -> bool {
        match self.language {
            Language::Jq => self.starts("#"),
            Language::Expr => self.starts("//") || self.starts("/*"),
            Language::Cel => self.starts("//"),
        }
    }

    /// To the end of a comment. One that goes to the end of the line ends before the token does.
    fn comment(&mut self) {
        let is_block = self.starts("/*") && self.language == Language::Expr;
        self.at += if is_block { 2 } else { 1 };
        while self.at < self.bytes.len() {
            let ends = match is_block {
                true => self.starts("*/"),
                false => self.starts("\n") || (self.open.is_empty() && self.starts(CLOSE)),
            };
            if ends {
                self.at += if is_block { 2 } else { 0 };
                return;
            }
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each is a token's text up to its end, with something after it.
    #[test]
    fn strings_and_comments_hide_the_end() {
        for token in [
            " inputs.x ",
            " {'a': {'b': 1}}.a ",
            r" r'\' ",
            r#" br"\" + 'it\'s }}' "#,
            r#" '''it's "}}"''' "#,
            " 1 // it's\n + 2 ",
            " 1 // it's ",
            " expr: `it's }}` ",
            " expr: 1 /* it's }} */ ",
            " expr: map([1], {{a: #}}) ",
            " jq: .a # it's \"\n | {b: .} ",
            r#" jq: "a \("b }} \(1)") c" "#,
            r#" jq: {"a": {b: "}}"}} "#,
        ] {
            let text = format!("{token}}}}} '\" }}}}");
            assert_eq!(token_length(&text), Some(token.len()), "{text}");
        }
    }

    #[test]
    fn what_is_never_closed_has_no_end() {
        for text in [" a", " 'a }}", " expr: `a }}", r#" jq: "\( }}"#, " {a }", r"'\", "r", "\"\"\"a\"\" }}"]
        {
            assert_eq!(token_length(text), None, "{text}");
        }
    }
}
