//! Files: what is there, what is not, what is left and what is refused.

use std::io;
use std::process::Command;
use std::time::SystemTime;

use super::*;

/// The present, as far as a folder just written to knows it.
fn last_change(folder: &FsPath) -> SystemTime {
    std::fs::metadata(folder).unwrap().modified().unwrap()
}

#[tokio::test]
async fn an_aborted_body_leaves_nothing() {
    let (store, folder) = files();
    for size in [0, 100, INLINE_BYTES_MAX + 1, 5 * MIB] {
        let mut sink = store.sink(Path::from("a/k"), plain(Codec::None));
        sink.write(Bytes::from(report(size, 1))).await.unwrap();
        let staged = if size > FILE_PART_BYTES { vec!["a/k#1"] } else { vec![] };
        assert_eq!(names(folder.path()), staged);
        sink.abort().await;
        assert_eq!(names(folder.path()), [""; 0]);
        assert_eq!(store.buffered_bytes(), 0);
    }
}

#[tokio::test]
async fn a_dropped_body_leaves_nothing() {
    let (on_files, folder) = files();
    for store in [memory(), on_files] {
        for size in [100, INLINE_BYTES_MAX + 1, 5 * MIB] {
            let mut sink = store.sink(Path::from("k"), plain(Codec::None));
            sink.write(Bytes::from(report(size, 1))).await.unwrap();
            drop(sink);
            until("the staging file goes", || names(folder.path()).is_empty()).await;
            until("the budget comes back", || store.buffered_bytes() == 0).await;
            assert_eq!(object(&store, &Path::from("k")).await, None);
        }
    }
}

#[test]
fn a_body_dropped_after_its_runtime_leaves_nothing() {
    let (store, folder) = files();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut sink = store.sink(Path::from("k"), plain(Codec::None));
    runtime.block_on(sink.write(Bytes::from(report(5 * MIB, 1)))).unwrap();
    drop(runtime);
    drop(sink);
    assert_eq!(names(folder.path()), [""; 0]);
}

#[tokio::test]
async fn an_aborted_body_leaves_the_object_before_it() {
    let (store, folder) = files();
    let old = report(1000, 1);
    send(&store, "k", plain(Codec::None), &old, &[1000]).await.unwrap();
    let mut sink = store.sink(Path::from("k"), plain(Codec::None));
    sink.write(Bytes::from(report(3 * MIB, 2))).await.unwrap();
    sink.abort().await;
    assert_eq!(object(&store, &Path::from("k")).await.unwrap(), old);
    assert_eq!(names(folder.path()), ["k"]);
}

#[tokio::test]
async fn odd_names_stay_inside_their_folder() {
    let (store, folder) = files();
    let names_given = [
        "..",
        ".",
        "../../etc/passwd",
        "a/b",
        "😀",
        "a b",
        "#1",
        "x#1",
        "%2F",
        "\0\n",
        "C:\\x",
        "~",
    ];
    for name in names_given {
        let key = Path::from_iter(["accounts", name, "page.json"]);
        let mut sink = store.sink(key.clone(), plain(Codec::None));
        sink.write(Bytes::from(name.to_owned())).await.unwrap();
        sink.finish().await.unwrap();
        assert_eq!(object(&store, &key).await.unwrap(), name.as_bytes(), "{name:?}");
    }
    let long = "é".repeat(41);
    let key = Path::from_iter(["accounts", &long, "page.json"]);
    store.put_small(&key, Bytes::from_static(b"{}")).await.unwrap();
    let stored = names(folder.path());
    assert_eq!(stored.len(), names_given.len() + 1);
    for name in stored {
        let parts: Vec<&str> = name.split('/').collect();
        assert!(matches!(parts[..], ["accounts", _, "page.json"]), "{name}");
    }
}

#[tokio::test]
async fn a_name_longer_than_the_file_system_takes_is_an_error() {
    let (store, folder) = files();
    let key = Path::from("x".repeat(300));
    for size in [10, 3 * MIB] {
        let mut sink = store.sink(key.clone(), plain(Codec::None));
        let sent = match sink.write(Bytes::from(report(size, 1))).await {
            Ok(()) => sink.finish().await.map(drop),
            Err(error) => Err(error),
        };
        assert!(matches!(sent, Err(SinkError::Store { .. })), "{sent:?}");
    }
    assert_eq!(names(folder.path()), [""; 0]);
}

