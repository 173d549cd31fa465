//! Nothing grows without bound: bodies, what they expand to, what is held of them.

use std::pin::pin;

use futures_util::future::join_all;
use futures_util::poll;

use super::*;

/// `total` zero bytes in a gzip stream, made without holding them.
fn gzip_zeros(total: usize) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Compression::best());
    let zeros = vec![0; MIB];
    for _ in 0..total / MIB {
        encoder.write_all(&zeros).unwrap();
    }
    encoder.finish().unwrap()
}

#[tokio::test]
async fn refuses_a_bomb_and_stores_nothing() {
    let (store, folder) = files();
    let wire = gzip_zeros(32 * MIB);
    for piece in [usize::MAX, 1000] {
        let sent = send(&store, "k", options(Codec::None, Decode::Gzip), &wire, &[piece]).await;
        assert!(matches!(sent, Err(SinkError::Bomb { expand_max: 200, .. })), "{sent:?}");
    }
    until("the staging file goes", || names(folder.path()).is_empty()).await;
    assert_eq!(store.buffered_bytes(), 0);
}

#[tokio::test]
async fn stores_what_expands_within_bounds() {
    let store = memory();
    // Up to 16 MiB anything goes.
    let wire = gzip_zeros(16 * MIB);
    assert!(wire.len() * 200 < 16 * MIB);
    let stored = send(&store, "k", options(Codec::Zstd, Decode::Gzip), &wire, &[1000]).await;
    assert_eq!(stored.unwrap().bytes, 16 * MIB as u64);
    let lenient = SinkOptions { expand_max: 1100, ..options(Codec::Zstd, Decode::Gzip) };
    let stored = send(&store, "k", lenient, &gzip_zeros(24 * MIB), &[1000]).await;
    assert_eq!(stored.unwrap().bytes, 24 * MIB as u64);
}

#[tokio::test]
async fn refuses_one_byte_more_than_allowed_and_nothing_less() {
    let (store, folder) = files();
    for allowed in [0, 1000, INLINE_BYTES_MAX, 2 * MIB] {
        let (fits, more) = (report(allowed, 1), report(allowed + 1, 1));
        let wires = [
            (Decode::Identity, fits.clone(), more.clone()),
            (Decode::Gzip, gzip(&fits), gzip(&more)),
            (Decode::Deflate, zlib(&fits), zlib(&more)),
        ];
        for (decode, fits, more) in wires {
            let options =
                SinkOptions { body_bytes_max: allowed as u64, ..options(Codec::None, decode) };
            send(&store, "fits", options.clone(), &fits, &[100_000]).await.unwrap();
            let sent = send(&store, "more", options, &more, &[100_000]).await;
            assert!(
                matches!(sent, Err(SinkError::TooLarge { bytes_max, .. }) if bytes_max == allowed as u64),
                "{decode:?} {allowed}: {sent:?}"
            );
        }
    }
    until("staging files go", || names(folder.path()) == ["fits"]).await;
}

#[tokio::test]
async fn refuses_an_endless_row_of_empty_gzip_members() {
    let options = SinkOptions { body_bytes_max: 1000, ..options(Codec::None, Decode::Gzip) };
    let mut sink = memory().sink(Path::from("k"), options);
    let piece = Bytes::from(gzip(b"").repeat(100));
    let mut sent = 0;
    let error = loop {
        if let Err(error) = sink.write(piece.clone()).await {
            break error;
        }
        sent += piece.len();
        assert!(sent < MIB);
    };
    assert!(matches!(error, SinkError::TooLarge { .. }));
}

#[test]
fn refuses_a_budget_in_which_no_body_could_stream() {
    let refused = Store::memory(LEAST_BYTES - 1).unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!(
            "open the store: buffer_bytes_max is {} bytes, one streamed body needs {LEAST_BYTES}",
            LEAST_BYTES - 1
        )
    );
    assert!(Store::memory(LEAST_BYTES).is_ok());
    assert!(Store::memory(u64::MAX).is_ok());
}

