//! Params of a call, read with their types; what does not fit is the caller's fault.

use std::borrow::Cow;

use opcode_engine::definition::parse_duration_ms;
use opcode_engine::{Code, Fault, catalogue};
use serde_json::Value;

/// The params of one call of one action.
#[derive(Clone, Copy)]
pub(super) struct Params<'a> {
    action: &'a str,
    values: &'a Value,
}

impl<'a> Params<'a> {
    pub(super) fn new(action: &'a str, values: &'a Value) -> Self {
        Self { action, values }
    }

    /// The value, when it is given and not null.
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.given(name).filter(|v| !v.is_null())
    }

    /// The value, null included, under its name or one that the catalogue has for it.
    pub(super) fn given(&self, name: &str) -> Option<&'a Value> {
        let values = self.values.as_object()?;
        values.get(name).or_else(|| {
            let param = catalogue::find(self.action)?.params.iter().find(|p| p.name == name)?;
            param.aliases.iter().find_map(|alias| values.get(*alias))
        })
    }

    pub(super) fn require(&self, name: &str) -> Result<&'a Value, Fault> {
        self.given(name).ok_or_else(|| self.invalid(name, "is required"))
    }

    pub(super) fn str(&self, name: &str) -> Result<Option<&'a str>, Fault> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(_) => Err(self.invalid(name, "must be a string")),
        }
    }

    /// A string that must be there and not be empty.
    pub(super) fn require_str(&self, name: &str) -> Result<&'a str, Fault> {
        match self.str(name)? {
            Some(s) if !s.is_empty() => Ok(s),
            Some(_) => Err(self.invalid(name, "is empty")),
            None => Err(self.invalid(name, "is required")),
        }
    }

    pub(super) fn bool(&self, name: &str, default: bool) -> Result<bool, Fault> {
        match self.get(name) {
            None => Ok(default),
            Some(Value::Bool(b)) => Ok(*b),
            Some(_) => Err(self.invalid(name, "must be true or false")),
        }
    }

    pub(super) fn u64(&self, name: &str, default: u64) -> Result<u64, Fault> {
        match self.get(name) {
            None => Ok(default),
            Some(v) => v.as_u64().ok_or_else(|| self.invalid(name, "must be a whole number, 0 or more")),
        }
    }

    /// A string as it is, anything else as JSON.
    pub(super) fn require_text(&self, name: &str) -> Result<Cow<'a, str>, Fault> {
        Ok(text_of(self.require(name)?))
    }

    /// A duration like `30s` or `1m30s`, in milliseconds, more than 0.
    pub(super) fn duration_ms(&self, name: &str) -> Result<Option<u64>, Fault> {
        let Some(text) = self.str(name)? else { return Ok(None) };
        match parse_duration_ms(text) {
            Ok(0) => Err(self.invalid(name, "must be more than 0")),
            Ok(duration_ms) => Ok(Some(duration_ms)),
            Err(e) => Err(self.invalid(name, &format!("is not a duration: {e}"))),
        }
    }

    pub(super) fn invalid(&self, name: &str, what: &str) -> Fault {
        Fault::new(Code::ValidationError, format!("{}: `{name}` {what}", self.action))
    }
}

/// A string as it is, anything else as JSON text.
pub(super) fn text_of(value: &Value) -> Cow<'_, str> {
    match value {
        Value::String(s) => Cow::Borrowed(s),
        other => Cow::Owned(other.to_string()),
    }
}
