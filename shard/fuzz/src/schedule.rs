//! Cron patterns in time zones: any text is one or is refused, and the slots of one that is come one
//! after another, the same from wherever they are looked for.

use opcode_engine::ids::Timestamp;
use opcode_engine::schedule::{Cron, Interval, Trigger, Zone};

/// Slots that are looked at.
const SLOTS: usize = 6;
/// From here on slots are looked for, and so many seconds further at most.
const FROM_S: i64 = 1_262_304_000;
const SECONDS_MAX: u64 = 40 * 365 * 86_400;

/// Runs one input: a time, a line with a zone, and the pattern.
pub fn schedule(data: &[u8]) {
    let Some((time, text)) = data.split_first_chunk::<4>() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let (zone, pattern) = text.split_once('\n').unwrap_or(("UTC", text));
    if let Ok(interval) = Interval::parse(pattern) {
        look(&Trigger::Interval(interval), u32::from_le_bytes(*time), text);
    }
    let Ok(zone) = Zone::parse(zone) else { return };
    if let Ok(cron) = Cron::parse(pattern, zone) {
        look(&Trigger::Cron(Box::new(cron)), u32::from_le_bytes(*time), text);
    }
}

fn look(trigger: &Trigger, time: u32, text: &str) {
    let seconds = i64::try_from(u64::from(time) % SECONDS_MAX).expect("forty years fit");
    let after = Timestamp((FROM_S + seconds) * 1_000);
    let slots = trigger.slots(after, Timestamp(i64::MAX), SLOTS);
    let mut before = after;
    for slot in &slots {
        assert!(*slot > before, "{text:?}: {slot:?} after {before:?}");
        let between = Timestamp(before.0 + (slot.0 - before.0) / 2);
        assert_eq!(trigger.next_after(between), Some(*slot), "{text:?} from {between:?}");
        before = *slot;
    }
    assert_eq!(trigger.last_slot(after, before), slots.last().copied(), "{text:?} from {after:?}");
}
