//! Schedules: made, read, changed and deleted in the catalogue of the system shard. Who fires them is
//! the scheduler; here a run is started only when it is asked for: out of turn, or for slots that
//! have passed.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use opcode_engine::Problem;
use opcode_engine::ids::Timestamp;
use opcode_engine::namespace::{Namespace, local};
use opcode_engine::schedule::{check_id, run_id};
use opcode_shard::catalogue::{Changed, EntryChange, EntryKind};
use opcode_shard::clock::Clock;
use serde::Serialize;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use super::workflows;
use crate::access::Caller;
use crate::error::{ApiError, Applied};
use crate::forward::Seen;
use crate::gather::{Cursor, Page};
use crate::incoming::{Incoming, json, with_token};
use crate::namespace;
use crate::schedule::{Draft, Schedule, Shown, Spec, conflict, parse};
use crate::scheduler;
use crate::schema;
use crate::state::RouterState;
use crate::submission::{self, Templates};
use crate::wire::{Fields, invalid, shortened};

/// How often a change is tried that others cut in on.
const TRIES_MAX: u32 = 20;
/// Slots that one backfill starts, at most.
const BACKFILL_SLOTS_MAX: usize = 1_000;
/// Slots that `next` tells, at most, and unless said otherwise.
const NEXT_SLOTS_MAX: u64 = 100;
const NEXT_SLOTS: u64 = 5;

fn now() -> Timestamp {
    Clock::default().now()
}

/// A schedule that was read, with the revision of its entry.
struct Read {
    schedule: Schedule,
    revision: u64,
}

fn none(id: &str) -> ApiError {
    ApiError::not_found(format!("there is no schedule `{}`", shortened(id)))
}

/// The key of the schedule that a path names, in the caller's namespace. Everything here goes by keys; what
/// is shown is what their namespace calls them.
fn key_of(incoming: &Incoming) -> Result<String, ApiError> {
    let id = incoming.segment(2)?;
    match check_id(&id) {
        Ok(()) => Ok(key_in(incoming.caller.namespace(), id)),
        Err(_) => Err(none(&id)),
    }
}

/// The key of a schedule by its id, which was checked.
fn key_in(namespace: &Namespace, id: String) -> String {
    namespace.qualify(id).expect("an id that was checked has no `/`").into_owned()
}

async fn read(state: &RouterState, key: &str) -> Result<Seen<Read>, ApiError> {
    let Seen { value, position, lag_ms } = state.system().entry(EntryKind::Schedule, key.into()).await?;
    let entry = value.ok_or_else(|| none(local(key)))?;
    let schedule = parse(key, entry.body.as_deref().unwrap_or_default())?;
    Ok(Seen { value: Read { schedule, revision: entry.revision }, position, lag_ms })
}

fn shown(state: &RouterState, status: StatusCode, key: &str, seen: &Seen<Schedule>) -> Response {
    let id = local(key);
    let mut response = json(status, &Shown::of(id, &seen.value, now()));
    let headers = response.headers_mut();
    let tag = format!("\"{}\"", seen.value.revision);
    headers.insert(header::ETAG, HeaderValue::try_from(tag).expect("digits in quotes"));
    if status == StatusCode::CREATED {
        let location = HeaderValue::try_from(format!("/v1/schedules/{id}"));
        headers.insert(header::LOCATION, location.expect("a schedule's id is visible ASCII"));
    }
    with_token(response, state.system().id(), seen.position)
}

