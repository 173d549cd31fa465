//! Bodies that are gzip files, zip archives, or text in another charset, with and without a content encoding around
//! them.

use std::sync::{Arc, Mutex};

use super::*;

const SMALL: &[u8] = b"date,clicks\n2026-11-20,7\n";

/// The member `data/report.csv` of the larger archives.
fn lines() -> Vec<u8> {
    let line = |n: u32| format!("2026-11-{:02},{n},{}\n", n % 28 + 1, n * 7919 % 1000);
    (0..4000).map(line).collect::<String>().into_bytes()
}

fn pick(pattern: &str) -> Unwrap {
    Unwrap::Zip(Pick(Some(pattern.into())))
}

fn only() -> Unwrap {
    Unwrap::Zip(Pick(None))
}

fn with(decode: Decode, unwrap: Unwrap) -> SinkOptions {
    SinkOptions { unwrap, ..options(Codec::Zstd, decode) }
}

const ARCHIVES: &[(&str, &[u8])] = &[
    ("large", include_bytes!("archives/large.zip")),
    ("streamed", include_bytes!("archives/streamed.zip")),
    ("streamed64", include_bytes!("archives/streamed64.zip")),
    ("info-zip", include_bytes!("archives/info-zip.zip")),
];

#[tokio::test]
async fn a_member_of_an_archive_is_stored_however_it_comes() {
    let store = memory();
    let body = lines();
    for (name, zip) in ARCHIVES {
        for (decode, wire) in [
            (Decode::Identity, zip.to_vec()),
            (Decode::Gzip, gzip(zip)),
            (Decode::Deflate, zlib(zip)),
        ] {
            for pieces in [&[usize::MAX][..], &[7, 1000]] {
                for pattern in ["data/report.csv", "*.csv", "*/r?port.*"] {
                    let key = format!("{name}-{decode:?}-{pattern}");
                    let options = with(decode, pick(pattern));
                    send_and_check(&store, &key, options, &wire, &body, pieces).await;
                }
            }
        }
    }
    for zip in [
        &include_bytes!("archives/plain.zip")[..],
        include_bytes!("archives/stored.zip"),
        include_bytes!("archives/comment.zip"),
    ] {
        for pieces in [&[usize::MAX][..], &[1]] {
            let options = with(Decode::Identity, only());
            send_and_check(&store, "only", options, zip, SMALL, pieces).await;
        }
    }
    assert_eq!(store.buffered_bytes(), 0);
}

#[tokio::test]
async fn an_archive_larger_than_any_buffer_is_taken_apart_as_it_comes() {
    let store = memory();
    let body = report(5 * MIB, 5);
    // A stored member of a known length, by hand (APPNOTE 6.3.10 §4.3.7, §4.3.16).
    let mut crc = flate2::Crc::new();
    crc.update(&body);
    let (crc, size) = (crc.sum().to_le_bytes(), (body.len() as u32).to_le_bytes());
    let name = b"a.csv";
    let head =
        [b"PK\x03\x04\x14\0\0\0\0\0\0\0\0\0".as_slice(), &crc, &size, &size, b"\x05\0\0\0", name];
    let end = b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let zip = [head.concat(), body.clone(), end.to_vec()].concat();
    for (decode, wire) in [(Decode::Identity, zip.clone()), (Decode::Gzip, gzip(&zip))] {
        let options = with(decode, only());
        send_and_check(&store, "big", options, &wire, &body, &[100_000, 30]).await;
    }
}

#[tokio::test]
async fn an_archive_without_what_is_wanted_says_what_it_has() {
    let store = memory();
    let large = ARCHIVES[0].1;
    for (zip, unwrap, wanted) in [
        (large, only(), "two members of the zip archive fit, `readme.txt` and `data/report.csv`"),
        (
            large,
            pick("*.tsv"),
            "no member of the zip archive is called `*.tsv`: it has readme.txt, data/report.csv",
        ),
        (&include_bytes!("archives/empty.zip")[..], only(), "it is empty"),
        (include_bytes!("archives/encrypted.zip"), pick("*.csv"), "is encrypted"),
        (include_bytes!("archives/bzip2.zip"), only(), "compressed by method 12"),
    ] {
        for pieces in [&[usize::MAX][..], &[11]] {
            let error =
                send(&store, "x", with(Decode::Identity, unwrap.clone()), zip, pieces).await;
            let error = error.unwrap_err();
            assert!(matches!(error, SinkError::Unfit { what: Unfit::Archive, .. }), "{error:?}");
            assert!(error.to_string().contains(wanted), "{error}");
        }
    }
    assert_eq!(object(&store, &Path::from("x")).await, None);
}

