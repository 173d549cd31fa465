//! Rows of a CSV file as fetches. The format itself is the crate's; here are the columns and the bounds.

use std::io::{self, Chain, Read};
use std::str;

use ::csv::{ByteRecord, Reader, ReaderBuilder};
use jiff::Timestamp;
use serde_json::Value;
use tollgate_protos::{Fetch, Priority};

use super::{Failed, Step, Why};
use crate::codes::Code;
use crate::ids::preview;
use crate::recipe::{FIELDS, Refusal, did_you_mean};

/// Longest row in bytes. A fetch has 256 KiB, and quoting at most doubles it.
const ROW_BYTES_MAX: usize = 1024 * 1024;
/// Most columns.
const COLUMNS_MAX: usize = 1024;
/// What is read at a time.
const BUFFER_BYTES: usize = 64 * 1024;

/// A row of our own behind the last one. The crate takes the end of a file for the end of a quote; with this
/// behind it, a quote that was left open is one that holds this row.
const LAST: &[u8] = b"\n\0the end\n";
/// That row's cell.
const LAST_CELL: &[u8] = b"\0the end";

/// The rows behind the header.
#[derive(Debug)]
pub(super) struct Rows<R: Read> {
    reader: Reader<Bounded<Chain<R, &'static [u8]>>>,
    columns: Vec<Column>,
    row: ByteRecord,
}

/// What a column's cells are.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Column {
    Id,
    Platform,
    Account,
    Api,
    NotBefore,
    Deadline,
    FreshFor,
    Once,
    Priority,
    Param { name: String, json: bool },
    Label(String),
}

/// What the reader came to.
enum Found {
    /// A row in `Rows::row`, and its line.
    Row(u64),
    /// A row that swallowed the rest of the file.
    Open(u64),
    /// Nothing more.
    End,
}

impl<R: Read> Rows<R> {
    /// Reads the header. An empty file has none, and no rows.
    pub(super) fn open(input: R) -> Result<Self, Failed> {
        let bounded = Bounded::new(input.chain(LAST));
        let reader = ReaderBuilder::new()
            .has_headers(false)
            .flexible(true)
            .buffer_capacity(BUFFER_BYTES)
            .from_reader(bounded);
        let mut rows = Self { reader, columns: Vec::new(), row: ByteRecord::new() };
        match rows.find()? {
            Found::End => {}
            Found::Open(line) => return Err(bad_header(line, "a quote is never closed")),
            Found::Row(line) => {
                rows.columns = columns(&rows.row).map_err(|reason| bad_header(line, &reason))?;
            }
        }
        Ok(rows)
    }

    pub(super) fn next_row(&mut self) -> Step {
        if self.columns.is_empty() {
            return Ok(None);
        }
        loop {
            let line = match self.find()? {
                Found::End => return Ok(None),
                Found::Open(line) => {
                    let reason = "a quote that begins in this row is never closed; it and what \
                                  follows is not read";
                    return Err(Failed { line, why: Why::Form(Code::BadCsvRow, reason.into()) });
                }
                Found::Row(line) => line,
            };
            if self.row.iter().all(|cell| cell.trim_ascii().is_empty()) {
                continue;
            }
            return Ok(Some((line, fetch(&self.columns, &self.row))));
        }
    }

    fn find(&mut self) -> Result<Found, Failed> {
        self.reader.get_mut().given = 0;
        let before = self.reader.position().line();
        let read = self.reader.read_byte_record(&mut self.row);
        let any = match read {
            Ok(any) => any,
            Err(_) if self.reader.get_ref().too_long => {
                let reason = format!(
                    "a row that begins at or after this line is longer than {ROW_BYTES_MAX} bytes, \
                     probably by a quote that is never closed; it and what follows is not read"
                );
                return Err(Failed { line: before, why: Why::Form(Code::BadCsvRow, reason) });
            }
            Err(error) => {
                let error = match error.into_kind() {
                    ::csv::ErrorKind::Io(error) => error,
                    other => io::Error::other(format!("{other:?}")),
                };
                return Err(Failed { line: before, why: Why::Read(error) });
            }
        };
        if !any || (self.row.len() == 1 && self.row.get(0) == Some(LAST_CELL)) {
            return Ok(Found::End);
        }
        let tail = self.row.iter().next_back().unwrap_or_default();
        let swallowed = tail.windows(LAST_CELL.len()).any(|window| window == LAST_CELL);
        // The position is behind the row, or between its CR and LF; what lies before it may be empty lines.
        let after = self.reader.position();
        let within = self.row.as_slice().split(|byte| *byte == b'\n').count() as u64 - 1;
        let feed = self.reader.get_ref().byte_before(after.byte()) == Some(b'\n');
        let line = after.line().saturating_sub(within + u64::from(feed && !swallowed)).max(1);
        Ok(if swallowed { Found::Open(line) } else { Found::Row(line) })
    }
}

