//! The firehose: every event of a namespace's runs, or those of some types and some runs, on any node. Each
//! shard is followed by its place in the shard's log, in the replica of this node or in whichever can
//! be reached, so that a leader may change, and a replica move, without an event missed or shown
//! twice.
//!
//! With each event goes the place in all logs after it ([`Places`]). Whoever shows it again goes on
//! exactly there, on any node, as long as the logs still have what came next; if not, he is told from
//! where they do. What cannot be shown is told: a shard that nobody answers for. A reader that takes
//! nothing for long is cut off, and so is a stream whose place a log has let go of meanwhile.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::Response;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use opcode_engine::Problem;
use opcode_engine::event::EventType;
use opcode_engine::ids::{ShardId, WorkflowId};
use opcode_engine::namespace::Namespace;
use opcode_shard::CallError;
use opcode_shard::follow::{Place, Places, RunChoice, RunFacts};
use opcode_shard::handle::ShardInfo;
use opcode_shard::record::EventRecord;
use opcode_shard::remote::Tail;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::Interval;

use crate::error::{ApiError, Applied};
use crate::event_stream::{Chunks, EventDocument, beats, document, open, run_until, write_event, write_line};
use crate::forward::ShardClient;
use crate::known_runs::KnownRuns;
use crate::state::RouterState;

/// Longest wait for something to be committed, before the shard is asked again.
const WAIT: Duration = Duration::from_secs(2);
/// Longest wait for a shard to say where its log stands, before the stream begins.
const BEGIN_MAX: Duration = Duration::from_secs(1);
/// How soon a shard is asked again that nobody answered for.
const RETRY_EVERY: Duration = Duration::from_millis(500);
/// Longest time that a reader may take nothing.
const SLOW_MAX: Duration = if cfg!(test) { Duration::from_millis(200) } else { Duration::from_secs(30) };
/// Bytes from which on a chunk takes no further event.
const CHUNK_BYTES: usize = 64 * 1024;

/// Where a firehose begins.
pub(crate) enum Start {
    /// With what comes from now on.
    Now,
    /// With all that the logs still have.
    Earliest,
    /// After these places.
    After(Places),
}

/// How events are written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// `text/event-stream`.
    Frames,
    /// `application/x-ndjson`.
    Lines,
}

impl Form {
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Frames => "text/event-stream",
            Self::Lines => "application/x-ndjson",
        }
    }
}

/// What a firehose shows.
pub(crate) struct Wanted {
    /// Of these types; of all, if there are none.
    pub(crate) types: Vec<EventType>,
    /// Without a namespace it is the node itself that reads, and ids are shown as they are kept.
    pub(crate) choice: RunChoice,
    /// Nothing is shown of which it is not known whose it is.
    pub(crate) is_confined: bool,
    pub(crate) start: Start,
    pub(crate) form: Form,
    /// Goes on with what is committed later; else it ends with what is there by now.
    pub(crate) follows: bool,
}

impl Wanted {
    /// Every event of some types from now on, of all namespaces.
    pub(crate) fn live(types: Vec<EventType>) -> Self {
        let (choice, is_confined) = (RunChoice::default(), false);
        Self { types, choice, is_confined, start: Start::Now, form: Form::Frames, follows: true }
    }
}

/// Opens a firehose.
pub(crate) async fn firehose(state: &RouterState, wanted: Wanted) -> Result<Response, ApiError> {
    let place = state.enter_stream()?;
    let shards = match &wanted.choice.workflow_id {
        Some(id) => vec![state.shard_of(id)],
        None => state.shards(),
    };
    let count = state.map().shards.len();
    let begun = shards.iter().map(|shard| Begun::of(shard, &wanted.start));
    let begun = futures::future::join_all(begun).await.into_iter().collect::<Result<Vec<_>, _>>()?;
    let places = first_places(&wanted.start, count, &shards, &begun)?;
    if !wanted.follows
        && let Some((shard, _)) = shards.iter().zip(&begun).find(|(_, begun)| begun.end.is_none())
    {
        return Err(silent(shard.id()));
    }
    let (response, chunks) = open(wanted.form.media_type(), place);
    let (follows, form) = (wanted.follows, wanted.form);
    let wanted = Arc::new(wanted);
    let namespace = wanted.choice.namespace.clone();
    let spout = Arc::new(Spout { chunks, form, namespace, places: Mutex::new(places) });
    let pours = shards.into_iter().zip(begun).map(|(shard, begun)| Pour {
        shard,
        wanted: wanted.clone(),
        place: begun.place,
        end: begun.end.filter(|_| !follows),
        known: KnownRuns::default(),
        is_reachable: true,
    });
    let pours: FuturesUnordered<_> = pours.map(|pour| pour.run(spout.clone())).collect();
    let beats = beats(state);
    let work = async move {
        if !spout.beat().await {
            return;
        }
        tokio::select! {
            // Whoever comes back for more has to know where it ended.
            () = all(pours) => {
                spout.beat().await;
            }
            () = keep_alive(&spout, beats) => {}
        }
    };
    tokio::spawn(run_until(work, state.stopping()));
    Ok(response)
}

