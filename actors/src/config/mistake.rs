//! What is wrong with a configuration, and where: all of it at once.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};

use serde::Serialize;

use crate::codes::Code;

/// Most mistakes that are listed; more are only counted.
const MISTAKES_MAX: usize = 200;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mistake {
    /// What kind.
    pub code: Code,
    /// Where the value came from: the file as it was given, or `the environment`.
    pub file: String,
    /// Which line of the file, from 1, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// Which key, as `platforms.kakao.limits.gap.every`; empty for the file as a whole.
    pub key: String,
    /// What is wrong, in one sentence. Never holds a secret.
    pub message: String,
    /// What would be right.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Plain(&self.file))?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", Plain(&self.key))?;
        }
        write!(f, ": {} [{}]", Plain(&self.message), self.code)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n   hint: {}", Plain(hint))?;
        }
        Ok(())
    }
}

/// Text that may come from the file, so that it acts on no terminal: what is not shown there, or turns the rest
/// round, is written as its number.
struct Plain<'a>(&'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            if c.is_control() || turns {
                write!(f, "{}", c.escape_default())?;
            } else {
                f.write_char(c)?;
            }
        }
        Ok(())
    }
}

/// Everything that is wrong, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Mistakes(Vec<Mistake>);

impl Mistakes {
    pub(super) fn one(mistake: Mistake) -> Self {
        Self(vec![mistake])
    }

    pub(super) fn of(mistakes: Vec<Mistake>) -> Self {
        Self(mistakes)
    }

    /// The mistakes, at least one.
    pub fn list(&self) -> &[Mistake] {
        &self.0
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        let plural = if count == 1 { "" } else { "s" };
        write!(f, "the configuration has {count} mistake{plural}:")?;
        for (i, mistake) in self.0.iter().take(MISTAKES_MAX).enumerate() {
            write!(f, "\n{}. {mistake}", i + 1)?;
        }
        if count > MISTAKES_MAX {
            write!(f, "\nand {} more", count - MISTAKES_MAX)?;
        }
        write!(f, "\n`tollgate explain CODE` says more about each code")
    }
}

impl std::error::Error for Mistakes {}

/// Where a key stands in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) byte: usize,
    pub(super) line: usize,
}

/// Collects mistakes and warnings while a configuration is read, and knows where each key came from.
#[derive(Debug, Default)]
pub(super) struct Report {
    file: String,
    places: BTreeMap<String, Place>,
    from_environment: BTreeSet<String>,
    mistakes: RefCell<Vec<Mistake>>,
    warnings: RefCell<Vec<String>>,
}

impl Report {
    pub(super) fn new(
        file: String,
        places: BTreeMap<String, Place>,
        from_environment: BTreeSet<String>,
    ) -> Self {
        Self { file, places, from_environment, ..Self::default() }
    }

    /// Where a key stands in the file, or the table that it is missing from.
    pub(super) fn place(&self, key: &str) -> Option<Place> {
        let mut key = key;
        loop {
            if let Some(place) = self.places.get(key) {
                return Some(*place);
            }
            key = key.rsplit_once('.')?.0;
        }
    }

    pub(super) fn mistake(
        &self,
        code: Code,
        key: &str,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let hint = hint.into();
        let from_environment = self.from_environment.contains(key);
        self.mistakes.borrow_mut().push(Mistake {
            code,
            file: if from_environment { "the environment".to_owned() } else { self.file.clone() },
            line: if from_environment { None } else { self.place(key).map(|place| place.line) },
            key: key.to_owned(),
            message: message.into(),
            hint: (!hint.is_empty()).then_some(hint),
        });
    }

    pub(super) fn warn(&self, key: &str, message: &str) {
        self.warnings.borrow_mut().push(format!("{key}: {message}"));
    }

    /// Whether a key has a mistake already.
    pub(super) fn has_mistake(&self, key: &str) -> bool {
        self.mistakes.borrow().iter().any(|mistake| mistake.key == key)
    }

    /// How many mistakes there are so far.
    pub(super) fn count(&self) -> usize {
        self.mistakes.borrow().len()
    }

    /// The warnings, or the mistakes in the order of the file.
    pub(super) fn finish(self) -> Result<Vec<String>, Mistakes> {
        let mut mistakes = self.mistakes.into_inner();
        if mistakes.is_empty() {
            return Ok(self.warnings.into_inner());
        }
        mistakes.sort_by_key(|mistake| mistake.line.unwrap_or(usize::MAX));
        Err(Mistakes(mistakes))
    }
}
