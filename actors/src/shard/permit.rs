//! Leave to make ONE attempt, as a value that the work owns.
//!
//! Whatever becomes of the work, the permit is dropped with it, and the gate hears of it: a panic frees
//! the in-flight slot too. Nothing refunds quota.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;

use tollgate_gate::{At, PermitId, Sent};

use super::context::Context;
use crate::collector::{Again, LastAnswer, Outcome};
use crate::http::{OnWritten, Written};
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

/// Leave to make one attempt.
pub struct Permit {
    id: PermitId,
    decided_at: At,
    shard: Rc<Context>,
    call_ended: Cell<bool>,
    finished: Cell<bool>,
}

impl Permit {
    pub(crate) fn new(id: PermitId, decided_at: At, shard: Rc<Context>) -> Self {
        Self { id, decided_at, shard, call_ended: Cell::new(false), finished: Cell::new(false) }
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
