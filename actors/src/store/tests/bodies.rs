//! What is stored is the body, whatever its size, pieces and encodings.

use super::*;

#[tokio::test]
async fn stores_bodies_of_every_size_around_the_thresholds() {
    let (on_files, _folder) = files();
    let (in_bucket, _server) = bucket();
    let sizes = [
        0,
        1,
        INLINE_BYTES_MAX - 1,
        INLINE_BYTES_MAX,
        INLINE_BYTES_MAX + 1,
        256 * 1024 - 1,
        256 * 1024,
        256 * 1024 + 1,
        FILE_PART_BYTES - 1,
        FILE_PART_BYTES,
        FILE_PART_BYTES + 1,
        2 * FILE_PART_BYTES,
        2 * FILE_PART_BYTES + 1,
    ];
    for store in [memory(), on_files, in_bucket] {
        for size in sizes {
            let body = report(size, size as u64);
            for codec in CODECS {
                let key = format!("{size}-{codec:?}");
                if store.inner.bucket.is_none() {
                    let pieces = [INLINE_BYTES_MAX, 1, 70_000];
                    send_and_check(&store, &key, plain(codec), &body, &body, &pieces).await;
                }
                let whole = [usize::MAX];
                send_and_check(&store, &key, plain(codec), &body, &body, &whole).await;
            }
        }
        assert_eq!(store.buffered_bytes(), 0);
    }
}

#[tokio::test]
async fn streams_50_mib_in_random_pieces() {
    let (store, folder) = files();
    let body = report(50 * MIB, 7);
    let mut random = fastrand::Rng::with_seed(11);
    for codec in CODECS {
        let pieces: Vec<usize> = (0..997).map(|_| 1 + random.usize(..100_000)).collect();
        let key = format!("large/{codec:?}");
        send_and_check(&store, &key, plain(codec), &body, &body, &pieces).await;
    }
    assert_eq!(names(folder.path()), ["large/Gzip", "large/None", "large/Zstd"]);
}

#[tokio::test]
async fn stores_encoded_answers_decoded() {
    let (in_bucket, _server) = bucket();
    for store in [memory(), in_bucket] {
        for size in [0, 1, 1000, INLINE_BYTES_MAX, INLINE_BYTES_MAX + 1, 3 * MIB] {
            let body = report(size, 3);
            for (decode, wire) in [(Decode::Gzip, gzip(&body)), (Decode::Deflate, zlib(&body))] {
                for codec in CODECS {
                    let key = format!("{decode:?}-{codec:?}-{size}");
                    let options = options(codec, decode);
                    send_and_check(&store, &key, options, &wire, &body, &[1, 7, 40_000]).await;
                }
            }
        }
    }
}

#[tokio::test]
async fn stores_an_encoded_answer_that_comes_byte_by_byte() {
    let body = report(60_000, 5);
    for (decode, wire) in [(Decode::Gzip, gzip(&body)), (Decode::Deflate, zlib(&body))] {
        send_and_check(&memory(), "k", options(Codec::Zstd, decode), &wire, &body, &[1]).await;
    }
}

#[tokio::test]
async fn stores_a_small_answer_that_decodes_to_a_large_body() {
    let body = vec![b' '; 4 * MIB];
    let wire = gzip(&body);
    assert!(wire.len() < 2 * INLINE_BYTES_MAX);
    for piece in [usize::MAX, 1000] {
        let options = options(Codec::None, Decode::Gzip);
        send_and_check(&memory(), "k", options, &wire, &body, &[piece]).await;
    }
    // So small that all of it is held when it ends.
    let body = vec![b' '; MIB];
    let wire = gzip(&body);
    assert!(wire.len() <= INLINE_BYTES_MAX);
    send_and_check(&memory(), "k", options(Codec::Zstd, Decode::Gzip), &wire, &body, &[500]).await;
}

