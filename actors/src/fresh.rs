//! Objects that are used instead of a call: `fresh_for` of a fetch, or of an api for all of its fetches.
//!
//! Beside the objects, below `_fresh/`, a note for each request leads from the request to the manifest that was
//! stored last for it. Notes are written and looked for only where `fresh_for` says so, before the fetch leaves the
//! queue; a note that is lost costs a call and nothing else. What a note says is believed only if the manifest that
//! it names is there. Where its `fresh_for` is over, a later sweep removes it.

use std::time::Duration;

use jiff::Timestamp;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tollgate_protos::{Done, Fetch, Manifest};

use crate::collector::Item;
use crate::config::parse_duration;
use crate::pages;
use crate::plan::{Api, Platform};
use crate::recipe::{self, FetchContext};
use crate::shard::context::Context;
use crate::store::{SinkError, Store, StoreErrorKind};

/// Where notes are.
pub(crate) const FOLDER: &str = "_fresh";
/// An object may be so much younger than now as it seems: clocks of nodes differ. One that is younger still was made
/// before a clock was set back, and how old it is nobody knows.
const AHEAD_MAX: Duration = Duration::from_secs(5);
/// Notes that are looked at in one sweep.
const SWEPT_MAX: usize = 5_000;
/// A sweep ends when the store has refused so many of them: it would refuse others.
const REFUSED_MAX: u32 = 10;
/// Longest `fresh_for`.
pub(crate) const FRESH_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// Tells requests apart: what is called, how, and with what; not as whom, which the account tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RequestKey([u8; 16]);

