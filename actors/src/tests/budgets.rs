//! Limits wider and narrower than an account: exact, fair, in nobody's way, whoever dies.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use super::oracle::{Limit, Rule, assert_never_too_many, assert_never_too_many_among, some_ms};
use super::*;
use crate::ledger::Writer;
use crate::ledger::memory::Fault;
use crate::testkit::on_points;

/// Limits and further TOML of the platform, with two apis that take `object`, and one, `free`, beside.
fn budgets(limits: &str, more: &str) -> Setup {
    let platform = format!(
        "{more}\n[platforms.p.limits]\n{limits}\n\
         [platforms.p.apis.a]\npath = \"a/{{id}}\"\nparams = [\"object\", \"region\"]\n\
         [platforms.p.apis.b]\npath = \"b/{{id}}\"\nparams = [\"object\", \"region\"]\n\
         [platforms.p.apis.free]\npath = \"free/{{id}}\"\n"
    );
    Setup { platform, concurrency: 64, attempts_max: 5, store: None, signals: None }
}

fn window(per: &str, max: usize, ms: u64) -> String {
    format!("{{ per = [{per}], max = {max}, in = \"{ms}ms\", guard = \"25ms\" }}")
}

const fn at_most(max: usize, ms: u64) -> Limit {
    Limit { rule: Rule::Max(max, ms), per_api: false, guard: Some(25) }
}

/// Calls of these apis.
fn calls_of(rig: &Rig, wanted: impl Fn(&Seen) -> bool) -> Vec<Seen> {
    rig.wire.seen().into_iter().filter(wanted).collect()
}

/// How even it is that these were served: 1 is wholly, 1 / n is one alone
/// (<https://arxiv.org/abs/cs/9809099>).
fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    sum * sum / (shares.len() as f64 * shares.iter().map(|share| share * share).sum::<f64>())
}

