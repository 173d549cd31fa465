//! Budgets over several nodes: this node's accounts in budgets that others own, and others' accounts in budgets that
//! this node owns.
//!
//! A budget is the owner's of its record's partition. The others send what their accounts ask to its exchange, which
//! puts it to the budget as a shard does; so turns are fair over accounts, whichever node they are on. What a budget
//! answers goes back the same way, a permit too. Nodes speak in lines of letters ([`line`]): one letter on its way at a
//! time, of up to [`WORDS_MAX`] words, each taken in once however often it comes.
//!
//! - A permit is used within half a second of its *asking*, by the clocks of the node that asked: the ask is dropped
//!   then, and what comes for it later goes back unused. So a call is written no later than what the budget's record
//!   says, which was stored after the ask had come: whoever reads the record counts it right without a word.
//! - A permit that was lent is in flight in the record until its end is told. When the session of whoever holds it is
//!   over it is charged as a dead writer's, and its slots are taken for `lost_call` unless its end is told after all.
//! - When a budget moves, its new owner finds permits in flight in the record, by their numbers. Whoever holds one tells
//!   its end to the owner of that moment, and until then, again and again, that it runs; ends that may be in no record of
//!   the old owner are told again. The old owner has nothing to do with them any more.
//! - Who waits in a line that is gone, or of an owner that does not answer, is called as soon as there is another, a few
//!   at a time ([`WAKES_AT_ONCE`]).

mod borrowing;
mod lending;
mod letters;
mod line;
mod wire;

use std::collections::{BTreeMap, VecDeque, hash_map, hash_set};
use std::fmt;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::sync::{Arc, Weak};
use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tollgate_gate::{At, PermitId};
use tollgate_protos::wire::v1;

use super::{Ask, Door, ForBudget, FromBudget, Heard, Home, Told, Whose};
use crate::clock::Clock;
use crate::cluster::{Owned, Owners};
use crate::ids::{Account, AccountKey};
use crate::ledger::Writer;
use crate::mailbox::Mailbox;
use crate::nats::session::SessionId;
use crate::plan::InForce;
use crate::recipe::BudgetKey;
use crate::shard::Shard;
use crate::shard::context::Peers;
use line::{Sending, Taking};

/// Maps with an order that is the same in every process: what is said follows it, and the simulation replays it.
type HashMap<K, V> = hash_map::HashMap<K, V, BuildHasherDefault<DefaultHasher>>;
type HashSet<T> = hash_set::HashSet<T, BuildHasherDefault<DefaultHasher>>;

/// Most words of one letter, and most bytes, the last word not counted.
const WORDS_MAX: usize = 256;
const LETTER_BYTES_MAX: usize = 256 * 1024;
/// Most words that wait for one node; asks beyond are made again later, all else beyond four times as many is dropped.
const OUT_MAX: usize = 16 * 1024;
/// An ask without an answer is dropped after this time, and a permit that comes for it goes back.
pub(crate) const LIFE: Duration = crate::collector::USE_WITHIN;
/// How often it is looked for asks that are too old, and for nodes that are silent; [`TIDY_EVERY`] without either.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A node with which there is something unfinished is spoken to this often, if only to learn that it lives.
const SPEAK_EVERY: Duration = Duration::from_secs(1);
/// A node that confirms nothing for so long is told of, and it is asked whether its session is over, again and again.
const AWAY_AFTER: Duration = Duration::from_secs(1);
/// A node with which there is nothing unfinished is forgotten after this time.
const FORGET_AFTER: Duration = Duration::from_secs(600);
/// Accounts that are called at once when a budget has a new owner, and the pause until the next.
const WAKES_AT_ONCE: usize = 64;
const WAKE_PAUSE: Duration = Duration::from_millis(5);
/// Most accounts of this node that wait for budgets of others; further ones ask again.
const WAITING_MAX: usize = 100_000;
/// Most ends of one budget, and most names of budgets, that are remembered.
const ENDS_MAX: usize = 4096;
const NAMES_MAX: usize = 8192;
/// An end is forgotten so long after its owner was told. Where no record has it by then, and the owner dies, the next
/// one takes the call for one that goes on: it counts for longer, never for less.
const ENDS_KEPT: Duration = Duration::from_secs(60);
/// How often it is looked for what is to be forgotten, and for permits of which is to be said that they run.
const TIDY_EVERY: Duration = Duration::from_millis(250);
/// A node's ask for a budget that is not known here is told of once in this time.
const UNKNOWN_EVERY: Duration = Duration::from_secs(60);
/// When an ask is made again that came to the wrong node, or was not answered, in milliseconds.
const ASKS_AGAIN_MS: std::ops::RangeInclusive<u64> = 100..=400;
/// The same where there is no room, or the owner's configuration has no such budget.
const ASKS_LATER_MS: std::ops::RangeInclusive<u64> = 1000..=2000;

