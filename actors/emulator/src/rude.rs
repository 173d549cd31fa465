//! Misbehaviour by path: what each `/rude/…` endpoint means.
//!
//! Unknown parameters are ignored, missing and unreadable ones have their default.

use url::form_urlencoded;

use crate::bulk;

/// Largest body that a rude endpoint promises, in bytes: 1 PiB.
pub const RUDE_BYTES_MAX: u64 = 1 << 50;
/// Longest wait of `/rude/slow`, in milliseconds.
pub const SLOW_MS_MAX: u64 = 3_600_000;

/// What can go wrong with an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rude {
    /// `/rude/hang`: never answers; the connection stays open.
    Hang,
    /// `/rude/hang-after-head`: a head that promises a body, then nothing.
    HangAfterHead,
    /// `/rude/stall?after=N`: sends N bytes (default 1,000) of a body that is 1,000 bytes longer, then nothing.
    Stall {
        /// Bytes that are sent.
        after: u64,
    },
    /// `/rude/reset`: resets the connection before answering.
    Reset,
    /// `/rude/reset-mid`: sends the head and half of the body, then resets the connection.
    ResetMid,
    /// `/rude/short`: promises 1,000 bytes, sends 500 and closes.
    Short,
    /// `/rude/long`: promises 10 bytes, sends 30 and keeps the connection open.
    Long,
    /// `/rude/garbage`: answers with something that is not HTTP, and closes.
    Garbage,
    /// `/rude/close`: a good answer that promises keep-alive; the connection is closed at once.
    Close,
    /// `/rude/status/{code}`: this status, 200 to 999, with a JSON body.
    Status(u16),
    /// `/rude/flaky?fails=N`: 500 to the first N calls (default 1) of an account with this very query, then 200.
    Flaky {
        /// Calls that fail.
        fails: u32,
    },
    /// `/rude/429?n=N&retry_after=S|date|garbage|huge`: 429 to the first N calls (default 1) of an account
    /// with this very query, then 200. The limits have no part in it.
    TooMany {
        /// Calls that are refused.
        times: u32,
        /// What they are told.
        retry_after: Hint,
    },
    /// `/rude/html`: 200 with a page of HTML, as a login wall or a proxy would send.
    Html,
    /// `/rude/bomb?bytes=N`: valid gzip that expands to N zeros (default 16 GiB, whole MiB), about N/1000 long.
    Bomb {
        /// Length after decompression.
        bytes: u64,
    },
    /// `/rude/big?bytes=N&chunked=1`: N bytes (default 1 MiB) as fast as they are read, see
    /// [`bulk::big_pieces`]; with a Content-Length unless chunked.
    Big {
        /// Length of the body.
        bytes: u64,
        /// Whether the length is kept secret.
        is_chunked: bool,
    },
    /// `/rude/redirect?to=URL`: 302 to any place; default the emulator's own `/`.
    Redirect {
        /// The `Location`.
        to: String,
    },
    /// `/rude/slow?ms=N`: a good answer whose head comes after N milliseconds (default 1,000).
    Slow {
        /// The wait before the head.
        ms: u64,
    },
    /// `/rude/badgzip?how=plain|crc|cut`: says gzip and sends plain text (default), a file with a wrong
    /// checksum, or one that ends early.
    BadGzip(BadGzip),
}

/// What `/rude/429` says in `Retry-After`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hint {
    /// Nothing.
    No,
    /// So many seconds.
    Seconds(u64),
    /// An HTTP date two seconds ahead.
    Date,
    /// Text that is neither.
    Garbage,
    /// More seconds than fit into 64 bits.
    Huge,
}

/// What is wrong with the gzip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadGzip {
    /// It is none.
    Plain,
    /// Its checksum.
    Crc,
    /// It ends early, as the answer's length says.
    Cut,
}

impl Rude {
    /// What an endpoint's path and query ask for; `None` = there is no such endpoint.
    pub(crate) fn parse(path: &str, query: &str) -> Option<Self> {
        let name = path.strip_prefix("/rude/")?;
        let text = |key: &str| {
            let mut params = form_urlencoded::parse(query.as_bytes());
            params.find(|(name, _)| name == key).map(|(_, value)| value)
        };
        let number = |key: &str, default: u64| {
            text(key).and_then(|value| value.parse().ok()).unwrap_or(default)
        };
        let bytes = |key: &str, default: u64| number(key, default).min(RUDE_BYTES_MAX);
        let count = |key: &str| u32::try_from(number(key, 1)).unwrap_or(u32::MAX);
        if let Some(code) = name.strip_prefix("status/") {
            let code = code.parse().ok()?;
            return (200..1000).contains(&code).then_some(Self::Status(code));
        }
        Some(match name {
            "hang" => Self::Hang,
            "hang-after-head" => Self::HangAfterHead,
            "stall" => Self::Stall { after: bytes("after", 1_000) },
            "reset" => Self::Reset,
            "reset-mid" => Self::ResetMid,
            "short" => Self::Short,
            "long" => Self::Long,
            "garbage" => Self::Garbage,
            "close" => Self::Close,
            "flaky" => Self::Flaky { fails: count("fails") },
            "429" => {
                Self::TooMany { times: count("n"), retry_after: Hint::parse(text("retry_after")) }
            }
            "html" => Self::Html,
            "bomb" => Self::Bomb { bytes: bytes("bytes", 16 << 30) },
            "big" => Self::Big {
                bytes: bytes("bytes", 1 << 20),
                is_chunked: text("chunked").is_some_and(|value| value != "0"),
            },
            "redirect" => Self::Redirect { to: text("to").unwrap_or("/".into()).into_owned() },
            "slow" => Self::Slow { ms: number("ms", 1_000).min(SLOW_MS_MAX) },
            "badgzip" => Self::BadGzip(match text("how").as_deref() {
                Some("crc") => BadGzip::Crc,
                Some("cut") => BadGzip::Cut,
                _ => BadGzip::Plain,
            }),
            _ => return None,
        })
    }

    /// Whether it breaks HTTP or the connection, so that it is written to the socket by hand.
    pub(crate) fn is_raw(&self) -> bool {
        use Rude::{Close, Garbage, Hang, HangAfterHead, Long, Reset, ResetMid, Short, Stall};
        matches!(
            self,
            Hang | HangAfterHead | Stall { .. } | Reset | ResetMid | Short | Long | Garbage | Close
        )
    }
}

impl Hint {
    fn parse(text: Option<std::borrow::Cow<'_, str>>) -> Self {
        match text.as_deref() {
            None => Self::No,
            Some("date") => Self::Date,
            Some("huge") => Self::Huge,
            Some(text) => text.parse().map_or(Self::Garbage, Self::Seconds),
        }
    }
}

/// A gzip body that no client may accept.
pub(crate) fn bad_gzip(kind: BadGzip) -> Vec<u8> {
    let mut body: Vec<u8> = bulk::bomb_pieces(1).flatten().collect();
    match kind {
        BadGzip::Plain => return b"{\"this\":\"is not gzip\"}".to_vec(),
        BadGzip::Crc => {
            // The checksum is the first half of the last eight bytes.
            let checksum = body.len() - 8;
            body[checksum] ^= 0xff;
        }
        BadGzip::Cut => body.truncate(body.len() / 2),
    }
    body
}
