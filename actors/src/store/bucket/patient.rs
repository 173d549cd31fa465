//! A bucket that is away is waited for: what it does not take meanwhile is kept on the disk, so that no call is made
//! again for it.
//!
//! An object or a part that could not be put, after all its tries, is written to the [`Spool`], and so is all that
//! comes after it, without a try. The call goes on as if it were put, until its end: that waits until the
//! node's probe says that the store is back, puts what was kept, and only then is the object there. So nothing is done
//! before it is stored. What is small stays in memory instead, where it is counted as before.
//!
//! # Bounds
//!
//! - The spool holds `store.spool_bytes_max` bytes of all objects. What finds no room, or a disk that takes
//!   nothing, fails as if there were no spool: the call is made again, and an event says so.
//! - An end waits for [`WAIT_MAX`] at most. A node that stops gives up sooner: its future is dropped.
//! - Of what is on the disk at most [`REPLAYS`] parts are in memory at once.
//!
//! Only a store that is away is waited for. One that is full, or refuses, fails at once.

use std::cell::Cell;
use std::collections::VecDeque;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fmt, io};

use futures_util::stream::BoxStream;
use futures_util::{StreamExt, pin_mut};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use tokio::sync::{Mutex, Notify, Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout};

use super::client::Streak;
use crate::store::INLINE_BYTES_MAX;
use crate::store::budget::Share;
use crate::store::error::{StoreErrorKind, store_kind};
use crate::store::spool::{Spool, Waiting};
use crate::telemetry;

/// Longest wait for a store that is away.
const WAIT_MAX: Duration = Duration::from_secs(3600);
/// It is tried so often while nobody says that it is back.
const TRY_EVERY: Duration = Duration::from_secs(20);
/// Parts that are read from the disk and put at once.
const REPLAYS: usize = 4;

tokio::task_local! {
    /// The share of the buffer that a put holds, until its bytes are on the disk.
    static HELD: Cell<Option<Arc<Share>>>;
    /// Somebody has an answer in hand: reads and removals wait too.
    static LANDING: ();
}

/// Makes a put whose bytes are covered by a share: it is given back as soon as they are not in memory.
pub(in crate::store) async fn holding<T>(share: Arc<Share>, put: impl Future<Output = T>) -> T {
    HELD.scope(Cell::new(Some(share)), put).await
}

/// Stores an answer: whatever it asks of the store meanwhile waits for one that is away.
pub(crate) async fn landing<T>(work: impl Future<Output = T>) -> T {
    LANDING.scope((), work).await
}

/// Whether the bucket is away, and what waits for it.
#[derive(Debug)]
pub(super) struct Patience {
    spool: Spool,
    away: AtomicBool,
    back: Notify,
    streak: Arc<Streak>,
    replays: Semaphore,
    /// That something found no place was told since it went away.
    told: AtomicBool,
}

impl Patience {
    pub(super) fn new(spool: Spool, streak: Arc<Streak>) -> Self {
        let (away, told) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { spool, away, back: Notify::new(), streak, replays: Semaphore::new(REPLAYS), told }
    }

    pub(super) fn spooled_bytes(&self) -> u64 {
        self.spool.taken_bytes()
    }

    /// The store takes bytes again.
    pub(super) fn is_back(&self) {
        self.told.store(false, Ordering::Relaxed);
        self.away.store(false, Ordering::Release);
        self.back.notify_waiters();
    }

    fn is_away(&self) -> bool {
        self.away.load(Ordering::Acquire)
    }

    /// An operation has failed for good that may succeed later.
    fn is_gone(&self) {
        if !self.away.swap(true, Ordering::AcqRel) {
            // Whoever gives permits hears of it, and tries the store until it is back.
            self.streak.tell();
        }
    }

    /// Waits until the store is said to be back, or it is time to look oneself.
    async fn wait(&self, until: Instant) {
        let back = self.back.notified();
        pin_mut!(back);
        back.as_mut().enable();
        if self.is_away() {
            let left = until.saturating_duration_since(Instant::now());
            drop(timeout(TRY_EVERY.min(left), back).await);
        }
    }

