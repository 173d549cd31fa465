//! One job: some inputs become some files. A thread reads, some work, the caller's writes; queues between them are
//! short, so that what is slowest holds up the others and memory stays bounded.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use crate::piece::{Bad, Body, Cease, Facts, Gone, Piece, Source};
use crate::shape::Shaper;
use crate::table::{COLUMNS_MAX, Column, Format, From, Kind, Table};
use crate::undo::undo;
use crate::work::{Made, STACK_BYTES, Worker};
use crate::write::{Files, Out, Writer};

/// Longest name of a column, in bytes.
pub(crate) const NAME_BYTES_MAX: usize = 255;

/// Pieces for each worker that are on their way to the writer.
const PIECES_AHEAD: usize = 6;

/// Bounds of a job. Memory is about `workers` x 60 MB and 200 MB more, plus what a record of the largest size takes
/// ten times.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Threads that decode, 1 to 64.
    pub workers: usize,
    /// Largest record, in bytes as it is written; a larger one is quarantined.
    pub record_bytes_max: u64,
    /// Largest JSON text that is held whole, in bytes; records of larger ones are cut out as they come.
    pub document_bytes_max: usize,
    /// Most columns, those that are added included; a record that would make more is quarantined.
    pub columns_max: usize,
    /// Most partitions of one job.
    pub partitions_max: usize,
    /// Size of files that a file is closed at, in bytes.
    pub file_bytes: u64,
    /// Files written at the same time, the quarantine apart, 1 or more; for another the largest is closed, so that with
    /// many partitions files are smaller.
    pub open_max: usize,
    /// Most bytes of the paths of all files of one job: whoever remembers them has a bound.
    pub paths_bytes_max: usize,
    /// Most rows that one record becomes by its lists; one of more is quarantined.
    pub rows_max: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            workers: std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(64),
            record_bytes_max: 16 * 1024 * 1024,
            document_bytes_max: 4 * 1024 * 1024,
            columns_max: COLUMNS_MAX,
            partitions_max: 10_000,
            file_bytes: 128 * 1024 * 1024,
            open_max: 12,
            paths_bytes_max: 8 * 1024 * 1024,
            rows_max: 1_000_000,
        }
    }
}

/// One input.
pub struct Input {
    /// Its name, whose end says how it is compressed, and written where the table does not say so.
    pub key: String,
    /// What the table asks of inputs ([`From::Input`]), by the same names.
    pub facts: BTreeMap<String, String>,
    /// Its bytes.
    pub bytes: Box<dyn Read + Send>,
    /// Whether what was read is what is there now. Asked after its last byte.
    pub is_unchanged: Box<dyn FnOnce() -> io::Result<bool> + Send>,
    /// Why it is not read at all: all that is made of it is an entry of the quarantine.
    pub fault: Option<String>,
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input").field("key", &self.key).finish_non_exhaustive()
    }
}

/// What is done and where to.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    /// What the rows are.
    pub table: &'a Table,
    /// Begins the name of every file.
    pub name: &'a str,
    /// Where entries of the quarantine go, as JSON Lines; the file is there only if there is one.
    pub quarantine: &'a str,
    /// Where files go.
    pub files: &'a dyn Files,
    /// Bounds.
    pub bounds: &'a Bounds,
    /// Called first on each thread, as to give it less of the processor.
    pub on_thread: &'a (dyn Fn() + Sync),
    /// Ends the work.
    pub stop: &'a AtomicBool,
}

impl fmt::Debug for Job<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Job").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A file that is visible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Where, below the target.
    pub path: String,
    /// Its rows.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The files, in order.
    pub files: Vec<File>,
    /// Rows in them.
    pub rows: u64,
    /// Entries of the quarantine.
    pub quarantined: u64,
    /// The first of them, as a sentence.
    pub first_bad: Option<String>,
}

/// What a table needs so that values fit that did not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Columns by their number, and the type that they need.
    pub widen: BTreeMap<usize, Kind>,
    /// Fields that become columns, by their path.
    pub add: BTreeMap<Vec<String>, Kind>,
}

impl Change {
    /// Nothing is needed.
    pub fn is_empty(&self) -> bool {
        self.widen.is_empty() && self.add.is_empty()
    }

