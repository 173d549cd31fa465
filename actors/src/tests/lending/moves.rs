//! Budgets that move while calls of theirs go on, owners that die, and what is told to whom that is not the owner.

use super::*;
use crate::budget::exchange::Remembered;
use crate::testkit::on_points;

fn slots_of(max: usize) -> String {
    format!("slots = {{ per = [\"platform\"], concurrent = {max} }}\n")
}

/// One whose id begins with `long` takes so long, all others 0.3 s.
fn long(takes: Duration) -> impl Fn(&Seen) -> Reply + Clone {
    move |seen: &Seen| {
        let is_long = id_of(seen).starts_with("long");
        Reply::ok("{}").head_after(if is_long { takes } else { ms(300) })
    }
}

impl Cluster {
    /// A call that takes long, by an account of that node.
    async fn put_long(&self, node: usize) {
        let account = self.accounts(node, 1).remove(0);
        self.nodes[node].rig.put(&account, "a", &format!("long{node}")).await;
        sleep(ms(500)).await;
        assert_eq!(self.nodes[node].rig.wire.count(), 1);
    }

    async fn put_at(&self, node: usize, each: usize) {
        for account in self.accounts(node, 3) {
            self.nodes[node].rig.put_many(&account, "a", each).await;
        }
    }
}

#[test]
fn a_call_longer_than_lost_call_keeps_its_place_wherever_its_budget_moves() {
    // Made by the first owner itself, or by one that it was lent to.
    for holder in [0, 1] {
        paused(|| async move {
            let cluster = Cluster::start(1, &slots_of(3), long(secs(55))).await;
            cluster.put_long(holder).await;
            cluster.hand_over(2).await;
            cluster.put_at(2, 150).await;
            // Also to whoever makes the call, and away again.
            for to in [1, 0, 2] {
                sleep(secs(7)).await;
                cluster.hand_over(to).await;
            }
            cluster.all_end(secs(200)).await;
            cluster.assert_limits(&[slots(3)]);
            assert_eq!(cluster.seen().len(), 451);
            // Two places beside, and three when it is over.
            assert_eq!(cluster.most_open(2..3, 30_000..55_000), 2);
            assert_eq!(cluster.most_open(2..3, 56_500..58_000), 3);
        });
    }
}

#[test]
fn the_owner_of_before_frees_no_place_of_a_holder_that_goes_after_the_move() {
    paused(|| async {
        let cluster = Cluster::start(1, &slots_of(3), long(secs(18))).await;
        cluster.put_long(1).await;
        cluster.hand_over(2).await;
        cluster.put_at(2, 70).await;
        sleep(secs(1)).await;
        cluster.cut(1);
        cluster.end_session(1);
        cluster.nodes[2].rig.all_end(secs(100)).await;
        cluster.assert_limits(&[slots(3)]);
        assert_eq!(cluster.most_open(2..3, 3_000..18_000), 2);
        // Nobody tells that it is over.
        assert_eq!(cluster.most_open(2..3, 23_000..24_000), 3);
    });
}

#[test]
fn a_dead_owners_own_calls_keep_their_places_for_a_minute_and_those_it_lent_for_ten() {
    paused(|| async {
        let five = |seen: &Seen| {
            let is_long = id_of(seen).starts_with("long");
            Reply::ok("{}").head_after(secs(if is_long { 55 } else { 5 }))
        };
        let cluster = Cluster::start_with(1, "", &slots_of(3), five).await;
        cluster.put_long(0).await;
        cluster.put_long(1).await;
        // Of the one it is known that its process is gone, of the other nothing.
        cluster.cut(1);
        cluster.cut(0);
        cluster.nodes[0].rig.ledger.inner.ends_as(Writer::Dead);
        cluster.take(2);
        cluster.put_at(2, 100).await;
        cluster.nodes[2].rig.all_end(secs(2000)).await;
        assert_eq!(cluster.most_open(2..3, 2_000..60_000), 1);
        assert_eq!(cluster.most_open(2..3, 62_000..600_000), 2);
        assert_eq!(cluster.most_open(2..3, 605_000..620_000), 3);
    });
}

