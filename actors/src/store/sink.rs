//! One body on its way into one object.

use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::budget::Share;
use super::error::SinkError;
use super::pipeline::{Fault, Pipeline, Sums, pack};
use super::upload::Upload;
use super::{INLINE_BYTES_MAX, Inspect, SinkOptions, Store, Stored};

/// Bytes read before the blocking threads are given work, so that handing it over costs little
/// beside doing it. Part of a streaming share.
const BATCH_BYTES: usize = 256 * 1024;

/// Takes an answer's body and makes it an object at [`Sink::finish`], never before.
///
/// Until then nothing is under the key that was not there before, and afterwards the object is
/// whole. A sink that is dropped, or whose `write` or `finish` failed, leaves nothing.
#[derive(Debug)]
#[must_use = "a body is stored by finish() only"]
pub struct Sink {
    store: Store,
    key: Path,
    options: SinkOptions,
    inspect: Option<Box<dyn Inspect>>,
    /// Bytes given to `write`.
    wire: u64,
    state: State,
}

enum State {
    /// All of the body so far, in the small share; none before the first byte.
    Small { held: Vec<u8>, share: Option<Share> },
    /// Outgrown.
    Stream(Stream),
    /// A call failed or was dropped half way, so bytes may be missing.
    Spent,
}

struct Stream {
    pipeline: Box<Pipeline>,
    upload: Option<Upload>,
    /// Shared with the work that outlives a dropped sink: what that holds stays counted.
    share: Arc<Share>,
}

impl Sink {
    pub(super) fn new(store: Store, key: Path, options: SinkOptions) -> Self {
        let state = State::Small { held: Vec::new(), share: None };
        Self { store, key, options, inspect: None, wire: 0, state }
    }

    /// Lets somebody look at the body, who has the last word before it is stored. Before the first `write`.
    pub fn inspected(mut self, inspect: Box<dyn Inspect>) -> Self {
        self.inspect = Some(inspect);
        self
    }

    /// The object this sink makes.
    pub fn key(&self) -> &Path {
        &self.key
    }

    /// Takes the next piece of the body, of any length. Returns when the next one may be read: it
    /// waits for the node's budget, for the blocking threads and for the part before, so a caller
    /// that watches for a stalled provider must not count this time.
    ///
    /// Dropping the future loses the piece; the sink then only fails.
    ///
    /// # Errors
    /// Any [`SinkError`]; the sink then only fails.
    pub async fn write(&mut self, piece: Bytes) -> Result<(), SinkError> {
        let state = std::mem::replace(&mut self.state, State::Spent);
        self.wire += piece.len() as u64;
        if self.wire > wire_bytes_max(&self.options) {
            return Err(self.fault(Fault::TooLarge));
        }
        self.state = match state {
            State::Spent => return Err(self.cut_short()),
            State::Small { mut held, share } => {
                let share = match share {
                    Some(share) => share,
                    None => self.store.budget().small().await,
                };
                if held.len() + piece.len() <= INLINE_BYTES_MAX {
                    held.extend_from_slice(&piece);
                    State::Small { held, share: Some(share) }
                } else {
                    let stream = self.grow(held, share).await?;
                    State::Stream(self.stream(stream, &piece).await?)
                }
            }
            State::Stream(stream) => State::Stream(self.stream(stream, &piece).await?),
        };
        Ok(())
    }

    /// Whether the body, all of which has been written, is held in memory as a whole. From then on only what
    /// it holds is counted, and it needs nothing of its provider any more.
    pub fn is_held(&mut self) -> bool {
        let State::Small { held, share } = &mut self.state else { return false };
        if let Some(share) = share {
            share.shrink(held.len());
        }
        true
    }

    /// Stores the body: when this returns, the object is there (and on stable storage, if the store
    /// was opened with `fsync`).
    ///
    /// Dropping the future leaves open whether the object is there; if it is, it is whole.
    ///
    /// # Errors
    /// Any [`SinkError`]; nothing is under the key that was not there before. Where a file store
    /// fails in the last step, the rename, its staging file stays until [`Store::clean_leftovers`].
    pub async fn finish(self) -> Result<Stored, SinkError> {
        self.finish_and(|_| None).await
    }

    /// Stores the body as [`Sink::finish`] does, and after it a small object that tells of it, such as
    /// a manifest. The second is there only if the first is.
    ///
    /// # Errors
    /// As [`Sink::finish`]; the body may be stored although its companion is not.
    pub async fn finish_and(
        mut self,
        companion: impl FnOnce(&Stored) -> Option<(Path, Bytes)>,
    ) -> Result<Stored, SinkError> {
        let stream = match std::mem::replace(&mut self.state, State::Spent) {
            State::Spent => return Err(self.cut_short()),
            State::Stream(stream) => stream,
            State::Small { mut held, share } => {
                let mut inspect = self.inspect.take();
                let packed = pack(&mut held, &self.options, &mut inspect);
                let packed = packed.map_err(|fault| self.fault(fault))?;
                self.inspect = inspect;
                if let Some((object, sums)) = packed {
                    let stored = self.stored(sums, object.len() as u64);
                    let mut objects = vec![(self.key.clone(), object)];
                    objects.extend(companion(&stored));
                    self.store.put_all(objects).await?;
                    return Ok(stored);
                }
                let share = share.expect("what decodes to more than nothing has a first byte");
                self.grow(held, share).await?
            }
        };
        let stored = self.finish_stream(stream).await?;
        if let Some((key, object)) = companion(&stored) {
            self.store.put_small(&key, object).await?;
        }
        Ok(stored)
    }