/// Makes a schedule.
#[utoipa::path(post, path = "/v1/schedules", tag = "catalogue", operation_id = "createSchedule", request_body = schema::ScheduleRequest,
    responses((status = 201, body = schema::Schedule), (status = 200, description = "the same schedule again", body = schema::Schedule),
        (status = 400, body = schema::Problem), (status = 404, body = schema::Problem), (status = 409, body = schema::Problem),
        (status = 415, body = schema::Problem), (status = 422, body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn create(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let mut fields = Fields::of_body(incoming.json()?)?;
    let id = fields.string("id");
    if let Some(Err(message)) = id.as_deref().map(check_id) {
        fields.problem("id", message);
    }
    let mut draft = Draft::read(&mut fields, &incoming.caller)?;
    draft.agent_id = draft.agent_id.or_else(|| incoming.caller.agent_id().cloned());
    let spec = draft.spec(&mut fields, now());
    fields.done()?;
    let spec = spec.expect("a body without problems says what a schedule needs");
    let namespace = incoming.caller.namespace();
    Templates::new(&state, namespace).find(spec.template.to_string(), spec.version).await?;
    let key = key_in(namespace, id.unwrap_or_else(|| Uuid::now_v7().to_string()));
    let schedule = Schedule::new(spec, false, now());
    let body = schedule.checked_body()?;
    let change =
        EntryChange { kind: EntryKind::Schedule, key: key.as_str().into(), after: None, body: Some(body) };
    let Seen { value, position, lag_ms } = state.system().change_entry(change).await?;
    let (status, schedule) = match value {
        Changed::Made(_) => (StatusCode::CREATED, schedule),
        Changed::Already(Some(entry)) | Changed::Stale(Some(entry)) => {
            let there = parse(&key, entry.body.as_deref().unwrap_or_default())?;
            if there.spec != schedule.spec {
                return Err(conflict(format!(
                    "there is another schedule `{}`: change it, or give another id",
                    local(&key)
                )));
            }
            (StatusCode::OK, there)
        }
        Changed::Already(None) | Changed::Stale(None) => {
            return Err(ApiError::unavailable(Applied::No, "the schedule was deleted meanwhile"));
        }
    };
    Ok(shown(&state, status, &key, &Seen { value: schedule, position, lag_ms }))
}

/// Schedules, by id.
#[utoipa::path(get, path = "/v1/schedules", tag = "catalogue", operation_id = "listSchedules",
    params(("limit" = Option<u32>, Query, minimum = 1, maximum = 1000), ("cursor" = Option<String>, Query)),
    responses((status = 200, body = schema::ScheduleList), (status = 400, body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn list(State(state): State<RouterState>, incoming: Incoming) -> Result<Response, ApiError> {
    let mut query = incoming.query()?;
    let limit = query.limit();
    let after = Cursor::of(&mut query).map(|cursor| Arc::from(cursor.id));
    query.finish()?;
    let Seen { value: page, position, .. } =
        namespace::entries(&state, EntryKind::Schedule, incoming.caller.namespace(), after, limit).await?;
    let schedules =
        page.entries.iter().map(|entry| parse(&entry.key, entry.body.as_deref().unwrap_or_default()));
    let schedules: Vec<Schedule> = schedules.collect::<Result<_, _>>()?;
    let now = now();
    let items = page.entries.iter().zip(&schedules);
    let items = items.map(|(entry, schedule)| Shown::of(local(&entry.key), schedule, now)).collect();
    let last = page.entries.last().filter(|_| page.has_more);
    let next_cursor = last.map(|entry| Cursor { at: entry.at, id: entry.key.to_string() }.encode());
    let response = json(StatusCode::OK, &Page { items, next_cursor, unreachable_shards: Vec::new() });
    Ok(with_token(response, state.system().id(), position))
}

/// A schedule.
#[utoipa::path(get, path = "/v1/schedules/{id}", tag = "catalogue", operation_id = "getSchedule",
    params(("id" = String, Path)),
    responses((status = 200, body = schema::Schedule), (status = 404, body = schema::Problem)))]
pub(crate) async fn get(State(state): State<RouterState>, incoming: Incoming) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let key = key_of(&incoming)?;
    let Seen { value, position, lag_ms } = read(&state, &key).await?;
    Ok(shown(&state, StatusCode::OK, &key, &Seen { value: value.schedule, position, lag_ms }))
}

/// Changes what a schedule says; fields that are left out stay. Paused, it lets its slots pass.
#[utoipa::path(patch, path = "/v1/schedules/{id}", tag = "catalogue", operation_id = "changeSchedule", request_body = schema::SchedulePatch,
    params(("id" = String, Path), ("If-Match" = Option<String>, Header, description = "the `revision` that it must have, in quotes")),
    responses((status = 200, body = schema::Schedule), (status = 400, body = schema::Problem), (status = 404, body = schema::Problem),
        (status = 412, body = schema::Problem), (status = 415, body = schema::Problem), (status = 422, body = schema::Problem),
        (status = 503, body = schema::Problem)))]
