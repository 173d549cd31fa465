//! What people see of accounts: what is told of one, of pages of them, and of all, beside what then happens.

use actix::{AsyncContext, Context};

use super::*;
use crate::mailbox::Mailbox;
use crate::node::Viewer;
use crate::shard::Shard;
use crate::shard::context::shard_of;
use crate::telemetry::Waiting;
use crate::times::Waits;
use crate::view::{AccountState, AccountView, AccountsQuestion, Holder, Overview, Sort};

impl Rig {
    fn viewer(&self) -> Viewer {
        Viewer::new(&vec![self.shard.clone()].into(), &self.shared)
    }

    async fn view(&self, account: &str) -> AccountView {
        self.viewer().account(key(account)).await.unwrap().expect("it is known")
    }

    async fn overview(&self) -> Overview {
        self.viewer().overview().await
    }
}

/// Milliseconds from the start of a test.
fn ms_of(at: Timestamp) -> i64 {
    at.duration_since(wall()).as_millis() as i64
}

#[test]
fn a_view_says_who_holds_an_account_and_when_it_goes_on() {
    paused(|| async {
        let rig = Rig::start(limits(""), |seen| match account_of(seen).as_str() {
            "refused" => Reply::status(429).header("retry-after", "100"),
            _ => Reply::ok("{}"),
        });
        let scope = crate::holds::Scope::of_key("p.paused.a").unwrap();
        let until = Some(wall() + jiff::SignedDuration::from_secs(50));
        let reason = Some("tests".to_owned());
        let hold = crate::holds::OperatorHold { reason, since: wall(), until };
        rig.shared.holds.replace([(scope, hold)].into());
        rig.put("paused", "a", "one").await;
        rig.put("refused", "a", "two").await;
        rig.at(2_000).await;
        let told = rig.view("paused").await;
        let hold = &told.holds[0];
        assert_eq!((hold.by, hold.of.as_str()), (Holder::Operator, "p/paused/a"));
        assert_eq!((hold.until, hold.since), (until, Some(wall())));
        assert_eq!(told.cause, Some(Waits::Paused));
        assert_eq!(told.eta.map(|eta| ms_of(eta.at) / 1000), Some(50));
        let told = rig.view("refused").await;
        assert_eq!((told.holds[0].by, told.holds[0].of.as_str()), (Holder::Provider, "p/refused"));
        assert_eq!(ms_of(told.holds[0].until.unwrap()) / 1000, 100);
        assert_eq!(
            (told.answers[0].class.as_str(), told.answers[0].status),
            ("throttled", Some(429))
        );
        assert_eq!(ms_of(told.next[0].at) / 1000, 100);
        let held = AccountsQuestion { held: true, sort: Sort::Name, ..AccountsQuestion::default() };
        let page = rig.viewer().accounts(&held, None).await.unwrap();
        let names: Vec<&str> = page.accounts.iter().map(|look| &*look.account).collect();
        assert_eq!((names, page.matching), (vec!["paused", "refused"], 2));
        let all = rig.overview().await;
        assert_eq!((all.platforms[0].held, all.waiting), (2, 2));
        assert_eq!(all.platforms[0].causes[&Waits::Paused], 1);
    });
}

#[test]
fn what_waits_is_told_while_the_record_of_its_account_is_read() {
    const READ: &str = "its record, which is read";
    paused(|| async {
        let rig = Rig::start(limits(r#"day = { per = ["account"], every = "24h" }"#), |_| {
            Reply::ok("{}")
        });
        rig.ledger.inner.fail_loads(3);
        rig.put_many("x", "a", 2).await;
        let told = async |ms: u64| {
            rig.at(ms).await;
            let looks = rig.look().await;
            let look = looks.accounts.first().cloned().unwrap_or_default();
            let because = look.because.unwrap_or_default();
            (looks.waiting, rig.overview().await.waiting, look.cause, because)
        };
        assert_eq!(told(100).await, (2, 2, Some(Waits::Ledger), READ.to_owned()));
        assert_eq!(rig.view("x").await.waiting, 2);
        rig.put("x", "a", "more").await;
        assert_eq!(told(200).await, (3, 3, Some(Waits::Ledger), READ.to_owned()));
        let (waiting, of_all, cause, because) = told(10_000).await;
        assert_eq!((waiting, of_all, cause), (2, 2, Some(Waits::Limit)));
        assert!(because.contains("day"), "{because}");
    });
}

