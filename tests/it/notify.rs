//! Notices of real nodes: posts to a receiver on a socket, and messages to a client of NATS. What they are made of is that
//! of `docs/notice.schema.json`.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::util::{Config, Dir, Nats, Provider, Told, fetch, wait_until};

/// A key of Standard Webhooks.
const KEY: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8G";

/// A receiver until the test ends. It takes every notice, but the first try.
struct Receiver {
    port: u16,
    got: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Receiver {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let got: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
        let all = Arc::clone(&got);
        thread::spawn(move || {
            for (number, stream) in listener.incoming().map_while(Result::ok).enumerate() {
                let mut lines = BufReader::new(&stream);
                let (mut head, mut line, mut length) = (String::new(), String::new(), 0);
                while lines.read_line(&mut line).unwrap_or(0) > 2 {
                    let lower = line.to_ascii_lowercase();
                    if let Some(value) = lower.strip_prefix("content-length:") {
                        length = value.trim().parse().unwrap();
                    }
                    head += &lower;
                    line.clear();
                }
                let mut body = vec![0; length];
                if lines.read_exact(&mut body).is_err() {
                    continue;
                }
                let status = if number == 0 { "500 No" } else { "204 Yes" };
                if number > 0 {
                    all.lock().unwrap().push((head, serde_json::from_slice(&body).unwrap()));
                }
                let answer = format!("HTTP/1.1 {status}\r\nConnection: close\r\n\r\n");
                (&stream).write_all(answer.as_bytes()).unwrap();
            }
        });
        Self { port, got }
    }

    fn wait(&self, kind: &str) -> (String, Value) {
        wait_until(kind, || {
            let got = self.got.lock().unwrap();
            got.iter().find(|(_, notice)| notice["type"] == kind).cloned()
        })
    }

    fn section(&self) -> String {
        format!(
            "[notify]\nheld_after = \"1s\"\ndead_over = 1\n[notify.webhooks.ops]\nurl = \"http://127.0.0.1:{}/hook\"\n\
             headers = {{ Authorization = \"env:OPS_TOKEN\" }}\nsecret = \"env:OPS_KEY\"\n",
            self.port
        )
    }
}

/// Refuses an account for an hour, and knows nothing of what is bad.
fn provider() -> Provider {
    Provider::start(|asked, _| match asked.path() {
        "report/held" => {
            Told::Answer(429, vec![("Retry-After", "3600".to_owned())], b"{}".to_vec())
        }
        "report/bad" => Told::of(404, "application/json", "{}"),
        _ => Told::json(&json!({ "ok": true })),
    })
}

fn report(account: &str, id: &str, path: &str, more: Value) -> String {
    let mut fields = json!({ "params": { "date": path } });
    fields.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    fetch(account, "report", id, fields)
}

/// What the schema says of a notice: the few words of JSON schema that it uses.
fn assert_fits(notice: &Value) {
    let schema: Value =
        serde_json::from_str(include_str!("../../docs/notice.schema.json")).unwrap();
    let notice = notice.as_object().unwrap();
    for name in schema["required"].as_array().unwrap() {
        assert!(notice.contains_key(name.as_str().unwrap()), "{name} is missing: {notice:?}");
    }
    for (name, value) in notice {
        let property = &schema["properties"][name];
        assert!(property.is_object(), "the schema lacks {name}: {notice:?}");
        if let Some(choices) = property["enum"].as_array() {
            assert!(choices.contains(value), "{value}");
        } else if property["type"] == "integer" {
            assert!(value.is_u64(), "{name}: {value}");
        } else {
            let text = value.as_str().unwrap_or_else(|| panic!("{name}: {value}"));
            if property["format"] == "date-time" {
                assert!(text.parse::<jiff::Timestamp>().is_ok(), "{name}: {text}");
            }
        }
    }
    // What to do stands there.
    let (page, heading) = notice["see"].as_str().unwrap().split_once('#').unwrap();
    assert_eq!(page, "docs/notify.md");
    assert!(include_str!("../../docs/notify.md").contains(&format!("\n### {heading}\n")));
}

