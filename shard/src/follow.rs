//! What those who follow events say: from which place in the logs on, and of which runs.
//!
//! A [`Places`] is told with each event, as text, and taken back to go on after it. It counts events
//! after an entry of each shard's log, so that it means the same on every replica, however the log
//! is cut into pieces on its way.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use opcode_engine::event::EventType;
use opcode_engine::ids::{ShardId, WorkflowId};
use opcode_engine::namespace::Namespace;
use opcode_engine::view::{self, Change};

use crate::record::EventRecord;

/// Longest text of places that is looked at, in bytes.
pub const PLACES_BYTES_MAX: usize = 16 * 1024;
/// Events after an entry that a place counts at most: no entry has so many.
const COUNT_MAX: u32 = 10_000_000;
/// Longest parts of a label, in bytes.
const LABEL_BYTES_MAX: usize = 256;
/// Labels of one filter at most.
pub const LABELS_MAX: usize = 64;

/// A place in one shard's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// After this entry,
    pub entry: u64,
    /// and after so many events that follow it.
    pub events: u32,
}

/// A place in the log of each shard, as far as it is known.
///
/// As text: the places of shards 0, 1, … with `-` between, each `ENTRY` or `ENTRY.EVENTS`, or nothing
/// where it is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places(Vec<Option<Place>>);

impl Places {
    /// None known of so many shards.
    pub fn unknown(shards: usize) -> Self {
        Self(vec![None; shards])
    }

    /// Reads the places of a cluster with so many shards. The error says what they must be.
    pub fn parse(text: &str, shards: usize) -> Result<Self, String> {
        let wrong = || "must be a place that this stream has given".to_owned();
        if text.is_empty() || text.len() > PLACES_BYTES_MAX {
            return Err(wrong());
        }
        let places: Option<Vec<_>> = text.split('-').take(shards + 1).map(place).collect();
        match places {
            Some(places) if places.len() == shards => Ok(Self(places)),
            Some(_) => Err(format!("is not of this cluster, which has {shards} shards")),
            None => Err(wrong()),
        }
    }

    /// The place in one shard's log.
    pub fn get(&self, shard: ShardId) -> Option<Place> {
        *self.0.get(shard.0 as usize)?
    }

    /// Says the place in one shard's log; nothing for a shard that there is not.
    pub fn set(&mut self, shard: ShardId, place: Option<Place>) {
        if let Some(known) = self.0.get_mut(shard.0 as usize) {
            *known = place;
        }
    }
}

/// One place, or none; `None` for what is neither.
fn place(text: &str) -> Option<Option<Place>> {
    // Digits alone: numbers of the standard library may have a sign.
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u64>().ok())?;
    if text.is_empty() {
        return Some(None);
    }
    let (entry, events) = text.split_once('.').unwrap_or((text, "0"));
    let events = u32::try_from(number(events)?).ok().filter(|events| *events <= COUNT_MAX)?;
    Some(Some(Place { entry: number(entry)?, events }))
}

impl fmt::Display for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, place) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_char('-')?;
            }
            match place {
                Some(Place { entry, events: 0 }) => write!(f, "{entry}")?,
                Some(Place { entry, events }) => write!(f, "{entry}.{events}")?,
                None => {}
            }
        }
        Ok(())
    }
}

/// What a run says of itself when it starts, and keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFacts {
    /// Its id.
    pub id: WorkflowId,
    /// The template that it runs.
    pub template: Option<String>,
    /// Who has started it.
    pub agent_id: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

impl RunFacts {
    /// Those of the run that this event starts, when it starts one.
    pub fn of(record: &EventRecord) -> Option<Self> {
        if record.event_type != EventType::WorkflowStarted {
            return None;
        }
        let changes =
            view::changes(record.event_type, record.step_id.as_ref(), &record.data, record.timestamp).ok()?;
        changes.into_iter().find_map(|change| match change {
            Change::RunStarted(started) => Some(Self {
                id: WorkflowId::parse_kept(&started.workflow_id).ok()?,
                template: started.template,
                agent_id: started.agent_id,
                labels: started.labels.into_iter().collect(),
            }),
            Change::Run { .. }
            | Change::Definition(_)
            | Change::Step(_)
            | Change::DecisionRequested(_)
            | Change::DecisionClosed { .. }
            | Change::DecisionsWithdrawn
            | Change::MessageOwed => None,
        })
    }
}

