//! The keys of `[store]` that a bucket of S3 has.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use secrecy::SecretString;

use super::bucket::set;
use super::secret::secret;
use super::section::Section;
use crate::codes::Code;
use crate::ids::preview;
use crate::plan::{Provider, S3Credentials};

/// What a signature names where neither the configuration nor the environment says a region. Compatible
/// stores take any or this one.
const REGION: &str = "us-east-1";
/// Longest region in bytes.
const REGION_BYTES_MAX: usize = 64;

pub(super) const KEYS: &[&str] =
    &["region", "path_style", "access_key_id", "secret_access_key", "session_token"];
pub(super) const KEYS_HINT: &str =
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

/// Where a file of keys is, if not in the home.
const SHARED: &str = "AWS_SHARED_CREDENTIALS_FILE";
const UNREAD_HINT: &str = "access_key_id = \"env:NAME\" and secret_access_key = \"env:NAME\", or the variables that `aws configure \
                           export-credentials --format env` prints; for the keys of this machine unset AWS_PROFILE and set \
                           AWS_SHARED_CREDENTIALS_FILE=/dev/null";

/// `elsewhere`: at an endpoint; `dotted`: with a dot in its name.
pub(super) fn provider(
    section: &mut Section<'_>,
    env: &BTreeMap<String, String>,
    elsewhere: bool,
    dotted: bool,
) -> Option<Provider> {
    let path_style = section.flag("path_style");
    let region = region(section, env, elsewhere);
    let credentials = credentials(section, env);
    // A certificate of Amazon's covers one label before its own name, so a bucket with a dot has none.
    let path_style = path_style.unwrap_or(elsewhere || dotted);
    Some(Provider::S3 { region: region?, path_style, credentials: credentials? })
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
            let found: Vec<_> = AMBIENT.iter().filter_map(of).collect();
            if let (true, Some(unread)) = (found.is_empty(), unread(env)) {
                let message = format!(
                    "{unread}, and Tollgate does not read the shared files of Amazon's tools; the keys of this \
                     machine would be used instead"
                );
                section.mistake(Code::NotSupported, "access_key_id", message, UNREAD_HINT);
                return None;
            }
            Some(S3Credentials::Ambient(found))
        }
        (id, _) => {
            let missing = if id.is_some() { "AWS_SECRET_ACCESS_KEY" } else { "AWS_ACCESS_KEY_ID" };
            let message = format!("the environment has no variable `{missing}`, but its companion");
            section.mistake(Code::SecretNotFound, "access_key_id", message, KEYS_HINT);
            None
        }
    }
}

/// What says that the keys stand where they are not read
/// (<https://docs.aws.amazon.com/sdkref/latest/guide/file-location.html>). A file of settings may say no more than a
/// region, and is no sign.
fn unread(env: &BTreeMap<String, String>) -> Option<String> {
    if let Some(profile) = set(env, "AWS_PROFILE") {
        return Some(format!("AWS_PROFILE names the profile `{}`", preview(&profile)));
    }
    let file = set(env, SHARED).map(PathBuf::from);
    let file = file.or_else(|| Some(Path::new(&set(env, "HOME")?).join(".aws/credentials")))?;
    file.is_file().then(|| format!("there are keys in `{}`", file.display()))
}
