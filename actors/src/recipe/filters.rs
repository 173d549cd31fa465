//! What may stand in a placeholder beside names: the filters and tests, and the one environment that
//! knows them.

use std::sync::LazyLock;

use minijinja::value::ValueKind;
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value, filters, tests};

use super::dates;
use super::template::RENDERED_BYTES_MAX;

/// Every filter by name, in alphabetical order.
pub(super) const FILTERS: &[&str] = &[
    "abs", "days", "default", "epoch", "epoch_ms", "first", "format", "hours", "int", "join",
    "last", "length", "lower", "max", "min", "months", "replace", "reverse", "round", "sort",
    "split", "string", "trim", "unique", "upper", "utc",
];

/// Every test by name (`x is defined`).
pub(super) const TESTS: &[&str] = &["defined", "undefined"];

/// Expressions are compiled against this environment. It has no functions and no access to anything
/// but the values that it is given, and an undefined value is an error rather than an empty text.
pub(super) static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut env = Environment::empty();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.add_filter("abs", filters::abs);
    env.add_filter("days", dates::days);
    env.add_filter("default", filters::default);
    env.add_filter("epoch", dates::epoch);
    env.add_filter("epoch_ms", dates::epoch_ms);
    env.add_filter("first", filters::first);
    env.add_filter("format", dates::format);
    env.add_filter("hours", dates::hours);
    env.add_filter("int", filters::int);
    env.add_filter("join", join);
    env.add_filter("last", filters::last);
    env.add_filter("length", filters::length);
    env.add_filter("lower", |text: &str| text.to_lowercase());
    env.add_filter("max", filters::max);
    env.add_filter("min", filters::min);
    env.add_filter("months", dates::months);
    env.add_filter("replace", replace);
    env.add_filter("reverse", filters::reverse);
    env.add_filter("round", filters::round);
    env.add_filter("sort", filters::sort);
    env.add_filter("split", filters::split);
    env.add_filter("string", string);
    env.add_filter("trim", |text: &str| text.trim().to_owned());
    env.add_filter("unique", filters::unique);
    env.add_filter("upper", |text: &str| text.to_uppercase());
    env.add_filter("utc", dates::utc);
    env.add_test("defined", tests::is_defined);
    env.add_test("undefined", tests::is_undefined);
    env
});

/// `{ids|join(',')}`: a list as text. Not of a text, which would be taken apart letter by letter. Bounded
/// while it grows, since both list and separator may come with a fetch.
fn join(list: &Value, separator: Option<&str>) -> Result<String, Error> {
    if !matches!(list.kind(), ValueKind::Seq | ValueKind::Iterable) {
        return Err(Error::new(ErrorKind::InvalidOperation, "`join` needs a list"));
    }
    let mut out = String::new();
    for (i, item) in list.try_iter()?.enumerate() {
        if i > 0 {
            out.push_str(separator.unwrap_or_default());
        }
        out.push_str(&plain(&item));
        check_length(out.len())?;
    }
    Ok(out)
}

/// `{n|string}`: a number, true or false as text.
fn string(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::Bool | ValueKind::Number | ValueKind::String => Ok(plain(value)),
        _ => Err(Error::new(ErrorKind::InvalidOperation, "`string` needs a single value")),
    }
}

/// A single value as text, as JSON writes it and not as Python does (`true`, not `True`).
pub(super) fn plain(value: &Value) -> String {
    match value.kind() {
        ValueKind::Bool => value.is_true().to_string(),
        _ => value.to_string(),
    }
}

/// `{account|replace('act_', '')}`. Bounded for the same reason.
fn replace(text: &str, from: &str, to: &str) -> Result<String, Error> {
    check_length(text.matches(from).count().saturating_mul(to.len()))?;
    Ok(text.replace(from, to))
}

fn check_length(bytes: usize) -> Result<(), Error> {
    if bytes <= RENDERED_BYTES_MAX {
        return Ok(());
    }
    let detail = format!("the text would have over {RENDERED_BYTES_MAX} bytes");
    Err(Error::new(ErrorKind::InvalidOperation, detail))
}
