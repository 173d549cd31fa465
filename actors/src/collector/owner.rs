//! Whose the objects of a folder are, where fetches may ask for the same one.
//!
//! Two orders are the same fetch if platform, api and account are, and the id or the parameters: an id that is collected
//! again replaces what it has stored, and so does the same request under another id, as a job of the next day orders it.
//! All others are different.
//!
//! What is stored decides: the manifest says whose the folder is. Only while a fetch stores its objects there may be
//! none, or one that is about to be replaced: for that time `_owner.json` says who is at it. A store lets only one
//! create it, and it counts for as long as its fetch waits in the queue. Whoever finds it comes again later. A template
//! that names platform, api, account and id gives no two different fetches a folder, so nothing is asked then.
//!
//! Fetches of one process store in a folder one after the other, whatever the template: an id may be ordered twice.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::timeout;
use tollgate_gate::Sent;
use tollgate_protos::{Manifest, Priority};

use super::attempt::Attempt;
use super::place::Place;
use super::{Again, Item, LastAnswer, Outcome};
use crate::codes::Code;
use crate::ids::{Account, AccountKey, LaneKey, Seq, Slug, preview};
use crate::recipe;
use crate::shard::context::Context;
use crate::store::SinkError;

/// The form of the file.
const VERSION: u32 = 1;
/// So much of the time in which a permit has to be used may pass while the store is asked.
const ASK_WITHIN: Duration = Duration::from_millis(250);
/// A fetch that finds another at its folder tries again after this.
const BUSY_AGAIN: Duration = Duration::from_secs(2);
/// Longest wait for another fetch of this process that is storing there; then as if it were another process's.
const LOCK_WITHIN: Duration = Duration::from_secs(60);
/// For so long an `_owner.json` counts whose fetch is in a queue that cannot be asked here.
const FOREIGN_FOR: SignedDuration = SignedDuration::from_hours(1);

/// `_owner.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Owner {
    version: u32,
    platform: String,
    account: String,
    api: String,
    id: String,
    /// SHA-256 of the parameters, whatever their order.
    params_sha256: String,
    /// Where it waits, and under which numbers: its first and its latest.
    #[serde(default)]
    queue: String,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    waits_as: u64,
    #[serde(default)]
    priority: Priority,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
}

impl Owner {
    fn of(item: &Item, queue: &str) -> Self {
        let lane = &item.lane;
        Self {
            version: VERSION,
            platform: lane.account.platform.to_string(),
            account: lane.account.account.to_string(),
            api: lane.api.to_string(),
            id: item.id.clone(),
            params_sha256: hash(&item.fetch.params),
            queue: queue.to_owned(),
            seq: item.origin.0,
            waits_as: item.seq.0,
            priority: lane.priority,
            since: None,
        }
    }

    fn is_same(&self, other: &Self) -> bool {
        let of = |owner: &Self| [&owner.platform, &owner.account, &owner.api].map(String::clone);
        of(self) == of(other) && (self.id == other.id || self.params_sha256 == other.params_sha256)
    }

    /// Whether it is this very order.
    fn is(&self, other: &Self) -> bool {
        (&self.queue, self.seq) == (&other.queue, other.seq)
    }

    fn lane(&self) -> Option<LaneKey> {
        Some(LaneKey {
            account: AccountKey {
                platform: Slug::new(&self.platform).ok()?,
                account: Account::new(&self.account).ok()?,
            },
            api: Slug::new(&self.api).ok()?,
            priority: self.priority,
        })
    }
}

/// Whose a folder is.
pub(super) enum Whose {
    /// Nobody's, or this fetch's.
    Own,
    /// Another fetch is storing there.
    Busy(Owner),
    /// What is stored there is another fetch's.
    Another(Owner),
}

/// The folders in which fetches of this shard are storing now.
#[derive(Debug, Default)]
pub(crate) struct Folders(RefCell<HashMap<Path, Arc<Mutex<()>>>>);

impl Folders {
    /// The folder of this manifest, once nobody else has it. Nothing if that takes too long.
    pub(super) async fn enter(&self, manifest: &Path) -> Option<Entered<'_>> {
        let one = Arc::clone(self.0.borrow_mut().entry(manifest.clone()).or_default());
        // Made before it waits: one that is dropped meanwhile leaves nothing either.
        let mut entered = Entered { folders: self, manifest: manifest.clone(), guard: None };
        entered.guard = Some(timeout(LOCK_WITHIN, one.lock_owned()).await.ok()?);
        Some(entered)
    }
}

