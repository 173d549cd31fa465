//! What is staged, staged again and removed, on the store in memory.

#![allow(clippy::unwrap_used, clippy::format_collect)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::TryStreamExt;
use object_store::path::Path;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tokio::runtime::Handle;
use tollgate_actors::plan::StagePlan;
use tollgate_actors::store::Store;
use tollgate_stage::{Column, Files, From, Kind, Mismatch, Table, Unknown, path};

use super::outputs::Outputs;
use super::record::Record;
use super::stager::{Done, Look, Stager};

const ROOM: u64 = 256 << 20;

fn column(name: &str, kind: Kind) -> Column {
    let from = From::Path(path(name));
    Column { name: name.to_owned(), from, kind, default: None, required: false }
}

pub(super) fn plan() -> StagePlan {
    StagePlan {
        from: Path::from("raw"),
        to: Path::from("staged"),
        manifest: true,
        table: Table {
            format: None,
            records: Vec::new(),
            explode: Vec::new(),
            columns: vec![column("n", Kind::Int64), column("c", Kind::String)],
            partition: Vec::new(),
            sort: Vec::new(),
            unknown: Unknown::Ignore,
            mismatch: Mismatch::Quarantine,
            nulls: Vec::new(),
            separator: b',',
        },
        file_bytes: 1 << 20,
        record_bytes_max: 1 << 20,
        follow: None,
        merge_within: Duration::from_secs(24 * 60 * 60),
    }
}

struct Place {
    store: Store,
    plan: StagePlan,
    stop: Arc<AtomicBool>,
}

impl Place {
    fn new(plan: StagePlan) -> Self {
        Self { store: Store::memory(ROOM).unwrap(), plan, stop: Arc::default() }
    }

    fn stager(&self) -> Stager {
        let plan = Arc::new(self.plan.clone());
        Stager::new(self.store.clone(), plan, "{id}/{page}.{ext}", Some(2), &self.stop)
    }

    async fn run(&self) -> Done {
        self.stager().run(false, Look::All).await.unwrap()
    }

    async fn put(&self, key: &str, text: &str) {
        self.store.put_small(&Path::from(key), text.to_owned().into()).await.unwrap();
    }

    async fn delete(&self, key: &str) {
        self.store.delete(&Path::from(key)).await.unwrap();
    }

    /// The manifest of a fetch, of a queue unless that is empty.
    async fn manifest(&self, folder: &str, queue: &str, incomplete: bool) {
        let text = format!(
            r#"{{"version":1,"queue":"{queue}","platform":"p","api":"a","account":"x","id":"i","seq":1,"objects":[],
            "http_status":200,"attempts":1,"pages":1,"waited_ms":0,"fetched_at":"2026-11-20T00:00:00Z",
            "incomplete":{incomplete}}}"#
        );
        self.put(&format!("{folder}/_manifest.json"), &text).await;
    }

    async fn keys(&self, below: &str) -> BTreeSet<String> {
        let listed: Vec<_> = self.store.list(&Path::from(below)).try_collect().await.unwrap();
        listed.into_iter().map(|one| one.key.to_string()).collect()
    }

    /// The files that engines read.
    async fn files(&self) -> BTreeSet<String> {
        let keys = self.keys("staged").await.into_iter();
        keys.filter(|key| key.ends_with(".parquet")).collect()
    }
}

#[tokio::test]
async fn a_fetch_that_is_collected_again_replaces_its_rows() {
    let place = Place::new(plan());
    place.put("raw/a/00001.ndjson", "{\"n\":1}\n{\"n\":2}\n").await;
    place.put("raw/a/00002.ndjson", "{\"n\":3}\n").await;
    // Without a manifest it waits.
    let done = place.run().await;
    assert_eq!((done.inputs, done.incomplete, done.rows), (0, 2, 0));
    place.manifest("raw/a", "q", false).await;
    let done = place.run().await;
    assert_eq!((done.inputs, done.rows, done.files), (2, 3, 1));
    let first = place.files().await;
    // It is being collected again: the rows stay as they are.
    place.delete("raw/a/_manifest.json").await;
    place.put("raw/a/00001.ndjson", "{\"n\":4}\n").await;
    let done = place.run().await;
    assert_eq!((done.inputs, done.waiting, done.gone, done.failed.len()), (0, 0, 0, 0));
    assert_eq!((done.incomplete, place.files().await), (2, first.clone()));
    // A manifest that stands for one that could not be removed is none.
    place.manifest("raw/a", "", true).await;
    let done = place.run().await;
    assert_eq!((done.inputs, done.waiting, place.files().await), (0, 1, first.clone()));
    place.delete("raw/a/00002.ndjson").await;
    // A part that a rule says is enough is all there is.
    place.manifest("raw/a", "q", true).await;
    let done = place.run().await;
    assert_eq!((done.inputs, done.rows), (1, 1));
    assert!(place.files().await.is_disjoint(&first));
    // The same bytes by another manifest: times and parameters may be others.
    place.manifest("raw/a", "q", false).await;
    assert_eq!(place.run().await.inputs, 1);
    assert_eq!(place.run().await.unchanged, 1);
    // Under other keys, and then nothing of it is left.
    place.delete("raw/a/00001.ndjson").await;
    place.put("raw/a/00001.csv", "n\n7\n").await;
    place.manifest("raw/a", "q", false).await;
    let done = place.run().await;
    assert_eq!((done.inputs, done.rows, place.files().await.len()), (1, 1, 1));
    assert_eq!(place.keys("staged/_stage").await.len(), 1);
    place.delete("raw/a/00001.csv").await;
    place.manifest("raw/a", "q", false).await;
    place.run().await;
    assert!(place.keys("staged").await.is_empty(), "{:?}", place.keys("staged").await);
}

