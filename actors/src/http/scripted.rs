//! A provider by script, for tests on paused time: no socket, no other clock than tokio's.
//!
//! A closure answers each call with a [`Reply`]. What happened is kept as [`Seen`]: when a call began, was
//! written, was answered and ended, and how many were open at once. It keeps the promises of a
//! [`Transport`]: the bounds of a call hold, and dropping a call ends it.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use futures_util::{FutureExt, StreamExt};
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::{Instant, sleep, sleep_until};
use url::Url;

use super::{Answer, CallBounds, CallError, OnWritten, Transport, Written};
use crate::clock::Clock;
use crate::recipe::Request;

/// What is known of a call.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Its place in the order of beginnings, from 0.
    pub number: usize,
    /// Where it went.
    pub url: Url,
    /// With which headers.
    pub headers: HeaderMap,
    /// Whether it may be written only once.
    pub once: bool,
    /// When it began.
    pub begun: Instant,
    /// When its connection was ready; nothing if it never was, and not a byte was sent.
    pub connected: Option<Instant>,
    /// When it was last said to be written.
    pub written: Option<Instant>,
    /// When its answer's head came.
    pub answered: Option<Instant>,
    /// When it was over: its body read to the end, or given up.
    pub ended: Option<Instant>,
}

impl Seen {
    /// The value of a header as text; empty without it.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// How a call goes. All times but those between pieces count from its beginning.
#[derive(Debug, Clone)]
pub struct Reply {
    connected_after: Duration,
    stamps: Vec<(Duration, bool)>,
    head_after: Duration,
    head: Head,
    pieces: Vec<(Duration, Result<Bytes, CallError>)>,
}

#[derive(Debug, Clone)]
enum Head {
    Answer(u16, HeaderMap),
    Error(CallError),
    Panic,
}

impl Reply {
    fn new(head: Head) -> Self {
        Self {
            connected_after: Duration::ZERO,
            stamps: vec![(Duration::ZERO, true)],
            head_after: Duration::ZERO,
            head,
            pieces: Vec::new(),
        }
    }

    /// 200 with this body, written and answered at once.
    pub fn ok(body: &'static str) -> Self {
        Self::status(200).then(Duration::ZERO, body)
    }

    /// This status without a body, written and answered at once.
    pub fn status(status: u16) -> Self {
        Self::new(Head::Answer(status, HeaderMap::new()))
    }

    /// No answer, but an error.
    pub fn error(error: CallError) -> Self {
        Self::new(Head::Error(error))
    }

    /// Never an answer: the call's own bound ends it.
    pub fn silence() -> Self {
        Self::status(200).head_after(Duration::MAX)
    }

    /// Where the answer should begin, the caller panics.
    pub fn panic() -> Self {
        Self::new(Head::Panic)
    }

    /// A header of the answer.
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        if let Head::Answer(_, headers) = &mut self.head {
            let value = HeaderValue::from_str(value).expect("a test writes a header that is one");
            headers.insert(HeaderName::from_static(name), value);
        }
        self
    }

    /// The connection is ready after this time; the call is written no earlier, and not at all once its
    /// permit has lapsed.
    pub fn connected_after(mut self, after: Duration) -> Self {
        self.connected_after = after;
        self
    }

    /// Written after this time, instead of at once.
    pub fn written_after(mut self, after: Duration) -> Self {
        self.stamps = vec![(after, true)];
        self
    }

    /// It is never said when it was written.
    pub fn unstamped(mut self) -> Self {
        self.stamps.clear();
        self
    }

    /// After the first stamp: at `unknown` it turns out to be wrong, at `again` it is written anew.
    pub fn rewritten(mut self, unknown: Duration, again: Duration) -> Self {
        self.stamps.extend([(unknown, false), (again, true)]);
        self
    }

    /// The head, the error or the panic comes after this time.
    pub fn head_after(mut self, after: Duration) -> Self {
        self.head_after = after;
        self
    }

    /// Another piece of the body, this long after the one before.
    pub fn then(mut self, after: Duration, piece: &'static str) -> Self {
        self.pieces.push((after, Ok(Bytes::from_static(piece.as_bytes()))));
        self
    }

    /// The body breaks off, this long after the last piece.
    pub fn then_error(mut self, after: Duration, error: CallError) -> Self {
        self.pieces.push((after, Err(error)));
        self
    }
}

type Script = dyn Fn(&Seen) -> Reply;

struct State {
    clock: Clock,
    script: RefCell<Rc<Script>>,
    seen: RefCell<Vec<Seen>>,
    open: Cell<usize>,
    open_max: Cell<usize>,
}

