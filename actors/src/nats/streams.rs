//! What the streams and buckets must be like, and making them so.

use std::fmt;
use std::time::Duration;

use async_nats::jetstream::Error as Said;
use async_nats::jetstream::response::Response;
use async_nats::jetstream::stream::{
    Config, DiscardPolicy, Info, Republish, RetentionPolicy, StorageType, SubjectTransform,
};
use serde::Serialize;

use super::connect::{Bus, denied};
use super::error::{NatsError, Refused, missing, of_stream, refused};
use super::names::PARTITIONS;
use crate::codes::Code;
use crate::plan::NatsPlan;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// A repeated publish of the same id within this time stores nothing: about 0.5 kB of the server's memory
/// for each id.
const FETCH_DUPLICATES: Duration = Duration::from_secs(120);
/// The same for how fetches ended.
const ENDED_DUPLICATES: Duration = Duration::from_secs(600);
const DONE_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
const DEAD_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// A ledger record is of no use once its longest window is over; limits have windows of 31 days at most.
const LEDGER_KEPT: Duration = Duration::from_secs(62 * 24 * 3600);
/// The mark that a session has ended stays so long, for those who watch.
const MARKERS_KEPT: Duration = Duration::from_secs(5);
/// Consumers come and go with whoever reads DONE; the queue itself has none.
const CONSUMERS_MAX: i32 = 16;
const CONSUMERS_OF_ENDED_MAX: i32 = 256;

/// What became of one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// Its name.
    pub stream: String,
    /// What was done.
    pub change: Change,
}

/// What was done with a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It was not there.
    Created,
    /// It was otherwise: what, from, to.
    Updated(Vec<String>),
    /// It was as it must be.
    Kept,
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.change {
            Change::Created => write!(f, "{}: created", self.stream),
            Change::Updated(what) => write!(f, "{}: updated ({})", self.stream, what.join(", ")),
            Change::Kept => write!(f, "{}: as it should be", self.stream),
        }
    }
}

/// Makes the streams and buckets what they must be. With `change` false nothing is touched, and the first
/// that is missing or otherwise is an error.
///
/// Running it again is harmless, and so are two at once. No message is lost by it.
///
/// # Errors
/// The first stream that the server refuses, with what to do.
pub async fn setup(bus: &Bus, plan: &NatsPlan, change: bool) -> Result<Vec<Changed>, NatsError> {
    let mut all = Vec::new();
    for wanted in wanted(bus, plan) {
        let stream = wanted.name.clone();
        all.push(Changed { stream, change: one(bus, wanted, change).await? });
    }
    Ok(all)
}

async fn one(bus: &Bus, wanted: Config, may_change: bool) -> Result<Change, NatsError> {
    let name = wanted.name.clone();
    let found = match ask(bus, "INFO", &name, &serde_json::Value::Null).await? {
        Ok(info) => info.config,
        Err(said) if refused(&said) == Refused::NoStream => {
            if !may_change {
                return Err(missing(&name));
            }
            return match ask(bus, "CREATE", &name, &wanted).await? {
                Ok(_) => Ok(Change::Created),
                Err(said) => Err(of_stream(&name, "create", &said)),
            };
        }
        Err(said) => return Err(of_stream(&name, "show", &said)),
    };
    let differences = differences(&found, &wanted);
    if differences.is_empty() {
        return Ok(Change::Kept);
    }
    if !may_change {
        return Err(NatsError::new(
            Code::StreamDiffers,
            format!("the stream `{name}` is otherwise than needed: {}", differences.join(", ")),
            "run `tollgate setup`",
        ));
    }
    // What we have no opinion of stays as its operator wants it: placement, compression, metadata.
    let merged = merged(found, wanted);
    match ask(bus, "UPDATE", &name, &merged).await? {
        Ok(_) => Ok(Change::Updated(differences)),
        Err(said) => Err(of_stream(&name, "update", &said)),
    }
}

async fn ask(
    bus: &Bus,
    what: &str,
    stream: &str,
    payload: &impl Serialize,
) -> Result<Result<Info, Said>, NatsError> {
    match bus.js().request(format!("STREAM.{what}.{stream}"), payload).await {
        Ok(Response::Ok(info)) => Ok(Ok(info)),
        Ok(Response::Err { error }) => Ok(Err(error)),
        Err(error) => Err(unanswered(bus, stream, &error)),
    }
}

fn unanswered(bus: &Bus, stream: &str, error: &dyn std::error::Error) -> NatsError {
    match bus.said() {
        Some(said) => denied(&said),
        None => NatsError::new(
            Code::NatsUnreachable,
            format!("no answer about the stream `{stream}`: {error}"),
            "see whether nats-server is well (its log; `nats server check jetstream`)",
        ),
    }
}

