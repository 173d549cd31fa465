//! Operators' holds in their bucket: one key for each, followed by every node.

use std::collections::HashMap;
use std::time::Duration;

use async_nats::jetstream::kv::{Operation, Store};
use futures_util::{StreamExt, TryStreamExt};
use tokio::time::{sleep, timeout};

use super::Bus;
use super::error::{NatsError, missing};
use crate::codes::Code;
use crate::holds::{Holds, OperatorHold, Scope};
use crate::telemetry;

const BUCKET: &str = "HOLDS";
/// Most holds; one of a platform stands for all its accounts.
pub const HOLDS_MAX: usize = 10_000;
/// Reads of single holds on their way at once.
const READS: usize = 64;
/// The table is read anew this often, should a change not have been heard of.
const READ_EVERY: Duration = Duration::from_secs(30);
/// A change is heard of a moment before it can be read: read after this, and once more after the longer time.
const READ_AFTER: Duration = Duration::from_millis(10);
const READ_AGAIN: Duration = Duration::from_secs(1);

/// Holds a scope, or changes its hold; confirmed when it returns.
///
/// # Errors
/// NATS does not answer, the bucket is missing, or there are too many holds.
pub async fn put(bus: &Bus, scope: &Scope, hold: &OperatorHold) -> Result<(), NatsError> {
    put_one(bus, scope, hold).await.map_err(|error| bus.blame(error))
}

async fn put_one(bus: &Bus, scope: &Scope, hold: &OperatorHold) -> Result<(), NatsError> {
    let store = store(bus).await?;
    if list(bus).await?.len() >= HOLDS_MAX {
        return Err(NatsError::new(
            Code::TooMany,
            format!("there are {HOLDS_MAX} holds already"),
            "hold the whole platform, or resume what need not be held any more",
        ));
    }
    let value = serde_json::to_vec(hold).unwrap_or_default();
    let put = store.put(scope.key(), value.into()).await;
    put.map(|_| ()).map_err(|error| unanswered(&error))
}

/// Ends the hold of a scope; false if it had none of its own.
///
/// # Errors
/// NATS does not answer, or the bucket is missing.
pub async fn remove(bus: &Bus, scope: &Scope) -> Result<bool, NatsError> {
    remove_one(bus, scope).await.map_err(|error| bus.blame(error))
}

async fn remove_one(bus: &Bus, scope: &Scope) -> Result<bool, NatsError> {
    let store = store(bus).await?;
    let key = scope.key();
    if store.get(&key).await.map_err(|error| unanswered(&error))?.is_none() {
        return Ok(false);
    }
    store.purge(&key).await.map_err(|error| unanswered(&error))?;
    Ok(true)
}

/// All holds. A key or a value that cannot be read is told and left out.
///
/// # Errors
/// NATS does not answer, or the bucket is missing.
pub async fn list(bus: &Bus) -> Result<HashMap<Scope, OperatorHold>, NatsError> {
    read_all(bus).await.map_err(|error| bus.blame(error))
}

async fn read_all(bus: &Bus) -> Result<HashMap<Scope, OperatorHold>, NatsError> {
    let store = store(bus).await?;
    let prefix = bus.names().bucket_key(BUCKET, "");
    let stream = bus.js().get_stream_no_info(bus.names().bucket_stream(BUCKET)).await;
    let stream = stream.map_err(|error| unanswered(&error))?;
    let subjects = stream.info_with_subjects(format!("{prefix}>")).await;
    let subjects = subjects.map_err(|error| unanswered(&error))?;
    let keys: Vec<String> = subjects
        .map_ok(|(subject, _)| subject.strip_prefix(&prefix).map(str::to_owned))
        .try_filter_map(|key| std::future::ready(Ok(key)))
        .try_collect()
        .await
        .map_err(|error| unanswered(&error))?;
    let read = |key: String| {
        let store = store.clone();
        async move {
            let entry = store.entry(&key).await.map_err(|error| unanswered(&error))?;
            Ok(entry.filter(|entry| entry.operation == Operation::Put))
        }
    };
    let mut holds = HashMap::new();
    let mut entries = futures_util::stream::iter(keys).map(read).buffer_unordered(READS);
    while let Some(entry) = entries.next().await {
        let Some(entry) = entry? else { continue };
        let hold = serde_json::from_slice(&entry.value).map_err(|error| error.to_string());
        match Scope::of_key(&entry.key).and_then(|scope| Ok((scope, hold?))) {
            Ok((scope, hold)) => {
                holds.insert(scope, hold);
            }
            Err(reason) => telemetry::hold_unreadable(&entry.key, &reason),
        }
    }
    Ok(holds)
}

/// Keeps a table as the bucket is, for as long as it is polled; `changed` is told what came, went or
/// changed. While NATS is away the table stays as it was.
pub async fn follow(bus: Bus, holds: Holds, changed: impl Fn(&[Scope])) {
    let subject = bus.names().bucket_key(BUCKET, ">");
    let mut link = bus.link();
    loop {
        // Whoever sets a hold publishes it under this subject: no consumer is needed to hear of it.
        let Ok(mut heard) = bus.client().subscribe(subject.clone()).await else {
            sleep(READ_EVERY).await;
            continue;
        };
        let mut next = READ_EVERY;
        loop {
            // What is away is asked again when it is back, and every so often.
            if let Ok(table) = list(&bus).await {
                let scopes = holds.replace(table);
                if !scopes.is_empty() {
                    telemetry::holds_changed(scopes.len());
                    changed(&scopes);
                }
            }
            tokio::select! {
                message = heard.next() => {
                    if message.is_none() {
                        break;
                    }
                    next = READ_AGAIN;
                    sleep(READ_AFTER).await;
                    // All that came meanwhile is read together.
                    while let Ok(Some(_)) = timeout(Duration::ZERO, heard.next()).await {}
                }
                _ = link.changed() => next = READ_AGAIN,
                () = sleep(next) => next = READ_EVERY,
            }
        }
    }
}

async fn store(bus: &Bus) -> Result<Store, NatsError> {
    let bucket = bus.names().bucket(BUCKET);
    bus.js().get_key_value(&bucket).await.map_err(|error| {
        use async_nats::jetstream::context::KeyValueErrorKind as Kind;
        match error.kind() {
            Kind::GetBucket if !error.to_string().contains("timed out") => {
                missing(&bus.names().bucket_stream(BUCKET))
            }
            _ => unanswered(&error),
        }
    })
}

fn unanswered(error: &dyn std::error::Error) -> NatsError {
    NatsError::new(
        Code::NatsUnreachable,
        format!("the operators' holds cannot be reached: {error}"),
        "see whether nats-server is well, then try again",
    )
}
