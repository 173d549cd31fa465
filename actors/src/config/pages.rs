//! The table `pages` of an api: how its answers come in pages.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use ::config::{Value, ValueKind};
use http::HeaderName;

use super::BAD;
use super::observe::predicates;
use super::section::{Section, kind_of, one_of};
use crate::answers::Rule;
use crate::codes::Code;
use crate::ids::preview;
use crate::observe::{JsonPath, Over, PATH_STEPS_MAX, Rules, Scope, Then, Wait};
use crate::pages::{By, MAX, Pages, Place, RESTARTS, Stop, VARIABLES, how};
use crate::plan::Api;
use crate::recipe::{PAGE_MAX, Template};

const BYS: &[(&str, By)] = &[
    ("page", By::Page),
    ("offset", By::Offset),
    ("cursor", By::Cursor),
    ("link", By::Link),
    ("url", By::Url),
    ("none", By::None),
];
const STOP_HINT: &str = "stop = \"short\" (fewer rows than `size`), \"empty\", { pages = \"PATH\" }, { rows = \"PATH\" } or { more = \"PATH\" }";
/// What the key `end` says of a page where the next one should be named and nothing is there: it is the last.
const ENDS: &[(&str, bool)] = &[("absent", true), ("null", false)];
/// Most rows of a page.
const SIZE_MAX: u64 = 10_000_000;
/// Most stop rules.
const STOPS_MAX: usize = 4;
const TTL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(31 * 24 * 3600);

/// What a key says, where it matters whether it is there at all: a mistake in it is told once.
enum Said<T> {
    No,
    Wrong,
    Is(T),
}

impl<T> Said<T> {
    fn of(value: Option<T>) -> Self {
        value.map_or(Self::Wrong, Self::Is)
    }

    fn is_no(&self) -> bool {
        matches!(self, Self::No)
    }

    fn value(self) -> Option<T> {
        match self {
            Self::Is(value) => Some(value),
            Self::No | Self::Wrong => None,
        }
    }
}

/// What is said of the last page where it names no next one.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ends {
    /// By `end`.
    said: bool,
    /// Nothing that could tell it from an error.
    open: bool,
}

/// The table `pages`, if there is one.
pub(super) fn pages(section: &mut Section<'_>) -> Option<(Arc<Pages>, Ends)> {
    let mut table = section.section("pages")?;
    let by = table
        .required("by", "by = \"page\", \"offset\", \"cursor\", \"link\", \"url\" or \"none\"");
    let by = by.and_then(|text| one_of(&table, "by", &text, BYS));
    let items = path(&mut table, "items");
    let has_size = table.has("size");
    let size = size(&mut table);
    let first = table.whole_in("first", 0..=u64::from(u32::MAX));
    let next = place(&mut table, "next");
    let stop = stops(&mut table);
    let said = table.has("end");
    let end = table.text("end").and_then(|text| one_of(&table, "end", &text, ENDS));
    let max = table.whole_in("max", 1..=u64::from(PAGE_MAX));
    let total = path(&mut table, "total");
    let rows_max = table.whole_in("rows_max", 1..=u64::MAX >> 1);
    let expired = table.section("expired").and_then(expired);
    let token_ttl = table.duration("token_ttl", TTL);
    let restarts = table.whole_in("restarts", 0..=100);
    if let Some(by) = by {
        fits(&table, by, (&next, &items), (&stop, has_size), first);
        let has_more = stop.iter().flatten().any(|stop| matches!(stop, Stop::More(_)));
        if said && !needs_next(by) && !has_more {
            let message = format!("a read by {} has no next that could be absent", by.as_str());
            table.mistake(BAD, "end", message, "leave it out");
        }
        if (expired.is_some() || token_ttl.is_some()) && by == By::None {
            let message = "one call has no page token that could expire";
            table.mistake(BAD, "by", message, "leave `expired` and `token_ttl` out");
        }
    }
    for (name, is_there) in [("rows_max", rows_max.is_some()), ("total", !total.is_no())] {
        if is_there && items.is_no() {
            let message = format!("`{name}` is about rows, and it is not said where they are");
            table.mistake(Code::MissingKey, "items", message, "items = \"PATH\" of their list");
        }
    }
    table.finish();
    let by = by?;
    let has_items = !items.is_no();
    let stops = stop.as_ref().is_none_or(|stop| !stop.is_empty());
    let is_named = needs_next(by) && matches!(next, Said::Is(_));
    let ends = Ends { said, open: is_named && !said && !has_items && !stops };
    let pages = Pages {
        by,
        items: items.value(),
        size,
        first: first.unwrap_or(u64::from(by == By::Page)),
        next: next.value(),
        stop: stop.unwrap_or_default(),
        absent_ends: end.unwrap_or(has_items),
        max: max.map_or(MAX, |max| max as u32),
        total: total.value(),
        rows_max,
        expired,
        token_ttl,
        restarts: restarts.map_or(RESTARTS, |restarts| restarts as u32),
        how: 0,
    };
    Some((Arc::new(pages), ends))
}

