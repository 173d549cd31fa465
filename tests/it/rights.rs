//! Who may do what on NATS: a real server with the very text of docs/nats.md, every role at its work.
//!
//! The server traces what each user publishes and subscribes to: what it refuses fails the test, and so does a
//! right that nobody uses.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_nats::ConnectOptions;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::nats_server::NatsServer;
use crate::util::{Config, Dir, Provider, Ran, Running, Told, fetch, wait_until};

/// Of account `b` on platform `p`: FNV-1a of `pb` modulo 64.
const PART_OF_P_B: u32 = 55;
/// A table that the node stages by what the stream DONE tells.
const FOLLOWED: &str =
    "\n[stage.rows]\nfrom = \"p/report\"\nfollow = \"1s\"\n[stage.rows.columns]\nok = \"bool\"\n";
const PASSWORD: &str = "s3cret-of-all-roles";

/// The part of docs/nats.md that stands between two fences and begins with `accounts`.
fn documented() -> String {
    let text = include_str!("../../docs/nats.md");
    let (_, block) = text.split_once("```\naccounts {").expect("the block of docs/nats.md");
    format!("accounts {{{}", block.split_once("```").unwrap().0)
}

/// A server with that text, changed where a test wants to see a right missing.
struct Server {
    server: NatsServer,
    _folder: TempDir,
}

impl Server {
    fn start(change: impl Fn(String) -> String) -> Self {
        let folder = TempDir::with_prefix("tollgate-it-rights-").unwrap();
        let roles = ["SETUP", "NODE", "OPERATOR", "PUBLISHER"];
        let passwords = roles.map(|role| format!("{role}_PASSWORD: \"{PASSWORD}\"\n")).concat();
        let more = format!("{passwords}debug: true\ntrace: true\n{}", change(documented()));
        Self { server: NatsServer::start(folder.path(), "", &more), _folder: folder }
    }

    fn as_documented() -> Self {
        Self::start(|text| text)
    }

    /// A folder whose commands log in as a user.
    fn dir(&self, provider: &Provider, user: &str, more: &str) -> Dir {
        let base = provider.base_url();
        let oauth = format!(
            "auth = {{ oauth2 = {{ token_url = \"{base}token\", grant = \"client_credentials\", client_id = \"c\", \
             client_secret = \"env:PASSWORD\" }} }}"
        );
        let config = Config::at(&base)
            .nats(&format!("url = \"{}\"", self.server.url()))
            .nats(&format!("user = \"{user}\"\npassword = \"env:PASSWORD\"\ninbox = \"_INBOX_{user}\""))
            .nats(more)
            .collect("drain = \"2s\"")
            .platform(&oauth)
            .limit(r#"pair = { per = ["account"], max = 5, in = "1s" }"#)
            .api("report", "path = \"report/{date}\"")
            .api(
                "pages",
                "path = \"pages\"\nquery = { cursor = \"{page.cursor}\" }\npages = { by = \"cursor\", next = \"next\", items = \"data\", max = 10 }\n[notify]\nheld_after = \"1s\"",
            );
        Dir::with(&config)
    }

    async fn client(&self, user: &str) -> async_nats::Client {
        ConnectOptions::with_user_and_password(user.into(), PASSWORD.into())
            .custom_inbox_prefix(format!("_INBOX_{user}"))
            .connect(self.server.url())
            .await
            .unwrap()
    }

    fn violations(&self) -> Vec<String> {
        let log = self.server.log();
        log.lines().filter(|line| line.contains("Violation")).map(str::to_owned).collect()
    }

    /// What each user published and subscribed to, by the server's trace.
    fn used(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut used: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for line in self.server.log().lines() {
            let Some((head, tail)) = line.split_once(" - <<- [") else { continue };
            let Some((_, user)) = head.rsplit_once("/user:") else { continue };
            let mut words = tail.trim_end_matches(']').split(' ');
            if let (Some("PUB" | "HPUB" | "SUB"), Some(subject)) = (words.next(), words.next()) {
                let user = user.trim_end_matches('"').to_owned();
                used.entry(user).or_default().insert(subject.to_owned());
            }
        }
        used
    }
}

/// A provider of tokens, pages, and reports of which those of `bad` are not there.
fn provider() -> Provider {
    Provider::start(|asked, _| match asked.path() {
        "token" => Told::json(
            &json!({ "access_token": "t-1", "token_type": "bearer", "expires_in": 3600 }),
        ),
        "pages" if asked.target.contains("c2") => Told::json(&json!({ "data": [2] })),
        "pages" => Told::json(&json!({ "data": [1], "next": "c2" })),
        "report/held" => {
            Told::Answer(429, vec![("Retry-After", "3600".to_owned())], b"{}".to_vec())
        }
        "report/bad" | "report/worse" => Told::of(404, "application/json", "{}"),
        _ => Told::json(&json!({ "ok": true })),
    })
}

fn run(dir: &Dir, args: &[&str]) -> Ran {
    dir.tollgate(args).env("PASSWORD", PASSWORD).run()
}

fn serve(dir: &Dir) -> Running {
    dir.tollgate(&["serve"]).env("PASSWORD", PASSWORD).start()
}

fn stop(node: Running) {
    node.signal("TERM");
    node.wait().exits(0);
}

fn report(id: &str) -> String {
    fetch("a", "report", id, json!({ "params": { "date": id } }))
}

/// A report that is put aside, one whose account is held, a read of two pages, one that is remembered for ever, and one that dies.
fn fetches() -> String {
    let tomorrow = jiff::Timestamp::now() + Duration::from_secs(86_400);
    let aside = json!({ "params": { "date": "aside" }, "not_before": tomorrow });
    fetch("b", "report", "aside", aside)
        + &fetch("b", "pages", "pages", json!({}))
        + &fetch("b", "report", "once", json!({ "params": { "date": "once" }, "once": true }))
        + &report("bad")
        + &report("worse")
        + &fetch("h", "report", "held", json!({ "params": { "date": "held" } }))
        + &report("1")
}

/// The allow lists of a user in a text like that of the documentation.
fn rights(text: &str, user: &str) -> Vec<String> {
    let (_, lists) = of_user(text, user);
    let (lists, _) = lists.split_once("} }").unwrap();
    let quoted = lists.split('"').skip(1).step_by(2);
    quoted.map(str::to_owned).collect()
}

/// What stands before a user, and from there on.
fn of_user<'t>(text: &'t str, user: &str) -> (&'t str, &'t str) {
    text.split_at(text.find(&format!("user: {user},")).unwrap_or_else(|| panic!("no user {user}")))
}

