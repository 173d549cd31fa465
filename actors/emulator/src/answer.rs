//! What hyper sends: bodies made while they are read, and the heads around them.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use hyper::body::{Body, Frame, SizeHint};
use serde_json::json;

use crate::bulk::{big_pieces, bomb_pieces};
use crate::judge::{Refusal, Standing};
use crate::profile::{RefusalShape, RetryAfter, Tells};
use crate::report::{GzipPieces, ReportPieces};
use crate::rude::{Hint, Rude, bad_gzip};
use crate::server::Open;

/// So many pieces in a row (64 KiB each) are sent before other connections have their turn: a client that reads
/// fast must not delay the arrival stamps of the others.
const PIECES_PER_TURN: u32 = 4;

/// A body.
pub(crate) struct Answer {
    pieces: Pieces,
    /// Bytes still to come, where the head says so.
    left: Option<u64>,
    sent_in_turn: u32,
    /// Let go with the last piece, before the client can see the end of its call.
    open: Option<Open>,
}

enum Pieces {
    One(Bytes),
    Many(Box<dyn Iterator<Item = Bytes> + Send>),
    Ended,
}

impl Answer {
    pub(crate) fn one(body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let left = Some(body.len() as u64);
        Self { pieces: Pieces::One(body), left, sent_in_turn: 0, open: None }
    }

    fn many(pieces: impl Iterator<Item = Bytes> + Send + 'static, length: Option<u64>) -> Self {
        let pieces = Pieces::Many(Box::new(pieces));
        Self { pieces, left: length, sent_in_turn: 0, open: None }
    }

