//! Asking nodes over NATS what the control socket of a folder answers too.
//!
//! The endpoint `status` of each node's service, on which every node listens; an answer names its node. Whoever
//! asks waits until as many have answered as are known to live, and no longer than a stated time. Nodes without that
//! service, of an earlier version, listen on a subject of their own, on which they are asked when answers are missing.
//! A node that refuses has answered too, but what it would tell is missing.

use std::time::Duration;

use async_nats::{Message, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout, timeout_at};

use super::Bus;
use super::service::{DoctorQuestion, Endpoint, StatusQuestion};
use crate::control::{Answer, Desk, Request, Status};
use crate::view::list;
use crate::view::{Sort, later};

/// How long all nodes together may take to answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);
/// The same for what holds them back: a shard that does not turn is waited for.
const DOCTOR_WITHIN: Duration = Duration::from_secs(8);
/// How long one node works on one question.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// An answer leaves this much of the server's `max_payload` free.
pub(super) const HEADROOM: usize = 16 * 1024;
/// Older nodes are asked when the others have had so long.
const OLDER_AFTER: Duration = Duration::from_millis(500);
/// Nodes whose answers are taken at most.
const NODES_MAX: usize = 1024;

/// Which node it is.
#[derive(Debug, Clone)]
pub struct Who {
    /// Its name.
    pub node: String,
    /// Its session's number.
    pub session: String,
}

impl Who {
    pub(super) fn answer(&self, answer: Answer) -> NodeAnswer {
        NodeAnswer { node: self.node.clone(), session: Some(self.session.clone()), answer }
    }
}

/// What one node answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeAnswer {
    /// Its name.
    pub node: String,
    /// Its session's number; none of older nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// What it says.
    pub answer: Answer,
}

/// Answers the questions of older versions for as long as it is polled: one at a time.
///
/// # Errors
/// The subscription was refused: the connection is closed.
pub async fn serve(bus: Bus, who: Who, desk: Desk) -> Result<(), async_nats::Error> {
    let mut questions = bus.client().subscribe(bus.names().subject("ask")).await?;
    while let Some(Message { payload, reply, .. }) = questions.next().await {
        let Some(reply) = reply else { continue };
        let Ok(answer) = timeout(ANSWER_WITHIN, desk.answer(&payload)).await else { continue };
        let most = bus.client().server_info().max_payload.saturating_sub(HEADROOM);
        let text = fitting(who.answer(answer), Sort::default(), most);
        // Whoever asked hears nothing if NATS is away now, and asks again.
        let _sent = bus.client().publish(reply, text).await;
    }
    Ok(())
}

/// The answer as text; with fewer accounts or letters, one at least of these, where it would not fit into a message.
pub(super) fn fitting(mut answer: NodeAnswer, sort: Sort, most: usize) -> Bytes {
    loop {
        let text = serde_json::to_vec(&answer).unwrap_or_default();
        match &mut answer.answer {
            Answer::Status(status) if text.len() > most && !status.accounts.is_empty() => {
                let half = status.accounts.len() / 2;
                status.accounts.truncate(half);
            }
            Answer::Accounts(page) if text.len() > most && page.accounts.len() > 1 => {
                list::halve(page, sort);
            }
            Answer::Account(Some(view)) if text.len() > most && view.has_calls() => {
                view.leave_out_calls();
            }
            Answer::Dead(letters) if text.len() > most && letters.len() > 1 => {
                let half = letters.len() / 2;
                letters.truncate(half);
            }
            _ => return text.into(),
        }
    }
}

/// Asks an endpoint that every node answers for itself; `expected` answers end the wait.
pub async fn ask_each(
    bus: &Bus,
    endpoint: Endpoint,
    question: &impl Serialize,
    expected: usize,
) -> Vec<NodeAnswer> {
    ask_within(bus, endpoint, question, expected, ANSWERS_WITHIN).await
}

