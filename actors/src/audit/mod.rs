//! The proof from a log of calls that no window of any limit was exceeded, or the first calls that did.
//!
//! Decides for each limit: proved, exceeded, or not to be shown from this log, and why. Promises that
//! nothing is called proved that the log leaves open: stamps have the step of their clock, a line that cannot
//! be read may have been a call, and a limit of a kind that is not known here is said to be that.
//!
//! It shares no code with the gate, nor with the part of the configuration that feeds it: limits are read
//! (`limits.rs`) and counted (`counter.rs`) here a second time. Must not know the gate.
//!
//! A log may be larger than the memory: a counter keeps the calls of its longest window, and lines out of
//! order are sorted within a bound.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io::{BufReader, Cursor, Read};

use crate::codes::Code;
use crate::ids::preview;
use crate::intake::{Line, read_line};

mod counter;
mod kept;
mod limits;
mod lines;
mod proof;
mod report;
mod source;

#[cfg(test)]
mod tests;

pub use kept::ledger;
pub use lines::COMBINED;
pub use report::{CallRow, Exceeded, Report, Row as LimitRow, Verdict};

use counter::Ns;
use limits::Declared;
use lines::{Cell, Fields, Form, Unit, length, read_json, stamp};
use proof::{Entry, Proof};
use source::{Source, query_value, split_target};

/// Lines that are looked at before the first is counted, to learn the step of the clock.
const LOOK_AHEAD: usize = 1_000;
/// Lines of which a coarser step is believed.
const STEP_LINES_MIN: usize = 100;
/// Most calls that wait to be sorted.
const SORTED_MAX: usize = 1 << 20;
/// Most accounts and apis that are told apart.
const NAMES_MAX: usize = 1 << 22;
/// Most lines that are told one by one because they cannot be read.
const TOLD_MAX: usize = 5;
/// A clock that steps by no more than this is taken as exact.
const EXACT: Ns = 1_000;
/// A permit of our own log is used within this time.
const PERMIT_USE: Ns = 500_000_000;

const TIMES: [&str; 18] = [
    "at_ns",
    "at_us",
    "at_ms",
    "at",
    "arrived_at",
    "time_ns",
    "time_us",
    "time_ms",
    "time",
    "ts_ns",
    "ts_us",
    "ts_ms",
    "ts",
    "timestamp",
    "@timestamp",
    "msec",
    "time_iso8601",
    "time_local",
];
const LENGTHS: [&str; 9] = [
    "took_ns",
    "took_us",
    "took_ms",
    "duration_ns",
    "duration_us",
    "duration_ms",
    "latency_ms",
    "request_time",
    "upstream_response_time",
];
const TARGETS: [&str; 7] =
    ["request", "request_uri", "target", "uri", "url", "path", "query_string"];

/// What a log is, and what is to be proved of it.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The configuration's text; its limits and apis are read from it.
    pub config: Option<String>,
    /// Limits beside, or instead of, those of the configuration:
    /// `gap = { per = ["account"], every = "5s" }`.
    pub limits: Vec<String>,
    /// Which platform of the configuration; calls of others are stepped over.
    pub platform: Option<String>,
    /// Only these limits; empty: all.
    pub only: Vec<String>,
    /// The form of text lines, as nginx's `log_format`; else lines that begin with `{` are JSON, and
    /// others are of the combined format.
    pub form: Option<String>,
    /// The field with the time, as `NAME` or `NAME:UNIT`.
    pub time: Option<String>,
    /// Where the account stands: `path:TEMPLATE`, `query:NAME`, or a field.
    pub account: Option<String>,
    /// Where the api stands.
    pub api: Option<String>,
    /// The field with how long a call took, as `NAME` or `NAME:UNIT`.
    pub took: Option<String>,
    /// The stamp is that of the call's end, and the time it took goes back from it.
    pub stamped_at_end: bool,
    /// The step of the log's clock in nanoseconds, where it is known better than it shows.
    pub step: Option<Ns>,
    /// By how much a stamp may be wrong beyond that, either way, in nanoseconds.
    pub slack: Ns,
    /// Lines may be out of order by so many nanoseconds.
    pub sort_within: Ns,
}

