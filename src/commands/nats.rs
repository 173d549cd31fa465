//! Commands that ask NATS something and end: a connection, and what is on the other side of it.

use anyhow::Result;
use tollgate_actors::nats::{Bus, NatsError};
use tollgate_actors::plan::Plan;

/// The error as it is told: the code first, then what and what to do.
pub(crate) fn told(error: NatsError) -> anyhow::Error {
    error.into()
}

/// Connects, or says why not.
///
/// # Errors
/// NATS cannot be used.
pub(crate) async fn connect(plan: &Plan, what: &str) -> Result<Bus> {
    tollgate_actors::install_tls();
    Bus::connect(&plan.nats, &format!("tollgate {what}"), false).await.map_err(told)
}

/// Does something, or says which right it lacks: the server tells that apart from the answer, which never comes.
///
/// # Errors
/// As what is done, or the missing right.
pub(crate) async fn with_rights<T>(bus: &Bus, doing: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        biased;
        denied = bus.until_denied() => Err(told(denied)),
        done = doing => done,
    }
}
