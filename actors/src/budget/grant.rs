//! Leave of a budget for one call, as a value that the call owns.

use std::fmt;
use std::sync::{Arc, Weak};

use tollgate_gate::{At, PermitId, Sent};

use super::{Door, ForBudget, Heard, What};
use crate::collector::Outcome;
use crate::recipe::BudgetKey;
use crate::shard::permit::BodyRead;
use crate::throttle::came::Came;

/// What became of a call, for the budgets that it counts in.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Told {
    /// It was written at that time.
    Written(At),
    /// When it was written is not known after all.
    Unwritten,
    /// Its answer began.
    Answered(At),
    /// What it cost is known as well as it will be. Before its end.
    Came(Came),
    /// It is over.
    Ended(At, Sent),
    /// It was never handed on: nothing was sent.
    Unused,
    /// Whoever held it is gone, and what became of it is not known.
    Lost,
    /// The node that it was lent to is not heard of any more. Its call was written by then at the latest, and may still
    /// go on.
    Gone(At),
    /// It is not over: said again and again of what another owner may have only from a record.
    Runs,
}

impl Told {
    /// Nothing more is told of it.
    pub(crate) fn is_end(self) -> bool {
        matches!(self, Self::Ended(..) | Self::Unused | Self::Lost)
    }
}

/// Leave of one budget for one call. Dropped unused it goes back; dropped without a word of its end, the
/// call counts as one that may have been sent until now.
pub(crate) struct Grant {
    key: BudgetKey,
    id: PermitId,
    door: Door,
    used: bool,
    ended: bool,
    /// The call is over, but what it cost is still to be settled.
    over: Option<(At, Sent)>,
    /// As long as this is here.
    held: Arc<()>,
}

impl Grant {
    pub(crate) fn new(key: BudgetKey, id: PermitId, door: Door) -> Self {
        Self { key, id, door, used: false, ended: false, over: None, held: Arc::new(()) }
    }

    /// It is another node's from here on: that tells what becomes of it, or its silence does.
    pub(crate) fn lend(mut self) -> (BudgetKey, PermitId) {
        (self.used, self.ended) = (true, true);
        (self.key.clone(), self.id)
    }

    /// Whether it is held on this node.
    pub(crate) fn held(&self) -> Weak<()> {
        Arc::downgrade(&self.held)
    }

    /// Its number among those of its budget.
    pub(crate) fn id(&self) -> PermitId {
        self.id
    }

    /// Whose it is.
    pub(crate) fn key(&self) -> &BudgetKey {
        &self.key
    }

    /// The call goes to a collector: from here on it may be made.
    pub(crate) fn hand_on(&mut self) {
        self.used = true;
    }

    pub(crate) fn tell(&mut self, told: Told) {
        match told {
            // What it cost is known when the attempt is over, and has to be told before.
            Told::Ended(at, sent) if !self.key.counts().is_empty() => self.over = Some((at, sent)),
            told => {
                self.ended |= matches!(told, Told::Ended(..));
                self.send(told);
            }
        }
    }

    /// The answer said something of one of its limits.
    pub(crate) fn heard(&self, heard: Heard) {
        let what = What::Heard(self.id, Box::new(heard));
        self.door.send(ForBudget { key: self.key.clone(), what });
    }

    /// The attempt is over.
    pub(crate) fn settle(&mut self, outcome: &Outcome, body: BodyRead) {
        if let Some((_, sent)) = self.over {
            self.send(Told::Came(Came::of(outcome, Some(sent), body)));
        }
    }

    fn send(&self, told: Told) {
        let what = What::Told(self.id, told);
        self.door.send(ForBudget { key: self.key.clone(), what });
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if !self.used {
            self.send(Told::Unused);
        } else if let Some((at, sent)) = self.over {
            self.send(Told::Ended(at, sent));
        } else if !self.ended {
            self.send(Told::Lost);
        }
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Grant").field(&self.key).field(&self.id).finish()
    }
}
