//! What waits: lanes, their counts, and the next fetches read ahead from the queue.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::{AsyncContext, Context};
use tollgate_gate::{At, Span};
use tollgate_protos::Done;

use super::{SEAM_AGAIN, Throttle};
use crate::codes::Code;
use crate::collector::{
    Item, LastAnswer, Resumed, done_once, drop_note, finish_until_confirmed, put_aside, resume,
    still_waits, stored_before,
};
use crate::fresh;
use crate::ids::{LaneKey, Seq};
use crate::ledger::record::Tries;
use crate::pages::Read;
use crate::queue::{Ending, Queued};
use crate::recipe::Content;
use crate::recipe::{self, FetchContext, Refusal};
use crate::shard::Found as Work;
use crate::shard::context::Context as ShardContext;
use crate::telemetry;
use crate::telemetry::Totals;
use crate::throttle::fence::Fenced;
use crate::throttle::lane::{API_GONE, Candidate, Lane};
use crate::throttle::retry;
use crate::traces::TRACEPARENT;

/// A head due later than this is put aside in the queue, so that it blocks nothing.
const POSTPONE_FROM: Duration = Duration::from_secs(60);

/// Answers that an account waits for at once, most of them of fetches on their way out of its lanes. With that
/// many no more are read, until one of them comes.
const BUSY_MAX: usize = 256;
/// Fetches of a shard on their way out. With that many an account reads only while it waits for no answer.
const LEAVING_MAX: usize = 16_384;

/// Why it is looked up how far a fetch has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// It was read from the queue, or waited for another.
    Read,
    /// It was in flight when something died.
    Crashed,
    /// The store failed after the note of its page was kept.
    Unsettled,
}

/// What a note and the store said of a read.
#[derive(Default)]
struct Found {
    read: Option<Arc<Read>>,
    /// Its page was called, and is not there.
    again: bool,
    /// The tries of before its fetch was put aside.
    tries: Tries,
    /// Its fetch is not in its lane any more: it is put aside, or another node has ended it.
    left: bool,
}

impl Throttle {
    /// The place of a lane; it gets one if it has none.
    pub(super) fn lane(&mut self, key: &LaneKey) -> usize {
        if let Some(place) = self.lanes.iter().position(|lane| lane.key == *key) {
            return place;
        }
        let api = self.platform.api(key.api.as_str()).map_or(API_GONE, |(number, _)| number);
        let mut lane = Lane::new(key.clone(), api);
        lane.suspects_wait = self.suspects_out > 0;
        self.lanes.push(lane);
        self.lanes.len() - 1
    }

    pub(super) fn note(&mut self, found: &Work) {
        let place = self.lane(&found.lane);
        let in_hand = if found.all {
            let flying = self.flights.values().filter(|flight| flight.lane == place).count();
            let decided = self.decided_or_asking();
            let decided = decided.filter(|decided| decided.lane == place).count();
            (flying + decided) as u64
        } else {
            0
        };
        let lane = &mut self.lanes[place];
        if found.all {
            let known = (lane.heads.len() + lane.parked.len() + lane.followers()) as u64 + in_hand;
            lane.counted(found.count.saturating_sub(known));
        } else {
            lane.came(found.count);
        }
    }

    /// Whether a fetch is in hand somewhere, so that reading it again means nothing.
    pub(super) fn has(&self, seq: Seq) -> bool {
        self.shard.is_leaving(seq)
            || self.flights.values().any(|flight| flight.item.seq == seq)
            || self.decided_or_asking().any(|decided| decided.candidate.item.seq == seq)
            || self.lanes.iter().any(|lane| lane.has(seq))
    }

    pub(super) fn read(&mut self, place: usize, ctx: &mut Context<Self>) {
        let lane = &mut self.lanes[place];
        let crowded = self.busy > 0 && self.shard.leaving_now() >= LEAVING_MAX;
        // Whatever is waited for looks at the lanes again when it comes.
        if lane.loading || crowded || self.busy >= BUSY_MAX {
            return;
        }
        lane.loading = true;
        lane.noted = false;
        let max = lane.ahead;
        let first = self.shard.queue.first(lane.key.clone(), lane.cursor, max);
        self.spawn(ctx, first, move |throttle, answer, ctx| {
            let ended = throttle.lanes[place].loaded();
            match answer {
                Ok(rows) => throttle.take_in(place, &rows, &ended, ctx),
                Err(error) => {
                    telemetry::queue_away(&throttle.key, &error);
                    ctx.run_later(SEAM_AGAIN, Self::look_again);
                    return;
                }
            }
            throttle.step(ctx);
        });
    }

