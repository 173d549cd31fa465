//! The table `auth` of a platform or an api: who asks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ::config::{Value, ValueKind};
use http::HeaderName;
use secrecy::ExposeSecret;
use tollgate_gate::{Guard, Limit, LimitSet, Rule, Span};
use url::Url;

use super::BAD;
use super::pairs::{PAIRS_MAX, header_name};
use super::section::{Section, kind_of, one_of};
use crate::auth::jwt::{self, Algorithm, Claim, Jwt};
use crate::auth::secret::{self, ACCOUNT, ACCOUNTS_MAX, Fit, Reference, Secret, Source};
use crate::auth::{
    AssertionAs, Auth, Bearing, Credential, Encoding, Grant, Hash, Hmac, Kind, NAMES, OAuth1,
    OAuth2, POOL_MAX, Words,
};
use crate::codes::Code;
use crate::ids::{Account, Slug, preview};
use crate::recipe::{Template, TemplateError, Variables};

/// What `auth` may be.
const HINT: &str =
    "auth = { bearer = \"env:NAME\" } or { header = \"NAME\", value = \"env:NAME\" }";
const REFERENCE: &str =
    "put it into an environment variable or a file: \"env:NAME\" or \"file:PATH\"";
/// The keys of which there is one.
const KINDS: &[&str] = &["bearer", "header", "query", "basic", "oauth2", "jwt", "hmac", "oauth1"];
/// Bounds of a token's life and of `early`.
const LIFE_MIN: Duration = Duration::from_secs(1);
const LIFE_MAX: Duration = Duration::from_secs(400 * 24 * 3600);
const LIFE: Duration = Duration::from_secs(3600);
const JWT_LIFE: Duration = Duration::from_secs(600);
const JWT_LIFE_MIN: Duration = Duration::from_secs(30);
const EARLY_MAX: Duration = Duration::from_secs(24 * 3600);
/// Most calls of a limit of a token endpoint.
const ENDPOINT_CALLS_MAX: u64 = 100;
/// The limits of a token endpoint that declares none.
const ENDPOINT_GAP: Span = Span::from_secs(1);
const ENDPOINT_CALLS: u32 = 20;
const ENDPOINT_WINDOW: Span = Span::from_secs(600);

const ALGORITHMS: &[(&str, Algorithm)] =
    &[("ES256", Algorithm::Es256), ("RS256", Algorithm::Rs256)];
const HASHES: &[(&str, Hash)] =
    &[("sha256", Hash::Sha256), ("sha1", Hash::Sha1), ("sha512", Hash::Sha512)];
const OAUTH1_HASHES: &[(&str, Hash)] = &[("HMAC-SHA1", Hash::Sha1), ("HMAC-SHA256", Hash::Sha256)];
const ENCODINGS: &[(&str, Encoding)] =
    &[("base64", Encoding::Base64), ("base64url", Encoding::Base64Url), ("hex", Encoding::Hex)];
const KEY_ENCODINGS: &[(&str, Encoding)] = &[
    ("text", Encoding::Text),
    ("base64", Encoding::Base64),
    ("base64url", Encoding::Base64Url),
    ("hex", Encoding::Hex),
];
const GRANTS: &[(&str, Grant)] = &[
    ("refresh_token", Grant::RefreshToken),
    ("client_credentials", Grant::ClientCredentials),
    ("jwt-bearer", Grant::JwtBearer),
];
const CLIENT_IN: &[(&str, bool)] = &[("body", false), ("header", true)];
const ASSERTIONS: &[(&str, AssertionAs)] = &[
    ("client_assertion", AssertionAs::ClientAssertion),
    ("client_secret", AssertionAs::ClientSecret),
];

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

