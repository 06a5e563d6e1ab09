//! A plugin as it is registered: what program speaks MCP on its stdin and stdout, and which namespace
//! of actions its tools are in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use opcode_engine::Problem;
use opcode_engine::catalogue::is_plugin_namespace;
use opcode_engine::definition::parse_duration_ms;
use opcode_engine::expr::interpolate::is_secret_key;
use opcode_engine::ids::Timestamp;
use opcode_shard::catalogue::CatalogueEntry;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{ApiError, Applied};
use crate::wire::{Fields, unknown};

/// Longest command, argument, and value of a variable, in bytes.
const TEXT_BYTES_MAX: usize = 8 * 1024;
/// Arguments, and variables, at most.
const ARGS_MAX: usize = 256;
const ENV_MAX: usize = 128;
/// Longest time of a call that a plugin may be given.
const TIMEOUT_MS_MAX: u64 = 24 * 3_600_000;

/// When a plugin that has ended is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Restart {
    /// Always, each time after a longer pause.
    #[default]
    Always,
    /// Not until it is registered anew, or its node starts.
    Never,
}

/// A plugin as the catalogue keeps it, under its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Registered {
    pub(crate) namespace: Arc<str>,
    pub(crate) command: String,
    pub(crate) args: Vec<String>,
    /// Values as written: `${{secrets.KEY}}` stays so until the plugin starts.
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) restart: Restart,
    /// As written, of one call without a timeout of its step's.
    pub(crate) timeout: Option<String>,
    pub(crate) created_at: Timestamp,
}

/// A plugin with its place in the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plugin {
    pub(crate) name: Arc<str>,
    pub(crate) revision: u64,
    pub(crate) registered: Registered,
}

impl Plugin {
    /// What an entry says, if this build can read it.
    pub(crate) fn of(entry: &CatalogueEntry) -> Result<Self, ApiError> {
        let unreadable = |_| {
            let message = format!("the plugin `{}` cannot be read by this build", entry.key);
            ApiError::unavailable(Applied::No, message)
        };
        let registered = serde_json::from_str(entry.body.as_deref().unwrap_or_default());
        let registered = registered.map_err(unreadable)?;
        Ok(Self { name: entry.key.clone(), revision: entry.revision, registered })
    }
}

impl Registered {
    /// The name and the plugin of a body. Problems stay with the fields.
    pub(crate) fn read(fields: &mut Fields<'_>, now: Timestamp) -> Option<(Arc<str>, Self)> {
        let name = fields.string("name");
        let namespace = fields.string("namespace");
        let namespace = namespace.or_else(|| name.clone());
        match (&name, namespace.as_deref()) {
            (None, _) => fields.problem("name", "is missing: `[A-Za-z0-9_-]{1,64}`"),
            (Some(name), _) if !is_name(name) => fields.problem("name", "must be `[A-Za-z0-9_-]{1,64}`"),
            (Some(_), Some(namespace)) if !is_plugin_namespace(namespace) => {
                let given = if fields.is_given("namespace") { "namespace" } else { "name" };
                let what = "as a namespace must be `[A-Za-z0-9_-]{1,64}`, and none of the actions that are \
                            built in";
                fields.problem(given, what);
            }
            (Some(_), _) => {}
        }
        let registered = Self {
            namespace: namespace.unwrap_or_default().into(),
            command: command(fields),
            args: args(fields),
            env: env(fields),
            restart: restart(fields),
            timeout: timeout(fields),
            created_at: now,
        };
        Some((name?.into(), registered))
    }