fn bad_header(line: u64, reason: &str) -> Failed {
    Failed { line, why: Why::Form(Code::BadCsvHeader, reason.to_owned()) }
}

fn columns(header: &ByteRecord) -> Result<Vec<Column>, String> {
    if header.len() > COLUMNS_MAX {
        return Err(format!("{} columns, at most {COLUMNS_MAX} are allowed", header.len()));
    }
    let mut columns: Vec<Column> = Vec::with_capacity(header.len());
    for (i, cell) in header.iter().enumerate() {
        let name = str::from_utf8(cell.trim_ascii())
            .map_err(|_| format!("the name of column {} is not UTF-8", i + 1))?;
        if name.is_empty() {
            return Err(format!("column {} has no name", i + 1));
        }
        let column = column(name).map_err(|reason| {
            let other = [';', '\t'].into_iter().find(|mark| name.contains(*mark));
            match other {
                Some(mark) if header.len() == 1 => {
                    format!("{reason}; columns are separated by commas, not by {mark:?}")
                }
                _ => reason,
            }
        })?;
        if columns.iter().any(|known| known.same_as(&column)) {
            return Err(format!("column `{}` is there twice", preview(name)));
        }
        columns.push(column);
    }
    Ok(columns)
}

fn column(name: &str) -> Result<Column, String> {
    if let Some(param) = name.strip_prefix("params.") {
        let (param, kind) = param.split_once(':').unwrap_or((param, ""));
        return match kind {
            _ if param.is_empty() => Err(format!("column `{}` names no parameter", preview(name))),
            "" if !name.ends_with(':') => Ok(Column::Param { name: param.to_owned(), json: false }),
            "json" => Ok(Column::Param { name: param.to_owned(), json: true }),
            _ => Err(format!(
                "column `{}` ends in neither a name (its cells are text) nor `:json` (numbers, true, false, \
                 lists)",
                preview(name)
            )),
        };
    }
    if let Some(label) = name.strip_prefix("labels.") {
        if label.is_empty() {
            return Err("column `labels.` names no label".into());
        }
        return Ok(Column::Label(label.to_owned()));
    }
    Ok(match name {
        "id" => Column::Id,
        "platform" => Column::Platform,
        "account" => Column::Account,
        "api" => Column::Api,
        "not_before" => Column::NotBefore,
        "deadline" => Column::Deadline,
        "fresh_for" => Column::FreshFor,
        "once" => Column::Once,
        "priority" => Column::Priority,
        "params" | "labels" => {
            return Err(format!("column `{name}`: each has a column of its own, `{name}.NAME`"));
        }
        _ => {
            let near = did_you_mean(name, FIELDS.iter().copied());
            let shown = preview(name);
            let go_on = if near.is_empty() { "; a" } else { " A" };
            return Err(format!(
                "unknown column `{shown}`{near}{go_on} parameter's column is named `params.{shown}`"
            ));
        }
    })
}

