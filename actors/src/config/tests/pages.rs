//! The table `pages`: what it means, and each mistake in it with its own message and place.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::*;
use crate::pages::{By, Place, Stop};

/// An api's query, its pages, and the mistake that it must give.
const TABLE: &[(&str, &str, Code, &str)] = &[
    ("", "size = 10", Code::MissingKey, "pages.by"),
    ("", r#"by = "pag""#, Code::BadValue, "pages.by"),
    (r#"p = "{page.number}""#, r#"by = "page""#, Code::NoStopRule, "pages.stop"),
    (r#"p = "{page.offset}""#, r#"by = "offset", size = 5"#, Code::NoStopRule, "pages.stop"),
    (
        r#"p = "{page.number}""#,
        r#"by = "page", stop = "shrt", items = "d""#,
        Code::BadValue,
        "pages.stop",
    ),
    (r#"p = "{page.number}""#, r#"by = "page", stop = 3"#, Code::WrongType, "pages.stop"),
    (
        r#"p = "{page.number}""#,
        r#"by = "page", stop = { page = "n" }"#,
        Code::BadValue,
        "pages.stop",
    ),
    (
        r#"p = "{page.number}""#,
        r#"by = "page", stop = { pages = "a..b" }"#,
        Code::BadValue,
        "pages.stop.pages",
    ),
    (r#"p = "{page.number}""#, r#"by = "page", stop = "empty""#, Code::MissingKey, "pages.items"),
    (
        r#"p = "{page.number}""#,
        r#"by = "page", stop = "short", items = "d""#,
        Code::MissingKey,
        "pages.size",
    ),
    (
        r#"p = "{page.number}""#,
        r#"by = "page", stop = "short", items = "d", size = "100 rows""#,
        Code::WrongType,
        "pages.size",
    ),
    (
        r#"p = "{page.number}""#,
        r#"by = "page", stop = "short", items = "d", size = "100""#,
        Code::WrongType,
        "pages.size",
    ),
    (
        r#"p = "{page.number}""#,
        r#"by = "page", stop = "short", items = "d", size = 0"#,
        Code::BadValue,
        "pages.size",
    ),
    (
        r#"p = "{page.offset}""#,
        r#"by = "offset", stop = { rows = "n" }"#,
        Code::MissingKey,
        "pages.items",
    ),
    (r#"p = "{page.cursor}""#, r#"by = "cursor""#, Code::MissingKey, "pages.next"),
    ("", r#"by = "url""#, Code::MissingKey, "pages.next"),
    ("", r#"by = "link", next = "a.b""#, Code::BadValue, "pages.next"),
    (r#"p = "{page.cursor}""#, r#"by = "cursor", next = "a..b""#, Code::BadValue, "pages.next"),
    (r#"p = "{page.cursor}""#, r#"by = "cursor", next = "n""#, Code::NoStopRule, "pages.end"),
    ("", r#"by = "url", next = { header = "x" }"#, Code::NoStopRule, "pages.end"),
    ("", r#"by = "url", next = "n", end = "gone""#, Code::BadValue, "pages.end"),
    ("", r#"by = "link", end = "absent""#, Code::BadValue, "pages.end"),
    (
        r#"p = "{page.cursor}""#,
        r#"by = "cursor", next = { header = "no header" }"#,
        Code::BadHeader,
        "pages.next.header",
    ),
    (
        r#"p = "{page.cursor}""#,
        r#"by = "cursor", next = { head = "x" }"#,
        Code::MissingKey,
        "pages.next.header",
    ),
    (
        r#"p = "{page.cursor}""#,
        r#"by = "cursor", next = "n", first = 1"#,
        Code::BadValue,
        "pages.first",
    ),
    (
        r#"p = "{page.cursor}""#,
        r#"by = "cursor", next = "n", max = 100000"#,
        Code::BadValue,
        "pages.max",
    ),
    (
        r#"p = "{page.cursor}""#,
        r#"by = "cursor", next = "n", rows_max = 5"#,
        Code::MissingKey,
        "pages.items",
    ),
    (
        r#"p = "{page.cursor}""#,
        r#"by = "cursor", next = "n", token_ttl = "1d""#,
        Code::BadDuration,
        "pages.token_ttl",
    ),
    (
        r#"p = "{page.cursor}""#,
        r#"by = "cursor", next = "n", expired = {}"#,
        Code::MissingKey,
        "pages.expired",
    ),
    (
        r#"p = "{page.cursor}""#,
        r#"by = "cursor", next = "n", expired = { status = 99 }"#,
        Code::BadValue,
        "pages.expired.status",
    ),
    ("", r#"by = "none", items = "d", stop = "empty""#, Code::BadValue, "pages.stop"),
    ("", r#"by = "none", token_ttl = "1h""#, Code::BadValue, "pages.by"),
    ("", r#"by = "link", sizes = 5"#, Code::UnknownKey, "pages.sizes"),
    (r#"p = "{page.number}""#, r#"by = "cursor", next = "n""#, Code::UnknownVariable, "query"),
    (
        r#"p = "{page.size}", c = "{page.cursor}""#,
        r#"by = "cursor", next = "n""#,
        Code::UnknownVariable,
        "query",
    ),
    (r#"p = "{page.number}""#, r#"by = "link""#, Code::UnknownVariable, "query"),
    (r#"p = "{day}""#, r#"by = "page", stop = { pages = "n" }"#, Code::PageStateUnused, "pages"),
];

fn api(query: &str, pages: &str) -> String {
    format!("path = \"a\"\nquery = {{ {query} }}\npages = {{ {pages} }}\n")
}

fn platform(apis: &str) -> String {
    format!("[platforms.p]\nbase_url = \"https://api.example.com/\"\n{apis}")
}

#[test]
fn each_mistake_has_its_own_message_and_place_all_at_once() {
    let mut apis = String::new();
    for (place, (query, pages, ..)) in TABLE.iter().enumerate() {
        writeln!(apis, "[platforms.p.apis.a{place}]\n{}", api(query, pages)).unwrap();
    }
    let mistakes = load_with(&platform(&apis), &[]).unwrap_err();
    let found: Vec<_> = mistakes.list().iter().collect();
    for (place, (query, pages, code, key)) in TABLE.iter().enumerate() {
        let key = format!("platforms.p.apis.a{place}.{key}");
        let mine: Vec<_> = found.iter().filter(|one| one.key == key).collect();
        let codes: Vec<Code> = mine.iter().map(|one| one.code).collect();
        assert!(codes.contains(code), "{query} | {pages}: {key} has {codes:?}\n{mistakes}");
        assert!(mine.iter().all(|one| one.line.is_some()), "{key} has no line");
    }
    let messages: BTreeSet<(Code, &str)> =
        found.iter().map(|one| (one.code, one.message.as_str())).collect();
    assert!(messages.len() >= 26, "{messages:#?}");
}

#[test]
fn page_state_without_pages_is_a_mistake_and_page_alone_is_a_parameter() {
    let text = platform("[platforms.p.apis.a]\npath = \"a\"\nquery = { p = \"{page.number}\" }\n");
    let mistakes = load_with(&text, &[]).unwrap_err();
    assert_eq!(mistakes.list()[0].code, Code::UnknownVariable, "{mistakes}");
    let plan = plan(&platform("[platforms.p.apis.a]\npath = \"a\"\nquery = { p = \"{page}\" }\n"));
    let api = &plan.platforms.values().next().unwrap().apis[0];
    assert!(api.params.names.contains("page"));
}

#[test]
fn what_is_declared_is_understood_and_shown() {
    let text = platform(&format!(
        "[platforms.p.apis.a]\nparams = [\"day\"]\n{}[platforms.p.apis.b]\n{}",
        api(
            r#"day = "{day}", c = "{page.cursor}""#,
            r#"by = "cursor", next = "meta.next", items = "data", max = 7, total = "meta.n", token_ttl = "2h", expired = { status = [400, 410], body = "code", is = 7 }"#
        ),
        api(
            r#"o = "{page.offset}", n = "{page.size}""#,
            r#"by = "offset", size = 50, items = "d", stop = ["short", { rows = "n" }, { more = "m" }], rows_max = 15000"#
        )
    ));
    let plan = plan(&text);
    let apis = &plan.platforms.values().next().unwrap().apis;
    let names: Vec<&str> = apis[0].params.names.iter().map(String::as_str).collect();
    assert_eq!(names, ["day"], "page state is no parameter");
    let pages = apis[0].pages.as_ref().unwrap();
    assert_eq!((pages.by, pages.max, pages.first, pages.restarts), (By::Cursor, 7, 0, 3));
    assert!(matches!(&pages.next, Some(Place::Body(path)) if path.to_string() == "meta.next"));
    let expired = pages.expired.as_ref().unwrap();
    assert_eq!(expired.over[0].status, [400, 410]);
    let pages = apis[1].pages.as_ref().unwrap();
    assert_eq!((pages.size, pages.rows_max, pages.max), (Some(50), Some(15_000), 1000));
    assert!(matches!(pages.stop[..], [Stop::Short, Stop::Rows(_), Stop::More(_)]));
    let shown = describe(&plan);
    for line in [
        "at most 7 pages by cursor, the next one is told at `meta.next` of the body",
        "rows are in `data`; fewer than `meta.n` says are no whole read",
        "page tokens expire after 7200s: the read begins anew, at most 3 times",
        "at most 1000 pages of 50 rows by offset; a page with fewer rows is the last; `n` says how many rows there are; `m` says whether there are more",
        "rows are in `d`; 15000 or more may have been cut off",
    ] {
        assert!(shown.contains(line), "{line}\n{shown}");
    }
}

#[test]
fn what_tells_a_last_page_from_an_error_is_said_or_follows_from_what_is() {
    let absent_ends = |pages: &str, more: &str| {
        let text = platform(&format!(
            "[platforms.p.apis.a]\n{}\n{more}",
            api(r#"c = "{page.cursor}""#, &format!(r#"by = "cursor", next = "n"{pages}"#))
        ));
        let plan = plan(&text);
        plan.platforms.values().next().unwrap().apis[0].pages.as_ref().unwrap().absent_ends
    };
    assert!(absent_ends(r#", items = "d""#, ""));
    assert!(absent_ends(r#", end = "absent""#, ""));
    assert!(!absent_ends(r#", end = "null""#, ""));
    assert!(!absent_ends(r#", items = "d", end = "null""#, ""));
    assert!(!absent_ends(r#", stop = { more = "m" }"#, ""));
    let judges = r#"answers = [{ body = "code", not = 0, class = "transient" }]"#;
    assert!(absent_ends("", judges));
    assert!(!absent_ends(r#", end = "null""#, judges));
    // A rule about bad answers tells nothing of good ones.
    let mistakes = load_with(
        &platform(&format!(
            "[platforms.p.apis.a]\n{}\nanswers = [{{ status = 404, body = \"code\", is = 1, class = \"empty\" }}]\n",
            api(r#"c = "{page.cursor}""#, r#"by = "cursor", next = "n""#)
        )),
        &[],
    );
    assert_eq!(mistakes.unwrap_err().list()[0].code, Code::NoStopRule);
}

#[test]
fn a_limit_may_count_first_pages_only() {
    let text = platform(&format!(
        "[platforms.p.limits]\nday = {{ per = [\"account\"], max = 5, in = \"24h\", pages = \"free\" }}\n[platforms.p.apis.a]\n{}",
        api(r#"c = "{page.cursor}""#, r#"by = "cursor", next = "n", end = "null""#)
    ));
    let plan = plan(&text);
    let platform = plan.platforms.values().next().unwrap();
    assert_eq!(platform.costs.free_pages, [0]);
    assert!(describe(&plan).contains("only first pages count"), "{}", describe(&plan));
    let wrong = text.replace("\"free\"", "\"fre\"");
    let mistakes = load_with(&wrong, &[]).unwrap_err();
    assert_eq!(mistakes.list()[0].key, "platforms.p.limits.day.pages", "{mistakes}");
}