/// Whether a subject is one of a right's, as NATS matches.
fn matches(right: &str, subject: &str) -> bool {
    let (mut rights, mut tokens) = (right.split('.'), subject.split('.'));
    loop {
        match (rights.next(), tokens.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some(right), Some(token)) if right == "*" || right == token => {}
            _ => return false,
        }
    }
}

/// The rights of a user that its work took no use of.
fn idle(server: &Server, user: &str) -> Vec<String> {
    let used = server.used();
    let used = used.get(user).unwrap_or_else(|| panic!("{user} is not among {:?}", used.keys()));
    let rights = rights(&documented(), user).into_iter();
    rights.filter(|right| !used.iter().any(|subject| matches(right, subject))).collect()
}

/// A fetch that was put aside and is due: brought back at the start of a node.
fn put_aside(server: &Server) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Tollgate-Until", "2026-01-01T00:00:00Z");
        let payload = json!({ "id": "back", "params": { "date": "back" } }).to_string();
        let client = server.client("node").await;
        let subject = format!("tollgate.later.{PART_OF_P_B}.p.b.report.normal");
        client.publish_with_headers(subject, headers, payload.into()).await.unwrap();
        client.flush().await.unwrap();
    });
}

#[test]
fn each_role_does_its_work_with_the_documented_rights_and_needs_each_of_them() {
    let (server, provider) = (Server::as_documented(), provider());
    let dir = |user: &str, more: &str| server.dir(&provider, user, more);
    let setup = dir("setup", "");
    run(&setup, &["setup"]).exits(0);
    run(&setup, &["setup", "--dry-run"]).exits(0);
    let out = run(&dir("setup", "fetch_bytes_max = \"100MiB\""), &["setup"]).exits(0).out();
    assert!(out.contains("TOLLGATE_FETCH: updated"), "{out}");
    run(&setup, &["setup"]).exits(0);

    put_aside(&server);
    let node_dir = dir("node", "setup = false");
    let stages = cfg!(feature = "stage");
    if stages {
        let text = std::fs::read_to_string(node_dir.path("tollgate.toml")).unwrap();
        node_dir.write("tollgate.toml", text + FOLLOWED);
    }
    let node = serve(&node_dir);
    node.wait_says("shard started");
    let publisher = dir("publisher", "");
    publisher.write("f.jsonl", fetches());
    run(&publisher, &["publish", "f.jsonl"]).exits(0);
    // Asked before its service is there, commands look for themselves: that is not this role's right.
    wait_until("the node's service", || {
        let used = server.used();
        used.get("node")?.contains("tollgate.service.status").then_some(())
    });
    work_of_an_operator(&dir("operator", ""), true);
    wait_until("all that was published", || {
        let counts =
            ["report/1", "report/once", "report/back"].map(|path| provider.count(path, None));
        (provider.count("pages", None) == 2 && counts.iter().all(|count| *count > 0)).then_some(())
    });
    wait_until("what is told of the account that is held", || {
        let used = server.used();
        used["node"].contains("tollgate.notice.account_held.p.h").then_some(())
    });
    if stages {
        node.wait_says("stage_done");
    }
    stop(node);
    publisher.write("g.jsonl", report("2"));
    run(&publisher, &["publish", "g.jsonl"]).exits(0);
    work_of_an_operator(&dir("operator-alone", ""), false);

    assert_eq!(server.violations(), Vec::<String>::new());
    for user in ["setup", "node", "operator", "operator-alone", "publisher"] {
        let mut idle = idle(&server, user);
        // What is asked of older nodes, and of a service that none of these tests uses.
        idle.retain(|right| user == "node" || right != "tollgate.ask");
        // What the server asks for only where a follower of claims is slow.
        let slow = ["$JS.FC.KV_TOLLGATE_OWN.>", "$JS.API.CONSUMER.DELETE.KV_TOLLGATE_OWN.*"];
        idle.retain(|right| !slow.contains(&&**right));
        assert!(idle.is_empty(), "rights of {user} that nothing needs: {idle:#?}");
    }
}

