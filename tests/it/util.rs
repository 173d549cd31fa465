//! What every test needs: a folder, a configuration, a process that cannot outlive its test, and what the
//! process left behind.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tollgate_emulator::Emulator;
use tollgate_protos::{Dead, Manifest};

/// Longest life of a process: far more than any test needs, so that only one that hangs meets it.
const LIFE_MAX: Duration = Duration::from_secs(60);
/// Longest wait for something that a process is about to do.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often it is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A configuration for one platform, `p`.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    base_url: String,
    sections: BTreeMap<&'static str, Vec<String>>,
    apis: Vec<String>,
}

impl Config {
    /// The platform `p` at this emulator, which is told the account by header. No limits, no apis.
    pub(crate) fn of(emulator: &Emulator) -> Self {
        Self::at(&emulator.base_url()).platform(r#"headers = { X-Account = "{account}" }"#)
    }

    /// The platform `p` at this URL.
    pub(crate) fn at(base_url: &str) -> Self {
        Self { base_url: base_url.to_owned(), sections: BTreeMap::new(), apis: Vec::new() }
    }

    fn line(mut self, section: &'static str, line: &str) -> Self {
        self.sections.entry(section).or_default().push(line.to_owned());
        self
    }

    pub(crate) fn store(self, line: &str) -> Self {
        self.line("store", line)
    }

    pub(crate) fn collect(self, line: &str) -> Self {
        self.line("collect", line)
    }

    /// A line of `[platforms.p]`.
    pub(crate) fn platform(self, line: &str) -> Self {
        self.line("platforms.p", line)
    }

    /// A line of `[platforms.p.limits]`.
    pub(crate) fn limit(self, line: &str) -> Self {
        self.line("platforms.p.limits", line)
    }

    /// An api with the lines of its table.
    pub(crate) fn api(mut self, name: &str, lines: &str) -> Self {
        self.apis.push(format!("[platforms.p.apis.{name}]\n{lines}\n"));
        self
    }

    /// The api `report` that collects `v1/reports/daily?date=…`.
    pub(crate) fn report(self) -> Self {
        self.api("report", "path = \"v1/reports/daily\"\nquery = { date = \"{date}\" }")
    }

    /// As TOML.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let lines = |name: &str| self.sections.get(name).map(|l| l.join("\n")).unwrap_or_default();
        writeln!(text, "[node]\ndata = \"data\"").unwrap();
        for section in ["store", "collect"] {
            writeln!(text, "[{section}]\n{}", lines(section)).unwrap();
        }
        writeln!(text, "[platforms.p]\nbase_url = \"{}\"", self.base_url).unwrap();
        writeln!(text, "{}", lines("platforms.p")).unwrap();
        writeln!(text, "[platforms.p.limits]\n{}", lines("platforms.p.limits")).unwrap();
        text.extend(self.apis.iter().map(String::as_str));
        text
    }
}

/// One fetch of platform `p` as a line, with these further fields.
pub(crate) fn fetch(account: &str, api: &str, id: &str, more: Value) -> String {
    let mut fetch = json!({ "id": id, "platform": "p", "account": account, "api": api });
    if let Value::Object(more) = more {
        fetch.as_object_mut().unwrap().extend(more);
    }
    format!("{fetch}\n")
}

/// Fetches of the api `report`, `each` for every account, day by day; the id is the day.
pub(crate) fn reports(accounts: &[String], each: usize) -> String {
    let day = |day: usize| format!("2026-{:02}-{:02}", 1 + day / 28, 1 + day % 28);
    (0..each)
        .flat_map(|n| accounts.iter().map(move |account| (n, account)))
        .map(|(n, account)| {
            fetch(account, "report", &day(n), json!({ "params": { "date": day(n) } }))
        })
        .collect()
}

/// `prefix_0`, `prefix_1`, …
pub(crate) fn accounts(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{prefix}_{n}")).collect()
}

/// A folder to work in: `tollgate.toml`, files of fetches, and `data` where things are stored.
#[derive(Debug)]
pub(crate) struct Dir {
    temp: TempDir,
}

impl Dir {
    /// An empty folder.
    pub(crate) fn empty() -> Self {
        Self { temp: TempDir::with_prefix("tollgate-it-").unwrap() }
    }

