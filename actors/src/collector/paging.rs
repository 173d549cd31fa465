//! A good page of a read goes into the store: note first, then the object; after the last one the manifest.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use jiff::Timestamp;
use object_store::path::Path;
use tollgate_gate::Sent;
use tollgate_protos::{Done, Provenance};
use url::Url;

use super::attempt::Attempt;
use super::landing::decode_of;
use super::peek::peek;
use super::place::{Earlier, Place, Told, tell_store};
use super::resuming::{AGAIN, drop_note, still_waits};
use super::{Again, LastAnswer, Outcome};
use crate::answers::{Class, Looked};
use crate::auth::{Credential, Goes, Mask, Unmasked, is_masked, may_go, shown};
use crate::codes::Code;
use crate::http::Answer;
use crate::observe;
use crate::pages::{
    self, Answered, By, LISTED_MAX, More, Note, Page, PageState, Pages, Read, Seen, SoFar, Turn,
    Watch,
};
use crate::queue::{Ending, NOTE_BYTES_MAX};
use crate::recipe::is_bare;
use crate::store::{Sealed, SinkError};
use crate::telemetry;

/// How long the beginning of an answer is waited for that may say that a token has expired.
const PEEK_WITHIN: Duration = Duration::from_millis(500);
/// Most pages that a note names one by one, while their list cannot be written.
const UNLISTED_MAX: usize = 3 * LISTED_MAX;
/// Why a read begins anew.
const EXPIRED: &str = "the token of a page had expired";
const CHANGED: &str =
    "a secret in what leads to its next page is another one by now, or is declared no more";

/// A page whose body is whole, and what is known of it.
pub(super) struct Landed<'a> {
    pub(super) status: u16,
    pub(super) ext: &'a str,
    pub(super) manifest_key: &'a Path,
    /// Where it comes from.
    pub(super) from: Provenance,
    /// What rules about answers say of it.
    pub(super) looked: Option<Looked>,
}

