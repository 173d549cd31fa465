//! Templates: text with placeholders, `creatives/{id}` or `{date|days(-1)}`.
//!
//! A template is compiled once, when the configuration is read. What it may name is checked then, and
//! so are its filters. Filling it in hands out its pieces one by one, because what keeps a value in its
//! place differs between a path, a query, a header and a key.
//!
//! Most placeholders are bare names, which are looked up directly; the others are expressions in
//! minijinja's syntax.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use minijinja::Expression;
use minijinja::value::{Serde, ValueKind};
use serde_json::{Map, Value};

use super::Refusal;
use super::dates::{ZONE, ZONED};
use super::filters::{ENVIRONMENT, plain};
use super::syntax::{check_words, is_name, placeholder};
use crate::codes::Code;

/// Longest template in bytes.
pub const TEMPLATE_BYTES_MAX: usize = 8 * 1024;
/// Longest filled-in template in bytes.
pub const RENDERED_BYTES_MAX: usize = 64 * 1024;

/// A compiled template. Cheap to clone.
#[derive(Clone)]
pub struct Template {
    text: Arc<str>,
    pieces: Arc<[Piece]>,
    /// What need not be there, `x` of `{x?}`.
    optional: Arc<[Box<str>]>,
}

/// What a template may name.
#[derive(Debug, Clone, Copy)]
pub enum Variables<'a> {
    /// Whatever it likes: what is not known otherwise is a parameter of the fetch.
    Any,
    /// These only. `params.*` stands for `params.` and any name.
    Only(&'a [&'a str]),
}

/// Why a text is not a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// It is not well formed, or uses a filter that does not exist. A sentence.
    #[error("{0}")]
    Syntax(String),
    /// It names something that is not there.
    #[error("`{name}` is not known here: use {}", .known.join(", "))]
    Unknown {
        /// What it names.
        name: String,
        /// What it could name.
        known: Vec<String>,
    },
}

/// A part of a template between two brace characters.
pub(super) enum Piece {
    /// As it stands.
    Text(Box<str>),
    /// A bare name, `account` or `params.day`.
    Name(Box<str>),
    /// Anything else.
    Computed(Computed),
}

/// A placeholder that is more than a name.
pub(super) struct Computed {
    source: Box<str>,
    /// What it names, at the first level: `params` for `params.day|lower`.
    names: Vec<String>,
    /// The same in full: `params.day`.
    paths: Vec<String>,
    /// Whether what it does with times depends on whose days they are.
    zoned: bool,
    expression: Expression<'static, 'static>,
}

