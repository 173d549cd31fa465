//! Attempts of this shard's accounts that other nodes make, and attempts of other nodes that are made here.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use actix::prelude::*;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tollgate_gate::{At, PermitId, Sent, Span};
use tollgate_protos::Done;

use super::Shard;
use super::budgets::lose_grants;
use super::context::Context as Ctx;
use super::parts::CUT_OFF;
use super::permit::{BodyRead, Permit, Report};
use crate::auth::Auth;
use crate::cluster::{Owned, part_of};
use crate::collector::{Item, Order, Slot, USE_WITHIN, drop_note, finish_until_confirmed, make};
use crate::http::Written;
use crate::ids::Slug;
use crate::nats::session::SessionId;
use crate::plan::{Api, Platform};
use crate::queue::Ending;
use crate::recipe::{self, FetchContext};
use crate::spill::wire::{self, Told};
use crate::spill::{Command, ORDER_BYTES_MAX, Offer, Spill, agree};
use crate::store::Unwrap;
use crate::telemetry::{self, PlatformMeters};

/// Sent by the node: another one has offered a slot.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Lent(pub(crate) Slot);

/// Sent by the node: what the guest of that permit has told, all of it so far. Repeats are harmless.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Said {
    pub(crate) permit: PermitId,
    pub(crate) told: Box<Told>,
}

/// Sent by the node: the guest of that permit, which was sent then, is not heard of any more.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct GuestLost {
    pub(crate) permit: PermitId,
    pub(crate) sent: Instant,
}

/// Sent by the node: may the object of that permit's attempt become visible? Nothing while that is not known.
#[derive(Debug, Message)]
#[rtype(result = "Option<bool>")]
pub(crate) struct MayStore(pub(crate) PermitId);

/// Sent by the node: an attempt of another node, in the slot that was offered for it then.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Host {
    pub(crate) home: SessionId,
    pub(crate) permit: u64,
    pub(crate) order: Box<wire::Order>,
    pub(crate) slot: Slot,
    pub(crate) offered: Instant,
}

/// Sent by the node: the attempt of another node is of no use any more.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct EndVisit {
    pub(crate) home: SessionId,
    pub(crate) permit: u64,
}

/// An attempt of this node that another one makes.
#[derive(Debug)]
pub(crate) struct Abroad {
    permit: Permit,
    item: Rc<Item>,
    meters: Rc<PlatformMeters>,
    has_pages: bool,
    /// How long its connect may take.
    connect: Duration,
    /// How long its places are kept if its guest is not heard of.
    lost_call: Duration,
    heard: Heard,
}

/// What was heard of an attempt that another node makes.
#[derive(Debug, Default)]
struct Heard {
    told: Told,
    written: Option<At>,
}

/// Attempts of other nodes that are made here.
pub(crate) type Visits = HashMap<(SessionId, u64), (JoinHandle<()>, Rc<Visit>)>;

/// Where what becomes of another node's attempt is told.
pub(crate) struct Visit {
    spill: Spill,
    home: SessionId,
    permit: u64,
    pub(super) body: Rc<Cell<BodyRead>>,
    /// How the fetch ended.
    pub(super) done: RefCell<Option<(Box<Done>, bool)>>,
    /// This node ends, and the attempt with it.
    pub(super) leaves: Cell<bool>,
    /// Whose call it is.
    pub(super) platform: OnceCell<Slug>,
    told: RefCell<Told>,
    written: Cell<Option<At>>,
}

impl fmt::Debug for Visit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Visit")
            .field("home", &self.home)
            .field("permit", &self.permit)
            .finish_non_exhaustive()
    }
}

impl Visit {
    fn new(spill: Spill, home: SessionId, permit: u64) -> Self {
        Self {
            spill,
            home,
            permit,
            body: Rc::default(),
            done: RefCell::default(),
            leaves: Cell::new(false),
            platform: OnceCell::new(),
            told: RefCell::default(),
            written: Cell::new(None),
        }
    }

