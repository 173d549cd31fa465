//! Another configuration for a shard: who is told, who is woken, and what becomes of what is no longer declared.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use tollgate_gate::ChangeKind;

use super::accounts::{Ix, State};
use super::{Reload, Shard};
use crate::cluster::part_of;
use crate::ids::{LaneKey, Slug};
use crate::plan::Platform;
use crate::throttle::Start;
use crate::throttle::messages::GoBy;

/// Between two looks at the attempts of an account whose platform was removed while its actor was dead.
const ORPHANS_AGAIN: Duration = Duration::from_secs(1);

/// What a reload means for the accounts of one platform.
struct Changed {
    /// As it is from now on; nothing: removed.
    platform: Option<Arc<Platform>>,
    /// The number that each api has now, by the one it had; nothing: removed.
    numbers: Vec<Option<u16>>,
    /// A limit may let go earlier than a resting account expects.
    sooner: bool,
}

impl Changed {
    fn new(old: &Platform, new: Option<Arc<Platform>>) -> Self {
        let number = |name: &Slug| Some(new.as_ref()?.api(name.as_str())?.0);
        let numbers = old.apis.iter().map(|api| number(&api.name)).collect();
        let sooner = new.as_ref().is_some_and(|new| {
            let changes = new.limits.changes_from(&old.limits);
            let may = |kind| {
                matches!(kind, ChangeKind::Loosened | ChangeKind::Removed | ChangeKind::Weighed)
            };
            // Of budgets and of values of single accounts it is not looked at what changed.
            let more =
                |platform: &Platform| !platform.budgets.is_empty() || !platform.special.is_empty();
            let moved = old.resets != new.resets;
            moved || more(old) || more(new) || changes.iter().any(|change| may(change.kind))
        });
        Self { platform: new, numbers, sooner }
    }
}

impl Handler<Reload> for Shard {
    type Result = ();

    fn handle(&mut self, Reload(plan): Reload, ctx: &mut Self::Context) {
        let before = self.ctx.go_by(Arc::clone(&plan));
        let mut changed: BTreeMap<&Slug, Changed> = BTreeMap::new();
        for (name, old) in &before.platforms {
            let new = plan.platforms.get(name);
            if new.is_none_or(|new| !Arc::ptr_eq(old, new)) {
                changed.insert(name, Changed::new(old, new.cloned()));
            }
        }
        // An actor may live since before its platform was removed.
        for (name, new) in
            plan.platforms.iter().filter(|(name, _)| !before.platforms.contains_key(*name))
        {
            let platform = Some(Arc::clone(new));
            changed.insert(name, Changed { platform, numbers: Vec::new(), sooner: false });
        }
        if changed.is_empty() {
            return;
        }
        let (mut live, mut sooner) = (Vec::new(), Vec::new());
        let mut accounts = self.ctx.accounts.borrow_mut();
        for (ix, entry) in accounts.iter_mut() {
            let Some(changed) = changed.get(&entry.key.platform) else { continue };
            match &mut entry.state {
                State::Live { .. } => {
                    let account = &entry.key.account;
                    let platform = changed.platform.as_ref().map(|platform| platform.of(account));
                    live.push((ix, platform));
                }
                State::Resting(rest) => {
                    let mut lanes = std::mem::take(&mut rest.lanes).into_vec();
                    lanes.retain_mut(|lane| {
                        let number = changed.numbers.get(usize::from(lane.api)).copied().flatten();
                        lane.api = number.unwrap_or(lane.api);
                        number.is_some()
                    });
                    rest.lanes = lanes.into();
                    // Who may only go later wakes when it was due before, and then waits on.
                    if changed.sooner && !rest.lanes.is_empty() {
                        sooner.push(ix);
                    }
                }
                // They start with what is in force then.
                State::Ready(_) | State::Restarting(_) => {}
            }
        }
        let now = self.ctx.clock.now();
        for ix in sooner {
            accounts.due_by(ix, now);
        }
        drop(accounts);
        for (ix, platform) in live {
            self.ctx.tell(ix, GoBy(platform));
        }
        self.wake_due(ctx);
    }
}

impl Shard {
    /// The number of a lane's api, if it is declared.
    pub(super) fn api_of(&self, lane: &LaneKey) -> Option<u16> {
        let platform = self.ctx.platform(&lane.account.platform)?;
        platform.api(lane.api.as_str()).map(|(number, _)| number)
    }

    pub(super) fn serves(&self, lane: &LaneKey) -> bool {
        self.api_of(lane).is_some()
    }

    /// Starts the actor of an account again, unless its platform is gone. Then what its attempts tell is heard by
    /// nobody, and its place is kept until they are over: another account there would take them for its own.
    pub(super) fn restart(&mut self, ix: Ix, ctx: &mut Context<Self>) {
        let known =
            self.ctx.accounts.borrow().get(ix).map(|entry| (entry.key.clone(), entry.glance()));
        let Some((key, glance)) = known else { return };
        let ours = !self.ctx.owned.is_leaving(part_of(&key));
        if ours && self.ctx.platform(&key.platform).is_some() {
            self.start_throttle(ix, Start::Restarted, glance);
            return;
        }
        let shard = Rc::clone(&self.ctx);
        let mut running = shard.running.borrow_mut();
        running.retain(|_, attempt| attempt.ix != ix || attempt.outcome.is_none());
        if running.values().any(|attempt| attempt.ix == ix) {
            ctx.run_later(ORPHANS_AGAIN, move |shard, ctx| shard.restart(ix, ctx));
        } else {
            shard.accounts.borrow_mut().forget(ix);
        }
    }
}
