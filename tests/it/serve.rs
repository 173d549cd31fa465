//! A node on NATS and the commands beside it, as users and as publishers in any language see them.
//!
//! Each test has a `nats-server`, a provider and a folder of its own.

mod ending;
mod holds;
mod letters;
mod losses;
mod names;
mod node;
mod outages;
mod publish;
mod reload;
mod setup;
mod systemd;

use std::time::Duration;

use serde_json::Value;
use tollgate_emulator::{Emulator, Latency, Profile, ProviderLimit};
use tollgate_protos::{Dead, Done};

use crate::util::{Dir, Nats, Ran, Running};

/// A provider that takes some time for each answer, so that calls are in flight at any moment.
fn emulator(limits: Vec<ProviderLimit>, latency_ms: u64) -> Emulator {
    let latency = Latency::Range(Duration::from_millis(1), Duration::from_millis(latency_ms));
    Emulator::start(Profile { limits, latency, record: true, ..Profile::default() }).unwrap()
}

/// `tollgate serve`.
fn serve(dir: &Dir) -> Running {
    dir.tollgate(&["serve"]).start()
}

/// `tollgate publish --json` of these lines, all of which are taken.
fn publish(dir: &Dir, lines: &str) -> Value {
    dir.tollgate(&["publish", "--json", "-"]).input(lines).run().exits(0).json()
}

fn done(nats: &Nats) -> Vec<(String, Done)> {
    nats.events("DONE")
}

fn dead(nats: &Nats) -> Vec<(String, Dead)> {
    nats.events("DEAD")
}

/// Ends a node as an operator does.
fn stop(node: Running) -> Ran {
    node.signal("TERM");
    node.wait().exits(0)
}
