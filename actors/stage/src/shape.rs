//! From records as they were read to rows: lists exploded, texts typed, what does not fit told.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{
    Array, ArrayRef, BooleanArray, RecordBatch, StringArray, StructArray, UInt32Array,
};
use arrow_schema::{ArrowError, Field, Schema, SchemaRef};
use arrow_select::filter::filter;
use arrow_select::take::take;

use crate::cast::{Caster, Misfits, data_type};
use crate::table::{From, Mismatch, Table};
use crate::tree::{Place, Tree};

/// What a worker knows of a table.
#[derive(Debug)]
pub(crate) struct Shaper {
    pub(crate) table: Arc<Table>,
    pub(crate) tree: Tree,
    casters: Vec<Caster>,
    pub(crate) schema: SchemaRef,
}

/// Rows, and those that are none.
#[derive(Debug)]
pub(crate) struct Shaped {
    pub(crate) batch: RecordBatch,
    pub(crate) misfits: Vec<Misfit>,
}

/// A row that does not fit.
#[derive(Debug)]
pub(crate) struct Misfit {
    /// Which of the records it is of.
    pub(crate) record: usize,
    pub(crate) column: usize,
    pub(crate) reason: String,
    /// The value, where there is one that another type could take.
    pub(crate) value: Option<String>,
}

/// The rows as numbers of a scope's elements; none: each element is one row, in order.
type Rows = Option<UInt32Array>;

impl Shaper {
    /// One for a table.
    ///
    /// # Errors
    /// What is wrong with it, as a sentence.
    pub(crate) fn new(table: Arc<Table>) -> Result<Self, String> {
        let tree = Tree::new(&table)?;
        let nulls: Arc<[String]> = table.nulls.clone().into();
        let mut casters = Vec::with_capacity(table.columns.len());
        let mut fields = Vec::with_capacity(table.columns.len());
        for column in &table.columns {
            let caster = Caster::new(&column.kind, column.default.as_deref(), &nulls);
            casters.push(caster.map_err(|reason| format!("column `{}`: {reason}", column.name))?);
            fields.push(Field::new(&column.name, data_type(&column.kind), !column.required));
        }
        let schema = Arc::new(Schema::new(fields));
        Ok(Self { table, tree, casters, schema })
    }

    /// The rows of records that were read as [`Tree::record_type`] says.
    pub(crate) fn records(
        &self,
        records: &StructArray,
        inputs: &[Option<String>],
    ) -> Result<Shaped, ArrowError> {
        let mut scopes: Vec<ArrayRef> = vec![Arc::new(records.clone())];
        let mut rows: Vec<Rows> = vec![None];
        let mut count = records.len();
        for place in &self.tree.explodes {
            let list = member(&scopes[place.scope], place)?;
            let list = list.as_list_opt::<i32>().ok_or_else(|| lost(place))?;
            let exploded = explode(list, &rows[place.scope], count);
            for known in &mut rows {
                *known = Some(match known.take() {
                    None => exploded.of.clone(),
                    Some(known) => take(&known, &exploded.of, None)?.as_primitive().clone(),
                });
            }
            count = exploded.of.len();
            scopes.push(list.values().clone());
            rows.push(Some(exploded.elements));
        }
        let mut texts = Vec::with_capacity(self.tree.columns.len());
        for place in &self.tree.columns {
            let Some(place) = place else {
                texts.push(None);
                continue;
            };
            let leaf = member(&scopes[place.scope], place)?;
            let leaf = leaf.as_string_opt::<i32>().ok_or_else(|| lost(place))?.clone();
            texts.push(Some((leaf, place.scope)));
        }
        self.finish(texts, &rows, count, inputs)
    }

    /// The rows of columns of text, one row each.
    pub(crate) fn columns(
        &self,
        columns: Vec<Option<StringArray>>,
        count: usize,
        inputs: &[Option<String>],
    ) -> Result<Shaped, ArrowError> {
        let texts = columns.into_iter().map(|column| column.map(|texts| (texts, 0))).collect();
        self.finish(texts, &[None], count, inputs)
    }

