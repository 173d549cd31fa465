//! What nodes say to each other of attempts that travel: JSON, one message each.
//!
//! Credentials never travel: a guest signs with those of its own configuration. Nor does a key: both make it of the same
//! fetch by the same configuration.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tollgate_protos::{Done, Fetch};

use crate::codes::Code;
use crate::collector::{Again, Item, LastAnswer, Outcome};
use crate::ids::{LaneKey, Seq};
use crate::nats::session::SessionId;
use crate::observe::Facts;
use crate::pages::{Note, Read};
use crate::plan::How;
use crate::shard::permit::BodyRead;

/// A message and who sent it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Letter {
    pub(crate) from: SessionId,
    pub(crate) word: Word,
}

/// What is said.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Word {
    /// To all: this node's slots are taken.
    Ask {
        /// Counts the asks of a node.
        number: u64,
        /// So many could be used.
        wants: usize,
        /// How it collects.
        how: How,
    },
    /// To who asked: these slots, for one attempt each.
    Offer {
        /// What it answers.
        ask: u64,
        /// Their numbers.
        offers: Vec<u64>,
    },
    /// To who offered: these are not used.
    Back {
        /// Their numbers.
        offers: Vec<u64>,
    },
    /// To who offered: an attempt.
    Order {
        /// The slot.
        offer: u64,
        /// Its permit, by its number at its home.
        permit: u64,
        /// The attempt.
        order: Box<Order>,
    },
    /// To the home: how far an attempt is.
    Told {
        /// Its permit.
        permit: u64,
        /// All that is known.
        told: Box<Told>,
    },
    /// To the guest: the end of this attempt was heard.
    Heard {
        /// Its permit.
        permit: u64,
    },
    /// To the home: these attempts go on, and nothing is known of them yet.
    Going {
        /// Their permits.
        permits: Vec<u64>,
    },
    /// To the guest: these are all that are waited for.
    Waits {
        /// Their permits, and the offer that each was sent for.
        permits: Vec<(u64, u64)>,
    },
    /// To the home: may the object of this attempt become visible?
    May {
        /// Its permit.
        permit: u64,
    },
    /// To the guest: yes or no.
    Leave {
        /// The permit.
        permit: u64,
        /// Whether it may.
        may: bool,
    },
}

/// An attempt to make.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) how: How,
    lane: String,
    seq: Seq,
    pub(crate) origin: Seq,
    queued_at: Timestamp,
    id: String,
    fetch: Fetch,
    pub(crate) calls: u32,
    read: Option<Reading>,
    /// How long the home keeps the places of a call that it does not hear of.
    pub(crate) lost_call: Duration,
}

/// How far a read has come, as its note has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Reading {
    version: u64,
    note: String,
}

impl Reading {
    fn of(read: &Read) -> Self {
        let note = Note { so_far: read.so_far.clone(), ..Note::default() };
        let more = crate::pages::More {
            filled: note.so_far.filled,
            used: note.so_far.used,
            ..crate::pages::More::default()
        };
        let note = Note { more, ..note };
        Self { version: read.version(), note: BASE64.encode(note.encode()) }
    }

    fn read(&self) -> Result<Arc<Read>, String> {
        let bytes = BASE64.decode(&self.note).map_err(|error| error.to_string())?;
        let note = Note::decode(&bytes).map_err(|error| error.to_string())?;
        Ok(Arc::new(Read::new(self.version, note.so_far)))
    }
}

/// An order as the guest reads it.
#[derive(Debug)]
pub(crate) struct Ordered {
    pub(crate) lane: LaneKey,
    pub(crate) seq: Seq,
    pub(crate) origin: Seq,
    pub(crate) queued_at: Timestamp,
    pub(crate) id: String,
    pub(crate) fetch: Fetch,
    pub(crate) calls: u32,
    pub(crate) read: Option<Arc<Read>>,
}

impl Order {
    pub(crate) fn of(
        item: &Item,
        (calls, read): (u32, Option<&Read>),
        how: How,
        lost_call: Duration,
    ) -> Self {
        Self {
            how,
            lost_call,
            lane: item.lane.subject(),
            seq: item.seq,
            origin: item.origin,
            queued_at: item.queued_at,
            id: item.id.clone(),
            fetch: item.fetch.clone(),
            calls,
            read: read.map(Reading::of),
        }
    }

