//! What a shard shows of its accounts to whoever looks: one of them, a stretch of a list, a stretch of what all come to.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use actix::{Addr, Context, Handler, Message, MessageResult};
use tollgate_gate::{At, Ledger, Span};

use super::accounts::{Entry, Ix, State};
use super::context::Context as Ctx;
use super::{AccountLook, Shard};
use crate::budget::{Budget, State as BudgetState};
use crate::ids::{AccountKey, Slug};
use crate::ledger::record::Record;
use crate::plan::Platform;
use crate::pulse::Doing;
use crate::throttle::Throttle;
use crate::throttle::messages::Shown;
use crate::times::{Cause, Ends, Phase, Spent, Waits};
use crate::view::account::{Beside, LaneNow, allowed};
use crate::view::answers::Mark;
use crate::view::eta::Sizes;
use crate::view::list::{First, Wanted, number};
use crate::view::{AccountState, HoldView, Holder};

/// Accounts looked at in one turn: 0.1 to 0.5 ms, most where a part of a name is looked for.
const STRETCH: u32 = 4096;
/// Accounts of a stretch that may be the last to be done.
const SLOWEST: usize = 8;

/// Sent by the node: what is there of this account?
#[derive(Debug, Message)]
#[rtype(result = "Found")]
pub(crate) struct ShowAccount {
    pub(crate) key: AccountKey,
    /// Somebody looks at this account, so its last answers are told, and kept from now on.
    pub(crate) watched: bool,
}

/// The answer.
#[derive(Debug)]
pub(crate) enum Found {
    /// Nothing is known of it here.
    Unknown,
    /// Its actor has it.
    Live(Addr<Throttle>, Around),
    /// The shard itself has it.
    Here(Box<Shown>, Around),
}

/// What the shard knows of an account beside its gate.
#[derive(Debug)]
pub(crate) struct Around {
    pub(crate) state: AccountState,
    pub(crate) beside: Vec<Beside>,
    pub(crate) answers: Vec<Mark>,
}

/// Sent by the node, stretch after stretch: which accounts come first?
#[derive(Debug, Message)]
#[rtype(result = "Listed")]
pub(crate) struct ListAccounts {
    pub(crate) wanted: Arc<Wanted>,
    pub(crate) from: Ix,
}

/// The answer.
#[derive(Debug, Default)]
pub(crate) struct Listed {
    /// Where to go on; nothing at the end.
    pub(crate) next: Option<Ix>,
    /// Accounts that were asked for, on whatever page.
    pub(crate) matching: u64,
    /// One more than a page of the first, in no order.
    pub(crate) rows: Vec<AccountLook>,
}

/// Sent by the node, stretch after stretch: what do accounts come to? What attempts did since these moments is told
/// with the first stretch.
#[derive(Debug, Message)]
#[rtype(result = "Summed")]
pub(crate) struct SumUp {
    pub(crate) from: Ix,
    pub(crate) since: [At; 2],
}

/// The answer.
#[derive(Debug, Default)]
pub(crate) struct Summed {
    /// Where to go on; nothing at the end.
    pub(crate) next: Option<Ix>,
    pub(crate) platforms: BTreeMap<Slug, Sum>,
    /// Attempts, by platform and number of the api, since each moment.
    pub(crate) paces: Vec<Paced>,
    /// Those with the most to do for what their limits allow: seconds, roughly.
    pub(crate) slowest: Vec<(u64, AccountKey)>,
    pub(crate) known: u64,
    pub(crate) live: u64,
}

/// What the accounts of a platform come to.
#[derive(Debug, Default)]
pub(crate) struct Sum {
    pub(crate) waiting: u64,
    pub(crate) in_flight: u64,
    pub(crate) accounts: u64,
    pub(crate) held: u64,
    /// Fetches of accounts that are held without an end.
    pub(crate) endless: u64,
    pub(crate) causes: BTreeMap<Waits, u64>,
    /// Of those that are not held the one with the most waiting.
    pub(crate) most: Option<(u64, AccountKey)>,
    /// Accounts that take turns in what is shared, by what waits in them.
    pub(crate) sizes: Sizes,
    /// Calls a second, and whether that can be told of all.
    pub(crate) allowed: f64,
    pub(crate) untold: u64,
}

/// What attempts of a platform's api did.
#[derive(Debug)]
pub(crate) struct Paced {
    /// Nothing: those that are not kept apart.
    pub(crate) of: Option<(Slug, u16)>,
    /// Since each of the moments.
    pub(crate) ends: [Ends; 2],
    /// From writing to the end of an answer, since the later moment that has some.
    pub(crate) call: Option<Span>,
    /// How long an attempt has its slot.
    pub(crate) slot: Option<Span>,
}

