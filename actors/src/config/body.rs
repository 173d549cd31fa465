//! How an api is called: `method`, `body`, `long_query`.

use ::config::{Value, ValueKind};
use http::{HeaderName, HeaderValue, Method};

use super::BAD;
use super::pairs::{header_name, optional_template, template};
use super::query::pairs;
use super::secret::check_literal;
use super::section::{Section, kind_of, one_of};
use crate::codes::Code;
use crate::ids::preview;
use crate::recipe::{Body, JsonTemplate, LongQuery, URL_BYTES_MAX, Variables};

/// How deep JSON of a recipe may go, and of how many values it may be.
const JSON_DEPTH_MAX: usize = 32;
const JSON_VALUES_MAX: usize = 4096;
/// From when on a query is too long, if nothing else is said, in bytes of the URL.
const LONG_QUERY: u64 = 4096;
const HINT: &str = "body = { json = { … } }, { form = { … } }, { text = \"…\", type = \"text/xml\" } or { graphql = \"…\", variables = { … } }";

const METHODS: &[(&str, &Method)] = &[
    ("GET", &Method::GET),
    ("POST", &Method::POST),
    ("PUT", &Method::PUT),
    ("PATCH", &Method::PATCH),
    ("DELETE", &Method::DELETE),
];

/// The key `method`; without it GET, or POST where there is a body.
pub(super) fn method(section: &mut Section<'_>, body: Option<&Body>) -> Method {
    let default = if body.is_some() { Method::POST } else { Method::GET };
    let Some(text) = section.text("method") else { return default };
    one_of(section, "method", &text, METHODS).cloned().unwrap_or(default)
}

/// The table `body`.
pub(super) fn body(section: &mut Section<'_>, allowed: &Variables<'_>) -> Option<Body> {
    let mut table = section.section("body")?;
    let kinds: Vec<&str> =
        ["json", "form", "text", "graphql"].into_iter().filter(|kind| table.has(kind)).collect();
    let body = match kinds.as_slice() {
        ["json"] => {
            let value = table.take("json")?;
            json(&table, "json", value, allowed).map(Body::Json)
        }
        ["form"] => Some(Body::Form(pairs(&mut table, "form", allowed))),
        ["text"] => {
            let text = table.text("text");
            let text = text.and_then(|text| template(&table, "text", &text, allowed));
            let kind = table.text("type").unwrap_or_else(|| "text/plain; charset=utf-8".to_owned());
            if HeaderValue::from_str(&kind).is_err() || !kind.contains('/') {
                let message = format!("`{}` is no content type", preview(&kind));
                table.mistake(BAD, "type", message, "such as \"text/xml\"");
            }
            text.map(|text| Body::Text { text, kind })
        }
        ["graphql"] => graphql(&mut table, allowed),
        [] => {
            if table.is_empty() {
                let message = "says neither `json`, `form`, `text` nor `graphql`";
                section.mistake(Code::MissingKey, "body", message, HINT);
            }
            None
        }
        several => {
            let message = format!("says {}: a body is one of them", several.join(" and "));
            section.mistake(BAD, "body", message, HINT);
            return None;
        }
    };
    for kind in ["json", "form", "text", "type", "graphql", "variables"] {
        table.knows(kind);
    }
    table.finish();
    body
}

/// The document as it stands, which is full of braces, and its variables.
fn graphql(table: &mut Section<'_>, allowed: &Variables<'_>) -> Option<Body> {
    let document = table.text("graphql")?;
    let mut fields = vec![("query".to_owned(), JsonTemplate::Fixed(document.into()))];
    if let Some(value) = table.take("variables") {
        if !matches!(value.kind, ValueKind::Table(_)) {
            let message = format!("{} where a table belongs", kind_of(&value));
            table.mistake(Code::WrongType, "variables", message, "variables = { id = \"{id}\" }");
            return None;
        }
        fields.push(("variables".to_owned(), json(table, "variables", value, allowed)?));
    }
    Some(Body::Json(JsonTemplate::Table(fields)))
}

/// JSON with templates in it, from a value of TOML.
pub(super) fn json(
    section: &Section<'_>,
    name: &str,
    value: Value,
    allowed: &Variables<'_>,
) -> Option<JsonTemplate> {
    let mut left = JSON_VALUES_MAX;
    json_of(section, name, value, allowed, &mut left, JSON_DEPTH_MAX)
}

fn json_of(
    section: &Section<'_>,
    name: &str,
    value: Value,
    allowed: &Variables<'_>,
    left: &mut usize,
    depth: usize,
) -> Option<JsonTemplate> {
    if *left == 0 || depth == 0 {
        let message = if depth == 0 {
            format!("goes deeper than {JSON_DEPTH_MAX} tables and lists")
        } else {
            format!("has more than {JSON_VALUES_MAX} values")
        };
        section.mistake(Code::TooMany, name, message, "");
        return None;
    }
    *left -= 1;
    Some(match value.kind {
        ValueKind::String(text) => {
            let template = optional_template(section, name, &text, allowed)?;
            if !check_literal(section, name, &template) {
                return None;
            }
            JsonTemplate::Text(template)
        }
        ValueKind::Boolean(yes) => JsonTemplate::Fixed(yes.into()),
        ValueKind::I64(number) => JsonTemplate::Fixed(number.into()),
        ValueKind::Float(number) if number.is_finite() => JsonTemplate::Fixed(number.into()),
        ValueKind::Array(items) => {
            let items = items.into_iter().enumerate().map(|(number, item)| {
                let name = format!("{name}.{number}");
                json_of(section, &name, item, allowed, left, depth - 1)
            });
            // Every mistake is to be found, not only the first.
            let items: Vec<_> = items.collect();
            JsonTemplate::List(items.into_iter().collect::<Option<_>>()?)
        }
        ValueKind::Table(_) => {
            let mut table = section.section_of(name, value)?;
            let fields: Vec<_> = table
                .entries()
                .into_iter()
                .map(|(name, value)| {
                    let field = json_of(&table, &name, value, allowed, left, depth - 1);
                    field.map(|field| (name, field))
                })
                .collect();
            JsonTemplate::Table(fields.into_iter().collect::<Option<_>>()?)
        }
        _ => {
            let message = format!("{} that JSON does not have", kind_of(&value));
            section.mistake(Code::WrongType, name, message, "");
            return None;
        }
    })
}

/// The key `long_query`: `"post"`, or a table that says more.
pub(super) fn long_query(section: &mut Section<'_>, body: Option<&Body>) -> Option<LongQuery> {
    let value = section.take("long_query")?;
    let usual = LongQuery {
        over: LONG_QUERY as usize,
        header: Some(HeaderName::from_static("x-http-method-override")),
    };
    if body.is_some() {
        let message = "the call has a body of its own, so its query has nowhere to go";
        section.mistake(BAD, "long_query", message, "leave one of them out");
    }
    if let ValueKind::String(text) = &value.kind {
        if text == "post" {
            return Some(usual);
        }
        let message = format!("`{}` is not known", preview(text));
        section.mistake(
            BAD,
            "long_query",
            message,
            "\"post\", or { over = \"2KiB\", header = \"none\" }",
        );
        return None;
    }
    let mut table = section.section_of("long_query", value)?;
    let over = table.size("over", 256..=URL_BYTES_MAX as u64).unwrap_or(LONG_QUERY);
    let header = match table.text("header").as_deref() {
        None => usual.header,
        Some("none") => None,
        Some(name) => header_name(&table, "header", name),
    };
    table.finish();
    Some(LongQuery { over: over as usize, header })
}
