//! What is seen in a body as it streams by, and what rules make of it.

use std::sync::Arc;

use http::HeaderMap;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::scan::{Found, JsonScan, Whole};
use super::*;
use crate::codes::Code;
use crate::plan::Format;
use crate::store::Inspect;

fn path(text: &str) -> JsonPath {
    JsonPath::new(text).unwrap()
}

fn scanned(text: &[u8], paths: &[&str], pieces: usize) -> (JsonScan, Whole) {
    let paths: Vec<JsonPath> = paths.iter().map(|text| path(text)).collect();
    let mut scan = JsonScan::new(paths.into());
    for piece in text.chunks(pieces.max(1)) {
        scan.take(piece);
    }
    let whole = scan.end();
    (scan, whole)
}

/// The same by a tree.
fn looked_up(value: &Value, steps: &[&str], found: &mut Found) {
    let Some((step, rest)) = steps.split_first() else {
        match value {
            Value::Null => return,
            Value::Array(items) => {
                found.elements = Some(found.elements.unwrap_or(0) + items.len() as u64);
            }
            Value::Object(_) => {}
            Value::String(text) => found.values.push(text.clone()),
            other => found.values.push(other.to_string()),
        }
        found.is_there = true;
        return;
    };
    match value {
        Value::Object(members) => {
            for (_, member) in members.iter().filter(|(name, _)| *step == "*" || name == step) {
                looked_up(member, rest, found);
            }
        }
        Value::Array(items) => {
            let at = |place: usize| *step == "*" || step.parse() == Ok(place);
            for (_, item) in items.iter().enumerate().filter(|(place, _)| at(*place)) {
                looked_up(item, rest, found);
            }
        }
        _ => {}
    }
}

fn values() -> impl Strategy<Value = Value> {
    let name = || prop_oneof!["[a-c]", Just("é\"\\\n".to_owned()), Just("0".to_owned())];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>()
            .prop_filter_map("finite", |f| serde_json::Number::from_f64(f).map(Value::Number)),
        ".{0,8}".prop_map(Value::from),
    ];
    let inner = leaf.prop_recursive(5, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((name(), inner), 0..6)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    });
    prop_oneof![
        prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
        prop::collection::vec((prop_oneof!["[a-c]", Just("0".to_owned())], inner), 0..6)
            .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
    ]
}

const PATHS: &[&str] = &[
    "a", "b", "a.b", "a.0", "*.a", "0", "0.a", "*.*", "a.*.b", "c.c.c", "*.0.*", "é\"\\\n", "b.1",
];

