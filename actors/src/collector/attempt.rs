//! One attempt from permit to outcome: call, judge, store, manifest, out of the queue.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tollgate_gate::{At, Sent, Span};
use tollgate_protos::{Done, Manifest};
use url::Url;

use super::landing::object_key;
use super::provenance::Asked;
use super::{Again, Item, LastAnswer, Order, Outcome, Slot};
use crate::auth::{Redactor, Unsigned, Used};
use crate::codes::Code;
use crate::fresh;
use crate::http::{CallBounds, CallError};
use crate::pages::Read;
use crate::plan::{Api, Platform};
use crate::queue::{Ending, QueueError};
use crate::recipe::{self, FetchContext, Request};
use crate::shard::context::Context;
use crate::shard::permit::Permit;
use crate::telemetry::{self, PlatformMeters};
use crate::traces::{Marks, Trace};

/// A permit is used within this time of its decision, or not at all.
pub(crate) const USE_WITHIN: Duration = Duration::from_millis(500);
/// Between two tries to take a stored fetch out of a queue that does not answer.
pub(super) const FINISH_AGAIN: Duration = Duration::from_millis(500);

/// Makes the attempt and tells the permit what became of it. Dropping the future ends the call; the
/// permit then says that it crashed.
pub(crate) async fn make(shard: Rc<Context>, order: Order) {
    let Order { permit, slot, platform, api, meters, item, calls, read } = order;
    let api = &platform.apis[usize::from(api)];
    let read = api.pages.as_ref().map(|pages| match read {
        Some(read) => read.under(pages),
        None => Arc::new(Read::first(pages)),
    });
    let mut attempt = Attempt {
        shard: &shard,
        platform: &platform,
        api,
        meters: &meters,
        item: &item,
        permit: &permit,
        slot: RefCell::new(slot),
        used: RefCell::default(),
        calls,
        read,
        asked: RefCell::default(),
        call: Asked::default(),
        trace: shard.peers.traces().and_then(|traces| traces.of(&item)),
        marks: Marks::default(),
    };
    let began = shard.clock.now();
    let outcome = match attempt.too_old() {
        None => attempt.run().await,
        Some(Ok(anew)) => {
            attempt.read = Some(anew);
            attempt.run().await
        }
        Some(Err(outcome)) => {
            permit.call_ended(Sent::Never);
            outcome
        }
    };
    let outcome = attempt.without_secrets(attempt.unless_lost(outcome));
    if let Some(trace) = &attempt.trace {
        if calls <= 1 && attempt.read.as_ref().is_none_or(|read| read.is_new()) {
            trace.waited(&item, permit.decided_at());
        }
        trace.attempt(began, &attempt.marks, calls, &outcome);
    }
    let Attempt { slot, .. } = attempt;
    // Told before somebody has the slot: a refusal is to hold its account by then.
    permit.finish(outcome);
    drop(slot);
}

/// One attempt while it lasts.
pub(super) struct Attempt<'a> {
    pub(super) shard: &'a Rc<Context>,
    pub(super) platform: &'a Platform,
    pub(super) api: &'a Api,
    pub(super) meters: &'a PlatformMeters,
    pub(super) item: &'a Item,
    pub(super) permit: &'a Permit,
    pub(super) slot: RefCell<Slot>,
    /// With what the call was signed.
    pub(super) used: RefCell<Option<Used>>,
    pub(super) calls: u32,
    /// How far its read has come, where its api has pages.
    pub(super) read: Option<Arc<Read>>,
    /// Where it was called, the same.
    pub(super) asked: RefCell<Option<Url>>,
    /// What is kept of it with what it brings.
    pub(super) call: Asked,
    /// The trace of its fetch, if that is traced.
    pub(super) trace: Option<Trace>,
    pub(super) marks: Marks,
}

