//! The files beside the pages. Each address has the file's hash in it, so that a browser keeps it for good.

use std::fmt::Write;
use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use xxhash_rust::xxh3::xxh3_64;

/// Name, media type, bytes.
const FILES: &[(&str, &str, &[u8])] = &[
    ("console.css", "text/css; charset=utf-8", include_bytes!("assets/console.css")),
    ("console.js", "text/javascript; charset=utf-8", include_bytes!("assets/console.js")),
    ("icon.svg", "image/svg+xml", include_bytes!("assets/icon.svg")),
];

/// One hash of all of them.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let mut version = String::new();
    for (_, _, bytes) in FILES {
        let _ = write!(version, "{:04x}", xxh3_64(bytes) & 0xffff);
    }
    version
});

/// The address of a file.
pub(super) fn url(name: &str) -> String {
    format!("/console/assets/{}/{name}", *VERSION)
}

/// A file. That of another build is not here: a browser that keeps it under this address would have the wrong
/// one for good.
pub(super) async fn serve(Path((version, name)): Path<(String, String)>) -> Response {
    let found = FILES.iter().find(|(known, ..)| *known == name).filter(|_| version == *VERSION);
    let Some((_, kind, bytes)) = found else { return StatusCode::NOT_FOUND.into_response() };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable")),
    ];
    (headers, *bytes).into_response()
}
