//! What the crate promises, seen from outside: bytes in, files read back, quarantine.

#![allow(clippy::unwrap_used, clippy::string_slice, clippy::format_collect)]

mod bounds;
mod merge;
mod wrong;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use arrow_array::RecordBatch;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::reader::ChunkReader;

use super::*;

/// Files in memory.
#[derive(Default, Clone)]
struct Memory(Arc<Mutex<BTreeMap<String, Vec<u8>>>>);

struct Held {
    to: Memory,
    path: String,
    bytes: Vec<u8>,
}

impl Write for Held {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Out for Held {
    fn finish(self: Box<Self>) -> io::Result<()> {
        self.to.0.lock().unwrap().insert(self.path, self.bytes);
        Ok(())
    }
}

impl Files for Memory {
    fn create(&self, path: &str) -> io::Result<Box<dyn Out>> {
        Ok(Box::new(Held { to: self.clone(), path: path.to_owned(), bytes: Vec::new() }))
    }
}

fn column(name: &str, kind: &str) -> Column {
    Column {
        name: name.replace('.', "_"),
        from: From::Path(path(name)),
        kind: Kind::of_name(kind).unwrap(),
        default: None,
        required: false,
    }
}

fn table(format: Format, columns: &[(&str, &str)]) -> Table {
    Table {
        format: Some(format),
        records: Vec::new(),
        explode: Vec::new(),
        columns: columns.iter().map(|(name, kind)| column(name, kind)).collect(),
        partition: Vec::new(),
        sort: Vec::new(),
        unknown: Unknown::Ignore,
        mismatch: Mismatch::Quarantine,
        nulls: Vec::new(),
        separator: b',',
    }
}

fn small() -> Bounds {
    Bounds { workers: 2, record_bytes_max: 4096, document_bytes_max: 1024, ..Bounds::default() }
}

struct Staged {
    report: Report,
    files: BTreeMap<String, Vec<u8>>,
    bad: Vec<serde_json::Value>,
}

impl Staged {
    /// Every row of every file as JSON, in order of the files.
    fn rows(&self) -> Vec<String> {
        let mut rows = Vec::new();
        for (path, bytes) in &self.files {
            if path.ends_with(".parquet") {
                rows.extend(read(bytes));
            }
        }
        rows
    }

    fn reasons(&self) -> Vec<String> {
        self.bad.iter().map(|bad| bad["reason"].as_str().unwrap().to_owned()).collect()
    }
}

fn batches(bytes: &[u8]) -> Vec<RecordBatch> {
    let bytes = bytes::Bytes::copy_from_slice(bytes);
    assert!(bytes.get_read(0).is_ok());
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap().build().unwrap();
    reader.map(Result::unwrap).collect()
}

fn read(bytes: &[u8]) -> Vec<String> {
    let mut text = arrow_json::LineDelimitedWriter::new(Vec::new());
    for batch in batches(bytes) {
        text.write(&batch).unwrap();
    }
    text.finish().unwrap();
    let text = String::from_utf8(text.into_inner()).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn input(key: &str, bytes: impl AsRef<[u8]>) -> Input {
    let bytes = io::Cursor::new(bytes.as_ref().to_vec());
    Input {
        key: key.to_owned(),
        facts: BTreeMap::new(),
        bytes: Box::new(bytes),
        is_unchanged: Box::new(|| Ok(true)),
        fault: None,
    }
}

fn try_stage(table: &Table, bounds: &Bounds, inputs: Vec<Input>) -> Result<Staged, Failed> {
    let memory = Memory::default();
    let job = Job {
        table,
        name: "job",
        quarantine: "_quarantine/job.jsonl",
        files: &memory,
        bounds,
        on_thread: &|| {},
        stop: &AtomicBool::new(false),
    };
    let report = run(&job, inputs.into_iter().map(Ok))?;
    let files = memory.0.lock().unwrap().clone();
    let bad = files.get("_quarantine/job.jsonl").cloned().unwrap_or_default();
    let bad = String::from_utf8(bad).unwrap();
    let bad: Vec<_> = bad.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(report.quarantined, bad.len() as u64);
    Ok(Staged { report, files, bad })
}

fn stage(table: &Table, inputs: Vec<Input>) -> Staged {
    try_stage(table, &small(), inputs).unwrap_or_else(|failed| panic!("{}", failed.halt))
}

const OFFERS: &str = r#"{"data":{"offers":[
 {"id":1,"price":{"total":"10.50","currency":"KRW"},"seats":null,"legs":[
   {"from":"ICN","segments":[{"no":"KE1","min":90},{"no":"KE2","min":45}]},{"from":"NRT","segments":[]}]},
 {"id":2,"price":{"total":20},"legs":[]},
 {"id":3,"price":null,"legs":null}]}}"#;

