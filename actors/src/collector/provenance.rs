//! What is kept of a call with what it brought: in the manifest, in a line of `_manifests/`, with the object itself where
//! the store has a place for that. No secret is in it, and all of it is bounded.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use object_store::{Attribute, Attributes};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tollgate_gate::At;
use tollgate_protos::{Call, Object, ObjectLine, Provenance};
use url::{Url, form_urlencoded};

use super::Item;
use super::attempt::Attempt;
use crate::auth::Redactor;
use crate::http::{OnWritten, Written};
use crate::recipe::Request;
use crate::shard::context::Context;
use crate::store::{LINE_BYTES_MAX, Sealed, Stored};

/// Most of a URL that is kept, in bytes.
const URL_KEPT: usize = 2048;
/// Most headers of a request, or of an answer, and most of the value of each, in bytes.
const HEADERS_KEPT: usize = 32;
const VALUE_KEPT: usize = 256;
/// Parameters of more bytes stand in the manifest only.
const PARAMS_KEPT: usize = 8 * 1024;
/// Most of a text in the metadata of an object, in bytes as it is sent: all of it has to stay below the 2 KiB of S3
/// (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/UsingMetadata.html>).
const ABOUT_KEPT: usize = 256;
const REDACTED: &str = "[redacted]";

/// What the names of headers and parameters with secrets contain, and what some of them are.
const TELLING: &[&str] = &[
    "token",
    "secret",
    "api-key",
    "api_key",
    "apikey",
    "access-key",
    "access_key",
    "accesskey",
    "app-key",
    "app_key",
    "appkey",
    "private-key",
    "private_key",
    "subscription-key",
    "subscription_key",
    "functions-key",
    "client-key",
    "client_key",
    "auth-key",
    "auth_key",
    "shared-key",
    "shared_key",
    "service-key",
    "service_key",
    "bearer",
    "passphrase",
    "jwt",
    "password",
    "passwd",
    "signature",
    "credential",
    "authorization",
    "cookie",
    "session",
];
const TELLING_ALONE: &[&str] = &["sig", "sign", "key", "pwd", "auth"];

/// What is kept of an answer's headers, beside those of limits.
const ANSWER_HEADERS: &[&str] = &[
    "content-type",
    "content-encoding",
    "content-length",
    "content-disposition",
    "date",
    "age",
    "last-modified",
    "etag",
    "x-request-id",
    "request-id",
    "retry-after",
];
const OF_LIMITS: &[&str] = &["ratelimit", "x-ratelimit", "x-rate-limit"];

/// What no header of HTTP may hold as it is.
const ABOUT: &AsciiSet = &CONTROLS.add(b'%');

/// What was asked, before it was signed, and when.
#[derive(Debug, Default)]
pub(super) struct Asked {
    request: RefCell<Option<Unsigned>>,
    sent: Rc<Cell<Option<At>>>,
    answered: Cell<Option<At>>,
}

#[derive(Debug)]
struct Unsigned {
    method: http::Method,
    url: Url,
    headers: HeaderMap,
    body: Option<Bytes>,
}

impl Asked {
    /// This is asked. Before the request is signed.
    pub(super) fn is(&self, request: &Request) {
        let Request { method, url, headers, body } = request;
        self.request.replace(Some(Unsigned {
            method: method.clone(),
            url: url.clone(),
            headers: headers.clone(),
            body: body.clone(),
        }));
    }

    /// Hears of the writing too.
    pub(super) fn hears(&self, then: OnWritten) -> OnWritten {
        let sent = Rc::clone(&self.sent);
        Rc::new(move |written| {
            sent.set(match written {
                Written::At(at) => Some(at),
                Written::Unknown => None,
            });
            then(written);
        })
    }

    /// The answer's head has come.
    pub(super) fn answered(&self, at: At) {
        self.answered.set(Some(at));
    }
}

