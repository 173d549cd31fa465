//! `tollgate demo`: everything in one process, with an emulated ad platform that enforces its limits.

use std::fmt::Write;
use std::time::Duration;

use anyhow::Context;
use tollgate_actors::clock::Clock;
use tollgate_actors::config::{self, Loaded};
use tollgate_actors::{install_tls, supervise};
use tollgate_emulator::{Emulator, Latency, Profile, ProviderLimit};

use super::session::{Input, work};
use super::{Exit, shown};
use crate::cli::{DemoArgs, Global};
use crate::logs::Logs;
use crate::ui::{Progress, number, say, summary};

mod hard;

/// The emulated platform's rules, and what the configuration declares: one place for both numbers.
const PAIR: (u32, Duration) = (2, Duration::from_secs(1));
const DOZEN: (u32, Duration) = (12, Duration::from_secs(10));
const AT_ONCE: u32 = 4;
/// Accounts where nobody says how many.
const ACCOUNTS: u32 = 200;

pub(crate) fn run(global: &Global, args: &DemoArgs) -> anyhow::Result<Exit> {
    if let Some(case) = args.profile {
        return hard::run(args, case);
    }
    let accounts = args.accounts.unwrap_or(ACCOUNTS);
    let emulator = Emulator::start(Profile {
        limits: vec![
            ProviderLimit::window("pair", PAIR.0, PAIR.1),
            ProviderLimit::window("dozen", DOZEN.0, DOZEN.1),
            ProviderLimit::concurrent("slots", AT_ONCE),
        ],
        latency: Latency::Range(Duration::from_millis(20), Duration::from_millis(120)),
        ..Profile::default()
    })
    .context("start the emulated platform on loopback")?;
    std::fs::create_dir_all(&args.data).with_context(|| format!("make {}", shown(&args.data)))?;
    let file = args.data.join("demo.toml");
    std::fs::write(&file, config_text(&emulator, args))
        .with_context(|| format!("write {}", shown(&file)))?;
    let Loaded { plan, .. } = config::load(Some(&file), std::iter::empty(), &[])
        .map_err(|mistakes| anyhow::anyhow!("{mistakes}"))
        .context("read the demo's own configuration")?;
    say(format_args!(
        "an emulated ad platform at {}: at most {} calls in any {} s, {} in any {} s and {AT_ONCE} at a \
         time for each of {} accounts; {} fetches",
        emulator.base_url(),
        PAIR.0,
        PAIR.1.as_secs(),
        DOZEN.0,
        DOZEN.1.as_secs(),
        number(u64::from(accounts)),
        number(u64::from(accounts) * u64::from(args.fetches)),
    ));
    let mut progress = Progress::new();
    let logs = Logs::start(global, &plan.log, &progress, "warn")?;
    install_tls();
    supervise::keep_panics();
    let inputs = vec![Input::Lines(fetches(args, accounts).into())];
    let working = work(plan, None, inputs, &mut progress, logs.levels(), args.listen);
    let report = actix_rt::System::new().block_on(working)?;
    drop(logs);
    let score = emulator.score();
    let verdict =
        summary::Verdict { calls: score.calls, refused: score.refused, share: score.share };
    let places = [("stored", shown(&args.data)), ("config", shown(&file))];
    summary::show(&report.summary, Some(&verdict), args.json, &places)?;
    Ok(if verdict.refused > 0 && report.exit == Exit::Done { Exit::Failed } else { report.exit })
}

fn config_text(emulator: &Emulator, args: &DemoArgs) -> String {
    let data = toml_text(&shown(&args.data));
    let store = toml_text(&format!("file:{}", shown(&args.data)));
    format!(
        "# Written by `tollgate demo`, anew each time.\n\
         [node]\n\
         data = {data}\n\n\
         [store]\n\
         url = {store}\n\n\
         [platforms.emulated]\n\
         base_url = \"{base}\"\n\
         headers = {{ X-Account = \"{{account}}\" }}\n\n\
         [platforms.emulated.limits]\n\
         pair = {{ per = [\"account\"], max = {pair}, in = \"{pair_in}s\" }}\n\
         dozen = {{ per = [\"account\"], max = {dozen}, in = \"{dozen_in}s\" }}\n\
         slots = {{ per = [\"account\"], concurrent = {AT_ONCE} }}\n\n\
         [platforms.emulated.apis.report]\n\
         path = \"v1/reports/daily\"\n\
         query = {{ date = \"{{date}}\" }}\n\
         format = \"json\"\n",
        base = emulator.base_url(),
        pair = PAIR.0,
        pair_in = PAIR.1.as_secs(),
        dozen = DOZEN.0,
        dozen_in = DOZEN.1.as_secs(),
    )
}

/// A TOML string.
fn toml_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// One fetch per account and day; a run of its own each time, so that a second demo works as well.
fn fetches(args: &DemoArgs, accounts: u32) -> Vec<u8> {
    let run = Clock::new().wall().strftime("%Y%m%dT%H%M%SZ").to_string();
    let first = jiff::civil::date(2026, 1, 1);
    let mut lines = String::new();
    for day in 0..args.fetches {
        let date = first.saturating_add(jiff::Span::new().days(i64::from(day)));
        for account in 1..=accounts {
            // Writing to a String does not fail.
            let _written = writeln!(
                lines,
                r#"{{"id":"{run}-{day}","platform":"emulated","account":"act_{account}","api":"report","params":{{"date":"{date}"}}}}"#
            );
        }
    }
    lines.into_bytes()
}
