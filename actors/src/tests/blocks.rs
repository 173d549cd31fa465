//! Accounts without limits: a record for many permits, and what a crash makes of them.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use super::oracle::some_ms;
use super::*;
use crate::ledger::Ledger;
use crate::ledger::record::{Record, Tries};
use crate::shard::Drain;

/// What outlives a process.
struct World {
    clock: Clock,
    queue: MemoryQueue,
    ledger: MemoryLedger,
    store: Store,
    fetches: BTreeMap<Seq, String>,
}

/// How a process ended.
struct Ended {
    /// Every call, by fetch, and whether it went on when the process ended.
    calls: Vec<(String, bool)>,
    records: Vec<Record>,
    /// The record that it left behind.
    last: Option<Record>,
    /// What it left in the queue.
    left: u64,
}

impl World {
    fn new() -> Self {
        Self {
            clock: Clock::starting_at(wall()),
            queue: MemoryQueue::starting(wall()),
            ledger: MemoryLedger::new(),
            store: Store::memory(1 << 30).unwrap(),
            fetches: BTreeMap::new(),
        }
    }

    async fn put(&mut self, api: &str, id: &str, priority: Priority) {
        let fetch = NewFetch {
            lane: lane("x", api, priority),
            id: id.into(),
            payload: format!(r#"{{"id":"{id}","platform":"p","account":"x","api":"{api}"}}"#)
                .into(),
            not_before: None,
        };
        let appended = self.queue.append(vec![fetch]).await.unwrap();
        let [Appended::New(seq)] = appended[..] else { panic!("{id} was not new") };
        self.fetches.insert(seq, id.into());
    }

    /// A process that works until nothing is left or `over` says so, and is then gone between two of its
    /// steps, as after kill -9.
    fn run(
        &mut self,
        concurrency: usize,
        ledger_takes: Duration,
        script: impl Fn(&Seen) -> Reply + 'static,
        mut over: impl FnMut(Duration) -> bool,
    ) -> Ended {
        let mut ended = None;
        paused(|| async {
            let setup = Setup { store: Some(self.store.clone()), ..limits("") };
            let setup = setup.concurrency(concurrency);
            let (clock, queue) = (self.clock.clone(), self.queue.clone());
            let rig = Rig::start_on(setup, clock, queue, self.ledger.clone(), script);
            rig.ledger.inner.delay(ledger_takes);
            for (seq, id) in &self.fetches {
                rig.log.name(*seq, id);
            }
            let left = async || {
                let lanes = self.queue.account_lanes(key("x")).await.unwrap();
                lanes.iter().map(|lane| lane.waiting).sum::<u64>()
            };
            rig.shared.totals.come(left().await);
            rig.discover().await;
            while rig.shared.totals.outstanding() > 0 && !over(rig.start.elapsed()) {
                assert!(rig.start.elapsed() < secs(3600), "stuck: {:?}", rig.look().await);
                sleep(Duration::from_micros(500)).await;
            }
            rig.log.assert_recorded_before_called();
            assert_eq!(rig.shared.totals.restarts.get(), 0);
            let seen = rig.wire.seen();
            let calls = seen.iter().map(|seen| (id_of(seen), seen.ended.is_none()));
            self.ledger.delay(ms(0));
            let last = self.ledger.load(key("x")).await.unwrap();
            ended = Some(Ended {
                calls: calls.collect(),
                records: rig.log.records("x").into_iter().map(|(_, record)| record).collect(),
                last: last.map(|stored| Record::decode(&stored.record).unwrap()),
                left: left().await,
            });
        });
        self.ledger = self.ledger.take_over();
        ended.unwrap()
    }

    fn seq(&self, id: &str) -> Seq {
        *self.fetches.iter().find(|(_, name)| *name == id).unwrap().0
    }
}

#[test]
fn a_thousand_fetches_without_limits_take_a_few_records() {
    for concurrency in [1, 4, 64, 200] {
        paused(|| async move {
            let rig = Rig::start(limits("").concurrency(concurrency), |_| {
                Reply::ok("{}").head_after(ms(5))
            });
            rig.put_many("x", "a", 1000).await;
            rig.all_end(secs(600)).await;
            assert_eq!((rig.done(), rig.wire.count()), (1000, 1000));
            rig.log.assert_recorded_before_called();
            let records = rig.log.records("x").len();
            println!("{concurrency} at a time: {records} records");
            assert!(records <= 22, "{concurrency} at a time: {records} records");
            for (_, record) in rig.log.records("x") {
                let open = record.open.iter().map(|stretch| stretch.to.0 - stretch.from.0 + 1);
                assert!(open.clone().all(|fetches| fetches <= 64), "{:?}", record.open);
            }
        });
    }
}

#[test]
fn fetches_that_come_one_by_one_share_records_too() {
    paused(|| async {
        let rig = Rig::start(limits(""), |_| Reply::ok("{}").head_after(ms(30)));
        for number in 0..300 {
            rig.put("x", "a", &number.to_string()).await;
            sleep(ms(20)).await;
        }
        rig.all_end(secs(60)).await;
        for (number, (at, _)) in rig.calls().into_iter().enumerate() {
            assert_eq!(at, 20 * number as u64, "each went when it came");
        }
        rig.log.assert_recorded_before_called();
        let records = rig.log.records("x").len();
        assert!(records <= 6, "{records} records");
    });
}

#[test]
fn with_any_limit_each_permit_has_its_record() {
    for limit in [
        r#"gap = { per = ["account"], every = "1ms" }"#,
        r#"slots = { per = ["account"], concurrent = 50 }"#,
    ] {
        paused(|| async move {
            let rig =
                Rig::start(limits(limit).concurrency(8), |_| Reply::ok("{}").head_after(ms(5)));
            rig.put_many("x", "a", 100).await;
            rig.all_end(secs(60)).await;
            rig.log.assert_recorded_before_called();
            let records = rig.log.records("x");
            assert!(records.iter().all(|(_, record)| record.open.is_empty()));
            let named: BTreeSet<Seq> =
                records.iter().flat_map(|(_, record)| &record.flying).map(|f| f.seq).collect();
            assert_eq!(named.len(), 100);
        });
    }
}

#[test]
fn one_poisoned_fetch_dies_and_its_neighbours_are_called_twice_at_most() {
    for seed in 0..24 {
        let mut random = fastrand::Rng::with_seed(seed);
        let poisoned = random.usize(0..1000);
        let concurrency = [1, 3, 20, 64, 200][random.usize(0..5)];
        let mut world = World::new();
        at_once(async {
            for number in 0..1000 {
                let id = if number == poisoned { "poison".into() } else { number.to_string() };
                world.put("a", &id, Priority::Normal).await;
            }
        });
        let mut calls = BTreeMap::<String, usize>::new();
        let mut kills = 0;
        loop {
            let killed = Rc::new(Cell::new(false));
            let (kills_it, lot) = (Rc::clone(&killed), RefCell::new(random.fork()));
            let script = move |seen: &Seen| {
                if id_of(seen) == "poison" {
                    kills_it.set(true);
                    return Reply::silence();
                }
                Reply::ok("{}").head_after(some_ms(&mut lot.borrow_mut(), 20))
            };
            let ended = world.run(concurrency, ms(seed % 3), script, |_| killed.get());
            for (id, _) in ended.calls {
                *calls.entry(id).or_default() += 1;
            }
            if !killed.get() {
                assert_eq!(ended.left, 0, "seed {seed}");
                break;
            }
            kills += 1;
            assert!(kills <= 5, "seed {seed}");
        }
        let dead = at_once(world.queue.dead(None, 1000)).unwrap();
        let dead: Vec<(Option<String>, String)> =
            dead.into_iter().map(|l| (l.dead.fetch.and_then(|f| f.id), l.dead.code)).collect();
        assert_eq!(dead, [(Some("poison".into()), "TG0209".into())], "seed {seed}");
        assert_eq!(calls.remove("poison"), Some(kills), "seed {seed}");
        assert!((4..=5).contains(&kills), "seed {seed}: {kills}");
        assert_eq!(calls.len(), 999, "seed {seed}");
        assert!(
            calls.values().all(|calls| *calls <= 2),
            "seed {seed}: {:?}",
            calls.iter().filter(|(_, calls)| **calls > 2).collect::<Vec<_>>()
        );
    }
}

#[test]
fn killed_at_any_moment_every_call_that_went_on_is_in_the_record_and_tried_for_itself() {
    // One fewer than condemn a fetch.
    const KILLS: u8 = 3;
    let mut by_block = 0;
    for seed in 0..60 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut world = World::new();
        let count = random.usize(1..300);
        at_once(async {
            for number in 0..count {
                let api = ["a", "b"][random.usize(0..2)];
                let priority = [Priority::High, Priority::Normal][random.usize(0..2)];
                world.put(api, &number.to_string(), priority).await;
            }
        });
        let mut cut_off = BTreeSet::<String>::new();
        for round in 0..=KILLS {
            let lot = RefCell::new(random.fork());
            let script = move |_: &Seen| {
                let mut lot = lot.borrow_mut();
                let reply = if round < KILLS && lot.u8(0..20) == 0 {
                    Reply::status(500)
                } else {
                    Reply::ok("{}")
                };
                reply.head_after(some_ms(&mut lot, 40))
            };
            let until = if round < KILLS { some_ms(&mut random, 150) } else { secs(7200) };
            let (concurrency, takes) = (random.usize(1..70), some_ms(&mut random, 8));
            let ended = world.run(concurrency, takes, script, |elapsed| elapsed >= until);
            // Who was cut off by the kill before is named by a record if it is called again.
            let named: BTreeSet<Seq> =
                ended.records.iter().flat_map(|record| &record.flying).map(|f| f.seq).collect();
            for (id, _) in ended.calls.iter().filter(|(id, _)| cut_off.contains(id)) {
                assert!(named.contains(&world.seq(id)), "seed {seed}, round {round}: {id}");
            }
            let going_on = ended.calls.iter().filter(|(_, going_on)| *going_on);
            cut_off = going_on.map(|(id, _)| id.clone()).collect();
            for id in &cut_off {
                let (seq, record) = (world.seq(id), ended.last.as_ref().unwrap());
                let flying = record.flying.iter().any(|flying| flying.seq == seq);
                let held = |s: &crate::ledger::record::Stretch| (s.from..=s.to).contains(&seq);
                let open = record.open.iter().any(held);
                assert!(flying || open, "seed {seed}, round {round}: {id} is in no record");
                by_block += usize::from(!flying);
            }
            if round == KILLS {
                assert_eq!(ended.left, 0, "seed {seed}");
                assert!(at_once(world.queue.dead(None, 10)).unwrap().is_empty());
            }
        }
    }
    assert!(by_block > 100, "{by_block} calls were cut off in a block");
}

