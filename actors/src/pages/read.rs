//! How far the read of a fetch has come.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::{LISTED_MAX, Pages};

/// How one page is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageState {
    /// Its number, as the provider counts.
    pub number: u64,
    /// Rows before it, as the provider counts.
    pub offset: u64,
    /// The token that the page before gave.
    pub cursor: Option<String>,
    /// The URL that the page before gave.
    pub url: Option<String>,
}

/// A stored page, as the note knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Page {
    pub(crate) bytes: u64,
    pub(crate) stored_bytes: u64,
    pub(crate) sha256: [u8; 32],
    /// SHA-256 of the object; not known any more where the page is from the note. In no form of the note.
    #[serde(skip)]
    pub(crate) stored_sha256: Option<[u8; 32]>,
    /// What its key ends in, by its place among [`Read::exts`].
    pub(crate) ext: u8,
    /// [`PageState::mark`] of how it was asked for.
    pub(crate) mark: u64,
}

/// How far a read has come: what the next page's call needs, and what the manifest will need.
///
/// It goes from attempt to attempt in memory; a fetch whose read is not in memory has it from its note.
#[derive(Debug, Default)]
pub struct Read {
    /// Of the note; 0: there is none.
    version: AtomicU64,
    pub(crate) so_far: SoFar,
}

/// What of a read is durable.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SoFar {
    /// [`Pages::how`] of its beginning.
    pub(crate) how: u64,
    /// How often it was begun anew.
    pub(crate) restarts: u32,
    /// The page to call next, from 1.
    pub(crate) page: u32,
    /// How that is asked for.
    pub(crate) state: PageState,
    /// Calls made before those for that page.
    pub(crate) calls: u32,
    /// Those of them that were made before the read was begun anew.
    pub(crate) calls_anew: u32,
    /// Rows of the pages before it.
    pub(crate) rows: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// When the first page was stored, in ms since 1970; 0 before.
    pub(crate) started_ms: u64,
    /// Most pages that an earlier read of these keys stored; what their keys end in is among `exts`.
    pub(crate) highest: u32,
    /// A rule says of a page that it is a part only, and that this is kept.
    pub(crate) incomplete: bool,
    /// A page was not of the class empty. Of the note's second form.
    #[serde(skip)]
    pub(crate) filled: bool,
    /// Which of `exts` keys of this read end in, a bit each; others are those of an earlier one. Of the note's second
    /// form.
    #[serde(skip)]
    pub(crate) used: u64,
    /// How many pages are in lists of their own beside the objects.
    pub(crate) listed: u32,
    /// Those behind them, in order.
    pub(crate) tail: Vec<Page>,
    /// What keys end in.
    pub(crate) exts: Vec<String>,
    /// The mark of one earlier page, and which: a loop comes by it again.
    pub(crate) milestone: (u64, u32),
}

impl PageState {
    /// The first page.
    pub(crate) fn first(pages: &Pages) -> Self {
        Self { number: pages.first, offset: pages.first, cursor: None, url: None }
    }

    /// Tells it from others: 64 bits of a hash.
    pub(crate) fn mark(&self) -> u64 {
        use sha2::{Digest, Sha256};
        let mut hash = Sha256::new();
        hash.update(self.number.to_be_bytes());
        hash.update(self.offset.to_be_bytes());
        for text in [&self.cursor, &self.url] {
            let text = text.as_deref().unwrap_or_default();
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text);
        }
        first_64(&hash.finalize())
    }
}

/// The first 64 bits of a hash.
fn first_64(digest: &[u8]) -> u64 {
    digest.first_chunk().map_or(0, |mark| u64::from_be_bytes(*mark))
}

/// 64 bits of a hash of text: [`Pages::how`], of all that says what the pages of a read are, and what tells a store
/// from others.
pub(crate) fn how(said: &str) -> u64 {
    use sha2::{Digest, Sha256};
    first_64(&Sha256::digest(said))
}

