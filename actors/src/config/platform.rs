//! The tables `[platforms.NAME]` and `[platforms.NAME.apis.NAME]`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use ::config::{Value, ValueKind};
use http::HeaderName;
use http::header::AUTHORIZATION;
use serde_json::Map;
use tollgate_gate::{Guard, LIMITS_MAX, Limit, LimitError, LimitSet};
use url::Url;

use super::BAD;
use super::limits::{guard, limits};
use super::node::timeouts;
use super::secret::{check_literal, secret};
use super::section::{Section, kind_of, one_of};
use crate::codes::Code;
use crate::ids::{Slug, preview};
use crate::plan::{Api, Auth, Format, Params, Platform, Timeouts};
use crate::recipe::{RESERVED, Template, TemplateError, Variables, is_name, path_problem};

/// Most platforms of a node, apis of a platform, headers or query pairs or parameters of an api.
const PLATFORMS_MAX: usize = 256;
const APIS_MAX: usize = 1_000;
const PAIRS_MAX: usize = 64;
/// Bounds of `lost_call`.
const LOST_CALL_MIN: Duration = Duration::from_secs(1);
const LOST_CALL_MAX: Duration = Duration::from_secs(24 * 3600);
const LOST_CALL: Duration = Duration::from_secs(60);

/// Headers that belong to the connection.
const CONNECTION_HEADERS: &[&str] = &[
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "proxy-connection",
    "expect",
];

const FORMATS: &[(&str, Format)] = &[
    ("auto", Format::Auto),
    ("json", Format::Json),
    ("csv", Format::Csv),
    ("text", Format::Text),
    ("html", Format::Html),
    ("binary", Format::Binary),
];

/// What platforms need from the rest of the configuration.
pub(super) struct Defaults<'a> {
    pub(super) timeouts: Timeouts,
    /// `store.key`, which may name parameters too.
    pub(super) key: &'a Template,
    pub(super) env: &'a BTreeMap<String, String>,
}

pub(super) fn platforms(
    root: &mut Section<'_>,
    defaults: &Defaults<'_>,
) -> BTreeMap<Slug, Arc<Platform>> {
    let mut platforms = BTreeMap::new();
    let had = root.has("platforms");
    let Some(mut table) = root.section("platforms") else {
        if !had {
            no_platforms(root);
        }
        return platforms;
    };
    let entries = table.entries();
    if entries.is_empty() {
        no_platforms(root);
    }
    if entries.len() > PLATFORMS_MAX {
        let message = format!("{} platforms, at most {PLATFORMS_MAX} are allowed", entries.len());
        root.mistake(Code::TooMany, "platforms", message, "");
        return platforms;
    }
    for (name, value) in entries {
        let Some(slug) = slug(&table, &name) else { continue };
        let Some(section) = table.section_of(&name, value) else { continue };
        if let Some(platform) = platform(section, slug.clone(), defaults) {
            platforms.insert(slug, Arc::new(platform));
        }
    }
    platforms
}

fn no_platforms(root: &Section<'_>) {
    let hint = "declare one: [platforms.NAME] with base_url, [platforms.NAME.apis.NAME] with path";
    root.mistake(Code::NoPlatforms, "platforms", "no platform is declared", hint);
}

fn slug(section: &Section<'_>, name: &str) -> Option<Slug> {
    Slug::new(name).map_err(|reason| section.mistake(Code::BadName, name, reason, "")).ok()
}

