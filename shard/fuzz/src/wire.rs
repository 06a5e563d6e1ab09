//! Messages between members: bytes decode or are refused, and what was decoded encodes to bytes that
//! decode to the same.

use opcode_shard::log::fuzz::{answer_again, payload_again, request_again};

/// Runs one input as each kind of message.
pub fn wire(data: &[u8]) {
    for again in [request_again, answer_again, payload_again] {
        let Ok(bytes) = again(data) else { continue };
        assert_eq!(again(&bytes).as_ref(), Ok(&bytes), "of {data:?}");
        assert!(bytes.len() <= data.len(), "the shortest spelling of {data:?} is {bytes:?}");
    }
}
