//! Reads of every consistency against what was acknowledged: a few runs that only take signals, each
//! a register whose value is the sequence of its last event.
//!
//! A strong read shows at least what any client was acknowledged, or was shown by a strong read,
//! before it was asked for. A session read shows at least what its client has seen. Every signal
//! that was acknowledged is in the log once, at the sequence that was told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{PAGE, Setting, Workload, events, pace};
use crate::client::{Ask, Client};
use crate::cluster::Cluster;

/// Registers there are.
const REGISTERS: usize = 4;
/// Clients that use them, and how often each does.
const CLIENTS: usize = 4;
const PACE: Duration = Duration::from_millis(20);
/// Signals to one register, before another takes its place: a run keeps only so many.
const SIGNALS_MAX: usize = 50;
/// What is known of one register.
#[derive(Default)]
struct Register {
    /// Whether the run is known to be there.
    is_made: bool,
    /// Signals that were sent, each to a wait of its own.
    sent: usize,
    /// The highest sequence that was acknowledged or shown by a strong read.
    shown: u64,
    /// Signals that were acknowledged, with their sequences.
    signals: BTreeMap<String, u64>,
}

/// What all clients know, and what they saw that must not be.
#[derive(Clone, Default)]
pub(crate) struct Registers {
    all: Arc<Mutex<BTreeMap<String, Register>>>,
    wrongs: Arc<Mutex<Vec<String>>>,
    reads: Arc<Mutex<BTreeMap<&'static str, usize>>>,
}

/// A client of the registers.
struct Reader {
    client: Client,
    registers: Registers,
    rng: StdRng,
    /// By register: the token of the last answer, and what it showed.
    sessions: BTreeMap<String, (String, u64)>,
}

impl Reader {
    /// Works until it is told to stop.
    async fn run(mut self, setting: Setting) {
        let mut pace = pace(PACE);
        while !setting.is_over() {
            pace.tick().await;
            let place = self.rng.random_range(0..REGISTERS);
            let id = self.registers.current(place);
            match self.rng.random_range(0..8) {
                0..=2 => self.signal(&id).await,
                3..=4 => self.read_strongly(&id).await,
                5..=6 => self.read_on(&id).await,
                _ => self.read_eventually(&id).await,
            }
        }
    }

    /// Any node.
    fn place(&mut self) -> usize {
        self.rng.random_range(0..usize::MAX / 2)
    }

    /// Sends a signal; a register that is not there yet is made first.
    async fn signal(&mut self, id: &str) {
        let wait = |n: usize| json!({"id": format!("w{n}"), "type": "wait", "config": {"signal": format!("{id}-{n}")}});
        let steps: Vec<Value> = (0..SIGNALS_MAX).map(wait).collect();
        let is_made = self.registers.all.lock().get(id).is_some_and(|register| register.is_made);
        if !is_made {
            let body = json!({"id": id, "definition": {"steps": steps}});
            let place = self.place();
            let made = self.client.ask(place, Ask::post("submit", "/v1/workflows", &body)).await;
            if made.success().is_none() {
                return;
            }
        }
        let number = {
            let mut all = self.registers.all.lock();
            let register = all.entry(id.to_owned()).or_default();
            register.is_made = true;
            register.sent += 1;
            register.sent - 1
        };
        if number >= SIGNALS_MAX {
            return;
        }
        let mark = format!("{id}-{number}");
        let body = json!({"type": "data", "payload": {"name": mark}, "signal_id": mark});
        let (place, path) = (self.place(), format!("/v1/workflows/{id}/signals"));
        let answer = self.client.ask(place, Ask::post("signal", &path, &body)).await;
        let Some(sequence) = answer.success().and_then(|body| body["sequence"].as_u64()) else { return };
        {
            let mut all = self.registers.all.lock();
            let register = all.entry(id.to_owned()).or_default();
            register.shown = register.shown.max(sequence);
            register.signals.insert(mark, sequence);
        }
        self.remember(id, answer.token, sequence);
    }

    fn remember(&mut self, id: &str, token: Option<String>, shown: u64) {
        if let Some(token) = token {
            let before = self.sessions.get(id).map_or(0, |(_, shown)| *shown);
            self.sessions.insert(id.to_owned(), (token, shown.max(before)));
        }
    }

