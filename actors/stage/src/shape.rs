//! From records as they were read to rows: lists exploded, texts typed, what does not fit told.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{
    Array, ArrayRef, BooleanArray, ListArray, RecordBatch, StringArray, StructArray, UInt32Array,
};
use arrow_schema::{ArrowError, Field, Schema, SchemaRef};
use arrow_select::filter::filter;
use arrow_select::take::take;

use crate::cast::{Caster, data_type};
use crate::fold::too_long;
use crate::job::Halt;
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

/// Rows that do not fit, because of one value.
#[derive(Debug)]
pub(crate) struct Misfit {
    /// Which of the records they are of.
    pub(crate) record: usize,
    /// None: it is the record as a whole.
    pub(crate) column: Option<usize>,
    pub(crate) reason: String,
    /// The value, where there is one that another type could take.
    pub(crate) value: Option<String>,
}

/// Rows that are made at once, and bytes of their texts, about: what stands once in a record stands in each of its rows.
const SLICE_ROWS: usize = 8_192;
const SLICE_BYTES: usize = 8 * 1024 * 1024;

/// The rows as numbers of a scope's elements; none: each element is one row, in order.
type Rows = Option<UInt32Array>;

/// Takes rows as they are made.
pub(crate) type Take<'t> = dyn FnMut(Shaped) -> Result<(), Halt> + 't;

/// The values of a column for each element of its scope.
struct Cast {
    texts: StringArray,
    array: ArrayRef,
    misfits: BTreeMap<usize, String>,
    /// None: the one value is that of the input.
    scope: Option<usize>,
}