pub(crate) async fn change(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let (key, text) = (key_of(&incoming)?, incoming.json()?);
    let mut templates = Templates::new(&state, incoming.caller.namespace());
    for turn in 0..TRIES_MAX {
        let Seen { value: Read { schedule, revision }, position, lag_ms } = read(&state, &key).await?;
        let mut fields = Fields::of_body(text)?;
        let draft = Draft::read(&mut fields, &incoming.caller)?;
        let spec = draft.change(&mut fields, &schedule.spec, now());
        fields.done()?;
        let spec = spec.expect("a body without problems changes a schedule");
        let is_so = spec == schedule.spec;
        // It may be so by an earlier turn, whose answer was lost.
        if turn == 0 || !is_so {
            check_precondition(&incoming, &schedule)?;
        }
        if is_so {
            return Ok(shown(&state, StatusCode::OK, &key, &Seen { value: schedule, position, lag_ms }));
        }
        if (&spec.template, spec.version) != (&schedule.spec.template, schedule.spec.version) {
            templates.find(spec.template.to_string(), spec.version).await?;
        }
        let changed = schedule.changed(spec, now());
        let body = Some(changed.checked_body()?);
        if let Some(seen) = put(&state, &key, Some(revision), body).await? {
            let Seen { position, lag_ms, .. } = seen;
            return Ok(shown(&state, StatusCode::OK, &key, &Seen { value: changed, position, lag_ms }));
        }
    }
    Err(contended(&key))
}

