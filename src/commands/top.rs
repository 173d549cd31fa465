//! `tollgate top`: what waits and what goes, live in a terminal.
//!
//! Two threads: one asks, one draws and hears keys, so that neither a node that does not answer nor a slow terminal holds
//! up the other. One question is on its way at a time; what is told is drawn when it comes, and again when a key is
//! pressed or the terminal changes its size. What is to be drawn is made of [`state::State`] alone.

mod screen;
mod state;

use std::io::{IsTerminal, stdin, stdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEventKind};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tollgate_actors::clock::Clock;
use tollgate_actors::control::{Answer, Request};
use tollgate_actors::plan::Plan;

use self::state::{Action, Question, State, Told};
use super::place::Place;
use super::{Exit, plan};
use crate::cli::{Global, TopArgs};

/// How long a key is waited for before signals and answers are looked at.
const LOOK: Duration = Duration::from_millis(50);
/// Dead letters that are shown.
const LETTERS: usize = 100;

pub(crate) fn run(global: &Global, args: &TopArgs) -> anyhow::Result<Exit> {
    if !(stdin().is_terminal() && stdout().is_terminal()) {
        bail!(
            "`top` draws on a terminal, and this is none; `tollgate status --json` tells programs the same"
        );
    }
    let Some(plan) = plan(global) else { return Ok(Exit::Usage) };
    let asker = Asker::start(Arc::new(plan), args.local)?;
    let stop = stops_on_signals();
    let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let every = Duration::from_secs_f64(args.every);
    // A panic restores the terminal before it is told: `try_init` sees to that.
    let mut terminal = ratatui::try_init().context("take over the terminal")?;
    let ended = follow(&mut terminal, &asker, &stop, every, State::new(colour));
    ratatui::restore();
    ended.map(|()| Exit::Done)
}

/// Draws and hears keys until it is told to end.
fn follow(
    terminal: &mut DefaultTerminal,
    asker: &Asker,
    stop: &AtomicBool,
    every: Duration,
    mut state: State,
) -> anyhow::Result<()> {
    let clock = Clock::new();
    let (mut asking, mut next, mut draw) = (false, Instant::now(), true);
    while !stop.load(Ordering::Relaxed) {
        match asker.told.try_recv() {
            Ok(told) => {
                asking = false;
                next = Instant::now() + every;
                state.hear(told);
                draw = true;
            }
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => bail!("whoever asks has ended"),
        }
        if !asking && (state.is_curious() || Instant::now() >= next) {
            asking = asker.questions.try_send(state.question()).is_ok();
        }
        if draw {
            terminal.draw(|frame| screen::draw(frame, &mut state, clock.wall()))?;
            draw = false;
        }
        if !event::poll(LOOK)? {
            continue;
        }
        match event::read()? {
            Event::Key(key) if key.kind != KeyEventKind::Release => {
                if state.press(key) == Action::Quit {
                    return Ok(());
                }
                draw = true;
            }
            Event::Resize(..) => draw = true,
            _ => {}
        }
    }
    Ok(())
}

/// SIGTERM, SIGINT from outside and a closed terminal end it like `q`.
fn stops_on_signals() -> Arc<AtomicBool> {
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let Ok(runtime) = runtime else { return };
        runtime.block_on(async {
            let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
            let [Ok(mut term), Ok(mut int), Ok(mut hup)] = kinds.map(signal) else { return };
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
                _ = hup.recv() => {}
            }
            told.store(true, Ordering::Relaxed);
        });
    });
    stop
}

/// The thread that asks.
struct Asker {
    /// One at a time; a second one is not put.
    questions: SyncSender<Question>,
    told: Receiver<Told>,
}

impl Asker {
    /// Connects, or says why that cannot be.
    fn start(plan: Arc<Plan>, local: bool) -> anyhow::Result<Self> {
        let (questions, asked) = sync_channel::<Question>(1);
        let (tell, told) = sync_channel::<Told>(1);
        let (is_there, there) = sync_channel(1);
        thread::spawn(move || {
            let place = match Place::open(Arc::clone(&plan), local) {
                Ok(place) => place,
                Err(error) => {
                    // Whoever waits for that is there: it has not begun yet.
                    let _told = is_there.send(Err(error));
                    return;
                }
            };
            let _told = is_there.send(Ok(()));
            let mut place = Some(place);
            for question in asked {
                let told =
                    match place.take().map_or_else(|| Place::open(Arc::clone(&plan), local), Ok) {
                        Ok(open) => {
                            let told = ask(&open, &question);
                            // A folder is left free between two questions, for a node that starts; and of one that has
                            // ended the folder is asked next.
                            if open.is_at_rest() || (told.error.is_some() && open.is_folder()) {
                                open.close();
                            } else {
                                place = Some(open);
                            }
                            told
                        }
                        Err(error) => Told {
                            of: question.accounts,
                            error: Some(format!("{error:#}")),
                            ..Told::default()
                        },
                    };
                if tell.send(told).is_err() {
                    break;
                }
            }
            if let Some(place) = place {
                place.close();
            }
        });
        there.recv().unwrap_or_else(|_| Err(anyhow!("whoever asks has ended")))?;
        Ok(Self { questions, told })
    }
}

fn ask(place: &Place, question: &Question) -> Told {
    let mut told = Told { of: question.accounts.clone(), ..Told::default() };
    if let Some(hold) = &question.hold {
        let scope = hold.scope().map_err(|reason| anyhow!(reason));
        let done = scope.and_then(|scope| place.hold(&scope, hold.begins));
        told.note = Some(match done {
            Ok(note) => note,
            Err(error) => format!("{error:#}"),
        });
    }
    let asked = (|| {
        if let Answer::Overview(overview) = place.ask(&Request::Overview)? {
            told.overview = Some(*overview);
        }
        if let Answer::Accounts(page) = place.ask(&Request::Accounts(question.accounts.clone()))? {
            told.page = Some(page);
        }
        if let Some(of) = &question.account {
            let (platform, account) = of.clone();
            if let Answer::Account(view) = place.ask(&Request::Account { platform, account })? {
                told.account = Some((of.clone(), view));
            }
        }
        if question.dead
            && let Answer::Dead(letters) =
                place.ask(&Request::Dead { after: None, most: LETTERS })?
        {
            told.dead = Some(letters);
        }
        anyhow::Ok(())
    })();
    told.error = asked.err().map(|error| format!("{error:#}"));
    told.silent = place.silent();
    told
}
