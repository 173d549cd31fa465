//! Objects as they are read back: for work on what was stored, not for collecting.

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{GetResultPayload, ObjectMeta, ObjectStoreExt};

use super::error::if_there;
use super::{SinkError, Store};

/// An object as a list has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The object.
    pub key: Path,
    /// Its size, in bytes.
    pub bytes: u64,
    /// The entity tag, where the store tells it.
    pub tag: Option<String>,
    /// When it was written, in whole seconds since 1970: not every answer of a store has more.
    pub written_s: i64,
}

impl Listed {
    /// Tells what is listed now from what was listed before.
    pub fn version(&self) -> String {
        self.tag.clone().unwrap_or_else(|| format!("{}-{}", self.written_s, self.bytes))
    }

    /// Whether both are of the same object, unchanged; a list may tell less than an answer.
    pub fn is_same(&self, other: &Self) -> bool {
        let same = match (&self.tag, &other.tag) {
            (Some(tag), Some(other)) => tag == other,
            _ => self.written_s == other.written_s,
        };
        same && self.bytes == other.bytes
    }
}

/// The bytes of an object.
pub enum Reading {
    /// A file, at its beginning.
    File(std::fs::File),
    /// Bytes as they come. Dropping it ends the request.
    Stream(BoxStream<'static, std::io::Result<Bytes>>),
}

impl std::fmt::Debug for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::File(_) => "File",
            Self::Stream(_) => "Stream",
        })
    }
}

impl From<ObjectMeta> for Listed {
    fn from(meta: ObjectMeta) -> Self {
        let written_s = meta.last_modified.timestamp();
        Self { key: meta.location, bytes: meta.size, tag: meta.e_tag, written_s }
    }
}

impl Store {
    /// Objects below a prefix, in no order. Nothing is read further than it is asked for.
    pub fn list(&self, prefix: &Path) -> BoxStream<'static, Result<Listed, SinkError>> {
        let at = prefix.clone();
        let listed = self.inner.objects.list(Some(prefix));
        let listed = listed.map_ok(Listed::from);
        listed.map_err(move |error| SinkError::store(&at, error)).boxed()
    }

    /// An object as it is now; `None` if there is none.
    ///
    /// # Errors
    /// [`SinkError::Store`].
    pub async fn look(&self, key: &Path) -> Result<Option<Listed>, SinkError> {
        self.check(key)?;
        let found = if_there(key, self.inner.objects.head(key).await)?;
        Ok(found.map(Listed::from))
    }

    /// The bytes of an object as they are stored, of any size; `None` if there is none.
    ///
    /// # Errors
    /// [`SinkError::Store`].
    pub async fn read(&self, key: &Path) -> Result<Option<(Listed, Reading)>, SinkError> {
        self.check(key)?;
        let Some(found) = if_there(key, self.inner.objects.get(key).await)? else {
            return Ok(None);
        };
        let listed = Listed::from(found.meta.clone());
        let reading = match found.payload {
            GetResultPayload::File(file, _) => Reading::File(file),
            GetResultPayload::Stream(bytes) => {
                Reading::Stream(bytes.map_err(std::io::Error::other).boxed())
            }
        };
        Ok(Some((listed, reading)))
    }

    /// The bytes of an object of at most so many, as they are stored; `None` if there is none.
    ///
    /// # Errors
    /// [`SinkError::TooLarge`] over `bytes_max`; [`SinkError::Store`].
    pub async fn read_whole(&self, key: &Path, bytes_max: u64) -> Result<Option<Bytes>, SinkError> {
        self.check(key)?;
        let Some(found) = if_there(key, self.inner.objects.get(key).await)? else {
            return Ok(None);
        };
        if found.meta.size > bytes_max {
            return Err(SinkError::TooLarge { key: key.clone(), bytes_max });
        }
        found.bytes().await.map(Some).map_err(|error| SinkError::store(key, error))
    }

    /// How many bodies that are not small it takes side by side; another waits.
    pub fn streams_max(&self) -> u64 {
        self.inner.budget.streams()
    }
}