#[tokio::test]
async fn what_was_cleared_away_keeps_its_rows() {
    let place = Place::new(plan());
    for folder in ["raw/a", "raw/b"] {
        place.put(&format!("{folder}/1.ndjson"), "{\"n\":1}\n").await;
        place.manifest(folder, "q", false).await;
    }
    assert_eq!(place.run().await.rows, 2);
    let first = place.files().await;
    for key in place.keys("raw/a").await {
        place.delete(&key).await;
    }
    let done = place.run().await;
    assert_eq!((done.gone, done.unchanged, place.files().await), (1, 1, first.clone()));
    // Of the other the manifest stays as it is: nothing says that it was collected again.
    place.delete("raw/b/1.ndjson").await;
    let done = place.run().await;
    assert_eq!((done.gone, done.failed.len(), place.files().await), (2, 0, first.clone()));
    // In one file with what changes now: told, and left.
    place.put("raw/b/1.ndjson", "{\"n\":2}\n").await;
    let done = place.run().await;
    assert_eq!((done.gone, done.failed.len(), place.files().await), (1, 1, first));
}

#[tokio::test]
async fn what_a_longer_read_left_beside_a_manifest_is_no_page() {
    let place = Place::new(plan());
    for page in 1..=3 {
        place.put(&format!("raw/a/0000{page}.ndjson"), &format!("{{\"n\":{page}}}\n")).await;
    }
    let named = |pages: &[u32], more: &str| {
        let one = |page: &u32| {
            format!(
                r#"{{"key":"elsewhere/a/0000{page}.ndjson","bytes":8,"sha256":"","stored_bytes":8}}"#
            )
        };
        let objects: Vec<String> = pages.iter().map(one).collect();
        format!(
            r#"{{"version":1,"queue":"q","platform":"p","api":"a","account":"x","id":"i","seq":1,"http_status":200,
            "attempts":1,"pages":1,"waited_ms":0,"fetched_at":"2026-11-20T00:00:00Z",{more}"objects":[{}]}}"#,
            objects.join(",")
        )
    };
    place.put("raw/a/_manifest.json", &named(&[1, 2], "")).await;
    let done = place.run().await;
    assert_eq!((done.inputs, done.unnamed, done.rows), (2, 1, 2), "{done:?}");
    let done = place.run().await;
    assert_eq!((done.inputs, done.unchanged, done.unnamed), (0, 2, 1));
    // A long read has its pages in lists.
    place.put("raw/a/_pages-00001.json", &named(&[3], "")).await;
    place.put("raw/a/_pages-00002.json", &named(&[1], "")).await;
    place.put("raw/a/_manifest.json", &named(&[3], "\"lists\":2,")).await;
    let done = place.run().await;
    assert_eq!((done.inputs, done.unnamed, done.rows), (2, 1, 2), "{done:?}");
    // One that names none, as somebody else may write it, stands for all.
    place.put("raw/a/_manifest.json", &named(&[], "")).await;
    let done = place.run().await;
    assert_eq!((done.inputs, done.unnamed, done.rows), (3, 0, 3), "{done:?}");
}

