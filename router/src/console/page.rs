//! What stands around every page, and how pages are answered.

use askama::Template;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::assets;
use super::contract::Problem;

/// A page's place among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nav {
    Overview,
    Workflows,
    Decisions,
    Templates,
    Schedules,
    Events,
    Agents,
    Plugins,
    Cluster,
    Audit,
    Settings,
    None,
}

/// A line of the navigation: its name, where it leads, and the key that follows `g`.
pub(super) struct Entry {
    pub(super) nav: Nav,
    pub(super) name: &'static str,
    pub(super) url: &'static str,
    pub(super) key: &'static str,
}

const fn entry(nav: Nav, name: &'static str, url: &'static str, key: &'static str) -> Entry {
    Entry { nav, name, url, key }
}

const ENTRIES: &[Entry] = &[
    entry(Nav::Overview, "Overview", "/console/", "g o"),
    entry(Nav::Workflows, "Workflows", "/console/workflows", "g w"),
    entry(Nav::Decisions, "Decisions", "/console/decisions", "g d"),
    entry(Nav::Templates, "Templates", "/console/templates", "g t"),
    entry(Nav::Schedules, "Schedules", "/console/schedules", "g s"),
    entry(Nav::Events, "Events", "/console/events", "g e"),
    entry(Nav::Agents, "Agents", "/console/agents", "g a"),
    entry(Nav::Plugins, "Plugins", "/console/plugins", "g p"),
    entry(Nav::Cluster, "Cluster", "/console/cluster", "g c"),
    entry(Nav::Audit, "Audit", "/console/audit", "g u"),
    entry(Nav::Settings, "Settings", "/console/settings", "g ,"),
];

/// What stands around a page.
#[derive(Clone)]
pub(super) struct Chrome {
    pub(super) title: String,
    pub(super) here: Nav,
    /// The namespace that is looked at, where it is not the one that is always there.
    pub(super) namespace: Option<String>,
    pub(super) node: String,
    pub(super) version: String,
    pub(super) is_signed_in: bool,
    /// `auto`, `dark` or `light`.
    pub(super) theme: &'static str,
    /// What was just done.
    pub(super) note: Option<&'static str>,
    /// The page's own address.
    pub(super) url: String,
    /// The stream of events by which the page is brought up to date.
    pub(super) stream: Option<String>,
    /// How often it is, without one.
    pub(super) refresh_s: Option<u32>,
}

impl Chrome {
    pub(super) fn entries(&self) -> &'static [Entry] {
        ENTRIES
    }

    pub(super) fn is_here(&self, entry: &Entry) -> bool {
        self.here == entry.nav
    }

    pub(super) fn css(&self) -> String {
        assets::url("console.css")
    }

    pub(super) fn js(&self) -> String {
        assets::url("console.js")
    }

    pub(super) fn icon(&self) -> String {
        assets::url("icon.svg")
    }

    /// Brings the page up to date every so many seconds.
    pub(super) fn every(mut self, seconds: u32) -> Self {
        self.refresh_s = Some(seconds);
        self
    }
}

/// What was just done, by the name that an address has it under: an address says nothing in words of its
/// own.
pub(super) fn note(name: &str) -> Option<&'static str> {
    Some(match name {
        "cancel" => "The workflow is being cancelled.",
        "suspend" => "Suspended: no further step starts.",
        "resume" => "The workflow goes on.",
        "retry" => "The workflow runs again.",
        "signal" => "The signal is with the workflow.",
        "delete" => "The workflow is deleted.",
        "started" => "The workflow is started.",
        "decided" => "The decision is made, and the workflow goes on.",
        "defined" => "The template is saved.",
        "same" => "The newest version says the same: nothing was changed.",
        "paused" => "Paused.",
        "unpaused" => "It goes on.",
        "triggered" => "A run is started, beside the slots.",
        "backfilled" => "The runs of those slots are started; those that had one keep it.",
        "scheduled" => "The schedule is made.",
        "unscheduled" => "The schedule is deleted; its runs stay.",
        "cluster" => "It is under way: the map below shows how far.",
        "removed" => "It is removed.",
        "set" => "The secret is set.",
        _ => return None,
    })
}

/// Any page that says why there is not the one asked for.
#[derive(Template)]
#[template(path = "refusal.html")]
pub(super) struct Refusal {
    pub(super) chrome: Chrome,
    pub(super) problem: Problem,
    pub(super) advice: &'static str,
}

/// A page that asks before something is done.
#[derive(Template)]
#[template(path = "confirm.html")]
pub(super) struct Confirm {
    pub(super) chrome: Chrome,
    /// The question.
    pub(super) question: String,
    /// What follows from it.
    pub(super) consequences: Vec<String>,
    /// What goes with it unseen.
    pub(super) hidden: Vec<(&'static str, String)>,
    pub(super) button: &'static str,
    pub(super) is_dangerous: bool,
    /// Where to go instead.
    pub(super) back: String,
}

/// A page.
pub(super) fn html(status: StatusCode, page: &impl Template) -> Response {
    match page.render() {
        Ok(text) => {
            let kind = HeaderValue::from_static("text/html; charset=utf-8");
            (status, [(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => {
            tracing::error!(%error, "a page cannot be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// Sends the browser to another page, which it asks for with GET.
pub(super) fn redirect(url: &str) -> Response {
    let mut response = StatusCode::SEE_OTHER.into_response();
    // An address that is none leads to the first page.
    let place = HeaderValue::try_from(url).unwrap_or(HeaderValue::from_static("/console/"));
    response.headers_mut().insert(header::LOCATION, place);
    response
}
