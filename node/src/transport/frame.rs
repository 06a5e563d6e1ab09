//! Frames on the wire: a length, then what it is, which call, and a body. The numbers are frozen.
//!
//! A frame is read into memory that grows as its bytes come in, never by what its length claims,
//! and its body is written from where it lies, without a copy.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use opcode_shard::peer::Service;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Largest body of a call or an answer: the largest entry of the log, and what stands around it.
pub(super) const BODY_BYTES_MAX: usize = 72 * 1024 * 1024;
/// What stands before a body, at most: kind, number, service, group, time.
const HEAD_BYTES_MAX: usize = 1 + 8 + 1 + 4 + 4;
/// Largest frame between nodes that know each other.
pub(super) const FRAME_BYTES_MAX: usize = HEAD_BYTES_MAX + BODY_BYTES_MAX;
/// Bytes that are read or written at a time, and that small frames are gathered in.
pub(super) const CHUNK_BYTES: usize = 64 * 1024;

/// What one side tells the other.
#[derive(Debug, PartialEq)]
pub(super) enum Frame {
    /// A question with a number that its answer carries, and how long somebody waits for it.
    Call { id: u64, service: Service, group: u32, within_ms: u32, body: Bytes },
    /// The answer.
    Answer { id: u64, body: Bytes },
    /// The answer that it is refused and changed nothing, in words.
    Refusal { id: u64, why: String },
    /// The answer that there will be none, though it may have been carried out.
    Failure { id: u64, why: String },
    /// Nobody waits for the answer any more.
    Cancel { id: u64 },
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
const CANCEL: u8 = 6;
const FAILURE: u8 = 7;

impl Frame {
    fn body(&self) -> &[u8] {
        match self {
            Self::Call { body, .. } | Self::Answer { body, .. } => body,
            Self::Refusal { why, .. } | Self::Failure { why, .. } => why.as_bytes(),
            Self::Cancel { .. } | Self::Ping | Self::Pong => &[],
        }
    }

    /// Everything before the body, the length first.
    fn head(&self) -> BytesMut {
        let mut head = BytesMut::with_capacity(4 + HEAD_BYTES_MAX);
        head.put_u32_le(0);
        match self {
            Self::Call { id, service, group, within_ms, .. } => {
                head.put_u8(CALL);
                head.put_u64_le(*id);
                head.put_u8(*service as u8);
                head.put_u32_le(*group);
                head.put_u32_le(*within_ms);
            }
            Self::Answer { id, .. } => numbered(&mut head, ANSWER, *id),
            Self::Refusal { id, .. } => numbered(&mut head, REFUSAL, *id),
            Self::Failure { id, .. } => numbered(&mut head, FAILURE, *id),
            Self::Cancel { id } => numbered(&mut head, CANCEL, *id),
            Self::Ping => head.put_u8(PING),
            Self::Pong => head.put_u8(PONG),
        }
        let length = head.len() - 4 + self.body().len();
        assert!(length <= FRAME_BYTES_MAX, "a frame of {length} bytes, over the limit, is never made");
        let length = u32::try_from(length).expect("it is below the limit");
        head[..4].copy_from_slice(&length.to_le_bytes());
        head
    }

