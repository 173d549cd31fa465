//! Where the objects of a fetch are, what speaks of them, and what of an earlier collection is removed.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use tollgate_protos::{Done, Manifest, Object, Provenance};

use super::Item;
use super::landing::{manifest, object_key};
use super::provenance::provenance;
use crate::pages::{LISTED_MAX, Page, PageList, SoFar, how, list_key};
use crate::plan::{Api, BucketPlan, Plan, Platform, Provider, StoreTarget};
use crate::recipe::{self, Refusal};
use crate::shard::context::Context;
use crate::store::{SinkError, StoreErrorKind};
use crate::telemetry;

/// Objects that a manifest and a `done` name one by one; the rest is in the lists beside them.
const NAMED_MAX: usize = 256;
/// Objects below a fetch's folder that are looked at for members of earlier tries: some dozens of archives full.
const LOOKED_AT_MAX: usize = 10_000;
/// Requests to a store at once, for one fetch.
const AT_ONCE: usize = 8;

/// What is told of a read that is not in its pages.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) status: u16,
    pub(super) waited_ms: u64,
    pub(super) request_id: Option<String>,
    /// Where its last page comes from, if that was called now.
    pub(super) from: Option<Provenance>,
}

/// What the manifest of an earlier collection under the same keys says.
#[derive(Debug, Default)]
pub(super) struct Earlier {
    /// How many pages it had.
    pub(super) pages: u32,
    /// What the keys of its objects end in.
    exts: Vec<String>,
    /// The keys of the objects that it names.
    keys: Vec<Path>,
    /// There is one.
    pub(super) is_there: bool,
}

impl Earlier {
    /// Whether one object of this form takes the place of all of it.
    pub(super) fn is_one(&self, ext: &str) -> bool {
        self.pages <= 1 && self.exts.iter().all(|known| known == ext)
    }

    /// The objects that it names and that lie beside it.
    pub(super) fn beside(self, manifest: &Path) -> Vec<Path> {
        let folder = manifest.parent();
        self.keys.into_iter().filter(|key| key != manifest && key.parent() == folder).collect()
    }

    /// A read that knows of these objects, so that in its end none of them is left behind it.
    pub(super) fn known_to(&self, so_far: &mut SoFar) {
        so_far.highest = so_far.highest.max(self.pages);
        for ext in &self.exts {
            if !so_far.exts.contains(ext) {
                so_far.exts.push(ext.clone());
            }
        }
    }
}

/// Where the objects of a fetch are.
pub(super) struct Place<'a> {
    pub(super) shard: &'a Context,
    plan: Arc<Plan>,
    platform: &'a Platform,
    pub(super) api: &'a Api,
    pub(super) item: &'a Item,
}

impl<'a> Place<'a> {
    pub(super) fn new(
        shard: &'a Context,
        plan: Arc<Plan>,
        (platform, api): (&'a Platform, &'a Api),
        item: &'a Item,
    ) -> Self {
        Self { shard, plan, platform, api, item }
    }

    pub(super) fn key(&self, page: u32, ext: &str) -> Result<Path, Refusal> {
        object_key(&self.plan, self.platform, self.api, self.item, page, ext)
    }

    /// The manifest's key does not depend on what the objects' keys end in.
    pub(super) fn manifest_key(&self) -> Result<Path, SinkError> {
        let first = self.key(1, "x");
        let first = first.map_err(|refusal| SinkError::other(&Path::default(), refusal))?;
        Ok(recipe::manifest_key(&first))
    }

    /// Tells the store from others; not 0.
    pub(super) fn store(&self) -> u64 {
        let place = match &self.plan.store.target {
            StoreTarget::File(root) => format!("file:{}", root.display()),
            StoreTarget::Memory => "memory:".to_owned(),
            StoreTarget::Bucket(bucket) => {
                let BucketPlan { bucket, prefix, endpoint, provider, .. } = &**bucket;
                let endpoint = endpoint.as_ref().map_or("", |url| url.as_str());
                match provider {
                    Provider::S3 { .. } => format!("s3://{bucket}/{prefix} {endpoint}"),
                    Provider::Google(_) => format!("gs://{bucket}/{prefix} {endpoint}"),
                    Provider::Azure { account, .. } => {
                        format!("az://{bucket}/{prefix} {account} {endpoint}")
                    }
                }
            }
        };
        how(&place).max(1)
    }

