//! What the queue does on the state thread. Every operation reads first and writes last, so that a
//! failed read leaves nothing half done.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use fjall::{Readable, SingleWriterTxDatabase, Slice};

use super::lanes::{Lane, Lanes};
use super::rows::{self, Aside, IdState, Incoming, Mark};
use super::wakes::{WakeSlot, Wakes};
use crate::ids::{LaneKey, Seq};
use crate::queue::Appended;
use crate::state::{Failure, Tables, Turn, clock};

/// Most fetches that come back into their lanes in one turn; the others wait for the next. Few, for what throttle actors
/// write down before a call waits for the turn, too.
const BACK_MAX: usize = 128;
/// Longest sleep while fetches are aside: the wall clock may be set meanwhile.
const CLOCK_CHECK: Duration = Duration::from_secs(1);
/// Sleep while wakes wait for room.
const WAKE_RETRY: Duration = Duration::from_millis(20);

/// What is known of the queue without reading it.
#[derive(Debug)]
pub(crate) struct Index {
    pub(super) lanes: Lanes,
    /// How many fetches are aside.
    pub(super) aside: u64,
    /// None of them comes back before this moment (ms since 1970), nor one with a smaller number at it.
    next_due: (u64, u64),
    /// Not looked for before this moment, because they could not be read.
    retry_ms: u64,
    wakes: Wakes,
}

impl Index {
    /// Reads every key of the waiting fetches and of those aside, once.
    pub(crate) fn read(
        database: &SingleWriterTxDatabase,
        tables: &Tables,
        wakes: WakeSlot,
    ) -> Result<Self, String> {
        let view = database.read_tx();
        let mut lanes: Vec<(Box<str>, Lane)> = Vec::new();
        for row in view.iter(&tables.fetch) {
            let key = row.key().map_err(|error| error.to_string())?;
            let (lane, seq) = rows::read_fetch_key(&key).map_err(|error| format!("{error:?}"))?;
            match lanes.last_mut() {
                Some((last, known)) if **last == *lane => known.add(seq),
                _ => lanes.push((lane.into(), Lane::of(seq))),
            }
        }
        let mut aside = 0;
        for row in view.iter(&tables.due) {
            row.key().map_err(|error| error.to_string())?;
            aside += 1;
        }
        let (lanes, wakes) = (Lanes::from_sorted(lanes), Wakes::new(wakes));
        Ok(Self { lanes, aside, next_due: (0, 0), retry_ms: 0, wakes })
    }

    /// How long the thread may sleep when nobody asks for anything. None: for ever.
    pub(crate) fn wait(&self, now_ms: u64) -> Option<Duration> {
        let retry = self.wakes.is_behind().then_some(WAKE_RETRY);
        let due_ms = self.next_due.0.max(self.retry_ms);
        let until_due = Duration::from_millis(due_ms.saturating_sub(now_ms));
        let due = (self.aside > 0).then(|| until_due.min(CLOCK_CHECK));
        retry.into_iter().chain(due).min()
    }

    /// Sends the wakes of what was committed.
    pub(crate) fn send_wakes(&mut self) {
        self.wakes.send(&self.lanes);
    }
}

pub(super) fn append(
    turn: &mut Turn<'_>,
    fetches: Vec<Incoming>,
) -> Result<Vec<Appended>, Failure> {
    let mut known = Vec::with_capacity(fetches.len());
    for fetch in &fetches {
        known.push(id_state(turn, &fetch.mark)?);
    }
    let mut new: HashMap<Mark, u64> = HashMap::new();
    let mut appended = Vec::with_capacity(fetches.len());
    for (fetch, known) in fetches.into_iter().zip(known) {
        appended.push(if let Some(known) = known {
            known.into()
        } else if let Some(&seq) = new.get(&fetch.mark) {
            Appended::Waiting(Seq(seq))
        } else {
            let mark = fetch.mark;
            let seq = store(turn, fetch);
            new.insert(mark, seq);
            Appended::New(Seq(seq))
        });
    }
    Ok(appended)
}

