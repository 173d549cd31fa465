//! Rows taken apart by the partition they lie in.

use std::collections::HashMap;

use arrow_array::cast::AsArray;
use arrow_array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow_cast::display::{ArrayFormatter, FormatOptions};
use arrow_schema::ArrowError;
use arrow_select::take::take_record_batch;

use crate::cast::{SHOWN_BYTES_MAX, readable, shown};
use crate::shape::Shaper;

/// The folder of rows without a value, as Hive and Spark have it.
const NULL_PARTITION: &str = "__HIVE_DEFAULT_PARTITION__";

/// Longest name of a folder, in bytes: file systems allow no more.
const FOLDER_BYTES_MAX: usize = 255;

/// Texts of a partition column that no folder can be called by: which, and why.
pub(crate) fn too_long(name: &str, array: &ArrayRef) -> Vec<(usize, String)> {
    // Of the types only text has a length without a bound.
    let Some(texts) = array.as_string_opt::<i32>() else { return Vec::new() };
    let name = encoded(name).len() + 1;
    let is_long = |text: &str| {
        // Encoded it has one to three times its bytes.
        name + text.len() > FOLDER_BYTES_MAX
            || (name + 3 * text.len() > FOLDER_BYTES_MAX
                && name + encoded(text).len() > FOLDER_BYTES_MAX)
    };
    let long = texts.iter().enumerate().filter(|(_, text)| text.is_some_and(is_long));
    let told = long.map(|(row, text)| {
        let text = shown(text.unwrap_or_default(), SHOWN_BYTES_MAX);
        (row, format!("`{text}` makes a folder's name of more than {FOLDER_BYTES_MAX} bytes"))
    });
    told.collect()
}

impl Shaper {
    /// Takes a batch apart by its partition columns, which are left out of the files.
    pub(crate) fn split(
        &self,
        batch: RecordBatch,
        parts: &mut Vec<(String, RecordBatch)>,
    ) -> Result<(), ArrowError> {
        let partition = &self.table.partition;
        if partition.is_empty() {
            parts.push((String::new(), batch));
            return Ok(());
        }
        let options = FormatOptions::default();
        let arrays: Vec<ArrayRef> =
            partition.iter().map(|at| readable(batch.column(*at))).collect();
        let mut columns = Vec::with_capacity(partition.len());
        for (at, array) in partition.iter().zip(&arrays) {
            let name = encoded(&self.table.columns[*at].name);
            columns.push((name, array, ArrayFormatter::try_new(array.as_ref(), &options)?));
        }
        let folder = |row: usize| {
            let mut folder = String::new();
            for (name, array, values) in &columns {
                let value = if array.is_null(row) {
                    NULL_PARTITION.to_owned()
                } else {
                    match encoded(&values.value(row).to_string()) {
                        // A folder needs a name; Hive has the same for both.
                        empty if empty.is_empty() => NULL_PARTITION.to_owned(),
                        value => value,
                    }
                };
                if !folder.is_empty() {
                    folder.push('/');
                }
                folder.push_str(name);
                folder.push('=');
                folder.push_str(&value);
            }
            folder
        };
        let kept: Vec<usize> =
            (0..batch.num_columns()).filter(|at| !partition.contains(at)).collect();
        let inside = batch.project(&kept)?;
        if self.partition_is_of_input() {
            parts.push((folder(0), inside));
            return Ok(());
        }
        let mut order: Vec<String> = Vec::new();
        let mut rows: HashMap<String, Vec<u32>> = HashMap::new();
        for row in 0..batch.num_rows() {
            let folder = folder(row);
            if let Some(rows) = rows.get_mut(&folder) {
                rows.push(row as u32);
            } else {
                order.push(folder.clone());
                rows.insert(folder, vec![row as u32]);
            }
        }
        for folder in order {
            let rows = UInt32Array::from(rows.remove(&folder).unwrap_or_default());
            parts.push((folder, take_record_batch(&inside, &rows)?));
        }
        Ok(())
    }
}

/// A name or value as a part of a path, as Hive and Spark encode it, and a little more.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for sign in text.chars() {
        // What is beyond ASCII stands as it is.
        if !sign.is_ascii() || sign.is_ascii_alphanumeric() || "-_. ".contains(sign) {
            encoded.push(sign);
        } else {
            let number = u32::from(sign);
            encoded.push('%');
            encoded.extend(
                [number / 16, number % 16]
                    .iter()
                    .filter_map(|n| char::from_digit(*n, 16))
                    .map(|digit| digit.to_ascii_uppercase()),
            );
        }
    }
    if encoded.bytes().all(|byte| byte == b'.') {
        encoded = encoded.replace('.', "%2E");
    }
    encoded
}
