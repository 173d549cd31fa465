//! The server's side of the ledger: one message for each account, replaced by compare-and-set, and the keys of
//! sessions. And a session's way to it, with production's ledger on top.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep, timeout};

use super::bugs::Bug;
use super::host::Life;
use super::net::Net;
use super::{Trace, Wrongs};
use crate::ids::{AccountKey, Seq};
use crate::ledger::nats::wire::{Answer, Kept, Unconfirmed, Wire};
use crate::ledger::nats::{NatsLedger, opened};
use crate::ledger::record::{Record, Stretch};
use crate::ledger::{Ledger, LedgerError, LedgerFuture, Stored, Writer};
use crate::nats::session::{Session, SessionId};

/// How far a replica is behind, at most.
const BEHIND_MS: u64 = 400;
/// How long a confirmation, and an answer, is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// The stream LEDGER, and what is known of who may write what.
#[derive(Debug)]
pub(super) struct LedgerServer {
    state: Mutex<State>,
    start: Instant,
    wrongs: Arc<Wrongs>,
    trace: Arc<Trace>,
}

#[derive(Debug, Default)]
struct State {
    sequence: u64,
    /// The messages of each account in order, with the moments of their storing.
    messages: BTreeMap<AccountKey, Vec<(Instant, Kept)>>,
    /// Who was answered a version as the one to expect, having read another's record.
    taken: BTreeMap<(AccountKey, u64), u64>,
    /// Permits that a stored record names and that no call has used yet: by account's name, session and fetch.
    permits: BTreeMap<(String, u64, Seq), BTreeSet<u64>>,
    used: BTreeSet<(u64, Seq, u64)>,
    /// Blocks that a session's stored records opened.
    open: BTreeMap<(String, u64), Vec<Stretch>>,
    names: BTreeMap<String, Seq>,
    /// How often a record of a gone process named a fetch as in flight.
    crashes: BTreeMap<Seq, u32>,
}