impl Attempt<'_> {
    async fn run(&self) -> Outcome {
        self.shard.faults.collector(self.item);
        let clock = &self.shard.clock;
        let decided = self.permit.decided_at();
        let is_first = self.read.as_ref().is_none_or(|read| read.is_new());
        if self.item.fetch.once && is_first {
            // Asked when it was read, but another of its id may have been done since.
            match timeout(USE_WITHIN, done_once(self.shard, self.item)).await {
                Ok(Ok(None)) => {}
                Ok(Ok(Some(done))) => {
                    self.permit.call_ended(Sent::Never);
                    let ending = Ending::Done { done: Box::new(done), once: false };
                    self.finish(ending).await;
                    return Outcome::Done { bytes: 0, objects: 0 };
                }
                Ok(Err(_)) | Err(_) => return self.late(),
            }
        }
        if clock.now() > decided.plus(Span::from(USE_WITHIN)) {
            return self.late();
        }
        let context = FetchContext {
            account: &self.item.lane.account.account,
            id: &self.item.id,
            params: &self.item.fetch.params,
            queued_at: self.item.queued_at,
        };
        let page = match self.page_state() {
            Ok(page) => page,
            Err(outcome) => {
                self.permit.call_ended(Sent::Never);
                return outcome;
            }
        };
        let page = page.as_deref();
        let mut request = match recipe::build_page(self.platform, self.api, &context, page) {
            Ok(request) => request,
            Err(refusal) => {
                self.permit.call_ended(Sent::Never);
                return Outcome::Dead {
                    code: refusal.code,
                    reason: refusal.reason,
                    last: LastAnswer::default(),
                };
            }
        };
        if let Some(outcome) = self.misplaced(&request.url) {
            self.permit.call_ended(Sent::Never);
            return outcome;
        }
        if self.read.is_some() {
            self.asked.replace(Some(request.url.clone()));
        }
        self.call.is(&request);
        let used = match self.sign(&mut request) {
            Ok(used) => used,
            Err(outcome) => return outcome,
        };
        // What a call fails with may show its URL.
        self.used.replace(used);
        let timeouts = self.api.timeouts;
        let write_by = decided.plus(Span::from(USE_WITHIN)).plus(Span::from(timeouts.connect));
        let bounds = CallBounds { timeouts, write_by, once: self.permit.is_once() };
        self.shard.totals.calls.add(1);
        let on_written = self.call.hears(self.permit.on_written());
        self.mark(&self.marks.sent);
        let answer = self.shard.transport.send(request, bounds, on_written).await;
        match answer {
            Ok(answer) => {
                self.marks.status.set(Some(answer.status));
                self.call.answered(clock.now());
                self.permit.answered();
                self.judge(answer).await
            }
            Err(error) => {
                self.permit.call_ended(sent(&error));
                Self::failed(&error, LastAnswer::default())
            }
        }
    }

    /// Puts on the request what proves who asks, unless the host is one that gets no credentials.
    fn sign(&self, request: &mut Request) -> Result<Option<Used>, Outcome> {
        let Some(auth) = &self.api.auth else { return Ok(None) };
        if recipe::is_bare(self.platform, &request.url) {
            return Ok(None);
        }
        let account = &self.item.lane.account.account;
        auth.sign(account, request, &self.shard.clock).map(Some).map_err(|unsigned| {
            self.permit.call_ended(Sent::Never);
            let last = LastAnswer::default();
            match unsigned {
                Unsigned::NotAtHand(reason) => {
                    Outcome::Again { kind: Again::Unsigned, after: None, reason, last }
                }
                Unsigned::Never(reason) => Outcome::Dead { code: Code::UnsafeHeader, reason, last },
            }
        })
    }

    /// The call was refused for what it was signed with: whether that is a token or a secret that may be another one
    /// by the next try. True once for each page of a fetch.
    pub(super) fn was_unsigned(&self) -> bool {
        let used = self.used.borrow();
        let Some(used) = used.as_ref() else { return false };
        let page = self.read.as_ref().map_or(1, |read| read.page());
        self.shard.auth.refused(used, &self.item.lane.account, self.item.origin, page)
    }

    /// What cleans text of every secret that a call of this account may carry.
    pub(super) fn redactor(&self) -> Rc<Redactor> {
        let (used, account) = (self.used.borrow(), &self.item.lane.account.account);
        self.shard.redactors.of(self.platform, account, used.as_ref())
    }

    fn late(&self) -> Outcome {
        self.permit.call_ended(Sent::Never);
        Outcome::Again {
            kind: Again::Late,
            after: None,
            reason: "the permit lapsed before its use".into(),
            last: LastAnswer::default(),
        }
    }

    /// The node that gave the permit does not say that what came of it may be stored.
    pub(super) fn unwanted() -> Outcome {
        Outcome::Again {
            kind: Again::Late,
            after: None,
            reason: "the owner of the account did not let its guest store the answer".into(),
            last: LastAnswer::default(),
        }
    }

    /// Records how the fetch ended, or has the node record it that gave the permit.
    pub(super) async fn finish(&self, ending: Ending) {
        if let Some(ending) = self.permit.hand_in(ending) {
            self.mark(&self.marks.finishing);
            self.permit.stored();
            finish_until_confirmed(self.shard, self.meters, self.item, ending).await;
            self.mark(&self.marks.finished);
        }
    }

    /// It is this far, for its trace.
    pub(super) fn mark(&self, moment: &Cell<Option<At>>) {
        if self.trace.is_some() {
            moment.set(Some(self.shard.clock.now()));
        }
    }

    /// A call that may not be repeated is over, though what came of it is not known.
    fn unless_lost(&self, outcome: Outcome) -> Outcome {
        match outcome {
            Outcome::Again { kind, reason, last, .. }
                if !self.api.may_repeat() && is_lost(kind, &last) =>
            {
                let code = Code::AnswerLost;
                let reason =
                    format!("{reason}; the call may not be repeated, and may have done its work");
                Outcome::Dead { code, reason, last }
            }
            outcome => outcome,
        }
    }

    /// Why it failed may be in words of the provider, whoever found it.
    fn without_secrets(&self, mut outcome: Outcome) -> Outcome {
        if let Outcome::Again { reason, .. }
        | Outcome::Dead { reason, .. }
        | Outcome::Split { reason, .. } = &mut outcome
        {
            let clean = match self.redactor().clean(reason) {
                Cow::Borrowed(_) => None,
                Cow::Owned(clean) => Some(clean),
            };
            *reason = clean.unwrap_or(std::mem::take(reason));
        }
        outcome
    }

    pub(super) fn failed(error: &CallError, last: LastAnswer) -> Outcome {
        let kind = match error {
            CallError::Connect(_) => Again::Unreachable,
            CallError::Late => Again::Late,
            _ => Again::Transient,
        };
        Outcome::Again { kind, after: None, reason: error.to_string(), last }
    }
}