/// Calls by script. Cheap to clone; all clones are the same provider.
#[derive(Clone)]
pub struct Scripted(Rc<State>);

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scripted").field("calls", &self.0.seen.borrow().len()).finish()
    }
}

impl Scripted {
    /// A provider that answers each call as `script` says.
    pub fn new(clock: Clock, script: impl Fn(&Seen) -> Reply + 'static) -> Self {
        Self(Rc::new(State {
            clock,
            script: RefCell::new(Rc::new(script)),
            seen: RefCell::default(),
            open: Cell::new(0),
            open_max: Cell::new(0),
        }))
    }

    /// From now on it answers so.
    pub fn answer(&self, script: impl Fn(&Seen) -> Reply + 'static) {
        *self.0.script.borrow_mut() = Rc::new(script);
    }

    /// Every call so far, in the order of their beginnings.
    pub fn seen(&self) -> Vec<Seen> {
        self.0.seen.borrow().clone()
    }

    /// Calls so far.
    pub fn count(&self) -> usize {
        self.0.seen.borrow().len()
    }

    /// Calls that are open now.
    pub fn open(&self) -> usize {
        self.0.open.get()
    }

    /// Most calls that were open at once.
    pub fn open_max(&self) -> usize {
        self.0.open_max.get()
    }

    fn begin(&self, request: Request, once: bool) -> (Open, Seen) {
        let state = &self.0;
        let mut all = state.seen.borrow_mut();
        let seen = Seen {
            number: all.len(),
            url: request.url,
            headers: request.headers,
            once,
            begun: Instant::now(),
            connected: None,
            written: None,
            answered: None,
            ended: None,
        };
        all.push(seen.clone());
        state.open.set(state.open.get() + 1);
        state.open_max.set(state.open_max.get().max(state.open.get()));
        (Open { wire: self.clone(), number: seen.number }, seen)
    }
}

/// A call until it is over, however that comes.
struct Open {
    wire: Scripted,
    number: usize,
}

impl Open {
    fn note(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.wire.0.seen.borrow_mut()[self.number]);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let open = &self.wire.0.open;
        open.set(open.get() - 1);
        self.note(|seen| seen.ended = Some(Instant::now()));
    }
}

impl Transport for Scripted {
    fn send(
        &self,
        request: Request,
        bounds: CallBounds,
        on_written: OnWritten,
    ) -> LocalBoxFuture<'static, Result<Answer, CallError>> {
        let wire = self.clone();
        async move {
            let (open, seen) = wire.begin(request, bounds.once);
            let script = Rc::clone(&wire.0.script.borrow());
            let reply = script(&seen);
            if !reply.connected_after.is_zero() {
                sleep(reply.connected_after.min(bounds.timeouts.connect)).await;
                if reply.connected_after > bounds.timeouts.connect {
                    return Err(CallError::Connect("not in time".into()));
                }
                if wire.0.clock.now() > bounds.write_by {
                    return Err(CallError::Late);
                }
            }
            if let Head::Error(error) = &reply.head
                && !error.may_have_been_sent()
            {
                sleep_until(seen.begun + reply.head_after).await;
                return Err(error.clone());
            }
            open.note(|seen| seen.connected = Some(Instant::now()));
            let head_after = reply.head_after.min(bounds.timeouts.first_byte);
            for (after, is_written) in reply.stamps {
                if after > head_after {
                    break;
                }
                sleep_until(seen.begun + after).await;
                let now = Instant::now();
                open.note(|seen| seen.written = is_written.then_some(now));
                let clock = &wire.0.clock;
                on_written(if is_written { Written::At(clock.at(now)) } else { Written::Unknown });
            }
            sleep_until(seen.begun + head_after).await;
            if reply.head_after > bounds.timeouts.first_byte {
                return Err(CallError::FirstByte(bounds.timeouts.first_byte));
            }
            let (status, headers) = match reply.head {
                Head::Answer(status, headers) => (status, headers),
                Head::Error(error) => return Err(error),
                Head::Panic => panic!("a call panics on purpose"),
            };
            open.note(|seen| seen.answered = Some(Instant::now()));
            let stall = bounds.timeouts.stall;
            let pieces = reply.pieces.into_iter();
            let body = futures_util::stream::unfold(
                (pieces, open),
                move |(mut pieces, open)| async move {
                    let (after, piece) = pieces.next()?;
                    sleep(after.min(stall)).await;
                    let piece = if after > stall { Err(CallError::Stall(stall)) } else { piece };
                    Some((piece, (pieces, open)))
                },
            );
            Ok(Answer { status, headers, body: body.boxed_local() })
        }
        .boxed_local()
    }
}
