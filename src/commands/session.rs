//! A node at work until its inputs are collected or it is told to stop: what `run` and `demo` share.

use std::fs::File;
use std::io::{BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tollgate_actors::auth::vault::FileVault;
use tollgate_actors::clock::Clock;
use tollgate_actors::cluster::Owned;
use tollgate_actors::codes::Code;
use tollgate_actors::control::{self, Desk, Lettered};
use tollgate_actors::health::Health;
use tollgate_actors::intake::{Taken, take_lines};
use tollgate_actors::ledger::embedded::EmbeddedLedger;
use tollgate_actors::levels::Levels;
use tollgate_actors::node::{Intake, Node, Seams};
use tollgate_actors::plan::{HttpPlan, InForce, Plan};
use tollgate_actors::queue::Queue;
use tollgate_actors::queue::embedded::EmbeddedQueue;
use tollgate_actors::state::State;
use tollgate_actors::store::{keep_clean, keep_lines};
use tollgate_actors::telemetry::Summary;

use super::folder::open_state;
use super::open_store::open_store;
use super::reload::Watched;
use super::stage::Staging;
use super::{Exit, shown};
use crate::http::{self, Counter};
use crate::ui::{Progress, say};

/// How often it is looked whether all is done, and the progress is shown.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const SHOW_EVERY: Duration = Duration::from_millis(250);
/// Files that are open beside connections: database, objects on their way, logs.
const FILES_BESIDE: u64 = 512;
/// What the last line may take to be written before the process ends.
const LAST_WORD: Duration = Duration::from_millis(50);
/// Bytes of an input that are read at once.
const INPUT_BYTES: usize = 256 * 1024;
/// How long a node with nothing left, and one that has broken down, may take to end.
const QUIET_WITHIN: Duration = Duration::from_secs(5);
const BROKEN_WITHIN: Duration = Duration::from_secs(1);
/// A node without an ended fetch for so long has its queue counted anew.
const RECOUNT_AFTER: Duration = Duration::from_secs(5);

/// Where fetches come from.
#[derive(Debug, Clone)]
pub(crate) enum Input {
    /// A file, or `-`.
    File(PathBuf),
    /// Lines that are made here.
    Lines(Arc<[u8]>),
}

/// How a session went.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) summary: Summary,
    pub(crate) exit: Exit,
}

