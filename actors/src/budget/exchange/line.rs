//! A line of letters from one node to another: each letter is sent until its receipt has come, and taken in once.
//!
//! One letter is on its way at a time; what is said meanwhile shares the next. The receiver knows the last number that
//! it took in, so that a letter that comes twice, or late, changes nothing. Where the two do not agree, because one of
//! them gave the other up, the sender begins a new line with all that was not confirmed.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

/// Between two tries of a letter that nobody confirms, the first and the longest.
const AGAIN: Duration = Duration::from_millis(50);
const AGAIN_MAX: Duration = Duration::from_millis(500);

/// The end of a line that sends.
#[derive(Debug)]
pub(super) struct Sending<T> {
    line: u64,
    number: u64,
    /// What is to be said, in order.
    pub(super) out: VecDeque<T>,
    /// The letter that is not confirmed: what it says, and its text.
    unconfirmed: Option<(Vec<T>, Bytes)>,
    /// It is on its way at this moment.
    on_its_way: bool,
    fails: Option<Fails>,
}

/// Letters are not confirmed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fails {
    pub(super) since: Instant,
    wait: Duration,
    again: Instant,
    /// Whoever operates the node has been told.
    pub(super) told: bool,
    /// When it was last asked whether the other session is over.
    pub(super) looked: Option<Instant>,
}

impl<T: Clone> Sending<T> {
    /// A new line. `line` is higher than that of any line to the same receiver before it.
    pub(super) fn new(line: u64) -> Self {
        let out = VecDeque::new();
        Self { line, number: 0, out, unconfirmed: None, on_its_way: false, fails: None }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.out.is_empty() && self.unconfirmed.is_none()
    }

    pub(super) fn fails(&mut self) -> Option<&mut Fails> {
        self.fails.as_mut()
    }

    pub(super) fn is_failing(&self) -> bool {
        self.fails.is_some()
    }

    /// Everything that is not confirmed.
    pub(super) fn all(&self) -> impl Iterator<Item = &T> {
        self.unconfirmed.iter().flat_map(|(items, _)| items).chain(&self.out)
    }

    /// The text that goes now, with its line and number. `write` makes the next letter of what is to be said.
    pub(super) fn next(
        &mut self,
        now: Instant,
        write: impl FnOnce(&mut VecDeque<T>, u64, u64) -> Option<(Vec<T>, Bytes)>,
    ) -> Option<(u64, u64, Bytes)> {
        if self.on_its_way || self.fails.is_some_and(|fails| fails.again > now) {
            return None;
        }
        if self.unconfirmed.is_none() {
            let letter = write(&mut self.out, self.line, self.number + 1)?;
            self.number += 1;
            self.unconfirmed = Some(letter);
        }
        let (_, text) = self.unconfirmed.as_ref()?;
        let text = text.clone();
        self.on_its_way = true;
        Some((self.line, self.number, text))
    }

    /// The receipt of a letter came. How long letters were not confirmed before, if so; nothing at all for one of an
    /// earlier line.
    pub(super) fn confirmed(&mut self, line: u64, number: u64) -> Option<Duration> {
        if (line, number) != (self.line, self.number) {
            return None;
        }
        self.on_its_way = false;
        self.unconfirmed = None;
        self.fails.take().map(|fails| fails.since.elapsed())
    }

    /// No receipt came.
    pub(super) fn failed(&mut self, line: u64, number: u64, now: Instant) {
        if (line, number) != (self.line, self.number) {
            return;
        }
        self.on_its_way = false;
        let known = self.fails;
        let wait = known.map_or(AGAIN, |fails| (fails.wait * 2).min(AGAIN_MAX));
        // Up to half as long again: those who all lost the same node do not come back at once.
        let again = now + wait.mul_f64(1.0 + fastrand::f64() / 2.0);
        let fresh = Fails { since: now, wait, again, told: false, looked: None };
        self.fails = Some(Fails { wait, again, ..known.unwrap_or(fresh) });
    }

    /// The receiver is heard of, although it confirms nothing: it is tried now, and the waits begin anew.
    pub(super) fn is_heard(&mut self, now: Instant) {
        if let Some(fails) = &mut self.fails {
            (fails.wait, fails.again) = (AGAIN / 2, now);
        }
    }

    /// The receiver does not know the line: all that is not confirmed is said anew. False for a letter of an earlier
    /// line.
    pub(super) fn begin_anew(&mut self, (line, number): (u64, u64), new: u64) -> bool {
        if (line, number) != (self.line, self.number) {
            return false;
        }
        let before = std::mem::replace(self, Self::new(new));
        self.out = before.unconfirmed.into_iter().flat_map(|(items, _)| items).collect();
        self.out.extend(before.out);
        true
    }

    /// Takes out what is to be said elsewhere now: of the letter that is not confirmed a copy, since it may come
    /// through.
    pub(super) fn take_out(&mut self, mut is_other: impl FnMut(&T) -> bool) -> Vec<T> {
        let sent = self.unconfirmed.iter().flat_map(|(items, _)| items);
        let mut taken: Vec<T> = sent.filter(|item| is_other(item)).cloned().collect();
        let (others, out) =
            std::mem::take(&mut self.out).into_iter().partition(|one| is_other(one));
        self.out = out;
        taken.extend::<VecDeque<T>>(others);
        taken
    }
}

