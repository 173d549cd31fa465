//! How whoever owns a record stands with the ledger, and when it tries again: throttle actors and budgets alike.

use std::time::Duration;

use actix::prelude::*;

/// Between two tries of a ledger that does not answer, the first and the longest.
pub(crate) const LEDGER_AGAIN: Duration = Duration::from_millis(250);
const LEDGER_AGAIN_MAX: Duration = Duration::from_secs(2);

/// Whether a record may be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fence {
    /// The last record was confirmed.
    Holds,
    /// The last record was not stored: nothing is decided before one is. Tried again after this time.
    Away(Duration),
    /// The record there may be another one: nothing is decided before it was read.
    Reads(Duration),
}

impl Fence {
    /// After a record was not stored: how long to wait, longer from time to time.
    pub(crate) fn away(self) -> (Self, Duration) {
        let wait = match self {
            Self::Away(before) => (before * 2).min(LEDGER_AGAIN_MAX),
            Self::Holds | Self::Reads(_) => LEDGER_AGAIN,
        };
        (Self::Away(wait), wait)
    }

    /// Before the record is read: how long to wait should that bring none.
    pub(crate) fn reads(self) -> (Self, Duration) {
        let wait = match self {
            Self::Reads(before) => (before * 2).min(LEDGER_AGAIN_MAX),
            Self::Holds | Self::Away(_) => LEDGER_AGAIN,
        };
        (Self::Reads(wait), wait)
    }
}

/// An owner of a record.
pub(crate) trait Fenced: Actor<Context = Context<Self>> {
    fn fence(&self) -> Fence;

    /// The next try to store or to read a record.
    fn again(&mut self) -> &mut Option<SpawnHandle>;

    /// How many answers are waited for.
    fn busy(&mut self) -> &mut usize;

    /// Nobody is there to be asked; that it is back will be told.
    fn is_away(&self) -> bool;

    /// Stores a record with nobody's call in it: quota is not asked for before the ledger takes records.
    fn store_none(&mut self, ctx: &mut Context<Self>);

    /// Reads the record, which may be another one.
    fn read_anew(&mut self, ctx: &mut Context<Self>);

    /// Tries again after a while, and not before.
    fn try_later(&mut self, wait: Duration, ctx: &mut Context<Self>) {
        if let Some(handle) = self.again().take() {
            ctx.cancel_future(handle);
        }
        *self.again() = Some(ctx.run_later(wait, Self::ledger_again));
    }

    fn ledger_again(&mut self, ctx: &mut Context<Self>) {
        *self.again() = None;
        match self.fence() {
            Fence::Holds => {}
            Fence::Away(wait) | Fence::Reads(wait) if self.is_away() => self.try_later(wait, ctx),
            Fence::Away(_) => self.store_none(ctx),
            Fence::Reads(_) => self.read_anew(ctx),
        }
    }

    /// Waits for something without shutting the mailbox.
    fn spawn<F, T>(
        &mut self,
        ctx: &mut Context<Self>,
        future: F,
        then: impl FnOnce(&mut Self, T, &mut Context<Self>) + 'static,
    ) where
        F: Future<Output = T> + 'static,
        T: 'static,
    {
        *self.busy() += 1;
        ctx.spawn(future.into_actor(self).map(move |answer, actor, ctx| {
            *actor.busy() -= 1;
            then(actor, answer, ctx);
        }));
    }
}