/// Where one shard's part begins, and where it ends if it does not follow.
struct Begun {
    place: Option<Place>,
    end: Option<u64>,
    /// The place after which the log still has all, when what was asked for is before it.
    lost_to: Option<u64>,
}

impl Begun {
    /// A shard that does not answer soon is poured from when it does, or from where the caller says.
    async fn of(shard: &ShardClient, start: &Start) -> Result<Self, ApiError> {
        let given = match start {
            Start::Now => None,
            Start::Earliest => Some(Place::default()),
            Start::After(places) => places.get(shard.id()),
        };
        let Some(given) = given else {
            let standing = tokio::time::timeout(BEGIN_MAX, shard.tail(None, Duration::ZERO)).await;
            let stands = standing.ok().and_then(Result::ok).map(|tail| tail.upto.index);
            let place = stands.map(|entry| Place { entry, events: 0 });
            return Ok(Self { place, end: stands, lost_to: None });
        };
        let info = tokio::time::timeout(BEGIN_MAX, shard.info()).await.ok().and_then(Result::ok);
        let info = info.map(|seen| seen.value);
        if matches!(start, Start::Earliest) {
            let ShardInfo { purged, committed, .. } = info.ok_or_else(|| silent(shard.id()))?;
            let place = Some(Place { entry: purged, events: 0 });
            return Ok(Self { place, end: Some(committed.index), lost_to: None });
        }
        if info.as_ref().is_some_and(|info| given.entry > info.committed.index) {
            let message =
                format!("the log of shard {} does not reach so far: the place is not of it", shard.id());
            return Err(ApiError::malformed(Problem::at("/after", message)));
        }
        let lost_to = info.as_ref().map(|info| info.purged).filter(|purged| given.entry < *purged);
        Ok(Self { place: Some(given), end: info.map(|info| info.committed.index), lost_to })
    }
}

fn silent(shard: ShardId) -> ApiError {
    ApiError::unavailable(Applied::No, format!("shard {shard} does not say what its log has"))
}

/// The places before the first event; refused with 410 when some log has let go of what follows one.
fn first_places(
    start: &Start,
    count: usize,
    shards: &[ShardClient],
    begun: &[Begun],
) -> Result<Places, ApiError> {
    let mut places = match start {
        // Of shards that are not followed here it says what was known.
        Start::After(places) => places.clone(),
        Start::Now | Start::Earliest => Places::unknown(count),
    };
    let mut lost = Vec::new();
    for (shard, begun) in shards.iter().zip(begun) {
        let moved = begun.lost_to.map(|entry| Place { entry, events: 0 });
        lost.extend(moved.map(|_| shard.id().to_string()));
        places.set(shard.id(), moved.or(begun.place));
    }
    if lost.is_empty() {
        return Ok(places);
    }
    let detail = format!(
        "events after this place are not in the log of shard {} any more; all that there are follow {places}, \
         and lists still have the runs",
        lost.join(", ")
    );
    Err(ApiError::new(StatusCode::GONE, "EVENTS_GONE", detail))
}

/// Waits for all pours to end, or for the first that cannot go on.
async fn all(mut pours: FuturesUnordered<impl Future<Output = Ended>>) {
    while let Some(Ended::Done) = pours.next().await {}
}

/// Says now and then that the stream lives, and where it stands; ends when its reader is gone.
async fn keep_alive(spout: &Spout, mut beats: Interval) {
    loop {
        tokio::select! {
            () = spout.chunks.closed() => return,
            _ = beats.tick() => if !spout.beat().await { return },
        }
    }
}

/// How a pour ends.
enum Ended {
    /// All that was asked for was shown.
    Done,
    /// The reader is gone, or too slow, or the log has let go of what comes next.
    Cut,
}

/// An event to show.
struct Shown<'a> {
    record: &'a EventRecord,
    run: Option<Arc<RunFacts>>,
    /// The place after it.
    place: Place,
}

/// Where all pours of a stream write. What is written and the places that are told with it change
/// together, so that a place never says more than what was written before it.
struct Spout {
    chunks: Chunks,
    form: Form,
    /// Of which all that is shown is; without one, each says its own.
    namespace: Option<Namespace>,
    places: Mutex<Places>,
}

