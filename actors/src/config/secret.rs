//! Secrets come from the environment or a file, never from the configuration itself. Those that calls are signed
//! with are `auth`'s.

use std::collections::BTreeMap;
use std::path::Path;

use secrecy::SecretString;

use super::section::Section;
use crate::auth::secret::{Fit, check, read};
use crate::codes::Code;
use crate::ids::preview;
use crate::recipe::Template;

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

/// Looks up a secret written as `env:NAME` or `file:PATH`, of one line.
pub(super) fn secret(
    section: &mut Section<'_>,
    name: &'static str,
    env: &BTreeMap<String, String>,
) -> Option<SecretString> {
    look_up(section, name, env, Fit::Line)
}

/// The same, of any number of lines.
pub(super) fn secret_text(
    section: &mut Section<'_>,
    name: &'static str,
    env: &BTreeMap<String, String>,
) -> Option<SecretString> {
    look_up(section, name, env, Fit::Text)
}

fn look_up(
    section: &mut Section<'_>,
    name: &'static str,
    env: &BTreeMap<String, String>,
    fit: Fit,
) -> Option<SecretString> {
    let text = section.text(name)?;
    find(section, name, &text, env, fit)
}

/// The same of a key that was taken already, of one line.
pub(super) fn secret_of(
    section: &Section<'_>,
    name: &str,
    text: &str,
    env: &BTreeMap<String, String>,
) -> Option<SecretString> {
    find(section, name, text, env, Fit::Line)
}

fn find(
    section: &Section<'_>,
    name: &str,
    text: &str,
    env: &BTreeMap<String, String>,
    fit: Fit,
) -> Option<SecretString> {
    let found = if let Some(variable) = text.strip_prefix("env:") {
        match env.get(variable) {
            Some(value) => Ok(value.clone()),
            None => Err(format!("the environment has no variable `{}`", preview(variable))),
        }
    } else if let Some(path) = text.strip_prefix("file:") {
        read(Path::new(path)).map_err(|error| format!("the file `{path}` cannot be read: {error}"))
    } else {
        section.mistake(
            Code::InlineSecret,
            name,
            "a secret may not be written here; its value is not shown",
            "put it into an environment variable or a file: \"env:NAME\" or \"file:PATH\"",
        );
        return None;
    };
    let problem = match found.and_then(|text| check(&text, fit).map(|()| text)) {
        Ok(text) => return Some(SecretString::from(text)),
        Err(problem) => problem,
    };
    section.mistake(Code::SecretNotFound, name, problem, "");
    None
}

/// Refuses what looks like a secret in a header or a query, and references to secrets that would be sent
/// as they stand.
pub(super) fn check_literal(section: &Section<'_>, name: &str, template: &Template) -> bool {
    let text = template.text();
    if ["env:", "file:", "command:"].iter().any(|prefix| text.starts_with(prefix)) {
        let hint = "secret headers are sent by auth = { …, headers = { NAME = \"env:NAME\" } }";
        section.mistake(Code::NotSupported, name, "secrets are not supported here", hint);
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
