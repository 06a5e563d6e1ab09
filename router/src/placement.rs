//! Placement: which shard owns a workflow id. `xxh3_64` of the id's bytes, seed 0, cut into
//! contiguous ranges of equal length over the shards.
//!
//! The mapping is a contract: nodes, clients and tools must agree on it for ever, so its test
//! vectors are pinned. Nothing here knows which node holds a shard.

use opcode_engine::ids::{ShardId, WorkflowId};
use xxhash_rust::xxh3::xxh3_64;

/// The place of a workflow id on the ring of 2^64 hashes.
pub fn hash_of(id: &WorkflowId) -> u64 {
    xxh3_64(id.as_str().as_bytes())
}

/// The shard that owns `id` among `shards` of them (at least one): shard `s` owns the hashes `h`
/// with `floor(h · shards / 2^64) = s`, which is a contiguous range.
pub fn shard_of(id: &WorkflowId, shards: u32) -> ShardId {
    assert!(shards > 0, "a cluster without shards");
    let scaled = (u128::from(hash_of(id)) * u128::from(shards)) >> 64;
    ShardId(u32::try_from(scaled).expect("a product of 64 and 32 bits has 96"))
}

/// The first hash that shard `shard` of `shards` owns; it owns those up to the next one's first.
pub fn first_hash_of(shard: ShardId, shards: u32) -> u64 {
    assert!(shard.0 < shards, "a shard outside the map");
    let numerator = u128::from(shard.0) << 64;
    u64::try_from(numerator.div_ceil(u128::from(shards))).expect("below 2^64, as the shard is in the map")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> WorkflowId {
        WorkflowId::parse(text).expect("a valid id")
    }

    /// Published vectors, from another implementation of XXH3: id, hash, shard of 4, shard of 7.
    const VECTORS: &[(&str, u64, u32, u32)] = &[
        ("a", 0xe6c6_32b6_1e96_4e1f, 3, 6),
        ("order-17", 0x234c_efc8_1040_cbbe, 0, 0),
        ("run-1", 0x9065_911b_4ee5_3c08, 2, 3),
        ("tenant:42.x", 0x100d_c586_eef6_1f3a, 0, 0),
        ("0198f2a0-7c1e-7000-8000-000000000001", 0x0e19_4b36_0cef_00fb, 0, 0),
        ("A.b_c:d-9", 0x12c1_5036_18b4_74f8, 0, 0),
    ];

    #[test]
    fn vectors_are_pinned() {
        assert!(!VECTORS.is_empty());
        for &(text, hash, of_4, of_7) in VECTORS {
            assert_eq!(hash_of(&id(text)), hash, "{text}");
            assert_eq!(shard_of(&id(text), 4), ShardId(of_4), "{text}");
            assert_eq!(shard_of(&id(text), 7), ShardId(of_7), "{text}");
        }
    }

    #[test]
    fn ranges_are_contiguous_and_agree_with_the_mapping() {
        for shards in [1, 2, 3, 4, 7, 64] {
            assert_eq!(first_hash_of(ShardId(0), shards), 0);
            for n in 0..10_000 {
                let id = id(&format!("run-{n}"));
                let ShardId(shard) = shard_of(&id, shards);
                assert!(hash_of(&id) >= first_hash_of(ShardId(shard), shards));
                assert!(shard + 1 == shards || hash_of(&id) < first_hash_of(ShardId(shard + 1), shards));
            }
        }
    }

    #[test]
    fn ids_spread_evenly() {
        let mut counts = [0u32; 8];
        for n in 0..8_000 {
            counts[shard_of(&id(&format!("0198f2a0-7c1e-7000-8000-{n:012}")), 8).0 as usize] += 1;
        }
        assert!(counts.iter().all(|&count| (850..1150).contains(&count)), "{counts:?}");
    }
}
