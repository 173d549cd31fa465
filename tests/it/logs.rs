//! What a node logs while it works, who may change that, and the tree that `tollgate logs` makes of it.

use serde_json::{Value, json};

use crate::util::{Config, Dir, Nats, Provider, Running, Told, fetch, wait_until};

/// Refuses the account `held` for an hour, does not know the day `bad`, and answers the rest.
fn provider() -> Provider {
    Provider::start(|asked, _| match (asked.path(), asked.header("x-account")) {
        (_, Some("held")) => {
            let wait = ("Retry-After", "3600".to_owned());
            Told::Answer(429, vec![wait], Vec::new())
        }
        ("report/bad", _) => Told::of(404, "application/json", "{}"),
        _ => Told::json(&json!({ "ok": true })),
    })
}

fn config(provider: &Provider) -> Config {
    Config::at(&provider.base_url())
        .platform(r#"headers = { X-Account = "{account}" }"#)
        .limit(r#"gap = { per = ["account"], every = "1ms" }"#)
        .api("report", "path = \"report/{date}\"")
}

fn report(account: &str, date: &str) -> String {
    fetch(account, "report", date, json!({ "params": { "date": date } }))
}

#[test]
fn the_log_of_a_run_is_shown_as_a_tree() {
    let provider = provider();
    let dir = Dir::with(&config(&provider).collect("shards = 2"));
    let fetches = [report("a", "1"), report("a", "2"), report("b", "bad"), report("held", "1")];
    dir.write("fetches.jsonl", fetches.concat());
    let run = dir
        .tollgate(&["run", "--json", "fetches.jsonl"])
        .env("TOLLGATE__NODE__NAME", "node-a")
        .start();
    for event in ["fetch_dead", "hold"] {
        run.wait_says(&format!(r#""event":"{event}""#));
    }
    wait_until("two that are done", || (run.said(r#""event":"fetch_done""#) == 2).then_some(()));
    run.signal("TERM");
    let ran = run.wait().exits(3);
    dir.write("node.log", ran.err());
    let shown = dir.tollgate(&["logs", "node.log"]).run().exits(0);
    let filters = vec![
        (r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME"),
        (r"limits [0-9a-f]{16}", "limits HASH"),
        (r"[\d.]+/s", "RATE/s"),
    ];
    insta::with_settings!({ filters => filters }, {
        insta::assert_snapshot!(shown.out(), @r"
        node-a, version 0.1.0, limits HASH, ended
        ├─ log: TIME to TIME, 10 lines, 3 warnings, 0 errors
        ├─ shard 0
        ├─ shard 1
        └─ p: 2 done, 22 B, RATE/s
           ├─ dead: TG0201 1
           ├─ failed attempts: throttled 1
           ├─ holds: 1, 1 account held at the end of the log
           ├─ account held: held once (throttled, the account, until TIME), 1 failed attempt
           └─ account b: 1 dead
        stepped over: 3 lines of others
        ");
    });
    // The same from standard input, for programs.
    let text = dir.tollgate(&["logs", "--json", "-"]).input(ran.err()).run().exits(0).json();
    let node = &text["nodes"][0];
    assert_eq!((&node["name"], &node["state"]), (&json!("node-a"), &json!("ended")), "{text}");
    assert_eq!(node["platforms"]["p"]["accounts"]["held"]["holds"], 1, "{text}");
    dir.write("other.log", "a line\nof another\n");
    dir.tollgate(&["logs", "other.log"]).run().exits(1);
    dir.tollgate(&["logs", "nothing.log"]).run().exits(2).says("open nothing.log");
}

/// A node that waits for a long time, and has standard input open for more.
fn waiting_run(dir: &Dir) -> Running {
    dir.write("fetches.jsonl", report("held", "1"));
    let run = dir.tollgate(&["run", "--json", "fetches.jsonl"]).start();
    run.wait_says(r#""event":"hold""#);
    run
}

#[test]
fn what_a_run_logs_is_changed_by_its_configuration_and_by_an_operator_while_it_works() {
    let provider = provider();
    let dir = Dir::with(&config(&provider));
    let run = waiting_run(&dir);
    let asked = |args: &[&str]| {
        dir.tollgate(&[&["log-level", "--json"], args].concat()).run().exits(0).json()
    };
    let told = |told: Value| (told["level"].clone(), told["by"].clone());
    assert_eq!(told(asked(&[])), (json!("info"), json!("default")));
    // By the file, once it has changed.
    let text = config(&provider).text();
    let quiet = format!("[log]\nlevel = \"error,tollgate::config=info\"\n{text}");
    dir.write("tollgate.toml", &quiet);
    run.signal("HUP");
    run.wait_says(r#""event":"log_level_changed""#);
    assert_eq!(told(asked(&[])), (json!("error,tollgate::config=info"), json!("config")));
    run.wait_says(r#""event":"config_unchanged""#);
    // By an operator, for a moment.
    let wished = asked(&["tollgate::config=off,debug", "--for", "1500ms"]);
    assert_eq!(told(wished.clone()), (json!("tollgate::config=off,debug"), json!("operator")));
    assert!(wished["until"].is_string(), "{wished}");
    run.signal("HUP");
    wait_until("the end of a wish", || (told(asked(&[])).1 == json!("config")).then_some(()));
    assert_eq!(run.said(r#""event":"config_unchanged""#), 1, "it was left out");
    run.signal("HUP");
    wait_until("a second one", || (run.said(r#""event":"config_unchanged""#) == 2).then_some(()));
    // What is none changes nothing.
    dir.tollgate(&["log-level", "loud"]).run().exits(2).says("`loud` is no level");
    dir.tollgate(&["log-level", "info", "--for", "soon"]).run().exits(2).says("no duration");
    dir.write("tollgate.toml", format!("[log]\nlevel = \"loud\"\n{text}"));
    run.signal("HUP");
    run.wait_says(r#""event":"config_refused""#);
    // Whoever asks reads the file, too.
    dir.write("tollgate.toml", &quiet);
    assert_eq!(told(asked(&[])), (json!("error,tollgate::config=info"), json!("config")));
    run.signal("TERM");
    run.wait().exits(3);
    dir.write("tollgate.toml", text);
    dir.tollgate(&["log-level"]).run().exits(2).says("no node works in");
}

#[test]
fn an_event_that_floods_is_cut_and_the_number_is_told() {
    let provider = provider();
    let dir = Dir::with(&config(&provider));
    let fetches: String = (0..200).map(|n| report(&format!("a{n}"), "1")).collect();
    dir.write("fetches.jsonl", fetches);
    let ran = dir
        .tollgate(&["run", "--json", "fetches.jsonl"])
        .env("TOLLGATE__LOG__PER_SECOND_MAX", "10")
        .run()
        .exits(0);
    let lines: Vec<Value> =
        ran.err().lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let of = |event: &str| lines.iter().filter(|line| line["event"] == event).collect::<Vec<_>>();
    let done = of("fetch_done").len() as u64;
    let left_out: u64 = of("lines_left_out")
        .iter()
        .filter(|line| line["of"] == "fetch_done" && line["log_level"] == "INFO")
        .map(|line| line["left_out"].as_u64().unwrap())
        .sum();
    assert_eq!(done + left_out, 200, "each line is written or counted: {done} and {left_out}");
    assert!(left_out > 0 && of("drained").len() == 1, "{done} {left_out}");
}

#[test]
fn nodes_on_nats_are_told_what_to_log_all_or_one_of_them() {
    let (nats, provider) = (Nats::start(), provider());
    let config = config(&provider).on(&nats);
    let dirs = [Dir::with(&config), Dir::with(&config)];
    let start = |(dir, name): (&Dir, &str)| {
        dir.tollgate(&["serve"]).env("TOLLGATE__NODE__NAME", name).start()
    };
    let nodes: Vec<Running> = dirs.iter().zip(["one", "two"]).map(start).collect();
    let dir = &dirs[0];
    let asked = |args: &[&str]| -> Option<Vec<(String, String)>> {
        let ran = dir.tollgate(&[&["log-level", "--json"], args].concat()).run();
        let out = ran.out();
        let mut told: Vec<(String, String)> = out
            .lines()
            .map(|line| {
                let line: Value = serde_json::from_str(line).unwrap();
                let text = |name: &str| line[name].as_str().unwrap().to_owned();
                (text("node"), text("level"))
            })
            .collect();
        told.sort();
        (ran.code == Some(0)).then_some(told)
    };
    let said = |one: &str, two: &str| {
        vec![("one".to_owned(), one.to_owned()), ("two".to_owned(), two.to_owned())]
    };
    wait_until("two nodes", || (asked(&[])? == said("info", "info")).then_some(()));
    assert_eq!(asked(&["debug", "--node", "two"]).unwrap(), said("", "debug")[1..]);
    assert_eq!(asked(&[]).unwrap(), said("info", "debug"));
    assert_eq!(asked(&["warn"]).unwrap(), said("warn", "warn"));
    assert_eq!(asked(&["--reset"]).unwrap(), said("info", "info"));
    nodes[1].wait_says(r#""event":"log_level_changed","log_level":"debug","by":"operator""#);
    for node in nodes {
        node.signal("TERM");
        node.wait().exits(0);
    }
}
