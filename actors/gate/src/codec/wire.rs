//! The numbers, texts, times and names of apis that a record is made of, and the frame around them.

use super::DecodeError;
use crate::limit::{API_GONE, ApiIx, LimitSet, NAME_BYTES_MAX};
use crate::time::{At, Span};

const MAGIC: u8 = 0xB7;
pub(super) const VERSION: u8 = 3;
/// The oldest that is read.
const VERSION_MIN: u8 = 2;
const CHECKSUM_BYTES: usize = 4;

/// Checks what surrounds a record and returns its version and what is in it.
fn framed(bytes: &[u8]) -> Result<(u8, &[u8]), DecodeError> {
    let (magic, rest) = bytes.split_first().ok_or(DecodeError::Damaged)?;
    if *magic != MAGIC {
        return Err(DecodeError::Foreign);
    }
    let (version, rest) = rest.split_first().ok_or(DecodeError::Damaged)?;
    if !(VERSION_MIN..=VERSION).contains(version) {
        return Err(DecodeError::Version(*version));
    }
    let body = rest.len().checked_sub(CHECKSUM_BYTES).ok_or(DecodeError::Damaged)?;
    let (body, sum) = rest.split_at(body);
    let covered = &bytes[..bytes.len() - CHECKSUM_BYTES];
    if checksum(covered) == sum { Ok((*version, body)) } else { Err(DecodeError::Damaged) }
}

/// FNV-1a, 32 bit. Each step is one-to-one in the state, so a single changed byte always shows.
pub(crate) fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let step = |sum: u32, byte: &u8| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    bytes.iter().fold(0x811c_9dc5, step).to_le_bytes()
}

pub(super) struct Writer {
    bytes: Vec<u8>,
    now: At,
    /// The apis that occur in the record, in order.
    apis: Vec<ApiIx>,
}

impl Writer {
    /// Begins a record of `now` in which only these apis occur, given in order.
    pub(super) fn new(now: At, apis: Vec<ApiIx>) -> Self {
        Self { bytes: vec![MAGIC, VERSION], now, apis }
    }

    /// Who the apis are.
    pub(super) fn apis(&mut self, limits: &LimitSet) {
        self.count(self.apis.len());
        for place in 0..self.apis.len() {
            let api = self.apis[place];
            let name = limits.apis().get(usize::from(api)).map_or("", String::as_str);
            self.text(name);
            if name.is_empty() {
                self.number(if limits.has_api(api) { api } else { API_GONE }.into());
            }
        }
    }

    /// The whole record.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let sum = checksum(&self.bytes);
        self.bytes.extend_from_slice(&sum);
        self.bytes
    }

    pub(super) fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.bytes.push(number as u8);
    }

    pub(super) fn long(&mut self, number: u128) {
        self.number(number as u64);
        self.number((number >> 64) as u64);
    }

    pub(super) fn count(&mut self, count: usize) {
        self.number(count as u64);
    }

    pub(super) fn api(&mut self, api: Option<ApiIx>) {
        let place = |api| self.apis.binary_search(&api).expect("all that occur were given") + 1;
        self.count(api.map_or(0, place));
    }

    /// The difference to now. What has no end has none on any timeline.
    pub(super) fn time(&mut self, at: At) {
        let offset = if at == At::MAX { i64::MAX } else { at.0.saturating_sub(self.now.0) };
        self.signed(offset);
    }

    pub(super) fn signed(&mut self, number: i64) {
        self.number(((number << 1) ^ (number >> 63)) as u64);
    }

    pub(super) fn text(&mut self, text: &str) {
        self.count(text.len());
        self.bytes.extend_from_slice(text.as_bytes());
    }
}

/// Reads what [`Writer`] wrote. `part` names what is read, for the error.
pub(super) struct Reader<'a> {
    version: u8,
    rest: &'a [u8],
    stored_at: At,
    /// The numbers that the apis of the record have now.
    apis: Vec<ApiIx>,
}

