//! Stages one table: finds what there is to do, does it job by job, and remembers it.
//!
//! A job's files are visible before its record is, and what they replace is removed after that. Whoever is killed
//! between leaves files that no record names, which the next run removes; whoever reads between sees a replaced
//! object's rows twice for that moment, never none. A look at all misses files that a record names, and has its objects
//! staged again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::bail;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt, future, stream};
use object_store::path::Path;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tollgate_actors::plan::StagePlan;
use tollgate_actors::store::{Listed, SinkError, Store};
use tollgate_stage::{Bounds, From, Halt, Job, Report, Table};

use super::inputs::{Inputs, MANIFEST, Seen, Wanted};
use super::merge::Sizes;
use super::outputs::Outputs;
use super::record::{
    AT_ONCE, Columns, QUARANTINE, Record, declaration, is_ours, key_of, part, read,
};
use super::tasks::{Missing, Object, Task, UNREAD, tasks};

/// Most objects of one run.
const OBJECTS_MAX: usize = 1_000_000;
/// How often a job begins anew because its table has to change.
const CHANGES_MAX: u32 = 64;
/// How often a job begins anew because fetches are not there any more as they were listed.
const LEAVES_MAX: u32 = 16;
/// How often an object that changes under the reader is read.
const READS_MAX: u32 = 3;

/// What was done for one table.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) inputs: u64,
    pub(super) unchanged: u64,
    pub(super) incomplete: u64,
    pub(super) gone: u64,
    pub(super) waiting: u64,
    pub(super) unnamed: u64,
    pub(super) standing: u64,
    pub(super) files: u64,
    pub(super) rows: u64,
    pub(super) bytes: u64,
    pub(super) quarantined: u64,
    pub(super) first_bad: Option<String>,
    pub(super) quarantine: Option<String>,
    pub(super) failed: Vec<String>,
    /// Files of runs that were killed, which were removed.
    pub(super) leftovers: u64,
    /// Small files that were put together with others.
    pub(super) merged: u64,
    /// Objects that the store did not give, which are in quarantine.
    pub(super) unread: u64,
    /// Jobs that are done again because files of theirs were gone.
    pub(super) torn: u64,
    pub(super) stopped: bool,
    /// It had taken long enough and has left the rest.
    pub(super) cut: bool,
}

/// Which objects a run looks at.
#[derive(Debug, Clone)]
pub(super) enum Look {
    /// All, at what killed runs left, and at small files.
    All,
    /// Those in these folders, and those in files together with them.
    Folders(BTreeSet<String>),
}

/// What is there of the fetches in a folder.
#[derive(Debug, Clone)]
enum Folder {
    /// All, with the manifest of this version.
    Whole(String),
    /// Objects, and no manifest.
    Part,
}

/// Stages one table.
pub(super) struct Stager {
    pub(super) store: Store,
    pub(super) stage: Arc<StagePlan>,
    template: String,
    pub(super) bounds: Bounds,
    pub(super) stop: Arc<AtomicBool>,
    /// Its own: what tells its files from those of others.
    pub(super) nonce: u32,
    /// No job is begun after that, but for the first.
    pub(super) until: Option<Instant>,
}

impl Stager {
    pub(super) fn new(
        store: Store,
        stage: Arc<StagePlan>,
        template: &str,
        workers: Option<usize>,
        stop: &Arc<AtomicBool>,
    ) -> Self {
        let mut bounds = Bounds {
            record_bytes_max: stage.record_bytes_max,
            file_bytes: stage.file_bytes,
            ..Bounds::default()
        };
        if let Some(workers) = workers {
            bounds.workers = workers;
        }
        // A share of the store is the quarantine's; a file that waits for one would wait for ever.
        let open = usize::try_from(store.streams_max()).unwrap_or(usize::MAX).saturating_sub(1);
        bounds.open_max = bounds.open_max.min(open).max(1);
        let template = template.to_owned();
        let nonce = fastrand::u32(..);
        Self { store, stage, template, bounds, stop: Arc::clone(stop), nonce, until: None }
    }

