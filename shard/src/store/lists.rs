//! Lists of runs and decisions, page by page: a page begins after the last line of the one
//! before, in the order of the list, so that it costs the same wherever it is.
//!
//! A namespace is a prefix of ids, and no column: of one with few runs a list goes through them all, by
//! the index of ids; of one with many, and of `default`, through everybody's in the list's order, by
//! indexes that hold the ids too, so that other namespaces' rows are passed over in the index. What that
//! costs in the worst case is one step of an index for each run of others that stands before the page's
//! last.
//!
//! SQL text is put together from fixed pieces alone; whatever a caller sent is bound.

use opcode_engine::ids::Timestamp;
use opcode_engine::namespace::Namespace;

use super::codec;
use super::connection::{Bind, Connection, Row};
use super::fold::{DECISION_COLUMN_COUNT, DECISION_COLUMNS, run_summed};
use super::schema;
use super::{DecisionFilter, DecisionRow, RunFilter, RunSummary};
use crate::error::ShardError;

/// Runs of a namespace that are few: a list goes through them all.
const FEW: usize = 4_000;

/// Which way a list goes.
enum Way {
    /// Through all runs, of whatever namespace.
    All,
    /// The same, but for those that are not of `default`.
    AllOfDefault,
    /// The same, but for those whose ids are not from the first text on and before the second.
    AllWithin(String, String),
    /// Through the runs whose ids are, which are few.
    Through(String, String),
}

impl Way {
    fn of(connection: &mut Connection, namespace: Option<&Namespace>) -> Result<Self, ShardError> {
        let Some(namespace) = namespace else { return Ok(Self::All) };
        let Some((from, to)) = namespace.range() else { return Ok(Self::AllOfDefault) };
        let sql = "SELECT count(*) FROM (SELECT 1 FROM workflows WHERE id >= ?1 AND id < ?2 LIMIT ?3)";
        let limit = i64::try_from(FEW + 1).expect("a few thousand");
        let binds = [Bind::Text(&from), Bind::Text(&to), Bind::Int(limit)];
        let count = {
            let mut rows = connection.select(sql, &binds)?;
            rows.next()?.map_or(Ok(0), |row| row.unsigned(0))?
        };
        Ok(if count <= FEW as u64 { Self::Through(from, to) } else { Self::AllWithin(from, to) })
    }

    fn is_through(&self) -> bool {
        matches!(self, Self::Through(..))
    }

    /// What keeps indexes other than that of ids out of it, where a list goes through the ids.
    fn plus(&self) -> &'static str {
        if self.is_through() { "+" } else { "" }
    }

    /// Keeps other namespaces' runs out.
    fn confine<'f>(&'f self, query: &mut Query<'f>) {
        match self {
            Self::All => {}
            Self::AllOfDefault => query.and("instr(w.id, '/') = 0", &[]),
            Self::AllWithin(from, to) => {
                query.and("+w.id >= ? AND +w.id < ?", &[Bind::Text(from), Bind::Text(to)]);
            }
            Self::Through(from, to) => {
                query.and("w.id >= ? AND w.id < ?", &[Bind::Text(from), Bind::Text(to)]);
            }
        }
    }
}

/// SQL text and the values for its parameters, in order.
#[derive(Default)]
struct Query<'f> {
    sql: String,
    binds: Vec<Bind<'f>>,
    has_where: bool,
}

impl<'f> Query<'f> {
    fn new(select: &str) -> Self {
        Self { sql: select.to_owned(), ..Self::default() }
    }

