//! One run of a node, as the other nodes see it: a key in the bucket OWN that ends with it.
//!
//! The key is `n.SESSION`, with a time to live that every renewal begins anew. It says who lives, for liveness and
//! for telling a crash from a second node; no limit depends on it.
//!
//! Which sessions are proven to be over is kept in the node's folder: whoever holds its lock is the only one
//! that runs there.

use std::collections::HashMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::connect::Bus;
use super::own::{Draft, Entry, NatsOwn, OwnBucket, OwnError, Wrote};
use crate::cluster::Asked;
use crate::cluster::Owned;
use crate::health::BackHealth;
use crate::ledger::Writer;
use crate::spawn::spawn;
use crate::state::{FolderLock, StateError, clock};
use crate::telemetry;

/// The key lives so long after its last renewal (whole seconds, ADR-43:
/// <https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-43.md>).
const LIVES: Duration = Duration::from_secs(4);
/// Between two renewals, and how long one may take.
const RENEW_EVERY: Duration = Duration::from_millis(800);
/// Without a renewal for so long a node gives no permits.
const LOST_AFTER: Duration = Duration::from_millis(2400);
/// After renewals were missed others may have missed theirs too: nobody counts as gone before this has passed.
const STEADY_AFTER: Duration = Duration::from_secs(2);
/// What was seen of another session holds so long.
const SEEN_HOLDS: Duration = Duration::from_secs(1);
/// Other sessions remembered; more are looked for each time.
const SEEN_MAX: usize = 1024;
/// Earlier sessions that a folder remembers. One before those counts as silent, which only waits longer.
const BEFORE_MAX: usize = 64;
const NO_ANSWER: &str = "the session's key: no answer in time";

/// How long a session's key lives without a renewal, and what follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Whole seconds.
    lives: Duration,
    renew_every: Duration,
    lost_after: Duration,
}

impl Lease {
    /// One that lives so long, in whole seconds: renewed five times in it, and its node gives no permits after
    /// three fifths of it without a renewal.
    pub fn of(lives: Duration) -> Self {
        let lives = Duration::from_secs(lives.as_secs().max(1));
        Self { lives, renew_every: lives / 5, lost_after: lives * 3 / 5 }
    }
}

impl Default for Lease {
    fn default() -> Self {
        Self { lives: LIVES, renew_every: RENEW_EVERY, lost_after: LOST_AFTER }
    }
}

/// The number of a session: 64 random bits, shown as 16 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(pub u64);

impl Serialize for SessionId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SessionId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("not 16 hex digits"))
    }
}

impl SessionId {
    /// One that nobody has had.
    pub fn draw() -> Self {
        Self(clock::random())
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        u64::from_str_radix(text.trim(), 16).ok().map(Self)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A node's folder as far as its sessions are concerned; nobody else has it while this is there.
#[derive(Debug)]
pub struct SessionFile {
    _lock: FolderLock,
    /// This session.
    pub id: SessionId,
    /// Those that ran here before: over, since their lock was free.
    pub before: Vec<SessionId>,
}

impl SessionFile {
    /// Locks a folder, which is made if it is not there, and draws a session that is on record before it is
    /// used. Blocks.
    ///
    /// # Errors
    /// Another process has the folder, or it cannot be written.
    pub fn open(folder: &Path) -> Result<Self, StateError> {
        let io = |source| StateError::Io { path: folder.to_owned(), source };
        let lock = FolderLock::take(folder)?;
        let path = folder.join("sessions");
        let text = match std::fs::read_to_string(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
            text => text.unwrap_or_default(),
        };
        let all: Vec<SessionId> = text.lines().filter_map(SessionId::parse).collect();
        let before = all[all.len().saturating_sub(BEFORE_MAX)..].to_vec();
        let id = SessionId::draw();
        let lines: Vec<String> = before.iter().chain([&id]).map(SessionId::to_string).collect();
        let lines = lines.join("\n") + "\n";
        let unfinished = folder.join("sessions-new");
        let write = || {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).open(&unfinished)?;
            file.write_all(lines.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&unfinished, &path)?;
            File::open(folder)?.sync_all()
        };
        write().map_err(io)?;
        Ok(Self { _lock: lock, id, before })
    }
}

/// What a session tells of itself, as the value of its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// The node's name.
    pub node: String,
    /// The program's version.
    pub version: String,
    /// When it started.
    pub started: jiff::Timestamp,
    /// The hash of its limits in force.
    pub config: String,
}

