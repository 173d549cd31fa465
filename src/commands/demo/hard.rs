//! `tollgate demo --profile`: a hard case, its collector as a process of its own that is killed where the case says so,
//! and the case's pass marks.
//!
//! The collector is this binary's `run`, on a configuration that is written for the case. The provider lives in this
//! process: it shares no state and no clock with whom it judges.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};
use tollgate_actors::clock::Clock;
use tollgate_emulator::cases::{Case, Hard, KNOBS, Knobs, Mark, Violation};

use super::super::{Exit, shown};
use super::toml_text;
use crate::cli::{DemoArgs, HardCase};
use crate::ui::{number, print, say};

mod clock;
mod interval;
mod jobs;
mod nested;
mod score;
mod settle;

/// How often it is looked at the collector, and how often something is said.
const LOOK_EVERY: Duration = Duration::from_millis(10);
const SAY_EVERY: Duration = Duration::from_secs(5);
/// How often it is looked for an alarm, where one is answered.
const MEND_EVERY: Duration = Duration::from_millis(200);
/// A collector that has not ended after this time hangs, and fails its case.
const TOGETHER_MAX: Duration = Duration::from_secs(110);
/// Nothing arrives for so long before a collector is killed that is to be killed while it is quiet.
const QUIET: Duration = Duration::from_millis(700);
/// Violations that are shown.
const SHOWN_MAX: usize = 10;

/// A part of a configuration, by where the provider listens.
type Platforms = Box<dyn Fn(&str) -> String>;

/// More marks, by what the collector left.
type Beside = Box<dyn Fn(&Ran) -> anyhow::Result<Vec<Mark>>>;

/// A case with all that its run needs.
struct Set {
    case: Box<dyn Case>,
    /// What becomes of the platforms' part of the configuration once it is known where the provider listens.
    platforms: Platforms,
    /// More of the section `collect`.
    collect: &'static str,
    lives: Vec<Life>,
    /// The same put right, for a collector that has told that what was declared is contradicted.
    mended: Option<Platforms>,
    /// What is asked beside what the provider itself asks.
    beside: Beside,
}

/// One life of the collector.
struct Life {
    /// JSON Lines.
    fetches: String,
    end: End,
}

/// How a life ends.
#[derive(Debug, Clone, Copy)]
enum End {
    /// When all is collected.
    Itself,
    /// By a kill, so long after the start of the case.
    KilledAt(Duration),
    /// By a kill, once so many calls have arrived and nothing has for a while.
    KilledQuiet(u64),
}

/// What the collector left.
struct Ran {
    folder: PathBuf,
    config: PathBuf,
    /// The events of its log, by their names.
    events: BTreeMap<String, Vec<Value>>,
    is_wrong: bool,
}

#[derive(Serialize)]
struct Told<'a> {
    profile: &'a str,
    wrong: bool,
    seed: u64,
    knobs: BTreeMap<&'static str, String>,
    pass: bool,
    marks: &'a [Mark],
    calls: u64,
    refused: u64,
    violations: u64,
    first_violations: &'a [Violation],
    kills: u64,
    /// The summary of the collector's last life.
    collected: Value,
    seconds: f64,
}

/// The knobs of a case, turned as the command line says.
fn knobs(of: Knobs, args: &DemoArgs) -> anyhow::Result<Knobs> {
    let mut knobs = Knobs { seed: args.seed, ..of };
    for said in &args.knobs {
        knobs.set(said).map_err(|reason| {
            let all: Vec<String> =
                KNOBS.iter().map(|(name, what)| format!("  {name:<8}{what}")).collect();
            anyhow::anyhow!("--knob: {reason}\n{}", all.join("\n"))
        })?;
    }
    Ok(knobs)
}

