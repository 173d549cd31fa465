//! Undoing an answer's content encoding, and compressing what is stored. No IO, no async.
//!
//! Both sides are incremental: a step takes a bounded slice and gives a bounded amount, however
//! much the slice expands to in the end.

use std::cell::RefCell;
use std::io::{self, Write};

use flate2::write::{GzEncoder, MultiGzDecoder};
use flate2::{Compress, Compression, Crc, Decompress, FlushCompress, FlushDecompress, Status};
use zstd::zstd_safe::CParameter;

use super::unwrap::{IsNot, Unwrapper};
use super::zip::ZipDecoder;
use super::{Codec, Decode};

/// Most bytes offered to a decoder at once.
pub(super) const STEP_BYTES: usize = 32 * 1024;

/// zstd's own default.
const ZSTD_LEVEL: i32 = 3;

/// How far back zstd looks, as a power of two: 512 KiB. The level's default, 2 MiB, would be held
/// again for each body that streams.
const ZSTD_WINDOW_LOG: u32 = 19;

/// Undoes a content encoding into `W`.
pub(super) enum Decoder<W: Write> {
    Identity(W),
    Gzip(Box<MultiGzDecoder<W>>),
    Deflate(Box<ZlibDecoder<W>>),
    Zip(Box<ZipDecoder<W>>),
    Unwrap(Box<Unwrapper<W>>),
}

impl<W: Write> Decoder<W> {
    pub(super) fn new(decode: Decode, out: W) -> Self {
        match decode {
            Decode::Identity => Self::Identity(out),
            Decode::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(out))),
            Decode::Deflate => Self::Deflate(Box::new(ZlibDecoder::new(out))),
        }
    }

    /// Takes some of `input`, which must not be empty, and says how much: at least one byte. Writes
    /// no more than a few times [`STEP_BYTES`] when `input` is no longer than that, whatever it
    /// expands to.
    pub(super) fn step(&mut self, input: &[u8]) -> io::Result<usize> {
        let taken = match self {
            Self::Identity(out) => out.write(input)?,
            Self::Gzip(decoder) => decoder.write(input)?,
            Self::Deflate(decoder) => decoder.step(input)?,
            Self::Zip(decoder) => decoder.step(input)?,
            Self::Unwrap(decoder) => decoder.step(input)?,
        };
        if taken == 0 {
            return Err(io::Error::other("the decoder does not go on"));
        }
        Ok(taken)
    }

    /// Where the decoded bytes went.
    pub(super) fn out(&mut self) -> &mut W {
        match self {
            Self::Identity(out) => out,
            Self::Gzip(decoder) => decoder.get_mut(),
            Self::Deflate(decoder) => &mut decoder.out,
            Self::Zip(decoder) => decoder.out(),
            Self::Unwrap(decoder) => decoder.out(),
        }
    }

    /// Bytes that came out of an archive, also those that are not written because their member is not wanted.
    pub(super) fn opened(&self) -> u64 {
        match self {
            Self::Zip(decoder) => decoder.opened(),
            Self::Unwrap(decoder) => decoder.opened(),
            Self::Identity(_) | Self::Gzip(_) | Self::Deflate(_) => 0,
        }
    }

    /// Checks that the stream is whole. Writes what the decoder still held, at most its window of
    /// 32 KiB.
    pub(super) fn finish(self) -> io::Result<W> {
        match self {
            Self::Identity(out) => Ok(out),
            Self::Gzip(decoder) => decoder.finish(),
            Self::Deflate(decoder) => decoder.finish(),
            Self::Zip(decoder) => decoder.finish(),
            Self::Unwrap(decoder) => decoder.finish(),
        }
    }

    /// What the body is not, if it was passed on because it is not what was declared.
    pub(super) fn is_not(&self) -> Option<IsNot> {
        match self {
            Self::Unwrap(decoder) => decoder.is_not(),
            Self::Zip(decoder) => decoder.is_empty().map(IsNot::Filled),
            _ => None,
        }
    }
}

/// HTTP's `deflate`, which is the zlib format. Own, because the crate's writer of this kind neither
/// reports a stream that was cut short nor what follows its end.
pub(super) struct ZlibDecoder<W: Write> {
    out: W,
    raw: Decompress,
    ended: bool,
    buffer: Vec<u8>,
}

impl<W: Write> ZlibDecoder<W> {
    fn new(out: W) -> Self {
        let buffer = Vec::with_capacity(STEP_BYTES);
        Self { out, raw: Decompress::new(true), ended: false, buffer }
    }