impl Spout {
    /// Room for a chunk; none when the reader is gone, or takes nothing for long.
    async fn room(&self) -> Option<mpsc::Permit<'_, Result<axum::body::Bytes, std::convert::Infallible>>> {
        tokio::time::timeout(SLOW_MAX, self.chunks.reserve()).await.ok()?.ok()
    }

    /// Writes where the stream stands; false when nobody reads it.
    async fn beat(&self) -> bool {
        let Some(room) = self.room().await else { return false };
        let places = self.places.lock();
        room.send(Ok(match self.form {
            Form::Frames => format!(": alive\nid: {places}\n\n"),
            Form::Lines => format!("{{\"place\":\"{places}\"}}\n"),
        }
        .into()));
        true
    }

    /// A word on a shard itself.
    async fn say(&self, shard: ShardId, notice: &str, detail: &str) -> bool {
        let Some(room) = self.room().await else { return false };
        let data = match self.form {
            Form::Frames => serde_json::json!({ "shard": shard.0, "detail": detail }),
            Form::Lines => serde_json::json!({ "notice": notice, "shard": shard.0, "detail": detail }),
        };
        room.send(Ok(match self.form {
            Form::Frames => format!("event: {notice}\ndata: {data}\n\n"),
            Form::Lines => format!("{data}\n"),
        }
        .into()));
        true
    }

    /// Shows some events of a shard, which then stands after the entry `upto`.
    async fn show(&self, shard: ShardId, shown: &[Shown<'_>], upto: u64) -> bool {
        let mut rest = shown;
        while !rest.is_empty() {
            let Some(room) = self.room().await else { return false };
            let mut out = Vec::new();
            let mut places = self.places.lock();
            while let Some((first, others)) = rest.split_first()
                && out.len() < CHUNK_BYTES
            {
                places.set(shard, Some(first.place));
                self.write(&mut out, shard, first, &places.to_string());
                rest = others;
            }
            room.send(Ok(out.into()));
        }
        self.places.lock().set(shard, Some(Place { entry: upto, events: 0 }));
        true
    }

    fn write(&self, out: &mut Vec<u8>, shard: ShardId, shown: &Shown<'_>, places: &str) {
        let id = shown.run.as_ref().map(|run| &run.id);
        let (workflow_id, document) = match &self.namespace {
            Some(own) => (id.map(WorkflowId::local), document(shown.record, own)),
            None => (id.map(WorkflowId::as_str), document(shown.record, &Namespace::default())),
        };
        let place = (self.form == Form::Lines).then_some(places);
        let shown = EventDocument { workflow_id, shard: Some(shard.0), place, ..document };
        match self.form {
            Form::Frames => write_event(out, &shown, Some(places)),
            Form::Lines => {
                write_line(out, &shown);
                out.push(b'\n');
            }
        }
    }
}

/// One shard's part of a firehose.
struct Pour {
    shard: ShardClient,
    wanted: Arc<Wanted>,
    /// What was shown of its log; none before the first answer.
    place: Option<Place>,
    /// The entry with which it ends, if it does.
    end: Option<u64>,
    known: KnownRuns,
    is_reachable: bool,
}

impl Pour {
    async fn run(mut self, spout: Arc<Spout>) -> Ended {
        loop {
            if self.end.zip(self.place).is_some_and(|(end, place)| place.entry >= end) {
                return Ended::Done;
            }
            let goes_on = match self.shard.tail(self.place.map(|place| place.entry), WAIT).await {
                Ok(tail) => self.take(tail, &spout).await,
                Err(error) => self.is_silent(&error, &spout).await,
            };
            if !goes_on {
                return Ended::Cut;
            }
        }
    }

    async fn is_silent(&mut self, error: &CallError, spout: &Spout) -> bool {
        let is_news = std::mem::replace(&mut self.is_reachable, false);
        if is_news && !spout.say(self.shard.id(), "unreachable", &error.to_string()).await {
            return false;
        }
        tokio::time::sleep(RETRY_EVERY).await;
        true
    }

    /// Shows a piece of the log; false when the stream cannot go on.
    async fn take(&mut self, tail: Tail, spout: &Spout) -> bool {
        let shard = self.shard.id();
        let was_reachable = std::mem::replace(&mut self.is_reachable, true);
        if !was_reachable && !spout.say(shard, "reachable", "the shard answers again").await {
            return false;
        }
        if tail.lagged {
            let detail =
                "the log let go of what comes next: ask again with the last id to be told from where";
            spout.say(shard, "lagged", detail).await;
            return false;
        }
        let upto = tail.upto.index;
        let Some(Place { entry, events: seen }) = self.place else {
            self.place = Some(Place { entry: upto, events: 0 });
            return spout.show(shard, &[], upto).await;
        };
        let seen = usize::try_from(seen).expect("a count of events");
        let mut shown = Vec::new();
        for (at, record) in tail.events.iter().enumerate().skip(seen) {
            if !self.wanted.types.is_empty() && !self.wanted.types.contains(&record.event_type) {
                continue;
            }
            let Some(run) = self.run_of(record, &tail).await else { continue };
            let events = u32::try_from(at + 1).expect("a piece of the log has few events");
            shown.push(Shown { record, run, place: Place { entry, events } });
        }
        // What was seen already may go beyond this piece, as it is cut now.
        let left = seen.saturating_sub(tail.events.len());
        self.place = Some(Place { entry: upto, events: u32::try_from(left).expect("a count of events") });
        if shown.is_empty() && left > 0 {
            return true;
        }
        spout.show(shard, &shown, upto).await
    }

