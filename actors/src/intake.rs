//! Fetches from JSON Lines: each line checked, stored or given its dead letter; none stops the next.
//!
//! Reading is bounded: a line longer than a fetch may be is stepped over without being held.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};

use sha2::{Digest, Sha256};
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::codes::Code;
use crate::node::Intake;
use crate::plan::InForce;
use crate::queue::{Appended, NewFetch, QueueError};
use crate::recipe::{FETCH_BYTES_MAX, Refusal, check_fetch};
use crate::telemetry;

/// Fetches stored in one step: few enough that whoever collects meanwhile hardly waits behind them.
const BATCH: usize = 256;
/// Batches on their way while the next one is read.
const AHEAD: usize = 4;
/// Bytes of fetches held before they are stored.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// What became of the lines of one input.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    /// Lines that hold something.
    pub lines: u64,
    /// New fetches.
    pub new: u64,
    /// Fetches that wait already, from this input or an earlier one, or did when this run began.
    pub waiting: u64,
    /// Fetches done by earlier runs.
    pub done: u64,
    /// Fetches given up by earlier runs.
    pub dead: u64,
    /// Lines that are no fetch, or one that may not be called: each has a dead letter, new or from before.
    pub refused: u64,
}

/// What came of reading one line.
pub(crate) enum Line {
    /// A line, within bounds.
    Whole,
    /// A line too long to be a fetch; its beginning is in the buffer.
    Long,
    /// No more.
    End,
}

/// Why an input was not read to its end.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// The input cannot be read.
    #[error("{0}")]
    Read(#[from] std::io::Error),
    /// The queue does not take fetches; what was taken before is safe.
    #[error(transparent)]
    Queue(#[from] QueueError),
}

/// Reads one input to its end; each line is judged by the plan in force when it is read. `source` names it in dead letters; `go_on` is asked between batches.
///
/// Reading blocks: not for a shard's thread.
///
/// # Errors
/// The input cannot be read or the queue takes nothing; what was taken until then stays.
pub fn take_lines(
    plan: &InForce,
    intake: &Intake,
    clock: &Clock,
    source: &str,
    mut input: BufReader<impl Read>,
    wait: &tokio::runtime::Handle,
    go_on: impl Fn() -> bool,
) -> Result<Taken, IntakeError> {
    let mut taken = Taken::default();
    let mut line = Vec::new();
    let mut batch: Vec<NewFetch> = Vec::with_capacity(BATCH);
    let mut batch_bytes = 0;
    let mut storing: VecDeque<JoinHandle<Result<Vec<Appended>, QueueError>>> = VecDeque::new();
    let mut number = 0_u64;
    loop {
        let read = read_line(&mut input, &mut line)?;
        number += 1;
        let refusal = match read {
            Line::End => None,
            Line::Whole if line.iter().all(u8::is_ascii_whitespace) => continue,
            Line::Whole => match check_fetch(&plan.get(), &line) {
                Ok(accepted) => {
                    taken.lines += 1;
                    batch_bytes += accepted.payload.len();
                    batch.push(NewFetch {
                        lane: accepted.lane,
                        id: accepted.id,
                        payload: accepted.payload,
                        not_before: accepted.fetch.not_before,
                    });
                    None
                }
                Err(refusal) => Some(refusal),
            },
            Line::Long => Some(Refusal {
                code: Code::FetchTooLarge,
                reason: format!("the line is longer than {FETCH_BYTES_MAX} bytes"),
                fetch: None,
            }),
        };
        if let Some(refusal) = refusal {
            taken.lines += 1;
            taken.refused += 1;
            let source = format!("{source}:{number}");
            wait.block_on(bury(intake, clock, source, &line, refusal))?;
        }
        let ends = matches!(read, Line::End);
        // What has been read is stored before more is waited for: a pipe may stay open for long.
        let must_wait = !batch.is_empty() && !input.buffer().contains(&b'\n');
        if ends || must_wait || batch.len() >= BATCH || batch_bytes >= BATCH_BYTES {
            batch_bytes = 0;
            let (taker, batch) = (intake.clone(), std::mem::take(&mut batch));
            storing.push_back(wait.spawn(async move { taker.append(batch).await }));
            let stops = ends || !go_on();
            while storing.len() > if stops { 0 } else { AHEAD } {
                let Some(stored) = storing.pop_front() else { break };
                taken.count(intake, &wait.block_on(stored).map_err(std::io::Error::other)??);
            }
            if stops {
                return Ok(taken);
            }
        }
    }
}

impl Taken {
    fn count(&mut self, intake: &Intake, appended: &[Appended]) {
        for appended in appended {
            match appended {
                Appended::New(_) => self.new += 1,
                Appended::Waiting(_) => self.waiting += 1,
                // It waited when this run began, or stands in its inputs twice.
                Appended::Done(seq) | Appended::Dead(seq) if intake.ended_here(*seq) => {
                    self.waiting += 1;
                }
                Appended::Done(_) => self.done += 1,
                Appended::Dead(_) => self.dead += 1,
            }
        }
    }

    /// Adds what became of another input.
    pub fn add(&mut self, other: Self) {
        self.lines += other.lines;
        self.new += other.new;
        self.waiting += other.waiting;
        self.done += other.done;
        self.dead += other.dead;
        self.refused += other.refused;
    }
}

async fn bury(
    intake: &Intake,
    clock: &Clock,
    source: String,
    line: &[u8],
    refusal: Refusal,
) -> Result<(), QueueError> {
    let digest = Sha256::digest(line);
    let mut key = [0; 16];
    key.copy_from_slice(&digest[..16]);
    let (code, reason) = (refusal.code, refusal.reason.clone());
    let dead = refusal.into_dead(0, line, Some(source.clone()), clock.wall());
    if intake.queue().bury(key, dead).await? {
        telemetry::fetch_refused(&source, code, &reason);
    }
    Ok(())
}

/// Reads up to the next line feed into `line`, without it and without holding more than a fetch may have.
pub(crate) fn read_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<Line> {
    line.clear();
    let mut long = false;
    let mut any = false;
    loop {
        let piece = match input.fill_buf() {
            Ok(piece) => piece,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if piece.is_empty() {
            return Ok(match (any, long) {
                (false, _) => Line::End,
                (true, false) => Line::Whole,
                (true, true) => Line::Long,
            });
        }
        any = true;
        let feed = piece.iter().position(|byte| *byte == b'\n');
        let end = feed.unwrap_or(piece.len());
        let room = (FETCH_BYTES_MAX + 1).saturating_sub(line.len());
        line.extend_from_slice(&piece[..end.min(room)]);
        long |= line.len() > FETCH_BYTES_MAX;
        input.consume(feed.map_or(end, |_| end + 1));
        if feed.is_some() {
            return Ok(if long { Line::Long } else { Line::Whole });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_at_feeds_and_long_ones_are_stepped_over_without_being_held() {
        let long = "x".repeat(FETCH_BYTES_MAX + 10);
        let text = format!("a\n\nbc\r\n{long}\nd");
        let mut input = std::io::BufReader::with_capacity(7, text.as_bytes());
        let mut line = Vec::new();
        let mut read = Vec::new();
        loop {
            match read_line(&mut input, &mut line).unwrap() {
                Line::Whole => read.push(String::from_utf8(line.clone()).unwrap()),
                Line::Long => {
                    assert_eq!(line.len(), FETCH_BYTES_MAX + 1);
                    read.push("(long)".into());
                }
                Line::End => break,
            }
        }
        assert_eq!(read, ["a", "", "bc\r", "(long)", "d"]);
    }
}
