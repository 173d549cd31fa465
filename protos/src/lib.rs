//! The messages that pass between Tollgate and its users: what a fetch is, and how it ends.
//!
//! Types and their JSON form only. No rule about limits, no IO, no defaults that need a clock: what a
//! field may hold is checked where it is used (`tollgate-actors`), so that every refusal has a code.
//! [`wire`] has the same messages in protobuf.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

mod notice;
mod provenance;
pub mod wire;

pub use notice::Notice;
pub use provenance::{Call, ObjectLine, Provenance};

/// One order: collect this api of this platform for this account, with these parameters.
///
/// Unknown fields are refused: a misspelt `not_before` must not become "now".
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fetch {
    /// Up to 128 bytes; left out, it is a hash of the rest. Counts within platform, account and api.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The provider, a slug.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Whom the provider counts: any text of 1 to 256 bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// The endpoint, a slug.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<String>,
    /// What the recipe's templates may name beside `account`, `id` and `date`.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub params: Map<String, Value>,
    /// Not called before this moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// Not called after this moment: it becomes a dead letter instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// An object of the same request younger than this is used instead of a call, as `10m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fresh_for: Option<String>,
    /// Never collected a second time under the same id.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub once: bool,
    /// Before or after the rest of its account.
    #[serde(default, skip_serializing_if = "Priority::is_normal")]
    pub priority: Priority,
    /// Carried through to the manifest, the done event and the dead letter; never interpreted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// Whether a fetch goes before or after the rest of its account.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Before everything else of the account.
    High,
    /// In order.
    #[default]
    Normal,
    /// When nothing else of the account waits.
    Low,
}

impl Priority {
    /// True for the default; such a priority is not written out.
    #[allow(clippy::trivially_copy_pass_by_ref)] // the signature serde's `skip_serializing_if` asks for
    fn is_normal(&self) -> bool {
        *self == Self::Normal
    }
}

/// One stored object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Where it is, below the store's URL.
    pub key: String,
    /// Length of the body after decompression, in bytes.
    pub bytes: u64,
    /// SHA-256 of the body after decompression, lower-case hex.
    pub sha256: String,
    /// Length of the object as stored (compressed), in bytes.
    pub stored_bytes: u64,
    /// SHA-256 of the object as stored, lower-case hex. Earlier versions did not say it, and of pages that were stored
    /// before a crash it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_sha256: Option<String>,
    /// Which file of an archive it was, if it was one of several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<String>,
}

/// What became of a fetch whose objects are durable.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// The fetch's id.
    pub id: String,
    /// Its place in the queue; a second `done` of the same fetch has the same one.
    pub seq: u64,
    /// What was stored, first page first; of an archive, in its order. Of a read of more than 256 pages the first 256: see `lists`.
    /// Fewer where a NATS server's `max_payload` has no room for all: see `manifest`.
    pub objects: Vec<Object>,
    /// The status of the last answer.
    pub http_status: u16,
    /// Calls made, retries included.
    pub attempts: u32,
    /// Answers stored.
    pub pages: u32,
    /// From queueing to the last permit, in milliseconds.
    pub waited_ms: u64,
    /// When the last answer was stored.
    pub fetched_at: Timestamp,
    /// The fetch's labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Where the manifest is; said where `objects` does not name all: there are lists beside it, or it names them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
    /// How many lists `_pages-00001.json`, `_pages-00002.json`, … beside the manifest name all objects in order; 0
    /// where the manifest does.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lists: u32,
    /// A rule says that there is nothing, and that this is right.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty: bool,
    /// A rule says that it is a part only, and that this is kept.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub incomplete: bool,
    /// The provider's id of the last call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Ids of the fetches that took its place because it asked for too much; nothing was stored then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub split_into: Vec<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // the signature serde's `skip_serializing_if` asks for
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// `_manifest.json`: written last, beside the first page. Without it a prefix is not complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The form of this file; 1.
    pub version: u32,
    /// Names the queue that `seq` counts in.
    pub queue: String,
    /// The provider.
    pub platform: String,
    /// Whom the provider counts.
    pub account: String,
    /// The endpoint.
    pub api: String,
    /// The fetch's parameters.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub params: Map<String, Value>,
    /// Where the objects come from. Earlier versions did not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<Box<Provenance>>,
    /// How it ended.
    #[serde(flatten)]
    pub done: Done,
}

/// A fetch that was given up, with the reason. Replayable.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Dead {
    /// Its place in the queue, or in the list of dead letters if it never had one.
    pub seq: u64,
    /// The fetch, where it could be understood.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetch: Option<Fetch>,
    /// The first 2 KiB of what came in, where it could not; of bytes that are not text the first 512, escaped
    /// as `\xff`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<String>,
    /// Where it came from, as `FILE:LINE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The error code, as `TG0301`.
    pub code: String,
    /// One sentence: what happened.
    pub reason: String,
    /// Calls made for it.
    pub attempts: u32,
    /// Status of the last answer, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
    /// The first 2 KiB of the last answer, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body_start: Option<String>,
    /// The provider's id of the last call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// When it was given up.
    pub died_at: Timestamp,
}
