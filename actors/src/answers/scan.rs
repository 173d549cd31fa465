//! Looks at a JSON text as it streams by: what stands at some places, and how long some lists are.
//!
//! Own, because no parser at hand is fed piece by piece: an answer may have gigabytes and is looked at while it is
//! stored, with memory for a few values and one frame for each level of nesting. It takes several values one after
//! the other too, which is NDJSON. It checks the structure and the ends of strings, not how numbers are written.

use std::sync::Arc;

use crate::observe::JsonPath;

/// Most places looked at in one text: one bit each.
pub(crate) const PATHS_MAX: usize = 64;
/// Deepest nesting that is followed.
const DEPTH_MAX: usize = 512;
/// Most values kept of one place.
const VALUES_MAX: usize = 32;
/// Longest value or name that is kept, in bytes as written; a longer one is cut and like no other.
const VALUE_BYTES_MAX: usize = 1024;
/// What stands at the end of one that was cut.
const CUT: char = '…';

/// What stands at one place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// The values, as text without quotes; null is none, nor are lists and objects.
    pub(crate) values: Vec<String>,
    /// Whether there is anything but null.
    pub(crate) is_there: bool,
    /// Elements of the lists there, if there are lists.
    pub(crate) elements: Option<u64>,
}

/// What can be said of the text as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whole {
    /// It was all read.
    Yes,
    /// It has nothing but blanks.
    Empty,
    /// It does not even begin as an object or a list.
    Other,
    /// It begins as JSON and breaks off, goes on otherwise or nests too deep.
    Broken,
}

/// A JSON text as it streams by.
#[derive(Debug)]
pub(crate) struct JsonScan {
    paths: Arc<[JsonPath]>,
    found: Vec<Found>,
    stack: Vec<Frame>,
    at: At,
    /// The name or value in hand, as written, as far as it is wanted.
    text: Vec<u8>,
    cut: bool,
    /// Which places the value that comes lies on the way to, and which it stands at.
    on_way: u64,
    stands_at: u64,
    /// Bytes of a byte order mark at the beginning.
    marks: usize,
    /// Values one after the other, and the elements of the first if it is a list.
    values: u64,
    list: Option<u64>,
    broken: bool,
    other: bool,
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    is_list: bool,
    elements: usize,
    on_way: u64,
    stands_at: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// Before a value.
    Value,
    /// The same where the list may end instead.
    FirstElement,
    /// Before a name; where the object may end instead, and not.
    FirstName,
    Name,
    Colon,
    /// Behind a value.
    Behind,
    /// In a string: whether it is a name, and behind a backslash.
    Text {
        is_name: bool,
        escaped: bool,
    },
    /// In a number, true, false or null.
    Bare,
}

impl JsonScan {
    /// Looks for these places, at most [`PATHS_MAX`] of them.
    pub(crate) fn new(paths: Arc<[JsonPath]>) -> Self {
        let all = if paths.len() >= PATHS_MAX { u64::MAX } else { (1 << paths.len()) - 1 };
        Self {
            found: vec![Found::default(); paths.len()],
            paths,
            stack: Vec::new(),
            at: At::Value,
            text: Vec::new(),
            cut: false,
            on_way: all,
            stands_at: 0,
            marks: 0,
            values: 0,
            list: None,
            broken: false,
            other: false,
        }
    }

    /// What stands at a place, as far as the text was read.
    pub(crate) fn found(&self, path: &JsonPath) -> Option<&Found> {
        self.found.get(self.paths.iter().position(|known| known == path)?)
    }

    /// Elements of the text's one list, or how many values it has one after the other.
    pub(crate) fn records(&self) -> u64 {
        match self.list {
            Some(elements) if self.values == 1 => elements,
            _ => self.values,
        }
    }

