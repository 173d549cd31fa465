//! Other nodes' accounts in budgets that this node owns.

use actix::prelude::*;
use tokio::time::Instant;
use tollgate_gate::PermitId;
use tollgate_protos::wire::v1;

use super::{
    ASKS_AGAIN_MS, ASKS_LATER_MS, Exchange, Lent, NAMES_MAX, OUT_MAX, Out, Peer, Reply,
    UNKNOWN_EVERY, Word, home_of, in_ms, wire,
};
use crate::budget::{Answer, Ask, Call, ForBudget, FromBudget, Told, What, Whose};
use crate::ids::Account;
use crate::nats::session::SessionId;
use crate::recipe::BudgetKey;
use crate::telemetry;
use crate::throttle::book;

impl Exchange {
    /// Which budget another node means; nothing if the configuration here has none such.
    pub(super) fn budget_of(&mut self, name: &v1::BudgetName) -> Option<BudgetKey> {
        let plan = self.plan.get();
        let platform = plan.platforms.get(&wire::platform_in(name)?)?;
        let account = Account::new(&name.account).ok()?;
        let record = crate::ids::AccountKey {
            platform: crate::ids::Slug::of_budgets(&platform.name),
            account: Account::new(&name.record).ok()?,
        };
        let of = (record, account);
        if let Some(known) = self.names.get(&of)
            && known.generation() == platform.generation
        {
            return Some(known.clone());
        }
        let key = wire::budget(platform, name)?;
        if self.names.len() >= NAMES_MAX {
            self.names.clear();
        }
        self.names.insert(of, key.clone());
        Some(key)
    }

    /// An account of another node asks.
    pub(super) fn asked(
        &mut self,
        from: SessionId,
        name: &v1::BudgetName,
        ask: &v1::BudgetAsk,
        ctx: &mut Context<Self>,
    ) -> Option<()> {
        let account = Account::new(&ask.account).ok()?;
        let Some(key) = self.budget_of(name) else {
            self.tell_unknown(from, name);
            return None;
        };
        let plan = self.plan.get();
        let platform = plan.platforms.get(key.platform())?;
        let api = wire::api_in(platform, &ask.api)?;
        let asked = PermitId(ask.permit);
        if !self.owned.is_ours(key.part()) {
            let again = Some(in_ms(&self.clock, ASKS_AGAIN_MS));
            let why = "its budget, which moves to another node".into();
            let incarnation = ask.incarnation;
            let reply = Reply::Wait { incarnation, asked, until: None, again, why };
            self.say(from, Out::Reply(key, account, reply), ctx);
            return Some(());
        }
        let costs = wire::costs_in(key.limits(), key.usual(api), &ask.costs);
        let key = key.with_costs(costs);
        let whose = Whose { account, ix: 0, home: home_of(from, ctx) };
        let call = Call { api, job: ask.job, key: key.clone() };
        let ask = Ask::new(whose, ask.incarnation, asked, (ask.weight, ask.wants), call);
        self.door.send(ForBudget { key, what: What::Ask(ask) });
        Some(())
    }

    /// The same of one whose budget this configuration does not have, or not its api.
    pub(super) fn not_known(
        &mut self,
        from: SessionId,
        name: &v1::BudgetName,
        ask: &v1::BudgetAsk,
        ctx: &mut Context<Self>,
    ) {
        let Ok(account) = Account::new(&ask.account) else { return };
        let again = Some(in_ms(&self.clock, ASKS_LATER_MS));
        let why = "its budget, which is another one in the configuration".into();
        let asked = PermitId(ask.permit);
        let reply = Reply::Wait { incarnation: ask.incarnation, asked, until: None, again, why };
        self.say(from, Out::Unknown(name.clone(), account, reply), ctx);
    }

    fn tell_unknown(&mut self, from: SessionId, name: &v1::BudgetName) {
        let now = Instant::now();
        if self.unknown.len() >= NAMES_MAX {
            self.unknown.retain(|_, told| now.saturating_duration_since(*told) < UNKNOWN_EVERY);
        }
        let of = (from, name.platform.clone(), name.record.clone());
        let known = self.unknown.get(&of);
        let is_new = known.is_none_or(|told| now.saturating_duration_since(*told) >= UNKNOWN_EVERY);
        if is_new && self.unknown.len() < NAMES_MAX {
            self.unknown.insert(of, now);
            telemetry::budget_unknown(&self.name(from), &name.platform, &name.record);
        }
    }

