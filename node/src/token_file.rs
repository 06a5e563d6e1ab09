//! The file of bearer tokens, as a node that asks for them and a client that shows one read it.

use std::path::Path;

use anyhow::{Context, Result};
use opcode_router::Tokens;

use crate::secret_file;

/// All tokens of a file, for a node.
pub(crate) fn all(file: &Path) -> Result<Tokens> {
    Tokens::parse(&secret_file::read(file)?).map_err(anyhow::Error::msg).with_context(|| shown(file))
}

/// The first token of a file, to show.
pub(crate) fn first(file: &Path) -> Result<String> {
    let text = secret_file::read(file)?;
    Tokens::first(&text).map(str::to_owned).map_err(anyhow::Error::msg).with_context(|| shown(file))
}

fn shown(file: &Path) -> String {
    file.display().to_string()
}
