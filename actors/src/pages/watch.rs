//! Reads what paging needs of a JSON body while it goes by.
//!
//! What is held is bounded by the longest single text of the body ([`TOKEN_BYTES_MAX`]) and by how deep paths
//! are, not by the body. Values are found by the same paths as those of `observe` and `over`.

use std::any::Any;
use std::fmt;

use actson::feeder::PushJsonFeeder;
use actson::options::JsonParserOptionsBuilder;
use actson::parser::ParserError;
use actson::{JsonEvent, JsonParser};

use super::{CURSOR_BYTES_MAX, Pages, Place, Stop, TOKEN_BYTES_MAX};
use crate::observe::{JsonPath, PATH_STEPS_MAX};
use crate::recipe::URL_BYTES_MAX;
use crate::store::Tap;

/// Most paths of one api: rows, the next page, a total, and stop rules.
const WANTS_MAX: usize = 8;
/// Deepest nesting of a body.
const DEPTH_MAX: usize = 512;
/// No step of a path leads here.
const OFF: u8 = u8::MAX;
/// Longest value that is kept, in bytes.
const VALUE_BYTES_MAX: usize =
    if URL_BYTES_MAX > CURSOR_BYTES_MAX { URL_BYTES_MAX } else { CURSOR_BYTES_MAX } + 1;

const _: () = assert!(PATH_STEPS_MAX < OFF as usize);

/// What was found at one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    /// `null`.
    Null,
    /// A text, a number, true or false, as text; cut where it is longer than any of use.
    Text(String),
    /// A list or an object.
    Nested,
}

/// What a body said.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    found: Vec<(JsonPath, Option<Value>)>,
    /// How many rows there are; nothing where their list is not there.
    pub(crate) rows: Option<u64>,
    /// Why it is not known to the end.
    pub(crate) broken: Option<Broken>,
}

/// Why a body could not be read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// It is not JSON, or breaks off.
    NotJson,
    /// One text of it is longer than [`TOKEN_BYTES_MAX`].
    TooLong,
}

impl Seen {
    /// What stands at one of the watched paths.
    pub(crate) fn at(&self, path: &JsonPath) -> Option<&Value> {
        self.found.iter().find(|(known, _)| known == path)?.1.as_ref()
    }
}

/// Watches a body for what an api's pages need.
pub(crate) struct Watch {
    parser: JsonParser<PushJsonFeeder>,
    /// How many bytes of a byte order mark were skipped; nothing once something else came.
    skipped: Option<usize>,
    /// Bytes since something was last understood.
    pending: usize,
    wants: Vec<Want>,
    frames: Vec<Frame>,
    /// How far below the last frame the reader is, where nothing is wanted.
    below: usize,
    seen: Seen,
    ended: bool,
}

/// A path to look for. The rows are counted, of all others the first value counts.
struct Want {
    path: JsonPath,
    is_rows: bool,
}

/// An object or a list that leads to something wanted.
struct Frame {
    is_list: bool,
    /// The next element of a list.
    index: usize,
    /// How many steps of each path lead to this value.
    at: Steps,
    /// The same of the member whose name was read.
    member: Steps,
    counts: bool,
}

type Steps = [u8; WANTS_MAX];

impl Watch {
    /// A watcher for one page; nothing if nothing of bodies is needed.
    pub(crate) fn new(pages: &Pages) -> Option<Self> {
        if !pages.wants_body() {
            return None;
        }
        let mut wants: Vec<Want> = Vec::new();
        let mut want = |path: &JsonPath, is_rows| {
            if wants.iter().all(|want| want.is_rows != is_rows || want.path != *path) {
                wants.push(Want { path: path.clone(), is_rows });
            }
        };
        if let Some(path) = &pages.items {
            want(path, true);
        }
        if let Some(Place::Body(path)) = &pages.next {
            want(path, false);
        }
        if let Some(path) = &pages.total {
            want(path, false);
        }
        for stop in &pages.stop {
            if let Stop::Pages(path) | Stop::Rows(path) | Stop::More(path) = stop {
                want(path, false);
            }
        }
        wants.truncate(WANTS_MAX);
        let found = wants.iter().filter(|want| !want.is_rows);
        let found = found.map(|want| (want.path.clone(), None)).collect();
        let options = JsonParserOptionsBuilder::default().with_max_depth(DEPTH_MAX).build();
        Some(Self {
            parser: JsonParser::new_with_options(PushJsonFeeder::new(), options),
            skipped: Some(0),
            pending: 0,
            wants,
            frames: Vec::new(),
            below: 0,
            seen: Seen { found, ..Seen::default() },
            ended: false,
        })
    }

    /// The body has ended.
    pub(crate) fn finish(mut self) -> Seen {
        if self.seen.broken.is_none() {
            self.parser.feeder.done();
            self.drain();
            if self.seen.broken.is_none() && !self.ended {
                self.seen.broken = Some(Broken::NotJson);
            }
        }
        self.seen
    }

