//! A run: what is drawn from its seed, what happens in it, and what must hold.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::board::BoardServer;
use super::bugs::Bug;
use super::host::{Host, Life};
use super::letters::Post;
use super::net::{Net, Weather};
use super::process::{self, Handle};
use super::provider::{Limit, Per, Provider, Rule};
use super::queue::Hub;
use super::server::LedgerServer;
use super::{Outcome, Trace, Wrongs};
use crate::cluster::{Owned, PARTITIONS, Parts};
use crate::ids::Priority;
use crate::plan::Plan;
use crate::queue::memory::MemoryQueue;
use crate::queue::{Appended, NewFetch, Queue};
use crate::store::Store;
use crate::telemetry::Totals;

/// While nothing goes wrong no partition is without an owner for longer: a lease of 4 s, and what it takes to see its
/// end, to ask the leader and to claim.
const OWNERLESS_MAX: Duration = Duration::from_secs(8);
/// Everything has ended so long after the last thing that went wrong.
const ENDS_WITHIN: Duration = Duration::from_secs(600);
/// Between two looks at who owns what.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long something goes wrong before it is behind a second call of a fetch.
const BEFORE: Duration = Duration::from_secs(5);

/// What a process shares with all others, and the run goes by.
#[derive(Debug)]
pub(super) struct World {
    pub(super) plan: Arc<Plan>,
    pub(super) shards: u16,
    pub(super) bug: Option<Bug>,
    pub(super) net: Arc<Net>,
    pub(super) board: Arc<BoardServer>,
    pub(super) ledger: Arc<LedgerServer>,
    pub(super) post: Arc<Post>,
    pub(super) queue: MemoryQueue,
    pub(super) hub: Arc<Hub>,
    pub(super) store: Store,
    pub(super) provider: Arc<Provider>,
    pub(super) trace: Arc<Trace>,
    start: Instant,
}

