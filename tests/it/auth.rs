//! Who asks: every kind of credential before a provider that checks it with code of its own
//! (`tests/judge/credentials.py`), tokens through crashes and on two nodes, and secrets that are shown nowhere.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::util::{Config, Dir, Nats, Ran, Running, accounts, decompress, fetch, get, wait_until};

/// The provider's secrets, as the environment of a node has them.
const ENV: &[(&str, &str)] = &[
    ("SECRET", "s3cr3t-client-Kx81"),
    ("REFRESH", "s3cr3t-refresh-first-Uz02"),
    ("HMAC", "s3cr3t-hmac-Lw77"),
    ("CONSUMER", "s3cr3t-consumer-Pq10"),
    ("TOKEN", "s3cr3t-token1-Re54"),
    ("TOKSEC", "s3cr3t-toksec-Yu66"),
    ("BEARER", "s3cr3t-bearer-Df50"),
    ("HEADER", "s3cr3t-header-Gh61"),
    ("QUERY", "s3cr3t/query+Jk72="),
    ("PASSWORD", "s3cr3t-password-Zx83"),
];
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A provider of its own process; it ends with the test.
struct Provider {
    child: Child,
    port: u16,
}

impl Provider {
    fn start(args: &[&str]) -> Self {
        let script = Path::new(ROOT).join("tests/judge/credentials.py");
        let mut child = Command::new("python3")
            .arg(script)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is there");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, port: line.trim().parse().unwrap() }
    }

    fn counts(&self) -> Value {
        let (status, answer) = get(self.port, "/counts").unwrap();
        assert_eq!(status, 200);
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    }

    fn config(&self) -> Config {
        Config::at(&format!("http://127.0.0.1:{}", self.port))
    }

    /// The table `oauth2` of this provider.
    fn oauth2(&self, rest: &str) -> String {
        format!(
            "{{ oauth2 = {{ token_url = \"http://127.0.0.1:{}/token\", limits = {{ a = {{ every = \
             \"50ms\" }} }}, {rest} }} }}",
            self.port
        )
    }

