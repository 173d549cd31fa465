//! The last look at the clock before a request is written.
//!
//! A call's future hands its request to the task of a connection, which writes it when it has its turn. Between the two
//! others have theirs, and a process may be stopped there for any time (SIGSTOP, a machine that is paused): going on it
//! would write what the next owner of its account has counted long ago. tokio's queue is first in, first out: a task that
//! is spawned right before the future is polled has its turn right before the connection's. It looks at the clock, and
//! drops the call if the process was stopped since and it is too late: hyper writes no request whose future is gone (`poll_canceled` in its
//! `client::dispatch`).

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

use super::connect::ConnectNote;

/// So long between two turns, and the process was stopped, and is not only busy. As long as the shortest lease.
const STOPPED: Duration = Duration::from_secs(2);

/// A call that is given up if its process was stopped and it has not been written by the time in its note.
pub(super) struct LastLook<F: Future> {
    note: Arc<ConnectNote>,
    call: Arc<Call<F>>,
    is_begun: bool,
}

/// It was given up.
#[derive(Debug)]
pub(super) struct TooLong {
    /// Whether it may have been written all the same.
    pub(super) may_be_written: bool,
}

struct Call<F>(Mutex<Parts<F>>);

struct Parts<F> {
    /// None once it has ended, or was dropped.
    future: Option<Pin<Box<F>>>,
    waker: Option<Waker>,
}

impl<F> Call<F> {
    fn parts(&self) -> std::sync::MutexGuard<'_, Parts<F>> {
        // A call that panicked is not polled again.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn drop_it(&self) {
        let (future, waker) = {
            let mut parts = self.parts();
            (parts.future.take(), parts.waker.take())
        };
        drop(future);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<F: Future> LastLook<F> {
    /// Of a call whose connects are noted there.
    pub(super) fn new(note: Arc<ConnectNote>, call: F) -> Self {
        let parts = Parts { future: Some(Box::pin(call)), waker: None };
        Self { note, call: Arc::new(Call(Mutex::new(parts))), is_begun: false }
    }
}

impl<F: Future + Send + 'static> Future for LastLook<F> {
    type Output = Result<F::Output, TooLong>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if !std::mem::replace(&mut self.is_begun, true) && self.note.is_late() {
            return Poll::Ready(Err(TooLong { may_be_written: false }));
        }
        if !self.note.is_written() {
            let (note, call) = (Arc::clone(&self.note), Arc::clone(&self.call));
            let spawned = Instant::now();
            tokio::spawn(async move {
                // In a crowd of calls one may be late that was written, and is not known to be yet.
                if spawned.elapsed() >= STOPPED && note.is_late() {
                    call.drop_it();
                }
            });
        }
        let mut parts = self.call.parts();
        let Some(future) = parts.future.as_mut() else {
            return Poll::Ready(Err(TooLong { may_be_written: true }));
        };
        let polled = future.as_mut().poll(context).map(Ok);
        if polled.is_ready() {
            parts.future = None;
        } else {
            parts.waker = Some(context.waker().clone());
        }
        polled
    }
}

impl ConnectNote {
    /// Whether it is too late to write its request, which is not known to be written.
    fn is_late(&self) -> bool {
        !self.is_written() && Instant::now() > self.write_by()
    }
}
