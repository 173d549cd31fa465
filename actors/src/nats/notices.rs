//! Notices as messages of NATS, on `PREFIX.notice.KIND.PLATFORM.ACCOUNT`, `_` for what one is not about.

use async_nats::HeaderMap;

use super::Bus;
use crate::ids::Account;
use crate::notify::{End, Outgoing};

/// Publishes notices for as long as it is polled. There is no stream: whoever listens hears them, and while NATS is
/// away they are lost on this way, and counted.
pub async fn publish(bus: Bus, mut end: End) {
    while let Some(outgoing) = end.queue.recv().await {
        if !bus.link().borrow().up {
            end.lost(&outgoing, "NATS is away");
            continue;
        }
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", outgoing.notice.id.as_str());
        headers.insert("Content-Type", "application/json");
        let (subject, json) = (subject(&bus, &outgoing), outgoing.json.clone());
        match bus.client().publish_with_headers(subject, headers, json).await {
            Ok(()) => end.delivered(),
            Err(error) => end.lost(&outgoing, &error.to_string()),
        }
    }
}

fn subject(bus: &Bus, outgoing: &Outgoing) -> String {
    let notice = &outgoing.notice;
    let platform = notice.platform.as_deref().unwrap_or("_");
    let account = notice.account.as_deref().and_then(|name| Account::new(name).ok());
    let account = account.map_or_else(|| "_".to_owned(), |account| account.encoded());
    bus.names().subject(&format!("notice.{}.{platform}.{account}", outgoing.kind.as_str()))
}