#[test]
fn places_known_from_a_record_alone_outlive_the_budgets_actor_and_no_others() {
    paused(|| async {
        let cluster = Cluster::start(1, &slots_of(3), long(secs(15))).await;
        cluster.put_long(1).await;
        cluster.hand_over(2).await;
        cluster.put_at(2, 60).await;
        sleep(secs(3)).await;
        let dies = Rc::new(Cell::new(true));
        let _hooked = on_points(move |name, _| {
            assert!(!(name == "budget step" && dies.replace(false)), "it panics on purpose");
        });
        cluster.nodes[2].rig.all_end(secs(100)).await;
        assert_eq!(cluster.nodes[2].rig.shared.totals.restarts.get(), 1);
        cluster.assert_limits(&[slots(3)]);
        assert_eq!(cluster.most_open(2..3, 6_000..15_000), 2);
        assert_eq!(cluster.most_open(2..3, 16_000..17_000), 3);
    });
}

#[test]
fn what_is_told_to_the_owner_of_before_reaches_the_next_one() {
    paused(|| async {
        let cluster = Cluster::start(1, &slots_of(1), long(secs(2))).await;
        cluster.put_long(1).await;
        // It hears nothing of the move, and tells the end of its call to the first owner.
        cluster.blind.set(Some(1));
        cluster.hand_over(2).await;
        let next = cluster.accounts(2, 1).remove(0);
        cluster.nodes[2].rig.put(&next, "a", "next").await;
        cluster.nodes[2].rig.all_end(secs(10)).await;
        let times = cluster.nodes[2].rig.times_of("next");
        assert!(matches!(times[..], [2_000..2_200]), "{times:?}");
        cluster.blind.set(None);
        cluster.show();
        cluster.all_end(secs(10)).await;
        cluster.assert_limits(&[slots(1)]);
    });
}

#[test]
fn a_hand_over_that_comes_to_nothing_holds_up_nobody() {
    paused(|| async {
        let cluster = Cluster::start(1, &window(20, 1000), |_| Reply::ok("{}")).await;
        let (owner, part) = (&cluster.nodes[0], Parts::one(cluster.part));
        owner.owned.close(part);
        cluster.changed(0);
        cluster.put_at(0, 3).await;
        sleep(ms(500)).await;
        assert_eq!(owner.rig.wire.count(), 0);
        let back = owner.rig.ms(Instant::now());
        owner.owned.gain(part);
        cluster.changed(0);
        owner.rig.all_end(secs(10)).await;
        let last = cluster.last();
        assert!(last < back + 100, "{last} after {back}");
    });
}

#[test]
fn an_ask_for_a_budget_that_its_owner_does_not_have_is_answered() {
    paused(|| async {
        let cluster = Cluster::start(1, &window(20, 1000), |_| Reply::ok("{}")).await;
        let lacks = setup("", "own = { per = [\"account\"], max = 20, in = \"1s\" }\n");
        cluster.nodes[0].rig.reload(&lacks).await;
        cluster.put_at(1, 1).await;
        sleep(ms(100)).await;
        let carried = cluster.net.lock().unwrap().carried;
        for _ in 0..10 {
            sleep(secs(1)).await;
            let look = cluster.nodes[1].rig.look().await;
            let because = look.accounts.iter().find_map(|look| look.because.clone()).unwrap();
            assert!(
                because.contains("another one in the configuration at node node0"),
                "{because}"
            );
        }
        assert_eq!(cluster.seen().len(), 0);
        // Three accounts ask each second at most, and each is answered.
        let carried = cluster.net.lock().unwrap().carried - carried;
        assert!(carried <= 80, "{carried} letters in 10 s");
        cluster.nodes[0].rig.reload(&setup("", &window(20, 1000))).await;
        cluster.all_end(secs(10)).await;
        assert_eq!(cluster.seen().len(), 3);
    });
}

#[test]
fn what_became_of_permits_is_remembered_for_a_minute() {
    paused(|| async {
        let cluster = Cluster::start(1, &window(50, 1000), |_| Reply::ok("{}")).await;
        cluster.put_at(1, 10).await;
        cluster.all_end(secs(10)).await;
        let exchange = cluster.net.lock().unwrap().exchanges[&cluster.nodes[1].id].clone();
        let remembered = || async { exchange.send(Remembered).await.unwrap() };
        // The owner's records of the last asks have the ends of those before.
        let (budgets, ends) = remembered().await;
        assert!(budgets == 1 && (1..=60).contains(&ends), "{budgets}, {ends}");
        sleep(secs(61)).await;
        assert_eq!(remembered().await, (0, 0));
    });
}
