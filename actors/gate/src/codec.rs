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
//! others   count x (api or 0, name)                        other limits that occur below
//! charges  count x (limit's place above, api or 0, count x (time since the one before, units))
//! drained  count x (limit's place, api or 0, time, ticks, ticks per unit)     buckets
//! opened   count x (limit's place, api or 0, 4 x (0 never | 1 always | 2 time) + 2 (time) + 1 (time), times)
//!          what is known of windows that a call opened: when calls are sure, the latest end, the earliest
//! permits  count x (id, api, what is known, costs)
//!          what is known: 4 x (1 if costs follow) + 0 uncharged | 1 written, time | 2 charged
//!          | 3 answered, time, written or not, time;
//!          costs: job, count x (limit's place, 2 x units + 1 if it is a guess)
//! slots    count x (api, until, units, 0 or limit's place + 1, job)
//! holds    count x (api or 0, until, reason)
//! observed count x (limit's place above, api or 0, 0 left | 1 others, number, until)    absent if there is none
//! checksum FNV-1a 32 of all before, little endian
//! ```
//!
//! Version 2 had no others, drained, opened and costs, and of slots only the first three. When permits were
//! taken is not kept.
//!
//! `api` is its place among the apis above + 1. Only apis of a set without names, and calls of an api that
//! is gone, have a number in place of a name.

use core::fmt;

mod wire;

