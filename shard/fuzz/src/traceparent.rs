//! A `traceparent` of anybody's: whatever is taken is written again so that it is read as the same, and
//! what goes on within it belongs to the same trace.

use opcode_shard::trace::TraceParent;

/// Reads bytes as a header's value.
pub fn traceparent(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Some(read) = TraceParent::parse(text) else { return };
    assert!(text.is_ascii() && text.len() >= 55, "{text}");
    let written = read.to_string();
    assert_eq!(written.len(), 55, "{text}");
    assert_eq!(TraceParent::parse(&written), Some(read), "{text}");
    assert_eq!(written[3..52], text[3..52], "{text}");
    let child = read.child();
    assert_eq!((child.trace_id(), child.is_sampled), (read.trace_id(), read.is_sampled), "{text}");
    assert!(TraceParent::parse(&child.to_string()).is_some(), "{text}");
}
