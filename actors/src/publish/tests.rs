use std::fmt::Write as _;
use std::io::BufRead;

use serde_json::{Value, json};

use super::*;
use crate::config;
use crate::recipe::check_fetch;

/// A plan as a publisher's machine has it.
fn bare() -> Plan {
    config::load_to_publish(None, std::iter::empty(), &[]).unwrap().plan
}

/// A plan of one platform `p` with an api `x` that takes `since`.
fn whole() -> Plan {
    let overrides = [
        ("platforms.p.base_url".to_owned(), "https://api.example.com/".to_owned()),
        ("platforms.p.apis.x.path".to_owned(), "{account}/{since}".to_owned()),
    ];
    config::load(None, std::iter::empty(), &overrides).unwrap().plan
}

/// Every record as its line with the stored JSON, or with code and reason.
fn records(plan: &Plan, format: Format, input: &[u8]) -> Vec<(u64, Result<Value, String>)> {
    read(plan, "f", format, input)
        .unwrap()
        .map(|record| {
            let record = record.unwrap();
            let fetch = record.fetch.map(|fetch| serde_json::from_slice(&fetch.payload).unwrap());
            (record.place.line, fetch.map_err(|refusal| refusal.to_string()))
        })
        .collect()
}

fn header_error(header: &str) -> String {
    let error = read(&bare(), "f.csv", Format::Csv, header.as_bytes()).unwrap_err();
    assert_eq!(error.code(), Code::BadCsvHeader, "{error}");
    error.to_string()
}

/// Gives one byte at a time, with an interruption before each.
struct Slow<'a>(&'a [u8], bool);

impl Read for Slow<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.1 = !self.1;
        if self.1 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let some = buffer.len().min(1);
        Read::read(&mut self.0, &mut buffer[..some])
    }
}

#[test]
fn a_csv_gives_the_fetches_that_the_same_json_lines_give() {
    let csv = "\u{feff}id,platform,account,api,not_before,deadline,once,priority,params.since,params.n:json,labels.t\r\n\
        f1,p,\"a,\"\"b\"\"\",x,2026-11-20T03:00:00Z,2026-11-20T12:00:01+09:00,true,low,007,9007199254740993,acme\r\n\
        \r\n\
        ,p,두 글,x,,,,,\"two\r\nlines\",\"[\"\"1\"\",2]\",\r\n\
        ,,,,,,,,, ,\r\n\
        f3, p ,c,x,,,false,normal,,,";
    let lines = "\u{feff}{\"id\":\"f1\",\"platform\":\"p\",\"account\":\"a,\\\"b\\\"\",\"api\":\"x\",\
        \"not_before\":\"2026-11-20T03:00:00Z\",\"deadline\":\"2026-11-20T03:00:01Z\",\"once\":true,\"priority\":\"low\",\
        \"params\":{\"since\":\"007\",\"n\":9007199254740993},\"labels\":{\"t\":\"acme\"}}\r\n\
        {\"platform\":\"p\",\"account\":\"두 글\",\"api\":\"x\",\"params\":{\"since\":\"two\\r\\nlines\",\"n\":[\"1\",2]}}\r\n\
        \r\n\
        {\"id\":\"f3\",\"platform\":\"p\",\"account\":\"c\",\"api\":\"x\"}";
    let from_csv = records(&bare(), Format::Csv, csv.as_bytes());
    let from_lines = records(&bare(), Format::JsonLines, lines.as_bytes());
    assert_eq!(from_csv.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 4, 7]);
    assert_eq!(from_lines.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [1, 2, 4]);
    assert_eq!(from_csv.len(), 3);
    for ((_, a), (_, b)) in from_csv.iter().zip(&from_lines) {
        assert_eq!(a.as_ref().unwrap(), b.as_ref().unwrap());
    }
    // Whatever pieces it comes in.
    let slow: Vec<_> = read(&bare(), "f", Format::Csv, Slow(csv.as_bytes(), false))
        .unwrap()
        .map(|record| record.unwrap())
        .map(|record| (record.place.line, record.fetch.unwrap().id))
        .collect();
    let ids = from_csv.iter().map(|(line, fetch)| (*line, fetch.as_ref().unwrap()["id"].clone()));
    assert_eq!(
        slow.into_iter().map(|(line, id)| (line, json!(id))).collect::<Vec<_>>(),
        ids.collect::<Vec<_>>()
    );
}

