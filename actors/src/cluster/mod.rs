//! Which node works for which accounts.
//!
//! Every account, and every budget, is in one of [`PARTITIONS`] partitions; each partition has one owner at a
//! time, a node that claimed it. A node shows itself by a session's key that ends by itself when it is not
//! renewed ([`crate::nats::session`]), and owns a partition by a claim: a key of the same bucket that names its
//! session, replaced by compare-and-set. What a node takes, gives up and keeps is decided by one pure function
//! ([`decide`]) of what all of them see; nobody elects anybody.
//!
//! This is for liveness, and against two nodes doing the same work. What keeps limits is the ledger's
//! compare-and-set: a node that is wrong about what it owns makes no call that the next owner does not count.
//!
//! Nothing here knows an actor: [`Owned`] says what is owned to whoever asks, on any thread, and [`Hands`] is who
//! gives partitions out of hand.

mod board;
pub mod decide;
mod keeper;
mod owned;
mod parts;

pub use keeper::{Hands, Keeper, KeeperError, Terms};
pub use owned::Owned;
pub(crate) use owned::{Asked, Owners};
pub use parts::{Parts, part_of};

pub use crate::nats::PARTITIONS;

#[cfg(test)]
mod tests;
