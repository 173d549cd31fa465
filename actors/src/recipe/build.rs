//! A fetch becomes a request: method, URL, headers and body, checked.

use std::cell::OnceCell;

use std::fmt;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value};
use url::Url;

use super::body::{FORM, bounded};
use super::dates::Dates;
use super::query::write_pairs;
use super::template::{Found, Fragment, Piece, Scope};
use super::{Refusal, Template};
use crate::codes::Code;
use crate::ids::{Account, preview};
use crate::pages::{PageState, Pages};
use crate::plan::{Api, Platform};

/// Longest URL of a request in bytes.
pub const URL_BYTES_MAX: usize = 16 * 1024;

/// Everything but the unreserved characters of RFC 3986, so that a value can end neither its segment
/// nor its pair.
const VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What a request needs of its fetch.
#[derive(Debug, Clone, Copy)]
pub struct FetchContext<'a> {
    /// Whom the provider counts.
    pub account: &'a Account,
    /// The fetch's id.
    pub id: &'a str,
    /// Its parameters.
    pub params: &'a Map<String, Value>,
    /// When it was queued, which is what `{today}` and `{now}` are of: the same at every try.
    pub queued_at: Timestamp,
}

/// What to send.
#[derive(Clone)]
pub struct Request {
    /// How.
    pub method: Method,
    /// Where to. Its host is declared.
    pub url: Url,
    /// With which headers; secret ones are marked sensitive.
    pub headers: HeaderMap,
    /// With what after them.
    pub body: Option<Bytes>,
}

impl fmt::Debug for Request {
    /// Without query and body, which may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = Url::join(&self.url, self.url.path());
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("at", &at.as_ref().map_or("?", Url::as_str))
            .field("headers", &self.headers)
            .field("body_bytes", &self.body.as_ref().map(Bytes::len))
            .finish_non_exhaustive()
    }
}

/// What a recipe's templates may name.
pub(super) struct RecipeScope<'a> {
    platform: &'a Platform,
    api: &'a Api,
    fetch: &'a FetchContext<'a>,
    /// Of an api with pages.
    page: Option<&'a Map<String, Value>>,
    /// Made when it is first asked for; the refusal where there is no such zone.
    dates: OnceCell<Result<Dates, Refusal>>,
}

impl<'a> RecipeScope<'a> {
    pub(super) fn new(platform: &'a Platform, api: &'a Api, fetch: &'a FetchContext<'a>) -> Self {
        Self { platform, api, fetch, page: None, dates: OnceCell::new() }
    }

    fn dates(&self) -> Result<&Dates, &Refusal> {
        let dates = self.dates.get_or_init(|| {
            let account = self.fetch.account;
            let zones = self.api.zone.as_ref().or(self.platform.zone.as_ref());
            let zone = zones.map(|zones| zones.of(account, self.platform.tiers.name_of(account)));
            Dates::new(self.fetch.queued_at, zone, &Undated(self))
        });
        dates.as_ref()
    }

    fn undated(&self, name: &str) -> Option<Found<'_>> {
        let Self { platform, api, fetch, .. } = self;
        match name {
            "platform" => Some(Found::Text(platform.name.as_str())),
            "api" => Some(Found::Text(api.name.as_str())),
            "account" => Some(Found::Text(fetch.account.as_str())),
            "id" => Some(Found::Text(fetch.id)),
            "today" | "now" => None,
            name => {
                let value = fetch.params.get(name);
                value.or_else(|| api.params.defaults.get(name)).map(Found::Json)
            }
        }
    }
}

impl Scope for RecipeScope<'_> {
    fn get(&self, name: &str) -> Option<Found<'_>> {
        match name {
            "today" => self.dates().ok().map(|dates| Found::Text(&dates.today)),
            "now" => self.dates().ok().map(|dates| Found::Text(&dates.now)),
            "page" if self.api.pages.is_some() => Some(Found::Maps(self.page?, None)),
            name => self.undated(name),
        }
    }

    fn zone(&self) -> Option<&str> {
        self.dates().ok().map(|dates| dates.zone.as_str())
    }
}

/// The same without dates, for what says whose they are.
struct Undated<'a>(&'a RecipeScope<'a>);

impl Scope for Undated<'_> {
    fn get(&self, name: &str) -> Option<Found<'_>> {
        self.0.undated(name)
    }
}

/// Builds the request of a fetch, as it is before it is signed.
///
/// # Errors
/// A parameter is missing or cannot be used; a value would change the path, cannot stand in a header
/// or makes the URL too long; the host is not declared.
pub fn build(platform: &Platform, api: &Api, fetch: &FetchContext<'_>) -> Result<Request, Refusal> {
    build_page(platform, api, fetch, None)
}

