//! Who asks: credentials, what is sent to prove them, and the tokens that stand for them.
//!
//! A platform, or an api of its own, has an [`Auth`]: one credential or a pool of them. A request is signed when it
//! is sent, after its permit ([`Auth::sign`]). What a signature needs beside its own secret, a token, is asked for
//! before a permit is decided ([`Keeper::ready`]), so that no permit lapses over it; the [`Keeper`] fetches it once,
//! however many accounts and shards wait for it. A refresh token that a provider replaces is in the [`Vault`] before
//! the access token that came with it is used.
//!
//! Secrets are shown nowhere: none is in a `Debug`, an error or an event, and whatever text comes back from a
//! provider is cleaned of them ([`Redactor`]), or, where it is sent back, kept with marks in their place ([`Mask`]).

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderName;
use http::header::AUTHORIZATION;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use tollgate_gate::{At, LimitSet};
use url::Url;

use crate::codes::Code;
use crate::ids::{Account, AccountKey};
use crate::recipe::Template;

mod endpoint;
pub mod jwt;
mod keeper;
mod mask;
mod oauth1;
mod places;
mod reading;
mod recent;
mod redact;
mod renew;
pub mod secret;
mod sign;
pub mod vault;

#[cfg(test)]
mod tests;

pub use keeper::{Keeper, Wait};
pub use mask::{Goes, Mask, Unmasked, is_masked, may_go, shown};
pub use redact::Redactor;
pub(crate) use redact::Redactors;
pub use secret::{Reference, Secret, Source};
pub use sign::{NAMES, Unsigned, Used};
pub use vault::Vault;

use jwt::Jwt;
use recent::{Expendable, Recent};
use secret::{ACCOUNTS_MAX, Missing};

/// Most credentials of a pool.
pub const POOL_MAX: usize = 64;
/// Most of a token's life by which it is renewed early, unless `early` says otherwise.
pub const EARLY_MAX: Duration = Duration::from_secs(60);

/// How calls are authorised.
#[derive(Debug, Clone)]
pub struct Auth {
    /// The credentials, at least one. An account has always the same one of several.
    pub pool: Vec<Arc<Credential>>,
}

impl Auth {
    /// Whether any node that has read the same configuration can sign at any time: no token, and no secret that is
    /// read again.
    pub(crate) fn is_at_hand(&self) -> bool {
        self.pool.iter().all(|credential| credential.is_at_hand())
    }

    /// The names of the pairs that signing a call puts into its query.
    pub(crate) fn query_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for credential in &self.pool {
            match &credential.kind {
                Kind::Query(name, _) => names.push(name),
                Kind::Hmac(hmac) => names.extend(hmac.query.iter().map(|(name, _)| &**name)),
                _ => {}
            }
        }
        names
    }

    /// The credential of an account: the one whose name and the account's have the highest hash together, so that
    /// another credential in the pool moves only the accounts that become its own.
    pub fn of(&self, account: &Account) -> &Arc<Credential> {
        if let [only] = self.pool.as_slice() {
            return only;
        }
        let weight = |credential: &Arc<Credential>| {
            let mut hash = Sha256::new();
            hash.update(credential.name.as_bytes());
            hash.update([0]);
            hash.update(account.as_str().as_bytes());
            <[u8; 32]>::from(hash.finalize())
        };
        self.pool
            .iter()
            .max_by_key(|credential| weight(credential))
            .expect("a pool has one at least")
    }

    /// Whether both are the same, as far as secrets are known.
    pub(crate) fn same(&self, other: &Self) -> bool {
        let secrets = |auth: &Self| -> Vec<Reference> {
            auth.pool.iter().flat_map(|c| c.references()).cloned().collect()
        };
        let (own, others) = (secrets(self), secrets(other));
        own.len() == others.len()
            && own.iter().zip(&others).all(|(own, other)| own.same(other))
            && format!("{self:?}") == format!("{other:?}")
    }
}

