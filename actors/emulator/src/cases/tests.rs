//! The judges of the hard cases, told of arrivals by hand.

use std::time::Duration;

use super::interval::Interval;
use super::jobs::{Jobs, PER_ACCOUNT};
use super::nested::{Nested, PENALTY};
use super::score::{BLOCK, MAX, Score};
use super::settle::Settle;
use super::{Arrival, Case, Hard, Knobs, Mark, Reply, Seen};
use crate::bulk::mix;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn arrive(case: &mut dyn Case, (account, endpoint, query): (&str, &str, &str), at: u64) -> Reply {
    let call = Arrival { number: at, luck: mix(at), account, endpoint, query };
    case.arrive(&call, ms(at))
}

fn mark(case: &dyn Case, text: &str, seen: &Seen) -> Mark {
    let all = case.marks(seen);
    all.into_iter().find(|mark| mark.mark.contains(text)).unwrap()
}

#[test]
fn the_shape_of_a_call_decides_its_gaps() {
    let mut case = Interval::new(ms(0), None);
    let mut early = |call, at| arrive(&mut case, call, at).refused;
    assert!(!early(("a", "/v1/account", "ids=1"), 0));
    assert!(!early(("a", "/v1/campaign", "ids=1"), 1), "another endpoint, another gap");
    assert!(early(("a", "/v1/account", "ids=1"), 999));
    assert!(early(("a", "/v1/account", "ids=1"), 1_998), "the refused one counts too");
    assert!(!early(("a", "/v1/account", "ids=1"), 2_998));
    // Several ids: the app's gap, whoever calls; one endpoint asks for both.
    assert!(!early(("a", "/v1/adgroup", "ids=1%2C2"), 5_000));
    assert!(early(("b", "/v1/creative", "ids=1%2C2"), 5_100));
    assert!(!early(("c", "/v1/creative", "ids=1%2C2"), 5_400));
    assert!(!early(("d", "/v1/creative", "ids=1"), 5_401), "one id does not count for the app");
    assert!(early(("c", "/v1/creative", "ids=1"), 7_000), "but both count for the account");
    let (lag, seen) = (ms(2_000), Seen::default());
    assert!(!mark(&case, "too early", &seen).pass);
    assert!(mark(&case, "too early", &Seen { lag, ..seen }).pass, "stamps as late explain them");
}

#[test]
fn time_that_gap_and_guard_do_not_need_is_told_but_not_that_of_a_kill() {
    let mut case = Interval::new(ms(500), None);
    for at in [0, 1_500, 3_000, 9_000] {
        arrive(&mut case, ("a", "/v1/account", "ids=1"), at);
    }
    let share = |kills| mark(&case, "gap and guard", &Seen { kills, ..Seen::default() });
    assert_eq!((share(vec![]).pass, share(vec![]).got.as_str()), (false, "50.0 %"));
    assert_eq!(share(vec![ms(4_000)]).got, "100.0 %");
}

#[test]
fn a_score_beyond_its_maximum_blocks_and_a_call_meanwhile_begins_the_block_anew() {
    let mut case = Score::new(1, 0, false);
    let call = ("a", "/v1/insights", "");
    let refused = (0..u64::from(MAX) * 2).find(|at| arrive(&mut case, call, *at).refused).unwrap();
    assert!((54..=66).contains(&refused), "{refused}");
    let block = BLOCK.as_millis() as u64;
    assert!(arrive(&mut case, call, refused + block - 1).refused);
    assert!(arrive(&mut case, call, refused + block + 1).refused, "it began anew");
    assert!(!arrive(&mut case, call, refused + 3 * block).refused);
    let seen = Seen::default();
    assert!(mark(&case, "blocks of one account", &seen).pass, "one is let pass");
    assert!(!mark(&case, "calls during a block", &seen).pass);
}

#[test]
fn each_window_has_its_own_refusal_and_a_broken_minute_shuts_the_app() {
    let mut case = Nested::new(ms(12_000), true);
    let text =
        |case: &mut Nested, account, at| arrive(case, (account, "/qpm/v1/report", ""), at).body;
    for n in 0..12 {
        assert!(text(&mut case, "a", n).contains("rows"));
    }
    assert!(text(&mut case, "a", 20).contains(": second"));
    for n in 0..8 {
        assert!(text(&mut case, "b", 1_000 + n).contains("rows"));
    }
    assert!(text(&mut case, "b", 1_500).contains(": minute"));
    let penalty = PENALTY.as_millis() as u64;
    assert!(text(&mut case, "c", 1_500 + penalty - 1).contains(": penalty"));
    assert!(text(&mut case, "c", 1_500 + 2 * penalty).contains("rows"));
    let seen = Seen::default();
    assert!(mark(&case, "violations of one window", &seen).pass);
    assert!(!mark(&case, "within a penalty", &seen).pass);
}