/// The value of a session's key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Shown {
    #[serde(flatten)]
    pub(crate) about: About,
    /// Whether it takes partitions: it has started, and is not about to end.
    #[serde(default)]
    pub(crate) takes: bool,
    /// The hashes of limits that it goes by beside its own; nothing: it is of a version that knows of no others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) heeds: Option<Vec<String>>,
}

/// How a session fares.
#[derive(Debug, Clone, Copy)]
struct Fares {
    renewed: Asked,
    /// False once it was not renewed for [`LOST_AFTER`], until it is again.
    held: bool,
    /// The last renewal did not come through, or found the key gone.
    failing: bool,
    /// When it was first renewed after a failure; its start.
    steady_from: Instant,
    /// When it was first renewed after its lease had ended, or its key; its start.
    whole_from: Instant,
}

/// A session at work: renewed until it is dropped or ended.
#[derive(Debug)]
pub struct Session {
    inner: Arc<Inner>,
    renewing: JoinHandle<()>,
    /// Closed when the task is over, whatever ended it.
    over: watch::Receiver<()>,
}

#[derive(Debug)]
struct Inner {
    own: Arc<dyn OwnBucket>,
    id: SessionId,
    before: Vec<SessionId>,
    value: Mutex<Shown>,
    /// Of the last renewal; whoever holds this renews.
    revision: tokio::sync::Mutex<u64>,
    lease: Lease,
    owned: Owned,
    started: Instant,
    fares: watch::Sender<Fares>,
    seen: Mutex<HashMap<SessionId, (Instant, bool)>>,
}

/// How many sessions show themselves. One that was killed does for some seconds more. Needs the rights of a node.
///
/// # Errors
/// The server does not answer.
pub async fn living(bus: &Bus) -> Result<usize, SessionError> {
    let failed = |error: OwnError| SessionError(format!("the sessions: {error}"));
    let own = NatsOwn::open(bus).await.map_err(failed)?;
    let entries = own.lasts("n.*").await.map_err(failed)?;
    Ok(entries.iter().filter(|entry| entry.value.is_some()).count())
}

/// The same for whoever may not read their keys: those that ended within the last seconds count as well.
///
/// # Errors
/// The server does not answer.
pub async fn living_or_ended(bus: &Bus) -> Result<usize, SessionError> {
    let failed = |error: OwnError| SessionError(format!("the sessions: {error}"));
    let own = NatsOwn::open(bus).await.map_err(failed)?;
    Ok(own.keys("n.*").await.map_err(failed)?.len())
}

/// Why a session's key could not be written or read.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct SessionError(String);

/// How a renewal went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Renewed {
    /// The key was there.
    InTime,
    /// It had ended, or was gone. Those of others may have ended with it, through nobody's fault: the server's clock
    /// was set, the bucket was emptied, or this node came late.
    Anew,
}

/// The key of a session.
fn key(id: SessionId) -> String {
    format!("n.{id}")
}

impl Session {
    /// Shows a session, and ends the keys of those that ran in its folder before.
    ///
    /// # Errors
    /// The server does not take the key.
    pub async fn start(
        bus: &Bus,
        id: SessionId,
        before: Vec<SessionId>,
        about: &About,
    ) -> Result<Self, SessionError> {
        Self::start_with(bus, id, before, about, Lease::default(), Owned::default()).await
    }

    /// The same with another lease, and with somebody who is told how long it holds.
    ///
    /// # Errors
    /// The server does not take the key.
    pub async fn start_with(
        bus: &Bus,
        id: SessionId,
        before: Vec<SessionId>,
        about: &About,
        lease: Lease,
        owned: Owned,
    ) -> Result<Self, SessionError> {
        let own = NatsOwn::open(bus).await.map_err(|error| SessionError(error.to_string()))?;
        Self::start_on(Arc::new(own), id, before, about, lease, owned).await
    }

