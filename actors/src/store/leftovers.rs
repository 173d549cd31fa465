//! Removing what killed processes left among the objects of a file store.
//!
//! The file store writes `<key>#<n>` and renames it to `<key>` when it is whole. A process that
//! dies in between leaves the former. No object of Tollgate has such a name:
//! [`Store`](super::Store) refuses keys with a `#`, and `object_store` neither lists nor opens such
//! files.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Most directory entries looked at in one go: a store may hold any number of objects.
pub(super) const ENTRIES_MAX: u64 = 1_000_000;

/// What the names of probe objects begin with; they lie at the root.
pub(super) const PROBE_PREFIX: &str = "_probe-";

/// What a clean-up did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cleaned {
    /// Files removed, uploads aborted.
    pub removed: u64,
    /// Directory entries looked at, at most a million; in a bucket uploads, at most 20,000.
    pub seen: u64,
    /// Whether everything was looked at; false at the bound, or where system or store refused.
    pub complete: bool,
    /// What a store said that did not let itself be looked at.
    pub trouble: Option<String>,
}

/// Walks `root` and removes leftovers last written before `older_than`. Leaves `keep_out` alone and
/// follows no symbolic link.
pub(super) fn clean(
    root: &Path,
    keep_out: &Path,
    older_than: SystemTime,
    entries_max: u64,
) -> Cleaned {
    let mut cleaned = Cleaned { complete: true, ..Cleaned::default() };
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        if !clean_folder(
            &folder,
            root,
            keep_out,
            older_than,
            entries_max,
            &mut folders,
            &mut cleaned,
        ) {
            cleaned.complete = false;
        }
        if cleaned.seen >= entries_max {
            // Also when the bound was just met: whether there is more was not looked at.
            cleaned.complete = false;
            break;
        }
    }
    cleaned
}

/// One folder; says whether all of it could be looked at.
fn clean_folder(
    folder: &Path,
    root: &Path,
    keep_out: &Path,
    older_than: SystemTime,
    entries_max: u64,
    folders: &mut Vec<PathBuf>,
    cleaned: &mut Cleaned,
) -> bool {
    let Ok(entries) = fs::read_dir(folder) else { return false };
    for entry in entries {
        if cleaned.seen >= entries_max {
            return false;
        }
        cleaned.seen += 1;
        let Ok(entry) = entry else { return false };
        let Ok(kind) = entry.file_type() else { return false };
        let path = entry.path();
        if kind.is_dir() {
            if path != keep_out {
                folders.push(path);
            }
            continue;
        }
        let at_root = folder == root;
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|n| is_staged(n) || (at_root && is_probe(n)));
        let old = || {
            let written = entry.metadata().and_then(|m| m.modified());
            written.is_ok_and(|written| written < older_than)
        };
        if kind.is_file() && ours && old() {
            match fs::remove_file(&path) {
                Ok(()) => cleaned.removed += 1,
                Err(_) => return false,
            }
        }
    }
    true
}

/// `<name>#<n>` as the file store writes it. A name with two `#` is nothing of ours.
fn is_staged(name: &str) -> bool {
    name.split_once('#').is_some_and(|(object, n)| {
        !object.is_empty()
            && (1..=10).contains(&n.len())
            && !n.starts_with('0')
            && n.bytes().all(|b| b.is_ascii_digit())
    })
}

/// A probe object of a process that died before it removed it.
fn is_probe(name: &str) -> bool {
    name.strip_prefix(PROBE_PREFIX)
        .is_some_and(|rest| rest.len() == 16 && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}
