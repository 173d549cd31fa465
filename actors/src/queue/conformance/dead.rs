//! Dead letters.

use super::{
    Appended, Dead, NewFetch, Queue, Seq, append_one, clock, dead, fetch, finish, first,
    first_seqs, lane, letter, new, store,
};
use crate::queue::Letter;

/// By number, each with what it is about.
pub async fn lists_dead_letters_in_order_and_in_pages(queue: &dyn Queue) {
    let lane = lane("dead");
    let seqs = store(queue, &lane, 4).await;
    for (id, seq) in [(2, seqs[2]), (0, seqs[0]), (3, seqs[3])] {
        finish(queue, &lane, seq, dead(&id.to_string(), seq)).await;
    }
    let mut letters = all(queue).await;
    assert!(letters.is_sorted_by_key(|letter| letter.number));
    letters.retain(|letter| seqs.contains(&Seq(letter.dead.seq)));
    let mut died: Vec<_> = letters.iter().map(|letter| Seq(letter.dead.seq)).collect();
    died.sort();
    assert_eq!(died, [seqs[0], seqs[2], seqs[3]]);
    let two = letter_of(queue, seqs[2]).await.expect("it died").dead;
    let expected = Dead { seq: seqs[2].0, ..letter("2") };
    assert_eq!(Dead { died_at: expected.died_at, ..two }, expected);
    for pair in letters.windows(2) {
        let behind = queue.dead(Some(pair[0].number), 100).await.expect("the queue answers");
        assert!(!behind.contains(&pair[0]) && behind.contains(&pair[1]));
    }
    let before = Some(Seq(letters[1].number.0 - 1));
    assert_eq!(queue.dead(before, 1).await.expect("the queue answers"), letters[1..2]);
    assert!(queue.dead(before, 0).await.expect("the queue answers").is_empty());
}

/// So that what an input said is found by it.
pub async fn a_letter_has_the_number_of_its_fetch(queue: &dyn Queue) {
    let lane = lane("numbered");
    let seqs = store(queue, &lane, 3).await;
    for (id, seq) in [(2, seqs[2]), (0, seqs[0])] {
        finish(queue, &lane, seq, dead(&id.to_string(), seq)).await;
        assert_eq!(letter_of(queue, seq).await.expect("it died").number, seq);
    }
}

/// It is in the list no more, and can end again.
pub async fn a_replayed_letter_waits_again(queue: &dyn Queue) {
    let lane = lane("again");
    let seqs = store(queue, &lane, 1).await;
    finish(queue, &lane, seqs[0], dead("0", seqs[0])).await;
    let number = letter_of(queue, seqs[0]).await.expect("it died").number;
    assert!(revive(queue, number, Some(fetch(&lane, "0"))).await);
    assert!(letter_of(queue, seqs[0]).await.is_none());
    let again = first_seqs(queue, &lane).await;
    assert_eq!(again.len(), 1);
    assert!(again[0] > seqs[0]);
    assert!(!revive(queue, number, Some(fetch(&lane, "0"))).await, "it is not there any more");
    assert_eq!(first_seqs(queue, &lane).await, again);
    finish(queue, &lane, again[0], dead("0", again[0])).await;
    let number = letter_of(queue, again[0]).await.expect("it died again").number;
    assert!(revive(queue, number, None).await);
    assert!(letter_of(queue, again[0]).await.is_none());
    assert!(!revive(queue, number, None).await);
    assert!(first(queue, &lane).await.is_empty());
}

/// It waits again, is known as waiting, and can end again.
pub async fn replays_a_dead_letter_under_a_new_number(queue: &dyn Queue) {
    let lane = lane("replay");
    let seqs = store(queue, &lane, 1).await;
    finish(queue, &lane, seqs[0], dead("0", seqs[0])).await;
    assert!(revive(queue, seqs[0], Some(fetch(&lane, "0"))).await);
    assert!(!is_dead(queue, seqs[0]).await);
    let again = first_seqs(queue, &lane).await;
    assert_eq!(again.len(), 1);
    assert!(again[0] > seqs[0]);
    assert_eq!(append_one(queue, fetch(&lane, "0")).await, Appended::Waiting(again[0]));
    assert!(!revive(queue, seqs[0], Some(fetch(&lane, "0"))).await, "it is not there any more");
    finish(queue, &lane, again[0], dead("0", again[0])).await;
    assert!(is_dead(queue, again[0]).await);
    assert_eq!(append_one(queue, fetch(&lane, "0")).await, Appended::Dead(again[0]));
}

