//! Damage to the files of a node that does not run: bits that flip, ends that are missing.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

/// Folders below a node's that are searched.
const DEPTH_MAX: usize = 4;
/// Tries to find a byte that is not zero: most of a log that is hardly used is zeros.
const BYTE_TRIES_MAX: usize = 200;

/// Which files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Files {
    /// Those of the log.
    Log,
    /// The tables and what belongs to them, copies for others and write-ahead files included.
    Tables,
}

/// What is done to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    Flip,
    Truncate,
}

/// Damages one file of those; what was done, for people.
pub(crate) fn damage(folder: &Path, files: Files, damage: Damage, rng: &mut StdRng) -> Result<String> {
    let mut found = Vec::new();
    find(folder, 0, &mut found)?;
    found.retain(|(path, bytes)| *bytes > 0 && is_of(path.strip_prefix(folder).unwrap_or(path), files));
    // In an order that is the same for the same seed.
    found.sort();
    let (path, bytes) = found.choose(rng).with_context(|| format!("no {files:?} in {}", folder.display()))?;
    let name = path.strip_prefix(folder).unwrap_or(path).display();
    match damage {
        Damage::Flip => {
            let (at, bit) = flip(path, *bytes, rng)?;
            Ok(format!("bit {bit} of byte {at} of {bytes} of {name} flipped"))
        }
        Damage::Truncate => {
            let left = rng.random_range(0..*bytes);
            File::options().write(true).open(path)?.set_len(left)?;
            Ok(format!("{name} cut from {bytes} bytes to {left}"))
        }
    }
}

/// Flips a bit of a byte that is not zero, if one is found; where.
fn flip(path: &Path, bytes: u64, rng: &mut StdRng) -> Result<(u64, u32)> {
    let file = File::options().read(true).write(true).open(path)?;
    let mut byte = [0];
    let mut at = 0;
    for _ in 0..BYTE_TRIES_MAX {
        at = rng.random_range(0..bytes);
        file.read_exact_at(&mut byte, at)?;
        if byte[0] != 0 {
            break;
        }
    }
    let bit = rng.random_range(0..8);
    byte[0] ^= 1 << bit;
    file.write_all_at(&byte, at)?;
    Ok((at, bit))
}

/// Whether a file is one of those, by where it lies in the node's folder.
fn is_of(path: &Path, files: Files) -> bool {
    let top = path.components().next().map(|part| part.as_os_str().to_string_lossy().into_owned());
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    match files {
        // What is free to be used again is not part of the log.
        Files::Log => top.as_deref() == Some("log") && name.starts_with("seg"),
        // The index of a write-ahead file is made anew at each start.
        Files::Tables => top.as_deref() == Some("shards") && name.contains(".db") && !name.ends_with("-shm"),
    }
}

fn find(folder: &Path, depth: usize, found: &mut Vec<(PathBuf, u64)>) -> Result<()> {
    ensure!(depth <= DEPTH_MAX, "{} lies too deep", folder.display());
    for entry in std::fs::read_dir(folder)? {
        let (entry, path) = entry.map(|entry| (entry.metadata(), entry.path()))?;
        match entry? {
            data if data.is_dir() => find(&path, depth + 1, found)?,
            data if data.is_file() => found.push((path, data.len())),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn files_are_damaged_and_others_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log/seg-1");
        let tables = dir.path().join("shards/3/tables.db");
        for path in [&log, &tables, &dir.path().join("log/free-2"), &dir.path().join("node.json")] {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, [0, 0, 7, 0]).unwrap();
        }
        let mut rng = StdRng::seed_from_u64(1);
        damage(dir.path(), Files::Log, Damage::Flip, &mut rng).unwrap();
        damage(dir.path(), Files::Tables, Damage::Truncate, &mut rng).unwrap();
        let flipped = std::fs::read(&log).unwrap();
        assert_eq!((flipped.len(), (flipped[2] ^ 7).count_ones()), (4, 1));
        assert!(std::fs::metadata(&tables).unwrap().len() < 4);
        for same in ["log/free-2", "node.json"] {
            assert_eq!(std::fs::read(dir.path().join(same)).unwrap(), [0, 0, 7, 0]);
        }
        std::fs::remove_file(&log).unwrap();
        damage(dir.path(), Files::Log, Damage::Flip, &mut rng).unwrap_err();
    }
}
