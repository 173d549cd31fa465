//! What was collected for a table and is not staged yet, as far as a node has heard of it.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use object_store::path::Path;
use tokio::time::Instant;
use tollgate_actors::plan::StagePlan;
use tollgate_protos::Done;

use super::stager::{Look, folder_of};
use super::tasks::packed;

/// Folders that are remembered of one table; with more of them all of it is looked at.
const FOLDERS_MAX: usize = 100_000;
/// What was heard without saying where it lies, or could not be staged, has all of a table looked at so often.
pub(super) const ALL_EVERY: Duration = Duration::from_secs(60 * 60);

/// What waits to be staged of one table.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    folders: BTreeSet<String>,
    /// Of files that it will be, about.
    bytes: u64,
    /// When the first of it was heard of.
    since: Option<Instant>,
    /// When that was stored.
    oldest: Option<Timestamp>,
    /// When the oldest was that could not be staged; with all that is looked at it is tried again.
    stuck: Option<Timestamp>,
    /// All is to be looked at, now.
    all: bool,
    /// All is to be looked at, some time.
    blind: bool,
    looked: Option<Instant>,
}

/// What a look is to cover.
#[derive(Debug, Clone)]
pub(super) struct Due {
    pub(super) look: Look,
    pub(super) oldest: Option<Timestamp>,
}

impl Waiting {
    /// Hears of a fetch; most are other tables'.
    pub(super) fn hear(&mut self, done: &Done, from: &Path) {
        let key = done.manifest.as_ref().or(done.objects.first().map(|object| &object.key));
        let Some(key) = key else {
            // Nothing was stored, and what a fetch of before had stored there may be gone.
            self.blind = true;
            return;
        };
        let rest = key.strip_prefix(from.as_ref());
        if !rest.is_some_and(|rest| rest.starts_with('/')) {
            return;
        }
        self.since.get_or_insert_with(Instant::now);
        self.oldest = first(self.oldest, Some(done.fetched_at));
        let objects = done.objects.iter();
        self.bytes += objects.map(|object| packed(&object.key, object.stored_bytes)).sum::<u64>();
        if self.all {
            return;
        }
        self.folders.insert(folder_of(key).to_owned());
        if self.folders.len() > FOLDERS_MAX {
            self.see_all();
        }
    }

    /// All is to be looked at: something was not heard.
    pub(super) fn see_all(&mut self) {
        self.all = true;
        self.folders.clear();
    }

    /// Some of what a look covered could not be staged, `oldest` or what came after: all is looked at once more, in a while.
    pub(super) fn see_all_again(&mut self, oldest: Option<Timestamp>) {
        self.blind = true;
        self.stuck = first(self.stuck, oldest);
    }

    /// What a look has not covered after all waits again.
    pub(super) fn put_back(&mut self, due: Due, since: Instant) {
        self.since = Some(since);
        self.oldest = first(self.oldest, due.oldest);
        match due.look {
            Look::All => self.see_all(),
            Look::Folders(folders) if !self.all => self.folders.extend(folders),
            Look::Folders(_) => {}
        }
    }

    /// Forgets everything: another node looks after it.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// What there is to look at now; `last`: nothing is waited for any more.
    pub(super) fn due(&mut self, stage: &StagePlan, last: bool) -> Option<Due> {
        let looked = self.looked.is_some_and(|at| at.elapsed() < ALL_EVERY);
        if self.blind && (last || !looked) {
            self.see_all();
        }
        let follow = stage.follow.unwrap_or_default();
        let waited = self.since.is_some_and(|since| last || since.elapsed() >= follow);
        if !self.all && !waited && self.bytes < stage.file_bytes {
            return None;
        }
        let folders = std::mem::take(&mut self.folders);
        let look = if std::mem::take(&mut self.all) {
            self.looked = Some(Instant::now());
            self.blind = false;
            self.oldest = first(self.oldest, self.stuck.take());
            Look::All
        } else {
            Look::Folders(folders)
        };
        (self.bytes, self.since) = (0, None);
        Some(Due { look, oldest: self.oldest.take() })
    }

    /// How old the oldest is that waits, or could not be staged.
    pub(super) fn lag(&self, now: Timestamp) -> Duration {
        let age = first(self.oldest, self.stuck).map(|oldest| now.duration_since(oldest));
        age.and_then(|age| Duration::try_from(age).ok()).unwrap_or_default()
    }
}

