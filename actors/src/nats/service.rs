//! Every node as a service of NATS: what `nats micro` and clients in any language find and ask.
//!
//! The protocol is ADR-32 (<https://github.com/nats-io/nats-architecture-and-design/blob/main/adr/ADR-32.md>):
//! each node answers `$SRV.PING`, `$SRV.INFO` and `$SRV.STATS`, and nine endpoints below `PREFIX.service`. All nodes
//! answer `status`, `account`, `accounts`, `overview`, `doctor` and `log`, each for itself. The others are of what all nodes share, so that one of them answers.
//!
//! A question is a JSON object, empty for all defaults. What cannot be answered has the headers
//! `Nats-Service-Error-Code` and `Nats-Service-Error`, which begins with our code.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::RequestErrorKind;
use async_nats::client::Request as Asking;
use async_nats::service::endpoint::Endpoint as Listening;
use async_nats::service::error::Error as Refusal;
use async_nats::service::{NATS_SERVICE_ERROR, Request as Asked, Service, ServiceExt};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use jiff::{SignedDuration, Timestamp};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::timeout;

use super::ask::{HEADROOM, Who, fitting};
use super::error::NatsError;
use super::{Bus, holds};
use crate::clock::Clock;
use crate::codes::Code;
use crate::control::{Answer, Desk, Request};
use crate::holds::{OperatorHold, Scope};
use crate::levels::{Filter, Wish};
use crate::plan::Plan;
use crate::view::{AccountsQuestion, Sort};

/// How long a node works on one question, and how long whoever asks waits: longer.
const ANSWER_WITHIN: Duration = Duration::from_secs(8);
const WAIT: Duration = Duration::from_secs(10);
/// Accounts and letters in one answer, unless told otherwise.
const ROWS: usize = 100;
/// Seconds that `doctor` looks at, unless told otherwise.
const WINDOW_S: u64 = 30;
/// Longest text of an error in its header, in bytes.
const ERROR_BYTES_MAX: usize = 1024;
/// As HTTP has them: the question is wrong, and it cannot be answered now.
const WRONG: usize = 400;
const UNABLE: usize = 503;

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// What waits at each node: [`StatusQuestion`], answered by a [`NodeAnswer`](super::ask::NodeAnswer).
    Status,
    /// One account: [`AccountQuestion`], answered by a [`NodeAnswer`](super::ask::NodeAnswer) of every node; of one that
    /// does not know it with nothing.
    Account,
    /// A page of each node's accounts: [`AccountsQuestion`], answered by a [`NodeAnswer`](super::ask::NodeAnswer).
    Accounts,
    /// What each node's accounts come to: an empty question, answered by a [`NodeAnswer`](super::ask::NodeAnswer).
    Overview,
    /// Holds a scope, or tells all holds: [`PauseQuestion`], answered by [`Paused`].
    Pause,
    /// Ends holds: [`ResumeQuestion`], answered by [`Resumed`].
    Resume,
    /// Dead letters: [`DeadQuestion`], answered by a [`NodeAnswer`](super::ask::NodeAnswer).
    Dead,
    /// What each node logs: [`LogQuestion`], answered by a [`NodeAnswer`](super::ask::NodeAnswer).
    Log,
    /// What holds each node back: [`DoctorQuestion`], answered by a [`NodeAnswer`](super::ask::NodeAnswer).
    Doctor,
}

impl Endpoint {
    const ALL: [Self; 9] = [
        Self::Status,
        Self::Account,
        Self::Accounts,
        Self::Overview,
        Self::Pause,
        Self::Resume,
        Self::Dead,
        Self::Log,
        Self::Doctor,
    ];

    /// Whether every node answers it, each for itself.
    pub fn is_each_ones(self) -> bool {
        !matches!(self, Self::Pause | Self::Resume | Self::Dead)
    }

    /// Its name, the last token of its subject.
    pub fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Account => "account",
            Self::Accounts => "accounts",
            Self::Overview => "overview",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Dead => "dead",
            Self::Log => "log",
            Self::Doctor => "doctor",
        }
    }

    /// Where it is asked.
    pub fn subject(self, bus: &Bus) -> String {
        bus.names().subject(&format!("service.{}", self.name()))
    }
}

