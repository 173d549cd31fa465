//! Cuts an input into pieces that can be worked on side by side, as its bytes come.

use std::cell::Cell;
use std::io::{self, Read};
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use arrow_array::StringArray;
use arrow_array::builder::StringBuilder;

use crate::cast::shown;
use crate::cut::{Cutter, Found};
use crate::job::Bounds;
use crate::table::{Format, From, Table, Unknown};

/// Bytes read at once.
const BLOCK_BYTES: usize = 256 * 1024;
/// Bytes of lines or records that one piece has, about.
pub(crate) const PIECE_BYTES: usize = 1024 * 1024;
/// Rows of CSV that one piece has.
const PIECE_ROWS: usize = 8_192;
/// Most of a record that a quarantine entry shows, in bytes.
pub(crate) const RAW_BYTES_MAX: usize = 16 * 1024;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What the rows of one input have in common.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) key: String,
    /// The value of each column that is about the input.
    pub(crate) values: Vec<Option<String>>,
}

/// A part of an input.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) input: Arc<Facts>,
    /// The number of its first line or record, from 1.
    pub(crate) first: u64,
    /// Where it begins.
    pub(crate) offset: u64,
    pub(crate) body: Body,
}

#[derive(Debug)]
pub(crate) enum Body {
    /// Whole lines, each one JSON value.
    Lines(Vec<u8>),
    /// A whole JSON text.
    Document(Vec<u8>),
    /// Records, cut out; the same with their places.
    Records(Vec<u8>, Vec<Range<usize>>),
    /// Fields of CSV.
    Columns(Vec<Option<StringArray>>, usize),
    /// Names of a CSV's columns that no column takes.
    Unknown(Vec<String>),
    /// What is none of these.
    Bad(Vec<Bad>),
}

/// An entry of the quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bad {
    /// The line of NDJSON or CSV, the record of JSON, from 1; 0: the input as a whole.
    pub(crate) record: u64,
    pub(crate) offset: Option<u64>,
    pub(crate) column: Option<String>,
    pub(crate) reason: String,
    pub(crate) raw: Option<String>,
}

impl Bad {
    pub(crate) fn new(record: u64, offset: u64, reason: impl Into<String>, raw: &[u8]) -> Self {
        let raw = (!raw.is_empty()).then(|| raw_text(raw));
        Self { record, offset: Some(offset), column: None, reason: reason.into(), raw }
    }
}

/// The beginning of a record as text.
pub(crate) fn raw_text(raw: &[u8]) -> String {
    let cut = &raw[..raw.len().min(RAW_BYTES_MAX + 4)];
    shown(&String::from_utf8_lossy(cut), RAW_BYTES_MAX)
}

/// Nobody wants more pieces.
#[derive(Debug)]
pub(crate) struct Gone;

/// Why reading ended early.
#[derive(Debug)]
pub(crate) enum Cease {
    /// The bytes cannot be read.
    Io(io::Error),
    /// Nobody wants them.
    Gone,
}

impl std::convert::From<Gone> for Cease {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl std::convert::From<io::Error> for Cease {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Takes pieces, and waits while there are enough.
pub(crate) type Send<'a> = dyn FnMut(Piece) -> Result<(), Gone> + 'a;

pub(crate) struct Source<'a> {
    pub(crate) facts: &'a Arc<Facts>,
    pub(crate) table: &'a Table,
    pub(crate) bounds: &'a Bounds,
}

impl Source<'_> {
    pub(crate) fn pieces(
        &self,
        input: &mut dyn Read,
        format: Format,
        send: &mut Send<'_>,
    ) -> Result<(), Cease> {
        match format {
            Format::Ndjson => self.lines(input, send),
            Format::Json => self.json(input, send),
            Format::Csv => self.fields(input, self.table.separator, send),
            Format::Tsv => self.fields(input, b'\t', send),
        }
    }

    pub(crate) fn piece(&self, first: u64, offset: u64, body: Body) -> Piece {
        Piece { input: Arc::clone(self.facts), first, offset, body }
    }

