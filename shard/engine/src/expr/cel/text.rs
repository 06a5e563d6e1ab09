//! From source to the text that CEL's parser gets: bounded, with `loop` made a name it accepts.

use crate::expr::ExprProblem;
use crate::expr::guard::{self, Language, Token, TokenKind};

/// Most open brackets and conditionals around one place. The parser spends 10 to 20 KiB of stack
/// on each, and this has to fit the stack of any thread beside what called us.
pub(super) const DEPTH_MAX: usize = 32;

/// Most operators and accesses in a row, `a.b.c…` or `1 + 1 + …`, brackets included: the parser
/// and the tree's destructor recurse over them.
pub(super) const HEIGHT_MAX: usize = 256;

/// The text to parse: as long as `source`, its columns the same.
pub(super) fn prepare(source: &str) -> Result<String, ExprProblem> {
    let tokens = guard::tokens(source, Language::Cel)?;
    check_heights(source, &tokens)?;
    let mut text = source.to_owned();
    for (at, token) in tokens.iter().enumerate() {
        let is_field = at > 0 && matches!(&source[tokens[at - 1].start..tokens[at - 1].end], "." | "?.");
        if token.kind == TokenKind::Word && &source[token.start..token.end] == "loop" && !is_field {
            text.replace_range(token.start..token.end, "iter");
        }
    }
    Ok(text)
}

/// What is known of one bracket: an upper bound of the height of the tree it will become.
#[derive(Default)]
struct Frame {
    /// Operators since the last comma, `&&`, `||`, `?` or `:`; each may stand above the others.
    operators: usize,
    /// The highest bracket among them.
    child: usize,
    /// Conditionals; each stands above what follows it.
    conditionals: usize,
    /// The highest so far.
    height: usize,
}

impl Frame {
    fn end_segment(&mut self) {
        self.height = self.height.max(self.operators + self.child + self.conditionals);
        self.operators = 0;
        self.child = 0;
    }
}

fn check_heights(source: &str, tokens: &[Token]) -> Result<(), ExprProblem> {
    let problem = |token: &Token, message: String| {
        Err(ExprProblem { column: guard::column(source, token.start), message })
    };
    let mut frames = vec![Frame::default()];
    let mut depth = 0;
    for token in tokens {
        let top = frames.last_mut().expect("the outermost frame is never closed");
        match (token.kind, &source[token.start..token.end]) {
            (TokenKind::Open, _) => {
                depth += 1;
                frames.push(Frame::default());
            }
            (TokenKind::Close, _) => {
                top.end_segment();
                let (height, conditionals) = (top.height, top.conditionals);
                frames.pop();
                depth -= 1 + conditionals;
                let parent = frames.last_mut().expect("brackets match");
                parent.operators += 1;
                parent.child = parent.child.max(height + 1);
            }
            (TokenKind::Symbol, "?") => {
                top.end_segment();
                top.conditionals += 1;
                depth += 1;
            }
            (TokenKind::Symbol, "," | ":" | "&&" | "||") => top.end_segment(),
            (TokenKind::Symbol, _) | (TokenKind::Word, "in") => top.operators += 1,
            (TokenKind::Word | TokenKind::Number | TokenKind::Text, _) => {}
        }
        let top = frames.last().expect("the outermost frame is never closed");
        if depth > DEPTH_MAX {
            return problem(token, format!("the expression is nested more than {DEPTH_MAX} deep"));
        }
        if top.operators + top.child + top.conditionals > HEIGHT_MAX {
            let message = format!("more than {HEIGHT_MAX} operators and accesses in a row");
            return problem(token, message);
        }
    }
    Ok(())
}
