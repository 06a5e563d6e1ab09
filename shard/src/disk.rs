//! Room on a disk, looked at before much is written: what fills a disk to its last byte takes the
//! log down with it, and the node.

use std::path::Path;

use crate::error::ShardError;

/// Bytes that stay free for the log whatever else is written.
pub(crate) const SPARE_BYTES: u64 = 64 * 1024 * 1024;

/// Refuses when `bytes` more in `folder` would leave less than [`SPARE_BYTES`].
pub(crate) fn check_room(folder: &Path, bytes: u64) -> Result<(), ShardError> {
    let failed = |source: nix::errno::Errno| ShardError::Io {
        what: format!("looking at the room in {}", folder.display()),
        source: source.into(),
    };
    let disk = nix::sys::statvfs::statvfs(folder).map_err(failed)?;
    let free = disk.blocks_available().saturating_mul(disk.fragment_size());
    if free < bytes.saturating_add(SPARE_BYTES) {
        return Err(ShardError::Io {
            what: format!(
                "{}: {bytes} bytes are to be written and {free} are free, of which {SPARE_BYTES} are the log's",
                folder.display()
            ),
            source: std::io::ErrorKind::StorageFull.into(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_before_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        check_room(dir.path(), 0).unwrap();
        let refused = check_room(dir.path(), u64::MAX / 2).unwrap_err();
        assert!(
            matches!(&refused, ShardError::Io { source, .. }
            if source.kind() == std::io::ErrorKind::StorageFull),
            "{refused}"
        );
        assert!(check_room(&dir.path().join("none"), 0).is_err());
    }
}