#[test]
fn lines_are_counted_with_either_end_and_over_empty_and_broken_ones() {
    for end in ["\n", "\r\n"] {
        let rows = [
            "",
            "id,platform,account,api",
            "",
            "1,p,a,x",
            "",
            "",
            "2,p,a",
            "3,p,\"a",
            "b\",x",
            "4,p,a,x",
        ];
        for last in ["", end] {
            let text = rows.join(end) + last;
            let found: Vec<_> = records(&bare(), Format::Csv, text.as_bytes());
            let shown: Vec<_> = found
                .iter()
                .map(|(line, fetch)| {
                    let shown = fetch.as_ref().map_or_else(
                        |error| error.get(..6).unwrap().to_owned(),
                        |fetch| fetch["id"].as_str().unwrap().to_owned(),
                    );
                    format!("{line} {shown}")
                })
                .collect();
            assert_eq!(shown, ["4 1", "7 TG0127", "8 3", "10 4"], "{end:?} {last:?}");
        }
    }
}

#[test]
fn a_row_that_is_no_fetch_is_refused_and_stops_nothing() {
    let csv = "id,platform,account,api,not_before,once,priority,params.n:json,fresh_for\n\
        a,p,a,x,tomorrow,,,,\n\
        b,p,a,x,,yes,,,\n\
        c,p,a,x,,,urgent,,\n\
        d,p,a,x,,,,abc,\n\
        e,,a,x,,,,,\n\
        f,p,,x,,,,,\n\
        g,p,a,,,,,,\n\
        h,P,a,x,,,,,\n\
        i,p,a,x y,,,,,\n\
        j,p,a,x,,,,,10\n\
        k,p,a,x\n\
        l,p,a,x,,,,,,\n\
        m,p,\"a\n\",x\n";
    let mut bytes = csv.as_bytes().to_vec();
    bytes.extend_from_slice(b"n,p,\xff,x,,,,,\nz,p,a,x,,,,,\n");
    let found = records(&bare(), Format::Csv, &bytes);
    let wanted = [
        "TG0104: `not_before` must be a time such as 2026-11-20T03:00:00Z, not `tomorrow`",
        "TG0104: `once` must be true or false, not `yes`",
        "TG0104: `priority` must be high, normal or low, not `urgent`",
        "TG0104: `params.n` must be JSON (expected value at line 1 column 1), not `abc`",
        "TG0107: the fetch says no `platform`",
        "TG0107: the fetch says no `account`",
        "TG0107: the fetch says no `api`",
        "TG0105: platform: `P` is not a name",
        "TG0106: api: `x y` is not a name",
        "TG0104: `fresh_for` must be a length of time up to 8784h such as \"10m\", not `10`",
        "TG0127: the row has 4 cells, the header 9 columns",
        "TG0127: the row has 10 cells, the header 9 columns",
        "TG0127: the row has 4 cells, the header 9 columns; is a quote left open?",
        "TG0116: `account` is not UTF-8",
    ];
    assert_eq!(found.len(), wanted.len() + 1);
    for ((_, fetch), wanted) in found.iter().zip(wanted) {
        let error = fetch.as_ref().unwrap_err();
        assert!(error.starts_with(wanted), "{error}\n{wanted}");
    }
    assert_eq!(found.last().unwrap().1.as_ref().unwrap()["id"], "z");
}

#[test]
fn a_header_is_understood_as_a_whole_or_refused() {
    for (header, wanted) in [
        (
            "id,acount",
            "f.csv:1: unknown column `acount`; did you mean `account`? A parameter's column is named `params.acount` [TG0126]",
        ),
        ("since", "unknown column `since`; a parameter's column is named `params.since`"),
        ("\n\nID", "f.csv:3: unknown column `ID`; did you mean `id`?"),
        ("params", "column `params`: each has a column of its own, `params.NAME`"),
        ("id,,api", "column 2 has no name"),
        ("id, id ", "column `id` is there twice"),
        ("params.a,params.a:json", "column `params.a:json` is there twice"),
        ("params.", "names no parameter"),
        ("params.:json", "names no parameter"),
        ("labels.", "names no label"),
        ("params.a:int", "column `params.a:int` ends in neither"),
        ("params.a:", "column `params.a:` ends in neither"),
        ("id;platform", "columns are separated by commas, not by ';'"),
        ("id,\"api\nx\n", "a quote is never closed"),
    ] {
        let error = header_error(header);
        assert!(error.contains(wanted), "{error}\n{wanted}");
    }
    assert!(header_error(&"id,".repeat(1025)).contains("1026 columns, at most 1024"));
    assert!(records(&bare(), Format::Csv, b"").is_empty());
    assert!(records(&bare(), Format::Csv, b"\xef\xbb\xbf\r\n").is_empty());
    assert!(records(&bare(), Format::Csv, b"id,api").is_empty());
}