/// How letters get to other nodes.
pub trait BudgetWire: Send + Sync + fmt::Debug + 'static {
    /// Sends a letter to the node of a session, and brings its receipt; nothing if none comes within a second or so,
    /// whatever became of the letter.
    fn send(&self, to: SessionId, letter: Bytes) -> BoxFuture<'static, Option<Bytes>>;

    /// What is known of a session; nothing if that cannot be found out now.
    fn look(&self, session: SessionId) -> BoxFuture<'static, Option<Writer>>;
}

/// What a node needs to lend and to borrow.
#[derive(Debug, Clone)]
pub struct Lending {
    /// The session of this node.
    pub session: SessionId,
    /// The way to the others.
    pub wire: Arc<dyn BudgetWire>,
}

/// A letter from another node. The answer is its receipt.
#[derive(Debug, Message)]
#[rtype(result = "Bytes")]
pub(crate) struct Letter(pub(crate) Bytes);

/// What a budget of this node says to an account of another.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct ToNode {
    pub(crate) to: SessionId,
    pub(crate) message: FromBudget,
}

/// Sent by the node when it ends: the answer comes when all that was to be told is, or after `within`.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub(crate) struct Flush {
    pub(crate) within: Duration,
}

/// A budget has left this node, which still holds these permits of it.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct StillHeld {
    pub(crate) key: BudgetKey,
    pub(crate) held: Vec<(PermitId, Weak<()>)>,
}

/// Who owns what is seen otherwise now.
#[derive(Message)]
#[rtype(result = "()")]
struct Moved(Owners);

/// What a node says of a budget of another, beside asks.
#[derive(Debug, Clone)]
enum Word {
    Leave(Account),
    Told(PermitId, Told),
    Heard(PermitId, Heard),
    JobOver(u64, Option<PermitId>),
    Hold(At, String),
}

/// What is said to an account of another node.
#[derive(Debug, Clone)]
enum Reply {
    Lent { incarnation: u64, asked: PermitId, permit: PermitId },
    Wait { incarnation: u64, asked: PermitId, until: Option<At>, again: Option<At>, why: Box<str> },
    Until { until: At, why: Box<str> },
    Turn,
}

/// What is to be said to another node.
#[derive(Debug, Clone)]
enum Out {
    /// An ask, by the budget's record and the account's own permit.
    Ask(AccountKey, PermitId),
    Word(BudgetKey, Word),
    Reply(BudgetKey, Account, Reply),
    /// The same of a budget that is not known here, by the name that it was asked for by.
    Unknown(v1::BudgetName, Account, Reply),
}

/// An ask that is not answered.
#[derive(Debug)]
struct Pending {
    ask: Ask,
    asked: Instant,
    asked_boot_ns: u64,
    /// Its place among all that was said.
    number: u64,
    to: SessionId,
}

/// Accounts of this node that wait for a budget of another.
#[derive(Debug)]
struct Waiting {
    key: BudgetKey,
    whose: HashMap<Account, Whose>,
}

/// Permits of a budget of another node, as far as their ends may be in no record.
#[derive(Debug)]
struct Borrowed {
    key: BudgetKey,
    /// Not over as long as they are held.
    live: HashMap<PermitId, Weak<()>>,
    /// When the owner was told so.
    said_to_run: Instant,
    ends: VecDeque<End>,
    /// Whom those were told.
    told_to: Option<SessionId>,
}

/// What was told of a permit's end.
#[derive(Debug)]
struct End {
    /// Its place among all that was said.
    said: u64,
    at: Instant,
    id: PermitId,
    told: Told,
}

/// A permit that another node was lent.
#[derive(Debug)]
struct Lent {
    key: BudgetKey,
    /// Its call is written by then.
    latest: At,
}

/// Another node.
#[derive(Debug)]
struct Peer {
    /// Its node's name, once it is known.
    name: Option<Box<str>>,
    sending: Sending<Out>,
    taking: Option<Taking>,
    /// When it was last heard of.
    heard: Instant,
    lent: HashMap<(AccountKey, PermitId), Lent>,
    /// Its accounts that wait in line here.
    in_line: HashMap<AccountKey, (BudgetKey, HashSet<Account>)>,
}

