//! What there is to do: objects that were not staged, or are not what they were, grouped into jobs. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::record::{Record, job_of};

/// Most inputs of one job, and most bytes of their keys and versions: its record is one small object.
pub(super) const INPUTS_MAX: usize = 5_000;
pub(super) const NAMES_BYTES_MAX: usize = 600 * 1024;
/// How many times smaller rows are in Parquet than in JSON that is not compressed, about.
const PACKS: u64 = 8;

/// In a version's place: the store did not give the object.
pub(super) const UNREAD: &str = "unread";

/// An object that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) version: String,
    pub(super) bytes: u64,
    /// When it was stored, in seconds since 1970.
    pub(super) written_s: i64,
}

/// A record that stays as it is, all of whose objects are there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) record: Record,
    /// When the first and the last of its objects were stored, in seconds since 1970.
    pub(super) written_s: (i64, i64),
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

/// What became of an object that was staged and may not be now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// Its fetch is there as a whole, without it: it was collected again, and the object's rows go.
    Replaced,
    /// Its fetch is being collected again: what is there is of two.
    Waits,
    /// It was removed to save room: its rows stay.
    Cleared,
}

/// What there is to do, and what there is not.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tasks {
    pub(super) tasks: Vec<Task>,
    /// Objects that are staged as they are.
    pub(super) unchanged: u64,
    /// Entries of the quarantine that stand for what is left as it is.
    pub(super) standing: u64,
    /// Objects that are gone and whose rows stay.
    pub(super) gone: u64,
    /// Jobs that are to be done again once their fetches are there as a whole.
    pub(super) waiting: u64,
    /// Jobs that should be done again and cannot be: why.
    pub(super) failed: Vec<String>,
    /// Jobs that are done again because files of theirs are not there.
    pub(super) torn: u64,
    pub(super) kept: Vec<Kept>,
}