    pub(super) fn look_again(&mut self, ctx: &mut Context<Self>) {
        self.step(ctx);
    }

    /// `ended` are fetches that left the queue while it was read: they may be among the rows.
    fn take_in(&mut self, place: usize, rows: &[Queued], ended: &[Seq], ctx: &mut Context<Self>) {
        if !self.open {
            // Read ahead of the record, which knows their earlier tries: read again after it.
            return;
        }
        if self.lanes[place].discards() {
            return;
        }
        if rows.is_empty() {
            self.lanes[place].read_nothing();
            return;
        }
        let now = self.now();
        for row in rows {
            self.lanes[place].cursor = Some(row.seq);
            if !self.has(row.seq) && !ended.contains(&row.seq) {
                self.lanes[place].has_read();
                self.take_in_one(place, row, now, ctx);
            }
        }
        self.forget_passed(now);
    }

    fn take_in_one(&mut self, place: usize, row: &Queued, now: At, ctx: &mut Context<Self>) {
        let lane = self.lanes[place].key.clone();
        let content = Content::of(row.content_type.as_deref());
        let checked = recipe::check_queued(&self.shard.plan(), &lane, &content, &row.payload);
        let mut accepted = match checked {
            Ok(accepted) => accepted,
            Err(refusal) => {
                self.refuse(lane, row, refusal, ctx);
                return;
            }
        };
        if let Some(parent) = &row.traceparent {
            // As a label it goes wherever the fetch does: to another node, into `done`, into a letter and back.
            let labels = &mut accepted.fetch.labels;
            labels.entry(TRACEPARENT.to_owned()).or_insert_with(|| parent.to_string());
        }
        let api = &self.platform.apis[usize::from(self.lanes[place].api)];
        let context = FetchContext {
            account: &lane.account.account,
            id: &accepted.id,
            params: &accepted.fetch.params,
            queued_at: row.queued_at,
        };
        let budgets = match recipe::budgets(&self.platform, api, &context) {
            Ok(budgets) => budgets,
            Err(refusal) => {
                self.refuse(lane, row, refusal, ctx);
                return;
            }
        };
        let item = Rc::new(Item {
            lane,
            seq: row.seq,
            origin: row.origin,
            queued_at: row.queued_at,
            id: accepted.id,
            fetch: accepted.fetch,
            budgets,
            generation: self.platform.generation,
        });
        let (tries, not_before, was_flying) =
            self.remembered.remove(&row.seq).unwrap_or((Tries::default(), now, false));
        // One that crashed may have been stored then, also if it was in flight two processes ago and not read
        // by the one between.
        let was_flying = was_flying || tries.crashes > 0;
        let was_flying = was_flying || self.was_in_block(&item.lane, item.seq, tries);
        let suspect = self.is_suspect(&item.lane, item.seq, tries);
        let wanted = item.fetch.not_before.map(|wall| self.shard.clock.at_wall(wall));
        if let Some(wanted) = wanted
            && wanted > now.plus(Span::from(POSTPONE_FROM))
        {
            self.postpone(&item, ctx);
            return;
        }
        let not_before = wanted.map_or(not_before, |wanted| wanted.max(not_before));
        let candidate = Candidate { item, tries, not_before, suspect, read: None };
        if tries.crashes >= retry::CRASHES_MAX {
            let reason = format!(
                "it was in flight when the process or a collector died, {} times",
                tries.crashes
            );
            let last = LastAnswer::default();
            self.give_up(candidate.item, Code::PoisonFetch, reason, last, (tries, None), ctx);
        } else if was_flying
            || candidate.item.fetch.once
            || self.has_pages(place)
            || self.is_reusable(place, &candidate)
        {
            let why = if was_flying { Why::Crashed } else { Why::Read };
            self.look_up(place, candidate, why, ctx);
        } else if not_before > now {
            self.lanes[place].parked.push(candidate);
        } else {
            self.lanes[place].heads.push_back(candidate);
        }
    }

    fn is_reusable(&self, place: usize, candidate: &Candidate) -> bool {
        let api = self.platform.apis.get(usize::from(self.lanes[place].api));
        api.is_some_and(|api| fresh::wanted(api, &candidate.item.fetch).is_some())
    }

