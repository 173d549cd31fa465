//! Nodes as a service of NATS, asked by a client that others wrote (nats-py), as `nats micro` does.

use std::io::{Read, Write};
use std::process::Command;
use std::thread;

use serde_json::{Value, json};

use crate::nats_server;
use crate::util::{Config, Dir, Nats, Provider, Running, Told, fetch, wait_until};

/// Asks a subject, and prints each answer as a line of JSON: its headers and its payload.
const ASK: &str = r#"
import asyncio, json, sys
import nats

async def main(url, subject, question, count):
    client = await nats.connect(url)
    inbox = client.new_inbox()
    answers = await client.subscribe(inbox)
    await client.publish(subject, question.encode(), reply=inbox)
    for _ in range(int(count)):
        answer = await answers.next_msg(timeout=10)
        text = answer.data.decode()
        print(json.dumps({"headers": answer.headers or {}, "payload": json.loads(text) if text else None}))
    try:
        await answers.next_msg(timeout=0.3)
        print(json.dumps({"payload": "one answer too many"}))
    except nats.errors.TimeoutError:
        pass
    await client.close()

asyncio.run(main(*sys.argv[1:]))
"#;

fn python() -> std::path::PathBuf {
    let beside = nats_server::binary().with_file_name("python");
    assert!(beside.exists(), "{} has nats-py; `bin/test --servers` installs it", beside.display());
    beside
}

