//! Retention: how long runs that have ended are kept, by namespace and template, and the sweeper that archives and
//! deletes them then. Without a rule all is kept.
//!
//! Each node sweeps the shards that it leads, a bounded number of runs at a time, one after the other,
//! so that the work of the shard goes before. A run is in an archive on stable storage before it is
//! deleted, and only if nothing happened to it since; whatever goes wrong before leaves it where it
//! is, for the next sweep. Another leader may archive it again: by id it is the same.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use opcode_engine::definition::parse_duration_ms;
use opcode_engine::ids::{Sequence, ShardId, Timestamp, WorkflowId};
use opcode_engine::namespace::{Namespace, SEPARATOR, local};
use opcode_shard::CallError;
use opcode_shard::catalogue::{CatalogueEntry, EntryKind};
use opcode_shard::clock::Clock;
use opcode_shard::remote::Freshness;
use opcode_shard::store::{RunFilter, RunSummary};
use serde::{Deserialize, Serialize};

use crate::archive::{Archive, delete_older};
use crate::error::{ApiError, Applied};
use crate::forward::ShardClient;
use crate::namespace::sought;
use crate::state::RouterState;

/// In a key, the place of what holds for runs whose template has no rule of its own.
const ALL: &str = "*";
/// Rules read at a time.
const RULES_AT_A_TIME: usize = 1_000;
/// Runs listed at a time.
const PAGE: usize = 200;
/// Runs of a shard that a sweep looks at, and that it archives and deletes, by each rule.
const LOOKS_PER_SWEEP: usize = 5_000;
const RUNS_PER_SWEEP: usize = 500;
/// How soon the next sweep comes when one has left something to do.
const SOON: Duration = Duration::from_secs(1);
/// Statuses of runs that have ended.
const ENDED: [&str; 3] = ["completed", "failed", "cancelled"];

/// How long runs are kept once they have ended, as it was said: durations, of which there is one at
/// least.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rule {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) archive_after: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) delete_after: Option<String>,
}

impl Rule {
    fn archive_after_ms(&self) -> Option<u64> {
        parse_duration_ms(self.archive_after.as_deref()?).ok()
    }

    fn delete_after_ms(&self) -> Option<u64> {
        parse_duration_ms(self.delete_after.as_deref()?).ok()
    }

    /// What an entry says; none when that cannot be read, and then it deletes nothing.
    pub(crate) fn of(entry: &CatalogueEntry) -> Option<Self> {
        let read = serde_json::from_str(entry.body.as_deref()?);
        read.inspect_err(|error| tracing::error!(rule = %entry.key, %error, "a rule cannot be read")).ok()
    }
}

/// The key of a rule, of a namespace's template or of all that have none: both are always named.
pub(crate) fn key_of(namespace: &Namespace, template: Option<&str>) -> Arc<str> {
    format!("{namespace}{SEPARATOR}{}", template.unwrap_or(ALL)).into()
}

/// Where and how often the sweeper works.
#[derive(Clone, Debug)]
pub struct RetentionOptions {
    /// Folder of this node's archives.
    pub archive_dir: PathBuf,
    /// Time between two sweeps.
    pub every: Duration,
}

/// The rules of a namespace, by template, with their entries.
#[derive(Default)]
pub(crate) struct Rules {
    pub(crate) default: Option<(Rule, CatalogueEntry)>,
    pub(crate) by_template: BTreeMap<Arc<str>, (Rule, CatalogueEntry)>,
}

impl Rules {
    /// Reads all rules, of each namespace that has some.
    pub(crate) async fn read_all(state: &RouterState) -> Result<BTreeMap<Namespace, Self>, ApiError> {
        let mut all: BTreeMap<Namespace, Self> = BTreeMap::new();
        let mut after = None;
        loop {
            let page = state.system().entries(EntryKind::Retention, after, RULES_AT_A_TIME).await?.value;
            after = page.entries.last().map(|entry| entry.key.clone());
            for entry in page.entries {
                let Some((namespace, template)) = entry.key.split_once(SEPARATOR) else { continue };
                let (Ok(namespace), Some(rule)) = (Namespace::parse(namespace), Rule::of(&entry)) else {
                    continue;
                };
                let rules = all.entry(namespace).or_default();
                match template {
                    ALL => rules.default = Some((rule, entry)),
                    name => _ = rules.by_template.insert(name.into(), (rule, entry)),
                }
            }
            if !page.has_more || after.is_none() {
                return Ok(all);
            }
        }
    }