/// Builds the request of a page of a fetch; the first where nothing else is said. A pair of the query, or a
/// header, that names page state which is not there yet is left out.
///
/// # Errors
/// As [`build`].
pub fn build_page(
    platform: &Platform,
    api: &Api,
    fetch: &FetchContext<'_>,
    page: Option<&PageState>,
) -> Result<Request, Refusal> {
    let values = api.pages.as_ref().map(|pages| match page {
        Some(page) => page_values(pages, page),
        None => page_values(pages, &PageState::first(pages)),
    });
    let scope = RecipeScope { page: values.as_ref(), ..RecipeScope::new(platform, api, fetch) };
    if api.zone.is_some() || platform.zone.is_some() {
        // Known before something is said to be missing that only lacks its zone.
        scope.dates().map_err(Refusal::clone)?;
    }
    let (mut url, mut moved) = build_url(platform, api, &scope)?;
    if let Some(next) = page.and_then(|page| page.url.as_deref()) {
        (url, moved) = (next_url(platform, next)?, None);
    }
    let mut headers = HeaderMap::with_capacity(platform.headers.len() + api.headers.len() + 3);
    let (mut method, mut body) = (api.method.clone(), None);
    if let Some(own) = &api.body {
        headers.insert(CONTENT_TYPE, header_value(&CONTENT_TYPE, own.kind())?);
        body = Some(own.fill(&scope)?);
    }
    // What is fetched elsewhere without credentials gets nothing of the platform's own: one may be in its headers.
    let unsigned = api.auth.is_none() || is_bare(platform, &url);
    let elsewhere = unsigned && url.origin() != platform.base_url.origin();
    let shared = if elsewhere && platform.auth.is_some() { &[][..] } else { &platform.headers };
    for (name, template) in shared.iter().chain(&api.headers) {
        if template.left_out(&scope) {
            continue;
        }
        // `insert` lets an api's header replace the platform's.
        headers.insert(name, header_value(name, &template.render(&scope)?)?);
    }
    if let (Some(query), Some(long)) = (moved, &api.long_query) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(FORM));
        if let Some(name) = &long.header {
            headers.insert(name, header_value(name, method.as_str())?);
        }
        method = Method::POST;
        body = Some(bounded(query)?);
    }
    Ok(Request { method, url, headers, body })
}

/// Fills in one template of an api, as it stands.
///
/// # Errors
/// A parameter is missing or cannot be used.
pub(crate) fn render(
    template: &Template,
    platform: &Platform,
    api: &Api,
    fetch: &FetchContext<'_>,
) -> Result<String, Refusal> {
    template.render(&RecipeScope::new(platform, api, fetch))
}

/// What `{page.number}` and the others stand for.
fn page_values(pages: &Pages, page: &PageState) -> Map<String, Value> {
    let size = pages.size.map(|size| ("size", Value::from(size)));
    let cursor = page.cursor.as_deref().map(|cursor| ("cursor", Value::from(cursor)));
    let known = [("number", Value::from(page.number)), ("offset", Value::from(page.offset))];
    let all = known.into_iter().chain(size).chain(cursor);
    all.map(|(name, value)| (name.to_owned(), value)).collect()
}

/// The URL that a page before gave, as it stands.
fn next_url(platform: &Platform, text: &str) -> Result<Url, Refusal> {
    let url = Url::parse(text).map_err(|error| {
        Refusal::new(Code::HostRefused, format!("the next page has no usable URL: {error}"))
    })?;
    if !url_allowed(platform, &url) {
        let host = url.host_str().unwrap_or_default();
        return Err(Refusal::new(
            Code::NextPageElsewhere,
            format!(
                "the next page is at `{}`, which is not a host of platform `{}`",
                preview(host),
                platform.name
            ),
        ));
    }
    Ok(url)
}

/// Names and what they stand for.
struct Pairs<'a>(&'a [(&'a str, &'a str)]);

impl Scope for Pairs<'_> {
    fn get(&self, name: &str) -> Option<Found<'_>> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, text)| Found::Text(text))
    }
}

/// Fills in a template with these texts by name, as they are.
///
/// # Errors
/// One that it names is not among them, or what comes of it is too long.
pub(crate) fn fill(template: &Template, names: &[(&str, &str)]) -> Result<String, Refusal> {
    template.render(&Pairs(names))
}

/// Whether calls of this platform may go to a URL: the scheme, host and port of its `base_url`, or a
/// host of `allowed_hosts`, never by `http` where the `base_url` is `https`.
pub fn url_allowed(platform: &Platform, url: &Url) -> bool {
    let base = &platform.base_url;
    if !url.username().is_empty() || url.password().is_some() {
        return false;
    }
    if url.scheme() != base.scheme() && url.scheme() != "https" {
        return false;
    }
    let Some(host) = url.host_str() else { return false };
    let same_origin = url.scheme() == base.scheme()
        && base.host_str() == Some(host)
        && url.port_or_known_default() == base.port_or_known_default();
    same_origin
        || platform.allowed_hosts.iter().any(|allowed| match url.port() {
            None => allowed == host,
            Some(port) => *allowed == format!("{host}:{port}"),
        })
}