#[cfg(test)]
impl RequestKey {
    pub(crate) fn of_test(number: u8) -> Self {
        Self([number; 16])
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Note {
    /// The key of the manifest.
    manifest: String,
    /// Of which queue and fetch it was then: another request may have the same key later.
    queue: String,
    seq: u64,
    /// When nobody has a use for it any more. Earlier versions did not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
    /// When the first of several pages was stored: as old is the oldest of what is used. Earlier versions did not say
    /// it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
}

/// How old an object may be that is used instead of a call; nothing if none is.
pub(crate) fn wanted(api: &Api, fetch: &Fetch) -> Option<Duration> {
    match &fetch.fresh_for {
        Some(text) => parse_duration(text),
        None => api.fresh_for,
    }
}

/// How long a note of a fetch is of use: for its own `fresh_for` or its api's, whichever is longer.
fn longest(api: &Api, fetch: &Fetch) -> Option<Duration> {
    wanted(api, fetch).max(api.fresh_for)
}

/// The request that a fetch would make, if its objects are to be used for others too.
pub(crate) fn request_of(platform: &Platform, api: &Api, item: &Item) -> Option<RequestKey> {
    wanted(api, &item.fetch)?;
    let account = &item.lane.account.account;
    let context = FetchContext {
        account,
        id: &item.id,
        params: &item.fetch.params,
        queued_at: item.queued_at,
    };
    let request = recipe::build(platform, api, &context).ok()?;
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    for text in [platform.name.as_str(), api.name.as_str(), account.as_str()] {
        part(text.as_bytes());
    }
    part(request.method.as_str().as_bytes());
    part(request.url.as_str().as_bytes());
    for (name, value) in &request.headers {
        // A secret is another tomorrow, and the request the same.
        if !value.is_sensitive() {
            part(name.as_str().as_bytes());
            part(value.as_bytes());
        }
    }
    part(request.body.as_deref().unwrap_or_default());
    let digest = hash.finalize();
    let mut key = [0; 16];
    key.copy_from_slice(digest.get(..16)?);
    Some(RequestKey(key))
}

fn note_key(request: RequestKey) -> Path {
    Path::from_iter([FOLDER, &format!("{:032x}.json", u128::from_be_bytes(request.0))])
}

/// How another fetch of the same request was done, if its objects are young enough: a `done` of this fetch, without
/// a call. Any doubt is a no.
pub(crate) async fn find(
    shard: &Context,
    request: RequestKey,
    within: Duration,
    item: &Item,
) -> Option<Done> {
    let note = shard.store.get(&note_key(request)).await.ok()??;
    let note: Note = serde_json::from_slice(&note).ok()?;
    let manifest = shard.store.get(&Path::parse(&note.manifest).ok()?).await.ok()??;
    let manifest: Manifest = serde_json::from_slice(&manifest).ok()?;
    let lane = &item.lane;
    let same = manifest.platform == lane.account.platform.as_str()
        && manifest.account == lane.account.account.as_str()
        && manifest.api == lane.api.as_str()
        && (&manifest.queue, manifest.done.seq) == (&note.queue, note.seq);
    // The manifest of a read that was cut off is written when that goes on, however long after its pages.
    let fetched_at = manifest.done.fetched_at;
    let since = note.since.map_or(fetched_at, |since| since.min(fetched_at));
    let age = shard.clock.wall().duration_since(since);
    let young = match Duration::try_from(age) {
        Ok(age) => age <= within,
        Err(_) => age.unsigned_abs() <= AHEAD_MAX,
    };
    (same && young).then(|| Done {
        id: item.id.clone(),
        seq: item.origin.0,
        attempts: 0,
        labels: item.fetch.labels.clone(),
        waited_ms: waited_ms(shard, item),
        ..manifest.done
    })
}

fn waited_ms(shard: &Context, item: &Item) -> u64 {
    let waited = shard.clock.wall().duration_since(item.queued_at);
    u64::try_from(waited.as_millis()).unwrap_or(0)
}

/// Leaves a note of what was stored for a fetch, for others of the same request.
pub(crate) async fn note(shard: &Context, item: &Item, done: &Done) {
    // What was used instead of a call has its note.
    if done.attempts == 0 {
        return;
    }
    let Some(first) = done.objects.first() else { return };
    let plan = shard.plan();
    let Some(platform) = plan.platforms.get(&item.lane.account.platform) else { return };
    let Some((_, api)) = platform.api(item.lane.api.as_str()) else { return };
    let Some(request) = request_of(platform, api, item) else { return };
    let Ok(object) = Path::parse(&first.key) else { return };
    let since = if api.pages.is_some() { begun_at(shard, item).await } else { None };
    let note = Note {
        since,
        manifest: recipe::manifest_key(&object).to_string(),
        queue: shard.queue.name().to_string(),
        seq: done.seq,
        until: longest(api, &item.fetch).and_then(|kept| shard.clock.wall().checked_add(kept).ok()),
    };
    if let Ok(json) = serde_json::to_vec(&note) {
        // Without it the next one is called, which is what happens without freshness.
        let _stored = shard.store.put_small(&note_key(request), json.into()).await.is_ok();
    }
}

/// When the first page of a read was stored, which its note in the queue tells until it is out of that.
async fn begun_at(shard: &Context, item: &Item) -> Option<Timestamp> {
    let noted = shard.queue.note(item.lane.clone(), item.origin).await.ok()??;
    let note = pages::Note::decode(&noted.bytes).ok()?;
    let started_ms = i64::try_from(note.so_far.started_ms).ok().filter(|ms| *ms > 0)?;
    let ours = note.queue == *shard.queue.name();
    Timestamp::from_millisecond(started_ms).ok().filter(|_| ours)
}

/// Removes notes that are of no use any more: whose `fresh_for` is over, or of which that is not known and that are
/// older than any. Looks at [`SWEPT_MAX`] of them, from another place on each time. How many it removed.
///
/// Two nodes may do so at once, and a note that is written meanwhile may go with the one before it: it costs a call.
///
/// # Errors
/// The store: the first note that it did not give or let go; others were looked at all the same, unless it is away or
/// did so [`REFUSED_MAX`] times.
pub(crate) async fn sweep(store: &Store, wall: Timestamp) -> Result<u64, SinkError> {
    // Keys are as good as random.
    let from = Path::from_iter([FOLDER, &format!("{:032x}", fastrand::u128(..))]);
    let mut notes = store.below(&Path::from(FOLDER), Some(&from), SWEPT_MAX).await?;
    if notes.len() < SWEPT_MAX {
        let rest = SWEPT_MAX - notes.len();
        let first = store.below(&Path::from(FOLDER), None, rest).await?;
        notes.extend(first.into_iter().filter(|(key, _)| *key <= from));
    }
    let (mut removed, mut refused) = (0, 0);
    let mut first = None;
    for (key, written) in notes {
        match sweep_one(store, &key, written, wall).await {
            Ok(is_removed) => removed += u64::from(is_removed),
            Err(error) => {
                refused += 1;
                let is_away = matches!(&error, SinkError::Store { kind: StoreErrorKind::Away, .. });
                first.get_or_insert(error);
                if is_away || refused >= REFUSED_MAX {
                    break;
                }
            }
        }
    }
    first.map_or(Ok(removed), Err)
}

/// Whether a note was of no use any more, and is removed.
async fn sweep_one(
    store: &Store,
    key: &Path,
    written: Timestamp,
    wall: Timestamp,
) -> Result<bool, SinkError> {
    let Some(json) = store.get(key).await? else { return Ok(false) };
    let Ok(note) = serde_json::from_slice::<Note>(&json) else { return Ok(false) };
    let until = note.until.or_else(|| written.checked_add(FRESH_MAX).ok());
    if until.is_none_or(|until| until >= wall) {
        return Ok(false);
    }
    store.delete(key).await?;
    Ok(true)
}