    /// The same on any bucket.
    pub(crate) async fn start_on(
        own: Arc<dyn OwnBucket>,
        id: SessionId,
        before: Vec<SessionId>,
        about: &About,
        lease: Lease,
        owned: Owned,
    ) -> Result<Self, SessionError> {
        let now = Instant::now();
        let fares = Fares {
            renewed: Asked::now(),
            held: true,
            failing: false,
            steady_from: now,
            whole_from: now,
        };
        let inner = Arc::new(Inner {
            own,
            id,
            before,
            // Whoever starts at the same moment waits for this one, or this one for it: the later of both sees
            // the other.
            value: Mutex::new(Shown {
                about: about.clone(),
                takes: false,
                heeds: Some(Vec::new()),
            }),
            revision: tokio::sync::Mutex::new(0),
            lease,
            owned,
            started: now,
            fares: watch::Sender::new(fares),
            seen: Mutex::default(),
        });
        inner.renew_once().await?;
        for gone in &inner.before {
            if inner.last(*gone).await?.is_some_and(|(_, lives)| lives) {
                inner.end(*gone).await?;
            }
        }
        telemetry::session_started(&id.to_string());
        let (alive, over) = watch::channel(());
        let keeping = Arc::clone(&inner).keep();
        let renewing = spawn(async move {
            let _alive = alive;
            keeping.await;
        });
        Ok(Self { inner, renewing, over })
    }

    /// Waits until it is renewed no more, which only a panic or [`Session::end`] does: its key and its lease end then,
    /// and the node is of no use.
    pub async fn died(&self) {
        let mut over = self.over.clone();
        while over.changed().await.is_ok() {}
        telemetry::session_died(&self.inner.id.to_string());
    }

    /// Tells others at once whether it takes partitions.
    ///
    /// # Errors
    /// The server does not answer; a later renewal tells it.
    pub async fn takes(&self, takes: bool) -> Result<(), SessionError> {
        self.inner.value().takes = takes;
        let renewed = timeout(RENEW_EVERY, self.inner.renew_once()).await;
        renewed.unwrap_or_else(|_| Err(SessionError(NO_ANSWER.into()))).map(drop)
    }

    /// Renews now. False if this session's own key had ended: others that seem to have ended may live.
    pub(crate) async fn confirm(&self) -> Result<bool, SessionError> {
        let renewed = timeout(RENEW_EVERY, self.inner.renew_once()).await;
        let renewed = renewed.unwrap_or_else(|_| Err(SessionError(NO_ANSWER.into())))?;
        Ok(renewed == Renewed::InTime)
    }

    /// The bucket in which it shows itself.
    pub(crate) fn own(&self) -> &Arc<dyn OwnBucket> {
        &self.inner.own
    }

    /// Tells others at once by which limits it goes: its own, and those beside them.
    ///
    /// # Errors
    /// The server does not answer; a later renewal tells it.
    pub async fn heeds(&self, config: String, others: Vec<String>) -> Result<(), SessionError> {
        {
            let mut value = self.inner.value();
            value.about.config = config;
            value.heeds = Some(others);
        }
        let renewed = timeout(RENEW_EVERY, self.inner.renew_once()).await;
        renewed.unwrap_or_else(|_| Err(SessionError(NO_ANSWER.into()))).map(drop)
    }

    /// Whether it has told others that it takes partitions.
    pub(crate) fn is_taking(&self) -> bool {
        self.inner.value().takes
    }

    /// The name of its node.
    pub(crate) fn node(&self) -> String {
        self.inner.value().about.node.clone()
    }

    /// Those that ran in its folder before.
    pub(crate) fn before(&self) -> &[SessionId] {
        &self.inner.before
    }

    /// Since when it has been renewed in time; nothing while it is not. Its start, if it always was.
    pub(crate) fn steady_since(&self) -> Option<Instant> {
        let fares = *self.inner.fares.borrow();
        (fares.held && !fares.failing).then_some(fares.steady_from)
    }

    /// Since when its lease has held without a break, however late it was renewed; nothing while it does not. Its
    /// start, if it always did.
    pub(crate) fn whole_since(&self) -> Option<Instant> {
        let fares = *self.inner.fares.borrow();
        fares.held.then_some(fares.whole_from)
    }