    fn lines(&self, input: &mut dyn Read, send: &mut Send<'_>) -> Result<(), Cease> {
        let (mut first, mut offset) = (1, 0_u64);
        let mut held = start(input)?;
        offset += (held.1) as u64;
        let mut held = std::mem::take(&mut held.0);
        let mut ended = false;
        while !ended {
            let wanted =
                if held.len() < PIECE_BYTES { PIECE_BYTES } else { held.len() + BLOCK_BYTES };
            let filled = fill(input, &mut held, wanted);
            if filled.is_err() {
                // What was read before is kept, but for a line that is not whole.
                held.truncate(last_line_end(&held).unwrap_or(0));
                send(self.piece(first, offset, Body::Lines(std::mem::take(&mut held))))?;
            }
            ended = filled?;
            let end = if ended { Some(held.len()) } else { last_line_end(&held) };
            let Some(end) = end else {
                if held.len() as u64 > self.bounds.record_bytes_max {
                    let reason = self.too_large();
                    let bad = vec![Bad::new(first, offset, reason, &held)];
                    send(self.piece(first, offset, Body::Bad(bad)))?;
                    offset += held.len() as u64;
                    held.clear();
                    // Up to the end of the line, holding one block at most.
                    ended = loop {
                        let ended = fill(input, &mut held, BLOCK_BYTES)?;
                        let line_end = held.iter().position(|byte| *byte == b'\n');
                        let skipped = line_end.map_or(held.len(), |at| at + 1);
                        offset += skipped as u64;
                        held.drain(..skipped);
                        if line_end.is_some() || ended {
                            break ended && held.is_empty();
                        }
                    };
                    first += 1;
                }
                continue;
            };
            let rest = held.split_off(end);
            let lines = std::mem::replace(&mut held, rest);
            if lines.is_empty() {
                continue;
            }
            let count = line_ends(&lines);
            let size = lines.len() as u64;
            send(self.piece(first, offset, Body::Lines(lines)))?;
            first += count;
            offset += size;
        }
        Ok(())
    }

    fn too_large(&self) -> String {
        format!("the record is larger than {} bytes", self.bounds.record_bytes_max)
    }

    fn json(&self, input: &mut dyn Read, send: &mut Send<'_>) -> Result<(), Cease> {
        let (mut held, mark) = start(input)?;
        let filled = fill(input, &mut held, self.bounds.document_bytes_max);
        let offset = mark as u64;
        if filled.is_err() {
            send(self.piece(1, offset, Body::Document(std::mem::take(&mut held))))?;
        }
        let ended = filled?;
        if ended {
            return Ok(send(self.piece(1, offset, Body::Document(held)))?);
        }
        let mut cutter = Cutter::new(&self.table.records, self.bounds.record_bytes_max);
        let mut found = Vec::new();
        let mut batch = Batch::default();
        // What was given to the cutter before `held`.
        let mut before = 0_u64;
        let mut fresh = 0;
        let mut number = 1;
        loop {
            let goes_on = cutter.push(&held[fresh..], &mut found);
            let ended = !goes_on || {
                // Keeps what the record that is open has.
                let keep = cutter.open().unwrap_or(before + held.len() as u64);
                number =
                    self.take(&mut batch, &mut found, (&held, before, offset), number, send)?;
                held.drain(..(keep - before) as usize);
                before = keep;
                fresh = held.len();
                let wanted = held.len() + BLOCK_BYTES;
                let filled = fill(input, &mut held, wanted);
                if filled.is_err() {
                    batch.send(self, send)?;
                }
                let ended = filled?;
                ended && held.len() == fresh
            };
            if ended {
                cutter.end(&mut found);
                self.take(&mut batch, &mut found, (&held, before, offset), number, send)?;
                return Ok(batch.send(self, send)?);
            }
        }
    }

    /// Puts what was found into the batch; the number of the next record.
    fn take(
        &self,
        batch: &mut Batch,
        found: &mut Vec<Found>,
        (held, before, offset): (&[u8], u64, u64),
        first: u64,
        send: &mut Send<'_>,
    ) -> Result<u64, Gone> {
        let mut number = first;
        for found in found.drain(..) {
            match found {
                Found::Record(range) => {
                    if batch.bytes.is_empty() {
                        (batch.first, batch.offset) = (number, range.start + offset);
                    }
                    let record =
                        &held[(range.start - before) as usize..(range.end - before) as usize];
                    let from = batch.bytes.len();
                    batch.bytes.extend_from_slice(record);
                    batch.spans.push(from..batch.bytes.len());
                    if batch.bytes.len() >= PIECE_BYTES {
                        batch.send(self, send)?;
                    }
                }
                Found::Bad(at, reason) => {
                    // In order, so that the numbers of a batch are those of its records.
                    batch.send(self, send)?;
                    let raw = held.get(at.saturating_sub(before) as usize..).unwrap_or_default();
                    let bad = vec![Bad::new(number, at + offset, reason, raw)];
                    send(self.piece(number, at + offset, Body::Bad(bad)))?;
                }
            }
            number += 1;
        }
        Ok(number)
    }

