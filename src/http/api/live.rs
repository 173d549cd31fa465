//! Live numbers: one overview a second, made once for all who listen, and only while somebody does.
//!
//! A reader that is slow misses overviews: only the last one is kept. A stream ends with its connection's time, and
//! browsers then open another by themselves.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, HeaderValue};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout, timeout_at};
use tollgate_actors::codes::Code;

use super::super::Front;
use super::super::problem::Problem;
use super::{ANSWER_WITHIN, views};

/// Streams that are open at a time; one more is refused.
const STREAMS_MAX: usize = 16;
const EVERY: Duration = Duration::from_secs(1);
/// Of a stream from which nothing new comes: whether the other side is there shows when something is written.
const SIGN_EVERY: Duration = Duration::from_secs(10);
/// When a browser opens another one.
const FIRST: &str = "retry: 1000\n\n";

/// When a connection ends; a stream on it ends before.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ends(pub(crate) Instant);

/// All streams.
#[derive(Debug)]
pub(crate) struct Live {
    last: watch::Sender<Bytes>,
    streams: Arc<Semaphore>,
    /// Whether somebody makes overviews.
    at_work: Arc<Mutex<bool>>,
}

impl Default for Live {
    fn default() -> Self {
        let streams = Arc::new(Semaphore::new(STREAMS_MAX));
        Self { last: watch::Sender::new(Bytes::new()), streams, at_work: Arc::default() }
    }
}

pub(super) async fn events(
    State(front): State<Front>,
    Extension(Ends(ends)): Extension<Ends>,
) -> Result<Response, Problem> {
    // Refused as any question is while the node is not at work.
    front.desks.counter()?;
    let Ok(permit) = Arc::clone(&front.live.streams).try_acquire_owned() else {
        let detail = format!("{STREAMS_MAX} streams of live numbers are open, more are not");
        return Err(Problem::new(Code::TooManyQuestions, detail));
    };
    let mut told = front.live.last.subscribe();
    // What was told when nobody listened is old.
    told.mark_unchanged();
    begin(&front);
    let listening = Listening { told, ends, first: true, _permit: permit };
    let body = Body::from_stream(stream::unfold(listening, next));
    let kind = HeaderValue::from_static("text/event-stream");
    Ok(([(CONTENT_TYPE, kind)], body).into_response())
}

struct Listening {
    told: watch::Receiver<Bytes>,
    ends: Instant,
    first: bool,
    _permit: OwnedSemaphorePermit,
}

/// What a stream says next; nothing when its time is over, or the server ends.
async fn next(mut listening: Listening) -> Option<(Result<Bytes, Infallible>, Listening)> {
    if std::mem::take(&mut listening.first) {
        return Some((Ok(Bytes::from_static(FIRST.as_bytes())), listening));
    }
    let until = listening.ends.min(Instant::now() + SIGN_EVERY);
    let text = match timeout_at(until, listening.told.changed()).await {
        Ok(Ok(())) => listening.told.borrow_and_update().clone(),
        Err(_) if until < listening.ends => Bytes::from_static(b":\n\n"),
        Err(_) | Ok(Err(_)) => return None,
    };
    Some((Ok(text), listening))
}

/// Begins to make overviews, if nobody does.
fn begin(front: &Front) {
    let mut at_work = front.live.at_work.lock().unwrap_or_else(PoisonError::into_inner);
    if !std::mem::replace(&mut *at_work, true) {
        tokio::spawn(work(front.clone()));
    }
}

async fn work(front: Front) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        {
            let mut at_work = front.live.at_work.lock().unwrap_or_else(PoisonError::into_inner);
            if front.live.last.receiver_count() == 0 {
                *at_work = false;
                return;
            }
        }
        let told = match front.desks.counter() {
            Ok(counter) => timeout(ANSWER_WITHIN, views::look_over(&counter)).await,
            Err(problem) => Ok(Err(problem)),
        };
        let late = || Err(Problem::not_now("no answer in time"));
        let text = match told.unwrap_or_else(|_| late()) {
            Ok(overview) => {
                let text = serde_json::to_string(&overview).expect("an overview is JSON");
                format!("event: overview\ndata: {text}\n\n")
            }
            Err(problem) => format!("event: problem\ndata: {}\n\n", problem.text()),
        };
        front.live.last.send_replace(text.into());
    }
}