    pub(super) async fn run(&self, again: bool, look: Look) -> anyhow::Result<Done> {
        let mut done = Done::default();
        let mut records = read(&self.store, &self.stage.to).await?;
        for record in &mut records {
            self.clean(record).await?;
        }
        let sizes = match look {
            Look::All => Some(self.clean_orphans(&mut records, &mut done).await?),
            Look::Folders(_) => None,
        };
        part(&mut records);
        let below = match look {
            Look::All => None,
            Look::Folders(folders) => Some(with_their_jobs(folders, &mut records, &mut done)),
        };
        let declared = declaration(&self.stage, &self.template);
        let mut columns = Columns::read(&self.store, &self.stage.to).await?;
        if columns.table != declared {
            columns = Columns::of(&declared);
        }
        let mut table = self.stage.table.clone();
        columns.apply(&mut table);
        let Some((objects, folders)) = self.objects(below.as_ref(), &mut done).await? else {
            return Ok(done);
        };
        let missing = |key: &str, version: &str| {
            let folder = Path::parse(key).ok().and_then(|key| key.parent());
            match folder.and_then(|folder| folders.get(&folder)) {
                Some(Folder::Whole(manifest)) if is_collected_again(version, manifest) => {
                    Missing::Replaced
                }
                Some(Folder::Part) => Missing::Waits,
                Some(Folder::Whole(_)) | None => Missing::Cleared,
            }
        };
        let how = (declared.as_str(), again);
        let found = tasks(records, objects, missing, how, self.stage.file_bytes);
        done.unchanged += found.unchanged;
        done.standing += found.standing;
        done.gone = found.gone;
        done.waiting = found.waiting;
        done.failed = found.failed;
        done.torn = found.torn;
        for (number, task) in found.tasks.into_iter().enumerate() {
            if number > 0 && self.is_over() {
                done.cut = true;
                break;
            }
            if self.stop.load(Ordering::Relaxed) {
                done.stopped = true;
                break;
            }
            if let Err(reason) = self.task(task, &mut table, &mut columns, &mut done).await? {
                if done.stopped {
                    break;
                }
                done.failed.push(reason);
            }
        }
        if let Some(sizes) = sizes.filter(|_| !done.stopped && !done.cut) {
            self.put_together(&found.kept, &sizes, &mut done).await?;
        }
        Ok(done)
    }

