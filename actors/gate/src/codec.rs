//! The stored form of a ledger: a few bytes for an idle account, never a panic on foreign bytes.
//!
//! Times are differences to the moment of encoding, so a record means the same on another timeline, as long
//! as its reader knows when it was stored. Limits and apis are named, so it means the same under a changed
//! configuration; the number of an api is only its place in one. All numbers are LEB128 varints,
//! differences zigzag-coded:
//!
//! ```text
//! magic, version
//! apis     count x (name, or empty and number)             those that occur below
//! limits   count x (api or 0, name)                        those that count by time
//! charges  count x (limit's place above, api or 0, count x (time since the one before, calls))
//! permits  count x (id, api, 0 uncharged | 1 written, time | 2 charged)
//! slots    count x (api, until, calls)
//! holds    count x (api or 0, until, reason)
//! observed count x (limit's place above, api or 0, 0 left | 1 others, number, until)    absent if there is none
//! checksum FNV-1a 32 of all before, little endian
//! ```
//!
//! `api` is its place among the apis above + 1. Only apis of a set without names, and calls of an api that
//! is gone, have a number in place of a name.

use core::fmt;

mod wire;

use crate::charges::Entry;
use crate::hold::{HOLDS_MAX, Hold, HoldScope, Holds};
use crate::ledger::{Ledger, Permit, PermitId, Slot, State, left_by};
use crate::limit::{API_GONE, ApiIx, LIMITS_MAX, Limit, LimitSet, NAME_BYTES_MAX};
use crate::observe::{Observed, What};
use crate::time::At;