/// The exchange of one node.
pub(crate) struct Exchange {
    me: SessionId,
    node: String,
    clock: Clock,
    plan: InForce,
    owned: Owned,
    owners: Owners,
    door: Door,
    wire: Arc<dyn BudgetWire>,
    peers: BTreeMap<SessionId, Peer>,
    lines: u64,
    pending: HashMap<(AccountKey, PermitId), Pending>,
    waiting: HashMap<AccountKey, Waiting>,
    waits: usize,
    borrowed: HashMap<AccountKey, Borrowed>,
    /// What is for the owners of budgets that nobody is seen to own.
    unrouted: VecDeque<(BudgetKey, Word)>,
    /// Who is called next, because the line that it waited in is gone.
    wake: VecDeque<(BudgetKey, Whose)>,
    waking: bool,
    said: u64,
    names: HashMap<(AccountKey, Account), BudgetKey>,
    /// When it was told of which budget that is not known here: who asked, the platform and the record.
    unknown: HashMap<(SessionId, String, String), Instant>,
    tidied: Instant,
    meters: crate::telemetry::ExchangeMeters,
}

impl Exchange {
    /// Starts one on this thread. `shard`: any of the node's.
    pub(crate) fn start_here(
        lending: Lending,
        node: String,
        (clock, plan): (Clock, InForce),
        owned: &Owned,
        peers: &Arc<Peers>,
        shard: Mailbox<Shard>,
    ) -> Addr<Self> {
        let exchange = Self {
            me: lending.session,
            node,
            clock,
            plan,
            owned: owned.clone(),
            owners: Owners::default(),
            door: Door::new(Arc::clone(peers), owned.clone(), shard),
            wire: lending.wire,
            peers: BTreeMap::new(),
            lines: 0,
            pending: HashMap::default(),
            waiting: HashMap::default(),
            waits: 0,
            borrowed: HashMap::default(),
            unrouted: VecDeque::new(),
            wake: VecDeque::new(),
            waking: false,
            said: 0,
            names: HashMap::default(),
            unknown: HashMap::default(),
            tidied: Instant::now(),
            meters: crate::telemetry::ExchangeMeters::default(),
        };
        let exchange = exchange.start();
        peers.exchange_is(exchange.clone());
        exchange
    }

    fn owner(&self, key: &BudgetKey) -> Option<SessionId> {
        self.owners.of[key.part() as usize]
    }

    /// A node, which is known from here on.
    fn peer(&mut self, id: SessionId) -> &mut Peer {
        let lines = &mut self.lines;
        self.peers.entry(id).or_insert_with(|| {
            *lines += 1;
            Peer {
                name: None,
                sending: Sending::new(*lines),
                taking: None,
                heard: Instant::now(),
                lent: HashMap::default(),
                in_line: HashMap::default(),
            }
        })
    }

    fn name(&self, id: SessionId) -> String {
        let name = self.peers.get(&id).and_then(|peer| peer.name.as_deref());
        name.map_or_else(|| id.to_string(), str::to_owned)
    }

    /// Says something to another node, as soon as its letter before is confirmed.
    fn say(&mut self, to: SessionId, out: Out, ctx: &mut Context<Self>) {
        let peer = self.peer(to);
        if peer.sending.out.len() >= 4 * OUT_MAX {
            self.meters.dropped();
            return;
        }
        peer.sending.out.push_back(out);
        self.send(to, ctx);
    }

    /// Regularly: asks that are too old, nodes that are silent.
    fn look_again(after: Duration, ctx: &mut Context<Self>) {
        ctx.run_later(after, |exchange, ctx| {
            exchange.look(ctx);
            let quiet = exchange.peers.is_empty()
                && exchange.pending.is_empty()
                && exchange.waiting.is_empty()
                && exchange.unrouted.is_empty();
            Self::look_again(if quiet { TIDY_EVERY } else { LOOK_EVERY }, ctx);
        });
    }

    fn look(&mut self, ctx: &mut Context<Self>) {
        self.drop_old_asks();
        for (key, word) in std::mem::take(&mut self.unrouted) {
            self.pass(key, word, ctx);
        }
        self.tidy(ctx);
        // After a hand-over that came to nothing, of which nobody is told.
        let owned = self.owned.clone();
        let is_here = |key: &BudgetKey| owned.is_ours(key.part()) && !owned.is_leaving(key.part());
        self.wake_those(is_here, ctx);
        let owners: HashSet<SessionId> =
            self.waiting.values().filter_map(|waiting| self.owner(&waiting.key)).collect();
        let me = self.me;
        for owner in owners.into_iter().filter(|owner| *owner != me) {
            self.peer(owner);
        }
        let now = Instant::now();
        let mut over = Vec::new();
        let known: Vec<SessionId> = self.peers.keys().copied().collect();
        for id in known {
            let waits_there = self.waits_at(id);
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            let open = waits_there || !peer.lent.is_empty() || !peer.in_line.is_empty();
            let silent = now.saturating_duration_since(peer.heard);
            if !open && peer.sending.is_idle() {
                if silent >= FORGET_AFTER {
                    over.push(id);
                }
                continue;
            }
            if silent >= SPEAK_EVERY && peer.sending.is_idle() {
                self.speak(id, ctx);
            } else {
                self.send(id, ctx);
            }
            self.doubt(id, now, ctx);
        }
        for id in over {
            self.peers.remove(&id);
        }
        let lent = self.peers.values().map(|peer| peer.lent.len()).sum();
        let away = self.peers.values().filter(|peer| peer.sending.is_failing()).count();
        self.meters.show(lent, away, self.waits);
    }

