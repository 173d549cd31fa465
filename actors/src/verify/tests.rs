use std::collections::BTreeMap;

use jiff::Timestamp;
use object_store::path::Path;
use sha2::{Digest, Sha256};
use tollgate_protos::{Done, Manifest, Object};

use super::*;
use crate::store::{Decode, EXPAND_MAX, SinkOptions, Unwrap};

const NOW: &str = "2036-11-22T10:00:00Z";

/// A store in memory or in files, with fetches in it.
struct Rig {
    store: Store,
    folder: tempfile::TempDir,
}

impl Rig {
    fn files() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // The state folder lies among the objects, as by default.
        let state = folder.path().join("state");
        let store = Store::open_file(folder.path(), &state, false, 1 << 30).unwrap();
        std::fs::create_dir_all(&state).unwrap();
        std::fs::write(state.join("x.redb"), "not an object").unwrap();
        Self { store, folder }
    }

    async fn object(&self, key: &str, body: &[u8], codec: Codec) -> Object {
        let options = SinkOptions {
            codec,
            decode: Decode::Identity,
            unwrap: Unwrap::None,
            charset: None,
            body_bytes_max: 1 << 30,
            expand_max: EXPAND_MAX,
        };
        let mut sink = self.store.sink(Path::from(key), options);
        sink.write(body.to_vec().into()).await.unwrap();
        let stored = sink.finish().await.unwrap();
        assert_eq!(stored.sha256, format!("{:x}", Sha256::digest(body)));
        Object {
            key: stored.key.to_string(),
            bytes: stored.bytes,
            sha256: stored.sha256,
            stored_bytes: stored.stored_bytes,
            stored_sha256: Some(stored.stored_sha256),
            member: None,
        }
    }

    async fn manifest(&self, key: &str, objects: Vec<Object>) {
        let done = Done { objects, pages: 1, ..Done::default() };
        self.manifest_of(key, done).await;
    }

    async fn manifest_of(&self, key: &str, done: Done) {
        let manifest = Manifest {
            version: 1,
            queue: "q".into(),
            platform: "p".into(),
            account: "a".into(),
            api: "r".into(),
            params: serde_json::Map::new(),
            provenance: None,
            done,
        };
        let text = serde_json::to_vec(&manifest).unwrap();
        self.store.put_small(&Path::from(key), text.into()).await.unwrap();
    }

    /// Fetches of one object each, of every codec, small and of several parts.
    async fn fill(&self) -> Vec<Object> {
        let mut all = Vec::new();
        let mut luck = fastrand::Rng::with_seed(1);
        let large: Vec<u8> = std::iter::repeat_with(|| luck.u8(..)).take(3_000_000).collect();
        for (name, codec, body) in [
            ("f1/00001.json.zst", Codec::Zstd, &b"{\"a\":1}"[..]),
            ("f2/00001.json.gz", Codec::Gzip, b"{}"),
            ("f3/00001.json", Codec::None, b""),
            ("f4/00001.bin.zst", Codec::Zstd, &large),
            ("f5/00001.bin.gz", Codec::Gzip, &large),
        ] {
            let object = self.object(name, body, codec).await;
            let folder = name.split_once('/').unwrap().0;
            self.manifest(&format!("{folder}/_manifest.json"), vec![object.clone()]).await;
            all.push(object);
        }
        all
    }

    async fn verify(&self, prefix: &str, deep: bool) -> (Report, BTreeMap<String, Fault>) {
        self.verify_young(prefix, deep, Duration::ZERO, NOW).await
    }

    async fn verify_young(
        &self,
        prefix: &str,
        deep: bool,
        grace: Duration,
        now: &str,
    ) -> (Report, BTreeMap<String, Fault>) {
        let now: Timestamp = now.parse().unwrap();
        let prefix = prefix_of(prefix).unwrap();
        let others = vec![Path::from("staged")];
        let asked = Asked { prefix, deep, grace, now, others, at_once: 4 };
        let mut findings = BTreeMap::new();
        let mut tell = |finding: Finding| {
            assert!(findings.insert(finding.key.clone(), finding.fault).is_none(), "{finding:?}");
        };
        let report = verify(&self.store, &asked, &mut tell, &mut |_| ()).await.unwrap();
        assert_eq!(report.verified, findings.is_empty(), "{report:?}");
        (report, findings)
    }

    fn path(&self, key: &str) -> std::path::PathBuf {
        self.folder.path().join(key)
    }
}

