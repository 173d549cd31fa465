//! Doing what is decided: follows the bucket of sessions and claims, writes this node's claims, and gives
//! partitions out of hand one by one as soon as nothing is in flight in them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::board::{Board, Claim, Seen, UNREADABLE, key};
use super::decide::{Member, Moves, View, Wanted, decide};
use super::{Owned, Owners, Parts};
use crate::nats::PARTITIONS;
use crate::nats::own::{Changes, Draft, Entry, OwnBucket, OwnError, Wrote};
use crate::nats::session::{Session, SessionError, SessionId};
use crate::spawn::spawn;
use crate::telemetry;

/// How long one step with the server may take before it is tried again.
const STEP_WITHIN: Duration = Duration::from_secs(2);
/// Between two tries of what the server did not take or answer.
const AGAIN: Duration = Duration::from_millis(250);
/// This session's own renewals are seen by the watch. Without one for so long, and for two of them, it is made anew.
const WATCH_SILENT: Duration = Duration::from_secs(4);
/// Between two tries to make it anew, at most.
const WATCH_AGAIN_MAX: Duration = Duration::from_secs(4);
/// Between two looks at whether what is given out of hand is quiet.
const QUIET_LOOK: Duration = Duration::from_millis(5);
/// What could not be given out of hand is not tried again for so long the first time, and for twice as long each
/// further time, up to the second.
const KEPT_FIRST: Duration = Duration::from_secs(60);
const KEPT_MAX: Duration = Duration::from_secs(600);
/// The longest sleep.
const LOOK_EVERY: Duration = Duration::from_secs(15);
/// Questions to the leader on their way at once.
const ASKS: usize = 16;
/// Entries taken together before anything is decided.
const ENTRIES_AT_ONCE: usize = 1024;
/// How often the bucket is tried to be followed by a node that joins.
const JOINS_MAX: u32 = 10;
/// Decisions one after the other before anything else is heard.
const ACTS_AT_ONCE: usize = 8;

/// Who works in the partitions of this node.
pub trait Hands: Send + Sync + 'static {
    /// What is owned has changed: accounts in these look again, or end.
    fn changed(&self, parts: Parts);

    /// Those of these in which nothing is in flight, nobody works, and the last records are written.
    fn quiet(&self, parts: Parts) -> BoxFuture<'static, Parts>;
}

/// What a keeper goes by.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// So long no permits are given in a partition that is wanted elsewhere, for its calls in flight to end.
    /// Then it is kept, and tried again later.
    pub handover: Duration,
}

impl Default for Terms {
    fn default() -> Self {
        Self { handover: Duration::from_secs(10) }
    }
}

/// Why a node cannot join.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct KeeperError(String);

impl From<SessionError> for KeeperError {
    fn from(error: SessionError) -> Self {
        Self(error.to_string())
    }
}

fn failed(error: impl fmt::Display) -> KeeperError {
    KeeperError(format!("the claims of partitions: {error}"))
}

enum Order {
    Hands(Arc<dyn Hands>),
    Leave(Duration, oneshot::Sender<()>),
}

/// Keeps what this node owns. It ends with this.
#[derive(Debug)]
pub struct Keeper {
    orders: mpsc::Sender<Order>,
    task: JoinHandle<()>,
    /// Closed when the task is over, whatever ended it.
    over: watch::Receiver<()>,
}

impl Keeper {
    /// Joins the cluster: tells others, claims what is free for this node, and goes on by itself. When it returns
    /// the first claims are made.
    ///
    /// # Errors
    /// The server does not answer.
    pub async fn join(
        session: Arc<Session>,
        owned: Owned,
        terms: Terms,
    ) -> Result<Self, KeeperError> {
        let own = Arc::clone(session.own());
        let before = session.before().to_vec();
        session.takes(true).await?;
        let (orders, received) = mpsc::channel(8);
        let mut work = Work {
            own,
            session,
            owned,
            terms,
            started: Instant::now(),
            before,
            board: Board::default(),
            wanted: Wanted::default(),
            hands: None,
            closing_until: BTreeMap::new(),
            kept: BTreeMap::new(),
            leaving: None,
            again_at: None,
            unsure: Parts::NONE,
            unsure_at: None,
            watch_again_at: None,
            watch_wait: AGAIN,
            warned: false,
        };
        let mut tries = 1..JOINS_MAX;
        let watch = loop {
            match work.watch().await {
                Err(_) if tries.next().is_some() => sleep(AGAIN).await,
                watch => break watch.map_err(failed)?,
            }
        };
        // Its own first lease is no lapse: nothing was claimed before it.
        let _lapse = work.owned.lapsed().now_or_never();
        work.act().await;
        let (alive, over) = watch::channel(());
        let task = spawn(async move {
            let _alive = alive;
            work.run(watch, received).await;
        });
        Ok(Self { orders, task, over })
    }

