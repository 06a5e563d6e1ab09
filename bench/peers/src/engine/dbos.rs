//! DBOS: a `PostgreSQL` cluster of its own, and the program that DBOS runs in.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use opcode_peers::load::{Load, Measured};
use opcode_peers::work::MEASURED;

use super::{Programs, READY_MAX, beside};
use crate::process::Process;

/// Connections of DBOS at most.
const POOL: u32 = 20;
/// Every commit is on disk before it is acknowledged, and memory is no bound.
const SETTINGS: &[&str] = &["fsync=on", "synchronous_commit=on", "full_page_writes=on", "shared_buffers=2GB"];
/// Longest that DBOS may take beyond its load: the tables are made first, and the last runs end.
const BESIDES_MAX: Duration = Duration::from_secs(180);

pub(super) async fn measure(programs: &Programs, load: Load, folder: &Path) -> Result<Measured> {
    let programs = programs.postgres.as_ref().context("PostgreSQL is installed")?;
    let mut postgres = Postgres::start(programs, folder).await?;
    let mut command = Command::new(beside("peer-dbos")?);
    command.arg("--url").arg(postgres.url());
    command.arg("--folder").arg(folder);
    let numbers = [
        ("--server", u128::from(postgres.server.id())),
        ("--pool", u128::from(POOL)),
        ("--open", load.open as u128),
        ("--warmup-ms", load.warmup.as_millis()),
        ("--window-ms", load.window.as_millis()),
    ];
    for (name, number) in numbers {
        command.arg(name).arg(number.to_string());
    }
    let mut dbos = Process::start("peer-dbos", &mut command, folder)?;
    let measured = dbos.line(MEASURED, load.warmup + load.window + BESIDES_MAX).await?;
    postgres.server.check()?;
    serde_json::from_str(&measured).context("the figures of peer-dbos")
}

/// A `PostgreSQL` server on a cluster that was made for it, reached by a Unix socket.
struct Postgres {
    programs: PathBuf,
    folder: PathBuf,
    server: Process,
}

impl Postgres {
    async fn start(programs: &Path, parent: &Path) -> Result<Self> {
        let folder = parent.join("postgres");
        fs::create_dir(&folder).context("the folder of the PostgreSQL cluster")?;
        if let Some((user, group)) = other_user()? {
            chown(&folder, Some(user), Some(group)).context("the folder becomes PostgreSQL's")?;
        }
        let mut initdb = command(programs, "initdb", &folder)?;
        initdb.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--pgdata"]);
        let made = initdb.arg(folder.join("data")).output().context("initdb cannot be started")?;
        ensure!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));

        let mut postgres = command(programs, "postgres", &folder)?;
        postgres.arg("-D").arg(folder.join("data"));
        let at = format!("unix_socket_directories={}", folder.display());
        for setting in SETTINGS.iter().copied().chain(["listen_addresses=", &at]) {
            postgres.args(["-c", setting]);
        }
        let server = Process::start("postgres", &mut postgres, parent)?;
        let mut postgres = Self { programs: programs.to_owned(), folder, server };
        postgres.ready().await?;
        Ok(postgres)
    }

    /// Waits until it takes connections.
    async fn ready(&mut self) -> Result<()> {
        let begun = std::time::Instant::now();
        loop {
            let mut asked = command(&self.programs, "pg_isready", &self.folder)?;
            asked.arg("--host").arg(&self.folder).stdout(Stdio::null());
            if asked.status().context("pg_isready cannot be started")?.success() {
                return Ok(());
            }
            self.server.check()?;
            ensure!(begun.elapsed() < READY_MAX, "PostgreSQL takes no connections after {READY_MAX:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Of a database that DBOS makes. A host that is a folder is written with its slashes escaped.
    fn url(&self) -> String {
        let host = self.folder.to_string_lossy().replace('/', "%2F");
        format!("postgres://postgres@{host}/dbos")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // The server's own way to end: a kill would leave its backends and its shared memory behind.
        let stopped = command(&self.programs, "pg_ctl", &self.folder).and_then(|mut stop| {
            stop.args(["stop", "--silent", "--mode=immediate", "--pgdata"]).arg(self.folder.join("data"));
            Ok(stop.status()?)
        });
        if let Err(error) = stopped {
            eprintln!("PostgreSQL could not be stopped: {error:#}");
        }
    }
}

/// One of `PostgreSQL`'s programs, run by a user that it lets run it.
fn command(programs: &Path, name: &str, folder: &Path) -> Result<Command> {
    let mut command = Command::new(programs.join(name));
    command.current_dir(folder).env_clear();
    if let Some((user, group)) = other_user()? {
        command.uid(user).gid(group);
    }
    Ok(command)
}

/// User and group to run `PostgreSQL` as: it refuses root, so then it is the user `postgres`, whom
/// Debian's package makes; `None` for anybody else.
fn other_user() -> Result<Option<(u32, u32)>> {
    if fs::metadata("/proc/self")?.uid() != 0 {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd")?;
    let line = users.lines().find_map(|line| line.strip_prefix("postgres:"));
    let fields: Vec<&str> = line.context("there is no user `postgres`")?.split(':').collect();
    let number = |index: usize| fields.get(index).and_then(|field| field.parse().ok());
    Ok(Some(number(1).zip(number(2)).context("the user `postgres` has a number and a group")?))
}