/// All streams and buckets, as they must be.
fn wanted(bus: &Bus, plan: &NatsPlan) -> Vec<Config> {
    let names = bus.names();
    let prefix = names.prefix();
    let base = |name: &str, subjects: &str| Config {
        name: names.stream(name),
        subjects: vec![names.subject(subjects)],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        allow_direct: true,
        num_replicas: plan.replicas,
        max_bytes: -1,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_message_size: -1,
        max_consumers: CONSUMERS_MAX,
        duplicate_window: FETCH_DUPLICATES,
        ..Config::default()
    };
    let bucket = |name: &str, age: Duration| Config {
        name: names.bucket_stream(name),
        subjects: vec![names.bucket_key(name, ">")],
        max_messages_per_subject: 1,
        max_age: age,
        allow_rollup: true,
        deny_delete: true,
        max_consumers: CONSUMERS_OF_ENDED_MAX,
        ..base(name, "")
    };
    vec![
        Config {
            description: Some("fetches that wait".into()),
            max_bytes: plan.fetch_bytes_max.map_or(-1, u64::cast_signed),
            subject_transform: Some(SubjectTransform {
                source: format!("{prefix}.fetch.*.*.>"),
                destination: format!(
                    "{prefix}.q.{{{{partition({PARTITIONS},1,2)}}}}.{{{{wildcard(1)}}}}.{{{{wildcard(2)}}}}.>"
                ),
            }),
            republish: Some(Republish {
                source: format!("{prefix}.q.>"),
                destination: format!("{prefix}.wake.>"),
                headers_only: true,
            }),
            ..base("FETCH", "fetch.>")
        },
        Config {
            description: Some("the dated record of each account's permits".into()),
            max_messages_per_subject: 1,
            discard: DiscardPolicy::Old,
            max_age: LEDGER_KEPT,
            subject_transform: Some(SubjectTransform {
                source: format!("{prefix}.ledger.*.*"),
                destination: format!(
                    "{prefix}.l.{{{{partition({PARTITIONS},1,2)}}}}.{{{{wildcard(1)}}}}.{{{{wildcard(2)}}}}"
                ),
            }),
            ..base("LEDGER", "ledger.*.*")
        },
        Config {
            description: Some("fetches put aside until their not_before".into()),
            ..base("LATER", "later.>")
        },
        Config {
            description: Some("how far unfinished fetches have come".into()),
            max_messages_per_subject: 1,
            discard: DiscardPolicy::Old,
            // One that a crash left behind its fetch; those of use are replaced page by page.
            max_age: LEDGER_KEPT,
            ..base("PROGRESS", "progress.>")
        },
        Config {
            description: Some("fetches whose objects are stored".into()),
            discard: DiscardPolicy::Old,
            max_age: DONE_KEPT,
            duplicate_window: ENDED_DUPLICATES,
            max_consumers: CONSUMERS_OF_ENDED_MAX,
            ..base("DONE", "done.>")
        },
        Config {
            description: Some("fetches that were given up".into()),
            max_age: DEAD_KEPT,
            duplicate_window: ENDED_DUPLICATES,
            max_consumers: CONSUMERS_OF_ENDED_MAX,
            ..base("DEAD", "dead.>")
        },
        Config {
            description: Some("sessions of nodes, and what each owns".into()),
            allow_message_ttl: true,
            subject_delete_marker_ttl: Some(MARKERS_KEPT),
            ..bucket("OWN", Duration::ZERO)
        },
        Config {
            description: Some("holds of operators".into()),
            ..bucket("HOLDS", Duration::ZERO)
        },
        Config {
            description: Some("limits in force, by their hash".into()),
            ..bucket("CONF", 30 * DAY)
        },
        Config {
            description: Some("fetches that are collected once only".into()),
            ..bucket("ONCE", Duration::ZERO)
        },
        Config {
            description: Some("tokens that a provider gives once only".into()),
            // Nobody but nodes reads it, and only what is asked for by key.
            allow_direct: false,
            ..bucket("TOKENS", Duration::ZERO)
        },
    ]
}

/// Where a stream is otherwise than it must be. `max_age` and such are compared only where it matters to us.
fn differences(found: &Config, wanted: &Config) -> Vec<String> {
    let mut all = Vec::new();
    macro_rules! compare {
        ($($field:ident),*) => {$(
            if found.$field != wanted.$field {
                all.push(format!(
                    concat!(stringify!($field), " {:?} -> {:?}"), found.$field, wanted.$field
                ));
            }
        )*};
    }
    compare!(
        subjects,
        retention,
        storage,
        discard,
        allow_direct,
        num_replicas,
        max_bytes,
        max_messages_per_subject,
        max_age,
        max_consumers,
        duplicate_window,
        subject_transform,
        republish,
        allow_rollup,
        deny_delete,
        allow_message_ttl,
        subject_delete_marker_ttl
    );
    all
}

fn merged(found: Config, wanted: Config) -> Config {
    Config {
        placement: found.placement,
        compression: found.compression,
        metadata: found.metadata,
        consumer_limits: found.consumer_limits,
        max_message_size: found.max_message_size,
        max_messages: found.max_messages,
        ..wanted
    }
}
