//! One life of a node: what `serve` and the node start in a process, on simulated seams.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::sleep;

use super::board::SimOwn;
use super::host::Life;
use super::letters::SimBudgets;
use super::provider::Calls;
use super::queue::SimQueue;
use super::server::SimLedger;
use super::world::World;
use crate::auth::Keeper as AuthKeeper;
use crate::budget::exchange::{Exchange, Flush, Lending};
use crate::calendar::{Line, plan_on};
use crate::clock::Clock;
use crate::cluster::{Keeper, Owned, Parts, Terms, part_of};
use crate::health::BackHealth;
use crate::mailbox::Mailbox;
use crate::nats::session::{About, Lease, Session, SessionId};
use crate::node::hands::ShardHands;
use crate::observe::Shuts;
use crate::plan::InForce;
use crate::queue::Queue;
use crate::shard::context::{LANDINGS_PER_SLOT, Peers, Shared, shard_of};
use crate::shard::store_health::StoreHealth;
use crate::shard::{Drain, Found, LookAgain, SettleBudgets, Shard, Work};
use crate::telemetry::Totals;

/// As the node: between two discoveries of what waits, and how long budgets may take to store their records.
const DISCOVERY_EVERY: Duration = Duration::from_secs(60);
const SETTLE: Duration = Duration::from_secs(2);
/// Between two tries of what does not answer.
const AGAIN: Duration = Duration::from_millis(250);
/// Between two looks at the connection and the session.
const BACK_LOOK: Duration = Duration::from_millis(150);
/// How long calls may go on when a node ends.
const DRAIN: Duration = Duration::from_secs(10);

/// What the world knows of a process.
#[derive(Debug, Clone)]
pub(super) struct Handle {
    pub(super) life: Arc<Life>,
    pub(super) owned: Owned,
    pub(super) totals: Arc<Totals>,
    /// Ends it in good order.
    pub(super) leave: Arc<Notify>,
    /// It has left.
    pub(super) has_left: Arc<std::sync::atomic::AtomicBool>,
}

/// Runs a process from its start to its end in good order.
pub(super) async fn run(
    world: Rc<World>,
    handle: Handle,
    before: Vec<u64>,
    skew: jiff::SignedDuration,
) {
    let Handle { life, owned, totals, leave, has_left } = handle;
    let clock = Clock::starting_at(world.wall_now() + skew);
    let plan = plan_on(&world.plan, &Line::Clock(clock.clone()));
    let own = SimOwn {
        life: Arc::clone(&life),
        net: Arc::clone(&world.net),
        server: Arc::clone(&world.board),
        bug: world.bug,
    };
    let own = Arc::new(own);
    let about = About {
        node: format!("node-{}", life.node),
        version: "0".into(),
        started: clock.wall(),
        config: plan.hash.clone(),
    };
    let before: Vec<SessionId> = before.into_iter().map(SessionId).collect();
    let session = loop {
        let (id, own) = (SessionId(life.session), own.clone());
        let started =
            Session::start_on(own, id, before.clone(), &about, Lease::default(), owned.clone());
        match tokio::time::timeout(Duration::from_secs(5), started).await {
            Ok(Ok(session)) => break Arc::new(session),
            Ok(Err(_)) | Err(_) => sleep(AGAIN).await,
        }
    };
    let keeper = loop {
        if !owned.is_shared() {
            break None;
        }
        let joined = Keeper::join(Arc::clone(&session), owned.clone(), Terms::default());
        match joined.await {
            Ok(keeper) => break Some(keeper),
            Err(_) => sleep(AGAIN).await,
        }
    };
    let servers = (&world.net, &world.ledger);
    let ledger = SimLedger::new(&life, servers, &session, world.bug, Arc::clone(&plan));
    let queue = SimQueue {
        life: Arc::clone(&life),
        net: Arc::clone(&world.net),
        inner: world.queue.clone(),
        hub: Arc::clone(&world.hub),
        owned: owned.clone(),
        trace: Arc::clone(&world.trace),
    };
    let queue: Arc<dyn Queue> = Arc::new(queue);
    let (auth, _no_credentials) = AuthKeeper::new(clock.clone());
    let back = Arc::new(BackHealth::default());
    let shared = Shared {
        pulses: Arc::default(),
        signals: None,
        owned: owned.clone(),
        auth,
        shuts: Shuts::default(),
        clock: clock.clone(),
        queue: Arc::clone(&queue),
        ledger: Arc::new(ledger),
        store: world.store.clone(),
        totals,
        slots: Arc::new(Semaphore::new(plan.collect.concurrency)),
        landings: Arc::new(Semaphore::new(plan.collect.concurrency * LANDINGS_PER_SLOT)),
        alone: Arc::new(Semaphore::new(1)),
        holds: crate::holds::Holds::default(),
        store_health: Arc::new(StoreHealth::default()),
        back_health: Arc::clone(&back),
        peers: Arc::new(Peers::default()),
        plan: InForce::new(Arc::clone(&plan)),
    };
    let calls = || {
        Rc::new(Calls {
            provider: Arc::clone(&world.provider),
            life: Arc::clone(&life),
            clock: clock.clone(),
            ledger: Arc::clone(&world.ledger),
        })
    };
    let shards: Vec<Mailbox<Shard>> = (0..world.shards)
        .map(|number| Shard::start_here(number, shared.clone(), calls()))
        .collect();
    let shards: Arc<[Mailbox<Shard>]> = shards.into();
    shared.peers.are(Arc::clone(&shards));
    let exchange = owned.is_shared().then(|| {
        let wire = SimBudgets {
            life: Arc::clone(&life),
            net: Arc::clone(&world.net),
            session: Arc::clone(&session),
            post: Arc::clone(&world.post),
            trace: Arc::clone(&world.trace),
        };
        let lending = Lending { session: SessionId(life.session), wire: Arc::new(wire) };
        let (name, own) = (about.node.clone(), (clock.clone(), shared.plan.clone()));
        let first = shards[0].clone();
        let exchange = Exchange::start_here(lending, name, own, &owned, &shared.peers, first);
        world.post.hear(&life, exchange.clone());
        exchange
    });
    let post = Post { shards: Arc::clone(&shards), queue: Arc::clone(&queue) };
    actix_rt::spawn(hear(queue.wakes(), post.clone()));
    actix_rt::spawn(discover(post.clone()));
    actix_rt::spawn(list_gained(owned.clone(), post.clone()));
    actix_rt::spawn(follow_back(Arc::clone(&back), post.clone()));
    if let Some(keeper) = &keeper {
        keeper.work_with(Arc::new(ShardHands(Arc::clone(&shards)))).await;
    }
    let watching = actix_rt::spawn(tell_back(Arc::clone(&life), Arc::clone(&session), back));
    leave.notified().await;
    let leaving = async {
        if let Some(keeper) = &keeper {
            keeper.leave(DRAIN).await;
        }
    };
    let draining = async {
        for shard in shards.iter() {
            let _drained = shard.send(Drain { within: DRAIN }).await;
        }
        for shard in shards.iter() {
            let _settled = shard.send(SettleBudgets { within: SETTLE }).await;
        }
        if let Some(exchange) = &exchange {
            let _flushed = exchange.send(Flush { within: SETTLE }).await;
        }
    };
    tokio::join!(leaving, draining);
    watching.abort();
    // Others wait for the key to end by itself otherwise.
    drop(tokio::time::timeout(Duration::from_secs(2), session.end()).await);
    has_left.store(true, std::sync::atomic::Ordering::Release);
    life.die();
}

