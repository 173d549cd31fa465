//! The bucket of sessions and claims: the server's side, and a process's way to it, with replicas that are behind
//! and watches that tell late.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::Trace;
use super::bugs::Bug;
use super::host::Life;
use super::net::Net;
use crate::nats::Link;
use crate::nats::own::{Changes, Draft, Entry, Following, OwnBucket, OwnError, Wrote};
use crate::nats::session::SessionId;

/// How far the replica behind a watch is behind, at most.
const BEHIND_MS: u64 = 600;
/// Nothing is waited for longer: whoever asks gives up before.
const PATIENCE: Duration = Duration::from_secs(30);

/// The bucket as its leader has it.
pub(super) struct BoardServer {
    state: Mutex<State>,
    trace: Arc<Trace>,
}

#[derive(Default)]
struct State {
    /// Every entry there ever was.
    log: Vec<(Instant, Entry)>,
    last: BTreeMap<String, Entry>,
    /// No leader until then: nothing is written or read, and keys end.
    away_until: Option<Instant>,
    /// Who is told of entries. Not a watch: it wakes those who wait in no order.
    ears: Vec<Weak<Notify>>,
}

impl State {
    fn put(&mut self, key: String, value: Option<Bytes>) -> u64 {
        let revision = self.log.len() as u64 + 1;
        let entry = Entry { key: key.clone(), revision, value };
        self.log.push((Instant::now(), entry.clone()));
        self.last.insert(key, entry);
        self.ears.retain(|ear| ear.upgrade().map(|ear| ear.notify_one()).is_some());
        revision
    }
}

impl fmt::Debug for BoardServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoardServer").finish_non_exhaustive()
    }
}

impl BoardServer {
    pub(super) fn new(trace: Arc<Trace>) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), trace })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// There is no leader for so long.
    pub(super) fn away_for(&self, time: Duration) {
        self.state().away_until = Some(Instant::now() + time);
    }

    fn is_away(&self) -> bool {
        self.state().away_until.is_some_and(|until| until > Instant::now())
    }

    /// As when the clock of the server that keeps the leases is set.
    fn end_all_leases(&self) {
        let mut state = self.state();
        let lives = |entry: &&Entry| entry.key.starts_with("n.") && entry.value.is_some();
        let keys: Vec<String> =
            state.last.values().filter(lives).map(|entry| entry.key.clone()).collect();
        for key in keys {
            state.put(key, None);
        }
    }

    /// Who has claimed a partition.
    pub(super) fn claim(&self, part: u32) -> Option<u64> {
        #[derive(serde::Deserialize)]
        struct Claim {
            session: Option<SessionId>,
        }
        let state = self.state();
        let value = state.last.get(&format!("p.{part}"))?.value.as_ref()?;
        let claim: Claim = serde_json::from_slice(value).unwrap();
        claim.session.map(|session| session.0)
    }

    fn write(self: &Arc<Self>, draft: Draft) -> Wrote {
        let Draft { key, value, lives, expected } = draft;
        let mut state = self.state();
        if state.last.get(&key).map_or(0, |last| last.revision) != expected {
            return Wrote::Replaced;
        }
        if !key.starts_with("n.") || value.is_none() {
            let value = value.clone();
            self.trace.note(|| format!("own {key} over {expected}: {value:?}"));
        }
        let is_put = value.is_some();
        let revision = state.put(key.clone(), value);
        if let Some(lives) = lives.filter(|_| is_put) {
            let (server, end) = (Arc::clone(self), Instant::now() + lives);
            tokio::spawn(async move {
                sleep_until(end).await;
                let mut state = server.state();
                if state.last.get(&key).is_some_and(|last| last.revision == revision) {
                    server.trace.note(|| format!("own {key} has ended"));
                    state.put(key, None);
                }
            });
        }
        Wrote::At(revision)
    }
}

/// The bucket as one process has it.
#[derive(Debug, Clone)]
pub(super) struct SimOwn {
    pub(super) life: Arc<Life>,
    pub(super) net: Arc<Net>,
    pub(super) server: Arc<BoardServer>,
    pub(super) bug: Option<Bug>,
}

/// The bucket as so many processes have it, with a network that loses nothing.
pub(crate) fn buckets<const N: usize>() -> [Arc<dyn OwnBucket>; N] {
    buckets_that_end().0
}

