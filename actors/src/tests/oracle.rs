//! A brute-force judge of when calls may go, written without the gate: it looks at every millisecond of a
//! run and counts.

use std::time::Duration;

use super::{Rig, account_of, api_of};
use crate::http::scripted::Seen;

/// How a limit counts.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rule {
    /// So many milliseconds between two calls.
    Every(u64),
    /// So many calls in so many milliseconds.
    Max(usize, u64),
    /// So many calls in flight.
    Concurrent(usize),
}

/// A limit as the test knows it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limit {
    pub(super) rule: Rule,
    pub(super) per_api: bool,
    /// In milliseconds; nothing: only the answer tells.
    pub(super) guard: Option<u64>,
}

impl Limit {
    pub(super) fn new(rule: Rule) -> Self {
        Self { rule, per_api: false, guard: Some(25) }
    }

    /// The limit in the configuration's words.
    pub(super) fn toml(self, name: &str) -> String {
        let per = if self.per_api { r#"["account", "api"]"# } else { r#"["account"]"# };
        let guard = match self.guard {
            Some(guard) => format!(r#", guard = "{guard}ms""#),
            None => r#", guard = "never""#.to_owned(),
        };
        match self.rule {
            Rule::Every(gap) => format!("{name} = {{ per = {per}, every = \"{gap}ms\"{guard} }}"),
            Rule::Max(max, window) => {
                format!("{name} = {{ per = {per}, max = {max}, in = \"{window}ms\"{guard} }}")
            }
            Rule::Concurrent(max) => format!("{name} = {{ per = {per}, concurrent = {max} }}"),
        }
    }

    /// The length of its window in milliseconds, if it counts by time.
    fn window(self) -> Option<u64> {
        match self.rule {
            Rule::Every(window) | Rule::Max(_, window) => Some(window),
            Rule::Concurrent(_) => None,
        }
    }

    /// Whether the configuration takes one of the two for a slip.
    fn contradicts(self, other: Self) -> bool {
        match (self.rule, other.rule) {
            (Rule::Max(max, window), Rule::Max(other_max, longer)) => {
                let never_used_up = window < longer && max > other_max;
                self.per_api == other.per_api && (window == longer || never_used_up)
            }
            _ => false,
        }
    }

    /// Whether a call of `api` may go at `now`, after these of its account.
    fn allows<'a>(self, api: &str, now: u64, before: impl IntoIterator<Item = &'a Call>) -> bool {
        let mine = before.into_iter().filter(|call| !self.per_api || call.api == api);
        let (max, taken) = match self.rule {
            Rule::Every(gap) => (1, mine.filter(|call| !self.has_left(call, gap, now)).count()),
            Rule::Max(max, window) => {
                (max, mine.filter(|call| !self.has_left(call, window, now)).count())
            }
            Rule::Concurrent(max) => {
                (max, mine.filter(|call| call.ended.is_none_or(|at| at > now)).count())
            }
        };
        taken < max
    }

    /// Whether a call has left the window, as far as is known at `now`.
    fn has_left(self, call: &Call, window: u64, now: u64) -> bool {
        let known = |at: Option<u64>| at.filter(|at| *at <= now);
        let by_guard = known(call.written).zip(self.guard).map(|(at, guard)| at + guard);
        let charge = [by_guard, known(call.answered)].into_iter().flatten().min();
        charge.is_some_and(|charge| charge + window <= now)
    }
}

/// A call, in milliseconds since the start.
#[derive(Debug, Clone)]
struct Call {
    api: String,
    begun: u64,
    connected: Option<u64>,
    written: Option<u64>,
    answered: Option<u64>,
    ended: Option<u64>,
}

impl Call {
    fn of(rig: &Rig, seen: &Seen) -> Self {
        let ms = |at: Option<tokio::time::Instant>| at.map(|at| rig.ms(at));
        Self {
            api: api_of(seen),
            begun: rig.ms(seen.begun),
            connected: ms(seen.connected),
            written: ms(seen.written),
            answered: ms(seen.answered),
            ended: ms(seen.ended),
        }
    }
}

/// Asserts that every call of an account went when it was allowed, and that in no millisecond one could have
/// gone that did not. `apis`: how many fetches waited for each from the beginning on; each is called once.
pub(super) fn assert_earliest(rig: &Rig, account: &str, limits: &[Limit], apis: &[(&str, usize)]) {
    let seen = rig.wire.seen();
    let own = seen.iter().filter(|seen| account_of(seen) == account);
    let calls: Vec<Call> = own.map(|seen| Call::of(rig, seen)).collect();
    assert_eq!(calls.len(), apis.iter().map(|(_, count)| count).sum::<usize>(), "each called once");
    let mut made = 0;
    for now in 0..=calls.last().map_or(0, |last| last.begun) {
        while calls.get(made).is_some_and(|call| call.begun == now) {
            let call = &calls[made];
            for limit in limits {
                assert!(
                    limit.allows(&call.api, now, &calls[..made]),
                    "{account}: call {made} at {now} ms is too early for {limit:?}: {:#?}",
                    &calls[..=made]
                );
            }
            made += 1;
        }
        for (api, count) in apis {
            let left = count - calls[..made].iter().filter(|call| call.api == *api).count();
            let allowed = limits.iter().all(|limit| limit.allows(api, now, &calls[..made]));
            assert!(
                left == 0 || !allowed,
                "{account}: at {now} ms a call of {api} could go, the next came at {} ms; {limits:?}: {:#?}",
                calls[made].begun,
                &calls[..made]
            );
        }
    }
}

/// Limits by name, and from when on they are in force.
#[derive(Debug, Clone)]
pub(super) struct Phase {
    pub(super) from: u64,
    pub(super) limits: Vec<(String, Limit)>,
}

/// Which calls each limit of a phase does not know any more: a bit for each, by their places.
type Forgotten = Vec<u64>;

impl Phase {
    /// What the limits of this phase do not know of the calls before it. One of the same name remembers; a new one
    /// takes over from the limit that counted the same calls for longest.
    fn forgotten(&self, before: &Self, known: &Forgotten, calls: &[Call]) -> Forgotten {
        assert!(calls.len() <= 64, "a bit for each call");
        let final_by_now =
            |call: &Call| call.answered.or(call.ended).is_some_and(|at| at <= self.from);
        let of = |(name, limit): &(String, Limit)| {
            let dated = before.limits.iter().enumerate();
            let dated = dated.filter(|(_, (_, old))| old.window().is_some());
            let same = dated.clone().find(|(_, (old, _))| old == name);
            let source = same.or_else(|| {
                let counted = dated.filter(|(_, (_, old))| old.per_api || !limit.per_api);
                // Of equal ones the first.
                counted.rev().max_by_key(|(_, (_, old))| old.window())
            });
            let gone = |place: usize, call: &Call| match source {
                _ if !final_by_now(call) => false,
                None => true,
                Some((at, (_, old))) => {
                    is_in(known[at], place)
                        || old.window().is_none_or(|w| old.has_left(call, w, self.from))
                }
            };
            let places = calls.iter().enumerate().filter(|(place, call)| gone(*place, call));
            places.fold(0, |bits, (place, _)| bits | 1 << place)
        };
        self.limits.iter().map(of).collect()
    }