    /// A fetch has ended: those of the same request that waited for it are looked at again, the first of them in
    /// its place.
    pub(super) fn follow_on(&mut self, place: usize, leader: Seq, ctx: &mut Context<Self>) {
        for follower in self.lanes[place].followers_of(leader) {
            self.look_up(place, follower, Why::Read, ctx);
        }
    }

    /// What waits and is no fetch that can be called: the refusal becomes its letter.
    fn refuse(&mut self, lane: LaneKey, row: &Queued, refusal: Refusal, ctx: &mut Context<Self>) {
        let source = lane.subject();
        let known = refusal.fetch.as_deref().cloned().unwrap_or_default();
        let item = Rc::new(Item {
            lane,
            seq: row.seq,
            origin: row.origin,
            queued_at: row.queued_at,
            id: known.id.clone().unwrap_or_default(),
            fetch: known,
            budgets: Box::default(),
            generation: self.platform.generation,
        });
        let place = self.lane(&item.lane);
        let api = self.lanes[place].api;
        telemetry::fetch_dead(&self.meters, api, &item, refusal.code, &refusal.reason);
        let died_at = self.shard.clock.wall();
        let dead = refusal.into_dead(row.origin.0, &row.payload, Some(source), died_at);
        let how = async move { Some(Ending::Dead(Box::new(dead))) };
        self.end(item, how, Totals::dead, ctx, move |throttle, _| {
            throttle.lanes[place].left_behind(1);
        });
    }

    /// A fetch that was in flight at a crash may have been stored: its manifest says so. One that says `once`
    /// may have been done under an earlier number, and one that says `fresh_for` by another fetch. The read of one
    /// with pages may have begun: its note says so.
    pub(super) fn look_up(
        &mut self,
        place: usize,
        candidate: Candidate,
        why: Why,
        ctx: &mut Context<Self>,
    ) {
        let was_flying = why == Why::Crashed;
        let api = self.platform.apis.get(usize::from(self.lanes[place].api));
        let reuse = api.and_then(|api| {
            let within = fresh::wanted(api, &candidate.item.fetch)?;
            Some((fresh::request_of(&self.platform, api, &candidate.item)?, within))
        });
        let candidate = match reuse {
            // What may have been stored by itself, or was tried already, does not wait for others; they wait for it.
            Some((request, _)) => {
                let waits = !was_flying && candidate.tries == Tries::default();
                let Some(leader) = self.lanes[place].follow(request, candidate, waits) else {
                    return;
                };
                leader
            }
            None => candidate,
        };
        let shard = Rc::clone(&self.shard);
        let item = Rc::clone(&candidate.item);
        // A record that is written meanwhile speaks of it.
        let known = (candidate.tries, candidate.not_before, was_flying);
        self.remembered.insert(item.seq, known);
        let has_pages = self.has_pages(place);
        if has_pages {
            self.lanes[place].looking.push(item.seq);
        }
        let found: Rc<RefCell<Found>> = Rc::default();
        let told = Rc::clone(&found);
        let mut tries = candidate.tries;
        if was_flying && !self.may_repeat(self.lanes[place].api) {
            tries.crashes = tries.crashes.max(1);
        }
        let look = async move {
            let once = item.fetch.once;
            if why == Why::Unsettled && !still_waits(&shard, &item).await {
                told.borrow_mut().left = true;
                return None;
            }
            if was_flying && let Some(done) = stored_before(&shard, &item).await {
                return Some(Ending::Done { done: Box::new(done), once });
            }
            if once && let Some(done) = done_once_surely(&shard, &item).await {
                return Some(Ending::Done { done: Box::new(done), once: false });
            }
            if let Some((request, within)) = reuse
                && let Some(done) = fresh::find(&shard, request, within, &item).await
            {
                return Some(Ending::Done { done: Box::new(done), once });
            }
            if has_pages {
                match resume(&shard, &item).await {
                    Resumed::New => {}
                    Resumed::Read { read, again, tries } => {
                        told.replace(Found { read: Some(read), again, tries, left: false });
                    }
                    Resumed::Done(done) => return Some(Ending::Done { done, once }),
                    Resumed::Aside(reason) => {
                        put_aside(&shard, &item, tries, &reason).await;
                        told.borrow_mut().left = true;
                    }
                }
            }
            None
        };
        let item = Rc::clone(&candidate.item);
        let (meters, api) = (Rc::clone(&self.meters), self.lanes[place].api);
        let (shard, found_done) = (Rc::clone(&self.shard), Rc::clone(&item));
        let calls = candidate.tries.calls();
        let count = move |totals: &Totals| {
            totals.finished_earlier();
            meters.done_before(api);
            if let Some(trace) = shard.peers.traces().and_then(|traces| traces.of(&found_done)) {
                trace.fetch(&found_done, calls, None);
            }
        };
        self.end(item, look, count, ctx, move |throttle, ctx| {
            let found = found.take();
            let mut candidate = Candidate { read: found.read, ..candidate };
            let seq = candidate.item.seq;
            throttle.lanes[place].looking.retain(|known| *known != seq);
            if found.left {
                throttle.lanes[place].ended(seq);
                // Should it be there all the same: the cursor is behind it.
                throttle.lanes[place].left_behind(1);
                throttle.follow_on(place, seq, ctx);
                return;
            }
            candidate.tries = candidate.tries.or_more(found.tries);
            if why == Why::Unsettled && candidate.read.is_some() && !found.again {
                // They are those of the page that is there.
                (candidate.tries, candidate.not_before) = (Tries::default(), throttle.now());
            }
            if (was_flying || found.again) && !throttle.may_repeat(throttle.lanes[place].api) {
                // It may still be in flight elsewhere, which is as bad.
                candidate.tries.crashes = candidate.tries.crashes.max(1);
            }
            throttle.lanes[place].parked.push(candidate);
        });
    }

