//! The first bytes of a body, for rules that want to see them; the body stays whole.

use std::io::Read;
use std::time::Duration;

use bytes::Bytes;
use flate2::read::{GzDecoder, ZlibDecoder};
use futures_util::{StreamExt, stream};
use tokio::time::{Instant, timeout_at};

use crate::http::{Answer, CallError};
use crate::observe::BODY_SEEN_MAX;
use crate::store::Decode;

/// Reads so much of a body that rules see [`BODY_SEEN_MAX`] bytes of it, or all of it if it is shorter, or what
/// came `within` that time. What was read comes again, before the rest.
pub(super) async fn peek(answer: &mut Answer, decode: Decode, within: Option<Duration>) -> Vec<u8> {
    let deadline = within.map(|within| Instant::now() + within);
    let mut body = std::mem::replace(&mut answer.body, stream::empty().boxed_local());
    let mut pieces: Vec<Result<Bytes, CallError>> = Vec::new();
    let (mut read, mut ended) = (0, false);
    while read < BODY_SEEN_MAX {
        let next = match deadline {
            None => body.next().await,
            Some(deadline) => match timeout_at(deadline, body.next()).await {
                Ok(next) => next,
                Err(_) => break,
            },
        };
        match next {
            Some(Ok(piece)) => {
                read += piece.len();
                pieces.push(Ok(piece));
            }
            Some(Err(error)) => {
                pieces.push(Err(error));
                break;
            }
            None => {
                ended = true;
                break;
            }
        }
    }
    let start: Vec<u8> = pieces.iter().flatten().flatten().copied().take(BODY_SEEN_MAX).collect();
    let again = stream::iter(pieces);
    answer.body = if ended { again.boxed_local() } else { again.chain(body).boxed_local() };
    decoded(start, decode, BODY_SEEN_MAX)
}

/// The beginning of what compressed bytes mean. They may break off anywhere; what came before counts.
pub(super) fn decoded(start: Vec<u8>, decode: Decode, bytes_max: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let most = bytes_max as u64;
    let read = match decode {
        Decode::Identity => return start,
        Decode::Gzip => GzDecoder::new(start.as_slice()).take(most).read_to_end(&mut out),
        Decode::Deflate => ZlibDecoder::new(start.as_slice()).take(most).read_to_end(&mut out),
    };
    // An error is where it breaks off: what was decoded is there.
    drop(read);
    out
}
