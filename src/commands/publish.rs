//! `tollgate publish`: fetches onto NATS, each confirmed.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tollgate_actors::codes::Code;
use tollgate_actors::nats::publish::{Outgoing, Publisher};
use tollgate_actors::plan::Plan;
use tollgate_actors::publish::{Format, Record, read};
use tollgate_actors::recipe::{Accepted, PROTOBUF};

use super::nats::connect;
use super::status::printable;
use super::{Exit, publisher_plan, shown};
use crate::cli::{Global, InputFormat, PublishArgs};
use crate::ui::{number, print, say};

/// Records read ahead.
const AHEAD: usize = 4096;
/// Refusals told one by one.
const TOLD_MAX: u64 = 100;
/// Between two lines of progress.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// What was published.
#[derive(Debug, Default, Serialize)]
struct Counts {
    fetches: u64,
    new: u64,
    duplicate: u64,
    refused: u64,
    /// Sent, and neither confirmed nor refused when it ended.
    unconfirmed: u64,
    seconds: f64,
}

pub(crate) fn run(global: &Global, args: &PublishArgs) -> anyhow::Result<Exit> {
    let Some(plan) = publisher_plan(global) else { return Ok(Exit::Usage) };
    let inputs: Vec<(PathBuf, Format)> = args
        .files
        .iter()
        .map(|file| Ok((file.clone(), format(file, args.format)?)))
        .collect::<anyhow::Result<_>>()?;
    actix_rt::System::new().block_on(publish(Arc::new(plan), inputs, args))
}

pub(crate) fn format(file: &Path, told: Option<InputFormat>) -> anyhow::Result<Format> {
    match told {
        Some(InputFormat::Jsonl) => Ok(Format::JsonLines),
        Some(InputFormat::Csv) => Ok(Format::Csv),
        None if file == Path::new("-") => Ok(Format::JsonLines),
        None => Format::of(file).with_context(|| {
            format!(
                "{}: {} does not say by its name what it is: --format jsonl, or csv",
                Code::InputUnreadable,
                shown(file)
            )
        }),
    }
}

async fn publish(
    plan: Arc<Plan>,
    inputs: Vec<(PathBuf, Format)>,
    args: &PublishArgs,
) -> anyhow::Result<Exit> {
    let started = Instant::now();
    let bus = connect(&plan, "publish").await?;
    let mut publisher = Publisher::new(bus, Duration::from_secs(args.patience));
    let (tell, mut records) = mpsc::channel(AHEAD);
    // Reading blocks; standard input may stay open without a word, so it is no thread of the runtime's.
    std::thread::Builder::new()
        .name("records".into())
        .spawn(move || read_all(&plan, inputs, &tell))
        .context("start a thread")?;
    let mut counts = Counts::default();
    let mut failed = None;
    let mut told_at = Instant::now();
    while let Some(record) = records.recv().await {
        let sent = match record {
            Ok(record) => {
                counts.fetches += 1;
                one(&mut publisher, record, args, &mut counts).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = sent {
            failed = Some(error);
            break;
        }
        if told_at.elapsed() >= LINE_EVERY {
            told_at = Instant::now();
            let done = publisher.published();
            say(format_args!("{} confirmed so far", number(done.new + done.duplicate)));
        }
    }
    if let Err(error) = publisher.finish().await {
        failed.get_or_insert(error.into());
    }
    let done = publisher.published();
    counts.new = done.new;
    counts.duplicate = done.duplicate;
    counts.unconfirmed = counts.fetches - counts.refused - done.new - done.duplicate;
    counts.seconds = (started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
    tell_counts(&counts);
    if args.json {
        print(format_args!("{}", serde_json::to_string(&counts)?))?;
    }
    match failed {
        Some(error) => Err(error),
        None if counts.refused > 0 => Ok(Exit::Failed),
        None => Ok(Exit::Done),
    }
}

async fn one(
    publisher: &mut Publisher,
    record: Record,
    args: &PublishArgs,
    counts: &mut Counts,
) -> anyhow::Result<()> {
    match record.fetch {
        Ok(accepted) => {
            let message_id = accepted.message_id();
            let Accepted { lane, fetch, payload, .. } = accepted;
            let (content_type, payload) = if args.protobuf {
                (Some(PROTOBUF), fetch.to_protobuf()?.into())
            } else {
                (None, payload)
            };
            let fetch = Outgoing { lane, message_id, content_type, payload };
            publisher.send(fetch).await?;
        }
        Err(refusal) => {
            counts.refused += 1;
            match counts.refused {
                ..=TOLD_MAX => {
                    let (place, reason) = (record.place, printable(&refusal.reason));
                    say(format_args!("{place}: {}: {reason}", refusal.code));
                }
                count if count == TOLD_MAX + 1 => {
                    say(format_args!("further refusals are counted only"));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn tell_counts(counts: &Counts) {
    let Counts { new, duplicate, refused, unconfirmed, seconds, .. } = counts;
    say(format_args!(
        "{} new, {} duplicate, {} refused in {seconds:.1} s",
        number(*new),
        number(*duplicate),
        number(*refused)
    ));
    if *unconfirmed > 0 {
        say(format_args!("{} were not confirmed; publish the same again", number(*unconfirmed)));
    }
}

fn read_all(
    plan: &Plan,
    inputs: Vec<(PathBuf, Format)>,
    tell: &mpsc::Sender<anyhow::Result<Record>>,
) {
    for (path, format) in inputs {
        if let Err(error) = read_one(plan, &path, format, tell) {
            // Nobody listens any more once publishing has failed.
            let _heard = tell.blocking_send(Err(error));
            return;
        }
    }
}

fn read_one(
    plan: &Plan,
    path: &Path,
    format: Format,
    tell: &mpsc::Sender<anyhow::Result<Record>>,
) -> anyhow::Result<()> {
    let input: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        let file = File::open(path)
            .with_context(|| format!("{}: open {}", Code::InputUnreadable, shown(path)))?;
        Box::new(file)
    };
    for record in read(plan, &shown(path), format, input)? {
        if tell.blocking_send(Ok(record?)).is_err() {
            return Ok(());
        }
    }
    Ok(())
}
