//! What follows a page: another one, the end, or a flaw. Pure.

use http::HeaderMap;
use percent_encoding::percent_decode_str;
use url::Url;

use super::read::SoFar;
use super::watch::{Broken, Seen, Value};
use super::{By, CURSOR_BYTES_MAX, Flaw, PageState, Pages, Place, Stop, TOKEN_BYTES_MAX, link};
use crate::codes::Code;
use crate::ids::preview;
use crate::observe::JsonPath;
use crate::plan::Platform;
use crate::recipe::{URL_BYTES_MAX, url_allowed};

/// A good answer to the call of a page, its body read to the end.
#[derive(Clone, Copy)]
pub(crate) struct Answered<'a> {
    pub(crate) headers: &'a HeaderMap,
    pub(crate) seen: &'a Seen,
    /// Where it was called.
    pub(crate) url: &'a Url,
    /// The body's hash.
    pub(crate) sha256: [u8; 32],
    /// A URL without what calls are signed with: [`without_pairs`].
    pub(crate) unsigned: &'a dyn Fn(String) -> String,
    /// How a cursor, or a URL, is kept: without secrets; nothing where that cannot be.
    pub(crate) kept: &'a dyn Fn(&str, By) -> Option<String>,
}

/// What follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nothing.
    Last,
    /// A page that is asked for so.
    Next(PageState),
}

/// What follows the page that was called last.
///
/// # Errors
/// The page cannot be kept, or it is not known or not allowed what follows it.
pub(crate) fn turn(
    platform: &Platform,
    pages: &Pages,
    so_far: &SoFar,
    answered: Answered<'_>,
) -> Result<Turn, Flaw> {
    if let Some(broken) = answered.seen.broken {
        return Err(unread(broken));
    }
    let rows = match (&pages.items, answered.seen.rows) {
        (Some(path), None) => {
            let reason = format!("`{path}` is no list of this answer: its rows cannot be counted");
            return Err(Flaw::new(Code::PageStateNotFound, reason));
        }
        (_, rows) => rows,
    };
    let rows_now = so_far.rows + rows.unwrap_or(0);
    if let Some(most) = pages.rows_max
        && rows_now >= most
    {
        let reason = format!(
            "{rows_now} rows came, and {most} are as many as the provider ever gives: some may be missing"
        );
        return Err(Flaw::new(Code::RowsCapped, reason));
    }
    let before = so_far.tail.last();
    if rows != Some(0) && before.is_some_and(|page| page.sha256 == answered.sha256) {
        let reason = "the page is the same as the one before, byte by byte";
        return Err(Flaw::new(Code::PagesRepeat, reason));
    }
    let next = if stops(pages, so_far, answered.seen, rows)? {
        None
    } else {
        next(platform, pages, so_far, answered, rows)?
    };
    let Some(next) = next else {
        whole(pages, answered.seen, rows.map(|_| rows_now))?;
        return Ok(Turn::Last);
    };
    if so_far.has_called(next.mark()) {
        let reason = format!("page {} leads to a page that was called before", so_far.page);
        return Err(Flaw::new(Code::PagesRepeat, reason));
    }
    if so_far.page >= pages.max {
        let reason = format!("{} pages are called and more follow", pages.max);
        return Err(Flaw::new(Code::TooManyPages, reason));
    }
    Ok(Turn::Next(next))
}

fn unread(broken: Broken) -> Flaw {
    match broken {
        Broken::NotJson => Flaw {
            code: Code::AnswerBroken,
            reason: "the answer is not JSON, or breaks off: what page follows cannot be read"
                .to_owned(),
            again: true,
        },
        Broken::TooLong => Flaw::new(
            Code::PageStateNotFound,
            format!(
                "a single text of the answer has over {TOKEN_BYTES_MAX} bytes: what page follows was not looked for behind it"
            ),
        ),
    }
}

