//! The note of a fetch: the durable form of a read between two pages.
//!
//! Form: one byte of version, then [postcard](https://postcard.jamesmunns.com/wire-format). It names the page that
//! was written last, how that page is asked for should its object not be there, and how the next one is. Version 2
//! is version 1 with more behind it, version 3 is version 2 with the tries behind it of a fetch that was put aside; all are
//! read.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::PageState;
use super::read::SoFar;
use crate::ledger::record::Tries;

/// The form written of a fetch that was put aside after tries.
const WITH_TRIES: u8 = 3;
/// The form that ends before those, written else.
const VERSION: u8 = 2;
/// The form that ends before [`More`].
const WITHOUT_MORE: u8 = 1;

/// What is kept of a read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note {
    /// Names the queue that the fetch is in: another one's numbers may be the same.
    pub(crate) queue: String,
    /// The key of the page that was written last: under another plan the read begins anew.
    pub(crate) key: String,
    /// The read with the page that was written last; its `page` is one more than that, its `state` how the next
    /// is asked for.
    pub(crate) so_far: SoFar,
    /// How the page that was written last is asked for.
    pub(crate) before: PageState,
    /// Rows and calls of that page.
    pub(crate) rows: u64,
    pub(crate) calls: u32,
    /// No page follows.
    pub(crate) is_last: bool,
    /// The status of its answer.
    pub(crate) status: u16,
    /// From queueing to its permit, in milliseconds.
    pub(crate) waited_ms: u64,
    /// What stands behind the rest.
    #[serde(skip)]
    pub(crate) more: More,
    /// Tries of the page that is called next, of before the fetch was put aside.
    #[serde(skip)]
    pub(crate) tries: Tries,
}

/// What notes of the first form do not have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct More {
    /// Tells the store that the objects are in from others; 0: it is not known.
    pub(crate) store: u64,
    /// The provider's id of the last call.
    pub(crate) request_id: Option<String>,
    /// A page was not of the class empty, as far as is known.
    pub(crate) filled: bool,
    /// [`SoFar::used`].
    pub(crate) used: u64,
    /// It asked for too much: others take the place of it and of all its pages.
    pub(crate) is_split: bool,
}

/// A note that cannot be read: the read is begun anew.
#[derive(Debug, thiserror::Error)]
#[error("the note of a read cannot be read: {0}")]
pub(crate) struct NoteError(String);

impl Note {
    /// As bytes.
    pub(crate) fn encode(&self) -> Bytes {
        let tried = self.tries != Tries::default();
        let bytes = postcard::to_extend(self, vec![if tried { WITH_TRIES } else { VERSION }]);
        let bytes = bytes.and_then(|bytes| postcard::to_extend(&self.more, bytes));
        let bytes = match bytes {
            Ok(bytes) if tried => postcard::to_extend(&self.tries, bytes),
            other => other,
        };
        bytes.expect("a Vec takes whatever is written").into()
    }

    /// From bytes.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, NoteError> {
        let (version, rest) =
            bytes.split_first().ok_or_else(|| NoteError("it is empty".to_owned()))?;
        if !(WITHOUT_MORE..=WITH_TRIES).contains(version) {
            let known = format!("known are {WITHOUT_MORE} to {WITH_TRIES}");
            return Err(NoteError(format!("its form is {version}, {known}")));
        }
        let unread = |error: postcard::Error| NoteError(error.to_string());
        let (mut note, rest) = postcard::take_from_bytes::<Self>(rest).map_err(unread)?;
        note.more = if *version == WITHOUT_MORE {
            More { filled: true, used: u64::MAX, ..More::default() }
        } else {
            let (more, rest) = postcard::take_from_bytes(rest).map_err(unread)?;
            if *version == WITH_TRIES {
                note.tries = postcard::from_bytes(rest).map_err(unread)?;
            }
            more
        };
        (note.so_far.filled, note.so_far.used) = (note.more.filled, note.more.used);
        Ok(note)
    }

    /// The read as it was before the page that was written last, whose object is not there.
    pub(crate) fn undone(&self) -> SoFar {
        let mut so_far = self.so_far.clone();
        if let Some(page) = so_far.tail.pop() {
            so_far.bytes = so_far.bytes.saturating_sub(page.bytes);
        }
        so_far.page = so_far.page.saturating_sub(1).max(1);
        so_far.rows = so_far.rows.saturating_sub(self.rows);
        // The tries of a page are remembered by the account's record; here they would count twice.
        so_far.calls = so_far.calls.saturating_sub(self.calls);
        so_far.state = self.before.clone();
        so_far
    }
}