    /// The last entry of a session's key as the leader has it, if it lives: its revision, and whether it takes
    /// partitions. One that cannot be read is of another version: it lives, and takes none that we know of. What was
    /// seen of it is forgotten.
    pub(crate) async fn ask(&self, id: SessionId) -> Result<Option<(u64, bool)>, SessionError> {
        let last = self.inner.last_shown(id).await?;
        let living = last.and_then(|last| Some((last.revision, last.value?)));
        self.inner.seen().insert(id, (Instant::now(), living.is_some()));
        Ok(living.map(|(revision, value)| {
            let shown = serde_json::from_slice::<Shown>(&value);
            (revision, shown.is_ok_and(|shown| shown.takes))
        }))
    }

    /// Waits for the next renewal, or for the moment when they fail.
    pub(crate) fn follow(&self) -> impl Future<Output = ()> + use<> {
        let mut fares = self.inner.fares.subscribe();
        async move {
            let is =
                |fares: &Fares| (fares.held, fares.failing, fares.steady_from, fares.whole_from);
            let before = is(&fares.borrow_and_update());
            // Ends with the session, as whoever asks does.
            let _changed = fares.wait_for(|fares| is(fares) != before).await.is_ok();
        }
    }

    /// How long its key lives without a renewal.
    pub(crate) fn lease(&self) -> Duration {
        self.inner.lease.lives
    }

    /// Its number.
    pub fn id(&self) -> SessionId {
        self.inner.id
    }

    /// When it began, on the clock that nobody sets.
    pub fn started(&self) -> Instant {
        self.inner.started
    }

    /// Whether it was renewed within the last 2.4 s, or three fifths of its lease.
    pub fn is_held(&self) -> bool {
        self.inner.fares.borrow().held
    }

