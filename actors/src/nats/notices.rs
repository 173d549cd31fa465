//! Notices as messages of NATS, on `PREFIX.notice.KIND.PLATFORM.ACCOUNT`, `_` for what one is not about.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::context::AccountErrorKind;
use tokio::time::{Instant, sleep, timeout};

use super::Bus;
use crate::ids::Account;
use crate::notify::{End, Outgoing};

/// How long the server may take to show that it has a notice; the next one waits meanwhile.
const TAKEN_WITHIN: Duration = Duration::from_secs(2);
/// What the server refuses goes by another way through the client than what it answers, and may come so much later.
const REFUSED_WITHIN: Duration = Duration::from_millis(20);

/// Publishes notices for as long as it is polled. There is no stream: whoever listens hears them, and while NATS is
/// away, or where the right is missing, they are lost on this way, and counted.
pub async fn publish(bus: Bus, mut end: End) {
    while let Some(outgoing) = end.queue.recv().await {
        if !bus.link().borrow().up {
            end.lost(&outgoing, "NATS is away");
            continue;
        }
        match timeout(TAKEN_WITHIN, taken(&bus, &outgoing)).await {
            Ok(Ok(())) => end.delivered(),
            Ok(Err(reason)) => end.lost(&outgoing, &reason),
            Err(_) => end.lost(&outgoing, UNANSWERED),
        }
    }
}

const UNANSWERED: &str = "the server did not answer within 2 s";

/// Publishes one, and waits until the server has it or has refused it.
async fn taken(bus: &Bus, outgoing: &Outgoing) -> Result<(), String> {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", outgoing.notice.id.as_str());
    headers.insert("Content-Type", "application/json");
    let (subject, json, began) = (subject(bus, outgoing), outgoing.json.clone(), Instant::now());
    let published = bus.client().publish_with_headers(subject.clone(), headers, json).await;
    published.map_err(|error| error.to_string())?;
    // Nothing answers to a publish. But the server takes what comes on a connection in its order: when it has answered
    // a question that was put later it has the notice, and has said so if it refused it.
    if let Err(error) = bus.js().query_account().await
        && error.kind() == AccountErrorKind::TimedOut
    {
        return Err(UNANSWERED.to_owned());
    }
    sleep(REFUSED_WITHIN).await;
    bus.refused_publish(&subject, began).map_or(Ok(()), Err)
}

fn subject(bus: &Bus, outgoing: &Outgoing) -> String {
    let notice = &outgoing.notice;
    let platform = notice.platform.as_deref().unwrap_or("_");
    let account = notice.account.as_deref().and_then(|name| Account::new(name).ok());
    let account = account.map_or_else(|| "_".to_owned(), |account| account.encoded());
    bus.names().subject(&format!("notice.{}.{platform}.{account}", outgoing.kind.as_str()))
}

#[cfg(test)]
mod tests;
