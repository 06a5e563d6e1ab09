//! A library between a node and its disk and clock: compiled from `shim.c` when a run begins,
//! loaded into each node, and told what to do through a file that both sides have mapped or open.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

const SOURCE: &str = include_str!("../shim.c");
/// Bytes of the file, and where it has what; the layout is that of `struct control`.
const CONTROL_BYTES: u64 = 48;
const CLOCK_AT: u64 = 16;
const COUNTERS_AT: u64 = 24;
/// `PT_INTERP` of ELF: a program with such a segment is linked when it starts.
const INTERPRETER: u32 = 3;

/// Input and output error.
pub(crate) const EIO: u32 = 5;

/// What a node's disk and clock do wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) sync_delay_ms: u32,
    /// An error number; 0: none.
    pub(crate) sync_errno: u32,
    /// The same for writes.
    pub(crate) write_errno: u32,
    pub(crate) is_full: bool,
}

/// How often that was felt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Felt {
    pub(crate) syncs_delayed: u64,
    pub(crate) syncs_failed: u64,
    pub(crate) writes_failed: u64,
}

/// The file through which one node's library is told.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) path: PathBuf,
    file: File,
}

impl Control {
    /// A new one at `path`, with nothing wrong.
    pub(crate) fn new(path: PathBuf) -> Result<Self> {
        let file = File::options().create(true).truncate(true).read(true).write(true).open(&path)?;
        file.set_len(CONTROL_BYTES)?;
        Ok(Self { path, file })
    }

    /// This is wrong with the disk from now on, and nothing else.
    pub(crate) fn set(&self, wrong: Wrong) -> Result<()> {
        let numbers = [wrong.sync_delay_ms, wrong.sync_errno, wrong.write_errno, u32::from(wrong.is_full)];
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_ne_bytes()).collect();
        self.file.write_all_at(&bytes, 0).context("the node's shim cannot be told")
    }

    /// The node's clock is off by so much from now on.
    pub(crate) fn shift_clock(&self, ms: i64) -> Result<()> {
        self.file.write_all_at(&ms.to_ne_bytes(), CLOCK_AT).context("the node's shim cannot be told")
    }

    pub(crate) fn felt(&self) -> Result<Felt> {
        let mut bytes = [0; 24];
        self.file.read_exact_at(&mut bytes, COUNTERS_AT)?;
        let at = |place: usize| {
            let (_, rest) = bytes.split_at(place * 8);
            rest.first_chunk().map_or(0, |number| u64::from_ne_bytes(*number))
        };
        Ok(Felt { syncs_delayed: at(0), syncs_failed: at(1), writes_failed: at(2) })
    }
}

