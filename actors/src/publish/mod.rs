//! Input of `tollgate publish`: JSON Lines or CSV, one record after the other, each a fetch that may be
//! published or a refusal. Reading only; must not know NATS.
//!
//! Decides what a record means, and promises that one that is no fetch stops nothing behind it, that no
//! more of a file is held than one record and a buffer, and that each record's line is known.
//!
//! # JSON Lines
//!
//! One fetch per line, as `run` takes them. A line longer than 256 KiB is stepped over and refused.
//!
//! # CSV
//!
//! Comma, double quotes, a header: RFC 4180 (<https://www.rfc-editor.org/rfc/rfc4180>), UTF-8. The columns have
//! the names of a fetch's fields: `id`, `platform`, `account`, `api`, `not_before`, `deadline`, `fresh_for`,
//! `once`, `priority`; a parameter is `params.NAME`, a label `labels.NAME`. Any other name is an error.
//! - An empty cell is left out. Spaces at the ends of a cell do not count.
//! - A parameter is text. In a column `params.NAME:json` it is JSON: `5`, `true`, `["a","b"]`, `" text "`.
//! - A row whose cells are all empty is stepped over, as is an empty line.
//! - A row has at most 1 MiB; at a longer one reading ends, for it is a quote that was never closed.
//!
//! In both a byte order mark at the beginning is stepped over, and lines end in LF or CRLF.

use std::fmt;
use std::io::{self, BufReader, Chain, Cursor, Read};
use std::path::Path;
use std::sync::Arc;

use tollgate_protos::Fetch;

use crate::codes::Code;
use crate::intake::{Line, read_line};
use crate::plan::Plan;
use crate::recipe::{Accepted, FETCH_BYTES_MAX, Refusal, check_to_publish, read_json};

mod csv;

#[cfg(test)]
mod tests;

/// The form of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line.
    JsonLines,
    /// A header and rows.
    Csv,
}

impl Format {
    /// The names of the forms, as [`Format::parse`] takes them.
    pub const NAMES: [&'static str; 2] = ["jsonl", "csv"];

    /// The form of that name.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "jsonl" => Some(Self::JsonLines),
            "csv" => Some(Self::Csv),
            _ => None,
        }
    }

    /// What the file's extension says, in any case: `.csv`; `.jsonl`, `.ndjson` or `.json`. `None` where
    /// it says nothing, and the user has to.
    pub fn of(path: &Path) -> Option<Self> {
        match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
            "csv" => Some(Self::Csv),
            "jsonl" | "ndjson" | "json" => Some(Self::JsonLines),
            _ => None,
        }
    }
}

/// One record of an input.
#[derive(Debug, Clone)]
pub struct Record {
    /// Where it begins.
    pub place: Place,
    /// The fetch to publish, or why there is none.
    pub fetch: Result<Accepted, Refusal>,
}

/// A line of an input; shown as `FILE:LINE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The input as it was named.
    pub name: Arc<str>,
    /// From 1.
    pub line: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.line)
    }
}

/// Why an input is not read, or not to its end. What came before it is good.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The system cannot read it.
    #[error("{place}: cannot be read: {error}")]
    Read {
        /// How far it came.
        place: Place,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// Its form does not allow it.
    #[error("{place}: {reason} [{code}]")]
    Form {
        /// Where.
        place: Place,
        /// What kind of reason.
        code: Code,
        /// One sentence: what is wrong.
        reason: String,
    },
}

impl InputError {
    /// Its code.
    pub fn code(&self) -> Code {
        match self {
            Self::Read { .. } => Code::InputUnreadable,
            Self::Form { code, .. } => *code,
        }
    }
}

/// The records of one input, in order. Each step reads, and blocks as long as the input does: not for a
/// shard's thread. After an error it ends.
///
/// With a plan that declares platforms each fetch is checked as a node would; without, its form only.
#[derive(Debug)]
pub struct Records<'p, R: Read> {
    plan: &'p Plan,
    name: Arc<str>,
    rows: Rows<R>,
    ended: bool,
}

#[derive(Debug)]
enum Rows<R: Read> {
    Lines { input: BufReader<Unmarked<R>>, line: Vec<u8>, number: u64 },
    Csv(csv::Rows<Unmarked<R>>),
}

/// Begins to read an input; `name` is what places show.
///
/// # Errors
/// It cannot be read, or the header of a CSV file names what is no column.
pub fn read<'p, R: Read>(
    plan: &'p Plan,
    name: &str,
    format: Format,
    input: R,
) -> Result<Records<'p, R>, InputError> {
    let name: Arc<str> = name.into();
    let place = |line| Place { name: Arc::clone(&name), line };
    let input = without_mark(input).map_err(|error| InputError::Read { place: place(1), error })?;
    let rows = match format {
        Format::JsonLines => {
            Rows::Lines { input: BufReader::new(input), line: Vec::new(), number: 0 }
        }
        Format::Csv => Rows::Csv(csv::Rows::open(input).map_err(|failed| failed.at(&name))?),
    };
    Ok(Records { plan, name, rows, ended: false })
}

impl<R: Read> Iterator for Records<'_, R> {
    type Item = Result<Record, InputError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let step = match &mut self.rows {
            Rows::Lines { input, line, number } => next_line(input, line, number),
            Rows::Csv(rows) => rows.next_row(),
        };
        match step {
            Ok(Some((line, fetch))) => {
                let fetch = fetch.and_then(|fetch| check_to_publish(self.plan, fetch));
                Some(Ok(Record { place: Place { name: Arc::clone(&self.name), line }, fetch }))
            }
            Ok(None) => {
                self.ended = true;
                None
            }
            Err(failed) => {
                self.ended = true;
                Some(Err(failed.at(&self.name)))
            }
        }
    }
}

/// What reading one record gives: its line and the fetch it holds; nothing at the end.
type Step = Result<Option<(u64, Result<Fetch, Refusal>)>, Failed>;

/// An [`InputError`] that does not know its file yet.
struct Failed {
    line: u64,
    why: Why,
}

enum Why {
    Read(io::Error),
    Form(Code, String),
}

impl Failed {
    fn at(self, name: &Arc<str>) -> InputError {
        let place = Place { name: Arc::clone(name), line: self.line };
        match self.why {
            Why::Read(error) => InputError::Read { place, error },
            Why::Form(code, reason) => InputError::Form { place, code, reason },
        }
    }
}

fn next_line(input: &mut BufReader<impl Read>, line: &mut Vec<u8>, number: &mut u64) -> Step {
    loop {
        let read = read_line(input, line)
            .map_err(|error| Failed { line: *number + 1, why: Why::Read(error) })?;
        *number += 1;
        let fetch = match read {
            Line::End => return Ok(None),
            Line::Whole if line.iter().all(u8::is_ascii_whitespace) => continue,
            Line::Whole => read_json(line),
            Line::Long => Err(Refusal::new(
                Code::FetchTooLarge,
                format!("the line is longer than {FETCH_BYTES_MAX} bytes"),
            )),
        };
        return Ok(Some((*number, fetch)));
    }
}

/// An input after its byte order mark.
type Unmarked<R> = Chain<Cursor<Vec<u8>>, R>;

fn without_mark<R: Read>(mut input: R) -> io::Result<Unmarked<R>> {
    const MARK: &[u8] = b"\xef\xbb\xbf";
    let mut first = Vec::with_capacity(MARK.len());
    // A mark may come in pieces.
    input.by_ref().take(MARK.len() as u64).read_to_end(&mut first)?;
    if first == MARK {
        first.clear();
    }
    Ok(Cursor::new(first).chain(input))
}
