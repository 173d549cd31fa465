//! What a message says beside its payload: where and when it was first stored, and until when it is aside.

use std::sync::Arc;

use async_nats::header::NATS_MESSAGE_ID;
use async_nats::jetstream::message::StreamMessage;
use async_nats::{HeaderMap, HeaderValue};
use jiff::Timestamp;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::ids::LaneKey;
use crate::traces::TRACEPARENT;

/// Number of the first storing, on a copy.
pub(super) const SEQ: &str = "Tollgate-Seq";
/// Moment of the first storing, RFC 3339, on a copy.
pub(super) const QUEUED: &str = "Tollgate-Queued";
/// Moment of return, RFC 3339, in LATER.
pub(super) const UNTIL: &str = "Tollgate-Until";
/// What the payload is.
pub(super) const CONTENT_TYPE: &str = "Content-Type";
/// Longest one of them that is kept, in bytes.
const PARENT_BYTES_MAX: usize = 128;
/// What we store ourselves.
pub(super) const JSON: &str = "application/json";
/// How the message ids of copies begin; on other messages the headers above mean nothing.
const MOVE: &str = "move:";
/// A header ends with its line.
const ID_ENCODED: &AsciiSet = &CONTROLS.add(b'%');

/// What a message of FETCH or LATER says of its fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) origin: u64,
    pub(super) queued_at: Timestamp,
    pub(super) content_type: Option<Arc<str>>,
    pub(super) traceparent: Option<Arc<str>>,
}

impl Kept {
    pub(super) fn of(message: &StreamMessage) -> Self {
        let header = |name: &str| message.headers.get(name).map(HeaderValue::as_str);
        let copied = header(NATS_MESSAGE_ID.as_ref()).is_some_and(|id| id.starts_with(MOVE));
        let copied = |name| header(name).filter(|_| copied);
        let origin = copied(SEQ).and_then(|seq| seq.parse().ok());
        let queued_at = copied(QUEUED).and_then(|moment| moment.parse().ok());
        Self {
            origin: origin.unwrap_or(message.sequence),
            queued_at: queued_at.unwrap_or_else(|| stored_at(message)),
            content_type: header(CONTENT_TYPE).map(Arc::from),
            traceparent: header(TRACEPARENT)
                .filter(|text| text.len() <= PARENT_BYTES_MAX)
                .map(Arc::from),
        }
    }

    /// The headers of a copy.
    pub(super) fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(SEQ, self.origin.to_string());
        headers.insert(QUEUED, self.queued_at.to_string());
        if let Some(content_type) = &self.content_type {
            headers.insert(CONTENT_TYPE, &**content_type);
        }
        if let Some(traceparent) = &self.traceparent {
            headers.insert(TRACEPARENT, &**traceparent);
        }
        headers
    }
}

/// When the server stored a message.
pub(super) fn stored_at(message: &StreamMessage) -> Timestamp {
    let moment = Timestamp::from_nanosecond(message.time.unix_timestamp_nanos());
    moment.unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The message id of a fetch: what publishers are told to use.
pub(super) fn id_of(lane: &LaneKey, id: &str) -> String {
    let (account, api) = (lane.account.subject(), &lane.api);
    if id.chars().any(char::is_control) {
        format!("{account}.{api}:{}", utf8_percent_encode(id, ID_ENCODED))
    } else {
        format!("{account}.{api}:{id}")
    }
}

/// The message id of a copy: `stream` is the creation of where it comes from, `kind` where it goes.
pub(super) fn id_of_move(stream: u64, seq: u64, kind: &str) -> String {
    format!("{MOVE}{stream}:{seq}:{kind}")
}
