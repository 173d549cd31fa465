//! Whether an object is what it was said to be: its size first, then its bytes.

use std::io::{self, Write};

use flate2::write::MultiGzDecoder;
use futures_util::StreamExt;
use object_store::ObjectStoreExt;
use object_store::path::Path;
use sha2::{Digest, Sha256};
use tokio::task::spawn_blocking;

use super::error::{SinkError, if_there};
use super::{Codec, Store};

/// Pieces that are worked on together, off the loop.
const PIECE_BYTES: usize = 1024 * 1024;

impl Store {
    /// How many bytes an object has as stored; nothing if there is none. Dropping the future is safe.
    ///
    /// # Errors
    /// [`SinkError::Store`].
    pub async fn size(&self, key: &Path) -> Result<Option<u64>, SinkError> {
        Ok(self.look(key).await?.map(|listed| listed.bytes))
    }

    /// Whether this object is there, has so many bytes as stored, and decompresses to bytes of this hash. Reads
    /// all of it, piece by piece. Dropping the future is safe.
    ///
    /// # Errors
    /// [`SinkError::Store`].
    pub async fn holds(
        &self,
        key: &Path,
        codec: Codec,
        stored_bytes: u64,
        sha256: &[u8; 32],
    ) -> Result<bool, SinkError> {
        self.check(key)?;
        let Some(found) = if_there(key, self.inner.objects.get(key).await)? else {
            return Ok(false);
        };
        if found.meta.size != stored_bytes {
            return Ok(false);
        }
        let mut hasher = Hasher::new(codec).map_err(|error| SinkError::other(key, error))?;
        let mut pieces = found.into_stream();
        let mut waiting = Vec::new();
        loop {
            let piece = pieces.next().await;
            let ended = piece.is_none();
            if let Some(piece) = piece {
                waiting.extend_from_slice(&piece.map_err(|error| SinkError::store(key, error))?);
            }
            if waiting.len() < PIECE_BYTES && !ended {
                continue;
            }
            let now = std::mem::take(&mut waiting);
            let work = spawn_blocking(move || hasher.write(&now).map(|()| hasher));
            match work.await.map_err(|error| SinkError::other(key, error))? {
                Ok(more) => hasher = more,
                // It is not what it was said to be.
                Err(_) => return Ok(false),
            }
            if ended {
                return Ok(hasher.finish().is_ok_and(|found| found == *sha256));
            }
        }
    }
}

enum Hasher {
    None(Sink),
    Gzip(Box<MultiGzDecoder<Sink>>),
    Zstd(Box<zstd::stream::write::Decoder<'static, Sink>>),
}

#[derive(Default)]
struct Sink(Sha256);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Hasher {
    fn new(codec: Codec) -> io::Result<Self> {
        Ok(match codec {
            Codec::None => Self::None(Sink::default()),
            Codec::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(Sink::default()))),
            Codec::Zstd => {
                Self::Zstd(Box::new(zstd::stream::write::Decoder::new(Sink::default())?))
            }
        })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::None(out) => out.write_all(bytes),
            Self::Gzip(out) => out.write_all(bytes),
            Self::Zstd(out) => out.write_all(bytes),
        }
    }

    fn finish(self) -> io::Result<[u8; 32]> {
        let sink = match self {
            Self::None(out) => out,
            Self::Gzip(out) => out.finish()?,
            Self::Zstd(mut out) => {
                out.flush()?;
                out.into_inner()
            }
        };
        Ok(sink.0.finalize().into())
    }
}
