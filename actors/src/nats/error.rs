//! What a NATS server refuses, as people need to read it.

use async_nats::jetstream;
use async_nats::jetstream::ErrorCode;

use crate::codes::Code;

/// Why NATS cannot be used as it is.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{code}: {what}; {hint}")]
pub struct NatsError {
    /// Which page explains it.
    pub code: Code,
    /// What went wrong, where.
    pub what: String,
    /// What to do.
    pub hint: String,
}

impl NatsError {
    pub(super) fn new(code: Code, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { code, what: what.into(), hint: hint.into() }
    }
}

/// A refusal of JetStream in one word, for those who act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// No room: disk, memory, or a limit of the account or the stream.
    Full,
    /// JetStream is not there.
    Absent,
    /// The servers that share JetStream have no leader now.
    Leaderless,
    /// The stream is not there.
    NoStream,
    /// Something else.
    Other,
}

/// What kind of refusal a server's error is.
pub(crate) fn refused(error: &jetstream::Error) -> Refused {
    match error.error_code() {
        ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
        | ErrorCode::INSUFFICIENT_RESOURCES
        | ErrorCode::STORAGE_RESOURCES_EXCEEDED
        | ErrorCode::MEMORY_RESOURCES_EXCEEDED
        | ErrorCode::STREAM_STORE_FAILED
        | ErrorCode::STREAM_LIMITS
        | ErrorCode::NO_LIMITS
        | ErrorCode::STREAM_MAX_STREAM_BYTES_EXCEEDED
        | ErrorCode::MAXIMUM_STREAMS_LIMIT => Refused::Full,
        ErrorCode::JETSTREAM_NOT_ENABLED
        | ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT
        | ErrorCode::NO_ACCOUNT => Refused::Absent,
        ErrorCode::CLUSTER_NOT_AVAILABLE => Refused::Leaderless,
        ErrorCode::STREAM_NOT_FOUND => Refused::NoStream,
        _ => Refused::Other,
    }
}

/// What a server said about a stream, with what to do.
pub(super) fn of_stream(stream: &str, doing: &str, error: &jetstream::Error) -> NatsError {
    let what = format!("the server refused to {doing} `{stream}`: {error}");
    match refused(error) {
        Refused::Full => NatsError::new(
            Code::NatsFull,
            what,
            "give JetStream more room (max_file, the account's limits) or delete what nobody needs",
        ),
        Refused::Absent => no_jetstream(&error.to_string()),
        Refused::Leaderless => leaderless(&error.to_string()),
        Refused::NoStream => missing(stream),
        Refused::Other => NatsError::new(
            Code::StreamDiffers,
            what,
            "see the server's log; a stream of this name that others made must go first",
        ),
    }
}

pub(super) fn missing(stream: &str) -> NatsError {
    NatsError::new(
        Code::StreamMissing,
        format!("the stream `{stream}` is not there"),
        "run `tollgate setup`",
    )
}

/// JetStream does not answer, though its server does.
pub(super) fn leaderless(said: &str) -> NatsError {
    NatsError::new(
        Code::NatsUnreachable,
        format!("JetStream does not answer, its servers may be electing a leader: {said}"),
        "see whether enough of the servers are up (`nats server check jetstream`)",
    )
}

/// What the server said of the account's JetStream.
pub(super) fn of_account(error: &jetstream::Error) -> NatsError {
    match refused(error) {
        Refused::Leaderless => leaderless(&error.to_string()),
        _ => no_jetstream(&error.to_string()),
    }
}

pub(super) fn no_jetstream(said: &str) -> NatsError {
    NatsError::new(
        Code::NoJetStream,
        format!("the server has no JetStream for this account: {said}"),
        "start nats-server with `-js` or a `jetstream {}` block, and enable it for the account",
    )
}
