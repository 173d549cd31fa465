//! Small files of several jobs put together: fewer and larger ones with the same rows, and one record in the place of
//! several.
//!
//! The new files are visible first; then the new record is, which names the records that it replaces; then those and
//! the files that were merged are removed. Nothing is where one of those records is another by then, or one of the files
//! is gone: another process stages the table. Whoever is killed between leaves what the next run removes, or ends. By the
//! records each row counts once at every moment; who lists the files instead sees rows twice between the first step and
//! the last, and never none.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use object_store::path::Path;
use tokio::runtime::Handle;
use tollgate_stage::{Halt, Merged, Small, merge};

use super::outputs::{Outputs, unless_stopped};
use super::record::Record;
use super::settle::Seen;
use super::stager::{Done, Stager, folder_of};
use super::tasks::{INPUTS_MAX, Kept, NAMES_BYTES_MAX};

/// So many are worth it, unless they fill a file.
const LEAST: usize = 16;
/// Files are alike that are no more than so many times as large as the smallest.
const ALIKE: u64 = 4;
/// A file of more than this share of the target size, or of so many bytes, is large enough: it is held while it is read.
const SHARE: u64 = 4;
const SMALL_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// Files of jobs and their sizes.
pub(super) type Sizes = BTreeMap<String, u64>;

/// A record as it is put together with others.
struct Part {
    number: usize,
    bytes: u64,
    inputs: usize,
    names: usize,
    written_s: (i64, i64),
}

fn is_rows(path: &str) -> bool {
    path.ends_with(".parquet")
}

/// Which records are put together, by their numbers: those whose files begin in the same folder, the smallest first. One
/// that is larger than all before it together, and not like the smallest, waits for more: what a row is written into is
/// then at least twice as large each time. A group stays within the bounds of a job, and its objects were stored within
/// `within` of each other: where a rule of the store expires them, those of one job go at about the same time.
pub(super) fn groups(
    kept: &[Kept],
    sizes: &Sizes,
    file_bytes: u64,
    within: Duration,
) -> Vec<Vec<usize>> {
    let within_s = i64::try_from(within.as_secs()).unwrap_or(i64::MAX);
    if within_s == 0 {
        return Vec::new();
    }
    let small = (file_bytes / SHARE).min(SMALL_BYTES_MAX);
    let mut folders: BTreeMap<&str, Vec<Part>> = BTreeMap::new();
    for (number, Kept { record, written_s }) in kept.iter().enumerate() {
        let files: Vec<&String> = record.files.iter().filter(|path| is_rows(path)).collect();
        let known: Option<Vec<u64>> = files.iter().map(|path| sizes.get(*path).copied()).collect();
        let Some(known) = known else { continue };
        let bytes: u64 = known.iter().sum();
        if bytes >= small || !record.remove.is_empty() {
            continue;
        }
        let names = record.inputs.iter().map(|(key, version)| key.len() + version.len() + 8).sum();
        let folder = files.first().map_or("", |path| folder_of(path));
        let (inputs, written_s) = (record.inputs.len(), *written_s);
        let part = Part { number, bytes, inputs, names, written_s };
        folders.entry(folder).or_default().push(part);
    }
    let mut groups = Vec::new();
    for mut parts in folders.into_values().flat_map(|parts| of_one_age(parts, within_s)) {
        parts.sort_by_key(|part| part.bytes);
        let mut parts = parts.into_iter().peekable();
        while parts.peek().is_some() {
            let mut group = Vec::new();
            let (mut bytes, mut inputs, mut names, mut least) = (0, 0, 0, 0);
            while let Some(part) = parts.next_if(|part| {
                group.is_empty()
                    || (bytes + part.bytes <= file_bytes
                        && inputs + part.inputs <= INPUTS_MAX
                        && names + part.names <= NAMES_BYTES_MAX
                        && part.bytes <= bytes.max(least * ALIKE))
            }) {
                if group.is_empty() {
                    least = part.bytes;
                }
                bytes += part.bytes;
                inputs += part.inputs;
                names += part.names;
                group.push(part.number);
            }
            if group.len() >= LEAST || (group.len() > 1 && bytes >= file_bytes / 2) {
                groups.push(group);
            }
        }
    }
    groups
}

/// Shares parts out, from the oldest on, so that the objects of each share were stored within so many seconds.
fn of_one_age(mut parts: Vec<Part>, within_s: i64) -> Vec<Vec<Part>> {
    parts.sort_by_key(|part| part.written_s);
    let mut shares: Vec<Vec<Part>> = Vec::new();
    let mut end = i64::MIN;
    for part in parts {
        let (first, last) = part.written_s;
        if last.saturating_sub(first) > within_s {
            continue;
        }
        match shares.last_mut() {
            Some(share) if last <= end => share.push(part),
            _ => {
                end = first.saturating_add(within_s);
                shares.push(vec![part]);
            }
        }
    }
    shares
}

