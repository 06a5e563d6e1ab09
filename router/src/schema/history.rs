//! What is read and written of exports, imports and retention.

use utoipa::ToSchema;

/// What came of an import.
#[derive(ToSchema)]
pub struct ImportAnswer {
    pub imported: u64,
    /// They were there already, the same.
    pub unchanged: u64,
    /// They have not ended, and only those that have were asked for.
    pub skipped: u64,
    pub failed: u64,
    /// One for each line that is not empty, in order.
    pub results: Vec<ImportResult>,
}

/// What came of a line; where it failed, with the fields of a problem document.
#[derive(ToSchema)]
pub struct ImportResult {
    /// Counted from 1.
    pub line: u64,
    /// 201 imported, 200 unchanged or skipped, else why not.
    pub status: u16,
    /// `run` or `template`.
    pub kind: Option<String>,
    /// A workflow's id, or `NAME@v3`.
    pub id: Option<String>,
    pub shard: Option<u32>,
    /// `imported`, `unchanged` or `skipped`.
    pub outcome: Option<String>,
    pub code: Option<String>,
    pub detail: Option<String>,
}

/// At least one of both, `90d`, `720h`; with both, the archive comes first.
#[derive(ToSchema)]
pub struct RetentionRequest {
    /// How long after its end a run is written into an archive, and leaves the cluster.
    pub archive_after: Option<String>,
    /// How long after its end nothing of it is kept, archives included.
    pub delete_after: Option<String>,
}

#[derive(ToSchema)]
pub struct Retention {
    /// None: for runs whose template has no rule of its own.
    pub template: Option<String>,
    /// As it was said.
    pub archive_after: Option<String>,
    pub delete_after: Option<String>,
    /// None where there is no rule: all is kept.
    pub updated_at: Option<String>,
}

#[derive(ToSchema)]
pub struct RetentionList {
    /// None while runs of templates without a rule are all kept.
    pub default: Option<Retention>,
    /// Templates that have a rule of their own, by name.
    pub templates: Vec<Retention>,
}
