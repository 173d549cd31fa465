//! Staging beside a node: what is collected becomes rows by itself, table by table.
//!
//! One thread does all of it, with the threads that it starts, at the lowest priority: fetching goes first. It hears of
//! what is done, from the node's own queue or from the stream DONE of all nodes, and stages the folders of that after a
//! while. Nothing depends on what was heard: when it begins, when it takes a table over, and when it may have missed
//! something, it looks at all that is there.
//!
//! Of several nodes one follows a table: who owns the partition that the table's name falls into. One that was frozen
//! and does not know yet that it has lost it may stage beside the next for a moment; what both have made is found and
//! put right by the next look ([`super::record::part`]).

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout};
use tollgate_actors::clock::Clock;
use tollgate_actors::cluster::Owned;
use tollgate_actors::ids::Slug;
use tollgate_actors::nats::done::DoneReader;
use tollgate_actors::nats::{Bus, PARTITIONS};
use tollgate_actors::plan::{Plan, StagePlan, StoreTarget};
use tollgate_actors::queue::Queue;
use tollgate_actors::queue::told::Told;
use tollgate_actors::store::{Store, buffer_bytes_for};
use tollgate_actors::supervise::{Restarts, last_panic};
use tollgate_actors::telemetry::{self, Staged};

use super::heard::{ALL_EVERY, Due, Waiting};
use super::record;
use super::stager::{Done, Look, Stager};

/// Between two looks at what was heard.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A look begins no job after so long while other tables wait for theirs.
const LOOK_WITHIN: Duration = Duration::from_secs(2 * 60);
/// How soon a look that is to stop is told.
const STOP_EVERY: Duration = Duration::from_millis(100);
/// How long it may take to stop; what it still does then is done by nobody.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// A table that was taken over is left so long: whoever had it has stopped by then.
const REST_TAKEN: Duration = Duration::from_secs(2 * STOP_WITHIN.as_secs());
/// Rest after a look that failed: the first, doubling up to the longest.
const RETRY_FIRST: Duration = Duration::from_secs(10);
const RETRY_MAX: Duration = Duration::from_secs(10 * 60);
/// Batches of what is done that are read in one turn.
const BATCHES_MAX: usize = 64;
/// Jobs that failed, of one look, that are told one by one.
const FAILED_TOLD_MAX: usize = 10;
/// So many looks that made files are followed by one at all, which puts small files together.
const LOOKS_MAX: u32 = 64;
/// Bodies that there is room for beside those of the node: files in the making, and the quarantine.
const BODIES: u64 = 6;

/// Tables to follow, before the node starts.
pub(crate) struct Staging(Arc<Shared>);

/// What the thread is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    GoOn,
    /// Stage what waits, and end.
    Finish,
    Stop,
}

struct Shared {
    plan: Arc<Plan>,
    tables: Vec<Table>,
}

struct Table {
    name: Slug,
    stage: Arc<StagePlan>,
    /// Who owns this partition follows the table.
    part: u32,
    waiting: Mutex<Waiting>,
}

impl Table {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Staging {
    /// The tables that a configuration follows; None: there are none.
    ///
    /// # Errors
    /// One of them cannot be one.
    pub(crate) fn of(plan: &Arc<Plan>) -> anyhow::Result<Option<Self>> {
        let followed = plan.stages.iter().filter(|(_, stage)| stage.follow.is_some());
        let mut tables = Vec::new();
        for (name, stage) in followed {
            if let Err(reason) = tollgate_stage::check(&stage.table) {
                bail!("stage.{name}: {reason}");
            }
            let mut waiting = Waiting::default();
            waiting.see_all();
            tables.push(Table {
                name: name.clone(),
                stage: Arc::clone(stage),
                part: part_of(name),
                waiting: Mutex::new(waiting),
            });
        }
        let shared = Shared { plan: Arc::clone(plan), tables };
        Ok((!shared.tables.is_empty()).then(|| Self(Arc::new(shared))))
    }

    /// A queue whose done fetches are heard of: all there are, where no other node works.
    pub(crate) fn hear(&self, queue: Arc<dyn Queue>) -> Arc<dyn Queue> {
        let shared = Arc::clone(&self.0);
        let hear = move |done: &tollgate_protos::Done| {
            for table in &shared.tables {
                table.waiting().hear(done, &table.stage.from);
            }
        };
        Arc::new(Told::new(queue, Arc::new(hear)))
    }