    /// What is known of a session: this one, one that ran here before, one that shows itself, or none of these.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn look(&self, id: SessionId) -> Result<Writer, SessionError> {
        let inner = &self.inner;
        if id == inner.id {
            return Ok(Writer::Here);
        }
        if inner.before.contains(&id) {
            return Ok(Writer::Dead);
        }
        let known = inner.seen().get(&id).copied();
        let lives = match known {
            Some((at, lives)) if at.elapsed() < SEEN_HOLDS => lives,
            _ => {
                let at = Instant::now();
                let lives = inner.last(id).await?.is_some_and(|(_, lives)| lives);
                let mut seen = inner.seen();
                if seen.len() >= SEEN_MAX {
                    seen.retain(|_, (at, _)| at.elapsed() < SEEN_HOLDS);
                }
                if seen.len() < SEEN_MAX {
                    seen.insert(id, (at, lives));
                }
                lives
            }
        };
        let fares = *inner.fares.borrow();
        let steady = fares.held && fares.steady_from.elapsed() >= STEADY_AFTER;
        let never_failed = fares.steady_from == inner.started && fares.held;
        Ok(if lives || !(steady || never_failed) { Writer::Alive } else { Writer::Silent })
    }

    /// Keeps `health` told: away while the connection is down or this session is not renewed. Ends with the
    /// session.
    pub fn watch(&self, health: Arc<BackHealth>) -> JoinHandle<()> {
        let (mut link, mut fares) = (self.inner.own.link(), self.inner.fares.subscribe());
        spawn(async move {
            loop {
                let away = !link.borrow_and_update().up || !fares.borrow_and_update().held;
                health.set_away(away);
                let changed = tokio::select! {
                    changed = link.changed() => changed,
                    changed = fares.changed() => changed,
                };
                if changed.is_err() {
                    return;
                }
            }
        })
    }

    /// Takes its key away: others need not wait for it to end by itself.
    ///
    /// # Errors
    /// The server does not answer; the key ends by itself then.
    pub async fn end(&self) -> Result<(), SessionError> {
        self.renewing.abort();
        self.inner.end(self.inner.id).await
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

impl Inner {
    fn seen(&self) -> std::sync::MutexGuard<'_, HashMap<SessionId, (Instant, bool)>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn value(&self) -> std::sync::MutexGuard<'_, Shown> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn keep(self: Arc<Self>) {
        let mut ticks = interval(self.lease.renew_every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            // The client's own patience is longer; what comes through late is found by the next renewal.
            let before = *self.fares.borrow();
            if let Ok(Ok(renewed)) = timeout(self.lease.renew_every, self.renew_once()).await {
                // Late is as bad as failed: the others may have been stopped as well.
                let failed = before.failing || before.renewed.elapsed() >= self.lease.lost_after;
                self.fares.send_modify(|fares| {
                    fares.held = true;
                    if renewed == Renewed::InTime {
                        fares.failing = false;
                        fares.steady_from = if failed { Instant::now() } else { fares.steady_from };
                    }
                });
                if !before.held {
                    telemetry::session_back(before.renewed.elapsed());
                }
            } else {
                self.fares.send_modify(|fares| fares.failing = true);
                let fares = *self.fares.borrow();
                if fares.held && fares.renewed.elapsed() >= self.lease.lost_after {
                    self.fares.send_replace(Fares { held: false, ..fares });
                    let asked = timeout(self.lease.renew_every, self.own.last(key(self.id))).await;
                    let missing = matches!(asked, Ok(Err(error)) if error.missing);
                    telemetry::session_lost(fares.renewed.elapsed(), missing);
                }
            }
        }
    }

    /// Renews, and tells how long the lease holds from the moment of asking.
    async fn renew_once(&self) -> Result<Renewed, SessionError> {
        let mut revision = self.revision.lock().await;
        let asked = Asked::now();
        let (at, renewed) = self.renew(*revision).await?;
        *revision = at;
        self.owned.renewed(asked, self.lease.lost_after);
        self.fares.send_modify(|fares| {
            if renewed == Renewed::Anew || fares.renewed.elapsed() >= self.lease.lost_after {
                fares.whole_from = Instant::now();
            }
            if asked.at > fares.renewed.at {
                fares.renewed = asked;
            }
            fares.failing |= renewed == Renewed::Anew;
        });
        if renewed == Renewed::Anew {
            telemetry::session_anew(&self.id.to_string());
            // So may the claims be.
            self.owned.look_again();
        }
        Ok(renewed)
    }

    /// Writes the key over `revision`, or over what is there now: it is this session's whatever happened.
    async fn renew(&self, mut revision: u64) -> Result<(u64, Renewed), SessionError> {
        let was_shown = revision > 0;
        let mut renewed = Renewed::InTime;
        for _ in 0..3 {
            let value = serde_json::to_vec(&*self.value()).expect("names and a time are JSON");
            match self.write(self.id, Some(value), self.lease.lives, revision).await? {
                Wrote::At(revision) => return Ok((revision, renewed)),
                Wrote::Replaced => {
                    let last = self.last(self.id).await?;
                    revision = last.map_or(0, |(revision, _)| revision);
                    let lives = last.is_some_and(|(_, lives)| lives);
                    renewed = if was_shown && !lives { Renewed::Anew } else { Renewed::InTime };
                }
            }
        }
        Err(SessionError("somebody else writes the key of this session".into()))
    }

    async fn end(&self, id: SessionId) -> Result<(), SessionError> {
        for _ in 0..3 {
            let Some((revision, true)) = self.last(id).await? else { return Ok(()) };
            if let Wrote::At(_) = self.write(id, None, LIVES, revision).await? {
                return Ok(());
            }
        }
        Err(SessionError(format!("the session {id} is renewed again and again")))
    }

    async fn write(
        &self,
        id: SessionId,
        value: Option<Vec<u8>>,
        lives: Duration,
        revision: u64,
    ) -> Result<Wrote, SessionError> {
        let (key, value, lives) = (key(id), value.map(Into::into), Some(lives));
        let wrote = self.own.write(Draft { key, value, lives, expected: revision });
        wrote.await.map_err(|error| SessionError(format!("the session's key: {error}")))
    }

    /// The last entry of a session's key, from the leader: its revision, and whether it says that it lives.
    async fn last(&self, id: SessionId) -> Result<Option<(u64, bool)>, SessionError> {
        let found = self.last_shown(id).await?;
        Ok(found.map(|last| (last.revision, last.value.is_some())))
    }

    async fn last_shown(&self, id: SessionId) -> Result<Option<Entry>, SessionError> {
        let found = self.own.last(key(id)).await;
        found.map_err(|error| SessionError(format!("the session {id}: {error}")))
    }
}

#[cfg(test)]
mod tests;
