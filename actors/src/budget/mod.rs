//! Budgets: limits that count the calls of several accounts together, or by other keys than the account.
//!
//! Each value of a key has an actor of its own, on one shard of the node, with a gate and a record in the
//! ledger like an account's. A throttle actor asks it when its own limits say Go and a slot is reserved, and
//! has an answer at once: a [`Grant`], whose record is confirmed by then, or to wait in line. In line no slot
//! and no other budget is held. Whoever is next is called when the gate opens, and finds its place kept for a
//! moment. Turns are fair by weight ([`line`]), so nobody starves and nobody who needs no budget waits for one.
//!
//! Nothing here is ever waited for blindly: an ask, a place in line and a grant are values that say so
//! when they are dropped, whoever died of what.
//!
//! Over several nodes a budget's actor is at the owner of its record's partition. The others ask it through an
//! exchange, and a permit that it lends to them is told of through that too ([`exchange`]).

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Weak;

use actix::{Addr, Message};
use tollgate_gate::{Ask as GateAsk, At, LimitSet, PermitId, Sent};

use crate::ids::{Account, AccountKey};
use crate::nats::session::SessionId;
use crate::recipe::BudgetKey;
use crate::shard::accounts::Ix;
use crate::supervise::Restarts;
use crate::throttle::came::Came;

mod actor;
mod door;
pub(crate) mod exchange;
mod grant;
mod hearing;
mod line;

pub(crate) use actor::{Budget, Look, Mail, Settle, ShowUse};
pub(crate) use door::{Door, Home};
pub(crate) use grant::{Grant, Told};
pub(crate) use hearing::Heard;

/// Most budgets of a shard with an actor at once. Who asks for one more is told to come again.
pub(crate) const LIVE_MAX: usize = 8192;

/// Where the actor of a budget is asked: on the shard of its key. Sent by throttle actors and grants.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct ForBudget {
    pub(crate) key: BudgetKey,
    pub(crate) what: What,
}

/// What a budget is told.
#[derive(Debug)]
pub(crate) enum What {
    /// An account asks.
    Ask(Ask),
    /// An account that was called, or waits, does not come. Only if it asked last from that node; nothing: this one.
    Leave(Account, Option<SessionId>),
    /// What became of a call.
    Told(PermitId, Told),
    /// What the answer to a call said of one of its limits.
    Heard(PermitId, Box<Heard>),
    /// A job is over; `of`: the call that tells it, if it counts in this budget.
    JobOver { job: u64, of: Option<PermitId> },
    /// A refusal: nothing goes until then.
    Hold { until: At, reason: String },
}

/// Most that is kept of what a budget hears while its actor restarts; further holds and observations are dropped.
pub(crate) const PENDING_MAX: usize = 256;

/// Most calls of a budget that are remembered as over. A record is stored for every 256 calls at the latest.
const OVER_MAX: usize = 1024;

/// An account's question for one call. Answered once; dropped unanswered it says so.
pub(crate) struct Ask {
    /// Whose, and where it is at home.
    pub(crate) whose: Whose,
    /// Which life of its throttle actor asks.
    pub(crate) incarnation: u64,
    /// The account's own permit for the call.
    pub(crate) permit: PermitId,
    /// What it would be.
    pub(crate) call: Call,
    /// Turns for one of another account.
    pub(crate) weight: u32,
    /// Calls that it would make one after the other, this one included.
    pub(crate) wants: u32,
    answered: bool,
}

/// A call as its budget counts it.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// Of which api.
    pub(crate) api: u16,
    /// The job that it orders; 0: none.
    pub(crate) job: u64,
    /// Which budget is asked, and what the call costs there.
    pub(crate) key: BudgetKey,
}

impl Call {
    /// What the gate is asked, by the limits that the budget goes by.
    pub(crate) fn with<T>(&self, limits: &LimitSet, then: impl FnOnce(GateAsk<'_>) -> T) -> T {
        let costs = self.key.costs_under(limits);
        then(GateAsk::new(self.api).with_costs(&costs).for_job(self.job))
    }
}

/// An account and who knows it: its shard, by this place, or another node.
#[derive(Clone)]
pub(crate) struct Whose {
    pub(crate) account: Account,
    pub(crate) ix: Ix,
    pub(crate) home: Home,
}

impl fmt::Debug for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Whose").field(&self.account).finish()
    }
}

impl fmt::Debug for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ask").field(&self.whose).field(&self.call.key).finish()
    }
}

