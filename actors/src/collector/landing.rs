//! A good answer goes into the store, its manifest after it, its fetch out of the queue.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use object_store::path::Path;
use tokio::time::Instant;
use tollgate_gate::Sent;
use tollgate_protos::{Done, Manifest, Provenance};

use super::attempt::Attempt;
use super::judging::Told;
use super::members::Landing;
use super::paging::{Landed, flawed};
use super::provenance::object;
use super::{Again, Item, LastAnswer, Outcome};
use crate::answers::{Class, Look, Looked};
use crate::codes::Code;
use crate::http::{Answer, classify};
use crate::pages::Watch;
use crate::plan::{Api, Compression, Format, Plan, Platform};
use crate::queue::Ending;
use crate::recipe::{self, KeyContext, Refusal};
use crate::shard::context::Context;
use crate::store::{
    Codec, Decode, EXPAND_MAX, SinkError, SinkOptions, StoreErrorKind, Stored, Unfit, Unwrap,
};

/// Least time before another call for a body that the store refused: until then it is known whether it takes
/// others.
const REFUSED_AGAIN: Duration = Duration::from_secs(1);

impl Attempt<'_> {
    pub(super) async fn store(&self, answer: Answer, told: Told, look: Option<Look>) -> Outcome {
        let Answer { status, headers, mut body } = answer;
        let last = LastAnswer { status: Some(status), ..LastAnswer::default() };
        let decode = match decode_of(&headers) {
            Ok(decode) => decode,
            Err(encoding) => {
                self.permit.call_ended(Sent::Maybe);
                return Outcome::Dead {
                    code: Code::BadEncoding,
                    reason: format!(
                        "the answer is encoded as `{encoding}`, which was not asked for"
                    ),
                    last,
                };
            }
        };
        let plan = self.shard.plan();
        let extension = extension(self.api.format, &headers, plan.store.compression.suffix());
        let page = self.read.as_ref().map_or(1, |read| read.page());
        let first = object_key(&plan, self.platform, self.api, self.item, 1, &extension);
        let key = object_key(&plan, self.platform, self.api, self.item, page, &extension);
        let (first, key) = match first.and_then(|first| Ok((first, key?))) {
            Ok(keys) => keys,
            Err(refusal) => {
                self.permit.call_ended(Sent::Maybe);
                return Outcome::Dead { code: refusal.code, reason: refusal.reason, last };
            }
        };
        let manifest_key = recipe::manifest_key(&first);
        let from = self.provenance(status, &headers);
        let options = SinkOptions {
            codec: codec(plan.store.compression),
            decode,
            unwrap: self.api.answers.decoding.unwrap.clone(),
            charset: self.api.answers.decoding.charset,
            body_bytes_max: plan.collect.body_bytes_max,
            expand_max: EXPAND_MAX,
        };
        if let Unwrap::Members(members) = &options.unwrap {
            let members = members.clone();
            let suffix = plan.store.compression.suffix();
            let landing = Landing { status, members, options, key, manifest_key, suffix, from };
            return self.store_members(body, told, look, landing).await;
        }
        let mut sink = self.shard.store.sink(key, options).about(self.about(&from));
        if let Some(watch) = self.api.pages.as_ref().and_then(|pages| Watch::new(pages)) {
            sink = sink.with_tap(Box::new(watch));
        }
        if let Some(look) = &look {
            sink = sink.inspected(Box::new(look.clone()));
        }
        while let Some(piece) = body.next().await {
            let written = match piece {
                Ok(piece) => sink.write(piece).await,
                Err(error) => {
                    self.permit.call_ended(Sent::Maybe);
                    sink.abort().await;
                    let last = LastAnswer { flaw: Some(Code::AnswerBroken), ..last };
                    return Self::failed(&error, last);
                }
            };
            if let Err(error) = written {
                self.permit.call_ended(Sent::Maybe);
                sink.abort().await;
                return self.unstored(&error, last);
            }
        }
        drop(body);
        self.permit.call_ended(Sent::Maybe);
        self.mark(&self.marks.body);
        if let Some(place) = self.shard.landing()
            && sink.is_held()
        {
            // Nothing is left to do but to store it: the next call need not wait for a slow store.
            self.slot.replace(place);
        }
        let ended = Instant::now();
        let mut sealed = match sink.seal().await {
            Ok(sealed) => sealed,
            Err(error) => {
                self.meters.store_finished(ended.elapsed());
                return match error {
                    SinkError::Refused { .. } => self.refused(told, look).await,
                    error => self.unstored(&error, last),
                };
            }
        };
        let mut turned = None;
        if let (Some(pages), Some(read)) = (&self.api.pages, &self.read) {
            match self.turn(pages, read, &mut sealed, &headers) {
                Ok(turn) => turned = Some((read, turn)),
                Err(flaw) => {
                    sealed.abort().await;
                    if !self.permit.may_store().await {
                        return Self::unwanted();
                    }
                    if flaw.code == Code::RowsCapped && self.api.answers.split.is_some() {
                        return self.split(status, flaw.reason, last).await;
                    }
                    return flawed(flaw, last);
                }
            }
        }
        // Only now: what is not stored takes no folder.
        let entered = match self.enter(&manifest_key, &last).await {
            Ok(entered) => entered,
            Err(outcome) => {
                sealed.abort().await;
                self.meters.store_finished(ended.elapsed());
                return outcome;
            }
        };
        if !self.permit.may_store().await {
            sealed.abort().await;
            return Self::unwanted();
        }
        if let Some((read, (turn, seen))) = turned {
            match self.is_whole(read, &turn, (&manifest_key, &extension)).await {
                // All there is.
                Ok(true) => {}
                Ok(false) => {
                    let manifest_key = &manifest_key;
                    let looked = look.as_ref().and_then(Look::looked);
                    let ext = &*extension;
                    let landed = Landed { status, ext, manifest_key, from, looked };
                    let outcome = self.store_page(read, sealed, (turn, seen), landed).await;
                    self.meters.store_finished(ended.elapsed());
                    return outcome;
                }
                Err(error) => {
                    sealed.abort().await;
                    self.meters.store_finished(ended.elapsed());
                    return self.unstored(&error, last);
                }
            }
        }
        let sealed = self.telling(sealed, None, &from);
        let mut done = None;
        let companion = |stored: &Stored| {
            let made = self.done(status, stored, look.as_ref().and_then(Look::looked));
            let manifest = manifest(self.shard, self.item, &made, from);
            done = Some(made);
            Some((manifest_key, manifest))
        };
        let finished = sealed.complete_and(companion).await;
        drop(entered);
        self.meters.store_finished(ended.elapsed());
        let stored = match finished {
            Ok(stored) => stored,
            Err(error) => return self.unstored(&error, last),
        };
        let done = done.expect("whoever stored the object has told of it");
        // From here on it is done.
        let ending = Ending::Done { done: Box::new(done), once: self.item.fetch.once };
        self.finish(ending).await;
        Outcome::Done { bytes: stored.bytes, objects: 1 }
    }

    fn done(&self, status: u16, stored: &Stored, looked: Option<Looked>) -> Done {
        let Looked { verdict, request_id, .. } = looked.unwrap_or_default();
        let class = verdict.map(|verdict| verdict.class);
        Done {
            objects: vec![object(stored)],
            pages: 1,
            empty: class == Some(Class::Empty),
            incomplete: class == Some(Class::Incomplete),
            // Whatever the provider says it is.
            request_id: request_id.map(|id| self.hide(id)),
            ..self.done_without_objects(status)
        }
    }

    pub(super) fn done_without_objects(&self, status: u16) -> Done {
        let waited = self.shard.clock.wall_at(self.permit.decided_at());
        let waited = waited.duration_since(self.item.queued_at);
        Done {
            id: self.item.id.clone(),
            seq: self.item.origin.0,
            http_status: status,
            attempts: self.calls,
            waited_ms: u64::try_from(waited.as_millis()).unwrap_or(0),
            fetched_at: self.shard.clock.wall(),
            labels: self.item.fetch.labels.clone(),
            ..Done::default()
        }
    }

    pub(super) fn unstored(&self, error: &SinkError, last: LastAnswer) -> Outcome {
        let reason = error.to_string();
        let code = match error {
            SinkError::TooLarge { .. } => Code::BodyTooLarge,
            SinkError::Bomb { .. } => Code::BodyExpandsTooMuch,
            SinkError::Encoding { .. } => {
                let last = LastAnswer { flaw: Some(Code::BadEncoding), ..last };
                return Outcome::Again { kind: Again::Transient, after: None, reason, last };
            }
            SinkError::Unfit { what: Unfit::Archive, .. } => Code::BadArchive,
            SinkError::Unfit { what: Unfit::Text, .. } => Code::BadCharset,
            // Who refuses it says why.
            SinkError::Refused { .. } => Code::AnswerRefused,
            SinkError::Store { kind, source, .. } => {
                let reason = format!("{reason}: {source}");
                let after = match kind {
                    StoreErrorKind::Full | StoreErrorKind::Away => {
                        self.shard.store_failed(&reason);
                        None
                    }
                    StoreErrorKind::Denied | StoreErrorKind::Clock | StoreErrorKind::Other => {
                        self.shard.store_refused();
                        Some(REFUSED_AGAIN)
                    }
                };
                return Outcome::Again { kind: Again::StoreAway, after, reason, last };
            }
        };
        Outcome::Dead { code, reason, last }
    }
}

