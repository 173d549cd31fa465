//! Secrets in what a provider says of the next page: kept as marks that say which secret stands there, not what it is.
//!
//! A cursor or the URL of a next page may repeat what the call was signed with, in a place where it cannot be left
//! out. Page state is kept between pages and travels to other nodes, so it holds marks, which become the secrets
//! again when a call is made. Where the host that is called gets no credentials it gets what the provider put there and
//! nothing else: there a mark says too which secret it was, by a short hash, and is none once that has changed.

use std::borrow::Cow;

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use url::Url;

use super::redact::{self, ALONE_MIN};
use super::secret::Missing;
use super::sign::hex;
use super::{Auth, Credential, Kind, Used};
use crate::ids::Account;
use crate::plan::Platform;
use crate::recipe::is_bare;

/// Begins a mark. Where a text holds this itself an empty mark stands for it.
const OPEN: char = '\u{1}';
/// Ends a mark.
const END: char = '\u{2}';
/// Names the token of a credential, its refresh token, its user and password as one.
const TOKEN: &str = "t";
const REFRESH: &str = "r";
const PAIR: &str = "p";

/// Bytes of the hash in a mark: another secret has the same one in four thousand million cases, and of a secret it
/// says too little to find it.
const HASH_BYTES: usize = 4;

/// Every secret that calls of an account may carry, with its marks.
pub struct Mask {
    /// Long ones first: one may lie in another.
    marks: Vec<Hidden>,
}

struct Hidden {
    /// What is sent.
    text: SecretString,
    /// What stands for it.
    mark: String,
    /// Its place among the forms of the secret.
    form: usize,
}

/// Where a text goes that is kept for the next call.
#[derive(Debug, Clone, Copy)]
pub struct Goes<'a> {
    /// What is called.
    pub to: &'a Url,
    /// With what its api's calls are signed.
    pub own: Option<&'a Credential>,
    /// The text is a URL, where a secret is percent-encoded.
    pub in_url: bool,
}

impl Goes<'_> {
    /// Whether another secret must not stand there in place of the one that the provider put there: the host gets no
    /// credentials, or is not the provider's first and this one is not what the call is signed with.
    fn is_bound(&self, platform: &Platform, key: &str) -> bool {
        is_bare(platform, self.to)
            || (self.to.origin() != platform.base_url.origin()
                && self.own.is_none_or(|own| own.key != key))
    }
}

impl std::fmt::Debug for Mask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mask({})", self.marks.len())
    }
}

/// Why a mark is no secret now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unmasked {
    /// The secret was not read yet, or there is no token now.
    NotAtHand(String),
    /// No such secret is declared any more.
    Unknown,
}

impl Mask {
    /// Of a platform and its apis. `used`: with what the call was signed whose answer is looked at; what several
    /// credentials have is meant as its own.
    pub fn of(platform: &Platform, account: &Account, used: Option<&Used>, goes: Goes<'_>) -> Self {
        let mut marks = Vec::new();
        let mut add = |credential: &Credential, which: &str, secret: &str, forms: Vec<String>| {
            let bound = goes.is_bound(platform, &credential.key);
            let bound = bound.then(|| format!(".{}", hash(&credential.key, secret)));
            let bound = bound.unwrap_or_default();
            for (form, text) in forms.into_iter().enumerate() {
                // A shorter one may be a word like others.
                if text.len() >= ALONE_MIN {
                    let mark = format!("{OPEN}{}/{which}.{form}{bound}{END}", credential.key);
                    marks.push(Hidden { text: SecretString::from(text), mark, form });
                }
            }
        };
        for credential in all(platform) {
            for (place, reference) in credential.references().into_iter().enumerate() {
                if let Ok(text) = reference.get(account) {
                    let text = text.expose_secret();
                    add(credential, &place.to_string(), text, redact::forms(text));
                }
            }
            if let Some(pair) = pair(credential, account) {
                add(credential, PAIR, &pair, vec![redact::base64(&pair)]);
            }
            let states = credential.live.lock();
            if let Some(state) = states.get(&credential.part(account)) {
                if let Some(token) = &state.token {
                    let token = token.value.expose_secret();
                    add(credential, TOKEN, token, redact::forms(token));
                }
                if let Some(refresh) = &state.refresh {
                    let refresh = refresh.expose_secret();
                    add(credential, REFRESH, refresh, redact::forms(refresh));
                }
            }
            drop(states);
        }
        // The token that the call had may be another one by now: whoever calls next has that.
        if let Some(used) = used
            && let Some(token) = &used.token
        {
            let token = token.expose_secret();
            add(&used.credential, TOKEN, token, redact::forms(token));
        }
        if let Some(used) = used {
            let own = format!("{OPEN}{}/", used.credential.key);
            marks.sort_by_key(|hidden| !hidden.mark.starts_with(&own));
        }
        if goes.in_url {
            // Of those that look the same the encoded one is meant: another secret in its place may need it.
            marks.sort_by_key(|hidden| hidden.form != redact::ENCODED);
        }
        marks.sort_by_key(|hidden| std::cmp::Reverse(hidden.text.expose_secret().len()));
        Self { marks }
    }

