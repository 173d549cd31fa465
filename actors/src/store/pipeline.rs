//! From the bytes of an answer to the bytes of an object: decode, count, hash, compress. No IO, no
//! async.
//!
//! [`pack`] does a small body at once, on the caller's thread. [`Pipeline`] does a larger one turn
//! by turn, and stops whenever a part is full, so that its owner bounds what is held.

use std::io::{self, Write};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::codec::{Decoder, Encoder, STEP_BYTES, compress_small};
use super::sink::Tap;
use super::unwrap::{IsNot, ToUtf8, Unwrapper};
use super::zip::Unfit as UnfitArchive;
use super::{
    Codec, Decode, EXPAND_FREE_BYTES, INLINE_BYTES_MAX, Inspect, SinkOptions, Unfit, Unwrap, Word,
};

/// What an encoder may hand out beyond a full part: its own output buffer and a step.
const PART_SLACK_BYTES: usize = 256 * 1024;

/// Why a body was refused.
#[derive(Debug)]
pub(super) enum Fault {
    TooLarge,
    Bomb,
    Encoding(String),
    Unfit(Unfit, String),
    /// Whoever looks at it does not want it.
    Refused,
    /// The compressor failed; it writes to memory, so this is a lack of it or a bug.
    Codec(io::Error),
}

/// What is known of a whole body.
#[derive(Debug)]
pub(super) struct Sums {
    /// Bytes after decoding, before compressing.
    pub(super) bytes: u64,
    /// Of the same bytes, in lower-case hex.
    pub(super) sha256: String,
    /// Of the object as it is stored.
    pub(super) stored_sha256: String,
}

/// Does a small body at once. `None`: it decodes to more than [`INLINE_BYTES_MAX`], what is not wanted of an archive
/// counted, and `wire` and `inspect` are as they were.
pub(super) fn pack(
    wire: &mut Vec<u8>,
    options: &SinkOptions,
    inspect: &mut Option<Box<dyn Inspect>>,
    tap: Option<&mut Box<dyn Tap>>,
) -> Result<Option<(Bytes, Sums)>, Fault> {
    let small = match (options.decode, &options.unwrap, options.charset) {
        (Decode::Identity, Unwrap::None, None) => Some((std::mem::take(wire), None)),
        _ => decode_small(wire, options)?,
    };
    let Some((body, is_not)) = small else { return Ok(None) };
    let bytes = body.len() as u64;
    if bytes > options.body_bytes_max {
        return Err(Fault::TooLarge);
    }
    if let Some(inspect) = inspect {
        inspect.take(&body);
    }
    last_word(inspect, is_not)?;
    let sha256 = hex(&Sha256::digest(&body));
    if let Some(tap) = tap {
        tap.see(&body);
    }
    let object = compress_small(options.codec, body).map_err(Fault::Codec)?;
    let stored_sha256 = match options.codec {
        Codec::None => sha256.clone(),
        Codec::Gzip | Codec::Zstd => hex(&Sha256::digest(&object)),
    };
    Ok(Some((object.into(), Sums { bytes, sha256, stored_sha256 })))
}

/// Whether a whole body is stored: what somebody sees in it goes before what it is not.
fn last_word(inspect: &mut Option<Box<dyn Inspect>>, is_not: Option<IsNot>) -> Result<(), Fault> {
    let word = inspect.as_mut().map_or(Word::Yes, |inspect| inspect.end());
    match (word, is_not) {
        (Word::No, _) => Err(Fault::Refused),
        (Word::Empty, _) | (Word::Yes, None) => Ok(()),
        (Word::Yes, Some(IsNot::File(what))) => {
            Err(Fault::Encoding(format!("the body is not {what}")))
        }
        (Word::Yes, Some(IsNot::Filled(reason))) => Err(Fault::Unfit(Unfit::Archive, reason)),
    }
}

/// A small body, and what it is not.
type Small = (Vec<u8>, Option<IsNot>);

fn decode_small(wire: &[u8], options: &SinkOptions) -> Result<Option<Small>, Fault> {
    let room = || Vec::with_capacity(INLINE_BYTES_MAX);
    let Some((mut body, _)) = whole(Decoder::new(options.decode, room()), wire)? else {
        return Ok(None);
    };
    let mut is_not = None;
    if options.unwrap != Unwrap::None {
        let unwrapper = Unwrapper::new(options.unwrap.clone(), room());
        match whole(Decoder::Unwrap(Box::new(unwrapper)), &body)? {
            Some(unwrapped) => (body, is_not) = unwrapped,
            None => return Ok(None),
        }
    }
    if let Some(charset) = options.charset {
        let mut text = room();
        let mut take = |bytes: &[u8]| text.write_all(bytes);
        let converted = ToUtf8::new(charset).convert(&body, true, &mut take);
        converted.map_err(encoding)?.map_err(|reason| Fault::Unfit(Unfit::Text, reason))?;
        body = text;
    }
    Ok((body.len() <= INLINE_BYTES_MAX).then_some((body, is_not)))
}

