//! `tollgate status`: what waits, for what and until when.

use std::sync::Arc;

use anyhow::bail;
use tollgate_actors::cluster::{PARTITIONS, Parts};
use tollgate_actors::control::{Answer, Request, Status};

use super::place::ask_once;
use super::{Exit, plan};
use crate::cli::{Global, StatusArgs};
use crate::ui::{number, print};

pub(crate) fn run(global: &Global, args: &StatusArgs) -> anyhow::Result<Exit> {
    let Some(plan) = plan(global) else { return Ok(Exit::Usage) };
    let (platform, account) = match args.of.as_deref().map(|of| of.split_once('/')) {
        None => (None, None),
        Some(None) => (args.of.clone(), None),
        Some(Some((platform, account))) => (Some(platform.to_owned()), Some(account.to_owned())),
    };
    if let Some(name) = &platform
        && !plan.platforms.keys().any(|known| known.as_str() == name)
    {
        bail!("the configuration has no platform `{name}`");
    }
    let request = Request::Status { platform, account, most: args.most };
    let Answer::Status(status) = ask_once(Arc::new(plan), args.local, &request)? else {
        bail!("the running node gave another answer: is it of another version?");
    };
    if args.json {
        print(format_args!("{}", serde_json::to_string(&status)?))?;
    } else {
        show(&status)?;
    }
    Ok(Exit::Done)
}

fn show(status: &Status) -> std::io::Result<()> {
    let state = if status.running { "running" } else { "not running" };
    print(format_args!(
        "{state}: {} fetches wait, {} in flight, {} put aside until their not_before",
        number(status.waiting),
        number(status.in_flight),
        number(status.postponed)
    ))?;
    for held in &status.partitions {
        let parts: Parts = held.partitions.iter().copied().collect();
        let node = printable(&held.node);
        let guests = match held.guests {
            0 => String::new(),
            count => format!("; makes {} calls for other nodes", number(count)),
        };
        let count = parts.len();
        print(format_args!("{node} holds {count} of {PARTITIONS} partitions: {parts}{guests}"))?;
    }
    let first = status.configs.first();
    if status.configs.iter().any(|one| first.is_none_or(|first| first.config != one.config)) {
        for one in &status.configs {
            print(format_args!("{} has limits {}", printable(&one.node), printable(&one.config)))?;
        }
        print(format_args!(
            "warning: nodes have different limits; until they agree every limit of all of them applies"
        ))?;
    }
    if status.accounts.is_empty() {
        return Ok(());
    }
    print(format_args!("{:>10} {:>9}  {:<32} WAITS FOR", "WAITING", "IN FLIGHT", "ACCOUNT"))?;
    for look in &status.accounts {
        let name = format!("{}/{}", look.platform, printable(&look.account));
        let because = look.because.as_deref().unwrap_or("nothing");
        let until = look.until.map_or_else(String::new, |until| format!(", until {until:.3}"));
        print(format_args!(
            "{:>10} {:>9}  {name:<32} {because}{until}",
            number(look.waiting),
            look.in_flight
        ))?;
    }
    Ok(())
}

/// A name that may hold anything, without what a terminal would act on.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
