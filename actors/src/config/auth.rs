//! The table `auth` of a platform or an api: who asks.

use std::collections::BTreeMap;
use std::sync::Arc;

use ::config::ValueKind;
use http::HeaderName;

use self::oauth2::oauth2;
use self::references::{is_reference, reference, reference_of, words};
use self::signatures::{hmac, jwt, oauth1};
use super::BAD;
use super::pairs::{PAIRS_MAX, header_name};
use super::section::Section;
use crate::auth::secret::{Fit, Reference};
use crate::auth::{Auth, Bearing, Credential, Kind, POOL_MAX, Words};
use crate::codes::Code;
use crate::ids::Slug;
use crate::recipe::{Template, TemplateError, Variables};

mod oauth2;
mod references;
mod signatures;

/// What `auth` may be.
const HINT: &str =
    "auth = { bearer = \"env:NAME\" } or { header = \"NAME\", value = \"env:NAME\" }";
/// The keys of which there is one.
const KINDS: &[&str] = &["bearer", "header", "query", "basic", "oauth2", "jwt", "hmac", "oauth1"];

/// What `auth` says.
#[derive(Debug, Clone)]
pub(super) enum Said {
    /// It is not there.
    Nothing,
    /// `"none"`, or something that was not understood.
    None,
    /// Credentials.
    Auth(Auth),
}

/// The key `auth` of a platform, or of one of its apis.
pub(super) fn auth(
    section: &mut Section<'_>,
    place: (&str, Option<&str>),
    env: &BTreeMap<String, String>,
) -> Said {
    let Some(value) = section.take("auth") else { return Said::Nothing };
    if matches!(&value.kind, ValueKind::String(text) if text == "none") {
        return Said::None;
    }
    let Some(mut auth) = section.section_of("auth", value) else { return Said::None };
    if !auth.has("pool") {
        let one = credential(section, auth, "auth", (place, ""), env);
        return one.map_or(Said::None, |one| Said::Auth(Auth { pool: vec![Arc::new(one)] }));
    }
    let Some(mut table) = auth.section("pool") else { return Said::None };
    auth.finish();
    let mut pool = Vec::new();
    let entries = table.entries();
    if entries.is_empty() || entries.len() > POOL_MAX {
        let message = format!("{} credentials, 1 to {POOL_MAX} are allowed", entries.len());
        section.mistake(Code::TooMany, "auth.pool", message, "");
        return Said::None;
    }
    for (name, value) in entries {
        if let Err(reason) = Slug::new(&name) {
            table.mistake(Code::BadName, &name, reason, "");
            continue;
        }
        let Some(entry) = table.section_of(&name, value) else { continue };
        pool.extend(credential(&table, entry, &name, (place, &name), env).map(Arc::new));
    }
    if pool.is_empty() { Said::None } else { Said::Auth(Auth { pool }) }
}

/// One credential. `key`: its key in `above`.
fn credential(
    above: &Section<'_>,
    mut auth: Section<'_>,
    key: &str,
    (place, name): ((&str, Option<&str>), &str),
    env: &BTreeMap<String, String>,
) -> Option<Credential> {
    let before = auth.report().count();
    auth.unsupported("aws", HINT);
    let said: Vec<&str> = KINDS.iter().copied().filter(|kind| auth.has(kind)).collect();
    let headers = secret_headers(&mut auth, env);
    let kind = match said.as_slice() {
        [] if auth.has("value") => {
            auth.mistake(Code::MissingKey, "header", "`header` is missing", HINT);
            None
        }
        [] if !headers.is_empty() || auth.report().count() > before => Some((Kind::Headers, None)),
        [] => None,
        [only] => kind(&mut auth, only, env),
        several => {
            let message = format!("says several things at once: {}", several.join(", "));
            let hint = "secret headers beside it go into `headers`";
            above.mistake(BAD, key, message, hint);
            None
        }
    };
    for known in KINDS.iter().copied().chain(["value"]) {
        auth.take(known);
    }
    let report = auth.report();
    auth.finish();
    if report.count() == before && kind.is_none() {
        let message = format!("says nothing: one of {} belongs here", KINDS.join(", "));
        above.mistake(Code::MissingKey, key, message, HINT);
    }
    let (kind, headers) = match kind? {
        (Kind::Headers, Some(one)) => {
            (Kind::Headers, std::iter::once(one).chain(headers).collect::<Vec<_>>())
        }
        (kind, _) => (kind, headers),
    };
    let credential = Credential::new(place, name, kind, headers);
    let names = credential.header_names();
    let before = |(place, name): &(usize, &&HeaderName)| {
        names.iter().take(*place).any(|known| known == *name)
    };
    if let Some((_, twice)) = names.iter().enumerate().find(before) {
        let message = format!("`{twice}` would be set twice");
        above.mistake(Code::BadHeader, key, message, "leave it out of one");
        return None;
    }
    Some(credential)
}

