//! Lists of one namespace, whichever way they go: through its runs, or through everybody's.

use opcode_engine::namespace::Namespace;
use tempfile::TempDir;

use super::super::{DecisionFilter, RunFilter, Store};
use super::lists::{Seed, ids, pages};
use super::{open, options};

/// More than a list goes through.
const MANY: i64 = 4_100;

fn named(name: &str) -> Namespace {
    Namespace::parse(name).expect("a name")
}

/// Runs of three namespaces with the same ids and times, one of them with many.
async fn seeded(dir: &TempDir) -> Store {
    let mut seed = Seed::new(dir).await;
    seed.connection.execute("BEGIN").expect("a transaction");
    for n in 0..MANY {
        seed.run(&format!("many/run-{n:04}"), "completed", 1_000 + n, &[("of", "many")]);
    }
    for n in 0..20 {
        let status = if n % 2 == 0 { "active" } else { "failed" };
        for prefix in ["", "few/", "few-more/", "many/x-"] {
            let id = format!("{prefix}run-{n:04}");
            let no = seed.run(&id, status, 2_000 + n / 3, &[("team", "a")]);
            seed.decision(no, &format!("run-{n:04}:ask:1"), "pending", 2_000 + n / 3, None);
        }
    }
    seed.connection.execute("COMMIT").expect("committed");
    drop(seed);
    open(dir).await
}

#[tokio::test]
async fn a_list_has_the_runs_of_one_namespace_in_the_order_of_all() {
    let dir = TempDir::new().unwrap();
    let store = seeded(&dir).await;
    let team = || vec![("team".to_owned(), "a".to_owned())];
    let filters = [
        RunFilter { labels: team(), ..RunFilter::default() },
        RunFilter { statuses: vec!["failed".into()], ..RunFilter::default() },
        RunFilter { statuses: vec!["active".into(), "failed".into()], ..RunFilter::default() },
        RunFilter { statuses: vec!["active".into()], labels: team(), ..RunFilter::default() },
    ];
    for filter in filters {
        let everything = pages(&store, RunFilter { limit: 500, ..filter.clone() }).await;
        for name in ["default", "few", "few-more", "many", "none"] {
            let namespace = named(name);
            let expected: Vec<&str> = ids(&everything).into_iter().filter(|id| namespace.owns(id)).collect();
            assert_eq!(expected.is_empty(), name == "none", "{name}");
            for limit in [1, 7, 100] {
                let namespace = Some(namespace.clone());
                let listed = pages(&store, RunFilter { namespace, limit, ..filter.clone() }).await;
                assert_eq!(ids(&listed), expected, "{name}: {filter:?} in pages of {limit}");
            }
        }
    }
    let all = RunFilter { namespace: Some(named("few")), limit: 100, ..RunFilter::default() };
    assert_eq!(pages(&store, all).await.len(), 20);
}

#[tokio::test]
async fn a_list_has_the_decisions_of_one_namespace() {
    let dir = TempDir::new().unwrap();
    let store = seeded(&dir).await;
    for name in ["default", "few", "few-more", "many", "none"] {
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let filter =
                DecisionFilter { namespace: Some(named(name)), after, limit: 7, ..DecisionFilter::default() };
            let page = store.list_decisions(filter).await.unwrap();
            let Some(last) = page.last() else { break };
            let at = opcode_engine::ids::Timestamp::parse_rfc3339(&last.created_at).unwrap();
            after = Some((at, last.decision_id.clone()));
            assert!(page.iter().all(|row| named(name).owns(&row.workflow_id)), "{name}");
            seen.extend(page.into_iter().map(|row| row.decision_id));
        }
        let expected: Vec<String> = (0..20).map(|n| format!("run-{n:04}:ask:1")).collect();
        assert_eq!(seen, if name == "none" { Vec::new() } else { expected }, "{name}");
    }
    let of_another = DecisionFilter {
        namespace: Some(named("default")),
        workflow_id: Some("few/run-0001".into()),
        limit: 9,
        ..DecisionFilter::default()
    };
    assert!(store.list_decisions(of_another).await.unwrap().is_empty());
}

/// The plan of a few runs is one over ids, and that of many is one over ages: neither sorts nor reads all
/// rows.
#[tokio::test]
async fn few_are_found_by_their_ids_and_many_by_their_ages() {
    use super::super::connection::{Access, Connection};
    let dir = TempDir::new().unwrap();
    drop(seeded(&dir).await);
    let mut connection = Connection::open(&options(&dir).path, Access::Read).unwrap();
    let mut plan = |condition: &str, order: &str| {
        let sql = format!(
            "EXPLAIN QUERY PLAN SELECT * FROM workflows w WHERE {condition} ORDER BY {order} LIMIT 9"
        );
        let mut rows = connection.select_once(&sql, &[]).unwrap();
        let mut plan = String::new();
        while let Some(row) = rows.next().unwrap() {
            plan.push_str(row.text(3).unwrap());
        }
        plan
    };
    let few = plan(
        "w.id >= 'few/' AND w.id < 'few0' AND +w.status = 'failed' AND +w.created_at >= 5",
        "+w.created_at DESC, +w.id DESC",
    );
    assert!(few.contains("sqlite_autoindex_workflows_1"), "{few}");
    let many = plan("+w.id >= 'many/' AND +w.id < 'many0'", "w.created_at DESC, w.id DESC");
    assert!(many.contains("workflows_by_age") && !many.contains("TEMP B-TREE"), "{many}");
    let of_default = plan("instr(w.id, '/') = 0 AND w.status = 'failed'", "w.created_at DESC, w.id DESC");
    assert!(
        of_default.contains("workflows_by_status") && !of_default.contains("TEMP B-TREE"),
        "{of_default}"
    );
}
