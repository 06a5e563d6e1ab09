//! Events: bytes decode to a body or to an error; a body that was decoded encodes to bytes that
//! decode to the same, and the tables' view of it never panics. The first byte chooses the type.

use opcode_engine::event::{Body, EventType};
use opcode_engine::ids::Timestamp;
use opcode_engine::view;

/// Runs one input.
pub fn events(data: &[u8]) {
    let Some((chosen, json)) = data.split_first() else { return };
    let event_type = EventType::ALL[usize::from(*chosen) % EventType::ALL.len()];
    assert_eq!(EventType::from_code(event_type.code()), Some(event_type));
    assert_eq!(EventType::from_name(event_type.as_str()), Some(event_type));
    let step_id = Some("a.b".into());
    // Without a panic; what it makes of data that is no payload is its own affair.
    let _ = view::changes(event_type, step_id.as_ref(), json, Timestamp(1));
    let body = match Body::decode(event_type, json) {
        Ok(body) => body,
        Err(error) => return assert!(error.starts_with(event_type.as_str()), "{error}"),
    };
    assert_eq!(body.event_type(), event_type);
    let bytes = encoded(&body);
    if let Err(error) = view::changes(event_type, step_id.as_ref(), &bytes, Timestamp(1)) {
        panic!("a payload of {event_type:?} has no view: {error}");
    }
    match Body::decode(event_type, &bytes) {
        Ok(again) => {
            assert_eq!(encoded(&again), bytes, "{event_type:?}");
            assert_eq!(format!("{again:?}"), format!("{body:?}"), "{event_type:?}");
        }
        Err(error) => panic!("{event_type:?} does not decode from its own bytes: {error}"),
    }
}

fn encoded(body: &Body) -> Vec<u8> {
    let mut bytes = Vec::new();
    body.encode(&mut bytes);
    bytes
}
