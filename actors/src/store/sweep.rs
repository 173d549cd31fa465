//! Cleaning up after killed processes, at the start and then rarely.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;

use super::{Cleaned, SinkError, Store};
use crate::fresh;
use crate::plan::{Plan, StoreTarget};
use crate::telemetry;

/// Between two sweeps of a node that goes on for long.
const EVERY: Duration = Duration::from_secs(6 * 3600);
/// A staging file that nobody has written to for so long belongs to nobody.
const FILES_OLDER: Duration = Duration::from_secs(3600);
/// An upload to a bucket is known by its beginning only, and lasts as long as a provider takes for a body:
/// one that is older than a day is taken for dead. One that lives all the same fails, and its fetch is
/// tried again.
const UPLOADS_OLDER: Duration = Duration::from_secs(24 * 3600);

/// Files bear the time of the kernel's last tick: one written now may seem so much older.
const TICK_MAX: Duration = Duration::from_millis(20);

/// Sweeps for ever. Dropping the future is safe at any moment. What was begun after this call is left alone: it
/// is to come before the node puts anything.
pub fn keep_clean(store: Store, plan: &Plan) -> impl Future<Output = ()> + use<> {
    // With the state folder among the objects, its lock says that nobody else puts any there; and this node
    // has not begun to.
    let alone = matches!(&plan.store.target, StoreTarget::File(root) if *root == plan.data);
    let older = match plan.store.target {
        StoreTarget::Bucket(_) => UPLOADS_OLDER,
        StoreTarget::File(_) | StoreTarget::Memory => FILES_OLDER,
    };
    let mut before = now() - if alone { TICK_MAX } else { older };
    async move {
        loop {
            let Cleaned { removed, trouble, .. } = store.clean_leftovers(before).await;
            if removed > 0 {
                telemetry::leftovers_removed(removed);
            }
            if let Some(reason) = trouble {
                telemetry::leftovers_unseen(&reason);
            }
            let swept = match Timestamp::try_from(now()) {
                Ok(wall) => fresh::sweep(&store, wall).await,
                Err(_) => Ok(0),
            };
            if let Err(error) = swept {
                let reason = match &error {
                    SinkError::Store { source, .. } => format!("{error}: {source}"),
                    other => other.to_string(),
                };
                telemetry::fresh_unswept(&reason);
            }
            tokio::time::sleep(EVERY).await;
            before = now() - older;
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "compared with the times of others")]
fn now() -> SystemTime {
    SystemTime::now()
}
