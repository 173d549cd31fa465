//! The keys of `[store]` that a bucket has: where it is and who asks.

use std::collections::BTreeMap;

use object_store::path::Path;
use secrecy::SecretString;
use url::Url;

use super::secret::secret;
use super::section::Section;
use crate::codes::Code;
use crate::ids::preview;
use crate::plan::{S3Credentials, S3Plan};

/// What a signature names where neither the configuration nor the environment says a region. Compatible
/// stores take any or this one.
const REGION: &str = "us-east-1";
/// Longest prefix in bytes: a key has 1,024 in all
/// (<https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-keys.html>).
const PREFIX_BYTES_MAX: usize = 256;
/// Longest region in bytes.
const REGION_BYTES_MAX: usize = 64;

const URL_HINT: &str = "such as \"s3://bucket/prefix\"";
const KEYS_HINT: &str =
    "both or none: access_key_id = \"env:NAME\", secret_access_key = \"env:NAME\"";

/// Variables of the environment that say where temporary keys come from
/// (<https://docs.aws.amazon.com/sdkref/latest/guide/settings-reference.html#EVarSettings>).
const AMBIENT: &[&str] = &[
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_ENDPOINT_URL_STS",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
];

/// Operations at once on a bucket. At 50 ms each the default is 5,000 puts in a second, more than S3 promises
/// below one prefix (3,500).
const S3_CONCURRENCY: usize = 256;
const S3_CONCURRENCY_MAX: u64 = 4096;

/// `rest` is what follows `s3:`.
pub(super) fn bucket(
    section: &mut Section<'_>,
    rest: &str,
    env: &BTreeMap<String, String>,
) -> Option<S3Plan> {
    let named = name_and_prefix(section, rest);
    let endpoint = endpoint(section);
    let path_style = section.flag("path_style");
    let concurrency = section.whole_in("concurrency", 1..=S3_CONCURRENCY_MAX);
    let region = region(section, env, endpoint != Endpoint::Amazon);
    let credentials = credentials(section, env);
    let endpoint = match endpoint {
        Endpoint::Amazon => None,
        Endpoint::At(url) => Some(url),
        Endpoint::Bad => return None,
    };
    let (bucket, prefix) = named?;
    // A certificate of Amazon's covers one label before its own name, so a bucket with a dot has none.
    let path_style = path_style.unwrap_or(endpoint.is_some() || bucket.contains('.'));
    Some(S3Plan {
        bucket,
        prefix,
        region: region?,
        endpoint,
        path_style,
        concurrency: concurrency.map_or(S3_CONCURRENCY, |operations| operations as usize),
        credentials: credentials?,
    })
}

/// Refuses what only a bucket has in the section of another store.
pub(super) fn no_bucket(section: &mut Section<'_>) {
    const KEYS: &[&str] = &[
        "region",
        "endpoint",
        "allow_http",
        "path_style",
        "concurrency",
        "access_key_id",
        "secret_access_key",
        "session_token",
    ];
    for key in KEYS {
        if section.take(key).is_some() {
            let message = format!("`{key}` says something of a bucket, and objects go into none");
            section.mistake(
                Code::BadValue,
                key,
                message,
                "url = \"s3://bucket/prefix\", or leave it out",
            );
        }
    }
}

