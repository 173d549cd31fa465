//! Finds the records of a JSON text that is larger than is held, or broken, as its bytes come.

use std::ops::Range;

use actson::feeder::{JsonFeeder, PushJsonFeeder};
use actson::options::JsonParserOptionsBuilder;
use actson::{JsonEvent, JsonParser};

use crate::table::Step;

/// Deepest nesting that is followed.
pub(crate) const DEPTH_MAX: usize = 2_048;

/// What was found: where, counted from the first byte that was given.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// An object or a list that stands where records do.
    Record(Range<u64>),
    /// Something that is no record stands there.
    Bad(u64, String),
}

/// A text of one or several JSON values.
pub(crate) struct Cutter {
    parser: JsonParser<PushJsonFeeder>,
    steps: Vec<Step>,
    /// Objects and lists on the way to the records; how many steps lead to each.
    way: Vec<usize>,
    /// How many steps lead to the member whose name was read; none: off the way.
    member: Option<usize>,
    /// Levels open off the way, or in a record.
    below: usize,
    record: Option<u64>,
    /// Whether the way was there in this value.
    found: bool,
    /// Where something was last understood.
    understood: u64,
    bytes_max: u64,
    broken: bool,
}

impl Cutter {
    /// Records of at most so many bytes; a longer one, or a longer text anywhere, ends the work.
    pub(crate) fn new(steps: &[Step], bytes_max: u64) -> Self {
        let options = JsonParserOptionsBuilder::default()
            .with_max_depth(DEPTH_MAX)
            .with_streaming(true)
            .build();
        Self {
            parser: JsonParser::new_with_options(PushJsonFeeder::new(), options),
            steps: steps.to_vec(),
            way: Vec::new(),
            member: Some(0),
            below: 0,
            record: None,
            found: false,
            understood: 0,
            bytes_max,
            broken: false,
        }
    }

    /// Where the record begins that has begun and not ended.
    pub(crate) fn open(&self) -> Option<u64> {
        self.record
    }

    /// The next bytes. False: nothing can be told of what follows; why was found.
    pub(crate) fn push(&mut self, bytes: &[u8], found: &mut Vec<Found>) -> bool {
        let mut rest = bytes;
        while !rest.is_empty() && !self.broken {
            let taken = self.parser.feeder.push_bytes(rest);
            rest = &rest[taken..];
            self.drain(found);
        }
        !self.broken
    }

    /// That was all.
    pub(crate) fn end(&mut self, found: &mut Vec<Found>) {
        if !self.broken {
            self.parser.feeder.done();
            self.drain(found);
        }
    }

    fn drain(&mut self, found: &mut Vec<Found>) {
        loop {
            let event = self.parser.next_event();
            let at = self.parser.parsed_bytes() as u64;
            match event {
                Ok(Some(JsonEvent::NeedMoreInput)) => {
                    let from = self.record.unwrap_or(self.understood);
                    if at.saturating_sub(from) > self.bytes_max {
                        self.fail(from, self.too_large(), found);
                    }
                    return;
                }
                Ok(Some(event)) => {
                    self.event(event, at, found);
                    self.understood = at;
                    if let Some(from) = self.record
                        && at.saturating_sub(from) > self.bytes_max
                    {
                        self.fail(from, self.too_large(), found);
                        return;
                    }
                }
                Ok(None) => return,
                Err(_) => {
                    let ended = self.parser.feeder.is_done() && !self.parser.feeder.has_input();
                    let what = if ended { "the text breaks off" } else { "this is not JSON" };
                    let reason = format!("{what}, at byte {at}; nothing is read from here on");
                    self.fail(self.record.unwrap_or(at), reason, found);
                    return;
                }
            }
        }
    }

    fn too_large(&self) -> String {
        format!(
            "a record or text is larger than {} bytes; nothing is read from here on",
            self.bytes_max
        )
    }

    fn fail(&mut self, at: u64, reason: String, found: &mut Vec<Found>) {
        self.broken = true;
        found.push(Found::Bad(at, reason));
    }

    fn event(&mut self, event: JsonEvent, at: u64, found: &mut Vec<Found>) {
        if self.below > 0 {
            match event {
                JsonEvent::StartObject | JsonEvent::StartArray => self.below += 1,
                JsonEvent::EndObject | JsonEvent::EndArray => {
                    self.below -= 1;
                    if self.below == 0 {
                        if let Some(from) = self.record.take() {
                            found.push(Found::Record(from..at));
                        }
                        self.after_value(at, found);
                    }
                }
                _ => {}
            }
            return;
        }
        match event {
            JsonEvent::FieldName => {
                let on = *self.way.last().unwrap_or(&0);
                let name = self.parser.current_str().unwrap_or_default();
                let is_next = matches!(&self.steps[on], Step::Field(wanted) if wanted == name);
                self.member = is_next.then_some(on + 1);
            }
            JsonEvent::EndObject | JsonEvent::EndArray => {
                self.way.pop();
                self.after_value(at, found);
            }
            _ => self.value(event, at, found),
        }
    }