pub(super) fn run(args: &DemoArgs, case: HardCase) -> anyhow::Result<Exit> {
    let (knobs, set) = match case {
        HardCase::Interval => interval::set(args),
        HardCase::Score => score::set(args),
        HardCase::Nested => nested::set(args),
        HardCase::Jobs => jobs::set(args),
        HardCase::Settle => settle::set(args),
        HardCase::Clock => clock::set(args),
    }?;
    let name = case.name();
    let stamp = Clock::new().wall().strftime("%Y%m%dT%H%M%S%3fZ").to_string();
    let folder = args.data.join(format!("{name}-{stamp}"));
    fs::create_dir_all(&folder).with_context(|| format!("make {}", shown(&folder)))?;
    let provider = Hard::start(set.case, knobs).context("start the emulated platform")?;
    let config = folder.join("demo.toml");
    let text = |of: &Platforms| config_text(&folder, set.collect, &of(&provider.base_url()));
    fs::write(&config, text(&set.platforms))
        .with_context(|| format!("write {}", shown(&config)))?;
    let mended = set.mended.as_ref().map(text);
    say(format_args!("{name}: {}", case.about()));
    let log = folder.join("demo.log");
    let ran = actix_rt::System::new().block_on(lives(&provider, &set.lives, mended, &folder));
    let Some((collected, kills, hung)) = ran? else { return Ok(Exit::Left) };

    let mut marks = provider.marks();
    let events = events(&log)?;
    let ran = Ran { folder: folder.clone(), config, events, is_wrong: args.wrong };
    marks.extend((set.beside)(&ran)?);
    let asked: usize = set.lives.last().map_or(0, |life| life.fetches.lines().count());
    let done = collected["done"].as_u64().unwrap_or(0);
    let objects = fs_objects(&folder)?;
    marks.push(Mark::new(
        "fetches collected, each stored once",
        number(asked as u64),
        if hung { "the collector did not end".into() } else { number(done.min(objects)) },
        done == asked as u64 && objects == done && !hung,
    ));
    let (calls, refused) = provider.counts();
    let (violations, first) = provider.violations();
    let pass = marks.iter().all(|mark| mark.pass);
    let told = Told {
        profile: name,
        wrong: args.wrong,
        seed: args.seed,
        knobs: shown_knobs(&knobs),
        pass,
        marks: &marks,
        calls,
        refused,
        violations,
        first_violations: &first,
        kills,
        collected,
        seconds: (provider.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
    };
    show(&told, args.json, &log)?;
    Ok(if pass { Exit::Done } else { Exit::Failed })
}

fn config_text(folder: &Path, collect: &str, platforms: &str) -> String {
    let data = toml_text(&shown(folder));
    let store = toml_text(&format!("file:{}", shown(&folder.join("objects"))));
    format!(
        "# Written by `tollgate demo --profile`, anew each time.\n\
         [node]\n\
         data = {data}\n\n\
         [store]\n\
         url = {store}\n\
         compression = \"none\"\n\n\
         [collect]\n\
         {collect}\n\n\
         {platforms}"
    )
}

/// One life of the collector after the other. Nothing if somebody wants it to stop. Else the last one's summary, how
/// many were killed, and whether the last one had to be.
async fn lives(
    provider: &Hard,
    lives: &[Life],
    mut mended: Option<String>,
    folder: &Path,
) -> anyhow::Result<Option<(Value, u64, bool)>> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut ended = signal(SignalKind::terminate())?;
    let started = Instant::now();
    let mut said_at = Instant::now();
    let mut looked_at = Instant::now();
    let mut summary = Value::Null;
    let mut kills = 0;
    let mut hung = false;
    for (n, life) in lives.iter().enumerate() {
        let file = folder.join(format!("fetches-{}.jsonl", n + 1));
        fs::write(&file, &life.fetches).with_context(|| format!("write {}", shown(&file)))?;
        let mut collector = Collector::start(folder, &file)?;
        loop {
            tokio::select! {
                _ = interrupted.recv() => return Ok(None),
                _ = ended.recv() => return Ok(None),
                () = sleep(LOOK_EVERY) => {}
            }
            if let Some(told) = collector.ended()? {
                summary = told;
                break;
            }
            let (calls, _) = provider.counts();
            let killed = match life.end {
                End::Itself => false,
                End::KilledAt(at) => provider.elapsed() >= at,
                End::KilledQuiet(many) => {
                    calls >= many && provider.last_arrival() + QUIET <= provider.elapsed()
                }
            };
            hung = started.elapsed() >= TOGETHER_MAX;
            if killed || hung {
                provider.note_kill();
                collector.kill()?;
                kills += u64::from(killed);
                break;
            }
            if mended.is_some() && looked_at.elapsed() >= MEND_EVERY {
                looked_at = Instant::now();
                if events(&folder.join("demo.log"))?.contains_key("limit_drift")
                    && let Some(text) = mended.take()
                {
                    fs::write(folder.join("demo.toml"), text).context("mend the configuration")?;
                    provider.note_mended();
                }
            }
            if said_at.elapsed() >= SAY_EVERY {
                said_at = Instant::now();
                let (violations, _) = provider.violations();
                let seconds = started.elapsed().as_secs();
                let calls = number(calls);
                say(format_args!("  {seconds:>3} s: {calls} calls, {violations} violations"));
            }
        }
        if hung {
            break;
        }
    }
    Ok(Some((summary, kills, hung)))
}

/// A process that collects. It does not outlive this value.
struct Collector {
    child: Child,
}

impl Collector {
    fn start(folder: &Path, fetches: &Path) -> anyhow::Result<Self> {
        let log = folder.join("demo.log");
        let log = File::options().create(true).append(true).open(&log);
        let mut command = tollgate(&folder.join("demo.toml"))?;
        command.args(["--log-format", "json", "--log-level", "warn", "run", "--json"]);
        command.arg(fetches).stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(log.context("open the collector's log")?);
        Ok(Self { child: command.spawn().context("start the collector")? })
    }

