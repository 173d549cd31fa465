//! One body on its way into one object.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use object_store::path::Path;
use object_store::{Attribute, Attributes};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::bucket::holding;
use super::budget::Share;
use super::error::SinkError;
use super::lines::Line;
use super::pipeline::{Fault, Pipeline, Sums, pack};
use super::upload::Upload;
use super::{INLINE_BYTES_MAX, Inspect, SinkOptions, Store, Stored};

/// Bytes read before the blocking threads are given work, so that handing it over costs little
/// beside doing it. Part of a streaming share.
pub(super) const BATCH_BYTES: usize = 256 * 1024;

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
    /// While the body streams it is in the pipeline.
    tap: Option<Box<dyn Tap>>,
    /// Covers all that is held, so that no share is asked for.
    lent: Option<Arc<Share>>,
    /// Kept with the object where the store has a place for it.
    about: Attributes,
}

/// Sees a body as it is stored, decoded and before it is compressed, on whichever thread works on it. Its time
/// is the body's: it has to be quick and to bound what it holds.
pub trait Tap: std::fmt::Debug + Send {
    /// The next bytes; any number of them.
    fn see(&mut self, bytes: &[u8]);

    /// What it is, for whoever gave it and takes it back.
    fn into_any(self: Box<Self>) -> Box<dyn std::any::Any>;
}

/// A body that is whole and not yet an object.
#[derive(Debug)]
#[must_use = "a body is stored by complete() only"]
pub struct Sealed {
    store: Store,
    stored: Stored,
    tap: Option<Box<dyn Tap>>,
    left: Left,
    /// Of a small body: what it holds stays counted.
    share: Option<Share>,
    about: Attributes,
    line: Option<Line>,
}

/// What is left to do.
enum Left {
    /// Small enough to be put at once.
    Whole(Bytes),
    /// An upload to complete, or the one part of it that is put at once.
    Streamed(Option<Upload>, Bytes, Arc<Share>),
}

impl std::fmt::Debug for Left {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Whole(_) => "Whole",
            Self::Streamed(..) => "Streamed",
        })
    }
}

impl Sealed {
    /// What the object will be.
    pub fn stored(&self) -> &Stored {
        &self.stored
    }

    /// The tap of the sink, once.
    pub fn take_tap(&mut self) -> Option<Box<dyn Tap>> {
        self.tap.take()
    }

    /// Keeps a line about the object, which ends in a line feed, before that becomes visible; `wall` is now.
    pub(crate) fn telling(mut self, text: Vec<u8>, wall: Timestamp) -> Self {
        self.line = self.store.line(text, wall);
        self
    }

    /// Makes the object visible, as [`Sink::finish`] does.
    ///
    /// # Errors
    /// As [`Sink::finish`].
    pub async fn complete(self) -> Result<Stored, SinkError> {
        self.complete_and(|_| None).await
    }

    /// The same, and after it a small object that tells of it: as [`Sink::finish_and`].
    ///
    /// # Errors
    /// As [`Sink::finish_and`].
    pub async fn complete_and(
        self,
        companion: impl FnOnce(&Stored) -> Option<(Path, Bytes)>,
    ) -> Result<Stored, SinkError> {
        let Self { store, stored, left, share: _share, mut about, mut line, .. } = self;
        if !about.is_empty() {
            // Of one that was begun in parts they are not known in time.
            for (name, hash) in
                [("sha256", &stored.sha256), ("stored-sha256", &stored.stored_sha256)]
            {
                if let Some(name) = store.about_name(name) {
                    about.insert(Attribute::Metadata(name.into()), hash.clone().into());
                }
            }
        }
        if !about.is_empty() || !matches!(left, Left::Whole(_)) {
            store.tell(line.take()).await;
        }
        match left {
            Left::Whole(object) if about.is_empty() => {
                let mut objects = vec![(stored.key.clone(), object)];
                objects.extend(companion(&stored));
                store.put_all(objects, line).await?;
                return Ok(stored);
            }
            Left::Streamed(Some(mut upload), _, share) => {
                let settled = upload.settle().await;
                // Nothing of the body is in memory any more, however long the end takes.
                drop(share);
                let completed = match settled {
                    Ok(()) => upload.complete().await,
                    Err(error) => Err(error),
                };
                completed.map_err(|e| SinkError::store(&stored.key, e))?;
            }
            Left::Whole(object) => store.put_about(&stored.key, object, about).await?,
            Left::Streamed(None, object, share) => {
                holding(share, store.put_about(&stored.key, object, about)).await?;
            }
        }
        if let Some((key, object)) = companion(&stored) {
            store.put_small(&key, object).await?;
        }
        Ok(stored)
    }

