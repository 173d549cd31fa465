//! Fetches for a platform or api that the configuration does not have: they wait for one that has it, or die.

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tollgate_protos::Dead;

use crate::codes::Code;
use crate::ids::LaneKey;
use crate::plan::Plan;
use crate::queue::{Ending, FIRST_MAX, QueueError, Queued};
use crate::recipe::{Content, Refusal, check_queued};
use crate::shard::context::Shared;
use crate::telemetry;

/// What becomes of fetches for a platform or api that the configuration does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unknown {
    /// They wait: the next run may know it.
    #[default]
    Wait,
    /// They become dead letters: nobody else would ever tell their publishers.
    Die,
}

/// Lanes that wait to be buried; what does not fit is told again by the next discovery.
pub(super) const LANES_MAX: usize = 1024;
/// Fetches of a lane buried at once.
const AT_ONCE: usize = 16;
/// Between two tries when the queue does not answer.
const AGAIN: Duration = Duration::from_secs(1);

/// Buries what waits in lanes that nobody serves, one lane after the other.
pub(super) async fn bury(shared: Shared, mut lanes: mpsc::Receiver<LaneKey>) {
    while let Some(lane) = lanes.recv().await {
        while let Err(error) = bury_lane(&shared, &lane).await {
            telemetry::queue_away(&lane.account, &error);
            sleep(AGAIN).await;
        }
    }
}

async fn bury_lane(shared: &Shared, lane: &LaneKey) -> Result<(), QueueError> {
    let mut after = None;
    loop {
        let rows = shared.queue.first(lane.clone(), after, FIRST_MAX).await?;
        let Some(last) = rows.last() else { return Ok(()) };
        after = Some(last.seq);
        stream::iter(rows)
            .map(|row| bury_one(shared, lane, row))
            .buffer_unordered(AT_ONCE)
            .try_for_each(async |()| Ok(()))
            .await?;
    }
}

async fn bury_one(shared: &Shared, lane: &LaneKey, row: Queued) -> Result<(), QueueError> {
    let (code, reason) = why(&shared.plan, lane);
    let dead = letter(shared, lane, &row, code, reason.clone());
    shared.queue.finish(lane.clone(), row.seq, Ending::Dead(Box::new(dead))).await?;
    telemetry::fetch_refused(&lane.subject(), code, &reason);
    shared.totals.dead();
    Ok(())
}

fn letter(shared: &Shared, lane: &LaneKey, row: &Queued, code: Code, reason: String) -> Dead {
    let content = Content::of(row.content_type.as_deref());
    let fetch = match check_queued(&shared.plan, lane, &content, &row.payload) {
        Ok(accepted) => Some(Box::new(accepted.fetch)),
        Err(refusal) => refusal.fetch,
    };
    let refusal = Refusal { code, reason, fetch };
    let source = Some(lane.subject());
    refusal.into_dead(row.origin.0, &row.payload, source, shared.clock.wall())
}

fn why(plan: &Plan, lane: &LaneKey) -> (Code, String) {
    let (platform, api) = (&lane.account.platform, &lane.api);
    if plan.platforms.contains_key(platform) {
        (Code::UnknownApi, format!("platform `{platform}` has no api `{api}`"))
    } else {
        (Code::UnknownPlatform, format!("there is no platform `{platform}`"))
    }
}
