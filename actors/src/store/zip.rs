//! Members of a zip archive, taken out as the archive streams by: one, or several one after the other (`members`). No
//! IO, no async.
//!
//! The archive's own list of members stands at its end, so the headers before each member are read instead (APPNOTE
//! 6.3.10 §4.3: <https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT>). What cannot be told from them alone
//! is refused: encryption, and methods other than stored and deflate. A stored member whose length comes after it ends
//! where a descriptor with its sign has the checksum and the length of all before it, and a record follows; the list at
//! the archive's end must have the same. Checksums and lengths are compared, and an archive without its end is cut short.

use std::fmt;
use std::io::{self, Write};

use flate2::{Crc, Decompress, FlushDecompress, Status};

use super::Pick;
use super::codec::STEP_BYTES;
use super::members::{Mark, Members, Several};

const MEMBER: [u8; 4] = *b"PK\x03\x04";
const DESCRIPTOR: [u8; 4] = *b"PK\x07\x08";
const LISTED: [u8; 4] = *b"PK\x01\x02";
const END: [u8; 4] = *b"PK\x05\x06";
const END_64: [u8; 4] = *b"PK\x06\x06";
const LOCATOR_64: [u8; 4] = *b"PK\x06\x07";
/// The extra field that has 64-bit lengths, and what stands in the header then.
const EXTRA_64: u16 = 1;
const SEE_EXTRA: u32 = u32::MAX;
/// The longest descriptor: a sign, a checksum and two lengths of 64 bits (§4.3.9).
const DESCRIPTOR_MAX: usize = 24;
/// Names that an error lists.
const NAMES_MAX: usize = 5;
/// Longest record of the archive's end that is skipped at once, in bytes; a longer one is no archive.
const SKIP_MAX: u64 = 1 << 32;

/// Whether bytes begin as an archive does, be it an empty one.
pub(super) fn is_zip(start: &[u8]) -> bool {
    start.starts_with(&MEMBER) || start.starts_with(&END)
}

/// What another download would not mend: an archive that does not hold what is wanted, or holds it in a form
/// that is not read.
#[derive(Debug)]
pub(super) struct Unfit(pub(super) String);

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unfit {}

pub(super) fn unfit(reason: impl Into<String>) -> io::Error {
    io::Error::other(Unfit(reason.into()))
}

fn broken(reason: &str) -> io::Error {
    io::Error::other(format!("the zip archive is broken: {reason}"))
}

/// Writes what is wanted to `W`: one member, or several of which [`ZipDecoder::mark`] tells where each begins and ends.
pub(super) struct ZipDecoder<W: Write> {
    out: W,
    pick: Pick,
    several: Option<Several>,
    state: State,
    /// A record that is not whole yet.
    held: Vec<u8>,
    names: Vec<String>,
    picked: Option<String>,
    buffer: Vec<u8>,
    /// Bytes that came out of members so far, also of those that are not wanted.
    opened: u64,
    /// What the archive's list must have, of members that were written: checksum and length.
    unlisted: Vec<(u32, u64)>,
}

enum State {
    /// A record, once so many bytes of it are held.
    Record {
        need: usize,
    },
    /// Bytes of a member.
    Body(Member),
    /// What follows a member whose header did not know its length.
    After {
        member: Member,
        need: usize,
    },
    /// Bytes without meaning, and whether the archive is over with them.
    Skip {
        left: u64,
        ends: bool,
    },
    Ended,
}

struct Member {
    wanted: bool,
    is_deflate: bool,
    /// What the header says; nothing if it follows the member.
    told: Option<(u32, u64, u64)>,
    is_64: bool,
    /// Bytes of the member read and written.
    read: u64,
    written: u64,
    crc: Crc,
    raw: Decompress,
    /// Bytes of one whose end has to be looked for, which may be its end.
    unsure: Option<Vec<u8>>,
    ended: bool,
}

