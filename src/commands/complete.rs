//! `tollgate complete`: which days of which accounts are in the store, and which are not.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use jiff::civil::Date;
use serde::Serialize;
use tokio::time::Instant;
use tollgate_actors::clock::Clock;
use tollgate_actors::codes::Code;
use tollgate_actors::complete::{Asked, Board, Cell, State};
use tollgate_actors::control::{Answer, ROWS_MAX, Request};
use tollgate_actors::install_tls;
use tollgate_actors::plan::{Plan, StoreTarget};
use tollgate_actors::queue::Letter;
use tollgate_actors::store::Store;

use super::place::Place;
use super::status::printable;
use super::{Exit, plan, shown};
use crate::cli::{CellState, CompleteArgs, Global};
use crate::ui::{number, print, say};

/// How often it is said how far it is, to a terminal.
const SAY_EVERY: Duration = Duration::from_secs(2);

/// Cells of each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
struct Counts {
    present: u64,
    missing: u64,
    dead: u64,
    again: u64,
}

impl Counts {
    fn add(&mut self, state: State) {
        *match state {
            State::Present => &mut self.present,
            State::Missing => &mut self.missing,
            State::Dead => &mut self.dead,
            State::Again => &mut self.again,
        } += 1;
    }
}

pub(crate) fn run(global: &Global, args: &CompleteArgs) -> anyhow::Result<Exit> {
    let Some(plan) = plan(global) else { return Ok(Exit::Usage) };
    if let StoreTarget::File(folder) = &plan.store.target
        && !folder.is_dir()
    {
        bail!("{}: there is no folder {}", Code::StoreUnavailable, shown(folder));
    }
    let asked = asked(args)?;
    install_tls();
    let plan = Arc::new(plan);
    let mut board = Board::new(&plan, &asked)?;
    let to_terminal = std::io::stderr().is_terminal();
    let mut said = Instant::now();
    let mut moves = |count| {
        if to_terminal && said.elapsed() >= SAY_EVERY {
            said = Instant::now();
            say(format_args!("{} manifests", number(count)));
        }
    };
    actix_rt::System::new().block_on(async {
        let store = Store::open(&plan)?;
        anyhow::Ok(board.read(&plan, &store, &mut moves).await?)
    })?;
    letters(&plan, args.local, &mut board)?;
    let counts = tell(&board, args)?;
    if board.undated > 0 {
        let undated = number(board.undated);
        say(format_args!("tollgate: {undated} fetches do not say which day they are of"));
    }
    let wrong = counts.missing + counts.dead > 0;
    Ok(if wrong && args.fetches.is_none() { Exit::Failed } else { Exit::Done })
}

fn asked(args: &CompleteArgs) -> anyhow::Result<Asked> {
    let (platform, api) = match args.of.as_deref().map(|of| of.split_once('/').unwrap_or((of, "")))
    {
        Some((platform, api)) => {
            (Some(platform.to_owned()), Some(api.to_owned()).filter(|api| !api.is_empty()))
        }
        None => (None, None),
    };
    let day = |flag: &str, text: &Option<String>| {
        let day = text.as_ref().map(|text| text.parse::<Date>());
        day.transpose().with_context(|| format!("{flag}: a day is written as 2026-11-20"))
    };
    let accounts = match &args.accounts {
        None => None,
        Some(file) => {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("{}: read {}", Code::InputUnreadable, shown(file)))?;
            let names = text.lines().map(str::trim).filter(|name| !name.is_empty());
            Some(names.map(str::to_owned).collect())
        }
    };
    let (from, to) = (day("--from", &args.from)?, day("--to", &args.to)?);
    Ok(Asked { platform, api, accounts, from, to })
}

/// Takes in the fetches that were given up, where there is a queue to ask.
fn letters(plan: &Arc<Plan>, local: bool, board: &mut Board<'_>) -> anyhow::Result<()> {
    if !plan.nats.declared && !plan.state().exists() {
        say(format_args!(
            "tollgate: {} has no state: nothing is known of fetches that were given up",
            shown(&plan.data)
        ));
        return Ok(());
    }
    let place = Place::open(Arc::clone(plan), local)?;
    let read = (|| {
        let mut after = None;
        loop {
            let letters: Vec<Letter> = match place.ask(&Request::Dead { after, most: ROWS_MAX })? {
                Answer::Dead(letters) => letters,
                _ => bail!("the running node gave another answer: is it of another version?"),
            };
            let Some(last) = letters.last() else { return Ok(()) };
            after = Some(last.number.0);
            for letter in &letters {
                board.dead(&letter.dead)?;
            }
        }
    })();
    place.close();
    read
}

