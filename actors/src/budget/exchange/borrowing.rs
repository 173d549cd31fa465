//! This node's accounts in budgets that other nodes own.

use std::sync::Weak;

use actix::prelude::*;
use tokio::time::Instant;
use tollgate_gate::{PermitId, Span};
use tollgate_protos::wire::v1;

use super::{
    ASKS_AGAIN_MS, ASKS_LATER_MS, Borrowed, ENDS_KEPT, ENDS_MAX, End, Exchange, LIFE, OUT_MAX, Out,
    Pending, TIDY_EVERY, WAITING_MAX, WAKE_PAUSE, WAKES_AT_ONCE, Waiting, Word, wait,
};
use crate::budget::{Answer, Ask, ForBudget, FromBudget, Grant, Told, What, Whose};
use crate::cluster::Owners;
use crate::ids::{Account, AccountKey};
use crate::nats::session::SessionId;
use crate::recipe::BudgetKey;
use crate::state::clock::boot_ns;

impl Exchange {
    /// Something for a budget that is not here.
    pub(super) fn take_from_here(&mut self, message: ForBudget, ctx: &mut Context<Self>) {
        let ForBudget { key, what } = message;
        let part = key.part();
        if self.owned.is_ours(part) && !self.owned.is_leaving(part) {
            // It has come here since.
            self.door.send(ForBudget { key, what });
            return;
        }
        let word = match what {
            What::Ask(ask) if ask.whose.home.node().is_some() => {
                wait(&self.clock, ask, ASKS_AGAIN_MS, "its budget, which moves to another node");
                return;
            }
            What::Ask(ask) => {
                self.ask(key, ask, ctx);
                return;
            }
            // Both were for the owner of then. The one of now goes by what the call's holder says.
            What::Leave(_, Some(_)) | What::Told(_, Told::Gone(_)) => return,
            What::Leave(account, None) => {
                if !self.stop_waiting(key.record(), &account) {
                    return;
                }
                Word::Leave(account)
            }
            What::Told(id, told) => {
                self.note_told(&key, id, told);
                Word::Told(id, told)
            }
            What::Heard(id, heard) => Word::Heard(id, *heard),
            What::JobOver { job, of } => Word::JobOver(job, of),
            What::Hold { until, reason } => Word::Hold(until, reason),
        };
        self.route(key, word, ctx);
    }

    /// Says something to whoever owns a budget.
    pub(super) fn route(&mut self, key: BudgetKey, word: Word, ctx: &mut Context<Self>) {
        match self.owner(&key) {
            Some(owner) if owner != self.me => self.say(owner, Out::Word(key, word), ctx),
            // Whoever owns it next is told then.
            _ if matches!(word, Word::Leave(_) | Word::Told(_, Told::Runs)) => {}
            _ if self.unrouted.len() < OUT_MAX => self.unrouted.push_back((key, word)),
            _ => self.meters.dropped(),
        }
    }

    fn ask(&mut self, key: BudgetKey, ask: Ask, ctx: &mut Context<Self>) {
        self.stop_waiting(key.record(), &ask.whose.account);
        let owner = self.owner(&key).filter(|owner| *owner != self.me);
        let Some(to) = owner else {
            self.park(&key, ask, "its budget, which no node owns now");
            return;
        };
        let name = self.name(to);
        let peer = self.peer(to);
        if peer.sending.is_failing() {
            let why = format!("its budget at node {name}, which does not answer");
            self.park(&key, ask, &why);
            return;
        }
        if peer.sending.out.len() >= OUT_MAX {
            wait(&self.clock, ask, ASKS_LATER_MS, "room in what is said to its budget's node");
            return;
        }
        self.said += 1;
        let of = (key.record().clone(), ask.permit);
        let (asked, asked_boot_ns, number) = (Instant::now(), boot_ns(), self.said);
        let pending = Pending { ask, asked, asked_boot_ns, number, to };
        self.pending.insert(of.clone(), pending);
        self.say(to, Out::Ask(of.0, of.1), ctx);
    }

    /// Nobody can be asked: the account waits, and is called as soon as somebody can.
    fn park(&mut self, key: &BudgetKey, ask: Ask, why: &str) {
        self.meters.asked("parked");
        if !self.start_waiting(key, ask.whose.clone()) {
            wait(
                &self.clock,
                ask,
                ASKS_LATER_MS,
                "room among those who wait for budgets of other nodes",
            );
            return;
        }
        ask.wait(None, None, why);
    }

