//! A bucket: one put or many parts, trouble on the way, what is left and what is refused. Against a real
//! server; see `s3_server`.

use std::time::SystemTime;

use super::s3_server::Trouble;
use super::*;

const PART: usize = 5 * MIB;

fn kind(result: &Result<impl std::fmt::Debug, SinkError>) -> StoreErrorKind {
    match result {
        Err(SinkError::Store { kind, .. }) => *kind,
        other => panic!("{other:?}"),
    }
}

fn with<T>(server: &S3Server, change: impl FnOnce(&mut Trouble) -> T) -> T {
    change(&mut server.trouble.lock().unwrap())
}

/// Objects below the prefix as the server's own files; nothing of them is ours.
fn objects(server: &S3Server) -> Vec<String> {
    names(&server.files())
}

/// Hours after the server's start.
fn later(server: &S3Server, hours: u64) -> SystemTime {
    let begun = std::fs::metadata(server.files()).unwrap().modified().unwrap();
    begun + Duration::from_secs(hours * 3600)
}

#[tokio::test]
async fn a_body_of_up_to_a_part_is_one_put_and_a_larger_one_has_parts() {
    let (store, server) = bucket();
    let cases = [
        (0, 0),
        (1024, 0),
        (INLINE_BYTES_MAX + 1, 0),
        (PART - 1, 0),
        (PART, 0),
        (PART + 1, 2),
        (2 * PART, 2),
        (2 * PART + 1, 3),
        (40 * MIB, 8),
    ];
    for (puts, (size, parts)) in cases.into_iter().enumerate() {
        let (before, begun) = (server.seen("PUT part"), server.seen("POST begin"));
        let body = report(size, size as u64);
        let key = format!("x/{size}.csv");
        send_and_check(&store, &key, plain(Codec::None), &body, &body, &[70_000]).await;
        assert_eq!(server.seen("PUT part") - before, parts, "{size}");
        assert_eq!(server.seen("POST begin") - begun, u64::from(parts > 0), "{size}");
        assert!(parts > 0 || server.seen("PUT") == puts as u64 + 1, "{size}");
    }
    assert_eq!((server.uploads(), server.parts().len(), store.buffered_bytes()), (0, 0, 0));
    let files = objects(&server);
    assert!(files.iter().all(|file| file.starts_with("a b/c&d/x/")), "{files:?}");
    let told = with(&server, |t| t.content_types.clone());
    assert!(told.len() == 5 && told.values().all(|found| found == "text/csv"), "{told:?}");
}

#[tokio::test]
async fn an_object_is_told_for_what_it_is() {
    let (store, server) = bucket();
    for key in ["a.json.zst", "a.json.gz", "a.json", "a.html", "a.txt", "a.bin", "a"] {
        store.put_small(&Path::from(key), Bytes::from_static(b"x")).await.unwrap();
    }
    let told = with(&server, |t| t.content_types.clone());
    let told: Vec<(&str, &str)> =
        told.iter().map(|(key, found)| (key.rsplit('/').next().unwrap(), found.as_str())).collect();
    assert_eq!(
        told,
        [
            ("a", "application/octet-stream"),
            ("a.bin", "application/octet-stream"),
            ("a.html", "text/html"),
            ("a.json", "application/json"),
            ("a.json.gz", "application/gzip"),
            ("a.json.zst", "application/zstd"),
            ("a.txt", "text/plain"),
        ]
    );
}

#[tokio::test]
async fn odd_names_come_back_from_a_bucket() {
    let (store, server) = bucket();
    for name in ["😀", "a b", "%2F", "x+y=z&w", "é%", "a,b;c", "~", "..", "#1"] {
        let key = Path::from_iter(["accounts", name, "page.json"]);
        let mut sink = store.sink(key.clone(), plain(Codec::None));
        sink.write(Bytes::from(name.to_owned())).await.unwrap();
        sink.finish().await.unwrap();
        assert_eq!(object(&store, &key).await.unwrap(), name.as_bytes(), "{name:?}");
    }
    assert_eq!(objects(&server).len(), 9);
    let key = Path::from(format!("{}k", "x".repeat(200).as_str().to_owned() + "/").repeat(6));
    let refused = store.put_small(&key, Bytes::from_static(b"x")).await;
    assert_eq!(kind(&refused), StoreErrorKind::Denied, "longer than 1,024 bytes");
}