#[tokio::test]
async fn stores_every_member_of_a_gzip_answer() {
    for size in [100, 300_000] {
        let (first, last) = (report(size, 1), report(size, 2));
        let wire = [gzip(&first), gzip(b""), gzip(&last)].concat();
        let body = [first, last].concat();
        for piece in [3, 50_000] {
            let options = options(Codec::Zstd, Decode::Gzip);
            send_and_check(&memory(), "k", options, &wire, &body, &[piece]).await;
        }
    }
}

#[tokio::test]
async fn refuses_broken_encodings_and_stores_nothing() {
    let mut random = fastrand::Rng::with_seed(23);
    for size in [500, 200_000] {
        let body = report(size, 9);
        for (decode, good) in [(Decode::Gzip, gzip(&body)), (Decode::Deflate, zlib(&body))] {
            let mut broken: Vec<(String, Vec<u8>)> = Vec::new();
            let end = good.len();
            for cut in [0, 1, 5, 9, 10, 11, end / 2, end - 9, end - 5, end - 4, end - 1] {
                broken.push((format!("cut at {cut} of {end}"), good[..cut].to_vec()));
            }
            for tail in [&b"x"[..], b"\x1f", b"\x1f\x8b\x08", b"\0", b"\0\0\0\0\0\0\0\0\0\0\0\0"] {
                broken.push((format!("followed by {tail:?}"), [&good[..], tail].concat()));
            }
            let mut bad_sum = good.clone();
            // The last byte of a gzip member belongs to its length, the one eight before to its
            // hash.
            let sum = if decode == Decode::Gzip { end - 8 } else { end - 1 };
            bad_sum[sum] ^= 1;
            broken.push(("another hash".into(), bad_sum));
            broken.push(("no such encoding".into(), body.clone()));
            for (what, wire) in broken {
                let store = memory();
                let piece = 1 + random.usize(..=wire.len());
                let sent = send(&store, "k", options(Codec::Zstd, decode), &wire, &[piece]).await;
                assert!(
                    matches!(sent, Err(SinkError::Encoding { .. })),
                    "{decode:?} of {size}, {what}: {sent:?}"
                );
                assert_eq!(object(&store, &Path::from("k")).await, None);
                assert_eq!(store.buffered_bytes(), 0);
            }
        }
    }
}

#[tokio::test]
async fn replaces_an_object_at_finish_and_not_before() {
    let (on_files, _folder) = files();
    let (in_bucket, _server) = bucket();
    for store in [memory(), on_files, in_bucket] {
        for (first, second) in [(1000, 3 * MIB), (3 * MIB, 2000)] {
            let (old, new) = (report(first, 1), report(second, 2));
            send_and_check(&store, "k", plain(Codec::None), &old, &old, &[100_000]).await;
            let mut sink = store.sink(Path::from("k"), plain(Codec::None));
            sink.write(Bytes::from(new.clone())).await.unwrap();
            assert_eq!(object(&store, &Path::from("k")).await.unwrap(), old);
            sink.finish().await.unwrap();
            assert_eq!(object(&store, &Path::from("k")).await.unwrap(), new);
        }
    }
}

#[test]
fn four_threads_store_at_once_also_under_one_key() {
    let (store, folder) = files();
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let store = store.clone();
            std::thread::spawn(move || {
                let runtime =
                    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let bodies = (0..12).map(|i| {
                        let (store, seed) = (&store, thread * 100 + i);
                        async move {
                            let body = report(if i % 3 == 0 { 2 * MIB + 5 } else { 900 }, seed);
                            let key = format!("{thread}/{i}");
                            send_and_check(store, &key, plain(Codec::Zstd), &body, &body, &[9000])
                                .await;
                            // The size tells whose body is there in the end.
                            let shared = report(2 * MIB + thread as usize, thread);
                            send(store, "shared", plain(Codec::None), &shared, &[MIB])
                                .await
                                .unwrap();
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
    let shared = std::fs::read(folder.path().join("shared")).unwrap();
    let winner = shared.len() - 2 * MIB;
    assert!(shared == report(2 * MIB + winner, winner as u64), "a mix of bodies");
    assert_eq!(names(folder.path()).len(), 4 * 12 + 1);
    assert_eq!(store.buffered_bytes(), 0);
}