/// All of a small body through one decoder; `None` if it becomes a large one.
fn whole(mut decoder: Decoder<Vec<u8>>, bytes: &[u8]) -> Result<Option<Small>, Fault> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let taken = decoder.step(rest).map_err(encoding)?;
        rest = &rest[taken..];
        if decoder.out().len() > INLINE_BYTES_MAX || decoder.opened() > INLINE_BYTES_MAX as u64 {
            return Ok(None);
        }
    }
    let is_not = decoder.is_not();
    let body = decoder.finish().map_err(encoding)?;
    Ok((body.len() <= INLINE_BYTES_MAX).then_some((body, is_not)))
}

/// The last parts of a body, what is known of it, and who saw it.
type Ended = (Vec<Bytes>, Sums, Option<Box<dyn Tap>>);

/// A larger body on its way. Moves between the loop and the blocking threads.
pub(super) struct Pipeline {
    /// Undoes the content encoding where something else has to be undone after it. Both in one would give
    /// more at a step than there is room for.
    first: Option<Decoder<Vec<u8>>>,
    /// What it gave, and taken from `middle_taken` on.
    middle: Vec<u8>,
    middle_taken: usize,
    /// Bytes it gave, of the whole body.
    decoded: u64,
    decoder: Decoder<Tail>,
    /// Read, and taken from `taken` on.
    input: Vec<u8>,
    taken: usize,
    /// Bytes the decoder took, of the whole body.
    wire: u64,
    options: SinkOptions,
    part_bytes: usize,
    /// Of the parts so far, where they are not the body itself.
    stored: Sha256,
}

impl Pipeline {
    pub(super) fn new(
        options: SinkOptions,
        part_bytes: usize,
        inspect: Option<Box<dyn Inspect>>,
        tap: Option<Box<dyn Tap>>,
    ) -> Result<Self, Fault> {
        let out = Vec::with_capacity(part_bytes + PART_SLACK_BYTES);
        let encoder = Encoder::new(options.codec, out).map_err(Fault::Codec)?;
        let to_utf8 = options.charset.map(ToUtf8::new);
        let sha = Sha256::new();
        let tail = Tail { encoder, sha, bytes: 0, failed: None, to_utf8, inspect, tap };
        let (first, decoder) = match (&options.unwrap, options.decode) {
            (Unwrap::None, decode) => (None, Decoder::new(decode, tail)),
            (unwrap, decode) => {
                let unwrapper = Unwrapper::new(unwrap.clone(), tail);
                let first = (decode != Decode::Identity).then(|| Decoder::new(decode, Vec::new()));
                (first, Decoder::Unwrap(Box::new(unwrapper)))
            }
        };
        Ok(Self {
            first,
            middle: Vec::new(),
            middle_taken: 0,
            decoded: 0,
            decoder,
            input: Vec::new(),
            taken: 0,
            wire: 0,
            options,
            part_bytes,
            stored: Sha256::new(),
        })
    }

    /// Bytes that wait for a turn.
    pub(super) fn waiting(&self) -> usize {
        self.input.len()
    }

    /// Adds to what waits; the caller keeps it short.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// Works until a part is full, which it gives, or nothing waits any more.
    pub(super) fn turn(&mut self) -> Result<Option<Bytes>, Fault> {
        while self.taken < self.input.len() || self.middle_taken < self.middle.len() {
            if self.decoder.out().encoder.out().len() > self.part_bytes {
                return Ok(Some(self.cut_part()));
            }
            self.step()?;
            self.check()?;
        }
        self.input.clear();
        self.taken = 0;
        // A body of just one part is put at once: whether it is one shows with the next byte.
        let full = self.decoder.out().encoder.out().len() > self.part_bytes;
        Ok(full.then(|| self.cut_part()))
    }

    fn step(&mut self) -> Result<(), Fault> {
        let (from, taken) = if self.middle_taken < self.middle.len() {
            (&self.middle, self.middle_taken)
        } else {
            (&self.input, self.taken)
        };
        let end = from.len().min(taken + STEP_BYTES);
        let bytes = &from[taken..end];
        if self.middle_taken < self.middle.len() {
            let step = self.decoder.step(bytes);
            self.middle_taken += step.map_err(|error| self.decoder.out().fault(error))?;
            return Ok(());
        }
        let taken = if let Some(first) = &mut self.first {
            let taken = first.step(bytes).map_err(encoding)?;
            self.middle.clear();
            self.middle_taken = 0;
            std::mem::swap(&mut self.middle, first.out());
            self.decoded += self.middle.len() as u64;
            taken
        } else {
            self.decoder.step(bytes).map_err(|error| self.decoder.out().fault(error))?
        };
        self.taken += taken;
        self.wire += taken as u64;
        Ok(())
    }

