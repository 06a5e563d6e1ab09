//! From the body of a submission to a [`Submission`] that a shard takes: fields read strictly,
//! the definition compiled or the template found, an id given or made.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use axum::http::{HeaderMap, StatusCode};
use opcode_engine::definition::{DEFINITION_BYTES_MAX, Definition};
use opcode_engine::ids::{Timestamp, WorkflowId};
use opcode_engine::namespace::Namespace;
use opcode_engine::{Code, Problem};
use opcode_shard::CallError;
use opcode_shard::handle::Submission;
use opcode_shard::remote::Freshness;
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use crate::access::Caller;
use crate::error::ApiError;
use crate::state::RouterState;
use crate::wire::{Fields, below, invalid};

/// Longest idempotency key, in bytes.
const KEY_BYTES_MAX: usize = 255;
/// Where a submission's definition is in its body.
const DEFINITION: &str = "/definition";

/// A template as found: its compiled definition, the name that it is kept under, and its version.
#[derive(Clone)]
pub(crate) struct Found {
    pub(crate) definition: Arc<Definition>,
    pub(crate) name: Arc<str>,
    pub(crate) version: Arc<str>,
}

/// Templates of one namespace looked up for one request, each once.
pub(crate) struct Templates<'s> {
    state: &'s RouterState,
    namespace: &'s Namespace,
    found: HashMap<(String, Option<u32>), Result<Found, ApiError>>,
    /// A paused one is not found.
    to_run: bool,
}

impl<'s> Templates<'s> {
    pub(crate) fn new(state: &'s RouterState, namespace: &'s Namespace) -> Self {
        Self { state, namespace, found: HashMap::new(), to_run: false }
    }

    /// Templates that are to be run: those that are paused are refused.
    pub(crate) fn to_run(state: &'s RouterState, namespace: &'s Namespace) -> Self {
        Self { to_run: true, ..Self::new(state, namespace) }
    }

    pub(crate) async fn find(&mut self, name: String, version: Option<u32>) -> Result<Found, ApiError> {
        let key = (name, version);
        if let Some(known) = self.found.get(&key) {
            return known.clone();
        }
        let found = find_template(self.state, self.namespace, &key.0, version, self.to_run).await;
        self.found.insert(key, found.clone());
        found
    }

    /// For a run of this id: one that is there already is found again, also while it is paused.
    async fn find_for(
        &mut self,
        id: Option<&WorkflowId>,
        name: String,
        version: Option<u32>,
    ) -> Result<Found, ApiError> {
        let found = self.find(name.clone(), version).await;
        let is_paused = found.as_ref().is_err_and(|error| error.status() == StatusCode::CONFLICT);
        let Some(id) = id.filter(|_| is_paused) else { return found };
        match self.state.shard_of(id).status(id, Freshness::Strong).await {
            Ok(_) => find_template(self.state, self.namespace, &name, version, false).await,
            Err(CallError::NotFound(_)) => found,
            Err(error) => Err(error.into()),
        }
    }
}

async fn find_template(
    state: &RouterState,
    namespace: &Namespace,
    name: &str,
    version: Option<u32>,
    to_run: bool,
) -> Result<Found, ApiError> {
    let Some(kept) = namespace.qualify(name) else { return Err(no_template(name, version)) };
    let system = state.system();
    let found = match to_run {
        true => system.template_to_run(&kept, version).await.map_err(paused)?,
        false => system.template(&kept, version).await?.value,
    };
    let Some(record) = found else {
        return Err(no_template(name, version));
    };
    let definition = state.definitions().compile_stored(&record.source).await.map_err(|invalid| {
        let error = ApiError::from(invalid);
        tracing::error!(template = name, detail = error.detail(), "a stored template does not compile");
        ApiError::unavailable(crate::error::Applied::No, format!("the stored template {name} is damaged"))
    })?;
    Ok(Found { definition, name: record.name, version: format!("v{}", record.version).into() })
}

/// A template that is paused is a conflict to whoever wants to run it.
fn paused(error: CallError) -> ApiError {
    match error {
        CallError::Rejected(rejected) if rejected.code == Code::ActionUnavailable => {
            crate::schedule::conflict(rejected.message)
        }
        other => other.into(),
    }
}

pub(crate) fn no_template(name: &str, version: Option<u32>) -> ApiError {
    match version {
        Some(version) => {
            ApiError::not_found(format!("there is no version v{version} of a template `{name}`"))
        }
        None => ApiError::not_found(format!("there is no template `{name}`")),
    }
}

