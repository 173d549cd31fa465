//! `tollgate logs`: JSON logs as a supervision tree. Reads line by line, in bounded memory, and steps over what is
//! no line of a node.

mod reading;
mod seen;
mod tree;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::Context;

use super::{Exit, shown};
use crate::cli::LogsArgs;
use crate::ui::print;
use reading::{Input, Piece};
use seen::Seen;

/// How often the tree is shown anew.
const SHOW_EVERY: Duration = Duration::from_secs(1);
/// Lines that wait to be looked at; then reading waits.
const LINES_MAX: usize = 1024;

pub(crate) fn run(args: &LogsArgs) -> anyhow::Result<Exit> {
    let stdin = [PathBuf::from("-")];
    let files: &[PathBuf] = if args.files.is_empty() { &stdin } else { &args.files };
    let mut inputs = Vec::new();
    for file in files {
        let opened = Input::open(file, args.follow);
        inputs.push((named(file), opened.with_context(|| format!("open {}", shown(file)))?));
    }
    let mut seen = Seen::default();
    if args.follow {
        return follow(inputs, seen, args);
    }
    for (name, mut input) in inputs {
        loop {
            match input.next().with_context(|| format!("read {name}"))? {
                Piece::Line(line) => seen.take(&name, &line),
                Piece::TooLong => seen.too_long += 1,
                Piece::End => break,
            }
        }
    }
    show(&seen, args)?;
    Ok(if seen.nodes.is_empty() { Exit::Failed } else { Exit::Done })
}

/// Several logs are told apart by their names, one that is read from standard input has none.
fn named(file: &Path) -> String {
    if file == Path::new("-") { String::new() } else { shown(file) }
}

/// Reads on until it is told to stop, or until nothing more can come.
fn follow(inputs: Vec<(String, Input)>, mut seen: Seen, args: &LogsArgs) -> anyhow::Result<Exit> {
    let (tell, told) = mpsc::sync_channel(LINES_MAX);
    for (name, mut input) in inputs {
        let tell = tell.clone();
        let read = move || {
            loop {
                let piece = input.next();
                let ends = !matches!(piece, Ok(Piece::Line(_) | Piece::TooLong));
                if tell.send((name.clone(), piece)).is_err() || ends {
                    return;
                }
            }
        };
        std::thread::Builder::new().name("read".into()).spawn(read).context("start a thread")?;
    }
    drop(tell);
    let terminal = std::io::stdout().is_terminal();
    let (mut changed, mut due) = (true, tokio::time::Instant::now());
    loop {
        let left = due.saturating_duration_since(tokio::time::Instant::now());
        let ended = match told.recv_timeout(left) {
            Ok((name, piece)) => {
                match piece.with_context(|| format!("read {name}"))? {
                    Piece::Line(line) => seen.take(&name, &line),
                    Piece::TooLong => seen.too_long += 1,
                    Piece::End => {}
                }
                changed = true;
                false
            }
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => true,
        };
        if ended || tokio::time::Instant::now() >= due {
            if changed {
                if terminal && !args.json {
                    // From the top of an empty screen.
                    write!(std::io::stdout().lock(), "\x1b[2J\x1b[H")?;
                }
                show(&seen, args)?;
                std::io::stdout().lock().flush()?;
            }
            changed = false;
            due = tokio::time::Instant::now() + SHOW_EVERY;
        }
        if ended {
            return Ok(if seen.nodes.is_empty() { Exit::Failed } else { Exit::Done });
        }
    }
}

fn show(seen: &Seen, args: &LogsArgs) -> anyhow::Result<()> {
    if args.json {
        print(format_args!("{}", serde_json::to_string(seen)?))?;
    } else {
        print(format_args!("{}", tree::of(seen, args.most).trim_end()))?;
    }
    Ok(())
}
