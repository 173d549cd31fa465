//! Against a real server.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use tokio::sync::Notify;

use super::*;
use crate::nats::own::{Draft, Following, NatsOwn};
use crate::nats::session::{About, Lease};
use crate::nats::tests::{plan, ready};
use crate::nats::{Bus, Link};
use crate::testkit::nats_server::NatsServer;
use crate::tests::{buckets, buckets_that_end};

/// A node without accounts.
struct Joined {
    keeper: Keeper,
    session: Arc<Session>,
    owned: Owned,
}

/// Nothing is quiet in these.
#[derive(Default)]
struct Busy(Mutex<Parts>);

impl Hands for Busy {
    fn changed(&self, _: Parts) {}

    fn quiet(&self, parts: Parts) -> BoxFuture<'static, Parts> {
        let quiet = parts - *self.0.lock().unwrap();
        std::future::ready(quiet).boxed()
    }
}

/// A bucket that is followed no more, and not again, once it is said.
#[derive(Debug)]
struct Deaf {
    own: Arc<dyn OwnBucket>,
    is: AtomicBool,
    now: Arc<Notify>,
    /// What is followed tells nothing.
    silent: Arc<AtomicBool>,
    /// How often it was followed.
    followed: AtomicU32,
    /// Claims cannot be asked.
    unasked: AtomicBool,
    /// Sessions are written so many milliseconds late.
    late_ms: AtomicU32,
}

impl Deaf {
    fn on(own: Arc<dyn OwnBucket>) -> Arc<Self> {
        let (is, now, silent, followed, unasked, late_ms) = Default::default();
        Arc::new(Self { own, is, now, silent, followed, unasked, late_ms })
    }
}

impl OwnBucket for Deaf {
    fn write(&self, draft: Draft) -> BoxFuture<'static, Result<Wrote, OwnError>> {
        let late = u64::from(self.late_ms.load(Ordering::Acquire));
        let late = Duration::from_millis(if draft.key.starts_with("n.") { late } else { 0 });
        let own = Arc::clone(&self.own);
        async move {
            sleep(late).await;
            own.write(draft).await
        }
        .boxed()
    }

    fn last(&self, key: String) -> BoxFuture<'static, Result<Option<Entry>, OwnError>> {
        if key.starts_with("p.") && self.unasked.load(Ordering::Acquire) {
            return std::future::ready(Err(OwnError::no_answer())).boxed();
        }
        self.own.last(key)
    }

    fn follow(&self) -> BoxFuture<'static, Result<Following, OwnError>> {
        if self.is.load(Ordering::Acquire) {
            return std::future::pending().boxed();
        }
        self.followed.fetch_add(1, Ordering::AcqRel);
        let (following, now) = (self.own.follow(), Arc::clone(&self.now));
        let silent = Arc::clone(&self.silent);
        async move {
            let Following { there, changes } = following.await?;
            let over = async move { now.notified().await };
            let tells = move |_: &_| std::future::ready(!silent.load(Ordering::Acquire));
            let changes = changes.filter(tells);
            Ok(Following { there, changes: changes.take_until(over.boxed()).boxed() })
        }
        .boxed()
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.own.link()
    }
}

async fn join(server: &NatsServer, terms: Terms) -> Joined {
    let joined = join_idly(server, terms).await;
    joined.keeper.work_with(Arc::new(Busy::default())).await;
    joined
}

/// One that works with nobody yet.
async fn join_idly(server: &NatsServer, terms: Terms) -> Joined {
    let bus = Bus::connect(&plan(server), "node", false).await.unwrap();
    join_on(Arc::new(NatsOwn::open(&bus).await.unwrap()), terms).await
}