    fn start_waiting(&mut self, key: &BudgetKey, whose: Whose) -> bool {
        if self.waits >= WAITING_MAX {
            return false;
        }
        let fresh = || Waiting { key: key.clone(), whose: super::HashMap::default() };
        let waiting = self.waiting.entry(key.record().clone()).or_insert_with(fresh);
        if waiting.whose.insert(whose.account.clone(), whose).is_none() {
            self.waits += 1;
        }
        true
    }

    /// Whether it waited.
    fn stop_waiting(&mut self, record: &AccountKey, account: &Account) -> bool {
        self.waiter(record, account).is_some()
    }

    fn waiter(&mut self, record: &AccountKey, account: &Account) -> Option<(BudgetKey, Whose)> {
        let waiting = self.waiting.get_mut(record)?;
        let whose = waiting.whose.remove(account)?;
        let key = waiting.key.clone();
        if waiting.whose.is_empty() {
            self.waiting.remove(record);
        }
        self.waits -= 1;
        Some((key, whose))
    }

    /// Asks that were not answered in time: a permit that comes now would be of no use.
    pub(super) fn drop_old_asks(&mut self) {
        let old = |pending: &Pending| pending.asked.elapsed() >= LIFE;
        let old: Vec<_> = self.pending.extract_if(|_, pending| old(pending)).collect();
        for (_, Pending { ask, to, .. }) in old {
            self.unanswered(ask, to);
        }
    }

    fn unanswered(&mut self, ask: Ask, to: SessionId) {
        self.meters.asked("unanswered");
        let key = ask.call.key.clone();
        let why = format!("its budget at node {}, which does not answer", self.name(to));
        let fails = self.peers.get(&to).is_some_and(|peer| peer.sending.is_failing());
        if fails && self.owner(&key) == Some(to) {
            self.park(&key, ask, &why);
        } else {
            wait(&self.clock, ask, ASKS_AGAIN_MS, &why);
        }
    }

    /// What becomes of a permit of another node, in case its owner dies before a record has it.
    fn note_told(&mut self, key: &BudgetKey, id: PermitId, told: Told) {
        let is_end = told.is_end();
        if !is_end && !matches!(told, Told::Came(_)) {
            return;
        }
        self.said += 1;
        let (said, owner) = (self.said, self.owner(key));
        let borrowed = self.borrowed_of(key);
        borrowed.ends.push_back(End { said, at: Instant::now(), id, told });
        borrowed.told_to = owner;
        if borrowed.ends.len() > ENDS_MAX {
            borrowed.ends.pop_front();
        }
        if is_end {
            borrowed.live.remove(&id);
        }
    }

    fn borrowed_of(&mut self, key: &BudgetKey) -> &mut Borrowed {
        self.borrowed.entry(key.record().clone()).or_insert_with(|| Borrowed {
            key: key.clone(),
            live: super::HashMap::default(),
            said_to_run: Instant::now(),
            ends: std::collections::VecDeque::new(),
            told_to: None,
        })
    }

    /// A permit was lent.
    pub(super) fn lent(
        &mut self,
        from: SessionId,
        key: &BudgetKey,
        lent: &v1::BudgetLent,
        ctx: &mut Context<Self>,
    ) {
        let (asked, id) = (PermitId(lent.asked), PermitId(lent.permit));
        let pending = self.pending.remove(&(key.record().clone(), asked));
        let Some(Pending { ask, asked, asked_boot_ns, number, .. }) = pending else {
            let known = self.borrowed.get(key.record());
            let twice = known.is_some_and(|borrowed| {
                borrowed.live.contains_key(&id) || borrowed.ends.iter().any(|end| end.id == id)
            });
            if !twice {
                self.give_back(key, id, ctx);
            }
            return;
        };
        // By the clock that counts the machine's sleep, too.
        let slept = u128::from(boot_ns().saturating_sub(asked_boot_ns));
        if asked.elapsed() > LIFE || slept > LIFE.as_nanos() {
            self.give_back(key, id, ctx);
            self.unanswered(ask, from);
            return;
        }
        self.meters.answered("lent", asked.elapsed());
        let grant = Grant::new(ask.call.key.clone(), id, self.door.clone());
        let borrowed = self.borrowed_of(key);
        borrowed.live.insert(id, grant.held());
        if borrowed.told_to == Some(from) {
            // Its record was stored after those had been told.
            borrowed.ends.retain(|end| end.said > number);
        }
        ask.grant(grant);
    }

    fn give_back(&mut self, key: &BudgetKey, id: PermitId, ctx: &mut Context<Self>) {
        self.meters.asked("late");
        self.note_told(key, id, Told::Unused);
        self.route(key.clone(), Word::Told(id, Told::Unused), ctx);
    }

