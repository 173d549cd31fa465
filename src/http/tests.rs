//! The server over real sockets, with polite clients and rude ones.

use std::io::{BufReader, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpStream};

use reqwest::{Client, Method};
use serde_json::Value;
use tollgate_actors::clock::Clock;
use tollgate_actors::health::{DRAINING, NATS, STARTING, STORE};
use tollgate_actors::intake::take_lines;
use tollgate_actors::ledger::embedded::EmbeddedLedger;
use tollgate_actors::node::{Node, Seams};
use tollgate_actors::queue::embedded::EmbeddedQueue;
use tollgate_actors::store::Store;
use tollgate_actors::{config, install_tls, telemetry};
use tollgate_emulator::{Emulator, Profile};

use super::*;
use crate::commands::folder::open_state;

const ANY_PORT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn started() -> (Server, Arc<Health>) {
    let health = Health::new(Clock::new());
    let plan = HttpPlan { listen: ANY_PORT, token: None };
    let server = start(Some(&plan), Arc::clone(&health)).unwrap().unwrap();
    (server, health)
}

struct Answer {
    status: u16,
    kind: String,
    allow: String,
    body: String,
}

async fn ask(server: &Server, method: Method, path: &str) -> Answer {
    install_tls();
    let client = Client::builder().no_proxy().timeout(Duration::from_secs(3)).build().unwrap();
    let url = format!("http://{}{path}", server.addr());
    let answer = client.request(method, url).send().await.unwrap();
    let header = |name| answer.headers().get(name).map_or("", |value| value.to_str().unwrap());
    let (kind, allow) = (header("content-type").to_owned(), header("allow").to_owned());
    let status = answer.status().as_u16();
    Answer { status, kind, allow, body: answer.text().await.unwrap() }
}

async fn get(server: &Server, path: &str) -> Answer {
    ask(server, Method::GET, path).await
}

fn parsed(answer: &Answer) -> Value {
    assert_eq!(answer.kind, "application/json");
    serde_json::from_str(&answer.body).unwrap()
}

/// Opens a connection and sends `bytes`, whole or not.
fn begin(server: &Server, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(server.addr()).unwrap();
    stream.write_all(bytes).unwrap();
    stream
}

/// Whether the other side has closed a connection by now; what it sent is read.
fn is_closed(stream: &mut TcpStream, within: Duration) -> bool {
    stream.set_read_timeout(Some(within)).unwrap();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => {
                return !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
            }
        }
    }
}