    /// Whether it is the same but for when it was made.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        Self { created_at: other.created_at, ..self.clone() } == *other
    }

    /// Longest time of a call, in ms, when its step has none.
    pub(crate) fn timeout_ms(&self) -> Option<u64> {
        self.timeout.as_deref().and_then(|text| parse_duration_ms(text).ok())
    }

    /// The secrets that its environment names.
    pub(crate) fn secrets(&self) -> BTreeSet<&str> {
        let pieces = self.env.values().flat_map(|value| pieces(value).unwrap_or_default());
        pieces.filter_map(|piece| if let Piece::Secret(key) = piece { Some(key) } else { None }).collect()
    }

    /// Its environment, with the values of secrets in place.
    pub(crate) fn environment<'v>(&self, secret: impl Fn(&str) -> &'v str) -> Vec<(String, String)> {
        let filled = |value: &String| {
            let pieces = pieces(value).unwrap_or_default();
            let texts = pieces.iter().map(|piece| match piece {
                Piece::Text(text) => (*text).to_owned(),
                Piece::Secret(key) => secret(key).to_owned(),
            });
            texts.collect::<String>()
        };
        self.env.iter().map(|(name, value)| (name.clone(), filled(value))).collect()
    }

    /// Its environment as it is shown: which secrets it names, and of other values only that they are.
    pub(crate) fn shown_env(&self) -> BTreeMap<&str, &str> {
        let shown = self.env.iter().map(|(name, value)| {
            let is_secret = matches!(pieces(value).as_deref(), Some([Piece::Secret(_)]));
            (name.as_str(), if is_secret { value.as_str() } else { "(not shown)" })
        });
        shown.collect()
    }
}

/// Whether a plugin may be called so: its folder is.
pub(crate) fn is_name(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
    (1..=64).contains(&name.len()) && name.bytes().all(fits)
}

/// A part of a variable's value.
#[derive(Debug, PartialEq)]
enum Piece<'a> {
    Text(&'a str),
    Secret(&'a str),
}

/// A value's parts; none when a token in it names no secret.
fn pieces(value: &str) -> Option<Vec<Piece<'_>>> {
    let (mut pieces, mut rest) = (Vec::new(), value);
    while let Some((before, after)) = rest.split_once("${{") {
        let (token, after) = after.split_once("}}")?;
        let key = token.trim().strip_prefix("secrets.").filter(|key| is_secret_key(key))?;
        pieces.extend((!before.is_empty()).then_some(Piece::Text(before)));
        pieces.push(Piece::Secret(key));
        rest = after;
    }
    pieces.extend((!rest.is_empty()).then_some(Piece::Text(rest)));
    Some(pieces)
}

/// What a process can be given, and others can see: no NUL, no secret.
fn plain(text: &str) -> Result<(), String> {
    if text.len() > TEXT_BYTES_MAX || text.contains('\0') {
        return Err(format!("has a NUL in it, or more than {TEXT_BYTES_MAX} bytes"));
    }
    match text.contains("${{") {
        true => Err("takes no secret: others of the machine can read it; `env` takes them".to_owned()),
        false => Ok(()),
    }
}

fn command(fields: &mut Fields<'_>) -> String {
    let command = fields.string("command").unwrap_or_default();
    match plain(&command) {
        _ if command.is_empty() => fields.problem("command", "is missing: a program's name or path"),
        Err(why) => fields.problem("command", why),
        Ok(()) => {}
    }
    command
}

fn args(fields: &mut Fields<'_>) -> Vec<String> {
    let args = match fields.value("args") {
        None => Vec::new(),
        Some(Value::Array(args)) if args.len() <= ARGS_MAX => args,
        Some(_) => {
            fields.problem("args", format!("is a list of at most {ARGS_MAX} strings"));
            Vec::new()
        }
    };
    let mut read = Vec::with_capacity(args.len());
    for (index, arg) in args.into_iter().enumerate() {
        let why = match arg {
            Value::String(arg) => match plain(&arg) {
                Ok(()) => {
                    read.push(arg);
                    continue;
                }
                Err(why) => why,
            },
            _ => "must be a string".to_owned(),
        };
        let pointer = format!("{}/{index}", fields.pointer_to("args"));
        fields.extend([Problem::at(pointer, why)]);
    }
    read
}

