//! Files on their way into the store: written by a thread that has no runtime of its own.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use object_store::path::Path;
use tokio::runtime::Handle;
use tollgate_actors::store::{
    Codec, Decode, EXPAND_MAX, Sink, SinkError, SinkOptions, Store, Unwrap,
};
use tollgate_stage::{Files, Out};

/// Bytes handed over at once.
const PIECE_BYTES: usize = 256 * 1024;
/// How often whoever waits for the store looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(100);
/// Largest file; a store has its own bounds below it.
const FILE_BYTES_MAX: u64 = 1 << 40;

/// The files of a table.
#[derive(Debug, Clone)]
pub(super) struct Outputs {
    pub(super) store: Store,
    pub(super) to: Path,
    pub(super) runtime: Handle,
    pub(super) stop: Arc<AtomicBool>,
}

struct Output {
    held: Vec<u8>,
    sink: Sink,
    runtime: Handle,
    stop: Arc<AtomicBool>,
}

/// As they are: what is in them is compressed.
fn plain() -> SinkOptions {
    SinkOptions {
        codec: Codec::None,
        decode: Decode::Identity,
        unwrap: Unwrap::None,
        charset: None,
        body_bytes_max: FILE_BYTES_MAX,
        expand_max: EXPAND_MAX,
    }
}

/// Puts an object of any size, whole or not at all.
pub(super) async fn put(store: &Store, key: Path, object: Vec<u8>) -> Result<(), SinkError> {
    let mut sink = store.sink(key, plain());
    for piece in object.chunks(PIECE_BYTES) {
        sink.write(Bytes::copy_from_slice(piece)).await?;
    }
    sink.finish().await.map(|_| ())
}

/// What work in the store gives; an error soon after the stop, however long a store that is away lets wait.
pub(super) async fn unless_stopped<T>(
    stop: &AtomicBool,
    work: impl Future<Output = T>,
) -> io::Result<T> {
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return Ok(done),
            () = tokio::time::sleep(LOOK) => {
                if stop.load(Ordering::Relaxed) {
                    return Err(io::Error::other("it was stopped"));
                }
            }
        }
    }
}

impl Files for Outputs {
    fn create(&self, path: &str) -> io::Result<Box<dyn Out>> {
        let key = Path::parse(format!("{}/{path}", self.to)).map_err(io::Error::other)?;
        let sink = self.store.sink(key, plain());
        let (runtime, stop) = (self.runtime.clone(), Arc::clone(&self.stop));
        Ok(Box::new(Output { held: Vec::with_capacity(PIECE_BYTES), sink, runtime, stop }))
    }
}

impl Output {
    /// Waits until the store has room: it uploads parts while the next rows are written.
    fn send(&mut self) -> io::Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.held, Vec::with_capacity(PIECE_BYTES));
        let written = unless_stopped(&self.stop, self.sink.write(piece.into()));
        self.runtime.block_on(written)?.map_err(io::Error::other)
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.held.extend_from_slice(bytes);
        if self.held.len() >= PIECE_BYTES {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Out for Output {
    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.send()?;
        let Self { sink, runtime, stop, .. } = *self;
        // If it is visible all the same, no record names it: the next run removes it.
        let finished = unless_stopped(&stop, sink.finish());
        runtime.block_on(finished)?.map(|_| ()).map_err(io::Error::other)
    }
}
