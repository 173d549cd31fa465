//! What every store must do: one function per promise, run for each back.
//!
//! A function has keys of its own, so that all of them run on one store, at once. They use what the product uses:
//! sinks, small objects, and the questions that tell what is there.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use object_store::path::Path;
use object_store::{Attribute, Attributes, ObjectStoreExt, PutMultipartOptions, PutOptions};
use sha2::{Digest, Sha256};

use super::{Codec, Decode, EXPAND_MAX, Sink, SinkError, SinkOptions, Store, Stored, Unwrap};

const MIB: usize = 1024 * 1024;
/// Larger than two parts of any store, and no multiple of one.
const LARGE: usize = 11 * MIB + 7;

/// Every promise. Takes what some 130 MiB take on their way there and back.
///
/// # Panics
/// Where one is not kept.
pub async fn all(store: &Store) {
    a_probe_leaves_nothing(store).await;
    futures_util::join!(
        a_body_in_small_pieces_comes_back(store),
        an_empty_body_is_an_object(store),
        Box::pin(a_large_body_comes_back(store)),
        Box::pin(attributes_keep_no_body_out(store)),
        Box::pin(a_new_body_takes_the_place_of_the_old(store)),
        a_body_that_is_given_up_leaves_nothing(store),
        small_objects_are_put_read_replaced_and_removed(store),
        keys_are_listed_below_a_prefix_and_behind_a_key(store),
        Box::pin(many_bodies_at_once_are_each_themselves(store)),
    );
    // What was dropped is given up by itself.
    let free = async {
        while store.buffered_bytes() > 0 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), free).await.expect("the buffer is free again");
}

fn options(codec: Codec) -> SinkOptions {
    SinkOptions {
        codec,
        decode: Decode::Identity,
        unwrap: Unwrap::None,
        charset: None,
        body_bytes_max: 1 << 33,
        expand_max: EXPAND_MAX,
    }
}

/// Bytes that compress, but not to nothing; another for each seed, and no two parts alike.
fn body(bytes: usize, seed: u64) -> Vec<u8> {
    const BLOCK: usize = 16 * 1024;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut block = vec![0; BLOCK];
    random.fill(&mut block);
    let mut body = Vec::with_capacity(bytes + BLOCK);
    let mut number = 0_u64;
    while body.len() < bytes {
        body.extend(number.to_le_bytes());
        body.extend_from_slice(&block);
        number += 1;
    }
    body.truncate(bytes);
    body
}

fn sha256(body: &[u8]) -> [u8; 32] {
    Sha256::digest(body).into()
}

async fn write(sink: &mut Sink, body: &[u8], piece: usize) -> Result<(), SinkError> {
    for piece in body.chunks(piece) {
        sink.write(Bytes::copy_from_slice(piece)).await?;
    }
    Ok(())
}

async fn send(store: &Store, key: &Path, codec: Codec, body: &[u8], piece: usize) -> Stored {
    let mut sink = store.sink(key.clone(), options(codec));
    write(&mut sink, body, piece).await.unwrap_or_else(|error| panic!("{key}: {error:?}"));
    let stored = sink.finish().await.unwrap_or_else(|error| panic!("{key}: {error:?}"));
    assert_eq!(stored.bytes, body.len() as u64, "{key}");
    assert_eq!(stored.sha256, format!("{:x}", Sha256::digest(body)), "{key}");
    assert_holds(store, &stored, codec, body).await;
    stored
}

/// Reads all of it.
async fn assert_holds(store: &Store, stored: &Stored, codec: Codec, body: &[u8]) {
    let Stored { key, stored_bytes, .. } = stored;
    assert_eq!(store.size(key).await.expect("asked"), Some(*stored_bytes), "{key}");
    let held = store.holds(key, codec, *stored_bytes, &sha256(body)).await.expect("read");
    assert!(held, "{key}: other bytes came back");
    if body.len() < MIB {
        let other = store.holds(key, codec, *stored_bytes, &[0; 32]).await.expect("read");
        assert!(!other, "{key}: other bytes are told apart");
    }
}

