//! A fetch becomes a request: URL and headers, checked.

use bytes::Bytes;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};
use url::Url;

use super::template::{Found, Fragment, Piece, Scope};
use super::{Refusal, Template};
use crate::codes::Code;
use crate::ids::{Account, preview};
use crate::pages::{PageState, Pages};
use crate::plan::{Api, Auth, Platform};

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
}

/// What to send.
#[derive(Debug, Clone)]
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

/// What a recipe's templates may name.
pub(super) struct RecipeScope<'a> {
    pub(super) platform: &'a Platform,
    pub(super) api: &'a Api,
    pub(super) fetch: &'a FetchContext<'a>,
    /// Of an api with pages.
    pub(super) page: Option<&'a Map<String, Value>>,
}

impl Scope for RecipeScope<'_> {
    fn get(&self, name: &str) -> Option<Found<'_>> {
        match name {
            "platform" => Some(Found::Text(self.platform.name.as_str())),
            "api" => Some(Found::Text(self.api.name.as_str())),
            "account" => Some(Found::Text(self.fetch.account.as_str())),
            "id" => Some(Found::Text(self.fetch.id)),
            "page" if self.api.pages.is_some() => Some(Found::Maps(self.page?, None)),
            name => self
                .fetch
                .params
                .get(name)
                .or_else(|| self.api.params.defaults.get(name))
                .map(Found::Json),
        }
    }
}

/// Builds the request of a fetch.
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
    let scope = RecipeScope { platform, api, fetch, page: values.as_ref() };
    let mut url = build_url(platform, api, &scope)?;
    if let Some(next) = page.and_then(|page| page.url.as_deref()) {
        url = next_url(platform, next)?;
    }
    let mut headers = HeaderMap::with_capacity(platform.headers.len() + api.headers.len() + 1);
    for (name, template) in platform.headers.iter().chain(&api.headers) {
        if lacks(template, values.as_ref()) {
            continue;
        }
        // `insert` lets an api's header replace the platform's.
        headers.insert(name, header_value(name, &template.render(&scope)?)?);
    }
    if let Some(auth) = &platform.auth {
        let (name, value) = match auth {
            Auth::Bearer(secret) => (&AUTHORIZATION, secret_value("Bearer ", secret)?),
            Auth::Header(name, secret) => (name, secret_value("", secret)?),
        };
        headers.insert(name, value);
    }
    Ok(Request { method: Method::GET, url, headers, body: None })
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
    template.render(&RecipeScope { platform, api, fetch, page: None })
}

/// What `{page.number}` and the others stand for.
fn page_values(pages: &Pages, page: &PageState) -> Map<String, Value> {
    let size = pages.size.map(|size| ("size", Value::from(size)));
    let cursor = page.cursor.as_deref().map(|cursor| ("cursor", Value::from(cursor)));
    let known = [("number", Value::from(page.number)), ("offset", Value::from(page.offset))];
    let all = known.into_iter().chain(size).chain(cursor);
    all.map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Whether a template names page state that is not there yet.
fn lacks(template: &Template, page: Option<&Map<String, Value>>) -> bool {
    let Some(page) = page else { return false };
    template.text().contains("page.")
        && template
            .names()
            .iter()
            .any(|name| name.strip_prefix("page.").is_some_and(|name| !page.contains_key(name)))
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

fn build_url(platform: &Platform, api: &Api, scope: &RecipeScope<'_>) -> Result<Url, Refusal> {
    let mut text = String::with_capacity(256);
    if !is_absolute(&api.path) {
        text.push_str(platform.base_url.as_str());
    }
    push_path(&mut text, &api.path, scope)?;
    let there = api.query.iter().filter(|(_, template)| !lacks(template, scope.page));
    for (i, (name, template)) in there.enumerate() {
        text.push(if i == 0 { '?' } else { '&' });
        text.extend(utf8_percent_encode(name, VALUE));
        text.push('=');
        template.fill(scope, |fragment| {
            let (Fragment::Text(part) | Fragment::Value(part)) = fragment;
            text.extend(utf8_percent_encode(part, VALUE));
            Ok(())
        })?;
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
    Ok(url)
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

fn secret_value(prefix: &str, secret: &SecretString) -> Result<HeaderValue, Refusal> {
    let mut value = HeaderValue::from_str(&format!("{prefix}{}", secret.expose_secret()))
        .map_err(|_| Refusal::new(Code::UnsafeHeader, "the secret cannot stand in a header"))?;
    value.set_sensitive(true);
    Ok(value)
}