    /// Begins. `store` is the node's, used where nobody else can open it; with `bus` what other nodes have done is heard.
    ///
    /// # Errors
    /// No thread can be started.
    pub(crate) fn start(
        self,
        store: Store,
        owned: Owned,
        bus: Option<Bus>,
    ) -> anyhow::Result<Following> {
        let (ask, asked) = watch::channel(Ask::GoOn);
        let (end, ended) = oneshot::channel();
        let work = move || {
            // Only now, on its own thread: what is started from here inherits it.
            lower();
            let follower = Follower { shared: self.0, store, owned, bus, asked };
            follower.supervise();
            // Nobody waits any more where the node ended meanwhile.
            let _heard = end.send(());
        };
        let thread = std::thread::Builder::new().name("stage".to_owned()).spawn(work);
        Ok(Following { ask, ended, _thread: thread.context("start a thread")? })
    }
}

/// Staging at work.
pub(crate) struct Following {
    ask: watch::Sender<Ask>,
    ended: oneshot::Receiver<()>,
    _thread: JoinHandle<()>,
}

impl Following {
    /// Stages what waits and ends, however long that takes, but for `stop`.
    pub(crate) async fn finish(mut self, stop: impl Future<Output = ()>) {
        self.ask.send_replace(Ask::Finish);
        tokio::select! {
            _ = &mut self.ended => {}
            () = stop => self.end().await,
        }
    }

    /// Stops: what is being made is left out, and made by whoever looks next.
    pub(crate) fn stop(&self) {
        self.ask.send_replace(Ask::Stop);
    }

    /// Stops and waits, not for long.
    pub(crate) async fn end(self) {
        self.stop();
        let _ended = timeout(STOP_WITHIN + STOP_EVERY, self.ended).await;
    }
}

/// Gives this thread the least of the processor; only Linux has priorities of threads.
pub(super) fn lower() {
    #[cfg(target_os = "linux")]
    // Where it may not be, it works as before.
    let _lowered = rustix::process::nice(19);
}

/// The partition that a table's name falls into, the same on every node.
fn part_of(name: &Slug) -> u32 {
    let fold = |hash: u32, byte: u8| hash.wrapping_mul(31).wrapping_add(u32::from(byte));
    name.as_str().bytes().fold(0, fold) % PARTITIONS
}

struct Follower {
    shared: Arc<Shared>,
    store: Store,
    owned: Owned,
    bus: Option<Bus>,
    asked: watch::Receiver<Ask>,
}

/// How a table fares here.
#[derive(Debug, Default)]
struct Fares {
    is_ours: bool,
    /// Nothing is looked at before.
    rests_until: Option<Instant>,
    /// The last rest after a failure.
    retry: Option<Duration>,
    /// It was told that another process stages it.
    has_waited: bool,
    /// It was looked at since it was to finish.
    has_finished: bool,
    /// Looks that have made files since all was looked at.
    looks: u32,
}

/// How a look ended.
enum Looked {
    Well,
    Failed,
    Stopped,
}

impl Follower {
    /// Works until it is told to stop, anew after each panic.
    fn supervise(&self) {
        let forget = || self.shared.tables.iter().for_each(|table| table.waiting().see_all());
        let goes_on = || *self.asked.borrow() == Ask::GoOn;
        keep(|rest| self.work(rest), forget, goes_on);
    }

    /// Works on a runtime of its own after a rest.
    fn work(&self, rest: Duration) -> anyhow::Result<()> {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().on_thread_start(lower).build()?;
        let done = runtime.block_on(async {
            let mut asked = self.asked.clone();
            tokio::select! {
                () = sleep(rest) => {}
                _ = asked.wait_for(|ask| *ask != Ask::GoOn) => {}
            }
            self.follow().await
        });
        // What does not stop is nobody's.
        runtime.shutdown_background();
        done
    }

    async fn follow(&self) -> anyhow::Result<()> {
        let clock = Clock::new();
        let store = self.open()?;
        let mut asked = self.asked.clone();
        let mut reader = None;
        let mut is_deaf = false;
        let mut all: Vec<Fares> = self.shared.tables.iter().map(|_| Fares::default()).collect();
        loop {
            let heard = self.hear(&mut reader).await;
            match &heard {
                Err(error) if !is_deaf => telemetry::stage_deaf(&format!("{error:#}")),
                _ => {}
            }
            is_deaf = heard.is_err();
            for (table, fares) in self.shared.tables.iter().zip(&mut all) {
                let ask = *asked.borrow();
                if ask == Ask::Stop {
                    return Ok(());
                }
                self.own(table, fares, is_deaf);
                if fares.is_ours {
                    self.look((table, fares), ask == Ask::Finish, &store, &clock).await;
                    telemetry::stage_lags(&table.name, table.waiting().lag(clock.wall()));
                }
                // Asked before it looked: what was done meanwhile is looked at once more.
                fares.has_finished |= ask == Ask::Finish;
            }
            if all.iter().all(|fares| fares.has_finished) {
                return Ok(());
            }
            tokio::select! {
                () = sleep(LOOK_EVERY) => {}
                changed = asked.changed() => {
                    if changed.is_err() {
                        // The node is gone without a word.
                        return Ok(());
                    }
                }
            }
        }
    }

