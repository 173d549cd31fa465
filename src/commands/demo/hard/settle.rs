//! `settle`: costs that only the answer tells, others who use the quota up, an error budget.

use std::time::Duration;

use serde_json::json;
use tollgate_emulator::cases::Knobs;
use tollgate_emulator::cases::settle::{
    AT_ONCE, ERRORS, GUESS, MAX, RESERVE, SHARED, STORMY, Settle, WINDOW,
};

use super::{Set, fetch, if_wrong, killed, knobs};
use crate::cli::DemoArgs;

/// Calls of each account.
const EACH: usize = 90;

pub(super) fn set(args: &DemoArgs) -> anyhow::Result<(Knobs, Set)> {
    let usual = Knobs {
        latency: Duration::from_millis(120),
        rival: 500,
        silent: 300,
        stale: 150,
        kills: 1,
        ..Knobs::default()
    };
    let calm = Knobs { latency: Duration::from_millis(60), ..Knobs::default() };
    let knobs = knobs(if args.wrong { calm } else { usual }, args)?;
    let accounts = args.accounts.unwrap_or(if args.wrong { 3 } else { 12 }) as usize;
    let mut names: Vec<String> = (0..accounts).map(|n| format!("act_{n}")).collect();
    if !args.wrong {
        names.extend([SHARED.to_owned(), STORMY.to_owned()]);
    }
    let mut fetches = String::new();
    for n in 0..EACH {
        for name in &names {
            let n = n.to_string();
            fetches += &fetch("settle", (name, "rows"), &n, json!({ "n": n }));
        }
    }
    let (max, reserve) = if args.wrong { (MAX * 2, 0) } else { (MAX, RESERVE) };
    let slots = if args.wrong { 1 } else { AT_ONCE };
    // What is left is not listened to where it is shown what a wrong number costs.
    let observe = if args.wrong {
        "observe = [{ header = \"x-quota-limit\", as = \"limit\", limit = \"bytes\" }]"
    } else {
        "observe = [{ header = \"x-quota-remaining\", as = \"remaining\", limit = \"bytes\" }]"
    };
    let window = WINDOW.as_secs();
    let platforms = move |base: &str| {
        format!(
            "[platforms.settle]\n\
             base_url = \"{base}\"\n\
             headers = {{ X-Account = \"{{account}}\" }}\n\
             lost_call = \"1s\"\n\
             {observe}\n\
             over = [{{ status = 429, body = \"error.status\", is = \"RESOURCE_EXHAUSTED\", hits = \"bytes\", wait = \"boundary\", jitter = \"100ms\" }}]\n\n\
             [platforms.settle.limits]\n\
             bytes = {{ per = [\"account\"], max = {max}, in = \"{window}s\", counts = \"bytes\", cost = {GUESS}, reserve = \"{reserve}%\" }}\n\
             errors = {{ per = [\"account\"], max = {ERRORS}, in = \"{window}s\", counts = \"errors\", reserve = 1 }}\n\
             slots = {{ per = [\"account\"], concurrent = {slots} }}\n\n\
             [platforms.settle.apis.rows]\n\
             path = \"v1/rows\"\n\
             query = {{ n = \"{{n}}\" }}\n\
             format = \"json\"\n"
        )
    };
    let set = Set {
        case: Box::new(Settle::new(knobs.seed, knobs.rival, args.wrong)),
        platforms: Box::new(platforms),
        collect: "attempts_max = 50",
        lives: killed(knobs.kills, Duration::from_secs(12), &fetches),
        mended: None,
        beside: Box::new(|ran| Ok(if_wrong(ran))),
    };
    Ok((knobs, set))
}
