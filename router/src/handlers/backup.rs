//! Backups: written by this node to a folder of its own, or fetched shard by shard by whoever writes
//! one elsewhere (`opcode backup`).

use std::path::{Component, Path, PathBuf};
use std::time::Instant;

use axum::body::Body;
use axum::extract::{Path as Segment, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use opcode_engine::ids::ShardId;
use opcode_engine::{Code, Problem};
use opcode_shard::backup::manifest::{Manifest, shard_of};
use opcode_shard::backup::{self, About};
use opcode_shard::batch::Position;
use opcode_shard::clock::Clock;
use serde::Serialize;

use crate::backup::{ClusterSource, RemoteCopy, log as log_of};
use crate::error::{ApiError, Applied};
use crate::incoming::{Incoming, json};
use crate::schema;
use crate::state::RouterState;
use crate::wire::{Fields, shortened};

/// The last entry of the log that an answer holds, `TERM:INDEX`.
const POSITION: HeaderName = HeaderName::from_static("opcode-position");
/// XXH3, 64 bits, of an answer's body, in hex.
const CHECKSUM: HeaderName = HeaderName::from_static("opcode-checksum");
/// Longest path, in bytes.
const PATH_BYTES_MAX: usize = 1_024;

#[derive(Serialize)]
struct Written {
    path: String,
    shards: Vec<WrittenShard>,
    bytes: u64,
    duration_ms: u64,
}

#[derive(Serialize)]
struct WrittenShard {
    shard: String,
    bytes: u64,
    term: u64,
    position: u64,
}

impl Written {
    fn of(path: &Path, manifest: &Manifest, since: Instant) -> Self {
        let shard = |id: ShardId| {
            let Position { term, index } = manifest.last(id);
            let copied = manifest.copies.iter().filter(|copy| copy.shard == id).map(|copy| copy.bytes);
            let bytes = copied.chain(manifest.log_of(id).map(|file| file.bytes)).sum();
            WrittenShard { shard: id.to_string(), bytes, term, position: index }
        };
        Self {
            path: path.display().to_string(),
            shards: manifest.copies.iter().map(|copy| shard(copy.shard)).collect(),
            bytes: manifest.bytes(),
            duration_ms: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// Writes a backup of the whole cluster to a folder beneath the node's folder for them, or adds to one.
#[utoipa::path(post, path = "/v1/backup", tag = "backup", operation_id = "writeBackup", request_body = Object,
    responses((status = 201, body = Object), (status = 403, body = schema::Problem), (status = 409, body = schema::Problem),
        (status = 422, body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn write(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let mut fields = Fields::of_body(incoming.optional_json()?)?;
    let (path, extends) = (fields.string("path"), fields.boolean("extend").unwrap_or(false));
    if extends && path.is_none() {
        fields.problem("path", "is missing: the backup to add to");
    }
    fields.done()?;
    let Some(root) = state.backup_dir() else {
        return Err(ApiError::forbidden(
            "this node writes no backups: start it with --backup-dir DIR, or have `opcode backup DIR` fetch one",
        ));
    };
    let path = place(root, path.as_deref())?;
    let (begun, map) = (Instant::now(), state.map());
    let about = About {
        cluster_id: state.node().cluster_id.clone(),
        version: state.node().version.clone(),
        shards: u32::try_from(map.shards.len()).expect("a cluster has few shards"),
    };
    let source = ClusterSource(state.clone());
    let told = &mut |progress: backup::Progress| {
        tracing::debug!(shard = %progress.shard, bytes = progress.bytes, "in the backup");
    };
    let written = match extends {
        true => backup::extend(&path, &about, &source, true, told).await,
        false => backup::write(&path, about, &source, true, told).await,
    };
    let manifest = written.map_err(|unwritten| unwritten.0)?;
    Ok(json(StatusCode::CREATED, &Written::of(&path, &manifest, begun)))
}

/// A folder beneath `root`. No name on the way leads out of it.
fn place(root: &Path, wanted: Option<&str>) -> Result<PathBuf, ApiError> {
    let named_for_now = || format!("backup-{}", Clock::default().now().to_rfc3339().replace([':', '.'], "-"));
    let wanted = wanted.map_or_else(named_for_now, str::to_owned);
    let denied = |why: &str| {
        let detail = format!(
            "{:?} {why}: name a folder beneath {}, which is this node's --backup-dir",
            shortened(&wanted),
            root.display()
        );
        ApiError::new(StatusCode::FORBIDDEN, Code::PathDenied.as_str(), detail)
    };
    let path = Path::new(&wanted);
    let below = path.strip_prefix(root).unwrap_or(path);
    let is_plain = below.components().all(|part| matches!(part, Component::Normal(_)));
    if !is_plain || below.as_os_str().is_empty() || wanted.len() > PATH_BYTES_MAX || wanted.contains('\0') {
        return Err(denied("is no folder beneath that of backups"));
    }
    let mut place = root.to_owned();
    for part in below.components() {
        place.push(part);
        match std::fs::symlink_metadata(&place) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err(denied("leads over what is no folder")),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(ApiError::unavailable(Applied::No, format!("{}: {error}", place.display())));
            }
        }
    }
    Ok(place)
}

fn shard(state: &RouterState, name: &str) -> Result<ShardId, ApiError> {
    let shard = shard_of(name).filter(|shard| state.map().shard(*shard).is_some());
    shard.ok_or_else(|| ApiError::not_found(format!("there is no shard {}", shortened(name))))
}

fn told(position: Position) -> HeaderValue {
    let text = format!("{}:{}", position.term, position.index);
    HeaderValue::try_from(text).expect("digits and a colon")
}

/// A copy of a shard's tables as its leader has them: a libSQL file, with all that was acknowledged
/// before. An answer that is shorter than it says broke off: ask again.
#[utoipa::path(get, path = "/v1/backup/shards/{shard}", tag = "backup", operation_id = "copyShard",
    params(("shard" = String, Path, description = "A number, or `system`")),
    responses((status = 200, body = String, content_type = "application/octet-stream"), (status = 404, body = schema::Problem),
        (status = 429, body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn copy(
    State(state): State<RouterState>,
    Segment(name): Segment<String>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let copy = RemoteCopy::open(&state, shard(&state, &name)?).await?;
    let (made, checksum) = (copy.made, format!("{:016x}", copy.made.checksum));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (header::CONTENT_LENGTH, HeaderValue::from(made.bytes)),
        (POSITION, told(made.position)),
        (CHECKSUM, HeaderValue::try_from(checksum).expect("hex digits")),
    ];
    let pieces =
        futures::TryStreamExt::map_err(copy.pieces(), |error| std::io::Error::other(error.to_string()));
    Ok((headers, Body::from_stream(pieces)).into_response())
}

/// Entries of a shard's log after one: those that a backup lacks.
#[utoipa::path(get, path = "/v1/backup/shards/{shard}/log", tag = "backup", operation_id = "readShardLog",
    params(("shard" = String, Path, description = "A number, or `system`"), ("after" = String, Query, description = "`TERM:INDEX`")),
    responses((status = 200, body = String, content_type = "application/octet-stream"), (status = 400, body = schema::Problem),
        (status = 404, body = schema::Problem), (status = 410, body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn log(
    State(state): State<RouterState>,
    Segment(name): Segment<String>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    let mut query = incoming.query()?;
    let after = query.one("after").and_then(|text| {
        let (term, index) = text.split_once(':')?;
        Some(Position { term: term.parse().ok()?, index: index.parse().ok()? })
    });
    if after.is_none() {
        query.problem("after", "is missing, or not `TERM:INDEX`");
    }
    query.finish()?;
    let after = after.ok_or_else(|| ApiError::malformed(Problem::at("/after", "is missing")))?;
    let shard = shard(&state, &name)?;
    let Some(archived) = log_of(&state, shard, after).await? else {
        let detail = format!("the log of shard {shard} does not hold entry {} any more", after.index);
        return Err(ApiError::new(StatusCode::GONE, Code::NotFound.as_str(), detail));
    };
    let content_type = (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Ok(([content_type, (POSITION, told(archived.last))], archived.bytes).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_goes_beneath_its_folder_and_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("backups");
        std::fs::create_dir_all(root.join("there")).unwrap();
        std::os::unix::fs::symlink("/tmp", root.join("out")).unwrap();
        std::fs::write(root.join("file"), "").unwrap();
        let inside = root.join("a/b").display().to_string();
        for (wanted, place_is) in [("a", "a"), ("there/a", "there/a"), ("a/./b", "a/b"), (&inside, "a/b")] {
            assert_eq!(place(&root, Some(wanted)).unwrap(), root.join(place_is), "{wanted}");
        }
        assert!(place(&root, None).unwrap().starts_with(&root));
        let outside = dir.path().display().to_string();
        for wanted in
            ["", "..", "a/../..", "/etc", "out", "out/a", "file/a", "a\0b", &outside, &"x/".repeat(600)]
        {
            assert_eq!(place(&root, Some(wanted)).unwrap_err().status(), 403, "{wanted:?}");
        }
    }
}