/// Whether a stop rule ends the read here.
fn stops(pages: &Pages, so_far: &SoFar, seen: &Seen, rows: Option<u64>) -> Result<bool, Flaw> {
    let mut ends = false;
    for stop in &pages.stop {
        ends |= match stop {
            Stop::Short => rows.zip(pages.size).is_some_and(|(rows, size)| rows < u64::from(size)),
            Stop::Empty => rows == Some(0),
            Stop::Pages(path) => u64::from(so_far.page) >= number(seen, path)?,
            Stop::Rows(path) => {
                let all = number(seen, path)?;
                let size = u64::from(pages.size.unwrap_or(0));
                let had = rows.map_or(size * u64::from(so_far.page), |rows| so_far.rows + rows);
                had >= all
            }
            Stop::More(path) => match seen.at(path) {
                None if so_far.page == 1 || !pages.absent_ends => return Err(absent_at(path)),
                None | Some(Value::Null) => true,
                Some(Value::Text(text)) => matches!(&**text, "false" | "0" | ""),
                Some(Value::Nested) => return Err(absent_at(path)),
            },
        };
    }
    // Without rows an offset would stay where it is.
    Ok(ends || (pages.by == By::Offset && rows == Some(0)) || pages.by == By::None)
}

fn next(
    platform: &Platform,
    pages: &Pages,
    so_far: &SoFar,
    answered: Answered<'_>,
    rows: Option<u64>,
) -> Result<Option<PageState>, Flaw> {
    let now = &so_far.state;
    Ok(match pages.by {
        By::None => None,
        By::Page => Some(PageState { number: now.number.saturating_add(1), ..now.clone() }),
        By::Offset => {
            let step = rows.unwrap_or(u64::from(pages.size.unwrap_or(1)));
            Some(PageState { offset: now.offset.saturating_add(step), ..now.clone() })
        }
        By::Cursor => {
            let Some(cursor) = said(pages, answered)? else { return Ok(None) };
            if cursor.len() > CURSOR_BYTES_MAX {
                let reason =
                    format!("the cursor of the next page has over {CURSOR_BYTES_MAX} bytes");
                return Err(Flaw::new(Code::RequestTooLong, reason));
            }
            let cursor = kept(answered, By::Cursor, &cursor, CURSOR_BYTES_MAX)?;
            Some(PageState { cursor: Some(cursor), ..now.clone() })
        }
        By::Link | By::Url => {
            let text = if pages.by == By::Link {
                let fields = answered.headers.get_all(http::header::LINK);
                let fields: Vec<_> =
                    fields.iter().map(|field| String::from_utf8_lossy(field.as_bytes())).collect();
                link::next(fields.iter().map(|field| &**field)).map_err(|field| {
                    let reason = format!("the header `Link` cannot be read: {}", preview(field));
                    Flaw::new(Code::PageStateNotFound, reason)
                })?
            } else {
                said(pages, answered)?
            };
            let Some(text) = text else { return Ok(None) };
            let url = url(platform, answered.url, &text)?;
            // A loop is known by what is kept of it.
            let url = kept(answered, pages.by, &(answered.unsigned)(url), URL_BYTES_MAX)?;
            Some(PageState { url: Some(url), ..now.clone() })
        }
    })
}

/// A cursor or a URL without secrets.
fn kept(answered: Answered<'_>, by: By, text: &str, max: usize) -> Result<String, Flaw> {
    let Some(kept) = (answered.kept)(text, by) else {
        let reason = "what the answer says of the next page repeats a secret that is not in use any more, and secrets are not kept";
        let flaw = Flaw::new(Code::PageStateNotFound, reason);
        return Err(Flaw { again: true, ..flaw });
    };
    if kept.len() > max {
        let reason = format!(
            "what the answer says of the next page has over {max} bytes with the names of the secrets that it repeats"
        );
        return Err(Flaw::new(Code::RequestTooLong, reason));
    }
    Ok(kept)
}

