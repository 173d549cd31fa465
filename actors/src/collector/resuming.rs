//! How far the read of a fetch has come that is not in memory: told by its note and the objects in the store.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tollgate_protos::Done;

use super::place::{Place, Told, tell_store};
use super::{Item, splitting};
use crate::ids::Seq;
use crate::ledger::record::Tries;
use crate::pages::{Note, Pages, Read, SoFar};
use crate::queue::{NOTE_BYTES_MAX, QueueError};
use crate::shard::context::Context;
use crate::store::{Codec, SinkError};
use crate::telemetry;

/// Between two tries of a queue or a store that does not answer.
pub(super) const AGAIN: Duration = Duration::from_millis(500);
/// Tries to drop the note of a fetch that has ended.
const DROPS_MAX: u32 = 20;
/// How long a store is asked that does not give or take what a read needs. Its lane waits meanwhile.
const ASKED_FOR: Duration = Duration::from_secs(10);
/// How long such a fetch is put aside then.
const ASIDE: Duration = Duration::from_secs(60);

/// What was found of a read that is not in memory.
pub(crate) enum Resumed {
    /// Nothing.
    New,
    /// It goes on here. `again`: the page to call was called before, and its object is not there. `tries`: those of
    /// before it was put aside.
    Read { read: Arc<Read>, again: bool, tries: Tries },
    /// All of it is there, and now its manifest too.
    Done(Box<Done>),
    /// The store has not given or taken what is needed, for a while; why.
    Aside(String),
}

/// Finds out how far the read of a fetch has come, from its note and its objects, and writes what is left to write if
/// all pages are there.
pub(crate) async fn resume(shard: &Rc<Context>, item: &Item) -> Resumed {
    let plan = shard.plan();
    let Some(platform) = plan.platforms.get(&item.lane.account.platform) else {
        return Resumed::New;
    };
    let Some((_, api)) = platform.api(item.lane.api.as_str()) else { return Resumed::New };
    let Some(pages) = &api.pages else { return Resumed::New };
    let place = Place::new(shard, Arc::clone(&plan), (platform, api), item);
    let begun = Instant::now();
    loop {
        match place.resume(pages).await {
            Ok(resumed) => return resumed,
            Err(error) => {
                let reason = tell_store(shard, &error);
                if begun.elapsed() >= ASKED_FOR {
                    return Resumed::Aside(reason);
                }
            }
        }
        sleep(AGAIN).await;
    }
}

/// Puts a fetch aside whose read cannot go on for now, so that its lane does; as often as it takes. Its note keeps how
/// often its page was tried.
pub(crate) async fn put_aside(shard: &Context, item: &Item, tries: Tries, reason: &str) {
    telemetry::read_put_aside(item, ASIDE, reason);
    while let Err(error) = try_put_aside(shard, item, tries).await {
        telemetry::queue_away(&item.lane.account, &error);
        sleep(AGAIN).await;
    }
}

async fn try_put_aside(shard: &Context, item: &Item, tries: Tries) -> Result<(), QueueError> {
    if let Some(noted) = shard.queue.note(item.lane.clone(), item.origin).await?
        && let Ok(note) = Note::decode(&noted.bytes)
        && *note.queue == *shard.queue.name()
    {
        let bytes = Note { tries: note.tries.or_more(tries), ..note }.encode();
        if bytes != noted.bytes && bytes.len() <= NOTE_BYTES_MAX {
            // One that another node has replaced meanwhile is newer than these tries.
            let kept = shard.queue.keep_note(item.lane.clone(), item.origin, noted.version, bytes);
            kept.await?;
        }
    }
    // From now on: what was far enough ahead when the queue did not answer may be over.
    let until = shard.clock.wall().checked_add(ASIDE).unwrap_or(jiff::Timestamp::MAX);
    shard.queue.postpone(item.lane.clone(), item.seq, until).await
}

/// Whether a fetch is where it was read; asked as often as it takes. Else another node has ended it, or put it aside.
pub(crate) async fn still_waits(shard: &Context, item: &Item) -> bool {
    let before = item.seq.0.checked_sub(1).map(Seq);
    loop {
        match shard.queue.first(item.lane.clone(), before, 1).await {
            Ok(rows) => return rows.first().is_some_and(|row| row.seq == item.seq),
            Err(error) => telemetry::queue_away(&item.lane.account, &error),
        }
        sleep(AGAIN).await;
    }
}

/// Forgets the note of a fetch that has ended. After the fetch itself: the other way round a death between the two
/// would have it read anew. One that stays because the queue is away for long, or this node dies, is of no harm: no
/// other fetch has its number, and the queue removes it later where that is shared, or it goes by its age.
pub(crate) async fn drop_note(shard: &Context, item: &Item) {
    for _ in 0..DROPS_MAX {
        match shard.queue.drop_note(item.lane.clone(), item.origin).await {
            Ok(()) => return,
            Err(error) => telemetry::queue_away(&item.lane.account, &error),
        }
        sleep(AGAIN).await;
    }
}

