//! Cuts an input into pieces that can be worked on side by side, as its bytes come.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

use arrow_array::StringArray;
use memchr::{memchr, memrchr};

use crate::cast::shown;
use crate::cut::{Cutter, Found};
use crate::job::Bounds;
use crate::table::{Format, Table};

/// Bytes read at once.
const BLOCK_BYTES: usize = 256 * 1024;
/// Bytes of lines or records that one piece has, about.
pub(crate) const PIECE_BYTES: usize = 1024 * 1024;
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
    /// Fields of CSV, and the line that each row begins in.
    Columns(Vec<Option<StringArray>>, Vec<u64>),
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
                        let line_end = memchr(b'\n', &held);
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
            let count = count(&lines, |byte| byte == b'\n');
            let size = lines.len() as u64;
            send(self.piece(first, offset, Body::Lines(lines)))?;
            first += count;
            offset += size;
        }
        Ok(())
    }

    pub(crate) fn too_large(&self) -> String {
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

/// The first bytes behind a byte order mark, and the length of that.
pub(crate) fn start(input: &mut dyn Read) -> io::Result<(Vec<u8>, usize)> {
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
    held.reserve(missing);
    let read = input.take(missing as u64).read_to_end(held)?;
    Ok(read < missing)
}

fn last_line_end(bytes: &[u8]) -> Option<usize> {
    memrchr(b'\n', bytes).map(|at| at + 1)
}

/// How many bytes are so.
pub(crate) fn count(bytes: &[u8], is_so: impl Fn(u8) -> bool) -> u64 {
    // In blocks whose count fits a byte, which the compiler makes wide instructions of.
    let blocks = bytes.chunks(255);
    blocks.map(|block| u64::from(block.iter().map(|b| u8::from(is_so(*b))).sum::<u8>())).sum()
}
