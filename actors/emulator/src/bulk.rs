//! Large bodies that nobody holds in memory: deterministic bytes, and a gzip bomb.

use std::io::Write;
use std::sync::LazyLock;

use bytes::{BufMut, Bytes, BytesMut};
use flate2::write::DeflateEncoder;
use flate2::{Compression, Crc};
use sha2::{Digest, Sha256};

/// Length of a piece of a large body, in bytes.
pub(crate) const PIECE_BYTES: usize = 64 * 1024;

const BLOCK_BYTES: usize = 1024 * 1024;
const BOMB_STEP_BYTES: u64 = 1024 * 1024;

/// Random bytes that every large body is cut from.
static BLOCK: LazyLock<Bytes> = LazyLock::new(|| {
    let mut block = BytesMut::with_capacity(BLOCK_BYTES);
    for i in 0..(BLOCK_BYTES / 8) as u64 {
        block.put_u64_le(mix(i));
    }
    block.freeze()
});

/// Spreads a number over all 64 bits: the finalizer of SplitMix64.
pub(crate) fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The body of `/rude/big?bytes=N` in pieces of at most 64 KiB. They differ in order and content, so a lost or
/// swapped piece shows.
pub fn big_pieces(bytes: u64) -> impl Iterator<Item = Bytes> + Send {
    let pieces = bytes.div_ceil(PIECE_BYTES as u64);
    (0..pieces).map(move |i| {
        let left = bytes - i * PIECE_BYTES as u64;
        let length = left.min(PIECE_BYTES as u64) as usize;
        let start = (mix(i) % (BLOCK_BYTES - PIECE_BYTES) as u64) as usize;
        BLOCK.slice(start..start + length)
    })
}

/// SHA-256 of the body of `/rude/big?bytes=N`, in lower-case hex.
pub fn big_sha256(bytes: u64) -> String {
    let mut hasher = Sha256::new();
    big_pieces(bytes).for_each(|piece| hasher.update(&piece));
    format!("{:x}", hasher.finalize())
}

/// A valid gzip file that expands to so many zeros (rounded up to whole MiB, at least 1), a thousandth as
/// long, in pieces.
pub(crate) fn bomb_pieces(bytes: u64) -> impl Iterator<Item = Bytes> + Send {
    let steps = bytes.div_ceil(BOMB_STEP_BYTES).max(1);
    let (first, next) = zero_steps();
    // No name, no time, unknown system.
    let head = Bytes::from_static(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff]);
    // An empty last block, the checksum, and the length modulo 2^32.
    let mut tail = BytesMut::new();
    tail.put_slice(&[0x03, 0x00]);
    tail.put_u32_le(crc_of_zeros(steps));
    tail.put_u32_le((steps * BOMB_STEP_BYTES) as u32);
    // Whole runs of steps go out together: one step is only about 1 KiB.
    let run_steps = (PIECE_BYTES / next.len()) as u64;
    let run = Bytes::from(next.repeat(run_steps as usize));
    let runs = (steps - 1) / run_steps;
    let rest = run.slice(..next.len() * ((steps - 1) % run_steps) as usize);
    [head, first]
        .into_iter()
        .chain((0..runs).map(move |_| run.clone()))
        .chain([rest, tail.freeze()])
        .filter(|piece| !piece.is_empty())
}

/// The first MiB of zeros compressed, and every further one. Each ends on a byte, and all but the first look
/// back at zeros only, so that one may be repeated.
fn zero_steps() -> (Bytes, Bytes) {
    let zeros = vec![0; BOMB_STEP_BYTES as usize];
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
    let mut step = || {
        encoder.write_all(&zeros).expect("writing to memory cannot fail");
        encoder.flush().expect("writing to memory cannot fail");
        Bytes::from(std::mem::take(encoder.get_mut()))
    };
    (step(), step())
}

/// CRC-32 of so many MiB of zeros, by doubling.
fn crc_of_zeros(mut steps: u64) -> u32 {
    let mut power = Crc::new();
    power.update(&vec![0; BOMB_STEP_BYTES as usize]);
    let mut sum = Crc::new();
    while steps > 0 {
        if steps & 1 == 1 {
            sum.combine(&power);
        }
        let half = crc_copy(&power);
        power.combine(&half);
        steps >>= 1;
    }
    sum.sum()
}

/// The checksum type has no clone: combined with an empty one it gives the same.
fn crc_copy(crc: &Crc) -> Crc {
    let mut copy = Crc::new();
    copy.combine(crc);
    copy
}

#[cfg(test)]
mod tests;
