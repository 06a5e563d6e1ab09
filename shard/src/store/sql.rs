//! Queries that people wrote: one statement, read-only, bounded in time, rows and bytes.
//!
//! Four walls, each enough alone for a write: the connection is opened read-only, the authorizer
//! allows reading only, the prepared statement must say that it only reads, and it must be alone.

use std::time::{Duration, Instant};

use serde_json::{Map, Number, Value};

use super::connection::{Connection, Datum, Row};
use crate::error::ShardError;

/// Bytes of all values of an answer, and of any value on the way to it.
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// Runs a query on a connection of its own; a fault of the query itself is [`ShardError::Refused`].
pub(super) fn query(
    mut connection: Connection,
    sql: &str,
    limit: usize,
    timeout_ms: u64,
) -> Result<Vec<Value>, ShardError> {
    let deadline = Instant::now() + Duration::from_millis(timeout_ms);
    connection.confine(deadline, BYTES_MAX);
    match rows(&mut connection, sql, limit) {
        Err(ShardError::Store { .. }) if connection.is_late() => {
            Err(ShardError::Refused(format!("the query took longer than {timeout_ms} ms")))
        }
        Err(ShardError::Store { message, .. }) => Err(ShardError::Refused(message)),
        other => other,
    }
}

fn rows(connection: &mut Connection, sql: &str, limit: usize) -> Result<Vec<Value>, ShardError> {
    let mut rows = connection.select_once(sql, &[])?;
    let names = unique(rows.columns());
    let (mut answer, mut bytes) = (Vec::new(), 0);
    while answer.len() < limit
        && let Some(row) = rows.next()?
    {
        let mut object = Map::new();
        for (at, name) in names.iter().enumerate() {
            let value = value(&row, at, &mut bytes);
            object.insert(name.clone(), value);
        }
        if bytes > BYTES_MAX {
            return Err(ShardError::Refused(format!("the answer has more than {BYTES_MAX} bytes")));
        }
        answer.push(Value::Object(object));
    }
    Ok(answer)
}

/// Column names as they are, a repeated one with its number.
fn unique(names: Vec<String>) -> Vec<String> {
    let mut seen: Vec<String> = Vec::with_capacity(names.len());
    for (at, name) in names.into_iter().enumerate() {
        let name = if seen.contains(&name) { format!("{name}:{}", at + 1) } else { name };
        seen.push(name);
    }
    seen
}

/// Text as it is, bytes as hexadecimal digits; adds to the count of bytes.
fn value(row: &Row<'_>, at: usize, bytes: &mut usize) -> Value {
    match row.get(at) {
        Datum::Null => Value::Null,
        Datum::Int(int) => Value::Number(int.into()),
        Datum::Real(real) => Number::from_f64(real).map_or(Value::Null, Value::Number),
        Datum::Text(text) => {
            *bytes += text.len();
            Value::String(String::from_utf8_lossy(text).into_owned())
        }
        Datum::Blob(blob) => {
            *bytes += blob.len() * 2;
            Value::String(hex::encode(blob))
        }
    }
}
