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

/// Sorts objects into jobs of about `file_bytes` of files. `is_complete`: whether the fetch of a key's folder is there
/// as a whole, so that an object that is not is none of it any more; else it was removed to save room, and its rows stay.
pub(super) fn tasks(
    records: Vec<Record>,
    mut objects: BTreeMap<String, Object>,
    is_complete: impl Fn(&str) -> bool,
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
                // The fetch was collected again and has fewer pages now: their rows go.
                None if is_complete(key) => changed = true,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(keys: &[(&str, &str)]) -> BTreeMap<String, Object> {
        let object = |version: &str| Object { version: version.to_owned(), bytes: 80 };
        keys.iter().map(|(key, version)| ((*key).to_owned(), object(version))).collect()
    }

    fn record(task: &Task) -> Record {
        let mut record = Record::new(&task.job, "t", task.inputs.clone());
        record.files.push("a.parquet".to_owned());
        record
    }

    #[test]
    fn what_is_staged_is_left_and_what_changed_is_done_with_its_job() {
        let first = tasks(
            Vec::new(),
            objects(&[("a/1", "1"), ("a/2", "1"), ("b/1", "1")]),
            |_| false,
            ("t", false),
            20,
        );
        // Two of 10 bytes each, as Parquet, fill a file.
        assert_eq!(first.tasks.iter().map(|task| task.inputs.len()).collect::<Vec<_>>(), [2, 1]);
        let records: Vec<Record> = first.tasks.iter().map(record).collect();
        let again = |keys: &[(&str, &str)], complete: &[&str], table| {
            let is_complete = |key: &str| complete.iter().any(|folder| key.starts_with(folder));
            tasks(records.clone(), objects(keys), is_complete, (table, false), 20)
        };
        let same = again(&[("a/1", "1"), ("a/2", "1"), ("b/1", "1")], &[], "t");
        assert_eq!((same.tasks.len(), same.unchanged), (0, 3));
        let changed = again(&[("a/1", "2"), ("a/2", "1"), ("b/1", "1"), ("c/1", "1")], &[], "t");
        assert_eq!((changed.tasks.len(), changed.unchanged), (2, 1));
        assert_eq!(changed.tasks[0].job, first.tasks[0].job);
        assert_eq!(changed.tasks[0].files_before().len(), 1);
        // A page less of a fetch that is there, objects that were cleared away, and both at once.
        let fewer = again(&[("a/1", "1"), ("b/1", "1")], &["a/"], "t");
        assert_eq!((fewer.tasks.len(), fewer.tasks[0].inputs.len(), fewer.gone), (1, 1, 0));
        let cleared = again(&[("b/1", "1")], &[], "t");
        assert_eq!((cleared.tasks.len(), cleared.gone, cleared.failed.len()), (0, 2, 0));
        let both = again(&[("a/1", "2"), ("b/1", "1")], &[], "t");
        assert_eq!((both.tasks.len(), both.gone, both.failed.len()), (0, 1, 1));
        // Declared otherwise, everything is done anew.
        assert_eq!(again(&[("a/1", "1"), ("a/2", "1"), ("b/1", "1")], &[], "u").tasks.len(), 2);
    }
}
