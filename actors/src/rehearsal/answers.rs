//! The transport of a rehearsal: recorded answers, one for each call.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use http::header::CONTENT_TYPE;
use tokio::time::sleep;

use super::STAND_IN;
use super::case::{Recorded, RecordedKind};
use super::told::Told;
use crate::clock::Clock;
use crate::http::{Answer, CallBounds, CallError, OnWritten, Transport, Written};
use crate::recipe::Request;

/// Bytes of a body that come at once, and of a request's body that are shown.
const PIECE_BYTES: usize = 16 * 1024;
const SHOWN_BYTES: usize = 4 * 1024;

/// Answers to come. All clones are the same.
#[derive(Clone)]
pub(super) struct Answers(Rc<Inner>);

struct Inner {
    clock: Clock,
    left: RefCell<VecDeque<Recorded>>,
    given: Cell<usize>,
    missing: Cell<bool>,
    told: Told,
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers").field("left", &self.left()).finish()
    }
}

impl Answers {
    pub(super) fn new(clock: Clock, answers: Vec<Recorded>, told: Told) -> Self {
        let (given, missing) = (Cell::new(0), Cell::new(false));
        Self(Rc::new(Inner { clock, left: RefCell::new(answers.into()), given, missing, told }))
    }

    /// Whether a call was made for which nothing is recorded.
    pub(super) fn missing(&self) -> bool {
        self.0.missing.get()
    }

    /// Answers that nobody asked for.
    pub(super) fn left(&self) -> usize {
        self.0.left.borrow().len()
    }

    fn tell_request(&self, request: &Request) {
        let told = &self.0.told;
        told.line(format_args!("  {} {}", request.method, redacted(request.url.as_str())));
        for (name, value) in &request.headers {
            let text = if value.is_sensitive() {
                "***".to_owned()
            } else {
                redacted(&String::from_utf8_lossy(value.as_bytes()))
            };
            told.line(format_args!("  {name}: {text}"));
        }
        if let Some(body) = &request.body {
            let start = body.get(..SHOWN_BYTES).unwrap_or(body);
            let cut = if start.len() < body.len() { "…" } else { "" };
            let text = redacted(&String::from_utf8_lossy(start));
            told.line(format_args!("  body of {} bytes: {text}{cut}", body.len()));
        }
    }
}

/// Without stand-ins of secrets.
pub(super) fn redacted(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(STAND_IN) {
        shown.push_str(before);
        shown.push_str("***");
        rest = after.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_');
    }
    shown + rest
}

impl Transport for Answers {
    fn send(
        &self,
        request: Request,
        bounds: CallBounds,
        on_written: OnWritten,
    ) -> LocalBoxFuture<'static, Result<Answer, CallError>> {
        let own = self.clone();
        async move {
            own.tell_request(&request);
            let Inner { clock, told, .. } = &*own.0;
            let next = own.0.left.borrow_mut().pop_front();
            let Some(Recorded { kind, after }) = next else {
                own.0.missing.set(true);
                return std::future::pending().await;
            };
            let number = own.0.given.get() + 1;
            own.0.given.set(number);
            if matches!(kind, RecordedKind::Unreachable) {
                told.line(format_args!("  answer {number}: no connection"));
                return Err(CallError::Connect("recorded so".into()));
            }
            on_written(Written::At(clock.now()));
            sleep(after.min(bounds.timeouts.first_byte)).await;
            if after > bounds.timeouts.first_byte {
                told.line(format_args!("  answer {number}: none in time"));
                return Err(CallError::FirstByte(bounds.timeouts.first_byte));
            }
            let RecordedKind::Answer { status, headers, body } = kind else {
                told.line(format_args!("  answer {number}: the connection breaks"));
                return Err(CallError::Broken("recorded so".into()));
            };
            let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
            let kind = kind.map(|kind| format!(", {kind}")).unwrap_or_default();
            told.line(format_args!("  answer {number}: {status}{kind}, {} bytes", body.len()));
            let pieces: Vec<Result<Bytes, CallError>> = (0..body.len())
                .step_by(PIECE_BYTES)
                .map(|from| Ok(body.slice(from..body.len().min(from + PIECE_BYTES))))
                .collect();
            Ok(Answer { status, headers, body: stream::iter(pieces).boxed_local() })
        }
        .boxed_local()
    }
}