/// Deletes a schedule; its runs stay.
#[utoipa::path(delete, path = "/v1/schedules/{id}", tag = "catalogue", operation_id = "deleteSchedule",
    params(("id" = String, Path), ("If-Match" = Option<String>, Header, description = "the `revision` that it must have, in quotes")),
    responses((status = 200, description = "as it was", body = schema::Schedule), (status = 404, body = schema::Problem),
        (status = 412, body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn delete(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let key = key_of(&incoming)?;
    for _ in 0..TRIES_MAX {
        let Read { schedule, revision } = read(&state, &key).await?.value;
        check_precondition(&incoming, &schedule)?;
        if let Some(seen) = put(&state, &key, Some(revision), None).await? {
            let Seen { position, lag_ms, .. } = seen;
            return Ok(shown(&state, StatusCode::OK, &key, &Seen { value: schedule, position, lag_ms }));
        }
    }
    Err(contended(&key))
}

/// Refuses a change of another revision than the caller has seen.
fn check_precondition(incoming: &Incoming, schedule: &Schedule) -> Result<(), ApiError> {
    let Some(wanted) = incoming.headers.get(header::IF_MATCH) else { return Ok(()) };
    let wanted = wanted.to_str().unwrap_or("not ASCII");
    let is_met = wanted.split(',').any(|tag| tag.trim().trim_matches('"') == schedule.revision.to_string());
    if is_met || wanted == "*" {
        return Ok(());
    }
    let detail = format!("the schedule has the revision {} by now", schedule.revision);
    Err(conflict(detail).with_status(StatusCode::PRECONDITION_FAILED))
}

/// Writes an entry unless it has changed meanwhile; then none.
async fn put(
    state: &RouterState,
    key: &str,
    revision: Option<u64>,
    body: Option<Arc<str>>,
) -> Result<Option<Seen<()>>, ApiError> {
    let change = EntryChange { kind: EntryKind::Schedule, key: key.into(), after: revision, body };
    let Seen { value, position, lag_ms } = state.system().change_entry(change).await?;
    Ok(match value {
        Changed::Made(_) | Changed::Already(_) => Some(Seen { value: (), position, lag_ms }),
        Changed::Stale(_) => None,
    })
}

fn contended(key: &str) -> ApiError {
    let detail = format!("the schedule {} changes all the time: nothing was changed", local(key));
    ApiError::unavailable(Applied::No, detail)
}

/// Starts a run of the schedule now, beside its slots.
#[utoipa::path(post, path = "/v1/schedules/{id}/trigger", tag = "catalogue", operation_id = "triggerSchedule",
    params(("id" = String, Path), ("Idempotency-Key" = Option<String>, Header, description = "names the run")),
    responses((status = 201, body = schema::SubmitAnswer), (status = 200, description = "the same again", body = schema::SubmitAnswer),
        (status = 404, body = schema::Problem), (status = 422, body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn trigger(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let run_key = submission::idempotency_key(&incoming.headers)?;
    Fields::of_body(incoming.optional_json()?)?.done()?;
    let key = key_of(&incoming)?;
    let schedule = read(&state, &key).await?.value.schedule;
    let namespace = incoming.caller.namespace();
    let mut templates = Templates::to_run(&state, namespace);
    let found = templates.find(schedule.spec.template.to_string(), schedule.spec.version).await?;
    let run = run_key.map(|run_key| submission::id_of_key(namespace, run_key));
    let run = run.unwrap_or_else(|| submission::new_id(namespace));
    let body_hash = run_key.map(|_| xxh3_64(format!("schedule trigger\0{}", local(&key)).as_bytes()));
    let shard = state.shard_of(&run);
    let submission = schedule.submission(&key, run, None, body_hash, found);
    let submitted = workflows::submit_one(&shard, submission).await?;
    Ok(workflows::answer(&shard, &submitted, None))
}

/// A slot to come.
#[derive(Serialize)]
struct Slot {
    slot: String,
    workflow_id: String,
}

/// The next slots, whether it is paused or not.
#[utoipa::path(get, path = "/v1/schedules/{id}/next", tag = "catalogue", operation_id = "nextSlots",
    params(("id" = String, Path), ("n" = Option<u32>, Query, minimum = 1, maximum = 100, description = "how many; 5 without it")),
    responses((status = 200, body = schema::SlotList), (status = 400, body = schema::Problem), (status = 404, body = schema::Problem)))]
pub(crate) async fn next(State(state): State<RouterState>, incoming: Incoming) -> Result<Response, ApiError> {
    let mut query = incoming.query()?;
    let count = query.number("n", 1, NEXT_SLOTS_MAX).unwrap_or(NEXT_SLOTS);
    query.finish()?;
    let key = key_of(&incoming)?;
    let Seen { value: Read { schedule, .. }, position, .. } = read(&state, &key).await?;
    let trigger = compiled(&schedule)?;
    let count = usize::try_from(count).expect("at most 100");
    let slots = trigger.slots(schedule.standing.done.max(now()), Timestamp(i64::MAX), count);
    let items = slots
        .into_iter()
        .map(|slot| Slot { slot: slot.to_rfc3339(), workflow_id: run_id(&key, slot).local().to_owned() })
        .collect::<Vec<_>>();
    let response = json(StatusCode::OK, &Page { items, next_cursor: None, unreachable_shards: Vec::new() });
    Ok(with_token(response, state.system().id(), position))
}

fn compiled(schedule: &Schedule) -> Result<opcode_engine::schedule::Trigger, ApiError> {
    let damaged = |(_, message)| ApiError::unavailable(Applied::No, format!("it cannot fire: {message}"));
    schedule.spec.when.trigger().map_err(damaged)
}

/// What a backfill has done.
#[derive(Serialize)]
struct Backfilled {
    matched: usize,
    started: usize,
    already: usize,
}

/// Starts the runs of slots that have passed, from `since` until before `until`: those that have no
/// run yet. All at once, whatever the schedule says of overlaps.
#[utoipa::path(post, path = "/v1/schedules/{id}/backfill", tag = "catalogue", operation_id = "backfillSchedule", request_body = schema::BackfillRequest,
    params(("id" = String, Path)),
    responses((status = 200, body = schema::BackfillAnswer), (status = 400, body = schema::Problem), (status = 404, body = schema::Problem),
        (status = 415, body = schema::Problem), (status = 422, body = schema::Problem), (status = 503, body = schema::Problem)))]
pub(crate) async fn backfill(
    State(state): State<RouterState>,
    incoming: Incoming,
) -> Result<Response, ApiError> {
    incoming.query()?.finish()?;
    let (since, until) = range(Fields::of_body(incoming.json()?)?)?;
    let key = key_of(&incoming)?;
    let Seen { value: Read { schedule, .. }, position, .. } = read(&state, &key).await?;
    // What is not behind it yet, the schedule does by itself.
    let last = Timestamp(until.0.saturating_sub(1)).min(schedule.standing.done);
    let first = Timestamp(since.0.saturating_sub(1));
    let slots = compiled(&schedule)?.slots(first, last, BACKFILL_SLOTS_MAX + 1);
    if slots.len() > BACKFILL_SLOTS_MAX {
        let message =
            format!("there are more than {BACKFILL_SLOTS_MAX} slots until then: ask for fewer at a time");
        return Err(invalid(vec![Problem::at("/until", message)]));
    }
    let mut done = Backfilled { matched: slots.len(), started: 0, already: 0 };
    if !slots.is_empty() {
        let mut templates = Templates::to_run(&state, incoming.caller.namespace());
        let found = templates.find(schedule.spec.template.to_string(), schedule.spec.version).await?;
        for result in scheduler::start(&state, &key, &schedule, &found, &slots).await? {
            match result.map_err(submission::refused)?.created {
                true => done.started += 1,
                false => done.already += 1,
            }
        }
    }
    Ok(with_token(json(StatusCode::OK, &done), state.system().id(), position))
}