use crate::charges::{Drained, Entry, Opened};
use crate::decide::Cost;
use crate::hold::{HOLDS_MAX, Hold, HoldScope, Holds};
use crate::ledger::{Ledger, Permit, PermitId, Slot, State};
use crate::limit::{API_GONE, ApiIx, LIMITS_MAX, Limit, LimitSet, NAME_BYTES_MAX, Rule};
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
    /// assert_eq!(record.len(), 2 + 9 + 4); // magic and version, nine times "none", checksum
    /// ```
    pub fn encode(&self, limits: &LimitSet, now: At) -> Vec<u8> {
        // Written without what has left, so that a record never grows with the past.
        let mut pruned = self.clone();
        pruned.prune(limits, now);
        pruned.encode_all(limits, now)
    }

    fn encode_all(&self, limits: &LimitSet, now: At) -> Vec<u8> {
        let named = self.named(limits);
        let place_of = |index: usize| named.iter().position(|(own, _)| *own == index);
        let dated = named.iter().filter(|(_, limit)| limit.rule.window().is_some()).count();
        let charges: Vec<_> = self
            .charges
            .iter()
            .filter_map(|charges| place_of(charges.limit).map(|place| (place, charges)))
            .collect();
        let drained: Vec<_> = charges
            .iter()
            .filter_map(|(place, charges)| {
                charges.drained().map(|drained| (*place, charges.bucket, drained))
            })
            .collect();
        let opened: Vec<_> = charges
            .iter()
            .filter_map(|(place, charges)| {
                charges.opened().map(|opened| (*place, charges.bucket, *opened))
            })
            .collect();
        let charges: Vec<_> =
            charges.iter().filter(|(_, charges)| !charges.entries().is_empty()).collect();
        let holds = self.holds().as_slice();

        let observed: Vec<(usize, &Observed)> = self
            .observed
            .iter()
            .filter(|observed| observed.until > now)
            .filter_map(|observed| place_of(observed.limit).map(|place| (place, observed)))
            .collect();

        let mut apis: Vec<ApiIx> = named.iter().filter_map(|(_, limit)| limit.api).collect();
        apis.extend(charges.iter().filter_map(|(_, charges)| charges.bucket));
        apis.extend(drained.iter().filter_map(|(_, bucket, _)| *bucket));
        apis.extend(opened.iter().filter_map(|(_, bucket, _)| *bucket));
        apis.extend(self.permits.iter().map(|permit| permit.api));
        apis.extend(self.slots.iter().map(|slot| slot.api));
        apis.extend(holds.iter().filter_map(|hold| hold.scope.api()));
        apis.extend(observed.iter().filter_map(|(_, observed)| observed.bucket));
        apis.sort_unstable();
        apis.dedup();

        let mut out = Writer::new(now, apis);
        out.apis(limits);

        for limits in [&named[..dated], &named[dated..]] {
            out.count(limits.len());
            for (_, limit) in limits {
                out.api(limit.api);
                out.text(&limit.name);
            }
        }

        out.count(charges.len());
        for (place, charges) in charges {
            out.count(*place);
            out.api(charges.bucket);
            out.count(charges.entries().len());
            let mut before = None;
            for entry in charges.entries() {
                match before {
                    None => out.time(entry.at),
                    Some(before) => out.number(entry.at.since(before).0),
                }
                out.number(entry.calls.into());
                before = Some(entry.at);
            }
        }

        out.count(drained.len());
        for (place, bucket, drained) in drained {
            out.count(place);
            out.api(bucket);
            out.time(drained.at);
            out.long(drained.ticks);
            out.long(drained.unit);
        }

        out.count(opened.len());
        for (place, bucket, opened) in opened {
            out.count(place);
            out.api(bucket);
            let sure = match opened.sure_from {
                At::MAX => 0,
                At::MIN => 1,
                _ => 2,
            };
            let (from, by) = (opened.ends_from, opened.ends_by);
            out.number(4 * sure + 2 * u64::from(by.is_some()) + u64::from(from.is_some()));
            let sure = (sure == 2).then_some(opened.sure_from);
            [sure, by, from].into_iter().flatten().for_each(|at| out.time(at));
        }

        out.count(self.permits.len());
        for permit in &self.permits {
            out.number(permit.id.0);
            out.api(Some(permit.api));
            let costs: Vec<(usize, Cost)> = permit
                .costs
                .iter()
                .flat_map(|costs| costs.iter().copied().enumerate())
                .filter(|(_, cost)| *cost != Cost::ONE)
                .filter_map(|(index, cost)| Some((place_of(index)?, cost)))
                .collect();
            let has_more = !costs.is_empty() || permit.job > 0;
            let more = 4 * u64::from(has_more);
            match permit.state {
                State::Uncharged => out.number(more),
                State::Written(at) => {
                    out.number(more + 1);
                    out.time(at);
                }
                State::Charged => out.number(more + 2),
                State::Answered { at, written } => {
                    out.number(more + 3);
                    out.time(at);
                    out.number(written.is_some().into());
                    if let Some(at) = written {
                        out.time(at);
                    }
                }
            }
            if has_more {
                out.number(permit.job);
                out.count(costs.len());
                for (place, cost) in costs {
                    out.count(place);
                    out.number(u64::from(cost.units) * 2 + u64::from(cost.is_estimate));
                }
            }
        }

        out.count(self.slots.len());
        for slot in &self.slots {
            out.api(Some(slot.api));
            out.time(slot.until);
            out.number(slot.calls.into());
            let limit = slot.limit.and_then(|(index, job)| Some((place_of(index)?, job)));
            out.count(limit.map_or(0, |(place, _)| place + 1));
            if let Some((_, job)) = limit {
                out.number(job);
            }
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

    /// The limits that a record names: all that count by time, then others that it speaks of.
    fn named<'a>(&self, limits: &'a LimitSet) -> Vec<(usize, &'a Limit)> {
        let costs = |index: usize| {
            self.permits
                .iter()
                .filter_map(|permit| permit.costs.as_deref())
                .any(|costs| costs.get(index).is_some_and(|cost| *cost != Cost::ONE))
        };
        let taken = |index: usize| {
            self.slots.iter().any(|slot| slot.limit.is_some_and(|(place, _)| place == index))
        };
        let other = |(index, limit): &(usize, &Limit)| {
            limit.rule.window().is_none() && (costs(*index) || taken(*index))
        };
        let others = limits.limits().iter().enumerate().filter(other);
        dated(limits).chain(others).collect()
    }

    /// Reads a record that was stored at `stored_at`. If that moment is not known exactly, a later one is
    /// safe: everything in the record moves with it.
    ///
    /// [`LimitSet::with_known_as`] gives limits a second name, by which they are looked for first. Charges are kept for each limit of the same name and api, whatever its numbers are now: they are
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
    /// The bytes are not a whole record of this version or the one before: see [`DecodeError`]. So is a record that names apis
    /// if the set does not, or the other way round: what is counted for whom cannot be known then.
    pub fn decode(
        limits: &LimitSet,
        bytes: &[u8],
        stored_at: At,
    ) -> Result<(Self, Vec<Note>), DecodeError> {
        Self::read(limits, bytes, stored_at, false)
    }

    /// The same where `stored_at` is exact, because the record was written under the same clock: a process
    /// put it away for a while. Then it is also known when windows end that a call opened
    /// ([`Rule::FirstUse`]). A record that only seems younger than it is would make them seem to end
    /// later than they did, so [`Ledger::decode`] forgets that.
    ///
    /// # Errors
    /// The same.
    pub fn decode_exact(
        limits: &LimitSet,
        bytes: &[u8],
        stored_at: At,
    ) -> Result<(Self, Vec<Note>), DecodeError> {
        Self::read(limits, bytes, stored_at, true)
    }

    fn read(
        limits: &LimitSet,
        bytes: &[u8],
        stored_at: At,
        is_exact: bool,
    ) -> Result<(Self, Vec<Note>), DecodeError> {
        let mut input = Reader::new(bytes, stored_at)?;
        let mut ledger = Self::new();
        let mut notes = Vec::new();

        for name in input.apis(limits)? {
            notes.push(Note::Gone { api: name.to_owned() });
        }

        // For each limit of the record the places in the set that count on from it: mostly one, none if it is gone,
        // and several where another node's limit of its name stands beside one's own.
        let mut known: Vec<(Option<ApiIx>, &str, bool)> = Vec::new();
        for kind in [Kind::Dated, Kind::Other] {
            if kind == Kind::Other && input.is_old() {
                break;
            }
            for _ in 0..input.count(LIMITS_MAX, "limits")? {
                let api = input.api("limits")?;
                let one = (api, input.text(NAME_BYTES_MAX, "limits")?, kind == Kind::Dated);
                // All apis that are gone are one here, and may have had limits of one name.
                if api != Some(API_GONE) && known.contains(&one) {
                    return Err(DecodeError::Malformed("limits"));
                }
                known.push(one);
            }
        }
        let mut places: Vec<Vec<usize>> = vec![Vec::new(); known.len()];
        let mut unknown = Vec::new();
        for (index, limit) in limits.limits().iter().enumerate() {
            let is_dated = limit.rule.window().is_some();
            let alike = known.iter().enumerate();
            let alike =
                alike.filter(|(_, (api, _, dated))| (*api, *dated) == (limit.api, is_dated));
            match limits.source(index, alike.map(|(at, (_, name, _))| (at, *name))) {
                Some(source) => places[source].push(index),
                None if is_dated => {
                    unknown.push(Note::Unknown { name: limit.name.clone(), api: limit.api });
                }
                None => {}
            }
        }
        for ((api, name, dated), places) in known.iter().zip(&places) {
            // What another node knows under this name is known here under another.
            let is_known = LimitSet::is_apart(name)
                || limits.limits().iter().any(|limit| {
                    (limit.name.as_str(), limit.api) == (*name, *api)
                        && limit.rule.window().is_some() == *dated
                });
            // With an api that is gone its limits went too, which is noted already.
            if places.is_empty() && *api != Some(API_GONE) && !is_known {
                notes.push(Note::Dropped { name: (*name).to_owned(), api: *api });
            }
        }
        notes.extend(unknown);
        let is_dated = |place: usize| limits.limits()[place].rule.window().is_some();

        for _ in 0..input.count(usize::MAX, "charges")? {
            let counters = counters(&mut input, limits, &places, "charges")?;
            let mut before: Option<At> = None;
            for _ in 0..input.count(usize::MAX, "charges")? {
                let at = match before {
                    None => input.time("charges")?,
                    Some(before) => before.plus(input.span("charges")?),
                };
                before = Some(at);
                let calls = input.calls("charges")?;
                for (index, bucket) in &counters {
                    if is_dated(*index) {
                        ledger.add(*index, *bucket, Entry { at, calls });
                    }
                }
            }
        }

        let buckets = if input.is_old() { 0 } else { input.count(usize::MAX, "buckets")? };
        for _ in 0..buckets {
            let counters = counters(&mut input, limits, &places, "buckets")?;
            let at = input.time("buckets")?;
            let (ticks, unit) = (input.long("buckets")?, input.long("buckets")?);
            let drained = Drained { at, ticks, unit };
            for (index, bucket) in counters {
                let rule = limits.limits()[index].rule;
                if let Some(now) = rule.unit_ticks() {
                    ledger.counter(index, bucket).drain(drained.at_rate(now));
                } else if is_dated(index) && unit > 0 && ticks > 0 {
                    // A limit of another kind now: as many calls as are missing, at the last moment of one.
                    let calls = u32::try_from(ticks.div_ceil(unit)).unwrap_or(u32::MAX);
                    ledger.add(index, bucket, Entry { at, calls });
                }
            }
        }

        let windows = if input.is_old() { 0 } else { input.count(usize::MAX, "windows")? };
        for _ in 0..windows {
            let counters = counters(&mut input, limits, &places, "windows")?;
            let known = input.number("windows")?;
            let sure_from = match known / 4 {
                0 => At::MAX,
                1 => At::MIN,
                2 => input.time("windows")?,
                _ => return Err(DecodeError::Malformed("windows")),
            };
            let mut time = |bit| (known & bit > 0).then(|| input.time("windows")).transpose();
            let (ends_by, ends_from) = (time(2)?, time(1)?);
            for (index, bucket) in counters {
                if !matches!(limits.limits()[index].rule, Rule::FirstUse { .. }) {
                    continue;
                }
                let counter = ledger.counter(index, bucket);
                if is_exact {
                    counter.set_opened(Opened { ends_from, ends_by, sure_from });
                } else if counter.entries().is_empty() {
                    // That there was something is known, or a call in flight would seem to be the first.
                    counter.set_opened(Opened::unknown(At::MAX));
                }
            }
        }

        for _ in 0..input.count(usize::MAX, "permits")? {
            let id = PermitId(input.number("permits")?);
            let api = input.api("permits")?.ok_or(DecodeError::Malformed("permits"))?;
            let known = input.number("permits")?;
            let state = match known % 4 {
                0 => State::Uncharged,
                1 => State::Written(input.time("permits")?),
                2 => State::Charged,
                _ if input.is_old() => return Err(DecodeError::Malformed("permits")),
                _ => {
                    let at = input.time("permits")?;
                    let written = match input.number("permits")? {
                        0 => None,
                        1 => Some(input.time("permits")?),
                        _ => return Err(DecodeError::Malformed("permits")),
                    };
                    State::Answered { at, written }
                }
            };
            let mut costs: Option<Box<[Cost]>> = None;
            let mut job = 0;
            match known / 4 {
                0 => {}
                1 if !input.is_old() => {
                    job = input.number("permits")?;
                    for _ in 0..input.count(LIMITS_MAX, "permits")? {
                        let place: usize = input.small("permits")?;
                        let places = places.get(place).ok_or(DecodeError::Malformed("permits"))?;
                        let cost = input.number("permits")?;
                        let units = u32::try_from(cost / 2);
                        let units = units.map_err(|_| DecodeError::Malformed("permits"))?;
                        let cost = Cost { units, is_estimate: cost % 2 == 1 };
                        for place in places {
                            let all = || vec![Cost::ONE; limits.limits().len()].into();
                            costs.get_or_insert_with(all)[*place] = cost;
                        }
                    }
                }
                _ => return Err(DecodeError::Malformed("permits")),
            }
            ledger.permits.push(Permit { id, api, taken: At::MIN, state, costs, job });
        }
        let mut ids: Vec<PermitId> = ledger.in_flight().collect();
        ids.sort_unstable();
        if ids.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(DecodeError::Malformed("permits"));
        }

        for _ in 0..input.count(usize::MAX, "slots")? {
            let api = input.api("slots")?.ok_or(DecodeError::Malformed("slots"))?;
            let until = input.time("slots")?;
            let calls = input.calls("slots")?;
            let place: usize = if input.is_old() { 0 } else { input.small("slots")? };
            if let Some(place) = place.checked_sub(1) {
                let job = input.number("slots")?;
                for place in places.get(place).ok_or(DecodeError::Malformed("slots"))? {
                    ledger.slots.push(Slot { api, until, calls, limit: Some((*place, job)) });
                }
            } else {
                ledger.slots.push(Slot { api, until, calls, limit: None });
            }
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
            let places = places.get(place).ok_or(DecodeError::Malformed("observations"))?;
            let bucket = input.api("observations")?;
            let what = match input.number("observations")? {
                0 => What::Left(input.signed("observations")?),
                1 => What::Others(input.calls("observations")?),
                _ => return Err(DecodeError::Malformed("observations")),
            };
            let until = input.time("observations")?;
            for index in places.iter().copied().filter(|_| bucket != Some(API_GONE)) {
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

/// The two lists of limits in a record.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Dated,
    Other,
}

/// Reads whose charges follow: the limit's places in the set and the api, if both are still there.
fn counters(
    input: &mut Reader<'_>,
    limits: &LimitSet,
    places: &[Vec<usize>],
    part: &'static str,
) -> Result<Vec<(usize, Option<ApiIx>)>, DecodeError> {
    let place: usize = input.small(part)?;
    let places = places.get(place).ok_or(DecodeError::Malformed(part))?;
    let api = input.api(part)?;
    // A limit that counts all apis together takes what was counted for each, also for those that are gone.
    let of = |index: &usize| {
        let bucket = api.filter(|_| limits.limits()[*index].bucket(0).is_some());
        (*index, bucket)
    };
    Ok(places.iter().map(of).filter(|(_, bucket)| *bucket != Some(API_GONE)).collect())
}

/// The limits that have charges, with their places.
fn dated(limits: &LimitSet) -> impl Iterator<Item = (usize, &Limit)> {
    limits.limits().iter().enumerate().filter(|(_, limit)| limit.rule.window().is_some())
}
