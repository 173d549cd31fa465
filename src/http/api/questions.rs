//! What can be asked, and what operators may change.

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::Uri;
use axum::http::header::HeaderMap;
use axum::response::Response;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tollgate_actors::codes::Code;
use tollgate_actors::config::describe;
use tollgate_actors::control::{Answer, Request};
use tollgate_actors::doctor::{Evidence, Report, diagnose};
use tollgate_actors::levels::Told;
use tollgate_actors::nats::service::{Held, LogQuestion, Resumed};
use tollgate_actors::queue::Letter;

use super::super::Front;
use super::super::problem::Problem;
use super::counter::{Counter, another};
use super::{query, read_json};

/// Dead letters of a page: unless told otherwise, and at most.
const LETTERS: usize = 100;
const LETTERS_MAX: usize = 1_000;
/// Seconds that `doctor` looks at: unless told otherwise, and at most.
const WINDOW_S: u64 = 30;
const WINDOW_S_MAX: u64 = 60;
/// Longest reason of a hold, in characters.
const REASON_CHARS_MAX: usize = 1024;

type Answered = Result<Response, Problem>;

/// No parameters.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// What answers here.
#[derive(Serialize)]
struct About {
    version: &'static str,
    node: String,
    /// `serve`: for a whole cluster, with holds. `run`: for one folder.
    mode: &'static str,
    /// Somebody can log out.
    login: bool,
}

pub(super) async fn about(State(front): State<Front>, uri: Uri) -> Answered {
    let Nothing {} = query(&uri)?;
    let login = front.lock.asks_for_token();
    let telling = async |counter: &Counter| {
        Ok(About {
            version: env!("CARGO_PKG_VERSION"),
            node: counter.plan().node_name.clone(),
            mode: if counter.is_cluster() { "serve" } else { "run" },
            login,
        })
    };
    front.desks.answer(telling).await
}

/// Operators' holds.
#[derive(Serialize)]
struct Holding {
    held: Vec<Held>,
}

pub(super) async fn holds(State(front): State<Front>, uri: Uri) -> Answered {
    let Nothing {} = query(&uri)?;
    front.desks.answer(async |counter| Ok(Holding { held: counter.holds().await? })).await
}

/// What is to be held.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Pausing {
    platform: String,
    account: Option<String>,
    api: Option<String>,
    reason: Option<String>,
    r#for: Option<String>,
}

pub(super) async fn pause(
    State(front): State<Front>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Answered {
    let Nothing {} = query(&uri)?;
    let asked: Pausing = read_json(&headers, body).await?;
    let reason = asked.reason.filter(|reason| !reason.is_empty());
    if reason.as_ref().is_some_and(|reason| reason.chars().count() > REASON_CHARS_MAX) {
        let detail = format!("`reason` has at most {REASON_CHARS_MAX} characters");
        return Err(Problem::question(detail));
    }
    let pausing = async |counter: &Counter| {
        let scope =
            counter.scope(&asked.platform, asked.account.as_deref(), asked.api.as_deref())?;
        counter.pause(&scope, reason, asked.r#for.as_deref()).await
    };
    front.desks.answer(pausing).await
}

/// Whose hold is to end; of nobody in particular: all end.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resuming {
    platform: Option<String>,
    account: Option<String>,
    api: Option<String>,
    #[serde(default)]
    all: bool,
}

pub(super) async fn resume(
    State(front): State<Front>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Answered {
    let Nothing {} = query(&uri)?;
    let Resuming { platform, account, api, all } = read_json(&headers, body).await?;
    let resuming = async |counter: &Counter| -> Result<Resumed, Problem> {
        let scope = match (&platform, all) {
            (Some(platform), false) => {
                Some(counter.scope(platform, account.as_deref(), api.as_deref())?)
            }
            (None, true) if account.is_none() && api.is_none() => None,
            _ => return Err(Problem::question("either `platform`, perhaps with more, or `all`")),
        };
        counter.resume(scope.as_ref()).await
    };
    front.desks.answer(resuming).await
}

/// Which letters.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Letters {
    after: Option<u64>,
    most: Option<usize>,
}

/// A page of dead letters.
#[derive(Serialize)]
struct LettersPage {
    letters: Vec<Letter>,
    /// `after` of the next page; nothing after the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<u64>,
}

pub(super) async fn dead(State(front): State<Front>, uri: Uri) -> Answered {
    let Letters { after, most } = query(&uri)?;
    let most = most.unwrap_or(LETTERS);
    if !(1..=LETTERS_MAX).contains(&most) {
        return Err(Problem::question(format!("`most` is between 1 and {LETTERS_MAX}")));
    }
    let listing = async |counter: &Counter| {
        let mut letters = letters(counter, after, most + 1).await?;
        let more = letters.len() > most;
        letters.truncate(most);
        let next = letters.last().filter(|_| more).map(|letter| letter.number.0);
        Ok(LettersPage { letters, next })
    };
    front.desks.answer(listing).await
}

async fn letters(
    counter: &Counter,
    after: Option<u64>,
    most: usize,
) -> Result<Vec<Letter>, Problem> {
    match counter.queue(&Request::Dead { after, most }).await? {
        Answer::Dead(letters) => Ok(letters),
        _ => Err(another()),
    }
}

type Number = Result<Path<u64>, PathRejection>;

fn number(told: Number) -> Result<u64, Problem> {
    told.map(|Path(number)| number).map_err(|_| Problem::question("a letter's number is whole"))
}

fn no_letter(seq: u64) -> Problem {
    Problem::nothing(format!("there is no dead letter {seq}"))
}

pub(super) async fn letter(State(front): State<Front>, uri: Uri, told: Number) -> Answered {
    let (Nothing {}, seq) = (query(&uri)?, number(told)?);
    let showing = async |counter: &Counter| {
        let found = letters(counter, seq.checked_sub(1), 1).await?;
        found.into_iter().find(|letter| letter.number.0 == seq).ok_or_else(|| no_letter(seq))
    };
    front.desks.answer(showing).await
}

/// What became of a letter.
#[derive(Serialize)]
struct Revived {
    number: u64,
    /// `replayed` or `dropped`.
    done: &'static str,
}

pub(super) async fn replay(State(front): State<Front>, uri: Uri, told: Number) -> Answered {
    revive(&front, &uri, told, true).await
}

pub(super) async fn drop_letter(State(front): State<Front>, uri: Uri, told: Number) -> Answered {
    revive(&front, &uri, told, false).await
}

async fn revive(front: &Front, uri: &Uri, told: Number, replay: bool) -> Answered {
    let (Nothing {}, seq) = (query(uri)?, number(told)?);
    let reviving =
        async |counter: &Counter| match counter.queue(&Request::Revive { seq, replay }).await? {
            Answer::Revived(true) => {
                Ok(Revived { number: seq, done: if replay { "replayed" } else { "dropped" } })
            }
            Answer::Revived(false) => Err(no_letter(seq)),
            _ => Err(another()),
        };
    front.desks.answer(reviving).await
}

/// Over how long.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Window {
    window_s: Option<u64>,
}

