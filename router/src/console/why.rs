//! Why a workflow is not done: what it waits for, since when, whose turn it is, and what would move it.

use askama::Template;
use axum::http::StatusCode;
use serde::Deserialize;

use super::contract::Shown;
use super::markup::{Markup, when_if};
use super::page::{Chrome, Nav, html};
use super::visit::{Visit, encoded};

/// `GET /v1/workflows/{id}/why`.
#[derive(Deserialize)]
pub(super) struct Reasons {
    waiting_for: Vec<Reason>,
}

#[derive(Deserialize)]
struct Reason {
    kind: String,
    step_id: Option<String>,
    since: Option<String>,
    #[serde(default)]
    until: Option<String>,
    #[serde(default)]
    who: Option<String>,
    detail: String,
    #[serde(default)]
    repair: Option<String>,
    #[serde(default)]
    child: Option<String>,
}

/// One thing that a run waits for.
pub(super) struct Wait {
    pub(super) kind: String,
    pub(super) step: String,
    pub(super) detail: String,
    pub(super) since: Markup,
    pub(super) until: Markup,
    pub(super) who: String,
    /// Where it is put right, and what that is called.
    pub(super) repair: Option<(String, &'static str)>,
    /// The call that does so.
    pub(super) call: Option<String>,
}

impl Reasons {
    pub(super) fn waits(&self, id: &str) -> Vec<Wait> {
        self.waiting_for.iter().map(|reason| reason.wait(id)).collect()
    }
}

impl Reason {
    fn wait(&self, id: &str) -> Wait {
        Wait {
            kind: self.kind.clone(),
            step: self.step_id.clone().unwrap_or_default(),
            detail: self.detail.clone(),
            since: when_if(self.since.as_ref()),
            until: when_if(self.until.as_ref()),
            who: self.who.clone().unwrap_or_default(),
            repair: self.repair(id),
            call: self.repair.clone(),
        }
    }

    /// The page on which it is put right.
    fn repair(&self, id: &str) -> Option<(String, &'static str)> {
        let run = format!("/console/workflows/{}", encoded(id));
        let step = encoded(self.step_id.as_deref().unwrap_or_default());
        let call = self.repair.as_deref().unwrap_or_default();
        match self.kind.as_str() {
            "decision" => Some((format!("/console/decision?workflow={}&step={step}", encoded(id)), "Decide")),
            "signal" => Some((format!("{run}/do/signal?type=data&step_id={step}"), "Send the signal")),
            "operator" if call.contains("/resume") => Some((format!("{run}/do/resume"), "Let it go on")),
            "operator" => {
                Some((format!("{run}/do/signal?type=retry&step_id={step}"), "Have the step run again"))
            }
            "child" => {
                let child = encoded(self.child.as_deref()?);
                Some((format!("/console/workflows/{child}/why"), "Why the child is not done"))
            }
            "nothing" if call.contains("/retry") => Some((format!("{run}/do/retry"), "Run it again")),
            "lost_quorum" | "quorum" => Some(("/console/cluster".into(), "Look at the cluster")),
            _ => None,
        }
    }
}

#[derive(Template)]
#[template(path = "why.html")]
struct Page {
    chrome: Chrome,
    id: String,
    waits: Vec<Wait>,
}

pub(super) async fn show(visit: Visit) -> Shown {
    let id = visit.segment(2);
    let reasons: Reasons = visit.get(&format!("/v1/workflows/{}/why", encoded(&id))).await?;
    let mut chrome = visit.chrome(Nav::Workflows, format!("Why {id} is not moving"));
    chrome.stream = Some(format!("/console/workflows/{}/stream", encoded(&id)));
    let page = Page { chrome, waits: reasons.waits(&id), id };
    Ok(html(StatusCode::OK, &page))
}
