//! Cleaning text of secrets: whatever a provider says may hold what it was sent.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use super::{Auth, Kind, Used};
use crate::ids::Account;
use crate::plan::Platform;

/// Stands where a secret was.
const REDACTED: &str = "[redacted]";
/// Stands where a text was cut off (`ids::preview`).
const CUT: char = '…';
/// From so many bytes on the beginning of a secret is taken for one.
const HALF_MIN: usize = 4;

/// From so many bytes on a text that is the same as a secret is taken for that.
pub(super) const ALONE_MIN: usize = 8;
/// The place among [`forms`] of the percent-encoded one.
pub(super) const ENCODED: usize = 2;

/// Redactors that are kept: then all of them are forgotten.
const REDACTORS_MAX: usize = 256;

/// Every secret of a platform that is in use now, in every form in which it is sent.
#[derive(Default)]
pub struct Redactor {
    /// Long ones first: one may lie in another.
    forms: Vec<SecretString>,
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Redactor({})", self.forms.len())
    }
}

impl Redactor {
    /// These texts, and what is only sent as Base64.
    pub(crate) fn new(texts: &[String], pairs: &[String]) -> Self {
        let mut forms: Vec<String> = Vec::new();
        for text in texts.iter().filter(|text| !text.is_empty()) {
            forms.extend(self::forms(text));
            // A key of several lines may come back line by line.
            forms.extend(
                text.lines().map(str::trim).filter(|line| line.len() >= 16).map(str::to_owned),
            );
        }
        forms.extend(pairs.iter().map(|pair| base64(pair)));
        forms.sort_unstable_by(|one, other| {
            other.len().cmp(&one.len()).then_with(|| one.cmp(other))
        });
        forms.dedup();
        Self { forms: forms.into_iter().filter(|form| !form.is_empty()).map(Into::into).collect() }
    }

    /// The length of the longest form in bytes: so much more than is shown has to be read, or a secret that is
    /// cut in two is not seen.
    pub fn longest(&self) -> usize {
        self.forms.first().map_or(0, |form| form.expose_secret().len())
    }

    /// Whether a text is a secret, and nothing else. A short one may be a word like others and is not taken for one.
    pub fn is_secret(&self, text: &str) -> bool {
        text.len() >= ALONE_MIN && self.forms.iter().any(|form| form.expose_secret() == text)
    }

    /// Whether a text holds a secret that is not so short that it may be a word like others.
    pub fn is_in(&self, text: &str) -> bool {
        let long = self.forms.iter().map(ExposeSecret::expose_secret);
        long.filter(|form| form.len() >= ALONE_MIN).any(|form| text.contains(form))
    }

    /// The text without secrets.
    pub fn clean<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut text = Cow::Borrowed(text);
        for form in &self.forms {
            let form = form.expose_secret();
            if text.contains(form) {
                text = Cow::Owned(text.replace(form, REDACTED));
            }
        }
        if text.contains(CUT) { Cow::Owned(self.without_halves(&text)) } else { text }
    }

    /// The text without what may be the beginning of a secret that was cut off.
    fn without_halves(&self, text: &str) -> String {
        let mut clean = String::with_capacity(text.len());
        let mut parts = text.split(CUT).peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                clean.push_str(part);
                break;
            }
            let begun = self.begun(part);
            // Shorter ones are in any text.
            let begun = if begun >= HALF_MIN { begun } else { 0 };
            clean.push_str(part.get(..part.len() - begun).unwrap_or_default());
            clean.push_str(if begun > 0 { REDACTED } else { "" });
            clean.push(CUT);
        }
        clean
    }

    /// How many bytes at the end of a text may be the beginning of a secret.
    fn begun(&self, text: &str) -> usize {
        let begun = |form: &SecretString| {
            let form = form.expose_secret();
            let mut lengths =
                (1..form.len().min(text.len() + 1)).rev().filter(|at| form.is_char_boundary(*at));
            lengths.find(|at| form.get(..*at).is_some_and(|start| text.ends_with(start)))
        };
        self.forms.iter().filter_map(begun).max().unwrap_or(0)
    }

    /// The beginning of a body as text without secrets, at most so many bytes of it. Of what was cut off behind
    /// `bytes` the end of a secret may be missing: what could be its beginning is left out.
    pub fn start(&self, bytes: &[u8], max: usize, whole: bool) -> String {
        let text = String::from_utf8_lossy(bytes);
        let mut clean = self.clean(&text).into_owned();
        if !whole {
            let begun = self.begun(&clean);
            clean.truncate(clean.len() - begun);
        }
        let mut end = max.min(clean.len());
        while !clean.is_char_boundary(end) {
            end -= 1;
        }
        clean.truncate(end);
        clean
    }
}

