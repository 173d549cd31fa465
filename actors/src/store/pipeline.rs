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
use super::{Decode, EXPAND_FREE_BYTES, INLINE_BYTES_MAX, SinkOptions};

/// What an encoder may hand out beyond a full part: its own output buffer and a step.
const PART_SLACK_BYTES: usize = 256 * 1024;

/// Why a body was refused.
#[derive(Debug)]
pub(super) enum Fault {
    TooLarge,
    Bomb,
    Encoding(String),
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
}

/// Does a small body at once. `None`: it decodes to more than [`INLINE_BYTES_MAX`], and `wire` is
/// as it was.
pub(super) fn pack(
    wire: &mut Vec<u8>,
    options: &SinkOptions,
    tap: Option<&mut Box<dyn Tap>>,
) -> Result<Option<(Bytes, Sums)>, Fault> {
    let body = match options.decode {
        Decode::Identity => std::mem::take(wire),
        encoded => match decode_small(encoded, wire)? {
            Some(body) => body,
            None => return Ok(None),
        },
    };
    let bytes = body.len() as u64;
    if bytes > options.body_bytes_max {
        return Err(Fault::TooLarge);
    }
    let sums = Sums { bytes, sha256: hex(&Sha256::digest(&body)) };
    if let Some(tap) = tap {
        tap.see(&body);
    }
    let object = compress_small(options.codec, body).map_err(Fault::Codec)?;
    Ok(Some((object.into(), sums)))
}

fn decode_small(encoded: Decode, wire: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
    let mut decoder = Decoder::new(encoded, Vec::with_capacity(INLINE_BYTES_MAX));
    let mut rest = wire;
    while !rest.is_empty() {
        let taken = decoder.step(rest).map_err(encoding)?;
        rest = &rest[taken..];
        if decoder.out().len() > INLINE_BYTES_MAX {
            return Ok(None);
        }
    }
    let body = decoder.finish().map_err(encoding)?;
    Ok((body.len() <= INLINE_BYTES_MAX).then_some(body))
}

/// The last parts of a body, what is known of it, and who saw it.
type Ended = (Vec<Bytes>, Sums, Option<Box<dyn Tap>>);

/// A larger body on its way. Moves between the loop and the blocking threads.
pub(super) struct Pipeline {
    decoder: Decoder<Tail>,
    /// Read, and taken from `taken` on.
    input: Vec<u8>,
    taken: usize,
    /// Bytes the decoder took, of the whole body.
    wire: u64,
    options: SinkOptions,
    part_bytes: usize,
}

impl Pipeline {
    pub(super) fn new(
        options: SinkOptions,
        part_bytes: usize,
        tap: Option<Box<dyn Tap>>,
    ) -> Result<Self, Fault> {
        let out = Vec::with_capacity(part_bytes + PART_SLACK_BYTES);
        let encoder = Encoder::new(options.codec, out).map_err(Fault::Codec)?;
        let tail = Tail { encoder, sha: Sha256::new(), bytes: 0, failed: None, tap };
        let decoder = Decoder::new(options.decode, tail);
        Ok(Self { decoder, input: Vec::new(), taken: 0, wire: 0, options, part_bytes })
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
        while self.taken < self.input.len() {
            if self.decoder.out().encoder.out().len() > self.part_bytes {
                return Ok(Some(self.cut_part()));
            }
            let end = self.input.len().min(self.taken + STEP_BYTES);
            let step = self.decoder.step(&self.input[self.taken..end]);
            let taken = step.map_err(|error| self.decoder.out().fault(error))?;
            self.taken += taken;
            self.wire += taken as u64;
            self.check()?;
        }
        self.input.clear();
        self.taken = 0;
        // A body of just one part is put at once: whether it is one shows with the next byte.
        let full = self.decoder.out().encoder.out().len() > self.part_bytes;
        Ok(full.then(|| self.cut_part()))
    }

    /// Ends a body of which nothing waits any more. Gives the last parts: none is longer than a
    /// part, none is empty unless the whole object is.
    pub(super) fn finish(mut self) -> Result<Ended, Fault> {
        let (part_bytes, options) = (self.part_bytes, self.options);
        self.check()?;
        // An error in the last bytes is the stream's unless the compressor left its own; the
        // decoder that would tell is gone by then, and the compressor writes to memory.
        let tail = self.decoder.finish().map_err(encoding)?;
        if tail.bytes > options.body_bytes_max {
            return Err(Fault::TooLarge);
        }
        let sums = Sums { bytes: tail.bytes, sha256: hex(&tail.sha.finalize()) };
        let mut rest = Bytes::from(tail.encoder.finish().map_err(Fault::Codec)?);
        let mut parts = Vec::new();
        while rest.len() > part_bytes {
            parts.push(rest.split_to(part_bytes));
        }
        parts.push(rest);
        Ok((parts, sums, tail.tap))
    }

    /// A step gives little, so that looking after each one is early enough.
    fn check(&mut self) -> Result<(), Fault> {
        let bytes = self.decoder.out().bytes;
        if bytes > self.options.body_bytes_max {
            return Err(Fault::TooLarge);
        }
        let allowed = self.wire.saturating_mul(u64::from(self.options.expand_max));
        let expands = self.options.decode != Decode::Identity;
        if expands && bytes > EXPAND_FREE_BYTES && bytes > allowed {
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
        part.into()
    }
}

/// Where decoded bytes go.
struct Tail {
    encoder: Encoder,
    sha: Sha256,
    bytes: u64,
    /// The compressor's error, which travels through the decoder and must not be taken for the
    /// stream's.
    failed: Option<io::Error>,
    tap: Option<Box<dyn Tap>>,
}

impl Tail {
    fn fault(&mut self, error: io::Error) -> Fault {
        self.failed.take().map_or_else(|| encoding(error), Fault::Codec)
    }
}

impl Write for Tail {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes += bytes.len() as u64;
        self.sha.update(bytes);
        if let Some(tap) = &mut self.tap {
            tap.see(bytes);
        }
        if let Err(error) = self.encoder.write(bytes) {
            self.failed = Some(error);
            return Err(io::ErrorKind::Other.into());
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn encoding(error: io::Error) -> Fault {
    Fault::Encoding(error.to_string())
}

/// Lower-case hex.
fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
}