fn range(mut fields: Fields<'_>) -> Result<(Timestamp, Timestamp), ApiError> {
    let (since, until) = (fields.time("since"), fields.time("until"));
    for name in ["since", "until"] {
        if !fields.is_given(name) {
            fields.problem(name, "is missing: an RFC 3339 time");
        }
    }
    if let (Some(since), Some(until)) = (since, until)
        && since >= until
    {
        fields.problem("until", "is not after `since`");
    }
    fields.done()?;
    Ok((since.unwrap_or_default(), until.unwrap_or_default()))
}

/// What a template's `triggers` say; none when it has no schedule. Triggers of other kinds are not
/// looked at.
pub(crate) fn of_template(name: &str, text: &str) -> Result<Option<Spec>, ApiError> {
    let Some(raw) = Fields::of_body(text)?.raw("triggers") else { return Ok(None) };
    let mut fields = Fields::of_raw(raw, "/triggers").map_err(|problem| invalid(vec![problem]))?;
    if !["cron", "interval", "at"].iter().any(|name| fields.is_given(name)) {
        return Ok(None);
    }
    let mut draft = Draft::read(&mut fields, &Caller::default())?;
    draft.template = Some(name.into());
    if let Err(message) = check_id(name) {
        fields.problem("cron", format!("the template's name is its schedule's id, and {message}"));
    }
    let spec = draft.spec(&mut fields, now());
    let problems = fields.noted();
    if !problems.is_empty() {
        return Err(invalid(problems));
    }
    Ok(spec.map(|spec| Spec { version: None, ..spec }))
}

/// Whether a stored template may have made a schedule.
pub(crate) fn has_triggers(source: &str) -> bool {
    Fields::of_body(source).is_ok_and(|mut fields| fields.raw("triggers").is_some())
}

/// Refuses a template's schedule where people have made one with its name.
pub(crate) async fn check_free(state: &RouterState, key: &str) -> Result<(), ApiError> {
    let entry = state.system().entry(EntryKind::Schedule, key.into()).await?.value;
    let Some(body) = entry.and_then(|entry| entry.body) else { return Ok(()) };
    if parse(key, &body)?.by_template { Ok(()) } else { Err(taken(key)) }
}

fn taken(key: &str) -> ApiError {
    conflict(format!(
        "there is a schedule `{}` that no template has made: delete it, or give the template another name",
        local(key)
    ))
}

/// Makes the schedule of a template what the template says, or has it go with its triggers. Whether
/// it is paused stays.
pub(crate) async fn follow_template(
    state: &RouterState,
    key: &str,
    spec: Option<Spec>,
) -> Result<(), ApiError> {
    for _ in 0..TRIES_MAX {
        let entry = state.system().entry(EntryKind::Schedule, key.into()).await?.value;
        let revision = entry.as_ref().map(|entry| entry.revision);
        let there = entry.and_then(|entry| entry.body).map(|body| parse(key, &body)).transpose()?;
        let body = match (there, spec.clone()) {
            (None, None) => return Ok(()),
            (None, Some(spec)) => Some(Schedule::new(spec, true, now()).checked_body()?),
            (Some(there), None) if !there.by_template => return Ok(()),
            (Some(there), Some(_)) if !there.by_template => return Err(taken(key)),
            (Some(_), None) => None,
            (Some(there), Some(spec)) => {
                let spec = Spec { paused: there.spec.paused, ..spec };
                if spec == there.spec {
                    return Ok(());
                }
                Some(there.changed(spec, now()).checked_body()?)
            }
        };
        if put(state, key, revision, body).await?.is_some() {
            return Ok(());
        }
    }
    Err(contended(key))
}
