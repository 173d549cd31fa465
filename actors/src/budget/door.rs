//! Where budgets are, and who asks them: on this node or on another.

use std::fmt;
use std::sync::{Arc, Weak};

use actix::Addr;
use tollgate_gate::PermitId;

use super::exchange::{Exchange, StillHeld, ToNode};
use super::{ForBudget, FromBudget};
use crate::cluster::Owned;
use crate::mailbox::Mailbox;
use crate::nats::session::SessionId;
use crate::recipe::BudgetKey;
use crate::shard::Shard;
use crate::shard::context::Peers;

/// The way to every budget, for use on any thread. Where one is is found out for each message: it may have moved.
#[derive(Clone)]
pub(crate) struct Door {
    peers: Arc<Peers>,
    owned: Owned,
    /// The shard that stands behind this one, where it knows no others.
    shard: Mailbox<Shard>,
}

impl Door {
    pub(crate) fn new(peers: Arc<Peers>, owned: Owned, shard: Mailbox<Shard>) -> Self {
        Self { peers, owned, shard }
    }

    /// Tells or asks a budget, wherever it is.
    pub(crate) fn send(&self, message: ForBudget) {
        let message = if self.owned.is_ours(message.key.part()) {
            Some(message)
        } else {
            self.send_elsewhere(message)
        };
        if let Some(message) = message {
            self.here(&message.key).do_send(message);
        }
    }

    /// The same for a budget that is not here any more; back if there is no other place.
    pub(crate) fn send_elsewhere(&self, message: ForBudget) -> Option<ForBudget> {
        let Some(exchange) = self.peers.exchange() else { return Some(message) };
        exchange.do_send(message);
        None
    }

    /// This node holds permits of a budget that leaves it.
    pub(crate) fn still_held(&self, key: &BudgetKey, held: Vec<(PermitId, Weak<()>)>) {
        if let Some(exchange) = self.peers.exchange()
            && !held.is_empty()
        {
            exchange.do_send(StillHeld { key: key.clone(), held });
        }
    }

    /// The shard of a budget, if it is on this node.
    fn here(&self, key: &BudgetKey) -> &Mailbox<Shard> {
        self.peers.of(key.record()).unwrap_or(&self.shard)
    }
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").finish_non_exhaustive()
    }
}

/// Who knows an account that asks.
#[derive(Clone)]
pub(crate) enum Home {
    /// A shard of this node.
    Shard(Mailbox<Shard>),
    /// Another node, by its session.
    Node(SessionId, Addr<Exchange>),
}

impl Home {
    /// What a budget says to an account there.
    pub(crate) fn tell(&self, message: FromBudget) {
        match self {
            Self::Shard(shard) => shard.do_send(message),
            Self::Node(to, exchange) => exchange.do_send(ToNode { to: *to, message }),
        }
    }

    /// Which other node it is.
    pub(crate) fn node(&self) -> Option<SessionId> {
        match self {
            Self::Shard(_) => None,
            Self::Node(node, _) => Some(*node),
        }
    }
}