impl Attempt<'_> {
    /// Where what this call brought comes from.
    pub(super) fn provenance(&self, status: u16, headers: &HeaderMap) -> Provenance {
        let clock = &self.shard.clock;
        let redactor = self.redactor();
        let asked = self.call.request.borrow();
        let body = asked.as_ref().and_then(|asked| asked.body.as_ref());
        let call = Call {
            page: self.read.as_ref().map_or(1, |read| read.page()),
            attempt: self.calls,
            permitted_at: clock.wall_at(self.permit.decided_at()),
            sent_at: self.call.sent.get().map(|at| clock.wall_at(at)),
            answered_at: self.call.answered.get().map(|at| clock.wall_at(at)),
            method: asked.as_ref().map_or_else(String::new, |asked| asked.method.to_string()),
            url: asked.as_ref().map_or_else(String::new, |asked| shown(&asked.url, &redactor)),
            request_headers: asked
                .as_ref()
                .map_or_else(BTreeMap::new, |asked| kept(&asked.headers, &redactor, |_| true)),
            request_body_bytes: body.map(|body| body.len() as u64),
            request_body_sha256: body.map(|body| format!("{:x}", Sha256::digest(body))),
            status,
            answer_headers: kept(headers, &redactor, is_of_answer),
        };
        Provenance { call: Some(call), ..provenance(self.shard, self.item) }
    }

    /// The object that is about to become visible with the line that tells of it, if lines are kept.
    pub(super) fn telling(
        &self,
        sealed: Sealed,
        member: Option<&String>,
        from: &Provenance,
    ) -> Sealed {
        if !self.shard.store.has_lines() {
            return sealed;
        }
        let (item, wall) = (self.item, self.shard.clock.wall());
        let params = &item.fetch.params;
        let is_short = serde_json::to_vec(params).is_ok_and(|text| text.len() <= PARAMS_KEPT);
        let line = ObjectLine {
            version: 1,
            stored_at: wall,
            object: Object { member: member.cloned(), ..object(sealed.stored()) },
            platform: item.lane.account.platform.to_string(),
            account: item.lane.account.account.to_string(),
            api: item.lane.api.to_string(),
            id: item.id.clone(),
            seq: item.origin.0,
            queue: self.shard.queue.name().to_string(),
            params: if is_short { untelling(params) } else { Map::new() },
            provenance: from.clone(),
        };
        sealed.telling(text_of(line), wall)
    }

    /// What is kept with an object, where the store has a place for it.
    pub(super) fn about(&self, from: &Provenance) -> Attributes {
        let mut about = Attributes::new();
        let store = &self.shard.store;
        if !store.has_about() {
            return about;
        }
        let item = self.item;
        let mut add = |name: &str, value: &str| {
            if let Some(name) = store.about_name(name)
                && !value.is_empty()
            {
                about.insert(Attribute::Metadata(name.into()), ascii(value).into());
            }
        };
        add("platform", item.lane.account.platform.as_str());
        add("account", item.lane.account.account.as_str());
        add("api", item.lane.api.as_str());
        add("fetch", &item.id);
        add("seq", &item.origin.0.to_string());
        add("queued-at", &item.queued_at.to_string());
        add("node", &from.node);
        add("config", &from.config);
        add("recipe", &from.recipe);
        if let Some(call) = &from.call {
            add("page", &call.page.to_string());
            add("status", &call.status.to_string());
            add("permitted-at", &call.permitted_at.to_string());
            add("sent-at", &call.sent_at.map_or_else(String::new, |at| at.to_string()));
        }
        about
    }
}

/// The same of an object without a call of now.
pub(super) fn provenance(shard: &Context, item: &Item) -> Provenance {
    let plan = shard.plan();
    let lane = &item.lane;
    let recipe = plan.recipes.get(lane.account.platform.as_str());
    let recipe = recipe.and_then(|apis| apis.get(lane.api.as_str()));
    Provenance {
        node: plan.node_name.clone(),
        tollgate: env!("CARGO_PKG_VERSION").to_owned(),
        config: plan.how.calls.clone(),
        recipe: recipe.cloned().unwrap_or_default(),
        queued_at: Some(item.queued_at),
        call: None,
    }
}

/// A stored body as manifests name it.
pub(super) fn object(stored: &Stored) -> Object {
    Object {
        key: stored.key.to_string(),
        bytes: stored.bytes,
        sha256: stored.sha256.clone(),
        stored_bytes: stored.stored_bytes,
        stored_sha256: Some(stored.stored_sha256.clone()),
        member: None,
    }
}

