//! Asking nodes over NATS what the control socket of a folder answers too.
//!
//! One subject, on which every node listens; an answer names its node. Whoever asks waits until as many have
//! answered as are known to live, and no longer than a stated time.

use std::time::Duration;

use async_nats::{Message, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout, timeout_at};

use super::Bus;
use crate::control::{Answer, Desk, Request, Status};

/// How long all nodes together may take to answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(3);
/// How long one node works on one question.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// An answer leaves this much of the server's `max_payload` free.
const HEADROOM: usize = 16 * 1024;
/// Nodes whose answers are taken at most.
const NODES_MAX: usize = 1024;

/// What one node answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeAnswer {
    /// Its name.
    pub node: String,
    /// What it says.
    pub answer: Answer,
}

/// Answers questions for as long as it is polled: one at a time.
///
/// # Errors
/// The subscription was refused: the connection is closed.
pub async fn serve(bus: Bus, node: String, desk: Desk) -> Result<(), async_nats::SubscribeError> {
    let mut questions = bus.client().subscribe(bus.names().subject("ask")).await?;
    while let Some(Message { payload, reply, .. }) = questions.next().await {
        let Some(reply) = reply else { continue };
        let Ok(answer) = timeout(ANSWER_WITHIN, desk.answer(&payload)).await else { continue };
        let most = bus.client().server_info().max_payload.saturating_sub(HEADROOM);
        let text = fitting(NodeAnswer { node: node.clone(), answer }, most);
        // Whoever asked hears nothing if NATS is away now, and asks again.
        let _sent = bus.client().publish(reply, text).await;
    }
    Ok(())
}

/// The answer as text; with fewer accounts told one by one where it would not fit into a message.
fn fitting(mut answer: NodeAnswer, most: usize) -> Bytes {
    loop {
        let text = serde_json::to_vec(&answer).unwrap_or_default();
        match &mut answer.answer {
            Answer::Status(status) if text.len() > most && !status.accounts.is_empty() => {
                let half = status.accounts.len() / 2;
                status.accounts.truncate(half);
            }
            _ => return text.into(),
        }
    }
}

/// Asks all nodes. `expected` are known to live; their number of answers ends the wait.
pub async fn ask(bus: &Bus, request: &Request, expected: usize) -> Vec<NodeAnswer> {
    let inbox = bus.client().new_inbox();
    let Ok(mut answers) = bus.client().subscribe(inbox.clone()).await else { return Vec::new() };
    let question = serde_json::to_vec(request).unwrap_or_default();
    let subject = bus.names().subject("ask");
    if bus.client().publish_with_reply(subject, inbox, question.into()).await.is_err() {
        return Vec::new();
    }
    collect(&mut answers, expected).await
}

async fn collect(answers: &mut Subscriber, expected: usize) -> Vec<NodeAnswer> {
    let until = Instant::now() + ANSWERS_WITHIN;
    let mut all: Vec<NodeAnswer> = Vec::new();
    while all.len() < expected.min(NODES_MAX) {
        let Ok(Some(message)) = timeout_at(until, answers.next()).await else { break };
        // No node listens: the server says so at once.
        if message.status.is_some() {
            break;
        }
        // Of another version, perhaps: it is left out.
        all.extend(serde_json::from_slice::<NodeAnswer>(&message.payload));
    }
    all
}

/// What all nodes together say of what waits; nothing if none answered.
pub fn together(answers: Vec<NodeAnswer>, most: usize) -> Option<Status> {
    let mut all: Option<Status> = None;
    for NodeAnswer { node, answer } in answers {
        let Answer::Status(status) = answer else { continue };
        let sum = all.get_or_insert_default();
        sum.running = true;
        sum.nodes.push(node);
        sum.waiting += status.waiting;
        sum.in_flight += status.in_flight;
        // One place for all nodes.
        sum.postponed = sum.postponed.max(status.postponed);
        sum.partitions.extend(status.partitions);
        sum.accounts.extend(status.accounts);
    }
    if let Some(sum) = &mut all {
        sum.accounts.sort_by_key(|look| std::cmp::Reverse(look.waiting));
        sum.accounts.truncate(most);
    }
    all
}
