//! Lists over all shards: a client lists what it submitted, page by page, while shards come and go.
//!
//! A list has every run that was acknowledged before it was asked for, unless it names shards that
//! it could not reach; it has none twice, none that nobody submitted, and the newest come first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{Setting, Workload, pace};
use crate::client::{Ask, Client};
use crate::cluster::Cluster;
use crate::history::Outcome;

/// Clients, and how often each does something.
const CLIENTS: usize = 2;
const PACE: Duration = Duration::from_millis(100);
/// Runs of one label, before another takes its place, and how many are on a page.
const RUNS_MAX: usize = 60;
const PAGE: usize = 25;
/// Pages that a list of one label can have, with room for what a wrong list has too much.
const PAGES_MAX: usize = 2 * RUNS_MAX / PAGE + 2;

/// What was submitted under each label.
#[derive(Clone, Default)]
pub(crate) struct Lists {
    labels: Arc<Mutex<BTreeMap<String, BTreeMap<String, Outcome>>>>,
    whole: Arc<Mutex<usize>>,
}

/// One listing, over all its pages.
#[derive(Default)]
struct Listing {
    items: Vec<Value>,
    /// It named shards that it could not reach.
    is_partial: bool,
}

impl Listing {
    /// Adds a page; the cursor of the next one.
    fn add(&mut self, page: &Value) -> Option<String> {
        self.items.extend(page["items"].as_array().cloned().unwrap_or_default());
        self.is_partial |= page.get("unreachable_shards").is_some();
        page["next_cursor"].as_str().map(str::to_owned)
    }

    /// Whether it has what it must, and nothing else.
    fn check(&self, must: &BTreeSet<String>, may: &BTreeSet<String>) -> Result<()> {
        let mut seen = BTreeSet::new();
        for item in &self.items {
            let id = item["workflow_id"].as_str().unwrap_or_default();
            ensure!(seen.insert(id.to_owned()), "{id} is listed twice");
            ensure!(may.contains(id), "{id} is listed and was never submitted");
        }
        let created = |item: &Value| item["created_at"].as_str().unwrap_or_default().to_owned();
        let is_ordered = self.items.windows(2).all(|pair| created(&pair[0]) >= created(&pair[1]));
        ensure!(is_ordered, "it is not the newest first: {:?}", self.items);
        if !self.is_partial {
            let missing: Vec<_> = must.difference(&seen).collect();
            ensure!(missing.is_empty(), "{missing:?} were acknowledged and are not listed");
        }
        Ok(())
    }
}

fn path(label: &str, cursor: Option<&str>) -> String {
    let cursor = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
    format!("/v1/workflows?consistency=strong&label=list:{label}&limit={PAGE}{cursor}")
}

impl Lists {
    pub(crate) fn clients(&self, setting: &Setting) -> Result<Vec<JoinHandle<()>>> {
        (0..CLIENTS)
            .map(|number| {
                let (client, rng) = (setting.client()?, setting.rng(Workload::Lists, number));
                Ok(tokio::spawn(self.clone().work(number, client, rng, setting.clone())))
            })
            .collect()
    }

    async fn work(self, number: usize, client: Client, mut rng: StdRng, setting: Setting) {
        let mut pace = pace(PACE);
        let mut count = 0;
        while !setting.is_over() {
            pace.tick().await;
            let label = format!("{number}-{}", count / RUNS_MAX);
            let place = rng.random_range(0..usize::MAX / 2);
            if rng.random_bool(0.6) {
                let id = format!("listed-{number}-{count}");
                count += 1;
                let step = json!({"id": "a", "action": "expr.eval", "params": {"expression": "1 + 1"}});
                let body = json!({"id": id, "labels": {"list": label}, "definition": {"steps": [step]}});
                // Before it is sent: a list of the moment may have it already.
                self.note(&label, &id, Outcome::Unknown);
                let outcome = client.ask(place, Ask::post("submit", "/v1/workflows", &body)).await.outcome;
                self.note(&label, &id, outcome);
            } else if let Err(error) = self.list(&client, place, &label).await {
                setting.history.wrong(format!("a list of {label}: {error:#}")).await;
            }
        }
    }

    fn note(&self, label: &str, id: &str, outcome: Outcome) {
        self.labels.lock().entry(label.to_owned()).or_default().insert(id.to_owned(), outcome);
    }

    /// Ids that a list must have, and those that it may.
    fn bounds(&self, label: &str) -> (BTreeSet<String>, BTreeSet<String>) {
        let labels = self.labels.lock();
        let of = |is_wanted: fn(Outcome) -> bool| {
            let runs = labels.get(label).into_iter().flatten();
            runs.filter(|(_, outcome)| is_wanted(**outcome)).map(|(id, _)| id.clone()).collect()
        };
        (of(|outcome| outcome == Outcome::Acknowledged), of(|outcome| outcome != Outcome::Refused))
    }

    async fn list(&self, client: &Client, place: usize, label: &str) -> Result<()> {
        let (must, may) = self.bounds(label);
        let (mut listing, mut cursor) = (Listing::default(), None);
        for page in 0..PAGES_MAX {
            // Any node goes on where another stopped.
            let answer = client.ask(place + page, Ask::get("list", &path(label, cursor.as_deref()))).await;
            let Some(body) = answer.success() else { return Ok(()) };
            cursor = listing.add(body);
            if cursor.is_none() {
                listing.check(&must, &may)?;
                *self.whole.lock() += usize::from(!listing.is_partial);
                return Ok(());
            }
        }
        anyhow::bail!("it has no end")
    }

    /// Lists everything again.
    pub(crate) async fn check(&self, cluster: &Cluster) -> Result<String> {
        let labels: Vec<String> = self.labels.lock().keys().cloned().collect();
        let mut count = 0;
        for label in &labels {
            let (must, may) = self.bounds(label);
            let (mut listing, mut cursor) = (Listing::default(), None);
            loop {
                let (status, page) = cluster.get_healed(&path(label, cursor.as_deref())).await?;
                ensure!(status == 200, "{status}: {page}");
                cursor = listing.add(&page);
                if cursor.is_none() {
                    break;
                }
            }
            ensure!(!listing.is_partial, "a list of {label} lacks a shard though all is healed");
            listing.check(&must, &may)?;
            count += listing.items.len();
        }
        ensure!(count > 0, "nothing was ever listed");
        Ok(format!("{count} runs in {} lists, and {} whole lists meanwhile", labels.len(), self.whole.lock()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::Listing;

    fn ids(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn listing(names: &[(&str, &str)]) -> Listing {
        let item = |(id, at): &(&str, &str)| json!({"workflow_id": id, "created_at": at});
        Listing { items: names.iter().map(item).collect(), is_partial: false }
    }

    #[test]
    fn a_list_is_whole_once_and_in_order() {
        let (must, may) = (ids(&["a", "b"]), ids(&["a", "b", "c"]));
        listing(&[("b", "2"), ("a", "1")]).check(&must, &may).unwrap();
        listing(&[("c", "2"), ("b", "2"), ("a", "1")]).check(&must, &may).unwrap();
        let wrong = [
            listing(&[("b", "2")]),
            listing(&[("a", "1"), ("b", "2")]),
            listing(&[("b", "2"), ("b", "2"), ("a", "1")]),
            listing(&[("d", "3"), ("b", "2"), ("a", "1")]),
        ];
        for listing in wrong {
            listing.check(&must, &may).unwrap_err();
        }
        Listing { is_partial: true, ..listing(&[("b", "2")]) }.check(&must, &may).unwrap();
    }
}
