//! What every queue must do: one function per promise, run for each back.
//!
//! A function makes accounts of its own, so that all of them can run on one queue, one after the other or
//! at once, and on a queue that holds other things already. Time is real: the longest waits are of some
//! hundred milliseconds, and what must come by itself is waited for at most [`PATIENCE`].
#![expect(
    clippy::disallowed_methods,
    reason = "a back's wall clock is the machine's, and so its test's"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use tollgate_protos::{Dead, Done, Fetch, Priority};

use super::{Appended, Ending, FIRST_MAX, NewFetch, Queue, Queued};
use crate::ids::{Account, AccountKey, LaneKey, Seq, Slug};
use crate::state::clock;

mod dead;
mod lanes;
mod notes;
mod order;
mod time;

pub use dead::*;
pub use lanes::*;
pub use notes::*;
pub use order::*;
pub use time::*;

/// How long a thing that must happen by itself may take before it counts as missing.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Makes one test per promise. The expression opens a queue of its own for each: a pair of the queue and
/// whatever must outlive it. `everywhere` makes those of every queue; without it those come too of a queue
/// that knows every id for ever and keeps each fetch at its number.
#[cfg(test)]
macro_rules! queue_conformance {
    ($open:expr) => {
        $crate::queue::conformance::queue_conformance! { everywhere $open }
        $crate::queue::conformance::queue_conformance! { $open;
            does_not_store_an_id_that_is_done_or_dead
            a_finished_id_stays_known_as_it_first_ended
            finishing_through_another_lane_changes_nothing
            a_letter_has_the_number_of_its_fetch
            replays_a_dead_letter_under_a_new_number
            a_dropped_letter_leaves_its_id_known
            replaying_an_id_that_waits_stores_it_once
            a_postponed_fetch_comes_back_in_its_place
            a_postponed_fetch_can_be_postponed_again
            a_postponed_fetch_can_be_finished
            a_fetch_is_not_returned_before_its_time
        }
    };
    (everywhere $open:expr) => {
        $crate::queue::conformance::queue_conformance! { $open;
            returns_fetches_in_the_order_of_their_numbers
            returns_what_lies_behind_a_number
            returns_no_more_than_asked_for
            returns_the_payload_and_the_time_of_queueing
            keeps_lanes_apart
            does_not_store_a_waiting_id_twice
            does_not_store_an_id_twice_within_one_append
            tells_ids_of_different_accounts_and_apis_apart
            never_gives_a_number_twice
            takes_odd_account_names
            takes_a_payload_of_256_kib
            refuses_more_than_one_append_takes
            finished_fetches_are_gone_and_finishing_twice_is_harmless
            finishing_in_any_order_leaves_the_others
            lists_dead_letters_in_order_and_in_pages
            a_replayed_letter_waits_again
            a_letter_that_is_not_there_cannot_be_revived
            buries_an_input_once
            lists_lanes_with_their_counts
            pages_through_more_lanes_than_one_answer_holds
            lists_the_lanes_of_one_account_only
            an_emptied_lane_is_not_listed
            a_postponed_fetch_comes_back_and_wakes
            counts_what_is_put_aside
            postponing_to_the_past_leaves_it_waiting
            postponing_what_is_not_there_is_harmless
            wakes_for_new_work_and_not_for_known_ids
            lanes_tell_of_work_whose_wakes_were_lost
            a_later_receiver_of_wakes_ends_the_earlier_one
            a_note_is_replaced_by_its_version_only
            a_note_stays_until_it_is_dropped
            notes_are_kept_apart_and_within_their_bound
        }
    };
    ($open:expr; $($promise:ident)*) => {
        $(
            #[tokio::test]
            async fn $promise() {
                let (queue, _keep) = $open;
                $crate::queue::conformance::$promise(&queue).await;
            }
        )*
    };
}
#[cfg(test)]
pub(crate) use queue_conformance;

/// A lane of an account that nobody else has.
fn lane(name: &str) -> LaneKey {
    lane_of(&format!("{name}-{:x}", clock::random()), "insights", Priority::Normal)
}

fn lane_of(account: &str, api: &str, priority: Priority) -> LaneKey {
    let platform = Slug::new("conformance").expect("a good name");
    let account = AccountKey { platform, account: Account::new(account).expect("a good name") };
    LaneKey { account, api: Slug::new(api).expect("a good name"), priority }
}

fn fetch(lane: &LaneKey, id: &str) -> NewFetch {
    let payload = Bytes::from(format!(r#"{{"id":"{id}"}}"#));
    NewFetch { lane: lane.clone(), id: id.into(), payload, not_before: None }
}

/// Stores so many fetches with the ids `0`, `1`, … and answers their numbers.
async fn store(queue: &dyn Queue, lane: &LaneKey, count: usize) -> Vec<Seq> {
    let fetches = (0..count).map(|id| fetch(lane, &id.to_string())).collect();
    let appended = queue.append(fetches).await.expect("the queue answers");
    appended.into_iter().map(new).collect()
}

async fn append_one(queue: &dyn Queue, fetch: NewFetch) -> Appended {
    let appended = queue.append(vec![fetch]).await.expect("the queue answers");
    let [appended] = appended[..] else { panic!("one answer for one fetch, not {appended:?}") };
    appended
}

fn new(appended: Appended) -> Seq {
    match appended {
        Appended::New(seq) => seq,
        other => panic!("not stored as new: {other:?}"),
    }
}

async fn first(queue: &dyn Queue, lane: &LaneKey) -> Vec<Queued> {
    queue.first(lane.clone(), None, FIRST_MAX).await.expect("the queue answers")
}

async fn first_seqs(queue: &dyn Queue, lane: &LaneKey) -> Vec<Seq> {
    first(queue, lane).await.iter().map(|queued| queued.seq).collect()
}

async fn finish(queue: &dyn Queue, lane: &LaneKey, seq: Seq, ending: Ending) {
    queue.finish(lane.clone(), seq, ending).await.expect("the queue answers");
}

fn done(id: &str, seq: Seq) -> Ending {
    let done = Done {
        id: id.into(),
        seq: seq.0,
        objects: Vec::new(),
        http_status: 200,
        attempts: 1,
        pages: 1,
        waited_ms: 0,
        fetched_at: Timestamp::now(),
        labels: BTreeMap::new(),
        ..Done::default()
    };
    Ending::Done { done: Box::new(done), once: false }
}

fn letter(id: &str) -> Dead {
    Dead {
        seq: 0,
        fetch: Some(Fetch { id: Some(id.into()), ..Fetch::default() }),
        raw: None,
        source: None,
        code: "TG0301".into(),
        reason: "the provider refused it".into(),
        attempts: 3,
        http_status: Some(400),
        body_start: Some("no".into()),
        died_at: Timestamp::now(),
        ..Dead::default()
    }
}

fn dead(id: &str, seq: Seq) -> Ending {
    Ending::Dead(Box::new(Dead { seq: seq.0, ..letter(id) }))
}

/// Asks again and again until the answer is there.
async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let answer = tokio::time::timeout(PATIENCE, asking).await;
    answer.unwrap_or_else(|_| panic!("did not happen: {what}"))
}