/// Compiles the library into `home`; says why that does not go.
pub(crate) fn compile(home: &Path, binary: &Path) -> Result<PathBuf> {
    ensure!(cfg!(target_os = "linux"), "libraries are put before others on Linux only");
    ensure!(is_linked_at_start(binary)?, "{} is linked statically", binary.display());
    let (source, library) = (home.join("shim.c"), home.join("shim.so"));
    std::fs::write(&source, SOURCE)?;
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let output = Command::new(&compiler)
        .args(["-shared", "-fPIC", "-O2", "-o"])
        .args([&library, &source])
        .arg("-ldl")
        .output()
        .with_context(|| format!("{compiler:?} cannot be started"))?;
    if !output.status.success() {
        bail!("{compiler:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(library)
}

/// Whether a program is linked with libraries when it starts: whether its ELF names an interpreter.
fn is_linked_at_start(binary: &Path) -> Result<bool> {
    let mut head = Vec::new();
    File::open(binary)?.take(4_096).read_to_end(&mut head)?;
    Ok(names_interpreter(&head).unwrap_or(false))
}

/// `None`: it is no 64-bit little-endian ELF, or its table of segments lies elsewhere.
fn names_interpreter(head: &[u8]) -> Option<bool> {
    let half = |at: usize| Some(usize::from(u16::from_le_bytes(*head.get(at..)?.first_chunk()?)));
    let word = |at: usize| Some(u32::from_le_bytes(*head.get(at..)?.first_chunk()?));
    head.starts_with(b"\x7fELF\x02\x01").then_some(())?;
    let table = usize::try_from(u64::from_le_bytes(*head.get(32..)?.first_chunk()?)).ok()?;
    let (size, count) = (half(54)?, half(56)?);
    for entry in 0..count {
        if word(table + entry * size)? == INTERPRETER {
            return Some(true);
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_linked_at_start_is_told_from_what_is_not() {
        let own = std::env::current_exe().unwrap();
        assert!(is_linked_at_start(&own).unwrap());
        let dir = tempfile::tempdir().unwrap();
        let text = dir.path().join("text");
        std::fs::write(&text, "no program").unwrap();
        assert!(!is_linked_at_start(&text).unwrap());
        assert!(compile(dir.path(), &text).unwrap_err().to_string().contains("statically"));
    }

    /// A copy of a file by `dd`, which writes and syncs, with something wrong.
    fn copy(dir: &Path, wrong: Wrong) -> (bool, Felt) {
        let dd = Path::new("/usr/bin/dd");
        let dd = if dd.exists() { dd } else { Path::new("/bin/dd") };
        let library = compile(dir, dd).unwrap();
        let control = Control::new(dir.join("control")).unwrap();
        control.set(wrong).unwrap();
        let folder = dir.join("data");
        std::fs::create_dir_all(&folder).unwrap();
        let output = Command::new(dd)
            .args(["if=/dev/zero", "bs=512", "count=3", "conv=fsync"])
            .arg(format!("of={}", folder.join("file").display()))
            .env("LD_PRELOAD", library)
            .env("JEPSEN_SHIM_CONTROL", &control.path)
            .env("JEPSEN_SHIM_FOLDER", format!("{}/", folder.canonicalize().unwrap().display()))
            .output()
            .unwrap();
        (output.status.success(), control.felt().unwrap())
    }

    #[test]
    fn a_disk_fails_as_it_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let none = Felt::default();
        assert_eq!(copy(dir.path(), Wrong::default()), (true, none));
        let slow = copy(dir.path(), Wrong { sync_delay_ms: 1, ..Wrong::default() });
        assert_eq!(slow, (true, Felt { syncs_delayed: 1, ..none }));
        let failing = copy(dir.path(), Wrong { sync_errno: EIO, ..Wrong::default() });
        assert_eq!(failing, (false, Felt { syncs_failed: 1, ..none }));
        let failing = copy(dir.path(), Wrong { write_errno: EIO, ..Wrong::default() });
        assert!(!failing.0 && failing.1.writes_failed > 0, "{failing:?}");
        let full = copy(dir.path(), Wrong { is_full: true, ..Wrong::default() });
        assert!(!full.0 && full.1.writes_failed > 0, "{full:?}");
    }

    #[test]
    fn a_clock_is_shifted() {
        let dir = tempfile::tempdir().unwrap();
        let date = Path::new("/usr/bin/date");
        let date = if date.exists() { date } else { Path::new("/bin/date") };
        let library = compile(dir.path(), date).unwrap();
        let control = Control::new(dir.path().join("control")).unwrap();
        control.shift_clock(-3_600_500).unwrap();
        let output = Command::new(date)
            .arg("+%s")
            .env("LD_PRELOAD", library)
            .env("JEPSEN_SHIM_CONTROL", &control.path)
            .env("JEPSEN_SHIM_FOLDER", "/nowhere/")
            .output()
            .unwrap();
        let told: i64 = String::from_utf8_lossy(&output.stdout).trim().parse().unwrap();
        let off = crate::checkers::now_ms() / 1_000 - told;
        assert!((3_600..3_610).contains(&off), "{off} s");
    }
}
