//! Lines of history: a line is refused with a reason, or what was found good is written as a line that
//! is found good again, the same, and goes through the log unchanged.

use opcode_shard::definitions::Definitions;
use opcode_shard::history::{Checked, Line, PastRun};
use opcode_shard::log::codec::{decode, encode};
use opcode_shard::record::{EventRecord, Record};

/// Runs one input.
pub fn history(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let line = match Line::parse(text) {
        Ok(Some(line)) => line,
        Ok(None) => return,
        Err(why) => return assert!(!why.is_empty() && why.chars().count() <= 600, "{why}"),
    };
    let known = Definitions::default();
    let run = match line.check(&known) {
        Ok(Checked::Run(run)) => run,
        Ok(Checked::Template(record)) => return through_the_log(vec![Record::Template(record)]),
        Err(rejected) => return assert!(!rejected.message.is_empty()),
    };
    let Line::Run(past) = &line else { panic!("a template is found to be a run") };
    let definitions: Vec<_> = past.definitions.iter().map(|text| text.get().into()).collect();
    let again = match PastRun::new(past.workflow_id.clone(), &definitions, run.events().to_vec()) {
        Ok(again) => Line::Run(Box::new(again)),
        Err(why) => panic!("what was found good cannot be told: {why}"),
    };
    let bytes = again.write().unwrap_or_else(|why| panic!("what was found good cannot be written: {why}"));
    let text = String::from_utf8(bytes).unwrap_or_else(|error| panic!("{error}"));
    match Line::parse(&text).map(|line| line.map(|line| line.check(&known))) {
        Ok(Some(Ok(Checked::Run(second)))) => assert_eq!(second.events(), run.events()),
        other => panic!("it is not found good again: {other:?}"),
    }
    through_the_log(run.events().iter().cloned().map(Record::History).collect());
    for event in run.events() {
        assert!(EventRecord::decode(event).is_ok());
    }
}

fn through_the_log(records: Vec<Record>) {
    let decoded = encode(&records, 7).and_then(|bytes| decode(&bytes));
    assert_eq!(decoded.map(|decoded| decoded.records), Ok(records));
}