impl Read {
    /// One that has not begun.
    pub(crate) fn first(pages: &Pages) -> Self {
        let (how, state) = (pages.how, PageState::first(pages));
        Self::new(0, SoFar { how, page: 1, state, ..SoFar::default() })
    }

    pub(crate) fn new(version: u64, so_far: SoFar) -> Self {
        Self { version: AtomicU64::new(version), so_far }
    }

    /// The version of its note; 0: it has none.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }

    /// Its note was replaced.
    pub(crate) fn noted(&self, version: u64) {
        self.version.store(version, Ordering::Relaxed);
    }

    /// Whether nothing of it is stored and nothing was called but its first page.
    pub(crate) fn is_new(&self) -> bool {
        self.so_far.page == 1 && self.version() == 0
    }

    /// This read, or a new one where it was begun in a way that is not declared any more.
    pub(crate) fn under(self: Arc<Self>, pages: &Pages) -> Arc<Self> {
        if self.so_far.how == pages.how {
            return self;
        }
        let before = &self.so_far;
        let highest = before.highest.max(before.page.saturating_sub(1));
        let (calls, restarts, exts) = (before.calls, before.restarts, before.exts.clone());
        let first = Self::first(pages).so_far;
        let so_far = SoFar { highest, calls, calls_anew: calls, restarts, exts, ..first };
        Arc::new(Self::new(self.version(), so_far))
    }

    /// The page to call next.
    pub(crate) fn page(&self) -> u32 {
        self.so_far.page
    }

    /// Calls that brought no page, of pages before this one.
    pub(crate) fn failures(&self) -> u32 {
        let calls = self.so_far.calls.saturating_sub(self.so_far.calls_anew);
        calls.saturating_sub(self.so_far.page.saturating_sub(1))
    }
}

impl SoFar {
    /// The read begun anew: what was stored stays until it is replaced.
    pub(crate) fn restart(&self, pages: &Pages, calls: u32) -> Self {
        Self {
            how: pages.how,
            restarts: self.restarts + 1,
            page: 1,
            state: PageState::first(pages),
            calls: self.calls + calls,
            calls_anew: self.calls + calls,
            highest: self.highest.max(self.page.saturating_sub(1)),
            exts: self.exts.clone(),
            ..Self::default()
        }
    }

    /// Whether a page asked for so was called before, as far as that is remembered: the pages of the tail, and one
    /// milestone, which Brent's rule moves so that any loop comes by it.
    pub(crate) fn has_called(&self, mark: u64) -> bool {
        mark == self.state.mark()
            || (self.milestone.1 > 0 && mark == self.milestone.0)
            || self.tail.iter().any(|page| page.mark == mark)
    }

    /// The first pages of the tail are in a list by now.
    pub(crate) fn was_listed(&mut self) {
        let count = self.tail.len().min(LISTED_MAX);
        self.tail.drain(..count);
        self.listed += count as u32;
    }

    /// What keys of an earlier read end in, and none of this one.
    pub(crate) fn unused(&self) -> impl Iterator<Item = &String> {
        let used =
            |place: usize| u32::try_from(place).is_ok_and(|bit| self.used >> bit.min(63) & 1 == 1);
        let unused = self.exts.iter().enumerate().filter(move |(place, _)| !used(*place));
        unused.map(|(_, ext)| ext)
    }

    /// With the page that was called last.
    pub(crate) fn with(&self, page: Page, ext: &str, rows: u64, calls: u32) -> Self {
        let mut next = self.clone();
        let known = next.exts.iter().position(|known| known == ext);
        let place = known.unwrap_or_else(|| {
            next.exts.push(ext.to_owned());
            next.exts.len() - 1
        });
        next.bytes += page.bytes;
        if next.page.is_power_of_two() {
            next.milestone = (page.mark, next.page);
        }
        // A read has a handful of them: one more than a byte can name would be a provider's joke.
        let ext = u8::try_from(place).unwrap_or(0);
        next.used |= 1_u64.checked_shl(ext.into()).unwrap_or(0);
        next.tail.push(Page { ext, ..page });
        next.rows += rows;
        next.calls += calls;
        next.page += 1;
        next
    }
}