/// What waits, and why.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StatusQuestion {
    /// Only this platform.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Only this account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Most accounts told one by one. Default 100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub most: Option<usize>,
}

/// Which account.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountQuestion {
    /// Its platform.
    pub platform: String,
    /// Whom that counts.
    pub account: String,
}

/// What all accounts come to.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OverviewQuestion {}

/// What holds nodes back.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DoctorQuestion {
    /// Over so many seconds until now. Default 30, at most 60.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window_s: Option<u64>,
}

/// A hold to be set; with neither `of` nor `key` all holds are told.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PauseQuestion {
    /// `PLATFORM[/ACCOUNT[/API]]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// The same as [`Scope::key`] has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Why, for those who wonder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How long, such as `90m`. None: until it is resumed.
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    pub within: Option<String>,
}

/// A hold.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Held {
    /// What it is of.
    pub of: String,
    /// The same as [`Scope::key`] has it.
    pub key: String,
    /// The hold.
    #[serde(flatten)]
    pub hold: OperatorHold,
}

/// The holds that were asked for, or the one that was set.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Paused {
    /// By what they are of.
    pub held: Vec<Held>,
}

/// Holds to be ended; with neither `of` nor `key` all.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ResumeQuestion {
    /// `PLATFORM[/ACCOUNT[/API]]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// The same as [`Scope::key`] has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// What became of holds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Resumed {
    /// What goes on.
    pub ended: Vec<String>,
    /// What is wider or narrower than what was asked for, and still held.
    pub still: Vec<String>,
}

/// Dead letters to be listed, or one to be taken out.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeadQuestion {
    /// Only those with higher numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// Most of them. Default 100; fewer where a message cannot hold so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub most: Option<usize>,
    /// Collects the fetch of this letter again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay: Option<u64>,
    /// Forgets this letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drop: Option<u64>,
}

/// What nodes are to log; with neither `level` nor `reset` they only say what they do.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogQuestion {
    /// Only the node of this name; others do not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The filter, such as `info,tollgate::fetch=debug`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<String>,
    /// How long, such as `10m`. None: until it is reset, or the process ends.
    #[serde(rename = "for", skip_serializing_if = "Option::is_none")]
    pub within: Option<String>,
    /// What the command line or the configuration says counts again.
    #[serde(skip_serializing_if = "is_false")]
    pub reset: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // the signature serde's `skip_serializing_if` asks for
fn is_false(is: &bool) -> bool {
    !*is
}

impl LogQuestion {
    /// What is wished.
    ///
    /// # Errors
    /// It is not clear; the error is a sentence.
    pub fn wish(&self) -> Result<Option<Wish>, String> {
        match (&self.level, self.reset, &self.within) {
            (None, false, None) => Ok(None),
            (None, true, None) => Ok(Some(Wish::Reset)),
            (Some(level), false, within) => {
                Filter::parse(level)?;
                let now = Timestamp::UNIX_EPOCH;
                let until = until(now, within.as_deref())?;
                let for_ms = until.map(|until| until.duration_since(now).as_millis());
                let for_ms = for_ms.map(|ms| u64::try_from(ms).unwrap_or(u64::MAX));
                Ok(Some(Wish::Set { level: level.clone(), for_ms }))
            }
            (Some(_), true, _) => Err("`level` and `reset` at once".into()),
            (None, _, Some(_)) => Err("`for` goes with `level`".into()),
        }
    }
}

/// What a node is asked from.
struct Counter {
    bus: Bus,
    who: Who,
    desk: Desk,
    clock: Clock,
}