/// A line with its end. One that is too long, of texts that JSON writes six times as long, loses what may be long.
fn text_of(mut line: ObjectLine) -> Vec<u8> {
    let text = |line: &ObjectLine| {
        let mut text = serde_json::to_vec(line).expect("its values are plain JSON");
        text.push(b'\n');
        text
    };
    let whole = text(&line);
    if whole.len() <= LINE_BYTES_MAX {
        return whole;
    }
    line.params.clear();
    line.object.member = line.object.member.map(|name| crate::ids::preview(&name));
    if let Some(call) = &mut line.provenance.call {
        call.request_headers.clear();
        call.answer_headers.clear();
    }
    text(&line)
}

/// A URL as it may be shown. A secret may stand in it in any form, and that percent-encoded.
fn shown(url: &Url, redactor: &Redactor) -> String {
    let mut url = url.clone();
    // Those of a URL that cannot have any.
    let _none = url.set_username("").and_then(|()| url.set_password(None)).is_ok();
    url.set_fragment(None);
    let holds_one = |plain: &str| matches!(redactor.clean(plain), Cow::Owned(_));
    let query = url.query().map(|query| {
        let pairs = query.split('&').map(|pair| {
            let name = pair.split_once('=').map_or(pair, |(name, _)| name);
            let Some((plain, value)) = form_urlencoded::parse(pair.as_bytes()).next() else {
                return pair.to_owned();
            };
            if holds_one(&plain) {
                REDACTED.to_owned()
            } else if is_telling(&plain) || holds_one(&value) {
                format!("{name}={REDACTED}")
            } else {
                pair.to_owned()
            }
        });
        pairs.collect::<Vec<_>>().join("&")
    });
    let path = url.path().split('/').map(|part| {
        let plain = percent_decode_str(part).decode_utf8_lossy();
        if holds_one(&plain) { REDACTED } else { part }
    });
    let path = path.collect::<Vec<_>>().join("/");
    let start = &url[..url::Position::BeforePath];
    let text = match query {
        Some(query) => format!("{start}{path}?{query}"),
        None => format!("{start}{path}"),
    };
    cut(&redactor.clean(&text), URL_KEPT)
}

/// Parameters without the values of those that are called like secrets, however deep.
fn untelling(params: &Map<String, Value>) -> Map<String, Value> {
    fn clean(value: &Value) -> Value {
        match value {
            Value::Object(fields) => Value::Object(untelling(fields)),
            Value::Array(values) => values.iter().map(clean).collect(),
            other => other.clone(),
        }
    }
    let kept = params.iter().map(|(name, value)| {
        let value = if is_telling(name) { Value::from(REDACTED) } else { clean(value) };
        (name.clone(), value)
    });
    kept.collect()
}

fn is_telling(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    TELLING_ALONE.contains(&&*name) || TELLING.iter().any(|part| name.contains(part))
}

fn is_of_answer(name: &HeaderName) -> bool {
    let name = name.as_str();
    ANSWER_HEADERS.contains(&name) || OF_LIMITS.iter().any(|start| name.starts_with(start))
}

/// Headers as they may be kept.
fn kept(
    headers: &HeaderMap,
    redactor: &Redactor,
    wanted: impl Fn(&HeaderName) -> bool,
) -> BTreeMap<String, String> {
    let mut kept = BTreeMap::new();
    for (name, value) in headers.iter().filter(|(name, _)| wanted(name)).take(HEADERS_KEPT) {
        let value = if value.is_sensitive() || is_telling(name.as_str()) {
            REDACTED.to_owned()
        } else {
            cut(&redactor.clean(&String::from_utf8_lossy(value.as_bytes())), VALUE_KEPT)
        };
        kept.entry(name.as_str().to_owned()).or_insert(value);
    }
    kept
}

/// The beginning of a text, with a sign where it was cut.
fn cut(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let end = (0..=most - '…'.len_utf8()).rev().find(|at| text.is_char_boundary(*at));
    format!("{}…", text.get(..end.unwrap_or(0)).unwrap_or_default())
}