fn platform(mut section: Section<'_>, name: Slug, defaults: &Defaults<'_>) -> Option<Platform> {
    let base_url = section
        .required("base_url", "what the paths of this platform's apis are joined to")
        .and_then(|text| base_url(&section, &text));
    let allowed_hosts = allowed_hosts(&mut section);
    let headers = headers(&mut section, &Variables::Any);
    let auth = auth(&mut section, defaults.env);
    let own_guard = guard(&mut section).unwrap_or(Guard::Default);
    let lost_call = section.duration("lost_call", LOST_CALL_MIN..=LOST_CALL_MAX);
    let timeouts = timeouts(&mut section, defaults.timeouts);
    let mut limits = limits(&mut section, None, own_guard);
    // A platform to judge its apis by; a broken base URL was reported, and hosts cannot be checked then.
    let mut platform = Platform {
        name,
        base_url: base_url.clone().unwrap_or_else(placeholder_url),
        allowed_hosts,
        headers,
        auth,
        limits: Arc::default(),
        apis: Vec::new(),
        lost_call: lost_call.unwrap_or(LOST_CALL),
    };
    check_auth_alone(&section, &platform.headers, platform.auth.as_ref());
    let context = ApiContext {
        timeouts,
        guard: own_guard,
        key: defaults.key,
        knows_host: base_url.is_some(),
    };
    platform.apis = apis(&mut section, &platform, &context, &mut limits);
    warn(&section, &platform, &limits);
    let total = limits.len();
    let names = platform.apis.iter().map(|api| api.name.to_string()).collect();
    match LimitSet::new(limits).and_then(|set| set.with_apis(names)) {
        Ok(set) => platform.limits = Arc::new(set),
        // Its api was not understood, and what is wrong there is reported already.
        Err(LimitError::NoApi(_)) => {}
        Err(_) if total > LIMITS_MAX => {
            let message = format!(
                "{total} limits, its apis' included; at most {LIMITS_MAX} are allowed for a platform"
            );
            section.mistake(Code::TooMany, "limits", message, "");
        }
        Err(error) => section.mistake(Code::ImpossibleLimit, "limits", error.to_string(), ""),
    }
    section.finish();
    base_url.is_some().then_some(platform)
}

/// What is allowed but probably not meant.
fn warn(section: &Section<'_>, platform: &Platform, limits: &[Limit]) {
    if limits.is_empty() {
        section.report().warn(section.path(), "no limits: calls go as fast as they can");
    }
    let host = platform.base_url.host_str().unwrap_or_default();
    let local = host == "localhost" || host.starts_with("127.") || host == "[::1]";
    if platform.auth.is_some() && platform.base_url.scheme() == "http" && !local {
        section
            .report()
            .warn(section.path(), "the secret is sent unencrypted: base_url begins with http://");
    }
}

fn placeholder_url() -> Url {
    Url::parse("http://localhost/").expect("a constant URL")
}

fn base_url(section: &Section<'_>, text: &str) -> Option<Url> {
    let bad = |code, message: &str, hint: &str| {
        section.mistake(code, "base_url", message, hint);
        None
    };
    let Ok(mut url) = Url::parse(text) else {
        return bad(Code::BadUrl, "not a URL", "such as \"https://api.example.com/v1/\"");
    };
    if !url.username().is_empty() || url.password().is_some() {
        let hint =
            "use auth = { bearer = \"env:NAME\" } or { header = \"NAME\", value = \"env:NAME\" }";
        return bad(Code::InlineSecret, "the URL holds a user or password; it is not shown", hint);
    }
    if !["http", "https"].contains(&url.scheme()) || !url.has_host() {
        return bad(
            Code::BadUrl,
            "not an http or https URL",
            "such as \"https://api.example.com/v1/\"",
        );
    }
    if url.query().is_some() || url.fragment().is_some() {
        return bad(
            Code::BadUrl,
            "a base URL has no `?` and no `#`",
            "put the query into the api's `query`",
        );
    }
    if text.contains(['{', '}']) {
        return bad(
            Code::BadUrl,
            "a base URL is not a template",
            "put placeholders into the api's `path`",
        );
    }
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    Some(url)
}

fn allowed_hosts(section: &mut Section<'_>) -> Vec<String> {
    let mut hosts = Vec::new();
    for text in section.list("allowed_hosts").unwrap_or_default() {
        // Written as a URL reads it: lower case, international names in their ASCII form.
        let url = Url::parse(&format!("https://{text}/")).ok().filter(|url| {
            let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
            bare && url.username().is_empty() && url.password().is_none() && !text.contains('/')
        });
        match url.as_ref().and_then(|url| Some((url.host_str()?, url.port()))) {
            Some((host, _)) if host.contains('*') => {
                section.mistake(
                    BAD,
                    "allowed_hosts",
                    format!("`{}`: name each host", preview(&text)),
                    "",
                );
            }
            Some((host, None)) => hosts.push(host.to_owned()),
            Some((host, Some(port))) => hosts.push(format!("{host}:{port}")),
            None => {
                let message = format!("`{}` is not a host", preview(&text));
                section.mistake(BAD, "allowed_hosts", message, "such as \"reports.example.com\"");
            }
        }
    }
    hosts
}