/// What was told already: a value that does not fit is told once, however many rows it stands in. The column, the
/// element of its scope if it is of one, the record.
type Told = HashSet<(usize, Option<usize>, usize)>;

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
        rows_max: u64,
        out: &mut Take<'_>,
    ) -> Result<(), Halt> {
        let mut scopes: Vec<ArrayRef> = vec![Arc::new(records.clone())];
        let mut found = Vec::with_capacity(self.tree.explodes.len());
        for place in &self.tree.explodes {
            let list = member(&scopes[place.scope], place)?;
            let values = list.as_list_opt::<i32>().ok_or_else(|| lost(place))?.values().clone();
            scopes.push(values);
            found.push(list);
        }
        let lists: Vec<&ListArray> = found.iter().map(AsArray::as_list::<i32>).collect();
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
        let columns = self.cast(texts, inputs);
        let mut told = Told::new();
        if lists.is_empty() {
            return self.slices(&columns, vec![None], records.len(), &mut told, out);
        }
        let counts = self.counts(&lists, &scopes);
        let mut group = Vec::new();
        let mut rows = 0;
        for (record, count) in counts.into_iter().enumerate() {
            if count > rows_max {
                let reason = format!("its lists give {count} rows, more than {rows_max}");
                let misfit = Misfit { record, column: None, reason, value: None };
                let batch = RecordBatch::new_empty(self.schema.clone());
                out(Shaped { batch, misfits: vec![misfit] })?;
                continue;
            }
            group.push(record as u32);
            rows += count;
            if rows >= SLICE_ROWS as u64 {
                rows = 0;
                self.group(std::mem::take(&mut group), &lists, &columns, &mut told, out)?;
            }
        }
        self.group(group, &lists, &columns, &mut told, out)
    }

    /// How many rows each record becomes.
    fn counts(&self, lists: &[&ListArray], scopes: &[ArrayRef]) -> Vec<u64> {
        // Of each element of a scope, by the lists in it; a list comes after the one it is in.
        let mut counts: Vec<Vec<u64>> = scopes.iter().map(|scope| vec![1; scope.len()]).collect();
        for (number, list) in lists.iter().enumerate().rev() {
            let (before, own) = counts.split_at_mut(number + 1);
            let outer = &mut before[self.tree.explodes[number].scope];
            let offsets = list.offsets();
            for (element, count) in outer.iter_mut().enumerate() {
                let inside = if list.is_valid(element) {
                    &own[0][offsets[element] as usize..offsets[element + 1] as usize]
                } else {
                    &[]
                };
                let sum = inside.iter().fold(0_u64, |sum, more| sum.saturating_add(*more));
                *count = count.saturating_mul(sum.max(1));
            }
        }
        counts.swap_remove(0)
    }

    /// The rows of some of the records.
    fn group(
        &self,
        records: Vec<u32>,
        lists: &[&ListArray],
        columns: &[Cast],
        told: &mut Told,
        out: &mut Take<'_>,
    ) -> Result<(), Halt> {
        let mut count = records.len();
        let mut rows: Vec<Rows> = vec![Some(UInt32Array::from(records))];
        for (place, list) in self.tree.explodes.iter().zip(lists) {
            let exploded = explode(list, &rows[place.scope], count);
            for known in &mut rows {
                *known = Some(match known.take() {
                    None => exploded.of.clone(),
                    Some(known) => take(&known, &exploded.of, None)?.as_primitive().clone(),
                });
            }
            count = exploded.of.len();
            rows.push(Some(exploded.elements));
        }
        self.slices(columns, rows, count, told, out)
    }

    /// The rows, so many at once that their texts are held.
    fn slices(
        &self,
        columns: &[Cast],
        mut rows: Vec<Rows>,
        count: usize,
        told: &mut Told,
        out: &mut Take<'_>,
    ) -> Result<(), Halt> {
        // Of the input: in each row the same.
        let mut each = 0;
        let mut texts = Vec::new();
        for cast in columns {
            let Some(array) = cast.array.as_string_opt::<i32>() else { continue };
            match cast.scope {
                Some(scope) => texts.push((array, scope)),
                None if array.is_valid(0) => each += array.value(0).len(),
                None => {}
            }
        }
        if let [None] = rows[..] {
            // What is of the records is held once already, and not made again.
            if each.saturating_mul(count) <= SLICE_BYTES {
                return out(self.finish(columns, &rows, count, told)?);
            }
            rows = vec![Some(UInt32Array::from_iter_values(0..count as u32))];
        }
        let bytes = |row: usize| {
            let of = |(array, scope): &(&StringArray, usize)| {
                element(&rows[*scope], row).map_or(0, |at| array.value_length(at) as usize)
            };
            each + texts.iter().map(of).sum::<usize>()
        };
        let mut from = 0;
        while from < count {
            let (mut to, mut size) = (from, 0);
            while to < count && to - from < SLICE_ROWS && size < SLICE_BYTES {
                size += bytes(to);
                to += 1;
            }
            let slice = |rows: &Rows| rows.as_ref().map(|rows| rows.slice(from, to - from));
            let slices: Vec<Rows> = rows.iter().map(slice).collect();
            out(self.finish(columns, &slices, to - from, told)?)?;
            from = to;
        }
        Ok(())
    }

    /// The rows of columns of text, one row each.
    pub(crate) fn columns(
        &self,
        columns: Vec<Option<StringArray>>,
        count: usize,
        inputs: &[Option<String>],
        out: &mut Take<'_>,
    ) -> Result<(), Halt> {
        let texts = columns.into_iter().map(|column| column.map(|texts| (texts, 0))).collect();
        let columns = self.cast(texts, inputs);
        self.slices(&columns, vec![None], count, &mut Told::new(), out)
    }

    fn cast(
        &self,
        texts: Vec<Option<(StringArray, usize)>>,
        inputs: &[Option<String>],
    ) -> Vec<Cast> {
        let columns = texts.into_iter().enumerate().map(|(number, text)| {
            let (texts, scope) = text.map_or_else(
                || (StringArray::from(vec![inputs.get(number).cloned().flatten()]), None),
                |(texts, scope)| (texts, Some(scope)),
            );
            let (array, misfits) = self.casters[number].cast(&texts);
            let mut misfits: BTreeMap<usize, String> = misfits.into_iter().collect();
            if self.table.partition.contains(&number) {
                misfits.extend(too_long(&self.table.columns[number].name, &array));
            }
            Cast { texts, array, misfits, scope }
        });
        columns.collect()
    }

    fn finish(
        &self,
        columns: &[Cast],
        rows: &[Rows],
        count: usize,
        told: &mut Told,
    ) -> Result<Shaped, ArrowError> {
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(columns.len());
        // Why each row is none, the first reason: the column and the element of its scope.
        let mut bad: BTreeMap<usize, (usize, Option<usize>)> = BTreeMap::new();
        for (number, cast) in columns.iter().enumerate() {
            let rows = match cast.scope {
                Some(scope) => rows[scope].clone(),
                None => Some(UInt32Array::from(vec![0; count])),
            };
            if !cast.misfits.is_empty() {
                for row in 0..count {
                    let element = element(&rows, row);
                    if element.is_some_and(|element| cast.misfits.contains_key(&element)) {
                        bad.entry(row).or_insert((number, element));
                    }
                }
            }
            let array = match &rows {
                None => cast.array.clone(),
                Some(rows) => take(&cast.array, rows, None)?,
            };
            if self.table.columns[number].required && array.null_count() > 0 {
                for row in (0..count).filter(|row| array.is_null(*row)) {
                    bad.entry(row).or_insert((number, element(&rows, row)));
                }
            }
            arrays.push(array);
        }
        let mut misfits = Vec::new();
        if !bad.is_empty() {
            let good: BooleanArray = (0..count).map(|row| Some(!bad.contains_key(&row))).collect();
            for array in &mut arrays {
                *array = filter(array, &good)?;
            }
            for (row, (column, at)) in bad {
                let cast = &columns[column];
                let record = element(&rows[0], row).unwrap_or(row);
                if !told.insert((column, at.filter(|_| cast.scope.is_some()), record)) {
                    continue;
                }
                let misfit = at.and_then(|at| Some((at, cast.misfits.get(&at)?)));
                let (reason, value) = match misfit {
                    Some((at, reason)) => (reason.clone(), Some(cast.texts.value(at).to_owned())),
                    None => ("is required and not there".to_owned(), None),
                };
                misfits.push(Misfit { record, column: Some(column), reason, value });
            }
        }
        Ok(Shaped { batch: RecordBatch::try_new(self.schema.clone(), arrays)?, misfits })
    }

    /// The column's type becomes this one, so that it takes a value that did not fit; none: it does not widen.
    pub(crate) fn widened(&self, misfit: &Misfit) -> Option<crate::table::Kind> {
        if self.table.mismatch != Mismatch::Widen {
            return None;
        }
        let value = StringArray::from(vec![misfit.value.as_deref()?]);
        let column = misfit.column?;
        let nulls: Arc<[String]> = Arc::new([]);
        let mut kind = self.table.columns[column].kind.clone();
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

fn explode(list: &ListArray, rows: &Rows, count: usize) -> Exploded {
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
