//! Whose the objects of a folder are, where `store.key` lets fetches that differ ask for the same one.
//!
//! Two orders are the same fetch if platform, api and account are, and the id or the parameters: an id that is collected
//! again replaces what it has stored, and so does the same request under another id, as a job of the next day orders it.
//! All others are different, and the first of them to have an object keeps the folder: `_owner.json` says so, which a
//! store lets only one create. A template that names platform, api, account and id gives no two different fetches a
//! folder, so nothing is asked then.

use std::collections::BTreeMap;

use jiff::Timestamp;
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tokio::time::timeout;
use tollgate_gate::Sent;
use tollgate_protos::Manifest;

use super::attempt::{Attempt, USE_WITHIN};
use super::{LastAnswer, Outcome};
use crate::codes::Code;
use crate::ids::preview;
use crate::recipe;
use crate::store::SinkError;

/// The form of the file.
const VERSION: u32 = 1;

/// `_owner.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Owner {
    version: u32,
    platform: String,
    account: String,
    api: String,
    id: String,
    /// SHA-256 of the parameters, whatever their order.
    params_sha256: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
}

impl Owner {
    fn is_same(&self, other: &Self) -> bool {
        let of = |owner: &Self| [&owner.platform, &owner.account, &owner.api].map(String::clone);
        of(self) == of(other) && (self.id == other.id || self.params_sha256 == other.params_sha256)
    }
}

impl Attempt<'_> {
    /// Before a fetch is called: why it may not be stored, if that is known already. What the store does not tell in time
    /// is asked again when there is something to store.
    pub(super) async fn owned_by_another(&self) -> Option<Outcome> {
        if !self.may_collide().await {
            return None;
        }
        let manifest = self.place().manifest_key().ok()?;
        let owner = timeout(USE_WITHIN, self.owner(&manifest)).await.ok()?.ok()??;
        let own = self.own_mark();
        (!owner.is_same(&own)).then(|| taken(&manifest, &owner, LastAnswer::default()))
    }

    /// Before the first object of a fetch becomes visible: makes the folder its own. Dead, if it is another's.
    pub(super) async fn claim(&self, manifest: &Path, last: &LastAnswer) -> Result<(), Outcome> {
        let is_first = self.read.as_ref().is_none_or(|read| read.page() == 1);
        if !is_first || !self.may_collide().await {
            return Ok(());
        }
        match self.try_claim(manifest).await {
            Ok(None) => Ok(()),
            Ok(Some(owner)) => Err(taken(manifest, &owner, last.clone())),
            Err(error) => Err(self.unstored(&error, last.clone())),
        }
    }

    async fn may_collide(&self) -> bool {
        !self.shard.plan().store.narrow.is_empty() || self.shard.store.folds_case().await
    }

    /// Whose the folder is, if it is another's.
    async fn try_claim(&self, manifest: &Path) -> Result<Option<Owner>, SinkError> {
        let own = self.own_mark();
        let another = |owner: Owner| (!owner.is_same(&own)).then_some(owner);
        if let Some(owner) = self.owner(manifest).await? {
            return Ok(another(owner));
        }
        let key = recipe::owner_key(manifest);
        let mark = Owner { since: Some(self.shard.clock.wall()), ..own.clone() };
        let text = serde_json::to_vec(&mark).expect("its values are plain JSON");
        self.shard.store.create_small(&key, text.into()).await?;
        // Whoever was first: where the store creates what is there already, whoever was last.
        Ok(self.owner(manifest).await?.and_then(another))
    }

    async fn owner(&self, manifest: &Path) -> Result<Option<Owner>, SinkError> {
        let mark = match self.shard.store.get(&recipe::owner_key(manifest)).await {
            Err(SinkError::TooLarge { .. }) => None,
            other => other?,
        };
        if let Some(owner) = mark.and_then(|text| serde_json::from_slice::<Owner>(&text).ok()) {
            return Ok(Some(owner));
        }
        // What was stored under a template that had all parts.
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
            since: None,
        }))
    }

    fn own_mark(&self) -> Owner {
        let lane = &self.item.lane;
        Owner {
            version: VERSION,
            platform: lane.account.platform.to_string(),
            account: lane.account.account.to_string(),
            api: lane.api.to_string(),
            id: self.item.id.clone(),
            params_sha256: hash(&self.item.fetch.params),
            since: None,
        }
    }

    /// The same, where the permit is not used for it.
    pub(super) fn not_called(&self, outcome: Outcome) -> Outcome {
        self.permit.call_ended(Sent::Never);
        outcome
    }
}

fn taken(manifest: &Path, owner: &Owner, last: LastAnswer) -> Outcome {
    let folder = manifest.parent().unwrap_or_default();
    let Owner { platform, account, api, id, .. } = owner;
    let reason = format!(
        "`{folder}` has the objects of another fetch: `{}` of {platform}/{} {api}",
        preview(id),
        preview(account)
    );
    Outcome::Dead { code: Code::KeyTaken, reason, last }
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