    /// What an attempt reports goes to its home, as all that is known so far.
    pub(super) fn report(&self, report: Report) {
        let told = {
            let mut told = self.told.borrow_mut();
            match report {
                Report::Written(Written::At(at)) => {
                    told.written = true;
                    self.written.set(Some(at));
                }
                Report::Written(Written::Unknown) => {
                    told.written = false;
                    self.written.set(None);
                }
                Report::Answered(at) => {
                    let took = |written| Duration::from(at.since(written));
                    told.answered = Some(self.written.get().map_or(Duration::ZERO, took));
                }
                Report::Told(facts) => told.facts = Some(facts),
                Report::CallEnded(_, sent) => told.ended = Some(sent == Sent::Maybe),
                Report::Lost(..) => {}
                Report::Finished(outcome) => {
                    let (done, body) = (self.done.take(), self.body.get());
                    told.end = Some(Box::new(wire::End::of(&outcome, done, body)));
                }
            }
            told.clone()
        };
        self.say(told);
    }

    /// Not a byte of it was sent, and none will be.
    fn not_begun(&self, reason: &str) {
        self.say(Told::not_begun(reason));
    }

    fn say(&self, told: Told) {
        let (home, permit) = (self.home, self.permit);
        self.spill.say(Command::Told { home, permit, told: Box::new(told) });
    }

    /// Asks the home whether an object may become visible; no, where it does not answer within
    /// [`crate::spill::LEAVE_WITHIN`].
    pub(super) async fn may_store(&self) -> bool {
        let (leave, said) = oneshot::channel();
        self.spill.say(Command::May { home: self.home, permit: self.permit, leave });
        // Whoever carries it says when that has been long enough.
        said.await.unwrap_or(false)
    }
}

impl Heard {
    /// What is new in what the guest tells. Its stamps are those of now: of the receipt.
    fn hear(&mut self, told: &Told, now: At) -> Vec<Report> {
        let mut reports = Vec::new();
        let answers = self.told.answered.is_none() && told.answered.is_some();
        if self.told.answered.is_none() && self.told.ended.is_none() {
            if told.written != self.told.written && !answers {
                self.written = told.written.then_some(now);
                let written = self.written.map_or(Written::Unknown, Written::At);
                reports.push(Report::Written(written));
                self.told.written = told.written;
            }
            if let Some(took) = told.answered {
                let took = Span::from(took);
                let mut at = now;
                if let Some(written) = self.written.filter(|_| told.written) {
                    // Both the receipt of this and that of the writing are late, neither is early: the earlier one is
                    // nearer. Between the two lies what the call took: it is what later calls are compared with.
                    let written = written.min(now.minus(took));
                    self.written = Some(written);
                    at = written.plus(took).min(now);
                }
                reports.push(Report::Answered(at));
                self.told.answered = told.answered;
            }
        }
        if self.told.facts.is_none()
            && let Some(facts) = &told.facts
        {
            reports.push(Report::Told(facts.clone()));
            self.told.facts = Some(facts.clone());
        }
        reports
    }
}

impl Ctx {
    /// Whether another node may make an attempt. One stays here whose call may not be repeated, which may become several,
    /// whose objects become visible before its answer is whole, or which is signed with what not every node has at hand.
    pub(crate) fn travels(&self, platform: &Platform, api: u16, item: &Item) -> bool {
        let may = |api: &Api| {
            api.may_repeat()
                && api.answers.split.is_none()
                && !matches!(api.answers.decoding.unwrap, Unwrap::Members(_))
                && api.auth.as_ref().is_none_or(Auth::is_at_hand)
        };
        self.peers.spill().is_some_and(Spill::is_on)
            && platform.apis.get(usize::from(api)).is_some_and(may)
            && wire::order_bytes(item) <= ORDER_BYTES_MAX
    }

