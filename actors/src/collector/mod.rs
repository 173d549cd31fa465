//! Makes attempts and writes objects: one attempt per permit, whatever comes of it.
//!
//! A collector knows nothing of limits. It gets an [`Order`] with a permit and a slot, makes the call,
//! streams the answer into the store and says through the permit what it saw. What the outcome means for
//! the fetch (again, dead) is the throttle actor's to decide.

use std::rc::Rc;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;
use tollgate_protos::Fetch;

use crate::codes::Code;
use crate::ids::{LaneKey, Seq};
use crate::observe::Overuse;
use crate::pages::Read;
use crate::plan::{Generation, Platform};
use crate::recipe::BudgetKey;
use crate::shard::permit::Permit;
use crate::spill::Offer;
use crate::telemetry::PlatformMeters;
use crate::times::End;

pub mod actor;
mod attempt;
mod judging;
mod landing;
mod members;
mod owner;
mod paging;
mod peek;
mod place;
mod provenance;
mod resuming;
mod splitting;

pub(crate) use attempt::{USE_WITHIN, done_once, finish_until_confirmed, make, stored_before};
pub(crate) use owner::Folders;
pub(crate) use resuming::{Resumed, drop_note, put_aside, resume, still_waits};
pub(crate) use splitting::split_uncalled;

/// Bytes of a bad answer that are kept for the dead letter.
pub const BODY_START_BYTES: usize = 2048;

/// A place among the node's attempts in flight, or among those whose small bodies are being stored, or one that
/// another node has offered; dropping it lets the next one in.
#[derive(Debug)]
pub struct Slot(Where);

#[derive(Debug)]
enum Where {
    Home { _place: OwnedSemaphorePermit },
    Abroad(Offer),
}

impl Slot {
    pub(crate) fn new(place: OwnedSemaphorePermit) -> Self {
        Self(Where::Home { _place: place })
    }

    /// One of another node.
    pub(crate) fn abroad(offer: Offer) -> Self {
        Self(Where::Abroad(offer))
    }

    /// Whether it is another node's.
    pub(crate) fn is_abroad(&self) -> bool {
        matches!(self.0, Where::Abroad(_))
    }

    /// Whether it is another node's, and an attempt would arrive there too late.
    pub(crate) fn has_lapsed(&self) -> bool {
        matches!(&self.0, Where::Abroad(offer) if offer.has_lapsed())
    }

    /// The offer that it is, where it is another node's.
    pub(crate) fn into_offer(self) -> Result<Offer, Self> {
        match self.0 {
            Where::Abroad(offer) => Ok(offer),
            home @ Where::Home { .. } => Err(Self(home)),
        }
    }
}

/// A fetch as the actors carry it.
#[derive(Debug)]
pub struct Item {
    /// Its lane.
    pub lane: LaneKey,
    /// Its place in the queue.
    pub seq: Seq,
    /// The number of its first storing, by which objects, events and letters know it.
    pub origin: Seq,
    /// When it was first stored.
    pub queued_at: Timestamp,
    /// Its id within platform, account and api.
    pub id: String,
    /// What was ordered.
    pub fetch: Fetch,
    /// The budgets that its calls count in, in the order in which they are asked.
    pub budgets: Box<[BudgetKey]>,
    /// The reading of the configuration that these are by.
    pub generation: Generation,
}

impl Item {
    /// The same with the budgets of that reading of the configuration.
    pub(crate) fn with_budgets(&self, budgets: Box<[BudgetKey]>, generation: Generation) -> Self {
        Self {
            lane: self.lane.clone(),
            seq: self.seq,
            origin: self.origin,
            queued_at: self.queued_at,
            id: self.id.clone(),
            fetch: self.fetch.clone(),
            budgets,
            generation,
        }
    }
}

/// One attempt to make.
#[derive(Debug)]
pub struct Order {
    /// Leave to make one call; hears what becomes of it.
    pub permit: Permit,
    /// The place among the attempts in flight.
    pub slot: Slot,
    /// The provider.
    pub platform: Arc<Platform>,
    /// Which of its apis.
    pub api: u16,
    /// What is counted of it.
    pub(crate) meters: Rc<PlatformMeters>,
    /// What to collect.
    pub item: Rc<Item>,
    /// Calls for this fetch, or for this page of it, this one included.
    pub calls: u32,
    /// How far its read has come; nothing where it has not begun, or its api has no pages.
    pub read: Option<Arc<Read>>,
}