#[tokio::test]
async fn refuses_keys_that_are_not_for_objects() {
    let (store, folder) = files();
    let keys = [
        Path::parse("a/k#1").unwrap(),
        Path::parse("a#1/k").unwrap(),
        Path::from(""),
        Path::from("state"),
        Path::from("state/queue/0"),
    ];
    for key in keys {
        let refused = store.put_small(&key, Bytes::from_static(b"x")).await;
        let denied = StoreErrorKind::Denied;
        assert!(
            matches!(&refused, Err(SinkError::Store { kind, .. }) if *kind == denied),
            "{key}: {refused:?}"
        );
        let mut sink = store.sink(key, plain(Codec::None));
        assert!(sink.write(Bytes::from(report(3 * MIB, 1))).await.is_err());
    }
    store.put_small(&Path::from("states/k"), Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(names(folder.path()), ["states/k"]);
}

#[test]
fn refuses_to_open_below_the_state_folder() {
    let folder = TempDir::new().unwrap();
    let root = folder.path().join("state/objects");
    for state in [folder.path().join("state"), root.clone()] {
        let refused = Store::open_file(&root, &state, false, 64 * MIB as u64);
        assert!(matches!(refused, Err(OpenError::InState { .. })), "{refused:?}");
    }
}

#[tokio::test]
async fn small_objects_come_back_and_large_ones_do_not() {
    let (on_files, _folder) = files();
    let (in_bucket, _server) = bucket();
    for store in [memory(), on_files, in_bucket] {
        let key = Path::from("a/_manifest.json");
        assert_eq!(store.get(&key).await.unwrap(), None);
        for size in [0, 10, SMALL_OBJECT_BYTES_MAX] {
            let object = Bytes::from(report(size, 1));
            store.put_small(&key, object.clone()).await.unwrap();
            assert_eq!(store.get(&key).await.unwrap(), Some(object));
        }
        let large = report(SMALL_OBJECT_BYTES_MAX + 1, 1);
        let refused = store.put_small(&key, Bytes::from(large.clone())).await;
        assert!(matches!(refused, Err(SinkError::TooLarge { .. })));
        send(&store, "large", plain(Codec::None), &large, &[MIB]).await.unwrap();
        let refused = store.get(&Path::from("large")).await;
        assert!(matches!(refused, Err(SinkError::TooLarge { .. })));
    }
}

#[tokio::test]
async fn a_probe_tells_and_leaves_nothing() {
    let (store, folder) = files();
    store.probe().await.unwrap();
    memory().probe().await.unwrap();
    assert_eq!(names(folder.path()), [""; 0]);
    // A file in the folder's place: nothing can be stored below it.
    std::fs::remove_dir(folder.path()).unwrap();
    std::fs::write(folder.path(), b"").unwrap();
    let failed = store.probe().await;
    std::fs::remove_file(folder.path()).unwrap();
    assert!(matches!(failed, Err(SinkError::Store { .. })), "{failed:?}");
}

#[tokio::test]
async fn a_store_with_fsync_stores_the_same() {
    let folder = TempDir::new().unwrap();
    let state = folder.path().join("state");
    let store = Store::open_file(folder.path(), &state, true, 64 * MIB as u64).unwrap();
    for size in [1000, 3 * MIB] {
        let body = report(size, 1);
        let key = format!("a/b/{size}");
        send_and_check(&store, &key, plain(Codec::Zstd), &body, &body, &[100_000]).await;
    }
}

#[tokio::test]
async fn removes_only_old_leftovers() {
    let (store, folder) = files();
    let write = |name: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"x").unwrap();
    };
    let leftovers = ["a/b/k.json#1", "k#27", "_probe-00112233445566aa"];
    let kept = [
        "#1",
        "_probe-mine",
        "a/_probe-00112233445566aa",
        "a/b/k.json",
        "k#",
        "k#01",
        "k#1#2",
        "k#1a",
        "k%231",
        "state/wal#1",
    ];
    leftovers.into_iter().chain(kept).for_each(write);
    #[cfg(unix)]
    let outside = {
        let outside = TempDir::new().unwrap();
        std::fs::write(outside.path().join("k#1"), b"x").unwrap();
        std::os::unix::fs::symlink(outside.path(), folder.path().join("link")).unwrap();
        outside
    };
    let now = last_change(folder.path());
    let early = store.clean_leftovers(now - Duration::from_secs(3600)).await;
    assert_eq!((early.removed, early.complete), (0, true));
    let cleaned = store.clean_leftovers(now + Duration::from_secs(3600)).await;
    assert_eq!((cleaned.removed, cleaned.complete), (3, true));
    std::fs::remove_file(folder.path().join("link")).unwrap();
    assert_eq!(names(folder.path()), kept);
    #[cfg(unix)]
    assert_eq!(names(outside.path()), ["k#1"]);
}