    /// Gives a permit to another node, which has offered a slot for it.
    pub(super) fn send_abroad(
        &self,
        offer: Offer,
        (id, permit): (PermitId, Permit),
        (item, meters): (Rc<Item>, Rc<PlatformMeters>),
        (platform, api): (&Platform, u16),
        (calls, read): (u32, Option<&crate::pages::Read>),
    ) {
        let api = &platform.apis[usize::from(api)];
        let lost_call = platform.lost_call_alive;
        let order = wire::Order::of(&item, (calls, read), self.plan().how.clone(), lost_call);
        let abroad = Abroad {
            permit,
            item,
            meters,
            has_pages: api.pages.is_some(),
            connect: api.timeouts.connect,
            lost_call,
            heard: Heard::default(),
        };
        self.abroad.borrow_mut().insert(id, abroad);
        offer.send(id.0, order);
    }

    fn said(self: &Rc<Self>, id: PermitId, mut told: Told) {
        // Not borrowed while it is told.
        let Some(mut one) = self.abroad.borrow_mut().remove(&id) else { return };
        let reports = one.heard.hear(&told, self.clock.now());
        if let Some(written) = one.heard.written
            && let Some(running) = self.running.borrow_mut().get_mut(&id)
        {
            // Better known now, perhaps.
            running.written = Some(written);
        }
        for report in reports {
            self.report(id, report);
        }
        if let Some(end) = &told.end
            && let Some(running) = self.running.borrow().get(&id)
        {
            running.body.set(end.body());
        }
        if let Some(sent) = told.ended {
            one.permit.call_ended(if sent { Sent::Maybe } else { Sent::Never });
        }
        match told.end.take() {
            None => drop(self.abroad.borrow_mut().insert(id, one)),
            Some(end) => self.came_back(one, *end),
        }
    }

    /// An attempt of this node is over; how its fetch ended is recorded first.
    fn came_back(self: &Rc<Self>, one: Abroad, mut end: wire::End) {
        let Abroad { permit, item, meters, has_pages, .. } = one;
        let Some((done, once)) = end.done.take() else { return permit.finish(end.outcome()) };
        let shard = Rc::clone(self);
        let recording = self.peers.spill().map(Spill::records);
        actix_rt::spawn(async move {
            finish_until_confirmed(&shard, &meters, &item, Ending::Done { done, once }).await;
            if has_pages {
                drop_note(&shard, &item).await;
            }
            drop(recording);
            permit.finish(end.outcome());
        });
    }

    /// The guest is gone, or cannot be heard: it may still go on with its call.
    fn guest_lost(&self, id: PermitId, sent: Instant) {
        let Some(one) = self.abroad.borrow_mut().remove(&id) else { return };
        let now = self.clock.now();
        let sent = self.clock.at(sent);
        // Its offer is older than the sending.
        let latest = sent.plus(Span::from(USE_WITHIN)).plus(Span::from(one.connect)).max(now);
        telemetry::guest_lost(&one.item);
        one.permit.lost(latest, latest.plus(Span::from(one.lost_call)));
        one.permit.finish(wire::crashed("the node that made it for this one is not heard of"));
    }

    /// An attempt at another node is not waited for any more, so that it ends before its places may be given to others.
    pub(super) fn give_up_guest(&self, id: PermitId) {
        let Some(one) = self.abroad.borrow_mut().remove(&id) else { return };
        if let Some(spill) = self.peers.spill() {
            spill.say(Command::Forget { permit: id.0 });
        }
        // It was sent before.
        let latest = self.clock.now().plus(Span::from(USE_WITHIN)).plus(Span::from(one.connect));
        one.permit.lost(latest, latest.plus(Span::from(one.lost_call)));
        one.permit.finish(wire::crashed(CUT_OFF));
    }

    /// Whether what a guest has may become visible: it is waited for, and the account is still this node's. Not known
    /// while the lease has lapsed: somebody may have taken the account, or nobody.
    fn may_store(&self, id: PermitId) -> Option<bool> {
        let abroad = self.abroad.borrow();
        let Some(one) = abroad.get(&id) else { return Some(false) };
        may_store_of(&self.owned, part_of(&one.item.lane.account))
    }

