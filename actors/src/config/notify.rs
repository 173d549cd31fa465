//! The section `[notify]`: what is told when something is wrong for long, and to whom.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use ::config::{Value, ValueKind};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use url::{Host, Url};

use super::pairs::header_name;
use super::platform::slug;
use super::secret::{secret, secret_of};
use super::section::{Section, kind_of};
use crate::codes::Code;
use crate::ids::{Slug, preview};
use crate::plan::{NotifyPlan, WebhookPlan};

/// Most webhooks, and most headers of one.
const WEBHOOKS_MAX: usize = 16;
const HEADERS_MAX: usize = 32;
/// What a duration may be, unless said otherwise.
const AFTER: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(30 * 86_400);
const BLOCKED: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
const REPEAT: RangeInclusive<Duration> =
    Duration::from_secs(60)..=Duration::from_secs(365 * 86_400);
const TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);
const DEAD_MAX: u64 = 1_000_000;
/// What a key begins with, and how long it is: Standard Webhooks 1.0.0, "Signature scheme"
/// (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>, read 2026-11-22).
const KEY_PREFIX: &str = "whsec_";
const KEY_BYTES: RangeInclusive<usize> = 24..=64;
/// What belongs to the request itself.
const OWN_HEADERS: &[&str] = &[
    "content-type",
    "content-length",
    "host",
    "transfer-encoding",
    "connection",
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
];

pub(super) fn notify(
    section: Option<Section<'_>>,
    env: &BTreeMap<String, String>,
) -> Option<NotifyPlan> {
    let mut section = section?;
    let mut plan = NotifyPlan {
        held_after: Duration::from_secs(15 * 60),
        dead_over: 100,
        store_after: Duration::from_secs(5 * 60),
        blocked_after: Duration::from_secs(10),
        repeat_after: Duration::from_secs(6 * 3600),
        nats: true,
        webhooks: Vec::new(),
    };
    for (name, range, place) in [
        ("held_after", AFTER, &mut plan.held_after),
        ("store_after", AFTER, &mut plan.store_after),
        ("blocked_after", BLOCKED, &mut plan.blocked_after),
        ("repeat_after", REPEAT, &mut plan.repeat_after),
    ] {
        if let Some(duration) = section.duration(name, range) {
            *place = duration;
        }
    }
    if let Some(count) = section.whole_in("dead_over", 1..=DEAD_MAX) {
        plan.dead_over = count;
    }
    if let Some(nats) = section.flag("nats") {
        plan.nats = nats;
    }
    if let Some(mut table) = section.section("webhooks") {
        let entries = table.entries();
        if entries.len() > WEBHOOKS_MAX {
            let message = format!("{} webhooks, at most {WEBHOOKS_MAX}", entries.len());
            section.mistake(Code::TooMany, "webhooks", message, "");
        }
        for (name, value) in entries.into_iter().take(WEBHOOKS_MAX) {
            plan.webhooks.extend(webhook(&table, &name, value, env));
        }
    }
    section.finish();
    Some(plan)
}

fn webhook(
    table: &Section<'_>,
    name: &str,
    value: Value,
    env: &BTreeMap<String, String>,
) -> Option<WebhookPlan> {
    let name: Slug = slug(table, name)?;
    let mut section = table.section_of(name.as_str(), value)?;
    let url = section.required("url", "such as \"https://hooks.example.com/tollgate\"");
    let url = url.and_then(|text| url_of(&section, &text, env));
    let key = secret(&mut section, "secret", env).map(|text| key_of(&section, &text));
    let headers = section.section("headers").map(|table| headers(table, env)).unwrap_or_default();
    let timeout = section.duration("timeout", TIMEOUT).unwrap_or(Duration::from_secs(15));
    if let Some(url) = &url
        && url.scheme() == "http"
        && !is_here(url)
        && !headers.is_empty()
    {
        let message = "the headers, and with them their secrets, go there without encryption";
        section.report().warn(&section.key("url"), message);
    }
    section.finish();
    let key = key.flatten().map(|key| key.into_boxed_slice().into());
    Some(WebhookPlan { name, url: url?, headers, key, timeout })
}

/// A URL, as it is or where it comes from: its path may be a secret.
fn url_of(section: &Section<'_>, text: &str, env: &BTreeMap<String, String>) -> Option<Url> {
    let referred = ["env:", "file:"].iter().any(|prefix| text.starts_with(prefix));
    let told = referred.then(|| secret_of(section, "url", text, env));
    let text = match &told {
        None => text,
        Some(secret) => secret.as_ref()?.expose_secret(),
    };
    match Url::parse(text) {
        Ok(url) if url.password().is_some() || !url.username().is_empty() => {
            let message = "the URL holds a user or password";
            section.mistake(Code::InlineSecret, "url", message, "send them in a header");
        }
        Ok(url) if ["http", "https"].contains(&url.scheme()) && url.has_host() => return Some(url),
        _ => {
            let shown = if referred { "what it refers to".into() } else { preview(text) };
            let message = format!("`{shown}` is no http or https URL");
            section.mistake(
                Code::BadUrl,
                "url",
                message,
                "such as \"https://hooks.example.com/tollgate\"",
            );
        }
    }
    None
}

fn is_here(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn key_of(section: &Section<'_>, text: &SecretString) -> Option<Vec<u8>> {
    let told = text.expose_secret().trim();
    let key = told.strip_prefix(KEY_PREFIX).and_then(|text| STANDARD.decode(text).ok());
    let key = key.filter(|key| KEY_BYTES.contains(&key.len()));
    if key.is_none() {
        section.mistake(
            Code::BadValue,
            "secret",
            "what it refers to is no key of Standard Webhooks; its value is not shown",
            "`whsec_` and 24 to 64 bytes in base64, as `echo whsec_$(openssl rand -base64 32)` makes one",
        );
    }
    key
}

fn headers(
    mut table: Section<'_>,
    env: &BTreeMap<String, String>,
) -> Vec<(HeaderName, SecretString)> {
    let entries = table.entries();
    if entries.len() > HEADERS_MAX {
        let message = format!("{} headers, at most {HEADERS_MAX}", entries.len());
        table.report().mistake(Code::TooMany, table.path(), message, "");
    }
    let mut headers = Vec::new();
    for (key, value) in entries.into_iter().take(HEADERS_MAX) {
        let Some(name) = header_name(&table, &key, &key) else { continue };
        if OWN_HEADERS.contains(&name.as_str()) {
            let message = format!("`{name}` is Tollgate's own");
            table.mistake(Code::BadValue, &key, message, "leave it out");
            continue;
        }
        let ValueKind::String(text) = &value.kind else {
            let message = format!("{} where text belongs", kind_of(&value));
            table.mistake(Code::WrongType, &key, message, "");
            continue;
        };
        let Some(secret) = secret_of(&table, &key, text, env) else { continue };
        if HeaderValue::from_str(secret.expose_secret()).is_err() {
            let message = "what it refers to is no value of a header; it is not shown";
            table.mistake(Code::BadValue, &key, message, "");
            continue;
        }
        headers.push((name, secret));
    }
    headers
}