/// What is drawn from a seed.
#[derive(Debug)]
struct Scenario {
    limits: Vec<Limit>,
    guard_ms: u64,
    /// Of four answers so many take long.
    long: u8,
    shards: u16,
    concurrency: usize,
    /// False: each node takes all accounts for its own, by mistake.
    is_shared: bool,
    nodes: usize,
    fetches: Vec<(u64, String, &'static str, String)>,
    faults: Vec<(u64, Fault)>,
    weather: Weather,
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    /// The process of a node dies now, or after so many steps of it.
    Die(usize, u32),
    /// It is stopped for so long.
    Stop(usize, u64),
    /// It is cut off from the server for so long; its client notices after so long.
    Cut(usize, u64, u64),
    /// It ends in good order, and is started again.
    Leave(usize),
    /// The bucket of sessions has no leader for so long: all leases end.
    Election(u64),
    /// One more node.
    Join,
}

fn scenario(random: &mut fastrand::Rng) -> Scenario {
    let guard_ms = [25, 60, 200][random.usize(0..3)];
    let mut limits = Vec::new();
    let window = |random: &mut fastrand::Rng| random.u64(5..90) * 100;
    match random.u8(0..8) {
        0 => {}
        1 | 2 => limits.push(Limit { per: Per::Account, rule: Rule::Max(1, window(random) / 3) }),
        _ => {
            let rule = Rule::Max(random.usize(1..=4), window(random) * 2);
            limits.push(Limit { per: Per::Account, rule });
        }
    }
    let is_shared = random.u8(0..6) > 0;
    // Two nodes that both hold an account for theirs count a lost call's slot anew whenever they take turns.
    if is_shared && random.u8(0..4) == 0 {
        limits.push(Limit { per: Per::Account, rule: Rule::AtOnce(random.usize(1..=3)) });
    }
    // Wider than an account: in a cluster, what nodes lend each other.
    let per = [Per::Everybody, Per::Everybody, Per::Api][random.usize(0..3)];
    if random.u8(0..5) < 2 {
        let rule = Rule::Max(random.usize(3..=12), window(random));
        limits.push(Limit { per, rule });
    }
    if is_shared && random.u8(0..4) == 0 {
        limits.push(Limit { per, rule: Rule::AtOnce(random.usize(2..=4)) });
    }
    let accounts = random.usize(5..=12);
    let mut fetches = Vec::new();
    for account in 0..accounts {
        for number in 0..random.usize(1..=6) {
            let kind = match random.u8(0..40) {
                0 => "bad",
                _ => "fetch",
            };
            let api = ["a", "b"][random.usize(0..2)];
            let id = format!("{kind}-{account}-{number}");
            fetches.push((random.u64(0..13_000), format!("x{account}"), api, id));
        }
    }
    if random.u8(0..10) == 0 {
        fetches.push((random.u64(0..10_000), "x0".into(), "a", "killer-0".into()));
    }
    fetches.sort();
    let nodes = random.usize(2..=3);
    let faults = (0..random.usize(0..=4)).map(|_| {
        let node = random.usize(0..nodes);
        let fault = match random.u8(0..16) {
            0..=3 => Fault::Die(node, 0),
            4..=6 => Fault::Die(node, random.u32(1..60)),
            7..=9 => Fault::Stop(node, random.u64(200..15_000)),
            10..=11 => Fault::Cut(node, random.u64(200..15_000), random.u64(100..4000)),
            12 => Fault::Leave(node),
            13 => Fault::Election(random.u64(1000..7000)),
            _ => Fault::Join,
        };
        (random.u64(2000..14_000), fault)
    });
    let mut faults: Vec<(u64, Fault)> = faults.collect();
    faults.sort_by_key(|(at, _)| *at);
    let mut some = |most: u32| if random.bool() { random.u32(0..most) } else { 0 };
    let weather =
        Weather { lost: some(60), unconfirmed: some(60), twice: some(60), late: some(60) };
    Scenario {
        limits,
        guard_ms,
        long: [1, 1, 3][random.usize(0..3)],
        shards: random.u16(1..=2),
        concurrency: random.usize(2..=32),
        is_shared,
        nodes,
        fetches,
        faults,
        weather,
    }
}

fn plan(scenario: &Scenario) -> Plan {
    let limits = scenario.limits.iter().enumerate();
    let limits: String =
        limits.map(|(place, limit)| limit.toml(&format!("l{place}"), scenario.guard_ms)).collect();
    let text = format!(
        "[store]\nurl = \"memory:\"\ncompression = \"none\"\n\
         [collect]\nshards = {}\nconcurrency = {}\n\
         [platforms.p]\nbase_url = \"http://p.test/\"\nlost_call = \"4s\"\n\
         timeouts = {{ connect = \"200ms\" }}\nheaders = {{ X-Account = \"{{account}}\" }}\n\
         [platforms.p.limits]\n{limits}\
         [platforms.p.apis.a]\npath = \"a/{{id}}\"\n[platforms.p.apis.b]\npath = \"b/{{id}}\"\n",
        scenario.shards, scenario.concurrency
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &text).unwrap();
    match crate::config::load(Some(file.path()), std::iter::empty(), &[]) {
        Ok(loaded) => loaded.plan,
        Err(mistakes) => panic!("{mistakes}\n{text}"),
    }
}

/// A node over all its lives.
#[derive(Debug)]
struct Node {
    now: Handle,
    before: Vec<u64>,
    /// When it starts again, once it is dead.
    again_at: Option<Instant>,
    /// Whether its lease held at the last look, where it worked, and what it gave out of hand.
    owns: (bool, Parts, Parts),
}

/// When something went wrong for a session.
#[derive(Debug, Clone, Copy)]
struct Trouble {
    session: u64,
    from: Instant,
    to: Instant,
}

struct Run {
    world: Rc<World>,
    scenario: Scenario,
    wrongs: Arc<Wrongs>,
    random: fastrand::Rng,
    nodes: Vec<Node>,
    troubles: Vec<Trouble>,
    owner_seen: [Instant; PARTITIONS as usize],
    /// Something went wrong until then.
    wrong_until: Instant,
    sessions: u64,
}

impl World {
    /// Wall time by the world's clock.
    pub(super) fn wall_now(&self) -> Timestamp {
        super::super::wall() + SignedDuration::try_from(self.start.elapsed()).unwrap()
    }
}

/// One run, from its seed.
pub(super) async fn run(seed: u64, bug: Option<Bug>, trace: Arc<Trace>) -> Outcome {
    let mut random = fastrand::Rng::with_seed(seed);
    let scenario = scenario(&mut random);
    trace.note(|| format!("{scenario:?}"));
    let wrongs = Arc::new(Wrongs::new(Arc::clone(&trace)));
    let provider =
        Provider::new(random.fork(), (scenario.guard_ms, scenario.long), Arc::clone(&trace));
    let world = World {
        plan: Arc::new(plan(&scenario)),
        shards: scenario.shards,
        bug,
        net: Net::new(random.fork()),
        board: BoardServer::new(Arc::clone(&trace)),
        ledger: LedgerServer::new(Arc::clone(&wrongs), Arc::clone(&trace)),
        post: Arc::default(),
        queue: MemoryQueue::starting(super::super::wall()),
        hub: Arc::default(),
        store: Store::memory(1 << 30).unwrap(),
        provider,
        trace,
        start: Instant::now(),
    };
    let world = Rc::new(world);
    let hub = Arc::clone(&world.hub).run(world.queue.clone(), random.fork());
    let hub = tokio::spawn(hub);
    let now = Instant::now();
    let mut run = Run {
        world,
        scenario,
        wrongs,
        random,
        nodes: Vec::new(),
        troubles: Vec::new(),
        owner_seen: [now; PARTITIONS as usize],
        wrong_until: now,
        sessions: 0,
    };
    run.go_through().await;
    hub.abort();
    run.check();
    let calls = run.world.provider.arrivals().len();
    for node in &run.nodes {
        node.now.life.die();
    }
    // Their tasks are gone when this run is.
    sleep(Duration::from_millis(1)).await;
    Outcome {
        seed,
        wrongs: run.wrongs.take(),
        hash: run.world.trace.hash(),
        calls,
        lasted: run.world.start.elapsed(),
    }
}

impl Run {
    fn start_process(&mut self, node: usize, before: Vec<u64>) -> Handle {
        self.sessions += 1;
        let session = self.sessions * 1_000_003 + self.random.u64(0..1000);
        let life = Life::new(node, session);
        let owned = if self.scenario.is_shared { Owned::nothing() } else { Owned::default() };
        let handle = Handle {
            life: Arc::clone(&life),
            owned,
            totals: Arc::new(Totals::default()),
            leave: Arc::default(),
            has_left: Arc::default(),
        };
        self.world.trace.note(|| format!("node {node} starts as {session}"));
        let skew = SignedDuration::from_secs(self.random.i64(-60..=60));
        let tasks = LocalSet::new();
        tasks.spawn_local(process::run(Rc::clone(&self.world), handle.clone(), before, skew));
        actix_rt::spawn(Host { life, tasks: Some(tasks) });
        handle
    }

