//! The polite bodies: reports that a test can compute again.

use std::fmt::Write as _;
use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use url::form_urlencoded;

use crate::bulk::{PIECE_BYTES, mix};

/// Most rows of a report; about 1.1 GB.
pub const ROWS_MAX: u32 = 10_000_000;

/// The bytes that a report of this account, kind and query has. They depend on nothing else.
///
/// `query` is what follows the `?` in the request; the order of its parameters does not matter, and
/// `rows=N` in it replaces `rows`.
pub fn expected_body(account: &str, kind: &str, query: &str, rows: u32) -> Vec<u8> {
    let mut body = Vec::new();
    for piece in ReportPieces::new(account, kind, query, rows) {
        body.extend_from_slice(&piece);
    }
    body
}

/// A report in pieces of about 64 KiB, computed when they are asked for.
#[derive(Debug)]
pub(crate) struct ReportPieces {
    /// What is written and not yet handed out.
    text: String,
    seed: u64,
    next_row: u32,
    rows: u32,
    is_ended: bool,
}

impl ReportPieces {
    pub(crate) fn new(account: &str, kind: &str, query: &str, rows: u32) -> Self {
        let mut params: Vec<_> = form_urlencoded::parse(query.as_bytes()).collect();
        params.sort();
        let asked_rows = params.iter().find(|(name, _)| name == "rows");
        let rows = asked_rows.and_then(|(_, rows)| rows.parse().ok()).unwrap_or(rows).min(ROWS_MAX);

        let mut text =
            format!("{{\"account\":{},\"kind\":{},\"params\":{{", json(account), json(kind));
        for (i, (name, value)) in params.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            put(&mut text, format_args!("{comma}{}:{}", json(name), json(value)));
        }
        text.push_str("},\"rows\":[");
        // The head names account, kind and parameters, so its hash is a seed of exactly these.
        let seed = text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self { text, seed, next_row: 0, rows, is_ended: false }
    }

    fn write_row(&mut self) {
        let row = self.next_row;
        let random = mix(self.seed ^ u64::from(row));
        let comma = if row == 0 { "" } else { "," };
        let impressions = random % 1_000_000;
        let clicks = (random >> 20) % (impressions + 1);
        let cost = (random >> 40) % 1_000_000;
        put(
            &mut self.text,
            format_args!(
                "{comma}\n{{\"row\":{row},\"ad\":\"{random:016x}\",\"impressions\":{impressions},\
                 \"clicks\":{clicks},\"cost\":\"{}.{:02}\"}}",
                cost / 100,
                cost % 100
            ),
        );
        self.next_row += 1;
    }
}

impl Iterator for ReportPieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.is_ended {
            return None;
        }
        while self.next_row < self.rows && self.text.len() < PIECE_BYTES {
            self.write_row();
        }
        if self.next_row == self.rows {
            self.text.push_str("\n]}\n");
            self.is_ended = true;
        }
        Some(std::mem::take(&mut self.text).into())
    }
}

/// Pieces of a body, compressed on their way.
pub(crate) struct GzipPieces<I> {
    pieces: I,
    /// `None` once the trailer is written.
    encoder: Option<GzEncoder<Vec<u8>>>,
}

impl<I: Iterator<Item = Bytes>> GzipPieces<I> {
    pub(crate) fn new(pieces: I) -> Self {
        Self { pieces, encoder: Some(GzEncoder::new(Vec::new(), Compression::fast())) }
    }
}

impl<I: Iterator<Item = Bytes>> Iterator for GzipPieces<I> {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let mut encoder = self.encoder.take()?;
        for piece in self.pieces.by_ref() {
            encoder.write_all(&piece).expect("writing to memory cannot fail");
            if encoder.get_ref().len() >= PIECE_BYTES {
                let compressed = std::mem::take(encoder.get_mut());
                self.encoder = Some(encoder);
                return Some(compressed.into());
            }
        }
        Some(encoder.finish().expect("writing to memory cannot fail").into())
    }
}

fn json(text: &str) -> String {
    serde_json::to_string(text).expect("a string is always JSON")
}

fn put(text: &mut String, what: std::fmt::Arguments<'_>) {
    text.write_fmt(what).expect("writing to memory cannot fail");
}

#[cfg(test)]
mod tests;
