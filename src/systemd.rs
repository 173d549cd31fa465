//! What systemd is told of a node that it started with `Type=notify`
//! (<https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html>): when it is up, what it waits for, that it
//! ends, and that its shards turn. Nothing is told where `NOTIFY_SOCKET` is not set.
//!
//! A thread of its own tells, from what is at hand in [`Health`], so that no shard is asked and none is waited for.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use sd_notify::NotifyState;
use tollgate_actors::health::{DRAINING, Health, STARTING};

/// How often it is looked whether there is something to tell.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How much longer a start or an end may take from now on, in microseconds; said anew at each look while the shards
/// turn. Both have bounds of their own.
const MORE_TIME_US: u32 = 30_000_000;

/// Tells until it is dropped.
#[derive(Debug)]
pub(crate) struct Systemd {
    over: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Systemd {
    /// Begins to tell; does nothing where systemd does not listen.
    pub(crate) fn start(health: Arc<Health>) -> Self {
        let (over, is_over) = mpsc::channel();
        let listens = std::env::var_os("NOTIFY_SOCKET").is_some_and(|path| !path.is_empty());
        if !listens {
            return Self { over: None, thread: None };
        }
        // As often as its makers advise: https://www.freedesktop.org/software/systemd/man/latest/sd_watchdog_enabled.html
        let watchdog = sd_notify::watchdog_enabled();
        let every = watchdog.map_or(LOOK_EVERY, |within| LOOK_EVERY.min(within / 2));
        let teller = move || {
            let mut told = Told { watched: watchdog.is_some(), ..Told::default() };
            loop {
                told.look(&health);
                match is_over.recv_timeout(every) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
                }
            }
            told.end();
        };
        // Without the thread systemd hears nothing, takes the start for failed, and says so.
        let thread = thread::Builder::new().name("tollgate-systemd".into()).spawn(teller).ok();
        Self { over: Some(over), thread }
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        drop(self.over.take());
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

/// What was told so far.
#[derive(Debug, Default)]
struct Told {
    /// Whether systemd wants to hear that the shards turn.
    watched: bool,
    ready: bool,
    stopping: bool,
    status: String,
}

impl Told {
    fn look(&mut self, health: &Health) {
        let reasons = health.reasons();
        let is = |name: &str| reasons.iter().any(|reason| reason.name == name);
        let turns = health.stuck().is_none();
        let status = match &*reasons {
            [] => "collecting".to_owned(),
            reasons => {
                let said = reasons.iter().map(|one| format!("{}: {}", one.name, one.reason));
                said.collect::<Vec<_>>().join("; ")
            }
        };
        let mut news = Vec::new();
        if is(DRAINING) {
            if !std::mem::replace(&mut self.stopping, true) {
                news.push(NotifyState::Stopping);
            }
        } else if !is(STARTING) && !std::mem::replace(&mut self.ready, true) {
            news.push(NotifyState::Ready);
        }
        if turns && (self.stopping || !self.ready) {
            news.push(NotifyState::ExtendTimeoutUsec(MORE_TIME_US));
        }
        if turns && self.watched {
            news.push(NotifyState::Watchdog);
        }
        if status != self.status {
            self.status = status;
            news.push(NotifyState::Status(&self.status));
        }
        say(&news);
    }

    fn end(&mut self) {
        if !std::mem::replace(&mut self.stopping, true) {
            say(&[NotifyState::Stopping]);
        }
    }
}

/// A word that does not get through is not said again: systemd acts on what it does not hear.
fn say(news: &[NotifyState<'_>]) {
    if !news.is_empty() {
        let _heard = sd_notify::notify(news);
    }
}
