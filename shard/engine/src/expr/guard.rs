//! Bounds on an expression's text that hold before any parser sees it.
//!
//! Parsers recurse, and a stack overflow aborts the process, so length, tokens and nesting are
//! checked here first, by a lexer that knows strings and comments and never recurses. What it
//! lets through is lexically sound: brackets match, strings end. It never judges grammar.

use super::{ExprProblem, NESTING_MAX, SOURCE_BYTES_MAX, TOKENS_MAX};

/// Whose strings, comments and characters to expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// `'…'`, `"…"`, tripled, raw with `r`; `//` comments.
    Cel,
    /// `'…'`, `"…"`, raw between backticks; `//` and `/* */` comments.
    Expr,
    /// `"…"` with `\( … )` inside; `#` comments.
    Jq,
}

/// What a token is, as far as bounds care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// `(`, `[`, `{`, and jq's `\(`.
    Open,
    /// `)`, `]`, `}`.
    Close,
    /// Any other punctuation, two characters when they belong together.
    Symbol,
    /// A name or keyword.
    Word,
    /// A number.
    Number,
    /// A string, or a piece of one around jq's `\( … )`.
    Text,
}

/// One token and its place in the source, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: TokenKind,
    /// First byte.
    pub start: usize,
    /// Byte after the last.
    pub end: usize,
}

/// The column, from 1 and in characters, of a byte offset.
pub fn column(source: &str, offset: usize) -> u32 {
    let chars = source.char_indices().take_while(|(at, _)| *at < offset).count();
    u32::try_from(chars + 1).unwrap_or(u32::MAX)
}

/// The tokens of `source`, if it is short, flat and lexically sound enough to be parsed.
pub fn tokens(source: &str, language: Language) -> Result<Vec<Token>, ExprProblem> {
    if source.len() > SOURCE_BYTES_MAX {
        let message =
            format!("the expression has {} bytes, more than the {SOURCE_BYTES_MAX} allowed", source.len());
        return Err(ExprProblem { column: 1, message });
    }
    let mut lexer = Lexer { source, language, at: 0, open: Vec::new(), tokens: Vec::new() };
    while lexer.next()? {}
    match lexer.open.last() {
        Some(open) => Err(lexer.problem(open.at, format!("`{}` is never closed", open.spelled()))),
        None if lexer.tokens.is_empty() => Err(lexer.problem(0, "the expression is empty".into())),
        None => Ok(lexer.tokens),
    }
}

/// An open bracket.
struct Open {
    close: char,
    at: usize,
    in_string: bool,
}

impl Open {
    fn spelled(&self) -> &'static str {
        match (self.close, self.in_string) {
            (_, true) => "\\(",
            (')', _) => "(",
            (']', _) => "[",
            _ => "{",
        }
    }
}

struct Lexer<'s> {
    source: &'s str,
    language: Language,
    at: usize,
    open: Vec<Open>,
    tokens: Vec<Token>,
}

/// Symbols of two characters, over all three languages; longer ones count as two.
const PAIRS: [&str; 19] = [
    "&&", "||", "==", "!=", "<=", ">=", "??", "?.", "..", "//", "|=", "+=", "-=", "*=", "/=", "%=", "**",
    "=~", "::",
];

impl<'s> Lexer<'s> {
    fn problem(&self, offset: usize, message: String) -> ExprProblem {
        ExprProblem { column: column(self.source, offset), message }
    }

