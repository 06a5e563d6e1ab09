//! Lists: their order, their pages, their filters, and hostile text in every place.

use opcode_engine::ids::{RunNo, Timestamp};
use tempfile::TempDir;

use super::super::connection::{Access, Bind, Connection};
use super::super::{DecisionFilter, RunFilter, RunSummary, Store};
use super::{open, options};

/// Text that would end a string, a statement or a C string.
const HOSTILE: &str = "x'); DROP TABLE workflows; --\u{0}\"%_é";

pub(super) struct Seed {
    pub(super) connection: Connection,
    next: i64,
}

impl Seed {
    /// Makes the tables and opens them for writing rows directly, with no writer about.
    pub(super) async fn new(dir: &TempDir) -> Self {
        open(dir).await.close().await.unwrap();
        Self { connection: Connection::open(&options(dir).path, Access::Write).unwrap(), next: 1 }
    }

    fn insert(&mut self, table: &str, columns: &str, binds: &[Bind<'_>]) {
        let places = vec!["?"; binds.len()].join(", ");
        let sql = format!("INSERT INTO {table}({columns}) VALUES ({places})");
        let statement = self.connection.prepare(&sql).unwrap();
        self.connection.run(statement, binds).unwrap();
    }

    pub(super) fn run(&mut self, id: &str, status: &str, created_at: i64, labels: &[(&str, &str)]) -> i64 {
        let no = self.next;
        self.next += 1;
        let map: std::collections::BTreeMap<_, _> = labels.iter().copied().collect();
        let text = serde_json::to_string(&map).unwrap();
        let columns = "no, id, status, definition, template, agent_id, labels, created_at, due, error";
        let binds = [
            Bind::Int(no),
            Bind::Text(id),
            Bind::Text(status),
            Bind::Blob(&[1; 32]),
            if no % 2 == 0 { Bind::Text(HOSTILE) } else { Bind::Null },
            if no % 3 == 0 { Bind::Text(HOSTILE) } else { Bind::Null },
            Bind::Text(&text),
            Bind::Int(created_at),
            if no % 5 == 0 { Bind::Int(created_at - 7 * no) } else { Bind::Null },
            if status == "failed" { Bind::Text(r#"{"code":"TIMEOUT_ERROR"}"#) } else { Bind::Null },
        ];
        self.insert("workflows", columns, &binds);
        for (key, value) in labels {
            let binds = [Bind::Text(key), Bind::Text(value), Bind::Int(created_at), Bind::Int(no)];
            self.insert("labels", "key, value, created_at, workflow_no", &binds);
        }
        no
    }

    fn step(&mut self, no: i64, step_id: &str, due: i64) {
        let columns = "workflow_no, step_id, status, attempts, due";
        let binds =
            [Bind::Int(no), Bind::Text(step_id), Bind::Text("suspended"), Bind::Int(1), Bind::Int(due)];
        self.insert("step_rows", columns, &binds);
    }

    pub(super) fn decision(
        &mut self,
        no: i64,
        id: &str,
        status: &str,
        created_at: i64,
        target: Option<&str>,
    ) {
        let columns = "workflow_no, decision_id, step_id, status, context, options, target_agent, created_at";
        let binds = [
            Bind::Int(no),
            Bind::Text(id),
            Bind::Text("ask"),
            Bind::Text(status),
            Bind::Text("{\"n\":12345678901234567890}"),
            Bind::Text("[]"),
            Bind::text(target),
            Bind::Int(created_at),
        ];
        self.insert("decision_rows", columns, &binds);
    }
}

/// Every page of a list, one after the other.
pub(super) async fn pages(store: &Store, filter: RunFilter) -> Vec<RunSummary> {
    let (mut all, mut after) = (Vec::<RunSummary>::new(), None);
    loop {
        let page = store.list_runs(RunFilter { after, ..filter.clone() }).await.unwrap();
        assert!(page.len() <= filter.limit);
        let Some(last) = page.last() else { return all };
        after = Some((last.created_at, last.workflow_id.clone()));
        all.extend(page);
        assert!(all.len() <= 1_000, "the pages do not end");
    }
}

pub(super) fn ids(runs: &[RunSummary]) -> Vec<&str> {
    runs.iter().map(|run| run.workflow_id.as_str()).collect()
}

const STATUSES: [&str; 5] = ["pending", "active", "failed", "completed", "suspended"];

async fn seeded(dir: &TempDir) -> Store {
    let mut seed = Seed::new(dir).await;
    for n in 0..60 {
        // Six runs share each time; ids do not follow their numbers.
        let id = format!("run-{:03}", n * 37 % 60);
        let status = STATUSES[n % STATUSES.len()];
        let labels: &[(&str, &str)] = match n % 4 {
            0 => &[("team", "a"), (HOSTILE, HOSTILE)],
            1 => &[("team", "a")],
            2 => &[("team", "b"), (HOSTILE, HOSTILE)],
            _ => &[],
        };
        seed.run(&id, status, 1_000 + n as i64 / 6, labels);
    }
    drop(seed);
    open(dir).await
}

#[tokio::test]
async fn pages_neither_repeat_nor_skip_under_equal_times() {
    let dir = TempDir::new().unwrap();
    let store = seeded(&dir).await;
    let all = store.list_runs(RunFilter { limit: 100, ..RunFilter::default() }).await.unwrap();
    assert_eq!(all.len(), 60);
    assert!(
        all.windows(2)
            .all(|w| { (w[0].created_at, &w[0].workflow_id) > (w[1].created_at, &w[1].workflow_id) }),
        "newest first, then by id"
    );
    let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let filters = [
        RunFilter::default(),
        RunFilter { statuses: vec!["failed".into()], ..RunFilter::default() },
        RunFilter { statuses: vec!["failed".into(), "active".into()], ..RunFilter::default() },
        RunFilter { agent_id: Some(HOSTILE.into()), ..RunFilter::default() },
        RunFilter { template: Some(HOSTILE.into()), ..RunFilter::default() },
        RunFilter { labels: vec![label("team", "a")], ..RunFilter::default() },
        RunFilter { labels: vec![label("team", "a"), label(HOSTILE, HOSTILE)], ..RunFilter::default() },
        RunFilter { since: Some(Timestamp(1_003)), until: Some(Timestamp(1_007)), ..RunFilter::default() },
        RunFilter {
            statuses: vec!["completed".into(), "completed".into()],
            labels: vec![label("team", "b")],
            since: Some(Timestamp(1_002)),
            ..RunFilter::default()
        },
    ];
    for filter in filters {
        let expected: Vec<&str> =
            all.iter().filter(|run| is_in(run, &filter)).map(|r| r.workflow_id.as_str()).collect();
        assert!(!expected.is_empty(), "{filter:?} lists something");
        for limit in [1, 4, 100] {
            let listed = pages(&store, RunFilter { limit, ..filter.clone() }).await;
            assert_eq!(ids(&listed), expected, "{filter:?} in pages of {limit}");
        }
    }
}

/// What a filter means, said once more and plainly.
fn is_in(run: &RunSummary, filter: &RunFilter) -> bool {
    (filter.statuses.is_empty() || filter.statuses.contains(&run.status))
        && filter.agent_id.as_ref().is_none_or(|agent| run.agent_id.as_ref() == Some(agent))
        && filter.template.as_ref().is_none_or(|template| run.template.as_ref() == Some(template))
        && filter.labels.iter().all(|(key, value)| run.labels.get(key) == Some(value))
        && filter.since.is_none_or(|since| run.created_at >= since)
        && filter.until.is_none_or(|until| run.created_at < until)
}

#[tokio::test]
async fn hostile_text_matches_only_itself() {
    let dir = TempDir::new().unwrap();
    let store = seeded(&dir).await;
    let hostile = || HOSTILE.to_owned();
    let wild = "x'); DROP TABLE workflows; --".to_owned();
    let filter = |labels| RunFilter { labels, limit: 100, ..RunFilter::default() };
    let found = store.list_runs(filter(vec![(hostile(), hostile())])).await.unwrap();
    assert_eq!(found.len(), 30);
    assert_eq!(found[0].labels.get(HOSTILE).map(String::as_str), Some(HOSTILE));
    assert!(store.list_runs(filter(vec![(wild.clone(), wild)])).await.unwrap().is_empty());
    assert!(store.list_runs(filter(vec![("%".into(), "%".into())])).await.unwrap().is_empty());
    assert_eq!(store.last_run_no().await.unwrap(), RunNo(60));
}

#[tokio::test]
async fn timers_and_live_runs_are_found() {
    let dir = TempDir::new().unwrap();
    let mut seed = Seed::new(&dir).await;
    for (n, status) in STATUSES.iter().enumerate() {
        seed.run(&format!("r{n}"), status, 1_000, &[]);
    }
    seed.step(5, "a", 990);
    seed.step(5, "b", 900);
    seed.step(2, "c", 950);
    drop(seed);
    let store = open(&dir).await;
    assert_eq!(store.live_runs().await.unwrap(), [RunNo(1), RunNo(2)]);
    let timers = store.timers().await.unwrap();
    assert_eq!(timers, [(Timestamp(900), RunNo(5)), (Timestamp(950), RunNo(2))]);
    let rows =
        store.sql("SELECT * FROM timers WHERE workflow_id = 'r4' ORDER BY due", 9, 1_000).await.unwrap();
    let dues: Vec<_> = rows.iter().map(|row| row["due"].as_i64().unwrap()).collect();
    assert_eq!(dues, [900, 965, 990]);
}

#[tokio::test]
async fn decisions_are_listed_oldest_first_for_those_who_may_answer() {
    let dir = TempDir::new().unwrap();
    let mut seed = Seed::new(&dir).await;
    seed.run("r1", "suspended", 1, &[]);
    seed.run("r2", "suspended", 2, &[]);
    for n in 0..20_i64 {
        let target = [None, Some("ann"), Some(HOSTILE)][n as usize % 3];
        let status = ["pending", "pending", "resolved", "pending"][n as usize % 4];
        seed.decision(1 + n % 2, &format!("d{:02}", 19 - n), status, 100 + n / 5, target);
    }
    drop(seed);
    let store = open(&dir).await;
    let list = async |filter: DecisionFilter| {
        let rows = store.list_decisions(DecisionFilter { limit: 50, ..filter }).await.unwrap();
        rows.into_iter().map(|row| row.decision_id).collect::<Vec<_>>()
    };
    let all = list(DecisionFilter { status: Some("all".into()), ..DecisionFilter::default() }).await;
    assert_eq!(all.len(), 20);
    assert_eq!(all[..6], ["d15", "d16", "d17", "d18", "d19", "d10"], "by time, then by id");
    assert_eq!(list(DecisionFilter::default()).await.len(), 15, "pending is the default");
    assert_eq!(
        list(DecisionFilter { status: Some("resolved".into()), ..DecisionFilter::default() }).await.len(),
        5
    );
    let anns = list(DecisionFilter {
        agent_id: Some("ann".into()),
        status: Some("all".into()),
        ..DecisionFilter::default()
    });
    assert_eq!(anns.await.len(), 14, "her own and those for anybody");
    let of_r2 = DecisionFilter { workflow_id: Some("r2".into()), ..DecisionFilter::default() };
    let rows = store.list_decisions(DecisionFilter { limit: 3, ..of_r2 }).await.unwrap();
    assert!(rows.len() == 3 && rows.iter().all(|row| row.workflow_id == "r2"));
    assert_eq!(rows[0].context.get(), "{\"n\":12345678901234567890}");
    assert_eq!(rows[0].created_at, "1970-01-01T00:00:00.100Z");

    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let filter =
            DecisionFilter { after, limit: 3, status: Some("all".into()), ..DecisionFilter::default() };
        let page = store.list_decisions(filter).await.unwrap();
        let Some(last) = page.last() else { break };
        let at = Timestamp::parse_rfc3339(&last.created_at).unwrap();
        after = Some((at, last.decision_id.clone()));
        seen.extend(page.into_iter().map(|row| row.decision_id));
    }
    assert_eq!(seen, all);
}

#[tokio::test]
async fn a_row_that_does_not_read_is_an_error_and_no_empty_list() {
    let dir = TempDir::new().unwrap();
    let mut seed = Seed::new(&dir).await;
    seed.run("r1", "active", 1, &[]);
    seed.connection.execute("UPDATE workflows SET labels = 'not json'").unwrap();
    drop(seed);
    let store = open(&dir).await;
    let error = store.list_runs(RunFilter { limit: 5, ..RunFilter::default() }).await.unwrap_err();
    assert!(error.to_string().contains("labels"), "{error}");
    // The pool is none the worse for it.
    assert_eq!(store.live_runs().await.unwrap(), [RunNo(1)]);
}