/// What is written beside the first page, last.
pub(super) fn manifest(shard: &Context, item: &Item, done: &Done, from: Provenance) -> Bytes {
    let lane = &item.lane;
    let manifest = Manifest {
        version: 1,
        queue: shard.queue.name().to_string(),
        platform: lane.account.platform.to_string(),
        account: lane.account.account.to_string(),
        api: lane.api.to_string(),
        params: item.fetch.params.clone(),
        provenance: Some(Box::new(from)),
        done: done.clone(),
    };
    let mut text = serde_json::to_vec(&manifest).expect("a manifest is plain JSON");
    text.push(b'\n');
    text.into()
}

/// Where a page of a fetch goes.
pub(super) fn object_key(
    plan: &Plan,
    platform: &Platform,
    api: &Api,
    item: &Item,
    page: u32,
    ext: &str,
) -> Result<Path, Refusal> {
    let context = KeyContext {
        platform,
        api,
        account: &item.lane.account.account,
        id: &item.id,
        params: &item.fetch.params,
        queued_at: item.queued_at,
        page,
        ext,
    };
    recipe::object_key(&plan.store, &context)
}

fn codec(compression: Compression) -> Codec {
    match compression {
        Compression::None => Codec::None,
        Compression::Gzip => Codec::Gzip,
        Compression::Zstd => Codec::Zstd,
    }
}

