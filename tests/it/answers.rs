//! What answers are worth: errors in a 200, parts that pass for the whole, nothing at all, files and charsets, too
//! much, lost answers, access that was taken away.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::thread;
use std::time::Duration;

use jiff::Span;
use jiff::civil::Date;
use serde_json::{Value, json};
use tollgate_protos::{Dead, Done};

use crate::util::{Asked, Config, Dir, Nats, Provider, Told, fetch, lossy, wait_until};

fn config(provider: &Provider) -> Config {
    Config::at(&provider.base_url())
        .platform(r#"headers = { X-Account = "{account}" }"#)
        .store("compression = \"none\"")
        .collect("attempts_max = 2")
}

fn by_id(dead: Vec<Dead>) -> BTreeMap<String, Dead> {
    dead.into_iter().map(|dead| (dead.fetch.clone().unwrap().id.unwrap(), dead)).collect()
}

#[test]
fn errors_in_a_200_end_as_their_rules_say_and_name_them() {
    let provider = Provider::start(|call, _| {
        let body = match (call.path(), call.query("n").as_str()) {
            (_, "good") => {
                json!({ "code": 0, "message": "OK", "request_id": "r-good", "data": {} })
            }
            (_, "expired") => {
                json!({ "data": {}, "code": 40105, "message": "Access token is incorrect", "request_id": "r-7" })
            }
            (_, "slow") => json!({ "code": 40100, "message": "Too many requests" }),
            (_, "late") => json!({ "code": 50000, "message": "try again" }),
            _ => json!({ "code": 99, "data": "x".repeat(300_000), "request_id": "r-big" }),
        };
        Told::json(&body)
    });
    let config = config(&provider)
        .platform("request_id = \"request_id\"")
        .platform(
            r#"answers = [
  { body = "code", is = 0, class = "ok" },
  { body = "code", is = 40100, class = "throttled", wait = "1s" },
  { body = "code", is = [50000, 50002], class = "transient", message = "message" },
  { body = "code", class = "permanent", message = "message" },
]"#,
        )
        .api("x", "path = \"x\"\nquery = { n = \"{n}\" }");
    let dir = Dir::with(&config);
    let put = |n: &str| fetch(&format!("of-{n}"), "x", n, json!({ "params": { "n": n } }));
    let all: String = ["good", "expired", "late", "big"].map(put).concat();
    let ran = dir.run(&all).exits(1);
    let stored = dir.collected();
    let ids: Vec<&str> = stored.keys().map(|(_, _, id)| id.as_str()).collect();
    assert_eq!(ids, ["good"], "{ran}");
    let good = &stored.values().next().unwrap().manifest.done;
    assert_eq!(good.request_id.as_deref(), Some("r-good"));
    assert!(!good.empty && !good.incomplete);
    let dead = by_id(dir.dead());
    let expired = &dead["expired"];
    assert_eq!(
        (expired.code.as_str(), expired.attempts, expired.http_status),
        ("TG0240", 1, Some(200))
    );
    assert_eq!(
        expired.reason,
        "the provider answered 200, permanent: `code` in the body is 40105, by the rule \
         platforms.p.answers.3: Access token is incorrect"
    );
    assert_eq!(expired.request_id.as_deref(), Some("r-7"));
    assert!(expired.body_start.as_ref().unwrap().contains("40105"), "{expired:?}");
    let late = &dead["late"];
    assert_eq!((late.code.as_str(), late.attempts), ("TG0202", 2), "{late:?}");
    assert!(late.reason.contains("platforms.p.answers.2: try again"), "{late:?}");
    // Its code stands before 300 kB that were on their way into the store.
    let big = &dead["big"];
    assert_eq!((big.code.as_str(), big.body_start.as_ref().unwrap().len()), ("TG0240", 2048));
    assert_eq!(big.request_id.as_deref(), Some("r-big"));
    // Too many calls: held and called again.
    let mut running = {
        dir.write("slow.jsonl", put("slow"));
        dir.tollgate(&["run", "slow.jsonl", "--log-format", "json"]).start()
    };
    running.wait_says("\"because\":\"throttled\"");
    wait_until("the second call", || (provider.count("x", Some("of-slow")) >= 2).then_some(()));
    let calls: Vec<Asked> = provider.asked();
    let slow: Vec<&Asked> =
        calls.iter().filter(|call| call.header("x-account") == Some("of-slow")).collect();
    assert!(slow[1].at - slow[0].at >= Duration::from_secs(1));
    assert!(running.is_running());
    running.kill();
}