    /// Gives the body up and waits until what was staged of it is removed. Dropping does the same without
    /// waiting.
    pub async fn abort(self) {
        if let Left::Streamed(Some(upload), ..) = self.left {
            upload.abort().await;
        }
    }
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
        let about = Attributes::new();
        Self { store, key, options, inspect: None, wire: 0, state, tap: None, lent: None, about }
    }

    /// Holds what a streaming share covers that somebody has already: who holds one may not ask for another.
    pub(super) fn within(mut self, share: Arc<Share>) -> Self {
        self.lent = Some(share);
        self
    }

    /// Shows the body to somebody as it is stored. Before the first `write` only.
    pub fn with_tap(mut self, tap: Box<dyn Tap>) -> Self {
        self.tap = Some(tap);
        self
    }

    /// Keeps this with the object, as metadata that its user gives, in stores that have a place for it: at most 2 KiB of
    /// names and values in ASCII (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingMetadata.html>). Before the
    /// first `write` only.
    pub fn about(mut self, about: Attributes) -> Self {
        self.about = about;
        self
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
                let share = match (share, &self.lent) {
                    (None, None) => Some(self.store.budget().small().await),
                    (share, _) => share,
                };
                if held.len() + piece.len() <= INLINE_BYTES_MAX {
                    held.extend_from_slice(&piece);
                    State::Small { held, share }
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
        self,
        companion: impl FnOnce(&Stored) -> Option<(Path, Bytes)>,
    ) -> Result<Stored, SinkError> {
        self.seal().await?.complete_and(companion).await
    }

    /// Ends the body without making the object visible: what it will be is known from now on, and nothing is
    /// under the key that was not there before. A sealed body that is dropped leaves nothing.
    ///
    /// # Errors
    /// As [`Sink::finish`].
    pub async fn seal(mut self) -> Result<Sealed, SinkError> {
        let stream = match std::mem::replace(&mut self.state, State::Spent) {
            State::Spent => return Err(self.cut_short()),
            State::Stream(stream) => stream,
            State::Small { mut held, share } => {
                let mut inspect = self.inspect.take();
                let packed = pack(&mut held, &self.options, &mut inspect, self.tap.as_mut());
                let packed = packed.map_err(|fault| self.fault(fault))?;
                self.inspect = inspect;
                if let Some((object, sums)) = packed {
                    let stored = self.stored(sums, object.len() as u64);
                    let left = Left::Whole(object);
                    let Self { store, tap, about, .. } = self;
                    return Ok(Sealed { store, stored, tap, left, share, about, line: None });
                }
                self.grow(held, share).await?
            }
        };
        self.seal_stream(stream).await
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
    async fn grow(&mut self, held: Vec<u8>, share: Option<Share>) -> Result<Stream, SinkError> {
        let share = if let Some(lent) = &self.lent {
            Arc::clone(lent)
        } else {
            let share = share.expect("what decodes to more than nothing has a first byte");
            Arc::new(self.store.budget().grow(share).await)
        };
        let tap = self.tap.take();
        let (options, inspect) = (self.options.clone(), self.inspect.take());
        let pipeline = Pipeline::new(options, self.store.part_bytes(), inspect, tap);
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

    async fn seal_stream(mut self, stream: Stream) -> Result<Sealed, SinkError> {
        let Stream { pipeline, mut upload, share } = self.work_off(stream).await?;
        let ended = self.off_the_loop(&share, move || pipeline.finish()).await?;
        let (mut parts, sums, tap) = ended.map_err(|fault| self.fault(fault))?;
        self.tap = tap;
        if upload.is_none() && parts.len() == 1 {
            let object = parts.pop().expect("one part");
            let stored = self.stored(sums, object.len() as u64);
            let left = Left::Streamed(None, object, share);
            let Self { store, tap, about, .. } = self;
            return Ok(Sealed { store, stored, tap, left, share: None, about, line: None });
        }
        for part in parts {
            if !part.is_empty() {
                self.put_part(&mut upload, part, &share).await?;
            }
        }
        let upload = upload.expect("begun with the first part");
        let stored = self.stored(sums, upload.put_bytes());
        let left = Left::Streamed(Some(upload), Bytes::new(), share);
        let Self { store, tap, about, .. } = self;
        Ok(Sealed { store, stored, tap, left, share: None, about, line: None })
    }

    async fn put_part(
        &self,
        upload: &mut Option<Upload>,
        part: Bytes,
        share: &Arc<Share>,
    ) -> Result<(), SinkError> {
        if upload.is_none() {
            *upload = Some(self.store.begin(&self.key, self.about.clone()).await?);
        }
        let upload = upload.as_mut().expect("set above");
        upload.put(part, Arc::clone(share)).await.map_err(|e| SinkError::store(&self.key, e))
    }

    async fn off_the_loop<T: Send + 'static>(
        &self,
        share: &Arc<Share>,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, SinkError> {
        off_the_loop((&self.store, &self.key), share, work).await
    }

    fn stored(&self, sums: Sums, stored_bytes: u64) -> Stored {
        let Sums { bytes, sha256, stored_sha256 } = sums;
        Stored { key: self.key.clone(), bytes, sha256, stored_bytes, stored_sha256 }
    }

    fn fault(&self, fault: Fault) -> SinkError {
        fault_of(&self.key, &self.options, fault)
    }

    fn cut_short(&self) -> SinkError {
        SinkError::other(&self.key, "an earlier write failed or was cut short")
    }
}

/// A body that was refused, for whoever stores it.
pub(super) fn fault_of(key: &Path, options: &SinkOptions, fault: Fault) -> SinkError {
    let error_of = |error| SinkError::other(key, error);
    let key = key.clone();
    match fault {
        Fault::TooLarge => SinkError::TooLarge { key, bytes_max: options.body_bytes_max },
        Fault::Bomb => SinkError::Bomb { key, expand_max: options.expand_max },
        Fault::Encoding(reason) => SinkError::Encoding { key, reason },
        Fault::Unfit(what, reason) => SinkError::Unfit { key, what, reason },
        Fault::Refused => SinkError::Refused { key },
        Fault::Codec(error) => error_of(error),
    }
}

/// Runs work on a blocking thread, no more of it at once than there are cores: the shards'
/// loops would else wait behind a crowd of compressors. A place is held for one turn, which
/// waits for nothing.
pub(super) async fn off_the_loop<T: Send + 'static>(
    (store, key): (&Store, &Path),
    share: &Arc<Share>,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, SinkError> {
    let places: Arc<Semaphore> = Arc::clone(store.places());
    let place = places.acquire_owned().await.expect("nobody closes the places");
    let share = Arc::clone(share);
    let done = spawn_blocking(move || {
        let done = work();
        drop((place, share));
        done
    });
    done.await.map_err(|e| SinkError::other(key, e))
}

/// Most bytes on the wire of a body that is not too large: what does not compress grows a little.
/// Without this bound an endless row of empty gzip members would never be too large.
pub(super) fn wire_bytes_max(options: &SinkOptions) -> u64 {
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