async fn join_on(own: Arc<dyn OwnBucket>, terms: Terms) -> Joined {
    let about = About {
        node: "test".into(),
        version: "0".into(),
        started: jiff::Timestamp::UNIX_EPOCH,
        config: "none".into(),
    };
    let (owned, lease) = (Owned::nothing(), Lease::of(Duration::from_secs(2)));
    let id = SessionId::draw();
    let session = Session::start_on(own, id, Vec::new(), &about, lease, owned.clone()).await;
    let session = Arc::new(session.unwrap());
    let keeper = Keeper::join(Arc::clone(&session), owned.clone(), terms).await.unwrap();
    Joined { keeper, session, owned }
}

async fn until(what: &str, within: Duration, mut is: impl FnMut() -> bool) -> Duration {
    let started = Instant::now();
    while !is() {
        assert!(started.elapsed() < within, "not within {within:?}: {what}");
        sleep(Duration::from_millis(2)).await;
    }
    started.elapsed()
}

fn shared(nodes: &[&Joined]) -> bool {
    let all = nodes.iter().fold(Parts::NONE, |all, node| all | node.owned.open());
    let sum: u32 = nodes.iter().map(|node| node.owned.open().len()).sum();
    let most = PARTITIONS.div_ceil(u32::try_from(nodes.len()).unwrap());
    all == Parts::ALL
        && sum == PARTITIONS
        && nodes.iter().all(|node| node.owned.open().len() <= most)
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn who_is_alone_has_everything_when_it_has_joined_and_shares_it_with_who_comes() {
    let (_folder, server, _bus) = ready("").await;
    let started = Instant::now();
    let one = join(&server, Terms::default()).await;
    println!("joined after {:?}", started.elapsed());
    assert_eq!(one.owned.open(), Parts::ALL);
    let two = join(&server, Terms::default()).await;
    let took = until("two halves", SECOND, || shared(&[&one, &two])).await;
    println!("shared after {took:?}");
    // In order: the other has it as soon as it hears of it.
    one.keeper.leave(SECOND).await;
    assert_eq!(one.owned.ours(), Parts::NONE);
    let took = until("all of it", SECOND, || two.owned.open() == Parts::ALL).await;
    println!("handed over after {took:?}");
    // It stays gone while it lives.
    sleep(SECOND).await;
    assert_eq!(one.owned.ours(), Parts::NONE);
    // Without a word: when the session's key has ended.
    let three = join(&server, Terms::default()).await;
    until("two halves", SECOND, || shared(&[&two, &three])).await;
    drop((two.keeper, two.session));
    let took = until("all of it", 4 * SECOND, || three.owned.open() == Parts::ALL).await;
    println!("taken over after {took:?}");
    assert!(took > SECOND, "{took:?}");
}

#[tokio::test]
async fn what_is_not_quiet_in_time_is_kept_and_the_rest_is_handed_over() {
    let (_folder, server, _bus) = ready("").await;
    let terms = Terms { handover: Duration::from_millis(300) };
    let one = join_idly(&server, terms).await;
    let busy = Arc::new(Busy::default());
    *busy.0.lock().unwrap() = (0..8).collect();
    one.keeper.work_with(Arc::clone(&busy) as Arc<dyn Hands>).await;
    let two = join(&server, terms).await;
    until("the rest", SECOND, || {
        let open = one.owned.open();
        (one.owned.ours() - open).is_empty() && (two.owned.open() | open) == Parts::ALL
    })
    .await;
    sleep(SECOND / 2).await;
    let (mine, theirs) = (one.owned.open(), two.owned.open());
    let kept: Parts = (0..8).collect();
    assert_eq!((mine & kept, mine & theirs), (kept, Parts::NONE));
    assert!(theirs.len() >= 20, "{theirs}");
    // A node that ends gives up what is busy at the end of its time.
    let started = Instant::now();
    one.keeper.leave(SECOND).await;
    assert!(started.elapsed() >= SECOND, "{:?}", started.elapsed());
    until("all of it", SECOND, || two.owned.open() == Parts::ALL).await;
}

#[tokio::test]
async fn after_a_lapse_nothing_is_open_before_the_claims_were_looked_at() {
    let (_folder, mut server, bus) = ready("sync_interval: always").await;
    let one = join(&server, Terms::default()).await;
    let two = join(&server, Terms::default()).await;
    until("two halves", SECOND, || shared(&[&one, &two])).await;
    let (before, theirs) = (one.owned.open(), two.owned.open());
    // All leases end together, through nobody's fault.
    server.kill();
    until("the lapse", 4 * SECOND, || !one.owned.is_open(before.first_from(0).unwrap())).await;
    assert_eq!(one.owned.ours(), before, "nobody is known to have taken it");
    sleep(SECOND).await;
    server.restart();
    let open = |node: &Joined, parts: Parts| parts.iter().all(|part| node.owned.is_open(part));
    until("all to go on", 10 * SECOND, || open(&one, before) && open(&two, theirs)).await;
    sleep(3 * SECOND).await;
    assert_eq!((one.owned.open(), two.owned.open()), (before, theirs), "nothing has moved");
    drop(bus);
}

#[tokio::test]
async fn nothing_is_given_up_before_it_is_known_who_works() {
    let (_folder, server, _bus) = ready("").await;
    let one = join_idly(&server, Terms::default()).await;
    let two = join(&server, Terms::default()).await;
    until("to close half", SECOND, || one.owned.open().len() == 32).await;
    sleep(SECOND / 2).await;
    assert_eq!((one.owned.ours(), two.owned.ours()), (Parts::ALL, Parts::NONE));
    one.keeper.work_with(Arc::new(Busy::default())).await;
    until("two halves", SECOND, || shared(&[&one, &two])).await;
}

#[tokio::test(start_paused = true)]
async fn when_all_leases_end_at_once_nobody_takes_anything_over() {
    let ([first, second], end_all) = buckets_that_end();
    let (one, two) =
        (join_on(first, Terms::default()).await, join_on(second, Terms::default()).await);
    for node in [&one, &two] {
        node.keeper.work_with(Arc::new(Busy::default())).await;
    }
    until("two halves", SECOND, || shared(&[&one, &two])).await;
    let (before, theirs) = (one.owned.open(), two.owned.open());
    for ends in 0..10 {
        // As when the clock of the server that keeps them is set, at whatever moment between two renewals.
        sleep(Duration::from_millis(41 * ends)).await;
        end_all();
        for _ in 0..100 {
            let (mine, others) = (one.owned.ours(), two.owned.ours());
            assert_eq!((mine - before, others - theirs), (Parts::NONE, Parts::NONE));
            sleep(Duration::from_millis(30)).await;
        }
        assert_eq!((one.owned.open(), two.owned.open()), (before, theirs));
    }
}

#[tokio::test]
async fn a_bucket_that_was_emptied_is_filled_anew_as_it_was() {
    let (_folder, server, bus) = ready("").await;
    let one = join(&server, Terms::default()).await;
    let two = join(&server, Terms::default()).await;
    until("two halves", SECOND, || shared(&[&one, &two])).await;
    let (before, theirs) = (one.owned.open(), two.owned.open());
    let stream = bus.js().get_stream(bus.names().bucket_stream("OWN")).await.unwrap();
    stream.purge().await.unwrap();
    let own = NatsOwn::open(&bus).await.unwrap();
    let started = Instant::now();
    loop {
        assert!(started.elapsed() < 15 * SECOND, "{:?} {:?}", one.owned, two.owned);
        let (mine, others) = (one.owned.ours(), two.owned.ours());
        assert_eq!((mine - before, others - theirs), (Parts::NONE, Parts::NONE));
        let mut claimed = 0;
        for part in 0..PARTITIONS {
            claimed += u32::from(own.last(key(part)).await.unwrap().is_some());
        }
        if claimed == PARTITIONS && (one.owned.open(), two.owned.open()) == (before, theirs) {
            break;
        }
        sleep(Duration::from_millis(50)).await;
    }
    println!("claimed again after {:?}", started.elapsed());
}

#[tokio::test]
async fn a_bucket_that_cannot_be_followed_keeps_nobody_from_leaving() {
    let (_folder, server, bus) = ready("").await;
    let deaf = Deaf::on(Arc::new(NatsOwn::open(&bus).await.unwrap()));
    let one = join_on(Arc::clone(&deaf) as Arc<dyn OwnBucket>, Terms::default()).await;
    one.keeper.work_with(Arc::new(Busy::default())).await;
    deaf.is.store(true, Ordering::Release);
    deaf.now.notify_one();
    sleep(SECOND / 4).await;
    let two = join(&server, Terms::default()).await;
    let started = Instant::now();
    one.keeper.leave(SECOND).await;
    assert!(started.elapsed() < SECOND + STEP_WITHIN * 2, "{:?}", started.elapsed());
    assert_eq!(one.owned.ours(), Parts::NONE);
    until("all of it", SECOND, || two.owned.open() == Parts::ALL).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_given_up_is_taken_at_once_by_who_is_renewed_late() {
    let [first, second] = buckets();
    let one = join_on(first, Terms::default()).await;
    one.keeper.work_with(Arc::new(Busy::default())).await;
    let slow = Deaf::on(second);
    let two = join_on(Arc::clone(&slow) as Arc<dyn OwnBucket>, Terms::default()).await;
    two.keeper.work_with(Arc::new(Busy::default())).await;
    until("two halves", 4 * SECOND, || shared(&[&one, &two])).await;
    // A loaded machine: renewals are not confirmed in time, though the lease still holds.
    slow.late_ms.store(600, Ordering::Release);
    until("a late renewal", SECOND, || two.session.steady_since().is_none()).await;
    one.keeper.leave(SECOND).await;
    let took = until("all of it", SECOND / 4, || two.owned.open() == Parts::ALL).await;
    println!("handed over after {took:?}");
    assert!(two.session.steady_since().is_none());
}

#[tokio::test]
async fn each_partition_has_its_own_time_to_be_handed_over_in() {
    let (_folder, server, _bus) = ready("").await;
    let one = join_idly(&server, Terms { handover: SECOND }).await;
    let busy = Arc::new(Busy::default());
    *busy.0.lock().unwrap() = Parts::ALL;
    one.keeper.work_with(Arc::clone(&busy) as Arc<dyn Hands>).await;
    let two = join(&server, Terms::default()).await;
    until("to close half", SECOND, || one.owned.open().len() == 32).await;
    let first = one.owned.closing();
    sleep(SECOND * 3 / 4).await;
    let three = join(&server, Terms::default()).await;
    until("to close more", SECOND / 4, || !(one.owned.closing() - first).is_empty()).await;
    // Later ones do not put off the end of the first.
    until("to keep the first", SECOND / 2, || (one.owned.closing() & first).is_empty()).await;
    assert!(!one.owned.closing().is_empty());
    drop((two, three));
}

#[tokio::test(start_paused = true)]
async fn each_partition_that_is_kept_is_tried_again_at_its_own_time() {
    let [first, second, third] = buckets();
    let one = join_on(first, Terms { handover: SECOND }).await;
    let busy = Arc::new(Busy::default());
    *busy.0.lock().unwrap() = Parts::ALL;
    one.keeper.work_with(Arc::clone(&busy) as Arc<dyn Hands>).await;
    let two = join_on(second, Terms::default()).await;
    until("to close half", SECOND, || one.owned.closing().len() == 32).await;
    let early = one.owned.closing();
    until("to keep it", 2 * SECOND, || one.owned.closing().is_empty()).await;
    let kept_at = Instant::now();
    sleep(30 * SECOND).await;
    // Others are wanted elsewhere as well, and kept: that does not put the first off.
    let three = join_on(third, Terms::default()).await;
    until("to close more", SECOND, || !(one.owned.closing() - early).is_empty()).await;
    let later = one.owned.closing() - early;
    until("to keep those", 2 * SECOND, || one.owned.closing().is_empty()).await;
    until("to close the first", 60 * SECOND, || !one.owned.closing().is_empty()).await;
    let again = one.owned.closing();
    assert_eq!((again & later, again - early), (Parts::NONE, Parts::NONE));
    // What is seen here is seen some milliseconds late.
    let (after, late) = (kept_at.elapsed(), SECOND / 10);
    assert!(KEPT_FIRST.saturating_sub(late) < after && after < KEPT_FIRST + SECOND, "{after:?}");
    // For the second time: kept for twice as long, and only these.
    until("to keep them", 2 * SECOND, || one.owned.closing().is_empty()).await;
    let kept_at = Instant::now();
    until("to close the later", 60 * SECOND, || !one.owned.closing().is_empty()).await;
    assert_eq!(one.owned.closing() & again, Parts::NONE);
    let closing = || one.owned.closing() & again;
    until("to close the first once more", 180 * SECOND, || !closing().is_empty()).await;
    let after = kept_at.elapsed();
    assert!(
        (KEPT_FIRST * 2).saturating_sub(late) < after && after < KEPT_FIRST * 2 + SECOND,
        "{after:?}"
    );
    drop((two, three));
}

#[tokio::test(start_paused = true)]
async fn claims_that_cannot_be_asked_keep_nobody_from_anything_else() {
    let [own] = buckets();
    let deaf = Deaf::on(own);
    let one = join_on(Arc::clone(&deaf) as Arc<dyn OwnBucket>, Terms::default()).await;
    one.keeper.work_with(Arc::new(Busy::default())).await;
    deaf.unasked.store(true, Ordering::Release);
    one.owned.look_again();
    sleep(SECOND).await;
    let followed = || deaf.followed.load(Ordering::Acquire);
    let before = followed();
    deaf.silent.store(true, Ordering::Release);
    until("to be followed anew", WATCH_SILENT + SECOND, || followed() > before).await;
    deaf.silent.store(false, Ordering::Release);
    assert_eq!(one.owned.ours(), Parts::ALL);
    let started = Instant::now();
    one.keeper.leave(SECOND).await;
    assert!(started.elapsed() < 2 * SECOND, "{:?}", started.elapsed());
    assert_eq!(one.owned.ours(), Parts::NONE);
}

/// Sent while this node's session was over, and held up on its way until the node was back.
#[tokio::test(start_paused = true)]
async fn after_a_lapse_no_claim_comes_through_that_was_sent_before_it_was_over() {
    let [own, others] = buckets();
    let one = join_on(own, Terms::default()).await;
    one.keeper.work_with(Arc::new(Busy::default())).await;
    let claim = || others.last(key(7));
    let before = claim().await.unwrap().unwrap();
    one.owned.look_again();
    sleep(SECOND).await;
    assert_eq!(one.owned.open(), Parts::ALL);
    let theirs = Claim { session: Some(SessionId::draw()), node: "another".into() };
    let value = Some(serde_json::to_vec(&theirs).unwrap().into());
    let late = Draft { key: key(7), value, lives: None, expected: before.revision };
    assert!(matches!(others.write(late).await, Ok(Wrote::Replaced)), "over the claim of then");
    assert_eq!(claim().await.unwrap().unwrap().value, before.value);
}

/// Whoever is told of a change of these dies of it.
struct Fatal;

impl Hands for Fatal {
    fn changed(&self, _: Parts) {
        panic!("told");
    }

    fn quiet(&self, _: Parts) -> BoxFuture<'static, Parts> {
        std::future::ready(Parts::NONE).boxed()
    }
}

#[tokio::test]
async fn a_keeper_that_dies_is_noticed() {
    let (_folder, server, _bus) = ready("").await;
    let one = join(&server, Terms::default()).await;
    assert!(timeout(SECOND / 2, one.keeper.died()).await.is_err());
    one.keeper.work_with(Arc::new(Fatal)).await;
    timeout(SECOND, one.keeper.died()).await.unwrap();
}
