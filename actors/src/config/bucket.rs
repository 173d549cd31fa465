//! The keys of `[store]` that a bucket has: where it is and who asks.

use std::collections::BTreeMap;

use object_store::path::Path;
use url::Url;

use super::section::Section;
use super::{azure, google, s3};
use crate::codes::Code;
use crate::ids::preview;
use crate::plan::BucketPlan;

/// Longest prefix in bytes: a key has 1,024 in all
/// (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html>).
const PREFIX_BYTES_MAX: usize = 256;

/// Operations at once on a bucket. At 50 ms each the default is 5,000 puts in a second, more than S3 promises
/// below one prefix (3,500), and more than Google (1,000 at first) and Azure's accounts (20,000) take for long.
const CONCURRENCY: usize = 256;
const CONCURRENCY_MAX: u64 = 4096;

/// Whose language a bucket speaks, by the scheme of its URL.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Kind {
    S3,
    Google,
    Azure,
}

const KINDS: [(&str, Kind); 3] = [("s3", Kind::S3), ("gs", Kind::Google), ("az", Kind::Azure)];

/// What each kind has beside the keys of all.
const ALL: &[&str] = &["endpoint", "allow_http", "concurrency"];
const OWN: [(Kind, &[&str]); 3] =
    [(Kind::S3, s3::KEYS), (Kind::Google, google::KEYS), (Kind::Azure, azure::KEYS)];

impl Kind {
    pub(super) fn of(scheme: &str) -> Option<Self> {
        KINDS.iter().find(|(name, _)| *name == scheme).map(|(_, kind)| *kind)
    }

    fn url_hint(self) -> &'static str {
        match self {
            Self::S3 => "such as \"s3://bucket/prefix\"",
            Self::Google => "such as \"gs://bucket/prefix\"",
            Self::Azure => "such as \"az://container/prefix\"",
        }
    }

    fn keys_hint(self) -> &'static str {
        match self {
            Self::S3 => s3::KEYS_HINT,
            Self::Google => google::KEYS_HINT,
            Self::Azure => azure::KEYS_HINT,
        }
    }
}

/// `rest` is what follows the scheme and its colon.
pub(super) fn bucket(
    section: &mut Section<'_>,
    kind: Kind,
    rest: &str,
    env: &BTreeMap<String, String>,
) -> Option<BucketPlan> {
    let named = name_and_prefix(section, kind, rest);
    let endpoint = endpoint(section, kind);
    let concurrency = section.whole_in("concurrency", 1..=CONCURRENCY_MAX);
    let elsewhere = endpoint != Endpoint::Own;
    let dotted = named.as_ref().is_some_and(|(bucket, _)| bucket.contains('.'));
    let provider = match kind {
        Kind::S3 => s3::provider(section, env, elsewhere, dotted),
        Kind::Google => google::provider(section, env),
        Kind::Azure => azure::provider(section, env),
    };
    for (other, keys) in OWN {
        if other != kind {
            refuse(section, keys, "another kind of bucket has, and objects go into none of that");
        }
    }
    let endpoint = match endpoint {
        Endpoint::Own => None,
        Endpoint::At(url) => Some(url),
        Endpoint::Bad => return None,
    };
    let (bucket, prefix) = named?;
    let concurrency = concurrency.map_or(CONCURRENCY, |operations| operations as usize);
    Some(BucketPlan { bucket, prefix, endpoint, concurrency, provider: provider? })
}

/// Refuses what only a bucket has in the section of another store.
pub(super) fn no_bucket(section: &mut Section<'_>) {
    for keys in std::iter::once(ALL).chain(OWN.map(|(_, keys)| keys)) {
        refuse(section, keys, "a bucket has, and objects go into none");
    }
}

fn refuse(section: &mut Section<'_>, keys: &[&'static str], why: &str) {
    for key in keys {
        if section.take(key).is_some() {
            let message = format!("`{key}` says what {why}");
            let hint = match OWN.iter().find(|(_, own)| own.contains(key)) {
                Some((kind, _)) => kind.url_hint(),
                None => Kind::S3.url_hint(),
            };
            let hint = format!("leave it out, or url = …, {hint}");
            section.mistake(Code::BadValue, key, message, hint);
        }
    }
}