    fn fields(
        &self,
        input: &mut dyn Read,
        separator: u8,
        send: &mut Send<'_>,
    ) -> Result<(), Cease> {
        let left = Rc::new(Cell::new(0));
        let (held, mark) = start(input)?;
        let bounded = Bounded { input: held.as_slice().chain(input), left: Rc::clone(&left) };
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(separator)
            .flexible(true)
            .has_headers(false)
            .from_reader(bounded);
        let mut record = csv::ByteRecord::new();
        // A record, and what the reader reads ahead.
        let allow = || left.set(self.bounds.record_bytes_max + 128 * 1024);
        allow();
        let mut fields: Option<Fields> = None;
        loop {
            let more = reader.read_byte_record(&mut record);
            allow();
            let (line, offset) =
                record.position().map_or((1, 0), |at| (at.line(), at.byte() + mark as u64));
            match more {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    if error.is_io_error() {
                        let csv::ErrorKind::Io(error) = error.into_kind() else { break };
                        if !is_too_large(&error) {
                            if let Some(fields) = &mut fields {
                                fields.send(self, send)?;
                            }
                            return Err(Cease::Io(error));
                        }
                        let at = reader.position();
                        let reason = format!("{}; nothing is read from here on", self.too_large());
                        let bad = vec![Bad::new(at.line(), at.byte() + mark as u64, reason, b"")];
                        send(self.piece(at.line(), at.byte(), Body::Bad(bad)))?;
                        break;
                    }
                    let bad = vec![Bad::new(line, offset, error.to_string(), b"")];
                    send(self.piece(line, offset, Body::Bad(bad)))?;
                    break;
                }
            }
            let Some(fields) = &mut fields else {
                match self.header(&record) {
                    Ok((header, unknown)) => {
                        if !unknown.is_empty() && self.table.unknown != Unknown::Ignore {
                            send(self.piece(1, 0, Body::Unknown(unknown)))?;
                        }
                        fields = Some(header);
                        continue;
                    }
                    Err(reason) => {
                        let bad = vec![Bad::new(0, 0, reason, record.as_slice())];
                        send(self.piece(0, 0, Body::Bad(bad)))?;
                        return Ok(());
                    }
                }
            };
            fields.take(&record, line, offset);
            if fields.rows >= PIECE_ROWS || fields.bytes >= PIECE_BYTES {
                fields.send(self, send)?;
            }
        }
        if let Some(mut fields) = fields {
            fields.send(self, send)?;
        }
        Ok(())
    }

    /// Which field each column takes, and the names that none does.
    fn header(&self, record: &csv::ByteRecord) -> Result<(Fields, Vec<String>), String> {
        let names = record.iter().map(|name| String::from_utf8_lossy(name).into_owned());
        let names: Vec<String> = names.collect();
        let mut places = Vec::with_capacity(self.table.columns.len());
        let mut taken = vec![false; names.len()];
        for column in &self.table.columns {
            let From::Path(path) = &column.from else {
                places.push(None);
                continue;
            };
            let wanted = path.join(".");
            let mut at = (0..names.len()).filter(|at| names[*at] == wanted);
            let place = at.next();
            if at.next().is_some() {
                return Err(format!("two columns are called `{}`", shown(&wanted, 80)));
            }
            if place.is_none() && column.required && column.default.is_none() {
                return Err(format!("there is no column `{}`", shown(&wanted, 80)));
            }
            if let Some(place) = place {
                taken[place] = true;
            }
            places.push(place);
        }
        if !taken.contains(&true) {
            return Err("no column of the table is in the first line".to_owned());
        }
        let unknown = names.iter().zip(&taken).filter(|(_, taken)| !**taken);
        let unknown = unknown.map(|(name, _)| name.clone()).collect();
        Ok((Fields::new(places, &self.table.columns, names.len()), unknown))
    }
}

/// Records on their way into a piece.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    spans: Vec<Range<usize>>,
    first: u64,
    offset: u64,
}

impl Batch {
    fn send(&mut self, source: &Source<'_>, send: &mut Send<'_>) -> Result<(), Gone> {
        if self.spans.is_empty() {
            return Ok(());
        }
        let body = Body::Records(std::mem::take(&mut self.bytes), std::mem::take(&mut self.spans));
        send(source.piece(self.first, self.offset, body))
    }
}