impl Ctx {
    /// What holds an account beside its own gate.
    fn beside(&self, key: &AccountKey, platform: &Platform, now: At) -> Vec<Beside> {
        let wall = self.clock.wall_at(now);
        let mut beside: Vec<Beside> = self
            .holds
            .on(key, wall)
            .into_iter()
            .filter_map(|(scope, hold)| {
                let api = match &scope.api {
                    None => None,
                    Some(name) => Some(platform.api(name.as_str())?.0),
                };
                let until = hold.until.map_or(At::MAX, |until| self.clock.at_wall(until));
                let view = HoldView {
                    by: Holder::Operator,
                    of: scope.to_string(),
                    reason: hold.text(),
                    since: Some(hold.since),
                    until: hold.until,
                };
                Some(Beside { api, until, view })
            })
            .collect();
        if let Some((until, reason)) = self.shuts.of(key, now) {
            let view = HoldView {
                by: Holder::Provider,
                of: key.platform.to_string(),
                reason: reason.to_string(),
                since: None,
                until: Some(self.clock.wall_at(until)),
            };
            beside.push(Beside { api: None, until, view });
        }
        beside
    }

    /// An account that rests, from its record.
    fn rested(&self, key: &AccountKey, rest: &super::accounts::Rest, now: At) -> Shown {
        let in_force = self.platform(&key.platform).map(|platform| platform.of(&key.account));
        let platform = in_force.unwrap_or_else(|| Arc::clone(&rest.platform));
        let (old, new) = (&*rest.platform.limits, &*platform.limits);
        let record = Record::decode(&rest.record).ok();
        let ledger = record.and_then(|record| {
            let (ledger, _) = Ledger::decode_exact(old, &record.gate, rest.since).ok()?;
            Some(if old == new { ledger } else { ledger.under(old, new, now).0 })
        });
        // By their numbers in the platform in force.
        let lanes = rest.lanes.iter().map(|lane| LaneNow {
            api: lane.api,
            priority: lane.priority,
            waiting: lane.unread.known(),
        });
        let known = lanes.filter(|lane| usize::from(lane.api) < platform.apis.len());
        Shown {
            lanes: known.collect(),
            ledger: ledger.unwrap_or_default(),
            in_flight: 0,
            because: rest.because.as_deref().map(str::to_owned),
            cause: rest.cause.map(|(_, cause)| cause),
            until: (!rest.lanes.is_empty() && rest.due < At::MAX).then_some(rest.due),
            platform,
        }
    }
}

impl Handler<ShowAccount> for Shard {
    type Result = MessageResult<ShowAccount>;

    fn handle(&mut self, asked: ShowAccount, _: &mut Context<Self>) -> Self::Result {
        let ShowAccount { key, watched } = asked;
        let ctx = &self.ctx;
        let now = ctx.clock.now();
        let accounts = ctx.accounts.borrow();
        let Some(entry) = accounts.find(&key).and_then(|ix| accounts.get(ix)) else {
            return MessageResult(Found::Unknown);
        };
        let Some(platform) = ctx.platform(&key.platform) else {
            return MessageResult(Found::Unknown);
        };
        let around = |state| Around {
            state,
            beside: ctx.beside(&key, &platform, now),
            answers: if watched { ctx.answers.of(&key, now) } else { Vec::new() },
        };
        MessageResult(match &entry.state {
            State::Live { addr, .. } => Found::Live(addr.clone(), around(AccountState::Live)),
            State::Resting(rest) => {
                let shown = Box::new(ctx.rested(&key, rest, now));
                Found::Here(shown, around(AccountState::Resting))
            }
            State::Restarting(_) => {
                let shown = Box::new(new_one(entry, &platform, now));
                Found::Here(shown, around(AccountState::Restarting))
            }
            State::Ready(_) => {
                let shown = Box::new(new_one(entry, &platform, now));
                Found::Here(shown, around(AccountState::Ready))
            }
        })
    }
}

/// An account whose record was not read yet, or is read again.
fn new_one(entry: &Entry, platform: &Arc<Platform>, now: At) -> Shown {
    let found = match &entry.state {
        State::Ready(found) => found.as_slice(),
        _ => &[],
    };
    let lanes = found.iter().filter_map(|found| {
        let (api, _) = platform.api(found.lane.api.as_str())?;
        Some(LaneNow { api, priority: found.lane.priority, waiting: found.count })
    });
    let glance = entry.glance();
    Shown {
        lanes: lanes.collect(),
        platform: platform.of(&entry.key.account),
        ledger: Ledger::new(),
        in_flight: glance.in_flight,
        because: glance.because.map(String::from),
        cause: glance.spent.0.map(|(_, cause)| cause).or(Some(Cause::Turn)),
        until: glance.until.filter(|until| *until > now),
    }
}

