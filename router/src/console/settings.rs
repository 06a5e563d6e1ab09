//! What a node was told, and the tokens and secrets that the cluster keeps: by name, never their values.

use askama::Template;
use axum::http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::act::Field;
use super::cluster::Form;
use super::contract::{Answer, Items, Problem, Shown};
use super::markup::{Markup, when, when_if};
use super::page::{Chrome, Confirm, Nav, html, redirect};
use super::schedules::again;
use super::visit::{Visit, encoded};
use super::workflows::Chip;

/// Rows of each list.
const ROWS: usize = 500;

#[derive(Deserialize)]
struct Token {
    token_id: String,
    name: Option<String>,
    scopes: Vec<String>,
    agent_id: Option<String>,
    created_at: String,
    expires_at: Option<String>,
}

#[derive(Deserialize)]
struct Namespace {
    name: String,
}

#[derive(Deserialize)]
struct Secret {
    key: String,
    created_at: String,
    updated_at: String,
}

#[derive(Template)]
#[template(path = "settings.html")]
struct Page {
    chrome: Chrome,
    /// Those that may be looked at.
    namespaces: Vec<Chip>,
    is_admin: bool,
    tokens: Vec<TokenRow>,
    secrets: Vec<SecretRow>,
    secret_example: &'static str,
    settings: Vec<[String; 3]>,
}

struct TokenRow {
    id: String,
    name: String,
    scopes: String,
    agent: String,
    created: Markup,
    expires: Markup,
}

struct SecretRow {
    key: String,
    created: Markup,
    updated: Markup,
}

/// The page. Who may list tokens may read the configuration: an administrator.
pub(super) async fn show(visit: Visit) -> Shown {
    let chrome = visit.chrome(Nav::Settings, "Settings");
    let tokens: Option<Items<Token>> = visit.try_get(&format!("/v1/tokens?limit={ROWS}")).await?;
    let secrets: Option<Items<Secret>> = visit.try_get("/v1/secrets").await?;
    let is_admin = tokens.is_some();
    let names: Option<Items<Namespace>> = visit.try_get(&format!("/v1/namespaces?limit={ROWS}")).await?;
    let mut names: Vec<String> = names.into_iter().flat_map(|page| page.items).map(|one| one.name).collect();
    // From one that the visitor's token is not for, there is a way back.
    if names.is_empty() && chrome.namespace.is_some() {
        names.push("default".to_owned());
    }
    let own = chrome.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let namespaces = names.into_iter().map(|word| Chip { is_on: word == own, word }).collect();
    let token = |token: Token| TokenRow {
        id: token.token_id,
        name: token.name.unwrap_or_default(),
        scopes: token.scopes.join(", "),
        agent: token.agent_id.unwrap_or_default(),
        created: when(&token.created_at),
        expires: when_if(token.expires_at.as_ref()),
    };
    let secret = |secret: Secret| SecretRow {
        key: secret.key,
        created: when(&secret.created_at),
        updated: when(&secret.updated_at),
    };
    let page = Page {
        chrome,
        namespaces,
        is_admin,
        tokens: tokens.map(|page| page.items.into_iter().map(token).collect()).unwrap_or_default(),
        secrets: secrets.map(|page| page.items.into_iter().map(secret).collect()).unwrap_or_default(),
        secret_example: "${{secrets.KEY}}",
        settings: if is_admin { visit.console.state.node().settings.clone() } else { Vec::new() },
    };
    Ok(html(StatusCode::OK, &page))
}

/// Asks.
pub(super) async fn ask(visit: Visit) -> Shown {
    let asked = |name: &'static str| visit.asked(name).unwrap_or_default().to_owned();
    let (question, consequence, hidden) = match visit.segment(3).as_str() {
        "token" => return Ok(html(StatusCode::OK, &token_form(&visit, None))),
        "secret" => return Ok(html(StatusCode::OK, &secret_form(&visit, None))),
        "revoke" => {
            let id = asked("id");
            (format!("Revoke the token {id}?"), "Within seconds no node takes it any more.", ("id", id))
        }
        "forget" => {
            let key = asked("key");
            (format!("Remove the secret {key}?"), "Steps that ask for it fail from then on.", ("key", key))
        }
        "unplug" => {
            let name = asked("name");
            (
                format!("Remove the plugin {name}?"),
                "Its process ends on every node; steps that ask for its tools fail.",
                ("name", name),
            )
        }
        _ => return Err(visit.nothing_here()),
    };
    let page = Confirm {
        chrome: visit.chrome(Nav::Settings, question.clone()),
        question,
        consequences: vec![consequence.to_owned()],
        hidden: vec![hidden],
        button: "Yes, do it",
        is_dangerous: true,
        back: "/console/settings".into(),
    };
    Ok(html(StatusCode::OK, &page))
}