#[tokio::test]
async fn a_manifest_that_is_none_keeps_no_other_object_back() {
    let place = Place::new(plan());
    for folder in ["raw/a", "raw/b"] {
        place.put(&format!("{folder}/1.ndjson"), "{\"n\":1}\n").await;
        place.manifest(folder, "q", false).await;
    }
    place.put("raw/a/_manifest.json", "{\"version\":1,").await;
    let done = place.run().await;
    assert_eq!((done.inputs, done.rows, done.quarantined, done.failed.len()), (2, 1, 1, 0));
    assert!(done.first_bad.as_ref().unwrap().contains("`raw/a/_manifest.json` is no manifest"));
    assert_eq!(place.run().await.unchanged, 2);
    place.manifest("raw/a", "q", false).await;
    let done = place.run().await;
    assert_eq!((done.rows, done.quarantined), (2, 0), "{done:?}");
}

#[tokio::test]
async fn an_object_that_cannot_be_read_keeps_no_other_back_and_is_tried_again() {
    let (folder, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut place = Place::new(StagePlan { manifest: false, ..plan() });
    place.store = Store::open_file(folder.path(), state.path(), false, ROOM).unwrap();
    place.put("raw/b.ndjson", "{\"n\":1}\n").await;
    std::fs::write(folder.path().join("raw/a#b.ndjson"), "{\"n\":1}\n").unwrap();
    for _ in 0..2 {
        let done = place.run().await;
        assert_eq!((done.inputs, done.rows, done.quarantined), (2, 1, 1), "{done:?}");
        assert_eq!(done.unread, 1, "{done:?}");
        assert!(done.first_bad.as_ref().unwrap().contains("a `#` in a key"), "{done:?}");
    }
    // No row was made of it, so that none is lost where the other changes.
    std::fs::remove_file(folder.path().join("raw/a#b.ndjson")).unwrap();
    place.put("raw/b.ndjson", "{\"n\":1}\n{\"n\":2}\n").await;
    let done = place.run().await;
    assert_eq!((done.rows, done.quarantined, done.failed.len()), (2, 0, 0), "{done:?}");
}

#[tokio::test]
async fn files_that_count_are_never_written_over() {
    let place = Place::new(plan());
    place.put("raw/a/1.ndjson", "{\"n\":1}\nno\n").await;
    place.manifest("raw/a", "q", false).await;
    assert_eq!(place.run().await.quarantined, 1);
    let first = place.keys("staged").await;
    // Stopped before its record is there, nothing that counts has changed.
    place.stop.store(true, Ordering::Relaxed);
    assert!(place.stager().run(true, Look::All).await.unwrap().stopped);
    assert_eq!(place.keys("staged").await, first);
    place.stop.store(false, Ordering::Relaxed);
    let done = place.stager().run(true, Look::All).await.unwrap();
    assert_eq!((done.inputs, done.rows, done.quarantined), (1, 1, 1));
    let second = place.keys("staged").await;
    let both: Vec<&String> = first.intersection(&second).collect();
    assert_eq!((second.len(), both.len()), (3, 1), "{first:?} {second:?}");
    assert!(both[0].starts_with("staged/_stage/"), "{both:?}");
    // Of a run that was killed the files go, those of the quarantine too; what is not ours stays.
    place.put("staged/0123456789abcdef-01234567-0001.parquet", "x").await;
    place.put("staged/_quarantine/0123456789abcdef-01234567.jsonl", "x").await;
    place.put("staged/_quarantine/mine.jsonl", "x").await;
    assert_eq!(place.run().await.unchanged, 1);
    let mut wanted = second;
    wanted.insert("staged/_quarantine/mine.jsonl".to_owned());
    assert_eq!(place.keys("staged").await, wanted);
}

#[tokio::test]
async fn what_counts_as_declared_otherwise_and_what_stands_in_quarantine() {
    let mut place = Place::new(plan());
    place.put("raw/a/1.ndjson", "{\"n\":1}\nno\n").await;
    place.manifest("raw/a", "q", false).await;
    let done = place.run().await;
    assert_eq!((done.quarantined, done.standing), (1, 0));
    let done = place.run().await;
    assert_eq!((done.inputs, done.quarantined, done.standing), (0, 0, 1));
    // Other sizes of files change no row, and no key is asked for its parts.
    place.plan.file_bytes *= 2;
    let stager = |place: &Place, template: &str| {
        let plan = Arc::new(place.plan.clone());
        Stager::new(place.store.clone(), plan, template, Some(2), &place.stop)
    };
    assert_eq!(stager(&place, "{page}").run(false, Look::All).await.unwrap().inputs, 0);
    place.plan.record_bytes_max *= 2;
    let done = place.run().await;
    assert_eq!((done.inputs, done.quarantined, done.standing), (1, 1, 0));
    place.plan.table.columns[1].from = From::Input("part.id".to_owned());
    assert_eq!(place.run().await.inputs, 1);
    assert_eq!(place.run().await.inputs, 0);
    assert_eq!(stager(&place, "{api}/{id}/{page}").run(false, Look::All).await.unwrap().inputs, 1);
}

/// Files whose place is emptied while they are made.
#[tokio::test]
async fn a_job_whose_files_another_process_removes_is_not_done() {
    let mut plan = plan();
    (plan.manifest, plan.table.partition) = (false, vec![1]);
    let place = Place::new(plan);
    let text: String = (0..200).map(|n| format!("{{\"n\":{n},\"c\":\"{n}\"}}\n")).collect();
    super::outputs::put(&place.store, Path::from("raw/1.ndjson"), text.into_bytes()).await.unwrap();
    let removed = async {
        loop {
            tokio::time::sleep(Duration::from_millis(1)).await;
            if let Some(file) = place.files().await.first() {
                return place.delete(file).await;
            }
        }
    };
    let (done, ()) = tokio::join!(place.run(), removed);
    assert_eq!((done.inputs, done.failed.len()), (0, 1), "{done:?}");
    assert!(done.failed[0].contains("another process"), "{done:?}");
    assert!(place.keys("staged").await.is_empty());
    assert_eq!(place.run().await.rows, 200);
}

#[tokio::test]
async fn columns_that_a_job_adds_count_once_it_is_done() {
    let mut plan = plan();
    (plan.manifest, plan.table.unknown, plan.table.mismatch) =
        (false, Unknown::Add, Mismatch::Refuse);
    let place = Place::new(plan);
    place.put("raw/1.ndjson", "{\"n\":1,\"new\":1}\n{\"n\":\"no\"}\n").await;
    let done = place.run().await;
    assert_eq!((done.inputs, done.failed.len()), (0, 1), "{done:?}");
    assert!(place.keys("staged").await.is_empty());
    place.put("raw/1.ndjson", "{\"n\":1,\"new\":1}\n{\"n\":2,\"New\":{\"x\":1}}\n").await;
    let done = place.run().await;
    assert_eq!((done.inputs, done.rows, done.failed.len()), (1, 2, 0), "{done:?}");
    let columns = place.store.get(&Path::from("staged/_stage/columns.json")).await.unwrap();
    let columns = String::from_utf8(columns.unwrap().to_vec()).unwrap();
    assert!(columns.contains("\"new\"") && columns.contains("\"New\""), "{columns}");
    assert_eq!(place.run().await.unchanged, 1);
}

#[tokio::test]
async fn a_store_with_little_room_takes_fewer_files_at_once_and_a_stop_ends_whoever_waits() {
    let mut place = Place::new(plan());
    // Room for two bodies that stream: rows and the quarantine.
    place.store = Store::memory(11 << 20).unwrap();
    assert_eq!(place.store.streams_max(), 2);
    assert_eq!(place.stager().bounds.open_max, 1);
    let outputs = Outputs {
        store: place.store.clone(),
        to: Path::from("staged"),
        runtime: Handle::current(),
        stop: Arc::clone(&place.stop),
    };
    let written = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&written);
    let write = tokio::task::spawn_blocking(move || {
        let mut open = Vec::new();
        for name in ["a", "b", "c"] {
            let mut file = outputs.create(name)?;
            file.write_all(&vec![7; 1 << 20])
                .map_err(|error| std::io::Error::other(format!("{name}: {error}")))?;
            open.push(file);
            count.fetch_add(1, Ordering::Relaxed);
        }
        std::io::Result::Ok(())
    });
    while written.load(Ordering::Relaxed) < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!write.is_finished());
    place.stop.store(true, Ordering::Relaxed);
    let ended = tokio::time::timeout(Duration::from_secs(30), write).await.unwrap().unwrap();
    assert_eq!(ended.unwrap_err().to_string(), "c: it was stopped");
}

