//! When something that is wrong is told, told again, and told to be over; pure.
//!
//! A condition is told once it has lasted, or is known to last, for its kind's time; again after a longer one; and when it
//! has been over for a while. One that comes and goes has to be over for longer each time before that is told, up to
//! the time between two tellings: so it is told a few times at most, however often it comes and goes.

use std::collections::BTreeMap;

use tollgate_gate::{At, Span};

use super::{Facts, Key, Kind, State};

/// Conditions that are known at once; of further ones only the number is. What is over goes first where there is no room.
pub(super) const KEPT_MAX: usize = 1024;
/// Accounts of a platform that are told one by one, for each kind, at a time; of further ones only the number is.
pub(super) const ACCOUNTS_MAX: usize = 10;
/// Room that accounts leave to whatever is about none: a store that is away is told however many accounts are held.
pub(super) const OTHERS_MIN: usize = 128;
/// How long something is over before that is told, the first time.
const SETTLE: Span = Span::from_secs(60);
/// Doubled so often at most.
const FLAPS_MAX: u32 = 16;

/// How long each kind has to last.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub(super) held: Span,
    pub(super) store: Span,
    pub(super) blocked: Span,
    pub(super) repeat: Span,
}

impl Rules {
    fn after(&self, kind: Kind) -> Span {
        match kind {
            Kind::AccountHeld => self.held,
            Kind::StoreAway => self.store,
            Kind::ShardBlocked => self.blocked,
            Kind::LimitDrift | Kind::DeadLetters | Kind::DeadlineMissed => Span(0),
        }
    }

    /// How long it is over before that is told, when it has come back so often. Nobody waits longer for that than for
    /// the first word.
    fn settle(&self, kind: Kind, flaps: u32) -> Span {
        let first = match self.after(kind) {
            Span(0) => SETTLE,
            after => after.min(SETTLE),
        };
        let doubled = first.0.saturating_mul(1 << flaps.min(FLAPS_MAX));
        Span(doubled).min(self.repeat.max(first))
    }
}

/// Something to be told.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Telling {
    pub(super) key: Key,
    pub(super) state: State,
    pub(super) since: At,
    pub(super) facts: Facts,
}

/// What is known of a condition.
#[derive(Debug)]
struct Kept {
    since: At,
    /// Until when it is known to be so.
    lasts: At,
    /// Until when it probably is.
    until: At,
    told: Option<At>,
    /// When it was told to be over; it may come back.
    over: Option<At>,
    /// How often it came back.
    flaps: u32,
    facts: Facts,
}

/// All conditions of a node.
#[derive(Debug)]
pub(super) struct Alarms {
    rules: Rules,
    kept: BTreeMap<Key, Kept>,
}

impl Alarms {
    pub(super) fn new(rules: Rules) -> Self {
        Self { rules, kept: BTreeMap::new() }
    }

    /// Whether it is so at the moment, as far as is known.
    pub(super) fn is_on(&self, key: &Key) -> bool {
        self.kept.get(key).is_some_and(|kept| kept.over.is_none())
    }

    /// Whether anything of that kind is so.
    pub(super) fn has(&self, kind: Kind) -> bool {
        self.kept.iter().any(|(key, kept)| key.kind == kind && kept.over.is_none())
    }

    /// Whether an account's may be kept by its own name: it is, or there is room beside the others that are so.
    pub(super) fn has_room(&self, key: &Key) -> bool {
        if self.is_on(key) {
            return true;
        }
        let is_accounts = |(key, kept): (&Key, &Kept)| key.account.is_some() && kept.over.is_none();
        let first = Key { account: None, api: None, of: None, ..key.clone() };
        let same =
            |(other, _): &(&Key, &Kept)| other.kind == key.kind && other.platform == key.platform;
        let own = self.kept.range(first..).take_while(same).filter(|one| is_accounts(*one));
        own.count() < ACCOUNTS_MAX
            && self.kept.iter().filter(|one| is_accounts(*one)).count() < KEPT_MAX - OTHERS_MIN
            && (self.kept.len() < KEPT_MAX || self.longest_over().is_some())
    }

