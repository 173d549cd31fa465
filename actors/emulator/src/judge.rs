//! The counter: which arrival is accepted, which is refused, and by how much it was early.
//!
//! It counts as the strictest provider would: every arrival is kept with its exact moment, and a call is
//! accepted only when every limit that matches it agrees; then it counts in all of them at once. Time is an
//! argument. It must not know how callers decide when to call, nor HTTP.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::profile::{Per, ProviderLimit, Rule};

/// Most accounts that are counted; calls of further ones are turned away.
pub const ACCOUNTS_MAX: usize = 2_000_000;
/// Most endpoints of one account that are counted apart; calls of further ones are turned away.
pub const ENDPOINTS_MAX: usize = 1_024;

/// The counts of every account.
#[derive(Debug)]
pub struct Judge {
    pub(crate) limits: Vec<ProviderLimit>,
    pub(crate) accounts: HashMap<Arc<str>, Account>,
    /// One slot per limit; those counted over the platform are used.
    pub(crate) platform: Vec<Slot>,
    pub(crate) refused_by: Vec<u64>,
    pub(crate) worst_excess: Duration,
    pub(crate) turned_away: u64,
    count_refused: bool,
    hidden: u32,
    has_endpoint_limits: bool,
}

/// What the counter says of an arrival.
#[derive(Debug)]
pub enum Verdict {
    /// Every limit agrees. The ticket goes back through [`Judge::leave`] when the call is answered.
    Accepted(Ticket),
    /// At least one limit does not.
    Refused(Refusal),
    /// More accounts or endpoints than are counted.
    TurnedAway,
}

/// An accepted call that is still open.
#[derive(Debug)]
pub struct Ticket {
    account: Arc<str>,
    endpoint: Arc<str>,
}

impl Ticket {
    /// Whose call it is.
    pub fn account(&self) -> &Arc<str> {
        &self.account
    }
}

/// Why a call was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The limit that would have made it wait longest.
    pub limit: Arc<str>,
    /// How long; zero when only the calls at once were too many.
    pub early: Duration,
}

/// What is known of one account.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) calls: u64,
    pub(crate) refused: u64,
    pub(crate) first: Instant,
    pub(crate) last: Instant,
    pub(crate) gap_min: Option<Duration>,
    pub(crate) accepted_first: Option<Instant>,
    pub(crate) accepted_last: Option<Instant>,
    pub(crate) open: u32,
    pub(crate) open_max: u32,
    /// When the last accepted call could have come at the earliest, the first being at zero.
    pub(crate) ideal: Duration,
    /// One slot per limit; those counted per account are used.
    pub(crate) own: Vec<Slot>,
    /// The same for limits counted per endpoint.
    pub(crate) by_endpoint: HashMap<Arc<str>, Vec<Slot>>,
}

/// What one limit counts together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Slot {
    /// The last arrivals that count, at most as many as the window allows.
    counted: VecDeque<Instant>,
    /// The same calls on the account's ideal time.
    ideal: VecDeque<Duration>,
    open: u32,
    pub(crate) accepted: u64,
    pub(crate) first: Option<Instant>,
    pub(crate) last: Option<Instant>,
}

/// How an account stands in one window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The limit.
    pub limit: Arc<str>,
    /// Calls allowed in a window.
    pub max: u32,
    /// Length of the window.
    pub within: Duration,
    /// Calls that would be accepted now.
    pub left: u32,
    /// When more would be; zero while none counts.
    pub reset: Duration,
}

impl Slot {
    fn standing(&self, limit: &ProviderLimit, at: Instant) -> Option<Standing> {
        let Rule::Window { max, within } = limit.rule else { return None };
        let counting: Vec<&Instant> =
            self.counted.iter().filter(|own| **own + within > at).collect();
        let reset = counting.first().map_or(Duration::ZERO, |first| **first + within - at);
        let (limit, max) = (limit.name.clone(), max.get());
        let left = max.saturating_sub(counting.len() as u32);
        Some(Standing { limit, max, within, left, reset })
    }

