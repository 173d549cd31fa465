//! What every test needs: a folder, a configuration, a process that cannot outlive its test, and what the
//! process left behind.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tollgate_emulator::Emulator;

mod config;
mod dir;
mod nats;
mod process;
mod provider;

pub(crate) use crate::free_port;
pub(crate) use config::{Config, accounts, fetch, reports};
pub(crate) use dir::{Dir, decompress};
pub(crate) use nats::Nats;
pub(crate) use process::{Ran, Running, Tollgate};
pub(crate) use provider::{Asked, Provider, Told};

/// Longest wait for something that a process is about to do.
const PATIENCE: Duration = Duration::from_secs(45);
/// How often it is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Waits until something is there.
pub(crate) fn wait_until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    wait_or_tell(look, || what.to_owned())
}

/// The same; what was waited for is told, if in vain, as it is then.
fn wait_or_tell<T>(mut look: impl FnMut() -> Option<T>, what: impl Fn() -> String) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain for {}", what());
        thread::sleep(LOOK_EVERY);
    }
}

/// Asserts that the provider refused nothing, and tells what if it did. A refusal that was early by less
/// than the emulator itself was late at its worst may be its own fault and is let pass.
pub(crate) fn assert_none_refused(emulator: &Emulator) {
    let score = emulator.score();
    if score.refused == 0 {
        return;
    }
    let refused: Vec<String> = emulator
        .calls()
        .into_iter()
        .filter_map(|call| {
            let why = call.refusal?;
            Some(format!("{} {} {} early by {:?}", call.account, call.query, why.limit, why.early))
        })
        .take(20)
        .collect();
    assert!(
        score.worst_excess_us > 0 && score.worst_excess_us < score.loop_lag_max_us,
        "{} calls refused, by {:?}; the worst was early by {} us, the emulator late by {} us:\n{}",
        score.refused,
        score.refused_by,
        score.worst_excess_us,
        score.loop_lag_max_us,
        refused.join("\n")
    );
}

/// A sequence of numbers that is the same each time.
#[derive(Debug)]
pub(crate) struct Luck(u64);

impl Luck {
    pub(crate) fn of(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Evenly drawn from a range.
    pub(crate) fn between(&mut self, from: u64, to: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        from + self.0 % (to - from + 1)
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

pub(crate) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a port of this machine answers to `GET path`: the status and all of the answer, if it answers.
pub(crate) fn get(port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, answer))
}