    /// What it says.
    ///
    /// # Errors
    /// It is of another version. The error is a sentence.
    pub(crate) fn read(self) -> Result<Ordered, String> {
        let read = self.read.as_ref().map(Reading::read).transpose()?;
        let Self { lane, seq, origin, queued_at, id, fetch, calls, .. } = self;
        let lane = LaneKey::parse(&lane)?;
        Ok(Ordered { lane, seq, origin, queued_at, id, fetch, calls, read })
    }
}

/// Bytes of an order for this fetch, at most: more than its JSON is little.
pub(crate) fn order_bytes(item: &Item) -> usize {
    const BESIDE: usize = 96 * 1024;
    let fetch = serde_json::to_vec(&item.fetch).map_or(usize::MAX / 2, |text| text.len());
    fetch + BESIDE
}

/// All that has become of an attempt so far.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Told {
    /// Its request was written, and is not written again. Not told where the answer came before
    /// that was looked at, or where another connection was taken.
    #[serde(default)]
    pub(crate) written: bool,
    /// Its answer began: so long after the writing, as far as that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) answered: Option<Duration>,
    /// What the answer says of limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) facts: Option<Box<Facts>>,
    /// Its call is over: whether it may have been sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ended: Option<bool>,
    /// It is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) end: Option<Box<End>>,
}

impl Told {
    /// Whether anything has become of it yet.
    pub(crate) fn says_something(&self) -> bool {
        self.written
            || self.answered.is_some()
            || self.facts.is_some()
            || self.ended.is_some()
            || self.end.is_some()
    }

    /// It was never begun.
    pub(crate) fn not_begun(reason: &str) -> Self {
        let outcome = Outcome::Again {
            kind: Again::Late,
            after: None,
            reason: reason.to_owned(),
            last: LastAnswer::default(),
        };
        let end = End::of(&outcome, None, BodyRead::default());
        Self { ended: Some(false), end: Some(Box::new(end)), ..Self::default() }
    }
}

/// What came of an attempt.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct End {
    came: Came,
    /// How its fetch ended, for its home to record; and whether that is for fetches of its id to come, too.
    pub(crate) done: Option<(Box<Done>, bool)>,
    /// Bytes of the answer's body, and whether that is all of it.
    body: (u64, bool),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Came {
    Done { bytes: u64, objects: u32 },
    More { read: Reading, bytes: u64, objects: u32 },
    Split { reason: String, last: LastAnswer },
    Again { kind: Again, after: Option<Duration>, reason: String, last: LastAnswer },
    Dead { code: Code, reason: String, last: LastAnswer },
}

impl End {
    pub(crate) fn of(outcome: &Outcome, done: Option<(Box<Done>, bool)>, body: BodyRead) -> Self {
        let came = match outcome.clone() {
            Outcome::Done { bytes, objects } => Came::Done { bytes, objects },
            Outcome::More { read, bytes, objects } => {
                Came::More { read: Reading::of(&read), bytes, objects }
            }
            Outcome::Split { reason, last } => Came::Split { reason, last },
            Outcome::Again { kind, after, reason, last } => {
                Came::Again { kind, after, reason, last }
            }
            Outcome::Dead { code, reason, last } => Came::Dead { code, reason, last },
        };
        Self { came, done, body: (body.bytes, body.is_all) }
    }

    pub(crate) fn body(&self) -> BodyRead {
        BodyRead { bytes: self.body.0, is_all: self.body.1 }
    }

    /// What it says. One that cannot be read is a crash: what there is in the store is looked up.
    pub(crate) fn outcome(self) -> Outcome {
        match self.came {
            Came::Done { bytes, objects } => Outcome::Done { bytes, objects },
            Came::More { read, bytes, objects } => match read.read() {
                Ok(read) => Outcome::More { read, bytes, objects },
                Err(error) => crashed(&format!("its guest's answer cannot be read: {error}")),
            },
            Came::Split { reason, last } => Outcome::Split { reason, last },
            Came::Again { kind, after, reason, last } => {
                Outcome::Again { kind, after, reason, last }
            }
            Came::Dead { code, reason, last } => Outcome::Dead { code, reason, last },
        }
    }
}

/// An attempt of which nothing more is known.
pub(crate) fn crashed(reason: &str) -> Outcome {
    Outcome::Again {
        kind: Again::Crashed,
        after: None,
        reason: reason.to_owned(),
        last: LastAnswer::default(),
    }
}
