//! The gate of one account: limits + ledger + holds + ask + now -> decision.
//!
//! It decides when a call may go so that the provider never *receives* more calls in any window of any
//! limit than allowed, and not later than that. It is pure: time is an argument, nothing is read, written,
//! logged or random, so each claim about limits can be tested in microseconds.
//!
//! What a provider counts is the arrival of a request. For each call it lies between the writing of the
//! request and the beginning of its answer. So a call in flight counts as *now*, and it is charged at
//! `min(answer begins, written + guard)`; the next call begins at or after (charge of the call that must
//! leave the window) + window. It costs at most one [`Guard`] per window.
//!
//! The promise holds if
//! - a request arrives no later than its guard after it was written ([`Guard::Never`] does without);
//! - a call is written no earlier than its [`Ledger::take`] and after the record with its permit was stored;
//! - reports are true: never an earlier time than the real one for [`Ledger::written`] and
//!   [`Ledger::answered`], [`Sent::Never`] only if nothing was sent;
//! - `now` is never ahead of the real time of the ledger's timeline;
//! - for [`Rule::Calendar`] the provider's clock and the one behind the [`Calendar`] are no more than its slack
//!   apart.
//!
//! Providers count in several ways, which are the kinds of [`Rule`]: gaps, windows that slide, that start anew at
//! a time of day or with the first call, token buckets, scores with a block, calls in flight, jobs. What a call
//! costs under each ([`Cost`]) may be more than one, nothing, or known only afterwards ([`Ledger::settle`]).
//!
//! The parts: [`LimitSet`] (what is allowed), [`Ledger`] (what was done), [`Holds`] (what else stops),
//! [`decide`] (the decision). [`Ledger::encode`] and [`Ledger::decode`] carry it over a restart and over a
//! change of limits and apis, both of which are found by their names. [`Walk`] is the same decision in virtual
//! time.
#![warn(missing_docs)]

mod amend;
mod change;
mod charges;
mod codec;
mod counting;
mod decide;
mod hold;
mod ledger;
mod limit;
mod observe;
mod time;
mod uses;
mod walk;

#[cfg(test)]
mod tests;

pub use amend::Charged;
pub use change::{Change, ChangeKind, Known};
pub use codec::{DecodeError, Note};
pub use decide::{Ask, Because, Cost, Decision, decide};
pub use hold::{HOLDS_MAX, Hold, HoldScope, Holds, REASON_BYTES_MAX};
pub use ledger::{Ledger, PermitId, Sent};
pub use limit::{
    APIS_MAX, ApiIx, CALENDARS_MAX, Calendar, Guard, LIMITS_MAX, Limit, LimitError, LimitSet,
    NAME_BYTES_MAX, NO_ANSWER_BOUND, Rule, SLACK_MAX, WINDOW_MAX, WINDOW_MIN, time_needed,
};
pub use observe::{Effect, OBSERVED_MAX, Seen};
pub use time::{At, Span};
pub use uses::Use;
pub use walk::{LaneWork, Run, Step, WaitedFor, Walk};
