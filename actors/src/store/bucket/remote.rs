//! The store of a provider as the rest sees it: requests are repeated with new credentials where the old ones have
//! ended, uploads too. And the end of an upload whose answer was lost is told from one that failed: it is repeated by
//! `object_store`, and the second time the upload is not there any more.

use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, Extensions, GetOptions, GetResult, ListResult, MultipartId,
    MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions,
    PutPayload, PutResult, Result, UploadPart,
};

use tokio::sync::OnceCell;

use super::renew::{Renewal, noting, with_new};
use crate::store::error::{StoreErrorKind, expired, store_kind};

/// What each of the three providers has.
pub(super) trait Remote: ObjectStore + MultipartStore {}

impl<S: ObjectStore + MultipartStore> Remote for S {}

/// Deletes at once of one stream of keys.
const DELETES: usize = 10;

/// A provider's store.
#[derive(Clone)]
pub(super) struct Renewing {
    remote: Arc<dyn Remote>,
    /// None: the credentials were given, and are the same until the process ends.
    renewal: Option<Arc<dyn Renewal>>,
    /// Whether an upload in parts may bear attributes. Those to Azure may not, as `object_store` has them: its blocks
    /// are begun by nothing that could hold them.
    parts_have_attributes: bool,
}

impl Renewing {
    pub(super) fn new(
        remote: Arc<dyn Remote>,
        renewal: Option<Arc<dyn Renewal>>,
        parts_have_attributes: bool,
    ) -> Self {
        Self { remote, renewal, parts_have_attributes }
    }

    pub(super) fn renewal(&self) -> Option<&Arc<dyn Renewal>> {
        self.renewal.as_ref()
    }

    /// What the store says of an object without its bytes; nothing if there is none.
    async fn look(&self, key: &Path) -> Result<Option<ObjectMeta>> {
        match with_new(self.renewal.as_ref(), || self.remote.head(key)).await {
            Ok(meta) => Ok(Some(meta)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn list_behind(
        &self,
        prefix: Option<&Path>,
        behind: Option<&Path>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let Some(behind) = behind else { return self.remote.list(prefix) };
        let after = behind.clone();
        // Azurite lists all of them (https://github.com/Azure/Azurite/issues/2619).
        let listed = self.remote.list_with_offset(prefix, behind);
        listed.try_filter(move |meta| ready(meta.location > after)).boxed()
    }

    /// Lists, and goes on behind the last key with new credentials where the old ones end: all three list in order.
    fn listed(
        &self,
        prefix: Option<&Path>,
        behind: Option<&Path>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let Some(renewal) = self.renewal.clone() else { return self.list_behind(prefix, behind) };
        let (store, prefix, behind) = (self.clone(), prefix.cloned(), behind.cloned());
        let begun = store.list_behind(prefix.as_ref(), behind.as_ref());
        stream::unfold((begun, behind), move |(mut keys, mut last)| {
            let (store, renewal, prefix) = (store.clone(), Arc::clone(&renewal), prefix.clone());
            async move {
                let (mut next, used) = noting(keys.next()).await;
                if let Some(Err(error)) = &next
                    && let Some(why) = expired(error)
                    && renewal.expire(used, why)
                {
                    keys = store.list_behind(prefix.as_ref(), last.as_ref());
                    next = keys.next().await;
                }
                if let Some(Ok(meta)) = &next {
                    last = Some(meta.location.clone());
                }
                next.map(|next| (next, (keys, last)))
            }
        })
        .boxed()
    }

    pub(super) async fn abort_multipart(&self, key: &Path, id: &MultipartId) -> Result<()> {
        with_new(self.renewal.as_ref(), || self.remote.abort_multipart(key, id)).await
    }
}

impl std::fmt::Debug for Renewing {
    /// Clients of Google and Azure would show their credentials.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl std::fmt::Display for Renewing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&self.remote, f)
    }
}

type Answer<'f, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'f>>;

impl ObjectStore for Renewing {
    fn put_opts<'s, 'k, 'f>(
        &'s self,
        key: &'k Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Answer<'f, PutResult>
    where
        's: 'f,
        'k: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let put = || self.remote.put_opts(key, payload.clone(), options.clone());
            with_new(self.renewal.as_ref(), put).await
        })
    }

    fn put_multipart_opts<'s, 'k, 'f>(
        &'s self,
        key: &'k Path,
        options: PutMultipartOptions,
    ) -> Answer<'f, Box<dyn MultipartUpload>>
    where
        's: 'f,
        'k: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let mut options = options;
            if !self.parts_have_attributes {
                options.attributes = Attributes::new();
            }
            let begin = || self.remote.create_multipart_opts(key, options.clone());
            let id = with_new(self.renewal.as_ref(), begin).await?;
            let (parts, before) = (Mutex::<Parts>::default(), OnceCell::new());
            let begun = Begun { store: self.clone(), key: key.clone(), id, parts, before };
            let upload = Upload { begun: Arc::new(begun) };
            Ok(Box::new(upload) as Box<dyn MultipartUpload>)
        })
    }

    fn get_opts<'s, 'k, 'f>(&'s self, key: &'k Path, options: GetOptions) -> Answer<'f, GetResult>
    where
        's: 'f,
        'k: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let get = || self.remote.get_opts(key, options.clone());
            with_new(self.renewal.as_ref(), get).await
        })
    }

    fn delete_stream(
        &self,
        keys: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let delete = move |key: Result<Path>| {
            let store = store.clone();
            async move {
                let key = key?;
                with_new(store.renewal.as_ref(), || store.remote.delete(&key)).await?;
                Ok(key)
            }
        };
        keys.map(delete).buffered(DELETES).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed(prefix, None)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.listed(prefix, Some(offset))
    }

    fn list_with_delimiter<'s, 'p, 'f>(&'s self, prefix: Option<&'p Path>) -> Answer<'f, ListResult>
    where
        's: 'f,
        'p: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let list = || self.remote.list_with_delimiter(prefix);
            with_new(self.renewal.as_ref(), list).await
        })
    }

    fn copy_opts<'s, 'a, 'b, 'f>(
        &'s self,
        from: &'a Path,
        to: &'b Path,
        options: CopyOptions,
    ) -> Answer<'f, ()>
    where
        's: 'f,
        'a: 'f,
        'b: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let copy = || self.remote.copy_opts(from, to, options.clone());
            with_new(self.renewal.as_ref(), copy).await
        })
    }
}

