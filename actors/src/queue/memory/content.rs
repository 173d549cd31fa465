//! What a queue in memory holds, and what is done with it. Plain values, no waiting.

use std::collections::{BTreeMap, HashSet};
use std::ops::Bound;

use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tollgate_protos::Dead;

use super::{IdKey, Ids, Row, Rows};
use crate::ids::{LaneKey, Seq};
use crate::queue::{
    Appended, Ending, LANES_MAX, LaneCount, LaneCursor, LanePage, Letter, NewFetch, Noted, Queued,
    WAKES_MAX, Wake,
};

pub(super) struct Content {
    /// Wall time and tokio's at the beginning.
    start: (Timestamp, Instant),
    /// Lanes that have waiting fetches, by subject.
    lanes: BTreeMap<String, (LaneKey, Rows)>,
    /// Fetches put aside: lane and moment of return.
    pub(super) aside: BTreeMap<Seq, (LaneKey, Timestamp, Row)>,
    ids: Ids,
    dead: BTreeMap<Seq, Dead>,
    buried: HashSet<[u8; 16]>,
    notes: BTreeMap<Seq, Noted>,
    /// Writings of notes.
    noted: u64,
    last: Seq,
    wakes: Option<mpsc::Sender<Wake>>,
    lose_wakes: bool,
}

impl Content {
    pub(super) fn new(now: Timestamp, instant: Instant) -> Self {
        Self {
            start: (now, instant),
            lanes: BTreeMap::new(),
            aside: BTreeMap::new(),
            ids: Ids::new(),
            dead: BTreeMap::new(),
            buried: HashSet::new(),
            notes: BTreeMap::new(),
            noted: 0,
            last: Seq(0),
            wakes: None,
            lose_wakes: false,
        }
    }

    fn now(&self) -> Timestamp {
        self.start
            .0
            .saturating_add(self.start.1.elapsed())
            .expect("a Duration has no calendar unit")
    }

