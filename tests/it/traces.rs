//! Traces of fetches, as a collector gets them: read by the numbers of the fields in opentelemetry-proto, by nothing
//! of ours.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::json;

use crate::util::{Config, Dir, Nats, Provider, Told, fetch, wait_until};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// The fields of a protobuf message: numbers as 8 bytes, the rest as it is.
fn fields(mut bytes: &[u8]) -> Vec<(u64, Vec<u8>)> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (first, rest) = bytes.split_first().unwrap();
            *bytes = rest;
            value |= u64::from(first & 0x7f) << shift;
            if first & 0x80 == 0 {
                break;
            }
        }
        value
    }
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let length = match key & 7 {
            0 => {
                all.push((key >> 3, varint(&mut bytes).to_le_bytes().to_vec()));
                continue;
            }
            1 => 8,
            2 => usize::try_from(varint(&mut bytes)).unwrap(),
            5 => 4,
            wire => panic!("wire type {wire}"),
        };
        let (value, rest) = bytes.split_at(length);
        all.push((key >> 3, value.to_vec()));
        bytes = rest;
    }
    all
}

/// The first field of that number.
fn field(bytes: &[u8], number: u64) -> Vec<u8> {
    let found = fields(bytes).into_iter().find(|(one, _)| *one == number);
    found.map(|(_, value)| value).unwrap_or_default()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

fn number(bytes: &[u8]) -> u64 {
    let mut padded = [0; 8];
    padded[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(padded)
}

#[derive(Debug, Clone)]
struct Span {
    trace: String,
    id: String,
    parent: String,
    name: String,
    kind: u64,
    from: u64,
    to: u64,
    facts: BTreeMap<String, String>,
    /// 2: it did not end well.
    status: u64,
}

fn facts(bytes: &[u8], of: u64) -> BTreeMap<String, String> {
    let of = fields(bytes).into_iter().filter(|(one, _)| *one == of);
    of.map(|(_, fact)| {
        let value = fields(&field(&fact, 2)).remove(0);
        let value = match value {
            (1, value) => text(&value),
            (3, value) => number(&value).to_string(),
            other => panic!("{other:?}"),
        };
        (text(&field(&fact, 1)), value)
    })
    .collect()
}

/// The spans of a request; the resource is looked at on the way.
fn spans(request: &[u8]) -> Vec<Span> {
    let mut all = Vec::new();
    for (_, resource_spans) in fields(request) {
        let resource = facts(&field(&resource_spans, 1), 1);
        assert_eq!(resource["service.name"], "tollgate");
        assert_eq!(resource["service.instance.id"], "node-a");
        let scope_spans = field(&resource_spans, 2);
        for (_, span) in fields(&scope_spans).into_iter().filter(|(one, _)| *one == 2) {
            all.push(Span {
                trace: hex(&field(&span, 1)),
                id: hex(&field(&span, 2)),
                parent: hex(&field(&span, 4)),
                name: text(&field(&span, 5)),
                kind: number(&field(&span, 6)),
                from: number(&field(&span, 7)),
                to: number(&field(&span, 8)),
                facts: facts(&span, 9),
                status: number(&field(&field(&span, 15), 3)),
            });
        }
    }
    all
}

/// A collector until the test ends.
struct Collector {
    port: u16,
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Collector {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let all: Arc<Mutex<Vec<Span>>> = Arc::default();
        let there = Arc::clone(&all);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let there = Arc::clone(&there);
                thread::spawn(move || {
                    let mut lines = BufReader::new(&stream);
                    loop {
                        let mut length = 0;
                        let mut line = String::new();
                        while lines.read_line(&mut line).unwrap_or(0) > 2 {
                            let lower = line.to_ascii_lowercase();
                            if let Some(value) = lower.strip_prefix("content-length:") {
                                length = value.trim().parse().unwrap();
                            }
                            line.clear();
                        }
                        if line.is_empty() {
                            return;
                        }
                        let mut body = vec![0; length];
                        lines.read_exact(&mut body).unwrap();
                        there.lock().unwrap().extend(spans(&body));
                        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
                        (&stream).write_all(answer).unwrap();
                    }
                });
            }
        });
        Self { port, spans: all }
    }

    fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap().clone()
    }

    /// The lines of a configuration that sends traces here.
    fn section(&self, sample: &str) -> String {
        format!(
            "[traces]\nendpoint = \"http://127.0.0.1:{}/v1/traces\"\nsample = {sample}\n",
            self.port
        )
    }
}

/// Fails at first, and answers then.
fn provider() -> Provider {
    Provider::start(|asked, before| match (asked.path(), before) {
        ("report/bad", _) => Told::of(404, "application/json", "{}"),
        (_, 0) => Told::of(500, "application/json", "{}"),
        _ => Told::json(&json!({ "ok": true })),
    })
}

fn config(provider: &Provider) -> Config {
    Config::at(&provider.base_url())
        .limit(r#"gap = { per = ["account"], every = "10ms" }"#)
        .api("report", "path = \"report/{date}\"")
}

/// The spans of one name, in the order of their beginning.
fn of<'s>(spans: &'s [Span], name: &str) -> Vec<&'s Span> {
    let mut of: Vec<&Span> = spans.iter().filter(|span| span.name == name).collect();
    of.sort_by_key(|span| span.from);
    of
}

