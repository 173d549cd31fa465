//! Whose the objects of a folder are, where different fetches may ask for the same one.
//!
//! Two orders are the same fetch if platform, api and account are, and the id or the parameters: an id that is collected
//! again replaces what it has stored, and so does the same request under another id, as a job of the next day orders it.
//! All others are different.
//!
//! `_owner.json` says who has stored in a folder last. It is made before the first object there becomes visible, by a
//! write that only one can win, and written anew by whoever replaces what is there; it never goes by itself. So what it
//! takes is one small read for each fetch, and one small write where the folder is new or its fetch has another name. A
//! template that names platform, api, account and id gives no two different fetches a folder, so nothing is asked then.
//!
//! Fetches of one process store in a folder one after the other, whatever the template: an id may be ordered twice.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::timeout;

use super::attempt::Attempt;
use super::place::Place;
use super::{Again, Item, LastAnswer, Outcome};
use crate::codes::Code;
use crate::ids::preview;
use crate::recipe;
use crate::store::SinkError;

/// The form of the file.
const VERSION: u32 = 1;
/// Longest wait for another fetch of this process that stores in the folder.
const LOCK_WITHIN: Duration = Duration::from_secs(60);
/// After that it is called again no sooner than after this.
const BUSY_AGAIN: Duration = Duration::from_secs(2);

/// `_owner.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Owner {
    version: u32,
    platform: String,
    account: String,
    api: String,
    id: String,
    /// SHA-256 of the parameters, whatever their order; those left out are as the api says, and null is none.
    params_sha256: String,
    /// Since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
}

impl Owner {
    fn of(item: &Item, defaults: &Map<String, Value>) -> Self {
        let params = defaults.iter().chain(&item.fetch.params).collect::<BTreeMap<_, _>>();
        let params = params.into_iter().filter(|(_, value)| !value.is_null());
        let params = params.map(|(name, value)| (name.clone(), value.clone())).collect();
        let lane = &item.lane;
        Self {
            version: VERSION,
            platform: lane.account.platform.to_string(),
            account: lane.account.account.to_string(),
            api: lane.api.to_string(),
            id: item.id.clone(),
            params_sha256: hash(&params),
            since: None,
        }
    }

    /// Whether they are of one fetch.
    fn is_same(&self, other: &Self) -> bool {
        let of = |owner: &Self| [&owner.platform, &owner.account, &owner.api].map(String::clone);
        of(self) == of(other) && (self.id == other.id || self.params_sha256 == other.params_sha256)
    }

    /// Whether they are the same in all, whenever they were written.
    fn is(&self, other: &Self) -> bool {
        self.is_same(other) && self.id == other.id && self.params_sha256 == other.params_sha256
    }

    /// Why its folder is no other fetch's.
    pub(super) fn why(&self, manifest: &Path) -> String {
        let folder = manifest.parent().unwrap_or_default();
        let Self { platform, account, api, id, .. } = self;
        format!(
            "`{folder}` has the objects of another fetch: `{}` of {platform}/{} {api}",
            preview(id),
            preview(account)
        )
    }
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
    /// Before the first object of a fetch becomes visible: makes the folder its own. Whose it is, if it is another's.
    pub(super) async fn claim(&self, manifest: &Path) -> Result<Option<Owner>, SinkError> {
        let shard = self.shard;
        if !self.is_claimed().await {
            return Ok(None);
        }
        let own = Owner::of(self.item, &self.api.params.defaults);
        let key = recipe::owner_key(manifest);
        let there = self.owner(&key).await?;
        if there.as_ref().is_some_and(|there| there.is(&own)) {
            return Ok(None);
        }
        if let Some(another) = there.as_ref().filter(|there| !there.is_same(&own)) {
            return Ok(Some(another.clone()));
        }
        let text = Owner { since: Some(shard.clock.wall()), ..own.clone() };
        let text = serde_json::to_vec(&text).expect("its values are plain JSON");
        if there.is_some() {
            // Under its new name, or with its new parameters: that is what others are compared with from now on.
            shard.store.put_small(&key, text.into()).await?;
            return Ok(None);
        }
        if shard.store.create_small(&key, text.into()).await? {
            return Ok(None);
        }
        // Whoever was first: where the store creates what is there already, whoever was last.
        Ok(self.owner(&key).await?.filter(|there| !there.is_same(&own)))
    }

    /// Who has the folder now, if that is not the fetch any more which had claimed it with its first page.
    async fn lost(&self, manifest: &Path) -> Result<Option<Owner>, SinkError> {
        if !self.is_claimed().await {
            return Ok(None);
        }
        let own = Owner::of(self.item, &self.api.params.defaults);
        Ok(self.owner(&recipe::owner_key(manifest)).await?.filter(|there| !there.is(&own)))
    }

    /// Whether another fetch may have the same folder.
    async fn is_claimed(&self) -> bool {
        !self.shard.plan().store.narrow.is_empty() || self.shard.store.folds_case().await
    }

    /// What `_owner.json` says. One that cannot be read says nothing, and is replaced.
    async fn owner(&self, key: &Path) -> Result<Option<Owner>, SinkError> {
        let text = match self.shard.store.get(key).await {
            Err(SinkError::TooLarge { .. }) => None,
            other => other?,
        };
        Ok(text.and_then(|text| serde_json::from_slice(&text).ok()))
    }
}

impl Attempt<'_> {
    /// Before an object of a fetch becomes visible: its folder for itself until its manifest is there, or all that is to
    /// be stored now. Nothing of it is stored, if that is another's.
    pub(super) async fn enter(
        &self,
        manifest: &Path,
        last: &LastAnswer,
    ) -> Result<Entered<'_>, Outcome> {
        let Some(entered) = self.shard.folders.enter(manifest).await else {
            let reason = "another fetch has been storing under its key for a minute".into();
            let (kind, last) = (Again::StoreAway, last.clone());
            return Err(Outcome::Again { kind, after: Some(BUSY_AGAIN), reason, last });
        };
        // Later pages are stored where the first one is, unless a later order of the same request has it now.
        let is_later = self.read.as_ref().is_some_and(|read| read.page() > 1);
        let place = self.place();
        let taken = if is_later { place.lost(manifest).await } else { place.claim(manifest).await };
        match taken {
            Ok(None) => Ok(entered),
            Ok(Some(another)) => {
                let (code, reason) = (Code::KeyTaken, another.why(manifest));
                Err(Outcome::Dead { code, reason, last: last.clone() })
            }
            Err(error) => Err(self.unstored(&error, last.clone())),
        }
    }
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
