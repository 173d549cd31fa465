//! Writing letters, sending them, taking them in.

use std::collections::VecDeque;

use actix::prelude::*;
use bytes::Bytes;
use tokio::time::Instant;
use tollgate_gate::{PermitId, Span};
use tollgate_protos::wire::{Message as _, v1};
use v1::budget_word::Said;

use super::line::{Taking, Verdict};
use super::wire::{self, Writing};
use super::{AWAY_AFTER, Exchange, LETTER_BYTES_MAX, Out, WORDS_MAX};
use crate::budget::What;
use crate::ids::Account;
use crate::ledger::Writer;
use crate::nats::session::SessionId;
use crate::telemetry;

impl Exchange {
    /// Sends the next letter, if none is on its way and there is something to say.
    pub(super) fn send(&mut self, to: SessionId, ctx: &mut Context<Self>) {
        self.send_letter(to, false, ctx);
    }

    /// The same, though there be nothing to say.
    pub(super) fn speak(&mut self, to: SessionId, ctx: &mut Context<Self>) {
        self.send_letter(to, true, ctx);
    }

    fn send_letter(&mut self, to: SessionId, even_empty: bool, ctx: &mut Context<Self>) {
        let Some(mut peer) = self.peers.remove(&to) else { return };
        let next = peer
            .sending
            .next(Instant::now(), |out, line, number| self.write(out, line, number, even_empty));
        self.peers.insert(to, peer);
        let Some((line, number, text)) = next else { return };
        let sent = self.wire.send(to, text).into_actor(self);
        ctx.spawn(sent.map(move |receipt, exchange, ctx| {
            exchange.sent(to, (line, number), receipt, ctx);
        }));
    }

    fn write(
        &self,
        out: &mut VecDeque<Out>,
        line: u64,
        number: u64,
        even_empty: bool,
    ) -> Option<(Vec<Out>, Bytes)> {
        let mut writing = Writing::default();
        let mut said = Vec::new();
        let now = self.clock.now();
        let plan = self.plan.get();
        while writing.len() < WORDS_MAX && writing.bytes() < LETTER_BYTES_MAX {
            let Some(next) = out.pop_front() else { break };
            match &next {
                Out::Ask(record, asked) => {
                    let of = (record.clone(), *asked);
                    // Else it was dropped meanwhile.
                    let Some(pending) = self.pending.get(&of) else { continue };
                    let ask = &pending.ask;
                    let key = &ask.call.key;
                    let platform = plan.platforms.get(key.platform());
                    let api = platform.and_then(|of| of.apis.get(usize::from(ask.call.api)));
                    let Some(api) = api else { continue };
                    writing.say(
                        key,
                        Said::Ask(v1::BudgetAsk {
                            account: ask.whose.account.to_string(),
                            incarnation: ask.incarnation,
                            permit: asked.0,
                            api: api.name.to_string(),
                            job: ask.call.job,
                            weight: ask.weight,
                            wants: ask.wants,
                            costs: wire::costs_out(key, ask.call.api),
                        }),
                    );
                }
                Out::Word(key, word) => {
                    // A platform that is gone with its configuration has no budgets any more.
                    let Some(platform) = plan.platforms.get(key.platform()) else { continue };
                    writing.say(key, wire::word_out(key, word, platform, now));
                }
                Out::Reply(key, account, reply) => {
                    writing.say(key, wire::reply_out(account, reply, now));
                }
                Out::Unknown(name, account, reply) => {
                    writing.say_by_name(name.clone(), wire::reply_out(account, reply, now));
                }
            }
            said.push(next);
        }
        if said.is_empty() && !even_empty {
            return None;
        }
        let letter = v1::BudgetLetter {
            from: self.me.0,
            node: self.node.clone(),
            line,
            number,
            ..writing.letter
        };
        Some((said, letter.encode_to_vec().into()))
    }

    /// A letter was confirmed, or was not.
    fn sent(
        &mut self,
        to: SessionId,
        (line, number): (u64, u64),
        receipt: Option<Bytes>,
        ctx: &mut Context<Self>,
    ) {
        let receipt = receipt.and_then(|text| v1::BudgetReceipt::decode(text).ok());
        let now = Instant::now();
        self.lines += 1;
        let new = self.lines;
        let Some(peer) = self.peers.get_mut(&to) else { return };
        let Some(receipt) = receipt else {
            peer.sending.failed(line, number, now);
            self.doubt(to, now, ctx);
            return;
        };
        peer.heard = now;
        if !receipt.node.is_empty() {
            peer.name = Some(receipt.node.into());
        }
        if receipt.taken {
            let is_first = number == 1;
            let was_told = peer.sending.fails().is_some_and(|fails| fails.told);
            let away = peer.sending.confirmed(line, number);
            if let Some(away) = away.filter(|_| was_told) {
                telemetry::budget_node_back(&self.name(to), away);
            }
            if away.is_some() || is_first {
                // Who was not let in line because it did not answer, or waited there before it was given up.
                self.shaken(to, ctx);
            }
        } else if peer.sending.begin_anew((line, number), new) {
            self.shaken(to, ctx);
        }
        self.send(to, ctx);
    }

