//! `tollgate run`: collects the fetches of files, and what is left of earlier runs.

use tollgate_actors::{install_tls, supervise};

use super::reload::Watched;
use super::session::{Input, work};
use super::{Exit, plan};
use crate::cli::{Global, RunArgs};
use crate::logs::Logs;
use crate::ui::{Progress, say, summary};

pub(crate) fn run(global: &Global, args: &RunArgs) -> anyhow::Result<Exit> {
    let watched = Watched::new(global);
    let Some(plan) = plan(global) else { return Ok(Exit::Usage) };
    let mut progress = Progress::new();
    let logs = Logs::start(global, &plan.log, &progress, "info")?;
    install_tls();
    supervise::keep_panics();
    let inputs = args.files.iter().cloned().map(Input::File).collect();
    let working = work(plan, Some(watched), inputs, &mut progress, logs.levels(), args.listen);
    let report = actix_rt::System::new().block_on(working)?;
    let lost = logs.dropped();
    drop(logs);
    if lost > 0 {
        say(format_args!("{lost} log lines were dropped: nobody read them in time"));
    }
    summary::show(&report.summary, None, args.json, &[])?;
    if report.summary.dead > 0 {
        say(format_args!("`tollgate dead list` shows what was given up and why"));
    }
    if report.exit == Exit::Left {
        say(format_args!("the rest is collected by the next `tollgate run`"));
    }
    Ok(report.exit)
}
