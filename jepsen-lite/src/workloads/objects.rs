//! Runs that several clients submit, signal, cancel and read at the same time: what they were
//! answered must be linearizable, run by run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::{Setting, Workload, pace};
use crate::checkers::linear::{self, Recorded, Verdict};
use crate::checkers::run_model::{End, Op, Run, SIGNALS};
use crate::client::{Answer, Ask, Client};
use crate::cluster::Cluster;
use crate::history::Outcome;

/// Clients, how often each does something, and to how many runs at a time.
const CLIENTS: usize = 4;
const PACE: Duration = Duration::from_millis(60);
const OPEN: usize = 2;
/// Operations on one run, before another takes its place.
const OPERATIONS_MAX: usize = 32;
/// Configurations that the search may try for one run.
const CONFIGURATIONS_MAX: usize = 2_000_000;

/// What was done to one run.
#[derive(Clone, Default)]
struct Object {
    begun: usize,
    operations: Vec<Recorded<Op>>,
}

/// All that clients did and saw.
#[derive(Clone)]
pub(crate) struct Objects {
    began: Instant,
    all: Arc<Mutex<BTreeMap<String, Object>>>,
}

impl Default for Objects {
    fn default() -> Self {
        Self { began: Instant::now(), all: Arc::default() }
    }
}

/// What a client asks for.
#[derive(Clone, Copy)]
enum Want {
    Submit,
    Signal(usize),
    Cancel,
    Events,
    Status,
}

fn submission(id: &str) -> Value {
    let wait =
        |n: usize| json!({"id": format!("w{n}"), "type": "wait", "config": {"signal": format!("s{n}")}});
    json!({"id": id, "definition": {"steps": (0..SIGNALS).map(wait).collect::<Vec<_>>()}})
}

/// The signals that events tell of.
fn signals(events: &Value) -> Vec<(usize, u64)> {
    let of = |event: &Value| {
        let name = event["data"]["payload"]["name"].as_str()?;
        (event["type"] == "signal_received").then_some(())?;
        Some((name.strip_prefix('s')?.parse().ok()?, event["sequence"].as_u64()?))
    };
    events["items"].as_array().into_iter().flatten().filter_map(of).collect()
}

fn end(run: &Value) -> Option<End> {
    Some(match run["status"].as_str()? {
        "completed" => End::Completed,
        "cancelled" => End::Cancelled,
        "pending" | "active" | "suspended" => End::Not,
        _ => return None,
    })
}

impl Want {
    fn any(rng: &mut StdRng) -> Self {
        match rng.random_range(0..40) {
            0..=5 => Self::Submit,
            6..=19 => Self::Signal(rng.random_range(0..SIGNALS)),
            20 => Self::Cancel,
            21..=31 => Self::Events,
            _ => Self::Status,
        }
    }

    async fn ask(self, client: &Client, place: usize, id: &str) -> Answer {
        let at = format!("/v1/workflows/{id}");
        match self {
            Self::Submit => client.ask(place, Ask::post("submit", "/v1/workflows", &submission(id))).await,
            Self::Signal(n) => {
                let mark = format!("s{n}");
                let body = json!({"type": "data", "payload": {"name": mark}, "signal_id": mark});
                client.ask(place, Ask::post("signal", &format!("{at}/signals"), &body)).await
            }
            Self::Cancel => client.ask(place, Ask::post("cancel", &format!("{at}/cancel"), &json!({}))).await,
            Self::Events => {
                let path = format!("{at}/events?consistency=strong&limit=1000");
                client.ask(place, Ask::get("read strong", &path)).await
            }
            Self::Status => {
                client.ask(place, Ask::get("read strong", &format!("{at}?consistency=strong"))).await
            }
        }
    }

    /// What was done and answered, and whether it is known to have ended; `None`: nothing was done.
    /// An answer that no rule foresees is a wrong.
    fn op(self, answer: &Answer) -> Result<Option<(Op, bool)>> {
        let is_read = matches!(self, Self::Events | Self::Status);
        let known = |op| Ok(Some((op, true)));
        match (answer.outcome, answer.status) {
            (Outcome::Unknown, _) if is_read => Ok(None),
            (Outcome::Unknown, _) => Ok(Some((self.unknown(), false))),
            (Outcome::Refused, Some(404)) if !matches!(self, Self::Submit) => known(Op::Absent),
            (Outcome::Refused, Some(409)) if matches!(self, Self::Signal(_) | Self::Cancel) => {
                known(Op::Refused)
            }
            (Outcome::Refused, Some(429 | 503) | None) => Ok(None),
            (Outcome::Refused, status) => bail!("answered {status:?}: {}", answer.body),
            (Outcome::Acknowledged, status) => match self {
                Self::Submit => known(Op::Submit(Some(status == Some(201)))),
                Self::Signal(n) => {
                    let sequence = answer.body["sequence"].as_u64().context("a signal has a sequence")?;
                    known(Op::Signal(n, Some(sequence)))
                }
                Self::Cancel => known(Op::Cancel),
                Self::Events => known(Op::Saw(signals(&answer.body))),
                Self::Status => known(Op::Showed(end(&answer.body).context("no such status")?)),
            },
        }
    }

