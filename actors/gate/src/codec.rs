//! The stored form of a ledger: a few bytes for an idle account, never a panic on foreign bytes.
//!
//! Times are differences to the moment of encoding, so a record means the same on another timeline, as long
//! as its reader knows when it was stored. Limits are named, so it means the same under a changed
//! configuration. All numbers are LEB128 varints, differences zigzag-coded:
//!
//! ```text
//! magic, version
//! limits   count x (api + 1 or 0, name)                    those that count by time
//! charges  count x (limit's place above, bucket + 1 or 0, count x (time since the one before, calls))
//! permits  count x (id, api, 0 uncharged | 1 written, time | 2 charged)
//! slots    count x (api, until, calls)
//! holds    count x (api + 1 or 0, until, reason)
//! checksum FNV-1a 32 of all before, little endian
//! ```

use core::fmt;

use crate::charges::Entry;
use crate::hold::{HOLDS_MAX, Hold, HoldScope, Holds};
use crate::ledger::{Ledger, Permit, PermitId, Slot, State, left_by};
use crate::limit::{ApiIx, LIMITS_MAX, Limit, LimitSet, NAME_BYTES_MAX};
use crate::time::At;

const MAGIC: u8 = 0xB7;
const VERSION: u8 = 1;
const CHECKSUM_BYTES: usize = 4;

/// What a record and the declared limits do not agree about. None of it is an error; who runs the system
/// should hear of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// The record has charges or knowledge of a limit that is no longer declared, or that no longer counts
    /// by time; dropped.
    Dropped {
        /// Its name.
        name: String,
        /// Whose calls it counted.
        api: Option<ApiIx>,
    },
    /// A limit that counts by time is not in the record: it knows of no call but those in flight, so calls
    /// of the window before may be counted by the provider only.
    Unknown {
        /// Its name.
        name: String,
        /// Whose calls it counts.
        api: Option<ApiIx>,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dropped { name, .. } => {
                write!(f, "limit `{name}` is no longer declared, its charges are dropped")
            }
            Self::Unknown { name, .. } => {
                write!(f, "limit `{name}` is new, it starts without earlier calls")
            }
        }
    }
}

/// Why bytes are not a record. A caller must not go on as if the account were new: that could exceed a
/// limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DecodeError {
    /// They begin like no record.
    Foreign,
    /// A record of another version of this program.
    Version(u8),
    /// They were changed or cut off since they were written.
    Damaged,
    /// The checksum is right and this part makes no sense: a fault of the writer.
    Malformed(&'static str),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign => f.write_str("not a ledger record"),
            Self::Version(version) => {
                write!(f, "a ledger record of version {version}, only {VERSION} is understood")
            }
            Self::Damaged => f.write_str("a damaged ledger record"),
            Self::Malformed(part) => write!(f, "a ledger record with malformed {part}"),
        }
    }
}

impl core::error::Error for DecodeError {}

impl Ledger {
    /// The record of this ledger at `now`, without what no longer counts.
    ///
    /// ```
    /// use tollgate_gate::*;
    /// let limits = LimitSet::default();
    /// let record = Ledger::new().encode(&limits, At(0));
    /// assert_eq!(record.len(), 2 + 5 + 4); // magic and version, five times "none", checksum
    /// ```
    pub fn encode(&self, limits: &LimitSet, now: At) -> Vec<u8> {
        let mut out = Writer { bytes: vec![MAGIC, VERSION], now };
        let dated: Vec<(usize, &Limit)> = dated(limits).collect();
        out.count(dated.len());
        for (_, limit) in &dated {
            out.api(limit.api);
            out.text(&limit.name);
        }

        // Written without what has left, so that a record never grows with the past.
        let charges: Vec<_> = self
            .charges
            .iter()
            .filter_map(|charges| {
                let place = dated.iter().position(|(index, _)| *index == charges.limit)?;
                let left = left_by(limits, charges.limit, now)?;
                let gone = charges.entries().iter().take_while(|entry| entry.at <= left).count();
                let counting = &charges.entries()[gone..];
                (!counting.is_empty()).then_some((place, charges.bucket, counting))
            })
            .collect();
        out.count(charges.len());
        for (place, bucket, entries) in charges {
            out.count(place);
            out.api(bucket);
            out.count(entries.len());
            let mut before = None;
            for entry in entries {
                match before {
                    None => out.time(entry.at),
                    Some(before) => out.number(entry.at.since(before).0),
                }
                out.number(entry.calls.into());
                before = Some(entry.at);
            }
        }

        out.count(self.permits.len());
        for permit in &self.permits {
            out.number(permit.id.0);
            out.number(permit.api.into());
            match permit.state {
                State::Uncharged => out.number(0),
                State::Written(at) => {
                    out.number(1);
                    out.time(at);
                }
                State::Charged => out.number(2),
            }
        }

        let slots: Vec<&Slot> = self.slots.iter().filter(|slot| slot.until > now).collect();
        out.count(slots.len());
        for slot in slots {
            out.number(slot.api.into());
            out.time(slot.until);
            out.number(slot.calls.into());
        }

        let holds: Vec<&Hold> =
            self.holds().as_slice().iter().filter(|hold| hold.until > now).collect();
        out.count(holds.len());
        for hold in holds {
            out.api(match hold.scope {
                HoldScope::Account => None,
                HoldScope::Api(api) => Some(api),
            });
            out.time(hold.until);
            out.text(&hold.reason);
        }

        let sum = checksum(&out.bytes);
        out.bytes.extend_from_slice(&sum);
        out.bytes
    }

