//! `tollgate plan`: when fetches would be done, in virtual time and without a call.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use jiff::{SignedDuration, Timestamp};
use tollgate_actors::calendar::{Line, plan_on};
use tollgate_actors::clock::Clock;
use tollgate_actors::codes::Code;
use tollgate_actors::forecast::{Assumed, Forecast, Ledgers, Orders, shown as span};
use tollgate_actors::ids::Slug;
use tollgate_actors::ledger::embedded::EmbeddedLedger;
use tollgate_actors::plan::Plan;
use tollgate_actors::publish::read;
use tollgate_actors::status::gate_at_rest;

use super::folder::open_state;
use super::publish::format;
use super::status::printable;
use super::{Exit, shown};
use crate::cli::{Global, PlanArgs};
use crate::ui::{number, print, say};

/// Longest time an answer may be assumed to take.
const LATENCY_MAX: SignedDuration = SignedDuration::from_hours(24);
/// Changes told in words.
const CHANGES_TOLD: usize = 12;

pub(crate) fn run(global: &Global, args: &PlanArgs) -> anyhow::Result<Exit> {
    let Some(plan) = super::plan(global) else { return Ok(Exit::Usage) };
    let assumed = assumed(&plan, args)?;
    let clock = match &args.at {
        None => Clock::new(),
        Some(text) => Clock::starting_at(text.parse::<Timestamp>().with_context(|| {
            format!(
                "--at {text}: a time looks like 2026-11-22T00:00:00Z, or with +09:00 for the zone"
            )
        })?),
    };
    let plan = plan_on(&Arc::new(plan), &Line::Clock(clock.clone()));
    let start = clock.now();
    let mut orders = Orders::new(&plan, &clock);
    for file in &args.files {
        let format = format(file, args.format)?;
        let input: Box<dyn Read> = if file == Path::new("-") {
            Box::new(std::io::stdin())
        } else {
            let opened = File::open(file)
                .with_context(|| format!("{}: open {}", Code::InputUnreadable, shown(file)))?;
            Box::new(opened)
        };
        for record in read(&plan, &shown(file), format, input)? {
            let record = record?;
            match &record.fetch {
                Ok(accepted) => orders.add(accepted),
                Err(refusal) => orders.refuse(&record.place, refusal),
            }
        }
    }
    let ledgers = if args.local { ledgers(&plan, &orders, &clock)? } else { Ledgers::new() };
    let forecast = orders.forecast(start, ledgers, &assumed);
    if args.json {
        print(format_args!("{}", serde_json::to_string(&forecast)?))?;
    } else {
        show(&forecast, args)?;
    }
    let dead = forecast.refused.iter().map(|row| row.fetches).sum::<u64>();
    let dead = dead + forecast.late + forecast.never;
    Ok(if dead == 0 { Exit::Done } else { Exit::Failed })
}

fn assumed(plan: &Plan, args: &PlanArgs) -> anyhow::Result<Assumed> {
    let mut assumed = Assumed {
        latency: Duration::ZERO,
        latencies: Vec::new(),
        concurrency: plan.collect.concurrency,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        changes: !args.no_changes,
        most: args.most,
    };
    for text in &args.latency {
        let (of, duration) = match text.split_once('=') {
            Some((of, duration)) => (Some(of), duration),
            None => (None, text.as_str()),
        };
        let latency = duration.trim().parse::<SignedDuration>().ok();
        let latency = latency.filter(|span| !span.is_negative() && *span <= LATENCY_MAX);
        let Some(latency) = latency.and_then(|span| Duration::try_from(span).ok()) else {
            bail!("--latency {text}: a duration from 0s to 24h with its unit, as 0.3s or 20s");
        };
        let Some(of) = of else {
            assumed.latency = latency;
            continue;
        };
        let (platform, api) = match of.split_once('/') {
            Some((platform, api)) => (platform, Some(api)),
            None => (of, None),
        };
        let known = plan.platforms.values().find(|known| known.name.as_str() == platform);
        let Some(known) = known else {
            bail!("--latency {text}: the configuration has no platform `{}`", printable(platform));
        };
        if let Some(api) = api
            && known.api(api).is_none()
        {
            bail!("--latency {text}: platform `{platform}` has no api `{}`", printable(api));
        }
        let api = api.and_then(|api| Slug::new(api).ok());
        assumed.latencies.push((known.name.clone(), api, latency));
    }
    // What is said of one platform only leaves the others as they are.
    if args.latency.iter().all(|text| text.contains('=')) {
        assumed.latency = Duration::from_millis(300);
    }
    Ok(assumed)
}

