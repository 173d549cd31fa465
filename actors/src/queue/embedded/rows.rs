//! Keys and values of the queue's tables, as the parent module lists them.

use bytes::Bytes;
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use tollgate_protos::Dead;

use crate::ids::{LaneKey, Seq, preview};
use crate::queue::{Appended, NewFetch, Queued};
use crate::state::{Failure, clock};

/// Queueing time and mark, before the payload.
const ROW_HEAD: usize = 24;
/// Until and length of the lane, before the lane.
const ASIDE_HEAD: usize = 10;

/// The first half of a SHA-256: 16 bytes tell any number of ids apart that fits on a disk.
pub(super) type Mark = [u8; 16];

/// A fetch on its way in, with all that needs no database worked out.
pub(super) struct Incoming {
    pub(super) lane: LaneKey,
    pub(super) subject: String,
    pub(super) mark: Mark,
    pub(super) row: Vec<u8>,
    /// In ms since 1970, rounded up.
    pub(super) not_before_ms: Option<u64>,
}

impl Incoming {
    pub(super) fn new(fetch: NewFetch, now_ms: u64) -> Self {
        let mark = mark(&fetch.lane, &fetch.id);
        let mut row = Vec::with_capacity(ROW_HEAD + fetch.payload.len());
        row.extend_from_slice(&now_ms.to_be_bytes());
        row.extend_from_slice(&mark);
        row.extend_from_slice(&fetch.payload);
        Self {
            subject: fetch.lane.subject(),
            lane: fetch.lane,
            mark,
            row,
            not_before_ms: fetch.not_before.map(clock::ceil_ms),
        }
    }
}

/// An id counts within platform, account and api, whatever its priority. No subject has a zero byte, so
/// no two pairs of subject and id read the same.
fn mark(lane: &LaneKey, id: &str) -> Mark {
    let mut hash = Sha256::new();
    hash.update(lane.account.subject());
    hash.update(".");
    hash.update(lane.api.as_str());
    hash.update([0]);
    hash.update(id);
    let mut mark = [0; 16];
    mark.copy_from_slice(&hash.finalize()[..16]);
    mark
}

/// The mark that a row carries.
pub(super) fn mark_of(row: &[u8]) -> Result<Mark, Failure> {
    let mark = row.get(8..ROW_HEAD).and_then(|mark| mark.try_into().ok());
    mark.ok_or_else(|| corrupt("a waiting fetch is cut short"))
}

/// A row as the queue hands it out.
pub(super) fn queued(seq: u64, row: &[u8]) -> Result<Queued, Failure> {
    let cut_short = || corrupt("a waiting fetch is cut short");
    let (head, payload) = row.split_at_checked(ROW_HEAD).ok_or_else(cut_short)?;
    let queued_ms = read_seq(&head[..8])?;
    let queued_at =
        i64::try_from(queued_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    let queued_at = queued_at.ok_or_else(|| corrupt("a fetch was queued at no moment"))?;
    Ok(Queued {
        seq: Seq(seq),
        origin: Seq(seq),
        queued_at,
        payload: Bytes::copy_from_slice(payload),
        content_type: None,
        traceparent: None,
    })
}

/// The key of a waiting fetch.
pub(super) fn fetch_key(lane: &str, seq: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(lane.len() + 9);
    key.extend_from_slice(lane.as_bytes());
    key.push(0);
    key.extend_from_slice(&seq.to_be_bytes());
    key
}

/// Lane and number of a waiting fetch.
pub(super) fn read_fetch_key(key: &[u8]) -> Result<(&str, u64), Failure> {
    let wrong = || corrupt("the key of a waiting fetch is no lane and number");
    let (lane, seq) = key.split_last_chunk::<8>().ok_or_else(wrong)?;
    let lane = lane.strip_suffix(&[0]).ok_or_else(wrong)?;
    let lane = std::str::from_utf8(lane).map_err(|_| wrong())?;
    Ok((lane, u64::from_be_bytes(*seq)))
}

/// What is kept of a fetch that was put aside.
pub(super) struct Aside<'a> {
    pub(super) until_ms: u64,
    pub(super) lane: &'a str,
    pub(super) row: &'a [u8],
}