    /// Reads a record that was stored at `stored_at`. If that moment is not known exactly, a later one is
    /// safe: everything in the record moves with it.
    ///
    /// Charges are kept for each limit of the same name and api, whatever its numbers are now: they are
    /// true times, already rounded where they were. A limit whose window became longer knows only what the
    /// shorter one still counted. Charges that one counter had for all apis count for each
    /// api if the limit now counts apis separately. Permits in flight count for every limit that matches.
    /// Takes memory in proportion to the bytes.
    ///
    /// # Errors
    /// The bytes are not a whole record of this version: see [`DecodeError`].
    pub fn decode(
        limits: &LimitSet,
        bytes: &[u8],
        stored_at: At,
    ) -> Result<(Self, Vec<Note>), DecodeError> {
        let mut input = Reader { rest: framed(bytes)?, stored_at };
        let mut ledger = Self::new();
        let mut notes = Vec::new();

        // For each limit of the record its place in the set, if it still has one.
        let mut places: Vec<Option<usize>> = Vec::new();
        for _ in 0..input.count(LIMITS_MAX, "limits")? {
            let api = input.api("limits")?;
            let name = input.text(NAME_BYTES_MAX, "limits")?;
            let same = |limit: &Limit| limit.name == name && limit.api == api;
            let place = dated(limits).find(|(_, limit)| same(limit)).map(|(index, _)| index);
            if place.is_some() && places.contains(&place) {
                return Err(DecodeError::Malformed("limits"));
            }
            if place.is_none() {
                notes.push(Note::Dropped { name: name.to_owned(), api });
            }
            places.push(place);
        }
        for (index, limit) in dated(limits) {
            if !places.contains(&Some(index)) {
                notes.push(Note::Unknown { name: limit.name.clone(), api: limit.api });
            }
        }

        for _ in 0..input.count(usize::MAX, "charges")? {
            let place: usize = input.small("charges")?;
            let place = *places.get(place).ok_or(DecodeError::Malformed("charges"))?;
            // A limit that counts all apis together takes what was counted for each.
            let bucket = input
                .api("charges")?
                .filter(|_| place.is_some_and(|index| limits.limits()[index].bucket(0).is_some()));
            let mut before: Option<At> = None;
            for _ in 0..input.count(usize::MAX, "charges")? {
                let at = match before {
                    None => input.time("charges")?,
                    Some(before) => before.plus(input.span("charges")?),
                };
                before = Some(at);
                let calls = input.calls("charges")?;
                if let Some(index) = place {
                    ledger.add(index, bucket, Entry { at, calls });
                }
            }
        }

        for _ in 0..input.count(usize::MAX, "permits")? {
            let id = PermitId(input.number("permits")?);
            let api = input.small("permits")?;
            let state = match input.number("permits")? {
                0 => State::Uncharged,
                1 => State::Written(input.time("permits")?),
                2 => State::Charged,
                _ => return Err(DecodeError::Malformed("permits")),
            };
            ledger.permits.push(Permit { id, api, state });
        }
        let mut ids: Vec<PermitId> = ledger.in_flight().collect();
        ids.sort_unstable();
        if ids.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(DecodeError::Malformed("permits"));
        }

        for _ in 0..input.count(usize::MAX, "slots")? {
            let api = input.small("slots")?;
            let until = input.time("slots")?;
            ledger.slots.push(Slot { api, until, calls: input.calls("slots")? });
        }

        let mut holds = Holds::new();
        for _ in 0..input.count(HOLDS_MAX, "holds")? {
            let scope = input.api("holds")?.map_or(HoldScope::Account, HoldScope::Api);
            let until = input.time("holds")?;
            let reason = input.text(usize::MAX, "holds")?.to_owned();
            holds.set(Hold { scope, until, reason });
        }
        *ledger.holds_mut() = holds;
        if input.rest.is_empty() { Ok((ledger, notes)) } else { Err(DecodeError::Malformed("end")) }
    }
}

