//! Reading what is stored: all of it as a list, and the sums of one object, whatever its size.

use std::io::{self, Read, Write};

use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use jiff::Timestamp;
use object_store::path::Path;
use object_store::{GetResultPayload, ObjectMeta, ObjectStoreExt};
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;

use super::error::if_there;
use super::pipeline::hex;
use super::{Codec, SinkError, Store};

/// Bytes of a file that are read at once.
const READ_BYTES: usize = 256 * 1024;
/// Pieces of a body up to so many bytes are hashed where they come.
const INLINE_BYTES: usize = 64 * 1024;

/// An object of a list, and when it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Where it is.
    pub key: Path,
    /// Its size as stored, in bytes.
    pub bytes: u64,
    /// When it was written, by the store's clock.
    pub written: Timestamp,
}

/// What was found under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// When it was written, by the store's clock.
    pub written: Timestamp,
    /// Size as stored, in bytes.
    pub stored_bytes: u64,
    /// SHA-256 of the object as stored, lower-case hex.
    pub stored_sha256: String,
    /// The same of the body after decompression, where that was asked for: its size and its SHA-256, or why it cannot be
    /// decompressed.
    pub body: Option<Result<(u64, String), String>>,
}

impl Codec {
    /// How an object is compressed, by what its key ends in.
    pub fn of_key(key: &Path) -> Self {
        match key.extension() {
            Some("zst") => Self::Zstd,
            Some("gz") => Self::Gzip,
            _ => Self::None,
        }
    }
}

impl Store {
    /// Every object below a prefix, as the store lists them; in a bucket in the order of their keys. What lies in the
    /// state folder is none.
    pub fn listed(&self, prefix: &Path) -> BoxStream<'static, Result<Written, SinkError>> {
        let prefix = prefix.clone();
        let from = (!prefix.is_root()).then_some(&prefix);
        let state = self.inner.files.as_ref().and_then(|files| files.state_key.clone());
        let listed = self.inner.objects.list(from).filter_map(move |listed| {
            let listed = match listed {
                Ok(meta) => {
                    let is_state = state.as_ref().is_some_and(|s| meta.location.prefix_matches(s));
                    let written = written(&meta);
                    let (key, bytes) = (meta.location, meta.size);
                    (!is_state).then_some(Ok(Written { key, bytes, written }))
                }
                // A file that went away while its folder was read.
                Err(object_store::Error::NotFound { .. }) => None,
                Err(error) => Some(Err(SinkError::store(&prefix, error))),
            };
            std::future::ready(listed)
        });
        listed.boxed()
    }

    /// Reads an object to its end: its size and hash, and those of its body if a codec is given. `None` if there is no
    /// such object. Holds a piece of it at a time.
    ///
    /// # Errors
    /// [`SinkError::Store`].
    pub async fn sums(&self, key: &Path, codec: Option<Codec>) -> Result<Option<Found>, SinkError> {
        self.check(key)?;
        let Some(found) = if_there(key, self.inner.objects.get(key).await)? else {
            return Ok(None);
        };
        let written = written(&found.meta);
        let sums = Sums::new(codec, written).map_err(|error| SinkError::other(key, error))?;
        match found.payload {
            GetResultPayload::File(file, _) => {
                let summed = spawn_blocking(move || sums.of_file(file)).await;
                let summed = summed.map_err(io::Error::other).flatten();
                summed.map(Some).map_err(|error| SinkError::other(key, error))
            }
            GetResultPayload::Stream(mut pieces) => {
                let mut sums = Box::new(sums);
                while let Some(piece) = pieces.next().await {
                    let piece: Bytes = piece.map_err(|error| SinkError::store(key, error))?;
                    if piece.len() <= INLINE_BYTES {
                        sums.take(&piece);
                        continue;
                    }
                    let taken = spawn_blocking(move || {
                        sums.take(&piece);
                        sums
                    });
                    sums = taken.await.map_err(|error| SinkError::other(key, error))?;
                }
                Ok(Some(sums.end()))
            }
        }
    }
}

/// By the store's clock.
fn written(meta: &ObjectMeta) -> Timestamp {
    Timestamp::from_millisecond(meta.last_modified.timestamp_millis()).unwrap_or(Timestamp::MIN)
}

/// An object on its way through.
struct Sums {
    written: Timestamp,
    stored: Tally,
    body: Option<Body>,
    /// Why the body cannot be decompressed.
    flaw: Option<String>,
}

enum Body {
    Plain,
    Gzip(Box<MultiGzDecoder<Tally>>),
    Zstd(Box<zstd::stream::write::Decoder<'static, Tally>>),
}

#[derive(Default)]
struct Tally {
    bytes: u64,
    sha: Sha256,
}

impl Write for Tally {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes += bytes.len() as u64;
        self.sha.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Tally {
    fn end(self) -> (u64, String) {
        (self.bytes, hex(&self.sha.finalize()))
    }
}

impl Sums {
    fn new(codec: Option<Codec>, written: Timestamp) -> io::Result<Self> {
        let body = match codec {
            None => None,
            Some(Codec::None) => Some(Body::Plain),
            Some(Codec::Gzip) => Some(Body::Gzip(Box::new(MultiGzDecoder::new(Tally::default())))),
            Some(Codec::Zstd) => {
                let decoder = zstd::stream::write::Decoder::new(Tally::default())?;
                Some(Body::Zstd(Box::new(decoder)))
            }
        };
        Ok(Self { written, stored: Tally::default(), body, flaw: None })
    }

    fn of_file(mut self, mut file: std::fs::File) -> io::Result<Found> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let count = match file.read(&mut buffer) {
                Ok(0) => return Ok(self.end()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.take(buffer.get(..count).unwrap_or_default());
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        // A Tally takes all.
        let _taken = self.stored.write(bytes).is_ok();
        if self.flaw.is_some() {
            return;
        }
        let taken = match &mut self.body {
            None | Some(Body::Plain) => Ok(()),
            Some(Body::Gzip(decoder)) => decoder.write_all(bytes),
            Some(Body::Zstd(decoder)) => decoder.write_all(bytes),
        };
        self.flaw = taken.err().map(|error| error.to_string());
    }

    fn end(self) -> Found {
        let (stored_bytes, stored_sha256) = self.stored.end();
        let body = match (self.body, self.flaw) {
            (None, _) => None,
            (Some(_), Some(flaw)) => Some(Err(flaw)),
            (Some(Body::Plain), None) => Some(Ok((stored_bytes, stored_sha256.clone()))),
            (Some(Body::Gzip(decoder)), None) => {
                Some(decoder.finish().map(Tally::end).map_err(|error| error.to_string()))
            }
            (Some(Body::Zstd(mut decoder)), None) => {
                let flushed = decoder.flush().map_err(|error| error.to_string());
                Some(flushed.map(|()| decoder.into_inner().end()))
            }
        };
        Found { written: self.written, stored_bytes, stored_sha256, body }
    }
}