    /// How much too early an arrival is; `None` = it is not.
    fn early(&self, rule: Rule, at: Instant) -> Option<Duration> {
        match rule {
            Rule::Window { max, within } => {
                if self.counted.len() < max.get() as usize {
                    return None;
                }
                let free_at = *self.counted.front()? + within;
                (free_at > at).then(|| free_at - at)
            }
            Rule::Concurrent { max } => (self.open >= max.get()).then_some(Duration::ZERO),
        }
    }

    /// The earliest ideal moment of the next call.
    fn ideal_next(&self, rule: Rule) -> Duration {
        match rule {
            Rule::Window { max, within } if self.ideal.len() == max.get() as usize => {
                self.ideal.front().map_or(Duration::ZERO, |front| *front + within)
            }
            _ => Duration::ZERO,
        }
    }

    fn count(&mut self, rule: Rule, at: Instant) {
        if let Rule::Window { max, .. } = rule {
            push_bounded(&mut self.counted, max.get() as usize, at);
        }
    }

    fn accept(&mut self, rule: Rule, at: Instant, ideal: Duration) {
        self.count(rule, at);
        if let Rule::Window { max, .. } = rule {
            push_bounded(&mut self.ideal, max.get() as usize, ideal);
        }
        self.open += 1;
        self.accepted += 1;
        self.first.get_or_insert(at);
        self.last = Some(at);
    }
}

fn push_bounded<T>(queue: &mut VecDeque<T>, max: usize, value: T) {
    if queue.len() == max {
        queue.pop_front();
    }
    queue.push_back(value);
}

impl Judge {
    /// A counter without any arrivals. With `count_refused`, a refused call counts in every window that it
    /// matched.
    pub fn new(limits: Vec<ProviderLimit>, count_refused: bool) -> Self {
        Self {
            platform: vec![Slot::default(); limits.len()],
            refused_by: vec![0; limits.len()],
            has_endpoint_limits: limits.iter().any(|limit| limit.per == Per::AccountEndpoint),
            accounts: HashMap::new(),
            worst_excess: Duration::ZERO,
            turned_away: 0,
            count_refused,
            hidden: 0,
            limits,
        }
    }

    /// With so many calls of somebody else in the moment of each account's first one.
    pub fn with_hidden(self, hidden: u32) -> Self {
        Self { hidden, ..self }
    }

    /// How an account stands in that of its own windows of which least is left.
    pub fn standing(&self, account: &str, at: Instant) -> Option<Standing> {
        let account = self.accounts.get(account)?;
        let own = self.limits.iter().zip(&account.own);
        let own = own.filter(|(limit, _)| limit.per == Per::Account && limit.only.is_none());
        own.filter_map(|(limit, slot)| slot.standing(limit, at)).min_by_key(|own| own.left)
    }

    /// Judges one arrival. Arrivals are told in the order of their moments.
    pub fn arrive(&mut self, account: &str, endpoint: &str, at: Instant) -> Verdict {
        let count_refused = self.count_refused;
        let Some((name, mut slots)) = self.slots(account, endpoint, at) else {
            self.turned_away += 1;
            return Verdict::TurnedAway;
        };
        slots.account.arrived(at);
        let refused = slots
            .each()
            .filter_map(|(i, limit, slot)| slot.early(limit.rule, at).map(|early| (early, i)))
            .max();
        let Some((early, i)) = refused else {
            slots.accept(at);
            return Verdict::Accepted(Ticket { account: name, endpoint: endpoint.into() });
        };
        slots.account.refused += 1;
        if count_refused {
            slots.each().for_each(|(_, limit, slot)| slot.count(limit.rule, at));
        }
        self.refused_by[i] += 1;
        self.worst_excess = self.worst_excess.max(early);
        Verdict::Refused(Refusal { limit: self.limits[i].name.clone(), early })
    }

    /// Takes back the ticket of a call that is answered or was broken off.
    pub fn leave(&mut self, ticket: Ticket) {
        let Some(account) = self.accounts.get_mut(&ticket.account) else { return };
        account.open -= 1;
        let mut slots = Slots {
            limits: &self.limits,
            endpoint: &ticket.endpoint,
            platform: &mut self.platform,
            account,
        };
        slots.each().for_each(|(_, _, slot)| slot.open -= 1);
    }

