//! A good page of a read goes into the store: note first, then the object; after the last one the manifest.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use jiff::Timestamp;
use object_store::path::Path;
use tollgate_gate::Sent;
use tollgate_protos::{Done, Manifest, Object};

use super::attempt::{Attempt, finish_until_confirmed};
use super::landing::{codec_of, decode_of, object_key};
use super::peek::peek;
use super::{Again, Item, LastAnswer, Outcome};
use crate::answers::{Class, Looked};
use crate::codes::Code;
use crate::http::Answer;
use crate::observe;
use crate::pages::{
    self, Answered, LISTED_MAX, Note, Page, PageList, Pages, Read, Seen, Turn, Watch, list_key,
};
use crate::plan::{Api, Plan, Platform};
use crate::queue::{Ending, NOTE_BYTES_MAX};
use crate::recipe::{self, Refusal};
use crate::shard::context::Context;
use crate::store::{Sealed, SinkError};
use crate::telemetry;

/// Objects that a manifest and a `done` name one by one; the rest is in the lists beside them.
const NAMED_MAX: usize = 256;
/// Between two tries of a queue or a store that does not answer.
const AGAIN: Duration = Duration::from_millis(500);

/// How long the beginning of an answer is waited for that may say that a token has expired.
const PEEK_WITHIN: Duration = Duration::from_millis(500);
/// Tries of a manifest whose pages are all there, before the last page is called again.
const MANIFEST_TRIES: u32 = 120;

/// A page whose body is whole, and what is known of it.
pub(super) struct Landed<'a> {
    pub(super) status: u16,
    pub(super) ext: &'a str,
    pub(super) manifest_key: &'a Path,
    /// What rules about answers say of it.
    pub(super) looked: Option<Looked>,
}

/// What has been stored of a read, and what is to be told of it.
struct Told {
    status: u16,
    waited_ms: u64,
    request_id: Option<String>,
}

