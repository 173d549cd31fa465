//! Cleaning up after killed processes, at the start and then rarely.

use std::time::{Duration, SystemTime};

use super::{Cleaned, Store};
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

/// Sweeps for ever. Dropping the future is safe at any moment.
pub async fn keep_clean(store: Store, plan: &Plan) {
    // With the state folder among the objects, its lock says that nobody else puts any there; and this node
    // has not begun to.
    let alone = matches!(&plan.store.target, StoreTarget::File(root) if *root == plan.data);
    let older = match plan.store.target {
        StoreTarget::S3(_) => UPLOADS_OLDER,
        StoreTarget::File(_) | StoreTarget::Memory => FILES_OLDER,
    };
    let mut now_older = if alone { Duration::ZERO } else { older };
    loop {
        #[expect(clippy::disallowed_methods, reason = "compared with the times of others")]
        let now = SystemTime::now();
        let Cleaned { removed, trouble, .. } = store.clean_leftovers(now - now_older).await;
        if removed > 0 {
            telemetry::leftovers_removed(removed);
        }
        if let Some(reason) = trouble {
            telemetry::leftovers_unseen(&reason);
        }
        now_older = older;
        tokio::time::sleep(EVERY).await;
    }
}