/// What holds nodes back.
#[derive(Serialize)]
struct Diagnosis {
    #[serde(flatten)]
    report: Report,
    nodes: Vec<Evidence>,
    silent: Option<usize>,
}

pub(super) async fn doctor(State(front): State<Front>, uri: Uri) -> Answered {
    let window_s = query::<Window>(&uri)?.window_s.unwrap_or(WINDOW_S);
    if !(1..=WINDOW_S_MAX).contains(&window_s) {
        return Err(Problem::question(format!("`window_s` is between 1 and {WINDOW_S_MAX}")));
    }
    let examining = async |counter: &Counter| {
        let heard = counter.doctor(window_s).await?;
        let report = diagnose(&heard.answers);
        Ok(Diagnosis { report, nodes: heard.answers, silent: heard.silent })
    };
    front.desks.answer(examining).await
}

/// The configuration in force, as `tollgate check` shows it.
#[derive(Serialize)]
struct InForce {
    node: String,
    /// Names the limits.
    hash: String,
    text: String,
}

pub(super) async fn config(State(front): State<Front>, uri: Uri) -> Answered {
    let Nothing {} = query(&uri)?;
    let showing = async |counter: &Counter| {
        let plan = counter.plan();
        let (node, hash) = (plan.node_name.clone(), plan.hash.clone());
        Ok(InForce { node, hash, text: describe(&plan) })
    };
    front.desks.answer(showing).await
}

/// What nodes log.
#[derive(Serialize)]
struct Logged {
    nodes: Vec<LoggedBy>,
    silent: Option<usize>,
}

/// What one of them logs.
#[derive(Serialize)]
struct LoggedBy {
    node: String,
    level: String,
    by: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
}

pub(super) async fn log_level(State(front): State<Front>, uri: Uri) -> Answered {
    let Nothing {} = query(&uri)?;
    log(&front, &LogQuestion::default()).await
}

pub(super) async fn set_log_level(
    State(front): State<Front>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Answered {
    let Nothing {} = query(&uri)?;
    let asked: LogQuestion = read_json(&headers, body).await?;
    if asked.level.is_none() && !asked.reset {
        return Err(Problem::question("either `level` or `reset`"));
    }
    log(&front, &asked).await
}

async fn log(front: &Front, question: &LogQuestion) -> Answered {
    let asking = async |counter: &Counter| {
        let heard = counter.log(question).await?;
        let mut nodes = Vec::new();
        for one in heard.answers {
            match one.answer {
                Answer::LogLevel(Told { level, by, until }) => {
                    nodes.push(LoggedBy { node: one.node, level, by, until });
                }
                Answer::Failed { reason, .. } => return Err(Problem::question(reason)),
                _ => return Err(Problem::new(Code::NotAtWork, "a node of another version")),
            }
        }
        nodes.sort_by(|one, other| one.node.cmp(&other.node));
        Ok(Logged { nodes, silent: heard.silent })
    };
    front.desks.answer(asking).await
}