/// Pieces of any size make the same object, however it is compressed.
pub async fn a_body_in_small_pieces_comes_back(store: &Store) {
    let body = body(90_000, 1);
    for (name, codec) in [("none", Codec::None), ("gzip", Codec::Gzip), ("zstd", Codec::Zstd)] {
        for piece in [1009, 16_384, 90_000] {
            let key = Path::from(format!("pieces/{name}/{piece}"));
            send(store, &key, codec, &body, piece).await;
        }
    }
    send(store, &Path::from("pieces/1"), Codec::None, &body[..3000], 1).await;
}

/// Nothing is something.
pub async fn an_empty_body_is_an_object(store: &Store) {
    let key = Path::from("empty/none.csv");
    let stored = send(store, &key, Codec::None, b"", 1).await;
    assert_eq!(stored.stored_bytes, 0);
    assert_eq!(store.get(&key).await.expect("read"), Some(Bytes::new()));
    send(store, &Path::from("empty/zstd"), Codec::Zstd, b"", 1).await;
}

/// A body of several parts.
pub async fn a_large_body_comes_back(store: &Store) {
    send(store, &Path::from("large/none"), Codec::None, &body(LARGE, 2), 65_537).await;
    send(store, &Path::from("large/gzip"), Codec::Gzip, &body(6 * MIB, 3), 300_000).await;
}

/// In a bucket an object may bear attributes, in parts or whole; where the store has no place for them, it does
/// without.
pub async fn attributes_keep_no_body_out(store: &Store) {
    if store.inner.bucket.is_none() {
        return;
    }
    let objects = &store.inner.objects;
    let attributes = Attributes::from_iter([(Attribute::Metadata("tollgate".into()), "7")]);
    let body = Bytes::from(body(LARGE, 4));
    let (whole, parts) = (Path::from("about/whole"), Path::from("about/parts"));
    let options = PutOptions { attributes: attributes.clone(), ..PutOptions::default() };
    objects.put_opts(&whole, body.slice(..1000).into(), options).await.expect("put");
    let options = PutMultipartOptions { attributes, ..PutMultipartOptions::default() };
    let mut upload = objects.put_multipart_opts(&parts, options).await.expect("begun");
    for part in [body.slice(..6 * MIB), body.slice(6 * MIB..)] {
        upload.put_part(part.into()).await.expect("put");
    }
    upload.complete().await.expect("completed");
    for (key, body) in [(whole, body.slice(..1000)), (parts, body)] {
        let found = objects.get(&key).await.expect("there").bytes().await.expect("read");
        assert!(found == body, "{key}: other bytes came back");
    }
}

/// Whatever their sizes; the old one is there, whole, until the new one is finished.
pub async fn a_new_body_takes_the_place_of_the_old(store: &Store) {
    let key = Path::from("again/k");
    for (turn, size) in [100, LARGE, 0, 100].into_iter().enumerate() {
        let old = store.size(&key).await.expect("asked");
        let body = body(size, 10 + turn as u64);
        let mut sink = store.sink(key.clone(), options(Codec::None));
        write(&mut sink, &body, 100_000).await.expect("written");
        assert_eq!(store.size(&key).await.expect("asked"), old, "before it is finished");
        let stored = sink.finish().await.expect("stored");
        assert_holds(store, &stored, Codec::None, &body).await;
    }
}