impl<'a> Reader<'a> {
    /// Reads what is in the frame of a record that was stored at `stored_at`.
    pub(super) fn new(record: &'a [u8], stored_at: At) -> Result<Self, DecodeError> {
        let (version, rest) = framed(record)?;
        Ok(Self { version, rest, stored_at, apis: Vec::new() })
    }

    /// Whether the record is of the version before this one.
    pub(super) fn is_old(&self) -> bool {
        self.version < VERSION
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.rest.is_empty()
    }

    /// Who the apis are, found in the set by name. Returns the names that are not in it.
    pub(super) fn apis(&mut self, limits: &LimitSet) -> Result<Vec<&'a str>, DecodeError> {
        let mut gone = Vec::new();
        for _ in 0..self.count(usize::MAX, "apis")? {
            let name = self.text(NAME_BYTES_MAX, "apis")?;
            let api = if name.is_empty() {
                self.small("apis").ok().filter(|api| *api == API_GONE || limits.apis().is_empty())
            } else if limits.apis().is_empty() {
                None
            } else {
                limits.api_of(name).or_else(|| {
                    gone.push(name);
                    Some(API_GONE)
                })
            };
            self.apis.push(api.ok_or(DecodeError::Malformed("apis"))?);
        }
        Ok(gone)
    }

    pub(super) fn number(&mut self, part: &'static str) -> Result<u64, DecodeError> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first().ok_or(DecodeError::Malformed(part))?;
            self.rest = rest;
            let bits = u64::from(byte & 0x7f);
            if (bits << shift) >> shift != bits {
                break;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(DecodeError::Malformed(part))
    }

    pub(super) fn long(&mut self, part: &'static str) -> Result<u128, DecodeError> {
        let low = self.number(part)?;
        Ok(u128::from(self.number(part)?) << 64 | u128::from(low))
    }

    /// How many of something follow. Each takes a byte or more, so no honest count is above what is left.
    pub(super) fn count(&mut self, max: usize, part: &'static str) -> Result<usize, DecodeError> {
        let count = usize::try_from(self.number(part)?).unwrap_or(usize::MAX);
        if count > max.min(self.rest.len()) { Err(DecodeError::Malformed(part)) } else { Ok(count) }
    }

    pub(super) fn small<T: TryFrom<u64>>(&mut self, part: &'static str) -> Result<T, DecodeError> {
        T::try_from(self.number(part)?).map_err(|_| DecodeError::Malformed(part))
    }

    /// A number of calls, not zero.
    pub(super) fn calls(&mut self, part: &'static str) -> Result<u32, DecodeError> {
        match self.small(part)? {
            0 => Err(DecodeError::Malformed(part)),
            calls => Ok(calls),
        }
    }

    pub(super) fn api(&mut self, part: &'static str) -> Result<Option<ApiIx>, DecodeError> {
        let Some(place) = self.small::<usize>(part)?.checked_sub(1) else { return Ok(None) };
        self.apis.get(place).map(|api| Some(*api)).ok_or(DecodeError::Malformed(part))
    }

    pub(super) fn span(&mut self, part: &'static str) -> Result<Span, DecodeError> {
        self.number(part).map(Span)
    }

    pub(super) fn signed(&mut self, part: &'static str) -> Result<i64, DecodeError> {
        let number = self.number(part)?;
        Ok((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    pub(super) fn time(&mut self, part: &'static str) -> Result<At, DecodeError> {
        let offset = self.signed(part)?;
        Ok(if offset == i64::MAX { At::MAX } else { At(self.stored_at.0.saturating_add(offset)) })
    }

    pub(super) fn text(
        &mut self,
        bytes_max: usize,
        part: &'static str,
    ) -> Result<&'a str, DecodeError> {
        let length = self.count(bytes_max, part)?;
        let (text, rest) = self.rest.split_at(length);
        self.rest = rest;
        core::str::from_utf8(text).map_err(|_| DecodeError::Malformed(part))
    }
}
