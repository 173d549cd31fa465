//! Whole nodes on real sockets, their ledger in a real NATS server, judged by the emulator: it counts arrivals
//! and shares no code with the gate.

use std::path::Path;

use tollgate_emulator::{Emulator, Profile, ProviderLimit};

use super::*;
use crate::config::Loaded;
use crate::health::BackHealth;
use crate::ledger::nats::NatsLedger;
use crate::nats::Bus;
use crate::nats::accord::{self, Accord};
use crate::nats::session::{About, Session, SessionId};
use crate::nats::tests::{plan as nats_plan, ready};
use crate::node::{Node, Seams};
use crate::testkit::nats_server::NatsServer;

/// A node at work, with a queue of its own.
struct Running {
    node: Node,
    queue: MemoryQueue,
    bus: Bus,
    session: Arc<Session>,
}

impl Running {
    async fn start(server: &NatsServer, emulator: &Emulator, limit: &str) -> Self {
        let mut plan = limited(limit);
        let platform = plan.platforms.values_mut().next().unwrap();
        Arc::get_mut(platform).unwrap().base_url = emulator.base_url().parse().unwrap();
        plan.collect.shards = 1;
        let bus = Bus::connect(&nats_plan(server), "node", false).await.unwrap();
        let about = About {
            node: "test".into(),
            version: "0".into(),
            started: jiff::Timestamp::UNIX_EPOCH,
            config: plan.hash.clone(),
        };
        let session = Session::start(&bus, SessionId::draw(), Vec::new(), &about).await.unwrap();
        let session = Arc::new(session);
        let back = Arc::new(BackHealth::default());
        session.watch(Arc::clone(&back));
        let queue = MemoryQueue::new();
        let seams = Seams {
            vault: Arc::new(crate::auth::vault::MemoryVault::default()),
            holds: crate::holds::Holds::default(),
            unknown: crate::node::Unknown::Die,
            owned: crate::cluster::Owned::default(),
            queue: Arc::new(queue.clone()),
            ledger: Arc::new(NatsLedger::open(&bus, Arc::clone(&session), 1).await.unwrap()),
            store: Store::memory(1 << 30).unwrap(),
            lending: None,
            notices: None,
            start_within: Duration::ZERO,
            back,
        };
        let node = Node::start(Arc::new(plan), seams, Clock::new()).await.unwrap();
        Self { node, queue, bus, session }
    }

    async fn put(&self, account: &str, ids: std::ops::Range<usize>) {
        let new = |id: usize| NewFetch {
            lane: lane(account, "a", Priority::Normal),
            id: id.to_string(),
            payload: format!(r#"{{"id":"{id}","platform":"p","account":"{account}","api":"a"}}"#)
                .into(),
            not_before: None,
        };
        self.node.intake().append(ids.map(new).collect()).await.unwrap();
    }

    fn done(&self) -> u64 {
        self.node.totals().fetches_done.get()
    }
}

fn limited(limit: &str) -> Plan {
    plan(&Setup {
        platform: format!(
            "timeouts = {{ connect = \"200ms\" }}\n[platforms.p.limits]\n{limit}\n\
             [platforms.p.apis.a]\npath = \"v1/reports/daily\"\nquery = {{ account = \"{{account}}\", n = \"{{id}}\" }}\n"
        ),
        concurrency: 64,
        attempts_max: 5,
        store: None,
        signals: None,
    })
}

fn provider(limits: impl Into<Vec<ProviderLimit>>) -> Emulator {
    Emulator::start(Profile {
        limits: limits.into(),
        account_from: tollgate_emulator::AccountFrom::Query("account".into()),
        ..Profile::default()
    })
    .unwrap()
}

fn real<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    actix_rt::System::new().block_on(async {
        crate::install_tls();
        test().await;
    });
}

async fn until(what: &str, within: Duration, mut is: impl FnMut() -> bool) {
    let started = Instant::now();
    while !is() {
        assert!(started.elapsed() < within, "not within {within:?}: {what}");
        sleep(ms(20)).await;
    }
}

