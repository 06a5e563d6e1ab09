//! Text to tokens, with every bound that must hold before anything recurses.

use std::iter::Peekable;
use std::str::Chars;
use std::sync::Arc;

use super::super::{ExprProblem, NESTING_MAX, SOURCE_BYTES_MAX, TOKENS_MAX};

/// One token.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Tok {
    Int(i64),
    Float(f64),
    Str(Arc<str>),
    /// Names, keywords and operators made of letters.
    Name(Arc<str>),
    /// `#`, `#acc`, `#index`: what follows the `#`.
    Pointer(Arc<str>),
    Sym(&'static str),
    /// After the last token.
    End,
}

/// A token and where it starts, in characters from 1.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) tok: Tok,
    pub(super) column: u32,
}

/// Longest first, so that the first match is the right one.
const SYMBOLS: [&str; 32] = [
    "??", "?.", "..", "**", "==", "!=", "<=", ">=", "&&", "||", "+", "-", "*", "/", "%", "^", "<", ">", "=",
    "!", "?", ":", ".", ",", ";", "|", "(", ")", "[", "]", "{", "}",
];

pub(super) fn problem(column: u32, message: impl Into<String>) -> ExprProblem {
    ExprProblem { column, message: message.into() }
}

/// The tokens of `source`, ended by [`Tok::End`].
pub(super) fn lex(source: &str) -> Result<Vec<Token>, ExprProblem> {
    if source.len() > SOURCE_BYTES_MAX {
        return Err(problem(1, format!("the expression is longer than {SOURCE_BYTES_MAX} bytes")));
    }
    let mut lexer = Lexer { chars: source.chars().peekable(), column: 1 };
    let mut tokens = Vec::new();
    let mut nesting = 0_usize;
    loop {
        lexer.space()?;
        let column = lexer.column;
        let tok = lexer.token()?;
        match &tok {
            Tok::Sym("(" | "[" | "{") => nesting += 1,
            Tok::Sym(")" | "]" | "}") => nesting = nesting.saturating_sub(1),
            Tok::Sym(_)
            | Tok::Int(_)
            | Tok::Float(_)
            | Tok::Str(_)
            | Tok::Name(_)
            | Tok::Pointer(_)
            | Tok::End => {}
        }
        if nesting > NESTING_MAX {
            return Err(problem(column, format!("brackets nest deeper than {NESTING_MAX}")));
        }
        let end = tok == Tok::End;
        tokens.push(Token { tok, column });
        if end {
            return Ok(tokens);
        }
        if tokens.len() > TOKENS_MAX {
            return Err(problem(column, format!("the expression has more than {TOKENS_MAX} tokens")));
        }
    }
}

struct Lexer<'s> {
    chars: Peekable<Chars<'s>>,
    column: u32,
}

fn starts_name(c: char) -> bool {
    c.is_alphabetic() || c == '_' || c == '$'
}

fn continues_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

