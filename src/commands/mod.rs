//! One file per command, and what several of them need.

pub(crate) mod audit;
pub(crate) mod check;
pub(crate) mod complete;
pub(crate) mod dead;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod explain;
pub(crate) mod folder;
pub(crate) mod init;
pub(crate) mod log_level;
pub(crate) mod logs;
pub(crate) mod nats;
pub(crate) mod open_store;
pub(crate) mod pause;
pub(crate) mod place;
pub(crate) mod plan;
pub(crate) mod publish;
pub(crate) mod recipe;
pub(crate) mod reload;
pub(crate) mod run;
pub(crate) mod schema;
pub(crate) mod serve;
pub(crate) mod session;
pub(crate) mod setup;
pub(crate) mod stage;
pub(crate) mod status;
pub(crate) mod top;
pub(crate) mod verify;

use std::path::Path;
use std::process::ExitCode;

use tollgate_actors::config::{self, Loaded, Mistakes};
use tollgate_actors::plan::Plan;

use crate::cli::Global;
use crate::ui::say;

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All is well.
    Done = 0,
    /// Some fetches are dead, or a check failed.
    Failed = 1,
    /// The command line, the configuration or the folder is not right: nothing was begun.
    Usage = 2,
    /// Stopped with fetches left.
    Left = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// The environment, without what is not text: no key and no secret of ours can be that.
pub(crate) fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// Reads the configuration; its mistakes are told, all of them, and give nothing.
pub(crate) fn plan(global: &Global) -> Option<Plan> {
    understood(global, config::load(Some(&global.config), environment(), &[]))
}

/// As [`plan`], for what needs no platforms: a machine that only publishes may leave them out.
pub(crate) fn publisher_plan(global: &Global) -> Option<Plan> {
    understood(global, config::load_to_publish(Some(&global.config), environment(), &[]))
}

fn understood(global: &Global, loaded: Result<Loaded, Mistakes>) -> Option<Plan> {
    match loaded {
        Ok(Loaded { plan, warnings }) => {
            for warning in warnings {
                say(format_args!("tollgate: warning: {warning}"));
            }
            Some(plan)
        }
        Err(mistakes) => {
            say(format_args!("tollgate: {mistakes}"));
            if !global.config.exists() {
                say(format_args!("`tollgate init` writes a commented configuration to start from"));
            }
            None
        }
    }
}

/// A path as text.
pub(crate) fn shown(path: &Path) -> String {
    path.display().to_string()
}