/// The end of a line that takes in: the last letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taking {
    line: u64,
    number: u64,
}

/// What becomes of a letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is taken in. `anew`: it begins a line in place of another.
    New { anew: bool },
    /// It was before, or comes too late to mean anything.
    Seen,
    /// Letters before it are not known here.
    Unknown,
}

impl Taking {
    /// A letter has come.
    pub(super) fn take(known: &mut Option<Self>, line: u64, number: u64) -> Verdict {
        match known {
            Some(last) if line < last.line => return Verdict::Seen,
            Some(last) if line == last.line && number <= last.number => return Verdict::Seen,
            Some(last) if line == last.line && number == last.number + 1 => {
                last.number = number;
                return Verdict::New { anew: false };
            }
            Some(last) if line == last.line => return Verdict::Unknown,
            Some(_) | None if number != 1 => return Verdict::Unknown,
            Some(_) | None => {}
        }
        let anew = known.is_some();
        *known = Some(Self { line, number });
        Verdict::New { anew }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(out: &mut VecDeque<u32>, line: u64, number: u64) -> Option<(Vec<u32>, Bytes)> {
        let items: Vec<u32> = out.drain(..out.len().min(3)).collect();
        let text = format!("{line}/{number}/{items:?}");
        (!items.is_empty()).then(|| (items, text.into()))
    }

    fn items(text: &Bytes) -> Vec<u32> {
        let text = std::str::from_utf8(text).unwrap().rsplit('/').next().unwrap().to_owned();
        serde_json::from_str(&text).unwrap()
    }

    /// Letters and receipts that are lost, doubled and late, in any order; now and then the receiver forgets.
    #[tokio::test(start_paused = true)]
    async fn whatever_is_lost_doubled_or_late_is_taken_in_once_and_in_order() {
        for seed in 0..400 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut sending = Sending::new(1);
            let mut lines = 1;
            let (mut taking, mut taken) = (None, Vec::new());
            let mut on_the_wire: Vec<(u64, u64, Bytes)> = Vec::new();
            let mut receipts: Vec<(u64, u64, bool)> = Vec::new();
            let forgets = seed % 4 == 0;
            let mut said = 0;
            while taken.last() != Some(&99) || !sending.is_idle() {
                tokio::time::advance(Duration::from_millis(random.u64(0..100))).await;
                if said < 100 && random.bool() {
                    sending.out.push_back(said);
                    said += 1;
                }
                let now = Instant::now();
                if let Some(letter) = sending.next(now, write) {
                    for _ in 0..random.usize(0..3) {
                        on_the_wire.push(letter.clone());
                    }
                    if random.u8(0..4) == 0 {
                        // Nobody waits for it any longer.
                        sending.failed(letter.0, letter.1, now);
                    }
                }
                if !on_the_wire.is_empty() && random.bool() {
                    let (line, number, text) =
                        on_the_wire.swap_remove(random.usize(0..on_the_wire.len()));
                    let verdict = Taking::take(&mut taking, line, number);
                    if matches!(verdict, Verdict::New { .. }) {
                        taken.extend(items(&text));
                    }
                    receipts.push((line, number, verdict != Verdict::Unknown));
                }
                if !receipts.is_empty() && random.bool() {
                    let (line, number, is_taken) =
                        receipts.swap_remove(random.usize(0..receipts.len()));
                    if is_taken {
                        sending.confirmed(line, number);
                    } else {
                        lines += 1;
                        sending.begin_anew((line, number), lines);
                    }
                } else if sending.on_its_way && random.u8(0..8) == 0 {
                    sending.failed(sending.line, sending.number, now);
                }
                if forgets && random.u8(0..60) == 0 && said < 90 {
                    taking = None;
                }
            }
            if forgets {
                // What was in doubt is said again.
                taken.dedup();
                let mut all = taken.clone();
                all.sort_unstable();
                all.dedup();
                assert_eq!(all, (0..100).collect::<Vec<_>>(), "seed {seed}");
            } else {
                assert_eq!(taken, (0..100).collect::<Vec<_>>(), "seed {seed}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn tries_become_rarer_and_a_confirmation_ends_that() {
        let mut sending = Sending::new(1);
        sending.out.push_back(1);
        let mut at = Vec::new();
        let start = Instant::now();
        while at.len() < 8 {
            if let Some((line, number, _)) = sending.next(Instant::now(), write) {
                at.push(start.elapsed());
                sending.failed(line, number, Instant::now());
            }
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        let gaps: Vec<u128> =
            at.windows(2).map(|two| two[1].saturating_sub(two[0]).as_millis()).collect();
        // Each time twice as long, up to half a second, and up to half as long again.
        let waits = [50, 100, 200, 400, 500, 500, 500];
        for (gap, wait) in gaps.iter().zip(waits) {
            assert!((wait..=wait + wait / 2 + 1).contains(gap), "{gaps:?}");
        }
        // Whoever is heard of is tried at once.
        sending.is_heard(Instant::now());
        assert!(sending.next(Instant::now(), write).is_some(), "it waits");
        sending.failed(1, 1, Instant::now());
        tokio::time::advance(Duration::from_millis(76)).await;
        assert!(sending.next(Instant::now(), write).is_some(), "it waits for long");
        assert!(sending.confirmed(1, 1).is_some() && sending.is_idle() && !sending.is_failing());
    }
}
