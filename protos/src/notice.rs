//! What Tollgate tells people and machines that watch over it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Something that was wrong for long, began, goes on, or is over. `docs/notice.schema.json` has the same as a schema.
///
/// Its form is that of <https://www.standardwebhooks.com>, the data beside `type` and `timestamp`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// Names this notice; the same wherever and however often it comes.
    pub id: String,
    /// What it is about, and `began`, `goes_on` or `ended` behind a full stop, as `account_held.began`.
    #[serde(rename = "type")]
    pub kind: String,
    /// When this was noticed.
    pub timestamp: Timestamp,
    /// Since when it is so.
    pub since: Timestamp,
    /// The node that tells it.
    pub node: String,
    /// The provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Whom the provider counts; nothing where it is about several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// The endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<String>,
    /// The id of a fetch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetch: Option<String>,
    /// The name of a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
    /// How many: accounts, fetches, dead letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Until when it will be so, as far as that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// One sentence: what is wrong.
    pub what: String,
    /// The error code, where there is one, as `TG0114`; `tollgate explain` says what to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Where it stands what to do: a page of the documentation, below the root of the repository.
    pub see: String,
}