    /// The next bytes.
    pub(crate) fn take(&mut self, mut bytes: &[u8]) {
        const MARK: [u8; 3] = [0xef, 0xbb, 0xbf];
        while self.marks < MARK.len() {
            match bytes.split_first() {
                None => return,
                Some((byte, rest)) if *byte == MARK[self.marks] => {
                    self.marks += 1;
                    bytes = rest;
                }
                Some(_) => self.marks = MARK.len(),
            }
        }
        while !bytes.is_empty() && !self.broken && !self.other {
            let taken = self.step(bytes);
            bytes = &bytes[taken..];
        }
    }

    /// That was all.
    pub(crate) fn end(&mut self) -> Whole {
        if self.at == At::Bare && self.stack.is_empty() {
            self.value_ends();
        }
        if self.other {
            return Whole::Other;
        }
        let between = self.stack.is_empty() && self.at == At::Value;
        match (self.broken || !between, self.values) {
            (true, _) => Whole::Broken,
            (false, 0) => Whole::Empty,
            (false, _) => Whole::Yes,
        }
    }

    /// Takes some of the bytes; none only where it has understood something of them.
    fn step(&mut self, bytes: &[u8]) -> usize {
        let byte = bytes[0];
        match self.at {
            At::Text { is_name, escaped: false } => {
                // Most bytes of most answers: up to the next one that means something.
                let plain = bytes.iter().position(|byte| matches!(byte, b'"' | b'\\'));
                let plain = plain.unwrap_or(bytes.len());
                self.keep(&bytes[..plain], is_name);
                let Some(sign) = bytes.get(plain) else { return plain };
                if *sign == b'\\' {
                    self.keep(b"\\", is_name);
                    self.at = At::Text { is_name, escaped: true };
                } else if is_name {
                    self.name_ends();
                } else {
                    self.text_ends();
                }
                return plain + 1;
            }
            At::Text { is_name, escaped: true } => {
                self.keep(&bytes[..1], is_name);
                self.at = At::Text { is_name, escaped: false };
                return 1;
            }
            At::Bare => {
                let is_over =
                    |byte: &u8| matches!(byte, b',' | b']' | b'}' | b' ' | b'\t' | b'\r' | b'\n');
                let over = bytes.iter().position(is_over);
                let end = over.unwrap_or(bytes.len());
                self.keep(&bytes[..end], false);
                if over.is_some() {
                    self.value_ends();
                }
                return end;
            }
            _ => {}
        }
        if matches!(byte, b' ' | b'\t' | b'\r' | b'\n') {
            return 1;
        }
        match (self.at, byte) {
            (At::Value | At::FirstElement, b'{' | b'[') => self.open(byte == b'['),
            (At::FirstElement, b']') | (At::FirstName, b'}') => self.close(),
            (At::Value | At::FirstElement, b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n') => {
                if self.stack.is_empty() && self.values == 0 {
                    // Text and tables may begin so; an answer in JSON is an object or a list.
                    self.other = true;
                    return 1;
                }
                self.begins();
                self.text.clear();
                self.cut = false;
                if byte == b'"' {
                    self.at = At::Text { is_name: false, escaped: false };
                } else {
                    self.at = At::Bare;
                    return 0;
                }
            }
            (At::FirstName | At::Name, b'"') => {
                self.text.clear();
                self.cut = false;
                self.at = At::Text { is_name: true, escaped: false };
            }
            (At::Colon, b':') => self.at = At::Value,
            (At::Behind, b',') => {
                let is_list = self.stack.last().is_some_and(|frame| frame.is_list);
                self.at = if is_list { At::Value } else { At::Name };
            }
            (At::Behind, b']' | b'}') => {
                if self.stack.last().is_some_and(|frame| frame.is_list == (byte == b']')) {
                    self.close();
                } else {
                    self.broken = true;
                }
            }
            _ if self.stack.is_empty() && self.values == 0 => self.other = true,
            _ => self.broken = true,
        }
        1
    }