    /// The table with it: columns are wider, and others come after them.
    pub fn apply(&self, table: &mut Table) {
        for (at, kind) in &self.widen {
            table.columns[*at].kind = kind.clone();
        }
        for (path, kind) in &self.add {
            let mut name = path.join("_");
            // Engines tell no `Price` from `price`.
            let is_taken = |name: &str| {
                let name = name.to_lowercase();
                table.columns.iter().any(|column| column.name.to_lowercase() == name)
            };
            while is_taken(&name) {
                name.push('_');
            }
            let (from, kind) = (From::Path(path.clone()), kind.clone());
            table.columns.push(Column { name, from, kind, default: None, required: false });
        }
    }
}

/// Why a job was given up. Files of it may be visible: see [`Failed::visible`].
#[derive(Debug)]
pub enum Halt {
    /// The table has to change first; then the job is to be begun anew.
    Change(Change),
    /// As the table says: the reason.
    Refused(String),
    /// An input is not what it was when it was begun.
    Changed(String),
    /// An input cannot be read: which, and why.
    Read(String, io::Error),
    /// Files cannot be written.
    Write(io::Error),
    /// It was stopped.
    Stopped,
    /// A fault of this program.
    Fault(String),
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Change(_) => f.write_str("the table has to change"),
            Self::Refused(reason) => f.write_str(reason),
            Self::Changed(key) => write!(f, "{key}: it changed while it was read"),
            Self::Read(key, error) => write!(f, "{key}: it cannot be read: {error}"),
            Self::Write(error) => write!(f, "it cannot be written: {error}"),
            Self::Stopped => f.write_str("it was stopped"),
            Self::Fault(reason) => write!(f, "a fault of this program: {reason}"),
        }
    }
}

impl std::error::Error for Halt {}

/// A job that was given up.
#[derive(Debug)]
pub struct Failed {
    /// Why.
    pub halt: Halt,
    /// Files that are visible all the same; the caller removes them.
    pub visible: Vec<File>,
}

/// Whether a table is one: every mistake of it that is found without an input.
///
/// # Errors
/// The first mistake, as a sentence.
pub fn check(table: &Table) -> Result<(), String> {
    for (number, column) in table.columns.iter().enumerate() {
        if column.name.is_empty() || column.name.len() > NAME_BYTES_MAX {
            return Err(format!("a column's name has 1 to {NAME_BYTES_MAX} bytes"));
        }
        let same = |other: &Column| other.name.to_lowercase() == column.name.to_lowercase();
        if table.columns[..number].iter().any(same) {
            return Err(format!("two columns are called `{}`, but for case", column.name));
        }
    }
    let columns = table.columns.len();
    if !table.columns.iter().any(|column| matches!(column.from, From::Path(_))) {
        return Err("no column is read from the records".to_owned());
    }
    if table.partition.len() >= columns {
        return Err("no column is left for the files beside the partition's".to_owned());
    }
    Shaper::new(Arc::new(table.clone())).map(|_| ())
}

/// Makes files of inputs. Blocks; uses `bounds.workers` + 1 threads more.
///
/// # Errors
/// [`Halt`], and the files that are visible all the same.
pub fn run(
    job: &Job<'_>,
    inputs: impl Iterator<Item = io::Result<Input>> + Send,
) -> Result<Report, Failed> {
    let shaper = match Shaper::new(Arc::new(job.table.clone())) {
        Ok(shaper) => Arc::new(shaper),
        Err(reason) => return Err(Failed { halt: Halt::Refused(reason), visible: Vec::new() }),
    };
    let mut writer = match Writer::new(job.files, job.name, &shaper, job.bounds) {
        Ok(writer) => writer,
        Err(halt) => return Err(Failed { halt, visible: Vec::new() }),
    };
    let mut quarantine = Quarantine { job, out: None, count: 0, first: None };
    // A panic is a fault of this program, and no reason to forget the files that are visible.
    let ran = catch_unwind(AssertUnwindSafe(|| {
        threads(job, &shaper, inputs, &mut writer, &mut quarantine)?;
        writer.finish()?;
        quarantine.finish()
    }));
    let files = writer.into_visible();
    match ran.unwrap_or_else(|_| Err(Halt::Fault("a thread panicked".to_owned()))) {
        Ok(()) => {
            let rows = files.iter().map(|file| file.rows).sum();
            let Quarantine { count: quarantined, first: first_bad, .. } = quarantine;
            Ok(Report { files, rows, quarantined, first_bad })
        }
        Err(halt) => Err(Failed { halt, visible: files }),
    }
}