    /// What is known of an event's run; the outer `None` when it is not one that is wanted.
    async fn run_of(&mut self, record: &EventRecord, tail: &Tail) -> Option<Option<Arc<RunFacts>>> {
        let choice = &self.wanted.choice;
        // Shown also when it is not known whose it is.
        let may_be_anybodys = choice.is_any() && !self.wanted.is_confined;
        let run = loop {
            match self.known.of(&self.shard, record, tail.upto).await {
                Ok(run) => break run,
                Err(error) if may_be_anybodys => {
                    tracing::warn!(run = record.no.0, %error, "the run of an event in the firehose is not known");
                    break None;
                }
                Err(error) => {
                    tracing::debug!(run = record.no.0, %error, "the firehose waits to know an event's run");
                    tokio::time::sleep(RETRY_EVERY).await;
                }
            }
        };
        let is_wanted = run.as_ref().map_or(may_be_anybodys, |run| choice.takes(run));
        is_wanted.then_some(run)
    }
}

#[cfg(test)]
mod tests {
    use opcode_engine::ids::{RunNo, Sequence, Timestamp};
    use tokio::sync::Semaphore;

    use super::*;

    /// A stream that nobody has read yet, and the places of those who may be open beside it.
    fn stream(form: Form) -> (Response, Spout, Arc<Semaphore>) {
        let room = Arc::new(Semaphore::new(1));
        let place = room.clone().try_acquire_owned().expect("there is room");
        let (response, chunks) = open(form.media_type(), place);
        (response, Spout { chunks, form, namespace: None, places: Mutex::new(Places::unknown(2)) }, room)
    }

    fn record(sequence: u64, bytes: usize) -> EventRecord {
        EventRecord {
            no: RunNo(1),
            sequence: Sequence(sequence),
            event_type: EventType::Custom,
            step_id: None,
            data: format!("{{\"x\":\n\"{}\"}}", "x".repeat(bytes)).into_bytes(),
            agent_id: None,
            timestamp: Timestamp(0),
        }
    }

    async fn text(response: Response) -> String {
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.expect("a body");
        String::from_utf8(body.to_vec()).expect("utf-8")
    }

    #[tokio::test]
    async fn a_reader_that_takes_nothing_is_cut_off_at_a_place_that_it_has() {
        let (response, spout, room) = stream(Form::Frames);
        let records: Vec<EventRecord> = (1..=100).map(|sequence| record(sequence, CHUNK_BYTES)).collect();
        let mut shown = 0;
        for (nth, record) in records.iter().enumerate() {
            let place = Place { entry: 7, events: u32::try_from(nth).unwrap() + 1 };
            if !spout.show(ShardId(1), &[Shown { record, run: None, place }], 8).await {
                break;
            }
            shown += 1;
        }
        assert!((1..=20).contains(&shown), "{shown} chunks wait for who does not read");
        drop(spout);
        assert_eq!(room.available_permits(), 0, "its connection is there still");
        let text = text(response).await;
        let ids: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
        assert_eq!(ids.len(), shown);
        assert_eq!(ids.last().copied(), Some(format!("-7.{shown}").as_str()), "it says where to go on");
        assert_eq!(room.available_permits(), 1);
    }

    #[tokio::test]
    async fn a_place_says_no_more_than_what_was_written_before_it() {
        let (response, spout, _) = stream(Form::Lines);
        let records = [record(1, 10), record(2, 10), record(3, 10)];
        let shown: Vec<Shown<'_>> = (1..)
            .zip(&records)
            .map(|(events, record)| Shown { record, run: None, place: Place { entry: 4, events } })
            .collect();
        assert!(spout.show(ShardId(0), &shown, 9).await && spout.show(ShardId(1), &shown[..1], 6).await);
        assert!(spout.beat().await && spout.say(ShardId(1), "unreachable", "it is away").await);
        drop(spout);
        let text = text(response).await;
        let said: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect();
        let places: Vec<&str> = said.iter().filter_map(|said| said["place"].as_str()).collect();
        assert_eq!(places, ["4.1-", "4.2-", "4.3-", "9-4.1", "9-6"], "{text}");
        assert_eq!(said.last().unwrap()["notice"], "unreachable");
    }
}
