//! From a piece of an input to rows and quarantine entries, on a thread of its own.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch, StructArray};
use arrow_json::ReaderBuilder;
use arrow_json::reader::Decoder;
use arrow_schema::{ArrowError, DataType, Field};
use memchr::{memchr, memchr_iter};

use crate::cast::shown;
use crate::cut::{DEPTH_MAX, Found, cut};
use crate::job::{Bounds, Change, Halt, NAME_BYTES_MAX};
use crate::piece::{Bad, Body, Facts, Gone, Piece, RAW_BYTES_MAX, count, raw_text};
use crate::shape::{Misfit, Shaped, Shaper};
use crate::table::{Kind, Mismatch, Step, Unknown};
use crate::unknown;

/// Rows that are decoded at once.
const BATCH_ROWS: usize = 8_192;
/// Most brackets of a text whose nesting is not looked at: an error of the decoder goes down recursively.
const OPENERS_MAX: usize = 10_000;
/// What a worker's stack needs for that, several times over.
pub(crate) const STACK_BYTES: usize = 64 * 1024 * 1024;
/// Most of a reason, in bytes.
const REASON_BYTES_MAX: usize = 300;
/// Rows, and entries of the quarantine, that are held before they are handed on.
const HELD_ROWS: usize = 64 * 1024;
const HELD_BYTES: usize = 4 * 1024 * 1024;
const HELD_BAD: usize = 1_024;

/// What became of a piece.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) input: Arc<Facts>,
    /// Rows by the folder of their partition, which is empty without one.
    pub(crate) parts: Vec<(String, RecordBatch)>,
    pub(crate) bad: Vec<Bad>,
}

/// Works on pieces.
pub(crate) struct Worker {
    shaper: Arc<Shaper>,
    bounds: Bounds,
    records: Reader,
    documents: Reader,
}

/// A decoder, made anew after an error.
struct Reader {
    field: Arc<Field>,
    decoder: Option<Decoder>,
}

impl Reader {
    fn new(data_type: DataType) -> Self {
        Self { field: Arc::new(Field::new("record", data_type, false)), decoder: None }
    }

    fn decode<'b>(
        &mut self,
        texts: impl Iterator<Item = &'b [u8]>,
    ) -> Result<Vec<ArrayRef>, ArrowError> {
        let mut decoder = match self.decoder.take() {
            Some(decoder) => decoder,
            None => ReaderBuilder::new_with_field(Arc::clone(&self.field))
                .with_batch_size(BATCH_ROWS)
                .with_coerce_primitive(true)
                .build_decoder()?,
        };
        let mut arrays = Vec::new();
        for text in texts {
            let mut rest = text;
            while !rest.is_empty() {
                let taken = decoder.decode(rest)?;
                rest = &rest[taken..];
                if !rest.is_empty()
                    && let Some(batch) = decoder.flush()?
                {
                    arrays.push(batch.column(0).clone());
                }
            }
        }
        if let Some(batch) = decoder.flush()? {
            arrays.push(batch.column(0).clone());
        }
        self.decoder = Some(decoder);
        Ok(arrays)
    }
}

/// A record by its place in a text, and its number.
type Span = (Range<usize>, u64);

/// The number of a record, and its text where there is one.
type Raw<'f, 'r> = dyn FnMut(usize) -> (u64, Option<&'r [u8]>) + 'f;

/// What is made of a piece on the way.
struct Making<'p> {
    text: &'p [u8],
    offset: u64,
    input: &'p Arc<Facts>,
    batches: Vec<RecordBatch>,
    /// Rows of the batches, and their bytes.
    rows: usize,
    bytes: usize,
    bad: Vec<Bad>,
    change: Change,
    /// The record whose text an entry of the quarantine has: the others of it need not repeat it.
    shown: Option<u64>,
    send: &'p mut Send<'p>,
}

/// Takes what was made of a piece, a part of it each time.
pub(crate) type Send<'s> = dyn FnMut(Made) -> Result<(), Gone> + 's;

impl Worker {
    pub(crate) fn new(shaper: &Arc<Shaper>, bounds: &Bounds) -> Self {
        let record = shaper.tree.record_type();
        let document = shaper.tree.document_type(&shaper.table.records);
        Self {
            shaper: Arc::clone(shaper),
            bounds: bounds.clone(),
            records: Reader::new(record),
            documents: Reader::new(document),
        }
    }