/// Asks all nodes. `expected` are known to live; their number of answers ends the wait.
pub async fn ask(bus: &Bus, question: &StatusQuestion, expected: usize) -> Vec<NodeAnswer> {
    let inbox = bus.client().new_inbox();
    let Ok(mut answers) = bus.client().subscribe(inbox.clone()).await else { return Vec::new() };
    let until = Instant::now() + ANSWERS_WITHIN;
    let mut all = Vec::new();
    let text = serde_json::to_vec(question).unwrap_or_default();
    let sent =
        bus.client().publish_with_reply(Endpoint::Status.subject(bus), inbox.clone(), text.into());
    if sent.await.is_err() {
        return all;
    }
    collect(&mut answers, &mut all, expected, Instant::now() + OLDER_AFTER).await;
    if all.len() >= expected {
        return all;
    }
    let StatusQuestion { platform, account, most } = question.clone();
    let request = Request::Status { platform, account, most: most.unwrap_or(0) };
    let text = serde_json::to_vec(&request).unwrap_or_default();
    let sent = bus.client().publish_with_reply(bus.names().subject("ask"), inbox, text.into());
    if sent.await.is_ok() {
        collect(&mut answers, &mut all, expected, until).await;
    }
    all
}

/// Asks an endpoint that every node of this version answers for itself, for as long as looking at a million accounts may
/// take; `expected` answers end the wait.
pub async fn ask_lookers(
    bus: &Bus,
    endpoint: Endpoint,
    question: &impl Serialize,
    expected: usize,
) -> Vec<NodeAnswer> {
    ask_within(bus, endpoint, question, expected, DOCTOR_WITHIN).await
}

async fn ask_within(
    bus: &Bus,
    endpoint: Endpoint,
    question: &impl Serialize,
    expected: usize,
    within: Duration,
) -> Vec<NodeAnswer> {
    let inbox = bus.client().new_inbox();
    let Ok(mut answers) = bus.client().subscribe(inbox.clone()).await else { return Vec::new() };
    let until = Instant::now() + within;
    let text = serde_json::to_vec(question).unwrap_or_default();
    let mut all = Vec::new();
    let sent = bus.client().publish_with_reply(endpoint.subject(bus), inbox, text.into());
    if sent.await.is_ok() {
        collect(&mut answers, &mut all, expected, until).await;
    }
    all
}

/// Asks all nodes what holds them back. As [`ask`], but for nodes of earlier versions, which do not know.
pub async fn ask_doctor(bus: &Bus, question: &DoctorQuestion, expected: usize) -> Vec<NodeAnswer> {
    ask_within(bus, Endpoint::Doctor, question, expected, DOCTOR_WITHIN).await
}

async fn collect(
    answers: &mut Subscriber,
    all: &mut Vec<NodeAnswer>,
    expected: usize,
    until: Instant,
) {
    // Refusals, and what is not understood.
    let mut useless = 0;
    while all.len() + useless < expected.min(NODES_MAX) {
        let Ok(Some(message)) = timeout_at(until, answers.next()).await else { return };
        // No node listens: the server says so at once.
        if message.status.is_some() {
            return;
        }
        // Of another version, perhaps: it is left out, and not waited for again.
        let Ok(answer) = serde_json::from_slice::<NodeAnswer>(&message.payload) else {
            useless += 1;
            continue;
        };
        // A node that was asked twice.
        let known = |one: &NodeAnswer| one.session.is_some() && one.session == answer.session;
        if !all.iter().any(known) {
            all.push(answer);
        }
    }
}

/// What all nodes together say of what waits; nothing if none answered.
pub fn together(answers: Vec<NodeAnswer>, most: usize) -> Option<Status> {
    let (mut all, mut untold): (Option<Status>, u64) = (None, 0);
    for NodeAnswer { node, answer, .. } in answers {
        let Answer::Status(status) = answer else { continue };
        let sum = all.get_or_insert_default();
        sum.running = true;
        sum.nodes.push(node);
        sum.waiting += status.waiting;
        sum.in_flight += status.in_flight;
        // One place for all nodes.
        sum.postponed = sum.postponed.max(status.postponed);
        sum.partitions.extend(status.partitions);
        sum.configs.extend(status.configs);
        let tells_eta = status.eta.is_some();
        sum.eta = later(sum.eta.take(), status.eta);
        match status.without_eta {
            Some(without_eta) => *sum.without_eta.get_or_insert_default() += without_eta,
            // A node of an earlier version, or asked of some accounts only: then nobody tells it.
            None => untold += if tells_eta { 0 } else { status.waiting },
        }
        sum.accounts.extend(status.accounts);
    }
    if let Some(sum) = &mut all {
        sum.without_eta = sum.without_eta.map(|told| told + untold);
        sum.accounts.sort_by_key(|look| std::cmp::Reverse(look.waiting));
        sum.accounts.truncate(most);
    }
    all
}
