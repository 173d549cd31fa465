//! NATS JetStream under a node: one connection, the names and the streams.
//!
//! Knows how to connect, what the streams must be like and what a server's refusal means for people. The
//! queue, the ledger and the rest build on it; it knows nothing of fetches, limits or actors.

pub mod accord;
pub mod ask;
pub mod budgets;
mod connect;
pub mod done;
mod error;
pub mod holds;
mod names;
pub mod notices;
pub(crate) mod own;
pub mod publish;
pub mod service;
pub mod session;
mod streams;
pub mod tokens;

pub use connect::{Bus, Link};
pub(crate) use error::refused;
pub use error::{NatsError, Refused};
pub use names::{Names, PARTITIONS, partition};
pub use streams::{Change, Changed, setup};

#[cfg(test)]
pub(crate) mod tests;