fn oauth2(mut table: Section<'_>, env: &BTreeMap<String, String>) -> Option<Kind> {
    let before = table.report().count();
    let hint = "grant = \"refresh_token\", \"client_credentials\" or \"jwt-bearer\"";
    let grant = table.required("grant", hint);
    let grant = grant.and_then(|text| one_of(&table, "grant", &text, GRANTS));
    let token_url = table.required("token_url", "where tokens are had: \"https://…\"");
    let token_url = token_url.and_then(|text| token_url_of(&table, &text));
    let client_id = words(&mut table, "client_id", env);
    let client_secret = reference(&mut table, "client_secret", env, Fit::Line);
    let refresh_token = reference(&mut table, "refresh_token", env, Fit::Line);
    let client_in = table.text("client_in");
    let client_in = client_in.and_then(|text| one_of(&table, "client_in", &text, CLIENT_IN));
    let assertion_as = table.text("assertion_as");
    let assertion_as =
        assertion_as.and_then(|text| one_of(&table, "assertion_as", &text, ASSERTIONS));
    let has_assertion = table.has("assertion");
    let assertion = table.section("assertion").and_then(|mut assertion| {
        let jwt = jwt(&mut assertion, env);
        assertion.finish();
        jwt
    });
    let scope = table.text("scope");
    let params = table.section("params").map(params).unwrap_or_default();
    let early = table.duration("early", Duration::ZERO..=EARLY_MAX);
    let life = table.duration("life", LIFE_MIN..=LIFE_MAX);
    let limits = endpoint_limits(&mut table);
    let bearing = bearing(&mut table);
    if let Some(grant) = grant {
        check_grant(
            &table,
            grant,
            (client_id.as_ref(), client_secret.as_ref(), refresh_token.as_ref()),
            has_assertion,
            client_in == Some(true),
        );
    }
    let failed = table.report().count() > before;
    table.finish();
    if failed {
        return None;
    }
    let grant = grant?;
    let assertion_as = match grant {
        Grant::JwtBearer => AssertionAs::Assertion,
        _ => assertion_as.unwrap_or(AssertionAs::ClientAssertion),
    };
    Some(Kind::OAuth2(Box::new(OAuth2 {
        grant,
        token_url: token_url?,
        client_id,
        client_secret,
        client_basic: client_in.unwrap_or(false),
        refresh_token,
        assertion: assertion.map(|jwt| (jwt, assertion_as)),
        scope,
        params,
        early,
        life: life.unwrap_or(LIFE),
        limits,
        bearing,
    })))
}

/// What a grant needs, and what it has no use for.
fn check_grant(
    table: &Section<'_>,
    grant: Grant,
    (id, secret, refresh): (Option<&Words>, Option<&Reference>, Option<&Reference>),
    has_assertion: bool,
    client_in_header: bool,
) {
    let missing = |key: &str, hint: &str| {
        let message = format!("the grant `{}` needs `{key}`", grant.as_str());
        table.mistake(Code::MissingKey, key, message, hint);
    };
    let idle = |key: &str, hint: &str| {
        let message = format!("the grant `{}` has no use for `{key}`", grant.as_str());
        table.mistake(BAD, key, message, hint);
    };
    // What is there and was not understood was said already.
    let said = |key: &str| table.report().has_mistake(&table.key(key));
    if grant != Grant::JwtBearer && id.is_none() && !said("client_id") {
        missing("client_id", "client_id = \"…\" or \"env:NAME\"");
    }
    match grant {
        Grant::RefreshToken => {
            if refresh.is_none() && !said("refresh_token") {
                missing("refresh_token", "refresh_token = \"env:NAME\"");
            }
        }
        Grant::ClientCredentials => {
            if secret.is_none() && !has_assertion && !said("client_secret") {
                missing("client_secret", "client_secret = \"env:NAME\", or `assertion`");
            }
            if refresh.is_some() {
                idle("refresh_token", "leave it out, or say grant = \"refresh_token\"");
            }
        }
        Grant::JwtBearer => {
            if !has_assertion {
                missing(
                    "assertion",
                    "assertion = { algorithm = \"RS256\", key = \"file:PATH\", … }",
                );
            }
            if refresh.is_some() {
                idle("refresh_token", "leave it out, or say grant = \"refresh_token\"");
            }
        }
    }
    if client_in_header && (id.is_none() || secret.is_none()) {
        let message = "`header` sends client_id and client_secret, and one of them is missing";
        table.mistake(Code::MissingKey, "client_in", message, "");
    }
}