    /// A folder with a configuration.
    pub(crate) fn with(config: &Config) -> Self {
        let dir = Self::empty();
        dir.write("tollgate.toml", config.text());
        dir
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).unwrap();
    }

    /// The binary with these arguments, in this folder.
    pub(crate) fn tollgate(&self, args: &[&str]) -> Tollgate {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        command.args(args).current_dir(self.temp.path());
        // What the person who runs the tests has set is no part of them.
        for name in ["NO_COLOR", "RUST_LOG", "HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
            command.env_remove(name);
        }
        Tollgate { command, input: Vec::new(), text: format!("tollgate {}", args.join(" ")) }
    }

    /// `tollgate run --json` on the file `fetches`, which is written first.
    pub(crate) fn run(&self, fetches: &str) -> Ran {
        self.write("fetches.jsonl", fetches);
        self.tollgate(&["run", "--json", "fetches.jsonl"]).run()
    }

    /// The dead letters, by `dead list --json`.
    pub(crate) fn dead(&self) -> Vec<Dead> {
        let ran = self.tollgate(&["dead", "list", "--json"]).run().exits(0);
        ran.out().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Every file below `folder`, without the state folder, as paths relative to this folder.
    pub(crate) fn files(&self, folder: &str) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![self.path(folder)];
        while let Some(folder) = folders.pop() {
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            for entry in entries.map(Result::unwrap) {
                let path = entry.path();
                if path == self.path("data/state") {
                    continue;
                }
                if entry.file_type().unwrap().is_dir() {
                    folders.push(path);
                } else {
                    let relative = path.strip_prefix(self.temp.path()).unwrap();
                    found.push(relative.to_str().unwrap().to_owned());
                }
            }
        }
        found.sort();
        found
    }

    /// Removes what killed processes left of files that were not whole yet, which no object store lists as
    /// objects (`KEY#1`), and answers how many those were.
    pub(crate) fn remove_half_written(&self) -> usize {
        let files = self.files("data");
        let halves = files.iter().filter(|file| {
            let number = file.rsplit_once('#').map(|(_, number)| number);
            number.is_some_and(|number| number.parse::<u32>().is_ok())
        });
        halves.map(|file| std::fs::remove_file(self.path(file)).unwrap()).count()
    }

    /// What was collected below `data`, by account, api and id. Checks on the way that every file belongs
    /// to exactly one manifest, and that each manifest tells the truth about its objects.
    pub(crate) fn collected(&self) -> BTreeMap<(String, String, String), Collected> {
        self.collected_in("data")
    }

    /// The same for another folder of objects.
    pub(crate) fn collected_in(
        &self,
        folder: &str,
    ) -> BTreeMap<(String, String, String), Collected> {
        let root = self.path(folder);
        let mut unclaimed = self.files(folder);
        let mut all = BTreeMap::new();
        let is_manifest = |file: &String| file.ends_with("/_manifest.json");
        let manifests: Vec<String> = unclaimed.iter().filter(|f| is_manifest(f)).cloned().collect();
        unclaimed.retain(|file| !is_manifest(file));
        for file in manifests {
            let text = std::fs::read(self.path(&file)).unwrap();
            let manifest: Manifest = serde_json::from_slice(&text)
                .unwrap_or_else(|error| panic!("{file}: {error}: {}", lossy(&text)));
            assert_eq!(manifest.done.objects.len(), 1, "{file}: {manifest:?}");
            let object = &manifest.done.objects[0];
            let claimed = format!("{folder}/{}", object.key);
            let before = unclaimed.len();
            unclaimed.retain(|file| *file != claimed);
            assert_eq!(before - unclaimed.len(), 1, "{claimed} is not there, or claimed twice");
            assert_eq!(
                Path::new(&claimed).parent(),
                Path::new(&file).parent(),
                "a manifest lies beside its object"
            );
            let stored = std::fs::read(root.join(&object.key)).unwrap();
            assert_eq!(stored.len() as u64, object.stored_bytes, "stored_bytes of {claimed}");
            let body = decompress(&object.key, &stored);
            assert_eq!(body.len() as u64, object.bytes, "bytes of {claimed}");
            assert_eq!(sha256(&body), object.sha256, "sha256 of {claimed}");
            let of = (manifest.account.clone(), manifest.api.clone(), manifest.done.id.clone());
            let collected = Collected { manifest, body };
            assert!(all.insert(of.clone(), collected).is_none(), "{of:?} was stored twice");
        }
        assert!(unclaimed.is_empty(), "files that no manifest claims: {unclaimed:?}");
        all
    }

    /// Asserts that exactly these fetches were collected, each once with the bytes that the emulator has
    /// for it.
    pub(crate) fn assert_reports(&self, accounts: &[String], each: usize) {
        let mut collected = self.collected();
        for line in reports(accounts, each).lines() {
            let fetch: Value = serde_json::from_str(line).unwrap();
            let text = |name: &str| fetch[name].as_str().unwrap().to_owned();
            let of = (text("account"), text("api"), text("id"));
            let got = collected.remove(&of).unwrap_or_else(|| panic!("{of:?} is missing"));
            let query = format!("date={}", fetch["params"]["date"].as_str().unwrap());
            let wanted = tollgate_emulator::expected_body(&of.0, "daily", &query, 5);
            assert_eq!(lossy(&got.body), lossy(&wanted), "the body of {of:?}");
        }
        assert!(collected.is_empty(), "collected and not asked for: {:?}", collected.keys());
    }
}