/// So many rows.
fn rows(count: usize, more: Value) -> Value {
    let rows: Vec<Value> = (0..count).map(|row| json!({ "id": row, "clicks": row % 7 })).collect();
    let mut body = json!({ "elements": rows });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[test]
fn a_part_never_passes_for_the_whole() {
    let provider = Provider::start(|call, _| {
        let full = call.query("n") == "full";
        match call.path() {
            "rows" => Told::json(&rows(if full { 15_000 } else { 14_999 }, json!({}))),
            "total" => Told::json(&rows(
                500,
                json!({ "paging": { "total": if full { 501 } else { 500 } } }),
            )),
            "flag" => Told::json(&rows(20_000, json!({ "truncated": full }))),
            "lines" => {
                let line = |row: usize| format!("2026-11-20,\"a\nb\",{row}\n");
                let lines: String = (0..if full { 3_000 } else { 2_999 }).map(line).collect();
                Told::of(200, "text/csv", format!("date,name,clicks\n{lines}"))
            }
            _ => Told::of(404, "text/plain", "no"),
        }
    });
    let rule = |rule: &str| {
        format!("query = {{ n = \"{{n}}\" }}\nanswers = [{{ {rule}, class = \"incomplete\" }}]")
    };
    let config = config(&provider)
        .api(
            "rows",
            &format!(
                "path = \"rows\"\n{}",
                rule(r#"rows = "elements", min = 15000, wait = "50ms""#)
            ),
        )
        .api(
            "total",
            &format!(
                "path = \"total\"\n{}",
                rule(r#"rows = "elements", below = "paging.total", wait = "50ms""#)
            ),
        )
        .api(
            "flag",
            &format!(
                "path = \"flag\"\n{}",
                rule(r#"body = "truncated", is = true, wait = "50ms""#)
            ),
        )
        .api(
            "lines",
            &format!("path = \"lines\"\n{}", rule(r#"rows = true, min = 3000, wait = "50ms""#)),
        )
        .api(
            "kept",
            &format!(
                "path = \"flag\"\n{}",
                rule(r#"body = "truncated", is = true, then = "keep""#)
            ),
        );
    let dir = Dir::with(&config);
    let apis = ["rows", "total", "flag", "lines", "kept"];
    let put =
        |api: &&str, n: &str| fetch(&format!("{api}-{n}"), api, n, json!({ "params": { "n": n } }));
    let all: String = apis.iter().flat_map(|api| [put(api, "full"), put(api, "part")]).collect();
    let ran = dir.run(&all).exits(1);
    let stored = dir.collected();
    for api in apis {
        let of = |n: &str| (format!("{api}-{n}"), api.to_owned(), n.to_owned());
        let part = &stored.get(&of("part")).unwrap_or_else(|| panic!("{api}\n{ran}")).manifest.done;
        assert!(!part.incomplete, "{api}");
        let path = if api == "kept" { "flag" } else { api };
        let calls = provider.count(path, Some(&format!("{api}-full")));
        if api == "kept" {
            assert!(stored[&of("full")].manifest.done.incomplete);
            assert_eq!(calls, 1);
        } else {
            assert!(
                !stored.contains_key(&of("full")),
                "{api}: a part was stored as if it were whole"
            );
            assert_eq!(calls, 2, "{api}");
        }
    }
    let dead = dir.dead();
    assert_eq!(dead.len(), 4);
    for letter in dead {
        assert_eq!((letter.code.as_str(), letter.attempts), ("TG0241", 2), "{letter:?}");
        assert!(letter.reason.contains("incomplete: "), "{letter:?}");
    }
}

#[test]
fn nothing_is_a_failure_or_a_valid_answer_as_declared() {
    let provider = Provider::start(|call, _| match call.path() {
        "spaces" => Told::of(200, "application/json", " \r\n"),
        "none" => Told::json(&json!({ "status": "NONE" })),
        "gone" => Told::of(404, "application/json", r#"{"error":"NO_DATA"}"#),
        "other" => Told::of(404, "application/json", r#"{"error":"NO_SUCH"}"#),
        "header" => Told::of(200, "text/csv", "date,clicks\n"),
        "columns" => Told::of(200, "text/csv", "date,impressions\n2026-11-20,5\n"),
        // `blank`
        _ => Told::of(200, "application/json", ""),
    });
    let config = config(&provider)
        .api("blank", "path = \"blank\"\nanswers = [{ empty = true, class = \"permanent\" }]")
        .api("spaces", "path = \"spaces\"\nanswers = [{ empty = true, class = \"permanent\" }]")
        .api("none", "path = \"none\"\nanswers = [{ body = \"status\", is = \"NONE\", class = \"empty\" }]")
        .api("gone", "path = \"gone\"\nanswers = [{ status = 404, body = \"error\", is = \"NO_DATA\", class = \"empty\" }]")
        .api("other", "path = \"other\"\nanswers = [{ status = 404, body = \"error\", is = \"NO_DATA\", class = \"empty\" }]")
        .api("header", "path = \"header\"\nanswers = [{ rows = true, max = 0, class = \"empty\" }]")
        .api("columns", "path = \"columns\"\ncolumns = [\"date\", \"clicks\"]")
        .api("zipped", "path = \"zipped\"\nformat = \"csv\"\ndecode = [\"zip\"]\nanswers = [{ empty = true, class = \"empty\" }]")
        .api("plain", "path = \"plain\"");
    let dir = Dir::with(&config);
    let apis = ["blank", "spaces", "none", "gone", "other", "header", "columns", "plain", "zipped"];
    let all: String = apis.iter().map(|api| fetch(api, api, api, json!({}))).collect();
    let ran = dir.run(&all).exits(1);
    let stored: BTreeMap<String, (bool, Vec<u8>)> = dir
        .collected()
        .into_iter()
        .map(|((_, _, id), one)| (id, (one.manifest.done.empty, one.body)))
        .collect();
    let wanted: [(&str, (bool, &[u8])); 5] = [
        ("zipped", (true, b"")),
        ("gone", (true, br#"{"error":"NO_DATA"}"#)),
        ("header", (true, b"date,clicks\n")),
        ("none", (true, br#"{"status":"NONE"}"#)),
        // Nothing is declared: stored as ever.
        ("plain", (false, b"")),
    ];
    let wanted = wanted.map(|(id, (empty, body))| (id.to_owned(), (empty, body.to_vec())));
    assert_eq!(stored, wanted.into(), "{ran}");
    let codes: BTreeMap<String, String> =
        by_id(dir.dead()).into_iter().map(|(id, dead)| (id, dead.code)).collect();
    let wanted =
        [("blank", "TG0240"), ("spaces", "TG0240"), ("other", "TG0201"), ("columns", "TG0243")];
    assert_eq!(codes, wanted.map(|(id, code)| (id.to_owned(), code.to_owned())).into());
}

const REPORT: &str = "날짜,캠페인,클릭\n2026-11-20,가을 세일,17\n";

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn files_and_charsets_are_decoded_before_they_are_judged_and_stored() {
    let utf16: Vec<u8> =
        [0xfeff_u16].into_iter().chain(REPORT.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    // `REPORT` in EUC-KR, by Python's codec.
    let euc_kr = include_bytes!("data/report.euc-kr.csv");
    let zip = include_bytes!("data/report.zip");
    let provider = Provider::start(move |call, _| match call.path() {
        "zip" => Told::of(200, "application/zip", &zip[..]),
        "gzip" => Told::of(200, "application/octet-stream", gzip(REPORT.as_bytes())),
        "utf16" => Told::of(200, "text/csv; charset=utf-16", utf16.clone()),
        "euc-kr" => Told::of(200, "text/csv", &euc_kr[..]),
        "broken" => Told::of(200, "text/csv", [&euc_kr[..], b"\xff\xff"].concat()),
        // An error where a file belongs.
        _ => Told::of(200, "application/zip", r#"{"error":{"code":7,"text":"no right"}}"#),
    });
    let api = |path: &str, lines: &str| format!("path = \"{path}\"\nformat = \"csv\"\n{lines}");
    let columns = "columns = [\"날짜\", \"클릭\"]";
    let config = config(&provider)
        .platform("answers = [{ body = \"error.code\", class = \"permanent\", message = \"error.text\" }]")
        .api("zip", &api("zip", &format!("decode = [\"zip\"]\nmember = \"*.csv\"\n{columns}")))
        .api("wrong", &api("zip", "decode = [\"zip\"]\nmember = \"*.tsv\""))
        .api("gzip", &api("gzip", &format!("decode = [\"gzip\"]\n{columns}")))
        .api("utf16", &api("utf16", &format!("charset = \"utf-16\"\n{columns}")))
        .api("euc-kr", &api("euc-kr", &format!("charset = \"euc-kr\"\n{columns}")))
        .api("broken", &api("broken", "charset = \"euc-kr\""))
        .api("refused", &api("refused", "decode = [\"zip\"]"));
    let dir = Dir::with(&config);
    let apis = ["zip", "wrong", "gzip", "utf16", "euc-kr", "broken", "refused"];
    let all: String = apis.iter().map(|api| fetch(api, api, api, json!({}))).collect();
    let ran = dir.run(&all).exits(1);
    let stored = dir.collected();
    for api in ["zip", "gzip", "utf16", "euc-kr"] {
        let of = (api.to_owned(), api.to_owned(), api.to_owned());
        let one = stored.get(&of).unwrap_or_else(|| panic!("{api} is missing\n{ran}"));
        assert_eq!(lossy(&one.body), REPORT, "{api}");
        assert!(one.manifest.done.objects[0].key.contains(".csv"), "{:?}", one.manifest);
    }
    assert_eq!(stored.len(), 4);
    let dead = by_id(dir.dead());
    assert_eq!(dead["wrong"].code, "TG0244");
    assert!(dead["wrong"].reason.contains("it has readme.txt, report.csv"), "{:?}", dead["wrong"]);
    assert_eq!((dead["broken"].code.as_str(), dead["broken"].attempts), ("TG0245", 1));
    assert_eq!((dead["refused"].code.as_str(), dead["refused"].attempts), ("TG0240", 1));
    assert!(dead["refused"].reason.ends_with(": no right"), "{:?}", dead["refused"]);
}

/// Days from one to another, both included.
fn days(from: &str, to: &str) -> Vec<Date> {
    let (from, to): (Date, Date) = (from.parse().unwrap(), to.parse().unwrap());
    from.series(Span::new().days(1)).take_while(|day| *day <= to).collect()
}

/// Refuses more than 31 days at once, and otherwise answers with the days that were asked for.
fn at_most_a_month(call: &Asked) -> Told {
    let days = days(&call.query("since"), &call.query("until"));
    if days.len() > 31 {
        let message = "Please reduce the amount of data you're asking for";
        return Told::of(
            500,
            "application/json",
            json!({ "error": { "code": 1, "message": message } }).to_string(),
        );
    }
    Told::json(&json!({ "days": days }))
}

const SPLIT: &str = r#"path = "insights"
query = { since = "{since}", until = "{until}" }
answers = [{ status = 500, body = "error.code", is = 1, class = "too_much", message = "error.message" }]
split = { by = "dates", from = "since", to = "until" }"#;

/// Every day that was stored, in order.
fn stored_days(dir: &Dir) -> Vec<Date> {
    let mut all: Vec<Date> = Vec::new();
    for one in dir.collected().values() {
        let body: Value = serde_json::from_slice(&one.body).unwrap();
        all.extend(
            body["days"]
                .as_array()
                .unwrap()
                .iter()
                .map(|day| -> Date { day.as_str().unwrap().parse().unwrap() }),
        );
    }
    all.sort();
    all
}

#[test]
fn too_much_is_split_until_it_fits_and_no_day_is_lost_or_twice() {
    let provider = Provider::start(|call, _| at_most_a_month(call));
    let dir = Dir::with(&config(&provider).api("insights", SPLIT));
    let params = json!({ "since": "2025-01-01", "until": "2025-12-31" });
    let year =
        fetch("act", "insights", "year", json!({ "params": params, "labels": { "t": "x" } }));
    let ran = dir.run(&year).exits(0);
    assert_eq!(stored_days(&dir), days("2025-01-01", "2025-12-31"), "{ran}");
    assert!(dir.collected().keys().all(|(_, _, id)| id.starts_with("year~")));
    // 365 days: 15 fetches were too much, 16 were not.
    assert_eq!((ran.summary().done, ran.summary().calls, ran.summary().dead), (31, 31, 0), "{ran}");
    let manifest = dir.files("data").into_iter().find(|file| file.contains("/year/")).unwrap();
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(dir.path(&manifest)).unwrap()).unwrap();
    let seq = &manifest["seq"];
    assert_eq!(manifest["split_into"], json!([format!("year~{seq}.1"), format!("year~{seq}.2")]));
    assert_eq!((&manifest["objects"], &manifest["labels"]["t"]), (&json!([]), &json!("x")));
    // It is known: nothing is called again.
    let calls = provider.asked().len();
    dir.run(&year).exits(0);
    assert_eq!(provider.asked().len(), calls);
    // One day that is too much by itself.
    let provider =
        Provider::start(|_, _| Told::of(500, "application/json", r#"{"error":{"code":1}}"#));
    let dir = Dir::with(&config(&provider).api("insights", SPLIT));
    let params = json!({ "since": "2025-01-01", "until": "2025-01-02" });
    dir.run(&fetch("act", "insights", "two", json!({ "params": params }))).exits(1);
    let dead = by_id(dir.dead());
    assert_eq!(dead.len(), 2, "{dead:?}");
    assert!(
        dead.keys().zip([".1", ".2"]).all(|(id, end)| id.starts_with("two~") && id.ends_with(end))
    );
    for letter in dead.values() {
        assert_eq!((letter.code.as_str(), letter.attempts), ("TG0247", 1));
        assert!(letter.reason.contains("are 1 days, and a part has at least 1"), "{letter:?}");
    }
}

#[test]
fn a_split_under_a_key_of_its_days_takes_nothing_from_another_fetch() {
    let provider = Provider::start(|call, _| {
        let fits = call.query("level") == "fits";
        if fits { Told::json(&json!({ "days": [] })) } else { at_most_a_month(call) }
    });
    let api = SPLIT.replace("until = \"{until}\" }", "until = \"{until}\", level = \"{level}\" }");
    let key = "key = \"{platform}/{api}/{account}/{params.since}/{params.until}/{page}.{ext}\"";
    let dir = Dir::with(&config(&provider).store(key).api("insights", &api));
    let of = |id: &str, until: &str, level: &str| {
        let params = json!({ "since": "2025-01-01", "until": until, "level": level });
        fetch("act", "insights", id, json!({ "params": params }))
    };
    let half = days("2025-01-01", "2025-06-30");
    for id in ["half", "again"] {
        let ran = dir.run(&of(id, "2025-06-30", "ad")).exits(0);
        assert_eq!(ran.summary().dead, 0, "{ran}");
        assert_eq!(stored_days(&dir), half);
        dir.tollgate(&["verify", "--deep"]).run().exits(0);
    }
    // What another has stored is not removed, and no part is made that would go on for it.
    dir.run(&of("small", "2025-12-31", "fits")).exits(0);
    let before = provider.asked().len();
    dir.run(&of("year", "2025-12-31", "ad")).exits(1);
    assert_eq!(provider.asked().len(), before + 1);
    let dead = by_id(dir.dead());
    assert_eq!(dead["year"].code, "TG0247");
    assert!(dead["year"].reason.contains("has the objects of another fetch: `small`"), "{dead:?}");
    assert_eq!(stored_days(&dir), half);
    dir.tollgate(&["verify", "--deep"]).run().exits(0);
}

#[test]
fn a_split_survives_kill_9_at_any_moment() {
    let provider = Provider::start(|call, _| {
        thread::sleep(Duration::from_millis(5));
        at_most_a_month(call)
    });
    let gap = r#"gap = { per = ["account"], every = "10ms" }"#;
    let dir = Dir::with(&config(&provider).limit(gap).api("insights", SPLIT));
    let params = json!({ "since": "2020-01-01", "until": "2024-12-31" });
    let all: String = (0..3)
        .map(|act| fetch(&format!("act{act}"), "insights", "five", json!({ "params": params })))
        .collect();
    dir.write("fetches.jsonl", &all);
    for kill in 0..6 {
        let node = dir.tollgate(&["run", "fetches.jsonl"]).start();
        let before = provider.asked().len();
        wait_until("some calls", || (provider.asked().len() > before + 5 + kill).then_some(()));
        node.kill();
        dir.remove_half_written();
    }
    let ran = dir.tollgate(&["run", "--json", "fetches.jsonl"]).run().exits(0);
    let mut wanted = days("2020-01-01", "2024-12-31").repeat(3);
    wanted.sort();
    assert_eq!(stored_days(&dir), wanted, "{ran}");
    assert!(dir.dead().is_empty());
}

#[test]
fn a_split_on_nats_names_its_parts_in_its_event_and_the_same_id_is_split_again() {
    let provider = Provider::start(|call, _| at_most_a_month(call));
    let nats = Nats::start();
    let dir = Dir::with(&config(&provider).on(&nats).api("insights", SPLIT));
    let node = dir.tollgate(&["serve"]).start();
    node.wait_says("shard started");
    let params = json!({ "since": "2025-01-01", "until": "2025-03-31" });
    let body = json!({ "id": "quarter", "params": params }).to_string();
    nats.publish("tollgate.fetch.p.act.insights.high", &[], body.clone());
    nats.wait_count("DONE", 7);
    nats.wait_count("FETCH", 0);
    let calls = provider.asked().len();
    let done: BTreeMap<String, Done> = nats
        .messages("DONE")
        .iter()
        .map(|message| serde_json::from_slice::<Done>(&message.payload).unwrap())
        .map(|done| (done.id.clone(), done))
        .collect();
    let parts = |done: &Done, base: &str, way: &str| {
        assert_eq!(done.split_into, [1, 2].map(|n| format!("{base}~{}.{way}{n}", done.seq)));
    };
    parts(&done["quarter"], "quarter", "");
    parts(&done[&done["quarter"].split_into[1]], "quarter", "2");
    assert!(done["quarter"].objects.is_empty());
    let ends: BTreeSet<&str> = done
        .values()
        .filter(|done| done.split_into.is_empty())
        .map(|done| done.id.as_str())
        .collect();
    assert_eq!(ends.len(), 4, "{ends:?}");
    assert_eq!(stored_days(&dir), days("2025-01-01", "2025-03-31"));
    // Ordered once more, within the window in which the server drops what has the same id.
    nats.publish("tollgate.fetch.p.act.insights.high", &[], body);
    nats.wait_count("DONE", 14);
    nats.wait_count("FETCH", 0);
    assert_eq!(provider.asked().len(), 2 * calls, "each part is a fetch of its own");
    assert_eq!(nats.count("DEAD"), 0);
    node.signal("TERM");
    node.wait().exits(0);
}

#[test]
fn a_call_that_may_not_be_repeated_is_made_once_whatever_becomes_of_its_answer() {
    let provider = Provider::start(|call, _| match call.path() {
        "silent" => Told::Nothing,
        "half" => Told::Answer(200, vec![("Content-Length", "1000".into())], b"half".to_vec()),
        "gateway" => Told::of(504, "text/plain", "upstream"),
        "told" => Told::of(500, "application/json", r#"{"code":5}"#),
        "long" => Told::NothingAfter(Duration::from_secs(30)),
        _ => Told::of(503, "text/plain", "not now"),
    });
    let names = ["silent", "half", "gateway", "told", "refused"];
    let mut config = config(&provider)
        .platform("answers = [{ body = \"code\", is = 5, class = \"transient\" }]");
    for name in names.iter().chain(&["long"]) {
        config = config.api(name, &format!("path = \"{name}\"\nidempotent = false"));
    }
    let dir = Dir::with(&config);
    let all: String = names.iter().map(|name| fetch(name, name, name, json!({}))).collect();
    dir.run(&all).exits(1);
    let dead = by_id(dir.dead());
    for (name, code, calls) in [
        ("silent", "TG0246", 1),
        ("half", "TG0246", 1),
        ("gateway", "TG0246", 1),
        // A rule knows what it is, and 503 was not served.
        ("told", "TG0202", 2),
        ("refused", "TG0202", 2),
    ] {
        assert_eq!(
            (dead[name].code.as_str(), dead[name].attempts),
            (code, calls),
            "{:?}",
            dead[name]
        );
        assert_eq!(provider.count(name, None), calls as usize, "{name}");
    }
    // Killed while it was in flight: nobody knows.
    dir.write("long.jsonl", fetch("long", "long", "long", json!({})));
    let node = dir.tollgate(&["run", "long.jsonl"]).start();
    wait_until("the call", || (provider.count("long", None) == 1).then_some(()));
    node.kill();
    dir.tollgate(&["run", "--json", "long.jsonl"]).run().exits(1);
    let dead = by_id(dir.dead());
    assert_eq!((dead["long"].code.as_str(), provider.count("long", None)), ("TG0246", 1));
}

#[test]
fn a_revoked_account_is_held_and_its_fetches_wait_until_it_has_access_again() {
    let given = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_given = given.clone();
    let provider = Provider::start(move |call, _| {
        let revoked = call.header("x-account") == Some("revoked");
        if revoked && !is_given.load(std::sync::atomic::Ordering::SeqCst) {
            return Told::of(401, "application/json", r#"{"error":"token was revoked"}"#);
        }
        Told::json(&json!({ "ok": true }))
    });
    let config = config(&provider)
        .platform("breaker = { after = 3, for = \"1s\" }")
        .limit(r#"gap = { per = ["account"], every = "50ms" }"#)
        .api("x", "path = \"x\"");
    let dir = Dir::with(&config);
    let put = |account: &str, n: usize| fetch(account, "x", &format!("{account}-{n}"), json!({}));
    let all: String = (0..30).flat_map(|n| [put("revoked", n), put("well", n)]).collect();
    dir.write("fetches.jsonl", &all);
    let args = ["run", "--json", "--log-format", "json", "--log-level", "info", "fetches.jsonl"];
    let node = dir.tollgate(&args).start();
    node.wait_says("\"because\":\"denied\"");
    wait_until("the other account's calls", || {
        (provider.count("x", Some("well")) == 30).then_some(())
    });
    // Two trials, 1 s and 2 s after the holds before them.
    wait_until("two trials", || (node.said("\"because\":\"denied\"") == 3).then_some(()));
    // The hold is written down at once.
    thread::sleep(Duration::from_millis(300));
    node.kill();
    let calls = provider.asked();
    let revoked: Vec<&Asked> =
        calls.iter().filter(|call| call.header("x-account") == Some("revoked")).collect();
    let waits: Vec<f64> =
        revoked.windows(2).map(|two| (two[1].at - two[0].at).as_secs_f64()).collect();
    assert!(waits[2] >= 0.99 && waits[3] >= 1.99, "{waits:?}");
    assert_eq!(dir.dead().len(), 3, "only those that found out are dead");
    // The hold outlives the process: 4 s from the last refusal.
    given.store(true, std::sync::atomic::Ordering::SeqCst);
    // The three are still told.
    let ran = dir.tollgate(&args).run().exits(1);
    let calls = provider.asked();
    let again = calls.iter().filter(|call| call.header("x-account") == Some("revoked")).nth(5);
    let waited = again.unwrap().at - revoked[4].at;
    assert!(waited >= Duration::from_millis(3_900), "{waited:?}");
    assert!(ran.err().contains("breaker_closed"), "{ran}");
    assert_eq!(dir.collected().len(), 57, "{ran}");
    assert_eq!(provider.count("x", Some("revoked")), 5 + 27);
    assert_eq!(dir.dead().len(), 3);
}

#[test]
fn freshness_survives_kill_9_at_any_moment() {
    let provider = Provider::start(|call, _| {
        thread::sleep(Duration::from_millis(5));
        Told::json(&json!({ "q": call.query("q") }))
    });
    let gap = r#"gap = { per = ["account"], every = "4ms", guard = "0ms" }"#;
    let api = "path = \"x\"\nquery = { q = \"{q}\" }\nfresh_for = \"1h\"";
    let dir = Dir::with(&config(&provider).limit(gap).api("x", api));
    // 60 requests in each of two accounts, each wanted by five fetches.
    let fetches = |round: &str| -> String {
        let all = (0..600).map(|n| {
            let (act, q) = (format!("act{}", n % 2), format!("{}", n / 2 % 60));
            let id = format!("{round}-{n}");
            fetch(&act, "x", &id, json!({ "params": { "q": q }, "labels": { "q": q } }))
        });
        all.collect()
    };
    dir.write("fetches.jsonl", fetches("first"));
    let manifests = || -> Vec<Value> {
        let files = dir.files("data").into_iter().filter(|file| file.ends_with("/_manifest.json"));
        files
            .map(|file| serde_json::from_slice(&std::fs::read(dir.path(&file)).unwrap()).unwrap())
            .collect()
    };
    let durable = || -> BTreeSet<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        manifests().iter().map(|one| (text(&one["account"]), text(&one["labels"]["q"]))).collect()
    };
    let called_after = |before: usize| -> Vec<(String, String)> {
        let calls = provider.asked().into_iter().skip(before);
        calls.map(|call| (call.header("x-account").unwrap().to_owned(), call.query("q"))).collect()
    };
    for kill in 0..8 {
        let (known, before) = (durable(), provider.asked().len());
        let node = dir.tollgate(&["run", "fetches.jsonl"]).start();
        wait_until("some calls", || (provider.asked().len() > before + 3 + kill).then_some(()));
        node.kill();
        let again: Vec<_> =
            called_after(before).into_iter().filter(|call| known.contains(call)).collect();
        assert!(again.is_empty(), "called though it was stored before kill {kill}: {again:?}");
        dir.remove_half_written();
    }
    let args = ["run", "--json", "fetches.jsonl"];
    let (known, before) = (durable(), provider.asked().len());
    assert!((20..115).contains(&known.len()), "{} are stored", known.len());
    let ran = dir.tollgate(&args).run().exits(0);
    let mut last = called_after(before);
    let calls = provider.asked().len();
    last.sort();
    assert_eq!(last.len(), 120 - known.len(), "each of the others once\n{ran}");
    assert!(last.iter().all(|call| !known.contains(call)));
    last.dedup();
    assert_eq!(last.len(), 120 - known.len());
    assert!(dir.dead().is_empty());
    assert_eq!(ran.summary().left, 0, "{ran}");
    for manifest in manifests() {
        let object = manifest["objects"][0]["key"].as_str().unwrap();
        let body = std::fs::read(dir.path(&format!("data/{object}"))).unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["q"], manifest["labels"]["q"], "{manifest}");
    }
    // What was stored before the kills is used after them.
    dir.write("fetches.jsonl", fetches("second"));
    let ran = dir.tollgate(&args).run().exits(0);
    assert_eq!((provider.asked().len(), ran.summary().calls), (calls, 0), "{ran}");
}