    /// Rows of a piece and what is none, handed on as they are made.
    ///
    /// # Errors
    /// The work cannot go on: as the table says, or because of a fault of this program.
    pub(crate) fn work(&mut self, piece: Piece, send: &mut Send<'_>) -> Result<(), Halt> {
        let Piece { input, first, offset, body } = piece;
        let mut making = Making {
            text: &[],
            offset,
            input: &input,
            batches: Vec::new(),
            rows: 0,
            bytes: 0,
            bad: Vec::new(),
            change: Change::default(),
            shown: None,
            send,
        };
        match &body {
            Body::Lines(text) => {
                making.text = text;
                self.lines(&mut making, first)?;
            }
            Body::Document(text) => {
                making.text = text;
                self.document(&mut making, first)?;
            }
            Body::Records(text, spans) => {
                making.text = text;
                self.spans(
                    &mut making,
                    (first..).zip(spans).map(|(n, span)| (span.clone(), n)).collect(),
                )?;
            }
            Body::Columns(columns, lines) => {
                let (columns, count) = (columns.clone(), lines.len());
                self.shaper.columns(columns, count, &input.values, &mut |shaped| {
                    self.shaped(&mut making, shaped, &mut |record| (lines[record], None))
                })?;
            }
            Body::Unknown(names) => {
                let kinds = names.iter().map(|name| (vec![name.clone()], Some(Kind::String)));
                let fields: unknown::Fields = kinds.collect();
                if let Some(reason) = self.unknown(&mut making.change, fields)? {
                    making.bad.push(Bad::new(0, 0, reason, b""));
                }
            }
            Body::Bad(bad) => making.bad.extend(bad.iter().cloned()),
        }
        if !making.change.is_empty() {
            return Err(Halt::Change(making.change));
        }
        self.hand_on(&mut making)
    }

    /// Hands on what was made where that is much.
    fn hand_on_much(&self, making: &mut Making<'_>) -> Result<(), Halt> {
        let is_much = making.rows >= HELD_ROWS || making.bytes >= HELD_BYTES;
        if is_much || making.bad.len() >= HELD_BAD {
            self.hand_on(making)?;
        }
        Ok(())
    }

    fn hand_on(&self, making: &mut Making<'_>) -> Result<(), Halt> {
        let batches = std::mem::take(&mut making.batches);
        let bad = std::mem::take(&mut making.bad);
        (making.rows, making.bytes) = (0, 0);
        if !making.change.is_empty() {
            // The job is begun anew.
            return Ok(());
        }
        let mut parts = Vec::with_capacity(batches.len());
        for batch in batches {
            self.shaper.split(batch, &mut parts)?;
        }
        let made = Made { input: Arc::clone(making.input), parts, bad };
        // Whoever does not want it says why.
        (making.send)(made).map_err(|Gone| Halt::Stopped)
    }

    fn lines(&mut self, making: &mut Making<'_>, first: u64) -> Result<(), Halt> {
        let text = making.text;
        let is_within =
            || text.split_inclusive(|byte| *byte == b'\n').all(|line| self.is_small(line));
        if self.shaper.table.records.is_empty()
            && self.is_plain(text)
            && (self.is_small(text) || is_within())
        {
            let lines = objects(text);
            let decoded = match lines {
                Some(_) => self.records.decode(std::iter::once(text)).unwrap_or_default(),
                None => Vec::new(),
            };
            let rows: usize = decoded.iter().map(Array::len).sum();
            // Each line is a record: none is blank, none is two, and none goes on in the next.
            if lines == Some(rows) {
                let mut before = 0;
                // Only where a row does not fit.
                let mut lines: Option<Vec<&[u8]>> = None;
                for array in decoded {
                    let count = array.len();
                    self.array(making, &array, &mut |record| {
                        let number = before + record;
                        let all = || text.split(|byte| *byte == b'\n').collect();
                        let line = lines.get_or_insert_with(all).get(number).copied();
                        (first + number as u64, line)
                    })?;
                    before += count;
                }
                return Ok(());
            }
        }
        let mut spans = Vec::new();
        let mut at = 0;
        for (number, line) in (first..).zip(text.split_inclusive(|byte| *byte == b'\n')) {
            if !line.trim_ascii().is_empty() {
                spans.push((at..at + line.len(), number));
            }
            at += line.len();
        }
        if self.shaper.table.records.is_empty() {
            return self.spans(making, spans);
        }
        for (span, number) in spans {
            let mut found = Vec::new();
            self.cut(making, span, number, &mut found);
            // Of a line that has several, all have its number.
            let records = found.into_iter().map(|(span, _)| (span, number)).collect();
            self.spans(making, records)?;
        }
        Ok(())
    }