/// What a worker says of one piece, a part of it each time; none: that was all.
type Answer = Result<Option<Made>, Halt>;

fn threads(
    job: &Job<'_>,
    shaper: &Arc<Shaper>,
    inputs: impl Iterator<Item = io::Result<Input>> + Send,
    writer: &mut Writer<'_>,
    quarantine: &mut Quarantine<'_>,
) -> Result<(), Halt> {
    let workers = job.bounds.workers.clamp(1, 64);
    let (to_work, work) = sync_channel::<(Piece, SyncSender<Answer>)>(workers);
    // Of one piece there may be several answers, so that a record of many rows is not held as a whole.
    // In order of the pieces, so that rows are in order whoever was quicker.
    // Enough of them that nobody waits while a row group is ended.
    let (to_write, written) = sync_channel::<Receiver<Answer>>(PIECES_AHEAD * workers);
    let work = Mutex::new(work);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            let work = &work;
            let thread = std::thread::Builder::new().name("stage-work".to_owned());
            let handle = thread.stack_size(STACK_BYTES).spawn_scoped(scope, move || {
                (job.on_thread)();
                let mut worker = Worker::new(shaper, job.bounds);
                loop {
                    let next = work.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok((piece, answer)) = next else { return };
                    // Nobody waits for it any more once the job is given up; the queue is still emptied.
                    let mut send = |made| answer.send(Ok(Some(made))).map_err(|_| Gone);
                    // A worker that died would leave the others' queues full.
                    let worked = catch_unwind(AssertUnwindSafe(|| worker.work(piece, &mut send)));
                    let worked = worked.unwrap_or_else(|_| {
                        worker = Worker::new(shaper, job.bounds);
                        Err(Halt::Fault("a thread panicked".to_owned()))
                    });
                    drop(answer.send(worked.map(|()| None)));
                }
            });
            handle.map_err(Halt::Write)?;
        }
        let read = std::thread::Builder::new().name("stage-read".to_owned());
        let read = read.spawn_scoped(scope, move || {
            (job.on_thread)();
            read_all(job, inputs, to_work, to_write)
        });
        let read = read.map_err(Halt::Write)?;
        let mut result = Ok(());
        for answers in &written {
            result = take_all(&answers, writer, quarantine);
            if result.is_err() {
                break;
            }
        }
        drop(written);
        let read = read.join().unwrap_or_else(|_| Err(Halt::Fault("a thread ended".to_owned())));
        result.and(read)
    })
}

/// Takes what was made of one piece.
fn take_all(
    answers: &Receiver<Answer>,
    writer: &mut Writer<'_>,
    quarantine: &mut Quarantine<'_>,
) -> Result<(), Halt> {
    loop {
        match answers.recv() {
            Ok(Ok(Some(made))) => take(made, writer, quarantine)?,
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(halt)) => return Err(halt),
            // A worker died.
            Err(_) => return Err(Halt::Fault("a thread ended".to_owned())),
        }
    }
}

fn take(made: Made, writer: &mut Writer<'_>, quarantine: &mut Quarantine<'_>) -> Result<(), Halt> {
    let Made { input, parts, bad } = made;
    for (folder, batch) in parts {
        writer.rows(folder, batch)?;
    }
    for bad in bad {
        quarantine.take(&input.key, bad)?;
    }
    Ok(())
}

