//! An archive of which several members are stored, on its way: what comes out of it, piece by piece and in order.
//!
//! It is taken apart on the blocking threads in turns, each of which gives a bounded amount. All that it and the sinks
//! of its members hold is covered by one streaming share, for one member goes into the store at a time: so it asks for
//! no share while it holds one (see `budget`).

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;

use super::budget::Share;
use super::codec::{Decoder, STEP_BYTES};
use super::members::{Mark, MemberName, Members};
use super::pipeline::{Fault, encoding};
use super::sink::{BATCH_BYTES, fault_of, off_the_loop, wire_bytes_max};
use super::zip::{ZipDecoder, is_zip};
use super::{Decode, EXPAND_FREE_BYTES, Sink, SinkError, SinkOptions, Store, Unwrap};

/// Bytes of a body that tell whether it is an archive.
const SIGN_BYTES: usize = 4;

/// What comes out of a body next.
#[derive(Debug)]
pub enum Unpacked {
    /// A member begins; its bytes follow.
    Began(MemberName),
    /// Bytes of the member, or of the body that is no archive.
    Bytes(Bytes),
    /// The member is whole: its length and its checksum are right.
    Ended,
    /// The body is no archive; its bytes follow.
    Plain,
    /// The body is an archive with nothing in it.
    Empty,
}

/// Takes an archive apart as it comes. After each [`Unpack::push`], and after [`Unpack::end`], ask for
/// [`Unpack::next`] until there is nothing.
///
/// All members that are taken have together at most `body_bytes_max` bytes, and so has each. Each member and all
/// together, taken or not, expand to at most `expand_max` times what was sent, as other bodies do.
#[derive(Debug)]
pub struct Unpack {
    store: Store,
    /// The object that errors name.
    key: Path,
    options: SinkOptions,
    share: Option<Arc<Share>>,
    /// Nothing after an error, or a dropped future.
    work: Option<Box<Work>>,
    /// Read, and not yet taken.
    piece: Bytes,
    wire: u64,
    is_all: bool,
    is_over: bool,
    ready: VecDeque<Unpacked>,
}

impl Unpack {
    pub(super) fn new(store: Store, key: Path, members: Members, options: &SinkOptions) -> Self {
        let work = Some(Box::new(Work::new(members, options)));
        Self {
            store,
            key,
            options: SinkOptions {
                decode: Decode::Identity,
                unwrap: Unwrap::None,
                ..options.clone()
            },
            share: None,
            work,
            piece: Bytes::new(),
            wire: 0,
            is_all: false,
            is_over: false,
            ready: VecDeque::new(),
        }
    }

    /// Takes the next piece of the body, of any length. Waits for the node's budget at the first.
    ///
    /// # Errors
    /// [`SinkError::TooLarge`].
    pub async fn push(&mut self, piece: Bytes) -> Result<(), SinkError> {
        debug_assert!(self.piece.is_empty(), "what came before it was asked for");
        if self.share.is_none() {
            let small = self.store.budget().small().await;
            self.share = Some(Arc::new(self.store.budget().grow(small).await));
        }
        self.wire += piece.len() as u64;
        if self.wire > wire_bytes_max(&self.options) {
            return Err(self.fault(Fault::TooLarge));
        }
        self.piece = piece;
        Ok(())
    }

    /// The body is over.
    ///
    /// # Errors
    /// None that [`Unpack::push`] has not.
    pub async fn end(&mut self) -> Result<(), SinkError> {
        if self.share.is_none() {
            self.push(Bytes::new()).await?;
        }
        self.is_all = true;
        Ok(())
    }