#[tokio::test]
async fn a_record_of_many_files_is_remembered() {
    let mut plan = plan();
    // Long paths by several folders, each of which may be called so.
    let of_c = |name: &str| Column { name: name.to_owned(), ..column("c", Kind::String) };
    plan.table.columns.extend(["d", "e", "f", "g"].map(of_c));
    (plan.manifest, plan.table.partition) = (false, vec![1, 2, 3, 4, 5]);
    let place = Place::new(plan);
    let name = "x".repeat(200);
    let text: String = (0..1_200).map(|n| format!("{{\"n\":{n},\"c\":\"{name}{n}\"}}\n")).collect();
    super::outputs::put(&place.store, Path::from("raw/1.ndjson"), text.into_bytes()).await.unwrap();
    let done = place.run().await;
    assert_eq!((done.rows, done.files, done.failed.len()), (1_200, 1_200, 0));
    assert_eq!(place.run().await.unchanged, 1);
    let done = place.stager().run(true, Look::All).await.unwrap();
    assert_eq!((done.files, place.files().await.len()), (1_200, 1_200));
}

/// Rows of all records, which have no object in common.
async fn rows(place: &Place) -> u64 {
    let records = super::record::read(&place.store, &Path::from("staged")).await.unwrap();
    let keys: Vec<&String> = records.iter().flat_map(|record| record.inputs.keys()).collect();
    assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len(), "{keys:?}");
    records.iter().map(|record| record.rows).sum()
}