/// Whether what is declared fits to how pages are asked for. Something that is there and was a mistake is told
/// already.
fn fits(
    table: &Section<'_>,
    by: By,
    (next, items): (&Said<Place>, &Said<JsonPath>),
    (stop, has_size): (&Option<Vec<Stop>>, bool),
    first: Option<u64>,
) {
    let counts = matches!(by, By::Page | By::Offset);
    let none = stop.as_ref().is_some_and(Vec::is_empty);
    if counts && none {
        let message = format!("nothing ends a read by {}", by.as_str());
        table.mistake(Code::NoStopRule, "stop", message, STOP_HINT);
    }
    let has = |wanted: &Stop| stop.iter().flatten().any(|stop| stop == wanted);
    let by_rows = has(&Stop::Short) || has(&Stop::Empty);
    if by_rows && items.is_no() {
        let message = "rows are to be counted, and it is not said where they are";
        table.mistake(Code::MissingKey, "items", message, "items = \"PATH\" of their list");
    }
    if has(&Stop::Short) && !has_size {
        let message = "it is not said how many rows a full page has";
        table.mistake(Code::MissingKey, "size", message, "size = 100");
    }
    let total = stop.iter().flatten().any(|stop| matches!(stop, Stop::Rows(_)));
    if (by == By::Offset || total) && items.is_no() && !has_size {
        let message = "it is not said how many rows come before the next page";
        table.mistake(
            Code::MissingKey,
            "items",
            message,
            "items = \"PATH\" of their list, or size",
        );
    }
    let needs_next = needs_next(by);
    if needs_next && next.is_no() {
        let message = format!("it is not said where the next {} stands", by.as_str());
        let hint = "next = \"paging.next\", or { header = \"NAME\" }";
        table.mistake(Code::MissingKey, "next", message, hint);
    }
    if !needs_next && !next.is_no() {
        let hint = "leave it out, or by = \"cursor\" or \"url\"";
        let message = format!("a read by {} looks nowhere for its next page", by.as_str());
        table.mistake(BAD, "next", message, hint);
    }
    if !counts && first.is_some() {
        let message = format!("a read by {} has no first number", by.as_str());
        table.mistake(BAD, "first", message, "leave it out");
    }
    if by == By::None && stop.as_ref().is_some_and(|stop| !stop.is_empty()) {
        table.mistake(BAD, "stop", "one call is all of the read", "leave it out");
    }
}

/// Whether an answer has to name the next page in a place that is declared.
fn needs_next(by: By) -> bool {
    matches!(by, By::Cursor | By::Url)
}

/// A number of rows; text would be sent as it stands, and counted as nothing.
fn size(table: &mut Section<'_>) -> Option<u32> {
    if let Some(value) = table.peek("size")
        && let ValueKind::String(text) = &value.kind
    {
        let message =
            format!("the size of a page is a number of rows, not the text `{}`", preview(text));
        let hint = match text.trim().parse::<u32>() {
            Ok(number) => format!("size = {number}"),
            Err(_) => "size = 100".to_owned(),
        };
        table.mistake(Code::WrongType, "size", message, hint);
        table.take("size");
        return None;
    }
    table.whole_in("size", 1..=SIZE_MAX).map(|size| size as u32)
}