    /// What has been over for longest.
    fn longest_over(&self) -> Option<&Key> {
        let over = self.kept.iter().filter_map(|(key, kept)| Some((kept.over?, key)));
        over.min_by_key(|(over, _)| *over).map(|(_, key)| key)
    }

    /// What was last said of it, while it is so.
    pub(super) fn facts(&self, key: &Key) -> Option<&Facts> {
        self.kept.get(key).filter(|kept| kept.over.is_none()).map(|kept| &kept.facts)
    }

    /// It is so, since then, and lasts at least until `lasts`. False: there is no room for it.
    pub(super) fn see(&mut self, key: Key, (since, lasts): (At, At), facts: Facts) -> bool {
        self.see_until(key, (since, lasts, lasts), facts)
    }

    /// It is so, since then, at least until `lasts`, and probably until `until`: long enough, that is told before it has
    /// come to be.
    pub(super) fn see_until(
        &mut self,
        key: Key,
        (since, lasts, until): (At, At, At),
        facts: Facts,
    ) -> bool {
        if let Some(kept) = self.kept.get_mut(&key) {
            if let Some(over) = kept.over.take() {
                (kept.since, kept.told) = (since.max(over), None);
                kept.flaps = kept.flaps.saturating_add(1);
                (kept.lasts, kept.until) = (lasts, until);
            }
            kept.lasts = kept.lasts.max(lasts);
            kept.until = until;
            kept.facts = facts;
            return true;
        }
        if self.kept.len() >= KEPT_MAX {
            let Some(over) = self.longest_over().cloned() else { return false };
            self.kept.remove(&over);
        }
        let (told, over, flaps) = (None, None, 0);
        self.kept.insert(key, Kept { since, lasts, until, told, over, flaps, facts });
        true
    }

    /// What was known goes on to be so, for want of a better answer.
    pub(super) fn keep(&mut self, of: impl Fn(&Key) -> bool, now: At) {
        for (_, kept) in self.kept.iter_mut().filter(|(key, _)| of(key)) {
            if kept.over.is_none() {
                kept.lasts = kept.lasts.max(now);
            }
        }
    }

    /// It is so no more since `now`, whatever was known of how long it lasts.
    pub(super) fn is_over(&mut self, key: &Key, now: At) {
        if let Some(kept) = self.kept.get_mut(key) {
            kept.lasts = kept.lasts.min(now);
            kept.until = kept.until.min(now);
        }
    }

    /// Forgets without a word what is another's to tell.
    pub(super) fn forget(&mut self, of: impl Fn(&Key) -> bool) {
        self.kept.retain(|key, _| !of(key));
    }

    /// What is to be told now.
    pub(super) fn step(&mut self, now: At) -> Vec<Telling> {
        let (mut tellings, rules) = (Vec::new(), &self.rules);
        self.kept.retain(|key, kept| {
            let mut tell = |state, kept: &Kept| {
                let (key, since, facts) = (key.clone(), kept.since, kept.facts.clone());
                tellings.push(Telling { key, state, since, facts });
            };
            if let Some(over) = kept.over {
                return now.since(over) < rules.repeat;
            }
            if now > kept.lasts.plus(rules.settle(key.kind, kept.flaps)) {
                if kept.told.is_some() {
                    tell(State::Ended, kept);
                }
                let has_been_told = kept.told.is_some() || kept.flaps > 0;
                kept.over = Some(now);
                return has_been_told;
            }
            if kept.lasts < now {
                // It may be over; nothing is said of that yet.
                return true;
            }
            match kept.told {
                None if kept.lasts.max(kept.until).since(kept.since) >= rules.after(key.kind) => {
                    tell(State::Began, kept);
                    kept.told = Some(now);
                }
                Some(told) if now.since(told) >= rules.repeat => {
                    tell(State::GoesOn, kept);
                    kept.told = Some(now);
                }
                _ => {}
            }
            true
        });
        tellings
    }
}