fn name_and_prefix(section: &Section<'_>, kind: Kind, rest: &str) -> Option<(String, String)> {
    let Some(rest) = rest.strip_prefix("//") else {
        let what = if kind == Kind::Azure { "container" } else { "bucket" };
        let message = format!("the URL names no {what}");
        section.mistake(Code::BadUrl, "url", message, kind.url_hint());
        return None;
    };
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.contains('@') {
        let message = "the URL holds a user or password; its value is not shown";
        section.mistake(Code::InlineSecret, "url", message, kind.keys_hint());
        return None;
    }
    if !is_name(kind, bucket) {
        let (what, hint) = match kind {
            Kind::S3 => {
                ("bucket", "3 to 63 of a-z, 0-9, `-` and `.`, with a letter or digit at both ends")
            }
            Kind::Google => (
                "bucket",
                "3 to 63 of a-z, 0-9, `-`, `_` and `.` (with dots up to 222), with a letter or digit at both ends",
            ),
            Kind::Azure => (
                "container",
                "3 to 63 of a-z, 0-9 and single `-`, with a letter or digit at both ends",
            ),
        };
        let message = format!("`{}` is not the name of a {what}", preview(bucket));
        section.mistake(Code::BadUrl, "url", message, hint);
        return None;
    }
    let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
    let plain = |c: char| !c.is_control() && !"#?{}\\%".contains(c);
    if prefix.len() > PREFIX_BYTES_MAX || !prefix.chars().all(plain) || Path::parse(prefix).is_err()
    {
        let message = format!("`{}` cannot be what keys begin with", preview(prefix));
        let hint = "up to 256 bytes, no empty part, none of `#?{}\\%`; names such as {platform} go into store.key";
        section.mistake(Code::BadUrl, "url", message, hint);
        return None;
    }
    Some((bucket.to_owned(), prefix.to_owned()))
}

/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html>,
/// <https://cloud.google.com/storage/docs/buckets#naming>,
/// <https://learn.microsoft.com/en-us/rest/api/storageservices/naming-and-referencing-containers--blobs--and-metadata>
fn is_name(kind: Kind, name: &str) -> bool {
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let signs: &[u8] = match kind {
        Kind::S3 => b"-.",
        Kind::Google => b"-_.",
        Kind::Azure => b"-",
    };
    let most = if kind == Kind::Google && name.contains('.') { 222 } else { 63 };
    let bytes = name.as_bytes();
    let outer = |b: Option<&u8>| b.is_some_and(|b| letter(*b));
    (3..=most).contains(&bytes.len())
        && bytes.iter().all(|b| letter(*b) || signs.contains(b))
        && outer(bytes.first())
        && outer(bytes.last())
        && !name.contains("..")
        && !(kind == Kind::Azure && name.contains("--"))
        && !(kind == Kind::Google && name.split('.').any(|part| part.len() > 63))
}

/// A variable that is not empty.
pub(super) fn set(env: &BTreeMap<String, String>, name: &str) -> Option<String> {
    env.get(name).filter(|value| !value.is_empty()).cloned()
}

#[derive(PartialEq)]
enum Endpoint {
    Own,
    At(Url),
    Bad,
}

fn endpoint(section: &mut Section<'_>, kind: Kind) -> Endpoint {
    let given = section.has("endpoint");
    let text = section.text("endpoint");
    let allow_http = section.flag("allow_http").unwrap_or(false);
    let Some(text) = text else {
        if !given && allow_http {
            let message = "there is no endpoint: the provider's own is asked by https";
            section.mistake(
                Code::BadValue,
                "allow_http",
                message,
                "leave it out, or name an endpoint",
            );
            return Endpoint::Bad;
        }
        return if given { Endpoint::Bad } else { Endpoint::Own };
    };
    let hint = match kind {
        Kind::S3 => "such as \"https://minio.example.com:9000\"",
        Kind::Google => "such as \"https://storage.example.com\"",
        Kind::Azure => "such as \"http://127.0.0.1:10000/devstoreaccount1\"",
    };
    let url = match Url::parse(&text) {
        Ok(url) if url.password().is_some() || !url.username().is_empty() => {
            let message = "the URL holds a user or password; its value is not shown";
            section.mistake(Code::InlineSecret, "endpoint", message, kind.keys_hint());
            return Endpoint::Bad;
        }
        Ok(url)
            if ["http", "https"].contains(&url.scheme())
                && url.has_host()
                && url.query().is_none()
                && url.fragment().is_none() =>
        {
            url
        }
        _ => {
            let message = format!("`{}` is not where a store is", preview(&text));
            section.mistake(Code::BadUrl, "endpoint", message, hint);
            return Endpoint::Bad;
        }
    };
    if url.scheme() == "http" && !allow_http {
        let message = "objects would travel without TLS, for everybody on the way to read";
        let hint = "an https:// endpoint, or allow_http = true where the network is trusted";
        section.mistake(Code::BadValue, "endpoint", message, hint);
        return Endpoint::Bad;
    }
    Endpoint::At(url)
}
