//! The real transport against real sockets, in real time; and what an answer means.

mod bounds;
mod classify;
mod stamps;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue};
use tokio::time::Instant;
use tollgate_gate::Span;

use super::wire::Wire;
use super::{Answer, CallBounds, CallError, Transport, Written};
use crate::clock::Clock;
use crate::plan::Timeouts;
use crate::recipe::Request;

/// Runs a test on a thread's own loop, as a shard does.
fn real<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    crate::install_tls();
    actix_rt::System::new().block_on(async { test().await });
}

/// What was seen of a call from this side.
#[derive(Debug)]
struct Told {
    begun: Instant,
    /// Every word about its writing, and when it came.
    words: Vec<(Written, Instant)>,
    /// When the head was there, or the error.
    head: Instant,
    answer: Result<Answer, CallError>,
}

fn timeouts(connect: u64, first_byte: u64, stall: u64) -> Timeouts {
    let ms = Duration::from_millis;
    Timeouts { connect: ms(connect), first_byte: ms(first_byte), stall: ms(stall) }
}

/// Makes one call and says what was told of it. `write_by`: how long from now it may be written.
async fn call(
    wire: &Wire,
    clock: &Clock,
    url: &str,
    account: &str,
    timeouts: Timeouts,
    write_by: Duration,
) -> Told {
    let bounds =
        CallBounds { timeouts, write_by: clock.now().plus(Span::from(write_by)), once: false };
    call_within(wire, url, account, bounds).await
}

async fn call_within(wire: &Wire, url: &str, account: &str, bounds: CallBounds) -> Told {
    let mut headers = HeaderMap::new();
    if !account.is_empty() {
        headers.insert("x-account", HeaderValue::from_str(account).unwrap());
    }
    let request =
        Request { method: http::Method::GET, url: url.parse().unwrap(), headers, body: None };
    let words = Rc::new(RefCell::new(Vec::new()));
    let heard = Rc::clone(&words);
    let on_written = Rc::new(move |word| heard.borrow_mut().push((word, Instant::now())));
    let begun = Instant::now();
    let answer = wire.send(request, bounds, on_written).await;
    let head = Instant::now();
    Told { begun, words: words.take(), head, answer }
}

/// Reads a body to its end.
async fn body(answer: Answer) -> Result<Vec<u8>, CallError> {
    let mut all = Vec::new();
    let mut pieces = answer.body;
    while let Some(piece) = pieces.next().await {
        all.extend_from_slice(&piece?);
    }
    Ok(all)
}
