//! One attempt from permit to outcome: call, judge, store, manifest, out of the queue.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use jiff::Timestamp;
use object_store::path::Path;
use secrecy::ExposeSecret;
use tokio::time::{Instant, timeout, timeout_at};
use tollgate_gate::{Sent, Span};
use tollgate_protos::{Done, Manifest, Object};

use super::peek::peek;
use super::{Again, BODY_START_BYTES, Item, LastAnswer, Order, Outcome, Slot};
use crate::codes::Code;
use crate::http::classify::{self, Head};
use crate::http::{Answer, CallBounds, CallError};
use crate::observe::{Answered, Facts, Then};
use crate::plan::{Api, Auth, Compression, Format, Plan, Platform};
use crate::queue::{Ending, QueueError};
use crate::recipe::{self, FetchContext, KeyContext, Refusal};
use crate::shard::context::Context;
use crate::shard::permit::Permit;
use crate::store::{Codec, Decode, EXPAND_MAX, SinkError, SinkOptions, StoreErrorKind, Stored};
use crate::telemetry::{self, PlatformMeters};

/// A permit is used within this time of its decision, or not at all.
pub(crate) const USE_WITHIN: Duration = Duration::from_millis(500);
/// How much of a bad answer is read so that its connection can be used again, and for how long.
const REST_BYTES_MAX: usize = 64 * 1024;
const REST_WITHIN: Duration = Duration::from_millis(500);
/// Least time before another call for a body that the store refused: until then it is known whether it takes
/// others.
const REFUSED_AGAIN: Duration = Duration::from_secs(1);
/// Between two tries to take a stored fetch out of a queue that does not answer.
const FINISH_AGAIN: Duration = Duration::from_millis(500);

/// Makes the attempt and tells the permit what became of it. Dropping the future ends the call; the
/// permit then says that it crashed.
pub(super) async fn make(shard: Rc<Context>, order: Order) {
    let Order { permit, slot, platform, api, meters, item, calls } = order;
    let api = &platform.apis[usize::from(api)];
    let attempt = Attempt {
        shard: &shard,
        platform: &platform,
        api,
        meters: &meters,
        item: &item,
        permit: &permit,
        slot: RefCell::new(slot),
        calls,
    };
    let outcome = attempt.run().await;
    drop(attempt);
    permit.finish(outcome);
}

struct Attempt<'a> {
    shard: &'a Rc<Context>,
    platform: &'a Platform,
    api: &'a Api,
    meters: &'a PlatformMeters,
    item: &'a Item,
    permit: &'a Permit,
    slot: RefCell<Slot>,
    calls: u32,
}