    /// A store of its own: what staging holds is not the node's to wait for. One in memory is only there.
    fn open(&self) -> anyhow::Result<Store> {
        if matches!(self.shared.plan.store.target, StoreTarget::Memory) {
            return Ok(self.store.clone());
        }
        let mut plan = Plan::clone(&self.shared.plan);
        plan.collect.buffer_bytes_max = buffer_bytes_for(&plan, BODIES);
        // The folder of answers that wait is the node's.
        plan.store.spool_bytes_max = 0;
        Store::open(&plan).context("open the store to stage")
    }

    /// Hears what all nodes have done, where there are others and a table is this one's.
    async fn hear(&self, reader: &mut Option<DoneReader>) -> anyhow::Result<()> {
        let Some(bus) = &self.bus else { return Ok(()) };
        if !self.shared.tables.iter().any(|table| self.owned.is_open(table.part)) {
            *reader = None;
            return Ok(());
        }
        if reader.is_none() {
            *reader = Some(DoneReader::from_now(bus).await?);
            // What came before.
            for table in &self.shared.tables {
                table.waiting().see_all();
            }
        }
        let Some(reader) = reader else { return Ok(()) };
        for _ in 0..BATCHES_MAX {
            let heard = reader.next().await?;
            for table in &self.shared.tables {
                let mut waiting = table.waiting();
                for done in &heard.done {
                    waiting.hear(done, &table.stage.from);
                }
                if heard.has_gap {
                    waiting.see_all();
                }
            }
            if !heard.more {
                break;
            }
        }
        Ok(())
    }

    /// Notes whose the table is now. One that cannot hear takes nothing over.
    fn own(&self, table: &Table, fares: &mut Fares, is_deaf: bool) {
        let is_ours = self.owned.is_open(table.part);
        if is_ours == fares.is_ours || (is_ours && is_deaf) {
            return;
        }
        *fares = Fares { is_ours, ..Fares::default() };
        // What was heard while it was another's, that other may have staged.
        table.waiting().forget();
        if is_ours {
            fares.rests_until = self.bus.as_ref().map(|_| Instant::now() + REST_TAKEN);
            table.waiting().see_all();
            telemetry::stage_follows(&table.name);
        } else {
            telemetry::stage_left(&table.name);
        }
    }

    /// Looks at a table, if it is due; `last`: nothing is waited for any more.
    async fn look(
        &self,
        (table, fares): (&Table, &mut Fares),
        last: bool,
        store: &Store,
        clock: &Clock,
    ) {
        if !last && fares.rests_until.is_some_and(|until| Instant::now() < until) {
            return;
        }
        let Some(due) = table.waiting().due(&table.stage, last) else { return };
        let started = Instant::now();
        let put_back = |due: Due| table.waiting().put_back(due, started);
        let lock = match record::lock(&self.shared.plan.state(), &table.name) {
            Ok(lock) => lock,
            Err(error) => {
                put_back(due);
                if !std::mem::replace(&mut fares.has_waited, true) {
                    telemetry::stage_waits(&table.name, &format!("{error:#}"));
                }
                fares.rests_until = Some(started + RETRY_FIRST);
                return;
            }
        };
        fares.has_waited = false;
        let stop = Arc::new(AtomicBool::new(false));
        let template = self.shared.plan.store.key.text();
        // One thread decodes: whoever collects has the rest.
        let stage = Arc::clone(&table.stage);
        let mut stager = Stager::new(store.clone(), stage, template, Some(1), &stop);
        let is_alone = self.shared.tables.len() == 1;
        stager.until = (!last && !is_alone).then(|| started + LOOK_WITHIN);
        let done = tokio::select! {
            done = stager.run(false, due.look.clone()) => Some(done),
            () = self.until_stopped(table, &stop) => None,
        };
        drop(lock);
        let took = started.elapsed();
        let looked = match done {
            None => Looked::Stopped,
            Some(Ok(done)) if done.stopped => Looked::Stopped,
            Some(Ok(done)) => {
                let lag =
                    due.oldest.filter(|_| !done.cut).map(|at| clock.wall().duration_since(at));
                let lag = lag.and_then(|lag| Duration::try_from(lag).ok());
                tell(table, &done, lag, took);
                fares.looks = match due.look {
                    Look::All => 0,
                    Look::Folders(_) => fares.looks + u32::from(done.files > 0),
                };
                leave(table, &done, &due);
                if done.cut {
                    put_back(due.clone());
                }
                Looked::Well
            }
            Some(Err(error)) => {
                let retry = fares.retry.map_or(RETRY_FIRST, |last| (last * 2).min(RETRY_MAX));
                fares.retry = Some(retry);
                telemetry::stage_failed(&table.name, &format!("{error:#}"), retry);
                Looked::Failed
            }
        };
        match looked {
            Looked::Well => {
                fares.retry = None;
                // At most half of the time, however long it takes.
                fares.rests_until = Some(Instant::now() + took);
                if fares.looks >= LOOKS_MAX {
                    table.waiting().see_all();
                }
            }
            Looked::Failed => {
                put_back(due);
                table.waiting().see_all();
                fares.rests_until = fares.retry.map(|retry| Instant::now() + retry);
            }
            Looked::Stopped => put_back(due),
        }
    }

