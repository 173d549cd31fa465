//! The store of a provider as the rest sees it: requests are repeated with new credentials where the old ones have
//! ended, uploads too.

use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartId, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
    UploadPart,
};

use super::renew::{Renewal, with_new};

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
}

impl Renewing {
    pub(super) fn new(remote: Arc<dyn Remote>, renewal: Option<Arc<dyn Renewal>>) -> Self {
        Self { remote, renewal }
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
            let begin = || self.remote.create_multipart_opts(key, options.clone());
            let id = with_new(self.renewal.as_ref(), begin).await?;
            let begun =
                Begun { store: self.clone(), key: key.clone(), id, parts: Mutex::default() };
            let upload = Upload { begun: Arc::new(begun), count: 0 };
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
        self.remote.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let behind = offset.clone();
        // Azurite lists all of them (https://github.com/Azure/Azurite/issues/2619).
        let listed = self.remote.list_with_offset(prefix, offset);
        listed.try_filter(move |meta| ready(meta.location > behind)).boxed()
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
    count: usize,
}

#[derive(Debug)]
struct Begun {
    store: Renewing,
    key: Path,
    id: MultipartId,
    /// Of each part that is put: its place and what the store calls it.
    parts: Mutex<Vec<(usize, PartId)>>,
}

impl MultipartUpload for Upload {
    fn put_part(&mut self, part: PutPayload) -> UploadPart {
        let (begun, place) = (Arc::clone(&self.begun), self.count);
        self.count += 1;
        Box::pin(async move {
            let Begun { store, key, id, parts } = &*begun;
            let put = || store.remote.put_part(key, id, place, part.clone());
            let put = with_new(store.renewal.as_ref(), put).await?;
            parts.lock().unwrap_or_else(PoisonError::into_inner).push((place, put));
            Ok(())
        })
    }

    fn complete<'s, 'f>(&'s mut self) -> Answer<'f, PutResult>
    where
        's: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let Begun { store, key, id, parts } = &*self.begun;
            let mut parts = parts.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if parts.len() != self.count {
                let source = format!("{} of {} parts are put", parts.len(), self.count).into();
                return Err(object_store::Error::Generic { store: "upload", source });
            }
            parts.sort_unstable_by_key(|(place, _)| *place);
            let parts: Vec<PartId> = parts.into_iter().map(|(_, part)| part).collect();
            let complete = || store.remote.complete_multipart(key, id, parts.clone());
            with_new(store.renewal.as_ref(), complete).await
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
