//! What an answer is worth: good, to be tried again, or the end of its fetch.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::LocalBoxStream;
use jiff::Timestamp;
use tokio::time::{Instant, timeout_at};
use tollgate_gate::Sent;

use super::attempt::Attempt;
use super::landing::decode_of;
use super::peek::{decoded, peek};
use super::{Again, BODY_START_BYTES, LastAnswer, Outcome};
use crate::answers::{BreakerRule, Class, INCOMPLETE_WAIT, Look, Looked, Verdict};
use crate::codes::Code;
use crate::http::classify::{self, Head};
use crate::http::{Answer, CallError};
use crate::observe::{Answered, BODY_SEEN_MAX, Facts, Overuse, Then};
use crate::plan::Format;
use crate::recipe;
use crate::store::{Inspect, landing};

/// How much of a bad answer is read so that its connection can be used again, and for how long.
const REST_BYTES_MAX: usize = 64 * 1024;
const REST_WITHIN: Duration = Duration::from_millis(500);

/// What an answer's head and the rules about limits say of it.
#[derive(Debug)]
pub(super) struct Told {
    status: u16,
    head: Head,
    is_html: bool,
    over: Option<Box<Overuse>>,
    /// What Retry-After asks for.
    after: Option<Duration>,
}

impl Attempt<'_> {
    pub(super) async fn judge(&self, answer: Answer) -> Outcome {
        let mut answer = self.permit.counted(answer);
        if let Some(anew) = self.expired(&mut answer).await {
            return anew;
        }
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
        let is_html = classify::is_html(&answer.headers) && (200..300).contains(&status);
        let after = classify::retry_after(&answer.headers, wall);
        let told = Told { status, head, is_html, over, after };
        let is_good = told.head == Head::Good;
        let answers = &self.api.answers;
        let look = (!answers.is_empty() && told.over.is_none())
            .then(|| Look::new(answers, status, &answer.headers, self.api.format, is_good));
        if told.over.is_none() && answers.may_store(status, is_good) {
            // What it takes to store an answer is more than an attempt needs until then.
            return landing(Box::pin(self.store(answer, told, look))).await;
        }
        let (start, looked) = self.rest(answer, look).await;
        self.permit.call_ended(Sent::Maybe);
        self.not_stored(told, start, looked).await
    }

    /// Reads on for a little while, so that the connection can be used again: the beginning of the body as
    /// text, and what rules say of it.
    async fn rest(&self, answer: Answer, look: Option<Look>) -> (String, Option<Looked>) {
        let decode = decode_of(&answer.headers);
        let (raw, is_all) = rest_of(answer.body).await;
        let count = raw.len();
        let Ok(decode) = decode else {
            return (format!("({count} bytes, compressed)"), look.map(|look| look.judge(false)));
        };
        let body = decoded(raw, decode, REST_BYTES_MAX);
        let body = match self.api.answers.decoding.charset {
            Some(charset) => charset.decode(&body).0.into_owned().into_bytes(),
            None => body,
        };
        let looked = look.map(|mut look| {
            look.take(&body);
            look.judge(is_all && body.len() < REST_BYTES_MAX)
        });
        (self.text_of(&body, is_all), looked)
    }

    /// The first 2 KiB as text, without secrets: a provider, or a proxy before it, may show the request that it
    /// refuses. `is_all`: nothing follows these bytes.
    fn text_of(&self, bytes: &[u8], is_all: bool) -> String {
        self.redactor().start(bytes, BODY_START_BYTES, is_all)
    }

    /// The same for words of the provider.
    pub(super) fn hide(&self, text: String) -> String {
        self.redactor().clean(&text).into_owned()
    }

    /// The answer was streamed towards the store, and what was looked for in it says no.
    pub(super) async fn refused(&self, told: Told, look: Option<Look>) -> Outcome {
        self.refused_as(told, look.and_then(|look| look.looked())).await
    }

    pub(super) async fn refused_as(&self, told: Told, looked: Option<Looked>) -> Outcome {
        let start = looked
            .as_ref()
            .map(|looked| self.text_of(&looked.start, looked.start.len() < BODY_SEEN_MAX));
        let start = start.unwrap_or_default();
        self.not_stored(told, start, looked).await
    }

    /// What follows from an answer that is not stored.
    async fn not_stored(&self, told: Told, start: String, looked: Option<Looked>) -> Outcome {
        let Told { status, head, is_html, over, after } = told;
        let Looked { verdict, request_id, .. } = looked.unwrap_or_default();
        let answers = &self.api.answers;
        let refuses = |rule: &BreakerRule| rule.statuses.contains(&status);
        let denied = match &verdict {
            Some(verdict) => verdict.breaks,
            None => over.is_none() && answers.breaker.as_ref().is_some_and(refuses),
        };
        let unsigned = match &verdict {
            Some(verdict) => verdict.class == Class::Unauthorized,
            None => over.is_none() && status == 401,
        };
        let unsigned = unsigned && self.was_unsigned();
        let throttles = match &verdict {
            Some(verdict) => verdict.class == Class::Throttled,
            None => over.is_some() || status == 429,
        };
        if throttles {
            self.shard.totals.refused.add(1);
        }
        let mut last = LastAnswer {
            status: Some(status),
            body_start: Some(start),
            flaw: is_html.then_some(Code::HtmlInstead),
            over,
            denied: denied && !throttles,
            judged: verdict.is_some(),
            request_id: request_id.map(|id| self.hide(id)),
        };
        if let Some(Verdict { class, code, why, wait, .. }) = verdict {
            let reason = format!("the provider answered {status}, {}: {why}", class.as_str());
            let reason = self.hide(reason);
            last.flaw =
                (code == Code::AnswerUnreadable || class == Class::Incomplete).then_some(code);
            let kind = match class {
                Class::Unauthorized if unsigned => Again::Unsigned,
                Class::Transient => Again::Transient,
                Class::Incomplete => Again::Incomplete,
                Class::Throttled => Again::Throttled,
                Class::TooMuch => return self.split(status, reason, last).await,
                // What is good was stored, or could not be: its status alone is none of these.
                Class::Ok | Class::Empty | Class::Permanent | Class::Unauthorized => {
                    return Outcome::Dead { code, reason, last };
                }
            };
            let default = (class == Class::Incomplete).then_some(INCOMPLETE_WAIT);
            let after = wait.max(after).or(default);
            return Outcome::Again { kind, after, reason, last };
        }
        let then = last.over.as_ref().map(|over| over.then);
        let reason = if last.over.is_some() {
            format!("the provider answered {status}, which a rule of `over` calls a refusal")
        } else if is_html {
            format!("the answer is an HTML page where {} is expected", what(self.api.format))
        } else {
            format!("the provider answered {status}")
        };
        if then.is_some_and(Then::makes_less) {
            return match self.split(status, reason.clone(), last.clone()).await {
                // Whom the refusal concerns waits as its rule says.
                Outcome::Done { .. } => Outcome::Split { reason, last },
                other => other,
            };
        }
        if unsigned {
            let reason = format!("{reason}, maybe for its token");
            return Outcome::Again { kind: Again::Unsigned, after: None, reason, last };
        }
        match head {
            Head::Good => unreachable!("what is good by its head and no rule speaks of is stored"),
            Head::Transient { after } => {
                Outcome::Again { kind: Again::Transient, after, reason, last }
            }
            Head::Throttled { after } => {
                let parks = then == Some(Then::Park);
                let kind = if parks { Again::Parked } else { Again::Throttled };
                Outcome::Again { kind, after, reason, last }
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
        let (platform, budgets) = (&self.platform, &self.item.budgets);
        rules.read_of(seen, &|budget| recipe::sets(platform, budgets, budget))
    }
}

/// What a good answer is, for people.
fn what(format: Format) -> &'static str {
    match format {
        Format::Json => "JSON",
        Format::Ndjson => "NDJSON",
        Format::Csv => "CSV",
        Format::Tsv => "TSV",
        Format::Text => "text",
        Format::Auto | Format::Html | Format::Binary => "data",
    }
}

/// So much of a bad answer as is read, and whether that is all of it.
async fn rest_of(mut body: LocalBoxStream<'static, Result<Bytes, CallError>>) -> (Vec<u8>, bool) {
    let deadline = Instant::now() + REST_WITHIN;
    let mut start: Vec<u8> = Vec::new();
    while start.len() < REST_BYTES_MAX {
        match timeout_at(deadline, body.next()).await {
            Ok(Some(Ok(piece))) => {
                let room = REST_BYTES_MAX - start.len();
                start.extend_from_slice(&piece[..piece.len().min(room)]);
            }
            Ok(None) => return (start, true),
            Ok(Some(Err(_))) | Err(_) => break,
        }
    }
    (start, false)
}
