//! A filter's tokens, found without recursion, so that the bounds hold before any parser runs.
//!
//! It splits text exactly where the crate's lexer does. What it cannot split, it refuses: text that
//! the crate would read otherwise than the scan never reaches the crate.

use super::super::{ExprProblem, NESTING_MAX, SOURCE_BYTES_MAX, TOKENS_MAX};

/// A token of code; strings are one token each, and so is what `\(…)` in them holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token<'s> {
    pub(super) text: &'s str,
    /// Where it starts, in characters from 1.
    pub(super) column: u32,
}

/// What encloses the current place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    Paren,
    Bracket,
    Brace,
    /// `\(` in a string.
    Interpolation,
    /// Between quotes; where it began.
    Quote(usize),
}

struct Scanner<'s> {
    source: &'s str,
    at: usize,
    open: Vec<(Open, usize)>,
    tokens: Vec<Token<'s>>,
    /// Columns are counted up to here, so that counting stays linear.
    counted: (usize, u32),
}

/// The tokens of `source`, or the first thing that is wrong with them.
pub(super) fn scan(source: &str) -> Result<Vec<Token<'_>>, ExprProblem> {
    let mut scanner = Scanner { source, at: 0, open: Vec::new(), tokens: Vec::new(), counted: (0, 1) };
    if source.len() > SOURCE_BYTES_MAX {
        return Err(scanner.problem(0, format!("the filter is longer than {SOURCE_BYTES_MAX} bytes")));
    }
    while scanner.at < source.len() {
        match scanner.open.last() {
            Some((Open::Quote(start), _)) => {
                let start = *start;
                scanner.string(start)?;
            }
            _ => scanner.code()?,
        }
        if scanner.tokens.len() > TOKENS_MAX {
            return Err(scanner.problem(scanner.at, format!("the filter has more than {TOKENS_MAX} tokens")));
        }
    }
    match scanner.open.last() {
        None => Ok(scanner.tokens),
        Some((Open::Quote(start), _)) => Err(scanner.problem(*start, "the string is not closed")),
        Some((_, start)) => {
            let opened = &source[*start..=*start];
            Err(scanner.problem(*start, format!("`{opened}` is not closed")))
        }
    }
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn starts_name(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_'
}

impl<'s> Scanner<'s> {
    fn rest(&self) -> &'s str {
        &self.source[self.at..]
    }

    fn problem(&self, at: usize, message: impl Into<String>) -> ExprProblem {
        let column = 1 + self.source[..at].chars().count();
        ExprProblem { column: u32::try_from(column).unwrap_or(u32::MAX), message: message.into() }
    }

    fn push_open(&mut self, open: Open) -> Result<(), ExprProblem> {
        self.open.push((open, self.at));
        if self.open.len() > NESTING_MAX {
            return Err(self.problem(self.at, format!("the filter nests deeper than {NESTING_MAX}")));
        }
        Ok(())
    }

    fn token(&mut self, len: usize) {
        let (counted, column) = self.counted;
        let passed = self.source[counted..self.at].chars().count();
        let column = column + u32::try_from(passed).unwrap_or(u32::MAX);
        self.counted = (self.at, column);
        self.tokens.push(Token { text: &self.source[self.at..self.at + len], column });
        self.at += len;
    }

    /// A step through a string: to its end, or into an interpolation.
    fn string(&mut self, start: usize) -> Result<(), ExprProblem> {
        let Some(found) = self.rest().find(['"', '\\']) else {
            self.at = self.source.len();
            return Ok(());
        };
        self.at += found;
        if self.rest().starts_with('"') {
            self.at += 1;
            self.open.pop();
            // The token was made at the opening quote; now it gets its length.
            if let Some(token) = self
                .tokens
                .iter_mut()
                .rev()
                .find(|token| std::ptr::eq(token.text.as_ptr(), self.source[start..].as_ptr()))
            {
                token.text = &self.source[start..self.at];
            }
        } else if self.rest().starts_with("\\(") {
            self.at += 1;
            self.push_open(Open::Interpolation)?;
            self.token(1);
        } else {
            // An escaped quote or backslash; what else follows a backslash needs no skipping.
            self.at += if self.rest()[1..].starts_with(['"', '\\', '/']) { 2 } else { 1 };
        }
        Ok(())
    }

    fn code(&mut self) -> Result<(), ExprProblem> {
        let rest = self.rest();
        let Some(c) = rest.chars().next() else { return Ok(()) };
        let name_len = |from: usize| from + rest[from..].find(|c| !is_name(c)).unwrap_or(rest.len() - from);
        match c {
            c if c.is_whitespace() => self.at += c.len_utf8(),
            '#' => self.comment(),
            '"' => {
                self.push_open(Open::Quote(self.at))?;
                self.token(1);
            }
            '(' | '[' | '{' => {
                let open = match c {
                    '(' => Open::Paren,
                    '[' => Open::Bracket,
                    _ => Open::Brace,
                };
                self.push_open(open)?;
                self.token(1);
            }
            ')' | ']' | '}' => self.close(c)?,
            c if starts_name(c) => {
                let mut len = name_len(1);
                if rest[len..].starts_with("::") {
                    len += 2;
                    len += usize::from(rest[len..].starts_with(['@', '$']));
                    len = name_len(len);
                }
                self.token(len);
            }
            '$' | '@' if rest[1..].starts_with(starts_name) => self.token(name_len(1)),
            '0'..='9' => self.token(number_len(rest)),
            '.' if rest.starts_with("..") => self.token(2),
            '.' if rest[1..].starts_with(starts_name) => self.token(name_len(1)),
            '.' | ':' | ';' | ',' | '?' => self.token(1),
            '|' | '=' | '!' | '<' | '>' | '+' | '-' | '*' | '/' | '%' => {
                let tail = rest[1..].find(|c| !"|=!<>+*/%".contains(c)).unwrap_or(rest.len() - 1);
                self.token(1 + tail);
            }
            c => return Err(self.problem(self.at, format!("unexpected character {c:?}"))),
        }
        Ok(())
    }

    fn close(&mut self, c: char) -> Result<(), ExprProblem> {
        let closes = match self.open.last().map(|(open, _)| *open) {
            Some(Open::Paren | Open::Interpolation) => c == ')',
            Some(Open::Bracket) => c == ']',
            Some(Open::Brace) => c == '}',
            Some(Open::Quote(_)) | None => false,
        };
        if !closes {
            return Err(self.problem(self.at, format!("nothing here is closed by `{c}`")));
        }
        self.open.pop();
        self.token(1);
        Ok(())
    }

    /// To the end of the line, and of the next one where it ends with an odd number of `\`.
    fn comment(&mut self) {
        self.at += 1;
        loop {
            let (line, len) = match self.rest().split_once('\n') {
                Some((line, _)) => (line, line.len() + 1),
                None => (self.rest(), self.rest().len()),
            };
            self.at += len;
            let line = line.strip_suffix('\r').unwrap_or(line);
            let continues = line.chars().rev().take_while(|c| *c == '\\').count() % 2 == 1;
            if !continues || self.at == self.source.len() {
                return;
            }
        }
    }
}

fn number_len(text: &str) -> usize {
    let digits =
        |from: usize| from + text[from..].find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len() - from);
    let mut len = digits(0);
    if text[len..].starts_with('.') {
        len = digits(len + 1);
    }
    if text[len..].starts_with(['e', 'E']) {
        len += 1;
        len += usize::from(text[len..].starts_with(['+', '-']));
        len = digits(len);
    }
    len
}
