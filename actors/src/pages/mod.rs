//! Reading an answer page by page: how the next page is asked for, where a read ends, and how far it has come.
//!
//! An api that declares [`Pages`] is read with several calls. Each is a call like any other, with a permit and a
//! record of its own. Between two of them a [`Read`] knows how the next page is asked for; its durable form is the
//! fetch's *note* (`note`), kept by the queue. What a page says of the next one is taken from its body while
//! that streams into the store (`watch`), and judged by `turn`, which is pure.
//!
//! # Nothing durable is called twice
//!
//! A page is written in this order: its whole body into the store, unseen; the note that names it, with its hash
//! and with how the next page is asked for; then the object becomes visible. After a crash the note tells: where the
//! object of its page is there as the note says, the read goes on behind it, else that page is called again.
//! Pages before it were visible before the note was written.

use crate::codes::Code;
use crate::observe::{JsonPath, Rules};

mod link;
mod lists;
mod note;
mod read;
mod turn;
mod watch;

#[cfg(test)]
mod tests;

pub(crate) use lists::{LISTED_MAX, PageList, is_list, list_key};
pub(crate) use note::{More, Note};
pub(crate) use read::{Page, SoFar, how};
pub use read::{PageState, Read};
pub(crate) use turn::{Answered, Turn, turn, without_pairs};
pub(crate) use watch::{Seen, Watch};

/// Most pages of a read where `max` is not said.
pub const MAX: u32 = 1_000;
/// Most restarts of a read whose tokens expire, where it is not said.
pub const RESTARTS: u32 = 3;
/// Longest cursor, in bytes. A URL may be as long as that of any request.
pub const CURSOR_BYTES_MAX: usize = 4 * 1024;
/// Longest single name, text or number of a body whose page state is read, in bytes; beyond it the body is not
/// read further.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024 * 1024;
/// What templates may name of a page.
pub const VARIABLES: [&str; 4] = ["page.number", "page.offset", "page.cursor", "page.size"];

/// How an api's answers come in pages.
#[derive(Debug, Clone)]
pub struct Pages {
    /// How the next page is asked for.
    pub by: By,
    /// Where the rows are: a list.
    pub items: Option<JsonPath>,
    /// Rows of a full page.
    pub size: Option<u32>,
    /// The number, or the offset, of the first page.
    pub first: u64,
    /// Where the next cursor or URL stands.
    pub next: Option<Place>,
    /// What ends a read; any of them. A null or empty cursor or URL ends it too.
    pub stop: Vec<Stop>,
    /// So does one that is not there, and a `more` that is not. Otherwise such an answer is no page: it may be an
    /// error with the status of a good answer.
    pub absent_ends: bool,
    /// Most pages; 1 to [`crate::recipe::PAGE_MAX`].
    pub max: u32,
    /// Where the answer says how many rows there are in all.
    pub total: Option<JsonPath>,
    /// So many rows, or more, are as many as the provider ever gives: some may be missing.
    pub rows_max: Option<u64>,
    /// What an answer looks like whose page token has expired.
    pub expired: Option<Rules>,
    /// How long page tokens are good for, from the first page on.
    pub token_ttl: Option<std::time::Duration>,
    /// Most restarts of a read whose tokens have expired.
    pub restarts: u32,
    /// Tells this way of asking from others: a read that was begun in another way is begun anew.
    pub how: u64,
}

/// How the next page is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// By its number.
    Page,
    /// By how many rows came before it.
    Offset,
    /// By a token of the page before.
    Cursor,
    /// By the URL of the header `Link` with `rel=next` (RFC 8288).
    Link,
    /// By a URL in the page before.
    Url,
    /// Not at all: one call is the whole read, and only its guards are meant.
    None,
}

impl By {
    /// As it is written in a configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Page => "page",
            Self::Offset => "offset",
            Self::Cursor => "cursor",
            Self::Link => "link",
            Self::Url => "url",
            Self::None => "none",
        }
    }

    /// Whether the page before gives the whole URL.
    pub fn is_url(self) -> bool {
        matches!(self, Self::Link | Self::Url)
    }
}

/// Where an answer says something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In its JSON body.
    Body(JsonPath),
    /// In this header.
    Header(http::HeaderName),
}

/// What ends a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// A page with fewer rows than a full one.
    Short,
    /// A page without rows.
    Empty,
    /// So many pages as the answer says there are.
    Pages(JsonPath),
    /// So many rows as the answer says there are.
    Rows(JsonPath),
    /// The answer says that there are no more: false, null, 0, nothing.
    More(JsonPath),
}

/// Why a page cannot be kept, or none can follow it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flaw {
    /// What kind of reason.
    pub(crate) code: Code,
    /// One sentence.
    pub(crate) reason: String,
    /// Another call may bring a better answer.
    pub(crate) again: bool,
}

impl Flaw {
    fn new(code: Code, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into(), again: false }
    }
}

impl Pages {
    /// Whether anything has to be read of bodies.
    pub(crate) fn wants_body(&self) -> bool {
        self.items.is_some()
            || self.total.is_some()
            || matches!(self.next, Some(Place::Body(_)))
            || self.stop.iter().any(|stop| !matches!(stop, Stop::Short | Stop::Empty))
    }
}
