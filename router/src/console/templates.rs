//! Templates: the list, one of them with its versions, the editor, and what a version changed.

use askama::Template;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::contract::{Answer, Instead, Items, Problem, Shown};
use super::diff::{Line, lines};
use super::markup::{Markup, badge, cut, pretty, when};
use super::page::{Chrome, Nav, html, redirect};
use super::run::diagram;
use super::visit::{Visit, encoded};
use super::workflows::Chip;
use crate::locate::of_problem;

/// Rows of a page.
const ROWS: usize = 100;
/// Versions that are named on a template's page, the newest of them.
const VERSIONS_MAX: u32 = 40;
/// What a new template may begin as.
const BLANK: &str = r#"{
  "name": "hello",
  "description": "Says hello",
  "definition": {
    "inputs": {"name": "world"},
    "steps": [
      {"id": "hello", "action": "workflow.log", "params": {"message": "Hello, ${{inputs.name}}"}}
    ]
  }
}"#;

/// A template of the contract; its definition only where it is asked for alone.
#[derive(Deserialize)]
struct Kept {
    name: String,
    version: String,
    created_at: String,
    #[serde(default)]
    paused: bool,
    #[serde(default)]
    paused_reason: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    category: Option<String>,
    #[serde(default)]
    features: Option<Value>,
    #[serde(default)]
    input_schema: Option<Value>,
    #[serde(default)]
    output_schema: Option<Value>,
    #[serde(default)]
    definition: Option<Value>,
}

impl Kept {
    /// The template file that it was, as far as it is shown.
    fn file(&self) -> Value {
        let mut file = Map::new();
        file.insert("name".into(), self.name.as_str().into());
        let texts = [("description", &self.description), ("category", &self.category)];
        for (name, text) in texts {
            if let Some(text) = text {
                file.insert(name.into(), text.as_str().into());
            }
        }
        let values = [
            ("features", &self.features),
            ("input_schema", &self.input_schema),
            ("output_schema", &self.output_schema),
            ("definition", &self.definition),
        ];
        for (name, value) in values {
            if let Some(value) = value.as_ref().filter(|value| !value.is_null()) {
                file.insert(name.into(), value.clone());
            }
        }
        Value::Object(file)
    }

    fn standing(&self) -> Markup {
        if self.paused { badge("paused") } else { Markup::default() }
    }
}

#[derive(Template)]
#[template(path = "templates.html")]
struct List {
    chrome: Chrome,
    rows: Vec<Row>,
    next: Option<String>,
}

struct Row {
    name: String,
    url: String,
    version: String,
    about: String,
    category: String,
    since: Markup,
    standing: Markup,
}

pub(super) async fn list(visit: Visit) -> Shown {
    let cursor = visit.asked("cursor").map(|cursor| format!("&cursor={}", encoded(cursor)));
    let page: Items<Kept> =
        visit.get(&format!("/v1/templates?limit={ROWS}{}", cursor.unwrap_or_default())).await?;
    let row = |kept: &Kept| Row {
        name: kept.name.clone(),
        url: format!("/console/template/{}", encoded(&kept.name)),
        version: kept.version.clone(),
        about: kept.description.as_ref().map(|text| cut(text, 100)).unwrap_or_default(),
        category: kept.category.clone().unwrap_or_default(),
        since: when(&kept.created_at),
        standing: kept.standing(),
    };
    let list = List {
        chrome: visit.chrome(Nav::Templates, "Templates"),
        rows: page.items.iter().map(row).collect(),
        next: page.next_cursor.map(|next| format!("/console/templates?cursor={}", encoded(&next))),
    };
    Ok(html(StatusCode::OK, &list))
}