/// Why there is no proof to be had: nothing was counted, or not to the end.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// What is asked for makes no sense, or does not fit the log.
    #[error("{code}: {reason}")]
    Asked {
        /// Its code.
        code: Code,
        /// A sentence.
        reason: String,
    },
    /// The log cannot be read.
    #[error("{}: {name}, line {line}: cannot be read: {error}", Code::InputUnreadable)]
    Read {
        /// Which log.
        name: String,
        /// How far it came.
        line: u64,
        /// What the system says.
        #[source]
        error: std::io::Error,
    },
}

fn asked(reason: String) -> AuditError {
    AuditError::Asked { code: Code::AuditAsked, reason }
}

/// A field and the unit of its numbers.
type Counted = (usize, Option<Unit>);

/// A proof in the making: logs are read one after the other, oldest first.
#[derive(Debug)]
pub struct Audit {
    declared: Declared,
    fields: Fields,
    form: Option<Form>,
    combined: Form,
    times: Vec<Counted>,
    lengths: Vec<Counted>,
    targets: Vec<usize>,
    platform: usize,
    event: usize,
    accounts: Vec<Where>,
    apis: Vec<Where>,
    options: Options,
    names: Names,
    /// The numbers of the apis that each limit counts alone; empty: all.
    limit_apis: Vec<Vec<u32>>,
    proof: Proof,
    waiting: BinaryHeap<Reverse<Entry>>,
    newest: Ns,
    first: Vec<Entry>,
    steps: Vec<Ns>,
    /// The finest step of the times that calls took.
    took_step: Option<Ns>,
    started: bool,
    ours: bool,
    logs: Vec<String>,
    lines: u64,
    stepped_over: u64,
    unreadable: u64,
    told: Vec<String>,
}

#[derive(Debug, Clone)]
enum Where {
    Field(usize),
    Target(Source),
}

/// Accounts and apis by number.
#[derive(Debug, Default)]
struct Names {
    places: HashMap<Box<str>, u32>,
    texts: Vec<Box<str>>,
}

impl Names {
    fn number(&mut self, text: &str) -> Result<u32, AuditError> {
        if let Some(known) = self.places.get(text) {
            return Ok(*known);
        }
        if self.texts.len() >= NAMES_MAX {
            return Err(asked(format!("over {NAMES_MAX} accounts: divide the log by account")));
        }
        let number = self.texts.len() as u32;
        self.texts.push(text.into());
        self.places.insert(text.into(), number);
        Ok(number)
    }
}

/// What a line is.
enum Found {
    Call(Box<Seen>),
    /// Nothing that is counted.
    Other,
    /// It may have been a call.
    Unreadable(String),
}

struct Seen {
    at: lines::Stamp,
    took: Option<(Ns, Ns)>,
    account: Option<String>,
    api: Option<String>,
    /// It is a line of Tollgate's own log.
    ours: bool,
}

