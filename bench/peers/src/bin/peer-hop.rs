//! The service that OPCODE's `http.post` steps call: the remote hop that Restate makes too.

use anyhow::Result;
use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::post;
use opcode_peers::work::{READY, RESULT_BYTES, listener, text};

#[tokio::main]
async fn main() -> Result<()> {
    let (listener, address) = listener().await?;
    let answer = async || ([(CONTENT_TYPE, "application/json")], format!("\"{}\"", text(RESULT_BYTES)));
    println!("{READY}http://{address}");
    axum::serve(listener, Router::new().route("/step", post(answer))).await?;
    Ok(())
}
