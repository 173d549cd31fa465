//! JSON with templates in it: bodies of requests, and pairs of a query that are JSON.

use serde_json::{Map, Value};

use super::template::Scope;
use super::{Refusal, Template};

/// JSON to be filled in.
#[derive(Debug, Clone)]
pub enum JsonTemplate {
    /// A number, true or false, as it was written.
    Fixed(Value),
    /// Text; where it is one placeholder and nothing else, whatever value that stands for, with its type.
    Text(Template),
    /// A list. What is left out of it leaves no gap.
    List(Vec<Self>),
    /// An object. A field that is left out is not there.
    Table(Vec<(String, Self)>),
}

impl JsonTemplate {
    /// The JSON, or nothing if it is left out.
    pub(super) fn fill(&self, scope: &dyn Scope) -> Result<Option<Value>, Refusal> {
        Ok(Some(match self {
            Self::Fixed(value) => value.clone(),
            Self::Text(template) if template.left_out(scope) => return Ok(None),
            Self::Text(template) => template.value(scope)?,
            Self::List(items) => {
                let items = items.iter().filter_map(|item| item.fill(scope).transpose());
                Value::Array(items.collect::<Result<_, _>>()?)
            }
            Self::Table(fields) => {
                let mut filled = Map::new();
                for (name, field) in fields {
                    if let Some(value) = field.fill(scope)? {
                        filled.insert(name.clone(), value);
                    }
                }
                Value::Object(filled)
            }
        }))
    }

    /// Calls `each` with every template in it.
    pub fn templates<'a>(&'a self, each: &mut dyn FnMut(&'a Template)) {
        match self {
            Self::Fixed(_) => {}
            Self::Text(template) => each(template),
            Self::List(items) => items.iter().for_each(|item| item.templates(each)),
            Self::Table(fields) => fields.iter().for_each(|(_, field)| field.templates(each)),
        }
    }

    /// As it was written.
    pub fn written(&self) -> Value {
        match self {
            Self::Fixed(value) => value.clone(),
            Self::Text(template) => Value::from(template.text()),
            Self::List(items) => items.iter().map(Self::written).collect(),
            Self::Table(fields) => {
                fields.iter().map(|(name, field)| (name.clone(), field.written())).collect()
            }
        }
    }
}