/// What the provider last said, for the dead letter.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LastAnswer {
    /// Its status.
    pub status: Option<u16>,
    /// Its first 2 KiB, as text.
    pub body_start: Option<String>,
    /// What was wrong with it, where that has a code of its own: the fetch is given up for that then.
    pub flaw: Option<Code>,
    /// The rule that calls it a refusal, if one does.
    pub over: Option<Box<Overuse>>,
    /// It refuses access, which counts for the circuit breaker.
    pub denied: bool,
    /// A rule of `answers` says what it is.
    pub judged: bool,
    /// The provider's id of the call.
    pub request_id: Option<String>,
}

/// Why a fetch wants another try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Again {
    /// The answer was bad or broke off: counts against `attempts_max`.
    Transient,
    /// The answer is a part of what was asked for: counts against `attempts_max`.
    Incomplete,
    /// "Too many calls": the account is held.
    Throttled,
    /// The call is too heavy for now: the fetch waits, and nobody else.
    Parked,
    /// Access is refused, as it was before: the account is held, and its fetches wait.
    Denied,
    /// No connection: the call never reached the provider.
    Unreachable,
    /// The object store does not take bodies: not the fetch's fault.
    StoreAway,
    /// The same after the note of its page was kept: how far its read has come is looked up.
    Unsettled,
    /// The permit lapsed before its use: not the fetch's fault.
    Late,
    /// The collector died with it.
    Crashed,
    /// What signs it was not at hand any more, or was refused and is renewed: not the fetch's fault.
    Unsigned,
}

impl Again {
    /// The class as logs and metrics name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Incomplete => "incomplete",
            Self::Denied => "denied",
            Self::Throttled => "throttled",
            Self::Parked => "parked",
            Self::Unreachable => "unreachable",
            Self::StoreAway | Self::Unsettled => "store_away",
            Self::Late => "late",
            Self::Crashed => "crashed",
            Self::Unsigned => "unsigned",
        }
    }
}

/// What became of an attempt.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Stored, and out of the queue.
    Done {
        /// Bytes of the last body after decompression.
        bytes: u64,
        /// Objects stored (the manifest is not counted).
        objects: u32,
    },
    /// A page is stored, or the read begins anew; another page is to be called.
    More {
        /// How far it has come.
        read: Arc<Read>,
        /// Bytes of the page's body after decompression.
        bytes: u64,
        /// Objects stored: one, or none.
        objects: u32,
    },
    /// The call was refused as too heavy, and fetches that ask for less have taken the place of this one.
    Split {
        /// One sentence for logs and holds.
        reason: String,
        /// What the provider said.
        last: LastAnswer,
    },
    /// Worth another try.
    Again {
        /// What kind of failure it was.
        kind: Again,
        /// Not before this has passed, if the provider said so.
        after: Option<std::time::Duration>,
        /// One sentence for logs and the dead letter.
        reason: String,
        /// What the provider said.
        last: LastAnswer,
    },
    /// Another try would bring the same.
    Dead {
        /// Why, as a code.
        code: Code,
        /// Why, as a sentence.
        reason: String,
        /// What the provider said.
        last: LastAnswer,
    },
}

impl Outcome {
    /// Its class as metrics name it, and the status of the answer, if there was one.
    pub(crate) fn judged(&self) -> (&'static str, Option<u16>) {
        match self {
            // Only such an answer is stored.
            Self::Done { .. } | Self::More { .. } => ("ok", Some(200)),
            Self::Again { kind, last, .. } => (kind.as_str(), last.status),
            Self::Split { last, .. } => ("throttled", last.status),
            Self::Dead { last, .. } => ("permanent", last.status),
        }
    }

    /// How it counts among the ends of attempts.
    pub(crate) fn end(&self) -> End {
        match self {
            Self::Done { .. } | Self::More { .. } => End::Done,
            Self::Again { kind: Again::Throttled | Again::Parked, .. } | Self::Split { .. } => {
                End::Throttled
            }
            Self::Again { kind: Again::Unreachable, .. } => End::Unreachable,
            Self::Again { kind: Again::StoreAway | Again::Unsettled, .. } => End::StoreAway,
            Self::Again { .. } | Self::Dead { .. } => End::Failed,
        }
    }
}