/// What was stored for one fetch.
#[derive(Debug)]
pub(crate) struct Collected {
    pub(crate) manifest: Manifest,
    /// After decompression.
    pub(crate) body: Vec<u8>,
}

fn decompress(key: &str, stored: &[u8]) -> Vec<u8> {
    match Path::new(key).extension().and_then(|ext| ext.to_str()) {
        Some("zst") => zstd::decode_all(stored).unwrap(),
        Some("gz") => {
            let mut body = Vec::new();
            flate2::read::GzDecoder::new(stored).read_to_end(&mut body).unwrap();
            body
        }
        _ => stored.to_vec(),
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

pub(crate) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A process to be started.
#[derive(Debug)]
pub(crate) struct Tollgate {
    command: Command,
    input: Vec<u8>,
    text: String,
}

impl Tollgate {
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// What it reads on standard input.
    pub(crate) fn input(mut self, input: impl Into<Vec<u8>>) -> Self {
        self.input = input.into();
        self
    }

    /// Starts it and waits for its end.
    pub(crate) fn run(self) -> Ran {
        self.start().wait()
    }

    /// Starts it.
    pub(crate) fn start(mut self) -> Running {
        let input = std::mem::take(&mut self.input);
        let (running, mut stdin) = self.start_with_open_input();
        // A process that ends before it has read everything breaks the pipe, which is its right.
        thread::spawn(move || stdin.write_all(&input).ok());
        running
    }

    /// Starts it with a standard input that stays open until the second value is dropped.
    pub(crate) fn start_with_open_input(mut self) -> (Running, ChildStdin) {
        let mut child = self
            .command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout = Gathered::of(child.stdout.take().unwrap());
        let stderr = Gathered::of(child.stderr.take().unwrap());
        let started = Instant::now();
        (Running { child, stdout, stderr, text: self.text, started }, stdin)
    }
}

/// What a process writes, as it comes.
#[derive(Debug)]
struct Gathered {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Gathered {
    fn of(mut pipe: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let there = bytes.clone();
        let reader = thread::spawn(move || {
            let mut piece = [0; 8192];
            while let Ok(count @ 1..) = pipe.read(&mut piece) {
                there.lock().unwrap().extend_from_slice(&piece[..count]);
            }
        });
        Self { bytes, reader: Some(reader) }
    }

    fn so_far(&self) -> String {
        lossy(&self.bytes.lock().unwrap())
    }

    fn all(&mut self) -> Vec<u8> {
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        std::mem::take(&mut self.bytes.lock().unwrap())
    }
}

/// A process; it is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    stdout: Gathered,
    stderr: Gathered,
    text: String,
    started: Instant,
}

impl Running {
    /// Sends a signal by name: `TERM`, `STOP`.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status();
        assert!(sent.unwrap().success(), "kill -{name} {pid}");
    }

    /// `kill -9`, and waits until it is gone.
    pub(crate) fn kill(mut self) -> Ran {
        self.child.kill().unwrap();
        self.wait()
    }

    /// Waits until standard error holds a text.
    pub(crate) fn wait_says(&self, text: &str) {
        wait_until(&format!("`{text}` on standard error of {}", self.text), || {
            self.stderr.so_far().contains(text).then_some(())
        });
    }

    /// Whether it has not ended yet.
    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end, at most [`LIFE_MAX`] after its start.
    pub(crate) fn wait(mut self) -> Ran {
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break Some(status);
            }
            if self.started.elapsed() > LIFE_MAX {
                self.child.kill().unwrap();
                self.child.wait().unwrap();
                break None;
            }
            thread::sleep(LOOK_EVERY);
        };
        let took = self.started.elapsed();
        let ran = Ran {
            text: self.text.clone(),
            code: status.and_then(|status| status.code()),
            stdout: self.stdout.all(),
            stderr: self.stderr.all(),
            took,
        };
        assert!(status.is_some(), "it did not end within {LIFE_MAX:?}:\n{ran}");
        ran
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail if it has ended, which is what they are for.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A process that has ended.
#[derive(Debug)]
pub(crate) struct Ran {
    text: String,
    /// Nothing if a signal ended it.
    pub(crate) code: Option<i32>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    pub(crate) took: Duration,
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (out, err) = (self.out(), self.err());
        // The end tells more than the beginning.
        let skip = err.lines().count().saturating_sub(25);
        let err: Vec<&str> = err.lines().skip(skip).collect();
        let err = err.join("\n  ");
        write!(
            f,
            "{} ended with {:?} after {:.3?}\nstandard output:\n{out}\nstandard error (the last 25 lines):\n  {err}",
            self.text, self.code, self.took
        )
    }
}

