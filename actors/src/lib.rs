//! The actors of Tollgate and the seams they stand on.
//!
//! ```text
//! fetch -> queue -> shard > throttle actor -> gate -> ledger -> permit -> collector actor -> provider
//!                                                                  `-> object store -> out of the queue
//! ```
//!
//! - [`queue`], [`ledger`], [`store`]: seams, each with a conformance suite and several backs; [`state`] is
//!   the embedded database under two of them;
//! - [`shard`], [`throttle`], [`collector`]: the actors; [`supervise`]: what restarts them;
//! - [`forecast`]: the same gates in virtual time; [`http`]: one call on the wire; [`recipe`]: what to ask; [`config`] and [`plan`]: what the user said;
//! - [`rehearsal`]: a fetch against recorded answers, on virtual time;
//! - `fresh`: objects that are used instead of a call;
//! - [`auth`]: credentials, signatures and tokens;
//! - [`audit`]: the proof from a log of calls, by counters of its own;
//! - [`node`]: the wiring, the only file that sees both sides of a seam; [`clock`]: the only one that reads
//!   a clock; [`reload`]: another configuration while it works; [`telemetry`]: every log event and metric; [`health`]: whether a node is alive and ready;
//! - [`times`]: where time goes; [`pulse`]: whether the shards' loops turn; [`mailbox`]: what waits for them; [`doctor`]: what holds a node back.
//!
//! The library never prints, never reads arguments or the environment, and never exits.

pub mod answers;
pub mod audit;
pub mod auth;
pub(crate) mod budget;
pub mod calendar;
pub mod clock;
pub mod cluster;
pub mod codes;
pub mod collector;
pub mod complete;
pub mod config;
pub mod control;
pub mod costs;
pub mod doctor;
pub mod forecast;
pub(crate) mod fresh;
pub mod health;
pub mod holds;
pub mod http;
pub mod ids;
pub mod intake;
pub mod ledger;
pub mod levels;
pub mod mailbox;
pub mod mixed;
pub mod nats;
pub mod node;
pub mod notify;
pub mod observe;
pub mod pages;
pub mod plan;
pub mod publish;
pub mod pulse;
pub mod queue;
pub mod recipe;
pub mod rehearsal;
pub mod reload;
pub mod shard;
mod spawn;
pub mod spill;
pub mod state;
pub mod status;
pub mod store;
pub mod supervise;
pub mod telemetry;
pub mod throttle;
pub mod times;
mod traces;
pub mod verify;
pub mod view;

#[cfg(any(test, feature = "testkit"))]
pub mod testkit;
#[cfg(test)]
mod tests;

/// Makes ring the TLS provider of this process. Called once by the binary, before the first node.
pub fn install_tls() {
    // An error means that one is installed already, which is as good.
    let _already = rustls::crypto::ring::default_provider().install_default();
}
