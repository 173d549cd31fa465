//! What a throttle actor is sent.

use std::sync::Arc;

use actix::Message;
use tollgate_gate::{At, Ledger, PermitId};

use crate::collector::Slot;
use crate::plan::Platform;
use crate::shard::Found;
use crate::shard::permit::Report;
use crate::times::Cause;
use crate::view::account::LaneNow;

/// Sent by the shard: work has been found in a lane of this account.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct MoreWork(pub(crate) Found);

/// Sent by a permit: what its holder saw. The shard has it too, so a lost one is no loss.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Reported {
    pub(crate) id: PermitId,
    pub(crate) report: Report,
}

/// Sent by the shard: here is the slot that was asked for. Dropping it passes it on.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct SlotFree(pub(crate) Slot);

/// Sent by the shard: what a budget says to this account.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct FromBudget(pub(crate) crate::budget::FromBudget);

/// Sent by the shard: the account's platform is another from now on; nothing: it is not declared any more.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct GoBy(pub(crate) Option<Arc<Platform>>);

/// Sent by the shard: something outside has changed (the store is back, a drain begins).
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct LookAgain;

/// Sent by whoever looks at an account: what is there of it? Changes nothing.
#[derive(Debug, Message)]
#[rtype(result = "Shown")]
pub(crate) struct Show;

/// What a throttle actor has of its account.
#[derive(Debug)]
pub(crate) struct Shown {
    pub(crate) platform: Arc<Platform>,
    pub(crate) ledger: Ledger,
    pub(crate) lanes: Vec<LaneNow>,
    pub(crate) in_flight: u32,
    pub(crate) because: Option<String>,
    pub(crate) cause: Option<Cause>,
    pub(crate) until: Option<At>,
}