    /// The text with marks where it holds secrets.
    pub fn hide(&self, text: &str) -> String {
        let mut hidden = String::with_capacity(text.len());
        let mut rest = text;
        'text: while let Some(next) = rest.chars().next() {
            for Hidden { text, mark, .. } in &self.marks {
                if let Some(behind) = rest.strip_prefix(text.expose_secret()) {
                    hidden.push_str(mark);
                    rest = behind;
                    continue 'text;
                }
            }
            hidden.push(next);
            if next == OPEN {
                hidden.push(END);
            }
            rest = rest.get(next.len_utf8()..).unwrap_or_default();
        }
        hidden
    }
}

/// Whether there may be marks in it.
pub fn is_masked(text: &str) -> bool {
    text.contains(OPEN)
}

/// Whether the secrets of a text that [`Mask::hide`] has hidden may go there: each that must be the one that the
/// provider put there says which that was. [`shown`] sees to it that it is.
pub fn may_go(text: &str, platform: &Platform, goes: Goes<'_>) -> bool {
    let mut marks = text.split(OPEN).skip(1).filter_map(|part| part.split_once(END));
    marks.all(|(mark, _)| {
        mark.is_empty()
            || mark.rsplit_once('/').is_some_and(|(key, place)| {
                place.split('.').count() > 2 || !goes.is_bound(platform, key)
            })
    })
}

/// The text that [`Mask::hide`] has hidden, with the secrets as they are now.
///
/// # Errors
/// A secret is not at hand, is not declared any more, or is another one where it may not be. `own`: what the call will
/// be signed with; nobody waits for what is not at hand of another credential, so that is as unknown.
pub fn shown<'t>(
    text: &'t str,
    platform: &Platform,
    account: &Account,
    own: Option<&Credential>,
) -> Result<Cow<'t, str>, Unmasked> {
    if !is_masked(text) {
        return Ok(Cow::Borrowed(text));
    }
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once(OPEN) {
        shown.push_str(before);
        let (mark, behind) = behind.split_once(END).ok_or(Unmasked::Unknown)?;
        if mark.is_empty() {
            shown.push(OPEN);
        } else {
            shown.push_str(&secret(mark, platform, account, own)?);
        }
        rest = behind;
    }
    shown.push_str(rest);
    Ok(Cow::Owned(shown))
}

/// What stands behind a mark.
fn secret(
    mark: &str,
    platform: &Platform,
    account: &Account,
    own: Option<&Credential>,
) -> Result<String, Unmasked> {
    let (key, place) = mark.rsplit_once('/').ok_or(Unmasked::Unknown)?;
    let (which, form) = place.split_once('.').ok_or(Unmasked::Unknown)?;
    let (form, bound) =
        form.split_once('.').map_or((form, None), |(form, bound)| (form, Some(bound)));
    let credential = all(platform).find(|credential| credential.key == key);
    let credential = credential.ok_or(Unmasked::Unknown)?;
    let is_own = own.is_some_and(|own| own.key == credential.key);
    let not_at_hand = |what: &str| {
        let reason = format!("{what} of {} is not at hand", credential.shown);
        if is_own { Unmasked::NotAtHand(reason) } else { Unmasked::Unknown }
    };
    let token = |refresh: bool| {
        let states = credential.live.lock();
        let state = states.get(&credential.part(account))?;
        let token = state.token.as_ref().map(|token| &token.value);
        let text = if refresh { state.refresh.as_ref() } else { token };
        text.map(|text| text.expose_secret().to_owned())
    };
    let (secret, forms) = match which {
        PAIR => {
            let pair = pair(credential, account).ok_or_else(|| not_at_hand("a secret"))?;
            let forms = vec![redact::base64(&pair)];
            (pair, forms)
        }
        TOKEN => with_forms(token(false).ok_or_else(|| not_at_hand("the token"))?),
        REFRESH => with_forms(token(true).ok_or(Unmasked::Unknown)?),
        number => {
            let place: usize = number.parse().map_err(|_| Unmasked::Unknown)?;
            let references = credential.references();
            let reference = references.get(place).ok_or(Unmasked::Unknown)?;
            let text = reference.get(account).map_err(|missing| match missing {
                Missing::Unread => not_at_hand("a secret"),
                Missing::None(_) => not_at_hand("a secret of this account"),
            })?;
            with_forms(text.expose_secret().to_owned())
        }
    };
    if bound.is_some_and(|bound| bound != hash(key, &secret)) {
        return Err(Unmasked::Unknown);
    }
    let form = form.parse::<usize>().ok().and_then(|form| forms.into_iter().nth(form));
    form.ok_or(Unmasked::Unknown)
}

fn with_forms(secret: String) -> (String, Vec<String>) {
    let forms = redact::forms(&secret);
    (secret, forms)
}

/// By which a secret is known again.
fn hash(key: &str, secret: &str) -> String {
    let digest = Sha256::new().chain_update(key).chain_update([0]).chain_update(secret).finalize();
    hex(digest.get(..HASH_BYTES).unwrap_or_default())
}

/// The credentials of a platform and its apis.
fn all(platform: &Platform) -> impl Iterator<Item = &Credential> {
    let own = platform.apis.iter().filter_map(|api| api.auth.as_ref());
    platform.auth.iter().chain(own).flat_map(|auth: &Auth| &auth.pool).map(|one| &**one)
}

/// A user and a password, as `Basic` joins them.
fn pair(credential: &Credential, account: &Account) -> Option<String> {
    let Kind::Basic { user, password } = &credential.kind else { return None };
    let (user, password) = (user.get(account).ok()?, password.get(account).ok()?);
    Some(format!("{user}:{}", password.expose_secret()))
}