/// One credential with a provider.
pub struct Credential {
    /// Its name in its pool; empty where it is the only one.
    pub name: String,
    /// Names it for people: `kakao`, `kakao/reports`, `kakao (main)`.
    pub shown: String,
    /// Under which its tokens are kept: letters, digits, `_`, `-` and `.`.
    pub key: String,
    /// What proves it.
    pub kind: Kind,
    /// Secret headers that are sent too.
    pub headers: Vec<(HeaderName, Reference)>,
    /// What is at hand now.
    pub(super) live: Live,
}

impl Credential {
    /// A credential of which nothing is at hand yet. `place`: the platform, and the api whose own it is.
    pub fn new(
        place: (&str, Option<&str>),
        name: &str,
        kind: Kind,
        headers: Vec<(HeaderName, Reference)>,
    ) -> Self {
        let (platform, api) = place;
        let of = api.map_or_else(|| platform.to_owned(), |api| format!("{platform}/{api}"));
        let shown = if name.is_empty() { of } else { format!("{of} ({name})") };
        // No name begins with `_`.
        let part = |text: &'static str, own: &str| {
            if own.is_empty() { text.to_owned() } else { own.to_owned() }
        };
        let key = format!("{platform}.{}.{}", part("_", api.unwrap_or_default()), part("_", name));
        Self { name: name.to_owned(), shown, key, kind, headers, live: Live::default() }
    }

    /// What a limit per token counts it by: its name in the platform's pool; else how it is shown.
    pub fn value(&self) -> &str {
        if self.name.is_empty() || self.shown.contains('/') { &self.shown } else { &self.name }
    }

    /// Every secret that it is made of.
    pub fn references(&self) -> Vec<&Reference> {
        self.roles().into_iter().map(|(_, reference)| reference).collect()
    }

    /// The same, each with what it is for. Stored notes name secrets so: a role never means another one.
    pub(super) fn roles(&self) -> Vec<(Role<'_>, &Reference)> {
        let headers = self.headers.iter();
        let mut all: Vec<_> = headers.map(|(name, value)| (Role::Header(name), value)).collect();
        let mut add = |role: &'static str, reference| all.push((Role::Of(role), reference));
        match &self.kind {
            Kind::Headers => {}
            Kind::Bearer(secret) => add("bearer", secret),
            Kind::Query(_, secret) => add("query", secret),
            Kind::Basic { user, password } => {
                user.reference().into_iter().for_each(|user| add("user", user));
                add("pass", password);
            }
            Kind::OAuth2(oauth2) => {
                let client = oauth2.client_id.iter().filter_map(Words::reference);
                client.for_each(|client| add("id", client));
                oauth2.client_secret.iter().for_each(|secret| add("secret", secret));
                oauth2.refresh_token.iter().for_each(|refresh| add("refresh", refresh));
                oauth2.assertion.iter().for_each(|(jwt, _)| add("assert", &jwt.key));
            }
            Kind::Jwt(jwt, _) => add("jwt", &jwt.key),
            Kind::Hmac(hmac) => add("hmac", &hmac.key),
            Kind::OAuth1(oauth1) => {
                oauth1.consumer_key.reference().into_iter().for_each(|key| add("ckey", key));
                add("csecret", &oauth1.consumer_secret);
                let token = oauth1.token.iter().filter_map(Words::reference);
                token.for_each(|token| add("token", token));
                oauth1.token_secret.iter().for_each(|secret| add("tsecret", secret));
            }
        }
        all
    }

    /// Whether a token stands for it.
    pub(super) fn has_token(&self) -> bool {
        matches!(self.kind, Kind::OAuth2(_) | Kind::Jwt(..))
    }

    /// Whether accounts have something of their own under it.
    fn is_per_account(&self) -> bool {
        let in_token = match &self.kind {
            Kind::OAuth2(oauth2) => oauth2.assertion.as_ref().map(|(jwt, _)| jwt),
            Kind::Jwt(jwt, _) => Some(&**jwt),
            _ => None,
        };
        in_token.is_some_and(Jwt::names_account)
            || self.references().iter().any(|reference| reference.is_per_account())
    }

    /// Under which its state of an account is.
    pub(super) fn part(&self, account: &Account) -> Option<Account> {
        self.is_per_account().then(|| account.clone())
    }

    /// Whether everything that a signature needs is there at any time.
    pub(super) fn is_at_hand(&self) -> bool {
        !self.has_token() && self.references().iter().all(|reference| reference.is_at_hand())
    }

    /// Whether a secret of it may be another one soon.
    pub(super) fn can_change(&self) -> bool {
        let changes = |reference: &&Reference| match reference {
            Reference::One(secret) => secret.can_change(),
            Reference::Table(_) | Reference::Files(_) => true,
        };
        self.references().iter().any(changes)
    }

    /// Whether all secrets of an account were read.
    pub(super) fn secrets(&self, account: &Account) -> Result<(), Missing> {
        self.references().iter().try_for_each(|reference| reference.get(account).map(|_| ()))
    }

    /// Every header that it sets.
    pub fn header_names(&self) -> Vec<&HeaderName> {
        let mut names: Vec<&HeaderName> = self.headers.iter().map(|(name, _)| name).collect();
        match &self.kind {
            Kind::Bearer(_) | Kind::Basic { .. } | Kind::OAuth1(_) => names.push(&AUTHORIZATION),
            Kind::OAuth2(oauth2) => names.push(oauth2.bearing.header()),
            Kind::Jwt(_, bearing) => names.push(bearing.header()),
            Kind::Hmac(hmac) => names.extend(hmac.headers.iter().map(|(name, _)| name)),
            Kind::Headers | Kind::Query(..) => {}
        }
        names
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("key", &self.key)
            .field("kind", &self.kind)
            .field("headers", &self.headers)
            .finish_non_exhaustive()
    }
}