#[test]
fn a_node_that_sets_up_has_the_rights_of_one_that_does_not_and_two_more() {
    let (server, provider) = (Server::as_documented(), provider());
    for more in ["", "fetch_bytes_max = \"100MiB\""] {
        let dir = server.dir(&provider, "node-setup", more);
        let node = serve(&dir);
        node.wait_says("shard started");
        stop(node);
    }
    assert_eq!(server.violations(), Vec::<String>::new());
    let (mut one, mut other) = (rights(&documented(), "node"), rights(&documented(), "node-setup"));
    one.extend(["$JS.API.STREAM.CREATE.*", "$JS.API.STREAM.UPDATE.*"].map(str::to_owned));
    for right in &mut one {
        *right = right.replace("_INBOX_node.>", "_INBOX_node-setup.>");
    }
    one.sort();
    other.sort();
    assert_eq!(one, other);
    let idle = idle(&server, "node-setup");
    let both = ["$JS.API.STREAM.CREATE.*", "$JS.API.STREAM.UPDATE.*"];
    assert!(!idle.iter().any(|right| both.contains(&&**right)), "{idle:#?}");
}

/// The documentation without one right of one user.
fn without(text: &str, user: &str, right: &str) -> String {
    let (before, from) = of_user(text, user);
    // An entry that nothing is ever published to takes its place: a list must not be empty.
    let changed = from.replacen(&format!("\"{right}\""), "\"nothing\"", 1);
    assert_ne!(changed, from, "{user} has no right {right}");
    format!("{before}{changed}")
}

#[test]
fn a_command_without_its_right_says_which() {
    let provider = provider();
    let text = r#"{"id":"1","platform":"p","account":"a","api":"report","params":{"date":"1"}}"#;
    let cases: [(&str, &str, &[&str]); 7] = [
        ("setup", "$JS.API.STREAM.CREATE.*", &["setup"]),
        ("publisher", "tollgate.fetch.>", &["publish", "f.jsonl"]),
        ("operator-alone", "tollgate.service.*", &["pause", "p"]),
        ("operator-alone", "$JS.API.STREAM.INFO.*", &["status"]),
        ("operator-alone", "$JS.API.DIRECT.GET.TOLLGATE_DEAD", &["dead", "list"]),
        ("operator-alone", "$KV.TOLLGATE_HOLDS.>", &["pause", "p"]),
        ("node", "$KV.TOLLGATE_OWN.>", &["serve"]),
    ];
    for (user, right, args) in cases {
        let server = Server::start(|text| without(&text, user, right));
        if user != "setup" {
            run(&server.dir(&provider, "setup", ""), &["setup"]).exits(0);
        }
        let dir = server.dir(&provider, user, if user == "node" { "setup = false" } else { "" });
        dir.write("f.jsonl", text);
        let subject = right.trim_end_matches(['*', '>']);
        let ran = run(&dir, args).exits(2).says("TG0404").says(subject);
        assert!(ran.took < Duration::from_secs(8), "{ran}");
        assert!(!ran.err().contains(PASSWORD), "{ran}");
    }
}