    /// A value begins whose place is `member`.
    fn value(&mut self, event: JsonEvent, at: u64, found: &mut Vec<Found>) {
        let (object, list) = (event == JsonEvent::StartObject, event == JsonEvent::StartArray);
        let nested = object || list;
        match self.member {
            None => {}
            Some(on) if on == self.steps.len() => {
                self.found = true;
                let may_miss = matches!(self.steps.last(), Some(Step::Field(_)));
                if nested {
                    self.record = Some(at - 1);
                } else if !(event == JsonEvent::ValueNull && may_miss) {
                    found.push(Found::Bad(at, "a record is not an object".to_owned()));
                }
            }
            Some(on) => {
                let wants_list = self.steps[on] == Step::Each;
                if (wants_list && list) || (!wants_list && object) {
                    self.way.push(on);
                    // An empty list is there.
                    self.found |= on + 1 == self.steps.len() && wants_list;
                    self.member = wants_list.then_some(on + 1);
                    return;
                }
                self.found = true;
                if event != JsonEvent::ValueNull {
                    let what = if wants_list { "a list" } else { "an object" };
                    let reason = format!("`{}` is not {what}", way(&self.steps[..on]));
                    found.push(Found::Bad(at, reason));
                }
            }
        }
        if nested {
            self.below = 1;
        } else {
            self.after_value(at, found);
        }
    }

    /// A value has ended.
    fn after_value(&mut self, at: u64, found: &mut Vec<Found>) {
        if let Some(on) = self.way.last() {
            self.member = (self.steps[*on] == Step::Each).then_some(on + 1);
            return;
        }
        if !self.found {
            found.push(Found::Bad(at, format!("there is no `{}`", way(&self.steps))));
        }
        self.found = false;
        self.member = Some(0);
    }
}

/// Steps as they are written.
pub(crate) fn way(steps: &[Step]) -> String {
    let mut text = String::new();
    for step in steps {
        match step {
            Step::Each => text.push_str("[]"),
            Step::Field(name) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(name);
            }
        }
    }
    if text.is_empty() { "the document".to_owned() } else { text }
}

/// What is in a text that is held whole. A text with nothing in it is told too.
pub(crate) fn cut(text: &[u8], steps: &[Step], bytes_max: u64) -> Vec<Found> {
    let mut cutter = Cutter::new(steps, bytes_max);
    let mut found = Vec::new();
    cutter.push(text, &mut found);
    cutter.end(&mut found);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::records;

    fn told(steps: &str, text: &str) -> Vec<String> {
        let found = cut(text.as_bytes(), &records(steps).unwrap(), 64);
        let told = found.into_iter().map(|found| match found {
            Found::Record(range) => {
                text.get(range.start as usize..range.end as usize).unwrap().to_owned()
            }
            Found::Bad(_, reason) => format!("! {reason}"),
        });
        told.collect()
    }

    #[test]
    fn records_are_found_where_the_way_leads() {
        let text =
            r#"{"x":[{"a":0}],"data":{"n":1,"rows":[{"a":[1,{"b":2}]},{"a":3}],"rows2":[{}]}}"#;
        assert_eq!(told("data.rows[]", text), [r#"{"a":[1,{"b":2}]}"#, r#"{"a":3}"#]);
        assert_eq!(told("data.n", text), ["! a record is not an object"]);
        assert_eq!(told("", "{\"a\":1}\n {\"a\":2}"), ["{\"a\":1}", "{\"a\":2}"]);
        assert_eq!(told("[]", "[{\"a\":1},{}]"), ["{\"a\":1}", "{}"]);
        assert_eq!(told("[][]", "[[{}],[],[{}]]"), ["{}", "{}"]);
        assert_eq!(
            told("a[].b", r#"{"a":[{"b":{"c":1}},{"b":null},{"b":{}}]}"#),
            [r#"{"c":1}"#, "{}"]
        );
        assert!(told("data.rows[]", r#"{"data":{"rows":[]}}"#).is_empty());
        assert!(told("data.rows[]", r#"{"data":null}"#).is_empty());
    }

    #[test]
    fn what_is_missing_or_broken_is_told() {
        assert_eq!(told("data.rows[]", r#"{"error":{}}"#), ["! there is no `data.rows[]`"]);
        assert_eq!(told("data.rows[]", r#"{"data":{"rows":{}}}"#), ["! `data.rows` is not a list"]);
        let cut = told("r[]", r#"{"r":[{"a":1},{"a":"#);
        assert_eq!(cut[0], r#"{"a":1}"#);
        assert!(cut[1].starts_with("! the text breaks off, at byte 19"), "{cut:?}");
        let large = told("r[]", &format!(r#"{{"r":[{{"a":1}},{{"a":"{}"}}]}}"#, "x".repeat(99)));
        assert!(large[1].contains("larger than 64 bytes"), "{large:?}");
        let beside = told("r[]", &format!(r#"{{"b":"{}","r":[]}}"#, "x".repeat(9_999)));
        assert!(beside[0].contains("larger than 64 bytes"), "{beside:?}");
        assert!(told("", "{]")[0].contains("not JSON"));
    }
}