/// A path into bodies.
fn path(table: &mut Section<'_>, name: &'static str) -> Said<JsonPath> {
    if !table.has(name) {
        table.take(name);
        return Said::No;
    }
    let text = table.text(name);
    Said::of(text.and_then(|text| path_of(table, name, &text)))
}

fn path_of(table: &Section<'_>, name: &str, text: &str) -> Option<JsonPath> {
    let path = JsonPath::new(text);
    if path.is_none() {
        let message = format!(
            "`{}` is no path: names with dots between them, at most {PATH_STEPS_MAX}",
            preview(text)
        );
        table.mistake(BAD, name, message, "such as \"paging.next\"");
    }
    path
}

fn place(table: &mut Section<'_>, name: &'static str) -> Said<Place> {
    let Some(value) = table.take(name) else { return Said::No };
    if let ValueKind::String(text) = &value.kind {
        return Said::of(path_of(table, name, text).map(Place::Body));
    }
    let Some(mut inner) = table.section_of(name, value) else { return Said::Wrong };
    let header = inner.required("header", "next = \"PATH\" of the body, or { header = \"NAME\" }");
    let header = header.and_then(|text| {
        let header = HeaderName::from_bytes(text.to_ascii_lowercase().as_bytes());
        header
            .map_err(|_| {
                let message = format!("`{}` is no name of a header", preview(&text));
                inner.mistake(Code::BadHeader, "header", message, "");
            })
            .ok()
    });
    inner.finish();
    Said::of(header.map(Place::Header))
}

/// The stop rules; nothing if one of them is a mistake.
fn stops(table: &mut Section<'_>) -> Option<Vec<Stop>> {
    let Some(value) = table.take("stop") else { return Some(Vec::new()) };
    let items = match value.kind {
        ValueKind::Array(items) => items,
        _ => vec![value],
    };
    if items.len() > STOPS_MAX {
        let message = format!("{} rules, at most {STOPS_MAX} are allowed", items.len());
        table.mistake(Code::TooMany, "stop", message, "");
        return None;
    }
    let all: Vec<Option<Stop>> = items.into_iter().map(|item| stop(table, item)).collect();
    all.into_iter().collect()
}

fn stop(table: &Section<'_>, value: Value) -> Option<Stop> {
    match &value.kind {
        ValueKind::String(text) => {
            let words = [("short", false), ("empty", true)];
            one_of(table, "stop", text, &words)
                .map(|empty| if empty { Stop::Empty } else { Stop::Short })
        }
        ValueKind::Table(_) => {
            let mut inner = table.section_of("stop", value)?;
            let said = [
                (path(&mut inner, "pages"), Stop::Pages as fn(JsonPath) -> Stop),
                (path(&mut inner, "rows"), Stop::Rows),
                (path(&mut inner, "more"), Stop::More),
            ];
            let mut said = said.into_iter().filter(|(said, _)| !said.is_no());
            let (one, other) = (said.next(), said.next());
            if one.is_none() || other.is_some() {
                let message = "one rule says one thing";
                inner.report().mistake(Code::BadValue, inner.path(), message, STOP_HINT);
                inner.finish();
                return None;
            }
            inner.finish();
            one.and_then(|(path, stop)| path.value().map(stop))
        }
        _ => {
            let message = format!("{} where a stop rule belongs", kind_of(&value));
            table.mistake(Code::WrongType, "stop", message, STOP_HINT);
            None
        }
    }
}

/// What an answer looks like whose token has expired: the conditions of `over`.
fn expired(mut entry: Section<'_>) -> Option<Rules> {
    let (status, tests) = predicates(&mut entry);
    if status.as_ref().is_some_and(Vec::is_empty) && tests.is_empty() {
        let message = "it is not said what such an answer looks like";
        let hint = "expired = { status = 400, body = \"error.code\", is = \"EXPIRED_PAGE_TOKEN\" }";
        entry.report().mistake(Code::MissingKey, entry.path(), message, hint);
    }
    entry.finish();
    let over = Over {
        status: status?,
        tests,
        hits: None,
        wait: Wait::Asked,
        floor: Duration::ZERO,
        cap: Duration::ZERO,
        jitter: Duration::ZERO,
        scope: Scope::Api,
        then: Then::Retry,
    };
    Some(Rules { over: vec![over], ..Rules::default() })
}

