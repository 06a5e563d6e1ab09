//! Places in the logs, and choices of runs: any text is one or is refused, a place is written as it
//! was read, and a choice takes a run just when all that it says holds.

use std::collections::BTreeMap;

use opcode_engine::ids::{ShardId, WorkflowId};
use opcode_shard::follow::{PLACES_BYTES_MAX, Place, Places, RunChoice, RunFacts, parse_label};

/// Shards that a cluster may have here.
const SHARDS_MAX: usize = 40;

/// Runs one input: as the text of places, and as labels of a run and of a choice.
pub fn follow(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let parts = text.split('-').count();
    for shards in [parts, 1, parts.saturating_sub(1), parts + 1, usize::from(data.len() as u8)] {
        if let Ok(places) = Places::parse(text, shards) {
            assert_eq!(shards, parts, "{text:?} is of as many shards as it has parts");
            again(text, &places, shards);
        }
    }
    choose(text);
}

fn again(text: &str, places: &Places, shards: usize) {
    let written = places.to_string();
    assert!(written.len() <= text.len() && text.len() <= PLACES_BYTES_MAX, "{text:?} is not {written:?}");
    assert_eq!(Places::parse(&written, shards).as_ref(), Ok(places), "{text:?}");
    let mut moved = places.clone();
    for shard in (0..shards.min(SHARDS_MAX)).map(|shard| ShardId(u32::try_from(shard).expect("a few"))) {
        let place = places.get(shard).unwrap_or_default();
        let next = Place { entry: place.entry, events: 1 };
        moved.set(shard, Some(next));
        assert_eq!(moved.get(shard), Some(next));
        assert!(Places::parse(&moved.to_string(), shards).is_ok(), "{moved}");
    }
    assert_eq!(places.get(ShardId(u32::try_from(shards).expect("a few"))), None);
}

fn choose(text: &str) {
    let mut labels = BTreeMap::new();
    let mut chosen = Vec::new();
    for line in text.lines().take(20) {
        let Ok((name, value)) = parse_label(line) else {
            let is_one = line
                .split_once(':')
                .is_some_and(|(name, value)| !name.is_empty() && name.len() <= 256 && value.len() <= 256);
            assert!(!is_one, "{line:?} is a label");
            continue;
        };
        assert_eq!(format!("{name}:{value}"), line);
        labels.insert(name.clone(), value.clone());
        chosen.push((name, value));
    }
    let id = WorkflowId::parse("a").expect("an id");
    let run = RunFacts { id: id.clone(), template: None, agent_id: None, labels };
    let holds = chosen.iter().all(|(name, value)| run.labels.get(name) == Some(value));
    let choice = RunChoice { workflow_id: Some(id), labels: chosen, ..RunChoice::default() };
    assert_eq!(choice.takes(&run), holds, "{choice:?} of {run:?}");
    assert!(!RunChoice { template: Some("t".into()), ..choice }.takes(&run));
}
