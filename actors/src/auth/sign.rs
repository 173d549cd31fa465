//! Signing a request: the last thing before it is sent, once for each attempt.

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hmac};
use secrecy::{ExposeSecret, SecretString};

use super::secret::{Missing, Text};
use super::{Auth, Bearing, Credential, Encoding, Hash, Hmac, Kind, Reference, oauth1};
use crate::clock::Clock;
use crate::ids::Account;
use crate::recipe::{Request, fill};

/// What a string to sign may name. `timestamp` is in seconds since 1970 and `timestamp_ms` in milliseconds;
/// `path`, `query` and `url` are as they are sent, `query` without its `?`; `body_sha256` is in hexadecimal digits;
/// `nonce` is new for each attempt.
pub const NAMES: &[&str] = &[
    "account",
    "body",
    "body_sha256",
    "host",
    "method",
    "nonce",
    "path",
    "query",
    "timestamp",
    "timestamp_ms",
    "url",
];

/// Everything but the unreserved characters of RFC 3986 §2.3.
const VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Percent-encoded as a value of a query is (RFC 3986 §2.3; RFC 5849 §3.6 is the same).
pub(super) fn encoded(text: &str) -> String {
    utf8_percent_encode(text, VALUE).to_string()
}

/// With what a request was signed.
#[derive(Debug, Clone)]
pub struct Used {
    pub(super) credential: Arc<Credential>,
    /// Which token, if one stands for it.
    pub(super) generation: Option<u64>,
    /// Its text, for what must not be shown.
    pub(super) token: Option<Arc<SecretString>>,
    /// Its secrets as they were then, for the same: where they come from there may be others when the answer comes.
    pub(super) texts: Vec<Text>,
    /// A user and a password, as `Basic` joins them.
    pub(super) pair: Option<Arc<SecretString>>,
}

/// Why a request was not signed: it must not be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unsigned {
    /// What is needed was at hand when the permit was decided, and is not any more.
    NotAtHand(String),
    /// It never will be: a sentence.
    Never(String),
}

impl Auth {
    /// Puts on a request what proves the account's credential.
    ///
    /// # Errors
    /// A secret or a token is not at hand, or cannot be sent.
    pub fn sign(
        &self,
        account: &Account,
        request: &mut Request,
        clock: &Clock,
    ) -> Result<Used, Unsigned> {
        let credential = self.of(account);
        let mut used = Used {
            credential: Arc::clone(credential),
            generation: None,
            token: None,
            texts: Vec::new(),
            pair: None,
        };
        let missing = |missing| match missing {
            Missing::Unread => {
                Unsigned::NotAtHand(format!("a secret of {} was not read yet", credential.shown))
            }
            Missing::None(reason) => Unsigned::NotAtHand(reason),
        };
        let texts = &mut used.texts;
        let mut get = |reference: &Reference| {
            let text = reference.get(account).map_err(missing)?;
            texts.push(Arc::clone(&text));
            Ok::<Text, Unsigned>(text)
        };
        for (name, value) in &credential.headers {
            let value = get(value)?;
            put(&mut request.headers, name, value.expose_secret())?;
        }
        match &credential.kind {
            Kind::Headers => {}
            Kind::Bearer(secret) => {
                let secret = get(secret)?;
                bear(&mut request.headers, &Bearing::Bearer, secret.expose_secret())?;
            }
            Kind::Query(name, secret) => {
                let secret = get(secret)?;
                add_to_query(request, name, secret.expose_secret());
            }
            Kind::Basic { user, password } => {
                let user = user.read(&mut get)?;
                let password = get(password)?;
                let password = password.expose_secret();
                put(&mut request.headers, &AUTHORIZATION, &basic(&user, password))?;
                used.pair = Some(Arc::new(format!("{user}:{password}").into()));
            }
            Kind::OAuth2(_) | Kind::Jwt(..) => {
                let now = clock.now();
                let states = credential.live.lock();
                let token = states.get(&credential.part(account)).and_then(|s| s.token.clone());
                drop(states);
                let Some(token) = token.filter(|token| now < token.until) else {
                    let reason =
                        format!("the token of {} ran out before the call", credential.shown);
                    return Err(Unsigned::NotAtHand(reason));
                };
                used.generation = Some(token.generation);
                used.token = Some(Arc::clone(&token.value));
                let bearing = match &credential.kind {
                    Kind::OAuth2(oauth2) => &oauth2.bearing,
                    Kind::Jwt(_, bearing) => bearing,
                    _ => &Bearing::Bearer,
                };
                bear(&mut request.headers, bearing, token.value.expose_secret())?;
            }
            Kind::Hmac(hmac) => {
                let key = get(&hmac.key)?;
                let stamp = Stamp { wall: clock.wall(), nonce: nonce() };
                hmac.sign(key.expose_secret(), account, request, &stamp)?;
            }
            Kind::OAuth1(oauth1) => {
                let stamp = Stamp { wall: clock.wall(), nonce: nonce() };
                let keys = oauth1::Keys::of(oauth1, &mut get)?;
                let header = oauth1::header(oauth1, &keys, request, &stamp);
                put(&mut request.headers, &AUTHORIZATION, &header)?;
            }
        }
        Ok(used)
    }
}