fn auth(section: &mut Section<'_>, env: &BTreeMap<String, String>) -> Option<Auth> {
    let hint = "auth = { bearer = \"env:NAME\" } or { header = \"NAME\", value = \"env:NAME\" }";
    let mut auth = section.section("auth")?;
    for kind in ["oauth2", "oauth1", "basic", "hmac", "jwt", "query", "aws"] {
        auth.unsupported(kind, hint);
    }
    let (has_bearer, has_header, has_value) =
        (auth.has("bearer"), auth.has("header"), auth.has("value"));
    let bearer = secret(&mut auth, "bearer", env);
    let header = auth.text("header");
    let value = secret(&mut auth, "value", env);
    let name = header.and_then(|name| header_name(&auth, "header", &name));
    if has_bearer && (has_header || has_value) {
        section.mistake(BAD, "auth", "either `bearer` or `header` with `value`", hint);
    } else if has_header && !has_value {
        auth.mistake(Code::MissingKey, "value", "`value` is missing", hint);
    } else if has_value && !has_header {
        auth.mistake(Code::MissingKey, "header", "`header` is missing", hint);
    } else if !has_bearer && !has_header {
        section.mistake(Code::MissingKey, "auth", "says neither `bearer` nor `header`", hint);
    }
    auth.finish();
    match (bearer, name, value) {
        (Some(secret), None, None) => Some(Auth::Bearer(secret)),
        (None, Some(name), Some(secret)) => Some(Auth::Header(name, secret)),
        _ => None,
    }
}

fn header_name(section: &Section<'_>, key: &str, text: &str) -> Option<HeaderName> {
    let Ok(name) = HeaderName::from_bytes(text.as_bytes()) else {
        section.mistake(
            Code::BadHeader,
            key,
            format!("`{}` is not the name of a header", preview(text)),
            "",
        );
        return None;
    };
    if CONNECTION_HEADERS.contains(&name.as_str()) {
        let message = format!("`{name}` belongs to the connection and is set by Tollgate");
        section.mistake(Code::BadHeader, key, message, "leave it out");
        return None;
    }
    Some(name)
}

fn headers(section: &mut Section<'_>, allowed: &Variables<'_>) -> Vec<(HeaderName, Template)> {
    let Some(mut table) = section.section("headers") else { return Vec::new() };
    let mut headers: Vec<(HeaderName, Template)> = Vec::new();
    for (key, template) in templates(&mut table, allowed) {
        let Some(name) = header_name(&table, &key, &key) else { continue };
        if headers.iter().any(|(known, _)| *known == name) {
            table.mistake(Code::BadHeader, &key, format!("`{name}` is there twice"), "");
            continue;
        }
        headers.push((name, template));
    }
    headers
}

/// A table whose values are templates, in the order of the file.
fn templates(table: &mut Section<'_>, allowed: &Variables<'_>) -> Vec<(String, Template)> {
    let entries = table.entries();
    if entries.len() > PAIRS_MAX {
        let message = format!("{} entries, at most {PAIRS_MAX} are allowed", entries.len());
        table.report().mistake(Code::TooMany, table.path(), message, "");
        return Vec::new();
    }
    let mut found = Vec::with_capacity(entries.len());
    for (key, value) in entries {
        let text = match value.kind {
            ValueKind::String(text) => text,
            ValueKind::I64(number) => number.to_string(),
            ValueKind::Boolean(yes) => yes.to_string(),
            _ => {
                let message = format!("{} where text belongs", kind_of(&value));
                table.mistake(Code::WrongType, &key, message, "");
                continue;
            }
        };
        let Some(template) = template(table, &key, &text, allowed) else { continue };
        if check_literal(table, &key, &template) {
            found.push((key, template));
        }
    }
    found
}

fn template(
    section: &Section<'_>,
    key: &str,
    text: &str,
    allowed: &Variables<'_>,
) -> Option<Template> {
    match Template::parse(text, allowed) {
        Ok(template) => {
            if let Some(name) =
                template.names().iter().find_map(|name| name.strip_prefix("params."))
            {
                let message = format!("`params.{name}` is not known here");
                section.mistake(Code::UnknownVariable, key, message, format!("write {{{name}}}"));
                return None;
            }
            Some(template)
        }
        Err(error) => {
            let (code, hint) = match &error {
                TemplateError::Syntax(_) => (Code::BadTemplate, ""),
                TemplateError::Unknown { .. } => {
                    (Code::UnknownVariable, "or add it to this api's `params`")
                }
            };
            section.mistake(code, key, error.to_string(), hint);
            None
        }
    }
}

