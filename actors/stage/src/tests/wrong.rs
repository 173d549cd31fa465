//! Data that is wrong: each is a clear entry of the quarantine, and what is right beside it is kept.

use super::*;

fn numbers() -> Table {
    table(Format::Ndjson, &[("n", "int64"), ("d", "decimal(5,2)")])
}

/// The only reason, with the record it is of; the rows beside it are there.
fn one_bad(table: &Table, bytes: impl AsRef<[u8]>, rows: u64) -> (u64, String) {
    let staged = stage(table, vec![input("a.ndjson", bytes), input("b.ndjson", "{\"n\":7}\n")]);
    assert_eq!(staged.report.rows, rows + 1, "{:?}", staged.bad);
    assert_eq!(staged.bad.len(), 1, "{:?}", staged.bad);
    assert_eq!(staged.bad[0]["source"], "a.ndjson");
    (staged.bad[0]["record"].as_u64().unwrap(), staged.reasons()[0].clone())
}

#[test]
fn a_truncated_line_is_told_and_the_next_is_read() {
    let (record, reason) = one_bad(&numbers(), "{\"n\":1}\n{\"n\":\n{\"n\":3}\n", 2);
    assert_eq!((record, reason.as_str()), (2, "Truncated record whilst reading value"));
    let (record, reason) = one_bad(&numbers(), "{\"n\":1}\n{\"n\":2", 1);
    assert_eq!(record, 2);
    assert!(reason.contains("Truncated"), "{reason}");
    // Two lines that would be one record together are none.
    let staged = stage(&numbers(), vec![input("a.ndjson", "{\"n\":\n1}\n")]);
    assert_eq!((staged.report.rows, staged.bad.len()), (0, 2), "{:?}", staged.bad);
}

#[test]
fn a_line_over_the_bound_is_told_however_small_its_input_is() {
    let long = "x".repeat(2_500);
    let long = format!("{long}\",\"e\":\"{long}");
    let lines = format!("{{\"n\":1}}\n{{\"n\":2,\"c\":\"{long}\"}}\n{{\"n\":3}}\n");
    let staged = try_stage(&numbers(), &small(), vec![input("a.ndjson", &lines)]).unwrap();
    assert_eq!((staged.report.rows, staged.bad.len()), (2, 1), "{:?}", staged.bad);
    assert_eq!(staged.reasons(), ["the record is larger than 4096 bytes"]);
}

#[test]
fn a_csv_with_spaces_between_its_fields_ends_where_it_ends() {
    let mut table = table(Format::Csv, &[("n", "int64"), ("m", "int64")]);
    for separator in [b' ', b'|', b';'] {
        table.separator = separator;
        let text = "n m\n1 2\n3 4\n".replace(' ', char::from(separator).to_string().as_str());
        let staged = stage(&table, vec![input("a.csv", &text)]);
        assert_eq!((staged.report.rows, staged.bad.len()), (2, 0), "{:?}", staged.bad);
    }
}

#[test]
fn a_text_that_no_folder_can_be_called_by_is_told() {
    let mut table = table(Format::Ndjson, &[("n", "int64"), ("c", "string")]);
    table.partition = vec![1];
    let text = |n: u32, c: &str| format!("{{\"n\":{n},\"c\":\"{c}\"}}\n");
    // With the name and the equals sign 255 bytes, and 256; signs that are encoded take three.
    let text = [
        text(1, &"x".repeat(253)),
        text(2, &"x".repeat(254)),
        text(3, &"/".repeat(84)),
        text(4, &"/".repeat(85)),
    ];
    let staged = stage(&table, vec![input("a.ndjson", text.concat())]);
    let told: Vec<_> = staged.bad.iter().map(|bad| bad["record"].as_u64()).collect();
    assert_eq!((staged.report.rows, told), (2, vec![Some(2), Some(4)]), "{:?}", staged.bad);
    assert!(staged.reasons()[0].contains("more than 255 bytes"), "{:?}", staged.reasons());
}