    /// An ask has to wait.
    pub(super) fn waits(&mut self, from: SessionId, key: &BudgetKey, wait: &v1::BudgetWait) {
        let of = (key.record().clone(), PermitId(wait.asked));
        let Some(Pending { ask, asked, .. }) = self.pending.remove(&of) else { return };
        self.meters.answered("waits", asked.elapsed());
        let now = self.clock.now();
        let at = |us: Option<u64>| us.map(|us| now.plus(Span(us)));
        let (until, again) = (at(wait.until_us), at(wait.again_us));
        if again.is_none() && !self.start_waiting(key, ask.whose.clone()) {
            let why = "room among those who wait for budgets of other nodes";
            super::wait(&self.clock, ask, ASKS_LATER_MS, why);
            return;
        }
        let why = format!("{} at node {}", wait.why, self.name(from));
        ask.wait(until, again, &why);
    }

    /// The turn of an account that waits is known.
    pub(super) fn until(&mut self, from: SessionId, key: &BudgetKey, until: &v1::BudgetUntil) {
        let why = format!("{} at node {}", until.why, self.name(from));
        let Some(waiting) = self.waiting.get(key.record()) else { return };
        let Ok(account) = Account::new(&until.account) else { return };
        let Some(whose) = waiting.whose.get(&account) else { return };
        let at = self.clock.now().plus(Span(until.until_us));
        tell(&waiting.key, whose.clone(), Answer::Until(at, why.into()));
    }

    /// An account that waits is next.
    pub(super) fn turn(&mut self, key: &BudgetKey, account: &str, ctx: &mut Context<Self>) {
        let Ok(account) = Account::new(account) else { return };
        match self.waiter(key.record(), &account) {
            Some((key, whose)) => tell(&key, whose, Answer::Turn),
            // It is on its way there, or nobody here wants it.
            None if self.asks(key.record(), &account) => {}
            None => self.route(key.clone(), Word::Leave(account), ctx),
        }
    }

    fn asks(&self, record: &AccountKey, account: &Account) -> bool {
        let same = |of: &AccountKey, ask: &Ask| of == record && ask.whose.account == *account;
        self.pending.iter().any(|((of, _), pending)| same(of, &pending.ask))
    }

    /// Who owns what is seen otherwise.
    pub(super) fn moved(&mut self, owners: &Owners, ctx: &mut Context<Self>) {
        let before = std::mem::replace(&mut self.owners, *owners);
        let moved = |key: &BudgetKey| {
            let part = key.part() as usize;
            before.of[part] != owners.of[part]
        };
        let mut again: Vec<(BudgetKey, Word)> = self.unrouted.drain(..).collect();
        for peer in self.peers.values_mut() {
            let taken = peer.sending.take_out(|out| match out {
                Out::Word(key, _) => moved(key),
                Out::Ask(..) | Out::Reply(..) | Out::Unknown(..) => false,
            });
            again.extend(taken.into_iter().filter_map(|out| match out {
                Out::Word(key, word) if !matches!(word, Word::Leave(_)) => Some((key, word)),
                _ => None,
            }));
        }
        // Ends that may be in no record of the owner before.
        for borrowed in self.borrowed.values_mut() {
            let owner = owners.of[borrowed.key.part() as usize];
            if owner.is_none() || borrowed.told_to == owner {
                continue;
            }
            borrowed.told_to = owner;
            for end in &mut borrowed.ends {
                self.said += 1;
                (end.said, end.at) = (self.said, Instant::now());
                again.push((borrowed.key.clone(), Word::Told(end.id, end.told)));
            }
            again.extend(borrowed.runs());
            if owner == Some(self.me) {
                // The budget itself remembers them here.
                borrowed.ends.clear();
            }
        }
        self.borrowed.retain(|_, borrowed| !borrowed.live.is_empty() || !borrowed.ends.is_empty());
        for (key, word) in again {
            self.pass(key, word, ctx);
        }
        // Whoever holds those tells the owner of now.
        for peer in self.peers.values_mut() {
            peer.lent.retain(|_, lent| {
                let owner = owners.of[lent.key.part() as usize];
                owner.is_none() || owner == Some(self.me)
            });
        }
        let asked: Vec<_> =
            self.pending.extract_if(|_, pending| moved(&pending.ask.call.key)).collect();
        for (_, Pending { ask, .. }) in asked {
            let key = ask.call.key.clone();
            self.park(&key, ask, "its budget, which moves to another node");
        }
        self.wake_those(|key| moved(key) && owners.of[key.part() as usize].is_some(), ctx);
    }