    fn keep(&mut self, bytes: &[u8], is_name: bool) {
        let wanted = if is_name {
            self.stack.last().is_some_and(|frame| frame.on_way != 0)
        } else {
            self.stands_at != 0
        };
        if wanted && !self.cut {
            let room = VALUE_BYTES_MAX - self.text.len().min(VALUE_BYTES_MAX);
            self.cut = bytes.len() > room;
            self.text.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
    }

    /// A value begins; in a list it is the next element.
    fn begins(&mut self) {
        let level = self.stack.len();
        let Some(frame) = self.stack.last_mut() else { return };
        if frame.is_list {
            let place = frame.elements;
            frame.elements += 1;
            let on_way = frame.on_way;
            self.follow(on_way, |path| path.goes_to_element(level - 1, place));
        }
    }

    fn follow(&mut self, on_way: u64, goes: impl Fn(&JsonPath) -> bool) {
        (self.on_way, self.stands_at) = (0, 0);
        if on_way == 0 {
            return;
        }
        let level = self.stack.len();
        for (place, path) in self.paths.iter().enumerate() {
            if on_way & (1 << place) != 0 && goes(path) {
                let mask =
                    if path.length() == level { &mut self.stands_at } else { &mut self.on_way };
                *mask |= 1 << place;
            }
        }
    }

    fn open(&mut self, is_list: bool) {
        if self.stack.len() >= DEPTH_MAX {
            self.broken = true;
            return;
        }
        self.begins();
        self.each_at(self.stands_at, |found| found.is_there = true);
        let (on_way, stands_at) = (self.on_way, self.stands_at);
        self.stack.push(Frame { is_list, elements: 0, on_way, stands_at });
        self.at = if is_list { At::FirstElement } else { At::FirstName };
    }

    fn close(&mut self) {
        let Some(frame) = self.stack.pop() else { return };
        if frame.is_list {
            let elements = frame.elements as u64;
            self.each_at(frame.stands_at, |found| {
                found.elements = Some(found.elements.unwrap_or(0) + elements);
            });
            if self.stack.is_empty() {
                self.list.get_or_insert(elements);
            }
        }
        self.behind();
    }

    fn name_ends(&mut self) {
        self.at = At::Colon;
        let on_way = self.stack.last().map_or(0, |frame| frame.on_way);
        let level = self.stack.len();
        if on_way == 0 {
            (self.on_way, self.stands_at) = (0, 0);
            return;
        }
        let name = self.unescaped();
        self.follow(on_way, |path| path.goes_to(level - 1, &name));
    }

    fn text_ends(&mut self) {
        if self.stands_at != 0 {
            let value = self.unescaped();
            self.note(&value);
        }
        self.behind();
    }

    fn value_ends(&mut self) {
        if self.stands_at != 0 {
            let value = String::from_utf8_lossy(&self.text).into_owned();
            if value != "null" {
                self.note(&value);
            }
        }
        self.behind();
    }

    fn note(&mut self, value: &str) {
        self.each_at(self.stands_at, |found| {
            found.is_there = true;
            if found.values.len() < VALUES_MAX {
                found.values.push(value.to_owned());
            }
        });
    }

    fn each_at(&mut self, mask: u64, mut change: impl FnMut(&mut Found)) {
        if mask != 0 {
            let found = self.found.iter_mut().enumerate();
            found.filter(|(place, _)| mask & (1 << place) != 0).for_each(|(_, one)| change(one));
        }
    }

    fn behind(&mut self) {
        if self.stack.is_empty() {
            self.values += 1;
            self.at = At::Value;
            let all = self.paths.len();
            self.on_way = if all >= PATHS_MAX { u64::MAX } else { (1 << all) - 1 };
            self.stands_at = 0;
        } else {
            self.at = At::Behind;
        }
    }

    /// The string in hand as it is meant.
    fn unescaped(&self) -> String {
        let quoted = [b"\"", self.text.as_slice(), b"\""].concat();
        let text = serde_json::from_slice(&quoted);
        let mut text = text.unwrap_or_else(|_| String::from_utf8_lossy(&self.text).into_owned());
        if self.cut {
            text.push(CUT);
        }
        text
    }
}