impl Ask {
    pub(crate) fn new(
        whose: Whose,
        incarnation: u64,
        permit: PermitId,
        (weight, wants): (u32, u32),
        call: Call,
    ) -> Self {
        Self { whose, incarnation, permit, call, weight, wants, answered: false }
    }

    /// The call may be made.
    pub(crate) fn grant(mut self, grant: Grant) {
        self.answer(Answer::Granted(grant));
    }

    /// Not now. `until`: when it may be, if that is known; `asks_again`: nobody calls, ask again then.
    pub(crate) fn wait(mut self, until: Option<At>, asks_again: Option<At>, why: &str) {
        self.answer(Answer::Wait { until, asks_again, why: why.into() });
    }

    fn answer(&mut self, answer: Answer) {
        self.answered = true;
        self.whose.home.tell(FromBudget {
            whose: self.whose.account.clone(),
            ix: self.whose.ix,
            key: self.call.key.clone(),
            to: Some((self.incarnation, self.permit)),
            answer,
        });
    }
}

impl Drop for Ask {
    fn drop(&mut self) {
        if !self.answered {
            let why = "its actor, which restarts".into();
            self.answer(Answer::Wait { until: None, asks_again: Some(At::MIN), why });
        }
    }
}

/// Sent by a budget to the shard of an account, which passes it on to the throttle actor.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct FromBudget {
    pub(crate) whose: Account,
    pub(crate) ix: Ix,
    pub(crate) key: BudgetKey,
    /// The throttle actor's life and the permit that it asked for; nothing for a call.
    pub(crate) to: Option<(u64, PermitId)>,
    pub(crate) answer: Answer,
}

/// What a budget answers.
#[derive(Debug)]
pub(crate) enum Answer {
    /// The call may be made as far as this budget is concerned.
    Granted(Grant),
    /// Not now.
    Wait {
        /// When it may be at the earliest, if that is known.
        until: Option<At>,
        /// Nobody calls: the account asks again then. Else it is in line.
        asks_again: Option<At>,
        /// What the budget waits for.
        why: Box<str>,
    },
    /// The earliest turn of an account that waits in line is known now.
    Until(At, Box<str>),
    /// The account that waits in line is next: its place is kept for [`actor::TURN`].
    Turn,
}

/// A call that a budget let through, as its shard knows it: kept for a restarted actor.
#[derive(Debug, Clone)]
pub(crate) struct Given {
    pub(crate) call: Call,
    /// When its record was confirmed.
    pub(crate) at: At,
    pub(crate) written: Option<At>,
    pub(crate) answered: Option<At>,
    pub(crate) came: Option<Came>,
    pub(crate) ended: Option<(At, Sent)>,
    /// Whoever it was lent to is not heard of any more: its call was written by then.
    pub(crate) gone: Option<At>,
    /// Whether this node holds it.
    pub(crate) held: Weak<()>,
}

impl Given {
    pub(crate) fn new(call: Call, at: At, held: Weak<()>) -> Self {
        let (written, answered, came, ended, gone) = (None, None, None, None, None);
        Self { call, at, written, answered, came, ended, gone, held }
    }
}

/// A budget as its shard knows it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: BudgetKey,
    pub(crate) state: State,
    pub(crate) restarts: Restarts,
    /// Calls that are not over, and some whose end the actor has not heard of yet.
    pub(crate) given: BTreeMap<PermitId, Given>,
    /// Calls that were over last, up to [`OVER_MAX`]: the record that a restarted actor reads may name them.
    pub(crate) over: VecDeque<PermitId>,
    /// What it heard of its limits while its actor restarted.
    pub(crate) pending: Vec<What>,
}

impl Entry {
    /// That call is over.
    pub(crate) fn is_over(&mut self, id: PermitId) {
        self.given.remove(&id);
        self.over.push_back(id);
        if self.over.len() > OVER_MAX {
            self.over.pop_front();
        }
    }
}

/// How a budget is.
#[derive(Debug)]
pub(crate) enum State {
    /// It has an actor.
    Live {
        addr: Addr<Budget>,
        incarnation: u64,
        /// Messages sent to it that it must have handled before it may end.
        sent: u64,
    },
    /// Its actor died and starts again then.
    Restarting(At),
}

/// The budgets of a shard, by the keys of their records.
pub(crate) type Table = BTreeMap<AccountKey, Entry>;
