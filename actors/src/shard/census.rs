//! What a shard's accounts and attempts spend their time with, for whoever asks what holds the node back.

use std::collections::BTreeMap;

use actix::{Context, Handler, Message, MessageResult};
use tollgate_gate::At;

use super::Shard;
use super::accounts::{Ix, State};
use crate::doctor::{BUDGETS_MAX, HELD_MAX, HeldNow};
use crate::ids::Slug;
use crate::pulse::Doing;
use crate::times::{Cause, Sums};

/// Accounts looked at in one turn: about 0.1 ms.
const STRETCH: u32 = 4096;

/// A platform and the number of its api; nothing: those that are not kept apart.
pub(crate) type Pair = Option<(Slug, u16)>;

/// Sent by the node, stretch after stretch of the accounts: what went on from then until then? What is over is told
/// with the first stretch. No more than a stretch is looked at in one turn of the shard.
#[derive(Debug, Message)]
#[rtype(result = "Counted")]
pub(crate) struct Census {
    pub(crate) from: Ix,
    pub(crate) window: (At, At),
}

/// The answer.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    /// Where to go on; nothing at the end.
    pub(crate) next: Option<Ix>,
    pub(crate) sums: BTreeMap<Pair, Sums>,
    pub(crate) waiting: u64,
    pub(crate) in_flight: u64,
    /// Accounts with waiting fetches.
    pub(crate) accounts: u64,
    /// Accounts that are held, those with the most waiting, and how many there are.
    pub(crate) held: Vec<HeldNow>,
    pub(crate) held_count: u64,
    /// Limits shared with others, and how many accounts wait for each.
    pub(crate) budgets: BTreeMap<String, u64>,
}

impl Counted {
    /// Adds another stretch, or another shard.
    pub(crate) fn add(&mut self, other: Self) {
        for (pair, sums) in other.sums {
            self.sums.entry(pair).or_default().add(&sums);
        }
        self.waiting += other.waiting;
        self.in_flight += other.in_flight;
        self.accounts += other.accounts;
        self.held.extend(other.held);
        self.held_count += other.held_count;
        for (name, count) in other.budgets {
            if self.budgets.len() < BUDGETS_MAX || self.budgets.contains_key(&name) {
                *self.budgets.entry(name).or_default() += count;
            }
        }
        self.keep_most_held();
    }

    fn keep_most_held(&mut self) {
        self.held.sort_by_key(|held| std::cmp::Reverse(held.waiting));
        self.held.truncate(HELD_MAX);
    }
}

impl Handler<Census> for Shard {
    type Result = MessageResult<Census>;

    fn handle(&mut self, census: Census, _: &mut Context<Self>) -> Self::Result {
        let _turn = self.ctx.pulse.on(Doing::Counting, None);
        let mut counted = Counted::default();
        let window = census.window;
        if census.from == 0 {
            counted.sums.extend(self.ctx.times.sums(window.0));
            for running in self.ctx.running.borrow().values() {
                if running.outcome.is_some() {
                    continue;
                }
                let (platform, api) = running.pair();
                let sums = counted.sums.entry(Some((platform.clone(), api))).or_default();
                for (phase, span) in running.moments().phases(window.1) {
                    sums.phase_goes_on(phase, span, window);
                }
            }
        }
        let accounts = self.ctx.accounts.borrow();
        let end = census.from.saturating_add(STRETCH);
        counted.next = (end < accounts.end()).then_some(end);
        for ix in census.from..end.min(accounts.end()) {
            let Some(entry) = accounts.get(ix) else { continue };
            let (waiting, in_flight) = entry.counts();
            counted.waiting += waiting;
            counted.in_flight += u64::from(in_flight);
            if waiting == 0 {
                continue;
            }
            counted.accounts += 1;
            let (cause, since) = match entry.spent() {
                (Some(cause), since) => (cause, since),
                // Since when it waits for its turn is not kept.
                (None, _) if matches!(entry.state, State::Ready(_)) => ((0, Cause::Turn), window.0),
                (None, _) => continue,
            };
            let pair = Some((entry.key.platform.clone(), cause.0));
            counted.sums.entry(pair).or_default().goes_on(cause.1, (since, entry.due()), window);
            match cause.1 {
                Cause::Hold => {
                    counted.held_count += 1;
                    let most = counted.held.last().map_or(0, |held| held.waiting);
                    if counted.held.len() < HELD_MAX || waiting > most {
                        let glance = entry.glance();
                        counted.held.push(HeldNow {
                            platform: entry.key.platform.to_string(),
                            account: entry.key.account.to_string(),
                            waiting,
                            because: glance.because.map(String::from).unwrap_or_default(),
                            until: glance.until.map(|at| self.ctx.clock.wall_at(at)),
                        });
                        counted.keep_most_held();
                    }
                }
                Cause::Budget => {
                    let name = entry.glance().because.map(String::from).unwrap_or_default();
                    if counted.budgets.len() < BUDGETS_MAX || counted.budgets.contains_key(&name) {
                        *counted.budgets.entry(name).or_default() += 1;
                    }
                }
                _ => {}
            }
        }
        MessageResult(counted)
    }
}
