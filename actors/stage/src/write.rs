//! Rows to Parquet files of a target size, one set of them for each partition, within a bound of memory.

use std::collections::HashMap;
use std::io::{self, Write};
use std::sync::Arc;

use arrow_array::{Array, ArrayRef, RecordBatch};
use arrow_ord::partition::partition;
use arrow_ord::sort::{SortColumn, SortOptions, lexsort_to_indices, sort};
use arrow_schema::{ArrowError, DataType, SchemaRef};
use arrow_select::concat::{concat, concat_batches};
use arrow_select::take::take_record_batch;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;

use crate::job::{Bounds, File, Halt};
use crate::shape::Shaper;

/// Bytes of rows of a partition that are written at once: those that a file is begun for, and, not to keep whoever makes
/// rows waiting for long, those of one that is open. Sorted, they are a row group.
const FLUSH_BYTES: usize = 8 * 1024 * 1024;
const OPEN_BYTES: usize = 256 * 1024;
const SORTED_BYTES: usize = 32 * 1024 * 1024;
/// Bytes of rows that wait over all partitions.
const HELD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Rows of a row group, and its bytes before they are compressed again.
const GROUP_ROWS: usize = 1024 * 1024;
const GROUP_BYTES: usize = 64 * 1024 * 1024;
/// Bytes of row groups in the making, over all files.
const MAKING_BYTES_MAX: usize = 96 * 1024 * 1024;
/// Values of a column that are compared before a file is begun: a few, which tell enough of most columns, then many.
const GLANCED_ROWS: usize = 1_024;
const COMPARED_ROWS: usize = 128 * 1024;

/// Where files go.
pub trait Files: Sync {
    /// Begins a file, which is visible after [`Out::finish`] only.
    ///
    /// # Errors
    /// It cannot be begun.
    fn create(&self, path: &str) -> io::Result<Box<dyn Out>>;
}

/// A file on its way.
pub trait Out: Write + Send {
    /// Makes it visible, whole.
    ///
    /// # Errors
    /// It could not be stored.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// What a writer writes to, until it is taken out.
struct Through(Option<Box<dyn Out>>);

impl Write for Through {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.as_mut().ok_or(io::ErrorKind::BrokenPipe)?.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.as_mut().ok_or(io::ErrorKind::BrokenPipe)?.flush()
    }
}

pub(crate) struct Writer<'f> {
    files: &'f dyn Files,
    name: String,
    schema: SchemaRef,
    properties: WriterProperties,
    /// The columns of files that rows are sorted by.
    sort: Vec<usize>,
    bounds: &'f Bounds,
    parts: HashMap<String, Part>,
    held: usize,
    done: Vec<File>,
    /// Bytes of the paths of all files.
    paths: usize,
}

#[derive(Default)]
struct Part {
    waiting: Vec<RecordBatch>,
    bytes: usize,
    open: Option<Open>,
    /// How many files it had.
    number: usize,
}

struct Open {
    path: String,
    writer: ArrowWriter<Through>,
    rows: u64,
}

impl<'f> Writer<'f> {
    pub(crate) fn new(
        files: &'f dyn Files,
        name: &str,
        shaper: &Shaper,
        bounds: &'f Bounds,
    ) -> Result<Self, Halt> {
        let partition = &shaper.table.partition;
        let kept: Vec<usize> =
            (0..shaper.table.columns.len()).filter(|at| !partition.contains(at)).collect();
        let schema =
            Arc::new(shaper.schema.project(&kept).map_err(|e| Halt::Fault(e.to_string()))?);
        let sort = shaper.table.sort.iter().filter(|at| !partition.contains(at));
        let sort: Vec<String> = sort.map(|at| shaper.table.columns[*at].name.clone()).collect();
        Ok(Self::of(files, name, schema, &sort, bounds))
    }

