//! Files that hold a secret: nobody but their owner may read them.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Largest secret file, in bytes.
const BYTES_MAX: u64 = 1024 * 1024;

/// Refuses a file that others may read, with what to do.
pub(crate) fn check(file: &Path) -> Result<()> {
    open(file).map(drop)
}

/// Reads a file, unless others may read it too.
pub(crate) fn read(file: &Path) -> Result<String> {
    let opened = open(file)?;
    let mut text = String::new();
    let read = opened.take(BYTES_MAX + 1).read_to_string(&mut text);
    read.with_context(|| format!("{}: cannot be read", file.display()))?;
    if text.len() as u64 > BYTES_MAX {
        bail!("{}: larger than {BYTES_MAX} bytes", file.display());
    }
    Ok(text)
}

/// Makes a file that its owner alone may read; refuses to write over one that is there.
pub(crate) fn create(file: &Path, bytes: &[u8]) -> Result<()> {
    let write = || {
        let mut made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
        made.write_all(bytes)?;
        made.sync_all()
    };
    write().with_context(|| format!("{}: cannot be made", file.display()))
}

/// Opened first and looked at then, so that what is looked at is what is read.
fn open(file: &Path) -> Result<File> {
    let opened = File::open(file).with_context(|| format!("{}: cannot be read", file.display()))?;
    let about = opened.metadata().with_context(|| format!("{}: cannot be read", file.display()))?;
    if !about.is_file() {
        bail!("{}: not a file", file.display());
    }
    let mode = about.mode() & 0o777;
    if mode & 0o077 != 0 {
        bail!("{}: others may read it (mode {mode:03o}): `chmod 600 {}`", file.display(), file.display());
    }
    Ok(opened)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_secret_is_its_owners_alone() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("secret");
        create(&file, b"abc").unwrap();
        assert_eq!(read(&file).unwrap(), "abc");
        create(&file, b"def").unwrap_err();
        for mode in [0o640, 0o604, 0o660] {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            let refused = read(&file).unwrap_err().to_string();
            assert!(refused.contains("chmod 600"), "{refused}");
        }
        assert!(check(home.path()).unwrap_err().to_string().contains("not a file"));
    }
}