    fn rest(&self) -> &'s str {
        &self.source[self.at..]
    }

    fn push(&mut self, kind: TokenKind, start: usize) -> Result<(), ExprProblem> {
        if self.tokens.len() == TOKENS_MAX {
            return Err(self.problem(start, format!("the expression has more than {TOKENS_MAX} tokens")));
        }
        self.tokens.push(Token { kind, start, end: self.at });
        Ok(())
    }

    /// Lexes one token or stretch of blanks; false at the end.
    fn next(&mut self) -> Result<bool, ExprProblem> {
        let start = self.at;
        let Some(c) = self.rest().chars().next() else { return Ok(false) };
        if c.is_whitespace() {
            self.at += c.len_utf8();
        } else if self.skips_comment()? {
        } else if let Some(prefix) = self.string_prefix() {
            self.at += prefix;
            self.string(start)?;
        } else if c.is_ascii_digit() {
            self.number();
            self.push(TokenKind::Number, start)?;
        } else if self.is_word(c) {
            self.at += self.rest().find(|c| !is_word_part(c)).unwrap_or(self.rest().len()).max(c.len_utf8());
            self.push(TokenKind::Word, start)?;
        } else {
            self.punctuation(c, start)?;
        }
        Ok(true)
    }

    fn is_word(&self, c: char) -> bool {
        c.is_ascii_alphabetic() || c == '_' || (self.language != Language::Cel && (c == '$' || c == '@'))
    }

    fn skips_comment(&mut self) -> Result<bool, ExprProblem> {
        let rest = self.rest();
        let is_line = match self.language {
            Language::Cel | Language::Expr => rest.starts_with("//"),
            Language::Jq => rest.starts_with('#'),
        };
        if is_line {
            self.at += rest.find('\n').unwrap_or(rest.len());
            return Ok(true);
        }
        if self.language == Language::Expr && rest.starts_with("/*") {
            let Some(end) = rest[2..].find("*/") else {
                return Err(self.problem(self.at, "the comment is never closed".into()));
            };
            self.at += end + 4;
            return Ok(true);
        }
        Ok(false)
    }

    /// Bytes before the quote when a string starts here: `r`, `b`, `br` in CEL, none elsewhere.
    fn string_prefix(&self) -> Option<usize> {
        let rest = self.rest().as_bytes();
        let quote = |at: usize| match rest.get(at) {
            Some(b'"') => true,
            Some(b'\'') => self.language != Language::Jq,
            Some(b'`') => self.language != Language::Jq && at == 0,
            _ => false,
        };
        let is = |at: usize, letter: u8| rest.get(at).is_some_and(|b| b.eq_ignore_ascii_case(&letter));
        if quote(0) {
            Some(0)
        } else if self.language != Language::Cel {
            None
        } else if (is(0, b'r') || is(0, b'b')) && quote(1) {
            Some(1)
        } else {
            (is(0, b'b') && is(1, b'r') && quote(2)).then_some(2)
        }
    }

    /// Lexes a string whose opening quote is at `self.at`.
    fn string(&mut self, start: usize) -> Result<(), ExprProblem> {
        let quote = self.rest().as_bytes()[0] as char;
        let prefix = &self.source[start..self.at];
        let is_raw = quote == '`' || prefix.contains(['r', 'R']);
        let tripled: String = [quote; 3].iter().collect();
        let is_tripled = self.language == Language::Cel && quote != '`' && self.rest().starts_with(&tripled);
        let end = if is_tripled { tripled.as_str() } else { &tripled[..1] };
        self.at += end.len();
        self.string_rest(start, end, is_raw)
    }

    /// Lexes up to the end of a string, or up to jq's `\(` in it.
    fn string_rest(&mut self, start: usize, end: &str, is_raw: bool) -> Result<(), ExprProblem> {
        loop {
            let rest = self.rest();
            let Some(c) = rest.chars().next() else {
                return Err(self.problem(start, "the string is never closed".into()));
            };
            if rest.starts_with(end) {
                self.at += end.len();
                return self.push(TokenKind::Text, start);
            }
            // A CEL string of one line that does not end on it is lexed differently by the
            // parser, which must not meet what was never counted.
            if self.language == Language::Cel && end.len() == 1 && matches!(c, '\n' | '\r') {
                return Err(self.problem(start, "the string is never closed on its line".into()));
            }
            if c != '\\' || is_raw {
                self.at += c.len_utf8();
                continue;
            }
            match (self.language, rest[1..].chars().next()) {
                (_, None) => return Err(self.problem(start, "the string is never closed".into())),
                (Language::Jq, Some('(')) => {
                    self.push(TokenKind::Text, start)?;
                    self.at += 2;
                    return self.opens(')', self.at - 2, true);
                }
                (Language::Cel, Some(escape)) => self.cel_escape(escape)?,
                (Language::Expr | Language::Jq, Some(escape)) => self.at += 1 + escape.len_utf8(),
            }
        }
    }

    /// Steps over one escape of CEL; a wrong one would end the string for its parser.
    fn cel_escape(&mut self, escape: char) -> Result<(), ExprProblem> {
        let (skip, digits, radix) = match escape {
            'a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '\\' | '?' | '"' | '\'' | '`' => (2, 0, 10),
            'x' | 'X' => (2, 2, 16),
            'u' => (2, 4, 16),
            'U' => (2, 8, 16),
            '0'..='3' => (1, 3, 8),
            _ => return Err(self.problem(self.at, format!("`\\{escape}` is not an escape"))),
        };
        let body = self.rest().get(skip..skip + digits).unwrap_or("");
        if body.len() != digits || !body.chars().all(|c| c.is_digit(radix)) {
            return Err(self.problem(self.at, format!("`\\{escape}` wants {digits} digits of base {radix}")));
        }
        self.at += skip + digits;
        Ok(())
    }

    fn number(&mut self) {
        let bytes = self.source.as_bytes();
        let mut at = self.at;
        if bytes[at] == b'0' && matches!(bytes.get(at + 1), Some(b'x' | b'X')) {
            at += 2;
            at += bytes[at..].iter().take_while(|b| b.is_ascii_hexdigit()).count();
        } else {
            let digits = |at: usize| bytes[at..].iter().take_while(|b| b.is_ascii_digit()).count();
            at += digits(at);
            if bytes.get(at) == Some(&b'.') && digits(at + 1) > 0 {
                at += 1 + digits(at + 1);
            }
            if matches!(bytes.get(at), Some(b'e' | b'E')) {
                let sign = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
                if at + 1 + sign < bytes.len() && digits(at + 1 + sign) > 0 {
                    at += 1 + sign + digits(at + 1 + sign);
                }
            }
        }
        if self.language == Language::Cel && matches!(bytes.get(at), Some(b'u' | b'U')) {
            at += 1;
        }
        self.at = at;
    }

    fn opens(&mut self, close: char, at: usize, in_string: bool) -> Result<(), ExprProblem> {
        if self.open.len() == NESTING_MAX {
            return Err(self.problem(at, format!("the expression is nested more than {NESTING_MAX} deep")));
        }
        self.open.push(Open { close, at, in_string });
        self.push(TokenKind::Open, at)
    }

    fn closes(&mut self, c: char, start: usize) -> Result<(), ExprProblem> {
        match self.open.pop() {
            Some(open) if open.close == c => {
                self.push(TokenKind::Close, start)?;
                if open.in_string { self.string_rest(self.at, "\"", false) } else { Ok(()) }
            }
            Some(open) => {
                Err(self
                    .problem(start, format!("`{c}` closes `{}`: expected `{}`", open.spelled(), open.close)))
            }
            None => Err(self.problem(start, format!("`{c}` closes nothing"))),
        }
    }

    fn punctuation(&mut self, c: char, start: usize) -> Result<(), ExprProblem> {
        self.at += c.len_utf8();
        match c {
            '(' => self.opens(')', start, false),
            '[' => self.opens(']', start, false),
            '{' => self.opens('}', start, false),
            ')' | ']' | '}' => self.closes(c, start),
            _ => {
                if PAIRS.iter().any(|pair| self.source[start..].starts_with(pair)) {
                    self.at = start + 2;
                }
                let symbol = &self.source[start..self.at];
                let is_known = match self.language {
                    Language::Cel => CEL_SYMBOLS.contains(&symbol),
                    // Their parsers name what they do not know themselves.
                    Language::Expr | Language::Jq => true,
                };
                if !is_known {
                    return Err(self.problem(start, format!("unexpected `{symbol}`")));
                }
                self.push(TokenKind::Symbol, start)
            }
        }
    }
}