/// What the data folder knows of the accounts that have work.
fn ledgers(plan: &Plan, orders: &Orders<'_>, clock: &Clock) -> anyhow::Result<Ledgers> {
    if !plan.state().exists() {
        bail!("{} holds nothing yet: leave out --local", shown(&plan.data));
    }
    actix_rt::System::new().block_on(async {
        let state = open_state(plan).await?;
        let ledger = EmbeddedLedger::new(&state);
        let mut known = Ledgers::new();
        for account in orders.accounts() {
            let Some(platform) = plan.platforms.get(&account.platform) else { continue };
            if let Some(gate) =
                gate_at_rest(platform, &platform.limits, &ledger, account, clock.now()).await
            {
                known.insert(account.clone(), gate);
            }
        }
        state.close().await;
        Ok(known)
    })
}

fn secs(seconds: f64) -> String {
    span(Duration::from_secs_f64(seconds.max(0.0))).to_string()
}

fn show(forecast: &Forecast, args: &PlanArgs) -> std::io::Result<()> {
    for row in &forecast.refused {
        let fetches = if row.fetches == 1 { "fetch" } else { "fetches" };
        say(format_args!(
            "{}: {} {fetches} would be dead at once, first {}: {}",
            row.code,
            number(row.fetches),
            row.first,
            printable(&row.reason)
        ));
    }
    let dead = [
        (forecast.late, Code::DeadlinePassed, "their turn comes after their deadline"),
        (forecast.never, Code::NeverAllowed, "a limit never allows them"),
    ];
    for (count, code, why) in dead {
        if count > 0 {
            say(format_args!("{code}: {} fetches would be dead: {why}", number(count)));
        }
    }
    if forecast.duplicates > 0 {
        let count = number(forecast.duplicates);
        say(format_args!("{count} fetches have an id that was there before: called once"));
    }
    if forecast.calls == 0 {
        return print(format_args!("no calls to make"));
    }
    let finish = forecast.finish.map_or_else(String::new, |at| format!(", at {at:.0}"));
    print(format_args!(
        "{} calls for {} accounts: all done after {}{finish}",
        number(forecast.calls),
        number(forecast.accounts),
        secs(forecast.seconds),
    ))?;
    platforms(forecast)?;
    limits(forecast)?;
    if forecast.concurrency_delay_seconds > 0.0 {
        print(format_args!(
            "\ncollect.concurrency = {} holds calls back by up to {}; for itself it needs {}",
            number(forecast.concurrency as u64),
            secs(forecast.concurrency_delay_seconds),
            secs(forecast.concurrency_seconds)
        ))?;
    }
    changes(forecast)?;
    slowest(forecast)?;
    assumptions(forecast, args)
}

fn platforms(forecast: &Forecast) -> std::io::Result<()> {
    let apis = forecast.platforms.iter().flat_map(|platform| &platform.apis);
    let names = apis.map(|api| api.api.len() + 2);
    let platforms = forecast.platforms.iter().map(|platform| platform.platform.len());
    let wide = names.chain(platforms).max().unwrap_or(0).max(16);
    print(format_args!(
        "\n{:<wide$} {:>12} {:>10} {:>12}",
        "PLATFORM, API", "CALLS", "ACCOUNTS", "DONE AFTER"
    ))?;
    for platform in &forecast.platforms {
        let line = |name: &str, calls, accounts, seconds| {
            let (calls, accounts, seconds) = (number(calls), number(accounts), secs(seconds));
            print(format_args!("{name:<wide$} {calls:>12} {accounts:>10} {seconds:>12}"))
        };
        line(&platform.platform, platform.calls, platform.accounts, platform.seconds)?;
        for api in &platform.apis {
            line(&format!("  {}", api.api), api.calls, api.accounts, api.seconds)?;
        }
    }
    Ok(())
}

