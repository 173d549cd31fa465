//! Nodes with different configurations at once: while one after the other is reloaded, every limit of all of them
//! applies on each.
//!
//! - `form`: what a configuration says of limits, as a text with a name that nodes tell each other;
//! - `merge`, `item`: this node's limits with those of others, never more permissive than any of them. Pure;
//! - `accord`: what is seen of other nodes, and whose limits are needed for it. Pure, too.
//!
//! `nats/accord.rs` tells, hears, and puts in force. What a limit has counted goes on counting, whoever counts next: a
//! record names limits, and where two nodes have different ones of the same name, each knows the other's beside its
//! own, as `NAME~HASH` ([`tollgate_gate::LimitSet::with_known_as`]).

mod accord;
mod form;
mod item;
mod merge;

#[cfg(test)]
mod tests;

pub(crate) use accord::{Heard, Needed, Others, SILENT_FOR, Unknown};
pub use form::{FormError, Limits};
pub(crate) use merge::named;
pub use merge::{Unheeded, mixed};