/// Answers for as long as it is polled: one question of each endpoint at a time.
///
/// # Errors
/// The service cannot be started, or its subscriptions ended: the connection is closed.
pub async fn serve(bus: Bus, who: Who, desk: Desk) -> Result<(), async_nats::Error> {
    let about = json!({ "node": who.node, "session": who.session });
    let metadata = HashMap::from([
        ("node".to_owned(), who.node.clone()),
        ("session".to_owned(), who.session.clone()),
    ]);
    let service = bus
        .client()
        .service_builder()
        .description("collects data from rate-limited APIs")
        .metadata(metadata)
        .stats_handler(move |_, _| about.clone())
        .start(bus.names().prefix(), env!("CARGO_PKG_VERSION"))
        .await?;
    let service = StopOnDrop(Some(service));
    let mut listening = Vec::new();
    for endpoint in Endpoint::ALL {
        let Some(service) = &service.0 else { break };
        let builder = service.endpoint_builder().name(endpoint.name());
        // A group of its own makes every node answer; of one group one does.
        let builder =
            if endpoint.is_each_ones() { builder.queue_group(&who.session) } else { builder };
        listening.push((endpoint, builder.add(endpoint.subject(&bus)).await?));
    }
    let counter = Counter { bus, who, desk, clock: Clock::new() };
    let all = listening.into_iter().map(|(endpoint, heard)| counter.answer_all(endpoint, heard));
    futures_util::future::join_all(all).await;
    Err("the subscriptions of the service ended".into())
}

/// Otherwise its tasks go on answering for a node that is not there any more.
struct StopOnDrop(Option<Service>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        if let Some(service) = self.0.take() {
            // It has nothing to wait for.
            let _stopped = service.stop().now_or_never();
        }
    }
}

impl Counter {
    async fn answer_all(&self, endpoint: Endpoint, mut heard: Listening) {
        while let Some(asked) = heard.next().await {
            if !self.is_meant(endpoint, &asked) {
                continue;
            }
            let answer = timeout(ANSWER_WITHIN, self.answer(endpoint, &asked)).await;
            let answer = answer.unwrap_or_else(|_| {
                let (code, within) = (Code::QueueUnavailable, ANSWER_WITHIN.as_secs());
                Err(unable(format!("{code}: the streams have not answered for {within} s")))
            });
            // Whoever asked hears nothing if NATS is away now, and asks again.
            let _sent = asked.respond(answer).await;
        }
    }

    /// Whether the question is not another node's. One that is not understood is everybody's.
    fn is_meant(&self, endpoint: Endpoint, asked: &Asked) -> bool {
        endpoint != Endpoint::Log
            || read::<LogQuestion>(&asked.message.payload)
                .ok()
                .and_then(|question| question.node)
                .is_none_or(|node| node == self.who.node)
    }

    async fn answer(&self, endpoint: Endpoint, asked: &Asked) -> Result<Bytes, Refusal> {
        let payload = &asked.message.payload;
        match endpoint {
            Endpoint::Status => {
                let StatusQuestion { platform, account, most } = read(payload)?;
                let most = most.unwrap_or(ROWS);
                self.ask_desk(&Request::Status { platform, account, most }).await
            }
            Endpoint::Account => {
                let AccountQuestion { platform, account } = read(payload)?;
                self.ask_desk(&Request::Account { platform, account }).await
            }
            Endpoint::Accounts => {
                let question: AccountsQuestion = read(payload)?;
                self.ask_desk_by(&Request::Accounts(question.clone()), question.sort).await
            }
            Endpoint::Overview => {
                let OverviewQuestion {} = read(payload)?;
                self.ask_desk(&Request::Overview).await
            }
            Endpoint::Doctor => {
                let DoctorQuestion { window_s } = read(payload)?;
                let window_s = window_s.unwrap_or(WINDOW_S);
                self.ask_desk(&Request::Doctor { window_s }).await
            }
            Endpoint::Dead => self.ask_desk(&dead(&read(payload)?)?).await,
            Endpoint::Pause => to_text(&self.pause(read(payload)?).await?),
            Endpoint::Resume => to_text(&self.resume(read(payload)?).await?),
            Endpoint::Log => {
                let wish = read::<LogQuestion>(payload)?.wish().map_err(wrong)?;
                self.ask_desk(&Request::LogLevel { wish }).await
            }
        }
    }

    async fn ask_desk(&self, request: &Request) -> Result<Bytes, Refusal> {
        self.ask_desk_by(request, Sort::default()).await
    }

