//! The fields `RateLimit` and `RateLimit-Policy` of the IETF's draft, as structured fields.
//!
//! Draft: <https://datatracker.ietf.org/doc/draft-ietf-httpapi-ratelimit-headers/>. Structured fields:
//! <https://www.rfc-editor.org/rfc/rfc9651>. A field that is not well-formed is ignored as a whole, as both
//! demand.

/// One item of the list: a policy and what is said of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    /// The policy's name.
    pub(super) policy: String,
    /// Units left, `r`.
    pub(super) left: Option<u64>,
    /// Seconds until more are, `t`.
    pub(super) reset: Option<u64>,
    /// Units allowed, `q`; only in a policy.
    pub(super) quota: Option<u64>,
}

/// Most items and parameters of an item; with more the field is ignored.
const ITEMS_MAX: usize = 64;

/// The items of a field; nothing if it is not well-formed.
pub(super) fn items(text: &str) -> Option<Vec<Item>> {
    let mut input = Input(text.trim_matches(' ').as_bytes());
    let mut items = Vec::new();
    if input.0.is_empty() {
        return Some(items);
    }
    loop {
        if items.len() == ITEMS_MAX {
            return None;
        }
        items.push(input.item()?);
        input.space(true);
        if input.0.is_empty() {
            return Some(items);
        }
        input.take(b',')?;
        input.space(true);
        // A comma at the end is an error.
        if input.0.is_empty() {
            return None;
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Bare {
    Integer(i64),
    Text(String),
    Other,
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn item(&mut self) -> Option<Item> {
        // The draft wants a string; deployments send tokens too.
        let Bare::Text(policy) = self.bare()? else { return None };
        let mut item = Item { policy, left: None, reset: None, quota: None };
        let mut count = 0;
        while self.0.first() == Some(&b';') {
            count += 1;
            if count > ITEMS_MAX {
                return None;
            }
            self.take(b';')?;
            self.space(false);
            let key = self.key()?;
            let value = if self.0.first() == Some(&b'=') {
                self.take(b'=')?;
                self.bare()?
            } else {
                Bare::Other
            };
            let number = match value {
                Bare::Integer(number) => u64::try_from(number).ok(),
                _ => None,
            };
            // Of a repeated parameter the last counts. One with a wrong value makes the item malformed.
            match key.as_str() {
                "r" => item.left = Some(number?),
                "t" => item.reset = Some(number?),
                "q" => item.quota = Some(number?),
                _ => {}
            }
        }
        Some(item)
    }

    fn bare(&mut self) -> Option<Bare> {
        match *self.0.first()? {
            b'"' => self.string(),
            b'-' | b'0'..=b'9' => self.number(),
            b':' => {
                // A sequence of bytes: a partition's key. Its content is of no use here.
                let end = self.0.iter().skip(1).position(|b| *b == b':')?;
                let inside = self.0.get(1..=end)?;
                let base64 = |b: &u8| b.is_ascii_alphanumeric() || b"+/=".contains(b);
                self.0 = self.0.get(end + 2..)?;
                inside.iter().all(base64).then_some(Bare::Other)
            }
            b'?' => {
                let flag = self.0.get(1)?;
                let good = matches!(flag, b'0' | b'1');
                self.0 = self.0.get(2..)?;
                good.then_some(Bare::Other)
            }
            b'*' | b'a'..=b'z' | b'A'..=b'Z' => {
                let token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(b);
                Some(Bare::Text(self.while_is(token)?))
            }
            _ => None,
        }
    }

    fn string(&mut self) -> Option<Bare> {
        self.take(b'"')?;
        let mut text = String::new();
        loop {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            match byte {
                b'"' => return Some(Bare::Text(text)),
                b'\\' => {
                    let (next @ (b'"' | b'\\'), rest) = self.0.split_first()? else { return None };
                    text.push(char::from(*next));
                    self.0 = rest;
                }
                0x20..=0x7e => text.push(char::from(*byte)),
                _ => return None,
            }
        }
    }

    fn number(&mut self) -> Option<Bare> {
        let negative = self.0.first() == Some(&b'-');
        if negative {
            self.take(b'-')?;
        }
        let digits = self.while_is(u8::is_ascii_digit)?;
        if self.0.first() == Some(&b'.') {
            self.take(b'.')?;
            let part = self.while_is(u8::is_ascii_digit)?;
            return (digits.len() <= 12 && part.len() <= 3).then_some(Bare::Other);
        }
        // At most 15 digits, as RFC 9651 §3.3.1 has it.
        let number: i64 = if digits.len() <= 15 { digits.parse().ok()? } else { return None };
        Some(Bare::Integer(if negative { -number } else { number }))
    }

    fn key(&mut self) -> Option<String> {
        let first = *self.0.first()?;
        if !(first.is_ascii_lowercase() || first == b'*') {
            return None;
        }
        let rest = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-.*".contains(b);
        self.while_is(rest)
    }

    /// One or more.
    fn while_is(&mut self, is: impl Fn(&u8) -> bool) -> Option<String> {
        let end = self.0.iter().position(|b| !is(b)).unwrap_or(self.0.len());
        let (text, rest) = self.0.split_at(end);
        self.0 = rest;
        (!text.is_empty()).then(|| text.iter().copied().map(char::from).collect())
    }

    fn take(&mut self, wanted: u8) -> Option<()> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        (*byte == wanted).then_some(())
    }

    fn space(&mut self, tabs: bool) {
        while let [b' ' | b'\t', rest @ ..] = self.0 {
            if !tabs && self.0.first() == Some(&b'\t') {
                return;
            }
            self.0 = rest;
        }
    }
}