/// A secret header may not be set a second time by `headers`.
fn check_auth_alone(
    section: &Section<'_>,
    headers: &[(HeaderName, Template)],
    auth: Option<&Auth>,
) {
    let name = match auth {
        Some(Auth::Bearer(_)) => &AUTHORIZATION,
        Some(Auth::Header(name, _)) => name,
        None => return,
    };
    if headers.iter().any(|(known, _)| known == name) {
        let message = format!("`{name}` is set by `auth` too");
        section.mistake(Code::BadHeader, "headers", message, "leave it out of one");
    }
}

/// What an api needs of its platform.
struct ApiContext<'a> {
    timeouts: Timeouts,
    guard: Guard,
    key: &'a Template,
    knows_host: bool,
}

fn apis(
    section: &mut Section<'_>,
    platform: &Platform,
    context: &ApiContext<'_>,
    all_limits: &mut Vec<Limit>,
) -> Vec<Api> {
    let had = section.has("apis");
    let mut apis = Vec::new();
    let Some(mut table) = section.section("apis") else {
        if !had {
            let hint = format!("[{}.apis.NAME] with path = \"…\"", section.path());
            section.mistake(Code::NoPlatforms, "apis", "the platform has no api", hint);
        }
        return apis;
    };
    let entries = table.entries();
    if entries.is_empty() || entries.len() > APIS_MAX {
        let (code, message) = if entries.is_empty() {
            (Code::NoPlatforms, "the platform has no api".to_owned())
        } else {
            (Code::TooMany, format!("{} apis, at most {APIS_MAX} are allowed", entries.len()))
        };
        section.mistake(code, "apis", message, "");
        return apis;
    }
    let platform_limits: Vec<String> = all_limits.iter().map(|limit| limit.name.clone()).collect();
    for (name, value) in entries {
        let Some(slug) = slug(&table, &name) else { continue };
        let Some(mut section) = table.section_of(&name, value) else { continue };
        for own in limits(&mut section, Some(apis.len() as u16), context.guard) {
            if platform_limits.contains(&own.name) {
                let message =
                    format!("the platform has a limit `{}` too, and both count", own.name);
                let key = format!("limits.{}", own.name);
                section.mistake(Code::DuplicateLimit, &key, message, "rename one of them");
            }
            all_limits.push(own);
        }
        apis.extend(api(section, slug, platform, context));
    }
    apis
}

fn api(
    mut section: Section<'_>,
    name: Slug,
    platform: &Platform,
    context: &ApiContext<'_>,
) -> Option<Api> {
    let declared = declared_params(&mut section);
    let names: Vec<&str> = declared
        .iter()
        .flat_map(|params| params.names.iter().map(String::as_str))
        .chain(RESERVED.iter().copied())
        .collect();
    let allowed = if declared.is_some() { Variables::Only(&names) } else { Variables::Any };
    let path = section
        .required("path", "what is called, joined to base_url: path = \"reports/{id}\"")
        .and_then(|text| path(&section, &text, &allowed, platform, context.knows_host));
    let query = section.section("query").map(|mut table| templates(&mut table, &allowed));
    let headers = headers(&mut section, &allowed);
    check_auth_alone(&section, &headers, platform.auth.as_ref());
    let timeouts = timeouts(&mut section, context.timeouts);
    let format = section.text("format").and_then(|text| one_of(&section, "format", &text, FORMATS));
    for name in ["body", "method"] {
        section.unsupported(name, "every call is a GET without a body");
    }
    for name in ["pages", "report"] {
        section.unsupported(name, "one fetch is one call");
    }
    let Some(path) = path else {
        section.finish();
        return None;
    };
    let mut api = Api {
        name,
        path,
        query: query.unwrap_or_default(),
        headers,
        params: Params::default(),
        timeouts,
        format: format.unwrap_or(Format::Auto),
    };
    api.params = params(&section, &api, platform, declared, context.key);
    section.finish();
    Some(api)
}

