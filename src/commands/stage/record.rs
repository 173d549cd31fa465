//! What is remembered of what was staged: one small object for each job, beside the files.

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::path::Path as FsPath;

use anyhow::{Context, bail};
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tollgate_actors::ids::Slug;
use tollgate_actors::plan::StagePlan;
use tollgate_actors::store::Store;
use tollgate_stage::{Change, Column, Format, From, Kind, Mismatch, Moment, Step, Table, Unknown};

use super::outputs;
use super::tasks::Task;

/// Folder of the records, and of the quarantine: engines read past names that begin so.
pub(super) const RECORDS: &str = "_stage";
pub(super) const QUARANTINE: &str = "_quarantine";
const COLUMNS: &str = "columns";
const VERSION: u32 = 1;
/// The form of a record while those that it replaces are there: an earlier version of this program would count both.
const VERSION_OF_SEVERAL: u32 = 2;
/// Objects that are read or removed at the same time.
pub(super) const AT_ONCE: usize = 16;
/// Largest record that is read: what a job may take and make is bounded far below it.
const RECORD_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A job that was done: what it took and what it made. It is replaced as a whole, so that files count as of one set of
/// inputs or of another, never of a mixture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) version: u32,
    /// The job.
    pub(super) job: String,
    /// Which time it is that the job is done: files of two times never share a name.
    #[serde(default)]
    pub(super) turn: u32,
    /// Which look did it: files of two processes never share a name, whatever they take one another for.
    #[serde(default)]
    pub(super) nonce: u32,
    /// Tells one declaration of the table from another.
    pub(super) table: String,
    /// Keys of objects, and what tells what was there.
    pub(super) inputs: BTreeMap<String, String>,
    /// Files, below the prefix of the table.
    pub(super) files: Vec<String>,
    pub(super) rows: u64,
    pub(super) quarantined: u64,
    /// Files that no longer count and are still to be removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) remove: Vec<String>,
    /// Jobs whose records it is in the place of, which do not count and are still to be removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) replaces: Vec<String>,
    /// Some of its objects are another record's too, and no longer among its inputs: it is to be done without them.
    #[serde(skip)]
    pub(super) is_doubled: bool,
    /// A file of it is not there: it is to be done again.
    #[serde(skip)]
    pub(super) is_torn: bool,
}

impl Record {
    pub(super) fn new(task: &Task, table: &str, nonce: u32) -> Self {
        Self {
            version: VERSION,
            job: task.job.clone(),
            turn: task.turn(),
            nonce,
            table: table.to_owned(),
            inputs: task.inputs.clone(),
            files: Vec::new(),
            rows: 0,
            quarantined: 0,
            remove: Vec::new(),
            replaces: Vec::new(),
            is_doubled: false,
            is_torn: false,
        }
    }

    /// One in the place of several, with the files of all.
    pub(super) fn of_all(records: &[&Self], nonce: u32) -> Self {
        let inputs: BTreeMap<String, String> =
            records.iter().flat_map(|record| record.inputs.clone()).collect();
        let job = job_of(inputs.keys());
        let others = records.iter().map(|record| &record.job).filter(|other| **other != job);
        Self {
            version: VERSION,
            turn: records.iter().map(|record| record.turn).max().unwrap_or(0).saturating_add(1),
            nonce,
            table: records.first().map(|record| record.table.clone()).unwrap_or_default(),
            files: records.iter().flat_map(|record| record.files.clone()).collect(),
            rows: records.iter().map(|record| record.rows).sum(),
            quarantined: records.iter().map(|record| record.quarantined).sum(),
            remove: Vec::new(),
            replaces: others.cloned().collect(),
            is_doubled: false,
            is_torn: false,
            job,
            inputs,
        }
    }

    pub(super) fn key(&self, to: &Path) -> Path {
        key_of(&self.job, to)
    }

    /// What the names of its files begin with: another set of inputs has other files, and so has the same set when it
    /// is staged again, or by another process at the same time, so that files that count are never written over, nor
    /// removed by one that was frozen and goes on.
    pub(super) fn name(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(self.turn.to_be_bytes());
        hash.update(self.nonce.to_be_bytes());
        hash.update(&self.table);
        for (key, version) in &self.inputs {
            hash.update(key);
            hash.update([0]);
            hash.update(version);
            hash.update([0]);
        }
        format!("{}-{}", self.job, short(hash, 8))
    }

    /// Whether both are of the same time that a job was done, whatever is left to remove.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        (self.turn, self.nonce, &self.files) == (other.turn, other.nonce, &other.files)
    }

    pub(super) async fn put(&mut self, store: &Store, to: &Path) -> anyhow::Result<()> {
        self.version = if self.replaces.is_empty() { VERSION } else { VERSION_OF_SEVERAL };
        Ok(outputs::put(store, self.key(to), serde_json::to_vec(self)?).await?)
    }
}