#[cfg(test)]
pub(crate) use wire::checksum;
use wire::{Reader, VERSION, Writer};

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
    /// The record knows of an api that is no longer declared. Nobody can call it, so what concerns only it
    /// is dropped: its charges where apis are counted apart, its own limits, its holds. Its calls still
    /// count, and those in flight still take slots, where all calls of the account are counted together.
    Gone {
        /// Its name.
        api: String,
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
            Self::Gone { api } => {
                write!(
                    f,
                    "api `{api}` is no longer declared, its own charges and holds are dropped"
                )
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
    /// assert_eq!(record.len(), 2 + 6 + 4); // magic and version, six times "none", checksum
    /// ```
    pub fn encode(&self, limits: &LimitSet, now: At) -> Vec<u8> {
        // Written without what has left, so that a record never grows with the past.
        let dated: Vec<(usize, &Limit)> = dated(limits).collect();
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
        let slots: Vec<&Slot> = self.slots.iter().filter(|slot| slot.until > now).collect();
        let holds: Vec<&Hold> =
            self.holds().as_slice().iter().filter(|hold| hold.until > now).collect();

        let observed: Vec<(usize, &Observed)> = self
            .observed
            .iter()
            .filter(|observed| observed.until > now)
            .filter_map(|observed| {
                let place = dated.iter().position(|(index, _)| *index == observed.limit)?;
                Some((place, observed))
            })
            .collect();

        let mut apis: Vec<ApiIx> = dated.iter().filter_map(|(_, limit)| limit.api).collect();
        apis.extend(charges.iter().filter_map(|(_, bucket, _)| *bucket));
        apis.extend(self.permits.iter().map(|permit| permit.api));
        apis.extend(slots.iter().map(|slot| slot.api));
        apis.extend(holds.iter().filter_map(|hold| hold.scope.api()));
        apis.extend(observed.iter().filter_map(|(_, observed)| observed.bucket));
        apis.sort_unstable();
        apis.dedup();

        let mut out = Writer::new(now, apis);
        out.apis(limits);

        out.count(dated.len());
        for (_, limit) in &dated {
            out.api(limit.api);
            out.text(&limit.name);
        }

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
            out.api(Some(permit.api));
            match permit.state {
                State::Uncharged => out.number(0),
                State::Written(at) => {
                    out.number(1);
                    out.time(at);
                }
                State::Charged => out.number(2),
            }
        }

        out.count(slots.len());
        for slot in slots {
            out.api(Some(slot.api));
            out.time(slot.until);
            out.number(slot.calls.into());
        }

        out.count(holds.len());
        for hold in holds {
            out.api(hold.scope.api());
            out.time(hold.until);
            out.text(&hold.reason);
        }

        if !observed.is_empty() {
            out.count(observed.len());
            for (place, observed) in observed {
                out.count(place);
                out.api(observed.bucket);
                match observed.what {
                    What::Left(left) => {
                        out.number(0);
                        out.signed(left);
                    }
                    What::Others(calls) => {
                        out.number(1);
                        out.number(calls.into());
                    }
                }
                out.time(observed.until);
            }
        }

        out.finish()
    }

    /// Reads a record that was stored at `stored_at`. If that moment is not known exactly, a later one is
    /// safe: everything in the record moves with it.
    ///
    /// Charges are kept for each limit of the same name and api, whatever its numbers are now: they are
    /// true times, already rounded where they were. A limit whose window became longer knows only what the
    /// shorter one still counted. Charges that one counter had for all apis count for each
    /// api if the limit now counts apis separately. Permits in flight count for every limit that matches.
    ///
    /// An api is the one of the same name, whatever its number is now. What concerns only an api that is
    /// gone is dropped ([`Note::Gone`]): should the name come back later, it starts without earlier
    /// calls. A set without names takes the numbers as they are.
    ///
    /// Takes memory in proportion to the bytes.
    ///
    /// # Errors
    /// The bytes are not a whole record of this version: see [`DecodeError`]. So is a record that names apis
    /// if the set does not, or the other way round: what is counted for whom cannot be known then.
    pub fn decode(
        limits: &LimitSet,
        bytes: &[u8],
        stored_at: At,
    ) -> Result<(Self, Vec<Note>), DecodeError> {
        let mut input = Reader::new(bytes, stored_at)?;
        let mut ledger = Self::new();
        let mut notes = Vec::new();

        for name in input.apis(limits)? {
            notes.push(Note::Gone { api: name.to_owned() });
        }

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
            // With an api that is gone its limits went too, which is noted already.
            if place.is_none() && api != Some(API_GONE) {
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
            let mut place = *places.get(place).ok_or(DecodeError::Malformed("charges"))?;
            // A limit that counts all apis together takes what was counted for each, also for those that
            // are gone.
            let bucket = input
                .api("charges")?
                .filter(|_| place.is_some_and(|index| limits.limits()[index].bucket(0).is_some()));
            if bucket == Some(API_GONE) {
                place = None;
            }
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
            let api = input.api("permits")?.ok_or(DecodeError::Malformed("permits"))?;
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
            let api = input.api("slots")?.ok_or(DecodeError::Malformed("slots"))?;
            let until = input.time("slots")?;
            ledger.slots.push(Slot { api, until, calls: input.calls("slots")? });
        }

        let mut holds = Holds::new();
        for _ in 0..input.count(HOLDS_MAX, "holds")? {
            let scope = input.api("holds")?.map_or(HoldScope::Account, HoldScope::Api);
            let until = input.time("holds")?;
            let reason = input.text(usize::MAX, "holds")?.to_owned();
            if scope != HoldScope::Api(API_GONE) {
                holds.set(Hold { scope, until, reason });
            }
        }
        *ledger.holds_mut() = holds;

        // Records of before providers were listened to end here.
        let observed = if input.is_at_end() {
            0
        } else {
            match input.count(usize::MAX, "observations")? {
                0 => return Err(DecodeError::Malformed("end")),
                count => count,
            }
        };
        for _ in 0..observed {
            let place: usize = input.small("observations")?;
            let place = *places.get(place).ok_or(DecodeError::Malformed("observations"))?;
            let bucket = input.api("observations")?;
            let what = match input.number("observations")? {
                0 => What::Left(input.signed("observations")?),
                1 => What::Others(input.calls("observations")?),
                _ => return Err(DecodeError::Malformed("observations")),
            };
            let until = input.time("observations")?;
            if let Some(index) = place
                && bucket != Some(API_GONE)
            {
                // One about an api counts for all where the limit now counts them together.
                let bucket = bucket.filter(|_| limits.limits()[index].bucket(0).is_some());
                let said = match what {
                    What::Left(left) => u32::try_from(left.max(0)).unwrap_or(u32::MAX),
                    What::Others(_) => 0,
                };
                let heard = stored_at;
                ledger.keep(Observed { limit: index, bucket, what, until, said, heard });
            }
        }
        if input.is_at_end() { Ok((ledger, notes)) } else { Err(DecodeError::Malformed("end")) }
    }
}

/// The limits that have charges, with their places.
fn dated(limits: &LimitSet) -> impl Iterator<Item = (usize, &Limit)> {
    limits.limits().iter().enumerate().filter(|(_, limit)| limit.rule.window().is_some())
}
