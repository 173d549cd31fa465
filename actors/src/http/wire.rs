//! The real transport: reqwest over HTTP/1.1, with the stamp of when a request was written.
//!
//! The stamp is taken after the task that owns the connection has had its turn. tokio's queue is first in,
//! first out on one thread: a task spawned now is polled after everything that was woken before, so one
//! round trip of an empty task (a *lap*) means that the connection's task has been polled since. A stamp
//! is always late, never early, which is the safe side; a busy loop makes it later by itself.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::LocalBoxStream;
use http::HeaderValue;
use http::header::ACCEPT_ENCODING;
use tokio::time::timeout;

use super::connect::{CALL, ConnectNote, ConnectTimeout, TooLate, WatchConnects};
use super::last_look::{LastLook, TooLong};
use super::names::{Names, Resolver};
use super::{Answer, CallBounds, CallError, OnWritten, Transport, Written};
use crate::clock::Clock;
use crate::recipe::Request;

/// Laps before a stamp on a warm connection: one for the write; two more in which hyper would notice
/// that the server had closed it and send the untouched request elsewhere.
const LAPS_WARM: u32 = 3;
/// Laps after a connect: the connection's task is spawned, says it is ready, gets the request, writes.
const LAPS_CONNECTED: u32 = 6;
/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(90);
const USER_AGENT: &str = concat!("tollgate/", env!("CARGO_PKG_VERSION"));

/// reqwest, told to make one attempt per call.
#[derive(Debug, Clone)]
pub struct Wire {
    client: reqwest::Client,
    clock: Clock,
    names: Arc<Names>,
}

impl Wire {
    /// A client with connections of its own, one per shard; at most `idle_max` idle ones to each host are
    /// kept.
    ///
    /// # Errors
    /// The TLS provider is not installed (see [`crate::install_tls`]) or the system's certificates
    /// cannot be read.
    pub fn new(clock: Clock, idle_max: usize) -> Result<Self, reqwest::Error> {
        let names = Names::new(clock.clone());
        let client = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            // A stream of HTTP/2 can wait unseen behind others; see ARCHITECTURE.md.
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .referer(false)
            .tcp_nodelay(true)
            .pool_max_idle_per_host(idle_max)
            .pool_idle_timeout(IDLE)
            .dns_resolver(Resolver(Arc::clone(&names)))
            .connector_layer(WatchConnects)
            .build()?;
        Ok(Self { client, clock, names })
    }

    /// What is known of its look-ups of names.
    pub fn names(&self) -> Arc<Names> {
        Arc::clone(&self.names)
    }
}

impl Transport for Wire {
    fn send(
        &self,
        request: Request,
        bounds: CallBounds,
        on_written: OnWritten,
    ) -> LocalBoxFuture<'static, Result<Answer, CallError>> {
        let call = reqwest::Request::from(request);
        let client = self.client.clone();
        let clock = self.clock.clone();
        Box::pin(async move {
            let note = ConnectNote::new(bounds.timeouts.connect, clock.instant(bounds.write_by));
            let answering = CALL.scope(Arc::clone(&note), client.execute(call));
            let answering = LastLook::new(Arc::clone(&note), answering);
            let stamping = stamp(&note, &clock, &*on_written, &bounds);
            let answer = tokio::select! {
                biased; // the call's first poll must come before the first lap
                answer = answering => match answer {
                    Ok(answer) => answer.map_err(|error| told(&error))?,
                    Err(TooLong { may_be_written: true }) => return Err(CallError::Stopped),
                    Err(TooLong { may_be_written: false }) => return Err(CallError::Late),
                },
                waited = stamping => return Err(CallError::FirstByte(waited)),
            };
            let status = answer.status().as_u16();
            let headers = answer.headers().clone();
            let body = stalling(answer, bounds.timeouts.stall);
            Ok(Answer { status, headers, body })
        })
    }
}

/// Says when the request was written, as often as that changes; ends when no answer began in time.
async fn stamp(
    note: &ConnectNote,
    clock: &Clock,
    on_written: &dyn Fn(Written),
    bounds: &CallBounds,
) -> Duration {
    let first_byte = bounds.timeouts.first_byte;
    loop {
        while note.pending() {
            note.changed().await;
        }
        let begun = note.begun();
        laps(if begun == 0 { LAPS_WARM } else { LAPS_CONNECTED }).await;
        if note.begun() != begun || note.pending() {
            continue;
        }
        note.written(begun);
        if bounds.once {
            note.shut();
        }
        on_written(Written::At(clock.now()));
        let silent = async {
            while note.begun() == begun {
                note.changed().await;
            }
        };
        if timeout(first_byte, silent).await.is_err() {
            return first_byte;
        }
        if bounds.once {
            // A connect was refused: how the call ends says that.
            continue;
        }
        on_written(Written::Unknown);
    }
}

/// Lets every task that is ready now have its turn, `laps` times.
async fn laps(laps: u32) {
    for _ in 0..laps {
        // It cannot fail: an empty task does not panic, and nobody aborts it.
        let _done = tokio::spawn(async {}).await;
    }
}

/// The body, with a bound on each wait for a piece of it. Only waiting counts: while nobody asks for the
/// next piece, no time runs.
fn stalling(
    answer: reqwest::Response,
    stall: Duration,
) -> LocalBoxStream<'static, Result<bytes::Bytes, CallError>> {
    let pieces = answer.bytes_stream();
    futures_util::stream::unfold(Some(pieces.boxed_local()), move |pieces| async move {
        let mut pieces = pieces?;
        match timeout(stall, pieces.next()).await {
            Ok(None) => None,
            Ok(Some(Ok(piece))) => Some((Ok(piece), Some(pieces))),
            Ok(Some(Err(error))) => Some((Err(told(&error)), None)),
            Err(_) => Some((Err(CallError::Stall(stall)), None)),
        }
    })
    .boxed_local()
}

/// reqwest's error as ours. Only the causes are told: the error itself carries the URL, and a URL may
/// carry a secret.
fn told(error: &reqwest::Error) -> CallError {
    let mut causes: Vec<String> = Vec::new();
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    while let Some(error) = cause {
        if error.is::<TooLate>() {
            return CallError::Late;
        }
        if error.is::<ConnectTimeout>() {
            return CallError::Connect(error.to_string());
        }
        let text = error.to_string();
        // hyper's wrappers say less than what they wrap, or the same twice.
        if causes.last() != Some(&text) {
            causes.push(text);
        }
        cause = error.source();
    }
    let text = if causes.is_empty() { "no reason given".to_owned() } else { causes.join(": ") };
    if error.is_connect() { CallError::Connect(text) } else { CallError::Broken(text) }
}

impl From<Request> for reqwest::Request {
    fn from(request: Request) -> Self {
        let mut call = Self::new(request.method, request.url);
        *call.headers_mut() = request.headers;
        *call.body_mut() = request.body.map(Into::into);
        // What the sink undoes; a recipe that asks for something else is followed.
        let encodings = HeaderValue::from_static("gzip, deflate");
        call.headers_mut().entry(ACCEPT_ENCODING).or_insert(encodings);
        call
    }
}