    /// Makes a call until the store takes it, or refuses it, or has been away for too long.
    async fn outlast<T, F>(&self, call: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let until = Instant::now() + WAIT_MAX;
        loop {
            self.wait(until).await;
            match call().await {
                Err(error) if passes(&error) && Instant::now() < until => self.is_gone(),
                done => return self.heard(done),
            }
        }
    }

    /// Nobody need say that a store is back that has just taken something.
    fn heard<T>(&self, done: Result<T>) -> Result<T> {
        if done.is_ok() && self.is_away() {
            self.is_back();
        }
        done
    }

    /// Keeps bytes on the disk; nothing where they have no place there.
    async fn keep(&self, waiting: &mut Option<Waiting>, bytes: &PutPayload) -> Option<Range<u64>> {
        match self.spool.keep(waiting, bytes).await {
            Ok(range) => {
                // They are not in memory from here on.
                HELD.try_with(|share| drop(share.take())).ok();
                Some(range)
            }
            Err(error) => {
                if !self.told.swap(true, Ordering::Relaxed) {
                    telemetry::spool_refused(&error.to_string());
                }
                None
            }
        }
    }

    /// Reads what was kept; the turn is held until it is put.
    async fn replay(
        &self,
        waiting: &Waiting,
        range: Range<u64>,
    ) -> Result<(SemaphorePermit<'_>, PutPayload)> {
        let turn = self.replays.acquire().await.expect("nobody closes it");
        Ok((turn, waiting.read(range).await.map_err(unread)?.into()))
    }
}

fn unread(error: io::Error) -> object_store::Error {
    let source = format!("read what waits in the state folder: {error}").into();
    object_store::Error::Generic { store: "spool", source }
}

/// Bytes of an upload found no place, and some of it waits already.
fn no_place() -> object_store::Error {
    let reason = "the store is away, and there is no place where the rest of the body could wait";
    let source = Box::new(io::Error::new(io::ErrorKind::TimedOut, reason));
    object_store::Error::Generic { store: "spool", source }
}

fn passes(error: &object_store::Error) -> bool {
    store_kind(error) == StoreErrorKind::Away
}

/// A bucket that is waited for.
#[derive(Debug, Clone)]
pub(super) struct Patient {
    inner: Arc<dyn ObjectStore>,
    patience: Arc<Patience>,
}

impl Patient {
    pub(super) fn new(inner: Arc<dyn ObjectStore>, patience: Arc<Patience>) -> Self {
        Self { inner, patience }
    }

    async fn put(&self, key: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let Self { inner, patience } = self;
        let mut failed = None;
        if !patience.is_away() {
            match inner.put_opts(key, payload.clone(), options.clone()).await {
                Err(error) if passes(&error) => {
                    patience.is_gone();
                    failed = Some(error);
                }
                done => return done,
            }
        }
        if payload.content_length() <= INLINE_BYTES_MAX {
            let put = || inner.put_opts(key, payload.clone(), options.clone());
            return patience.outlast(put).await;
        }
        let mut waiting = None;
        let kept = patience.keep(&mut waiting, &payload).await;
        let (Some(range), Some(waiting)) = (kept, &waiting) else {
            return match failed {
                Some(error) => Err(error),
                None => inner.put_opts(key, payload, options).await,
            };
        };
        drop(payload);
        let put = || async {
            let (_turn, payload) = patience.replay(waiting, range.clone()).await?;
            inner.put_opts(key, payload, options.clone()).await
        };
        patience.outlast(put).await
    }
}

impl fmt::Display for Patient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.inner, f)
    }
}

type Answer<'f, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'f>>;

fn is_landing() -> bool {
    LANDING.try_with(|()| ()).is_ok()
}