impl Place<'_> {
    async fn resume(&self, pages: &Pages) -> Result<Resumed, SinkError> {
        let item = self.item;
        let noted = loop {
            match self.shard.queue.note(item.lane.clone(), item.origin).await {
                Ok(noted) => break noted,
                Err(error) => telemetry::queue_away(&item.lane.account, &error),
            }
            sleep(AGAIN).await;
        };
        let Some(noted) = noted else { return Ok(Resumed::New) };
        let on = |so_far: SoFar, again: bool, tries: Tries| {
            let read = Arc::new(Read::new(noted.version, so_far));
            Ok(Resumed::Read { read, again, tries })
        };
        let note = match Note::decode(&noted.bytes) {
            Ok(note) if *note.queue == *self.shard.queue.name() => note,
            // Of another queue, whose numbers may be the same.
            Ok(_) => return on(Read::first(pages).so_far, false, Tries::default()),
            Err(error) => {
                telemetry::note_unreadable(item, &error.to_string());
                return on(Read::first(pages).so_far, false, Tries::default());
            }
        };
        let tries = note.tries;
        let on = |so_far: SoFar, again: bool| on(so_far, again, tries);
        let page = note.so_far.page.saturating_sub(1);
        if note.more.store != 0 && note.more.store != self.store() {
            return on(self.anew_elsewhere(pages, &note, "the store is another one by now"), false);
        }
        let manifest_key = self.manifest_key()?;
        let moved = "objects have other keys by now";
        if note.more.is_split {
            if note.key != manifest_key.as_ref() {
                return on(self.anew_elsewhere(pages, &note, moved), false);
            }
            let told = told(&note);
            let split = (note.calls, "it was split before, which was not written to its end");
            return match splitting::take_the_place(self, &note.so_far, &told, split).await? {
                Ok(done) => Ok(Resumed::Done(Box::new(done))),
                // It cannot be split any more: its last page is judged once more.
                Err(_) => on(note.so_far, true),
            };
        }
        let Some(last) = note.so_far.tail.last() else {
            return on(Read::first(pages).so_far, false);
        };
        let ext = note.so_far.exts.get(usize::from(last.ext)).map_or("", String::as_str);
        let key = match self.key(page, ext) {
            Ok(key) if key.as_ref() == note.key => key,
            // What is stored is no beginning of theirs.
            _ => return on(self.anew_elsewhere(pages, &note, moved), false),
        };
        let codec = Codec::of_key(&key);
        let holds = self.shard.store.holds(&key, codec, last.stored_bytes, &last.sha256).await?;
        if !holds {
            if !self.earlier_hold(&note.so_far).await? {
                let gone = "pages that were stored are not in the store any more";
                return on(self.anew(pages, &note, gone), false);
            }
            telemetry::read_resumed(item, page);
            return on(note.undone(), true);
        }
        if page > 1 && self.is_anothers(&manifest_key).await? {
            let other = "another fetch has stored objects under these keys since";
            return on(self.anew(pages, &note, other), false);
        }
        if page == 1 && !note.is_last && self.earlier(&manifest_key).await?.is_there {
            // It died between the note and this.
            self.clear_manifest(&manifest_key).await?;
        }
        // One that was begun in another way is begun anew by its next attempt.
        if !note.is_last || note.so_far.how != pages.how {
            telemetry::read_resumed(item, page + 1);
            return on(note.so_far, false);
        }
        if !self.earlier_hold(&note.so_far).await? {
            let gone = "pages that were stored are not in the store any more";
            return on(self.anew(pages, &note, gone), false);
        }
        match self.complete(&note.so_far, &told(&note)).await? {
            Some(done) => Ok(Resumed::Done(Box::new(done))),
            None => on(self.anew(pages, &note, "a list of stored pages is gone"), false),
        }
    }

    /// The read begun anew because what it has stored is gone. Counted: a store that keeps nothing would cost calls
    /// for ever.
    fn anew(&self, pages: &Pages, note: &Note, why: &str) -> SoFar {
        let so_far = note.so_far.restart(pages, 0);
        telemetry::read_restarted(self.item, note.so_far.page, so_far.restarts, why);
        so_far
    }

    /// The read begun anew in another place, where nothing of it is stored.
    fn anew_elsewhere(&self, pages: &Pages, note: &Note, why: &str) -> SoFar {
        let restarts = note.so_far.restarts;
        telemetry::read_restarted(self.item, note.so_far.page, restarts, why);
        let so_far = note.so_far.restart(pages, 0);
        SoFar { restarts, highest: 0, exts: Vec::new(), ..so_far }
    }
}

fn told(note: &Note) -> Told {
    Told {
        status: note.status,
        waited_ms: note.waited_ms,
        request_id: note.more.request_id.clone(),
        from: None,
    }
}