    /// What may be done, where nobody knows.
    fn unknown(self) -> Op {
        match self {
            Self::Submit => Op::Submit(None),
            Self::Signal(n) => Op::Signal(n, None),
            Self::Cancel => Op::Cancel,
            Self::Events => Op::Saw(Vec::new()),
            Self::Status => Op::Showed(End::Not),
        }
    }
}

impl Objects {
    pub(crate) fn clients(&self, setting: &Setting) -> Result<Vec<tokio::task::JoinHandle<()>>> {
        (0..CLIENTS)
            .map(|number| {
                let (client, rng) = (setting.client()?, setting.rng(Workload::Objects, number));
                Ok(tokio::spawn(self.clone().work(client, rng, setting.clone())))
            })
            .collect()
    }

    async fn work(self, client: Client, mut rng: StdRng, setting: Setting) {
        let mut pace = pace(PACE);
        while !setting.is_over() {
            pace.tick().await;
            let id = self.current(rng.random_range(0..OPEN));
            let (want, place) = (Want::any(&mut rng), rng.random_range(0..usize::MAX / 2));
            let begun = self.began.elapsed();
            let answer = want.ask(&client, place, &id).await;
            match want.op(&answer) {
                Ok(Some((op, is_known))) => self.record(&id, op, begun, is_known),
                Ok(None) => {}
                Err(error) => setting.history.wrong(format!("{id}: {error:#}")).await,
            }
        }
    }

    /// The run at a place that is worked on now; it counts as worked on once more.
    fn current(&self, place: usize) -> String {
        let mut all = self.all.lock();
        for generation in 0.. {
            let id = format!("object-{place}-{generation}");
            let object = all.entry(id.clone()).or_default();
            if object.begun < OPERATIONS_MAX {
                object.begun += 1;
                return id;
            }
        }
        unreachable!("there are numbers enough")
    }

    fn record(&self, id: &str, op: Op, begun: Duration, is_known: bool) {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let ended = is_known.then(|| nanos(self.began.elapsed()));
        let recorded = Recorded { op, begun: nanos(begun), ended };
        self.all.lock().entry(id.to_owned()).or_default().operations.push(recorded);
    }

    /// Reads every run once more and searches an order for all that was done to it.
    pub(crate) async fn check(&self, cluster: &Cluster) -> Result<String> {
        let ids: Vec<String> = self.all.lock().keys().cloned().collect();
        for id in &ids {
            self.read_once_more(cluster, id).await?;
        }
        let (mut count, mut unknown) = (0, 0);
        for (id, object) in std::mem::take(&mut *self.all.lock()) {
            let mut history = object.operations;
            count += history.len();
            unknown += history.iter().filter(|one| one.ended.is_none()).count();
            for end in [End::Completed, End::Cancelled] {
                history.push(Recorded { op: Op::EndsByItself(end), begun: 0, ended: None });
            }
            let verdict = tokio::task::block_in_place(|| linear::check(&Run, &history, CONFIGURATIONS_MAX));
            match verdict {
                Verdict::Linearizable => {}
                Verdict::Unknown => bail!("{id}: unknown after {CONFIGURATIONS_MAX} configurations"),
                Verdict::Broken(order) => bail!("{id} is not linearizable: {}", told(&history, &order)),
            }
        }
        ensure!(count > ids.len() * 2, "next to nothing was done to {} runs", ids.len());
        Ok(format!("{count} operations on {} runs, {unknown} of unknown outcome, linearizable", ids.len()))
    }

    async fn read_once_more(&self, cluster: &Cluster, id: &str) -> Result<()> {
        let begun = self.began.elapsed();
        let path = format!("/v1/workflows/{id}/events?consistency=strong&limit=1000");
        let (status, body) = cluster.get_healed(&path).await?;
        let op = match status {
            200 => Op::Saw(signals(&body)),
            404 => Op::Absent,
            other => bail!("{id}: {other}: {body}"),
        };
        self.record(id, op, begun, true);
        Ok(())
    }
}

/// A history that has no order: all of it by time, with what an order that goes far has in it.
fn told(history: &[Recorded<Op>], order: &[usize]) -> String {
    let mut by_time: Vec<usize> = (0..history.len()).collect();
    by_time.sort_by_key(|place| history[*place].begun);
    let ms = |nanos: u64| nanos / 1_000_000;
    let line = |place: usize| {
        let Recorded { op, begun, ended } = &history[place];
        let ended = ended.map_or("?".to_owned(), |ended| ms(ended).to_string());
        let mark = order.iter().position(|done| *done == place);
        let mark = mark.map_or("not in the order".to_owned(), |at| format!("number {at}"));
        format!("\n  {}..{ended} ms {op:?}: {mark}", ms(*begun))
    };
    by_time.into_iter().map(line).collect()
}