/// Something that a name stands for.
#[derive(Clone, Copy)]
pub(super) enum Found<'a> {
    Text(&'a str),
    Json(&'a Value),
    /// `params` as a whole, with defaults that count where the first map has nothing.
    Maps(&'a Map<String, Value>, Option<&'a Map<String, Value>>),
}

/// What the names of a template stand for at one filling in.
pub(super) trait Scope {
    /// The value of a name, if it has one.
    fn get(&self, name: &str) -> Option<Found<'_>>;

    /// Whose days and hours its times are; none: UTC's.
    fn zone(&self) -> Option<&str> {
        None
    }
}

/// One piece of a filled-in template.
pub(super) enum Fragment<'a> {
    /// Written by the operator.
    Text(&'a str),
    /// Came with the fetch; to be kept in its place.
    Value(&'a str),
}

impl Template {
    /// Compiles a text and checks what it names.
    ///
    /// # Errors
    /// The text is longer than 8 KiB, is not well formed, or names what is not among `allowed`.
    pub fn parse(text: &str, allowed: &Variables<'_>) -> Result<Self, TemplateError> {
        let template = Self::parse_optional(text, allowed)?;
        match template.optional.first() {
            None => Ok(template),
            Some(name) => Err(TemplateError::Syntax(format!(
                "`{{{name}?}}` cannot be left out here, only a pair of a query, a header or a part of a body can"
            ))),
        }
    }

    /// The same for what can be left out: there `{x?}` says that without an `x` it is.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn parse_optional(text: &str, allowed: &Variables<'_>) -> Result<Self, TemplateError> {
        if text.len() > TEMPLATE_BYTES_MAX {
            return Err(TemplateError::Syntax(format!(
                "a template has at most {TEMPLATE_BYTES_MAX} bytes"
            )));
        }
        let (mut pieces, mut optional) = (Vec::new(), Vec::new());
        let mut rest = text;
        while let Some(open) = rest.find(['{', '}']) {
            let (before, from_brace) = rest.split_at(open);
            if !before.is_empty() {
                pieces.push(Piece::Text(before.into()));
            }
            let (source, after) = placeholder(from_brace)?;
            if let Some((name, needed)) = without_mark(source) {
                optional.push(name.into());
                pieces.push(compile(&needed, allowed)?);
            } else {
                pieces.push(compile(source, allowed)?);
            }
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.into()));
        }
        Ok(Self { text: text.into(), pieces: pieces.into(), optional: optional.into() })
    }

    /// Whether what the template fills is left out: something that need not be there is absent, null, or an
    /// empty text, list or object.
    pub(super) fn left_out(&self, scope: &dyn Scope) -> bool {
        self.optional.iter().any(|name| match scope.get(name) {
            None | Some(Found::Json(Value::Null)) => true,
            Some(Found::Text(text)) => text.is_empty(),
            Some(Found::Json(Value::String(text))) => text.is_empty(),
            Some(Found::Json(Value::Array(items))) => items.is_empty(),
            Some(Found::Json(Value::Object(fields))) => fields.is_empty(),
            Some(Found::Json(_) | Found::Maps(..)) => false,
        }) || self.lacks_page_state(scope)
    }

    /// Whether it names state of a read's pages that is not there yet, such as the first page's cursor.
    fn lacks_page_state(&self, scope: &dyn Scope) -> bool {
        if !self.text.contains("page.") {
            return false;
        }
        let Some(Found::Maps(known, _)) = scope.get("page") else { return false };
        let names = self.names();
        let mut state = names.iter().filter_map(|name| name.strip_prefix("page."));
        state.any(|name| !known.contains_key(name))
    }

    /// Whether it is one placeholder and nothing else, which can stand for any value of JSON.
    pub(crate) fn is_single(&self) -> bool {
        matches!(&*self.pieces, [Piece::Name(_) | Piece::Computed(_)])
    }

    /// What it stands for as JSON: of a single placeholder the value with its type, else text.
    pub(super) fn value(&self, scope: &dyn Scope) -> Result<Value, Refusal> {
        match &*self.pieces {
            [Piece::Name(name)] => match scope.get(name) {
                Some(Found::Text(text)) => Ok(Value::from(text)),
                Some(Found::Json(value)) => exact(name, value).map(|()| value.clone()),
                Some(Found::Maps(..)) => Err(unusable(name, "an object")),
                None => Err(missing(name)),
            },
            [Piece::Computed(computed)] => computed.json(scope),
            _ => self.render(scope).map(Value::from),
        }
    }

    /// The template as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What it names, `params.day` as `params.day`, sorted and each once.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .pieces
            .iter()
            .flat_map(|piece| match piece {
                Piece::Text(_) => Vec::new(),
                Piece::Name(name) => vec![name.to_string()],
                Piece::Computed(computed) => computed.paths.clone(),
            })
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    pub(super) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Hands out the filled-in pieces in order.
    pub(super) fn fill(
        &self,
        scope: &dyn Scope,
        mut each: impl FnMut(Fragment<'_>) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let mut bytes = 0;
        for piece in &*self.pieces {
            let text = match piece {
                Piece::Text(text) => {
                    each(Fragment::Text(text))?;
                    continue;
                }
                Piece::Name(name) => match scope.get(name) {
                    Some(Found::Text(text)) => Cow::Borrowed(text),
                    Some(Found::Json(value)) => scalar(name, value)?,
                    Some(Found::Maps(..)) => return Err(unusable(name, "an object")),
                    None => return Err(missing(name)),
                },
                Piece::Computed(computed) => Cow::Owned(computed.eval(scope)?),
            };
            bytes += text.len();
            if bytes > RENDERED_BYTES_MAX {
                return Err(Refusal::new(
                    Code::RequestTooLong,
                    format!("`{}` filled in has over {RENDERED_BYTES_MAX} bytes", self.text),
                ));
            }
            each(Fragment::Value(&text))?;
        }
        Ok(())
    }

    /// Fills in what depends on nothing but the time, so that a format which is none is found at once.
    pub(crate) fn try_out(&self) -> Result<(), Refusal> {
        let timed = |names: &[String]| names.iter().all(|name| matches!(&**name, "today" | "now"));
        let mut computed = self.pieces.iter().filter_map(|piece| match piece {
            Piece::Computed(computed) if timed(&computed.paths) => Some(computed),
            _ => None,
        });
        computed.try_for_each(|computed| computed.value(&Sample).map(drop))
    }

    /// The filled-in text, values as they are.
    pub(super) fn render(&self, scope: &dyn Scope) -> Result<String, Refusal> {
        let mut out = String::with_capacity(self.text.len() + 16);
        self.fill(scope, |fragment| {
            let (Fragment::Text(text) | Fragment::Value(text)) = fragment;
            out.push_str(text);
            Ok(())
        })?;
        Ok(out)
    }
}

