//! Cuts a CSV into pieces of rows, read by csv as its bytes come.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, Read};
use std::rc::Rc;

use arrow_array::builder::StringBuilder;

use crate::cast::shown;
use crate::piece::{Bad, Body, Cease, Gone, PIECE_BYTES, Send, Source, start};
use crate::table::{From, Unknown};

/// Rows of CSV that one piece has.
const PIECE_ROWS: usize = 8_192;
/// Read behind the end of a CSV: a line of its own, unless quotes are open there. One field, whatever separates them.
const CSV_END: &[u8] = b"\n\0endofthetext\0\n";

impl Source<'_> {
    pub(crate) fn fields(
        &self,
        input: &mut dyn Read,
        separator: u8,
        send: &mut Send<'_>,
    ) -> Result<(), Cease> {
        let (left, seen) = (Rc::new(Cell::new(0)), Rc::new(RefCell::new(Seen::default())));
        let (held, mark) = start(input)?;
        let input = held.as_slice().chain(input);
        let bounded = Bounded { input, left: Rc::clone(&left), seen: Rc::clone(&seen) };
        let mut reader = csv::ReaderBuilder::new()
            .delimiter(separator)
            .flexible(true)
            .has_headers(false)
            .from_reader(bounded.chain(CSV_END));
        let mut record = csv::ByteRecord::new();
        // A record, and what the reader reads ahead.
        let allow = || left.set(self.bounds.record_bytes_max + 128 * 1024);
        allow();
        let mut fields: Option<Fields> = None;
        loop {
            let more = reader.read_byte_record(&mut record);
            allow();
            let from = record.position().map_or(0, csv::Position::byte);
            let (offset, line) = seen.borrow_mut().begin(from);
            let (offset, size) = (offset + mark as u64, seen.borrow().size);
            match more {
                // What is read behind the last byte: a record of its own, but for a quote that does not end.
                Ok(true)
                    if reader.position().byte() > size
                        && record.as_slice() == CSV_END.trim_ascii() =>
                {
                    break;
                }
                Ok(true) if is_unended(&record, reader.position(), size) => {
                    let reason =
                        "quotes that begin in it do not end: what follows is taken as text";
                    let mut raw: Vec<u8> = record.iter().collect::<Vec<_>>().join(&separator);
                    raw.truncate(raw.len() - CSV_END.len());
                    if let Some(fields) = &mut fields {
                        fields.send(self, send)?;
                    }
                    let bad = vec![Bad::new(line, offset, reason, &raw)];
                    send(self.piece(line, offset, Body::Bad(bad)))?;
                    return Ok(());
                }
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
                    Ok((_, unknown))
                        if self.table.unknown == Unknown::Quarantine && !unknown.is_empty() =>
                    {
                        // Every row has the field.
                        let name = shown(&unknown[0], 80);
                        let reason = format!("no column takes `{name}`: no row of it is taken");
                        let bad = vec![Bad::new(0, 0, reason, record.as_slice())];
                        send(self.piece(0, 0, Body::Bad(bad)))?;
                        return Ok(());
                    }
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
            if fields.is_much() {
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

/// Fields of CSV on their way into a piece.
struct Fields {
    places: Vec<Option<usize>>,
    is_of_input: Vec<bool>,
    width: usize,
    builders: Vec<StringBuilder>,
    /// The line that each row begins in.
    lines: Vec<u64>,
    bytes: usize,
    offset: u64,
    bad: Vec<Bad>,
}

impl Fields {
    fn new(places: Vec<Option<usize>>, columns: &[crate::table::Column], width: usize) -> Self {
        let builders = places.iter().map(|_| StringBuilder::new()).collect();
        let is_of_input = columns.iter().map(|column| matches!(column.from, From::Input(_)));
        let is_of_input = is_of_input.collect();
        let (lines, bytes, offset, bad) = (Vec::new(), 0, 0, Vec::new());
        Self { places, is_of_input, width, builders, lines, bytes, offset, bad }
    }

    fn is_much(&self) -> bool {
        self.lines.len() + self.bad.len() >= PIECE_ROWS || self.bytes >= PIECE_BYTES
    }

    fn take(&mut self, record: &csv::ByteRecord, line: u64, offset: u64) {
        if self.lines.is_empty() {
            self.offset = offset;
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
        self.lines.push(line);
    }

    fn send(&mut self, source: &Source<'_>, send: &mut Send<'_>) -> Result<(), Gone> {
        let bad = std::mem::take(&mut self.bad);
        if !bad.is_empty() {
            send(source.piece(bad[0].record, 0, Body::Bad(bad)))?;
        }
        let lines = std::mem::take(&mut self.lines);
        self.bytes = 0;
        if let Some(first) = lines.first().copied() {
            let columns = self.builders.iter_mut().zip(&self.is_of_input);
            let columns = columns.map(|(builder, of_input)| {
                let texts = builder.finish();
                (!of_input).then_some(texts)
            });
            let body = Body::Columns(columns.collect(), lines);
            send(source.piece(first, self.offset, body))?;
        }
        Ok(())
    }
}

/// Whether the end of the input, which is all that is behind it, was taken as text.
fn is_unended(record: &csv::ByteRecord, at: &csv::Position, size: u64) -> bool {
    at.byte() >= size + CSV_END.len() as u64
        && record.iter().next_back().is_some_and(|field| field.ends_with(CSV_END))
}

/// Ends with an error after so many bytes, and remembers where lines begin.
struct Bounded<R> {
    input: R,
    left: Rc<Cell<u64>>,
    seen: Rc<RefCell<Seen>>,
}

/// Where lines begin that are not blank: the reader's own position is before the blank ones.
struct Seen {
    /// What was read.
    size: u64,
    /// Where they begin, and their numbers, from the record that was read last.
    starts: VecDeque<(u64, u64)>,
    line: u64,
    is_start: bool,
}

impl Default for Seen {
    fn default() -> Self {
        Self { size: 0, starts: VecDeque::new(), line: 1, is_start: true }
    }
}

impl Seen {
    fn take(&mut self, bytes: &[u8]) {
        for (at, byte) in (self.size..).zip(bytes) {
            let is_end = matches!(byte, b'\n' | b'\r');
            if self.is_start && !is_end {
                self.starts.push_back((at, self.line));
            }
            self.line += u64::from(*byte == b'\n');
            self.is_start = is_end;
        }
        self.size += bytes.len() as u64;
    }

    /// Where the record begins that was read from there on, and its line.
    fn begin(&mut self, from: u64) -> (u64, u64) {
        while self.starts.front().is_some_and(|(at, _)| *at < from) {
            self.starts.pop_front();
        }
        self.starts.front().copied().unwrap_or((from, self.line))
    }
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
        self.seen.borrow_mut().take(&buffer[..read]);
        let left = self.left.get().checked_sub(read as u64);
        self.left.set(left.ok_or_else(|| io::Error::other(TooLarge))?);
        Ok(read)
    }
}