impl Attempt<'_> {
    /// Whether the answer says that the page's token has expired; then the read begins anew.
    pub(super) async fn expired(&self, answer: &mut Answer) -> Option<Outcome> {
        let (pages, read) = (self.api.pages.as_ref()?, self.read.as_ref()?);
        let rules = pages.expired.as_ref().filter(|_| read.page() > 1)?;
        let wall = self.shard.clock.wall();
        let mut body = Vec::new();
        if rules.wants_body(answer.status)
            && let Ok(decode) = decode_of(&answer.headers)
        {
            body = peek(answer, decode, Some(PEEK_WITHIN)).await;
        }
        let (status, headers) = (answer.status, &answer.headers);
        let seen = observe::Answered { status, headers, body: &body, wall };
        rules.read(seen, &self.platform.limits, &self.platform.costs.kept).over?;
        self.permit.call_ended(Sent::Maybe);
        Some(self.restart(pages, read, (Some(answer.status), self.calls), EXPIRED))
    }

    /// The page's tokens are too old by declaration: the read that begins anew, if it may. Or it may no more.
    pub(super) fn too_old(&self) -> Option<Result<Arc<Read>, Outcome>> {
        let (pages, read) = (self.api.pages.as_ref()?, self.read.as_ref()?);
        if read.so_far.restarts > pages.restarts {
            return Some(Err(Self::restarted_too_often(pages, None)));
        }
        let ttl = pages.token_ttl.filter(|_| read.page() > 1)?;
        let now_ms = ms(self.shard.clock.wall());
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        if now_ms < read.so_far.started_ms.saturating_add(ttl_ms) {
            return None;
        }
        Some(match self.restart(pages, read, (None, 0), EXPIRED) {
            Outcome::More { read, .. } => Ok(read),
            other => Err(other),
        })
    }

    /// How its page is asked for, with the secrets that are kept as marks.
    pub(super) fn page_state(&self) -> Result<Option<Cow<'_, PageState>>, Outcome> {
        let (Some(pages), Some(read)) = (&self.api.pages, &self.read) else { return Ok(None) };
        let state = &read.so_far.state;
        let account = &self.item.lane.account.account;
        let own = self.own();
        let shown = |text: &Option<String>| {
            let shown = text.as_deref().map(|text| shown(text, self.platform, account, own));
            shown.transpose().map(|shown| shown.map(Cow::into_owned))
        };
        let hidden = [&state.cursor, &state.url];
        if hidden.into_iter().flatten().all(|text| !is_masked(text)) {
            return Ok(Some(Cow::Borrowed(state)));
        }
        let shown = shown(&state.cursor).and_then(|cursor| Ok((cursor, shown(&state.url)?)));
        match shown {
            Ok((cursor, url)) => Ok(Some(Cow::Owned(PageState { cursor, url, ..state.clone() }))),
            Err(Unmasked::NotAtHand(reason)) => {
                let last = LastAnswer::default();
                Err(Outcome::Again { kind: Again::Unsigned, after: None, reason, last })
            }
            // Declared otherwise by now: what was begun with it cannot go on.
            Err(Unmasked::Unknown) => Err(self.restart(pages, read, (None, 0), CHANGED)),
        }
    }

    /// Its page would take a secret to a host for which that was not meant: the read begins anew, so that the provider
    /// says again what leads there.
    pub(super) fn misplaced(&self, to: &Url) -> Option<Outcome> {
        let (pages, read) = (self.api.pages.as_ref()?, self.read.as_ref()?);
        let state = &read.so_far.state;
        let mut texts = [&state.cursor, &state.url].into_iter().flatten();
        let goes = Goes { to, own: self.own(), in_url: false };
        let may_go = texts.all(|text| may_go(text, self.platform, goes));
        (!may_go).then(|| self.restart(pages, read, (None, 0), CHANGED))
    }

    /// With what calls of its api are signed.
    fn own(&self) -> Option<&Credential> {
        let account = &self.item.lane.account.account;
        self.api.auth.as_ref().map(|auth| &**auth.of(account))
    }

    fn restart(
        &self,
        pages: &Pages,
        read: &Read,
        (status, calls): (Option<u16>, u32),
        why: &str,
    ) -> Outcome {
        let so_far = read.so_far.restart(pages, calls);
        if so_far.restarts > pages.restarts {
            return Self::restarted_too_often(pages, status);
        }
        telemetry::read_restarted(self.item, read.page(), so_far.restarts, why);
        let read = Arc::new(Read::new(read.version(), so_far));
        Outcome::More { read, bytes: 0, objects: 0 }
    }

    fn restarted_too_often(pages: &Pages, status: Option<u16>) -> Outcome {
        let reason = format!(
            "the read was begun anew {} times because its page tokens had expired, what it had stored was gone, or a secret had changed",
            pages.restarts
        );
        let last = LastAnswer { status, ..LastAnswer::default() };
        Outcome::Dead { code: Code::PageTokensExpire, reason, last }
    }

    /// What follows this page, and what its body said.
    pub(super) fn turn(
        &self,
        pages: &Pages,
        read: &Read,
        sealed: &mut Sealed,
        headers: &HeaderMap,
    ) -> Result<(Turn, Seen), pages::Flaw> {
        let tap = sealed.take_tap().and_then(|tap| tap.into_any().downcast::<Watch>().ok());
        let seen = tap.map(|watch| watch.finish()).unwrap_or_default();
        let url = self.asked.borrow();
        let url = url.as_ref().unwrap_or(&self.platform.base_url);
        let sha256 = unhex(&sealed.stored().sha256);
        let unsigned = |url: String| {
            let Some(auth) = &self.api.auth else { return url };
            let redactor = self.redactor();
            // Where no call is signed, what has the name of a signature's part is the provider's own.
            let is_bare = Url::parse(&url).is_ok_and(|url| is_bare(self.platform, &url));
            let names = if is_bare { Vec::new() } else { auth.query_names() };
            pages::without_pairs(&url, &names, |value| redactor.is_secret(value))
        };
        let kept = |text: &str, by: By| {
            let (account, used) = (&self.item.lane.account.account, self.used.borrow());
            // A cursor goes where the one before it went.
            let next = by.is_url().then(|| Url::parse(text).ok()).flatten();
            let to = next.as_ref().unwrap_or(url);
            let goes = Goes { to, own: self.own(), in_url: by.is_url() };
            let mask = Mask::of(self.platform, account, used.as_ref(), goes);
            let hidden = mask.hide(text);
            (!self.redactor().is_in(&hidden)).then_some(hidden)
        };
        let (unsigned, kept) = (&unsigned, &kept);
        let answered = Answered { headers, seen: &seen, url, sha256, unsigned, kept };
        let turn = pages::turn(self.platform, pages, &read.so_far, answered)?;
        Ok((turn, seen))
    }

    /// Whether this page is the whole read and takes the place of nothing but a page like it: then it is stored like
    /// any other answer.
    pub(super) async fn is_whole(
        &self,
        read: &Read,
        turn: &Turn,
        (manifest_key, ext): (&Path, &str),
    ) -> Result<bool, SinkError> {
        if *turn != Turn::Last || !read.is_new() {
            return Ok(false);
        }
        Ok(self.place().earlier(manifest_key).await?.is_one(ext))
    }

    /// Stores a page that is not the whole read.
    pub(super) async fn store_page(
        &self,
        read: &Read,
        sealed: Sealed,
        (turn, seen): (Turn, Seen),
        landed: Landed<'_>,
    ) -> Outcome {
        let last = LastAnswer { status: Some(landed.status), ..LastAnswer::default() };
        match self.try_store_page(read, sealed, (turn, seen), &landed).await {
            Ok(outcome) => outcome,
            Err(error) => self.unstored(&error, last),
        }
    }

    async fn try_store_page(
        &self,
        read: &Read,
        sealed: Sealed,
        (turn, seen): (Turn, Seen),
        landed: &Landed<'_>,
    ) -> Result<Outcome, SinkError> {
        let place = self.place();
        let mut base = read.so_far.clone();
        let mut earlier = Earlier::default();
        if base.page == 1 {
            earlier = place.earlier(landed.manifest_key).await?;
            earlier.known_to(&mut base);
            base.started_ms = ms(self.shard.clock.wall());
        }
        if base.tail.len() >= LISTED_MAX {
            match place.list(&base, landed.manifest_key).await {
                Ok(()) => base.was_listed(),
                // This page is worth more than that list, which the next one tries again.
                Err(error) if base.tail.len() < UNLISTED_MAX => _ = tell_store(self.shard, &error),
                Err(error) => return Err(error),
            }
        }
        let stored = sealed.stored();
        let page = Page {
            bytes: stored.bytes,
            stored_bytes: stored.stored_bytes,
            sha256: unhex(&stored.sha256),
            stored_sha256: Some(unhex(&stored.stored_sha256)),
            ext: 0,
            mark: base.state.mark(),
        };
        let before = base.state.clone();
        let rows = seen.rows.unwrap_or(0);
        let mut so_far = base.with(page, landed.ext, rows, self.calls);
        let looked = landed.looked.clone().unwrap_or_default();
        let class = looked.verdict.map(|verdict| verdict.class);
        so_far.incomplete |= class == Some(Class::Incomplete);
        so_far.filled |= class != Some(Class::Empty);
        let is_last = turn == Turn::Last;
        if let Turn::Next(state) = turn {
            so_far.state = state;
        }
        let told = self.told(landed.status, looked.request_id);
        let told = Told { from: Some(landed.from.clone()), ..told };
        let key = stored.key.to_string();
        let note = Note { before, rows, is_last, ..self.note(&place, key, so_far, &told) };
        if !self.keep_note(read, &note).await {
            sealed.abort().await;
            return Ok(Self::overtaken());
        }
        // From here on the note knows more than this try: what fails now goes on from there.
        if earlier.is_there
            && let Err(error) = place.clear_manifest(landed.manifest_key).await
        {
            sealed.abort().await;
            return Ok(self.unsettled(&error, landed.status));
        }
        let stored = match self.telling(sealed, None, &landed.from).complete().await {
            Ok(stored) => stored,
            Err(error) => return Ok(self.unsettled(&error, landed.status)),
        };
        telemetry::page_stored(self.item, read.page(), stored.bytes);
        if !is_last {
            let read = Arc::new(Read::new(read.version(), note.so_far));
            return Ok(Outcome::More { read, bytes: stored.bytes, objects: 1 });
        }
        match place.complete(&note.so_far, &told).await {
            Ok(Some(done)) => {
                self.end(done).await;
                Ok(Outcome::Done { bytes: stored.bytes, objects: 1 })
            }
            Ok(None) => {
                let gone = SinkError::other(landed.manifest_key, "a list of its pages is gone");
                Ok(self.unsettled(&gone, landed.status))
            }
            Err(error) => Ok(self.unsettled(&error, landed.status)),
        }
    }

    pub(super) fn place(&self) -> Place<'_> {
        Place::new(self.shard, self.shard.plan(), (self.platform, self.api), self.item)
    }

    /// What is told of this call.
    pub(super) fn told(&self, status: u16, request_id: Option<String>) -> Told {
        let waited = self.shard.clock.wall_at(self.permit.decided_at());
        let waited = waited.duration_since(self.item.queued_at).as_millis();
        let request_id = request_id.map(|id| self.hide(id));
        let waited_ms = u64::try_from(waited).unwrap_or(0);
        Told { status, waited_ms, request_id, from: None }
    }

    /// A note of this read; of its last page nothing yet.
    pub(super) fn note(&self, place: &Place<'_>, key: String, so_far: SoFar, told: &Told) -> Note {
        let more = More {
            store: place.store(),
            request_id: told.request_id.clone(),
            filled: so_far.filled,
            used: so_far.used,
            is_split: false,
        };
        Note {
            queue: self.shard.queue.name().to_string(),
            key,
            so_far,
            calls: self.calls,
            status: told.status,
            waited_ms: told.waited_ms,
            more,
            ..Note::default()
        }
    }

    pub(super) async fn end(&self, done: Done) {
        let ending = Ending::Done { done: Box::new(done), once: self.item.fetch.once };
        self.finish(ending).await;
        if !self.permit.is_anothers() {
            drop_note(self.shard, self.item).await;
        }
    }

    /// The store failed after the note was kept: whether the page is there is looked up, and if it is, it is not called
    /// again.
    pub(super) fn unsettled(&self, error: &SinkError, status: u16) -> Outcome {
        let last = LastAnswer { status: Some(status), ..LastAnswer::default() };
        match self.unstored(error, last) {
            Outcome::Again { after, reason, last, .. } => {
                Outcome::Again { kind: Again::Unsettled, after, reason, last }
            }
            other => other,
        }
    }

    /// Replaces the note, as often as it takes; false if somebody else is as far with this read, or has ended it:
    /// then nothing of this one may be stored any more.
    pub(super) async fn keep_note(&self, read: &Read, note: &Note) -> bool {
        let is_first = read.version() == 0;
        if !self.try_keep_note(read, note).await {
            return false;
        }
        if is_first && !still_waits(self.shard, self.item).await {
            // Ended elsewhere while this node was cut off: no note was in the way, because it was dropped.
            drop_note(self.shard, self.item).await;
            return false;
        }
        true
    }

    async fn try_keep_note(&self, read: &Read, note: &Note) -> bool {
        let (lane, origin) = (&self.item.lane, self.item.origin);
        let bytes = note.encode();
        debug_assert!(bytes.len() <= NOTE_BYTES_MAX, "a note of {} bytes", bytes.len());
        let mut told = false;
        loop {
            let kept =
                self.shard.queue.keep_note(lane.clone(), origin, read.version(), bytes.clone());
            match kept.await {
                Ok(Some(version)) => {
                    read.noted(version);
                    return true;
                }
                // An earlier try of this page has left one, or a try whose answer was lost.
                Ok(None) => match self.shard.queue.note(lane.clone(), origin).await {
                    Ok(Some(there)) if there.bytes == bytes => {
                        read.noted(there.version);
                        return true;
                    }
                    Ok(Some(there)) => {
                        let theirs = Note::decode(&there.bytes).ok();
                        let theirs = theirs.filter(|theirs| theirs.queue == note.queue);
                        let how_far = |note: &Note| (note.so_far.restarts, note.so_far.page);
                        if theirs.is_some_and(|theirs| how_far(&theirs) >= how_far(note)) {
                            return false;
                        }
                        read.noted(there.version);
                        continue;
                    }
                    // One was there, and is no more: whoever ended the read has dropped it.
                    Ok(None) => return false,
                    Err(_) => {}
                },
                Err(error) => {
                    if !told {
                        told = true;
                        telemetry::queue_away(&lane.account, &error);
                    }
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Another node is further: this one goes on from there, or drops the fetch if that has ended it.
    pub(super) fn overtaken() -> Outcome {
        let reason = "another node has read further, or to the end".into();
        let last = LastAnswer::default();
        Outcome::Again { kind: Again::Unsettled, after: None, reason, last }
    }
}

fn ms(wall: Timestamp) -> u64 {
    u64::try_from(wall.as_millisecond()).unwrap_or(0)
}

/// A SHA-256 in hex as its bytes.
fn unhex(text: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (place, byte) in bytes.iter_mut().enumerate() {
        let digits = text.get(place * 2..place * 2 + 2).unwrap_or("00");
        *byte = u8::from_str_radix(digits, 16).unwrap_or(0);
    }
    bytes
}

/// Why a page is no good, as the outcome of its attempt.
pub(super) fn flawed(flaw: pages::Flaw, last: LastAnswer) -> Outcome {
    let pages::Flaw { code, reason, again } = flaw;
    if again {
        let last = LastAnswer { flaw: Some(code), ..last };
        return Outcome::Again { kind: Again::Transient, after: None, reason, last };
    }
    Outcome::Dead { code, reason, last }
}