/// The limits that have charges, with their places.
fn dated(limits: &LimitSet) -> impl Iterator<Item = (usize, &Limit)> {
    limits.limits().iter().enumerate().filter(|(_, limit)| limit.rule.window().is_some())
}

/// Checks what surrounds a record and returns what is in it.
fn framed(bytes: &[u8]) -> Result<&[u8], DecodeError> {
    let (magic, rest) = bytes.split_first().ok_or(DecodeError::Damaged)?;
    if *magic != MAGIC {
        return Err(DecodeError::Foreign);
    }
    let (version, rest) = rest.split_first().ok_or(DecodeError::Damaged)?;
    if *version != VERSION {
        return Err(DecodeError::Version(*version));
    }
    let body = rest.len().checked_sub(CHECKSUM_BYTES).ok_or(DecodeError::Damaged)?;
    let (body, sum) = rest.split_at(body);
    let covered = &bytes[..bytes.len() - CHECKSUM_BYTES];
    if checksum(covered) == sum { Ok(body) } else { Err(DecodeError::Damaged) }
}

/// FNV-1a, 32 bit. Each step is one-to-one in the state, so a single changed byte always shows.
pub(crate) fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let step = |sum: u32, byte: &u8| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    bytes.iter().fold(0x811c_9dc5, step).to_le_bytes()
}

struct Writer {
    bytes: Vec<u8>,
    now: At,
}

impl Writer {
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.bytes.push(number as u8);
    }

    fn count(&mut self, count: usize) {
        self.number(count as u64);
    }

    fn api(&mut self, api: Option<ApiIx>) {
        self.number(api.map_or(0, |api| u64::from(api) + 1));
    }

    /// The difference to now. What has no end has none on any timeline.
    fn time(&mut self, at: At) {
        let offset = if at == At::MAX { i64::MAX } else { at.0.saturating_sub(self.now.0) };
        self.number(((offset << 1) ^ (offset >> 63)) as u64);
    }

    fn text(&mut self, text: &str) {
        self.count(text.len());
        self.bytes.extend_from_slice(text.as_bytes());
    }
}

/// Reads what [`Writer`] wrote. `part` names what is read, for the error.
struct Reader<'a> {
    rest: &'a [u8],
    stored_at: At,
}

impl<'a> Reader<'a> {
    fn number(&mut self, part: &'static str) -> Result<u64, DecodeError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first().ok_or(DecodeError::Malformed(part))?;
            self.rest = rest;
            let bits = u64::from(byte & 0x7f);
            if (bits << shift) >> shift != bits {
                break;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(DecodeError::Malformed(part))
    }

    /// How many of something follow. Each takes a byte or more, so no honest count is above what is left.
    fn count(&mut self, max: usize, part: &'static str) -> Result<usize, DecodeError> {
        let count = usize::try_from(self.number(part)?).unwrap_or(usize::MAX);
        if count > max.min(self.rest.len()) { Err(DecodeError::Malformed(part)) } else { Ok(count) }
    }

    fn small<T: TryFrom<u64>>(&mut self, part: &'static str) -> Result<T, DecodeError> {
        T::try_from(self.number(part)?).map_err(|_| DecodeError::Malformed(part))
    }

    /// A number of calls, not zero.
    fn calls(&mut self, part: &'static str) -> Result<u32, DecodeError> {
        match self.small(part)? {
            0 => Err(DecodeError::Malformed(part)),
            calls => Ok(calls),
        }
    }

    fn api(&mut self, part: &'static str) -> Result<Option<ApiIx>, DecodeError> {
        match self.number(part)?.checked_sub(1) {
            None => Ok(None),
            Some(api) => ApiIx::try_from(api).map(Some).map_err(|_| DecodeError::Malformed(part)),
        }
    }

    fn span(&mut self, part: &'static str) -> Result<crate::time::Span, DecodeError> {
        self.number(part).map(crate::time::Span)
    }

    fn time(&mut self, part: &'static str) -> Result<At, DecodeError> {
        let number = self.number(part)?;
        let offset = (number >> 1) as i64 ^ -((number & 1) as i64);
        Ok(if offset == i64::MAX { At::MAX } else { At(self.stored_at.0.saturating_add(offset)) })
    }

    fn text(&mut self, bytes_max: usize, part: &'static str) -> Result<&'a str, DecodeError> {
        let length = self.count(bytes_max, part)?;
        let (text, rest) = self.rest.split_at(length);
        self.rest = rest;
        core::str::from_utf8(text).map_err(|_| DecodeError::Malformed(part))
    }
}