/// Which runs are followed: those for which all holds that is said here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunChoice {
    /// Runs of this namespace.
    pub namespace: Option<Namespace>,
    /// That run alone.
    pub workflow_id: Option<WorkflowId>,
    /// Runs of this template, by the name that it is kept under.
    pub template: Option<String>,
    /// Runs with all of these labels.
    pub labels: Vec<(String, String)>,
    /// Runs that this agent has started.
    pub agent_id: Option<String>,
}

impl RunChoice {
    /// Whether all runs are followed, of whatever namespace they have to be.
    pub fn is_any(&self) -> bool {
        let Self { namespace: _, workflow_id, template, labels, agent_id } = self;
        workflow_id.is_none() && template.is_none() && labels.is_empty() && agent_id.is_none()
    }

    /// Whether this run is followed.
    pub fn takes(&self, run: &RunFacts) -> bool {
        self.namespace.as_ref().is_none_or(|namespace| namespace.owns(run.id.as_str()))
            && self.workflow_id.as_ref().is_none_or(|id| *id == run.id)
            && self.template.as_ref().is_none_or(|template| run.template.as_ref() == Some(template))
            && self.agent_id.as_ref().is_none_or(|agent| run.agent_id.as_ref() == Some(agent))
            && self.labels.iter().all(|(name, value)| run.labels.get(name) == Some(value))
    }
}

/// Reads `name:value`. The error says what it must be.
pub fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((name, value))
            if !name.is_empty() && name.len() <= LABEL_BYTES_MAX && value.len() <= LABEL_BYTES_MAX =>
        {
            Ok((name.to_owned(), value.to_owned()))
        }
        Some(_) | None => Err(format!("must be `name:value`, each of at most {LABEL_BYTES_MAX} bytes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_they_are_written() {
        for text in ["7", "0", "1-2-3", "1.4-2-", "--12.1", "-", "18446744073709551615"] {
            let shards = text.split('-').count();
            assert_eq!(Places::parse(text, shards).unwrap().to_string(), text);
        }
        let places = Places::parse("-5.2", 2).unwrap();
        assert_eq!(places.get(ShardId(0)), None);
        assert_eq!(places.get(ShardId(1)), Some(Place { entry: 5, events: 2 }));
        assert_eq!(places.get(ShardId(2)), None);
    }

    #[test]
    fn what_is_no_place_is_refused() {
        for text in
            ["", "x", "1.x", "+1", "1.", ".1", "1.1.1", " 1", "18446744073709551616", "1.10000001", "é"]
        {
            assert!(Places::parse(text, 1).is_err(), "{text:?}");
        }
        let foreign = Places::parse("1-2", 3).unwrap_err();
        assert!(foreign.contains("has 3 shards"), "{foreign}");
        assert!(Places::parse(&"1-".repeat(100_000), 2).is_err());
    }

    #[test]
    fn a_run_is_taken_for_which_all_holds() {
        let run = RunFacts {
            id: WorkflowId::parse("a").unwrap(),
            template: Some("t".into()),
            agent_id: None,
            labels: [("env".to_owned(), "prod".to_owned())].into(),
        };
        let label = |text| vec![parse_label(text).unwrap()];
        let choice =
            RunChoice { template: Some("t".into()), labels: label("env:prod"), ..Default::default() };
        assert!(choice.takes(&run) && RunChoice::default().takes(&run));
        assert!(!RunChoice { labels: label("env:dev"), ..choice.clone() }.takes(&run));
        assert!(!RunChoice { agent_id: Some("x".into()), ..choice.clone() }.takes(&run));
        let team = Namespace::parse("team").unwrap();
        let of_team = RunFacts { id: run.id.clone().in_namespace(&team), ..run.clone() };
        for (namespace, is_teams) in [(Namespace::default(), false), (team, true)] {
            let choice = RunChoice { namespace: Some(namespace), ..Default::default() };
            assert_eq!(
                (choice.is_any(), choice.takes(&run), choice.takes(&of_team)),
                (true, !is_teams, is_teams)
            );
        }
        assert!(!RunChoice { template: Some("u".into()), ..choice }.takes(&run));
        assert!(parse_label("env").is_err() && parse_label(":x").is_err());
    }
}
