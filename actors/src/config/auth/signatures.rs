//! Signatures: `hmac`, `oauth1`, and the signed statements of `jwt` and of OAuth 2.0's assertions.

use std::collections::BTreeMap;
use std::time::Duration;

use ::config::ValueKind;
use http::HeaderName;

use super::oauth2::LIFE_MAX;
use super::references::{check_known, reference, words};
use super::{BAD, need, string};
use crate::auth::jwt::{self, Algorithm, Claim, Jwt};
use crate::auth::secret::Fit;
use crate::auth::{Encoding, Hash, Hmac, Kind, NAMES, OAuth1, Words};
use crate::codes::Code;
use crate::config::pairs::{PAIRS_MAX, header_name};
use crate::config::section::{Section, kind_of, one_of};
use crate::recipe::Template;

const JWT_LIFE: Duration = Duration::from_secs(600);
const JWT_LIFE_MIN: Duration = Duration::from_secs(30);

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

pub(super) fn jwt(table: &mut Section<'_>, env: &BTreeMap<String, String>) -> Option<Jwt> {
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

pub(super) fn hmac(mut table: Section<'_>, env: &BTreeMap<String, String>) -> Option<Kind> {
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
            if let ValueKind::String(text) = &value.kind {
                pairs.extend(string(&own, &name, text, &names).map(|text| (name, text)));
            } else {
                let message = format!("{} where text belongs", kind_of(&value));
                own.mistake(Code::WrongType, &name, message, "");
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

pub(super) fn oauth1(mut table: Section<'_>, env: &BTreeMap<String, String>) -> Option<Kind> {
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
