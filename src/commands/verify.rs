//! `tollgate verify`: whether what is stored is what its manifests say.

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::bail;
use jiff::SignedDuration;
use tokio::time::Instant;
use tollgate_actors::clock::Clock;
use tollgate_actors::codes::Code;
use tollgate_actors::install_tls;
use tollgate_actors::plan::StoreTarget;
use tollgate_actors::store::Store;
use tollgate_actors::verify::{Asked, Finding, Report, prefix_of, verify};

use super::status::printable;
use super::{Exit, publisher_plan, shown};
use crate::cli::{Global, VerifyArgs};
use crate::ui::{number, print, say, size};

/// How often it is said how far it is, to a terminal.
const SAY_EVERY: Duration = Duration::from_secs(2);

pub(crate) fn run(global: &Global, args: &VerifyArgs) -> anyhow::Result<Exit> {
    let Some(plan) = publisher_plan(global) else { return Ok(Exit::Usage) };
    let prefix = args.prefix.as_deref().unwrap_or_default();
    let prefix = prefix_of(prefix)?;
    let grace = args.grace.parse::<SignedDuration>().ok();
    let grace = grace.and_then(|grace| Duration::try_from(grace).ok());
    let Some(grace) = grace else {
        bail!("--grace {}: a duration with its unit, as 90s or 1h", args.grace);
    };
    if let StoreTarget::File(folder) = &plan.store.target
        && !folder.is_dir()
    {
        bail!("{}: there is no folder {}", Code::StoreUnavailable, shown(folder));
    }
    install_tls();
    let clock = Clock::new();
    let at_once = usize::from(args.at_once);
    let others = plan.stages.values().map(|stage| stage.to.clone()).collect();
    let asked = Asked { prefix, deep: args.deep, grace, now: clock.wall(), others, at_once };
    let began = Instant::now();
    let report = actix_rt::System::new().block_on(async {
        let store = Store::open(&plan)?;
        let mut printed = Ok(());
        let mut tell = |finding: Finding| {
            if printed.is_ok() {
                printed = show(&finding, args.json);
            }
        };
        let to_terminal = std::io::stderr().is_terminal();
        let mut said = began;
        let mut moves = |report: &Report| {
            if to_terminal && said.elapsed() >= SAY_EVERY {
                said = Instant::now();
                say(format_args!("{}", how_much(report)));
            }
        };
        let report = verify(&store, &asked, &mut tell, &mut moves).await?;
        printed?;
        anyhow::Ok(report)
    })?;
    if args.json {
        print(format_args!("{}", serde_json::to_string(&report)?))?;
    } else {
        print(format_args!("{} in {:.1} s", how_much(&report), began.elapsed().as_secs_f64()))?;
        if report.underway > 0 {
            let young = number(report.underway);
            print(format_args!(
                "{young} objects in no manifest, or not as theirs says, are younger than {}: their fetches may be underway",
                args.grace
            ))?;
        }
        verdict(&report)?;
    }
    Ok(if report.verified { Exit::Done } else { Exit::Failed })
}

fn how_much(report: &Report) -> String {
    let Report { manifests, objects, stored_bytes, .. } = report;
    format!(
        "{} manifests, {} objects, {}",
        number(*manifests),
        number(*objects),
        size(*stored_bytes)
    )
}

fn show(finding: &Finding, json: bool) -> anyhow::Result<()> {
    if json {
        return Ok(print(format_args!("{}", serde_json::to_string(finding)?))?);
    }
    let Finding { fault, key, reason, .. } = finding;
    Ok(print(format_args!("{fault:<10} {}: {}", printable(key), printable(reason)))?)
}

fn verdict(report: &Report) -> std::io::Result<()> {
    if report.verified {
        return print(format_args!("verified: what is stored is what its manifests say"));
    }
    let counts = [
        (report.missing, "missing"),
        (report.torn, "torn"),
        (report.different, "different"),
        (report.orphaned, "orphaned"),
        (report.unreadable, "manifests unreadable"),
        (report.nothing, "manifests of nothing"),
    ];
    let counts = counts.into_iter().filter(|(count, _)| *count > 0);
    let counts: Vec<String> =
        counts.map(|(count, what)| format!("{} {what}", number(count))).collect();
    print(format_args!("not verified: {}", counts.join(", ")))
}
