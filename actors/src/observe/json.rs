//! One place in a JSON text of which perhaps only the beginning is there.
//!
//! An answer's first bytes mostly hold its envelope, and then break off in the middle of the data. So the text
//! is not read into a tree: serde walks it along the path, and what was found before the text ended counts.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Most steps of a path.
pub const PATH_STEPS_MAX: usize = 16;
/// Most values that a path with `*` finds; further ones are not looked at.
const FOUND_MAX: usize = 256;

/// A path such as `error.code`, `errors.0.code`, or `*.*.call_count`, where `*` is every member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JsonPath(Vec<Step>);

/// One step of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// A member of an object, or, if it is a number, an element of a list.
    Named(String, Option<usize>),
    /// Every one.
    Any,
}

impl JsonPath {
    /// Reads a path; one that is empty, has an empty step or too many of them is none.
    pub fn new(text: &str) -> Option<Self> {
        let step = |step: &str| match step {
            "" => None,
            "*" => Some(Step::Any),
            name => Some(Step::Named(name.to_owned(), name.parse().ok())),
        };
        let steps: Option<Vec<Step>> = text.split('.').map(step).collect();
        steps.filter(|steps| steps.len() <= PATH_STEPS_MAX).map(Self)
    }

    /// How many steps it has.
    pub(crate) fn length(&self) -> usize {
        self.0.len()
    }

    /// Whether a step goes to the member of that name.
    pub(crate) fn goes_to(&self, step: usize, key: &str) -> bool {
        self.0.get(step).is_some_and(|step| step.names(key))
    }

    /// Whether a step goes to that element of a list.
    pub(crate) fn goes_to_element(&self, step: usize, place: usize) -> bool {
        self.0.get(step).is_some_and(|step| step.is_at(place))
    }

    /// Its steps, in order; at most [`PATH_STEPS_MAX`].
    pub(crate) fn steps(&self) -> &[Step] {
        &self.0
    }

    /// The values there, as text without quotes; lists and objects are no values. What comes after the end of
    /// a text that breaks off is not found, and one that is no JSON at all has nothing.
    pub(super) fn find(&self, text: &[u8]) -> Vec<String> {
        let mut found = Vec::new();
        let mut input = serde_json::Deserializer::from_slice(text);
        // Where it breaks off is no matter.
        Walk { steps: &self.0, found: &mut found }.deserialize(&mut input).ok();
        found
    }
}

impl fmt::Display for JsonPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, step) in self.0.iter().enumerate() {
            let dot = if place == 0 { "" } else { "." };
            match step {
                Step::Named(name, _) => write!(f, "{dot}{name}")?,
                Step::Any => write!(f, "{dot}*")?,
            }
        }
        Ok(())
    }
}

struct Walk<'a> {
    steps: &'a [Step],
    found: &'a mut Vec<String>,
}

impl Walk<'_> {
    fn found(&mut self, value: impl ToString) {
        if self.steps.is_empty() && self.found.len() < FOUND_MAX {
            self.found.push(value.to_string());
        }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<(), D::Error> {
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E: Error>(mut self, value: bool) -> Result<(), E> {
        self.found(value);
        Ok(())
    }

    fn visit_i64<E: Error>(mut self, value: i64) -> Result<(), E> {
        self.found(value);
        Ok(())
    }

    fn visit_u64<E: Error>(mut self, value: u64) -> Result<(), E> {
        self.found(value);
        Ok(())
    }

    fn visit_f64<E: Error>(mut self, value: f64) -> Result<(), E> {
        self.found(value);
        Ok(())
    }

    fn visit_str<E: Error>(mut self, value: &str) -> Result<(), E> {
        self.found(value);
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let first = self.steps.split_first();
        while let Some(key) = map.next_key::<std::borrow::Cow<'_, str>>()? {
            match first {
                Some((step, rest)) if step.names(&key) => {
                    map.next_value_seed(Walk { steps: rest, found: &mut *self.found })?;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let Some((step, rest)) = self.steps.split_first() else {
            while list.next_element::<IgnoredAny>()?.is_some() {}
            return Ok(());
        };
        for place in 0.. {
            let next = if step.is_at(place) {
                list.next_element_seed(Walk { steps: rest, found: &mut *self.found })?
            } else {
                list.next_element::<IgnoredAny>()?.map(|_| ())
            };
            if next.is_none() {
                break;
            }
        }
        Ok(())
    }
}

impl Step {
    /// Whether it leads to that member of an object.
    pub(crate) fn names(&self, key: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Named(name, _) => name == key,
        }
    }

    /// Whether it leads to that element of a list.
    pub(crate) fn is_at(&self, place: usize) -> bool {
        match self {
            Self::Any => true,
            Self::Named(_, number) => *number == Some(place),
        }
    }
}
