//! What has a bound, and what is told there.

use super::*;

/// Two lists side by side, of which every pair is a row.
fn pairs() -> Table {
    let columns = [("id", "int64"), ("a.x", "int64"), ("b", "int64")];
    Table { explode: vec![path("a"), path("b")], ..table(Format::Ndjson, &columns) }
}

fn of_pairs(id: &str, count: usize) -> String {
    let a: Vec<String> = (0..count).map(|n| format!("{{\"x\":{n}}}")).collect();
    let b: Vec<String> = (0..count).map(|n| n.to_string()).collect();
    format!("{{\"id\":{id},\"a\":[{}],\"b\":[{}]}}\n", a.join(","), b.join(","))
}

#[test]
fn a_record_of_too_many_rows_is_told_and_the_others_are_taken() {
    let bounds = Bounds { record_bytes_max: 16 << 20, rows_max: 100_000, ..small() };
    // 10^10 rows of one record; 90,000 of another, in slices; lists that are not there.
    let text = [of_pairs("1", 2), of_pairs("2", 100_000), of_pairs("3", 300), of_pairs("4", 0)];
    let staged = try_stage(&pairs(), &bounds, vec![input("a.ndjson", text.concat())]).unwrap();
    assert_eq!(staged.report.rows, 4 + 90_000 + 1);
    assert_eq!(staged.reasons(), ["its lists give 10000000000 rows, more than 100000"]);
    assert_eq!(staged.bad[0]["record"], 2);
    let rows = staged.rows();
    assert_eq!(rows[0], "{\"id\":1,\"a_x\":0,\"b\":0}");
    assert_eq!(rows[3], "{\"id\":1,\"a_x\":1,\"b\":1}");
    assert_eq!(rows[4 + 301], "{\"id\":3,\"a_x\":1,\"b\":1}");
    assert_eq!(rows[4 + 89_999], "{\"id\":3,\"a_x\":299,\"b\":299}");
    assert_eq!(rows[90_004], "{\"id\":4}");
    // A list in a list counts as what is in it.
    let text = OFFERS.replace('\n', "");
    let bounds = Bounds { rows_max: 2, ..small() };
    let staged = try_stage(&offers(), &bounds, vec![input("a.json", &text)]).unwrap();
    assert_eq!(staged.reasons(), ["its lists give 3 rows, more than 2"]);
    assert_eq!(staged.rows(), OFFER_ROWS[3..]);
}

#[test]
fn rows_that_repeat_a_long_text_are_made_some_at_a_time() {
    let mut table = table(Format::Ndjson, &[("t", "string"), ("a.x", "int64"), ("k", "string")]);
    table.explode = vec![path("a")];
    table.columns[2].from = From::Input("k".to_owned());
    let shaper = Arc::new(crate::shape::Shaper::new(Arc::new(table.clone())).unwrap());
    let bounds = Bounds { record_bytes_max: 1 << 20, ..small() };
    let largest = |body: crate::piece::Body, input: usize| {
        let (mut largest, mut rows) = (0, 0);
        let values = vec![None, None, Some("k".repeat(input))];
        let facts = Arc::new(crate::piece::Facts { key: "a".to_owned(), values });
        let piece = crate::piece::Piece { input: facts, first: 1, offset: 0, body };
        let mut send = |made: crate::work::Made| {
            let bytes = |(_, batch): &(String, RecordBatch)| batch.get_array_memory_size();
            largest = largest.max(made.parts.iter().map(bytes).sum::<usize>());
            rows += made.parts.iter().map(|(_, batch)| batch.num_rows()).sum::<usize>();
            Ok(())
        };
        crate::work::Worker::new(&shaper, &bounds).work(piece, &mut send).unwrap();
        (largest, rows)
    };
    // 200 MB of one text in 1,000 rows.
    let list: Vec<String> = (0..1_000).map(|n| format!("{{\"x\":{n}}}")).collect();
    let line = format!("{{\"t\":\"{}\",\"a\":[{}]}}\n", "t".repeat(200_000), list.join(","));
    let lines = crate::piece::Body::Lines(line.into_bytes());
    let (most, rows) = largest(lines, 1);
    assert_eq!(rows, 1_000);
    assert!((8 << 20..40 << 20).contains(&most), "{most}");
    // The same of what is said of an input, in JSON and in CSV.
    let lines = crate::piece::Body::Lines("{\"t\":\"\"}\n".repeat(1_000).into_bytes());
    let (most, rows) = largest(lines, 200_000);
    assert_eq!(rows, 1_000);
    assert!((8 << 20..40 << 20).contains(&most), "{most}");
    let texts = arrow_array::StringArray::from(vec!["1"; 1_000]);
    let columns = vec![Some(texts.clone()), Some(texts), None];
    let (most, rows) =
        largest(crate::piece::Body::Columns(columns, (2..).take(1_000).collect()), 200_000);
    assert_eq!(rows, 1_000);
    assert!((8 << 20..40 << 20).contains(&most), "{most}");
}