/// `v3`, `"3"` or `3`.
pub(crate) fn parse_version(text: &str) -> Result<u32, String> {
    let digits = text.strip_prefix('v').unwrap_or(text);
    match digits.parse::<u32>() {
        Ok(version) if version > 0 && digits.bytes().all(|b| b.is_ascii_digit()) => Ok(version),
        _ => Err("a version is `v1`, `v2`, …".into()),
    }
}

/// The header `Idempotency-Key`, checked.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let mut all = headers.get_all("idempotency-key").iter();
    let Some(value) = all.next() else { return Ok(None) };
    match value.to_str() {
        Ok(key) if all.next().is_none() && !key.is_empty() && key.len() <= KEY_BYTES_MAX => Ok(Some(key)),
        _ => {
            let message = "the header Idempotency-Key must be given once, with 1 to 255 visible characters";
            Err(ApiError::malformed(Problem::at("", message)))
        }
    }
}

/// The id of a run that is named by an idempotency key alone: the same key in the same namespace, the same
/// shard.
pub(crate) fn id_of_key(namespace: &Namespace, key: &str) -> WorkflowId {
    let mut digest = Sha256::new();
    digest.update(b"opcode idempotency key\0");
    digest.update(key.as_bytes());
    let mut bytes = [0u8; 16];
    bytes.copy_from_slice(&digest.finalize()[..16]);
    // Version 8 (custom) and the RFC 9562 variant, so that it reads as a UUID like any other.
    bytes[6] = (bytes[6] & 0x0f) | 0x80;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    parse_own(&Uuid::from_bytes(bytes).to_string()).in_namespace(namespace)
}

/// A new id of a namespace, ordered by time.
pub(crate) fn new_id(namespace: &Namespace) -> WorkflowId {
    parse_own(Uuid::now_v7().hyphenated().encode_lower(&mut Uuid::encode_buffer())).in_namespace(namespace)
}

fn parse_own(text: &str) -> WorkflowId {
    WorkflowId::parse(text).expect("a UUID is a workflow id")
}

/// A body's fields, read.
struct Draft<'a> {
    id: Option<WorkflowId>,
    template: Option<String>,
    version: Option<u32>,
    definition: Option<&'a RawValue>,
    params: Value,
    agent_id: Option<Arc<str>>,
    context: Value,
    labels: BTreeMap<String, String>,
    start_at: Option<Timestamp>,
}

fn read<'a>(mut fields: Fields<'a>, caller: &Caller) -> Result<(Draft<'a>, Vec<Problem>), ApiError> {
    let id = fields
        .string("id")
        .and_then(|text| WorkflowId::parse(&text).map_err(|message| fields.problem("id", message)).ok())
        .map(|id| id.in_namespace(caller.namespace()));
    let template = fields.name("template");
    let version = version(&mut fields);
    let draft = Draft {
        id,
        template,
        version,
        definition: fields.raw("definition"),
        params: fields.object("params").unwrap_or_else(|| Value::Object(serde_json::Map::new())),
        agent_id: fields.agent(caller)?,
        context: fields.object("context").unwrap_or(Value::Null),
        labels: fields.labels(),
        start_at: fields.time("start_at"),
    };
    match (&draft.template, draft.definition) {
        (Some(_), Some(_)) => fields.problem("template", "is given beside `definition`; give one of them"),
        (None, None) => fields.problem("definition", "is missing; give `definition` or `template`"),
        (None, Some(_)) if draft.version.is_some() => {
            fields.problem("version", "is of a template; give `template` too");
        }
        (Some(_), None) | (None, Some(_)) => {}
    }
    Ok((draft, fields.finish()))
}

/// A body's `version`, as text or number.
pub(crate) fn version(fields: &mut Fields<'_>) -> Option<u32> {
    let raw = fields.raw("version")?;
    parse_version(raw.get().trim_matches('"')).map_err(|message| fields.problem("version", message)).ok()
}