#[tokio::test]
async fn a_look_at_some_folders_stages_them_and_what_shares_their_files() {
    let place = Place::new(plan());
    let look = async |folders: &[&str]| {
        let folders = folders.iter().map(|folder| (*folder).to_owned()).collect();
        place.stager().run(false, Look::Folders(folders)).await.unwrap()
    };
    for folder in ["raw/a", "raw/b", "raw/b/below", "raw/c"] {
        place.put(&format!("{folder}/1.ndjson"), "{\"n\":1}\n").await;
        place.manifest(folder, "q", false).await;
    }
    let done = look(&["raw/a", "raw/b"]).await;
    assert_eq!((done.inputs, done.rows, rows(&place).await), (2, 2, 2), "{done:?}");
    let first = place.files().await;
    // What is staged stays where it is.
    let done = look(&["raw/c"]).await;
    assert_eq!((done.inputs, done.unchanged, rows(&place).await), (1, 2, 3), "{done:?}");
    assert!(place.files().await.is_superset(&first));
    // One that is collected again is done with its job, the other of it included.
    place.put("raw/b/1.ndjson", "{\"n\":1}\n{\"n\":2}\n").await;
    place.manifest("raw/b", "q", true).await;
    let done = look(&["raw/b"]).await;
    assert_eq!((done.inputs, done.rows, rows(&place).await), (2, 3, 4), "{done:?}");
    assert!(place.files().await.is_disjoint(&first));
    // Nothing of it was lost or is there twice, and what nobody told of is found by a look at all.
    let done = place.run().await;
    assert_eq!((done.inputs, done.unchanged, rows(&place).await), (1, 3, 5), "{done:?}");
}

#[tokio::test]
async fn what_two_processes_have_both_staged_is_put_right() {
    let place = Place::new(plan());
    for folder in ["raw/a", "raw/b", "raw/c"] {
        place.put(&format!("{folder}/1.ndjson"), "{\"n\":1}\n").await;
        place.manifest(folder, "q", false).await;
    }
    let look = |folders: &[&str]| {
        let folders = folders.iter().map(|folder| (*folder).to_owned()).collect();
        let stager = place.stager();
        async move { stager.run(false, Look::Folders(folders)).await.unwrap() }
    };
    // As if each did not see what the other had done: the records of the first are put back.
    let mut kept = Vec::new();
    for folders in [&["raw/a", "raw/b"][..], &["raw/b", "raw/c"], &["raw/a"]] {
        look(folders).await;
        for key in place.keys("staged").await {
            let path = Path::from(key.as_str());
            kept.push((key, place.store.get(&path).await.unwrap().unwrap()));
            place.store.delete(&path).await.unwrap();
        }
    }
    for (key, text) in kept {
        place.store.put_small(&Path::from(key), text).await.unwrap();
    }
    assert_eq!(place.files().await.len(), 3);
    // Two looks: records whose objects are all another's go, others are done without them.
    let mut twice =
        Place { plan: place.plan.clone(), store: place.store.clone(), stop: Arc::default() };
    twice.run().await;
    assert_eq!(rows(&place).await, 3);
    twice.plan.file_bytes *= 2;
    let done = twice.run().await;
    assert_eq!((done.inputs, done.unchanged, done.leftovers), (0, 3, 0), "{done:?}");
}

/// Rows in the files that records name, and in all files that are there.
async fn rows_read(place: &Place) -> (u64, u64) {
    let records = super::record::read(&place.store, &Path::from("staged")).await.unwrap();
    let named: Vec<String> = records.into_iter().flat_map(|record| record.files).collect();
    let (mut counted, mut there) = (0, 0);
    for file in place.files().await {
        let bytes = place.store.read_whole(&Path::from(file.as_str()), 1 << 20).await.unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes.unwrap()).unwrap();
        let rows = u64::try_from(reader.metadata().file_metadata().num_rows()).unwrap();
        there += rows;
        if named.iter().any(|name| file.strip_prefix("staged/") == Some(name)) {
            counted += rows;
        }
    }
    (counted, there)
}