#[derive(Template)]
#[template(path = "template.html")]
struct Page {
    chrome: Chrome,
    name: String,
    version: String,
    standing: Markup,
    is_paused: bool,
    paused_reason: String,
    about: String,
    versions: Vec<Chip>,
    /// The version before this one, and this one.
    compared: Option<(String, String)>,
    diagram: Markup,
    texts: Vec<(&'static str, String)>,
}

fn path_of(name: &str, version: Option<&str>) -> String {
    let version = version.map(|version| format!("?version={}", encoded(version)));
    format!("/v1/templates/{}{}", encoded(name), version.unwrap_or_default())
}

pub(super) async fn show(visit: Visit) -> Shown {
    let name = visit.segment(2);
    let version = visit.asked("version");
    let kept: Kept = visit.get(&path_of(&name, version)).await?;
    let newest: Kept = visit.get(&path_of(&name, None)).await?;
    let drawn =
        format!("/v1/templates/{}/diagram?format=svg&version={}", encoded(&name), encoded(&kept.version));
    let drawn = visit.text(&drawn).await?;
    let number = |version: &str| version.trim_start_matches('v').parse::<u32>().unwrap_or(1);
    let (last, this) = (number(&newest.version), number(&kept.version));
    let first = last.saturating_sub(VERSIONS_MAX - 1).max(1);
    let mut texts = vec![("Definition", pretty(kept.definition.as_ref().unwrap_or(&Value::Null)))];
    for (title, schema) in [("Input schema", &kept.input_schema), ("Output schema", &kept.output_schema)] {
        if let Some(schema) = schema.as_ref().filter(|schema| !schema.is_null()) {
            texts.push((title, pretty(schema)));
        }
    }
    let page = Page {
        chrome: visit.chrome(Nav::Templates, format!("{name} {}", kept.version)),
        standing: kept.standing(),
        is_paused: kept.paused,
        paused_reason: kept.paused_reason.clone().unwrap_or_default(),
        about: kept.description.clone().unwrap_or_default(),
        versions: (first..=last).rev().map(|n| Chip { word: format!("v{n}"), is_on: n == this }).collect(),
        compared: (this > 1).then(|| (format!("v{}", this - 1), kept.version.clone())),
        diagram: diagram(&drawn),
        texts,
        version: kept.version,
        name,
    };
    Ok(html(StatusCode::OK, &page))
}

#[derive(Template)]
#[template(path = "diff.html")]
struct Compared {
    chrome: Chrome,
    name: String,
    from: String,
    to: String,
    lines: Vec<Line>,
}

/// What one version has that another has not.
pub(super) async fn compare(visit: Visit) -> Shown {
    let name = visit.segment(2);
    let (from, to) =
        (visit.asked("from").unwrap_or("v1").to_owned(), visit.asked("to").unwrap_or("v1").to_owned());
    let (from_path, to_path) = (path_of(&name, Some(&from)), path_of(&name, Some(&to)));
    let (before, after) = tokio::join!(visit.get::<Kept>(&from_path), visit.get::<Kept>(&to_path));
    let text = |kept: &Kept| serde_json::to_string_pretty(&kept.file()).unwrap_or_default();
    let lines = lines(&text(&before?), &text(&after?));
    let chrome = visit.chrome(Nav::Templates, format!("{name}: from {from} to {to}"));
    Ok(html(StatusCode::OK, &Compared { chrome, name, from, to, lines }))
}

#[derive(Template)]
#[template(path = "template_edit.html")]
struct Edit {
    chrome: Chrome,
    file: String,
    problem: Option<String>,
    places: Vec<Place>,
    back: String,
}

/// A problem and where it is.
#[derive(Serialize)]
struct Place {
    line: usize,
    column: usize,
    pointer: String,
    message: String,
}

/// The places of a refusal's problems in the text that was refused.
fn places(text: &str, problem: &Problem) -> Vec<Place> {
    let is_json = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
    let faults = problem.errors.iter().map(|fault| {
        let at = if is_json || fault.line.is_some() {
            of_problem(text, &fault.pointer, fault.line, fault.column)
        } else {
            of_problem("", "", None, None)
        };
        Place {
            line: at.line,
            column: at.column,
            pointer: fault.pointer.clone(),
            message: fault.message.clone(),
        }
    });
    faults.collect()
}

/// The editor, with a template's file or with a blank one.
pub(super) async fn edit(visit: Visit) -> Shown {
    let (title, file, back) = match visit.asked("name") {
        Some(name) => {
            let kept: Kept = visit.get(&path_of(name, visit.asked("version"))).await?;
            let file = serde_json::to_string_pretty(&kept.file()).unwrap_or_default();
            (format!("Edit {name}"), file, format!("/console/template/{}", encoded(name)))
        }
        None => ("Write a template".to_owned(), BLANK.to_owned(), "/console/templates".to_owned()),
    };
    let chrome = visit.chrome(Nav::Templates, title);
    Ok(html(StatusCode::OK, &Edit { chrome, file, problem: None, places: Vec::new(), back }))
}

#[derive(Deserialize)]
struct Defined {
    name: String,
    version: String,
}

/// Saves it as a new version; what is refused comes back as it was written, with what is wrong where.
pub(super) async fn save(visit: Visit) -> Shown {
    let file = visit.field("file").unwrap_or_default().to_owned();
    let response = visit.open(Method::POST, "/v1/templates", Some(file.clone()), "*/*").await;
    let is_new = response.status() == StatusCode::CREATED;
    match visit.answer(response).await? {
        Answer::Done(body) => {
            let defined: Option<Defined> = serde_json::from_slice(&body).ok();
            let Some(Defined { name, version }) = defined else { return Ok(redirect("/console/templates")) };
            let note = if is_new { "defined" } else { "same" };
            let url =
                format!("/console/template/{}?version={}&note={note}", encoded(&name), encoded(&version));
            Ok(redirect(&url))
        }
        Answer::Refused(problem) => {
            let page = Edit {
                chrome: visit.chrome(Nav::Templates, "Not saved yet"),
                places: places(&file, &problem),
                problem: Some(problem.detail),
                file,
                back: "/console/templates".into(),
            };
            let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::UNPROCESSABLE_ENTITY);
            Ok(html(status, &page))
        }
    }
}

/// Checks what stands in an editor: `{valid, problems: [{line, column, pointer, message}]}`.
pub(super) async fn check(visit: Visit) -> Result<Response, Instead> {
    let text = visit.incoming.text().unwrap_or_default().to_owned();
    let response = visit.open(Method::POST, "/v1/validate", Some(text.clone()), "*/*").await;
    let told = match visit.answer(response).await? {
        Answer::Done(_) => json!({"valid": true, "problems": []}),
        Answer::Refused(problem) => {
            let mut places = places(&text, &problem);
            if places.is_empty() {
                let message = problem.detail;
                places.push(Place { line: 1, column: 1, pointer: String::new(), message });
            }
            json!({"valid": false, "problems": places})
        }
    };
    let kind = HeaderValue::from_static("application/json");
    Ok(([(header::CONTENT_TYPE, kind)], told.to_string()).into_response())
}

/// Pauses a template, or has it go on.
pub(super) async fn pause(visit: Visit) -> Shown {
    let name = visit.field("name").unwrap_or_default().to_owned();
    let paused = visit.field("paused") == Some("true");
    let _: Value = visit.send(Method::PATCH, &path_of(&name, None), &json!({"paused": paused})).await?;
    let note = if paused { "paused" } else { "unpaused" };
    Ok(redirect(&format!("/console/template/{}?note={note}", encoded(&name))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_blank_file_holds_a_definition() {
        let parsed = opcode_engine::definition::Definition::parse(BLANK);
        assert!(parsed.is_ok(), "{:?}", parsed.err());
    }
}
