//! `tollgate doctor`: what holds it back now, with evidence.

use std::sync::Arc;

use anyhow::bail;
use serde::Serialize;
use tollgate_actors::codes::Code;
use tollgate_actors::control::Request;
use tollgate_actors::doctor::{Evidence, Report, diagnose};

use super::place::Place;
use super::status::printable;
use super::{Exit, plan};
use crate::cli::{DoctorArgs, Global};
use crate::ui::{number, print};

/// What `--json` prints.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    report: &'a Report,
    nodes: &'a [Evidence],
}

pub(crate) fn run(global: &Global, args: &DoctorArgs) -> anyhow::Result<Exit> {
    let Some(plan) = plan(global) else { return Ok(Exit::Usage) };
    let place = Place::open(Arc::new(plan), args.local)?;
    let nodes = place.examine(&Request::Doctor { window_s: args.window });
    place.close();
    let nodes = nodes?;
    if nodes.is_empty() {
        bail!("{}: no node is running, so nothing can be said of one", Code::NoNodeAnswers);
    }
    let report = diagnose(&nodes);
    if args.json {
        print(format_args!(
            "{}",
            serde_json::to_string(&Told { report: &report, nodes: &nodes })?
        ))?;
    } else {
        show(&report, nodes.len())?;
    }
    Ok(if report.has_fault() { Exit::Failed } else { Exit::Done })
}

fn show(report: &Report, nodes: usize) -> std::io::Result<()> {
    print(format_args!(
        "the last {:.0} s of {nodes} node(s): {:.1} calls/s; now {} fetches wait, {} in flight; {:.1} accounts waited at \
         any time",
        report.window_s,
        report.calls_per_s,
        number(report.waiting),
        number(report.in_flight),
        report.accounts
    ))?;
    if report.findings.is_empty() {
        return print(format_args!("nothing holds it back"));
    }
    for (place, found) in (1..).zip(&report.findings) {
        print(format_args!(
            "\n{place}. {} ({:.0} % of the time)",
            printable(&found.what),
            100.0 * found.share
        ))?;
        for line in &found.evidence {
            print(format_args!("   {}", printable(line)))?;
        }
        print(format_args!("   > {}", printable(&found.advice)))?;
    }
    Ok(())
}
