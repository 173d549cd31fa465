//! The provider as clients see it: over real sockets.

use std::io::{self, Read as _};
use std::thread;
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;

use super::*;
use client::{Client, Got};

mod client;
mod rude;

const SECOND: Duration = Duration::from_secs(1);

fn start(limits: Vec<ProviderLimit>) -> Emulator {
    Emulator::start(Profile { limits, record: true, ..Profile::default() }).unwrap()
}

fn ask(emulator: &Emulator, account: &str, path: &str) -> Got {
    Client::connect(emulator.addr()).get(account, path).unwrap()
}

#[test]
fn a_report_is_served_byte_for_byte_as_expected() {
    let emulator = start(Vec::new());
    let mut client = Client::connect(emulator.addr());
    for (account, path, query) in [
        ("act_1", "/v1/reports/daily", "date=2026-01-01"),
        ("광고주", "/v1/reports/daily", "date=2026-01-01&ids=a%2Cb"),
        ("act_1", "/v1/reports/hourly", "rows=5000"),
        ("act_1", "/v1/reports/hourly", ""),
    ] {
        let got = client.get(account, &format!("{path}?{query}")).unwrap();
        assert_eq!(got.status, 200);
        let kind = path.rsplit('/').next().unwrap();
        assert!(got.body == expected_body(account, kind, query, 5), "{account} {path} {query}");
    }
    let calls = emulator.calls();
    assert_eq!(calls.len(), 4, "one connection carried all of them");
    assert_eq!((&*calls[1].account, &*calls[1].endpoint), ("광고주", "/v1/reports/daily"));
    assert_eq!(&*calls[2].query, "rows=5000");
    assert!(calls.is_sorted_by_key(|call| call.at));
}

#[test]
fn compresses_when_told_to_and_only_for_those_who_can_read_it() {
    let gzip = |gzip| {
        let body = BodyShape { rows: 3_000, gzip };
        Emulator::start(Profile { body, ..Profile::default() }).unwrap()
    };
    let (polite, always) = (gzip(Gzip::IfAccepted), gzip(Gzip::Always));
    let expected = expected_body("a", "k", "", 3_000);

    assert!(ask(&polite, "a", "/v1/reports/k").body == expected);
    let mut client = Client::connect(polite.addr());
    let asked = client.get_with("a", "/v1/reports/k", "Accept-Encoding: br, gzip\r\n").unwrap();
    for got in [asked, ask(&always, "a", "/v1/reports/k")] {
        assert_eq!(got.header("content-encoding"), Some("gzip"));
        let mut plain = Vec::new();
        GzDecoder::new(got.body.as_slice()).read_to_end(&mut plain).unwrap();
        assert!(plain == expected);
    }
}

#[test]
fn refuses_exactly_the_call_after_the_last_allowed_one_on_the_wire() {
    let emulator = start(vec![ProviderLimit::window("three", 3, 30 * SECOND)]);
    let mut client = Client::connect(emulator.addr());
    let mut statuses = || client.get("a", "/v1/reports/k").unwrap().status;
    assert_eq!([statuses(), statuses(), statuses(), statuses()], [200, 200, 200, 429]);
    assert_eq!(ask(&emulator, "b", "/v1/reports/k").status, 200);

    let refused = ask(&emulator, "a", "/v1/reports/k");
    let error: serde_json::Value = serde_json::from_slice(&refused.body).unwrap();
    assert_eq!(error["error"]["limit"], "three");
    let retry_after: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((29..=30).contains(&retry_after), "{retry_after}");

    let score = emulator.score();
    assert_eq!((score.calls, score.accepted, score.refused), (6, 4, 2));
    assert_eq!(emulator.counts(), (6, 2));
    assert!(score.worst_excess_us > 29_000_000 && score.worst_excess_us <= 30_000_000);
    let calls = emulator.calls();
    let refused_calls = calls.iter().filter(|call| call.refusal.is_some()).count();
    assert_eq!(refused_calls, 2);
}