fn offers() -> Table {
    let columns = [
        ("id", "int64"),
        ("price.total", "decimal(10,2)"),
        ("legs.from", "string"),
        ("legs.segments.no", "string"),
        ("legs.segments.min", "int32"),
    ];
    let explode = vec![path("legs"), path("legs.segments")];
    Table { records: records("data.offers[]").unwrap(), explode, ..table(Format::Json, &columns) }
}

const OFFER_ROWS: [&str; 5] = [
    r#"{"id":1,"price_total":10.50,"legs_from":"ICN","legs_segments_no":"KE1","legs_segments_min":90}"#,
    r#"{"id":1,"price_total":10.50,"legs_from":"ICN","legs_segments_no":"KE2","legs_segments_min":45}"#,
    r#"{"id":1,"price_total":10.50,"legs_from":"NRT"}"#,
    r#"{"id":2,"price_total":20.00}"#,
    r#"{"id":3}"#,
];

#[test]
fn nested_lists_become_rows_and_an_empty_one_keeps_its_record() {
    let staged = stage(&offers(), vec![input("a.json", OFFERS)]);
    assert_eq!(staged.rows(), OFFER_ROWS);
    assert_eq!((staged.report.rows, staged.report.quarantined), (5, 0));
}

#[test]
fn a_document_that_is_not_held_whole_gives_the_same_rows() {
    let filler = format!(r#"{{"x":"{}","#, "y".repeat(3000));
    let large = OFFERS.replacen('{', &filler, 1);
    let staged = stage(&offers(), vec![input("a.json", &large)]);
    assert_eq!(staged.rows(), OFFER_ROWS);
    // And one that is cut because a record beside it is broken in its types.
    let broken = OFFERS.replacen("\n {\"id\":2", "\n {\"id\":{\"x\":2}},{\"id\":2", 1);
    let staged = stage(&offers(), vec![input("a.json", &broken)]);
    assert_eq!(staged.rows(), OFFER_ROWS);
    assert_eq!(staged.bad[0]["record"], 2);
    assert_eq!(staged.bad[0]["raw"], "{\"id\":{\"x\":2}}");
}

#[test]
fn compressed_inputs_in_every_format_give_the_same_rows_in_order() {
    let columns = [("n", "int64"), ("t", "string")];
    let lines: String = (0..5000).map(|n| format!("{{\"n\":{n},\"t\":\"x,{n}\"}}\n")).collect();
    let list = format!("[{}]", lines.trim_end().replace('\n', ","));
    let csv: String = (0..5000).map(|n| format!("\"x,{n}\",{n}\r\n")).collect();
    let tsv: String = (0..5000).map(|n| format!("x,{n}\t{n}\n")).collect();
    let wanted: Vec<String> = (0..5000).map(|n| format!("{{\"n\":{n},\"t\":\"x,{n}\"}}")).collect();
    let zst = zstd::encode_all(lines.as_bytes(), 1).unwrap();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(lines.as_bytes()).unwrap();
    let gz = gz.finish().unwrap();
    let mut any = Table { format: None, ..table(Format::Ndjson, &columns) };
    for (key, bytes) in [
        ("a.ndjson", lines.clone().into_bytes()),
        ("a.jsonl.zst", zst),
        ("a.ndjson.gz", gz),
        ("a.csv", format!("\u{feff}t,n\r\n{csv}").into_bytes()),
        ("a.tsv", format!("t\tn\n{tsv}").into_bytes()),
        ("a.json", lines.replace('\n', "").into_bytes()),
        ("a.json", lines.clone().into_bytes()),
    ] {
        let staged = stage(&any, vec![input(key, bytes)]);
        assert_eq!(staged.reasons(), [""; 0], "{key}");
        assert!(staged.rows() == wanted, "{key}: {}", staged.report.rows);
    }
    any.records = records("[]").unwrap();
    assert!(stage(&any, vec![input("a.json", list)]).rows() == wanted);
}

#[test]
fn partitions_are_folders_and_rows_are_sorted_in_files_of_the_target_size() {
    let mut table = table(Format::Ndjson, &[("n", "int64"), ("c", "string"), ("dt", "date")]);
    table.columns[2].from = From::Input("dt".to_owned());
    table.partition = vec![2, 1];
    table.sort = vec![0];
    let mut inputs = Vec::new();
    for day in ["2026-11-20", "2026-11-21"] {
        let lines: String = (0..3000)
            .rev()
            .map(|n| format!("{{\"n\":{n},\"c\":\"{}\"}}\n", ["a/b", "é=", ""][n % 3]))
            .collect();
        let mut input = input(&format!("{day}.ndjson"), lines);
        input.facts.insert("dt".to_owned(), day.to_owned());
        inputs.push(input);
    }
    let staged = stage(&table, inputs);
    let paths: Vec<&str> = staged.files.keys().map(String::as_str).collect();
    assert_eq!(
        paths,
        [
            "dt=2026-11-20/c=__HIVE_DEFAULT_PARTITION__/job-0001.parquet",
            "dt=2026-11-20/c=a%2Fb/job-0001.parquet",
            "dt=2026-11-20/c=é%3D/job-0001.parquet",
            "dt=2026-11-21/c=__HIVE_DEFAULT_PARTITION__/job-0001.parquet",
            "dt=2026-11-21/c=a%2Fb/job-0001.parquet",
            "dt=2026-11-21/c=é%3D/job-0001.parquet",
        ]
    );
    let wanted: Vec<String> = (0..3000).step_by(3).map(|n| format!("{{\"n\":{n}}}")).collect();
    assert_eq!(read(&staged.files[paths[1]]), wanted);
    let file = bytes::Bytes::from(staged.files[paths[1]].clone());
    let meta = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().metadata().clone();
    let group = meta.row_group(0);
    assert!(group.sorting_columns().is_some());
    assert!(group.column(0).statistics().unwrap().min_bytes_opt().is_some());
    // More partitions than may be open, and files that are full at once.
    table.partition = vec![0];
    table.sort = vec![];
    let lines: String =
        (0..4000).map(|n| format!("{{\"n\":{},\"c\":\"{n}\"}}\n", n % 40)).collect();
    let bounds = Bounds { file_bytes: 1, ..small() };
    let staged = try_stage(&table, &bounds, vec![input("a.ndjson", &lines)]).unwrap();
    assert_eq!((staged.files.len(), staged.report.rows), (40, 4000));
    let bounds = Bounds { partitions_max: 39, ..small() };
    let refused =
        try_stage(&table, &bounds, vec![input("a.ndjson", &lines)]).map(|_| ()).unwrap_err();
    assert!(refused.halt.to_string().contains("more than 39 folders"), "{}", refused.halt);
}

#[test]
fn a_column_whose_values_all_differ_has_no_dictionary() {
    let line = |n: u64| {
        let (some, few) = (n * 7919 % 60_000, n % 7);
        format!("{{\"id\":{n},\"some\":{some},\"few\":\"{few}\",\"word\":\"word {n}\"}}\n")
    };
    let columns = [("id", "int64"), ("some", "int64"), ("few", "string"), ("word", "string")];
    let table = table(Format::Ndjson, &columns);
    let has = |rows: u64| {
        let staged = stage(&table, vec![input("a", (0..rows).map(line).collect::<String>())]);
        assert_eq!(staged.report.rows, rows);
        let bytes = bytes::Bytes::from(staged.files.into_values().next().unwrap());
        let read = ParquetRecordBatchReaderBuilder::try_new(bytes).unwrap();
        let group = read.metadata().row_group(0);
        let columns =
            group.columns().iter().map(|column| column.dictionary_page_offset().is_some());
        columns.collect::<Vec<_>>()
    };
    assert_eq!(has(150_000), [false, true, true, false]);
    // Too few to tell.
    assert_eq!(has(20_000), [true; 4]);
}

#[test]
fn new_fields_are_left_out_added_or_refused_as_the_table_says() {
    let mut table = table(Format::Ndjson, &[("n", "int64")]);
    let text = "{\"n\":1}\n{\"n\":2,\"new\":{\"a\":1.5,\"list\":[1]},\"t\":\"x\"}\n{\"n\":3,\"t\":4,\"z\":null}\n";
    let stage_it = |table: &Table| try_stage(table, &small(), vec![input("a.ndjson", text)]);
    assert_eq!(stage_it(&table).unwrap().report.rows, 3);
    table.unknown = Unknown::Quarantine;
    let staged = stage_it(&table).unwrap();
    assert_eq!(staged.rows(), ["{\"n\":1}"]);
    assert_eq!(staged.reasons()[0], "no column takes `new.a`");
    table.unknown = Unknown::Refuse;
    assert!(matches!(stage_it(&table).map(|_| ()).unwrap_err().halt, Halt::Refused(_)));
    table.unknown = Unknown::Add;
    let Halt::Change(change) = stage_it(&table).map(|_| ()).unwrap_err().halt else {
        panic!("no change")
    };
    change.apply(&mut table);
    let rows = stage_it(&table);
    // The list is no column; what is known is not added again.
    let rows = rows.unwrap().rows();
    assert_eq!(rows, ["{\"n\":1}", "{\"n\":2,\"new_a\":1.5,\"t\":\"x\"}", "{\"n\":3,\"t\":\"4\"}"]);
}

#[test]
fn a_type_is_widened_until_every_value_fits() {
    let mut table =
        table(Format::Ndjson, &[("n", "int32"), ("d", "decimal(4,2)"), ("t", "timestamp")]);
    table.mismatch = Mismatch::Widen;
    let text = "{\"n\":1,\"d\":1.25,\"t\":\"2026-11-20T00:00:00Z\"}\n{\"n\":3000000000,\"d\":123.125,\"t\":\"soon\"}\n{\"n\":1.5}\n";
    let mut tries = 0;
    let staged = loop {
        match try_stage(&table, &small(), vec![input("a.ndjson", text)]) {
            Ok(staged) => break staged,
            Err(Failed { halt: Halt::Change(change), .. }) => change.apply(&mut table),
            Err(failed) => panic!("{}", failed.halt),
        }
        tries += 1;
        assert!(tries < 5);
    };
    assert_eq!(table.columns[0].kind, Kind::Float64);
    assert_eq!(table.columns[1].kind, Kind::Decimal { digits: 38, behind: 4 });
    assert_eq!(table.columns[2].kind, Kind::String);
    assert_eq!(staged.rows().len(), 3);
    table.mismatch = Mismatch::Refuse;
    let refused = try_stage(&table, &small(), vec![input("a.ndjson", "{\"n\":\"x\"}")]).map(|_| ());
    let reason = refused.unwrap_err().halt.to_string();
    assert_eq!(reason, "a.ndjson, record 1, column `n`: `x` is not a number (float64)");
}

#[test]
fn what_is_required_or_has_a_default() {
    let mut table =
        table(Format::Csv, &[("id", "int64"), ("price", "decimal(10,2)"), ("note", "string")]);
    table.columns[0].required = true;
    table.columns[1].default = Some("0.00".to_owned());
    table.nulls = vec![String::new()];
    let staged = stage(&table, vec![input("a.csv", "id,price,note\n1,,\n,2,x\n3,4.5,y\n")]);
    assert_eq!(
        staged.rows(),
        ["{\"id\":1,\"price\":0.00}", "{\"id\":3,\"price\":4.50,\"note\":\"y\"}"]
    );
    assert_eq!(staged.bad[0]["record"], 3);
    assert_eq!(staged.bad[0]["column"], "id");
    let schema = batches(&staged.files["job-0001.parquet"])[0].schema();
    assert!(!schema.field(0).is_nullable() && schema.field(1).is_nullable());
}

#[test]
fn a_stopped_or_changed_input_gives_the_job_up() {
    let table = table(Format::Ndjson, &[("n", "int64")]);
    let mut changed = input("a.ndjson", "{\"n\":1}\n");
    changed.is_unchanged = Box::new(|| Ok(false));
    let failed = try_stage(&table, &small(), vec![changed]).map(|_| ()).unwrap_err();
    assert!(matches!(failed.halt, Halt::Changed(key) if key == "a.ndjson"));
    let memory = Memory::default();
    let (bounds, stop) = (small(), AtomicBool::new(true));
    let (name, quarantine, on_thread) = ("job", "q", &|| {});
    let job = Job {
        table: &table,
        name,
        quarantine,
        files: &memory,
        bounds: &bounds,
        on_thread,
        stop: &stop,
    };
    let failed = run(&job, std::iter::repeat_with(|| Ok(input("a.ndjson", "{\"n\":1}\n"))));
    assert!(matches!(failed.unwrap_err().halt, Halt::Stopped));
    assert!(memory.0.lock().unwrap().is_empty());
}

#[test]
fn what_is_no_table_is_told() {
    let told = |table: &Table| check(table).unwrap_err();
    let mut odd = table(Format::Json, &[("n", "int64"), ("n.x", "int64")]);
    assert_eq!(told(&odd), "`n.x` goes on below a value of another column");
    odd.columns[1] = column("N", "int64");
    assert!(told(&odd).contains("but for case"));
    odd.columns[1] = column("m", "int64");
    odd.explode = vec![path("n.x")];
    assert!(check(&odd).is_err());
    odd.explode = vec![path("a.b"), path("a")];
    assert!(told(&odd).contains("around another"));
    odd.explode = vec![path("a")];
    assert!(told(&odd).contains("no column"));
    odd.explode.clear();
    check(&odd).unwrap();
}
