//! What an answer is worth: good, to be tried again, or the end of its fetch.

use std::time::Duration;

use futures_util::StreamExt;
use http::header::CONTENT_ENCODING;
use jiff::Timestamp;
use tokio::time::{Instant, timeout_at};
use tollgate_gate::Sent;

use super::attempt::Attempt;
use super::landing::decode_of;
use super::peek::peek;
use super::{Again, BODY_START_BYTES, LastAnswer, Outcome};
use crate::auth::Redactor;
use crate::codes::Code;
use crate::http::Answer;
use crate::http::classify::{self, Head};
use crate::observe::{Answered, Facts, Then};
use crate::plan::Format;

/// How much of a bad answer is read so that its connection can be used again, and for how long.
const REST_BYTES_MAX: usize = 64 * 1024;
const REST_WITHIN: Duration = Duration::from_millis(500);

impl Attempt<'_> {
    pub(super) async fn judge(&self, mut answer: Answer) -> Outcome {
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
        if head == Head::Good {
            return self.store(answer).await;
        }
        let unsigned = over.is_none() && self.was_unsigned(status);
        if over.is_some() || status == 429 {
            self.shard.totals.refused.add(1);
        }
        let html = classify::is_html(&answer.headers) && (200..300).contains(&status);
        let last = LastAnswer {
            status: Some(status),
            body_start: Some(body_start(answer, &self.redactor()).await),
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
        if unsigned {
            let reason = format!("{reason}, maybe for its token");
            return Outcome::Again { kind: Again::Unsigned, after: None, reason, last };
        }
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

/// The first 2 KiB of an answer as text; reads on for a little while so that the connection can be used
/// again.
async fn body_start(answer: Answer, redactor: &Redactor) -> String {
    let encoded = answer.headers.contains_key(CONTENT_ENCODING);
    let mut body = answer.body;
    let deadline = Instant::now() + REST_WITHIN;
    let mut start: Vec<u8> = Vec::new();
    // A provider, or a proxy before it, may show the request that it refuses: also at the very end.
    let wanted = BODY_START_BYTES + redactor.longest();
    let mut read = 0;
    while read < REST_BYTES_MAX {
        let Ok(Some(Ok(piece))) = timeout_at(deadline, body.next()).await else { break };
        read += piece.len();
        let room = wanted.saturating_sub(start.len());
        start.extend_from_slice(&piece[..piece.len().min(room)]);
    }
    if encoded {
        return format!("({read} bytes, compressed)");
    }
    redactor.start(&start, BODY_START_BYTES, read == start.len())
}