/// Stores a fetch under a new number, in its lane or aside.
fn store(turn: &mut Turn<'_>, fetch: Incoming) -> u64 {
    let seq = turn.next_seq();
    let tables = turn.tables;
    turn.put(&tables.ids, fetch.mark, IdState::Waiting(seq).to_bytes());
    match fetch.not_before_ms {
        Some(until_ms) if until_ms > turn.now_ms => {
            put_aside(turn, seq, &Aside { until_ms, lane: &fetch.subject, row: &fetch.row });
        }
        _ => {
            turn.put(&tables.fetch, rows::fetch_key(&fetch.subject, seq), fetch.row);
            turn.index.lanes.add(&fetch.subject, seq);
            turn.index.wakes.add(&fetch.lane, 1);
        }
    }
    seq
}

fn put_aside(turn: &mut Turn<'_>, seq: u64, aside: &Aside<'_>) {
    let tables = turn.tables;
    turn.put(&tables.aside, seq.to_be_bytes(), aside.to_bytes());
    turn.put(&tables.due, rows::due_key(aside.until_ms, seq), []);
    turn.index.next_due = turn.index.next_due.min((aside.until_ms, seq));
    turn.index.aside += 1;
}

fn take_aside(turn: &mut Turn<'_>, seq: u64, until_ms: u64) {
    let tables = turn.tables;
    turn.remove(&tables.aside, seq.to_be_bytes());
    turn.remove(&tables.due, rows::due_key(until_ms, seq));
    turn.index.aside = turn.index.aside.saturating_sub(1);
}

/// Rows behind `after`, read from where the lane's bounds say that there may be one.
pub(super) fn first(
    turn: &mut Turn<'_>,
    subject: &str,
    after: Option<Seq>,
    max: usize,
) -> Result<Vec<(u64, Slice)>, Failure> {
    let Some(mut lane) = turn.index.lanes.get(subject) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    // The head of the lane is read alone, because what follows it begins at the second bound.
    let before = match after {
        Some(after) if after.0 >= lane.first => after.0,
        _ => {
            found = scan(turn, subject, lane.first, max.min(1))?;
            let Some((head, _)) = found.first() else { return Ok(found) };
            lane.first_is(*head);
            *head
        }
    };
    if found.len() < max && (found.len() as u64) < lane.waiting {
        let behind = before.saturating_add(1).max(lane.second_behind(before));
        let rows = scan(turn, subject, behind, max - found.len())?;
        if let Some((next, _)) = rows.first() {
            lane.follows(before, *next);
        }
        found.extend(rows);
    }
    turn.index.lanes.learn(subject, lane);
    let mut bytes = 0;
    let fits = found.iter().take_while(|(_, row)| {
        let first = bytes == 0;
        bytes += row.len();
        first || bytes <= crate::queue::FIRST_BYTES_MAX
    });
    let fits = fits.count();
    found.truncate(fits);
    Ok(found)
}

fn scan(
    turn: &Turn<'_>,
    subject: &str,
    from: u64,
    max: usize,
) -> Result<Vec<(u64, Slice)>, Failure> {
    let (from, to) = (rows::fetch_key(subject, from), rows::fetch_key(subject, u64::MAX));
    let mut found = Vec::new();
    for row in turn.range(&turn.tables.fetch, &from, &to).take(max) {
        let (key, row) = row.into_inner()?;
        found.push((rows::read_fetch_key(&key)?.1, row));
    }
    Ok(found)
}

/// Records how a fetch ended, in its lane or aside; with a letter it is dead.
pub(super) fn finish(
    turn: &mut Turn<'_>,
    subject: &str,
    seq: u64,
    dead: Option<Vec<u8>>,
) -> Result<(), Failure> {
    let tables = turn.tables;
    let key = rows::fetch_key(subject, seq);
    let mark = if let Some(row) = turn.get(&tables.fetch, &key)? {
        let mark = rows::mark_of(&row)?;
        turn.remove(&tables.fetch, key);
        turn.index.lanes.remove(subject, seq);
        mark
    } else if let Some(value) = turn.get(&tables.aside, &seq.to_be_bytes())? {
        let aside = Aside::read(&value)?;
        if aside.lane != subject {
            return Ok(());
        }
        let mark = rows::mark_of(aside.row)?;
        take_aside(turn, seq, aside.until_ms);
        mark
    } else {
        return Ok(());
    };
    let state = if dead.is_some() { IdState::Dead(seq) } else { IdState::Done(seq) };
    turn.put(&tables.ids, mark, state.to_bytes());
    if let Some(dead) = dead {
        turn.put(&tables.dead, seq.to_be_bytes(), dead);
    }
    Ok(())
}