fn first(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    [one, other].into_iter().flatten().min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(key: Option<&str>, bytes: u64) -> Done {
        let objects = key.map(|key| {
            serde_json::json!({ "key": key, "bytes": bytes, "sha256": "", "stored_bytes": bytes })
        });
        let text = serde_json::json!({
            "id": "i", "seq": 1, "objects": objects.into_iter().collect::<Vec<_>>(), "http_status": 200,
            "attempts": 1, "pages": 1, "waited_ms": 0, "fetched_at": "2026-11-20T00:00:00Z",
        });
        serde_json::from_value(text).unwrap()
    }

    fn folders(due: Option<Due>) -> Vec<String> {
        match due.unwrap().look {
            Look::Folders(folders) => folders.into_iter().collect(),
            Look::All => vec!["all".to_owned()],
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_heard_is_due_after_a_while_or_once_it_fills_a_file() {
        let stage = super::super::tests::plan();
        let stage = StagePlan { follow: Some(Duration::from_secs(60)), ..stage };
        let from = Path::from("raw");
        let mut waiting = Waiting::default();
        assert!(waiting.due(&stage, true).is_none());
        for key in ["raw/a/1.json", "raw/a/2.json", "raw/b/1.json", "rawer/c/1.json", "x/1.json"] {
            waiting.hear(&done(Some(key), 80), &from);
        }
        assert!(waiting.due(&stage, false).is_none());
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(folders(waiting.due(&stage, false)), ["raw/a", "raw/b"]);
        assert!(waiting.due(&stage, true).is_none());
        // 8 MiB of JSON are a file of 1 MiB, about.
        waiting.hear(&done(Some("raw/c/1.json"), 8 << 20), &from);
        assert_eq!(folders(waiting.due(&stage, false)), ["raw/c"]);
        // The end waits for nothing.
        waiting.hear(&done(Some("raw/d/1.json"), 1), &from);
        let due = waiting.due(&stage, true).unwrap();
        waiting.hear(&done(Some("raw/e/1.json"), 1), &from);
        waiting.put_back(due, Instant::now());
        assert_eq!(folders(waiting.due(&stage, true)), ["raw/d", "raw/e"]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_known_in_detail_has_all_looked_at_within_bounds() {
        let stage = super::super::tests::plan();
        let stage = StagePlan { follow: Some(Duration::from_secs(60)), ..stage };
        let from = Path::from("raw");
        let mut waiting = Waiting::default();
        for number in 0..=FOLDERS_MAX {
            waiting.hear(&done(Some(&format!("raw/{number}/1.json.zst")), 0), &from);
        }
        assert_eq!(folders(waiting.due(&stage, false)), ["all"]);
        // A fetch that became several others stores nothing: some time is soon enough.
        waiting.hear(&done(None, 0), &from);
        tokio::time::advance(ALL_EVERY / 2).await;
        assert!(waiting.due(&stage, false).is_none());
        tokio::time::advance(ALL_EVERY / 2).await;
        assert_eq!(folders(waiting.due(&stage, false)), ["all"]);
        assert!(waiting.due(&stage, true).is_none());
        // Whoever ends does not wait for it.
        waiting.see_all_again(None);
        assert!(waiting.due(&stage, false).is_none());
        assert_eq!(folders(waiting.due(&stage, true)), ["all"]);
        assert!(waiting.due(&stage, true).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_could_not_be_staged_lags_until_all_was_looked_at() {
        let stage = super::super::tests::plan();
        let stage = StagePlan { follow: Some(Duration::from_secs(60)), ..stage };
        let from = Path::from("raw");
        let mut waiting = Waiting::default();
        waiting.hear(&done(Some("raw/a/1.json"), 1), &from);
        let due = waiting.due(&stage, true).unwrap();
        let (at, now) = (due.oldest.unwrap(), due.oldest.unwrap() + Duration::from_secs(90));
        assert_eq!(waiting.lag(now), Duration::ZERO);
        waiting.see_all_again(due.oldest);
        let later = Done { fetched_at: now, ..done(Some("raw/b/1.json"), 1) };
        waiting.hear(&later, &from);
        // Other folders are staged meanwhile.
        tokio::time::advance(Duration::from_secs(60)).await;
        waiting.see_all();
        assert_eq!(waiting.due(&stage, false).unwrap().oldest, Some(at));
        waiting.see_all_again(Some(at));
        waiting.hear(&later, &from);
        tokio::time::advance(Duration::from_secs(60)).await;
        let due = waiting.due(&stage, false).unwrap();
        assert_eq!((due.oldest, waiting.lag(now)), (Some(now), Duration::from_secs(90)));
        tokio::time::advance(ALL_EVERY).await;
        let due = waiting.due(&stage, false).unwrap();
        assert_eq!((due.oldest, waiting.lag(now)), (Some(at), Duration::ZERO));
        // Another node's from now on.
        waiting.see_all_again(Some(at));
        waiting.forget();
        assert_eq!(waiting.lag(now), Duration::ZERO);
    }
}