    /// What comes out next; nothing: more has to be pushed, or all has come out.
    ///
    /// Dropping the future loses what is on its way; then it only fails.
    ///
    /// # Errors
    /// The archive is broken, or not what is wanted of it: [`SinkError`].
    pub async fn next(&mut self) -> Result<Option<Unpacked>, SinkError> {
        loop {
            if let Some(next) = self.ready.pop_front() {
                return Ok(Some(next));
            }
            if self.is_over {
                return Ok(None);
            }
            let Some(mut work) = self.work.take() else {
                return Err(SinkError::other(&self.key, "an earlier turn failed or was cut short"));
            };
            let room = BATCH_BYTES.saturating_sub(work.waiting());
            let now = self.piece.split_to(room.min(self.piece.len()));
            work.push(&now);
            let ends = self.is_all && self.piece.is_empty();
            if work.waiting() < BATCH_BYTES && !ends {
                self.work = Some(work);
                return Ok(None);
            }
            let share = self.share.as_ref().expect("taken with the first piece");
            let turn = off_the_loop((&self.store, &self.key), share, move || {
                let turn = work.turn(ends);
                (turn, work)
            });
            let (turn, work) = turn.await?;
            self.is_over = turn.map_err(|fault| self.fault(fault))?;
            let mut work = work;
            self.ready.extend(work.out.drain(..));
            self.work = Some(work);
        }
    }

    /// A sink for what came out. One at a time: what it holds is covered with the archive.
    ///
    /// # Panics
    /// Nothing came out yet.
    pub fn sink(&self, key: Path, options: SinkOptions) -> Sink {
        let share = self.share.as_ref().expect("what came out was pushed");
        self.store.sink(key, options).within(Arc::clone(share))
    }

    fn fault(&self, fault: Fault) -> SinkError {
        fault_of(&self.key, &self.options, fault)
    }
}

/// What moves between the loop and the blocking threads.
struct Work {
    members: Members,
    /// Undoes the content encoding, if there is one.
    first: Option<Decoder<Vec<u8>>>,
    /// What it gave.
    middle: Waiting,
    /// Read.
    input: Waiting,
    /// The beginning of the body, until it tells what that is.
    start: Vec<u8>,
    kind: Kind,
    /// Bytes taken of what was read, those `first` gave, and those given out.
    wire: u64,
    decoded: u64,
    bytes: u64,
    bytes_max: u64,
    expand_max: u32,
    out: Vec<Unpacked>,
}

/// Bytes that wait from a place on.
#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    taken: usize,
}

impl Waiting {
    fn len(&self) -> usize {
        self.bytes.len() - self.taken
    }

    fn next(&self) -> &[u8] {
        &self.bytes[self.taken..self.bytes.len().min(self.taken + STEP_BYTES)]
    }
}

