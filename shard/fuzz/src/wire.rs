//! Messages between members: bytes decode or are refused, and what was decoded encodes to bytes that
//! decode to the same.

use opcode_shard::log::fuzz::{answer_again, payload_again, request_again};

/// A membership of nobody takes this much, and may be left out.
const NO_MEMBERSHIP_BYTES: usize = 4;

/// Runs one input as each kind of message.
pub fn wire(data: &[u8]) {
    for again in [request_again, answer_again, payload_again] {
        let Ok(bytes) = again(data) else { continue };
        assert_eq!(again(&bytes).as_ref(), Ok(&bytes), "of {data:?}");
        let bytes_max = data.len() + NO_MEMBERSHIP_BYTES;
        assert!(bytes.len() <= bytes_max, "of {data:?} there is a shorter spelling than {bytes:?}");
    }
}
