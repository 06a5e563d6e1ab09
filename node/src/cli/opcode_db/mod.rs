//! `opcode import --opcode-db`: what an original OPCODE has kept moves here. Templates become
//! templates, jobs schedules, ended workflows history; those that have not ended are named, and
//! started anew if that is wanted; secrets come along when their passphrase is given.

mod history;
mod source;
mod vault;

use std::collections::BTreeMap;
use std::path::PathBuf;

use opcode_shard::history::{Line, PastTemplate};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use self::history::{CONTEXT, DECISION, EVENT, STEP, WORKFLOW, Workflow, has_ended, time};
use self::source::{Row, Source};
use self::vault::Opener;
use super::Context;
use super::client::encoded;
use super::failure::Failure;
use super::import::Sender;
use super::output::facts;

/// Problems that are told one by one.
const TOLD_MAX: usize = 50;
const TEMPLATE: &[&str] =
    &["name", "version", "description", "definition", "input_schema", "output_schema", "created_at"];
const JOB: &[&str] =
    &["id", "template_name", "template_version", "cron_expression", "params", "agent_id", "enabled"];

/// What is wanted of a file.
pub(crate) struct Wanted {
    pub(crate) dry_run: bool,
    pub(crate) restart_running: bool,
    pub(crate) passphrase_file: Option<PathBuf>,
}

/// A move under way.
struct Move<'c> {
    source: Source,
    wanted: &'c Wanted,
    context: &'c Context,
    sender: Sender<'c>,
    /// Agents' names by their ids.
    agents: BTreeMap<String, String>,
    /// What was done, or on a dry run would be.
    templates: u64,
    ended: u64,
    schedules: u64,
    restarted: u64,
    left: Vec<String>,
    secrets: u64,
    problems: Vec<String>,
}

pub(crate) async fn run(file: &str, wanted: &Wanted, context: &Context) -> Result<(), Failure> {
    let opener = wanted.passphrase_file.as_deref().map(opener).transpose()?;
    let source = Source::open(file).await?;
    let sender = Sender::new(context, false, wanted.dry_run);
    let mut moving = Move {
        source,
        wanted,
        context,
        sender,
        agents: BTreeMap::new(),
        templates: 0,
        ended: 0,
        schedules: 0,
        restarted: 0,
        left: Vec::new(),
        secrets: 0,
        problems: Vec::new(),
    };
    moving.agents().await?;
    moving.templates().await?;
    moving.workflows().await?;
    moving.sender.send().await?;
    moving.jobs().await?;
    moving.secrets(opener.as_ref()).await?;
    moving.finish()
}

fn opener(file: &std::path::Path) -> Result<Opener, Failure> {
    let text = crate::secret_file::read(file).map_err(|error| Failure::local(format!("{error:#}")))?;
    let text = zeroize::Zeroizing::new(text);
    Ok(Opener::new(text.trim_end_matches(['\r', '\n'])))
}