/// An upload that is begun.
#[derive(Debug)]
struct Upload {
    begun: Arc<Begun>,
}

#[derive(Debug)]
struct Begun {
    store: Renewing,
    key: Path,
    id: MultipartId,
    parts: Mutex<Parts>,
    /// What was under the key before the upload was ended, as often as that is tried.
    before: OnceCell<Option<ObjectMeta>>,
}

#[derive(Debug, Default)]
struct Parts {
    /// Places that are given out.
    count: usize,
    /// The place of a part that could not be put: the next that is put is the same part. Some stores take no upload
    /// with a gap.
    failed: Option<usize>,
    put: Vec<Part>,
}

/// A part that is put.
#[derive(Debug, Clone)]
struct Part {
    place: usize,
    /// What the store calls it.
    id: PartId,
    bytes: u64,
}

impl Begun {
    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the object that is there now is this upload's: as large, and not the one from before.
    async fn is_there(&self, before: Option<&ObjectMeta>, bytes: u64) -> Option<PutResult> {
        let now = self.store.look(&self.key).await.ok()??;
        let of = |meta: &ObjectMeta| (meta.e_tag.clone(), meta.version.clone(), meta.last_modified);
        let is_new = before.is_none_or(|before| of(before) != of(&now));
        let ObjectMeta { e_tag, version, .. } = now;
        let is_whole = is_new && now.size == bytes;
        is_whole.then(|| PutResult { e_tag, version, extensions: Extensions::default() })
    }
}

impl MultipartUpload for Upload {
    fn put_part(&mut self, part: PutPayload) -> UploadPart {
        let begun = Arc::clone(&self.begun);
        let place = {
            let mut parts = begun.parts();
            let next = parts.count;
            let place = parts.failed.take().unwrap_or(next);
            parts.count = next.max(place + 1);
            place
        };
        Box::pin(async move {
            let Begun { store, key, id, .. } = &*begun;
            let bytes = part.content_length() as u64;
            let put = || store.remote.put_part(key, id, place, part.clone());
            match with_new(store.renewal.as_ref(), put).await {
                Ok(id) => begun.parts().put.push(Part { place, id, bytes }),
                Err(error) => {
                    begun.parts().failed = Some(place);
                    return Err(error);
                }
            }
            Ok(())
        })
    }

    fn complete<'s, 'f>(&'s mut self) -> Answer<'f, PutResult>
    where
        's: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let Begun { store, key, id, before, .. } = &*self.begun;
            let (mut parts, count) = {
                let parts = self.begun.parts();
                (parts.put.clone(), parts.count)
            };
            if parts.len() != count {
                let source = format!("{} of {count} parts are put", parts.len()).into();
                return Err(object_store::Error::Generic { store: "upload", source });
            }
            parts.sort_unstable_by_key(|part| part.place);
            let bytes = parts.iter().map(|part| part.bytes).sum();
            let parts: Vec<PartId> = parts.into_iter().map(|part| part.id).collect();
            let before = before.get_or_try_init(|| store.look(key)).await;
            let complete = || store.remote.complete_multipart(key, id, parts.clone());
            let completed = with_new(store.renewal.as_ref(), complete).await;
            if let (Err(error), Ok(before)) = (&completed, before)
                // Most say that there is no such upload, in words of their own.
                && store_kind(error) != StoreErrorKind::Away
                && let Some(there) = self.begun.is_there(before.as_ref(), bytes).await
            {
                return Ok(there);
            }
            completed
        })
    }

    fn abort<'s, 'f>(&'s mut self) -> Answer<'f, ()>
    where
        's: 'f,
        Self: 'f,
    {
        Box::pin(self.begun.store.abort_multipart(&self.begun.key, &self.begun.id))
    }
}
