//! Routes and layers. From the outside in: the trace id and the writing of problem documents,
//! the audit log, a net for panics, the guard against other sites' pages, the check of tokens, the note of the agent
//! that a call is made for, then the handlers.

use std::any::Any;
use std::time::Instant;

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use opcode_engine::Code;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::authenticate;
use crate::agents;
use crate::audit;
use crate::error::{ApiError, Applied};
use crate::guard::guard;
use crate::handlers::{
    self, batch, bulk, cluster, commands, decisions, diagram, events, export, health, import, lists,
    namespaces, retention, schedules, secrets, sync, templates, tokens, validate, workflows,
};
use crate::incoming::json_bytes;
use crate::manual;
use crate::mcp;
use crate::meters::Asked;
use crate::state::RouterState;
use crate::trace::Traced;

#[derive(OpenApi)]
#[openapi(info(
    title = "OPCODE cluster",
    description = "Define, run and watch durable workflows. Errors are RFC 9457 problem documents. Agents \
                   find the same as tools of MCP (streamable HTTP) at `/mcp`. Workflows, templates, schedules \
                   and secrets are those of a namespace: the token's, or the one that the header \
                   `Opcode-Namespace` names, or `default`."
))]
struct Api;

/// The HTTP service of a node.
pub fn app(state: RouterState) -> Router {
    let (router, api) = untold(documented()).split_for_parts();
    let api: bytes::Bytes = described(&api).to_string().into();
    let router = router.route(
        "/openapi.json",
        axum::routing::get(move || std::future::ready(json_bytes(StatusCode::OK, api.clone()))),
    );
    // What the tools of MCP call is the API with all that stands before it.
    let tools = mcp::route(&state, layered(router.clone(), &state));
    layered(router.merge(tools), &state)
}

/// Routes behind the layers.
fn layered(router: Router<RouterState>, state: &RouterState) -> Router {
    router
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(state.clone(), agents::note))
        .layer(from_fn_with_state(state.clone(), authenticate))
        .layer(from_fn_with_state(state.clone(), guard))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn_with_state(state.clone(), audit::record))
        .layer(from_fn(outermost))
        .with_state(state.clone())
}

/// The OpenAPI 3.1 document of this build.
pub fn openapi() -> serde_json::Value {
    described(documented().get_openapi())
}

/// The document with what every answer must have: a description, by its status unless it has one;
/// and with what every call may answer: a problem document.
fn described(api: &utoipa::openapi::OpenApi) -> serde_json::Value {
    let mut document = serde_json::to_value(api).expect("an OpenAPI document is JSON");
    let paths = document.get_mut("paths").and_then(serde_json::Value::as_object_mut);
    let operations = paths.into_iter().flatten().flat_map(|(_, item)| item.as_object_mut()).flatten();
    let all_answers = operations.filter_map(|(_, operation)| operation.get_mut("responses")?.as_object_mut());
    for answers in all_answers {
        answers
            .values_mut()
            .filter_map(|answer| answer.get_mut("content")?.as_object_mut())
            .for_each(name_problems);
        for (status, answer) in answers.iter_mut() {
            if answer["description"].as_str().is_none_or(str::is_empty) {
                let reason = status.parse::<StatusCode>().ok().and_then(|status| status.canonical_reason());
                answer["description"] = reason.unwrap_or("Answer").into();
            }
        }
        let problem = serde_json::json!({"$ref": PROBLEM});
        answers.insert(
            "default".to_owned(),
            serde_json::json!({"description": "Any other refusal or failure",
                "content": {"application/problem+json": {"schema": problem}}}),
        );
    }
    free_form(&mut document);
    // Where the node asks for it; on loopback it does not.
    document["components"]["securitySchemes"] =
        serde_json::json!({"token": {"type": "http", "scheme": "bearer"}});
    document["security"] = serde_json::json!([{}, {"token": []}]);
    document
}