    /// The sequence of the last event at or behind `from`; `None` when nobody answers.
    async fn last(
        &mut self,
        id: &str,
        (consistency, token): (&'static str, Option<&str>),
        from: u64,
    ) -> Option<(u64, Option<String>)> {
        let after = from.saturating_sub(1);
        let path = format!("/v1/workflows/{id}/events?consistency={consistency}&limit={PAGE}&after={after}");
        let name = match consistency {
            "strong" => "read strong",
            "session" => "read session",
            _ => "read eventual",
        };
        let place = self.place();
        let answer = self.client.ask(place, Ask { token, ..Ask::get(name, &path) }).await;
        answer.success()?;
        *self.registers.reads.lock().entry(consistency).or_default() += 1;
        let last = answer.body["items"].as_array()?.last().and_then(|event| event["sequence"].as_u64());
        Some((last.unwrap_or(0), answer.token))
    }

    async fn read_strongly(&mut self, id: &str) {
        let Some(known) = self.registers.all.lock().get(id).map(|register| register.shown) else { return };
        let Some((last, token)) = self.last(id, ("strong", None), known).await else { return };
        if last < known {
            self.wrong(format!("a strong read of {id} showed {last} after {known} was acknowledged"));
        }
        if let Some(register) = self.registers.all.lock().get_mut(id) {
            register.shown = register.shown.max(last);
        }
        self.remember(id, token, last);
    }

    async fn read_on(&mut self, id: &str) {
        let Some((token, seen)) = self.sessions.get(id).cloned() else { return };
        let asked = ("session", Some(token.as_str()));
        let Some((last, new)) = self.last(id, asked, seen).await else { return };
        if last < seen {
            self.wrong(format!("a session read of {id} with {token} showed {last} after {seen}"));
        }
        self.remember(id, new, last);
    }

    /// Shows what it shows; that what was seen is a prefix, the logs are compared for at the end.
    async fn read_eventually(&mut self, id: &str) {
        if self.registers.all.lock().contains_key(id) {
            self.last(id, ("eventual", None), 0).await;
        }
    }

    fn wrong(&self, what: String) {
        self.registers.wrongs.lock().push(what);
    }
}

impl Registers {
    /// Has clients work on them until they are told to stop.
    pub(crate) fn clients(&self, setting: &Setting) -> Result<Vec<JoinHandle<()>>> {
        let reader = |number: usize| {
            let reader = Reader {
                client: setting.client()?,
                registers: self.clone(),
                rng: setting.rng(Workload::Registers, number),
                sessions: BTreeMap::new(),
            };
            Ok(tokio::spawn(reader.run(setting.clone())))
        };
        (0..CLIENTS).map(reader).collect()
    }

    /// The register at a place that takes signals now.
    fn current(&self, place: usize) -> String {
        let all = self.all.lock();
        let name = |generation: usize| format!("register-{place}-{generation}");
        let is_open = |name: &String| all.get(name).is_none_or(|r| r.sent < SIGNALS_MAX);
        (0..).map(name).find(is_open).expect("there are numbers enough")
    }

    /// Looks whether every register is what the clients were told; a summary.
    pub(crate) async fn check(&self, cluster: &Cluster) -> Result<String> {
        let wrongs = self.wrongs.lock().clone();
        ensure!(wrongs.is_empty(), "{} reads are wrong, the first: {}", wrongs.len(), wrongs[0]);
        let all = std::mem::take(&mut *self.all.lock());
        let mut count = 0;
        for (id, register) in &all {
            let events = events(cluster, id).await?;
            for (mark, sequence) in &register.signals {
                let of_mark = |event: &&Value| event["data"]["payload"]["name"] == mark.as_str();
                let at: Vec<u64> =
                    events.iter().filter(of_mark).filter_map(|event| event["sequence"].as_u64()).collect();
                ensure!(at == [*sequence], "{mark} of {id} was acknowledged at {sequence} and is at {at:?}");
                count += 1;
            }
        }
        ensure!(count > 0, "no signal was ever acknowledged");
        let reads: Vec<String> =
            self.reads.lock().iter().map(|(consistency, times)| format!("{times} {consistency}")).collect();
        Ok(format!("{count} signals each once where it was told to be; reads: {}", reads.join(", ")))
    }
}
