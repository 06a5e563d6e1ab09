//! Who visits: a token that a form brings and a cookie keeps, which no script reads and which no other
//! site's page has a browser send; and which colours he wants.

use askama::Template;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;

use super::contract::{Answer, Shown};
use super::page::{Chrome, Nav, html, redirect};
use super::visit::Visit;

/// Longest name of a namespace.
const NAMESPACE_CHARS_MAX: usize = 63;
/// Names of the cookies.
pub(super) const TOKEN: &str = "opcode_token";
pub(super) const THEME: &str = "opcode_theme";
const NAMESPACE: &str = "opcode_namespace";
/// How long a browser keeps what it is told of colours, in seconds.
const THEME_AGE_S: u32 = 31_536_000;
/// Longest token that is looked at.
const TOKEN_CHARS_MAX: usize = 512;

/// The value of a cookie.
pub(super) fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(';')).find_map(|pair| {
        let (key, value) = pair.trim().split_once('=')?;
        (key == name && !value.is_empty()).then_some(value)
    })
}

/// The namespace that the visitor looks at; none where that is the token's, or the one always there.
pub(super) fn namespace(headers: &HeaderMap) -> Option<&str> {
    cookie(headers, NAMESPACE).filter(|name| is_namespace(name))
}

fn is_namespace(name: &str) -> bool {
    let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=NAMESPACE_CHARS_MAX).contains(&name.len()) && name.bytes().all(ok)
}

/// Looks at another namespace from now on.
pub(super) async fn enter(visit: Visit) -> Response {
    let name = visit.field("namespace").filter(|name| is_namespace(name) && *name != "default");
    let mut response = redirect("/console/");
    let age = if name.is_some() { "" } else { "; Max-Age=0" };
    let name = name.unwrap_or_default();
    set(&mut response, &format!("{NAMESPACE}={name}; Path=/console; HttpOnly; SameSite=Strict{age}"));
    response
}

#[derive(Template)]
#[template(path = "sign_in.html")]
struct Form {
    chrome: Chrome,
    next: String,
    error: Option<&'static str>,
}

/// A path of the console to go on to; whatever else it may be, the first page.
fn next(given: Option<&str>) -> String {
    let is_own = |path: &&str| {
        path.starts_with("/console/")
            && !path.starts_with("/console/sign-")
            && path.bytes().all(|b| b.is_ascii_graphic())
    };
    given.filter(is_own).unwrap_or("/console/").to_owned()
}

/// The page that asks for a token.
pub(super) async fn form(visit: Visit) -> Response {
    show(&visit, StatusCode::OK, next(visit.asked("next")), None)
}

fn show(visit: &Visit, status: StatusCode, next: String, error: Option<&'static str>) -> Response {
    html(status, &Form { chrome: visit.chrome(Nav::None, "Sign in"), next, error })
}

/// Takes a token that the node knows.
pub(super) async fn sign_in(mut visit: Visit) -> Shown {
    let next = next(visit.field("next"));
    let token = visit.field("token").map(|token| token.trim().to_owned()).unwrap_or_default();
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(&byte);
    if token.is_empty() || token.len() > TOKEN_CHARS_MAX || !token.bytes().all(is_allowed) {
        let error = "This has not the form of a token: letters, digits, and of - . _ ~ + / =";
        return Ok(show(&visit, StatusCode::UNPROCESSABLE_ENTITY, next, Some(error)));
    }
    visit.token = Some(token.clone());
    // Whatever it may do: a call that is refused for want of a scope is one by a token that is known.
    match visit.call(Method::GET, "/v1/agents?limit=1", None).await {
        Ok(Answer::Done(_)) => {}
        Ok(Answer::Refused(problem)) if problem.status == StatusCode::FORBIDDEN => {}
        // Whether it is one cannot be told now.
        Ok(Answer::Refused(problem)) => return Err(visit.refused(problem)),
        Err(_) => {
            visit.token = None;
            let error = "This node does not know the token, or it has expired.";
            return Ok(show(&visit, StatusCode::UNAUTHORIZED, next, Some(error)));
        }
    }
    let mut response = redirect(&next);
    set(
        &mut response,
        &format!("{TOKEN}={token}; Path=/console; HttpOnly; SameSite=Strict{}", secure(&visit)),
    );
    // It may be confined to another namespace than the one before it.
    set(&mut response, &format!("{NAMESPACE}=; Path=/console; HttpOnly; SameSite=Strict; Max-Age=0"));
    Ok(response)
}

/// Where TLS is spoken, by the node or by a proxy in front of it, the cookie is never sent without it.
fn secure(visit: &Visit) -> &'static str {
    let origin = visit.incoming.headers.get(header::ORIGIN);
    let is_behind = origin.is_some_and(|origin| origin.as_bytes().starts_with(b"https://"));
    if is_behind || visit.is_https() { "; Secure" } else { "" }
}

/// Has the browser forget the token.
pub(super) async fn sign_out(visit: Visit) -> Response {
    let mut response = redirect("/console/sign-in");
    set(
        &mut response,
        &format!("{TOKEN}=; Path=/console; HttpOnly; SameSite=Strict; Max-Age=0{}", secure(&visit)),
    );
    response
}

/// Light or dark, or as the system has it.
pub(super) async fn theme(visit: Visit) -> Response {
    let theme = match visit.field("theme") {
        Some("dark") => "dark",
        Some("light") => "light",
        Some(_) | None => "auto",
    };
    let mut response = redirect(&next(visit.field("next")));
    set(&mut response, &format!("{THEME}={theme}; Path=/console; SameSite=Strict; Max-Age={THEME_AGE_S}"));
    response
}

fn set(response: &mut Response, cookie: &str) {
    let cookie = HeaderValue::try_from(cookie).expect("letters, digits and marks that a header holds");
    response.headers_mut().append(header::SET_COOKIE, cookie);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pages_of_the_console_are_gone_on_to() {
        assert_eq!(next(Some("/console/workflows?status=failed")), "/console/workflows?status=failed");
        for other in
            ["", "https://evil.example/", "//evil.example", "/console/../x y", "/console/sign-out", "/v1"]
        {
            assert_eq!(next(Some(other)), "/console/", "{other}");
        }
    }

    #[test]
    fn one_cookie_of_many() {
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, HeaderValue::from_static("a=1; opcode_token=t=u; opcode_theme="));
        assert_eq!(cookie(&headers, TOKEN), Some("t=u"));
        assert_eq!(cookie(&headers, THEME), None);
        for (name, is_one) in [("team-1", true), ("", false), ("A", false), ("a;b", false)] {
            assert_eq!(is_namespace(name), is_one, "{name}");
        }
    }
}