impl Audit {
    /// Understands what is asked.
    ///
    /// # Errors
    /// The configuration or an option is wrong, or no limit is left to prove.
    pub fn new(options: Options) -> Result<Self, AuditError> {
        let mut declared = match &options.config {
            None => Declared::default(),
            Some(text) => limits::declared(text, options.platform.as_deref())
                .map_err(|reason| asked(format!("the configuration {reason}")))?,
        };
        for text in &options.limits {
            let limits = limits::from_line(text)
                .map_err(|reason| asked(format!("--limit {}: {reason}", preview(text))))?;
            declared.limits.extend(limits);
        }
        let known: Vec<String> = declared.limits.iter().map(|limit| limit.name.clone()).collect();
        for only in &options.only {
            if !known.contains(only) {
                let names = known.join(", ");
                return Err(asked(format!("--only {}: there is {names}", preview(only))));
            }
        }
        if !options.only.is_empty() {
            declared.limits.retain(|limit| options.only.contains(&limit.name));
        }
        if declared.limits.is_empty() {
            return Err(asked("there is no limit to prove: declare one, or say --limit".into()));
        }
        let mut fields = Fields(Vec::new());
        let mut field = |name: &str| -> usize {
            fields.0.iter().position(|known| known == name).unwrap_or_else(|| {
                fields.0.push(name.to_owned());
                fields.0.len() - 1
            })
        };
        let mut counted = |told: &Option<String>,
                           usual: &[&str]|
         -> Result<Vec<Counted>, AuditError> {
            let Some(text) = told else {
                return Ok(usual.iter().map(|name| (field(name), Unit::of_name(name))).collect());
            };
            let (name, unit) = match text.rsplit_once(':') {
                None => (text.as_str(), Unit::of_name(text)),
                Some((name, unit)) => {
                    let unit = Unit::parse(unit);
                    let told =
                        || asked(format!("`{}`: the unit is s, ms, us or ns", preview(text)));
                    (name, Some(unit.ok_or_else(told)?))
                }
            };
            Ok(vec![(field(name.strip_prefix('$').unwrap_or(name)), unit)])
        };
        let times = counted(&options.time, &TIMES)?;
        let lengths = counted(&options.took, &LENGTHS)?;
        let targets = TARGETS.iter().map(|name| field(name)).collect();
        let (platform, event) = (field("platform"), field("event"));
        let mut place = |told: &Option<String>, flag: &str| -> Result<Option<Where>, AuditError> {
            let Some(text) = told else { return Ok(None) };
            let source = Source::parse(text);
            let source = source.map_err(|why| asked(format!("{flag} {}: {why}", preview(text))))?;
            if let Source::Path(template) = &source {
                let name = flag.trim_start_matches('-');
                if !template.names().any(|own| own == name) {
                    let why = format!("{flag} {}: it has no {{{name}}}", preview(text));
                    return Err(asked(why));
                }
            }
            Ok(Some(match source {
                Source::Field(name) => Where::Field(field(&name)),
                other => Where::Target(other),
            }))
        };
        let account_told = place(&options.account, "--account")?;
        let api_told = place(&options.api, "--api")?;
        let accounts = if let Some(place) = account_told {
            vec![place]
        } else {
            let mut places = vec![Where::Field(field("account"))];
            for header in &declared.account_headers {
                let variable = header.to_ascii_lowercase().replace('-', "_");
                places.push(Where::Field(field(&format!("http_{variable}"))));
            }
            let paths = declared.apis.iter().map(|(_, path)| path);
            let with_account = paths.filter(|path| path.names().next().is_some());
            places.extend(with_account.map(|path| Where::Target(Source::Path(path.clone()))));
            let queries = declared.account_queries.iter();
            places.extend(queries.map(|name| Where::Target(Source::Query(name.clone()))));
            places
        };
        let apis = match api_told {
            Some(place) => vec![place],
            None => vec![Where::Field(field("api"))],
        };
        let wrong = |reason| asked(format!("--line: {reason}"));
        let form = match &options.form {
            None => None,
            Some(text) => {
                let text = text.trim().trim_matches('\'');
                let variables = Form::variables(text);
                let timed = times.iter().any(|(time, _)| variables.contains(&fields.0[*time]));
                if !timed {
                    return Err(wrong("it has no time: $msec, $time_local or --time".into()));
                }
                Some(Form::new(text, &fields).map_err(wrong)?)
            }
        };
        let combined = Form::new(COMBINED, &fields).map_err(wrong)?;
        let proof = Proof::new(&declared.limits);
        let mut names = Names::default();
        let mut limit_apis = Vec::new();
        for limit in &declared.limits {
            let apis = limit.api.iter().chain(&limit.only);
            limit_apis.push(apis.map(|api| names.number(api)).collect::<Result<Vec<u32>, _>>()?);
        }
        Ok(Self {
            declared,
            fields,
            form,
            combined,
            times,
            lengths,
            targets,
            platform,
            event,
            accounts,
            apis,
            options,
            names,
            limit_apis,
            proof,
            waiting: BinaryHeap::new(),
            newest: Ns::MIN,
            first: Vec::new(),
            steps: Vec::new(),
            took_step: None,
            started: false,
            ours: false,
            logs: Vec::new(),
            lines: 0,
            stepped_over: 0,
            unreadable: 0,
            told: Vec::new(),
        })
    }