impl Lexer<'_> {
    fn peek(&mut self) -> Option<char> {
        self.chars.peek().copied()
    }

    /// The character after the next one.
    fn peek_second(&self) -> Option<char> {
        let mut ahead = self.chars.clone();
        ahead.next();
        ahead.next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.chars.next();
        self.column += u32::from(c.is_some());
        c
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T, ExprProblem> {
        Err(problem(self.column, message))
    }

    fn space(&mut self) -> Result<(), ExprProblem> {
        loop {
            match (self.peek(), self.peek_second()) {
                (Some(c), _) if c.is_whitespace() => {
                    self.next();
                }
                (Some('/'), Some('/')) => while self.next().is_some_and(|c| c != '\n') {},
                (Some('/'), Some('*')) => self.block_comment()?,
                _ => return Ok(()),
            }
        }
    }

    fn block_comment(&mut self) -> Result<(), ExprProblem> {
        let start = self.column;
        self.next();
        self.next();
        loop {
            match self.next() {
                Some('*') if self.peek() == Some('/') => {
                    self.next();
                    return Ok(());
                }
                Some(_) => {}
                None => return Err(problem(start, "the comment is not closed")),
            }
        }
    }

    fn token(&mut self) -> Result<Tok, ExprProblem> {
        let Some(c) = self.peek() else { return Ok(Tok::End) };
        match c {
            '0'..='9' => self.number(),
            '.' if self.peek_second().is_some_and(|c| c.is_ascii_digit()) => self.number(),
            '\'' | '"' => self.string(c),
            '`' => self.raw_string(),
            '#' => {
                self.next();
                Ok(Tok::Pointer(self.word().into()))
            }
            c if starts_name(c) => Ok(Tok::Name(self.word().into())),
            _ => self.symbol(c),
        }
    }

    fn word(&mut self) -> String {
        let mut word = String::new();
        while let Some(c) = self.peek().filter(|c| continues_name(*c)) {
            word.push(c);
            self.next();
        }
        word
    }

    fn symbol(&mut self, c: char) -> Result<Tok, ExprProblem> {
        let second = self.peek_second();
        let third_is_digit = self.chars.clone().nth(2).is_some_and(|c| c.is_ascii_digit());
        for symbol in SYMBOLS {
            let mut of = symbol.chars();
            let fits = of.next() == Some(c) && of.next().is_none_or(|s| second == Some(s));
            // In `a ?.5 : b` the point belongs to the number.
            if fits && !(symbol == "?." && third_is_digit) {
                for _ in symbol.chars() {
                    self.next();
                }
                return Ok(Tok::Sym(symbol));
            }
        }
        self.fail(match c {
            '&' => "`&` is not an operator; did you mean `&&`?".to_owned(),
            '~' | '@' | '\\' => format!("`{c}` is not an operator"),
            c => format!("unexpected character {c:?}"),
        })
    }

    fn number(&mut self) -> Result<Tok, ExprProblem> {
        let start = self.column;
        if self.peek() == Some('0')
            && let Some(radix) = self.peek_second().and_then(|c| match c {
                'x' | 'X' => Some(16),
                'o' | 'O' => Some(8),
                'b' | 'B' => Some(2),
                _ => None,
            })
        {
            self.next();
            self.next();
            let digits = self.word().replace('_', "");
            return i64::from_str_radix(&digits, radix)
                .map(Tok::Int)
                .map_err(|_| problem(start, format!("`{digits}` is not a 64-bit number of base {radix}")));
        }
        let mut text = String::new();
        self.digits(&mut text);
        let mut is_float = false;
        if self.peek() == Some('.') && self.peek_second().is_some_and(|c| c.is_ascii_digit()) {
            is_float = true;
            text.push('.');
            self.next();
            self.digits(&mut text);
        }
        if matches!(self.peek(), Some('e' | 'E')) {
            is_float = true;
            text.push('e');
            self.next();
            if let Some(sign) = self.peek().filter(|c| matches!(c, '+' | '-')) {
                text.push(sign);
                self.next();
            }
            self.digits(&mut text);
        }
        if self.peek().is_some_and(starts_name) {
            return self.fail("a number is followed by a letter");
        }
        if !is_float && let Ok(int) = text.parse() {
            return Ok(Tok::Int(int));
        }
        match text.parse::<f64>() {
            Ok(float) if float.is_finite() => Ok(Tok::Float(float)),
            Ok(_) | Err(_) => Err(problem(start, format!("`{text}` is not a number"))),
        }
    }

    fn digits(&mut self, into: &mut String) {
        while let Some(c) = self.peek().filter(|c| c.is_ascii_digit() || *c == '_') {
            if c != '_' {
                into.push(c);
            }
            self.next();
        }
    }

    fn raw_string(&mut self) -> Result<Tok, ExprProblem> {
        let start = self.column;
        self.next();
        let mut text = String::new();
        loop {
            match self.next() {
                Some('`') => return Ok(Tok::Str(text.into())),
                Some(c) => text.push(c),
                None => return Err(problem(start, "the string is not closed")),
            }
        }
    }

    fn string(&mut self, quote: char) -> Result<Tok, ExprProblem> {
        let start = self.column;
        self.next();
        let mut text = String::new();
        loop {
            match self.next() {
                Some(c) if c == quote => return Ok(Tok::Str(text.into())),
                Some('\\') => text.push(self.escape()?),
                Some(c) => text.push(c),
                None => return Err(problem(start, "the string is not closed")),
            }
        }
    }

    fn escape(&mut self) -> Result<char, ExprProblem> {
        let column = self.column - 1;
        let c = match self.next() {
            Some(c @ ('\\' | '\'' | '"' | '`' | '/')) => Some(c),
            Some('n') => Some('\n'),
            Some('r') => Some('\r'),
            Some('t') => Some('\t'),
            Some('b') => Some('\u{8}'),
            Some('f') => Some('\u{c}'),
            Some('v') => Some('\u{b}'),
            Some('a') => Some('\u{7}'),
            Some('0') => Some('\0'),
            Some('x') => self.hex(2).and_then(char::from_u32),
            Some('U') => self.hex(8).and_then(char::from_u32),
            Some('u') => self.unicode(),
            Some(_) | None => None,
        };
        c.ok_or_else(|| problem(column, "unknown escape in a string"))
    }

    /// Four digits, or two times four for a pair of surrogates.
    fn unicode(&mut self) -> Option<char> {
        let first = self.hex(4)?;
        if !(0xd800..0xdc00).contains(&first) {
            return char::from_u32(first);
        }
        (self.next() == Some('\\') && self.next() == Some('u')).then_some(())?;
        let second = self.hex(4).filter(|low| (0xdc00..0xe000).contains(low))?;
        char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00))
    }

    fn hex(&mut self, digits: u32) -> Option<u32> {
        (0..digits).try_fold(0_u32, |value, _| {
            let digit = self.next()?.to_digit(16)?;
            value.checked_mul(16)?.checked_add(digit)
        })
    }
}