/// What a secret of a credential is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role<'a> {
    /// It is sent in this header.
    Header(&'a HeaderName),
    /// What the kind of the credential has it for, in letters: less than 8, or a careless secret may be the same.
    Of(&'static str),
}

impl Role<'_> {
    /// Whether calls carry it as it is, or in another form, and do not only prove that it is known.
    fn is_sent(self) -> bool {
        match self {
            Self::Header(_) => true,
            Self::Of(role) => matches!(role, "bearer" | "query" | "user" | "pass"),
        }
    }
}

/// In stored notes.
impl fmt::Display for Role<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // A mark has dots between its parts, and no header has a `/` (RFC 9110 §5.6.2).
            Self::Header(name) => write!(f, "h:{}", name.as_str().replace('.', "/")),
            Self::Of(role) => f.write_str(role),
        }
    }
}

/// What proves a credential.
#[derive(Debug, Clone)]
pub enum Kind {
    /// Nothing but its secret headers.
    Headers,
    /// `Authorization: Bearer …` (RFC 6750).
    Bearer(Reference),
    /// A pair of the query.
    Query(String, Reference),
    /// `Authorization: Basic …` (RFC 7617).
    Basic {
        /// Who.
        user: Words,
        /// With which password.
        password: Reference,
    },
    /// An access token of an OAuth 2.0 server (RFC 6749).
    OAuth2(Box<OAuth2>),
    /// A signed statement that is the token itself (RFC 7519).
    Jwt(Box<Jwt>, Bearing),
    /// A keyed hash of what is sent.
    Hmac(Box<Hmac>),
    /// OAuth 1.0a (RFC 5849).
    OAuth1(Box<OAuth1>),
}

/// A text that need not be secret.
#[derive(Debug, Clone)]
pub enum Words {
    /// As it stands in the configuration.
    Plain(String),
    /// From elsewhere.
    Secret(Reference),
}

impl Words {
    fn reference(&self) -> Option<&Reference> {
        match self {
            Self::Plain(_) => None,
            Self::Secret(reference) => Some(reference),
        }
    }

