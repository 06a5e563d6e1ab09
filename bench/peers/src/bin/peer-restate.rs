//! The service that Restate calls: one handler with ten durable steps that do nothing.

use anyhow::Result;
use opcode_peers::work::{READY, RESULT_BYTES, STEPS, listener, text};
use restate_sdk::prelude::*;

struct Chain;

#[service]
impl Chain {
    /// Ten steps; the last one's result.
    #[handler]
    async fn chain10(&self, context: Context<'_>, _input: String) -> Result<String, HandlerError> {
        let mut last = String::new();
        for step in 0..STEPS {
            last = context.run(async || Ok(text(RESULT_BYTES))).name(format!("s{step}")).await?;
        }
        Ok(last)
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let (listener, address) = listener().await?;
    println!("{READY}http://{address}");
    HttpServer::new(Endpoint::builder().bind(Chain).build()).serve(listener).await;
    Ok(())
}
