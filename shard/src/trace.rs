//! Traces that go on through a cluster: W3C's `traceparent`, read and written, and spans for whoever
//! takes them.
//!
//! A run keeps the `traceparent` of the request that started it in its context, so every node, also
//! after a failover, knows what its steps belong to; nothing else of a trace is stored. Unless
//! somebody takes spans ([`take_spans`]) none is made.

use std::fmt;
use std::sync::OnceLock;
use std::time::SystemTime;

/// The header, and the name in a run's context.
pub const TRACEPARENT: &str = "traceparent";

/// Something under way, as part of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// What the whole trace is known by; never all zeros.
    pub trace_id: [u8; 16],
    /// What it itself is known by; never all zeros.
    pub span_id: [u8; 8],
    /// Whether spans of this trace are kept.
    pub is_sampled: bool,
}

impl TraceParent {
    /// Reads `VERSION-TRACE-SPAN-FLAGS`; none when it is not that.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let version = hex_of::<1>(parts.next()?)?;
        let trace_id = hex_of::<16>(parts.next()?)?;
        let span_id = hex_of::<8>(parts.next()?)?;
        let [flags] = hex_of::<1>(parts.next()?)?;
        // A later version may say more; 255 is none.
        let is_whole = parts.next().is_none() || version > [0];
        let is_valid = version != [255] && trace_id != [0; 16] && span_id != [0; 8] && is_whole;
        is_valid.then_some(Self { trace_id, span_id, is_sampled: flags & 1 == 1 })
    }

    /// A trace of its own.
    pub fn root(trace_id: [u8; 16], is_sampled: bool) -> Self {
        Self { trace_id, span_id: span_id(), is_sampled }
    }

    /// Another thing under way within it.
    pub fn child(self) -> Self {
        Self { span_id: span_id(), ..self }
    }

    /// What the whole trace is known by, in 32 hexadecimal digits.
    pub fn trace_id(&self) -> String {
        hex::encode(self.trace_id)
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.is_sampled);
        write!(f, "00-{}-{}-{flags:02x}", hex::encode(self.trace_id), hex::encode(self.span_id))
    }
}

fn span_id() -> [u8; 8] {
    // All zeros would be none.
    rand::random::<u64>().max(1).to_be_bytes()
}

/// Bytes from lower-case hexadecimal digits, exactly so many.
fn hex_of<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let is_lower = !text.bytes().any(|b| b.is_ascii_uppercase());
    (is_lower && hex::decode_to_slice(text, &mut bytes).is_ok()).then_some(bytes)
}

/// Whose part a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// An answer to somebody's call.
    Server,
    /// A call of somebody else.
    Client,
    /// Neither.
    Internal,
}

/// Something that was under way, from begin to end.
#[derive(Clone, Debug)]
pub struct Span {
    /// What it is known by.
    pub own: TraceParent,
    /// The span that it is a part of, if any.
    pub parent: Option<[u8; 8]>,
    /// What it was, of a bounded number of names.
    pub name: String,
    /// Whose part it was.
    pub kind: SpanKind,
    /// When it began, by this node's clock.
    pub begun: SystemTime,
    /// When it ended.
    pub ended: SystemTime,
    /// What else there is to say.
    pub attributes: Vec<(&'static str, String)>,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

type Taker = Box<dyn Fn(Span) + Send + Sync>;

static TAKER: OnceLock<Taker> = OnceLock::new();

/// Has every span handed to `taker`, which must not block; the first of a process stays.
pub fn take_spans(taker: Taker) {
    // One that is there is not replaced: spans of one trace would be torn apart.
    let _ = TAKER.set(taker);
}

/// Whether somebody takes spans.
pub fn is_on() -> bool {
    TAKER.get().is_some()
}

/// Hands a span of a sampled trace to whoever takes them; else it is not made.
pub fn ended(own: TraceParent, span: impl FnOnce() -> Span) {
    if own.is_sampled
        && let Some(taker) = TAKER.get()
    {
        taker(span());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_is_read_and_written_and_goes_on() {
        let read = TraceParent::parse(GIVEN).unwrap();
        assert_eq!((read.to_string().as_str(), read.is_sampled), (GIVEN, true));
        let child = read.child();
        assert_eq!((child.trace_id(), child.is_sampled), (read.trace_id(), true));
        assert_ne!(child.span_id, read.span_id);
        assert_eq!(TraceParent::parse(&child.to_string()), Some(child));
    }

    #[test]
    fn a_later_version_may_say_more_and_this_one_not() {
        assert!(TraceParent::parse(&GIVEN.replacen("00", "01", 1)).is_some());
        assert!(TraceParent::parse(&format!("01{}-more", &GIVEN[2..])).is_some());
        for wrong in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-é1",
        ] {
            assert_eq!(TraceParent::parse(wrong), None, "{wrong}");
        }
    }
}