#[tokio::test]
async fn an_aborted_a_dropped_and_a_failed_body_leave_nothing_in_a_bucket() {
    let (store, server) = bucket();
    let old = report(1000, 1);
    send(&store, "k", plain(Codec::None), &old, &[1000]).await.unwrap();
    for how in ["abort", "drop", "fail"] {
        let options = SinkOptions { body_bytes_max: 18 * MIB as u64, ..plain(Codec::None) };
        let mut sink = store.sink(Path::from("k"), options);
        sink.write(Bytes::from(report(17 * MIB, 2))).await.unwrap();
        assert_eq!(server.uploads(), 1);
        match how {
            "abort" => {
                sink.abort().await;
                assert_eq!(server.uploads(), 0, "it was waited for");
            }
            "drop" => drop(sink),
            _ => assert!(sink.write(Bytes::from(vec![0; 2 * MIB])).await.is_err()),
        }
        until("the upload is aborted", || server.uploads() == 0).await;
        until("its parts are gone", || server.parts().is_empty()).await;
        until("the budget comes back", || store.buffered_bytes() == 0).await;
        assert_eq!(object(&store, &Path::from("k")).await.unwrap(), old, "{how}");
    }
    assert_eq!(server.seen("POST complete"), 0);
}

#[tokio::test]
async fn an_upload_whose_beginning_was_not_waited_for_is_aborted() {
    let (store, server) = bucket();
    let body = Bytes::from(report(6 * MIB, 2));
    let mut sink = store.sink(Path::from("k"), plain(Codec::None));
    {
        let mut write = std::pin::pin!(sink.write(body));
        let seen = || server.seen("POST begin") > 0;
        while !seen() {
            let turn = tokio::time::timeout(Duration::from_millis(1), &mut write).await;
            assert!(turn.is_err() || seen());
        }
    }
    drop(sink);
    until("it is aborted", || server.seen("DELETE abort") == 1 && server.uploads() == 0).await;
}

#[tokio::test]
async fn wrong_keys_and_a_missing_bucket_are_denied() {
    let (store, server) = bucket();
    let wrong = bucket_with(&server.endpoint(), "another");
    assert_eq!(kind(&wrong.probe().await), StoreErrorKind::Denied);
    assert_eq!(kind(&wrong.get(&Path::from("k")).await), StoreErrorKind::Denied);
    let large = report(6 * MIB, 1);
    let sent = send(&wrong, "k", plain(Codec::None), &large, &[MIB]).await;
    assert_eq!(kind(&sent), StoreErrorKind::Denied);
    assert!(!format!("{:?}", wrong.probe().await).contains("another"));

    store.probe().await.unwrap();
    assert_eq!(objects(&server), [""; 0], "a probe leaves nothing");
    assert_eq!(store.get(&Path::from("k")).await.unwrap(), None);
}

/// What Amazon and others answer and s3s-fs does not: told by the proxy instead.
#[tokio::test]
async fn every_answer_of_a_store_is_sorted() {
    use StoreErrorKind::{Away, Clock, Denied, Full, Other};
    let cases = [
        (404, "NoSuchBucket", Denied),
        (403, "AccessDenied", Denied),
        (403, "RequestTimeTooSkewed", Clock),
        (404, "NoSuchUpload", Other),
        (404, "ContainerNotFound", Denied),
        (400, "ExpiredToken", Denied),
        (400, "AuthorizationHeaderMalformed", Denied),
        (301, "PermanentRedirect", Denied),
        (403, "QuotaExceeded", Full),
        (507, "XMinioStorageFull", Full),
        (400, "RequestTimeout", Away),
        (429, "TooManyRequests", Away),
        (500, "InternalError", Away),
        (501, "NotImplemented", Other),
        (400, "InvalidRequest", Other),
        (409, "OperationAborted", Other),
    ];
    let key = Path::from("k");
    let each = cases.map(|(status, code, wanted)| {
        let key = &key;
        async move {
            let (store, server) = bucket();
            with(&server, |t| t.says = Some((status, code)));
            let put = store.put_small(key, Bytes::from_static(b"x")).await;
            assert_eq!(kind(&put), wanted, "{status} {code}: {put:?}");
            if code == "NoSuchBucket" {
                // Not the same as an object that is not there.
                assert_eq!(kind(&store.get(key).await), Denied);
            }
        }
    });
    futures_util::future::join_all(each).await;
}

