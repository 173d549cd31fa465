//! What waits: the next fetches of a lane, and which lanes have any.

use std::collections::HashMap;

use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{DirectGetErrorKind, RawMessageErrorKind};
use serde::Deserialize;
use serde_json::json;

use super::headers::{Kept, stored_at};
use super::wire::{away, within};
use super::{Home, Inner, LaneCount, LaneCursor, LanePage, QueueError, Queued, SeenAs, lock};
use crate::ids::{AccountKey, LaneKey, Seq};
use crate::queue::{FIRST_BYTES_MAX, FIRST_MAX};

/// A page of a stream's subjects, as STREAM.INFO answers with `subjects_filter`
/// (<https://docs.nats.io/reference/reference-protocols/nats_api_reference#streams>): at most 100,000.
#[derive(Debug, Deserialize)]
pub(super) struct Subjects {
    state: SubjectCounts,
    #[serde(default)]
    total: u64,
    #[serde(default)]
    offset: u64,
    #[serde(default)]
    limit: u64,
}

#[derive(Debug, Deserialize)]
struct SubjectCounts {
    #[serde(default)]
    subjects: Option<HashMap<String, u64>>,
}

impl Subjects {
    /// Where the next page begins, if there is one.
    pub(super) fn behind(&self) -> Option<u64> {
        let behind = self.offset + self.limit;
        (self.limit > 0 && behind < self.total).then_some(behind)
    }

    /// Each subject, and how many messages it has.
    pub(super) fn counts(self) -> HashMap<String, u64> {
        self.state.subjects.unwrap_or_default()
    }
}

impl Inner {
    pub(super) async fn first(
        &self,
        lane: &LaneKey,
        after: Option<Seq>,
        max: usize,
    ) -> Result<Vec<Queued>, QueueError> {
        let subject = self.names().queued(lane);
        let era = self.era();
        let found = self.next_of(&self.fetch, &subject, after.map(|seq| seq.0), max).await?;
        {
            let mut seen = lock(&self.seen);
            for message in &found {
                seen.add(message.sequence, SeenAs { stored_at: stored_at(message), era });
            }
        }
        let queued = found.into_iter().map(|message| {
            let Kept { origin, queued_at, content_type, traceparent } = Kept::of(&message);
            let (seq, payload) = (Seq(message.sequence), message.payload);
            Queued { seq, origin: Seq(origin), queued_at, payload, content_type, traceparent }
        });
        Ok(queued.collect())
    }

    /// The next messages of a subject, one after the other: each is found through the server's index, without
    /// reading what lies between.
    pub(super) async fn next_of(
        &self,
        home: &Home,
        subject: &str,
        after: Option<u64>,
        max: usize,
    ) -> Result<Vec<StreamMessage>, QueueError> {
        let mut found: Vec<StreamMessage> = Vec::new();
        let mut bytes = 0;
        // Without a number the server begins at the first of the subject, which is quicker than any number.
        let mut from = after.map(|seq| seq.saturating_add(1));
        while found.len() < max.min(FIRST_MAX) {
            let next = match self.next(home, subject, from).await? {
                // Whoever asks believes that there is something. A replica that is behind may not know it yet.
                None if found.is_empty() && self.replicated => {
                    self.next_from_leader(home, subject, from).await?
                }
                next => next,
            };
            let Some(message) = next else { break };
            from = Some(message.sequence.saturating_add(1));
            let is_gone = self.replicated
                && home.name == self.fetch.name
                && lock(&self.gone).has(message.sequence, stored_at(&message));
            if is_gone {
                continue;
            }
            bytes += message.payload.len();
            if !found.is_empty() && bytes > FIRST_BYTES_MAX {
                break;
            }
            found.push(message);
        }
        Ok(found)
    }

    async fn next(
        &self,
        home: &Home,
        subject: &str,
        from: Option<u64>,
    ) -> Result<Option<StreamMessage>, QueueError> {
        let asking = async {
            match home.stream.direct_get_next_for_subject(subject, from).await {
                Ok(message) => Ok(Some(message)),
                Err(error) if error.kind() == DirectGetErrorKind::NotFound => Ok(None),
                Err(error) => Err(away("read", subject, &error)),
            }
        };
        within(asking).await
    }

    pub(super) async fn next_from_leader(
        &self,
        home: &Home,
        subject: &str,
        from: Option<u64>,
    ) -> Result<Option<StreamMessage>, QueueError> {
        let asking = async {
            let from = from.unwrap_or(1);
            let request = home.stream.raw_message_builder().next_by_subject(subject).sequence(from);
            match request.send().await {
                Ok(message) => Ok(Some(message)),
                Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
                Err(error) => Err(away("read", subject, &error)),
            }
        };
        within(asking).await
    }

    /// One partition for each page; a partition of more than 100,000 subjects has several.
    pub(super) async fn lanes(&self, from: Option<LaneCursor>) -> Result<LanePage, QueueError> {
        let (part, offset) = from.as_ref().map_or((0, 0), |cursor| {
            let (part, offset) = cursor.0.split_once(':').unwrap_or((&cursor.0, "0"));
            (part.parse::<u32>().unwrap_or(0), offset.parse::<u64>().unwrap_or(0))
        });
        // What is another node's is not listed.
        let ours = self.owned.ours();
        let Some(next) = ours.first_from(part) else { return Ok(LanePage::default()) };
        let (part, offset) = if next == part { (part, offset) } else { (next, 0) };
        let (lanes, behind) = self.lanes_of(part, offset).await?;
        let next = match behind {
            Some(behind) => Some(LaneCursor(format!("{part}:{behind}"))),
            None => ours.first_from(part + 1).map(|part| LaneCursor(part.to_string())),
        };
        Ok(LanePage { lanes, next })
    }

    /// A page of the lanes of one partition, and where the next begins if there is one.
    pub(super) async fn lanes_of(
        &self,
        part: u32,
        offset: u64,
    ) -> Result<(Vec<LaneCount>, Option<u64>), QueueError> {
        let filter = self.names().subject(&format!("q.{part}.>"));
        let page = self.subjects(&self.fetch, &filter, offset).await?;
        let next = page.behind();
        Ok((self.counts(page), next))
    }

    pub(super) async fn account_lanes(
        &self,
        account: &AccountKey,
    ) -> Result<Vec<LaneCount>, QueueError> {
        let page = self.subjects(&self.fetch, &self.names().queued_of(account), 0).await?;
        Ok(self.counts(page))
    }

    /// The lanes among stored subjects; the others are seen to.
    fn counts(&self, page: Subjects) -> Vec<LaneCount> {
        let mut counts = Vec::new();
        for (subject, waiting) in page.counts() {
            match self.lane_of(&subject, "q") {
                Some(lane) => counts.push(LaneCount { lane, waiting }),
                None => self.misfits.add(subject),
            }
        }
        counts
    }

    /// A page of the subjects of a stream, as its leader has them.
    pub(super) async fn subjects(
        &self,
        home: &Home,
        filter: &str,
        offset: u64,
    ) -> Result<Subjects, QueueError> {
        let asking = async {
            let subject = format!("STREAM.INFO.{}", home.name);
            let request = json!({"subjects_filter": filter, "offset": offset});
            match self.bus.js().request(subject, &request).await {
                Ok(Response::Ok(page)) => Ok(page),
                Ok(Response::Err { error }) => Err(away("list", filter, &error)),
                Err(error) => Err(away("list", filter, &error)),
            }
        };
        within(asking).await
    }
}