#[test]
fn a_call_is_accepted_again_once_the_window_has_passed() {
    let within = Duration::from_millis(200);
    let emulator = start(vec![ProviderLimit::gap("gap", within)]);
    let mut client = Client::connect(emulator.addr());
    assert_eq!(client.get("a", "/v1/reports/k").unwrap().status, 200);
    let answered = Instant::now();
    assert_eq!(client.get("a", "/v1/reports/k").unwrap().status, 429);
    thread::sleep(within.saturating_sub(answered.elapsed()));
    // Counted from the answer, so the arrivals are further apart than the window.
    assert_eq!(client.get("a", "/v1/reports/k").unwrap().status, 200);
    let score = emulator.score();
    assert!(score.share.is_some_and(|share| share > 0.5 && share <= 1.0), "{:?}", score.share);
}

#[test]
fn counts_calls_at_once_until_their_answer_has_ended_or_the_client_is_gone() {
    let emulator = start(vec![ProviderLimit::concurrent("slots", 1)]);
    let mut first = Client::connect(emulator.addr());
    first.send("a", "/rude/hang", "").unwrap();
    until(|| emulator.counts().0 == 1);
    assert_eq!(ask(&emulator, "a", "/v1/reports/k").status, 429);
    assert_eq!(ask(&emulator, "b", "/v1/reports/k").status, 200);
    drop(first);
    until(|| ask(&emulator, "a", "/v1/reports/k").status == 200);
    // A slot is free again before the client has read the last byte.
    let mut client = Client::connect(emulator.addr());
    for path in ["/v1/reports/k", "/rude/big?bytes=300000", "/rude/big?bytes=300000&chunked=1"] {
        for n in 0..20 {
            assert_eq!(client.get("a", path).unwrap().status, 200, "{path} {n}");
        }
    }
    assert_eq!(emulator.score().open_max, 1);
}

#[test]
fn a_client_that_breaks_off_while_it_waits_frees_its_slot() {
    let latency = Latency::Fixed(3_600 * SECOND);
    let limits = vec![ProviderLimit::concurrent("slots", 1)];
    let emulator = Emulator::start(Profile { limits, latency, ..Profile::default() }).unwrap();
    for n in 1..=3 {
        let mut client = Client::connect(emulator.addr());
        until(|| {
            let (calls, refused) = emulator.counts();
            if calls - refused == n {
                return true;
            }
            client = Client::connect(emulator.addr());
            client.send("a", "/v1/reports/k", "").unwrap();
            thread::sleep(Duration::from_millis(5));
            false
        });
    }
}

#[test]
fn the_account_is_read_where_the_profile_says() {
    for (from, account, path, endpoint) in [
        (AccountFrom::Header("X-Ad-Account".into()), "", "/v1/reports/k", "/v1/reports/k"),
        (AccountFrom::Query("acc".into()), "a@b.c", "/v1/reports/k?acc=a%40b.c", "/v1/reports/k"),
        (AccountFrom::Path, "a@b.c", "/v1/accounts/a%40b.c/reports/k?x=1", "/v1/reports/k"),
        (AccountFrom::Path, "a", "/rude/accounts/a/html", "/rude/html"),
    ] {
        let profile = Profile { account_from: from, record: true, ..Profile::default() };
        let emulator = Emulator::start(profile).unwrap();
        let got = ask(&emulator, "ignored", path);
        if account.is_empty() {
            assert_eq!(got.status, 400, "the named header is missing");
            assert_eq!((emulator.score().calls, emulator.score().malformed), (0, 1));
            continue;
        }
        assert_eq!(got.status, 200, "{path}");
        let calls = emulator.calls();
        assert_eq!((&*calls[0].account, &*calls[0].endpoint), (account, endpoint));
    }
}

#[test]
fn answers_come_after_the_latency_and_refusals_at_once() {
    let wait = Duration::from_millis(300);
    let limits = vec![ProviderLimit::gap("gap", 60 * SECOND)];
    let latency = Latency::Range(wait, wait * 2);
    let emulator = Emulator::start(Profile { limits, latency, ..Profile::default() }).unwrap();
    let mut client = Client::connect(emulator.addr());
    let asked = Instant::now();
    assert_eq!(client.get("a", "/v1/reports/k").unwrap().status, 200);
    assert!(asked.elapsed() >= wait);
    let asked = Instant::now();
    assert_eq!(client.get("a", "/v1/reports/k").unwrap().status, 429);
    assert!(asked.elapsed() < wait);
}