/// A folder for one fetch, until it is dropped.
#[derive(Debug)]
pub(super) struct Entered<'a> {
    folders: &'a Folders,
    manifest: Path,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        drop(self.guard.take());
        let mut folders = self.folders.0.borrow_mut();
        // Nobody waits for it.
        if folders.get(&self.manifest).is_some_and(|one| Arc::strong_count(one) == 1) {
            folders.remove(&self.manifest);
        }
    }
}

impl Place<'_> {
    async fn may_collide(&self) -> bool {
        !self.shard.plan().store.narrow.is_empty() || self.shard.store.folds_case().await
    }

    /// Whose the folder is now, and who has said last that it stores there.
    async fn whose(&self, manifest: &Path) -> Result<(Whose, Option<Owner>), SinkError> {
        let own = Owner::of(self.item, &self.shard.queue.name());
        let stored = self.stored(manifest).await?;
        if let Some(stored) = &stored
            && !stored.is_same(&own)
        {
            return Ok((Whose::Another(stored.clone()), None));
        }
        let mark = self.mark(manifest).await?;
        // This order, or the one whose objects are there whole.
        let is_over =
            |mark: &Owner| mark.is(&own) || stored.as_ref().is_some_and(|stored| stored.is(mark));
        let busy = match mark.as_ref().filter(|mark| !is_over(mark)) {
            Some(mark) if self.is_at_it(mark).await => Some(mark.clone()),
            _ => None,
        };
        Ok((busy.map_or(Whose::Own, Whose::Busy), mark))
    }

    /// Before the first object of a fetch becomes visible: makes the folder its own, unless it is another's.
    pub(super) async fn claim(&self, manifest: &Path) -> Result<Whose, SinkError> {
        if !self.may_collide().await {
            return Ok(Whose::Own);
        }
        let (whose, mark) = self.whose(manifest).await?;
        let own = Owner::of(self.item, &self.shard.queue.name());
        if !matches!(whose, Whose::Own) || mark.as_ref().is_some_and(|mark| mark.is(&own)) {
            return Ok(whose);
        }
        let text = Owner { since: Some(self.shard.clock.wall()), ..own.clone() };
        let text = serde_json::to_vec(&text).expect("its values are plain JSON");
        let key = recipe::owner_key(manifest);
        if mark.is_some() {
            // Of one that has ended.
            self.shard.store.put_small(&key, text.into()).await?;
        } else {
            self.shard.store.create_small(&key, text.into()).await?;
        }
        // Whoever was first: where the store creates what is there already, whoever was last.
        Ok(match self.mark(manifest).await? {
            Some(mark) if !mark.is(&own) => Whose::Busy(mark),
            _ => Whose::Own,
        })
    }

    /// Whose what is stored is, as its manifest says.
    async fn stored(&self, manifest: &Path) -> Result<Option<Owner>, SinkError> {
        let known = match self.shard.store.get(manifest).await {
            Err(SinkError::TooLarge { .. }) => None,
            other => other?,
        };
        let known = known.and_then(|text| serde_json::from_slice::<Manifest>(&text).ok());
        Ok(known.map(|known| Owner {
            version: VERSION,
            platform: known.platform,
            account: known.account,
            api: known.api,
            id: known.done.id,
            params_sha256: hash(&known.params),
            queue: known.queue,
            seq: known.done.seq,
            waits_as: 0,
            priority: Priority::Normal,
            since: None,
        }))
    }

    async fn mark(&self, manifest: &Path) -> Result<Option<Owner>, SinkError> {
        let mark = match self.shard.store.get(&recipe::owner_key(manifest)).await {
            Err(SinkError::TooLarge { .. }) => None,
            other => other?,
        };
        Ok(mark.and_then(|text| serde_json::from_slice(&text).ok()))
    }

    /// Whether a fetch that has said that it stores here may still do so. In doubt it may.
    async fn is_at_it(&self, mark: &Owner) -> bool {
        let queue = &self.shard.queue;
        if *mark.queue != *queue.name() {
            let wall = self.shard.clock.wall();
            return mark.since.is_some_and(|since| wall.duration_since(since) < FOREIGN_FOR);
        }
        let Some(lane) = mark.lane() else { return false };
        let (seq, before) = (Seq(mark.waits_as), mark.waits_as.checked_sub(1).map(Seq));
        match queue.first(lane.clone(), before, 1).await {
            Ok(rows) if rows.first().is_some_and(|row| row.seq == seq) => return true,
            Ok(_) => {}
            Err(_) => return true,
        }
        // A read that was put aside waits under another number, and has a note.
        queue.note(lane, Seq(mark.seq)).await.map_or(true, |note| note.is_some())
    }
}

