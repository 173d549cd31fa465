//! An emulated ad platform over real HTTP/1.1 on loopback: strict about its limits, rude by request.
//!
//! It decides on arrival, at the moment when its thread has read a request's head, whether every limit agrees;
//! what is refused gets 429 and is kept in the score. It runs on a thread of its own, so that its stamps do
//! not depend on the client's loop. It must not know how a client decides when to call: it is what the
//! gate is judged by and shares no code with it.
//!
//! | file | knows |
//! |---|---|
//! | `profile` | what a provider is like |
//! | `judge` | which arrival is accepted; time is an argument |
//! | `score` | what came of it |
//! | `report`, `bulk` | bodies, by pure functions of what was asked for |
//! | `rude` | what the rude endpoints mean |
//! | `answer`, `raw` | answers that hyper gives, and those it would never give |
//! | `server` | connections, stamps, and the way of a call through all of these |
//! | `thread` | the thread that a provider has for itself |
//! | `cases` | the hard cases: providers of one kind each, with what is asked of whoever calls them |
//!
//! Endpoints: `GET /v1/reports/{kind}?…` answers a JSON report, see [`expected_body`]; `/rude/…` are listed at
//! [`Rude`]. Every call with an account is judged, rude ones too; a rude call without an account is not.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

mod answer;
mod bulk;
pub mod cases;
mod judge;
mod profile;
mod raw;
mod report;
mod rude;
mod score;
mod server;
mod thread;

pub use bulk::{big_pieces, big_sha256};
pub use judge::{ACCOUNTS_MAX, ENDPOINTS_MAX, Judge, Refusal, Standing, Ticket, Verdict};
pub use profile::{
    AccountFrom, BodyShape, Fault, Gzip, Latency, Per, Profile, ProviderLimit, RefusalShape,
    RetryAfter, Rule, Tells,
};
pub use report::{ROWS_MAX, expected_body};
pub use rude::{BadGzip, Hint, RUDE_BYTES_MAX, Rude, SLOW_MS_MAX};
pub use score::{AccountScore, Call, LimitScore, Score};
pub use server::CALLS_MAX;

use server::Shared;
use thread::Serving;

/// A running provider. It ends when this is dropped.
#[derive(Debug)]
pub struct Emulator {
    shared: Arc<Shared>,
    serving: Serving,
}

impl Emulator {
    /// Starts a provider on a free port of 127.0.0.1. It takes calls when this returns.
    ///
    /// # Errors
    /// When the system gives no port, no thread or no event queue.
    pub fn start(profile: Profile) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(profile));
        let there = shared.clone();
        let serving = Serving::start(move |listener| {
            tokio::spawn(server::accept(listener, there.clone()));
            tokio::spawn(server::measure_lag(there));
        })?;
        Ok(Self { shared, serving })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.serving.addr()
    }

    /// The same as a URL; ends in `/`.
    pub fn base_url(&self) -> String {
        format!("http://{}/", self.addr())
    }

    /// Calls with an account so far, and those of them that a limit refused. Costs nothing.
    pub fn counts(&self) -> (u64, u64) {
        (self.shared.calls.load(Relaxed), self.shared.refused.load(Relaxed))
    }

    /// What was counted so far. It looks at every account while calls wait, so with many accounts it is for
    /// the end; `counts` is for progress.
    pub fn score(&self) -> Score {
        self.shared.score()
    }

    /// Every call with an account so far in the order of arrival, at most [`CALLS_MAX`]; empty unless the
    /// profile says `record`.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.recorded()
    }

    /// Closes every connection and ends the thread. The score stays. Repeats are harmless.
    pub fn stop(&mut self) {
        self.serving.stop();
    }
}

#[cfg(test)]
mod tests;