impl Column {
    fn same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Param { name: a, .. }, Self::Param { name: b, .. }) => a == b,
            _ => self == other,
        }
    }

    /// The field or parameter, for messages.
    fn name(&self) -> String {
        match self {
            Self::Id => "id".into(),
            Self::Platform => "platform".into(),
            Self::Account => "account".into(),
            Self::Api => "api".into(),
            Self::NotBefore => "not_before".into(),
            Self::Deadline => "deadline".into(),
            Self::FreshFor => "fresh_for".into(),
            Self::Once => "once".into(),
            Self::Priority => "priority".into(),
            Self::Param { name, .. } => format!("params.{}", preview(name)),
            Self::Label(name) => format!("labels.{}", preview(name)),
        }
    }
}

fn fetch(columns: &[Column], row: &ByteRecord) -> Result<Fetch, Refusal> {
    if row.len() != columns.len() {
        let (cells, named) = (row.len(), columns.len());
        let hint = if row.as_slice().contains(&b'\n') { "; is a quote left open?" } else { "" };
        let reason = format!("the row has {cells} cells, the header {named} columns{hint}");
        return Err(Refusal::new(Code::BadCsvRow, reason));
    }
    let mut fetch = Fetch::default();
    for (column, cell) in columns.iter().zip(row) {
        let cell = str::from_utf8(cell).map_err(|_| {
            Refusal::new(Code::FetchNotUtf8, format!("`{}` is not UTF-8", column.name()))
        })?;
        let text = cell.trim();
        if !text.is_empty() {
            put(&mut fetch, column, text)?;
        }
    }
    Ok(fetch)
}

fn put(fetch: &mut Fetch, column: &Column, text: &str) -> Result<(), Refusal> {
    let wrong = |wanted: &str| {
        let reason = format!("`{}` must be {wanted}, not `{}`", column.name(), preview(text));
        Refusal::new(Code::FetchWrongType, reason)
    };
    let time =
        || text.parse::<Timestamp>().map_err(|_| wrong("a time such as 2026-11-20T03:00:00Z"));
    match column {
        Column::Id => fetch.id = Some(text.to_owned()),
        Column::Platform => fetch.platform = Some(text.to_owned()),
        Column::Account => fetch.account = Some(text.to_owned()),
        Column::Api => fetch.api = Some(text.to_owned()),
        Column::NotBefore => fetch.not_before = Some(time()?),
        Column::Deadline => fetch.deadline = Some(time()?),
        Column::FreshFor => fetch.fresh_for = Some(text.to_owned()),
        Column::Once => {
            fetch.once = match text {
                "true" => true,
                "false" => false,
                _ => return Err(wrong("true or false")),
            }
        }
        Column::Priority => {
            fetch.priority = match text {
                "high" => Priority::High,
                "normal" => Priority::Normal,
                "low" => Priority::Low,
                _ => return Err(wrong("high, normal or low")),
            }
        }
        Column::Param { name, json } => {
            let value = if *json {
                serde_json::from_str(text).map_err(|error| wrong(&format!("JSON ({error})")))?
            } else {
                Value::from(text)
            };
            fetch.params.insert(name.clone(), value);
        }
        Column::Label(name) => {
            fetch.labels.insert(name.clone(), text.to_owned());
        }
    }
    Ok(())
}

/// Gives no more than a row may have without being asked for the next one, and knows the last piece it gave.
#[derive(Debug)]
struct Bounded<R> {
    input: R,
    /// Bytes given since the last row; set back by whoever asks for the next.
    given: usize,
    too_long: bool,
    total: u64,
    piece: Vec<u8>,
}

impl<R> Bounded<R> {
    fn new(input: R) -> Self {
        Self { input, given: 0, too_long: false, total: 0, piece: Vec::new() }
    }

    /// The byte before this place of the input; known in the last piece.
    fn byte_before(&self, place: u64) -> Option<u8> {
        let begins = self.total - self.piece.len() as u64;
        let index = place.checked_sub(begins + 1)?;
        self.piece.get(index as usize).copied()
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.given > ROW_BYTES_MAX {
            self.too_long = true;
            return Err(io::Error::other("the row is too long"));
        }
        let read = loop {
            match self.input.read(buffer) {
                // The crate would take it for the end.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.given += read;
        self.total += read as u64;
        if read > 0 {
            self.piece.clear();
            self.piece.extend_from_slice(&buffer[..read]);
        }
        Ok(read)
    }
}
