//! Another set of limits for an account that has made calls: what differs, and what of the past is known.
//!
//! A ledger forgets what no limit of its set counts any more. So a limit that becomes longer, or is new, does not
//! know all calls of its window: [`Ledger::under`] keeps what is known, and [`Change::known`] says how far that
//! reaches back. Nothing is guessed: who must not exceed such a limit even once waits a window.

use crate::charges::Opened;
use crate::codec::Note;
use crate::ledger::Ledger;
use crate::limit::{ApiIx, Limit, LimitSet, Rule};
use crate::time::{At, Span};

/// How a limit differs from the one of the same name and api in the set before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// There was none.
    Added,
    /// There is none any more.
    Removed,
    /// Whatever it allows, the one before allowed too.
    Tightened,
    /// It may allow what the one before did not.
    Loosened,
    /// It is the same, but calls cost otherwise by it. Those that it remembers count as they cost then.
    Weighed,
    /// It is the same, but its windows start anew at other times.
    Moved,
}

impl ChangeKind {
    /// As logs say it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Tightened => "tightened",
            Self::Loosened => "loosened",
            Self::Weighed => "costs",
            Self::Moved => "resets",
        }
    }
}

/// What is known of the calls in a limit's window at the moment it comes into force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// All that it counts.
    All,
    /// Those of so long ago at most; zero: only those in flight.
    For(Span),
}

/// One limit that is not the same in two sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its name.
    pub name: String,
    /// Name of the api whose own limit it is.
    pub api: Option<String>,
    /// What became of it.
    pub kind: ChangeKind,
    /// What is known of the past.
    pub known: Known,
}

impl LimitSet {
    /// Where this set differs from the one before it, in the order of this one, removed limits last. Calendars are
    /// not compared, so this never says [`ChangeKind::Moved`]: that is for whoever knows when they start anew.
    ///
    /// ```
    /// use core::num::NonZeroU32;
    /// use tollgate_gate::*;
    /// let set = |secs| {
    ///     let rule = Rule::Sliding {
    ///         max: NonZeroU32::new(60).unwrap(),
    ///         window: Span::from_secs(secs),
    ///     };
    ///     let (name, guard) = ("hourly".into(), Guard::Default);
    ///     LimitSet::new(vec![Limit { name, per_api: false, api: None, rule, guard }]).unwrap()
    /// };
    /// let [change] = &set(7200).changes_from(&set(3600))[..] else { panic!() };
    /// assert_eq!(change.kind, ChangeKind::Tightened);
    /// // Nobody knows the calls of the hour before the last.
    /// assert_eq!(change.known, Known::For(Span::from_secs(3600)));
    /// assert_eq!(set(1800).changes_from(&set(3600))[0].known, Known::All);
    /// assert_eq!(set(3600).changes_from(&set(3600)), []);
    /// ```
    pub fn changes_from(&self, before: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        let change = |set: &Self, limit: &Limit, kind, known| Change {
            name: limit.name.clone(),
            api: limit.api.and_then(|api| set.api_name(api)).map(str::to_owned),
            kind,
            known,
        };
        for (place, limit) in self.limits().iter().enumerate() {
            let mut olds = before.limits().iter().enumerate();
            let named = olds.find(|(_, old)| self.same_name(limit, before, old));
            let kind = match named {
                None => ChangeKind::Added,
                Some((at, old)) if counts_alike(old, limit) => {
                    if self.weighing(place) == before.weighing(at) {
                        continue;
                    }
                    ChangeKind::Weighed
                }
                Some((_, old)) if tightens(old, limit) => ChangeKind::Tightened,
                Some(_) => ChangeKind::Loosened,
            };
            changes.push(change(self, limit, kind, self.known_of(place, before)));
        }
        for old in before.limits() {
            if !self.limits().iter().any(|limit| self.same_name(limit, before, old)) {
                changes.push(change(before, old, ChangeKind::Removed, Known::All));
            }
        }
        changes
    }

    /// How far back calls are known that `limit` of this set counts.
    fn known_of(&self, place: usize, before: &Self) -> Known {
        let limit = &self.limits()[place];
        let Some(window) = limit.rule.window() else { return Known::All };
        let alike = before.limits().iter().enumerate();
        let alike = alike.filter(|(_, old)| self.same_api(limit.api, before, old.api));
        let named = self.source(place, alike.map(|(at, old)| (at, old.name.as_str())));
        let named = named.map(|at| &before.limits()[at]);
        let from = match named.filter(|old| old.rule.window().is_some()) {
            // Charges of each api apart, where they were counted together, count for each: stricter.
            Some(old) => old.rule.window(),
            None => {
                self.stand_in(place, before).and_then(|place| before.limits()[place].rule.window())
            }
        };
        match from {
            Some(known) if known >= window => Known::All,
            Some(known) => Known::For(known),
            None => Known::For(Span::ZERO),
        }
    }

    /// Whether two limits of two sets are one by their names.
    fn same_name(&self, limit: &Limit, other: &Self, old: &Limit) -> bool {
        limit.name == old.name && self.same_api(limit.api, other, old.api)
    }

