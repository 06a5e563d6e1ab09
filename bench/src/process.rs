//! What a process has used, from `/proc`.

/// Clock ticks a second in `/proc`; 100 on every Linux this runs on.
const TICKS_PER_SECOND: f64 = 100.0;
/// Bytes of what `/proc` calls kB.
const KIB: f64 = 1024.0;

/// What processes have used so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) cpu_s: f64,
    pub(crate) peak_mb: f64,
    /// Memory held now, what processes share counted once.
    pub(crate) held_mb: f64,
    /// Handed to the disk.
    pub(crate) written_mb: f64,
}

impl Usage {
    /// Of one process; all zero when there is none.
    pub(crate) fn of(pid: u32) -> Self {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        let stat = read("stat");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |index: usize| fields.get(index).and_then(|f| f.parse::<f64>().ok()).unwrap_or_default();
        let number = |text: &str, key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.split_whitespace().next()?.parse::<f64>().ok())
                .unwrap_or_default()
        };
        Self {
            cpu_s: (ticks(11) + ticks(12)) / TICKS_PER_SECOND,
            peak_mb: number(&read("status"), "VmHWM:") * KIB / 1e6,
            held_mb: number(&read("smaps_rollup"), "Pss:") * KIB / 1e6,
            written_mb: number(&read("io"), "write_bytes:") / 1e6,
        }
    }

    /// Of this process.
    pub(crate) fn own() -> Self {
        Self::of(std::process::id())
    }

    /// Of both together.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            cpu_s: self.cpu_s + other.cpu_s,
            peak_mb: self.peak_mb + other.peak_mb,
            held_mb: self.held_mb + other.held_mb,
            written_mb: self.written_mb + other.written_mb,
        }
    }
}