    /// This node still holds permits of a budget that has left it.
    pub(super) fn still_held(
        &mut self,
        key: &BudgetKey,
        held: Vec<(PermitId, Weak<()>)>,
        ctx: &mut Context<Self>,
    ) {
        let borrowed = self.borrowed_of(key);
        borrowed.live.extend(held);
        let words = borrowed.runs();
        for (key, word) in words {
            self.pass(key, word, ctx);
        }
    }

    /// Now and then: says what runs, and forgets what is over.
    pub(super) fn tidy(&mut self, ctx: &mut Context<Self>) {
        let now = Instant::now();
        if now.saturating_duration_since(self.tidied) < TIDY_EVERY {
            return;
        }
        self.tidied = now;
        let plan = self.plan.get();
        let mut words = Vec::new();
        for borrowed in self.borrowed.values_mut() {
            let owner = self.owners.of[borrowed.key.part() as usize];
            let is_heard = |id: &SessionId| {
                *id == self.me || self.peers.get(id).is_some_and(|peer| !peer.sending.is_failing())
            };
            if owner == borrowed.told_to && owner.as_ref().is_some_and(is_heard) {
                let is_old = |end: &End| now.saturating_duration_since(end.at) >= ENDS_KEPT;
                while borrowed.ends.front().is_some_and(is_old) {
                    borrowed.ends.pop_front();
                }
            }
            // Nothing is told here of those that ended while their budget was on this node.
            borrowed.live.retain(|_, held| held.strong_count() > 0);
            let platform = plan.platforms.get(borrowed.key.platform());
            let every = platform.map(|platform| platform.lost_call_alive / 3);
            let said = now.saturating_duration_since(borrowed.said_to_run);
            if every.is_some_and(|every| said >= every) {
                words.extend(borrowed.runs());
            }
        }
        self.borrowed.retain(|_, borrowed| !borrowed.live.is_empty() || !borrowed.ends.is_empty());
        for (key, word) in words {
            self.pass(key, word, ctx);
        }
    }

    /// Says what was meant for an owner before to the one of now.
    pub(super) fn pass(&mut self, key: BudgetKey, word: Word, ctx: &mut Context<Self>) {
        let part = key.part();
        if !self.owned.is_ours(part) || self.owned.is_leaving(part) {
            self.route(key, word, ctx);
            return;
        }
        let what = match word {
            Word::Leave(account) => What::Leave(account, None),
            Word::Told(id, told) => What::Told(id, told),
            Word::Heard(id, heard) => What::Heard(id, Box::new(heard)),
            Word::JobOver(job, of) => What::JobOver { job, of },
            Word::Hold(until, reason) => What::Hold { until, reason },
        };
        self.door.send(ForBudget { key, what });
    }

    /// Has those who wait for these budgets ask anew.
    pub(super) fn wake_those(
        &mut self,
        whose: impl Fn(&BudgetKey) -> bool,
        ctx: &mut Context<Self>,
    ) {
        for (_, waiting) in self.waiting.extract_if(|_, waiting| whose(&waiting.key)) {
            self.waits -= waiting.whose.len();
            let Waiting { key, whose } = waiting;
            self.wake.extend(whose.into_values().map(|whose| (key.clone(), whose)));
        }
        if !std::mem::replace(&mut self.waking, true) {
            self.wake_some(ctx);
        }
    }

    fn wake_some(&mut self, ctx: &mut Context<Self>) {
        let some = self.wake.len().min(WAKES_AT_ONCE);
        for (key, whose) in self.wake.drain(..some) {
            tell(&key, whose, Answer::Turn);
        }
        self.waking = !self.wake.is_empty();
        if self.waking {
            ctx.run_later(WAKE_PAUSE, Self::wake_some);
        }
    }

    /// A node does not know any more, or never knew, what it was told: those who wait for its budgets ask anew.
    pub(super) fn shaken(&mut self, id: SessionId, ctx: &mut Context<Self>) {
        let owners = self.owners;
        self.wake_those(|key| owners.of[key.part() as usize] == Some(id), ctx);
    }
}

impl Borrowed {
    /// What its owner is told of permits that are not over.
    fn runs(&mut self) -> Vec<(BudgetKey, Word)> {
        self.said_to_run = Instant::now();
        let live = self.live.iter().filter(|(_, held)| held.strong_count() > 0);
        live.map(|(id, _)| (self.key.clone(), Word::Told(*id, Told::Runs))).collect()
    }
}

fn tell(key: &BudgetKey, whose: Whose, answer: Answer) {
    let home = whose.home.clone();
    let (account, ix) = (whose.account, whose.ix);
    home.tell(FromBudget { whose: account, ix, key: key.clone(), to: None, answer });
}
