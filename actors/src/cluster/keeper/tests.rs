//! Against a real server.

use std::sync::Mutex;

use super::*;
use crate::nats::Bus;
use crate::nats::session::{About, Lease};
use crate::nats::tests::{plan, ready};
use crate::testkit::nats_server::NatsServer;

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

async fn join(server: &NatsServer, terms: Terms) -> Joined {
    let bus = Bus::connect(&plan(server), "node", false).await.unwrap();
    let about = About {
        node: "test".into(),
        version: "0".into(),
        started: jiff::Timestamp::UNIX_EPOCH,
        config: "none".into(),
    };
    let (owned, lease) = (Owned::nothing(), Lease::of(Duration::from_secs(2)));
    let id = SessionId::draw();
    let session = Session::start_with(&bus, id, Vec::new(), &about, lease, owned.clone()).await;
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
    let one = join(&server, terms).await;
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
