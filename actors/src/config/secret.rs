//! Secrets come from the environment or a file, never from the configuration itself.

use std::collections::BTreeMap;
use std::io::Read;

use http::HeaderValue;
use secrecy::SecretString;

use super::BAD;
use super::pairs::header_name;
use super::section::Section;
use crate::codes::Code;
use crate::ids::preview;
use crate::plan::Auth;
use crate::recipe::Template;

/// Longest secret in bytes.
const SECRET_BYTES_MAX: u64 = 64 * 1024;
/// A text this long under a telling name is taken for a secret.
const LITERAL_BYTES_MIN: usize = 8;
/// What the names of secrets contain.
const TELLING: &[&str] = &[
    "authorization",
    "token",
    "secret",
    "api-key",
    "apikey",
    "api_key",
    "password",
    "cookie",
    "signature",
];

/// The table `auth` of a platform.
pub(super) fn auth(section: &mut Section<'_>, env: &BTreeMap<String, String>) -> Option<Auth> {
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

/// Looks up a secret written as `env:NAME` or `file:PATH`.
pub(super) fn secret(
    section: &mut Section<'_>,
    name: &'static str,
    env: &BTreeMap<String, String>,
) -> Option<SecretString> {
    let text = section.text(name)?;
    let found = if let Some(variable) = text.strip_prefix("env:") {
        match env.get(variable) {
            Some(value) => Ok(value.clone()),
            None => Err(format!("the environment has no variable `{}`", preview(variable))),
        }
    } else if let Some(path) = text.strip_prefix("file:") {
        read_secret(path).map_err(|error| format!("the file `{path}` cannot be read: {error}"))
    } else {
        section.mistake(
            Code::InlineSecret,
            name,
            "a secret may not be written here; its value is not shown",
            "put it into an environment variable or a file: \"env:NAME\" or \"file:PATH\"",
        );
        return None;
    };
    let problem = match found {
        Ok(value) if value.is_empty() => "the secret is empty".to_owned(),
        Ok(value) if HeaderValue::from_str(&value).is_err() => {
            "the secret holds a line break or a character that a header cannot carry".to_owned()
        }
        Ok(value) => return Some(SecretString::from(value)),
        Err(problem) => problem,
    };
    section.mistake(Code::SecretNotFound, name, problem, "");
    None
}

/// The file's text without one line break at its end.
fn read_secret(path: &str) -> Result<String, String> {
    let fail = |error: std::io::Error| error.to_string();
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(fail)?;
    file.take(SECRET_BYTES_MAX + 1).read_to_string(&mut text).map_err(fail)?;
    if text.len() as u64 > SECRET_BYTES_MAX {
        return Err(format!("it is larger than {SECRET_BYTES_MAX} bytes"));
    }
    let end = text.strip_suffix('\n').unwrap_or(&text);
    Ok(end.strip_suffix('\r').unwrap_or(end).to_owned())
}

/// Refuses what looks like a secret in a header or a query, and references to secrets that would be sent
/// as they stand.
pub(super) fn check_literal(section: &Section<'_>, name: &str, template: &Template) -> bool {
    let text = template.text();
    if text.starts_with("env:") || text.starts_with("file:") {
        let hint =
            "one secret header is sent by auth = { header = \"NAME\", value = \"env:NAME\" }";
        section.mistake(Code::NotSupported, name, "secrets are not supported here yet", hint);
        return false;
    }
    let lower = name.to_ascii_lowercase();
    let telling = TELLING.iter().any(|word| lower.contains(word));
    if telling && template.names().is_empty() && text.len() >= LITERAL_BYTES_MIN {
        section.mistake(
            Code::InlineSecret,
            name,
            "this looks like a secret, which may not be written here; its value is not shown",
            "use auth = { bearer = \"env:NAME\" } or { header = \"NAME\", value = \"env:NAME\" }",
        );
        return false;
    }
    true
}