async fn put_with(rig: &Rig, account: &str, api: &str, id: &str, params: &str) {
    let params = format!(r#""params":{params}"#);
    rig.put_as(account, api, id, Priority::Normal, &params).await;
}

#[test]
fn what_all_accounts_share_is_found_among_many_other_budgets() {
    paused(|| async {
        let day = 24 * 3_600_000;
        let objects = window("\"params.object\"", 5, day);
        let limits = format!("all = {}\nobjects = {objects}", window("\"platform\"", 600, day));
        let rig = Rig::start(budgets(&limits, ""), |_| Reply::ok("{}"));
        let viewer = crate::node::Viewer::new(&vec![rig.shard.clone()].into(), &rig.shared);
        for n in 0..620 {
            let (account, params) = (format!("x{}", n % 20), format!(r#"{{"object":"o{n}"}}"#));
            put_with(&rig, &account, "a", &n.to_string(), &params).await;
        }
        rig.at(5_000).await;
        // Accounts went to rest before they were told of all that they had read.
        rig.discover().await;
        let all = viewer.overview().await;
        assert_eq!((rig.done(), all.waiting), (600, 20));
        // The whole of it is used up until tomorrow.
        let eta = all.eta.unwrap().at.duration_since(wall());
        assert!(eta.as_hours() >= 23, "{eta:?}");
    });
}

#[test]
fn a_limit_of_all_accounts_together_is_exact_fair_and_used_up() {
    paused(|| async {
        let all = format!("all = {}", window(r#""platform""#, 10, 1000));
        let rig = Rig::start(budgets(&all, ""), |_| Reply::ok("{}").head_after(ms(20)));
        for account in 0..50 {
            rig.put_many(&format!("x{account}"), "a", 20).await;
        }
        rig.at(50_500).await;
        let mut shares = BTreeMap::<String, f64>::new();
        // The first were alone when they came, and took what was there.
        for seen in rig.wire.seen().iter().filter(|seen| rig.ms(seen.begun) > 0) {
            *shares.entry(account_of(seen)).or_default() += 1.0;
        }
        let shares: Vec<f64> = shares.into_values().collect();
        assert_eq!(shares.len(), 50);
        assert!(jain(&shares) > 0.99, "{} {shares:?}", jain(&shares));
        rig.all_end(secs(600)).await;
        let seen = rig.wire.seen();
        assert_never_too_many_among(&rig, &seen, "the platform", at_most(10, 1000));
        assert_eq!(seen.len(), 1000);
        // 99 windows after the first ten calls; each costs what the answer's head takes, 20 ms, and no more.
        let last = rig.ms(seen.iter().map(|seen| seen.begun).max().unwrap());
        assert_eq!(last, 99 * 1020);
        rig.log.assert_recorded_before_called();
        sleep(secs(30)).await;
        assert_eq!(rig.shared.slots.available_permits(), 64);
    });
}

#[test]
fn who_waits_for_a_budget_holds_no_slot_and_delays_nobody_who_needs_none() {
    paused(|| async {
        let limits = format!(
            "all = {{ per = [\"platform\"], every = \"1s\", when = {{ api = [\"a\", \"b\"] }} }}\n\
             own = {}",
            window(r#""account""#, 1, 100)
        );
        let setup = budgets(&limits, "").concurrency(2);
        let rig = Rig::start(setup, |_| Reply::ok("{}"));
        for account in 0..40 {
            rig.put_many(&format!("x{account}"), "a", 3).await;
        }
        rig.put_many("y", "free", 100).await;
        // One account with work of both kinds: its lane of `free` goes on, too.
        rig.put_many("z", "a", 1).await;
        rig.put_many("z", "free", 50).await;
        rig.at(9_999).await;
        let free = |of: &str| calls_of(&rig, |s| api_of(s) == "free" && account_of(s) == of).len();
        assert_eq!((free("y"), free("z")), (100, 50));
        assert_eq!(calls_of(&rig, |seen| api_of(seen) == "a").len(), 10);
        rig.all_end(secs(600)).await;
        let every = Limit { rule: Rule::Every(1000), per_api: false, guard: Some(25) };
        let all = calls_of(&rig, |seen| api_of(seen) == "a");
        assert_never_too_many_among(&rig, &all, "the platform", every);
    });
}

#[test]
fn what_an_account_waits_for_and_until_when_is_told() {
    paused(|| async {
        let all = format!("hourly = {}", window(r#""app""#, 2, 3_600_000));
        let setup = budgets(&all, "keys = { app = \"main\" }");
        let rig = Rig::start(setup, |_| Reply::ok("{}"));
        for account in ["x", "y", "z"] {
            rig.put_many(account, "a", 1).await;
        }
        rig.at(1_000).await;
        let looks = rig.look().await;
        let waits: Vec<_> = looks.accounts.iter().filter(|look| look.waiting > 0).collect();
        let [look] = waits.as_slice() else { panic!("{looks:?}") };
        assert_eq!(look.because.as_deref(), Some("hourly (app main)"));
        assert_eq!(look.until.unwrap().duration_since(wall()).as_secs(), 3600);
        assert_eq!(looks.live, 0, "all of them rest");
        rig.all_end(secs(7200)).await;
        assert_eq!(rig.ms(rig.wire.seen()[2].begun), 3_600_000);
    });
}

#[test]
fn several_budgets_at_once_are_each_exact_and_nobody_starves() {
    for seed in 0..8 {
        paused(|| async move {
            let mut random = fastrand::Rng::with_seed(seed);
            let limits = format!(
                "all = {}\nregion = {}\nobject = {}\nown = {}\nslots = {{ per = [\"region\"], concurrent = 3 }}",
                window(r#""platform""#, 7, 1000),
                window(r#""region""#, 4, 900),
                window(r#""params.object""#, 1, 300),
                window(r#""account""#, 3, 1100),
            );
            let setup = budgets(&limits, "keys = { region = \"{region|default('eu')}\" }");
            let replies = RefCell::new(random.fork());
            let rig = Rig::start(setup, move |_| {
                Reply::ok("{}").head_after(some_ms(&mut replies.borrow_mut(), 120))
            });
            let mut of: BTreeMap<String, (String, String)> = BTreeMap::new();
            for number in 0..120 {
                let account = format!("x{}", random.u8(0..12));
                let region = ["eu", "us", "kr"][random.usize(0..3)];
                let object = format!("o{}", random.u8(0..20));
                let api = ["a", "b"][random.usize(0..2)];
                let params = format!(r#"{{"region":"{region}","object":"{object}"}}"#);
                put_with(&rig, &account, api, &format!("f{number}"), &params).await;
                of.insert(format!("f{number}"), (region.to_owned(), object));
                if random.u8(0..4) == 0 {
                    sleep(some_ms(&mut random, 100)).await;
                }
            }
            rig.all_end(secs(120)).await;
            let seen = rig.wire.seen();
            assert_never_too_many_among(&rig, &seen, "the platform", at_most(7, 1000));
            for region in ["eu", "us", "kr"] {
                let own = calls_of(&rig, |seen| of[&id_of(seen)].0 == region);
                assert_never_too_many_among(&rig, &own, region, at_most(4, 900));
                let slots = Limit { rule: Rule::Concurrent(3), per_api: false, guard: None };
                assert_never_too_many_among(&rig, &own, region, slots);
            }
            for object in 0..20 {
                let object = format!("o{object}");
                let own = calls_of(&rig, |seen| of[&id_of(seen)].1 == object);
                assert_never_too_many_among(&rig, &own, &object, at_most(1, 300));
            }
            for account in 0..12 {
                assert_never_too_many(&rig, &format!("x{account}"), at_most(3, 1100));
            }
            let last = rig.ms(seen.iter().map(|seen| seen.begun).max().unwrap());
            // At the least 120 calls need 17 windows of a second.
            assert!(last < 26_000, "seed {seed}: the last call came at {last} ms");
            assert_eq!(rig.shared.totals.restarts.get(), 0);
        });
    }
}

#[test]
fn turns_are_by_weight_and_values_by_tier_and_key() {
    paused(|| async {
        let limits = format!(
            "all = {}\nown = {{ per = [\"account\"], max = 1, in = \"10s\", guard = \"25ms\", \
             tiers = {{ gold = {{ max = 50 }} }}, override = {{ x1 = {{ max = 2 }} }} }}",
            window(r#""platform""#, 8, 1000)
        );
        let tiers =
            "tiers = { gold = { accounts = [\"g\"], weight = 3 }, iron = { accounts = [\"g2\"] } }";
        // Only the budget makes the others wait.
        let wide = limits.replace("max = 1,", "max = 100,").replace("max = 2 ", "max = 100 ");
        let wide = wide.replace("max = 50 ", "max = 100 ");
        let rig = Rig::start(budgets(&wide, tiers), |_| Reply::ok("{}"));
        for account in ["g", "x1", "x2", "x3", "x4", "x5"] {
            rig.put_many(account, "a", 60).await;
        }
        rig.at(15_500).await;
        // Whoever came first found nobody before it.
        let later = |seen: &Seen| rig.ms(seen.begun) > 0;
        let count = |of: &str| calls_of(&rig, |s| account_of(s) == of && later(s)).len();
        let (gold, other) = (count("g"), count("x3"));
        let share = gold as f64 / other as f64;
        assert!((2.8..3.2).contains(&share), "{gold} to {other}");
        let rig = Rig::start(budgets(&limits, tiers), |_| Reply::ok("{}"));
        for account in ["g", "x1", "x2"] {
            rig.put_many(account, "a", 12).await;
        }
        rig.at(9_000).await;
        let count = |of: &str| calls_of(&rig, |seen| account_of(seen) == of).len();
        assert_eq!((count("g"), count("x1"), count("x2")), (12, 2, 1));
    });
}

#[test]
fn one_id_counts_for_its_account_and_several_for_the_app() {
    paused(|| async {
        let limits = "one = { per = [\"account\"], every = \"5s\", guard = \"25ms\", when = { params.object = \"one\" } }\n\
                      multi = { per = [\"app\"], every = \"5s\", guard = \"25ms\", when = { params.object = \"several\" } }";
        let rig = Rig::start(budgets(limits, "keys = { app = \"main\" }"), |_| Reply::ok("{}"));
        for account in ["x", "y"] {
            put_with(&rig, account, "a", &format!("{account}-1"), r#"{"object":"1"}"#).await;
            put_with(&rig, account, "b", &format!("{account}-2"), r#"{"object":["1","2"]}"#).await;
            put_with(&rig, account, "a", &format!("{account}-3"), r#"{"object":["3"]}"#).await;
            put_with(&rig, account, "b", &format!("{account}-4"), r#"{"object":"1,2"}"#).await;
        }
        rig.all_end(secs(60)).await;
        let at = |id: &str| rig.times_of(id)[0];
        // Each account's own calls are 5 s apart, whatever others do; those of several ids over all.
        assert_eq!([at("x-1"), at("y-1"), at("x-3"), at("y-3")], [0, 0, 5000, 5000]);
        let mut several = [at("x-2"), at("x-4"), at("y-2"), at("y-4")];
        several.sort_unstable();
        assert_eq!(several, [0, 5000, 10_000, 15_000]);
        assert_eq!(several.map(|at| at % 5000), [0; 4]);
    });
}

/// Two accounts under a budget of the platform and one of a region, with panics at these fault points.
/// Answers how many points were passed, and which panicked.
fn run_with_panics(at: &[u32]) -> (u32, Vec<(&'static str, String)>) {
    let kept = Rc::new(RefCell::new((0, Vec::new())));
    let result = Rc::clone(&kept);
    let at = at.to_vec();
    paused(|| async move {
        let limits = format!(
            "all = {}\nregion = {}\nslots = {{ per = [\"region\"], concurrent = 2 }}",
            window(r#""platform""#, 3, 400),
            window(r#""region""#, 2, 300),
        );
        let setup = budgets(&limits, "keys = { region = \"eu\" }");
        let rig = Rig::start(setup, |_| Reply::ok("{}").head_after(ms(20)).then(ms(40), " "));
        let passed = Rc::clone(&result);
        let hooked = on_points(move |name, whose| {
            // What dies between the end of a fetch and telling of it is done, and nobody counts it.
            if name == "after finish" {
                return;
            }
            let mut passed = passed.borrow_mut();
            passed.0 += 1;
            if at.contains(&passed.0) {
                passed.1.push((name, whose.to_owned()));
                drop(passed);
                panic!("{name} of {whose} panics on purpose");
            }
        });
        for account in ["x", "y", "z"] {
            rig.put_many(account, "a", 2).await;
        }
        rig.all_end(secs(300)).await;
        drop(hooked);
        let seen = rig.wire.seen();
        assert_never_too_many_among(&rig, &seen, "the platform", at_most(3, 400));
        assert_never_too_many_among(&rig, &seen, "the region", at_most(2, 300));
        let slots = Limit { rule: Rule::Concurrent(2), per_api: false, guard: None };
        assert_never_too_many_among(&rig, &seen, "the region", slots);
        rig.log.assert_recorded_before_called();
        sleep(secs(30)).await;
        assert_eq!(rig.done(), 6);
        assert_eq!(rig.shared.slots.available_permits(), 64, "every slot came back");
    });
    Rc::try_unwrap(kept).unwrap().into_inner()
}

#[test]
fn a_panic_anywhere_breaks_no_budget_and_stops_none() {
    let (points, _) = run_with_panics(&[]);
    assert!(points > 100, "{points}");
    let mut died = BTreeMap::<&str, u32>::new();
    for point in 1..=points {
        let (_, panicked) = run_with_panics(&[point]);
        let [(name, whose)] = panicked.as_slice() else { panic!("{panicked:?}") };
        *died.entry(name).or_default() += u32::from(whose.contains('='));
    }
    // Of the budgets, and not only of accounts.
    for name in ["budget step", "before store", "after store"] {
        assert!(died[name] > 3, "{died:?}");
    }
}

#[test]
fn panics_in_any_number_break_no_budget() {
    for seed in 0..60 {
        let mut random = fastrand::Rng::with_seed(seed);
        let at: Vec<u32> = (0..random.usize(2..7)).map(|_| random.u32(1..150)).collect();
        run_with_panics(&at);
    }
}

#[test]
fn a_ledger_that_fails_breaks_no_budget() {
    for seed in 0..30 {
        paused(|| async move {
            let mut random = fastrand::Rng::with_seed(seed);
            let all = format!(
                "all = {}\nown = {}",
                window(r#""platform""#, 4, 500),
                window(r#""account""#, 2, 600)
            );
            let replies = RefCell::new(random.fork());
            let rig = Rig::start(budgets(&all, ""), move |_| {
                Reply::ok("{}").head_after(some_ms(&mut replies.borrow_mut(), 60))
            });
            for account in ["x", "y", "z"] {
                rig.put_many(account, "a", 12).await;
            }
            for _ in 0..8 {
                match random.u8(0..5) {
                    0 => rig.ledger.inner.fail_stores(random.usize(1..4), Fault::Unavailable),
                    1 => rig.ledger.inner.fail_stores(1, Fault::UnsureStored),
                    2 => rig.ledger.inner.fail_stores(1, Fault::UnsureLost),
                    3 => rig.ledger.inner.fail_stores(1, Fault::Conflict),
                    _ => rig.ledger.inner.fail_loads(random.u32(1..3)),
                }
                sleep(some_ms(&mut random, 700)).await;
            }
            rig.all_end(secs(120)).await;
            let seen = rig.wire.seen();
            assert_never_too_many_among(&rig, &seen, "the platform", at_most(4, 500));
            assert_eq!(rig.done(), 36);
            rig.log.assert_recorded_before_called();
        });
    }
}

#[test]
fn a_restart_goes_on_from_the_budgets_record_and_counts_what_was_in_flight() {
    for (writer, earliest) in [(Writer::Dead, 10_000), (Writer::Silent, 10_000)] {
        paused(|| async move {
            let all = format!("all = {}", window(r#""platform""#, 3, 10_000));
            let setup = || budgets(&all, "timeouts = { connect = \"200ms\" }\nlost_call = \"1s\"");
            // Two calls are answered, one never is.
            let rig = Rig::start(setup(), |seen| match account_of(seen).as_str() {
                "z" => Reply::silence(),
                _ => Reply::ok("{}"),
            });
            for account in ["x", "y", "z"] {
                rig.put_many(account, "a", 1).await;
            }
            rig.at(2_000).await;
            assert_eq!(rig.calls().len(), 3);
            let ledger = rig.ledger.inner.take_over();
            ledger.ends_as(writer);
            let clock = rig.shared.clock.clone();
            let queue = MemoryQueue::starting(wall());
            let next = Rig::start_on(setup(), clock, queue, ledger, |_| Reply::ok("{}"));
            for account in ["u", "v", "w"] {
                next.put_many(account, "a", 1).await;
            }
            next.all_end(secs(60)).await;
            let mut times: Vec<u64> =
                next.wire.seen().iter().map(|seen| rig.ms(seen.begun)).collect();
            times.sort_unstable();
            // The record was stored at 0 s: what it says to be in flight may have been written until 0.7 s.
            let lost = earliest + 700 + 25;
            assert_eq!(times, [lost; 3], "{writer:?}");
        });
    }
}

#[test]
fn two_nodes_with_the_same_budget_keep_it() {
    for seed in 0..6 {
        paused(|| async move {
            let mut random = fastrand::Rng::with_seed(seed);
            let all = format!("all = {}", window(r#""platform""#, 6, 1000));
            let setup = || budgets(&all, "timeouts = { connect = \"100ms\" }\nlost_call = \"1s\"");
            let slow = |random: &mut fastrand::Rng| {
                let random = RefCell::new(random.fork());
                move |_: &Seen| Reply::ok("{}").head_after(some_ms(&mut random.borrow_mut(), 120))
            };
            let one = Rig::start(setup(), slow(&mut random));
            let ledger = one.ledger.inner.of_session(7);
            let (clock, queue) = (one.shared.clock.clone(), MemoryQueue::starting(wall()));
            let two = Rig::start_on(setup(), clock, queue, ledger, slow(&mut random));
            one.ledger.inner.delay(ms(seed % 4 * 10));
            for account in 0..6 {
                one.put_many(&format!("x{account}"), "a", 4).await;
                sleep(some_ms(&mut random, 50)).await;
                two.put_many(&format!("y{account}"), "a", 4).await;
            }
            one.all_end(secs(300)).await;
            two.all_end(secs(300)).await;
            let mut seen = one.wire.seen();
            seen.extend(two.wire.seen());
            assert_eq!(seen.len(), 48, "seed {seed}");
            assert_never_too_many_among(&one, &seen, "the platform", at_most(6, 1000));
            assert_eq!(one.shared.totals.restarts.get() + two.shared.totals.restarts.get(), 0);
        });
    }
}

#[test]
fn a_budget_that_is_not_asked_for_ends_and_is_read_again() {
    paused(|| async {
        let all = format!("all = {}", window(r#""platform""#, 2, 60_000));
        let rig = Rig::start(budgets(&all, ""), |_| Reply::ok("{}"));
        rig.put_many("x", "a", 2).await;
        let loads = |rig: &Rig| {
            let loaded =
                |event: &Event| matches!(event, Event::Loaded { account } if account.contains('='));
            rig.log.events().iter().filter(|(_, event)| loaded(event)).count()
        };
        rig.at(30_000).await;
        assert_eq!(loads(&rig), 1);
        rig.put_many("y", "a", 1).await;
        rig.all_end(secs(120)).await;
        assert_eq!(loads(&rig), 2);
        assert_eq!(rig.ms(rig.wire.seen()[2].begun), 60_000, "it knew of what it had let through");
    });
}

#[test]
fn an_account_cannot_take_the_name_of_a_budget() {
    paused(|| async {
        let all = format!("all = {}", window(r#""platform""#, 1, 5000));
        let rig = Rig::start(budgets(&all, ""), |_| Reply::ok("{}"));
        for account in ["platform=p", "_p", "=", "x"] {
            rig.put_many(account, "a", 1).await;
        }
        rig.all_end(secs(60)).await;
        let times: Vec<u64> = rig.calls().iter().map(|(at, _)| *at).collect();
        assert_eq!(times, [0, 5000, 10_000, 15_000]);
        assert!(Slug::new(Slug::of_budgets(&Slug::new("p").unwrap()).as_str()).is_err());
    });
}

#[test]
fn a_budget_of_another_shard_is_the_same_one() {
    paused(|| async {
        let all = format!(
            "all = {}\napp = {}",
            window(r#""platform""#, 5, 500),
            window(r#""app""#, 4, 450)
        );
        let setup = budgets(&all, "keys = { app = \"main\" }");
        let one = Rig::start(setup, |_| Reply::ok("{}").head_after(ms(15)));
        let two = Shard::start_here(1, one.shared.clone(), Rc::new(one.wire.clone()));
        one.shared.peers.are(vec![one.shard.clone(), two.clone()].into());
        // Each shard is told of its own accounts.
        one.queue.lose_wakes(true);
        let passed = Rc::new(Cell::new(0));
        let hosts = Rc::clone(&passed);
        let _hooked = on_points(move |name, _| {
            hosts.set(hosts.get() + u32::from(name == "budget step"));
        });
        for account in 0..10 {
            // Half of them are the second shard's.
            let name = format!("x{account}");
            let lane = lane(&name, "a", Priority::Normal);
            for number in 0..6 {
                let payload = format!(
                    r#"{{"id":"{name}-{number}","platform":"p","account":"{name}","api":"a"}}"#
                );
                let fetch = NewFetch {
                    lane: lane.clone(),
                    id: format!("{name}-{number}"),
                    payload: payload.into(),
                    not_before: None,
                };
                one.shared.totals.come(1);
                one.queue.append(vec![fetch]).await.unwrap();
            }
            let shard = if account % 2 == 0 { &one.shard } else { &two };
            shard.send(Work(vec![Found { lane, count: 6, all: true }])).await.unwrap();
        }
        one.all_end(secs(60)).await;
        let seen = one.wire.seen();
        assert_never_too_many_among(&one, &seen, "the platform", at_most(5, 500));
        assert_never_too_many_among(&one, &seen, "the app", at_most(4, 450));
        assert!(passed.get() > 60);
    });
}

#[test]
fn another_configuration_is_in_force_for_a_budget_with_the_next_call_and_forgets_none() {
    paused(|| async {
        let all = |max| budgets(&format!("all = {}", window(r#""platform""#, max, 2000)), "");
        let rig = Rig::start(all(4), |_| Reply::ok("{}"));
        for account in ["x", "y", "z"] {
            rig.put_many(account, "a", 4).await;
        }
        rig.at(700).await;
        rig.reload(&all(2)).await;
        rig.at(4500).await;
        rig.reload(&all(3)).await;
        rig.all_end(secs(60)).await;
        let times: Vec<u64> = rig.calls().iter().map(|(at, _)| *at).collect();
        // The third of a window is free at once where three are allowed.
        assert_eq!(times, [0, 0, 0, 0, 2000, 2000, 4000, 4000, 4500, 6000, 6000, 6500]);
        rig.log.assert_recorded_before_called();
    });
}
