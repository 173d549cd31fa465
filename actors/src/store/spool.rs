//! Bytes of answers that wait on the disk for a store that is away.
//!
//! Each object that waits has a file of its own in the folder, which has lost its name as soon as it was made: whatever
//! ends the process, the system takes its bytes back. So nothing is found there by the next process, which makes
//! those calls again.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use object_store::PutPayload;
use tokio::task::spawn_blocking;

/// A folder, and what may wait in it.
#[derive(Debug)]
pub(super) struct Spool {
    folder: PathBuf,
    bytes_max: u64,
    taken: Arc<AtomicU64>,
}

impl Spool {
    /// The folder is made when it is needed. `bytes_max`: of all objects together.
    pub(super) fn new(folder: PathBuf, bytes_max: u64) -> Self {
        Self { folder, bytes_max, taken: Arc::default() }
    }

    /// Bytes that wait now.
    pub(super) fn taken_bytes(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Begins an object. Fails as the disk does.
    async fn begin(&self) -> io::Result<Waiting> {
        let folder = self.folder.clone();
        let file = spawn_blocking(move || nameless(&folder)).await??;
        let taken = Arc::clone(&self.taken);
        Ok(Waiting { file: Arc::new(file), end: 0, taken, held: 0 })
    }

    /// Appends bytes of an object, which is begun by its first, and says where they are.
    ///
    /// # Errors
    /// What the disk says, or that there is no room in the spool. Nothing is appended then.
    pub(super) async fn keep(
        &self,
        waiting: &mut Option<Waiting>,
        payload: &PutPayload,
    ) -> io::Result<Range<u64>> {
        let object = match waiting {
            Some(object) => object,
            None => waiting.insert(self.begin().await?),
        };
        object.push(payload, self.bytes_max).await
    }
}

fn nameless(folder: &PathBuf) -> io::Result<File> {
    fs::create_dir_all(folder)?;
    let path = folder.join(format!("{:016x}", fastrand::u64(..)));
    let options = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).clone();
    let file = options.open(&path)?;
    fs::remove_file(path)?;
    Ok(file)
}

/// An object that waits. Its drop gives the disk back.
#[derive(Debug)]
pub(super) struct Waiting {
    file: Arc<File>,
    end: u64,
    taken: Arc<AtomicU64>,
    /// Of `taken`.
    held: u64,
}

impl Waiting {
    async fn push(&mut self, payload: &PutPayload, bytes_max: u64) -> io::Result<Range<u64>> {
        let bytes = payload.content_length() as u64;
        let fits = |taken: u64| taken.checked_add(bytes).filter(|all| *all <= bytes_max);
        let reserved = self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits);
        if let Err(taken) = reserved {
            let reason = format!(
                "{taken} bytes wait there, and {bytes} more would be over `store.spool_bytes_max`"
            );
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, reason));
        }
        self.held += bytes;
        let (file, payload, begin) = (Arc::clone(&self.file), payload.clone(), self.end);
        let written = spawn_blocking(move || {
            let mut at = begin;
            for piece in &payload {
                file.write_all_at(piece, at)?;
                at += piece.len() as u64;
            }
            Ok(())
        });
        if let Err(error) = written.await.map_err(io::Error::other).flatten() {
            self.held -= bytes;
            self.taken.fetch_sub(bytes, Ordering::Relaxed);
            return Err(error);
        }
        self.end += bytes;
        Ok(begin..self.end)
    }

    /// Reads bytes that were kept.
    ///
    /// # Errors
    /// What the disk says.
    pub(super) async fn read(&self, range: Range<u64>) -> io::Result<Bytes> {
        let file = Arc::clone(&self.file);
        let read = spawn_blocking(move || {
            let bytes = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
            let mut all = vec![0; bytes];
            file.read_exact_at(&mut all, range.start)?;
            Ok(Bytes::from(all))
        });
        read.await.map_err(io::Error::other).flatten()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.taken.fetch_sub(self.held, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn objects_wait_up_to_a_bound_without_names_and_give_it_back() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::new(folder.path().join("state/spool"), 100);
        let (mut one, mut other) = (None, None);
        let pieces = PutPayload::from_iter([Bytes::from("abc"), Bytes::from("de")]);
        assert_eq!(spool.keep(&mut one, &pieces).await.unwrap(), 0..5);
        assert_eq!(spool.keep(&mut one, &Bytes::from(vec![b'x'; 60]).into()).await.unwrap(), 5..65);
        let full = spool.keep(&mut other, &Bytes::from(vec![b'y'; 36]).into()).await.unwrap_err();
        assert!(full.to_string().contains("65 bytes wait there"), "{full}");
        assert_eq!(
            spool.keep(&mut other, &Bytes::from(vec![b'y'; 35]).into()).await.unwrap(),
            0..35
        );
        assert_eq!(spool.taken_bytes(), 100);
        assert_eq!(&one.as_ref().unwrap().read(0..5).await.unwrap()[..], b"abcde");
        assert_eq!(&other.as_ref().unwrap().read(0..35).await.unwrap()[..], [b'y'; 35]);
        assert_eq!(fs::read_dir(folder.path().join("state/spool")).unwrap().count(), 0);
        drop(one);
        assert_eq!(spool.taken_bytes(), 35);
        drop(other);
        assert_eq!(spool.taken_bytes(), 0);
    }

    #[tokio::test]
    async fn a_disk_that_takes_nothing_is_told() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("spool"), "").unwrap();
        let spool = Spool::new(folder.path().join("spool"), 100);
        let mut none = None;
        spool.keep(&mut none, &Bytes::from("abc").into()).await.unwrap_err();
        assert_eq!((none.is_none(), spool.taken_bytes()), (true, 0));
    }
}