/// What `count` nodes answer to a question.
pub(crate) fn ask(nats: &Nats, subject: &str, question: &Value, count: usize) -> Vec<Value> {
    let question = if question.is_null() { String::new() } else { question.to_string() };
    let mut command = Command::new(python());
    command.args(["-c", ASK, &nats.server.url(), subject, &question, &count.to_string()]);
    let ran = command.output().unwrap();
    assert!(ran.status.success(), "{subject}: {}", String::from_utf8_lossy(&ran.stderr));
    let answers: Vec<Value> = String::from_utf8(ran.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(answers.len(), count, "{subject}: {answers:#?}");
    answers
}

fn one(nats: &Nats, endpoint: &str, question: &Value) -> Value {
    ask(nats, &format!("tollgate.service.{endpoint}"), question, 1).remove(0)
}

fn provider() -> Provider {
    Provider::start(|asked, _| match asked.path() {
        "report/bad" => Told::of(404, "application/json", "{}"),
        _ => Told::json(&json!({ "ok": true })),
    })
}

fn node(nats: &Nats, provider: &Provider, name: &str) -> (Dir, Running) {
    let config = Config::at(&provider.base_url())
        .on(nats)
        .limit(r#"hourly = { per = ["account"], max = 2, in = "1h" }"#)
        .api("report", "path = \"report/{date}\"");
    let dir = Dir::with(&config);
    let node = dir.tollgate(&["serve"]).env("TOLLGATE__NODE__NAME", name).start();
    wait_until("an answer of the node", || {
        // Nobody answers at first.
        let ran = dir.tollgate(&["status", "--json"]).run();
        let status: Value = serde_json::from_str(ran.out().lines().last()?).ok()?;
        status["nodes"].as_array()?.iter().any(|known| known == name).then_some(())
    });
    (dir, node)
}

fn reports(count: usize) -> String {
    let report = |n: usize| {
        fetch("a", "report", &n.to_string(), json!({ "params": { "date": n.to_string() } }))
    };
    (0..count).map(report).collect()
}

#[test]
fn two_nodes_are_found_as_one_service_and_asked_by_nats_py() {
    let (nats, provider) = (Nats::start(), provider());
    let (dir, first) = node(&nats, &provider, "one");
    let (_other, second) = node(&nats, &provider, "two");

    let mut names = Vec::new();
    for subject in ["$SRV.PING", "$SRV.PING.tollgate", "$SRV.INFO.tollgate", "$SRV.STATS.tollgate"]
    {
        for answer in ask(&nats, subject, &Value::Null, 2) {
            let said = &answer["payload"];
            assert_eq!(said["name"], "tollgate", "{said}");
            assert_eq!(said["version"], env!("CARGO_PKG_VERSION"), "{said}");
            let kind = subject.split('.').nth(1).unwrap().to_lowercase();
            assert_eq!(said["type"], format!("io.nats.micro.v1.{kind}_response"), "{said}");
            if kind == "ping" {
                names.push(said["metadata"]["node"].as_str().unwrap().to_owned());
                assert_eq!(said["metadata"]["session"].as_str().unwrap().len(), 16, "{said}");
                continue;
            }
            let endpoints = said["endpoints"].as_array().unwrap();
            let mut of_all: Vec<&str> =
                endpoints.iter().map(|endpoint| endpoint["name"].as_str().unwrap()).collect();
            of_all.sort_unstable();
            let known = [
                "account", "accounts", "dead", "doctor", "log", "overview", "pause", "resume",
                "status",
            ];
            assert_eq!(of_all, known, "{said}");
        }
    }
    names.sort();
    assert_eq!(names, ["one", "one", "two", "two"]);

    // Each node answers for itself, and the command adds them up.
    dir.tollgate(&["publish", "-"]).input(reports(5)).run().exits(0);
    wait_until("two calls", || (provider.asked().len() >= 2).then_some(()));
    let status = wait_until("three that wait", || {
        let status = dir.tollgate(&["status", "--json"]).run().exits(0).json();
        (status["waiting"].as_u64() >= Some(3)).then_some(status)
    });
    let mut nodes: Vec<&str> =
        status["nodes"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    nodes.sort_unstable();
    assert_eq!(nodes, ["one", "two"], "{status}");
    let answers = ask(&nats, "tollgate.service.status", &json!({ "platform": "p", "most": 1 }), 2);
    let mut names: Vec<&str> =
        answers.iter().map(|answer| answer["payload"]["node"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["one", "two"]);
    let waits = |answer: &Value| {
        let row = answer["payload"]["answer"]["status"]["accounts"][0].clone();
        row["account"] == "a" && row["because"].as_str().is_some_and(|why| why.contains("hourly"))
    };
    assert!(answers.iter().any(waits), "{answers:#?}");
    // One of them has the account; both say so, and the command tells what that one does.
    let question = json!({ "platform": "p", "account": "a" });
    let answers = ask(&nats, "tollgate.service.account", &question, 2);
    let views: Vec<&Value> =
        answers.iter().map(|answer| &answer["payload"]["answer"]["account"]).collect();
    assert_eq!(views.iter().filter(|view| view.is_null()).count(), 1, "{answers:#?}");
    let told = dir.tollgate(&["status", "p/a", "--json"]).run().exits(0).json();
    let limit = &told["account"]["limits"][0];
    assert_eq!((&limit["name"], &limit["kind"]), (&json!("hourly"), &json!("sliding")), "{told:#}");
    assert_eq!(limit["counters"][0]["used"], 2, "{told:#}");
    assert_eq!(told["account"]["answers"].as_array().unwrap().len(), 2, "{told:#}");
    assert!(told["eta"].is_null() && told["account"]["eta"]["by"] == "hourly", "{told:#}");
    let question = json!({ "search": "A", "sort": "name" });
    let pages = ask(&nats, "tollgate.service.accounts", &question, 2);
    let found = pages.iter().map(|page| &page["payload"]["answer"]["accounts"]["matching"]);
    assert_eq!(found.map(|count| count.as_u64().unwrap()).sum::<u64>(), 1, "{pages:#?}");
    let all = ask(&nats, "tollgate.service.overview", &Value::Null, 2);
    let waiting = all.iter().map(|one| &one["payload"]["answer"]["overview"]["waiting"]);
    assert_eq!(waiting.map(|count| count.as_u64().unwrap()).sum::<u64>(), 3, "{all:#?}");
    let wrong = ask(&nats, "tollgate.service.accounts", &json!({ "after": "x" }), 2);
    assert_eq!(wrong[0]["headers"]["Nats-Service-Error-Code"], "400", "{wrong:#?}");
    let told = wait_until("what holds them back", || {
        let told = dir.tollgate(&["doctor", "--json"]).run().json();
        (told["findings"][0]["kind"] == "limit").then_some(told)
    });
    assert_eq!(told["nodes"].as_array().unwrap().len(), 2, "{told:#}");
    assert!(told["nodes"].as_array().unwrap().iter().all(|node| node["on_nats"] == true));
    let counted = ask(&nats, "$SRV.STATS.tollgate", &Value::Null, 2);
    for answer in &counted {
        let endpoints = answer["payload"]["endpoints"].as_array().unwrap();
        let status = endpoints.iter().find(|endpoint| endpoint["name"] == "status").unwrap();
        assert!(status["num_requests"].as_u64() >= Some(2), "{status}");
        assert!(["one", "two"].contains(&status["data"]["node"].as_str().unwrap()), "{status}");
    }

    // A node that has ended answers no more.
    second.signal("TERM");
    second.wait().exits(0);
    let left = ask(&nats, "$SRV.PING.tollgate", &Value::Null, 1);
    assert_eq!(left[0]["payload"]["metadata"]["node"], "one");
    first.signal("TERM");
    first.wait().exits(0);
}

#[test]
fn holds_and_dead_letters_are_reached_through_the_service() {
    let (nats, provider) = (Nats::start(), provider());
    let (dir, node) = node(&nats, &provider, "one");
    let paused = one(&nats, "pause", &json!({ "of": "p/a", "reason": "asked us to", "for": "2h" }));
    let hold = &paused["payload"]["held"][0];
    assert_eq!((&hold["of"], &hold["key"]), (&json!("p/a"), &json!("p.a")), "{paused}");
    let told = one(&nats, "pause", &Value::Null);
    assert_eq!(told["payload"]["held"][0]["reason"], "asked us to", "{told}");
    let listed = dir.tollgate(&["pause", "--json"]).run().exits(0).json();
    assert_eq!((&listed["of"], &listed["reason"]), (&json!("p/a"), &json!("asked us to")));
    dir.tollgate(&["pause", "p/a/report"]).run().exits(0);
    let resumed = one(&nats, "resume", &json!({ "of": "p/a" }));
    assert_eq!(resumed["payload"], json!({ "ended": ["p/a"], "still": ["p/a/report"] }));
    assert_eq!(one(&nats, "resume", &json!({}))["payload"]["ended"], json!(["p/a/report"]));

    let bad = fetch("a", "report", "bad", json!({ "params": { "date": "bad" } }));
    dir.tollgate(&["publish", "-"]).input(bad).run().exits(0);
    let letters = wait_until("a dead letter", || {
        let listed = one(&nats, "dead", &Value::Null)["payload"]["answer"]["dead"].clone();
        (listed.as_array().unwrap().len() == 1).then_some(listed)
    });
    assert_eq!((&letters[0]["code"], &letters[0]["number"]), (&json!("TG0201"), &json!(1)));
    let replayed = one(&nats, "dead", &json!({ "replay": 1 }));
    assert_eq!(replayed["payload"]["answer"]["revived"], true, "{replayed}");
    wait_until("it to die again", || {
        let listed = one(&nats, "dead", &json!({ "after": 1 }));
        (listed["payload"]["answer"]["dead"][0]["number"] == 2).then_some(())
    });
    assert_eq!(one(&nats, "dead", &json!({ "drop": 2 }))["payload"]["answer"]["revived"], true);
    assert_eq!(nats.count("DEAD"), 0);

    // What is no question is told so, and changes nothing.
    for (endpoint, question) in [
        ("pause", json!({ "of": "nobody/x" })),
        ("pause", json!({ "of": "p/a", "for": "soon" })),
        ("pause", json!({ "off": "p/a" })),
        ("resume", json!([])),
        ("dead", json!({ "drop": 1, "replay": 1 })),
        ("status", json!({ "most": "all" })),
    ] {
        let refused = one(&nats, endpoint, &question);
        assert_eq!(refused["headers"]["Nats-Service-Error-Code"], "400", "{question}: {refused}");
        assert!(!refused["headers"]["Nats-Service-Error"].as_str().unwrap().is_empty());
        assert_eq!(refused["payload"], Value::Null);
    }
    assert_eq!(one(&nats, "pause", &Value::Null)["payload"]["held"], json!([]));
    node.signal("TERM");
    node.wait().exits(0);
}

/// A node of before the service hears one subject only.
#[test]
fn nodes_of_before_the_service_are_asked_as_they_were_and_counted_once() {
    let (nats, provider) = (Nats::start(), provider());
    let (dir, node) = node(&nats, &provider, "one");
    let question = json!({ "status": { "platform": null, "account": null, "most": 5 } });
    let answer = ask(&nats, "tollgate.ask", &question, 1).remove(0);
    assert_eq!(answer["payload"]["node"], "one", "{answer}");
    assert_eq!(answer["payload"]["answer"]["status"]["running"], true, "{answer}");

    // It shows itself and answers with what an earlier version did.
    let older = nats.js(async |js| {
        let about =
            r#"{"node":"old","version":"0.0.9","started":"2026-01-01T00:00:00Z","config":"x"}"#;
        js.publish("$KV.TOLLGATE_OWN.n.00000000000000ff", about.into())
            .await
            .unwrap()
            .await
            .unwrap();
        js
    });
    drop(older);
    let server = nats.server.url();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let answering = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = async_nats::connect(server).await.unwrap();
            let mut asked = client.subscribe("tollgate.ask").await.unwrap();
            client.flush().await.unwrap();
            while stopped.try_recv().is_err() {
                let wait = std::time::Duration::from_millis(50);
                let next = tokio::time::timeout(wait, futures_util::StreamExt::next(&mut asked)).await;
                let Ok(Some(question)) = next else { continue };
                let text = r#"{"node":"old","answer":{"status":{"running":true,"waiting":7,"postponed":0,"in_flight":0,"accounts":[]}}}"#;
                client.publish(question.reply.unwrap(), text.into()).await.unwrap();
            }
        });
    });
    let status = wait_until("both", || {
        let status = dir.tollgate(&["status", "--json"]).run().exits(0).json();
        (status["nodes"].as_array().unwrap().len() == 2).then_some(status)
    });
    assert_eq!(status["waiting"], 7, "{status}");
    stop.send(()).unwrap();
    answering.join().unwrap();
    node.signal("TERM");
    node.wait().exits(0);
}

/// A server of an earlier version is told by what it says of itself.
#[test]
fn a_server_that_is_too_old_is_told_as_that() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let info = json!({ "server_id": "x", "server_name": "x", "version": "2.10.26", "go": "go1.23",
                "host": "127.0.0.1", "port": port, "headers": true, "max_payload": 1_048_576, "proto": 1,
                "client_id": 1, "jetstream": true });
            stream.write_all(format!("INFO {info}\r\n").as_bytes()).unwrap();
            thread::spawn(move || {
                let mut heard = [0; 4096];
                while let Ok(1..) = stream.read(&mut heard) {
                    stream.write_all(b"PONG\r\n").ok();
                }
            });
        }
    });
    let config =
        Config::at("http://127.0.0.1:9/").nats(&format!("url = \"nats://127.0.0.1:{port}\""));
    let dir = Dir::with(&config.api("report", "path = \"x\""));
    for args in [&["setup"][..], &["serve"], &["status"]] {
        dir.tollgate(args).run().exits(2).says("TG0402").says("2.10.26").says("2.14");
    }
}
