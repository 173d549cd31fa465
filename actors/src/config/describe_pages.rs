//! How an api's answers come in pages, in words.

use std::fmt::{self, Write};

use crate::pages::{By, Pages, Place, Stop};

/// A line or two, indented.
pub(super) fn write_pages(out: &mut String, pages: &Pages) -> fmt::Result {
    let next = match &pages.next {
        Some(Place::Body(path)) => format!(", the next one is told at `{path}` of the body"),
        Some(Place::Header(name)) => format!(", the next one is told by the header `{name}`"),
        None if pages.by == By::Link => ", the next one is told by the header `link`".to_owned(),
        None => String::new(),
    };
    let size = pages.size.map(|size| format!(" of {size} rows")).unwrap_or_default();
    if pages.by == By::None {
        write!(out, "    one page is the whole read")?;
    } else {
        write!(out, "    at most {} pages{size} by {}{next}", pages.max, pages.by.as_str())?;
    }
    for stop in &pages.stop {
        match stop {
            Stop::Short => write!(out, "; a page with fewer rows is the last")?,
            Stop::Empty => write!(out, "; a page without rows is the last")?,
            Stop::Pages(path) => write!(out, "; `{path}` says how many there are")?,
            Stop::Rows(path) => write!(out, "; `{path}` says how many rows there are")?,
            Stop::More(path) => write!(out, "; `{path}` says whether there are more")?,
        }
    }
    if matches!(pages.by, By::Cursor | By::Url) {
        let is = if pages.absent_ends { "a page that tells none" } else { "null or empty" };
        write!(out, "; {is} is the end")?;
    }
    writeln!(out)?;
    if let Some(path) = &pages.items {
        write!(out, "    rows are in `{path}`")?;
        if let Some(path) = &pages.total {
            write!(out, "; fewer than `{path}` says are no whole read")?;
        }
        if let Some(most) = pages.rows_max {
            write!(out, "; {most} or more may have been cut off")?;
        }
        writeln!(out)?;
    }
    if pages.expired.is_some() || pages.token_ttl.is_some() {
        let ttl = pages.token_ttl.map(|ttl| format!(" after {ttl:?}")).unwrap_or_default();
        writeln!(
            out,
            "    page tokens expire{ttl}: the read begins anew, at most {} times",
            pages.restarts
        )?;
    }
    Ok(())
}