    /// Whether fetches of a lane are read page by page.
    pub(super) fn has_pages(&self, place: usize) -> bool {
        let api = self.platform.apis.get(usize::from(self.lanes[place].api));
        api.is_some_and(|api| api.pages.is_some())
    }

    /// Takes a fetch out of the queue and counts it as soon as it is known how it ends; `stays` is called
    /// if it does not. In a task of its own: the death of this actor stops and loses nothing of that.
    pub(super) fn end(
        &mut self,
        item: Rc<Item>,
        how: impl Future<Output = Option<Ending>> + 'static,
        count: impl FnOnce(&Totals) + 'static,
        ctx: &mut Context<Self>,
        stays: impl FnOnce(&mut Self, &mut Context<Self>) + 'static,
    ) {
        let seq = item.seq;
        let place = self.lane(&item.lane);
        let has_pages = self.has_pages(place);
        let leaving = self.shard.leave(seq);
        let shard = Rc::clone(&self.shard);
        let meters = Rc::clone(&self.meters);
        let end = actix_rt::spawn(async move {
            let _leaving = leaving;
            let ending = how.await?;
            finish_until_confirmed(&shard, &meters, &item, ending).await;
            if has_pages {
                drop_note(&shard, &item).await;
            }
            count(&shard.totals);
            Some(())
        });
        self.spawn(ctx, end, move |throttle, ended, ctx| {
            throttle.remembered.remove(&seq);
            if matches!(ended, Ok(Some(()))) {
                throttle.lanes[place].ended(seq);
                throttle.follow_on(place, seq, ctx);
            } else {
                stays(throttle, ctx);
            }
            throttle.step(ctx);
        });
    }

    fn postpone(&mut self, item: &Rc<Item>, ctx: &mut Context<Self>) {
        let Some(until) = item.fetch.not_before else { return };
        let seq = item.seq;
        let leaving = self.shard.leave(seq);
        let shard = Rc::clone(&self.shard);
        let lane = item.lane.clone();
        let postpone = async move {
            // As often as it takes: until then it is in its lane, and the cursor is behind it.
            while let Err(error) = shard.queue.postpone(lane.clone(), seq, until).await {
                telemetry::queue_away(&lane.account, &error);
                tokio::time::sleep(SEAM_AGAIN).await;
            }
        };
        let place = self.lane(&item.lane);
        self.spawn(ctx, postpone, move |throttle, (), ctx| {
            drop(leaving);
            throttle.lanes[place].ended(seq);
            if until <= throttle.shard.clock.wall() {
                // The queue has not answered for so long that it may have been left where it was.
                throttle.lanes[place].left_behind(1);
            }
            throttle.step(ctx);
        });
    }
}

async fn done_once_surely(shard: &ShardContext, item: &Item) -> Option<Done> {
    loop {
        match done_once(shard, item).await {
            Ok(done) => return done,
            // As often as it takes: a guess would call a second time.
            Err(error) => telemetry::queue_away(&item.lane.account, &error),
        }
        tokio::time::sleep(SEAM_AGAIN).await;
    }
}
