//! Against a real server: the promises of every queue, and those of this one.

use tempfile::TempDir;

use super::*;
use crate::nats::tests::ready;
use crate::queue::conformance::queue_conformance;
use crate::testkit::nats_server::NatsServer;

/// A queue and what must outlive it.
async fn open() -> (NatsQueue, (TempDir, NatsServer, Bus)) {
    let (folder, server, bus) = ready("").await;
    let queue = NatsQueue::open(&bus).await.unwrap();
    (queue, (folder, server, bus))
}

queue_conformance!(everywhere open().await);