/// The last line of `run --json`: exactly these fields.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Summary {
    pub(crate) fetches: u64,
    pub(crate) done: u64,
    pub(crate) dead: u64,
    pub(crate) left: u64,
    pub(crate) calls: u64,
    pub(crate) refused: u64,
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    pub(crate) limits: Vec<LimitUse>,
}

/// How much of a limit was used.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LimitUse {
    pub(crate) limit: String,
    pub(crate) share: f64,
}

impl Ran {
    /// Asserts how it ended.
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "exit code\n{self}");
        self
    }

    /// Standard output.
    pub(crate) fn out(&self) -> String {
        lossy(&self.stdout)
    }

    /// Standard error.
    pub(crate) fn err(&self) -> String {
        lossy(&self.stderr)
    }

    /// Asserts that standard error holds a text.
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(self.err().contains(text), "`{text}` is not on standard error\n{self}");
        self
    }

    /// The last line of standard output as JSON.
    pub(crate) fn json(&self) -> Value {
        let out = self.out();
        let line = out.lines().last().unwrap_or_else(|| panic!("no output\n{self}"));
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}\n{self}"))
    }

    /// The summary of a run.
    pub(crate) fn summary(&self) -> Summary {
        serde_json::from_value(self.json()).unwrap_or_else(|error| panic!("{error}\n{self}"))
    }

    /// The log lines: those of standard error that begin like JSON, all of which must be.
    pub(crate) fn events(&self) -> Vec<Value> {
        self.err()
            .lines()
            .filter(|line| line.starts_with('{'))
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
            .collect()
    }
}

/// Waits until something is there.
pub(crate) fn wait_until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain for {what}");
        thread::sleep(LOOK_EVERY);
    }
}

/// Asserts that the provider refused nothing, and tells what if it did. A refusal that was early by less
/// than the emulator itself was late at its worst may be its own fault and is let pass.
pub(crate) fn assert_none_refused(emulator: &Emulator) {
    let score = emulator.score();
    if score.refused == 0 {
        return;
    }
    let refused: Vec<String> = emulator
        .calls()
        .into_iter()
        .filter_map(|call| {
            let why = call.refusal?;
            Some(format!("{} {} {} early by {:?}", call.account, call.query, why.limit, why.early))
        })
        .take(20)
        .collect();
    assert!(
        score.worst_excess_us > 0 && score.worst_excess_us < score.loop_lag_max_us,
        "{} calls refused, by {:?}; the worst was early by {} us, the emulator late by {} us:\n{}",
        score.refused,
        score.refused_by,
        score.worst_excess_us,
        score.loop_lag_max_us,
        refused.join("\n")
    );
}

/// A sequence of numbers that is the same each time.
#[derive(Debug)]
pub(crate) struct Luck(u64);

impl Luck {
    pub(crate) fn of(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Evenly drawn from a range.
    pub(crate) fn between(&mut self, from: u64, to: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        from + self.0 % (to - from + 1)
    }
}