/// What is to be put in the place of several records.
pub(super) struct Joint {
    pub(super) record: Record,
    /// Those that it replaces, as they were read.
    of: Vec<Record>,
    /// Files that were made for it.
    pub(super) made: Vec<String>,
}

impl Stager {
    /// Puts small files together of jobs that are left as they are.
    pub(super) async fn put_together(
        &self,
        kept: &[Kept],
        sizes: &Sizes,
        done: &mut Done,
    ) -> anyhow::Result<()> {
        let groups = groups(kept, sizes, self.stage.file_bytes, self.stage.merge_within);
        for (number, group) in groups.into_iter().enumerate() {
            if number > 0 && self.is_over() {
                done.cut = true;
                return Ok(());
            }
            let group: Vec<&Record> =
                group.into_iter().map(|number| &kept[number].record).collect();
            match self.join(&group).await? {
                Ok(joint) => match self.replace(joint).await? {
                    Ok(count) => done.merged += count,
                    Err(reason) => done.failed.push(reason),
                },
                Err(Halt::Stopped) => {
                    done.stopped = true;
                    return Ok(());
                }
                Err(halt) => done.failed.push(format!("small files are not put together: {halt}")),
            }
        }
        Ok(())
    }

    /// Makes the files of records that are to be one, beside those that count. The inner error leaves all as it was.
    pub(super) async fn join(&self, records: &[&Record]) -> anyhow::Result<Result<Joint, Halt>> {
        let mut record = Record::of_all(records, self.nonce);
        let mut folders: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
        for path in records.iter().flat_map(|record| &record.files).filter(|path| is_rows(path)) {
            folders.entry(folder_of(path)).or_default().push(path);
        }
        folders.retain(|_, paths| paths.len() > 1);
        let paths: Vec<String> = folders.into_values().flatten().cloned().collect();
        let (ran, mut made) = self.merged(paths.clone(), record.name()).await;
        let merged = match ran {
            Ok(merged) => merged,
            Err(halt) => {
                self.remove(made.iter()).await?;
                return Ok(Err(halt));
            }
        };
        made.sort_unstable();
        let taken = paths.into_iter().zip(merged.taken).filter_map(|(path, is)| is.then_some(path));
        record.remove = taken.collect();
        let remove: std::collections::BTreeSet<&String> = record.remove.iter().collect();
        let mut files: Vec<String> =
            record.files.iter().filter(|path| !remove.contains(path)).cloned().collect();
        files.extend(made.iter().cloned());
        record.files = files;
        let of = records.iter().copied().cloned().collect();
        Ok(Ok(Joint { record, of, made }))
    }

    /// Puts a record in the place of those that it replaces; how many files went. The inner error leaves all as it was.
    pub(super) async fn replace(&self, joint: Joint) -> anyhow::Result<Result<u64, String>> {
        let Joint { mut record, of, made } = joint;
        let mut seen: Seen<'_> = of.iter().map(|of| (of.job.as_str(), Some(of))).collect();
        let job = record.job.clone();
        seen.entry(&job).or_insert(None);
        if let Some(reason) = self.odd(&record, &seen).await? {
            self.remove(made.iter()).await?;
            return Ok(Err(reason));
        }
        let count = record.remove.len() as u64;
        let placed = self.place(&mut record, seen[job.as_str()], &made).await?;
        Ok(placed.map_or(Ok(count), Err))
    }