impl Attempt<'_> {
    /// Before a fetch is called: why it may not be stored, if that is known already. What the store does not tell in time
    /// is asked again when there is something to store.
    pub(super) async fn owned_by_another(&self) -> Option<Outcome> {
        let place = self.place();
        if !place.may_collide().await {
            return None;
        }
        let manifest = place.manifest_key().ok()?;
        let (whose, _) = timeout(ASK_WITHIN, place.whose(&manifest)).await.ok()?.ok()?;
        not_own(&whose, &manifest, (Again::Late, LastAnswer::default()))
    }

    /// Before an object of a fetch becomes visible: its folder for itself until its manifest is there, or all that is to
    /// be stored now. Nothing of it is stored, if that is another's.
    pub(super) async fn enter(
        &self,
        manifest: &Path,
        last: &LastAnswer,
    ) -> Result<Entered<'_>, Outcome> {
        let shard: &Context = self.shard;
        let Some(entered) = shard.folders.enter(manifest).await else {
            let reason = "another fetch has been storing under its key for a minute".into();
            let (kind, last) = (Again::StoreAway, last.clone());
            return Err(Outcome::Again { kind, after: Some(BUSY_AGAIN), reason, last });
        };
        let is_first = self.read.as_ref().is_none_or(|read| read.page() == 1);
        if !is_first {
            return Ok(entered);
        }
        match self.place().claim(manifest).await {
            Ok(whose) => match not_own(&whose, manifest, (Again::StoreAway, last.clone())) {
                Some(outcome) => Err(outcome),
                None => Ok(entered),
            },
            Err(error) => Err(self.unstored(&error, last.clone())),
        }
    }

    /// The same, where the permit is not used for it.
    pub(super) fn not_called(&self, outcome: Outcome) -> Outcome {
        self.permit.call_ended(Sent::Never);
        outcome
    }
}

/// What becomes of a fetch whose folder is another's.
fn not_own(whose: &Whose, manifest: &Path, (kind, last): (Again, LastAnswer)) -> Option<Outcome> {
    match whose {
        Whose::Own => None,
        Whose::Busy(_) => {
            let reason = why(whose, manifest)?;
            Some(Outcome::Again { kind, after: Some(BUSY_AGAIN), reason, last })
        }
        Whose::Another(_) => {
            let reason = why(whose, manifest)?;
            Some(Outcome::Dead { code: Code::KeyTaken, reason, last })
        }
    }
}

/// Why a folder is not this fetch's.
pub(super) fn why(whose: &Whose, manifest: &Path) -> Option<String> {
    let (what, owner) = match whose {
        Whose::Own => return None,
        Whose::Busy(owner) => ("is being stored in by", owner),
        Whose::Another(owner) => ("has the objects of", owner),
    };
    let folder = manifest.parent().unwrap_or_default();
    let Owner { platform, account, api, id, .. } = owner;
    Some(format!(
        "`{folder}` {what} another fetch: `{}` of {platform}/{} {api}",
        preview(id),
        preview(account)
    ))
}

/// Of parameters in one canonical form.
fn hash(params: &Map<String, Value>) -> String {
    fn sorted(value: &Value) -> Value {
        match value {
            Value::Object(fields) => fields_sorted(fields),
            Value::Array(values) => values.iter().map(sorted).collect(),
            other => other.clone(),
        }
    }
    fn fields_sorted(fields: &Map<String, Value>) -> Value {
        let fields: BTreeMap<&String, &Value> = fields.iter().collect();
        fields.into_iter().map(|(name, value)| (name.clone(), sorted(value))).collect()
    }
    format!("{:x}", Sha256::digest(fields_sorted(params).to_string()))
}
