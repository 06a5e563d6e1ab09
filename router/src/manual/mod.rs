//! What a node tells of itself to people and to agents who have never seen one: a page for each code of
//! an error ([`codes`]), an overview for language models, and a skill for agents. Open to anybody, as
//! the description of the API is: they say what every node says, and nothing of this one.

mod codes;

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::codes::{Page, find};
use crate::error::ApiError;
use crate::incoming::Incoming;
use crate::state::RouterState;
use crate::wire::shortened;

/// What answers for all of it.
pub(crate) fn routes() -> OpenApiRouter<RouterState> {
    OpenApiRouter::new()
        .routes(routes!(index))
        .routes(routes!(page))
        .routes(routes!(overview))
        .routes(routes!(skill))
}

/// Where the page of a code is, from any node.
pub(crate) fn path_of(code: &str) -> String {
    format!("/errors/{code}")
}

/// Whether anybody may read what is at this path.
pub(crate) fn is_open(path: &str) -> bool {
    matches!(path, "/errors" | "/llms.txt" | "/skill.md") || path.starts_with("/errors/")
}

/// Every code of an error, with what it means.
#[utoipa::path(get, path = "/errors", tag = "manual", operation_id = "listErrorCodes",
    responses((status = 200, body = String, content_type = "text/plain")))]
pub(crate) async fn index(headers: HeaderMap) -> Response {
    if wants_html(&headers) {
        let items: String = codes::PAGES
            .iter()
            .map(|page| {
                format!(
                    "<li><a href=\"{}\">{}</a>: {}</li>\n",
                    path_of(page.code),
                    page.code,
                    escaped(page.title)
                )
            })
            .collect();
        return html("Error codes", &format!("<h1>Error codes</h1>\n<ul>\n{items}</ul>\n"));
    }
    let line = |page: &Page| format!("- [{}]({}): {}\n", page.code, path_of(page.code), page.title);
    text(format!("# Error codes\n\n{}", codes::PAGES.iter().map(line).collect::<String>()))
}

/// What a code of an error means: its cause, what to do, an example.
#[utoipa::path(get, path = "/errors/{code}", tag = "manual", operation_id = "getErrorCode",
    params(("code" = String, Path, description = "as in a problem document: `NOT_FOUND`")),
    responses((status = 200, body = String, content_type = "text/plain"), (status = 404, body = crate::schema::Problem)))]
pub(crate) async fn page(incoming: Incoming) -> Result<Response, ApiError> {
    let code = incoming.segment(1)?;
    let page = find(&code.to_ascii_uppercase()).ok_or_else(|| {
        ApiError::not_found(format!("there is no error code {}; /errors lists them", shortened(&code)))
    })?;
    Ok(if wants_html(&incoming.headers) { html(page.code, &as_html(page)) } else { text(as_text(page)) })
}

/// An overview for language models (llmstxt.org).
#[utoipa::path(get, path = "/llms.txt", tag = "manual", operation_id = "getOverview",
    responses((status = 200, body = String, content_type = "text/plain")))]
pub(crate) async fn overview() -> Response {
    text(include_str!("llms.txt").to_owned())
}

/// A skill for agents that use OPCODE from a shell or over HTTP.
#[utoipa::path(get, path = "/skill.md", tag = "manual", operation_id = "getSkill",
    responses((status = 200, body = String, content_type = "text/plain")))]
pub(crate) async fn skill() -> Response {
    text(include_str!("../../../deploy/skill/SKILL.md").to_owned())
}

fn wants_html(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept.split(',').any(|range| range.trim_start().starts_with("text/html"))
}

fn as_text(page: &Page) -> String {
    let Page { code, title, status, cause, fix, example } = page;
    format!(
        "# {code}\n\n{title}\n\n- HTTP status: {status}\n\n## Cause\n\n{cause}\n\n## Fix\n\n{fix}\n\n\
         ## Example\n\n    {}\n",
        example.replace('\n', "\n    ")
    )
}

fn as_html(page: &Page) -> String {
    let Page { code, title, status, cause, fix, example } = page;
    let [title, status, cause, fix, example] = [title, status, cause, fix, example].map(|part| escaped(part));
    format!(
        "<p><a href=\"/errors\">Error codes</a></p>\n<h1>{code}</h1>\n<p>{title}</p>\n\
         <p>HTTP status: {status}</p>\n<h2>Cause</h2>\n<p>{cause}</p>\n<h2>Fix</h2>\n<p>{fix}</p>\n\
         <h2>Example</h2>\n<pre>{example}</pre>\n"
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn text(body: String) -> Response {
    answer("text/plain; charset=utf-8", body)
}

fn html(title: &str, body: &str) -> Response {
    let page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title} · OPCODE</title>\n</head>\n\
         <body>\n<main>\n{body}</main>\n</body>\n</html>\n"
    );
    answer("text/html; charset=utf-8", page)
}

/// What it is depends on what was accepted, and nothing in it is to be run.
fn answer(content_type: &'static str, body: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::VARY, HeaderValue::from_static("accept")),
    ];
    (StatusCode::OK, headers, body).into_response()
}

#[cfg(test)]
mod tests {
    use opcode_engine::Code;

    use super::*;

    #[test]
    fn every_code_has_a_page_that_says_something() {
        for code in Code::ALL {
            assert!(find(code.as_str()).is_some(), "{code}");
        }
        let mut seen = std::collections::BTreeSet::new();
        for page in codes::PAGES {
            assert!(seen.insert(page.code), "{} twice", page.code);
            for part in [page.title, page.status, page.cause, page.fix, page.example] {
                assert!(part.len() > 2, "{}", page.code);
            }
        }
    }

    #[test]
    fn what_stands_in_a_page_is_shown_and_not_run() {
        let page =
            Page { code: "X", title: "<b>", status: "400", cause: "a & b", fix: "f", example: "</pre>" };
        let shown = as_html(&page);
        assert!(shown.contains("&lt;b&gt;") && shown.contains("a &amp; b") && shown.contains("&lt;/pre&gt;"));
    }
}