/// The submission that a body asks for.
pub(crate) async fn prepare(
    templates: &mut Templates<'_>,
    fields: Fields<'_>,
    caller: &Caller,
    key: Option<&str>,
) -> Result<Submission, ApiError> {
    let namespace = caller.namespace();
    let (draft, mut problems) = read(fields, caller)?;
    if draft.definition.is_some_and(|raw| raw.get().len() > DEFINITION_BYTES_MAX) {
        let detail = format!("the definition is larger than {DEFINITION_BYTES_MAX} bytes");
        return Err(ApiError::too_large(detail));
    }
    let (definition, template) = match (draft.definition, draft.template.clone()) {
        (Some(raw), _) => match templates.state.definitions().compile(templates.state, raw.get()).await {
            Ok(definition) => (Some(definition), None),
            Err(found) => {
                let all = problems.into_iter();
                problems = all.chain(found.problems.into_iter().map(|p| below(DEFINITION, p))).collect();
                return Err(ApiError::invalid(found.code, problems));
            }
        },
        (None, Some(name)) if problems.is_empty() => {
            let id = draft.id.clone().or_else(|| key.map(|key| id_of_key(namespace, key)));
            let found = templates.find_for(id.as_ref(), name, draft.version).await?;
            (Some(found.definition), Some((found.name, found.version)))
        }
        (None, _) => (None, None),
    };
    if !problems.is_empty() {
        return Err(invalid(problems));
    }
    let definition = definition.expect("a body without problems has a definition or a template");
    let is_named = draft.id.is_some() || key.is_some();
    let body_hash = is_named.then(|| body_hash(&draft, &definition));
    let id = draft.id.or_else(|| key.map(|key| id_of_key(namespace, key)));
    let id = id.unwrap_or_else(|| new_id(namespace));
    Ok(Submission {
        id,
        body_hash,
        request: body_hash.map(|_| request()),
        definition,
        template,
        params: draft.params,
        agent_id: draft.agent_id,
        context: draft.context,
        labels: draft.labels,
        start_at: draft.start_at,
        parent: None,
    })
}

/// A name for a request, never to be met again: a node sends the request on when a leader dies with it in
/// its hands, and so is told what the first try has made.
pub(crate) fn request() -> u64 {
    rand::random()
}

/// A hash of what was asked for, whatever the order of fields and the white space. Of a template
/// its name and the version asked for, not the one found: a retry stays the same request when
/// the template has a new version meanwhile.
fn body_hash(draft: &Draft<'_>, definition: &Definition) -> u64 {
    let inline = draft.definition.is_some().then_some(definition.hash.0);
    let parts = (
        &draft.template,
        &draft.version,
        inline,
        &draft.params,
        &draft.agent_id,
        &draft.context,
        &draft.labels,
        draft.start_at.map(|at| at.0),
    );
    xxh3_64(&serde_json::to_vec(&parts).expect("a body is JSON"))
}

/// What a shard's refusal of a submission is: an id that was used with another body is 422 here.
pub(crate) fn refused(rejected: opcode_engine::Rejected) -> ApiError {
    let is_conflict = rejected.code == Code::Conflict;
    let error = ApiError::from(rejected);
    if is_conflict { error.with_status(axum::http::StatusCode::UNPROCESSABLE_ENTITY) } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_names_one_id() {
        let id = |key| id_of_key(&Namespace::default(), key);
        assert_eq!(id("order-17"), id("order-17"));
        assert_ne!(id("order-17"), id("order-18"));
        assert_eq!(id("order-17").as_str().as_bytes()[14], b'8');
        let team = Namespace::parse("team").expect("a name");
        assert_eq!(id_of_key(&team, "order-17"), id("order-17").in_namespace(&team));
    }

    #[test]
    fn versions() {
        assert_eq!(parse_version("v3"), Ok(3));
        assert_eq!(parse_version("3"), Ok(3));
        for wrong in ["", "v", "v0", "0", "+3", "v+3", "latest", "99999999999"] {
            assert!(parse_version(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_body_needs_one_of_definition_and_template() {
        let problems = |text: &str| {
            let fields = Fields::of_body(text).expect("an object");
            let (_, problems) = read(fields, &Caller::default()).expect("anybody may name an agent");
            problems.into_iter().map(|p| p.pointer).collect::<Vec<_>>()
        };
        assert_eq!(problems("{}"), ["/definition"]);
        assert_eq!(problems(r#"{"template":"a","definition":{}}"#), ["/template"]);
        assert_eq!(problems(r#"{"definition":{},"version":"v1"}"#), ["/version"]);
        assert_eq!(problems(r#"{"template":"a","version":2,"start_at":"soon"}"#), ["/start_at"]);
        assert_eq!(problems(r#"{"template":"a","id":"no spaces"}"#), ["/id"]);
    }
}