/// Where the record of a job is.
pub(super) fn key_of(job: &str, to: &Path) -> Path {
    to.clone().join(RECORDS).join(format!("{job}.json"))
}

/// The name of a job on these objects, whatever is in them.
pub(super) fn job_of<'k>(keys: impl Iterator<Item = &'k String>) -> String {
    let mut hash = Sha256::new();
    for key in keys {
        hash.update(key);
        hash.update([0]);
    }
    short(hash, 16)
}

/// Tells one declaration of a table from another: all that another set of rows may come of. `template` is that of keys.
pub(super) fn declaration(plan: &StagePlan, template: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(written(plan, template).to_string());
    short(hash, 16)
}

/// A declaration as it is hashed. A word that is another here has every table staged anew.
fn written(plan: &StagePlan, template: &str) -> Value {
    let table = &plan.table;
    let columns = table.columns.iter().map(|column| {
        let (path, input) = match &column.from {
            From::Path(path) => (Some(path), None),
            From::Input(name) => (None, Some(name)),
        };
        let (formats, zone) = match &column.kind {
            Kind::Date { formats } => (formats.clone(), None),
            Kind::Timestamp { formats, zone } => (formats.iter().map(moment).collect(), Some(zone)),
            _ => (Vec::new(), None),
        };
        json!({
            "name": column.name, "path": path, "input": input, "type": column.kind.to_string(),
            "formats": formats, "zone": zone, "default": column.default, "required": column.required,
        })
    });
    let of_keys =
        |column: &Column| matches!(&column.from, From::Input(name) if name.starts_with("part."));
    let records = table.records.iter().map(|step| match step {
        Step::Field(name) => Value::String(name.clone()),
        Step::Each => Value::Null,
    });
    json!({
        "format": table.format.map(|format| match format {
            Format::Json => "json",
            Format::Ndjson => "ndjson",
            Format::Csv => "csv",
            Format::Tsv => "tsv",
        }),
        "records": records.collect::<Vec<_>>(),
        "explode": table.explode,
        "columns": columns.collect::<Vec<_>>(),
        "partition": table.partition,
        "sort": table.sort,
        "unknown": match table.unknown {
            Unknown::Ignore => "ignore",
            Unknown::Add => "add",
            Unknown::Quarantine => "quarantine",
            Unknown::Refuse => "refuse",
        },
        "mismatch": match table.mismatch {
            Mismatch::Quarantine => "quarantine",
            Mismatch::Widen => "widen",
            Mismatch::Refuse => "refuse",
        },
        "nulls": table.nulls,
        "separator": table.separator,
        "record_bytes_max": plan.record_bytes_max,
        "key": table.columns.iter().any(of_keys).then_some(template),
    })
}

fn moment(format: &Moment) -> String {
    match format {
        Moment::Iso => "iso".to_owned(),
        Moment::Unix(per_second) => format!("unix {per_second}"),
        Moment::Format(format) => format.clone(),
    }
}

fn short(hash: Sha256, digits: usize) -> String {
    let bytes = hash.finalize();
    let halves = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    halves.filter_map(|half| char::from_digit(half.into(), 16)).take(digits).collect()
}

/// Whether a name is one that files of jobs have: `JOB-INPUTS-NUMBER.parquet`, `JOB-INPUTS.jsonl`.
pub(super) fn is_ours(name: &str) -> bool {
    let is_hex = |text: &str, digits: usize| {
        text.len() == digits
            && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let Some((stem, end)) = name.rsplit_once('.') else { return false };
    let parts: Vec<&str> = stem.split('-').collect();
    match (&parts[..], end) {
        ([job, inputs, number], "parquet") => {
            is_hex(job, 16)
                && is_hex(inputs, 8)
                && number.len() >= 4
                && number.bytes().all(|b| b.is_ascii_digit())
        }
        ([job, inputs], "jsonl") => is_hex(job, 16) && is_hex(inputs, 8),
        _ => false,
    }
}

/// Columns beyond the declared ones, and wider types, as answers made them necessary.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Columns {
    /// Of which declaration.
    pub(super) table: String,
    widen: BTreeMap<String, String>,
    add: Vec<(Vec<String>, String)>,
}

impl Columns {
    /// None yet.
    pub(super) fn of(table: &str) -> Self {
        Self { table: table.to_owned(), ..Self::default() }
    }