    pub(super) fn get(&self, account: &Account) -> Result<String, Missing> {
        self.read(&mut |reference| reference.get(account))
    }

    /// The same, where a secret is had by `get`.
    pub(super) fn read<E>(
        &self,
        get: &mut impl FnMut(&Reference) -> Result<secret::Text, E>,
    ) -> Result<String, E> {
        match self {
            Self::Plain(text) => Ok(text.clone()),
            Self::Secret(reference) => get(reference).map(|text| text.expose_secret().to_owned()),
        }
    }
}

/// How a token is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Bearing {
    /// `Authorization: Bearer …`.
    Bearer,
    /// Alone in a header.
    Header(HeaderName),
}

impl Bearing {
    fn header(&self) -> &HeaderName {
        match self {
            Self::Bearer => &AUTHORIZATION,
            Self::Header(name) => name,
        }
    }
}

/// A client of an OAuth 2.0 server.
#[derive(Debug, Clone)]
pub struct OAuth2 {
    /// For what it gets tokens.
    pub grant: Grant,
    /// Where.
    pub token_url: Url,
    /// Which client.
    pub client_id: Option<Words>,
    /// With which secret.
    pub client_secret: Option<Reference>,
    /// Whether both go into an `Authorization` header and not into the body (RFC 6749 §2.3.1).
    pub client_basic: bool,
    /// The refresh token of the start; later ones are in the vault.
    pub refresh_token: Option<Reference>,
    /// What is signed, and under which name it is sent.
    pub assertion: Option<(Jwt, AssertionAs)>,
    /// For what the token is good.
    pub scope: Option<String>,
    /// More pairs of the form.
    pub params: Vec<(String, String)>,
    /// How long before its end a token is renewed; none: a tenth of its life, at most [`EARLY_MAX`].
    pub early: Option<Duration>,
    /// The life of a token whose answer does not say it.
    pub life: Duration,
    /// The limits of the server, for this credential alone.
    pub limits: Arc<LimitSet>,
    /// How the token is sent.
    pub bearing: Bearing,
}

/// For what a client gets tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    /// A refresh token (RFC 6749 §6).
    RefreshToken,
    /// Its own credentials (§4.4).
    ClientCredentials,
    /// A signed statement (RFC 7523 §2.1).
    JwtBearer,
}

impl Grant {
    /// As the configuration has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RefreshToken => "refresh_token",
            Self::ClientCredentials => "client_credentials",
            Self::JwtBearer => "jwt-bearer",
        }
    }
}

/// Under which name a signed statement is sent to a token endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AssertionAs {
    /// `assertion`: it is the grant.
    Assertion,
    /// `client_assertion` (RFC 7523 §2.2).
    ClientAssertion,
    /// `client_secret`.
    ClientSecret,
}

/// The hash below a keyed hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hash {
    /// SHA-1: for OAuth 1.0a and the like, not for anything new.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

/// How bytes are written as text, and the other way round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As they are.
    Text,
    /// Base64 with padding (RFC 4648 §4).
    Base64,
    /// Base64 for URLs, without padding (§5).
    Base64Url,
    /// Lower-case hexadecimal digits.
    Hex,
}

/// A keyed hash over a declared string.
#[derive(Debug, Clone)]
pub struct Hmac {
    /// The hash below it.
    pub algorithm: Hash,
    /// The key.
    pub key: Reference,
    /// How the key is written.
    pub key_encoding: Encoding,
    /// What is signed; may name [`NAMES`].
    pub sign: Template,
    /// How the signature is written.
    pub encoding: Encoding,
    /// Headers that are sent; may name `signature` too.
    pub headers: Vec<(HeaderName, Template)>,
    /// Pairs that are put behind the query.
    pub query: Vec<(String, Template)>,
}

/// A client of OAuth 1.0a.
#[derive(Debug, Clone)]
pub struct OAuth1 {
    /// SHA-1 or SHA-256.
    pub algorithm: Hash,
    /// Which client.
    pub consumer_key: Words,
    /// With which secret.
    pub consumer_secret: Reference,
    /// For whom.
    pub token: Option<Words>,
    /// With which secret.
    pub token_secret: Option<Reference>,
    /// Said in the header, and not signed.
    pub realm: Option<String>,
}