fn token_url_of(table: &Section<'_>, text: &str) -> Option<Url> {
    let bad = |code, message: &str, hint: &str| {
        table.mistake(code, "token_url", message, hint);
        None
    };
    let like = "such as \"https://auth.example.com/oauth/token\"";
    let Ok(url) = Url::parse(text) else { return bad(Code::BadUrl, "not a URL", like) };
    if !url.username().is_empty() || url.password().is_some() {
        let hint = "use client_id and client_secret";
        return bad(Code::InlineSecret, "the URL holds a user or password; it is not shown", hint);
    }
    if !["http", "https"].contains(&url.scheme()) || !url.has_host() {
        return bad(Code::BadUrl, "not an http or https URL", like);
    }
    let host = url.host_str().unwrap_or_default();
    let local = host == "localhost" || host.starts_with("127.") || host == "[::1]";
    if url.scheme() == "http" && !local {
        let message = "secrets are sent unencrypted: token_url begins with http://";
        table.report().warn(table.path(), message);
    }
    Some(url)
}

/// The table `limits` of a token endpoint; what it declares takes the place of the default.
fn endpoint_limits(table: &mut Section<'_>) -> Arc<LimitSet> {
    let limit = |name: &str, rule| Limit {
        name: name.to_owned(),
        per_api: false,
        api: None,
        rule,
        // The answer is waited for in any case.
        guard: Guard::Never,
    };
    let calls = |max: u32| max.try_into().unwrap_or(std::num::NonZeroU32::MIN);
    let mut limits = Vec::new();
    if table.has("limits") {
        let Some(mut all) = table.section("limits") else { return Arc::default() };
        for (name, value) in all.entries() {
            if let Err(reason) = Slug::new(&name) {
                all.mistake(Code::BadName, &name, reason, "");
                continue;
            }
            let Some(mut entry) = all.section_of(&name, value) else { continue };
            let window = Duration::from_millis(1)..=Duration::from_secs(24 * 3600);
            let every = entry.duration("every", window.clone());
            let max = entry.whole_in("max", 1..=ENDPOINT_CALLS_MAX);
            let within = entry.duration("in", window);
            let path = entry.path().to_owned();
            let report = entry.report();
            let before = report.count();
            entry.finish();
            match (every, max, within) {
                (Some(gap), None, None) => {
                    limits.push(limit(&name, Rule::Every { gap: Span::from(gap) }));
                }
                (None, Some(max), Some(window)) => {
                    let (max, window) = (calls(max as u32), Span::from(window));
                    limits.push(limit(&name, Rule::Sliding { max, window }));
                }
                _ if report.count() > before => {}
                _ => {
                    let hint = "{ every = \"1s\" } or { max = 20, in = \"10m\" }";
                    let message = "is no limit of a token endpoint";
                    report.mistake(Code::ImpossibleLimit, &path, message, hint);
                }
            }
        }
    } else {
        table.take("limits");
        let (max, window) = (calls(ENDPOINT_CALLS), ENDPOINT_WINDOW);
        limits.push(limit("gap (default)", Rule::Every { gap: ENDPOINT_GAP }));
        limits.push(limit("window (default)", Rule::Sliding { max, window }));
    }
    match LimitSet::new(limits) {
        Ok(set) => Arc::new(set),
        Err(error) => {
            table.mistake(Code::ImpossibleLimit, "limits", error.to_string(), "");
            Arc::default()
        }
    }
}

/// Plain pairs of the form.
fn params(mut table: Section<'_>) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let entries = table.entries();
    if entries.len() > PAIRS_MAX {
        let message = format!("{} pairs, at most {PAIRS_MAX} are allowed", entries.len());
        table.report().mistake(Code::TooMany, table.path(), message, "");
    }
    for (name, value) in entries {
        match value.kind {
            ValueKind::String(text) if is_reference(&text) => {
                let hint = "client_secret and refresh_token are secrets";
                table.mistake(Code::NotSupported, &name, "secrets are not supported here", hint);
            }
            ValueKind::String(text) => pairs.push((name, text)),
            ValueKind::I64(number) => pairs.push((name, number.to_string())),
            ValueKind::Boolean(yes) => pairs.push((name, yes.to_string())),
            _ => {
                let message = format!("{} where text belongs", kind_of(&value));
                table.mistake(Code::WrongType, &name, message, "");
            }
        }
    }
    pairs
}