/// Fields of CSV on their way into a piece.
struct Fields {
    places: Vec<Option<usize>>,
    is_of_input: Vec<bool>,
    width: usize,
    builders: Vec<StringBuilder>,
    rows: usize,
    bytes: usize,
    first: (u64, u64),
    bad: Vec<Bad>,
}

impl Fields {
    fn new(places: Vec<Option<usize>>, columns: &[crate::table::Column], width: usize) -> Self {
        let builders = places.iter().map(|_| StringBuilder::new()).collect();
        let is_of_input = columns.iter().map(|column| matches!(column.from, From::Input(_)));
        let is_of_input = is_of_input.collect();
        let (rows, bytes, first, bad) = (0, 0, (0, 0), Vec::new());
        Self { places, is_of_input, width, builders, rows, bytes, first, bad }
    }

    fn take(&mut self, record: &csv::ByteRecord, line: u64, offset: u64) {
        if self.rows == 0 {
            self.first = (line, offset);
        }
        let reason = if record.len() != self.width {
            Some(format!("{} fields where the first line has {}", record.len(), self.width))
        } else if record.as_slice().contains(&0) {
            Some("there is a NUL byte in it".to_owned())
        } else if std::str::from_utf8(record.as_slice()).is_err() {
            Some("it is not UTF-8".to_owned())
        } else {
            None
        };
        self.bytes += record.as_slice().len();
        if let Some(reason) = reason {
            let raw: Vec<&[u8]> = record.iter().collect();
            self.bad.push(Bad::new(line, offset, reason, &raw.join(&b',')));
            return;
        }
        for (builder, place) in self.builders.iter_mut().zip(&self.places) {
            let text = place.and_then(|place| std::str::from_utf8(&record[place]).ok());
            builder.append_option(text);
        }
        self.rows += 1;
    }

    fn send(&mut self, source: &Source<'_>, send: &mut Send<'_>) -> Result<(), Gone> {
        let bad = std::mem::take(&mut self.bad);
        if !bad.is_empty() {
            send(source.piece(bad[0].record, 0, Body::Bad(bad)))?;
        }
        let rows = std::mem::take(&mut self.rows);
        self.bytes = 0;
        if rows > 0 {
            let columns = self.builders.iter_mut().zip(&self.is_of_input);
            let columns = columns.map(|(builder, of_input)| {
                let texts = builder.finish();
                (!of_input).then_some(texts)
            });
            let body = Body::Columns(columns.collect(), rows);
            send(source.piece(self.first.0, self.first.1, body))?;
        }
        Ok(())
    }
}

/// Ends with an error after so many bytes.
struct Bounded<R> {
    input: R,
    left: Rc<Cell<u64>>,
}

#[derive(Debug)]
struct TooLarge;

impl std::fmt::Display for TooLarge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("too large")
    }
}

impl std::error::Error for TooLarge {}

fn is_too_large(error: &io::Error) -> bool {
    error.get_ref().is_some_and(<dyn std::error::Error + std::marker::Send + Sync>::is::<TooLarge>)
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        let left = self.left.get().checked_sub(read as u64);
        self.left.set(left.ok_or_else(|| io::Error::other(TooLarge))?);
        Ok(read)
    }
}

/// The first bytes behind a byte order mark, and the length of that.
fn start(input: &mut dyn Read) -> io::Result<(Vec<u8>, usize)> {
    let mut held = Vec::new();
    fill(input, &mut held, BYTE_ORDER_MARK.len())?;
    if held == BYTE_ORDER_MARK {
        return Ok((Vec::new(), BYTE_ORDER_MARK.len()));
    }
    Ok((held, 0))
}

/// Reads until so many bytes are held; whether there are no more.
fn fill(input: &mut dyn Read, held: &mut Vec<u8>, wanted: usize) -> io::Result<bool> {
    let missing = wanted.saturating_sub(held.len());
    let read = input.take(missing as u64).read_to_end(held)?;
    Ok(read < missing)
}

fn last_line_end(bytes: &[u8]) -> Option<usize> {
    bytes.iter().rposition(|byte| *byte == b'\n').map(|at| at + 1)
}

fn line_ends(bytes: &[u8]) -> u64 {
    // In blocks whose count fits a byte, which the compiler makes wide instructions of.
    let blocks = bytes.chunks(255);
    blocks.map(|block| u64::from(block.iter().map(|b| u8::from(*b == b'\n')).sum::<u8>())).sum()
}
