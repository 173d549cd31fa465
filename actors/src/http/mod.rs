//! One call on the wire: the seam between collectors and a provider.
//!
//! A [`Transport`] makes exactly one attempt: no retry, no redirect, no second request behind the
//! caller's back, for each of them would cost quota without a permit. It says when the request's bytes
//! left ([`Written`]), which is what limits are charged by.

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::LocalBoxStream;
use http::HeaderMap;
use tollgate_gate::At;

use crate::plan::Timeouts;
use crate::recipe::Request;

pub mod classify;
mod connect;
mod last_look;
pub mod names;
#[cfg(any(test, feature = "testkit"))]
pub mod scripted;
pub mod wire;

#[cfg(test)]
mod tests;

/// What became known about the writing of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// The request's bytes were handed to the system before this moment.
    At(At),
    /// What was said before was wrong: the request goes out again on another connection.
    Unknown,
}

/// Hears of the writing of a request. Called on the thread of the call, any number of times.
pub type OnWritten = Rc<dyn Fn(Written)>;

/// How far a call may go.
#[derive(Debug, Clone, Copy)]
pub struct CallBounds {
    /// Patience for each part of the call.
    pub timeouts: Timeouts,
    /// A connection that is ready only after this moment is not written to any more: its permit was
    /// decided too long ago.
    pub write_by: At,
    /// A request that was said to be written is written by no other connection: [`Written::Unknown`] does not follow
    /// [`Written::At`]. Where a connection turns out to be closed the call ends as [`CallError::Late`].
    pub once: bool,
}

/// The head of an answer, and its body to come.
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, as it comes; each wait for a piece is bounded by the stall timeout.
    pub body: LocalBoxStream<'static, Result<Bytes, CallError>>,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("status", &self.status).finish_non_exhaustive()
    }
}

/// Why a call brought no answer, or only a part of one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No connection came about: the request was never written.
    #[error("no connection: {0}")]
    Connect(String),
    /// The connection was ready only when the permit had lapsed: the request was never written.
    #[error("the connection was ready too late for its permit")]
    Late,
    /// The process was stopped before it was certain that the request was written; it was not written any more if it had
    /// not been.
    #[error("the process was stopped before the request was surely written, and gave it up")]
    Stopped,
    /// No answer began in time.
    #[error("no answer within {0:?}")]
    FirstByte(Duration),
    /// The body stopped coming.
    #[error("the answer stopped for {0:?}")]
    Stall(Duration),
    /// The connection broke or carried what is not HTTP.
    #[error("the connection broke: {0}")]
    Broken(String),
}

impl CallError {
    /// Whether the provider may have received the request.
    pub fn may_have_been_sent(&self) -> bool {
        !matches!(self, Self::Connect(_) | Self::Late)
    }
}

/// Makes calls. Used on one thread.
pub trait Transport: fmt::Debug + 'static {
    /// Makes one attempt and answers when its head has come. Dropping the future ends the call.
    fn send(
        &self,
        request: Request,
        bounds: CallBounds,
        on_written: OnWritten,
    ) -> LocalBoxFuture<'static, Result<Answer, CallError>>;
}
