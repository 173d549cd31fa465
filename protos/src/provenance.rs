//! Where an object comes from: the fetch, the permit, the request without its secrets, the answer, the moments.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::Object;

/// Who stored an object, under which configuration, and by which call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Provenance {
    /// The node that made the call.
    pub node: String,
    /// The version of Tollgate.
    pub tollgate: String,
    /// Tells configurations apart: 16 digits of a SHA-256 of all that says how calls are made.
    pub config: String,
    /// Tells recipes apart: 16 digits of a SHA-256 of what the platform says of all its apis, and of this one.
    pub recipe: String,
    /// When the fetch was stored in its queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queued_at: Option<Timestamp>,
    /// The call; of a read of several pages the last one. Nothing where a read was ended after a crash without a call.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub call: Option<Call>,
}

/// One call that brought an object. No secret is in it: values that sign a call stand as `[redacted]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Which page it brought, from 1.
    pub page: u32,
    /// Which call for this fetch, or for this page of it, from 1.
    pub attempt: u32,
    /// When the gate let it through.
    pub permitted_at: Timestamp,
    /// When the request was written; nothing where the answer was there before that was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<Timestamp>,
    /// When the answer's head had come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_at: Option<Timestamp>,
    /// The method.
    pub method: String,
    /// The URL, at most 2 KiB of it.
    pub url: String,
    /// The request's headers, at most 32 and 256 bytes of each, without what signs the call.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub request_headers: BTreeMap<String, String>,
    /// The length of the request's body in bytes, if it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_body_bytes: Option<u64>,
    /// SHA-256 of that body before it was signed, lower-case hex.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_body_sha256: Option<String>,
    /// The answer's status.
    pub status: u16,
    /// Some of the answer's headers: of what it is, of how old it is, of limits, and the provider's id of it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub answer_headers: BTreeMap<String, String>,
}

/// A line below `_manifests/`: one object, and all that is known of where it comes from. It is written before the object
/// becomes visible, so that none is without one; of several lines with one key the last one counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectLine {
    /// The form of this line; 1.
    pub version: u32,
    /// When the object was about to become visible.
    pub stored_at: Timestamp,
    /// The object.
    #[serde(flatten)]
    pub object: Object,
    /// The provider.
    pub platform: String,
    /// Whom the provider counts.
    pub account: String,
    /// The endpoint.
    pub api: String,
    /// The fetch's id.
    pub id: String,
    /// Its place in the queue.
    pub seq: u64,
    /// Names the queue that `seq` counts in.
    pub queue: String,
    /// The fetch's parameters, where they have at most 8 KiB.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub params: Map<String, Value>,
    /// The rest.
    #[serde(flatten)]
    pub provenance: Provenance,
}