#[test]
fn a_running_node_that_may_not_write_records_calls_nobody_and_says_why() {
    let provider = provider();
    let server = Server::start(|text| without(&text, "node", "tollgate.ledger.>"));
    run(&server.dir(&provider, "setup", ""), &["setup"]).exits(0);
    let dir = server.dir(&provider, "node", "setup = false");
    let node = serve(&dir);
    node.wait_says("shard started");
    let operator = server.dir(&provider, "operator", "");
    // It answers once it has started: what it may not do then does not end it any more.
    wait_until("the node to answer", || {
        let status = run(&operator, &["status", "--json"]);
        (status.code == Some(0) && status.json()["running"] == true).then_some(())
    });
    let publisher = server.dir(&provider, "publisher", "");
    publisher.write("f.jsonl", report("1"));
    run(&publisher, &["publish", "f.jsonl"]).exits(0);
    node.wait_says("nats_refused");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(provider.count("report/1", None), 0, "a call that nobody could write down");
    node.signal("TERM");
    let events = node.wait().exits(0).events();
    let refused = events.iter().find(|event| event["event"] == "nats_refused").unwrap();
    assert_eq!(refused["code"], "TG0404", "{refused}");
    assert!(refused["reason"].as_str().unwrap().contains("tollgate.ledger.p."), "{refused}");
}

#[test]
fn a_publisher_reads_nothing_and_cannot_act_as_a_node() {
    let (server, provider) = (Server::as_documented(), provider());
    run(&server.dir(&provider, "setup", ""), &["setup"]).exits(0);
    let publisher = server.dir(&provider, "publisher", "");
    publisher.write("f.jsonl", report("1"));
    run(&publisher, &["publish", "f.jsonl"]).exits(0);
    for args in [&["status"][..], &["dead", "list"], &["pause", "p"], &["setup"], &["serve"]] {
        run(&publisher, args).exits(2).says("TG0404");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = server.client("publisher").await;
        let before = server.violations().len();
        let heard = ["tollgate.>", "_INBOX.>", "_INBOX_node.>", "$KV.TOLLGATE_TOKENS.>", ">"];
        for subject in heard {
            drop(client.subscribe(subject).await.unwrap());
        }
        let told = [
            "tollgate.service.pause",
            "tollgate.ledger.p.a",
            "tollgate.done.p.a.report",
            "$KV.TOLLGATE_OWN.n.0000000000000001",
            "$KV.TOLLGATE_TOKENS.x",
            "$JS.API.STREAM.PURGE.TOLLGATE_FETCH",
            "$JS.API.STREAM.MSG.GET.KV_TOLLGATE_TOKENS",
            "_INBOX_node.x",
        ];
        for subject in told {
            client.publish(subject, "{}".into()).await.unwrap();
        }
        // The server confirms to whatever subject is named, with its own rights: not across accounts.
        for reply in ["tollgate.ledger.p.a", "$KV.TOLLGATE_TOKENS.x", "tollgate.done.p.a.report"] {
            client
                .publish_with_reply("tollgate.fetch.p.a.report", reply, "{}".into())
                .await
                .unwrap();
        }
        client.flush().await.unwrap();
        let refused = heard.len() + told.len();
        wait_until("what is refused", || {
            (server.violations().len() - before >= refused).then_some(())
        });
        let js = async_nats::jetstream::new(server.client("node").await);
        for (stream, count) in [
            ("TOLLGATE_FETCH", 4),
            ("TOLLGATE_LEDGER", 0),
            ("TOLLGATE_DONE", 0),
            ("KV_TOLLGATE_OWN", 0),
            ("KV_TOLLGATE_TOKENS", 0),
        ] {
            let found = js.get_stream(stream).await.unwrap().cached_info().state.messages;
            assert_eq!(found, count, "messages in {stream}");
        }
    });
}

fn work_of_an_operator(operator: &Dir, running: bool) {
    let listed = || -> Vec<String> {
        let listed = run(operator, &["dead", "list", "--json"]).exits(0).out();
        let number =
            |line: &str| serde_json::from_str::<Value>(line).unwrap()["number"].to_string();
        listed.lines().map(number).collect()
    };
    if running {
        // Its service is there a moment after it has begun to collect.
        let answers = || {
            let status = run(operator, &["status", "--json"]);
            (status.code == Some(0) && status.json()["running"] == true).then_some(())
        };
        wait_until("the node to answer", answers);
    }
    let count = if running { 2 } else { 1 };
    let letters = wait_until("dead letters", || Some(listed()).filter(|all| all.len() == count));
    let status = run(operator, &["status", "--json"]).exits(0).json();
    assert_eq!(status["running"], running, "{status}");
    run(operator, &["dead", "show", &letters[0]]).exits(0);
    run(operator, &["dead", "replay", &letters[0]]).exits(0);
    if running {
        let next = wait_until("it to die again", || {
            listed().into_iter().find(|next| !letters.contains(next))
        });
        run(operator, &["dead", "drop", &next]).exits(0);
    }
    run(operator, &["pause", "p/held", "--for", "1h"]).exits(0);
    let held = run(operator, &["pause"]).exits(0).out();
    assert!(held.contains("p/held"), "{held}");
    run(operator, &["resume", "p/held"]).exits(0);
    run(operator, &["explain", "TG0404"]).exits(0);
}