    /// From now on these give partitions out of hand, and hear of what is owned.
    pub async fn work_with(&self, hands: Arc<dyn Hands>) {
        // Gone only if its session is, and with it the node.
        let _sent = self.orders.send(Order::Hands(hands)).await;
    }

    /// Waits until nothing is kept any more, which it never should: the node claims, gives up and loses nothing then,
    /// and is of no use.
    pub async fn died(&self) {
        let mut over = self.over.clone();
        while over.changed().await.is_ok() {}
        telemetry::keeper_died();
    }

    /// Gives everything up: each partition as soon as nothing is in flight in it, all others after `within`. Claims
    /// that the server does not take back end with the session.
    pub async fn leave(&self, within: Duration) {
        let (done, left) = oneshot::channel();
        if self.orders.send(Order::Leave(within, done)).await.is_ok() {
            // An error: the task is gone.
            let _left = timeout(within + STEP_WITHIN * 2, left).await;
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Work {
    own: Arc<dyn OwnBucket>,
    session: Arc<Session>,
    owned: Owned,
    terms: Terms,
    started: Instant,
    before: Vec<SessionId>,
    board: Board,
    wanted: Wanted,
    hands: Option<Arc<dyn Hands>>,
    /// What is closing may take until then, each partition for itself.
    closing_until: BTreeMap<u32, Instant>,
    /// What could not be given out of hand, each partition for itself.
    kept: BTreeMap<u32, Kept>,
    leaving: Option<(Instant, oneshot::Sender<()>)>,
    /// The server did not take or answer something.
    again_at: Option<Instant>,
    /// What was worked in before the lease lapsed, and may be another's by now: the next try to ask.
    unsure: Parts,
    unsure_at: Option<Instant>,
    /// The bucket is not followed: the next try, and how long to wait after it.
    watch_again_at: Option<Instant>,
    watch_wait: Duration,
    /// It was told that an entry cannot be read.
    warned: bool,
}

/// A partition that could not be given out of hand.
#[derive(Debug, Clone, Copy)]
struct Kept {
    /// It is not tried again before; nothing: it may be now.
    until: Option<Instant>,
    /// How long it is kept the next time.
    next: Duration,
}

/// What came of the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Took {
    /// `is_news`: something is otherwise now.
    Entry { is_news: bool },
    /// It is not followed any more.
    End,
}

impl Took {
    /// Both, one after the other.
    fn and(self, next: Self) -> Self {
        match (self, next) {
            (Self::Entry { is_news }, Self::Entry { is_news: more }) => {
                Self::Entry { is_news: is_news || more }
            }
            (_, Self::End) | (Self::End, _) => Self::End,
        }
    }
}

impl Work {
    /// Follows the bucket: all that is there first, onto a board made anew.
    async fn watch(&mut self) -> Result<Changes, OwnError> {
        let opened = timeout(STEP_WITHIN, self.own.follow()).await;
        let opened = opened.unwrap_or_else(|_| Err(OwnError::no_answer()))?;
        let mut board = self.board.anew();
        for entry in &opened.there {
            board.note(entry);
        }
        // There is one: this session's own key.
        if let Some(last) = opened.there.last() {
            board.begins_at_most(last.revision);
        }
        self.board = board;
        self.warn();
        Ok(opened.changes)
    }

    /// Says once that another version is at work, in the other's words unknown.
    fn warn(&mut self) {
        if let Some(key) = self.board.take_unreadable()
            && !std::mem::replace(&mut self.warned, true)
        {
            telemetry::claim_unreadable(&key);
        }
    }

    async fn run(mut self, watch: Changes, mut orders: mpsc::Receiver<Order>) {
        let mut watch = Some(watch);
        let mut link = self.own.link();
        let mut made = link.borrow_and_update().times;
        let mut heard = Instant::now();
        let mut turned = Instant::now();
        let silent = WATCH_SILENT.max(self.session.lease() * 2 / 5);
        loop {
            let fares = self.session.follow();
            let silent_at = watch.as_ref().map(|_| heard + silent);
            let (look_at, rests) = self.look_at(turned + LOOK_EVERY);
            let look_at = silent_at.into_iter().fold(look_at, Instant::min);
            let mut ended = false;
            tokio::select! {
                biased;
                entry = next(&mut watch) => {
                    let mut took = self.take_entry(entry);
                    for _ in 0..ENTRIES_AT_ONCE {
                        let Took::Entry { .. } = took else { break };
                        let Some(entry) = next(&mut watch).now_or_never() else { break };
                        took = took.and(self.take_entry(entry));
                    }
                    self.warn();
                    heard = Instant::now();
                    if took == (Took::Entry { is_news: false }) && rests && look_at > heard {
                        // Renewals of others, nearly all there is: what was decided holds.
                        continue;
                    }
                    ended = took == Took::End;
                }
                () = fares => {}
                order = orders.recv() => match order {
                    Some(Order::Hands(hands)) => {
                        hands.changed(Parts::ALL);
                        self.hands = Some(hands);
                        // What could not be given out of hand before now can be.
                        self.kept.clear();
                    }
                    Some(Order::Leave(within, done)) => self.begin_to_leave(within, done).await,
                    None => return,
                },
                changed = link.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let times = link.borrow_and_update().times;
                    ended = times != made;
                    made = times;
                }
                // Behind these: while the claims cannot be asked it is tried again and again.
                () = self.owned.lapsed() => {
                    (self.unsure, self.unsure_at) = (self.owned.ours(), Some(Instant::now()));
                }
                () = sleep_until(look_at) => {
                    ended = silent_at.is_some_and(|at| at <= Instant::now());
                }
            }
            turned = Instant::now();
            if ended {
                watch = None;
                self.watch_again_at = Some(Instant::now());
            }
            // Once in each turn: whatever else there is to do goes on meanwhile.
            if watch.is_none() && self.may_watch() {
                watch = self.watch_again().await;
                heard = Instant::now();
            }
            if self.unsure_at.is_some_and(|at| at <= Instant::now()) {
                self.look_anew().await;
            }
            self.act().await;
            self.give_out().await;
            self.show_owners();
            if self.leaving.is_some() && self.owned.ours().is_empty() {
                self.left();
            }
        }
    }

    /// When the bucket is followed anew; if the connection is down, that it is back is heard of.
    fn watches_at(&self) -> Option<Instant> {
        self.watch_again_at.filter(|_| self.own.link().borrow().up)
    }

    fn may_watch(&self) -> bool {
        self.watches_at().is_some_and(|at| at <= Instant::now())
    }

    async fn watch_again(&mut self) -> Option<Changes> {
        match self.watch().await {
            Ok(watch) => {
                (self.watch_again_at, self.watch_wait) = (None, AGAIN);
                Some(watch)
            }
            Err(error) => {
                telemetry::claims_unseen(&error.what, error.missing);
                self.watch_again_at = Some(Instant::now() + self.watch_wait);
                self.watch_wait = (self.watch_wait * 2).min(WATCH_AGAIN_MAX);
                None
            }
        }
    }

    fn take_entry<E>(&mut self, entry: Option<Result<Entry, E>>) -> Took {
        match entry {
            Some(Ok(entry)) => Took::Entry { is_news: self.board.note(&entry) },
            Some(Err(_)) | None => Took::End,
        }
    }

    /// When there is something to do though nothing is heard, at `far` if not before; and whether nothing is until
    /// then.
    fn look_at(&mut self, far: Instant) -> (Instant, bool) {
        let is_closing = !self.owned.closing().is_empty();
        let closing = is_closing.then(|| Instant::now() + QUIET_LOOK);
        let (view, now) = (self.view(), self.started.elapsed());
        let moves = decide(&view, now, &mut self.wanted);
        let rests = !is_closing && moves == Moves { look_at: moves.look_at, ..Moves::default() };
        let decided = moves.look_at.map(|at| self.started + at);
        let doubted = self.board.renewed_first(self.session.id());
        let doubted = doubted.map(|at| at + self.session.lease()).max(self.again_at);
        let kept = self.kept.values().filter_map(|kept| kept.until).min();
        let (again, unsure, watches) = (self.again_at, self.unsure_at, self.watches_at());
        let all = [closing, kept, again, unsure, decided, doubted, watches];
        (all.into_iter().flatten().fold(far, Instant::min), rests)
    }

    fn view(&self) -> View {
        let members = self.board.members.iter().map(|(id, shows)| (*id, shows.member));
        let members = members.chain([(UNREADABLE, Member { takes: false })]);
        let claims = self.board.claims.map(|seen| seen.owner);
        let ours = self.owned.ours();
        let since = |at: Instant| at.saturating_duration_since(self.started);
        View {
            me: self.session.id(),
            takes: self.session.is_taking() && self.leaving.is_none(),
            members: members.collect(),
            over: self.before.iter().copied().collect(),
            claims,
            ours,
            closing: self.owned.closing(),
            kept: self.kept().collect(),
            steady_since: self.session.steady_since().map(since),
            whole_since: self.session.whole_since().map(since),
        }
    }

    /// What is not tried to be given out of hand now.
    fn kept(&self) -> impl Iterator<Item = u32> {
        self.kept.iter().filter(|(_, kept)| kept.until.is_some()).map(|(part, _)| *part)
    }

    /// Tells who is seen to own what.
    fn show_owners(&self) {
        let me = self.session.id();
        let mut others = self.board.members.iter().filter(|(id, _)| **id != me);
        let is_alone = !others.any(|(_, shows)| shows.member.takes);
        self.owned.see(&Owners { of: self.board.claims.map(|seen| seen.owner), is_alone });
    }

    /// Decides and does it, until there is nothing more to do now.
    async fn act(&mut self) {
        self.show_owners();
        for _ in 0..ACTS_AT_ONCE {
            if !self.act_once().await {
                return;
            }
        }
    }

    /// Whether something else was seen by it.
    async fn act_once(&mut self) -> bool {
        let now = Instant::now();
        for kept in self.kept.values_mut() {
            kept.until = kept.until.filter(|until| *until > now);
        }
        if self.again_at.is_some_and(|at| at <= now) {
            self.again_at = None;
        }
        self.doubt().await;
        let view = self.view();
        let moves = decide(&view, self.started.elapsed(), &mut self.wanted);
        let Moves { take, adopt, lose, give_up, keep, .. } = moves;
        let keep = keep - self.unsure;
        if !lose.is_empty() {
            self.owned.lose(lose);
            self.changed(lose);
            telemetry::partitions_lost(lose);
        }
        if !keep.is_empty() {
            self.gain(keep);
        }
        if !adopt.is_empty() && self.again_at.is_none() {
            self.adopt(adopt).await;
        }
        if !give_up.is_empty() {
            self.owned.close(give_up);
            self.changed(give_up);
            let until = now + self.terms.handover;
            self.closing_until.extend(give_up.iter().map(|part| (part, until)));
        }
        let may_take = self.again_at.is_none() && self.owned.holds();
        !take.is_empty() && may_take && self.take(take).await
    }

    /// Asks the leader for whom the watch has not shown to renew for as long as a lease lives.
    async fn doubt(&mut self) {
        let Some(before) = Instant::now().checked_sub(self.session.lease()) else { return };
        for id in self.board.silent_since(before) {
            if id == self.session.id() {
                continue;
            }
            if self.again_at.is_some() {
                return;
            }
            match timeout(STEP_WITHIN, self.session.ask(id)).await {
                Ok(Ok(found)) => {
                    let shown = found.map(|(revision, takes)| (revision, Member { takes }));
                    if shown.is_none() {
                        telemetry::session_over(&id.to_string());
                    }
                    self.board.note_certain(id, shown);
                }
                Ok(Err(_)) | Err(_) => self.try_again(),
            }
        }
    }

    /// The watch shows claims of this node that it does not work in. The leader says whether they are: a replica may
    /// show one that was given up long ago.
    ///
    /// They are claimed once more: this node may have written that it gives them up without a confirmation, and that
    /// could still come through over a claim that is worked in.
    async fn adopt(&mut self, parts: Parts) {
        let me = self.claim_of_this();
        let mut still = Parts::NONE;
        for part in parts.iter() {
            let Ok(seen) = self.claim_anew(part, &me).await else {
                self.try_again();
                break;
            };
            self.board.note_claim(part, seen);
            if seen.owner == me.session {
                still |= Parts::one(part);
            }
        }
        if !still.is_empty() {
            self.gain(still);
        }
    }

    /// Writes a claim of this node over itself: what others, or this node, have sent before does not come through over
    /// it any more. What is there then: this node's, written anew, or another's.
    async fn claim_anew(&self, part: u32, me: &Claim) -> Result<Seen, KeeperError> {
        let seen = self.ask(part).await?;
        if seen.owner != me.session {
            return Ok(seen);
        }
        let anew = self.write(part, me, seen.revision).await?;
        if anew.owner == me.session && anew.revision == seen.revision {
            return Err(failed("it was not written"));
        }
        Ok(anew)
    }

    fn claim_of_this(&self) -> Claim {
        Claim { session: Some(self.session.id()), node: self.session.node() }
    }

    fn changed(&self, parts: Parts) {
        if let Some(hands) = &self.hands {
            hands.changed(parts);
        }
    }

    fn gain(&self, parts: Parts) {
        let new = parts - self.owned.ours();
        self.owned.gain(parts);
        self.changed(parts);
        if !new.is_empty() {
            telemetry::partitions_gained(new, self.owned.ours());
        }
    }

    /// Claims these. True if it has to be decided anew first.
    async fn take(&mut self, parts: Parts) -> bool {
        let owners = parts.iter().filter_map(|part| self.board.claims[part as usize].owner);
        let mut owners: Vec<SessionId> = owners.collect();
        owners.sort_unstable();
        owners.dedup();
        owners.retain(|owner| !self.before.contains(owner));
        // A watch may be behind: who is taken from is asked for where it is certain.
        for owner in &owners {
            match timeout(STEP_WITHIN, self.session.ask(*owner)).await {
                Ok(Ok(Some((revision, takes)))) => {
                    self.board.note_certain(*owner, Some((revision, Member { takes })));
                    return true;
                }
                Ok(Ok(None)) => {}
                Ok(Err(_)) | Err(_) => {
                    self.try_again();
                    return false;
                }
            }
        }
        // If all leases ended at once, this node's has as well.
        if !owners.is_empty() && !self.session.confirm().await.is_ok_and(|in_time| in_time) {
            self.try_again();
            return false;
        }
        let claims = &self.board.claims;
        let wanted: Vec<(u32, u64)> =
            parts.iter().map(|part| (part, claims[part as usize].revision)).collect();
        let me = self.claim_of_this();
        let this = &*self;
        let taking = stream::iter(wanted)
            .map(|(part, revision)| {
                let me = &me;
                async move { (part, this.write(part, me, revision).await) }
            })
            .buffer_unordered(PARTITIONS as usize);
        let taken: Vec<(u32, Result<Seen, KeeperError>)> = taking.collect().await;
        let mut gained = Parts::NONE;
        for (part, answer) in taken {
            match answer {
                Ok(seen) => {
                    self.board.note_claim(part, seen);
                    if seen.owner == Some(self.session.id()) {
                        gained |= Parts::one(part);
                    }
                }
                Err(_) => self.try_again(),
            }
        }
        if !gained.is_empty() {
            self.gain(gained);
        }
        false
    }

    fn try_again(&mut self) {
        self.again_at = Some(Instant::now() + AGAIN);
    }

    /// Writes a claim over the one of `revision`. What is there then: this one, or another's.
    async fn write(&self, part: u32, claim: &Claim, revision: u64) -> Result<Seen, KeeperError> {
        if !self.own.link().borrow().up {
            // Sent now it would come through when nobody wants it any more.
            return Err(failed("the connection to NATS is down"));
        }
        let value = serde_json::to_vec(claim).expect("a name and a number are JSON");
        let (key, value) = (key(part), Some(value.into()));
        let draft = Draft { key, value, lives: None, expected: revision };
        match timeout(STEP_WITHIN, self.own.write(draft)).await {
            Ok(Ok(Wrote::At(revision))) => Ok(Seen { owner: claim.session, revision }),
            // Another's, or it may have come through.
            Ok(Ok(Wrote::Replaced) | Err(_)) | Err(_) => self.ask(part).await,
        }
    }

    /// A claim as the leader has it.
    async fn ask(&self, part: u32) -> Result<Seen, KeeperError> {
        let asking = timeout(STEP_WITHIN, self.own.last(key(part)));
        let last = asking.await.map_err(|_| failed("no answer in time"))?.map_err(failed)?;
        Ok(last.as_ref().map_or_else(Seen::default, Seen::of))
    }

    /// The lease has come back after a lapse: what this node worked in may be another's by now. What cannot be asked
    /// in time is asked again, after everything else was heard.
    ///
    /// What is still this node's is claimed once more: while its session's key was gone another may have sent a claim
    /// that is still on its way.
    async fn look_anew(&mut self) {
        (self.unsure, self.unsure_at) = (self.unsure & self.owned.ours(), None);
        if self.unsure.is_empty() {
            return;
        }
        let (mut still, mut lost) = (Parts::NONE, Parts::NONE);
        let (this, until) = (&*self, Instant::now() + STEP_WITHIN);
        let me = &self.claim_of_this();
        let mut asking = stream::iter(self.unsure.iter())
            .map(|part| async move { (part, this.claim_anew(part, me).await) })
            .buffer_unordered(ASKS);
        let mut seen_now = Vec::new();
        while let Ok(Some((part, answer))) = timeout_at(until, asking.next()).await {
            let Ok(seen) = answer else { continue };
            let one = Parts::one(part);
            // Each at once: one answer that is lost holds up no other partition.
            if seen.owner == me.session {
                still |= one;
                // What is given out of hand goes on to be.
                this.owned.gain(one - this.owned.closing());
            } else {
                lost |= one;
                this.owned.lose(one);
            }
            this.changed(one);
            seen_now.push((part, seen));
        }
        drop(asking);
        for (part, seen) in seen_now {
            self.board.note_claim(part, seen);
        }
        if !lost.is_empty() {
            telemetry::partitions_lost(lost);
        }
        self.unsure -= still | lost;
        if !self.unsure.is_empty() {
            self.unsure_at = Some(Instant::now() + AGAIN);
        }
    }

    async fn begin_to_leave(&mut self, within: Duration, done: oneshot::Sender<()>) {
        let until = Instant::now() + within;
        self.leaving = Some((until, done));
        let ours = self.owned.ours();
        self.owned.close(ours);
        self.changed(ours);
        self.closing_until = ours.iter().map(|part| (part, until)).collect();
        self.kept.clear();
        // While the accounts end, and before anything is free: whoever hears of it computes without this node.
        let _told = self.session.takes(false).await.is_ok();
    }

    /// Gives out of hand what is quiet by now.
    async fn give_out(&mut self) {
        let closing = self.owned.closing();
        self.closing_until.retain(|part, _| closing.has(*part));
        let ours = self.owned.ours();
        self.kept.retain(|part, _| ours.has(*part));
        if closing.is_empty() {
            return;
        }
        let quiet = match &self.hands {
            Some(hands) => hands.quiet(closing).await & closing,
            // Who works in them already, while the node starts, is not known yet.
            None => Parts::NONE,
        };
        if !quiet.is_empty() {
            self.free(quiet).await;
        }
        let left = closing - quiet;
        let now = Instant::now();
        let is_late = |part: &u32| self.closing_until.get(part).is_none_or(|until| *until <= now);
        let late: Parts = left.iter().filter(is_late).collect();
        if late.is_empty() {
            return;
        }
        if self.leaving.is_some() {
            // Their calls are broken off: the records say which, and the next owner counts them.
            self.free(late).await;
        } else {
            // What may be another's is not opened again.
            let late = late - self.unsure;
            for part in late.iter() {
                let lasts = self.kept.get(&part).map_or(KEPT_FIRST, |kept| kept.next);
                let next = (lasts * 2).min(KEPT_MAX);
                self.kept.insert(part, Kept { until: Some(now + lasts), next });
            }
            if !late.is_empty() {
                telemetry::partitions_kept(late);
                self.gain(late);
            }
        }
    }

    /// Takes this node's claims back: the next owner is woken by it.
    async fn free(&mut self, parts: Parts) {
        // First here: nothing is written any more by the time another may.
        self.owned.lose(parts);
        self.changed(parts);
        let nobody = Claim { session: None, node: self.session.node() };
        let claims = &self.board.claims;
        let wanted: Vec<(u32, u64)> =
            parts.iter().map(|part| (part, claims[part as usize].revision)).collect();
        let this = &*self;
        let freeing = stream::iter(wanted)
            .map(|(part, revision)| {
                let nobody = &nobody;
                async move { (part, this.write(part, nobody, revision).await) }
            })
            .buffer_unordered(PARTITIONS as usize);
        let freed: Vec<(u32, Result<Seen, KeeperError>)> = freeing.collect().await;
        for (part, answer) in freed {
            // What was not taken back is adopted, and given up again; if this node ends, with its session.
            if let Ok(seen) = answer {
                self.board.note_claim(part, seen);
            }
        }
        telemetry::partitions_given_up(parts, self.owned.ours());
    }

    fn left(&mut self) {
        if let Some((_, done)) = self.leaving.take() {
            // Whoever waited may have given up.
            let _heard = done.send(()).is_ok();
        }
    }
}

/// The next entry; waits for ever where nothing is followed.
async fn next(watch: &mut Option<Changes>) -> Option<Result<Entry, OwnError>> {
    match watch {
        Some(watch) => watch.next().await,
        None => std::future::pending().await,
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work").field("owned", &self.owned).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