type OfKind = Option<(Kind, Option<(HeaderName, Reference)>)>;

fn kind(auth: &mut Section<'_>, only: &str, env: &BTreeMap<String, String>) -> OfKind {
    let whole = |kind: Option<Kind>| kind.map(|kind| (kind, None));
    match only {
        "bearer" => whole(reference(auth, "bearer", env, Fit::Line).map(Kind::Bearer)),
        "header" => {
            let name = auth.text("header");
            let name = name.and_then(|name| header_name(auth, "header", &name));
            let value = value(auth, env)?;
            Some((Kind::Headers, Some((name?, value))))
        }
        "query" => {
            let name = auth.text("query");
            if name.as_deref() == Some("") {
                auth.mistake(BAD, "query", "the name of the pair is empty", "query = \"key\"");
            }
            let value = value(auth, env)?;
            whole(name.filter(|name| !name.is_empty()).map(|name| Kind::Query(name, value)))
        }
        "basic" => whole(auth.section("basic").and_then(|table| basic(table, env))),
        "oauth2" => whole(auth.section("oauth2").and_then(|table| oauth2(table, env))),
        "jwt" => {
            let mut table = auth.section("jwt")?;
            let bearing = bearing(&mut table);
            let jwt = jwt(&mut table, env);
            table.finish();
            whole(jwt.map(|jwt| Kind::Jwt(Box::new(jwt), bearing)))
        }
        "hmac" => whole(auth.section("hmac").and_then(|table| hmac(table, env))),
        _ => whole(auth.section("oauth1").and_then(|table| oauth1(table, env))),
    }
}

/// The secret beside `header` or `query`.
fn value(auth: &mut Section<'_>, env: &BTreeMap<String, String>) -> Option<Reference> {
    if !auth.has("value") {
        auth.mistake(Code::MissingKey, "value", "`value` is missing", HINT);
        return None;
    }
    reference(auth, "value", env, Fit::Line)
}

/// The table `headers`: secret ones.
fn secret_headers(
    auth: &mut Section<'_>,
    env: &BTreeMap<String, String>,
) -> Vec<(HeaderName, Reference)> {
    let Some(mut table) = auth.section("headers") else { return Vec::new() };
    let entries = table.entries();
    if entries.is_empty() || entries.len() > PAIRS_MAX {
        let message = format!("{} headers, 1 to {PAIRS_MAX} are allowed", entries.len());
        table.report().mistake(Code::TooMany, table.path(), message, "");
    }
    let mut headers = Vec::new();
    for (key, value) in entries {
        let name = header_name(&table, &key, &key);
        let secret = reference_of(&table, &key, value, env, Fit::Line);
        headers.extend(name.zip(secret));
    }
    headers
}

fn basic(mut table: Section<'_>, env: &BTreeMap<String, String>) -> Option<Kind> {
    need(&table, "user", "user = \"NAME\"");
    need(&table, "password", "password = \"env:NAME\"");
    let user = words(&mut table, "user", env);
    let password = reference(&mut table, "password", env, Fit::Line);
    if let Some(Words::Plain(user)) = &user
        && user.contains(':')
    {
        // RFC 7617 §2: the first colon ends the user.
        table.mistake(BAD, "user", "a user with a colon in its name cannot be sent so", "");
    }
    table.finish();
    Some(Kind::Basic { user: user?, password: password? })
}

/// Where a token is sent, if not as a bearer.
fn bearing(table: &mut Section<'_>) -> Bearing {
    let name = table.text("in_header");
    let name = name.and_then(|name| header_name(table, "in_header", &name));
    name.map_or(Bearing::Bearer, Bearing::Header)
}

/// A template of names that Tollgate fills in.
fn string(section: &Section<'_>, key: &str, text: &str, names: &[&str]) -> Option<Template> {
    if is_reference(text) {
        let message = "secrets are not supported here";
        section.mistake(Code::NotSupported, key, message, "the secret of a signature is its `key`");
        return None;
    }
    match Template::parse(text, &Variables::Only(names)) {
        Ok(template) => Some(template),
        Err(error) => {
            let code = match &error {
                TemplateError::Syntax(_) => Code::BadTemplate,
                TemplateError::Unknown { .. } => Code::UnknownVariable,
            };
            section.mistake(code, key, error.to_string(), "");
            None
        }
    }
}

/// Says that a key is missing, before it is taken.
fn need(section: &Section<'_>, name: &str, hint: &str) {
    if !section.has(name) {
        section.mistake(Code::MissingKey, name, format!("`{name}` is missing"), hint);
    }
}
