//! What a node's shards do about partitions.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::timeout;

use crate::cluster::{Hands, Parts};
use crate::health::SHARD_PATIENCE;
use crate::mailbox::Mailbox;
use crate::shard::{PartsChanged, Quiet, Shard};

/// The shards of a node.
pub(crate) struct ShardHands(pub(crate) Arc<[Mailbox<Shard>]>);

impl Hands for ShardHands {
    fn changed(&self, parts: Parts) {
        for shard in self.0.iter() {
            shard.do_send(PartsChanged(parts));
        }
    }

    fn quiet(&self, parts: Parts) -> BoxFuture<'static, Parts> {
        let shards = self.0.clone();
        async move {
            let asked: Vec<_> = shards.iter().map(|shard| shard.send(Quiet(parts))).collect();
            let mut quiet = parts;
            for asked in asked {
                quiet = match timeout(SHARD_PATIENCE, asked).await {
                    Ok(Ok(these)) => quiet & these,
                    // A dead shard has nothing in flight.
                    Ok(Err(_)) => quiet,
                    Err(_) => Parts::NONE,
                };
            }
            quiet
        }
        .boxed()
    }
}
