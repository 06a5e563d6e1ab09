//! An embedded replica of a shard on a node that is no member of it, for reads there: kept by the
//! stock `libsql` crate, which asks whichever member can be reached, and begins anew on any doubt.
//!
//! Disposable: it is a copy of what others have on stable storage. It is fetched again after a
//! start (a power cut may have taken frames that libSQL believes to have) and after any error but
//! that nobody can be reached. What cannot be read here is read from a member instead.
//!
//! libSQL works on the thread that asks it, also when it moves a WAL; so replicas have threads of
//! their own, and a runtime of many threads since libSQL asks for one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use libsql::Database;
use opcode_engine::ids::ShardId;
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::connector::Connector;
use crate::batch::Position;
use crate::error::ShardError;
use crate::store::copy_reader::CopyReader;
use crate::store::{DecisionFilter, DecisionRow, RunFilter, RunSummary, StoreOptions};

/// Threads that all replicas of a node share.
const THREADS: usize = 2;
/// Pause after a look that found something new, and the longest after many that did not.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(320);
/// Pause after a member that could not be reached or had no answer.
const PAUSE_ELSEWHERE: Duration = Duration::from_millis(250);
/// Longest time for a look, after a start and after one that was in time. One that was not may have
/// been about to bring everything anew, so the next one gets twice as long, up to the second.
const LOOK_MAX: Duration = Duration::from_secs(10);
const FETCH_MAX: Duration = Duration::from_secs(1_800);
/// Looks in a row that may fail for a reason that passes, before that is a doubt too.
const AGAIN_MAX: u32 = 100;

/// How to keep a replica.
pub struct ReplicaOptions {
    /// Which shard.
    pub shard: ShardId,
    /// The cluster's id; another's tables are refused.
    pub cluster_id: String,
    /// A folder for it alone; what is in it is removed.
    pub dir: PathBuf,
    /// What the members want to see as a bearer token; may be empty.
    pub auth_token: String,
    /// URLs of the members' replicas, the best to ask first: `http://HOST:PORT/v1/shards/N`.
    pub members: Arc<dyn Fn() -> Vec<String> + Send + Sync>,
    /// How to make sure of members at `https://`.
    pub tls: Option<Arc<rustls::ClientConfig>>,
}

/// The threads of a node's replicas.
pub struct ReplicaThreads(Option<Runtime>);

impl ReplicaThreads {
    /// Starts them.
    pub fn start() -> std::io::Result<Self> {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("replicas")
            .enable_all()
            .build()
            .map(|runtime| Self(Some(runtime)))
    }
}