/// Some moment.
struct Sample;

impl Scope for Sample {
    fn get(&self, name: &str) -> Option<Found<'_>> {
        Some(Found::Text(if name == "today" { "2026-11-20" } else { "2026-11-20T09:00:00+00:00" }))
    }
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Template({:?})", &*self.text)
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Computed {
    fn value(&self, scope: &dyn Scope) -> Result<minijinja::Value, Refusal> {
        // What cannot stand for itself may not pass through a filter unseen either; null may be tested for.
        for name in &self.names {
            match scope.get(name) {
                Some(Found::Json(Value::Array(items))) => {
                    for item in items {
                        scalar(name, item)?;
                    }
                }
                Some(Found::Json(value)) if !value.is_null() => {
                    scalar(name, value)?;
                }
                _ => {}
            }
        }
        let zone = scope.zone().filter(|_| self.zoned);
        let zone = zone.map(|zone| (ZONE, minijinja::Value::from(zone)));
        let named =
            self.names.iter().filter_map(|name| Some((name.as_str(), value_of(scope.get(name)?))));
        let context = minijinja::Value::from_pairs(named.chain(zone));
        self.expression.eval(context).map_err(|error| {
            // An undefined value fails in whatever comes to use it; what is missing says more.
            match self.paths.iter().find(|path| scope.get(path).is_none()) {
                Some(name) => missing(name),
                None => Refusal::new(
                    Code::TemplateFailed,
                    format!("`{{{}}}`: {}", self.source, detail(&error)),
                ),
            }
        })
    }

    fn eval(&self, scope: &dyn Scope) -> Result<String, Refusal> {
        let value = self.value(scope)?;
        match value.kind() {
            ValueKind::Undefined => Err(missing(&self.source)),
            ValueKind::Bool | ValueKind::Number | ValueKind::String => Ok(plain(&value)),
            ValueKind::None => Err(unusable(&self.source, "null")),
            ValueKind::Map => Err(unusable(&self.source, "an object")),
            _ => Err(unusable(&self.source, "a list")),
        }
    }

    fn json(&self, scope: &dyn Scope) -> Result<Value, Refusal> {
        let value = self.value(scope)?;
        if value.is_undefined() {
            return Err(missing(&self.source));
        }
        match serde_json::to_value(&value) {
            // JSON has no such number: it would become null.
            Ok(Value::Null) if value.kind() == ValueKind::Number => {
                Err(unusable(&self.source, "a number that JSON does not have"))
            }
            Ok(json) => exact(&self.source, &json).map(|()| json),
            Err(_) => Err(unusable(&self.source, "nothing that JSON can hold")),
        }
    }
}

/// Refuses numbers that did not come through as they were written, at any depth.
fn exact(name: &str, value: &Value) -> Result<(), Refusal> {
    match value {
        Value::Number(_) => scalar(name, value).map(|_| ()),
        Value::Array(items) => items.iter().try_for_each(|item| exact(name, item)),
        Value::Object(fields) => fields.values().try_for_each(|field| exact(name, field)),
        Value::Null | Value::Bool(_) | Value::String(_) => Ok(()),
    }
}