    /// What an earlier collection under these keys has left. A manifest that cannot be read names nothing.
    pub(super) async fn earlier(&self, manifest_key: &Path) -> Result<Earlier, SinkError> {
        let bytes = match self.shard.store.get(manifest_key).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(Earlier::default()),
            Err(SinkError::TooLarge { .. }) => Bytes::new(),
            Err(error) => return Err(error),
        };
        let mut earlier = Earlier { is_there: true, ..Earlier::default() };
        let Ok(known) = serde_json::from_slice::<Manifest>(&bytes) else { return Ok(earlier) };
        earlier.pages = known.done.pages.min(recipe::PAGE_MAX);
        let keys = known.done.objects.iter().filter_map(|object| Path::parse(&object.key).ok());
        earlier.keys = keys.collect();
        for (page, object) in (1..).zip(&known.done.objects) {
            let name = object.key.rsplit('/').next().unwrap_or_default();
            let own = |ext: &&str| self.key(page, ext).is_ok_and(|key| *key.as_ref() == object.key);
            let ends = name.match_indices('.').filter_map(|(at, _)| name.get(at + 1..));
            if let Some(ext) = ends.into_iter().find(own)
                && !earlier.exts.iter().any(|known| known == ext)
            {
                earlier.exts.push(ext.to_owned());
            }
        }
        Ok(earlier)
    }

    /// The members of archives that lie beside a manifest, whether one names them or not: a try that failed has left
    /// what it stored, and may have called it otherwise. Where the store does not list them, or there are too many,
    /// some stay, and the log says so.
    pub(super) async fn members_left(&self, manifest_key: &Path) -> Result<Vec<Path>, SinkError> {
        let folder = manifest_key.parent().unwrap_or_default();
        let mut keys = match self.shard.store.below(&folder, None, LOOKED_AT_MAX).await {
            Ok(listed) => listed.into_iter().map(|(key, _)| key).collect::<Vec<_>>(),
            Err(SinkError::Store { kind, source, .. }) if !passes(kind) => {
                let reason = format!("list `{folder}`: {kind}: {source}");
                telemetry::pages_left(self.item, 0, &reason);
                return Ok(Vec::new());
            }
            Err(error) => return Err(error),
        };
        if keys.len() == LOOKED_AT_MAX {
            let reason = format!("more than {LOOKED_AT_MAX} objects lie below `{folder}`");
            telemetry::pages_left(self.item, 0, &reason);
        }
        keys.retain(|key| recipe::is_member_key(key, manifest_key));
        Ok(keys)
    }

    /// Whether a manifest is there that is not of this fetch. Before the first of several pages was visible there was
    /// none: another fetch of these keys has stored its objects since.
    pub(super) async fn is_anothers(&self, manifest_key: &Path) -> Result<bool, SinkError> {
        let bytes = match self.shard.store.get(manifest_key).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(false),
            Err(SinkError::TooLarge { .. }) => return Ok(true),
            Err(error) => return Err(error),
        };
        let known = serde_json::from_slice::<Manifest>(&bytes);
        Ok(known.map_or(true, |known| {
            // One of no queue took the place of one that could not be removed.
            let here = known.queue == *self.shard.queue.name();
            !known.queue.is_empty() && (!here || known.done.seq != self.item.origin.0)
        }))
    }

    /// Before the first of several pages becomes visible: a manifest of an earlier collection would speak of pages
    /// of both. Where nobody may delete it is replaced by one that says that the read is not complete.
    pub(super) async fn clear_manifest(&self, key: &Path) -> Result<(), SinkError> {
        match self.shard.store.delete(key).await {
            Err(SinkError::Store { kind: StoreErrorKind::Denied, .. }) => {
                let none = Done {
                    id: self.item.id.clone(),
                    fetched_at: self.shard.clock.wall(),
                    incomplete: true,
                    ..Done::default()
                };
                let from = provenance(self.shard, self.item);
                let text = manifest(self.shard, self.item, &none, from);
                let unfinished = serde_json::from_slice::<Manifest>(&text).map(|manifest| {
                    // Of no queue: nobody takes it for the manifest of a fetch that is done.
                    json(&Manifest { queue: String::new(), ..manifest })
                });
                let text = unfinished.map_err(|error| SinkError::other(key, error))?;
                self.shard.store.put_small(key, text).await
            }
            other => other,
        }
    }

    fn objects(&self, so_far: &SoFar) -> Result<Vec<Object>, SinkError> {
        let first = so_far.listed + 1;
        let object = |(place, page): (usize, &Page)| {
            let ext = so_far.exts.get(usize::from(page.ext)).map_or("", String::as_str);
            let key = self.key(first + place as u32, ext);
            let key = key.map_err(|refusal| SinkError::other(&Path::default(), refusal))?;
            Ok(Object {
                key: key.to_string(),
                bytes: page.bytes,
                sha256: hex(&page.sha256),
                stored_bytes: page.stored_bytes,
                stored_sha256: page.stored_sha256.map(|hash| hex(&hash)),
                member: None,
            })
        };
        so_far.tail.iter().enumerate().map(object).collect()
    }

    /// Writes the list of the first pages of the tail.
    pub(super) async fn list(&self, so_far: &SoFar, manifest: &Path) -> Result<(), SinkError> {
        let mut objects = self.objects(so_far)?;
        objects.truncate(LISTED_MAX);
        let list = PageList {
            version: 1,
            seq: self.item.origin.0,
            restarts: so_far.restarts,
            first: so_far.listed + 1,
            objects,
        };
        let number = so_far.listed / LISTED_MAX as u32 + 1;
        self.shard.store.put_small(&list_key(manifest, number), json(&list)).await
    }

    /// Writes the manifest of a read all of whose pages are there; nothing if a list of them is gone.
    pub(super) async fn complete(
        &self,
        so_far: &SoFar,
        told: &Told,
    ) -> Result<Option<Done>, SinkError> {
        let manifest_key = self.manifest_key()?;
        let pages = so_far.page.saturating_sub(1);
        let (objects, lists) = if pages as usize <= LISTED_MAX {
            (self.objects(so_far)?, 0)
        } else {
            let mut rest = so_far.clone();
            while !rest.tail.is_empty() {
                self.list(&rest, &manifest_key).await?;
                rest.was_listed();
            }
            let lists = pages.div_ceil(LISTED_MAX as u32);
            match self.first_listed(so_far, &manifest_key, lists).await? {
                Some(objects) => (objects, lists),
                None => return Ok(None),
            }
        };
        self.remove_others((pages, lists), so_far, &manifest_key).await?;
        let done = Done {
            objects,
            attempts: so_far.calls,
            pages,
            empty: !so_far.filled && !so_far.incomplete,
            incomplete: so_far.incomplete,
            manifest: (lists > 0).then(|| manifest_key.to_string()),
            lists,
            ..self.done(told)
        };
        let from = told.from.clone().unwrap_or_else(|| provenance(self.shard, self.item));
        let manifest = manifest(self.shard, self.item, &done, from);
        self.shard.store.put_small(&manifest_key, manifest).await?;
        Ok(Some(done))
    }

    pub(super) fn done(&self, told: &Told) -> Done {
        Done {
            id: self.item.id.clone(),
            seq: self.item.origin.0,
            http_status: told.status,
            waited_ms: told.waited_ms,
            fetched_at: self.shard.clock.wall(),
            labels: self.item.fetch.labels.clone(),
            request_id: told.request_id.clone(),
            ..Done::default()
        }
    }

    /// The first pages of a long read, as their lists have them; nothing if one of these is gone.
    async fn first_listed(
        &self,
        so_far: &SoFar,
        manifest: &Path,
        lists: u32,
    ) -> Result<Option<Vec<Object>>, SinkError> {
        let mut objects = Vec::with_capacity(NAMED_MAX);
        for number in 1..=lists {
            let Some(list) = self.own_list(so_far, manifest, number).await? else {
                return Ok(None);
            };
            objects.extend(list.objects);
            if objects.len() >= NAMED_MAX {
                break;
            }
        }
        objects.truncate(NAMED_MAX);
        Ok(Some(objects))
    }

    /// A list as this read has written it.
    async fn own_list(
        &self,
        so_far: &SoFar,
        manifest: &Path,
        number: u32,
    ) -> Result<Option<PageList>, SinkError> {
        let bytes = self.shard.store.get(&list_key(manifest, number)).await?;
        let list = bytes.and_then(|bytes| serde_json::from_slice::<PageList>(&bytes).ok());
        let ours =
            |list: &PageList| list.seq == self.item.origin.0 && list.restarts == so_far.restarts;
        Ok(list.filter(ours))
    }

    /// Whether the pages before the last one that was written are there: those that the read still names one by one,
    /// by their sizes, and the list of those before them.
    pub(super) async fn earlier_hold(&self, so_far: &SoFar) -> Result<bool, SinkError> {
        if so_far.listed > 0 {
            let number = so_far.listed / LISTED_MAX as u32;
            if self.own_list(so_far, &self.manifest_key()?, number).await?.is_none() {
                return Ok(false);
            }
        }
        let mut objects = self.objects(so_far)?;
        objects.pop();
        let sizes = stream::iter(objects).map(|object| async move {
            let size = self.shard.store.size(&Path::from(object.key)).await?;
            Ok(size == Some(object.stored_bytes))
        });
        let sizes = sizes.buffer_unordered(AT_ONCE);
        sizes.try_fold(true, |all, one| std::future::ready(Ok(all && one))).await
    }

    /// Removes what an earlier or longer read has left beside so many pages and lists, and behind them. What the store
    /// does not let go stays, and the log says so.
    pub(super) async fn remove_others(
        &self,
        (pages, lists): (u32, u32),
        so_far: &SoFar,
        manifest: &Path,
    ) -> Result<(), SinkError> {
        let highest = so_far.highest.min(recipe::PAGE_MAX);
        let beside = (1..=pages.min(highest))
            .flat_map(|page| so_far.unused().filter_map(move |ext| self.key(page, ext).ok()));
        let behind = (pages + 1..=highest)
            .flat_map(|page| so_far.exts.iter().filter_map(move |ext| self.key(page, ext).ok()));
        let listed = LISTED_MAX as u32;
        let most = if highest > listed { highest.div_ceil(listed) } else { 0 };
        let lists = (lists + 1..=most).map(|number| list_key(manifest, number));
        self.remove_each(beside.chain(behind).chain(lists)).await
    }

    /// Removes objects. What the store does not let go stays, and the log says so.
    pub(super) async fn remove_each(
        &self,
        keys: impl Iterator<Item = Path>,
    ) -> Result<(), SinkError> {
        let removed = stream::iter(keys).map(|key| async move {
            match self.shard.store.delete(&key).await {
                Err(SinkError::Store { kind, source, .. }) if !passes(kind) => {
                    Ok(Some(format!("remove `{key}`: {kind}: {source}")))
                }
                other => other.map(|()| None),
            }
        });
        let stay = removed.buffer_unordered(AT_ONCE).try_fold((0_u32, None), |stay, why| {
            let (count, first) = stay;
            let count = count + u32::from(why.is_some());
            std::future::ready(Ok((count, first.or(why))))
        });
        if let (count, Some(why)) = stay.await? {
            telemetry::pages_left(self.item, count, &why);
        }
        Ok(())
    }
}

/// Whether a store that fails so may do what it is asked for a little later.
fn passes(kind: StoreErrorKind) -> bool {
    matches!(kind, StoreErrorKind::Full | StoreErrorKind::Away)
}

/// The store failed: whether it takes other objects is found out.
pub(super) fn tell_store(shard: &Context, error: &SinkError) -> String {
    match error {
        SinkError::Store { kind, source, .. } => {
            let reason = format!("{error}: {source}");
            if passes(*kind) {
                shard.store_failed(&reason);
            } else {
                shard.store_refused();
            }
            reason
        }
        other => other.to_string(),
    }
}

fn json(value: &impl serde::Serialize) -> Bytes {
    let mut text = serde_json::to_vec(value).expect("its values are plain JSON");
    text.push(b'\n');
    text.into()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes all");
        text
    })
}