    /// Its summary, if it has ended.
    fn ended(&mut self) -> anyhow::Result<Option<Value>> {
        if self.child.try_wait()?.is_none() {
            return Ok(None);
        }
        let mut out = String::new();
        if let Some(mut stdout) = self.child.stdout.take() {
            stdout.read_to_string(&mut out).context("read the collector's summary")?;
        }
        let last = out.lines().last().unwrap_or_default();
        Ok(Some(serde_json::from_str(last).unwrap_or(Value::Null)))
    }

    /// `kill -9`, and waits until it is gone.
    fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().context("kill the collector")?;
        self.child.wait().context("wait for the collector")?;
        Ok(())
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        // Both fail if it has ended, which is what they are for.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// This binary on a configuration, deaf to what the environment says of others.
fn tollgate(config: &Path) -> anyhow::Result<Command> {
    let own = std::env::current_exe().context("find this program")?;
    let mut command = Command::new(own);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TOLLGATE__") {
            command.env_remove(name);
        }
    }
    command.arg("--config").arg(config);
    Ok(command)
}

/// The events of a log, by their names.
fn events(log: &Path) -> anyhow::Result<BTreeMap<String, Vec<Value>>> {
    let text = fs::read_to_string(log).with_context(|| format!("read {}", shown(log)))?;
    let mut events: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    // A killed process may leave half a line.
    for event in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        if let Some(name) = event["event"].as_str() {
            events.entry(name.to_owned()).or_default().push(event);
        }
    }
    Ok(events)
}

/// The manifests of what is stored.
fn manifests(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.join("objects")];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if entry.file_name() == "_manifest.json" {
                found.push(entry.path());
            }
        }
    }
    Ok(found)
}

fn fs_objects(folder: &Path) -> anyhow::Result<u64> {
    Ok(manifests(folder)?.len() as u64)
}

/// One fetch as a line.
fn fetch(platform: &str, (account, api): (&str, &str), id: &str, params: Value) -> String {
    let fetch = serde_json::json!({
        "id": id, "platform": platform, "account": account, "api": api, "params": params,
    });
    format!("{fetch}\n")
}

/// Where too much is declared, the collector is to tell that it is contradicted.
fn if_wrong(ran: &Ran) -> Vec<Mark> {
    if !ran.is_wrong {
        return Vec::new();
    }
    let drifts = ran.events.get("limit_drift").map(Vec::as_slice).unwrap_or_default();
    let kinds: BTreeSet<&str> = drifts.iter().filter_map(|event| event["kind"].as_str()).collect();
    let kinds: Vec<&str> = kinds.into_iter().collect();
    let got = format!("{} {}", drifts.len(), kinds.join(" "));
    let mark = "alarms that the declared limits are contradicted";
    vec![Mark::new(mark, "at least 1", got.trim_end(), !drifts.is_empty())]
}

/// The lives of a collector that is killed so many times within a span, and then left to end.
fn killed(times: u16, within: Duration, fetches: &str) -> Vec<Life> {
    let parts = u32::from(times) + 1;
    let mut lives: Vec<Life> = (1..parts)
        .map(|n| Life { fetches: fetches.into(), end: End::KilledAt(within * n / parts) })
        .collect();
    lives.push(Life { fetches: fetches.into(), end: End::Itself });
    lives
}

fn shown_knobs(knobs: &Knobs) -> BTreeMap<&'static str, String> {
    let percent = |part: u16| format!("{}%", f64::from(part) / 10.0);
    let time = |time: Duration| format!("{}ms", time.as_millis());
    BTreeMap::from([
        ("latency", time(knobs.latency)),
        ("jitter", time(knobs.jitter)),
        ("clock", time(knobs.clock)),
        ("lost", percent(knobs.lost)),
        ("silent", percent(knobs.silent)),
        ("stale", percent(knobs.stale)),
        ("rival", percent(knobs.rival)),
        ("kills", knobs.kills.to_string()),
    ])
}

fn show(told: &Told<'_>, json: bool, log: &Path) -> anyhow::Result<()> {
    if json {
        print(format_args!("{}", serde_json::to_string(told)?))?;
        return Ok(());
    }
    say(format_args!(""));
    for mark in told.marks {
        let word = if mark.pass { "pass" } else { "FAIL" };
        say(format_args!("  {word}  {}: {}, asked: {}", mark.mark, mark.got, mark.asked));
    }
    let (calls, refused) = (number(told.calls), number(told.refused));
    let Told { kills, seconds, seed, .. } = told;
    say(format_args!(
        "  {calls} calls, {refused} refused, {kills} kills, {seconds:.1} s, seed {seed}"
    ));
    for violation in told.first_violations.iter().take(SHOWN_MAX) {
        let Violation { at_ms, account, rule, early_us } = violation;
        say(format_args!("  {at_ms} ms: {account} broke `{rule}`, early by {early_us} us"));
    }
    say(format_args!("  the collector's log: {}", shown(log)));
    Ok(())
}
