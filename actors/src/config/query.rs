//! Tables of pairs: queries and forms, with what providers want of lists and reserved characters.

use ::config::{Value, ValueKind};

use super::BAD;
use super::body::json;
use super::pairs::{PAIRS_MAX, optional_template};
use super::secret::check_literal;
use super::section::{Section, kind_of, one_of};
use crate::codes::Code;
use crate::ids::preview;
use crate::recipe::{Escapes, Given, Lists, Pair, Template, Variables};

/// Most values that one pair may list.
const LISTED_MAX: usize = 256;

pub(super) const LISTS: &[(&str, Lists)] = &[
    ("repeat", Lists::Repeat),
    ("brackets", Lists::Brackets),
    ("indices", Lists::Indices),
    ("commas", Lists::Joined(',')),
    ("pipes", Lists::Joined('|')),
    ("spaces", Lists::Joined(' ')),
];

const HINT: &str =
    "text, a list, or a table: { value = \"{ids}\", list = \"commas\" }, { json = { … } }";

/// The pairs of a query or a form, in the order of the file.
pub(super) fn pairs(
    section: &mut Section<'_>,
    name: &'static str,
    allowed: &Variables<'_>,
) -> Vec<Pair> {
    let Some(mut table) = section.section(name) else { return Vec::new() };
    let entries = table.entries();
    if entries.len() > PAIRS_MAX {
        let message = format!("{} entries, at most {PAIRS_MAX} are allowed", entries.len());
        table.report().mistake(Code::TooMany, table.path(), message, "");
        return Vec::new();
    }
    let plus = name == "form";
    entries
        .into_iter()
        .filter_map(|(name, value)| pair(&table, name, value, plus, allowed))
        .collect()
}

fn pair(
    table: &Section<'_>,
    name: String,
    value: Value,
    plus: bool,
    allowed: &Variables<'_>,
) -> Option<Pair> {
    let mut escapes = Escapes { keep: String::new(), plus };
    let ValueKind::Table(_) = value.kind else {
        let value = given((table, &name), (table, &name), value, allowed)?;
        return Some(Pair { name, value, lists: None, escapes });
    };
    let mut entry = table.section_of(&name, value)?;
    let lists = entry.text("list").and_then(|text| one_of(&entry, "list", &text, LISTS));
    if let Some(keep) = entry.text("keep") {
        if let Some(sign) = keep.chars().find(|sign| !Escapes::MAY_STAY.contains(*sign)) {
            let message = format!("{sign:?} would end the pair or is changed on its way");
            entry.mistake(BAD, "keep", message, format!("some of {}", Escapes::MAY_STAY));
        } else {
            escapes.keep = keep;
        }
    }
    match entry.text("space").as_deref() {
        None => {}
        Some("+") => escapes.plus = true,
        Some("%20") => escapes.plus = false,
        Some(other) => {
            let message = format!("a space cannot be `{}`", preview(other));
            entry.mistake(BAD, "space", message, "\"+\" or \"%20\"");
        }
    }
    let (value, as_json) = (entry.take("value"), entry.take("json"));
    let value = match (value, as_json) {
        (Some(value), None) => given((&entry, "value"), (table, &name), value, allowed),
        (None, Some(value)) => json(&entry, "json", value, allowed).map(Given::Json),
        (None, None) => {
            table.mistake(Code::MissingKey, &name, "says neither `value` nor `json`", HINT);
            None
        }
        (Some(_), Some(_)) => {
            table.mistake(BAD, &name, "either `value` or `json`", HINT);
            None
        }
    };
    if lists.is_some()
        && let Some(Given::One(template)) = &value
        && !template.is_single()
    {
        let message = format!("`{template}` is one text: there is no list in it to write");
        entry.mistake(BAD, "list", message, "value = \"{ids}\", or value = [\"…\", \"…\"]");
    } else if lists.is_some() && matches!(value, Some(Given::Json(_))) {
        entry.mistake(BAD, "list", "JSON is one text, lists and all", "leave it out");
    }
    entry.finish();
    Some(Pair { name, value: value?, lists, escapes })
}

/// `at`: where the value stands, `pair`: the pair, whose name may tell of a secret.
fn given(
    at: (&Section<'_>, &str),
    pair: (&Section<'_>, &str),
    value: Value,
    allowed: &Variables<'_>,
) -> Option<Given> {
    if let ValueKind::Array(items) = value.kind {
        if items.len() > LISTED_MAX {
            let message = format!("{} values, at most {LISTED_MAX} are allowed", items.len());
            at.0.mistake(Code::TooMany, at.1, message, "");
            return None;
        }
        let items = items.into_iter().map(|item| text(at, pair, item, allowed));
        return items.collect::<Option<Vec<_>>>().map(Given::Several);
    }
    text(at, pair, value, allowed).map(Given::One)
}

/// A value that is one text.
fn text(
    (section, name): (&Section<'_>, &str),
    pair: (&Section<'_>, &str),
    value: Value,
    allowed: &Variables<'_>,
) -> Option<Template> {
    let text = match value.kind {
        ValueKind::String(text) => text,
        ValueKind::I64(number) => number.to_string(),
        ValueKind::Float(number) => number.to_string(),
        ValueKind::Boolean(yes) => yes.to_string(),
        _ => {
            let message = format!("{} where text belongs", kind_of(&value));
            section.mistake(Code::WrongType, name, message, HINT);
            return None;
        }
    };
    let template = optional_template(section, name, &text, allowed)?;
    check_literal(pair.0, pair.1, &template).then_some(template)
}