#[test]
fn faults_strike_the_share_of_calls_that_was_asked_for() {
    let faults = vec![
        Fault { per_mille: 200, rude: Rude::Status(503) },
        Fault { per_mille: 100, rude: Rude::Reset },
    ];
    let emulator = Emulator::start(Profile { faults, ..Profile::default() }).unwrap();
    let (mut unavailable, mut reset) = (0, 0);
    for _ in 0..1_000 {
        match Client::connect(emulator.addr()).get("a", "/v1/reports/k") {
            Ok(got) if got.status == 503 => unavailable += 1,
            Ok(got) => assert_eq!(got.status, 200),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => reset += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!((140..260).contains(&unavailable), "{unavailable}");
    assert!((50..120).contains(&reset), "{reset}");
}

#[test]
fn hundreds_of_connections_at_once_are_all_answered() {
    let emulator = start(vec![ProviderLimit::gap("gap", 60 * SECOND)]);
    // 400 descriptors of each side fit into the usual limit of 1,024 of one process.
    let mut clients: Vec<Client> = (0..400).map(|_| Client::connect(emulator.addr())).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        client.send(&format!("act_{n}"), "/v1/reports/k", "").unwrap();
    }
    for client in &mut clients {
        assert_eq!(client.receive().unwrap().status, 200);
    }
    assert_eq!(emulator.score().accounts.len(), 400);
}

#[test]
fn stopping_closes_connections_and_keeps_the_score() {
    let mut emulator = start(Vec::new());
    let mut client = Client::connect(emulator.addr());
    assert_eq!(client.get("a", "/v1/reports/k").unwrap().status, 200);
    emulator.stop();
    emulator.stop();
    assert!(client.get("a", "/v1/reports/k").is_err());
    assert_eq!(emulator.score().calls, 1);
}

/// Waits for what must come soon.
fn until(mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + 10 * SECOND;
    while !is_so() {
        assert!(Instant::now() < deadline, "it did not come within 10 s");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn tells_of_its_limits_and_refuses_in_the_shape_of_its_profile() {
    let shaped = |refusal, tells| {
        let limits = vec![ProviderLimit::window("burst", 2, 60 * SECOND)];
        let emulator =
            Emulator::start(Profile { limits, refusal, tells, ..Profile::default() }).unwrap();
        let mut client = Client::connect(emulator.addr());
        let got: Vec<Got> = (0..3).map(|_| client.get("a", "/v1/reports/k").unwrap()).collect();
        assert_eq!(emulator.score().refused, 1);
        got
    };
    let got = shaped(RefusalShape::Code(40100), Tells::Headers);
    let left = |got: &Got| got.header("x-ratelimit-remaining").unwrap().to_owned();
    assert_eq!(got.iter().map(left).collect::<Vec<_>>(), ["1", "0", "0"]);
    assert_eq!(got[2].header("x-ratelimit-limit"), Some("2"));
    assert_eq!(got[2].header("x-ratelimit-reset"), Some("60"));
    assert_eq!(got[2].status, 200);
    assert!(String::from_utf8_lossy(&got[2].body).contains("\"code\":40100"));
    let got = shaped(RefusalShape::Html(403), Tells::Fields);
    assert_eq!(got[0].header("ratelimit"), Some("\"burst\";r=1;t=60"));
    assert_eq!(got[0].header("ratelimit-policy"), Some("\"burst\";q=2;w=60"));
    assert_eq!(
        (got[2].status, got[2].header("content-type")),
        (403, Some("text/html; charset=utf-8"))
    );
    assert!(String::from_utf8_lossy(&got[2].body).contains("slow down"));
    let got = shaped(RefusalShape::Status(400), Tells::Nothing);
    assert_eq!((got[2].status, got[2].header("ratelimit")), (400, None));
    assert!(got[2].header("x-ratelimit-limit").is_none());
}