    /// `sort`: how the accounts are that the answer may have.
    async fn ask_desk_by(&self, request: &Request, sort: Sort) -> Result<Bytes, Refusal> {
        let request = serde_json::to_vec(request).unwrap_or_default();
        match self.desk.answer(&request).await {
            Answer::Failed { code, reason } if code.is_empty() => Err(wrong(reason)),
            Answer::Failed { code, reason } => Err(unable(format!("{code}: {reason}"))),
            answer => {
                let most = self.bus.client().max_payload().saturating_sub(HEADROOM);
                let text = fitting(self.who.answer(answer), sort, most);
                let too_large = || unable("the answer does not fit into a message".into());
                if text.len() <= most { Ok(text) } else { Err(too_large()) }
            }
        }
    }

    async fn pause(&self, question: PauseQuestion) -> Result<Paused, Refusal> {
        let Some(scope) = self.scope(question.of.as_deref(), question.key.as_deref())? else {
            return told(&self.bus).await.map_err(|error| unable(error.to_string()));
        };
        let since = self.clock.wall();
        let until = until(since, question.within.as_deref()).map_err(wrong)?;
        let hold = OperatorHold { reason: question.reason, since, until };
        let put = holds::put(&self.bus, &scope, &hold).await;
        put.map_err(|error| unable(error.to_string()))?;
        Ok(Paused { held: vec![held(&scope, hold)] })
    }

    async fn resume(&self, question: ResumeQuestion) -> Result<Resumed, Refusal> {
        let scope = self.scope(question.of.as_deref(), question.key.as_deref())?;
        let resumed = resume(&self.bus, scope.as_ref()).await;
        resumed.map_err(|error| unable(error.to_string()))
    }

    fn scope(&self, of: Option<&str>, key: Option<&str>) -> Result<Option<Scope>, Refusal> {
        let plan = self.desk.plan.get();
        let scope = match (of, key) {
            (None, None) => return Ok(None),
            (_, Some(key)) => Scope::of_key(key),
            (Some(of), None) => scope(&plan, of),
        };
        let scope = scope.map_err(wrong)?;
        if !plan.platforms.contains_key(&scope.platform) {
            return Err(wrong(format!("the configuration has no platform `{}`", scope.platform)));
        }
        Ok(Some(scope))
    }
}

/// Reads `PLATFORM[/ACCOUNT[/API]]` as a configuration means it.
///
/// # Errors
/// A part is no name; the error is a sentence.
pub fn scope(plan: &Plan, of: &str) -> Result<Scope, String> {
    Scope::parse(of, |platform, api| {
        plan.platforms.get(platform).is_some_and(|platform| platform.api(api).is_some())
    })
}

/// When a hold ends that begins at `since`.
///
/// # Errors
/// The text is no duration, or none to come; the error is a sentence.
pub fn until(since: Timestamp, within: Option<&str>) -> Result<Option<Timestamp>, String> {
    let Some(text) = within else { return Ok(None) };
    let within = text.parse::<SignedDuration>();
    let within = within
        .map_err(|error| format!("`{text}` is no duration ({error}); such as 90m or 2h30m"))?;
    if within <= SignedDuration::ZERO {
        return Err(format!("`{text}` is no time to come; such as 90m or 2h30m"));
    }
    since.checked_add(within).map(Some).map_err(|_| format!("`{text}` is too far off"))
}

fn held(scope: &Scope, hold: OperatorHold) -> Held {
    Held { of: scope.to_string(), key: scope.key(), hold }
}

/// All holds.
///
/// # Errors
/// As [`holds::list`].
pub async fn told(bus: &Bus) -> Result<Paused, NatsError> {
    let mut all: Vec<_> = holds::list(bus).await?.into_iter().collect();
    all.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(Paused { held: all.into_iter().map(|(scope, hold)| held(&scope, hold)).collect() })
}

