use jiff::Timestamp;
use tollgate_protos::Fetch;

use super::*;
use crate::ids::{Account, AccountKey, Priority, Slug};
use crate::plan::Generation;

fn key() -> LaneKey {
    let slug = |text| Slug::new(text).unwrap();
    let account = AccountKey { platform: slug("p"), account: Account::new("x").unwrap() };
    LaneKey { account, api: slug("a"), priority: Priority::Normal }
}

fn candidate(seq: u64, not_before: i64) -> Candidate {
    let item = Item {
        lane: key(),
        seq: Seq(seq),
        origin: Seq(seq),
        queued_at: Timestamp::UNIX_EPOCH,
        id: seq.to_string(),
        fetch: Fetch::default(),
        budgets: Box::default(),
        generation: Generation(0),
    };
    Candidate {
        item: Rc::new(item),
        tries: Tries::default(),
        not_before: At(not_before),
        suspect: false,
        read: None,
    }
}

fn lane() -> Lane {
    Lane::new(key(), 0)
}

fn take(lane: &mut Lane, now: i64) -> Option<u64> {
    lane.take(At(now)).map(|taken| taken.item.seq.0)
}

#[test]
fn an_empty_lane_offers_nothing_and_one_with_unseen_work_wants_to_be_read() {
    let mut lane = lane();
    assert_eq!(lane.offer(At(0)), Offer::Nothing);
    lane.came(3);
    assert_eq!(lane.offer(At(0)), Offer::Read);
    assert_eq!(lane.waiting(), 3);
    lane.heads.push_back(candidate(1, 0));
    assert_eq!(lane.offer(At(0)), Offer::Fetch);
    assert_eq!(lane.waiting(), 4);
}

#[test]
fn a_parked_fetch_goes_before_the_head_once_its_time_has_come_and_not_before() {
    let mut lane = lane();
    lane.heads.extend([candidate(5, 0), candidate(6, 0)]);
    lane.parked.extend([candidate(3, 200), candidate(1, 300)]);
    assert_eq!(take(&mut lane, 199), Some(5), "nothing parked is due");
    assert_eq!(take(&mut lane, 300), Some(1), "of two that are due the older one");
    assert_eq!(take(&mut lane, 300), Some(3));
    assert_eq!(take(&mut lane, 300), Some(6));
    assert_eq!(take(&mut lane, 300), None);
}

#[test]
fn a_lane_with_as_many_parked_as_may_be_waits_for_the_first_of_them() {
    let mut lane = lane();
    lane.came(100);
    lane.heads.push_back(candidate(100, 0));
    for seq in 0..PARKED_MAX as u64 - 1 {
        lane.parked.push(candidate(seq, 1000 - seq as i64));
    }
    assert_eq!(lane.offer(At(0)), Offer::Fetch, "one more may be tried");
    lane.parked.push(candidate(50, 2000));
    let first = At(1000 - (PARKED_MAX as i64 - 2));
    assert_eq!(lane.offer(At(0)), Offer::Later(first));
    assert_eq!(lane.offer(first), Offer::Fetch);
    assert_eq!(take(&mut lane, first.0), Some(PARKED_MAX as u64 - 2));
}

#[test]
fn what_was_taken_and_not_tried_is_first_again() {
    let mut lane = lane();
    lane.heads.extend([candidate(1, 0), candidate(2, 0)]);
    let taken = lane.take(At(0)).unwrap();
    lane.put_back(taken);
    assert_eq!([take(&mut lane, 0), take(&mut lane, 0)], [Some(1), Some(2)]);
}

#[test]
fn a_fetch_is_in_hand_while_it_is_a_head_or_parked() {
    let mut lane = lane();
    lane.heads.push_back(candidate(1, 0));
    lane.parked.push(candidate(2, 9));
    assert!(lane.has(Seq(1)) && lane.has(Seq(2)) && !lane.has(Seq(3)));
}

/// Reads a lane the way its actor does, from a queue that is a list of numbers; answers what was found.
fn read_to_the_end(lane: &mut Lane, queue: &[u64], in_hand: &mut Vec<u64>) -> Vec<u64> {
    let mut found = Vec::new();
    for _ in 0..100 {
        if lane.unread.is_none() {
            return found;
        }
        lane.noted = false;
        let after = lane.cursor.map_or(0, |seq| seq.0);
        let rows: Vec<u64> = queue.iter().copied().filter(|seq| *seq > after).take(2).collect();
        if rows.is_empty() {
            lane.read_nothing();
        }
        for row in rows {
            lane.cursor = Some(Seq(row));
            if !in_hand.contains(&row) {
                lane.has_read();
                in_hand.push(row);
                found.push(row);
            }
        }
    }
    panic!("reading never ends: {lane:?}");
}