impl LedgerServer {
    pub(super) fn new(wrongs: Arc<Wrongs>, trace: Arc<Trace>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), start: Instant::now(), wrongs, trace })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// That fetch has this number.
    pub(super) fn name(&self, id: &str, seq: Seq) {
        self.state().names.insert(id.to_owned(), seq);
    }

    /// At how many crashes a fetch was in flight, as records say.
    pub(super) fn crashes(&self, id: &str) -> u32 {
        let state = self.state();
        state.names.get(id).and_then(|seq| state.crashes.get(seq)).copied().unwrap_or(0)
    }

    /// A call leaves: a stored record has to name its permit.
    pub(super) fn called(&self, account: &str, id: &str, session: u64) {
        let state = &mut *self.state();
        let seq = state.names[id];
        let permits = state.permits.entry((account.to_owned(), session, seq)).or_default();
        if let Some(permit) = permits.pop_first() {
            state.used.insert((session, seq, permit));
            return;
        }
        let open = state.open.get(&(account.to_owned(), session));
        if !open.into_iter().flatten().any(|open| (open.from..=open.to).contains(&seq)) {
            self.wrongs.push(format!(
                "{id} of {account} was called by session {session}, and no stored record says so"
            ));
        }
    }

    fn publish(&self, account: &AccountKey, expected: u64, payload: Bytes) -> Result<u64, ()> {
        let state = &mut *self.state();
        let last = state.messages.get(account).and_then(|all| all.last());
        let is_last = last.map_or(0, |(_, last)| last.sequence) == expected;
        let letter = opened(&payload).expect("a ledger's message");
        let name = account.account.to_string();
        self.trace.note(|| {
            let what = if letter.is_claim { "claim" } else { "record" };
            let by = letter.by;
            format!(
                "{what} of {name} by {by} over {expected}: {}",
                if is_last { "ok" } else { "no" }
            )
        });
        if !is_last {
            return Err(());
        }
        if !letter.is_claim
            && let Some(whose) = state.taken.get(&(account.clone(), expected))
            && *whose != letter.by
        {
            let (by, whose) = (letter.by, *whose);
            self.wrongs.push(format!(
                "session {by} stored a record of {name} after session {whose} had taken it over"
            ));
        }
        state.sequence += 1;
        let sequence = state.sequence;
        if !letter.is_claim && !name.contains('=') {
            let record = Record::decode(&letter.record).expect("a record of ours");
            if !record.open.is_empty() {
                state.open.entry((name.clone(), letter.by)).or_default().extend(record.open);
            }
            for flying in record.flying {
                let key = (letter.by, flying.seq, flying.permit);
                if !state.used.contains(&key) {
                    let whose = (name.clone(), letter.by, flying.seq);
                    state.permits.entry(whose).or_default().insert(flying.permit);
                }
            }
        }
        let kept = Kept { sequence, payload, stored_ns: self.stamp() };
        state.messages.entry(account.clone()).or_default().push((Instant::now(), kept));
        Ok(sequence)
    }

    /// The server's clock.
    fn stamp(&self) -> i64 {
        1_000_000_000 + i64::try_from(self.start.elapsed().as_nanos()).unwrap()
    }

    /// The last message as of a moment ago.
    fn last(&self, account: &AccountKey, behind: Duration) -> Option<Kept> {
        let state = self.state();
        let messages = state.messages.get(account)?.iter().rev();
        let until = Instant::now().checked_sub(behind)?;
        messages
            .map(|(at, kept)| (*at, kept))
            .find(|(at, _)| *at <= until)
            .map(|(_, kept)| kept.clone())
    }

    fn at(&self, account_sequence: u64) -> Option<Kept> {
        let state = self.state();
        let mut all = state.messages.values().flatten();
        all.find(|(_, kept)| kept.sequence == account_sequence).map(|(_, kept)| kept.clone())
    }

    fn taken(&self, account: &AccountKey, stored: &Stored, by: u64) {
        let state = &mut *self.state();
        state.taken.insert((account.clone(), stored.version), by);
        let crashed = matches!(stored.writer, Writer::Dead | Writer::Silent);
        if crashed && let Ok(record) = Record::decode(&stored.record) {
            for flying in record.flying {
                *state.crashes.entry(flying.seq).or_default() += 1;
            }
        }
        let name = &account.account;
        self.trace.note(|| format!("{by} took {name} over from one {:?}", stored.writer));
    }
}

/// A session's way to the server.
struct Line {
    life: Arc<Life>,
    net: Arc<Net>,
    server: Arc<LedgerServer>,
    session: Arc<Session>,
    bug: Option<Bug>,
    /// What claims that were never sent say, under [`Bug::NoClaim`].
    unsent: Mutex<BTreeMap<u64, Kept>>,
}

fn away() -> LedgerError {
    LedgerError::Unavailable("the simulation lost the answer".into())
}

impl Line {
    async fn last(
        &self,
        account: &AccountKey,
        behind: Duration,
    ) -> Result<Option<Kept>, LedgerError> {
        let (server, account) = (Arc::clone(&self.server), account.clone());
        let work = move || std::future::ready(server.last(&account, behind));
        self.net.ask(&self.life, PATIENCE, work).await.ok_or_else(away)
    }
}

impl Wire for Line {
    fn own(&self) -> SessionId {
        SessionId(self.life.session)
    }

    fn passed(&self) -> Duration {
        self.session.started().elapsed()
    }