/// Works until all is collected, or until it is told to stop. `watched` is the configuration to follow meanwhile,
/// `listen` where the page is shown.
pub(crate) async fn work(
    mut plan: Plan,
    watched: Option<Watched>,
    inputs: Vec<Input>,
    progress: &mut Progress,
    levels: Levels,
    listen: Option<SocketAddr>,
) -> anyhow::Result<Report> {
    let as_read = plan.clone();
    fit_open_files(&mut plan);
    let plan = Arc::new(plan);
    let staging = Staging::of(&plan)?;
    let stop = Stop::listen()?;
    let watched = watched.map(Watched::listen).transpose()?;
    let started = Instant::now();
    let clock = Clock::new();
    let health = Health::new(clock.clone());
    // Before the node: its metrics are recorded from the start.
    let token = plan.http.as_ref().and_then(|http| http.token.clone());
    let server = listen.map(|listen| HttpPlan { listen, token });
    let server = http::start(server.as_ref(), Arc::clone(&health))?;
    let state = open_state(&plan).await?;
    let store = open_store(&plan).await?;
    let mut queue: Arc<dyn Queue> = Arc::new(EmbeddedQueue::new(&state));
    if let Some(staging) = &staging {
        queue = staging.hear(queue);
    }
    let ledger = Arc::new(EmbeddedLedger::new(&state));
    let vault = Arc::new(FileVault::new(&plan.state()));
    let seams = Seams { vault, ..Seams::new(queue, ledger, store.clone()) };
    let sweep = keep_clean(store.clone(), &plan);
    let lines = actix_rt::spawn(keep_lines(store.clone(), &plan));
    let mut node = Node::start(Arc::clone(&plan), seams, clock.clone()).await?;
    let following =
        watched.map(|watched| watched.follow(node.reloader(as_read), levels.clone(), stop.clone()));
    let owned = Owned::default();
    let staging = staging.map(|staging| staging.start(store.clone(), owned.clone(), None));
    let staging = staging.transpose()?;
    let desk = Desk {
        plan: node.plan(),
        viewer: node.viewer(),
        examiner: node.examiner(),
        intake: node.intake(),
        owned,
        levels,
        lettered: Lettered::default(),
    };
    if let Some(server) = &server {
        node.report_to(&health);
        server.attend(Some(Counter::new(desk.clone(), None)));
        say(format_args!("the page is at http://{}/", server.addr()));
    }
    let control = match control::serve(&plan.state(), desk) {
        Ok(serving) => Some(actix_rt::spawn(serving)),
        Err(error) => {
            say(format_args!("tollgate: `status` cannot ask this run while it works: {error}"));
            None
        }
    };
    let sweep = actix_rt::spawn(sweep);
    let reading = read_all(inputs, node.plan(), node.intake(), clock.clone(), stop.asked.clone());
    let outcome = watch(&node, &state, reading, &stop, progress).await;
    progress.clear();
    if let Some(following) = following {
        following.abort();
    }
    let totals = node.totals();
    let unknown = node.unknown();
    let within = match &outcome {
        Ok(Ended { all: false, .. }) => plan.collect.drain,
        Ok(_) => QUIET_WITHIN,
        // Nothing that ends now can be written down any more.
        Err(_) => BROKEN_WITHIN,
    };
    let is_all = matches!(&outcome, Ok(Ended { all: true, .. }));
    if let Some(staging) = staging.as_ref().filter(|_| !is_all) {
        staging.stop();
    }
    let broken_off = node.drain(within).await;
    match staging {
        Some(staging) if is_all => staging.finish(stop.asked()).await,
        Some(staging) => staging.end().await,
        None => {}
    }
    sweep.abort();
    lines.abort();
    store.end_lines().await;
    if let Some(control) = control {
        control.abort();
    }
    if let Some(server) = server {
        server.stop();
    }
    state.close().await;
    let ended = outcome?;
    let left = totals.outstanding();
    // What was found there, what came in, less what was there already: however far the reading got, it is
    // what has ended and what is left.
    let Taken { done, dead, refused, .. } = ended.read.taken;
    let done = totals.fetches_done.get() + done;
    let dead = totals.fetches_dead.get() + dead + refused;
    let summary = Summary {
        fetches: done + dead + left,
        done,
        dead,
        left,
        calls: totals.calls.get(),
        refused: totals.refused.get(),
        objects: totals.objects.get(),
        bytes: totals.bytes.get(),
        seconds: (started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
        limits: totals.limit_use(),
    };
    if broken_off > 0 {
        say(format_args!(
            "{broken_off} calls were broken off; they are made again at the next run"
        ));
    }
    if unknown > 0 {
        say(format_args!("{unknown} fetches wait for apis that this configuration does not have"));
    }
    if !ended.read.whole {
        say(format_args!("not all that was given has been read; run again with the same files"));
    }
    let exit = match (left, summary.dead) {
        _ if !ended.read.whole => Exit::Left,
        (1.., _) => Exit::Left,
        (0, 1..) => Exit::Failed,
        (0, 0) => Exit::Done,
    };
    Ok(Report { summary, exit })
}

/// How far the inputs were read.
#[derive(Debug, Clone, Copy, Default)]
struct Reading {
    taken: Taken,
    whole: bool,
}

/// Why the watch ended.
struct Ended {
    read: Reading,
    all: bool,
}

async fn watch(
    node: &Node,
    state: &State,
    reading: impl Future<Output = anyhow::Result<Reading>>,
    stop: &Stop,
    progress: &mut Progress,
) -> anyhow::Result<Ended> {
    let totals = node.totals();
    let mut reading = std::pin::pin!(reading);
    let mut read: Option<Reading> = None;
    let mut shown_at = Instant::now();
    let (mut seen, mut still_since) = (0, Instant::now());
    loop {
        tokio::select! {
            done = &mut reading, if read.is_none() => {
                read = Some(done?);
                totals.inputs_read();
            }
            error = node.died() => return Err(error.into()),
            () = stop.notified(), if !stop.was_asked() => {}
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        if stop.was_asked() {
            say(format_args!("stopping: calls in flight end, the rest stays for the next run"));
            return Ok(Ended { read: read.unwrap_or_default(), all: false });
        }
        if let Some(reason) = state.failed() {
            bail!(
                "{}: the state folder takes nothing any more: {reason}; nothing that was confirmed is \
                 lost, make room and run again",
                Code::StateUnreadable
            );
        }
        let outstanding = totals.outstanding();
        let ended = totals.fetches_done.get() + totals.fetches_dead.get();
        if ended != seen {
            (seen, still_since) = (ended, Instant::now());
        }
        let quiet = outstanding <= node.unknown() || still_since.elapsed() >= RECOUNT_AFTER;
        if let Some(read) = read
            && quiet
        {
            // The queue has the last word.
            still_since = Instant::now();
            if node.recount().await.is_ok_and(|waiting| waiting <= node.unknown()) {
                return Ok(Ended { read, all: true });
            }
        }
        if shown_at.elapsed() >= SHOW_EVERY {
            shown_at = Instant::now();
            let note = if read.is_some() { "" } else { "(reading)" };
            progress.show(&totals, ended + outstanding, note);
        }
    }
}

/// Reads the inputs one after the other, on a thread that may block. It is not one of the runtime's, which
/// would wait for it at the end: standard input may stay open without a word.
async fn read_all(
    inputs: Vec<Input>,
    plan: InForce,
    intake: Intake,
    clock: Clock,
    asked: Arc<AtomicBool>,
) -> anyhow::Result<Reading> {
    let wait = tokio::runtime::Handle::current();
    let read = move || {
        let mut sum = Taken::default();
        for input in inputs {
            let (name, lines) = open_input(&input)?;
            let go_on = || !asked.load(Ordering::Acquire);
            let taken = take_lines(&plan, &intake, &clock, &name, lines, &wait, go_on)
                .with_context(|| format!("{}: read {name}", Code::InputUnreadable))?;
            sum.add(taken);
            if asked.load(Ordering::Acquire) {
                return anyhow::Ok(Reading { taken: sum, whole: false });
            }
        }
        anyhow::Ok(Reading { taken: sum, whole: true })
    };
    let (tell, told) = oneshot::channel();
    let read = move || {
        // Nobody listens any more once the run was told to stop.
        let _heard = tell.send(read());
    };
    std::thread::Builder::new().name("intake".into()).spawn(read).context("start a thread")?;
    told.await.context("read the fetches")?
}

fn open_input(input: &Input) -> anyhow::Result<(String, BufReader<Box<dyn Read>>)> {
    let (name, input): (_, Box<dyn Read>) = match input {
        Input::Lines(lines) => ("demo".into(), Box::new(std::io::Cursor::new(Arc::clone(lines)))),
        Input::File(path) if path == Path::new("-") => ("-".into(), Box::new(std::io::stdin())),
        Input::File(path) => {
            let file = File::open(path)
                .with_context(|| format!("{}: open {}", Code::InputUnreadable, shown(path)))?;
            (shown(path), Box::new(file))
        }
    };
    Ok((name, BufReader::with_capacity(INPUT_BYTES, input)))
}

/// Each call needs a file for its socket. As many as the system allows are asked for; where that is not
/// enough, fewer calls are made at a time.
pub(crate) fn fit_open_files(plan: &mut Plan) {
    // In flight, and as many idle ones in each shard.
    let each = plan.collect.shards as u64 + 1;
    let wanted = plan.collect.concurrency as u64 * each + FILES_BESIDE;
    let allowed = rlimit::increase_nofile_limit(wanted).unwrap_or(1024);
    if allowed < wanted {
        let room = allowed.saturating_sub(FILES_BESIDE.min(allowed / 2)) / each;
        let fits = usize::try_from(room.max(1)).unwrap_or(usize::MAX);
        if fits < plan.collect.concurrency {
            say(format_args!(
                "tollgate: warning: {}: only {allowed} open files are allowed, so collect.concurrency \
                 is {fits} instead of {}",
                Code::TooFewFiles,
                plan.collect.concurrency
            ));
            plan.collect.concurrency = fits;
        }
    }
}

/// Whether somebody asked to stop: SIGTERM or SIGINT. A second one ends the process at once.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    asked: Arc<AtomicBool>,
    told: Arc<Notify>,
}

impl Stop {
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let stop = Self { asked: Arc::default(), told: Arc::default() };
        let (asked, told) = (stop.asked.clone(), stop.told.clone());
        let mut term = signal(SignalKind::terminate()).context("listen to SIGTERM")?;
        let mut int = signal(SignalKind::interrupt()).context("listen to ctrl-C")?;
        actix_rt::spawn(async move {
            loop {
                tokio::select! {
                    _ = term.recv() => {}
                    _ = int.recv() => {}
                }
                if asked.swap(true, Ordering::AcqRel) {
                    say(format_args!("stopped at once; what was in flight is made again"));
                    tokio::time::sleep(LAST_WORD).await;
                    #[expect(clippy::disallowed_methods, reason = "asked for twice")]
                    std::process::exit(Exit::Left as i32);
                }
                told.notify_waiters();
            }
        });
        Ok(stop)
    }

    /// As the first signal does.
    pub(crate) fn ask(&self) {
        self.asked.store(true, Ordering::Release);
        self.told.notify_waiters();
    }

    fn was_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }

    /// Waits until somebody asked.
    pub(crate) async fn asked(&self) {
        loop {
            let told = self.told.notified();
            if self.was_asked() {
                return;
            }
            told.await;
        }
    }

    async fn notified(&self) {
        self.told.notified().await;
    }
}