#[test]
fn two_nodes_with_the_same_accounts_by_mistake_keep_every_limit_and_both_go_on() {
    real(|| async {
        let (_folder, server, _bus) = ready("").await;
        let emulator = provider([ProviderLimit::window("few", 2, secs(1))]);
        let limit = r#"few = { per = ["account"], max = 2, in = "1s" }"#;
        let one = Running::start(&server, &emulator, limit).await;
        let two = Running::start(&server, &emulator, limit).await;
        for account in 0..100 {
            let account = format!("x{account}");
            one.put(&account, 0..50).await;
            two.put(&account, 50..100).await;
        }
        // However slow the machine is: each gets on, and goes on getting on beside the other.
        for done in [50, 100] {
            until("both to get on", secs(60), || one.done() > done && two.done() > done).await;
        }
        let (calls, refused) = emulator.counts();
        println!(
            "calls {calls}, refused {refused}, done {} and {}, {:?}",
            one.done(),
            two.done(),
            emulator.score()
        );
        assert_eq!(refused, 0);
        for running in [&one, &two] {
            let totals = running.node.totals();
            assert_eq!((totals.fetches_dead.get(), totals.restarts.get()), (0, 0));
            assert!(running.queue.dead(None, 10).await.unwrap().is_empty());
        }
        one.node.drain(secs(1)).await;
        two.node.drain(secs(1)).await;
    });
}

#[test]
fn two_nodes_with_the_same_budget_by_mistake_keep_it() {
    real(|| async {
        let (_folder, server, _bus) = ready("").await;
        let emulator = provider([ProviderLimit::window("all", 20, secs(1)).per_platform()]);
        let limit = r#"all = { per = ["platform"], max = 20, in = "1s" }"#;
        let one = Running::start(&server, &emulator, limit).await;
        let two = Running::start(&server, &emulator, limit).await;
        for account in 0..30 {
            one.put(&format!("x{account}"), 0..20).await;
            two.put(&format!("y{account}"), 0..20).await;
        }
        sleep(secs(10)).await;
        let (calls, refused) = emulator.counts();
        println!("calls {calls}, done {} and {}, {:?}", one.done(), two.done(), emulator.score());
        assert_eq!(refused, 0);
        // Each takes the other's record for one of calls that may be on their way: exact, and slow, and one may
        // have all of it as long as nobody owns the budget.
        assert!(calls >= 60, "{calls}");
        assert!(one.done() + two.done() > 0, "{} and {}", one.done(), two.done());
        for running in [&one, &two] {
            assert_eq!(running.node.totals().restarts.get(), 0);
        }
        one.node.drain(secs(1)).await;
        two.node.drain(secs(1)).await;
    });
}

#[test]
fn an_outage_of_five_seconds_costs_no_quota() {
    for killed in [true, false] {
        real(|| async move {
            let (_folder, mut server, _bus) = ready("sync_interval: always").await;
            let emulator = provider([ProviderLimit::window("hour", 20, secs(3600))]);
            let limit = r#"hour = { per = ["account"], max = 20, in = "1h" }"#;
            let node = Running::start(&server, &emulator, limit).await;
            node.put("x", 0..8).await;
            until("eight calls", secs(20), || emulator.counts().0 == 8).await;
            if killed {
                server.kill();
            } else {
                // A record is on its way into the silence, and comes through when that is over.
                server.signal("STOP");
            }
            node.put("x", 8..50).await;
            sleep(secs(5)).await;
            assert_eq!(emulator.counts().0, 8, "nothing is called without a confirmed record");
            if killed {
                server.restart();
            } else {
                server.signal("CONT");
            }
            until("twenty calls", secs(20), || emulator.counts().0 == 20).await;
            sleep(secs(2)).await;
            assert_eq!(emulator.counts(), (20, 0), "killed: {killed}");
            node.node.drain(secs(1)).await;
        });
    }
}