/// Sorts objects into jobs of about `file_bytes` of files. `missing` says what became of an object that is not among
/// them, by its key and by what told it from others when it was staged.
pub(super) fn tasks(
    records: Vec<Record>,
    mut objects: BTreeMap<String, Object>,
    missing: impl Fn(&str, &str) -> Missing,
    (table, again): (&str, bool),
    file_bytes: u64,
) -> Tasks {
    let mut found = Tasks::default();
    for record in records {
        let mut inputs = BTreeMap::new();
        let mut changed = again || record.table != table || record.is_doubled || record.is_torn;
        let (mut cleared, mut waits, mut replaced) = (Vec::new(), false, false);
        let mut unread = false;
        let mut written_s = (i64::MAX, i64::MIN);
        for (key, version) in &record.inputs {
            if let Some(object) = objects.remove(key) {
                changed |= object.version != *version;
                let (first, last) = written_s;
                written_s = (first.min(object.written_s), last.max(object.written_s));
                inputs.insert(key.clone(), object.version);
                continue;
            }
            if version.starts_with(UNREAD) {
                unread = true;
                continue;
            }
            match missing(key, version) {
                Missing::Replaced => replaced = true,
                Missing::Waits => waits = true,
                Missing::Cleared => cleared.push(key),
            }
        }
        // No row was made of it: only its entry of the quarantine goes, which is worth no failure.
        replaced |= unread && cleared.is_empty();
        // All that it has is another's: its rows are there twice.
        replaced |= record.is_doubled && record.inputs.is_empty();
        found.gone += cleared.len() as u64;
        // Where all of its objects were cleared away there is nothing to make its rows of anew.
        if !replaced && (!changed || (inputs.is_empty() && !waits)) {
            found.unchanged += inputs.len() as u64;
            found.standing += record.quarantined;
            // Rows of what is gone stay apart: nothing could be done again that lies in one file with them.
            if cleared.is_empty() && !unread && !waits {
                found.kept.push(Kept { record, written_s });
            }
            continue;
        }
        if waits {
            found.waiting += 1;
            found.standing += record.quarantined;
            continue;
        }
        if let Some(first) = cleared.first() {
            found.standing += record.quarantined;
            found.failed.push(format!(
                "{} objects should be staged again, whose rows lie in files with those of {} that are gone, such as \
                 `{first}`: they are left as they are; remove {}/{}.json and its files to have them anew",
                record.inputs.len() - cleared.len(),
                cleared.len(),
                super::record::RECORDS,
                record.job,
            ));
            continue;
        }
        found.torn += u64::from(record.is_torn);
        found.tasks.push(Task { job: record.job.clone(), inputs, before: Some(record) });
    }
    let mut inputs = BTreeMap::new();
    let (mut bytes, mut names) = (0, 0);
    for (key, object) in objects {
        bytes += packed(&key, object.bytes);
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

/// Bytes of an object as rows in Parquet, about.
pub(super) fn packed(key: &str, bytes: u64) -> u64 {
    let is_packed = [".zst", ".gz"].iter().any(|end| key.ends_with(end));
    if is_packed { bytes } else { bytes / PACKS }
}

fn fresh(inputs: BTreeMap<String, String>) -> Task {
    Task { job: job_of(inputs.keys()), inputs, before: None }
}

impl Task {
    /// Which time it is that the job is done, from 1.
    pub(super) fn turn(&self) -> u32 {
        self.before.as_ref().map_or(0, |record| record.turn).saturating_add(1)
    }

    /// Whether rows were made of an object before.
    pub(super) fn has_staged(&self, key: &str) -> bool {
        let version = self.before.as_ref().and_then(|record| record.inputs.get(key));
        version.is_some_and(|version| !version.starts_with(UNREAD))
    }

    /// Files of what was made before.
    pub(super) fn files_before(&self) -> BTreeSet<String> {
        self.before.iter().flat_map(|record| record.files.iter().cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(keys: &[(&str, &str)]) -> BTreeMap<String, Object> {
        let object =
            |version: &str| Object { version: version.to_owned(), bytes: 80, written_s: 0 };
        keys.iter().map(|(key, version)| ((*key).to_owned(), object(version))).collect()
    }

    fn record(task: &Task) -> Record {
        let mut record = Record::new(task, "t", 0);
        record.files.push("a.parquet".to_owned());
        record
    }

    #[test]
    fn what_is_staged_is_left_and_what_changed_is_done_with_its_job() {
        let first = tasks(
            Vec::new(),
            objects(&[("a/1", "1"), ("a/2", "1"), ("b/1", "1")]),
            |_, _| Missing::Cleared,
            ("t", false),
            20,
        );
        // Two of 10 bytes each, as Parquet, fill a file.
        assert_eq!(first.tasks.iter().map(|task| task.inputs.len()).collect::<Vec<_>>(), [2, 1]);
        let records: Vec<Record> = first.tasks.iter().map(record).collect();
        let again = |keys: &[(&str, &str)], missing: &[(&str, Missing)], table| {
            let missing = |key: &str, _: &str| {
                let of = missing.iter().find(|(start, _)| key.starts_with(start));
                of.map_or(Missing::Cleared, |(_, missing)| *missing)
            };
            tasks(records.clone(), objects(keys), missing, (table, false), 20)
        };
        let same = again(&[("a/1", "1"), ("a/2", "1"), ("b/1", "1")], &[], "t");
        assert_eq!((same.tasks.len(), same.unchanged), (0, 3));
        let changed = again(&[("a/1", "2"), ("a/2", "1"), ("b/1", "1"), ("c/1", "1")], &[], "t");
        assert_eq!((changed.tasks.len(), changed.unchanged), (2, 1));
        assert_eq!(changed.tasks[0].job, first.tasks[0].job);
        assert_eq!(changed.tasks[0].files_before().len(), 1);
        assert_eq!((first.tasks[0].turn(), changed.tasks[0].turn()), (1, 2));
        // A page less of a fetch that is there, objects that were cleared away, and both at once.
        let fewer = again(&[("a/1", "1"), ("b/1", "1")], &[("a/", Missing::Replaced)], "t");
        assert_eq!((fewer.tasks.len(), fewer.tasks[0].inputs.len(), fewer.gone), (1, 1, 0));
        let cleared = again(&[("b/1", "1")], &[], "t");
        assert_eq!((cleared.tasks.len(), cleared.gone, cleared.failed.len()), (0, 2, 0));
        let both = again(&[("a/1", "2"), ("b/1", "1")], &[], "t");
        assert_eq!((both.tasks.len(), both.gone, both.failed.len()), (0, 1, 1));
        // Declared otherwise, everything is done anew, but for what is not there.
        assert_eq!(again(&[("a/1", "1"), ("a/2", "1"), ("b/1", "1")], &[], "u").tasks.len(), 2);
        let otherwise = again(&[("b/1", "1")], &[], "u");
        assert_eq!((otherwise.tasks.len(), otherwise.gone, otherwise.failed.len()), (1, 2, 0));
    }

    #[test]
    fn rows_of_a_fetch_that_was_collected_again_under_other_keys_go() {
        let first = tasks(
            Vec::new(),
            objects(&[("a/1.json", "1"), ("a/2.json", "1")]),
            |_, _| Missing::Cleared,
            ("t", false),
            20,
        );
        let records: Vec<Record> = first.tasks.iter().map(record).collect();
        // Every object has another name now.
        let all = tasks(
            records.clone(),
            objects(&[("a/1.csv", "1")]),
            |_, _| Missing::Replaced,
            ("t", false),
            20,
        );
        assert_eq!((all.tasks.len(), all.gone, all.unchanged), (2, 0, 0));
        assert!(all.tasks[0].inputs.is_empty());
        assert_eq!(all.tasks[0].files_before().len(), 1);
        assert_eq!(all.tasks[1].inputs.keys().collect::<Vec<_>>(), ["a/1.csv"]);
        // One was replaced and one was cleared away: the rows of both lie in one file.
        let of = |key: &str, _: &str| {
            if key == "a/1.json" { Missing::Replaced } else { Missing::Cleared }
        };
        let mixed = tasks(records.clone(), BTreeMap::new(), of, ("t", false), 20);
        assert_eq!((mixed.tasks.len(), mixed.gone, mixed.failed.len()), (0, 1, 1));
        assert!(mixed.failed[0].starts_with("1 objects should"), "{:?}", mixed.failed);
        // While it is collected nothing is done, and nothing is gone.
        let of =
            |key: &str, _: &str| if key == "a/1.json" { Missing::Replaced } else { Missing::Waits };
        let waits = tasks(records.clone(), BTreeMap::new(), of, ("t", false), 20);
        let told = (waits.tasks.len(), waits.gone, waits.failed.len(), waits.waiting);
        assert_eq!(told, (0, 0, 0, 1));
        let waits = tasks(records, BTreeMap::new(), |_, _| Missing::Waits, ("u", false), 20);
        assert_eq!((waits.tasks.len(), waits.gone, waits.waiting), (0, 0, 1));
    }
}