fn tell(board: &Board<'_>, args: &CompleteArgs) -> anyhow::Result<Counts> {
    let mut all = Counts::default();
    let mut apis: BTreeMap<(String, String), Counts> = BTreeMap::new();
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut printed: anyhow::Result<()> = Ok(());
    let fetches = args.fetches.as_ref().map(|states| {
        let usual = [CellState::Missing, CellState::Again];
        if states.is_empty() { usual.to_vec() } else { states.clone() }
    });
    let (mut shown, mut beyond) = (0_usize, 0_u64);
    if args.csv {
        writeln!(out, "platform,api,account,day,state,fetched_at,code")?;
    }
    let mut csv = csv::WriterBuilder::new().has_headers(false).from_writer(Vec::new());
    board.cells(Clock::new().wall(), &mut |cell, declared| {
        all.add(cell.state);
        let of = (cell.platform.clone(), cell.api.clone());
        apis.entry(of).or_default().add(cell.state);
        if printed.is_err() {
            return;
        }
        let wanted = !args.gaps || cell.state != State::Present;
        printed = (|| {
            if let Some(states) = &fetches {
                let is_wanted = |of| states.iter().any(|state| state.is(of));
                beyond += u64::from(is_wanted(cell.state) && declared.is_beyond(&cell));
                for fetch in declared.fetches(&cell, is_wanted) {
                    serde_json::to_writer(&mut out, &fetch)?;
                    writeln!(out)?;
                }
            } else if args.json && wanted {
                serde_json::to_writer(&mut out, &cell)?;
                writeln!(out)?;
            } else if args.csv && wanted {
                let at = cell.fetched_at.map_or_else(String::new, |at| at.to_string());
                let (day, code) = (cell.day.to_string(), cell.code.as_deref().unwrap_or_default());
                let Cell { platform, api, account, state, .. } = &cell;
                csv.write_record([platform, api, account, &day, state.as_str(), &at, code])?;
                csv.flush()?;
                out.write_all(csv.get_ref())?;
                csv = csv::WriterBuilder::new().has_headers(false).from_writer(Vec::new());
            } else if !args.json && !args.csv && cell.state != State::Present {
                shown += 1;
                if shown <= args.most {
                    let Cell { platform, api, account, day, state, code, .. } = &cell;
                    let code = code.as_deref().map_or_else(String::new, |code| format!("  {code}"));
                    let account = printable(account);
                    writeln!(out, "{:<8} {day}  {platform}/{account} {api}{code}", state.as_str())?;
                }
            }
            Ok(())
        })();
    })?;
    printed?;
    out.flush()?;
    drop(out);
    if beyond > 0 {
        let days = number(beyond);
        say(format_args!(
            "tollgate: {days} days have no fetch here: what `complete.params` says is not enough for one (tollgate check)"
        ));
    }
    if args.json && fetches.is_none() {
        print(format_args!("{}", serde_json::to_string(&all)?))?;
    } else if !args.csv && fetches.is_none() {
        if shown > args.most {
            print(format_args!(
                "… and {} more: --most, --json, --csv",
                number((shown - args.most) as u64)
            ))?;
        }
        table(&apis)?;
    }
    Ok(all)
}

fn table(apis: &BTreeMap<(String, String), Counts>) -> std::io::Result<()> {
    if apis.is_empty() {
        return print(format_args!(
            "nothing is expected: no account is known, or no first day (--accounts, --from)"
        ));
    }
    let names: Vec<String> =
        apis.keys().map(|(platform, api)| format!("{platform}/{api}")).collect();
    let wide = names.iter().map(String::len).max().unwrap_or(0);
    print(format_args!(
        "{:<wide$}  {:>12} {:>12} {:>12} {:>12}",
        "", "present", "missing", "dead", "again"
    ))?;
    for (name, counts) in names.iter().zip(apis.values()) {
        let Counts { present, missing, dead, again } = *counts;
        let [present, missing, dead, again] = [present, missing, dead, again].map(number);
        print(format_args!("{name:<wide$}  {present:>12} {missing:>12} {dead:>12} {again:>12}"))?;
    }
    Ok(())
}