#[test]
fn a_quote_that_is_never_closed_ends_the_file_and_publishes_nothing_of_it() {
    let begin = "id,platform,account,api,params.a\r\n1,p,a,x,\r\n";
    let plan = bare();
    for rest in ["2,p,a,x,\"open\r\n3,p,a,x,\r\n", "2,p,a,x,\"open", "2,p,a,x,\""] {
        let text = begin.to_owned() + rest;
        let mut records = read(&plan, "f", Format::Csv, text.as_bytes()).unwrap();
        assert_eq!(records.next().unwrap().unwrap().fetch.unwrap().id, "1");
        let error = records.next().unwrap().unwrap_err();
        assert_eq!(error.code(), Code::BadCsvRow);
        assert!(error.to_string().starts_with("f:3: a quote that begins in this row"), "{error}");
        assert!(records.next().is_none());
    }
    // One that goes on for longer than a row may be is not held.
    let endless = io::Cursor::new(format!("{begin}2,p,a,x,\"open\n")).chain(io::repeat(b'a'));
    let mut records = read(&plan, "f", Format::Csv, endless).unwrap();
    assert!(records.next().unwrap().unwrap().fetch.is_ok());
    let error = records.next().unwrap().unwrap_err().to_string();
    assert!(error.contains("longer than 1048576 bytes"), "{error}");
    assert!(records.next().is_none());
}

#[test]
fn a_fetch_that_is_too_large_is_refused_and_the_next_read() {
    let long = "x".repeat(FETCH_BYTES_MAX);
    let csv = format!("id,platform,account,api,params.a\n1,p,a,x,{long}\n2,p,a,x,y\n");
    let lines = format!(
        "{{\"id\":\"1\",\"params\":{{\"a\":\"{long}\"}}}}\n{{\"id\":\"2\",\"platform\":\"p\",\"account\":\"a\",\"api\":\"x\"}}\n"
    );
    for (format, text) in [(Format::Csv, csv), (Format::JsonLines, lines)] {
        let found = records(&bare(), format, text.as_bytes());
        assert!(found[0].1.as_ref().unwrap_err().starts_with("TG0102: "), "{:?}", found[0]);
        assert_eq!(found[1].1.as_ref().unwrap()["id"], "2");
    }
}

#[test]
fn a_file_of_many_rows_is_read_with_every_line_number_right() {
    let mut csv = String::from("id,platform,account,api,params.a\n");
    for i in 0..50_000 {
        // Rows that end anywhere in the pieces that are read; every third has a line break in it.
        let cell = if i % 3 == 0 { "\"a\nb\"" } else { "a" };
        writeln!(csv, "{i},p,acc,x,{cell}").unwrap();
    }
    let starts: Vec<u64> = csv
        .as_bytes()
        .lines()
        .zip(1_u64..)
        .filter(|(line, _)| line.as_ref().unwrap().contains(",p,"))
        .map(|(_, number)| number)
        .collect();
    let plan = bare();
    let mut count = 0;
    for (record, start) in read(&plan, "f", Format::Csv, csv.as_bytes()).unwrap().zip(&starts) {
        let record = record.unwrap();
        assert_eq!(record.place.line, *start);
        assert_eq!(record.fetch.unwrap().id, count.to_string());
        count += 1;
    }
    assert_eq!(count, 50_000);
}