/// What is new in each attempt.
pub(super) struct Stamp {
    pub(super) wall: Timestamp,
    pub(super) nonce: String,
}

/// 128 random bits as hexadecimal digits.
pub(super) fn nonce() -> String {
    let mut bytes = [0; 16];
    if SystemRandom::new().fill(&mut bytes).is_err() {
        // The system has no randomness to give: unlike another one is what is asked of a nonce.
        bytes = fastrand::u128(..).to_be_bytes();
    }
    hex(&bytes)
}

/// `Basic` and the pair (RFC 7617 §2).
pub(super) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes all");
        text
    })
}

fn put(headers: &mut HeaderMap, name: &HeaderName, text: &str) -> Result<(), Unsigned> {
    let mut value = HeaderValue::from_bytes(text.as_bytes())
        .map_err(|_| Unsigned::Never(format!("what `{name}` would be cannot stand in a header")))?;
    value.set_sensitive(true);
    headers.insert(name.clone(), value);
    Ok(())
}

fn bear(headers: &mut HeaderMap, bearing: &Bearing, token: &str) -> Result<(), Unsigned> {
    match bearing {
        Bearing::Bearer => put(headers, &AUTHORIZATION, &format!("Bearer {token}")),
        Bearing::Header(name) => put(headers, name, token),
    }
}

fn add_to_query(request: &mut Request, name: &str, value: &str) {
    let pair = format!("{}={}", encoded(name), encoded(value));
    let query = match request.url.query() {
        None | Some("") => pair,
        Some(query) => format!("{query}&{pair}"),
    };
    request.url.set_query(Some(&query));
}

impl Hmac {
    fn sign(
        &self,
        key: &str,
        account: &Account,
        request: &mut Request,
        stamp: &Stamp,
    ) -> Result<(), Unsigned> {
        let key = self
            .key_encoding
            .decode(key)
            .map_err(|reason| Unsigned::Never(format!("the key of the signature {reason}")))?;
        let (url, method) = (request.url.clone(), request.method.clone());
        let body = request.body.clone().unwrap_or_default();
        let host = match url.port() {
            None => url.host_str().unwrap_or_default().to_owned(),
            Some(port) => format!("{}:{port}", url.host_str().unwrap_or_default()),
        };
        let digest = hex(digest::digest(&digest::SHA256, &body).as_ref());
        let (seconds, ms) = (stamp.wall.as_second(), stamp.wall.as_millisecond());
        let (seconds, ms) = (seconds.to_string(), ms.to_string());
        let text: Cow<'_, str> = String::from_utf8_lossy(&body);
        let mut names = vec![
            ("account", account.as_str()),
            ("body", &text),
            ("body_sha256", &digest),
            ("host", &host),
            ("method", method.as_str()),
            ("nonce", &stamp.nonce),
            ("path", url.path()),
            ("query", url.query().unwrap_or_default()),
            ("timestamp", &seconds),
            ("timestamp_ms", &ms),
            ("url", url.as_str()),
        ];
        let refused = |refusal: crate::recipe::Refusal| Unsigned::Never(refusal.reason);
        let signed = fill(&self.sign, &names).map_err(refused)?;
        let signature = self.encoding.encode(&self.algorithm.keyed(&key, signed.as_bytes()));
        names.push(("signature", &signature));
        for (name, template) in &self.headers {
            put(&mut request.headers, name, &fill(template, &names).map_err(refused)?)?;
        }
        for (name, template) in &self.query {
            let value = fill(template, &names).map_err(refused)?;
            add_to_query(request, name, &value);
        }
        Ok(())
    }
}

impl Hash {
    /// HMAC (RFC 2104) over it.
    pub(super) fn keyed(self, key: &[u8], text: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Self::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => hmac::HMAC_SHA256,
            Self::Sha512 => hmac::HMAC_SHA512,
        };
        hmac::sign(&hmac::Key::new(algorithm, key), text).as_ref().to_vec()
    }
}

impl Encoding {
    pub(super) fn encode(self, bytes: &[u8]) -> String {
        match self {
            Self::Text => String::from_utf8_lossy(bytes).into_owned(),
            Self::Base64 => STANDARD.encode(bytes),
            Self::Base64Url => URL_SAFE_NO_PAD.encode(bytes),
            Self::Hex => hex(bytes),
        }
    }

    /// What is written so.
    ///
    /// # Errors
    /// It is not written so; the end of a sentence.
    pub(crate) fn decode(self, text: &str) -> Result<Vec<u8>, String> {
        match self {
            Self::Text => Ok(text.as_bytes().to_vec()),
            Self::Base64 => STANDARD.decode(text).map_err(|_| "is not Base64".to_owned()),
            Self::Base64Url => {
                let bare = text.trim_end_matches('=');
                URL_SAFE_NO_PAD.decode(bare).map_err(|_| "is not Base64 for URLs".to_owned())
            }
            Self::Hex => {
                let pair = |pair: &[u8]| {
                    let text = std::str::from_utf8(pair).ok()?;
                    u8::from_str_radix(text, 16).ok()
                };
                let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
                let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(pair).collect();
                let bytes = bytes.filter(|_| digits && text.len().is_multiple_of(2));
                bytes.ok_or_else(|| "is not in hexadecimal digits".to_owned())
            }
        }
    }
}