#[test]
fn after_a_crash_the_fetches_of_a_block_go_one_at_a_time_and_what_was_stored_is_not_called() {
    let mut world = World::new();
    at_once(async {
        for number in 0..1000 {
            world.put("a", &number.to_string(), Priority::Normal).await;
        }
    });
    // Ten at a time: those of the first batch are named, the rest of what was read is in the block.
    let first = world.run(10, ms(0), |_| Reply::ok("{}").head_after(ms(10)), |at| at >= ms(55));
    let last = first.last.unwrap();
    let in_block: Vec<Seq> = world
        .fetches
        .keys()
        .filter(|seq| last.open.iter().any(|stretch| (stretch.from..=stretch.to).contains(seq)))
        .copied()
        .collect();
    let called: BTreeSet<String> = first.calls.into_iter().map(|(id, _)| id).collect();
    assert!(in_block.len() > 20, "{last:?}");
    let (open, most) = (Rc::new(RefCell::new(BTreeSet::new())), Rc::new(Cell::new(0)));
    let (suspects, now, max) = (in_block.clone(), Rc::clone(&open), Rc::clone(&most));
    let ids: BTreeMap<String, Seq> =
        world.fetches.iter().map(|(seq, id)| (id.clone(), *seq)).collect();
    let second = world.run(
        50,
        ms(0),
        move |seen| {
            if suspects.contains(&ids[&id_of(seen)]) {
                let at = Instant::now();
                let mut now = now.borrow_mut();
                now.retain(|until: &Instant| *until > at);
                now.insert(at + ms(10));
                max.set(max.get().max(now.len()));
            }
            Reply::ok("{}").head_after(ms(10))
        },
        |_| false,
    );
    assert_eq!(second.left, 0);
    assert_eq!(most.get(), 1, "one of them at a time");
    // Nobody was condemned or counted as crashed who was not named.
    for record in &second.records {
        for flying in record.flying.iter().filter(|flying| in_block.contains(&flying.seq)) {
            assert!(last.flying.contains(flying) || flying.tries == Tries::default());
        }
    }
    let again = second.calls.iter().filter(|(id, _)| called.contains(id)).count();
    assert_eq!(again, 10, "what was in flight");
    assert!(
        second.records.last().unwrap().suspected.is_empty(),
        "in the end nobody is suspected: {:?}",
        second.records.last()
    );
}