fn token_form(visit: &Visit, problem: Option<Problem>) -> Form {
    let field = |name: &'static str, label| Field::line(name, label, visit.field(name).unwrap_or_default());
    Form {
        chrome: visit.chrome(Nav::Settings, "Make a token"),
        about: vec!["Its bearer may do what its scopes say: read, run, define, decide; admin is all of them and more.".into()],
        fields: vec![
            field("name", "Name, for those who read the list"),
            field("scopes", "Scopes, with commas between"),
            field("agent_id", "The agent that its bearer is, if it is one"),
            field("expires_at", "Until, as 2027-01-31T00:00:00Z"),
        ],
        button: "Make it",
        is_dangerous: false,
        back: "/console/settings".into(),
        problem,
    }
}

fn secret_form(visit: &Visit, problem: Option<Problem>) -> Form {
    let key = visit.field("key").unwrap_or_default();
    Form {
        chrome: visit.chrome(Nav::Settings, "Set a secret"),
        about: vec!["The value is sealed on this node, and shown to nobody again.".into()],
        fields: vec![
            Field::line("key", "Key", key),
            Field { is_secret: true, ..Field::line("value", "Value", "") },
        ],
        button: "Set it",
        is_dangerous: false,
        back: "/console/settings".into(),
        problem,
    }
}

#[derive(Template)]
#[template(path = "token.html")]
struct Made {
    chrome: Chrome,
    token: String,
}

#[derive(Deserialize)]
struct NewToken {
    token: String,
}

/// Does it.
pub(super) async fn apply(visit: Visit) -> Shown {
    let field = |name: &'static str| encoded(visit.field(name).unwrap_or_default());
    let (answer, note) = match visit.segment(3).as_str() {
        "token" => return make_token(&visit).await,
        "secret" => {
            let body = json!({"value": visit.field("value").unwrap_or_default()});
            let path = format!("/v1/secrets/{}", field("key"));
            match visit.call(Method::PUT, &path, Some(&body)).await? {
                Answer::Refused(problem) => return Ok(again(&secret_form(&visit, Some(problem)))),
                done @ Answer::Done(_) => (done, "set"),
            }
        }
        "revoke" => {
            (visit.call(Method::DELETE, &format!("/v1/tokens/{}", field("id")), None).await?, "removed")
        }
        "forget" => {
            (visit.call(Method::DELETE, &format!("/v1/secrets/{}", field("key")), None).await?, "removed")
        }
        "unplug" => {
            let path = format!("/v1/plugins/{}", field("name"));
            (visit.call(Method::DELETE, &path, None).await?, "removed")
        }
        _ => return Err(visit.nothing_here()),
    };
    match answer {
        Answer::Done(_) => Ok(redirect(&format!("/console/settings?note={note}"))),
        Answer::Refused(problem) => Err(visit.refused(problem)),
    }
}

async fn make_token(visit: &Visit) -> Shown {
    let scopes =
        visit.field("scopes").unwrap_or_default().split([',', ' ']).filter(|scope| !scope.is_empty());
    let mut body = Map::new();
    body.insert("scopes".into(), scopes.map(Value::from).collect::<Vec<_>>().into());
    for name in ["name", "agent_id", "expires_at"] {
        if let Some(value) = visit.field(name) {
            body.insert(name.into(), value.trim().into());
        }
    }
    match visit.call(Method::POST, "/v1/tokens", Some(&Value::Object(body))).await? {
        Answer::Refused(problem) => Ok(again(&token_form(visit, Some(problem)))),
        Answer::Done(answer) => {
            let made: Option<NewToken> = serde_json::from_slice(&answer).ok();
            let token = made.map(|made| made.token).unwrap_or_default();
            Ok(html(StatusCode::OK, &Made { chrome: visit.chrome(Nav::Settings, "A new token"), token }))
        }
    }
}
