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
//!
//! Endpoints: `GET /v1/reports/{kind}?…` answers a JSON report, see [`expected_body`]; `/rude/…` are listed at
//! [`Rude`]. Every call with an account is judged, rude ones too; a rude call without an account is not.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc;
use std::thread::{Builder, JoinHandle};

use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::oneshot;

mod answer;
mod bulk;
mod judge;
mod profile;
mod raw;
mod report;
mod rude;
mod score;
mod server;

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

/// Connections that may wait to be accepted: thousands arrive at once.
const BACKLOG: u32 = 4_096;

/// A running provider. It ends when this is dropped.
#[derive(Debug)]
pub struct Emulator {
    addr: SocketAddr,
    shared: Arc<Shared>,
    /// Dropping it ends the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Emulator {
    /// Starts a provider on a free port of 127.0.0.1. It takes calls when this returns.
    ///
    /// # Errors
    /// When the system gives no port, no thread or no event queue.
    pub fn start(profile: Profile) -> io::Result<Self> {
        let shared = Arc::new(Shared::new(profile));
        let (stop, stopped) = oneshot::channel();
        let (report, reported) = mpsc::channel();
        let shared_there = shared.clone();
        let thread = Builder::new()
            .name("emulator".into())
            .spawn(move || run(shared_there, stopped, report))?;
        let addr = reported.recv().map_err(io::Error::other)??;
        Ok(Self { addr, shared, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The same as a URL; ends in `/`.
    pub fn base_url(&self) -> String {
        format!("http://{}/", self.addr)
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
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was printed by its own thread, and the score tells the rest.
            thread.join().ok();
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The provider's thread.
fn run(
    shared: Arc<Shared>,
    stopped: oneshot::Receiver<()>,
    report: mpsc::Sender<io::Result<SocketAddr>>,
) {
    let ran =
        tokio::runtime::Builder::new_current_thread().enable_all().build().and_then(|runtime| {
            runtime.block_on(async {
                let listener = listen()?;
                let addr = listener.local_addr()?;
                tokio::spawn(server::accept(listener, shared.clone()));
                tokio::spawn(server::measure_lag(shared));
                report.send(Ok(addr)).ok();
                // It never carries a value: the sender is dropped to stop.
                stopped.await.ok();
                Ok(())
            })
        });
    if let Err(error) = ran {
        report.send(Err(error)).ok();
    }
}

fn listen() -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests;