    pub(super) async fn read(store: &Store, to: &Path) -> anyhow::Result<Self> {
        let key = Self::key(to);
        let Some(text) = store.get(&key).await? else { return Ok(Self::default()) };
        serde_json::from_slice(&text).with_context(|| format!("read `{key}`"))
    }

    pub(super) async fn put(&self, store: &Store, to: &Path) -> anyhow::Result<()> {
        Ok(store.put_small(&Self::key(to), serde_json::to_vec(self)?.into()).await?)
    }

    fn key(to: &Path) -> Path {
        to.clone().join(RECORDS).join(format!("{COLUMNS}.json"))
    }

    /// Notes a change, and makes it in the table.
    pub(super) fn change(&mut self, change: &Change, table: &mut Table) {
        for (at, kind) in &change.widen {
            self.widen.insert(table.columns[*at].name.clone(), kind.to_string());
        }
        self.add.extend(change.add.iter().map(|(path, kind)| (path.clone(), kind.to_string())));
        change.apply(table);
    }

    /// The table with all that was noted.
    pub(super) fn apply(&self, table: &mut Table) {
        for (path, kind) in &self.add {
            let kind = Kind::of_name(kind).unwrap_or(Kind::String);
            let add = BTreeMap::from([(path.clone(), kind)]);
            Change { add, ..Change::default() }.apply(table);
        }
        for column in &mut table.columns {
            if let Some(kind) = self.widen.get(&column.name).and_then(|kind| Kind::of_name(kind)) {
                column.kind = kind;
            }
        }
    }
}

/// Every record that counts. Of those that cannot be read the first ends the work: what they made would be made twice.
pub(super) async fn read(store: &Store, to: &Path) -> anyhow::Result<Vec<Record>> {
    let mut listed = store.list(&to.clone().join(RECORDS));
    let mut keys = Vec::new();
    while let Some(one) = listed.try_next().await? {
        let name = one.key.filename().unwrap_or_default();
        if name.strip_suffix(".json").is_some_and(|name| name != COLUMNS) {
            keys.push(one.key);
        }
    }
    keys.sort_unstable();
    let mut records = Vec::with_capacity(keys.len());
    let texts = stream::iter(keys).map(|key| async move {
        let text = store.read_whole(&key, RECORD_BYTES_MAX).await;
        text.map(|text| (key, text))
    });
    let mut texts = texts.buffered(AT_ONCE);
    while let Some((key, text)) = texts.try_next().await? {
        let Some(text) = text else { continue };
        records.push(of_text(&key, &text)?);
    }
    let replaced: HashSet<String> =
        records.iter().flat_map(|record| record.replaces.iter().cloned()).collect();
    records.retain(|record| !replaced.contains(&record.job));
    Ok(records)
}

/// The record of a job as it is now.
pub(super) async fn read_one(
    store: &Store,
    job: &str,
    to: &Path,
) -> anyhow::Result<Option<Record>> {
    let key = key_of(job, to);
    let text = store.read_whole(&key, RECORD_BYTES_MAX).await?;
    text.map(|text| of_text(&key, &text)).transpose()
}

fn of_text(key: &Path, text: &[u8]) -> anyhow::Result<Record> {
    let record: Record = serde_json::from_slice(text).with_context(|| format!("read `{key}`"))?;
    if ![VERSION, VERSION_OF_SEVERAL].contains(&record.version) {
        bail!("`{key}` was written by another version of this program");
    }
    Ok(record)
}

/// Leaves each object to the first record that has it, those whose files are there before others, and marks the rest. Two have one where a second process staged
/// the table at the same time, as a node that was frozen does for a moment after another took its tables over.
pub(super) fn part(records: &mut [Record]) {
    let mut known: HashSet<&str> = HashSet::new();
    let mut doubled: Vec<(usize, String)> = Vec::new();
    let mut order: Vec<usize> = (0..records.len()).collect();
    order.sort_by_key(|number| records[*number].is_torn);
    for number in order {
        let again = records[number].inputs.keys().filter(|key| !known.insert(key));
        doubled.extend(again.map(|key| (number, key.clone())));
    }
    for (number, key) in doubled {
        records[number].inputs.remove(&key);
        records[number].is_doubled = true;
    }
}

/// Keeps others of this machine from staging the same table; two would remove each other's files.
pub(super) fn lock(state: &FsPath, name: &Slug) -> anyhow::Result<File> {
    let place = state.join(format!("stage-{name}.lock"));
    let told = || format!("use {}", place.display());
    std::fs::create_dir_all(state).with_context(told)?;
    let file = File::create(&place).with_context(told)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            bail!("stage.{name} is being staged by another process")
        }
        Err(std::fs::TryLockError::Error(error)) => Err(error).with_context(told),
    }
}