/// All of CEL's punctuation but brackets; anything else would be skipped by its lexer.
const CEL_SYMBOLS: [&str; 19] =
    ["&&", "||", "==", "!=", "<=", ">=", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", ".", ",", "?."];

fn is_word_part(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '$' | '@')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str, language: Language, expect: Result<usize, (u32, &str)>) {
        match (tokens(source, language), expect) {
            (Ok(found), Ok(count)) => assert_eq!(found.len(), count, "{source}: {found:?}"),
            (Err(problem), Err((column, part))) => {
                assert_eq!(problem.column, column, "{source}: {}", problem.message);
                assert!(problem.message.contains(part), "{source}: {}", problem.message);
            }
            (found, expect) => panic!("{source}: {found:?}, expected {expect:?}"),
        }
    }

    #[test]
    fn counts_tokens_and_knows_strings() {
        check("a.b == 'x(' && c", Language::Cel, Ok(7));
        check(r#"r'\' + b"x" + '''a'b'''"#, Language::Cel, Ok(5));
        check("1.5e3 + 0xFFu + 2.size()", Language::Cel, Ok(9));
        check("a // ) comment", Language::Cel, Ok(1));
        check("`a-b` /* ( */ ?? 1", Language::Expr, Ok(3));
        check(r#""a\("b" + "c")d" # ("#, Language::Jq, Ok(7));
    }

    #[test]
    fn names_what_is_unsound_and_where() {
        check("", Language::Cel, Err((1, "empty")));
        check("(1", Language::Cel, Err((1, "never closed")));
        check("a[1)", Language::Cel, Err((4, "expected `]`")));
        check("1)", Language::Cel, Err((2, "closes nothing")));
        check("é + 'x'", Language::Cel, Err((1, "unexpected `é`")));
        check("'é' + 'x", Language::Cel, Err((7, "never closed")));
        check(r"'\q'", Language::Cel, Err((2, "not an escape")));
        check(r"'\x1'", Language::Cel, Err((2, "2 digits")));
        check("'a\nb'", Language::Cel, Err((1, "on its line")));
        check(r#""a\(1""#, Language::Jq, Err((6, "never closed")));
        check("/* a", Language::Expr, Err((1, "comment")));
    }

    #[test]
    fn bounds_length_tokens_and_nesting() {
        check(&"a".repeat(SOURCE_BYTES_MAX + 1), Language::Jq, Err((1, "bytes")));
        check(&"1+".repeat(TOKENS_MAX), Language::Expr, Err((2001, "tokens")));
        check(&"[".repeat(NESTING_MAX + 1), Language::Jq, Err((65, "deep")));
        check(&"\"\\(".repeat(NESTING_MAX + 1), Language::Jq, Err((194, "deep")));
    }
}