/// A table whose rows came by so many runs, each of one object with two rows.
async fn after_runs(plan: StagePlan, runs: u32) -> Place {
    let place = Place::new(plan);
    for run in 0..runs {
        let (folder, c) = (format!("raw/{run}"), run % 2);
        let text = format!("{{\"n\":{run},\"c\":\"{c}\"}}\n{{\"n\":0,\"c\":\"{c}\"}}\nno\n");
        place.put(&format!("{folder}/1.ndjson"), &text).await;
        place.manifest(&folder, "q", false).await;
        let done = place.stager().run(false, Look::Folders([folder].into())).await.unwrap();
        assert_eq!((done.inputs, done.merged), (1, 0));
    }
    place
}

#[tokio::test]
async fn small_files_of_many_runs_become_one_and_are_done_again_as_one() {
    let place = after_runs(plan(), 20).await;
    assert_eq!((place.files().await.len(), rows_read(&place).await), (20, (40, 40)));
    let done = place.run().await;
    assert_eq!((done.inputs, done.merged, done.failed.len()), (0, 20, 0), "{done:?}");
    assert_eq!((place.files().await.len(), rows_read(&place).await), (1, (40, 40)));
    let records = super::record::read(&place.store, &Path::from("staged")).await.unwrap();
    let [record] = &records[..] else { panic!("{records:?}") };
    assert_eq!((record.inputs.len(), record.rows, record.quarantined), (20, 40, 20));
    assert!(record.remove.is_empty() && record.replaces.is_empty());
    assert_eq!(place.keys("staged/_stage").await.len(), 1);
    assert_eq!(place.keys("staged/_quarantine").await.len(), 20);
    let done = place.run().await;
    assert_eq!((done.inputs, done.merged, done.unchanged, done.standing), (0, 0, 20, 20));
    // One of its objects changes: the same rows but for those.
    place.put("raw/3/1.ndjson", "{\"n\":3}\n").await;
    place.manifest("raw/3", "q", true).await;
    let done = place.run().await;
    assert_eq!((done.inputs, done.quarantined), (20, 19), "{done:?}");
    assert_eq!((place.files().await.len(), rows_read(&place).await), (1, (39, 39)));
    assert_eq!(place.keys("staged/_quarantine").await.len(), 1);
}

#[tokio::test]
async fn rows_of_what_was_cleared_away_and_of_other_columns_stay_apart() {
    let mut plan = plan();
    plan.table.mismatch = Mismatch::Widen;
    let place = after_runs(plan, 20).await;
    for run in 0..4 {
        place.delete(&format!("raw/{run}/1.ndjson")).await;
    }
    // Of a wider type from now on.
    place.put("raw/new/1.ndjson", "{\"n\":\"a\"}\n").await;
    place.manifest("raw/new", "q", false).await;
    let done = place.run().await;
    assert_eq!((done.inputs, done.gone, done.merged), (1, 4, 16), "{done:?}");
    // Those of four that are gone, of the wider one, and of all others.
    assert_eq!((place.files().await.len(), rows_read(&place).await), (6, (41, 41)));
}

#[tokio::test]
async fn partitions_keep_their_folders_and_large_files_are_left() {
    let mut plan = plan();
    plan.table.partition = vec![1];
    let place = after_runs(plan, 40).await;
    let done = place.run().await;
    assert_eq!((done.merged, place.files().await.len()), (40, 2), "{done:?}");
    assert_eq!(rows_read(&place).await, (80, 80));
    for file in place.files().await {
        assert!(["staged/c=0/", "staged/c=1/"].iter().any(|start| file.starts_with(start)));
    }
}

