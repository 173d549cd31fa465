//! Bodies that are files of a kind that their head does not tell of: gzip, zip, and text in another charset.
//! No IO, no async.

use std::io::{self, Write};

use encoding_rs::{DecoderResult, Encoding};

use super::Decode;
use super::Unwrap;
use super::codec::Decoder;
use super::zip::{ZipDecoder, is_zip};

/// Bytes of text converted at once.
const TEXT_BYTES: usize = 8 * 1024;

/// What a body is not.
#[derive(Debug)]
pub(super) enum IsNot {
    /// Such a file.
    File(&'static str),
    /// An archive with something in it: a sentence.
    Filled(String),
}

/// Takes a body out of the file that it is. A body that is none is passed on as it is: providers send their errors
/// so, and whoever looks at bodies wants to see them.
pub(super) struct Unwrapper<W: Write> {
    unwrap: Unwrap,
    /// The beginning, until it tells what the body is.
    start: Vec<u8>,
    state: State<W>,
}

enum State<W: Write> {
    Unknown(W),
    Known {
        inner: Box<Decoder<W>>,
        is_file: bool,
    },
    /// Only while one becomes the other.
    Nothing,
}

impl<W: Write> Unwrapper<W> {
    pub(super) fn new(unwrap: Unwrap, out: W) -> Self {
        Self { unwrap, start: Vec::new(), state: State::Unknown(out) }
    }

    pub(super) fn step(&mut self, input: &[u8]) -> io::Result<usize> {
        if let State::Known { inner, .. } = &mut self.state {
            return inner.step(input);
        }
        let room = self.sign_bytes() - self.start.len();
        let taken = room.min(input.len());
        self.start.extend_from_slice(&input[..taken]);
        if self.start.len() == self.sign_bytes() {
            self.know()?;
        }
        Ok(taken)
    }

    fn sign_bytes(&self) -> usize {
        if self.unwrap == Unwrap::Gzip { 2 } else { 4 }
    }

    /// The beginning is here, or all there is.
    fn know(&mut self) -> io::Result<()> {
        let State::Unknown(out) = std::mem::replace(&mut self.state, State::Nothing) else {
            return Err(io::Error::other("a body begins once"));
        };
        let (inner, is_file) = match &self.unwrap {
            Unwrap::Gzip if self.start.starts_with(&[0x1f, 0x8b]) => {
                (Decoder::new(Decode::Gzip, out), true)
            }
            Unwrap::Zip(pick) if is_zip(&self.start) => {
                (Decoder::Zip(Box::new(ZipDecoder::new(pick.clone(), out))), true)
            }
            _ => (Decoder::Identity(out), false),
        };
        self.state = State::Known { inner: Box::new(inner), is_file };
        let start = std::mem::take(&mut self.start);
        let mut rest = start.as_slice();
        while let (State::Known { inner, .. }, false) = (&mut self.state, rest.is_empty()) {
            rest = &rest[inner.step(rest)?..];
        }
        Ok(())
    }

    /// What the body is not, if it is not what was declared.
    pub(super) fn is_not(&self) -> Option<IsNot> {
        match (&self.state, &self.unwrap) {
            (State::Known { is_file: true, inner }, _) => inner.is_not(),
            (_, Unwrap::None) => None,
            (_, Unwrap::Zip(_) | Unwrap::Members(_)) => Some(IsNot::File("a zip archive")),
            (_, Unwrap::Gzip) => Some(IsNot::File("a gzip file")),
        }
    }

    pub(super) fn out(&mut self) -> &mut W {
        match &mut self.state {
            State::Unknown(out) => out,
            State::Known { inner, .. } => inner.out(),
            State::Nothing => unreachable!("nothing fails between the two"),
        }
    }

    /// See [`Decoder::opened`].
    pub(super) fn opened(&self) -> u64 {
        match &self.state {
            State::Known { inner, .. } => inner.opened(),
            State::Unknown(_) | State::Nothing => 0,
        }
    }

    pub(super) fn finish(mut self) -> io::Result<W> {
        if matches!(self.state, State::Unknown(_)) {
            self.know()?;
        }
        match self.state {
            State::Known { inner, .. } => inner.finish(),
            State::Unknown(_) | State::Nothing => Err(io::Error::other("a body begins once")),
        }
    }
}

/// Text of another charset to UTF-8, piece by piece. A byte order mark goes before what was declared, and is not
/// passed on (Encoding standard §6: <https://encoding.spec.whatwg.org/#decode>).
pub(super) struct ToUtf8 {
    decoder: encoding_rs::Decoder,
    declared: &'static Encoding,
    buffer: Box<[u8]>,
}

impl ToUtf8 {
    pub(super) fn new(charset: &'static Encoding) -> Self {
        let buffer = vec![0; TEXT_BYTES].into_boxed_slice();
        Self { decoder: charset.new_decoder(), declared: charset, buffer }
    }

    /// Passes on what bytes mean; `is_last` even if there are none. The error is a sentence.
    pub(super) fn convert(
        &mut self,
        mut bytes: &[u8],
        is_last: bool,
        mut to: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<Result<(), String>> {
        loop {
            let (result, read, written) =
                self.decoder.decode_to_utf8_without_replacement(bytes, &mut self.buffer, is_last);
            to(&self.buffer[..written])?;
            bytes = &bytes[read..];
            match result {
                DecoderResult::InputEmpty => return Ok(Ok(())),
                DecoderResult::OutputFull => {}
                DecoderResult::Malformed(..) => {
                    let name = self.declared.name();
                    return Ok(Err(format!("the body is not text in {name}")));
                }
            }
        }
    }
}
