//! Posts notices: one task for each webhook, one notice after the other, in order.
//!
//! What is not taken is tried again, with longer and longer pauses, for an hour after it was made; then it is lost, counted
//! and told of. Nobody waits for it.

use std::sync::Arc;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT};
use secrecy::ExposeSecret;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

use super::sign::signature;
use super::{End, Outgoing};
use crate::clock::Clock;
use crate::plan::WebhookPlan;

/// Pauses between two tries: the first and the longest.
const AGAIN_FIRST: Duration = Duration::from_secs(1);
const AGAIN_MAX: Duration = Duration::from_secs(60);
/// How long after it was made a notice is tried.
pub(super) const TRIED_FOR: Duration = Duration::from_secs(3600);
/// What the last notices of a node may take.
const LAST_WITHIN: Duration = Duration::from_secs(2);

/// Whoever posts to one webhook.
#[derive(Debug)]
pub(crate) struct Poster {
    plan: WebhookPlan,
    client: reqwest::Client,
    end: End,
    clock: Clock,
}

/// How a try went.
enum Tried {
    Taken,
    /// Tried again, not before so long where the receiver said so.
    Again(String, Option<Duration>),
    /// It will never be taken.
    Refused(String),
}

impl Poster {
    pub(crate) fn new(plan: WebhookPlan, end: End, clock: &Clock) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder()
            .http1_only()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .timeout(plan.timeout)
            .build()?;
        Ok(Self { plan, client, end, clock: clock.clone() })
    }

    /// Posts as long as the node works.
    pub(crate) fn start(self) -> Posting {
        let (stop, stopped) = oneshot::channel();
        Posting { stop, task: actix_rt::spawn(self.run(stopped)) }
    }

    async fn run(mut self, stopped: oneshot::Receiver<()>) {
        // What is posted at the moment stays here when that is broken off.
        let mut in_hand = None;
        tokio::select! {
            () = self.post_all(&mut in_hand) => return,
            _ = stopped => {}
        }
        self.last_tries(in_hand).await;
    }

    /// Until there can be no more notices.
    async fn post_all(&mut self, in_hand: &mut Option<Arc<Outgoing>>) {
        while let Some(outgoing) = self.end.queue.recv().await {
            self.deliver(in_hand.insert(outgoing)).await;
            *in_hand = None;
        }
    }

    /// Tries until it is taken or lost.
    async fn deliver(&self, outgoing: &Outgoing) {
        let mut pause = AGAIN_FIRST;
        loop {
            let (reason, not_before) = match self.post(outgoing).await {
                Tried::Taken => return self.end.delivered(),
                Tried::Refused(reason) => return self.end.lost(outgoing, &reason),
                Tried::Again(reason, not_before) => (reason, not_before),
            };
            let jitter = pause.mul_f64(fastrand::f64() / 4.0);
            let wait = not_before.unwrap_or_default().clamp(pause + jitter, AGAIN_MAX * 5 / 4);
            if Instant::now() + wait > outgoing.made + TRIED_FOR {
                return self.end.lost(outgoing, &reason);
            }
            self.end.fails(&reason);
            pause = (pause * 2).min(AGAIN_MAX);
            sleep(wait).await;
        }
    }

    /// The node ends: one more try for each of those that wait, as long as there is time. What is not taken then is lost.
    async fn last_tries(mut self, in_hand: Option<Arc<Outgoing>>) {
        self.end.queue.close();
        let until = Instant::now() + LAST_WITHIN;
        let mut next = in_hand;
        if next.is_none() {
            next = self.end.queue.recv().await;
        }
        while let Some(outgoing) = next {
            let tried = if Instant::now() < until {
                timeout_at(until, self.post(&outgoing)).await.ok()
            } else {
                None
            };
            match tried {
                Some(Tried::Taken) => self.end.delivered(),
                Some(Tried::Again(reason, _) | Tried::Refused(reason)) => {
                    self.end.lost(&outgoing, &reason);
                }
                None => self.end.lost(&outgoing, "the node ended before it was taken"),
            }
            next = self.end.queue.recv().await;
        }
    }

    async fn post(&self, outgoing: &Outgoing) -> Tried {
        let Some(headers) = self.headers(outgoing) else {
            return Tried::Refused("its headers cannot be written".into());
        };
        let asking = self.client.post(self.plan.url.clone()).headers(headers);
        let answer = match asking.body(outgoing.json.clone()).send().await {
            Ok(answer) => answer,
            // Of the URL nothing: it may hold a secret.
            Err(error) => {
                let error = with_causes(&error.without_url());
                return Tried::Again(format!("no answer: {error}"), None);
            }
        };
        // Nobody reads its body.
        let status = answer.status();
        let reason = format!("the receiver answered {}", status.as_u16());
        if status.is_success() {
            return Tried::Taken;
        }
        let busy = [
            StatusCode::REQUEST_TIMEOUT,
            StatusCode::CONFLICT,
            StatusCode::TOO_EARLY,
            StatusCode::TOO_MANY_REQUESTS,
        ];
        if status.is_server_error() || busy.contains(&status) {
            let told = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
            let seconds = told.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
            return Tried::Again(reason, seconds);
        }
        // A redirect is not followed: what it names was not declared.
        Tried::Refused(reason)
    }

    fn headers(&self, outgoing: &Outgoing) -> Option<HeaderMap> {
        let mut headers = HeaderMap::new();
        let agent = concat!("tollgate/", env!("CARGO_PKG_VERSION"));
        headers.insert(USER_AGENT, HeaderValue::from_static(agent));
        for (name, value) in &self.plan.headers {
            let mut value = HeaderValue::from_str(value.expose_secret()).ok()?;
            value.set_sensitive(true);
            headers.insert(name.clone(), value);
        }
        let (id, now) = (outgoing.notice.id.as_str(), self.clock.wall().as_second());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert("webhook-id", HeaderValue::from_str(id).ok()?);
        headers.insert("webhook-timestamp", HeaderValue::from(now));
        if let Some(key) = &self.plan.key {
            let signed = signature(key.expose_secret(), id, now, &outgoing.json);
            headers.insert("webhook-signature", HeaderValue::from_str(&signed).ok()?);
        }
        Some(headers)
    }
}

/// An error with its causes.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Posts on their way while the node works.
#[derive(Debug)]
pub(crate) struct Posting {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Posting {
    /// Posts what waits by now once more, within [`LAST_WITHIN`]; what is not taken by then is lost.
    pub(crate) async fn end(self) {
        let _heard = self.stop.send(());
        // A panic of it has been told as one; what waits was in its hands alone.
        let _ended = self.task.await;
    }
}