    /// Reads a log to its end; one that is gzip is unpacked. `name` is what places show.
    ///
    /// # Errors
    /// It cannot be read, or holds more accounts than are told apart.
    pub fn read(&mut self, name: &str, mut input: impl Read) -> Result<(), AuditError> {
        const GZIP: [u8; 2] = [0x1f, 0x8b];
        let mut number = 0_u64;
        let failed = |line, error| AuditError::Read { name: name.to_owned(), line, error };
        let mut first = Vec::new();
        input.by_ref().take(2).read_to_end(&mut first).map_err(|error| failed(1, error))?;
        let packed = first == GZIP;
        let input = Cursor::new(first).chain(input);
        let input: Box<dyn Read + '_> = if packed {
            Box::new(flate2::read::MultiGzDecoder::new(input))
        } else {
            Box::new(input)
        };
        let mut input = BufReader::with_capacity(1 << 17, input);
        self.logs.push(name.to_owned());
        let log = (self.logs.len() as u64 - 1) << 48;
        let mut line = Vec::new();
        loop {
            let read =
                read_line(&mut input, &mut line).map_err(|error| failed(number + 1, error))?;
            number += 1;
            let found = match read {
                Line::End => return Ok(()),
                Line::Whole if line.iter().all(u8::is_ascii_whitespace) => continue,
                Line::Whole => {
                    while line.last().is_some_and(|byte| *byte == b'\r') {
                        line.pop();
                    }
                    self.understand(&line)
                }
                Line::Long => Found::Unreadable("it is longer than 256 KiB".into()),
            };
            self.lines += 1;
            match found {
                Found::Other => self.stepped_over += 1,
                Found::Unreadable(why) => {
                    self.unreadable += 1;
                    if self.told.len() < TOLD_MAX {
                        self.told.push(format!("{name}:{number}: {why}"));
                    }
                }
                Found::Call(seen) => {
                    let Seen { at, took, account, api, ours } = *seen;
                    self.ours |= ours;
                    let account = account.map(|name| self.names.number(&name)).transpose()?;
                    let api = api.map(|name| self.names.number(&name)).transpose()?;
                    if let Some((_, step)) = took.filter(|_| !self.started) {
                        self.took_step = Some(self.took_step.map_or(step, |known| known.min(step)));
                    }
                    let took = took.map(|(took, _)| took);
                    let start = match took {
                        Some(took) if self.options.stamped_at_end => at.at.saturating_sub(took),
                        _ => at.at,
                    };
                    let end = took.map(|took| start.saturating_add(took));
                    let call = Entry { at: start, line: log | number, end, account, api };
                    self.take(call, at.step);
                }
            }
        }
    }

    fn understand(&self, line: &[u8]) -> Found {
        let json = self.form.is_none() && line.first() == Some(&b'{');
        let row = if json {
            match read_json(line, &self.fields) {
                Ok(row) => row,
                Err(why) => return Found::Unreadable(format!("it is not JSON: {why}")),
            }
        } else {
            let Ok(text) = std::str::from_utf8(line) else {
                return Found::Unreadable("it is not UTF-8".into());
            };
            let form = self.form.as_ref().unwrap_or(&self.combined);
            match form.read(text, self.fields.0.len()) {
                Some(row) => row,
                None if self.form.is_some() => {
                    return Found::Unreadable("it is not of the form that --line declares".into());
                }
                None => {
                    let why =
                        "it is neither JSON nor of the combined format: --line declares others";
                    return Found::Unreadable(why.into());
                }
            }
        };
        let event = row[self.event].as_ref().map(Cell::text);
        if event.as_deref().is_some_and(|event| event != "permit") {
            return Found::Other;
        }
        let ours = event.is_some();
        if let (Some(told), Some(wanted)) = (&row[self.platform], &self.declared.platform)
            && told.text() != wanted.as_str()
        {
            return Found::Other;
        }
        let target = self.targets.iter().find_map(|place| row[*place].as_ref()).map(Cell::text);
        // `GET /path HTTP/1.1`, or the target alone.
        let target = target.as_deref().unwrap_or_default();
        let mut words = target.split(' ');
        let target = match (words.next(), words.next()) {
            (Some(_), Some(target)) | (Some(target), None) => target,
            (None, _) => "",
        };
        let (path, query) = split_target(target);
        let find = |places: &[Where], name: &str| -> Option<String> {
            places.iter().find_map(|place| match place {
                Where::Field(field) => {
                    let text = row[*field].as_ref()?.text();
                    (text != "-" && !text.is_empty()).then(|| text.into_owned())
                }
                Where::Target(Source::Path(template)) => {
                    template.find(name, path).map(std::borrow::Cow::into_owned)
                }
                Where::Target(Source::Query(name)) => {
                    query_value(name, query).map(std::borrow::Cow::into_owned)
                }
                Where::Target(Source::Field(_)) => None,
            })
        };
        let api_of_path = || {
            let mut known = self.declared.apis.iter();
            known.find(|(_, template)| template.matches(path)).map(|(api, _)| api.clone())
        };
        let api = find(&self.apis, "api").or_else(api_of_path);
        let account = find(&self.accounts, "account");
        if account.is_none() && self.proof.needs_account() {
            return match api {
                Some(_) => Found::Unreadable("its account is not found".into()),
                None => Found::Other,
            };
        }
        let time = self.times.iter().find_map(|(place, unit)| Some((row[*place].as_ref()?, *unit)));
        let Some((cell, unit)) = time else {
            return Found::Unreadable("it says no time: --time names the field".into());
        };
        // Far from where sums of times would leave the range.
        let told = stamp(cell, unit).filter(|stamp| stamp.at.unsigned_abs() < 1 << 61);
        let Some(at) = told else {
            return Found::Unreadable(format!("`{}` is no time", preview(&cell.text())));
        };
        let took = self
            .lengths
            .iter()
            .find_map(|(place, unit)| length(row[*place].as_ref()?, unit.unwrap_or(Unit::SECONDS)));
        Found::Call(Box::new(Seen { at, took, account, api, ours }))
    }

    /// Takes a call on its way: the first lines wait until the step of the clock is known, and all until no
    /// earlier one can come.
    fn take(&mut self, call: Entry, step: Ns) {
        if self.started {
            self.sort(call);
            return;
        }
        self.first.push(call);
        self.steps.push(step);
        if self.first.len() >= LOOK_AHEAD {
            self.start();
        }
    }

    fn start(&mut self) {
        self.started = true;
        let finest = self.steps.iter().copied().min().unwrap_or(1);
        // A clock may step in coarser steps than its digits say.
        let coarser = [1_000_000_000, 1_000_000, 1_000].into_iter().find(|step| {
            self.first.len() >= STEP_LINES_MIN && self.first.iter().all(|call| call.at % step == 0)
        });
        let step = self.options.step.unwrap_or(finest.max(coarser.unwrap_or(1)));
        let cut_off = |step: Ns| if step <= EXACT { 0 } else { step };
        let (cut, took) = (cut_off(step), cut_off(self.took_step.unwrap_or(0)));
        let slack = self.options.slack;
        // The start is the end less the time it took, which is cut off as well.
        let back = if self.options.stamped_at_end { took } else { 0 };
        let permit = if self.ours { PERMIT_USE } else { 0 };
        let error = counter::Error {
            early: slack.saturating_add(back),
            late: slack.saturating_add(cut).saturating_add(permit),
            cut: cut > 0,
            took,
        };
        self.proof.stamps(step, error);
        for call in std::mem::take(&mut self.first) {
            self.sort(call);
        }
        self.steps = Vec::new();
    }

    fn sort(&mut self, call: Entry) {
        self.newest = self.newest.max(call.at);
        self.waiting.push(Reverse(call));
        let until = self.newest.saturating_sub(self.options.sort_within);
        while self.waiting.peek().is_some_and(|Reverse(call)| call.at <= until)
            || self.waiting.len() > SORTED_MAX
        {
            let Some(Reverse(call)) = self.waiting.pop() else { break };
            self.proof.count(&self.declared.limits, &self.limit_apis, &call);
        }
    }

    /// No more logs come: what was shown.
    pub fn finish(mut self) -> Report {
        if !self.started {
            self.start();
        }
        while let Some(Reverse(call)) = self.waiting.pop() {
            self.proof.count(&self.declared.limits, &self.limit_apis, &call);
        }
        let read = report::Seen {
            platform: self.declared.platform.clone(),
            lines: self.lines,
            stepped_over: self.stepped_over,
            unreadable: self.unreadable,
            told: self.told,
            permits: self.ours,
            logs: self.logs,
            names: self.names.texts,
        };
        report::of(&self.declared.limits, self.proof, read)
    }
}