    /// One more condition; each `?` in it takes the next of `binds`.
    fn and(&mut self, condition: &str, binds: &[Bind<'f>]) {
        self.sql.push_str(if self.has_where { " AND " } else { " WHERE " });
        self.has_where = true;
        self.sql.push_str(condition);
        self.binds.extend_from_slice(binds);
    }

    fn end(&mut self, order: &str, limit: usize) {
        self.sql.push_str(order);
        self.binds.push(Bind::Int(i64::try_from(limit).unwrap_or(i64::MAX)));
    }
}

/// Runs, newest first. Several statuses are several lists, merged: each has an index.
pub(super) fn runs(connection: &mut Connection, filter: &RunFilter) -> Result<Vec<RunSummary>, ShardError> {
    let way = Way::of(connection, filter.namespace.as_ref())?;
    if filter.statuses.len() < 2 {
        return runs_of(connection, filter, &way, filter.statuses.first().map(String::as_str));
    }
    let mut statuses: Vec<&str> = filter.statuses.iter().map(String::as_str).collect();
    statuses.sort_unstable();
    statuses.dedup();
    let mut all = Vec::new();
    for status in statuses {
        all.extend(runs_of(connection, filter, &way, Some(status))?);
    }
    all.sort_by(|a, b| (b.created_at, &b.workflow_id).cmp(&(a.created_at, &a.workflow_id)));
    all.truncate(filter.limit);
    Ok(all)
}

fn runs_of(
    connection: &mut Connection,
    filter: &RunFilter,
    way: &Way,
    status: Option<&str>,
) -> Result<Vec<RunSummary>, ShardError> {
    // A label leads when there is one: its index is in the order of the list.
    let leading = filter.labels.first().filter(|_| !way.is_through());
    let (from, at) = match leading {
        Some(_) => ("labels l CROSS JOIN workflows w ON w.no = l.workflow_no", "l.created_at"),
        None if way.is_through() => ("workflows w", "+w.created_at"),
        None => ("workflows w", "w.created_at"),
    };
    let plus = way.plus();
    let sum = schema::checksum_of(connection, "workflows", "w");
    let mut query = Query::new(&format!("SELECT {}, {sum} FROM {from}", of_alias("w", run_summed!())));
    if let Some((key, value)) = leading {
        query.and("l.key = ? AND l.value = ?", &[Bind::Text(key), Bind::Text(value)]);
    }
    way.confine(&mut query);
    for (key, value) in filter.labels.iter().skip(usize::from(leading.is_some())) {
        let condition = "EXISTS (SELECT 1 FROM labels m WHERE m.key = ? AND m.value = ?
            AND m.created_at = w.created_at AND m.workflow_no = w.no)";
        query.and(condition, &[Bind::Text(key), Bind::Text(value)]);
    }
    let equal = [("w.status", status), ("w.agent_id", filter.agent_id.as_deref())];
    for (column, value) in equal.into_iter().chain([("w.template", filter.template.as_deref())]) {
        if let Some(value) = value {
            query.and(&format!("{plus}{column} = ?"), &[Bind::Text(value)]);
        }
    }
    if let Some(since) = filter.since {
        query.and(&format!("{at} >= ?"), &[Bind::Int(since.0)]);
    }
    if let Some(until) = filter.until {
        query.and(&format!("{at} < ?"), &[Bind::Int(until.0)]);
    }
    if let Some((created_at, id)) = &filter.after {
        let binds = [Bind::Int(created_at.0), Bind::Int(created_at.0), Bind::Text(id)];
        query.and(&format!("{at} <= ? AND ({at}, {plus}w.id) < (?, ?)"), &binds);
    }
    query.end(&format!(" ORDER BY {at} DESC, {plus}w.id DESC LIMIT ?"), filter.limit);
    collect(connection, &query, run_summary)
}

/// Columns of a table that a query knows by another name.
fn of_alias(alias: &str, columns: &str) -> String {
    let columns: Vec<String> = columns.split(", ").map(|column| format!("{alias}.{column}")).collect();
    columns.join(", ")
}