#[tokio::test]
async fn a_storm_of_slow_down_is_ridden_out() {
    let (store, server) = bucket();
    with(&server, |t| t.slow_down_one_in = 3);
    let bodies = (0..60).map(|i| {
        let store = &store;
        async move {
            let body = report(if i % 20 == 0 { 12 * MIB } else { 1000 + i }, i as u64);
            send_and_check_once(store, &format!("{i}"), &body).await;
        }
    });
    futures_util::future::join_all(bodies).await;
    let slowed = with(&server, |t| t.seen.values().sum::<u64>()) / 3;
    assert!(slowed >= 30, "{slowed} requests were refused");
    // And one that refuses everything for a while.
    with(&server, |t| (t.slow_down_one_in, t.slow_down) = (0, 5));
    send_and_check_once(&store, "last", b"{}").await;
    assert_eq!(with(&server, |t| t.slow_down), 0);
    assert_eq!(server.uploads(), 0);
}

/// Without a look at the object, which would meet the storm without need.
async fn send_and_check_once(store: &Store, key: &str, body: &[u8]) {
    let stored = send(store, key, plain(Codec::None), body, &[100_000]).await.unwrap();
    assert_eq!((stored.bytes, stored.sha256), (body.len() as u64, sha256(body)));
    assert!(object(store, &Path::from(key)).await.unwrap() == body, "{key}");
}

#[tokio::test]
async fn a_storm_that_does_not_end_and_a_server_that_is_gone_are_away() {
    let (store, mut server) = bucket();
    let direct = bucket_at(&server.direct());
    let small = Bytes::from_static(b"{}");
    let key = Path::from("k");
    direct.put_small(&key, small.clone()).await.unwrap();
    with(&server, |t| t.slow_down = u64::MAX);
    let storm = store.put_small(&key, small.clone());
    server.go_away();
    let refused = direct.put_small(&key, small.clone());
    let (storm, refused) = futures_util::join!(storm, refused);
    assert_eq!(kind(&storm), StoreErrorKind::Away, "{storm:?}");
    assert_eq!(kind(&refused), StoreErrorKind::Away, "{refused:?}");
    // 502 of the proxy.
    with(&server, |t| t.slow_down = 0);
    assert_eq!(kind(&store.put_small(&key, small.clone()).await), StoreErrorKind::Away);
    server.come_back();
    for store in [store, direct] {
        store.put_small(&key, small.clone()).await.unwrap();
        assert_eq!(store.get(&key).await.unwrap(), Some(small.clone()));
    }
}

#[tokio::test]
async fn uploads_of_killed_processes_are_aborted_when_they_are_old() {
    let (store, server) = bucket();
    // Forgotten as a kill forgets them: nobody aborts them.
    for n in 0..7 {
        let mut sink = store.sink(Path::from(format!("left&{n}")), plain(Codec::None));
        sink.write(Bytes::from(report(11 * MIB, n))).await.unwrap();
        until("a part is there", || server.parts().len() > n as usize).await;
        std::mem::forget(sink);
    }
    let elsewhere = ("elsewhere/k".to_owned(), "id".to_owned());
    with(&server, |t| {
        t.uploads.insert(elsewhere.clone(), 1000);
        t.page = 3;
    });
    let young = store.clean_leftovers(later(&server, 0)).await;
    assert_eq!((young.removed, young.seen, young.complete), (0, 7, true), "{young:?}");
    assert_eq!(server.seen("GET uploads"), 3, "three pages");
    let cleaned = store.clean_leftovers(later(&server, 24)).await;
    assert_eq!((cleaned.removed, cleaned.seen, cleaned.complete), (7, 7, true), "{cleaned:?}");
    assert_eq!(cleaned.trouble, None);
    assert_eq!(with(&server, |t| t.uploads.keys().cloned().collect::<Vec<_>>()), [elsewhere]);
    assert_eq!(server.parts(), [""; 0], "and their parts are off the server's disk");
    assert_eq!(objects(&server), [""; 0]);
}