impl<W: Write> ZipDecoder<W> {
    pub(super) fn new(pick: Pick, out: W) -> Self {
        Self {
            out,
            pick,
            several: None,
            state: State::Record { need: 4 },
            held: Vec::new(),
            names: Vec::new(),
            picked: None,
            buffer: Vec::with_capacity(STEP_BYTES),
            opened: 0,
            unlisted: Vec::new(),
        }
    }

    /// Of several members.
    pub(super) fn several(members: Members, out: W) -> Self {
        Self { several: Some(Several::new(members)), ..Self::new(Pick(None), out) }
    }

    /// The next beginning or end of a member. What was written before it is asked for stands before it, so it is asked
    /// for after each step, until there is none.
    pub(super) fn mark(&mut self) -> Option<Mark> {
        self.several.as_mut()?.mark()
    }

    /// Bytes of the member on its way, as they came and as they were written.
    pub(super) fn of_member(&self) -> (u64, u64) {
        match &self.state {
            State::Body(member) | State::After { member, .. } => (member.read, member.written),
            _ => (0, 0),
        }
    }

    /// Bytes that came out of members, wanted or not: what they cost.
    pub(super) fn opened(&self) -> u64 {
        self.opened
    }

    pub(super) fn out(&mut self) -> &mut W {
        &mut self.out
    }

    /// Takes at least one byte, or comes to a mark, and writes at most [`STEP_BYTES`] and what came with them.
    pub(super) fn step(&mut self, input: &[u8]) -> io::Result<usize> {
        let mut taken = 0;
        while taken < input.len() {
            let rest = &input[taken..];
            match std::mem::replace(&mut self.state, State::Ended) {
                State::Record { need } => {
                    taken += self.hold(rest, need);
                    self.state = if self.held.len() < need {
                        State::Record { need }
                    } else {
                        self.record()?
                    };
                }
                State::Skip { left, ends } => {
                    let now = left.min(rest.len() as u64);
                    taken += now as usize;
                    self.state = match left - now {
                        0 if ends => State::Ended,
                        0 => State::Record { need: 4 },
                        left => State::Skip { left, ends },
                    };
                }
                State::Body(mut member) => {
                    let now = if member.unsure.is_some() {
                        self.body_to_descriptor(&mut member, rest)?
                    } else {
                        self.body(&mut member, rest)?
                    };
                    taken += now;
                    let wrote = !self.buffer.is_empty();
                    self.state =
                        if member.ended { self.close(member)? } else { State::Body(member) };
                    // One turn of the decompressor at a time: what came out has to be looked at first.
                    if taken > 0 && wrote {
                        break;
                    }
                    if now == 0 && !wrote && matches!(self.state, State::Body(_)) {
                        return Err(broken("a member does not go on"));
                    }
                }
                State::After { member, need } => {
                    taken += self.hold(rest, need);
                    self.state = if self.held.len() < need {
                        State::After { member, need }
                    } else {
                        self.descriptor(member, need)?
                    };
                }
                State::Ended => return Err(broken("bytes follow its end")),
            }
            if self.several.as_ref().is_some_and(Several::is_marked) {
                break;
            }
        }
        Ok(taken)
    }

    pub(super) fn finish(self) -> io::Result<W> {
        if let State::Body(Member { unsure: Some(unsure), .. }) = &self.state
            && unsure.windows(4).any(|bytes| bytes == END)
        {
            let name = self.names.last().map_or("", String::as_str);
            return Err(unfit(format!(
                "`{name}` in the zip archive is stored and does not say where it ends: its header has no length, no \
                 descriptor with a sign follows it, and the list that has its length comes behind it, too late for what is \
                 read as it comes. Let it be written with deflate, or with lengths"
            )));
        }
        if !matches!(self.state, State::Ended) {
            return Err(io::Error::other("the zip archive was cut short"));
        }
        if !self.unlisted.is_empty() {
            return Err(broken("what its list says of a member is not so"));
        }
        if self.names.is_empty() {
            return Ok(self.out);
        }
        let is_there = match &self.several {
            Some(several) => several.lacks().is_none(),
            None => self.picked.is_some(),
        };
        if is_there { Ok(self.out) } else { Err(unfit(self.lacks())) }
    }