impl Entry {
    fn cause(&self) -> Option<Cause> {
        match (&self.state, self.spent().0) {
            (State::Ready(_), _) => Some(Cause::Turn),
            (_, cause) => cause.map(|(_, cause)| cause),
        }
    }

    /// When the next call may go, without a copy of why.
    fn until(&self) -> Option<At> {
        match &self.state {
            State::Ready(_) => None,
            State::Live { glance, .. } | State::Restarting(glance) => glance.until,
            State::Resting(rest) => {
                (!rest.lanes.is_empty() && rest.due < At::MAX).then_some(rest.due)
            }
        }
    }
}

impl Ctx {
    /// What an account looks like from outside.
    pub(super) fn look_at(&self, entry: &Entry) -> AccountLook {
        let (waiting, in_flight) = entry.counts();
        let glance = entry.glance();
        let cause = entry.cause().filter(|_| waiting > 0).map(Cause::kind);
        AccountLook {
            platform: entry.key.platform.to_string(),
            account: entry.key.account.to_string(),
            waiting,
            in_flight,
            because: glance.because.map(String::from),
            cause,
            until: glance.until.map(|at| self.clock.wall_at(at)),
            eta: None,
        }
    }
}

impl Handler<ListAccounts> for Shard {
    type Result = MessageResult<ListAccounts>;

    fn handle(&mut self, asked: ListAccounts, _: &mut Context<Self>) -> Self::Result {
        let _turn = self.ctx.pulse.on(Doing::Counting, None);
        let accounts = self.ctx.accounts.borrow();
        let end = asked.from.saturating_add(STRETCH);
        let mut listed =
            Listed { next: (end < accounts.end()).then_some(end), ..Listed::default() };
        let wanted = &*asked.wanted;
        let most = wanted.most + 1;
        let (mut first, mut last) = (First::new(most), First::new(most));
        for ix in asked.from..end.min(accounts.end()) {
            let Some(entry) = accounts.get(ix) else { continue };
            let key = &entry.key;
            if !wanted.fits(key.platform.as_str(), key.account.as_str()) {
                continue;
            }
            if wanted.held && !is_held(entry) {
                continue;
            }
            listed.matching += 1;
            let (waiting, in_flight) = entry.counts();
            let until = entry.until().map(|at| self.ctx.clock.wall_at(at).as_microsecond());
            let number = number(wanted.sort, waiting, in_flight, until);
            if !wanted.is_behind(number, key.platform.as_str(), key.account.as_str()) {
                continue;
            }
            if wanted.reverse {
                last.put((Reverse((number, key)), ix));
            } else {
                first.put(((number, key), ix));
            }
        }
        let kept = first.into_vec().into_iter().map(|(_, ix)| ix);
        let kept = kept.chain(last.into_vec().into_iter().map(|(_, ix)| ix));
        let entries = kept.filter_map(|ix| accounts.get(ix));
        listed.rows = entries.map(|entry| self.ctx.look_at(entry)).collect();
        MessageResult(listed)
    }
}

/// Sent by the node: what do these accounts look like? Those that are not known look like nothing.
#[derive(Debug, Message)]
#[rtype(result = "Vec<AccountLook>")]
pub(crate) struct LookAt(pub(crate) Vec<AccountKey>);

impl Handler<LookAt> for Shard {
    type Result = MessageResult<LookAt>;

    fn handle(&mut self, LookAt(keys): LookAt, _: &mut Context<Self>) -> Self::Result {
        let _turn = self.ctx.pulse.on(Doing::Counting, None);
        let accounts = self.ctx.accounts.borrow();
        let look = |key: &AccountKey| match accounts.find(key).and_then(|ix| accounts.get(ix)) {
            Some(entry) => self.ctx.look_at(entry),
            None => AccountLook {
                platform: key.platform.to_string(),
                account: key.account.to_string(),
                ..AccountLook::default()
            },
        };
        MessageResult(keys.iter().map(look).collect())
    }
}

/// Sent by the node: who is the actor of the budget whose record has this name?
#[derive(Debug, Message)]
#[rtype(result = "Option<Addr<Budget>>")]
pub(crate) struct ShowBudget(pub(crate) AccountKey);

impl Handler<ShowBudget> for Shard {
    type Result = MessageResult<ShowBudget>;

