//! Sends spans to a collector: OTLP over HTTP, protobuf, in batches.

use std::time::Duration;

use prost::Message;
use reqwest::header::CONTENT_TYPE;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use url::Url;

use super::otlp::{
    AnyValue, ExportTraceServiceRequest, ExportTraceServiceResponse, KeyValue, Resource,
    ResourceSpans, Scope, ScopeSpans, Span, Status, Value,
};
use super::{Ended, Fact};
use crate::plan::TracePlan;
use crate::telemetry;

/// Spans of one request, and how long the first of them waits for others.
const BATCH_MAX: usize = 512;
const BATCH_WITHIN: Duration = Duration::from_secs(1);
/// What a request may take, and how often one is sent that the collector did not take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// What the last spans of a node may take.
const LAST_WITHIN: Duration = Duration::from_secs(2);
const TRIES: u32 = 3;
/// Most of an answer that is read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Most of what it says that is told.
const REASON_CHARS_MAX: usize = 200;
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// Kinds and codes, as `trace.proto` numbers them.
const INTERNAL: i32 = 1;
const CLIENT: i32 = 3;
const ERROR: i32 = 2;
const SAMPLED: u32 = 1;

/// Whoever sends spans.
#[derive(Debug)]
pub(crate) struct Exporter {
    ended: mpsc::Receiver<Ended>,
    client: reqwest::Client,
    endpoint: Url,
    resource: Resource,
    /// Whether it was told that the collector does not take spans.
    told: bool,
}

impl Exporter {
    pub(super) fn new(
        plan: &TracePlan,
        node: &str,
        ended: mpsc::Receiver<Ended>,
    ) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .http1_only()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .timeout(ANSWER_WITHIN)
            .build()?;
        let attributes = [
            ("service.name", "tollgate"),
            ("service.version", env!("CARGO_PKG_VERSION")),
            ("service.instance.id", node),
        ];
        let attributes = attributes
            .into_iter()
            .map(|(key, text)| said(key, &Fact::Text(text.to_owned())))
            .collect();
        let (endpoint, resource) = (plan.endpoint.clone(), Resource { attributes });
        Ok(Self { ended, client, endpoint, resource, told: false })
    }

    /// Sends as long as the node works.
    pub(crate) fn start(self) -> Exporting {
        let (end, ended) = oneshot::channel();
        Exporting { end, task: actix_rt::spawn(self.run(ended)) }
    }

    async fn run(mut self, ended: oneshot::Receiver<()>) {
        let mut ended = std::pin::pin!(ended);
        let mut is_last = false;
        while !is_last {
            let mut batch = Vec::new();
            tokio::select! {
                _ = &mut ended => is_last = true,
                first = self.ended.recv() => batch.extend(first),
            }
            if is_last {
                self.ended.close();
            }
            let until = Instant::now() + BATCH_WITHIN;
            loop {
                if batch.len() >= BATCH_MAX {
                    self.send(std::mem::take(&mut batch)).await;
                }
                let next = tokio::select! {
                    next = self.ended.recv() => next,
                    _ = &mut ended, if !is_last => {
                        is_last = true;
                        self.ended.close();
                        continue;
                    }
                    () = sleep_until(until), if !is_last => None,
                };
                let Some(next) = next else { break };
                batch.push(next);
            }
            if !batch.is_empty() {
                self.send(batch).await;
            }
        }
    }

    async fn send(&mut self, batch: Vec<Ended>) {
        let count = batch.len() as u64;
        let request = ExportTraceServiceRequest {
            resource_spans: vec![ResourceSpans {
                resource: Some(self.resource.clone()),
                scope_spans: vec![ScopeSpans {
                    scope: Some(Scope {
                        name: "tollgate".into(),
                        version: env!("CARGO_PKG_VERSION").into(),
                    }),
                    spans: batch.into_iter().map(span).collect(),
                }],
            }],
        };
        let body = request.encode_to_vec();
        let mut reason = String::new();
        for tried in 0..TRIES {
            if tried > 0 {
                sleep(AGAIN_AFTER * 2_u32.pow(tried - 1)).await;
            }
            let asking = self.client.post(self.endpoint.clone());
            let asking = asking.header(CONTENT_TYPE, "application/x-protobuf").body(body.clone());
            let status = match asking.send().await {
                Ok(answer) if answer.status().is_success() => {
                    let (rejected, why) = rejected(answer).await;
                    let rejected = rejected.min(count);
                    telemetry::spans_sent(count - rejected);
                    if rejected == 0 {
                        if std::mem::take(&mut self.told) {
                            telemetry::traces_taken();
                        }
                        return;
                    }
                    telemetry::spans_dropped().increment(rejected);
                    if !std::mem::replace(&mut self.told, true) {
                        telemetry::traces_unsent(&format!("the collector took not all: {why}"));
                    }
                    return;
                }
                Ok(answer) => {
                    reason = format!("the collector answered {}", answer.status());
                    Some(answer.status().as_u16())
                }
                Err(error) => {
                    // Of the endpoint only what the configuration says of it.
                    reason = error.without_url().to_string();
                    None
                }
            };
            // As OTLP has it, any other is for good.
            if status.is_some_and(|status| ![429, 502, 503, 504].contains(&status)) {
                break;
            }
        }
        telemetry::spans_dropped().increment(count);
        if !std::mem::replace(&mut self.told, true) {
            telemetry::traces_unsent(&reason);
        }
    }
}