fn jwt(table: &mut Section<'_>, env: &BTreeMap<String, String>) -> Option<Jwt> {
    let algorithm = table.required("algorithm", "algorithm = \"ES256\" or \"RS256\"");
    let algorithm = algorithm.and_then(|text| one_of(table, "algorithm", &text, ALGORITHMS));
    need(table, "key", "key = \"file:PATH\": a private key as PEM");
    let key = reference(table, "key", env, Fit::Text);
    if let (Some(algorithm), Some(key)) = (algorithm, &key) {
        check_known(table, "key", key, |text| jwt::check_key(text, algorithm));
    }
    let headers = table.section("headers").map(claims).unwrap_or_default();
    let claims = table.section("claims").map(claims).unwrap_or_default();
    for own in ["alg", "typ"] {
        if headers.iter().any(|(name, _)| name == own) {
            let message = format!("`{own}` is set by Tollgate");
            table.mistake(BAD, &format!("headers.{own}"), message, "leave it out");
        }
    }
    let life = table.duration("life", JWT_LIFE_MIN..=LIFE_MAX).unwrap_or(JWT_LIFE);
    Some(Jwt { algorithm: algorithm?, key: key?, headers, claims, life })
}

fn claims(mut table: Section<'_>) -> Vec<(String, Claim)> {
    let entries = table.entries();
    if entries.len() > PAIRS_MAX {
        let message = format!("{} entries, at most {PAIRS_MAX} are allowed", entries.len());
        table.report().mistake(Code::TooMany, table.path(), message, "");
    }
    let mut claims = Vec::new();
    for (name, value) in entries {
        let claim = match value.kind {
            ValueKind::String(text) => match string(&table, &name, &text, jwt::NAMES) {
                Some(template) => Claim::Text(template),
                None => continue,
            },
            ValueKind::I64(number) => Claim::Value(number.into()),
            ValueKind::Boolean(yes) => Claim::Value(yes.into()),
            ValueKind::Array(items) => {
                let texts: Option<Vec<String>> = items
                    .into_iter()
                    .map(|item| match item.kind {
                        ValueKind::String(text) => Some(text),
                        _ => None,
                    })
                    .collect();
                if let Some(texts) = texts {
                    Claim::Value(texts.into())
                } else {
                    let message = "every item of this list must be text";
                    table.mistake(Code::WrongType, &name, message, "");
                    continue;
                }
            }
            _ => {
                let message = format!("{} cannot be a claim", kind_of(&value));
                let hint = "text, a whole number, true, false or a list of texts";
                table.mistake(Code::WrongType, &name, message, hint);
                continue;
            }
        };
        claims.push((name, claim));
    }
    claims
}

fn hmac(mut table: Section<'_>, env: &BTreeMap<String, String>) -> Option<Kind> {
    let before = table.report().count();
    let algorithm = table.required("algorithm", "algorithm = \"sha256\"");
    let algorithm = algorithm.and_then(|text| one_of(&table, "algorithm", &text, HASHES));
    need(&table, "key", "key = \"env:NAME\"");
    let key = reference(&mut table, "key", env, Fit::Text);
    let key_encoding = table.text("key_encoding");
    let key_encoding = match key_encoding {
        None => Some(Encoding::Text),
        Some(text) => one_of(&table, "key_encoding", &text, KEY_ENCODINGS),
    };
    if let (Some(key), Some(encoding)) = (&key, key_encoding) {
        check_known(&table, "key", key, |text| {
            encoding.decode(text).map(|_| ()).map_err(|reason| format!("it {reason}"))
        });
    }
    let sign = table.required("sign", "what is signed: sign = \"{timestamp}.{method}.{path}\"");
    let sign = sign.and_then(|text| string(&table, "sign", &text, NAMES));
    let encoding = match table.text("encoding") {
        None => Some(Encoding::Base64),
        Some(text) => one_of(&table, "encoding", &text, ENCODINGS),
    };
    let names: Vec<&str> = NAMES.iter().copied().chain(["signature"]).collect();
    let mut strings = |key: &'static str| -> Vec<(String, Template)> {
        let Some(mut own) = table.section(key) else { return Vec::new() };
        let mut pairs = Vec::new();
        for (name, value) in own.entries() {
            match value.kind {
                ValueKind::String(text) => {
                    pairs.extend(string(&own, &name, &text, &names).map(|text| (name, text)));
                }
                _ => {
                    let message = format!("{} where text belongs", kind_of(&value));
                    own.mistake(Code::WrongType, &name, message, "");
                }
            }
        }
        pairs
    };
    let (headers, query) = (strings("headers"), strings("query"));
    let headers: Vec<(HeaderName, Template)> = headers
        .into_iter()
        .filter_map(|(name, text)| {
            let key = format!("headers.{name}");
            Some((header_name(&table, &key, &name)?, text))
        })
        .collect();
    let mut all = headers.iter().map(|(_, text)| text).chain(query.iter().map(|(_, text)| text));
    let sent = all.any(|text| text.names().iter().any(|name| name == "signature"));
    if !sent && table.report().count() == before {
        let message = "the signature is sent nowhere";
        let hint = "headers = { X-Signature = \"{signature}\" }, or the same as `query`";
        table.mistake(Code::MissingKey, "headers", message, hint);
    }
    let failed = table.report().count() > before;
    table.finish();
    if failed {
        return None;
    }
    Some(Kind::Hmac(Box::new(Hmac {
        algorithm: algorithm?,
        key: key?,
        key_encoding: key_encoding?,
        sign: sign?,
        encoding: encoding?,
        headers,
        query,
    })))
}