/// The texts of all secrets that a call may carry, and those that are only sent as Base64.
fn secrets(
    platform: &Platform,
    account: &Account,
    used: Option<&Used>,
) -> (Vec<String>, Vec<String>) {
    let get = |reference: &super::Reference| {
        let text = reference.get(account).ok()?;
        Some(text.expose_secret().to_owned())
    };
    let sent = used.into_iter().flat_map(|used| used.texts.iter().chain(&used.token));
    let mut texts: Vec<String> = sent.map(|text| text.expose_secret().to_owned()).collect();
    let pair = used.and_then(|used| used.pair.as_ref());
    let mut pairs: Vec<String> =
        pair.map(|pair| pair.expose_secret().to_owned()).into_iter().collect();
    let own = platform.apis.iter().filter_map(|api| api.auth.as_ref());
    for credential in platform.auth.iter().chain(own).flat_map(|auth: &Auth| &auth.pool) {
        texts.extend(credential.references().into_iter().filter_map(get));
        let states = credential.live.lock();
        if let Some(state) = states.get(&credential.part(account)) {
            let tokens = [&state.token, &state.before].into_iter().flatten();
            let values = tokens.map(|token| &token.value).chain(&state.refresh);
            let values = values.chain(&state.refresh_before).chain(&state.dead);
            texts.extend(values.map(|value| value.expose_secret().to_owned()));
        }
        drop(states);
        if let Kind::Basic { user, password } = &credential.kind
            && let (Ok(user), Some(password)) = (user.get(account), get(password))
        {
            pairs.push(format!("{user}:{password}"));
        }
    }
    texts.sort_unstable();
    texts.dedup();
    (texts, pairs)
}

/// Redactors by what they clean texts of. To make one means to write each secret in every form, for each answer the same
/// ones as long as none of them changes.
#[derive(Debug, Default)]
pub(crate) struct Redactors(RefCell<HashMap<[u8; 32], Rc<Redactor>>>);

impl Redactors {
    /// Of all secrets of a platform and its apis, as far as calls of this account may carry them, and of those of a call
    /// that was signed with what is another one by now.
    pub(crate) fn of(
        &self,
        platform: &Platform,
        account: &Account,
        used: Option<&Used>,
    ) -> Rc<Redactor> {
        let (texts, pairs) = secrets(platform, account, used);
        let mut hash = Sha256::new();
        for list in [&texts, &pairs] {
            hash.update((list.len() as u64).to_le_bytes());
            for text in list {
                hash.update((text.len() as u64).to_le_bytes());
                hash.update(text);
            }
        }
        let key = hash.finalize().into();
        if let Some(redactor) = self.0.borrow().get(&key) {
            return Rc::clone(redactor);
        }
        let redactor = Rc::new(Redactor::new(&texts, &pairs));
        let mut kept = self.0.borrow_mut();
        if kept.len() >= REDACTORS_MAX {
            kept.clear();
        }
        kept.insert(key, Rc::clone(&redactor));
        redactor
    }
}

/// A secret in every form in which it is sent or comes back; which stands where is kept in notes.
pub(super) fn forms(text: &str) -> Vec<String> {
    let json = serde_json::to_string(text).unwrap_or_default();
    // Without the quotes around it, of which one may be in it too.
    let json = json.strip_prefix('"').and_then(|json| json.strip_suffix('"')).unwrap_or(text);
    vec![
        text.to_owned(),
        utf8_percent_encode(text, NON_ALPHANUMERIC).to_string(),
        super::sign::encoded(text),
        url::form_urlencoded::byte_serialize(text.as_bytes()).collect(),
        json.to_owned(),
        json.replace('/', "\\/"),
        base64(text),
    ]
}

/// Base64 with padding, as `Basic` has it (RFC 7617 §2).
pub(super) fn base64(text: &str) -> String {
    STANDARD.encode(text)
}