#[test]
fn a_plan_with_platforms_checks_as_a_node_does_and_one_without_the_form_only() {
    let unknown = br#"{"platform":"q","account":"a","api":"x","params":{"since":"1"}}"#;
    let good = br#"{"platform":"p","account":"a@b","api":"x","params":{"since":"1"}}"#;
    let reserved = br#"{"platform":"p","account":"a","api":"x","params":{"account":"1"}}"#;
    let text = [&unknown[..], good, reserved].join(&b'\n');
    let with = records(&whole(), Format::JsonLines, &text);
    let without = records(&bare(), Format::JsonLines, &text);
    assert!(with[0].1.as_ref().unwrap_err().starts_with("TG0105: there is no platform `q`"));
    assert!(without[0].1.is_ok());
    // The same id and the same bytes, whoever makes them.
    let node = check_fetch(&whole(), good).unwrap();
    assert_eq!(with[1], without[1]);
    assert_eq!(with[1].1.as_ref().unwrap()["id"], node.id.as_str());
    assert_eq!(node.message_id(), format!("p.a%40b.x:{}", node.id));
    assert!(with[2].1.as_ref().unwrap_err().starts_with("TG0112: "));
    assert!(without[2].1.as_ref().unwrap_err().starts_with("TG0112: "));
}

#[test]
fn a_form_is_told_by_name_or_extension() {
    for (path, format) in [
        ("a.csv", Some(Format::Csv)),
        ("dir.csv/a.JSONL", Some(Format::JsonLines)),
        ("a.ndjson", Some(Format::JsonLines)),
        ("a.json", Some(Format::JsonLines)),
        ("a.csv.gz", None),
        ("-", None),
    ] {
        assert_eq!(Format::of(Path::new(path)), format, "{path}");
    }
    assert!(Format::NAMES.iter().all(|name| Format::parse(name).is_some()));
    assert_eq!(Format::parse("xml"), None);
}

#[test]
fn an_input_that_breaks_off_is_an_error_with_its_place() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("the disk is gone"))
        }
    }
    let line = "{\"platform\":\"p\",\"account\":\"a\",\"api\":\"x\"}\n";
    let row = "platform,account,api\np,a,x\n";
    for (format, text, place) in [(Format::JsonLines, line, "f:2"), (Format::Csv, row, "f:3")] {
        let plan = bare();
        let mut records = read(&plan, "f", format, text.as_bytes().chain(Broken)).unwrap();
        assert!(records.next().unwrap().unwrap().fetch.is_ok());
        let error = records.next().unwrap().unwrap_err();
        assert_eq!(error.to_string(), format!("{place}: cannot be read: the disk is gone"));
        assert_eq!(error.code(), Code::InputUnreadable);
        assert!(records.next().is_none());
    }
}

proptest::proptest! {
    /// Whatever a CSV writer makes of cells, they come back, each row with the line it begins at.
    #[test]
    fn rows_come_back_as_a_writer_wrote_them(
        cells in proptest::collection::vec(("[a-z\"',;\n\r 가]{0,6}", "[x\"\n,]{0,3}"), 1..20),
        crlf in proptest::bool::ANY,
    ) {
        let mut writer = ::csv::WriterBuilder::new()
            .terminator(if crlf { ::csv::Terminator::CRLF } else { ::csv::Terminator::Any(b'\n') })
            .from_writer(Vec::new());
        writer.write_record(["platform", "account", "api", "params.a", "labels.b"]).unwrap();
        let mut starts = Vec::new();
        for (a, b) in &cells {
            writer.flush().unwrap();
            let lines = writer.get_ref().split(|byte| *byte == b'\n').count();
            starts.push(lines as u64);
            writer.write_record(["p", "a", "x", a, b]).unwrap();
        }
        let bytes = writer.into_inner().unwrap();
        let plan = bare();
        let found: Vec<_> = read(&plan, "f", Format::Csv, &bytes[..]).unwrap().collect();
        proptest::prop_assert_eq!(found.len(), cells.len());
        for ((record, (a, b)), start) in found.into_iter().zip(&cells).zip(starts) {
            let record = record.unwrap();
            let fetch = record.fetch.unwrap().fetch;
            proptest::prop_assert_eq!(record.place.line, start);
            let param = fetch.params.get("a").and_then(Value::as_str).unwrap_or_default();
            proptest::prop_assert_eq!(param, a.trim());
            let label = fetch.labels.get("b").map(String::as_str).unwrap_or_default();
            proptest::prop_assert_eq!(label, b.trim());
        }
    }
}
