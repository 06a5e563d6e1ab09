//! The engines that are compared: each started on a folder of its own, put under load, and ended.

mod dbos;
mod http;
mod opcode;
mod restate;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::ValueEnum;
use opcode_peers::load::{Load, Measured};

/// Longest wait for an engine or a service to be ready.
const READY_MAX: Duration = Duration::from_secs(60);

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    /// OPCODE, ten `workflow.log` steps
    Opcode,
    /// OPCODE, ten `http.post` steps to a service on this machine
    OpcodeHttp,
    /// Restate with its default of 24 partitions
    #[value(name = "restate-24")]
    Restate24,
    /// Restate with 4 partitions
    #[value(name = "restate-4")]
    Restate4,
    /// DBOS on `PostgreSQL`
    Dbos,
}

impl Engine {
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Whether it is ours.
    pub(crate) fn is_ours(self) -> bool {
        match self {
            Self::Opcode | Self::OpcodeHttp => true,
            Self::Restate24 | Self::Restate4 | Self::Dbos => false,
        }
    }
}

/// Where the engines' programs are.
pub(crate) struct Programs {
    pub(crate) opcode: PathBuf,
    pub(crate) opcode_pool_size: usize,
    /// The Restate server.
    pub(crate) restate: Option<PathBuf>,
    /// The folder of `PostgreSQL`'s programs.
    pub(crate) postgres: Option<PathBuf>,
}

impl Programs {
    /// Why an engine cannot be measured on this machine; `None` when it can be.
    pub(crate) fn missing(&self, engine: Engine) -> Option<String> {
        let (there, what) = match engine {
            Engine::Opcode | Engine::OpcodeHttp => {
                (self.opcode.is_file(), format!("{} is no file", self.opcode.display()))
            }
            Engine::Restate24 | Engine::Restate4 => (
                self.restate.is_some(),
                "the Restate server is not installed: bench/peers/install.sh".to_owned(),
            ),
            Engine::Dbos => (
                self.postgres.is_some(),
                "PostgreSQL is not installed: apt-get install postgresql".to_owned(),
            ),
        };
        (!there).then_some(what)
    }
}

/// One measurement: a fresh folder below `parent`, the engine started on it, put under load, ended.
pub(crate) async fn measure(
    engine: Engine,
    programs: &Programs,
    load: Load,
    parent: &Path,
) -> Result<Measured> {
    let folder = Folder::create(parent)?;
    match engine {
        Engine::Opcode => opcode::measure(programs, opcode::Action::Log, load, &folder.0).await,
        Engine::OpcodeHttp => opcode::measure(programs, opcode::Action::HttpPost, load, &folder.0).await,
        Engine::Restate24 => restate::measure(programs, 24, load, &folder.0).await,
        Engine::Restate4 => restate::measure(programs, 4, load, &folder.0).await,
        Engine::Dbos => dbos::measure(programs, load, &folder.0).await,
    }
}

/// A program of this crate, which is built beside the driver.
fn beside(name: &str) -> Result<PathBuf> {
    Ok(std::env::current_exe().context("the driver's own place")?.with_file_name(name))
}

/// A folder that is removed with its owner. Whoever starts processes on it drops them first.
struct Folder(PathBuf);

impl Folder {
    fn create(parent: &Path) -> Result<Self> {
        let folder = parent.join(format!("opcode-peers-{}", std::process::id()));
        fs::create_dir(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed is left to the system.
        let _ = fs::remove_dir_all(&self.0);
    }
}
