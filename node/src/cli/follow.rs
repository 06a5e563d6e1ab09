//! Following a run's events as they happen, over lost connections.

use std::time::Duration;

use futures::StreamExt;
use serde_json::Value;

use super::Context;
use super::client::encoded;
use super::failure::Failure;
use super::output::{Format, emit, shown, yaml};

/// Connections tried again in a row before following is given up.
const RETRIES_MAX: u32 = 10;
/// Pause before the next connection.
const PAUSE: Duration = Duration::from_millis(500);
/// Longest frame that is kept.
const FRAME_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Shows every event of a run after a sequence until the run ends.
pub(crate) async fn follow(context: &Context, id: &str, after: u64) -> Result<(), Failure> {
    let path = format!("/v1/workflows/{}/events", encoded(id));
    let mut last = after;
    let mut tries = 0;
    loop {
        match follow_once(context, &path, &mut last).await {
            // The stream ends with the run; a connection that was cut looks the same.
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(failure @ Failure::Problem { .. }) => return Err(failure),
            Err(failure) if tries >= RETRIES_MAX => return Err(failure),
            Err(_) => {}
        }
        tries += 1;
        if tries > RETRIES_MAX {
            return Err(Failure::local(format!("the stream of {id} was cut off {RETRIES_MAX} times")));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// One connection; true when the run has ended and all of its events were shown.
async fn follow_once(context: &Context, path: &str, last: &mut u64) -> Result<bool, Failure> {
    let Some(response) = context.client.stream(path, *last).await? else { return Ok(true) };
    let mut stream = response.bytes_stream();
    let mut buffer: Vec<u8> = Vec::new();
    while let Some(chunk) = stream.next().await {
        buffer.extend_from_slice(&chunk.map_err(|error| context.client.failure(&error))?);
        while let Some(end) = buffer.windows(2).position(|pair| pair == b"\n\n") {
            let frame: Vec<u8> = buffer.drain(..end + 2).collect();
            if let Some(event) = data_of(&frame) {
                *last = event.get("sequence").and_then(Value::as_u64).unwrap_or(*last);
                show(context.output.format, &event);
            }
        }
        if buffer.len() > FRAME_BYTES_MAX {
            return Err(Failure::local("the node sent an event without end"));
        }
    }
    // Asked again: no content means that the run has ended.
    Ok(false)
}

/// The JSON of a frame's `data:` lines; comments have none.
fn data_of(frame: &[u8]) -> Option<Value> {
    let text = std::str::from_utf8(frame).ok()?;
    let data: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim_start).collect();
    serde_json::from_str(&data.join("\n")).ok()
}

/// One event.
pub(crate) fn show(format: Format, event: &Value) {
    match format {
        Format::Table => emit(&line(event)),
        Format::Json | Format::Jsonl => emit(&event.to_string()),
        Format::Yaml => emit(&format!("---\n{}", yaml(event))),
    }
}

/// An event on one line.
pub(crate) fn line(event: &Value) -> String {
    /// Longest part of an event's data that is shown, in characters.
    const DATA_CHARS_MAX: usize = 120;
    let field = |name| shown(event.get(name).unwrap_or(&Value::Null));
    let data: String = field("data").chars().take(DATA_CHARS_MAX).collect();
    let line = format!(
        "{:>4}  {}  {:<22} {:<24} {data}",
        field("sequence"),
        field("timestamp"),
        field("type"),
        field("step_id")
    );
    line.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read() {
        let event = data_of(b"id: 3\nevent: custom\ndata: {\"sequence\":3}\n\n").unwrap();
        assert_eq!(event["sequence"], 3);
        assert_eq!(data_of(b": alive\n\n"), None);
    }
}