    /// The budgets of a call whose node is not heard of any more: its places are kept until `until`.
    pub(crate) fn lose_budgets(&self, id: PermitId, latest: At, until: At) {
        let mut running = self.running.borrow_mut();
        let Some(running) = running.get_mut(&id).filter(|running| !running.grants.is_empty())
        else {
            return;
        };
        let mut grants = std::mem::take(&mut running.grants);
        lose_grants(&mut grants, latest);
        let until = self.clock.instant(until);
        actix_rt::spawn(async move {
            tokio::time::sleep_until(until).await;
            drop(grants);
        });
    }

    fn host(self: &Rc<Self>, host: Host) {
        let Host { home, permit, order, slot, offered } = host;
        let Some(spill) = self.peers.spill() else { return };
        let visit = Rc::new(Visit::new(spill.clone(), home, permit));
        match self.ordered(*order, offered, slot, &visit) {
            Err(reason) => visit.not_begun(&reason),
            Ok(order) => {
                let key = (home, permit);
                let leave = Leave { shard: Rc::clone(self), key };
                let making = actix_rt::spawn(async move {
                    make(Rc::clone(&leave.shard), order).await;
                    drop(leave);
                });
                self.visits.borrow_mut().insert(key, (making, visit));
            }
        }
    }

    /// An attempt of another node as one of this node's collectors makes it.
    fn ordered(
        self: &Rc<Self>,
        order: wire::Order,
        offered: Instant,
        slot: Slot,
        visit: &Rc<Visit>,
    ) -> Result<Order, String> {
        let plan = self.plan();
        if self.draining.get() {
            return Err("the node that had offered a slot ends".into());
        }
        if !agree(&plan.how, &order.how) {
            return Err("the node that had offered a slot goes by another configuration".into());
        }
        let wire::Ordered { lane, seq, origin, queued_at, id, fetch, calls, read } =
            order.read()?;
        let gone = || format!("the node that had offered a slot has no {}", lane.subject());
        let account = &lane.account;
        let platform = plan.platforms.get(&account.platform).ok_or_else(gone)?;
        let platform = platform.of(&account.account);
        let (number, api) = platform.api(lane.api.as_str()).ok_or_else(gone)?;
        if api.auth.as_ref().is_some_and(|auth| !auth.is_at_hand()) {
            return Err("the node that had offered a slot has no credential at hand".into());
        }
        let context =
            FetchContext { account: &account.account, id: &id, params: &fetch.params, queued_at };
        let later = read.as_ref().is_some_and(|read| read.page() > 1);
        let budgets = recipe::budgets_of_page(&platform, api, &context, later);
        let budgets = budgets.map_err(|refusal| refusal.reason)?;
        let meters = self.meters_of(&platform.name);
        // Told once.
        let _first = visit.platform.set(platform.name.clone()).is_ok();
        let offered = self.clock.at(offered);
        let permit =
            Permit::of_another(self.permit_id(), offered, Rc::clone(self), Rc::clone(visit));
        let generation = platform.generation;
        let item = Item { lane, seq, origin, queued_at, id, fetch, budgets, generation };
        Ok(Order { permit, slot, platform, api: number, meters, item: Rc::new(item), calls, read })
    }

    /// This node ends: what it makes for others is broken off, and they are told.
    pub(super) fn end_visits(&self) {
        let visits: Vec<_> = self.visits.borrow_mut().drain().map(|(_, visit)| visit).collect();
        for (making, visit) in visits {
            visit.leaves.set(true);
            making.abort();
        }
    }

    fn end_visit(&self, home: SessionId, permit: u64) {
        let ended = self.visits.borrow_mut().remove(&(home, permit));
        if let Some((making, _)) = ended {
            telemetry::visit_ended(&home.to_string());
            making.abort();
        }
    }
}

fn may_store_of(owned: &Owned, part: u32) -> Option<bool> {
    if owned.may_write(part) {
        Some(true)
    } else if owned.is_ours(part) {
        None
    } else {
        Some(false)
    }
}

/// An attempt of another node while it is made, however it ends.
struct Leave {
    shard: Rc<Ctx>,
    key: (SessionId, u64),
}

impl Drop for Leave {
    fn drop(&mut self) {
        self.shard.visits.borrow_mut().remove(&self.key);
    }
}

impl Handler<Lent> for Shard {
    type Result = ();