impl Attempt<'_> {
    async fn run(&self) -> Outcome {
        self.shard.faults.collector(self.item);
        let clock = &self.shard.clock;
        let decided = self.permit.decided_at();
        if self.item.fetch.once {
            // Asked when it was read, but another of its id may have been done since.
            match timeout(USE_WITHIN, done_once(self.shard, self.item)).await {
                Ok(Ok(None)) => {}
                Ok(Ok(Some(done))) => {
                    self.permit.call_ended(Sent::Never);
                    let ending = Ending::Done { done: Box::new(done), once: false };
                    finish_until_confirmed(self.shard, self.meters, self.item, ending).await;
                    return Outcome::Done { bytes: 0, objects: 0 };
                }
                Ok(Err(_)) | Err(_) => return self.late(),
            }
        }
        if clock.now() > decided.plus(Span::from(USE_WITHIN)) {
            return self.late();
        }
        let context = FetchContext {
            account: &self.item.lane.account.account,
            id: &self.item.id,
            params: &self.item.fetch.params,
        };
        let request = match recipe::build(self.platform, self.api, &context) {
            Ok(request) => request,
            Err(refusal) => {
                self.permit.call_ended(Sent::Never);
                return Outcome::Dead {
                    code: refusal.code,
                    reason: refusal.reason,
                    last: LastAnswer::default(),
                };
            }
        };
        let timeouts = self.api.timeouts;
        let write_by = decided.plus(Span::from(USE_WITHIN)).plus(Span::from(timeouts.connect));
        let bounds = CallBounds { timeouts, write_by };
        self.shard.totals.calls.add(1);
        let answer = self.shard.transport.send(request, bounds, self.permit.on_written()).await;
        match answer {
            Ok(answer) => {
                self.permit.answered();
                self.judge(answer).await
            }
            Err(error) => {
                self.permit.call_ended(sent(&error));
                Self::failed(&error, LastAnswer::default())
            }
        }
    }

    fn late(&self) -> Outcome {
        self.permit.call_ended(Sent::Never);
        Outcome::Again {
            kind: Again::Late,
            after: None,
            reason: "the permit lapsed before its use".into(),
            last: LastAnswer::default(),
        }
    }

    fn failed(error: &CallError, last: LastAnswer) -> Outcome {
        let kind = match error {
            CallError::Connect(_) => Again::Unreachable,
            CallError::Late => Again::Late,
            _ => Again::Transient,
        };
        Outcome::Again { kind, after: None, reason: error.to_string(), last }
    }

    async fn judge(&self, mut answer: Answer) -> Outcome {
        let status = answer.status;
        let wall = self.shard.clock.wall();
        let head = classify::head(status, &answer.headers, self.api.format, wall);
        let facts = self.listen(&mut answer, wall, head == Head::Good).await;
        let over = facts.over.clone().map(Box::new);
        if !facts.is_empty() {
            self.permit.told(facts);
        }
        let head = match &over {
            Some(over) if over.then == Then::Fail => Head::Permanent(Code::RefusedByRule),
            Some(over) => Head::Throttled { after: over.after },
            None => head,
        };
        if head == Head::Good {
            return self.store(answer).await;
        }
        if over.is_some() || status == 429 {
            self.shard.totals.refused.add(1);
        }
        let html = classify::is_html(&answer.headers) && (200..300).contains(&status);
        let last = LastAnswer {
            status: Some(status),
            body_start: Some(body_start(answer, self.platform.auth.as_ref()).await),
            flaw: html.then_some(Code::HtmlInstead),
            over,
        };
        self.permit.call_ended(Sent::Maybe);
        let reason = if last.over.is_some() {
            format!("the provider answered {status}, which a rule of `over` calls a refusal")
        } else if html {
            format!("the answer is an HTML page where {} is expected", what(self.api.format))
        } else {
            format!("the provider answered {status}")
        };
        match head {
            Head::Good => unreachable!("handled above"),
            Head::Transient { after } => {
                Outcome::Again { kind: Again::Transient, after, reason, last }
            }
            Head::Throttled { after } => {
                Outcome::Again { kind: Again::Throttled, after, reason, last }
            }
            Head::Permanent(code) => Outcome::Dead { code, reason, last },
        }
    }

    /// What the answer says of limits. Its body stays whole.
    async fn listen(&self, answer: &mut Answer, wall: Timestamp, good: bool) -> Facts {
        let rules = &self.api.rules;
        if rules.is_empty() {
            return Facts::default();
        }
        let mut body = Vec::new();
        if rules.wants_body(answer.status)
            && let Ok(decode) = decode_of(&answer.headers)
        {
            // A good body is worth waiting for: what it brings is stored.
            body = peek(answer, decode, (!good).then_some(REST_WITHIN)).await;
        }
        let seen = Answered { status: answer.status, headers: &answer.headers, body: &body, wall };
        rules.read(seen, &self.platform.limits)
    }

    async fn store(&self, answer: Answer) -> Outcome {
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
        let key = match object_key(&plan, self.platform, self.api, self.item, &extension) {
            Ok(key) => key,
            Err(refusal) => {
                self.permit.call_ended(Sent::Maybe);
                return Outcome::Dead { code: refusal.code, reason: refusal.reason, last };
            }
        };
        let manifest_key = recipe::manifest_key(&key);
        let options = SinkOptions {
            codec: codec(plan.store.compression),
            decode,
            body_bytes_max: plan.collect.body_bytes_max,
            expand_max: EXPAND_MAX,
        };
        let mut sink = self.shard.store.sink(key, options);
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
        if let Some(place) = self.shard.landing()
            && sink.is_held()
        {
            // Nothing is left to do but to store it: the next call need not wait for a slow store.
            self.slot.replace(place);
        }
        let mut done = None;
        let manifest = |stored: &Stored| {
            let made = self.done(status, stored);
            let manifest = self.manifest(&made);
            done = Some(made);
            Some((manifest_key, manifest))
        };
        let ended = Instant::now();
        let finished = sink.finish_and(manifest).await;
        self.meters.store_finished(ended.elapsed());
        let stored = match finished {
            Ok(stored) => stored,
            Err(error) => return self.unstored(&error, last),
        };
        let done = done.expect("whoever stored the object has told of it");
        // From here on it is done.
        let ending = Ending::Done { done: Box::new(done), once: self.item.fetch.once };
        finish_until_confirmed(self.shard, self.meters, self.item, ending).await;
        Outcome::Done { bytes: stored.bytes, objects: 1 }
    }

    fn done(&self, status: u16, stored: &Stored) -> Done {
        let waited = self.shard.clock.wall_at(self.permit.decided_at());
        let waited = waited.duration_since(self.item.queued_at);
        let object = Object {
            key: stored.key.to_string(),
            bytes: stored.bytes,
            sha256: stored.sha256.clone(),
            stored_bytes: stored.stored_bytes,
        };
        Done {
            id: self.item.id.clone(),
            seq: self.item.origin.0,
            objects: vec![object],
            http_status: status,
            attempts: self.calls,
            pages: 1,
            waited_ms: u64::try_from(waited.as_millis()).unwrap_or(0),
            fetched_at: self.shard.clock.wall(),
            labels: self.item.fetch.labels.clone(),
        }
    }

    fn manifest(&self, done: &Done) -> Bytes {
        let lane = &self.item.lane;
        let manifest = Manifest {
            version: 1,
            queue: self.shard.queue.name().to_string(),
            platform: lane.account.platform.to_string(),
            account: lane.account.account.to_string(),
            api: lane.api.to_string(),
            params: self.item.fetch.params.clone(),
            done: done.clone(),
        };
        let mut text = serde_json::to_vec(&manifest).expect("a manifest is plain JSON");
        text.push(b'\n');
        text.into()
    }

    fn unstored(&self, error: &SinkError, last: LastAnswer) -> Outcome {
        let reason = error.to_string();
        let code = match error {
            SinkError::TooLarge { .. } => Code::BodyTooLarge,
            SinkError::Bomb { .. } => Code::BodyExpandsTooMuch,
            SinkError::Encoding { .. } => {
                let last = LastAnswer { flaw: Some(Code::BadEncoding), ..last };
                return Outcome::Again { kind: Again::Transient, after: None, reason, last };
            }
            SinkError::Store { kind, source, .. } => {
                let reason = format!("{reason}: {source}");
                let after = match kind {
                    StoreErrorKind::Full | StoreErrorKind::Away => {
                        self.shard.store_failed(&reason);
                        None
                    }
                    StoreErrorKind::Denied | StoreErrorKind::Other => {
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

/// Records an ending, as often as it takes. The slot, or the place among those that are stored, stays taken
/// meanwhile, which is what keeps a queue that is away from being asked for more.
pub(crate) async fn finish_until_confirmed(
    shard: &Context,
    meters: &PlatformMeters,
    item: &Item,
    ending: Ending,
) {
    let ended = Instant::now();
    let mut told = false;
    shard.totals.ending(item.seq);
    loop {
        match shard.queue.finish(item.lane.clone(), item.seq, ending.clone()).await {
            Ok(()) => {
                meters.queue_finished(ended.elapsed());
                return;
            }
            Err(error) => {
                if !told {
                    told = true;
                    telemetry::queue_away(&item.lane.account, &error);
                }
                tokio::time::sleep(FINISH_AGAIN).await;
            }
        }
    }
}

/// What an earlier try of this fetch has stored, if it came as far as its manifest. Any doubt is a no:
/// the fetch is called again and writes the same keys.
pub(crate) async fn stored_before(shard: &Context, item: &Item) -> Option<Done> {
    // The manifest's folder does not depend on what the objects' keys end in.
    let plan = shard.plan();
    let platform = plan.platforms.get(&item.lane.account.platform)?;
    let (_, api) = platform.api(item.lane.api.as_str())?;
    let key = recipe::manifest_key(&object_key(&plan, platform, api, item, "x").ok()?);
    let bytes = shard.store.get(&key).await.ok()??;
    let manifest: Manifest = serde_json::from_slice(&bytes).ok()?;
    let same = manifest.queue == *shard.queue.name() && manifest.done.seq == item.origin.0;
    same.then_some(manifest.done)
}

/// How a fetch that says `once` was done under an earlier number: a `done` of its own, without a call.
pub(crate) async fn done_once(shard: &Context, item: &Item) -> Result<Option<Done>, QueueError> {
    let done = shard.queue.once(item.lane.clone(), item.id.clone()).await?;
    Ok(done.map(|done| {
        let labels = item.fetch.labels.clone();
        // Its own from an earlier life of this node is told again as it was.
        let attempts = if done.seq == item.origin.0 { done.attempts } else { 0 };
        Done { seq: item.origin.0, attempts, labels, ..done }
    }))
}

/// Where the first page of a fetch goes.
fn object_key(
    plan: &Plan,
    platform: &Platform,
    api: &Api,
    item: &Item,
    ext: &str,
) -> Result<Path, Refusal> {
    let context = KeyContext {
        platform,
        api,
        account: &item.lane.account.account,
        id: &item.id,
        params: &item.fetch.params,
        queued_at: item.queued_at,
        page: 1,
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

/// Whether the provider may count a call that ended so.
fn sent(error: &CallError) -> Sent {
    if error.may_have_been_sent() { Sent::Maybe } else { Sent::Never }
}

/// What a good answer is, for people.
fn what(format: Format) -> &'static str {
    match format {
        Format::Json => "JSON",
        Format::Csv => "CSV",
        Format::Text => "text",
        Format::Auto | Format::Html | Format::Binary => "data",
    }
}

/// What has to be undone before the body is what it says it is.
fn decode_of(headers: &HeaderMap) -> Result<Decode, String> {
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
        Format::Csv => "csv",
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

/// The first 2 KiB of an answer as text; reads on for a little while so that the connection can be used
/// again.
async fn body_start(answer: Answer, auth: Option<&Auth>) -> String {
    let encoded = answer.headers.contains_key(CONTENT_ENCODING);
    let mut body = answer.body;
    let deadline = Instant::now() + REST_WITHIN;
    let mut start: Vec<u8> = Vec::new();
    let mut read = 0;
    while read < REST_BYTES_MAX {
        let Ok(Some(Ok(piece))) = timeout_at(deadline, body.next()).await else { break };
        read += piece.len();
        let room = BODY_START_BYTES.saturating_sub(start.len());
        start.extend_from_slice(&piece[..piece.len().min(room)]);
    }
    if encoded {
        return format!("({read} bytes, compressed)");
    }
    let text = String::from_utf8_lossy(&start).into_owned();
    // A provider, or a proxy before it, may show the request that it refuses.
    match auth {
        None => text,
        Some(Auth::Bearer(secret) | Auth::Header(_, secret)) => {
            text.replace(secret.expose_secret(), "[redacted]")
        }
    }
}