#[test]
fn reading_ends_when_more_was_noted_than_there_is() {
    let mut lane = lane();
    let mut in_hand = Vec::new();
    lane.came(50);
    assert_eq!(read_to_the_end(&mut lane, &[1, 2, 3], &mut in_hand), [1, 2, 3]);
    assert!(lane.unread.is_none());
    lane.came(1);
    assert_eq!(read_to_the_end(&mut lane, &[1, 2, 3], &mut in_hand), Vec::<u64>::new());
}

#[test]
fn whatever_is_noted_is_found_behind_the_cursor_and_before_it() {
    // Every order of coming and coming back, among what stays in hand.
    for seed in 0..500 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut lane = lane();
        let (mut queue, mut in_hand) = (Vec::new(), Vec::new());
        for _ in 0..20 {
            let seq = random.u64(1..40);
            if !queue.contains(&seq) {
                queue.push(seq);
                queue.sort_unstable();
                lane.came(1);
                if random.bool() {
                    lane.came(random.u64(0..3));
                }
                assert_eq!(read_to_the_end(&mut lane, &queue, &mut in_hand), [seq], "seed {seed}");
            }
            if random.u8(0..3) == 0 && !queue.is_empty() {
                let ended = queue.remove(random.usize(0..queue.len()));
                in_hand.retain(|seq| *seq != ended);
            }
        }
    }
}

#[test]
fn only_what_ended_during_a_read_is_remembered_and_only_for_that_read() {
    let mut lane = lane();
    lane.ended(Seq(1));
    lane.loading = true;
    lane.ended(Seq(2));
    lane.ended(Seq(3));
    assert_eq!(lane.loaded(), [Seq(2), Seq(3)]);
    assert!(!lane.loading);
    lane.loading = true;
    assert!(lane.loaded().is_empty());
}

#[test]
fn no_fetch_begins_before_an_earlier_one_whose_note_is_looked_up() {
    let mut lane = lane();
    lane.looking.push(Seq(2));
    lane.parked.extend([candidate(3, 0), candidate(1, 0)]);
    assert_eq!(take(&mut lane, 0), Some(1));
    assert_eq!((lane.offer(At(0)), take(&mut lane, 0)), (Offer::Nothing, None));
    lane.ended(Seq(2));
    assert_eq!(take(&mut lane, 0), Some(3));
}

#[test]
fn a_trial_is_made_with_whatever_was_refused_least_often() {
    let refused = |seq, times| {
        let mut candidate = candidate(seq, 0);
        candidate.tries.throttled = times;
        candidate
    };
    let mut lane = lane();
    lane.parked.extend([refused(1, 2), refused(2, 1)]);
    lane.heads.extend([refused(3, 1), candidate(4, 0), candidate(5, 0)]);
    assert_eq!(lane.trials(At(0)), Some(2), "the oldest, while there is no trial");
    lane.on_trial = true;
    for (taken, trials) in [(4, 0), (5, 0), (2, 1), (3, 1), (1, 2)] {
        assert_eq!(lane.trials(At(0)), Some(trials));
        assert_eq!(take(&mut lane, 0), Some(taken));
    }
    assert_eq!(lane.offer(At(0)), Offer::Nothing);
    lane.parked.push(refused(1, 1));
    assert_eq!(lane.offer(At(0)), Offer::Fetch);
    lane.came(1);
    assert_eq!(lane.offer(At(0)), Offer::Read, "what was not tried yet is still to be read");
    lane.on_trial = false;
    assert_eq!(lane.offer(At(0)), Offer::Fetch);
    lane.on_trial = true;
    while lane.parked.len() < PARKED_MAX + AHEAD_MAX {
        assert_eq!(lane.offer(At(0)), Offer::Read);
        lane.parked.push(refused(lane.parked.len() as u64 + 10, 1));
    }
    assert_eq!(lane.offer(At(0)), Offer::Fetch, "no more than that are held");
}

#[test]
fn no_more_of_a_lane_is_read_while_too_many_wait_for_the_call_of_one() {
    let request = crate::fresh::RequestKey::of_test(1);
    let mut lane = lane();
    assert!(lane.follow(request, candidate(1, 0), true).is_some());
    for seq in 2..FOLLOWERS_MAX as u64 + 50 {
        lane.came(1);
        assert_eq!(lane.offer(At(0)) == Offer::Read, lane.followers() < FOLLOWERS_MAX);
        // What was being read by then waits all the same.
        assert!(lane.follow(request, candidate(seq, 0), true).is_none());
    }
    assert!(lane.follow(request, candidate(900, 0), false).is_some(), "tried already");
    assert_eq!(lane.followers_of(Seq(1)).len(), FOLLOWERS_MAX + 48);
    assert_eq!(lane.offer(At(0)), Offer::Read);
}