    fn handle(&mut self, ShowBudget(record): ShowBudget, _: &mut Context<Self>) -> Self::Result {
        let budgets = self.ctx.budgets.borrow();
        let live = budgets.get(&record).and_then(|entry| match &entry.state {
            BudgetState::Live { addr, .. } => Some(addr.clone()),
            BudgetState::Restarting(_) => None,
        });
        MessageResult(live)
    }
}

/// By an operator, or a provider.
fn is_held(entry: &Entry) -> bool {
    matches!(entry.cause(), Some(Cause::Hold | Cause::Paused)) && entry.counts().0 > 0
}

impl Handler<SumUp> for Shard {
    type Result = MessageResult<SumUp>;

    fn handle(&mut self, asked: SumUp, _: &mut Context<Self>) -> Self::Result {
        let _turn = self.ctx.pulse.on(Doing::Counting, None);
        let accounts = self.ctx.accounts.borrow();
        let end = asked.from.saturating_add(STRETCH);
        let mut summed = Summed {
            next: (end < accounts.end()).then_some(end),
            known: accounts.len() as u64,
            live: accounts.live as u64,
            ..Summed::default()
        };
        if asked.from == 0 {
            summed.paces = self.paces(asked.since);
        }
        // What one account may do, by the platform that it goes by: mostly the same as before.
        let plan = self.ctx.plan();
        let mut rates: BTreeMap<&Slug, Option<f64>> = BTreeMap::new();
        let mut slowest = First::new(SLOWEST);
        for ix in asked.from..end.min(accounts.end()) {
            let Some(entry) = accounts.get(ix) else { continue };
            let (waiting, in_flight) = entry.counts();
            if waiting == 0 && in_flight == 0 {
                continue;
            }
            let Some((name, platform)) = plan.platforms.get_key_value(&entry.key.platform) else {
                continue;
            };
            let usual = *rates.entry(name).or_insert_with(|| allowed(&platform.limits));
            let special = platform.special_of(&entry.key.account);
            let rate = special.map_or(usual, |special| allowed(&special.limits));
            if !summed.platforms.contains_key(name) {
                summed.platforms.insert(name.clone(), Sum::default());
            }
            let Some(sum) = summed.platforms.get_mut(name) else { continue };
            sum.waiting += waiting;
            sum.in_flight += u64::from(in_flight);
            sum.accounts += 1;
            match rate {
                Some(rate) => sum.allowed += rate,
                None => sum.untold += 1,
            }
            if waiting == 0 {
                continue;
            }
            let cause = entry.cause().map_or(Waits::Turn, Cause::kind);
            *sum.causes.entry(cause).or_default() += 1;
            if is_held(entry) {
                sum.held += 1;
                if entry.until().is_none() {
                    sum.endless += waiting;
                }
            } else {
                sum.sizes.add(waiting);
                if sum.most.as_ref().is_none_or(|(most, _)| waiting > *most) {
                    sum.most = Some((waiting, entry.key.clone()));
                }
            }
            // What is held for ever is no matter of time.
            let seconds = (waiting as f64 / rate.unwrap_or(1e3)) as u64;
            let until = entry.until().map_or(0, |at| at.since(self.ctx.clock.now()).0 / 1_000_000);
            slowest.put((Reverse(seconds.saturating_add(until)), &entry.key));
        }
        let kept = slowest.into_vec().into_iter();
        summed.slowest = kept.map(|(Reverse(score), key)| (score, key.clone())).collect();
        MessageResult(summed)
    }
}

impl Shard {
    /// What attempts did since these moments.
    fn paces(&self, since: [At; 2]) -> Vec<Paced> {
        let [short, long] = since.map(|since| self.ctx.times.sums(since));
        let mean = |spent: Spent| (spent.count > 0).then(|| Span(spent.whole_us / spent.count));
        let mut paces = Vec::new();
        for ((of, long), (_, short)) in long.into_iter().zip(short) {
            if long.ends.all() == 0 {
                continue;
            }
            let sum = |phases: &[Phase]| {
                let spans = phases.iter().filter_map(|phase| {
                    mean(short.phase(*phase)).or_else(|| mean(long.phase(*phase)))
                });
                spans.map(|span| span.0).reduce(u64::saturating_add).map(Span)
            };
            paces.push(Paced {
                of,
                ends: [short.ends, long.ends],
                call: sum(&[Phase::FirstByte, Phase::Body]),
                slot: sum(&[Phase::Ledger, Phase::Connect, Phase::FirstByte, Phase::Body]),
            });
        }
        paces
    }
}