/// Who dropped it does not want it back with the next run of the same file.
pub async fn a_dropped_letter_leaves_its_id_known(queue: &dyn Queue) {
    let lane = lane("drop");
    let seqs = store(queue, &lane, 1).await;
    finish(queue, &lane, seqs[0], dead("0", seqs[0])).await;
    assert!(revive(queue, seqs[0], None).await);
    assert!(!is_dead(queue, seqs[0]).await);
    assert!(!revive(queue, seqs[0], None).await);
    assert_eq!(append_one(queue, fetch(&lane, "0")).await, Appended::Dead(seqs[0]));
    assert!(first(queue, &lane).await.is_empty());
}

/// A buried input was put right and published again before its letter was replayed.
pub async fn replaying_an_id_that_waits_stores_it_once(queue: &dyn Queue) {
    let lane = lane("replay-waiting");
    let key = key();
    assert!(queue.bury(key, letter("a")).await.expect("the queue answers"));
    let buried = newest_dead(queue).await;
    let seq = new(append_one(queue, fetch(&lane, "a")).await);
    assert!(revive(queue, buried, Some(fetch(&lane, "a"))).await);
    assert!(!is_dead(queue, buried).await);
    assert_eq!(first_seqs(queue, &lane).await, [seq]);
}

/// Nor does it store anything.
pub async fn a_letter_that_is_not_there_cannot_be_revived(queue: &dyn Queue) {
    let lane = lane("no-letter");
    let seqs = store(queue, &lane, 1).await;
    assert!(!revive(queue, seqs[0], None).await, "it waits, it is not dead");
    assert!(!revive(queue, Seq(u64::MAX), Some(fetch(&lane, "new"))).await);
    assert_eq!(first_seqs(queue, &lane).await, seqs);
}

/// A file that is read again does not fill the list again, even after its letter was dropped.
pub async fn buries_an_input_once(queue: &dyn Queue) {
    let (one, other) = (key(), key());
    assert!(queue.bury(one, letter("one")).await.expect("the queue answers"));
    let seq = newest_dead(queue).await;
    assert!(!queue.bury(one, letter("one")).await.expect("the queue answers"));
    assert!(queue.bury(other, letter("other")).await.expect("the queue answers"));
    assert!(newest_dead(queue).await > seq);
    assert!(revive(queue, seq, None).await);
    assert!(!queue.bury(one, letter("one")).await.expect("the queue answers"));
    assert!(!is_dead(queue, seq).await);
}

fn key() -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&clock::random().to_be_bytes());
    key[8..].copy_from_slice(&clock::random().to_be_bytes());
    key
}

async fn revive(queue: &dyn Queue, seq: Seq, replay: Option<NewFetch>) -> bool {
    queue.revive(seq, replay).await.expect("the queue answers")
}

async fn is_dead(queue: &dyn Queue, seq: Seq) -> bool {
    let letters = queue.dead(Some(Seq(seq.0 - 1)), 1).await.expect("the queue answers");
    letters.first().is_some_and(|letter| letter.number == seq)
}

async fn all(queue: &dyn Queue) -> Vec<Letter> {
    let mut all: Vec<Letter> = Vec::new();
    loop {
        let after = all.last().map(|letter| letter.number);
        let more = queue.dead(after, 1000).await.expect("the queue answers");
        if more.is_empty() {
            return all;
        }
        all.extend(more);
    }
}

/// The letter about the fetch of this origin.
pub(super) async fn letter_of(queue: &dyn Queue, origin: Seq) -> Option<Letter> {
    all(queue).await.into_iter().find(|letter| letter.dead.seq == origin.0)
}

async fn newest_dead(queue: &dyn Queue) -> Seq {
    all(queue).await.last().expect("a letter was buried").number
}
