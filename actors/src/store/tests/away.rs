//! A bucket that goes away while bodies are on their way into it: they wait on the disk until it is back.

use futures_util::future::join_all;

use super::*;

/// A store for four streamed bodies at once, which keeps so much on the disk, and where.
fn patient(endpoint: &str, spool_bytes_max: u64) -> (Store, TempDir) {
    crate::install_tls();
    let keys = S3Credentials::Keys {
        id: KEY_ID.to_owned().into(),
        secret: SECRET.to_owned().into(),
        token: None,
    };
    let folder = TempDir::new().unwrap();
    let spool = Spool::new(folder.path().join(SPOOL), spool_bytes_max);
    let plan = s3_plan(endpoint, keys);
    let store = Store::open_bucket_with(&plan, 1 << 33, 64 * MIB as u64, Some(spool)).unwrap();
    (store, folder)
}

async fn is_back(store: &Store) {
    while store.probe().await.is_err() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn bodies_wait_on_the_disk_and_none_is_there_before_the_bucket_is() {
    let mut server = S3Server::start();
    let (store, folder) = patient(&server.direct(), 1 << 30);
    // In parts, one part, small, and nothing; four of each.
    let sizes = [17 * MIB + 5, 3 * MIB, 900, 0];
    let bodies: Vec<_> = (0..16).map(|i| report(sizes[i % 4], i as u64)).collect();
    let store = &store;
    // The first of each size have begun: of the large ones a part is there.
    let mut begun: Vec<_> =
        (0..16).map(|i| store.sink(Path::from(format!("{i}")), plain(Codec::None))).collect();
    for (sink, body) in begun.iter_mut().zip(&bodies).take(2) {
        sink.write(Bytes::copy_from_slice(&body[..body.len().min(6 * MIB)])).await.unwrap();
    }
    server.go_away();
    let all = begun.into_iter().enumerate().map(|(i, mut sink)| {
        let body = &bodies[i];
        async move {
            let from = if i < 2 { body.len().min(6 * MIB) } else { 0 };
            for piece in body[from..].chunks(MIB) {
                sink.write(Bytes::copy_from_slice(piece)).await.unwrap();
            }
            let sealed = sink.seal().await.unwrap();
            let name = sealed.stored().key.clone();
            let companion = (Path::from(format!("{name}-tells")), Bytes::from_static(b"{}"));
            sealed.complete_and(|_| Some(companion)).await.unwrap()
        }
    });
    let all = join_all(all);
    // 4 large bodies, but for what the server has of the first.
    let spooled = async {
        while store.spooled_bytes() < 4 * 20 * MIB as u64 - 6 * MIB as u64 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // They hold no memory: all of them are whole, though there is room for four.
        until("only small bodies hold memory", || store.buffered_bytes() < MIB as u64).await;
        assert_eq!(names(folder.path()), [""; 0], "whatever ends the process");
        server.come_back();
        is_back(store).await;
        std::future::pending::<()>().await;
    };
    let stored = tokio::select! {
        stored = tokio::time::timeout(Duration::from_secs(120), all) => stored.expect("they end"),
        () = spooled => unreachable!(),
    };
    for (i, stored) in stored.iter().enumerate() {
        assert!(object(store, &stored.key).await.unwrap() == bodies[i], "{i}");
        assert!(object(store, &Path::from(format!("{i}-tells"))).await.is_some());
    }
    assert_eq!((store.spooled_bytes(), store.buffered_bytes()), (0, 0));
    assert_eq!(names(folder.path()), [""; 0]);
}

#[tokio::test]
async fn what_finds_no_room_fails_as_without_a_spool_and_what_is_dropped_gives_it_back() {
    let mut server = S3Server::start();
    let (store, _folder) = patient(&server.direct(), 8 * MIB as u64);
    let body = report(16 * MIB, 1);
    let mut sink = store.sink(Path::from("k"), plain(Codec::None));
    sink.write(Bytes::copy_from_slice(&body[..6 * MIB])).await.unwrap();
    until("a part is there", || !server.parts().is_empty()).await;
    server.go_away();
    // One part waits, the next has no room.
    let failed = async {
        for piece in body[6 * MIB..].chunks(MIB) {
            sink.write(Bytes::copy_from_slice(piece)).await?;
        }
        sink.seal().await?.complete().await
    };
    let failed = failed.await;
    let away = |result: &Result<Stored, SinkError>| matches!(result, Err(SinkError::Store { kind, .. }) if *kind == StoreErrorKind::Away);
    assert!(away(&failed), "{failed:?}");
    until("its room is free again", || store.spooled_bytes() == 0).await;
    // One that fits waits, and gives its room back when nobody waits for it.
    let waits = send(&store, "other", plain(Codec::None), &body[..4 * MIB], &[MIB]);
    let waits = tokio::time::timeout(Duration::from_secs(2), waits).await;
    assert!(waits.is_err(), "{waits:?}");
    until("its room is free again", || store.spooled_bytes() == 0).await;
    // Reads fail, but for those of somebody who has an answer in hand.
    let key = Path::from("k");
    assert!(store.get(&key).await.is_err());
    let read = landing(store.get(&key));
    let back = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        server.come_back();
        is_back(&store).await;
    };
    let (read, ()) = futures_util::join!(read, back);
    assert_eq!(read.unwrap(), None);
    send_and_check(&store, "k", plain(Codec::None), &body, &body, &[MIB]).await;
}