#[tokio::test]
async fn whoever_is_killed_while_files_are_put_together_loses_no_row_and_leaves_none_twice() {
    let place = after_runs(plan(), 20).await;
    let stager = place.stager();
    let records = super::record::read(&place.store, &Path::from("staged")).await.unwrap();
    let all: Vec<_> = records.iter().collect();
    // Its files are there, and no record names them.
    let joint = stager.join(&all).await.unwrap().unwrap();
    drop(joint);
    assert_eq!(rows_read(&place).await, (40, 80));
    let done = place.stager().run(false, Look::Folders(BTreeSet::new())).await.unwrap();
    assert_eq!(done.unchanged, 20);
    assert_eq!(rows_read(&place).await, (40, 80));
    // The record is there too, and what it replaces, all of it or some.
    for gone in [0, 7] {
        let mut joint = stager.join(&all).await.unwrap().unwrap();
        joint.record.put(&place.store, &Path::from("staged")).await.unwrap();
        for job in &joint.record.replaces[..gone] {
            place.delete(&format!("staged/_stage/{job}.json")).await;
        }
        assert_eq!(rows_read(&place).await, (40, 80), "{gone}");
        if gone == 0 {
            // A version that does not know of such records refuses to count both.
            let key = joint.record.key(&Path::from("staged"));
            let text = place.store.get(&key).await.unwrap().unwrap();
            let text = String::from_utf8(text.to_vec()).unwrap();
            assert!(text.contains("\"version\":2"), "{text}");
            place.delete(key.as_ref()).await;
        }
    }
    let done = place.run().await;
    assert_eq!((done.inputs, done.unchanged, done.failed.len()), (0, 20, 0), "{done:?}");
    assert_eq!((place.files().await.len(), rows_read(&place).await), (1, (40, 40)));
    assert_eq!(place.keys("staged/_stage").await.len(), 1);
}

#[tokio::test]
async fn what_a_frozen_process_removes_of_its_own_is_nothing_of_its_successors() {
    let place = after_runs(plan(), 20).await;
    let records = super::record::read(&place.store, &Path::from("staged")).await.unwrap();
    let all: Vec<_> = records.iter().collect();
    let frozen = place.stager();
    let joint = frozen.join(&all).await.unwrap().unwrap();
    let next = place.stager();
    let done = next.join(&all).await.unwrap().unwrap();
    assert_eq!(next.replace(done).await.unwrap(), Ok(20));
    let refused = frozen.replace(joint).await.unwrap().unwrap_err();
    assert!(refused.contains("does another process stage"), "{refused}");
    assert_eq!((place.files().await.len(), rows_read(&place).await), (1, (40, 40)));
    // The same of two that stage the same objects anew.
    let task = super::tasks::Task { job: "j".to_owned(), inputs: BTreeMap::new(), before: None };
    let [one, other] = [&frozen, &next].map(|stager| Record::new(&task, "t", stager.nonce).name());
    assert_ne!(one, other);
}

async fn records(place: &Place) -> Vec<Record> {
    super::record::read(&place.store, &Path::from("staged")).await.unwrap()
}

#[tokio::test]
async fn what_a_successor_took_for_leftovers_is_made_again() {
    let place = Place::new(plan());
    for folder in ["raw/a", "raw/b"] {
        place.put(&format!("{folder}/1.ndjson"), "{\"n\":1}\nno\n").await;
        place.manifest(folder, "q", false).await;
    }
    assert_eq!(place.run().await.rows, 2);
    for kind in ["parquet", "jsonl"] {
        for key in place.keys("staged").await.iter().filter(|key| key.ends_with(kind)) {
            place.delete(key).await;
        }
        let done = place.run().await;
        assert_eq!((done.torn, done.inputs, done.leftovers), (1, 2, 0));
        assert_eq!(rows_read(&place).await, (2, 2));
        assert_eq!(place.keys("staged/_quarantine").await.len(), 1);
    }
    let done = place.run().await;
    assert_eq!((done.torn, done.inputs, done.unchanged), (0, 0, 2));
    // Both were removed, objects and files: that is as somebody wants it.
    for key in place.keys("raw").await.into_iter().chain(place.files().await) {
        place.delete(&key).await;
    }
    let done = place.run().await;
    assert_eq!((done.torn, done.inputs, done.gone, done.failed.len()), (0, 0, 2, 0), "{done:?}");
}

#[tokio::test]
async fn of_two_records_with_one_object_the_one_whose_files_are_there_keeps_it() {
    let place = Place::new(plan());
    for folder in ["raw/a", "raw/b", "raw/c"] {
        place.put(&format!("{folder}/1.ndjson"), "{\"n\":1}\n").await;
        place.manifest(folder, "q", false).await;
    }
    let look = |folders: &[&str]| {
        let folders = folders.iter().map(|folder| (*folder).to_owned()).collect();
        let stager = place.stager();
        async move { stager.run(false, Look::Folders(folders)).await.unwrap() }
    };
    // Of either order of names.
    for (torn, whole) in
        [(["raw/a", "raw/b"], ["raw/b", "raw/c"]), (["raw/b", "raw/c"], ["raw/a", "raw/b"])]
    {
        look(&torn).await;
        let mut left = records(&place).await.remove(0);
        for key in place.keys("staged").await {
            place.delete(&key).await;
        }
        look(&whole).await;
        let files = place.files().await;
        left.put(&place.store, &Path::from("staged")).await.unwrap();
        let done = place.run().await;
        assert_eq!((done.torn, done.inputs, done.unchanged), (1, 1, 2), "{done:?}");
        assert!(place.files().await.is_superset(&files));
        assert_eq!((rows(&place).await, rows_read(&place).await), (3, (3, 3)));
        for key in place.keys("staged").await {
            place.delete(&key).await;
        }
    }
}