enum Kind {
    Unknown,
    Archive(Box<ZipDecoder<Vec<u8>>>),
    Plain,
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Work")
            .field("wire", &self.wire)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl Work {
    fn new(members: Members, options: &SinkOptions) -> Self {
        let encoded = options.decode != Decode::Identity;
        Self {
            members,
            first: encoded.then(|| Decoder::new(options.decode, Vec::new())),
            middle: Waiting::default(),
            input: Waiting::default(),
            start: Vec::new(),
            kind: Kind::Unknown,
            wire: 0,
            decoded: 0,
            bytes: 0,
            bytes_max: options.body_bytes_max,
            expand_max: options.expand_max,
            out: Vec::new(),
        }
    }

    fn waiting(&self) -> usize {
        self.input.len()
    }

    fn push(&mut self, bytes: &[u8]) {
        self.input.bytes.drain(..std::mem::take(&mut self.input.taken));
        self.input.bytes.extend_from_slice(bytes);
    }

    /// Works until nothing waits, or as much came out as is put at once. Whether that was all of a body that `ends`.
    fn turn(&mut self, ends: bool) -> Result<bool, Fault> {
        let before = self.bytes;
        while self.middle.len() + self.input.len() > 0 {
            if self.bytes - before >= BATCH_BYTES as u64 {
                return Ok(false);
            }
            self.step()?;
            self.check()?;
        }
        if ends {
            self.finish()?;
        }
        Ok(ends)
    }

    fn step(&mut self) -> Result<(), Fault> {
        if self.middle.len() > 0 {
            let mut middle = std::mem::take(&mut self.middle);
            middle.taken += self.feed(middle.next())?;
            self.middle = middle;
            return Ok(());
        }
        let mut input = std::mem::take(&mut self.input);
        let taken = if let Some(first) = &mut self.first {
            let taken = first.step(input.next()).map_err(encoding)?;
            self.middle = Waiting { bytes: std::mem::take(first.out()), taken: 0 };
            self.decoded += self.middle.len() as u64;
            taken
        } else {
            self.feed(input.next())?
        };
        input.taken += taken;
        self.wire += taken as u64;
        self.input = input;
        Ok(())
    }

    /// Takes some of a body whose content encoding is undone.
    fn feed(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        match &mut self.kind {
            Kind::Unknown => {
                let taken = bytes.len().min(SIGN_BYTES - self.start.len());
                self.start.extend_from_slice(&bytes[..taken]);
                if self.start.len() == SIGN_BYTES {
                    self.know()?;
                }
                Ok(taken)
            }
            Kind::Archive(zip) => {
                let taken = zip.step(bytes).map_err(encoding)?;
                let came = self.give();
                if taken == 0 && !came {
                    return Err(Fault::Encoding("the archive does not go on".to_owned()));
                }
                Ok(taken)
            }
            Kind::Plain => {
                self.bytes += bytes.len() as u64;
                self.out.push(Unpacked::Bytes(Bytes::copy_from_slice(bytes)));
                Ok(bytes.len())
            }
        }
    }

    /// Gives out what the archive gave; whether there was something.
    fn give(&mut self) -> bool {
        let Kind::Archive(zip) = &mut self.kind else { return false };
        let before = self.out.len();
        let bytes = std::mem::take(zip.out());
        if !bytes.is_empty() {
            self.bytes += bytes.len() as u64;
            self.out.push(Unpacked::Bytes(bytes.into()));
        }
        while let Some(mark) = zip.mark() {
            self.out.push(match mark {
                Mark::Began(name) => Unpacked::Began(name),
                Mark::Ended => Unpacked::Ended,
            });
        }
        self.out.len() > before
    }

    /// The beginning is here, or all there is.
    fn know(&mut self) -> Result<(), Fault> {
        let start = std::mem::take(&mut self.start);
        if is_zip(&start) {
            self.kind =
                Kind::Archive(Box::new(ZipDecoder::several(self.members.clone(), Vec::new())));
        } else {
            self.kind = Kind::Plain;
            self.out.push(Unpacked::Plain);
        }
        let mut rest = start.as_slice();
        while !rest.is_empty() {
            rest = &rest[self.feed(rest)?..];
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Fault> {
        if let Some(first) = self.first.take() {
            let rest = first.finish().map_err(encoding)?;
            self.decoded += rest.len() as u64;
            self.middle = Waiting { bytes: rest, taken: 0 };
            while self.middle.len() > 0 {
                self.step()?;
                self.check()?;
            }
        }
        if matches!(self.kind, Kind::Unknown) {
            self.know()?;
        }
        let Kind::Archive(zip) = std::mem::replace(&mut self.kind, Kind::Plain) else {
            return Ok(());
        };
        if zip.is_empty().is_some() {
            self.out.push(Unpacked::Empty);
        }
        zip.finish().map(drop).map_err(encoding)
    }

    /// A step gives little, so that looking after each one is early enough. What is undone and then skipped costs as
    /// much as what is given out.
    fn check(&self) -> Result<(), Fault> {
        if self.bytes > self.bytes_max {
            return Err(Fault::TooLarge);
        }
        let expands = |from: u64, to: u64| {
            to > EXPAND_FREE_BYTES && to > from.saturating_mul(u64::from(self.expand_max))
        };
        let ((read, written), opened) = match &self.kind {
            Kind::Archive(zip) => (zip.of_member(), zip.opened()),
            Kind::Unknown | Kind::Plain => ((0, 0), 0),
        };
        let most = self.bytes.max(self.decoded).max(opened);
        if expands(self.wire, most) || expands(read, written) {
            return Err(Fault::Bomb);
        }
        Ok(())
    }
}
