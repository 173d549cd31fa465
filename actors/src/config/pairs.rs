//! Tables of templates, such as headers.

use ::config::ValueKind;
use http::HeaderName;

use super::secret::check_literal;
use super::section::{Section, kind_of};
use crate::auth::Auth;
use crate::codes::Code;
use crate::ids::preview;
use crate::recipe::{Template, TemplateError, Variables};

/// Most headers, query pairs or parameters of an api.
pub(super) const PAIRS_MAX: usize = 64;

/// Headers that belong to the connection.
const CONNECTION_HEADERS: &[&str] = &[
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "proxy-connection",
    "expect",
];

/// A header that may be set.
pub(super) fn header_name(section: &Section<'_>, key: &str, text: &str) -> Option<HeaderName> {
    let Ok(name) = HeaderName::from_bytes(text.as_bytes()) else {
        section.mistake(
            Code::BadHeader,
            key,
            format!("`{}` is not the name of a header", preview(text)),
            "",
        );
        return None;
    };
    if CONNECTION_HEADERS.contains(&name.as_str()) {
        let message = format!("`{name}` belongs to the connection and is set by Tollgate");
        section.mistake(Code::BadHeader, key, message, "leave it out");
        return None;
    }
    Some(name)
}

/// The table `headers` of a section.
pub(super) fn headers(
    section: &mut Section<'_>,
    allowed: &Variables<'_>,
) -> Vec<(HeaderName, Template)> {
    let Some(mut table) = section.section("headers") else { return Vec::new() };
    let mut headers: Vec<(HeaderName, Template)> = Vec::new();
    for (key, template) in templates(&mut table, allowed) {
        let Some(name) = header_name(&table, &key, &key) else { continue };
        if headers.iter().any(|(known, _)| *known == name) {
            table.mistake(Code::BadHeader, &key, format!("`{name}` is there twice"), "");
            continue;
        }
        headers.push((name, template));
    }
    headers
}

/// A table whose values are templates, in the order of the file.
pub(super) fn templates(
    table: &mut Section<'_>,
    allowed: &Variables<'_>,
) -> Vec<(String, Template)> {
    let entries = table.entries();
    if entries.len() > PAIRS_MAX {
        let message = format!("{} entries, at most {PAIRS_MAX} are allowed", entries.len());
        table.report().mistake(Code::TooMany, table.path(), message, "");
        return Vec::new();
    }
    let mut found = Vec::with_capacity(entries.len());
    for (key, value) in entries {
        let text = match value.kind {
            ValueKind::String(text) => text,
            ValueKind::I64(number) => number.to_string(),
            ValueKind::Boolean(yes) => yes.to_string(),
            _ => {
                let message = format!("{} where text belongs", kind_of(&value));
                table.mistake(Code::WrongType, &key, message, "");
                continue;
            }
        };
        let Some(template) = optional_template(table, &key, &text, allowed) else { continue };
        if check_literal(table, &key, &template) {
            found.push((key, template));
        }
    }
    found
}

/// A template of a recipe.
pub(super) fn template(
    section: &Section<'_>,
    key: &str,
    text: &str,
    allowed: &Variables<'_>,
) -> Option<Template> {
    checked(section, key, Template::parse(text, allowed))
}

/// A template of a recipe that fills what can be left out.
pub(super) fn optional_template(
    section: &Section<'_>,
    key: &str,
    text: &str,
    allowed: &Variables<'_>,
) -> Option<Template> {
    checked(section, key, Template::parse_optional(text, allowed))
}

fn checked(
    section: &Section<'_>,
    key: &str,
    parsed: Result<Template, TemplateError>,
) -> Option<Template> {
    match parsed {
        Ok(template) => {
            if let Some(name) =
                template.names().iter().find_map(|name| name.strip_prefix("params."))
            {
                let message = format!("`params.{name}` is not known here");
                section.mistake(Code::UnknownVariable, key, message, format!("write {{{name}}}"));
                return None;
            }
            if let Err(refusal) = template.try_out() {
                section.mistake(Code::BadTemplate, key, refusal.reason, "");
                return None;
            }
            Some(template)
        }
        Err(error) => {
            let (code, hint) = match &error {
                TemplateError::Syntax(_) => (Code::BadTemplate, ""),
                TemplateError::Unknown { .. } => {
                    (Code::UnknownVariable, "or add it to this api's `params`")
                }
            };
            section.mistake(code, key, error.to_string(), hint);
            None
        }
    }
}

/// A secret header may not be set a second time by `headers`.
pub(super) fn check_auth_alone(
    section: &Section<'_>,
    headers: &[(HeaderName, Template)],
    auth: Option<&Auth>,
) {
    let names = auth.iter().flat_map(|auth| &auth.pool).flat_map(|one| one.header_names());
    if let Some(name) = names.into_iter().find(|name| headers.iter().any(|(own, _)| own == *name)) {
        let message = format!("`{name}` is set by `auth` too");
        section.mistake(Code::BadHeader, "headers", message, "leave it out of one");
    }
}