/// The same, and what ends the keys of all sessions at once.
pub(crate) fn buckets_that_end<const N: usize>() -> ([Arc<dyn OwnBucket>; N], impl Fn()) {
    let net = Net::new(fastrand::Rng::with_seed(1));
    let server = BoardServer::new(Arc::default());
    let buckets = std::array::from_fn(|node| {
        let life = Life::new(node, node as u64 + 1);
        let (net, server) = (Arc::clone(&net), Arc::clone(&server));
        Arc::new(SimOwn { life, net, server, bug: None }) as Arc<dyn OwnBucket>
    });
    (buckets, move || server.end_all_leases())
}

fn lost() -> OwnError {
    OwnError { what: "the simulation lost the answer".into(), missing: false }
}

impl SimOwn {
    fn ask<T: Send + 'static>(
        &self,
        work: impl Fn(&Arc<BoardServer>) -> T + Send + 'static,
    ) -> BoxFuture<'static, Result<T, OwnError>> {
        let (this, server) = (self.clone(), Arc::clone(&self.server));
        async move {
            let work = move || {
                let answer = (!server.is_away()).then(|| work(&server));
                std::future::ready(answer)
            };
            match this.net.ask(&this.life, PATIENCE, work).await {
                Some(Some(answer)) => Ok(answer),
                Some(None) | None => Err(lost()),
            }
        }
        .boxed()
    }
}

impl OwnBucket for SimOwn {
    fn write(&self, draft: Draft) -> BoxFuture<'static, Result<Wrote, OwnError>> {
        let expected = draft.expected;
        let is_claim = draft.key.starts_with("p.") && expected > 0;
        if self.bug == Some(Bug::NoPartitionClaim) && is_claim {
            return std::future::ready(Ok(Wrote::At(expected))).boxed();
        }
        self.ask(move |server| server.write(draft.clone()))
    }

    fn last(&self, key: String) -> BoxFuture<'static, Result<Option<Entry>, OwnError>> {
        self.ask(move |server| server.state().last.get(&key).cloned())
    }

    fn follow(&self) -> BoxFuture<'static, Result<Following, OwnError>> {
        let (this, behind) = (self.clone(), self.net.behind(BEHIND_MS));
        let begun = self.ask(move |server| {
            let seen = Instant::now().checked_sub(behind);
            let state = server.state();
            let upto = state.log.iter().take_while(|(at, _)| seen.is_some_and(|seen| *at <= seen));
            upto.count()
        });
        async move {
            let upto = begun.await?;
            let mut there: BTreeMap<String, Entry> = BTreeMap::new();
            for (_, entry) in &this.server.state().log[..upto] {
                there.insert(entry.key.clone(), entry.clone());
            }
            let mut there: Vec<Entry> = there.into_values().collect();
            there.sort_by_key(|entry| entry.revision);
            let (tell, told) = mpsc::unbounded_channel();
            tokio::spawn(deliver(this, upto, tell));
            let changes = stream::unfold(told, |mut told| async move {
                told.recv().await.map(|entry| (Ok(entry), told))
            });
            let changes: Changes = changes.boxed();
            Ok(Following { there, changes })
        }
        .boxed()
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.life.link()
    }
}

/// Delivers entries in order, each after a while; ends when the connection breaks.
async fn deliver(own: SimOwn, from: usize, tell: mpsc::UnboundedSender<Entry>) {
    let news = Arc::new(Notify::new());
    own.server.state().ears.push(Arc::downgrade(&news));
    let mut link = own.life.link();
    let times = link.borrow_and_update().times;
    for place in from.. {
        let (at, entry) = loop {
            let found = own.server.state().log.get(place).cloned();
            if let Some(found) = found {
                break found;
            }
            tokio::select! {
                biased;
                _ = link.wait_for(|link| !link.up || link.times != times) => return,
                () = news.notified() => {}
                () = tell.closed() => return,
            }
        };
        sleep_until(at + own.net.behind(BEHIND_MS / 4)).await;
        while own.life.is_cut_off() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let link = *link.borrow();
        if !link.up || link.times != times || tell.send(entry).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_ends_by_itself_unless_it_is_renewed() {
        let server = BoardServer::new(Arc::default());
        let lives = Some(Duration::from_secs(4));
        let value = || Some(Bytes::from_static(b"x"));
        let draft = |expected| Draft { key: "n.1".into(), value: value(), lives, expected };
        assert_eq!(server.write(draft(0)), Wrote::At(1));
        assert_eq!(server.write(draft(0)), Wrote::Replaced);
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(server.write(draft(1)), Wrote::At(2));
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(server.state().last["n.1"].value.is_some());
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(server.state().last["n.1"].value.is_none());
    }
}
