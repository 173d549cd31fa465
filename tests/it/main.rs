//! The binary from outside: `tollgate` as a process, against a provider on real sockets that judges every
//! call on arrival.
//!
//! One folder, one provider and one or more processes per test; nothing is shared between tests. Limits are
//! of a second or less, so that the suite takes about a minute.

#![allow(clippy::unwrap_used, reason = "all of this is a test")]
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "these tests watch a process from outside, on the real clock"
)]

mod answers;
mod api;
mod archives;
mod audit;
mod auth;
mod bad;
mod buckets;
mod budgets;
mod claims;
mod cli;
mod cluster;
mod crash;
mod dead;
mod doctor;
mod hard;
mod inputs;
mod landed;
mod leaks;
mod lending;
mod logs;
mod mixed;
mod nats_login;
#[allow(unreachable_pub, dead_code, reason = "it is a public module of another crate too")]
#[path = "../../actors/src/testkit/nats_server.rs"]
mod nats_server;
mod notify;
mod objects;
mod output;
mod pages;
mod plan;
mod recipe;
mod reload;
mod rights;
mod rude;
mod rules;
mod run;
mod s3;
#[path = "../../actors/src/store/tests/s3_server.rs"]
mod s3_server;
mod secrets;
mod serve;
#[path = "../../actors/src/store/tests/servers.rs"]
mod servers;
mod service;
mod spill;
#[cfg(feature = "stage")]
mod staged;
mod status;
mod tls;
mod traces;
mod util;

use nats_server::free_port;
