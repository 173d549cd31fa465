//! `tollgate dead`: fetches that were given up.

use std::sync::Arc;

use anyhow::bail;
use tollgate_actors::control::{Answer, ROWS_MAX, Request};
use tollgate_actors::queue::Letter;

use super::place::Place;
use super::status::printable;
use super::{Exit, plan};
use crate::cli::{DeadArgs, DeadChoice, DeadCommand, Global};
use crate::ui::{number, print, say};

pub(crate) fn run(global: &Global, args: &DeadArgs) -> anyhow::Result<Exit> {
    let Some(plan) = plan(global) else { return Ok(Exit::Usage) };
    let place = Place::open(Arc::new(plan), args.local)?;
    let exit = match &args.command {
        DeadCommand::List { after, most, json } => list(&place, *after, *most, *json),
        DeadCommand::Show { seq, json } => show(&place, *seq, *json),
        DeadCommand::Replay(choice) => revive(&place, choice, true),
        DeadCommand::Drop(choice) => revive(&place, choice, false),
    };
    place.close();
    exit
}

fn page(place: &Place, after: Option<u64>, most: usize) -> anyhow::Result<Vec<Letter>> {
    match place.ask(&Request::Dead { after, most })? {
        Answer::Dead(dead) => Ok(dead),
        _ => bail!("the running node gave another answer: is it of another version?"),
    }
}

fn list(place: &Place, mut after: Option<u64>, most: usize, json: bool) -> anyhow::Result<Exit> {
    let mut left = most;
    let mut shown = 0;
    while left > 0 {
        let letters = page(place, after, left)?;
        let Some(last) = letters.last() else { break };
        after = Some(last.number.0);
        left -= letters.len().min(left);
        for letter in letters {
            shown += 1;
            if json {
                print(format_args!("{}", serde_json::to_string(&letter)?))?;
            } else {
                print(format_args!("{}", line(&letter)))?;
            }
        }
    }
    if shown == 0 && !json {
        say(format_args!("no dead letters"));
    } else if left == 0 && !json {
        say(format_args!("that may not be all: --most shows more, --after goes on"));
    }
    Ok(Exit::Done)
}

fn line(Letter { number, dead: letter }: &Letter) -> String {
    let what = match &letter.fetch {
        Some(fetch) => format!(
            "{}/{} {} {}",
            fetch.platform.as_deref().unwrap_or("?"),
            fetch.account.as_deref().unwrap_or("?"),
            fetch.api.as_deref().unwrap_or("?"),
            fetch.id.as_deref().unwrap_or("?"),
        ),
        None => letter.source.clone().unwrap_or_else(|| "?".into()),
    };
    format!("{:>8}  {}  {}  {}", number.0, letter.code, printable(&what), printable(&letter.reason))
}

fn show(place: &Place, seq: u64, json: bool) -> anyhow::Result<Exit> {
    let letters = page(place, seq.checked_sub(1), 1)?;
    let Some(letter) = letters.into_iter().find(|letter| letter.number.0 == seq) else {
        bail!("there is no dead letter {seq}; `tollgate dead list` shows them");
    };
    let text =
        if json { serde_json::to_string(&letter)? } else { serde_json::to_string_pretty(&letter)? };
    print(format_args!("{text}"))?;
    if !json {
        say(format_args!("`tollgate explain {}` says what to do", letter.dead.code));
    }
    Ok(Exit::Done)
}

fn revive(place: &Place, choice: &DeadChoice, replay: bool) -> anyhow::Result<Exit> {
    let (mut done, mut failed) = (0_u64, 0_u64);
    let mut one = |place: &Place, seq: u64| match place.ask(&Request::Revive { seq, replay }) {
        Ok(Answer::Revived(true)) => done += 1,
        Ok(_) => {
            failed += 1;
            say(format_args!("{seq}: there is no such dead letter"));
        }
        Err(error) => {
            failed += 1;
            say(format_args!("{seq}: {error:#}"));
        }
    };
    if choice.all {
        let mut after = None;
        // What dies anew meanwhile has higher numbers: bounded by what is there now.
        let mut seqs = Vec::new();
        loop {
            let letters = page(place, after, ROWS_MAX)?;
            let Some(last) = letters.last() else { break };
            after = Some(last.number.0);
            seqs.extend(letters.iter().map(|letter| letter.number.0));
        }
        for seq in seqs {
            one(place, seq);
        }
    } else {
        for seq in &choice.seqs {
            one(place, *seq);
        }
    }
    let what = if replay { "put back" } else { "dropped" };
    say(format_args!("{} {what}, {} not", number(done), number(failed)));
    if let Some(command) = place.collected_by().filter(|_| replay && done > 0) {
        say(format_args!("`{command}` collects them"));
    }
    Ok(if failed == 0 { Exit::Done } else { Exit::Failed })
}