/// Tells shards of work.
#[derive(Clone)]
struct Post {
    shards: Arc<[Mailbox<Shard>]>,
    queue: Arc<dyn Queue>,
}

impl Post {
    async fn send(&self, found: Found) {
        let shard = &self.shards[shard_of(&found.lane.account, self.shards.len())];
        let _taken = shard.send(Work(vec![found])).await;
    }

    /// Tells of all that waits in these; false if the queue did not answer.
    async fn list(&self, parts: Parts) -> bool {
        let mut from = None;
        loop {
            let Ok(page) = self.queue.lanes(from).await else { return false };
            for count in page.lanes {
                if parts.has(part_of(&count.lane.account)) {
                    self.send(Found { lane: count.lane, count: count.waiting, all: true }).await;
                }
            }
            from = page.next;
            if from.is_none() {
                return true;
            }
        }
    }
}

async fn hear(mut wakes: tokio::sync::mpsc::Receiver<crate::queue::Wake>, post: Post) {
    while let Some(wake) = wakes.recv().await {
        post.send(Found { lane: wake.lane, count: wake.count, all: wake.all }).await;
    }
}

async fn discover(post: Post) {
    while !post.list(Parts::ALL).await {
        sleep(AGAIN).await;
    }
    loop {
        sleep(DISCOVERY_EVERY).await;
        post.list(Parts::ALL).await;
    }
}

/// As the queue on NATS does: what is gained is listed.
async fn list_gained(owned: Owned, post: Post) {
    let Some(mut follow) = owned.follow() else { return };
    let mut told = Parts::NONE;
    loop {
        let parts = *follow.borrow_and_update();
        told = told & parts;
        let new = parts - told;
        if !new.is_empty() && !post.list(new).await {
            sleep(AGAIN).await;
            continue;
        }
        told = parts;
        if follow.changed().await.is_err() {
            return;
        }
    }
}

/// As [`Session::watch`] does, which follows two channels at once and so is woken in no order.
async fn tell_back(life: Arc<Life>, session: Arc<Session>, back: Arc<BackHealth>) {
    let link = life.link();
    loop {
        back.set_away(!link.borrow().up || !session.is_held());
        sleep(BACK_LOOK).await;
    }
}

async fn follow_back(back: Arc<BackHealth>, post: Post) {
    let mut back = back.follow();
    while back.changed().await.is_ok() {
        if !*back.borrow_and_update() {
            post.shards.iter().for_each(|shard| shard.do_send(LookAgain));
        }
    }
}