impl Move<'_> {
    fn problem(&mut self, problem: String) {
        if self.problems.len() < TOLD_MAX {
            eprintln!("opcode: {problem}");
        }
        self.problems.push(problem);
    }

    /// A refusal is a problem of one thing; no answer ends it all.
    fn asked(&mut self, what: &str, answer: Result<Value, Failure>) -> Result<bool, Failure> {
        match answer {
            Ok(_) => Ok(true),
            Err(Failure::Problem { status, document }) if !matches!(status, 401 | 403 | 429 | 503) => {
                let detail = document["detail"].as_str().unwrap_or("it is refused").to_owned();
                self.problem(format!("{what}: {detail}"));
                Ok(false)
            }
            Err(failure) => Err(failure),
        }
    }

    /// Rows of a table that an older release may not have.
    async fn optional(
        &mut self,
        table: &'static str,
        columns: &'static [&'static str],
        order: &'static str,
    ) -> Result<Vec<Row>, Failure> {
        match self.source.has(table).await? {
            true => self.source.rows(table, columns, None, order).await,
            false => {
                self.problem(format!("there is no table `{table}`"));
                Ok(Vec::new())
            }
        }
    }

    async fn agents(&mut self) -> Result<(), Failure> {
        let rows = self.optional("agents", &["id", "name"], "id").await?;
        self.agents = rows.iter().filter_map(|row| Some((row.text("id")?, row.text("name")?))).collect();
        Ok(())
    }

    async fn templates(&mut self) -> Result<(), Failure> {
        let mut rows = self.source.rows("workflow_templates", TEMPLATE, None, "name, version").await?;
        let number = |row: &Row| {
            row.text("version").and_then(|text| text.trim_start_matches('v').parse::<u32>().ok()).unwrap_or(0)
        };
        rows.sort_by_key(|row| (row.text("name"), number(row)));
        for row in rows {
            let (name, version) =
                (row.text("name").unwrap_or_default(), row.text("version").unwrap_or_default());
            match template(&row, &name, &version) {
                Ok(line) => self.send_line(&format!("template {name}@{version}"), &line).await?,
                Err(why) => {
                    self.problem(format!("template {name}@{version}: {why}"));
                    continue;
                }
            }
            self.templates += 1;
        }
        Ok(())
    }

    async fn send_line(&mut self, what: &str, line: &Line) -> Result<(), Failure> {
        match line.write() {
            // Its own line end is the sender's affair; numbers of lines mean nothing here.
            Ok(mut bytes) => {
                bytes.pop();
                self.sender.add(0, bytes).await
            }
            Err(why) => {
                self.problem(format!("{what}: {why}"));
                Ok(())
            }
        }
    }

    async fn workflows(&mut self) -> Result<(), Failure> {
        let ids = self.source.rows("workflows", &["id", "status"], None, "created_at, id").await?;
        for row in ids {
            let (id, status) = (row.text("id").unwrap_or_default(), row.text("status").unwrap_or_default());
            let Some(workflow) = self.workflow(&id).await? else { continue };
            if has_ended(&status) {
                match workflow.line() {
                    Ok(line) => {
                        self.ended += 1;
                        self.send_line(&format!("workflow {id}"), &line).await?;
                    }
                    Err(why) => self.problem(format!("workflow {id}: {why}")),
                }
            } else if self.wanted.restart_running {
                self.restart(&id, &workflow).await?;
            } else {
                self.left.push(format!("{id} ({status})"));
            }
        }
        Ok(())
    }

    async fn workflow(&mut self, id: &str) -> Result<Option<Workflow>, Failure> {
        let key = |column| Some((column, id));
        let source = &self.source;
        let Some(row) = source.rows("workflows", WORKFLOW, key("id"), "id").await?.pop() else {
            return Ok(None);
        };
        let steps = source.rows("step_state", STEP, key("workflow_id"), "started_at, step_id").await?;
        let events = source.rows("events", EVENT, key("workflow_id"), "sequence").await?;
        let decisions = match source.has("pending_decisions").await? {
            true => source.rows("pending_decisions", DECISION, key("workflow_id"), "created_at, id").await?,
            false => Vec::new(),
        };
        let context = match source.has("workflow_context").await? {
            true => source.rows("workflow_context", CONTEXT, key("workflow_id"), "workflow_id").await?.pop(),
            false => None,
        };
        let agent_name = row.text("agent_id").and_then(|agent| self.agents.get(&agent).cloned());
        Ok(Some(Workflow { row, steps, events, decisions, context, agent_name }))
    }

    /// Starts it from its beginning, under its id: again and again it is the same submission.
    async fn restart(&mut self, id: &str, workflow: &Workflow) -> Result<(), Failure> {
        let mut body = json!({"id": id, "definition": workflow.row.json("definition"),
            "params": workflow.params(), "context": workflow.context()});
        if let Some(agent_id) = workflow.agent_id() {
            body["agent_id"] = agent_id.into();
        }
        let is_good = match self.wanted.dry_run {
            true => {
                let validated = check_definition(&body["definition"]);
                validated.map_err(|why| self.problem(format!("workflow {id}: {why}"))).is_ok()
            }
            false => {
                let answer = self.context.client.post("/v1/workflows", &body).await;
                self.asked(&format!("workflow {id}"), answer)?
            }
        };
        self.restarted += u64::from(is_good);
        Ok(())
    }

    async fn jobs(&mut self) -> Result<(), Failure> {
        for row in self.optional("scheduled_jobs", JOB, "id").await? {
            let id = row.text("id").unwrap_or_default();
            let mut body = json!({"id": id, "template": row.text("template_name"),
                "cron": row.text("cron_expression"), "paused": row.json("enabled") == json!(0)});
            if let params @ Value::Object(_) = row.json("params") {
                body["params"] = params;
            }
            for (field, column) in [("version", "template_version"), ("agent_id", "agent_id")] {
                if let Some(text) = row.text(column) {
                    body[field] = text.into();
                }
            }
            if !self.wanted.dry_run {
                let answer = self.context.client.post("/v1/schedules", &body).await;
                if !self.asked(&format!("job {id}"), answer)? {
                    continue;
                }
            }
            self.schedules += 1;
        }
        Ok(())
    }

    async fn secrets(&mut self, opener: Option<&Opener>) -> Result<(), Failure> {
        for row in self.optional("secrets", &["key", "value"], "key").await? {
            let key = row.text("key").unwrap_or_default();
            let Some(opener) = opener else {
                self.problem(format!("secret {key}: not imported without --secrets-passphrase-file"));
                continue;
            };
            let value = match opener.open(row.bytes("value").unwrap_or_default()) {
                Ok(value) => value,
                Err(why) => {
                    self.problem(format!("secret {key}: {why}"));
                    continue;
                }
            };
            if !self.wanted.dry_run {
                let path = format!("/v1/secrets/{}", encoded(&key));
                let answer = self.context.client.put(&path, &json!({"value": value.as_str()})).await;
                if !self.asked(&format!("secret {key}"), answer)? {
                    continue;
                }
            }
            self.secrets += 1;
        }
        Ok(())
    }

    fn finish(self) -> Result<(), Failure> {
        let (failed, problems) = (self.sender.failed, self.problems.len());
        let mut done = json!({"templates": self.templates, "ended_workflows": self.ended,
            "schedules": self.schedules, "restarted": self.restarted, "left": self.left,
            "agents": self.agents.values().collect::<Vec<_>>(), "secrets": self.secrets, "problems": self.problems});
        if self.wanted.dry_run {
            done["dry_run"] = true.into();
            done["refused"] = failed.into();
        } else {
            done["lines"] = self.sender.counts();
        }
        let names = [
            "dry_run",
            "templates",
            "ended_workflows",
            "schedules",
            "restarted",
            "left",
            "agents",
            "secrets",
            "lines",
            "refused",
        ];
        self.context.output.document(&done, |done| facts(done, &names));
        self.sender.outcome()?;
        match problems {
            0 => Ok(()),
            n => Err(Failure::local(format!("{n} things were not taken along, as told"))),
        }
    }
}

