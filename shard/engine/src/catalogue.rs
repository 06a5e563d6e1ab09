//! The actions that exist: names, params, and whether they are pure. Running them is the shard's.
//!
//! Names, params and defaults are those of OPCODE's action reference, so that definitions written
//! for it are checked against what they were written for.

/// One param of an action.
#[derive(Clone, Copy, Debug)]
pub struct Param {
    /// Its name.
    pub name: &'static str,
    /// Other names for it, as published workflows use them; at most one may be given.
    pub aliases: &'static [&'static str],
    /// Whether it must be given.
    pub required: bool,
    /// JSON types it may have when it is written as a literal: `string`, `number`, `boolean`,
    /// `object`, `array`, `any`.
    pub types: &'static [&'static str],
    /// One line for people.
    pub about: &'static str,
}

impl Param {
    /// Whether it goes by `name`.
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.aliases.contains(&name)
    }

    const fn or(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }
}

/// One action.
#[derive(Clone, Copy, Debug)]
pub struct Action {
    /// `fs.read`.
    pub name: &'static str,
    /// Other names for it.
    pub aliases: &'static [&'static str],
    /// No side effect, so it may run before its inputs are committed.
    pub is_pure: bool,
    /// What it takes.
    pub params: &'static [Param],
    /// Whether it takes params of any other name as well; otherwise they are refused.
    pub takes_more: bool,
    /// Whether its params may name secrets. Not where what it is given, or what it makes of that, is
    /// recorded or handed on: a value that was taken apart could not be found in it again.
    pub takes_secrets: bool,
    /// One line for people.
    pub about: &'static str,
}

impl Action {
    const fn pure(mut self) -> Self {
        self.is_pure = true;
        self
    }

    const fn called(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }

    const fn with_more(mut self) -> Self {
        self.takes_more = true;
        self
    }

    /// Why its params may name no secret.
    pub(crate) fn no_secret(&self) -> String {
        let takers = "http.*, shell.exec, fs.*, crypto.hash, crypto.hmac and assert.equals take one";
        format!("{} takes no secret, since what it is given or makes of it is recorded; {takers}", self.name)
    }

    const fn with_secrets(mut self) -> Self {
        self.takes_secrets = true;
        self
    }
}

const STRING: &[&str] = &["string"];
const NUMBER: &[&str] = &["number"];
const BOOLEAN: &[&str] = &["boolean"];
const OBJECT: &[&str] = &["object"];
const ARRAY: &[&str] = &["array"];
const ANY: &[&str] = &["any"];
const SEARCHABLE: &[&str] = &["string", "array", "object"];
const OBJECT_OR_BOOLEAN: &[&str] = &["object", "boolean"];
const NUMBER_OR_STRING: &[&str] = &["number", "string"];

const fn action(name: &'static str, params: &'static [Param], about: &'static str) -> Action {
    Action { name, aliases: &[], is_pure: false, params, takes_more: false, takes_secrets: false, about }
}

