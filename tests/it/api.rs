//! The page and the API of a running node, as browsers and programs see them.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tollgate_emulator::{Emulator, Profile, ProviderLimit};

use crate::util::{Config, Dir, Nats, Provider, Running, Told, fetch, free_port, get, wait_until};

const TOKEN: &str = "t0ken-of-the-page-4711";

/// An answer: status, head in lower case, body.
struct Said {
    status: u16,
    head: String,
    body: String,
}

impl Said {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The code of a problem.
    fn code(&self) -> String {
        assert!(self.head.contains("content-type: application/problem+json"), "{}", self.head);
        let told = self.json();
        assert_eq!(told["status"], self.status, "{told}");
        told["code"].as_str().unwrap().to_owned()
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// Asks with these headers beside `Host`, which may be one of them.
fn ask(port: u16, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Said {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut text = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "Host") {
        write!(text, "Host: 127.0.0.1:{port}\r\n").unwrap();
    }
    for (name, value) in headers {
        write!(text, "{name}: {value}\r\n").unwrap();
    }
    if !body.is_empty() || method == "POST" {
        write!(text, "Content-Length: {}\r\n", body.len()).unwrap();
    }
    stream.write_all((text + "\r\n" + body).as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let body = if head.to_lowercase().contains("transfer-encoding: chunked") {
        unchunked(body)
    } else {
        body.to_owned()
    };
    Said { status, head: head.to_lowercase(), body }
}

fn unchunked(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            break;
        }
        whole += rest.get(..size).unwrap();
        body = rest.get(size + 2..).unwrap();
    }
    whole
}

fn read(port: u16, path: &str) -> Said {
    ask(port, "GET", path, &[], "")
}

const JSON: (&str, &str) = ("Content-Type", "application/json");

fn change(port: u16, path: &str, body: &Value) -> Said {
    ask(port, "POST", path, &[JSON], &body.to_string())
}

/// `tollgate run` that works as long as the test, and answers at a port.
fn run_at(config: &Config, fetches: &str, more: &[(&str, &str)]) -> (Dir, Running, u16) {
    let (dir, port) = (Dir::with(config), free_port());
    dir.write("f.jsonl", fetches);
    let at = format!("127.0.0.1:{port}");
    let mut command = dir.tollgate(&["run", "f.jsonl", "--listen", &at]);
    for (name, value) in more {
        command = command.env(name, value);
    }
    let running = command.start();
    let ready = || (get(port, "/readyz")?.0 == 200).then_some(());
    wait_until("the run to answer", ready);
    (dir, running, port)
}

fn slow() -> Emulator {
    Emulator::start(Profile {
        limits: vec![ProviderLimit::window("hour", 2, Duration::from_secs(3600))],
        ..Profile::default()
    })
    .unwrap()
}

fn hourly(emulator: &Emulator) -> Config {
    Config::of(emulator).limit(r#"hour = { per = ["account"], max = 2, in = "1h" }"#).report()
}

fn reports(accounts: usize, each: usize) -> String {
    let one = |account: usize, n: usize| {
        let params = json!({ "params": { "date": format!("2026-01-{:02}", n + 1) } });
        fetch(&format!("act_{account}"), "report", &n.to_string(), params)
    };
    (0..accounts).flat_map(|account| (0..each).map(move |n| one(account, n))).collect()
}

#[test]
fn a_run_tells_what_it_does_and_what_cannot_be_asked_is_told_with_a_code() {
    let emulator = slow();
    let odd = fetch("a/b ü%", "report", "1", json!({ "params": { "date": "2026-01-01" } }));
    let dots = fetch("..", "report", "1", json!({ "params": { "date": "2026-01-01" } }));
    let fetches = reports(3, 5) + &odd + &dots + "no fetch\n";
    let (_dir, run, port) = run_at(&hourly(&emulator), &fetches, &[]);
    run.wait_says(&format!("the page is at http://127.0.0.1:{port}/"));

    // What waits is what was given less two calls of each account, and of the other its one.
    let overview = wait_until("all calls that are allowed", || {
        let told = read(port, "/api/v1/overview").json();
        (told["waiting"] == 9 && told["in_flight"] == 0 && told["dead"] == 1).then_some(told)
    });
    assert_eq!(
        (&overview["silent"], &overview["running"]),
        (&json!(0), &json!(true)),
        "{overview}"
    );
    assert_eq!(overview["platforms"][0]["platform"], "p");
    assert_eq!(overview["nodes"].as_array().unwrap().len(), 1, "{overview}");

    let platforms = read(port, "/api/v1/platforms").json();
    let p = &platforms["platforms"][0];
    assert_eq!(
        p["limits"][0]["rule"],
        "at most 2 calls in any 1h per account; guard 250ms (default)"
    );
    assert_eq!((&p["apis"][0]["name"], &p["now"]["waiting"]), (&json!("report"), &json!(9)), "{p}");

    // Pages: each account once, in order, whatever their size.
    let mut names = Vec::new();
    let mut after = String::new();
    loop {
        let page = read(port, &format!("/api/v1/accounts?sort=name&most=2{after}")).json();
        let rows = page["accounts"].as_array().unwrap();
        assert!(rows.len() <= 2, "{page}");
        names.extend(rows.iter().map(|row| row["account"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        let next: String =
            next.bytes().map(|byte| format!("%{byte:02X}")).collect::<Vec<_>>().concat();
        after = format!("&after={next}");
    }
    assert_eq!(names, ["..", "a/b ü%", "act_0", "act_1", "act_2"]);
    let found = read(port, "/api/v1/accounts?search=ACT_1").json();
    assert_eq!(found["matching"], 1, "{found}");
    assert_eq!(found["accounts"][0]["waiting"], 3, "{found}");

    let one = read(port, "/api/v1/accounts/p/act_1").json();
    let limit = &one["limits"][0];
    assert_eq!((&limit["name"], &limit["max"]), (&json!("hour"), &json!(2)), "{one}");
    assert_eq!(limit["counters"][0]["used"], 2, "{one}");
    assert_eq!(limit["counters"][0]["calls"].as_array().unwrap().len(), 2, "{one}");
    let odd = read(port, "/api/v1/accounts/p/a%2Fb%20%C3%BC%25").json();
    assert_eq!(odd["account"], "a/b ü%", "{odd}");
    let dots = read(port, "/api/v1/account?platform=p&account=..").json();
    assert_eq!((&dots["account"], &dots["waiting"]), (&json!(".."), &json!(0)), "{dots}");

    let letters = read(port, "/api/v1/dead").json();
    let letter = &letters["letters"][0];
    assert_eq!(letter["code"], "TG0101", "{letters}");
    let number = letter["number"].to_string();
    assert_eq!(&read(port, &format!("/api/v1/dead/{number}")).json(), letter);
    let doctor = read(port, "/api/v1/doctor?window_s=5").json();
    assert!(doctor["findings"].is_array() && doctor["nodes"][0]["node"].is_string(), "{doctor}");
    let about = read(port, "/api/v1/about").json();
    assert_eq!((&about["mode"], &about["login"]), (&json!("run"), &json!(false)), "{about}");

    let refused = [
        ("/api/v1/accounts?most=0", 400, "TG0607"),
        ("/api/v1/accounts?most=1001", 400, "TG0607"),
        ("/api/v1/accounts?after=x", 400, "TG0607"),
        ("/api/v1/accounts?sort=size", 400, "TG0607"),
        ("/api/v1/accounts?serch=x", 400, "TG0607"),
        ("/api/v1/accounts/p/nobody", 404, "TG0608"),
        ("/api/v1/accounts/p/%FF", 400, "TG0607"),
        ("/api/v1/accounts/P!/x", 400, "TG0607"),
        ("/api/v1/dead?most=1001", 400, "TG0607"),
        ("/api/v1/dead/x", 400, "TG0607"),
        ("/api/v1/dead/99999", 404, "TG0608"),
        ("/api/v1/doctor?window_s=61", 400, "TG0607"),
        ("/api/v1/overview?x=1", 400, "TG0607"),
        ("/api/v1/nothing", 404, "TG0608"),
        ("/api", 404, "TG0608"),
    ];
    for (path, status, code) in refused {
        let said = read(port, path);
        assert_eq!((said.status, &*said.code()), (status, code), "{path}: {}", said.body);
        assert!(said.json()["detail"].as_str().is_some_and(|words| words.len() > 10), "{path}");
    }
    let said = ask(port, "POST", "/api/v1/overview", &[JSON], "{}");
    assert_eq!((said.status, &*said.code()), (405, "TG0607"));
    assert_eq!(said.header("allow"), Some("get,head"));

    // Holds are kept on NATS, and what never was a fetch cannot be replayed.
    let said = change(port, "/api/v1/pause", &json!({ "platform": "p" }));
    assert_eq!((said.status, &*said.code()), (409, "TG0609"), "{}", said.body);
    let said = ask(port, "POST", &format!("/api/v1/dead/{number}/replay"), &[], "");
    assert_eq!((said.status, &*said.code()), (409, "TG0101"), "{}", said.body);
    let said = ask(port, "DELETE", &format!("/api/v1/dead/{number}"), &[], "");
    assert_eq!(said.json()["done"], "dropped", "{}", said.body);
    assert_eq!(read(port, "/api/v1/dead").json()["letters"], json!([]));
    run.signal("TERM");
    run.wait().exits(3);
}

#[test]
fn what_a_browser_is_told_of_the_page_lets_nothing_in_from_elsewhere() {
    let emulator = slow();
    let (_dir, _run, port) = run_at(&hourly(&emulator), &reports(1, 3), &[]);
    let page = read(port, "/");
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    for path in ["/", "/app.js", "/api/v1/overview", "/api/v1/nothing"] {
        let said = read(port, path);
        let policy = said.header("content-security-policy").unwrap();
        for part in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"] {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
        assert_eq!(said.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(said.header("cache-control"), Some("no-store"), "{path}");
        assert_eq!(said.header("access-control-allow-origin"), None, "{path}");
    }
    // Every file that the page names is there, and none names another host but as a name in comments and licences.
    let mut files: Vec<String> = vec!["/".into()];
    let mut seen = 0;
    while let Some(path) = files.pop() {
        let said = read(port, &path);
        assert_eq!(said.status, 200, "{path}");
        seen += 1;
        let parts = said.body.split(['"', '\'']);
        let named = parts.filter_map(|part| {
            let part = part.trim_start_matches('.');
            let is_file = [".js", ".css", ".svg"].iter().any(|end| part.ends_with(end));
            (is_file && part.starts_with('/') && !part.contains(' ')).then(|| part.to_owned())
        });
        if path == "/" || path == "/app.js" {
            files.extend(named);
        }
        if !path.starts_with("/uplot") {
            let with_http = said.body.replace("http://www.w3.org/2000/svg", "");
            assert!(!with_http.contains("http://") && !with_http.contains("https://"), "{path}");
            assert!(!said.body.contains("innerHTML") && !said.body.contains(" style="), "{path}");
        }
    }
    assert!(seen >= 8, "{seen} files");

    // Other names that point here are not ours, and pages of other origins change nothing.
    let evil = [("Host", "evil.test")];
    for path in ["/", "/api/v1/overview", "/api/v1/events"] {
        let said = ask(port, "GET", path, &evil, "");
        assert_eq!((said.status, &*said.code()), (421, "TG0605"), "{path}");
    }
    assert_eq!(ask(port, "GET", "/healthz", &evil, "").status, 200);
    for host in [format!("localhost:{port}"), "[::1]".to_owned()] {
        assert_eq!(ask(port, "GET", "/api/v1/about", &[("Host", &host)], "").status, 200, "{host}");
    }
    let own = format!("http://127.0.0.1:{port}");
    let foreign: [&[(&str, &str)]; 4] = [
        &[JSON, ("Origin", "http://evil.test")],
        &[JSON, ("Origin", "null")],
        &[JSON, ("Sec-Fetch-Site", "cross-site"), ("Origin", &own)],
        &[JSON, ("Sec-Fetch-Site", "same-site")],
    ];
    for headers in foreign {
        let said = ask(port, "POST", "/api/v1/pause", headers, r#"{"platform":"p"}"#);
        assert_eq!((said.status, &*said.code()), (403, "TG0606"), "{headers:?}");
        let said = ask(port, "DELETE", "/api/v1/dead/1", headers, "");
        assert_eq!((said.status, &*said.code()), (403, "TG0606"), "{headers:?}");
    }
    for headers in [&[JSON, ("Origin", &*own)][..], &[JSON, ("Sec-Fetch-Site", "same-origin")]] {
        let said = ask(port, "POST", "/api/v1/pause", headers, r#"{"platform":"p"}"#);
        assert_eq!(said.code(), "TG0609", "it came through to what `run` cannot do");
    }
    // Bodies: of the right type, not too long, nothing unknown.
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    assert_eq!(ask(port, "POST", "/api/v1/pause", &form, "platform=p").status, 415);
    let long = format!(r#"{{"platform":"{}"}}"#, "x".repeat(20_000));
    assert_eq!(ask(port, "POST", "/api/v1/pause", &[JSON], &long).status, 413);
    for body in
        ["", "[]", "{}", r#"{"platform":"p","acount":"a"}"#, r#"{"platform":"p","api":"report"}"#]
    {
        let said = ask(port, "POST", "/api/v1/pause", &[JSON], body);
        assert_eq!((said.status, &*said.code()), (400, "TG0607"), "{body}");
    }
}

#[test]
fn elsewhere_than_on_loopback_the_page_needs_a_token_and_health_does_not() {
    let emulator = slow();
    let dir = Dir::with(&hourly(&emulator));
    dir.write("f.jsonl", reports(1, 3));
    let port = free_port();
    let at = format!("0.0.0.0:{port}");
    let command = || dir.tollgate(&["run", "f.jsonl", "--listen", &at]);
    let up = || (get(port, "/readyz")?.0 == 200).then_some(());

    let open = command().start();
    wait_until("the run to answer", up);
    for path in ["/", "/app.js", "/login", "/api/v1/overview", "/api/v1/openapi.json"] {
        let said = read(port, path);
        assert_eq!((said.status, &*said.code()), (403, "TG0604"), "{path}");
        assert!(said.body.contains("http.token"), "{}", said.body);
    }
    assert_eq!(read(port, "/metrics").status, 200);
    drop(open);

    dir.write("tollgate.toml", hourly(&emulator).text() + "[http]\ntoken = \"env:PAGE_TOKEN\"\n");
    let with_token = command().env("PAGE_TOKEN", TOKEN).start();
    wait_until("the run to answer", up);
    let bearer = |token: &str| {
        ask(port, "GET", "/api/v1/config", &[("Authorization", &format!("Bearer {token}"))], "")
    };
    for path in ["/api/v1/overview", "/api/v1/events", "/app.js", "/api/v1/openapi.json"] {
        let said = read(port, path);
        assert_eq!((said.status, &*said.code()), (401, "TG0603"), "{path}");
        assert_eq!(said.header("www-authenticate"), Some("bearer realm=\"tollgate\""), "{path}");
    }
    for wrong in ["", "x", TOKEN.get(1..).unwrap(), &format!("{TOKEN}x")] {
        assert_eq!(bearer(wrong).status, 401, "{wrong}");
    }
    let config = bearer(TOKEN);
    assert_eq!(config.status, 200);
    assert!(!config.body.contains(TOKEN), "{}", config.body);
    assert_eq!((read(port, "/healthz").status, read(port, "/metrics").status), (200, 200));

    // The page asks for it, and a login is a cookie that no script reads.
    let page = read(port, "/");
    assert_eq!(page.status, 401);
    assert!(page.body.contains("name=\"token\"") && !page.body.contains("app.js"), "{}", page.body);
    let form = ("Content-Type", "application/x-www-form-urlencoded");
    let wrong = ask(port, "POST", "/login", &[form], "token=wrong");
    assert_eq!((wrong.status, wrong.header("set-cookie")), (401, None));
    assert!(wrong.body.contains("role=\"alert\">This is not the token."), "{}", wrong.body);
    let foreign = [form, ("Origin", "http://evil.test")];
    let said = ask(port, "POST", "/login", &foreign, &format!("token={TOKEN}"));
    assert_eq!((said.status, said.header("set-cookie")), (403, None));
    let said = ask(port, "POST", "/login", &[form], &format!("token={TOKEN}"));
    assert_eq!((said.status, said.header("location")), (303, Some("/")));
    // Over plain http a browser says where a form is from by `Origin` alone, and not even so if pages forbid it.
    let page = ask(port, "GET", "/login", &[("Host", "any.name.test")], "");
    let origin = match page.header("referrer-policy") {
        Some("no-referrer") => "null",
        _ => "http://any.name.test",
    };
    let browser = [form, ("Host", "any.name.test"), ("Origin", origin)];
    let said = ask(port, "POST", "/login", &browser, &format!("token={TOKEN}"));
    assert_eq!((said.status, said.header("location")), (303, Some("/")), "{}", said.body);
    let hidden = [form, ("Host", "any.name.test"), ("Origin", "null")];
    assert_eq!(ask(port, "POST", "/login", &hidden, &format!("token={TOKEN}")).code(), "TG0606");
    let cookie = said.header("set-cookie").unwrap();
    assert!(cookie.ends_with("; path=/; max-age=43200; httponly; samesite=strict"), "{cookie}");
    assert!(!cookie.contains(&TOKEN.to_lowercase()), "{cookie}");
    let cookie = cookie.split(';').next().unwrap();
    let logged_in = [("Cookie", cookie), ("Host", "any.name.test")];
    let page = ask(port, "GET", "/", &logged_in, "");
    assert!(page.status == 200 && page.body.contains("app.js"), "{}", page.body);
    assert_eq!(ask(port, "GET", "/api/v1/about", &logged_in, "").json()["login"], true);
    let forged = cookie.replacen('.', "0.", 1);
    assert_eq!(ask(port, "GET", "/api/v1/about", &[("Cookie", &forged)], "").status, 401);
    let out = ask(port, "POST", "/logout", &logged_in, "");
    assert!(out.header("set-cookie").unwrap().contains("max-age=0"), "{}", out.head);
    drop(with_token);

    dir.write("tollgate.toml", hourly(&emulator).text() + "[http]\ntoken = \"env:PAGE_TOKEN\"\n");
    let short = dir.tollgate(&["check"]).env("PAGE_TOKEN", "short").run().exits(2);
    assert!(short.says("http.token").says("TG0030").err().contains("16 bytes"));
}

#[test]
fn the_configuration_that_is_shown_has_no_secret_in_it() {
    let emulator = slow();
    let config = hourly(&emulator).platform("auth = { bearer = \"env:BEARER\" }");
    let bearer = "s3cr3t-bearer-9QxZ";
    let (_dir, _run, port) = run_at(&config, &reports(2, 3), &[("BEARER", bearer)]);
    wait_until("a call", || (emulator.counts().0 > 0).then_some(()));
    let config = read(port, "/api/v1/config").json();
    assert!(config["text"].as_str().unwrap().contains("authorization: Bearer ***"), "{config}");
    for path in [
        "config",
        "platforms",
        "overview",
        "accounts",
        "accounts/p/act_0",
        "doctor",
        "dead",
        "about",
        "log-level",
    ] {
        let said = read(port, &format!("/api/v1/{path}"));
        assert_eq!(said.status, 200, "{path}: {}", said.body);
        assert!(!said.body.contains(bearer) && !said.head.contains(bearer), "{path}");
    }
}

/// Reads a stream of events until so many of a kind have come.
fn events(port: u16, count: usize) -> Vec<Value> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let text = format!("GET /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n");
    stream.write_all(text.as_bytes()).unwrap();
    let (mut text, mut buffer) = (String::new(), [0; 16 * 1024]);
    loop {
        let bytes = stream.read(&mut buffer).unwrap();
        assert!(bytes > 0, "the stream ended: {text}");
        text += std::str::from_utf8(&buffer[..bytes]).unwrap();
        let data = text.split("event: overview\ndata: ").skip(1);
        let whole = data.filter_map(|part| Some(part.split_once("\n\n")?.0));
        let told: Vec<Value> = whole.filter_map(|part| serde_json::from_str(part).ok()).collect();
        if told.len() >= count {
            return told;
        }
    }
}

#[test]
fn live_numbers_come_each_second_and_one_stream_too_many_is_refused() {
    let emulator = slow();
    let (_dir, _run, port) = run_at(&hourly(&emulator), &reports(2, 3), &[]);
    let told = events(port, 3);
    let at = |value: &Value| value["now"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let apart = at(&told[2]).duration_since(at(&told[0]));
    assert!((1500..10_000).contains(&apart.as_millis()), "two seconds lie between: {apart:?}");
    assert_eq!(told[0]["platforms"][0]["platform"], "p", "{}", told[0]);

    let open = || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let text = format!("GET /api/v1/events HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n");
        stream.write_all(text.as_bytes()).unwrap();
        let mut head = [0; 12];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(&head, b"HTTP/1.1 200");
        stream
    };
    // The one above is noticed to be gone when something is written to it.
    let refused = wait_until("a place for sixteen", || {
        let streams: Vec<TcpStream> = (0..15).map(|_| open()).collect();
        let last = open_or_not(port);
        let more = last.as_ref().map(|_| read(port, "/api/v1/events"));
        drop(streams);
        more
    });
    assert_eq!((refused.status, &*refused.code()), (503, "TG0601"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(read(port, "/healthz").status, 200, "health is answered all the same");
}

/// A stream, where there is a place for it.
fn open_or_not(port: u16) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let text = format!("GET /api/v1/events HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n");
    stream.write_all(text.as_bytes()).unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).unwrap();
    (&head == b"HTTP/1.1 200").then_some(stream)
}

fn node(nats: &Nats, provider: &Provider, name: &str) -> (Dir, Running, u16) {
    let port = free_port();
    let config = Config::at(&provider.base_url())
        .on(nats)
        .http(&format!("listen = \"127.0.0.1:{port}\""))
        .limit(r#"second = { per = ["account"], max = 1, in = "1s" }"#)
        .api("report", "path = \"report/{date}\"");
    let dir = Dir::with(&config);
    let node = dir.tollgate(&["serve"]).env("TOLLGATE__NODE__NAME", name).start();
    wait_until("the node to be ready", || (get(port, "/readyz")?.0 == 200).then_some(()));
    wait_until("the API", || (read(port, "/api/v1/about").status == 200).then_some(()));
    (dir, node, port)
}

#[test]
fn one_node_answers_for_the_cluster_pauses_resumes_and_replays() {
    let nats = Nats::start();
    let provider = Provider::start(|asked, _| match asked.path() {
        "report/bad" => Told::of(404, "application/json", "{}"),
        _ => Told::json(&json!({ "ok": true })),
    });
    let (dir, first, port) = node(&nats, &provider, "one");
    let (_other, mut second, other_port) = node(&nats, &provider, "two");
    wait_until("both to share the accounts", || {
        let told = read(port, "/api/v1/overview").json();
        let nodes = told["nodes"].as_array()?.clone();
        let shares: Vec<_> =
            nodes.iter().map(|node| node["partitions"].as_u64().unwrap()).collect();
        (shares.len() == 2 && shares.iter().all(|share| *share > 10)).then_some(())
    });

    // Before anything waits: nothing of it is called until it is resumed.
    let said = change(port, "/api/v1/pause", &json!({ "platform": "p", "reason": "a test" }));
    assert_eq!((said.status, &said.json()["of"]), (200, &json!("p")), "{}", said.body);
    let report = |account: usize, date: &str| {
        fetch(&format!("act_{account}"), "report", date, json!({ "params": { "date": date } }))
    };
    let lines: String = (0..20).map(|account| report(account, "1")).collect();
    dir.tollgate(&["publish", "-"]).input(lines + &report(0, "bad")).run().exits(0);
    for port in [port, other_port] {
        let told = wait_until("all accounts of both nodes", || {
            let told = read(port, "/api/v1/accounts?sort=name&most=7&held=true").json();
            (told["matching"] == 20).then_some(told)
        });
        assert_eq!(told["accounts"].as_array().unwrap().len(), 7, "{told}");
        assert_eq!(told["nodes"].as_array().unwrap().len(), 2, "{told}");
        let one = read(port, "/api/v1/accounts/p/act_7").json();
        assert_eq!(
            (&one["waiting"], &one["holds"][0]["by"]),
            (&json!(1), &json!("operator")),
            "{one}"
        );
        let holds = read(port, "/api/v1/holds").json();
        assert_eq!(holds["held"][0]["reason"], "a test", "{holds}");
    }
    assert_eq!(provider.asked().len(), 0);
    // What no node can answer is refused at once, and what all refuse is not waited for.
    let begun = Instant::now();
    for path in ["accounts?after=x", "accounts/P!/x"] {
        let said = read(port, &format!("/api/v1/{path}"));
        assert_eq!((said.status, &*said.code()), (400, "TG0607"), "{path}: {}", said.body);
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let wrong = change(port, "/api/v1/pause", &json!({ "platform": "p", "for": "soon" }));
    assert_eq!((wrong.status, &*wrong.code()), (400, "TG0607"));
    let wrong = change(port, "/api/v1/pause", &json!({ "platform": "q" }));
    assert_eq!((wrong.status, &*wrong.code()), (404, "TG0608"));

    let said = change(other_port, "/api/v1/resume", &json!({ "platform": "p" }));
    assert_eq!(said.json()["ended"], json!(["p"]), "{}", said.body);
    nats.wait_count("DONE", 20);
    nats.wait_count("DEAD", 1);
    let letters = read(other_port, "/api/v1/dead").json();
    let number = letters["letters"][0]["number"].to_string();
    assert_eq!(letters["letters"][0]["http_status"], 404, "{letters}");
    let path = format!("/api/v1/dead/{number}/replay");
    assert_eq!(ask(port, "POST", &path, &[], "").json()["done"], "replayed");
    wait_until("it to die again", || (provider.count("report/bad", None) >= 2).then_some(()));
    assert_eq!(ask(port, "POST", &path, &[], "").code(), "TG0608", "it is not there any more");

    // What nodes log: of all, of one, of none.
    let levels = change(
        port,
        "/api/v1/log-level",
        &json!({ "node": "two", "level": "debug", "for": "10m" }),
    );
    assert_eq!(levels.json()["nodes"][0]["level"], "debug", "{}", levels.body);
    let levels = read(port, "/api/v1/log-level").json();
    let of = |at: usize| (levels["nodes"][at]["node"].as_str(), levels["nodes"][at]["by"].as_str());
    assert_eq!(of(1), (Some("two"), Some("operator")), "{levels}");
    assert_ne!(of(0).1, Some("operator"), "{levels}");
    let said = change(port, "/api/v1/log-level", &json!({ "node": "three", "level": "debug" }));
    assert_eq!((said.status, &*said.code()), (404, "TG0608"), "{}", said.body);

    // A node that is stuck is told of, and what the others know is answered.
    second.signal("STOP");
    assert!(second.is_running());
    let told = read(port, "/api/v1/overview").json();
    assert_eq!(
        (&told["silent"], told["nodes"].as_array().unwrap().len()),
        (&json!(1), 1),
        "{told}"
    );
    assert_eq!(read(port, "/healthz").status, 200);
    second.signal("CONT");
    // One that has ended is nobody any more.
    second.signal("TERM");
    second.wait().exits(0);
    assert_eq!(read(port, "/api/v1/overview").json()["silent"], 0);
    first.signal("TERM");
    first.wait().exits(0);
}