proptest! {
    #[test]
    fn a_scan_in_any_pieces_finds_what_a_tree_has(
        value in values(),
        pieces in 1usize..40,
        pretty: bool,
        marked: bool,
    ) {
        let text = if pretty { serde_json::to_vec_pretty(&value) } else { serde_json::to_vec(&value) };
        let mark: &[u8] = if marked { b"\xef\xbb\xbf" } else { b"" };
        let text = [mark, &text.unwrap()].concat();
        let (scan, whole) = scanned(&text, PATHS, pieces);
        prop_assert_eq!(whole, Whole::Yes);
        for text in PATHS {
            let mut wanted = Found::default();
            looked_up(&value, &text.split('.').collect::<Vec<_>>(), &mut wanted);
            wanted.values.truncate(32);
            prop_assert_eq!(scan.found(&path(text)), Some(&wanted), "{}", text);
        }
        prop_assert_eq!(scan.records(), value.as_array().map_or(1, Vec::len) as u64);
    }

    #[test]
    fn a_text_that_breaks_off_is_never_whole(value in values(), cut in any::<prop::sample::Index>()) {
        let text = serde_json::to_vec(&value).unwrap();
        let end = cut.index(text.len());
        let (_, whole) = scanned(&text[..end], PATHS, 7);
        prop_assert!(matches!(whole, Whole::Broken | Whole::Empty), "{:?}", whole);
        prop_assert_eq!(whole == Whole::Empty, end == 0);
    }

    #[test]
    fn any_bytes_are_scanned_without_a_panic_and_the_same_in_any_pieces(
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(br#"{}[]":,\ an1-"#.to_vec())], 0..200),
        pieces in 1usize..20,
    ) {
        let (one, whole) = scanned(&bytes, PATHS, usize::MAX);
        let (other, same) = scanned(&bytes, PATHS, pieces);
        prop_assert_eq!(whole, same);
        for text in PATHS {
            prop_assert_eq!(one.found(&path(text)), other.found(&path(text)));
        }
    }

    #[test]
    fn lines_are_counted_in_any_pieces_as_a_csv_reader_does(
        rows in prop::collection::vec(("[a-z ,\"\n]{0,6}x", "[a-z\r\n]{0,4}x"), 1..20),
        pieces in 1usize..20,
    ) {
        let mut writer = csv::Writer::from_writer(Vec::new());
        writer.write_record(["Date, of", "clicks"]).unwrap();
        for (one, other) in &rows {
            writer.write_record([one, other]).unwrap();
        }
        let text = writer.into_inner().unwrap();
        let mut lines = super::lines::Lines::new(true);
        text.chunks(pieces).for_each(|piece| lines.take(piece));
        prop_assert_eq!(lines.rows(), rows.len() as u64);
        let columns = ["clicks", "Date, of", "cost"].map(str::to_owned);
        prop_assert_eq!(lines.lacks(&columns), ["cost"]);
    }
}

#[test]
fn a_quote_within_a_field_hides_no_line() {
    let rows = |quoting, text: &str| {
        let mut lines = super::lines::Lines::new(quoting);
        lines.take(text.as_bytes());
        lines.rows()
    };
    assert_eq!(rows(true, "name,n\n5\" screen,1\n7\" screen,2\nx,3\n"), 3);
    assert_eq!(rows(true, "name,n\n\"a \"\"b\"\"\nc\",1\nx,\"\"\n"), 2);
    assert_eq!(rows(false, "name\tn\n\"5\t1\nx\t2\n"), 2);
}

#[test]
fn what_a_gateway_says_in_its_own_way_leaves_the_answer_to_its_status() {
    let code = Test::Not(Source::Body(path("error.code")), vec!["0".into()]);
    let answers =
        Arc::new(Answers::new(vec![rule(Class::Permanent, vec![code])], Vec::new(), None));
    let said = |status, is_good| {
        let mut look = Look::new(&answers, status, &HeaderMap::new(), Format::Json, is_good);
        look.take(b"<html>Too many requests</html>");
        look.end();
        look.looked().unwrap().verdict.map(|verdict| verdict.class)
    };
    for status in [401, 404, 429, 503] {
        assert_eq!(said(status, false), None, "{status}");
    }
    assert_eq!(said(200, true), Some(Class::Transient));
}

#[test]
fn what_is_no_json_is_told_from_json_that_is_broken() {
    for (text, wanted) in [
        ("", Whole::Empty),
        (" \r\n", Whole::Empty),
        ("{}", Whole::Yes),
        ("[]\n", Whole::Yes),
        ("{}\n{\"a\":1}\n", Whole::Yes),
        ("date,clicks\n", Whole::Other),
        ("\"date\",\"clicks\"\n", Whole::Other),
        ("<html>", Whole::Other),
        ("17", Whole::Other),
        ("{\"a\":1", Whole::Broken),
        ("{\"a\" 1}", Whole::Broken),
        ("{\"a\":1]", Whole::Broken),
        ("[1,,2]", Whole::Broken),
        ("[1 2]", Whole::Broken),
        ("{}x", Whole::Broken),
        ("{}\n{\"a\"", Whole::Broken),
    ] {
        for pieces in [1, 100] {
            assert_eq!(scanned(text.as_bytes(), &["a"], pieces).1, wanted, "{text:?}");
        }
    }
    let deep = [vec![b'['; 600], vec![b']'; 600]].concat();
    assert_eq!(scanned(&deep, &["a"], 9).1, Whole::Broken);
    let long = format!("{{\"a\":{:?}}}", "x".repeat(5_000));
    let (scan, whole) = scanned(long.as_bytes(), &["a"], 100);
    assert_eq!(whole, Whole::Yes);
    let value = &scan.found(&path("a")).unwrap().values[0];
    assert!(value.len() < 1_100 && value.ends_with('…'), "{} bytes", value.len());
}

fn rule(class: Class, tests: Vec<Test>) -> Rule {
    Rule {
        name: format!("answers.{}", class.as_str()),
        status: Vec::new(),
        tests,
        class,
        message: Some(Source::Body(path("message"))),
        wait: None,
        keep: false,
        breaks: false,
    }
}

fn body_is(at: &str, values: &[&str]) -> Test {
    Test::Is(Source::Body(path(at)), values.iter().map(|&value| value.to_owned()).collect())
}

fn judged(answers: &Arc<Answers>, format: Format, body: &[u8]) -> (bool, Looked) {
    let mut look = Look::new(answers, 200, &HeaderMap::new(), format, true);
    for piece in body.chunks(5) {
        look.take(piece);
    }
    let stores = look.end() != crate::store::Word::No;
    (stores, look.looked().unwrap())
}

#[test]
fn the_first_rule_that_fits_says_what_an_answer_is_and_why() {
    let rows = |at: &str| Rows::At(path(at));
    let rules = vec![
        rule(Class::Throttled, vec![body_is("code", &["40100", "50"])]),
        rule(Class::Permanent, vec![Test::Not(Source::Body(path("code")), vec!["0".into()])]),
        rule(Class::Empty, vec![body_is("status", &["NONE"])]),
        rule(Class::TooMuch, vec![Test::RowsFrom(rows("data.list"), 3)]),
        rule(Class::Incomplete, vec![Test::RowsBelow(rows("data.list"), path("data.total"))]),
        rule(Class::Transient, vec![Test::Absent(Source::Body(path("data")))]),
    ];
    let id = Some(Source::Body(path("request_id")));
    let answers = Arc::new(Answers::new(rules, Vec::new(), id));
    for (body, class, why) in [
        (
            json!({ "code": 40100, "message": "slow down" }),
            Some(Class::Throttled),
            "`code` in the body is 40100, by the rule answers.throttled: slow down",
        ),
        (
            json!({ "code": "7", "message": "no" }),
            Some(Class::Permanent),
            "`code` in the body is 7, by the rule answers.permanent: no",
        ),
        (
            json!({ "code": 0, "status": "NONE" }),
            Some(Class::Empty),
            "`status` in the body is NONE",
        ),
        (
            json!({ "code": 0, "data": { "list": [1, 2, 3] } }),
            Some(Class::TooMuch),
            "`data.list` has 3 rows, 3 or more",
        ),
        (
            json!({ "data": { "total": 5, "list": [1, 2] } }),
            Some(Class::Incomplete),
            "`data.list` has 2 rows of 5",
        ),
        (json!({ "data": { "list": [1, 2], "total": "2" } }), None, ""),
        (
            json!({ "code": 0, "data": null }),
            Some(Class::Transient),
            "`data` in the body is missing",
        ),
        (json!({ "data": 1 }), None, ""),
    ] {
        let mut body = body;
        body["request_id"] = "r-1".into();
        let (stores, looked) = judged(&answers, Format::Json, body.to_string().as_bytes());
        assert_eq!(looked.verdict.as_ref().map(|verdict| verdict.class), class, "{body}");
        assert_eq!(stores, matches!(class, None | Some(Class::Ok | Class::Empty)), "{body}");
        assert_eq!(looked.request_id.as_deref(), Some("r-1"));
        let told = looked.verdict.map(|verdict| verdict.why).unwrap_or_default();
        assert!(told.contains(why), "{body}: {told}");
    }
}

#[test]
fn json_that_breaks_off_is_judged_by_what_was_found_and_else_cannot_be() {
    let rules = vec![
        rule(Class::Permanent, vec![body_is("error", &[])]),
        rule(Class::Incomplete, vec![body_is("truncated", &["true"])]),
    ];
    let answers = Arc::new(Answers::new(rules, Vec::new(), None));
    let verdict = |format, body: &str| {
        let (stores, looked) = judged(&answers, format, body.as_bytes());
        looked.verdict.map_or((stores, None), |verdict| (stores, Some(verdict.code)))
    };
    let (refused, unreadable) = (Some(Code::AnswerRefused), Some(Code::AnswerUnreadable));
    assert_eq!(verdict(Format::Json, r#"{"error":{"code":1},"x":"#), (false, refused));
    assert_eq!(verdict(Format::Json, r#"{"data":[1,2"#), (false, unreadable));
    assert_eq!(verdict(Format::Json, "<html>"), (false, unreadable));
    assert_eq!(verdict(Format::Json, r#"{"data":[1,2]}"#), (true, None));
    assert_eq!(verdict(Format::Json, ""), (true, None));
    // A table is no JSON and says nothing in it; an error in JSON in its place does.
    assert_eq!(verdict(Format::Csv, "date,clicks\n1,2\n"), (true, None));
    assert_eq!(verdict(Format::Csv, r#"{"error":"no"}"#), (false, refused));
}

#[test]
fn tables_are_judged_by_their_rows_and_columns() {
    let mut full = rule(Class::Incomplete, vec![Test::RowsFrom(Rows::OfBody, 2)]);
    full.keep = true;
    let none = rule(Class::Empty, vec![Test::RowsTo(Rows::OfBody, 0)]);
    let blank = rule(Class::Permanent, vec![Test::Blank]);
    let columns = vec!["date".to_owned(), "clicks".to_owned()];
    let answers = Arc::new(Answers::new(vec![blank, full, none], columns, None));
    for (body, stores, class, code) in [
        ("", false, Some(Class::Permanent), Some(Code::AnswerRefused)),
        ("date,clicks\n", true, Some(Class::Empty), Some(Code::AnswerRefused)),
        ("date,clicks\n1,\"a\nb\"\n", true, None, None),
        ("date,clicks\n1,1\r\n2,2", true, Some(Class::Incomplete), Some(Code::AnswerIncomplete)),
        ("\u{feff}clicks;date\n1;1\n", true, None, None),
        ("date\tclick\n1\t1\n", false, Some(Class::Permanent), Some(Code::ColumnsMissing)),
    ] {
        let (stored, looked) = judged(&answers, Format::Csv, body.as_bytes());
        assert_eq!(stored, stores, "{body:?}: {looked:?}");
        assert_eq!(looked.verdict.as_ref().map(|verdict| verdict.class), class, "{body:?}");
        assert_eq!(looked.verdict.as_ref().map(|verdict| verdict.code), code, "{body:?}");
    }
    let ndjson = Arc::new(Answers::new(
        vec![rule(Class::TooMuch, vec![Test::RowsFrom(Rows::OfBody, 3)])],
        Vec::new(),
        None,
    ));
    for (body, class) in [
        ("{}\n{}\n{}\n", Some(Class::TooMuch)),
        ("{}\n{}\n", None),
        ("[{},{},{}]", Some(Class::TooMuch)),
        ("[[],[1,2,3]]", None),
    ] {
        let (_, looked) = judged(&ndjson, Format::Ndjson, body.as_bytes());
        assert_eq!(looked.verdict.map(|verdict| verdict.class), class, "{body}");
    }
}

#[test]
fn a_bad_status_stays_bad_unless_a_rule_names_it() {
    let blank = rule(Class::Empty, vec![Test::Blank]);
    let none = rule(Class::Empty, vec![Test::RowsTo(Rows::OfBody, 0)]);
    let code = rule(Class::Permanent, vec![body_is("code", &[])]);
    let else_ = rule(Class::Permanent, Vec::new());
    let named = Rule { status: vec![(404, 404)], ..blank.clone() };
    let page = Rule { status: vec![(200, 200)], ..none.clone() };
    let kind = Test::ContentType(vec!["text/html".into()]);
    let typed = Rule { tests: vec![kind], ..page.clone() };
    for (rule, status, is_good, is_for) in [
        (&blank, 200, true, true),
        (&blank, 503, false, false),
        (&none, 200, true, true),
        (&none, 500, false, false),
        (&code, 200, true, true),
        (&code, 500, false, true),
        (&else_, 200, true, true),
        (&else_, 502, false, false),
        (&named, 404, false, true),
        (&named, 200, true, false),
        // A page of HTML where data is expected.
        (&page, 200, false, false),
        (&typed, 200, false, true),
    ] {
        assert_eq!(rule.is_for(status, is_good), is_for, "{status} {rule:?}");
    }
}
