//! Restarts in the Erlang manner, for what actix leaves out.
//!
//! A panic ends an actix actor for good, its `Supervisor` included: the mailbox closes. Here a supervisor
//! holds what it needs to make a child again, hears of a death from a [`DeathNotice`] that the child
//! carries and drops with itself, and asks a [`Restarts`] when the child may start: after a backoff
//! that doubles, and with a longer rest once it has died too often within a period. The child alone is
//! restarted; what it had waiting is in the queue, what it had running is in its shard's table.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::Duration;

use tollgate_gate::{At, Span};

use crate::telemetry;

/// Rest after the first death.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// Longest rest while within bounds.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Deaths within [`PERIOD`] that are met by backoff alone.
const DEATHS_MAX: usize = 5;
/// The period deaths are counted in.
const PERIOD: Duration = Duration::from_secs(60);
/// Rest of a child that died more often than that. It alone rests; the others go on.
const ESCALATED_REST: Duration = Duration::from_secs(60);

/// Counts the deaths of one child.
#[derive(Debug, Default)]
pub struct Restarts {
    deaths: VecDeque<At>,
}

/// What to do about a death.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restart {
    /// Start the child again after this time.
    pub after: Duration,
    /// Deaths within the period, this one included.
    pub deaths: usize,
    /// True if that is more than backoff should hide: somebody has to look.
    pub escalated: bool,
}

impl Restarts {
    /// Counts a death.
    pub fn died(&mut self, now: At) -> Restart {
        let period_start = now.minus(Span::from(PERIOD));
        while self.deaths.front().is_some_and(|at| *at < period_start) {
            self.deaths.pop_front();
        }
        self.deaths.push_back(now);
        if self.deaths.len() > DEATHS_MAX + 1 {
            self.deaths.pop_front();
        }
        let deaths = self.deaths.len();
        let escalated = deaths > DEATHS_MAX;
        let doublings = u32::try_from(deaths - 1).unwrap_or(u32::MAX).min(16);
        let after = if escalated {
            ESCALATED_REST
        } else {
            (BACKOFF_FIRST * 2_u32.saturating_pow(doublings)).min(BACKOFF_MAX)
        };
        Restart { after, deaths, escalated }
    }
}

/// Carried by a child; calls back when the child is gone without having said so.
///
/// A panic unwinds through the task that owns an actor, and the actor is dropped with it; no `stopped()`
/// is called then. A drop is what always happens.
pub struct DeathNotice {
    tell: Option<Box<dyn FnOnce(String)>>,
}

impl DeathNotice {
    /// Tells `tell` why the child died.
    pub fn new(tell: impl FnOnce(String) + 'static) -> Self {
        Self { tell: Some(Box::new(tell)) }
    }

    /// The child ends as it should: nobody is told.
    pub fn expected(&mut self) {
        self.tell = None;
    }
}

impl Drop for DeathNotice {
    fn drop(&mut self) {
        if let Some(tell) = self.tell.take() {
            tell(last_panic().unwrap_or_else(|| "stopped without a word".to_owned()));
        }
    }
}

impl std::fmt::Debug for DeathNotice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeathNotice").field("armed", &self.tell.is_some()).finish()
    }
}

thread_local! {
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Makes panics of this process leave their message for the supervisor on the same thread, instead of
/// a report on stderr in the middle of the logs. Called once, before the first shard starts.
pub fn keep_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let text = panic
            .payload()
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.payload().downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a panic without a message".to_owned());
        let place =
            panic.location().map(|at| format!("{}:{}", at.file(), at.line())).unwrap_or_default();
        telemetry::panicked(&text, &place);
        LAST_PANIC.with(|last| *last.borrow_mut() = Some(format!("{text} ({place})")));
    }));
}

/// The message of the last panic on this thread, once.
pub fn last_panic() -> Option<String> {
    LAST_PANIC.try_with(|last| last.borrow_mut().take()).ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_and_escalates_after_too_many_deaths_in_the_period() {
        let mut restarts = Restarts::default();
        let mut now = At(1_000_000_000);
        let mut rests = Vec::new();
        for _ in 0..7 {
            let restart = restarts.died(now);
            rests.push((restart.after.as_millis(), restart.escalated));
            now = now.plus(Span::from_millis(1));
        }
        assert_eq!(
            rests,
            [
                (100, false),
                (200, false),
                (400, false),
                (800, false),
                (1600, false),
                (60_000, true),
                (60_000, true)
            ]
        );
        let later = now.plus(Span::from_secs(61));
        assert_eq!(restarts.died(later).after, BACKOFF_FIRST);
    }

    #[test]
    fn a_notice_tells_only_of_unexpected_ends() {
        use std::rc::Rc;
        let told = Rc::new(RefCell::new(0));
        let count = Rc::clone(&told);
        drop(DeathNotice::new(move |_| *count.borrow_mut() += 1));
        assert_eq!(*told.borrow(), 1);
        let count = Rc::clone(&told);
        let mut notice = DeathNotice::new(move |_| *count.borrow_mut() += 1);
        notice.expected();
        drop(notice);
        assert_eq!(*told.borrow(), 1);
    }
}
