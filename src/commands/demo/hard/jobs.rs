//! `jobs`: slots that outlive the call, unless its answer says that the job is over.

use std::time::Duration;

use serde_json::json;
use tollgate_emulator::cases::Knobs;
use tollgate_emulator::cases::jobs::{
    CREATES, Jobs, LONG_DAYS, LONG_PER_ACCOUNT, PER_ACCOUNT, PER_APP, TTL,
};

use super::{Set, fetch, if_wrong, killed, knobs};
use crate::cli::DemoArgs;

/// Jobs that each account orders.
const EACH: usize = 14;

pub(super) fn set(args: &DemoArgs) -> anyhow::Result<(Knobs, Set)> {
    let usual = Knobs { lost: 20, kills: 3, ..Knobs::default() };
    let knobs = knobs(if args.wrong { Knobs::default() } else { usual }, args)?;
    let accounts = args.accounts.unwrap_or(if args.wrong { 3 } else { 10 }) as usize;
    let mut fetches = String::new();
    for n in 0..EACH {
        for account in 0..accounts {
            let days = if n % 5 == 0 { LONG_DAYS.to_string() } else { "1".into() };
            let params = json!({ "report": n.to_string(), "days": days });
            let name = format!("act_{account}");
            fetches += &fetch("jobs", (&name, "create"), &n.to_string(), params);
        }
    }
    // One slot too many.
    let slots = PER_ACCOUNT + usize::from(args.wrong);
    let ttl = TTL.as_secs();
    let platforms = move |base: &str| {
        format!(
            "[platforms.jobs]\n\
             base_url = \"{base}\"\n\
             headers = {{ X-Account = \"{{account}}\" }}\n\
             lost_call = \"1s\"\n\
             keys = {{ app = \"main\" }}\n\
             observe = [{{ header = \"x-concurrent-job-limit\", as = \"limit\", limit = \"slots\" }}]\n\
             over = [{{ status = 429, body = \"error.code\", is = \"TOO_MANY_JOBS\", wait = \"{ttl}s\" }}]\n\n\
             [platforms.jobs.limits]\n\
             slots = {{ per = [\"account\"], jobs = {slots}, ttl = \"{ttl}s\" }}\n\
             long = {{ per = [\"account\"], jobs = {LONG_PER_ACCOUNT}, ttl = \"{ttl}s\", when = {{ params.days = {{ min = {LONG_DAYS} }} }} }}\n\
             app = {{ per = [\"app\"], jobs = {PER_APP}, ttl = \"{ttl}s\" }}\n\
             creates = {{ per = [\"app\"], rate = \"{CREATES}/s\", burst = {CREATES} }}\n\n\
             [platforms.jobs.apis.create]\n\
             path = \"v1/jobs\"\n\
             query = {{ report = \"{{report}}\", days = \"{{days}}\" }}\n\
             format = \"json\"\n\
             job = \"{{report}}\"\n\
             job_ends = [{{ body = \"state\", is = \"DONE\" }}]\n"
        )
    };
    let set = Set {
        case: Box::new(Jobs::new(args.wrong)),
        platforms: Box::new(platforms),
        collect: "attempts_max = 20",
        lives: killed(knobs.kills, Duration::from_secs(14), &fetches),
        mended: None,
        beside: Box::new(|ran| Ok(if_wrong(ran))),
    };
    Ok((knobs, set))
}