#[tokio::test]
async fn what_is_as_its_manifests_say_is_verified_with_what_is_tollgates_own() {
    let rig = Rig::files();
    rig.fill().await;
    for own in [
        "_manifests/dt=2026-11-22/n.jsonl",
        "_fresh/1.json",
        "_probe-00",
        "_manifests/_probe-00",
        "f1/_owner.json",
        "staged/offers/dt=2026-11-20/1.parquet",
    ] {
        rig.store.put_small(&Path::from(own), "x".into()).await.unwrap();
    }
    for deep in [false, true] {
        let (report, findings) = rig.verify("", deep).await;
        assert_eq!((report.manifests, report.objects, &findings), (5, 5, &BTreeMap::new()));
        assert!(report.stored_bytes > 3_000_000, "{report:?}");
    }
    let (report, _) = rig.verify("/f4/", true).await;
    assert_eq!((report.manifests, report.objects), (1, 1));
}

#[tokio::test]
async fn every_way_of_being_wrong_is_found() {
    let rig = Rig::files();
    let objects = rig.fill().await;
    // A byte of another value, the same length.
    let mut bytes = std::fs::read(rig.path("f4/00001.bin.zst")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(rig.path("f4/00001.bin.zst"), &bytes).unwrap();
    let torn = std::fs::read(rig.path("f5/00001.bin.gz")).unwrap();
    std::fs::write(rig.path("f5/00001.bin.gz"), &torn[..torn.len() - 9]).unwrap();
    std::fs::write(rig.path("f2/00001.json.gz"), [&torn[..], b"more"].concat()).unwrap();
    std::fs::remove_file(rig.path("f3/00001.json")).unwrap();
    rig.object("f1/00002.json.zst", b"orphan", Codec::Zstd).await;
    std::fs::create_dir_all(rig.path("f6")).unwrap();
    std::fs::write(rig.path("f6/_manifest.json"), "{\"version\":1}").unwrap();
    rig.manifest("f7/_manifest.json", vec![]).await;
    for deep in [false, true] {
        let (report, findings) = rig.verify("", deep).await;
        let expected = BTreeMap::from([
            ("f4/00001.bin.zst".to_owned(), Fault::Different),
            ("f5/00001.bin.gz".to_owned(), Fault::Torn),
            ("f2/00001.json.gz".to_owned(), Fault::Different),
            ("f3/00001.json".to_owned(), Fault::Missing),
            ("f3/_manifest.json".to_owned(), Fault::Nothing),
            ("f1/00002.json.zst".to_owned(), Fault::Orphaned),
            ("f6/_manifest.json".to_owned(), Fault::Unreadable),
            ("f7/_manifest.json".to_owned(), Fault::Nothing),
        ]);
        assert_eq!(findings, expected);
        let Report { missing, torn, different, orphaned, unreadable, nothing, .. } = report;
        assert_eq!((missing, torn, different, orphaned, unreadable, nothing), (1, 1, 2, 1, 1, 2));
    }
    // Only below the prefix.
    assert_eq!(rig.verify("f5", false).await.1.len(), 1);
    assert_eq!(objects.len(), 5);
}

#[tokio::test]
async fn a_manifest_of_before_is_verified_by_the_body_that_it_knows() {
    let rig = Rig::files();
    for object in rig.fill().await {
        let folder = object.key.split_once('/').unwrap().0;
        let old = Object { stored_sha256: None, ..object.clone() };
        rig.manifest(&format!("{folder}/_manifest.json"), vec![old]).await;
    }
    let text = std::fs::read_to_string(rig.path("f1/_manifest.json")).unwrap();
    assert!(!text.contains("stored_sha256") && !text.contains("provenance"), "{text}");
    let (report, findings) = rig.verify("", false).await;
    assert_eq!((report.objects, findings), (5, BTreeMap::new()));
    let mut bytes = std::fs::read(rig.path("f4/00001.bin.zst")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(rig.path("f4/00001.bin.zst"), &bytes).unwrap();
    let (_, findings) = rig.verify("", false).await;
    assert_eq!(findings, BTreeMap::from([("f4/00001.bin.zst".to_owned(), Fault::Different)]));
}

#[tokio::test]
async fn a_read_that_is_underway_is_no_orphan_and_a_split_one_names_nothing() {
    let rig = Rig::files();
    rig.object("f1/00001.json.zst", b"page", Codec::Zstd).await;
    let done = Done { split_into: vec!["a".into()], ..Done::default() };
    rig.manifest_of("f2/_manifest.json", done).await;
    let now = crate::clock::Clock::new().wall().to_string();
    let hour = Duration::from_secs(3600);
    let (report, findings) = rig.verify_young("", false, hour, &now).await;
    assert_eq!((report.underway, findings.len()), (1, 0), "{report:?}");
    let (report, findings) = rig.verify("", false).await;
    assert_eq!((report.underway, findings.len()), (0, 1));
}

#[tokio::test]
async fn an_object_that_is_just_being_replaced_is_not_different() {
    let rig = Rig::files();
    let object = rig.object("f1/00001.json.zst", b"of monday", Codec::Zstd).await;
    rig.manifest("f1/_manifest.json", vec![object]).await;
    // Files have the time of a clock that ticks some hundred times a second.
    let before = crate::clock::Clock::new().wall() - jiff::SignedDuration::from_secs(1);
    rig.object("f1/00001.json.zst", b"of friday", Codec::Zstd).await;
    let after = before + jiff::SignedDuration::from_secs(5);
    for (grace, now) in [(Duration::ZERO, before), (Duration::from_secs(60), after)] {
        let (report, findings) = rig.verify_young("", false, grace, &now.to_string()).await;
        assert_eq!((report.underway, &findings), (1, &BTreeMap::new()), "{report:?}");
    }
    let (report, findings) = rig.verify("", false).await;
    assert_eq!((report.underway, findings["f1/00001.json.zst"]), (0, Fault::Different));
}

#[test]
fn what_is_missing_is_not_waited_for() {
    let key = |name: &str| Path::from(name);
    let mut open = Open::default();
    open.waits.insert(key("a"), Timestamp::MIN);
    let names = vec![key("b")];
    let mut round = Round { names, gone: vec![key("a"), key("c")], ..Round::default() };
    open.name_all(&mut round);
    assert_eq!((open.named, open.waits.len()), (HashSet::from([key("b")]), 0));
}

#[tokio::test]
async fn all_pages_of_a_long_read_are_looked_at_by_its_lists() {
    let rig = Rig::files();
    let mut objects = Vec::new();
    for page in 1..=120 {
        objects.push(
            rig.object(&format!("f/{page:05}.json.zst"), &[page as u8; 100], Codec::Zstd).await,
        );
    }
    let manifest = Path::from("f/_manifest.json");
    for (number, objects) in (1..).zip(objects.chunks(50)) {
        let first = (number - 1) * 50 + 1;
        let list = PageList { version: 1, seq: 1, restarts: 0, first, objects: objects.to_vec() };
        let text = serde_json::to_vec(&list).unwrap();
        rig.store.put_small(&list_key(&manifest, number), text.into()).await.unwrap();
    }
    let done = Done { objects: objects[..100].to_vec(), pages: 120, lists: 3, ..Done::default() };
    rig.manifest_of(manifest.as_ref(), done).await;
    let (report, findings) = rig.verify("", false).await;
    assert_eq!((report.objects, findings), (120, BTreeMap::new()));
    std::fs::remove_file(rig.path("f/00117.json.zst")).unwrap();
    std::fs::remove_file(rig.path("f/_pages-00001.json")).unwrap();
    let (report, findings) = rig.verify("", false).await;
    assert_eq!(findings["f/00117.json.zst"], Fault::Missing);
    assert_eq!(findings["f/_pages-00001.json"], Fault::Missing);
    // What only that list names is in no manifest any more.
    assert_eq!((report.missing, report.orphaned), (2, 50));
}