#[test]
fn a_truncated_document_keeps_what_came_before() {
    let table = offers();
    for (number, at) in [40, 200, OFFERS.len() - 2].into_iter().enumerate() {
        let staged = stage(&table, vec![input("a.json", &OFFERS[..at])]);
        assert_eq!(staged.bad.len(), 1, "{at}: {:?}", staged.bad);
        assert!(staged.reasons()[0].starts_with("the text breaks off"), "{:?}", staged.reasons());
        assert_eq!(staged.report.rows, [0, 3, 5][number]);
    }
    for (text, reason) in [
        ("", "there is nothing in it"),
        (" \n", "there is nothing in it"),
        ("{\"data\":{}}", "there is no `data.offers[]`"),
        ("<html>", "this is not JSON"),
        ("{\"data\":{\"offers\":7}}", "`data.offers` is not a list"),
        ("{\"data\":{\"offers\":[7]}}", "a record is not an object"),
        ("{\"data\":{\"offers\":[null]}}", "a record is not an object"),
    ] {
        let staged = stage(&table, vec![input("a.json", text)]);
        assert_eq!((staged.report.rows, staged.bad.len()), (0, 1), "{text}: {:?}", staged.bad);
        assert!(staged.reasons()[0].starts_with(reason), "{text}: {:?}", staged.reasons());
    }
    // No records are none, and that is no fault.
    for text in ["{\"data\":{\"offers\":[]}}", "{\"data\":null}", "{\"data\":{\"offers\":null}}"] {
        let staged = stage(&table, vec![input("a.json", text)]);
        assert_eq!((staged.report.rows, staged.bad.len()), (0, 0), "{text}: {:?}", staged.bad);
    }
}

#[test]
fn mixed_types_are_told_with_the_value() {
    let table = numbers();
    for (value, reason) in [
        ("\"x\"", "`x` is not a number (int64)"),
        ("1.5", "`1.5` is not a whole number (int64)"),
        ("true", "`true` is not a number (int64)"),
        ("{\"a\":[1]}", "whilst decoding field 'n': expected string got {\"a\": [1]}"),
        ("[1]", "whilst decoding field 'n': expected string got [1]"),
        ("9223372036854775808", "`9223372036854775808` is more than 64 bits hold (int64)"),
    ] {
        let (record, told) =
            one_bad(&table, format!("{{\"n\":1}}\n{{\"n\":{value}}}\n{{\"n\":3}}\n"), 2);
        assert_eq!((record, told.as_str()), (2, reason));
    }
    // A list where an object was, and the other way round.
    let (record, told) = one_bad(&table, "{\"n\":1}\n[{\"n\":2}]\n", 1);
    assert_eq!((record, told.as_str()), (2, "a record is not an object"));
    let mut exploded = offers();
    exploded.records.clear();
    let text = "{\"id\":1,\"legs\":{\"from\":\"X\"}}";
    let staged = stage(&exploded, vec![input("a.json", text)]);
    assert_eq!(
        staged.reasons(),
        ["whilst decoding field 'legs': expected [ got {\"from\": \"X\"}"]
    );
}

#[test]
fn a_decimal_that_does_not_fit_is_not_rounded() {
    for (value, reason) in [
        ("1000", "`1000` has too many digits (decimal(5,2))"),
        ("0.125", "`0.125` has too many digits behind the point (decimal(5,2))"),
        ("1e40", "`1e40` has too many digits (decimal(5,2))"),
    ] {
        let (record, told) = one_bad(&numbers(), format!("{{\"n\":1}}\n{{\"d\":{value}}}\n"), 1);
        assert_eq!((record, told.as_str()), (2, reason));
    }
}

#[test]
fn a_hundred_thousand_fields_are_read_past_or_told() {
    let many: String = (0..100_000).map(|n| format!(",\"f{n}\":{n}")).collect();
    let text = format!("{{\"n\":1}}\n{{\"n\":2{many}}}\n{{\"n\":3}}\n");
    let bounds = Bounds { record_bytes_max: 4 << 20, ..small() };
    let mut table = numbers();
    let staged = try_stage(&table, &bounds, vec![input("a.ndjson", &text)]).unwrap();
    assert_eq!((staged.report.rows, staged.bad.len()), (3, 0));
    table.unknown = Unknown::Add;
    let staged = try_stage(&table, &bounds, vec![input("a.ndjson", &text)]).unwrap();
    assert_eq!(staged.report.rows, 2);
    assert_eq!(staged.reasons(), ["its fields would make more than 2000 columns"]);
}

#[test]
fn deep_nesting_ends_nothing() {
    let nest = |levels: usize| format!("{}1{}", "[".repeat(levels), "]".repeat(levels));
    let bounds = Bounds { record_bytes_max: 4 << 20, document_bytes_max: 4 << 20, ..small() };
    let table = numbers();
    // Where no column looks it is read past.
    let text = format!("{{\"x\":{},\"n\":1}}\n", nest(200));
    let staged = try_stage(&table, &bounds, vec![input("a.ndjson", &text)]).unwrap();
    assert_eq!((staged.report.rows, staged.bad.len()), (1, 0));
    // Where one does it is told, however deep.
    for levels in [200, 2_000, 90_000, 1_000_000] {
        for place in ["x", "n"] {
            for key in ["a.ndjson", "a.json"] {
                let text =
                    format!("{{\"n\":5}}\n{{\"{place}\":{},\"d\":1}}\n{{\"n\":6}}\n", nest(levels));
                let table = Table { format: None, ..table.clone() };
                let staged = try_stage(&table, &bounds, vec![input(key, &text)]).unwrap();
                if place == "n" {
                    assert_eq!(staged.bad.len(), 1, "{levels} {key}: {:?}", staged.reasons());
                }
                let all = staged.report.rows + staged.bad.len() as u64;
                // A document is not read behind what is no JSON.
                assert!(all == 3 || (key == "a.json" && all == 2), "{levels} {key}: {all}");
            }
        }
    }
}

