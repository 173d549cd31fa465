//! No secret is anywhere but where tokens are kept on purpose: a whole run of a node on NATS, by a provider that
//! repeats in all it says what it was sent, searched message by message and file by file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use self::search::{FILES, Search, Tap, encoded, stored};
use crate::service::ask;
use crate::util::{
    Asked, Config, Dir, Nats, Provider, Running, Told, fetch, free_port, get, lossy, wait_until,
};

mod search;

/// As the environment of the node has them. With what JSON and URLs escape in them.
const ENV: &[(&str, &str)] = &[
    ("QUERY", "s3cr3t/query+Jk\"72="),
    ("BEARER", "s3cr3t-bearer-Df50/x"),
    ("HEADER", "s3cr3t-header-Gh61+y"),
    ("PASSWORD", "s3cr3t-password-Zx83"),
    ("HMAC", "s3cr3t-hmac-Lw77"),
    ("SECRET", "s3cr3t-client-Kx81"),
    ("REFRESH", "s3cr3t-refresh-first-Uz02"),
];
const USER: &str = "the-user";
/// Looked through, and at least so many bytes of it, before the node is stopped: all that a run fills.
const LEAST: &[(&str, usize)] = &[
    ("TOLLGATE_FETCH", 500),
    ("TOLLGATE_LEDGER", 500),
    ("TOLLGATE_PROGRESS", 500),
    ("TOLLGATE_DONE", 500),
    ("TOLLGATE_DEAD", 5_000),
    ("KV_TOLLGATE_OWN", 100),
    ("KV_TOLLGATE_CONF", 50),
    (SENT, 10_000),
    (FILES, 2_000),
    ("publish", 50),
    ("audit", 100),
    ("status --json", 200),
    ("$SRV.STATS.tollgate", 200),
    ("/metrics", 2_000),
    ("the log", 10_000),
];
/// The same of a run that ends in good order, when no read waits.
const LEAST_AT_END: &[(&str, usize)] = &[
    ("TOLLGATE_LEDGER", 500),
    ("TOLLGATE_DONE", 500),
    ("TOLLGATE_DEAD", 5_000),
    (SENT, 10_000),
    (FILES, 2_000),
    ("audit", 100),
    ("/metrics", 2_000),
    ("the log", 10_000),
];
/// The place of all that was sent through the server.
const SENT: &str = "sent through NATS";
/// Apis whose reads stand still at their third page.
const READS: [&str; 5] = ["urls", "links", "cursors", "pairs", "rotating"];

fn secret(name: &str) -> String {
    ENV.iter().find(|(own, _)| *own == name).unwrap().1.to_owned()
}

/// An archive of these files.
fn archive(names: &[String]) -> Vec<u8> {
    let script = "import sys, zipfile\nwith zipfile.ZipFile(sys.stdout.buffer, 'w') as out:\n    for name in sys.argv[1:]: out.writestr(name, name[:3])";
    let made = Command::new("python3").args(["-c", script]).args(names).output().unwrap();
    assert!(made.status.success(), "{}", lossy(&made.stderr));
    made.stdout
}

fn pair() -> String {
    STANDARD.encode(format!("{USER}:{}", secret("PASSWORD")))
}

/// What the provider has given and what it does.
#[derive(Default)]
struct Shared {
    /// Third pages are answered.
    released: AtomicBool,
    /// Tokens, access and refresh.
    given: Mutex<Vec<String>>,
    /// Those of them that it was asked with: what it has just given, no node knows yet.
    used: Mutex<BTreeSet<String>>,
    asked: AtomicUsize,
    port: AtomicUsize,
    /// An archive whose files are called by secrets, and one that must not be taken.
    packed: Vec<u8>,
    refused: Vec<u8>,
}

impl Shared {
    /// Every secret of the run.
    fn secrets(&self) -> BTreeSet<String> {
        let own = ENV.iter().map(|(_, value)| (*value).to_owned());
        own.chain(self.given.lock().unwrap().iter().cloned()).collect()
    }

    fn search(&self) -> Search {
        Search::of(&self.secrets(), USER, &secret("PASSWORD"))
    }