    fn step(&mut self, input: &[u8]) -> io::Result<usize> {
        if self.ended {
            return Err(io::Error::other("bytes after the end of the deflate stream"));
        }
        loop {
            let taken = self.turn(input, FlushDecompress::None)?;
            // A turn may only hand out what was pending; nothing taken and nothing given is no
            // progress.
            if taken > 0 || self.buffer.is_empty() {
                return Ok(taken);
            }
        }
    }

    /// One call of the decompressor; `buffer` then holds what it gave, which is written already.
    fn turn(&mut self, input: &[u8], flush: FlushDecompress) -> io::Result<usize> {
        self.buffer.clear();
        let before = self.raw.total_in();
        let status = self.raw.decompress_vec(input, &mut self.buffer, flush)?;
        self.ended |= status == Status::StreamEnd;
        self.out.write_all(&self.buffer)?;
        Ok((self.raw.total_in() - before) as usize)
    }

    fn finish(mut self) -> io::Result<W> {
        while !self.ended {
            self.turn(&[], FlushDecompress::Finish)?;
            if self.buffer.is_empty() && !self.ended {
                return Err(io::Error::other("the deflate stream was cut short"));
            }
        }
        Ok(self.out)
    }
}

/// Compresses into a buffer that its owner empties.
pub(super) enum Encoder {
    None(Vec<u8>),
    Gzip(GzEncoder<Vec<u8>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Encoder {
    pub(super) fn new(codec: Codec, out: Vec<u8>) -> io::Result<Self> {
        Ok(match codec {
            Codec::None => Self::None(out),
            Codec::Gzip => Self::Gzip(GzEncoder::new(out, Compression::default())),
            Codec::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(out, ZSTD_LEVEL)?;
                encoder.set_parameter(CParameter::WindowLog(ZSTD_WINDOW_LOG))?;
                Self::Zstd(encoder)
            }
        })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::None(out) => out.write_all(bytes),
            Self::Gzip(encoder) => encoder.write_all(bytes),
            Self::Zstd(encoder) => encoder.write_all(bytes),
        }
    }

    /// What came out so far.
    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        match self {
            Self::None(out) => out,
            Self::Gzip(encoder) => encoder.get_mut(),
            Self::Zstd(encoder) => encoder.get_mut(),
        }
    }

    pub(super) fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::None(out) => Ok(out),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

/// A thread's contexts for small bodies: making one costs more than compressing a small body does.
#[derive(Default)]
struct Contexts {
    zstd: Option<zstd::bulk::Compressor<'static>>,
    deflate: Option<Compress>,
}

thread_local! {
    static CONTEXTS: RefCell<Contexts> = RefCell::default();
}

/// Compresses a small body at once.
pub(super) fn compress_small(codec: Codec, body: Vec<u8>) -> io::Result<Vec<u8>> {
    CONTEXTS.with_borrow_mut(|contexts| match codec {
        Codec::None => Ok(body),
        Codec::Gzip => {
            let deflate = contexts
                .deflate
                .get_or_insert_with(|| Compress::new(Compression::default(), false));
            gzip_small(deflate, &body)
        }
        Codec::Zstd => {
            if contexts.zstd.is_none() {
                contexts.zstd = Some(zstd::bulk::Compressor::new(ZSTD_LEVEL)?);
            }
            contexts.zstd.as_mut().expect("made above").compress(&body)
        }
    })
}

/// A gzip member around a raw deflate stream (RFC 1952): the crate's gzip writers cannot be used
/// again.
fn gzip_small(deflate: &mut Compress, body: &[u8]) -> io::Result<Vec<u8>> {
    /// Magic, deflate, no flags, no time, no hint, unknown system.
    const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    deflate.reset();
    let mut out = Vec::with_capacity(body.len() + body.len() / 16 + 64);
    out.extend_from_slice(&HEADER);
    loop {
        let taken = deflate.total_in() as usize;
        if deflate.compress_vec(&body[taken..], &mut out, FlushCompress::Finish)?
            == Status::StreamEnd
        {
            break;
        }
        out.reserve(1024);
    }
    let mut crc = Crc::new();
    crc.update(body);
    out.extend_from_slice(&crc.sum().to_le_bytes());
    out.extend_from_slice(&crc.amount().to_le_bytes());
    Ok(out)
}