    /// Waits until the look has to end, tells it, and gives it some time.
    async fn until_stopped(&self, table: &Table, stop: &AtomicBool) {
        while *self.asked.borrow() != Ask::Stop && self.owned.is_open(table.part) {
            sleep(STOP_EVERY).await;
        }
        stop.store(true, Ordering::Relaxed);
        sleep(STOP_WITHIN).await;
    }
}

/// Does work until it ends by itself, anew after each panic and each error, with a rest that grows. `forget`: what it had
/// taken in hand is not known any more. `goes_on`: whether it is still wanted.
fn keep(
    mut work: impl FnMut(Duration) -> anyhow::Result<()>,
    forget: impl Fn(),
    goes_on: impl Fn() -> bool,
) {
    let (mut restarts, clock) = (Restarts::default(), Clock::new());
    let mut rest = Duration::ZERO;
    loop {
        let worked = catch_unwind(AssertUnwindSafe(|| work(rest)));
        let reason = match worked {
            Ok(Ok(())) => return,
            Ok(Err(error)) => format!("{error:#}"),
            Err(_) => last_panic().unwrap_or_else(|| "a panic without a message".to_owned()),
        };
        forget();
        let restart = restarts.died(clock.now());
        rest = restart.after;
        telemetry::stage_died(&reason, restart);
        if !goes_on() {
            return;
        }
    }
}

/// Notes what a look could not stage.
fn leave(table: &Table, done: &Done, due: &Due) {
    if !done.failed.is_empty() || done.unread > 0 {
        table.waiting().see_all_again(due.oldest);
    }
}

/// Tells what a look came to; one that found nothing to do says nothing.
fn tell(table: &Table, done: &Done, lag: Option<Duration>, took: Duration) {
    for reason in done.failed.iter().take(FAILED_TOLD_MAX) {
        telemetry::stage_failed(&table.name, reason, ALL_EVERY);
    }
    if done.torn > 0 {
        telemetry::stage_torn(&table.name, done.torn);
    }
    if let Some(reason) = &done.first_bad {
        let place = done.quarantine.as_deref().unwrap_or_default();
        telemetry::stage_quarantined(&table.name, done.quarantined, place, reason);
    }
    if done.inputs + done.leftovers + done.merged > 0 {
        let staged = Staged {
            inputs: done.inputs,
            rows: done.rows,
            files: done.files,
            quarantined: done.quarantined,
            merged: done.merged,
            lag,
            took,
        };
        telemetry::stage_done(&table.name, &staged);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    #[test]
    fn staging_that_dies_begins_anew_after_a_rest_and_with_all() {
        let (rests, forgotten) = (RefCell::new(Vec::new()), Cell::new(0));
        let work = |rest: Duration| {
            rests.borrow_mut().push(rest.as_millis());
            match rests.borrow().len() {
                1 => panic!("a defect"),
                2 => bail!("no store"),
                _ => Ok(()),
            }
        };
        keep(work, || forgotten.set(forgotten.get() + 1), || true);
        assert_eq!((rests.take(), forgotten.get()), (vec![0, 100, 200], 2));
        // Once it is to end it is not begun again.
        keep(|_| bail!("no store"), || forgotten.set(0), || false);
        assert_eq!(forgotten.get(), 0);
    }

    #[test]
    fn what_the_store_refused_or_what_failed_is_looked_at_again() {
        for (failed, unread, again) in [(0, 0, false), (1, 0, true), (0, 1, true)] {
            let table = Table {
                name: Slug::new("rows").unwrap(),
                stage: Arc::new(super::super::tests::plan()),
                part: 0,
                waiting: Mutex::default(),
            };
            let failed = vec!["it cannot be".to_owned(); failed];
            let done = Done { failed, unread, ..Done::default() };
            leave(&table, &done, &Due { look: Look::All, oldest: None });
            assert_eq!(table.waiting().due(&table.stage, true).is_some(), again);
        }
    }

    #[test]
    fn tables_are_shared_out_by_their_names() {
        let part = |name: &str| part_of(&Slug::new(name).unwrap());
        assert!(part("offers") < PARTITIONS);
        // Nodes of all versions have to agree.
        assert_eq!([part("offers"), part("a"), part("b")], [23, 33, 34]);
    }
}
