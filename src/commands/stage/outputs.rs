//! Files on their way into the store: written by a thread that has no runtime of its own.

use std::io::{self, Write};

use object_store::path::Path;
use tokio::runtime::Handle;
use tollgate_actors::store::{Codec, Decode, EXPAND_MAX, Sink, SinkOptions, Store, Unwrap};
use tollgate_stage::{Files, Out};

/// Bytes handed over at once.
const PIECE_BYTES: usize = 256 * 1024;
/// Largest file; a store has its own bounds below it.
const FILE_BYTES_MAX: u64 = 1 << 40;

/// The files of a table.
#[derive(Debug, Clone)]
pub(super) struct Outputs {
    pub(super) store: Store,
    pub(super) to: Path,
    pub(super) runtime: Handle,
}

struct Output {
    held: Vec<u8>,
    sink: Sink,
    runtime: Handle,
}

impl Files for Outputs {
    fn create(&self, path: &str) -> io::Result<Box<dyn Out>> {
        let key = Path::parse(format!("{}/{path}", self.to)).map_err(io::Error::other)?;
        let options = SinkOptions {
            codec: Codec::None,
            decode: Decode::Identity,
            unwrap: Unwrap::None,
            charset: None,
            body_bytes_max: FILE_BYTES_MAX,
            expand_max: EXPAND_MAX,
        };
        let sink = self.store.sink(key, options);
        let runtime = self.runtime.clone();
        Ok(Box::new(Output { held: Vec::with_capacity(PIECE_BYTES), sink, runtime }))
    }
}

impl Output {
    /// Waits until the store has room: it uploads parts while the next rows are written.
    fn send(&mut self) -> io::Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.held, Vec::with_capacity(PIECE_BYTES));
        self.runtime.block_on(self.sink.write(piece.into())).map_err(io::Error::other)
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
        let Self { sink, runtime, .. } = *self;
        runtime.block_on(sink.finish()).map(|_| ()).map_err(io::Error::other)
    }
}