/// Reads inputs and hands their pieces out until there are no more, or nobody wants them.
fn read_all(
    job: &Job<'_>,
    inputs: impl Iterator<Item = io::Result<Input>>,
    to_work: SyncSender<(Piece, SyncSender<Answer>)>,
    to_write: SyncSender<Receiver<Answer>>,
) -> Result<(), Halt> {
    let mut send = |piece: Piece| {
        if job.stop.load(Ordering::Relaxed) {
            return Err(Gone);
        }
        // Most pieces become one part: whoever made it goes on with the next piece while others' parts are written.
        let (answer, made) = sync_channel(2);
        to_write.send(made).map_err(|_| Gone)?;
        to_work.send((piece, answer)).map_err(|_| Gone)
    };
    for input in inputs {
        if job.stop.load(Ordering::Relaxed) {
            return Err(Halt::Stopped);
        }
        let input = input.map_err(|error| Halt::Read("an input".to_owned(), error))?;
        let Input { key, facts, bytes, is_unchanged, fault } = input;
        let values = job.table.columns.iter().map(|column| match &column.from {
            From::Input(name) => facts.get(name).cloned(),
            From::Path(_) => None,
        });
        let facts = Arc::new(Facts { key: key.clone(), values: values.collect() });
        let source = Source { facts: &facts, table: job.table, bounds: job.bounds };
        let tell = |reason: String, send: &mut dyn FnMut(Piece) -> Result<(), Gone>| {
            send(source.piece(0, 0, Body::Bad(vec![Bad::new(0, 0, reason, b"")])))
        };
        // Whoever wanted them says why not any more, but for a stop.
        let stopped = |_: Gone| {
            if job.stop.load(Ordering::Relaxed) { Err(Halt::Stopped) } else { Ok(()) }
        };
        if let Some(reason) = fault {
            if let Err(gone) = tell(reason, &mut send) {
                return stopped(gone);
            }
            continue;
        }
        let Some(format) = job.table.format.or_else(|| Format::of_name(&key)) else {
            let reason = "its name does not say how it is written: declare `format`".to_owned();
            if let Err(gone) = tell(reason, &mut send) {
                return stopped(gone);
            }
            continue;
        };
        let (mut bytes, failed) =
            undo(&key, bytes).map_err(|error| Halt::Read(key.clone(), error))?;
        match source.pieces(&mut bytes, format, &mut send) {
            Ok(()) => {}
            Err(Cease::Gone) => return stopped(Gone),
            Err(Cease::Io(error)) => {
                if let Some(error) = failed.take() {
                    return Err(Halt::Read(key, error));
                }
                let reason =
                    format!("it cannot be decompressed: {error}; what came before is kept");
                if let Err(gone) = tell(reason, &mut send) {
                    return stopped(gone);
                }
            }
        }
        drop(bytes);
        match is_unchanged() {
            Ok(true) => {}
            Ok(false) => return Err(Halt::Changed(key)),
            Err(error) => return Err(Halt::Read(key, error)),
        }
    }
    Ok(())
}

struct Quarantine<'a> {
    job: &'a Job<'a>,
    out: Option<Box<dyn Out>>,
    count: u64,
    first: Option<String>,
}

impl Quarantine<'_> {
    fn take(&mut self, key: &str, bad: Bad) -> Result<(), Halt> {
        let Bad { record, offset, column, reason, raw } = bad;
        if self.first.is_none() {
            let column = column.as_ref().map(|name| format!(", `{name}`")).unwrap_or_default();
            self.first = Some(format!("{key}, record {record}{column}: {reason}"));
        }
        let mut entry = serde_json::Map::new();
        entry.insert("source".to_owned(), key.into());
        entry.insert("record".to_owned(), record.into());
        entry.insert("offset".to_owned(), offset.into());
        entry.insert("column".to_owned(), column.into());
        entry.insert("reason".to_owned(), reason.into());
        entry.insert("raw".to_owned(), raw.into());
        let mut line = serde_json::Value::Object(entry).to_string();
        line.push('\n');
        if self.out.is_none() {
            let out = self.job.files.create(self.job.quarantine).map_err(Halt::Write)?;
            self.out = Some(out);
        }
        self.count += 1;
        match &mut self.out {
            Some(out) => out.write_all(line.as_bytes()).map_err(Halt::Write),
            None => Ok(()),
        }
    }

    fn finish(&mut self) -> Result<(), Halt> {
        match self.out.take() {
            Some(out) => out.finish().map_err(Halt::Write),
            None => Ok(()),
        }
    }
}