const fn required(name: &'static str, types: &'static [&'static str], about: &'static str) -> Param {
    Param { name, aliases: &[], required: true, types, about }
}

const fn optional(name: &'static str, types: &'static [&'static str], about: &'static str) -> Param {
    Param { name, aliases: &[], required: false, types, about }
}

/// Every action, sorted by name.
pub const ACTIONS: &[Action] = &[
    action(
        "assert.contains",
        &[
            required("haystack", SEARCHABLE, "text, list or object to search"),
            required("needle", ANY, "what to find"),
            optional("message", STRING, "what the failure says"),
        ],
        "Fails unless a text, list or object contains a value.",
    )
    .pure(),
    action(
        "assert.equals",
        &[
            required("expected", ANY, "what it should be"),
            required("actual", ANY, "what it is"),
            optional("message", STRING, "what the failure says"),
        ],
        "Fails unless two values are equal; numbers by value.",
    )
    .pure()
    .with_secrets()
    .called(&["assert.equal"]),
    action(
        "assert.matches",
        &[
            required("value", ANY, "text to test"),
            required("pattern", STRING, "regular expression"),
            optional("message", STRING, "what the failure says"),
        ],
        "Fails unless a text matches a regular expression.",
    )
    .pure(),
    action(
        "assert.schema",
        &[
            required("data", ANY, "what to test"),
            required("schema", OBJECT_OR_BOOLEAN, "JSON Schema 2020-12"),
            optional("message", STRING, "what the failure says"),
        ],
        "Fails unless data satisfies a JSON Schema.",
    )
    .pure(),
    action(
        "assert.truthy",
        &[required("value", ANY, "what to test"), optional("message", STRING, "what the failure says")],
        "Fails unless a value is neither null, false, 0 nor empty.",
    )
    .pure(),
    action(
        "crypto.decode",
        &[
            required("data", ANY, "what to decode"),
            optional("encoding", STRING, "`base64` (default), `base64url`, `hex` or `url`"),
        ],
        "Decodes text.",
    )
    .pure(),
    action(
        "crypto.encode",
        &[
            required("data", ANY, "what to encode"),
            optional("encoding", STRING, "`base64` (default), `base64url`, `hex` or `url`"),
        ],
        "Encodes text.",
    )
    .pure(),
    action(
        "crypto.hash",
        &[
            required("data", ANY, "what to hash"),
            optional("algorithm", STRING, "`sha256` (default), `sha384`, `sha512`, `sha1` or `md5`"),
        ],
        "Hashes text.",
    )
    .pure()
    .with_secrets(),
    action(
        "crypto.hmac",
        &[
            required("data", ANY, "what to authenticate"),
            required("key", STRING, "the key"),
            optional("algorithm", STRING, "`sha256` (default), `sha384`, `sha512`, `sha1` or `md5`"),
        ],
        "Authenticates text with a key.",
    )
    .pure()
    .with_secrets(),
    action("crypto.uuid", &[optional("version", NUMBER, "4 (default) or 7")], "Makes a random UUID.").pure(),
    action(
        "expr.eval",
        &[
            required("expression", STRING, "the expression"),
            optional("data", ANY, "readable in it as `data`"),
        ],
        "Evaluates an Expr expression on the scope of the run.",
    )
    .pure(),
    action(
        "fs.append",
        &[
            required("path", STRING, "file or folder"),
            required("content", ANY, "what to append"),
            optional("encoding", STRING, "of the content: `text` (default) or `base64`"),
            optional("create_dirs", BOOLEAN, "make missing folders, default false"),
        ],
        "Appends text to a file.",
    )
    .with_secrets(),
    action(
        "fs.copy",
        &[
            required("src", STRING, "from"),
            required("dst", STRING, "to"),
            optional("overwrite", BOOLEAN, "replace what is there, default true"),
            optional("create_dirs", BOOLEAN, "make missing folders, default false"),
        ],
        "Copies a file or folder.",
    )
    .with_secrets(),
    action(
        "fs.delete",
        &[
            required("path", STRING, "file or folder"),
            optional("recursive", BOOLEAN, "folders with all in them, default false"),
        ],
        "Deletes a file or folder.",
    )
    .with_secrets(),
    action(
        "fs.list",
        &[
            required("path", STRING, "file or folder"),
            optional("pattern", STRING, "glob that names must match"),
            optional("recursive", BOOLEAN, "folders in it too, default false"),
        ],
        "Lists a folder.",
    )
    .with_secrets(),
    action(
        "fs.move",
        &[
            required("src", STRING, "from"),
            required("dst", STRING, "to"),
            optional("overwrite", BOOLEAN, "replace what is there, default true"),
            optional("create_dirs", BOOLEAN, "make missing folders, default false"),
        ],
        "Moves a file or folder.",
    )
    .with_secrets(),
    action(
        "fs.read",
        &[
            required("path", STRING, "file or folder"),
            optional("encoding", STRING, "`text`, `base64` or `auto` (default)"),
            optional("max_bytes", NUMBER, "a larger file is an error"),
        ],
        "Reads a file.",
    )
    .with_secrets(),
    action(
        "fs.stat",
        &[required("path", STRING, "file or folder")],
        "Tells size, time and kind of a file or folder.",
    )
    .with_secrets(),
    action(
        "fs.write",
        &[
            required("path", STRING, "file or folder"),
            required("content", ANY, "what to write"),
            optional("encoding", STRING, "of the content: `text` (default) or `base64`"),
            optional("overwrite", BOOLEAN, "replace what is there, default true"),
            optional("create_dirs", BOOLEAN, "make missing folders, default false"),
            optional("mode", NUMBER_OR_STRING, "permissions, default 0644"),
        ],
        "Writes a file.",
    )
    .with_secrets(),
    action(
        "http.get",
        &[
            required("url", STRING, "where to"),
            optional("headers", OBJECT, "request headers, name to value"),
            optional(
                "auth",
                OBJECT,
                "`{type: bearer|basic|api_key, token, username, password, header_name, header_value}`",
            ),
            optional("timeout", STRING, "longest time of the call, `30s`"),
            optional("follow_redirects", BOOLEAN, "follow redirects, default true"),
            optional("max_redirects", NUMBER, "most redirects, default 10"),
            optional("tls_skip_verify", BOOLEAN, "accept any certificate, default false"),
            optional("fail_on_error_status", BOOLEAN, "fail on a status of 400 and more, default false"),
        ],
        "Gets a URL.",
    )
    .with_secrets(),
    action(
        "http.post",
        &[
            required("url", STRING, "where to"),
            optional("headers", OBJECT, "request headers, name to value"),
            optional("body", ANY, "request body"),
            optional("body_encoding", STRING, "`json` (default), `form`, `text` or `raw`"),
            optional(
                "auth",
                OBJECT,
                "`{type: bearer|basic|api_key, token, username, password, header_name, header_value}`",
            ),
            optional("timeout", STRING, "longest time of the call, `30s`"),
            optional("follow_redirects", BOOLEAN, "follow redirects, default true"),
            optional("max_redirects", NUMBER, "most redirects, default 10"),
            optional("tls_skip_verify", BOOLEAN, "accept any certificate, default false"),
            optional("fail_on_error_status", BOOLEAN, "fail on a status of 400 and more, default false"),
        ],
        "Posts to a URL.",
    )
    .with_secrets(),
    action(
        "http.request",
        &[
            required("url", STRING, "where to"),
            optional("headers", OBJECT, "request headers, name to value"),
            optional("method", STRING, "default GET"),
            optional("body", ANY, "request body"),
            optional("body_encoding", STRING, "`json` (default), `form`, `text` or `raw`"),
            optional(
                "auth",
                OBJECT,
                "`{type: bearer|basic|api_key, token, username, password, header_name, header_value}`",
            ),
            optional("timeout", STRING, "longest time of the call, `30s`"),
            optional("follow_redirects", BOOLEAN, "follow redirects, default true"),
            optional("max_redirects", NUMBER, "most redirects, default 10"),
            optional("tls_skip_verify", BOOLEAN, "accept any certificate, default false"),
            optional("fail_on_error_status", BOOLEAN, "fail on a status of 400 and more, default false"),
        ],
        "Calls a URL with any method.",
    )
    .with_secrets(),
    action(
        "jq",
        &[required("filter", STRING, "the filter"), optional("data", ANY, "its input")],
        "Runs a jq filter on data or on the scope of the run.",
    )
    .pure(),
    action(
        "shell.exec",
        &[
            required("command", STRING, "program, or command line with `shell`"),
            optional("args", ARRAY, "its arguments"),
            optional("env", OBJECT, "environment variables, name to value"),
            optional("cwd", STRING, "folder to run in"),
            optional("stdin", ANY, "what it reads"),
            optional("timeout", STRING, "longest time, `30s`"),
            optional("shell", BOOLEAN, "run by `/bin/sh -c`, default false"),
            optional("fail_on_nonzero_exit", BOOLEAN, "fail unless it exits with 0, default false"),
        ],
        "Runs a command.",
    )
    .with_secrets(),
    action(
        "workflow.context",
        &[
            optional("action", STRING, "`update`; to read, write `${{context.NAME}}`"),
            optional("name", STRING, "which variable to set").or(&["key"]),
            optional("value", ANY, "what to set it to"),
            optional("variables", OBJECT, "variables to set, name to value").or(&["data"]),
            optional("agent_notes", STRING, "notes to keep"),
            optional("workflow_id", STRING, "of this run; another run's context cannot be set"),
        ],
        "Sets variables of the run's context.",
    ),
    action(
        "workflow.emit",
        &[
            required("event_type", STRING, "its type").or(&["event", "signal"]),
            optional("payload", ANY, "its data").or(&["data"]),
        ],
        "Records an event of the workflow's own and shows it to subscribers.",
    )
    .pure(),
    action(
        "workflow.fail",
        &[required("reason", STRING, "why").or(&["message"]), optional("details", ANY, "data for a program")],
        "Fails the run.",
    )
    .pure(),
    action(
        "workflow.log",
        &[
            required("message", ANY, "what to say"),
            optional("level", STRING, "`debug`, `info` (default), `warn` or `error`"),
            optional("data", ANY, "more to log"),
        ],
        "Writes a line to the log.",
    )
    .pure()
    .with_more(),
    action(
        "workflow.notify",
        &[required("message", ANY, "what to say"), optional("data", ANY, "more to say")],
        "Notifies the agent of the run, if it listens.",
    )
    .pure()
    .with_more(),
    action(
        "workflow.run",
        &[
            required("template_name", STRING, "which template").or(&["template"]),
            optional("version", NUMBER_OR_STRING, "which version, `v2` or 2, default the latest"),
            optional("params", OBJECT, "its params"),
            optional("wait", BOOLEAN, "wait for its end, default true"),
            optional("agent_id", STRING, "its agent, default the run's own"),
            optional("context", OBJECT, "its context, beside the run's own intent"),
            optional("labels", OBJECT, "its labels, name to text"),
        ],
        "Runs another workflow as a child.",
    ),
];

/// What is known of every action that a plugin brings: its params are its tool's, which only is there
/// when it runs. It takes no secret, since a program of others may do with it what it likes; a
/// plugin is given its secrets in its environment.
pub(crate) const PLUGIN_TOOL: Action = Action {
    name: "a plugin's tool",
    aliases: &[],
    is_pure: false,
    params: &[],
    takes_more: true,
    takes_secrets: false,
    about: "Calls a tool of an MCP server.",
};

/// Longest namespace of a plugin, and longest name of a tool, in bytes.
pub const NAMESPACE_BYTES_MAX: usize = 64;
const TOOL_BYTES_MAX: usize = 128;

/// Whether plugins may bring actions of this namespace: `[A-Za-z0-9_-]{1,64}`, and no family of ours.
pub fn is_plugin_namespace(namespace: &str) -> bool {
    let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    let is_ours = |action: &Action| action.name.split('.').next() == Some(namespace);
    (1..=NAMESPACE_BYTES_MAX).contains(&namespace.len())
        && namespace.bytes().all(is_name)
        && namespace != "opcode"
        && !ACTIONS.iter().any(is_ours)
}

/// The namespace and the tool of an action that only a plugin can bring, `NAMESPACE.tool`.
pub fn plugin_action(name: &str) -> Option<(&str, &str)> {
    let (namespace, tool) = name.split_once('.')?;
    let is_tool = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.' | b'/');
    let fits = (1..=TOOL_BYTES_MAX).contains(&tool.len()) && tool.bytes().all(is_tool);
    (fits && is_plugin_namespace(namespace)).then_some((namespace, tool))
}

/// The action of this name or alias, plugins' included, as far as it is known before it runs.
pub(crate) fn find_any(name: &str) -> Option<&'static Action> {
    find(name).or_else(|| plugin_action(name).is_some().then_some(&PLUGIN_TOOL))
}

/// The action of this name or alias.
pub fn find(name: &str) -> Option<&'static Action> {
    ACTIONS.iter().find(|a| a.name == name || a.aliases.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::{ACTIONS, find, plugin_action};

    #[test]
    fn names_are_sorted_and_lead_to_their_action() {
        assert!(ACTIONS.is_sorted_by(|a, b| a.name < b.name));
        for action in ACTIONS {
            assert_eq!(find(action.name).unwrap().name, action.name);
        }
        assert_eq!(find("assert.equal").unwrap().name, "assert.equals");
        assert!(find("assert").is_none());
    }

    #[test]
    fn a_plugin_brings_what_is_not_ours() {
        assert_eq!(plugin_action("files.read_text"), Some(("files", "read_text")));
        assert_eq!(plugin_action("files.a/b.c"), Some(("files", "a/b.c")));
        let long = format!("files.{}", "t".repeat(129));
        for none in ["fs.such", "jq.x", "opcode.run", "files", "files.", ".x", "a b.c", "a.b c", "a.é", &long]
        {
            assert_eq!(plugin_action(none), None, "{none}");
        }
    }
}
