//! Lists of the pages of a long read, beside its manifest: so that neither the note nor the manifest grows with it.

use object_store::path::Path;
use serde::{Deserialize, Serialize};
use tollgate_protos::Object;

/// Pages of one list; a note holds as many before they are written.
pub(crate) const LISTED_MAX: usize = 50;

/// `_pages-00001.json`: the first pages in order, and so on; each written once all of its pages are there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PageList {
    /// The form of this file; 1.
    pub(crate) version: u32,
    /// The fetch that it belongs to.
    pub(crate) seq: u64,
    /// How often the read was begun anew before: lists of one manifest have the same.
    pub(crate) restarts: u32,
    /// The first page in it, from 1.
    pub(crate) first: u32,
    /// Its pages.
    pub(crate) objects: Vec<Object>,
}

/// The key of a list, by its number from 1.
pub(crate) fn list_key(manifest: &Path, number: u32) -> Path {
    let folder: Path = manifest.parent().unwrap_or_default();
    folder.join(format!("_pages-{number:05}.json"))
}

/// Whether a key is that of a list.
pub(crate) fn is_list(key: &Path) -> bool {
    let name = key.filename().and_then(|name| name.strip_prefix("_pages-"));
    name.is_some_and(|name| name.strip_suffix(".json").is_some())
}