    pub(super) fn is_over(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() >= until)
    }

    /// All that is listed, or what lies right in some folders.
    fn listed(
        &self,
        below: Option<&BTreeSet<String>>,
    ) -> BoxStream<'static, Result<Listed, SinkError>> {
        let Some(below) = below else { return self.store.list(&self.stage.from) };
        let lists: Vec<_> = below.iter().filter_map(|text| Path::parse(text).ok()).collect();
        let store = self.store.clone();
        let list = move |folder: Path| {
            let listed = store.list(&folder);
            listed.try_filter(move |one| {
                future::ready(one.key.parent().is_some_and(|parent| parent == folder))
            })
        };
        stream::iter(lists).map(list).flatten_unordered(AT_ONCE).boxed()
    }

    /// Objects that may be staged, of some folders or of all, and what is there of the fetches in folders; none: it was
    /// stopped.
    async fn objects(
        &self,
        below: Option<&BTreeSet<String>>,
        done: &mut Done,
    ) -> anyhow::Result<Option<(BTreeMap<String, Object>, BTreeMap<Path, Folder>)>> {
        let mut listed = self.listed(below);
        let mut objects = BTreeMap::new();
        let mut manifests: BTreeMap<Path, String> = BTreeMap::new();
        while let Some(one) = listed.try_next().await? {
            if self.stop.load(Ordering::Relaxed) {
                done.stopped = true;
                return Ok(None);
            }
            let name = one.key.filename().unwrap_or_default();
            if name == MANIFEST {
                manifests.extend(one.key.parent().map(|folder| (folder, one.version())));
            }
            if name.starts_with(['_', '.']) {
                continue;
            }
            if objects.len() >= OBJECTS_MAX {
                bail!(
                    "more than {OBJECTS_MAX} objects lie below `{}`: say more of it",
                    self.stage.from
                );
            }
            let (version, written_s) = (one.version(), one.written_s);
            let object = Object { version, bytes: one.bytes, written_s };
            objects.insert(one.key, object);
        }
        if !self.stage.manifest {
            let objects = objects.into_iter().map(|(key, object)| (key.to_string(), object));
            return Ok(Some((objects.collect(), BTreeMap::new())));
        }
        let mut folders = BTreeMap::new();
        let mut whole = BTreeMap::new();
        for (key, mut object) in objects {
            let folder = key.parent().unwrap_or_default();
            if let Some(manifest) = manifests.get(&folder) {
                // Params and times are the manifest's: another one makes other rows.
                object.version = of_both(&object.version, manifest);
                whole.insert(key.to_string(), object);
            } else {
                done.incomplete += 1;
                folders.insert(folder, Folder::Part);
            }
        }
        let manifests = manifests.into_iter();
        folders.extend(manifests.map(|(folder, version)| (folder, Folder::Whole(version))));
        Ok(Some((whole, folders)))
    }

    /// Does one job. The inner error is one of its own; others go on.
    async fn task(
        &self,
        task: Task,
        table: &mut Table,
        columns: &mut Columns,
        done: &mut Done,
    ) -> anyhow::Result<Result<(), String>> {
        let mut record = Record::new(&task, &columns.table, self.nonce);
        let before = task.files_before();
        // What the job needs of the table counts once the job is done.
        let (mut its_table, mut its_columns) = (table.clone(), columns.clone());
        let mut made: BTreeSet<String> = BTreeSet::new();
        let mut reads: BTreeMap<String, u32> = BTreeMap::new();
        let mut faults: BTreeMap<String, String> = BTreeMap::new();
        let (mut changes, mut leaves) = (0, 0);
        let (report, quarantine, unnamed, unread) = loop {
            let quarantine = format!("{QUARANTINE}/{}.jsonl", record.name());
            let (ran, Seen { left, unnamed, unread }) =
                self.job(&task, &record, &faults, &its_table, &quarantine).await;
            let failed = match ran {
                Ok(report) => break (report, quarantine, unnamed, unread),
                Err(failed) => failed,
            };
            made.extend(failed.visible.into_iter().map(|file| file.path));
            let halt = match (failed.halt, left) {
                (Halt::Change(change), _) if changes < CHANGES_MAX => {
                    its_columns.change(&change, &mut its_table);
                    changes += 1;
                    continue;
                }
                (Halt::Change(_), _) => {
                    // The next run goes on from here.
                    its_columns.put(&self.store, &self.stage.to).await?;
                    (*table, *columns) = (its_table, its_columns);
                    "its table changes again and again; the next run goes on from there".to_owned()
                }
                (Halt::Changed(key), _) => {
                    let count = reads.entry(key.clone()).or_insert(0);
                    *count += 1;
                    // Like no version that a list tells, so that the next run takes it again.
                    if let Some(version) = record.inputs.get_mut(&key) {
                        *version = instead(version, "changing");
                    }
                    if *count >= READS_MAX {
                        let reason = format!("it changed while it was read, {READS_MAX} times");
                        faults.insert(key, reason);
                    }
                    continue;
                }
                (Halt::Stopped, _) => {
                    done.stopped = true;
                    Halt::Stopped.to_string()
                }
                // It was there when it was listed. Rows that were made of it before stay until its fetch is there.
                (_, Some(key)) if task.has_staged(&key) => {
                    done.waiting += 1;
                    self.remove(made.iter().filter(|path| !before.contains(*path))).await?;
                    return Ok(Ok(()));
                }
                (_, Some(key)) if leaves < LEAVES_MAX => {
                    leaves += 1;
                    let folder = folder_of(&key);
                    let count = record.inputs.len();
                    record.inputs.retain(|key, _| folder_of(key) != folder);
                    done.incomplete += (count - record.inputs.len()) as u64;
                    continue;
                }
                (_, Some(key)) => format!(
                    "{key} and {LEAVES_MAX} more were taken away or collected again since they were listed; the next run takes \
                     them"
                ),
                (halt, None) => halt.to_string(),
            };
            self.remove(made.iter().filter(|path| !before.contains(*path))).await?;
            return Ok(Err(halt));
        };
        let Report { files, rows, quarantined, first_bad } = report;
        done.bytes += files.iter().map(|file| file.bytes).sum::<u64>();
        record.files = files.into_iter().map(|file| file.path).collect();
        done.files += record.files.len() as u64;
        if quarantined > 0 {
            record.files.push(quarantine.clone());
            done.quarantine.get_or_insert_with(|| format!("{}/{quarantine}", self.stage.to));
        }
        (record.rows, record.quarantined) = (rows, quarantined);
        // Looked at again each time, so that whoever removes them holds up no job.
        record.inputs.retain(|key, _| !unnamed.contains(key));
        let refused = unread.len() as u64;
        for key in unread {
            if let Some(version) = record.inputs.get_mut(&key) {
                *version = instead(version, UNREAD);
            }
        }
        let now: BTreeSet<&String> = record.files.iter().collect();
        let old = before.iter().chain(&made).filter(|path| !now.contains(path));
        record.remove = old.cloned().collect();
        made.extend(record.files.iter().cloned());
        let made: Vec<String> = made.into_iter().filter(|path| !before.contains(path)).collect();
        let seen = [(task.job.as_str(), task.before.as_ref())].into();
        if let Some(reason) = self.odd(&record, &seen).await? {
            self.remove(made.iter()).await?;
            return Ok(Err(reason));
        }
        if changes > 0 {
            its_columns.put(&self.store, &self.stage.to).await?;
            (*table, *columns) = (its_table, its_columns);
        }
        if let Some(reason) = self.place(&mut record, task.before.as_ref(), &made).await? {
            return Ok(Err(reason));
        }
        done.inputs += record.inputs.len() as u64;
        done.unnamed += unnamed.len() as u64;
        done.unread += refused;
        done.rows += rows;
        done.quarantined += quarantined;
        if done.first_bad.is_none() {
            done.first_bad = first_bad;
        }
        Ok(Ok(()))
    }

    /// What came of a job, and what it came upon.
    async fn job(
        &self,
        task: &Task,
        record: &Record,
        faults: &BTreeMap<String, String>,
        table: &Table,
        quarantine: &str,
    ) -> (Result<Report, tollgate_stage::Failed>, Seen) {
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let runtime = Handle::current();
        let wanted = record.inputs.keys().filter_map(|key| {
            let key = Path::parse(key).ok()?;
            let fault = faults.get(key.as_ref()).cloned();
            let is_staged = task.has_staged(key.as_ref());
            Some(Wanted { key, fault, is_staged })
        });
        let of_manifest = |name: &str| name != "key" && !name.starts_with("part.");
        let asks = |from: &From| matches!(from, From::Input(name) if of_manifest(name));
        let inputs = Inputs {
            store: self.store.clone(),
            runtime: runtime.clone(),
            wanted: wanted.collect::<Vec<_>>().into_iter(),
            whole: self.stage.manifest,
            with_manifest: table.columns.iter().any(|column| asks(&column.from)),
            seen: Arc::clone(&seen),
            stop: Arc::clone(&self.stop),
            template: self.template.clone(),
            last: None,
        };
        let (bounds, stop) = (self.bounds.clone(), Arc::clone(&self.stop));
        let outputs = Outputs {
            store: self.store.clone(),
            to: self.stage.to.clone(),
            runtime,
            stop: Arc::clone(&stop),
        };
        let (table, name, quarantine) = (table.clone(), record.name(), quarantine.to_owned());
        let work = tokio::task::spawn_blocking(move || {
            let job = Job {
                table: &table,
                name: &name,
                quarantine: &quarantine,
                files: &outputs,
                bounds: &bounds,
                on_thread: &|| {},
                stop: &stop,
            };
            tollgate_stage::run(&job, inputs)
        });
        let mut ran = work.await.unwrap_or_else(|error| {
            let halt = Halt::Fault(error.to_string());
            Err(tollgate_stage::Failed { halt, visible: Vec::new() })
        });
        if let Err(failed) = &mut ran
            && matches!(failed.halt, Halt::Read(..) | Halt::Write(_))
            && self.stop.load(Ordering::Relaxed)
        {
            failed.halt = Halt::Stopped;
        }
        let seen = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
        (ran, seen)
    }

    /// Removes what a record has left to remove, and then says so in it; a record of nothing goes as well.
    pub(super) async fn clean(&self, record: &mut Record) -> anyhow::Result<()> {
        let is_of_nothing = record.inputs.is_empty() && record.files.is_empty();
        if record.remove.is_empty() && record.replaces.is_empty() && !is_of_nothing {
            return Ok(());
        }
        // Records before their files: one that counts names what is there.
        let keys = record.replaces.iter().map(|job| key_of(job, &self.stage.to));
        let removed = stream::iter(keys).map(|key| async move { self.store.delete(&key).await });
        removed.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        self.remove(record.remove.iter()).await?;
        record.replaces.clear();
        record.remove.clear();
        if !self.is_there(record).await? {
            // Another process has put its own there meanwhile.
            return Ok(());
        }
        if is_of_nothing {
            return Ok(self.store.delete(&record.key(&self.stage.to)).await?);
        }
        record.put(&self.store, &self.stage.to).await
    }

    /// Removes files of jobs that no record names: their run was killed. Marks records that name files which are not there.
    /// Answers which files are there otherwise, and how large.
    pub(super) async fn clean_orphans(
        &self,
        records: &mut [Record],
        done: &mut Done,
    ) -> anyhow::Result<Sizes> {
        let known: BTreeSet<&str> =
            records.iter().flat_map(|record| &record.files).map(String::as_str).collect();
        let mut listed = self.store.list(&self.stage.to);
        let (mut orphans, mut sizes) = (Vec::new(), Sizes::new());
        while let Some(one) = listed.try_next().await? {
            let Some(path) = one.key.as_ref().strip_prefix(self.stage.to.as_ref()) else {
                continue;
            };
            let path = path.trim_start_matches('/');
            let name = one.key.filename().unwrap_or_default();
            if known.contains(path) {
                sizes.insert(path.to_owned(), one.bytes);
            } else if is_ours(name) {
                orphans.push(path.to_owned());
            }
        }
        if !orphans.is_empty() {
            // Rare enough to look twice: what was put since they were read may name one.
            let now = read(&self.store, &self.stage.to).await?;
            let named: BTreeSet<&String> = now.iter().flat_map(|record| &record.files).collect();
            if let Some(path) = orphans.iter().find(|path| named.contains(path)) {
                bail!(
                    "`{}/{path}` was written meanwhile: another process stages this table",
                    self.stage.to
                );
            }
        }
        done.leftovers = orphans.len() as u64;
        self.remove(orphans.iter()).await?;
        for record in records {
            record.is_torn = record.files.iter().any(|path| !sizes.contains_key(path));
        }
        Ok(sizes)
    }

    /// A file that is not there.
    pub(super) async fn first_gone(&self, paths: &[String]) -> anyhow::Result<Option<String>> {
        let looks = stream::iter(paths).map(|path| async move {
            let key = Path::parse(format!("{}/{path}", self.stage.to))?;
            let found = self.store.look(&key).await?;
            anyhow::Ok(found.is_none().then(|| path.clone()))
        });
        let gone = looks.buffered(AT_ONCE).try_filter_map(|gone| future::ready(Ok(gone)));
        std::pin::pin!(gone).try_next().await
    }

    pub(super) async fn remove(&self, paths: impl Iterator<Item = &String>) -> anyhow::Result<()> {
        let removed = stream::iter(paths).map(|path| async move {
            let key = Path::parse(format!("{}/{path}", self.stage.to))?;
            anyhow::Ok(self.store.delete(&key).await?)
        });
        removed.buffer_unordered(AT_ONCE).try_collect().await
    }
}