#[test]
fn a_value_that_does_not_fit_is_told_once_whatever_rows_it_stands_in() {
    let mut table = pairs();
    table.columns[1].required = true;
    let bounds = Bounds { record_bytes_max: 1 << 20, ..small() };
    let odd = of_pairs("3", 300).replace("{\"x\":7}", "{\"x\":\"no\"}").replace("{\"x\":9}", "{}");
    let text = [of_pairs("\"one\"", 300), of_pairs("2", 2), odd].concat();
    let staged = try_stage(&table, &bounds, vec![input("a.ndjson", &text)]).unwrap();
    assert_eq!(staged.report.rows, 4 + 298 * 300);
    let told: Vec<_> = staged.bad.iter().map(|bad| (&bad["record"], &bad["column"])).collect();
    assert_eq!(format!("{told:?}").matches("Number(3)").count(), 2, "{told:?}");
    assert_eq!(
        staged.reasons(),
        [
            "`one` is not a number (int64)",
            "`no` is not a number (int64)",
            "is required and not there"
        ]
    );
    // The record's text is told once, of another of its values only that.
    let raw = |at: usize| staged.bad[at]["raw"].as_str().map(str::len);
    assert!(raw(0) > Some(1_000) && raw(1) > Some(1_000) && raw(2).is_none(), "{:?}", staged.bad);
    // What is of the input is told once for each record.
    table.columns[0].from = From::Input("id".to_owned());
    let mut one = input("a.ndjson", [of_pairs("1", 30), of_pairs("2", 20)].concat());
    one.facts.insert("id".to_owned(), "one".to_owned());
    let staged = try_stage(&table, &bounds, vec![one]).unwrap();
    assert_eq!((staged.report.rows, staged.bad.len()), (0, 2), "{:?}", staged.bad);
}

#[test]
fn fields_that_are_values_and_objects_become_one_or_the_other() {
    let mut table = table(Format::Ndjson, &[("n", "int64")]);
    table.unknown = Unknown::Add;
    let until_done = |text: &str| {
        let mut table = table.clone();
        for _ in 0..8 {
            match try_stage(&table, &small(), vec![input("a.ndjson", text)]) {
                Ok(staged) => return staged,
                Err(Failed { halt: Halt::Change(change), .. }) => change.apply(&mut table),
                Err(failed) => panic!("{}", failed.halt),
            }
            check(&table).unwrap();
        }
        panic!("it changes again and again")
    };
    for (text, rows) in [
        ("{\"n\":1,\"x\":2}\n{\"n\":2,\"x\":{\"y\":3}}\n", ["{\"n\":1,\"x\":2}"]),
        ("{\"n\":2,\"x\":{\"y\":3}}\n{\"n\":1,\"x\":2}\n", ["{\"n\":2,\"x_y\":3}"]),
        ("{\"n\":2,\"a\":1}\n{\"n\":1,\"x\":2,\"x\":{\"y\":3}}\n", ["{\"n\":2,\"a\":1}"]),
    ] {
        let staged = until_done(text);
        assert_eq!(staged.rows(), rows);
        assert_eq!(staged.bad.len(), 1, "{text}: {:?}", staged.bad);
    }
    let reason = until_done("{\"n\":2,\"a\":1}\n{\"n\":1,\"x\":2,\"x\":{\"y\":3}}\n").reasons();
    assert_eq!(reason, ["`x` is an object in one place and a value in another"]);
    // Names that engines do not tell apart, and what is no name.
    let long = "l".repeat(300);
    let text = format!(
        "{{\"n\":1,\"Price\":2,\"price\":3,\"\":4,\"a\":{{\"\":5}},\"{long}\":6,\"N\":7}}\n"
    );
    let staged = until_done(&text);
    assert_eq!(staged.rows(), ["{\"n\":1,\"N_\":7,\"Price\":2,\"price_\":3}"]);
    // In one piece or in several: what one adds another knows.
    let many: String = (0..9_000)
        .map(|n| format!("{{\"n\":{n},\"f{}\":\"{}\"}}\n", n % 7, "x".repeat(200)))
        .collect();
    let staged = until_done(&many);
    assert_eq!((staged.report.rows, staged.bad.len()), (9_000, 0));
}

