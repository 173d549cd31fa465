use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

use super::watch::{Broken, Value};
use super::*;
use crate::config;
use crate::ledger::record::Tries;
use crate::plan::Platform;
use crate::store::Tap;

/// As version 1 wrote it.
const FIRST_FORM: &str = "01 01 71 0c 6b 2f 30 30 30 30 31 2e 6a 73 6f 6e
    07 00 02 00 00 01 02 63 32 00 01 00 03 1e 05 00 00 00
    01 1e 14 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
    00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00 09 01 04 6a 73 6f 6e 09 01
    00 00 00 00 03 01 00 c8 01 05";

/// A platform whose one api has these pages, and sends all of their state.
fn platform(pages: &str, query: &str) -> Arc<Platform> {
    let text = format!(
        "[node]\nname = \"n\"\n[platforms.p]\nbase_url = \"https://api.example.com/v1/\"\n[platforms.p.apis.a]\npath = \"items\"\nquery = {{ {query} }}\npages = {{ {pages} }}\n"
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let loaded = config::load(Some(file.path()), std::iter::empty(), &[]);
    let plan = loaded.unwrap_or_else(|mistakes| panic!("{mistakes}")).plan;
    Arc::clone(plan.platforms.values().next().unwrap())
}

fn pages_of(platform: &Platform) -> Arc<Pages> {
    Arc::clone(platform.apis[0].pages.as_ref().unwrap())
}

fn see(pages: &Pages, body: &str, piece: usize) -> Seen {
    let mut watch = Watch::new(pages).unwrap();
    for bytes in body.as_bytes().chunks(piece) {
        watch.see(bytes);
    }
    watch.finish()
}

/// As where a call is signed by a pair `key` of its query.
fn unsigned(url: &str) -> String {
    turn::without_pairs(url, &["key"], |_| false)
}

/// What follows a page with this body.
fn after(
    platform: &Platform,
    so_far: &SoFar,
    body: &str,
    headers: &HeaderMap,
) -> Result<Turn, Flaw> {
    let pages = pages_of(platform);
    let seen = Watch::new(&pages).map(|_| see(&pages, body, 7)).unwrap_or_default();
    let url = Url::parse("https://api.example.com/v1/items?x=1").unwrap();
    let mut sha256 = [0; 32];
    for (place, byte) in body.bytes().enumerate() {
        sha256[place % 32] ^= byte.rotate_left(place as u32 % 8);
    }
    let (unsigned, kept) = (|url: String| unsigned(&url), |text: &str, _| Some(text.to_owned()));
    let answered =
        Answered { headers, seen: &seen, url: &url, sha256, unsigned: &unsigned, kept: &kept };
    turn(platform, &pages, so_far, answered)
}

/// Reads on until the end: the states that were called, and how it ended.
fn read(platform: &Platform, bodies: &[&str]) -> (Vec<PageState>, Result<(), Flaw>) {
    let pages = pages_of(platform);
    let mut so_far = Read::first(&pages).so_far;
    let mut called = Vec::new();
    for body in bodies {
        called.push(so_far.state.clone());
        let rows = Watch::new(&pages).and_then(|_| see(&pages, body, 100).rows).unwrap_or(0);
        match after(platform, &so_far, body, &HeaderMap::new()) {
            Ok(Turn::Last) => return (called, Ok(())),
            Ok(Turn::Next(state)) => {
                let mark = so_far.state.mark();
                let mut sha256 = [0; 32];
                for (place, byte) in body.bytes().enumerate() {
                    sha256[place % 32] ^= byte.rotate_left(place as u32 % 8);
                }
                let page =
                    Page { bytes: 1, stored_bytes: 1, sha256, stored_sha256: None, ext: 0, mark };
                so_far = so_far.with(page, "json", rows, 1);
                so_far.state = state;
            }
            Err(flaw) => return (called, Err(flaw)),
        }
    }
    panic!("it goes on behind {called:?}")
}

fn code(result: Result<(), Flaw>) -> Code {
    result.unwrap_err().code
}

#[test]
fn a_watcher_finds_the_same_however_the_body_is_cut() {
    let platform = platform(
        r#"by = "cursor", next = "meta.paging.0.next", items = "data.rows", total = "meta.total""#,
        r#"c = "{page.cursor}""#,
    );
    let pages = pages_of(&platform);
    let body = r#"{"data":{"skip":[{"rows":[1,2]}],"rows":[{"id":1,"meta":{"total":9}},[2,[3]],"x\"]",null,{}]},
        "meta":{"total": 5,"paging":[{"next":"abc\u00e9\"\\"},{"next":"no"}],"total":7}}"#;
    for piece in [1, 2, 3, 10, 1000, 100_000] {
        let seen = see(&pages, body, piece);
        assert_eq!((seen.rows, seen.broken), (Some(5), None), "pieces of {piece}");
        let Some(Place::Body(next)) = &pages.next else { panic!("a path") };
        assert_eq!(seen.at(next), Some(&Value::Text("abcé\"\\".into())));
        assert_eq!(seen.at(pages.total.as_ref().unwrap()), Some(&Value::Text("5".into())));
    }
    let with_bom = format!("\u{feff}{body}");
    assert_eq!(see(&pages, &with_bom, 2).rows, Some(5));
    assert_eq!(see(&pages, r#"{"data":{"rows":null}}"#, 5).rows, None);
    for cut in 1..body.len() {
        if body.is_char_boundary(cut) {
            let seen = see(&pages, body.get(..cut).unwrap(), 50);
            assert_eq!(seen.broken, Some(Broken::NotJson), "cut at {cut}");
        }
    }
    assert_eq!(see(&pages, "[1] 2", 50).broken, Some(Broken::NotJson));
}

#[test]
fn a_watcher_holds_no_more_than_one_long_text() {
    let platform = platform(r#"by = "none", items = "data""#, "");
    let pages = pages_of(&platform);
    let mut watch = Watch::new(&pages).unwrap();
    watch.see(b"{\"blob\":\"");
    let piece = vec![b'x'; 1024 * 1024];
    for _ in 0..20 {
        watch.see(&piece);
    }
    watch.see(b"\",\"data\":[1]}");
    assert_eq!(watch.finish().broken, Some(Broken::TooLong));
    let mut watch = Watch::new(&pages).unwrap();
    watch.see(b"{\"data\":[");
    for n in 0..100_000 {
        watch.see(if n == 0 { b"{\"a\":[1,2,3]}" } else { b",{\"a\":[1,2,3]}" });
    }
    watch.see(b"]}");
    assert_eq!(watch.finish().rows, Some(100_000));
}

#[test]
fn pages_by_number_end_by_each_rule() {
    let query = r#"page = "{page.number}", size = "{page.size}""#;
    let numbers = |states: Vec<PageState>| states.iter().map(|s| s.number).collect::<Vec<_>>();
    let short = platform(r#"by = "page", size = 2, items = "d", stop = "short""#, query);
    let (called, ended) = read(&short, &[r#"{"d":[1,2]}"#, r#"{"d":[3,4]}"#, r#"{"d":[5]}"#]);
    assert_eq!((numbers(called), ended), (vec![1, 2, 3], Ok(())));
    let empty = platform(
        r#"by = "page", first = 0, items = "d", stop = "empty""#,
        r#"p = "{page.number}""#,
    );
    let (called, ended) = read(&empty, &[r#"{"d":[1]}"#, r#"{"d":[2]}"#, r#"{"d":[]}"#]);
    assert_eq!((numbers(called), ended), (vec![0, 1, 2], Ok(())));
    let all = platform(r#"by = "page", stop = { pages = "n" }"#, r#"p = "{page.number}""#);
    let (called, ended) = read(&all, &[r#"{"n":2,"a":1}"#, r#"{"n":2,"a":2}"#]);
    assert_eq!((numbers(called), ended), (vec![1, 2], Ok(())));
    assert_eq!(code(read(&all, &[r#"{"m":2}"#]).1), Code::PageStateNotFound);
    assert_eq!(code(read(&all, &[r#"{"n":"two"}"#]).1), Code::PageStateNotFound);
    let more = platform(r#"by = "page", stop = { more = "more" }"#, r#"p = "{page.number}""#);
    let bodies = [r#"{"more":true,"a":1}"#, r#"{"more":"1"}"#, r#"{"more":false}"#];
    assert_eq!(read(&more, &bodies).0.len(), 3);
    assert_eq!(code(read(&more, &[r#"{"mor":true}"#]).1), Code::PageStateNotFound);
}

#[test]
fn an_offset_goes_on_by_the_rows_that_came_and_a_missing_row_is_told() {
    let platform = platform(
        r#"by = "offset", size = 3, items = "d", stop = { rows = "n" }"#,
        r#"o = "{page.offset}", l = "{page.size}""#,
    );
    let offsets = |states: Vec<PageState>| states.iter().map(|s| s.offset).collect::<Vec<_>>();
    // The provider gives two where three were asked for.
    let bodies = [r#"{"n":5,"d":[1,2]}"#, r#"{"n":5,"d":[3,4]}"#, r#"{"n":5,"d":[5]}"#];
    let (called, ended) = read(&platform, &bodies);
    assert_eq!((offsets(called), ended), (vec![0, 2, 4], Ok(())));
    let bodies = [r#"{"n":5,"d":[1,2]}"#, r#"{"n":5,"d":[]}"#];
    assert_eq!(code(read(&platform, &bodies).1), Code::ReadIncomplete);
}

#[test]
fn a_cursor_ends_where_it_is_absent_null_empty_or_false() {
    let platform =
        platform(r#"by = "cursor", next = "next", end = "absent""#, r#"c = "{page.cursor}""#);
    for last in [r#"{"a":1}"#, r#"{"next":null}"#, r#"{"next":""}"#, r#"{"next":false}"#] {
        let (called, ended) = read(&platform, &[r#"{"next":"x"}"#, r#"{"next":12}"#, last]);
        assert_eq!(ended, Ok(()), "{last}");
        let cursors: Vec<_> = called.iter().map(|state| state.cursor.as_deref()).collect();
        assert_eq!(cursors, [None, Some("x"), Some("12")]);
    }
    assert_eq!(code(read(&platform, &[r#"{"next":{}}"#]).1), Code::PageStateNotFound);
    let long = format!(r#"{{"next":"{}"}}"#, "x".repeat(5000));
    assert_eq!(code(read(&platform, &[&long]).1), Code::RequestTooLong);
    let flaw = read(&platform, &[r#"{"next":"x""#]).1.unwrap_err();
    assert!(flaw.again && flaw.code == Code::AnswerBroken, "{flaw:?}");
}

#[test]
fn a_url_is_joined_and_stays_on_the_hosts_of_the_platform() {
    let platform = platform(r#"by = "url", next = "next", end = "absent""#, "");
    let next = |url: &str| {
        let pages = pages_of(&platform);
        let body = format!(r#"{{"next":"{url}"}}"#);
        after(&platform, &Read::first(&pages).so_far, &body, &HeaderMap::new())
    };
    let url = |turn: Result<Turn, Flaw>| match turn {
        Ok(Turn::Next(state)) => state.url.unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(url(next("?page=2&k=%2C")), "https://api.example.com/v1/items?page=2&k=%2C");
    assert_eq!(url(next("/v2/x?y=1#f")), "https://api.example.com/v2/x?y=1");
    let foreign = [
        "https://evil.example.com/v1/items",
        "//evil.example.com/x",
        "http://api.example.com/v1/items",
        "https://api.example.com:444/x",
        "https://u:p@api.example.com/x",
        "ftp://api.example.com/x",
        "data:text/plain,x",
    ];
    for url in foreign {
        assert_eq!(next(url).unwrap_err().code, Code::NextPageElsewhere, "{url}");
    }
}

#[test]
fn the_next_link_is_found_as_rfc_8288_writes_it() {
    let found = |fields: &[&'static str]| link::next(fields.iter().copied()).unwrap();
    let next = Some("https://x/?p=2".to_owned());
    assert_eq!(found(&[r#"<https://x/?p=2>; rel="next""#]), next);
    assert_eq!(found(&["<https://x/?p=2>;rel=next"]), next);
    assert_eq!(found(&[r#"<https://x/?p=1>; rel="prev", <https://x/?p=2>; rel="next""#]), next);
    assert_eq!(
        found(&[
            r#"<a>; rel="last"; title="a, b; rel=next""#,
            r#"<https://x/?p=2>; REL="first NEXT""#
        ]),
        next
    );
    assert_eq!(found(&[r#"<https://x/?p=2>; title="say \"hi\", <y>"; rel=next"#]), next);
    assert_eq!(found(&["<a>; rel=prev; rel=next, <b>; x; rel=nextish"]), None);
    assert_eq!(found(&["", "<a>", "<a>; rel=prev, "]), None);
    // A field that cannot be read may have named the next page: the read is not taken for complete.
    for field in ["<", "<a", "a; rel=next", "<a>; rel=prev, b"] {
        assert_eq!(link::next([field]), Err(field));
    }
    let platform = platform(r#"by = "link""#, "");
    let mut headers = HeaderMap::new();
    let name = HeaderName::from_static("link");
    headers.append(name.clone(), HeaderValue::from_static("<?p=1>; rel=prev"));
    headers.append(name, HeaderValue::from_static("<?p=3>; rel=next"));
    let so_far = Read::first(&pages_of(&platform)).so_far;
    let turn = after(&platform, &so_far, "any,csv", &headers).unwrap();
    let Turn::Next(state) = turn else { panic!("{turn:?}") };
    assert_eq!(state.url.as_deref(), Some("https://api.example.com/v1/items?p=3"));
    assert_eq!(after(&platform, &so_far, "any", &HeaderMap::new()), Ok(Turn::Last));
}

#[test]
fn a_loop_of_any_length_is_found_within_three_times_its_pages() {
    let pages = |by| format!(r#"by = "{by}", next = "next", end = "null", max = 99999"#);
    find_loops("cursor", &platform(&pages("cursor"), r#"c = "{page.cursor}""#));
    find_loops("url", &platform(&pages("url"), ""));
}

fn find_loops(how: &str, platform: &Platform) {
    for length in [1_usize, 2, 3, 49, 60, 130, 700] {
        // Of a URL what a call is signed with does not count, though it is another one each time.
        let next = |n| match how {
            "cursor" => format!("c{}", n % length),
            _ => format!("items?c={}&key=k{n}", n % length),
        };
        let bodies: Vec<String> =
            (0..5 * length + 300).map(|n| format!(r#"{{"n":{n},"next":"{}"}}"#, next(n))).collect();
        let bodies: Vec<&str> = bodies.iter().map(String::as_str).collect();
        let pages = pages_of(platform);
        let mut so_far = Read::first(&pages).so_far;
        let mut calls = 0;
        for body in bodies {
            calls += 1;
            match after(platform, &so_far, body, &HeaderMap::new()) {
                Ok(Turn::Next(state)) => {
                    let mark = so_far.state.mark();
                    let sha256 = [calls as u8; 32];
                    let page = Page {
                        bytes: 1,
                        stored_bytes: 1,
                        sha256,
                        stored_sha256: None,
                        ext: 0,
                        mark,
                    };
                    if so_far.tail.len() >= LISTED_MAX {
                        so_far.listed += so_far.tail.len() as u32;
                        so_far.tail.clear();
                    }
                    so_far = so_far.with(page, "json", 0, 1);
                    so_far.state = state;
                }
                Ok(Turn::Last) => panic!("it never ends"),
                Err(flaw) => {
                    assert_eq!(flaw.code, Code::PagesRepeat);
                    break;
                }
            }
        }
        assert!(calls <= 3 * length + 2, "{how}, {length}: {calls} calls");
    }
}

#[test]
fn the_same_page_twice_and_too_many_pages_are_flaws() {
    let platform =
        platform(r#"by = "page", items = "d", stop = "empty", max = 3"#, r#"p = "{page.number}""#);
    assert_eq!(code(read(&platform, &[r#"{"d":[1]}"#, r#"{"d":[1]}"#]).1), Code::PagesRepeat);
    let bodies = [r#"{"d":[1]}"#, r#"{"d":[2]}"#, r#"{"d":[3]}"#];
    assert_eq!(code(read(&platform, &bodies).1), Code::TooManyPages);
}

#[test]
fn rows_at_the_cap_and_rows_that_are_missing_are_no_whole_read() {
    let platform = platform(r#"by = "none", items = "d", rows_max = 3, total = "n""#, "");
    assert_eq!(code(read(&platform, &[r#"{"d":[1,2,3],"n":3}"#]).1), Code::RowsCapped);
    assert_eq!(code(read(&platform, &[r#"{"d":[1,2],"n":7}"#]).1), Code::ReadIncomplete);
    assert_eq!(read(&platform, &[r#"{"d":[1,2],"n":2}"#]).1, Ok(()));
    assert_eq!(code(read(&platform, &[r#"{"e":[1,2],"n":2}"#]).1), Code::PageStateNotFound);
}

#[test]
fn a_note_reads_back_stays_small_and_undoes_its_last_page() {
    let platform =
        platform(r#"by = "cursor", next = "next", items = "d""#, r#"c = "{page.cursor}""#);
    let mut so_far = Read::first(&pages_of(&platform)).so_far;
    for n in 0..LISTED_MAX as u64 {
        let mark = so_far.state.mark();
        let page = Page {
            bytes: 1 << 33,
            stored_bytes: 1 << 32,
            sha256: [n as u8; 32],
            stored_sha256: None,
            ext: 0,
            mark,
        };
        so_far = so_far.with(page, "json.zst", 10_000, 1);
        so_far.state.cursor = Some(format!("{n:0>200}"));
    }
    assert_eq!(so_far.used, 1);
    so_far.filled = true;
    let before = PageState { cursor: Some("x".repeat(200)), ..PageState::default() };
    let note = Note {
        queue: "TOLLGATE_FETCH@1763750000000".into(),
        key: "platform/api/account/2026-11-21/an-id-of-some-length/00050.json.zst".into(),
        so_far: so_far.clone(),
        before: before.clone(),
        rows: 10_000,
        calls: 1,
        is_last: false,
        status: 200,
        waited_ms: 1234,
        more: More {
            store: u64::MAX,
            request_id: Some("r".repeat(1024)),
            filled: true,
            used: 1,
            is_split: false,
        },
        tries: Tries::default(),
    };
    let bytes = note.encode();
    assert!(bytes.len() <= 5120, "{} bytes", bytes.len());
    assert_eq!(Note::decode(&bytes).unwrap(), note);
    let undone = note.undone();
    assert_eq!(
        (undone.page, undone.rows, undone.state),
        (so_far.page - 1, so_far.rows - 10_000, before)
    );
    assert_eq!((undone.tail.len(), undone.calls), (LISTED_MAX - 1, so_far.calls - 1));
    assert!(Note::decode(&[]).is_err() && Note::decode(&[9, 1]).is_err());
    assert!(Note::decode(&bytes[..bytes.len() / 2]).is_err());
    assert_eq!(bytes[0], 2, "nodes of the version before read it");
    let tried = Note { tries: Tries { crashes: 1, wasted: 7, ..Tries::default() }, ..note };
    let bytes = tried.encode();
    assert_eq!(Note::decode(&bytes).unwrap(), tried);
    assert!(Note::decode(&bytes[..bytes.len() - 1]).is_err());
}

#[test]
fn a_note_of_the_first_form_is_read_and_says_nothing_of_what_came_later() {
    let bytes = FIRST_FORM.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap());
    let note = Note::decode(&bytes.collect::<Vec<u8>>()).unwrap();
    assert_eq!((&*note.queue, &*note.key, note.so_far.page), ("q", "k/00001.json", 2));
    assert_eq!(note.so_far.state.cursor.as_deref(), Some("c2"));
    assert_eq!((note.so_far.tail.len(), note.so_far.tail[0].bytes), (1, 30));
    assert_eq!((note.rows, note.calls, note.status, note.waited_ms), (3, 1, 200, 5));
    let more = More { filled: true, used: u64::MAX, ..More::default() };
    assert_eq!((note.more, note.so_far.filled), (more, true), "never called empty");
}

#[test]
fn a_read_begun_anew_knows_of_all_objects_that_were_stored() {
    let platform =
        platform(r#"by = "cursor", next = "next", items = "d""#, r#"c = "{page.cursor}""#);
    let pages = pages_of(&platform);
    let mut so_far = Read::first(&pages).so_far;
    for ext in ["json.zst", "csv.zst", "json.zst"] {
        let page = Page {
            bytes: 1,
            stored_bytes: 1,
            sha256: [0; 32],
            stored_sha256: None,
            ext: 0,
            mark: 1,
        };
        so_far = so_far.with(page, ext, 1, 1);
    }
    let anew = so_far.restart(&pages, 0);
    assert_eq!((anew.page, anew.highest, anew.restarts), (1, 3, 1));
    assert_eq!(anew.exts, ["json.zst", "csv.zst"]);
    assert_eq!((so_far.unused().count(), anew.unused().count()), (0, 2));
    let page =
        Page { bytes: 1, stored_bytes: 1, sha256: [0; 32], stored_sha256: None, ext: 0, mark: 1 };
    let again = anew.with(page, "csv.zst", 1, 1);
    assert_eq!(again.unused().collect::<Vec<_>>(), ["json.zst"], "no page of this read");
    let other = Pages { how: 7, ..(*pages).clone() };
    let under = Arc::new(Read::new(1, anew)).under(&other);
    assert_eq!((under.so_far.highest, under.so_far.restarts, under.so_far.how), (3, 1, 7));
    assert_eq!(under.so_far.exts, ["json.zst", "csv.zst"]);
}

#[test]
fn a_page_that_names_no_next_one_is_the_last_only_where_that_is_said() {
    let end = |pages: &str, bodies: &[&str]| {
        let platform = platform(pages, r#"c = "{page.cursor}""#);
        let (called, ended) = read(&platform, bodies);
        (called.len(), ended.map_err(|flaw| flaw.code))
    };
    let (one, envelope) = (r#"{"d":[1],"next":"c2"}"#, r#"{"code":50002,"message":"busy"}"#);
    let unknown = Err(Code::PageStateNotFound);
    let by = r#"by = "cursor", next = "next""#;
    for (more, last, wanted) in [
        (r#"end = "null""#, r#"{"d":[2],"next":null}"#, Ok(())),
        (r#"end = "null""#, r#"{"d":[2],"next":""}"#, Ok(())),
        (r#"end = "null""#, envelope, unknown),
        (r#"end = "absent""#, envelope, Ok(())),
        (r#"items = "d""#, r#"{"d":[2]}"#, Ok(())),
        (r#"items = "d""#, envelope, unknown),
        (r#"items = "d", end = "null""#, r#"{"d":[2]}"#, unknown),
        (r#"stop = { more = "more" }"#, envelope, unknown),
        (r#"stop = { more = "more" }"#, r#"{"d":[2],"more":false}"#, Ok(())),
        // It says that there are more, and not how they are asked for.
        (r#"stop = { more = "more" }"#, r#"{"d":[2],"more":true}"#, unknown),
    ] {
        let first = if more.contains("more") { r#"{"more":true,"next":"c2"}"# } else { one };
        assert_eq!(end(&format!("{by}, {more}"), &[first, last]), (2, wanted), "{more}: {last}");
    }
    let by_page = |more: &str| {
        let pages = format!(r#"by = "page", stop = {{ more = "more" }}{more}"#);
        let platform = platform(&pages, r#"c = "{page.number}""#);
        read(&platform, &[r#"{"more":true,"n":1}"#, r#"{"n":2}"#]).1.map_err(|flaw| flaw.code)
    };
    assert_eq!(by_page(""), unknown);
    assert_eq!(by_page(r#", end = "absent""#), Ok(()));
}

#[test]
fn what_a_call_was_signed_with_is_taken_out_of_the_next_url() {
    let without = |url: &str| turn::without_pairs(url, &["key", "s i"], |value| value == "t0ken");
    assert_eq!(without("https://x/a?p=2&key=secret&q=a%2Cb"), "https://x/a?p=2&q=a%2Cb");
    assert_eq!(without("https://x/a?%6bey=secret"), "https://x/a");
    assert_eq!(without("https://x/a?s%20i=1&keys=2"), "https://x/a?keys=2");
    assert_eq!(without("https://x/a"), "https://x/a");
    assert_eq!(
        turn::without_pairs("https://x/a?key=1&access=t0ken", &[], |value| value == "t0ken"),
        "https://x/a?key=1"
    );
}