    /// Something of a permit that was lent, or of a budget.
    pub(super) fn heard_of(
        &mut self,
        from: SessionId,
        key: BudgetKey,
        what: What,
        ctx: &mut Context<Self>,
    ) {
        match &what {
            What::Told(id, told) if told.is_end() => {
                self.peer(from).lent.remove(&(key.record().clone(), *id));
            }
            What::Leave(account, _) => self.out_of_line(from, &key, account),
            _ => {}
        }
        if self.owned.is_ours(key.part()) {
            self.door.send(ForBudget { key, what });
            return;
        }
        // Who owned it before is not whom this is for.
        let word = match what {
            What::Told(_, Told::Runs | Told::Gone(_)) | What::Ask(_) | What::Leave(..) => return,
            What::Told(id, told) => Word::Told(id, told),
            What::Heard(id, heard) => Word::Heard(id, *heard),
            What::JobOver { job, of } => Word::JobOver(job, of),
            What::Hold { until, reason } => Word::Hold(until, reason),
        };
        if self.owner(&key) != Some(from) {
            self.route(key, word, ctx);
        } else if self.unrouted.len() < OUT_MAX {
            // Each takes the other for the owner: not at once, lest it goes to and fro.
            self.unrouted.push_back((key, word));
        } else {
            self.meters.dropped();
        }
    }

    fn out_of_line(&mut self, from: SessionId, key: &BudgetKey, account: &Account) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        if let Some((_, accounts)) = peer.in_line.get_mut(key.record()) {
            accounts.remove(account);
            if accounts.is_empty() {
                peer.in_line.remove(key.record());
            }
        }
    }

    /// What a budget says to an account of another node.
    pub(super) fn answer(&mut self, to: SessionId, message: FromBudget, ctx: &mut Context<Self>) {
        let FromBudget { whose: account, key, to: asked, answer, .. } = message;
        if !self.peers.contains_key(&to) {
            // It is gone: a permit goes back by its drop, and nobody waits.
            let what = What::Leave(account, Some(to));
            self.door.send(ForBudget { key, what });
            return;
        }
        let (incarnation, asked) = asked.unwrap_or((0, PermitId(0)));
        let reply = match answer {
            Answer::Granted(grant) => {
                self.out_of_line(to, &key, &account);
                let (key, permit) = grant.lend();
                let now = self.clock.now();
                let platform = self.plan.get().platforms.get(key.platform()).cloned();
                let latest = platform.map_or(now, |platform| book::written_by(&platform, now));
                let of = (key.record().clone(), permit);
                self.peer(to).lent.insert(of, Lent { key: key.clone(), latest });
                Reply::Lent { incarnation, asked, permit }
            }
            Answer::Wait { until, asks_again, why } => {
                if asks_again.is_none() {
                    let peer = self.peer(to);
                    let fresh = || (key.clone(), super::HashSet::default());
                    let (_, accounts) =
                        peer.in_line.entry(key.record().clone()).or_insert_with(fresh);
                    accounts.insert(account.clone());
                }
                // At once is what an ask says that was dropped.
                let soon = in_ms(&self.clock, ASKS_AGAIN_MS);
                let again = asks_again.map(|at| at.max(soon));
                Reply::Wait { incarnation, asked, until, again, why }
            }
            Answer::Until(until, why) => Reply::Until { until, why },
            Answer::Turn => {
                self.out_of_line(to, &key, &account);
                Reply::Turn
            }
        };
        self.say(to, Out::Reply(key, account, reply), ctx);
    }

    /// The session of another node is over: nothing more is heard of what it was lent, nobody there waits.
    pub(super) fn gone(&mut self, id: SessionId) {
        let Some(peer) = self.peers.remove(&id) else { return };
        let Peer { lent, in_line, sending, name, .. } = peer;
        let name = name.map_or_else(|| id.to_string(), String::from);
        telemetry::budget_holder_gone(&name, lent.len());
        for ((_, permit), Lent { key, latest }) in lent {
            // The budget's next owner has it from the record, and goes by its holder.
            if !self.owned.is_ours(key.part()) {
                continue;
            }
            self.door.send(ForBudget { key, what: What::Told(permit, Told::Gone(latest)) });
        }
        for (key, accounts) in in_line.into_values() {
            for account in accounts {
                let what = What::Leave(account, Some(id));
                self.door.send(ForBudget { key: key.clone(), what });
            }
        }
        // What was for it as an owner is for the next one.
        let words: Vec<_> = sending.all().cloned().collect();
        for out in words {
            if let Out::Word(key, word) = out {
                self.unrouted.push_back((key, word));
            }
        }
    }
}