#[tokio::test]
async fn readyz_follows_every_reason_there_is() {
    let (server, health) = started();
    let answer = get(&server, "/readyz").await;
    assert_eq!(answer.status, 503);
    assert_eq!(parsed(&answer)["reasons"][0]["name"], STARTING);
    health.clear(STARTING);
    let answer = get(&server, "/readyz").await;
    assert_eq!((answer.status, answer.body.trim()), (200, r#"{"ready":true,"reasons":[]}"#));
    health.set(STORE, "the object store takes no bodies: no space left");
    health.set(NATS, "not connected: \"timed out\"\n");
    let answer = get(&server, "/readyz").await;
    assert_eq!(answer.status, 503);
    let told = parsed(&answer);
    assert_eq!(told["ready"], false);
    let names: Vec<_> = told["reasons"].as_array().unwrap().iter().map(|r| &r["name"]).collect();
    assert_eq!(names, [STORE, NATS]);
    assert_eq!(told["reasons"][1]["reason"], "not connected: \"timed out\"\n");
    assert!(told["reasons"][0]["since"].as_str().unwrap().ends_with('Z'));
    health.clear(STORE);
    assert_eq!(get(&server, "/readyz").await.status, 503);
    health.clear(NATS);
    assert_eq!(get(&server, "/readyz").await.status, 200);
    health.set(DRAINING, "the node gives no more permits and ends");
    assert_eq!(get(&server, "/readyz").await.status, 503);
    assert_eq!(get(&server, "/healthz").await.status, 200, "what is not ready is alive");
}

#[tokio::test]
async fn healthz_says_which_shard_is_stuck_and_for_how_long() {
    let (server, health) = started();
    let answer = get(&server, "/healthz").await;
    assert_eq!((answer.status, answer.body.trim()), (200, r#"{"alive":true}"#));
    health.expect_shards(2);
    health.clear(STARTING);
    for _ in 0..11 {
        sleep(Duration::from_millis(500)).await;
        health.beat(0);
    }
    let answer = get(&server, "/healthz").await;
    assert_eq!(answer.status, 503);
    assert_eq!(parsed(&answer)["reason"]["reason"], "shard 1 has not answered for 5 s");
    let answer = get(&server, "/readyz").await;
    assert_eq!(answer.status, 503);
    assert_eq!(parsed(&answer)["reasons"][0]["name"], "shards");
    health.beat(1);
    assert_eq!(get(&server, "/healthz").await.status, 200);
}

#[tokio::test]
async fn metrics_are_prometheus_text_and_what_is_counted_is_in_them() {
    let (server, _health) = started();
    telemetry::fetch_refused("here:1", Code::FetchNotUtf8, "not text");
    telemetry::fetch_refused("here:2", Code::FetchNotUtf8, "not text");
    let answer = get(&server, "/metrics").await;
    assert_eq!((answer.status, &*answer.kind), (200, "text/plain; version=0.0.4; charset=utf-8"));
    let version = env!("CARGO_PKG_VERSION");
    for line in [
        &format!("tollgate_build_info{{version=\"{version}\"}} 1"),
        "# TYPE tollgate_fetches_refused_total counter",
        "tollgate_fetches_refused_total{code=\"TG0116\"} 2",
    ] {
        assert!(answer.body.lines().any(|known| known == line), "{line} in\n{}", answer.body);
    }
    // A second later at most it is up to date again.
    telemetry::fetch_refused("here:3", Code::FetchNotUtf8, "not text");
    sleep(RENDER_EVERY).await;
    let answer = get(&server, "/metrics").await;
    assert!(answer.body.contains("tollgate_fetches_refused_total{code=\"TG0116\"} 3\n"));
}

#[tokio::test]
async fn other_methods_and_paths_are_refused() {
    let (server, _health) = started();
    for path in ["/healthz", "/metrics"] {
        let head = ask(&server, Method::HEAD, path).await;
        let get = get(&server, path).await;
        assert_eq!((head.status, head.body), (200, String::new()));
        assert_eq!(head.kind, get.kind);
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
            let answer = ask(&server, method, path).await;
            assert_eq!((answer.status, &*answer.allow), (405, "GET,HEAD"));
        }
    }
    assert_eq!(ask(&server, Method::HEAD, "/readyz").await.status, 503);
    for path in ["/", "/metrics/", "/healthz/x", "/..%2f", "/favicon.ico?a=<script>"] {
        let answer = get(&server, path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.body.contains("/readyz") && !answer.body.contains("script"));
    }
}

#[tokio::test]
async fn clients_that_are_slow_to_ask_keep_nobody_out_and_are_closed() {
    let (server, _health) = started();
    let begun = Instant::now();
    let mut slow: Vec<TcpStream> = (0..4 * CONNECTIONS_MAX)
        .map(|_| begin(&server, b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Slow: "))
        .collect();
    for _ in 0..20 {
        assert_eq!(get(&server, "/healthz").await.status, 200);
    }
    assert!(begun.elapsed() < HEAD_WITHIN, "not before their time was over");
    let open = slow.split_off(3 * CONNECTIONS_MAX);
    let old_are_closed = slow.iter_mut().all(|old| is_closed(old, Duration::from_secs(1)));
    assert!(old_are_closed, "the oldest make room");
    // A byte now and then buys no time.
    let mut open = open;
    while begun.elapsed() < HEAD_WITHIN + Duration::from_secs(1) {
        sleep(Duration::from_millis(500)).await;
        for stream in &mut open {
            let _refused = stream.write_all(b"x");
        }
    }
    assert!(open.iter_mut().all(|one| is_closed(one, Duration::from_secs(1))));
    assert_eq!(get(&server, "/healthz").await.status, 200);
}

#[tokio::test]
async fn heads_and_bodies_without_end_are_cut_off() {
    let (server, _health) = started();
    let mut head = b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Long: ".to_vec();
    head.resize(4 * HEAD_BYTES_MAX, b'x');
    let mut long = TcpStream::connect(server.addr()).unwrap();
    // The server may close before all is written.
    let _refused = long.write_all(&head);
    assert!(is_closed(&mut long, Duration::from_secs(2)));
    let mut body = begin(
        &server,
        b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000000000\r\n\r\n",
    );
    let (piece, mut written) = (vec![b'x'; 65536], 0);
    body.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    while body.write_all(&piece).is_ok() {
        written += piece.len();
        assert!(written < 64 << 20, "64 MiB of a body nobody wants were taken");
    }
    assert_eq!(get(&server, "/healthz").await.status, 200);
}

#[tokio::test]
async fn clients_that_do_not_read_keep_nobody_out() {
    let (server, _health) = started();
    let asked = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2000);
    let greedy: Vec<TcpStream> = (0..2 * CONNECTIONS_MAX)
        .map(|_| {
            let stream = TcpStream::connect(server.addr()).unwrap();
            stream.set_nonblocking(true).unwrap();
            // As much as goes in; the answers are not read.
            let _rest = (&stream).write(&asked);
            stream
        })
        .collect();
    for _ in 0..20 {
        let begun = Instant::now();
        assert_eq!(get(&server, "/readyz").await.status, 503);
        assert!(begun.elapsed() < Duration::from_secs(1));
    }
    drop(greedy);
}

#[tokio::test]
async fn an_address_that_is_taken_is_an_error_with_its_code() {
    let (server, health) = started();
    let plan = HttpPlan { listen: server.addr(), token: None };
    let error = start(Some(&plan), Arc::clone(&health)).unwrap_err();
    let text = format!("{error:#}");
    assert!(text.starts_with("TG0313: listen at 127.0.0.1:"), "{text}");
    assert!(text.to_lowercase().contains("in use"), "{text}");
    assert!(start(None, health).unwrap().is_none(), "without a plan nothing is begun");
}

#[tokio::test]
async fn a_server_that_is_stopped_has_given_its_port_back() {
    let (server, health) = started();
    let plan = HttpPlan { listen: server.addr(), token: None };
    let mut idle = begin(&server, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut slow = begin(&server, b"GET /healthz HTTP/1.1\r\nHo");
    assert_eq!(get(&server, "/healthz").await.status, 200);
    let begun = Instant::now();
    server.stop();
    assert!(begun.elapsed() < 2 * STOP_WITHIN);
    assert!(is_closed(&mut idle, Duration::from_secs(1)));
    assert!(is_closed(&mut slow, Duration::from_secs(1)));
    let again = start(Some(&plan), health).unwrap().unwrap();
    assert_eq!(get(&again, "/healthz").await.status, 200);
}

/// A node as `serve` will start it, on the embedded back, against an emulated provider.
#[test]
fn a_node_at_work_is_seen_from_outside_until_it_has_drained() {
    const CONFIG: &str = r#"
[node]
data = "DATA"
[store]
url = "file:DATA"
[http]
listen = "127.0.0.1:0"
[platforms.p]
base_url = "BASE"
[platforms.p.limits]
gap = { per = ["account"], every = "1s" }
[platforms.p.apis.a]
path = "v1/reports/daily"
headers = { X-Account = "{account}" }
"#;
    install_tls();
    actix_rt::System::new().block_on(async {
        let profile = Profile { limits: Vec::new(), ..Profile::default() };
        let emulator = Emulator::start(profile).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let text = CONFIG
            .replace("DATA", folder.path().to_str().unwrap())
            .replace("BASE", &emulator.base_url());
        let file = folder.path().join("tollgate.toml");
        std::fs::write(&file, text).unwrap();
        let loaded = config::load(Some(&file), std::iter::empty(), &[]);
        let plan = Arc::new(loaded.unwrap_or_else(|mistakes| panic!("{mistakes}")).plan);

        let clock = Clock::new();
        let health = Health::new(clock.clone());
        let server = start(plan.http.as_ref(), Arc::clone(&health)).unwrap().unwrap();
        assert_eq!(get(&server, "/readyz").await.status, 503, "it starts");
        let state = open_state(&plan).await.unwrap();
        let queue = Arc::new(EmbeddedQueue::new(&state));
        let ledger = Arc::new(EmbeddedLedger::new(&state));
        let store = Store::open_file(folder.path(), &plan.state(), false, 1 << 28).unwrap();
        let seams = Seams::new(queue, ledger, store);
        let mut node = Node::start(Arc::clone(&plan), seams, clock.clone()).await.unwrap();
        node.report_to(&health);
        assert_eq!(get(&server, "/readyz").await.status, 200);

        let line = |number| {
            let account = number % 10;
            format!(r#"{{"id":"{number}","platform":"p","account":"act_{account}","api":"a"}}"#)
        };
        let lines: Vec<String> = (0..40).map(line).collect();
        let lines = lines.join("\n");
        let (taking, intake, time) = (node.plan(), node.intake(), clock.clone());
        let wait = tokio::runtime::Handle::current();
        let take = move || {
            let lines = BufReader::new(lines.as_bytes());
            take_lines(&taking, &intake, &time, "here", lines, &wait, || true).unwrap()
        };
        actix_rt::task::spawn_blocking(take).await.unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while node.totals().fetches_done.get() < 40 {
            assert!(Instant::now() < deadline, "{:?}", node.totals());
            sleep(Duration::from_millis(50)).await;
        }
        // What waits is counted every 5 s.
        sleep(Duration::from_secs(6)).await;
        let text = get(&server, "/metrics").await.body;
        let series = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            value.unwrap_or_else(|| panic!("{name} in\n{text}")).parse::<f64>().unwrap()
        };
        for (name, wanted) in [
            ("tollgate_permits_total{platform=\"p\",api=\"a\"}", 40.0),
            ("tollgate_fetches_done_total{platform=\"p\",api=\"a\"}", 40.0),
            ("tollgate_attempts_total{platform=\"p\",api=\"a\",class=\"ok\"}", 40.0),
            ("tollgate_permit_lateness_seconds_count{platform=\"p\"}", 30.0),
            ("tollgate_permit_lateness_seconds_bucket{platform=\"p\",le=\"10\"}", 30.0),
            ("tollgate_queue_finish_seconds_count{platform=\"p\"}", 40.0),
            ("tollgate_store_finish_seconds_count{platform=\"p\"}", 40.0),
            ("tollgate_fetches_in_flight{platform=\"p\"}", 0.0),
            ("tollgate_fetches_waiting{platform=\"p\"}", 0.0),
            ("tollgate_slots_open", 1024.0),
            ("tollgate_store_away", 0.0),
        ] {
            assert!((series(name) - wanted).abs() < 0.5, "{name} in\n{text}");
        }
        assert!(series("tollgate_wakes_total") >= 1.0);
        assert!(series("tollgate_ledger_store_seconds_count{platform=\"p\"}") >= 40.0);
        assert!(!text.contains("act_"), "no account is a label");

        node.drain(Duration::from_secs(1)).await;
        let answer = get(&server, "/readyz").await;
        assert_eq!(answer.status, 503);
        assert_eq!(parsed(&answer)["reasons"][0]["name"], DRAINING);
        server.stop();
        state.close().await;
    });
}

#[test]
fn it_answers_while_the_threads_of_fetching_are_busy() {
    let (server, _health) = started();
    // Nothing but this thread, and it is in a blocking read: a server on a runtime of this thread would not answer.
    let mut stream =
        begin(&server, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.set_read_timeout(Some(Duration::from_secs(3))).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}