    fn add_node(&mut self) {
        let place = self.nodes.len();
        let now = self.start_process(place, Vec::new());
        self.nodes.push(Node { now, before: Vec::new(), again_at: None, owns: Default::default() });
    }

    fn trouble(&mut self, session: u64, lasts: Duration) {
        let now = Instant::now();
        self.troubles.push(Trouble { session, from: now, to: now + lasts });
        self.wrong_until = self.wrong_until.max(now + lasts);
    }

    /// Everything that happens, until all has ended.
    async fn go_through(&mut self) {
        for _ in 0..self.scenario.nodes {
            self.add_node();
        }
        self.world.net.weather(self.scenario.weather);
        let start = self.world.start;
        let moment = |ms: u64| start + Duration::from_millis(ms);
        let mut fetches = std::mem::take(&mut self.scenario.fetches).into_iter().peekable();
        let mut faults = std::mem::take(&mut self.scenario.faults).into_iter().peekable();
        let total = fetches.len();
        let calm_at = moment(15_000);
        self.wrong_until = calm_at;
        let mut ids = Vec::new();
        let mut is_calm = false;
        loop {
            let now = Instant::now();
            while let Some((_, account, api, id)) = fetches.next_if(|(at, ..)| moment(*at) <= now) {
                self.put(&account, api, &id).await;
                ids.push(id);
            }
            while let Some((_, fault)) = faults.next_if(|(at, _)| moment(*at) <= now) {
                self.happen(fault);
            }
            if !is_calm && now >= calm_at {
                is_calm = true;
                self.world.net.weather(Weather::default());
                self.world.trace.note(|| "from here on all is well".into());
            }
            self.look();
            let ended = self.world.hub.ended.lock().unwrap().len();
            let is_over = ids.len() == total && ended == total && faults.peek().is_none();
            // Long enough for all to settle, and for every partition to be found without an owner.
            let settled = self.wrong_until + OWNERLESS_MAX + Duration::from_secs(4);
            if is_over && is_calm && now >= settled && self.is_empty().await {
                return;
            }
            if now >= self.wrong_until + ENDS_WITHIN {
                let ended = self.world.hub.ended.lock().unwrap();
                let left: Vec<_> = ids.iter().filter(|id| !ended.contains_key(*id)).collect();
                self.wrongs.push(format!("it does not end; left: {left:?}"));
                return;
            }
            sleep_until(now + LOOK_EVERY).await;
        }
    }