/// What was found of a read that is not in memory.
pub(crate) enum Resumed {
    /// Nothing.
    New,
    /// It goes on here.
    Read(Arc<Read>),
    /// All of it is there, and now its manifest too.
    Done(Box<Done>),
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
        Some(self.restart(pages, read, Some(answer.status), self.calls))
    }

    /// The page's tokens are too old by declaration: the read that begins anew, if it may.
    pub(super) fn too_old(&self) -> Option<Result<Arc<Read>, Outcome>> {
        let (pages, read) = (self.api.pages.as_ref()?, self.read.as_ref()?);
        let ttl = pages.token_ttl.filter(|_| read.page() > 1)?;
        let now_ms = ms(self.shard.clock.wall());
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        if now_ms < read.so_far.started_ms.saturating_add(ttl_ms) {
            return None;
        }
        Some(match self.restart(pages, read, None, 0) {
            Outcome::More { read, .. } => Ok(read),
            other => Err(other),
        })
    }

    fn restart(&self, pages: &Pages, read: &Read, status: Option<u16>, calls: u32) -> Outcome {
        let so_far = read.so_far.restart(pages, calls);
        if so_far.restarts > pages.restarts {
            return Outcome::Dead {
                code: Code::PageTokensExpire,
                reason: format!(
                    "the read was begun anew {} times because its page tokens had expired",
                    pages.restarts
                ),
                last: LastAnswer { status, ..LastAnswer::default() },
            };
        }
        telemetry::read_restarted(self.item, read.page(), so_far.restarts);
        let read = Arc::new(Read::new(read.version(), so_far));
        Outcome::More { read, bytes: 0, objects: 0 }
    }

    /// What follows this page, and what its body said. Nothing if it is the whole read: then it is stored like
    /// any other answer.
    pub(super) fn turn(
        &self,
        pages: &Pages,
        read: &Read,
        sealed: &mut Sealed,
        headers: &HeaderMap,
    ) -> Result<Option<(Turn, Seen)>, pages::Flaw> {
        let tap = sealed.take_tap().and_then(|tap| tap.into_any().downcast::<Watch>().ok());
        let seen = tap.map(|watch| watch.finish()).unwrap_or_default();
        let url = self.asked.borrow();
        let url = url.as_ref().unwrap_or(&self.platform.base_url);
        let sha256 = unhex(&sealed.stored().sha256);
        let answered = Answered { headers, seen: &seen, url, sha256 };
        let mut turn = pages::turn(self.platform, pages, &read.so_far, answered)?;
        if let (Turn::Next(state), Some(auth)) = (&mut turn, &self.api.auth)
            && let Some(url) = &mut state.url
        {
            let redactor = self.redactor();
            let is_secret = |value: &str| matches!(redactor.clean(value), Cow::Owned(_));
            *url = pages::without_pairs(url, &auth.query_names(), is_secret);
        }
        let whole = turn == Turn::Last && read.is_new();
        Ok((!whole).then_some((turn, seen)))
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
        let place = Place::of(self.shard, self.platform, self.api, self.item);
        let mut base = read.so_far.clone();
        if base.page == 1 {
            base.highest = base.highest.max(self.clear_manifest(landed.manifest_key).await?);
            base.started_ms = ms(self.shard.clock.wall());
        }
        if base.tail.len() >= LISTED_MAX {
            place.list(&base, landed.manifest_key).await?;
            base.listed += base.tail.len() as u32;
            base.tail.clear();
        }
        let waited = self.shard.clock.wall_at(self.permit.decided_at());
        let waited = waited.duration_since(self.item.queued_at).as_millis();
        let stored = sealed.stored();
        let page = Page {
            bytes: stored.bytes,
            stored_bytes: stored.stored_bytes,
            sha256: unhex(&stored.sha256),
            ext: 0,
            mark: base.state.mark(),
        };
        let before = base.state.clone();
        let rows = seen.rows.unwrap_or(0);
        let mut so_far = base.with(page, landed.ext, rows, self.calls);
        let looked = landed.looked.clone().unwrap_or_default();
        let class = looked.verdict.map(|verdict| verdict.class);
        so_far.incomplete |= class == Some(Class::Incomplete);
        let is_last = turn == Turn::Last;
        if let Turn::Next(state) = turn {
            so_far.state = state;
        }
        let told = Told {
            status: landed.status,
            waited_ms: u64::try_from(waited).unwrap_or(0),
            request_id: looked.request_id,
        };
        let note = Note {
            queue: self.shard.queue.name().to_string(),
            key: stored.key.to_string(),
            so_far,
            before,
            rows,
            calls: self.calls,
            is_last,
            status: told.status,
            waited_ms: told.waited_ms,
        };
        if !self.keep_note(read, &note).await {
            sealed.abort().await;
            return Ok(self.overtaken().await);
        }
        let stored = sealed.complete().await?;
        telemetry::page_stored(self.item, read.page(), stored.bytes);
        if !is_last {
            let read = Arc::new(Read::new(read.version(), note.so_far));
            return Ok(Outcome::More { read, bytes: stored.bytes, objects: 1 });
        }
        let mut tries = 1;
        let done = loop {
            match place.complete(&note.so_far, &told).await {
                Ok(done) => break done,
                Err(error) if tries >= MANIFEST_TRIES => return Err(error),
                // Called again it would bring what is there already.
                Err(error) => self.shard.store_failed(&error.to_string()),
            }
            tries += 1;
            tokio::time::sleep(AGAIN).await;
        };
        self.end(done).await;
        Ok(Outcome::Done { bytes: stored.bytes, objects: 1 })
    }

    async fn end(&self, done: Done) {
        let ending = Ending::Done { done: Box::new(done), once: self.item.fetch.once };
        finish_until_confirmed(self.shard, self.meters, self.item, ending).await;
        drop_note(self.shard, self.item).await;
    }

    /// Before the first of several pages becomes visible: a manifest of an earlier collection would speak of pages
    /// of both. Gives how many pages it named.
    async fn clear_manifest(&self, key: &Path) -> Result<u32, SinkError> {
        let Some(bytes) = self.shard.store.get(key).await? else { return Ok(0) };
        let pages = serde_json::from_slice::<Manifest>(&bytes).map_or(0, |known| known.done.pages);
        self.shard.store.delete(key).await?;
        Ok(pages)
    }

    /// Replaces the note, as often as it takes; false if somebody else is further with this read.
    async fn keep_note(&self, read: &Read, note: &Note) -> bool {
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
                        if theirs.is_some_and(|theirs| how_far(&theirs) > how_far(note)) {
                            return false;
                        }
                        read.noted(there.version);
                        continue;
                    }
                    Ok(None) => {
                        read.noted(0);
                        continue;
                    }
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

    /// Another node is further: this one goes on from there.
    async fn overtaken(&self) -> Outcome {
        match resume(self.shard, self.item).await {
            Resumed::New => Outcome::Again {
                kind: Again::Late,
                after: None,
                reason: "another node has read further, and its note is gone".into(),
                last: LastAnswer::default(),
            },
            Resumed::Read(read) => Outcome::More { read, bytes: 0, objects: 0 },
            Resumed::Done(done) => {
                self.end(*done).await;
                Outcome::Done { bytes: 0, objects: 0 }
            }
        }
    }
}