    /// When the next fetch comes back, on tokio's clock.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let until = self.aside.values().map(|(_, until, _)| *until).min()?;
        let wait = until.duration_since(self.now()).max(jiff::SignedDuration::ZERO);
        // tokio takes at most some years; whoever waits longer is looked at again then.
        let year = std::time::Duration::from_secs(365 * 24 * 3600);
        Some(Instant::now() + wait.unsigned_abs().min(year))
    }

    /// Puts what is due back into its lane.
    pub(super) fn bring_back(&mut self) {
        let now = self.now();
        let due: Vec<Seq> = self
            .aside
            .iter()
            .filter(|(_, (_, until, _))| *until <= now)
            .map(|(seq, _)| *seq)
            .collect();
        for seq in due {
            if let Some((lane, _, row)) = self.aside.remove(&seq) {
                self.put(&lane, row);
            }
        }
    }

    fn put(&mut self, lane: &LaneKey, row: Row) {
        let (_, rows) =
            self.lanes.entry(lane.subject()).or_insert_with(|| (lane.clone(), Rows::new()));
        rows.insert(row.queued.seq, row);
        self.wake(lane, 1);
    }

    /// Takes a fetch out of its lane or from aside.
    fn take(&mut self, lane: &LaneKey, seq: Seq) -> Option<Row> {
        let subject = lane.subject();
        if let Some((_, rows)) = self.lanes.get_mut(&subject)
            && let Some(row) = rows.remove(&seq)
        {
            if rows.is_empty() {
                self.lanes.remove(&subject);
            }
            return Some(row);
        }
        if self.aside.get(&seq).is_some_and(|(of, _, _)| of == lane) {
            return self.aside.remove(&seq).map(|(_, _, row)| row);
        }
        None
    }

    fn next_seq(&mut self) -> Seq {
        self.last.0 += 1;
        self.last
    }

    pub(super) fn append(&mut self, fetches: Vec<NewFetch>) -> Vec<Appended> {
        fetches
            .into_iter()
            .map(|fetch| match self.ids.get(&id_key(&fetch)) {
                Some(known) => *known,
                None => Appended::New(self.store(fetch)),
            })
            .collect()
    }

    fn store(&mut self, fetch: NewFetch) -> Seq {
        let (seq, now, id) = (self.next_seq(), self.now(), id_key(&fetch));
        self.ids.insert(id.clone(), Appended::Waiting(seq));
        let row = Row {
            id,
            queued: Queued {
                seq,
                origin: seq,
                queued_at: now,
                payload: fetch.payload,
                content_type: None,
                traceparent: None,
            },
        };
        match fetch.not_before {
            Some(until) if until > now => {
                self.aside.insert(seq, (fetch.lane, until, row));
            }
            _ => self.put(&fetch.lane, row),
        }
        seq
    }

    pub(super) fn first(&self, subject: &str, after: Option<Seq>, max: usize) -> Vec<Queued> {
        let Some((_, rows)) = self.lanes.get(subject) else { return Vec::new() };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        rows.range((from, Bound::Unbounded)).take(max).map(|(_, row)| row.queued.clone()).collect()
    }

    pub(super) fn lanes(&self, from: Option<LaneCursor>) -> LanePage {
        let from = from.map_or(Bound::Unbounded, |LaneCursor(after)| Bound::Excluded(after));
        let rows = self.lanes.range::<String, _>((from, Bound::Unbounded));
        let lanes: Vec<_> = rows
            .take(LANES_MAX)
            .map(|(_, (lane, rows))| LaneCount { lane: lane.clone(), waiting: rows.len() as u64 })
            .collect();
        LanePage { next: crate::queue::next_page(&lanes), lanes }
    }

    pub(super) fn account_lanes(&self, prefix: &str) -> Vec<LaneCount> {
        self.lanes
            .range(prefix.to_owned()..)
            .take_while(|(subject, _)| subject.starts_with(prefix))
            .take(LANES_MAX)
            .map(|(_, (lane, rows))| LaneCount { lane: lane.clone(), waiting: rows.len() as u64 })
            .collect()
    }

    pub(super) fn finish(&mut self, lane: &LaneKey, seq: Seq, ending: Ending) {
        let Some(row) = self.take(lane, seq) else { return };
        match ending {
            Ending::Done { .. } => {
                self.ids.insert(row.id, Appended::Done(seq));
            }
            Ending::Dead(dead) => {
                self.ids.insert(row.id, Appended::Dead(seq));
                self.dead.insert(seq, Dead { seq: seq.0, ..*dead });
            }
        }
    }

    pub(super) fn note(&self, origin: Seq) -> Option<Noted> {
        self.notes.get(&origin).cloned()
    }

    pub(super) fn keep_note(&mut self, origin: Seq, expected: u64, bytes: Bytes) -> Option<u64> {
        let known = self.notes.get(&origin).map_or(0, |noted| noted.version);
        if known != expected {
            return None;
        }
        self.noted += 1;
        self.notes.insert(origin, Noted { version: self.noted, bytes });
        Some(self.noted)
    }

    pub(super) fn drop_note(&mut self, origin: Seq) {
        self.notes.remove(&origin);
    }

    pub(super) fn postpone(&mut self, lane: &LaneKey, seq: Seq, until: Timestamp) {
        let Some(row) = self.take(lane, seq) else { return };
        if until > self.now() {
            self.aside.insert(seq, (lane.clone(), until, row));
        } else {
            self.put(lane, row);
        }
    }

    pub(super) fn bury(&mut self, key: [u8; 16], dead: Dead) -> bool {
        if !self.buried.insert(key) {
            return false;
        }
        let seq = self.next_seq();
        self.dead.insert(seq, Dead { seq: seq.0, ..dead });
        true
    }

    pub(super) fn dead(&self, after: Option<Seq>, max: usize) -> Vec<Letter> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let letters = self.dead.range((from, Bound::Unbounded)).take(max);
        letters.map(|(number, dead)| Letter { number: *number, dead: dead.clone() }).collect()
    }

    pub(super) fn revive(&mut self, seq: Seq, replay: Option<NewFetch>) -> bool {
        if self.dead.remove(&seq).is_none() {
            return false;
        }
        if let Some(fetch) = replay
            && !matches!(self.ids.get(&id_key(&fetch)), Some(Appended::Waiting(_)))
        {
            self.store(fetch);
        }
        true
    }

    pub(super) fn open_wakes(&mut self) -> mpsc::Receiver<Wake> {
        let (sender, receiver) = mpsc::channel(WAKES_MAX);
        self.wakes = Some(sender);
        receiver
    }

    #[cfg(any(test, feature = "testkit"))]
    pub(super) fn lose_wakes(&mut self, lose: bool) {
        self.lose_wakes = lose;
    }

    fn wake(&mut self, lane: &LaneKey, count: u64) {
        if let Some(sender) = &self.wakes
            && !self.lose_wakes
        {
            // A wake may be lost: here one is where the receiver is that far behind.
            sender.try_send(Wake { lane: lane.clone(), count, all: false }).ok();
        }
    }
}

/// An id counts within platform, account and api, whatever its priority.
fn id_key(fetch: &NewFetch) -> IdKey {
    (format!("{}.{}", fetch.lane.account.subject(), fetch.lane.api), fetch.id.clone())
}
