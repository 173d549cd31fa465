//! `score`: points that decay, percentages, blocks.

use std::fs;
use std::time::Duration;

use serde_json::json;
use tollgate_emulator::cases::score::{
    BLOCK, DECAY, HEAVY, MAX, REACH, REACH_ENDPOINT, SHARED, Score,
};
use tollgate_emulator::cases::{Knobs, Mark};

use super::{Ran, Set, fetch, if_wrong, killed, knobs, manifests};
use crate::cli::DemoArgs;

/// Calls of each account, and of those that get less of the points.
const EACH: usize = 200;
const EACH_OF_FEW: usize = 120;
/// Calls with reach of each account.
const EACH_REACH: usize = 12;

pub(super) fn set(args: &DemoArgs) -> anyhow::Result<(Knobs, Set)> {
    let usual = Knobs { rival: 300, silent: 100, kills: 1, ..Knobs::default() };
    let quick = Knobs { latency: Duration::from_millis(8), ..Knobs::default() };
    let knobs = knobs(if args.wrong { quick } else { usual }, args)?;
    let accounts = args.accounts.unwrap_or(if args.wrong { 5 } else { 40 }) as usize;
    let mut fetches = String::new();
    let mut names: Vec<String> = (0..accounts).map(|n| format!("act_{n}")).collect();
    if !args.wrong {
        names.extend([SHARED.to_owned(), HEAVY.to_owned()]);
    }
    for n in 0..EACH {
        for name in &names {
            let few = name == SHARED || name == HEAVY;
            if few && n >= EACH_OF_FEW {
                continue;
            }
            let date = n.to_string();
            fetches += &fetch("score", (name, "insights"), &date, json!({ "date": date }));
            if n < EACH_REACH && !args.wrong {
                fetches += &fetch("score", (name, "reach"), &date, json!({ "date": date }));
            }
        }
    }
    let max = if args.wrong { MAX * 3 } else { MAX };
    let (decay, block) = (DECAY.as_secs(), BLOCK.as_secs());
    let percent = if args.wrong {
        ""
    } else {
        "observe = [\n  \
           { header = \"x-usage\", path = \"*.*.call_count\", as = \"percent\", target = 95, limit = \"points\" },\n  \
           { header = \"x-usage\", path = \"*.*.total_cputime\", as = \"percent\", target = 90, scope = \"account\", wait = \"1s\" } ]\n"
    };
    let (reach, reach_in) = (REACH.0, REACH.1.as_secs());
    let platforms = move |base: &str| {
        format!(
            "[platforms.score]\n\
             base_url = \"{base}\"\n\
             headers = {{ X-Account = \"{{account}}\" }}\n\
             lost_call = \"1s\"\n\
             {percent}\
             over = [{{ status = 400, body = \"error.code\", is = [4, 17, 613], hits = \"points\", \
             wait = {{ header = \"x-usage\", path = \"*.*.estimated_time_to_regain_access\", unit = \"min\" }} }}]\n\n\
             [platforms.score.limits]\n\
             points = {{ per = [\"account\"], score = {max}, decay = \"{decay}s\", block = \"{block}s\" }}\n\
             slots = {{ per = [\"account\"], concurrent = 1 }}\n\n\
             [platforms.score.apis.insights]\n\
             path = \"v1/insights\"\n\
             query = {{ date = \"{{date}}\" }}\n\
             format = \"json\"\n\n\
             [platforms.score.apis.reach]\n\
             path = \"{path}\"\n\
             query = {{ date = \"{{date}}\" }}\n\
             format = \"json\"\n\
             limits.reach = {{ per = [\"account\"], max = {reach}, in = \"{reach_in}s\" }}\n\
             over = [{{ status = 200, body = \"left_out.reach\", hits = \"reach\", wait = \"3s\", scope = \"api\" }}]\n",
            path = REACH_ENDPOINT.trim_start_matches('/'),
        )
    };
    let set = Set {
        case: Box::new(Score::new(knobs.seed, knobs.rival, args.wrong)),
        platforms: Box::new(platforms),
        collect: "attempts_max = 20",
        lives: killed(knobs.kills, Duration::from_secs(16), &fetches),
        mended: None,
        beside: Box::new(beside),
    };
    Ok((knobs, set))
}

fn beside(ran: &Ran) -> anyhow::Result<Vec<Mark>> {
    if ran.is_wrong {
        return Ok(if_wrong(ran));
    }
    let mut incomplete = 0;
    for manifest in manifests(&ran.folder)? {
        let object = manifest.with_file_name("00001.json");
        let body = fs::read_to_string(&object)?;
        incomplete += u64::from(body.contains("left_out"));
    }
    Ok(vec![Mark::at_most("answers with a field left out that were stored", 0, incomplete)])
}