/// The note of a fetch, and its version.
pub(super) fn note(turn: &Turn<'_>, origin: u64) -> Result<Option<(u64, Bytes)>, Failure> {
    let Some(row) = turn.get(&turn.tables.progress, &origin.to_be_bytes())? else {
        return Ok(None);
    };
    let cut_short = || Failure::Corrupt("the note of a fetch is cut short".into());
    let (version, note) = row.split_first_chunk::<8>().ok_or_else(cut_short)?;
    Ok(Some((u64::from_be_bytes(*version), Bytes::copy_from_slice(note))))
}

/// Replaces a note of that version.
pub(super) fn keep_note(
    turn: &mut Turn<'_>,
    origin: u64,
    expected: u64,
    note: &Bytes,
) -> Result<Option<u64>, Failure> {
    let known = self::note(turn, origin)?.map_or(0, |(version, _)| version);
    if known != expected {
        return Ok(None);
    }
    // By chance, so that one that was dropped and written anew is another.
    let version = clock::random().max(1);
    let mut row = Vec::with_capacity(8 + note.len());
    row.extend_from_slice(&version.to_be_bytes());
    row.extend_from_slice(note);
    let tables = turn.tables;
    turn.put(&tables.progress, origin.to_be_bytes(), row);
    Ok(Some(version))
}

pub(super) fn drop_note(turn: &mut Turn<'_>, origin: u64) -> Result<(), Failure> {
    let tables = turn.tables;
    let key = origin.to_be_bytes();
    if turn.get(&tables.progress, &key)?.is_some() {
        turn.remove(&tables.progress, key);
    }
    Ok(())
}

/// Puts a fetch aside, from its lane or from a place aside that it had.
pub(super) fn postpone(
    turn: &mut Turn<'_>,
    lane: &LaneKey,
    seq: u64,
    until_ms: u64,
) -> Result<(), Failure> {
    let tables = turn.tables;
    let subject = lane.subject();
    let key = rows::fetch_key(&subject, seq);
    if let Some(row) = turn.get(&tables.fetch, &key)? {
        if until_ms > turn.now_ms {
            turn.remove(&tables.fetch, key);
            turn.index.lanes.remove(&subject, seq);
            put_aside(turn, seq, &Aside { until_ms, lane: &subject, row: &row });
        } else {
            turn.index.wakes.add(lane, 1);
        }
    } else if let Some(value) = turn.get(&tables.aside, &seq.to_be_bytes())? {
        let aside = Aside::read(&value)?;
        if aside.lane == subject {
            take_aside(turn, seq, aside.until_ms);
            // A moment that is past: the next turn brings it back.
            put_aside(turn, seq, &Aside { until_ms, ..aside });
        }
    }
    Ok(())
}

/// Puts what is due back into its lanes.
pub(crate) fn bring_back(turn: &mut Turn<'_>) {
    let index = &turn.index;
    if index.aside == 0 || index.next_due.0.max(index.retry_ms) > turn.now_ms {
        return;
    }
    if let Err(failure) = try_bring_back(turn) {
        // Tried again a second later; nothing is lost meanwhile.
        crate::telemetry::postponed_unreadable(&format!("{failure:?}"));
        turn.index.retry_ms = turn.now_ms + 1000;
    }
}

