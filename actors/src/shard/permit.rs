//! Leave to make ONE attempt, as a value that the work owns.
//!
//! Whatever becomes of the work, the permit is dropped with it, and the gate hears of it: a panic frees
//! the in-flight slot too. Nothing refunds quota.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;

use futures_util::StreamExt;
use futures_util::stream::unfold;
use tollgate_gate::{At, PermitId, Sent};

use super::context::Context;
use super::guests::Visit;
use super::parts::CUT_OFF;
use crate::collector::{Again, LastAnswer, Outcome};
use crate::http::{Answer, OnWritten, Written};
use crate::observe::Facts;
use crate::queue::Ending;

/// What a permit's holder reports.
#[derive(Debug, Clone)]
pub(crate) enum Report {
    /// When the request was written, or that this is not known after all.
    Written(Written),
    /// The answer's head has come.
    Answered(At),
    /// What the answer says of limits. Not kept for a restarted actor: a refusal is in the outcome too, and the
    /// next answer says the rest again.
    Told(Box<Facts>),
    /// The call is over as far as the provider is concerned.
    CallEnded(At, Sent),
    /// The node that made it is not heard of any more: it has written the call by the first moment, if it has, and may
    /// go on with it until the second.
    Lost(At, At),
    /// The attempt is over.
    Finished(Outcome),
}

/// What has come of an answer's body, on the wire.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct BodyRead {
    /// Bytes of it.
    pub(crate) bytes: u64,
    /// That is all of it.
    pub(crate) is_all: bool,
}

/// Leave to make one attempt.
pub struct Permit {
    id: PermitId,
    decided_at: At,
    shard: Rc<Context>,
    body: Rc<Cell<BodyRead>>,
    call_ended: Cell<bool>,
    finished: Cell<bool>,
    /// Where another node hears of it.
    visit: Option<Rc<Visit>>,
}

impl Permit {
    pub(crate) fn new(
        id: PermitId,
        decided_at: At,
        shard: Rc<Context>,
        body: Rc<Cell<BodyRead>>,
    ) -> Self {
        let (call_ended, finished) = (Cell::new(false), Cell::new(false));
        Self { id, decided_at, shard, body, call_ended, finished, visit: None }
    }

    /// Another node's, which gave it after this one had offered a slot at `offered_at`.
    pub(crate) fn of_another(
        id: PermitId,
        offered_at: At,
        shard: Rc<Context>,
        visit: Rc<Visit>,
    ) -> Self {
        let body = Rc::clone(&visit.body);
        let mut permit = Self::new(id, offered_at, shard, body);
        permit.visit = Some(visit);
        permit
    }

    /// Whether another node gave it.
    pub(crate) fn is_anothers(&self) -> bool {
        self.visit.is_some()
    }

    /// Whether its request may be written only once: another node goes by what it is told of the writing, and would hear
    /// too late that it was wrong.
    pub(crate) fn is_once(&self) -> bool {
        self.is_anothers() || self.shard.counts_elsewhere(self.id)
    }

    /// Whether an object may become visible: the node that gave the permit still waits for it. Always, if this one did.
    pub(crate) async fn may_store(&self) -> bool {
        match &self.visit {
            None => true,
            Some(visit) => visit.may_store().await,
        }
    }

    /// The fetch is done: for the node to record that gave the permit. What is to be recorded here is given back.
    pub(crate) fn hand_in(&self, ending: Ending) -> Option<Ending> {
        match (&self.visit, ending) {
            (Some(visit), Ending::Done { done, once }) => {
                visit.done.replace(Some((done, once)));
                None
            }
            (_, ending) => Some(ending),
        }
    }

    fn report(&self, report: Report) {
        match &self.visit {
            None => self.shard.report(self.id, report),
            Some(visit) => visit.report(report),
        }
    }

    /// The same answer, of whose body is counted what comes: what a call cost may be known of that alone.
    pub(crate) fn counted(&self, answer: Answer) -> Answer {
        let read = Rc::clone(&self.body);
        let body = unfold(Some(answer.body), move |body| {
            let read = Rc::clone(&read);
            async move {
                let mut body = body?;
                let BodyRead { bytes, .. } = read.get();
                match body.next().await {
                    Some(Ok(piece)) => {
                        read.set(BodyRead { bytes: bytes + piece.len() as u64, is_all: false });
                        Some((Ok(piece), Some(body)))
                    }
                    // It may have had more.
                    Some(Err(error)) => Some((Err(error), None)),
                    None => {
                        read.set(BodyRead { bytes, is_all: true });
                        None
                    }
                }
            }
        });
        Answer { body: body.boxed_local(), ..answer }
    }

    /// When the gate let the call through.
    pub fn decided_at(&self) -> At {
        self.decided_at
    }

    /// What the transport tells of the request's writing.
    pub fn on_written(&self) -> OnWritten {
        let (shard, id) = (Rc::clone(&self.shard), self.id);
        let visit = self.visit.clone();
        Rc::new(move |written| match &visit {
            None => shard.report(id, Report::Written(written)),
            Some(visit) => {
                if let (Written::At(at), Some(platform)) = (written, visit.platform.get()) {
                    // They crowd this node's own calls.
                    shard.baselines.borrow_mut().written(platform, at);
                }
                visit.report(Report::Written(written));
            }
        })
    }

    /// The answer's first byte has come, now.
    pub fn answered(&self) {
        self.report(Report::Answered(self.shard.clock.now()));
    }

    /// The answer says something of limits.
    pub fn told(&self, facts: Facts) {
        self.report(Report::Told(Box::new(facts)));
    }

    /// What it brought is stored, now, and the queue is told next.
    pub(crate) fn stored(&self) {
        if self.visit.is_none() {
            self.shard.stored(self.id);
        }
    }

    /// The call is over, now: its in-flight slot is free. Repeats do nothing.
    pub fn call_ended(&self, sent: Sent) {
        if !self.call_ended.replace(true) {
            self.report(Report::CallEnded(self.shard.clock.now(), sent));
        }
    }

    /// The node that used it is not heard of any more. See [`Report::Lost`].
    pub(crate) fn lost(&self, latest: At, slots_until: At) {
        if !self.call_ended.replace(true) {
            self.report(Report::Lost(latest, slots_until));
        }
    }

    /// The attempt is over.
    pub fn finish(self, outcome: Outcome) {
        self.call_ended(Sent::Maybe);
        self.finished.set(true);
        self.report(Report::Finished(outcome));
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.finished.get() {
            self.call_ended(Sent::Maybe);
            // A guest that ends does not condemn the fetch.
            let leaves = self.visit.as_ref().is_some_and(|visit| visit.leaves.get());
            let (kind, reason) = if leaves {
                (Again::Late, "the node that made the attempt for another was told to end")
            } else if self.shard.is_cut_off(self.id) {
                (Again::Crashed, CUT_OFF)
            } else {
                (Again::Crashed, "the collector died with it")
            };
            let outcome = Outcome::Again {
                kind,
                after: None,
                reason: reason.into(),
                last: LastAnswer::default(),
            };
            self.report(Report::Finished(outcome));
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Permit").field(&self.id).finish()
    }
}