#[test]
fn a_server_that_comes_back_with_an_older_ledger_opens_no_window() {
    real(|| async {
        let (folder, mut server, bus) = ready("").await;
        let emulator = provider([ProviderLimit::window("some", 12, secs(10))]);
        let limit = r#"some = { per = ["account"], max = 12, in = "10s" }"#;
        let node = Running::start(&server, &emulator, limit).await;
        node.put("x", 0..3).await;
        until("three calls", secs(20), || emulator.counts().0 == 3).await;
        sleep(ms(300)).await;
        let (store, older) = (folder.path().join("jetstream"), folder.path().join("older"));
        server.kill();
        copy(&store, &older);
        server.restart();
        node.put("x", 3..9).await;
        until("nine calls", secs(20), || emulator.counts().0 == 9).await;
        server.kill();
        std::fs::remove_dir_all(&store).unwrap();
        std::fs::rename(&older, &store).unwrap();
        server.restart();
        node.put("x", 9..40).await;
        until("all that the window allows", secs(20), || emulator.counts().0 == 12).await;
        until("the next window", secs(30), || emulator.counts().0 == 24).await;
        assert_eq!(emulator.counts().1, 0, "refused");
        assert_eq!(node.node.totals().restarts.get(), 0);
        node.node.drain(secs(1)).await;
        drop(bus);
    });
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn a_looser_limit_waits_until_nobody_has_the_stricter_one_and_others_can_be_told() {
    real(|| async {
        let (_folder, server, bus) = ready("").await;
        let emulator = provider([]);
        let few = |max: u32| format!(r#"few = {{ per = ["account"], max = {max}, in = "1s" }}"#);
        let one = Running::start(&server, &emulator, &few(2)).await;
        let strict = Plan::clone(&one.node.plan().get());
        accord::publish(&bus, &strict).await.unwrap();
        let (mut accord, _) =
            Accord::reach(&one.bus, Arc::clone(&one.session), &strict).await.unwrap();
        // It has the same limits, and shows itself after the first has looked around.
        let about = About {
            node: "two".into(),
            version: "0".into(),
            started: jiff::Timestamp::UNIX_EPOCH,
            config: strict.hash.clone(),
        };
        let two = Session::start(&bus, SessionId::draw(), Vec::new(), &about).await.unwrap();
        let reloader = one.node.reloader_beside(strict, accord.in_force());
        let following = actix_rt::spawn(accord.follow(reloader.clone()));
        let in_force = || {
            let plan = one.node.plan().get();
            plan.platforms.values().next().unwrap().limits.limits()[0].rule.max()
        };
        let read = async |max: u32| {
            let plan = limited(&few(max));
            reloader.take(Ok(Loaded { plan, warnings: Vec::new() })).await
        };
        let stays = async |max: u32, within: Duration| {
            let since = Instant::now();
            while since.elapsed() < within {
                assert_eq!(in_force(), max, "after {:?}", since.elapsed());
                sleep(ms(1)).await;
            }
        };
        read(20).await;
        stays(2, secs(2)).await;
        two.end().await.unwrap();
        until("its own alone", secs(5), || in_force() == 20).await;
        // Nobody can be told of the next.
        bus.js().delete_stream(bus.names().bucket_stream("CONF")).await.unwrap();
        read(30).await;
        let mut own = bus.client().subscribe(bus.names().bucket_key("OWN", "n.*")).await.unwrap();
        stays(20, secs(3)).await;
        let mut written = 0;
        while tokio::time::timeout(ms(10), futures_util::StreamExt::next(&mut own)).await.is_ok() {
            written += 1;
        }
        assert!(written < 10, "a renewal each 0.8 s, not {written}");
        // A stricter one need not wait.
        read(5).await;
        assert_eq!(in_force(), 5);
        read(30).await;
        crate::nats::setup(&bus, &nats_plan(&server), true).await.unwrap();
        until("it to be told", secs(10), || in_force() == 30).await;
        following.abort();
        one.node.drain(secs(1)).await;
    });
}
