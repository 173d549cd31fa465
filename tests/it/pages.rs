//! Reads of many pages, against a provider of this test's own that judges every call on arrival.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tollgate_protos::{Dead, Done, Manifest, Object};

use crate::s3_server::{BUCKET, KEY_ID, S3Server, SECRET};
use crate::util::{Config, Dir, Nats, Ran, Running, fetch, sha256, wait_until};

/// What the provider was asked.
#[derive(Debug, Clone)]
struct Call {
    at: Instant,
    /// The path and the query.
    target: String,
    refused: bool,
}

impl Call {
    /// A parameter of its query, as it stands.
    fn param(&self, name: &str) -> Option<&str> {
        param(&self.target, name)
    }
}

fn param<'a>(target: &'a str, name: &str) -> Option<&'a str> {
    let (_, query) = target.split_once('?')?;
    query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

/// What it answers: a status, headers, a body.
type Answer = (u16, Vec<(&'static str, String)>, String);

/// A provider whose answers a test writes itself.
struct Provider {
    port: u16,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl Provider {
    /// `answer`: of a target and of how many calls of it came before. At most `most` calls in any `window`.
    fn start(
        (most, window): (usize, Duration),
        answer: impl Fn(&str, usize) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let calls: Arc<Mutex<Vec<Call>>> = Arc::default();
        let (seen, answer) = (Arc::clone(&calls), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                thread::spawn(move || {
                    let answer = |target: &str| {
                        let at = Instant::now();
                        let mut calls = seen.lock().unwrap();
                        let before = calls.iter().filter(|call| call.target == target).count();
                        let within = calls.iter().rev().take(most + 1);
                        let within = within.filter(|call| at - call.at < window).count();
                        let refused = within >= most;
                        calls.push(Call { at, target: target.to_owned(), refused });
                        drop(calls);
                        if refused {
                            return (429, Vec::new(), "too many".to_owned());
                        }
                        answer(target, before)
                    };
                    // A client that goes away ends it.
                    stream.and_then(|stream| serve(stream, answer)).ok();
                });
            }
        });
        Self { port, calls }
    }

    /// One without limits.
    fn free(answer: impl Fn(&str, usize) -> Answer + Send + Sync + 'static) -> Self {
        Self::start((usize::MAX - 1, Duration::ZERO), answer)
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap().clone()
    }

    fn count(&self) -> usize {
        self.calls.lock().unwrap().len()
    }

    fn targets(&self) -> Vec<String> {
        self.calls().into_iter().map(|call| call.target).collect()
    }
}

/// Answers requests on one connection until it ends.
fn serve(stream: TcpStream, answer: impl Fn(&str) -> Answer) -> std::io::Result<()> {
    let mut writer = stream.try_clone()?;
    let mut lines = BufReader::new(stream);
    loop {
        let mut first = String::new();
        if lines.read_line(&mut first)? == 0 {
            return Ok(());
        }
        loop {
            let mut line = String::new();
            lines.read_line(&mut line)?;
            if line.trim().is_empty() {
                break;
            }
        }
        let target = first.split(' ').nth(1).unwrap_or_default();
        let (status, headers, body) = answer(target);
        let mut head = format!("HTTP/1.1 {status} OK\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in headers {
            write!(head, "{name}: {value}\r\n").unwrap();
        }
        writer
            .write_all(format!("{head}Content-Type: application/json\r\n\r\n{body}").as_bytes())?;
    }
}

fn ok(body: &Value) -> Answer {
    (200, Vec::new(), body.to_string())
}

/// A page of a read by cursor: the cursor of page 7 is `c7`.
fn cursor_page(target: &str, pages: usize) -> Answer {
    let page = param(target, "cursor")
        .map_or(1, |cursor| cursor.strip_prefix('c').and_then(|n| n.parse().ok()).unwrap_or(0));
    ok(&cursor_body(page, pages))
}

fn cursor_body(page: usize, pages: usize) -> Value {
    let rows: Vec<Value> =
        (0..3).map(|n| json!({ "id": page * 3 + n, "name": "x".repeat(50) })).collect();
    let next = (page < pages).then(|| format!("c{}", page + 1));
    json!({ "data": rows, "paging": { "next": next } })
}

const CURSOR: &str = r#"path = "items"
query = { cursor = "{page.cursor}" }
pages = { by = "cursor", next = "paging.next", items = "data", max = 2000 }"#;

/// The one manifest of a folder.
fn manifest(dir: &Dir) -> (String, Manifest) {
    let files = dir.files("data");
    let mut all = files.into_iter().filter(|file| file.ends_with("_manifest.json"));
    let file = all.next().expect("a manifest");
    assert_eq!(all.next(), None);
    let text = std::fs::read(dir.path(&file)).unwrap();
    (file, serde_json::from_slice(&text).unwrap())
}

fn has_manifest(dir: &Dir) -> bool {
    dir.files("data").iter().any(|file| file.ends_with("_manifest.json"))
}

/// All objects that a manifest names, itself or by its lists.
fn objects(dir: &Dir, file: &str, done: &Done) -> Vec<Object> {
    if done.lists == 0 {
        assert_eq!(done.objects.len(), done.pages as usize);
        return done.objects.clone();
    }
    let folder = Path::new(file).parent().unwrap();
    let mut all: Vec<Object> = Vec::new();
    for number in 1..=done.lists {
        let list = folder.join(format!("_pages-{number:05}.json"));
        let list: Value =
            serde_json::from_slice(&std::fs::read(dir.path(list.to_str().unwrap())).unwrap())
                .unwrap();
        assert_eq!(list["first"], json!(all.len() + 1), "{list}");
        assert_eq!(list["seq"], json!(done.seq));
        let objects: Vec<Object> = serde_json::from_value(list["objects"].clone()).unwrap();
        all.extend(objects);
    }
    assert_eq!(all.len(), done.pages as usize);
    assert_eq!(all[..done.objects.len()], done.objects);
    all
}

/// Asserts that the store holds exactly these pages, with these bytes, and what speaks of them.
fn assert_pages(dir: &Dir, bodies: &[Value]) -> Done {
    let (file, manifest) = manifest(dir);
    let done = manifest.done;
    assert_eq!(done.pages as usize, bodies.len(), "{done:?}");
    let objects = objects(dir, &file, &done);
    for (page, (object, wanted)) in objects.iter().zip(bodies).enumerate() {
        assert!(object.key.ends_with(&format!("/{:05}.json.zst", page + 1)), "{}", object.key);
        let stored = std::fs::read(dir.path(&format!("data/{}", object.key))).unwrap();
        let mut body = Vec::new();
        zstd::stream::read::Decoder::new(&*stored).unwrap().read_to_end(&mut body).unwrap();
        assert_eq!(String::from_utf8_lossy(&body), wanted.to_string(), "page {}", page + 1);
        assert_eq!((object.bytes, object.stored_bytes), (body.len() as u64, stored.len() as u64));
        assert_eq!(object.sha256, sha256(&body));
    }
    let others = dir.files("data").len() - bodies.len() - 1 - done.lists as usize;
    assert_eq!(others, 0, "{:?}", dir.files("data"));
    done
}

fn one(api: &str) -> String {
    fetch("act", api, "f1", json!({}))
}

fn run_one(provider: &Provider, api: &str) -> (Dir, Ran) {
    let dir = Dir::with(&Config::at(&provider.url()).api("items", api));
    let ran = dir.run(&one("items"));
    (dir, ran)
}

/// Runs one fetch that ends as dead, and answers its letter.
fn dead_one(provider: &Provider, api: &str) -> Dead {
    let (dir, ran) = run_one(provider, api);
    let ran = ran.exits(1);
    assert_eq!(ran.summary().dead, 1, "{ran}");
    assert!(!has_manifest(&dir), "nothing is complete");
    let mut dead = dir.dead();
    assert_eq!(dead.len(), 1);
    dead.remove(0)
}

/// Starts a process again and again, kills it when it has made so many further calls, and lets the last one end.
/// Asserts that no page was called again whose object was there at a kill.
fn kill_every(
    provider: &Provider,
    dir: &Dir,
    (calls, kills): (usize, usize),
    mut start: impl FnMut() -> Running,
) -> Running {
    for kill in 0..kills {
        let before = provider.count();
        let mut running = start();
        wait_until("calls of many pages", || (provider.count() >= before + calls).then_some(()));
        assert!(running.is_running(), "it ended before kill {kill}");
        running.kill();
        // What is in the sockets arrives even now.
        let mut called = 0;
        wait_until("the last calls to arrive", || {
            let before = std::mem::replace(&mut called, provider.count());
            thread::sleep(Duration::from_millis(60));
            (provider.count() == called && called == before).then_some(())
        });
        let durable: BTreeSet<usize> = dir
            .files("data")
            .iter()
            .filter_map(|file| {
                Path::new(file).file_name()?.to_str()?.strip_suffix(".json.zst")?.parse().ok()
            })
            .collect();
        // Each call but the last one brought a page.
        let called: BTreeSet<String> = provider.targets().into_iter().collect();
        assert!(durable.len() + 1 >= called.len(), "{} of {}", durable.len(), called.len());
        let mark = provider.count();
        DURABLE.with_borrow_mut(|all| all.push((mark, durable)));
    }
    start()
}

thread_local! {
    /// Calls made and pages that were there, at each kill.
    static DURABLE: std::cell::RefCell<Vec<(usize, BTreeSet<usize>)>> = const { std::cell::RefCell::new(Vec::new()) };
}

fn assert_no_durable_page_called_again(provider: &Provider) -> usize {
    let calls = provider.calls();
    let mut again = 0;
    for (mark, durable) in DURABLE.take() {
        for call in &calls[mark..] {
            let page =
                call.param("cursor").map_or(1, |cursor| cursor.get(1..).unwrap().parse().unwrap());
            assert!(!durable.contains(&page), "page {page} was there and was called again");
        }
    }
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for call in &calls {
        assert!(!call.refused, "{call:?} was refused");
        *counts.entry(call.target.clone()).or_default() += 1;
    }
    again += counts.values().map(|count| count - 1).sum::<usize>();
    again
}

const LIMIT: &str = r#"pace = { per = ["account"], max = 40, in = "250ms" }"#;

#[test]
fn a_read_of_a_thousand_pages_goes_on_where_each_of_nine_kills_has_cut_it() {
    let provider =
        Provider::start((40, Duration::from_millis(250)), |target, _| cursor_page(target, 1000));
    let config = Config::at(&provider.url()).limit(LIMIT).api("items", CURSOR);
    let dir = Dir::with(&config);
    dir.write("fetches.jsonl", one("items"));
    let start = || dir.tollgate(&["run", "--json", "fetches.jsonl"]).start();
    let ran = kill_every(&provider, &dir, (100, 9), start).wait().exits(0);
    let again = assert_no_durable_page_called_again(&provider);
    dir.remove_half_written();
    let bodies: Vec<Value> = (1..=1000).map(|page| cursor_body(page, 1000)).collect();
    let done = assert_pages(&dir, &bodies);
    assert!(again <= 9, "{again} pages called twice by nine kills\n{ran}");
    assert!((1000..=1000 + 2 * 9).contains(&done.attempts), "{}", done.attempts);
    assert_eq!((done.objects.len(), done.lists), (256, 20));
    let summary = ran.summary();
    assert_eq!((summary.done, summary.refused), (1, 0));
    let last = dir.run(&one("items")).exits(0).summary();
    assert_eq!((last.done, last.calls), (1, 0));
}

#[test]
fn the_same_on_nats() {
    let nats = Nats::start();
    let provider =
        Provider::start((40, Duration::from_millis(250)), |target, _| cursor_page(target, 1000));
    let config = Config::at(&provider.url()).on(&nats).limit(LIMIT).api("items", CURSOR);
    let dir = Dir::with(&config);
    dir.tollgate(&["setup"]).run().exits(0);
    dir.tollgate(&["publish", "--json", "-"]).input(one("items")).run().exits(0);
    let start = || dir.tollgate(&["serve"]).start();
    let node = kill_every(&provider, &dir, (100, 9), start);
    nats.wait_count("FETCH", 0);
    node.signal("TERM");
    node.wait().exits(0);
    let again = assert_no_durable_page_called_again(&provider);
    assert!(again <= 9, "{again} pages called twice by nine kills");
    dir.remove_half_written();
    let bodies: Vec<Value> = (1..=1000).map(|page| cursor_body(page, 1000)).collect();
    let done = assert_pages(&dir, &bodies);
    let told: Vec<(String, Done)> = nats.events("DONE");
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].1, done);
    assert_eq!(done.manifest.as_deref(), Some(&*manifest(&dir).0.replace("data/", "")));
    assert_eq!(
        (nats.count("PROGRESS"), nats.count("DEAD")),
        (0, 0),
        "the note is gone with its fetch"
    );
}

