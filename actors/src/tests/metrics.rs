//! What is counted on the way of a fetch, read as Prometheus reads it: the shard and its recorder on the test's own
//! thread.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use metrics_exporter_prometheus::{
    Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

use super::seams::Turn;
use super::*;
use crate::health::Health;
use crate::ledger::memory::Fault;
use crate::mailbox::Mailbox;
use crate::node::tally;
use crate::telemetry::{METRICS, describe_metrics};

fn recorder() -> (PrometheusRecorder, PrometheusHandle) {
    let mut builder = PrometheusBuilder::new();
    for metric in METRICS.iter().filter(|metric| !metric.buckets.is_empty()) {
        let name = Matcher::Full(metric.name.to_owned());
        builder = builder.set_buckets_for_metric(name, metric.buckets).unwrap();
    }
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    (recorder, handle)
}

/// Runs a test on paused time with a recorder for all that it starts.
fn recorded<F: Future<Output = ()>>(test: impl FnOnce(PrometheusHandle) -> F) {
    let (recorder, handle) = recorder();
    ::metrics::with_local_recorder(&recorder, || {
        describe_metrics();
        paused(|| test(handle));
    });
}

/// Every series and its value.
fn series(handle: &PrometheusHandle) -> BTreeMap<String, f64> {
    let text = handle.render();
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

#[track_caller]
fn is(handle: &PrometheusHandle, name: &str, value: f64) {
    let all = series(handle);
    let found = all.get(name).copied();
    assert_eq!(found, Some(value), "{name} in {all:#?}");
}

fn gap(every: &str) -> Setup {
    limits(&format!(r#"gap = {{ per = ["account"], every = "{every}" }}"#))
}

/// The provider finds fault with some fetches, by their id.
fn moody(seen: &Seen) -> Reply {
    match id_of(seen).rsplit('-').next().unwrap() {
        "2" => Reply::status(404),
        "3" => Reply::ok("{\"n\":3}"),
        _ => Reply::ok("{}"),
    }
}

#[test]
fn the_number_of_series_does_not_grow_with_accounts() {
    recorded(|handle| async move {
        let rig = Rig::start(gap("100ms").concurrency(16), moody);
        let shards: Arc<[Mailbox<Shard>]> = Arc::new([rig.shard.clone()]);
        actix_rt::spawn(tally(rig.shared.plan.clone(), shards));
        for account in 0..5 {
            rig.put_many(&format!("few_{account}"), "a", 4).await;
        }
        rig.all_end(secs(60)).await;
        sleep(secs(6)).await;
        let few: BTreeSet<String> = series(&handle).into_keys().collect();
        for account in 0..500 {
            rig.put_many(&format!("act_{account}"), "a", 4).await;
        }
        rig.all_end(secs(600)).await;
        sleep(secs(6)).await;
        let many: BTreeSet<String> = series(&handle).into_keys().collect();
        assert_eq!(few, many);
        assert!(!many.iter().any(|name| name.contains("act_")), "{many:#?}");
        let fetches = 4.0 * 505.0;
        is(&handle, r#"tollgate_permits_total{platform="p",api="a"}"#, fetches);
        is(&handle, r#"tollgate_attempts_total{platform="p",api="a",class="ok"}"#, 3.0 * 505.0);
        is(&handle, r#"tollgate_attempts_total{platform="p",api="a",class="permanent"}"#, 505.0);
        is(&handle, r#"tollgate_attempts_total{platform="p",api="b",class="ok"}"#, 0.0);
        is(&handle, r#"tollgate_answers_total{platform="p",api="a",class="4xx"}"#, 505.0);
        is(&handle, r#"tollgate_fetches_done_total{platform="p",api="a"}"#, 3.0 * 505.0);
        is(&handle, r#"tollgate_fetches_dead_total{platform="p",api="a",code="TG0201"}"#, 505.0);
        is(&handle, r#"tollgate_objects_total{platform="p",api="a"}"#, 3.0 * 505.0);
        is(
            &handle,
            r#"tollgate_body_bytes_total{platform="p",api="a"}"#,
            505.0 * (2.0 + 2.0 + 7.0),
        );
        is(&handle, r#"tollgate_fetches_in_flight{platform="p"}"#, 0.0);
        is(&handle, r#"tollgate_fetches_waiting{platform="p"}"#, 0.0);
        is(&handle, r#"tollgate_queue_finish_seconds_count{platform="p"}"#, fetches);
        is(&handle, r#"tollgate_store_finish_seconds_count{platform="p"}"#, 3.0 * 505.0);
    });
}

#[test]
fn every_series_is_one_of_the_catalogue_with_its_labels_and_its_type() {
    recorded(|handle| async move {
        let rig = Rig::start(gap("100ms"), moody);
        let shards: Arc<[Mailbox<Shard>]> = Arc::new([rig.shard.clone()]);
        actix_rt::spawn(tally(rig.shared.plan.clone(), shards));
        rig.put_many("x", "a", 5).await;
        rig.all_end(secs(60)).await;
        let text = handle.render();
        for metric in METRICS {
            let Some(kind) = text.lines().find_map(|line| {
                line.strip_prefix("# TYPE ")?.strip_prefix(metric.name)?.strip_prefix(' ')
            }) else {
                continue;
            };
            assert_eq!(kind, metric.kind.as_str(), "{}", metric.name);
            assert!(text.contains(&format!("# HELP {} {}\n", metric.name, metric.meaning)));
        }
        for name in series(&handle).keys() {
            let (bare, labels) = name.split_once('{').unwrap_or((name, ""));
            let known = METRICS.iter().find(|metric| {
                let rest = bare.strip_prefix(metric.name);
                rest.is_some_and(|rest| ["", "_bucket", "_sum", "_count"].contains(&rest))
            });
            let known = known.unwrap_or_else(|| panic!("{name} is not in the catalogue"));
            let labels = labels.split(',').filter_map(|label| Some(label.split_once('=')?.0));
            let labels: Vec<&str> = labels.filter(|label| *label != "le").collect();
            assert_eq!(labels, known.labels, "{name}");
        }
    });
}

#[test]
fn lateness_is_from_the_earliest_allowed_time_to_the_giving_and_only_of_permits_that_waited() {
    recorded(|handle| async move {
        let rig = Rig::start(gap("1s"), |_| Reply::ok("{}"));
        rig.put_many("x", "a", 4).await;
        rig.all_end(secs(60)).await;
        // The first waited for no limit.
        is(&handle, r#"tollgate_permit_lateness_seconds_count{platform="p"}"#, 3.0);
        is(&handle, r#"tollgate_permit_lateness_seconds_bucket{platform="p",le="0.002"}"#, 3.0);
        // The ledger takes 30 ms from now on: that is how much later each is given.
        let slow = Turn { answer_after: ms(30), ..Turn::default() };
        rig.ledger.next_stores([slow; 3]);
        rig.put_many("y", "a", 3).await;
        rig.all_end(secs(60)).await;
        is(&handle, r#"tollgate_permit_lateness_seconds_count{platform="p"}"#, 5.0);
        is(&handle, r#"tollgate_permit_lateness_seconds_bucket{platform="p",le="0.02"}"#, 3.0);
        is(&handle, r#"tollgate_permit_lateness_seconds_bucket{platform="p",le="0.05"}"#, 5.0);
    });
}

#[test]
fn an_account_that_rested_is_late_by_what_its_limit_said_before() {
    recorded(|handle| async move {
        // Both rest for longer than 5 s between their calls; the one collector is busy when they are due.
        let setup = gap("20s").concurrency(1);
        let rig = Rig::start(setup, |seen| {
            let slow = account_of(seen) == "slow";
            Reply::ok("{}").head_after(if slow { secs(3) } else { ms(0) })
        });
        rig.put_many("x", "a", 2).await;
        rig.at(18_000).await;
        assert_eq!(rig.look().await.live, 0, "it rests");
        rig.put("slow", "a", "slow").await;
        rig.all_end(secs(60)).await;
        assert_eq!(rig.times_of("x-a-1"), [21_000], "due at 20 s, when the collector was taken");
        is(&handle, r#"tollgate_permit_lateness_seconds_count{platform="p"}"#, 1.0);
        is(&handle, r#"tollgate_permit_lateness_seconds_bucket{platform="p",le="0.5"}"#, 0.0);
        is(&handle, r#"tollgate_permit_lateness_seconds_bucket{platform="p",le="1"}"#, 1.0);
    });
}

#[test]
fn work_that_comes_after_its_limit_has_opened_is_not_late() {
    recorded(|handle| async move {
        let rig = Rig::start(gap("1s"), |_| Reply::ok("{}"));
        rig.put_many("x", "a", 1).await;
        rig.at(3000).await;
        rig.put("x", "a", "x-a-9").await;
        rig.all_end(secs(60)).await;
        assert_eq!(rig.times_of("x-a-9"), [3000]);
        is(&handle, r#"tollgate_permit_lateness_seconds_count{platform="p"}"#, 0.0);
    });
}

#[test]
fn what_waits_and_what_is_in_flight_is_told_while_it_is_so() {
    recorded(|handle| async move {
        let rig = Rig::start(gap("30s"), |_| Reply::ok("{}").head_after(secs(7)));
        let shards: Arc<[Mailbox<Shard>]> = Arc::new([rig.shard.clone()]);
        actix_rt::spawn(tally(rig.shared.plan.clone(), shards));
        for account in 0..10 {
            rig.put(&format!("x{account}"), "a", "first").await;
        }
        rig.at(100).await;
        for account in 0..10 {
            rig.put_many(&format!("x{account}"), "a", 2).await;
        }
        rig.at(6000).await;
        is(&handle, r#"tollgate_fetches_in_flight{platform="p"}"#, 10.0);
        is(&handle, r#"tollgate_fetches_waiting{platform="p"}"#, 20.0);
        is(&handle, "tollgate_accounts_live", 10.0);
        rig.at(13_000).await;
        is(&handle, r#"tollgate_fetches_in_flight{platform="p"}"#, 0.0);
        is(&handle, r#"tollgate_fetches_waiting{platform="p"}"#, 20.0);
        is(&handle, "tollgate_accounts_known", 10.0);
        is(&handle, "tollgate_accounts_resting", 10.0);
        is(&handle, "tollgate_accounts_live", 0.0);
    });
}

#[test]
fn the_use_of_each_limit_and_who_waits_for_it_is_told_while_calls_go_on() {
    recorded(|handle| async move {
        let setup = limits(
            r#"
            gap = { per = ["account"], every = "2s" }
            wide = { per = ["account"], max = 30, in = "60s" }
            "#,
        );
        let rig = Rig::start(setup.concurrency(16), |_| Reply::ok("{}"));
        let shards: Arc<[Mailbox<Shard>]> = Arc::new([rig.shard.clone()]);
        actix_rt::spawn(tally(rig.shared.plan.clone(), shards));
        let used = |limit: &str| {
            let all = series(&handle);
            let of = |what: &str| {
                let name = format!(
                    r#"tollgate_limit_{what}_seconds_total{{platform="p",limit="{limit}"}}"#
                );
                all[&name] as u64
            };
            (of("needed"), of("taken"))
        };
        rig.at(5500).await;
        assert_eq!(used("gap"), (0, 0), "there from the start");
        for account in 0..4 {
            rig.put_many(&format!("x{account}"), "a", 40).await;
        }
        rig.at(42_000).await;
        is(&handle, r#"tollgate_limit_accounts_waiting{platform="p",limit="gap"}"#, 4.0);
        is(&handle, r#"tollgate_limit_accounts_waiting{platform="p",limit="wide"}"#, 0.0);
        let (needed, taken) = used("gap");
        assert!((4 * 20..=4 * 37).contains(&needed), "so far: {needed} s");
        assert_eq!(needed, taken, "nothing but this limit made them wait");
        rig.all_end(secs(600)).await;
        sleep(secs(6)).await;
        assert_eq!(used("gap"), (4 * 78, 4 * 78));
        // 30 of 40 are free, the others have to wait for the window.
        assert_eq!(used("wide").1, 4 * 78);
        assert!(used("wide").0 < 4 * 78);
        is(&handle, r#"tollgate_limit_accounts_waiting{platform="p",limit="gap"}"#, 0.0);
    });
}

#[test]
fn messages_that_wait_in_mailboxes_are_counted_until_they_are_handled_or_dropped() {
    recorded(|handle| async move {
        let rig = Rig::start(gap("100ms"), |seen| match account_of(seen).as_str() {
            "odd" => Reply::panic(),
            _ => Reply::ok("{}"),
        });
        let shard = r#"tollgate_mailbox_messages{shard="0",actor="shard"}"#;
        let throttle = r#"tollgate_mailbox_messages{shard="0",actor="throttle"}"#;
        is(&handle, shard, 0.0);
        let asked: Vec<_> = (0..7).map(|_| rig.shard.send(crate::shard::LookAgain)).collect();
        is(&handle, shard, 7.0);
        drop(asked);
        for account in ["x", "odd"] {
            rig.put_many(account, "a", 3).await;
        }
        rig.at(50).await;
        is(&handle, shard, 0.0);
        rig.all_end(secs(600)).await;
        is(&handle, shard, 0.0);
        is(&handle, throttle, 0.0);
    });
}

#[test]
fn holds_restarts_and_failures_are_counted_by_their_kind() {
    recorded(|handle| async move {
        let tries = Rc::new(Cell::new(0));
        let rig = Rig::start(gap("100ms"), move |seen| {
            tries.set(tries.get() + 1);
            match (account_of(seen).as_str(), tries.get()) {
                ("busy", 1) => Reply::status(429),
                ("down", 3) => Reply::error(CallError::Connect("refused".into())),
                ("odd", 5) => Reply::panic(),
                _ => Reply::ok("{}"),
            }
        });
        for account in ["busy", "down", "odd"] {
            rig.put(account, "a", account).await;
            rig.all_end(secs(600)).await;
        }
        is(&handle, r#"tollgate_holds_total{platform="p",kind="throttled"}"#, 1.0);
        is(&handle, r#"tollgate_holds_total{platform="p",kind="unreachable"}"#, 1.0);
        is(&handle, r#"tollgate_restarts_total{kind="collector"}"#, 1.0);
        is(&handle, r#"tollgate_restarts_total{kind="throttle"}"#, 0.0);
        let class =
            |class| format!(r#"tollgate_attempts_total{{platform="p",api="a",class="{class}"}}"#);
        for (name, count) in
            [("ok", 3.0), ("throttled", 1.0), ("unreachable", 1.0), ("crashed", 1.0), ("late", 0.0)]
        {
            is(&handle, &class(name), count);
        }
        is(&handle, r#"tollgate_answers_total{platform="p",api="a",class="2xx"}"#, 3.0);
        is(&handle, r#"tollgate_answers_total{platform="p",api="a",class="4xx"}"#, 1.0);
        is(&handle, r#"tollgate_answers_total{platform="p",api="a",class="none"}"#, 2.0);
        is(&handle, r#"tollgate_fetches_in_flight{platform="p"}"#, 0.0);
    });
}

#[test]
fn records_are_timed_and_those_not_confirmed_are_counted() {
    recorded(|handle| async move {
        let rig = Rig::start(gap("1s"), |_| Reply::ok("{}"));
        rig.ledger.inner.fail_stores(1, Fault::Unavailable);
        let turns = [0, 700, 20].map(|late| Turn { answer_after: ms(late), ..Turn::default() });
        rig.ledger.next_stores(turns);
        rig.put("x", "a", "x").await;
        rig.all_end(secs(60)).await;
        let ledger =
            |le| format!(r#"tollgate_ledger_store_seconds_bucket{{platform="p",le="{le}"}}"#);
        is(&handle, r#"tollgate_ledger_errors_total{platform="p",kind="away"}"#, 1.0);
        is(&handle, r#"tollgate_permits_lapsed_total{platform="p"}"#, 1.0);
        let all = series(&handle);
        let between = |low, high| (all[&ledger(high)] - all[&ledger(low)]) as u64;
        assert_eq!(between("0.5", "1"), 1);
        assert_eq!(between("0.01", "0.025"), 1);
        is(&handle, r#"tollgate_permits_total{platform="p",api="a"}"#, 1.0);
    });
}

#[test]
fn a_store_that_goes_makes_a_node_not_ready_and_back() {
    paused(|| async {
        let health = Health::new(Clock::starting_at(wall()));
        health.clear(crate::health::STARTING);
        let store = StoreHealth::default();
        store.report_to(&health);
        store.away("no space left");
        store.away("again");
        let reasons = health.reasons();
        assert_eq!(reasons.len(), 1);
        assert_eq!(reasons[0].name, "store");
        assert_eq!(reasons[0].reason, "the object store takes no bodies: no space left");
        store.back();
        assert_eq!(health.reasons(), []);
    });
}