/// A token that is at hand.
pub(super) struct Token {
    pub(super) value: Arc<SecretString>,
    /// Later ones are greater.
    pub(super) generation: u64,
    pub(super) had: At,
    /// Not used from then on.
    pub(super) until: At,
    /// Renewed from then on.
    pub(super) renew_at: At,
}

/// Why nothing can be signed.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    pub(super) code: Code,
    pub(super) reason: Arc<str>,
    /// Nothing is tried before.
    pub(super) until: At,
    /// So many in a row.
    pub(super) fails: u32,
}

/// Tells an account's actor that something has changed.
pub type Wake = Box<dyn Fn() + Send>;

/// What is at hand of a credential, for all its accounts or for one.
#[derive(Default)]
pub(super) struct State {
    pub(super) token: Option<Arc<Token>>,
    /// The token before, which calls in flight still have.
    pub(super) before: Option<Arc<Token>>,
    /// The value of a token that the provider refused.
    pub(super) dead: Option<Arc<SecretString>>,
    /// The refresh token in use.
    pub(super) refresh: Option<Arc<SecretString>>,
    /// The one before, which a provider may still repeat.
    pub(super) refresh_before: Option<Arc<SecretString>>,
    /// Somebody is about it.
    pub(super) working: bool,
    /// Secrets are being read again after a refusal: nothing is signed with those of before.
    pub(super) reading: bool,
    /// What was made with its secrets was refused: they are read again before anything else is.
    pub(super) doubted: bool,
    pub(super) problem: Option<Problem>,
    /// Secrets were read again after a refusal then.
    pub(super) read_again: Option<At>,
    /// Who waits.
    pub(super) waiting: HashMap<AccountKey, Wake>,
}

impl State {
    pub(super) fn replace_refresh(&mut self, refresh: Arc<SecretString>) {
        let is_new = |now: &Arc<SecretString>| now.expose_secret() != refresh.expose_secret();
        if self.refresh.as_ref().is_none_or(is_new) {
            self.refresh_before = self.refresh.replace(refresh);
        }
    }
}

impl Expendable for State {
    /// Whether somebody is about it or waits for it, or a call is out with its token.
    fn is_in_use(&self) -> bool {
        let tokens = [&self.token, &self.before].into_iter().flatten();
        let own: Vec<_> = tokens.map(|token| &token.value).chain(&self.dead).collect();
        // One that was refused is here twice.
        let here = |value: &Arc<SecretString>| own.iter().filter(|o| Arc::ptr_eq(o, value)).count();
        self.working
            || self.reading
            || !self.waiting.is_empty()
            || own.iter().any(|value| Arc::strong_count(value) > here(value))
    }
}

/// What is at hand of a credential: by account where accounts have something of their own.
pub(super) struct Live {
    states: Mutex<Recent<Option<Account>, State>>,
    /// How many of them are being read again.
    reading: AtomicUsize,
}

impl Default for Live {
    fn default() -> Self {
        Self { states: Mutex::new(Recent::new(ACCOUNTS_MAX)), reading: AtomicUsize::new(0) }
    }
}

impl Live {
    pub(super) fn lock(&self) -> MutexGuard<'_, Recent<Option<Account>, State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether any secret is being read again, of whatever account.
    pub(super) fn is_reading(&self) -> bool {
        self.reading.load(Ordering::Acquire) > 0
    }

    /// Secrets are being read again from now on, or not any more.
    pub(super) fn set_reading(&self, state: &mut State, reading: bool) {
        if reading && !state.reading {
            self.reading.fetch_add(1, Ordering::AcqRel);
        } else if !reading && state.reading {
            self.reading.fetch_sub(1, Ordering::AcqRel);
        }
        state.reading = reading;
    }
}