/// Whether a URL is of a host that gets no credentials.
pub fn is_bare(platform: &Platform, url: &Url) -> bool {
    !platform.bare_hosts.is_empty()
        && url.host_str().is_some_and(|host| {
            let port = url.port().map(|port| format!("{host}:{port}"));
            platform.bare_hosts.iter().any(|bare| bare == port.as_deref().unwrap_or(host))
        })
}

/// The URL, and the query where it does not go into it.
fn build_url(
    platform: &Platform,
    api: &Api,
    scope: &RecipeScope<'_>,
) -> Result<(Url, Option<String>), Refusal> {
    let mut text = String::with_capacity(256);
    if !is_absolute(&api.path) {
        text.push_str(platform.base_url.as_str());
    }
    push_path(&mut text, &api.path, scope)?;
    let path = text.len();
    text.push('?');
    write_pairs(&mut text, &api.query, scope)?;
    if text.len() == path + 1 {
        text.truncate(path);
    }
    let mut moved = None;
    if api.long_query.as_ref().is_some_and(|long| text.len() > long.over) {
        moved = text.get(path + 1..).map(str::to_owned);
        text.truncate(path);
    }
    if text.len() > URL_BYTES_MAX {
        return Err(Refusal::new(
            Code::RequestTooLong,
            format!("the URL has {} bytes, at most {URL_BYTES_MAX} are allowed", text.len()),
        ));
    }
    let url = Url::parse(&text).map_err(|error| {
        Refusal::new(Code::HostRefused, format!("the request has no usable URL: {error}"))
    })?;
    if !url_allowed(platform, &url) {
        let host = url.host_str().unwrap_or_default();
        return Err(Refusal::new(
            Code::HostRefused,
            format!("`{}` is not a host of platform `{}`", preview(host), platform.name),
        ));
    }
    Ok((url, moved))
}

/// Appends a filled-in path. A segment that holds a value may not become empty, `.` or `..`.
fn push_path(out: &mut String, path: &Template, scope: &dyn Scope) -> Result<(), Refusal> {
    let mut segment_start = out.len();
    let mut holds_value = false;
    path.fill(scope, |fragment| {
        match fragment {
            Fragment::Value(value) => {
                out.extend(utf8_percent_encode(value, VALUE));
                holds_value = true;
            }
            Fragment::Text(text) => {
                for (i, part) in text.split('/').enumerate() {
                    if i > 0 {
                        check_segment(out, segment_start, holds_value)?;
                        out.push('/');
                        segment_start = out.len();
                        holds_value = false;
                    }
                    out.push_str(part);
                }
            }
        }
        Ok(())
    })?;
    check_segment(out, segment_start, holds_value)
}

fn check_segment(out: &str, start: usize, holds_value: bool) -> Result<(), Refusal> {
    let segment = out.get(start..).unwrap_or_default();
    if holds_value && (segment.is_empty() || is_dots(segment)) {
        let what = if segment.is_empty() { "empty" } else { segment };
        return Err(Refusal::new(
            Code::UnsafePath,
            format!("with these values a part of the path would be {what}"),
        ));
    }
    Ok(())
}

/// `.` or `..`, also where dots are percent-encoded: URL parsers take both for the same.
fn is_dots(segment: &str) -> bool {
    segment.len() <= 6 && matches!(&*segment.to_ascii_lowercase().replace("%2e", "."), "." | "..")
}

fn is_absolute(path: &Template) -> bool {
    path.text().starts_with("https://") || path.text().starts_with("http://")
}

/// What is wrong with a path as the operator wrote it, if anything: a code and a sentence.
pub(crate) fn path_problem(path: &Template, platform: &Platform) -> Option<(Code, String)> {
    let mut sample = String::new();
    let mut values_in_host = false;
    for piece in path.pieces() {
        match piece {
            Piece::Text(text) => sample.push_str(text),
            Piece::Name(_) | Piece::Computed(_) => {
                values_in_host |= is_absolute(path) && sample.matches('/').count() < 3;
                sample.push('x');
            }
        }
    }
    if let Some(sign) = sample.chars().find(|c| "?#\\".contains(*c) || c.is_control() || *c == ' ')
    {
        let hint = if sign == '?' { ": put the query into `query`" } else { "" };
        return Some((Code::BadValue, format!("a path may not hold {sign:?}{hint}")));
    }
    if sample.split('/').any(is_dots) {
        return Some((Code::BadValue, "a path may not have `.` or `..` as a part".to_owned()));
    }
    if !is_absolute(path) || values_in_host {
        return None;
    }
    match Url::parse(&sample) {
        Ok(url) if url_allowed(platform, &url) => None,
        Ok(url) => Some((
            Code::HostNotDeclared,
            format!("`{}` is not a host of this platform", url.host_str().unwrap_or_default()),
        )),
        Err(error) => Some((Code::BadUrl, format!("not a URL: {error}"))),
    }
}

fn header_value(name: &HeaderName, text: &str) -> Result<HeaderValue, Refusal> {
    HeaderValue::from_bytes(text.as_bytes()).map_err(|_| {
        Refusal::new(
            Code::UnsafeHeader,
            format!("the value of header `{name}` holds a line break or another control character"),
        )
    })
}