#[tokio::test]
async fn a_broken_archive_is_never_stored() {
    let store = memory();
    for (_, zip) in ARCHIVES {
        let options = || with(Decode::Identity, pick("*.csv"));
        for end in (0..zip.len()).step_by(1_499) {
            let error = send(&store, "x", options(), &zip[..end], &[usize::MAX]).await.unwrap_err();
            assert!(matches!(error, SinkError::Encoding { .. }), "cut at {end}: {error:?}");
        }
        let mut turned = zip.to_vec();
        let middle = turned.len() / 2;
        turned[middle] ^= 0x20;
        let error = send(&store, "x", options(), &turned, &[usize::MAX]).await.unwrap_err();
        assert!(matches!(error, SinkError::Encoding { .. }), "{error:?}");
        let more = [*zip, b"more"].concat();
        assert!(send(&store, "x", options(), &more, &[usize::MAX]).await.is_err());
    }
    assert_eq!(object(&store, &Path::from("x")).await, None);
}

#[tokio::test]
async fn a_gzip_file_is_opened_also_within_gzip() {
    let store = memory();
    for size in [0, 1, 1000, INLINE_BYTES_MAX + 1, 3 * MIB] {
        let body = report(size, 3);
        let file = gzip(&body);
        for (decode, wire) in [(Decode::Identity, file.clone()), (Decode::Gzip, gzip(&file))] {
            for pieces in [&[usize::MAX][..], &[1000, 1]] {
                let options = with(decode, Unwrap::Gzip);
                send_and_check(&store, "g", options, &wire, &body, pieces).await;
            }
        }
    }
}

#[tokio::test]
async fn a_file_that_expands_without_end_is_refused_also_within_another() {
    let store = memory();
    let file = gzip(&vec![0; 60 * MIB]);
    for (decode, wire) in [(Decode::Identity, file.clone()), (Decode::Gzip, gzip(&file))] {
        let error = send(&store, "x", with(decode, Unwrap::Gzip), &wire, &[usize::MAX]).await;
        let error = error.unwrap_err();
        assert!(matches!(error, SinkError::Bomb { .. }), "{error:?}");
    }
    assert_eq!(object(&store, &Path::from("x")).await, None);
}

#[tokio::test]
async fn text_of_other_charsets_becomes_utf_8_without_its_mark() {
    let store = memory();
    let line = "캠페인,클릭\r\n가을 세일,17\n";
    for repeat in [1, 2_000] {
        let text = line.repeat(repeat);
        let utf16 = |little: bool, mark: bool| -> Vec<u8> {
            let mark = mark.then_some(0xfeff);
            let units = mark.into_iter().chain(text.encode_utf16());
            let bytes =
                units.map(|unit| if little { unit.to_le_bytes() } else { unit.to_be_bytes() });
            bytes.flatten().collect()
        };
        let euc_kr = encoding_rs::EUC_KR.encode(&text).0.into_owned();
        let marked = [b"\xef\xbb\xbf", text.as_bytes()].concat();
        for (label, wire) in [
            ("utf-16", utf16(true, true)),
            ("utf-16", utf16(false, true)),
            ("utf-16", utf16(true, false)),
            ("utf-16be", utf16(false, false)),
            ("euc-kr", euc_kr),
            ("utf-8", marked),
            ("utf-8", text.clone().into_bytes()),
        ] {
            let charset = encoding_rs::Encoding::for_label(label.as_bytes());
            assert!(charset.is_some(), "{label}");
            for pieces in [&[usize::MAX][..], &[1], &[3, 5000]] {
                let options = SinkOptions { charset, ..plain(Codec::Zstd) };
                send_and_check(&store, label, options, &wire, text.as_bytes(), pieces).await;
            }
            let zipped = SinkOptions { charset, ..with(Decode::Identity, Unwrap::Gzip) };
            send_and_check(&store, "z", zipped, &gzip(&wire), text.as_bytes(), &[999]).await;
        }
    }
}

