//! The tables of a shard's file, and the checks that a file is this shard's.
//!
//! Events are appended in order of their rows, which keeps the WAL small; everything else is a
//! view of them, in tables that are written in the same transaction. Rows carry a run's number;
//! the SQL views `events`, `step_state`, `pending_decisions` and `timers` show its id instead.
//! Rows that are read have a checksum, see [`checksum`](super::checksum).
//! A file of another shard, cluster or format is refused before anything in it is changed.

use std::collections::BTreeSet;
use std::path::Path;

use opcode_engine::event::EventType;

use super::StoreOptions;
use super::checksum;
use super::connection::{Access, Bind, Connection, Datum};
use crate::error::ShardError;

/// The format of the tables; a file with a higher one was written by a later release. Format 1 was
/// never released, and has no checksums.
pub(super) const FORMAT: i64 = 2;

/// Bytes of a page: what libSQL's sync protocol expects.
pub(super) const PAGE_BYTES: u64 = 4096;

const TABLES: &str = "
CREATE TABLE meta(key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;
CREATE TABLE applied(
    one INTEGER PRIMARY KEY CHECK (one = 1),
    term INTEGER NOT NULL, position INTEGER NOT NULL,
    log_id BLOB NOT NULL, membership BLOB NOT NULL);
CREATE TABLE event_types(code INTEGER PRIMARY KEY, name TEXT NOT NULL);
CREATE TABLE event_rows(
    row INTEGER PRIMARY KEY,
    workflow_no INTEGER NOT NULL, sequence INTEGER NOT NULL, type INTEGER NOT NULL,
    step_id TEXT, data TEXT NOT NULL, agent_id TEXT, timestamp INTEGER NOT NULL,
    checksum INTEGER NOT NULL,
    UNIQUE (workflow_no, sequence));
CREATE TABLE definitions(hash BLOB PRIMARY KEY, source TEXT NOT NULL);
CREATE TABLE templates(
    name TEXT NOT NULL, version INTEGER NOT NULL, definition BLOB NOT NULL,
    source TEXT NOT NULL, created_at INTEGER NOT NULL,
    PRIMARY KEY (name, version));
";

/// Messages to other runs that events leave owed and nobody has taken yet: an event's key until it
/// is delivered. Not a view of the events alone, since a delivery is no event: the rebuild leaves
/// it as it is, and only finds rows that no event stands for. Made also in a file that was there
/// before it.
const OUTBOX: &str = "
CREATE TABLE IF NOT EXISTS outbox(
    workflow_no INTEGER NOT NULL, sequence INTEGER NOT NULL,
    PRIMARY KEY (workflow_no, sequence)) WITHOUT ROWID;
";

/// The catalogue's entries as they are. Of those that are deleted only the last change of all is
/// kept, without a body, since revisions go on from it. No view of events: the rebuild leaves it as
/// it is. Made also in a file that was there before it.
const CATALOGUE: &str = "
CREATE TABLE IF NOT EXISTS catalogue(
    kind TEXT NOT NULL, key TEXT NOT NULL, revision INTEGER NOT NULL, body TEXT,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (kind, key)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS catalogue_deleted ON catalogue(revision) WHERE body IS NULL;
";

/// The tables that are views of the events; the rebuild writes them anew.
pub(super) const FOLDED_TABLES: &str = "
CREATE TABLE workflows(
    no INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, status TEXT NOT NULL,
    definition BLOB NOT NULL, template TEXT, version TEXT, agent_id TEXT, body_hash INTEGER,
    labels TEXT NOT NULL, output TEXT, error TEXT,
    created_at INTEGER NOT NULL, started_at INTEGER, completed_at INTEGER, due INTEGER);
CREATE INDEX workflows_by_age ON workflows(created_at, id);
CREATE INDEX workflows_by_status ON workflows(status, created_at, id);
CREATE INDEX workflows_by_agent ON workflows(agent_id, created_at, id) WHERE agent_id IS NOT NULL;
CREATE INDEX workflows_by_template ON workflows(template, created_at, id) WHERE template IS NOT NULL;
CREATE INDEX workflows_due ON workflows(due) WHERE due IS NOT NULL;
CREATE TABLE labels(
    key TEXT NOT NULL, value TEXT NOT NULL, created_at INTEGER NOT NULL, workflow_no INTEGER NOT NULL,
    PRIMARY KEY (key, value, created_at, workflow_no)) WITHOUT ROWID;
CREATE TABLE step_rows(
    workflow_no INTEGER NOT NULL, step_id TEXT NOT NULL, status TEXT NOT NULL,
    attempts INTEGER NOT NULL, started_at INTEGER, completed_at INTEGER,
    output TEXT, error TEXT, due INTEGER,
    PRIMARY KEY (workflow_no, step_id)) WITHOUT ROWID;
CREATE INDEX steps_due ON step_rows(due) WHERE due IS NOT NULL;
CREATE TABLE decision_rows(
    row INTEGER PRIMARY KEY,
    workflow_no INTEGER NOT NULL, decision_id TEXT NOT NULL, step_id TEXT NOT NULL,
    status TEXT NOT NULL, context TEXT NOT NULL, options TEXT NOT NULL,
    target_agent TEXT, fallback TEXT, timeout_at INTEGER, created_at INTEGER NOT NULL,
    resolution TEXT,
    UNIQUE (workflow_no, decision_id));
CREATE INDEX decisions_by_age ON decision_rows(created_at, decision_id);
CREATE INDEX decisions_pending ON decision_rows(created_at, decision_id) WHERE status = 'pending';
";

/// Gives a table's rows a checksum; those that are there have none until they are written again. Always
/// a change of the table, so that a new one and one of the release before come out with the same SQL.
fn add_checksum(connection: &Connection, table: &str) -> Result<(), ShardError> {
    connection.execute(&format!("ALTER TABLE {table} ADD COLUMN checksum INTEGER"))
}

/// Gives every table its checksums that has none: in a new file, and in one of the release before.
pub(super) fn add_checksums(connection: &mut Connection) -> Result<(), ShardError> {
    for table in checksum::TABLES {
        if has_table(connection, table)? && !has_checksum(connection, table) {
            add_checksum(connection, table)?;
        }
    }
    Ok(())
}

/// The checksums of a table that a query knows as `alias`, as a column of it. A copy of tables of the
/// release before, which nobody here writes, has none.
pub(super) fn checksum_of(connection: &mut Connection, table: &str, alias: &str) -> String {
    if has_checksum(connection, table) { format!("{alias}.checksum") } else { "NULL".into() }
}

/// Whether the rows of a table have a checksum; asked for each list, so the answer is kept.
fn has_checksum(connection: &mut Connection, table: &str) -> bool {
    let probe = match table {
        "workflows" => "SELECT checksum FROM workflows LIMIT 0",
        "decision_rows" => "SELECT checksum FROM decision_rows LIMIT 0",
        "templates" => "SELECT checksum FROM templates LIMIT 0",
        "catalogue" => "SELECT checksum FROM catalogue LIMIT 0",
        other => unreachable!("{other} has no checksums"),
    };
    connection.cached(probe).is_ok()
}

/// What people see with `opcode sql`: the names and columns of the specification.
const VIEWS: &str = "
CREATE VIEW events AS
    SELECT w.id AS workflow_id, e.sequence AS sequence, t.name AS type, e.step_id AS step_id,
           e.data AS data, e.agent_id AS agent_id, e.timestamp AS timestamp
    FROM event_rows e JOIN workflows w ON w.no = e.workflow_no JOIN event_types t ON t.code = e.type;
CREATE VIEW step_state AS
    SELECT w.id AS workflow_id, s.step_id, s.status, s.attempts, s.output, s.error,
           s.started_at, s.completed_at, s.due
    FROM step_rows s JOIN workflows w ON w.no = s.workflow_no;
CREATE VIEW pending_decisions AS
    SELECT d.decision_id, w.id AS workflow_id, d.step_id, d.status, d.context, d.options,
           d.target_agent, d.fallback, d.timeout_at, d.created_at, d.resolution
    FROM decision_rows d JOIN workflows w ON w.no = d.workflow_no;
CREATE VIEW timers AS
    SELECT id AS workflow_id, NULL AS step_id, due FROM workflows WHERE due IS NOT NULL
    UNION ALL
    SELECT w.id, s.step_id, s.due FROM step_rows s JOIN workflows w ON w.no = s.workflow_no
    WHERE s.due IS NOT NULL;
";

/// Opens the shard's file for its writer: makes what is missing, refuses what is not its own.
pub(super) fn open_for_writing(options: &StoreOptions) -> Result<Connection, ShardError> {
    let size = file_bytes(&options.path)?;
    if size > 0 {
        // A reader may not play back a rollback journal, which a crash leaves while a new file
        // changes into WAL mode. Playing it back restores the file and says nothing new.
        let mut journal = options.path.clone().into_os_string();
        journal.push("-journal");
        let is_hot = file_bytes(Path::new(&journal))? > 0;
        let mut looking = Connection::open(&options.path, if is_hot { Access::Write } else { Access::Read })?;
        check_identity(&mut looking, options)?;
    }
    let mut connection = Connection::open(&options.path, Access::Create)?;
    set_up(&mut connection)?;
    if !has_table(&mut connection, "meta")? {
        create(&mut connection, options)?;
    }
    connection.execute(OUTBOX)?;
    connection.execute(CATALOGUE)?;
    add_checksums(&mut connection)?;
    name_event_types(&mut connection)?;
    Ok(connection)
}

/// Bytes of a file, 0 when there is none.
pub(super) fn file_bytes(path: &Path) -> Result<u64, ShardError> {
    match std::fs::metadata(path) {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(source) => Err(ShardError::Io { what: format!("look at {}", path.display()), source }),
    }
}

/// The settings that a writing connection's safety rests on, each read back.
pub(super) fn set_up(connection: &mut Connection) -> Result<(), ShardError> {
    // A cache that never spills keeps a page that changes often in one transaction out of the
    // WAL until its end.
    connection.execute(
        "PRAGMA page_size = 4096; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
         PRAGMA foreign_keys = OFF; PRAGMA trusted_schema = OFF;
         PRAGMA cache_size = -8192; PRAGMA cache_spill = OFF;",
    )?;
    let wanted = [
        ("PRAGMA page_size", Datum::Int(4096)),
        ("PRAGMA journal_mode", Datum::Text(b"wal")),
        ("PRAGMA synchronous", Datum::Int(1)),
    ];
    for (pragma, value) in wanted {
        let mut rows = connection.select(pragma, &[])?;
        let row = rows.next()?;
        if row.as_ref().map(|row| row.get(0)) != Some(value) {
            return Err(ShardError::Refused(format!("the tables' file does not take {pragma} = {value:?}")));
        }
    }
    Ok(())
}

pub(super) fn has_table(connection: &mut Connection, name: &str) -> Result<bool, ShardError> {
    let binds = [Bind::Text(name)];
    let mut rows =
        connection.select("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1", &binds)?;
    Ok(rows.next()?.is_some())
}

fn create(connection: &mut Connection, options: &StoreOptions) -> Result<(), ShardError> {
    connection.execute("BEGIN IMMEDIATE")?;
    create_objects(connection)?;
    add_checksums(connection)?;
    let insert = connection.cached("INSERT INTO meta(key, value) VALUES (?1, ?2)")?;
    connection.run(insert, &[Bind::Text("format"), Bind::Int(FORMAT)])?;
    connection.run(insert, &[Bind::Text("shard"), Bind::Int(i64::from(options.shard.0))])?;
    connection.run(insert, &[Bind::Text("cluster_id"), Bind::Text(&options.cluster_id)])?;
    connection.execute("COMMIT")
}

fn create_objects(connection: &Connection) -> Result<(), ShardError> {
    [TABLES, OUTBOX, CATALOGUE, FOLDED_TABLES, VIEWS].iter().try_for_each(|sql| connection.execute(sql))
}

/// Refuses a file whose tables, indexes, views and triggers are not the very ones of this build:
/// whatever else there is in it, its SQL would run when the file is used.
pub(super) fn check_schema(connection: &mut Connection, path: &Path) -> Result<(), ShardError> {
    let mut wanted = Connection::open(Path::new(":memory:"), Access::Create)?;
    create_objects(&wanted)?;
    if !has_table(connection, "outbox")? {
        // From a member of the release before, whose runs had nothing to say to each other. Who
        // opens it next makes the table.
        wanted.execute("DROP TABLE outbox")?;
    }
    if !has_table(connection, "catalogue")? {
        // The same of the release before the catalogue.
        wanted.execute("DROP TABLE catalogue")?;
    }
    let found = schema_of(connection)?;
    for table in checksum::TABLES {
        // From the release before, a table has no checksums; who opens it next adds them. Told by the text
        // alone: nothing of the file is compiled before it is known.
        let has_checksum = |(kind, name, _, sql): &(String, String, String, Option<String>)| {
            let sql = sql.as_deref().unwrap_or_default();
            kind == "table" && name == table && sql.contains(", checksum INTEGER")
        };
        if found.iter().any(has_checksum) && has_table(&mut wanted, table)? {
            add_checksum(&wanted, table)?;
        }
    }
    let wanted = schema_of(&mut wanted)?;
    let strange = found.symmetric_difference(&wanted).next();
    match strange {
        None => Ok(()),
        Some((kind, name, ..)) => Err(ShardError::Refused(format!(
            "{}: its {kind} {name} is not as this release makes it; nothing was changed",
            path.display()
        ))),
    }
}

/// Kind, name, table and SQL of everything in a schema.
type Objects = BTreeSet<(String, String, String, Option<String>)>;

fn schema_of(connection: &mut Connection) -> Result<Objects, ShardError> {
    let sql = "SELECT type, name, tbl_name, sql FROM sqlite_schema";
    let mut rows = connection.select(sql, &[])?;
    let mut objects = Objects::new();
    while let Some(row) = rows.next()? {
        let sql = row.optional_text(3)?.map(str::to_owned);
        objects.insert((row.text(0)?.into(), row.text(1)?.into(), row.text(2)?.into(), sql));
    }
    Ok(objects)
}

/// Empties the tables that are views of the events. Within the caller's transaction.
pub(super) fn empty_folded(connection: &Connection) -> Result<(), ShardError> {
    connection.execute(
        "DELETE FROM workflows; DELETE FROM labels; DELETE FROM step_rows; DELETE FROM decision_rows;",
    )
}

/// Keeps the names of event types with the data, for people's queries.
fn name_event_types(connection: &mut Connection) -> Result<(), ShardError> {
    let known = {
        let mut rows = connection.select("SELECT count(*) FROM event_types", &[])?;
        rows.next()?.map_or(Ok(0), |row| row.unsigned(0))?
    };
    if known >= EventType::ALL.len() as u64 {
        return Ok(());
    }
    let insert = connection.cached("INSERT OR REPLACE INTO event_types(code, name) VALUES (?1, ?2)")?;
    connection.execute("BEGIN IMMEDIATE")?;
    for event_type in EventType::ALL {
        let binds = [Bind::Int(i64::from(event_type.code())), Bind::Text(event_type.as_str())];
        connection.run(insert, &binds)?;
    }
    connection.execute("COMMIT")
}

/// Refuses a file that is not this shard's. A file without any table is new.
pub(super) fn check_identity(connection: &mut Connection, options: &StoreOptions) -> Result<(), ShardError> {
    let path = options.path.display();
    if !check_format(connection, &options.path)? {
        return Ok(());
    }
    let shard = meta(connection, "shard")?;
    if shard != Some(Meta::Int(i64::from(options.shard.0))) {
        return Err(ShardError::Refused(format!(
            "{path} holds shard {}, not shard {}; nothing was changed",
            Meta::show(shard.as_ref()),
            options.shard
        )));
    }
    let cluster = meta(connection, "cluster_id")?;
    if cluster != Some(Meta::Text(options.cluster_id.clone())) {
        return Err(ShardError::Refused(format!(
            "{path} belongs to cluster {}, not to cluster {}; nothing was changed",
            Meta::show(cluster.as_ref()),
            options.cluster_id
        )));
    }
    Ok(())
}

/// Refuses a file of a format that this release does not know; false when it has no tables yet.
pub(super) fn check_format(connection: &mut Connection, path: &Path) -> Result<bool, ShardError> {
    let path = path.display();
    if !has_table(connection, "meta")? {
        let mut rows = connection.select("SELECT name FROM sqlite_schema LIMIT 1", &[])?;
        return match rows.next()? {
            None => Ok(false),
            Some(_) => Err(ShardError::Refused(format!(
                "{path} is a database, but not one of a shard; nothing was changed"
            ))),
        };
    }
    match meta(connection, "format")? {
        Some(Meta::Int(FORMAT)) => Ok(true),
        Some(Meta::Int(newer)) if newer > FORMAT => Err(ShardError::Refused(format!(
            "{path} has format {newer}, this release knows formats up to {FORMAT}: \
             use the release that wrote it, or a later one; nothing was changed"
        ))),
        other => Err(ShardError::Refused(format!(
            "{path} has the unknown format {}; nothing was changed",
            Meta::show(other.as_ref())
        ))),
    }
}

#[derive(Debug, PartialEq)]
enum Meta {
    Int(i64),
    Text(String),
}

impl Meta {
    fn show(meta: Option<&Self>) -> String {
        match meta {
            None => "(none)".into(),
            Some(Self::Int(int)) => int.to_string(),
            Some(Self::Text(text)) => text.clone(),
        }
    }
}

fn meta(connection: &mut Connection, key: &str) -> Result<Option<Meta>, ShardError> {
    let binds = [Bind::Text(key)];
    let mut rows = connection.select("SELECT value FROM meta WHERE key = ?1", &binds)?;
    let Some(row) = rows.next()? else { return Ok(None) };
    Ok(match row.get(0) {
        Datum::Int(int) => Some(Meta::Int(int)),
        Datum::Text(text) => Some(Meta::Text(String::from_utf8_lossy(text).into_owned())),
        Datum::Null | Datum::Real(_) | Datum::Blob(_) => None,
    })
}