    fn same_api(&self, api: Option<ApiIx>, other: &Self, old: Option<ApiIx>) -> bool {
        match (api, old) {
            (None, None) => true,
            (Some(api), Some(old)) => match (self.api_name(api), other.api_name(old)) {
                (Some(name), Some(old)) => name == old,
                (None, None) => api == old,
                _ => false,
            },
            _ => false,
        }
    }

    fn api_name(&self, api: ApiIx) -> Option<&str> {
        self.apis().get(usize::from(api)).map(String::as_str)
    }

    /// Which limit of the set before counted the calls that a new one counts, one by one and for longest: what it
    /// remembers is what the new one knows. Only such as weigh calls alike: another's units mean nothing here, and
    /// what was free there is not remembered.
    fn stand_in(&self, place: usize, before: &Self) -> Option<usize> {
        let limit = &self.limits()[place];
        plain_window(limit)?;
        let weighing = self.weighing(place);
        let counted = |at: usize, old: &Limit| {
            self.same_api(limit.api, before, old.api)
                && (old.per_api || !limit.per_api)
                && before.weighing(at) == weighing
        };
        let places = before.limits().iter().enumerate().filter(|(at, old)| counted(*at, old));
        let windows = places.filter_map(|(place, old)| Some((plain_window(old)?, place)));
        windows
            .max_by_key(|(window, place)| (*window, core::cmp::Reverse(*place)))
            .map(|(_, at)| at)
    }
}

/// The window of a limit that counts calls by time, one by one.
fn plain_window(limit: &Limit) -> Option<Span> {
    let plain = matches!(limit.rule, Rule::Every { .. } | Rule::Sliding { .. });
    limit.rule.window().filter(|_| plain)
}

fn counts_alike(old: &Limit, new: &Limit) -> bool {
    old.rule == new.rule && old.per_api == new.per_api && old.guard == new.guard
}

/// Whether `new` allows nothing that `old` did not. Where that is not certain, it does not.
fn tightens(old: &Limit, new: &Limit) -> bool {
    let rule = match (old.rule, new.rule) {
        (Rule::Concurrent { max: old }, Rule::Concurrent { max: new }) => {
            return new <= old;
        }
        (Rule::Every { .. } | Rule::Sliding { .. }, Rule::Every { .. } | Rule::Sliding { .. }) => {
            new.rule.max() <= old.rule.max() && new.rule.window() >= old.rule.window()
        }
        _ => false,
    };
    let guard = match (old.guard_span(), new.guard_span()) {
        (_, None) => true,
        (Some(old), Some(new)) => new >= old,
        (None, Some(_)) => false,
    };
    rule && guard && (old.per_api || !new.per_api)
}

impl Ledger {
    /// The same ledger for another set of limits, matched by the names of limits and apis: what a restart
    /// with a changed configuration does, without the restart ([`Ledger::decode`] says what is kept). `old`
    /// is the set it belonged to until now.
    ///
    /// Beyond what a restart knows, a limit of a new name takes over what another one remembers that counted
    /// the same calls for longest: a limit that was only renamed forgets nothing. [`LimitSet::changes_from`] says
    /// how much of the past each limit knows then.
    ///
    /// # Panics
    /// If only one of the sets names its apis, and the ledger knows of one: a bug of the caller.
    pub fn under(&self, old: &LimitSet, new: &LimitSet, now: At) -> (Self, Vec<Note>) {
        let read = |set: &LimitSet| {
            Self::decode_exact(new, &self.encode(set, now), now)
                .expect("a record of a moment ago, and both sets or none name their apis")
        };
        let (mut ledger, notes) = read(old);
        for note in &notes {
            let Note::Unknown { name, api } = note else { continue };
            let named = |limit: &Limit| limit.name == *name && limit.api == *api;
            let Some(place) = new.limits().iter().position(named) else { continue };
            let Some(other) = new.stand_in(place, old) else { continue };
            // As if it had been called that all along.
            let (renamed, _) = read(&old.renamed(other, name));
            ledger
                .charges
                .extend(renamed.charges.into_iter().filter(|charges| charges.limit == place));
        }
        ledger.doubt_windows(old, new);
        (ledger, notes)
    }

    /// When a window of the first call was opened is known only under the limit that it was counted by.
    fn doubt_windows(&mut self, old: &LimitSet, new: &LimitSet) {
        for (place, limit) in new.limits().iter().enumerate() {
            let same =
                |other: &Limit| new.same_name(limit, old, other) && counts_alike(other, limit);
            if !matches!(limit.rule, Rule::FirstUse { .. }) || old.limits().iter().any(same) {
                continue;
            }
            for charges in self.charges.iter_mut().filter(|charges| charges.limit == place) {
                charges.set_opened(Opened::unknown(At::MAX));
            }
            let apis = (0..new.apis().len()).map(|api| limit.bucket(api as ApiIx));
            for bucket in apis.chain((!limit.per_api).then_some(None)) {
                self.counter(place, bucket).set_opened(Opened::unknown(At::MAX));
            }
        }
    }
}