#[test]
fn a_drain_leaves_no_open_block_and_the_next_process_suspects_nobody() {
    paused(|| async {
        let rig = Rig::start(limits("").concurrency(4), |_| Reply::ok("{}").head_after(ms(10)));
        rig.put_many("x", "a", 300).await;
        rig.at(45).await;
        assert!(!rig.log.records("x").pop().unwrap().1.open.is_empty());
        rig.shard.send(Drain { within: secs(10) }).await.unwrap();
        let (_, last) = rig.log.records("x").pop().unwrap();
        assert!(last.open.is_empty() && last.flying.is_empty(), "{last:?}");
        let left = 300 - rig.done();
        let (clock, queue) = (rig.shared.clock.clone(), rig.queue.clone());
        let ledger = rig.ledger.inner.take_over();
        let next =
            Rig::start_on(limits(""), clock, queue, ledger, |_| Reply::ok("{}").head_after(ms(10)));
        next.shared.totals.come(left);
        next.discover().await;
        next.all_end(secs(60)).await;
        assert_eq!(rig.done() + next.done(), 300);
        assert_eq!(next.wire.open_max(), 64);
        assert_eq!(rig.wire.count() + next.wire.count(), 300, "nobody twice");
    });
}

/// Waits for what needs no runtime.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    futures_util::FutureExt::now_or_never(future).expect("nothing in memory has to be waited for")
}