impl<'a> Aside<'a> {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let lane_bytes =
            u16::try_from(self.lane.len()).expect("a subject is far shorter than 64 KiB");
        let mut value = Vec::with_capacity(ASIDE_HEAD + self.lane.len() + self.row.len());
        value.extend_from_slice(&self.until_ms.to_be_bytes());
        value.extend_from_slice(&lane_bytes.to_be_bytes());
        value.extend_from_slice(self.lane.as_bytes());
        value.extend_from_slice(self.row);
        value
    }

    pub(super) fn read(value: &'a [u8]) -> Result<Self, Failure> {
        let wrong = || corrupt("a fetch that was put aside is cut short");
        let (until, rest) = value.split_first_chunk::<8>().ok_or_else(wrong)?;
        let (lane_bytes, rest) = rest.split_first_chunk::<2>().ok_or_else(wrong)?;
        let lane_bytes = usize::from(u16::from_be_bytes(*lane_bytes));
        let (lane, row) = rest.split_at_checked(lane_bytes).ok_or_else(wrong)?;
        let lane = std::str::from_utf8(lane).map_err(|_| wrong())?;
        Ok(Self { until_ms: u64::from_be_bytes(*until), lane, row })
    }
}

/// The key that sorts by the moment of return.
pub(super) fn due_key(until_ms: u64, seq: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&until_ms.to_be_bytes());
    key[8..].copy_from_slice(&seq.to_be_bytes());
    key
}

/// Moment of return and number.
pub(super) fn read_due_key(key: &[u8]) -> Result<(u64, u64), Failure> {
    let (until, seq) =
        key.split_first_chunk::<8>().ok_or_else(|| corrupt("a moment of return is cut short"))?;
    Ok((u64::from_be_bytes(*until), read_seq(seq)?))
}

/// What became of an id.
#[derive(Clone, Copy)]
pub(super) enum IdState {
    Waiting(u64),
    Done(u64),
    Dead(u64),
}

impl IdState {
    pub(super) fn to_bytes(self) -> [u8; 9] {
        let (state, seq) = match self {
            Self::Waiting(seq) => (1, seq),
            Self::Done(seq) => (2, seq),
            Self::Dead(seq) => (3, seq),
        };
        let mut value = [state; 9];
        value[1..].copy_from_slice(&seq.to_be_bytes());
        value
    }

    pub(super) fn read(value: &[u8]) -> Result<Self, Failure> {
        let (&state, seq) =
            value.split_first().ok_or_else(|| corrupt("the state of an id is cut short"))?;
        let seq = read_seq(seq)?;
        match state {
            1 => Ok(Self::Waiting(seq)),
            2 => Ok(Self::Done(seq)),
            3 => Ok(Self::Dead(seq)),
            _ => Err(corrupt("the state of an id is none that is known")),
        }
    }
}

impl From<IdState> for Appended {
    fn from(state: IdState) -> Self {
        match state {
            IdState::Waiting(seq) => Self::Waiting(Seq(seq)),
            IdState::Done(seq) => Self::Done(Seq(seq)),
            IdState::Dead(seq) => Self::Dead(Seq(seq)),
        }
    }
}

/// Eight bytes as a number.
pub(super) fn read_seq(value: &[u8]) -> Result<u64, Failure> {
    let bytes = value.try_into().map_err(|_| corrupt("a number has not eight bytes"))?;
    Ok(u64::from_be_bytes(bytes))
}

/// A dead letter as it is kept.
pub(super) fn dead_json(dead: &Dead) -> Vec<u8> {
    serde_json::to_vec(dead).expect("its maps have text keys and its values come from JSON")
}

/// A dead letter as it is handed out.
pub(super) fn dead(seq: u64, row: &[u8]) -> Result<Dead, Failure> {
    let dead: Dead = serde_json::from_slice(row)
        .map_err(|error| corrupt(&format!("dead letter {seq} cannot be read: {error}")))?;
    Ok(Dead { seq, ..dead })
}

/// A lane from its subject.
pub(super) fn lane(subject: &str) -> Result<LaneKey, Failure> {
    LaneKey::parse(subject)
        .map_err(|error| corrupt(&format!("the lane `{}` is none: {error}", preview(subject))))
}

fn corrupt(reason: &str) -> Failure {
    Failure::Corrupt(reason.into())
}