#[test]
fn nul_and_what_is_not_utf8_are_told() {
    let (record, reason) = one_bad(&numbers(), b"{\"n\":1}\n{\"n\":\0 2}\n{\"n\":3}\n", 2);
    assert_eq!((record, reason.as_str()), (2, "there is a NUL byte in it"));
    let mut text = numbers();
    text.columns.push(column("t", "string"));
    let (record, reason) = one_bad(&text, b"{\"n\":1}\n{\"t\":\"\xff\xfe\"}\n{\"n\":3}\n", 2);
    assert_eq!((record, reason.as_str()), (2, "Encountered non-UTF-8 data"));
    // Escaped it is a text as any other.
    let staged = stage(&text, vec![input("a.ndjson", "{\"t\":\"a\\u0000b\"}\n")]);
    assert_eq!(staged.rows(), ["{\"t\":\"a\\u0000b\"}"]);
    let csv = Table { format: Some(Format::Csv), ..text };
    let staged = stage(&csv, vec![input("a.csv", b"n,t\n1,a\n2,\xff\n3,\0\n4\n5,e\n")]);
    assert_eq!(staged.report.rows, 2);
    let wanted =
        ["it is not UTF-8", "there is a NUL byte in it", "1 fields where the first line has 2"];
    assert_eq!(staged.reasons(), wanted);
    let lines: Vec<u64> = staged.bad.iter().map(|bad| bad["record"].as_u64().unwrap()).collect();
    assert_eq!(lines, [3, 4, 5]);
}

#[test]
fn a_record_larger_than_the_bound_is_told_and_not_held() {
    let large = "x".repeat(3 << 20);
    let lines = format!("{{\"n\":1}}\n{{\"n\":2,\"x\":\"{large}\"}}\n{{\"n\":3}}\n");
    let (record, reason) = one_bad(&numbers(), &lines, 2);
    assert_eq!((record, reason.as_str()), (2, "the record is larger than 4096 bytes"));
    // At the end of the input too, and where no line is complete.
    let (_, reason) = one_bad(&numbers(), format!("{{\"n\":1}}\n{{\"x\":\"{large}"), 1);
    assert_eq!(reason, "the record is larger than 4096 bytes");
    let json = Table { format: Some(Format::Json), ..numbers() };
    let (record, reason) = one_bad(&json, &lines, 1);
    assert_eq!(record, 2);
    assert!(reason.contains("larger than 4096 bytes; nothing is read from here on"), "{reason}");
    let csv = Table { format: Some(Format::Csv), ..numbers() };
    let staged = stage(&csv, vec![input("a.csv", format!("n,d\n1,1\n2,\"{large}"))]);
    assert_eq!(staged.report.rows, 1);
    assert!(staged.reasons()[0].contains("larger than 4096 bytes"), "{:?}", staged.reasons());
}

#[test]
fn a_broken_compression_keeps_what_came_before() {
    let lines: String = (0..200_000).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    let zst = zstd::encode_all(lines.as_bytes(), 1).unwrap();
    let staged = stage(&numbers(), vec![input("a.ndjson.zst", &zst[..zst.len() / 2])]);
    assert!(staged.report.rows > 0);
    let last = staged.reasons().last().unwrap().clone();
    assert!(last.starts_with("it cannot be decompressed"), "{last}");
    let staged = stage(&numbers(), vec![input("a.ndjson.gz", "no gzip")]);
    assert!(staged.reasons()[0].starts_with("it cannot be decompressed"));
}

#[test]
fn a_place_that_cannot_be_read_is_no_fault_of_the_data() {
    struct Fails(u32);
    impl io::Read for Fails {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0 += 1;
            match self.0 {
                1 => {
                    buffer[..2].copy_from_slice(b"{\"");
                    Ok(2)
                }
                _ => Err(io::Error::other("the store is away")),
            }
        }
    }
    let mut away = input("a.ndjson", "");
    away.bytes = Box::new(Fails(0));
    let failed = try_stage(&numbers(), &small(), vec![away]).map(|_| ()).unwrap_err();
    assert_eq!(failed.halt.to_string(), "a.ndjson: it cannot be read: the store is away");
}

