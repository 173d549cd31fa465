//! `tollgate audit`: the proof from a log, or from the ledger, that limits were kept.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use jiff::SignedDuration;
use tollgate_actors::audit::{Audit, Exceeded, LimitRow, Options, Report, Verdict, ledger};
use tollgate_actors::codes::Code;

use super::folder::open_state;
use super::status::printable;
use super::{Exit, shown};
use crate::cli::{AuditArgs, Global, StampOf};
use crate::ui::{number, print, say};

/// Calls of a violation that are told in words, at each end.
const CALLS_TOLD: usize = 6;

pub(crate) fn run(global: &Global, args: &AuditArgs) -> anyhow::Result<Exit> {
    let report = if args.ledger { of_ledger(global, args)? } else { Some(of_logs(global, args)?) };
    let Some(report) = report else { return Ok(Exit::Usage) };
    if args.json {
        print(format_args!("{}", serde_json::to_string(&report)?))?;
    } else {
        show(&report, args)?;
    }
    Ok(if report.proved { Exit::Done } else { Exit::Failed })
}

fn of_logs(global: &Global, args: &AuditArgs) -> anyhow::Result<Report> {
    // Limits of the command line stand for themselves, unless there is a configuration to go with them.
    let config = match std::fs::read_to_string(&global.config) {
        Ok(text) => Some(text),
        Err(_) if !args.limits.is_empty() => None,
        Err(error) => {
            let path = shown(&global.config);
            let read = || {
                format!(
                    "{}: read {path} for its limits; --limit says others",
                    Code::ConfigUnreadable
                )
            };
            return Err(error).with_context(read);
        }
    };
    let config = config.filter(|_| args.limits.is_empty() || args.platform.is_some());
    let mut audit = Audit::new(Options {
        config,
        limits: args.limits.clone(),
        platform: args.platform.clone(),
        only: args.only.clone(),
        form: args.line.clone(),
        time: args.time.clone(),
        account: args.account.clone(),
        api: args.api.clone(),
        took: args.took.clone(),
        stamped_at_end: args.stamp == StampOf::End,
        step: args.step.as_deref().map(|text| duration("--step", text)).transpose()?,
        slack: duration("--slack", &args.slack)?,
        sort_within: duration("--sort-within", &args.sort_within)?,
    })?;
    for log in &args.logs {
        if log == Path::new("-") {
            audit.read("-", std::io::stdin().lock())?;
        } else {
            let input: Box<dyn Read> = Box::new(
                File::open(log)
                    .with_context(|| format!("{}: open {}", Code::InputUnreadable, shown(log)))?,
            );
            audit.read(&shown(log), input)?;
        }
    }
    Ok(audit.finish())
}

fn of_ledger(global: &Global, args: &AuditArgs) -> anyhow::Result<Option<Report>> {
    if !(args.limits.is_empty() && args.line.is_none() && args.account.is_none()) {
        bail!(
            "{}: --ledger looks at the data folder: what is said of a log has no meaning",
            Code::AuditAsked
        );
    }
    let Some(plan) = super::plan(global) else { return Ok(None) };
    if !plan.state().exists() {
        bail!("{} holds nothing yet: `tollgate run` has not been here", shown(&plan.data));
    }
    let plan = Arc::new(plan);
    let report = actix_rt::System::new().block_on(async {
        let state = open_state(&plan).await?;
        let report = ledger(&plan, &state, args.platform.as_deref(), &args.only).await;
        state.close().await;
        anyhow::Ok(report?)
    })?;
    Ok(Some(report))
}

fn duration(flag: &str, text: &str) -> anyhow::Result<i64> {
    let span = text.parse::<SignedDuration>().ok().filter(|span| !span.is_negative());
    let ns = span.and_then(|span| i64::try_from(span.as_nanos()).ok());
    ns.with_context(|| {
        format!("{}: {flag} {text}: a duration with its unit, as 250ms or 1s", Code::AuditAsked)
    })
}

