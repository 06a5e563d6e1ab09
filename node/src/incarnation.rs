//! Which start of the node this is: a counter in the data folder that grows with every start, so
//! that others know a process from its past, whatever the clock says.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use crate::shards::write_durably;
use crate::transport::Start;

/// Where the counter is, below the data folder.
const FILE: &str = "incarnation";

/// Counts one start more, durably before anybody is told of it.
pub(crate) fn next(data_dir: &Path) -> Result<Start> {
    let file = data_dir.join(FILE);
    let last = match std::fs::read_to_string(&file) {
        Ok(text) => text.trim().parse().with_context(|| {
            format!(
                "{}: damaged; write a number into it that is above every one that this node had",
                file.display()
            )
        })?,
        // Builds without the file told the time, and nothing greater.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => now_ms(),
        Err(error) => return Err(error).with_context(|| format!("{}: cannot be read", file.display())),
    };
    let incarnation = u64::checked_add(last, 1).context("no node starts so often")?;
    write_durably(&file, format!("{incarnation}\n").as_bytes())?;
    Ok(Start { incarnation, process: rand::random() })
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_start_is_later_than_the_one_before_whatever_the_clock_says() {
        let home = tempfile::tempdir().unwrap();
        let first = next(home.path()).unwrap();
        // As if the clock had been far ahead then.
        std::fs::write(home.path().join(FILE), format!("{}", u64::MAX / 2)).unwrap();
        let second = next(home.path()).unwrap();
        let third = next(home.path()).unwrap();
        assert!(first.incarnation < second.incarnation);
        assert_eq!(third.incarnation, second.incarnation + 1);
        assert_ne!(second.process, third.process);
    }

    #[test]
    fn a_damaged_counter_is_told_and_left() {
        let home = tempfile::tempdir().unwrap();
        for text in ["", "12x", "-1"] {
            std::fs::write(home.path().join(FILE), text).unwrap();
            let error = format!("{:#}", next(home.path()).unwrap_err());
            assert!(error.contains("damaged"), "{error}");
            assert_eq!(std::fs::read_to_string(home.path().join(FILE)).unwrap(), text);
        }
    }
}