#[tokio::test]
async fn a_sweep_leaves_alone_what_was_begun_after_it_was_asked_for() {
    let folder = TempDir::new().unwrap();
    let settings = TempDir::new().unwrap();
    let file = settings.path().join("tollgate.toml");
    let text = format!(
        "[node]\ndata = {root:?}\n[store]\nurl = \"file:{root}\"\n\
         [platforms.p]\nbase_url = \"https://api.example.com/\"\n[platforms.p.apis.a]\npath = \"x\"\n",
        root = folder.path().to_str().unwrap()
    );
    std::fs::write(&file, text).unwrap();
    let plan = crate::config::load(Some(&file), std::iter::empty(), &[]).unwrap().plan;
    let store = Store::open(&plan).unwrap();
    std::fs::write(folder.path().join("before#1"), b"x").unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let sweep = keep_clean(store, &plan);
    std::fs::write(folder.path().join("after#1"), b"x").unwrap();
    // It looks at once, and then not for hours.
    let ended = tokio::time::timeout(Duration::from_secs(1), sweep).await;
    assert!(ended.is_err(), "it sweeps for ever");
    assert_eq!(names(folder.path()), ["after#1"]);
}

#[test]
fn a_clean_up_ends_at_its_bound() {
    let folder = TempDir::new().unwrap();
    for i in 1..=20 {
        std::fs::write(folder.path().join(format!("k#{i}")), b"x").unwrap();
    }
    let later = last_change(folder.path()) + Duration::from_secs(3600);
    let nowhere = folder.path().join("state");
    let cleaned = leftovers::clean(folder.path(), &nowhere, later, 5);
    assert_eq!(cleaned, Cleaned { removed: 5, seen: 5, complete: false, trouble: None });
}

#[tokio::test]
async fn a_body_that_cannot_be_renamed_fails_and_its_leftover_is_cleaned() {
    let (store, folder) = files();
    send(&store, "k/in", plain(Codec::None), b"x", &[1]).await.unwrap();
    // `k` is a folder now.
    for size in [10, 3 * MIB] {
        let sent = send(&store, "k", plain(Codec::None), &report(size, 1), &[MIB]).await;
        assert!(matches!(sent, Err(SinkError::Store { .. })), "{sent:?}");
    }
    let later = last_change(folder.path()) + Duration::from_secs(3600);
    store.clean_leftovers(later).await;
    assert_eq!(names(folder.path()), ["k/in"]);
}

#[test]
fn sorts_what_the_system_says() {
    use StoreErrorKind::{Away, Denied, Full, Other};
    use rustix::io::Errno;
    let cases = [
        (Errno::NOSPC, Full),
        (Errno::DQUOT, Full),
        (Errno::ACCESS, Denied),
        (Errno::ROFS, Denied),
        (Errno::MFILE, Away),
        (Errno::NFILE, Away),
        (Errno::TIMEDOUT, Away),
        (Errno::STALE, Away),
        (Errno::ISDIR, Other),
    ];
    for (code, kind) in cases {
        let system = io::Error::from_raw_os_error(code.raw_os_error());
        let wrapped = object_store::Error::Generic { store: "test", source: Box::new(system) };
        let error = SinkError::store(&Path::from("a/k"), wrapped);
        assert!(matches!(&error, SinkError::Store { kind: k, .. } if *k == kind), "{error:?}");
        assert!(error.to_string().starts_with("store `a/k`: "));
    }
}

/// A file system of its own, unmounted at the end.
struct Mount(TempDir);

impl Mount {
    /// `None` where this user may not mount.
    fn new(bytes: usize) -> Option<Self> {
        let folder = TempDir::new().unwrap();
        let size = format!("size={bytes}");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(folder.path())
            .output();
        mount.is_ok_and(|done| done.status.success()).then_some(Self(folder))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.0.path()).output());
    }
}

#[tokio::test]
async fn a_full_disk_is_an_error_and_keeps_what_was_there() {
    let Some(mount) = Mount::new(3 * MIB) else {
        // Only root may mount; `sorts_what_the_system_says` holds everywhere.
        return;
    };
    let folder = mount.0.path();
    let state = folder.join("state");
    let store = Store::open_file(folder, &state, false, 64 * MIB as u64).unwrap();
    let old = report(2 * MIB, 1);
    send(&store, "k", plain(Codec::None), &old, &[MIB]).await.unwrap();
    let sent = send(&store, "k", plain(Codec::None), &report(8 * MIB, 2), &[100_000]).await;
    assert!(matches!(&sent, Err(SinkError::Store { kind: StoreErrorKind::Full, .. })), "{sent:?}");
    until("the staging file goes", || names(folder) == ["k"]).await;
    assert_eq!(object(&store, &Path::from("k")).await.unwrap(), old);
    // Fill it to the last byte: a small body fails as well, and leaves nothing.
    drop(std::fs::write(folder.join("filler"), vec![0; 2 * MIB]));
    let sent = send(&store, "small", plain(Codec::None), &report(9000, 3), &[9000]).await;
    assert!(matches!(&sent, Err(SinkError::Store { kind: StoreErrorKind::Full, .. })), "{sent:?}");
    assert_eq!(names(folder), ["filler", "k"]);
}