    /// Those of one namespace.
    pub(crate) async fn read(state: &RouterState, namespace: &Namespace) -> Result<Self, ApiError> {
        Ok(Self::read_all(state).await?.remove(namespace).unwrap_or_default())
    }

    /// Each rule with the template that it is of.
    fn all(&self) -> impl Iterator<Item = (Option<&Arc<str>>, &Rule)> {
        let default = self.default.iter().map(|(rule, _)| (None, rule));
        default.chain(self.by_template.iter().map(|(name, (rule, _))| (Some(name), rule)))
    }
}

/// Sweeps until the node stops.
pub async fn run_retention(state: RouterState, options: RetentionOptions) {
    let stopping = state.stopping();
    let mut sweeper = Sweeper { state, options, clock: Clock::default(), places: HashMap::new() };
    let sweeping = async {
        let mut pause = sweeper.options.every;
        loop {
            tokio::time::sleep(pause).await;
            let has_more = sweeper.sweep().await.unwrap_or_else(|error| {
                metrics::counter!("opcode_retention_failures_total").increment(1);
                tracing::warn!(detail = error.detail(), "runs that are kept no longer stay for now");
                false
            });
            pause = if has_more { SOON.min(sweeper.options.every) } else { sweeper.options.every };
        }
    };
    tokio::select! {
        () = stopping => {}
        () = sweeping => {}
    }
}

/// Where a list goes on: after the run that was created then.
type Place = (Timestamp, String);

struct Sweeper {
    state: RouterState,
    options: RetentionOptions,
    clock: Clock,
    /// How far the last sweep has come, by shard and key of the rule.
    places: HashMap<(ShardId, Arc<str>), Place>,
}

/// A rule at work on a shard.
struct Work<'a> {
    shard: &'a ShardClient,
    namespace: &'a Namespace,
    template: Option<&'a Arc<str>>,
    rules: &'a Rules,
    /// Runs that ended by then leave.
    until: Timestamp,
    archives: bool,
}

impl Sweeper {
    /// Sweeps every shard that this node leads; whether there is more to do.
    async fn sweep(&mut self) -> Result<bool, ApiError> {
        let leads = |shard: ShardId| self.state.local().get(shard).is_some_and(|handle| handle.serves());
        let led: Vec<ShardClient> = self.state.shards().into_iter().filter(|s| leads(s.id())).collect();
        let all = Rules::read_all(&self.state).await?;
        let (mut has_more, mut failure) = (false, None);
        for (namespace, rules) in &all {
            for (template, rule) in rules.all() {
                for shard in &led {
                    match self.sweep_rule(shard, namespace, template, rule, rules).await {
                        Ok(more) => has_more |= more,
                        // One that fails holds up no other.
                        Err(error) => failure = Some(error),
                    }
                }
                if let Some(delete_after_ms) = rule.delete_after_ms() {
                    self.delete_archives(namespace, template, delete_after_ms).await?;
                }
            }
        }
        failure.map_or(Ok(has_more), Err)
    }

    fn before(&self, age_ms: u64) -> Timestamp {
        Timestamp(self.clock.now().0.saturating_sub(i64::try_from(age_ms).unwrap_or(i64::MAX)))
    }