fn oauth1(mut table: Section<'_>, env: &BTreeMap<String, String>) -> Option<Kind> {
    let algorithm = match table.text("algorithm") {
        None => Some(Hash::Sha1),
        Some(text) => one_of(&table, "algorithm", &text, OAUTH1_HASHES),
    };
    need(&table, "consumer_key", "consumer_key = \"…\" or \"env:NAME\"");
    need(&table, "consumer_secret", "consumer_secret = \"env:NAME\"");
    let consumer_key = words(&mut table, "consumer_key", env);
    let consumer_secret = reference(&mut table, "consumer_secret", env, Fit::Line);
    let token = reference(&mut table, "token", env, Fit::Line);
    let token_secret = reference(&mut table, "token_secret", env, Fit::Line);
    if token.is_some() != token_secret.is_some() {
        let (missing, there) =
            if token.is_some() { ("token_secret", "token") } else { ("token", "token_secret") };
        if !table.report().has_mistake(&table.key(missing)) {
            let message = format!("`{missing}` is missing beside `{there}`");
            table.mistake(Code::MissingKey, missing, message, "");
        }
    }
    let realm = table.text("realm");
    table.finish();
    Some(Kind::OAuth1(Box::new(OAuth1 {
        algorithm: algorithm?,
        consumer_key: consumer_key?,
        consumer_secret: consumer_secret?,
        token: token.map(Words::Secret),
        token_secret,
        realm,
    })))
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

fn is_reference(text: &str) -> bool {
    ["env:", "file:", "command:"].iter().any(|prefix| text.starts_with(prefix))
}

/// Text that may stand here, or come from elsewhere.
fn words(
    section: &mut Section<'_>,
    name: &'static str,
    env: &BTreeMap<String, String>,
) -> Option<Words> {
    let value = section.take(name)?;
    match &value.kind {
        ValueKind::String(text) if text.is_empty() => {
            section.mistake(BAD, name, format!("`{name}` is empty"), "");
            None
        }
        ValueKind::String(text) if !is_reference(text) => Some(Words::Plain(text.clone())),
        _ => reference_of(section, name, value, env, Fit::Line).map(Words::Secret),
    }
}

/// A secret that is written as `env:NAME`, `file:PATH` or `command:PROGRAM ARGUMENTS`, or as a table of accounts.
fn reference(
    section: &mut Section<'_>,
    name: &'static str,
    env: &BTreeMap<String, String>,
    fit: Fit,
) -> Option<Reference> {
    let value = section.take(name)?;
    reference_of(section, name, value, env, fit)
}

fn reference_of(
    section: &Section<'_>,
    name: &str,
    value: Value,
    env: &BTreeMap<String, String>,
    fit: Fit,
) -> Option<Reference> {
    match value.kind {
        ValueKind::String(text) => match text.strip_prefix("file:") {
            Some(path) if path.contains(ACCOUNT) => {
                let folder = Path::new(path).parent();
                if folder.is_some_and(|folder| folder.to_string_lossy().contains(ACCOUNT)) {
                    // Each account's folder may come later.
                } else if let Some(folder) = folder.filter(|folder| !folder.as_os_str().is_empty())
                    && !folder.is_dir()
                {
                    let message = format!("the folder `{}` is not there", folder.display());
                    section.mistake(Code::SecretNotFound, name, message, "");
                    return None;
                }
                Some(Reference::files(path.to_owned(), fit))
            }
            _ => secret(section, name, &text, env, fit).map(Reference::One),
        },
        ValueKind::Table(_) => {
            let mut table = section.section_of(name, value)?;
            let entries = table.entries();
            if entries.is_empty() || entries.len() > ACCOUNTS_MAX {
                let message =
                    format!("{} accounts, 1 to {ACCOUNTS_MAX} are allowed", entries.len());
                section.mistake(Code::TooMany, name, message, "");
                return None;
            }
            let mut secrets = BTreeMap::new();
            for (account, value) in entries {
                let ValueKind::String(text) = value.kind else {
                    let message = format!("{} where a secret belongs", kind_of(&value));
                    table.mistake(Code::WrongType, &account, message, REFERENCE);
                    continue;
                };
                match Account::new(&account) {
                    Ok(of) => {
                        let secret = secret(&table, &account, &text, env, fit);
                        secrets.extend(secret.map(|secret| (of, secret)));
                    }
                    Err(reason) => table.mistake(Code::BadAccount, &account, reason, ""),
                }
            }
            Some(Reference::Table(Arc::new(secrets)))
        }
        _ => {
            let message = format!("{} where a secret belongs", kind_of(&value));
            section.mistake(Code::WrongType, name, message, REFERENCE);
            None
        }
    }
}

fn secret(
    section: &Section<'_>,
    name: &str,
    text: &str,
    env: &BTreeMap<String, String>,
    fit: Fit,
) -> Option<Secret> {
    let found = if let Some(variable) = text.strip_prefix("env:") {
        let value = env
            .get(variable)
            .cloned()
            .ok_or_else(|| format!("the environment has no variable `{}`", preview(variable)));
        value.and_then(|value| {
            secret::check(&value, fit)?;
            Ok(Secret::known(Source::Env(variable.to_owned()), value))
        })
    } else if let Some(path) = text.strip_prefix("file:") {
        let secret = Secret::unread(Source::File(PathBuf::from(path)), fit);
        secret.read_file().map(|_| secret)
    } else if let Some(command) = text.strip_prefix("command:") {
        let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        program(&words, env).map(|()| Secret::unread(Source::Command(words), fit))
    } else {
        section.mistake(
            Code::InlineSecret,
            name,
            "a secret may not be written here; its value is not shown",
            REFERENCE,
        );
        return None;
    };
    match found {
        Ok(secret) => Some(secret),
        Err(problem) => {
            section.mistake(Code::SecretNotFound, name, problem, "");
            None
        }
    }
}

/// Whether a program is there to be run. It is run when its secret is needed, not to check it.
fn program(words: &[String], env: &BTreeMap<String, String>) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    let Some(program) = words.first() else {
        return Err("`command:` names no program".to_owned());
    };
    let runs = |path: &Path| {
        let about = std::fs::metadata(path);
        about.is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
    };
    let there = if program.contains('/') {
        runs(Path::new(program))
    } else {
        let path = env.get("PATH").map(String::as_str).unwrap_or_default();
        std::env::split_paths(path).any(|folder| runs(&folder.join(program)))
    };
    there.then_some(()).ok_or_else(|| format!("there is no program `{}`", preview(program)))
}

/// Checks what a secret says, as far as it is known.
fn check_known(
    section: &Section<'_>,
    key: &str,
    reference: &Reference,
    check: impl Fn(&str) -> Result<(), String>,
) {
    let known = reference.all().into_iter().filter_map(|secret| secret.get());
    if let Some(problem) = known.filter_map(|text| check(text.expose_secret()).err()).next() {
        let message = format!("the secret cannot be used: {problem}");
        section.mistake(Code::BadSecret, key, message, "");
    }
}
