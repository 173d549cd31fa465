//! Dead letters: DEAD as a list that can be read, replayed and dropped.

use std::collections::BTreeMap;

use async_nats::jetstream::message::StreamMessage;
use tollgate_protos::Dead;

use super::ending::json_headers;
use super::headers::stored_at;
use super::wire::Copy;
use super::{Inner, Letter, NewFetch, QueueError};
use crate::codes::Code;
use crate::ids::{Seq, Slug};
use crate::queue::DEAD_MAX;
use crate::recipe::Refusal;

impl Inner {
    /// Where letters go of what names no lane.
    pub(super) fn nowhere(&self) -> String {
        self.names().subject("dead._._._")
    }

    pub(super) async fn bury(&self, key: [u8; 16], dead: &Dead) -> Result<bool, QueueError> {
        let id = format!("bury:{:032x}", u128::from_be_bytes(key));
        let (_, payload) = self.letter_json(dead);
        let ack = self.publish(self.nowhere(), Some(&id), json_headers(), payload).await?;
        Ok(!ack.duplicate)
    }

    pub(super) async fn letters(
        &self,
        after: Option<Seq>,
        max: usize,
    ) -> Result<Vec<Letter>, QueueError> {
        let all = self.names().subject("dead.>");
        let max = max.min(DEAD_MAX);
        let mut letters: Vec<Letter> = Vec::new();
        let mut after = after.map(|number| number.0);
        while letters.len() < max {
            let more = self.next_of(&self.dead, &all, after, max - letters.len()).await?;
            let Some(last) = more.last() else { break };
            after = Some(last.sequence);
            letters.extend(more.iter().map(letter));
        }
        Ok(letters)
    }

    /// As the subjects tell, of which there is one for each lane with letters.
    pub(super) async fn letter_counts(
        &self,
        platforms: Vec<Slug>,
    ) -> Result<BTreeMap<Slug, u64>, QueueError> {
        let mut counts = BTreeMap::new();
        for platform in platforms {
            let filter = self.names().subject(&format!("dead.{platform}.>"));
            let (mut count, mut offset) = (0, Some(0));
            while let Some(place) = offset {
                let page = self.subjects(&self.dead, &filter, place).await?;
                offset = page.behind();
                count += page.counts().into_values().sum::<u64>();
            }
            counts.insert(platform, count);
        }
        Ok(counts)
    }

    /// The copy first, then the letter goes: a crash between the two leaves a letter whose replay stores nothing
    /// a second time within the duplicate window.
    pub(super) async fn revive(
        &self,
        number: Seq,
        replay: Option<NewFetch>,
    ) -> Result<bool, QueueError> {
        if self.get(&self.dead.stream, number.0).await?.is_none() {
            return Ok(false);
        }
        if let Some(fetch) = replay {
            let copy = Copy {
                subject: self.names().fetch(&fetch.lane),
                id: format!("replay:{}:{number}", self.dead.created()),
                headers: json_headers(),
                payload: fetch.payload.clone(),
            };
            let stored = self.names().queued(&fetch.lane);
            let same = |there: &StreamMessage| {
                there.subject.as_str() == stored && there.payload == fetch.payload
            };
            self.store_once(&self.fetch, copy, same).await?;
        }
        self.delete(&self.dead, number.0).await?;
        Ok(true)
    }
}

fn letter(message: &StreamMessage) -> Letter {
    let number = message.sequence;
    let dead = serde_json::from_slice::<Dead>(&message.payload).unwrap_or_else(|error| {
        let reason = format!("this letter was not written by Tollgate: {error}");
        let source = Some(message.subject.to_string());
        let refusal = Refusal::new(Code::FetchNotJson, reason);
        refusal.into_dead(0, &message.payload, source, stored_at(message))
    });
    // What never was a fetch has no number but this.
    let seq = if dead.seq == 0 { number } else { dead.seq };
    Letter { number: Seq(number), dead: Dead { seq, ..dead } }
}