    /// That there is nothing in it, if that is so.
    pub(super) fn is_empty(&self) -> Option<String> {
        let is_over = matches!(self.state, State::Ended);
        (is_over && self.names.is_empty()).then(|| self.lacks())
    }

    fn lacks(&self) -> String {
        let has = match self.names.as_slice() {
            [] => "it is empty".to_owned(),
            names => format!("it has {}", names.join(", ")),
        };
        let pattern = match &self.several {
            Some(several) => several.lacks(),
            None => self.pick.0.as_ref(),
        };
        match pattern {
            Some(pattern) => format!("no member of the zip archive is called `{pattern}`: {has}"),
            None => format!("the zip archive has no member: {has}"),
        }
    }

    fn hold(&mut self, rest: &[u8], need: usize) -> usize {
        let now = need.saturating_sub(self.held.len()).min(rest.len());
        self.held.extend_from_slice(&rest[..now]);
        now
    }

    /// Reads the record that is held, or says how much more of it is needed.
    fn record(&mut self) -> io::Result<State> {
        let sign = [self.held[0], self.held[1], self.held[2], self.held[3]];
        let fixed = match sign {
            MEMBER => 30,
            LISTED => 46,
            END => 22,
            END_64 => 12,
            LOCATOR_64 => 20,
            _ => return Err(broken("there is no header where one belongs")),
        };
        if self.held.len() < fixed {
            return Ok(State::Record { need: fixed });
        }
        let long = |at| u64::from(u16_at(&self.held, at));
        let (left, ends) = match sign {
            MEMBER => {
                let whole = fixed + usize::from(u16_at(&self.held, 26)) + long(28) as usize;
                if self.held.len() < whole {
                    return Ok(State::Record { need: whole });
                }
                let state = self.member();
                self.held.clear();
                return state;
            }
            LISTED => {
                let (crc, size) = (u32_at(&self.held, 16), u32_at(&self.held, 24));
                let is_it = |(own, length): &(u32, u64)| {
                    *own == crc && (size == SEE_EXTRA || u64::from(size) == *length)
                };
                if let Some(at) = self.unlisted.iter().position(is_it) {
                    self.unlisted.swap_remove(at);
                }
                (long(28) + long(30) + long(32), false)
            }
            END => (long(20), true),
            END_64 => (u64_at(&self.held, 4), false),
            _ => (0, false),
        };
        self.held.clear();
        if left > SKIP_MAX {
            return Err(broken("its end is longer than any"));
        }
        Ok(match (left, ends) {
            (0, true) => State::Ended,
            (0, false) => State::Record { need: 4 },
            (left, ends) => State::Skip { left, ends },
        })
    }