    async fn is_empty(&self) -> bool {
        let queue = &self.world.queue;
        queue.lanes(None).await.unwrap().lanes.is_empty() && queue.postponed().await.unwrap() == 0
    }

    async fn put(&mut self, account: &str, api: &str, id: &str) {
        let lane = super::super::lane(account, api, Priority::Normal);
        let payload =
            format!(r#"{{"id":"{id}","platform":"p","account":"{account}","api":"{api}"}}"#);
        let fetch = NewFetch { lane, id: id.into(), payload: payload.into(), not_before: None };
        match self.world.queue.append(vec![fetch]).await.as_deref() {
            Ok([Appended::New(seq)]) => self.world.ledger.name(id, *seq),
            other => panic!("{id} is new: {other:?}"),
        }
    }

    fn happen(&mut self, fault: Fault) {
        self.world.trace.note(|| format!("{fault:?}"));
        let whose = |run: &Self, node: usize| run.nodes[node % run.nodes.len()].now.clone();
        match fault {
            Fault::Die(node, 0) => whose(self, node).life.die(),
            Fault::Die(node, steps) => whose(self, node).life.die_after(steps),
            Fault::Stop(node, ms) => {
                let life = whose(self, node).life;
                let lasts = Duration::from_millis(ms);
                self.trouble(life.session, lasts);
                life.stop(true);
                tokio::spawn(async move {
                    sleep(lasts).await;
                    life.stop(false);
                });
            }
            Fault::Cut(node, ms, notices) => {
                let life = whose(self, node).life;
                let (lasts, notices) = (Duration::from_millis(ms), Duration::from_millis(notices));
                self.trouble(life.session, lasts + Duration::from_secs(1));
                life.cut_off(true);
                tokio::spawn(async move {
                    if notices < lasts {
                        sleep(notices).await;
                        life.connect(false);
                        sleep(lasts.saturating_sub(notices)).await;
                    } else {
                        sleep(lasts).await;
                    }
                    life.cut_off(false);
                    sleep(Duration::from_millis(300)).await;
                    life.connect(true);
                });
            }
            Fault::Leave(node) => {
                let handle = whose(self, node);
                self.trouble(handle.life.session, Duration::from_secs(12));
                handle.leave.notify_one();
            }
            Fault::Election(ms) => {
                self.world.board.away_for(Duration::from_millis(ms));
                let sessions: Vec<u64> =
                    self.nodes.iter().map(|node| node.now.life.session).collect();
                for session in sessions {
                    self.trouble(session, Duration::from_millis(ms + 1000));
                }
            }
            Fault::Join => {
                self.add_node();
                self.wrong_until = self.wrong_until.max(Instant::now() + Duration::from_secs(12));
            }
        }
    }

    /// Looks at who lives, and who owns what.
    fn look(&mut self) {
        let now = Instant::now();
        for place in 0..self.nodes.len() {
            let life = Arc::clone(&self.nodes[place].now.life);
            if life.is_dead() {
                match self.nodes[place].again_at {
                    None => {
                        self.trouble(life.session, Duration::ZERO);
                        let has_left = self.nodes[place].now.has_left.load(Ordering::Acquire);
                        self.world.trace.note(|| format!("{} is gone; {has_left}", life.session));
                        // Some are started again before anybody has missed them.
                        let most = if self.random.u8(0..3) == 0 { 400 } else { 6000 };
                        let wait = Duration::from_millis(self.random.u64(20..most));
                        self.wrong_until = self.wrong_until.max(now + wait);
                        self.nodes[place].again_at = Some(now + wait);
                    }
                    Some(at) if at <= now => {
                        // In its folder, or in another one: nobody knows then that it is gone for certain.
                        let mut before = std::mem::take(&mut self.nodes[place].before);
                        before.push(life.session);
                        if self.random.u8(0..4) == 0 {
                            before.clear();
                        }
                        self.nodes[place].before.clone_from(&before);
                        self.nodes[place].again_at = None;
                        self.nodes[place].now = self.start_process(place, before);
                    }
                    Some(_) => {}
                }
                continue;
            }
            let owned = &self.nodes[place].now.owned;
            let owns = (owned.holds(), owned.open(), owned.closing());
            if owned.is_shared() && self.nodes[place].owns != owns {
                self.world.trace.note(|| format!("{} owns {owns:?}", life.session));
                self.nodes[place].owns = owns;
            }
            let owned = &self.nodes[place].now.owned;
            // The lapse itself may be shorter than it is to the next look.
            let has_lapsed =
                owned.open().is_empty() && !(owned.ours() - owned.closing()).is_empty();
            if owned.is_shared() && (!owned.holds() || has_lapsed) {
                // Whatever the reason: others may take over now.
                self.troubles.push(Trouble { session: life.session, from: now, to: now });
            }
        }
        if self.scenario.is_shared {
            self.look_at_owners(now);
        }
    }

    fn look_at_owners(&mut self, now: Instant) {
        let alive: Vec<&Node> = self.nodes.iter().filter(|node| !node.now.life.is_dead()).collect();
        let (mut open, mut works) = (Parts::NONE, Parts::NONE);
        for node in &alive {
            let Handle { owned, life, .. } = &node.now;
            if !owned.holds() {
                continue;
            }
            let twice = open & owned.open();
            if !twice.is_empty() {
                let session = life.session;
                let wrong = format!("partitions {twice} have two owners at once, {session} is one");
                self.wrongs.push(wrong);
            }
            open |= owned.open();
            works |= if life.is_stopped() { Parts::NONE } else { owned.ours() };
        }
        for part in 0..PARTITIONS {
            let seen = &mut self.owner_seen[part as usize];
            if now < self.wrong_until || works.has(part) {
                *seen = now;
            } else if now.duration_since(*seen) > OWNERLESS_MAX {
                self.wrongs.push(format!("partition {part} has no owner for {OWNERLESS_MAX:?}"));
                *seen = now;
            }
        }
    }

    /// What must hold at the end.
    fn check(&self) {
        for broken in self.world.provider.breaks(&self.scenario.limits) {
            self.wrongs.push(broken);
        }
        for (id, endings) in self.world.hub.ended.lock().unwrap().iter() {
            for ended in endings {
                let crashes = self.world.ledger.crashes(id);
                let is_right = match ended.code.as_deref() {
                    None => id.starts_with("fetch"),
                    Some("TG0209") => crashes >= 4 && !id.starts_with("bad"),
                    Some(_) => id.starts_with("bad"),
                };
                if !is_right {
                    self.wrongs.push(format!("{id} ended as {ended:?}, with {crashes} crashes"));
                }
            }
        }
        if self.scenario.is_shared {
            self.check_calls();
            self.check_claims();
        }
        for node in self.nodes.iter().filter(|node| !node.now.life.is_dead()) {
            let restarts = node.now.totals.restarts.get();
            if restarts > 0 {
                let session = node.now.life.session;
                self.wrongs.push(format!("{restarts} actors of {session} died by themselves"));
            }
        }
    }

    /// No fetch was called again after a good answer, but where its first caller was in trouble.
    fn check_calls(&self) {
        let mut good: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for call in self.world.provider.arrivals() {
            if call.status != 500 {
                good.entry(call.id.clone()).or_default().push(call);
            }
        }
        for (id, mut calls) in good {
            calls.sort_by_key(|call| call.written);
            for pair in calls.windows(2) {
                let (first, second) = (&pair[0], &pair[1]);
                let explains = |trouble: &Trouble| {
                    trouble.session == first.session
                        && trouble.from <= second.written
                        && trouble.to + BEFORE >= first.written
                };
                if !self.troubles.iter().any(explains) {
                    let (one, other) = (first.session, second.session);
                    self.wrongs.push(format!(
                        "{id} was called by {one} and again by {other}, and nothing went wrong"
                    ));
                }
            }
        }
    }

    /// Each partition is worked in by who has claimed it.
    fn check_claims(&self) {
        for part in 0..PARTITIONS {
            let claim = self.world.board.claim(part);
            let works = |node: &&Node| {
                !node.now.life.is_dead()
                    && node.now.owned.is_open(part)
                    && Some(node.now.life.session) == claim
            };
            if !self.nodes.iter().any(|node| works(&node)) {
                self.wrongs.push(format!("nobody works in partition {part}, claimed by {claim:?}"));
            }
        }
    }
}
