//! The firehose, as it comes.

use askama::Template;
use axum::http::StatusCode;
use opcode_engine::event::EventType;

use super::contract::Shown;
use super::page::{Chrome, Nav, html};
use super::visit::{Visit, encoded};
use super::workflows::Chip;

#[derive(Template)]
#[template(path = "events.html")]
struct Page {
    chrome: Chrome,
    kinds: Vec<Chip>,
    stream: String,
    origin: String,
}

pub(super) async fn show(visit: Visit) -> Shown {
    let only = visit.asked("type").unwrap_or_default();
    let kinds = EventType::ALL.iter().map(|kind| kind.as_str());
    let page = Page {
        kinds: kinds.map(|word| Chip { word: word.to_owned(), is_on: word == only }).collect(),
        stream: match only {
            "" => "/console/events/stream".to_owned(),
            only => format!("/console/events/stream?type={}", encoded(only)),
        },
        origin: visit.origin(),
        chrome: visit.chrome(Nav::Events, "Events"),
    };
    Ok(html(StatusCode::OK, &page))
}
