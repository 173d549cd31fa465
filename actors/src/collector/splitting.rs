//! Too much was asked for: two fetches that ask for less take the place of one.
//!
//! They are stored in its lane first, under ids that follow from its own, then its manifest names them, and only
//! then it is done. After a crash anywhere between it is split once more, into the same two, which the queue knows by
//! their ids.

use bytes::Bytes;
use tokio::time::sleep;

use super::attempt::{Attempt, FINISH_AGAIN, finish_until_confirmed};
use super::landing::object_key;
use super::{LastAnswer, Outcome};
use crate::codes::Code;
use crate::queue::{Appended, Ending, NewFetch};
use crate::recipe;
use crate::telemetry;

impl Attempt<'_> {
    pub(super) async fn split(&self, status: u16, reason: String, last: LastAnswer) -> Outcome {
        let code = Code::TooMuch;
        let answers = &self.api.answers;
        let item = self.item;
        let parts = match &answers.split {
            Some(split) => split.parts(&item.fetch, &item.id, &self.api.params.defaults),
            None => Err("the api has no `split`".to_owned()),
        };
        let parts = match parts {
            Ok(parts) => parts,
            Err(why) => {
                let reason = format!("{reason}; it cannot be split: {why}");
                return Outcome::Dead { code, reason, last };
            }
        };
        let ids: Vec<String> = parts.iter().filter_map(|part| part.id.clone()).collect();
        let fetches: Vec<NewFetch> = parts
            .iter()
            .zip(&ids)
            .map(|(part, id)| NewFetch {
                lane: item.lane.clone(),
                id: id.clone(),
                payload: Bytes::from(serde_json::to_vec(part).expect("a fetch is plain JSON")),
                not_before: None,
            })
            .collect();
        let plan = self.shard.plan();
        let key = match object_key(&plan, self.platform, self.api, item, 1, "x") {
            Ok(key) => recipe::manifest_key(&key),
            Err(refusal) => {
                return Outcome::Dead { code: refusal.code, reason: refusal.reason, last };
            }
        };
        self.append(fetches).await;
        let mut done = self.done_without_objects(status);
        done.request_id.clone_from(&last.request_id);
        done.split_into = ids;
        if let Err(error) = self.shard.store.put_small(&key, self.manifest(&done)).await {
            return self.unstored(&error, last);
        }
        telemetry::fetch_split(item, &done.split_into, &reason);
        let ending = Ending::Done { done: Box::new(done), once: item.fetch.once };
        finish_until_confirmed(self.shard, self.meters, item, ending).await;
        Outcome::Done { bytes: 0, objects: 0 }
    }

    /// Stores the parts, as often as it takes.
    async fn append(&self, fetches: Vec<NewFetch>) {
        let totals = &self.shard.totals;
        let count = fetches.len() as u64;
        // Counted before they are stored: one may be done before the answer is here.
        totals.come(count);
        let mut told = false;
        let appended = loop {
            match self.shard.queue.append(fetches.clone()).await {
                Ok(appended) => break appended,
                Err(error) if !told => {
                    told = true;
                    telemetry::queue_away(&self.item.lane.account, &error);
                }
                Err(_) => {}
            }
            sleep(FINISH_AGAIN).await;
        };
        let is_new = |one: &&Appended| matches!(one, Appended::New(_));
        totals.never_came(count - appended.iter().filter(is_new).count() as u64);
    }
}