/// Aborted, dropped or too large, small or large, with an object under the key and without.
pub async fn a_body_that_is_given_up_leaves_nothing(store: &Store) {
    let old = body(1000, 20);
    let small = [false, true]
        .into_iter()
        .flat_map(|there| ["abort", "drop", "fail"].map(|how| (there, 100, how)));
    let large = [(false, LARGE, "drop"), (true, LARGE, "abort"), (false, LARGE, "fail")];
    for (there, size, how) in small.chain(large) {
        let key = Path::from(format!("given-up/{there}-{size}-{how}"));
        let stored =
            if there { Some(send(store, &key, Codec::None, &old, 1000).await) } else { None };
        let most = SinkOptions { body_bytes_max: size as u64, ..options(Codec::None) };
        let mut sink = store.sink(key.clone(), most);
        write(&mut sink, &body(size, 21), 100_000).await.expect("written");
        match how {
            "abort" => sink.abort().await,
            "drop" => drop(sink),
            _ => {
                // Told by whichever looks at it.
                let failed = match sink.write(Bytes::from_static(b"x")).await {
                    Ok(()) => sink.finish().await.map(drop),
                    failed => failed,
                };
                assert!(matches!(failed, Err(SinkError::TooLarge { .. })), "{key}: {failed:?}");
            }
        }
        match stored {
            Some(stored) => assert_holds(store, &stored, Codec::None, &old).await,
            None => assert_eq!(store.size(&key).await.expect("asked"), None, "{key}"),
        }
    }
}

/// Manifests and notes.
pub async fn small_objects_are_put_read_replaced_and_removed(store: &Store) {
    let key = Path::from("small/_manifest.json");
    assert_eq!(store.get(&key).await.expect("read"), None);
    assert_eq!(store.size(&key).await.expect("asked"), None);
    assert!(!store.holds(&key, Codec::None, 2, &sha256(b"{}")).await.expect("read"));
    store.delete(&key).await.expect("none is no error");
    for text in ["{}", r#"{"longer":true}"#, ""] {
        store.put_small(&key, Bytes::from(text)).await.expect("put");
        assert_eq!(store.get(&key).await.expect("read"), Some(Bytes::from(text)));
        assert_eq!(store.size(&key).await.expect("asked"), Some(text.len() as u64));
    }
    store.delete(&key).await.expect("removed");
    assert_eq!(store.get(&key).await.expect("read"), None);
    store.delete(&key).await.expect("removed before");
}

/// Whatever stands in them.
pub async fn keys_are_listed_below_a_prefix_and_behind_a_key(store: &Store) {
    let names = ["a b", "x+y=z&w", "%2F", "é~", "😀", "a,b;c", "dt=2026-11-20", "\"q\""];
    let prefix = Path::from("list");
    let keys: Vec<Path> =
        names.iter().map(|name| Path::from_iter(["list", name, "1.json"])).collect();
    for (key, name) in keys.iter().zip(names) {
        store.put_small(key, Bytes::from(name.to_owned())).await.expect("put");
        assert_eq!(store.get(key).await.expect("read"), Some(Bytes::from(name.to_owned())));
    }
    store.put_small(&Path::from("listed"), Bytes::new()).await.expect("put");
    let mut wanted = keys.clone();
    wanted.sort_unstable();
    let below = |behind: Option<Path>| {
        let prefix = &prefix;
        async move {
            let found = store.below(prefix, behind.as_ref(), 100).await.expect("listed");
            let mut found: Vec<Path> = found.into_iter().map(|(key, _)| key).collect();
            found.sort_unstable();
            found
        }
    };
    assert_eq!(below(None).await, wanted);
    assert_eq!(below(Some(wanted[2].clone())).await, wanted[3..], "behind the third");
    let few = store.below(&prefix, None, 3).await.expect("listed");
    assert_eq!(few.len(), 3);
    for key in &keys {
        store.delete(key).await.expect("removed");
    }
    assert_eq!(below(None).await, []);
    let other = store.keys(1000).await.expect("listed");
    assert!(other.contains(&Path::from("listed")), "{other:?}");
}

/// Of one store, in any order.
pub async fn many_bodies_at_once_are_each_themselves(store: &Store) {
    let bodies = (0..40_u64).map(|number| async move {
        let size = if number == 0 { 6 * MIB } else { 900 + number as usize * 600 };
        let key = Path::from(format!("many/{number}"));
        send(store, &key, Codec::Zstd, &body(size, 100 + number), 9000).await;
    });
    join_all(bodies).await;
}

/// What tries the store is gone afterwards.
pub async fn a_probe_leaves_nothing(store: &Store) {
    let before = store.keys(1000).await.expect("listed");
    store.probe().await.expect("usable");
    assert_eq!(store.keys(1000).await.expect("listed"), before);
}
