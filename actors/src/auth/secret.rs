//! Secrets: where each comes from, and what it is now. A secret that changes where it comes from is another one
//! for the next call; nothing has to be started again for it.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, UNIX_EPOCH};

use http::HeaderValue;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

use super::recent::{Expendable, Recent};
use crate::ids::{Account, preview};

/// Longest secret in bytes.
pub const SECRET_BYTES_MAX: u64 = 64 * 1024;
/// Most accounts whose own secrets and tokens are in memory, of one reference or credential: those that were used
/// last, and those in use. Of another they are read, or had from the vault, when it is called next.
pub const ACCOUNTS_MAX: usize = 100_000;
/// How long a program that prints a secret may take.
pub const COMMAND_WITHIN: Duration = Duration::from_secs(20);

/// What a secret is now.
pub type Text = Arc<SecretString>;

/// Where a secret comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A variable of the environment: it changes with the process only.
    Env(String),
    /// A file: read again when it changes.
    File(PathBuf),
    /// A program and its arguments: run when the secret is first needed, when it is refused, and while it is.
    Command(Vec<String>),
}

/// What a secret has to be fit for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// One line that a header can carry.
    Line,
    /// Any text, such as a key of several lines.
    Text,
}

/// What tells that a file is another one than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Stamp {
    modified_ns: u128,
    bytes: u64,
    inode: u64,
}

#[derive(Default)]
struct Now {
    text: Option<Text>,
    stamp: Stamp,
}

/// One secret. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Secret(Arc<Cell>);

struct Cell {
    source: Source,
    fit: Fit,
    now: RwLock<Now>,
    /// When its program was last started. Held while it runs.
    ran: tokio::sync::Mutex<Option<Instant>>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Secret").field(&self.0.source).finish()
    }
}

impl Secret {
    /// A secret that is known, as a variable of the environment is.
    pub fn known(source: Source, text: String) -> Self {
        let now = Now { text: Some(Arc::new(text.into())), stamp: Stamp::default() };
        let ran = tokio::sync::Mutex::default();
        Self(Arc::new(Cell { source, fit: Fit::Line, now: RwLock::new(now), ran }))
    }

    /// A secret that has not been read yet.
    pub fn unread(source: Source, fit: Fit) -> Self {
        let ran = tokio::sync::Mutex::default();
        Self(Arc::new(Cell { source, fit, now: RwLock::default(), ran }))
    }

    /// Where it comes from.
    pub fn source(&self) -> &Source {
        &self.0.source
    }

    /// What it is now; nothing if it was not read yet.
    pub fn get(&self) -> Option<Text> {
        self.0.now.read().unwrap_or_else(PoisonError::into_inner).text.clone()
    }

    /// Whether it can be another one without another configuration.
    pub fn can_change(&self) -> bool {
        !matches!(self.0.source, Source::Env(_))
    }

    /// Reads a file again if it is not the one that was read, and answers whether the secret is another one.
    /// Blocks.
    ///
    /// # Errors
    /// It cannot be read or holds no secret; what it was before stays. A sentence without the secret.
    pub fn read_file(&self) -> Result<bool, String> {
        let Source::File(path) = &self.0.source else { return Ok(false) };
        let stamp = stamp_of(path);
        {
            let now = self.0.now.read().unwrap_or_else(PoisonError::into_inner);
            if now.text.is_some() && stamp == Some(now.stamp) {
                return Ok(false);
            }
        }
        let text = read(path)
            .map_err(|error| format!("the file `{}` cannot be read: {error}", path.display()))?;
        check(&text, self.0.fit)?;
        Ok(self.put(text, stamp.unwrap_or_default()))
    }

