//! Why a client command failed, what to tell the user about it, and its exit code.

use std::process::ExitCode;

use serde_json::Value;

use super::output::Format;

/// A command that failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The node refused: its problem document.
    Problem { status: u16, document: Value },
    /// No answer.
    Unreachable { server: String, cause: String },
    /// No answer, or no end of a run, in time.
    TimedOut(String),
    /// The run ended otherwise than well; the message says how.
    Workflow(String),
    /// Something here is wrong: a file, a flag's value.
    Local(String),
    /// The command line is wrong.
    Usage(String),
    /// Some of it was done; the message says what was not.
    Partial(String),
    /// Told already; only the exit code is left.
    Shown,
}

impl Failure {
    pub(crate) fn local(message: impl Into<String>) -> Self {
        Self::Local(message.into())
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Problem { status, .. } => match status {
                401 | 403 => 5,
                404 => 4,
                408 | 504 => 6,
                409 | 412 | 428 => 8,
                429 | 502 | 503 => 7,
                _ => 1,
            },
            Self::Unreachable { .. } | Self::Partial(_) => 7,
            Self::TimedOut(_) => 6,
            Self::Workflow(_) => 3,
            Self::Local(_) | Self::Shown => 1,
            Self::Usage(_) => 2,
        })
    }

    /// Tells it on stderr: for machines the problem document, for people sentences.
    pub(crate) fn print(&self, format: Format) {
        if let (Self::Problem { document, .. }, Format::Json | Format::Jsonl) = (self, format) {
            eprintln!("{document}");
            return;
        }
        match self {
            Self::Problem { status, document } => print_problem(*status, document),
            Self::Unreachable { server, cause } => {
                eprintln!("opcode: cannot reach {server}: is a node running? start one with `opcode dev`");
                eprintln!("  ({cause}; another node: --server URL or OPCODE_SERVER)");
            }
            Self::TimedOut(message)
            | Self::Workflow(message)
            | Self::Partial(message)
            | Self::Local(message)
            | Self::Usage(message) => {
                eprintln!("opcode: {message}");
            }
            Self::Shown => {}
        }
    }
}

fn print_problem(status: u16, document: &Value) {
    let text = |name| document.get(name).and_then(Value::as_str);
    let code = text("code").map_or_else(|| format!("HTTP {status}"), str::to_owned);
    eprintln!("opcode: {} ({code})", text("detail").or(text("title")).unwrap_or("the node refused"));
    let errors = document.get("errors").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if errors.len() > 1 {
        for error in errors {
            let part = |name| error.get(name).and_then(Value::as_str).unwrap_or_default();
            eprintln!("  {}: {}", part("pointer"), part("message"));
        }
    }
    match text("applied") {
        Some("no") => eprintln!("  nothing was applied: it is safe to try again"),
        Some(_) => eprintln!("  it may have been applied: try again with the same id"),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_the_exit_code_of_the_contract() {
        let code = |status| {
            let failure = Failure::Problem { status, document: Value::Null };
            format!("{:?}", failure.exit_code())
        };
        let expect = |code: u8| format!("{:?}", ExitCode::from(code));
        for (status, exit) in
            [(400, 1), (422, 1), (401, 5), (403, 5), (404, 4), (409, 8), (429, 7), (503, 7), (500, 1)]
        {
            assert_eq!(code(status), expect(exit), "{status}");
        }
    }
}