/// Says which read the pages of this api belong to.
pub(super) fn set_how(api: &mut Api) {
    let Some(pages) = &mut api.pages else { return };
    let pages = Arc::make_mut(pages);
    let asked = (&pages.by, &pages.items, pages.size, pages.first, &pages.next);
    pages.how =
        how(&format!("{asked:?} {} {:?} {:?} {:?}", api.method, api.path, api.query, api.body));
}

/// Whether something tells a last page from an error in a 200: both may name no next page.
pub(super) fn check_end(section: &Section<'_>, api: &mut Api, ends: Ends) {
    let Some(pages) = &mut api.pages else { return };
    if !ends.said && api.answers.rules.iter().any(Rule::looks_into_good) {
        Arc::make_mut(pages).absent_ends = true;
    } else if ends.open {
        let message = "an answer that names no next page would end the read, and nothing tells the last page from an \
                       error in a 200";
        let hint = "items = \"PATH\" of its rows; or end = \"null\" (`next` is there, and null or empty); or end = \"absent\"";
        section.mistake(Code::NoStopRule, "pages.end", message, hint);
    }
}

/// Whether the templates of an api and its pages fit together: what is named is there, and what is there is named.
pub(super) fn check_templates(section: &Section<'_>, api: &Api) {
    let mut own: Vec<(&str, &Template)> = vec![("path", &api.path)];
    for pair in &api.query {
        pair.value.templates(&mut |template| own.push(("query", template)));
    }
    own.extend(api.headers.iter().map(|(_, template)| ("headers", template)));
    if let Some(body) = &api.body {
        body.templates(&mut |template| own.push(("body", template)));
    }
    let mut named: Vec<(&str, String)> = Vec::new();
    for (key, template) in own {
        if template.text().contains("page") {
            let names = template.names().into_iter();
            named.extend(names.filter(|name| is_page(name)).map(|name| (key, name)));
        }
    }
    let Some(pages) = &api.pages else {
        for (key, name) in named.iter().filter(|(_, name)| VARIABLES.contains(&name.as_str())) {
            let message = format!("`{name}` is page state, and the api has no `pages`");
            let hint = "declare them: pages = { by = \"page\", size = 100, items = \"data\", stop = \"short\" }";
            section.mistake(Code::UnknownVariable, key, message, hint);
        }
        return;
    };
    let wanted = match pages.by {
        By::Page => Some("page.number"),
        By::Offset => Some("page.offset"),
        By::Cursor => Some("page.cursor"),
        By::Link | By::Url | By::None => None,
    };
    for (key, name) in &named {
        let known = Some(name.as_str()) == wanted || (name == "page.size" && pages.size.is_some());
        if !known {
            let all: Vec<String> = wanted
                .into_iter()
                .chain(pages.size.map(|_| "page.size"))
                .map(|name| format!("`{{{name}}}`"))
                .collect();
            let message = format!("`{name}` is not known with pages by {}", pages.by.as_str());
            let hint = if all.is_empty() { "leave it out".into() } else { all.join(", ") };
            section.mistake(Code::UnknownVariable, key, message, hint);
        }
    }
    // Whoever sends the state of another way of asking was told so.
    let sends = |name: &str| name != "page.size" && VARIABLES.contains(&name);
    if let Some(wanted) = wanted
        && !named.iter().any(|(_, name)| sends(name))
    {
        let message =
            format!("no template of the api names `{wanted}`: each call would be the same");
        let hint = format!("such as query = {{ page = \"{{{wanted}}}\" }}");
        section.mistake(Code::PageStateUnused, "pages", message, hint);
    }
    if pages.by == By::Cursor && api.path.names().iter().any(|name| name == "page.cursor") {
        let message = "the first page has no cursor, so it cannot be a part of the path";
        section.mistake(BAD, "path", message, "put it into `query`, or by = \"url\"");
    }
}

/// Whether a name of a template is page state.
fn is_page(name: &str) -> bool {
    name == "page" || name.starts_with("page.")
}
