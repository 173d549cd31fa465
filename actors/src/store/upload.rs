//! One object on its way in parts: at most one part in flight, cleaned up when it is given up.

use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{Attributes, MultipartUpload, ObjectStore, ObjectStoreExt, PutMultipartOptions};
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, spawn_blocking};

use super::budget::Share;

/// A begun upload. Its drop removes what was put so far.
#[derive(Debug)]
pub(super) struct Upload {
    /// Taken when the upload is complete or given up.
    parts: Option<Box<dyn MultipartUpload>>,
    in_flight: Option<JoinHandle<object_store::Result<()>>>,
    put_bytes: u64,
}

impl Upload {
    /// Begins an upload, off the loop: the file store makes folders and the staging file on the
    /// calling thread. A dropped future drops the begun upload with its thread's result.
    pub(super) async fn begin(
        objects: &Arc<dyn ObjectStore>,
        key: &Path,
    ) -> object_store::Result<Self> {
        let (objects, key) = (Arc::clone(objects), key.clone());
        let handle = Handle::current();
        let begun = spawn_blocking(move || handle.block_on(objects.put_multipart(&key)));
        Ok(Self::new(begun.await??))
    }

    /// Begins an upload of a remote store, which does not hold up the loop. A dropped future lets the
    /// store answer all the same, so that what it has begun is given up.
    pub(super) async fn begin_remote(
        objects: &Arc<dyn ObjectStore>,
        key: &Path,
        about: Attributes,
    ) -> object_store::Result<Self> {
        let (objects, key) = (Arc::clone(objects), key.clone());
        let options = PutMultipartOptions { attributes: about, ..PutMultipartOptions::default() };
        let begun =
            tokio::spawn(
                async move { objects.put_multipart_opts(&key, options).await.map(Self::new) },
            );
        begun.await?
    }

    fn new(parts: Box<dyn MultipartUpload>) -> Self {
        Self { parts: Some(parts), in_flight: None, put_bytes: 0 }
    }

    /// Puts a part while the caller goes on; waits for the part before. The part holds the share
    /// until it is put, also when the upload is dropped.
    pub(super) async fn put(&mut self, part: Bytes, share: Arc<Share>) -> object_store::Result<()> {
        self.settle().await?;
        self.put_bytes += part.len() as u64;
        let put = self.parts.as_mut().expect("not ended").put_part(part.into());
        self.in_flight = Some(tokio::spawn(async move {
            let done = put.await;
            drop(share);
            done
        }));
        Ok(())
    }

    /// Bytes of all parts so far.
    pub(super) fn put_bytes(&self) -> u64 {
        self.put_bytes
    }

    /// Makes the object visible; gives its size in bytes.
    pub(super) async fn complete(mut self) -> object_store::Result<u64> {
        self.settle().await?;
        // Stays in place until it has succeeded, so that a failure is cleaned up by the drop.
        self.parts.as_mut().expect("not ended").complete().await?;
        self.parts = None;
        Ok(self.put_bytes)
    }

    /// Removes what was put so far.
    pub(super) async fn abort(mut self) {
        if let Some(parts) = self.parts.take() {
            give_up(parts, self.in_flight.take()).await;
        }
    }

    /// Waits for the part in flight. It stays in place until then: a dropped future must not lose
    /// it.
    pub(super) async fn settle(&mut self) -> object_store::Result<()> {
        let Some(in_flight) = self.in_flight.as_mut() else { return Ok(()) };
        let done = in_flight.await;
        self.in_flight = None;
        done?
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // Without a runtime the file store removes its staging file itself, when it is dropped
        // here.
        if let (Some(parts), Ok(runtime)) = (self.parts.take(), Handle::try_current()) {
            let in_flight = self.in_flight.take();
            drop(runtime.spawn(give_up(parts, in_flight)));
        }
    }
}

/// Lets the part in flight end first: a remote store could else take it after the abort.
async fn give_up(
    mut parts: Box<dyn MultipartUpload>,
    in_flight: Option<JoinHandle<object_store::Result<()>>>,
) {
    if let Some(in_flight) = in_flight {
        drop(in_flight.await);
    }
    // Best effort: what stays behind is removed by `Store::clean_leftovers`.
    drop(parts.abort().await);
}