fn env(fields: &mut Fields<'_>) -> BTreeMap<String, String> {
    let given = match fields.object("env") {
        Some(Value::Object(given)) => given,
        Some(_) | None => Map::new(),
    };
    if given.len() > ENV_MAX {
        fields.problem("env", format!("has more than {ENV_MAX} variables"));
    }
    let mut env = BTreeMap::new();
    for (name, value) in given.into_iter().take(ENV_MAX) {
        let is_name = !name.is_empty() && name.len() <= 256 && !name.contains(['=', '\0']);
        let why = match value {
            _ if !is_name => "is no name of a variable",
            Value::String(value) if value.len() > TEXT_BYTES_MAX || value.contains('\0') => {
                "has a NUL in it, or is too long"
            }
            Value::String(value) if pieces(&value).is_none() => {
                "may name secrets, `${{secrets.KEY}}`, and no more"
            }
            Value::String(value) => {
                env.insert(name, value);
                continue;
            }
            _ => "must be a string",
        };
        let pointer = format!("{}/{}", fields.pointer_to("env"), crate::strict::escaped(&name));
        fields.extend([Problem::at(pointer, why)]);
    }
    env
}

fn restart(fields: &mut Fields<'_>) -> Restart {
    match fields.string("restart").as_deref() {
        None | Some("always") => Restart::Always,
        Some("never") => Restart::Never,
        Some(other) => {
            fields.problem("restart", unknown("restart", other, &["always", "never"]));
            Restart::Always
        }
    }
}

fn timeout(fields: &mut Fields<'_>) -> Option<String> {
    let text = fields.string("timeout")?;
    match parse_duration_ms(&text) {
        Ok(1..=TIMEOUT_MS_MAX) => return Some(text),
        Ok(_) => fields.problem("timeout", "must be more than 0 and at most 24h"),
        Err(why) => fields.problem("timeout", format!("is not a duration: {why}")),
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(body: &str) -> Result<(Arc<str>, Registered), Vec<String>> {
        let mut fields = Fields::of_body(body).expect("an object");
        let read = Registered::read(&mut fields, Timestamp(1));
        let problems = fields.finish();
        match (read, problems.is_empty()) {
            (Some(read), true) => Ok(read),
            _ => Err(problems.into_iter().map(|problem| problem.pointer).collect()),
        }
    }

    #[test]
    fn the_namespace_is_the_name_unless_it_is_given() {
        let (name, plugin) = read(r#"{"name": "files", "command": "mcp-files"}"#).unwrap();
        assert_eq!((&*name, &*plugin.namespace, plugin.restart), ("files", "files", Restart::Always));
        let (_, plugin) = read(
            r#"{"name": "fs", "namespace": "files", "command": "x", "timeout": "1m", "restart": "never"}"#,
        )
        .unwrap();
        assert_eq!((&*plugin.namespace, plugin.timeout_ms()), ("files", Some(60_000)));
    }

    #[test]
    fn every_problem_is_told() {
        let wrong = r#"{"name": "a b", "command": "", "args": ["x", 5, "${{secrets.K}}"], "restart": "maybe",
            "env": {"A=B": "x", "C": 5, "D": "${{ inputs.x }}"}, "timeout": "0s", "shell": true}"#;
        assert_eq!(
            read(wrong).unwrap_err(),
            [
                "/name", "/command", "/args/1", "/args/2", "/env/A=B", "/env/C", "/env/D", "/restart",
                "/timeout", "/shell"
            ]
        );
        assert_eq!(read(r#"{"name": "shell", "command": "x"}"#).unwrap_err(), ["/name"]);
        assert_eq!(
            read(r#"{"name": "a", "namespace": "http", "command": "x"}"#).unwrap_err(),
            ["/namespace"]
        );
        assert_eq!(read("{}").unwrap_err(), ["/name", "/command"]);
    }

    #[test]
    fn secrets_stand_in_the_environment_alone_and_are_not_shown() {
        let body = r#"{"name": "a", "command": "x",
            "env": {"ONE": "${{secrets.A}}", "TWO": "Bearer ${{ secrets.B }}!", "OWN": "plain"}}"#;
        let (_, plugin) = read(body).unwrap();
        assert_eq!(plugin.secrets().into_iter().collect::<Vec<_>>(), ["A", "B"]);
        let filled = plugin.environment(|key| if key == "A" { "va" } else { "vb" });
        let filled: Vec<_> = filled.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(filled, [("ONE", "va"), ("OWN", "plain"), ("TWO", "Bearer vb!")]);
        let shown = plugin.shown_env();
        assert_eq!(
            (shown["ONE"], shown["OWN"], shown["TWO"]),
            ("${{secrets.A}}", "(not shown)", "(not shown)")
        );
    }
}