    fn token(&self) -> Told {
        let asked = self.asked.fetch_add(1, Ordering::SeqCst);
        if asked == 0 {
            let said = format!("the refresh token {} is looked for", secret("REFRESH"));
            return Told::of(503, "text/plain", said);
        }
        let (access, refresh) =
            (format!("s3cr3t-access-{asked:04}"), format!("s3cr3t-refresh-{asked:04}"));
        self.given.lock().unwrap().extend([access.clone(), refresh.clone()]);
        // The first is over soon, so that a rotated refresh token is used too.
        let life = if asked == 1 { 2 } else { 3600 };
        Told::json(&json!({
            "access_token": access, "refresh_token": refresh, "token_type": "Bearer", "expires_in": life
        }))
    }

    /// What is said of the page behind this one, with what the call was signed with in it.
    fn next(call: &Asked, api: &str, id: &str, page: usize) -> (&'static str, String) {
        let key = encoded(&secret("QUERY"));
        match api {
            "urls" => {
                ("X-Next", format!("/urls/{id}/{key}?page={page}&key={key}&context=of-{key}"))
            }
            "links" => {
                let token = encoded(&secret("BEARER"));
                (
                    "Link",
                    format!(
                        "</links/{id}?page={page}&access_token={token}&by={token}!>; rel=\"next\""
                    ),
                )
            }
            "cursors" => ("X-Cursor", format!("{page}.{}", secret("HEADER"))),
            "pairs" => ("X-Cursor", format!("{page}.{}", pair())),
            "rotating" => {
                let token = call.header("authorization").unwrap().trim_start_matches("Bearer ");
                ("X-Cursor", format!("{page}.{token}"))
            }
            _ => unreachable!("{api}"),
        }
    }

    fn page(&self, call: &Asked, api: &str, id: &str) -> Told {
        let page = match api {
            "urls" | "links" => call.query("page"),
            _ => call.query("cursor").split('.').next().unwrap_or_default().to_owned(),
        };
        let page: usize = page.parse().unwrap_or(1);
        while page == 3 && !self.released.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(20));
        }
        let mut headers = vec![("Content-Type", "application/json".to_owned())];
        if page < 4 {
            headers.push(Self::next(call, api, id, page + 1));
        }
        let body = json!({ "rows": [page], "said": format!("{api}{id}") });
        Told::Answer(200, headers, body.to_string().into_bytes())
    }

    /// All it was sent and all it knows, in every form.
    fn echo(&self, call: &Asked) -> String {
        let mut said = format!("{}\n{:?}\n", call.target, call.headers);
        let own = ENV.iter().map(|(_, value)| (*value).to_owned());
        for secret in own.chain(self.used.lock().unwrap().iter().cloned()) {
            let base64 = STANDARD.encode(&secret);
            writeln!(said, "{secret} {} {} {base64}", encoded(&secret), json!(secret)).unwrap();
        }
        said
    }

    fn answer(&self, call: &Asked) -> Told {
        let bearer = call.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        if let Some(token) = bearer.filter(|token| token.contains("-access-")) {
            let both = [token.to_owned(), token.replace("access", "refresh")];
            self.used.lock().unwrap().extend(both);
        }
        let path = call.path().to_owned();
        let mut parts = path.split('/');
        let (api, id) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let port = self.port.load(Ordering::SeqCst);
        let key = encoded(&secret("QUERY"));
        let at = |location: String| {
            let headers = vec![("Location", location.clone()), ("X-Next", location)];
            Told::Answer(302, headers, Vec::new())
        };
        match api {
            "token" => self.token(),
            api if READS.contains(&api) => self.page(call, api, id),
            "good" => Told::json(&json!({ "ok": id })),
            // What is stored is stored as it came.
            "bodies" => {
                Told::json(&json!({ "rows": [1], "self": format!("/bodies/{id}?key={key}") }))
            }
            "denied" => Told::of(403, "text/plain", self.echo(call)),
            "broken" => Told::of(500, "text/plain", self.echo(call)),
            "html" => Told::of(200, "text/html", format!("<html>{}</html>", self.echo(call))),
            "packed" => Told::of(200, "application/zip", self.packed.clone()),
            "refused" => Told::of(200, "application/zip", self.refused.clone()),
            "moved" => at(format!("http://127.0.0.1:{port}/good/1?key={key}")),
            "foreign" => {
                let next = format!("https://{}.example.com/?key={key}", "s3cr3t-bearer-df50");
                Told::Answer(200, vec![("X-Next", next)], b"{\"rows\":[1]}".to_vec())
            }
            "unusable" => {
                let next = format!("http://[{}?key={key}", secret("QUERY"));
                Told::Answer(200, vec![("X-Next", next)], b"{\"rows\":[1]}".to_vec())
            }
            _ => Told::of(404, "text/plain", self.echo(call)),
        }
    }
}

