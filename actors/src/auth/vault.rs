//! Where tokens are kept that a provider gives once only: a refresh token that took the place of another, and the
//! access token that came with it.
//!
//! One record for each credential, replaced only by whoever knows the one before. A record is confirmed when it
//! would survive the process, and a power cut.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::task::spawn_blocking;

/// Largest record in bytes.
pub const RECORD_BYTES_MAX: usize = 256 * 1024;

/// A record, and the number that whoever replaces it has to know.
#[derive(Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its number; later ones are greater.
    pub version: u64,
    /// What it says.
    pub record: Bytes,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("version", &self.version).finish_non_exhaustive()
    }
}

/// Why a record was not read or not stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// The record there is not the one that was known: nothing was stored.
    #[error("somebody else has replaced it")]
    Conflict,
    /// It is not known what is stored now.
    #[error("{0}")]
    Away(String),
}

/// A way to keep tokens.
pub trait Vault: fmt::Debug + Send + Sync {
    /// The record under a key, if there is one.
    fn load(&self, key: &str) -> BoxFuture<'static, Result<Option<Kept>, VaultError>>;

    /// Puts a record in place of the one of that version; 0: there must be none. The new version.
    fn store(
        &self,
        key: &str,
        expected: u64,
        record: Bytes,
    ) -> BoxFuture<'static, Result<u64, VaultError>>;

    /// What names this process among those that use the same records.
    fn me(&self) -> String {
        "here".to_owned()
    }

    /// Whether a process of that name is known to be gone: what it had on the way will not come any more. A vault
    /// that is one process's has no other.
    fn is_gone(&self, by: &str) -> BoxFuture<'static, bool> {
        std::future::ready(!by.is_empty()).boxed()
    }
}

/// Records in memory: gone with the process.
#[derive(Debug, Clone, Default)]
pub struct MemoryVault(Arc<Mutex<HashMap<String, Kept>>>);

impl Vault for MemoryVault {
    fn load(&self, key: &str) -> BoxFuture<'static, Result<Option<Kept>, VaultError>> {
        let found = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned();
        std::future::ready(Ok(found)).boxed()
    }

    fn store(
        &self,
        key: &str,
        expected: u64,
        record: Bytes,
    ) -> BoxFuture<'static, Result<u64, VaultError>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = all.get(key).map_or(0, |kept| kept.version);
        let answer = if known == expected {
            all.insert(key.to_owned(), Kept { version: known + 1, record });
            Ok(known + 1)
        } else {
            Err(VaultError::Conflict)
        };
        std::future::ready(answer).boxed()
    }
}

/// Records as files of a folder that is one process's: each readable by its owner only, written beside and then
/// moved into place, and synced before it is confirmed.
#[derive(Debug, Clone)]
pub struct FileVault {
    folder: PathBuf,
    /// One write at a time.
    turn: Arc<Mutex<()>>,
}

impl FileVault {
    /// The files below `state/tokens`. The state folder must be this process's alone.
    pub fn new(state: &Path) -> Self {
        Self { folder: state.join("tokens"), turn: Arc::default() }
    }

    fn path(&self, key: &str) -> PathBuf {
        self.folder.join(format!("{key}.token"))
    }
}

impl Vault for FileVault {
    fn load(&self, key: &str) -> BoxFuture<'static, Result<Option<Kept>, VaultError>> {
        let path = self.path(key);
        blocking(move || read(&path))
    }

    fn store(
        &self,
        key: &str,
        expected: u64,
        record: Bytes,
    ) -> BoxFuture<'static, Result<u64, VaultError>> {
        let (vault, path) = (self.clone(), self.path(key));
        blocking(move || {
            let _turn = vault.turn.lock().unwrap_or_else(PoisonError::into_inner);
            let known = read(&path)?.map_or(0, |kept| kept.version);
            if known != expected {
                return Err(VaultError::Conflict);
            }
            let version = known + 1;
            write(&vault.folder, &path, version, &record).map_err(|error| {
                VaultError::Away(format!("`{}` cannot be written: {error}", path.display()))
            })?;
            Ok(version)
        })
    }
}

fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, VaultError> + Send + 'static,
) -> BoxFuture<'static, Result<T, VaultError>> {
    async move {
        let done = spawn_blocking(work).await;
        done.unwrap_or_else(|error| Err(VaultError::Away(error.to_string())))
    }
    .boxed()
}

/// A file is the version in decimal digits, a line break, the record.
fn read(path: &Path) -> Result<Option<Kept>, VaultError> {
    let away = |error: &dyn fmt::Display| {
        VaultError::Away(format!("`{}` cannot be read: {error}", path.display()))
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(away(&error)),
    };
    let mut bytes = Vec::new();
    file.take(RECORD_BYTES_MAX as u64 * 2).read_to_end(&mut bytes).map_err(|error| away(&error))?;
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let version = end.and_then(|end| std::str::from_utf8(bytes.get(..end)?).ok()?.parse().ok());
    match (end, version) {
        (Some(end), Some(version)) => {
            Ok(Some(Kept { version, record: Bytes::from(bytes).slice(end + 1..) }))
        }
        _ => Err(away(&"it is no record of a token; move it away and give a new refresh token")),
    }
}

fn write(folder: &Path, path: &Path, version: u64, record: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let beside = path.with_extension("new");
    // A file that a crash has left may have other rights.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    writeln!(file, "{version}")?;
    file.write_all(record)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&beside, path)?;
    File::open(folder)?.sync_all()?;
    // The folder itself may be new.
    folder.parent().map_or(Ok(()), |above| File::open(above)?.sync_all())
}
