//! Finds the fields of records that no column takes, by serde_json's own walk.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Deserializer;

use crate::table::Kind;
use crate::tree::Node;

/// Most fields of one record that are told.
const FIELDS_MAX: usize = 4_096;
/// Whole numbers from here on, up or down, have no type of their own: 2^63.
const WHOLE_END: f64 = 9_223_372_036_854_775_808.0;

/// Fields that no column takes, by their path; none: a list, which cannot be one column.
pub(crate) type Fields = BTreeMap<Vec<String>, Option<Kind>>;

/// Those of one record.
///
/// # Errors
/// It is no JSON, or nests too deep.
pub(crate) fn fields(record: &[u8], root: &Node) -> Result<Fields, String> {
    let mut walk = Walk { found: Fields::new(), path: Vec::new() };
    let mut text = Deserializer::from_slice(record);
    let at = At { walk: &mut walk, node: Some(root) };
    serde::de::DeserializeSeed::deserialize(at, &mut text).map_err(|error| error.to_string())?;
    Ok(walk.found)
}

/// The type that takes what two records have at one place.
pub(crate) fn both(a: Option<Kind>, b: Option<Kind>) -> Option<Kind> {
    match (a?, b?) {
        (a, b) if a == b => Some(a),
        (Kind::Int64, Kind::Float64) | (Kind::Float64, Kind::Int64) => Some(Kind::Float64),
        _ => Some(Kind::String),
    }
}

struct Walk {
    found: Fields,
    path: Vec<String>,
}

impl Walk {
    fn add(&mut self, kind: Option<Kind>) {
        if self.found.len() >= FIELDS_MAX && !self.found.contains_key(&self.path) {
            return;
        }
        let known = self.found.remove(&self.path);
        let kind = match known {
            Some(known) => both(known, kind),
            None => kind,
        };
        self.found.insert(self.path.clone(), kind);
    }
}

/// One value; `node` is what is read of it, none: it is taken by no column.
struct At<'w, 'n> {
    walk: &'w mut Walk,
    node: Option<&'n Node>,
}

impl At<'_, '_> {
    fn scalar(self, kind: Kind) {
        if self.node.is_none() {
            self.walk.add(Some(kind));
        }
    }
}

impl<'de> serde::de::DeserializeSeed<'de> for At<'_, '_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, value: D) -> Result<(), D::Error> {
        match self.node {
            Some(Node::Leaf) => {
                serde::Deserialize::deserialize(value).map(|_: serde::de::IgnoredAny| ())
            }
            _ => value.deserialize_any(self),
        }
    }
}

impl<'de> serde::de::Visitor<'de> for At<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        // Null has no type: the column comes with the first value.
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        self.scalar(Kind::Bool);
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        self.scalar(Kind::Int64);
        Ok(())
    }

    fn visit_u64<E>(self, number: u64) -> Result<(), E> {
        // More than 63 bits stay exact.
        let wide = Kind::Decimal { digits: 20, behind: 0 };
        self.scalar(if i64::try_from(number).is_ok() { Kind::Int64 } else { wide });
        Ok(())
    }

    fn visit_f64<E>(self, number: f64) -> Result<(), E> {
        // A whole number of more digits than 64 bits hold comes as a float too, rounded: it stays text.
        self.scalar(if number.abs() < WHOLE_END { Kind::Float64 } else { Kind::String });
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        self.scalar(Kind::String);
        Ok(())
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let element = match self.node {
            Some(Node::List(element)) => Some(&**element),
            // Not what is declared: reading it tells.
            Some(_) => Some(&Node::Leaf),
            None => {
                self.walk.add(None);
                Some(&Node::Leaf)
            }
        };
        while list.next_element_seed(At { walk: &mut *self.walk, node: element })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        while let Some(name) = object.next_key::<String>()? {
            let node = match self.node {
                Some(Node::Object(members)) => {
                    members.iter().find(|(known, _)| *known == name).map(|(_, node)| node)
                }
                Some(_) => Some(&Node::Leaf),
                None => None,
            };
            self.walk.path.push(name);
            object.next_value_seed(At { walk: &mut *self.walk, node })?;
            self.walk.path.pop();
        }
        Ok(())
    }
}
