//! What waits and is in no lane: a subject that means nothing becomes a dead letter, an account that is spelt
//! otherwise than we spell it is moved to where it belongs. Nothing is called under a second name.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::message::StreamMessage;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};

use super::headers::{Kept, id_of_move, stored_at};
use super::wire::is_full;
use super::{AGAIN, Inner, QueueError, lock};
use crate::codes::Code;
use crate::ids::LaneKey;
use crate::nats::Names;
use crate::queue::FIRST_MAX;
use crate::recipe::FETCH_BYTES_MAX;
use crate::recipe::Refusal;
use crate::state::clock;
use crate::telemetry;

/// Subjects that are held until they are seen to; of others the next listing of lanes tells again.
const SUBJECTS_MAX: usize = 4096;
/// Between two looks for messages that the server could put into no partition: these wake nobody.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Messages seen to at once.
const AT_ONCE: usize = 16;

/// Stored subjects that are no lane.
#[derive(Debug, Default)]
pub(super) struct Misfits {
    subjects: Mutex<BTreeSet<String>>,
    come: Notify,
}

impl Misfits {
    pub(super) fn add(&self, subject: String) {
        let mut subjects = lock(&self.subjects);
        if subjects.len() < SUBJECTS_MAX {
            subjects.insert(subject);
            self.come.notify_one();
        }
    }

    /// The subject of a wake is that of its message but for one word.
    pub(super) fn add_woken(&self, names: &Names, subject: &str) {
        if let Some(rest) = subject.strip_prefix(&names.subject("wake.")) {
            self.add(names.subject(&format!("q.{rest}")));
        }
    }

    fn take(&self) -> BTreeSet<String> {
        std::mem::take(&mut *lock(&self.subjects))
    }
}

/// Sees to misfits for as long as the queue is open.
pub(super) async fn sort_out(inner: Arc<Inner>) {
    let all = inner.names().subject("fetch.>");
    loop {
        // Said once by the connection, not each second by this.
        inner.up().await;
        // Two tokens or fewer behind `fetch`: stored as they were published.
        // In a cluster whoever has the first partition looks for them.
        let all_seen = !inner.owned.is_ours(0) || inner.try_to_empty(&all).await;
        // A stream that was made anew has numbers of its own; what is written of them says so.
        let _asked = inner.fetch.info().await;
        let look_at = Instant::now() + if all_seen { LOOK_EVERY } else { AGAIN };
        while Instant::now() < look_at {
            // One that cannot be seen to now holds up none of the others.
            let mut waiting = false;
            for subject in inner.misfits.take() {
                if !inner.try_to_empty(&subject).await {
                    inner.misfits.add(subject);
                    waiting = true;
                    inner.up().await;
                }
            }
            if waiting {
                sleep(AGAIN).await;
            } else {
                timeout_at(look_at, inner.misfits.come.notified()).await.ok();
            }
        }
    }
}

impl Inner {
    /// Whether every message of a subject was seen to; what was in the way is logged.
    async fn try_to_empty(&self, subject: &str) -> bool {
        let emptied = self.empty(subject).await;
        if let Err(error) = &emptied {
            telemetry::misfits_wait(&error.to_string());
        }
        emptied.is_ok()
    }

    /// Sees to every message of a subject.
    async fn empty(&self, subject: &str) -> Result<(), QueueError> {
        let mut after = None;
        loop {
            let messages = self.next_of(&self.fetch, subject, after, FIRST_MAX).await?;
            let Some(last) = messages.last() else { return Ok(()) };
            after = Some(last.sequence);
            stream::iter(messages)
                .map(|message| async move { self.sort_out_one(&message).await })
                .buffer_unordered(AT_ONCE)
                .try_for_each(async |()| Ok(()))
                .await?;
        }
    }

    async fn sort_out_one(&self, message: &StreamMessage) -> Result<(), QueueError> {
        let subject = message.subject.as_str();
        let rest = self.names().behind(subject, "q");
        match rest.clone().and_then(LaneKey::parse) {
            // Written as we write it: somebody listed it wrongly, and it must not be moved onto itself.
            Ok(lane) if rest == Ok(&*lane.subject()) => return Ok(()),
            Ok(lane) if message.payload.len() <= FETCH_BYTES_MAX => {
                let id = id_of_move(self.fetch.created(), message.sequence, "name");
                match self.move_to(&lane, message, id).await {
                    // No room for two of it until one of them goes: the other then waits in LATER for room.
                    Err(error) if is_full(&error) => {
                        self.put_aside(&lane, message, clock::wall()).await?;
                        return Ok(());
                    }
                    moved => moved?,
                }
            }
            Ok(_) => {
                let reason = format!("the fetch is longer than {FETCH_BYTES_MAX} bytes");
                self.bury_message(message, subject, reason).await?;
            }
            Err(reason) => {
                let published = match rest {
                    Ok(rest) => self.names().subject(&format!("fetch.{rest}")),
                    Err(_) => subject.to_owned(),
                };
                let reason = if rest.is_ok() {
                    reason
                } else {
                    let prefix = self.names().prefix();
                    format!("`{published}` is not {prefix}.fetch.PLATFORM.ACCOUNT.API")
                };
                self.bury_message(message, &published, reason).await?;
            }
        }
        self.delete_fetch(message.sequence, stored_at(message)).await
    }

    /// A letter for a message that names no lane.
    pub(super) async fn bury_message(
        &self,
        message: &StreamMessage,
        published: &str,
        reason: String,
    ) -> Result<(), QueueError> {
        telemetry::fetch_refused(published, Code::BadSubject, &reason);
        let (seq, source) = (Kept::of(message).origin, Some(published.to_owned()));
        let refusal = Refusal::new(Code::BadSubject, reason);
        let dead = refusal.into_dead(seq, &message.payload, source, clock::wall());
        self.tell_dead(self.nowhere(), &dead).await
    }
}