/// The URL of the next page, if calls may go there.
fn url(platform: &Platform, from: &Url, text: &str) -> Result<String, Flaw> {
    if text.len() > URL_BYTES_MAX {
        let reason = format!("the URL of the next page has over {URL_BYTES_MAX} bytes");
        return Err(Flaw::new(Code::RequestTooLong, reason));
    }
    let mut url = from.join(text.trim()).map_err(|error| {
        Flaw::new(Code::PageStateNotFound, format!("the next page has no usable URL: {error}"))
    })?;
    url.set_fragment(None);
    // Encoding may have made it longer.
    if url.as_str().len() > URL_BYTES_MAX {
        let reason = format!("the URL of the next page has over {URL_BYTES_MAX} bytes");
        return Err(Flaw::new(Code::RequestTooLong, reason));
    }
    if !url_allowed(platform, &url) {
        let host = url.host_str().unwrap_or_default();
        let reason = format!(
            "the next page is at `{}://{}`, which is not a host of platform `{}`",
            url.scheme(),
            preview(host),
            platform.name
        );
        return Err(Flaw::new(Code::NextPageElsewhere, reason));
    }
    Ok(url.into())
}

/// A URL without the pairs of these names, and those whose values are secrets: a provider may repeat what a call was
/// signed with, which is signed anew and is kept nowhere. All else stays as it is: without a pair that only holds a
/// secret among other things it would be the URL of another page.
pub(crate) fn without_pairs(url: &str, names: &[&str], is_secret: impl Fn(&str) -> bool) -> String {
    let Some((before, query)) = url.split_once('?') else { return url.to_owned() };
    let stays = |pair: &&str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decoded = |text| percent_decode_str(text).decode_utf8_lossy();
        !names.iter().any(|own| *own == decoded(name)) && !is_secret(&decoded(value))
    };
    let query: Vec<&str> = query.split('&').filter(stays).collect();
    if query.is_empty() { before.to_owned() } else { format!("{before}?{}", query.join("&")) }
}

/// What the answer says of the next page; nothing if it says null, false or an empty text, or, where that is an end,
/// nothing.
fn said(pages: &Pages, answered: Answered<'_>) -> Result<Option<String>, Flaw> {
    let text = match &pages.next {
        Some(Place::Header(name)) => {
            if !pages.absent_ends && !answered.headers.contains_key(name) {
                return Err(absent(&format_args!("the header `{name}`")));
            }
            let value =
                answered.headers.get(name).map(|value| String::from_utf8(value.as_bytes().into()));
            value.transpose().map_err(|_| {
                let reason = format!("the header `{name}` is no text in UTF-8");
                Flaw::new(Code::PageStateNotFound, reason)
            })?
        }
        Some(Place::Body(path)) => match answered.seen.at(path) {
            None if !pages.absent_ends => return Err(absent_at(path)),
            None | Some(Value::Null) => None,
            Some(Value::Text(text)) if text == "false" => None,
            Some(Value::Text(text)) => Some(text.clone()),
            Some(Value::Nested) => {
                let reason = format!("`{path}` is a list or an object where text belongs");
                return Err(Flaw::new(Code::PageStateNotFound, reason));
            }
        },
        None => None,
    };
    Ok(text.filter(|text| !text.trim().is_empty()))
}

/// Whether as many rows came as there are.
fn whole(pages: &Pages, seen: &Seen, rows: Option<u64>) -> Result<(), Flaw> {
    let stop_rows = pages.stop.iter().find_map(|stop| match stop {
        Stop::Rows(path) => Some(path),
        _ => None,
    });
    let (Some(path), Some(rows)) = (pages.total.as_ref().or(stop_rows), rows) else {
        return Ok(());
    };
    let all = number(seen, path)?;
    if rows < all {
        let reason = format!("{rows} rows came, and `{path}` says that there are {all}");
        return Err(Flaw::new(Code::ReadIncomplete, reason));
    }
    Ok(())
}

fn number(seen: &Seen, path: &JsonPath) -> Result<u64, Flaw> {
    match seen.at(path) {
        Some(Value::Text(text)) => text.trim().parse().map_err(|_| {
            let reason = format!("`{path}` is `{}`, which is no whole number", preview(text));
            Flaw::new(Code::PageStateNotFound, reason)
        }),
        _ => Err(absent_at(path)),
    }
}

fn absent_at(path: &JsonPath) -> Flaw {
    absent(&format_args!("`{path}`"))
}

fn absent(what: &dyn std::fmt::Display) -> Flaw {
    let reason = format!("{what} is not in the answer: it is not known whether a page follows");
    Flaw::new(Code::PageStateNotFound, reason)
}
