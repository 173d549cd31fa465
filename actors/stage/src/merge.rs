//! Small files become larger ones: the same rows, in files of the same columns.
//!
//! Nothing is read as anything else than it was written as: a file whose columns are others, because a type was widened
//! or a column was added since, is not taken.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::job::{Bounds, File, Halt};
use crate::write::{Files, Writer};

/// Rows that are decoded at once.
const ROWS: usize = 8 * 1024;

/// A file to be merged.
pub struct Small {
    /// The folder that it lies in, and the merged one will: nothing, or one of partitions.
    pub folder: String,
    /// All of it.
    pub bytes: Bytes,
}

impl std::fmt::Debug for Small {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Small").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// What became of files that were to be merged.
#[derive(Debug, Default)]
pub struct Merged {
    /// The new files, visible.
    pub files: Vec<File>,
    /// For each file that was given, in order: whether its rows are in the new ones.
    pub taken: Vec<bool>,
}

/// Puts the rows of files together, those of a folder in one file of at most about `bounds.file_bytes`, or in several.
/// The first file says what the columns are. `sort`: names of columns by which each row group is sorted. Blocks; holds
/// one of the files at a time.
///
/// # Errors
/// [`Halt`], and the files that are visible all the same.
pub fn merge(
    small: impl Iterator<Item = io::Result<Small>>,
    (files, name): (&dyn Files, &str),
    sort: &[String],
    bounds: &Bounds,
    stop: &AtomicBool,
) -> Result<Merged, (Halt, Vec<File>)> {
    let mut writer: Option<Writer<'_>> = None;
    let (mut taken, mut rows) = (Vec::new(), 0);
    // A file that is none may have the reader panic.
    let ran = catch_unwind(AssertUnwindSafe(|| {
        for small in small {
            if stop.load(Ordering::Relaxed) {
                return Err(Halt::Stopped);
            }
            let small = small.map_err(|error| Halt::Read("a file".to_owned(), error))?;
            let fault = |error: &dyn std::fmt::Display| Halt::Fault(error.to_string());
            let reader = ParquetRecordBatchReaderBuilder::try_new(small.bytes);
            let reader = reader.map_err(|error| fault(&error))?.with_batch_size(ROWS);
            let schema = Arc::clone(reader.schema());
            let new = || Writer::of(files, name, schema, sort, bounds);
            let writer = writer.get_or_insert_with(new);
            let is_alike = writer.is_of(reader.schema());
            taken.push(is_alike);
            if !is_alike {
                continue;
            }
            for batch in reader.build().map_err(|error| fault(&error))? {
                let batch = batch.map_err(|error| fault(&error))?;
                rows += batch.num_rows() as u64;
                writer.rows(small.folder.clone(), batch)?;
            }
        }
        writer.as_mut().map_or(Ok(()), Writer::finish)
    }));
    let files = writer.map(Writer::into_visible).unwrap_or_default();
    match ran.unwrap_or_else(|_| Err(Halt::Fault("a file made the reader panic".to_owned()))) {
        Ok(()) if files.iter().map(|file| file.rows).sum::<u64>() == rows => {
            Ok(Merged { files, taken })
        }
        Ok(()) => Err((Halt::Fault("rows were lost".to_owned()), files)),
        Err(halt) => Err((halt, files)),
    }
}
