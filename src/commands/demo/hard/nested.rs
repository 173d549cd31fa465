//! `nested`: a second, a minute and a day at once.

use std::fmt::Write;
use std::time::Duration;

use jiff::{Timestamp, ToSpan};
use serde_json::json;
use tollgate_actors::clock::Clock;
use tollgate_emulator::cases::Knobs;
use tollgate_emulator::cases::nested::{
    APPS, DAY, EDGE, EDGE_LEFT, MINUTE, Nested, ODD, ODD_WAIT, PENALTY,
};

use super::{End, Life, Set, fetch, if_wrong, knobs};
use crate::cli::DemoArgs;

/// How far the provider's midnight may be from what is declared.
const SLACK: Duration = Duration::from_millis(200);
/// Accounts of each app, and their calls.
const OF_APP: [(&str, usize, usize); 3] = [("qps", 8, 14), ("qpm", 5, 16), ("qpd", 4, 30)];

pub(super) fn set(args: &DemoArgs) -> anyhow::Result<(Knobs, Set)> {
    let kills = u16::from(!args.wrong);
    let usual = Knobs { latency: Duration::from_millis(20), kills, ..Knobs::default() };
    let knobs = knobs(usual, args)?;
    // A whole second, so that it can be said as a time of day.
    let now = Clock::new().wall();
    let day = i64::try_from(DAY.as_secs())?;
    let midnight = Timestamp::from_second(now.as_second())?.checked_add(day.seconds())?;
    let micros = midnight.as_microsecond() - now.as_microsecond();
    let midnight_in = Duration::from_micros(u64::try_from(micros)?);
    let time = midnight.strftime("%H:%M:%S").to_string();
    let wrong = args.wrong;
    let set = Set {
        case: Box::new(Nested::new(midnight_in, wrong)),
        platforms: Box::new(move |base| platforms(base, &time, wrong)),
        collect: if wrong { "shards = 1" } else { "" },
        lives: lives(wrong, knobs.kills, now)?,
        mended: None,
        beside: Box::new(|ran| Ok(if_wrong(ran))),
    };
    Ok((knobs, set))
}

fn lives(wrong: bool, kills: u16, now: Timestamp) -> anyhow::Result<Vec<Life>> {
    let call = |app: &str, account: &str, n: usize| {
        fetch(app, (account, "report"), &n.to_string(), json!({ "n": n.to_string() }))
    };
    let (mut all, mut edge) = (String::new(), String::new());
    for (app, accounts, each) in OF_APP {
        for n in 0..each {
            for account in 0..accounts {
                let is_odd = app == "qps" && account == 0;
                let name = if is_odd { ODD.into() } else { format!("{app}_{account}") };
                all += &call(app, &name, n);
            }
            if app == "qpd" && !wrong {
                if (n as u64) < APPS[2].1[2] - EDGE_LEFT {
                    edge += &call(app, EDGE, n);
                }
                all += &call(app, EDGE, n);
            }
        }
    }
    let mut lives = Vec::new();
    if kills > 0 {
        let first = edge.lines().count() as u64;
        // A fetch that is not due yet keeps the collector from ending by itself.
        let late = json!({
            "id": "late", "platform": "qps", "account": "late", "api": "report",
            "params": { "n": "late" }, "not_before": now.checked_add(10.seconds())?,
        });
        let late = format!("{late}\n");
        all += &late;
        edge += &late;
        lives.push(Life { fetches: edge, end: End::KilledQuiet(first) });
    }
    lives.push(Life { fetches: all, end: End::Itself });
    Ok(lives)
}

fn platforms(base: &str, time: &str, wrong: bool) -> String {
    let mut text = String::new();
    for (app, limits) in APPS {
        // Too high by another half.
        let [second, minute, day] = limits.map(|max| if wrong { max + max / 2 } else { max });
        let one = if wrong { "one = { per = [\"platform\"], concurrent = 1 }\n" } else { "" };
        // Writing to a String does not fail.
        let _written = writeln!(
            text,
            "[platforms.{app}]\n\
             base_url = \"{base}{app}/\"\n\
             headers = {{ X-Account = \"{{account}}\" }}\n\
             lost_call = \"1s\"\n\
             keys = {{ app = \"{app}\" }}\n\
             over = [\n  \
             {{ status = 200, body = \"code\", is = 40133, wait = \"{odd}s\" }},\n  \
             {{ status = 200, body = \"code\", is = 40100, contains = \": second\", wait = \"1s\", scope = \"platform\" }},\n  \
             {{ status = 200, body = \"code\", is = 40100, contains = \": day\", hits = \"day\", wait = \"boundary\", jitter = \"100ms\" }},\n  \
             {{ status = 200, body = \"code\", is = 40100, wait = \"{penalty}s\", scope = \"platform\" }} ]\n\n\
             [platforms.{app}.limits]\n\
             second = {{ per = [\"app\"], max = {second}, in = \"1s\" }}\n\
             minute = {{ per = [\"app\"], max = {minute}, in = \"{minute_in}s\" }}\n\
             day = {{ per = [\"account\"], max = {day}, in = \"{day_in}s\", resets = \"{time} UTC\", reset_slack = \"{slack}ms\" }}\n\
             {one}\n\
             [platforms.{app}.apis.report]\n\
             path = \"v1/report\"\n\
             query = {{ n = \"{{n}}\" }}\n\
             format = \"json\"\n",
            odd = ODD_WAIT.as_secs(),
            penalty = PENALTY.as_secs(),
            minute_in = MINUTE.as_secs(),
            day_in = DAY.as_secs(),
            slack = SLACK.as_millis(),
        );
    }
    text
}