    /// Runs the program, and answers whether the secret is another one. Of many who ask at once it is run for all.
    ///
    /// # Errors
    /// It fails, takes too long or prints no secret; what it was before stays. A sentence without the secret.
    pub async fn run(&self) -> Result<bool, String> {
        let Source::Command(words) = &self.0.source else { return Ok(false) };
        let [program, args @ ..] = words.as_slice() else {
            return Err("no program is named".into());
        };
        let asked = Instant::now();
        let mut ran = self.0.ran.lock().await;
        if ran.is_some_and(|began| began > asked) && self.get().is_some() {
            return Ok(false);
        }
        *ran = Some(Instant::now());
        let shown = preview(program);
        let mut command = tokio::process::Command::new(program);
        command.args(args).stdin(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        command.stdout(std::process::Stdio::piped()).kill_on_drop(true);
        let mut child =
            command.spawn().map_err(|error| format!("`{shown}` cannot be run: {error}"))?;
        let out = child.stdout.take();
        let work = async {
            use tokio::io::AsyncReadExt;
            let mut bytes = Vec::new();
            if let Some(out) = out {
                let mut out = out.take(SECRET_BYTES_MAX + 1);
                out.read_to_end(&mut bytes).await.map_err(|error| error.to_string())?;
            }
            if bytes.len() as u64 > SECRET_BYTES_MAX {
                return Err(format!("it prints more than {SECRET_BYTES_MAX} bytes"));
            }
            let status = child.wait().await.map_err(|error| error.to_string())?;
            if status.success() { Ok(bytes) } else { Err(format!("it ended with {status}")) }
        };
        let bytes = match tokio::time::timeout(COMMAND_WITHIN, work).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(reason)) => return Err(format!("`{shown}`: {reason}")),
            Err(_) => return Err(format!("`{shown}` took longer than {COMMAND_WITHIN:?}")),
        };
        let text = String::from_utf8(bytes).map_err(|_| format!("`{shown}` prints no UTF-8"))?;
        let text = without_end(&text).to_owned();
        check(&text, self.0.fit).map_err(|reason| format!("`{shown}`: {reason}"))?;
        Ok(self.put(text, Stamp::default()))
    }

    fn put(&self, text: String, stamp: Stamp) -> bool {
        let mut now = self.0.now.write().unwrap_or_else(PoisonError::into_inner);
        let changed = now.text.as_ref().is_none_or(|old| old.expose_secret() != text);
        *now = Now { text: Some(Arc::new(text.into())), stamp };
        changed
    }

    /// Tells it from every other one that there is at the same time.
    pub(super) fn address(&self) -> usize {
        Arc::as_ptr(&self.0) as usize
    }

    /// When its program was last started, if it ever was; now, while it runs.
    pub(super) fn ran(&self) -> Option<Instant> {
        self.0.ran.try_lock().map_or_else(|_| Some(Instant::now()), |ran| *ran)
    }

    /// Whether it comes from the same place and is the same, as far as both are known.
    pub(crate) fn same(&self, other: &Self) -> bool {
        let same = match (self.get(), other.get()) {
            (Some(one), Some(other)) => one.expose_secret() == other.expose_secret(),
            _ => true,
        };
        self.0.source == other.0.source && same
    }
}

/// A secret, or one for each account.
#[derive(Clone)]
pub enum Reference {
    /// The same for all.
    One(Secret),
    /// As a table of accounts says.
    Table(Arc<BTreeMap<Account, Secret>>),
    /// Each account's own file: `{account}` in the path stands for its name, percent-encoded.
    Files(Arc<Files>),
}

/// Files of accounts.
pub struct Files {
    path: String,
    fit: Fit,
    read: Mutex<Recent<Account, Secret>>,
}

/// Stands for the account's name in a path.
pub const ACCOUNT: &str = "{account}";

/// Why there is no secret for an account now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// It was not read yet.
    Unread,
    /// The account has none. A sentence.
    None(String),
}

impl Reference {
    /// Files with `{account}` in their path.
    pub fn files(path: String, fit: Fit) -> Self {
        Self::files_at_most(path, fit, ACCOUNTS_MAX)
    }

    /// The same, of so many accounts at a time.
    pub(super) fn files_at_most(path: String, fit: Fit, accounts_max: usize) -> Self {
        Self::Files(Arc::new(Files { path, fit, read: Mutex::new(Recent::new(accounts_max)) }))
    }