    fn document(&mut self, making: &mut Making<'_>, first: u64) -> Result<(), Halt> {
        let text = making.text;
        if text.trim_ascii().is_empty() {
            making.bad.push(Bad::new(0, making.offset, "there is nothing in it", b""));
            return Ok(());
        }
        if self.is_plain(text)
            && let Ok(decoded) = self.documents.decode(std::iter::once(text))
            && let Some(records) = decoded
                .iter()
                .map(|array| inside(array, &self.shaper.table.records))
                .collect::<Option<Vec<ArrayRef>>>()
        {
            let (steps, bytes_max) =
                (self.shaper.table.records.clone(), self.bounds.record_bytes_max);
            let mut before = 0;
            for array in records {
                let count = array.len();
                // Only where a row does not fit.
                let mut places: Option<Vec<Range<usize>>> = None;
                self.array(making, &array, &mut |record| {
                    let places = places.get_or_insert_with(|| ranges(text, &steps, bytes_max));
                    let raw = places.get(before + record).and_then(|range| text.get(range.clone()));
                    (first + (before + record) as u64, raw)
                })?;
                before += count;
            }
            return Ok(());
        }
        let mut spans = Vec::new();
        self.cut(making, 0..text.len(), first, &mut spans);
        self.spans(making, spans)
    }

    fn is_small(&self, text: &[u8]) -> bool {
        text.len() as u64 <= self.bounds.record_bytes_max
    }

    /// Whether a text may be decoded as a whole.
    fn is_plain(&self, text: &[u8]) -> bool {
        self.shaper.table.unknown == Unknown::Ignore
            && memchr(0, text).is_none()
            && is_shallow(text)
    }

    /// The records of a part of the text; what is none goes to the bad.
    fn cut(&self, making: &mut Making<'_>, part: Range<usize>, first: u64, spans: &mut Vec<Span>) {
        let text = &making.text[part.clone()];
        let found = cut(text, &self.shaper.table.records, self.bounds.record_bytes_max);
        for (number, found) in (first..).zip(found) {
            match found {
                Found::Record(range) => {
                    let from = part.start + range.start as usize;
                    spans.push((from..part.start + range.end as usize, number));
                }
                Found::Bad(at, reason) => {
                    let raw = text.get(at as usize..).unwrap_or_default();
                    let at = making.offset + part.start as u64 + at;
                    making.bad.push(Bad::new(number, at, reason, raw));
                }
            }
        }
    }

    fn spans(&mut self, making: &mut Making<'_>, spans: Vec<Span>) -> Result<(), Halt> {
        let mut good = Vec::with_capacity(spans.len());
        for (span, number) in spans {
            let text = &making.text[span.clone()];
            let reason = if text.len() as u64 > self.bounds.record_bytes_max {
                Some(format!("the record is larger than {} bytes", self.bounds.record_bytes_max))
            } else if memchr(0, text).is_some() {
                Some("there is a NUL byte in it".to_owned())
            } else if text.trim_ascii_start().first() != Some(&b'{') {
                Some("a record is not an object".to_owned())
            } else if !is_shallow(text) {
                Some(format!("it nests more than {DEPTH_MAX} levels deep"))
            } else if self.shaper.table.unknown == Unknown::Ignore {
                None
            } else {
                match unknown::fields(text, &self.shaper.tree.root) {
                    Ok(fields) => self.unknown(&mut making.change, fields)?,
                    Err(reason) => Some(reason),
                }
            };
            match reason {
                None => good.push((span, number)),
                Some(reason) => {
                    let at = making.offset + span.start as u64;
                    making.bad.push(Bad::new(number, at, reason, text));
                    self.hand_on_much(making)?;
                }
            }
        }
        self.halve(making, &good)
    }