    /// Keeps the call open until the body's end, or until the client goes away.
    pub(crate) fn hold(&mut self, open: Option<Open>) {
        self.open = open;
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.sent_in_turn == PIECES_PER_TURN {
            self.sent_in_turn = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.sent_in_turn += 1;
        let piece = match std::mem::replace(&mut self.pieces, Pieces::Ended) {
            Pieces::One(body) => Some(body),
            Pieces::Many(mut pieces) => {
                let piece = pieces.next();
                self.pieces = Pieces::Many(pieces);
                piece
            }
            Pieces::Ended => None,
        };
        let length = piece.as_ref().map_or(0, |piece| piece.len() as u64);
        self.left = self.left.map(|left| left.saturating_sub(length));
        if piece.is_none() || self.left == Some(0) {
            self.pieces = Pieces::Ended;
            self.open = None;
        }
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.pieces, Pieces::Ended) || self.left == Some(0)
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// A head with a body of this type.
fn head(status: StatusCode, content_type: &'static str, body: Answer) -> Response<Answer> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn in_json(status: StatusCode, body: &serde_json::Value) -> Response<Answer> {
    head(status, "application/json", Answer::one(body.to_string()))
}

/// An error with a code, as providers send it.
pub(crate) fn error(status: StatusCode, code: &str) -> Response<Answer> {
    in_json(status, &json!({ "error": { "code": code } }))
}

/// A call that a limit refused.
pub(crate) fn refused(
    refusal: &Refusal,
    shape: RefusalShape,
    retry_after: RetryAfter,
) -> Response<Answer> {
    let body = json!({ "error": {
        "code": "rate_limited",
        "limit": &*refusal.limit,
        "early_us": refusal.early.as_micros() as u64,
    }});
    let status = |status| StatusCode::from_u16(status).unwrap_or(StatusCode::TOO_MANY_REQUESTS);
    let mut response = match shape {
        RefusalShape::Status(code) => in_json(status(code), &body),
        RefusalShape::Code(code) => {
            let body =
                json!({ "code": code, "message": "too many calls", "limit": &*refusal.limit });
            in_json(StatusCode::OK, &body)
        }
        RefusalShape::Html(code) => {
            let page = "<!doctype html>\n<html><body><h1>Please slow down</h1></body></html>\n";
            head(status(code), "text/html; charset=utf-8", Answer::one(page))
        }
    };
    let seconds = refusal.early.as_millis().div_ceil(1_000).max(1) as u64;
    let value = match retry_after {
        RetryAfter::No => return response,
        RetryAfter::Seconds => HeaderValue::from(seconds),
        RetryAfter::Date => date_in(seconds),
    };
    response.headers_mut().insert(RETRY_AFTER, value);
    response
}

/// What an answer tells of a window.
pub(crate) fn tell(response: &mut Response<Answer>, tells: Tells, standing: Option<&Standing>) {
    let Some(standing) = standing else { return };
    let Standing { limit, max, within, left, reset } = standing;
    let reset = reset.as_millis().div_ceil(1_000);
    let told = match tells {
        Tells::Nothing => return,
        Tells::Headers => vec![
            ("x-ratelimit-limit", max.to_string()),
            ("x-ratelimit-remaining", left.to_string()),
            ("x-ratelimit-reset", reset.to_string()),
        ],
        Tells::Fields => {
            let window = within.as_secs().max(1);
            vec![
                ("ratelimit", format!("\"{limit}\";r={left};t={reset}")),
                ("ratelimit-policy", format!("\"{limit}\";q={max};w={window}")),
            ]
        }
    };
    for (name, value) in told {
        let value = HeaderValue::from_str(&value).expect("names of limits are visible ASCII");
        response.headers_mut().insert(name, value);
    }
}

/// A date at least so many seconds ahead. Dates have whole seconds, so one more is added.
fn date_in(seconds: u64) -> HeaderValue {
    let at = SystemTime::now() + Duration::from_secs(seconds + 1);
    HeaderValue::from_str(&httpdate::fmt_http_date(at)).expect("a date is visible ASCII")
}

/// A report. What fits into one piece has a length, longer ones are chunked.
pub(crate) fn report(pieces: ReportPieces, is_gzip: bool) -> Response<Answer> {
    let body = if is_gzip { whole_or_many(GzipPieces::new(pieces)) } else { whole_or_many(pieces) };
    let mut response = head(StatusCode::OK, "application/json", body);
    if is_gzip {
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

fn whole_or_many(mut pieces: impl Iterator<Item = Bytes> + Send + 'static) -> Answer {
    let first = pieces.next().unwrap_or_default();
    match pieces.next() {
        None => Answer::one(first),
        Some(second) => Answer::many([first, second].into_iter().chain(pieces), None),
    }
}

/// A rude answer that is good HTTP. `earlier` is how often this account made the same call before.
pub(crate) fn rude(rude: &Rude, earlier: u32) -> Response<Answer> {
    let good = || in_json(StatusCode::OK, &json!({ "ok": true }));
    let gzip = |body| {
        let mut response = head(StatusCode::OK, "application/json", body);
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        response
    };
    match rude {
        Rude::Status(code) => match StatusCode::from_u16(*code) {
            Ok(status) => in_json(status, &json!({ "status": code })),
            Err(_) => error(StatusCode::BAD_REQUEST, "bad_status"),
        },
        Rude::Flaky { fails } if earlier < *fails => {
            error(StatusCode::INTERNAL_SERVER_ERROR, "flaky")
        }
        Rude::TooMany { times, retry_after } if earlier < *times => too_many(*retry_after),
        Rude::Html => {
            let page = "<!doctype html>\n<html><body><h1>Please log in</h1></body></html>\n";
            head(StatusCode::OK, "text/html; charset=utf-8", Answer::one(page))
        }
        Rude::Bomb { bytes } => gzip(Answer::many(bomb_pieces(*bytes), None)),
        Rude::Big { bytes, is_chunked } => {
            let length = (!is_chunked).then_some(*bytes);
            let body = Answer::many(big_pieces(*bytes), length);
            head(StatusCode::OK, "application/octet-stream", body)
        }
        Rude::Redirect { to } => match HeaderValue::from_str(to) {
            Ok(to) => {
                let mut response = in_json(StatusCode::FOUND, &json!({ "moved": true }));
                response.headers_mut().insert(LOCATION, to);
                response
            }
            Err(_) => error(StatusCode::BAD_REQUEST, "bad_location"),
        },
        Rude::BadGzip(kind) => gzip(Answer::one(bad_gzip(*kind))),
        _ => good(),
    }
}

fn too_many(hint: Hint) -> Response<Answer> {
    let mut response = error(StatusCode::TOO_MANY_REQUESTS, "too_many");
    let value = match hint {
        Hint::No => return response,
        Hint::Seconds(seconds) => HeaderValue::from(seconds),
        Hint::Date => date_in(1),
        Hint::Garbage => HeaderValue::from_static("in a little while"),
        Hint::Huge => HeaderValue::from_static("99999999999999999999999"),
    };
    response.headers_mut().insert(RETRY_AFTER, value);
    response
}