    /// Whether accounts have secrets of their own.
    pub fn is_per_account(&self) -> bool {
        !matches!(self, Self::One(_))
    }

    /// Whether each account's is there from the start.
    pub(super) fn is_at_hand(&self) -> bool {
        match self {
            Self::One(secret) => !matches!(secret.source(), Source::Command(_)),
            Self::Table(_) | Self::Files(_) => false,
        }
    }

    /// The secret of an account, whatever is known of it.
    ///
    /// # Errors
    /// The account has none.
    pub(super) fn secret(&self, account: &Account) -> Result<Secret, Missing> {
        match self {
            Self::One(secret) => Ok(secret.clone()),
            Self::Table(table) => table.get(account).cloned().ok_or_else(|| {
                Missing::None(format!("the table has no secret for the account `{account}`"))
            }),
            Self::Files(files) => Ok(files.secret(account)),
        }
    }

    /// What the secret of an account is now.
    ///
    /// # Errors
    /// It was not read yet, or the account has none.
    pub(super) fn get(&self, account: &Account) -> Result<Text, Missing> {
        self.secret(account)?.get().ok_or(Missing::Unread)
    }

    /// Every secret that is known of.
    pub(crate) fn all(&self) -> Vec<Secret> {
        match self {
            Self::One(secret) => vec![secret.clone()],
            Self::Table(table) => table.values().cloned().collect(),
            Self::Files(files) => files.lock().values().cloned().collect(),
        }
    }

    /// Whether both say the same, as far as secrets are known.
    pub(crate) fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::One(one), Self::One(other)) => one.same(other),
            (Self::Table(one), Self::Table(other)) => {
                one.len() == other.len()
                    && one
                        .iter()
                        .zip(other.iter())
                        .all(|((a, one), (b, other))| a == b && one.same(other))
            }
            (Self::Files(one), Self::Files(other)) => one.path == other.path,
            _ => false,
        }
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(secret) => secret.fmt(f),
            Self::Table(table) => f.debug_map().entries(table.iter()).finish(),
            Self::Files(files) => write!(f, "Files({:?})", files.path),
        }
    }
}

impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Files").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Files {
    /// The path as it was written.
    pub fn path(&self) -> &str {
        &self.path
    }

    fn lock(&self) -> MutexGuard<'_, Recent<Account, Secret>> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn secret(&self, account: &Account) -> Secret {
        let made = || {
            // Encoded, a name stays inside its folder: it has neither `/` nor `.`.
            let path = PathBuf::from(self.path.replace(ACCOUNT, &account.encoded()));
            Secret::unread(Source::File(path), self.fit)
        };
        self.lock().used(account, made).clone()
    }
}

impl Expendable for Secret {
    /// Whether somebody reads it, or signs with it.
    fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

/// What is wrong with a secret, if anything.
pub(crate) fn check(text: &str, fit: Fit) -> Result<(), String> {
    if text.is_empty() {
        return Err("the secret is empty".into());
    }
    if fit == Fit::Line && HeaderValue::from_str(text).is_err() {
        return Err(
            "the secret holds a line break or a character that a header cannot carry".into()
        );
    }
    Ok(())
}

/// The file's text without one line break at its end.
pub(crate) fn read(path: &Path) -> Result<String, String> {
    let fail = |error: std::io::Error| error.to_string();
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(fail)?;
    file.take(SECRET_BYTES_MAX + 1).read_to_string(&mut text).map_err(fail)?;
    if text.len() as u64 > SECRET_BYTES_MAX {
        return Err(format!("it is larger than {SECRET_BYTES_MAX} bytes"));
    }
    Ok(without_end(&text).to_owned())
}

fn without_end(text: &str) -> &str {
    let end = text.strip_suffix('\n').unwrap_or(text);
    end.strip_suffix('\r').unwrap_or(end)
}

fn stamp_of(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt;
    // Of what a link leads to: mounted secrets are changed by changing links.
    let about = std::fs::metadata(path).ok()?;
    let modified = about.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(Stamp { modified_ns: modified.as_nanos(), bytes: about.len(), inode: about.ino() })
}