    /// Reads records together, and each half by itself where that fails.
    fn halve(&mut self, making: &mut Making<'_>, spans: &[Span]) -> Result<(), Halt> {
        if spans.is_empty() {
            return Ok(());
        }
        let text = making.text;
        let texts = spans.iter().map(|(span, _)| &text[span.clone()]);
        let decoded = match self.records.decode(texts) {
            Ok(arrays) if arrays.iter().map(Array::len).sum::<usize>() == spans.len() => Ok(arrays),
            Ok(_) => Err("it is not one JSON value".to_owned()),
            Err(error) => Err(told(&error)),
        };
        match decoded {
            Ok(arrays) => {
                let mut before = 0;
                for array in arrays {
                    let count = array.len();
                    self.array(making, &array, &mut |record| {
                        let (span, number) = &spans[before + record];
                        (*number, Some(&text[span.clone()]))
                    })?;
                    before += count;
                }
            }
            Err(reason) => {
                let [(span, number)] = spans else {
                    let (left, right) = spans.split_at(spans.len() / 2);
                    self.halve(making, left)?;
                    return self.halve(making, right);
                };
                let record = &text[span.clone()];
                let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(record).is_ok();
                if is_json && self.shaper.table.mismatch == Mismatch::Refuse {
                    return Err(Halt::Refused(format!(
                        "{}, record {number}: {reason}",
                        making.input.key
                    )));
                }
                let at = making.offset + span.start as u64;
                making.bad.push(Bad::new(*number, at, reason, record));
                self.hand_on_much(making)?;
            }
        }
        Ok(())
    }

    fn array(
        &self,
        making: &mut Making<'_>,
        records: &ArrayRef,
        raw: &mut Raw<'_, '_>,
    ) -> Result<(), Halt> {
        let records: &StructArray = records.as_struct();
        let (input, rows_max) = (making.input, self.bounds.rows_max);
        self.shaper.records(records, &input.values, rows_max, &mut |shaped| {
            self.shaped(making, shaped, raw)
        })
    }

    fn shaped(
        &self,
        making: &mut Making<'_>,
        shaped: Shaped,
        raw: &mut Raw<'_, '_>,
    ) -> Result<(), Halt> {
        let Shaped { batch, misfits } = shaped;
        if batch.num_rows() > 0 {
            making.rows += batch.num_rows();
            making.bytes += batch.get_array_memory_size();
            making.batches.push(batch);
        }
        for misfit in misfits {
            let (number, raw) = raw(misfit.record);
            let name = |at: usize| self.shaper.table.columns[at].name.clone();
            let column = misfit.column.map(name);
            if let Some(column) = &column
                && self.shaper.table.mismatch == Mismatch::Refuse
            {
                return Err(Halt::Refused(format!(
                    "{}, record {number}, column `{column}`: {}",
                    making.input.key, misfit.reason
                )));
            }
            if let (Some(at), Some(kind)) = (misfit.column, self.shaper.widened(&misfit)) {
                widen(&mut making.change.widen, at, kind);
                continue;
            }
            let Misfit { reason, value, .. } = misfit;
            let raw = raw.filter(|_| making.shown != Some(number));
            making.shown = Some(number);
            let raw = raw.map(raw_text).or(value.map(|value| shown(&value, RAW_BYTES_MAX)));
            making.bad.push(Bad { record: number, offset: None, column, reason, raw });
            self.hand_on_much(making)?;
        }
        self.hand_on_much(making)
    }

    /// What becomes of fields that no column takes: a reason against the record, or a change.
    fn unknown(
        &self,
        change: &mut Change,
        fields: unknown::Fields,
    ) -> Result<Option<String>, Halt> {
        let Some((path, _)) = fields.first_key_value() else { return Ok(None) };
        let told = || format!("no column takes `{}`", shown(&path.join("."), 80));
        match self.shaper.table.unknown {
            Unknown::Ignore => Ok(None),
            Unknown::Quarantine => Ok(Some(told())),
            Unknown::Refuse => Err(Halt::Refused(told())),
            Unknown::Add => {
                // A list is no column; it stays in the raw object, as what `ignore` leaves there.
                let fields = fields.into_iter().filter_map(|(path, kind)| Some((path, kind?)));
                let fields: BTreeMap<Vec<String>, Kind> =
                    fields.filter(|(path, _)| is_a_name(path)).collect();
                let both = |path: &&Vec<String>| {
                    is_around_another(&change.add, path) || is_around_another(&fields, path)
                };
                if let Some(path) = fields.keys().find(both) {
                    return Ok(Some(format!(
                        "`{}` is an object in one place and a value in another",
                        shown(&path.join("."), 80)
                    )));
                }
                let known = self.shaper.table.columns.len() + change.add.len();
                let added = fields.keys().filter(|path| !change.add.contains_key(*path));
                let columns_max = self.bounds.columns_max;
                if known + added.count() > columns_max {
                    return Ok(Some(format!(
                        "its fields would make more than {columns_max} columns"
                    )));
                }
                for (path, kind) in fields {
                    let kind = match change.add.remove(&path) {
                        Some(known) => {
                            unknown::both(Some(known), Some(kind)).unwrap_or(Kind::String)
                        }
                        None => kind,
                    };
                    change.add.insert(path, kind);
                }
                Ok(None)
            }
        }
    }
}

