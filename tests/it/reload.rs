//! Another configuration while the binary works: by SIGHUP and by the file's change.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use tollgate_emulator::{Emulator, Latency, Profile, ProviderLimit};

use crate::util::{
    Config, Dir, Luck, Provider, Running, Told, accounts, assert_none_refused, fetch, reports,
    wait_until,
};

const RELOADED: &str = r#""event":"config_reloaded""#;
const REFUSED: &str = r#""event":"config_refused""#;

fn emulator(limits: Vec<ProviderLimit>) -> Emulator {
    let latency = Latency::Range(Duration::ZERO, Duration::from_millis(20));
    Emulator::start(Profile { limits, latency, record: true, ..Profile::default() }).unwrap()
}

fn config(emulator: &Emulator, limit: &str) -> Config {
    Config::of(emulator).limit(limit).report()
}

fn per_second(max: u32) -> String {
    format!(r#"sec = {{ per = ["account"], max = {max}, in = "1s" }}"#)
}

fn every(gap: &str) -> String {
    format!(r#"gap = {{ per = ["account"], every = "{gap}" }}"#)
}

/// `tollgate run` on reports of these accounts.
fn start(dir: &Dir, accounts: &[String], each: usize) -> Running {
    dir.write("fetches.jsonl", reports(accounts, each));
    dir.tollgate(&["run", "--json", "fetches.jsonl"]).start()
}

/// Puts another file in the place of one, as editors and deployments do.
fn replace(dir: &Dir, text: &str) {
    dir.write("tollgate.toml.new", text);
    std::fs::rename(dir.path("tollgate.toml.new"), dir.path("tollgate.toml")).unwrap();
}

fn wait_calls(emulator: &Emulator, count: usize) {
    wait_until(&format!("{count} calls"), || (emulator.calls().len() >= count).then_some(()));
}

#[test]
fn sighup_tightens_a_limit_and_it_counts_the_calls_before() {
    let emulator = emulator(vec![ProviderLimit::window("sec", 6, Duration::from_secs(1))]);
    let dir = Dir::with(&config(&emulator, &per_second(6)));
    let accounts = accounts("act", 10);
    let run = start(&dir, &accounts, 12);
    wait_calls(&emulator, 50);
    dir.write("tollgate.toml", config(&emulator, &per_second(1)).text());
    run.signal("HUP");
    run.wait_says(RELOADED);
    let from = Instant::now();
    run.wait().exits(0).says(r#""limit":"sec","change":"tightened""#);
    assert_none_refused(&emulator);
    dir.assert_reports(&accounts, 12);
    let lag = Duration::from_micros(emulator.score().loop_lag_max_us);
    let calls = emulator.calls();
    let mut judged = 0;
    for account in &accounts {
        let own: Vec<Instant> =
            calls.iter().filter(|call| *call.account == **account).map(|call| call.at).collect();
        // Those let go before the change may arrive a little after it was told.
        let after = own.windows(2).filter(|pair| pair[1] > from + Duration::from_millis(100));
        for pair in after {
            judged += 1;
            let apart = pair[1] - pair[0];
            assert!(apart + lag >= Duration::from_secs(1), "{account}: {apart:?} apart");
        }
    }
    assert!(judged >= 20, "only {judged} calls came after the change");
}

#[test]
fn a_file_that_changes_in_place_or_by_rename_wakes_accounts_at_rest() {
    let emulator = emulator(Vec::new());
    for by_rename in [false, true] {
        let dir = Dir::with(&config(&emulator, &every("1h")));
        let accounts = accounts(&format!("act{by_rename}"), 20);
        let before = emulator.calls().len();
        let run = start(&dir, &accounts, 3);
        wait_calls(&emulator, before + 20);
        let changed = config(&emulator, &every("30ms")).text();
        if by_rename {
            replace(&dir, &changed);
        } else {
            dir.write("tollgate.toml", changed);
        }
        let ran = run.wait().exits(0);
        ran.says(RELOADED);
        dir.assert_reports(&accounts, 3);
    }
}

#[test]
fn a_broken_file_changes_nothing_and_names_every_mistake_until_it_is_mended() {
    let emulator = emulator(Vec::new());
    let dir = Dir::with(&config(&emulator, &every("1h")));
    let accounts = accounts("act", 5);
    let mut run = start(&dir, &accounts, 2);
    wait_calls(&emulator, 5);
    replace(&dir, "[platforms.p\nbase_url = 3");
    run.wait_says(REFUSED);
    assert_eq!(run.said(r#""code":"TG0001""#), 1, "it is not TOML");
    let wrong = config(&emulator, &every("0s")).collect("concurency = 3").text();
    replace(&dir, &wrong);
    run.signal("HUP");
    wait_until("the second refusal", || (run.said(REFUSED) >= 2).then_some(()));
    run.wait_says(r#""code":"TG0009""#);
    run.wait_says(r#""key":"collect.concurency""#);
    std::fs::remove_file(dir.path("tollgate.toml")).unwrap();
    run.wait_says(r#""code":"TG0002""#);
    // The old limits are in force all the while.
    assert!(run.is_running());
    assert_eq!((emulator.calls().len(), run.said(RELOADED)), (5, 0));
    dir.write("tollgate.toml", config(&emulator, &every("30ms")).text());
    run.wait().exits(0);
    dir.assert_reports(&accounts, 2);
}

#[test]
fn what_needs_a_restart_is_named_and_the_rest_comes_into_force() {
    let emulator = emulator(Vec::new());
    let dir = Dir::with(&config(&emulator, &every("1h")));
    let accounts = accounts("act", 5);
    let run = start(&dir, &accounts, 2);
    wait_calls(&emulator, 5);
    let changed = config(&emulator, &every("30ms"))
        .collect("concurrency = 7")
        .store("compression = \"gzip\"");
    replace(&dir, &changed.text());
    run.signal("HUP");
    let ran = run.wait().exits(0);
    ran.says(r#""code":"TG0316","key":"collect.concurrency""#)
        .says(r#""code":"TG0316","key":"store""#);
    dir.assert_reports(&accounts, 2);
    assert!(dir.files("data").iter().all(|file| !file.contains(".gz")), "the store is as it was");
}

#[test]
fn a_hundred_reloads_in_a_row_under_load_lose_nothing_and_exceed_nothing() {
    let emulator = emulator(vec![ProviderLimit::window("sec", 6, Duration::from_secs(1))]);
    let texts = [6, 2, 5, 3].map(|max| config(&emulator, &per_second(max)).text());
    let dir = Dir::with(&config(&emulator, &per_second(6)));
    let accounts = accounts("act", 15);
    let mut run = start(&dir, &accounts, 80);
    wait_calls(&emulator, 30);
    let mut luck = Luck::of(4);
    for number in 1..=100 {
        replace(&dir, &texts[number % texts.len()]);
        run.signal("HUP");
        thread::sleep(Duration::from_millis(luck.between(1, 60)));
    }
    assert!(run.is_running(), "there was load all the while");
    replace(&dir, &texts[0]);
    run.signal("HUP");
    let ran = run.wait().exits(0);
    // Signals that come while one is dealt with are one.
    let reloads = ran.err().matches(RELOADED).count();
    assert!(reloads >= 30, "only {reloads} reloads");
    assert_none_refused(&emulator);
    dir.assert_reports(&accounts, 80);
}

#[test]
fn a_new_secret_goes_nowhere_but_to_its_provider() {
    const OLD: &str = "s3cr3t-of-yesterday";
    const NEW: &str = "s3cr3t-of-today";
    let rows = |page: u8, next: Option<String>| {
        let mut headers = vec![("Content-Type", "application/json".to_owned())];
        headers.extend(next.map(|next| ("X-Next", next)));
        Told::Answer(200, headers, json!({ "rows": [page] }).to_string().into_bytes())
    };
    let files = Provider::start(move |_, _| rows(2, None));
    let at = files.base_url();
    let base = at.clone();
    // The call's own key is in what it says of the next page, for itself and for the host of its files.
    let provider = Provider::start(move |call, _| {
        let key = call.query("sig");
        let path = call.path();
        match path {
            "elsewhere/1" => rows(1, Some(format!("{base}{key}/2?sig=of-files"))),
            "same/1" => rows(1, Some(format!("/same/{key}?page=2"))),
            _ => rows(2, None),
        }
    });
    let host = at.trim_start_matches("http://").trim_end_matches('/');
    let pages =
        r#"pages = { by = "url", next = { header = "X-Next" }, end = "absent", restarts = 2 }"#;
    let config = Config::at(&provider.base_url())
        .platform(&format!("allowed_hosts = [{{ host = \"{host}\", auth = false }}]"))
        .platform(r#"auth = { query = "sig", value = "file:secret.txt" }"#)
        .limit("gap = { per = [\"account\"], every = \"5s\" }")
        .api("elsewhere", &format!("path = \"elsewhere/{{id}}\"\n{pages}"))
        .api("same", &format!("path = \"same/{{id}}\"\n{pages}"));
    let dir = Dir::with(&config);
    dir.write("secret.txt", OLD);
    let both = ["elsewhere", "same"].map(|api| fetch(&format!("of-{api}"), api, "1", json!({})));
    dir.write("fetches.jsonl", both.concat());
    let run = dir.tollgate(&["run", "--json", "fetches.jsonl"]).start();
    wait_until("the first pages", || (provider.asked().len() == 2).then_some(()));
    thread::sleep(Duration::from_millis(300));
    dir.write("secret.txt", NEW);
    run.wait_says("secret_read");
    let ran = run.wait().exits(0);
    let of = |provider: &Provider, api: &str| -> Vec<String> {
        let asked = provider.asked().into_iter().map(|call| call.target);
        asked.filter(|target| target.starts_with(api)).collect()
    };
    // It goes on where it was, with the secret of now.
    assert_eq!(
        of(&provider, "/same"),
        [format!("/same/1?sig={OLD}"), format!("/same/{NEW}?page=2&sig={NEW}")],
        "{ran}"
    );
    // The host of the files gets what the provider gave for it: the provider says it anew, nobody else does.
    let before = [format!("/elsewhere/1?sig={OLD}"), format!("/elsewhere/1?sig={NEW}")];
    assert_eq!(of(&provider, "/elsewhere"), before, "{ran}");
    assert_eq!(of(&files, "/"), [format!("/{NEW}/2?sig=of-files")], "{ran}");
    ran.says("read_restarted").says("is another one by now");
}
