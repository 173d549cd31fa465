//! The throttle actor: owner of one account's gate and lanes.
//!
//! It lets a call through when the pure gate says so, a slot is reserved and the permit is written down,
//! in that order: slot, decision, record, call. It knows nothing of HTTP, bodies or storage formats.
//! Its handlers are synchronous; waiting for the ledger or the queue is a state, not a blocked mailbox.
//!
//! One actor owns an account; that is a rule about ownership, not about memory: with nothing to do for a
//! while it hands its state to the shard as a compact record and stops.

mod actor;
pub(crate) mod book;
pub(crate) mod came;
pub(crate) mod fence;
pub(crate) mod gate;
mod lane;
pub(crate) mod messages;
mod retry;
mod usage;

pub(crate) use actor::Start;
pub use actor::Throttle;
pub(crate) use lane::Unread;
pub(crate) use retry::Next;
pub(crate) use usage::Usage;