fn show(report: &Report, args: &AuditArgs) -> std::io::Result<()> {
    for line in &report.unreadable_first {
        say(format_args!("{}", printable(line)));
    }
    if report.unreadable > report.unreadable_first.len() as u64 {
        let more = report.unreadable - report.unreadable_first.len() as u64;
        say(format_args!("and {} further lines that cannot be read", number(more)));
    }
    let from_to = match (report.first, report.last) {
        (Some(first), Some(last)) if !args.ledger => format!(", {first} to {last}"),
        _ => String::new(),
    };
    let read = if args.ledger { "record" } else { "line" };
    print(format_args!(
        "{} in {}{from_to}",
        count(report.calls, "call"),
        count(report.lines, read)
    ))?;
    if report.stepped_over > 0 {
        print(format_args!("{} lines are no calls that count here", number(report.stepped_over)))?;
    }
    if !args.ledger && report.calls > 0 {
        print(format_args!("the clock of the log steps by {} s", report.step_seconds))?;
    }
    if report.permits {
        print(format_args!("its lines tell of permits: a call comes up to 0.5 s after one"))?;
    }
    print(format_args!(""))?;
    let wide = report.limits.iter().map(|row| row.limit.len()).max().unwrap_or(0);
    for row in &report.limits {
        limit(row, wide)?;
    }
    print(format_args!(""))?;
    verdict(report, args)
}

fn count(count: u64, what: &str) -> String {
    let many = if count == 1 { "" } else { "s" };
    format!("{} {what}{many}", number(count))
}

fn limit(row: &LimitRow, wide: usize) -> std::io::Result<()> {
    let LimitRow { limit, allows, .. } = row;
    let counted = format!("{}, {}", count(row.calls, "call"), count(row.counters, "counter"));
    match row.verdict {
        Verdict::Proved if row.calls == 0 => {
            print(format_args!("no calls  {limit:<wide$}  {allows}"))
        }
        Verdict::Proved => {
            let closest = row.closest_seconds.map_or_else(String::new, |closest| {
                format!("; one more took {closest} s at least")
            });
            print(format_args!("proved    {limit:<wide$}  {allows} ({counted}{closest})"))
        }
        Verdict::Open => {
            let why = row.why.as_deref().unwrap_or_default();
            print(format_args!("not shown {limit:<wide$}  {allows}: {}", printable(why)))
        }
        Verdict::Exceeded => {
            let times = count(row.exceeded_times, "time");
            print(format_args!("EXCEEDED  {limit:<wide$}  {allows} ({counted}; {times})"))?;
            row.first.as_ref().map_or(Ok(()), calls)
        }
    }
}

fn calls(first: &Exceeded) -> std::io::Result<()> {
    let of = |what: &str, name: &Option<String>| {
        name.as_ref().map_or_else(String::new, |name| format!("{what} {}, ", printable(name)))
    };
    print(format_args!(
        "    first: {}{}{} calls within {} s",
        of("account", &first.account),
        of("api", &first.api),
        number(first.count),
        first.within_seconds
    ))?;
    let many = first.calls.len() > 2 * CALLS_TOLD;
    for (place, call) in first.calls.iter().enumerate() {
        if many && place == CALLS_TOLD {
            print(format_args!("      … --json tells more of them"))?;
        }
        if many && (CALLS_TOLD..first.calls.len() - CALLS_TOLD).contains(&place) {
            continue;
        }
        let took = call.took_seconds.map_or_else(String::new, |took| format!(", took {took} s"));
        print(format_args!("      {}  {}{took}", call.at, printable(&call.place)))?;
    }
    Ok(())
}

fn verdict(report: &Report, args: &AuditArgs) -> std::io::Result<()> {
    if report.proved {
        let what = if args.ledger { "what the ledger keeps" } else { "this log" };
        return print(format_args!("proved: in {what} no window of any limit was exceeded"));
    }
    if report.limits.iter().any(|row| row.verdict == Verdict::Exceeded) {
        return print(format_args!("not proved: a limit was exceeded"));
    }
    if report.calls == 0 {
        return print(format_args!("not proved: no calls were found"));
    }
    print(format_args!("not proved, though nothing was seen to exceed a limit:"))?;
    if report.unreadable > 0 {
        let lines = number(report.unreadable);
        print(format_args!("- {lines} lines cannot be read, and may have been calls"))?;
    }
    if let Some(first) = &report.unsorted_first {
        print(format_args!(
            "- {} calls stand too late in the log to be counted (the first, {}): --sort-within takes more",
            number(report.unsorted),
            printable(first)
        ))?;
    }
    let open = report.limits.iter().filter(|row| row.verdict == Verdict::Open).count();
    if open > 0 {
        print(format_args!("- {open} of {} limits cannot be shown from it", report.limits.len()))?;
    }
    Ok(())
}