    /// Merges files; with those that are visible, whatever came of it.
    async fn merged(
        &self,
        paths: Vec<String>,
        name: String,
    ) -> (Result<Merged, Halt>, Vec<String>) {
        let outputs = Outputs {
            store: self.store.clone(),
            to: self.stage.to.clone(),
            runtime: Handle::current(),
            stop: Arc::clone(&self.stop),
        };
        let table = &self.stage.table;
        let sort: Vec<String> =
            table.sort.iter().map(|at| table.columns[*at].name.clone()).collect();
        let bounds = self.bounds.clone();
        let work = tokio::task::spawn_blocking(move || {
            let Outputs { store, to, runtime, stop } = outputs.clone();
            let small = paths.into_iter().map(|path| {
                let key = Path::parse(format!("{to}/{path}")).map_err(io::Error::other)?;
                let read = unless_stopped(&stop, store.read_whole(&key, SMALL_BYTES_MAX));
                let bytes = runtime.block_on(read)?.map_err(io::Error::other)?;
                let bytes = bytes.ok_or_else(|| io::Error::other(format!("`{key}` is gone")))?;
                Ok(Small { folder: folder_of(&path).to_owned(), bytes })
            });
            merge(small, (&outputs, &name), &sort, &bounds, &outputs.stop)
        });
        let paths =
            |files: &[tollgate_stage::File]| files.iter().map(|file| file.path.clone()).collect();
        match work.await {
            Ok(Ok(merged)) => {
                let made = paths(&merged.files);
                (Ok(merged), made)
            }
            Ok(Err((halt, visible))) => {
                let is_stopped = self.stop.load(std::sync::atomic::Ordering::Relaxed);
                (Err(if is_stopped { Halt::Stopped } else { halt }), paths(&visible))
            }
            Err(error) => (Err(Halt::Fault(error.to_string())), Vec::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: u64 = 1 << 20;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn groups(kept: &[Kept], sizes: &Sizes, file_bytes: u64) -> Vec<Vec<usize>> {
        super::groups(kept, sizes, file_bytes, DAY)
    }

    /// A record of one file in a folder, or of none.
    fn record(number: usize, folder: &str, bytes: u64, sizes: &mut Sizes) -> Kept {
        let mut record = Record::of_all(&[], 0);
        record.inputs.insert(format!("raw/{number}"), "1".to_owned());
        if bytes > 0 {
            record.files.push(format!("{folder}/{number}.parquet"));
            sizes.insert(format!("{folder}/{number}.parquet"), bytes);
        }
        Kept { record, written_s: (0, 0) }
    }

    fn sorted(mut groups: Vec<Vec<usize>>) -> Vec<Vec<usize>> {
        for group in &mut groups {
            group.sort_unstable();
        }
        groups
    }

    #[test]
    fn small_files_of_one_folder_are_put_together_once_there_are_enough() {
        let mut sizes = Sizes::new();
        let mut records: Vec<Kept> =
            (0..15).map(|number| record(number, "dt=1", 100, &mut sizes)).collect();
        records.extend((15..30).map(|number| record(number, "dt=2", 100, &mut sizes)));
        records.push(record(30, "dt=1", FILE / 4, &mut sizes));
        assert!(groups(&records, &sizes, FILE).is_empty());
        records.push(record(31, "dt=1", 100, &mut sizes));
        let wanted: Vec<usize> = (0..15).chain([31]).collect();
        assert_eq!(sorted(groups(&records, &sizes, FILE)), [wanted]);
        // One that is still to be cleaned, or whose file nobody listed, is left.
        records[0].record.remove.push("x".to_owned());
        assert!(groups(&records, &sizes, FILE).is_empty());
        records[0].record.remove.clear();
        sizes.remove("dt=1/0.parquet");
        assert!(groups(&records, &sizes, FILE).is_empty());
    }

    #[test]
    fn a_group_fills_a_file_and_no_more_and_what_has_no_rows_is_put_together_too() {
        let mut sizes = Sizes::new();
        let records: Vec<Kept> =
            (0..9).map(|number| record(number, "", FILE / 5, &mut sizes)).collect();
        let found = groups(&records, &sizes, FILE);
        assert_eq!(found.iter().map(Vec::len).collect::<Vec<_>>(), [5, 4]);
        let records: Vec<Kept> = (0..16).map(|number| record(number, "", 0, &mut sizes)).collect();
        assert_eq!(groups(&records, &sizes, FILE), [(0..16).collect::<Vec<_>>()]);
    }

    #[test]
    fn only_what_was_stored_at_about_the_same_time_is_put_together() {
        const DAY_S: i64 = 24 * 60 * 60;
        let mut sizes = Sizes::new();
        // An hour between each and the next.
        let mut records: Vec<Kept> =
            (0..40).map(|number| record(number, "", 100, &mut sizes)).collect();
        for (number, kept) in records.iter_mut().enumerate() {
            let at = i64::try_from(number).unwrap() * 3_600;
            kept.written_s = (at, at);
        }
        let found = sorted(groups(&records, &sizes, FILE));
        assert_eq!(found, [(0..25).collect::<Vec<_>>()]);
        let wider = super::groups(&records, &sizes, FILE, 2 * DAY);
        assert_eq!(sorted(wider), [(0..40).collect::<Vec<_>>()]);
        assert!(super::groups(&records, &sizes, FILE, Duration::ZERO).is_empty());
        // What was put together counts as all that is in it; what is of several days is left.
        records[0].written_s = (0, DAY_S);
        records[1].written_s = (0, DAY_S + 1);
        let wanted: Vec<usize> = [0].into_iter().chain(2..25).collect();
        assert_eq!(sorted(groups(&records, &sizes, FILE)), [wanted]);
    }

    #[test]
    fn no_row_is_written_anew_more_than_some_dozen_times() {
        let mut sizes = Sizes::new();
        let (mut records, mut rewritten): (Vec<Kept>, u64) = (Vec::new(), 0);
        for number in 0..5_000 {
            records.push(record(number, "", 100, &mut sizes));
            for group in groups(&records, &sizes, FILE) {
                let bytes: u64 = group.iter().map(|at| sizes[&records[*at].record.files[0]]).sum();
                rewritten += bytes;
                let joint = record(10_000 + number, "", bytes, &mut sizes);
                let mut at = 0;
                records.retain(|_| {
                    at += 1;
                    !group.contains(&(at - 1))
                });
                records.push(joint);
            }
        }
        assert!(records.len() < 100, "{}", records.len());
        assert!(rewritten < 12 * 5_000 * 100, "{rewritten}");
    }
}