impl Drop for ReplicaThreads {
    fn drop(&mut self) {
        // From within another runtime, which must not be blocked.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// A replica that follows its shard until it is dropped.
pub struct ReadReplica {
    shard: ShardId,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    current: Mutex<Option<Current>>,
    /// Why a read gave no answer, if one has: the copy is no good.
    unread: Mutex<Option<String>>,
}

#[derive(Clone)]
struct Current {
    reader: Arc<CopyReader>,
    applied: Position,
    /// When it last had everything that the member it asked had.
    whole_at: Instant,
}

/// What became of a look.
enum Looked {
    /// The copy has what the member had.
    Whole,
    /// It takes longer than it may.
    Late,
    /// Another member may do better.
    Elsewhere(String),
    /// The same member may do better shortly.
    Again(String),
    /// The copy may be wrong.
    Doubt(String),
}

impl ReadReplica {
    /// Begins to follow.
    pub fn start(options: ReplicaOptions, threads: &ReplicaThreads) -> Self {
        let shared: Arc<Shared> = Arc::default();
        let runtime = threads.0.as_ref().expect("threads run until they are dropped");
        let (shard, follow) = (options.shard, follow(options, Arc::clone(&shared)));
        Self { shard, shared, task: runtime.spawn(follow) }
    }

    /// Which shard's.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// How far it is: the position of the tables that it has, and how long ago it had everything
    /// that the member had which it asked; none before it has anything.
    pub fn standing(&self) -> Option<(Position, Duration)> {
        self.shared.current.lock().as_ref().map(|current| (current.applied, current.whole_at.elapsed()))
    }

    /// Lists runs.
    pub async fn list_runs(&self, filter: RunFilter) -> Result<Vec<RunSummary>, ShardError> {
        let reader = self.reader()?;
        self.sound(reader.list_runs(filter).await)
    }

    /// Lists decisions.
    pub async fn list_decisions(&self, filter: DecisionFilter) -> Result<Vec<DecisionRow>, ShardError> {
        let reader = self.reader()?;
        self.sound(reader.list_decisions(filter).await)
    }

    fn reader(&self) -> Result<Arc<CopyReader>, ShardError> {
        let reader = self.shared.current.lock().as_ref().map(|current| Arc::clone(&current.reader));
        reader.ok_or_else(|| {
            ShardError::Stopped(format!("the replica of shard {} is not there yet", self.shard))
        })
    }

    /// Passes an answer on; a read that fails puts the copy in doubt.
    fn sound<T>(&self, answer: Result<T, ShardError>) -> Result<T, ShardError> {
        if let Err(error) = &answer {
            *self.shared.unread.lock() = Some(error.to_string());
        }
        answer
    }
}

impl Drop for ReadReplica {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Fetches the copy and follows; again and again from the beginning, on any doubt.
async fn follow(options: ReplicaOptions, shared: Arc<Shared>) {
    let mut member = 0;
    for attempt in 0_u64.. {
        *shared.current.lock() = None;
        *shared.unread.lock() = None;
        remove(&options.dir);
        // A name of its own: readers of the last one may have it open still.
        let dir = options.dir.join(attempt.to_string());
        if let Err(error) = std::fs::create_dir_all(&dir) {
            tracing::warn!(path = %dir.display(), %error, "there is no room for a replica");
            tokio::time::sleep(PAUSE_ELSEWHERE * 4).await;
            continue;
        }
        let tables = StoreOptions {
            path: dir.join("tables.db"),
            shard: options.shard,
            cluster_id: options.cluster_id.clone(),
        };
        let mut copy = Copy { options: &options, shared: &shared, reader: Arc::new(CopyReader::new(tables)) };
        let why = copy.keep(&mut member).await;
        tracing::warn!(shard = %options.shard, why, "the replica is in doubt: it is fetched again");
        tokio::time::sleep(PAUSE_ELSEWHERE).await;
    }
}

fn remove(dir: &Path) {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(path = %dir.display(), %error, "an old replica is still there");
        }
        Ok(()) | Err(_) => {}
    }
}

/// One copy, from its first frame to the first doubt.
struct Copy<'a> {
    options: &'a ReplicaOptions,
    shared: &'a Shared,
    reader: Arc<CopyReader>,
}

