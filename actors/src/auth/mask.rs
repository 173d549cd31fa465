//! Secrets in what a provider says of the next page: kept as marks that say which secret stands there, not what it is.
//!
//! A cursor or the URL of a next page may repeat what the call was signed with, in a place where it cannot be left
//! out. Page state is kept between pages and travels to other nodes, so it holds marks, which become the secrets
//! again when a call is made.

use std::borrow::Cow;

use secrecy::{ExposeSecret, SecretString};

use super::redact::{self, ALONE_MIN};
use super::secret::Missing;
use super::{Auth, Credential, Kind, Used};
use crate::ids::Account;
use crate::plan::Platform;

/// Begins a mark. Where a text holds this itself an empty mark stands for it.
const OPEN: char = '\u{1}';
/// Ends a mark.
const END: char = '\u{2}';
/// Names the token of a credential, its refresh token, its user and password as one.
const TOKEN: &str = "t";
const REFRESH: &str = "r";
const PAIR: &str = "p";

/// Every secret that calls of an account may carry, with its marks.
pub struct Mask {
    /// What is sent, and the mark that stands for it. Long ones first: one may lie in another.
    marks: Vec<(SecretString, String)>,
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
    /// credentials have is meant as its own. `in_url`: the text is a URL, where a secret is percent-encoded.
    pub fn of(platform: &Platform, account: &Account, used: Option<&Used>, in_url: bool) -> Self {
        let mut marks = Vec::new();
        let mut add = |credential: &Credential, which: &str, forms: Vec<String>| {
            for (form, text) in forms.into_iter().enumerate() {
                // A shorter one may be a word like others.
                if text.len() >= ALONE_MIN {
                    let mark = format!("{OPEN}{}/{which}.{form}{END}", credential.key);
                    marks.push((SecretString::from(text), mark));
                }
            }
        };
        for credential in all(platform) {
            for (place, reference) in credential.references().into_iter().enumerate() {
                if let Ok(text) = reference.get(account) {
                    add(credential, &place.to_string(), redact::forms(text.expose_secret()));
                }
            }
            if let Some(pair) = pair(credential, account) {
                add(credential, PAIR, vec![redact::base64(&pair)]);
            }
            let states = credential.live.lock();
            if let Some(state) = states.get(&credential.part(account)) {
                if let Some(token) = &state.token {
                    add(credential, TOKEN, redact::forms(token.value.expose_secret()));
                }
                if let Some(refresh) = &state.refresh {
                    add(credential, REFRESH, redact::forms(refresh.expose_secret()));
                }
            }
            drop(states);
        }
        // The token that the call had may be another one by now: whoever calls next has that.
        if let Some(used) = used
            && let Some(token) = &used.token
        {
            add(&used.credential, TOKEN, redact::forms(token.expose_secret()));
        }
        if let Some(used) = used {
            let own = format!("{OPEN}{}/", used.credential.key);
            marks.sort_by_key(|(_, mark)| !mark.starts_with(&own));
        }
        if in_url {
            // Of those that look the same the encoded one is meant: another secret in its place may need it.
            marks.sort_by_key(|(_, mark)| !mark.ends_with(&format!(".{}{END}", redact::ENCODED)));
        }
        marks.sort_by_key(|(text, _)| std::cmp::Reverse(text.expose_secret().len()));
        Self { marks }
    }

    /// The text with marks where it holds secrets.
    pub fn hide(&self, text: &str) -> String {
        let mut hidden = String::with_capacity(text.len());
        let mut rest = text;
        'text: while let Some(next) = rest.chars().next() {
            for (secret, mark) in &self.marks {
                if let Some(behind) = rest.strip_prefix(secret.expose_secret()) {
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

/// The text that [`Mask::hide`] has hidden, with the secrets as they are now.
///
/// # Errors
/// A secret is not at hand, or is not declared any more. `own`: what the call will be signed with; nobody waits for
/// what is not at hand of another credential, so that is as unknown.
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
    let forms = match which {
        PAIR => {
            let pair = pair(credential, account);
            vec![redact::base64(&pair.ok_or_else(|| not_at_hand("a secret"))?)]
        }
        TOKEN => redact::forms(&token(false).ok_or_else(|| not_at_hand("the token"))?),
        REFRESH => redact::forms(&token(true).ok_or(Unmasked::Unknown)?),
        number => {
            let place: usize = number.parse().map_err(|_| Unmasked::Unknown)?;
            let references = credential.references();
            let reference = references.get(place).ok_or(Unmasked::Unknown)?;
            let text = reference.get(account).map_err(|missing| match missing {
                Missing::Unread => not_at_hand("a secret"),
                Missing::None(_) => not_at_hand("a secret of this account"),
            })?;
            redact::forms(text.expose_secret())
        }
    };
    let form = form.parse::<usize>().ok().and_then(|form| forms.into_iter().nth(form));
    form.ok_or(Unmasked::Unknown)
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