    fn rotating(&self) -> String {
        let rest = "grant = \"refresh_token\", client_id = \"the-client\", client_secret = \
                    \"env:SECRET\", refresh_token = \"env:REFRESH\"";
        format!("auth = {}", self.oauth2(rest))
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn tollgate(dir: &Dir, args: &[&str]) -> crate::util::Tollgate {
    ENV.iter().fold(dir.tollgate(args), |command, (name, value)| command.env(name, value))
}

fn key(name: &str) -> PathBuf {
    Path::new(ROOT).join("actors/src/auth/tests/data").join(name)
}

/// The public half of a key, as `openssl` writes it.
fn public(dir: &Dir, name: &str) -> String {
    let path = dir.path(&format!("public-{name}"));
    let made = Command::new("openssl")
        .args(["pkey", "-pubout", "-in"])
        .arg(key(name))
        .arg("-out")
        .arg(&path)
        .status();
    assert!(made.expect("openssl is there").success());
    path.display().to_string()
}

fn fetches(accounts: &[String], api: &str, each: usize) -> String {
    let all = accounts.iter().flat_map(|of| (0..each).map(move |n| (of, n)));
    all.map(|(account, n)| fetch(account, api, &format!("f{n}"), json!({}))).collect()
}

fn number(counts: &Value, name: &str) -> u64 {
    counts[name].as_u64().unwrap_or_else(|| panic!("{name} in {counts}"))
}

#[test]
fn every_kind_of_credential_is_what_its_provider_wants() {
    let dir = Dir::empty();
    let (es, rs) = (public(&dir, "ec-pkcs8.pem"), public(&dir, "rsa.pem"));
    let provider = Provider::start(&["--public-es", &es, "--public-rs", &rs]);
    let (ec, rsa) = (key("ec.pem").display().to_string(), key("rsa.pem").display().to_string());
    let accounts = accounts("act/", 4);
    fs::create_dir(dir.path("secrets")).unwrap();
    for account in &accounts {
        dir.write(&format!("secrets/{}.txt", account.replace('/', "%2F")), "s3cr3t-bearer-Df50\n");
    }
    let client = "client_id = \"the-client\", client_secret = \"env:SECRET\"";
    let claims = "claims = { iss = \"the-issuer\", aud = \"me\" }";
    let own = [
        ("bearer", "bearer", "{ bearer = \"env:BEARER\" }".to_owned()),
        ("files", "bearer", "{ bearer = \"file:secrets/{account}.txt\" }".into()),
        ("command", "bearer", "{ bearer = \"command:cat secrets/act%2F_0.txt\" }".into()),
        ("header", "header", "{ header = \"X-Key\", value = \"env:HEADER\" }".into()),
        ("query", "query", "{ query = \"key\", value = \"env:QUERY\" }".into()),
        ("basic", "basic", "{ basic = { user = \"the-user\", password = \"env:PASSWORD\" } }".into()),
        (
            "hmac",
            "hmac",
            "{ headers = { X-API-KEY = \"env:KEYID\" }, hmac = { algorithm = \"sha256\", key = \
             \"env:HMAC\", sign = \"{timestamp_ms}.{method}.{path}\", headers = { X-Timestamp = \
             \"{timestamp_ms}\", X-Signature = \"{signature}\" } } }"
                .into(),
        ),
        (
            "oauth1",
            "oauth1",
            "{ oauth1 = { consumer_key = \"the-consumer\", consumer_secret = \"env:CONSUMER\", \
             token = \"env:TOKEN\", token_secret = \"env:TOKSEC\" } }"
                .into(),
        ),
        (
            "oauth1-sha256",
            "oauth1",
            "{ oauth1 = { algorithm = \"HMAC-SHA256\", consumer_key = \"the-consumer\", \
             consumer_secret = \"env:CONSUMER\", token = \"env:TOKEN\", token_secret = \"env:TOKSEC\" } }"
                .into(),
        ),
        ("jwt-es", "jwt", format!("{{ jwt = {{ algorithm = \"ES256\", key = \"file:{ec}\", {claims} }} }}")),
        ("jwt-rs", "jwt", format!("{{ jwt = {{ algorithm = \"RS256\", key = \"file:{rsa}\", {claims} }} }}")),
        ("client", "api", provider.oauth2(&format!("grant = \"client_credentials\", {client}"))),
        (
            "client-basic",
            "api",
            provider.oauth2(&format!("grant = \"client_credentials\", client_in = \"header\", {client}")),
        ),
        (
            "assertion",
            "api",
            provider.oauth2(&format!(
                "grant = \"jwt-bearer\", assertion = {{ algorithm = \"RS256\", key = \"file:{rsa}\", {claims} }}"
            )),
        ),
        ("none", "elsewhere", "\"none\"".into()),
    ];
    let config = provider
        .config()
        .platform("headers = { X-Customer = \"{account}\" }")
        .platform("auth = { bearer = \"env:BEARER\", headers = { X-Secret = \"env:HEADER\" } }")
        .limit("gap = { per = [\"account\"], every = \"10ms\" }");
    let config = own.iter().fold(config, |config, (name, place, auth)| {
        let query = "query = { b = \"x y/ä\", a = \"{id}\" }";
        config.api(name, &format!("path = \"{place}/{{account}}/{{id}}\"\n{query}\nauth = {auth}"))
    });
    dir.write("tollgate.toml", config.text());
    let lines: String = own.iter().map(|(name, _, _)| fetches(&accounts, name, 3)).collect();
    dir.write("fetches.jsonl", lines);
    tollgate(&dir, &["check"]).env("KEYID", "the-api-key").run().exits(0);
    let ran = tollgate(&dir, &["run", "--json", "fetches.jsonl"]).env("KEYID", "the-api-key").run();
    let counts = provider.counts();
    assert_eq!(number(&counts, "refused"), 0, "{counts}\n{ran}");
    let ran = ran.exits(0);
    let all = (own.len() * accounts.len() * 3) as u64;
    assert_eq!((ran.summary().done, number(&counts, "served")), (all, all), "{counts}");
    assert_eq!(counts["issued"].as_array().unwrap().len(), 3, "one token for each credential");
    assert_eq!(number(&counts, "auth_elsewhere"), 0);
    assert_eq!(number(&counts, "nonces"), 24, "each call had a nonce of its own");
}

/// Tokens were had one after the other, each no sooner than the one before was due.
fn assert_one_for_each_expiry(counts: &Value, life: f64) {
    let issued: Vec<f64> =
        counts["issued"].as_array().unwrap().iter().map(|at| at.as_f64().unwrap()).collect();
    for pair in issued.windows(2) {
        // A tenth of its life early, and the server's delay.
        assert!(pair[1] - pair[0] > life * 0.9 - 0.1, "{issued:?}");
    }
    assert_eq!(number(counts, "overlap"), 1, "never two questions at a time");
    assert_eq!((number(counts, "reuse"), &counts["dead"]), (0, &json!(false)));
    assert_eq!(number(counts, "refused"), 0, "{counts}");
}

#[test]
fn fifty_accounts_share_a_credential_with_one_renewal_for_each_expiry() {
    let provider = Provider::start(&["--life", "3", "--token-delay", "0.1"]);
    let accounts = accounts("act", 50);
    let config = provider
        .config()
        .platform(&provider.rotating())
        .limit("gap = { per = [\"account\"], every = \"200ms\" }")
        .api("api", "path = \"api/{account}/{id}\"");
    let dir = Dir::with(&config);
    dir.write("fetches.jsonl", fetches(&accounts, "api", 45));
    let ran = tollgate(&dir, &["run", "--json", "fetches.jsonl"]).run().exits(0);
    let counts = provider.counts();
    assert_eq!(ran.summary().done, 2250);
    assert_eq!((ran.summary().calls, ran.summary().refused), (2250, 0));
    assert_one_for_each_expiry(&counts, 3.0);
    assert!(counts["issued"].as_array().unwrap().len() >= 4, "{counts}");
}

#[test]
fn kills_between_a_rotation_and_the_use_of_its_token_lose_nothing() {
    let provider = Provider::start(&["--life", "3"]);
    let accounts = accounts("act", 10);
    let config = provider
        .config()
        .platform(&provider.rotating())
        .limit("gap = { per = [\"account\"], every = \"150ms\" }")
        .api("api", "path = \"api/{account}/{id}\"");
    let dir = Dir::with(&config);
    dir.write("fetches.jsonl", fetches(&accounts, "api", 140));
    let folder = dir.path("data/state/tokens");
    let record = || {
        let mut files = fs::read_dir(&folder).ok()?.map(|file| file.unwrap().path());
        fs::read_to_string(files.find(|path| path.extension().is_some_and(|e| e == "token"))?).ok()
    };
    let tokens = |counts: &Value| counts["tokens"].as_array().unwrap().len();
    for kill in 0..6 {
        let before = record();
        let mut running = tollgate(&dir, &["run", "--json", "fetches.jsonl"]).start();
        wait_until("another token in its record", || {
            let now = record()?;
            // With an access token: not the note that one is asked for.
            (Some(&now) != before.as_ref() && now.contains("\"access\"")).then_some(())
        });
        assert!(running.is_running(), "it ended before kill {kill}");
        running.kill();
    }
    let ran = tollgate(&dir, &["run", "--json", "fetches.jsonl"]).run().exits(0);
    let counts = provider.counts();
    assert_eq!((number(&counts, "reuse"), &counts["dead"]), (0, &json!(false)), "{counts}\n{ran}");
    assert_eq!(number(&counts, "refused"), 0, "{counts}");
    assert!(tokens(&counts) >= 12, "{counts}");
    assert_eq!(ran.summary().left, 0);
    let stored = dir.files("data").iter().filter(|file| file.ends_with("_manifest.json")).count();
    assert_eq!(stored, 1400);
}

#[test]
fn a_lost_answer_is_told_and_nothing_is_called_without_a_token() {
    let provider = Provider::start(&["--drop", "1"]);
    let config = provider
        .config()
        .platform(&provider.rotating())
        .limit("gap = { per = [\"account\"], every = \"10ms\" }")
        .api("api", "path = \"api/{account}/{id}\"");
    let dir = Dir::with(&config);
    dir.write("fetches.jsonl", fetches(&accounts("act", 3), "api", 2));
    let running = tollgate(&dir, &["run", "--json", "fetches.jsonl"]).start();
    running.wait_says("TG0501");
    running.wait_says("never came");
    let status = tollgate(&dir, &["status", "--json"]).run().exits(0);
    assert!(status.out().contains("TG0501"), "{status}");
    running.signal("TERM");
    let ran = running.wait().exits(3);
    assert_eq!((ran.summary().left, ran.summary().calls), (6, 0), "{ran}");
    assert!(ran.err().contains("[redacted]"), "the server showed the refresh token\n{ran}");
    assert!(!ran.err().contains("s3cr3t"), "{ran}");
    assert!(!status.out().contains("s3cr3t"), "{status}");
    let counts = provider.counts();
    assert_eq!((number(&counts, "served"), number(&counts, "refused")), (0, 0), "{counts}");
}

#[test]
fn a_token_that_dies_early_is_renewed_and_no_fetch_dies_of_it() {
    let provider = Provider::start(&["--life", "40"]);
    let config = provider
        .config()
        .platform(&provider.rotating())
        .collect("attempts_max = 1")
        .limit("gap = { per = [\"account\"], every = \"100ms\" }")
        .api("api", "path = \"api/{account}/{id}\"");
    let dir = Dir::with(&config);
    dir.write("fetches.jsonl", fetches(&accounts("act", 20), "api", 80));
    let running = tollgate(&dir, &["run", "--json", "fetches.jsonl"]).start();
    // Older than a tenth of its life: younger ones are not taken for dead.
    thread::sleep(Duration::from_millis(5500));
    let killed = Command::new("python3")
        .args(["-c", &format!(
            "import urllib.request as r; r.urlopen(r.Request('http://127.0.0.1:{}/kill-tokens', method='POST', data=b''))",
            provider.port
        )])
        .status();
    assert!(killed.unwrap().success());
    let ran = running.wait().exits(0);
    let counts = provider.counts();
    assert_eq!(ran.summary().done, 1600);
    assert_eq!(counts["issued"].as_array().unwrap().len(), 2, "{counts}");
    assert!((1..=20).contains(&number(&counts, "refused")), "each account once at most: {counts}");
}

#[test]
fn two_nodes_share_a_rotating_credential_over_nats() {
    let (provider, nats) = (Provider::start(&["--life", "3"]), Nats::start());
    let config = provider
        .config()
        .on(&nats)
        .platform(&provider.rotating())
        .limit("gap = { per = [\"account\"], every = \"200ms\" }")
        .api("api", "path = \"api/{account}/{id}\"");
    let one = Dir::with(&config);
    let two = Dir::with(&config);
    let serve = |dir: &Dir| tollgate(dir, &["serve"]).start();
    let stop = |node: Running| {
        node.signal("TERM");
        node.wait().exits(0)
    };
    let publish = |ids: std::ops::Range<usize>| {
        let all = accounts("act", 8);
        let all = all.iter().flat_map(|of| ids.clone().map(move |id| (of, id)));
        let lines: String =
            all.map(|(of, id)| fetch(of, "api", &format!("f{id}"), json!({}))).collect();
        tollgate(&one, &["publish", "--json", "-"]).input(lines).run().exits(0);
    };
    let (first, second) = (serve(&one), serve(&two));
    first.wait_says("node_started");
    second.wait_says("node_started");
    // Both renew when its time comes, though they take the work from each other.
    publish(0..30);
    thread::sleep(Duration::from_secs(7));
    let killed: Ran = second.kill();
    nats.wait_count("DONE", 240);
    let third = serve(&two);
    third.wait_says("node_started");
    let ran = stop(first);
    publish(30..50);
    nats.wait_count("DONE", 400);
    let other = stop(third);
    let counts = provider.counts();
    assert_eq!(
        (number(&counts, "reuse"), &counts["dead"]),
        (0, &json!(false)),
        "{counts}\n{ran}\n{other}"
    );
    assert_eq!((number(&counts, "refused"), number(&counts, "overlap")), (0, 1), "{counts}");
    // One renewal for each expiry, over both nodes.
    assert_one_for_each_expiry(&counts, 3.0);
    assert_eq!(nats.count("DEAD"), 0);
    for ran in [&ran, &other, &killed] {
        assert!(!ran.err().contains("s3cr3t"), "{ran}");
    }
}

#[test]
fn a_changed_file_of_a_secret_is_used_without_a_restart() {
    let provider = Provider::start(&[]);
    let config = provider
        .config()
        .platform("auth = { bearer = \"file:secret.txt\" }")
        .collect("attempts_max = 1")
        .limit("gap = { per = [\"account\"], every = \"500ms\" }")
        .api("report", "path = \"bearer/{account}/{id}\"");
    let dir = Dir::with(&config);
    dir.write("secret.txt", "s3cr3t-bearer-Df50");
    dir.write("fetches.jsonl", fetches(&accounts("act", 2), "report", 20));
    let running = tollgate(&dir, &["run", "--json", "fetches.jsonl"]).start();
    thread::sleep(Duration::from_millis(1200));
    // A wrong one is found out by a 401 of 403 here; the right one comes back before all is over.
    dir.write("secret.txt", "s3cr3t-bearer-wrong");
    running.wait_says("secret_read");
    dir.write("secret.txt", "s3cr3t-bearer-Df50");
    let ran = running.wait().exits(1);
    let counts = provider.counts();
    assert!(number(&counts, "refused") > 0, "the wrong one was used: {counts}");
    assert!(ran.summary().done > 5, "{ran}");
    let dead = dir.dead();
    assert_eq!(dead.len() as u64, number(&counts, "refused"), "{counts}");
}

#[test]
fn a_whole_run_at_trace_level_shows_no_secret_of_any_kind() {
    let dir = Dir::empty();
    let es = public(&dir, "ec-pkcs8.pem");
    let provider = Provider::start(&["--life", "3600", "--public-es", &es]);
    let ec = key("ec.pem").display().to_string();
    let client = "client_id = \"the-client\", client_secret = \"env:SECRET\"";
    let own = [
        ("bearer", "{ bearer = \"env:BEARER\" }".to_owned()),
        ("header", "{ header = \"X-Key\", value = \"env:HEADER\" }".into()),
        ("query", "{ query = \"key\", value = \"env:QUERY\" }".into()),
        ("basic", "{ basic = { user = \"the-user\", password = \"env:PASSWORD\" } }".into()),
        (
            "hmac",
            "{ hmac = { algorithm = \"sha512\", key = \"env:HMAC\", sign = \"{nonce}{url}\", encoding = \
             \"hex\", headers = { N = \"{nonce}\" }, query = { sig = \"{signature}\" } } }"
                .into(),
        ),
        (
            "oauth1",
            "{ oauth1 = { consumer_key = \"the-consumer\", consumer_secret = \"env:CONSUMER\", \
             token = \"env:TOKEN\", token_secret = \"env:TOKSEC\" } }"
                .into(),
        ),
        ("jwt", format!("{{ jwt = {{ algorithm = \"ES256\", key = \"file:{ec}\", claims = {{ iss = \"i\" }} }} }}")),
        ("client", provider.oauth2(&format!("grant = \"client_credentials\", {client}"))),
        (
            "rotating",
            provider.oauth2(&format!("grant = \"refresh_token\", refresh_token = \"env:REFRESH\", {client}")),
        ),
    ];
    let config = provider.config().limit("gap = { per = [\"account\"], every = \"10ms\" }");
    let config = own.iter().fold(config, |config, (name, auth)| {
        let config = config.api(name, &format!("path = \"leak/{{id}}\"\nauth = {auth}"));
        let good = match *name {
            "client" | "rotating" => "api",
            "hmac" | "jwt" => "elsewhere",
            name => name,
        };
        let format = format!("path = \"{good}/{{id}}\"\nauth = {auth}");
        config.api(&format!("{name}-good"), &format)
    });
    dir.write("tollgate.toml", config.text());
    let names = own.iter().flat_map(|(name, _)| [(*name).to_owned(), format!("{name}-good")]);
    let lines: String = names.map(|name| fetches(&accounts("act", 2), &name, 2)).collect();
    dir.write("fetches.jsonl", lines);
    let ran =
        tollgate(&dir, &["run", "--json", "fetches.jsonl", "--log-level", "trace"]).run().exits(1);
    let others = [
        tollgate(&dir, &["check"]).run().exits(0),
        tollgate(&dir, &["dead", "list", "--json"]).run().exits(0),
        tollgate(&dir, &["status", "--json"]).run().exits(0),
        tollgate(&dir, &["plan", "fetches.jsonl"]).run().exits(0),
        // Whether a call of the last 10 ms is left to prove anything of is chance.
        tollgate(&dir, &["audit", "--ledger", "--json"]).run(),
    ];
    assert!(ran.summary().done >= 28, "{ran}");
    let dead = others[1].out();
    let dead: Vec<Value> = dead.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(dead.len() >= 36, "{}", dead.len());
    let starts: Vec<&str> = dead.iter().filter_map(|dead| dead["body_start"].as_str()).collect();
    assert!(
        starts.iter().filter(|start| start.contains("[redacted]")).count() >= 24,
        "{starts:#?}"
    );

    let counts = provider.counts();
    let tokens = counts["tokens"].as_array().unwrap().iter().map(|token| token.as_str().unwrap());
    let pem = fs::read_to_string(key("ec.pem")).unwrap();
    let lines = pem.lines().filter(|line| !line.starts_with('-'));
    let secrets: BTreeSet<&str> =
        ENV.iter().map(|(_, value)| *value).chain(tokens).chain(lines).collect();
    assert!(secrets.len() >= 16, "{secrets:?}");
    let forms: Vec<String> = secrets
        .iter()
        .flat_map(|secret| {
            let hex: Vec<String> = secret.bytes().map(|b| format!("{b:02x}")).collect();
            let listed = format!("{:?}", secret.as_bytes()).trim_matches(['[', ']']).to_owned();
            let percent: String = secret
                .bytes()
                .map(|b| {
                    let bare = b.is_ascii_alphanumeric() || b"-._~".contains(&b);
                    if bare { char::from(b).to_string() } else { format!("%{b:02X}") }
                })
                .collect();
            [(*secret).to_owned(), hex.concat(), listed, percent]
        })
        // `the-user:s3cr3t-password-Zx83`
        .chain(["dGhlLXVzZXI6czNjcjN0LXBhc3N3b3JkLVp4ODM=".to_owned()])
        .collect();
    for ran in others.iter().chain([&ran]) {
        let shown = ran.out() + &ran.err();
        for form in &forms {
            let line = shown.lines().find(|line| line.contains(form.as_str()));
            assert_eq!(line, None, "{form} is shown");
        }
    }
    let (mut seen, mut kept, mut unpacked) = (0, 0, 0);
    let mut folders = vec![dir.path("data")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
                continue;
            }
            let stored = fs::read(&path).unwrap();
            if path.parent().unwrap().ends_with("state/tokens") {
                // What is kept on purpose, for its owner only.
                use std::os::unix::fs::PermissionsExt;
                assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600);
                kept += 1;
                continue;
            }
            let bytes = decompress(&path.display().to_string(), &stored);
            unpacked += usize::from(bytes != stored);
            seen += bytes.len();
            for form in &forms {
                let found = bytes.windows(form.len()).any(|window| window == form.as_bytes());
                assert!(!found, "{form} is in {}", path.display());
            }
        }
    }
    assert!(seen > 4000 && kept > 0, "{seen} bytes, {kept} records");
    assert!(unpacked >= 28, "{unpacked} objects were unpacked");
}
