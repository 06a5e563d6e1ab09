//! `opcode token`: what callers show to the cluster, with what it lets them do.

use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::Context;
use super::client::encoded;
use super::failure::Failure;
use super::output::facts;
use super::wf::paged;

/// Commands on tokens.
#[derive(Subcommand)]
pub(crate) enum Token {
    /// Make a token; it is shown once
    #[command(after_help = "Scopes: read (whatever only reads), run (start, signal, cancel runs), define
(templates and schedules), decide (resolve decisions), admin (all of these, deleting runs, secrets,
tokens, the cluster, reading the audit log).

Examples:
  opcode token create --name ci --scope run --scope read
  opcode token create --agent reviewer --scope decide --scope read --expires-at 2027-01-01T00:00:00Z
  opcode token create --name ui --scope read --rate-limit 20 --burst 100
  opcode token create --scope read -q > token; opcode wf list --token-file token
  opcode token create --namespace team-a --scope run --scope read

Made in a namespace, a token is confined to it: it sees and does nothing in another, and with the scope
admin it administers that one alone.")]
    Create {
        /// What its bearer may do: read, run, define, decide, admin; repeat for more
        #[arg(long = "scope", value_name = "SCOPE", required = true)]
        scopes: Vec<String>,
        /// A name for the list
        #[arg(long)]
        name: Option<String>,
        /// The agent that its bearer is, and no other
        #[arg(long, value_name = "AGENT")]
        agent: Option<String>,
        /// From then on it is not taken (RFC 3339)
        #[arg(long, value_name = "TIME")]
        expires_at: Option<String>,
        /// Requests a second that it may make of each node; without it, what the node says
        #[arg(long, value_name = "N")]
        rate_limit: Option<u32>,
        /// Requests that it may make at once [default: as many as in a second]
        #[arg(long, value_name = "N", requires = "rate_limit")]
        burst: Option<u32>,
    },
    /// List tokens, without what they are shown with
    #[command(after_help = "Examples:\n  opcode token list\n  opcode token list --all -o json")]
    List {
        /// Tokens at most
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// Go on after an earlier list
        #[arg(long)]
        cursor: Option<String>,
        /// Every token
        #[arg(long)]
        all: bool,
    },
    /// Delete a token; within five seconds no node takes it any more
    #[command(after_help = "Examples:\n  opcode token rm 0123456789abcdef")]
    Rm {
        /// Its id, as the list has it
        id: String,
    },
}

pub(crate) async fn run(command: Token, context: &Context) -> Result<(), Failure> {
    match command {
        Token::Create { scopes, name, agent, expires_at, rate_limit, burst } => {
            let mut body = Map::from_iter([("scopes".to_owned(), json!(scopes))]);
            for (field, value) in [("name", name), ("agent_id", agent), ("expires_at", expires_at)] {
                body.extend(value.map(|value| (field.to_owned(), value.into())));
            }
            body.extend(rate_limit.map(|rate| {
                let burst = burst.unwrap_or(rate);
                ("rate_limit".to_owned(), json!({"requests_per_second": rate, "burst": burst}))
            }));
            let made = context.client.post("/v1/tokens", &Value::Object(body)).await?;
            let shown =
                ["token", "token_id", "name", "scopes", "agent_id", "namespace", "expires_at", "rate_limit"];
            context.output.document(&made, |made| facts(made, &shown));
        }
        Token::List { limit, cursor, all } => {
            let columns = [
                ("TOKEN", "token_id"),
                ("NAME", "name"),
                ("SCOPES", "scopes"),
                ("AGENT", "agent_id"),
                ("NAMESPACE", "namespace"),
                ("CREATED", "created_at"),
                ("EXPIRES", "expires_at"),
            ];
            let page = paged(context, "/v1/tokens", &[], limit, cursor, all).await?;
            context.output.list(&page, &columns);
        }
        Token::Rm { id } => {
            let deleted = context.client.delete(&format!("/v1/tokens/{}", encoded(&id))).await?;
            context.output.document(&deleted, |deleted| facts(deleted, &["token_id", "deleted"]));
        }
    }
    Ok(())
}
