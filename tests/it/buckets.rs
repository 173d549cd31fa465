//! The binary with its objects in a bucket of Google and a container of Azure, against servers that others wrote: it
//! is killed in the middle of an upload, its credentials end, and `check --connect` tries them. Of S3 see `s3`.

use std::time::Duration;

use serde_json::json;
use tollgate_emulator::{Emulator, Latency, Profile};

use crate::s3_server::{BUCKET, KEY_ID, S3Server, SECRET};
use crate::servers::{ACCOUNT, ACCOUNT_KEY, Azurite, CONTAINER, Front, Google, Sessions, TOKEN};
use crate::util::{
    Config, Dir, Ran, Tollgate, accounts, assert_none_refused, fetch, reports, wait_until,
};

fn emulator() -> Emulator {
    let latency = Latency::Range(Duration::from_millis(1), Duration::from_millis(20));
    Emulator::start(Profile { latency, record: true, ..Profile::default() }).unwrap()
}

fn google(emulator: &Emulator, server: &Google) -> Config {
    Config::of(emulator)
        .store(&format!("url = \"gs://{CONTAINER}/a b\"\nallow_http = true"))
        .store(&format!("endpoint = \"{}\"", server.front.endpoint()))
}

fn azure(emulator: &Emulator, server: &Azurite) -> Config {
    Config::of(emulator)
        .store(&format!("url = \"az://{CONTAINER}/a b\"\nallow_http = true"))
        .store(&format!("endpoint = \"{}\"\naccount = \"{ACCOUNT}\"", server.endpoint()))
        .store("account_key = \"env:KEY\"")
}

fn run(dir: &Dir) -> Tollgate {
    dir.tollgate(&["run", "--json", "fetches.jsonl"]).env("KEY", ACCOUNT_KEY).env("TOKEN", TOKEN)
}

