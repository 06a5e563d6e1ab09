//! Lists of runs and decisions, page by page: a page begins after the last line of the one
//! before, in the order of the list, so that it costs the same wherever it is.
//!
//! SQL text is put together from fixed pieces alone; whatever a caller sent is bound.

use opcode_engine::ids::Timestamp;

use super::codec;
use super::connection::{Bind, Connection, Row};
use super::fold::{DECISION_COLUMN_COUNT, DECISION_COLUMNS, run_summed};
use super::schema;
use super::{DecisionFilter, DecisionRow, RunFilter, RunSummary};
use crate::error::ShardError;

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
    if filter.statuses.len() < 2 {
        return runs_of(connection, filter, filter.statuses.first().map(String::as_str));
    }
    let mut statuses: Vec<&str> = filter.statuses.iter().map(String::as_str).collect();
    statuses.sort_unstable();
    statuses.dedup();
    let mut all = Vec::new();
    for status in statuses {
        all.extend(runs_of(connection, filter, Some(status))?);
    }
    all.sort_by(|a, b| (b.created_at, &b.workflow_id).cmp(&(a.created_at, &a.workflow_id)));
    all.truncate(filter.limit);
    Ok(all)
}

fn runs_of(
    connection: &mut Connection,
    filter: &RunFilter,
    status: Option<&str>,
) -> Result<Vec<RunSummary>, ShardError> {
    // A label leads when there is one: its index is in the order of the list.
    let mut labels = filter.labels.iter();
    let (from, at) = match labels.next() {
        Some(_) => ("labels l CROSS JOIN workflows w ON w.no = l.workflow_no", "l.created_at"),
        None => ("workflows w", "w.created_at"),
    };
    let sum = schema::checksum_of(connection, "workflows", "w");
    let mut query = Query::new(&format!("SELECT {}, {sum} FROM {from}", of_alias("w", run_summed!())));
    if let Some((key, value)) = filter.labels.first() {
        query.and("l.key = ? AND l.value = ?", &[Bind::Text(key), Bind::Text(value)]);
    }
    for (key, value) in labels {
        let condition = "EXISTS (SELECT 1 FROM labels m WHERE m.key = ? AND m.value = ?
            AND m.created_at = w.created_at AND m.workflow_no = w.no)";
        query.and(condition, &[Bind::Text(key), Bind::Text(value)]);
    }
    let equal = [("w.status", status), ("w.agent_id", filter.agent_id.as_deref())];
    for (column, value) in equal.into_iter().chain([("w.template", filter.template.as_deref())]) {
        if let Some(value) = value {
            query.and(&format!("{column} = ?"), &[Bind::Text(value)]);
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
        query.and(&format!("{at} <= ? AND ({at}, w.id) < (?, ?)"), &binds);
    }
    query.end(&format!(" ORDER BY {at} DESC, w.id DESC LIMIT ?"), filter.limit);
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
    let decision_sum = schema::checksum_of(connection, "decision_rows", "d");
    let run_sum = schema::checksum_of(connection, "workflows", "w");
    let mut query = Query::new(&format!(
        "SELECT {}, {decision_sum}, {}, {run_sum}
         FROM decision_rows d JOIN workflows w ON w.no = d.workflow_no",
        of_alias("d", DECISION_COLUMNS),
        of_alias("w", run_summed!()),
    ));
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
        query.and("(d.created_at, d.decision_id) > (?, ?)", &binds);
    }
    query.end(" ORDER BY d.created_at, d.decision_id LIMIT ?", filter.limit);
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