#[test]
fn a_job_holds_its_slot_behind_its_call() {
    let mut case = Jobs::new(false);
    let (mut running, mut over) = (0, 0);
    for at in 0..100 {
        let query = format!("report={at}");
        let reply = arrive(&mut case, ("a", "/v1/jobs", &query), at);
        if reply.refused {
            break;
        }
        // One that is over with its answer holds none.
        if reply.body.contains("DONE") { over += 1 } else { running += 1 }
    }
    assert_eq!((running, over > 0), (PER_ACCOUNT, true));
    assert!(mark(&case, "over at once", &Seen::default()).pass);
    assert!(!arrive(&mut case, ("a", "/v1/jobs", "report=9"), 4_010).refused);
    arrive(&mut case, ("a", "/v1/jobs", "report=9"), 9_000);
    let seen = Seen::default();
    assert!(!mark(&case, "ordered again", &seen).pass);
    assert!(mark(&case, "ordered again", &Seen { lost: 1, ..seen.clone() }).pass);
    assert!(mark(&case, "ordered again", &Seen { kills: vec![ms(5_000)], ..seen }).pass);
}

#[test]
fn a_quota_that_is_used_up_refuses_and_ten_errors_close_the_account() {
    let mut case = Settle::new(1, 0, false);
    let mut served = 0;
    while !arrive(&mut case, ("a", "/v1/rows", ""), served).refused {
        served += 1;
    }
    assert!((10..=80).contains(&served), "{served} answers of 2,500 to 20,000 bytes");
    let mut statuses = Vec::new();
    for at in 0..30 {
        statuses.push(arrive(&mut case, ("stormy", "/v1/rows", ""), at * 100).status);
    }
    let count = |status| statuses.iter().filter(|own| **own == status).count();
    assert_eq!((count(500), count(429)), (10, 9), "{statuses:?}");
    assert!(!mark(&case, "server errors", &Seen::default()).pass);
}

#[test]
fn knobs_are_said_by_name_and_what_is_drawn_depends_on_the_seed_alone() {
    let mut knobs = Knobs::default();
    for said in ["jitter=400ms", "clock=2s", "lost=2.5%", "kills=3"] {
        knobs.set(said).unwrap();
    }
    assert_eq!((knobs.jitter, knobs.clock, knobs.lost, knobs.kills), (ms(400), ms(2_000), 25, 3));
    for wrong in ["jitter=400", "lost=101%", "kills=21", "clock=61s", "speed=1", "lost"] {
        assert!(knobs.set(wrong).is_err(), "{wrong}");
    }
    let hits = |seed| {
        let knobs = Knobs { seed, ..knobs };
        (0..10_000).filter(|number| knobs.hits(25, *number, 1)).collect::<Vec<u64>>()
    };
    assert_eq!(hits(1), hits(1));
    assert_ne!(hits(1), hits(2));
    assert!((150..350).contains(&hits(1).len()), "{}", hits(1).len());
}

#[test]
fn a_provider_counts_what_it_answers_and_what_it_does_not() {
    let knobs = Knobs { lost: 1_000, latency: ms(0), ..Knobs::default() };
    let provider = Hard::start(Box::new(Interval::new(ms(0), None)), knobs).unwrap();
    let at = provider.base_url();
    let addr = at.trim_start_matches("http://").trim_end_matches('/');
    let mut stream = std::net::TcpStream::connect(addr).unwrap();
    let request = b"GET /v1/account?ids=1 HTTP/1.1\r\nHost: x\r\nX-Account: a\r\n\r\n";
    std::io::Write::write_all(&mut stream, request).unwrap();
    let mut answer = Vec::new();
    std::io::Read::read_to_end(&mut stream, &mut answer).unwrap();
    assert!(answer.is_empty(), "it is lost: {answer:?}");
    assert_eq!(provider.counts(), (1, 0));
    assert!(provider.violations().1.is_empty());
}

#[test]
fn what_is_left_of_a_quota_when_the_work_ends_is_no_waste_and_what_was_left_before_is() {
    // Ninety calls, each as soon as the quota of a window has room for the largest answer, or half of that.
    let share = |room: u64| {
        let mut case = Settle::new(1, 0, false);
        let (mut used, mut calls, mut at) = (Vec::<(u64, u64)>::new(), 0, 0);
        while calls < 90 {
            used.retain(|(from, _)| from + 8_000 > at);
            if used.iter().map(|(_, bytes)| bytes).sum::<u64>() + 20_000 <= room {
                let reply = arrive(&mut case, ("act_0", "/v1/rows", "n=1"), at);
                used.push((at, reply.body.len() as u64));
                calls += 1;
            }
            at += 1;
        }
        mark(&case, "share", &Seen::default())
    };
    let all = share(180_000);
    assert!(all.pass && all.got.as_str() > "90" || all.got == "100.0 %", "{all:?}");
    let half = share(90_000);
    assert!(!half.pass, "{half:?}");
}