/// Forgets the note of a fetch that has ended. One that stays is of no harm: no other fetch has its number.
pub(crate) async fn drop_note(shard: &Context, item: &Item) {
    let dropped = shard.queue.drop_note(item.lane.clone(), item.origin).await;
    if let Err(error) = dropped {
        telemetry::queue_away(&item.lane.account, &error);
    }
}

/// Finds out how far the read of a fetch has come, from its note and its objects, as often as it takes.
pub(crate) async fn resume(shard: &Rc<Context>, item: &Item) -> Resumed {
    let plan = shard.plan();
    let Some(platform) = plan.platforms.get(&item.lane.account.platform) else {
        return Resumed::New;
    };
    let Some((_, api)) = platform.api(item.lane.api.as_str()) else { return Resumed::New };
    let Some(pages) = &api.pages else { return Resumed::New };
    let place = Place { shard, plan: Arc::clone(&plan), platform, api, item };
    loop {
        match place.resume(pages).await {
            Ok(resumed) => return resumed,
            Err(error) => shard.store_failed(&error.to_string()),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Where the objects of a fetch are.
struct Place<'a> {
    shard: &'a Context,
    plan: Arc<Plan>,
    platform: &'a Platform,
    api: &'a Api,
    item: &'a Item,
}

impl<'a> Place<'a> {
    fn of(shard: &'a Context, platform: &'a Platform, api: &'a Api, item: &'a Item) -> Self {
        Self { shard, plan: shard.plan(), platform, api, item }
    }

    fn key(&self, page: u32, ext: &str) -> Result<Path, Refusal> {
        object_key(&self.plan, self.platform, self.api, self.item, page, ext)
    }

    async fn resume(&self, pages: &Pages) -> Result<Resumed, SinkError> {
        let noted = loop {
            match self.shard.queue.note(self.item.lane.clone(), self.item.origin).await {
                Ok(noted) => break noted,
                Err(error) => telemetry::queue_away(&self.item.lane.account, &error),
            }
            tokio::time::sleep(AGAIN).await;
        };
        let Some(noted) = noted else { return Ok(Resumed::New) };
        let anew = || Resumed::Read(Arc::new(Read::new(noted.version, Read::first(pages).so_far)));
        let note = match Note::decode(&noted.bytes) {
            Ok(note) if *note.queue == *self.shard.queue.name() => note,
            Ok(_) => return Ok(anew()),
            Err(error) => {
                telemetry::note_unreadable(self.item, &error.to_string());
                return Ok(anew());
            }
        };
        let page = note.so_far.page.saturating_sub(1);
        let Some(last) = note.so_far.tail.last() else { return Ok(anew()) };
        let ext = note.so_far.exts.get(usize::from(last.ext)).map_or("", String::as_str);
        let key = match self.key(page, ext) {
            Ok(key) if key.as_ref() == note.key => key,
            // Objects go elsewhere by now: what is stored is no beginning of theirs.
            _ => return Ok(anew()),
        };
        let codec = codec_of(&key);
        let holds = self.shard.store.holds(&key, codec, last.stored_bytes, &last.sha256).await?;
        telemetry::read_resumed(self.item, if holds { page + 1 } else { page });
        if !holds {
            return Ok(Resumed::Read(Arc::new(Read::new(noted.version, note.undone()))));
        }
        // One that was begun in another way is begun anew by its next attempt.
        if !note.is_last || note.so_far.how != pages.how {
            return Ok(Resumed::Read(Arc::new(Read::new(noted.version, note.so_far))));
        }
        let told = Told { status: note.status, waited_ms: note.waited_ms, request_id: None };
        Ok(Resumed::Done(Box::new(self.complete(&note.so_far, &told).await?)))
    }

    fn objects(&self, so_far: &pages::SoFar) -> Result<Vec<Object>, SinkError> {
        let first = so_far.listed + 1;
        let object = |(place, page): (usize, &Page)| {
            let ext = so_far.exts.get(usize::from(page.ext)).map_or("", String::as_str);
            let key = self.key(first + place as u32, ext);
            let key = key.map_err(|refusal| SinkError::other(&Path::default(), refusal))?;
            Ok(Object {
                key: key.to_string(),
                bytes: page.bytes,
                sha256: hex(&page.sha256),
                stored_bytes: page.stored_bytes,
            })
        };
        so_far.tail.iter().enumerate().map(object).collect()
    }

    /// Writes the list of the pages of the tail.
    async fn list(&self, so_far: &pages::SoFar, manifest: &Path) -> Result<(), SinkError> {
        let list = PageList {
            version: 1,
            seq: self.item.origin.0,
            restarts: so_far.restarts,
            first: so_far.listed + 1,
            objects: self.objects(so_far)?,
        };
        let number = so_far.listed / LISTED_MAX as u32 + 1;
        self.shard.store.put_small(&list_key(manifest, number), json(&list)).await
    }

    /// Writes the manifest of a read all of whose pages are there.
    async fn complete(&self, so_far: &pages::SoFar, told: &Told) -> Result<Done, SinkError> {
        let first = self.key(1, "x");
        let first = first.map_err(|refusal| SinkError::other(&Path::default(), refusal))?;
        let manifest_key = recipe::manifest_key(&first);
        let pages = so_far.page.saturating_sub(1);
        let (objects, lists) = if so_far.listed == 0 {
            (self.objects(so_far)?, 0)
        } else {
            self.list(so_far, &manifest_key).await?;
            let lists = pages.div_ceil(LISTED_MAX as u32);
            (self.first_listed(so_far, &manifest_key, lists).await?, lists)
        };
        self.remove_beyond(so_far, &manifest_key, lists).await?;
        let done = Done {
            id: self.item.id.clone(),
            seq: self.item.origin.0,
            objects,
            http_status: told.status,
            attempts: so_far.calls,
            pages,
            waited_ms: told.waited_ms,
            fetched_at: self.shard.clock.wall(),
            labels: self.item.fetch.labels.clone(),
            incomplete: so_far.incomplete,
            request_id: told.request_id.clone(),
            manifest: (lists > 0).then(|| manifest_key.to_string()),
            lists,
            ..Done::default()
        };
        let manifest = super::landing::manifest(self.shard, self.item, &done);
        self.shard.store.put_small(&manifest_key, manifest).await?;
        Ok(done)
    }

    /// The first pages of a long read, as their lists have them.
    async fn first_listed(
        &self,
        so_far: &pages::SoFar,
        manifest: &Path,
        lists: u32,
    ) -> Result<Vec<Object>, SinkError> {
        let mut objects = Vec::with_capacity(NAMED_MAX);
        for number in 1..=lists {
            let key = list_key(manifest, number);
            let bytes = self.shard.store.get(&key).await?;
            let list = bytes.and_then(|bytes| serde_json::from_slice::<PageList>(&bytes).ok());
            let ours = |list: &PageList| {
                list.seq == self.item.origin.0 && list.restarts == so_far.restarts
            };
            let Some(list) = list.filter(ours) else {
                return Err(SinkError::other(&key, "the list of pages is not as it was written"));
            };
            objects.extend(list.objects);
            if objects.len() >= NAMED_MAX {
                break;
            }
        }
        objects.truncate(NAMED_MAX);
        Ok(objects)
    }

    /// Removes what a longer read before has left behind these pages.
    async fn remove_beyond(
        &self,
        so_far: &pages::SoFar,
        manifest: &Path,
        lists: u32,
    ) -> Result<(), SinkError> {
        let pages = so_far.page.saturating_sub(1);
        for page in pages + 1..=so_far.highest.min(recipe::PAGE_MAX) {
            for ext in &so_far.exts {
                if let Ok(key) = self.key(page, ext) {
                    self.shard.store.delete(&key).await?;
                }
            }
        }
        for number in lists + 1..=so_far.highest.div_ceil(LISTED_MAX as u32) {
            self.shard.store.delete(&list_key(manifest, number)).await?;
        }
        Ok(())
    }
}

fn json(value: &impl serde::Serialize) -> Bytes {
    let mut text = serde_json::to_vec(value).expect("its values are plain JSON");
    text.push(b'\n');
    text.into()
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

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes all");
        text
    })
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