fn path(
    section: &Section<'_>,
    text: &str,
    allowed: &Variables<'_>,
    platform: &Platform,
    knows_host: bool,
) -> Option<Template> {
    let below = text.trim_start_matches('/');
    if below.len() < text.len() {
        let message = format!("the path is joined to base_url: {}{below}", platform.base_url);
        section.report().warn(&section.key("path"), &message);
    }
    let path = template(section, "path", below, allowed)?;
    match path_problem(&path, platform) {
        Some((Code::HostNotDeclared, _)) if !knows_host => Some(path),
        Some((code, message)) => {
            let hint = if code == Code::HostNotDeclared { "add it to allowed_hosts" } else { "" };
            section.mistake(code, "path", message, hint);
            None
        }
        None => Some(path),
    }
}

/// The key `params`: a list of names, or a table of names with `default`.
fn declared_params(section: &mut Section<'_>) -> Option<Params> {
    let value = section.take("params")?;
    let mut params = Params::default();
    match value.kind {
        ValueKind::Array(items) => {
            for item in items {
                match item.kind {
                    ValueKind::String(name) => _ = params.names.insert(name),
                    _ => section.mistake(
                        Code::WrongType,
                        "params",
                        "every parameter is named by text",
                        "",
                    ),
                }
            }
        }
        ValueKind::Table(table) => {
            let mut table = Section::new(section.report(), section.key("params"), table);
            for (name, value) in table.entries() {
                if let Some(mut entry) = table.section_of(&name, value) {
                    if let Some(default) = entry.take("default")
                        && let Some(default) = default_value(&entry, default)
                    {
                        params.defaults.insert(name.clone(), default);
                    }
                    entry.finish();
                }
                params.names.insert(name);
            }
        }
        _ => {
            let message = format!("{} where a list of names belongs", kind_of(&value));
            section.mistake(Code::WrongType, "params", message, "params = [\"ids\", \"date\"]");
        }
    }
    if params.names.len() > PAIRS_MAX {
        let message = format!("{} parameters, at most {PAIRS_MAX} are allowed", params.names.len());
        section.mistake(Code::TooMany, "params", message, "");
    }
    for name in &params.names {
        check_param(section, "params", name);
    }
    Some(params)
}

fn check_param(section: &Section<'_>, key: &str, name: &str) {
    if RESERVED.contains(&name) {
        let message = format!("`{name}` is a field of the fetch itself and needs no declaring");
        section.mistake(Code::ReservedName, key, message, "leave it out");
    } else if !is_name(name) {
        let message = format!("`{}` is not the name of a parameter", preview(name));
        section.mistake(
            Code::BadName,
            key,
            message,
            "letters, digits and `_`, not starting with a digit",
        );
    }
}

/// A default as a fetch would carry it.
fn default_value(section: &Section<'_>, value: Value) -> Option<serde_json::Value> {
    match value.kind {
        ValueKind::String(text) => Some(text.into()),
        ValueKind::I64(number) => Some(number.into()),
        ValueKind::Boolean(yes) => Some(yes.into()),
        ValueKind::Float(number) => Some(number.into()),
        ValueKind::Array(items) => {
            let items = items.into_iter().map(|item| default_value(section, item));
            items.collect::<Option<Vec<_>>>().map(Into::into)
        }
        _ => {
            let message = format!("{} cannot be a parameter", kind_of(&value));
            section.mistake(
                Code::WrongType,
                "default",
                message,
                "text, a number, true, false or a list",
            );
            None
        }
    }
}

/// Which parameters fetches of this api carry, with everything that names them at hand.
fn params(
    section: &Section<'_>,
    api: &Api,
    platform: &Platform,
    declared: Option<Params>,
    key: &Template,
) -> Params {
    let own = std::iter::once(&api.path).chain(api.query.iter().map(|(_, template)| template));
    let own = own.chain(api.headers.iter().map(|(_, template)| template));
    let shared = platform.headers.iter().map(|(_, template)| template);
    let named = own.chain(shared).flat_map(Template::names);
    let named = named.filter(|name| !RESERVED.contains(&name.as_str()));
    let in_key = key.names();
    let in_key = in_key.iter().filter_map(|name| name.strip_prefix("params.")).map(str::to_owned);
    // Of `a.b` the parameter is `a`.
    let needed: BTreeSet<String> =
        named.chain(in_key).filter_map(|name| name.split('.').next().map(str::to_owned)).collect();
    match declared {
        None => Params { names: needed, defaults: Map::new() },
        Some(params) => {
            for name in needed.difference(&params.names) {
                let message = format!(
                    "`{name}` is not among them, but the platform's headers or store.key name it"
                );
                section.mistake(Code::UnknownVariable, "params", message, "add it");
            }
            params
        }
    }
}