/// A text as a header can carry it, at most so much of it.
fn ascii(text: &str) -> String {
    let mut sent = String::new();
    for part in utf8_percent_encode(text, ABOUT) {
        if sent.len() + part.len() > ABOUT_KEPT {
            break;
        }
        sent.push_str(part);
    }
    sent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_kept_without_what_looks_like_a_secret() {
        let of = |url: &str| shown(&url.parse().unwrap(), &Redactor::default());
        assert_eq!(of("https://u:p@h/a?x=1#f"), "https://h/a?x=1");
        assert_eq!(
            of("https://h/a?X-Amz-Signature=abc&day=2&access%5Ftoken=q&sig=1&keywords=k"),
            "https://h/a?X-Amz-Signature=[redacted]&day=2&access%5Ftoken=[redacted]&sig=[redacted]&keywords=k"
        );
        let long = of(&format!("https://h/a?x={}", "é".repeat(5000)));
        assert!(long.len() <= URL_KEPT && long.ends_with('…'), "{}", long.len());
    }

    #[test]
    fn a_url_is_kept_without_secrets_however_they_are_written() {
        let redactor = Redactor::new(&["s3c/r3t-Zx83".to_owned()], &["me:s3cr3t-Zx83".to_owned()]);
        let of = |url: &str| shown(&url.parse().unwrap(), &redactor);
        assert_eq!(
            of("https://h/a?page=2.bWU6czNjcjN0LVp4ODM%3D&n=1"),
            "https://h/a?page=[redacted]&n=1"
        );
        assert_eq!(of("https://h/a/s3c%2Fr3t%2DZx83/b"), "https://h/a/[redacted]/b");
        assert_eq!(
            of("https://h/a?s3c%2fr3t-Zx83=1&%73ign=2"),
            "https://h/a?[redacted]&%73ign=[redacted]"
        );
        assert_eq!(of("https://h/a%20b?x=%41"), "https://h/a%20b?x=%41");
    }

    #[test]
    fn parameters_are_kept_without_what_is_called_like_a_secret() {
        let params = serde_json::json!({
            "date": "2026-11-20", "access_token": "a", "sign": "b", "design": "c",
            "more": [{ "Access_Key": { "x": 1 }, "level": "ad" }],
        });
        let Value::Object(params) = params else { unreachable!() };
        let kept = Value::Object(untelling(&params));
        let wanted = serde_json::json!({
            "date": "2026-11-20", "access_token": REDACTED, "sign": REDACTED, "design": "c",
            "more": [{ "Access_Key": REDACTED, "level": "ad" }],
        });
        assert_eq!(kept, wanted);
    }

    #[test]
    fn headers_are_kept_without_secrets_and_within_bounds() {
        let mut headers = HeaderMap::new();
        for n in 0..100 {
            let name: HeaderName = format!("x-ratelimit-{n:03}").parse().unwrap();
            headers.insert(name, "9".repeat(1000).parse().unwrap());
        }
        let all = kept(&headers, &Redactor::default(), |_| true);
        assert_eq!(all.len(), HEADERS_KEPT);
        assert!(all.values().all(|value| value.len() <= VALUE_KEPT));
        let mut headers = HeaderMap::new();
        let mut secret: http::HeaderValue = "s3cret".parse().unwrap();
        secret.set_sensitive(true);
        headers.insert("x-mine", secret);
        headers.insert("set-cookie", "a=b".parse().unwrap());
        headers.insert("ocp-apim-subscription-key", "1234".parse().unwrap());
        headers.insert("idempotency-key", "5678".parse().unwrap());
        headers.insert("etag", "\"1\"".parse().unwrap());
        let all = kept(&headers, &Redactor::default(), |_| true);
        assert_eq!((&*all["x-mine"], &*all["set-cookie"]), (REDACTED, REDACTED));
        let keys = (&*all["ocp-apim-subscription-key"], &*all["idempotency-key"]);
        assert_eq!(keys, (REDACTED, "5678"));
        let answer = kept(&headers, &Redactor::default(), is_of_answer);
        assert_eq!(answer.into_iter().collect::<Vec<_>>(), [("etag".into(), "\"1\"".into())]);
    }

    #[test]
    fn a_text_in_metadata_is_ascii_and_short() {
        assert_eq!(ascii("act_1"), "act_1");
        assert_eq!(ascii("한%\n"), "%ED%95%9C%25%0A");
        let long = ascii(&"한".repeat(100));
        assert!(
            long.len() <= ABOUT_KEPT && long.is_ascii() && long.len().is_multiple_of(3),
            "{long}"
        );
    }
}