fn config(nats: &Nats, provider: &Provider, port: u16) -> Config {
    let base = provider.base_url();
    let query = r#"{ query = "key", value = "env:QUERY" }"#.to_owned();
    let bearer = r#"{ bearer = "env:BEARER" }"#.to_owned();
    let header = r#"{ header = "X-Key", value = "env:HEADER" }"#.to_owned();
    let basic = format!(r#"{{ basic = {{ user = "{USER}", password = "env:PASSWORD" }} }}"#);
    let hmac = r#"{ hmac = { algorithm = "sha256", key = "env:HMAC", sign = "{timestamp}{url}", headers = { X-Sign = "{signature}" } } }"#
        .to_owned();
    let oauth2 = format!(
        "{{ oauth2 = {{ grant = \"refresh_token\", token_url = \"{base}token\", client_id = \"me\", client_secret = \
         \"env:SECRET\", refresh_token = \"env:REFRESH\", limits = {{ a = {{ every = \"50ms\" }} }} }} }}"
    );
    let url = r#"pages = { by = "url", next = { header = "X-Next" }, end = "absent" }"#;
    let link = r#"pages = { by = "link", items = "rows" }"#;
    let cursor = "query = { cursor = \"{page.cursor}\" }\npages = { by = \"cursor\", next = { header = \"X-Cursor\" }, end = \"absent\" }";
    let kinds = [
        ("urls", &query, url),
        ("links", &bearer, link),
        ("cursors", &header, cursor),
        ("pairs", &basic, cursor),
        ("rotating", &oauth2, cursor),
        ("bodies", &query, ""),
        ("foreign", &query, url),
        ("unusable", &query, url),
        ("moved", &query, ""),
        ("packed", &header, "format = \"csv\"\ndecode = [\"zip\"]\nmembers = \"*\""),
        ("refused", &header, "format = \"csv\"\ndecode = [\"zip\"]\nmembers = \"*\""),
    ];
    let config = Config::at(&base)
        .on(nats)
        .http(&format!("listen = \"127.0.0.1:{port}\""))
        .collect("attempts_max = 2")
        .limit("gap = { per = [\"account\"], every = \"5ms\" }");
    let config = kinds.iter().fold(config, |config, (name, auth, more)| {
        config.api(name, &format!("path = \"{name}/{{id}}\"\nauth = {auth}\n{more}"))
    });
    let all = [
        ("q", &query),
        ("b", &bearer),
        ("h", &header),
        ("p", &basic),
        ("m", &hmac),
        ("o", &oauth2),
    ];
    all.iter().fold(config, |config, (short, auth)| {
        ["good", "denied", "broken", "html", "nowhere"].iter().fold(config, |config, path| {
            config.api(
                &format!("{path}-{short}"),
                &format!("path = \"{path}/{{id}}\"\nauth = {auth}"),
            )
        })
    })
}

fn fetches() -> (String, usize, usize) {
    let reads = READS.iter().map(|api| fetch(&format!("reader-{api}"), api, "1", json!({})));
    let mut lines: String = reads.collect();
    let (mut done, mut dead) = (READS.len(), 0);
    for short in ["q", "b", "h", "p", "m", "o"] {
        for path in ["good", "denied", "broken", "html", "nowhere"] {
            let api = format!("{path}-{short}");
            lines += &fetch(&format!("{path}-{short}"), &api, "1", json!({}));
            *(if path == "good" { &mut done } else { &mut dead }) += 1;
        }
    }
    for api in ["bodies", "foreign", "unusable", "moved", "packed", "refused"] {
        lines += &fetch("odd", api, "1", json!({}));
        *(if matches!(api, "bodies" | "packed") { &mut done } else { &mut dead }) += 1;
    }
    (lines, done, dead)
}

/// The bucket where tokens are kept on purpose.
const TOKENS: &str = "KV_TOLLGATE_TOKENS";

fn look_at_nats(search: &mut Search, nats: &Nats, tap: &Tap) -> BTreeMap<String, usize> {
    let all = stored(nats);
    for (name, messages) in all.iter().filter(|(name, _)| *name != TOKENS) {
        for message in messages {
            search.look(name, message);
        }
    }
    // The search finds what is there.
    let tokens = &all[TOKENS];
    assert!(tokens.iter().any(|message| search.has(message).is_some()), "no token is in {TOKENS}");
    for message in &tap.heard() {
        if !message.windows(15).any(|part| part == b"TOLLGATE_TOKENS") {
            search.look(SENT, message);
        }
    }
    all.into_iter().map(|(name, messages)| (name, messages.len())).collect()
}

fn look_at_answers(search: &mut Search, dir: &Dir, nats: &Nats, port: u16) {
    let dead = with_env(dir, &["dead", "list", "--json"]).run().exits(0).out();
    let dead: Value = serde_json::from_str(dead.lines().next().unwrap()).unwrap();
    let letter = dead["number"].as_u64().unwrap().to_string();
    for args in [
        &["status", "--json"][..],
        &["status"],
        &["dead", "list"],
        &["dead", "list", "--json"],
        &["dead", "show", &letter],
        &["dead", "show", &letter, "--json"],
        &["check"],
        &["verify", "--grace", "1h", "--json"],
        &["plan", "fetches.jsonl", "--json"],
    ] {
        let ran = with_env(dir, args).run().exits(0);
        assert!(!ran.out().is_empty(), "{args:?} says nothing");
        search.look(&args.join(" "), (ran.out() + &ran.err()).as_bytes());
    }
    let none = Value::Null;
    for (subject, question) in [
        ("$SRV.PING", &none),
        ("$SRV.INFO.tollgate", &none),
        ("$SRV.STATS.tollgate", &none),
        ("tollgate.service.status", &json!({})),
        ("tollgate.service.dead", &json!({})),
    ] {
        for answer in ask(nats, subject, question, 1) {
            search.look(subject, answer.to_string().as_bytes());
        }
    }
    for path in ["/metrics", "/healthz", "/readyz"] {
        let (status, answer) = get(port, path).unwrap();
        assert_eq!(status, 200, "{path}: {answer}");
        search.look(path, answer.as_bytes());
    }
}

/// Only while no node runs in the folder: the ledger is the node's.
fn look_at_audit(search: &mut Search, dir: &Dir) {
    let ran = with_env(dir, &["audit", "--ledger", "--json"]).run().exits(1);
    assert!(ran.json()["limits"].as_array().is_some_and(|limits| !limits.is_empty()), "{ran}");
    search.look("audit", (ran.out() + &ran.err()).as_bytes());
}

fn with_env(dir: &Dir, args: &[&str]) -> crate::util::Tollgate {
    ENV.iter().fold(dir.tollgate(args), |command, (name, value)| command.env(name, value))
}

fn serve(dir: &Dir) -> Running {
    let node = with_env(dir, &["serve", "--log-level", "trace"]).start();
    node.wait_says("shard started");
    node
}

#[test]
fn a_node_on_nats_keeps_and_shows_no_secret_that_its_provider_repeats() {
    let names = [
        format!("export-{}.csv", secret("HEADER")),
        format!("ads/{}.csv", secret("QUERY")),
        format!("export-{}.csv", secret("BEARER")),
        format!("{}.csv", encoded(&secret("QUERY"))),
        "clean.csv".to_owned(),
    ];
    let refused = archive(&[format!("/{}.csv", secret("HEADER"))]);
    let shared = Arc::new(Shared { packed: archive(&names), refused, ..Shared::default() });
    let own = Arc::clone(&shared);
    let provider = Provider::start(move |call, _| own.answer(call));
    let at = provider.base_url();
    let at = at.trim_end_matches('/').rsplit(':').next().unwrap();
    shared.port.store(at.parse().unwrap(), Ordering::SeqCst);
    let (nats, port) = (Nats::start(), free_port());
    let dir = Dir::with(&config(&nats, &provider, port));
    let (lines, done, dead) = fetches();
    dir.write("fetches.jsonl", &lines);
    with_env(&dir, &["setup"]).run().exits(0);
    let tap = Tap::on(&nats);
    let node = serve(&dir);
    let published = with_env(&dir, &["publish", "--json", "fetches.jsonl"]).run().exits(0);

    // Each read has two pages and waits for its third; all else has ended.
    wait_until("five reads at their third page", || {
        let asked = provider.asked();
        let thirds = READS.iter().filter(|api| asked.iter().any(|call| is_third(call, api)));
        (thirds.count() == READS.len()).then_some(())
    });
    nats.wait_count("DEAD", dead as u64);
    nats.wait_count("DONE", (done - READS.len()) as u64);
    let mut search = shared.search();
    search.look("publish", (published.out() + &published.err()).as_bytes());
    let counts = look_at_nats(&mut search, &nats, &tap);
    let notes: usize =
        counts.iter().filter(|(name, _)| name.ends_with("PROGRESS")).map(|(_, n)| n).sum();
    assert!(notes >= READS.len(), "notes of reads: {counts:?}");
    look_at_answers(&mut search, &dir, &nats, port);
    search.look_at_files(&dir.path("data"), &BTreeSet::from(["/bodies/"]));
    let killed = node.kill();
    look_at_audit(&mut search, &dir);
    search.look("the log", (killed.out() + &killed.err()).as_bytes());
    assert!(killed.err().contains("\"TRACE\""), "the log was whole");
    search.ends_clean(LEAST);

    // What was kept is enough to go on: no page is called again but the one that was out, and with the secrets in it.
    shared.released.store(true, Ordering::SeqCst);
    let node = serve(&dir);
    nats.wait_count("DONE", done as u64);
    nats.wait_count("FETCH", 0);
    let mut search = shared.search();
    look_at_nats(&mut search, &nats, &tap);
    look_at_answers(&mut search, &dir, &nats, port);
    node.signal("TERM");
    let ran = node.wait().exits(0);
    look_at_audit(&mut search, &dir);
    search.look("the log", (ran.out() + &ran.err()).as_bytes());
    search.look_at_files(&dir.path("data"), &BTreeSet::from(["/bodies/"]));
    search.ends_clean(LEAST_AT_END);
    assert_eq!(nats.count("DEAD"), dead as u64);
    let asked = provider.asked();
    for api in READS {
        let calls: Vec<&str> = asked
            .iter()
            .filter(|call| call.path().split('/').next() == Some(api))
            .map(|call| &*call.target)
            .collect();
        assert_eq!(calls.len(), 5, "four pages, the third twice: {calls:#?}");
        let (before, after) = (calls[2], calls[3]);
        if api != "rotating" {
            assert_eq!(before, after, "{api}");
        }
        let holds = |name: &str| assert!(after.contains(&encoded(name)), "{name}: {calls:#?}");
        match api {
            "urls" => {
                let key = encoded(&secret("QUERY"));
                assert_eq!(after, format!("/urls/1/{key}?page=3&context=of-{key}&key={key}"));
            }
            "links" => holds(&format!("{}!", secret("BEARER")).replace('!', "")),
            "cursors" => holds(&secret("HEADER")),
            "pairs" => holds(&pair()),
            _ => assert!(after.contains("s3cr3t-access-"), "{calls:#?}"),
        }
    }
    let given = shared.given.lock().unwrap().len();
    assert!(given >= 4, "a rotated refresh token was used: {given}");
    // Files of an archive are objects each, whatever they are called.
    let files = dir.files("data").into_iter().filter(|file| file.contains("/packed/"));
    let (manifests, objects): (Vec<_>, Vec<_>) =
        files.partition(|file| file.ends_with("_manifest.json"));
    assert_eq!((manifests.len(), objects.len()), (1, names.len()), "{objects:?}");
    let clean = objects.iter().filter(|file| file.contains("%5Bredacted%5D~"));
    assert_eq!(clean.count(), names.len() - 1, "{objects:?}");
    let manifest: Value =
        serde_json::from_slice(&fs::read(dir.path(&manifests[0])).unwrap()).unwrap();
    let members: Vec<&Value> =
        manifest["objects"].as_array().unwrap().iter().map(|object| &object["member"]).collect();
    assert_eq!(members[0], "export-[redacted].csv", "{members:?}");
    assert_eq!(members[4], "clean.csv", "{members:?}");
    // Bodies are kept as they came, as is said of them.
    let stored = dir
        .files("data")
        .into_iter()
        .find(|file| file.contains("/bodies/") && file.contains("00001"));
    let stored = fs::read(dir.path(&stored.unwrap())).unwrap();
    let stored = String::from_utf8(zstd::decode_all(stored.as_slice()).unwrap()).unwrap();
    assert!(stored.contains(&encoded(&secret("QUERY"))), "{stored}");
}

fn is_third(call: &Asked, api: &str) -> bool {
    let of = call.path().split('/').next() == Some(api);
    of && (call.query("page") == "3" || call.query("cursor").starts_with("3."))
}
