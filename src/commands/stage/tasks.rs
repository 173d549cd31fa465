//! What there is to do: objects that were not staged, or are not what they were, grouped into jobs. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::record::{Record, job_of};

/// Most inputs of one job, and most bytes of their keys and versions: its record is one small object.
const INPUTS_MAX: usize = 5_000;
const NAMES_BYTES_MAX: usize = 600 * 1024;
/// How many times smaller rows are in Parquet than in JSON that is not compressed, about.
const PACKS: u64 = 8;

/// An object that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) version: String,
    pub(super) bytes: u64,
}

/// One job to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) job: String,
    /// Keys and what tells what is there.
    pub(super) inputs: BTreeMap<String, String>,
    /// What was made of it before.
    pub(super) before: Option<Record>,
}

/// What there is to do, and what there is not.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tasks {
    pub(super) tasks: Vec<Task>,
    /// Objects that are staged as they are.
    pub(super) unchanged: u64,
    /// Objects that are gone and whose rows stay.
    pub(super) gone: u64,
    /// Jobs that should be done again and cannot be: why.
    pub(super) failed: Vec<String>,
}

/// Sorts objects into jobs of about `file_bytes` of files.
pub(super) fn tasks(
    records: Vec<Record>,
    mut objects: BTreeMap<String, Object>,
    (table, again): (&str, bool),
    file_bytes: u64,
) -> Tasks {
    let mut found = Tasks::default();
    for record in records {
        let mut inputs = BTreeMap::new();
        let (mut gone, mut changed) = (Vec::new(), again || record.table != table);
        for (key, version) in &record.inputs {
            match objects.remove(key) {
                Some(object) => {
                    changed |= object.version != *version;
                    inputs.insert(key.clone(), object.version);
                }
                None => gone.push(key),
            }
        }
        found.gone += gone.len() as u64;
        // What was left out is tried again: its version is like none.
        if !changed || inputs.is_empty() {
            found.unchanged += inputs.len() as u64;
            continue;
        }
        if let Some(first) = gone.first() {
            found.failed.push(format!(
                "{} objects should be staged again, whose rows lie in files with those of {} that are gone, such as \
                 `{first}`: they are left as they are; remove {}/{}.json and its files to have them anew",
                inputs.len(),
                gone.len(),
                super::record::RECORDS,
                record.job,
            ));
            continue;
        }
        found.tasks.push(Task { job: record.job.clone(), inputs, before: Some(record) });
    }
    let mut inputs = BTreeMap::new();
    let (mut bytes, mut names) = (0, 0);
    for (key, object) in objects {
        let is_packed = [".zst", ".gz"].iter().any(|end| key.ends_with(end));
        bytes += if is_packed { object.bytes } else { object.bytes / PACKS };
        names += key.len() + object.version.len() + 8;
        inputs.insert(key, object.version);
        if bytes >= file_bytes || names >= NAMES_BYTES_MAX || inputs.len() >= INPUTS_MAX {
            found.tasks.push(fresh(std::mem::take(&mut inputs)));
            (bytes, names) = (0, 0);
        }
    }
    if !inputs.is_empty() {
        found.tasks.push(fresh(inputs));
    }
    found
}

fn fresh(inputs: BTreeMap<String, String>) -> Task {
    Task { job: job_of(inputs.keys()), inputs, before: None }
}

impl Task {
    /// Files of what was made before.
    pub(super) fn files_before(&self) -> BTreeSet<String> {
        self.before.iter().flat_map(|record| record.files.iter().cloned()).collect()
    }
}