    fn drain(&mut self) {
        loop {
            match self.parser.next_event() {
                Ok(Some(JsonEvent::NeedMoreInput)) => return,
                Ok(Some(event)) => {
                    self.pending = 0;
                    self.event(event);
                }
                Ok(None) => {
                    self.ended = true;
                    return;
                }
                Err(ParserError::NoMoreInput) if self.ended => return,
                Err(_) => {
                    self.seen.broken = Some(Broken::NotJson);
                    return;
                }
            }
        }
    }

    fn event(&mut self, event: JsonEvent) {
        match event {
            JsonEvent::NeedMoreInput => {}
            JsonEvent::StartObject => self.open(false),
            JsonEvent::StartArray => self.open(true),
            JsonEvent::EndObject | JsonEvent::EndArray => {
                if self.below > 0 {
                    self.below -= 1;
                } else {
                    self.frames.pop();
                }
            }
            JsonEvent::FieldName => self.name(),
            JsonEvent::ValueNull => self.scalar(|_| Value::Null),
            JsonEvent::ValueTrue => self.scalar(|_| Value::Text("true".into())),
            JsonEvent::ValueFalse => self.scalar(|_| Value::Text("false".into())),
            JsonEvent::ValueString | JsonEvent::ValueInt | JsonEvent::ValueFloat => {
                self.scalar(|parser| {
                    let text = parser.current_str().unwrap_or_default();
                    let end = (0..=VALUE_BYTES_MAX.min(text.len())).rev();
                    let end = end.into_iter().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
                    Value::Text(text.get(..end).unwrap_or_default().to_owned())
                });
            }
        }
    }

    /// How many steps of each path lead to the value that begins now.
    fn begin(&mut self) -> Option<Steps> {
        if self.below > 0 {
            return None;
        }
        let Some(frame) = self.frames.last_mut() else { return Some([0; WANTS_MAX]) };
        if !frame.is_list {
            return Some(frame.member);
        }
        let place = frame.index;
        frame.index += 1;
        if frame.counts {
            *self.seen.rows.get_or_insert(0) += 1;
        }
        let at = frame.at;
        Some(steps(&self.wants, at, |step| step.is_at(place)))
    }

    fn name(&mut self) {
        if self.below > 0 {
            return;
        }
        let Some(frame) = self.frames.last_mut() else { return };
        let name = self.parser.current_str().unwrap_or_default();
        frame.member = steps(&self.wants, frame.at, |step| step.names(name));
    }

    fn open(&mut self, is_list: bool) {
        let Some(at) = self.begin() else {
            self.below += 1;
            return;
        };
        let mut counts = false;
        for (place, want) in self.wants.iter().enumerate() {
            if usize::from(at[place]) != want.path.steps().len() {
                continue;
            }
            if !want.is_rows {
                note(&mut self.seen, &want.path, Value::Nested);
            } else if is_list {
                counts = true;
                self.seen.rows.get_or_insert(0);
            }
        }
        let leads = self.wants.iter().zip(at);
        let leads = leads.into_iter().any(|(want, at)| usize::from(at) < want.path.steps().len());
        if counts || leads {
            let member = [OFF; WANTS_MAX];
            self.frames.push(Frame { is_list, index: 0, at, member, counts });
        } else {
            self.below += 1;
        }
    }

    fn scalar(&mut self, value: impl Fn(&JsonParser<PushJsonFeeder>) -> Value) {
        let Some(at) = self.begin() else { return };
        for (place, want) in self.wants.iter().enumerate() {
            if !want.is_rows && usize::from(at[place]) == want.path.steps().len() {
                note(&mut self.seen, &want.path, value(&self.parser));
            }
        }
    }
}

/// The first value counts.
fn note(seen: &mut Seen, path: &JsonPath, value: Value) {
    if let Some((_, found)) = seen.found.iter_mut().find(|(known, _)| known == path) {
        found.get_or_insert(value);
    }
}

fn steps(wants: &[Want], at: Steps, holds: impl Fn(&crate::observe::Step) -> bool) -> Steps {
    let mut next = [OFF; WANTS_MAX];
    for (place, want) in wants.iter().enumerate() {
        if at[place] != OFF
            && let Some(step) = want.path.steps().get(usize::from(at[place]))
            && holds(step)
        {
            next[place] = at[place] + 1;
        }
    }
    next
}

impl Tap for Watch {
    fn see(&mut self, bytes: &[u8]) {
        const BOM: &[u8] = b"\xef\xbb\xbf";
        if self.seen.broken.is_some() {
            return;
        }
        let mut rest = bytes;
        while let (Some(skipped), Some(first)) = (self.skipped, rest.first()) {
            self.skipped = if BOM.get(skipped) == Some(first) {
                rest = &rest[1..];
                Some(skipped + 1)
            } else {
                None
            };
        }
        while !rest.is_empty() && self.seen.broken.is_none() {
            let taken = self.parser.feeder.push_bytes(rest);
            rest = &rest[taken..];
            self.pending += taken;
            self.drain();
            if self.pending > TOKEN_BYTES_MAX {
                self.seen.broken = Some(Broken::TooLong);
            } else if taken == 0 && self.parser.feeder.is_full() {
                // A parser that takes nothing would be asked for ever.
                self.seen.broken = Some(Broken::NotJson);
            }
        }
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}