fn collect<T>(
    connection: &mut Connection,
    query: &Query<'_>,
    line: fn(&Row<'_>) -> Result<T, ShardError>,
) -> Result<Vec<T>, ShardError> {
    let mut rows = connection.select_once(&query.sql, &query.binds)?;
    let mut lines = Vec::new();
    while let Some(row) = rows.next()? {
        lines.push(line(&row)?);
    }
    Ok(lines)
}

fn run_summary(row: &Row<'_>) -> Result<RunSummary, ShardError> {
    codec::check_run(row, 0)?;
    let owned = |at| row.optional_text(at).map(|text| text.map(str::to_owned));
    Ok(RunSummary {
        workflow_id: row.text(1)?.to_owned(),
        status: row.text(2)?.to_owned(),
        template: owned(4)?,
        version: owned(5)?,
        agent_id: owned(6)?,
        labels: codec::labels(row.text(8)?)?,
        created_at: Timestamp(row.int(10)?),
        started_at: row.optional_int(11)?.map(Timestamp),
        completed_at: row.optional_int(12)?.map(Timestamp),
        error: codec::optional_json(row, 9)?,
    })
}

/// Decisions, oldest first.
pub(super) fn decisions(
    connection: &mut Connection,
    filter: &DecisionFilter,
) -> Result<Vec<DecisionRow>, ShardError> {
    let way = Way::of(connection, filter.namespace.as_ref())?;
    let (from, plus) = match way.is_through() {
        true => ("workflows w CROSS JOIN decision_rows d ON d.workflow_no = w.no", "+"),
        false => ("decision_rows d JOIN workflows w ON w.no = d.workflow_no", ""),
    };
    let decision_sum = schema::checksum_of(connection, "decision_rows", "d");
    let run_sum = schema::checksum_of(connection, "workflows", "w");
    let mut query = Query::new(&format!(
        "SELECT {}, {decision_sum}, {}, {run_sum} FROM {from}",
        of_alias("d", DECISION_COLUMNS),
        of_alias("w", run_summed!()),
    ));
    way.confine(&mut query);
    match filter.status.as_deref().unwrap_or("pending") {
        "all" => {}
        // Written out, since only so the index of pending ones is found.
        "pending" => query.and("d.status = 'pending'", &[]),
        status => query.and("d.status = ?", &[Bind::Text(status)]),
    }
    if let Some(agent) = &filter.agent_id {
        query.and("(d.target_agent = ? OR d.target_agent IS NULL)", &[Bind::Text(agent)]);
    }
    if let Some(id) = &filter.workflow_id {
        query.and("d.workflow_no = (SELECT no FROM workflows WHERE id = ?)", &[Bind::Text(id)]);
    }
    if let Some((created_at, id)) = &filter.after {
        let binds = [Bind::Int(created_at.0), Bind::Text(id)];
        query.and(&format!("({plus}d.created_at, {plus}d.decision_id) > (?, ?)"), &binds);
    }
    query.end(&format!(" ORDER BY {plus}d.created_at, {plus}d.decision_id LIMIT ?"), filter.limit);
    collect(connection, &query, decision_row)
}

fn decision_row(row: &Row<'_>) -> Result<DecisionRow, ShardError> {
    /// Where the run's row begins: behind the decision's columns and its checksum.
    const RUN_AT: usize = DECISION_COLUMN_COUNT + 1;
    codec::check_decision(row)?;
    codec::check_run(row, RUN_AT)?;
    let owned = |at| row.optional_text(at).map(|text| text.map(str::to_owned));
    Ok(DecisionRow {
        decision_id: row.text(1)?.to_owned(),
        workflow_id: row.text(RUN_AT + 1)?.to_owned(),
        step_id: row.text(2)?.to_owned(),
        status: row.text(3)?.to_owned(),
        context: codec::json(row, 4)?,
        options: codec::json(row, 5)?,
        target_agent: owned(6)?,
        fallback: owned(7)?,
        timeout_at: row.optional_int(8)?.map(|at| Timestamp(at).to_rfc3339()),
        created_at: Timestamp(row.int(9)?).to_rfc3339(),
        resolution: codec::optional_json(row, 10)?,
    })
}
