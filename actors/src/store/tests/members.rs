//! Archives of which several members are taken: whatever pieces they come in, cut anywhere, and turned at any byte.

use proptest::prelude::*;

use super::*;

const LARGE: &[u8] = include_bytes!("archives/large.zip");
const STREAMED: &[u8] = include_bytes!("archives/streamed.zip");
const STREAMED_64: &[u8] = include_bytes!("archives/streamed64.zip");
const STORED: &[u8] = include_bytes!("archives/streamed-stored.zip");

fn members(patterns: &[&str]) -> Members {
    Members(patterns.iter().map(|pattern| Arc::from(*pattern)).collect())
}

/// What comes out of a body: names and bytes of its members, or why nothing more does. `None` for a body that is no
/// archive.
async fn taken(
    store: &Store,
    options: &SinkOptions,
    wire: &[u8],
    pieces: &[usize],
) -> Result<Vec<(Option<String>, Vec<u8>)>, SinkError> {
    let mut unpack = store.unpack(Path::from("x"), members(&["*"]), options);
    let mut all: Vec<(Option<String>, Vec<u8>)> = Vec::new();
    let (mut rest, mut turn, mut open) = (wire, pieces.iter().cycle(), false);
    loop {
        let ends = rest.is_empty();
        if ends {
            unpack.end().await?;
        } else {
            let (now, later) = rest.split_at(rest.len().min(*turn.next().unwrap()));
            rest = later;
            unpack.push(Bytes::copy_from_slice(now)).await?;
        }
        while let Some(next) = unpack.next().await? {
            match next {
                Unpacked::Began(name) => {
                    assert!(!std::mem::replace(&mut open, true), "one member at a time");
                    all.push((Some(name.text), Vec::new()));
                }
                Unpacked::Plain => all.push((None, Vec::new())),
                Unpacked::Bytes(bytes) => all.last_mut().unwrap().1.extend_from_slice(&bytes),
                Unpacked::Ended => assert!(std::mem::replace(&mut open, false)),
                Unpacked::Empty => {}
            }
        }
        if ends {
            assert!(!open, "what began has ended");
            return Ok(all);
        }
    }
}

#[tokio::test]
async fn pieces_and_content_encodings_make_no_difference() {
    let store = memory();
    for zip in [LARGE, STREAMED, STREAMED_64, STORED] {
        let whole =
            taken(&store, &options(Codec::None, Decode::Identity), zip, &[usize::MAX]).await;
        let whole = whole.unwrap();
        assert!(!whole.is_empty());
        for (decode, wire) in [
            (Decode::Identity, zip.to_vec()),
            (Decode::Gzip, gzip(zip)),
            (Decode::Deflate, zlib(zip)),
        ] {
            for pieces in [&[1][..], &[7, 1000], &[30_000, 3]] {
                let same = taken(&store, &options(Codec::None, decode), &wire, pieces).await;
                assert_eq!(same.unwrap(), whole, "{decode:?} {pieces:?}");
            }
        }
    }
    assert_eq!(store.buffered_bytes(), 0);
}

#[tokio::test]
async fn an_archive_that_is_cut_off_anywhere_does_not_end_well() {
    let store = memory();
    for zip in [LARGE, STREAMED, STORED] {
        let step = if zip.len() > 2_000 { 211 } else { 1 };
        for end in (4..zip.len()).step_by(step) {
            let options = options(Codec::None, Decode::Identity);
            let error = taken(&store, &options, &zip[..end], &[4096]).await.unwrap_err();
            let fits = matches!(error, SinkError::Encoding { .. } | SinkError::Unfit { .. });
            assert!(fits, "cut at {end}: {error:?}");
        }
    }
}

/// Each of its members in the store, below a name.
async fn store_all(store: &Store, zip: &[u8], name: usize) -> u64 {
    let options = options(Codec::Zstd, Decode::Identity);
    let mut unpack = store.unpack(Path::from("x"), members(&["*"]), &options);
    let (mut sink, mut bytes, mut count) = (None, 0, 0);
    unpack.push(Bytes::copy_from_slice(zip)).await.unwrap();
    for turn in 0..2 {
        if turn == 1 {
            unpack.end().await.unwrap();
        }
        while let Some(next) = unpack.next().await.unwrap() {
            match next {
                Unpacked::Began(_) => {
                    count += 1;
                    let key = Path::from(format!("{name}/{count}"));
                    sink = Some(unpack.sink(key, options.clone()));
                }
                Unpacked::Bytes(next) => sink.as_mut().unwrap().write(next).await.unwrap(),
                Unpacked::Ended => bytes += sink.take().unwrap().finish().await.unwrap().bytes,
                Unpacked::Plain | Unpacked::Empty => panic!("it is an archive of files"),
            }
        }
    }
    bytes
}

#[tokio::test]
async fn many_archives_at_once_need_the_budget_of_one() {
    let store = Store::memory(LEAST_BYTES).unwrap();
    let all = (0..12).map(|name| store_all(&store, LARGE, name));
    let all = futures_util::future::join_all(all);
    let all =
        tokio::time::timeout(Duration::from_secs(60), all).await.expect("none waits for ever");
    assert_eq!(all, [3_000 + 78_450; 12]);
    assert_eq!(store.buffered_bytes(), 0);
    let (store, _server) = bucket();
    assert_eq!(store_all(&store, STREAMED_64, 1).await, 3_000 + 78_450);
}

#[tokio::test]
async fn what_is_no_archive_comes_as_it_is() {
    let store = memory();
    let options = options(Codec::None, Decode::Gzip);
    for body in [&b"{\"error\":7}"[..], b"PK", b"PK\x03\x05", b""] {
        let taken = taken(&store, &options, &gzip(body), &[3]).await.unwrap();
        assert_eq!(taken, [(None, body.to_vec())]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever stands in an archive: it ends, and gives no more than may come of it.
    #[test]
    fn an_archive_with_other_bytes_ends(
        which in 0..4_usize,
        turned in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        piece in 1..5_000_usize,
    ) {
        let mut zip = [LARGE, STREAMED, STREAMED_64, STORED][which].to_vec();
        for (at, byte) in turned {
            let at = at.index(zip.len());
            zip[at] = byte;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let ended = runtime.block_on(async {
            let store = memory();
            let options = SinkOptions { body_bytes_max: MIB as u64, ..options(Codec::None, Decode::Identity) };
            tokio::time::timeout(Duration::from_secs(20), taken(&store, &options, &zip, &[piece])).await
        });
        let ended = ended.expect("it ends");
        if let Ok(all) = ended {
            prop_assert!(all.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() <= MIB);
        }
    }
}