    fn handle(&mut self, Lent(slot): Lent, _: &mut Self::Context) {
        self.ctx.slot_abroad(slot);
    }
}

impl Handler<Said> for Shard {
    type Result = ();

    fn handle(&mut self, Said { permit, told }: Said, _: &mut Self::Context) {
        self.ctx.said(permit, *told);
    }
}

impl Handler<GuestLost> for Shard {
    type Result = ();

    fn handle(&mut self, GuestLost { permit, sent }: GuestLost, _: &mut Self::Context) {
        self.ctx.guest_lost(permit, sent);
    }
}

impl Handler<MayStore> for Shard {
    type Result = Option<bool>;

    fn handle(&mut self, MayStore(permit): MayStore, _: &mut Self::Context) -> Option<bool> {
        self.ctx.may_store(permit)
    }
}

impl Handler<Host> for Shard {
    type Result = ();

    fn handle(&mut self, host: Host, _: &mut Self::Context) {
        self.ctx.host(host);
    }
}

impl Handler<EndVisit> for Shard {
    type Result = ();

    fn handle(&mut self, EndVisit { home, permit }: EndVisit, _: &mut Self::Context) {
        self.ctx.end_visit(home, permit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Parts;

    const MS: u64 = 1000;

    fn told(took_ms: Option<u64>) -> Told {
        Told { written: true, answered: took_ms.map(Duration::from_millis), ..Told::default() }
    }

    #[test]
    fn an_answer_is_as_long_after_its_writing_as_the_guest_has_measured_and_neither_is_early() {
        // Written at 0, answered at 300 ms. What is told comes late: by how much, and by how much again.
        for (first, second) in [(1, 1), (250, 2), (300, 0), (2, 250), (0, 0)] {
            let mut heard = Heard::default();
            let reports = heard.hear(&told(None), At((first * MS).cast_signed()));
            assert!(matches!(reports[..], [Report::Written(Written::At(_))]), "{reports:?}");
            assert!(heard.hear(&told(None), At((first * MS).cast_signed())).is_empty(), "a copy");
            let now = At(((300 + second) * MS).cast_signed());
            let reports = heard.hear(&told(Some(300)), now);
            let [Report::Answered(answered)] = reports[..] else { panic!("{reports:?}") };
            let written = heard.written.unwrap();
            assert_eq!(answered.since(written), Span(300 * MS), "late by {first}, {second}");
            assert!(written >= At(0) && answered <= now, "{written:?} {answered:?}");
            assert!(heard.hear(&told(Some(300)), now).is_empty(), "a copy");
        }
    }

    #[test]
    fn an_answer_whose_writing_was_not_heard_of_counts_when_it_is_heard() {
        let mut heard = Heard::default();
        let reports = heard.hear(&told(Some(300)), At(1_000_000));
        assert!(matches!(reports[..], [Report::Answered(At(1_000_000))]), "{reports:?}");
        assert_eq!(heard.written, None);
    }

    #[tokio::test(start_paused = true)]
    async fn leave_to_store_is_refused_only_where_the_account_is_anothers() {
        const LIVES: Duration = Duration::from_secs(3);
        let owned = Owned::nothing();
        owned.renewed(crate::cluster::Asked::now(), LIVES);
        owned.gain(Parts::one(5) | Parts::one(6));
        assert_eq!((may_store_of(&owned, 5), may_store_of(&owned, 7)), (Some(true), Some(false)));
        owned.close(Parts::one(6));
        assert_eq!(may_store_of(&owned, 6), Some(true), "until it is let go");
        tokio::time::advance(LIVES).await;
        assert_eq!(may_store_of(&owned, 5), None, "the lease has lapsed: not known");
        owned.renewed(crate::cluster::Asked::now(), LIVES);
        assert_eq!(may_store_of(&owned, 5), None, "not looked at yet");
        owned.gain(Parts::one(5));
        assert_eq!(may_store_of(&owned, 5), Some(true));
        owned.lose(Parts::one(5));
        assert_eq!(may_store_of(&owned, 5), Some(false));
    }
}
