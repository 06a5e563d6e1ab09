//! Schedules: at which moments a run is due ([`trigger`]), and which of those moments are acted on
//! now ([`plan`]).
//!
//! A slot is such a moment. It has one run, whose id says which slot it is of ([`run_id`]), so that
//! starting it again starts nothing new. Everything here is a function of times that come in as
//! data: who fires, and what the clock says, is known elsewhere.

mod plan;
mod trigger;

use crate::ids::{Timestamp, WorkflowId};
use crate::namespace::{Namespace, local};

pub use plan::{
    Missed, ON_TIME_MS, Overlap, Plan, Policy, ROUND_SLOTS_MAX, Standing, WAITING_SLOTS_MAX, plan,
};
pub use trigger::{Cron, INTERVAL_MS_MIN, Interval, Trigger, Zone};

/// Longest id of a schedule, in bytes: with a slot's time it is a workflow id.
pub const SCHEDULE_ID_BYTES_MAX: usize = 100;

/// Checks a schedule's id. The error says what is allowed.
pub fn check_id(id: &str) -> Result<(), String> {
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if !id.is_empty() && id.len() <= SCHEDULE_ID_BYTES_MAX && id.bytes().all(ok) {
        return Ok(());
    }
    Err(format!("a schedule's id is 1 to {SCHEDULE_ID_BYTES_MAX} characters of A-Z a-z 0-9 . _ -"))
}

/// The id of a slot's run, in the namespace of its schedule: `SCHEDULE:2026-11-27T22:00:00Z`.
pub fn run_id(schedule: &str, slot: Timestamp) -> WorkflowId {
    let time = slot.to_rfc3339();
    let time = time.strip_suffix(".000Z").map_or(time.clone(), |seconds| format!("{seconds}Z"));
    let id = WorkflowId::parse(&format!("{}:{time}", local(schedule)));
    let id = id.expect("a schedule's id and a time are a workflow id");
    id.in_namespace(&Namespace::of(schedule))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_has_one_id() {
        let at = |text| Timestamp::parse_rfc3339(text).unwrap();
        let id = |text| run_id("nightly", at(text)).to_string();
        assert_eq!(id("2026-11-27T22:00:00Z"), "nightly:2026-11-27T22:00:00Z");
        assert_eq!(id("2026-11-27T23:00:00+01:00"), "nightly:2026-11-27T22:00:00Z");
        assert_eq!(id("2026-11-27T22:00:00.500Z"), "nightly:2026-11-27T22:00:00.500Z");
        assert_eq!(
            run_id("team/nightly", at("2026-11-27T22:00:00Z")).as_str(),
            "team/nightly:2026-11-27T22:00:00Z"
        );
        let longest = "x".repeat(SCHEDULE_ID_BYTES_MAX);
        assert_eq!(check_id(&longest), Ok(()));
        assert!(run_id(&longest, at("2026-11-27T22:00:00.500Z")).as_str().starts_with(&longest));
        for wrong in ["", "a:b", "a b", "ü", &"x".repeat(SCHEDULE_ID_BYTES_MAX + 1)] {
            assert!(check_id(wrong).is_err(), "{wrong}");
        }
    }
}