impl ObjectStore for Patient {
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
        Box::pin(self.put(key, payload, options))
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
            let (to, key) = (self.clone(), key.clone());
            let (waiting, parts) = (None, VecDeque::new());
            let mut parts = Parts { to, key, options, begun: None, waiting, parts };
            if !self.patience.is_away() {
                match parts.begin().await.map(drop) {
                    Err(error) if passes(&error) => self.patience.is_gone(),
                    begun => begun?,
                }
            }
            let upload = Upload(Arc::new(Mutex::new(parts)));
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
            let get = || self.inner.get_opts(key, options.clone());
            if is_landing() { self.patience.outlast(get).await } else { get().await }
        })
    }

    fn delete_stream(
        &self,
        keys: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        if !is_landing() {
            return self.inner.delete_stream(keys);
        }
        let this = self.clone();
        keys.then(move |key| {
            let this = this.clone();
            async move {
                let key = key?;
                this.patience.outlast(|| this.inner.delete(&key)).await?;
                Ok(key)
            }
        })
        .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    fn list_with_delimiter<'s, 'p, 'f>(&'s self, prefix: Option<&'p Path>) -> Answer<'f, ListResult>
    where
        's: 'f,
        'p: 'f,
        Self: 'f,
    {
        self.inner.list_with_delimiter(prefix)
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
        self.inner.copy_opts(from, to, options)
    }
}

/// An upload whose parts are put one after the other.
#[derive(Debug)]
struct Upload(Arc<Mutex<Parts>>);

#[derive(Debug)]
struct Parts {
    to: Patient,
    key: Path,
    options: PutMultipartOptions,
    begun: Option<Box<dyn MultipartUpload>>,
    waiting: Option<Waiting>,
    /// Where those are that wait, in order. Once one does, all that come after it do.
    parts: VecDeque<Range<u64>>,
}

impl Parts {
    async fn begin(&mut self) -> Result<&mut Box<dyn MultipartUpload>> {
        if self.begun.is_none() {
            let (key, options) = (&self.key, self.options.clone());
            self.begun = Some(self.to.inner.put_multipart_opts(key, options).await?);
        }
        Ok(self.begun.as_mut().expect("set above"))
    }

    async fn put_now(&mut self, part: PutPayload) -> Result<()> {
        self.begin().await?.put_part(part).await
    }

    async fn put(&mut self, part: PutPayload) -> Result<()> {
        let patience = Arc::clone(&self.to.patience);
        let mut failed = None;
        if self.parts.is_empty() && !patience.is_away() {
            match self.put_now(part.clone()).await {
                Err(error) if passes(&error) => {
                    patience.is_gone();
                    failed = Some(error);
                }
                done => return done,
            }
        }
        match patience.keep(&mut self.waiting, &part).await {
            Some(range) => self.parts.push_back(range),
            None if !self.parts.is_empty() => return Err(no_place()),
            None => match failed {
                Some(error) => return Err(error),
                None => return self.put_now(part).await,
            },
        }
        Ok(())
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let patience = Arc::clone(&self.to.patience);
        let until = Instant::now() + WAIT_MAX;
        loop {
            patience.wait(until).await;
            match self.put_the_rest().await {
                Err(error) if passes(&error) && Instant::now() < until => patience.is_gone(),
                done => return patience.heard(done),
            }
        }
    }

    async fn put_the_rest(&mut self) -> Result<PutResult> {
        let patience = Arc::clone(&self.to.patience);
        while let Some(waiting) = &self.waiting
            && let Some(range) = self.parts.front()
        {
            let (_turn, part) = patience.replay(waiting, range.clone()).await?;
            self.put_now(part).await?;
            self.parts.pop_front();
        }
        self.waiting = None;
        self.begin().await?.complete().await
    }
}

impl MultipartUpload for Upload {
    fn put_part(&mut self, part: PutPayload) -> UploadPart {
        let parts = Arc::clone(&self.0);
        Box::pin(async move { parts.lock().await.put(part).await })
    }

    fn complete<'s, 'f>(&'s mut self) -> Answer<'f, PutResult>
    where
        's: 'f,
        Self: 'f,
    {
        Box::pin(async move { self.0.lock().await.complete().await })
    }

    fn abort<'s, 'f>(&'s mut self) -> Answer<'f, ()>
    where
        's: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let mut parts = self.0.lock().await;
            parts.waiting = None;
            match &mut parts.begun {
                Some(begun) => begun.abort().await,
                None => Ok(()),
            }
        })
    }
}