fn limits(forecast: &Forecast) -> std::io::Result<()> {
    if forecast.limits.is_empty() {
        return print(format_args!("\nno limit counts these calls"));
    }
    let wide = forecast.limits.iter().map(|row| row.limit.len()).max().unwrap_or(0).max(16);
    print(format_args!(
        "\n{:<wide$} {:>12} {:>14} {:>14} {:>6}",
        "LIMIT", "HOLDS MOST", "AN ACCOUNT", "ALL ACCOUNTS", "USED"
    ))?;
    for row in &forecast.limits {
        let used = row.share.map_or_else(|| "-".into(), |share| format!("{:.0} %", share * 100.0));
        let (longest, all) = (secs(row.waited_max_seconds), secs(row.waited_seconds));
        let bound = number(row.accounts_bound);
        print(format_args!("{:<wide$} {bound:>12} {longest:>14} {all:>14} {used:>6}", row.limit))?;
    }
    print(format_args!(
        "  HOLDS MOST: accounts that wait for it longest; then the longest wait of one, and of all together"
    ))
}

fn changes(forecast: &Forecast) -> std::io::Result<()> {
    let worth = |saved: f64| saved > forecast.seconds / 100.0;
    let (helps, idle): (Vec<_>, Vec<_>) =
        forecast.changes.iter().partition(|row| worth(row.saved_seconds));
    if !helps.is_empty() {
        print(format_args!("\nWHAT WOULD HELP, ONE AT A TIME"))?;
    }
    let wide = helps.iter().map(|row| row.to_string().len()).max().unwrap_or(0);
    for row in helps.iter().take(CHANGES_TOLD) {
        let (then, now) = (secs(row.seconds), secs(forecast.seconds));
        print(format_args!("{:<wide$}  {then} instead of {now}", row.to_string()))?;
    }
    if helps.len() > CHANGES_TOLD {
        print(format_args!("and {} others: --json tells them", helps.len() - CHANGES_TOLD))?;
    }
    if helps.is_empty() && !idle.is_empty() {
        print(format_args!(
            "\nno single limit holds it back: taken away or doubled, none changes the end"
        ))?;
    }
    if forecast.changes_left_out > 0 {
        let left = forecast.changes_left_out;
        say(format_args!(
            "{left} changes were not looked at: so many calls take too long to walk again"
        ));
    }
    Ok(())
}

fn slowest(forecast: &Forecast) -> std::io::Result<()> {
    if forecast.slowest.is_empty() {
        return Ok(());
    }
    let name = |platform: &str, account: &str| format!("{platform}/{}", printable(account));
    let names =
        forecast.slowest.iter().map(|row| name(&row.platform, &row.account).chars().count());
    let wide = names.max().unwrap_or(0).clamp(16, 48);
    let title = "SLOWEST ACCOUNTS";
    print(format_args!(
        "\n{title:<wide$} {:>10} {:>12}  WAITS LONGEST FOR",
        "CALLS", "DONE AFTER"
    ))?;
    for row in &forecast.slowest {
        let because = row.because.as_ref().map_or_else(
            || "nothing".into(),
            |because| format!("{because} ({})", secs(row.waited_seconds)),
        );
        let (name, calls) = (name(&row.platform, &row.account), number(row.calls));
        print(format_args!("{name:<wide$} {calls:>10} {:>12}  {because}", secs(row.seconds)))?;
    }
    Ok(())
}

fn assumptions(forecast: &Forecast, args: &PlanArgs) -> std::io::Result<()> {
    let before = match (args.local, forecast.from_ledger) {
        (true, known) => format!("what the data folder knows of {} accounts", number(known as u64)),
        (false, _) => "no calls made before".into(),
    };
    print(format_args!(
        "\nassumed: one call a fetch, answered after {}; at most {} in flight; {before}",
        args.latency.join(", "),
        number(forecast.concurrency as u64),
    ))
}
