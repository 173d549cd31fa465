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
use crate::collector::{Again, LastAnswer, Outcome};
use crate::http::{Answer, OnWritten, Written};
use crate::observe::Facts;

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
}

impl Permit {
    pub(crate) fn new(
        id: PermitId,
        decided_at: At,
        shard: Rc<Context>,
        body: Rc<Cell<BodyRead>>,
    ) -> Self {
        let (call_ended, finished) = (Cell::new(false), Cell::new(false));
        Self { id, decided_at, shard, body, call_ended, finished }
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
        let shard = Rc::clone(&self.shard);
        let id = self.id;
        Rc::new(move |written| shard.report(id, Report::Written(written)))
    }

    /// The answer's first byte has come, now.
    pub fn answered(&self) {
        self.shard.report(self.id, Report::Answered(self.shard.clock.now()));
    }

    /// The answer says something of limits.
    pub fn told(&self, facts: Facts) {
        self.shard.report(self.id, Report::Told(Box::new(facts)));
    }

    /// The call is over, now: its in-flight slot is free. Repeats do nothing.
    pub fn call_ended(&self, sent: Sent) {
        if !self.call_ended.replace(true) {
            self.shard.report(self.id, Report::CallEnded(self.shard.clock.now(), sent));
        }
    }

    /// The attempt is over.
    pub fn finish(self, outcome: Outcome) {
        self.call_ended(Sent::Maybe);
        self.finished.set(true);
        self.shard.report(self.id, Report::Finished(outcome));
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.finished.get() {
            self.call_ended(Sent::Maybe);
            let outcome = Outcome::Again {
                kind: Again::Crashed,
                after: None,
                reason: "the collector died with it".into(),
                last: LastAnswer::default(),
            };
            self.shard.report(self.id, Report::Finished(outcome));
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Permit").field(&self.id).finish()
    }
}
