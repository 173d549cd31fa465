//! Providers that misbehave: every fetch gets the right end in bounded time, and nobody else notices.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tollgate_emulator::{Call, Emulator, Profile, ProviderLimit, big_pieces};
use tollgate_protos::Dead;

use crate::util::{Config, Dir, accounts, assert_none_refused, fetch, reports, wait_until};

const SECOND: Duration = Duration::from_secs(1);
/// Most calls of a fetch in these tests.
const ATTEMPTS_MAX: u32 = 2;

/// How a fetch of one rude api should end.
#[derive(Debug, Clone, Copy)]
enum End {
    /// Stored, with this body where it is not all zeros or such, after so many calls.
    Done { calls: usize },
    /// Given up with a code, after so many calls; the last answer's status, and what its body holds.
    Dead { code: &'static str, calls: usize, status: Option<u16>, body: &'static str },
}

const fn dead(code: &'static str, calls: usize, status: Option<u16>, body: &'static str) -> End {
    End::Dead { code, calls, status, body }
}

/// Every rude api: its name, its path below `rude/`, its query, and how a fetch of it ends.
const RUDE: &[(&str, &str, &str, End)] = &[
    ("hang", "hang", "", dead("TG0202", 2, None, "")),
    ("hang-after-head", "hang-after-head", "", dead("TG0207", 2, Some(200), "")),
    ("stall", "stall", "after = 70000", dead("TG0207", 2, Some(200), "")),
    ("reset", "reset", "", dead("TG0202", 2, None, "")),
    ("reset-mid", "reset-mid", "", dead("TG0207", 2, Some(200), "")),
    ("short", "short", "", dead("TG0207", 2, Some(200), "")),
    ("long", "long", "", End::Done { calls: 1 }),
    ("garbage", "garbage", "", dead("TG0202", 2, None, "")),
    ("status-400", "status/400", "", dead("TG0201", 1, Some(400), "\"status\":400")),
    ("status-401", "status/401", "", dead("TG0201", 1, Some(401), "\"status\":401")),
    ("status-403", "status/403", "", dead("TG0201", 1, Some(403), "\"status\":403")),
    ("status-404", "status/404", "", dead("TG0201", 1, Some(404), "\"status\":404")),
    ("status-408", "status/408", "", dead("TG0202", 2, Some(408), "\"status\":408")),
    ("status-410", "status/410", "", dead("TG0201", 1, Some(410), "\"status\":410")),
    ("status-500", "status/500", "", dead("TG0202", 2, Some(500), "\"status\":500")),
    ("status-501", "status/501", "", dead("TG0201", 1, Some(501), "\"status\":501")),
    ("status-503", "status/503", "", dead("TG0202", 2, Some(503), "\"status\":503")),
    ("status-204", "status/204", "", End::Done { calls: 1 }),
    ("status-302", "status/302", "", dead("TG0206", 1, Some(302), "\"status\":302")),
    ("status-999", "status/999", "", dead("TG0201", 1, Some(999), "\"status\":999")),
    ("flaky", "flaky", "fails = 1", End::Done { calls: 2 }),
    ("flaky-for-long", "flaky", "fails = 9", dead("TG0202", 2, Some(500), "flaky")),
    ("hint-seconds", "429", "retry_after = 1", End::Done { calls: 2 }),
    ("hint-zero", "429", "retry_after = 0", End::Done { calls: 2 }),
    ("hint-date", "429", "retry_after = \"date\"", End::Done { calls: 2 }),
    ("hint-garbage", "429", "retry_after = \"soon\"", End::Done { calls: 2 }),
    ("hint-none", "429", "", End::Done { calls: 2 }),
    // More refusals than attempts: those are not the fetch's fault.
    ("hint-thrice", "429", "n = 3\nretry_after = 0", End::Done { calls: 4 }),
    ("html", "html", "", dead("TG0205", 2, Some(200), "Please log in")),
    ("bomb", "bomb", "", dead("TG0204", 1, Some(200), "")),
    ("badgzip-plain", "badgzip", "how = \"plain\"", dead("TG0208", 2, Some(200), "")),
    ("badgzip-crc", "badgzip", "how = \"crc\"", dead("TG0208", 2, Some(200), "")),
    ("badgzip-cut", "badgzip", "how = \"cut\"", dead("TG0208", 2, Some(200), "")),
    ("close", "close", "", End::Done { calls: 1 }),
    ("slow", "slow", "ms = 400", End::Done { calls: 1 }),
    ("too-slow", "slow", "ms = 5000", dead("TG0202", 2, None, "")),
    ("nowhere", "nowhere", "", dead("TG0201", 1, Some(404), "no_such_endpoint")),
];