impl Copy<'_> {
    /// Follows until there is a doubt, and says which. `member` is whom to ask, by turns.
    async fn keep(&mut self, member: &mut usize) -> String {
        let (mut pause, mut within, mut again, mut is_new) = (PAUSE_MIN, LOOK_MAX, 0, true);
        loop {
            let members = (self.options.members)();
            let Some(url) = members.get(*member % members.len().max(1)) else {
                tokio::time::sleep(PAUSE_ELSEWHERE).await;
                continue;
            };
            let database = match self.open(url).await {
                Ok(database) => database,
                Err(error) => return error.to_string(),
            };
            // As long as this member is the one to ask.
            while (self.options.members)().contains(url) {
                if let Some(why) = self.shared.unread.lock().take() {
                    return why;
                }
                match look(&database, within).await {
                    Looked::Whole => match self.stand(is_new).await {
                        Ok(has_news) => {
                            (is_new, again, within) = (false, 0, LOOK_MAX);
                            pause = if has_news { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
                            tokio::time::sleep(pause).await;
                        }
                        Err(error) => return error.to_string(),
                    },
                    Looked::Late => {
                        tracing::info!(shard = %self.options.shard, url, ?within, "another member is asked: too late");
                        within = (within * 2).min(FETCH_MAX);
                        break;
                    }
                    Looked::Elsewhere(why) => {
                        tracing::info!(shard = %self.options.shard, url, why, "another member is asked");
                        break;
                    }
                    Looked::Again(why) => {
                        again += 1;
                        if again > AGAIN_MAX {
                            return why;
                        }
                        tracing::debug!(shard = %self.options.shard, why, "a replica tries again");
                        tokio::time::sleep(PAUSE_MIN * 5).await;
                    }
                    Looked::Doubt(why) => return why,
                }
            }
            *member = member.wrapping_add(1);
            tokio::time::sleep(PAUSE_ELSEWHERE).await;
        }
    }

    async fn open(&self, url: &str) -> Result<Database, libsql::Error> {
        let path = self.reader.folder().join("tables.db");
        // With writes meant for the other side nothing is asked when it is built, and a sync only
        // pulls. Nothing is ever written by way of it.
        libsql::Builder::new_synced_database(path, url.to_owned(), self.options.auth_token.clone())
            .remote_writes(true)
            .read_your_writes(false)
            .connector(Connector::new(self.options.tls.clone()))
            .build()
            .await
    }

    /// Notes what the copy has now; whether that is more than before.
    async fn stand(&self, is_new: bool) -> Result<bool, ShardError> {
        let whole_at = Instant::now();
        if is_new {
            self.reader.check().await?;
        }
        let applied = self.reader.applied().await?;
        let mut current = self.shared.current.lock();
        let has_news = current.as_ref().is_none_or(|before| before.applied != applied);
        *current = Some(Current { reader: Arc::clone(&self.reader), applied, whole_at });
        Ok(has_news)
    }
}

async fn look(database: &Database, within: Duration) -> Looked {
    match tokio::time::timeout(within, database.sync()).await {
        Ok(Ok(_)) => Looked::Whole,
        Ok(Err(error)) => judge(&error),
        Err(_) => Looked::Late,
    }
}

/// What an error says. libSQL gives those of a sync as text only.
fn judge(error: &libsql::Error) -> Looked {
    let text = error.to_string();
    let is_lock = text.contains("database is locked") || text.contains("unable to truncate WAL");
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    match error {
        libsql::Error::SqliteFailure(..) if is_lock => Looked::Again(text),
        libsql::Error::Sync(_) if has(&["http dispatch error", "body error"]) => Looked::Elsewhere(text),
        libsql::Error::Sync(_) if has(&["status=410"]) => Looked::Again(text),
        libsql::Error::Sync(_)
            if has(&["status=404", "status=401", "status=403", "status=429", "status=5"]) =>
        {
            Looked::Elsewhere(text)
        }
        _ => Looked::Doubt(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_passes_is_no_doubt() {
        let sync = |text: &str| libsql::Error::Sync(text.to_owned().into());
        let elsewhere = [
            "http dispatch error: error trying to connect",
            "failed to pull frame: status=503 Service Unavailable, error={}",
            "failed to pull db export: status=404 Not Found, error={}",
        ];
        for text in elsewhere {
            assert!(matches!(judge(&sync(text)), Looked::Elsewhere(_)), "{text}");
        }
        assert!(matches!(judge(&sync("failed to pull frame: status=410 Gone, error=")), Looked::Again(_)));
        let locked = libsql::Error::SqliteFailure(5, "Failed to checkpoint WAL: database is locked".into());
        assert!(matches!(judge(&locked), Looked::Again(_)));
        let doubts = [
            sync("failed to verify metadata file hash: expected=1, got=2"),
            sync("failed to pull frame: status=409 Conflict, error="),
            libsql::Error::WalConflict,
            libsql::Error::SqliteFailure(11, "database disk image is malformed".into()),
        ];
        for doubt in doubts {
            assert!(matches!(judge(&doubt), Looked::Doubt(_)), "{doubt}");
        }
    }
}