/// Says of objects whose fields are not named that they may have any: what makes clients of the
/// document would take them for empty.
fn free_form(schema: &mut serde_json::Value) {
    match schema {
        serde_json::Value::Object(fields) => {
            let is_object = fields.get("type").is_some_and(|kind| {
                kind == "object" || kind.as_array().is_some_and(|kinds| kinds.contains(&"object".into()))
            });
            if is_object && !fields.contains_key("properties") {
                fields.entry("additionalProperties").or_insert(true.into());
            }
            fields.values_mut().for_each(free_form);
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(free_form),
        _ => {}
    }
}

/// Where the schema of problem documents is.
const PROBLEM: &str = "#/components/schemas/Problem";

/// Gives problem documents their media type.
fn name_problems(content: &mut serde_json::Map<String, serde_json::Value>) {
    let is_problem = content.get("application/json").is_some_and(|body| body["schema"]["$ref"] == PROBLEM);
    if is_problem && let Some(schema) = content.remove("application/json") {
        content.insert("application/problem+json".to_owned(), schema);
    }
}

fn documented() -> OpenApiRouter<RouterState> {
    OpenApiRouter::with_openapi(Api::openapi())
        .routes(routes!(workflows::submit, lists::list))
        .routes(routes!(batch::submit))
        .routes(routes!(bulk::apply))
        .routes(routes!(workflows::get, commands::delete))
        .routes(routes!(events::list))
        .routes(routes!(workflows::definition))
        .routes(routes!(workflows::why))
        .routes(routes!(diagram::draw))
        .routes(routes!(commands::send_signal))
        .routes(routes!(commands::cancel))
        .routes(routes!(commands::suspend))
        .routes(routes!(commands::resume))
        .routes(routes!(commands::retry))
        .routes(routes!(commands::extend))
        .routes(routes!(templates::define, templates::list))
        .routes(routes!(templates::get, templates::change))
        .routes(routes!(diagram::draw_template))
        .routes(routes!(validate::validate))
        .routes(routes!(validate::actions))
        .routes(routes!(decisions::list))
        .routes(routes!(schedules::create, schedules::list))
        .routes(routes!(schedules::get, schedules::change, schedules::delete))
        .routes(routes!(schedules::trigger))
        .routes(routes!(schedules::next))
        .routes(routes!(schedules::backfill))
        .routes(routes!(handlers::agents::list))
        .routes(routes!(secrets::list))
        .routes(routes!(secrets::set, secrets::remove))
        .routes(routes!(secrets::rotate))
        .routes(routes!(handlers::plugins::register, handlers::plugins::list))
        .routes(routes!(handlers::plugins::get, handlers::plugins::remove))
        .routes(routes!(tokens::create, tokens::list))
        .routes(routes!(tokens::delete))
        .routes(routes!(namespaces::list))
        .routes(routes!(namespaces::create, namespaces::delete))
        .routes(routes!(handlers::audit::list))
        .routes(routes!(events::firehose))
        .routes(routes!(export::export))
        .routes(routes!(import::import))
        .routes(routes!(retention::get, retention::set, retention::delete))
        .routes(routes!(retention::get_template, retention::set_template, retention::delete_template))
        .routes(routes!(handlers::webhooks::create, handlers::webhooks::list))
        .routes(routes!(handlers::webhooks::get, handlers::webhooks::change, handlers::webhooks::delete))
        .routes(routes!(handlers::webhooks::test))
        .routes(routes!(handlers::webhook_failures::list))
        .routes(routes!(handlers::webhook_failures::delete))
        .routes(routes!(handlers::webhook_failures::retry))
        .routes(routes!(cluster::get, cluster::set))
        .routes(routes!(cluster::join))
        .routes(routes!(cluster::remove))
        .routes(routes!(cluster::drain))
        .routes(routes!(cluster::move_shard))
        .routes(routes!(cluster::rebalance))
        .routes(routes!(handlers::scrub::scrub))
        .routes(routes!(cluster::sql))
        .routes(routes!(handlers::backup::write))
        .routes(routes!(handlers::backup::copy))
        .routes(routes!(handlers::backup::log))
        .routes(routes!(sync::info))
        .routes(routes!(sync::export))
        .routes(routes!(sync::frames))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
        .merge(manual::routes())
}

/// What the document does not tell of: paths that stand for an id too, and what is refused in words.
fn untold(router: OpenApiRouter<RouterState>) -> OpenApiRouter<RouterState> {
    router
        // `batch` and `bulk` are ids that a run may have.
        .route("/v1/workflows/batch", axum::routing::get(workflows::get).delete(commands::delete))
        .route("/v1/workflows/bulk", axum::routing::get(workflows::get).delete(commands::delete))
        // `rotate` is a key that a secret may have.
        .route("/v1/secrets/rotate", axum::routing::put(secrets::set).delete(secrets::remove))
        // What a client of libSQL writes to, beside what it syncs from.
        .route("/v1/shards/{shard}/sync/{generation}/{start}/{end}", axum::routing::post(sync::refused))
        .route(
            "/v1/shards/{shard}/sync/{generation}/{start}/{end}/{baton}",
            axum::routing::post(sync::refused),
        )
        .route("/v1/shards/{shard}/v2/pipeline", axum::routing::any(sync::refused))
        .route("/v1/shards/{shard}/v3/pipeline", axum::routing::any(sync::refused))
        .route("/v1/shards/{shard}/v3/cursor", axum::routing::any(sync::refused))
}

async fn unknown_path(request: Request) -> ApiError {
    ApiError::not_found(format!(
        "there is nothing at {}; see /openapi.json",
        crate::wire::shortened(request.uri().path())
    ))
}

async fn wrong_method(request: Request) -> ApiError {
    let detail =
        format!("{} is not a method of {}", request.method(), crate::wire::shortened(request.uri().path()));
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, Code::ValidationError.as_str(), detail)
}

fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without words");
    tracing::error!(message, "a handler panicked");
    // What it had done by then is not known.
    ApiError::unavailable(Applied::Unknown, "an internal error; it is in the node's log")
        .with_status(StatusCode::INTERNAL_SERVER_ERROR)
        .into_response()
}

/// Gives the request its trace id, and writes an error as the problem document it is.
async fn outermost(mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let (traced, method) = (Traced::begin(request.headers()), request.method().clone());
    let trace_id = traced.id();
    let asked = Asked::of(&method, request.extensions());
    request.extensions_mut().insert(traced);
    let mut response = next.run(request).await;
    let problem = response.extensions_mut().remove::<ApiError>();
    if let Some(error) = &problem {
        let mut rendered = error.render(&trace_id);
        let headers = std::mem::take(response.headers_mut());
        for (name, value) in &headers {
            // Those that were there (`Allow`) stay, those of the document are its own.
            if name != axum::http::header::CONTENT_LENGTH && !rendered.headers().contains_key(name) {
                rendered.headers_mut().append(name.clone(), value.clone());
            }
        }
        if error.status().is_server_error() {
            tracing::warn!(
                trace_id,
                status = error.status().as_u16(),
                detail = error.detail(),
                "request failed"
            );
        }
        response = rendered;
    }
    tracing::debug!(trace_id, %method, route = asked.route, status = response.status().as_u16(), "request");
    traced.answered(&method, &asked.route, response.status().as_u16(), problem.as_ref());
    asked.answered(response.status(), problem.as_ref(), started.elapsed());
    response
}
