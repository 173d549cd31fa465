//! Too much was asked for: two fetches that ask for less take the place of one, and of the pages it has stored.
//!
//! They are stored in its lane first, under ids that follow from its own and from its number; then what it has stored
//! is removed, then its manifest names them, and only then it is done. After a crash anywhere between it is split
//! once more, into the same two, which the queue knows by their ids. Where pages were stored before, its note says
//! so first: they are removed even if it is never called again.

use bytes::Bytes;
use tokio::time::sleep;
use tollgate_protos::{Done, Fetch};

use super::attempt::{Attempt, FINISH_AGAIN, finish_until_confirmed};
use super::landing::manifest;
use super::place::{Place, Told, tell_store};
use super::provenance::provenance;
use super::{Item, LastAnswer, Outcome};
use crate::codes::Code;
use crate::pages::{More, Note, SoFar};
use crate::plan::{Api, Platform};
use crate::queue::{Appended, Ending, NewFetch};
use crate::shard::context::Context;
use crate::store::{SinkError, Unwrap};
use crate::telemetry;

impl Attempt<'_> {
    pub(super) async fn split(&self, status: u16, reason: String, last: LastAnswer) -> Outcome {
        let place = self.place();
        if let Err(why) = parts(&place) {
            return unsplit(&reason, &why, last);
        }
        let told = self.told(status, last.request_id.clone());
        let read = self.read.as_ref().filter(|read| !read.is_new());
        let so_far = read.map(|read| read.so_far.clone()).unwrap_or_default();
        if let Some(read) = read {
            let key = match place.manifest_key() {
                Ok(key) => key.to_string(),
                Err(error) => return self.unstored(&error, last),
            };
            let note = self.note(&place, key, so_far.clone(), &told);
            let (before, more) = (so_far.state.clone(), More { is_split: true, ..note.more });
            if !self.keep_note(read, &Note { before, more, ..note }).await {
                return Self::overtaken();
            }
        }
        match take_the_place(&place, &so_far, &told, (self.calls, &reason)).await {
            Ok(Ok(done)) if self.api.pages.is_some() => self.end(done).await,
            Ok(Ok(done)) => {
                let ending = Ending::Done { done: Box::new(done), once: self.item.fetch.once };
                finish_until_confirmed(self.shard, self.meters, self.item, ending).await;
            }
            Ok(Err(why)) => return unsplit(&reason, &why, last),
            Err(error) if read.is_some() => return self.unsettled(&error, status),
            Err(error) => return self.unstored(&error, last),
        }
        Outcome::Done { bytes: 0, objects: 0 }
    }
}

/// The same for a fetch that no limit ever lets be called: how it is done then, or why it cannot be split. Tried as
/// often as it takes.
pub(crate) async fn split_uncalled(
    shard: &Context,
    of: (&Platform, &Api),
    item: &Item,
    (calls, why): (u32, &str),
) -> Result<Done, String> {
    let place = Place::new(shard, shard.plan(), of, item);
    let waited = shard.clock.wall().duration_since(item.queued_at).as_millis();
    let told = Told { waited_ms: u64::try_from(waited).unwrap_or(0), ..Told::default() };
    loop {
        match take_the_place(&place, &SoFar::default(), &told, (calls, why)).await {
            Ok(split) => return split,
            Err(error) => _ = tell_store(shard, &error),
        }
        sleep(FINISH_AGAIN).await;
    }
}

fn unsplit(reason: &str, why: &str, last: LastAnswer) -> Outcome {
    let reason = format!("{reason}; it cannot be split: {why}");
    Outcome::Dead { code: Code::TooMuch, reason, last }
}

/// The fetches that take the place of one.
fn parts(place: &Place<'_>) -> Result<Vec<Fetch>, String> {
    let Place { api, item, .. } = place;
    let split = api.answers.split.as_ref().ok_or("the api has no `split`")?;
    split.parts(&item.fetch, (&item.id, item.origin), &api.params.defaults)
}

/// Lets parts take the place of a fetch: what is done then, or why it cannot be split. May be repeated.
pub(super) async fn take_the_place(
    place: &Place<'_>,
    so_far: &SoFar,
    told: &Told,
    (calls, why): (u32, &str),
) -> Result<Result<Done, String>, SinkError> {
    let parts = match parts(place) {
        Ok(parts) => parts,
        Err(why) => return Ok(Err(why)),
    };
    let manifest_key = place.manifest_key()?;
    let Some(_entered) = place.shard.folders.enter(&manifest_key).await else {
        let reason = "another fetch has been storing there for a minute";
        return Err(SinkError::other(&manifest_key, reason));
    };
    // What another has stored is not its own to remove.
    if let Some(another) = place.claim(&manifest_key).await? {
        return Ok(Err(another.why(&manifest_key)));
    }
    let mut so_far = so_far.clone();
    place.earlier(&manifest_key).await?.known_to(&mut so_far);
    let ids: Vec<String> = parts.iter().filter_map(|part| part.id.clone()).collect();
    append(place, &parts, &ids).await;
    so_far.highest = so_far.highest.max(so_far.page.saturating_sub(1));
    place.remove_others((0, 0), &so_far, &manifest_key).await?;
    if matches!(place.api.answers.decoding.unwrap, Unwrap::Members(_)) {
        // Files of an archive that came before the one that was too much.
        let left = place.members_left(&manifest_key).await?;
        place.remove_each(left.into_iter()).await?;
    }
    let attempts = so_far.calls + calls;
    let done = Done { attempts, split_into: ids, ..place.done(told) };
    let from = told.from.clone().unwrap_or_else(|| provenance(place.shard, place.item));
    let text = manifest(place.shard, place.item, &done, from);
    place.shard.store.put_small(&manifest_key, text).await?;
    telemetry::fetch_split(place.item, &done.split_into, why);
    Ok(Ok(done))
}

/// Stores the parts, as often as it takes.
async fn append(place: &Place<'_>, parts: &[Fetch], ids: &[String]) {
    let fetches = parts.iter().zip(ids).map(|(part, id)| NewFetch {
        lane: place.item.lane.clone(),
        id: id.clone(),
        payload: Bytes::from(serde_json::to_vec(part).expect("a fetch is plain JSON")),
        not_before: None,
    });
    let fetches: Vec<NewFetch> = fetches.collect();
    let totals = &place.shard.totals;
    let count = fetches.len() as u64;
    // Counted before they are stored: one may be done before the answer is here.
    totals.come(count);
    let mut told = false;
    let appended = loop {
        match place.shard.queue.append(fetches.clone()).await {
            Ok(appended) => break appended,
            Err(error) if !told => {
                told = true;
                telemetry::queue_away(&place.item.lane.account, &error);
            }
            Err(_) => {}
        }
        sleep(FINISH_AGAIN).await;
    };
    let is_new = |one: &&Appended| matches!(one, Appended::New(_));
    totals.never_came(count - appended.iter().filter(is_new).count() as u64);
}
