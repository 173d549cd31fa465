//! Stages a folder of files without the command around it: `files KIND FROM TO`, KIND `offers` (nested JSON) or `lines`
//! (NDJSON). The command is measured by `tests/judge/stage_speed.py`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use tollgate_stage::{
    Bounds, Column, Files, From, Input, Job, Kind, Mismatch, Moment, Out, Table, Unknown, path,
    records, run,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Folder(PathBuf);

struct Target(BufWriter<File>);

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Out for Target {
    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.0.flush()
    }
}

impl Files for Folder {
    fn create(&self, path: &str) -> io::Result<Box<dyn Out>> {
        let place = self.0.join(path);
        std::fs::create_dir_all(place.parent().unwrap_or(&self.0))?;
        Ok(Box::new(Target(BufWriter::with_capacity(256 * 1024, File::create(place)?))))
    }
}

fn table(kind: &str) -> Table {
    let columns: &[(&str, &str, &str)] = match kind {
        "offers" => &[
            ("id", "id", "string"),
            ("price", "price.total", "decimal(12,2)"),
            ("currency", "price.currency", "string"),
            ("seats", "seats", "int32"),
            ("last_ticketing", "last_ticketing", "date"),
            ("refundable", "refundable", "bool"),
            ("duration", "itineraries.duration", "int64"),
            ("carrier", "itineraries.segments.carrier", "string"),
            ("number", "itineraries.segments.number", "int32"),
            ("origin", "itineraries.segments.from", "string"),
            ("destination", "itineraries.segments.to", "string"),
            ("departs", "itineraries.segments.departs", "timestamp"),
            ("arrives", "itineraries.segments.arrives", "timestamp"),
            ("km", "itineraries.segments.km", "float64"),
        ],
        _ => &[
            ("id", "id", "int64"),
            ("ts", "ts", "timestamp"),
            ("campaign", "campaign", "string"),
            ("clicks", "clicks", "int32"),
            ("cost", "cost", "decimal(12,4)"),
            ("ctr", "ctr", "float64"),
            ("device", "device", "string"),
            ("active", "active", "bool"),
        ],
    };
    let columns = columns.iter().map(|(name, place, kind)| Column {
        name: (*name).to_owned(),
        from: From::Path(path(place)),
        kind: match *name {
            "departs" => {
                Kind::Timestamp { formats: vec![Moment::Iso], zone: "Asia/Seoul".to_owned() }
            }
            _ => Kind::of_name(kind).expect("a type"),
        },
        default: None,
        required: false,
    });
    let is_nested = kind == "offers";
    let nested = vec![path("itineraries"), path("itineraries.segments")];
    Table {
        format: None,
        records: records(if is_nested { "data.offers[]" } else { "" }).expect("a way"),
        explode: if is_nested { nested } else { Vec::new() },
        columns: columns.collect(),
        partition: Vec::new(),
        sort: Vec::new(),
        unknown: Unknown::Ignore,
        mismatch: Mismatch::Quarantine,
        nulls: Vec::new(),
        separator: b',',
    }
}

#[allow(clippy::print_stdout)] // what it is for
fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let [kind, from, to] = &args[..] else {
        println!("files KIND FROM TO");
        return;
    };
    let mut files: Vec<PathBuf> = std::fs::read_dir(from)
        .expect("a folder")
        .map(|entry| entry.expect("a file").path())
        .collect();
    files.sort();
    let (table, folder, bounds) = (table(kind), Folder(PathBuf::from(to)), Bounds::default());
    let job = Job {
        table: &table,
        name: "part",
        quarantine: "_quarantine.jsonl",
        files: &folder,
        bounds: &bounds,
        on_thread: &|| {},
        stop: &AtomicBool::new(false),
    };
    let inputs = files.iter().map(|place| {
        Ok(Input {
            key: place.display().to_string(),
            facts: BTreeMap::new(),
            bytes: Box::new(File::open(place)?),
            is_unchanged: Box::new(|| Ok(true)),
            fault: None,
        })
    });
    match run(&job, inputs) {
        Ok(report) => println!("{} {}", report.rows, report.quarantined),
        Err(failed) => panic!("{}", failed.halt),
    }
}