#[test]
fn a_run_posts_what_is_held_what_is_late_and_what_is_dead() {
    let (receiver, provider) = (Receiver::start(), provider());
    // One call at a time: else the second fetch of an account is called before the first one's answer holds it.
    let config = Config::at(&provider.base_url())
        .limit(r#"one = { per = ["account"], concurrent = 1 }"#)
        .api("report", &format!("path = \"report/{{date}}\"\n{}", receiver.section()));
    let dir = Dir::with(&config);
    let soon = jiff::Timestamp::now() + Duration::from_secs(300);
    let lines = report("h", "1", "held", json!({}))
        + &report("h", "2", "good", json!({ "deadline": soon }))
        + &report("b", "1", "bad", json!({}))
        + &report("b", "2", "bad", json!({}))
        + &report("g", "1", "good", json!({}));
    dir.write("fetches.jsonl", lines);
    let run = dir.tollgate(&["run", "--json", "fetches.jsonl"]);
    let run = run.env("OPS_TOKEN", "Bearer t0ken").env("OPS_KEY", KEY).start();

    let (head, held) = receiver.wait("account_held.began");
    assert_fits(&held);
    assert_eq!((&held["platform"], &held["account"]), (&"p".into(), &"h".into()), "{held}");
    assert!(held["what"].as_str().unwrap().contains("429"), "{held}");
    assert!(held["until"].is_string(), "{held}");
    assert!(head.starts_with("post /hook http/1.1"), "{head}");
    assert!(head.contains("authorization: bearer t0ken\r\n"), "{head}");
    assert!(head.contains(&format!("webhook-id: {}\r\n", held["id"].as_str().unwrap())), "{head}");
    assert!(head.contains("webhook-signature: v1,"), "{head}");

    let (_, dead) = receiver.wait("dead_letters.began");
    assert_fits(&dead);
    assert_eq!((&dead["platform"], &dead["count"]), (&"p".into(), &2.into()), "{dead}");

    let (_, late) = receiver.wait("deadline_missed.began");
    assert_fits(&late);
    let names = (&late["account"], &late["api"], &late["fetch"], &late["code"]);
    assert_eq!(names, (&"h".into(), &"report".into(), &"2".into(), &"TG0114".into()), "{late}");

    // The rest was collected beside it.
    assert_eq!(provider.count("report/good", None), 1);
    run.signal("TERM");
    let ran = run.wait().exits(3);
    assert!(!ran.err().contains("t0ken") && !ran.err().contains("MfKQ"), "{ran}");
    let events = ran.events();
    let of = |name: &str| events.iter().filter(|event| event["event"] == name).count();
    assert_eq!((of("noticed"), of("notices_untaken"), of("notices_taken")), (3, 1, 1), "{ran}");
}

#[test]
fn a_node_tells_nats_what_is_held() {
    let (nats, provider) = (Nats::start(), provider());
    let section = "[notify]\nheld_after = \"1s\"\n";
    let config = Config::at(&provider.base_url())
        .on(&nats)
        .api("report", &format!("path = \"report/{{date}}\"\n{section}"));
    let dir = Dir::with(&config);
    let url = nats.server.url().clone();
    let (tell, told) = std::sync::mpsc::channel();
    let listening = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = async_nats::connect(url).await.unwrap();
            let mut notices = client.subscribe("tollgate.notice.>").await.unwrap();
            client.flush().await.unwrap();
            tell.send(()).unwrap();
            let next = tokio::time::timeout(Duration::from_secs(60), notices.next());
            next.await.expect("a notice").unwrap()
        })
    });
    told.recv().unwrap();
    let node = dir.tollgate(&["serve"]).start();
    node.wait_says("shard started");
    let lines = report("h@x", "1", "held", json!({})) + &report("h@x", "2", "good", json!({}));
    dir.tollgate(&["publish", "-"]).input(lines).run().exits(0);
    let message = listening.join().unwrap();
    assert_eq!(message.subject.as_str(), "tollgate.notice.account_held.p.h%40x");
    let notice: Value = serde_json::from_slice(&message.payload).unwrap();
    assert_fits(&notice);
    assert_eq!(
        (&notice["type"], &notice["account"]),
        (&"account_held.began".into(), &"h@x".into())
    );
    let headers = message.headers.unwrap();
    assert_eq!(headers.get("Nats-Msg-Id").unwrap().as_str(), notice["id"].as_str().unwrap());
    node.signal("TERM");
    node.wait().exits(0);
}