/// `x` and `x|upper` of `x?|upper`.
fn without_mark(source: &str) -> Option<(&str, String)> {
    let (name, rest) = source.split_once('?')?;
    is_name(name).then(|| (name, format!("{name}{rest}")))
}

/// A value of JSON as text.
pub(super) fn scalar<'a>(name: &str, value: &'a Value) -> Result<Cow<'a, str>, Refusal> {
    /// From here on a 64-bit float has gaps between whole numbers.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    match value {
        Value::String(text) => Ok(Cow::Borrowed(text)),
        Value::Bool(yes) => Ok(Cow::Borrowed(if *yes { "true" } else { "false" })),
        Value::Number(n) if n.is_f64() && n.as_f64().is_none_or(|f| f.abs() >= EXACT_MAX) => {
            Err(unusable(name, "a number that JSON does not carry exactly"))
        }
        Value::Number(n) => Ok(Cow::Owned(n.to_string())),
        Value::Null => Err(unusable(name, "null")),
        Value::Array(_) => Err(unusable(name, "a list")),
        Value::Object(_) => Err(unusable(name, "an object")),
    }
}

/// A value of JSON for an expression.
fn value_of(found: Found<'_>) -> minijinja::Value {
    match found {
        Found::Text(text) => minijinja::Value::from(text),
        Found::Json(value) => minijinja::Value::from(Serde(value)),
        Found::Maps(first, second) => {
            let defaults =
                second.into_iter().flatten().filter(|(name, _)| !first.contains_key(*name));
            let all = defaults.chain(first);
            minijinja::Value::from_pairs(
                all.map(|(name, value)| (name.as_str(), minijinja::Value::from(Serde(value)))),
            )
        }
    }
}

fn missing(name: &str) -> Refusal {
    Refusal::new(Code::MissingParameter, format!("the parameter `{name}` is missing"))
}

fn unusable(name: &str, kind: &str) -> Refusal {
    let hint = match kind {
        "a list" => "; a list needs a filter such as `join(',')`",
        "null" => "; leave it out or give it a value",
        _ => "",
    };
    Refusal::new(Code::BadParameter, format!("`{name}` is {kind}, which cannot stand here{hint}"))
}

/// What went wrong in an expression, short: it may quote a value.
fn detail(error: &minijinja::Error) -> String {
    let text = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    text.chars().take(200).collect()
}

/// Compiles what stands between two braces.
fn compile(source: &str, allowed: &Variables<'_>) -> Result<Piece, TemplateError> {
    if source.is_empty() {
        return Err(TemplateError::Syntax("an empty placeholder `{}`".to_owned()));
    }
    if is_name(source.strip_prefix("params.").unwrap_or(source)) {
        check_name(source, allowed)?;
        return Ok(Piece::Name(source.into()));
    }
    if source.contains('-') && is_name(&source.replace('-', "_")) {
        return Err(TemplateError::Syntax(format!(
            "`{source}` is no name: a parameter has letters, digits and `_` only"
        )));
    }
    check_words(source)?;
    let expression = ENVIRONMENT
        .compile_expression_owned(source.to_owned())
        .map_err(|error| TemplateError::Syntax(format!("`{{{source}}}`: {}", detail(&error))))?;
    let sorted = |nested| {
        let mut names: Vec<String> = expression.undeclared_variables(nested).into_iter().collect();
        names.sort_unstable();
        names
    };
    let (names, paths) = (sorted(false), sorted(true));
    for path in &paths {
        check_name(path, allowed)?;
    }
    let zoned = ZONED.iter().any(|filter| source.contains(filter));
    Ok(Piece::Computed(Computed { source: source.into(), names, paths, zoned, expression }))
}

fn check_name(name: &str, allowed: &Variables<'_>) -> Result<(), TemplateError> {
    let Variables::Only(known) = allowed else { return Ok(()) };
    let is_param = name.strip_prefix("params.").is_some_and(|rest| !rest.is_empty());
    if known.contains(&name) || (is_param && known.contains(&"params.*")) {
        return Ok(());
    }
    // `account.x` is an attribute of something known: it fails when it is filled in.
    let known = known.iter().map(|name| format!("`{name}`")).collect();
    Err(TemplateError::Unknown { name: name.to_owned(), known })
}