#[tokio::test]
async fn what_is_no_text_of_its_charset_is_not_stored() {
    let store = memory();
    for size in [1, 50_000] {
        for (charset, bad) in [
            (encoding_rs::UTF_8, &b"\xff"[..]),
            (encoding_rs::EUC_KR, b"\xff\xff"),
            (encoding_rs::UTF_16LE, b"\x00\xd8\x00\x00"),
            (encoding_rs::UTF_16LE, b"a"),
        ] {
            let body = [&b"ab".repeat(size), bad].concat();
            let options = SinkOptions { charset: Some(charset), ..plain(Codec::None) };
            let error = send(&store, "x", options, &body, &[70_000]).await.unwrap_err();
            assert!(matches!(error, SinkError::Unfit { what: Unfit::Text, .. }), "{error:?}");
        }
    }
    assert_eq!(object(&store, &Path::from("x")).await, None);
}

/// Keeps what it sees and answers what it is told to.
#[derive(Debug, Clone)]
struct Witness(Arc<Mutex<Vec<u8>>>, Word);

impl Inspect for Witness {
    fn take(&mut self, bytes: &[u8]) {
        self.0.lock().unwrap().extend_from_slice(bytes);
    }

    fn end(&mut self) -> Word {
        self.1
    }
}

async fn witnessed(
    store: &Store,
    options: SinkOptions,
    wire: &[u8],
    verdict: Word,
) -> (Result<Stored, SinkError>, Vec<u8>) {
    let witness = Witness(Arc::default(), verdict);
    let mut sink = store.sink(Path::from("w"), options).inspected(Box::new(witness.clone()));
    for piece in wire.chunks(30_000) {
        sink.write(Bytes::copy_from_slice(piece)).await.unwrap();
    }
    let stored = sink.finish().await;
    let seen = witness.0.lock().unwrap().clone();
    (stored, seen)
}

#[tokio::test]
async fn whoever_looks_sees_the_decoded_body_and_has_the_last_word() {
    let (on_files, folder) = files();
    for store in [memory(), on_files] {
        for size in [0, 10, INLINE_BYTES_MAX, INLINE_BYTES_MAX + 1, 3 * MIB] {
            let body = report(size, 1);
            let wire = gzip(&body);
            let options = || options(Codec::Zstd, Decode::Gzip);
            let (refused, seen) = witnessed(&store, options(), &wire, Word::No).await;
            assert!(matches!(refused, Err(SinkError::Refused { .. })), "{refused:?}");
            assert!(seen == body, "{size}: {} bytes were seen", seen.len());
            assert_eq!(object(&store, &Path::from("w")).await, None);
            let (stored, seen) = witnessed(&store, options(), &wire, Word::Yes).await;
            assert_eq!(stored.unwrap().bytes, size as u64);
            assert!(seen == body);
            store.inner.objects.delete(&Path::from("w")).await.unwrap();
        }
    }
    assert!(names(folder.path()).is_empty());
}

#[tokio::test]
async fn a_body_that_is_not_the_declared_file_is_seen_as_it_is_and_not_stored() {
    let store = memory();
    let error = br#"{"error":{"code":7}}"#;
    for unwrap in [Unwrap::Gzip, only()] {
        for body in [&b""[..], b"{", error, &report(MIB, 1)] {
            let (refused, seen) =
                witnessed(&store, with(Decode::Identity, unwrap.clone()), body, Word::No).await;
            assert!(matches!(refused, Err(SinkError::Refused { .. })), "{refused:?}");
            assert!(seen == body);
            let (broken, _) =
                witnessed(&store, with(Decode::Identity, unwrap.clone()), body, Word::Yes).await;
            let broken = broken.unwrap_err().to_string();
            assert!(broken.contains("the body is not a"), "{broken}");
        }
    }
}