#[tokio::test]
async fn a_look_that_takes_long_leaves_the_rest_to_the_next() {
    let mut place = after_runs(plan(), 20).await;
    (place.plan.manifest, place.plan.file_bytes) = (false, 1);
    place.plan.table.columns[1].default = Some("x".to_owned());
    let mut looks = 0;
    loop {
        let mut stager = place.stager();
        stager.until = Some(tokio::time::Instant::now());
        let done = stager.run(false, Look::All).await.unwrap();
        assert_eq!((done.inputs, done.merged), (1, 0), "{done:?}");
        looks += 1;
        if !done.cut {
            break;
        }
    }
    assert_eq!((looks, place.run().await.unchanged, rows_read(&place).await), (20, 20, (40, 40)));
}

#[tokio::test]
async fn what_another_has_put_since_the_records_were_read_is_no_leftover() {
    let place = after_runs(plan(), 1).await;
    let ended = place.stager().clean_orphans(&mut [], &mut Done::default()).await.unwrap_err();
    assert!(ended.to_string().contains("another process stages"), "{ended}");
    assert_eq!(rows_read(&place).await, (2, 2));
}

#[tokio::test]
async fn a_record_whose_file_goes_as_it_is_put_is_undone_before_what_it_replaces_goes() {
    let place = after_runs(plan(), 20).await;
    let (stager, of) = (place.stager(), records(&place).await);
    let all: Vec<_> = of.iter().collect();
    let mut joint = stager.join(&all).await.unwrap().unwrap();
    stager.remove(joint.made.iter()).await.unwrap();
    let reason = stager.place(&mut joint.record, None, &joint.made).await.unwrap().unwrap();
    assert!(reason.contains("was removed as soon as"), "{reason}");
    assert_eq!((records(&place).await, rows_read(&place).await), (of.clone(), (40, 40)));
    // One that is done again: what it was is there again, and is to be done again if an object of it was another's.
    for is_doubled in [false, true] {
        let before = Record { is_doubled, ..of[0].clone() };
        let (turn, files) = (before.turn + 1, vec!["gone.parquet".to_owned()]);
        let mut again = Record { turn, files, remove: before.files.clone(), ..before.clone() };
        stager.place(&mut again, Some(&before), &[]).await.unwrap().unwrap();
        let now = records(&place).await.remove(0);
        assert_eq!((now.files, now.table.is_empty()), (before.files, is_doubled));
    }
    assert_eq!(rows_read(&place).await, (40, 40));
}

#[tokio::test]
async fn a_frozen_process_puts_no_record_over_a_newer_one() {
    let place = after_runs(plan(), 2).await;
    let to = Path::from("staged");
    let mut old = records(&place).await.remove(0);
    let mut new = Record { nonce: old.nonce.wrapping_add(1), ..old.clone() };
    new.put(&place.store, &to).await.unwrap();
    old.remove.push("gone.parquet".to_owned());
    place.stager().clean(&mut old).await.unwrap();
    assert_eq!(records(&place).await.remove(0), new);
    // Nor one of a job that is done again.
    let seen = [(old.job.as_str(), Some(&old))].into();
    assert!(place.stager().odd(&old, &seen).await.unwrap().is_some());
    let seen = [(old.job.as_str(), Some(&new))].into();
    assert_eq!(place.stager().odd(&old, &seen).await.unwrap(), None);
}

#[tokio::test]
async fn a_file_that_is_none_is_told_and_nothing_is_put_together() {
    let place = after_runs(plan(), 20).await;
    let first = place.files().await;
    let broken = first.first().unwrap();
    place.put(broken, &"PAR1".repeat(150)).await;
    let done = place.run().await;
    assert_eq!((done.merged, done.failed.len()), (0, 1), "{done:?}");
    assert!(done.failed[0].starts_with("small files are not put together"), "{done:?}");
    assert_eq!(place.files().await, first);
}
