//! Small files become larger ones, and no row is another than before.

use ::bytes::Bytes;

use super::*;

/// Files of these texts, each as a job of its own makes it: folder and bytes.
fn files(table: &Table, texts: &[String]) -> Vec<Small> {
    let staged = texts.iter().map(|text| stage(table, vec![input("i.ndjson", text)]));
    let of = |staged: Staged| {
        let files = staged.files.into_iter();
        files.map(|(path, bytes)| Small {
            folder: path.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned(),
            bytes: bytes.into(),
        })
    };
    staged.flat_map(of).collect()
}

/// What came of it, and the files that are there.
type Ran = (Result<Merged, (Halt, Vec<File>)>, Made);
type Made = BTreeMap<String, Vec<u8>>;

fn merged(small: Vec<Small>, sort: &[String], bounds: &Bounds) -> Ran {
    let memory = Memory::default();
    let small = small.into_iter().map(Ok);
    let merged = merge(small, (&memory, "job"), sort, bounds, &AtomicBool::new(false));
    let files = memory.0.lock().unwrap().clone();
    (merged, files)
}

fn texts(count: usize) -> Vec<String> {
    let text = |n: usize| {
        format!("{{\"n\":{},\"c\":\"{}\",\"at\":{n}}}\n{{\"n\":null}}\n", n * 7 % 10, n % 3)
    };
    (0..count).map(text).collect()
}

#[test]
fn rows_of_many_files_are_those_of_one_and_sorted_as_it_is() {
    let columns = [("n", "int64"), ("c", "string"), ("at", "decimal(10,2)")];
    let mut table = table(Format::Ndjson, &columns);
    table.sort = vec![0];
    let texts = texts(20);
    let (ran, files) = merged(files(&table, &texts), &["n".to_owned()], &small());
    let ran = ran.unwrap();
    assert_eq!((ran.files.len(), ran.taken.iter().filter(|taken| **taken).count()), (1, 20));
    assert_eq!((ran.files[0].path.as_str(), ran.files[0].rows), ("job-0001.parquet", 40));
    let whole = stage(&table, vec![input("i.ndjson", texts.concat())]);
    let (mut rows, mut wanted) = (read(&files["job-0001.parquet"]), whole.rows());
    let numbers = |rows: &[String]| -> Vec<i64> {
        let parsed = rows.iter().map(|row| serde_json::from_str::<serde_json::Value>(row).unwrap());
        parsed.map(|row| row["n"].as_i64().unwrap_or(i64::MAX)).collect()
    };
    assert_eq!(numbers(&rows), numbers(&wanted));
    rows.sort();
    wanted.sort();
    assert_eq!(rows, wanted);
}

#[test]
fn each_folder_has_its_own_and_a_file_is_closed_at_its_size() {
    let columns = [("n", "int64"), ("c", "string")];
    let table = Table { partition: vec![1], ..table(Format::Ndjson, &columns) };
    let small_files = files(&table, &texts(9));
    let count = small_files.len();
    let (ran, files) = merged(small_files, &[], &small());
    assert_eq!(ran.unwrap().taken.len(), count);
    let rows: Vec<(&str, usize)> =
        files.iter().map(|(path, bytes)| (path.as_str(), read(bytes).len())).collect();
    let wanted = [
        ("c=0/job-0001.parquet", 3),
        ("c=1/job-0001.parquet", 3),
        ("c=2/job-0001.parquet", 3),
        ("c=__HIVE_DEFAULT_PARTITION__/job-0001.parquet", 9),
    ];
    assert_eq!(rows, wanted);
}

#[test]
fn a_file_of_other_columns_is_left_and_one_that_is_none_ends_it() {
    let mut wide = table(Format::Ndjson, &[("n", "int64"), ("c", "string"), ("at", "timestamp")]);
    wide.columns[2].kind = Kind::Timestamp { formats: vec![Moment::Unix(1)], zone: "UTC".into() };
    let narrow = table(Format::Ndjson, &[("n", "int32"), ("c", "string")]);
    let mut all = files(&wide, &texts(2));
    all.insert(1, files(&narrow, &texts(1)).remove(0));
    let (ran, files_of) = merged(all, &[], &small());
    assert_eq!(ran.unwrap().taken, [true, false, true]);
    let rows: usize =
        batches(&files_of["job-0001.parquet"]).iter().map(RecordBatch::num_rows).sum();
    assert_eq!(rows, 4);
    let mut all = files(&wide, &texts(2));
    for broken in [&b"PAR1"[..], b"", b"no file at all, whatever its name is", &[0; 64]] {
        all.push(Small { folder: String::new(), bytes: Bytes::copy_from_slice(broken) });
        let (ran, files_of) = merged(std::mem::take(&mut all), &[], &small());
        assert!(ran.is_err() && files_of.is_empty(), "{broken:?}");
        all = files(&wide, &texts(2));
    }
    // Cut in the middle.
    let mut cut = files(&wide, &texts(2));
    let bytes = cut[1].bytes.clone();
    cut[1].bytes = bytes.slice(..bytes.len() / 2);
    assert!(merged(cut, &[], &small()).0.is_err());
}