#[test]
fn patterns_fit_whole_names() {
    for (pattern, name, fits) in [
        ("a.csv", "a.csv", true),
        ("a.csv", "xa.csv", false),
        ("*.csv", "data/a.csv", true),
        ("*.csv", "a.csv.txt", false),
        ("r*t*.csv", "report-tt.csv", true),
        ("r*t*.csv", "report.cs", false),
        ("?.csv", "a.csv", true),
        ("?.csv", ".csv", false),
        ("*", "", true),
        ("", "a", false),
        ("**a", "bba", true),
    ] {
        assert_eq!(Pick(Some(pattern.into())).fits(name), fits, "{pattern} {name}");
    }
}

#[tokio::test]
async fn nothing_may_be_what_is_right_whatever_file_was_declared() {
    let store = memory();
    for (unwrap, body) in [
        (only(), &b""[..]),
        (Unwrap::Gzip, b""),
        (only(), include_bytes!("archives/empty.zip")),
        (pick("*.csv"), include_bytes!("archives/empty.zip")),
    ] {
        let options = || with(Decode::Identity, unwrap.clone());
        let (stored, _) = witnessed(&store, options(), body, Word::Empty).await;
        assert_eq!(stored.unwrap().bytes, 0);
        assert!(witnessed(&store, options(), body, Word::Yes).await.0.is_err());
    }
}

/// A stored member as one that does not know its length beforehand writes it (APPNOTE 6.3.10 §4.3.9), and its list.
fn streamed_stored(body: &[u8], signed: bool, listed: u32) -> Vec<u8> {
    let mut crc = flate2::Crc::new();
    crc.update(body);
    let (crc, size) = (crc.sum().to_le_bytes(), (body.len() as u32).to_le_bytes());
    let zero = [0; 12];
    let head = [b"PK\x03\x04\x14\0\x08\0\0\0\0\0\0\0".as_slice(), &zero, b"\x05\0\0\0a.csv"];
    let sign: &[u8] = if signed { b"PK\x07\x08" } else { b"" };
    let listed = listed.to_le_bytes();
    let list = [
        b"PK\x01\x02\x14\0\x14\0\x08\0\0\0\0\0\0\0".as_slice(),
        &crc,
        &listed,
        &listed,
        b"\x05\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0a.csv",
    ];
    let end = b"PK\x05\x06\0\0\0\0\x01\0\x01\0\0\0\0\0\0\0\0\0\0\0";
    [&head.concat(), body, sign, &crc, &size, &size, &list.concat(), end].concat()
}

#[tokio::test]
async fn a_stored_member_without_its_length_ends_where_its_descriptor_and_the_list_say() {
    let store = memory();
    let zip: &[u8] = include_bytes!("archives/streamed-stored.zip");
    for pieces in [&[usize::MAX][..], &[1], &[7, 1000]] {
        send_and_check(&store, "s", with(Decode::Identity, only()), zip, SMALL, pieces).await;
    }
    // What looks like an end within it: an archive in the archive, and halves of signs.
    let inner = streamed_stored(b"x,y\n1,2\n", true, 8);
    for body in [report(MIB, 3), [&b"PPKPK\x07PK\x07\x08"[..], &inner, &inner, b"PK\x07"].concat()]
    {
        let zip = streamed_stored(&body, true, body.len() as u32);
        for pieces in [&[usize::MAX][..], &[5], &[30_000, 3]] {
            let options = with(Decode::Identity, only());
            send_and_check(&store, "long", options, &zip, &body, pieces).await;
        }
        for end in [zip.len() - 1, zip.len() - 22, zip.len() - 60, zip.len() / 2] {
            let options = with(Decode::Identity, only());
            let error = send(&store, "x", options, &zip[..end], &[usize::MAX]).await.unwrap_err();
            assert!(matches!(error, SinkError::Encoding { .. }), "cut at {end}: {error:?}");
        }
        let zip = streamed_stored(&body, true, 5);
        let error = send(&store, "x", with(Decode::Identity, only()), &zip, &[999]).await;
        assert!(error.unwrap_err().to_string().contains("its list"));
        let zip = streamed_stored(&body, false, body.len() as u32);
        let error = send(&store, "x", with(Decode::Identity, only()), &zip, &[999]).await;
        let error = error.unwrap_err();
        assert!(matches!(error, SinkError::Unfit { what: Unfit::Archive, .. }), "{error:?}");
        assert!(error.to_string().contains("comes behind it, too late"), "{error}");
    }
    assert_eq!(object(&store, &Path::from("x")).await, None);
}