    /// Finds out whether a node that confirms nothing is gone.
    pub(super) fn doubt(&mut self, id: SessionId, now: Instant, ctx: &mut Context<Self>) {
        let name = self.name(id);
        let waiting = self.waits;
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let lent = peer.lent.len();
        let Some(fails) = peer.sending.fails() else { return };
        let looked = fails.looked.unwrap_or(fails.since);
        if now.saturating_duration_since(looked) < AWAY_AFTER {
            return;
        }
        fails.looked = Some(now);
        if !std::mem::replace(&mut fails.told, true) {
            telemetry::budget_node_away(&name, waiting, lent);
        }
        let looking = self.wire.look(id).into_actor(self);
        ctx.spawn(looking.map(move |writer, exchange, _| {
            let fails = exchange.peers.get(&id).is_some_and(|peer| peer.sending.is_failing());
            if fails && matches!(writer, Some(Writer::Dead | Writer::Silent)) {
                exchange.gone(id);
            }
        }));
    }

    /// Takes a letter in, and writes its receipt.
    pub(super) fn take_letter(&mut self, text: &[u8], ctx: &mut Context<Self>) -> Bytes {
        let receipt = |taken| {
            let node = self.node.clone();
            Bytes::from(v1::BudgetReceipt { taken, node }.encode_to_vec())
        };
        let (taken, unknown) = (receipt(true), receipt(false));
        let Ok(letter) = v1::BudgetLetter::decode(text) else {
            // Of another version, or nobody's: it is not understood the next time either.
            telemetry::budget_letter_unreadable();
            return taken;
        };
        let from = SessionId(letter.from);
        if from == self.me {
            return taken;
        }
        let peer = self.peer(from);
        // What it was sent may have been lost while it was away: it is not waited for now.
        peer.sending.is_heard(Instant::now());
        match Taking::take(&mut peer.taking, letter.line, letter.number) {
            Verdict::Seen => return taken,
            Verdict::Unknown => return unknown,
            Verdict::New { anew } => {
                peer.heard = Instant::now();
                if !letter.node.is_empty() {
                    peer.name = Some(letter.node.as_str().into());
                }
                if anew {
                    self.shaken(from, ctx);
                }
            }
        }
        for word in letter.words {
            let name = usize::try_from(word.budget).ok().and_then(|at| letter.budgets.get(at));
            if let (Some(name), Some(said)) = (name, word.said) {
                self.take_word(from, name, said, ctx);
            }
        }
        taken
    }

    fn take_word(
        &mut self,
        from: SessionId,
        name: &v1::BudgetName,
        said: Said,
        ctx: &mut Context<Self>,
    ) {
        if let Said::Ask(ask) = &said {
            if self.asked(from, name, ask, ctx).is_none() {
                self.not_known(from, name, ask, ctx);
            }
            return;
        }
        let Some(key) = self.budget_of(name) else { return };
        let now = self.clock.now();
        let what = match said {
            Said::Ask(_) => return,
            Said::Lent(lent) => return self.lent(from, &key, &lent, ctx),
            Said::Wait(wait) => return self.waits(from, &key, &wait),
            Said::Until(until) => return self.until(from, &key, &until),
            Said::Turn(account) => return self.turn(&key, &account, ctx),
            Said::Leaves(account) => {
                let Ok(account) = Account::new(&account) else { return };
                What::Leave(account, Some(from))
            }
            Said::Told(told) => {
                let Some((id, told)) = wire::told_in(&told, now) else { return };
                What::Told(id, told)
            }
            Said::Heard(heard) => {
                let plan = self.plan.get();
                let Some(platform) = plan.platforms.get(key.platform()) else { return };
                let Some((id, heard)) = wire::heard_in(&key, &heard, platform, now) else { return };
                What::Heard(id, Box::new(heard))
            }
            Said::JobOver(over) => What::JobOver { job: over.job, of: over.of.map(PermitId) },
            Said::Hold(hold) => {
                What::Hold { until: now.plus(Span(hold.for_us)), reason: hold.reason }
            }
        };
        self.heard_of(from, key, what, ctx);
    }
}
