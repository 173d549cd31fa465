//! `clock`: quotas that start anew at a time of day.

use std::fmt::Write;
use std::fs;
use std::time::Duration;

use anyhow::Context;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tollgate_emulator::cases::clock::{Clock, DAY, MAX, RESETS};
use tollgate_emulator::cases::{Knobs, Mark};

use super::{Ran, Set, fetch, if_wrong, killed, knobs, tollgate};
use crate::cli::DemoArgs;

/// The platforms, and whose midnight they start anew at.
const PLACES: [(&str, &str); 2] = [("pacific", "America/Los_Angeles"), ("seoul", "Asia/Seoul")];
/// Calls of each account: three whole days and parts of two.
const EACH: u64 = MAX * 4 + MAX / 2;
/// Beyond what the provider's clock is off: what this machine may add to it.
const SLACK_BEYOND: Duration = Duration::from_millis(60);
/// How far a forecast may be behind a reset: the slack that is declared for whole days, and what calls take.
const FORECAST_LATE: SignedDuration = SignedDuration::from_secs(5);

pub(super) fn set(args: &DemoArgs) -> anyhow::Result<(Knobs, Set)> {
    let usual = Knobs { clock: Duration::from_millis(150), kills: 1, ..Knobs::default() };
    let calm = Knobs { clock: Duration::from_millis(10), ..Knobs::default() };
    let knobs = knobs(if args.wrong { calm } else { usual }, args)?;
    let accounts = args.accounts.unwrap_or(if args.wrong { 4 } else { 30 });
    let mut fetches = String::new();
    for n in 0..EACH {
        for (place, _) in PLACES {
            for account in 0..accounts {
                let params = json!({ "n": n.to_string() });
                let name = format!("act_{account}");
                fetches += &fetch(place, (&name, "report"), &n.to_string(), params);
            }
        }
    }
    let slack = (knobs.clock + SLACK_BEYOND).as_millis();
    let max = if args.wrong { MAX + 2 } else { MAX };
    let day = DAY.as_secs();
    let platforms = move |base: &str| {
        let mut text = String::new();
        for (place, zone) in PLACES {
            // Writing to a String does not fail.
            let _written = writeln!(
                text,
                "[platforms.{place}]\n\
                 base_url = \"{base}{place}/\"\n\
                 headers = {{ X-Account = \"{{account}}\" }}\n\
                 lost_call = \"1s\"\n\
                 over = [{{ status = 403, body = \"error.code\", is = \"daily_limit\", hits = \"day\", wait = \"boundary\", jitter = \"100ms\" }}]\n\n\
                 [platforms.{place}.limits]\n\
                 day = {{ per = [\"account\"], max = {max}, in = \"{day}s\", resets = \"00:00 {zone}\", reset_slack = \"{slack}ms\" }}\n\
                 one = {{ per = [\"account\"], concurrent = 1 }}\n\n\
                 [platforms.{place}.apis.report]\n\
                 path = \"v1/report\"\n\
                 query = {{ n = \"{{n}}\" }}\n\
                 format = \"json\"\n"
            );
        }
        text
    };
    let set = Set {
        case: Box::new(Clock::new(knobs.clock, args.wrong)),
        platforms: Box::new(platforms),
        collect: "",
        lives: killed(knobs.kills, DAY * 3, &fetches),
        mended: None,
        beside: Box::new(|ran| if ran.is_wrong { Ok(if_wrong(ran)) } else { forecasts(ran) }),
    };
    Ok((knobs, set))
}

/// What the collector says of days on which clocks are changed: three days' worth of calls end right behind the second
/// midnight.
fn forecasts(ran: &Ran) -> anyhow::Result<Vec<Mark>> {
    let mut marks = Vec::new();
    for (zone, from, [_, second]) in RESETS {
        let config = ran.config.with_file_name("day.toml");
        let text = format!(
            "[platforms.day]\n\
             base_url = \"http://127.0.0.1:1/\"\n\
             [platforms.day.limits]\n\
             day = {{ per = [\"account\"], max = 4, in = \"1d\", resets = \"00:00 {zone}\" }}\n\
             [platforms.day.apis.report]\n\
             path = \"v1/report\"\n\
             query = {{ n = \"{{n}}\" }}\n"
        );
        fs::write(&config, text).context("write a configuration")?;
        let file = ran.folder.join("day.jsonl");
        let fetches: String = (0..12)
            .map(|n| fetch("day", ("act", "report"), &n.to_string(), json!({ "n": n.to_string() })))
            .collect();
        fs::write(&file, fetches).context("write fetches")?;
        let mut command = tollgate(&config)?;
        command.args(["plan", "--json", "--no-changes", "--at", from]).arg(&file);
        let out = command.output().context("ask for a forecast")?.stdout;
        let told: Value = serde_json::from_slice(&out).context("read the forecast")?;
        let finish = told["finish"].as_str().unwrap_or("never");
        let second: Timestamp = second.parse()?;
        let late = finish.parse::<Timestamp>().ok().map(|finish| finish.duration_since(second));
        let pass = late.is_some_and(|late| (SignedDuration::ZERO..FORECAST_LATE).contains(&late));
        marks.push(Mark::new(
            format!("a forecast from {from} over two midnights of {zone}"),
            format!("done within 5 s behind {second}"),
            finish,
            pass,
        ));
    }
    Ok(marks)
}