#[test]
fn whole_numbers_are_not_rounded_by_a_wider_type() {
    let mut table = table(Format::Ndjson, &[("n", "int32")]);
    table.mismatch = Mismatch::Widen;
    let text = "{\"n\":9007199254740993}\n{\"n\":1.5}\n";
    let staged = loop {
        match try_stage(&table, &small(), vec![input("a.ndjson", text)]) {
            Ok(staged) => break staged,
            Err(Failed { halt: Halt::Change(change), .. }) => change.apply(&mut table),
            Err(failed) => panic!("{}", failed.halt),
        }
    };
    assert_eq!(table.columns[0].kind, Kind::String);
    assert_eq!(staged.rows(), ["{\"n\":\"9007199254740993\"}", "{\"n\":\"1.5\"}"]);
    table = self::table(Format::Ndjson, &[("m", "int64")]);
    table.unknown = Unknown::Add;
    let text = "{\"m\":1,\"n\":123456789012345678901}\n";
    let Halt::Change(change) =
        try_stage(&table, &small(), vec![input("a.ndjson", text)]).map(|_| ()).unwrap_err().halt
    else {
        panic!("no change")
    };
    change.apply(&mut table);
    assert_eq!(
        stage(&table, vec![input("a.ndjson", text)]).rows(),
        ["{\"m\":1,\"n\":\"123456789012345678901\"}"]
    );
}

/// Files of which only so many may be open, and one of which fails at its end.
#[derive(Default)]
struct Few {
    to: Memory,
    open: Arc<Mutex<(usize, usize)>>,
    fails: Option<&'static str>,
    panics: bool,
}

struct One {
    held: Held,
    open: Arc<Mutex<(usize, usize)>>,
    fails: bool,
    panics: bool,
}

impl Drop for One {
    fn drop(&mut self) {
        self.open.lock().unwrap().0 -= 1;
    }
}

impl Write for One {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.held.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Out for One {
    fn finish(mut self: Box<Self>) -> io::Result<()> {
        assert!(!(self.fails && self.panics), "a file that panics");
        if self.fails {
            return Err(io::Error::other("the disk is full"));
        }
        let Held { to, path, bytes } = &mut self.held;
        to.0.lock().unwrap().insert(path.clone(), std::mem::take(bytes));
        Ok(())
    }
}

impl Files for Few {
    fn create(&self, path: &str) -> io::Result<Box<dyn Out>> {
        let mut open = self.open.lock().unwrap();
        open.0 += 1;
        open.1 = open.1.max(open.0);
        let held = Held { to: self.to.clone(), path: path.to_owned(), bytes: Vec::new() };
        let fails = self.fails.is_some_and(|end| path.contains(end));
        Ok(Box::new(One { held, open: Arc::clone(&self.open), fails, panics: self.panics }))
    }
}

fn in_partitions(files: &Few, bounds: &Bounds) -> Result<Report, Failed> {
    let mut table = table(Format::Ndjson, &[("n", "int64"), ("c", "int64")]);
    table.partition = vec![1];
    let lines: String = (0..400).map(|n| format!("{{\"n\":{n},\"c\":{}}}\n", n % 40)).collect();
    let job = Job {
        table: &table,
        name: "job",
        quarantine: "_quarantine/job.jsonl",
        files,
        bounds,
        on_thread: &|| {},
        stop: &AtomicBool::new(false),
    };
    run(&job, std::iter::once(Ok(input("a.ndjson", lines + "no\n"))))
}

#[test]
fn no_more_files_are_open_than_may_be() {
    for open_max in [1, 3] {
        let files = Few::default();
        let report = in_partitions(&files, &Bounds { open_max, ..small() }).unwrap();
        assert_eq!((report.rows, report.files.len(), report.quarantined), (400, 40, 1));
        // And the quarantine.
        assert!(files.open.lock().unwrap().1 <= open_max + 1, "{open_max}: {:?}", files.open);
    }
}

#[test]
fn files_that_are_visible_are_reported_when_the_others_are_not() {
    for panics in [false, true] {
        let files = Few { fails: Some("c=7/"), panics, ..Few::default() };
        let failed = in_partitions(&files, &small()).unwrap_err();
        let told = failed.halt.to_string();
        assert!(told.contains(if panics { "panicked" } else { "the disk is full" }), "{told}");
        let seen: Vec<String> = files.to.0.lock().unwrap().keys().cloned().collect();
        let mut visible: Vec<String> = failed.visible.into_iter().map(|file| file.path).collect();
        visible.sort();
        assert!(!seen.is_empty());
        assert_eq!(visible, seen);
        assert_eq!(files.open.lock().unwrap().0, 0);
    }
}

#[test]
fn paths_of_more_files_than_can_be_remembered_are_refused() {
    let path = "c=39/job-0001.parquet";
    let bounds = Bounds { paths_bytes_max: path.len() * 39, ..small() };
    let refused = in_partitions(&Few::default(), &bounds).unwrap_err();
    assert!(refused.halt.to_string().contains("partition by less"), "{}", refused.halt);
    let bounds = Bounds { paths_bytes_max: path.len() * 40, ..small() };
    in_partitions(&Few::default(), &bounds).unwrap();
}