/// Two parts and a piece, then nothing: it is killed with parts there and more to come. Then it is started again,
/// and the provider answers.
fn killed_in_the_middle(config: impl Fn() -> Config, two_parts: impl Fn() -> bool) -> (Dir, Ran) {
    let api = |path: &str, query: &str| {
        config()
            .store("compression = \"none\"")
            .platform(r#"lost_call = "1s""#)
            .api("big", &format!("path = \"{path}\"\nquery = {query}\nformat = \"binary\""))
    };
    let dir = Dir::with(&api("rude/stall", "{ after = 12000000 }"));
    dir.write("fetches.jsonl", fetch("a", "big", "1", json!({})));
    let running = run(&dir).start();
    wait_until("two parts", || two_parts().then_some(()));
    running.kill();
    dir.write("tollgate.toml", api("rude/big", "{ bytes = 12000000 }").text());
    let ran = run(&dir).run().exits(0);
    assert_eq!((ran.summary().done, ran.summary().dead), (1, 0), "{ran}");
    (dir, ran)
}

#[test]
fn a_kill_in_the_middle_of_an_upload_to_google_leaves_nothing_that_is_seen_or_stays() {
    let (emulator, server) = (emulator(), Google::start());
    let parts = || server.keys().iter().filter(|key| key.starts_with(".parts/")).count();
    let config = || google(&emulator, &server).store("access_token = \"env:TOKEN\"");
    let two_parts = || {
        let there = parts() >= 2;
        if there {
            let seen = server.keys();
            let seen = seen.iter().filter(|key| key.starts_with("a b/") && !key.contains("_probe"));
            assert_eq!(seen.count(), 0, "no object before it is whole");
            // As the next process finds it: a day later.
            server.age_uploads(25);
        }
        there
    };
    let (_dir, ran) = killed_in_the_middle(config, two_parts);
    wait_until("the upload that was left is aborted", || (server.uploads() == 0).then_some(()));
    assert!(ran.err().contains("leftovers_removed"), "{ran}");
    let mut keys = server.keys();
    // Lines about objects are beside them.
    keys.retain(|key| !key.contains("/_manifests/"));
    keys.sort();
    assert_eq!(keys.len(), 2, "the object and its manifest: {keys:?}");
    assert!(keys.iter().all(|key| key.starts_with("a b/")), "{keys:?}");
    assert!(keys.iter().any(|key| key.ends_with("/_manifest.json")), "{keys:?}");
}

#[test]
fn a_kill_in_the_middle_of_an_upload_to_azure_leaves_nothing_that_is_seen() {
    let (emulator, server) = (emulator(), Azurite::start());
    let parts = || server.front.seen("PUT part");
    let (_dir, ran) = killed_in_the_middle(|| azure(&emulator, &server), || parts() >= 2);
    assert_eq!(server.front.seen("PUT upload"), 1, "only the second time: {ran}");
    assert!(parts() >= 5, "{ran}");
    assert!(!ran.err().contains(ACCOUNT_KEY), "{ran}");
}

/// Google's metadata server gives tokens that are good for 2 s, over and over, and says that they are for longer: the
/// store refuses them.
#[test]
fn a_run_whose_tokens_end_all_the_time_loses_nothing_and_tells_none_of_them() {
    let (emulator, server) = (emulator(), Google::start());
    let (life, told) = (Duration::from_secs(2), Duration::from_secs(900));
    server.front.trouble().sessions = Some(Sessions::new(life, told));
    let dir = Dir::with(
        &google(&emulator, &server)
            .limit(r#"gap = { per = ["account"], every = "300ms" }"#)
            .report(),
    );
    let accounts = accounts("act", 5);
    dir.write("fetches.jsonl", reports(&accounts, 15));
    let home = dir.path("home");
    let ran = run(&dir)
        .env("GCE_METADATA_HOST", &server.front.host())
        .env("HOME", home.to_str().unwrap())
        .run()
        .exits(0);
    let summary = ran.summary();
    assert_eq!((summary.done, summary.dead, summary.left), (75, 0, 0), "{ran}");
    assert_none_refused(&emulator);
    assert_eq!(emulator.counts().0, 75, "no call was made twice: {ran}");
    assert!(!ran.err().contains("session-"), "{ran}");
    let mut keys = server.keys();
    keys.retain(|key| !key.contains("/_manifests/"));
    assert_eq!(keys.len(), 150, "an object and a manifest for each");
    let trouble = server.front.trouble();
    let sessions = trouble.sessions.as_ref().unwrap();
    assert!(sessions.refused >= 1, "it came to that: {sessions:?}");
    assert!((2..20).contains(&sessions.given.len()), "not one for each request: {sessions:?}");
}

fn check(dir: &Dir, json: bool) -> Tollgate {
    let mut args = vec!["check", "--connect"];
    args.extend(json.then_some("--json"));
    let check = dir.tollgate(&args).env("KEY", ACCOUNT_KEY).env("TOKEN", TOKEN);
    check.env("ID", KEY_ID).env("SECRET", SECRET)
}

#[test]
fn check_tries_the_store_of_every_kind_and_tells_what_is_wrong() {
    let (emulator, s3) = (emulator(), S3Server::start());
    let (azurite, gcs) = (Azurite::start(), Google::start());
    let of_s3 = Config::of(&emulator)
        .store(&format!(
            "url = \"s3://{BUCKET}\"\nendpoint = \"{}\"\nallow_http = true",
            s3.endpoint()
        ))
        .store("access_key_id = \"env:ID\"\nsecret_access_key = \"env:SECRET\"");
    let of_google = google(&emulator, &gcs).store("access_token = \"env:TOKEN\"");
    let cases = [
        (of_s3, "SECRET", "SignatureDoesNotMatch"),
        (of_google, "TOKEN", "AuthenticationRequired"),
        (azure(&emulator, &azurite), "KEY", "AuthorizationFailure"),
    ];
    for (config, secret, why) in cases {
        let dir = Dir::with(&config.report());
        check(&dir, false).run().exits(0).says("the store takes objects");
        let told = check(&dir, true).run().exits(0).json();
        assert_eq!((&told["ok"], &told["store"]["ok"]), (&json!(true), &json!(true)), "{told}");
        let wrong = check(&dir, false).env(secret, "d3Jvbmcta2V5").run().exits(1);
        let wrong = wrong.says("TG0304").says("the store does not allow it").says(why);
        assert!(!wrong.err().contains("d3Jvbmcta2V5"), "{wrong}");
        let told = check(&dir, true).env(secret, "d3Jvbmcta2V5").run().exits(1).json();
        assert_eq!((&told["ok"], &told["store"]["ok"]), (&json!(false), &json!(false)), "{told}");
    }
    // Nothing is asked without it.
    let nowhere = Config::of(&emulator)
        .store("url = \"gs://bucket\"\nendpoint = \"http://127.0.0.1:9\"\nallow_http = true")
        .store("access_token = \"env:TOKEN\"");
    let dir = Dir::with(&nowhere.report());
    dir.tollgate(&["check"]).env("TOKEN", TOKEN).run().exits(0);
    check(&dir, false).run().exits(1).says("TG0304").says("the store is away");
    // A folder is a store too.
    let dir = Dir::with(&Config::of(&emulator).report());
    check(&dir, false).run().exits(0).says("the store takes objects");
    dir.write("file", "");
    let dir_config = Config::of(&emulator).store("url = \"file:file\"").report();
    dir.write("tollgate.toml", dir_config.text());
    check(&dir, false).run().exits(1).says("TG0304");
    assert_eq!(emulator.counts().0, 0);
}

/// Of one that is behind a proxy that is slow: nobody is told of a store that is away.
#[test]
fn a_storm_of_503_before_azure_and_google_is_ridden_out_by_a_run() {
    let emulator = emulator();
    let (azurite, gcs) = (Azurite::start(), Google::start());
    let both: [(Config, &Front); 2] = [
        (azure(&emulator, &azurite), &azurite.front),
        (google(&emulator, &gcs).store("access_token = \"env:TOKEN\""), &gcs.front),
    ];
    for (config, front) in both {
        let dir = Dir::with(&config.report());
        dir.write("fetches.jsonl", reports(&accounts("act", 5), 8));
        front.trouble().slow_down_one_in = 5;
        let ran = run(&dir).run().exits(0);
        assert_eq!((ran.summary().done, ran.summary().dead), (40, 0), "{ran}");
        assert!(!ran.err().contains("store_away"), "{ran}");
    }
    assert_none_refused(&emulator);
    assert_eq!(emulator.counts().0, 80, "no call was made twice");
}
