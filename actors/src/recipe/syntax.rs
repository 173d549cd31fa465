//! How a template is read: where its placeholders are, and whether what they use exists.

use super::filters::{FILTERS, TESTS};
use super::{TemplateError, nearest};
use crate::ids::preview;

/// Takes `{…}` from the front: what is between the braces, and what follows.
pub(super) fn placeholder(text: &str) -> Result<(&str, &str), TemplateError> {
    let body = text.strip_prefix('{').ok_or_else(|| {
        syntax("a `}` without its `{`; a literal brace is written `{'}'}`".to_owned())
    })?;
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in body.char_indices() {
        match (quote, c) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(q), _) if q == c => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, '{') => {
                return Err(syntax(
                    "a `{` within a placeholder: placeholders have single braces, as `{account}`, \
                     and a literal brace is written `{'{'}`"
                        .to_owned(),
                ));
            }
            (None, '}') => {
                let (source, after) = body.split_at(at);
                return Ok((source.trim(), after.strip_prefix('}').unwrap_or(after)));
            }
            _ => {}
        }
    }
    Err(syntax(format!("`{}` has no closing `}}`", preview(text))))
}

/// A name as a parameter may have one: `[A-Za-z_][A-Za-z0-9_]*`, at most 63 bytes.
pub(crate) fn is_name(text: &str) -> bool {
    text.len() <= 63
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        && text.bytes().next().is_some_and(|b| !b.is_ascii_digit())
}

/// Refuses filters, tests and functions that do not exist: minijinja would only tell when the
/// expression is first evaluated.
pub(super) fn check_words(source: &str) -> Result<(), TemplateError> {
    let mut before = "";
    for (word, next) in words(source) {
        if word == "~" {
            return Err(syntax(
                "there is no `~`: write one placeholder behind the other, as `{a}{b}`".to_owned(),
            ));
        }
        match before {
            "|" if !FILTERS.contains(&word) => {
                let near = nearest(word, FILTERS.iter().copied());
                let hint = near.map_or_else(
                    || format!("there are {}", FILTERS.join(", ")),
                    |near| format!("did you mean `{near}`?"),
                );
                return Err(syntax(format!("there is no filter `{word}`: {hint}")));
            }
            "|" => {}
            "is" if word != "not" && !TESTS.contains(&word) => {
                return Err(syntax(format!(
                    "there is no test `{word}`: there are {}",
                    TESTS.join(", ")
                )));
            }
            _ if next == Some('(')
                && is_name(word)
                && !["not", "and", "or", "if", "else", "in"].contains(&word) =>
            {
                return Err(syntax(format!(
                    "there is no function `{word}`: use filters, as `{{date|days(-1)}}`"
                )));
            }
            _ => {}
        }
        before = if word == "not" && before == "is" { "is" } else { word };
    }
    Ok(())
}

/// The words and signs of an expression outside quotes, each with the character that follows it.
fn words(source: &str) -> Vec<(&str, Option<char>)> {
    let mut found = Vec::new();
    let mut rest = source.trim_start();
    while let Some(first) = rest.chars().next() {
        let end = if first == '\'' || first == '"' {
            closing_quote(rest, first)
        } else if first.is_alphanumeric() || first == '_' {
            rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
        } else {
            first.len_utf8()
        };
        let (word, after) = rest.split_at(end);
        rest = after.trim_start();
        found.push((word, rest.chars().next()));
    }
    found
}

/// Where a quoted text ends, its closing quote included.
fn closing_quote(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn syntax(message: String) -> TemplateError {
    TemplateError::Syntax(message)
}