#[test]
fn a_read_that_is_told_to_stop_goes_on_without_a_second_call() {
    let provider =
        Provider::start((40, Duration::from_millis(250)), |target, _| cursor_page(target, 120));
    let config = Config::at(&provider.url()).limit(LIMIT).api("items", CURSOR);
    let dir = Dir::with(&config);
    dir.write("fetches.jsonl", one("items"));
    let start = || dir.tollgate(&["run", "--json", "fetches.jsonl"]).start();
    for stop in 1..=2 {
        let running = start();
        wait_until("some pages", || (provider.count() >= 40 * stop).then_some(()));
        running.signal("TERM");
        running.wait().exits(3);
    }
    start().wait().exits(0);
    let bodies: Vec<Value> = (1..=120).map(|page| cursor_body(page, 120)).collect();
    let done = assert_pages(&dir, &bodies);
    assert_eq!((provider.count(), done.attempts, done.lists), (120, 120, 3));
}

#[test]
fn pages_are_asked_for_in_each_of_the_ways() {
    let rows = |from: usize, count: usize| -> Vec<usize> { (from..from + count).collect() };
    let number = |target: &str, name: &str| -> usize {
        param(target, name).map_or(0, |n| n.parse().unwrap())
    };
    let provider = Provider::free(move |target, _| {
        let path = target.split('?').next().unwrap();
        match path {
            "/total" => {
                let page = number(target, "page");
                ok(&json!({ "data": rows(page * 10, 2), "totalPages": 3 }))
            }
            "/short" => {
                let page = number(target, "page");
                ok(&json!({ "data": rows(page * 10, if page == 2 { 1 } else { 2 }) }))
            }
            "/offset" => {
                let from = number(target, "start");
                ok(
                    &json!({ "rows": rows(from, 5_usize.saturating_sub(from).min(2)), "rowCount": 5 }),
                )
            }
            "/link" => {
                let page = number(target, "p").max(1);
                let mut headers = Vec::new();
                if page < 3 {
                    headers.push((
                        "Link",
                        format!(
                            "</link?p=1>; rel=first, </link?p={}&k=a%2Cb>; rel=\"next\"",
                            page + 1
                        ),
                    ));
                }
                (200, headers, json!({ "page": page }).to_string())
            }
            "/url" => {
                let page = number(target, "p").max(1);
                let next = (page < 3).then(|| format!("url?p={}&sig=x%2By", page + 1));
                ok(&json!({ "page": page, "links": { "next": next } }))
            }
            "/header" => {
                let page = param(target, "locator").map_or(1, str::len);
                let locator = if page < 3 { "x".repeat(page + 1) } else { "null".into() };
                let mut headers = vec![("X-Locator", locator)];
                headers.retain(|(_, value)| value != "null");
                (200, headers, json!({ "page": page }).to_string())
            }
            other => panic!("{other}"),
        }
    });
    let apis = [
        (
            "total",
            "query = { page = \"{page.number}\" }\npages = { by = \"page\", stop = { pages = \"totalPages\" } }",
            vec!["/total?page=1", "/total?page=2", "/total?page=3"],
        ),
        (
            "short",
            "query = { page = \"{page.number}\", n = \"{page.size}\" }\npages = { by = \"page\", size = 2, first = 0, items = \"data\", stop = \"short\" }",
            vec!["/short?page=0&n=2", "/short?page=1&n=2", "/short?page=2&n=2"],
        ),
        (
            "offset",
            "query = { start = \"{page.offset}\", count = \"{page.size}\" }\npages = { by = \"offset\", size = 2, items = \"rows\", stop = { rows = \"rowCount\" } }",
            vec!["/offset?start=0&count=2", "/offset?start=2&count=2", "/offset?start=4&count=2"],
        ),
        (
            "link",
            "query = { q = \"a,b\" }\npages = { by = \"link\" }",
            vec!["/link?q=a%2Cb", "/link?p=2&k=a%2Cb", "/link?p=3&k=a%2Cb"],
        ),
        (
            "url",
            "pages = { by = \"url\", next = \"links.next\", end = \"null\" }",
            vec!["/url", "/url?p=2&sig=x%2By", "/url?p=3&sig=x%2By"],
        ),
        (
            "header",
            "query = { locator = \"{page.cursor}\" }\npages = { by = \"cursor\", next = { header = \"X-Locator\" }, end = \"absent\" }",
            vec!["/header", "/header?locator=xx", "/header?locator=xxx"],
        ),
    ];
    let mut config = Config::at(&provider.url());
    let mut fetches = String::new();
    for (name, lines, _) in &apis {
        config = config.api(name, &format!("path = \"{name}\"\n{lines}"));
        fetches.push_str(&fetch("act", name, name, json!({})));
    }
    let dir = Dir::with(&config);
    let summary = dir.run(&fetches).exits(0).summary();
    assert_eq!((summary.done, summary.calls, summary.objects), (6, 18, 18));
    let targets = provider.targets();
    for (name, _, wanted) in &apis {
        let path = format!("/{name}");
        let mine: Vec<&String> =
            targets.iter().filter(|t| t.split('?').next() == Some(&*path)).collect();
        assert_eq!(mine, wanted.iter().collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn a_read_of_one_page_is_one_object_and_its_manifest() {
    let provider = Provider::free(|target, _| cursor_page(target, 1));
    let (dir, ran) = run_one(&provider, CURSOR);
    ran.exits(0);
    let done = assert_pages(&dir, &[cursor_body(1, 1)]);
    assert_eq!((done.attempts, done.lists, done.manifest), (1, 0, None));
}

#[test]
fn a_next_page_on_another_host_is_never_called() {
    let foreign = Provider::free(|_, _| ok(&json!({})));
    let next = format!("{}items?p=2", foreign.url());
    let provider = Provider::free(move |_, _| ok(&json!({ "data": [1], "next": next })));
    let api = "path = \"items\"\npages = { by = \"url\", next = \"next\", end = \"null\" }";
    let dead = dead_one(&provider, api);
    assert_eq!((&*dead.code, dead.attempts), ("TG0230", 1), "{dead:?}");
    assert!(dead.reason.contains("127.0.0.1"), "{}", dead.reason);
    assert_eq!((provider.count(), foreign.count()), (1, 0));
}

#[test]
fn a_key_that_the_provider_repeats_in_the_next_url_is_sent_once() {
    let provider = Provider::free(|target, _| {
        let page: usize = param(target, "p").map_or(1, |p| p.parse().unwrap());
        let next = (page < 3).then(|| format!("/items?p={}&key=s3cret&x=1", page + 1));
        ok(&json!({ "page": page, "next": next }))
    });
    let config =
        Config::at(&provider.url()).platform(r#"auth = { query = "key", value = "env:KEY" }"#).api(
            "items",
            "path = \"items\"\npages = { by = \"url\", next = \"next\", end = \"null\" }",
        );
    let dir = Dir::with(&config);
    dir.write("fetches.jsonl", one("items"));
    let run = dir.tollgate(&["run", "--json", "fetches.jsonl"]).env("KEY", "s3cret");
    run.run().exits(0);
    let wanted = ["/items?key=s3cret", "/items?p=2&x=1&key=s3cret", "/items?p=3&x=1&key=s3cret"];
    assert_eq!(provider.targets(), wanted);
}

#[test]
fn rows_at_the_cap_are_not_stored_as_final() {
    let rows: Vec<usize> = (0..15_000).collect();
    let provider = Provider::free(move |_, _| ok(&json!({ "elements": rows })));
    let api = "path = \"items\"\npages = { by = \"none\", items = \"elements\", rows_max = 15000 }";
    let dead = dead_one(&provider, api);
    assert_eq!((&*dead.code, dead.attempts), ("TG0234", 1), "{dead:?}");
    assert!(dead.reason.contains("15000"), "{}", dead.reason);
}

#[test]
fn fewer_rows_than_told_of_are_not_stored_as_final() {
    let provider = Provider::free(|target, _| {
        let page: usize = param(target, "page").unwrap().parse().unwrap();
        ok(&json!({ "data": if page < 3 { vec![page] } else { vec![] }, "total": 3 }))
    });
    let api = "path = \"items\"\nquery = { page = \"{page.number}\" }\npages = { by = \"page\", items = \"data\", total = \"total\", stop = \"empty\" }";
    let dead = dead_one(&provider, api);
    assert_eq!((&*dead.code, dead.attempts), ("TG0235", 3), "{dead:?}");
    assert!(dead.reason.starts_with("page 3: 2 rows came"), "{}", dead.reason);
}

#[test]
fn a_read_that_leads_back_to_itself_or_never_ends_is_given_up() {
    let circle = Provider::free(|target, _| {
        let at: usize = param(target, "cursor").map_or(0, |c| c.parse().unwrap());
        ok(&json!({ "data": [at], "paging": { "next": ((at + 1) % 4).to_string() }, "n": at }))
    });
    let dead = dead_one(&circle, CURSOR);
    assert_eq!(&*dead.code, "TG0231", "{dead:?}");
    assert!(circle.count() <= 6, "{:?}", circle.targets());
    let deaf = Provider::free(|_, _| ok(&json!({ "data": [1, 2] })));
    let api = "path = \"items\"\nquery = { page = \"{page.number}\" }\npages = { by = \"page\", items = \"data\", stop = \"empty\" }";
    assert_eq!((&*dead_one(&deaf, api).code, deaf.count()), ("TG0231", 2));
    let endless = Provider::free(|target, before| {
        ok(
            &json!({ "data": [target, before], "paging": { "next": format!("{target}x").replace('=', "") } }),
        )
    });
    let api = "path = \"items\"\nquery = { cursor = \"{page.cursor}\" }\npages = { by = \"cursor\", next = \"paging.next\", items = \"data\", max = 5 }";
    let dead = dead_one(&endless, api);
    assert_eq!((&*dead.code, endless.count()), ("TG0232", 5), "{dead:?}");
}

#[test]
fn a_page_that_fails_is_tried_again_by_itself_and_its_letter_names_it() {
    let provider = Provider::free(|target, before| {
        if before < 2 && ["c2", "c4"].iter().any(|c| param(target, "cursor") == Some(c)) {
            return (500, Vec::new(), "no".into());
        }
        cursor_page(target, 5)
    });
    let config = Config::at(&provider.url()).collect("attempts_max = 3").api("items", CURSOR);
    let dir = Dir::with(&config);
    dir.run(&one("items")).exits(0);
    let bodies: Vec<Value> = (1..=5).map(|page| cursor_body(page, 5)).collect();
    let done = assert_pages(&dir, &bodies);
    assert_eq!((done.attempts, provider.count()), (9, 9), "four calls of a page more");

    let provider = Provider::free(|target, _| {
        if param(target, "cursor") == Some("c3") {
            return (403, Vec::new(), "denied".into());
        }
        cursor_page(target, 5)
    });
    let dead = dead_one(&provider, CURSOR);
    assert_eq!(
        (&*dead.code, dead.attempts, dead.http_status),
        ("TG0201", 3, Some(403)),
        "{dead:?}"
    );
    assert!(dead.reason.starts_with("page 3: "), "{}", dead.reason);
}

#[test]
fn an_expired_token_begins_the_read_anew_and_replaces_what_was_stored() {
    // The first read has ten pages and ends at the eighth; the second has only five, and one of them fails once.
    let provider = Provider::free(|target, before| {
        if before == 1 && param(target, "cursor") == Some("c4") {
            return (500, Vec::new(), "no".into());
        }
        if param(target, "cursor") == Some("c8") {
            return (
                400,
                Vec::new(),
                json!({ "error": { "code": "EXPIRED_PAGE_TOKEN" } }).to_string(),
            );
        }
        cursor_page(target, if before == 0 { 10 } else { 5 })
    });
    let api = r#"path = "items"
query = { cursor = "{page.cursor}" }
pages = { by = "cursor", next = "paging.next", items = "data", expired = { status = 400, body = "error.code", is = "EXPIRED_PAGE_TOKEN" } }"#;
    let (dir, ran) = run_one(&provider, api);
    let ran = ran.exits(0);
    assert!(ran.err().contains("read begins anew"), "{ran}");
    let bodies: Vec<Value> = (1..=5).map(|page| cursor_body(page, 5)).collect();
    let done = assert_pages(&dir, &bodies);
    assert_eq!((done.attempts, provider.count()), (14, 14));

    let always = Provider::free(|target, _| match param(target, "cursor") {
        Some("c3") => {
            (400, Vec::new(), json!({ "error": { "code": "EXPIRED_PAGE_TOKEN" } }).to_string())
        }
        _ => cursor_page(target, 10),
    });
    let dead = dead_one(&always, &api.replace("expired =", "restarts = 2, expired ="));
    assert_eq!((&*dead.code, dead.attempts, always.count()), ("TG0236", 9, 9), "{dead:?}");
}

#[test]
fn tokens_that_are_old_by_declaration_are_not_tried() {
    let provider = Provider::free(|target, before| {
        if before == 0 && param(target, "cursor") == Some("c2") {
            thread::sleep(Duration::from_millis(1200));
        }
        cursor_page(target, 4)
    });
    let api = CURSOR.replace("max = 2000", "token_ttl = \"1s\"");
    let (dir, ran) = run_one(&provider, &api);
    ran.exits(0);
    let bodies: Vec<Value> = (1..=4).map(|page| cursor_body(page, 4)).collect();
    assert_pages(&dir, &bodies);
    let targets = provider.targets();
    let wanted = [
        "/items",
        "/items?cursor=c2",
        "/items",
        "/items?cursor=c2",
        "/items?cursor=c3",
        "/items?cursor=c4",
    ];
    assert_eq!(targets, wanted);
}

#[test]
fn later_pages_are_free_where_a_limit_says_so() {
    let provider = Provider::free(|target, _| cursor_page(target, 6));
    let config = Config::at(&provider.url())
        .limit(r#"daily = { per = ["account"], max = 2, in = "1h", pages = "free" }"#)
        .limit(r#"app = { per = ["platform"], max = 2, in = "1h", pages = "free" }"#)
        .api("items", CURSOR);
    let dir = Dir::with(&config);
    let fetches: String =
        ["a", "b"].iter().map(|id| fetch("act", "items", id, json!({}))).collect();
    let started = Instant::now();
    let summary = dir.run(&fetches).exits(0).summary();
    assert_eq!((summary.done, summary.calls), (2, 12));
    assert!(started.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_read_that_has_begun_goes_before_the_next_one() {
    let provider =
        Provider::start((1, Duration::from_millis(40)), |target, _| cursor_page(target, 5));
    let config = Config::at(&provider.url())
        .limit(r#"gap = { per = ["account"], every = "50ms" }"#)
        .api("items", &CURSOR.replace("query = { ", "query = { id = \"{id}\", "));
    let dir = Dir::with(&config);
    let fetches: String =
        ["a", "b", "c"].iter().map(|id| fetch("act", "items", id, json!({}))).collect();
    let summary = dir.run(&fetches).exits(0).summary();
    assert_eq!((summary.done, summary.calls, summary.refused), (3, 15, 0));
    let order: String =
        provider.calls().iter().filter_map(|c| c.param("id").map(str::to_owned)).collect();
    assert_eq!(order, "aaaaabbbbbccccc");
}

#[test]
fn an_error_with_a_good_status_in_the_middle_of_a_read_does_not_end_it_as_complete() {
    let provider = Provider::free(|target, _| match param(target, "cursor") {
        Some("c3") => ok(&json!({ "code": 50002, "message": "internal error" })),
        _ => cursor_page(target, 5),
    });
    let dead = dead_one(&provider, &CURSOR.replace("items = \"data\"", "end = \"null\""));
    assert_eq!((&*dead.code, dead.attempts), ("TG0233", 3), "{dead:?}");
    assert!(dead.reason.contains("`paging.next` is not in the answer"), "{}", dead.reason);
    // Nothing that tells the two apart: it is a mistake.
    let bare = CURSOR.replace("items = \"data\", ", "");
    let dir = Dir::with(&Config::at(&provider.url()).api("items", &bare));
    let checked = dir.tollgate(&["check"]).run().exits(2);
    checked.says("TG0034").says("pages.end");
}

/// Kills it in the middle of a read of so many pages, after so many calls.
fn killed_after(provider: &Provider, dir: &Dir, calls: usize) {
    dir.write("fetches.jsonl", one("items"));
    let mut running = dir.tollgate(&["run", "--json", "fetches.jsonl"]).start();
    wait_until("calls", || (provider.count() >= calls).then_some(()));
    assert!(running.is_running());
    running.kill();
    dir.remove_half_written();
}

fn paced(provider: &Provider) -> Config {
    Config::at(&provider.url()).limit(LIMIT).api("items", CURSOR)
}

#[test]
fn a_read_goes_on_in_no_other_store_than_it_was_begun_in() {
    let provider =
        Provider::start((40, Duration::from_millis(250)), |target, _| cursor_page(target, 90));
    let dir = Dir::with(&paced(&provider));
    killed_after(&provider, &dir, 60);
    let first = dir.files("data").len();
    let before = provider.count();
    dir.write("tollgate.toml", paced(&provider).store("url = \"file:other\"").text());
    let ran = dir.tollgate(&["run", "--json", "fetches.jsonl"]).run().exits(0);
    let ran = ran.says("read_restarted").says("the store is another one by now");
    assert_eq!(provider.count() - before, 90, "{ran}");
    assert_eq!(dir.files("data").len(), first, "nothing is touched there");
    let files = dir.files("other");
    assert_eq!(files.len(), 90 + 1 + 2, "{files:?}");
}

#[test]
fn a_read_whose_stored_pages_are_gone_begins_anew() {
    // The last page of its note and one before, or the list of those before that; or a list alone, which is found out
    // at the end.
    let all =
        [&["00055.json.zst", "LAST"][..], &["_pages-00001.json", "LAST"], &["_pages-00001.json"]];
    for gone in all {
        let provider =
            Provider::start((40, Duration::from_millis(250)), |target, _| cursor_page(target, 90));
        let dir = Dir::with(&paced(&provider));
        killed_after(&provider, &dir, 61);
        let files = dir.files("data");
        let pages = files.iter().filter(|file| file.ends_with(".json.zst"));
        let last = pages.max().unwrap();
        for name in gone {
            let is =
                |file: &&String| if *name == "LAST" { *file == last } else { file.ends_with(name) };
            let file = files.iter().find(is);
            std::fs::remove_file(dir.path(file.unwrap())).unwrap();
        }
        let before = provider.count();
        let ran = dir.tollgate(&["run", "--json", "fetches.jsonl"]).run().exits(0);
        let ran = ran.says("read_restarted");
        let bodies: Vec<Value> = (1..=90).map(|page| cursor_body(page, 90)).collect();
        let done = assert_pages(&dir, &bodies);
        assert_eq!((done.pages, done.lists), (90, 2), "{ran}");
        let again =
            provider.targets()[before..].iter().filter(|target| *target == "/items").count();
        assert_eq!(again, 1, "begun anew once: {ran}");
    }
}

/// A run into a bucket of a real S3 server.
fn into_bucket(server: &S3Server, config: Config) -> (Dir, Ran) {
    let config = config
        .store(&format!("url = \"s3://{BUCKET}\""))
        .store(&format!("endpoint = \"{}\"\nallow_http = true", server.endpoint()))
        .store("access_key_id = \"env:ID\"\nsecret_access_key = \"env:KEY\"");
    let dir = Dir::with(&config);
    dir.write("fetches.jsonl", one("items"));
    let run = dir.tollgate(&["run", "--json", "fetches.jsonl"]);
    let ran = run.env("ID", KEY_ID).env("KEY", SECRET).run();
    (dir, ran)
}

fn manifest_in(server: &S3Server) -> (Vec<String>, Manifest) {
    let mut names = Vec::new();
    let mut found = None;
    let mut folders = vec![server.files()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            // Lines about objects.
            if name == "_manifests" {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else if name == "_manifest.json" {
                found =
                    Some(serde_json::from_slice(&std::fs::read(entry.path()).unwrap()).unwrap());
            } else if !name.starts_with("_probe") && !name.starts_with('.') {
                names.push(name);
            }
        }
    }
    names.sort();
    (names, found.expect("a manifest"))
}

#[test]
fn a_page_whose_put_was_answered_by_nobody_is_looked_up_and_not_called_again() {
    let server = S3Server::start();
    let provider = Provider::free(|target, _| cursor_page(target, 5));
    // Even where a call may not be repeated: it need not be.
    let config = |provider: &Provider| {
        Config::at(&provider.url()).api("items", &format!("{CURSOR}\nidempotent = false"))
    };
    for (lost, calls) in [("00003.json.zst", 5), ("_manifest.json", 10)] {
        server.trouble.lock().unwrap().loses = Some(lost);
        let (_dir, ran) = into_bucket(&server, config(&provider));
        let ran = ran.exits(0);
        assert_eq!(server.trouble.lock().unwrap().loses, None, "it was lost: {ran}");
        let mut targets = provider.targets();
        assert_eq!(targets.len(), calls, "each page once: {ran}");
        targets.truncate(5);
        let (pages, manifest) = manifest_in(&server);
        assert_eq!((pages.len(), manifest.done.pages, manifest.done.attempts), (5, 5, 5), "{ran}");
    }
}

#[test]
fn a_store_that_lets_nothing_be_removed_is_told_of_and_holds_nothing_up() {
    let server = S3Server::start();
    let long = Provider::free(|target, _| cursor_page(target, 5));
    into_bucket(&server, Config::at(&long.url()).api("items", CURSOR)).1.exits(0);
    server.trouble.lock().unwrap().denies = Some("DELETE");
    let short = Provider::free(|target, _| cursor_page(target, 2));
    let started = Instant::now();
    let (_dir, ran) = into_bucket(&server, Config::at(&short.url()).api("items", CURSOR));
    let ran = ran.exits(0).says("pages_left").says("AccessDenied");
    assert_eq!((ran.summary().done, short.count()), (1, 2), "{ran}");
    assert!(started.elapsed() < Duration::from_secs(15), "{ran}");
    let (pages, manifest) = manifest_in(&server);
    assert_eq!(pages.len(), 5, "what cannot be removed stays: {pages:?}");
    assert_eq!(
        (manifest.done.pages, manifest.done.objects.len(), manifest.done.incomplete),
        (2, 2, false)
    );
    let keys: Vec<&str> = manifest.done.objects.iter().map(|object| &*object.key).collect();
    assert!(keys[1].ends_with("/00002.json.zst"), "{keys:?}");
}

#[test]
fn a_read_that_has_too_many_rows_on_a_later_page_is_split_and_leaves_none_of_its_pages() {
    let nats = Nats::start();
    let provider = Provider::free(|target, _| {
        let many = param(target, "ids").is_some_and(|ids| ids.contains(',') || ids.contains("%2C"));
        cursor_page(target, if many { 4 } else { 2 })
    });
    let api = r#"path = "items"
query = { cursor = "{page.cursor}", ids = { value = "{ids}", list = "commas" } }
pages = { by = "cursor", next = "paging.next", items = "data", rows_max = 9 }
split = { by = "list", param = "ids" }"#;
    let dir = Dir::with(&Config::at(&provider.url()).on(&nats).api("items", api));
    dir.tollgate(&["setup"]).run().exits(0);
    let fetch = fetch("act", "items", "f1", json!({ "params": { "ids": ["a", "b"] } }));
    dir.tollgate(&["publish", "--json", "-"]).input(fetch).run().exits(0);
    let node = dir.tollgate(&["serve"]).start();
    nats.wait_count("DONE", 3);
    nats.wait_count("FETCH", 0);
    node.signal("TERM");
    node.wait().exits(0);
    let files = dir.files("data");
    let whole: Vec<&String> = files.iter().filter(|file| file.contains("/f1/")).collect();
    assert!(whole.len() == 1 && whole[0].ends_with("_manifest.json"), "{whole:?}");
    assert_eq!(files.len(), 1 + 2 * 3, "{files:?}");
    let done: Vec<(String, Done)> = nats.events("DONE");
    let whole = done.iter().map(|(_, done)| done).find(|done| done.id == "f1").unwrap();
    assert_eq!((whole.split_into.len(), whole.attempts, whole.objects.len()), (2, 3, 0));
    assert_eq!((nats.count("PROGRESS"), nats.count("DEAD")), (0, 0), "no note is left");
    assert_eq!(provider.count(), 3 + 2 + 2);
}
