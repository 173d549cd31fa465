//! The names of things: platforms, apis, accounts, lanes, places in the queue.
//!
//! A name is checked once, here, and is then a type that cannot be wrong. Nothing below may build a key
//! or a subject from raw text.

use std::fmt;
use std::sync::Arc;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};
pub use tollgate_protos::Priority;

/// Longest account name in bytes.
pub const ACCOUNT_BYTES_MAX: usize = 256;
/// Longest fetch id in bytes.
pub const ID_BYTES_MAX: usize = 128;
/// Longest slug in bytes.
pub const SLUG_BYTES_MAX: usize = 63;

/// Every byte outside `[A-Za-z0-9_-]` is encoded.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'_').remove(b'-');

/// The name of a platform or an api: `[a-z0-9][a-z0-9_-]{0,62}`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Slug(Arc<str>);

impl Slug {
    /// Checks a name.
    ///
    /// # Errors
    /// The text is empty, longer than 63 bytes, or has a character outside `[a-z0-9_-]`, or does not
    /// start with a letter or digit. The error is a sentence.
    pub fn new(text: &str) -> Result<Self, String> {
        let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-';
        let starts_well =
            text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if !starts_well || text.len() > SLUG_BYTES_MAX || !text.bytes().all(ok) {
            return Err(format!(
                "`{}` is not a name: use 1 to 63 of a-z, 0-9, `_`, `-`, starting with a letter or digit",
                preview(text)
            ));
        }
        Ok(Self(text.into()))
    }

    /// Under which the ledger keeps a platform's budgets, beside its accounts: `_NAME`. It begins as no
    /// name does, so that no record of a budget is ever taken for an account's.
    pub(crate) fn of_budgets(platform: &Self) -> Self {
        Self(format!("_{platform}").into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Slug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Slug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// Whom the provider counts: any text of 1 to 256 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Account(Arc<str>);

impl Account {
    /// Checks a name.
    ///
    /// # Errors
    /// The text is empty or longer than 256 bytes. The error is a sentence.
    pub fn new(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Err("the account is empty".into());
        }
        if text.len() > ACCOUNT_BYTES_MAX {
            return Err(format!(
                "the account has {} bytes, at most {ACCOUNT_BYTES_MAX} are allowed",
                text.len()
            ));
        }
        Ok(Self(text.into()))
    }

    /// The name as the provider knows it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name with every byte outside `[A-Za-z0-9_-]` percent-encoded in upper-case hex: one token of
    /// a subject, one part of a queue key.
    pub fn encoded(&self) -> String {
        utf8_percent_encode(&self.0, ENCODED).to_string()
    }

    /// Reads an encoded name, canonical or not: bytes that need not be encoded may be, and others may not be.
    /// A `%` must begin a code, or a name that was cut off would be taken for another account's.
    ///
    /// # Errors
    /// A `%` without two hex digits behind it, bytes that are not UTF-8, or a name that is no account.
    pub fn decode(text: &str) -> Result<Self, String> {
        let is_code = |rest: &str| rest.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
        if text.split('%').skip(1).any(|rest| !is_code(rest)) {
            let text = preview(text);
            return Err(format!("the account `{text}` has a `%` without two hex digits behind it"));
        }
        let decoded = percent_decode_str(text)
            .decode_utf8()
            .map_err(|_| format!("the account `{}` is not UTF-8", preview(text)))?;
        Self::new(&decoded)
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// An account of a platform: what owns one gate, one ledger record and one throttle actor. A budget's record
/// has such a key too, under a platform that none can be named.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountKey {
    /// The provider.
    pub platform: Slug,
    /// Whom it counts.
    pub account: Account,
}

impl AccountKey {
    /// `platform.account` with the account encoded: the ledger's key.
    pub fn subject(&self) -> String {
        format!("{}.{}", self.platform, self.account.encoded())
    }

    /// Reads what [`AccountKey::subject`] wrote.
    ///
    /// # Errors
    /// The text is not `platform.account`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (platform, account) =
            text.split_once('.').ok_or_else(|| format!("`{}` has no `.`", preview(text)))?;
        Ok(Self { platform: Slug::new(platform)?, account: Account::decode(account)? })
    }
}

impl fmt::Display for AccountKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.platform, self.account)
    }
}

/// An account's waiting fetches of one api and one priority, in order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneKey {
    /// Whose.
    pub account: AccountKey,
    /// Of which endpoint.
    pub api: Slug,
    /// Before or after the account's other lanes.
    pub priority: Priority,
}

impl LaneKey {
    /// `platform.account.api[.high|.low]` with the account encoded.
    pub fn subject(&self) -> String {
        let base = format!("{}.{}", self.account.subject(), self.api);
        match self.priority {
            Priority::High => base + ".high",
            Priority::Normal => base,
            Priority::Low => base + ".low",
        }
    }

    /// Reads what [`LaneKey::subject`] wrote.
    ///
    /// # Errors
    /// The text is not such a subject.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut tokens = text.split('.');
        let (Some(platform), Some(account), Some(api)) =
            (tokens.next(), tokens.next(), tokens.next())
        else {
            return Err(format!("`{}` is not platform.account.api", preview(text)));
        };
        let priority = match (tokens.next(), tokens.next()) {
            (None, _) => Priority::Normal,
            (Some("high"), None) => Priority::High,
            (Some("low"), None) => Priority::Low,
            _ => return Err(format!("`{}` ends in neither .high nor .low", preview(text))),
        };
        let account =
            AccountKey { platform: Slug::new(platform)?, account: Account::decode(account)? };
        Ok(Self { account, api: Slug::new(api)?, priority })
    }
}

/// A fetch's place in its queue; given at its first storing and never again.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default,
)]
#[serde(transparent)]
pub struct Seq(pub u64);

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The first 32 characters of a text, for errors: fields may hold secrets or be very long.
pub fn preview(text: &str) -> String {
    let mut start: String = text.chars().take(32).flat_map(char::escape_debug).collect();
    if text.chars().nth(32).is_some() {
        start.push('…');
    }
    start
}