fn check_definition(definition: &Value) -> Result<(), String> {
    let parsed = opcode_engine::definition::Definition::parse(&definition.to_string());
    parsed.map(drop).map_err(|invalid| {
        let first = invalid.problems.first();
        first.map_or_else(String::new, |problem| format!("{}: {}", problem.pointer, problem.message))
    })
}

/// A version of a template.
fn template(row: &Row, name: &str, version: &str) -> Result<Line, String> {
    let text = row.text("definition").ok_or("it has no definition")?;
    let definition: Value =
        serde_json::from_str(&text).map_err(|error| format!("its definition is no JSON: {error}"))?;
    let mut file = Map::from_iter([("name".to_owned(), name.into()), ("definition".to_owned(), definition)]);
    file.extend(row.text("description").map(|text| ("description".to_owned(), text.into())));
    for column in ["input_schema", "output_schema"] {
        let schema = row.json(column);
        if !schema.is_null() {
            file.insert(column.to_owned(), schema);
        }
    }
    let source = RawValue::from_string(Value::Object(file).to_string()).map_err(|error| error.to_string())?;
    let created_at = row.text("created_at").and_then(|text| time(&text)).ok_or("it has no created_at")?;
    Ok(Line::Template(PastTemplate::new(name.into(), version.into(), created_at, source)))
}