    fn member(&mut self) -> io::Result<State> {
        let head = &self.held;
        let flags = u16_at(head, 6);
        let method = u16_at(head, 8);
        let name_end = 30 + usize::from(u16_at(head, 26));
        let name = String::from_utf8_lossy(&head[30..name_end]).into_owned();
        let (crc, packed, size) = (u32_at(head, 14), u32_at(head, 18), u32_at(head, 22));
        let extra = extra_64(&head[name_end..]);
        let is_64 = extra.is_some();
        // In this order, each only where the header refers to it (APPNOTE §4.5.3).
        let mut longs = extra.unwrap_or_default().chunks_exact(8).map(|long| u64_at(long, 0));
        let mut length = |short: u32| match short {
            SEE_EXTRA if is_64 => longs.next().ok_or_else(|| broken("a length is missing")),
            short => Ok(u64::from(short)),
        };
        let size = length(size)?;
        let packed = length(packed)?;
        if let Some(several) = &mut self.several {
            several.looks_at_one()?;
        }
        let is_folder = name.ends_with('/') || (name.ends_with('\\') && size == 0);
        let wanted = !is_folder
            && match &mut self.several {
                Some(several) => several.wants(&head[30..name_end], &name)?,
                None => self.pick.fits(&name),
            };
        let follows = flags & 8 != 0;
        if !is_folder && self.names.len() < NAMES_MAX {
            self.names.push(crate::ids::preview(&name));
        }
        if wanted {
            if let (Some(before), None) = (&self.picked, &self.several) {
                return Err(unfit(format!(
                    "two members of the zip archive fit, `{}` and `{}`, and one is taken: say which by `member`",
                    crate::ids::preview(before),
                    crate::ids::preview(&name)
                )));
            }
            if flags & 1 != 0 {
                return Err(unfit(format!("`{name}` in the zip archive is encrypted")));
            }
            if method != 0 && method != 8 {
                return Err(unfit(format!(
                    "`{name}` in the zip archive is compressed by method {method}; 0 (stored) and 8 (deflate) are read"
                )));
            }
            self.picked = Some(name.clone());
            if let Some(several) = &mut self.several {
                several.begins(&head[30..name_end], &name);
            }
        }
        if !wanted && !follows {
            return Ok(match packed {
                0 => State::Record { need: 4 },
                left => State::Skip { left, ends: false },
            });
        }
        if follows && flags & 1 != 0 {
            return Err(unfit(format!(
                "`{name}` in the zip archive is encrypted and does not say where it ends"
            )));
        }
        if follows && method != 8 && method != 0 {
            return Err(unfit(format!(
                "`{name}` in the zip archive does not say where it ends, and method {method} is not read"
            )));
        }
        let unsure = (follows && method == 0).then(Vec::new);
        let member = Member {
            wanted,
            is_deflate: method == 8,
            told: (!follows).then_some((crc, packed, size)),
            is_64,
            read: 0,
            written: 0,
            crc: Crc::new(),
            raw: Decompress::new(false),
            // A stored member of no length has no bytes to wait for.
            ended: method == 0 && packed == 0 && unsure.is_none(),
            unsure,
        };
        if member.ended { self.close(member) } else { Ok(State::Body(member)) }
    }

