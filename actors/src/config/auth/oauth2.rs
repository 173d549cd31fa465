//! `oauth2`: tokens of a server.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use ::config::ValueKind;
use tollgate_gate::{Guard, Limit, LimitSet, Rule, Span};
use url::Url;

use super::references::{is_reference, reference, words};
use super::signatures::jwt;
use super::{BAD, bearing};
use crate::auth::secret::{Fit, Reference};
use crate::auth::{AssertionAs, Grant, Kind, OAuth2, Words};
use crate::codes::Code;
use crate::config::pairs::PAIRS_MAX;
use crate::config::section::{Section, kind_of, one_of};
use crate::ids::Slug;

/// Bounds of a token's life and of `early`.
const LIFE_MIN: Duration = Duration::from_secs(1);
pub(super) const LIFE_MAX: Duration = Duration::from_secs(400 * 24 * 3600);
const LIFE: Duration = Duration::from_secs(3600);
const EARLY_MAX: Duration = Duration::from_secs(24 * 3600);
/// Most calls of a limit of a token endpoint.
const ENDPOINT_CALLS_MAX: u64 = 100;
/// The limits of a token endpoint that declares none.
const ENDPOINT_GAP: Span = Span::from_secs(1);
const ENDPOINT_CALLS: u32 = 20;
const ENDPOINT_WINDOW: Span = Span::from_secs(600);

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

pub(super) fn oauth2(mut table: Section<'_>, env: &BTreeMap<String, String>) -> Option<Kind> {
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
        // The answer is waited for; this is for those that never come.
        guard: Guard::Default,
    };
    let calls = |max: u32| max.try_into().unwrap_or(NonZeroU32::MIN);
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
