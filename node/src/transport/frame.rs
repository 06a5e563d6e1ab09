//! Frames on the wire: a length, then what it is, which call, and a body. The numbers are frozen.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use opcode_shard::peer::Service;
use tokio_util::codec::LengthDelimitedCodec;

/// Largest frame: the largest entry of the log, and what stands around it.
const FRAME_BYTES_MAX: usize = 72 * 1024 * 1024;

/// What one side tells the other.
#[derive(Debug, PartialEq)]
pub(super) enum Frame {
    /// A question with a number that its answer carries.
    Call { id: u64, service: Service, group: u32, body: Bytes },
    /// The answer.
    Answer { id: u64, body: Bytes },
    /// The answer that it is refused, in words.
    Refusal { id: u64, why: String },
    /// A sign of life.
    Ping,
    /// Its echo.
    Pong,
}

const CALL: u8 = 1;
const ANSWER: u8 = 2;
const REFUSAL: u8 = 3;
const PING: u8 = 4;
const PONG: u8 = 5;

/// The codec of a connection.
pub(super) fn codec() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().little_endian().max_frame_length(FRAME_BYTES_MAX).new_codec()
}

impl Frame {
    pub(super) fn encode(&self) -> Bytes {
        let body = match self {
            Self::Call { body, .. } | Self::Answer { body, .. } => body.len(),
            Self::Refusal { why, .. } => why.len(),
            Self::Ping | Self::Pong => 0,
        };
        let mut bytes = BytesMut::with_capacity(16 + body);
        match self {
            Self::Call { id, service, group, body } => {
                bytes.put_u8(CALL);
                bytes.put_u64_le(*id);
                bytes.put_u8(*service as u8);
                bytes.put_u32_le(*group);
                bytes.put_slice(body);
            }
            Self::Answer { id, body } => {
                bytes.put_u8(ANSWER);
                bytes.put_u64_le(*id);
                bytes.put_slice(body);
            }
            Self::Refusal { id, why } => {
                bytes.put_u8(REFUSAL);
                bytes.put_u64_le(*id);
                bytes.put_slice(why.as_bytes());
            }
            Self::Ping => bytes.put_u8(PING),
            Self::Pong => bytes.put_u8(PONG),
        }
        bytes.freeze()
    }

    /// Reads a frame; the error says what is broken.
    pub(super) fn decode(mut bytes: Bytes) -> Result<Self, String> {
        let broken = |_| "a frame that ends too early".to_owned();
        Ok(match bytes.try_get_u8().map_err(broken)? {
            CALL => {
                let id = bytes.try_get_u64_le().map_err(broken)?;
                let number = bytes.try_get_u8().map_err(broken)?;
                let service =
                    Service::from_number(number).ok_or_else(|| format!("there is no service {number}"))?;
                let group = bytes.try_get_u32_le().map_err(broken)?;
                Self::Call { id, service, group, body: bytes }
            }
            ANSWER => Self::Answer { id: bytes.try_get_u64_le().map_err(broken)?, body: bytes },
            REFUSAL => Self::Refusal {
                id: bytes.try_get_u64_le().map_err(broken)?,
                why: String::from_utf8_lossy(&bytes).into_owned(),
            },
            PING => Self::Ping,
            PONG => Self::Pong,
            kind => return Err(format!("there is no frame of kind {kind}")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_as_they_were() {
        for frame in [
            Frame::Call { id: 7, service: Service::Raft, group: 3, body: Bytes::from_static(b"abc") },
            Frame::Answer { id: u64::MAX, body: Bytes::new() },
            Frame::Refusal { id: 1, why: "no".into() },
            Frame::Ping,
            Frame::Pong,
        ] {
            let bytes = frame.encode();
            for end in 0..bytes.len().min(9) {
                // A prefix is another frame or an error, and never a panic.
                let _ = Frame::decode(bytes.slice(..end));
            }
            assert_eq!(Frame::decode(bytes), Ok(frame));
        }
        Frame::decode(Bytes::from_static(&[9])).unwrap_err();
        Frame::decode(Bytes::from_static(&[CALL, 0, 0, 0, 0, 0, 0, 0, 0, 77, 0, 0, 0, 0])).unwrap_err();
    }
}