/// Ends the hold of a scope, or all of them.
///
/// # Errors
/// As [`holds::remove`].
pub async fn resume(bus: &Bus, wanted: Option<&Scope>) -> Result<Resumed, NatsError> {
    let all = holds::list(bus).await?;
    let ending: Vec<&Scope> = wanted.map_or_else(|| all.keys().collect(), |scope| vec![scope]);
    let mut resumed = Resumed::default();
    for scope in ending {
        if holds::remove(bus, scope).await? {
            resumed.ended.push(scope.to_string());
        }
    }
    if let Some(wanted) = wanted {
        let others = all.keys().filter(|scope| *scope != wanted && overlap(scope, wanted));
        resumed.still = others.map(Scope::to_string).collect();
    }
    resumed.ended.sort();
    resumed.still.sort();
    Ok(resumed)
}

fn overlap(one: &Scope, other: &Scope) -> bool {
    fn fits<T: PartialEq>(one: Option<&T>, other: Option<&T>) -> bool {
        one.is_none() || other.is_none() || one == other
    }
    one.platform == other.platform
        && fits(one.account.as_ref(), other.account.as_ref())
        && fits(one.api.as_ref(), other.api.as_ref())
}

fn dead(question: &DeadQuestion) -> Result<Request, Refusal> {
    let DeadQuestion { after, most, replay, drop } = *question;
    match (replay, drop) {
        (None, None) => Ok(Request::Dead { after, most: most.unwrap_or(ROWS) }),
        (Some(seq), None) => Ok(Request::Revive { seq, replay: true }),
        (None, Some(seq)) => Ok(Request::Revive { seq, replay: false }),
        (Some(_), Some(_)) => Err(wrong("`replay` and `drop` at once".into())),
    }
}

fn read<T: DeserializeOwned + Default>(payload: &[u8]) -> Result<T, Refusal> {
    if payload.is_empty() {
        return Ok(T::default());
    }
    // A list would do for an object whose keys may all be left out.
    if payload.trim_ascii_start().first() != Some(&b'{') {
        return Err(wrong("not such a question: no JSON object".into()));
    }
    serde_json::from_slice(payload).map_err(|error| wrong(format!("not such a question: {error}")))
}

fn to_text(answer: &impl Serialize) -> Result<Bytes, Refusal> {
    let text = serde_json::to_vec(answer).map_err(|error| unable(error.to_string()))?;
    Ok(text.into())
}

fn wrong(reason: String) -> Refusal {
    refusal(WRONG, &reason)
}

fn unable(reason: String) -> Refusal {
    refusal(UNABLE, &reason)
}

/// A header is one line.
fn refusal(code: usize, reason: &str) -> Refusal {
    let mut status: String =
        reason.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    let mut end = status.len().min(ERROR_BYTES_MAX);
    while !status.is_char_boundary(end) {
        end -= 1;
    }
    status.truncate(end);
    Refusal { status, code }
}

/// What became of a question to whichever node takes it.
#[derive(Debug)]
pub enum Heard<T> {
    /// Its answer.
    Answered(T),
    /// A node says why not.
    Refused(String),
    /// No node listens.
    NoNode,
    /// None answered in time; it may have acted.
    Silent,
}

/// Asks one node.
pub async fn ask_one<T: DeserializeOwned>(
    bus: &Bus,
    endpoint: Endpoint,
    question: &impl Serialize,
) -> Heard<T> {
    let payload = serde_json::to_vec(question).unwrap_or_default();
    let asking = Asking::new().payload(payload.into()).timeout(Some(WAIT));
    let answer = match bus.client().send_request(endpoint.subject(bus), asking).await {
        Ok(answer) => answer,
        Err(error) if error.kind() == RequestErrorKind::NoResponders => return Heard::NoNode,
        Err(_) => return Heard::Silent,
    };
    let refused = answer.headers.as_ref().and_then(|headers| headers.get(NATS_SERVICE_ERROR));
    if let Some(reason) = refused {
        return Heard::Refused(reason.to_string());
    }
    match serde_json::from_slice(&answer.payload) {
        Ok(answer) => Heard::Answered(answer),
        Err(error) => Heard::Refused(format!(
            "the node's answer is not understood, is it of another version? {error}"
        )),
    }
}