/// The folders to look at so that every job that has an object in one of these can be done again; leaves only such jobs.
fn with_their_jobs(
    mut folders: BTreeSet<String>,
    records: &mut Vec<Record>,
    done: &mut Done,
) -> BTreeSet<String> {
    let touched = |record: &Record| {
        record.is_doubled || record.inputs.keys().any(|key| folders.contains(folder_of(key)))
    };
    let (touched, left): (Vec<Record>, Vec<Record>) =
        std::mem::take(records).into_iter().partition(touched);
    for record in left {
        done.unchanged += record.inputs.len() as u64;
        done.standing += record.quarantined;
    }
    let keys = touched.iter().flat_map(|record| record.inputs.keys());
    let more: BTreeSet<String> = keys.map(|key| folder_of(key).to_owned()).collect();
    folders.extend(more);
    *records = touched;
    folders
}

/// The folder of a key.
pub(super) fn folder_of(key: &str) -> &str {
    key.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// What tells an object beside a manifest: either may be another one.
fn of_both(object: &str, manifest: &str) -> String {
    format!("{object} {manifest}")
}

/// The same, with a word in the object's place that no list tells.
fn instead(version: &str, word: &str) -> String {
    match version.split_once(' ') {
        Some((_, manifest)) => of_both(word, manifest),
        None => word.to_owned(),
    }
}

/// Whether a fetch was collected again since an object of it was staged, as its manifest tells; without one, nobody
/// knows. A manifest that stays while objects go does not make their rows wrong.
fn is_collected_again(staged: &str, manifest: &str) -> bool {
    staged.contains(' ') && !staged.ends_with(&of_both("", manifest))
}
