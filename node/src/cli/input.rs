//! What users give: files, JSON on the command line or in a file, times.

use std::io::Read;
use std::path::Path;

use serde_json::Value;

use super::failure::Failure;

/// Largest file that is read; the node takes no more in one body.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The text of a file, `-` for stdin.
pub(crate) fn read_file(name: &str) -> Result<String, Failure> {
    let mut text = String::new();
    let read = if name == "-" {
        std::io::stdin().lock().take(FILE_BYTES_MAX + 1).read_to_string(&mut text)
    } else {
        std::fs::File::open(name).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text))
    };
    read.map_err(|error| Failure::local(format!("{name}: {error}")))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(Failure::local(format!("{name}: larger than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

/// JSON as a flag's value: `@file` reads a file.
pub(crate) fn json(flag: &str, text: &str) -> Result<Value, Failure> {
    let (name, text) = match text.strip_prefix('@') {
        Some(file) => (format!("{flag} {file}"), read_file(file)?),
        None => (flag.to_owned(), text.to_owned()),
    };
    serde_json::from_str(&text).map_err(|error| Failure::Usage(format!("{name}: not JSON: {error}")))
}

/// The same, where a text that is no JSON stands for itself.
pub(crate) fn json_or_text(flag: &str, text: &str) -> Result<Value, Failure> {
    if text.starts_with('@') {
        return json(flag, text);
    }
    Ok(serde_json::from_str(text).unwrap_or_else(|_| Value::from(text)))
}

/// Whether a name is meant as a file: it is one, or it looks like one.
pub(crate) fn is_file(name: &str) -> bool {
    name == "-" || Path::new(name).is_file() || name.contains('/') || name.ends_with(".json")
}

/// `name=value` or `name:value`.
pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    text.split_once(['=', ':'])
        .filter(|(name, _)| !name.is_empty())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .ok_or_else(|| "a label is NAME=VALUE".to_owned())
}

/// A time: RFC 3339, or how long ago (`2h`, `30m`).
pub(crate) fn time(text: &str) -> Result<String, String> {
    if chrono::DateTime::parse_from_rfc3339(text).is_ok() {
        return Ok(text.to_owned());
    }
    let ago = humantime::parse_duration(text)
        .map_err(|_| "give an RFC 3339 time, or how long ago: 2h, 30m".to_owned())?;
    let ago = chrono::Duration::from_std(ago).map_err(|error| error.to_string())?;
    let at = chrono::Utc::now().checked_sub_signed(ago).ok_or("that is too long ago")?;
    Ok(at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_times() {
        assert_eq!(label("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(label("=b").is_err() && label("ab").is_err());
        assert!(time("2h").is_ok_and(|at| at.ends_with('Z')));
        assert_eq!(time("2026-01-01T00:00:00Z"), Ok("2026-01-01T00:00:00Z".into()));
        assert!(time("soon").is_err());
    }
}