fn name_and_prefix(section: &Section<'_>, rest: &str) -> Option<(String, String)> {
    let Some(rest) = rest.strip_prefix("//") else {
        section.mistake(Code::BadUrl, "url", "the URL names no bucket", URL_HINT);
        return None;
    };
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.contains('@') {
        let message = "the URL holds a user or password; its value is not shown";
        section.mistake(Code::InlineSecret, "url", message, KEYS_HINT);
        return None;
    }
    // https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    let outer = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = bucket.as_bytes();
    let good = (3..=63).contains(&bytes.len())
        && bytes.iter().all(|b| inner(*b))
        && outer(bytes.first())
        && outer(bytes.last())
        && !bucket.contains("..");
    if !good {
        let message = format!("`{}` is not the name of a bucket", preview(bucket));
        let hint = "3 to 63 of a-z, 0-9, `-` and `.`, with a letter or digit at both ends";
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

#[derive(PartialEq)]
enum Endpoint {
    Amazon,
    At(Url),
    Bad,
}

fn endpoint(section: &mut Section<'_>) -> Endpoint {
    let given = section.has("endpoint");
    let text = section.text("endpoint");
    let allow_http = section.flag("allow_http").unwrap_or(false);
    let Some(text) = text else {
        return if given { Endpoint::Bad } else { Endpoint::Amazon };
    };
    let hint = "such as \"https://minio.example.com:9000\"";
    let url = match Url::parse(&text) {
        Ok(url) if url.password().is_some() || !url.username().is_empty() => {
            let message = "the URL holds a user or password; its value is not shown";
            section.mistake(Code::InlineSecret, "endpoint", message, KEYS_HINT);
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

fn region(
    section: &mut Section<'_>,
    env: &BTreeMap<String, String>,
    elsewhere: bool,
) -> Option<String> {
    let given = if section.has("region") {
        section.text("region")?
    } else if let Some(region) =
        ["AWS_REGION", "AWS_DEFAULT_REGION"].iter().find_map(|n| set(env, n))
    {
        region
    } else if elsewhere {
        REGION.to_owned()
    } else {
        let hint = "the region of the bucket, such as region = \"ap-northeast-2\", or AWS_REGION";
        section.required("region", hint)?
    };
    // It becomes part of a host's name.
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    if given.is_empty() || given.len() > REGION_BYTES_MAX || !given.bytes().all(plain) {
        let message = format!("`{}` is not a region", preview(&given));
        section.mistake(Code::BadValue, "region", message, "such as \"ap-northeast-2\"");
        return None;
    }
    Some(given)
}

/// The configuration's references, or else the environment as Amazon's own tools read it.
fn credentials(section: &mut Section<'_>, env: &BTreeMap<String, String>) -> Option<S3Credentials> {
    let (has_id, has_secret, has_token) = (
        section.has("access_key_id"),
        section.has("secret_access_key"),
        section.has("session_token"),
    );
    let id = secret(section, "access_key_id", env);
    let key = secret(section, "secret_access_key", env);
    let token = secret(section, "session_token", env);
    if has_id || has_secret || has_token {
        let companions = [(has_id, &key, "access_key_id"), (has_secret, &id, "secret_access_key")];
        for (has, companion, name) in companions {
            // One mistake at a time: the other may have its own.
            if !has && (companion.is_some() || !(has_id || has_secret)) {
                section.mistake(Code::MissingKey, name, format!("`{name}` is missing"), KEYS_HINT);
            }
        }
        if has_token && token.is_none() {
            return None;
        }
        return Some(S3Credentials::Keys { id: id?, secret: key?, token });
    }
    match (set(env, "AWS_ACCESS_KEY_ID"), set(env, "AWS_SECRET_ACCESS_KEY")) {
        (Some(id), Some(key)) => Some(S3Credentials::Keys {
            id: SecretString::from(id),
            secret: SecretString::from(key),
            token: set(env, "AWS_SESSION_TOKEN").map(SecretString::from),
        }),
        (None, None) => {
            let of = |name: &&str| Some(((*name).to_owned(), set(env, name)?));
            Some(S3Credentials::Ambient(AMBIENT.iter().filter_map(of).collect()))
        }
        (id, _) => {
            let missing = if id.is_some() { "AWS_SECRET_ACCESS_KEY" } else { "AWS_ACCESS_KEY_ID" };
            let message = format!("the environment has no variable `{missing}`, but its companion");
            section.mistake(Code::SecretNotFound, "access_key_id", message, KEYS_HINT);
            None
        }
    }
}

/// A variable that is not empty.
fn set(env: &BTreeMap<String, String>, name: &str) -> Option<String> {
    env.get(name).filter(|value| !value.is_empty()).cloned()
}