fn emulator(limits: Vec<ProviderLimit>) -> Emulator {
    Emulator::start(Profile { limits, record: true, ..Profile::default() }).unwrap()
}

fn rude_config(emulator: &Emulator) -> Config {
    RUDE.iter().fold(
        Config::of(emulator)
            .collect(&format!("attempts_max = {ATTEMPTS_MAX}"))
            .collect(r#"timeouts = { connect = "1s", first_byte = "700ms", stall = "500ms" }"#),
        |config, (name, path, query, _)| {
            let query = query.replace('\n', ", ");
            config.api(name, &format!("path = \"rude/{path}\"\nquery = {{ {query} }}"))
        },
    )
}

fn calls_of(calls: &[Call], account: &str) -> Vec<Call> {
    calls.iter().filter(|call| &*call.account == account).cloned().collect()
}

/// The dead letters by account.
fn by_account(dead: Vec<Dead>) -> BTreeMap<String, Dead> {
    dead.into_iter()
        .map(|dead| (dead.fetch.as_ref().unwrap().account.clone().unwrap(), dead))
        .collect()
}

#[test]
fn every_rude_answer_ends_right_in_bounded_time_and_delays_nobody() {
    let emulator = emulator(Vec::new());
    let gap = Duration::from_millis(100);
    let config = rude_config(&emulator)
        .api(
            "report",
            "path = \"v1/reports/daily\"\nquery = { date = \"{date}\" }\n\
             limits.gap = { per = [\"account\"], every = \"100ms\" }",
        )
        .store("compression = \"none\"");
    let dir = Dir::with(&config);
    let polite = accounts("polite", 5);
    // One account for each rude api.
    let rude: String = RUDE.iter().map(|(api, ..)| fetch(api, api, "1", json!({}))).collect();
    let ran = dir.run(&(rude + &reports(&polite, 10))).exits(1);
    assert!(ran.took < Duration::from_secs(20), "{ran}");

    let calls = emulator.calls();
    let collected = dir.collected();
    let mut dead = by_account(dir.dead());
    let mut wrong = Vec::new();
    for (api, _, _, end) in RUDE {
        let key = ((*api).to_owned(), (*api).to_owned(), "1".to_owned());
        let made = calls_of(&calls, api).len();
        let (done, letter) = (collected.get(&key), dead.remove(*api));
        let as_wanted = match (*end, done, &letter) {
            (End::Done { calls }, Some(one), None) => {
                made == calls && one.manifest.done.attempts as usize == calls
            }
            (End::Dead { code, calls, status, body }, None, Some(letter)) => {
                made == calls
                    && letter.attempts as usize == calls
                    && letter.code == code
                    && letter.http_status == status
                    && letter.body_start.as_deref().unwrap_or_default().contains(body)
            }
            _ => false,
        };
        if !as_wanted {
            let done = done.map(|one| &one.manifest.done);
            wrong.push(format!("{api}: {made} calls, wanted {end:?}\n  {done:?}\n  {letter:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}\n{ran}", wrong.join("\n"));
    assert!(dead.is_empty(), "{dead:?}");

    let body = |api: &str| collected[&(api.into(), api.into(), "1".into())].body.clone();
    let long: Vec<u8> = big_pieces(30).flatten().take(10).collect();
    assert_eq!(body("long"), long, "as long as the answer said, not as long as what came");
    let close: Vec<u8> = big_pieces(500).flatten().collect();
    assert_eq!(body("close"), close);
    assert_eq!(body("status-204"), b"");
    assert_eq!(body("flaky"), br#"{"ok":true}"#);

    let lag = Duration::from_micros(emulator.score().loop_lag_max_us);
    for account in &polite {
        let made = calls_of(&calls, account);
        let took = made[9].at - made[0].at;
        assert!(took + lag >= gap * 9, "{account}: {took:?}");
        assert!(took < gap * 9 + 2 * SECOND, "{account} was delayed: 10 calls took {took:?}");
    }
}

#[test]
fn a_retry_waits_at_least_a_second_and_a_retry_after_is_kept_on_arrival() {
    let emulator = emulator(Vec::new());
    let dir = Dir::with(&rude_config(&emulator));
    // The wait after the first call, in seconds.
    let cases = [
        ("flaky", 1.0, 2.5),
        ("hint-seconds", 1.0, 1.6),
        ("hint-zero", 0.0, 0.6),
        ("hint-date", 1.0, 3.6),
        ("hint-garbage", 1.0, 2.5),
        ("hint-none", 1.0, 2.5),
    ];
    let rude: String = cases
        .iter()
        .flat_map(|(api, ..)| {
            // Another api of the same account that must wait as well, when the account is held.
            [fetch(api, api, "1", json!({})), fetch(api, "slow", "2", json!({}))]
        })
        .collect();
    let ran = dir.run(&rude).exits(0);
    let calls = emulator.calls();
    for (api, least, most) in cases {
        let made = calls_of(&calls, api);
        let rude: Vec<Instant> =
            made.iter().filter(|c| !c.endpoint.ends_with("slow")).map(|c| c.at).collect();
        assert_eq!(rude.len(), 2, "{api}: {made:?}");
        let waited = (rude[1] - rude[0]).as_secs_f64();
        assert!(waited >= least && waited < most + 1.0, "{api} waited {waited} s");
    }
    assert_eq!(ran.summary().refused, 5, "answers of 429\n{ran}");
}

#[test]
fn after_a_429_no_call_of_the_account_arrives_before_its_time() {
    let emulator = emulator(Vec::new());
    let dir = Dir::with(&rude_config(&emulator).report());
    let held = "held";
    let others = accounts("other", 3);
    // The first call of the account is refused for two seconds, others of it follow at once.
    let fetches = [
        fetch(held, "hint-date", "1", json!({})),
        fetch("else", "hint-seconds", "1", json!({})),
        reports(&[held.to_owned()], 6),
        reports(&others, 6),
    ];
    let ran = dir.run(&fetches.concat()).exits(0);
    let calls = emulator.calls();
    let made = calls_of(&calls, held);
    let refused = made.iter().position(|call| call.endpoint.ends_with("429")).unwrap();
    // What was in flight when the refusal came is not held back; the emulator answers in far less.
    let answered = made[refused].at + Duration::from_millis(300);
    let early: Vec<_> = made[refused + 1..]
        .iter()
        .filter(|call| call.at > answered && call.at < made[refused].at + SECOND)
        .collect();
    assert!(early.is_empty(), "{early:?}\n{ran}");
    for account in &others {
        let last = calls_of(&calls, account).last().unwrap().at;
        assert!(last < made[refused].at + SECOND, "{account} was held back too");
    }
}

#[test]
fn refusals_that_say_nothing_are_met_with_growing_holds() {
    let emulator = emulator(Vec::new());
    let config = Config::of(&emulator).api("deaf", "path = \"rude/429\"\nquery = { n = 2 }");
    let dir = Dir::with(&config);
    dir.run(&fetch("a", "deaf", "1", json!({}))).exits(0);
    let made = emulator.calls();
    assert_eq!(made.len(), 3);
    let gaps: Vec<f64> = made.windows(2).map(|two| (two[1].at - two[0].at).as_secs_f64()).collect();
    for (gap, least) in gaps.iter().zip([1.0, 2.0]) {
        assert!(*gap >= least && *gap < least * 2.0 + 1.0, "{gaps:?}");
    }
}

#[test]
fn a_retry_after_beyond_reason_holds_for_an_hour_and_says_so() {
    let emulator = emulator(Vec::new());
    let config = Config::of(&emulator)
        .api("huge", "path = \"rude/429\"\nquery = { retry_after = \"huge\" }")
        .report();
    let dir = Dir::with(&config);
    dir.write("fetches.jsonl", fetch("a", "huge", "1", json!({})) + &reports(&["b".into()], 3));
    let before = jiff::Timestamp::now();
    let running = dir.tollgate(&["run", "--json", "fetches.jsonl"]).start();
    let look = |status: &Value| {
        let account = status["accounts"].as_array()?.first()?;
        account["until"].is_string().then(|| account.clone())
    };
    let ask = || dir.tollgate(&["status", "p/a", "--json"]).run();
    let is_hour = |account: &Value| {
        let until: jiff::Timestamp = account["until"].as_str().unwrap().parse().unwrap();
        let wait = until.duration_since(before).as_secs();
        assert!((3590..3700).contains(&wait), "{account}");
        let because = account["because"].as_str().unwrap();
        assert!(because.contains("429") && because.contains("Retry-After"), "{account}");
    };
    wait_until("the hold", || {
        let ran = ask();
        // Until the node is there, nothing answers.
        (ran.code == Some(0)).then(|| look(&ran.json())).flatten().map(|a| is_hour(&a))
    });
    running.signal("TERM");
    let ran = running.wait().exits(3);
    assert_eq!((ran.summary().done, ran.summary().left), (3, 1), "{ran}");
    // The hold is kept: the next run does not call, and the folder at rest says the same.
    is_hour(&look(&ask().exits(0).json()).unwrap());
    let running = dir.tollgate(&["run", "--json"]).start();
    wait_until("the hold again", || {
        let ran = ask();
        let status = (ran.code == Some(0)).then(|| ran.json())?;
        (status["running"] == true).then(|| look(&status)).flatten().map(|a| is_hour(&a))
    });
    running.signal("TERM");
    running.wait().exits(3);
    assert_eq!(calls_of(&emulator.calls(), "a").len(), 1);
}

#[test]
fn a_redirect_is_not_followed() {
    let emulator = emulator(Vec::new());
    let elsewhere = self::emulator(Vec::new());
    let config = Config::of(&emulator)
        .platform(r#"auth = { bearer = "env:SECRET" }"#)
        .api("away", "path = \"rude/redirect\"\nquery = { to = \"{to}\" }");
    let dir = Dir::with(&config);
    let targets = [
        format!("{}v1/reports/daily", elsewhere.base_url()),
        format!("{}v1/reports/daily", emulator.base_url()),
        "/v1/reports/daily".to_owned(),
    ];
    let fetches: String = targets
        .iter()
        .map(|to| fetch("a", "away", to.get(..20).unwrap_or(to), json!({ "params": { "to": to } })))
        .collect();
    dir.write("fetches.jsonl", fetches);
    let run = dir.tollgate(&["run", "--json", "fetches.jsonl"]).env("SECRET", "s3cr3t");
    let summary = run.run().exits(1).summary();
    assert_eq!((summary.calls, summary.dead), (summary.fetches, summary.fetches));
    assert_eq!(elsewhere.counts().0 + elsewhere.score().malformed, 0);
    let calls = emulator.calls();
    assert!(calls.iter().all(|call| &*call.endpoint == "/rude/redirect"), "{calls:?}");
}

#[test]
fn a_provider_that_is_not_there_is_waited_for_and_its_fetches_are_kept() {
    let gone = {
        let emulator = emulator(Vec::new());
        emulator.base_url()
    };
    let dir = Dir::with(&Config::at(&gone).report());
    dir.write("fetches.jsonl", reports(&accounts("act", 3), 2));
    let running = dir.tollgate(&["run", "--json", "fetches.jsonl"]).start();
    wait_until("a hold", || {
        let ran = dir.tollgate(&["status", "--json"]).run();
        let status = (ran.code == Some(0)).then(|| ran.json())?;
        let account = status["accounts"].as_array()?.first()?;
        account["because"].as_str()?.contains("could not be reached").then_some(())
    });
    running.signal("TERM");
    let ran = running.wait().exits(3);
    assert_eq!((ran.summary().left, ran.summary().dead), (6, 0), "{ran}");
}

#[test]
fn bad_luck_with_every_tenth_call_loses_nothing() {
    let limits = vec![ProviderLimit::window("pair", 10, SECOND)];
    let faults = [
        tollgate_emulator::Rude::Status(500),
        tollgate_emulator::Rude::ResetMid,
        tollgate_emulator::Rude::Reset,
        tollgate_emulator::Rude::Short,
        tollgate_emulator::Rude::Garbage,
    ];
    let faults = faults.map(|rude| tollgate_emulator::Fault { per_mille: 20, rude }).to_vec();
    let emulator =
        Emulator::start(Profile { limits, faults, record: true, ..Profile::default() }).unwrap();
    let config = Config::of(&emulator)
        .limit(r#"pair = { per = ["account"], max = 10, in = "1s" }"#)
        .report();
    let dir = Dir::with(&config);
    let accounts = accounts("act", 20);
    let ran = dir.run(&reports(&accounts, 8)).exits(0);
    assert_none_refused(&emulator);
    dir.assert_reports(&accounts, 8);
    let calls = ran.summary().calls;
    assert!(calls > 165, "there was bad luck: {calls} calls");
    assert_eq!(calls, emulator.counts().0);
}

#[test]
fn connections_that_are_closed_behind_a_promise_cost_no_fetch() {
    let emulator = emulator(Vec::new());
    let config = Config::of(&emulator)
        .limit(r#"slots = { per = ["account"], concurrent = 1 }"#)
        .api("close", "path = \"rude/close\"");
    let dir = Dir::with(&config);
    let fetches: String = (0..12).map(|n| fetch("a", "close", &n.to_string(), json!({}))).collect();
    let ran = dir.run(&fetches).exits(0);
    assert_eq!(ran.summary().done, 12, "{ran}");
    assert_eq!(dir.collected().len(), 12);
}