#[tokio::test]
async fn twenty_streams_end_in_a_budget_for_one() {
    let (store, _folder) = files_with(LEAST_BYTES);
    let bodies = (0..20).map(|i| {
        let store = &store;
        async move {
            // Small ones among them; pieces so small that all are half way at once.
            let body = report(if i % 4 == 3 { 5000 } else { MIB + 300_000 + i }, i as u64);
            let mut sink = store.sink(Path::from(format!("{i}")), plain(Codec::None));
            for piece in body.chunks(5000) {
                sink.write(Bytes::copy_from_slice(piece)).await.unwrap();
                assert!(store.buffered_bytes() <= LEAST_BYTES);
                tokio::task::yield_now().await;
            }
            assert_eq!(sink.finish().await.unwrap().sha256, sha256(&body));
        }
    });
    tokio::time::timeout(Duration::from_secs(60), join_all(bodies)).await.expect("no deadlock");
    assert_eq!(store.buffered_bytes(), 0);
}

#[tokio::test]
async fn bodies_wait_for_a_streaming_share_while_small_ones_pass() {
    // One streaming share, and small shares for what is beyond it.
    let store = Store::memory(LEAST_BYTES + 3 * budget::SMALL_SHARE_BYTES).unwrap();
    let large = Bytes::from(report(100_000, 1));
    let mut first = store.sink(Path::from("first"), plain(Codec::None));
    first.write(large.clone()).await.unwrap();
    assert_eq!(store.buffered_bytes(), STREAM_SHARE_BYTES);

    let mut second = store.sink(Path::from("second"), plain(Codec::None));
    {
        let mut waits = pin!(second.write(large.clone()));
        assert!(poll!(&mut waits).is_pending());
        // What it has read so far stays counted.
        let small = budget::SMALL_SHARE_BYTES;
        assert_eq!(store.buffered_bytes(), STREAM_SHARE_BYTES + small);
        send(&store, "small", plain(Codec::None), b"{}", &[2]).await.unwrap();
        assert!(poll!(&mut waits).is_pending());
        first.abort().await;
        tokio::time::timeout(Duration::from_secs(10), waits).await.expect("its turn").unwrap();
    }
    assert_eq!(second.finish().await.unwrap().bytes, 100_000);
    assert_eq!(store.buffered_bytes(), 0);
}

#[tokio::test]
async fn a_body_that_gives_up_waiting_leaves_the_queue() {
    let store = Store::memory(LEAST_BYTES).unwrap();
    let large = Bytes::from(report(100_000, 1));
    let mut first = store.sink(Path::from("first"), plain(Codec::None));
    first.write(large.clone()).await.unwrap();
    {
        let mut second = store.sink(Path::from("second"), plain(Codec::None));
        assert!(poll!(pin!(second.write(large.clone()))).is_pending());
        // The piece is lost, so the body must not be stored without it.
        assert!(matches!(second.write(large).await, Err(SinkError::Store { .. })));
        assert!(matches!(second.finish().await, Err(SinkError::Store { .. })));
    }
    assert_eq!(store.buffered_bytes(), STREAM_SHARE_BYTES);
    drop(first);
    assert_eq!(store.buffered_bytes(), 0);
    assert_eq!(object(&store, &Path::from("second")).await, None);
}

#[tokio::test]
async fn a_failed_sink_only_fails() {
    let options = SinkOptions { body_bytes_max: 20_000, ..plain(Codec::None) };
    let store = memory();
    let mut sink = store.sink(Path::from("k"), options);
    assert!(sink.write(Bytes::from(vec![0; 200_000])).await.is_err());
    assert!(sink.write(Bytes::from_static(b"x")).await.is_err());
    let error = sink.finish().await.unwrap_err();
    assert_eq!(error.to_string(), "store `k`: the store failed");
    assert_eq!(object(&store, &Path::from("k")).await, None);
}

/// An entry of an archive as it is written to a pipe: deflated, with what it has behind it, or else stored (APPNOTE
/// 6.3.10 §4.3.7, §4.3.9).
fn entry(name: &str, deflated: bool, body: &[u8]) -> Vec<u8> {
    let mut crc = flate2::Crc::new();
    crc.update(body);
    let mut packed = body.to_vec();
    if deflated {
        let mut encoder =
            flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(body).unwrap();
        packed = encoder.finish().unwrap();
    }
    let (has, size) = ((packed.len() as u32).to_le_bytes(), (body.len() as u32).to_le_bytes());
    let facts = [crc.sum().to_le_bytes(), has, size].concat();
    let (flags, method) = if deflated { (8, 8) } else { (0, 0) };
    let before = if deflated { vec![0; 12] } else { facts.clone() };
    let behind = if deflated { [b"PK\x07\x08", &facts[..]].concat() } else { Vec::new() };
    let lengths = [name.len() as u8, 0, 0, 0];
    let head = [b"PK\x03\x04\x14\0".as_slice(), &[flags, 0, method, 0, 0, 0, 0, 0], &before];
    [head.concat(), lengths.to_vec(), name.into(), packed, behind].concat()
}

