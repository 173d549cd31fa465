//! `interval`: gaps, with keys that the shape of a call decides.

use std::fmt::Write;
use std::time::Duration;

use serde_json::json;
use tollgate_emulator::cases::Knobs;
use tollgate_emulator::cases::interval::{APP_GAP, GAP, Interval, LONG_GAP};

use super::{Platforms, Set, fetch, if_wrong, killed, knobs};
use crate::cli::DemoArgs;

/// Calls of each account to a quick endpoint; to a slow one half as many.
const EACH: usize = 10;
/// Accounts that ask for several ids at once, and how often on each of two endpoints.
const SEVERAL: (usize, usize) = (6, 2);
/// Beyond the longest way of a request: what this machine may add to it.
const GUARD_BEYOND: Duration = Duration::from_millis(60);
/// When the provider asks for a longer gap, where that is the case.
const TIGHTENS_AT: Duration = Duration::from_secs(5);

pub(super) fn set(args: &DemoArgs) -> anyhow::Result<(Knobs, Set)> {
    let usual = Knobs {
        jitter: Duration::from_millis(400),
        lost: 10,
        clock: Duration::from_secs(60),
        kills: 2,
        ..Knobs::default()
    };
    let calm = Knobs { jitter: Duration::from_millis(20), ..Knobs::default() };
    let knobs = knobs(if args.wrong { calm } else { usual }, args)?;
    let guard = knobs.jitter + GUARD_BEYOND;
    let accounts = args.accounts.unwrap_or(if args.wrong { 20 } else { 200 });
    let tightens_at = args.wrong.then_some(TIGHTENS_AT);
    let fetches = fetches(accounts as usize, args.wrong);
    let [gap, long, app, guard_ms] = [GAP, LONG_GAP, APP_GAP, guard].map(|time| time.as_millis());
    let platforms = move |base: &str, gap: u128| {
        let mut text = format!(
            "[platforms.interval]\n\
             base_url = \"{base}\"\n\
             headers = {{ X-Account = \"{{account}}\" }}\n\
             lost_call = \"1s\"\n\
             keys = {{ app = \"main\" }}\n\
             guard = \"{guard_ms}ms\"\n\n\
             [platforms.interval.limits]\n\
             quick = {{ per = [\"account\", \"api\"], every = \"{gap}ms\", when = {{ api = [\"account\", \"campaign\"] }} }}\n\
             single = {{ per = [\"account\"], every = \"{long}ms\", when = {{ api = [\"adgroup\"], params.ids = \"one\" }} }}\n\
             batch = {{ per = [\"app\"], every = \"{app}ms\", when = {{ api = [\"adgroup\", \"creative\"], params.ids = \"several\" }} }}\n\n"
        );
        for api in ["account", "campaign", "adgroup", "creative"] {
            let own = format!("limits.own = {{ per = [\"account\"], every = \"{long}ms\" }}\n");
            let more = if api == "creative" { own.as_str() } else { "" };
            // Writing to a String does not fail.
            let _written = writeln!(
                text,
                "[platforms.interval.apis.{api}]\n\
                 path = \"v1/{api}\"\n\
                 query = {{ ids = \"{{ids|join(',')}}\", date = \"{{date}}\" }}\n\
                 format = \"json\"\n{more}"
            );
        }
        text
    };
    let span = (GAP + guard) * u32::try_from(EACH).expect("a few");
    let set = Set {
        case: Box::new(Interval::new(guard, tightens_at)),
        platforms: Box::new(move |base| platforms(base, gap)),
        mended: args.wrong.then(|| -> Platforms { Box::new(move |base| platforms(base, long)) }),
        collect: "concurrency = 4096\nattempts_max = 10",
        lives: killed(knobs.kills, span, &fetches),
        beside: Box::new(|ran| Ok(if_wrong(ran))),
    };
    Ok((knobs, set))
}

fn fetches(accounts: usize, wrong: bool) -> String {
    let mut lines = String::new();
    let each = if wrong { 2 * EACH } else { EACH };
    for n in 0..each {
        for account in 0..accounts {
            let name = format!("act_{account}");
            for api in ["account", "campaign", "adgroup", "creative"] {
                let slow = matches!(api, "adgroup" | "creative");
                if slow && (wrong || n % 2 == 1) {
                    continue;
                }
                let several = slow && account < SEVERAL.0 && n / 2 < SEVERAL.1;
                let ids = if several { json!(["1", "2", "3", "4", "5"]) } else { json!(["1"]) };
                let params = json!({ "ids": ids, "date": n.to_string() });
                lines += &fetch("interval", (&name, api), &n.to_string(), params);
            }
        }
    }
    lines
}