/// Records an ending, as often as it takes. The slot, or the place among those that are stored, stays taken
/// meanwhile, which is what keeps a queue that is away from being asked for more.
pub(crate) async fn finish_until_confirmed(
    shard: &Context,
    meters: &PlatformMeters,
    item: &Item,
    ending: Ending,
) {
    if let Ending::Done { done, .. } = &ending {
        fresh::note(shard, item, done).await;
    }
    let ended = Instant::now();
    let mut told = false;
    shard.totals.ending(item.seq);
    loop {
        match shard.queue.finish(item.lane.clone(), item.seq, ending.clone()).await {
            Ok(()) => {
                meters.queue_finished(ended.elapsed());
                return;
            }
            Err(error) => {
                if !told {
                    told = true;
                    telemetry::queue_away(&item.lane.account, &error);
                }
                tokio::time::sleep(FINISH_AGAIN).await;
            }
        }
    }
}

/// What an earlier try of this fetch has stored, if it came as far as its manifest. Any doubt is a no:
/// the fetch is called again and writes the same keys.
pub(crate) async fn stored_before(shard: &Context, item: &Item) -> Option<Done> {
    // The manifest's folder does not depend on what the objects' keys end in.
    let plan = shard.plan();
    let platform = plan.platforms.get(&item.lane.account.platform)?;
    let (_, api) = platform.api(item.lane.api.as_str())?;
    let key = recipe::manifest_key(&object_key(&plan, platform, api, item, 1, "x").ok()?);
    let bytes = shard.store.get(&key).await.ok()??;
    let manifest: Manifest = serde_json::from_slice(&bytes).ok()?;
    let same = manifest.queue == *shard.queue.name() && manifest.done.seq == item.origin.0;
    same.then_some(manifest.done)
}

/// How a fetch that says `once` was done under an earlier number: a `done` of its own, without a call.
pub(crate) async fn done_once(shard: &Context, item: &Item) -> Result<Option<Done>, QueueError> {
    let done = shard.queue.once(item.lane.clone(), item.id.clone()).await?;
    Ok(done.map(|done| {
        let labels = item.fetch.labels.clone();
        // Its own from an earlier life of this node is told again as it was.
        let attempts = if done.seq == item.origin.0 { done.attempts } else { 0 };
        Done { seq: item.origin.0, attempts, labels, ..done }
    }))
}

/// Whether a call was sent and nobody knows what it did: its answer broke off or did not come, could not be read or
/// stored, or a server between here and there says that it failed. What a rule calls a failure is one.
fn is_lost(kind: Again, last: &LastAnswer) -> bool {
    match kind {
        Again::StoreAway | Again::Crashed => true,
        Again::Transient if last.flaw.is_some() => true,
        Again::Transient => {
            let unclear = last.status.is_none_or(|status| status >= 500 && status != 503);
            !last.judged && (unclear || last.status == Some(408))
        }
        _ => false,
    }
}

/// Whether the provider may count a call that ended so.
fn sent(error: &CallError) -> Sent {
    if error.may_have_been_sent() { Sent::Maybe } else { Sent::Never }
}