/// `a.csv` of an archive, whatever else is in it.
async fn a_csv(zip: &[u8], unwrap: &Unwrap, decode: Decode) -> Result<Vec<u8>, SinkError> {
    let store = memory();
    let end = b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    // What is taken of several has to be listed.
    let mut crc = flate2::Crc::new();
    crc.update(b"a,b\n");
    let listed = [b"PK\x01\x02".as_slice(), &[0; 12], &crc.sum().to_le_bytes(), &[4, 0, 0, 0]];
    let listed = [listed.concat(), [4, 0, 0, 0, 5, 0, 0, 0].into(), vec![0; 14]].concat();
    let wire = [zip, &entry("a.csv", false, b"a,b\n"), &listed, b"a.csv", end.as_slice()].concat();
    let wire = if decode == Decode::Gzip { gzip(&wire) } else { wire };
    let options = SinkOptions { unwrap: unwrap.clone(), ..options(Codec::None, decode) };
    let Unwrap::Members(members) = unwrap else {
        let stored = send(&store, "x", options, &wire, &[50_000]).await?;
        return Ok(object(&store, &stored.key).await.unwrap().to_vec());
    };
    let mut unpack = store.unpack(Path::from("x"), members.clone(), &options);
    let mut body = Vec::new();
    unpack.push(wire.into()).await?;
    for ends in [false, true] {
        if ends {
            unpack.end().await?;
        }
        while let Some(next) = unpack.next().await? {
            if let Unpacked::Bytes(bytes) = next {
                body.extend_from_slice(&bytes);
            }
        }
    }
    Ok(body)
}

/// One member, and several.
fn of_a_csv() -> [Unwrap; 2] {
    [Unwrap::Zip(Pick(Some("a.csv".into()))), Unwrap::Members(Members([Arc::from("a.csv")].into()))]
}

#[tokio::test]
async fn what_is_skipped_in_an_archive_must_not_expand_without_end_either() {
    let zeros = vec![0; 12 * MIB];
    let many = |name: &str, deflated| -> Vec<u8> {
        (0..4).flat_map(|n| entry(&name.replace('#', &n.to_string()), deflated, &zeros)).collect()
    };
    for unwrap in of_a_csv() {
        // Stored, so that only the content encoding makes it small; and none by itself is too much.
        for (zip, decode) in [
            (many("#.bin", false), Decode::Gzip),
            (many("#.bin", true), Decode::Identity),
            (many("#/", true), Decode::Identity),
            (many("#/", true), Decode::Gzip),
        ] {
            let taken = a_csv(&zip, &unwrap, decode).await;
            assert!(matches!(taken, Err(SinkError::Bomb { .. })), "{unwrap:?} {decode:?}");
        }
        let one = entry("0/", true, &zeros);
        assert!(one.len() < INLINE_BYTES_MAX);
        let taken = a_csv(&one, &unwrap, Decode::Identity).await;
        assert_eq!(taken.unwrap(), b"a,b\n", "{unwrap:?}");
    }
}

#[tokio::test]
async fn folders_of_an_archive_are_counted_where_several_files_are_taken() {
    let folders: Vec<u8> = (0..10_000).flat_map(|n| entry(&format!("{n}/"), false, b"")).collect();
    let [_, several] = of_a_csv();
    let error = a_csv(&folders, &several, Decode::Identity).await.unwrap_err();
    assert!(error.to_string().contains("more than 10000 entries"), "{error}");
    let most = &folders[entry("0/", false, b"").len()..];
    assert_eq!(a_csv(most, &several, Decode::Identity).await.unwrap(), b"a,b\n");
}

#[test]
fn a_budget_for_so_many_streams_has_them() {
    for share in [4 << 20, 18 << 20, (1 << 20) + 1] {
        for streams in [1, 2, 3, 12] {
            let bytes = Budget::bytes_for(streams, share);
            let has = Budget::new(bytes, share).unwrap().streams();
            assert!((streams..=streams + 1).contains(&has), "{streams} of {share}: {has}");
        }
    }
}
