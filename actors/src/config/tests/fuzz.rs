//! Whatever stands in the file, reading it ends soon, without a panic, and each mistake says where it is.
//!
//! A few hundred cases each; `TOLLGATE_FUZZ_SECONDS=600` makes each of these go on for so long, with new cases.

use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use tokio::time::Instant;

use super::*;

/// Where each case may take longer at the most on a busy machine, without optimisation. Texts are of 100 KB and less.
const CASE_MAX: Duration = Duration::from_secs(20);
/// The value of a secret that the environment has, and that nobody is to be shown.
const SECRET: &str = "s3cret-5up3r-value";

/// Tries cases of a strategy, for as long as was asked for.
fn fuzz(name: &str, texts: impl Strategy<Value = String>) {
    let seconds = std::env::var("TOLLGATE_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    let started = Instant::now();
    let config = Config { failure_persistence: None, ..Config::default() };
    let rng = match seconds {
        None => TestRng::deterministic_rng(RngAlgorithm::ChaCha),
        Some(_) => TestRng::from_seed(RngAlgorithm::ChaCha, &fastrand_seed()),
    };
    let mut runner = TestRunner::new_with_rng(config, rng);
    let (mut cases, mut understood, mut longest) = (0_u64, 0_u64, Duration::ZERO);
    let goes_on = |cases: u64| match seconds {
        None => cases < 300,
        Some(seconds) => started.elapsed() < Duration::from_secs(seconds),
    };
    while goes_on(cases) {
        let text = texts.new_tree(&mut runner).unwrap().current();
        let began = Instant::now();
        let read = std::panic::catch_unwind(|| check(&text));
        let mut took = began.elapsed();
        let Ok(ok) = read else { panic!("panics on:\n{text}") };
        if took >= CASE_MAX {
            // A machine that slept, or a process that was stopped, is no slow case.
            let began = Instant::now();
            check(&text);
            took = began.elapsed();
        }
        assert!(took < CASE_MAX, "takes {took:?}:\n{text}");
        longest = longest.max(took);
        understood += u64::from(ok);
        cases += 1;
    }
    println!(
        "{name}: {cases} texts in {:.0?}, {understood} of them understood, the longest in {longest:.0?}",
        started.elapsed()
    );
}

fn fastrand_seed() -> [u8; 32] {
    std::array::from_fn(|_| fastrand::u8(..))
}

/// Reads a text as a file, and looks at what is said of it. True if it is a configuration.
fn check(text: &str) -> bool {
    match load_with(text, &[("TOKEN", SECRET), ("HOME", "/nowhere")]) {
        Ok(Loaded { plan, warnings }) => {
            let shown = format!("{}{warnings:?}{plan:?}", describe(&plan));
            assert!(!shown.contains(SECRET), "a secret is shown");
            assert_eq!(plan.hash.len(), 16);
            // A node that reads it anew finds nothing new.
            let again = load_with(text, &[("TOKEN", SECRET), ("HOME", "/nowhere")]).unwrap().plan;
            assert_eq!(format!("{plan:?}"), format!("{again:?}"));
            true
        }
        Err(mistakes) => {
            assert!(!mistakes.list().is_empty(), "refused without a reason");
            let lines = text.split('\n').count();
            for mistake in mistakes.list() {
                assert!(!mistake.file.is_empty() && !mistake.message.is_empty(), "{mistake:?}");
                match mistake.line {
                    Some(line) => assert!((1..=lines).contains(&line), "{mistake:?} of {lines}"),
                    // What is missing altogether has no line, but a name.
                    None => assert!(!mistake.key.is_empty(), "nobody knows where: {mistake:?}"),
                }
            }
            let shown = mistakes.to_string();
            assert!(!shown.contains(SECRET), "a secret is shown");
            // What comes from the file acts on no terminal.
            let acts = |c: char| c == '\u{202e}' || c.is_control() && c != '\n';
            assert!(!shown.contains(acts), "control characters are shown: {shown:?}");
            false
        }
    }
}

/// Words of configurations, right and wrong.
const KEYS: &[&str] = &[
    "node",
    "name",
    "data",
    "store",
    "url",
    "key",
    "compression",
    "fsync",
    "spool_bytes_max",
    "collect",
    "concurrency",
    "shards",
    "attempts_max",
    "body_bytes_max",
    "buffer_bytes_max",
    "timeouts",
    "connect",
    "drain",
    "spill_over",
    "nats",
    "prefix",
    "replicas",
    "creds",
    "tls",
    "ca",
    "http",
    "listen",
    "platforms",
    "kakao",
    "base_url",
    "allowed_hosts",
    "headers",
    "auth",
    "bearer",
    "header",
    "value",
    "guard",
    "limits",
    "gap",
    "per",
    "every",
    "max",
    "in",
    "resets",
    "rate",
    "burst",
    "concurrent",
    "cost",
    "reserve",
    "share",
    "apis",
    "report",
    "path",
    "query",
    "params",
    "format",
    "lost_call",
    "\"\"",
    "\"a b\"",
    "'é'",
    "1",
    "-",
    "_x",
    "s3",
    "region",
    "endpoint",
];
const VALUES: &[&str] = &[
    "\"5s\"",
    "\"0s\"",
    "\"1d\"",
    "\"-1s\"",
    "\"99999999999999999999h\"",
    "\"1h30m\"",
    "60",
    "0",
    "-1",
    "4294967296",
    "9223372036854775807",
    "-9223372036854775808",
    "1e400",
    "nan",
    "-inf",
    "1.5",
    "true",
    "\"\"",
    "\"never\"",
    "\"{account}\"",
    "\"{\"",
    "\"}}{{\"",
    "\"{ids|days(-1)}\"",
    "\"{date|days(99999999999)}\"",
    "\"{a|b|c}\"",
    "[\"account\"]",
    "[\"account\", \"api\"]",
    "[\"platform\"]",
    "[]",
    "[[]]",
    "[1, \"a\"]",
    "{}",
    "{ per = [\"account\"], every = \"5s\" }",
    "{ per = [\"account\"], max = 3, in = \"1h\" }",
    "{ connect = \"1s\" }",
    "\"https://a.example.com/\"",
    "\"http://u:s3cret@h/\"",
    "\"file:x\"",
    "\"memory:\"",
    "\"s3://b/p\"",
    "\"env:TOKEN\"",
    "\"env:NONE\"",
    "\"file:/dev/null\"",
    "\"inline\"",
    "\"256MiB\"",
    "\"1EB\"",
    "\"127.0.0.1:0\"",
    "\"off\"",
    "\"00:00 Asia/Seoul\"",
    "\"50/s\"",
    "1979-05-27T07:32:00Z",
    "0x_1",
    "\"\\u0000\"",
    "\"\\u001b[31m\"",
    "'''\n'''",
    "\"\u{202e}\"",
    "\"../../etc\"",
    "\"a/../b\"",
];

fn line() -> impl Strategy<Value = String> {
    let key = || proptest::collection::vec(select(KEYS), 1..5).prop_map(|parts| parts.join("."));
    prop_oneof![
        4 => (key(), select(VALUES)).prop_map(|(key, value)| format!("{key} = {value}")),
        3 => key().prop_map(|key| format!("[{key}]")),
        1 => key().prop_map(|key| format!("[[{key}]]")),
        1 => "[ -~]{0,40}",
        1 => any::<String>(),
    ]
}

/// One thing that is done to a text.
#[derive(Debug, Clone)]
enum Edit {
    Remove(Index),
    Double(Index),
    Swap(Index, Index),
    Insert(Index, String),
    Value(Index, &'static str),
    Key(Index, &'static str),
    Char(Index, char),
    Cut(Index),
}

fn edit() -> impl Strategy<Value = Edit> {
    let at = any::<Index>;
    prop_oneof![
        1 => at().prop_map(Edit::Remove),
        1 => at().prop_map(Edit::Double),
        1 => (at(), at()).prop_map(|(one, other)| Edit::Swap(one, other)),
        1 => (at(), line()).prop_map(|(at, line)| Edit::Insert(at, line)),
        4 => (at(), select(VALUES)).prop_map(|(at, value)| Edit::Value(at, value)),
        2 => (at(), select(KEYS)).prop_map(|(at, key)| Edit::Key(at, key)),
        1 => (at(), any::<char>()).prop_map(|(at, char)| Edit::Char(at, char)),
        1 => at().prop_map(Edit::Cut),
    ]
}

fn edited(text: &str, edits: &[Edit]) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for edit in edits {
        if lines.is_empty() {
            return String::new();
        }
        let len = lines.len();
        match edit {
            Edit::Remove(at) => drop(lines.remove(at.index(len))),
            Edit::Double(at) => lines.insert(at.index(len), lines[at.index(len)].clone()),
            Edit::Swap(one, other) => lines.swap(one.index(len), other.index(len)),
            Edit::Insert(at, line) => lines.insert(at.index(len), line.clone()),
            Edit::Value(at, value) => {
                let line = &mut lines[at.index(len)];
                let key = line.split_once('=').map_or("", |(key, _)| key).to_owned();
                *line = format!("{key}= {value}");
            }
            Edit::Key(at, key) => {
                let line = &mut lines[at.index(len)];
                let value = line.split_once('=').map_or("1", |(_, value)| value).to_owned();
                *line = format!("{key} = {value}");
            }
            Edit::Char(at, char) => {
                let line = &mut lines[at.index(len)];
                let mut chars: Vec<char> = line.chars().collect();
                let place = at.index(chars.len() + 1);
                chars.insert(place, *char);
                *line = chars.into_iter().collect();
            }
            Edit::Cut(at) => lines.truncate(at.index(len)),
        }
    }
    lines.join("\n")
}

/// The commented configuration, with what it shows as comments in force where that is TOML.
fn uncommented() -> String {
    let lines = init_text().lines().map(|line| {
        let bare = line.trim_start().strip_prefix("# ").or(line.trim_start().strip_prefix('#'));
        let code = bare.map(str::trim_start).filter(|bare| {
            bare.starts_with('[') || bare.split_once(" = ").is_some_and(|(k, _)| !k.contains(' '))
        });
        code.unwrap_or(line).to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn any_text_is_read_without_a_panic_and_its_mistakes_have_places() {
    let soup = proptest::collection::vec(line(), 0..60).prop_map(|lines| lines.join("\n"));
    let bytes = proptest::collection::vec(any::<u8>(), 0..400)
        .prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let texts = prop_oneof![6 => soup, 1 => any::<String>(), 1 => bytes];
    fuzz("any text", texts);
}

#[test]
fn a_changed_configuration_is_read_without_a_panic_and_its_mistakes_have_places() {
    let bases: Vec<String> = vec![init_text().to_owned(), uncommented(), BASE.to_owned()];
    let texts = (select(bases), proptest::collection::vec(edit(), 0..6))
        .prop_map(|(base, edits)| edited(&base, &edits));
    fuzz("changed configurations", texts);
}

#[test]
fn what_is_nested_or_long_beyond_measure_is_refused_and_ends_soon() {
    for depth in [10, 100, 1000, 10_000, 30_000] {
        let texts = [
            format!("a = {}{}", "[".repeat(depth), "]".repeat(depth)),
            format!("a = {}1{}", "{ a = ".repeat(depth), " }".repeat(depth)),
            format!("{}a = 1", "a.".repeat(depth)),
            format!("[{}a]\nb = 1", "a.".repeat(depth)),
            format!("[platforms.p.headers]\nA = \"{}\"", "{a}".repeat(depth)),
            format!("[platforms.p.headers]\nA = \"{{a{}}}\"", "|lower".repeat(depth)),
            format!("[platforms.p]\nallowed_hosts = [{}]", "\"a\", ".repeat(depth)),
            (0..depth).fold(String::new(), |text, n| format!("{text}k{n} = 1\n")),
        ];
        for text in texts {
            // On a stack as small as any thread's that reads one.
            let read = move || assert!(!check(&text));
            let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(read).unwrap();
            thread.join().unwrap();
        }
    }
}
