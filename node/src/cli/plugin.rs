//! `opcode plugin`: MCP servers whose tools are actions.

use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::Context;
use super::client::encoded;
use super::failure::Failure;
use super::output::facts;
use super::wf::paged;

/// Commands on plugins.
#[derive(Subcommand)]
pub(crate) enum Plugin {
    /// Register an MCP server, which every node that may then runs
    #[command(after_help = "Examples:
  opcode plugin add files -- mcp-server-filesystem /srv/files
  opcode plugin add gh --env 'GITHUB_TOKEN=${{secrets.GH}}' --timeout 1m -- npx -y @acme/mcp-github

Its tools are actions, files.read_file and so on: opcode plugin get files lists them. Nodes have to be
started with --allow-plugins. Secrets go into its environment and nowhere else.")]
    Add {
        /// Its name
        name: String,
        /// Namespace of its actions [default: the name]
        #[arg(long)]
        namespace: Option<String>,
        /// A variable for it; a value may name secrets, ${{secrets.KEY}}; repeat for more
        #[arg(long, value_name = "NAME=VALUE")]
        env: Vec<String>,
        /// Longest time of a call whose step has none, 30s
        #[arg(long, value_name = "DURATION")]
        timeout: Option<String>,
        /// Leave it ended once it has ended
        #[arg(long)]
        no_restart: bool,
        /// The program, and what it is given
        #[arg(required = true, last = true, value_name = "COMMAND")]
        command: Vec<String>,
    },
    /// List plugins, and how they are doing
    #[command(after_help = "Examples:\n  opcode plugin list\n  opcode plugin list -o json")]
    List {
        /// Plugins at most
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// Go on after an earlier list
        #[arg(long)]
        cursor: Option<String>,
        /// Every plugin
        #[arg(long)]
        all: bool,
    },
    /// Show a plugin: its tools, and how it is doing on each node
    #[command(after_help = "Examples:\n  opcode plugin get files\n  opcode plugin get files -o json")]
    Get {
        /// Its name
        name: String,
    },
    /// Remove a plugin; steps that want its tools fail from then on
    #[command(after_help = "Examples:\n  opcode plugin rm files")]
    Rm {
        /// Its name
        name: String,
    },
}

pub(crate) async fn run(command: Plugin, context: &Context) -> Result<(), Failure> {
    match command {
        Plugin::Add { name, namespace, env, timeout, no_restart, command } => {
            let mut command = command.into_iter();
            let program = command.next().unwrap_or_default();
            let mut body = json!({
                "name": name, "command": program, "args": command.collect::<Vec<_>>(), "env": variables(&env)?,
                "restart": if no_restart { "never" } else { "always" },
            });
            for (field, value) in [("namespace", namespace), ("timeout", timeout)] {
                if let Some(value) = value {
                    body[field] = value.into();
                }
            }
            show(&context.client.post("/v1/plugins", &body).await?, context);
        }
        Plugin::List { limit, cursor, all } => {
            let mut page = paged(context, "/v1/plugins", &[], limit, cursor, all).await?;
            if let Some(items) = page["items"].as_array_mut() {
                items.iter_mut().for_each(summarize);
            }
            let columns = [
                ("NAME", "name"),
                ("NAMESPACE", "namespace"),
                ("COMMAND", "command"),
                ("STATUS", "status"),
                ("TOOLS", "tools_found"),
            ];
            context.output.list(&page, &columns);
        }
        Plugin::Get { name } => {
            show(&context.client.get(&format!("/v1/plugins/{}", encoded(&name))).await?, context);
        }
        Plugin::Rm { name } => {
            let removed = context.client.delete(&format!("/v1/plugins/{}", encoded(&name))).await?;
            context.output.document(&removed, |removed| facts(removed, &["name", "removed"]));
        }
    }
    Ok(())
}

/// `NAME=VALUE`, as an object.
fn variables(given: &[String]) -> Result<Value, Failure> {
    let mut variables = Map::new();
    for variable in given {
        let Some((name, value)) = variable.split_once('=').filter(|(name, _)| !name.is_empty()) else {
            return Err(Failure::Usage("--env takes NAME=VALUE".to_owned()));
        };
        variables.insert(name.to_owned(), value.into());
    }
    Ok(variables.into())
}

/// Adds to a plugin what a line has room for: how it is doing on all nodes, and how many tools it has.
fn summarize(plugin: &mut Value) {
    let nodes = plugin["nodes"].as_array().cloned().unwrap_or_default();
    let ready = nodes.iter().filter(|node| node["status"] == "ready").count();
    let worst = nodes.iter().find(|node| node["status"] != "ready").map(|node| &node["status"]);
    plugin["status"] = match worst.and_then(Value::as_str) {
        Some(status) if ready > 0 => format!("ready {ready}/{}, {status}", nodes.len()).into(),
        Some(status) => status.into(),
        None => "ready".into(),
    };
    plugin["tools_found"] = plugin["tools"].as_array().map_or(0, Vec::len).into();
}

fn show(plugin: &Value, context: &Context) {
    context.output.document(plugin, |plugin| {
        let mut plugin = plugin.clone();
        let lines = |list: &Value, line: &dyn Fn(&Value) -> String| {
            let lines: Vec<String> = list.as_array().into_iter().flatten().map(line).collect();
            Value::from(lines.join("; "))
        };
        plugin["nodes"] = lines(&plugin["nodes"], &|node| {
            let text = |name: &str| node[name].as_str().unwrap_or_default().to_owned();
            let why = node["last_error"].as_str().map(|why| format!(": {why}")).unwrap_or_default();
            format!("node {} {} ({} restarts){why}", text("node_id"), text("status"), node["restarts"])
        });
        plugin["tools"] =
            lines(&plugin["tools"], &|tool| tool["action"].as_str().unwrap_or_default().to_owned());
        facts(
            &plugin,
            &["name", "namespace", "command", "restart", "timeout", "created_at", "nodes", "tools"],
        )
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_how_a_plugin_is_doing_everywhere() {
        let status = |nodes: Value| {
            let mut plugin = json!({"nodes": nodes, "tools": [{"action": "a.b"}]});
            summarize(&mut plugin);
            assert_eq!(plugin["tools_found"], 1);
            plugin["status"].as_str().unwrap().to_owned()
        };
        assert_eq!(status(json!([{"status": "ready"}, {"status": "ready"}])), "ready");
        assert_eq!(status(json!([{"status": "ready"}, {"status": "failed"}])), "ready 1/2, failed");
        assert_eq!(status(json!([{"status": "starting"}])), "starting");
    }

    #[test]
    fn variables_have_a_name_and_a_value() {
        let read = variables(&["A=1".into(), "B=x=y".into(), "C=".into()]).unwrap();
        assert_eq!(read, json!({"A": "1", "B": "x=y", "C": ""}));
        assert!(variables(&["A".into()]).is_err() && variables(&["=1".into()]).is_err());
    }
}
