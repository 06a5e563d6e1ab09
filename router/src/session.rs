//! How fresh a read was asked to be, and how far a caller has seen each shard.
//!
//! A token is `SHARD:EPOCH:POSITION`: an answer's, given back with the next request. Several stand
//! with commas between, as an answer over several shards gives them.

use std::collections::BTreeMap;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::Response;
use opcode_engine::Problem;
use opcode_engine::ids::ShardId;
use opcode_shard::batch::Position;
use opcode_shard::remote::Freshness;

use crate::error::ApiError;
use crate::query::Consistency;

/// Where a shard's log stood.
pub(crate) const TOKEN: HeaderName = HeaderName::from_static("opcode-token");
/// How far a replica's answer lies behind, in ms.
const LAG_MS: HeaderName = HeaderName::from_static("opcode-lag-ms");

/// What a reading request asks for.
pub(crate) struct Session {
    consistency: Consistency,
    seen: BTreeMap<ShardId, Position>,
}

impl Session {
    /// The tokens count for session reads alone; for others, whatever stands there is passed over.
    pub(crate) fn of(headers: &HeaderMap, consistency: Consistency) -> Result<Self, ApiError> {
        let mut seen: BTreeMap<ShardId, Position> = BTreeMap::new();
        if consistency == Consistency::Session {
            for header in headers.get_all(TOKEN) {
                for token in header.to_str().unwrap_or("not ASCII").split(',') {
                    let (shard, position) = parse_token(token.trim()).ok_or_else(|| {
                        let message =
                            "the header Opcode-Token must be SHARD:EPOCH:POSITION, as an answer gave it";
                        ApiError::malformed(Problem::at("", message))
                    })?;
                    let place = seen.entry(shard).or_default();
                    *place = position.max(*place);
                }
            }
        }
        Ok(Self { consistency, seen })
    }

    /// How fresh an answer of this shard must be.
    pub(crate) fn freshness(&self, shard: ShardId) -> Freshness {
        match self.consistency {
            Consistency::Strong => Freshness::Strong,
            Consistency::Session => Freshness::Reached(self.seen.get(&shard).copied().unwrap_or_default()),
            Consistency::Eventual => Freshness::Any,
        }
    }

    /// Says how far the answer lies behind, where a replica might have given it: nothing, when the
    /// leader gave it all the same.
    pub(crate) fn with_lag(&self, mut response: Response, lag_ms: Option<u64>) -> Response {
        if self.consistency != Consistency::Strong {
            response.headers_mut().insert(LAG_MS, HeaderValue::from(lag_ms.unwrap_or(0)));
        }
        response
    }
}

fn parse_token(text: &str) -> Option<(ShardId, Position)> {
    let mut parts = text.split(':');
    let shard = ShardId(parts.next()?.parse().ok()?);
    let position = Position { term: parts.next()?.parse().ok()?, index: parts.next()?.parse().ok()? };
    parts.next().is_none().then_some((shard, position))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(tokens: &[&str]) -> Result<Session, ApiError> {
        let mut headers = HeaderMap::new();
        for token in tokens {
            headers.append(TOKEN, HeaderValue::from_str(token).expect("a header"));
        }
        Session::of(&headers, Consistency::Session)
    }

    #[test]
    fn tokens_are_parsed_strictly() {
        assert_eq!(parse_token("3:2:17"), Some((ShardId(3), Position { term: 2, index: 17 })));
        for wrong in ["", "3", "3:2", "3:2:", "3:2:17:1", "a:b:c", "-1:2:3"] {
            assert_eq!(parse_token(wrong), None, "{wrong}");
            assert!(session(&[wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_was_seen_last_of_each_shard_counts() {
        let session = session(&["1:2:5,3:1:9", "1:1:70, 2:1:1"]).expect("tokens");
        let at = |shard| session.freshness(ShardId(shard));
        assert_eq!(at(1), Freshness::Reached(Position { term: 2, index: 5 }));
        assert_eq!(at(3), Freshness::Reached(Position { term: 1, index: 9 }));
        assert_eq!(at(7), Freshness::Reached(Position::default()), "any replica's is good");
    }
}
