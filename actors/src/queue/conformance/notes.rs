//! Notes: how far unfinished fetches have come.

use super::{Bytes, Queue, Seq, append_one, done, fetch, finish, lane, new};
use crate::ids::LaneKey;
use crate::queue::NOTE_BYTES_MAX;

async fn keep(
    queue: &dyn Queue,
    lane: &LaneKey,
    origin: Seq,
    expected: u64,
    note: &str,
) -> Option<u64> {
    let note = Bytes::copy_from_slice(note.as_bytes());
    queue.keep_note(lane.clone(), origin, expected, note).await.expect("the queue answers")
}

async fn note(queue: &dyn Queue, lane: &LaneKey, origin: Seq) -> Option<(u64, Bytes)> {
    let noted = queue.note(lane.clone(), origin).await.expect("the queue answers");
    noted.map(|noted| (noted.version, noted.bytes))
}

/// Whoever has read an older one changes nothing.
pub async fn a_note_is_replaced_by_its_version_only(queue: &dyn Queue) {
    let lane = lane("noted");
    let seq = new(append_one(queue, fetch(&lane, "0")).await);
    assert_eq!(note(queue, &lane, seq).await, None);
    assert_eq!(keep(queue, &lane, seq, 7, "no").await, None, "there is none of that version");
    let first = keep(queue, &lane, seq, 0, "one").await.expect("there was none");
    assert_ne!(first, 0);
    assert_eq!(keep(queue, &lane, seq, 0, "no").await, None, "there is one");
    let second = keep(queue, &lane, seq, first, "two").await.expect("it is that one");
    assert_ne!(second, first);
    assert_eq!(keep(queue, &lane, seq, first, "no").await, None, "it was replaced");
    assert_eq!(note(queue, &lane, seq).await, Some((second, Bytes::from_static(b"two"))));
}

/// It outlives the ending of its fetch only until it is dropped, and one written anew is another.
pub async fn a_note_stays_until_it_is_dropped(queue: &dyn Queue) {
    let lane = lane("dropped");
    let seq = new(append_one(queue, fetch(&lane, "0")).await);
    let first = keep(queue, &lane, seq, 0, "one").await.expect("there was none");
    finish(queue, &lane, seq, done("0", seq)).await;
    for _ in 0..2 {
        queue.drop_note(lane.clone(), seq).await.expect("the queue answers");
        assert_eq!(note(queue, &lane, seq).await, None);
    }
    assert_eq!(keep(queue, &lane, seq, first, "no").await, None, "it is gone");
    let again = keep(queue, &lane, seq, 0, "new").await.expect("there is none");
    assert_ne!(again, first);
}

/// Each fetch has its own, of up to [`NOTE_BYTES_MAX`].
pub async fn notes_are_kept_apart_and_within_their_bound(queue: &dyn Queue) {
    let lane = lane("apart");
    let mut seqs = Vec::new();
    for id in ["0", "1"] {
        seqs.push(new(append_one(queue, fetch(&lane, id)).await));
    }
    let large = "x".repeat(NOTE_BYTES_MAX);
    for (seq, text) in seqs.iter().zip([large.as_str(), "small"]) {
        keep(queue, &lane, *seq, 0, text).await.expect("there was none");
    }
    for (seq, text) in seqs.iter().zip([large.as_str(), "small"]) {
        let (_, bytes) = note(queue, &lane, *seq).await.expect("it was kept");
        assert_eq!(bytes, text.as_bytes());
    }
    let too_large = Bytes::from(vec![b'x'; NOTE_BYTES_MAX + 1]);
    assert!(queue.keep_note(lane.clone(), seqs[0], 0, too_large).await.is_err());
}