    /// Gives the body up and waits until what was staged of it is removed. Dropping the sink does
    /// the same without waiting.
    pub async fn abort(mut self) {
        if let State::Stream(Stream { upload: Some(upload), .. }) =
            std::mem::replace(&mut self.state, State::Spent)
        {
            upload.abort().await;
        }
    }

    /// Goes over to streaming what was held so far.
    async fn grow(&mut self, held: Vec<u8>, share: Share) -> Result<Stream, SinkError> {
        let share = Arc::new(self.store.budget().grow(share).await);
        let (options, inspect) = (self.options.clone(), self.inspect.take());
        let pipeline = Pipeline::new(options, self.store.part_bytes(), inspect);
        let mut pipeline = Box::new(pipeline.map_err(|fault| self.fault(fault))?);
        pipeline.push(&held);
        Ok(Stream { pipeline, upload: None, share })
    }

    async fn stream(&self, mut stream: Stream, piece: &[u8]) -> Result<Stream, SinkError> {
        let mut rest = piece;
        while !rest.is_empty() {
            let room = BATCH_BYTES - stream.pipeline.waiting();
            let (now, later) = rest.split_at(room.min(rest.len()));
            stream.pipeline.push(now);
            rest = later;
            if stream.pipeline.waiting() == BATCH_BYTES {
                stream = self.work_off(stream).await?;
            }
        }
        Ok(stream)
    }

    /// Takes all that waits through the pipeline and puts the parts that become full.
    async fn work_off(&self, mut stream: Stream) -> Result<Stream, SinkError> {
        loop {
            let mut pipeline = stream.pipeline;
            let (turn, pipeline) = self
                .off_the_loop(&stream.share, move || {
                    let turn = pipeline.turn();
                    (turn, pipeline)
                })
                .await?;
            stream.pipeline = pipeline;
            let Some(part) = turn.map_err(|fault| self.fault(fault))? else { return Ok(stream) };
            self.put_part(&mut stream.upload, part, &stream.share).await?;
        }
    }

    async fn finish_stream(&self, stream: Stream) -> Result<Stored, SinkError> {
        let Stream { pipeline, mut upload, share } = self.work_off(stream).await?;
        let ended = self.off_the_loop(&share, move || pipeline.finish()).await?;
        let (mut parts, sums) = ended.map_err(|fault| self.fault(fault))?;
        if upload.is_none() && parts.len() == 1 {
            let object = parts.pop().expect("one part");
            return self.put_whole(object, sums).await;
        }
        for part in parts {
            if !part.is_empty() {
                self.put_part(&mut upload, part, &share).await?;
            }
        }
        let upload = upload.expect("begun with the first part");
        let stored_bytes = upload.complete().await.map_err(|e| SinkError::store(&self.key, e))?;
        Ok(self.stored(sums, stored_bytes))
    }

    async fn put_part(
        &self,
        upload: &mut Option<Upload>,
        part: Bytes,
        share: &Arc<Share>,
    ) -> Result<(), SinkError> {
        if upload.is_none() {
            *upload = Some(self.store.begin(&self.key).await?);
        }
        let upload = upload.as_mut().expect("set above");
        upload.put(part, Arc::clone(share)).await.map_err(|e| SinkError::store(&self.key, e))
    }

    async fn put_whole(&self, object: Bytes, sums: Sums) -> Result<Stored, SinkError> {
        let stored_bytes = object.len() as u64;
        self.store.put(&self.key, object).await?;
        Ok(self.stored(sums, stored_bytes))
    }

    /// Runs work on a blocking thread, no more of it at once than there are cores: the shards'
    /// loops would else wait behind a crowd of compressors. A place is held for one turn, which
    /// waits for nothing.
    async fn off_the_loop<T: Send + 'static>(
        &self,
        share: &Arc<Share>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, SinkError> {
        let places: Arc<Semaphore> = Arc::clone(self.store.places());
        let place = places.acquire_owned().await.expect("nobody closes the places");
        let share = Arc::clone(share);
        let done = spawn_blocking(move || {
            let done = work();
            drop((place, share));
            done
        });
        done.await.map_err(|e| SinkError::other(&self.key, e))
    }

    fn stored(&self, sums: Sums, stored_bytes: u64) -> Stored {
        let Sums { bytes, sha256 } = sums;
        Stored { key: self.key.clone(), bytes, sha256, stored_bytes }
    }

    fn fault(&self, fault: Fault) -> SinkError {
        let key = self.key.clone();
        match fault {
            Fault::TooLarge => SinkError::TooLarge { key, bytes_max: self.options.body_bytes_max },
            Fault::Bomb => SinkError::Bomb { key, expand_max: self.options.expand_max },
            Fault::Encoding(reason) => SinkError::Encoding { key, reason },
            Fault::Unfit(what, reason) => SinkError::Unfit { key, what, reason },
            Fault::Refused => SinkError::Refused { key },
            Fault::Codec(error) => SinkError::other(&key, error),
        }
    }

    fn cut_short(&self) -> SinkError {
        SinkError::other(&self.key, "an earlier write failed or was cut short")
    }
}

/// Most bytes on the wire of a body that is not too large: what does not compress grows a little.
/// Without this bound an endless row of empty gzip members would never be too large.
fn wire_bytes_max(options: &SinkOptions) -> u64 {
    const FRAMING_BYTES: u64 = 64 * 1024;
    options.body_bytes_max.saturating_add(options.body_bytes_max / 64 + FRAMING_BYTES)
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Small { .. } => "Small",
            Self::Stream(_) => "Stream",
            Self::Spent => "Spent",
        })
    }
}