/// How many spans the collector did not take of a request that it took, and what it says of it
/// (<https://opentelemetry.io/docs/specs/otlp/#partial-success-1>).
async fn rejected(mut answer: reqwest::Response) -> (u64, String) {
    let mut body = Vec::new();
    while let Ok(Some(piece)) = answer.chunk().await {
        if body.len() + piece.len() > ANSWER_BYTES_MAX {
            return (0, String::new());
        }
        body.extend_from_slice(&piece);
    }
    let told = ExportTraceServiceResponse::decode(&*body).unwrap_or_default();
    let partial = told.partial_success.unwrap_or_default();
    let why = partial.error_message.chars().take(REASON_CHARS_MAX).collect();
    (u64::try_from(partial.rejected_spans).unwrap_or(0), why)
}

/// Spans on their way while the node works.
#[derive(Debug)]
pub(crate) struct Exporting {
    end: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Exporting {
    /// Sends what has ended by now; what takes too long is left.
    pub(crate) async fn end(mut self) {
        let _heard = self.end.send(());
        if timeout(LAST_WITHIN, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

fn said(key: &str, fact: &Fact) -> KeyValue {
    let value = match fact {
        Fact::Text(text) => Value::Text(text.clone()),
        Fact::Number(number) => Value::Number(*number),
    };
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
}

fn span(ended: Ended) -> Span {
    let nanos = |moment: jiff::Timestamp| u64::try_from(moment.as_nanosecond()).unwrap_or(0);
    Span {
        trace_id: ended.trace.to_vec(),
        span_id: ended.span.to_vec(),
        parent_span_id: ended.parent.map(Vec::from).unwrap_or_default(),
        name: ended.name.to_owned(),
        kind: if ended.client { CLIENT } else { INTERNAL },
        start_time_unix_nano: nanos(ended.from),
        end_time_unix_nano: nanos(ended.to),
        attributes: ended.facts.iter().map(|(key, fact)| said(key, fact)).collect(),
        status: ended.failed.map(|message| Status { message, code: ERROR }),
        flags: SAMPLED,
    }
}

#[cfg(test)]
mod tests {
    use super::super::otlp::PartialSuccess;
    use super::*;

    #[test]
    fn what_a_collector_took_in_part_is_read_from_its_answer() {
        actix_rt::System::new().block_on(async {
            let answer = |body: Vec<u8>| reqwest::Response::from(http::Response::new(body));
            assert_eq!(rejected(answer(Vec::new())).await, (0, String::new()));
            let partial = PartialSuccess { rejected_spans: 7, error_message: "too old".repeat(99) };
            let told = ExportTraceServiceResponse { partial_success: Some(partial) };
            let (count, why) = rejected(answer(told.encode_to_vec())).await;
            assert_eq!((count, why.len()), (7, REASON_CHARS_MAX));
            assert_eq!(rejected(answer(b"no protobuf".to_vec())).await.0, 0);
            assert_eq!(rejected(answer(vec![0; ANSWER_BYTES_MAX + 1])).await.0, 0);
        });
    }
}