    /// One turn of a member's bytes; `buffer` then holds what came out, which is written already.
    fn body(&mut self, member: &mut Member, rest: &[u8]) -> io::Result<usize> {
        self.buffer.clear();
        let left = member.told.map_or(u64::MAX, |(_, packed, _)| packed - member.read);
        let rest = &rest[..rest.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
        let taken = if member.is_deflate {
            let before = member.raw.total_in();
            let status =
                member.raw.decompress_vec(rest, &mut self.buffer, FlushDecompress::None)?;
            member.ended = status == Status::StreamEnd;
            (member.raw.total_in() - before) as usize
        } else {
            let now = rest.len().min(STEP_BYTES);
            self.buffer.extend_from_slice(&rest[..now]);
            member.ended = now as u64 == left;
            now
        };
        member.read += taken as u64;
        member.written += self.buffer.len() as u64;
        self.opened += self.buffer.len() as u64;
        member.crc.update(&self.buffer);
        if member.wanted {
            self.out.write_all(&self.buffer)?;
        }
        if !member.ended && taken == 0 && self.buffer.is_empty() {
            return Err(broken("a member does not go on"));
        }
        Ok(taken)
    }

    /// A turn of a member that ends where its descriptor is.
    fn body_to_descriptor(&mut self, member: &mut Member, rest: &[u8]) -> io::Result<usize> {
        let mut unsure = member.unsure.take().unwrap_or_default();
        let before = unsure.len();
        let taken = rest.len().min(STEP_BYTES);
        unsure.extend_from_slice(&rest[..taken]);
        self.buffer.clear();
        // A list and the archive's end follow the last descriptor, so that so many bytes always do.
        let starts = (unsure.len() + 1).saturating_sub(DESCRIPTOR_MAX + 4);
        let mut sure = 0;
        while sure < starts {
            let sign = unsure[sure..starts].iter().position(|byte| *byte == DESCRIPTOR[0]);
            let at = sign.map_or(starts, |sign| sure + sign);
            self.write_stored(member, &unsure[sure..at])?;
            if at == starts {
                sure = at;
            } else if let Some(bytes) = ends_with(member, &unsure[at..]) {
                member.ended = true;
                // Less than any record: a descriptor was looked for as soon as this much of what follows was here.
                let end = at + bytes;
                self.held.clear();
                self.held.extend_from_slice(unsure.get(end..before).unwrap_or_default());
                return Ok(end.saturating_sub(before));
            } else {
                self.write_stored(member, &unsure[at..=at])?;
                sure = at + 1;
            }
        }
        unsure.drain(..sure);
        member.unsure = Some(unsure);
        Ok(taken)
    }

    fn write_stored(&mut self, member: &mut Member, bytes: &[u8]) -> io::Result<()> {
        member.read += bytes.len() as u64;
        member.written += bytes.len() as u64;
        self.opened += bytes.len() as u64;
        member.crc.update(bytes);
        // What came out in this turn.
        self.buffer.extend_from_slice(bytes);
        if member.wanted { self.out.write_all(bytes) } else { Ok(()) }
    }

    fn close(&mut self, member: Member) -> io::Result<State> {
        let is_unsure = member.told.is_none() && !member.is_deflate;
        if !is_unsure {
            let Some(told) = member.told else { return Ok(State::After { member, need: 4 }) };
            check(&member, told)?;
        }
        self.ended(&member, is_unsure);
        Ok(State::Record { need: 4 })
    }

    /// A member is whole.
    fn ended(&mut self, member: &Member, is_unsure: bool) {
        if member.wanted && (is_unsure || self.several.is_some()) {
            self.unlisted.push((member.crc.sum(), member.written));
        }
        if let (Some(several), true) = (&mut self.several, member.wanted) {
            several.ends();
        }
    }

    /// Checksum and lengths behind a member, with or without a sign before them, of 32 or of 64 bits.
    fn descriptor(&mut self, member: Member, need: usize) -> io::Result<State> {
        let signed = self.held.starts_with(&DESCRIPTOR);
        let least = if signed { 16 } else { 12 };
        if need < least {
            return Ok(State::After { member, need: least });
        }
        let at = least - 12;
        let crc = u32_at(&self.held, at);
        let short = (u64::from(u32_at(&self.held, at + 4)), u64::from(u32_at(&self.held, at + 8)));
        if member.is_64 || short != (member.read, member.written) {
            if need < least + 8 {
                return Ok(State::After { member, need: least + 8 });
            }
            check(&member, (crc, u64_at(&self.held, at + 4), u64_at(&self.held, at + 12)))?;
        } else {
            check(&member, (crc, short.0, short.1))?;
        }
        self.ended(&member, false);
        self.held.clear();
        Ok(State::Record { need: 4 })
    }
}

/// How long the descriptor is that stands here, if it is that of all before it and another record follows it.
fn ends_with(member: &Member, bytes: &[u8]) -> Option<usize> {
    if !bytes.starts_with(&DESCRIPTOR) || u32_at(bytes, 4) != member.crc.sum() {
        return None;
    }
    let is_record = |at: usize| [MEMBER, LISTED].iter().any(|sign| bytes[at..].starts_with(sign));
    let of = |length: u64| length == member.written;
    if of(u32_at(bytes, 8).into()) && of(u32_at(bytes, 12).into()) && is_record(16) {
        return Some(16);
    }
    (of(u64_at(bytes, 8)) && of(u64_at(bytes, 16)) && is_record(24)).then_some(24)
}

fn check(member: &Member, (crc, packed, size): (u32, u64, u64)) -> io::Result<()> {
    if packed != member.read || size != member.written {
        return Err(broken("a member has another length than its header says"));
    }
    if crc != member.crc.sum() {
        return Err(broken("a member has another checksum than its header says"));
    }
    Ok(())
}

fn extra_64(mut extra: &[u8]) -> Option<&[u8]> {
    while extra.len() >= 4 {
        let (id, long) = (u16_at(extra, 0), usize::from(u16_at(extra, 2)));
        let field = extra.get(4..4 + long)?;
        if id == EXTRA_64 {
            return Some(field);
        }
        extra = &extra[4 + long..];
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