#[test]
fn a_call_in_flight_is_reserved_and_not_charged() {
    paused(|| async {
        let setup = limits(r#"day = { per = ["account"], max = 9, in = "24h", guard = "never" }"#);
        let rig = Rig::start(setup, |_| Reply::ok("{}").head_after(secs(30)));
        rig.put_many("x", "a", 2).await;
        rig.at(1_000).await;
        let told = rig.view("x").await;
        assert_eq!((told.state, told.in_flight, told.waiting), (AccountState::Live, 2, 0));
        let counter = &told.limits[0].counters[0];
        assert_eq!((counter.used, counter.reserved, counter.calls.len()), (2, 2, 0));
        rig.at(31_000).await;
        let told = rig.view("x").await;
        let counter = &told.limits[0].counters[0];
        assert_eq!((counter.used, counter.reserved, told.in_flight), (2, 0, 0));
        assert_eq!(counter.calls.iter().map(|call| call.units).sum::<u32>(), 2);
    });
}

#[test]
fn pages_and_searches_find_each_account_once() {
    paused(|| async {
        let rig = Rig::start(limits(r#"day = { per = ["account"], every = "24h" }"#), |_| {
            Reply::ok("{}")
        });
        for account in 0..30 {
            rig.put_many(&format!("shop{account:02}"), "a", 2 + account % 3).await;
        }
        rig.at(3_000).await;
        let mut question = AccountsQuestion { most: Some(7), ..AccountsQuestion::default() };
        let (mut seen, mut waiting) = (Vec::new(), Vec::new());
        loop {
            let page = rig.viewer().accounts(&question, None).await.unwrap();
            assert_eq!(page.matching, 30);
            seen.extend(page.accounts.iter().map(|look| look.account.clone()));
            waiting.extend(page.accounts.iter().map(|look| look.waiting));
            assert!(page.accounts.iter().all(|look| look.eta.is_some()));
            question.after = page.next;
            if question.after.is_none() {
                break;
            }
        }
        assert!(waiting.is_sorted_by(|one, other| one >= other), "{waiting:?}");
        seen.sort();
        seen.dedup();
        assert_eq!((seen.len(), waiting.len()), (30, 30));
        let search = Some("P2".to_owned());
        let question = AccountsQuestion { search, ..AccountsQuestion::default() };
        let page = rig.viewer().accounts(&question, None).await.unwrap();
        assert_eq!((page.matching, page.accounts.len()), (10, 10));
        let only = Some([key("shop07"), key("unknown")].into());
        let page = rig.viewer().accounts(&AccountsQuestion::default(), only).await.unwrap();
        let told: Vec<_> =
            page.accounts.iter().map(|look| (look.account.as_str(), look.waiting > 0)).collect();
        assert_eq!(told, [("shop07", true), ("unknown", false)]);
    });
}

#[test]
fn all_together_tell_rates_what_is_allowed_and_when_the_last_is_done() {
    paused(|| async {
        let setup = limits(r#"second = { per = ["account"], every = "1s" }"#);
        let rig = Rig::start(setup, |_| Reply::ok("{}"));
        let viewer = rig.viewer();
        for account in 0..10 {
            rig.put_many(&format!("x{account}"), "a", 60 + account).await;
        }
        rig.at(30_500).await;
        let all = viewer.overview().await;
        assert!((9.0..10.5).contains(&all.rates.calls), "{:?}", all.rates);
        assert!((9.0..10.5).contains(&all.rates_minute.done), "{:?}", all.rates_minute);
        assert!((all.allowed.unwrap() - 10.0).abs() < 0.01, "{:?}", all.allowed);
        assert_eq!(all.platforms[0].accounts, 10);
        assert_eq!(all.nodes[0].slots, 64);
        let told = ms_of(all.eta.unwrap().at);
        rig.all_end(secs(200)).await;
        let last = i64::try_from(rig.calls().iter().map(|(ms, _)| *ms).max().unwrap()).unwrap();
        let error = (told - last) as f64 / (last - 30_500) as f64;
        assert!(error.abs() < 0.05, "told {told}, was {last}");
    });
}

#[test]
fn a_shard_that_does_not_turn_is_waited_for_once_and_told_to_be_missing() {
    paused(|| async {
        let setup = limits(
            r#"second = { per = ["account"], every = "1s" }
               all = { per = ["platform"], max = 1000, in = "1s" }"#,
        );
        let rig = Rig::start(setup, |_| Reply::ok("{}"));
        // What is sent to it waits for ever.
        let stuck = Context::<Shard>::new();
        let [waiting, _] = Waiting::of(1);
        let shards = vec![rig.shard.clone(), Mailbox::new(stuck.address(), waiting)];
        let viewer = Viewer::new(&shards.into(), &rig.shared);
        for account in 0..10 {
            rig.put_many(&format!("x{account}"), "a", 60).await;
        }
        rig.at(5_500).await;
        let all = viewer.overview().await;
        assert_eq!((all.shards_silent, all.platforms[0].accounts), (1, 10));
        let page = viewer.accounts(&AccountsQuestion::default(), None).await.unwrap();
        assert_eq!((page.shards_silent, page.matching), (1, 10));
        let of = |shard| (0..10).map(|n| key(&format!("x{n}"))).find(|k| shard_of(k, 2) == shard);
        assert!(viewer.account(of(0).unwrap()).await.unwrap().is_some());
        let reason = viewer.account(of(1).unwrap()).await.unwrap_err();
        assert!(reason.contains("shard 1"), "{reason}");
        let took = rig.start.elapsed().saturating_sub(ms(5_500));
        assert!((ms(1_000)..ms(1_200)).contains(&took), "all of it took {took:?}");
    });
}

#[test]
fn what_is_held_without_an_end_is_told_beside_the_eta() {
    paused(|| async {
        let rig =
            Rig::start(limits(r#"gap = { per = ["account"], every = "1s" }"#), |_| Reply::ok("{}"));
        let scope = crate::holds::Scope::of_key("p.held").unwrap();
        let hold = crate::holds::OperatorHold { reason: None, since: wall(), until: None };
        rig.shared.holds.replace([(scope, hold)].into());
        rig.put_many("held", "a", 7).await;
        rig.put_many("x", "a", 20).await;
        rig.at(2_500).await;
        let all = rig.overview().await;
        assert!(all.eta.is_some() && all.waiting > 7, "{all:?}");
        assert_eq!(all.without_eta, 7, "{all:?}");
        rig.at(40_000).await;
        let all = rig.overview().await;
        assert_eq!((all.waiting, all.without_eta), (7, 7), "{all:?}");
        assert!(all.eta.is_none(), "{all:?}");
    });
}

#[test]
fn lists_take_no_place_of_those_whose_last_answers_are_kept() {
    paused(|| async {
        let setup = limits(
            r#"gap = { per = ["account"], every = "1s" }
               day = { per = ["account"], max = 1000, in = "24h" }"#,
        );
        let rig = Rig::start(setup, |_| Reply::ok("{}"));
        let viewer = rig.viewer();
        rig.put("looked", "a", "one").await;
        rig.at(1_000).await;
        assert_eq!(viewer.account(key("looked")).await.unwrap().unwrap().answers.len(), 1);
        // More accounts than are looked at, and more answers than a shard remembers of all.
        for round in 0..3 {
            for account in 0..90 {
                for n in 0..17 {
                    rig.put(&format!("x{account}"), "a", &format!("x{account}-{round}-{n}")).await;
                }
            }
            rig.at(1_000 + 100 * (round + 1)).await;
        }
        rig.at(5_000).await;
        let page = viewer.accounts(&AccountsQuestion::default(), None).await.unwrap();
        assert!(page.accounts.iter().filter(|look| look.eta.is_some()).count() > 64);
        rig.all_end(secs(300)).await;
        assert_eq!(viewer.account(key("looked")).await.unwrap().unwrap().answers.len(), 1);
    });
}
