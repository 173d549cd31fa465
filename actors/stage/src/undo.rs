//! Undoes the compression of an input, and tells what broke: the place it is read from, or its bytes.

use std::io::{self, BufReader, Read};
use std::sync::{Arc, Mutex, PoisonError};

/// Largest window of a zstd frame, as a power of two: what `zstd -d` takes without being asked.
const WINDOW_LOG_MAX: u32 = 27;

/// An input whose failures are remembered.
pub(crate) struct Watched {
    inner: Box<dyn Read + Send>,
    failed: Failed,
}

/// The failure of a place that bytes are read from, once.
#[derive(Clone, Default)]
pub(crate) struct Failed(Arc<Mutex<Option<io::Error>>>);

impl Failed {
    pub(crate) fn take(&self) -> Option<io::Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.inner.read(buffer) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                let kind = error.kind();
                *self.failed.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                Err(kind.into())
            }
            other => other,
        }
    }
}

/// The bytes as they were before they were compressed, as the name's end says.
pub(crate) fn undo(name: &str, inner: Box<dyn Read + Send>) -> io::Result<(Box<dyn Read>, Failed)> {
    let failed = Failed::default();
    let watched = Watched { inner, failed: failed.clone() };
    let end = name.rsplit_once('.').map(|(_, end)| end);
    let bytes: Box<dyn Read> = if let Some("zst") = end {
        let mut decoder = zstd::stream::read::Decoder::new(watched)?;
        decoder.window_log_max(WINDOW_LOG_MAX)?;
        Box::new(decoder)
    } else if let Some("gz") = end {
        Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::with_capacity(64 * 1024, watched)))
    } else {
        Box::new(watched)
    };
    Ok((bytes, failed))
}