    fn allows(&self, api: &str, now: u64, before: &[Call], forgotten: &Forgotten) -> bool {
        self.limits.iter().zip(forgotten).all(|((_, limit), gone)| {
            let gone = if limit.window().is_some() { *gone } else { 0 };
            let known = before.iter().enumerate().filter(|(place, _)| !is_in(gone, *place));
            limit.allows(api, now, known.map(|(_, call)| call))
        })
    }
}

fn is_in(bits: u64, place: usize) -> bool {
    bits >> place & 1 == 1
}

/// As [`assert_earliest`], with limits that change: each call is judged by those in force when it went, and by all
/// that they know of the calls before. In the millisecond of a change either will do.
pub(super) fn assert_earliest_in(
    rig: &Rig,
    account: &str,
    phases: &[Phase],
    apis: &[(&str, usize)],
) {
    let seen = rig.wire.seen();
    let own = seen.iter().filter(|seen| account_of(seen) == account);
    let calls: Vec<Call> = own.map(|seen| Call::of(rig, seen)).collect();
    assert_eq!(calls.len(), apis.iter().map(|(_, count)| count).sum::<usize>(), "each called once");
    let (mut made, mut at, mut forgotten) = (0, 0, vec![0; phases[0].limits.len()]);
    for now in 0..=calls.last().map_or(0, |last| last.begun) {
        let changes = phases.get(at + 1).is_some_and(|next| next.from == now);
        let before = (&phases[at], forgotten.clone());
        if changes {
            forgotten = phases[at + 1].forgotten(&phases[at], &forgotten, &calls[..made]);
            at += 1;
        }
        let (phase, either) = (&phases[at], changes.then_some(before));
        while calls.get(made).is_some_and(|call| call.begun == now) {
            let call = &calls[made];
            let allowed = |phase: &Phase, gone| phase.allows(&call.api, now, &calls[..made], gone);
            assert!(
                allowed(phase, &forgotten) || either.as_ref().is_some_and(|(p, g)| allowed(p, g)),
                "{account}: call {made} at {now} ms is too early for {phase:?}, which does not know \
                 {forgotten:?}: {:#?}",
                &calls[..=made]
            );
            made += 1;
        }
        for (api, count) in apis {
            let left = count - calls[..made].iter().filter(|call| call.api == *api).count();
            assert!(
                left == 0 || changes || !phase.allows(api, now, &calls[..made], &forgotten),
                "{account}: at {now} ms a call of {api} could go, the next came at {} ms; {phase:?} \
                 does not know {forgotten:?}: {:#?}",
                calls[made].begun,
                &calls[..made]
            );
        }
    }
}

/// Asserts that the provider never received more than a limit allows. A call cannot have arrived before its
/// connection was ready: then it enters a window. It leaves that by the latest moment at which it has certainly
/// left here: when it was written or, where that is not known, answered.
pub(super) fn assert_never_too_many(rig: &Rig, account: &str, limit: Limit) {
    assert_never_too_many_of(&[rig], account, limit);
}

/// The same for what several nodes called together.
pub(super) fn assert_never_too_many_of(rigs: &[&Rig], account: &str, limit: Limit) {
    let seen = rigs.iter().flat_map(|rig| rig.wire.seen());
    let own: Vec<Seen> = seen.filter(|seen| account_of(seen) == account).collect();
    assert_never_too_many_among(rigs[0], &own, account, limit);
}

/// The same for any calls that count together.
pub(super) fn assert_never_too_many_among(rig: &Rig, seen: &[Seen], what: &str, limit: Limit) {
    let account = what;
    let mut calls: Vec<Call> = seen.iter().map(|seen| Call::of(rig, seen)).collect();
    calls.sort_by_key(|call| call.begun);
    let (max, window) = match limit.rule {
        Rule::Every(gap) => (1, gap),
        Rule::Max(max, window) => (max, window),
        Rule::Concurrent(max) => {
            for (place, call) in calls.iter().enumerate() {
                let open = calls[..place]
                    .iter()
                    .filter(|other| other.ended.is_none_or(|at| at > call.begun))
                    .count();
                assert!(open < max, "{account}: call {place} makes {} in flight", open + 1);
            }
            return;
        }
    };
    calls.retain(|call| call.connected.is_some());
    calls.sort_by_key(|call| call.connected);
    for (place, call) in calls.iter().enumerate() {
        let now = call.connected.unwrap();
        let left = |other: &&Call| other.written.or(other.answered).or(other.connected).unwrap();
        let before = calls[..place].iter().filter(|other| left(other) + window > now);
        let before: Vec<&Call> = before.collect();
        assert!(
            before.len() < max,
            "{account}: {} calls may have arrived within {window} ms: {call:#?} after {before:#?}",
            before.len() + 1,
        );
    }
}

/// A time from a seed.
pub(super) fn some_ms(random: &mut fastrand::Rng, most: u64) -> Duration {
    Duration::from_millis(random.u64(0..=most))
}

/// Of these limits those that contradict none before them.
pub(super) fn consistent(limits: Vec<Limit>) -> Vec<Limit> {
    let named = limits.into_iter().map(|limit| ((), limit)).collect();
    consistent_named(named).into_iter().map(|((), limit)| limit).collect()
}

/// The same of limits with names.
pub(super) fn consistent_named<N>(limits: Vec<(N, Limit)>) -> Vec<(N, Limit)> {
    let mut kept: Vec<(N, Limit)> = Vec::new();
    for (name, limit) in limits {
        let against =
            |(_, other): &(N, Limit)| other.contradicts(limit) || limit.contradicts(*other);
        if !kept.iter().any(against) {
            kept.push((name, limit));
        }
    }
    kept
}