/// What has to be undone before the body is what it says it is.
pub(super) fn decode_of(headers: &HeaderMap) -> Result<Decode, String> {
    let mut codings = headers.get_all(CONTENT_ENCODING).iter();
    let (Some(coding), None) = (codings.next(), codings.next()) else {
        return if headers.contains_key(CONTENT_ENCODING) {
            Err("several codings".into())
        } else {
            Ok(Decode::Identity)
        };
    };
    let coding = coding.to_str().unwrap_or("?").trim().to_ascii_lowercase();
    match coding.as_str() {
        "" | "identity" => Ok(Decode::Identity),
        "gzip" | "x-gzip" => Ok(Decode::Gzip),
        "deflate" => Ok(Decode::Deflate),
        _ => Err(crate::ids::preview(&coding)),
    }
}

/// What an object's key ends in.
fn extension(format: Format, headers: &HeaderMap, suffix: &str) -> String {
    let base = match format {
        Format::Json => "json",
        Format::Ndjson => "jsonl",
        Format::Csv => "csv",
        Format::Tsv => "tsv",
        Format::Text => "txt",
        Format::Html => "html",
        Format::Binary => "bin",
        Format::Auto => match classify::content_type(headers).as_deref() {
            Some("application/json" | "text/json") => "json",
            Some(kind) if kind.ends_with("+json") => "json",
            Some("application/x-ndjson" | "application/jsonl") => "jsonl",
            Some("text/csv" | "application/csv") => "csv",
            Some("text/tab-separated-values") => "tsv",
            Some("text/xml" | "application/xml") => "xml",
            Some(kind) if kind.starts_with("text/") => "txt",
            _ => "bin",
        },
    };
    format!("{base}{suffix}")
}
