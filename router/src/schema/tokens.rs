//! Tokens as OpenAPI schemas.

use utoipa::ToSchema;

#[derive(ToSchema)]
pub struct TokenRequest {
    /// For those who read the list.
    pub name: Option<String>,
    /// At least one of `read`, `run`, `define`, `decide`, `admin`, which is all of them and more.
    pub scopes: Vec<String>,
    /// The agent that its bearer is: what it asks for is asked in that name, and in no other.
    pub agent_id: Option<String>,
    /// The namespace that its bearer is confined to. Without it that of the request, unless it is `default`.
    pub namespace: Option<String>,
    /// From then on it is not taken.
    pub expires_at: Option<String>,
}

#[derive(ToSchema)]
pub struct NewToken {
    pub token_id: String,
    /// What to show as `Authorization: Bearer …`. It is not kept: nobody can show it again.
    pub token: String,
    pub name: Option<String>,
    pub scopes: Vec<String>,
    pub agent_id: Option<String>,
    /// The namespace that its bearer is confined to; of the whole cluster without one.
    pub namespace: Option<String>,
    pub created_at: String,
    pub expires_at: Option<String>,
}

#[derive(ToSchema)]
pub struct Token {
    pub token_id: String,
    pub name: Option<String>,
    pub scopes: Vec<String>,
    pub agent_id: Option<String>,
    /// The namespace that its bearer is confined to; of the whole cluster without one.
    pub namespace: Option<String>,
    pub created_at: String,
    pub expires_at: Option<String>,
}

#[derive(ToSchema)]
pub struct TokenList {
    pub items: Vec<Token>,
    pub next_cursor: Option<String>,
}

#[derive(ToSchema)]
pub struct TokenDeleted {
    pub token_id: String,
    pub deleted: bool,
}