    async fn sweep_rule(
        &mut self,
        shard: &ShardClient,
        namespace: &Namespace,
        template: Option<&Arc<str>>,
        rule: &Rule,
        rules: &Rules,
    ) -> Result<bool, ApiError> {
        let archive_after_ms = rule.archive_after_ms();
        let Some(leaves_after_ms) = archive_after_ms.or(rule.delete_after_ms()) else { return Ok(false) };
        let until = self.before(leaves_after_ms);
        let archives = archive_after_ms.is_some();
        let work = Work { shard, namespace, template, rules, until, archives };
        let key = (shard.id(), key_of(namespace, template.map(|name| &**name)));
        let (mut looked_at, mut done) = (0, 0);
        while looked_at < LOOKS_PER_SWEEP && done < RUNS_PER_SWEEP {
            let page = work.list(self.places.get(&key).cloned()).await?;
            let is_last = page.len() < PAGE;
            looked_at += page.len();
            let last = page.last().map(|run| (run.created_at, run.workflow_id.clone()));
            let over: Vec<RunSummary> = page.into_iter().filter(|run| work.is_over(run)).collect();
            done += over.len();
            self.remove(&work, over).await?;
            match last.filter(|_| !is_last) {
                Some(last) => _ = self.places.insert(key.clone(), last),
                None => {
                    // The next sweep begins with the newest again.
                    self.places.remove(&key);
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Archives runs if that is wanted, and deletes them.
    async fn remove(&self, work: &Work<'_>, runs: Vec<RunSummary>) -> Result<(), ApiError> {
        let mut runs = runs.into_iter().peekable();
        while runs.peek().is_some() {
            let (mut file, mut leaving): (_, Vec<(WorkflowId, Option<Sequence>)>) =
                (Archive::new(), Vec::new());
            while let Some(run) = runs.next_if(|_| !file.is_full()) {
                let (Ok(id), Some(ended_at)) = (WorkflowId::parse_kept(&run.workflow_id), run.completed_at)
                else {
                    continue;
                };
                if !work.archives {
                    leaving.push((id, None));
                    continue;
                }
                match file.add(work.shard, &id, ended_at).await {
                    Ok(last) => leaving.push((id, Some(last))),
                    // Somebody has deleted it meanwhile.
                    Err(CallError::NotFound(_)) => {}
                    // It is larger than an archive takes, and stays.
                    Err(CallError::Rejected(rejected)) => {
                        metrics::counter!("opcode_retention_failures_total").increment(1);
                        tracing::warn!(workflow = %id, why = rejected.message, "a run is not archived");
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            if work.archives {
                self.write(work, file).await?;
            }
            delete(work.shard, leaving).await?;
        }
        Ok(())
    }

    async fn write(&self, work: &Work<'_>, file: Archive) -> Result<(), ApiError> {
        let (dir, shard) = (self.folder(work.namespace, work.template), work.shard.id());
        let shown = dir.display().to_string();
        let written = tokio::task::spawn_blocking(move || file.write(&dir, shard)).await;
        let failed = |why: String| ApiError::unavailable(Applied::No, format!("{shown}: {why}"));
        written
            .map_err(|panic| failed(panic.to_string()))?
            .map_err(|error| failed(error.to_string()))
            .map(drop)
    }

    /// Deletes archives of a rule when all in them is older than anything that it keeps.
    async fn delete_archives(
        &self,
        namespace: &Namespace,
        template: Option<&Arc<str>>,
        delete_after_ms: u64,
    ) -> Result<(), ApiError> {
        let (dir, until) = (self.folder(namespace, template), self.before(delete_after_ms));
        let shown = dir.display().to_string();
        let deleted = tokio::task::spawn_blocking(move || delete_older(&dir, until)).await;
        let failed = |why: String| ApiError::unavailable(Applied::No, format!("{shown}: {why}"));
        let deleted =
            deleted.map_err(|panic| failed(panic.to_string()))?.map_err(|error| failed(error.to_string()))?;
        metrics::counter!("opcode_retention_archives_deleted_total").increment(deleted as u64);
        Ok(())
    }

    /// Where the archives of a rule are. A template may be called `..`.
    fn folder(&self, namespace: &Namespace, template: Option<&Arc<str>>) -> PathBuf {
        let name = template.map_or_else(|| "default".to_owned(), |name| format!("template-{name}"));
        self.options.archive_dir.join(namespace.as_str()).join(name)
    }
}

impl Work<'_> {
    /// Ended runs that the rule may be of, newest first.
    async fn list(&self, after: Option<Place>) -> Result<Vec<RunSummary>, ApiError> {
        let filter = RunFilter {
            namespace: Some(self.namespace.clone()),
            statuses: ENDED.map(str::to_owned).into(),
            template: self.template.map(|name| sought(self.namespace, name.to_string())),
            // What ended by then was created before.
            until: Some(self.until),
            after,
            limit: PAGE,
            ..RunFilter::default()
        };
        Ok(self.shard.list_runs(filter, Freshness::Strong).await?.value)
    }

    fn is_over(&self, run: &RunSummary) -> bool {
        let has_own =
            || run.template.as_deref().is_some_and(|name| self.rules.by_template.contains_key(local(name)));
        run.completed_at.is_some_and(|at| at <= self.until) && (self.template.is_some() || !has_own())
    }
}

/// Deletes runs, each if its last event is still the one that was archived.
async fn delete(shard: &ShardClient, leaving: Vec<(WorkflowId, Option<Sequence>)>) -> Result<(), ApiError> {
    for (id, last) in leaving {
        let deleted = match last {
            Some(last) => shard.purge_at(&id, last).await,
            None => shard.purge(&id).await,
        };
        match deleted {
            Ok(_) => metrics::counter!("opcode_retention_deleted_total").increment(1),
            // It is run again, or has not told everybody yet that it has ended: later, perhaps.
            Err(CallError::Rejected(_) | CallError::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