    fn look(&self, id: SessionId) -> Answer<'_, Writer> {
        async move {
            let looked = timeout(PATIENCE, self.session.look(id)).await;
            looked.map_err(|_| away())?.map_err(|_| away())
        }
        .boxed()
    }

    fn publish<'a>(
        &'a self,
        account: &'a AccountKey,
        expected: u64,
        payload: Bytes,
    ) -> BoxFuture<'a, Result<u64, Unconfirmed>> {
        async move {
            let is_claim = opened(&payload).is_some_and(|letter| letter.is_claim);
            if self.bug == Some(Bug::NoClaim) && is_claim {
                let stored_ns = self.server.stamp();
                let kept = Kept { sequence: expected, payload, stored_ns };
                self.unsent.lock().unwrap().insert(expected, kept);
                return Ok(expected);
            }
            let (server, whose) = (Arc::clone(&self.server), account.clone());
            let work =
                move || std::future::ready(server.publish(&whose, expected, payload.clone()));
            let mut link = self.life.link();
            let times = link.borrow_and_update().times;
            let broken = link.wait_for(|link| !link.up || link.times != times);
            let answer = tokio::select! {
                biased;
                answer = self.net.ask(&self.life, PATIENCE, work) => answer,
                _ = broken => None,
            };
            match answer {
                Some(answer) => answer.map_err(|()| Unconfirmed::Conflict),
                None if self.bug == Some(Bug::LostIsStored) => Ok(expected + 1),
                None => Err(Unconfirmed::Lost("no confirmation".into())),
            }
        }
        .boxed()
    }

    fn up(&self) -> BoxFuture<'_, ()> {
        async move {
            for _ in 0..20 {
                if !self.life.is_cut_off() {
                    return;
                }
                sleep(PATIENCE / 20).await;
            }
        }
        .boxed()
    }

    fn last_of_any<'a>(&'a self, account: &'a AccountKey) -> Answer<'a, Option<Kept>> {
        self.last(account, self.net.behind(BEHIND_MS)).boxed()
    }

    fn last_of_leader<'a>(&'a self, account: &'a AccountKey) -> Answer<'a, Option<Kept>> {
        self.last(account, Duration::ZERO).boxed()
    }

    fn at(&self, sequence: u64) -> Answer<'_, Kept> {
        async move {
            if let Some(kept) = self.unsent.lock().unwrap().get(&sequence) {
                return Ok(kept.clone());
            }
            let server = Arc::clone(&self.server);
            let work = move || std::future::ready(server.at(sequence));
            let found = self.net.ask(&self.life, PATIENCE, work).await.ok_or_else(away)?;
            found.ok_or(LedgerError::Conflict)
        }
        .boxed()
    }
}

/// Production's ledger on that line, under watch.
#[derive(Debug, Clone)]
pub(super) struct SimLedger {
    inner: NatsLedger,
    server: Arc<LedgerServer>,
    bug: Option<Bug>,
    plan: Arc<crate::plan::Plan>,
}

impl SimLedger {
    pub(super) fn new(
        life: &Arc<Life>,
        (net, server): (&Arc<Net>, &Arc<LedgerServer>),
        session: &Arc<Session>,
        bug: Option<Bug>,
        plan: Arc<crate::plan::Plan>,
    ) -> Self {
        let line = Line {
            life: Arc::clone(life),
            net: Arc::clone(net),
            server: Arc::clone(server),
            session: Arc::clone(session),
            bug,
            unsent: Mutex::default(),
        };
        let inner = NatsLedger::on(Box::new(line), 1);
        Self { inner, server: Arc::clone(server), bug, plan }
    }
}

impl Ledger for SimLedger {
    fn session(&self) -> u64 {
        self.inner.session()
    }

    fn load(&self, account: AccountKey) -> LedgerFuture<Option<Stored>> {
        let this = self.clone();
        async move {
            let mut found = this.inner.load(account.clone()).await?;
            if let Some(stored) = found.as_mut().filter(|stored| stored.writer != Writer::Here) {
                this.server.taken(&account, stored, this.inner.session());
                super::bugs::spoil(this.bug, &account, stored, &this.plan);
            }
            Ok(found)
        }
        .boxed()
    }

    fn doubt(&self, account: &AccountKey) {
        self.inner.doubt(account);
    }

    fn store(&self, account: AccountKey, expected: u64, record: Bytes) -> LedgerFuture<u64> {
        self.inner.store(account, expected, record)
    }
}
