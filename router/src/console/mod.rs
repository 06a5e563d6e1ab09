//! The console: what people see of the node, in a browser on the API's own address.
//!
//! Every page is a client of the HTTP contract like any other: it makes calls of it in process, with
//! the caller's token, through all layers that stand before the API ([`contract`]). So a page shows and
//! does nothing that the contract does not, and a token counts for what it counts there. Pages are
//! whole without scripts; a script of ours keeps them up to date and gives them keys.
//!
//! A token comes in a form and is kept by the browser, in a cookie that no script and no other site
//! gets at ([`session`]). The API itself never looks at cookies, so no page of another site can have a
//! browser call it with one; and here every POST must say that it comes from a page of ours.

mod act;
mod agents;
mod assets;
mod audit;
mod bulk;
mod cluster;
mod contract;
mod decisions;
mod diff;
mod events;
mod markup;
mod overview;
mod page;
mod plugins;
mod pulse;
mod run;
mod schedules;
mod session;
mod settings;
mod start;
mod step;
mod stream;
mod templates;
mod timeline;
mod visit;
mod why;
mod workflows;

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::{Next, from_fn};
use axum::response::{Redirect, Response};
use axum::routing::{get, post};

use self::pulse::Pulse;
use crate::http::fenced;
use crate::state::RouterState;

/// What pages are made with.
#[derive(Clone)]
struct Console {
    /// The API with all of its layers, as a client from outside meets it.
    api: Router,
    state: RouterState,
    pulse: Arc<Pulse>,
}

/// What every answer of the console says to the browser: nothing comes from elsewhere, no script and no
/// style stands in a page itself, nobody frames it.
fn headers() -> [(HeaderName, &'static str); 5] {
    [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
             connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ]
}

/// The console's routes, for pages that call `api`; none where the node has it off.
pub(crate) fn route(state: &RouterState, api: Router) -> Router {
    if !state.options().console {
        return Router::new();
    }
    let console = Console { api, state: state.clone(), pulse: Arc::default() };
    tokio::spawn(pulse::beat(state.clone(), Arc::clone(&console.pulse)));
    let router = Router::new()
        .route("/", get(home))
        .route("/console", get(home))
        .route("/console/", get(overview::show))
        .route("/console/assets/{version}/{name}", get(assets::serve))
        .route("/console/sign-in", get(session::form).post(session::sign_in))
        .route("/console/sign-out", post(session::sign_out))
        .route("/console/theme", post(session::theme))
        .route("/console/namespace", post(session::enter))
        .route("/console/start", get(start::form).post(start::submit))
        .route("/console/workflows", get(workflows::list))
        .route("/console/bulk", get(bulk::preview).post(bulk::apply))
        .route("/console/workflows/{id}", get(run::show))
        .route("/console/workflows/{id}/why", get(why::show))
        .route("/console/workflows/{id}/step", get(step::show))
        .route("/console/workflows/{id}/stream", get(stream::of_run))
        .route("/console/workflows/{id}/do/{action}", get(act::form).post(act::apply))
        .route("/console/decisions", get(decisions::list))
        .route("/console/decision", get(decisions::show).post(decisions::answer))
        .route("/console/templates", get(templates::list))
        .route("/console/templates/edit", get(templates::edit).post(templates::save))
        .route("/console/templates/check", post(templates::check))
        .route("/console/templates/pause", post(templates::pause))
        .route("/console/template/{name}", get(templates::show))
        .route("/console/template/{name}/diff", get(templates::compare))
        .route("/console/schedules", get(schedules::list))
        .route("/console/schedules/new", get(schedules::form).post(schedules::create))
        .route("/console/schedule/{id}", get(schedules::show))
        .route("/console/schedule/{id}/do/{action}", get(schedules::ask).post(schedules::apply))
        .route("/console/events", get(events::show))
        .route("/console/events/stream", get(stream::firehose))
        .route("/console/agents", get(agents::show))
        .route("/console/plugins", get(plugins::show))
        .route("/console/audit", get(audit::show))
        .route("/console/cluster", get(cluster::show))
        .route("/console/cluster/do/{action}", get(cluster::ask).post(cluster::apply))
        .route("/console/settings", get(settings::show))
        .route("/console/settings/do/{action}", get(settings::ask).post(settings::apply))
        .layer(from_fn(guarded))
        .with_state(console);
    fenced(router, state)
}

async fn home() -> Redirect {
    Redirect::to("/console/")
}

async fn guarded(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    for (name, value) in headers() {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    // What is not said to be kept is a page, and shows how things stand now.
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}