fn widen(widen: &mut BTreeMap<usize, Kind>, column: usize, kind: Kind) {
    match widen.get_mut(&column) {
        // Each was found by going up from the same type: the wider of two is the later one.
        Some(known) => {
            let mut up = Some(known.clone());
            while let Some(wider) = up {
                if wider == kind {
                    *known = kind;
                    return;
                }
                up = wider.wider();
            }
        }
        None => _ = widen.insert(column, kind),
    }
}

/// Whether a field may be called so as a column.
fn is_a_name(path: &[String]) -> bool {
    let bytes: usize = path.iter().map(|name| name.len() + 1).sum();
    path.iter().all(|name| !name.is_empty()) && bytes <= NAME_BYTES_MAX
}

/// Whether one of the fields lies in this one, or the other way round.
fn is_around_another(fields: &BTreeMap<Vec<String>, Kind>, path: &[String]) -> bool {
    // What begins with it comes next after it.
    let mut after = fields.range::<[String], _>((Bound::Excluded(path), Bound::Unbounded));
    after.next().is_some_and(|(other, _)| other.starts_with(path))
        || (1..path.len()).any(|length| fields.contains_key(&path[..length]))
}

/// The records in documents; none: something on the way is not there.
fn inside(array: &ArrayRef, steps: &[Step]) -> Option<ArrayRef> {
    let mut array = array.clone();
    for step in steps {
        if array.null_count() > 0 {
            return None;
        }
        array = match step {
            Step::Field(_) => array.as_struct_opt()?.column(0).clone(),
            Step::Each => array.as_list_opt::<i32>()?.values().clone(),
        };
    }
    (array.null_count() == 0).then_some(array)
}

/// Where the records of a text are that has no fault.
fn ranges(text: &[u8], steps: &[Step], bytes_max: u64) -> Vec<Range<usize>> {
    let ranges = cut(text, steps, bytes_max).into_iter().filter_map(|found| match found {
        Found::Record(range) => Some(range.start as usize..range.end as usize),
        Found::Bad(..) => None,
    });
    ranges.collect()
}

/// How many lines there are, if each begins and ends as an object does.
fn objects(text: &[u8]) -> Option<usize> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let is_one = |line: &[u8]| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        line.first() == Some(&b'{') && line.last() == Some(&b'}')
    };
    let (mut count, mut from) = (1, 0);
    for end in memchr_iter(b'\n', text) {
        if !is_one(&text[from..end]) {
            return None;
        }
        (count, from) = (count + 1, end + 1);
    }
    is_one(&text[from..]).then_some(count)
}

/// Whether a text nests no deeper than is followed; brackets in strings do not count.
fn is_shallow(text: &[u8]) -> bool {
    // The two differ by one bit.
    if text.len() <= OPENERS_MAX || count(text, |byte| byte | 0x20 == b'{') <= OPENERS_MAX as u64 {
        return true;
    }
    let (mut depth, mut deepest) = (0_usize, 0);
    let mut bytes = text.iter();
    let mut in_string = false;
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' if in_string => _ = bytes.next(),
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest <= DEPTH_MAX
}

fn told(error: &ArrowError) -> String {
    let text = error.to_string();
    shown(text.strip_prefix("Json error: ").unwrap_or(&text), REASON_BYTES_MAX)
}

/// Something that only a fault of this program can bring about.
impl From<ArrowError> for Halt {
    fn from(error: ArrowError) -> Self {
        Self::Fault(error.to_string())
    }
}
