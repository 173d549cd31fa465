//! From what is seen of a node to what comes out, by a real clock.

use std::time::Duration;

use super::super::watch::{HeldNow, HeldOne, Watch};
use super::*;
use crate::clock::Clock;
use crate::plan::NotifyPlan;

fn watch() -> (Watch, End, Clock) {
    let plan = NotifyPlan {
        held_after: Duration::from_secs(1),
        dead_over: 4,
        store_after: Duration::from_secs(60),
        blocked_after: Duration::from_secs(10),
        repeat_after: Duration::from_secs(3600),
        nats: true,
        webhooks: Vec::new(),
    };
    let (way, end) = Way::new("test");
    let clock = Clock::new();
    (Watch::new(&plan, "node-a", &clock, vec![way]), end, clock)
}

fn told(end: &mut End) -> Vec<Notice> {
    std::iter::from_fn(|| end.queue.try_recv().ok()).map(|one| one.notice.clone()).collect()
}

fn account(name: &str) -> AccountKey {
    AccountKey { platform: Slug::new("kakao").unwrap(), account: Account::new(name).unwrap() }
}

#[test]
fn what_is_seen_in_a_look_is_told_at_its_end() {
    let (mut watch, mut end, clock) = watch();
    watch.look();
    let until = Some(clock.now().plus(tollgate_gate::Span::from_secs(3600)));
    let (key, because) = (account("a1"), "the provider answered 429".to_owned());
    let listed = vec![HeldOne { key, since: clock.now(), until, because }];
    let counts = [(Slug::new("kakao").unwrap(), 3)].into();
    watch.held(Some(HeldNow { listed, counts }));
    watch.dead(&Slug::new("kakao").unwrap(), 5);
    watch.tell();
    let told = told(&mut end);
    let kinds: Vec<&str> = told.iter().map(|notice| notice.kind.as_str()).collect();
    assert_eq!(kinds, ["account_held.began", "dead_letters.began"]);
    assert_eq!(told[0].what, "kakao/a1 is held: the provider answered 429");
    assert_eq!((told[1].count, told[1].platform.as_deref()), (Some(5), Some("kakao")));
}

#[test]
fn dead_letters_are_over_only_when_a_good_part_is_gone() {
    let (mut watch, mut end, _) = watch();
    let kakao = Slug::new("kakao").unwrap();
    for count in [4, 5, 4, 5, 4] {
        watch.look();
        watch.dead(&kakao, count);
        watch.tell();
    }
    assert_eq!(told(&mut end).len(), 1);
    assert!(watch.knows_of_dead());
}

#[test]
fn a_fetch_that_is_late_is_told_also_where_its_deadline_is_over() {
    let (mut watch, mut end, clock) = watch();
    let (deadline, earliest) = (clock.wall() - Duration::from_secs(5), clock.wall());
    let lane = LaneKey {
        account: account("a1"),
        api: Slug::new("report").unwrap(),
        priority: crate::ids::Priority::Normal,
    };
    watch.hear(Signal::Late { lane, fetch: "f1".into(), deadline, earliest });
    watch.look();
    watch.tell();
    let told = told(&mut end);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(
        (told[0].kind.as_str(), told[0].fetch.as_deref()),
        ("deadline_missed.began", Some("f1"))
    );
    assert_eq!(told[0].code.as_deref(), Some("TG0114"));
}

fn late(account_name: &str, fetch: &str, clock: &Clock) -> Signal {
    let lane = LaneKey {
        account: account(account_name),
        api: Slug::new("report").unwrap(),
        priority: crate::ids::Priority::Normal,
    };
    let deadline = clock.wall() + Duration::from_secs(24 * 3600);
    Signal::Late { lane, fetch: fetch.into(), deadline, earliest: deadline }
}

#[test]
fn each_late_fetch_of_further_accounts_counts_once() {
    let (mut watch, mut end, clock) = watch();
    for number in 0..10 {
        watch.hear(late(&format!("a{number}"), "f", &clock));
    }
    // Each is heard of twice: when it is found to be late, and when it is given up.
    for fetch in ["f1", "f2", "f1", "f2"] {
        watch.hear(late("b", fetch, &clock));
    }
    watch.look();
    watch.tell();
    let counts: Vec<u64> = told(&mut end).into_iter().filter_map(|notice| notice.count).collect();
    assert_eq!(counts, [2]);
}

#[tokio::test(start_paused = true)]
async fn what_is_late_is_over_when_the_next_fetch_is_in_time_again() {
    let (mut watch, mut end, clock) = watch();
    let kinds = |watch: &mut Watch, end: &mut End| -> Vec<String> {
        watch.look();
        watch.tell();
        told(end).into_iter().map(|notice| notice.kind).collect()
    };
    for number in 0..11 {
        watch.hear(late(&format!("a{number}"), "f", &clock));
    }
    assert_eq!(kinds(&mut watch, &mut end).len(), 11);
    let (account, api) = (account("a0"), Slug::new("report").unwrap());
    watch.hear(Signal::InTime { account, api });
    tokio::time::advance(Duration::from_secs(90)).await;
    assert_eq!(
        kinds(&mut watch, &mut end),
        ["deadline_missed.ended"],
        "the others' deadlines are far"
    );
    tokio::time::advance(Duration::from_secs(300)).await;
    assert_eq!(kinds(&mut watch, &mut end), ["deadline_missed.ended"], "of further accounts");
}
