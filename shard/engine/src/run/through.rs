//! A run carried to its end without a world: what benchmarks and tests need that want a whole log.

use serde_json::Value;

use super::Run;
use crate::command::{Command, Effect, Start};
use crate::error::Rejected;
use crate::event::Event;
use crate::ids::Timestamp;

/// Starts a run and has every action give `output`, until nothing moves any more; the run, and all
/// of its events. What is not an action, such as a decision, is left waiting.
///
/// # Errors
/// As [`Run::start`] and [`Run::handle`].
pub fn run_through(start: Start, output: &Value, now: Timestamp) -> Result<(Run, Vec<Event>), Rejected> {
    let (mut run, decision) = Run::start(start, now)?;
    let mut events = decision.events;
    loop {
        let effects = run.take_effects();
        if effects.is_empty() {
            return Ok((run, events));
        }
        for effect in effects {
            match effect {
                Effect::Execute { handle, .. } => {
                    let result = Ok(output.clone());
                    let finished = Command::Finished { handle, result, emissions: Vec::new() };
                    events.extend(run.handle(finished, now)?.events);
                }
                Effect::Evaluate { .. } | Effect::Abandon(_) => {}
            }
        }
    }
}