    /// Whether accounts of this node wait for budgets of that one.
    fn waits_at(&self, id: SessionId) -> bool {
        self.pending.values().any(|pending| pending.to == id)
            || self.waiting.values().any(|waiting| self.owner(&waiting.key) == Some(id))
    }
}

impl Actor for Exchange {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        Self::look_again(LOOK_EVERY, ctx);
        let Some(mut owners) = self.owned.owners() else { return };
        let me = ctx.address();
        ctx.spawn(
            async move {
                loop {
                    let seen = *owners.borrow_and_update();
                    me.do_send(Moved(seen));
                    if owners.changed().await.is_err() {
                        return;
                    }
                }
            }
            .into_actor(self),
        );
    }
}

impl Handler<ForBudget> for Exchange {
    type Result = ();

    fn handle(&mut self, message: ForBudget, ctx: &mut Self::Context) {
        self.take_from_here(message, ctx);
    }
}

impl Handler<ToNode> for Exchange {
    type Result = ();

    fn handle(&mut self, ToNode { to, message }: ToNode, ctx: &mut Self::Context) {
        self.answer(to, message, ctx);
    }
}

impl Handler<Letter> for Exchange {
    type Result = MessageResult<Letter>;

    fn handle(&mut self, Letter(text): Letter, ctx: &mut Self::Context) -> Self::Result {
        MessageResult(self.take_letter(&text, ctx))
    }
}

impl Handler<Moved> for Exchange {
    type Result = ();

    fn handle(&mut self, Moved(owners): Moved, ctx: &mut Self::Context) {
        self.moved(&owners, ctx);
    }
}

impl Handler<StillHeld> for Exchange {
    type Result = ();

    fn handle(&mut self, StillHeld { key, held }: StillHeld, ctx: &mut Self::Context) {
        self.still_held(&key, held, ctx);
    }
}

/// How many permits and ends of permits of others' budgets are remembered.
#[cfg(test)]
#[derive(Debug, Message)]
#[rtype(result = "(usize, usize)")]
pub(crate) struct Remembered;

#[cfg(test)]
impl Handler<Remembered> for Exchange {
    type Result = MessageResult<Remembered>;

    fn handle(&mut self, _: Remembered, _: &mut Self::Context) -> Self::Result {
        let count = |of: fn(&Borrowed) -> usize| self.borrowed.values().map(of).sum();
        let live: usize = count(|borrowed| borrowed.live.len());
        MessageResult((live.max(self.borrowed.len()), count(|borrowed| borrowed.ends.len())))
    }
}

impl Handler<Flush> for Exchange {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, Flush { within }: Flush, _: &mut Self::Context) -> Self::Result {
        let until = Instant::now() + within;
        let look = async {}.into_actor(self).then(move |(), exchange, _| exchange.flushed(until));
        Box::pin(look)
    }
}

impl Exchange {
    fn flushed(&self, until: Instant) -> ResponseActFuture<Self, ()> {
        let said = self.peers.values().all(|peer| peer.sending.is_idle());
        if (said && self.unrouted.is_empty()) || Instant::now() >= until {
            return Box::pin(async {}.into_actor(self));
        }
        let pause = tokio::time::sleep(WAKE_PAUSE).into_actor(self);
        Box::pin(pause.then(move |(), exchange, _| exchange.flushed(until)))
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("me", &self.me).finish_non_exhaustive()
    }
}

fn in_ms(clock: &Clock, range: std::ops::RangeInclusive<u64>) -> At {
    clock.now().plus(tollgate_gate::Span::from_millis(fastrand::u64(range)))
}

fn wait(clock: &Clock, ask: Ask, range: std::ops::RangeInclusive<u64>, why: &str) {
    let again = in_ms(clock, range);
    ask.wait(None, Some(again), why);
}

fn home_of(id: SessionId, ctx: &Context<Exchange>) -> Home {
    Home::Node(id, ctx.address())
}
