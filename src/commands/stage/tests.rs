//! What is staged, staged again and removed, on the store in memory.

#![allow(clippy::unwrap_used, clippy::format_collect)]

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::TryStreamExt;
use object_store::path::Path;
use tokio::runtime::Handle;
use tollgate_actors::ids::Slug;
use tollgate_actors::plan::StagePlan;
use tollgate_actors::store::Store;
use tollgate_stage::{Column, Files, From, Kind, Mismatch, Table, Unknown, path};

use super::outputs::Outputs;
use super::stager::{Done, Stager};

const ROOM: u64 = 256 << 20;

fn column(name: &str, kind: Kind) -> Column {
    let from = From::Path(path(name));
    Column { name: name.to_owned(), from, kind, default: None, required: false }
}

fn plan() -> StagePlan {
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
        let name = Slug::new("t").unwrap();
        let plan = Arc::new(self.plan.clone());
        Stager::new(self.store.clone(), &name, plan, "{id}/{page}.{ext}", Some(2), &self.stop)
    }

    async fn run(&self) -> Done {
        self.stager().run(false).await.unwrap()
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
    // In one file with what changes now: told, and left.
    place.put("raw/b/1.ndjson", "{\"n\":2}\n").await;
    let done = place.run().await;
    assert_eq!((done.gone, done.failed.len(), place.files().await), (1, 1, first));
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
    assert!(place.stager().run(true).await.unwrap().stopped);
    assert_eq!(place.keys("staged").await, first);
    place.stop.store(false, Ordering::Relaxed);
    let done = place.stager().run(true).await.unwrap();
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
    let write = tokio::task::spawn_blocking(move || {
        let mut open = Vec::new();
        for name in ["a", "b", "c"] {
            let mut file = outputs.create(name)?;
            file.write_all(&vec![7; 1 << 20])
                .map_err(|error| std::io::Error::other(format!("{name}: {error}")))?;
            open.push(file);
        }
        std::io::Result::Ok(())
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!write.is_finished());
    place.stop.store(true, Ordering::Relaxed);
    let ended = tokio::time::timeout(Duration::from_secs(30), write).await.unwrap().unwrap();
    assert_eq!(ended.unwrap_err().to_string(), "c: it was stopped");
}

#[tokio::test]
async fn a_record_of_many_files_is_remembered() {
    let mut plan = plan();
    (plan.manifest, plan.table.partition) = (false, vec![1]);
    let place = Place::new(plan);
    let name = "x".repeat(1_000);
    let text: String = (0..1_200).map(|n| format!("{{\"n\":{n},\"c\":\"{name}{n}\"}}\n")).collect();
    super::outputs::put(&place.store, Path::from("raw/1.ndjson"), text.into_bytes()).await.unwrap();
    let done = place.run().await;
    assert_eq!((done.rows, done.files, done.failed.len()), (1_200, 1_200, 0));
    assert_eq!(place.run().await.unchanged, 1);
    let done = place.stager().run(true).await.unwrap();
    assert_eq!((done.files, place.files().await.len()), (1_200, 1_200));
}
