//! Tokens that a file lists: a caller that shows one of them may do everything. With them a node
//! beyond loopback begins, and whoever has one makes the others. They are kept as their SHA-256
//! hashes, compared in constant time, and never shown, not even in an error.

use std::sync::Arc;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Shortest token: what 32 characters hold cannot be guessed.
const TOKEN_CHARS_MIN: usize = 32;
/// Longest token.
const TOKEN_CHARS_MAX: usize = 512;
/// Tokens of one file.
const TOKENS_MAX: usize = 1_000;

/// The tokens that a node takes.
#[derive(Clone)]
pub struct Tokens(Vec<Listed>);

/// One of them.
#[derive(Clone)]
pub(super) struct Listed {
    hash: [u8; 32],
    /// What the file calls it.
    pub(super) name: Option<Arc<str>>,
    /// Where in the file it stands, for whoever counts its requests: no id of the cluster's looks so.
    pub(super) place: Arc<str>,
}

impl Tokens {
    /// Reads a file's text: `TOKEN` or `NAME TOKEN` a line; what follows a `#` and empty lines count
    /// for nothing.
    ///
    /// # Errors
    /// Says which line is wrong and why, and never what stands in it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut listed: Vec<Listed> = Vec::new();
        for (number, line) in lines(text) {
            let (name, token) = token_of(line).map_err(|why| format!("line {number}: {why}"))?;
            let hash = Sha256::digest(token).into();
            if listed.iter().any(|other| other.hash == hash) {
                return Err(format!("line {number}: the token stands further up already"));
            }
            let place = format!("line {number}").into();
            listed.push(Listed { hash, name: name.map(Arc::from), place });
            if listed.len() > TOKENS_MAX {
                return Err(format!("line {number}: more than {TOKENS_MAX} tokens"));
            }
        }
        if listed.is_empty() {
            return Err("there is no token in it: one a line, `TOKEN` or `NAME TOKEN`".into());
        }
        Ok(Self(listed))
    }

    /// The first token of a file's text, for a caller that shows it.
    ///
    /// # Errors
    /// As [`Tokens::parse`].
    pub fn first(text: &str) -> Result<&str, String> {
        let (number, line) = lines(text).next().ok_or("there is no token in it")?;
        token_of(line).map(|(_, token)| token).map_err(|why| format!("line {number}: {why}"))
    }

    /// The token that this is, if it is one of these. Every one is compared, whichever it is.
    pub(super) fn find(&self, token: &str) -> Option<&Listed> {
        let hash: [u8; 32] = Sha256::digest(token).into();
        let equal = |listed: &&Listed| bool::from(listed.hash[..].ct_eq(&hash[..]));
        self.0.iter().filter(equal).fold(None, |_, listed| Some(listed))
    }
}

/// The lines that say something, numbered from 1.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.split('#').next().unwrap_or_default().trim()))
        .filter(|(_, line)| !line.is_empty())
}

/// The name, where there is one, and the token.
fn token_of(line: &str) -> Result<(Option<&str>, &str), String> {
    let mut words = line.split_whitespace();
    let (first, second) = (words.next().unwrap_or_default(), words.next());
    if words.next().is_some() {
        return Err("more than a name and a token".into());
    }
    let (name, token) = second.map_or((None, first), |token| (Some(first), token));
    if token.len() < TOKEN_CHARS_MIN {
        return Err(format!(
            "a token of {} characters; it takes {TOKEN_CHARS_MIN}: `openssl rand -hex 32` makes one",
            token.len()
        ));
    }
    // What RFC 6750 lets stand in a header.
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    if token.len() > TOKEN_CHARS_MAX || !token.bytes().all(is_allowed) {
        return Err(format!("a token has at most {TOKEN_CHARS_MAX} letters, digits, or of - . _ ~ + / ="));
    }
    Ok((name, token))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "0123456789abcdef0123456789abcdef";
    const TWO: &str = "fedcba9876543210fedcba9876543210";

    #[test]
    fn a_file_of_tokens() {
        let text = format!("# ours\n\n  alice {ONE}  # until spring\n{TWO}\n");
        let tokens = Tokens::parse(&text).unwrap();
        let name = |token: &str| tokens.find(token).map(|listed| listed.name.as_deref());
        assert_eq!((name(ONE), name(TWO)), (Some(Some("alice")), Some(None)));
        assert_eq!((name(""), name(&ONE[1..]), name("alice")), (None, None, None));
        assert_eq!(Tokens::first(&text), Ok(ONE));
    }

    #[test]
    fn errors_name_the_line_and_never_the_token() {
        let short = &ONE[1..];
        for (text, why) in [
            (String::new(), "no token"),
            ("# nothing\n".into(), "no token"),
            (format!("{ONE}\nbob {short}"), "line 2: a token of 31 characters"),
            (format!("a b {ONE}"), "line 1: more than"),
            (format!("{ONE}\n\n{ONE}"), "line 3: the token stands"),
            (format!("{ONE}\u{e9}"), "line 1: a token has at most"),
            (ONE.repeat(17), "line 1: a token has at most"),
        ] {
            let error = Tokens::parse(&text).err().unwrap();
            assert!(error.contains(why), "{error}");
            assert!(!error.contains(short), "{error}");
        }
    }
}