#[test]
fn a_csv_without_its_columns_is_told_once() {
    let csv = Table { format: Some(Format::Csv), ..numbers() };
    let staged = stage(&csv, vec![input("a.csv", "x,y\n1,2\n"), input("b.csv", "n,n\n1,2\n")]);
    assert_eq!(
        staged.reasons(),
        ["no column of the table is in the first line", "two columns are called `n`"]
    );
    let staged = stage(&Table { format: None, ..csv }, vec![input("a.bin", "x")]);
    assert!(staged.reasons()[0].contains("declare `format`"));
}

#[test]
fn a_csv_tells_the_line_of_what_is_wrong() {
    let mut csv = Table { format: Some(Format::Csv), ..numbers() };
    csv.columns.push(column("t", "string"));
    // A blank line, a line of other fields, and a line within quotes before each.
    let text = "n,d,t\n\n1,1,\"a\nb\"\n2,2\nx,3,c\n\n\n4,y,\"\r\n\"\r\nz,5,d\r\n";
    let staged = stage(&csv, vec![input("a.csv", text)]);
    assert_eq!(staged.report.rows, 1);
    let mut told: Vec<_> = staged.bad.iter().map(|bad| bad["record"].as_u64().unwrap()).collect();
    told.sort_unstable();
    assert_eq!(told, [5, 6, 9, 11], "{:?}", staged.bad);
    // Rows of no bytes, more than one piece has.
    let text = format!("n,d,t\n{}", "\"\"\n".repeat(20_000));
    let staged = stage(&csv, vec![input("a.csv", text)]);
    assert_eq!((staged.report.rows, staged.bad.len()), (0, 20_000));
}

#[test]
fn a_csv_that_ends_within_quotes_is_told() {
    let csv = Table { format: Some(Format::Csv), ..numbers() };
    for (text, rows, bad) in [
        ("n,d\n1,1\n2,\"2\n3,3\n", 1, Some(3)),
        ("n,d\n1,1\n2,\"", 1, Some(3)),
        ("n,\"d\n1,1\n", 0, Some(1)),
        ("n,d\n1,1\n\"2\",\"2\"", 2, None),
        ("n,d\n1,1\n\"2\",\"2\"\r\n", 2, None),
        ("n,d\r1,1\r2,2\r", 2, None),
        ("n,d\n1,1\n2,2\n\n\n", 2, None),
        ("n,d\n", 0, None),
        ("", 0, None),
    ] {
        let staged = stage(&csv, vec![input("a.csv", text)]);
        assert_eq!(staged.report.rows, rows, "{text:?}: {:?}", staged.bad);
        let told: Vec<_> = staged.bad.iter().map(|bad| bad["record"].as_u64().unwrap()).collect();
        assert_eq!(told, bad.into_iter().collect::<Vec<_>>(), "{text:?}: {:?}", staged.bad);
        if bad.is_some() {
            assert!(staged.reasons()[0].contains("do not end"), "{:?}", staged.reasons());
            let raw = staged.bad[0]["raw"].as_str().unwrap();
            assert!(!raw.contains('\0'), "{raw:?}");
        }
    }
}

#[test]
fn a_csv_with_a_field_that_no_column_takes_is_quarantined_where_a_record_is() {
    let mut csv = Table { format: Some(Format::Csv), unknown: Unknown::Quarantine, ..numbers() };
    let staged = stage(&csv, vec![input("a.csv", "n,d,e\n1,1,1\n"), input("b.csv", "n,d\n2,2\n")]);
    assert_eq!((staged.report.rows, staged.bad.len()), (1, 1));
    assert_eq!(staged.reasons(), ["no column takes `e`: no row of it is taken"]);
    csv.unknown = Unknown::Refuse;
    let failed = try_stage(&csv, &small(), vec![input("a.csv", "n,d,e\n1,1,1\n")]).map(|_| ());
    assert!(matches!(failed.unwrap_err().halt, Halt::Refused(_)));
}

proptest::proptest! {
    /// Whatever the bytes, nothing ends the process, and every line is a row or is told.
    #[test]
    fn any_bytes_are_rows_or_told(
        bytes in proptest::collection::vec(proptest::sample::select(&b"{}[]\":,n1d.e-\\ \n\0\xff\xc3u"[..]), 0..200),
    ) {
        for format in [Format::Json, Format::Ndjson, Format::Csv] {
            let table = Table { format: Some(format), ..numbers() };
            let staged = stage(&table, vec![input("a", &bytes)]);
            if format == Format::Ndjson {
                let lines = bytes.split(|byte| *byte == b'\n');
                let lines = lines.filter(|line| !line.trim_ascii().is_empty()).count();
                proptest::prop_assert_eq!(staged.report.rows as usize + staged.bad.len(), lines);
            }
        }
    }
}