#[tokio::test]
async fn a_store_that_does_not_list_its_uploads_says_so() {
    let (store, server) = bucket();
    with(&server, |t| t.no_list = Some(403));
    let cleaned = store.clean_leftovers(later(&server, 24)).await;
    assert!(!cleaned.complete);
    assert!(cleaned.trouble.unwrap().contains("AccessDenied"));
    // s3s-fs itself has no such list.
    let cleaned = bucket_at(&server.direct()).clean_leftovers(later(&server, 24)).await;
    assert!(cleaned.trouble.unwrap().contains("NotImplemented"));
    let cleaned =
        bucket_with(&server.endpoint(), "another").clean_leftovers(later(&server, 24)).await;
    assert!(cleaned.trouble.unwrap().contains("SignatureDoesNotMatch"), "the request is signed");
}

#[test]
fn four_threads_put_into_one_bucket_each_on_its_own_connections() {
    let (store, server) = bucket();
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let store = store.clone();
            std::thread::spawn(move || {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let bodies = (0..50).map(|i| {
                        let (store, seed) = (&store, thread * 100 + i);
                        async move {
                            let body = report(if i == 7 { 6 * MIB } else { 900 }, seed);
                            let key = format!("{thread}/{i}");
                            send_and_check(store, &key, plain(Codec::Zstd), &body, &body, &[9000])
                                .await;
                        }
                    });
                    futures_util::future::join_all(bodies).await;
                });
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(objects(&server).len(), 200);
}

#[tokio::test]
async fn a_server_that_is_gone_is_noticed_before_the_first_put_gives_up() {
    let (store, mut server) = bucket();
    store.probe().await.unwrap();
    let keys: Vec<Path> = (0..20).map(|i| Path::from(format!("{i}"))).collect();
    // Some that fail among others are no sign.
    with(&server, |t| t.slow_down_one_in = 2);
    let puts = keys.iter().map(|key| store.put(key, Bytes::new()));
    let early = tokio::select! {
        all = futures_util::future::join_all(puts) => all.into_iter().all(|put| put.is_ok()),
        () = store.failing() => false,
    };
    assert!(early, "told of a store that is only slow");
    server.go_away();
    let puts = keys.iter().map(|key| store.put(key, Bytes::new()));
    tokio::select! {
        _ = futures_util::future::join_all(puts) => panic!("the puts gave up first"),
        told = tokio::time::timeout(Duration::from_secs(4), store.failing()) => told.unwrap(),
    }
}

#[tokio::test]
async fn a_note_that_the_bucket_does_not_let_go_keeps_no_other_from_being_swept() {
    let (store, server) = bucket();
    let json = br#"{"manifest":"p","queue":"q","seq":1,"until":"2026-01-01T00:00:00Z"}"#;
    for number in 0..20 {
        let key = Path::from(format!("_fresh/{number:032x}.json"));
        store.put_small(&key, json.as_slice().into()).await.unwrap();
    }
    let wall = "2026-06-01T00:00:00Z".parse().unwrap();
    with(&server, |t| t.denies = Some("DELETE"));
    assert_eq!(kind(&crate::fresh::sweep(&store, wall).await), StoreErrorKind::Denied);
    assert_eq!(server.seen("DELETE"), 10, "no more are tried");
    with(&server, |t| t.denies = None);
    assert_eq!(crate::fresh::sweep(&store, wall).await.unwrap(), 20);
}

#[tokio::test]
async fn an_object_is_created_where_none_is_and_a_store_that_cannot_tell_is_asked_once() {
    let (store, server) = bucket();
    let key = |name: &str| Path::from(name);
    let text = |text: &'static str| Bytes::from_static(text.as_bytes());
    assert!(store.create_small(&key("a"), text("first")).await.unwrap());
    assert!(!store.create_small(&key("a"), text("second")).await.unwrap());
    assert_eq!(store.get(&key("a")).await.unwrap().unwrap(), "first");
    with(&server, |t| t.no_conditions = true);
    // Whoever reads it finds out whose it is.
    assert!(!store.create_small(&key("b"), text("first")).await.unwrap());
    let asked = server.seen("PUT if");
    assert!(asked > 0);
    assert!(!store.create_small(&key("b"), text("second")).await.unwrap());
    assert_eq!(store.get(&key("b")).await.unwrap().unwrap(), "second");
    assert_eq!(server.seen("PUT if"), asked);
}