    /// The slots that a call counts in, and the account's shared name.
    fn slots<'a>(
        &'a mut self,
        account: &str,
        endpoint: &'a str,
        at: Instant,
    ) -> Option<(Arc<str>, Slots<'a>)> {
        let name = match self.accounts.get_key_value(account) {
            Some((name, _)) => name.clone(),
            None if self.accounts.len() >= ACCOUNTS_MAX => return None,
            None => Arc::from(account),
        };
        let limits = self.limits.as_slice();
        let hidden = self.hidden;
        let account = self.accounts.entry(name.clone()).or_insert_with(|| {
            let mut account = Account::new(at, limits.len());
            for (limit, slot) in limits.iter().zip(&mut account.own) {
                let Rule::Window { max, .. } = limit.rule else { continue };
                for _ in 0..hidden {
                    push_bounded(&mut slot.counted, max.get() as usize, at);
                    push_bounded(&mut slot.ideal, max.get() as usize, Duration::ZERO);
                }
            }
            account
        });
        if self.has_endpoint_limits && !account.by_endpoint.contains_key(endpoint) {
            if account.by_endpoint.len() >= ENDPOINTS_MAX {
                return None;
            }
            account.by_endpoint.insert(endpoint.into(), vec![Slot::default(); limits.len()]);
        }
        Some((name, Slots { limits, endpoint, platform: &mut self.platform, account }))
    }
}

impl Account {
    fn new(at: Instant, limits: usize) -> Self {
        Self {
            calls: 0,
            refused: 0,
            first: at,
            last: at,
            gap_min: None,
            accepted_first: None,
            accepted_last: None,
            open: 0,
            open_max: 0,
            ideal: Duration::ZERO,
            own: vec![Slot::default(); limits],
            by_endpoint: HashMap::new(),
        }
    }

    fn arrived(&mut self, at: Instant) {
        if self.calls > 0 {
            let gap = at.saturating_duration_since(self.last);
            self.gap_min = Some(self.gap_min.map_or(gap, |min| min.min(gap)));
        }
        self.calls += 1;
        self.last = at;
    }
}

/// The slots that calls of one account and endpoint count in.
struct Slots<'a> {
    limits: &'a [ProviderLimit],
    endpoint: &'a str,
    platform: &'a mut [Slot],
    account: &'a mut Account,
}

impl Slots<'_> {
    /// Every limit that matches, its number and its slot.
    fn each(&mut self) -> impl Iterator<Item = (usize, &ProviderLimit, &mut Slot)> {
        let Self { limits, endpoint, platform, account } = self;
        let by_endpoint = account.by_endpoint.get_mut(*endpoint).map(Vec::as_mut_slice);
        let matching = |per: Per, slots| {
            let endpoint = *endpoint;
            let numbered = limits.iter().enumerate().zip::<std::slice::IterMut<'_, Slot>>(slots);
            numbered
                .filter(move |((_, limit), _)| limit.per == per && limit.matches(endpoint))
                .map(|((i, limit), slot)| (i, limit, slot))
        };
        matching(Per::Account, account.own.iter_mut())
            .chain(matching(Per::AccountEndpoint, by_endpoint.unwrap_or_default().iter_mut()))
            .chain(matching(Per::Platform, platform.iter_mut()))
    }

    fn accept(&mut self, at: Instant) {
        // Other accounts use up a platform's limit too, so it says nothing about this account's ideal time.
        let earliest = self
            .each()
            .filter(|(_, limit, _)| limit.per != Per::Platform)
            .map(|(_, limit, slot)| slot.ideal_next(limit.rule))
            .max();
        let ideal = self.account.ideal.max(earliest.unwrap_or_default());
        self.each().for_each(|(_, limit, slot)| slot.accept(limit.rule, at, ideal));
        let account = &mut *self.account;
        account.ideal = ideal;
        account.open += 1;
        account.open_max = account.open_max.max(account.open);
        account.accepted_first.get_or_insert(at);
        account.accepted_last = Some(at);
    }
}

#[cfg(test)]
mod tests;