    /// Ends a body of which nothing waits any more. Gives the last parts: none is longer than a
    /// part, none is empty unless the whole object is.
    pub(super) fn finish(mut self) -> Result<Ended, Fault> {
        let part_bytes = self.part_bytes;
        self.check()?;
        if let Some(first) = self.first.take() {
            let rest = first.finish().map_err(encoding)?;
            self.decoded += rest.len() as u64;
            let mut rest = rest.as_slice();
            while !rest.is_empty() {
                let end = rest.len().min(STEP_BYTES);
                let step = self.decoder.step(&rest[..end]);
                rest = &rest[step.map_err(|error| self.decoder.out().fault(error))?..];
                self.check()?;
            }
        }
        let is_not = self.decoder.is_not();
        // An error in the last bytes is the stream's unless the compressor left its own; the
        // decoder that would tell is gone by then, and the compressor writes to memory.
        let mut tail = self.decoder.finish().map_err(encoding)?;
        tail.end_text()?;
        if tail.bytes > self.options.body_bytes_max {
            return Err(Fault::TooLarge);
        }
        last_word(&mut tail.inspect, is_not)?;
        let mut rest = Bytes::from(tail.encoder.finish().map_err(Fault::Codec)?);
        let sha256 = hex(&tail.sha.finalize());
        let stored_sha256 = match self.options.codec {
            Codec::None => sha256.clone(),
            Codec::Gzip | Codec::Zstd => {
                self.stored.update(&rest);
                hex(&self.stored.finalize())
            }
        };
        let sums = Sums { bytes: tail.bytes, sha256, stored_sha256 };
        let mut parts = Vec::new();
        while rest.len() > part_bytes {
            parts.push(rest.split_to(part_bytes));
        }
        parts.push(rest);
        Ok((parts, sums, tail.tap))
    }

    /// A step gives little, so that looking after each one is early enough. What is undone and then skipped costs as
    /// much as what is kept.
    fn check(&mut self) -> Result<(), Fault> {
        let bytes = self.decoder.out().bytes;
        if bytes > self.options.body_bytes_max {
            return Err(Fault::TooLarge);
        }
        let allowed = self.wire.saturating_mul(u64::from(self.options.expand_max));
        let expands =
            self.options.decode != Decode::Identity || self.options.unwrap != Unwrap::None;
        let most = bytes.max(self.decoded).max(self.decoder.opened());
        if expands && most > EXPAND_FREE_BYTES && most > allowed {
            return Err(Fault::Bomb);
        }
        Ok(())
    }

    /// Exactly one part: some stores take only parts of equal size.
    fn cut_part(&mut self) -> Bytes {
        let part_bytes = self.part_bytes;
        let out = self.decoder.out().encoder.out();
        let mut next = Vec::with_capacity(part_bytes + PART_SLACK_BYTES);
        next.extend_from_slice(&out[part_bytes..]);
        let mut part = std::mem::replace(out, next);
        part.truncate(part_bytes);
        if self.options.codec != Codec::None {
            self.stored.update(&part);
        }
        part.into()
    }
}

/// Where decoded bytes go.
struct Tail {
    encoder: Encoder,
    sha: Sha256,
    bytes: u64,
    /// An error of its own, which travels through the decoder and must not be taken for the stream's.
    failed: Option<Fault>,
    to_utf8: Option<ToUtf8>,
    inspect: Option<Box<dyn Inspect>>,
    tap: Option<Box<dyn Tap>>,
}

impl Tail {
    fn fault(&mut self, error: io::Error) -> Fault {
        self.failed.take().unwrap_or_else(|| encoding(error))
    }

    /// Text that may break off in the middle of a character is over.
    fn end_text(&mut self) -> Result<(), Fault> {
        if let Some(mut to_utf8) = self.to_utf8.take() {
            let converted = to_utf8.convert(&[], true, |text| self.take(text));
            let converted = converted.map_err(|error| self.fault(error))?;
            converted.map_err(|reason| Fault::Unfit(Unfit::Text, reason))?;
        }
        Ok(())
    }

    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes += bytes.len() as u64;
        self.sha.update(bytes);
        if let Some(inspect) = &mut self.inspect {
            inspect.take(bytes);
        }
        if let Some(tap) = &mut self.tap {
            tap.see(bytes);
        }
        self.encoder.write(bytes).map_err(|error| {
            self.failed = Some(Fault::Codec(error));
            io::ErrorKind::Other.into()
        })
    }
}

impl Write for Tail {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(mut to_utf8) = self.to_utf8.take() else {
            self.take(bytes)?;
            return Ok(bytes.len());
        };
        let converted = to_utf8.convert(bytes, false, |text| self.take(text))?;
        self.to_utf8 = Some(to_utf8);
        if let Err(reason) = converted {
            self.failed = Some(Fault::Unfit(Unfit::Text, reason));
            return Err(io::ErrorKind::Other.into());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(super) fn encoding(error: io::Error) -> Fault {
    let unfit = error.get_ref().and_then(|inner| inner.downcast_ref::<UnfitArchive>());
    match unfit {
        Some(unfit) => Fault::Unfit(Unfit::Archive, unfit.to_string()),
        None => Fault::Encoding(error.to_string()),
    }
}

/// Lower-case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
}