    /// Reads a frame; the error says what is broken.
    pub(super) fn decode(mut bytes: Bytes) -> Result<Self, String> {
        let broken = |_| "a frame that ends too early".to_owned();
        let kind = bytes.try_get_u8().map_err(broken)?;
        if matches!(kind, PING | PONG) {
            return Ok(if kind == PING { Self::Ping } else { Self::Pong });
        }
        let id = bytes.try_get_u64_le().map_err(broken)?;
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        Ok(match kind {
            CALL => {
                let number = bytes.try_get_u8().map_err(broken)?;
                let service =
                    Service::from_number(number).ok_or_else(|| format!("there is no service {number}"))?;
                let group = bytes.try_get_u32_le().map_err(broken)?;
                let within_ms = bytes.try_get_u32_le().map_err(broken)?;
                Self::Call { id, service, group, within_ms, body: bytes }
            }
            ANSWER => Self::Answer { id, body: bytes },
            REFUSAL => Self::Refusal { id, why: text(&bytes) },
            FAILURE => Self::Failure { id, why: text(&bytes) },
            CANCEL => Self::Cancel { id },
            kind => return Err(format!("there is no frame of kind {kind}")),
        })
    }
}

fn numbered(head: &mut BytesMut, kind: u8, id: u64) {
    head.put_u8(kind);
    head.put_u64_le(id);
}

/// Writes a frame, in pieces when it is large; `progress` is told after each.
pub(super) async fn write<W: AsyncWrite + Unpin>(
    wire: &mut W,
    frame: &Frame,
    progress: impl Fn(),
) -> io::Result<()> {
    wire.write_all(&frame.head()).await?;
    let mut pieces = frame.body().chunks(CHUNK_BYTES);
    let last = pieces.next_back();
    for piece in pieces {
        wire.write_all(piece).await?;
        progress();
    }
    match last {
        Some(piece) => wire.write_all(piece).await,
        None => Ok(()),
    }
}

/// Writes bytes as a frame that is not flushed yet.
pub(super) async fn write_bytes<W: AsyncWrite + Unpin>(wire: &mut W, bytes: &[u8]) -> io::Result<()> {
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    wire.write_all(&length.to_le_bytes()).await?;
    wire.write_all(bytes).await
}

/// Reads the bytes of one frame of at most `bytes_max`; `heard` is told whenever some come in.
/// `None` is the end of the stream between two frames. Not to be cancelled and called again.
pub(super) async fn read<R: AsyncRead + Unpin>(
    wire: &mut R,
    bytes_max: usize,
    heard: impl Fn(),
) -> io::Result<Option<Bytes>> {
    let mut length = [0; 4];
    if wire.read(&mut length[..1]).await? == 0 {
        return Ok(None);
    }
    heard();
    wire.read_exact(&mut length[1..]).await?;
    let claimed = usize::try_from(u32::from_le_bytes(length)).map_err(io::Error::other)?;
    if claimed > bytes_max {
        let what = match length {
            // How a handshake and an alert of TLS begin.
            [0x16 | 0x15, 3, ..] => "it speaks TLS, and this node has no certificates".to_owned(),
            _ => format!("a frame of {claimed} bytes where {bytes_max} are allowed"),
        };
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    let mut bytes = BytesMut::new();
    while bytes.len() < claimed {
        let missing = claimed - bytes.len();
        if bytes.capacity() == bytes.len() {
            bytes.reserve(missing.min(CHUNK_BYTES.max(bytes.len())));
        }
        let piece = u64::try_from(missing).map_err(io::Error::other)?;
        if (&mut *wire).take(piece).read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        heard();
    }
    Ok(Some(bytes.freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn written(frame: &Frame) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(&mut bytes, frame, || {}).await.unwrap();
        bytes
    }

    #[tokio::test]
    async fn frames_come_back_as_they_were() {
        let long = Bytes::from(vec![7; 3 * CHUNK_BYTES + 1]);
        for frame in [
            Frame::Call {
                id: 7,
                service: Service::Raft,
                group: 3,
                within_ms: 9,
                body: Bytes::from_static(b"abc"),
            },
            Frame::Call { id: 7, service: Service::Copy, group: 3, within_ms: 0, body: long },
            Frame::Answer { id: u64::MAX, body: Bytes::new() },
            Frame::Refusal { id: 1, why: "no".into() },
            Frame::Failure { id: 1, why: "perhaps".into() },
            Frame::Cancel { id: 3 },
            Frame::Ping,
            Frame::Pong,
        ] {
            let bytes = written(&frame).await;
            let bytes = read(&mut &bytes[..], FRAME_BYTES_MAX, || {}).await.unwrap().unwrap();
            for end in 0..bytes.len().min(20) {
                // A prefix is another frame or an error, and never a panic.
                let _ = Frame::decode(bytes.slice(..end));
            }
            assert_eq!(Frame::decode(bytes), Ok(frame));
        }
        Frame::decode(Bytes::from_static(&[9])).unwrap_err();
        Frame::decode(Bytes::from_static(&[CALL, 0, 0, 0, 0, 0, 0, 0, 0, 77, 0, 0, 0, 0])).unwrap_err();
    }

    #[tokio::test]
    async fn a_frame_takes_no_more_room_than_it_has_bytes() {
        let mut claim = (64 * 1024 * 1024_u32).to_le_bytes().to_vec();
        claim.extend([1; 10]);
        // Ten bytes came of what claimed to be sixty-four million.
        let cut = read(&mut &claim[..], FRAME_BYTES_MAX, || {}).await.unwrap_err();
        assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
        let refused = read(&mut &claim[..], 4096, || {}).await.unwrap_err();
        assert!(refused.to_string().contains("4096 are allowed"), "{refused}");
        assert_eq!(read(&mut &[][..], 4096, || {}).await.unwrap(), None);
    }
}