fn try_bring_back(turn: &mut Turn<'_>) -> Result<(), Failure> {
    let tables = turn.tables;
    // What came back is removed, but a walk over it costs as if it were there; and very many may be due at one moment.
    let (from_ms, from_seq) = turn.index.next_due;
    let from = rows::due_key(from_ms, from_seq);
    let mut due = Vec::new();
    let mut next_due = (u64::MAX, u64::MAX);
    for row in turn.range(&tables.due, &from, &rows::due_key(u64::MAX, u64::MAX)) {
        let key = row.key()?;
        let (until_ms, seq) = rows::read_due_key(&key)?;
        if until_ms > turn.now_ms || due.len() == BACK_MAX {
            next_due = (until_ms, seq);
            break;
        }
        due.push((until_ms, seq));
    }
    for (until_ms, seq) in due {
        let value = turn.get(&tables.aside, &seq.to_be_bytes())?;
        let value = value.unwrap_or_default();
        let aside = Aside::read(&value)?;
        let lane = rows::lane(aside.lane)?;
        take_aside(turn, seq, until_ms);
        turn.put(&tables.fetch, rows::fetch_key(aside.lane, seq), aside.row);
        turn.index.lanes.add(aside.lane, seq);
        turn.index.wakes.add(&lane, 1);
    }
    turn.index.next_due = next_due;
    Ok(())
}

pub(super) fn bury(turn: &mut Turn<'_>, key: [u8; 16], dead: Vec<u8>) -> Result<bool, Failure> {
    let tables = turn.tables;
    if turn.get(&tables.buried, &key)?.is_some() {
        return Ok(false);
    }
    let seq = turn.next_seq();
    turn.put(&tables.buried, key, seq.to_be_bytes());
    turn.put(&tables.dead, seq.to_be_bytes(), dead);
    Ok(true)
}

pub(super) fn dead(
    turn: &Turn<'_>,
    after: Option<Seq>,
    max: usize,
) -> Result<Vec<(u64, Slice)>, Failure> {
    let from = after.map_or(0, |seq| seq.0.saturating_add(1)).to_be_bytes();
    let mut found = Vec::new();
    for row in turn.range(&turn.tables.dead, &from, &u64::MAX.to_be_bytes()).take(max) {
        let (key, row) = row.into_inner()?;
        found.push((rows::read_seq(&key)?, row));
    }
    Ok(found)
}

/// Dead letters that are counted in one turn.
const COUNTED_AT_ONCE: usize = 1_000;

/// Counts a piece of the list of dead letters; where the next one begins, if there may be one.
pub(super) fn dead_keys(
    turn: &Turn<'_>,
    after: Option<Seq>,
) -> Result<(u64, Option<Seq>), Failure> {
    let from = after.map_or(0, |seq| seq.0.saturating_add(1)).to_be_bytes();
    let (mut count, mut last) = (0, None);
    for row in turn.range(&turn.tables.dead, &from, &u64::MAX.to_be_bytes()).take(COUNTED_AT_ONCE) {
        let (key, _) = row.into_inner()?;
        count += 1;
        last = Some(Seq(rows::read_seq(&key)?));
    }
    Ok((count, last.filter(|_| count == COUNTED_AT_ONCE as u64)))
}

/// Takes a letter out of the list and, with a fetch, stores that. An id that waits already is not
/// stored a second time: the letter came from an input whose like is on its way.
pub(super) fn revive(
    turn: &mut Turn<'_>,
    seq: u64,
    replay: Option<Incoming>,
) -> Result<bool, Failure> {
    let tables = turn.tables;
    if turn.get(&tables.dead, &seq.to_be_bytes())?.is_none() {
        return Ok(false);
    }
    let known = match &replay {
        Some(fetch) => id_state(turn, &fetch.mark)?,
        None => None,
    };
    turn.remove(&tables.dead, seq.to_be_bytes());
    if let Some(fetch) = replay
        && !matches!(known, Some(IdState::Waiting(_)))
    {
        store(turn, fetch);
    }
    Ok(true)
}

fn id_state(turn: &Turn<'_>, mark: &Mark) -> Result<Option<IdState>, Failure> {
    turn.get(&turn.tables.ids, mark)?.map(|value| IdState::read(&value)).transpose()
}