    /// One for these columns, none of which is a partition's. `sort`: some of them by name.
    pub(crate) fn of(
        files: &'f dyn Files,
        name: &str,
        schema: SchemaRef,
        sort: &[String],
        bounds: &'f Bounds,
    ) -> Self {
        let sort: Vec<usize> = sort.iter().filter_map(|name| schema.index_of(name).ok()).collect();
        let sorting = sort.iter().map(|at| SortingColumn {
            column_idx: *at as i32,
            descending: false,
            nulls_first: false,
        });
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_row_count(Some(GROUP_ROWS))
            .set_created_by(concat!("tollgate ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_sorting_columns((!sort.is_empty()).then(|| sorting.collect()))
            .build();
        Self {
            files,
            name: name.to_owned(),
            schema,
            properties,
            sort,
            bounds,
            parts: HashMap::new(),
            held: 0,
            done: Vec::new(),
            paths: 0,
        }
    }

    /// Whether its files have these columns.
    pub(crate) fn is_of(&self, schema: &SchemaRef) -> bool {
        self.schema.fields() == schema.fields()
    }

    pub(crate) fn rows(&mut self, folder: String, batch: RecordBatch) -> Result<(), Halt> {
        let most = self.bounds.partitions_max;
        if !self.parts.contains_key(&folder) && self.parts.len() >= most {
            return Err(Halt::Refused(format!(
                "the partition columns make more than {most} folders of one run's inputs"
            )));
        }
        let bytes = batch.get_array_memory_size();
        let part = self.parts.entry(folder.clone()).or_default();
        part.waiting.push(batch);
        part.bytes += bytes;
        self.held += bytes;
        let at_once = match (self.sort.is_empty(), &part.open) {
            (false, _) => SORTED_BYTES,
            (true, None) => FLUSH_BYTES,
            (true, Some(_)) => OPEN_BYTES,
        };
        if part.bytes >= at_once {
            self.flush(&folder)?;
        }
        while self.held > HELD_BYTES_MAX {
            let largest = self.parts.iter().max_by_key(|(_, part)| part.bytes);
            let Some((folder, _)) = largest else { break };
            let folder = folder.clone();
            self.flush(&folder)?;
        }
        Ok(())
    }

    /// Writes what waits of a partition.
    fn flush(&mut self, folder: &str) -> Result<(), Halt> {
        let Some(part) = self.parts.get_mut(folder) else { return Ok(()) };
        let waiting = std::mem::take(&mut part.waiting);
        self.held -= std::mem::take(&mut part.bytes);
        if waiting.is_empty() {
            return Ok(());
        }
        if part.open.is_none() {
            self.make_room()?;
        }
        let Some(part) = self.parts.get_mut(folder) else { return Ok(()) };
        if part.open.is_none() {
            part.number += 1;
            let slash = if folder.is_empty() { "" } else { "/" };
            let path = format!("{folder}{slash}{}-{:04}.parquet", self.name, part.number);
            self.paths += path.len();
            if self.paths > self.bounds.paths_bytes_max {
                return Err(Halt::Refused(format!(
                    "the paths of one run's files have more than {} bytes together: partition by less",
                    self.bounds.paths_bytes_max
                )));
            }
            let out = self.files.create(&path).map_err(Halt::Write)?;
            let properties = properties(&self.properties, &waiting)?;
            let (out, schema) = (Through(Some(out)), Arc::clone(&self.schema));
            let writer = ArrowWriter::try_new(out, schema, Some(properties));
            let writer = writer.map_err(wrote)?;
            part.open = Some(Open { path, writer, rows: 0 });
        }
        let Some(open) = &mut part.open else { return Ok(()) };
        if self.sort.is_empty() {
            for batch in &waiting {
                open.rows += batch.num_rows() as u64;
                open.writer.write(batch).map_err(wrote)?;
            }
        } else {
            let batch = concat_batches(&self.schema, &waiting)?;
            drop(waiting);
            let options = Some(SortOptions { descending: false, nulls_first: false });
            let columns = self
                .sort
                .iter()
                .map(|at| SortColumn { values: Arc::clone(batch.column(*at)), options });
            let order = lexsort_to_indices(&columns.collect::<Vec<_>>(), None)?;
            let sorted = take_record_batch(&batch, &order)?;
            open.rows += sorted.num_rows() as u64;
            open.writer.write(&sorted).map_err(wrote)?;
            // So that each row group is sorted as a whole.
            open.writer.flush().map_err(wrote)?;
        }
        if open.writer.in_progress_size() >= GROUP_BYTES {
            open.writer.flush().map_err(wrote)?;
        }
        let size = open.writer.bytes_written() + open.writer.in_progress_size();
        if size as u64 >= self.bounds.file_bytes {
            self.close(folder)?;
        }
        self.shrink()
    }

    /// Ends row groups early while all together are too large.
    fn shrink(&mut self) -> Result<(), Halt> {
        loop {
            let sizes = self.parts.values().filter_map(|part| part.open.as_ref());
            let making: usize = sizes.map(|open| open.writer.in_progress_size()).sum();
            if making <= MAKING_BYTES_MAX {
                return Ok(());
            }
            let opens = self.parts.values_mut().filter_map(|part| part.open.as_mut());
            let Some(open) = opens.max_by_key(|open| open.writer.in_progress_size()) else {
                return Ok(());
            };
            open.writer.flush().map_err(wrote)?;
        }
    }

    /// Closes the largest file where no other may be opened.
    fn make_room(&mut self) -> Result<(), Halt> {
        let open =
            self.parts.iter().filter_map(|(folder, part)| Some((folder, part.open.as_ref()?)));
        let open: Vec<_> = open
            .map(|(folder, open)| {
                (open.writer.bytes_written() + open.writer.in_progress_size(), folder)
            })
            .collect();
        if open.len() < self.bounds.open_max.max(1) {
            return Ok(());
        }
        let Some((_, folder)) = open.into_iter().max() else { return Ok(()) };
        let folder = folder.clone();
        self.close(&folder)
    }

    fn close(&mut self, folder: &str) -> Result<(), Halt> {
        let open = self.parts.get_mut(folder).and_then(|part| part.open.take());
        let Some(Open { path, mut writer, rows }) = open else { return Ok(()) };
        writer.finish().map_err(wrote)?;
        let bytes = writer.bytes_written() as u64;
        if let Some(out) = writer.inner_mut().0.take() {
            out.finish().map_err(Halt::Write)?;
        }
        self.done.push(File { path, rows, bytes });
        Ok(())
    }

    /// Closes everything.
    pub(crate) fn finish(&mut self) -> Result<(), Halt> {
        let mut folders: Vec<String> = self.parts.keys().cloned().collect();
        folders.sort_unstable();
        for folder in &folders {
            self.flush(folder)?;
            self.close(folder)?;
        }
        Ok(())
    }

    /// The files that are visible, in order of their paths; those that are not will never be.
    pub(crate) fn into_visible(mut self) -> Vec<File> {
        self.done.sort_by(|a, b| a.path.cmp(&b.path));
        self.done
    }
}

/// Those of a file that begins with these rows. A dictionary is of no use to a column whose values are all different:
/// parquet begins one all the same in each row group, and gives it up at 1 MiB.
fn properties(
    base: &WriterProperties,
    rows: &[RecordBatch],
) -> Result<WriterProperties, ArrowError> {
    let mut builder = base.clone().into_builder();
    let Some(schema) = rows.first().map(RecordBatch::schema) else { return Ok(builder.build()) };
    let count: usize = rows.iter().map(RecordBatch::num_rows).sum();
    for (at, field) in schema.fields().iter().enumerate() {
        let pieces: Vec<&dyn Array> = rows.iter().map(|batch| batch.column(at).as_ref()).collect();
        if count >= compared_min(field.data_type())
            && differ(&pieces[0].slice(0, pieces[0].len().min(GLANCED_ROWS)))?
            && differ(&concat(&pieces)?.slice(0, count.min(COMPARED_ROWS)))?
        {
            let column = ColumnPath::new(vec![field.name().clone()]);
            builder = builder.set_column_dictionary_enabled(column, false);
        }
    }
    Ok(builder.build())
}

/// How many values tell that a dictionary has no room for them: if of so many nine of ten are different, and they are
/// drawn evenly, there are about five times as many.
fn compared_min(data_type: &DataType) -> usize {
    match data_type {
        DataType::Int32 | DataType::Date32 | DataType::Decimal128(..=9, _) => 64 * 1024,
        _ => 32 * 1024,
    }
}

/// Whether of ten values nine are different.
fn differ(values: &ArrayRef) -> Result<bool, ArrowError> {
    let sorted = sort(values, None)?;
    Ok(partition(&[sorted])?.len() * 10 >= values.len() * 9)
}

fn wrote(error: ParquetError) -> Halt {
    match error {
        ParquetError::External(source) => match source.downcast::<io::Error>() {
            Ok(error) => Halt::Write(*error),
            Err(other) => Halt::Write(io::Error::other(other)),
        },
        other => Halt::Write(io::Error::other(other)),
    }
}