    fn finish(
        &self,
        texts: Vec<Option<(StringArray, usize)>>,
        rows: &[Rows],
        count: usize,
        inputs: &[Option<String>],
    ) -> Result<Shaped, ArrowError> {
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(texts.len());
        // The first reason of each row: column, reason, value.
        let mut bad: BTreeMap<usize, (usize, String, Option<String>)> = BTreeMap::new();
        for (number, text) in texts.into_iter().enumerate() {
            let column = &self.table.columns[number];
            let (texts, rows) = if let Some((texts, scope)) = text {
                (texts, rows[scope].clone())
            } else {
                let value = inputs.get(number).cloned().flatten();
                (StringArray::from(vec![value]), Some(UInt32Array::from(vec![0; count])))
            };
            let (array, misfits): (ArrayRef, Misfits) = self.casters[number].cast(&texts);
            if !misfits.is_empty() {
                let reasons: BTreeMap<usize, String> = misfits.into_iter().collect();
                for row in 0..count {
                    let Some(element) = element(&rows, row) else { continue };
                    let Some(reason) = reasons.get(&element) else { continue };
                    let value = texts.value(element).to_owned();
                    bad.entry(row).or_insert_with(|| (number, reason.clone(), Some(value)));
                }
            }
            let array = match &rows {
                None => array,
                Some(rows) => take(&array, rows, None)?,
            };
            if column.required && array.null_count() > 0 {
                for row in (0..count).filter(|row| array.is_null(*row)) {
                    let reason = || (number, "is required and not there".to_owned(), None);
                    bad.entry(row).or_insert_with(reason);
                }
            }
            arrays.push(array);
        }
        if !bad.is_empty() {
            let good: BooleanArray = (0..count).map(|row| Some(!bad.contains_key(&row))).collect();
            for array in &mut arrays {
                *array = filter(array, &good)?;
            }
        }
        let misfits = bad.into_iter().map(|(row, (column, reason, value))| {
            let record = element(&rows[0], row).unwrap_or(row);
            Misfit { record, column, reason, value }
        });
        let misfits = misfits.collect();
        Ok(Shaped { batch: RecordBatch::try_new(self.schema.clone(), arrays)?, misfits })
    }

    /// The column's type becomes this one, so that it takes a value that did not fit; none: it does not widen.
    pub(crate) fn widened(&self, misfit: &Misfit) -> Option<crate::table::Kind> {
        if self.table.mismatch != Mismatch::Widen {
            return None;
        }
        let value = StringArray::from(vec![misfit.value.as_deref()?]);
        let nulls: Arc<[String]> = Arc::new([]);
        let column = &self.table.columns[misfit.column];
        let mut kind = column.kind.clone();
        loop {
            kind = kind.wider()?;
            // A default that fitted fits what is wider.
            let caster = Caster::new(&kind, None, &nulls).ok()?;
            if caster.cast(&value).1.is_empty() {
                return Some(kind);
            }
        }
    }

    /// Whether every value of a partition is the same for all rows of an input.
    pub(crate) fn partition_is_of_input(&self) -> bool {
        let columns = &self.table.columns;
        self.table.partition.iter().all(|at| matches!(columns[*at].from, From::Input(_)))
    }
}

/// The element that a row is of.
fn element(rows: &Rows, row: usize) -> Option<usize> {
    match rows {
        None => Some(row),
        Some(rows) => rows.is_valid(row).then(|| rows.value(row) as usize),
    }
}

fn lost(place: &Place) -> ArrowError {
    ArrowError::SchemaError(format!("`{}` was read as another type", place.members.join(".")))
}

/// What stands below the elements of a scope.
fn member(scope: &ArrayRef, place: &Place) -> Result<ArrayRef, ArrowError> {
    let mut array = scope.clone();
    for name in &place.members {
        let object = array.as_struct_opt().ok_or_else(|| lost(place))?;
        array = object.column_by_name(name).ok_or_else(|| lost(place))?.clone();
    }
    Ok(array)
}

struct Exploded {
    /// Of which row each new one is.
    of: UInt32Array,
    /// The element of the list; null where the list is empty, null or not there: the row stays, without one.
    elements: UInt32Array,
}

fn explode(list: &arrow_array::ListArray, rows: &Rows, count: usize) -> Exploded {
    let offsets = list.offsets();
    let most = list.values().len().max(count);
    let (mut of, mut elements) = (Vec::with_capacity(most), Vec::with_capacity(most));
    for row in 0..count {
        let range = match element(rows, row) {
            Some(at) if list.is_valid(at) => offsets[at]..offsets[at + 1],
            _ => 0..0,
        };
        if range.is_empty() {
            of.push(row as u32);
            elements.push(None);
        }
        for at in range {
            of.push(row as u32);
            elements.push(Some(at as u32));
        }
    }
    Exploded { of: UInt32Array::from(of), elements: UInt32Array::from(elements) }
}
