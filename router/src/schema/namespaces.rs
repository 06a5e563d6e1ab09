//! Namespaces as OpenAPI schemas.

use utoipa::ToSchema;

#[derive(ToSchema)]
pub struct Namespace {
    /// `[a-z0-9][a-z0-9-]{0,62}`
    pub name: String,
    /// Absent for `default`, which is always there.
    pub created_at: Option<String>,
    /// It is being deleted, and takes no calls.
    pub deleting: bool,
}

#[derive(ToSchema)]
pub struct NamespaceList {
    pub items: Vec<Namespace>,
    pub next_cursor: Option<String>,
}

#[derive(ToSchema)]
pub struct NamespaceDeleted {
    pub name: String,
    pub deleted: bool,
}
