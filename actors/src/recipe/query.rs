//! The pairs of a query or a form, in the forms that providers want them.
//!
//! Whatever is declared, a value stays within its pair: `&`, `=`, `#`, `+` and `%` of a value are always escaped.

use percent_encoding::percent_encode_byte;
use serde_json::Value;

use super::template::{Scope, scalar};
use super::{JsonTemplate, Refusal, Template};
use crate::codes::Code;

/// Most values of one pair.
const VALUES_MAX: usize = 10_000;

/// One pair, or several of one name.
#[derive(Debug, Clone)]
pub struct Pair {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Given,
    /// What becomes of several values; none: a list is refused.
    pub lists: Option<Lists>,
    /// How it is escaped.
    pub escapes: Escapes,
}

/// Where the value of a pair comes from.
#[derive(Debug, Clone)]
pub enum Given {
    /// One template; a list where the pair says what becomes of it.
    One(Template),
    /// Several values.
    Several(Vec<Template>),
    /// JSON as text.
    Json(JsonTemplate),
}

impl Given {
    /// Calls `each` with every template.
    pub fn templates<'a>(&'a self, each: &mut dyn FnMut(&'a Template)) {
        match self {
            Self::One(template) => each(template),
            Self::Several(templates) => templates.iter().for_each(each),
            Self::Json(json) => json.templates(each),
        }
    }
}

/// What becomes of several values. An empty list leaves the pair out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lists {
    /// `ids=1&ids=2`.
    Repeat,
    /// `ids[]=1&ids[]=2`.
    Brackets,
    /// `ids[0]=1&ids[1]=2`.
    Indices,
    /// `ids=1,2` with this between them, which is not escaped; within a value it is.
    Joined(char),
}

/// How names and values are escaped: all but letters, digits and `-._~` as `%XX`, unless something else is said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Escapes {
    /// Reserved characters that stay as they are; some of [`Escapes::MAY_STAY`].
    pub keep: String,
    /// Whether a space is `+` and not `%20`.
    pub plus: bool,
}

impl Escapes {
    /// The reserved characters that may stay as they are in a query: they end no pair, and no URL parser
    /// changes them.
    pub const MAY_STAY: &str = "!$()*,/:;?@[]|";

    fn push(&self, out: &mut String, text: &str, but: Option<char>) {
        for byte in text.bytes() {
            let sign = char::from(byte);
            let stays = byte.is_ascii_alphanumeric()
                || b"-._~".contains(&byte)
                || (byte.is_ascii() && self.keep.contains(sign) && but != Some(sign));
            match byte {
                _ if stays => out.push(sign),
                b' ' if self.plus => out.push('+'),
                _ => out.push_str(percent_encode_byte(byte)),
            }
        }
    }
}

/// Writes pairs with `&` between them, nothing for those that are left out.
pub(super) fn write_pairs(
    out: &mut String,
    pairs: &[Pair],
    scope: &dyn Scope,
) -> Result<(), Refusal> {
    let start = out.len();
    for pair in pairs {
        let values = match &pair.value {
            Given::One(template) if template.left_out(scope) => continue,
            Given::One(template) if pair.lists.is_some() && template.is_single() => {
                match template.value(scope)? {
                    Value::Array(items) => texts(template.text(), &items)?,
                    value => vec![scalar(template.text(), &value)?.into_owned()],
                }
            }
            Given::One(template) => {
                begin(out, start, pair, "");
                pair.escapes.push(out, &template.render(scope)?, None);
                continue;
            }
            Given::Several(templates) => {
                let there = templates.iter().filter(|template| !template.left_out(scope));
                there.map(|template| template.render(scope)).collect::<Result<_, _>>()?
            }
            Given::Json(json) => {
                let Some(value) = json.fill(scope)? else { continue };
                begin(out, start, pair, "");
                pair.escapes.push(out, &value.to_string(), None);
                continue;
            }
        };
        write_values(out, start, pair, &values);
    }
    Ok(())
}

fn write_values(out: &mut String, start: usize, pair: &Pair, values: &[String]) {
    let joined = match pair.lists {
        Some(Lists::Joined(sign)) => Some(sign),
        _ => None,
    };
    for (i, value) in values.iter().enumerate() {
        match pair.lists {
            None | Some(Lists::Repeat) => begin(out, start, pair, ""),
            Some(Lists::Brackets) => begin(out, start, pair, "[]"),
            Some(Lists::Indices) => begin(out, start, pair, &format!("[{i}]")),
            Some(Lists::Joined(_)) if i == 0 => begin(out, start, pair, ""),
            Some(Lists::Joined(' ')) => pair.escapes.push(out, " ", None),
            Some(Lists::Joined(sign)) => out.push(sign),
        }
        pair.escapes.push(out, value, joined);
    }
}

fn begin(out: &mut String, start: usize, pair: &Pair, suffix: &str) {
    if out.len() > start {
        out.push('&');
    }
    pair.escapes.push(out, &pair.name, None);
    out.push_str(suffix);
    out.push('=');
}

fn texts(name: &str, items: &[Value]) -> Result<Vec<String>, Refusal> {
    if items.len() > VALUES_MAX {
        let reason = format!("{name} has {} values, at most {VALUES_MAX} are allowed", items.len());
        return Err(Refusal::new(Code::RequestTooLong, reason));
    }
    items.iter().map(|item| Ok(scalar(name, item)?.into_owned())).collect()
}