#[test]
fn a_fetch_is_one_trace_below_its_publishers_span_over_two_attempts() {
    let (nats, provider, collector) = (Nats::start(), provider(), Collector::start());
    let text = config(&provider).on(&nats).text() + &collector.section("0.0");
    let dir = Dir::empty();
    dir.write("tollgate.toml", text);
    let node = dir.tollgate(&["serve"]).env("TOLLGATE__NODE__NAME", "node-a").start();
    node.wait_says(r#""event":"partitions_gained""#);
    let order = |id: &str, flags: &str| {
        let parent = format!("00-{TRACE}-{PARENT}-{flags}");
        let payload = json!({ "id": id, "params": { "date": id } }).to_string();
        nats.publish("tollgate.fetch.p.act.report", &[("traceparent", &parent)], payload);
    };
    // Traced though none is drawn, and not traced where the publisher does not want it.
    order("2026-11-01", "01");
    order("2026-11-02", "00");
    node.wait_says(r#""fetch_id":"2026-11-02","#);
    wait_until("both", || (node.said(r#""event":"fetch_done""#) == 2).then_some(()));
    node.signal("TERM");
    node.wait().exits(0);

    let spans = collector.spans();
    assert_eq!(spans.len(), 1 + 1 + 2 + 2 + 1 + 1, "{spans:#?}");
    assert!(spans.iter().all(|span| span.trace == TRACE && span.from <= span.to), "{spans:#?}");
    let [root] = of(&spans, "fetch")[..] else { panic!("{spans:#?}") };
    assert_eq!((root.parent.as_str(), root.status), (PARENT, 0));
    assert_eq!(root.facts["tollgate.fetch_id"], "2026-11-01");
    assert_eq!(root.facts["tollgate.calls"], "2");
    let [wait] = of(&spans, "wait for permit")[..] else { panic!("{spans:#?}") };
    assert_eq!((&wait.parent, wait.from), (&root.id, root.from));
    let [bad, good] = of(&spans, "attempt")[..] else { panic!("{spans:#?}") };
    assert_eq!((&bad.parent, &good.parent), (&root.id, &root.id));
    assert_eq!((bad.facts["tollgate.outcome"].as_str(), bad.status), ("transient", 2));
    assert_eq!((good.facts["tollgate.outcome"].as_str(), good.status), ("ok", 0));
    assert!(wait.to <= bad.from && bad.to <= good.from && good.to <= root.to, "{spans:#?}");
    let [first, second] = of(&spans, "http")[..] else { panic!("{spans:#?}") };
    assert_eq!((&first.parent, &second.parent), (&bad.id, &good.id));
    assert_eq!(first.facts["http.response.status_code"], "500");
    assert_eq!((second.facts["http.response.status_code"].as_str(), second.kind), ("200", 3));
    let ([store], [ack]) = (&of(&spans, "store")[..], &of(&spans, "ack")[..]) else {
        panic!("{spans:#?}")
    };
    assert_eq!((&store.parent, &ack.parent), (&good.id, &good.id));
    assert!(second.to <= store.from && store.to <= ack.from, "{spans:#?}");
    // Who reads `done` can go on with the trace.
    let done: Vec<(String, tollgate_protos::Done)> = nats.events("DONE");
    let label = format!("00-{TRACE}-{PARENT}-01");
    assert!(
        done.iter().any(|(_, done)| done.labels.get("traceparent") == Some(&label)),
        "{done:?}"
    );
}

#[test]
fn a_run_is_traced_by_label_and_a_collector_that_is_away_costs_no_fetch() {
    let (provider, collector) = (provider(), Collector::start());
    let dir = Dir::empty();
    dir.write("tollgate.toml", config(&provider).text() + &collector.section("1"));
    let order = |id: &str, labels: serde_json::Value| {
        fetch("act", "report", id, json!({ "params": { "date": id }, "labels": labels }))
    };
    let label = format!("00-{TRACE}-{PARENT}-01");
    let fetches = [
        order("one", json!({ "traceparent": label })),
        order("two", json!({})),
        order("bad", json!({})),
    ];
    dir.write("fetches.jsonl", fetches.concat());
    let run = || {
        dir.tollgate(&["run", "--json", "fetches.jsonl"])
            .env("TOLLGATE__NODE__NAME", "node-a")
            .run()
    };
    run().exits(1);
    let spans = collector.spans();
    let roots = of(&spans, "fetch");
    assert_eq!(roots.len(), 3, "{spans:#?}");
    let told = |id: &str| *roots.iter().find(|root| root.facts["tollgate.fetch_id"] == id).unwrap();
    assert_eq!((told("one").trace.as_str(), told("one").parent.as_str()), (TRACE, PARENT));
    assert!(told("two").trace != TRACE && told("two").parent.is_empty(), "{roots:#?}");
    assert_eq!(told("bad").status, 2, "{roots:#?}");

    let away = collector.section("1").replace(&collector.port.to_string(), "1");
    dir.write("tollgate.toml", config(&provider).text() + &away);
    dir.write("fetches.jsonl", order("three", json!({})));
    let ran = run().says(r#""event":"traces_unsent""#);
    assert_eq!(ran.summary().done, 1);
}
